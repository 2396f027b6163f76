"""The files of Mentor-KD (arXiv 2410.09037; repository 2hojae/mentor-kd, folder `data`).

    skeleton/TASK_{train,test}.json   {input, answer}                                       questions
    main/TASK_3_train.json            {input, chain, answer, initial_correct}               teacher, train
    main/TASK_test.json               {input, chain, completion, answer, initial_correct}   teacher, test
    aug/MODEL/TASK_*.json             {input, chain, completion, answer, initial_correct}   mentor, train
    prompt/TASK_6.json                {instruction, output: [...], label}                   teacher, train

A file is known by its shape, not its name. Two shapes need more: whether questions
are for training or the test, and whether answers are the teacher's to the test or a
mentor's to training questions. The folder `aug` or `main` and the endings
`_train.json` and `_test.json` say it, or the user does: test=FILE, aug:MODEL=FILE.

What the authors parsed is in `completion`, and their verdict on it in
`initial_correct`. In `aug` it is what followed "-->" in the mentor's text, which was
cut off the chain; in `main` it is the teacher's second reply, to "Therefore, the
answer is". The text is put together again as it was written, and graded again.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import DataError, DiskError, RecipeError
from limbeck.published.found import TEACHER, TEACHER_TEST, Found, Given, Request, SetAside, Source
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.readers import Row, read_rows
from limbeck.tasks.rows import row_problem, shortened
from limbeck.tasks.settings import Columns

TASKS: dict[str, AnswerKind] = {
    "asdiv": "number",
    "commonsense_qa": "choice",
    "date_understanding": "choice",
    "gsm8k": "number",
    "last_letter_concatenation": "text",
    "strategy_qa": "yes-no",
    "svamp": "number",
    "tracking_shuffled_objects": "choice",
}

QUESTIONS, RATIONALES, ANSWERS, SEVERAL = "questions", "rationales", "answers", "several rationales"
SHAPES: dict[frozenset[str], str] = {
    frozenset({"input", "answer"}): QUESTIONS,
    frozenset({"input", "chain", "answer", "initial_correct"}): RATIONALES,
    frozenset({"input", "chain", "completion", "answer", "initial_correct"}): ANSWERS,
    frozenset({"instruction", "output", "label"}): SEVERAL,
}
_COLUMNS = Columns(question="input", answer="answer")
_SEVERAL_COLUMNS = Columns(question="instruction", answer="label")
_FOLDERS = ("skeleton", "main", "aug", "prompt")


@dataclass(frozen=True, slots=True)
class _File:
    """A file to read; `name` is its path from what was given, `role` "train", "test", "aug:MODEL" or ""."""

    path: Path
    name: str
    role: str = ""


@dataclass
class _Reading:
    """What has been read so far; `golds` remembers each question's answer and where it was."""

    kind: AnswerKind
    request: Request
    train: dict[str, Problem] = field(default_factory=dict)
    test: dict[str, Problem] = field(default_factory=dict)
    golds: dict[str, tuple[Problem, str]] = field(default_factory=dict)
    given: dict[str, list[Given]] = field(default_factory=dict)
    set_aside: list[SetAside] = field(default_factory=list)


def read(paths: Sequence[str], request: Request) -> Found:
    """Read a published data folder, or single files of it.

    Args:
        paths: the folder, or files, each with or without "train=", "test=" or "aug:MODEL=" before it.
        request: which set of the folder, its answer kind, the teacher's name, two golds.

    Raises:
        DataError: a file or record has another shape, or a question has two golds.
        RecipeError: the task or kind is missing or unknown; DiskError: a file cannot be read.
    """
    files: list[_File] = []
    missing: list[str] = []
    for path in paths:
        named = re.fullmatch(r"(train|test|aug:[\w.+-]+)=(.+)", path)
        if named and not Path(path).exists():
            files.append(_File(Path(named[2]), Path(named[2]).name, named[1]))
        elif Path(path).is_dir():
            there, absent = _in_folder(Path(path), request.task)
            files, missing = files + there, missing + absent
        else:
            files.append(_File(Path(path), Path(path).name))
    places = [file.path.resolve() for file in files]
    for place in places:
        if places.count(place) > 1:
            raise RecipeError(f"{place}: given twice; name every file once")
    reading = _Reading(_kind(request.task, request.kind), request)
    sources = [_take(file, reading) for file in files]
    return Found(
        task=request.task or "imported",
        kind=reading.kind,
        read=sources,
        missing=missing,
        train=list(reading.train.values()),
        test=list(reading.test.values()),
        given=reading.given,
        set_aside=reading.set_aside,
    )


