"""Cross-entropy of the next token: the loss of fine-tuning on rationales."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
        weights_N: weight of each token, or None when all weigh 1; no gradient flows to it.

    Returns:
        A float32 scalar; 0 with a gradient path when N is 0. It can be differentiated once.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
        >>> round(cross_entropy(logits, torch.tensor([0, 1])).item(), 4)  # 2 log 2
        1.3863
        >>> round(cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([1.0, 0.1])).item(), 4)
        0.7625
    """
    loss: Tensor = _CrossEntropy.apply(logits_NV, targets_N, weights_N)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Makes the gradient w · (softmax − onehot) at once, in the memory of the softmax.

    torch's own keeps the log-softmax and makes two more tensors of its size on the way back.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor | None) -> Tensor:
        log_p_NV = logits_NV.log_softmax(-1, dtype=torch.float32)
        index_N1 = targets_N.unsqueeze(1)
        losses_N = -log_p_NV.gather(1, index_N1).squeeze(1)
        if ctx.needs_input_grad[0]:
            gradient_NV = log_p_NV.exp_()
            gradient_NV.scatter_add_(1, index_N1, -gradient_NV.new_ones(index_N1.shape))
            if weights_N is not None:
                gradient_NV.mul_(weights_N.unsqueeze(1))
            ctx.save_for_backward(gradient_NV.to(logits_NV.dtype))
        return losses_N.sum() if weights_N is None else (losses_N * weights_N).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (gradient_NV,) = ctx.saved_tensors
        return gradient_NV * gradient.to(gradient_NV.dtype), None, None
