"""What a reranker learns from: candidates by rationale and by question, scored against the rationale."""

from collections import Counter

import pytest

from limbeck.errors import DataError
from limbeck.knowledge.bm25 import Index
from limbeck.knowledge.building import build
from limbeck.knowledge.candidates import Pool, draw, fewest, pools
from limbeck.knowledge.settings import IndexSettings, RankingSettings
from limbeck.records import Problem
from tests.knowledge.corpora import documents, write
from tests.knowledge.test_silver import rationale

PROBLEMS = [
    Problem(id="p1", question="Which owl crosses a river?", answer="B", options=("copper", "a lamp")),
    Problem(id="p2", question="Who paints the tower?", answer="x"),
]
RATIONALES = [
    rationale("p1", 0, "The willow hides a stone."),
    rationale("p2", 0, "A spider repairs the engine."),
    rationale("p1", 1, "The bridge holds an engine."),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("index")
    build([str(write(folder / "c.jsonl", documents(60)))], folder / "i", IndexSettings())
    return Index(folder / "i")


def test_a_pool_holds_both_searches_scored_for_the_rationale(index: Index) -> None:
    found = pools(index, PROBLEMS, RATIONALES, 6)
    assert [(one.problem_id, one.index) for one in found] == [("p1", 0), ("p2", 0), ("p1", 1)]
    first = found[0]
    text = "Which owl crosses a river? copper a lamp"
    assert first.question == text
    by_rationale = [hit.passage for hit in index.search(["The willow hides a stone."], 6)[0]]
    by_question = [hit.passage for hit in index.search([text], 6)[0]]
    assert list(first.passages[: first.by_rationale]) == by_rationale
    assert [first.passages[place] for place in first.by_question] == by_question
    assert len(set(first.passages)) == len(first.passages)
    assert list(first.scores) == index.scores(["The willow hides a stone."], [first.passages])[0]
    assert list(first.scores[: first.by_rationale]) == sorted(first.scores[: first.by_rationale])[::-1]


def test_a_rationale_about_nothing_is_refused(index: Index) -> None:
    with pytest.raises(DataError, match="problem p2: is not there, but t has a rationale of it"):
        pools(index, PROBLEMS[:1], RATIONALES, 4)


POOL = Pool(
    problem_id="p",
    source="t",
    index=0,
    question="?",
    passages=tuple("abcdefghij"),
    scores=tuple(range(10, 0, -1)),
    by_rationale=6,
    by_question=(9, 2, 8, 0, 7, 6),
)


def test_so_many_of_each_and_none_twice() -> None:
    settings = RankingSettings(top=6, from_rationale=3, from_question=2)
    for epoch in range(200):
        names, scores = draw(POOL, settings, 0, epoch)
        assert len(set(names)) == 5
        assert set(names[:3]) <= set("abcdef") and set(names[3:]) <= set("jciahg")
        assert scores == tuple(dict(zip(POOL.passages, POOL.scores, strict=True))[name] for name in names)


def test_draws_follow_from_seed_epoch_and_rationale_alone() -> None:
    settings = RankingSettings(top=6, from_rationale=3, from_question=2)
    assert draw(POOL, settings, 0, 1) == draw(POOL, settings, 0, 1)
    assert draw(POOL, settings, 0, 1) == (tuple("fadcg"), (5, 10, 7, 8, 4))  # on every machine
    others = [draw(POOL.model_copy(update={"index": place}), settings, 0, 1) for place in range(20)]
    assert len(set(others)) > 10
    assert len({draw(POOL, settings, seed, epoch) for seed in range(5) for epoch in range(5)}) > 15


def test_every_passage_has_its_turn() -> None:
    settings = RankingSettings(top=6, from_rationale=2, from_question=0)
    seen = Counter(name for epoch in range(600) for name in draw(POOL, settings, 0, epoch).passages)
    assert set(seen) == set("abcdef")
    assert all(150 < count < 250 for count in seen.values())  # 200 each, and their spread


@pytest.mark.parametrize(("rationale", "question"), [(4, 4), (0, 4), (4, 0), (1, 1), (2, 3)])
def test_the_fewest_that_an_epoch_draws(rationale: int, question: int) -> None:
    settings = RankingSettings(top=6, from_rationale=rationale, from_question=question)
    for by_rationale in range(4):
        for places in ((), (0,), (3,), (0, 3), (0, 1, 2), (2, 4, 5, 0)):
            about = {"by_rationale": by_rationale, "by_question": places}
            drawn = [
                len(draw(POOL.model_copy(update=about), settings, 0, epoch).passages) for epoch in range(50)
            ]
            assert fewest(POOL.model_copy(update=about), settings) == min(drawn), (about, drawn)


def test_a_short_pool_gives_what_it_has() -> None:
    few = POOL.model_copy(update={"passages": ("a", "b"), "scores": (2.0, 1.0), "by_rationale": 1})
    few = few.model_copy(update={"by_question": (0, 1)})
    assert draw(few, RankingSettings(), 0, 0) == (("a", "b"), (2.0, 1.0))
