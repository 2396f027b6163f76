"""Batched generation with a model on this machine, behind `Complete`.

A short loop of ours instead of the library's `generate`: batches of similar
length, and finished rows leave the batch (and its caches), so that little work
goes into padding and none into rows that are done.

Rows of a batch do not see each other, but sums in another order differ in the
last bit: where two tokens are all but equally likely, another batch composition
can choose the other one.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput

from limbeck.errors import InputError, ModelError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm.growing_cache import with_room
from limbeck.lm.load import Loaded, Unloaded
from limbeck.lm.written import CLOSE, OPEN, cut, read_written, thinks_still

DROP_SHARE = 0.05
"""Finished rows are dropped once they are this share of a batch: each drop copies the caches."""

TOKEN_BUDGET = 65_536
"""Prompt and new tokens of a batch at most, with padding."""


@dataclass(frozen=True, slots=True)
class Row:
    """One completion to make. `number` is its prompt's place in the call, `room` its most new tokens.

    `begun` are the tokens that it begins with, which the model does not choose.
    """

    prompt: Prompt
    number: int
    index: int
    ids: list[int]
    room: int
    begun: Sequence[int] = ()


class LocalModel:
    """`Complete` with a loaded model; the model's training mode and the random generators stay as they were.

    Stops at the tokenizer's end-of-sequence token and at those of the model's
    generation config; nothing else of that config is used. A row that reaches
    the model's last position is cut there (`truncated`). One that has written a stop
    string ends with that token. `Completion.tokens` counts all new tokens, the ending
    one and those of a stop string too. Batches are deterministic: the
    same prompts and sampling give the same completions, in the same order.

    Args:
        loaded: from `lm.load.load`.
        max_rows: completions side by side at most.
        token_budget: prompt and new tokens of a batch at most, counted with padding.

    Raises:
        ModelError: the model gives no cache whose rows can be dropped (Mamba, RWKV).
    """

    def __init__(self, loaded: Loaded, *, max_rows: int = 64, token_budget: int = TOKEN_BUDGET) -> None:
        self.loaded = loaded
        self.max_rows = max_rows
        self.token_budget = token_budget
        self._model = loaded.bare
        self._limit = position_limit(config_of(loaded))
        self._stops = stop_tokens(self._model, loaded.tokenizer)
        self._no_text = no_text(loaded.tokenizer)

    @property
    def name(self) -> str:
        return self.loaded.name

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Complete every prompt `sampling.n` times; a batch's completions come when the batch is done.

        Raises:
            InputError: impossible sampling; a prompt without tokens, longer than the model can read,
                or with a system prompt that is not in its text.
        """
        check_sampling(sampling)
        rows = self._rows(prompts, sampling)
        return self._stream(rows, sampling)

    def _rows(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Row]:
        apart = next((prompt.id for prompt in prompts if prompt.system), None)
        if apart is not None:
            raise InputError(f"prompt {apart}: its system prompt is separate; render it into the text")
        ids = prompt_ids(self.loaded, [prompt.text for prompt in prompts])
        rows = []
        for number, (prompt, own) in enumerate(zip(prompts, ids, strict=True)):
            room = room_of(self.loaded, self._limit, prompt, len(own), sampling.max_tokens)
            begun = begun_ids(self.loaded, prompt, room)
            rows += [Row(prompt, number, index, own, room, begun) for index in range(sampling.n)]
        return rows

    def _stream(self, rows: list[Row], sampling: Sampling) -> Iterator[Completion]:
        # Without explicit positions, left padding would shift a row: then only equal lengths go together.
        padded = self.loaded.encoder_decoder or "position_ids" in _accepts(self._model)
        for batch in batches(rows, self.max_rows, self.token_budget, padded=padded):
            yield from self._complete(batch, sampling)

    def _complete(self, rows: list[Row], sampling: Sampling) -> list[Completion]:
        watch = _Watch(rows, sampling.stop, self._text) if sampling.stop else None
        with torch.inference_mode(), _evaluating(self._model):
            written = _decode(self._start(rows), rows, self._stops, sampling, self._model.device, watch)
        return [
            self._completion(row, ids, sampling.stop, probability)
            for row, (ids, probability) in zip(rows, written, strict=True)
        ]

    def _start(self, rows: list[Row]) -> Decoding:
        kind = EncoderDecoder if self.loaded.encoder_decoder else DecoderOnly
        room = max(row.room for row in rows)
        # The prompt of several completions is read once.
        first: dict[int, int] = {}
        copies = torch.tensor(
            [first.setdefault(row.number, len(first)) for row in rows], device=self._model.device
        )
        ids = list({row.number: row.ids for row in rows}.values())
        decoding: Decoding = kind(self._model, ids, room, self.loaded.tokenizer.pad_token_id, self._limit)
        if len(ids) < len(rows):
            decoding.keep(copies)
        return decoding

    def _completion(
        self, row: Row, ids: list[int], stops: Sequence[str], probability: float = 0.0
    ) -> Completion:
        ended = ids[-1] in self._stops
        found = read_written(self._text(ids[:-1] if ended else ids), stops, opened=row.prompt.opened)
        return Completion(
            row.prompt.id,
            row.index,
            found.answer,
            tokens=len(ids),
            truncated=not (ended or found.stopped),
            thinking=found.thinking,
            stopped=found.stopped,
            probability=probability,
        )

    def _text(self, ids: Sequence[int]) -> str:
        shown = [token for token in ids if token not in self._no_text]
        text: str = self.loaded.tokenizer.decode(
            shown, skip_special_tokens=not self._no_text, clean_up_tokenization_spaces=False
        )
        return text


