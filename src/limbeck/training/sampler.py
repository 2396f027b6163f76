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

Sizes, orders and cuts are arrays, some tens of bytes a group; the tuples of a step are made at its turn.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from limbeck.errors import RecipeError

Sizes = NDArray[np.integer[Any]]
"""(G, 1 + tensors) the largest draw of each group: how many rows it has, and the most tokens of one of them
in each padded tensor: (input,) or (encoder, decoder)."""

Order = NDArray[np.int64]
"""Indices of groups, one after the other."""

Cuts = NDArray[np.int64]
"""(B,2) where each of B stretches of an order begins and ends."""

MicroBatch = tuple[int, ...]
"""Indices of the groups that share a micro-batch."""

BLOCK = 4096
"""Sizes that are Python's own numbers at a time."""


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
        questions: of every group a number, 0 where it may share a step with any; None: so may all.

    Raises:
        RecipeError: one group alone is over the tokens, or the ranks cannot share a batch.
    """

    def __init__(
        self,
        sizes: Sizes,
        limits: Limits,
        *,
        seed: int,
        batches: str = "by-length",
        epochs: int = 1,
        sharing: Sharing = Sharing(),
        questions: NDArray[np.int64] | None = None,
    ) -> None:
        check_largest(sizes, limits.tokens)
        sharing.check(limits.groups)
        self.seed = seed
        self.sharing = sharing
        self.epoch = 0
        self._sizes, self._limits = sizes, limits
        if questions is None:
            questions = np.zeros(len(sizes), np.int64)
        self._plan = (
            by_length(sizes, limits, questions)
            if batches == "by-length"
            else at_random(sizes, limits, questions, epochs, seed)
        )
        self._shape = self.steps(0).shape

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is of."""
        self.epoch = epoch

    def steps(self, epoch: int) -> Steps:
        """The micro-batches of every step of an epoch, whole, of all ranks."""
        return Steps(self._plan(generator(self.seed, epoch)), self.sharing.accumulate)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of every epoch."""
        return len(self._shape)

    @property
    def tokens_wanted(self) -> int | None:
        """Tokens of a micro-batch with which none would have fewer groups for its tokens; None: none has."""
        groups = self._limits.groups
        passes = self._plan(generator(self.seed, 0))
        if all(len(one) == math.ceil(len(one.order) / groups) for one in passes):
            return None
        rows, *lengths = on_grid_sizes(self._sizes).max(0).tolist()
        return groups * int(rows) * int(sum(lengths))

    def __len__(self) -> int:
        return sum(len(self.sharing.share([()] * count)) for count in self._shape)

    def __iter__(self) -> Iterator[tuple[int, MicroBatch]]:
        epoch = self.epoch
        for step in self.steps(epoch):
            for micro in self.sharing.share(step):
                yield epoch, micro


def check_largest(sizes: Sizes, tokens: int) -> None:
    """Refuse a group that is over the tokens of a micro-batch on its own."""
    if not len(sizes):
        return
    alone = padded(sizes)
    largest = int(alone.argmax())
    rows, most = int(sizes[largest, 0]), int(alone[largest])
    if most <= tokens:
        return
    what = (
        f"{most} tokens of the longest example"
        if rows == 1
        else f"{most} tokens of the largest group ({rows} examples, padded to the longest)"
    )
    raise RecipeError(
        f"batch_tokens: {tokens} is less than the {what}; raise batch_tokens or lower max_length"
    )


def padded(sizes: Sizes) -> NDArray[np.int64]:
    """(G,) tokens of each group in a micro-batch of its own."""
    alone: NDArray[np.int64] = sizes[:, 0].astype(np.int64) * sizes[:, 1:].sum(1, dtype=np.int64)
    return alone


def generator(seed: int, epoch: int) -> torch.Generator:
    """The randomness of an epoch."""
    # A generator takes 32 bits of its seed; the prime keeps (seed, epoch) pairs apart.
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**32)


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """Micro-batches: stretches of an order of groups, in the order of the cuts."""

    order: Order
    cuts: Cuts

    def __len__(self) -> int:
        return len(self.cuts)

    def micros(self, start: int, stop: int) -> list[MicroBatch]:
        """Some of them, one after the other."""
        return [tuple(self.order[first:end].tolist()) for first, end in self.cuts[start:stop].tolist()]


class Steps(Sequence[list[MicroBatch]]):
    """The steps of an epoch; each is made when it is looked at.

    A step that ends one of several passes early is filled up with empty micro-batches: a trainer takes as
    many for every step, except for an epoch's last.

    Args:
        passes: whose micro-batches they take.
        count: micro-batches of a step.
    """

    def __init__(self, passes: Sequence[Pass], count: int) -> None:
        self._passes, self._count = passes, count
        self._ends = np.cumsum([-(-len(one) // count) for one in passes])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, number: int) -> list[MicroBatch]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[MicroBatch]]: ...
    def __getitem__(self, number: int | slice) -> list[MicroBatch] | list[list[MicroBatch]]:
        numbers = range(len(self))[number]
        return self._step(numbers) if isinstance(numbers, int) else list(map(self._step, numbers))

    def _step(self, number: int) -> list[MicroBatch]:
        which = int(np.searchsorted(self._ends, number, side="right"))
        before = int(self._ends[which - 1]) if which else 0
        start = (number - before) * self._count
        micros = self._passes[which].micros(start, start + self._count)
        return micros if len(self._passes) == 1 else micros + [()] * (self._count - len(micros))

    @property
    def shape(self) -> list[int]:
        """How many micro-batches each step has."""
        if len(self._passes) > 1:
            return [self._count] * len(self)
        full, left = divmod(len(self._passes[0]), self._count)
        return [self._count] * full + [left] * (left > 0)


Plan = Callable[[torch.Generator], list[Pass]]
"""The passes of an epoch from its randomness; always as many, of as many micro-batches."""


def passes(order: Order, questions: NDArray[np.int64]) -> list[Order]:
    """Cut an order of groups into passes: the n-th group of a question is in pass n.

    Example: groups 0, 1 and 3 ask one question.
        >>> passes(np.array([3, 0, 2, 1]), np.array([5, 5, 6, 5]))
        [array([3, 2]), array([0]), array([1])]
    """
    asked = questions[order]
    if not asked.any():
        return [order]
    together = np.argsort(asked, kind="stable")  # the groups of a question, in the order
    begins = np.flatnonzero(np.diff(asked[together], prepend=asked[together[0]] - 1))
    counts = np.diff(begins, append=len(order))
    number = np.empty(len(order), np.int64)
    number[together] = np.arange(len(order)) - np.repeat(begins, counts)
    number[asked == 0] = 0
    # One sort for all passes: a question may have as many groups as there are.
    return np.split(order[np.argsort(number, kind="stable")], np.cumsum(np.bincount(number))[:-1])


def by_length(sizes: Sizes, limits: Limits, questions: NDArray[np.int64]) -> Plan:
    """Neighbours in length share a micro-batch.

    The cuts depend on grid lengths only, so every epoch has the same number of batches, while who
    shares a batch changes.
    """
    plans = [_by_length(sizes[some], limits, some) for some in passes(np.arange(len(sizes)), questions)]

    def plan(generator: torch.Generator) -> list[Pass]:
        made = [one(generator) for one in plans]
        return made if len(made) == 1 else [made[n] for n in _shuffled(len(made), generator).tolist()]

    return plan


def _by_length(sizes: Sizes, limits: Limits, groups: Order) -> Callable[[torch.Generator], Pass]:
    """The micro-batches of one pass; `sizes` are those of its `groups`."""
    grid = on_grid_sizes(sizes)
    order = snake(grid)
    cuts = cut_sizes(grid[order], limits)
    # Equal sizes are next to each other in the order: a number for each different one, as it comes.
    new = np.any(np.diff(grid[order], axis=0, prepend=grid[order[:1]]), axis=1)
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.cumsum(new)

    def plan(generator: torch.Generator) -> Pass:
        place = _shuffled(len(ranks), generator)
        shuffled = np.lexsort((place, ranks))
        return Pass(groups[shuffled], cuts[_shuffled(len(cuts), generator)])

    return plan


def at_random(sizes: Sizes, limits: Limits, questions: NDArray[np.int64], epochs: int, seed: int) -> Plan:
    """A random order, cut where a limit would be broken.

    Where the limit of tokens cuts, some orders need more batches than others. All epochs get the
    largest number in each pass: the fullest batches of the others are halved.
    """
    cut_random = partial(_cut_random, sizes, limits, questions)
    # Where no batch can be over the tokens, all epochs are cut after the same number of groups.
    most = sizes.max(0).tolist() if len(sizes) else [0]
    always_fits = limits.groups * most[0] * sum(most[1:]) <= limits.tokens
    counts: list[int] = []
    for epoch in range(1 if always_fits else epochs):  # one at a time: each holds a whole order
        own = [len(one) for one in cut_random(generator(seed, epoch))]
        counts = [max(pair) for pair in zip(counts or own, own, strict=True)]

    def plan(generator: torch.Generator) -> list[Pass]:
        return [_halved(one, count) for one, count in zip(cut_random(generator), counts, strict=True)]

    return plan


def _halved(one: Pass, count: int) -> Pass:
    """With so many micro-batches: the fullest are halved, the first of them first."""
    cuts = one.cuts
    while len(cuts) < count:
        fullest = int((cuts[:, 1] - cuts[:, 0]).argmax())
        first, end = cuts[fullest].tolist()
        middle = first + (end - first) // 2
        halves = [[first, middle], [middle, end]]
        cuts = np.concatenate([cuts[:fullest], np.array(halves), cuts[fullest + 1 :]])
    return Pass(one.order, cuts)


def _cut_random(
    sizes: Sizes, limits: Limits, questions: NDArray[np.int64], generator: torch.Generator
) -> list[Pass]:
    shuffled = _shuffled(len(sizes), generator)
    return [Pass(some, cut_sizes(sizes[some], limits)) for some in passes(shuffled, questions)]


def _shuffled(count: int, generator: torch.Generator) -> Order:
    shuffled: Order = torch.randperm(count, generator=generator).numpy()
    return shuffled


def on_grid_sizes(sizes: Sizes) -> Sizes:
    """Sizes with their lengths rounded up."""
    return np.concatenate([sizes[:, :1], on_grid(sizes[:, 1:])], axis=1)


def on_grid(lengths: ArrayLike) -> NDArray[np.int64]:
    """Round up to one of eight steps per octave (33..64 by 4, 65..128 by 8): at most an eighth more.

    Example:
        >>> on_grid([16, 17, 33, 100])
        array([ 16,  18,  36, 104])
    """
    whole = np.asarray(lengths, np.int64)
    bits = np.frexp(np.maximum(whole, 1) - 1.0)[1]  # of a whole number: its binary digits
    step = np.left_shift(1, np.maximum(bits - 4, 0), dtype=np.int64)
    up: NDArray[np.int64] = -(-whole // step) * step
    return up


def snake(grid: Sizes) -> Order:
    """Indices of rows of numbers, sorted so that neighbours are similar in every number: by the last, then to
    and fro by the others."""
    groups = np.unique(grid[:, -1], return_inverse=True)[1]
    forth = np.where(groups % 2 == 0, 1, -1)
    others = [forth * column for column in grid[:, :-1].T]
    order: Order = np.lexsort((*others[::-1], groups))
    return order


def cut_sizes(sizes: Sizes, limits: Limits) -> Cuts:
    """Cut a sequence as late as the limits allow.

    A single group may be over the tokens by its rounding up; it is alone, where its true
    length counts.
    """
    cuts = array("q")
    start, rows = 0, 0
    widest: list[int] = [0] * (sizes.shape[1] - 1)
    for begin in range(0, len(sizes), BLOCK):
        for stop, (own, *lengths) in enumerate(sizes[begin : begin + BLOCK].tolist(), begin):
            wider = list(map(max, widest, lengths))
            rows += own
            if stop > start and (stop - start >= limits.groups or rows * sum(wider) > limits.tokens):
                cuts.extend((start, stop))
                start, rows, wider = stop, own, lengths
            widest = wider
    if start < len(sizes):
        cuts.extend((start, len(sizes)))
    return np.asarray(cuts).reshape(-1, 2)
