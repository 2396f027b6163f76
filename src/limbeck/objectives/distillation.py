"""Mentor-KD's loss: cross-entropy and the divergence from a mentor's distribution, in one pass.

    L = (1−λ) · Σₙ wₙ · −log softmax(zₙ)[yₙ]  +  λ · Σₙ wₙ · KL(pₙ ‖ qₙ),    q = softmax(z[:R]/τ)

p is the mentor's distribution at the same τ (`soft`), both over the tokenizer's R tokens only; rows
of the embedding above R are padding and take part in the cross-entropy alone. Where p is the k
likeliest tokens, the categories of both sides are these and one for all other tokens together: a
lower bound of the full divergence, whose gradient is exact on the k.

Source: Mentor-KD (arXiv 2410.09037), λ 0.3 and τ 2, KL without τ². Deviations: its code averages the
divergence over padded positions too, we over scored tokens, as it does the cross-entropy.

The gradient of L with respect to the logits is made on the way forward, in bounded chunks of tokens.
So the two sums that are returned may be differentiated in the proportion of L alone: their gradients
must be as (1−λ) to λ, and anything else is refused.

Shapes: N scored tokens, C tokens of a chunk, V width of the logits, R real tokens, H hidden size,
K entries of a soft label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from limbeck.objectives.soft import SoftTargets, chunks

NEVER = -1e4
"""A log-probability whose probability is 0 in float32; unlike −inf, 0 times it is 0."""

PROPORTION = 1e-5
"""How far the gradients of the two sums may be from (1−λ) to λ, relatively."""


@dataclass(frozen=True, slots=True)
class _Mix:
    """How the parts are made; `gradient`: whether that of the mixture is wanted as well."""

    temperature: float
    kl_weight: float
    squared: bool
    gradient: bool


def distillation(
    logits_NV: Tensor,
    targets_N: Tensor,
    soft: SoftTargets,
    *,
    temperature: float,
    kl_weight: float,
    squared: bool = False,
    weights_N: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums of cross-entropy and divergence, in nats; see the head of this file.

    The caller divides both by the number of scored tokens (or Σ wₙ) of the whole optimiser step
    and adds them up as (1−λ) and λ. Softmax is taken in float32 whatever the logits' type.

    Args:
        logits_NV: the student's, of the scored tokens only, aligned with the targets.
        targets_N: the token that each should predict.
        soft: the mentor's distributions at the same temperature; no gradient flows to them. Stored
            in few bits they may not sum to 1; they are then scaled to it (top-k: only if above 1).
        temperature: τ of the divergence; the cross-entropy has none.
        kl_weight: λ, from 0 to 1.
        squared: multiply the divergence by τ², so that its gradient keeps its size as τ grows.
        weights_N: weight of each token in both parts, or None when all weigh 1; no gradient.

    Returns:
        Two float32 scalars, undivided and unweighted by λ; 0 with a gradient path when N is 0.
        They can be differentiated once, together and as (1−λ) to λ.

    Raises:
        ValueError: settings or shapes that do not fit.
        RuntimeError: (on the way back) the sums were not combined as (1−λ) to λ.

    Example:
        >>> from limbeck.objectives.soft import full
        >>> logits = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
        >>> mentor = full(torch.tensor([[0.0, 0.0], [1.0, 3.0]]).log().nan_to_num(neginf=-99.0), 1.0, 2)
        >>> both = distillation(logits, torch.tensor([0, 1]), mentor, temperature=1.0, kl_weight=0.3)
        >>> [round(part.item(), 4) for part in both]  # 2 log 2; 0 and log 2 - entropy of (1/4, 3/4)
        [1.3863, 0.1308]
    """
    mix = _mix(logits_NV.shape, soft, temperature, kl_weight, squared)
    parts: tuple[Tensor, Tensor] = _OfLogits.apply(logits_NV, targets_N, soft, weights_N, mix)  # type: ignore[no-untyped-call]
    return parts


def divergence(
    logits_NV: Tensor,
    soft: SoftTargets,
    *,
    temperature: float,
    squared: bool = False,
    weights_N: Tensor | None = None,
) -> Tensor:
    """Σₙ wₙ · KL(pₙ ‖ qₙ) alone, in nats: the second part of `distillation`.

    Example:
        >>> from limbeck.objectives.soft import top_k
        >>> soft = top_k(torch.tensor([[1.0, 8.0, 1.0]]).log(), 1.0, vocabulary=3, k=1)
        >>> divergence(torch.tensor([[5.0, 8.0, 87.0]]).log(), soft, temperature=1.0).item() > 1
        True
    """
    mix = _mix(logits_NV.shape, soft, temperature, 1.0, squared)
    parts: tuple[Tensor, Tensor] = _OfLogits.apply(logits_NV, None, soft, weights_N, mix)  # type: ignore[no-untyped-call]
    return parts[1]