def no_text(tokenizer: Any) -> frozenset[int]:
    """Where the tags of thinking are special tokens: all the other ones, which are no text; else nothing,
    and the tokenizer itself leaves special tokens out."""
    special = {number: token for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    tags = {number for number, token in special.items() if token.content in (OPEN, CLOSE)}
    return frozenset(special.keys() - tags) if tags else frozenset()


def check_sampling(sampling: Sampling) -> None:
    """Refuse what cannot be drawn.

    Raises:
        InputError: naming the setting.
    """
    if sampling.n < 1 or sampling.max_tokens < 1:
        raise InputError("sampling: n and max_tokens must be at least 1")
    if sampling.temperature < 0 or sampling.top_k < 0 or not 0 < sampling.top_p <= 1:
        raise InputError("sampling: temperature and top_k must not be negative, and top_p must be in (0, 1]")
    if sampling.temperature == 0 and sampling.n > 1:
        raise InputError("sampling: n above 1 needs a temperature above 0; greedy completions are all equal")
    if "" in sampling.stop:
        raise InputError("sampling: an empty stop string would end everything; remove it")


def config_of(model: Loaded | Unloaded) -> Any:
    """A model's configuration; under an adapter its base model's."""
    return model.config if isinstance(model, Unloaded) else model.bare.config


def room_of(model: Loaded | Unloaded, limit: int | None, prompt: Prompt, length: int, wanted: int) -> int:
    """How many new tokens fit behind a prompt of `length` tokens, at most as many as are wanted.

    Args:
        limit: the model's `position_limit`.

    Raises:
        InputError: none fits.
    """
    if length == 0:
        raise InputError(f"prompt {prompt.id}: it has no tokens; give it some text")
    if limit is None:
        return wanted
    # A decoder-only model writes on where the prompt ends; a decoder counts its own positions.
    left = limit if model.encoder_decoder else limit - length
    if length > limit or left < 1:
        raise InputError(
            f"prompt {prompt.id}: its {length} tokens leave no room in the {limit} positions "
            f"of {model.name}; shorten it or take a model with more"
        )
    return min(wanted, left)


def begun_ids(model: Loaded | Unloaded, prompt: Prompt, room: int) -> list[int]:
    """The tokens that a completion begins with, as training makes those of a completion.

    Raises:
        InputError: they fill the room for new tokens.
    """
    if not prompt.begun:
        return []
    own = model.tokenizer(prompt.begun, add_special_tokens=False, verbose=False)
    ids: list[int] = own["input_ids"]
    if len(ids) >= room:
        raise InputError(
            f"prompt {prompt.id}: the {len(ids)} tokens of {prompt.begun!r} fill the {room} new ones; "
            "raise max_tokens"
        )
    return ids


def prompt_ids(loaded: Loaded | Unloaded, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of rendered prompts as training makes them (decoder-only: no end-of-sequence at the end)."""
    if not texts:
        return []
    encoded = loaded.tokenizer(list(texts), return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    if loaded.encoder_decoder:
        return ids
    eos = loaded.tokenizer.eos_token_id
    return [own[:-1] if own[-1:] == [eos] else own for own in ids]


def prompt_room(loaded: Loaded | Unloaded, max_tokens: int) -> int | None:
    """Most tokens of a prompt, if so many new ones must follow it; None: any number."""
    limit = position_limit(config_of(loaded))
    return limit if limit is None or loaded.encoder_decoder else limit - max_tokens


def positions_of(config: Any) -> int | None:
    """How many positions a model has; None: any number (T5's are relative)."""
    text, field = config.get_text_config(decoder=True), "max_position_embeddings"
    limit: int | None = text.to_dict().get(text.attribute_map.get(field, field))
    return limit


def position_limit(config: Any) -> int | None:
    """How many positions a model can write up to; None: any number.

    Rotary positions that are rescaled beyond a first length would need all
    cached states again there, so such a model ends at that first length.
    """
    limit = positions_of(config)
    rope = config.get_text_config(decoder=True).to_dict().get("rope_parameters") or {}
    if limit is not None and rope.get("rope_type") in ("longrope", "dynamic"):
        return min(limit, rope.get("original_max_position_embeddings") or limit)
    return limit


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a completion: the tokenizer's, and all of the generation config."""
    also = model.generation_config.eos_token_id
    several = also if isinstance(also, list) else [also]
    return frozenset([tokenizer.eos_token_id, *several]) - {None}


def batches(rows: Sequence[Row], max_rows: int, token_budget: int, *, padded: bool) -> Iterator[list[Row]]:
    """Cut rows, longest first, into batches within both limits; `padded` False: of one length each."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        if batch:
            longest = len(batch[0].ids)
            size = (len(batch) + 1) * (longest + row.room)  # rooms only grow as prompts get shorter
            uneven = not padded and len(row.ids) != longest
            if len(batch) == max_rows or size > token_budget or uneven:
                yield batch
                batch = []
        batch.append(row)
    if batch:
        yield batch


class Decoding(Protocol):
    """A batch in flight: the caches of its rows, and the logits (B,V) of the next token."""

    logits: Tensor

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (B',), in this order; a row may be taken several times."""

    def step(self, tokens: Tensor) -> None:
        """Append one token to each row (B,) and find the next logits."""


class DecoderOnly:
    """Left-padded prompts, so that all rows write at the same column."""

    def __init__(
        self, model: Any, prompts: Sequence[list[int]], room: int, pad: int, limit: int | None
    ) -> None:
        self.model = model
        self.limit = limit
        self.length = max(map(len, prompts))
        ids = torch.tensor([[pad] * (self.length - len(own)) + own for own in prompts], device=model.device)
        ahead = [[0] * (self.length - len(own)) + [1] * (len(own) + room) for own in prompts]
        self.mask = torch.tensor(ahead, device=model.device)
        self.position = self.mask[:, : self.length].sum(dim=1)
        accepts = _accepts(model)
        self.explicit = "position_ids" in accepts
        positions = (self.mask[:, : self.length].cumsum(dim=1) - 1).clamp(min=0)
        last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepts else {}
        output = self._forward(ids, positions, **last_only)
        self.cache = _cache(output, model, self.length + room - 1)
        self.logits = _last(output)

    def _forward(self, ids: Tensor, positions: Tensor, **more: Any) -> Any:
        if self.explicit:
            more["position_ids"] = positions
        return self.model(input_ids=ids, attention_mask=self.mask[:, : self.length], use_cache=True, **more)

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)
        self.mask, self.position, self.logits = self.mask[rows], self.position[rows], self.logits[rows]

    def step(self, tokens: Tensor) -> None:
        self.length += 1
        # A row that is done, but not dropped yet, may be beyond the last position.
        positions = self.position if self.limit is None else self.position.clamp(max=self.limit - 1)
        output = self._forward(tokens[:, None], positions[:, None], past_key_values=self.cache)
        self.position = self.position + 1
        self.logits = _last(output)


class EncoderDecoder:
    """Right-padded prompts in the encoder; every row's decoder starts at the start token."""

    def __init__(
        self, model: Any, prompts: Sequence[list[int]], room: int, pad: int, limit: int | None
    ) -> None:
        self.model = model
        longest = max(map(len, prompts))
        ids = torch.tensor([own + [pad] * (longest - len(own)) for own in prompts], device=model.device)
        self.mask = torch.tensor(
            [[1] * len(own) + [0] * (longest - len(own)) for own in prompts], device=model.device
        )
        self.states = model.get_encoder()(input_ids=ids, attention_mask=self.mask).last_hidden_state
        start = model.config.decoder_start_token_id
        output = self._forward(torch.full((len(prompts),), start, device=model.device))
        self.cache = _cache(output, model, room)  # the start token, and all but the last one
        self.logits = _last(output)

    def _forward(self, tokens: Tensor, **more: Any) -> Any:
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.states),
            attention_mask=self.mask,
            decoder_input_ids=tokens[:, None],
            use_cache=True,
            **more,
        )

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)
        self.states, self.mask, self.logits = self.states[rows], self.mask[rows], self.logits[rows]

    def step(self, tokens: Tensor) -> None:
        self.logits = _last(self._forward(tokens, past_key_values=self.cache))


