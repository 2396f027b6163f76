"""Soft labels: a mentor's distribution over each scored token, whole or compressed.

Shapes: N scored tokens, V width of the logits, R the tokenizer's tokens (`vocabulary`), K stored
entries per token, C rows of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_LOGITS = 1 << 24
"""Logits of a chunk while soft labels are made: up to three float32 tensors of its size at once."""


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """The mentor's distribution at temperature τ for N scored tokens.

    Attributes:
        log_p_NK: float32 log-probabilities at τ, over ids below `vocabulary`.
        ids_NK: int64 tokens; None: column j is token j, and K is `vocabulary`.
        tail: what the ids lack is one more category (top-k); False: they hold all mass.
        vocabulary: the tokenizer's tokens; embedding rows above it are padding.
    """

    log_p_NK: Tensor
    ids_NK: Tensor | None
    tail: bool
    vocabulary: int

    def rows(self, start: int, stop: int) -> SoftTargets:
        """Those of the tokens from `start` to before `stop`."""
        ids_NK = None if self.ids_NK is None else self.ids_NK[start:stop]
        return SoftTargets(self.log_p_NK[start:stop], ids_NK, self.tail, self.vocabulary)


def full(logits_NV: Tensor, temperature: float, vocabulary: int) -> SoftTargets:
    """Every token's log-probability: exact, and as large as the logits.

    Args:
        logits_NV: the mentor's, of any floating type; columns from `vocabulary` on are ignored.
        temperature: τ; the distribution is softmax(logits/τ), in float32.
        vocabulary: R.

    Raises:
        ValueError: a temperature or a vocabulary that the logits cannot have.

    Example:
        >>> full(torch.tensor([[0.0, 0.0, 9.0]]), 1.0, vocabulary=2).log_p_NK.exp().tolist()
        [[0.5, 0.5]]
    """
    _check(logits_NV, temperature, vocabulary)
    log_p_NR = (logits_NV[:, :vocabulary].float() / temperature).log_softmax(-1)
    return SoftTargets(log_p_NR, None, False, vocabulary)


def top_k(logits_NV: Tensor, temperature: float, vocabulary: int, k: int) -> SoftTargets:
    """The k likeliest tokens, likeliest first; all others are one more category, the tail.

    With k at `vocabulary` or above it gives the full targets.

    Args:
        logits_NV: as for `full`.
        temperature: as for `full`. Log-probabilities of one τ do not give those of another.
        vocabulary: R.
        k: tokens kept.

    Raises:
        ValueError: a temperature, vocabulary or k that cannot be.

    Example:
        >>> soft = top_k(torch.tensor([[1.0, 8.0, 8.0, 1.0]]).log(), 1.0, vocabulary=4, k=2)
        >>> sorted(soft.ids_NK[0].tolist()), [round(p, 4) for p in soft.log_p_NK[0].exp().tolist()]
        ([1, 2], [0.4444, 0.4444])
    """
    _check(logits_NV, temperature, vocabulary)
    if k < 1:
        raise ValueError(f"k is {k}; keep at least 1 token")
    if k >= vocabulary:
        return full(logits_NV, temperature, vocabulary)
    real_NR = logits_NV[:, :vocabulary]
    values_NK, ids_NK = real_NR.topk(k)
    totals_N = logits_NV.new_empty(len(logits_NV), dtype=torch.float32)
    for start, stop in chunks(len(logits_NV), vocabulary):
        totals_N[start:stop] = (real_NR[start:stop].float() / temperature).logsumexp(-1)
    log_p_NK = (values_NK.float() / temperature).sub_(totals_N.unsqueeze(1))
    return SoftTargets(log_p_NK, ids_NK, True, vocabulary)


def chunks(rows: int, width: int) -> list[tuple[int, int]]:
    """Borders of runs of rows that have at most `CHUNK_LOGITS` logits together, and at least one row."""
    step = max(1, CHUNK_LOGITS // max(width, 1))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def _check(logits_NV: Tensor, temperature: float, vocabulary: int) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    if not 0 < vocabulary <= logits_NV.shape[1]:
        raise ValueError(f"a vocabulary of {vocabulary} tokens has no place in {logits_NV.shape[1]} logits")
