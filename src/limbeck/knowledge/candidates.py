"""What a reranker learns from: for each rationale a list of passages, scored as the rationale finds them.

A pool is what the searches gave, once: the passages that the rationale finds and those that its question
finds, all with their scores for the *rationale*. Each epoch draws a few of them. So the reranker, which
sees the question alone, learns to prefer what the rationale would find.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from limbeck.knowledge.search import Search
from limbeck.knowledge.settings import RankingSettings
from limbeck.knowledge.silver import asked, found_by, problems_of, query_of
from limbeck.records import Problem, Rationale, Record


class Pool(Record):
    """Candidates of a rationale: `passages` with their scores for it.

    The first `by_rationale` of them are what the rationale found, best first; `by_question` are the places
    of what the question found, best first too.
    """

    problem_id: str
    source: str
    index: int = Field(ge=0)
    question: str
    passages: tuple[str, ...]
    scores: tuple[float, ...]
    by_rationale: int = Field(ge=0)
    by_question: tuple[int, ...]

    @property
    def key(self) -> str:
        """Which rationale it is of."""
        return f"{self.problem_id}\n{self.source}\n{self.index}"


class Candidates(NamedTuple):
    """What is drawn of a pool: passages and their scores for the rationale."""

    passages: tuple[str, ...]
    scores: tuple[float, ...]


def pools(
    search: Search, problems: Sequence[Problem], rationales: Sequence[Rationale], top: int
) -> list[Pool]:
    """The pool of each rationale, in their order.

    Raises:
        DataError: a rationale is about a problem that is not among `problems`.
    """
    abouts = list(problems_of(rationales, problems))
    questions = [asked(problem) for problem in abouts]
    queries = [query_of(problem, one, "rationale") for problem, one in zip(abouts, rationales, strict=True)]
    by_question, by_rationale = (
        [[hit.passage for hit in hits] for hits in found_by(search, texts, top)]
        for texts in (questions, queries)
    )
    passages = [
        list(dict.fromkeys(first + second)) for first, second in zip(by_rationale, by_question, strict=True)
    ]
    scores = search.scores(queries, passages)
    return [
        Pool(
            problem_id=one.problem_id,
            source=one.source,
            index=one.index,
            question=question,
            passages=tuple(names),
            scores=tuple(worth),
            by_rationale=len(first),
            by_question=tuple(names.index(name) for name in second),
        )
        for one, question, names, worth, first, second in zip(
            rationales, questions, passages, scores, by_rationale, by_question, strict=True
        )
    ]


def draw(pool: Pool, settings: RankingSettings, seed: int, epoch: int) -> Candidates:
    """The candidates of an epoch; they follow from the pool, the settings, the seed and the epoch alone.

    First of what the rationale found, then of what the question found and was not drawn yet; fewer where
    there are not so many.
    """
    text = f"{seed}\n{epoch}\n{pool.key}"
    chance = random.Random(int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest()))
    places = _some(chance, range(pool.by_rationale), settings.from_rationale)
    places += _some(chance, [one for one in pool.by_question if one not in places], settings.from_question)
    return Candidates(tuple(pool.passages[one] for one in places), tuple(pool.scores[one] for one in places))


def fewest(pool: Pool, settings: RankingSettings) -> int:
    """How many candidates any epoch draws of a pool at least: both searches may have found the same ones."""
    first = min(settings.from_rationale, pool.by_rationale)
    both = sum(place < pool.by_rationale for place in pool.by_question)
    return first + min(settings.from_question, len(pool.by_question) - min(first, both))


def _some(chance: random.Random, places: Sequence[int], number: int) -> list[int]:
    return chance.sample(places, min(number, len(places)))
