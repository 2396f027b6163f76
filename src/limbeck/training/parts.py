"""TEMPORARY: cross-entropy alone behind the interface that the trainer uses. Dropped at the merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from limbeck.objectives.align import align_batch, score
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.training.collate import Batch


class Part(Protocol):
    """A named, weighted loss."""

    @property
    def name(self) -> str:
        """In logs and errors."""
        ...

    @property
    def weight(self) -> float:
        """In the loss; 0 costs nothing."""
        ...

    def count(self, batch: Batch, *, encoder_decoder: bool) -> Tensor:
        """What this micro-batch adds to the part's denominator."""
        ...


Parts = tuple[Part, ...]


@dataclass(frozen=True)
class CrossEntropy:
    """Nats per scored token."""

    weight: float = 1.0
    name: str = "cross_entropy"

    def count(self, batch: Batch, *, encoder_decoder: bool) -> Tensor:
        """Σ expected, or Σ weights, or the number of scored tokens."""
        if "expected" in batch:
            total: Tensor = batch["expected"].sum()
            return total
        return align_batch(_seen(batch), encoder_decoder=encoder_decoder).count()


def _seen(batch: Batch) -> Batch:
    """The batch without the labels of rows that are not scored."""
    if "scored" not in batch:
        return batch
    return {**batch, "labels": batch["labels"].masked_fill(~batch["scored"][:, None], -100)}


def loss(
    parts: Parts, model: nn.Module, batch: Batch, counts: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ weight · sum / count with its gradient, and each part's sum / count."""
    (part,) = parts
    scored, logits_NV = score(model, _seen(batch))
    value = cross_entropy(logits_NV, scored.targets_N, scored.weights_N) / counts[part.name]
    return torch.stack([part.weight * value]).sum(), {part.name: value.detach()}
