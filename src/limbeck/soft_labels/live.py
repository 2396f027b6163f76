"""Soft labels: a mentor's distribution over every scored token, asked for or read back.

The student trains beside either source: `Live` runs the mentor on the student's own batch,
`soft_cache.Cached` reads what one pass of the mentor wrote. Both give the same targets, up to
the rounding of what is stored.

Student and mentor share a tokenizer. Their embeddings may have different numbers of padding rows
above it; the distributions are taken over real tokens only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from limbeck.errors import ModelError
from limbeck.objectives.align import Scored, head_weight, hidden, plain_head, score
from limbeck.objectives.soft import SoftTargets, chunks, full, sampled, top_k
from limbeck.training.collate import Batch
from limbeck.training.settings import CodecSettings

TEXTS_AT_ONCE = 1000


class SoftLabels(Protocol):
    """Where a student's soft labels come from."""

    @property
    def temperature(self) -> float:
        """τ, of mentor and student alike."""
        ...

    @property
    def vocabulary(self) -> int:
        """Real tokens: the highest id of the tokenizer + 1."""
        ...

    def of(self, batch: Batch) -> SoftTargets:
        """The targets of the batch's scored tokens, in row order, on the batch's device."""
        ...


@dataclass(frozen=True)
class Live:
    """The mentor beside the student: a forward pass on the same ids, in the mentor's own precision.

    Autocast around the student does not reach the mentor, so that its answers are those a cache
    would hold. Draws of the sampled codec follow from (seed, row) alone.

    Where the mentor's head is a plain matrix, logits exist for a chunk of tokens at a time.

    Args:
        mentor: any Hugging Face model of the student's kind; put into evaluation mode.
        codec: what of the distribution is kept.
        temperature: τ.
        vocabulary: real tokens, see `vocabulary_of`.
        seed: of the sampled codec.
    """

    mentor: nn.Module
    codec: CodecSettings
    temperature: float
    vocabulary: int
    seed: int = 0

    def of(self, batch: Batch) -> SoftTargets:
        """Targets of the scored tokens, without gradients.

        Raises:
            ModelError: the mentor has fewer embedding rows than there are tokens.
        """
        if self.mentor.training:
            self.mentor.eval()
        home = batch["labels"].device
        device = next(self.mentor.parameters()).device
        there = {name: values.to(device) for name, values in batch.items()}
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            scored, logits, width = self._forward(there)
            if width < self.vocabulary:
                raise ModelError(
                    f"the mentor has {width} embeddings for the {self.vocabulary} tokens of the tokenizer; "
                    "choose a mentor that was trained with this tokenizer"
                )
            parts = [
                self._encode(logits(start, stop), generator)
                for start, stop, generator in self._spans(scored, there, width)
            ]
            return _joined(parts, home)

    @cached_property
    def _plain(self) -> bool:
        return plain_head(self.mentor)

    def _forward(self, batch: Batch) -> tuple[Scored, Callable[[int, int], Tensor], int]:
        """The scored tokens, a function that gives the logits of a stretch of them, and their width."""
        if not self._plain:
            scored, logits_NV = score(self.mentor, batch)
            return scored, lambda start, stop: logits_NV[start:stop], logits_NV.shape[1]
        scored, hidden_NH = hidden(self.mentor, batch)
        head_VH = head_weight(self.mentor)
        return scored, lambda start, stop: hidden_NH[start:stop] @ head_VH.T, head_VH.shape[0]

    def _spans(self, scored: Scored, batch: Batch, width: int) -> Iterator[tuple[int, int, torch.Generator]]:
        """Stretches of tokens with few enough logits; of the sampled codec within one row, with its draws."""
        count = scored.targets_N.numel()
        lengths, keys = [count], [[0, 0]]
        if self.codec.kind == "sampled" and count:
            lengths, keys = scored.keep_BT.sum(1).tolist(), batch["keys"].tolist()
        first = 0
        for tokens, (key, _) in zip(lengths, keys, strict=True):
            # 32 bits of a seed count; the key is a hash, and the prime keeps neighbouring seeds apart.
            generator = torch.Generator().manual_seed((key + self.seed * 1_000_003) % 2**32)
            for start, stop in chunks(tokens, width) or ([] if count else [(0, 0)]):
                yield first + start, first + stop, generator
            first += tokens

    def _encode(self, logits_CV: Tensor, generator: torch.Generator) -> SoftTargets:
        if self.codec.kind == "full":
            return full(logits_CV, self.temperature, self.vocabulary)
        if self.codec.kind == "top-k":
            return top_k(logits_CV, self.temperature, self.vocabulary, self.codec.k)
        return sampled(logits_CV, self.temperature, self.vocabulary, self.codec.draws, generator)


