"""The shape of the published files, in invented rows: loading, grading, leaks, everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck.audit import grade_file
from limbeck.errors import LeakError
from limbeck.tasks.settings import Columns, FilesTask, Leaks
from limbeck.tasks.sources import load_splits

CHOICES = "Answer choices: (A) red ball, (B) blue ball, (C) green ball."
CHAINS = [
    ("Ann has the blue ball.\u2028The answer is (B).", True),
    ("Ann swapped, so she has the blue ball.", True),
    ("Ann kept hers. --> A", False),
]


def rows(*questions: str) -> list[dict[str, Any]]:
    return [
        {"input": f"{question}\u2028 {CHOICES}", "chain": chain, "answer": "B", "initial_correct": right}
        for question in questions
        for chain, right in CHAINS
    ]


def task(folder: Path, leaks: Leaks) -> FilesTask:
    for name, questions in (("train", ("Ann?", "Ben?")), ("test", ("Ben?",))):
        text = json.dumps(rows(*questions), ensure_ascii=False)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    paths = {name: str(folder / f"{name}.json") for name in ("train", "test")}
    columns = Columns(question="input", rationale="chain")
    return FilesTask(kind="choice", dev=0, columns=columns, leaks=leaks, **paths)  # type: ignore[arg-type]


def test_rows_load_and_are_graded_as_flagged(tmp_path: Path) -> None:
    settings = task(tmp_path, "keep")
    splits = load_splits(settings, 0)
    assert (len(splits.train), len(splits.given), len(splits.test)) == (2, 6, 1)
    assert splits.train[0].options == ("red ball", "blue ball", "green ball")
    graded, _ = grade_file(tmp_path / "train.json", settings, 0)
    assert [one.correct for one in graded] == [True, True, False] * 2
    assert graded[0].reasoning == "Ann has the blue ball."


def test_the_shared_question_is_refused_or_dropped(tmp_path: Path) -> None:
    with pytest.raises(LeakError, match=r"train\.json record 4: .*\(shared questions: 1\)"):
        load_splits(task(tmp_path, "refuse"), 0)
    assert len(load_splits(task(tmp_path, "drop"), 0).train) == 1
