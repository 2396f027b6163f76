"""Finding and reading finished exams."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.errors import DataError, InputError
from limbeck.records import Prediction
from limbeck.report.compare import compare
from limbeck.report.contestants import contestants, history, left_out

Make = Callable[..., Path]


def test_a_run_gives_the_teacher_then_the_students_in_the_recipes_order(
    tmp_path: Path, run_folder: Make
) -> None:
    verdicts = [True, False, None]
    students = {"zeta": {0: verdicts}, "alpha": {11: verdicts, 2: verdicts}}
    run = run_folder(tmp_path / "r", students, teacher=[True] * 3)
    found = contestants([run])
    assert [one.name for one in found] == ["teacher", "zeta", "alpha seed 2", "alpha seed 11"]
    assert [one.group for one in found] == ["teacher", "zeta", "alpha", "alpha"]
    assert [one.role for one in found] == ["teacher", "student", "student", "student"]
    assert (found[1].correct, found[1].problems) == (1, 3)
    assert found[1].accuracy == pytest.approx(1 / 3)


def test_every_folder_on_the_way_down_can_be_named(demo: Path) -> None:
    whole = {one.name: one.predictions for one in contestants([demo])}
    assert [one.name for one in contestants([demo / "students/cot-3"])] == [
        "cot-3 seed 0",
        "cot-3 seed 1",
        "cot-3 seed 2",
    ]
    for folder in ("students/cot-3/seed1", "students/cot-3/seed1/exam"):
        (one,) = contestants([demo / folder])
        assert (one.name, one.seed, one.run) == ("cot-3", 1, demo)
        assert one.predictions == whole["cot-3 seed 1"]
    for folder in ("teacher", "teacher/exam"):
        (one,) = contestants([demo / folder])
        assert (one.name, one.role) == ("teacher", "teacher")


def test_an_exam_of_its_own_is_called_after_its_folder(
    tmp_path: Path, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    (one,) = contestants([exam_folder(tmp_path / "flan-small", [predict(0, True)])])
    assert (one.name, one.role, one.run, one.seed) == ("flan-small", "exam", None, None)


def test_names_grow_only_as_long_as_needed(tmp_path: Path, run_folder: Make) -> None:
    students = {"cot": {0: [True], 1: [True]}}
    first = run_folder(tmp_path / "a", students, recipe="first")
    second = run_folder(tmp_path / "b", students, recipe="second")
    twin = run_folder(tmp_path / "c", students, recipe="second")
    assert [one.name for one in contestants([first, second])] == [
        "first/cot seed 0",
        "first/cot seed 1",
        "second/cot seed 0",
        "second/cot seed 1",
    ]
    groups = {one.group for one in contestants([second, twin])}
    assert groups == {str(tmp_path / "b/students/cot"), str(tmp_path / "c/students/cot")}


def test_a_student_called_teacher_stays_apart_from_the_teacher(tmp_path: Path, run_folder: Make) -> None:
    run = run_folder(tmp_path / "r", {"teacher": {0: [True]}}, teacher=[False])
    assert len({one.group for one in contestants([run])}) == 2


def test_students_that_are_not_examined_are_named(demo: Path) -> None:
    (demo / "students/cot-3/seed1/exam/metrics.json").unlink()
    shutil.rmtree(demo / "teacher/exam")
    names = [one.name for one in contestants([demo])]
    assert names == ["answers-only", "cot-3 seed 0", "cot-3 seed 2"]
    assert left_out([demo]) == [
        "teacher has no finished exam",
        "cot-3 seed 1 has no finished exam; its training log ends at step 400",
    ]


def test_students_and_seeds_of_a_former_recipe_are_left_out_and_named(
    tmp_path: Path, run_folder: Make
) -> None:
    run = run_folder(tmp_path / "r", {"new": {0: [True], 3: [True]}, "old": {0: [True]}})
    (run / "recipe.yaml").write_text("students:\n  new:\n    seeds: [0]\n")
    assert [one.name for one in contestants([run])] == ["new"]
    assert left_out([run]) == [
        "new seed 3 is no longer in the recipe",
        "old seed 0 is no longer in the recipe",
    ]
    assert [one.name for one in contestants([run / "students/old"])] == ["old"]  # asked for by name
    (run / "recipe.yaml").unlink()
    assert len(contestants([run])) == 3


@pytest.mark.parametrize(
    ("folder", "complaint"),
    [
        ("nowhere", "no such folder"),
        ("demo/rationales", "neither a run, a student nor an exam"),
        ("demo/run.json", "no such folder"),
        ("demo/students/cot-3/seed2", "no finished exam here"),
        ("demo/students/cot-3/seed2/exam", "no finished exam here"),
    ],
)
def test_a_folder_without_an_exam_is_refused(demo: Path, folder: str, complaint: str) -> None:
    (demo / "students/cot-3/seed2/exam/metrics.json").unlink()
    with pytest.raises(InputError, match=complaint) as caught:
        contestants([demo, demo.parent / folder])
    assert str(demo.parent / folder) in str(caught.value)


def test_a_run_in_which_nobody_was_examined_is_refused(tmp_path: Path, run_folder: Make) -> None:
    with pytest.raises(InputError, match="nobody was examined"):
        contestants([run_folder(tmp_path / "r", {})])
    with pytest.raises(InputError, match="no folder given"):
        contestants([])


def test_the_same_exam_given_twice_is_refused(demo: Path) -> None:
    with pytest.raises(InputError, match="given twice"):
        contestants([demo, demo / "students" / ".." / "students" / "cot-3"])


def test_metrics_and_predictions_must_fit(demo: Path) -> None:
    exam = demo / "teacher/exam"
    metrics = json.loads((exam / "metrics.json").read_text())
    (exam / "metrics.json").write_text(json.dumps({**metrics, "correct": metrics["correct"] - 1}))
    with pytest.raises(DataError, match=r"predictions\.jsonl: \d+ of 60 right, but metrics\.json"):
        contestants([demo])
    (exam / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"metrics\.json: not valid JSON"):
        contestants([demo])
    (exam / "metrics.json").write_text('{"name": "x"}')
    with pytest.raises(DataError, match=r"metrics\.json: problems: Field required"):
        contestants([demo])


def test_broken_repeated_or_no_predictions(
    tmp_path: Path, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    exam = exam_folder(tmp_path / "e", [predict(0, True), predict(0, True)])
    with pytest.raises(DataError, match="'sums-test-0000' is answered twice"):
        contestants([exam])
    with (exam / "predictions.jsonl").open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(DataError, match=r"predictions\.jsonl:3: not a Prediction"):
        contestants([exam])
    (exam / "predictions.jsonl").write_text("")
    with pytest.raises(DataError, match="no predictions"):
        contestants([exam])


def test_history_leaves_out_a_torn_line_and_names_a_broken_one(demo: Path) -> None:
    student = demo / "students/cot-3/seed0"
    whole = history(student)
    with (student / "history.jsonl").open("a") as stream:
        stream.write('{"step": 41')
    assert history(student) == whole
    assert whole[-1]["step"] == 400
    with (student / "history.jsonl").open("a") as stream:
        stream.write("0}\n[1]\n")
    with pytest.raises(DataError, match=rf"history\.jsonl:{len(whole) + 2}: not a row with a step"):
        history(student)
    assert history(demo / "teacher") == []


def test_mentors_stand_between_teacher_and_students(
    tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    run = run_folder(tmp_path / "r", {"a": {0: [True, False]}, "b": {0: [True, True]}}, teacher=[True] * 2)
    plain = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(plain + "mentors: {large: {}, small: {}}\n")
    for name in ("small", "large"):
        exam_folder(run / "mentors" / name / "exam", [predict(0, True), predict(1, name == "large")])
    found = contestants([run])
    assert [one.name for one in found] == ["teacher", "mentor large", "mentor small", "a", "b"]
    assert [one.role for one in found][:3] == ["teacher", "mentor", "mentor"]
    for folder in ("mentors/large", "mentors/large/exam"):
        (one,) = contestants([run / folder])
        assert (one.name, one.role, one.run) == ("mentor large", "mentor", run)
    pairs = {(one.a, one.b) for one in compare(found)}
    assert pairs == {("teacher", "a"), ("teacher", "b"), ("a", "b")}, "mentors are not what is shipped"
    assert {one.b for one in compare(found, "mentor large")} == {"teacher", "mentor small", "a", "b"}
    assert len(compare(contestants([run / "mentors" / "large", run / "students" / "a"]))) == 1

    recipe = run / "recipe.yaml"
    recipe.write_text(plain + "mentors: {large: {}, small: {exam: false}}\n")
    assert "mentor small" not in [one.name for one in contestants([run])]
    assert "mentor small is no longer in the recipe" in left_out([run])
    recipe.write_text(plain)
    assert [one.name for one in contestants([run])] == ["teacher", "a", "b"], "no mentors in the recipe"
