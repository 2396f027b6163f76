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
