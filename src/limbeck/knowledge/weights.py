"""BM25: what the occurrences of a word in a passage are worth.

    weight = idf(f, N) · tf(c, l)            score of a passage = the sum over the words of the query

    f: passages with the word, of N; c: how often it occurs in this one; l: this one's words over the mean.
    n = 1 − b + b·l

    variant     idf                              tf
    lucene      ln(1 + (N − f + ½) / (f + ½))    c / (k1·n + c)
    robertson   ln((N − f + ½) / (f + ½)), ≥ 0   c / (k1·n + c)
    atire       ln(N / f)                        (k1 + 1)·c / (k1·n + c)
    bm25l       ln((N + 1) / (f + ½))            (k1 + 1)·(c/n + δ) / (k1 + c/n + δ)
    bm25+       ln((N + 1) / f)                  (k1 + 1)·c / (k1·n + c) + δ

The names and formulas are those of bm25s (Kamphuis et al., ECIR 2020; Lù, arXiv 2407.03618). With bm25l and
bm25+ a word of the query gives something to passages without it too, the same to all: `absent`. What is
stored is the weight above that, so that it is zero for passages without the word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.knowledge.settings import IndexSettings, Variant

Floats = NDArray[np.float64]


def idf(variant: Variant, frequencies: NDArray[np.int64], passages: int) -> Floats:
    """Of words that are in so many of all passages, each in one at least."""
    f, n = frequencies.astype(np.float64), float(passages)
    match variant:
        case "lucene":
            return np.log(1 + (n - f + 0.5) / (f + 0.5))
        case "robertson":
            return np.log(np.maximum((n - f + 0.5) / (f + 0.5), 1.0))
        case "atire":
            return np.log(n / f)
        case "bm25l":
            return np.log((n + 1) / (f + 0.5))
        case "bm25+":
            return np.log((n + 1) / f)


def tf(settings: IndexSettings, counts: NDArray[np.int32], length: Floats) -> Floats:
    """Of words that occur so often in passages of so many words over the mean."""
    c, k1, delta = counts.astype(np.float64), settings.k1, settings.delta
    n = 1 - settings.b + settings.b * length
    match settings.variant:
        case "lucene" | "robertson":
            return c / (k1 * n + c)
        case "atire":
            return (k1 + 1) * c / (k1 * n + c)
        case "bm25l":
            return (k1 + 1) * (c / n + delta) / (k1 + c / n + delta)
        case "bm25+":
            return (k1 + 1) * c / (k1 * n + c) + delta


def absent(settings: IndexSettings, frequencies: NDArray[np.int64], passages: int) -> Floats:
    """What each word of a query gives to a passage without it."""
    if settings.variant not in ("bm25l", "bm25+"):
        return np.zeros(len(frequencies))
    nothing = tf(settings, np.zeros(1, np.int32), np.ones(1))
    return idf(settings.variant, frequencies, passages) * nothing
