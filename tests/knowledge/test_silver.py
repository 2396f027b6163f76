"""Silver passages, per rationale, and what is said of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import DataError
from limbeck.knowledge.bm25 import Index
from limbeck.knowledge.building import build
from limbeck.knowledge.quality import mean_over, overlap, quality
from limbeck.knowledge.search import Hit
from limbeck.knowledge.settings import IndexSettings
from limbeck.knowledge.silver import about_silver, asked, query_of, silver, with_answer
from limbeck.records import Problem, Rationale, Silver
from limbeck.sequences import Made
from limbeck.statistics import wilson
from tests.knowledge.corpora import write
from tests.test_data_path import peak

FACTS = {
    "owls": "Owls hunt at night and hear very well.",
    "lamps": "A lamp needs electric current.",
    "harbour": "The harbour of Bergen is free of ice in winter.",
    "bergen": "Bergen lies in Norway.",
}
PROBLEMS = [
    Problem(id="p1", question="Is Bergen warm?", answer="B", options=("yes", "an owl")),
    Problem(id="p2", question="What lights a room?", answer="lamp"),
]


def rationale(problem: str, index: int, reasoning: str) -> Rationale:
    completion = f"{reasoning} The answer is x."
    return Rationale(
        problem_id=problem,
        source="t",
        index=index,
        completion=completion,
        reasoning=reasoning,
        answer="x",
        correct=True,
    )


RATIONALES = [
    rationale("p1", 0, "Ice does not close its harbour in winter."),
    rationale("p2", 0, "Electric current is needed."),
    rationale("p1", 1, "It is in Norway."),
    rationale("p1", 2, "Zzz."),
]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    rows = [{"id": name, "text": text} for name, text in FACTS.items()]
    build([str(write(tmp_path / "c.jsonl", rows))], tmp_path / "i", IndexSettings())
    return Index(tmp_path / "i")


def test_each_rationale_has_its_own_passages(index: Index) -> None:
    found = list(silver(index, PROBLEMS, RATIONALES, k=1))
    assert [one.passages for one in found] == [("harbour",), ("lamps",), ("bergen",), ()]
    assert [(one.problem_id, one.index) for one in found] == [("p1", 0), ("p2", 0), ("p1", 1), ("p1", 2)]
    assert all(len(one.scores) == len(one.passages) for one in found)


def test_by_question_all_rationales_of_a_question_have_the_same(index: Index) -> None:
    """The question is searched with its options, as published."""
    found = list(silver(index, PROBLEMS, RATIONALES, k=4, query="question"))
    assert {frozenset(one.passages) for one in found if one.problem_id == "p1"} == {
        frozenset({"owls", "bergen", "harbour"})
    }
    assert found[1].passages == ()
    both = query_of(PROBLEMS[0], RATIONALES[0], "question+rationale")
    assert both == "Is Bergen warm? yes an owl Ice does not close its harbour in winter."


def test_the_gold_answer_takes_the_place_of_the_options() -> None:
    listed = "What measures mass? (A) a balance (B) a ruler"
    forms = (
        Problem(id="1", question="What measures mass?", options=("a balance.", "a ruler"), answer="A"),
        Problem(id="2", question=listed, options=("a balance", "a ruler"), answer="A"),
        Problem(id="3", question=listed, answer="A"),
    )
    assert {with_answer(one) for one in forms} == {"What measures mass? a balance"}
    dashed = Problem(id="6", question="Is it?\nOptions:\n- Yes\n- No", answer="Yes")
    assert with_answer(dashed) == "Is it?\nOptions: Yes" and "- No" in asked(dashed)
    assert with_answer(Problem(id="4", question="1 + 1?", answer="2")) == "1 + 1? 2"
    assert query_of(forms[0], RATIONALES[0], "question+answer") == "What measures mass? a balance"
    with pytest.raises(DataError, match="problem 5: has no gold answer"):
        with_answer(Problem(id="5", question="1 + 1?", answer=None))


def test_a_rationale_of_an_unknown_problem_is_refused(index: Index) -> None:
    with pytest.raises(DataError, match="problem p9: is not there, but t has a rationale of it"):
        list(silver(index, PROBLEMS, [rationale("p9", 0, "x")]))


def test_what_is_said_of_them(index: Index) -> None:
    found = list(silver(index, PROBLEMS, RATIONALES, k=2))
    others = list(silver(index, PROBLEMS, RATIONALES, k=2, query="question"))
    said = about_silver(found, others)
    assert (said["rationales"], said["without"], said["questions"], said["passages"]) == (4, 1, 2, 3)
    assert said["per_question"] == 1.5
    assert 0 <= said["with_others"] <= 1 and 0 <= said["between_rationales"] <= 1
    assert about_silver([])["per_question"] == 0


def test_what_was_found_is_held_for_so_many_queries_at_a_time(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(silver(index, PROBLEMS, RATIONALES, k=2))
    most = []

    class Long:
        """Ten long names for each query."""

        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            most.append(len(queries))
            return [[Hit(f"{query} {n} " * 20, 1.0) for n in range(k)] for query in queries]

    monkeypatch.setattr("limbeck.knowledge.silver.QUERIES", 3)
    assert list(silver(index, PROBLEMS, RATIONALES, k=2)) == whole
    engine: Any = Long()
    some = Made(range(2000), lambda number: rationale(f"p{1 + number % 2}", number, f"number {number}"))
    held = peak(lambda: sum(len(one.passages) for one in silver(engine, PROBLEMS, some, k=10)))
    assert max(most) == 3 and held < 2000 * 50


def test_what_is_said_holds_no_names() -> None:
    def found(number: int) -> Silver:
        names, scores = tuple(f"{n} " * 100 for n in range(number % 2, 3)), (1.0,) * (3 - number % 2)
        whose = {"problem_id": f"p{number // 2}", "source": "t", "index": number % 2}
        return Silver(**whose, query="rationale", passages=names, scores=scores)

    few, many = (Made(range(count), found) for count in (400, 1600))
    assert about_silver(few, few) == {
        "rationales": 400,
        "without": 0,
        "questions": 200,
        "passages": 3,
        "per_question": 3.0,
        "between_rationales": pytest.approx(2 / 3),
        "with_others": 1.0,
    }
    held, held_of_many = (peak(lambda some=some: about_silver(some, some)) for some in (few, many))
    assert held_of_many - held < 1200 * 100


def test_measures_of_retrieval() -> None:
    found = [["a", "b", "c"], ["x", "y"], []]
    relevant = [{"b", "z"}, {"x"}, {"q"}]
    said = quality(found, relevant, at=(1, 2, 5))
    assert [said.recall[k].value for k in (1, 2, 5)] == pytest.approx([1 / 3, 0.5, 0.5])
    assert [said.hit[k].value for k in (1, 2)] == pytest.approx([1 / 3, 2 / 3])
    assert said.mrr.value == pytest.approx((0.5 + 1) / 3)
    # Mean 0.5, deviation 0.5, n 3: 0.5 ± 4.3027 · 0.5 / √3.
    t = mean_over([0.5, 1, 0])
    assert t == pytest.approx((0.5, 0.5 - 1.24207, 0.5 + 1.24207), abs=1e-4) and said.mrr == (0.5, 0, 1)
    assert quality([["a"]], [{"a"}], at=(1,)).mrr == (1, None, None), "one query says nothing of others"
    assert quality([["a"]], [{"a"}], at=(1,)).hit[1] == (1, None, None)
    assert mean_over([]) == (0, None, None)


def test_intervals_of_hits_have_a_width_and_stay_within_0_and_1() -> None:
    """Wilson's, as of accuracies: Student's t of 3 of 3 has none, and of 1 of 3 it is 0 to 1."""
    for found in ("aaa", "axx", "xxx"):
        said = quality([[one] for one in found], [{"a"}] * 3, at=(1,))
        value, low, high = said.hit[1]
        assert (low, high) == wilson(found.count("a"), 3) and value == found.count("a") / 3
        assert 0 <= low <= value <= high <= 1 and low < high
        for _, first, last in (said.recall[1], said.mrr):
            assert (first is None) == (last is None) == (found != "axx")
    assert json.loads(json.dumps(said.json()))["hit@1"] == [0, *wilson(0, 3)]
    assert overlap([(["a", "b"], ["b"]), (["c"], ["c"]), ([], ["d"])]) == pytest.approx(0.75)


@pytest.mark.parametrize(
    "question",
    [
        "Who hunts at night?\nAnswer choices: (A) a lamp, (B) an owl.",
        "Who hunts at night? (A) a lamp (B) an owl",
        "Who hunts at night?\nA. a lamp\nB. an owl\n",
    ],
)
def test_a_question_searches_the_same_wherever_its_options_are(question: str) -> None:
    """`ask` is given one text, an exam the options too; a word that is there twice would count twice."""
    apart = Problem(id="p", question="Who hunts at night?", answer="B", options=("a lamp.", "an owl"))
    listed = Problem(id="p", question=question, answer="B", options=("a lamp", "an owl"))
    alone = Problem(id="p", question=question, answer="?")
    assert asked(apart) == asked(listed) == asked(alone) == "Who hunts at night? a lamp an owl"
    said = Problem(id="p", question="(A) Owls hunt. (B) Lamps hunt.", answer="A", options=("A", "B", "none"))
    assert asked(said) == "(A) Owls hunt. (B) Lamps hunt. A B none", "statements are no options"
