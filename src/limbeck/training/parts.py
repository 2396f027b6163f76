"""Loss parts: an objective is a tuple of them, and the model runs once for all.

    loss of an optimiser step = Σ_p weight_p · Σ sums_p / Σ counts_p

Both inner sums run over all micro-batches and processes of the step; a part counts what it averages
over: tokens, pairs, triplets. Counts need no model and are known before; so `loss` gives the finished
share of a micro-batch, whatever is combined: `(CrossEntropy(), SpanKL(0.1), Triplet(0.5))`. A part
weighted 0 costs nothing, because it never runs.

What a part sees decides its protocol: scored tokens (`TokenPart`), pairs of answer-span tokens
(`PairPart`), a state of every row (`StatePart`), or the model's own router loss (`RouterPart`).
The first two share one pass over the logits (`objectives.tokens`), which never exist whole where the
model's head is a plain matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from limbeck.errors import RecipeError
from limbeck.objectives.align import (
    Pass,
    Pooling,
    Scored,
    align_batch,
    head_weight,
    is_encoder_decoder,
    linear_head,
    plain_head,
    router_coefficient,
    run,
    token_count,
    unwrap,
)
from limbeck.objectives.contrast import triplet, triplets
from limbeck.objectives.cross_entropy import cross_entropy, smoothing
from limbeck.objectives.divergence import divergence
from limbeck.objectives.soft import SoftTargets
from limbeck.objectives.spans import PairedTokens, paired_divergence, paired_rows, paired_tokens
from limbeck.objectives.tokens import Step, Term, by_autograd, token_loss
from limbeck.training.collate import Batch


class Part(Protocol):
    """One named term of the loss; it is of one of the kinds below besides."""

    @property
    def name(self) -> str:
        """What it is called in the history; no two parts of an objective have the same."""
        ...

    @property
    def weight(self) -> float:
        """Its weight in the loss."""
        ...

    def count(self, batch: Batch, *, encoder_decoder: bool) -> Tensor:
        """What its sum is divided by, for this micro-batch alone: a float32 scalar, 0 for nothing."""
        ...


Parts = tuple[Part, ...]
"""An objective."""

RESERVED = ("", "loss", "step", "epoch", "learning_rate", "grad_norm")
"""Names that a part cannot have: columns of history.jsonl."""


@runtime_checkable
class TokenPart(Part, Protocol):
    """A part that is a sum over scored tokens."""

    def of_tokens(self, batch: Batch, scored: Scored) -> Step:
        """Its mathematics for the scored tokens of a batch, in their order."""
        ...


@runtime_checkable
class PairPart(Part, Protocol):
    """A part that is a sum over pairs of answer-span tokens (see `spans.paired_rows`)."""

    def of_pairs(self) -> Step:
        """Its mathematics; rows 2i and 2i+1 are a pair."""
        ...


@runtime_checkable
class StatePart(Part, Protocol):
    """A part that is a sum over one state of every row, by ordinary autograd."""

    @property
    def pooling(self) -> Pooling:
        """Which state: "last", of the end of sequence, or "mean", over the completion."""
        ...

    def of_states(self, batch: Batch, states_BH: Tensor) -> Tensor:
        """Its sum; with nothing to count 0, with a gradient path to the states."""
        ...


@runtime_checkable
class RouterPart(Part, Protocol):
    """A part of the router loss that a mixture-of-experts model returns for a micro-batch."""

    def of_router(self, batch: Batch, router: Tensor) -> Tensor:
        """Its sum, from the model's value for this micro-batch."""
        ...


class SoftLabels(Protocol):
    """Where a student's soft labels come from: a mentor that is asked, or what it wrote before."""

    @property
    def temperature(self) -> float:
        """τ, of mentor and student."""
        ...

    def of(self, batch: Batch) -> SoftTargets:
        """The targets of the batch's scored tokens, in row order, on the batch's device."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the scored tokens, per token: answers only and Fine-tune-CoT (arXiv 2212.10071).

    Tokens weighted in the batch (`label_weights`, see `prompt_weight`) count by their weight.
    """

    weight: float = 1.0
    name: str = "cross_entropy"

    def count(self, batch: Batch, *, encoder_decoder: bool) -> Tensor:
        """Tokens."""
        return token_count(batch, encoder_decoder=encoder_decoder)

    def of_tokens(self, batch: Batch, scored: Scored) -> Step:
        """−log probability of the token."""
        return cross_entropy(scored.targets_N)