def _kind(task: str | None, kind: AnswerKind | None) -> AnswerKind:
    known = TASKS.get(task or "")
    if known and kind and kind != known:
        raise RecipeError(f"--kind {kind}: the answers of {task} are of kind {known}; remove --kind")
    if kind is None and known is None:
        which = f"the answer kind of {task!r} is not known" if task else "the answer kind is not known"
        raise RecipeError(
            f"--kind: {which}; give number, choice, text or yes-no, or --task with one of {', '.join(TASKS)}"
        )
    return kind or known or "text"


def _in_folder(folder: Path, task: str | None) -> tuple[list[_File], list[str]]:
    """The files of a task in the data folder, and the names of those that are not there."""
    if not any((folder / name).is_dir() for name in _FOLDERS):
        raise DataError(folder, f"holds none of the folders {', '.join(_FOLDERS)}; give the folder `data`")
    if task is None:
        raise RecipeError(f"--task: {folder} holds several sets; name one of {_tasks_in(folder)}")
    wanted = [
        (f"skeleton/{task}_train.json", "train"),
        (f"skeleton/{task}_test.json", "test"),
        (f"main/{task}_3_train.json", ""),
        (f"main/{task}_test.json", "test"),
        (f"prompt/{task}_6.json", ""),
    ]
    files = [_File(folder / name, name, role) for name, role in wanted if (folder / name).is_file()]
    missing = [name for name, _ in wanted if not (folder / name).is_file()]
    augmented = sorted((folder / "aug").glob(f"*/{glob.escape(task)}_*.json"))
    files += [_File(path, str(path.relative_to(folder)), f"aug:{path.parent.name}") for path in augmented]
    if not files:
        raise RecipeError(f"--task {task}: {folder} has no files of it; name one of {_tasks_in(folder)}")
    return files, missing if augmented else [*missing, f"aug/*/{task}_*.json"]


def _tasks_in(folder: Path) -> str:
    names = [path.name for path in sorted(folder.glob("*/*.json"))]
    found = {re.sub(r"(_3)?_(train|test)\.json|_6\.json", "", name) for name in names}
    return ", ".join(sorted(name for name in found if not name.endswith(".json"))) or "(none)"


def _take(file: _File, reading: _Reading) -> Source:
    """Read one file into `reading`; say what it was."""
    try:
        checksum = hashlib.sha256(file.path.read_bytes()).hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(file.path, "there is no such file; check the path") from None
    except OSError as error:
        raise DiskError(file.path, error) from error
    rows = list(read_rows(file.path))
    shape = _shape(*rows[0])
    role = _role(file, shape)
    for number, (place, row) in enumerate(rows, start=1):
        if (found := _shape(place, row)) != shape:
            raise DataError(
                place, f"has the shape of {found}, the records before it that of {shape}; separate them"
            )
        split = reading.test if role == "test" else reading.train
        origin = f"{file.name}#{number}"
        problem = _problem(place, row, shape, reading, origin)
        split.setdefault(problem.id, problem)
        if shape != QUESTIONS:
            texts = reading.given.setdefault(_written_to(role, shape), [])
            texts += _given(place, row, role, problem, reading.request.teacher, origin)
    holds = {
        QUESTIONS: f"questions of {role}",
        RATIONALES: "the teacher's rationales of train",
        ANSWERS: "the teacher's answers to test" if role == "test" else f"{role[4:]}'s rationales of train",
        SEVERAL: "the teacher's rationales of train, several in a record",
    }[shape]
    return Source(file.name, checksum, len(rows), holds)


