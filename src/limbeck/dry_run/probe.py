"""Three real steps of a training on this machine, which say how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device

from limbeck.dry_run.reading import Reading
from limbeck.recipe import LearnerSettings
from limbeck.training.collate import Batch, collate
from limbeck.training.parts import CrossEntropy, with_router
from limbeck.training.sampler import MicroBatch
from limbeck.training.settings import TrainSettings
from limbeck.training.shared_prompts import TooLongToShareError, decided
from limbeck.training.timed_step import timed_step

STEPS = 3
"""Timed, after one that is not."""


def seconds_per_step(model: Any, reading: Reading, learner: LearnerSettings) -> float:
    """Mean seconds of three optimiser steps with the sizes of this training; they change the weights.

    The loss is the cross-entropy alone: what a method adds is small, but for a mentor that is asked live.

    Args:
        model: on the device where it is.
        reading: whose first epoch the steps are of: a small one, a middling one and a large one.

    Raises:
        RecipeError: the training would refuse to share prompts.
    """
    steps, share = _typical(reading), _shares_prompts(model, reading, learner.train)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(trained, lr=1e-6)
        if learner.train.optimizer == "sgd"
        else torch.optim.AdamW(trained, lr=1e-6, fused=True)
    )
    model.train()
    if learner.train.gradient_checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable({"use_reentrant": False})
    step = timed_step(model, optimizer, learner.train.precision, encoder_decoder=reading.feed.encoder_decoder)
    seconds = []
    for micros in [steps[-1], *steps]:
        batches = [_batch(reading, micro, share=share) for micro in micros if micro]
        seconds.append(step([send_to_device(batch, model.device) for batch in batches])[1])
    return sum(seconds[1:]) / len(steps)


def _shares_prompts(model: Any, reading: Reading, train: TrainSettings) -> bool:
    """What the training will decide. Guessed rows are as long as they may be: the real ones may fit."""
    try:
        return decided(model, reading.feed, train, with_router((CrossEntropy(),), model)).shared
    except TooLongToShareError:
        if reading.guessed:
            return False
        raise


def _batch(reading: Reading, micro: MicroBatch, *, share: bool) -> Batch:
    """A micro-batch as training makes it."""
    feed, rows = reading.feed, reading.rows(micro)
    if not share:
        return collate(rows, feed.pad)
    prompts = [row.prompt_ids(encoder_decoder=feed.encoder_decoder) for row in rows]
    if reading.guessed:  # those of one length have the same tokens; the question tells them apart
        questions = [hash(feed.groups[group].key) for group in micro for _ in feed.drawn(group, 0)]
        prompts = [(question, *ids[1:]) for question, ids in zip(questions, prompts, strict=True)]
    return collate(rows, feed.pad, prompts=prompts)


def _typical(reading: Reading) -> list[Sequence[MicroBatch]]:
    """The steps at one, three and five sixths of all by size; of fewer steps some twice."""
    steps = reading.feed.sampler.steps(0)

    def size(number: int) -> int:
        micros = [reading.rows(micro) for micro in steps[number] if micro]
        return sum(len(rows) * max(len(row.input_ids) + len(row.labels) for row in rows) for rows in micros)

    ordered = sorted(range(len(steps)), key=size)
    return [steps[ordered[len(ordered) * (2 * n + 1) // (2 * STEPS)]] for n in range(STEPS)]
