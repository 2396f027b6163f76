"""Paired comparison: which one solves problems that the other does not.

Two students are compared on the same problems, so that hard and easy questions
weigh on both equally. One seed a side: exact McNemar test. Several seeds: every
problem counts with the share of seeds that solved it, tested by the exact
sign-flip test, which is McNemar's with one seed. Intervals: `statistics.paired_interval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from limbeck.errors import DataError, InputError
from limbeck.records import Prediction
from limbeck.report.contestants import Contestant, by_group
from limbeck.statistics import gains, holm, mcnemar_p, mean_and_std, paired_interval, sign_flip_p


@dataclass(frozen=True, slots=True)
class Verdicts:
    """How many problems both, only one, or neither of two exams solved."""

    both: int
    only_a: int
    only_b: int
    neither: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A on their common problems; fractions, not per cent.

    `difference` is accuracy(B) − accuracy(A), means over seeds where there are
    several. `p_holm` is p after Holm's correction for all comparisons of one call
    (None: there was only one). `verdicts` is for one seed a side only;
    `by_seed` pairs equal seeds (or a lone exam with every seed of the other side),
    `seed` says which, and `std` is the spread of their differences.
    """

    a: str
    b: str
    seeds_a: int
    seeds_b: int
    problems: int
    problems_a: int
    problems_b: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float | None = None
    verdicts: Verdicts | None = None
    by_seed: tuple[Comparison, ...] = ()
    std: float | None = None
    seed: int | None = None


def compare(exams: Sequence[Contestant], baseline: str | None = None) -> list[Comparison]:
    """Compare every two students (their seeds taken together), or all with one.

    Args:
        exams: see `contestants.contestants`; seeds of one student form one side.
        baseline: a student's name: only comparisons with it, as side A. None: all
            pairs, the earlier one as side A, without mentors and verifiers if two others are left.

    Raises:
        InputError: fewer than two students, or no student of that name.
        DataError: two exams have no problem in common, or differ in the question
            or gold answer of a problem.
    """
    groups = by_group(exams)
    names = ", ".join(groups)
    if len(groups) < 2:
        raise InputError(f"only one contestant to compare ({names}); name a second run or exam folder")
    if baseline is not None and baseline not in groups:
        raise InputError(f"no contestant is called {baseline!r}; choose one of {names}")
    wanted = pairs(exams)
    if baseline is not None:
        wanted = [(baseline, other) for other in groups if other != baseline]
    if not wanted:
        message = f"these exams are of different tasks or splits ({names}); compare those of the same"
        raise DataError(exams[0].exam, message)
    found = [_compare_groups(a, groups[a], b, groups[b]) for a, b in wanted]
    if len(found) == 1:
        return found
    corrected = holm([comparison.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, corrected, strict=True)]


def pairs(exams: Sequence[Contestant]) -> list[tuple[str, str]]:
    """Every two students that were examined on the same split of the same task, the earlier one first.

    Without mentors and verifiers if two others are left.
    """
    groups = by_group(exams)
    shipped = [name for name, members in groups.items() if members[0].role not in ("mentor", "verifier")]
    return [
        (a, b)
        for a, b in combinations(shipped if len(shipped) > 1 else groups, 2)
        if _same_exam(groups[a][0], groups[b][0])
    ]


def _same_exam(a: Contestant, b: Contestant) -> bool:
    """Whether two exams are of one split and, where both say it, of one task."""
    tasks = {a.facts.task, b.facts.task} - {""}
    return a.facts.split == b.facts.split and len(tasks) < 2


def common_problems(exams: Sequence[Contestant]) -> list[str]:
    """Ids of the problems that all exams hold, in the first one's order.

    Raises:
        DataError: an id means another question or gold answer in one of
            them, or no id is common to all.
    """
    first, *others = exams
    reference = {prediction.problem_id: prediction for prediction in first.predictions}
    common = set(reference)
    for other in others:
        for prediction in other.predictions:
            if prediction.problem_id in reference:
                _check_same(reference[prediction.problem_id], first, prediction, other)
        common &= {prediction.problem_id for prediction in other.predictions}
    if not common:
        message = f"no problem in common with {first.exam}; compare exams of the same task and split"
        raise DataError(others[-1].exam, message)
    return [problem for problem in reference if problem in common]


def right_counts(exams: Sequence[Contestant], problems: Sequence[str]) -> list[int]:
    """Per problem, how many of the exams solved it."""
    solved = [{p.problem_id for p in exam.predictions if p.correct} for exam in exams]
    return [sum(problem in right for right in solved) for problem in problems]


def _compare_groups(
    a: str, exams_a: Sequence[Contestant], b: str, exams_b: Sequence[Contestant]
) -> Comparison:
    by_seed: list[Comparison] = []
    for one in exams_a if len(exams_a) + len(exams_b) > 2 else []:
        for other in exams_b:
            if one.seed == other.seed or len(exams_a) == 1 or len(exams_b) == 1:
                seed = other.seed if len(exams_b) > 1 else one.seed
                by_seed.append(replace(_paired(one.name, [one], other.name, [other]), seed=seed))
    spread = mean_and_std([comparison.difference for comparison in by_seed])[1] if by_seed else None
    return replace(_paired(a, exams_a, b, exams_b), by_seed=tuple(by_seed), std=spread)


def _paired(a: str, exams_a: Sequence[Contestant], b: str, exams_b: Sequence[Contestant]) -> Comparison:
    problems = common_problems([*exams_a, *exams_b])
    right_a, right_b = right_counts(exams_a, problems), right_counts(exams_b, problems)
    gained = gains(right_a, len(exams_a), right_b, len(exams_b))
    unit = len(exams_a) * len(exams_b)
    low, high = paired_interval(gained, unit)
    verdicts = _verdicts(right_a, right_b) if unit == 1 else None
    return Comparison(
        a=a,
        b=b,
        seeds_a=len(exams_a),
        seeds_b=len(exams_b),
        problems=len(problems),
        problems_a=exams_a[0].problems,
        problems_b=exams_b[0].problems,
        accuracy_a=sum(right_a) / len(exams_a) / len(problems),
        accuracy_b=sum(right_b) / len(exams_b) / len(problems),
        difference=sum(gained) / unit / len(problems),
        low=low,
        high=high,
        p=mcnemar_p(verdicts.only_a, verdicts.only_b) if verdicts else sign_flip_p(gained),
        verdicts=verdicts,
    )


def _verdicts(right_a: Sequence[int], right_b: Sequence[int]) -> Verdicts:
    pairs = list(zip(right_a, right_b, strict=True))
    return Verdicts(pairs.count((1, 1)), pairs.count((1, 0)), pairs.count((0, 1)), pairs.count((0, 0)))


def _check_same(mine: Prediction, owner: Contestant, theirs: Prediction, other: Contestant) -> None:
    for part, one, two in [("question", mine.question, theirs.question), ("gold", mine.gold, theirs.gold)]:
        if one != two:
            raise DataError(
                other.exam / "predictions.jsonl",
                f"problem {mine.problem_id!r} has another {part} than in {owner.exam}; "
                "compare exams of the same task, split and seed of problems",
            )
