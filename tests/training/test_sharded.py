"""Checkpoints in parts, of one process: what two make of them is in tests/test_sharded.py."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from limbeck.training import sharded


def made(kind: Any, **more: Any) -> tuple[nn.Module, Optimizer, LambdaLR]:
    """A model with a frozen layer, and an optimiser with a group of nobody, as adapters leave it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    groups = [
        {"params": list(model[1].parameters()), "weight_decay": 0.1},
        {"params": [], "weight_decay": 0.0},
    ]
    optimizer = kind(groups, lr=0.1, **more)
    return model, optimizer, LambdaLR(optimizer, lambda step: 1 / (step + 1))


def step(model: nn.Module, optimizer: Optimizer, rate: LambdaLR) -> None:
    model(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    rate.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(("kind", "more"), [(AdamW, {"fused": True}), (SGD, {})])
def test_a_checkpoint_goes_on_bit_for_bit(kind: Any, more: dict[str, Any], tmp_path: Path) -> None:
    first, second = made(kind, **more), made(kind, **more)
    step(*first)
    step(*first)
    sharded.save(tmp_path, *first[:2])
    frozen, same = next(second[0].parameters()), next(first[0].parameters())
    frozen.data.zero_()
    sharded.load_model(tmp_path, second[0])
    sharded.load_optimizer(tmp_path, *second[:2])
    second[2].load_state_dict(first[2].state_dict())
    assert not frozen.any(), "what is not trained is in no checkpoint"
    frozen.data.copy_(same)
    assert [group["weight_decay"] for group in second[1].param_groups] == [0.1, 0.0]
    step(*first)
    step(*second)
    for one, two in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(one, two)


def test_what_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """torch raises something that is no Exception; a command would end without a sentence."""
    (tmp_path / "parts").write_text("a file where the folder should be")
    with pytest.raises(OSError):
        sharded.save(tmp_path, *made(SGD)[:2])
