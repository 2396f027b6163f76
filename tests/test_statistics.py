"""Statistics against published examples and slow independent references."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from limbeck.statistics import (
    Interval,
    accuracy_interval,
    from_units,
    gains,
    holm,
    mcnemar_p,
    mean_and_std,
    paired_interval,
    seeds_interval,
    sign_flip_p,
    t_p,
    t_quantile,
    verdict,
    wilson,
)
from tests.campaigns import statistics as campaign


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # Newcombe (1998), Stat. Med. 17, 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_published(correct: int, total: int, low: float, high: float) -> None:
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_solve_the_score_equation() -> None:
    for correct, total in [(1, 7), (3, 7), (499, 500), (250, 500)]:
        for end in wilson(correct, total):
            error = math.sqrt(end * (1 - end) / total)
            assert abs(correct / total - end) / error == pytest.approx(1.959964, rel=1e-5)


def test_wilson_limits() -> None:
    assert wilson(0, 500).low == 0.0
    assert wilson(500, 500).high == 1.0
    assert wilson(500, 500).low == pytest.approx(1 - wilson(0, 500).high)
    narrow, wide = wilson(30, 60, 0.5), wilson(30, 60, 0.99)
    assert wide.low < narrow.low < 0.5 < narrow.high < wide.high
    for correct, total in [(0, 0), (5, 4), (-1, 4)]:
        with pytest.raises(ValueError, match="not a proportion"):
            wilson(correct, total)


def table(both: int, only_a: int, only_b: int, neither: int) -> list[int]:
    return [0] * (both + neither) + [-1] * only_a + [1] * only_b


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # the worked example of R's statpsych::ci.prop.ps(0.05, 12, 4, 26, 6)
        ((6, 4, 26, 12), 0.2548067, 0.6251933),
        # by hand, the table of Fagerland et al. (2014): (2 − 8)/23 ± 1.95996·sqrt((10/23 − (6/23)²)/23)
        ((1, 7, 1, 12), -0.5083593, -0.0133798),
    ],
)
def test_paired_interval_published(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    assert paired_interval(table(*counts)) == pytest.approx((low, high), abs=5e-7)


def test_paired_interval_is_antisymmetric_and_never_empty() -> None:
    forward, backward = paired_interval(table(10, 3, 9, 8)), paired_interval(table(10, 9, 3, 8))
    assert forward == pytest.approx((-backward.high, -backward.low))
    same = paired_interval(table(500, 0, 0, 0))
    assert -0.01 < same.low < 0 < same.high < 0.01
    assert paired_interval(table(0, 0, 40, 0)).high == 1.0
    assert paired_interval(table(0, 0, 40, 0)).low > 0.85
    with pytest.raises(ValueError, match="0 problems"):
        paired_interval([])
    with pytest.raises(ValueError, match="outside ±1"):
        paired_interval([0, 2])


def exact_coverage(problems: int, share_a: float, share_b: float) -> float:
    """P(the interval covers share_b − share_a), by enumeration of all tables."""
    covered = 0.0
    for only_a in range(problems + 1):
        for only_b in range(problems + 1 - only_a):
            rest = problems - only_a - only_b
            ways = math.comb(problems, only_a) * math.comb(problems - only_a, only_b)
            weight = ways * share_a**only_a * share_b**only_b * (1 - share_a - share_b) ** rest
            low, high = paired_interval(table(rest, only_a, only_b, 0))
            covered += weight * (low <= share_b - share_a <= high)
    return covered


@pytest.mark.parametrize("shares", [(0.02, 0.02), (0.05, 0.2), (0.1, 0.6), (0.3, 0.3), (0.0, 0.1)])
def test_paired_interval_covers_what_it_claims(shares: tuple[float, float]) -> None:
    assert 0.93 <= exact_coverage(40, *shares) <= 0.999


def naive_mcnemar(only_a: int, only_b: int) -> float:
    total, few = only_a + only_b, min(only_a, only_b)
    return min(1.0, float(Fraction(2 * sum(math.comb(total, k) for k in range(few + 1)), 2**total)))


def test_mcnemar_by_hand() -> None:
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(5, 5) == 1.0
    assert mcnemar_p(0, 1) == pytest.approx(1.0)
    assert mcnemar_p(0, 6) == pytest.approx(2 / 64)
    assert mcnemar_p(1, 7) == pytest.approx(0.0703125)  # Fagerland et al. (2014): 0.0703
    assert mcnemar_p(7, 1) == mcnemar_p(1, 7)
    with pytest.raises(ValueError, match="negative"):
        mcnemar_p(-1, 3)


def test_mcnemar_equals_exact_integers() -> None:
    for only_a, only_b in itertools.product([0, 1, 2, 9, 40, 333, 900], repeat=2):
        assert mcnemar_p(only_a, only_b) == pytest.approx(naive_mcnemar(only_a, only_b), rel=1e-9)


def test_mcnemar_of_large_counts_meets_the_normal_limit() -> None:
    only_a, only_b = 500_000, 502_000
    z = (only_b - only_a - 1) / math.sqrt(only_a + only_b)  # continuity correction
    assert mcnemar_p(only_a, only_b) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert mcnemar_p(0, 1_000_000) == 0.0


def test_sign_flip_with_one_seed_is_mcnemar() -> None:
    for only_a, only_b in [(0, 0), (0, 5), (3, 11), (40, 61), (400, 470), (7, 7)]:
        gained = table(17, only_a, only_b, 5)
        expected = pytest.approx(mcnemar_p(only_a, only_b), abs=1e-9)
        assert sign_flip_p(gained) == expected
        assert sign_flip_p([6 * gain for gain in gained]) == expected


def test_sign_flip_equals_enumeration_of_all_signs() -> None:
    draw = random.Random(3)
    for _ in range(20):
        gained = [draw.randint(-4, 6) for _ in range(9)]
        sums = [
            sum(s * g for s, g in zip(signs, gained, strict=True))
            for signs in itertools.product([-1, 1], repeat=9)
        ]
        share = sum(abs(value) >= abs(sum(gained)) for value in sums) / len(sums)
        assert sign_flip_p(gained) == pytest.approx(share, abs=1e-9)


def test_gains_of_unequal_seeds() -> None:
    assert gains([1, 0], 1, [3, 2], 3) == [0, 2]  # 3/3 − 1/1 and 2/3 − 0/1, in thirds
    with pytest.raises(ValueError):
        gains([1], 1, [1, 1], 1)


def test_one_seed_and_agreeing_seeds_are_one_wilson() -> None:
    expected = wilson(30, 40)
    assert seeds_interval([1] * 30 + [0] * 10, 1) == pytest.approx(expected)
    assert seeds_interval([3] * 30 + [0] * 10, 3) == pytest.approx(expected)
    assert seeds_interval([3] * 40, 3) == pytest.approx(wilson(40, 40))
    assert seeds_interval([0] * 40, 3) == pytest.approx(wilson(0, 40))


def test_disagreeing_seeds_narrow_the_interval_but_never_below_independence() -> None:
    half_agreeing = seeds_interval([3] * 20 + [2, 1] * 5 + [0] * 10, 3)
    independent = wilson(0.5 * 120, 120)
    assert seeds_interval([1, 2] * 20, 3) == pytest.approx(independent)
    assert width(independent) < width(half_agreeing) < width(wilson(25, 40))
    for right, seeds in [([], 3), ([4], 3), ([-1], 3)]:
        with pytest.raises(ValueError):
            seeds_interval(right, seeds)


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_seeds_interval_covers_new_problems() -> None:
    """Three seeds that share most of their luck: about 95 of 100 intervals cover."""
    draw = random.Random(0)
    covered = 0
    for _ in range(400):
        right = []
        for _ in range(80):
            chance = 0.95 if draw.random() < 0.6 else 0.2  # easy or hard problem
            right.append(sum(draw.random() < chance for _ in range(3)))
        low, high = seeds_interval(right, 3)
        covered += low <= 0.6 * 0.95 + 0.4 * 0.2 <= high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [  # mpmath's betainc with 30 digits
        (0.01, 1, 0.9936340144701835),
        (12.706204736174698, 1, 0.05000000000000003),
        (300, 1, 0.0021220580484409717),
        (0.3, 1.7, 0.79680291839745),
        (4.3, 2, 0.05005715411709159),
        (2.776, 3.9, 0.05146327344161644),
        (1.0, 2.5, 0.4040610272782735),
        (40, 2.5, 0.00014195634290493383),
        (2.0, 7.3, 0.08394103933410321),
        (1e-06, 30, 0.9999992087356302),
        (12.7, 30, 1.3358175050038543e-13),
        (1.96, 499.5, 0.05055134579442678),
        (4.3, 5000, 1.7405044545479993e-05),
    ],
)
def test_student_against_high_precision(t: float, freedom: float, p: float) -> None:
    assert t_p(t, freedom) == pytest.approx(p, rel=1e-10, abs=0)
    assert t_p(-t, freedom) == t_p(t, freedom)
    assert t_quantile(1 - p / 2, freedom) == pytest.approx(t, rel=1e-3 if p < 1e-12 else 1e-8)


def test_student_limits() -> None:
    assert (t_p(0.0, 3.0), t_p(math.inf, 3.0), t_p(1e200, 3.0)) == (1.0, 0.0, 0.0)
    assert t_quantile(0.5, 3.0) == pytest.approx(0.0, abs=1e-12)
    assert t_p(1.959963985, 1e9) == pytest.approx(0.05, rel=1e-5)
    for t, freedom in [(1.0, 0.0), (1.0, -1.0), (math.nan, 3.0), (1.0, math.nan)]:
        with pytest.raises(ValueError, match="degrees of freedom"):
            t_p(t, freedom)
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(1.0, 3.0)


def same_everywhere(accuracies: list[float], problems: int) -> np.ndarray:
    """Seeds that solve the first problems, as many as their accuracy says."""
    return np.array([[float(i < share * problems) for i in range(problems)] for share in accuracies])


def test_seeds_that_differ_widely_are_judged_as_welch_does() -> None:
    """With very many problems nothing but the seeds' means is left: the t test for unequal variances."""
    a, b = [0.2, 0.5, 0.65], [0.7, 0.72, 0.71, 0.75]
    found = from_units([[-same_everywhere(a, 100_000), same_everywhere(b, 100_000)]])
    part_a, part_b = (float(np.var(side, ddof=1)) / len(side) for side in (a, b))
    freedom = (part_a + part_b) ** 2 / (part_a**2 / 2 + part_b**2 / 3)
    assert found.value == pytest.approx(np.mean(b) - np.mean(a))
    assert found.error == pytest.approx(math.sqrt(part_a + part_b), rel=1e-3)
    assert found.freedom == pytest.approx(freedom, rel=1e-3)
    assert found.p() == pytest.approx(t_p(found.value / found.error, freedom), rel=1e-2)


