"""How sure we are: intervals for accuracies, paired tests, seeds, many comparisons.

Everything here takes counts and returns fractions (0 to 1) or probabilities.
Nothing draws random numbers, so the same exam always gives the same figures.

A difference may speak of these very students (`paired_interval`, `mcnemar_p`, `sign_flip_p`: only the
problems could have been others) or of the methods behind them (`from_units`: the seeds could have been
others too). Only the second kind decides a claim; `verdict` is the one rule for that. How often
it is wrong, and how much it takes to see a difference, is simulated by tests/campaigns/statistics.py.

Sources:
    Wilson (1927), J. Am. Stat. Assoc. 22, 209-212: the score interval.
    Franco, Little, Louis, Slud (2019), J. Surv. Stat. Methodol. 7, 334-364:
        that interval with an effective sample size.
    McNemar (1947), Psychometrika 12, 153-157: the paired test.
    Bonett, Price (2012), J. Educ. Behav. Stat. 37, 479-488: the paired interval.
    Fagerland, Lydersen, Laake (2014), Stat. Med. 33, 2850-2875: which to choose.
    Holm (1979), Scand. J. Stat. 6, 65-70: many comparisons.
    Satterthwaite (1946), Biometrics Bull. 2, 110-114: degrees of freedom of a sum of variances.
    Press, Teukolsky, Vetterling, Flannery (2007), Numerical Recipes, 6.4 and 6.14.3: Student's t.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Shares = NDArray[np.float64]
"""Units × problems: the share of a unit's exams that solved the problem. A seed is a unit of one exam."""

Verdict = Literal["holds", "does not hold", "undecided"]

ALPHA = 0.05
"""A p below it decides."""

ENOUGH = 2
"""Degrees of freedom with which a spread is known well enough to decide: three seeds have them."""


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
    It speaks of new problems for these very seeds, not of new seeds; `accuracy_interval` does.
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


