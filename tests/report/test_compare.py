"""Paired comparisons against counts made by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import stdev

import pytest

from limbeck.errors import DataError, InputError
from limbeck.records import Prediction, write_json
from limbeck.report.compare import Verdicts, compare
from limbeck.report.contestants import Contestant, contestants
from limbeck.statistics import holm, mcnemar_p, paired_interval

Make = Callable[..., Path]
Pair = Callable[..., list[Contestant]]


@pytest.fixture
def exams(tmp_path: Path, exam_folder: Make) -> Pair:
    """Contestants a, b, c... from lists of predictions."""

    def make(*lists: Sequence[Prediction]) -> list[Contestant]:
        folders = [exam_folder(tmp_path / "abc"[place], list(given)) for place, given in enumerate(lists)]
        return contestants(folders)

    return make


def test_counts_difference_and_p(exams: Pair, predict: Callable[..., Prediction]) -> None:
    a = [True, True, True, False, False, False, None, None, False, False]
    b = [True, False, True, True, True, True, True, True, None, True]
    shuffled = [predict(n, verdict) for n, verdict in enumerate(b)]
    random.Random(1).shuffle(shuffled)  # pairing is by id, not by line
    (one,) = compare(exams([predict(n, verdict) for n, verdict in enumerate(a)], shuffled))
    assert one.verdicts == Verdicts(both=2, only_a=1, only_b=6, neither=1)
    assert (one.accuracy_a, one.accuracy_b) == (0.3, 0.8)
    assert one.difference == pytest.approx(0.5)
    assert one.p == mcnemar_p(1, 6) == pytest.approx(2 * (1 + 7) / 2**7)
    assert (one.low, one.high) == paired_interval([-1] + [1] * 6 + [0] * 3)
    assert (one.p_holm, one.seed, one.std_a, one.std_b, one.by_seed) == (None, None, None, None, ())
    assert (one.test, one.df, one.verdict) == ("McNemar", None, "undecided")


def test_swapping_the_sides_turns_the_sign(exams: Pair, predict: Callable[..., Prediction]) -> None:
    found = exams([predict(n, n % 3 > 0) for n in range(40)], [predict(n, n % 2 > 0) for n in range(40)])
    (forward,), (backward,) = compare(found), compare(found[::-1])
    assert backward.difference == -forward.difference
    assert (backward.low, backward.high) == pytest.approx((-forward.high, -forward.low))
    assert backward.p == forward.p


def test_only_common_problems_count(exams: Pair, predict: Callable[..., Prediction]) -> None:
    (one,) = compare(
        exams([predict(n, True) for n in range(0, 30)], [predict(n, n < 25) for n in range(20, 45)])
    )
    assert (one.problems, one.problems_a, one.problems_b) == (10, 30, 25)
    assert one.verdicts == Verdicts(both=5, only_a=5, only_b=0, neither=0)


def test_exams_that_do_not_fit_are_refused(exams: Pair, predict: Callable[..., Prediction]) -> None:
    mine = [predict(n, True) for n in range(5)]
    with pytest.raises(DataError, match="no problem in common"):
        compare(exams(mine, [predict(n, True) for n in range(5, 9)]))
    other = [*mine[:4], predict(4, True, question="Another question?")]
    with pytest.raises(DataError, match="problem 'sums-test-0004' has another question than in"):
        compare(exams(mine, other))
    other = [*mine[:4], predict(4, True, gold="-1")]
    with pytest.raises(DataError, match="problem 'sums-test-0004' has another gold than in"):
        compare(exams(mine, other))


def test_baseline_and_holm(exams: Pair, predict: Callable[..., Prediction]) -> None:
    found = exams(
        [predict(n, n % 2 == 0) for n in range(60)],
        [predict(n, n % 3 > 0) for n in range(60)],
        [predict(n, n % 10 > 0) for n in range(60)],
    )
    every = compare(found)
    assert [(one.a, one.b) for one in every] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [one.p_holm for one in every] == holm([one.p for one in every])
    assert [(one.a, one.b) for one in compare(found, baseline="b")] == [("b", "a"), ("b", "c")]
    with pytest.raises(InputError, match="no contestant is called 'd'; choose one of a, b, c"):
        compare(found, baseline="d")
    with pytest.raises(InputError, match="only one contestant"):
        compare(found[:1])


def test_seeds_of_one_student_are_not_compared_with_each_other(demo: Path) -> None:
    with pytest.raises(InputError, match="only one contestant to compare"):
        compare(contestants([demo / "students/cot-3"]))


def test_several_seeds(demo: Path) -> None:
    found = {(one.a, one.b): one for one in compare(contestants([demo]))}
    assert set(found) == {("teacher", "answers-only"), ("teacher", "cot-3"), ("answers-only", "cot-3")}
    one = found["answers-only", "cot-3"]
    assert [each.seed for each in one.by_seed] == [0, 1, 2]
    assert all(each.verdicts and each.a == "answers-only" for each in one.by_seed)
    mean = sum(each.difference for each in one.by_seed) / 3
    assert one.difference == pytest.approx(mean)
    accuracies = [each.accuracy_b for each in one.by_seed]
    assert (one.std_a, one.std_b) == (None, pytest.approx(stdev(accuracies)))
    assert one.verdicts is None
    assert one.low < one.difference < one.high
    assert one.p < 0.001
    assert {each.verdict for each in found.values()} == {"undecided"}, "the other side has one seed"


def test_three_seeds_a_side_count_seeds_and_problems(tmp_path: Path, run_folder: Make) -> None:
    """The seeds of the claims table in docs/papers.md: 13 points that three seeds cannot tell from luck."""
    luck = random.Random(0)
    hard = [luck.random() for _ in range(500)]

    def student(*accuracies: float) -> dict[int, list[bool]]:
        return {
            seed: [0.5 * ease + 0.5 * luck.random() < share for ease in hard]
            for seed, share in enumerate(accuracies)
        }

    students = {"cot": student(0.83, 0.774, 0.578), "kd": student(0.872, 0.854, 0.848)}
    (one,) = compare(contestants([run_folder(tmp_path / "a", students)]))
    assert (one.test, one.verdict) == ("t", "undecided")
    assert one.p > 0.1 and one.low < 0 < 0.1 < one.difference
    assert one.df is not None and one.df < 3
    assert one.error == pytest.approx(
        ((one.std_a or 0) ** 2 / 3 + (one.std_b or 0) ** 2 / 3) ** 0.5, rel=0.05
    )

    students = {"cot": student(0.60, 0.62, 0.58), "kd": student(0.872, 0.854, 0.848)}
    (better,) = compare(contestants([run_folder(tmp_path / "b", students)]))
    (worse,) = compare(contestants([tmp_path / "b"]), baseline="kd")
    assert (better.verdict, worse.verdict) == ("holds", "does not hold")
    assert (better.low, better.p) == (pytest.approx(-worse.high), pytest.approx(worse.p))


def test_one_training_with_two_exams_is_one_unit(tmp_path: Path, run_folder: Make) -> None:
    """Seeds far apart, and each 10 points better in the other exam: certain, if the weights are the same."""
    by_question = {seed: [n < share for n in range(100)] for seed, share in enumerate((30, 50, 70))}
    reranked = {seed: [n < share for n in range(100)] for seed, share in enumerate((40, 60, 80))}
    run = run_folder(tmp_path / "a", {"kard": by_question, "ranked": reranked})
    (apart,) = compare(contestants([run]))
    for name in ("kard", "ranked"):
        for seed in range(3):
            path = run / f"students/{name}/seed{seed}/exam/metrics.json"
            write_json(path, json.loads(path.read_text()) | {"weights": f"of seed {seed}"})
    (shared,) = compare(contestants([run]))
    assert shared.difference == apart.difference == pytest.approx(0.1)
    assert apart.verdict == "undecided" and shared.verdict == "holds"


def test_fewer_than_three_seeds_never_decide(tmp_path: Path, run_folder: Make) -> None:
    never, always = [False] * 200, [True] * 200
    for count_a, count_b in ((1, 1), (2, 3), (3, 2), (1, 9), (3, 3)):
        students = {"x": dict.fromkeys(range(count_a), never), "y": dict.fromkeys(range(count_b), always)}
        (one,) = compare(contestants([run_folder(tmp_path / f"{count_a}-{count_b}", students)]))
        assert one.p < 0.001
        assert (one.verdict == "holds") is (min(count_a, count_b) >= 3)


def test_the_verdict_is_by_holms_p(tmp_path: Path, run_folder: Make) -> None:
    luck = random.Random(9)

    def student(share: float) -> dict[int, list[bool]]:
        return {seed: [luck.random() < share for _ in range(300)] for seed in range(3)}

    folder = run_folder(tmp_path / "r", {"a": student(0.5), "b": student(0.5), "c": student(0.59)})
    found = {(one.a, one.b): one for one in compare(contestants([folder]))}
    one = found["b", "c"]
    assert one.p < 0.05 < (one.p_holm or 0)
    assert one.verdict == "undecided"


def test_equal_seeds_are_paired_with_each_other(tmp_path: Path, run_folder: Make) -> None:
    luck = random.Random(4)
    draws = [[luck.random() < 0.5 for _ in range(30)] for _ in range(5)]
    students = {"x": {0: draws[0], 1: draws[1], 7: draws[2]}, "y": {1: draws[3], 7: draws[4]}}
    (one,) = compare(contestants([run_folder(tmp_path / "r", students)]))
    assert [(each.a, each.b, each.seed) for each in one.by_seed] == [
        ("x seed 1", "y seed 1", 1),
        ("x seed 7", "y seed 7", 7),
    ]
    assert (one.seeds_a, one.seeds_b) == (3, 2)
    assert one.accuracy_a == pytest.approx(sum(map(sum, draws[:3])) / 90)


def test_two_students_that_answer_alike_do_not_differ(tmp_path: Path, run_folder: Make) -> None:
    same = {0: [True, False] * 20, 1: [True, True] * 20}
    (one,) = compare(contestants([run_folder(tmp_path / "r", {"x": same, "y": same})]))
    assert (one.difference, one.p) == (0.0, 1.0)
    assert one.std_a == one.std_b
    assert one.low < 0 < one.high