def test_seeds_that_agree_leave_the_problems() -> None:
    """The paired interval of one exam a side, if all seeds of a side answer the same."""
    luck = random.Random(1)
    a, b = ([float(luck.random() < share) for _ in range(400)] for share in (0.5, 0.6))
    found = from_units([[-np.array([a] * 3), np.array([b] * 4)]])
    low, high = paired_interval([int(y - x) for x, y in zip(a, b, strict=True)])
    assert found.interval() == pytest.approx((low, high), abs=1e-3)
    assert found.freedom == pytest.approx(402, abs=1)


def test_the_error_is_without_bias_and_never_zero() -> None:
    """Seeds, shared problems and chance: the mean of error² is the variance of the difference."""
    drawn = campaign.exams(np.random.default_rng(7), (5, 5), (0.03, 0.05), own=0.3)
    found = [from_units([[-a, b]]) for a, b in itertools.islice(drawn, 1500)]
    truth = float(np.var([one.value for one in found]))
    assert float(np.mean([one.error**2 for one in found])) == pytest.approx(truth, rel=0.1)
    equal = from_units([[-np.ones((3, 50)), np.ones((3, 50))]])
    assert equal.error > 0 and equal.p() == 1.0
    with pytest.raises(ValueError, match="two units or more"):
        from_units([[np.ones((1, 50)), np.ones((3, 50))]])


