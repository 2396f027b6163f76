"""The verdicts of a protocol: claims about methods, over problem draws > mentors > students.

A verdict is about the highest level that was drawn often enough for its spread to be known with two
degrees of freedom:

- Three problem draws or more: the difference of every draw is one observation, t with draws − 1 degrees of
  freedom. Nothing else is needed: mentors, students and test problems differ between draws too.
- Fewer, but several mentors: the difference of every run is one observation, and draws are strata: t with
  draws · (mentors − 1) degrees of freedom, its error by `statistics.from_units`, because runs of a draw share
  their test problems. A reranker counts as a mentor: all students of a run share it. Where nobody learns
  from a mentor, or there is one mentor per draw:
- Students are the observations, draws are strata: `statistics.from_units`, as `limbeck compare` does.

What is above that level is taken as it is, and the table says so. Two problem draws cannot say how far a
difference carries to other problems: it would have one degree of freedom, with which t asks for 12.7 standard
errors. tests/campaigns/statistics.py simulates how often each of the three is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from limbeck.errors import DataError
from limbeck.protocol.compute import operations, stages_of
from limbeck.protocol.settings import Claim
from limbeck.protocol.written import Protocol
from limbeck.report.compare import common_problems, right_rows
from limbeck.report.contestants import Contestant, contestants, same_weights, shown, weights_of
from limbeck.report.tables import fewer_rationales
from limbeck.statistics import (
    ENOUGH,
    Estimate,
    Shares,
    Verdict,
    from_units,
    holm,
    mean_and_std,
    problem_variance,
    verdict,
)

Level = Literal["problem draws", "mentors", "students"]


@dataclass(frozen=True, slots=True)
class Side:
    """One contestant in all runs.

    Attributes:
        mentor: the one that its results hang on, if any.
        rows: [draw][mentor] -> exams × problems; the problems of a draw in the same order everywhere.
        ranked: its results hang on the run's reranker.
        weights: a hash of those in each exam: one training has one, whoever shares it; None: not known.
    """

    name: str
    mentor: str | None
    rows: Sequence[Sequence[Shares]]
    ranked: bool = False
    weights: Sequence[str | None] = ()

    @property
    def shares(self) -> set[str]:
        """What its results hang on, besides the problems, that is one for all students of a run."""
        return {name for name, there in (("mentor", self.mentor), ("reranker", self.ranked)) if there}


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim with its verdict; fractions, not per cent. `level` is the highest whose spread is counted."""

    claim: str
    a: str
    b: str
    difference: float
    margin: float
    low: float
    high: float
    error: float
    df: float
    p: float
    p_holm: float | None
    verdict: Verdict
    level: Level
    speaks_of: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A contestant over all runs; a spread is the standard deviation between means of its level.

    Means over its exams: `steps`, `tokens` read in its own training, `operations` (see `compute`) behind it.
    `notes` say what it had less of than its recipe wanted.
    """

    name: str
    accuracy: float
    between_draws: float | None
    between_mentors: float | None
    between_students: float | None
    exams: int
    problems: int
    steps: float | None
    tokens: float | None
    operations: float | None
    notes: Sequence[str] = ()


def judge(protocol: Protocol) -> tuple[list[Standing], list[Judged]]:
    """Read the exams of all runs; the standings of everybody, and every claim's verdict.

    Raises:
        DataError: a run holds no exam of somebody.
    """
    found: list[list[dict[str, list[Contestant]]]] = [[] for _ in range(protocol.claims.problem_draws)]
    for one in protocol.runs:
        found[one.draw].append(_by_name(protocol.run_folder(one)))
    names = [*(f"mentor {name}" for name, one in protocol.recipe.mentors.items() if one.exam)]
    names = [*protocol.recipe.students, *(name for name in names if name in found[0][0])]
    problems = [_problems(draw, names, protocol.folder) for draw in found]
    sides = {name: _side(name, protocol, found, problems) for name in names}
    standings = [_standing(side, found, _mean_operations(protocol, side, found)) for side in sides.values()]
    claims = protocol.claims
    return standings, judged(claims.compare, sides, decides=not claims.exploratory)


def judged(claims: Sequence[Claim], sides: Mapping[str, Side], *, decides: bool = True) -> list[Judged]:
    """Every claim with its verdict, by p after Holm's correction for all of them.

    Args:
        decides: without that nothing is claimed: p is not corrected and every verdict is "undecided".
    """
    known = [difference(sides[claim.a], sides[claim.b]) for claim in claims]
    margins = [claim.margin / 100 for claim in claims]
    ps = [estimate.p(margin) for (estimate, _), margin in zip(known, margins, strict=True)]
    corrected = holm(ps)
    found = []
    for claim, (estimate, level), margin, p, p_holm in zip(
        claims, known, margins, ps, corrected, strict=True
    ):
        low, high = estimate.interval()
        found.append(
            Judged(
                claim=claim.words if decides else claim.compared,
                a=claim.a,
                b=claim.b,
                difference=estimate.value,
                margin=margin,
                low=max(-1.0, low),
                high=min(1.0, high),
                error=estimate.error,
                df=estimate.freedom,
                p=p,
                p_holm=p_holm if decides and len(claims) > 1 else None,
                verdict=verdict(estimate.value - margin, p_holm, decides=decides),
                level=level,
                speaks_of=_speaks_of(level, sides[claim.a], sides[claim.b]),
            )
        )
    return found


def difference(a: Side, b: Side) -> tuple[Estimate, Level]:
    """accuracy(B) − accuracy(A), and the highest level whose spread its error counts.

    `ClaimsSettings` sees to it that there is one.
    """
    draws, mentors = len(a.rows), len(a.rows[0])
    if draws > ENOUGH:
        return _over_draws(a, b), "problem draws"
    if mentors > 1 and a.shares | b.shares:
        return _over_runs(a, b), "mentors"
    rows = [(np.vstack(a.rows[draw]), np.vstack(b.rows[draw])) for draw in range(draws)]
    if same_weights(a.weights, b.weights):  # one student each time, with two exams
        return from_units([[of_b - of_a] for of_a, of_b in rows]), "students"
    return from_units([[-of_a, of_b] for of_a, of_b in rows]), "students"


def _over_draws(a: Side, b: Side) -> Estimate:
    """t over the draws' differences; the error is never below what the test problems alone give."""
    draws = len(a.rows)
    gained = [_mean_row(b, p) - _mean_row(a, p) for p in range(draws)]
    values = [float(one.mean()) for one in gained]
    floor = sum(map(problem_variance, gained)) / draws**2
    return Estimate(fmean(values), math.sqrt(max(stdev(values) ** 2 / draws, floor)), draws - 1)


