"""What can be an answer of the kind text: whatever is stated, and the bare end of what is not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from limbeck.tasks.statements import CHATTER

_QUOTES = "\"'“”‘’`*"


def plain_text(text: str) -> str:
    """One line without outer quotes and final punctuation.

    >>> plain_text(' "nk". ')
    'nk'
    """
    text = " ".join(text.split())
    return text.lstrip(_QUOTES + " ").rstrip(_QUOTES + " .,;:!?")


_AFTER_ONE_WORD = re.compile(r"[\s*:]*(?!(?:[A-Z][a-z]{0,2}|[A-Z.]+)\.)\S+[.!](?=\s+[A-Z])")


_REASON = re.compile(rf"(?<=\S),?\s+because\b|(?<=[.!])\s+(?={CHATTER})", re.IGNORECASE)


def text_end(statement: str) -> int:
    """Where a stated text ends: with its line, but before a reason, chatter or what follows a single word.

    "St. Louis" is one text: a short word with a capital is an abbreviation.
    """
    one_word = _AFTER_ONE_WORD.match(statement)
    if one_word:
        return one_word.end()
    more = _REASON.search(statement)
    return more.start() if more else len(statement)


def state_text(statement: str, options: Sequence[str]) -> str | None:
    """The whole statement (see `text_end`); if it opens with a quotation, that alone.

    '"Ann" and "Ben"' is not a quotation followed by chatter, so it stays whole.
    """
    statement = statement[: text_end(statement)]
    opening = re.match(r"[\s*:]*[\"“]([^\"“”]+)[\"”](?!\s*(?:and|or|&|,|/)\s)", statement)
    return plain_text(opening[1] if opening else statement) or None


_OPENS_A_SENTENCE = re.compile(
    r"(?:I|We|You|It|There|They|He|She|This|That|These|Those|Let|To|In|First|Since|Because|So|Then|Therefore"
    r"|Sorry|Step|As|If|When|What|Please|Unfortunately)\b"
)


def guess_text(text: str, options: Sequence[str]) -> str | None:
    """What the last line ends in: after its last ":", "=", "is", "gets" or "gives", or its last quotation.

    A line of one word is the answer itself, and so is a text of one line that is not a sentence: direct
    answers have several words too.
    """
    lines = [line for line in text.split("\n") if plain_text(line)]
    if not lines:
        return None
    *before, tail = re.split(r"[:=]\s|\b(?:is|are|gets?|gives?(?:\s+us)?)\b", lines[-1])
    quotations = re.findall(r"[\"“]([^\"“”]+)[\"”]", tail)
    if before and plain_text(tail):
        return plain_text(quotations[0] if quotations else tail)
    if quotations:
        return plain_text(quotations[-1]) or None
    words = len(lines[-1].split())
    bare = len(lines) == 1 and words <= 40 and not _OPENS_A_SENTENCE.match(text.lstrip())
    inside = re.search(r"[.!?]\s+\S", lines[-1].strip())
    return plain_text(lines[-1]) if words == 1 or (bare and not inside) else None


def canonical_text(gold: str, options: Sequence[str]) -> str:
    """A gold text without outer quotes and final punctuation, on one line."""
    text = plain_text(gold)
    if not text:
        raise ValueError("it is empty")
    return text
