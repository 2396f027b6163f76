"""The one loss over tokens: any number of terms, logits a chunk at a time, the gradient made at once.

    L = Σ_t scale_t · Σ_m w_tm · f_t(z_m),    z = hidden · headᵀ, or given

A term is a sum over tokens: cross-entropy, the divergence from soft labels, a user's own function.
All terms share the logits of a chunk, which exist for no longer than the chunk. The scales (a part's
weight over its count in the whole optimiser step) are known before, as tensors; so L is finished and
its gradient is made in the forward pass. The backward pass multiplies it by the incoming gradient.
Nothing waits for the device.

Memory: chunks of logits are made in one buffer, which the last term turns into the gradient of the
logits a block at a time; other terms work on copies of a block. So what is held is `CHUNK_BYTES`, two
or three blocks, and the gradients of head (float32) and rows, whatever the number of tokens.

Shapes: M rows, C rows of a chunk or block, H hidden size, V vocabulary, T terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = {"cpu": 48 << 20}
"""Of a chunk of logits by kind of device. More rows at once make the products with the head faster."""
OTHER_CHUNK_BYTES = 256 << 20

BLOCK_BYTES = {"cpu": 4 << 20}
"""Of the float32 logits that the terms work on at once, by kind of device."""
OTHER_BLOCK_BYTES = 64 << 20

Where = slice | Tensor
"""Which tokens of a term the rows at hand are: consecutive ones, or an index (C,)."""


class Step(Protocol):
    """One term's mathematics for some rows."""

    def __call__(self, logits_CV: Tensor, where: Where, weights_C1: Tensor, *, gradient: bool) -> Tensor:
        """Each row's value (C,1), unweighted, in nats.

        Args:
            logits_CV: float32, to be overwritten: with `gradient` by weight · ∂value/∂logits, else
                by anything.
            where: the rows' place among the term's tokens.
            weights_C1: float32 weight of each row.
            gradient: whether it is wanted.
        """
        ...


@dataclass(frozen=True, slots=True)
class Term:
    """A sum over tokens and its scale in the loss.

    Attributes:
        step: the mathematics.
        scale: float32 scalar that the sum is multiplied by, on the device of the rows.
        weights_M: weight of each row, or None when all weigh 1.
        where_M: which of the step's tokens each row is; None: row m is token m.
        rows: the term sees the first so many rows; None: all. Neighbours 2i and 2i+1 are always seen
            together if this is even.
    """

    step: Step
    scale: Tensor
    weights_M: Tensor | None = None
    where_M: Tensor | None = None
    rows: int | None = None


