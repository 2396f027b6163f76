"""Answers of a fixed set (`task.labels`): matched exactly, then without regard to case and punctuation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from limbeck.tasks.statements import sentences
from limbeck.tasks.texts import plain_text, state_text


def normalised(label: str) -> str:
    """In lower case, one space between words (no "_" or "-"), without quotes, emphasis, final punctuation.

    >>> normalised("**Not_Entailed**.")
    'not entailed'
    """
    return " ".join(re.split(r"[\s_-]+", plain_text(label).casefold())).strip() or label.strip()


def state_label(statement: str, labels: Sequence[str]) -> str | None:
    """The one label that a statement names; None where it names none, or several.

    The whole statement is compared first: exactly, then normalised; then what is named in it. Of labels
    within each other ("not entailed", "entailed") the longest counts. Without labels any text is one.
    """
    if not labels:
        return state_text(statement, ())
    bare = plain_text(statement)
    whole = _known(bare, labels)
    if whole is not None:
        return whole
    head = re.split(r"\b(?:because|since)\b", statement, maxsplit=1)[0]
    for part in (head, statement) if head != statement else (statement,):
        named = _named(part, labels)
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def guess_label(text: str, labels: Sequence[str]) -> str | None:
    """The whole text or its last or first line, if that is a label; else that of the last sentence with any.

    A sentence that names several decides nothing.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    for bare in (text, *lines[-1:], *lines[:1]):
        known = _known(plain_text(bare), labels) if len(bare) < 1_000 else None
        if known is not None:
            return known
    if not labels:
        return None
    for sentence in reversed(sentences(text)):
        named = _named(sentence, labels)
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def canonical_label(gold: str, labels: Sequence[str]) -> str:
    """A gold label as it stands in the set.

    Raises:
        ValueError: it is not one of them.
    """
    if not labels:
        return plain_text(gold) or gold.strip()
    known = _known(gold.strip(), labels)
    if known is None:
        raise ValueError("it is none of task.labels (" + ", ".join(labels)[:200] + ")")
    return known


def refuse_ambiguous(labels: Sequence[str]) -> None:
    """Refuse labels that cannot be distinguished in a text.

    Raises:
        ValueError: fewer than two, an empty one, or two that differ in case and punctuation only.
    """
    if len(labels) < 2 or not all(label.strip() for label in labels):
        raise ValueError("labels: name at least two, none of them empty")
    seen: dict[str, str] = {}
    for label in labels:
        other = seen.setdefault(normalised(label), label)
        if other is not label:
            raise ValueError(
                f"labels: {other!r} and {label!r} differ in case or punctuation only, which answers do not; "
                "rename one"
            )


def _known(bare: str, labels: Sequence[str]) -> str | None:
    """The label that a text is: exactly, then normalised."""
    if bare in labels:
        return bare
    plain = normalised(bare)
    return next((label for label in labels if plain and normalised(label) == plain), None)


def _named(text: str, labels: Sequence[str]) -> set[str]:
    """The labels that a text names, without those after "not"."""
    by_text = {normalised(label): label for label in labels}
    found = _any_of(tuple(by_text)).finditer(text)
    return {by_text[normalised(match[0])] for match in found if not _is_negated(text, match.start())}


def _is_negated(text: str, place: int) -> bool:
    return _NEGATED.search(text, max(0, place - 30), place) is not None


_NEGATED = re.compile(
    r"(?:\b(?:not|rather\s+than|instead\s+of)|n['’]t)\s+(?:an?\s+|the\s+)?[\"'“*]*\Z", re.IGNORECASE
)


@lru_cache(maxsize=256)
def _any_of(normal: tuple[str, ...]) -> re.Pattern[str]:
    """Any of these normalised labels, however its words are joined; the longest where they overlap."""
    longest_first = sorted(normal, key=len, reverse=True)
    choices = "|".join(r"[\s_-]+".join(map(re.escape, label.split())) for label in longest_first)
    return re.compile(rf"(?<![^\W_])(?:{choices})(?![^\W_])", re.IGNORECASE)
