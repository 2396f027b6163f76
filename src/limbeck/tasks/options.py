"""The options of a choice question: reading them out of its text, and listing them.

Published data write them in two ways, both read here: "(A) orange ball, (B) white
ball." (tracking, date) and one per line as "A. bank" (CSQA).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from limbeck.records import Problem

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_IN_BRACKETS = re.compile(r"\(([A-Z])\)\s*")
_AT_LINE_START = re.compile(r"^[^\S\n]*([A-Z])[.):]\s+", re.MULTILINE)


def options_in(question: str) -> tuple[str, ...]:
    """The options written in a question, in the order of their letters; () if there are none.

    They are the last run of labels A, B, C, ... of one style, at least two long.

    >>> options_in("Who has it? Answer choices: (A) Ann, (B) Ben.")
    ('Ann', 'Ben')
    """
    for style in (_IN_BRACKETS, _AT_LINE_START):
        labels = _last_run(list(style.finditer(question)))
        if len(labels) >= 2:
            ends = [label.start() for label in labels[1:]] + [len(question)]
            texts = [question[label.end() : end] for label, end in zip(labels, ends, strict=True)]
            return tuple(text.strip().rstrip(",;.").rstrip() for text in texts)
    return ()


def _last_run(labels: list[re.Match[str]]) -> list[re.Match[str]]:
    """The longest tail of `labels` that spells A, B, C, ... from A."""
    starts = [place for place, label in enumerate(labels) if label[1] == "A"]
    if not starts:
        return []
    run = labels[starts[-1] :]
    return run if [label[1] for label in run] == list(LETTERS[: len(run)]) else []


def options_of(problem: Problem) -> tuple[str, ...]:
    """The problem's own options, or else those written in its question."""
    return problem.options or options_in(problem.question)


def list_options(options: Sequence[str]) -> str:
    """The options as one sentence.

    >>> list_options(["red ball", "blue ball"])
    'Answer choices: (A) red ball, (B) blue ball.'
    """
    listed = ", ".join(f"({letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))
    return f"Answer choices: {listed}."


def without_label(options: Sequence[str]) -> tuple[str, ...]:
    """Options without their letters where every one carries its own: "A)10" -> "10"."""
    labels = [re.match(rf"\s*\(?{LETTERS[n]}[.):]\s*", text) for n, text in enumerate(options)]
    bare = [text[label.end() :] for text, label in zip(options, labels, strict=True) if label]
    return tuple(bare) if len(bare) == len(options) and all(bare) else tuple(options)
