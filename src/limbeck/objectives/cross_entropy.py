"""Cross-entropy of the next token: the loss of fine-tuning on rationales; and its smoothing."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.objectives.tokens import Step, Where


def cross_entropy(targets_N: Tensor) -> Step:
    """−log softmax(zₙ)[yₙ] of each token, in nats: a step of `tokens.token_loss`.

    The loss divides the weighted sum by the weights (or the number) of the scored tokens of the whole
    optimiser step: nats per token. Softmax is taken in float32 whatever the logits' type.

    Source: Fine-tune-CoT (arXiv 2212.10071), token-mean cross-entropy over the completion; with
    weights, the language-model loss of tailored learning (arXiv 2310.13332). Deviations: its code
    divides the weighted sum by the number of all tokens, we by Σ wₙ; both codes average per
    micro-batch, we over the optimiser step.

    Args:
        targets_N: the token that each row of logits should predict.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
        >>> step = cross_entropy(torch.tensor([0, 1]))
        >>> step(logits, slice(0, 2), torch.ones(2, 1), gradient=True).tolist()  # log 2
        [[0.6931471824645996], [0.6931471824645996]]
        >>> logits.tolist()  # softmax − onehot
        [[-0.5, 0.5], [0.5, -0.5]]
    """

    def step(logits_CV: Tensor, where: Where, weights_C1: Tensor, *, gradient: bool) -> Tensor:
        targets_C1 = targets_N[where].unsqueeze(1)
        log_p_CV = logits_CV.log_softmax(-1)
        values_C1 = -log_p_CV.gather(1, targets_C1)
        if gradient:
            torch.exp(log_p_CV, out=logits_CV)
            logits_CV.scatter_add_(1, targets_C1, -torch.ones_like(values_C1)).mul_(weights_C1)
        return values_C1

    return step


def smoothing() -> Step:
    """Cross-entropy with the uniform distribution, −1/V Σᵥ log softmax(z)[v], in nats: a step.

    Label smoothing ε is (1 − ε) · `cross_entropy` + ε · this, as `F.cross_entropy(label_smoothing=ε)`:
    over all V entries of the logits, padding of the embedding included. Softmax is taken in float32.

    Source: Szegedy et al., arXiv 1512.00567, §7.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> step = smoothing()
        >>> step(logits, slice(0, 1), torch.ones(1, 1), gradient=True).tolist()  # log 2
        [[0.6931471824645996]]
        >>> logits.tolist()  # softmax − 1/V
        [[0.0, 0.0]]
    """

    def step(logits_CV: Tensor, where: Where, weights_C1: Tensor, *, gradient: bool) -> Tensor:
        log_p_CV = logits_CV.log_softmax(-1)
        values_C1 = -log_p_CV.mean(-1, keepdim=True)
        if gradient:
            torch.exp(log_p_CV, out=logits_CV).sub_(1 / logits_CV.shape[-1]).mul_(weights_C1)
        return values_C1

    return step
