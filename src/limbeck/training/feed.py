"""What a training or an evaluation reads: groups of rows, drawn, shared and padded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from limbeck import ranks
from limbeck.training.collate import Batch, collate
from limbeck.training.corrections import Correction, correction
from limbeck.training.groups import ALL, Draw
from limbeck.training.rows import Outline, Row, RowGroup, outline
from limbeck.training.sampler import GroupSampler, Limits, MicroBatch, Sharing, Sizes
from limbeck.training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Feed:
    """Groups, how they share micro-batches, and what they give each epoch.

    Args:
        pad: the id that fills rows up.
        encoder_decoder: whether `labels` are other tokens than `input_ids`.
        draw: what a group gives; with the sampler's seed and the epoch.
        correction: of batches by length, or None.
        share: compute a prompt that rows of a micro-batch have in common once.
    """

    groups: Sequence[RowGroup]
    sampler: GroupSampler
    pad: int
    encoder_decoder: bool
    draw: Draw = ALL
    correction: Correction | None = None
    share: bool = False

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, item: tuple[int, MicroBatch]) -> Batch:
        epoch, groups = item
        own = [self.groups[group] for group in groups]
        drawn = [self._drawn(group, epoch) for group in own]
        rows = [group.rows[n] for group, chosen in zip(own, drawn, strict=True) for n in chosen]
        owners = [owner for owner, chosen in enumerate(drawn) for _ in chosen]
        both = self.encoder_decoder
        prompts = [row.prompt_ids(encoder_decoder=both) for row in rows] if self.share else None
        if self.correction is None:
            return collate(rows, self.pad, groups=owners, prompts=prompts)
        factors = [self.correction.of(g)[n] for g, chosen in zip(groups, drawn, strict=True) for n in chosen]
        return collate(
            rows,
            self.pad,
            groups=owners,
            prompts=prompts,
            factors=factors,
            expected=self.correction.expected,
            group_factors=self._of_groups(groups, drawn),
        )

    def _of_groups(self, groups: MicroBatch, drawn: Sequence[Sequence[int]]) -> list[float] | None:
        """What each row's group is corrected by, see `Correction`."""
        assert self.correction is not None
        known = self.correction.of_groups
        if known is None:
            return None
        return [float(known[g]) for g, chosen in zip(groups, drawn, strict=True) for _ in chosen]

    def drawn(self, group: int, epoch: int) -> tuple[int, ...]:
        """Which rows a group gives in an epoch."""
        return self._drawn(self.groups[group], epoch)

    def _drawn(self, group: RowGroup, epoch: int) -> tuple[int, ...]:
        return self.draw.chosen(group.key, group.roles, seed=self.sampler.seed, epoch=epoch)

    def loader(self) -> DataLoader[Any]:
        """A loader whose item is a whole micro-batch: resuming then counts micro-batches."""
        return DataLoader(
            self,  # type: ignore[arg-type]
            batch_size=1,
            sampler=self.sampler,
            collate_fn=_only,
        )

    def tokens(self, steps: int) -> int:
        """Real tokens that the model reads in the first so many steps, over all ranks."""
        known = outline(self.groups)
        lengths = known.lengths if self.encoder_decoder else known.lengths[:, :1]
        own = lengths.sum(1, dtype=np.int64)
        whole = known.per_group(own)

        def of(groups: Iterable[int], epoch: int) -> int:
            if not self.draw.per_role:
                return int(whole[list(groups)].sum())
            return sum(int(own[known.starts[g] + n]) for g in groups for n in self.drawn(g, epoch))

        epochs, left = divmod(steps, self.sampler.steps_per_epoch)
        last = [g for step in self.sampler.steps(epochs)[:left] for micro in step for g in micro]
        if not self.draw.per_role:  # every epoch is the same
            return epochs * int(own.sum()) + of(last, epochs)
        return sum(of(range(len(whole)), epoch) for epoch in range(epochs)) + of(last, epochs)


def _only(items: list[Batch]) -> Batch:
    (batch,) = items
    return batch


def lengths_of(row: Row, *, encoder_decoder: bool) -> tuple[int, ...]:
    """Tokens of a row in each padded tensor: (input,) or (encoder, decoder)."""
    if encoder_decoder:
        return len(row.input_ids), len(row.labels)
    return (len(row.input_ids),)


def sizes_of(known: Outline, draw: Draw, *, encoder_decoder: bool) -> Sizes:
    """The most that each group can give: as many rows as are drawn, with the longest among them."""
    lengths = known.lengths if encoder_decoder else known.lengths[:, :1]
    if not len(known.questions):
        return np.zeros((0, 1 + lengths.shape[1]), np.int32)
    rows = known.rows_of_groups
    for role, number in draw.per_role.items():
        if role in known.named:
            own = known.per_group(known.roles == known.named.index(role))
            rows = rows - own + np.minimum(own, number)
    longest = np.maximum.reduceat(lengths, known.starts[:-1], axis=0)
    return np.concatenate([rows[:, None], longest], axis=1).astype(np.int32)


def _most_epochs(settings: TrainSettings, groups: int) -> int:
    """So many epochs at most; where steps are given, as if every step were as full as it may be."""
    if settings.steps is None:
        return settings.epochs
    return math.ceil(settings.steps * settings.batch_size * settings.accumulate / max(groups, 1))


def train_feed(
    groups: Sequence[RowGroup],
    settings: TrainSettings,
    sharing: Sharing,
    *,
    draw: Draw,
    seed: int,
    pad: int,
    encoder_decoder: bool,
    corrected: bool,
) -> Feed:
    """What this rank reads in training.

    Args:
        corrected: False leaves what batches by length hold as it weighs by itself.
    """
    known = outline(groups)
    sizes = sizes_of(known, draw, encoder_decoder=encoder_decoder)
    limits = Limits(settings.batch_size, settings.batch_tokens)
    epochs = _most_epochs(settings, len(groups))
    sampler_of = partial(GroupSampler, sizes, limits, epochs=epochs, questions=known.questions)
    fix = None
    if settings.batches == "by-length" and corrected:
        # Of whole steps and with a seed of its own: the same on every rank and for every student.
        by_length, at_random = (
            sampler_of(seed=0, batches=batches, sharing=Sharing(settings.accumulate))
            for batches in ("by-length", "random")
        )
        fix = correction(groups, known, sizes, by_length, at_random, draw, encoder_decoder=encoder_decoder)
    sampler = sampler_of(seed=seed, batches=settings.batches, sharing=sharing)
    return Feed(groups, sampler, pad, encoder_decoder, draw, fix)


def dev_feed(
    groups: Sequence[RowGroup],
    settings: TrainSettings,
    *,
    draw: Draw,
    seed: int,
    pad: int,
    encoder_decoder: bool,
) -> Feed | None:
    """What this rank reads in an evaluation: whole micro-batches, or None without any group.

    A group gives what is drawn of it in epoch 0, always the same: the loss on dev is the one that is
    trained, and a part that wants two of many rationales finds two.
    """
    if not groups:
        return None
    sizes = sizes_of(outline(groups), draw, encoder_decoder=encoder_decoder)
    limits = Limits(settings.batch_size, settings.batch_tokens)
    sharing = Sharing(ranks.world(), ranks.rank(), ranks.world())
    sampler = GroupSampler(sizes, limits, seed=seed, sharing=sharing)
    return Feed(groups, sampler, pad, encoder_decoder, draw)
