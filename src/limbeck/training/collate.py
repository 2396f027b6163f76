"""Groups of examples to token ids, and rows of token ids to padded batches.

Prompt and completion are tokenised apart, so that the ids of a prompt in
training are exactly those of the same prompt in an exam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike
from torch import Tensor

from limbeck.errors import ModelError, RecipeError
from limbeck.objectives.align import IGNORED
from limbeck.records import Example
from limbeck.training.groups import Group
from limbeck.training.rows import NO_KEY, NO_SPAN, Row, RowGroup, RowGroups, Rows, outline, stored

Batch = dict[str, Any]
"""The rows of a micro-batch, padded on the right.

    input_ids, attention_mask  (B,T) int64
    labels                     (B,T) int64, or (B,U) of a decoder: completion and end of sequence of
                               every row, `IGNORED` elsewhere
    keys                       (B,2) int64: the rows' keys
    groups                     (B,) int64: which group of the batch a row belongs to, from 0
    roles                      list of B strings
    spans                      (B,2) int64: first and one past the last position of the answer, in
                               `labels`; (-1,-1) where there is none
    begins                     (B,) int64: where in `labels` the completion begins
    scored                     (B,) bool, absent where all rows are: whether token losses see the row
    label_weights              float32 like `labels`, absent where all weigh 1
    expected                   (B,) float32, with corrected batches only: what a row adds to the count
                               of a token loss in place of its own tokens (see `corrections`)
    group_factors              (B,) float32, with corrected batches of several rows a group only: what
                               multiplies the pair or the triplets of the row's group
    owners, prompts, widths    only where prompts are computed once: which different prompt each row has
                               (B,), the first row of each (Q,), and the tokens of the longest prompt and of
                               the longest rest of a row, two numbers
