"""Examples to token ids, and rows of token ids to padded batches.

Prompt and completion are tokenised apart, so that the ids of a prompt in
training are exactly those of the same prompt in an exam.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import ModelError, RecipeError
from limbeck.objectives.align import IGNORED
from limbeck.records import Example

Batch = dict[str, Tensor]
"""`input_ids`, `attention_mask` (B,T); `labels` (B,T), or (B,U) of a decoder; perhaps `label_weights`;
`keys` (B,2), the rows' keys."""

NO_KEY = (0, 0)
"""The key of a row that is not there."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenised example.

    Decoder-only: `labels` and `weights` stand beside `input_ids`, position by position.
    Encoder-decoder: `input_ids` feed the encoder, `labels` are the decoder's.

    `key` follows from the ids and labels alone: 128 bits of their BLAKE2b, as two signed int64.
    What is stored about a row is found again by it, whatever the batch or the order.
    """

    problem_id: str
    input_ids: list[int]
    labels: list[int]
    weights: list[float] | None = None
    key: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", _key(self.input_ids, self.labels))


def _key(input_ids: list[int], labels: list[int]) -> tuple[int, int]:
    numbers = np.array([len(input_ids), *input_ids, *labels], "<i8")
    digest = hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()
    first, second = np.frombuffer(digest, "<i8").tolist()
    return first, second


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Rows to train on, and the examples that were left out because they are too long."""

    rows: list[Row]
    too_long: list[Example]


def tokenise(
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    encoder_decoder: bool,
    max_length: int,
    prompt_weight: float = 0.0,
) -> Tokenised:
    """Tokenise examples whose `prompt` is already rendered text.

    Decoder-only: prompt ids without a trailing end-of-sequence token, completion ids, end of
    sequence; prompt tokens are scored with `prompt_weight` if that is above 0. Encoder-decoder:
    the prompt as the tokenizer makes it; completion ids and end of sequence as labels.

    Args:
        max_length: most tokens of a row (of each side of an encoder-decoder row); an
            example over it is never cut but left out and returned in `too_long`.

    Raises:
        RecipeError: `prompt_weight` with an encoder-decoder, or every example is too long.
        ModelError: the tokenizer has no end-of-sequence token.
    """
    if encoder_decoder and prompt_weight > 0:
        raise RecipeError(
            f"prompt_weight: {prompt_weight:g} needs a decoder-only model, because the decoder of an "
            "encoder-decoder never writes the prompt; set it to 0"
        )
    if not examples:
        return Tokenised([], [])
    eos = end_of_sequence(tokenizer)
    prompts = _ids(tokenizer, [example.prompt for example in examples], special=True)
    completions = _ids(tokenizer, [example.completion for example in examples], special=False)
    rows: list[Row] = []
    too_long: list[tuple[int, Example]] = []
    for example, prompt, completion in zip(examples, prompts, completions, strict=True):
        row = (
            Row(example.problem_id, prompt, [*completion, eos])
            if encoder_decoder
            else _continued(example.problem_id, prompt, [*completion, eos], prompt_weight)
        )
        length = max(len(row.input_ids), len(row.labels))
        if length > max_length:
            too_long.append((length, example))
        else:
            rows.append(row)
    if not rows:
        raise RecipeError(
            f"max_length: all {len(examples)} examples are longer than {max_length} tokens, "
            f"the shortest has {min(length for length, _ in too_long)}; raise max_length"
        )
    return Tokenised(rows, [example for _, example in too_long])


def _ids(tokenizer: Any, texts: list[str], *, special: bool) -> list[list[int]]:
    """Token ids of many texts in one call."""
    encoded = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _continued(problem_id: str, prompt: list[int], completion: list[int], prompt_weight: float) -> Row:
    """A row of a decoder-only model: the prompt, then the completion that continues it."""
    if prompt[-1:] == completion[-1:]:  # end of sequence: the completion must not follow it
        prompt = prompt[:-1]
    if prompt_weight == 0:
        return Row(problem_id, prompt + completion, [IGNORED] * len(prompt) + completion)
    weights = [prompt_weight] * len(prompt) + [1.0] * len(completion)
    return Row(problem_id, prompt + completion, prompt + completion, weights)


def end_of_sequence(tokenizer: Any) -> int:
    """The id that ends a completion.

    Raises:
        ModelError: the tokenizer has none, so that a model could never learn to stop.
    """
    eos: int | None = tokenizer.eos_token_id
    if eos is None:
        raise ModelError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: it has no end-of-sequence token, so the model "
            "could not learn to stop; set eos_token in tokenizer_config.json"
        )
    return eos


def padding(tokenizer: Any) -> int:
    """The id that fills rows up; any will do, since padding is neither attended to nor scored."""
    pad: int | None = tokenizer.pad_token_id
    return end_of_sequence(tokenizer) if pad is None else pad


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Pad rows on the right to the longest of them.

    No rows at all give one row with nothing to score: it keeps processes in step when
    there are fewer batches than processes, and adds nothing to any sum or count.
    """
    keys = [row.key for row in rows] or [NO_KEY]
    rows = rows or [Row("", [pad], [IGNORED], None)]
    batch = {
        "input_ids": _padded([row.input_ids for row in rows], pad, torch.long),
        "attention_mask": _padded([[1] * len(row.input_ids) for row in rows], 0, torch.long),
        "labels": _padded([row.labels for row in rows], IGNORED, torch.long),
        "keys": torch.tensor(keys, dtype=torch.long),
    }
    weights = [row.weights for row in rows if row.weights is not None]
    if weights:
        batch["label_weights"] = _padded(weights, 0.0, torch.float32)
    return batch


def _padded(values: Sequence[Sequence[float]], fill: float, dtype: torch.dtype) -> Tensor:
    """Stack sequences of different lengths: (B, longest)."""
    longest = max(len(value) for value in values)
    return torch.tensor([[*value, *[fill] * (longest - len(value))] for value in values], dtype=dtype)
