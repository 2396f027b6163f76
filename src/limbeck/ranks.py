"""Which of the processes that `torchrun` started this is, and how they agree.

One process needs no torch: everything here then gives its own value back.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

V = TypeVar("V")

TIMEOUT = timedelta(days=30)
"""How long a rank waits for the others: rank 0 may collect from a teacher for days."""


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def main() -> bool:
    """Whether this is rank 0."""
    return rank() == 0


def barrier() -> None:
    """Wait for all ranks."""
    gather(None)


def share(value: V) -> V:
    """Rank 0's value, on every rank; it must be picklable."""
    if world() == 1:
        return value
    import torch.distributed as distributed

    _begin()
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def gather(value: V) -> list[V]:
    """The values of all ranks, in their order, on every rank; they must be picklable."""
    if world() == 1:
        return [value]
    import torch.distributed as distributed

    _begin()
    values: list[V] = [value] * world()
    distributed.all_gather_object(values, value)
    return values


def _begin() -> None:
    import torch.distributed as distributed

    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=TIMEOUT)
