"""One optimiser step outside a training: what a trial of precisions and a dry run take and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from limbeck.training.collate import Batch
from limbeck.training.lowered import Lowered, width_of
from limbeck.training.parts import CrossEntropy, loss

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What is computed in under autocast, by precision."""

Step = Callable[[Sequence[Batch]], tuple[float, float]]
"""Takes a step's micro-batches, on the model's device; gives its loss and its seconds."""


def timed_step(
    model: Any, optimizer: torch.optim.Optimizer, precision: str, *, encoder_decoder: bool
) -> Step:
    """A step by cross-entropy alone, as a training takes it in a precision, clipped at 1.

    In fp16 the loss is not scaled: that changes what is learned, not how long it takes.
    """
    part, kind, low = CrossEntropy(), model.device.type, LOW.get(precision)
    lowered = Lowered(model) if precision == "bf16" and kind == "cpu" else None
    trained = [one for group in optimizer.param_groups for one in group["params"]]

    def step(batches: Sequence[Batch]) -> tuple[float, float]:
        start = time.perf_counter()
        counts = {part.name: sum(part.count(batch, encoder_decoder=encoder_decoder) for batch in batches)}
        whole = torch.zeros((), device=model.device)
        for batch in batches:
            with lowered.step(width_of(batch)) if lowered else nullcontext():
                with torch.autocast(kind, low, enabled=low is not None):
                    total, _ = loss((part,), model, batch, counts)  # type: ignore[arg-type]
                total.backward()  # type: ignore[no-untyped-call]
            whole += total.detach()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return whole.item(), time.perf_counter() - start  # item() waits for the device

    return step
