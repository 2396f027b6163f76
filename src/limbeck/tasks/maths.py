"""Answers of mathematics (kind math): expressions, compared by what they mean, through math-verify.

Golds may be written as `\\frac43`, `90^\\circ`, `\\$32,\\!348`, `10\\%`, `(1, 2]` or `x = 3`.
Needs the extra `math`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from limbeck.tasks.numbers import guess_number
from limbeck.tasks.statements import says_none, sentences
from limbeck.tasks.verifying import ask

LONGEST = 300
"""Characters of an expression; more is not an answer."""

_FORMULA = re.compile(
    r"""\$\$((?:[^$\\]|\\.){1,600}+)\$\$ | (?<!\\)\$((?:[^$\\]|\\.){1,600}+)\$
    | \\\(((?:(?!\\[()]).){1,600}+)\\\) | \\\[((?:(?!\\[\[\]]).){1,600}+)\\\]""",
    re.DOTALL | re.VERBOSE,
)
_WORDS = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}|([A-Za-z][A-Za-z ,.'-]*)")


def plain_math(text: str) -> str:
    """An expression without what encloses it.

    >>> plain_math(r"**$\\boxed{\\frac43}$.**")
    '\\\\frac43'
    """
    previous = None
    text = text.strip()[: 2 * LONGEST]
    while text != previous:
        previous = text
        text = text.strip(" \n*\"'`“”").rstrip(".,;:")
        if (formula := _FORMULA.fullmatch(text)) or (formula := _BOX.fullmatch(text)):
            text = next(part for part in formula.groups() if part is not None)
    return text


_BOX = re.compile(r"\\boxed\s*\{(.*)\}", re.DOTALL)


def state_math(statement: str, options: Sequence[str]) -> str | None:
    """The formula of a statement, if it has one; else the whole of it.

    That there is no solution is an answer; that nobody can know ("cannot be determined") only where it is
    set as an expression, as golds have it.
    """
    formulas = list(_FORMULA.finditer(statement[: 2 * LONGEST]))
    found = plain_math(formulas[0][0] if len(formulas) == 1 else statement)
    if (
        not found
        or len(found) > LONGEST
        or (says_none(found) and not (formulas or _NO_VALUE.fullmatch(found)))
    ):
        return None
    return found


_NO_VALUE = re.compile(
    r"""\\(?:text|textbf|mathrm|mbox)\s*\{[^{}]*\}
    |(?:there\s+(?:is|are)\s+)?no\s+(?:real\s+|integer\s+|such\s+)?(?:solution|answer|root|limit|value|number)s?
    |none|undefined|(?:it\s+)?does\s+not\s+exist|dne|impossible""",
    re.IGNORECASE | re.VERBOSE,
)
"""What an expression without a value is called; any words that are set as text."""


def guess_math(text: str, options: Sequence[str]) -> str | None:
    """The last formula of the last sentence with any, or what follows its last "="; else the last number.

    A text that is nothing but the name of no value is that.
    """
    if len(text) <= LONGEST and _NO_VALUE.fullmatch(bare := plain_math(text)):
        return bare
    for sentence in reversed(sentences(text)[-20:]):
        formulas = list(_FORMULA.finditer(sentence))
        if formulas:
            found = plain_math(plain_math(formulas[-1][0]).rpartition("=")[2])
            return found if found and len(found) <= LONGEST else None
    return guess_number(text, options)


def canonical_math(gold: str, options: Sequence[str]) -> str:
    """A gold expression without what encloses it.

    Raises:
        ValueError: it is not an expression.
        InputError: math-verify is not installed.
    """
    text = plain_math(gold)
    if not text or len(text) > LONGEST or not (_WORDS.fullmatch(text) or _reads(text)):
        raise ValueError("it is not a mathematical expression that math-verify can read")
    return text


def same_math(one: str, other: str) -> bool:
    """Whether `one` means the gold expression `other`: as text, or else as math-verify finds.

    What takes longer than `verifying.SECONDS` is not the same.
    """
    return _words(one) == _words(other) or _verifies(other, one)


def _words(text: str) -> str:
    """Without spaces and what marks text, in lower case: "\\text{ Ann }" is "ann"."""
    return re.sub(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}|\s+", r"\1", text).casefold()


@lru_cache(maxsize=65_536)
def _reads(text: str) -> bool:
    return ask({"read": text})


@lru_cache(maxsize=65_536)
def _verifies(gold: str, answer: str) -> bool:
    return ask({"gold": gold, "answer": answer})