"""

SLICE = 1_000
"""Examples that are tokenised in one call: what a tokenizer returns takes some hundred bytes a token."""


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Groups of rows to train on, and what was left out.

    Attributes:
        groups: in the order of the groups that were given, in a file (see `rows`).
        too_long: examples over `max_length` or `max_completion`.
        dropped: groups that then had no example left, or no scored one.
        without_span: examples whose `answer_span` could not be found among their tokens.
    """

    groups: RowGroups
    too_long: list[Example]
    dropped: list[Group]
    without_span: int

    @property
    def rows(self) -> Rows:
        """The rows of all groups."""
        return self.groups.rows


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of rows that a divergence between answers could take (see `objectives.spans.paired_rows`).

    Attributes:
        possible: two rows of a group that both have a span.
        unlike: of these, how many have different tokens in theirs, so that nothing can be compared.
        alone: groups of which at most one row has a span.
    """

    possible: int
    unlike: int
    alone: int


def pairs_in(groups: Sequence[RowGroup]) -> Pairs:
    """Count the pairs of all groups, whatever is drawn of them."""
    known = outline(groups)
    several = np.flatnonzero(known.per_group(known.spanned) > 1).tolist()
    possible = unlike = 0
    for group in (groups[number] for number in several):  # only they are read
        answers = [row.labels[slice(*row.span)] for row in group.rows if row.span != NO_SPAN]
        pairs = list(combinations(answers, 2))
        possible += len(pairs)
        unlike += sum(one != other for one, other in pairs)
    return Pairs(possible, unlike, len(groups) - len(several))


def said_of_pairs(found: Tokenised, pairs: Pairs) -> Iterator[str]:
    """What is in no pair, and why."""
    if found.without_span:
        yield (
            f"the answer of {found.without_span} examples was not found among their tokens, so they are in "
            "no pair"
        )
    if pairs.unlike:
        yield (
            f"in {pairs.unlike} of {pairs.possible} pairs the two answers are cut into different tokens, so "
            "they are not compared"
        )
    if pairs.alone:
        yield (
            f"{pairs.alone} of {len(found.groups)} questions have fewer than two rationales whose answer was "
            "found, so their answers are not compared"
        )


def tokenise(
    tokenizer: Any,
    groups: Iterable[Group],
    *,
    encoder_decoder: bool,
    max_length: int,
    max_completion: int | None = None,
    prompt_weight: float = 0.0,
    folder: Path | None = None,
) -> Tokenised:
    """Tokenise groups of examples whose `prompt` is already rendered text.

    Decoder-only: prompt ids without a trailing end-of-sequence token, completion ids, end of
    sequence; prompt tokens are scored with `prompt_weight` if that is above 0. Encoder-decoder:
    the prompt as the tokenizer makes it; completion ids and end of sequence as labels.

    Args:
        groups: read once, about `SLICE` examples at a time; nothing is kept of those that fit.
        max_length: most tokens of a row (of each side of an encoder-decoder row); an
            example over it is never cut but left out and returned in `too_long`.
        max_completion: the same of a completion with its end of sequence; None: no limit of its own.
        folder: where the rows' file takes its room; None: where the system has its temporary files.

    Raises:
        RecipeError: `prompt_weight` with an encoder-decoder, or every example is too long.
        ModelError: the tokenizer has no end-of-sequence token.
        DiskError: the rows cannot be written.
    """
    if encoder_decoder and prompt_weight > 0:
        raise RecipeError(
            f"prompt_weight: {prompt_weight:g} needs a decoder-only model, because the decoder of an "
            "encoder-decoder never writes the prompt; set it to 0"
        )
    make = partial(_slice, tokenizer, encoder_decoder=encoder_decoder, prompt_weight=prompt_weight)
    out = _LeftOut()
    kept = stored(_fitting(groups, make, max_length, max_completion or max_length, out), folder)
    if out.examples and out.shortest > max_length:
        raise RecipeError(
            f"max_length: all {out.examples} examples are longer than {max_length} tokens, "
            f"the shortest has {out.shortest}; raise max_length"
        )
    if out.examples and len(out.too_long) == out.examples:
        raise RecipeError(
            f"max_completion: of {out.examples} examples none fits into max_length = {max_length} tokens "
            f"with a completion of at most {max_completion}; raise max_completion"
        )
    return Tokenised(kept, out.too_long, out.dropped, out.without_span)


@dataclass(slots=True)
class _LeftOut:
    """What `Tokenised` has besides rows, the number of examples, and the tokens of the shortest."""

    too_long: list[Example] = field(default_factory=list)
    dropped: list[Group] = field(default_factory=list)
    without_span: int = 0
    examples: int = 0
    shortest: int = 0


def _fitting(
    groups: Iterable[Group],
    make: Callable[[Sequence[Example]], list[Row]],
    max_length: int,
    max_completion: int,
    out: _LeftOut,
) -> Iterator[RowGroup]:
    """Give each group its rows that fit; leave out the groups that have none, or none to be learned."""
    for some in _slices(groups):
        examples = [example for group in some for example in group.examples]
        rows = iter(make(examples) if examples else ())
        for group in some:
            own = []
            for example in group.examples:
                row = next(rows)
                length = max(len(row.input_ids), len(row.labels))
                out.shortest = min(length, out.shortest) if out.examples else length
                out.examples += 1
                if length > max_length or len(row.labels) - row.begin > max_completion:
                    out.too_long.append(example)
                    continue
                own.append(row)
                out.without_span += example.answer_span is not None and row.span == NO_SPAN
            scored = any(example.scored for example in group.examples)
            if own and (not scored or any(row.scored for row in own)):
                yield RowGroup(group.key, own, group.question)
            else:
                out.dropped.append(group)


def _slices(groups: Iterable[Group]) -> Iterator[list[Group]]:
    """The groups, so many at a time that they have `SLICE` examples."""
    some: list[Group] = []
    count = 0
    for group in groups:
        some.append(group)
        count += len(group.examples)
        if count >= SLICE:
            yield some
            some, count = [], 0
    if some:
        yield some


def _text(example: Example) -> str:
    """The prompt, which must be rendered by now."""
    if not isinstance(example.prompt, str):
        raise TypeError(f"problem {example.problem_id}: the prompt is in pieces; render it first")
    return example.prompt


def _slice(
    tokenizer: Any, examples: Sequence[Example], *, encoder_decoder: bool, prompt_weight: float
) -> list[Row]:
    eos = end_of_sequence(tokenizer)
    prompts = _ids(tokenizer, [_text(example) for example in examples], special=True)
    completions = _ids(tokenizer, [example.completion for example in examples], special=False)
    spans = _spans(tokenizer, examples)
    rows = []
    for example, prompt, completion, (first, end) in zip(examples, prompts, completions, spans, strict=True):
        completion = [*completion, eos]
        before: list[int] = []  # what `labels` holds before the completion
        if not encoder_decoder:
            # The completion must not follow an end of sequence.
            before = prompt[:-1] if prompt[-1:] == [eos] else prompt
        rows.append(
            Row(
                example.problem_id,
                prompt if encoder_decoder else before + completion,
                (before if prompt_weight else [IGNORED] * len(before)) + completion,
                _weights(len(before), len(completion), prompt_weight, example.weight),
                example.scored,
                example.role,
                NO_SPAN if first < 0 else (first + len(before), end + len(before)),
                len(before) if prompt_weight else 0,
            )
        )
    return rows


def _weights(before: int, completion: int, prompt_weight: float, weight: float) -> list[float] | None:
    """The weight of each label, or None when all that are scored weigh 1."""
    if prompt_weight == 0 and weight == 1:
        return None
    return [prompt_weight * weight] * before + [weight] * completion


def _ids(tokenizer: Any, texts: list[str], *, special: bool) -> list[list[int]]:
    """Token ids of many texts; one that repeats, as a question's prompt does, is tokenised once."""
    different = list(dict.fromkeys(texts))
    encoded = tokenizer(different, add_special_tokens=special, return_attention_mask=False, verbose=False)
    ids: dict[str, list[int]] = dict(zip(different, encoded["input_ids"], strict=True))
    return [ids[text] for text in texts]


