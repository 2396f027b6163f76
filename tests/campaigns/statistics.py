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
            accuracies = np.clip(middle + deviation * rng.standard_normal(count), 0.01, 0.99)
            ability = [math.sqrt(2) * NormalDist().inv_cdf(accuracy) for accuracy in accuracies]
            chance = rng.standard_normal((count, PROBLEMS))
            pair.append((np.array(ability)[:, None] + easy + chance > 0).astype(np.float64))
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


def _gains(a: Shares, b: Shares) -> list[int]:
    return [int(gain) for gain in len(a) * b.sum(axis=0) - len(b) * a.sum(axis=0)]


def _row(name: str, shares: list[float]) -> None:
    print(f"  {name:34}" + "".join(f"{100 * share:7.1f}" for share in shares), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=2000, help="comparisons per figure")
    size = parser.parse_args().size
    print(f"{size:,} comparisons per figure, {PROBLEMS} problems; % with p < {ALPHA}")
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


if __name__ == "__main__":
    main()
