"""Bytes on the disk: models, checkpoints, soft labels, texts."""

from __future__ import annotations

from typing import Literal

from limbeck.scale.outline import Outline
from limbeck.scale.training import optimiser, trained, weights
from limbeck.soft_labels.cache import columns, effective
from limbeck.soft_labels.settings import CodecSettings

INDEX = 32
"""Bytes of a row of soft labels in their index: a key of 128 bits, and two places."""

HEADERS = 256
"""Bytes with which the two files of an index begin."""


def model_bytes(model: Outline, dtype: str) -> int:
    """A saved model's weights; of an adapter its own alone."""
    return trained(model, dtype) if model.adapter else weights(model, dtype)


def checkpoints_at_once(choose: str) -> int:
    """Most whole checkpoints of a training that are on the disk at the same time (`training.checkpoints`).

    The last one stays until the next is written; where dev chooses, so does the best.

    Args:
        choose: as `train.choose`.
    """
    return 2 + (choose != "last")


def checkpoint_bytes(
    model: Outline, dtype: str, kind: Literal["adamw", "sgd"] = "adamw", choose: str = "last"
) -> int:
    """The checkpoints of a training: what is trained, and the optimiser's state."""
    return checkpoints_at_once(choose) * (model_bytes(model, dtype) + optimiser(model, dtype, kind))


def soft_label_bytes(tokens: int, rows: int, vocabulary: int, codec: CodecSettings | None = None) -> int:
    """Soft labels of so many scored tokens in so many rows, as `soft_labels.cache` lays them out.

    Args:
        vocabulary: tokens of the tokenizer.
        codec: what is kept of each distribution; None: the usual 64 likeliest tokens.
    """
    files = columns(effective(codec or CodecSettings(), vocabulary), vocabulary)
    return sum(file.bytes(tokens) for file in files) + rows * INDEX + HEADERS
