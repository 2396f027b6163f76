"""Texts into the words that are searched: split and stop words by bm25s, stems by PyStemmer (Snowball)."""

from __future__ import annotations

import importlib
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import InputError, RecipeError
from limbeck.knowledge.settings import IndexSettings


def bm25s() -> Any:
    """The library.

    Raises:
        InputError: the extra `knowledge` is not installed.
    """
    return _needed("bm25s")


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"knowledge: needs bm25s and PyStemmer ({error}); run pip install 'limbeck[knowledge]'"
        ) from None


class Counted(NamedTuple):
    """How often which word occurs in some texts: parallel arrays, one entry per text and word.

    Sorted by text, then word; `words` index into a vocabulary. `lengths` are the words of each text.
    """

    texts: NDArray[np.int32]
    words: NDArray[np.int32]
    counts: NDArray[np.int32]
    lengths: NDArray[np.int32]


class Words:
    """How an index reads texts, those of its corpus and those of queries.

    A word is two or more letters, digits or underscores, in lower case, its accents part of their letters
    (NFC); stop words are left out before what is left is stemmed.

    Raises:
        RecipeError: there is no such stemmer; InputError: a package is missing.
    """

    def __init__(self, stop_words: Sequence[str], stemmer: str) -> None:
        self.stop_words = [_composed(word).lower() for word in stop_words]
        self._tokenize = bm25s().tokenize
        self._stemmer = None if stemmer == "none" else _stemmer(stemmer)

    @classmethod
    def of(cls, settings: IndexSettings) -> Words:
        """As settings say; a list of stop words that they name is looked up."""
        return cls(stop_words(settings), settings.stemmer)

    def read(self, texts: Sequence[str]) -> list[list[str]]:
        """The words of each text, in order."""
        if not texts:
            return []
        return list(self._tokenized(texts, return_ids=False))

    def count(self, texts: Sequence[str], vocabulary: dict[str, int]) -> Counted:
        """How often each word occurs in each text; new words are added to the vocabulary."""
        found = self._tokenized(texts, return_ids=True)
        lengths = np.fromiter(map(len, found.ids), np.int32, len(texts))
        place = np.empty(max(found.vocab.values(), default=-1) + 1, np.int32)
        for word, number in found.vocab.items():
            place[number] = vocabulary.setdefault(word, len(vocabulary))
        words = place[np.fromiter(chain.from_iterable(found.ids), np.int32, int(lengths.sum()))]
        owners = np.repeat(np.arange(len(texts), dtype=np.int64), lengths)
        pairs, counts = np.unique(owners << 32 | words, return_counts=True)
        of, which = (pairs >> 32).astype(np.int32), (pairs & 0xFFFFFFFF).astype(np.int32)
        return Counted(of, which, counts.astype(np.int32), lengths)

    def _tokenized(self, texts: Sequence[str], *, return_ids: bool) -> Any:
        return self._tokenize(
            [_composed(text) for text in texts],
            stopwords=self.stop_words,
            stemmer=self._stemmer,
            return_ids=return_ids,
            show_progress=False,
        )


def _composed(text: str) -> str:
    """With each accent in its letter: apart, it would end the word."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


_LISTS = {
    "en": "EN",
    "en_plus": "EN_PLUS",
    "de": "GERMAN",
    "nl": "DUTCH",
    "fr": "FRENCH",
    "es": "SPANISH",
    "pt": "PORTUGUESE",
    "it": "ITALIAN",
    "ru": "RUSSIAN",
    "sv": "SWEDISH",
    "no": "NORWEGIAN",
    "zh": "CHINESE",
    "tr": "TURKISH",
    "ko": "KOREAN",
    "da": "DANISH",
}


def check_words(settings: IndexSettings | None) -> None:
    """Refuse packages that are missing, and a stemmer that does not exist, before a corpus is read.

    Args:
        settings: None: those of an index that is there.

    Raises:
        InputError, RecipeError: as `Words`.
    """
    if settings is None:
        bm25s()
        _needed("Stemmer")
    else:
        Words.of(settings)


def stop_words(settings: IndexSettings) -> tuple[str, ...]:
    """The words themselves: an index keeps them, because the lists of a library may change."""
    if not isinstance(settings.stop_words, str):
        return settings.stop_words
    name = _LISTS.get(settings.stop_words)
    return tuple(getattr(bm25s().stopwords, f"STOPWORDS_{name}")) if name else ()


def _stemmer(name: str) -> Any:
    library = _needed("Stemmer")
    if name not in library.algorithms():
        raise RecipeError(f"stemmer: there is no {name!r}; choose none or {', '.join(library.algorithms())}")
    return library.Stemmer(name)
