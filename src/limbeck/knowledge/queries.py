"""Queries as numbers of an index's words, and what they give to every passage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.knowledge import building, weights
from limbeck.knowledge.settings import IndexSettings
from limbeck.knowledge.shards import mapped
from limbeck.knowledge.texts import Texts
from limbeck.knowledge.words import Words

KNOWN = 1 << 20
"""Words whose numbers are kept in memory."""

Terms = NDArray[np.int32]
"""A query as numbers of words in the index, in order and with repetitions, (n,)."""


class Queries:
    """How queries of an index are read: its settings, its words, and in how many passages each is.

    Args:
        folder: with the vocabulary and the frequencies.
        passages: how many there are.
    """

    def __init__(self, folder: Path, settings: IndexSettings, passages: int) -> None:
        self._settings = settings
        self._passages = passages
        self._words = Words.of(settings)
        self._vocabulary = Texts(folder / building.VOCABULARY)
        self._known: dict[str, int] = {}  # numbers of words that were looked up
        self._frequencies = mapped(folder / building.FREQUENCIES)

    def terms(self, queries: Sequence[str]) -> list[Terms]:
        """Queries as numbers of words; those that no passage has are left out."""
        found = []
        for words in self._words.read(queries):
            numbers = [self._number(word) for word in words]
            found.append(np.array([number for number in numbers if number >= 0], np.int32))
        return found

    def absent(self, terms: Terms) -> np.float32:
        """What a query gives to every passage."""
        return np.float32(weights.absent(self._settings, self._frequencies[terms], self._passages).sum())

    def _number(self, word: str) -> int:
        number = self._known.get(word)
        if number is None:
            if len(self._known) >= KNOWN:
                self._known.clear()
            number = self._known[word] = self._vocabulary.sorted_place(word)
        return number
