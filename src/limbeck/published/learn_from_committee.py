"""The files of Learning from Committee (arXiv 2410.03663; repository zhuochunli/Learn-from-Committee).

    data/STUDENT_TASK_false_round0.json       {id, question, gold_answer, student_wrong_pred,
                                               student_wrong_final_answer}
    data/STUDENT_TASK_feedback_round0.json    the same, and {gpt,gemini,mistral}_feedback
    data/STUDENT_TASK_rationale_round0.json   the same, and {gpt,gemini,mistral}_rationale, correct_rationale

Records of the same mistake are joined by its question and its text; an `id` is a place in a data set that is
not named, and is not used.

`gold_answer` is the answer, or "false." with a tab and facts behind it (StrategyQA), or a solution that ends
in "#### 18" (GSM8K). `student_wrong_pred` is not all that the student wrote: of numbers, the published code
cut it off behind the first place where the number occurs that it took for the answer.
`student_wrong_final_answer` is what the authors read there; "absolute_wrong_final_ans" says that they read
none.

A rationale is [text, score, score]: the teacher answers the question without seeing the mistake, and the two
other teachers score that from 1 to 5, in the order gpt, gemini, mistral (0, or more than 5: the score could
not be read). `correct_rationale` are the texts whose mean score, of those that could be read, is above 3.
So it is the authors' verdict, and the scores themselves are not taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from limbeck.errors import DataError, RecipeError
from limbeck.published.asked import Joined, Known, join, known_problems
from limbeck.published.found import TEACHER, Found, Given, Request, Source
from limbeck.published.mentor_kd import TASKS as MENTOR_KD_TASKS
from limbeck.published.mistakes import GivenMistake, Said
from limbeck.published.reading import File, Reading, files_of, kind_of, no_folders, records_of
from limbeck.records import LeftOut, Problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.readers import Row
from limbeck.tasks.rows import row_question, shortened
from limbeck.tasks.settings import Columns

TASKS: dict[str, AnswerKind] = {"strategyqa": "yes-no", **MENTOR_KD_TASKS}
TEACHERS = {"gpt": "gpt-3.5-turbo", "gemini": "gemini-1.0-pro", "mistral": "mixtral-8x7b"}
"""What the teachers are called in the columns, and in our records."""

_TEXTS = ("question", "gold_answer", "student_wrong_pred", "student_wrong_final_answer")
_NEEDED = {"id", *_TEXTS}
_FEEDBACK = {f"{teacher}_feedback" for teacher in TEACHERS}
_RATIONALES = {*(f"{teacher}_rationale" for teacher in TEACHERS), "correct_rationale"}
_SHAPES = (_NEEDED, _NEEDED | _FEEDBACK, _NEEDED | _RATIONALES)
_COLUMNS = Columns(question="question", answer="gold_answer")
_NAME = re.compile(r"(?P<student>.+)_[^_]+_(?:false|feedback|rationale)_round[0-9]+\.json")
_VERDICT = re.compile(r"(true|false)\.\t.*", re.DOTALL)
_NOT_READ = "absolute_wrong_final_ans"


@dataclass(frozen=True, slots=True)
class _Record:
    """A record of a file, its shape checked; whose mistake it is by the file's name."""

    place: str
    origin: str
    row: Row
    student: str


@dataclass
class _Published:
    """All that is published about one mistake: where it was first, what each teacher says, and writes."""

    problem: Problem
    student: str
    origin: str
    stated: str
    feedback: dict[tuple[str, str], str] = field(default_factory=dict)
    rationales: dict[str, str] = field(default_factory=dict)


def read(paths: Sequence[str], request: Request) -> Found:
    """Read files of mistakes, and those of feedback on them and rationales next to them.

    Args:
        paths: the files; with "train=" or "test=" before it, one of problems in our own form.
        request: which set, the kind of its answers, one teacher of the three, what to leave out.

    Raises:
        DataError: a file or record has another shape, or a question has two golds.
        LeakError: a question is one of test=FILE, and these are not to be left out.
        RecipeError: task, kind or teacher is missing or unknown; DiskError: a file cannot be read.
    """
    taken = _taken(request)
    files, _ = files_of(paths, "train|test", no_folders)
    kind = kind_of(request, TASKS)
    known = known_problems([file for file in files if file.role], kind, request)
    records: list[_Record] = []
    sources = list(known.read)
    for file in files:
        if not file.role:
            own, source = _records(file, request)
            records, sources = records + own, [*sources, source]
    if not records:
        raise RecipeError("PATH: there are only problems; name a file of mistakes too")
    questions: dict[str, str] = {}
    for one in records:
        questions.setdefault(one.row["question"], one.place)
    joined = join(questions, known, request, kind)
    reading = _reading(records, known, joined, request, kind)
    published = _published(records, joined, reading, taken)
    found = reading.found(sources, [])
    mistakes = [_mistake(text, one) for (_, text), one in published.items()]
    return found.with_mistakes(mistakes, _left_out(records, joined))


def _taken(request: Request) -> list[str]:
    """The teachers that are wanted, as the columns call them."""
    taken = [short for short, name in TEACHERS.items() if request.teacher in (None, short, name)]
    if not taken:
        raise RecipeError(f"--teacher {request.teacher}: choose one of {', '.join(TEACHERS.values())}")
    return taken