def _shape(place: str, row: Row) -> str:
    shape = SHAPES.get(frozenset(row))
    if shape is None:
        known = "; ".join(", ".join(sorted(columns)) for columns in SHAPES)
        raise DataError(
            place,
            f"has none of the known shapes ({known}) but {', '.join(row) or 'no column'}; give such files",
        )
    return shape


def _role(file: _File, shape: str) -> str:
    """Whose questions and texts these are: "train", "test" or "aug:MODEL"."""
    if shape in (RATIONALES, SEVERAL):
        if file.role not in ("", "train"):
            raise DataError(file.path, f"holds the teacher's {shape} of train; remove {file.role}= before it")
        return "train"
    if shape == ANSWERS:
        role = file.role or _by_folder(file.path.resolve())
        if role in ("", "train"):
            raise DataError(
                file.path,
                "can be the teacher's answers to the test or a mentor's to training questions, the records "
                f"look the same; write test={file.path} or aug:MODEL={file.path}",
            )
        return role
    ending = re.search(r"_(train|test)\.jsonl?$", file.path.name)
    role = file.role or (ending[1] if ending else "")
    if role not in ("train", "test"):
        raise DataError(
            file.path, f"holds questions, of which split?; write train={file.path} or test={file.path}"
        )
    return role


def _by_folder(path: Path) -> str:
    if path.parent.parent.name == "aug":
        return f"aug:{path.parent.name}"
    return "test" if path.parent.name == "main" else ""


def _written_to(role: str, shape: str) -> str:
    if role.startswith("aug:"):
        return f"mentor-{role[4:]}.jsonl"
    if role == "test":
        return TEACHER_TEST
    return "prompt.jsonl" if shape == SEVERAL else TEACHER


def _problem(place: str, row: Row, shape: str, reading: _Reading, origin: str) -> Problem:
    """The row's problem; its gold must be that of all other records of the question, or the first is kept."""
    problem = row_problem(place, row, _SEVERAL_COLUMNS if shape == SEVERAL else _COLUMNS, reading.kind)
    first, earlier = reading.golds.setdefault(problem.id, (problem, place))
    if first.gold == problem.gold:
        return first
    if reading.request.gold == "refuse":
        raise DataError(
            place,
            f"the question has the answer {shortened(problem.gold)} here, but "
            f"{shortened(first.gold)} at {earlier}; keep one of them, or the first with --gold first",
        )
    reading.set_aside.append(SetAside(origin, problem.gold, first.gold, earlier))
    return first


def _given(place: str, row: Row, role: str, problem: Problem, teacher: str, origin: str) -> Iterator[Given]:
    """The texts of a record, each as it was written: a chain, and the answer that was parsed from it."""
    flag = row.get("initial_correct")
    if not isinstance(flag, bool | None):
        raise DataError(place, f"initial_correct is {shortened(str(flag))}; write true or false")
    texts = row["output"] if isinstance(row.get("output"), list) else [row.get("output", row.get("chain"))]
    for text in texts:
        if not isinstance(text, str | None):
            raise DataError(place, f"a rationale is not text but {shortened(str(text))}; write text or null")
        stated = _stated(place, row.get("completion"))
        chain = text or ""
        if stated and role == "test":
            whole = f"{chain.rstrip()}\nTherefore, the answer is {stated}"
        else:
            whole = f"{chain} --> {stated}" if stated else chain
        source = role[4:] if role.startswith("aug:") else teacher
        yield Given(problem, source, text, stated, whole, flag, origin)


def _stated(place: str, cell: Any) -> str:
    """The answer next to a chain, on one line; "" where there is none."""
    if not isinstance(cell, str | int | float | None):
        raise DataError(
            place, f"completion is not a single value but {shortened(str(cell))}; write one or null"
        )
    return "" if cell is None else " ".join(str(cell).split())
