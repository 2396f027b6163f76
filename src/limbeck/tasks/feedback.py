"""Feedback on a mistake: how a teacher is asked for it, and what counts as it.

The teacher sees the question, what the student wrote and the right answer. It says what went wrong, and
writes the reasoning put right (tailored learning, arXiv 2310.13332; its prompt was never released, and this
one is ours). Its reply is read strictly: a part that is missing is never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.prompts import wanted_of

PLACES = ("instruction", "question", "options", "mistake", "gold")
"""Places that a template for feedback may have."""

TEMPLATE = (
    "A student answered this question, and the answer is wrong.\n\n"
    "Question:\n{question}\n{options}\n\n"
    "The student wrote:\n{mistake}\n\n"
    "The right answer: {gold}\n\n"
    "{instruction}"
)

SAID, SOLUTION = "Mistake", "Solution"
"""What the two parts of a reply begin with, and a colon."""

_OPENING = f'Reply in two parts. Begin the first with "{SAID}:"'
_WROTE = "\n\nThe student wrote:\n"
_QUESTION, _RIGHT = "Question:\n", "\nThe right answer: "
"""Headings of the template."""

_MARKS = r"(?:[>#*_-]|\d+[.)])"
_HEADING = re.compile(
    rf"^[ \t]*(?:{_MARKS}[ \t]*)*({SAID}|{SOLUTION})[ \t]*(?:[*_ \t]*:[*_ \t]*|(?<=[a-z])[*_ \t]*$)",
    re.MULTILINE | re.IGNORECASE,
)
"""At the beginning of a line, behind marks of lists, quotes and emphasis; with a colon, or alone there."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The two parts of a reply."""

    said: str
    solution: str


@dataclass(frozen=True, slots=True)
class Request:
    """What a prompt for feedback asks about: a question with its options, and what the student wrote."""

    question: str
    mistake: str


def asks_for_feedback(text: str) -> bool:
    """Whether a prompt was made with `TEMPLATE`, or has the usual instruction."""
    return _OPENING in text or _WROTE in text


def request_of(text: str) -> Request | None:
    """What a prompt made with `TEMPLATE` asks about; None: it was made with another one.

    What the student wrote reaches from the first heading in front of it to the last one behind it, so it
    may hold such headings itself, and other questions.

    Example:
        >>> request_of("Question:\\n1 + 2?\\n\\nThe student wrote:\\n4\\n\\nThe right answer: 3\\n\\nSay.")
        Request(question='1 + 2?', mistake='4')
    """
    asked, wrote, rest = text.partition(_WROTE)
    _, heading, question = asked.partition(_QUESTION)
    mistake, right, _ = rest.rpartition(_RIGHT)
    return Request(question, mistake.removesuffix("\n")) if wrote and heading and right else None


def instruction(kind: AnswerKind, labels: Sequence[str] = ()) -> str:
    """What the teacher shall write; `labels` are those of kind label."""
    return (
        f"{_OPENING} and say which step of the student is the first "
        f'that is wrong, and why. Begin the second with "{SOLUTION}:" and write the whole reasoning put '
        "right: keep what is right in the student's, write every step down, and mention no student there. "
        f'Close it with the sentence "The answer is X.", where X is {wanted_of(kind, labels)}.'
    )


def read(text: str) -> Reply | None:
    """The parts of a reply; None unless each is there once, in order, and not empty.

    What a teacher writes in front of the first part is left out.

    Example:
        >>> read("Mistake: 3 + 4 is 7, not 8.\\nSolution: 3 + 4 = 7. The answer is 7.")
        Reply(said='3 + 4 is 7, not 8.', solution='3 + 4 = 7. The answer is 7.')
        >>> read("The answer is 7.") is None
        True
    """
    found = list(_HEADING.finditer(text))
    if [one[1].capitalize() for one in found] != [SAID, SOLUTION]:
        return None
    first, second = found
    said, solution = _bare(text[first.end() : second.start()]), _bare(text[second.end() :])
    return Reply(said, solution) if said and solution else None


def _bare(part: str) -> str:
    """A part without an emphasis that began in front of its heading and ends behind it."""
    part = part.strip()
    for mark in ("**", "__"):
        if part.endswith(mark) and part.count(mark) % 2:
            part = part.removesuffix(mark).rstrip()
    return part


def reply(said: str, solution: str) -> str:
    """A reply of these parts, as `read` reads it."""
    return f"{SAID}: {said}\n{SOLUTION}: {solution}"