def _over_runs(a: Side, b: Side) -> Estimate:
    """t over the runs' differences, draws as strata.

    Not Satterthwaite's degrees of freedom: where runs bring two it would be wrong in 6 to 8 % of cases.
    """
    gained = [[_per_run(b, p) - _per_run(a, p)] for p in range(len(a.rows))]
    return replace(from_units(gained), freedom=sum(len(one) - 1 for [one] in gained))


def _per_run(side: Side, draw: int) -> Shares:
    """Runs × problems of a draw: the mean of the run's students."""
    return np.array([one.mean(axis=0) for one in side.rows[draw]])


def _mean_row(side: Side, draw: int) -> Shares:
    means: Shares = _per_run(side, draw).mean(axis=0)
    return means


def _speaks_of(level: Level, a: Side, b: Side) -> str:
    if level == "problem draws":
        return "new problems, mentors and students"
    draws, mentors = len(a.rows), len(a.rows[0])
    given = f"these {draws} problem draws" if draws > 1 else "this problem draw"
    if level == "mentors":
        return f"new mentors, students and test problems; {given}"
    if mentors == 1 and (shared := " and ".join(sorted(a.shares | b.shares))):
        given += f" with its {shared}" if draws == 1 else f", each with its {shared}"
    return f"new students and test problems; {given}"


