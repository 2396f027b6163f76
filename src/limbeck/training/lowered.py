"""bfloat16 on a processor, as fast as its instructions are.

Under autocast torch converts a frozen weight again in every forward, because it keeps only what it made of
weights that are trained. And the backward of its fused attention in bfloat16 takes two to seven times as long
as that of single operations, for texts of 32 to 256 tokens (docs/log.md). So a training
step on a CPU computes with frozen weights that were converted once, and, where its texts are short,
with the attention that transformers calls eager. Both compute what autocast computes: the first bit for bit,
the second up to bfloat16's rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

LONGEST = 256
"""Tokens up to which eager attention is faster; it also holds a number for every pair of them."""


class Lowered:
    """A model's frozen weights in bfloat16, and its attention, lent to one training step at a time.

    Args:
        model: a Hugging Face model, full or PEFT, on a CPU. Between steps it is as it was.
    """

    def __init__(self, model: nn.Module) -> None:
        self.base = _base(model)
        self.weights = [(weight, weight.detach().bfloat16()) for weight in _frozen(self.base)]

    @contextmanager
    def step(self, width: int) -> Iterator[None]:
        """A forward and its backward on rows of `width` tokens; the backward reads the weights again."""
        with ExitStack() as stack:
            stack.enter_context(self._converted())
            if width <= LONGEST:
                stack.enter_context(_eager(self.base))
            yield

    @contextmanager
    def _converted(self) -> Iterator[None]:
        kept = [weight.data for weight, _ in self.weights]
        try:
            for weight, low in self.weights:
                weight.data = low
            yield
        finally:
            for (weight, _), own in zip(self.weights, kept, strict=True):
                weight.data = own


def _base(model: Any) -> Any:
    """The model below an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _frozen(model: Any) -> list[nn.Parameter]:
    """The matrices of linear layers that are not trained and that nothing but these layers reads.

    The head is left out: the loss reads its weight by itself, and an embedding may share it.
    """
    head = model.get_output_embeddings()
    others = {id(head.weight)} if head is not None else set()
    others |= {
        id(own) for one in model.modules() if not _linear(one) for own in one.parameters(recurse=False)
    }
    found = {id(one.weight): one.weight for one in model.modules() if _linear(one)}
    return [
        weight
        for key, weight in found.items()
        if key not in others and not weight.requires_grad and weight.dtype == torch.float32
    ]


def _linear(module: Any) -> bool:
    return type(module) is nn.Linear


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """While open, attention is computed by single operations, if the model's is torch's fused one.

    The public setter would set the configs below as well, and the model's walks over all its modules.
    """
    configs = {id(one.config): one.config for one in model.modules() if hasattr(one, "config")}
    fused = [one for one in configs.values() if getattr(one, "_attn_implementation", None) == "sdpa"]
    try:
        for config in fused:
            config._attn_implementation_internal = "eager"
        yield
    finally:
        for config in fused:
            config._attn_implementation_internal = "sdpa"


def width_of(batch: Any) -> int:
    """Tokens of the longest row of a micro-batch, or of its longest target."""
    return int(max(batch["input_ids"].shape[1], batch["labels"].shape[1]))