def _joined(parts: Sequence[SoftTargets], device: torch.device) -> SoftTargets:
    """One after the other; tokens with fewer distinct draws than others are filled up."""
    first = parts[0]
    if len(parts) == 1:
        ids_NK = None if first.ids_NK is None else first.ids_NK.to(device)
        return SoftTargets(first.log_p_NK.to(device), ids_NK, first.tail, first.vocabulary)
    widest = max(part.log_p_NK.shape[1] for part in parts)

    def stack(values: Sequence[Tensor], fill: float) -> Tensor:
        wide = [pad(value, (0, widest - value.shape[1]), value=fill) for value in values]
        return torch.cat(wide).to(device)

    log_p_NK = stack([part.log_p_NK for part in parts], -torch.inf)
    ids = [part.ids_NK for part in parts if part.ids_NK is not None]
    return SoftTargets(log_p_NK, stack(ids, 0) if ids else None, first.tail, first.vocabulary)


def vocabulary_of(tokenizer: Any) -> int:
    """Real tokens: the highest id + 1, added tokens included; embedding rows above are padding."""
    return int(max(tokenizer.get_vocab().values())) + 1


def tokenizers_agree(student_tokenizer: Any, mentor_tokenizer: Any, texts: Sequence[str]) -> None:
    """Refuse a mentor whose distributions are over other tokens than the student's.

    Args:
        texts: prompts and completions; both tokenizers must encode them to the same ids.

    Raises:
        ModelError: another vocabulary, another end of sequence, or a text with other ids.
    """
    fix = "choose a mentor of the student's family"
    ours, theirs = student_tokenizer.get_vocab(), mentor_tokenizer.get_vocab()
    if len(ours) != len(theirs):
        raise ModelError(
            f"the student's tokenizer has {len(ours)} tokens and the mentor's {len(theirs)}; {fix}"
        )
    if ours != theirs:
        token = next(token for token in sorted(ours) if theirs.get(token) != ours[token])
        other = f"is {theirs[token]}" if token in theirs else "does not exist"
        raise ModelError(
            f"token {token!r} is {ours[token]} in the student's tokenizer and {other} in the mentor's; {fix}"
        )
    if student_tokenizer.eos_token_id != mentor_tokenizer.eos_token_id:
        raise ModelError(
            f"the student's texts end with token {student_tokenizer.eos_token_id} and the mentor's with "
            f"{mentor_tokenizer.eos_token_id}; {fix}"
        )
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = list(texts[start : start + TEXTS_AT_ONCE])
        for text, one, other_ids in zip(
            some, _encoded(student_tokenizer, some), _encoded(mentor_tokenizer, some), strict=True
        ):
            if one != other_ids:
                raise ModelError(
                    f"the tokenizers of student and mentor cut {text[:60]!r} differently, into {len(one)} "
                    f"and {len(other_ids)} tokens; {fix}"
                )


def _encoded(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
    return ids


PROBES = [
    "Ada buys 12,345 apples for £6.70 each. So 3 * 41 = 123.",
    "  two spaces, a tab\tand\n\nlines; UPPER lower Éé ßẞ 数学 🙂 don't x_1 (A)",
]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Tells tokenizers apart by what they do: vocabulary, end of sequence, and the ids of probe texts.

    It survives saving and loading. Where two differ on other texts only, the rows' keys differ.
    """
    facts = [sorted(tokenizer.get_vocab().items()), tokenizer.eos_token_id, _encoded(tokenizer, PROBES)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
