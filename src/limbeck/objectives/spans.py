"""Agreement of two rationales on their answer: the two-way divergence between paired answer spans.

Shapes: B rows of a batch, S tokens of the longest span, P pairs, N paired tokens of all pairs, V
vocabulary; 2N rows of logits, of which 2i and 2i+1 are a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.objectives.align import align_spans
from limbeck.objectives.tokens import Step, Where, differentiated


def two_way_divergence(logits_NV: Tensor, others_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """½ [KL(p ‖ q) + KL(q ‖ p)] of each pair of tokens, (N,), in nats; gradients flow to both sides.

    p and q are softmax(logits/τ) and softmax(others/τ). Pure and differentiable.

    Source: MCC-KD (arXiv 2310.14747). Deviations: its code divides the target alone by τ and adds a
    constant to both distributions, which spreads much of their mass evenly; we do neither. It is a
    true divergence: 0 for equal logits.

    Example:
        >>> one, other = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[1.0, 1.0]]).log()
        >>> round(two_way_divergence(one, other).item(), 4)  # ½ · (¾ − ½) log 3 · 1
        0.1373
    """
    log_p_NV = (logits_NV.float() / temperature).log_softmax(-1)
    log_q_NV = (others_NV.float() / temperature).log_softmax(-1)
    return 0.5 * ((log_p_NV.exp() - log_q_NV.exp()) * (log_p_NV - log_q_NV)).sum(-1)


def paired_divergence(temperature: float) -> Step:
    """`two_way_divergence` of rows 2i and 2i+1: a step of `tokens.token_loss`, by autograd.

    Each row of a pair has half of its value; both must have the same weight.

    Raises:
        ValueError: a temperature that cannot be.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")

    def values(logits_CV: Tensor) -> Tensor:
        pairs_C = two_way_divergence(logits_CV[0::2], logits_CV[1::2], temperature)
        return pairs_C.repeat_interleave(2) / 2

    def step(logits_CV: Tensor, where: Where, weights_C1: Tensor, *, gradient: bool) -> Tensor:
        return differentiated(values, logits_CV, weights_C1, gradient=gradient)

    return step


@dataclass(frozen=True, slots=True)
class PairedTokens:
    """The span tokens of all pairs of a batch.

    Attributes:
        places_2N: predictor of each token (see `align.Spans`), pair by pair and token by token; 2i is
            the first row's and 2i+1 the second row's.
        weights_2N: 1 over the number of tokens of its pair's span, times `group_factors` of the batch.
    """

    places_2N: Tensor
    weights_2N: Tensor


def paired_rows(batch: Mapping[str, Any], *, encoder_decoder: bool) -> Tensor:
    """(B,B) bool, true at (i, j), i < j, for the two rows of a pair.

    A pair are the two rows of a group that have a span, if exactly two of its rows have one and
    their span's tokens are the same; nothing else is a pair.
    """
    spans = align_spans(batch, encoder_decoder=encoder_decoder)
    has_B = spans.keep_BS.any(1)
    groups_B: Tensor = batch["groups"].to(has_B.device)
    together_BB = (groups_B[:, None] == groups_B) & has_B[:, None] & has_B
    two_B = together_BB.sum(1) == 2
    same_BB = (spans.targets_BS[:, None] == spans.targets_BS).all(-1)
    return (together_BB & two_B[:, None] & same_BB).triu(1)


def paired_tokens(batch: Mapping[str, Any], *, encoder_decoder: bool) -> PairedTokens:
    """The tokens of every pair, in the order of the batch."""
    spans = align_spans(batch, encoder_decoder=encoder_decoder)
    first_P, second_P = paired_rows(batch, encoder_decoder=encoder_decoder).nonzero().unbind(1)
    keep_PS = spans.keep_BS[first_P]
    both_N2 = torch.stack([spans.places_BS[rows_P][keep_PS] for rows_P in (first_P, second_P)], 1)
    weights_PS = (keep_PS / keep_PS.sum(1, keepdim=True)).float()
    if "group_factors" in batch:
        weights_PS = weights_PS * batch["group_factors"][first_P, None]
    return PairedTokens(both_N2.flatten(), weights_PS[keep_PS].repeat_interleave(2))
