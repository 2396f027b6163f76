"""Three real steps of a training on this machine, which say how long it will take."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import send_to_device

from limbeck.dry_run.reading import Reading
from limbeck.recipe import LearnerSettings
from limbeck.training.collate import collate
from limbeck.training.rows import Row
from limbeck.training.timed_step import timed_step

STEPS = 3
"""Timed, after one that is not."""


def seconds_per_step(model: Any, reading: Reading, learner: LearnerSettings) -> float:
    """Mean seconds of three optimiser steps with the sizes of this training; they change the weights.

    The loss is the cross-entropy alone: what a method adds is small, but for a mentor that is asked live.

    Args:
        model: on the device where it is.
        reading: whose first epoch the steps are of: a small one, a middling one and a large one.
    """
    steps = _typical(reading)
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
    for rows in [steps[-1], *steps]:
        batches = [collate(some, reading.feed.pad) for some in rows if some]
        seconds.append(step([send_to_device(batch, model.device) for batch in batches])[1])
    return sum(seconds[1:]) / len(steps)


def _typical(reading: Reading) -> list[list[list[Row]]]:
    """The rows of steps at one, three and five sixths of all by size; of fewer steps some twice."""
    steps = reading.feed.sampler.steps(0)

    def rows(number: int) -> list[list[Row]]:
        return [reading.rows(micro) for micro in steps[number]]

    def size(number: int) -> int:
        return sum(
            len(micro) * max(len(row.input_ids) + len(row.labels) for row in micro)
            for micro in rows(number)
            if micro
        )

    ordered = sorted(range(len(steps)), key=size)
    return [rows(ordered[len(ordered) * (2 * n + 1) // (2 * STEPS)]) for n in range(STEPS)]