def chunked_distillation(
    hidden_NH: Tensor,
    head_VH: Tensor,
    targets_N: Tensor,
    soft: SoftTargets,
    *,
    temperature: float,
    kl_weight: float,
    squared: bool = False,
    weights_N: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`distillation` of the logits `hidden_NH @ head_VH.T`, which never exist whole.

    Only a chunk of them, about 16 million, does at any time. Gradients flow to the rows and to the
    head. Products are made in the type of the rows, under autocast in its; the head's gradient is
    summed in float32.

    Args:
        hidden_NH: the rows that enter the output head (see `align.hidden`).
        head_VH: its weight; a frozen one costs no gradient.
        targets_N, soft, temperature, kl_weight, squared, weights_N: as for `distillation`.

    Returns:
        As `distillation`.
    """
    mix = _mix((len(hidden_NH), len(head_VH)), soft, temperature, kl_weight, squared)
    parts: tuple[Tensor, Tensor] = _OfHidden.apply(  # type: ignore[no-untyped-call]
        hidden_NH, head_VH, targets_N, soft, weights_N, mix
    )
    return parts


def _mix(
    shape_NV: tuple[int, ...], soft: SoftTargets, temperature: float, kl_weight: float, squared: bool
) -> _Mix:
    """Settings that have been checked against each other and the shape of the logits."""
    tokens, width = shape_NV
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    if not 0 <= kl_weight <= 1:
        raise ValueError(f"kl_weight is {kl_weight}; it must be from 0 to 1")
    if len(soft.log_p_NK) != tokens:
        raise ValueError(f"{len(soft.log_p_NK)} soft labels for {tokens} scored tokens")
    if soft.vocabulary > width:
        raise ValueError(f"soft labels over {soft.vocabulary} tokens for {width} logits")
    return _Mix(temperature, kl_weight, squared, torch.is_grad_enabled())


class _OfLogits(torch.autograd.Function):
    """The loss of logits that exist: keeps one gradient of their size and type."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_NV: Tensor,
        targets_N: Tensor | None,
        soft: SoftTargets,
        weights_N: Tensor | None,
        mix: _Mix,
    ) -> tuple[Tensor, Tensor]:
        mix = replace(mix, gradient=mix.gradient and ctx.needs_input_grad[0])
        ctx.kl_weight, ctx.done = mix.kl_weight, False
        ctx.gradient_NV = torch.empty_like(logits_NV) if mix.gradient else None
        sums = torch.zeros(2, device=logits_NV.device)
        with torch.autocast(logits_NV.device.type, enabled=False):
            for start, stop in chunks(*logits_NV.shape):
                targets_C = None if targets_N is None else targets_N[start:stop]
                weights_C = None if weights_N is None else weights_N[start:stop]
                sums_C, gradient_CV = _parts(
                    logits_NV[start:stop], targets_C, soft.rows(start, stop), weights_C, mix
                )
                sums += sums_C
                if ctx.gradient_NV is not None:
                    ctx.gradient_NV[start:stop] = gradient_CV
        return sums[0].clone(), sums[1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ce_gradient: Tensor, kl_gradient: Tensor) -> tuple[Tensor | None, ...]:
        scale = _scale(ctx, ce_gradient, kl_gradient)
        gradient_NV, ctx.gradient_NV = ctx.gradient_NV, None
        return gradient_NV.mul_(scale), None, None, None, None