@dataclass(frozen=True)
class Smoothing:
    """Cross-entropy with the uniform distribution, per scored token (arXiv 1512.00567).

    Label smoothing ε is `(CrossEntropy(1 - ε), Smoothing(ε))`. Tokens weigh and count as in `CrossEntropy`.
    """

    weight: float
    name: str = "smoothing"

    def count(self, batch: Batch, *, encoder_decoder: bool) -> Tensor:
        """Tokens."""
        return token_count(batch, encoder_decoder=encoder_decoder)

    def of_tokens(self, batch: Batch, scored: Scored) -> Step:
        """Mean over the vocabulary of −log probability."""
        return smoothing()


@dataclass(frozen=True)
class SoftLabelKL:
    """Divergence from a mentor's soft labels, per scored token (Mentor-KD, arXiv 2410.09037).

    Mentor-KD's loss is `(CrossEntropy(1 - λ), SoftLabelKL(soft, λ))`.

    Args:
        soft: the mentor's distributions; their temperature is the student's.
        weight: λ.
        squared: multiply the divergence by τ².
    """

    soft: SoftLabels
    weight: float
    squared: bool = False
    name: str = "divergence"

    def count(self, batch: Batch, *, encoder_decoder: bool) -> Tensor:
        """Tokens."""
        return token_count(batch, encoder_decoder=encoder_decoder)

    def of_tokens(self, batch: Batch, scored: Scored) -> Step:
        """KL(mentor ‖ student). Asks for the soft labels of the batch.

        Raises:
            ValueError: there are not as many as scored tokens.
        """
        soft = self.soft.of(batch)
        if len(soft.log_p_NK) != len(scored.targets_N):
            raise ValueError(f"{len(soft.log_p_NK)} soft labels for {len(scored.targets_N)} scored tokens")
        return divergence(soft, self.soft.temperature, squared=self.squared)


@dataclass(frozen=True)
class TokenLoss:
    """Any loss per scored token, from a pure function (logits (C,V), targets (C,)) -> values (C,).

    Logits are float32; a token's value must depend on its own logits alone. The gradient is
    autograd's, a few tokens at a time. Tokens weigh and count as those of `CrossEntropy`.
    """

    name: str
    weight: float
    function: Callable[[Tensor, Tensor], Tensor]

    def count(self, batch: Batch, *, encoder_decoder: bool) -> Tensor:
        """Tokens."""
        return token_count(batch, encoder_decoder=encoder_decoder)

    def of_tokens(self, batch: Batch, scored: Scored) -> Step:
        """The function."""
        return by_autograd(self.function, scored.targets_N)


@dataclass(frozen=True)
class SpanKL:
    """Two rationales agree on their answer: two-way divergence on its tokens (MCC-KD, arXiv 2310.14747).

    ½ [KL(p‖q) + KL(q‖p)] at the same temperature on both sides; mean over a span's tokens, then over
    pairs. A pair are the two rows of a group that have an answer span with equal tokens; groups with
    one such row, or with more than two, are not counted.
    """

    weight: float
    temperature: float = 1.0
    name: str = "span_divergence"

    def count(self, batch: Batch, *, encoder_decoder: bool) -> Tensor:
        """Pairs."""
        return paired_rows(batch, encoder_decoder=encoder_decoder).sum().float()

    def of_pairs(self) -> Step:
        """Half of the pair's value to each of its rows."""
        return paired_divergence(self.temperature)


@dataclass(frozen=True)
class Triplet:
    """Self-reflection: max(0, cos(a, n) − cos(a, p) + ρ) on states (tailored learning, 2310.13332).

    A rationale's state is that of its last token, as published, or the mean over its tokens. Within a
    group, every combination of a row with role "anchor", one with "positive" and one with "negative" is a
    triplet; the mean is over triplets.
    """

    weight: float
    margin: float = 1.0
    name: str = "triplet"
    pooling: Pooling = "last"

    def count(self, batch: Batch, *, encoder_decoder: bool) -> Tensor:
        """Triplets."""
        return triplets(batch).sum().float()

    def of_states(self, batch: Batch, states_BH: Tensor) -> Tensor:
        """Sum over triplets."""
        anchors_M, positives_M, negatives_M = triplets(batch).nonzero().unbind(1)
        values_M = triplet(states_BH[anchors_M], states_BH[positives_M], states_BH[negatives_M], self.margin)
        if "group_factors" in batch:
            values_M = values_M * batch["group_factors"][anchors_M]
        return values_M.sum()


