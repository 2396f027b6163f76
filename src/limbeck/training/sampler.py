"""Which groups share a micro-batch and a step, and which rank gets what of it.

Everything follows from (seed, epoch) alone: no global generator is read, so that a training
resumes bit for bit, and no rank needs to hear of another's share.

`by-length`: neighbours in length share a micro-batch, in a new order every epoch. Lengths are
rounded up to a grid. Groups are sorted by grid length with ties in random order and cut where the
next one would break a limit. `random`: a random order, cut in the same way. In both, every epoch
has the same number of micro-batches.

A step is `accumulate` micro-batches, whatever the number of ranks: see `Sharing`.

Where groups have a question, an epoch goes in passes: each takes one group of every question that has one
left, and a step holds groups of one pass. So no step sees a question twice. By length, a group is always in
the same pass, and the passes come in a new order every epoch; at random the groups of a question change
places.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from limbeck.errors import RecipeError

Lengths = tuple[int, ...]
"""Tokens in each padded tensor: (input,) or (encoder, decoder)."""

MicroBatch = tuple[int, ...]
"""Indices of the groups that share a micro-batch."""


@dataclass(frozen=True, slots=True)
class Size:
    """The largest draw of a group: how many rows it has, and the longest of them."""

    rows: int
    lengths: Lengths


@dataclass(frozen=True, slots=True)
class Limits:
    """What a micro-batch may hold: groups, and tokens with padding, summed over the padded tensors."""

    groups: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Sharing:
    """How the ranks share the micro-batches of a step.

    With a the greatest common divisor of `accumulate` and the number of ranks, the micro-batches of
    a step go round a teams of b = world / a ranks, and the ranks of a team share the groups of each.
    So two ranks do the steps that one would do.

    Args:
        accumulate: micro-batches of a step.
        rank: this process, from 0.
        world: how many processes there are.
    """

    accumulate: int = 1
    rank: int = 0
    world: int = 1

    @property
    def teams(self) -> int:
        """a."""
        return math.gcd(self.accumulate, self.world)

    @property
    def members(self) -> int:
        """b: ranks that share a micro-batch."""
        return self.world // self.teams

    @property
    def turns(self) -> int:
        """Micro-batches of a step that a rank takes part in."""
        return self.accumulate // self.teams

    def check(self, batch_size: int) -> None:
        """Refuse what cannot be shared equally.

        Raises:
            RecipeError: the ranks of a team cannot share `batch_size` groups.
        """
        if batch_size % self.members:
            raise RecipeError(
                f"batch_size: {self.world} processes cannot share {self.accumulate} × {batch_size} "
                f"(accumulate × batch_size) equally; make batch_size a multiple of {self.members} "
                f"or accumulate one of {self.world}"
            )

    def share(self, step: Sequence[MicroBatch]) -> list[MicroBatch]:
        """What this rank has of a step, and empty micro-batches where others have more."""
        team, member = divmod(self.rank, self.members)
        turns = -(-len(step) // self.teams)
        own = [micro[member :: self.members] for micro in step[team :: self.teams]]
        return own + [()] * (turns - len(own))


class GroupSampler:
    """Yields (epoch, groups of a micro-batch) for this rank; each group once per epoch.

    Args:
        sizes: of every group, at its largest draw.
        limits: of a micro-batch.
        seed: with the epoch, decides the order.
        batches: `random` or `by-length`.
        epochs: of the training: the most micro-batches that one of them needs is what each has.
        sharing: which share of every step this rank has.
        questions: of every group, "" where it may share a step with any; (): so may all.

    Raises:
        RecipeError: one group alone is over the tokens, or the ranks cannot share a batch.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        limits: Limits,
        *,
        seed: int,
        batches: str = "by-length",
        epochs: int = 1,
        sharing: Sharing = Sharing(),
        questions: Sequence[str] = (),
    ) -> None:
        check_largest(sizes, limits.tokens)
        sharing.check(limits.groups)
        self.seed = seed
        self.sharing = sharing
        self.epoch = 0
        questions = questions or [""] * len(sizes)
        self._plan = (
            by_length(sizes, limits, questions)
            if batches == "by-length"
            else at_random(sizes, limits, questions, epochs, seed)
        )
        self._shape = [len(step) for step in self.steps(0)]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is of."""
        self.epoch = epoch

    def steps(self, epoch: int) -> list[list[MicroBatch]]:
        """The micro-batches of every step of an epoch, whole, of all ranks.

        A step that ends one of several passes early is filled up with empty ones: a trainer takes as many
        for every step, except for an epoch's last.
        """
        count, passes = self.sharing.accumulate, self._plan(generator(self.seed, epoch))
        steps = [micros[start : start + count] for micros in passes for start in range(0, len(micros), count)]
        return steps if len(passes) == 1 else [step + [()] * (count - len(step)) for step in steps]

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of every epoch."""
        return len(self._shape)

    def __len__(self) -> int:
        return sum(len(self.sharing.share([()] * count)) for count in self._shape)

    def __iter__(self) -> Iterator[tuple[int, MicroBatch]]:
        epoch = self.epoch
        for step in self.steps(epoch):
            for micro in self.sharing.share(step):
                yield epoch, micro


