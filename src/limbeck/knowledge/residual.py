"""States in fewer bytes: the nearest of some centroids, and what is left of each number in a few bits.

As in ColBERTv2 (arXiv 2112.01488). A state of D numbers takes 2 + D · bits / 8 bytes in place of 2 · D: with
two bits about an eighth. What comes back is near the state, not the state: scores change, and ranks may.

Shapes: T tokens, D numbers of a state, C centroids, B bytes of a state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from limbeck.knowledge.shards import mapped, save

Bits = Literal[0, 1, 2, 4, 8]
"""Of each number; 0: states are kept as they are."""

MOST = 256
"""Centroids."""

EACH = 8
"""Tokens of a centroid at least, so that a few states do not become centroids themselves."""

SAMPLE = 1 << 15
"""Tokens that centroids and buckets are found from."""

ROUNDS = 8

FILES = ("centroids.npy", "cutoffs.npy", "values.npy")

States = NDArray[np.float16]
Floats = NDArray[np.float32]


class Codec(NamedTuple):
    """How states become codes and back.

    `centroids` (C, D); what is left of a number goes into the bucket that `cutoffs` (2^bits − 1,) give and
    comes back as the bucket's value (2^bits,).
    """

    centroids: Floats
    cutoffs: Floats
    values: Floats

    @classmethod
    def of(cls, states: States, bits: Bits) -> Self:
        """From some states (T, D), at least one; the same for the same states.

        Buckets hold equally many numbers of those that are left; a value is the middle one of its bucket.
        """
        some = states[:: -(-len(states) // SAMPLE)].astype(np.float32)
        centroids = _centroids(some)
        left = (some - centroids[_nearest(some, centroids)]).ravel()
        count = 2**bits
        cutoffs = np.quantile(left, np.arange(1, count) / count)
        values = np.quantile(left, (np.arange(count) + 0.5) / count)
        return cls(centroids, cutoffs.astype(np.float32), values.astype(np.float32))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """As `save` wrote it."""
        return cls(*(np.array(mapped(folder / name)) for name in FILES))

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        for name, array in zip(FILES, self, strict=True):
            save(folder / name, array)

    @property
    def bits(self) -> int:
        """Of each number."""
        return (len(self.cutoffs) + 1).bit_length() - 1

    def encode(self, states: States) -> NDArray[np.uint8]:
        """States (T, D) as codes (T, B)."""
        given = states.astype(np.float32)
        nearest = _nearest(given, self.centroids)
        buckets_TD = np.searchsorted(self.cutoffs, given - self.centroids[nearest]).astype(np.uint8)
        bits_TDb = np.unpackbits(buckets_TD[..., None], axis=-1)[..., 8 - self.bits :]
        packed = np.packbits(bits_TDb.reshape(len(given), -1), axis=1)
        return np.concatenate([nearest.astype("<u2").view(np.uint8).reshape(-1, 2), packed], axis=1)

    def decode(self, codes: NDArray[np.uint8]) -> States:
        """Codes (T, B) as states (T, D)."""
        tokens, numbers = len(codes), self.centroids.shape[1]
        nearest = np.ascontiguousarray(codes[:, :2]).view("<u2")[:, 0]
        bits = np.unpackbits(codes[:, 2:], axis=1)[:, : numbers * self.bits]
        weights = 2 ** np.arange(self.bits - 1, -1, -1)
        buckets_TD = bits.reshape(tokens, numbers, self.bits) @ weights
        found: States = (self.centroids[nearest] + self.values[buckets_TD]).astype(np.float16)
        return found


def _centroids(states: Floats) -> Floats:
    """By Lloyd's rounds from states that are evenly spread over all; one that is nearest to none stays."""
    count = max(1, min(MOST, len(states) // EACH))
    centroids = states[np.linspace(0, len(states) - 1, count).astype(int)].copy()
    for _ in range(ROUNDS):
        nearest = _nearest(states, centroids)
        sizes = np.bincount(nearest, minlength=count)
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, states)
        means = sums / np.maximum(sizes, 1).astype(np.float32)[:, None]
        centroids[sizes > 0] = means[sizes > 0]
    found: Floats = centroids
    return found


def _nearest(states: Floats, centroids: Floats) -> NDArray[np.int64]:
    """The centroid at the least distance from each state, (T,); of equal ones the first."""
    found: NDArray[np.int64] = ((centroids**2).sum(1) - 2 * states @ centroids.T).argmin(1)
    return found
