"""Named loss parts: what a method hands to the trainer.

The trainer minimises Σ_p weight_p · (Σ sums_p) / (Σ counts_p), both sums over all micro-batches
and processes of an optimiser step. A part counts what it averages over: tokens, examples, pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from limbeck.objectives.align import (
    align_batch,
    head_weight,
    hidden,
    is_encoder_decoder,
    plain_head,
    score,
    unwrap,
)
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.distillation import chunked_distillation, distillation
from limbeck.soft_labels.live import SoftLabels
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
        _check_kind(self, model)
        scored, logits_NV = score(model, batch)
        return {"cross_entropy": cross_entropy(logits_NV, scored.targets_N, scored.weights_N)}


@dataclass(frozen=True)
class Distil:
    """Mentor-KD (arXiv 2410.09037): cross-entropy, and the divergence from a mentor's soft labels.

    Both per token. Where the model's head is a plain matrix, no more than a chunk of logits exists.

    Args:
        encoder_decoder: the student's kind, which is the mentor's too.
        soft: the mentor's distributions; their temperature is the student's.
        kl_weight: λ, the divergence's weight; the cross-entropy has 1 − λ.
        squared: multiply the divergence by τ².
    """

    encoder_decoder: bool
    soft: SoftLabels
    kl_weight: float
    squared: bool = False
    plain: WeakKeyDictionary[nn.Module, bool] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    @property
    def weights(self) -> Mapping[str, float]:
        """1 − λ and λ."""
        return {"cross_entropy": 1 - self.kl_weight, "divergence": self.kl_weight}

    def count(self, batch: Batch) -> dict[str, Tensor]:
        """Σ weights of the scored tokens, or their number, for both parts."""
        count = align_batch(batch, encoder_decoder=self.encoder_decoder).count()
        return {"cross_entropy": count, "divergence": count}

    def sums(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Nats; refuses a model of the other architecture, whose tokens `count` would miscount."""
        _check_kind(self, model)
        soft, temperature = self.soft.of(batch), self.soft.temperature
        if self._is_plain(model):
            scored, hidden_NH = hidden(model, batch)
            loss = partial(chunked_distillation, hidden_NH, head_weight(model))
        else:
            scored, logits_NV = score(model, batch)
            loss = partial(distillation, logits_NV)
        ce, kl = loss(
            scored.targets_N,
            soft,
            temperature=temperature,
            kl_weight=self.kl_weight,
            squared=self.squared,
            weights_N=scored.weights_N,
        )
        return {"cross_entropy": ce, "divergence": kl}

    def _is_plain(self, model: nn.Module) -> bool:
        """`plain_head`, asked once per model, whatever is wrapped around it."""
        inner = unwrap(model)
        if inner not in self.plain:
            self.plain[inner] = plain_head(inner)
        return self.plain[inner]


def _check_kind(objective: FineTune | Distil, model: nn.Module) -> None:
    if is_encoder_decoder(model) != objective.encoder_decoder:
        name = type(objective).__name__
        raise ValueError(f"{name}(encoder_decoder={objective.encoder_decoder}) got a model of another kind")