class _OfHidden(torch.autograd.Function):
    """The loss of logits that are made, used and forgotten a chunk at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        head_VH: Tensor,
        targets_N: Tensor,
        soft: SoftTargets,
        weights_N: Tensor | None,
        mix: _Mix,
    ) -> tuple[Tensor, Tensor]:
        to_hidden, to_head = (mix.gradient and needed for needed in ctx.needs_input_grad[:2])
        mix = replace(mix, gradient=to_hidden or to_head)
        ctx.kl_weight, ctx.done = mix.kl_weight, False
        ctx.dtypes = (hidden_NH.dtype, head_VH.dtype)
        ctx.gradients = (
            torch.empty(hidden_NH.shape, device=hidden_NH.device) if to_hidden else None,
            torch.zeros(head_VH.shape, device=head_VH.device) if to_head else None,
        )
        sums = torch.zeros(2, device=hidden_NH.device)
        hidden_NH, head_VH = _alike(hidden_NH, head_VH)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for start, stop in chunks(len(hidden_NH), len(head_VH)):
                hidden_CH = hidden_NH[start:stop]
                sums_C, gradient_CV = _parts(
                    hidden_CH @ head_VH.T,
                    targets_N[start:stop],
                    soft.rows(start, stop),
                    None if weights_N is None else weights_N[start:stop],
                    mix,
                    spare=True,
                )
                sums += sums_C
                if gradient_CV is not None:
                    _spread(gradient_CV, hidden_CH, head_VH, ctx.gradients, start)
        return sums[0].clone(), sums[1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ce_gradient: Tensor, kl_gradient: Tensor) -> tuple[Tensor | None, ...]:
        scale = _scale(ctx, ce_gradient, kl_gradient)
        kept, ctx.gradients = ctx.gradients, None
        scaled = [
            None if gradient is None else gradient.mul_(scale).to(dtype)
            for gradient, dtype in zip(kept, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None, None, None)


def _alike(hidden_NH: Tensor, head_VH: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type of their product, once for all chunks: that of autocast, or else of the rows."""
    device = hidden_NH.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NH.dtype
    return hidden_NH.to(dtype), head_VH.to(dtype)


def _spread(
    gradient_CV: Tensor,
    hidden_CH: Tensor,
    head_VH: Tensor,
    gradients: tuple[Tensor | None, Tensor | None],
    start: int,
) -> None:
    """From the gradient of a chunk's logits: write that of its rows, add that of the head."""
    to_hidden_NH, to_head_VH = gradients
    gradient_CV = gradient_CV.to(head_VH.dtype)
    if to_hidden_NH is not None:
        to_hidden_NH[start : start + len(gradient_CV)] = gradient_CV @ head_VH
    if to_head_VH is not None and head_VH.dtype == torch.float32:
        to_head_VH.addmm_(gradient_CV.T, hidden_CH)
    elif to_head_VH is not None:
        to_head_VH.add_(gradient_CV.T @ hidden_CH)


def _scale(ctx: Any, ce_gradient: Tensor, kl_gradient: Tensor) -> float:
    """What the kept gradient is multiplied by, from the gradients of the two sums."""
    if ctx.done:
        raise RuntimeError("this distillation loss was differentiated before; compute it anew")
    ctx.done = True
    ce, kl, share = ce_gradient.item(), kl_gradient.item(), ctx.kl_weight
    if not math.isclose(ce * share, kl * (1 - share), rel_tol=PROPORTION):
        raise RuntimeError(
            f"the sums of cross-entropy and divergence were weighted {ce:g} and {kl:g}; "
            f"with kl_weight {share:g} they must be weighted as {1 - share:g} to {share:g}"
        )
    return ce + kl


