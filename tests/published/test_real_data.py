"""The published files themselves: the counts of an import. Needs the folder that LIMBECK_DATA names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.audit import grade_file
from limbeck.errors import DataError
from limbeck.published.found import Request, write_import
from limbeck.published.mentor_kd import read
from limbeck.tasks.settings import Columns, FilesTask

pytestmark = pytest.mark.skipif(
    "LIMBECK_DATA" not in os.environ, reason="LIMBECK_DATA names no folder of real data"
)
MENTOR = Path(os.environ.get("LIMBECK_DATA", "")) / "published/2hojae+mentor-kd/data"


Imported = Callable[[str], tuple[dict[str, Any], Path]]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """Import a set once, however many tests look at it: its summary and folder."""
    done: dict[str, tuple[dict[str, Any], Path]] = {}

    def once(task: str) -> tuple[dict[str, Any], Path]:
        if task not in done:
            out = tmp_path_factory.mktemp(task) / "out"
            found = read([str(MENTOR)], Request(task=task, gold="first"))
            done[task] = write_import(found, "mentor-kd", out), out
        return done[task]

    return once


@pytest.mark.parametrize(
    ("task", "questions", "covered", "correct", "flagged"),
    [
        ("date_understanding", (258, 111), 256, 81, 82),  # "August 20th" was parsed as the option A
        ("last_letter_concatenation", (350, 150), 350, 82, 84),  # "y a a n" counted as yaan
        ("strategy_qa", (1603, 687), 1496, 375, 366),
        ("tracking_shuffled_objects", (525, 225), 512, 113, 113),
    ],
)
def test_the_teacher_on_train_and_test(
    task: str, questions: tuple[int, int], covered: int, correct: int, flagged: int, imported: Imported
) -> None:
    summary, _ = imported(task)
    assert (summary["questions"]["train"], summary["questions"]["test"]) == questions
    assert summary["files"]["teacher.jsonl"]["questions"] == covered
    test = summary["files"]["teacher-test.jsonl"]
    assert (test["texts"], test["correct"], test["flagged correct"]) == (questions[1], correct, flagged)


@pytest.mark.parametrize(
    ("task", "correct", "of", "duplicates", "unique", "new"),
    [
        ("svamp", 1558, 2100, 191, 1369, 4),
        ("date_understanding", 763, 774, 61, 702, 1),
        ("last_letter_concatenation", 1029, 1050, 97, 933, 0),
        ("tracking_shuffled_objects", 1392, 1575, 23, 1370, 4),
    ],
)
def test_the_mentor_is_graded_as_its_authors_did(
    task: str, correct: int, of: int, duplicates: int, unique: int, new: int, imported: Imported
) -> None:
    mentor = imported(task)[0]["files"]["mentor-flan-t5_large.jsonl"]
    assert (mentor["correct"], mentor["flagged correct"], mentor["texts"]) == (correct, correct, of)
    assert mentor["disagree with the flag"] == {}
    assert (mentor["duplicates"], mentor["correct ones that differ"]) == (duplicates, unique)
    assert mentor["questions with a correct one, and none of the teacher's"] == new


def test_right_answers_with_wrong_reasoning(imported: Imported) -> None:
    dates = imported("date_understanding")[0]["files"]
    assert dates["teacher.jsonl"]["audit"]["states a date other than the chosen option"] == 137
    assert dates["prompt.jsonl"]["questions by number of texts"] == {"2": 1, "4": 1, "6": 256}
    svamp = imported("svamp")[0]["files"]
    assert svamp["teacher.jsonl"]["flagged correct, but the gold number is nowhere"] == 64
    teacher = imported("strategy_qa")[0]["files"]["teacher.jsonl"]
    assert (teacher["wrong"], teacher["no answer found"]) == (16, 3731)


def test_two_golds_of_a_question_are_refused_unless_the_first_is_wanted(imported: Imported) -> None:
    with pytest.raises(DataError, match=r"last_letter_concatenation_test\.json record 59: .*--gold first"):
        read([str(MENTOR)], Request(task="last_letter_concatenation"))
    summary, _ = imported("last_letter_concatenation")
    assert len(summary["golds set aside"]) == 6


def test_a_recipe_grades_imported_files(imported: Imported) -> None:
    _, out = imported("strategy_qa")
    paths = {split: str(out / f"{split}.jsonl") for split in ("train", "test")}
    task = FilesTask(kind="yes-no", columns=Columns(id="id"), leaks="drop", **paths)
    graded, audit = grade_file(out / "teacher.jsonl", task, 0, keep="unless-wrong")
    assert len(graded) == 4488 and audit["problems with a kept rationale"] == 1496
