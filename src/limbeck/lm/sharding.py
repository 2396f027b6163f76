"""Models whose weights are shared out: each process holds a part of every layer (FSDP2).

A layer is gathered while it computes and given up again, forwards and backwards; gradients and the
optimiser's state are shared out like the weights. Embeddings, last norm and head are gathered once for a
whole pass. Transformers does the sharding and tells its `Trainer`; here is when, by which layers, and what
becomes of adapters: they are small, stay whole in every process, and their gradients are averaged.

Where transformers reads the weights of a folder or a name, every process reads its part alone. A model
that is changed before it is trained (made from scratch, cut, an adapter folded in, a new padding token) is
first whole in the memory of every process, on the CPU, and shared out then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

from limbeck import ranks
from limbeck.errors import ModelError, RecipeError
from limbeck.lm.layers import stacks
from limbeck.objectives.align import is_sharded

STYLE = "free_full_weight"
"""What transformers calls a layer that is gathered for its own computation alone."""


def reading(place: Path | str, kind: Any, config: Any) -> dict[str, Any]:
    """What `from_pretrained` needs so that each process reads its part of the weights alone.

    Raises:
        ModelError: a model without a list of layers.
    """
    with torch.device("meta"):
        empty = kind.from_config(config)
    return {"distributed_config": _config(fsdp_plan=_plan(empty, place))}


def shard(model: Any, place: Path | str) -> Any:
    """The model, of which this process keeps its part; one that is shared out already stays as it is.

    Args:
        model: a transformers model, the same in every process, without an adapter.
        place: what errors call it.

    Raises:
        ModelError: a model without a list of layers.
    """
    if is_sharded(model):
        return model
    model.fsdp_plan = _plan(model, place)
    config, _, mesh = type(model).prepare_distribute_model(_config())
    return type(model).maybe_distribute_model(model, config, mesh)


def _config(**more: Any) -> DistributedConfig:
    ranks.group()
    return DistributedConfig(fsdp_size=ranks.world(), **more)


def _plan(model: Any, place: Path | str) -> dict[str, str]:
    found = stacks(model)
    if not found:
        raise ModelError(
            f"{place}: train.sharding: no list of layers is found in a model of type "
            f"{model.config.model_type}; set it to none, or take a model like Llama, GPT-2 or T5"
        )
    return {f"{name}.*": STYLE for name in found}


def refuse_elsewhere(model: nn.Module, device: torch.device) -> None:
    """Refuse a model that was shared out on another kind of device than its setting says.

    Raises:
        RecipeError: naming both; transformers takes the machine's accelerator, whatever was asked for.
    """
    found = next(model.parameters()).device.type
    if found != device.type:
        raise RecipeError(
            f"device: {device.type} cannot hold a sharded model where there is {found}; write device: "
            f"{found}, or hide it (CUDA_VISIBLE_DEVICES=)"
        )


def held(model: nn.Module) -> int:
    """How many parameters this process holds of a model that is shared out.

    Raises:
        RecipeError: a weight that is not shared out among all processes, unless it is of an adapter.
    """
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    here = 0
    for name, weight in model.named_parameters():
        if isinstance(weight, DTensor) and weight.device_mesh.size() == world == ranks.world() > 1:
            here += weight.to_local().numel()
        elif ".lora_" in name and world == ranks.world():
            here += weight.numel()
        else:
            raise RecipeError(
                f"train.sharding: fsdp, and {name} is whole in each of {world} processes; load the model "
                "with sharded=True in every one of them, or set sharding to none"
            )
    return here


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """The whole state of a sharded model in CPU memory on rank 0, {} elsewhere; all ranks call it.

    Names that are one weight (an embedding and a tied head) are one tensor again, so that it is saved once.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    if not ranks.main():
        return {}
    first: dict[int, str] = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        state[name] = state[first.setdefault(id(weight), name)]
    return state


@contextmanager
def written_by_one(model: Any) -> Iterator[None]:
    """While open, `save_pretrained` writes what it is given; it would wait for the other ranks else."""
    config = model.config
    before = vars(config).pop("distributed_config", None)
    try:
        yield
    finally:
        if before is not None:
            config.distributed_config = before