@pytest.mark.parametrize("seeds", campaign.SIZES)
@pytest.mark.parametrize("deviation", campaign.DEVIATIONS)
def test_false_alarms_are_rare_whatever_the_seeds_do(seeds: tuple[int, int], deviation: float) -> None:
    assert campaign.found(1500, seeds, (deviation, deviation)) <= 0.06


@pytest.mark.parametrize("seeds", [(3, 10), (10, 3)])
def test_few_seeds_that_agree_do_not_make_many_look_sure(seeds: tuple[int, int]) -> None:
    """Equal methods whose every second seed fails: three seeds agree by luck in one of four cases."""
    rng = np.random.default_rng(5)
    false = 0
    for _ in range(400):
        easy = rng.standard_normal(200)
        sides = []
        for count in seeds:
            ability = np.where(rng.random(count) < 0.5, 1.5, 0.2)[:, None]
            sides.append((ability + easy + rng.standard_normal((count, 200)) > 0).astype(np.float64))
        false += from_units([[-sides[0], sides[1]]]).p() < 0.05
    assert false / 400 <= 0.08, "20 % where each side's spread is taken by itself"
    assert campaign.found(400, seeds, (0.06, 0.06)) <= 0.06


def test_a_difference_of_ten_points_is_found() -> None:
    assert campaign.found(200, (3, 3), (0.02, 0.02), gap=0.10) > 0.8
    assert campaign.found(200, (5, 5), (0.042, 0.042), gap=0.10) > 0.75


