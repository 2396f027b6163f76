"""Whether a training computes a prompt once for the rows that share it: `train.share_prompts`.

Three questions, in this order: is it worth it, by arithmetic on token counts; is it possible, by what the
training and the model are; and is it the same, by the gradients of one question with and without sharing.
`auto` takes a no for an answer, `true` refuses the training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from limbeck import ranks
from limbeck.errors import RecipeError, is_explainable
from limbeck.lm.four_bits import numel
from limbeck.lm.local import position_limit
from limbeck.objectives.align import IGNORED, head_weight, is_encoder_decoder, is_sharded, unwrap
from limbeck.objectives.shared_prompts import CannotShareError
from limbeck.training.collate import Batch, collate
from limbeck.training.feed import Feed
from limbeck.training.parts import CrossEntropy, Parts, RouterPart, loss
from limbeck.training.rows import Row, RowGroup, outline
from limbeck.training.settings import TrainSettings

WORTH = 1.2
"""Gain from which on `auto` shares."""

PRICE = 1.05
"""What two passes in place of one, and copied keys and values, cost more than the arithmetic knows: with it
the gain of most of 32 measured cells (docs/architecture.md) is within 15 % of what was measured."""

LAYER = 8e6
"""What a second pass costs by itself, for each layer, in weights that a token is multiplied with: about 2 ms
of one CPU thread. It counts in models of a million weights with a few rows in a batch."""

CLOSE = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Largest distance of both gradients, as a share of their norm. Rounding makes 1e-6 of it in float32, also in
models of many layers hardly 1e-5; what was found wrong made 0.3 to 2."""
CLOSE_16_BITS = 0.1
"""The same of weights in 16 bits; rounding makes about 0.02 of it."""

FORGOTTEN = "gradient_checkpointing forgets the keys and values of the prompt"
"""Of decoder-only models; an encoder's states are no cache."""


class TooLongToShareError(RecipeError):
    """A prompt and a completion that may meet in a shared batch are longer than the model's positions."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Counted over an epoch.

    Attributes:
        prompts: of the prompts of all rows.
        different: the same where rows of a group that share one count it once.
        completions: of everything behind the prompt.
        scored: of which logits are made.
        batches: micro-batches, each of which begins a second pass.
    """

    prompts: int
    different: int
    completions: int
    scored: int
    batches: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """What a token costs a model: weights that it is multiplied with.

    Attributes:
        prompt: a token of a prompt, wherever it is computed.
        again: such a token for every row, shared or not: a decoder that looks at an encoder's states makes
            its own keys and values of them.
        completion: a token of a completion.
        scored: a token of which logits are made.
        batch: what a second pass costs by itself, however few its tokens are.
    """

    prompt: float
    again: float
    completion: float
    scored: float
    batch: float = 0.0


def gain(tokens: Tokens, work: Work) -> float:
    """How many times faster a training step is with shared prompts, about.

    Attention's share that grows with the square of the length is left out: with long prompts more is gained.

    Example: 3 rationales of 50 tokens to a prompt of 600, no head.
        >>> round(gain(Tokens(1800, 600, 150, 0), Work(1, 0, 1, 0)), 2)
        2.48
    """
    kept = work.again * tokens.prompts + work.completion * tokens.completions + work.scored * tokens.scored
    separate, shared = (work.prompt * count + kept for count in (tokens.prompts, tokens.different))
    shared += work.batch * tokens.batches
    return separate / (shared * PRICE) if shared else 1.0


def tokens_of(groups: Iterable[Sequence[Row]], *, encoder_decoder: bool, batches: int = 0) -> Tokens:
    """The counts of groups of rows."""
    prompts = different = completions = scored = 0
    for rows in groups:
        own = [row.prompt_ids(encoder_decoder=encoder_decoder) for row in rows]
        prompts += sum(map(len, own))
        different += sum(map(len, set(own)))
        completions += sum(len(row.labels if encoder_decoder else row.input_ids) for row in rows)
        scored += sum(len(row.labels) - row.labels.count(IGNORED) for row in rows if row.scored)
    completions -= 0 if encoder_decoder else prompts
    return Tokens(prompts, different, completions, scored, batches)


