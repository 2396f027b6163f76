"""`limbeck grade` reads whatever `limbeck run` reads, and what a run wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck.audit import grade_file
from limbeck.errors import DataError
from limbeck.tasks.settings import Columns, FilesTask


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def task(folder: Path, rows: list[dict[str, Any]]) -> FilesTask:
    test = written(folder / "test.jsonl", [{"q": "Other?", "a": "A", "o": ["x", "y"]}])
    train = written(folder / "train.jsonl", rows)
    columns = Columns(question="q", answer="a", options="o", rationale="m.why", several_rationales=True)
    return FilesTask(kind="choice", train=str(train), test=str(test), dev=0, columns=columns)


ROWS: list[dict[str, Any]] = [
    {"q": "Which?", "a": "A", "o": ["x", "y"], "m": {"why": ["One. The answer is x.", "Two. So it is y."]}},
    {"q": "Which?", "a": "B", "o": ["y", "x"], "m": {"why": "Three. The answer is x."}},
    {"q": "Where?", "a": "B", "o": ["y", "x"], "m": {"why": None}},
]


def test_lists_null_and_nested_columns_against_their_own_problem(tmp_path: Path) -> None:
    settings = task(tmp_path, ROWS)
    graded, _ = grade_file(tmp_path / "train.jsonl", settings, 0)
    assert [(one.answer, one.correct, one.index) for one in graded] == [
        ("A", True, 0),
        ("B", False, 1),
        ("B", True, 0),
    ]


def test_records_keep_their_source_and_index(tmp_path: Path) -> None:
    settings = task(tmp_path, ROWS)
    name = grade_file(tmp_path / "train.jsonl", settings, 0)[0][0].problem_id
    rows = [
        {"problem_id": name, "completion": "So x.", "source": source, "index": index}
        for source, index in (("one", 3), ("two", 0))
    ]
    graded, _ = grade_file(written(tmp_path / "r.jsonl", rows), settings, 0, keep="all")
    assert [(one.source, one.index) for one in graded] == [("one", 3), ("two", 0)]
    bad = written(tmp_path / "bad.jsonl", [{**rows[0], "tokens": "abc"}])
    with pytest.raises(DataError, match=r"bad\.jsonl:1: tokens is not a whole number: 'abc'"):
        grade_file(bad, settings, 0)


# --- thinking in a column of its own, and rows of no problem ---------------------


def plain_task(folder: Path, **more: Any) -> FilesTask:
    asked = [
        {"question": f"What is {n} + 1?", "answer": n + 1, "why": f"So {n + 1}.", "reasoning": "So."}
        for n in range(4)
    ]
    paths = {"train": asked[:3], "test": asked[3:]}
    files = {split: str(written(folder / f"{split}.jsonl", rows)) for split, rows in paths.items()}
    return FilesTask(name="plus", kind="number", **files, dev=0, **more)


@pytest.mark.parametrize("column", ["thinking", "reasoning_content", "reasoning"])
def test_thinking_in_a_column_of_its_own(tmp_path: Path, column: str) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "What is 1 + 1?", "completion": "The answer is 2.", column: "One and one make 2."},
        {"question": "What is 2 + 1?", "completion": None, column: "Two and"},
    ]
    for which, reasoning in (("both", "One and one make 2."), ("answer", "")):
        graded, _ = grade_file(written(tmp_path / "r.jsonl", rows), plain_task(tmp_path), 0, reasoning=which)
        assert (graded[0].thinking, graded[0].completion) == ("One and one make 2.", "The answer is 2.")
        assert graded[0].reasoning == reasoning and graded[0].correct
    assert graded[1].dropped == "no answer behind the thinking"


def test_the_reasoning_of_graded_rationales_and_rationale_columns_is_no_thinking(tmp_path: Path) -> None:
    row = {"question": "What is 1 + 1?", "completion": "So 2. The answer is 2.", "reasoning": "So 2."}
    settings = plain_task(tmp_path)
    graded, _ = grade_file(written(tmp_path / "r.jsonl", [{**row, "dropped": None}]), settings, 0)
    assert (graded[0].thinking, graded[0].reasoning) == ("", "So 2.")
    row = {"question": "What is 1 + 1?", "reasoning": "Here 1 + 1 = 2.", "reasoning_content": "Hm."}
    settings = plain_task(tmp_path, columns=Columns(rationale="reasoning"))
    graded, _ = grade_file(written(tmp_path / "r.jsonl", [row]), settings, 0)
    assert (graded[0].thinking, graded[0].completion) == ("Hm.", "Here 1 + 1 = 2.")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "Who?", "completion": "I."}, "no problem of task plus asks 'Who?'; give the recipe it"),
        (
            {"question": "Who?", "problem_id": "x", "completion": "I."},
            "no problem of task plus has the id 'x' or asks 'Who?'; give the recipe it was made with",
        ),
        ({"problem_id": "x", "completion": "I."}, "no problem of task plus has the id 'x'; give the rec"),
        ({"completion": "I."}, "says neither problem_id nor question; add one of them"),
        ({"question": "What is 1 + 1?"}, "holds no text under completion or text; add it, or name the col"),
    ],
)
def test_a_row_of_no_problem_is_named_by_what_it_says(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError) as error:
        grade_file(written(tmp_path / "r.jsonl", [row]), plain_task(tmp_path), 0)
    assert str(error.value).startswith(f"{tmp_path / 'r.jsonl'}:1: {says}")


def test_rows_of_the_tasks_own_columns_that_ask_something_else(tmp_path: Path) -> None:
    settings = plain_task(tmp_path, columns=Columns(rationale="why"))
    file = written(tmp_path / "r.jsonl", [{"question": "Who?", "answer": 3, "why": "So 3."}])
    with pytest.raises(DataError, match=r"r\.jsonl:1: no problem of task plus asks 'Who\?'; give the recipe"):
        grade_file(file, settings, 0)
    file = written(tmp_path / "r.jsonl", [{"question": "Who?", "completion": "So 3."}])
    with pytest.raises(DataError, match=r"r\.jsonl:1: no problem of task plus asks 'Who\?'; give the recipe"):
        grade_file(file, settings, 0)
