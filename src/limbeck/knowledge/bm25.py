"""Our own search engine: BM25 over an index on the disk.

Scoring is bm25s's (`get_scores_from_ids`, one shard at a time); which passages are best is decided here. Of
equal scores the passage comes first that is first in the corpus. So what is found does not depend on the
batch, on threads, on the cut into shards, or on the backend of bm25s (numpy, or numba where it is installed).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import InputError
from limbeck.knowledge import building, shards
from limbeck.knowledge.queries import Queries, Terms
from limbeck.knowledge.search import Hit
from limbeck.knowledge.settings import IndexSettings
from limbeck.knowledge.shards import Passages, mapped
from limbeck.knowledge.words import bm25s
from limbeck.records import Passage

CHUNK = 64
"""Queries that a thread takes at once."""


class Found(NamedTuple):
    """The best passages for a query: their places in the corpus and their scores, (k,) each, best first."""

    places: NDArray[np.int64]
    scores: NDArray[np.float32]


_NOTHING = Found(np.empty(0, np.int64), np.empty(0, np.float32))


def best(scores: NDArray[np.float32], k: int, above: float = 0.0) -> NDArray[np.int64]:
    """The places of the k highest scores above a bound, highest first; of equal ones the first."""
    over = scores > above
    number = int(np.count_nonzero(over))
    if number > k:
        few = scores[over] if 4 * number < len(scores) else scores  # both have the same k highest ones
        bound = np.partition(few, len(few) - k)[len(few) - k]
        places = np.flatnonzero(scores >= bound)
        ties = np.flatnonzero(scores[places] == bound)
        places = np.delete(places, ties[k - len(places) :]) if len(places) > k else places
    else:
        places = np.flatnonzero(over)
    order: NDArray[np.int64] = places[np.argsort(-scores[places], kind="stable")]
    return order


class _Shard:
    """A part of the index: the passages from `first` on."""

    def __init__(self, folder: Path, first: int, backend: str) -> None:
        self.first = first
        self.passages = Passages(folder)
        self._terms: Terms = mapped(folder / shards.TERMS)
        engine = bm25s().BM25.load(folder, mmap=True, load_vocab=False, backend=backend)
        engine.scores |= {name: np.asarray(engine.scores[name]) for name in ("data", "indices", "indptr")}
        engine.nonoccurrence_array = None  # of words that other shards have too: added at the end
        self._engine = engine

    def own(self, terms: Terms) -> Terms:
        """The words of a query that the shard has, by its own numbers."""
        places = np.searchsorted(self._terms, terms)
        there = places < len(self._terms)
        there[there] = self._terms[places[there]] == terms[there]
        return places[there].astype(np.int32)

    def find(self, terms: Terms, k: int, before: Found) -> Found:
        """The best passages of this shard and of those before it."""
        own = self.own(terms)
        if not len(own):
            return before
        scores = self._engine.get_scores_from_ids(own)
        above = float(before.scores[-1]) if len(before.scores) == k else 0.0
        places = best(scores, k, above)
        return _merged([before, Found(places + self.first, scores[places])], k)

    def score(self, terms: Terms, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """The scores of some of its passages, added up in the same order as those of all."""
        data, owners, starts = (self._engine.scores[name] for name in ("data", "indices", "indptr"))
        scores = np.zeros(len(places), np.float32)
        for term in self.own(terms).tolist():
            start, end = starts[term], starts[term + 1]
            found = np.minimum(np.searchsorted(owners[start:end], places), end - start - 1)
            scores += np.where(owners[start:end][found] == places, data[start:end][found], np.float32(0))
        return scores


def _merged(parts: Sequence[Found], k: int) -> Found:
    """The best of several, which are in the order of the corpus."""
    places = np.concatenate([part.places for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    order = np.argsort(-scores, kind="stable")[:k]
    return Found(places[order], scores[order])


class Index:
    """An index that was built; a `Search`.

    Args:
        folder: of `limbeck index`.
        threads: at most so many work on a search. Python's lock lets only one of them add up scores, so more
            than one saves waiting for a disk, not work.
        backend: of bm25s: numpy, numba, or auto for numba where it is installed.
        whole: read all files and compare their sums, not their sizes alone.

    Raises:
        InputError: there is no finished index, or a file of it is missing or damaged; a package is missing.
    """

    def __init__(
        self, folder: Path | str, *, threads: int = 1, backend: str = "auto", whole: bool = False
    ) -> None:
        self.folder = Path(folder)
        state = building.opened(self.folder, whole=whole)
        if building.MILVUS in state:
            raise InputError(
                f"{self.folder}: its passages are in Milvus; open it with limbeck.knowledge.engines.opened"
            )
        self.fingerprint: str = state["fingerprint"]
        self.settings = IndexSettings.model_validate(state["plan"]["settings"])
        self.threads = threads
        self._queries = Queries(self.folder, self.settings, state["passages"])
        self._shards: list[_Shard] = []
        self._size = 0
        for one in building.shard_folders(self.folder):
            self._shards.append(_Shard(one, self._size, backend))
            self._size += len(self._shards[-1].passages)
        self._starts = [shard.first for shard in self._shards]

    def __len__(self) -> int:
        """How many passages there are."""
        return self._size

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The k best passages for each query, best first; fewer where no others share a word with it."""
        found = self.find(queries, k)
        return [
            [Hit(self._id(place), score) for place, score in zip(*both, strict=True)]
            for both in ((one.places.tolist(), one.scores.tolist()) for one in found)
        ]

    def find(self, queries: Sequence[str], k: int) -> list[Found]:
        """As `search`, with places in the corpus in place of ids."""
        if k < 1:
            raise ValueError("k is below 1")
        terms = self._queries.terms(queries)
        chunks = [terms[first : first + CHUNK] for first in range(0, len(terms), CHUNK)]
        threads = min(self.threads, len(chunks) * len(self._shards))
        if threads <= 1:
            found = [one for chunk in chunks for one in self._find(chunk, k, self._shards)]
        else:
            groups = _groups(self._shards, -(-threads // len(chunks)))
            with ThreadPoolExecutor(threads) as pool:
                jobs = [[pool.submit(self._find, chunk, k, group) for group in groups] for chunk in chunks]
                found = [
                    _merged(parts, k)
                    for row in jobs
                    for parts in zip(*(job.result() for job in row), strict=True)
                ]
        return [
            one._replace(scores=one.scores + self._queries.absent(own))
            for one, own in zip(found, terms, strict=True)
        ]

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        """The scores of the passages with the given ids, for each query its own list.

        Raises:
            InputError: there is no passage of an id.
        """
        return [
            self._scores(terms, self._places(ids)).tolist()
            for terms, ids in zip(self._queries.terms(queries), passages, strict=True)
        ]

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """The passages of these ids, in this order.

        Raises:
            InputError: there is no passage of an id.
        """
        return [self._passage(place) for place in self._places(ids).tolist()]

    def _find(self, queries: Sequence[Terms], k: int, among: Sequence[_Shard]) -> list[Found]:
        found = [_NOTHING] * len(queries)
        for shard in among:  # one after the other, so that what is read of each is read once
            found = [shard.find(terms, k, one) for terms, one in zip(queries, found, strict=True)]
        return found

    def _scores(self, terms: Terms, places: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = np.zeros(len(places), np.float32)
        owners = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(owners).tolist():
            shard, own = self._shards[number], owners == number
            scores[own] = shard.score(terms, places[own] - shard.first)
        return scores + self._queries.absent(terms)

    def _owner(self, place: int) -> _Shard:
        """The shard that a passage is in."""
        return self._shards[bisect_right(self._starts, place) - 1]

    def _id(self, place: int) -> str:
        shard = self._owner(place)
        return shard.passages.id(place - shard.first)

    def _passage(self, place: int) -> Passage:
        shard = self._owner(place)
        return shard.passages[place - shard.first]

    def _places(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Where passages are in the corpus, (n,)."""
        found = np.full(len(ids), -1, np.int64)
        for shard in self._shards:
            missing = np.flatnonzero(found < 0)
            if not len(missing):
                break
            there = np.array(shard.passages.places([ids[one] for one in missing.tolist()]), np.int64)
            found[missing] = np.where(there < 0, -1, there + shard.first)
        if (found < 0).any():
            name = ids[int(np.flatnonzero(found < 0)[0])]
            raise InputError(f"{self.folder}: holds no passage {name!r}; name the index it is from")
        return found


def _groups(among: Sequence[_Shard], number: int) -> list[Sequence[_Shard]]:
    """Shards in so many groups, or fewer, in order."""
    size = -(-len(among) // min(number, len(among)))
    return [among[first : first + size] for first in range(0, len(among), size)]
