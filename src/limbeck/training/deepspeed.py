"""Trainings by DeepSpeed ZeRO-3, by a configuration file of its own (`train.deepspeed`).

Each of several processes holds a part of the weights, gradients and optimiser state, as DeepSpeed's engine
shares them out. The recipe's `train` says what is learned; the file says how that is held and sent. The model
is whole in each process before the training, and again after it.

The engine takes a step inside the step's last backward pass. So a loss that is not finite is read when it has
changed the weights; the training ends then, and no checkpoint is written with them.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import _lru_cache_wrapper
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from limbeck import ranks
from limbeck.errors import RecipeError
from limbeck.files import refuse_special

DECIDED = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
)
"""Entries of a file that say what `train` says; without them DeepSpeed would not clip."""

OF_THE_RECIPE = {
    "optimizer": "train.optimizer, learning_rate and weight_decay",
    "scheduler": "train.schedule and warmup",
}

TAKEN = (
    "zero_optimization",
    "fp16",
    "bf16",
    "steps_per_print",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
)


def check_installed() -> None:
    """Refuse DeepSpeed where it is not.

    Raises:
        RecipeError: naming what to install.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise RecipeError(
            "train.deepspeed: the package deepspeed is not here; pip install deepspeed, or take "
            "train.sharding: fsdp, which shares out the same things"
        )


def read(file: str) -> dict[str, Any]:
    """A configuration file's content, with "auto" for what the recipe decides.

    Raises:
        RecipeError: it is not there, not JSON, not of ZeRO-3, or decides what the recipe does.
    """
    place = f"train.deepspeed: {file}"
    refuse_special(Path(file).expanduser())
    try:
        found = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{place}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{place}: is not JSON ({error})") from None
    zero = found.get("zero_optimization") if isinstance(found, dict) else None
    if not isinstance(zero, dict) or zero.get("stage") != 3:
        raise RecipeError(f'{place}: must have "zero_optimization": {{"stage": 3, ...}}')
    for key, value in found.items():
        _check(f"{place}: {key}", key, value)
    return {**dict.fromkeys(DECIDED, "auto"), **found}


def _check(place: str, key: str, value: Any) -> None:
    """Refuse an entry that the recipe decides, or that nobody tried."""
    if key in OF_THE_RECIPE:
        raise RecipeError(f"{place}: is set by {OF_THE_RECIPE[key]}; remove it")
    if key in DECIDED:
        if value != "auto":
            raise RecipeError(f'{place}: is set by train of the recipe; write "auto", or remove it')
    elif key not in TAKEN:
        raise RecipeError(f"{place}: was never tried here; remove it. What may be there: {', '.join(TAKEN)}")
    elif key in ("fp16", "bf16") and not (isinstance(value, dict) and _off(value.get("enabled"))):
        raise RecipeError(f"{place}: was never tried here; set enabled to false, or remove it")


def _off(enabled: Any) -> bool:
    return enabled is False or enabled == "auto"  # filled by train.precision, which is fp32


def refuse_elsewhere(device: torch.device) -> None:
    """Refuse a training on another kind of device than DeepSpeed's.

    Raises:
        RecipeError: naming both; DeepSpeed takes the machine's accelerator, whatever was asked for.
    """
    from deepspeed.accelerator import get_accelerator

    found = get_accelerator().device_name().partition(":")[0]
    if found != device.type:
        raise RecipeError(
            f"device: {device.type}, and DeepSpeed here works on {found}; write device: {found}, or set "
            f"DS_ACCELERATOR={device.type}"
        )


def refuse_other_number(checkpoint: Path, processes: int) -> None:
    """Refuse to go on from a checkpoint of another number of processes; DeepSpeed cannot read its parts.

    Args:
        processes: that hold a part each now; 0: none does.

    Raises:
        RecipeError: naming both numbers.
    """
    parts = len(list(checkpoint.glob("global_step*/*_optim_states.pt")))
    if parts != processes:
        raise RecipeError(
            f"train.deepspeed: {checkpoint} was written by {_processes(parts)}, and this run has "
            f"{_processes(processes)}; start as many as before, or remove {checkpoint.parent} to begin this "
            "training again"
        )


def _processes(number: int) -> str:
    return f"{number} processes" if number > 1 else "one process"


def refuse_from_outside() -> None:
    """Refuse DeepSpeed that accelerate's launcher asks for: nothing of its configuration was looked at.

    Raises:
        RecipeError: naming what to do.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() in ("true", "1", "yes", "on"):
        raise RecipeError(
            "accelerate's configuration asks for DeepSpeed; give DeepSpeed's own file as train.deepspeed, "
            "and start with torchrun"
        )


@contextmanager
def undone() -> Iterator[None]:
    """Afterwards, a training or a model that is loaded is again none of DeepSpeed's, if one inside was."""
    before = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    try:
        with warnings.catch_warnings():
            # Of DeepSpeed's calls, at each of them.
            warnings.filterwarnings("ignore", "`torch.distributed.* is deprecated", FutureWarning)
            yield
    finally:
        for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
            if name not in before:
                del os.environ[name]
        os.environ.update(before)
        unset_hf_deepspeed_config()


def held(model: nn.Module) -> int:
    """How many parameters this process holds, those that fill the last part up included."""
    return sum(weight.ds_tensor.numel() for weight in model.parameters())  # type: ignore[attr-defined]


Modules = list[tuple[nn.Module, dict[str, Any]]]


def modules_of(model: nn.Module) -> Modules:
    """Each module with its attributes as they are now, its parameters, buffers and hooks among them."""
    of_torch = vars(nn.Module())
    return [
        (module, {name: copy(value) if name in of_torch else value for name, value in vars(module).items()})
        for module in model.modules()
    ]


def make_whole(model: nn.Module, before: Modules) -> tuple[int, ...]:
    """Make the model what it was before its training, whole in CPU memory, with the weights it has now.

    All ranks call it. What DeepSpeed put into the modules goes with it: the engine's `destroy` would leave
    hooks that act in exams, and ways to the engine that keep its memory as long as the model.

    Returns:
        How many parameters each rank held.
    """
    from deepspeed.runtime.zero import GatheredParameters

    shares = tuple(ranks.gather(held(model)))
    whole: dict[int, nn.Parameter | None] = {id(None): None}
    for old in model.parameters():
        with GatheredParameters([old]):
            weight = old.detach().to("cpu", copy=True)
        whole[id(old)] = nn.Parameter(weight, requires_grad=old.requires_grad)
    for module, own in before:  # with the same parameters: DeepSpeed changed them in place
        own["_parameters"] = {name: whole[id(old)] for name, old in own["_parameters"].items()}
        vars(module).clear()
        vars(module).update(own)
    _forget()
    return shares


def _forget() -> None:
    """Empty the two places where DeepSpeed 0.19.8 keeps every model until the process ends, and its engine.

    After each training its whole weights would stay, and this process's gradients and optimiser state.
    """
    from deepspeed.runtime.zero import parameter_offload, partitioned_param_coordinator

    getattr(parameter_offload, "FWD_MODULE_STACK", []).clear()  # another release may have none
    for found in gc.get_objects():  # the cache of a method, which its wrapper hides
        if type(found) is _lru_cache_wrapper and found.__module__ == partitioned_param_coordinator.__name__:
            found.cache_clear()