def test_a_test_of_problems_alone_takes_luck_of_seeds_for_a_difference() -> None:
    assert campaign.found_over_problems_alone(60, (3, 3), 0.0) < 0.15
    assert campaign.found_over_problems_alone(60, (3, 3), 0.042) > 0.25
    assert campaign.found_over_problems_alone(60, (3, 3), 0.13) > 0.6


def test_the_rule_of_the_verdict() -> None:
    assert verdict(0.1, 0.049, decides=True) == "holds"
    assert verdict(-0.1, 0.049, decides=True) == "does not hold"
    assert verdict(0.1, 0.05, decides=True) == "undecided"
    assert verdict(0.1, 1e-12, decides=False) == verdict(-0.1, 1e-12, decides=False) == "undecided"


def test_an_accuracy_counts_its_seeds() -> None:
    wide = accuracy_interval(same_everywhere([0.578, 0.774, 0.83], 500))
    assert wide.low < 0.45 and wide.high > 0.98
    two = same_everywhere([0.6, 0.8], 500)
    assert accuracy_interval(two) == seeds_interval([int(count) for count in two.sum(axis=0)], 2)
    assert accuracy_interval(np.ones((3, 40))) == pytest.approx((wilson(40, 40).low, 1.0), abs=0.05)
    assert accuracy_interval(np.ones((3, 40))).high == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])
    assert holm([]) == []


def test_mean_and_std() -> None:
    mean, std = mean_and_std([0.7, 0.8, 0.9])
    assert (mean, std) == pytest.approx((0.8, 0.1))
    assert mean_and_std([0.7]) == (0.7, None)
    with pytest.raises(ValueError, match="no values"):
        mean_and_std([])


def test_import_is_light() -> None:
    code = "import sys, limbeck.statistics; print({'torch', 'matplotlib', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
