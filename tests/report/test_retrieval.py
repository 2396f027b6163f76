"""How well passages were found, next to accuracy; and the page's browser of passages, escaped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck import sealed
from limbeck.errors import DamagedError
from limbeck.knowledge.quality import mean_over
from limbeck.records import Found, Passage, Problem, Rationale, Silver, write_jsonl
from limbeck.report import contestants, write_report
from limbeck.report.retrieval import retrieval_cells, retrieval_label, retrieval_rows

Make = Callable[..., Path]
NASTY = "</script><img src=x onerror=alert(1)> <!-- \u2028 \" ' {{ 7*7 }}"
FAR = [f"x{number}" for number in range(60)]
TEST = [f"sums-test-{number:04}" for number in range(4)]


def stage(folder: Path, mark: str, **inputs: str) -> None:
    """What `run_folder.Stage` leaves, as far as the report looks."""
    files = sealed.files(folder)
    state = {"state": "done", "fingerprint": mark, "id": mark, "inputs": inputs, "limbeck": "0", "name": ""}
    sealed.write(folder / "stage.json", {**state, "files": files, "sha256": sealed.sums(folder, files)})


def found(
    folder: Path, lists: dict[str, Sequence[str]], mark: str, file: str = "found.jsonl", **inputs: str
) -> None:
    def scores(names: Sequence[str]) -> tuple[float, ...]:
        return tuple(float(-place) for place in range(len(names)))

    some = [Found(problem_id=key, passages=tuple(ids), scores=scores(ids)) for key, ids in lists.items()]
    write_jsonl(folder / file, some)
    texts = [Passage(id=name, title=NASTY, text=f"about {name}") for name in ("s0", "x0", "x1")]
    write_jsonl(folder / "texts.jsonl", texts)
    stage(folder, mark, **inputs)


@pytest.fixture
def run(tmp_path: Path, run_folder: Make) -> Path:
    """Two students that read: by question, and reranked. Silver is s0, s1, s2, and for one question none."""
    made = run_folder(tmp_path / "run", {"kard": {0: [True, False, True, False]}, "ranked": {0: [True] * 4}})
    passages = made / "passages"
    by_question = [["s0"], [*FAR[:3], "s1"], FAR, FAR[:2]]
    ranked = [["s0"], ["s1", "x0"], [*FAR[:6], "s2"], FAR[:2]]
    found(passages / "test", dict(zip(TEST, by_question, strict=True)), "a")
    found(passages / "test-reranker", dict(zip(TEST, ranked, strict=True)), "b")
    found(passages / "test-silver", dict(zip(TEST, [["s0", "x0"], ["s1"], ["s2"], []], strict=True)), "c")
    asked = [{"problem_id": one, "index": 0, "text": f"reasoned {NASTY}"} for one in TEST]
    (passages / "asked-test").mkdir()
    text = "".join(json.dumps(one) + "\n" for one in asked)
    (passages / "asked-test/completions.jsonl").write_text(text)
    stage(passages / "asked-test", "d")
    for name, mark in (("kard", "a"), ("ranked", "b")):
        stage(made / "students" / name / "seed0/exam", f"exam of {name}", passages=mark)
    problems = [Problem(id=one, question=f"{one}? {NASTY}", answer="1") for one in TEST]
    write_jsonl(made / "problems/test.jsonl", problems)
    return made


def test_hits_are_counted_next_to_who_read_them(run: Path) -> None:
    question, reranker, silver = retrieval_rows(contestants([run]))
    assert [retrieval_label(row) for row in (question, reranker, silver)] == [
        "by question, test",
        "by question, reranked, test",
        "silver, test",
    ]
    assert (question["questions"], question["judged"]) == (4, 3), "without a silver passage nothing is known"
    assert [question[f"hit@{k}"][0] for k in (1, 5, 10)] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert [reranker[f"hit@{k}"][0] for k in (1, 5, 10)] == pytest.approx([2 / 3, 2 / 3, 1])
    assert question["mrr"] == pytest.approx([mean_over([1, 1 / 4, 0]).value, 0, 1])
    assert reranker["mrr"][0] == pytest.approx((1 + 1 + 1 / 7) / 3)
    assert question["recall@100"][0] == pytest.approx(2 / 3)
    assert question["read_by"] == [{"name": "kard", "accuracy": 0.5}]
    assert reranker["read_by"] == [{"name": "ranked", "accuracy": 1.0}] and silver["read_by"] == []
    assert silver["judged"] == 0 and silver["mrr"] is None, "it is what the others are held against"
    assert retrieval_cells(question)[0] == "33.3 [6.1, 79.2]"
    json.dumps([question, reranker, silver])


def test_it_is_in_the_table_the_json_and_the_page(run: Path, limbeck: Callable[..., Any]) -> None:
    shown = limbeck("compare", run)
    assert "by question, reranked, test" in shown.out and "ranked 100.0%" in shown.out, shown.err
    said = json.loads(limbeck("compare", run, "--json").out)
    assert [row["found_by"] for row in said["retrieval"]] == ["question", "reranker", "silver"]
    write_report([run], run / "r.html")
    page = (run / "r.html").read_text(encoding="utf-8")
    assert '<section id="passages">' in page and "MRR [95%]" in page
    parts = ("list", "search", "count", "page", "pages", "back", "next", "unfold", "who", "rank")
    assert all(f'id="found-{part}"' in page for part in parts)
    assert page.count("<img") == 0 and "{{" not in page.split("<script")[0]
    (browsed,) = json.loads(page.split('id="data">')[1].split("</script>")[0])["found"]
    assert browsed["counts"] == [["first", 1], ["2 to 5", 1], ["not found", 1], ["not known", 1]]
    problem, question, gold, rank, ways, rationale, answers = browsed["rows"][0]
    assert (problem, question, gold, rank) == (TEST[0], f"{TEST[0]}? {NASTY}", "1", "first")
    assert [way for way, _ in ways] == ["question", "reranker", "silver"]
    title = " ".join(NASTY.split())
    assert ways[2][1] == [["s0", 0.0, f"{title}: about s0", 1], ["x0", -1.0, f"{title}: about x0", 0]]
    assert rationale == ["teacher", f"reasoned {NASTY}"] and answers == [["kard", 1], ["ranked", 1]]


def test_training_questions_are_held_against_their_rationales(tmp_path: Path, run_folder: Make) -> None:
    run = run_folder(tmp_path / "run", {"kard": {0: [True, False]}})
    folder = run / "silver/rationale"
    said = [("p0", 0, ("s0", "x0")), ("p0", 1, ("x1",)), ("p1", 0, ()), ("p2", 0, ("x2",))]
    write_jsonl(
        folder / "silver.jsonl",
        [
            Silver(
                problem_id=name,
                source="t",
                index=index,
                query="rationale",
                passages=ids,
                scores=(1.0,) * len(ids),
            )
            for name, index, ids in said
        ],
    )
    found(folder, {"p0": ["x0", "x1"], "p1": ["x0"], "p2": ["x0"]}, "a", "asked.jsonl")
    about = {"source": "t", "reasoning": "r", "answer": "4", "how": None, "correct": True, "dropped": None}
    some = [
        Rationale(problem_id=name, index=index, completion=f"{name} {index}", **about)  # type: ignore[arg-type]
        for name, index, _ in said
    ]
    write_jsonl(run / "rationales/graded.jsonl", some)
    (row,) = retrieval_rows(contestants([run]))
    assert (row["split"], row["questions"], row["judged"]) == ("train", 3, 2)
    assert [row[f"hit@{k}"][0] for k in (1, 5)] == [0, 0.5] and row["mrr"][0] == 0.25
    assert row["recall@100"][0] == 0.25, "of p0 one of two"
    write_report([run], run / "r.html")
    page = (run / "r.html").read_text(encoding="utf-8")
    (browsed,) = json.loads(page.split('id="data">')[1].split("</script>")[0])["found"]
    assert browsed["name"] == "training rationales"
    ranks = [(one[0], one[3], one[5]) for one in browsed["rows"]]
    assert ranks == [
        ("p0", "not found", ["t, number 0", "p0 0"]),
        ("p0", "2 to 5", ["t, number 1", "p0 1"]),
        ("p1", "not known", ["t, number 0", "p1 0"]),
        ("p2", "not found", ["t, number 0", "p2 0"]),
    ]


def test_without_silver_nothing_is_claimed_and_a_changed_file_is_refused(run: Path) -> None:
    silver = run / "passages/test-silver"
    silver.rename(run / "passages/elsewhere")
    rows = retrieval_rows(contestants([run]))
    assert [row["mrr"] for row in rows] == [None, None] and rows[0]["read_by"]
    write_report([run], run / "r.html")
    assert "a student with `find: silver` makes them" in (run / "r.html").read_text(encoding="utf-8")
    with (run / "passages/test/found.jsonl").open("a") as stream:
        stream.write("\n")
    with pytest.raises(DamagedError):
        retrieval_rows(contestants([run]))


def test_silver_passages_of_another_index_are_held_against_nothing(run: Path) -> None:
    """A changed corpus leaves them where they were, if no student of the recipe reads them any more."""
    found(run / "passages/test-silver", {TEST[0]: ["s0"]}, "c", knowledge="a former index")
    found(run / "passages/test", {TEST[0]: ["s0"]}, "a", knowledge="this index")
    question, reranker, silver = retrieval_rows(contestants([run]))
    assert [row["judged"] for row in (question, reranker, silver)] == [0, 0, 0] and question["mrr"] is None
    assert question["read_by"] == [{"name": "kard", "accuracy": 0.5}]


def test_training_questions_of_another_index_are_not_shown(run: Path) -> None:
    """Silver passages stay in the run where the last student that learned from them is gone."""
    found(run / "passages/test", {TEST[0]: ["s0"]}, "a", knowledge="this index")
    found(run / "passages/test-reranker", {TEST[0]: ["s0"]}, "b", knowledge="this index")
    shown = []
    for index in ("this index", "a former index"):
        folder = run / "silver/rationale"
        folder.mkdir(parents=True, exist_ok=True)
        one = Silver(problem_id="p0", source="t", index=0, query="rationale", passages=("s0",), scores=(1.0,))
        write_jsonl(folder / "silver.jsonl", [one])
        found(folder, {"p0": ["x0"]}, "e", "asked.jsonl", knowledge=index)
        shown.append([row["split"] for row in retrieval_rows(contestants([run]))])
    assert shown == [["test"] * 3 + ["train"], ["test"] * 3]


def test_nobody_reads(tmp_path: Path, run_folder: Make) -> None:
    run = run_folder(tmp_path / "run", {"cot": {0: [True]}})
    assert retrieval_rows(contestants([run])) == []
    write_report([run], run / "r.html")
    assert 'id="passages"' not in (run / "r.html").read_text(encoding="utf-8")
