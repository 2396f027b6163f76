"""Exams of other tasks (`exam.also`) are tables of their own, next to those of the runs' own tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.records import Prediction
from limbeck.report import other_rows, write_report
from limbeck.report.compare import compare
from limbeck.report.contestants import contestants, left_out, other_exams

Make = Callable[..., Path]
Predict = Callable[..., Prediction]

LISTED = """name: r
exam: {also: [{name: letters, kind: text, test: x}, {name: coin-flip, called: coins}]}
students:
  cot: {seeds: [0, 1]}
  plain: {seeds: [0]}
"""


@pytest.fixture
def run(tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Predict) -> Path:
    """Two students, three exams of two problems each, of which only the question differs."""
    right = {"cot": {0: [True, True], 1: [True, False]}, "plain": {0: [False, False]}}
    folder = run_folder(tmp_path / "r", right, teacher=[True, True])
    (folder / "recipe.yaml").write_text(LISTED)
    for name, seeds in right.items():
        for seed in seeds:
            for task in ("letters", "coins"):
                place = folder / "students" / name / f"seed{seed}" / f"exam-{task}"
                asked = [predict(n, name == "plain", question=f"{task} {n}?") for n in range(2)]
                exam_folder(place, asked, name, "student", seed=seed, task=task, kind="text", also=True)
                (place / "stage.json").write_text("{}")
    return folder


def test_each_task_has_its_own_contestants(run: Path) -> None:
    names = ["cot seed 0", "cot seed 1", "plain"]
    assert [one.name for one in contestants([run])] == ["teacher", *names]
    assert [one.accuracy for one in contestants([run])] == [1.0, 1.0, 0.5, 0.0]
    assert other_exams([run]) == ["letters", "coins"], "in the recipe's order"
    for task in ("letters", "coins"):
        assert [(one.name, one.accuracy) for one in contestants([run], task)] == [
            ("cot seed 0", 0.0),
            ("cot seed 1", 0.0),
            ("plain", 1.0),
        ]
    (one,) = compare(contestants([run], "letters"))
    assert (one.a, one.b, one.difference, one.problems) == ("cot", "plain", 1.0, 2)
    assert left_out([run]) == []
    rows = other_rows([run], baseline="teacher")
    assert rows["coins"]["pairs"] == [], "the teacher did not sit it"
    assert [one["name"] for one in rows["coins"]["results"]] == ["cot", *names]


def test_a_page_tells_them_apart(run: Path, tmp_path: Path) -> None:
    write_report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    own, _, rest = page.partition('id="also"')
    assert "of letters" not in own and "Exam of 2 problems of letters" in rest
    assert rest.index("problems of letters") < rest.index("problems of coins")
    embedded = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert [one[1] for one in embedded["problems"]] == [
        one.question for one in contestants([run])[0].predictions
    ]


def test_what_is_missing_is_named_once(run: Path) -> None:
    (run / "students/cot/seed1/exam-coins/metrics.json").unlink()
    assert left_out([run]) == ["cot seed 1 has no finished exam of coins"]
    (run / "students/cot/seed1/exam-coins/predictions.jsonl").unlink()
    (run / "students/cot/seed1/exam-coins/stage.json").unlink()
    (run / "students/cot/seed1/exam-coins").rmdir()
    assert left_out([run]) == ["cot seed 1 has no finished exam of coins"], "killed before it began"
    (run / "students/cot/seed1/exam/metrics.json").unlink()
    own = "cot seed 1 has no finished exam; its training log ends at step 400"
    assert left_out([run]) == [own], "one sentence for each student"
    (run / "recipe.yaml").write_text(LISTED.replace("{name: coin-flip, called: coins}", ""))
    assert left_out([run]) == [
        own,
        "cot seed 0: the exam of coins is no longer in the recipe",
        "plain seed 0: the exam of coins is no longer in the recipe",
    ]
    assert other_exams([run]) == ["letters"]


def test_an_exam_that_is_named_itself_is_shown(run: Path) -> None:
    folders = [run / "students" / one / "exam-coins" for one in ("cot/seed0", "plain/seed0")]
    found = contestants(folders)
    assert len({one.name for one in found}) == 2 and other_exams(folders) == []
    (one,) = compare(found)
    assert one.difference == 1.0


def test_an_exam_of_evaluate_is_no_other_task_by_its_folder(
    tmp_path: Path, exam_folder: Make, predict: Predict
) -> None:
    folder: Any = exam_folder(tmp_path / "exams" / "exam-flan", [predict(0, True)])
    assert [one.name for one in contestants([folder.parent])] == ["exam-flan"]
    assert other_exams([folder.parent]) == []
