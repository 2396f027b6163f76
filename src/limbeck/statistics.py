"""How sure we are: intervals for accuracies, paired tests, seeds, many comparisons.

Everything here takes counts and returns fractions (0 to 1) or probabilities.
Nothing draws random numbers, so the same exam always gives the same figures, and
the functions for several seeds give with one seed exactly what the textbook
functions for a 2×2 table give.

Sources:
    Wilson (1927), J. Am. Stat. Assoc. 22, 209-212: the score interval.
    Franco, Little, Louis, Slud (2019), J. Surv. Stat. Methodol. 7, 334-364:
        that interval with an effective sample size.
    McNemar (1947), Psychometrika 12, 153-157: the paired test.
    Bonett, Price (2012), J. Educ. Behav. Stat. 37, 479-488: the paired interval.
    Fagerland, Lydersen, Laake (2014), Stat. Med. 33, 2850-2875: which to choose.
    Holm (1979), Scand. J. Stat. 6, 65-70: many comparisons.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """The two ends of an interval."""

    low: float
    high: float


def wilson(correct: float, total: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion `correct / total`.

    It stays inside 0 to 1, is never of zero width and keeps its level for
    accuracies near 0 and 1, where the textbook p ± 1.96·se fails.

    Raises:
        ValueError: `total` is not positive, or `correct` lies outside 0 to `total`.
    """
    if total <= 0 or not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is not a proportion")
    z2 = _quantile(confidence) ** 2
    share = correct / total
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * total)) / total) / (1 + z2 / total)
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    return Interval(low, 1.0 if correct == total else min(1.0, centre + half))


def seeds_interval(right: Sequence[int], seeds: int, confidence: float = 0.95) -> Interval:
    """Interval for the mean accuracy of one student over several seeds.

    Args:
        right: per problem, how many of the seeds solved it (0 to `seeds`).
        seeds: number of exams, one per seed.

    A problem solved by one seed tends to be solved by the next, so three exams of
    500 problems are not 1,500 observations. Wilson's interval is taken with the
    effective number n·p(1−p)/s², s² the variance between problems of the share of
    seeds that solved them; at least n (the seeds agree everywhere), at most
    n·seeds (they have nothing in common). One seed: Wilson's interval itself.
    It speaks of new problems for these very seeds, not of new seeds.
    """
    problems = len(right)
    if not problems or seeds < 1 or min(right) < 0 or max(right) > seeds:
        raise ValueError(f"{problems} problems with counts outside 0 to {seeds} seeds")
    total = sum(right)
    # n·p(1−p)/s² in integers, so that agreement everywhere gives n and not n ± rounding
    within = total * (seeds * problems - total)
    between = problems * sum(count * count for count in right) - total * total
    effective = float(problems * seeds)
    if within == 0:
        effective = float(problems)
    elif between > 0:
        effective = min(effective, problems * (within / between))
    share = total / (seeds * problems)
    correct = effective if total == seeds * problems else share * effective
    return wilson(correct, effective, confidence)


def gains(right_a: Sequence[int], seeds_a: int, right_b: Sequence[int], seeds_b: int) -> list[int]:
    """What B gains over A on each problem, in units of 1 / (seeds_a · seeds_b).

    Args:
        right_a, right_b: per problem (in the same order), how many seeds solved it.
    """
    return [b * seeds_a - a * seeds_b for a, b in zip(right_a, right_b, strict=True)]


def paired_interval(gained: Sequence[int], unit: int = 1, confidence: float = 0.95) -> Interval:
    """Interval for accuracy(B) − accuracy(A) on the same problems.

    Args:
        gained: per problem, what B gains over A, in units of 1/`unit`; with one
            seed a side: 1 only B is right, −1 only A, 0 both or neither.
        unit: see `gains`.

    Bonett and Price's adjusted Wald interval: one problem that only A and one that
    only B solves are added, then mean ± z·se of the per-problem differences.
    Fagerland et al. (2014) recommend it along with Tango's and Newcombe's score
    intervals, which it nearly equals; it is chosen because it alone extends to
    per-problem means over seeds, so that one and several seeds are judged in the same way.
    The ends can lie off-centre around the plain difference; never of zero width.

    Raises:
        ValueError: no problems, or a gain outside −unit to unit.
    """
    if not gained or max(map(abs, gained)) > unit:
        raise ValueError(f"{len(gained)} problems with gains outside ±{unit}")
    problems = len(gained) + 2
    mean = sum(gained) / unit / problems
    square = (sum(gain * gain for gain in gained) / unit**2 + 2) / problems
    half = _quantile(confidence) * math.sqrt((square - mean * mean) / problems)
    return Interval(max(-1.0, mean - half), min(1.0, mean + half))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test on the problems that exactly one of two solved.

    p = min(1, 2·P(X ≤ min(only_a, only_b))), X ~ Binomial(only_a + only_b, ½);
    1 when there are none. Summed from the largest term down, so that counts of
    any size neither overflow nor lose the tail.
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"counts cannot be negative: {only_a}, {only_b}")
    discordant, few = only_a + only_b, min(only_a, only_b)
    if only_a == only_b:
        return 1.0
    log_choose = math.lgamma(discordant + 1) - math.lgamma(few + 1) - math.lgamma(discordant - few + 1)
    largest = math.exp(log_choose - discordant * math.log(2))
    below = np.arange(few, 0, -1, dtype=np.float64)
    ratios = np.cumprod(below / (discordant - below + 1))
    return min(1.0, 2 * largest * (1 + float(ratios.sum())))


def sign_flip_p(gained: Sequence[int]) -> float:
    """Exact two-sided paired permutation test; McNemar's with one seed a side.

    Args:
        gained: see `gains`. If A and B were the same, a problem's gain would be as
            likely −g as g. p is the share of all 2ⁿ sign patterns whose sum is at
            least as far from 0 as the observed one (absolute error below 1e-9).

    The distribution of the sum comes from its characteristic function
    Π cos(|g|·t), read back by one Fourier transform: no sampling, no seed.
    """
    sizes = Counter(abs(gain) for gain in gained if gain)
    if not sizes:
        return 1.0
    step = math.gcd(*sizes)
    farthest = sum(size * count for size, count in sizes.items()) // step
    observed = abs(sum(gained)) // step
    if observed == 0:
        return 1.0
    period = 2 * farthest + 2
    angle = 2 * np.pi * np.arange(period // 2 + 1) / period
    wave = np.ones_like(angle)
    for size, count in sizes.items():
        wave *= np.cos(angle * (size // step)) ** count
    probability = np.fft.irfft(wave, period)
    tail = float(np.clip(probability[observed : farthest + 1], 0.0, None).sum())
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    Below 0.05 after adjustment: the chance that any of the differences called real
    is not stays under 5%, however the comparisons depend on each other.
    """
    adjusted = [0.0] * len(p_values)
    floor = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = floor
    return adjusted


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n − 1); None for a single value.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to average")
    return fmean(values), stdev(values) if len(values) > 1 else None


def _quantile(confidence: float) -> float:
    """The z with P(−z < Z < z) = confidence for a standard normal Z."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)
