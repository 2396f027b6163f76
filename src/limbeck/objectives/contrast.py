"""Self-reflection: a right rationale's last state near that of another right one, far from a mistake's.

Shapes: B rows of a batch, M triplets, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, relu

ROLES = ("anchor", "positive", "negative")


def triplet(anchors_MH: Tensor, positives_MH: Tensor, negatives_MH: Tensor, margin: float) -> Tensor:
    """max(0, cos(a, n) − cos(a, p) + ρ) of each triplet, (M,), in float32; pure and differentiable.

    Source: tailored learning (arXiv 2310.13332), ρ 1. Deviations: the states are those of the end of
    sequence after the rationale as it was written; its code appends the right answer to a mistake.

    Args:
        anchors_MH, positives_MH, negatives_MH: states.
        margin: ρ.

    Example:
        >>> a, p, n = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
        >>> triplet(a, p, n, 1.0).tolist(), triplet(a, n, p, 1.0).tolist()
        ([0.0], [2.0])
    """
    anchors_MH = anchors_MH.float()
    to_positive_M = cosine_similarity(anchors_MH, positives_MH.float(), dim=-1)
    to_negative_M = cosine_similarity(anchors_MH, negatives_MH.float(), dim=-1)
    return relu(to_negative_M - to_positive_M + margin)


def triplets(batch: Mapping[str, Any]) -> Tensor:
    """(B,B,B) bool, true at (anchor, positive, negative): every such combination within a group.

    Rows are known by their role; those of any other role have no part in it.
    """
    groups_B: Tensor = batch["groups"]
    roles: list[str] = batch["roles"]
    anchor_B, positive_B, negative_B = (
        torch.tensor([role == wanted for role in roles], device=groups_B.device) for wanted in ROLES
    )
    same_BB = groups_B[:, None] == groups_B
    to_positive_BB = same_BB & anchor_B[:, None] & positive_B
    to_negative_BB = same_BB & anchor_B[:, None] & negative_B
    return to_positive_BB[:, :, None] & to_negative_BB[:, None, :]
