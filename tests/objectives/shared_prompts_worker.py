"""One of two processes: the gradients of shared prompts against separate rows, under DDP and FSDP2.

The first process has two questions, the second one row or none: it must take part in every collective.
Prints a line for each combination.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from limbeck.training.collate import collate
from limbeck.training.parts import CrossEntropy, loss
from tests.objectives.conftest import BUILDERS
from tests.objectives.test_shared_prompts import some_rows


def wrapped(kind: str, how: str) -> tuple[nn.Module, nn.Module]:
    """The model, and what is wrapped around it."""
    torch.manual_seed(7)
    model: Any = BUILDERS[kind]()[0].train()
    if how == "ddp":
        return model, DistributedDataParallel(model)
    blocks = [*model.encoder.block, *model.decoder.block] if kind == "t5" else model.model.layers
    mesh = init_device_mesh("cpu", (2,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(one, DTensor) for one in model.parameters()), "it is sharded"
    return model, model


def gradient(model: nn.Module, outer: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Of a loss over both processes."""
    outer.zero_grad()
    total, _ = loss((CrossEntropy(),), outer, batch, {"cross_entropy": torch.tensor(50.0)})
    total.backward()  # type: ignore[no-untyped-call]
    found = [one.grad for one in model.parameters()]
    return torch.cat([(g.full_tensor() if isinstance(g, DTensor) else g).flatten() for g in found])


def main() -> None:
    distributed.init_process_group("gloo")
    assert distributed.get_world_size() == 2
    first = distributed.get_rank() == 0
    for kind in ("llama", "t5"):
        rows, _ = some_rows(kind == "t5")
        prompts = [row.prompt_ids(encoder_decoder=kind == "t5") for row in rows]
        for how in ("ddp", "fsdp"):
            model, outer = wrapped(kind, how)
            for other in (slice(9, 10), slice(0)):
                own = slice(5) if first else other
                separate = gradient(model, outer, collate(rows[own], 0))
                shared = gradient(model, outer, collate(rows[own], 0, prompts=prompts[own]))
                apart = (shared - separate).norm() / separate.norm()
                if first:
                    print(kind, how, len(rows[other]), f"{apart:.1e}", flush=True)
    distributed.destroy_process_group()