@dataclass(frozen=True)
class Router:
    """The router loss of a mixture-of-experts model, which keeps its experts equally busy (2101.03961).

    E · Σ_e f_e · P_e over all layers and tokens of a micro-batch, padding apart: f_e the share of tokens
    that went to expert e, P_e its mean probability. It is a product of two means, so that of a step is no
    sum over its tokens: as in the library, experts are balanced within each micro-batch. A step's value is
    the mean over its micro-batches by their tokens, whatever their number and that of the ranks; cut into
    other micro-batches the same rows give another value. It is the one part of which that is true.
    """

    weight: float
    name: str = "router"

    def count(self, batch: Batch, *, encoder_decoder: bool) -> Tensor:
        """Tokens that the model reads."""
        tokens: Tensor = batch["attention_mask"].sum()
        return tokens.float()

    def of_router(self, batch: Batch, router: Tensor) -> Tensor:
        """The model's value, once per token."""
        total: Tensor = router * batch["attention_mask"].sum()
        return total


NEEDS: Mapping[type[Part], str] = {
    SpanKL: "it compares the answers of two rationales of a question: give problems more of them "
    "(rationales.per_problem, or the teacher's file), raise train.max_length where rationales were too long, "
    "or set settings.span_weight to 0",
    Triplet: "it compares two right rationales of a question with a mistake: give problems more of them "
    "(settings.rationales, rationales.per_problem), raise train.max_length or train.max_completion where "
    "they were too long, or set settings.reflection.weight to 0",
}
"""What to do where a part counts nothing."""

NEEDS_ELSE = "give the examples what it needs, or set its weight to 0"


def with_router(parts: Parts, model: nn.Module) -> Parts:
    """The parts, and the router loss where the model's config asks for it (`output_router_logits`).

    Raises:
        RecipeError: it asks for one that the model does not return.
    """
    try:
        coefficient = router_coefficient(model)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return (*parts, Router(coefficient)) if coefficient else parts


