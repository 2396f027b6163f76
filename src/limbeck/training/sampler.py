"""Which examples share a micro-batch: neighbours in length, in a new order every epoch.

The library's own length grouping does not resume bit for bit in a later epoch.
Here everything follows from (seed, epoch) alone, and no global generator is read.

Lengths are rounded up to a grid. Examples are sorted by grid length with ties in random
order and cut where the next one would break a limit. The cuts depend on grid lengths only,
so every epoch has the same number of batches, while who shares a batch changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from limbeck.errors import RecipeError

Lengths = tuple[int, ...]
"""Tokens of one example in each padded tensor: (input,) or (encoder, decoder)."""


class BucketSampler:
    """Yields tuples of example indices, one per micro-batch, each example once per epoch.

    Args:
        lengths: of every example.
        batch_size: most examples in a batch.
        batch_tokens: most tokens in a batch with its padding, summed over the padded tensors.
        seed: with the epoch, decides ties and the order of the batches.
        multiple: the number of batches is filled up to a multiple of this (the number of
            processes) with empty tuples, which `collate` turns into a batch that counts nothing.

    Raises:
        RecipeError: one example alone is over `batch_tokens`.
    """

    def __init__(
        self, lengths: Sequence[Lengths], *, batch_size: int, batch_tokens: int, seed: int, multiple: int = 1
    ) -> None:
        largest = max(map(sum, lengths), default=0)
        if largest > batch_tokens:
            raise RecipeError(
                f"batch_tokens: {batch_tokens} is less than the {largest} tokens of the longest example; "
                "raise batch_tokens or lower max_length"
            )
        self.grid = [tuple(map(on_grid, length)) for length in lengths]
        self.order = snake(self.grid)
        self.cuts = cut([self.grid[i] for i in self.order], batch_size, batch_tokens)
        self.seed = seed
        self.multiple = multiple
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration shuffles for."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.cuts) // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        # A generator takes 32 bits of its seed; the prime keeps (seed, epoch) pairs apart.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**32)
        place = torch.randperm(len(self.grid), generator=generator).tolist()
        rank = {length: n for n, length in enumerate(dict.fromkeys(self.grid[i] for i in self.order))}
        shuffled = sorted(self.order, key=lambda i: (rank[self.grid[i]], place[i]))
        for batch in torch.randperm(len(self.cuts), generator=generator).tolist():
            start, stop = self.cuts[batch]
            yield tuple(shuffled[start:stop])
        yield from [()] * (len(self) - len(self.cuts))


def on_grid(length: int) -> int:
    """Round up to one of eight steps per octave (33..64 by 4, 65..128 by 8): at most an eighth more."""
    step = 1 << max(0, (max(length, 1) - 1).bit_length() - 4)
    return -(-length // step) * step


def snake(grid: Sequence[Lengths]) -> list[int]:
    """Indices sorted so that neighbours are alike in every tensor: by the last length, then to and fro."""
    groups = {length: n for n, length in enumerate(sorted({length[-1:] for length in grid}))}

    def key(i: int) -> tuple[int, ...]:
        group = groups[grid[i][-1:]]
        forth = 1 if group % 2 == 0 else -1
        return (group, *(forth * length for length in grid[i][:-1]))

    return sorted(range(len(grid)), key=key)


def cut(grid: Sequence[Lengths], batch_size: int, batch_tokens: int) -> list[tuple[int, int]]:
    """Cut a sorted sequence into (start, stop) as late as the limits allow.

    A single example may be over `batch_tokens` by its rounding up; it stands alone, where its
    true length counts.
    """
    cuts: list[tuple[int, int]] = []
    start = 0
    widest: Lengths = ()
    for stop, length in enumerate(grid):
        wider = tuple(map(max, widest, length)) if widest else length
        count = stop - start + 1
        if count > 1 and (count > batch_size or count * sum(wider) > batch_tokens):
            cuts.append((start, stop))
            start, wider = stop, length
        widest = wider
    if start < len(grid):
        cuts.append((start, len(grid)))
    return cuts
