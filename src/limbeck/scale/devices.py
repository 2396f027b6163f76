"""How much memory the devices at hand have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from limbeck.lm.load import device_of

CGROUP = Path("/sys/fs/cgroup/memory.max")
"""What a container may use, where it is said here; "max": no limit."""


@dataclass(frozen=True, slots=True)
class Memory:
    """A device that models are put on.

    Attributes:
        name: such as `cpu` or the GPU's.
        kind: cpu, cuda or mps.
        total: bytes.
        free: bytes that are free now; of a processor what can be had without swapping.
    """

    name: str
    kind: str
    total: int
    free: int


def memory_of(name: str) -> Memory:
    """The memory of the device that a setting means.

    Args:
        name: as in a recipe: auto, cpu, cuda or mps.

    Raises:
        RecipeError: it is not there.
    """
    device = device_of(name)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(torch.cuda.get_device_name(device), "cuda", total, free)
    found = psutil.virtual_memory()
    limit = _limit(found.total)
    return Memory(device.type, device.type, limit, min(found.available, limit))


def visible_devices() -> int:
    """Processes that a launcher would start here, one for each GPU; one where there is none."""
    return max(1, torch.cuda.device_count())


def _limit(total: int) -> int:
    try:
        return min(total, int(CGROUP.read_text()))
    except (OSError, ValueError):
        return total
