"""How often the verdict is wrong, and how often it sees a difference: simulated, with seeds that differ.

    python -m tests.campaigns.statistics --size 20000

A student solves a problem if its ability, how easy the problem is, and chance add up to more than 0, all
normal. How easy a problem is, both methods share; with `own` above 0 a part of it is each method's own. The
ability is set so that a seed's accuracy over all problems is normal with the given deviation. A verdict on
two methods whose accuracies are equal is a false alarm.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from limbeck.protocol.judging import Side, difference
from limbeck.statistics import ALPHA, Shares, from_units, sign_flip_p

PROBLEMS = 500
DEVIATIONS = (0.0, 0.02, 0.042, 0.06, 0.13)
"""Standard deviations between the accuracies of seeds. The published claims' own are 0.012 to 0.132."""
SIZES = ((3, 3), (5, 5), (3, 5))
"""Seeds of A and of B."""
GAPS = (0.05, 0.10)
MIDDLE = 0.7


def exams(
    rng: np.random.Generator,
    seeds: tuple[int, int],
    deviations: tuple[float, float],
    *,
    gap: float = 0.0,
    own: float = 0.0,
) -> Iterator[tuple[Shares, Shares]]:
    """Endless pairs of seeds × problems, of A and of B, whose expected accuracies differ by `gap`."""
    while True:
        shared = rng.standard_normal(PROBLEMS)
        pair = []
        for count, deviation, middle in zip(
            seeds, deviations, (MIDDLE - gap / 2, MIDDLE + gap / 2), strict=True
        ):
            easy = math.sqrt(1 - own) * shared + math.sqrt(own) * rng.standard_normal(PROBLEMS)
            pair.append(_exams(rng, middle, deviation, count, easy))
        yield pair[0], pair[1]


def found(
    size: int, seeds: tuple[int, int], deviations: tuple[float, float], *, draw: int = 0, **about: float
) -> float:
    """The share of `size` comparisons whose p is below 0.05."""
    drawn = exams(np.random.default_rng(draw), seeds, deviations, **about)
    pairs = (next(drawn) for _ in range(size))
    return sum(from_units([[-a, b]]).p() < ALPHA for a, b in pairs) / size


def found_over_problems_alone(size: int, seeds: tuple[int, int], deviation: float) -> float:
    """The same by the test that takes the seeds as they are."""
    drawn = exams(np.random.default_rng(0), seeds, (deviation, deviation))
    pairs = (next(drawn) for _ in range(size))
    return sum(sign_flip_p(_gains(a, b)) < ALPHA for a, b in pairs) / size


COUNTS = ((2, 2, 5), (1, 3, 3), (1, 5, 5), (3, 1, 1), (3, 2, 3), (5, 1, 3))
"""Problem draws, mentors and students of protocols."""
SPREADS = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.042), (0.0, 0.042, 0.042), (0.06, 0.042, 0.042), (0.06, 0.13, 0.042))
"""Deviations between draws, mentors and students. Half of the draws' is common to both methods."""
MENTORS = {"the same mentor": ("m", "m"), "B has a mentor": (None, "m"), "no mentor": (None, None)}


def protocols(
    rng: np.random.Generator,
    counts: tuple[int, int, int],
    spreads: tuple[float, float, float],
    mentors: tuple[str | None, str | None],
    gap: float = 0.0,
) -> Iterator[tuple[Side, Side]]:
    """Endless pairs of contestants whose expected accuracies differ by `gap`.

    Over all problem draws, where a verdict speaks of all; else over those at hand.
    """
    draws, groups, students = counts
    while True:
        easy = rng.standard_normal((draws, PROBLEMS))
        common = rng.standard_normal(draws)
        own = rng.standard_normal((2, draws))
        own = own if draws > 2 else own - own.mean(axis=1, keepdims=True)
        pair = []
        for number, mentor in enumerate(mentors):
            middle = MIDDLE + gap * (number - 0.5)
            rows = []
            for draw in range(draws):
                here = middle + spreads[0] * math.sqrt(0.5) * (common[draw] + own[number, draw])
                lucky = rng.standard_normal(groups) * (spreads[1] if mentor else 0.0)
                rows.append([_exams(rng, here + one, spreads[2], students, easy[draw]) for one in lucky])
            pair.append(Side("ab"[number], mentor, rows))
        yield pair[0], pair[1]


