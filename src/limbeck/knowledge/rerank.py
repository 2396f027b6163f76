"""A search whose best passages are put in order by a reranker; itself a `Search`.

At query time the question alone is encoded; what it is compared with is on the disk (`states.Kept`) or
encoded for each question (`states.Fresh`). Both give the same ranking.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limbeck.knowledge.search import Hit, Search
from limbeck.knowledge.states import Found, Kept, PassageStates
from limbeck.progress import SILENT, Track
from limbeck.records import Passage

VERSION = 1
"""Raised when the same encoder ranks otherwise."""


class Reranked:
    """The best passages of another search, ranked by late interaction with the question.

    Args:
        search: finds the candidates.
        states: of passages, with the encoder.
        candidates: how many are ranked; no search gives more (KARD: 100).
    """

    def __init__(self, search: Search, states: PassageStates, candidates: int = 100) -> None:
        self._search = search
        self._states = states
        self.candidates = candidates
        said = [VERSION, search.fingerprint, states.encoder.fingerprint(), candidates]
        self._fingerprint = hashlib.sha256(json.dumps(said).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Of the other search, the encoder, and how many are ranked."""
        return self._fingerprint

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The k best passages for each query, best first: at most as many as there are candidates.

        Of equal scores the one comes first that the other search had first.
        """
        if k < 1:
            raise ValueError("k is below 1")
        found = self._search.search(queries, self.candidates)
        return [
            self._ranked(query, [hit.passage for hit in hits])[:k]
            for query, hits in zip(queries, found, strict=True)
        ]

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        """The scores of the passages with the given ids, for each query its own list."""
        return [self._scores(query, ids).tolist() for query, ids in zip(queries, passages, strict=True)]

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """The passages of these ids, in this order."""
        return self._search.passages(ids)

    def _ranked(self, query: str, ids: Sequence[str]) -> list[Hit]:
        scores = self._scores(query, ids)
        return [
            Hit(ids[place], float(scores[place])) for place in np.argsort(-scores, kind="stable").tolist()
        ]

    def _scores(self, query: str, ids: Sequence[str]) -> NDArray[np.float32]:
        if not ids:
            return np.empty(0, np.float32)
        return maxsim_of(self._states.encoder.question(query), self._states.of(ids))


def ranked_for(
    questions: Sequence[str],
    search: Search,
    kept: Kept,
    candidates: int,
    track: Track = SILENT,
) -> Reranked:
    """Another search, ranked for these questions: the states of all that they find are computed once."""
    hits = search.search(questions, candidates)
    kept.fill(dict.fromkeys(hit.passage for own in hits for hit in own), track)
    return Reranked(search, kept, candidates)


def maxsim_of(question: NDArray[np.float32], found: Found) -> NDArray[np.float32]:
    """The scores of passages whose tokens are one after the other: nothing is padded, so nothing is masked.

    Args:
        question: (L, D).
        found: states (T, D) of passages with at least one token each.

    Returns:
        Σ over the question's tokens of the largest inner product with a token of the passage, (passages,).
    """
    products_TL = found.states.astype(np.float32) @ question.T
    starts = np.cumsum(found.lengths) - found.lengths
    scores: NDArray[np.float32] = np.maximum.reduceat(products_TL, starts, axis=0).sum(axis=1)
    return scores
