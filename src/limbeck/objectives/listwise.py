"""Learning to rank a list as given scores rank it: KL between two softmaxes, or the best one alone.

Shapes: Q questions, N candidates of each (padded; a mask says which there are).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def listwise_kl(
    scores_QN: Tensor, targets_QN: Tensor, mask_QN: Tensor, tau_targets: float, tau_scores: float
) -> Tensor:
    """KL( softmax(b / τ₁) ‖ softmax(s / τ₂) ) of each question's list, in nats, (Q,), float32.

    Source: KARD (arXiv 2305.18395): b are BM25's scores for the rationale, s those of late interaction for
    the question. A true KL, not scaled by τ₂². Lists of fewer than two candidates give 0.

    Args:
        scores_QN: s.
        targets_QN: b; no gradient goes there.
        mask_QN: true at candidates that there are; what is in other places does not matter (NaN neither).
        tau_targets, tau_scores: τ₁, τ₂, above 0.

    Example:
        >>> b = torch.tensor([[3.0, 1.0, 99.0]])
        >>> listwise_kl(2 * b - 7, b, torch.tensor([[True, True, False]]), 1.0, 2.0).tolist()
        [0.0]
    """
    log_p_QN = _log_softmax(targets_QN.detach(), mask_QN, tau_targets)
    log_q_QN = _log_softmax(scores_QN, mask_QN, tau_scores)
    return (log_p_QN.exp() * (log_p_QN - log_q_QN)).masked_fill(~mask_QN, 0.0).sum(-1)


def best_cross_entropy(scores_QN: Tensor, targets_QN: Tensor, mask_QN: Tensor, tau_scores: float) -> Tensor:
    """−log softmax(s / τ₂) of the candidate with the highest target, in nats, (Q,), float32.

    Source: the default of KARD's published code, which the paper does not describe. Deviation: candidates
    that share the highest target share the loss, so that their order decides nothing.

    Args: as of `listwise_kl`.

    Example:
        >>> real = torch.tensor([[True, True, False]])
        >>> best_cross_entropy(torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 3.0]]), real, 1.0).exp().tolist()
        [2.0]
    """
    targets_QN = targets_QN.detach().float().masked_fill(~mask_QN, -torch.inf)
    best_QN = (targets_QN == targets_QN.amax(-1, keepdim=True)) & mask_QN
    log_q_QN = _log_softmax(scores_QN, mask_QN, tau_scores)
    share_QN = best_QN / best_QN.sum(-1, keepdim=True).clamp_min(1)
    return -(share_QN * log_q_QN).sum(-1)


def _log_softmax(scores_QN: Tensor, mask_QN: Tensor, tau: float) -> Tensor:
    """log softmax(scores / τ) over the candidates that there are; 0 at the others."""
    if not 0 < tau < math.inf:
        raise ValueError(f"the temperature is {tau}, not above 0")
    lowest = torch.finfo(torch.float32).min
    scaled_QN = (scores_QN.float().masked_fill(~mask_QN, 0.0) / tau).masked_fill(~mask_QN, lowest)
    return scaled_QN.log_softmax(-1).masked_fill(~mask_QN, 0.0)


def annealed(first: float, last: float, progress: float) -> float:
    """A temperature between two: first + (last − first) · α, with α = 2 / (1 + e^(−10p)) − 1.

    Source: α is that of KARD's published code, where it made both temperatures negative from p = 5.1 % on.
    Here it is between two given values, so above 0 wherever these are.

    Args:
        progress: p, the share of the training that is done.

    Example:
        >>> annealed(5.0, 1.0, 0.0), round(annealed(5.0, 1.0, 1.0), 3), annealed(2.0, 2.0, 0.3)
        (5.0, 1.0, 2.0)
    """
    return first + (last - first) * (2 / (1 + math.exp(-10 * progress)) - 1)