def _by_name(run: Path) -> dict[str, list[Contestant]]:
    found: dict[str, list[Contestant]] = {}
    for one in contestants([run]):
        found.setdefault(shown(one.facts), []).append(one)
    return found


def _problems(
    runs: Sequence[Mapping[str, list[Contestant]]], names: Sequence[str], folder: Path
) -> list[str]:
    """The problems of a draw, in one order."""
    for name in names:
        if not all(name in one for one in runs):
            raise DataError(folder, f"a run holds no exam of {name}; the same command runs it again")
    return common_problems([each for one in runs for name in names for each in one[name]])


def _side(
    name: str,
    protocol: Protocol,
    found: Sequence[Sequence[Mapping[str, list[Contestant]]]],
    problems: Sequence[Sequence[str]],
) -> Side:
    teachers = protocol.teachers
    mentor = teachers.get(name) if name in teachers else name.removeprefix("mentor ")
    rows = [
        [right_rows(one[name], order) for one in draw] for draw, order in zip(found, problems, strict=True)
    ]
    weights = weights_of(exam for draw in found for one in draw for exam in one[name])
    return Side(name, mentor, rows, name in protocol.ranked, weights)


def _mean_operations(
    protocol: Protocol, side: Side, found: Sequence[Sequence[Mapping[str, list[Contestant]]]]
) -> float | None:
    """Of a contestant's exams; each stage is what it is in its own run."""
    labels = side.name in protocol.labelled
    costs = []
    for draw in found:
        for run in draw:
            folder = run[side.name][0].run
            assert folder is not None
            stages, mentor = stages_of(folder), folder / "mentors" / str(side.mentor) if labels else None
            costs += [operations(trained_in(one), stages, mentor) for one in run[side.name]]
    return _known(costs)


def trained_in(exam: Contestant) -> Path:
    """The stage of the training behind an exam; of a student taught in rounds, that of its last round."""
    folder, last = exam.exam.parent, exam.facts.after_round
    return folder if exam.facts.round is not None or last is None else folder / f"round{last}"


def _standing(
    side: Side, found: Sequence[Sequence[Mapping[str, list[Contestant]]]], operations: float | None
) -> Standing:
    exams = [each for draw in found for one in draw for each in one[side.name]]
    seeds = [[one.mean(axis=1).tolist() for one in draw] for draw in side.rows]
    runs = [[fmean(one) for one in draw] for draw in seeds]
    draws = [fmean(one) for one in runs]
    return Standing(
        name=side.name,
        accuracy=fmean(draws),
        between_draws=mean_and_std(draws)[1],
        between_mentors=_pooled(runs),
        between_students=_pooled([one for draw in seeds for one in draw]),
        exams=len(exams),
        problems=sum(draw[0].shape[1] for draw in side.rows),
        steps=_known([one.facts.steps for one in exams]),
        tokens=_known([one.facts.tokens for one in exams]),
        operations=operations,
        notes=fewer_rationales(
            side.name, [(one.facts.new_rationales, one.facts.wanted_rationales) for one in exams]
        ),
    )


def _pooled(groups: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation within groups of equal size; None when each is one value."""
    spreads = [mean_and_std(group)[1] for group in groups]
    known = [spread for spread in spreads if spread is not None]
    return math.sqrt(fmean(spread**2 for spread in known)) if known else None


def _known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def plain(protocol: Protocol, standings: Sequence[Standing], found: Sequence[Judged]) -> dict[str, Any]:
    """What is written to claims.json; of an exploratory protocol without verdicts and corrected p."""
    claims = protocol.claims
    without = {"verdict", "p_holm"} if claims.exploratory else set[str]()
    return {
        "protocol": protocol.digest,
        "problem_draws": claims.problem_draws,
        "mentors": claims.mentors,
        "students": claims.students,
        "exploratory": claims.exploratory,
        "test": "t",
        "standings": [asdict(one) for one in standings],
        "claims": [
            {name: value for name, value in asdict(one).items() if name not in without} for one in found
        ],
    }