def token_loss(source_MX: Tensor, head_VH: Tensor | None, terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
    """The finished loss of all terms, and each term's sum.

    Products are made in the type of the rows, under autocast in its; terms work in float32; the
    head's gradient is summed in float32 (a frozen head costs none). Without gradients wanted none is
    made.

    Args:
        source_MX: the rows (M,H) that enter the output head; or, without a head, the logits (M,V).
        head_VH: a plain head's weight (see `align.plain_head`), or None.
        terms: at least one.

    Returns:
        L, a float32 scalar that can be differentiated once, with a gradient path when M is 0; and the
        terms' sums (T,), unscaled and without gradients.

    Raises:
        RuntimeError: (in the backward pass) it was differentiated before.

    Example:
        >>> from limbeck.objectives.cross_entropy import cross_entropy
        >>> rows, head = torch.zeros(2, 3), torch.zeros(4, 3)
        >>> term = Term(cross_entropy(torch.tensor([1, 3])), scale=torch.tensor(0.5))
        >>> loss, sums = token_loss(rows, head, [term])
        >>> round(loss.item(), 4), round(sums[0].item(), 4)  # log 4, 2 log 4
        (1.3863, 2.7726)
    """
    scales_T = torch.stack([term.scale.detach().to(source_MX.device, torch.float32) for term in terms])
    found: tuple[Tensor, Tensor] = _TokenLoss.apply(  # type: ignore[no-untyped-call]
        source_MX, head_VH, scales_T, tuple(terms), torch.is_grad_enabled()
    )
    return found


def by_autograd(function: Callable[[Tensor, Tensor], Tensor], targets_N: Tensor) -> Step:
    """A step from any pure function (logits (C,V) float32, targets (C,)) -> values (C,).

    Its gradient is autograd's, for a block of rows at a time, so that the function's own tensors stay
    small. A row's value must depend on that row alone.

    Raises:
        ValueError: (when used) the function does not give a value per token.
    """

    def step(logits_CV: Tensor, where: Where, weights_C1: Tensor, *, gradient: bool) -> Tensor:
        return differentiated(
            lambda leaf_CV: function(leaf_CV, targets_N[where]), logits_CV, weights_C1, gradient=gradient
        )

    return step


def differentiated(
    function: Callable[[Tensor], Tensor], logits_CV: Tensor, weights_C1: Tensor, *, gradient: bool
) -> Tensor:
    """What a `Step` does, by autograd: values (C,1), and the logits overwritten by their gradient."""
    with torch.set_grad_enabled(gradient):
        leaf_CV = logits_CV.detach().requires_grad_(gradient)
        values_C = function(leaf_CV)
        if values_C.shape != logits_CV.shape[:1]:
            raise ValueError(
                f"a token loss gave values of shape {tuple(values_C.shape)} for {len(logits_CV)} tokens; "
                "it must give one for each token"
            )
        if gradient:
            (gradient_CV,) = torch.autograd.grad(values_C, leaf_CV, weights_C1[:, 0].to(values_C.dtype))
            logits_CV.copy_(gradient_CV)
    return values_C.detach().float()[:, None]


class _TokenLoss(torch.autograd.Function):
    """Keeps the gradients of rows and head that the forward pass made."""

    @staticmethod
    def forward(
        ctx: Any,
        source_MX: Tensor,
        head_VH: Tensor | None,
        scales_T: Tensor,
        terms: tuple[Term, ...],
        enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        to_source, to_head = (enabled and needed for needed in ctx.needs_input_grad[:2])
        # The kept gradient has the size of one token's, so that no type of the products underflows;
        # a power of two takes no digit from it.
        mantissa, exponent = scales_T.abs().amax().clamp_min(torch.finfo(torch.float32).tiny).frexp()
        unit = torch.ldexp(torch.ones_like(mantissa), exponent)
        blocks = _Blocks(terms, scales_T / unit, to_source or to_head)
        with torch.autocast(source_MX.device.type, enabled=False):
            if head_VH is None:
                ctx.kept = (_of_logits(source_MX, blocks, to_source), None)
            else:
                ctx.kept = _of_rows(*_same_type(source_MX, head_VH), blocks, to_source, to_head)
        ctx.unit, ctx.done = unit, False
        ctx.dtypes = (source_MX.dtype, None if head_VH is None else head_VH.dtype)
        sums_T = torch.stack(blocks.sums)
        ctx.mark_non_differentiable(sums_T)
        return torch.dot(sums_T, scales_T), sums_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.done:
            raise RuntimeError("this loss was differentiated before; compute it again")
        ctx.done = True
        kept, ctx.kept = ctx.kept, None
        factor = gradient.float() * ctx.unit
        scaled = [
            None if values is None else values.mul_(factor).to(dtype)
            for values, dtype in zip(kept, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None, None)


class _Blocks:
    """Applies the terms to blocks of logits, and adds up the terms' sums."""

    def __init__(self, terms: tuple[Term, ...], scales_T: Tensor, gradient: bool) -> None:
        self.terms, self.gradient = terms, gradient
        self.one_11 = scales_T.new_ones(1, 1)
        self.scales = scales_T.unbind()
        self.sums = list(torch.zeros_like(scales_T).unbind())

    def borders(self, start: int, stop: int, width: int, device: str) -> Iterable[tuple[int, int]]:
        """Blocks of the rows from `start` to before `stop`; no pair and no term's end is inside one."""
        step = even_rows(BLOCK_BYTES.get(device, OTHER_BLOCK_BYTES), width * 4)
        ends = (term.rows for term in self.terms if term.rows is not None)
        return pairwise(
            sorted({start, stop, *range(start, stop, step), *(end for end in ends if start < end < stop)})
        )

    def apply(self, logits_CV: Tensor, start: int, into_CV: Tensor | None) -> None:
        """Add the terms' sums over a block, and write the gradient of its logits.

        Args:
            into_CV: where to write it (not if no gradient is wanted); it may be the logits themselves,
                which are then worked on in place where they are float32. None: they stay as they are.
        """
        stop = start + len(logits_CV)
        present = [n for n, term in enumerate(self.terms) if term.rows is None or start < term.rows]
        total_CV: Tensor | None = None
        for n in present:
            in_place = into_CV is logits_CV and n == present[-1]
            work_CV = logits_CV.to(torch.float32, copy=not in_place)
            self._add(n, work_CV, start, stop)
            if self.gradient:
                total_CV = work_CV if total_CV is None else work_CV.add_(total_CV)
        if self.gradient and into_CV is not None and total_CV is not into_CV:
            into_CV.copy_(torch.zeros((), device=into_CV.device) if total_CV is None else total_CV)

    def _add(self, n: int, work_CV: Tensor, start: int, stop: int) -> None:
        """Add a term's sum over a block; `work_CV` becomes its gradient."""
        term = self.terms[n]
        weights_C1 = self.one_11 if term.weights_M is None else term.weights_M[start:stop, None].float()
        where = slice(start, stop) if term.where_M is None else term.where_M[start:stop]
        scaled_C1 = (weights_C1 * self.scales[n]).expand(len(work_CV), 1)
        values_C1 = term.step(work_CV, where, scaled_C1, gradient=self.gradient)
        self.sums[n] = self.sums[n] + (values_C1 * weights_C1).sum()


def even_rows(size: int, row: int) -> int:
    """How many rows of `row` bytes have a place in `size`: an even number, at least 2 (a pair)."""
    return max(2, size // max(row, 1) // 2 * 2)


def _of_logits(logits_MV: Tensor, blocks: _Blocks, wanted: bool) -> Tensor | None:
    """All terms of logits that are there already; their gradient, in their type, if it is wanted."""
    gradient_MV = torch.empty_like(logits_MV) if wanted else None
    for start, stop in blocks.borders(0, len(logits_MV), logits_MV.shape[1], logits_MV.device.type):
        blocks.apply(logits_MV[start:stop], start, None if gradient_MV is None else gradient_MV[start:stop])
    return gradient_MV


def _same_type(rows_MH: Tensor, head_VH: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type of their product, once for all chunks: that of autocast, or else of the rows."""
    device = rows_MH.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows_MH.dtype
    return rows_MH.to(dtype), head_VH.to(dtype)


def _of_rows(
    rows_MH: Tensor, head_VH: Tensor, blocks: _Blocks, to_rows: bool, to_head: bool
) -> tuple[Tensor | None, Tensor | None]:
    """All terms of `rows_MH @ head_VH.T`, and the gradients of rows (their type) and head (float32)."""
    count, width, device = len(rows_MH), len(head_VH), rows_MH.device.type
    rows_gradient_MH = torch.empty_like(rows_MH) if to_rows else None
    head_gradient_VH = torch.zeros_like(head_VH, dtype=torch.float32) if to_head else None
    step = even_rows(CHUNK_BYTES.get(device, OTHER_CHUNK_BYTES), width * rows_MH.element_size())
    buffer_CV = rows_MH.new_empty(min(step, count), width)
    for start in range(0, count, step):
        rows_CH = rows_MH[start : start + step]
        logits_CV = torch.mm(rows_CH, head_VH.T, out=buffer_CV[: len(rows_CH)])
        for first, end in blocks.borders(start, start + len(rows_CH), width, device):
            block_CV = logits_CV[first - start : end - start]
            blocks.apply(block_CV, first, block_CV)
        if rows_gradient_MH is not None:
            torch.mm(logits_CV, head_VH, out=rows_gradient_MH[start : start + step])
        if head_gradient_VH is not None:
            _add_product(head_gradient_VH, logits_CV, rows_CH)
    return rows_gradient_MH, head_gradient_VH


def _add_product(total_VH: Tensor, gradient_CV: Tensor, rows_CH: Tensor) -> None:
    """Add gradientᵀ · rows to a float32 sum; products of another type are made for some of V at a time."""
    if rows_CH.dtype == torch.float32:
        total_VH.addmm_(gradient_CV.T, rows_CH)
        return
    step = even_rows(
        BLOCK_BYTES.get(rows_CH.device.type, OTHER_BLOCK_BYTES), rows_CH.shape[1] * rows_CH.element_size()
    )
    for start in range(0, len(total_VH), step):
        total_VH[start : start + step] += gradient_CV[:, start : start + step].T @ rows_CH
