"""Checkpoints of sharded trainings: every process writes its part, any number of them reads the parts.

torch's distributed checkpoints know each tensor by its name and each part by its place in the whole, so a
training that two processes began goes on in one, or in four. Frozen weights are not written. One process
writes and reads the same files.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as read_parts
from torch.distributed.checkpoint.state_dict_saver import save as write_parts
from torch.optim import Optimizer

from limbeck import ranks

PARTS = "parts"
"""The folder of the parts in a checkpoint's."""

TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)
BY_NAME = StateDictOptions(ignore_frozen_params=True)


def save(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Write what is trained of the model, and the optimiser's state; all ranks call it.

    Raises:
        OSError: a file could not be written, on whichever rank.
    """
    state = {
        "model": get_model_state_dict(model, options=TRAINED),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=BY_NAME),
    }
    _together(write_parts, state, folder)


def load_model(folder: Path, model: nn.Module) -> None:
    """Read the model's weights, whatever the number of processes that wrote them; all ranks call it."""
    state = get_model_state_dict(model, options=TRAINED)
    _together(read_parts, {"model": state}, folder)
    set_model_state_dict(model, state, options=TRAINED)


def load_optimizer(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """The same of the optimiser's state."""
    state = get_optimizer_state_dict(model, optimizer, options=BY_NAME)
    _together(read_parts, {"optimizer": state}, folder)
    set_optimizer_state_dict(model, optimizer, state, options=BY_NAME)


def _together(work: Callable[..., Any], state: dict[str, Any], folder: Path) -> None:
    try:
        with warnings.catch_warnings():
            # Said although one process is what we asked for.
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            work(state, checkpoint_id=str(folder / PARTS), no_dist=ranks.world() == 1)
    except CheckpointException as error:  # no Exception: what happened is on the ranks
        first, _ = next(iter(error.failures.values()))
        raise first from error