def _accepts(model: Any) -> frozenset[str]:
    """The arguments of the model's forward pass."""
    return frozenset(inspect.signature(model.forward).parameters)


def _cache(output: Any, model: Any, most: int) -> Any:
    """The cache, if its rows can be dropped: `reorder_cache` selects rows in every kind of layer.

    Args:
        most: tokens of a row that it will hold; the last one to be written is never read.
    """
    cache = output.get("past_key_values")
    if not isinstance(cache, Cache):
        raise ModelError(
            f"{model.config.model_type}: models of this family keep no cache that rows can be dropped from; "
            "take a transformer, or serve the model and use it as an api teacher"
        )
    with_room(cache, most)
    return cache


def _last(output: Any) -> Tensor:
    logits: Tensor = output.logits[:, -1]
    return logits


class _Watch:
    """Sees, token by token, which rows have written a stop string.

    Looks at a row's last tokens, as many as a stop string can have, and reads the row whole only where
    one seems to be there; so a text is cut at the same place whatever the borders of its tokens are.
    """

    def __init__(
        self, rows: Sequence[Row], stops: Sequence[str], text: Callable[[Sequence[int]], str]
    ) -> None:
        self._rows = rows
        self._stops = stops
        self._text = text
        # no token is shorter than a byte, but a few at the left may be parts of a character
        self._near = max(len(stop.encode("utf-8", "replace")) for stop in (*stops, CLOSE)) + 8
        self._ids: list[list[int]] = [[] for _ in rows]
        self._thinking = [False] * len(rows)  # known to be inside: nothing but the closing tag matters

    def stopped(self, places: Sequence[int], tokens: Sequence[int]) -> list[bool]:
        """Whether each row has written a stop string, with these tokens (places in the batch) at its end."""
        return [self._stopped(place, token) for place, token in zip(places, tokens, strict=True)]

    def _stopped(self, place: int, token: int) -> bool:
        ids = self._ids[place]
        ids.append(token)
        near = self._text(ids[-self._near :])
        if self._thinking[place] and CLOSE not in near:
            return False
        self._thinking[place] = False
        if not any(stop in near for stop in self._stops):
            return False
        whole, opened = self._text(ids), self._rows[place].prompt.opened
        self._thinking[place] = thinks_still(whole, opened=opened)
        return bool(cut(whole, self._stops, opened=opened)[1])


