"""Late interaction: how well a passage answers a question, token by token (MaxSim).

Shapes: P pairs of a question and a passage, L tokens of a question, M of a passage, D numbers of a state.
"""

from __future__ import annotations

import torch
from torch import Tensor


def maxsim(
    questions_PLD: Tensor, questions_mask_PL: Tensor, passages_PMD: Tensor, passages_mask_PM: Tensor
) -> Tensor:
    """Σ over the question's tokens of the largest inner product with a token of the passage, (P,), float32.

    Source: ColBERT (arXiv 2004.12832), as KARD's reranker has it. The masks say which tokens there are.
    Padding of a passage is never the largest, also where all real products are negative; that of a question
    adds nothing, whatever its states are (NaN too). Where several tokens are the largest, the gradient is
    shared among them.

    Args:
        questions_mask_PL, passages_mask_PM: true at tokens that count.

    Returns:
        The scores; 0, with no gradient, where a passage has no token that counts.

    Example:
        >>> question = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
        >>> passage = torch.tensor([[[-1.0, -2.0], [-3.0, -0.5], [0.0, 0.0]]])
        >>> real = torch.tensor([[True, True, False]])
        >>> maxsim(question, real, passage, real).tolist()
        [-1.5]
    """
    questions_PLD = questions_PLD.float().masked_fill(~questions_mask_PL[..., None], 0.0)
    passages_PMD = passages_PMD.float().masked_fill(~passages_mask_PM[..., None], 0.0)
    products_PLM = torch.einsum("pld,pmd->plm", questions_PLD, passages_PMD)
    best_PL = products_PLM.masked_fill(~passages_mask_PM[:, None, :], -torch.inf).amax(-1)
    counts_PL = questions_mask_PL & passages_mask_PM.any(-1, keepdim=True)
    return best_PL.masked_fill(~counts_PL, 0.0).sum(-1)