def work_of(model: nn.Module) -> Work:
    """A model's work per token by the sizes of its weights; embeddings are only looked up.

    In a decoder that looks at an encoder an eighth of the weights makes keys and values of its states.
    """
    inner = unwrap(model)
    embeddings = [module for module in inner.modules() if isinstance(module, nn.Embedding)]
    elsewhere = {head_weight(inner)} | {one for module in embeddings for one in module.parameters()}
    size = _size(inner, elsewhere)
    head = float(head_weight(inner).numel())
    if not is_encoder_decoder(inner):
        layers = getattr(inner.config, "num_hidden_layers", 1)
        return Work(size, 0.0, size, head, LAYER * layers)
    encoder = _size(inner.get_encoder(), elsewhere)  # type: ignore[operator]
    decoder = size - encoder
    return Work(encoder, decoder / 8, decoder * 7 / 8, head)


def _size(model: nn.Module, without: set[Tensor]) -> float:
    return float(sum(numel(one) for one in model.parameters() if one not in without))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether prompts are shared.

    Attributes:
        shared: it.
        gain: by arithmetic; 0 where nobody asked.
        apart: distance of the gradients of one question, as a share of their norm; None: not measured.
        because: one sentence; "" where there is nothing to say, because nothing was to gain.
    """

    shared: bool
    gain: float = 0.0
    apart: float | None = None
    because: str = ""

    def facts(self) -> dict[str, Any]:
        """For training.json; nothing where there is nothing to say."""
        rounded = {"gain": round(self.gain, 2), "apart": self.apart and float(f"{self.apart:.1e}")}
        return {"share_prompts": asdict(self) | rounded} if self.because else {}


def decided(model: nn.Module, feed: Feed, settings: TrainSettings, parts: Parts) -> Verdict:
    """Whether this training computes prompts once; on all ranks what the first one finds.

    Weights, modes, gradients and random state of the model stay as they are.

    Raises:
        TooLongToShareError: `true`, and the model has too few positions for it.
        RecipeError: `true`, and it cannot be for another reason.
    """
    if settings.share_prompts is False:
        return Verdict(False)
    asked = ranks.main() or is_sharded(model)  # a sharded model computes in all ranks or in none
    return ranks.share(_decided(model, feed, settings, parts) if asked else Verdict(False))


def _decided(model: nn.Module, feed: Feed, settings: TrainSettings, parts: Parts) -> Verdict:
    both, auto = feed.encoder_decoder, settings.share_prompts == "auto"
    if auto and bool((outline(feed.groups).rows_of_groups == 1).all()):
        return Verdict(False)
    drawn = ([group.rows[n] for n in feed.drawn(g, 0)] for g, group in enumerate(feed.groups))
    batches = sum(len(step) for step in feed.sampler.steps(0)) * feed.sampler.sharing.members
    found = gain(tokens_of(drawn, encoder_decoder=both, batches=batches), work_of(model))
    if auto and found < WORTH:
        return Verdict(False, found)
    apart = None
    why = _impossible(settings, parts, encoder_decoder=both)
    too_long = "" if why else _too_long(model, feed.groups, encoder_decoder=both)
    why = why or too_long
    if not why:
        rows = probe_rows(feed.groups, encoder_decoder=both)
        why, apart = _unequal(model, rows, feed.pad, encoder_decoder=both)
    if not why:
        because = (
            f"about {found:.1f} times faster by arithmetic; gradients differ by {apart:.0e} of their norm"
        )
        return Verdict(True, found, apart, f"a prompt is computed once for the rows that share it: {because}")
    if not auto:
        refusal = TooLongToShareError if too_long else RecipeError
        raise refusal(f"train.share_prompts: true cannot be, because {why}; set it to auto or false")
    return Verdict(False, found, apart, f"every row computes its own prompt, because {why}")


def _impossible(settings: TrainSettings, parts: Parts, *, encoder_decoder: bool) -> str:
    """What of the training rules it out before anything is computed, or ""."""
    if settings.gradient_checkpointing and not encoder_decoder:
        return FORGOTTEN
    if any(isinstance(part, RouterPart) for part in parts):
        return "the router loss of a mixture of experts would count the prompt once"
    return ""


def _too_long(model: nn.Module, groups: Sequence[RowGroup], *, encoder_decoder: bool) -> str:
    """Why rows may be longer together than the model's positions, each of which is not, or ""."""
    limit = position_limit(model.config)
    if encoder_decoder or limit is None:
        return ""
    longest = rest = 0
    for row in (row for group in groups for row in group.rows):
        prompt = len(row.prompt_ids(encoder_decoder=False))
        longest, rest = max(longest, prompt), max(rest, len(row.input_ids) - prompt)
    if longest + rest <= limit:
        return ""
    return (
        f"the longest prompt ({longest} tokens) and the longest completion ({rest}) may meet in a "
        f"batch, and the model has {limit} positions"
    )


