"""Answers: one reader and one comparison per kind, the same for teachers and students.

A text is read in this order:

1. What it goes on to after its answer ("Q: …", see `run_on.py`) is cut off.
2. Its last answer statement decides (`statements.py` lists the markers). Where a kind reads no answer in
   it, there is none: no earlier sentence and no guess takes its place. Only for numbers the fallback is
   tried behind a statement without one, unless it says that there is none ("unknown").
3. A text without a statement is read by the kind's documented fallback (`guess_*`), and `how` says so.

Where nothing is found, extraction failed: that is a wrong answer, counted and never left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from limbeck.records import Problem
from limbeck.tasks import candidates, labels, maths, numbers, texts
from limbeck.tasks.formulas import closed
from limbeck.tasks.options import options_of
from limbeck.tasks.run_on import run_on, spoken
from limbeck.tasks.statements import (
    CHATTER,
    Statement,
    read_plainly,
    says_none,
    sentences_after,
    statements,
    unfinished,
)

AnswerKind = Literal["number", "choice", "yes-no", "text", "label", "math"]
How = Literal["marker", "fallback"]


@dataclass(frozen=True, slots=True)
class Extracted:
    """An answer in canonical form and what it was found by.

    Both None: nothing was found. `how` "marker" without an answer: the text states something that is no
    answer of its kind, such as "none of the above".
    """

    answer: str | None
    how: How | None


@dataclass(frozen=True, slots=True)
class Reading:
    """All that is read in a text: reasoning and answer, and how many characters were cut off its end."""

    reasoning: str
    answer: str | None
    how: How | None
    cut: int


@dataclass(frozen=True, slots=True)
class Grade:
    """What a text answers to a problem, and whether that is the gold answer."""

    answer: str | None
    correct: bool
    how: How | None
    reasoning: str
    cut: int


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
    "text": _Kind(texts.state_text, texts.guess_text, texts.canonical_text, whole_lines=True),
    "label": _Kind(labels.state_label, labels.guess_label, labels.canonical_label, negatable=False),
    "math": _Kind(maths.state_math, maths.guess_math, maths.canonical_math, maths.same_math, negatable=False),
}

GUESSED_FROM = 50_000
"""Characters at the end of a text that its fallback reads."""


def extract(kind: AnswerKind, text: str, options: Sequence[str] = ()) -> Extracted:
    """The answer of a text, in the kind's canonical form.

    Args:
        kind: the task's answer kind.
        text: a completion of a teacher or a student.
        options: of a choice problem, whose texts then stand for their letters; or the labels of kind label.
    """
    plain = _spoken(text)
    return _answer(kind, plain[: _end(kind, plain, options)], options)


def read(kind: AnswerKind, text: str, options: Sequence[str] = ()) -> Reading:
    """The reasoning without its answer statement(s), the answer, and what was cut off.

    Marked statements that end the text are left out of the reasoning, with thanks and farewells after
    them; one before further reasoning ("The answer is 5. First 2 + 3 = 5.") is left
    out if it states the extracted answer. What follows "because" or "since" in a
    statement stays, as a sentence of its own. Another answer elsewhere,
    or one found by the fallback, is part of the reasoning, unless it is all that there is.
    """
    plain = _spoken(text)
    end = _end(kind, plain, options)
    found = _answer(kind, plain[:end], options)
    reasoning = _reasoning(kind, text[:end], plain[:end], options, found.answer)
    if found.answer is not None and _is_answer_alone(kind, reasoning, found.answer, options):
        reasoning = ""
    return Reading(reasoning, found.answer, found.how, len(plain) - end)


def _is_answer_alone(kind: AnswerKind, reasoning: str, answer: str, options: Sequence[str]) -> bool:
    """Whether nothing but the answer is left, as of a teacher that answers "7" behind its thinking.

    Of the kind text any words may be an answer, so there nobody can say.
    """
    bare = reasoning.strip(" .*\n")
    if kind == "text" or not bare or len(bare) > _LONGEST_BARE:
        return False
    if kind == "math":  # reads an answer out of a sentence too
        return bare.strip("$") == answer
    try:
        return KINDS[kind].same(KINDS[kind].canonical(bare, options), answer)
    except ValueError:
        return False


def split_answer(kind: AnswerKind, text: str, options: Sequence[str] = ()) -> tuple[str, str | None]:
    """The reasoning without its answer statement(s), and the extracted answer; see `read`."""
    found = read(kind, text, options)
    return found.reasoning, found.answer


def _answer(kind: AnswerKind, plain: str, options: Sequence[str]) -> Extracted:
    """What the last statement states, or else the fallback finds."""
    last = next(_stated(kind, plain, options), None)
    denied = last is not None and kind == "number" and says_none(" ".join(last[0].text.split()[:2]))
    if last is not None and last[1] is not None and not denied:
        return Extracted(last[1], "marker")
    final = last is not None and sentences_after(plain, last[0]) <= _FOLLOWED_BY
    if last is not None and final and (kind != "number" or _states_none(last[0], plain)):
        return Extracted(None, "marker")
    guess = KINDS[kind].guess(plain[-GUESSED_FROM:], options)
    return Extracted(guess, "fallback" if guess is not None else "marker" if final else None)


def _states_none(statement: Statement, plain: str) -> bool:
    """Does a statement say that there is no number, or name two, or the text end without the one?"""
    if says_none(statement.text) or numbers.states_no_number(statement.text):
        return True
    return numbers.is_open_calculation(statement.text) and not re.search("[0-9]", plain[statement.end :])


_FOLLOWED_BY = 3
"""Sentences that may follow a statement without an answer: with more, it is not where the text ends up."""


def _stated(kind: AnswerKind, plain: str, options: Sequence[str]) -> Iterator[tuple[Statement, str | None]]:
    """The statements of a text, the last one first, with the answer that the kind reads in each.

    A title ("Answer:" and then the whole solution) is a statement only if the answer follows it at once.
    """
    parts = KINDS[kind]
    words = frozenset(option.split(maxsplit=1)[0].casefold() for option in options if option.strip())
    denials = tuple(one for one in map(labels.normalised, options) if one.startswith("not "))
    for statement in statements(
        plain,
        whole_lines=parts.whole_lines,
        negatable=parts.negatable,
        names_options=kind == "choice",
        words=words,
        denies=lambda text: bool(denials) and labels.normalised(text[:500]).startswith(denials),
    ):
        answer = parts.state(statement.text, options)
        if answer is None and (statement.titles or not statement.sure):
            continue
        if statement.titles and len(statement.text.split()) > 3:
            first = " ".join(statement.text.split(maxsplit=2)[:2])
            if parts.state(first, options) is None:
                continue
        yield statement, answer


def _spoken(text: str) -> str:
    """A text read plainly, without the special tokens that close it."""
    plain = read_plainly(text)
    return plain[: spoken(plain)]


def _end(kind: AnswerKind, plain: str, options: Sequence[str]) -> int:
    """Where the text ends, without what it goes on to after its answer."""

    def answered(piece: str) -> bool:
        line = piece.strip()
        if len(line) <= 80 and "\n" not in line and len(line.split()) <= 3 and not line.startswith("Step"):
            return _is_bare_answer(kind, line, options)
        return next(_stated(kind, piece, options), None) is not None

    return run_on(plain, answered)


def _is_bare_answer(kind: AnswerKind, line: str, options: Sequence[str]) -> bool:
    """Whether a line before a question answers: it is, or begins with, what can be read in it ("5 apples").

    "Okay.", "Solution 1" and "Sarah has 5." only lead up to a question that is said again.
    """
    guess = KINDS[kind].guess(line, options)
    if guess is None or line.endswith("?") or _LEADS_UP.match(line):
        return False
    if kind == "text" or _is_answer_alone(kind, line, guess, options):
        return True
    first = KINDS[kind].state(line.split(maxsplit=1)[0], options)
    return first is not None and KINDS[kind].same(first, guess)


_LEADS_UP = re.compile(
    r"(?:Okay|OK|Sure|Certainly|Absolutely|Alright|Great|Hello|Hi|Of\s+course)\b\W*\Z", re.IGNORECASE
)


def _reasoning(kind: AnswerKind, text: str, plain: str, options: Sequence[str], answer: str | None) -> str:
    """The text without the statements of its answer."""
    end = whole = len(plain.rstrip())
    closer = ""
    kept: list[str] = []
    for statement, stated in _stated(kind, plain, options):
        if stated is None:
            continue
        stop = statement.end
        if kind == "text":
            own = statement.begin + texts.text_end(statement.text)
            stop = stop if _REASON.match(plain, own + 1, stop) else min(stop, own)
        after = plain[stop:end].lstrip(" \n$}.*)\"'”")
        closes = not after or re.match(CHATTER, after) is not None
        opening = unfinished(plain, statement.start)
        says_nothing = len(opening.split()) <= 3 and not re.search("[0-9=]", opening)
        first = not plain[: statement.start - (len(opening) if says_nothing else 0)].strip()
        if (
            not closes
            and (
                answer is None
                or not statement.sure  # one line of a list: "(B) 5 is the correct answer"
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
            kept.append(_tidy(text[end - len(after) : end].strip(), closer))
        if reason:
            because = reason[0].strip(" ,;:()*.\n")
            kept.append(because[0].upper() + because[1:] + ".")
        end = statement.start - (len(opening) if says_nothing else 0)
        closer = "" if says_nothing else statement.closer
    reasoning = text[:end].strip()
    if end == whole:
        return reasoning
    pieces = [piece for piece in (_tidy(reasoning, closer), *reversed(kept)) if piece]
    return ("\n" if "\n" in plain else " ").join(pieces)


_LONGEST_BARE = 60
"""Characters of a text that may be an answer alone; a longer one argues."""
_SHORT = 8
"""A statement of more words (its marker's among them), with text after it, is reasoning too."""
_REASON = re.compile(r"\b(?:because|since)\s++\S++\s++\S.*", re.IGNORECASE | re.DOTALL)


def _tidy(reasoning: str, closer: str) -> str:
    """Strip what a cut leaves hanging: the number of an empty list item, a comma; close its formula."""
    if closer:
        return closed(reasoning, closer)
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
        options: of a choice problem, or the labels of kind label.

    Raises:
        ValueError: the kind cannot parse it; the text says why.
        InputError: kind math without the package that it needs.
    """
    return KINDS[kind].canonical(read_plainly(gold).rpartition("####")[2], options)


def same(kind: AnswerKind, one: str, other: str) -> bool:
    """Whether two answers are the same one; forms may differ ("25.0" and "25", "True" and "yes").

    Numbers: whole ones exactly, others within one millionth. Texts and labels: without regard
    to case, outer quotes and final punctuation. Of kind math, `other` is the gold answer. What
    is not an answer of the kind is the same as nothing.
    """
    try:
        return KINDS[kind].same(canonical(kind, one), canonical(kind, other))
    except ValueError:
        return False


def grade(problem: Problem, kind: AnswerKind, text: str) -> Grade:
    """Read a completion and compare its answer with the problem's gold answer.

    The one way to grade: teachers, students and files of rationales go through it,
    and so the options that are written in a question, and a task's labels, always count.
    """
    found = read(kind, text, problem.labels or options_of(problem))
    gold = problem.answer
    correct = found.answer is not None and gold is not None and same(kind, found.answer, gold)
    return Grade(found.answer, correct, found.how, found.reasoning, found.cut)
