"""Paired comparison: which one solves problems that the other does not.

Two students are compared on the same problems, so that hard and easy questions
weigh on both equally. With three seeds or more a side, interval and p count seeds and problems:
they say what other seeds and other problems would give (`statistics.from_units`). With fewer they
speak of these seeds only, by the exact McNemar test or, where a side has several seeds, the exact sign-flip
test of the shares of seeds that solved each problem; then the verdict is always "undecided".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from limbeck.errors import DataError, InputError
from limbeck.exam_facts import DIRECT
from limbeck.records import Prediction
from limbeck.report.contestants import Contestant, by_group, contestants, same_weights, weights_of
from limbeck.statistics import (
    ENOUGH,
    Shares,
    Verdict,
    from_units,
    gains,
    holm,
    mcnemar_p,
    mean_and_std,
    paired_interval,
    sign_flip_p,
    verdict,
)

Test = Literal["t", "McNemar", "sign flips"]
"""`t` counts seeds and problems; the exact tests problems alone, for these seeds."""


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
    several; `std_a` and `std_b` are the standard deviations between seeds (None: one seed).
    `test` says what `low`, `high` and `p` count; `error` and `df` are the standard error and the degrees
    of freedom of `t`. `p_holm` is p after Holm's correction for all comparisons of one call (None: there was
    only one). `verdict` says whether B is better than A. `verdicts` is for one seed a side only;
    `by_seed` pairs equal seeds (or a lone exam with every seed of the other side), `seed` says which.
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
    test: Test
    verdict: Verdict = "undecided"
    p_holm: float | None = None
    error: float | None = None
    df: float | None = None
    std_a: float | None = None
    std_b: float | None = None
    verdicts: Verdicts | None = None
    by_seed: tuple[Comparison, ...] = ()
    seed: int | None = None


def compare(exams: Sequence[Contestant], baseline: str | None = None) -> list[Comparison]:
    """Compare every two students (their seeds taken together), or all with one.

    Args:
        exams: see `contestants.contestants`; seeds of one student form one side.
        baseline: a student's name: only comparisons with it, as side A, and all of them. None: see `pairs`.

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
        message = (
            f"these exams are of different tasks or splits, or of one model ({names}); compare several "
            "models on the same"
        )
        raise DataError(exams[0].exam, message)
    found = [_compare_groups(a, groups[a], b, groups[b]) for a, b in wanted]
    if len(found) > 1:
        corrected = holm([one.p for one in found])
        found = [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]
    return [replace(one, verdict=_verdict(one)) for one in found]


def compare_all(exams: Sequence[Contestant], baseline: str | None = None) -> list[Comparison]:
    """As `compare`, and none where there is nobody to compare with, such as a teacher that did not sit it."""
    if not pairs(exams) or (baseline is not None and baseline not in by_group(exams)):
        return []
    return compare(exams, baseline)


def compare_other(paths: Sequence[Path], task: str, baseline: str | None = None) -> list[Comparison]:
    """The comparisons that belong to another exam.

    Args:
        paths: see `contestants.contestants`.
        task: one of `contestants.other_exams`. Of `DIRECT` every model is compared with itself alone.
        baseline: see `compare`.
    """
    exams = contestants(paths, task)
    return against_direct(contestants(paths), exams) if task == DIRECT else compare_all(exams, baseline)


def against_direct(exams: Sequence[Contestant], direct: Sequence[Contestant]) -> list[Comparison]:
    """Every model with its reasoning (B) against itself without (A): the same weights, the same problems.

    Args:
        exams: the usual ones.
        direct: those without reasoning.
    """
    usual, found = {_who(one): one for one in exams}, []
    for group, members in by_group(direct).items():
        pairs = [(one, usual[_who(one)]) for one in members if _who(one) in usual]
        if pairs:
            without, reasoned = zip(*pairs, strict=True)
            found.append(_paired(f"{group} without reasoning", without, group, reasoned, same=True))
    corrected = holm([one.p for one in found]) if len(found) > 1 else [None] * len(found)
    found = [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]
    return [replace(one, verdict=_verdict(one)) for one in found]


def _who(exam: Contestant) -> tuple[object, ...]:
    facts = exam.facts
    return (exam.run, facts.role, facts.name, facts.seed, facts.round, facts.split)


def _verdict(one: Comparison) -> Verdict:
    p = one.p if one.p_holm is None else one.p_holm
    return verdict(one.difference, p, decides=one.test == "t")