def _records(file: File, request: Request) -> tuple[list[_Record], Source]:
    """The records of a file, each of the same known shape."""
    rows, checksum = records_of(file)
    shape = rows[0][1].keys()
    named = _NAME.fullmatch(file.path.name)
    student = request.student or (named["student"] if named else "student")
    records = []
    for number, (place, row) in enumerate(rows, start=1):
        _check(place, row, shape)
        records.append(_Record(place, f"{file.name}#{number}", row, student))
    more = ", and feedback on them" if shape >= _FEEDBACK else ""
    if shape >= _RATIONALES:
        more = ", and rationales that were written without seeing them; the scores of these are not taken"
    return records, Source(file.name, checksum, len(rows), f"mistakes of {student}{more}")


def _check(place: str, row: Row, shape: Iterable[str]) -> None:
    """Refuse a record of another shape, or with something else than text where text is needed."""
    if row.keys() not in _SHAPES:
        raise DataError(
            place,
            f"is not of the shape {', '.join(('id', *_TEXTS))}, with the feedback or the rationales of "
            f"{', '.join(TEACHERS)}, or without, but has {', '.join(row) or 'no column'}; give such files",
        )
    if row.keys() != set(shape):
        raise DataError(place, "has another shape than the records before it; separate them")
    for column in _TEXTS:
        if not isinstance(row[column], str):
            raise DataError(place, f"{column} is not text but {shortened(str(row[column]))}; write text")
    if not row["question"].strip():
        raise DataError(place, "the question is empty; write one or remove the record")
    for column in _FEEDBACK & row.keys():
        if not isinstance(row[column], str | None):
            raise DataError(
                place, f"{column} is not text but {shortened(str(row[column]))}; write text or null"
            )
    for column in _RATIONALES & row.keys():
        cell = row[column]
        texts = cell if column == "correct_rationale" else cell[:1] if isinstance(cell, list) else None
        scores = cell[1:] if column != "correct_rationale" and isinstance(cell, list) else [0, 0]
        is_list = isinstance(texts, list) and all(isinstance(text, str | None) for text in texts)
        if not is_list or len(scores) != 2 or not all(isinstance(score, int) for score in scores):
            shape_of = "a list of texts" if column == "correct_rationale" else "[text, score, score]"
            raise DataError(place, f"{column} is not {shape_of} but {shortened(str(cell))}; write one")


def _reading(
    records: Iterable[_Record], known: Known, joined: Joined, request: Request, kind: AnswerKind
) -> Reading:
    """What is read into: a problem of train=FILE has its gold already, which that of a record must be."""
    reading = Reading(kind, request)
    reading.splits["train"] |= {problem.id: problem for problem in known.train}
    reading.splits["test"] |= {problem.id: problem for problem in known.test}
    for one in records:
        if (problem := joined.problems.get(one.row["question"])) is not None:
            own, *_ = row_question(one.place, one.row, _COLUMNS, kind)
            reading.golds.setdefault(own, (problem, known.places[problem.id]))
    return reading


def _published(
    records: Iterable[_Record], joined: Joined, reading: Reading, taken: Sequence[str]
) -> dict[tuple[str, str], _Published]:
    """What is published about a mistake, by its problem's id and its text; rationales go into `reading`."""
    published: dict[tuple[str, str], _Published] = {}
    rationales: list[Given] = []
    for one in records:
        row = one.row
        if row["question"] in joined.left_out:
            continue
        gold = _VERDICT.sub(r"\1", row["gold_answer"])
        problem = reading.problem(one.place, {**row, "gold_answer": gold}, _COLUMNS, "train", one.origin)
        stated = row["student_wrong_final_answer"]
        stated = "" if stated.casefold() == _NOT_READ else stated
        about = published.setdefault(
            (problem.id, row["student_wrong_pred"]), _Published(problem, one.student, one.origin, stated)
        )
        for teacher in taken:
            if said := (row.get(f"{teacher}_feedback") or "").strip():
                about.feedback.setdefault((TEACHERS[teacher], said), one.origin)
            if cell := row.get(f"{teacher}_rationale"):
                about.rationales.setdefault(TEACHERS[teacher], cell[0] or "")
                rationales.append(_rationale(problem, TEACHERS[teacher], cell[0], row, one.origin))
    if rationales:
        reading.given[TEACHER] = rationales
    return published


def _left_out(records: Iterable[_Record], joined: Joined) -> list[LeftOut]:
    """Each mistake once that is left out by what it asks, where it is first."""
    first: dict[tuple[str, str], LeftOut] = {}
    for one in records:
        question = one.row["question"]
        if why := joined.left_out.get(question):
            left = LeftOut(split="mistakes", place=one.origin, why=why)
            first.setdefault((question, one.row["student_wrong_pred"]), left)
    return list(first.values())


def _rationale(problem: Problem, teacher: str, text: str | None, row: Row, origin: str) -> Given:
    """A rationale; its authors take it for right where it is one of those that the others accepted."""
    return Given(problem, teacher, text, "", text or "", text in row["correct_rationale"], origin)


def _mistake(text: str, published: _Published) -> GivenMistake:
    said = tuple(
        Said(teacher, words, published.rationales.get(teacher, "").strip(), origin)
        for (teacher, words), origin in published.feedback.items()
    )
    return GivenMistake(published.problem, published.student, text, published.origin, published.stated, said)