def _spans(tokenizer: Any, examples: Sequence[Example]) -> list[tuple[int, int]]:
    """The answer of each example in tokens of its completion; `NO_SPAN` where it has or shows none.

    A slow tokenizer does not know which characters a token was made from, so it shows none.
    """
    spans = [NO_SPAN] * len(examples)
    marked = [index for index, example in enumerate(examples) if example.answer_span is not None]
    if not marked or not tokenizer.is_fast:
        return spans
    different = list(dict.fromkeys(examples[index].completion for index in marked))
    encoded = tokenizer(
        different,
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    offsets = dict(zip(different, encoded["offset_mapping"], strict=True))
    for index in marked:
        start, end = examples[index].answer_span or (0, 0)
        spans[index] = overlapping(offsets[examples[index].completion], start, end)
    return spans


def overlapping(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """First and one past the last of the tokens that share a character with [start, end), or `NO_SPAN`.

    A token that is made of characters inside and outside, such as " 42." for "42", counts.

    Example:
        >>> overlapping([(0, 3), (3, 6), (6, 10)], 4, 7)
        (1, 3)
    """
    inside = [n for n, (first, last) in enumerate(offsets) if max(first, start) < min(last, end)]
    return (inside[0], inside[-1] + 1) if inside else NO_SPAN


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
    """The id that fills rows up; any id works, since padding is neither attended to nor scored."""
    pad: int | None = tokenizer.pad_token_id
    return end_of_sequence(tokenizer) if pad is None else pad


def collate(
    rows: Sequence[Row],
    pad: int,
    *,
    groups: Sequence[int] | None = None,
    factors: Sequence[float] | None = None,
    expected: float = 0.0,
    group_factors: Sequence[float] | None = None,
    prompts: Sequence[tuple[int, ...]] | None = None,
) -> Batch:
    """Pad rows on the right to the longest of them.

    No rows at all give one row with nothing to score: it keeps processes in step when
    there is less to do than processes, and adds nothing to any sum or count.

    Args:
        groups: which group of the batch each row belongs to; None: every row is its own.
        factors: multiply the weights of each row's tokens by this (see `corrections`); None: by 1.
        expected: with `factors`, what each scored row adds to the count of a token loss.
        group_factors: of each row's group: multiply its pair or triplets; None: by 1.
        prompts: of every row; equal ones are computed once. None: every row computes its own.
    """
    if not rows:
        own = None if prompts is None else [(pad,)]
        empty = collate([Row("", [pad], [IGNORED], scored=False)], pad, prompts=own)
        return {**empty, "keys": torch.tensor([NO_KEY], dtype=torch.long)}
    batch: Batch = {
        "input_ids": _padded([row.input_ids for row in rows], pad, np.int64),
        "attention_mask": _padded([np.ones(len(row.input_ids)) for row in rows], 0, np.int64),
        "labels": _padded([row.labels for row in rows], IGNORED, np.int64),
        "keys": torch.tensor([row.key for row in rows], dtype=torch.long),
        "groups": torch.tensor(range(len(rows)) if groups is None else groups, dtype=torch.long),
        "roles": [row.role for row in rows],
        "spans": torch.tensor([row.span for row in rows], dtype=torch.long),
        "begins": torch.tensor([row.begin for row in rows], dtype=torch.long),
    }
    if not all(row.scored for row in rows):
        batch["scored"] = torch.tensor([row.scored for row in rows])
    if factors is not None or any(row.weights for row in rows):
        weights = _padded([row.weights or np.ones(len(row.labels)) for row in rows], 0.0, np.float32)
        batch["label_weights"] = weights if factors is None else weights * torch.tensor(factors)[:, None]
    if factors is not None:
        batch["expected"] = torch.tensor([expected * row.scored for row in rows])
    if group_factors is not None:
        batch["group_factors"] = torch.tensor(group_factors)
    if prompts is not None:
        batch |= _shared(rows, prompts)
    return batch


def _shared(rows: Sequence[Row], prompts: Sequence[tuple[int, ...]]) -> Batch:
    """Which rows have which prompt; see `Batch`."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    rest = max(len(row.input_ids) - len(prompt) for row, prompt in zip(rows, prompts, strict=True))
    return {
        "owners": torch.tensor([numbers[prompt] for prompt in prompts], dtype=torch.long),
        "prompts": torch.tensor([prompts.index(prompt) for prompt in numbers], dtype=torch.long),
        "widths": (max(map(len, prompts)), max(rest, 1)),
    }


def _padded(values: Sequence[ArrayLike], fill: float, dtype: DTypeLike) -> Tensor:
    """Stack sequences of different lengths: (B, longest)."""
    known = [np.asarray(value) for value in values]
    stacked = np.full((len(known), max(map(len, known))), fill, dtype)
    for own, value in zip(stacked, known, strict=True):
        own[: len(value)] = value
    return torch.from_numpy(stacked)