def check_largest(sizes: Sequence[Size], tokens: int) -> None:
    """Refuse a group that is over the tokens of a micro-batch on its own."""
    largest = max(sizes, key=padded, default=None)
    if largest is None or padded(largest) <= tokens:
        return
    what = (
        f"{padded(largest)} tokens of the longest example"
        if largest.rows == 1
        else f"{padded(largest)} tokens of the largest group ({largest.rows} examples, padded to the longest)"
    )
    raise RecipeError(
        f"batch_tokens: {tokens} is less than the {what}; raise batch_tokens or lower max_length"
    )


def padded(size: Size) -> int:
    """Tokens of a group in a micro-batch of its own."""
    return size.rows * sum(size.lengths)


def generator(seed: int, epoch: int) -> torch.Generator:
    """The randomness of an epoch."""
    # A generator takes 32 bits of its seed; the prime keeps (seed, epoch) pairs apart.
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**32)


Plan = Callable[[torch.Generator], list[list[MicroBatch]]]
"""The micro-batches of each pass of an epoch from its randomness; always as many."""


def passes(order: Sequence[int], questions: Sequence[str]) -> list[list[int]]:
    """Cut an order of groups into passes: the n-th group of a question is in pass n.

    Example:
        >>> passes([3, 0, 2, 1], ["p", "p", "q", "p"])
        [[3, 2], [0], [1]]
    """
    seen: Counter[str] = Counter()
    found: list[list[int]] = [[]]
    for group in order:
        number = seen[questions[group]]
        if number == len(found):
            found.append([])
        found[number].append(group)
        seen[questions[group]] += bool(questions[group])
    return found


def by_length(sizes: Sequence[Size], limits: Limits, questions: Sequence[str]) -> Plan:
    """Neighbours in length share a micro-batch.

    The cuts depend on grid lengths only, so every epoch has the same number of batches, while who
    shares a batch changes.
    """
    plans = [
        _by_length([sizes[i] for i in some], limits, some) for some in passes(range(len(sizes)), questions)
    ]

    def plan(generator: torch.Generator) -> list[list[MicroBatch]]:
        made = [one(generator) for one in plans]
        return made if len(made) == 1 else [made[n] for n in _shuffled(len(made), generator)]

    return plan


def _by_length(
    sizes: Sequence[Size], limits: Limits, groups: Sequence[int]
) -> Callable[[torch.Generator], list[MicroBatch]]:
    """The micro-batches of one pass; `sizes` are those of its `groups`."""
    grid = [on_grid_size(size) for size in sizes]
    order = snake([(size.rows, *size.lengths) for size in grid])
    ranks = {size: n for n, size in enumerate(dict.fromkeys(grid[i] for i in order))}
    cuts = cut_sizes([grid[i] for i in order], limits)

    def plan(generator: torch.Generator) -> list[MicroBatch]:
        place = _shuffled(len(grid), generator)
        shuffled = sorted(order, key=lambda i: (ranks[grid[i]], place[i]))
        return [
            tuple(groups[i] for i in shuffled[slice(*cuts[batch])])
            for batch in _shuffled(len(cuts), generator)
        ]

    return plan


