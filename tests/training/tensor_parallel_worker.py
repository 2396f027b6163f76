"""One of two processes: a step of training and greedy texts of a model that transformers cuts by its tensors.

The loss is Limbeck's own. Both processes have the same batch, and hold the whole model once more to compare
with. Prints a line for each comparison.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from limbeck.training.collate import collate
from limbeck.training.parts import CrossEntropy, loss
from tests.objectives.test_shared_prompts import some_rows

COLUMNS = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]
"""Layers whose weights are cut by columns: each process has whole rows of what goes in."""


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def backward(model: Any) -> Tensor:
    """The gradient of all weights that are trained; it stays in them."""
    batch = collate(some_rows(False)[0], 0)
    model.zero_grad()
    total, _ = loss((CrossEntropy(),), model, batch, {"cross_entropy": torch.tensor(50.0)})
    total.backward()  # type: ignore[no-untyped-call]
    return flat(one.grad for one in model.parameters() if one.requires_grad)


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([whole(one.detach()).flatten() for one in tensors])


def adapted(model: Any, layers: list[str] | str) -> Any:
    """With an adapter that is the same everywhere and is no adapter of zeros."""
    found = get_peft_model(model, LoraConfig(r=4, target_modules=layers, lora_dropout=0.0))
    for number, (name, weight) in enumerate(found.named_parameters()):
        if "lora_" in name:
            torch.manual_seed(number)
            drawn = 0.1 * torch.randn(weight.shape)
            cut = isinstance(weight, DTensor)
            weight.data.copy_(
                distribute_tensor(drawn, weight.device_mesh, weight.placements) if cut else drawn
            )
    return found


def apart(ours: Tensor, theirs: Tensor) -> str:
    return f"{((ours - theirs).norm() / theirs.norm()).item():.1e}"


def main() -> None:
    distributed.init_process_group("gloo")
    folder = sys.argv[1]

    def both() -> tuple[Any, Any]:
        cut = DistributedConfig(tp_size=distributed.get_world_size())
        return (
            AutoModelForCausalLM.from_pretrained(folder, distributed_config=cut).train(),
            AutoModelForCausalLM.from_pretrained(folder).train(),
        )

    ours, theirs = both()
    held = sum(one.to_local().numel() for one in ours.parameters() if isinstance(one, DTensor))
    cut = sum(one.numel() for one in ours.parameters() if isinstance(one, DTensor))
    said = [f"processes {distributed.get_world_size()}", f"held {held / cut}"]
    said.append(f"gradient {apart(backward(ours), backward(theirs))}")
    for model in (ours, theirs):
        torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False).step()
    said.append(f"step {apart(flat(ours.parameters()), flat(theirs.parameters()))}")
    ids = torch.arange(5, 11)[None]
    texts = [one.eval().generate(ids, max_new_tokens=20, do_sample=False) for one in (ours, theirs)]
    said.append(f"text {torch.equal(*texts)}")

    ours, theirs = (adapted(one, COLUMNS) for one in both())
    said.append(f"columns {apart(backward(ours), backward(theirs))}")
    for layers in (["o_proj"], ["down_proj"], "all-linear"):  # the first two are cut by rows
        try:
            backward(adapted(both()[0], layers))
            error = "works"
        except RuntimeError as failed:
            error = str(failed)
        said.append(f"{''.join(layers)} {error}")
    if distributed.get_rank() == 0:
        print(*said, sep="\n", flush=True)
    distributed.destroy_process_group()
