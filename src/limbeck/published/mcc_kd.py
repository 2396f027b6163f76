"""The files of MCC-KD (arXiv 2310.14747; repository homzer/MCC-KD, folder `data`).

    TASK/{train,dev,test}.json           {instruction, output, label}
    TASK/train_with_indices_*.json       {instruction, output, label, indices}

Mentor-KD's repository has files of this shape too (`mcckd/data`). `output` is a list of rationales or a
single one; a single "" is none, as in dev and test. `predict` may come besides: what the authors parsed from
a single output. Whose the rationales are is not said: the ten of a SVAMP question are the teacher's, those
of GSM8K's dev and test are the data set's own solutions.

`indices` are tokens of the answer under the authors' tokenizer, in a sentence that they wrote behind every
rationale, "Therefore, the answer is LABEL.": also behind one that says otherwise. Neither is taken. Such a
rationale is graded by what the teacher wrote; Limbeck states the answer itself, and finds its tokens under
whatever tokenizer the student has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from limbeck.errors import DataError, RecipeError
from limbeck.published.found import TEACHER, TEACHER_DEV, TEACHER_TEST, Found, Given, Request, Source
from limbeck.published.mentor_kd import TASKS as MENTOR_KD_TASKS
from limbeck.published.reading import File, Reading, files_of, kind_of, records_of
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.readers import Row
from limbeck.tasks.rows import shortened
from limbeck.tasks.settings import Columns

TASKS: dict[str, AnswerKind] = {"csqa": "choice", **MENTOR_KD_TASKS}

_WRITTEN_TO = {"train": TEACHER, "dev": TEACHER_DEV, "test": TEACHER_TEST}
_NEEDED, _KNOWN = {"instruction", "output", "label"}, {"instruction", "output", "label", "indices", "predict"}
_CLOSING = "Therefore, the answer is"
_COLUMNS = Columns(question="instruction", answer="label")


def read(paths: Sequence[str], request: Request) -> Found:
    """Read a set of a published data folder, or single files.

    Args:
        paths: the folder, or files, each with or without "train=", "dev=" or "test=" before it.
        request: which set of the folder, its answer kind, the teacher's name, two golds.

    Raises:
        DataError: a file or record has another shape, or a question has two golds.
        RecipeError: the task or kind is missing or unknown; DiskError: a file cannot be read.
    """
    files, missing = files_of(paths, "train|dev|test", lambda folder: _in_folder(folder, request.task))
    reading = Reading(kind_of(request, TASKS), request)
    return reading.found([_take(file, reading) for file in files], missing)


def _in_folder(folder: Path, task: str | None) -> tuple[list[File], list[str]]:
    """The files of a set, one of each split, and the names of those that are not there."""
    sets = sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob("*.json")))
    named = ", ".join(path.name for path in sets) or "(none)"
    if task is None:
        raise RecipeError(f"--task: {folder} is a folder of sets; name one of {named}, or give single files")
    wanted = [path for path in (folder, *sets) if path.name.casefold() == task.casefold()]
    if not wanted:
        raise RecipeError(f"--task {task}: {folder} holds no folder of that name; name one of {named}")
    files, missing = [], []
    for split in _WRITTEN_TO:
        found = [path for path in sorted(wanted[-1].glob("*.json")) if _split_in(path.name) == split]
        if len(found) > 1:
            several = ", ".join(path.name for path in found)
            raise RecipeError(
                f"--task {task}: {wanted[-1]} holds several files of {split} ({several}); name one with "
                f"{split}=FILE"
            )
        files += [File(path, f"{wanted[-1].name}/{path.name}", split) for path in found]
        missing += [] if found else [f"{wanted[-1].name}/{split}.json"]
    return files, missing


def _split_in(name: str) -> str:
    found = re.search(r"(?:^|_)(train|dev|test)(?=[_.])", name)
    return found[1] if found else ""


def _take(file: File, reading: Reading) -> Source:
    """Read one file into `reading`; say what it was."""
    rows, checksum = records_of(file)
    split = file.role or _split_in(file.path.name)
    if not split:
        raise DataError(
            file.path,
            f"its name does not say whether it is train, dev or test; write train={file.path}, "
            f"dev={file.path} or test={file.path}",
        )
    texts: list[Given] = []
    for number, (place, row) in enumerate(rows, start=1):
        if not _NEEDED <= row.keys() <= _KNOWN:
            raise DataError(
                place,
                "is not of the shape instruction, output, label, with or without indices or predict, but has "
                f"{', '.join(row) or 'no column'}; give such files",
            )
        origin = f"{file.name}#{number}"
        problem = reading.problem(place, row, _COLUMNS, split, origin)
        texts += _given(place, row, problem, reading.request.teachers_name, origin)
    if texts:
        reading.given.setdefault(_WRITTEN_TO[split], []).extend(texts)
    indexed = "; their indices are not taken" if any("indices" in row for _, row in rows) else ""
    what = f"questions of {split}" if not texts else f"rationales of {split}{indexed}"
    return Source(file.name, checksum, len(rows), what)


def _given(place: str, row: Row, problem: Problem, teacher: str, origin: str) -> Iterator[Given]:
    """The rationales of a record, and whether its authors took them for right."""
    output, flag = row["output"], _flag(place, row)
    texts = output if isinstance(output, list) else [] if output in ("", None) else [output]
    for text in texts:
        if not isinstance(text, str | None):
            raise DataError(place, f"a rationale is not text but {shortened(str(text))}; write text or null")
        chain, _, stated = (text or "").rpartition(_CLOSING)
        if "indices" in row and stated.strip(" .\n") == str(row["label"]).strip():
            yield Given(problem, teacher, chain.rstrip() or None, "", chain.rstrip(), True, origin)
        else:
            yield Given(problem, teacher, text or None, "", text or "", flag, origin)


def _flag(place: str, row: Row) -> bool | None:
    """Whether what the authors parsed is the label; None where they do not say what they parsed."""
    predicted = row.get("predict")
    if predicted is None:
        return None
    if not isinstance(predicted, str | int | float):
        raise DataError(place, f"predict is not a single value but {shortened(str(predicted))}; write one")
    return str(predicted).strip() == str(row["label"]).strip()