def probe_rows(groups: Sequence[RowGroup], *, encoder_decoder: bool) -> list[Row]:
    """Two rows of the smallest question that has two with the same prompt, and one of another length.

    Where no two rows share a prompt, the shortest row twice.
    """
    known = outline(groups)
    sizes = known.lengths.sum(1, dtype=np.int64)
    prompts = np.empty((len(sizes), 2), np.int64)  # of each row: 64 bits of what it is, and its tokens
    every = (row for group in groups for row in group.rows)
    for place, row in enumerate(every):
        ids = row.prompt_ids(encoder_decoder=encoder_decoder)
        prompts[place] = hash(ids), len(ids)
    # By prompt, and of one prompt by size; rows of one size as they come.
    order = np.lexsort((sizes, prompts[:, 0]))
    begins = np.flatnonzero(np.diff(prompts[order, 0], prepend=prompts[order[0], 0] - 1))
    firsts = np.sort(np.minimum.reduceat(order, begins))  # the first row of each prompt
    shortest = int(firsts[sizes[firsts].argmin()])
    pair = (shortest, shortest)
    several = begins[np.diff(begins, append=len(order)) > 1]
    if len(several):
        both = sizes[order[several]] + sizes[order[several + 1]]
        came = np.minimum.reduceat(order, begins)[np.isin(begins, several)]
        best = int(several[np.lexsort((came, both))[0]])
        pair = (int(order[best]), int(order[best + 1]))
    others = firsts[prompts[firsts, 1] != prompts[pair[0], 1]]
    chosen = [*pair, *others[np.argsort(sizes[others], kind="stable")][:1].tolist()]
    owners = (np.searchsorted(known.starts, chosen, side="right") - 1).tolist()
    return [groups[g].rows[n - int(known.starts[g])] for g, n in zip(owners, chosen, strict=True)]


def _unequal(
    model: nn.Module, rows: Sequence[Row], pad: int, *, encoder_decoder: bool
) -> tuple[str, float | None]:
    """Why sharing makes another function, or ""; and how far the gradients with and without are apart."""
    rows = [replace(row, scored=True, weights=None) for row in rows]
    separate = collate(rows, pad)
    shared = collate(rows, pad, prompts=[row.prompt_ids(encoder_decoder=encoder_decoder) for row in rows])
    close = CLOSE.get(next(model.parameters()).dtype, CLOSE_16_BITS)
    with _as_in_training(model):
        try:
            if distance(model, separate, separate) > close:
                return "the model uses dropout, and one draw would then serve all rows of a prompt", None
            apart = distance(model, separate, shared)
        except Exception as error:
            if not (is_explainable(error) or isinstance(error, CannotShareError)):
                raise
            problem = str(error).partition("\n")[0]
            return f"the model cannot read behind a prompt ({type(error).__name__}: {problem})", None
    if apart <= close:  # false for nan
        return "", apart
    return f"the gradients of one question differ by {apart:.0e} of their norm", apart


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """In training mode with random numbers of its own; afterwards all is as it was."""
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model.train()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            model.zero_grad()


def distance(model: nn.Module, one: Batch, other: Batch) -> float:
    """‖g₁ − g₂‖ / ‖g₁‖, of the cross-entropy's gradients on two batches of the same rows."""
    model.zero_grad()
    _add_gradient(model, one, 1.0)
    norm = _norm(model)
    _add_gradient(model, other, -1.0)
    return _norm(model) / norm if norm else math.nan


def _add_gradient(model: nn.Module, batch: Batch, sign: float) -> None:
    device = next(model.parameters()).device
    there = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    part = CrossEntropy()
    counts = {part.name: part.count(there, encoder_decoder=is_encoder_decoder(model))}
    total, _ = loss((part,), model, there, counts)
    (total * sign).backward()  # type: ignore[no-untyped-call]


def _norm(model: nn.Module) -> float:
    squares = (one.grad.double().square().sum() for one in model.parameters() if one.grad is not None)
    return math.sqrt(
        sum(one.full_tensor().item() if isinstance(one, DTensor) else one.item() for one in squares)
    )
