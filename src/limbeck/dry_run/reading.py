"""What a learner is going to read: the rows of its training, exact where the examples are known, else of the
lengths that the recipe allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.lm.cost import tokens_about
from limbeck.objectives.align import IGNORED
from limbeck.recipe import LearnerSettings
from limbeck.scale import stored
from limbeck.scale.training import MicroBatch
from limbeck.soft_labels.cache import each_once
from limbeck.stages.context import Context, PlannedTraining
from limbeck.stages.problems import problems
from limbeck.stages.training import rendered
from limbeck.tasks.asking import Asking, learner_asking
from limbeck.training.collate import padding, tokenise
from limbeck.training.feed import Feed, lengths_of, train_feed
from limbeck.training.groups import ALL, Draw
from limbeck.training.rows import Row, RowGroup, RowGroups, outline
from limbeck.training.sampler import Sharing

ANY = 1
"""A token that stands for any other where only lengths are known."""

GUESSED = "rationales are not there yet: every problem keeps all that may be used, each as long as it may be"
UNREAD = "no tokenizer is at hand: four characters count as a token"


@dataclass(frozen=True)
class Reading:
    """The training of a learner, as far as it is known.

    Attributes:
        feed: its micro-batches.
        guessed: why it is an estimate; () where it is exact.
    """

    feed: Feed
    guessed: tuple[str, ...] = ()

    @property
    def examples(self) -> int:
        """Rows that token losses see."""
        return int(outline(self.feed.groups).scored.sum())

    def row_bytes(self, learner: LearnerSettings) -> int:
        """Bytes of the file of these rows."""
        known = outline(self.feed.groups)
        inputs, labels = known.lengths.sum(0, dtype=np.int64).tolist()
        return stored.row_bytes(
            inputs,
            labels,
            len(known.scored),
            encoder_decoder=self.feed.encoder_decoder,
            weighted=learner.train.prompt_weight > 0,
        )

    def steps(self, learner: LearnerSettings) -> int:
        """Optimiser steps."""
        return learner.train.steps or self.feed.sampler.steps_per_epoch * learner.train.epochs

    def largest(self) -> MicroBatch:
        """The first epoch's micro-batch of the most tokens with padding, with the most scored ones of any."""
        found = [
            one
            for step in self.feed.sampler.steps(0)
            for micro in step
            if (one := shape(self.rows(micro), encoder_decoder=self.feed.encoder_decoder)).rows
        ]
        widest = max(found, key=lambda one: one.rows * sum(one.lengths))
        return MicroBatch(widest.rows, widest.lengths, max(one.scored for one in found))

    def rows(self, micro: Sequence[int]) -> list[Row]:
        """The rows of a micro-batch in the first epoch."""
        return [self.feed.groups[g].rows[n] for g in micro for n in self.feed.drawn(g, 0)]

    def scored(self) -> tuple[int, int]:
        """Scored tokens and rows, each different row once: what soft labels are of."""
        groups = self.feed.groups
        if not isinstance(groups, RowGroups):  # guessed: any two would be the same
            tokens = sum(scored_tokens(row) for group in groups for row in group.rows)
            return tokens, int(outline(groups).starts[-1])
        rows = groups.rows
        scored = rows.scored.nonzero()[0]
        different = rows.some(scored[each_once(rows.keys[scored])])
        return sum(map(scored_tokens, different)), len(different)


def scored_tokens(row: Row) -> int:
    """Tokens of a row of which logits are made."""
    return len(row.labels) - row.labels.count(IGNORED) if row.scored else 0


def shape(rows: Sequence[Row], *, encoder_decoder: bool) -> MicroBatch:
    """The size of a micro-batch of these rows."""
    if not rows:
        return MicroBatch(0, (), 0)
    lengths = [lengths_of(row, encoder_decoder=encoder_decoder) for row in rows]
    widest = tuple(map(max, zip(*lengths, strict=True)))
    return MicroBatch(len(rows), widest, sum(map(scored_tokens, rows)))


def known(
    planned: PlannedTraining, tokenizer: Any, folder: Path | None, *, encoder_decoder: bool
) -> Reading | None:
    """The reading of a training whose examples are known; None where all of them are too long.

    Args:
        folder: where its rows take their room; see `Planned.rows`.
    """
    learner, settings = planned.learner, planned.learner.settings
    groups = rendered(tokenizer, learner, planned.data.train, encoder_decoder=encoder_decoder)
    found = tokenise(
        tokenizer,
        groups,
        encoder_decoder=encoder_decoder,
        max_length=settings.train.max_length,
        max_completion=settings.train.max_completion,
        prompt_weight=settings.train.prompt_weight,
        folder=folder,
    )
    if not found.groups:
        return None
    return Reading(_feed(found.groups, settings, planned.data.draw or ALL, tokenizer, encoder_decoder))


def guessed(
    context: Context,
    learner: LearnerSettings,
    rows: int,
    tokenizer: Any,
    *,
    together: bool,
    compared: int = 0,
    encoder_decoder: bool,
) -> Reading:
    """A reading of the right number of rows, all of them as long as the recipe allows.

    Args:
        rows: examples of a problem.
        together: whether they are one group.
        compared: rows next to each that are not learned.
    """
    asking = learner_asking(learner.prompt, learner.format, demonstrations=(), thinks=learner.thinks)
    most = learner.train.max_length
    written = min(context.recipe.rationales.max_tokens, learner.train.max_completion or most)

    @cache
    def row(prompt: int) -> Row:
        if encoder_decoder:
            return Row("", [ANY] * min(prompt, most), [ANY] * min(written, most))
        prompt = min(prompt, most - 1)
        after = min(written, most - prompt)
        return Row("", [ANY] * (prompt + after), [IGNORED] * prompt + [ANY] * after)

    groups = []
    for problem, length in zip(
        problems(context).train, prompt_lengths(asking, problems(context).train, tokenizer), strict=True
    ):
        some = [row(length)] * rows
        beside = (replace(row(length), scored=False),) * compared
        groups += (
            [RowGroup(problem.id, tuple(some) + beside * rows)]
            if together
            else [RowGroup(problem.id, (one, *beside)) for one in some]
        )
    why = (GUESSED, *(() if tokenizer is not None else (UNREAD,)))
    return Reading(_feed(groups, learner, ALL, tokenizer, encoder_decoder), why)


def prompt_lengths(asking: Asking, some: Iterable[Any], tokenizer: Any) -> list[int]:
    """Tokens of the prompts of problems; without a tokenizer about."""
    pieces = [asking.pieces(problem) for problem in some]
    if tokenizer is None:
        return [tokens_about(asking.plain(one)) for one in pieces]
    texts = [asking.text(tokenizer, one) for one in pieces]
    return [len(ids) for ids in tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]]


def _feed(
    groups: Sequence[RowGroup], settings: LearnerSettings, draw: Draw, tokenizer: Any, encoder_decoder: bool
) -> Feed:
    return train_feed(
        groups,
        settings.train,
        Sharing(settings.train.accumulate),
        draw=draw,
        seed=0,
        pad=ANY if tokenizer is None else padding(tokenizer),
        encoder_decoder=encoder_decoder,
        corrected=True,
    )
