"""Whether a mentor's distributions are over the student's tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

from limbeck.errors import ModelError

TEXTS_AT_ONCE = 1000


def vocabulary_of(tokenizer: Any) -> int:
    """Real tokens: the highest id + 1, added tokens included; embedding rows above are padding."""
    return int(max(tokenizer.get_vocab().values())) + 1


def tokenizers_agree(student_tokenizer: Any, mentor_tokenizer: Any, texts: Iterable[str]) -> None:
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
    left = iter(texts)
    while some := list(islice(left, TEXTS_AT_ONCE)):
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
    """Identifies a tokenizer by what it does: vocabulary, end of sequence, and the ids of probe texts.

    It survives saving and loading. Where two differ on other texts only, the rows' keys differ.
    """
    facts = [sorted(tokenizer.get_vocab().items()), tokenizer.eos_token_id, _encoded(tokenizer, PROBES)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