def _decode(
    decoding: Decoding,
    rows: Sequence[Row],
    stops: frozenset[int],
    sampling: Sampling,
    device: torch.device,
    watch: _Watch | None = None,
) -> list[tuple[list[int], float]]:
    """New tokens of every row, the ending one included, and where several vote how likely they were.

    That is the geometric mean of the probabilities that the model gave to the tokens that were drawn; 0 where
    nobody votes.
    """
    if torch.isnan(decoding.logits).any():
        raise ModelError("the model's logits are not numbers; its weights are broken, train it again")
    longest = max(row.room for row in rows)
    room = torch.tensor([row.room for row in rows], device=device)
    ends = torch.tensor(sorted(stops), device=device)
    chance = None if sampling.temperature == 0 else _chances(rows, longest, sampling.seed).to(device)
    written = torch.full((len(rows), longest), -1, device=device)  # -1: nothing written
    alive = torch.arange(len(rows), device=device)  # place of every row of the batch in `written`
    running = torch.ones(len(rows), dtype=torch.bool, device=device)
    begun = _begun(rows, device)
    votes = sampling.n > 1
    nats = torch.zeros(len(rows), dtype=torch.float64, device=device)  # of what was drawn, summed
    drawn = torch.zeros(len(rows), dtype=torch.float64, device=device)
    for step in range(longest):
        if chance is None:
            tokens = decoding.logits.argmax(dim=-1)
        else:
            tokens = draw(decoding.logits, chance[alive, step], sampling)
        chosen = running
        if step < begun.shape[1]:
            given = begun[alive, step]
            tokens = torch.where(given >= 0, given, tokens)
            chosen = running & (given < 0)
        if votes:
            nats[alive] += torch.where(chosen, _nats(decoding.logits, tokens), 0.0)
            drawn[alive] += chosen
        written[alive, step] = torch.where(running, tokens, -1)
        running &= ~torch.isin(tokens, ends) & (room[alive] > step + 1)
        if watch is not None:
            running &= ~torch.tensor(watch.stopped(alive.tolist(), tokens.tolist()), device=device)
        left = int(running.sum())
        if left == 0:
            break
        if left <= (1 - DROP_SHARE) * len(running):
            kept = running.nonzero()[:, 0]
            decoding.keep(kept)
            alive, running, tokens = alive[kept], running[kept], tokens[kept]
        decoding.step(tokens)
    likely = (nats / drawn.clamp_min(1)).exp() if votes else nats
    return [
        ([token for token in own if token >= 0], probability)
        for own, probability in zip(written.tolist(), likely.tolist(), strict=True)
    ]


