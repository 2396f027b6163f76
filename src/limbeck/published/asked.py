"""Whose question a published text is about: joined by its words to problems of ours, never by a number.

Published mistakes and feedback name their questions only. They are compared as leaks are (`tasks/leaks.py`):
with the exam's, which nobody may learn from, and with the training problems, whose ids they get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from limbeck.errors import DataError, LeakError, RecipeError
from limbeck.published.found import Request, Source
from limbeck.published.reading import File, checksum_of
from limbeck.records import Problem, read_jsonl
from limbeck.tasks.answers import AnswerKind, canonical
from limbeck.tasks.forms import form, question_form
from limbeck.tasks.leaks import find_leaks
from limbeck.tasks.options import options_in, options_of
from limbeck.tasks.plain import plain_key
from limbeck.tasks.rows import shortened

EXAMINED = "asks a question of the exam"
UNKNOWN = "asks no question of train"


@dataclass
class Known:
    """Problems of files that the user named with train= and test=, and where the first were."""

    train: list[Problem] = field(default_factory=list)
    test: list[Problem] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    read: list[Source] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Joined:
    """The problem of each question that has one, and why the others are left out."""

    problems: dict[str, Problem]
    left_out: dict[str, str]


def known_problems(files: Sequence[File], kind: AnswerKind, request: Request) -> Known:
    """Read the files of problems, in our own form, such as `train.jsonl` of an import.

    Raises:
        DataError: a line is not a problem, its answer not of this kind, or its id that of another one.
        RecipeError: what shall be left out needs a file that is not named. DiskError: one cannot be read.
    """
    roles = {file.role for file in files}
    for option, value, role in (("--leaks", request.leaks, "test"), ("--unknown", request.unknown, "train")):
        if value == "drop" and role not in roles:
            raise RecipeError(
                f"{option} drop: needs the questions to compare with; name them with {role}=FILE"
            )
    known = Known()
    ids: dict[str, Problem] = {}
    for file in files:
        checksum = checksum_of(file)
        problems = _problems(file)
        for problem in problems:
            _check(file, problem, kind)
            if ids.setdefault(problem.id, problem) != problem:
                raise DataError(f"{file.path} problem {problem.id}", "another one has this id; rename one")
            if file.role == "train":
                known.places.setdefault(problem.id, f"{file.path} problem {problem.id}")
        (known.train if file.role == "train" else known.test).extend(problems)
        known.files += [str(file.path)] if file.role == "train" else []
        holds = "problems that texts are joined to" if file.role == "train" else "questions of the exam"
        known.read.append(Source(file.name, checksum, len(problems), holds))
    return known


def _problems(file: File) -> list[Problem]:
    try:
        problems = list(read_jsonl(file.path, Problem))
    except DataError as error:
        raise DataError(
            error.place,
            f"{error.message}; give problems in our own form, such as train.jsonl of another import",
        ) from None
    if not problems:
        raise DataError(file.path, "holds no problems; check that it is the right file")
    return problems


def _check(file: File, problem: Problem, kind: AnswerKind) -> None:
    if problem.answer is None:
        return
    try:
        canonical(kind, problem.answer, options_of(problem))
    except ValueError as error:
        raise DataError(
            f"{file.path} problem {problem.id}",
            f"the answer {shortened(problem.answer)} does not suit the kind {kind}: {error}; fix one of them",
        ) from None


def join(asked: Mapping[str, str], known: Known, request: Request, kind: AnswerKind) -> Joined:
    """Find the problem of each question.

    Args:
        asked: each question, with the place where it is first.
        known: without training problems, a question that is not examined has neither problem nor a reason.
        request: what to do with questions of the exam, and with those that are nobody's.
        kind: of the answers; options of kind choice must have the same order, because texts name letters.

    Raises:
        LeakError: a question is one of the exam. DataError: it is none of the training problems', or its
            problem has no gold answer. Unless the request leaves these out.
    """
    questions = list(asked)
    forms = [question_form(question) for question in questions]
    leaking = [questions[leak.learned] for leak in find_leaks(forms, [form(one) for one in known.test])]
    if leaking and request.leaks == "refuse":
        raise LeakError(
            asked[leaking[0]],
            f"{EXAMINED}, {shortened(leaking[0])} (such questions: {len(leaking)}); leave them out with "
            "--leaks drop",
        )
    left_out = dict.fromkeys(leaking, EXAMINED)
    problems: dict[str, Problem] = {}
    for leak in find_leaks(forms, [form(one) for one in known.train]):
        question, problem = questions[leak.learned], known.train[leak.examined]
        if question in left_out or leak.how == "with other options":
            continue
        if kind != "choice" or _same_order(question, problem):
            problems[question] = problem
    unknown = [one for one in questions if one not in problems and one not in left_out]
    if known.train and unknown and request.unknown == "refuse":
        raise DataError(
            asked[unknown[0]],
            f"asks no question of {' or '.join(known.files)}, {shortened(unknown[0])} (such questions: "
            f"{len(unknown)}); name a file that has them with train=FILE, or leave them out with "
            "--unknown drop",
        )
    left_out |= dict.fromkeys(unknown if known.train else (), UNKNOWN)
    if len(left_out) == len(questions):
        raise DataError(asked[questions[0]], "no question is left to learn from; give other files")
    for question, problem in problems.items():
        if problem.answer is None:
            raise DataError(
                asked[question],
                f"asks problem {problem.id}, which has no gold answer to compare with; write it into "
                f"{' or '.join(known.files)}",
            )
    return Joined(problems, left_out)


def _same_order(question: str, problem: Problem) -> bool:
    """Whether the letters mean the same; a question that lists no options has those of the problem."""
    listed = [plain_key(one) for one in options_in(question)]
    return not listed or listed == [plain_key(one) for one in options_of(problem)]