def at_random(
    sizes: Sequence[Size], limits: Limits, questions: Sequence[str], epochs: int, seed: int
) -> Plan:
    """A random order, cut where a limit would be broken.

    Where the limit of tokens cuts, some orders need more batches than others. All epochs get the
    largest number in each pass: the fullest batches of the others are halved.
    """
    cut_random = partial(_cut_random, sizes, limits, questions)
    # Where no batch can be over the tokens, all epochs are cut after the same number of groups.
    widest = tuple(map(max, zip(*(size.lengths for size in sizes), strict=True))) if sizes else ()
    always_fits = limits.groups * max((size.rows for size in sizes), default=0) * sum(widest) <= limits.tokens
    tried = range(1 if always_fits else epochs)
    counts = [
        max(map(len, same_pass))
        for same_pass in zip(*(cut_random(generator(seed, epoch)) for epoch in tried), strict=True)
    ]

    def plan(generator: torch.Generator) -> list[list[MicroBatch]]:
        made = cut_random(generator)
        for batches, count in zip(made, counts, strict=True):
            while len(batches) < count:
                fullest = max(range(len(batches)), key=lambda n: len(batches[n]))
                half = len(batches[fullest]) // 2
                batches[fullest : fullest + 1] = [batches[fullest][:half], batches[fullest][half:]]
        return made

    return plan


def _cut_random(
    sizes: Sequence[Size], limits: Limits, questions: Sequence[str], generator: torch.Generator
) -> list[list[MicroBatch]]:
    return [
        [tuple(some[slice(*found)]) for found in cut_sizes([sizes[i] for i in some], limits)]
        for some in passes(_shuffled(len(sizes), generator), questions)
    ]


def _shuffled(count: int, generator: torch.Generator) -> list[int]:
    shuffled: list[int] = torch.randperm(count, generator=generator).tolist()
    return shuffled


def on_grid_size(size: Size) -> Size:
    """A size with its lengths rounded up."""
    return Size(size.rows, tuple(map(on_grid, size.lengths)))


def on_grid(length: int) -> int:
    """Round up to one of eight steps per octave (33..64 by 4, 65..128 by 8): at most an eighth more."""
    step = 1 << max(0, (max(length, 1) - 1).bit_length() - 4)
    return -(-length // step) * step


def snake(grid: Sequence[Lengths]) -> list[int]:
    """Indices sorted so that neighbours are similar in every number: by the last, then to and fro."""
    groups = {length: n for n, length in enumerate(sorted({length[-1:] for length in grid}))}

    def key(i: int) -> tuple[int, ...]:
        group = groups[grid[i][-1:]]
        forth = 1 if group % 2 == 0 else -1
        return (group, *(forth * length for length in grid[i][:-1]))

    return sorted(range(len(grid)), key=key)


def cut_sizes(sizes: Sequence[Size], limits: Limits) -> list[tuple[int, int]]:
    """Cut a sequence into (start, stop) as late as the limits allow.

    A single group may be over the tokens by its rounding up; it is alone, where its true
    length counts.
    """
    cuts: list[tuple[int, int]] = []
    start, rows = 0, 0
    widest: Lengths = ()
    for stop, size in enumerate(sizes):
        wider = tuple(map(max, widest, size.lengths)) if widest else size.lengths
        rows += size.rows
        if stop > start and (stop - start >= limits.groups or rows * sum(wider) > limits.tokens):
            cuts.append((start, stop))
            start, rows, wider = stop, size.rows, size.lengths
        widest = wider
    if start < len(sizes):
        cuts.append((start, len(sizes)))
    return cuts
