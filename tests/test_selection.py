"""Which rationales are trained on: against a naive search, ties and all, whatever other problems have."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import pytest

from limbeck.rationales import WRONG
from limbeck.recipe import Choose
from limbeck.records import Rationale
from limbeck.selection import MOST_COMBINATIONS, by_similarity, jaccard, ngrams, select, similarity

from .given_rationales import given_recipe


def rationale(text: str, index: int = 0, problem: str = "1", dropped: str | None = None) -> Rationale:
    return Rationale(
        problem_id=problem,
        source="t",
        index=index,
        completion=text,
        reasoning=text,
        answer="1",
        correct=True,
        dropped=dropped,
    )


def texts(rng: random.Random, count: int, words: int = 12) -> list[Rationale]:
    """Texts of few different words, so that they share n-grams and sums tie."""
    return [rationale(" ".join(rng.choices("abcd", k=rng.randint(0, words))), n) for n in range(count)]


def naive(group: list[Rationale], count: int, n: int, *, similar: bool) -> list[int]:
    """Every subset in order, its n-grams listed and compared again; an equal sum changes nothing."""

    def listed(text: str) -> list[str]:
        words = text.lower().split()
        if 0 < len(words) < n:
            return [" ".join(words)]
        return [" ".join(words[start : start + n]) for start in range(len(words) - n + 1) if words]

    def near(a: str, b: str) -> tuple[int, int]:
        one, other = set(listed(a)), set(listed(b))
        if not one and not other:
            return 1, 1
        return len(one.intersection(other)), len(one.union(other))

    best: tuple[tuple[int, int], list[int]] | None = None
    for places in itertools.combinations(range(len(group)), count):
        above, below = 0, 1
        for a, b in itertools.combinations(places, 2):
            part, whole = near(group[a].reasoning, group[b].reasoning)
            above, below = above * whole + part * below, below * whole
        if best is not None:
            (known, under), _ = best
            difference = above * under - known * below
            if difference <= 0 if similar else difference >= 0:
                continue
        best = (above, below), list(places)
    assert best is not None
    return best[1]


@pytest.mark.parametrize("similar", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_subset_is_that_of_a_naive_search(n: int, similar: bool) -> None:
    rng = random.Random(n)
    for size, count in [(2, 1), (5, 2), (6, 3), (7, 5), (9, 3)] * 4:
        group = texts(rng, size)
        found = [one.index for one in by_similarity(group, count, ngram=n, similar=similar)]
        assert found == naive(group, count, n, similar=similar)


def test_equal_sums_go_to_the_earliest_subset() -> None:
    assert [one.index for one in by_similarity([rationale("one text", n) for n in range(4)], 2)] == [0, 1]
    assert [one.index for one in by_similarity([rationale("", n) for n in range(4)], 3, similar=True)] == [
        0,
        1,
        2,
    ]


def test_rounding_decides_no_tie() -> None:
    """In floating point 0 + 1/10 + 1/5 is more than 0 + 0 + 3/10: the later of equal sums would win."""
    group = texts(random.Random(17), 8)
    grams = [ngrams(one.reasoning, 1) for one in group]

    def rounded(places: tuple[int, ...]) -> float:
        return sum(jaccard(grams[a], grams[b]) for a, b in itertools.combinations(places, 2))

    by_rounding = min(itertools.combinations(range(8), 4), key=rounded)
    found = tuple(one.index for one in by_similarity(group, 4, ngram=1))
    assert list(found) == naive(group, 4, 1, similar=False) and found < by_rounding


def test_a_group_with_too_many_subsets_is_searched_past_its_head() -> None:
    rng = random.Random(6)
    group = texts(rng, 24, words=30)
    assert comb(24, 6) > MOST_COMBINATIONS
    grams = [ngrams(one.reasoning) for one in group]

    def cost(places: list[int]) -> float:
        return sum(jaccard(grams[a], grams[b]) for a, b in itertools.combinations(places, 2))

    found = [one.index for one in by_similarity(group, 6)]
    head = next(size for size in range(24, 5, -1) if comb(size, 6) <= MOST_COMBINATIONS)
    of_head = [one.index for one in by_similarity(group[:head], 6)]
    assert len(set(found)) == 6 and found == sorted(found) and max(found) >= head
    assert cost(found) < cost(of_head)
    others = [n for n in range(24) if n not in found]
    exchanged = [[*(n for n in found if n != old), new] for old in found for new in others]
    assert min(map(cost, exchanged)) >= cost(found) - 1e-9, "no exchange of one helps further"


@pytest.mark.parametrize("choose", ["first", "random", "diverse", "similar"])
def test_other_problems_change_nothing(choose: Choose) -> None:
    rng = random.Random(5)
    group = texts(rng, 7)
    others = [rationale(one.reasoning, one.index, problem="2") for one in texts(rng, 5)]
    mixed = [one for pair in itertools.zip_longest(others, group) for one in pair if one is not None]
    alone = list(select(group, 3, choose=choose, seed=1))
    assert [one for one in select(mixed, 3, choose=choose, seed=1) if one.problem_id == "1"] == alone
    assert alone == list(select(group, 3, choose=choose, seed=1)) and len(alone) == 3


def test_first_and_random() -> None:
    group = [rationale(f"text number {n}", n) for n in range(6)]
    assert list(select(group, 2)) == group[:2]
    assert len({tuple(r.index for r in select(group, 3, choose="random", seed=s)) for s in range(20)}) > 5


def test_kept_ones_only() -> None:
    group = [rationale("a", dropped=WRONG), rationale("b"), rationale("c")]
    assert [one.reasoning for one in select(group, 5)] == ["b", "c"]
    assert [one.reasoning for one in select([*group, rationale("b")], 2, choose="similar")] == ["b", "b"]
    assert [one.reasoning for one in select(group, 1, choose="diverse")] == ["b"]


def test_the_length_of_the_grams_decides() -> None:
    words = ["a b c d", "a c b d", "a b x y"]
    group = [rationale(text, n) for n, text in enumerate(words)]
    by = {n: [one.index for one in select(group, 2, choose="similar", ngram=n)] for n in (1, 2)}
    assert by == {1: [0, 1], 2: [0, 2]}


def test_ngrams_of_short_and_empty_texts() -> None:
    assert ngrams("") == frozenset() and ngrams("One two") == {("one", "two")}
    assert ngrams("a b a b", 2) == {("a", "b"), ("b", "a")}
    assert jaccard(frozenset(), frozenset()) == 1.0


def test_similarity_counts_problems_with_two_only() -> None:
    assert similarity([rationale("a b c", problem="1"), rationale("a b c", problem="2")]) is None
    assert similarity([rationale("a b c"), rationale("a b c"), rationale("x", problem="2")]) == 1.0
    assert similarity([rationale("a b c d"), rationale("a b c e")]) == pytest.approx(1 / 3, abs=1e-4)
    assert similarity([rationale("a b c d"), rationale("a b c e")], ngram=1) == 0.6


TEXTS = ["two and one add up", "two add one and up", "two and one make more", "so it goes"]
"""The first two are one by single words; by three of them the first and the third are nearest."""

TWO = "{rationales: 2, choose: similar, ngram: 1"


@pytest.mark.parametrize(
    ("learners", "learned"),
    [
        (f"mentors: {{large: {TWO}, model: tiny-causal-xs, train: {{steps: 1}}}}}}", [[0, 1]]),
        (
            f"""
students:
  similar: {{settings: {TWO}}}}}
  diverse: {{settings: {{rationales: 2, choose: diverse, ngram: 1}}}}
student: {{method: finetune-cot, model: tiny-causal-xs, train: {{steps: 1}}}}
""",
            [[0, 3], [0, 1]],
        ),
    ],
    ids=["mentor", "students"],
)
def test_a_recipe_says_what_is_learned_from(
    limbeck: Callable[..., Any], tmp_path: Path, learners: str, learned: list[list[int]]
) -> None:
    why = [f"{text}. The answer is 1." for text in TEXTS]
    train = [{"question": "0 + 1?", "answer": 1, "why": why}]
    test = [{"question": "7 + 1?", "answer": 8}]
    recipe = given_recipe(tmp_path, train, test, f"exam: {{max_tokens: 4}}\n{learners}")
    answer = limbeck("run", recipe, "--out", tmp_path / "run")
    assert answer.status == 0, answer.err
    found = []
    for path in sorted((tmp_path / "run").rglob("examples.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        found.append([TEXTS.index(one["completion"].split(".")[0]) for one in rows])
    assert found == learned