def pairs(exams: Sequence[Contestant]) -> list[tuple[str, str]]:
    """Every two students that were examined on the same split of the same task, the earlier one first.

    Without mentors and verifiers if two others are left, and without exams on dev if two on test are left.
    Of a student that trains in rounds each round is paired with the one before, the last one with the
    first one, and only the last one with others.
    """
    groups = by_group(exams)
    shipped = [name for name, members in groups.items() if members[0].role not in ("mentor", "verifier")]
    tested = [name for name in shipped if groups[name][0].facts.split in ("", "test")]
    wanted = next((names for names in (tested, shipped) if len(names) > 1), list(groups))
    rounds = _rounds({name: groups[name] for name in wanted})
    within = {frozenset(pair) for chain in rounds for pair in (*pairwise(chain), (chain[0], chain[-1]))}
    last = {chain[-1] for chain in rounds}
    return [
        (a, b)
        for a, b in combinations(groups, 2)
        if _same_exam(groups[a][0], groups[b][0]) and ({a, b} in within or {a, b} <= last)
    ]


def _rounds(groups: Mapping[str, Sequence[Contestant]]) -> list[list[str]]:
    """The groups of each student, its rounds in their order and the student itself behind them.

    A round from which the student's own weights come is left out: both are the same model.
    """
    chains: dict[tuple[str, str], list[str]] = {}
    for name, members in groups.items():
        chains.setdefault((members[0].role, members[0].student), []).append(name)
    found = []
    for chain in chains.values():
        chain.sort(key=lambda name: _round_of(groups[name]))
        own = {one.facts.after_round for one in groups[chain[-1]]}
        found.append([name for name in chain[:-1] if own != {groups[name][0].facts.round}] + chain[-1:])
    return found


def _round_of(members: Sequence[Contestant]) -> float:
    round = members[0].facts.round
    return math.inf if round is None else round


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


def right_rows(exams: Sequence[Contestant], problems: Sequence[str]) -> Shares:
    """Exams × problems: 1 where the exam's model solved the problem, else 0."""
    solved = [{p.problem_id for p in exam.predictions if p.correct} for exam in exams]
    return np.array([[float(problem in right) for problem in problems] for right in solved])


def right_counts(rows: Shares) -> list[int]:
    """Per problem, how many of the exams solved it."""
    return [int(count) for count in rows.sum(axis=0)]


def _compare_groups(
    a: str, exams_a: Sequence[Contestant], b: str, exams_b: Sequence[Contestant]
) -> Comparison:
    by_seed: list[Comparison] = []
    for one in exams_a if len(exams_a) + len(exams_b) > 2 else []:
        for other in exams_b:
            if one.seed == other.seed or len(exams_a) == 1 or len(exams_b) == 1:
                seed = other.seed if len(exams_b) > 1 else one.seed
                by_seed.append(replace(_paired(one.name, [one], other.name, [other]), seed=seed))
    return replace(_paired(a, exams_a, b, exams_b), by_seed=tuple(by_seed))


def _paired(
    a: str, exams_a: Sequence[Contestant], b: str, exams_b: Sequence[Contestant], *, same: bool = False
) -> Comparison:
    """B against A; `same`: exams in one place of both are known to be of the same weights."""
    problems = common_problems([*exams_a, *exams_b])
    rows_a, rows_b = right_rows(exams_a, problems), right_rows(exams_b, problems)
    right_a, right_b = right_counts(rows_a), right_counts(rows_b)
    gained = gains(right_a, len(exams_a), right_b, len(exams_b))
    unit = len(exams_a) * len(exams_b)
    low, high = paired_interval(gained, unit)
    one = Comparison(
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
        p=sign_flip_p(gained),
        test="sign flips",
        std_a=mean_and_std(rows_a.mean(axis=1).tolist())[1],
        std_b=mean_and_std(rows_b.mean(axis=1).tolist())[1],
    )
    if unit == 1:
        verdicts = _verdicts(right_a, right_b)
        p = mcnemar_p(verdicts.only_a, verdicts.only_b)
        return replace(one, p=p, test="McNemar", verdicts=verdicts)
    if min(len(rows_a), len(rows_b)) <= ENOUGH:
        return one
    same = same or same_weights(weights_of(exams_a), weights_of(exams_b))
    return _over_seeds(one, [rows_b - rows_a] if same else [-rows_a, rows_b])


def _over_seeds(one: Comparison, sides: Sequence[Shares]) -> Comparison:
    """The comparison with interval and p for other seeds and problems; for `sides` see `from_units`."""
    found = from_units([sides])
    low, high = found.interval()
    return replace(
        one,
        low=max(-1.0, low),
        high=min(1.0, high),
        p=found.p(),
        test="t",
        error=found.error,
        df=found.freedom,
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
