"""Cross-entropy of the next token: the loss of fine-tuning on rationales."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor | None = None) -> Tensor:
    """Σₙ wₙ · −log softmax(zₙ)[yₙ], a sum in nats.

    The caller divides by the number of scored tokens (or Σ wₙ) of the whole optimiser step:
    nats per token. Softmax is taken in float32 whatever the logits' type.

    Source: Fine-tune-CoT (arXiv 2212.10071), token-mean cross-entropy over the completion; with
    weights, the language-model loss of tailored learning (arXiv 2310.13332). Deviations: its code
    divides the weighted sum by the number of all tokens, we by Σ wₙ; both codes average per
    micro-batch, we over the optimiser step.

    Args:
        logits_NV: logits of the scored tokens only, aligned with the targets.
        targets_N: the token that each should predict.
        weights_N: weight of each token, or None when all weigh 1.

    Returns:
        A float32 scalar; 0 with a gradient path when N is 0.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
        >>> round(cross_entropy(logits, torch.tensor([0, 1])).item(), 4)  # 2 log 2
        1.3863
        >>> round(cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([1.0, 0.1])).item(), 4)
        0.7625
    """
    if weights_N is None:
        return functional.cross_entropy(logits_NV.float(), targets_N, reduction="sum")
    losses_N = functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")
    return (losses_N * weights_N).sum()