def _exams(rng: np.random.Generator, middle: float, spread: float, count: int, easy: Shares) -> Shares:
    accuracies = np.clip(middle + spread * rng.standard_normal(count), 0.01, 0.99)
    ability = [math.sqrt(2) * NormalDist().inv_cdf(accuracy) for accuracy in accuracies]
    chance = rng.standard_normal((count, len(easy)))
    return (np.array(ability)[:, None] + easy + chance > 0).astype(np.float64)


def found_by_protocols(
    size: int,
    counts: tuple[int, int, int],
    spreads: tuple[float, float, float],
    mentors: tuple[str | None, str | None],
    gap: float = 0.0,
) -> float:
    """The share of `size` protocols whose p is below 0.05."""
    drawn = protocols(np.random.default_rng(0), counts, spreads, mentors, gap)
    pairs = (next(drawn) for _ in range(size))
    return sum(difference(a, b)[0].p() < ALPHA for a, b in pairs) / size


def _gains(a: Shares, b: Shares) -> list[int]:
    return [int(gain) for gain in len(a) * b.sum(axis=0) - len(b) * a.sum(axis=0)]


def _row(name: str, shares: list[float]) -> None:
    print(f"  {name:34}" + "".join(f"{100 * share:7.1f}" for share in shares), flush=True)


def _seeds(size: int) -> None:
    print("seeds of A and B; deviation between seeds, in points")
    print(" " * 36 + "".join(f"{100 * one:7.1f}" for one in DEVIATIONS))
    print("false alarms: equal methods")
    for seeds in SIZES:
        _row(f"{seeds[0]} and {seeds[1]}", [found(size, seeds, (one, one)) for one in DEVIATIONS])
    print("false alarms: each method finds other problems easy (own 0.3)")
    for seeds in SIZES:
        shares = [found(size, seeds, (one, one), own=0.3) for one in DEVIATIONS]
        _row(f"{seeds[0]} and {seeds[1]}", shares)
    print("false alarms: B's seeds differ by this, A's by 1.2")
    for seeds in (*SIZES, (5, 3)):
        _row(f"{seeds[0]} and {seeds[1]}", [found(size, seeds, (0.012, one)) for one in DEVIATIONS])
    print("false alarms of the exact test over problems alone (a twentieth of the comparisons)")
    for seeds in SIZES:
        shares = [found_over_problems_alone(max(20, size // 20), seeds, one) for one in DEVIATIONS]
        _row(f"{seeds[0]} and {seeds[1]}", shares)
    for gap in GAPS:
        print(f"power: a true difference of {100 * gap:.0f} points")
        for seeds in (*SIZES, (10, 10)):
            shares = [found(size, seeds, (one, one), gap=gap) for one in DEVIATIONS]
            _row(f"{seeds[0]} and {seeds[1]}", shares)


def _protocols(size: int) -> None:
    print("protocols; columns: deviations between draws/mentors/students, in points")
    headings = ("/".join(f"{100 * one:.0f}" for one in spreads) for spreads in SPREADS)
    print(" " * 36 + "".join(f"{heading:>9}" for heading in headings))
    for gap in (0.0, *GAPS):
        print(f"power: a true difference of {100 * gap:.0f} points" if gap else "false alarms")
        for counts in COUNTS:
            for name, mentors in MENTORS.items():
                shares = [found_by_protocols(size, counts, one, mentors, gap) for one in SPREADS]
                title = f"{counts[0]} draws × {counts[1]} × {counts[2]}, {name}"
                print(f"  {title:34}" + "".join(f"{100 * one:9.1f}" for one in shares), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=2000, help="comparisons per figure")
    parser.add_argument("--part", choices=("seeds", "protocols"), help="both when not given")
    given = parser.parse_args()
    print(f"{given.size:,} comparisons per figure, {PROBLEMS} problems; % with p < {ALPHA}")
    if given.part != "protocols":
        _seeds(given.size)
    if given.part != "seeds":
        _protocols(given.size)


if __name__ == "__main__":
    main()
