"""The files of tailored learning (arXiv 2310.13332; repository Raibows/Learn-to-Reason, `localdataset/TASK`).

    TASK.train.round1.json                {question: [rationale, ...]}       the teacher's
    TASK.student.train.round0.neg4.json   {question: [wrong answer, ...]}    the student's exam
    student_wrong.json                    the same, as `infer_student_wrong.py` writes it

They hold no gold answers, so the problems come from train=FILE, in our own form, by the question's words.
Which of the two a file holds its name says, or the user: rationales=FILE, mistakes=FILE.

A student's text is taken as it is in the file, with its own ending. That is not all that it wrote. The
published code kept the first paragraph, and cut it behind the number that it took for the answer (of
StrategyQA it cut nothing; of CommonsenseQA it kept the first line, up to its first letter in brackets). It
wrote the gold answer behind rationales and mistakes where it trained on them (but for CommonsenseQA with
demonstrations), not into the files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from limbeck.errors import DataError, RecipeError
from limbeck.published.asked import Joined, join, known_problems
from limbeck.published.found import TEACHER, Found, Given, Request, Source
from limbeck.published.mentor_kd import TASKS as MENTOR_KD_TASKS
from limbeck.published.mistakes import GivenMistake
from limbeck.published.reading import File, Reading, checksum_of, files_of, kind_of, no_folders
from limbeck.records import LeftOut
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.readers import read_object
from limbeck.tasks.rows import shortened

TASKS: dict[str, AnswerKind] = {"cqa": "choice", "multiarith": "number", "sqa": "yes-no", **MENTOR_KD_TASKS}

_NAMES = (
    (re.compile(r".*\.neg[0-9]*\.json|.*student_wrong\.json"), "mistakes"),
    (re.compile(r".*\.train\.round[0-9]+\.json"), "rationales"),
)


@dataclass(frozen=True, slots=True)
class _Texts:
    """The texts of a question, and where they are."""

    place: str
    origin: str
    question: str
    texts: list[str]


@dataclass(frozen=True, slots=True)
class _Held:
    """What a file holds: "rationales" or "mistakes", by question."""

    holds: str
    texts: list[_Texts]
    source: Source


def read(paths: Sequence[str], request: Request) -> Found:
    """Read files of rationales and of mistakes, and the problems that they are about.

    Args:
        paths: files, with or without "rationales=" or "mistakes=" before them; of problems in our own form
            train=FILE, which is needed, and test=FILE.
        request: which set, the kind of its answers, what teacher and student are called, what to leave out.

    Raises:
        DataError: a file has another shape, or asks a question that is not a problem's.
        LeakError: a question is one of test=FILE; neither where the request leaves these out.
        RecipeError: task, kind or train=FILE is missing; DiskError: a file cannot be read.
    """
    files, _ = files_of(paths, "train|test|rationales|mistakes", no_folders)
    if request.gold != "refuse":
        raise RecipeError(f"--gold {request.gold}: these files hold no gold answers; remove it")
    kind = kind_of(request, TASKS)
    named = [file for file in files if file.role in ("train", "test")]
    if not any(file.role == "train" for file in named):
        raise RecipeError(
            "PATH: these files hold no gold answers; name the problems that they are about with train=FILE, "
            "such as train.jsonl of another import"
        )
    known = known_problems(named, kind, request)
    held = [_held(file) for file in files if file not in named]
    if not held:
        raise RecipeError("PATH: there are only problems; name a file of rationales or mistakes too")
    asked: dict[str, str] = {}
    for one in (texts for file in held for texts in file.texts):
        asked.setdefault(one.question, one.place)
    joined = join(asked, known, request, kind)
    reading = Reading(kind, request)
    reading.splits["train"] |= {problem.id: problem for problem in known.train}
    reading.splits["test"] |= {problem.id: problem for problem in known.test}
    if rationales := _rationales(held, joined, request.teachers_name):
        reading.given[TEACHER] = rationales
    found = reading.found([*known.read, *(file.source for file in held)], [])
    return found.with_mistakes(_mistakes(held, joined, request.student or "student"), _left_out(held, joined))


def _rationales(held: Sequence[_Held], joined: Joined, teacher: str) -> list[Given]:
    return [
        Given(problem, teacher, text, "", text, None, one.origin)
        for file in held
        if file.holds == "rationales"
        for one in file.texts
        if (problem := joined.problems.get(one.question)) is not None
        for text in one.texts
    ]


def _mistakes(held: Sequence[_Held], joined: Joined, student: str) -> list[GivenMistake]:
    """Each text of a problem once, exactly as it is in the file, and how often it is there."""
    found: dict[tuple[str, str], GivenMistake] = {}
    for one in (texts for file in held if file.holds == "mistakes" for texts in file.texts):
        if (problem := joined.problems.get(one.question)) is None:
            continue
        for text in one.texts:
            earlier = found.get((problem.id, text))
            times = earlier.times + 1 if earlier else 1
            first = earlier or GivenMistake(problem, student, text, one.origin)
            found[problem.id, text] = replace(first, times=times)
    return list(found.values())


def _left_out(held: Sequence[_Held], joined: Joined) -> list[LeftOut]:
    return [
        LeftOut(split=file.holds, place=one.origin, why=joined.left_out[one.question])
        for file in held
        for one in file.texts
        if one.question in joined.left_out
        for _ in one.texts
    ]


def _holds(file: File) -> str:
    """Rationales or mistakes: as the user says, else by the name."""
    role = file.role or next((role for name, role in _NAMES if name.fullmatch(file.path.name)), "")
    if not role:
        raise DataError(
            file.path,
            f"does it hold rationales or mistakes?; write rationales={file.path} or mistakes={file.path}",
        )
    return role


def _held(file: File) -> _Held:
    """The questions of a file, each with its texts."""
    holds, checksum = _holds(file), checksum_of(file)
    found = []
    for number, (question, texts) in enumerate(read_object(file.path).items(), start=1):
        place = f"{file.path} question {number}"
        if not question.strip():
            raise DataError(place, "the question is empty; write one or remove it")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(place, f"holds no list of texts but {shortened(str(texts))}; write one")
        found.append(_Texts(place, f"{file.name}#{number}", question, texts))
    if not found:
        raise DataError(file.path, "holds no questions; check that it is the right file")
    whose = "the student's mistakes" if holds == "mistakes" else "the teacher's rationales"
    what = f"questions with {whose} ({sum(len(one.texts) for one in found)})"
    return _Held(holds, found, Source(file.name, checksum, len(found), what))
