"""Published mistakes, and what teachers say to them: our own reader decides what is one.

Whether a text was cut off at a token limit nobody can tell from it: published code cuts a text behind the
number that it takes for the answer, so that right and wrong ones end without a mark of punctuation. So the
kind "cut-off" is not given here; one that was cut off before its answer has none.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.records import Feedback, LeftOut, Mistake, Problem
from limbeck.tasks.answers import AnswerKind, grade, same

RIGHT = "its answer is right, so it is not a mistake"
RIGHT_BY_GUESS = "its answer, a guess, is right, so it is not a mistake"


@dataclass(frozen=True, slots=True)
class Said:
    """What a teacher says to a mistake; `solution` is its rationale, "" where there is none."""

    source: str
    said: str
    solution: str
    origin: str


@dataclass(frozen=True, slots=True)
class GivenMistake:
    """A text that its authors call a mistake, as they published it.

    `stated` is the answer that they read in it; "" where they read none, None where they do not say. `times`
    is how often it is there for this question.
    """

    problem: Problem
    source: str
    text: str
    origin: str
    stated: str | None = None
    said: tuple[Said, ...] = ()
    times: int = 1


@dataclass(frozen=True, slots=True)
class Judged:
    """What is a mistake, what is said to those, what is none; counts of both for `import.json`."""

    mistakes: list[Mistake]
    feedback: list[Feedback]
    left_out: list[LeftOut]
    counts: dict[str, Any]
    said: dict[str, dict[str, int]]


def judge(kind: AnswerKind, given: Sequence[GivenMistake]) -> Judged:
    """Read the answer of each text; one that is right is left out, with what is said to it.

    Args:
        kind: of the answers.
        given: each text of a question once.
    """
    mistakes: list[Mistake] = []
    feedback: list[Feedback] = []
    left_out: list[LeftOut] = []
    guessed, theirs = 0, Counter[str]()
    teachers: dict[str, dict[str, int]] = {}
    for one in given:
        found = grade(one.problem, kind, one.text)
        if one.stated is not None:
            theirs[_against(kind, one.stated, found.answer)] += 1
        if found.correct:
            why = RIGHT if found.how == "marker" else RIGHT_BY_GUESS
            left_out.append(LeftOut(split="mistakes", place=one.origin, why=why))
            continue
        guessed += found.how == "fallback"
        mistakes.append(_record(one, found.answer))
        for said in one.said:
            feedback.append(_feedback(mistakes[-1], said))
            own = teachers.setdefault(said.source, {"texts": 0, "with a solution": 0, "a right one": 0})
            own["texts"] += 1
            own["with a solution"] += bool(said.solution)
            own["a right one"] += grade(one.problem, kind, said.solution).correct
    wrong = sum(one.kind == "wrong" for one in mistakes)
    counts: dict[str, Any] = {
        "texts": len(given),
        "questions": len({one.problem.id for one in given}),
        "mistakes": len(mistakes),
        "wrong": wrong,
        "wrong, the answer guessed": guessed,
        "no answer found": len(mistakes) - wrong,
        "empty": sum(not one.completion.strip() for one in mistakes),
        "right, so no mistakes": len(left_out),
        "duplicates": sum(one.times - 1 for one in given),
    }
    if theirs:
        counts |= {"what their authors read": dict(theirs.most_common())}
    return Judged(mistakes, feedback, left_out, counts, teachers)


def _record(given: GivenMistake, answer: str | None) -> Mistake:
    """The record; its id follows from problem, student and text, so that every import gives the same one."""
    key = "\0".join((given.problem.id, given.source, given.text))
    return Mistake(
        id="m-" + hashlib.sha256(key.encode()).hexdigest()[:16],
        problem_id=given.problem.id,
        source=given.source,
        completion=given.text,
        answer=answer,
        kind="no-answer" if answer is None else "wrong",
        origin=given.origin,
    )


def _feedback(mistake: Mistake, said: Said) -> Feedback:
    return Feedback(
        mistake_id=mistake.id,
        problem_id=mistake.problem_id,
        source=said.source,
        said=said.said,
        solution=said.solution,
        origin=said.origin,
    )


def _against(kind: AnswerKind, stated: str, answer: str | None) -> str:
    """What the authors read, compared with what we do."""
    if not stated:
        return "no answer, nor do we" if answer is None else "no answer, but we read one"
    if answer is None:
        return "an answer, but we read none"
    return "the same answer" if same(kind, answer, stated) else "another answer"