def loss(
    parts: Parts, model: nn.Module, batch: Batch, counts: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """A micro-batch's share of an optimiser step's loss; the model runs once (for DDP, through `model`).

    Args:
        counts: each part's count over the whole optimiser step; 0 is taken for 1. Parts of weight 0
            need none.

    Returns:
        Σ weight · sum / count, a float32 scalar that can be differentiated once; with nothing to count
        it is 0 with a gradient path through the model. And each part's sum / count, without gradients;
        parts of weight 0 are not among them.

    Raises:
        ValueError: two parts of one name, every weight 0, or a batch for a model of the other kind.
        RuntimeError: the model does not make its logits by one call of its output embeddings, or returns
            no router loss.
    """
    check(parts)
    parts = weighted(parts)
    device = batch["labels"].device
    scales = {part.name: 1.0 / _at_least_one(counts[part.name].to(device)) for part in parts}
    rows = _rows_of(parts, batch, encoder_decoder=is_encoder_decoder(model))
    terms = {part.name: rows.term(part, batch, part.weight * scales[part.name]) for part in rows.parts}
    plain = _is_plain(model)
    states = {part.pooling for part in parts if isinstance(part, StatePart)}
    shares = "owners" in batch
    found = run(model, batch, rows.places_M, withhold=plain or not terms, states=states, share=shares)
    total, sums = _of_terms(terms, found, head_weight(model) if plain else None)
    for part in parts:
        if isinstance(part, StatePart):
            sums[part.name] = part.of_states(batch, found.states[part.pooling])
        elif isinstance(part, RouterPart):
            if found.router is None:
                raise RuntimeError(f"{part.name}: the model returned no router loss")
            sums[part.name] = part.of_router(batch, found.router)
        else:
            continue
        total = total + sums[part.name] * (part.weight * scales[part.name])
    return total, {part.name: (sums[part.name] * scales[part.name]).detach() for part in parts}


def weighted(parts: Parts) -> Parts:
    """Those with a weight: an ablation is a weight of 0, and costs nothing.

    Raises:
        ValueError: there is none.
    """
    kept = tuple(part for part in parts if part.weight)
    if not kept:
        raise ValueError("every loss part has weight 0, so there is nothing to learn")
    return kept


def check(parts: Parts) -> None:
    """Refuse parts without names of their own, odd weights, and a part of no known kind or of several.

    Raises:
        ValueError: as said.
    """
    names = [part.name for part in parts]
    for part in parts:
        if part.name in RESERVED:
            raise ValueError(f"a loss part is called {part.name!r}, which is a column of the history already")
        number = isinstance(part.weight, int | float) and not isinstance(part.weight, bool)
        if not number or not 0 <= part.weight < math.inf:
            raise ValueError(f"{part.name}: its weight is {part.weight!r}; give a number from 0 up")
    if len(set(names)) != len(names):
        raise ValueError(f"the loss parts are called {', '.join(names)}; their names must differ")
    for part in parts:
        if sum(isinstance(part, kind) for kind in (TokenPart, PairPart, StatePart, RouterPart)) != 1:
            raise ValueError(
                f"{part.name}: a loss part needs one of of_tokens, of_pairs, of_states and of_router"
            )


def _at_least_one(count: Tensor) -> Tensor:
    return torch.where(count > 0, count.float(), 1.0)


def _of_terms(
    terms: Mapping[str, Term], found: Pass, head_VH: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and sums of the parts over tokens; without any, a 0 that reaches the head."""
    if not terms:
        return found.nothing, {}
    total, sums_T = token_loss(found.found_MX, head_VH, list(terms.values()))
    return total, dict(zip(terms, sums_T.unbind(), strict=True))


@dataclass(frozen=True)
class _Rows:
    """The rows of logits that parts share: first the pairs', then the scored tokens that are in none.

    Attributes:
        parts: those that are sums over tokens or pairs.
        places_M: where the rows are (see `align`).
        scored: the scored tokens.
        where_M: which scored token each row is, None if row n is token n; of a row that is not
            scored, any.
        weights_M: their weights, 0 for a row that is not scored; None when all weigh 1.
        pairs: the paired tokens, or None if no part wants them.
    """

    parts: Sequence[Part]
    places_M: Tensor
    scored: Scored
    where_M: Tensor | None
    weights_M: Tensor | None
    pairs: PairedTokens | None

    def term(self, part: Part, batch: Batch, scale: Tensor) -> Term:
        """A part's sum over its rows."""
        if self.pairs is not None and isinstance(part, PairPart):
            return Term(part.of_pairs(), scale, self.pairs.weights_2N, rows=len(self.pairs.places_2N))
        assert isinstance(part, TokenPart)
        rows = None if len(self.scored.targets_N) else 0  # none is scored: the rows are the pairs' alone
        return Term(part.of_tokens(batch, self.scored), scale, self.weights_M, self.where_M, rows)


def _rows_of(parts: Parts, batch: Batch, *, encoder_decoder: bool) -> _Rows:
    """What must be computed for these parts, each row once."""
    of_tokens = [part for part in parts if isinstance(part, TokenPart)]
    of_pairs = [part for part in parts if isinstance(part, PairPart)]
    parts = tuple(part for part in parts if isinstance(part, TokenPart | PairPart))
    scored = align_batch(batch, encoder_decoder=encoder_decoder)
    if not of_pairs:
        places_N = scored.places() if of_tokens else batch["labels"].new_empty(0)
        return _Rows(parts, places_N, scored, None, scored.weights_N, None)
    pairs = paired_tokens(batch, encoder_decoder=encoder_decoder)
    if not of_tokens:
        return _Rows(parts, pairs.places_2N, scored, None, None, pairs)
    places_N = scored.places()
    tokens = torch.full((scored.keep_BT.numel(),), -1, device=places_N.device)
    tokens[places_N] = torch.arange(len(places_N), device=places_N.device)
    of_pairs_2N = tokens[pairs.places_2N]
    tokens[pairs.places_2N] = -1
    others = tokens[places_N]
    others = others[others >= 0]
    where_M = torch.cat([of_pairs_2N, others])
    weights_M = (where_M >= 0).float()
    where_M = where_M.clamp_min(0)
    if scored.weights_N is not None and len(scored.weights_N):
        weights_M = weights_M * scored.weights_N[where_M]
    return _Rows(parts, torch.cat([pairs.places_2N, places_N[others]]), scored, where_M, weights_M, pairs)


_PLAIN: WeakKeyDictionary[nn.Module, tuple[ReferenceType[nn.Module], bool]] = WeakKeyDictionary()


def _is_plain(model: nn.Module) -> bool:
    """`plain_head`, asked once per model and head, whatever is wrapped around it.

    A head may change after the question: an adapter put on it, its weight sharded.
    """
    inner, head = unwrap(model), linear_head(model)
    if head is None:
        return False
    known = _PLAIN.get(inner)
    if known is None or known[0]() is not head:
        known = _PLAIN[inner] = (ref(head), plain_head(inner))
    return known[1]
