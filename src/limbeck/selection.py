"""Which of a problem's kept rationales are trained on: the first, random ones, diverse or similar ones.

How near two texts are is the Jaccard similarity of their word n-grams. K diverse ones of N are those with
the least sum of it over their pairs, K similar ones those with the largest (MCC-KD, arXiv 2310.14747, whose
selection was never released).
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import combinations
from math import comb, lcm
from typing import Any

from limbeck.recipe import Choose
from limbeck.records import Rationale

MOST_COMBINATIONS = 20_000
"""Up to so many subsets all are tried (C(16, 8) = 12,870); above it see `by_similarity`."""

Grams = frozenset[tuple[str, ...]]


def select(
    rationales: Iterable[Rationale],
    per_problem: int,
    *,
    choose: Choose = "first",
    seed: int = 0,
    ngram: int = 3,
) -> list[Rationale]:
    """Choose at most `per_problem` kept rationales of each problem, whatever other problems have.

    Args:
        rationales: dropped ones are passed over.
        choose: "first" takes them by source order and index; "random" draws with a generator of
            (seed, problem); "diverse" and "similar" see `by_similarity`.
        ngram: n of the n-grams.
    """
    chosen: list[Rationale] = []
    for problem_id, group in _by_problem(one for one in rationales if one.dropped is None).items():
        if len(group) <= per_problem or choose == "first":
            chosen.extend(group[:per_problem])
        elif choose == "random":
            places = random.Random(f"{seed}:{problem_id}").sample(range(len(group)), per_problem)
            chosen.extend(group[place] for place in sorted(places))
        else:
            chosen.extend(by_similarity(group, per_problem, ngram=ngram, similar=choose == "similar"))
    return chosen


def _by_problem(rationales: Iterable[Rationale]) -> dict[str, list[Rationale]]:
    groups: dict[str, list[Rationale]] = defaultdict(list)
    for one in rationales:
        groups[one.problem_id].append(one)
    return groups


def by_similarity(
    group: Sequence[Rationale], count: int, *, ngram: int = 3, similar: bool = False
) -> list[Rationale]:
    """The `count` rationales with the least sum of pairwise similarities, or with the largest if `similar`.

    Of equal sums the earliest subset is taken; sums are exact, so that no rounding decides a tie. A group
    with more than `MOST_COMBINATIONS` subsets is not searched whole: the best subset of its largest head
    that has no more is taken, and then one of it exchanged for any other as long as that helps.
    """
    near = _similarities([ngrams(one.reasoning, ngram) for one in group])

    def cost(places: Sequence[int]) -> int:
        total = sum(near[pair] for pair in combinations(places, 2))
        return -total if similar else total

    head = len(group)
    while comb(head, count) > MOST_COMBINATIONS:
        head -= 1
    best = min(combinations(range(head), count), key=cost)  # min keeps the first of equals
    while head < len(group):
        better = min(_exchanged(best, len(group)), key=lambda places: (cost(places), places))
        if cost(better) >= cost(best):
            break
        best = better
    return [group[place] for place in best]


def _similarities(grams: Sequence[Grams]) -> dict[tuple[int, int], int]:
    """Similarity of each pair of texts, times a number that makes all of them whole."""
    near = {pair: _similarity(grams[pair[0]], grams[pair[1]]) for pair in combinations(range(len(grams)), 2)}
    whole = lcm(*(value.denominator for value in near.values()))
    return {pair: int(value * whole) for pair, value in near.items()}


def _exchanged(places: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """The subset with any one of it exchanged for any other of the `size`."""
    others = [place for place in range(size) if place not in places]
    return [tuple(sorted({*places, new} - {old})) for old in places for new in others]


def similarity(rationales: Iterable[Rationale], ngram: int = 3) -> float | None:
    """Mean over problems of the mean pairwise similarity of their rationales; None: no problem has two."""
    means = []
    for group in _by_problem(rationales).values():
        grams = [ngrams(one.reasoning, ngram) for one in group]
        pairs = [jaccard(a, b) for a, b in combinations(grams, 2)]
        means += [sum(pairs) / len(pairs)] if pairs else []
    return round(sum(means) / len(means), 4) if means else None


def ngrams(text: str, n: int = 3) -> Grams:
    """Word n-grams, lower case; a shorter text is one gram of all its words.

    Example:
        >>> sorted(ngrams("Ann has two apples.", 3))
        [('ann', 'has', 'two'), ('has', 'two', 'apples')]
    """
    words = re.findall(r"\w+", text.lower())
    if not words:
        return frozenset()
    n = min(n, len(words))
    return frozenset(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def jaccard(a: frozenset[Any], b: frozenset[Any]) -> float:
    """Size of the intersection over size of the union; 1 for two empty sets."""
    return float(_similarity(a, b))


def _similarity(a: frozenset[Any], b: frozenset[Any]) -> Fraction:
    return Fraction(len(a & b), len(a | b)) if a or b else Fraction(1)
