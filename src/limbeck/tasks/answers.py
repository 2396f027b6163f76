"""Answers: one extractor and one comparison per kind, the same for teachers and students.

An explicit marker decides first (`statements.py` lists them): of the *last* statement
that holds a candidate, the *first* candidate counts. A text without one is read by
the kind's documented fallback (`guess_*` in `numbers.py` and `candidates.py`), and
`how` says so. Where nothing is found, extraction failed: that is a wrong answer,
counted and never left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from limbeck.records import Problem
from limbeck.tasks import candidates, numbers
from limbeck.tasks.options import options_of
from limbeck.tasks.statements import CHATTER, read_plainly, statements, unfinished

AnswerKind = Literal["number", "choice", "yes-no", "text"]
How = Literal["marker", "fallback"]


@dataclass(frozen=True, slots=True)
class Extracted:
    """An answer in canonical form and what it was found by; both None: extraction failed."""

    answer: str | None
    how: How | None


@dataclass(frozen=True, slots=True)
class Grade:
    """What a text answers to a problem, and whether that is the gold answer."""

    answer: str | None
    correct: bool
    how: How | None


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind reads a statement, guesses from a whole text, checks gold, compares canonical forms."""

    state: Callable[[str, Sequence[str]], str | None]
    guess: Callable[[str, Sequence[str]], str | None]
    canonical: Callable[[str, Sequence[str]], str]
    same: Callable[[str, str], bool] = lambda one, other: one.casefold() == other.casefold()
    whole_lines: bool = False
    negatable: bool = True


KINDS: dict[AnswerKind, _Kind] = {
    "number": _Kind(
        numbers.state_number,
        numbers.guess_number,
        numbers.canonical_number,
        numbers.same_number,
        negatable=False,
    ),
    "choice": _Kind(
        candidates.state_choice, candidates.guess_choice, candidates.canonical_choice, negatable=False
    ),
    "yes-no": _Kind(candidates.state_yes_no, candidates.guess_yes_no, candidates.canonical_yes_no),
    "text": _Kind(candidates.state_text, candidates.guess_text, candidates.canonical_text, whole_lines=True),
}


def extract(kind: AnswerKind, text: str, options: Sequence[str] = ()) -> Extracted:
    """The answer of a text, in the kind's canonical form.

    Args:
        kind: the task's answer kind.
        text: a completion of a teacher or a student.
        options: of a choice problem; their texts then stand for their letters.
    """
    text = read_plainly(text)
    parts = KINDS[kind]
    for statement in statements(text, whole_lines=parts.whole_lines, negatable=parts.negatable):
        answer = parts.state(statement.text, options)
        if answer is not None:
            return Extracted(answer, "marker")
    guess = parts.guess(text, options)
    return Extracted(guess, None if guess is None else "fallback")


def split_answer(kind: AnswerKind, text: str, options: Sequence[str] = ()) -> tuple[str, str | None]:
    """The reasoning without its answer statement(s), and the extracted answer.

    Marked statements that end the text are cut off, with thanks and farewells after
    them; one before further reasoning ("The answer is 5. First 2 + 3 = 5.") is cut
    out if it states the extracted answer. What follows "because" or "since" in a
    statement stays, as a sentence of its own. Another answer elsewhere,
    or one found by the fallback, is part of the reasoning.
    """
    plain, parts = read_plainly(text), KINDS[kind]
    answer = extract(kind, text, options).answer
    end = whole = len(plain.rstrip())
    kept: list[str] = []
    for statement in statements(plain, whole_lines=parts.whole_lines, negatable=parts.negatable):
        stated = parts.state(statement.text, options)
        if stated is None:
            continue
        stop = statement.end
        if kind == "text":
            stop = min(stop, statement.end - len(statement.text) + candidates.text_end(statement.text))
        after = plain[stop:end].lstrip(" \n$}.*)\"'”")
        closes = not after or re.match(CHATTER, after) is not None
        opening = unfinished(plain, statement.start)
        says_nothing = len(opening.split()) <= 3 and not re.search("[0-9=]", opening)
        first = not plain[: statement.start - (len(opening) if says_nothing else 0)].strip()
        if (
            not closes
            and (
                answer is None
                or not same(kind, stated, answer)
                or (end < whole and not first)  # answers a question on the way; another one closes
                or after[0].islower()  # a sentence that goes on in the next line
                or len(plain[statement.start : stop].split()) > _SHORT
                or (opening.strip() and not says_nothing)  # "If it rains, the answer is no."
            )
        ):
            continue
        reason = _REASON.search(plain, statement.start, stop)
        if not closes:
            kept.append(_tidy(text[end - len(after) : end].strip()))
        if reason:
            because = reason[0].strip(" ,;:()*.\n")
            kept.append(because[0].upper() + because[1:] + ".")
        end = statement.start - (len(opening) if says_nothing else 0)
    reasoning = text[:end].strip()
    if end == whole:
        return reasoning, answer
    pieces = [piece for piece in (_tidy(reasoning), *reversed(kept)) if piece]
    return ("\n" if "\n" in plain else " ").join(pieces), answer


_SHORT = 8
"""A statement of more words (its marker's among them), with text after it, is reasoning too."""
_REASON = re.compile(r"\b(?:because|since)\s+\S+\s+\S.*", re.IGNORECASE | re.DOTALL)


def _tidy(reasoning: str) -> str:
    """Strip what a cut leaves hanging: the number of an empty list item, a comma."""
    *lines, last = reasoning.split("\n")
    if re.fullmatch(r"(?:[Ss]tep\s+)?[0-9]+[.):]+|", last.strip(" *#>-")):
        reasoning = "\n".join(lines)
    reasoning = reasoning.rstrip(" ,;-*\n")
    return reasoning + "." if reasoning[-1:].isalnum() else reasoning


def canonical(kind: AnswerKind, gold: str, options: Sequence[str] = ()) -> str:
    """A gold answer in the form in which it is stored and compared.

    Args:
        kind: the task's answer kind.
        gold: "25.0", "A. ignore", "True", ...; of a worked solution that ends in
            "#### 18", as GSM8K has them, what follows the marker.
        options: of a choice problem.

    Raises:
        ValueError: the kind cannot parse it; the text says why.
    """
    return KINDS[kind].canonical(read_plainly(gold).rpartition("####")[2], options)


def same(kind: AnswerKind, one: str, other: str) -> bool:
    """Whether two answers are the same one; forms may differ ("25.0" and "25", "True" and "yes").

    Numbers: whole ones exactly, others within one millionth. Texts: without regard
    to case, outer quotes and final punctuation. What is not an answer of the kind is
    the same as nothing.
    """
    try:
        return KINDS[kind].same(canonical(kind, one), canonical(kind, other))
    except ValueError:
        return False


def grade(problem: Problem, kind: AnswerKind, text: str) -> Grade:
    """Extract the answer of a completion and compare it with the problem's gold answer.

    The one way to grade: teachers, students and files of rationales go through it,
    and so the options that are written in a question always count.
    """
    found = extract(kind, text, options_of(problem))
    gold = problem.answer
    correct = found.answer is not None and gold is not None and same(kind, found.answer, gold)
    return Grade(found.answer, correct, found.how)