def _parts(
    logits_CV: Tensor,
    targets_C: Tensor | None,
    soft: SoftTargets,
    weights_C: Tensor | None,
    mix: _Mix,
    *,
    spare: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """All the mathematics, for a chunk of tokens.

    Args:
        targets_C: None leaves the cross-entropy out (0).
        spare: the logits may be overwritten.

    Returns:
        The two sums (2,), and the gradient of their mixture with respect to the logits, float32.
    """
    factor = mix.temperature**2 if mix.squared else 1.0
    weights_C1 = logits_CV.new_ones(1, 1, dtype=torch.float32) if weights_C is None else weights_C[:, None]
    to_ce_C1 = weights_C1 * (1 - mix.kl_weight)
    to_kl_C1 = weights_C1 * (mix.kl_weight * factor / mix.temperature)
    ce_C1, gradient_CV = _cross_entropy(logits_CV, targets_C, to_ce_C1)
    scaled_CV = logits_CV.to(torch.float32, copy=not spare).div_(mix.temperature)
    scaled_CV[:, soft.vocabulary :] = -torch.inf  # faster than a slice, which softmax would copy
    kl_C1 = _divergence(scaled_CV, soft, to_kl_C1, gradient_CV)
    sums = torch.stack([(ce_C1 * weights_C1).sum(), (kl_C1 * weights_C1).sum() * factor])
    return sums, gradient_CV if mix.gradient else None


def _cross_entropy(logits_CV: Tensor, targets_C: Tensor | None, weight_C1: Tensor) -> tuple[Tensor, Tensor]:
    """−log softmax(z)[y] of each token, and weight · (softmax − onehot)."""
    if targets_C is None:
        zeros_CV = torch.zeros(logits_CV.shape, device=logits_CV.device)
        return zeros_CV[:, :1].clone(), zeros_CV
    targets_C1 = targets_C[:, None]
    top_C1 = logits_CV.amax(-1, keepdim=True).float()
    q_CV = logits_CV.softmax(-1, dtype=torch.float32)
    # The largest probability is 1 / Σ exp(z − top).
    ce_C1 = top_C1 - logits_CV.gather(1, targets_C1).float() - q_CV.amax(-1, keepdim=True).log()
    q_CV.mul_(weight_C1)
    q_CV.scatter_add_(1, targets_C1, -weight_C1.expand(targets_C1.shape))
    return ce_C1, q_CV


def _divergence(scaled_CV: Tensor, soft: SoftTargets, weight_C1: Tensor, gradient_CV: Tensor) -> Tensor:
    """KL(p ‖ q) of each token from the logits over τ, which are overwritten (−inf above R).

    Adds weight · its gradient with respect to these logits to `gradient_CV`.
    """
    ids_CK = soft.ids_NK
    if ids_CK is None:
        return _dense_divergence(scaled_CV, soft.log_p_NK, weight_C1, gradient_CV)
    tail = soft.tail and ids_CK.shape[1] < soft.vocabulary
    log_p_CK = soft.log_p_NK.float()
    mass_C1 = log_p_CK.exp().sum(-1, keepdim=True)
    excess_C1 = mass_C1.clamp_min(1.0) if tail else mass_C1
    log_p_CK = (log_p_CK - excess_C1.log()).clamp_min(NEVER)
    p_CK = log_p_CK.exp()
    head_CK = scaled_CV.gather(1, ids_CK)
    if tail:  # the rest's own softmax: 1 − Σ q would be lost to rounding where the head has all mass
        scaled_CV.scatter_(1, ids_CK, -torch.inf)
    top_C1 = scaled_CV.amax(-1, keepdim=True)
    rest_CV = scaled_CV.softmax(-1)
    log_rest_C1 = top_C1 - rest_CV.amax(-1, keepdim=True).log()
    if not tail:
        log_q_CK = head_CK - log_rest_C1
        gradient_CV.addcmul_(rest_CV, weight_C1)
        gradient_CV.scatter_add_(1, ids_CK, -p_CK * weight_C1)
        return (p_CK * (log_p_CK - log_q_CK)).sum(-1, keepdim=True)
    log_all_C1 = torch.logaddexp(head_CK.logsumexp(-1, keepdim=True), log_rest_C1)
    log_q_CK, log_tail_C1 = head_CK - log_all_C1, log_rest_C1 - log_all_C1
    p_tail_C1 = (1 - mass_C1).clamp_min(0.0)
    gradient_CV.addcmul_(rest_CV, weight_C1 * (log_tail_C1.exp() - p_tail_C1))
    gradient_CV.scatter_add_(1, ids_CK, (log_q_CK.exp() - p_CK) * weight_C1)
    tail_C1 = torch.xlogy(p_tail_C1, p_tail_C1) - p_tail_C1 * log_tail_C1
    return (p_CK * (log_p_CK - log_q_CK)).sum(-1, keepdim=True) + tail_C1


def _dense_divergence(scaled_CV: Tensor, log_p_CR: Tensor, weight_C1: Tensor, gradient_CV: Tensor) -> Tensor:
    """`_divergence` where p is given for every token."""
    log_q_CR = scaled_CV.log_softmax(-1)[:, : log_p_CR.shape[1]]
    log_p_CR = log_p_CR.log_softmax(-1, dtype=torch.float32).clamp_min_(NEVER)
    p_CR = log_p_CR.exp()
    kl_C1: Tensor = torch.linalg.vecdot(p_CR, log_p_CR.sub_(log_q_CR)).unsqueeze(1)
    gradient_CV[:, : p_CR.shape[1]].addcmul_(log_q_CR.exp_().sub_(p_CR), weight_C1)
    return kl_C1
