"""Which of a problem's kept rationales are trained on: the first, random ones, diverse or similar ones.

How near two texts are is the Jaccard similarity of their word n-grams. K diverse ones of N are those with
the least sum of it over their pairs, K similar ones those with the largest (MCC-KD, arXiv 2310.14747, whose
selection was never released).
"""

from __future__ import annotations

import random
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations, groupby
from math import comb, lcm
from typing import Any, NamedTuple

from limbeck.places import Places, key_of
from limbeck.recipe import Choose
from limbeck.records import Rationale
from limbeck.sequences import Part

MOST_COMBINATIONS = 20_000
"""Up to so many subsets all are tried (C(16, 8) = 12,870); above it see `by_similarity`."""

Grams = frozenset[tuple[str, ...]]


class Together(NamedTuple):
    """The rationales of one problem, and where they stand among all."""

    problem_id: str
    places: list[int]
    rationales: list[Rationale]


def together(
    rationales: Sequence[Rationale], *, kept: bool = False, each: Callable[[Rationale], None] | None = None
) -> Iterator[Together]:
    """The rationales of each problem, in the order of the problems' first ones.

    They are looked at twice. Those of one problem are in memory at once, and some bytes of the others.

    Args:
        kept: pass over those that were dropped.
        each: is given every rationale in order, before the first problem's are yielded.
    """
    problems, of, some = Places(), array("I"), array("Q")
    next_to = True  # those of each problem stand next to one another
    last, number = "", -1
    for place, one in enumerate(rationales):
        if each is not None:
            each(one)
        if kept and one.dropped is not None:
            continue
        if number < 0 or one.problem_id != last:
            last, number = one.problem_id, problems.number(key_of(one.problem_id))
        next_to = next_to and (not of or number >= of[-1])  # numbers are given in this order
        some.append(place)
        of.append(number)
    items = (one for one in rationales if not kept or one.dropped is None)
    if not next_to:
        order = sorted(range(len(of)), key=of.__getitem__)  # stable: the places of a problem ascend
        some, of = array("Q", map(some.__getitem__, order)), array("I", map(of.__getitem__, order))
        items = (rationales[place] for place in some)
    for _, group in groupby(zip(of, some, items, strict=True), key=lambda entry: entry[0]):
        found = [(place, one) for _, place, one in group]
        yield Together(found[0][1].problem_id, [place for place, _ in found], [one for _, one in found])


def select(
    rationales: Iterable[Rationale],
    per_problem: int,
    *,
    choose: Choose = "first",
    seed: int = 0,
    ngram: int = 3,
) -> Sequence[Rationale]:
    """Choose at most `per_problem` kept rationales of each problem, whatever other problems have.

    Args:
        rationales: dropped ones are passed over.
        choose: "first" takes them by source order and index; "random" draws with a generator of
            (seed, problem); "diverse" and "similar" see `by_similarity`.
        ngram: n of the n-grams.

    Returns:
        The chosen ones; what is held of each is where it stands among those that were given.
    """
    rationales = rationales if isinstance(rationales, Sequence) else list(rationales)
    chosen = array("Q")
    for problem_id, places, group in together(rationales, kept=True):
        if len(group) <= per_problem or choose == "first":
            chosen.extend(places[:per_problem])
        elif choose == "random":
            drawn = random.Random(f"{seed}:{problem_id}").sample(range(len(group)), per_problem)
            chosen.extend(places[number] for number in sorted(drawn))
        else:
            nearest = _by_similarity(group, per_problem, ngram=ngram, similar=choose == "similar")
            chosen.extend(places[number] for number in nearest)
    return Part(rationales, chosen)


def by_similarity(
    group: Sequence[Rationale], count: int, *, ngram: int = 3, similar: bool = False
) -> list[Rationale]:
    """The `count` rationales with the least sum of pairwise similarities, or with the largest if `similar`.

    Of equal sums the earliest subset is taken; sums are exact, so that no rounding decides a tie. A group
    with more than `MOST_COMBINATIONS` subsets is not searched whole: the best subset of its largest head
    that has no more is taken, and then one of it exchanged for any other as long as that helps.
    """
    return [group[place] for place in _by_similarity(group, count, ngram=ngram, similar=similar)]


def _by_similarity(group: Sequence[Rationale], count: int, *, ngram: int, similar: bool) -> Sequence[int]:
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
    return best


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
    rationales = rationales if isinstance(rationales, Sequence) else list(rationales)
    return mean_similarity((group.rationales for group in together(rationales)), ngram)


def mean_similarity(groups: Iterable[Sequence[Rationale]], ngram: int = 3) -> float | None:
    """The same, of rationales that are together already."""
    means = array("d")
    for group in groups:
        grams = [ngrams(one.reasoning, ngram) for one in group]
        pairs = [jaccard(a, b) for a, b in combinations(grams, 2)]
        if pairs:
            means.append(sum(pairs) / len(pairs))
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
