"""What any search engine answers, so that another one can be put behind the same stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from limbeck.records import Passage


class Hit(NamedTuple):
    """A passage that was found, by its id, and its score."""

    passage: str
    score: float


class Search(Protocol):
    """An engine over the passages of a corpus.

    What it finds depends on the query alone: not on the queries next to it, nor on threads or machines.
    """

    @property
    def fingerprint(self) -> str:
        """Changes when the passages or what is found among them change."""
        ...

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The k best passages for each query, best first; fewer where no others share a word with it."""
        ...

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        """The scores of the passages with the given ids, for each query its own list."""
        ...

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """The passages of these ids, in this order."""
        ...
