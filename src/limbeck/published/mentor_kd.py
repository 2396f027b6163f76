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
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import DataError, RecipeError
from limbeck.published.found import TEACHER, TEACHER_TEST, Found, Given, Request, Source
from limbeck.published.reading import File, Reading, files_of, kind_of, records_of
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.readers import Row
from limbeck.tasks.rows import shortened
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


def read(paths: Sequence[str], request: Request) -> Found:
    """Read a published data folder, or single files of it.

    Args:
        paths: the folder, or files, each with or without "train=", "test=" or "aug:MODEL=" before it.
        request: which set of the folder, its answer kind, the teacher's name, two golds.

    Raises:
        DataError: a file or record has another shape, or a question has two golds.
        RecipeError: the task or kind is missing or unknown; DiskError: a file cannot be read.
    """
    files, missing = files_of(
        paths, r"train|test|aug:[\w.+-]+", lambda folder: _in_folder(folder, request.task)
    )
    reading = Reading(kind_of(request, TASKS), request)
    return reading.found([_take(file, reading) for file in files], missing)


def _in_folder(folder: Path, task: str | None) -> tuple[list[File], list[str]]:
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
    files = [File(folder / name, name, role) for name, role in wanted if (folder / name).is_file()]
    missing = [name for name, _ in wanted if not (folder / name).is_file()]
    augmented = sorted((folder / "aug").glob(f"*/{glob.escape(task)}_*.json"))
    files += [File(path, str(path.relative_to(folder)), f"aug:{path.parent.name}") for path in augmented]
    if not files:
        raise RecipeError(f"--task {task}: {folder} has no files of it; name one of {_tasks_in(folder)}")
    return files, missing if augmented else [*missing, f"aug/*/{task}_*.json"]


def _tasks_in(folder: Path) -> str:
    names = [path.name for path in sorted(folder.glob("*/*.json"))]
    found = {re.sub(r"(_3)?_(train|test)\.json|_6\.json", "", name) for name in names}
    return ", ".join(sorted(name for name in found if not name.endswith(".json"))) or "(none)"


def _take(file: File, reading: Reading) -> Source:
    """Read one file into `reading`; say what it was."""
    rows, checksum = records_of(file)
    shape = _shape(*rows[0])
    role = _role(file, shape)
    for number, (place, row) in enumerate(rows, start=1):
        if (found := _shape(place, row)) != shape:
            raise DataError(
                place, f"has the shape of {found}, the records before it that of {shape}; separate them"
            )
        split = "test" if role == "test" else "train"
        origin = f"{file.name}#{number}"
        columns = _SEVERAL_COLUMNS if shape == SEVERAL else _COLUMNS
        problem = reading.problem(place, row, columns, split, origin)
        if shape != QUESTIONS:
            texts = reading.given.setdefault(_written_to(role, shape), [])
            texts += _given(place, row, role, problem, reading.request.teachers_name, origin)
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


def _role(file: File, shape: str) -> str:
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