def _nats(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p of a token of each row, (B,), float64; logits (B,V)."""
    given = logits.float()
    return (given.gather(-1, tokens[:, None])[:, 0] - given.logsumexp(-1)).double()


def _begun(rows: Sequence[Row], device: torch.device) -> Tensor:
    """(B,F) the tokens that completions begin with; -1 where a row has none left."""
    most = max(len(row.begun) for row in rows)
    padded = [[*row.begun, *[-1] * (most - len(row.begun))] for row in rows]
    return torch.tensor(padded, dtype=torch.long, device=device).reshape(len(rows), most)


def _chances(rows: Sequence[Row], steps: int, seed: int) -> Tensor:
    """(B,steps) numbers in [0, 1): a row's own, from the seed, its prompt's id and its index alone."""
    own = []
    for row in rows:
        digest = hashlib.blake2b(f"{seed}\0{row.index}\0{row.prompt.id}".encode(), digest_size=16).digest()
        own.append(np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(steps))
    return torch.from_numpy(np.stack(own))


def draw(logits: Tensor, chance: Tensor, sampling: Sampling) -> Tensor:
    """One token per row (B,), by inverting the cumulative distribution at `chance`.

    Temperature first, then the `top_k` likeliest tokens (0: all), then of those the
    fewest whose probabilities reach `top_p`; ties at the edge keep the first.

    Args:
        logits: (B,V), nats.
        chance: (B,), float64, in [0, 1).
        sampling: temperature above 0.
    """
    scaled = logits.float() / sampling.temperature
    order: Tensor | None = None
    if sampling.top_k:
        scaled, order = scaled.topk(min(sampling.top_k, scaled.shape[-1]), dim=-1)
    elif sampling.top_p < 1:
        scaled, order = scaled.sort(dim=-1, descending=True, stable=True)
    likely = scaled.double().softmax(dim=-1)
    if sampling.top_p < 1:
        before = likely.cumsum(dim=-1) - likely
        likely = likely.masked_fill(before >= sampling.top_p, 0.0)
    reached = likely.cumsum(dim=-1)
    # A float64 below 1 times a float64 is below it, so a token of probability 0 is never met.
    aim = chance[:, None] * reached[:, -1:]
    place = torch.searchsorted(reached, aim, right=True)
    return place[:, 0] if order is None else order.gather(-1, place)[:, 0]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Dropout off; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
