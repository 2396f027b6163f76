"""Named loss parts: what a method hands to the trainer.

The trainer minimises Σ_p weight_p · (Σ sums_p) / (Σ counts_p), both sums over all micro-batches
and processes of an optimiser step. A part counts what it averages over: tokens, examples, pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from limbeck.objectives.align import align_batch, is_encoder_decoder, score
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.training.collate import Batch


class Objective(Protocol):
    """One or more named loss parts of a batch; `weights`, `count` and `sums` have the same names.

    A part weighted 0 is logged and not trained on. A batch may have nothing to count (see
    `collate`): its counts are then 0 and its sums 0 with a gradient path through the model.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each part in the loss."""
        ...

    def count(self, batch: Batch) -> dict[str, Tensor]:
        """What each part's sum is divided by, for this batch alone: non-negative float32 scalars."""
        ...

    def sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Each part's sum over this batch: float32 scalars, undivided and unweighted.

        The model must be called (once, for DistributedDataParallel) through `model` itself.
        """
        ...


@dataclass(frozen=True)
class FineTune:
    """Cross-entropy of the scored tokens, per token: answers only and Fine-tune-CoT (arXiv 2212.10071).

    Tokens weighted in the batch (`label_weights`, see `prompt_weight`) count by their weight.
    """

    encoder_decoder: bool
    weights: Mapping[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0})

    def count(self, batch: Batch) -> dict[str, Tensor]:
        """Σ weights of the scored tokens, or their number."""
        return {"cross_entropy": align_batch(batch, encoder_decoder=self.encoder_decoder).count()}

    def sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Nats; refuses a model of the other architecture, whose tokens `count` would miscount."""
        if is_encoder_decoder(model) != self.encoder_decoder:
            raise ValueError(f"FineTune(encoder_decoder={self.encoder_decoder}) got a model of another kind")
        scored, logits_NV = score(model, batch)
        return {"cross_entropy": cross_entropy(logits_NV, scored.targets_N, scored.weights_N)}
