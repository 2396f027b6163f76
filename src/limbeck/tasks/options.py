"""The options of a choice question: reading them out of its text, and listing them.

Published data write them in four ways, all read here: "(A) orange ball, (B) white
ball." (tracking, date), one per line as "A. bank" (CSQA) or "(a) bank", and one per
line as "- Yes" under the word Options (BIG-Bench Hard).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from limbeck.records import Problem

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_IN_BRACKETS = re.compile(r"\(([A-Z])\)\s*")
_AT_LINE_START = re.compile(r"^[^\S\n]*([A-Z])[.):]\s+", re.MULTILINE)
_SMALL_AT_LINE_START = re.compile(r"^[^\S\n]*\(?([a-z])[.):]\s+", re.MULTILINE)
_BULLETS = re.compile(
    r"\b(?:options|choices|answers)[^\S\n]*:[^\S\n]*\n"
    r"(?P<lines>(?:[^\S\n]*[-*•][^\S\n]+\S[^\n]*(?:\n|\Z)){2,26})",
    re.IGNORECASE,
)


class Listing(NamedTuple):
    """Options that a text lists: from where to where, what they say, whether letters stand before them."""

    start: int
    end: int
    texts: tuple[str, ...]
    lettered: bool


def listing(question: str) -> Listing | None:
    """Where a question lists its options; None where it lists none.

    They are the last run of labels A, B, C, ... of one style, at least two long ("P(A) =
    0.2 and P(B) = 0.8" before it is none), or the lines with a dash under "Options:".
    Where every option but the last ends with its line, so does the last.
    """
    styles = (_IN_BRACKETS, _AT_LINE_START, _SMALL_AT_LINE_START)
    lists = [found for style in styles if (found := labelled(question, style))]
    if lists:
        return max(lists, key=lambda found: found.start)
    bullets = list(_BULLETS.finditer(question))
    if not bullets:
        return None
    lines = bullets[-1]["lines"].strip().split("\n")
    texts = tuple(line.strip().lstrip("-*•").strip().rstrip(",;.").rstrip() for line in lines)
    return Listing(bullets[-1].start("lines"), bullets[-1].end("lines"), texts, lettered=False)


def labelled(question: str, style: re.Pattern[str]) -> Listing | None:
    """The last run of labels that this pattern finds, its first group being the letter."""
    labels = _last_run(list(style.finditer(question)))
    if len(labels) < 2:
        return None
    ends = [label.start() for label in labels[1:]]
    last = question.find("\n", labels[-1].end())
    lines = all(question[:end].endswith("\n") for end in ends)
    one_line = lines and not any(
        "\n" in question[label.end() : end].strip() for label, end in zip(labels[:-1], ends, strict=True)
    )
    ends.append(last if one_line and last >= 0 else len(question))
    texts = [question[label.end() : end] for label, end in zip(labels, ends, strict=True)]
    return Listing(
        labels[0].start(),
        ends[-1],
        tuple(text.strip().rstrip(",;.").rstrip() for text in texts),
        lettered=True,
    )


def options_in(question: str) -> tuple[str, ...]:
    """The options written in a question, in the order of their letters; () if there are none.

    >>> options_in("Who has it? Answer choices: (A) Ann, (B) Ben.")
    ('Ann', 'Ben')
    """
    found = listing(question)
    return found.texts if found else ()


def lists_letters(question: str) -> bool:
    """Whether a question lists its options with their letters, so that they need not be listed again."""
    found = listing(question)
    return found is not None and found.lettered


def _last_run(labels: list[re.Match[str]]) -> list[re.Match[str]]:
    """The longest tail of `labels` that spells A, B, C, ... from A."""
    starts = [place for place, label in enumerate(labels) if label[1] in "Aa"]
    if not starts:
        return []
    run = labels[starts[-1] :]
    letters = LETTERS if run[0][1] == "A" else LETTERS.lower()
    return run if [label[1] for label in run] == list(letters[: len(run)]) else []


def options_of(problem: Problem) -> tuple[str, ...]:
    """The problem's own options, or else those written in its question."""
    return problem.options or options_in(problem.question)


LEAD = "Answer choices:"
"""What stands before options that are listed here."""


def list_options(options: Sequence[str]) -> str:
    """The options as one sentence.

    >>> list_options(["red ball", "blue ball"])
    'Answer choices: (A) red ball, (B) blue ball.'
    """
    listed = ", ".join(f"({letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))
    return f"{LEAD} {listed}."


def without_label(options: Sequence[str]) -> tuple[str, ...]:
    """Options without their letters where every one carries its own: "A)10" -> "10"."""
    labels = [re.match(rf"\s*\(?{LETTERS[n]}[.):]\s*", text) for n, text in enumerate(options)]
    bare = [text[label.end() :] for text, label in zip(options, labels, strict=True) if label]
    return tuple(bare) if len(bare) == len(options) and all(bare) else tuple(options)