def accuracy_interval(right: Shares, confidence: float = 0.95) -> Interval:
    """Interval for a student's accuracy, from its seeds × problems.

    With three seeds it speaks of new seeds and problems: t's (`from_units`), and nowhere narrower than
    `seeds_interval`, which keeps its level near 0 and 1. With fewer it is that one, of these seeds only.
    """
    here = seeds_interval([int(count) for count in right.sum(axis=0)], len(right), confidence)
    if len(right) <= ENOUGH:
        return here
    new = from_units([[right]]).interval(confidence)
    return Interval(max(0.0, min(here.low, new.low)), min(1.0, max(here.high, new.high)))


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


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error and the degrees of freedom that the error is known with."""

    value: float
    error: float
    freedom: float

    def interval(self, confidence: float = 0.95) -> Interval:
        """The value ± t times its error."""
        half = t_quantile(0.5 + confidence / 2, self.freedom) * self.error
        return Interval(self.value - half, self.value + half)

    def p(self, expected: float = 0.0) -> float:
        """Two-sided p of the hypothesis that the true value is `expected`."""
        return t_p((self.value - expected) / self.error, self.freedom)


def from_units(strata: Sequence[Sequence[Shares]]) -> Estimate:
    """What units and problems say of a sum of means, such as accuracy(B) − accuracy(A), for new ones of both.

    Args:
        strata: per stratum its sides, each an array of units × problems. The value is the mean over
            strata of the sum over sides of the side's mean. For seeds of A and of B there is one
            stratum, [−A, B]; where every unit of B belongs to one of A (same mentor), [B − A].
            A stratum is what is taken as it is, such as a draw of problems. Each has problems of its
            own, and at least two units per side.

    Three things vary: the units of each side, the problems that all of them share, and what is left when
    both are known (n problems, S units):

        units     Σ s²/S      s² between the means of a side's units, which holds what is left too
        problems  s²/n        s² between problems of the sum over sides, which holds it once more
        left      Σ s²/(S·n)  s² of the residuals

    Their sum with what is left counted once, units + problems − left, is without bias for equal numbers of
    units; it is never taken to be below units or problems alone. s² of problems is Bonett and Price's, so no
    error is 0.
    Degrees of freedom by Satterthwaite: each side's units bring those of their variance, the rest has n + 1.

    Where sides have unequal numbers of units, the variance between units is also taken as one of all sides,
    and the wider interval counts: three units that happen to agree must not make ten others look sure.

    Raises:
        ValueError: a side with fewer than two units, or without problems.
    """
    sides = len(strata[0])
    if not all(len(s) == sides and all(len(x) > 1 and x.shape[1] for x in s) for s in strata):
        raise ValueError("every side needs two units or more, and problems")
    parts = [[_parts(side) for side in stratum] for stratum in strata]
    per_problem = [np.sum([side.mean(axis=0) for side in stratum], axis=0) for stratum in strata]
    weight = len(strata) ** -2
    problems = weight * sum(map(problem_variance, per_problem))
    left = weight * sum(part.left for stratum in parts for part in stratum)
    value = fmean(float(one.mean()) for one in per_problem)

    def estimate(groups: Sequence[Sequence[_Parts]]) -> Estimate:
        """With one variance between units for each group of sides."""
        units: list[float] = []
        freedom: list[int] = []
        for pooled in groups:
            freedom.append(sum(part.units - 1 for part in pooled))
            between = sum(part.squares for part in pooled) / freedom[-1]
            units.append(weight * between * sum(1 / part.units for part in pooled))
        variance = max(problems, sum(units), sum(units) + problems - left)
        rest = (variance - sum(units)) ** 2 / sum(len(one) + 1 for one in per_problem)
        spread = rest + sum(one**2 / known for one, known in zip(units, freedom, strict=True))
        return Estimate(value, math.sqrt(variance), variance**2 / spread)

    of_sides = [*zip(*parts, strict=True)]
    apart = estimate(of_sides)
    if len({part.units for stratum in parts for part in stratum}) == 1:
        return apart
    together = estimate([[part for stratum in parts for part in stratum]])
    return max(apart, together, key=lambda one: one.interval().high)


class _Parts(NamedTuple):
    """Of one side in one stratum: units, squares between their means, variance of what is left."""

    units: int
    squares: float
    left: float


def _parts(side: Shares) -> _Parts:
    units, problems = side.shape
    means = side.mean(axis=1)
    squares = float(((means - means.mean()) ** 2).sum())
    whole = float(((side - side.mean(axis=0)) ** 2).sum()) - problems * squares
    left = max(0.0, whole) / ((units - 1) * max(1, problems - 1)) / (units * problems)
    return _Parts(units, squares, left)


def problem_variance(gained: Shares) -> float:
    """Variance of the mean of per-problem values with a 1 and a −1 added, as in `paired_interval`."""
    count = len(gained) + 2
    mean = float(gained.sum()) / count
    return ((float((gained**2).sum()) + 2) / count - mean * mean) / count


def verdict(difference: float, p: float, *, decides: bool) -> Verdict:
    """The one rule for the words: is the difference above 0?

    Args:
        difference: less what the claim asks for, if it asks for more than 0.
        p: two-sided, after Holm's correction where several claims are tested.
        decides: the estimate counts what the claim is about: its seeds are known with `ENOUGH`
            degrees of freedom. Without that the verdict is always "undecided".
    """
    if not decides or p >= ALPHA:
        return "undecided"
    return "holds" if difference > 0 else "does not hold"


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


def t_p(t: float, freedom: float) -> float:
    """P(|T| ≥ |t|) of Student's t: I(ν/(ν+t²); ν/2, ½). Relative error below 1e-8.

    Raises:
        ValueError: `freedom` is not positive, or `t` is not a number.
    """
    if not freedom > 0 or math.isnan(t):
        raise ValueError(f"no t of {t} with {freedom} degrees of freedom")
    if math.isinf(t):
        return 0.0
    inside = freedom / (freedom + t * t)
    if inside < (freedom / 2 + 1) / (freedom / 2 + 2.5):  # where the fraction converges fast
        return _beta(inside, t * t / (freedom + t * t), freedom / 2, 0.5)
    return 1.0 - _beta(t * t / (freedom + t * t), inside, 0.5, freedom / 2)


def t_quantile(share: float, freedom: float) -> float:
    """The t with P(T < t) = `share`, for shares from ½ up; by bisection, to the last few bits.

    Raises:
        ValueError: `share` lies outside ½ to 1, or `freedom` is not positive.
    """
    if not 0.5 <= share < 1:
        raise ValueError(f"no quantile of a share {share}")
    wanted, low, high = 2 * (1 - share), 0.0, 1.0
    while t_p(high, freedom) > wanted:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_p(middle, freedom) > wanted else (low, middle)
    return (low + high) / 2


def _beta(x: float, rest: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I(x; a, b), `rest` = 1 − x, by Lentz's continued fraction."""
    if x == 0:
        return 0.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1) or tiny)
    fraction = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for numerator in (even, odd):
            d = 1.0 / (1.0 + numerator * d or tiny)
            c = 1.0 + numerator / c or tiny
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


def _quantile(confidence: float) -> float:
    """The z with P(−z < Z < z) = confidence for a standard normal Z."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)
