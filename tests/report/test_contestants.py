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
    (demo / "teacher/exam/metrics.json").unlink()
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
        ("demo/rationales", "nobody was examined"),
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
        answers = [predict(0, True), predict(1, name == "large")]
        exam_folder(run / "mentors" / name / "exam", answers, name, "mentor")
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


def write_rounds(run: Path, exam_folder: Make, predict: Callable[..., Prediction]) -> None:
    """A method that trains in rounds, with its own folders and two seeds: better every round."""
    for seed in (0, 1):
        for number in (1, 2, 10):
            folder = run / "students" / "loop" / f"seed{seed}" / f"round{number}" / "exam"
            answers = [predict(n, n < number + seed) for n in range(12)]
            exam_folder(folder, answers, "loop", "student", seed=seed, round=number)


def test_rounds_are_rows_of_their_own(
    tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    run = run_folder(tmp_path / "r", {"plain": {0: [True] * 12}, "loop": {}})
    write_rounds(run, exam_folder, predict)
    found = contestants([run])
    assert [one.name for one in found] == [
        "plain",
        *(f"loop · round {number} seed {seed}" for number in (1, 2, 10) for seed in (0, 1)),
    ]
    pairs = {(one.a, one.b): one for one in compare(found)}
    rise = pairs["loop · round 1", "loop · round 10"]
    assert (rise.seeds_a, rise.seeds_b, len(rise.by_seed)) == (2, 2, 2)
    assert rise.difference == pytest.approx(9 / 12)
    assert [one.seed for one in contestants([run / "students/loop/seed1"])] == [1, 1, 1]
    (one,) = contestants([run / "students/loop/seed1/round2"])
    assert one.name == "loop · round 2"
    assert left_out([run]) == []


def test_rounds_of_two_runs_stay_apart(
    tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    runs = [run_folder(tmp_path / name, {"loop": {}}, recipe="same") for name in ("a", "b")]
    for run in runs:
        write_rounds(run, exam_folder, predict)
    groups = [one.group for one in contestants(runs)]
    assert len(set(groups)) == 6
    assert groups[0] == f"{tmp_path / 'a/students/loop'} · round 1"
    assert len({one.name for one in contestants(runs)}) == 12


def test_a_round_in_training_is_named(
    tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    run = run_folder(tmp_path / "r", {"loop": {}})
    write_rounds(run, exam_folder, predict)
    begun = run / "students/loop/seed0/round11"
    begun.mkdir()
    (begun / "history.jsonl").write_text('{"step": 1500}\n')
    (run / "students/loop/seed0/history.jsonl").write_text('{"step": 1}\n')  # examined after each round
    assert left_out([run]) == [
        "loop · round 11 seed 0 has no finished exam; its training log ends at step 1,500"
    ]


def test_a_method_may_lay_out_its_folders_as_it_likes(
    tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    run = run_folder(tmp_path / "r", {"mine": {}}, teacher=[True, True])
    for seed in (3, 12):
        folder = run / "deep" / "er" / f"{seed}th-try"
        exam_folder(folder, [predict(0, True), predict(1, False)], "mine", "student", seed=seed)
    exam_folder(run / "judge", [predict(0, True), predict(1, True)], "judge", "verifier")
    assert [one.name for one in contestants([run])] == [
        "teacher",
        "verifier judge",
        "mine seed 3",
        "mine seed 12",
    ]
    assert {one.b for one in compare(contestants([run]))} == {"mine"}, "a verifier is not what is shipped"
    (one,) = contestants([run / "deep/er/3th-try"])
    assert (one.name, one.role, one.seed, one.run) == ("mine", "student", 3, run)


def test_students_outside_a_run_are_grouped_by_what_they_say(
    tmp_path: Path, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    for copy in ("a", "b"):
        for seed in (0, 1):
            folder = tmp_path / copy / "cot" / f"seed{seed}" / "exam"
            exam_folder(folder, [predict(0, True)], "cot", "student", seed=seed)
    assert [one.name for one in contestants([tmp_path / "a"])] == ["cot seed 0", "cot seed 1"]
    seeds = [tmp_path / "a/cot/seed0", tmp_path / "a/cot/seed1"]
    assert {one.group for one in contestants(seeds)} == {"cot"}
    assert {one.group for one in contestants([tmp_path])} == {str(tmp_path / c / "cot") for c in "ab"}


def test_two_exams_of_one_student_and_seed_are_told_apart(
    tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    run = run_folder(tmp_path / "r", {"x": {0: [True]}})
    voted = exam_folder(run / "students/x/seed0/voted", [predict(0, True)], "x", "student", seed=0, votes=5)
    found = contestants([run])
    assert {one.name for one in found} == {str(voted), str(run / "students/x/seed0/exam")}
    assert len({one.group for one in found}) == 2


def test_any_folder_is_looked_through_but_what_a_run_put_aside(tmp_path: Path, run_folder: Make) -> None:
    for name in ("b", "a"):
        run = run_folder(tmp_path / "runs" / name, {"old": {0: [True]}, "new": {0: [True]}}, teacher=[True])
        shutil.copytree(run / "students/new", run / "old" / "students" / "new")
        shutil.copytree(run / "teacher", run / ".hidden" / "teacher")
    names = ["teacher", "old", "new"]
    assert [one.name for one in contestants([tmp_path / "runs"])] == [
        f"{run}/{name}" for run in ("a", "b") for name in names
    ]
    (aside,) = contestants([tmp_path / "runs/a/old"])
    assert aside.name == "new", "asked for by name"


def test_exams_of_0_1_0_are_known_by_their_folders(
    demo: Path, exam_folder: Make, predict: Callable[..., Prediction], old: Callable[[Path], None]
) -> None:
    exam_folder(demo / "mentors/big/exam", [predict(0, True)], "big", "mentor")
    (demo / "recipe.yaml").write_text((demo / "recipe.yaml").read_text() + "mentors: {big: {}}\n")
    late = demo / "students/cot-3/seed2/round1/exam"
    exam_folder(late, [predict(0, True)], "cot-3", "student", seed=2, round=1)
    exam_folder(demo.parent / "flan", [predict(0, True)])
    said = [(one.name, one.role, one.seed) for one in contestants([demo, demo.parent / "flan"])]
    old(demo.parent)
    found = contestants([demo, demo.parent / "flan"])
    assert [(one.name, one.role, one.seed) for one in found] == said
    assert [one.name for one in found] == [
        "teacher",
        "mentor big",
        "answers-only",
        "cot-3 · round 1",
        *(f"cot-3 seed {seed}" for seed in range(3)),
        "flan",
    ]
    assert (found[0].facts.task, found[0].facts.split) == ("sums", "test")
    assert found[0].facts.parameters is None


def test_facts_that_cannot_be_are_refused(demo: Path) -> None:
    path = demo / "teacher/exam/metrics.json"
    whole = json.loads(path.read_text())
    for wrong in ({"role": "king"}, {"steps": -1}, {"seed": "x"}, {"cost_usd": float("nan")}):
        path.write_text(json.dumps(whole | wrong))
        with pytest.raises(
            DataError, match=rf"metrics\.json: {next(iter(wrong))}: .*run the stage that wrote"
        ):
            contestants([demo])
    path.write_text(json.dumps(whole | {"of a later version": 1}))
    assert contestants([demo])[0].name == "teacher"
    path.write_text("[]")
    with pytest.raises(DataError, match="not a JSON object"):
        contestants([demo])


def test_a_broken_recipe_is_named_and_makes_nobody_current(demo: Path) -> None:
    (demo / "recipe.yaml").write_text("students: [")
    with pytest.raises(DataError, match=r"recipe\.yaml: not a recipe"):
        contestants([demo])
