"""Reading files of rationales: our own records, imported ones, or data with a rationale column."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.errors import DataError
from limbeck.lm import Completion
from limbeck.records import Also, Problem
from limbeck.tasks.readers import read_rows
from limbeck.tasks.rows import SKIP, bad_rows, row_question, row_rationales, shortened
from limbeck.tasks.settings import FilesTask, TaskSettings

THINKING = ("thinking", "reasoning_content", "reasoning")
"""Columns of what a model thought before its completion: ours, and those that APIs use (see `lm.reply`)."""


class FromFile(NamedTuple):
    """A completion of a file: who wrote it, and what it is about besides its problem (a mistake's id).

    `place` is its row, `question` what the row asks, if it says so.
    """

    source: str
    completion: Completion
    about: str
    place: str
    question: str


def read_rationales(
    file: Path,
    task: TaskSettings,
    problems: Iterable[Problem],
    left_out: list[DataError] | None = None,
    also: Iterable[Also] = (),
) -> list[FromFile]:
    """The completions of a file, joined to problems; no verdict in it is read.

    Args:
        file: JSONL of rationales or completions: `problem_id` (or `prompt_id`) or
            `question`, and `completion` (or `text`), with or without `source`, `index`,
            `about`, `thinking` (see `THINKING`) and `stopped`; or data with the task's own
            question and rationale columns, as `limbeck run` reads them: a text, a list of
            texts, or null, which is skipped. An unknown `problem_id` joins by the question next to it.
        task: whose columns are meant.
        problems: whose rationales these are.
        left_out: gets what is wrong with rows that `task.bad_rows` lets skip.
        also: rows of the data that ask what a problem asks; rationales of them are its own.

    Returns:
        In the order of the file; `prompt_id` is the problem's id. The source is the
        file's name where a line names none, the question "" where it states none.

    Raises:
        DataError, BadRowsError: lines lack these columns or name a problem that the task has not.
    """
    known = {problem.id: problem for problem in problems}
    named: dict[str, list[str]] = defaultdict(list)
    for problem in known.values():
        named[problem.question].append(problem.id)
    for other in reversed(list(also)):  # what became part of a problem that was left out later on, too
        if (asked := known.get(other.problem_id)) is not None:
            known.setdefault(other.id, asked)
            if asked.id not in named[other.question]:
                named[other.question].append(asked.id)
    read: list[FromFile] = []
    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[DataError] = []
    for place, row in read_rows(str(file), wrong.append):
        try:
            read += _of_row(place, row, file.stem, task, known, named, counts)
        except DataError as error:
            wrong.append(error)
    skips = isinstance(task, FilesTask) and task.bad_rows == "skip"
    if wrong and not (skips and read):
        raise bad_rows(str(file), wrong, every=not read, skip=SKIP if isinstance(task, FilesTask) else "")
    if left_out is not None:
        left_out += wrong
    return read


def _of_row(
    place: str,
    row: Mapping[str, Any],
    name: str,
    task: TaskSettings,
    known: Mapping[str, Problem],
    named: Mapping[str, Sequence[str]],
    counts: Counter[tuple[str, str]],
) -> list[FromFile]:
    """The completions of a row; `counts` are those of its source and problem so far."""
    texts, problem_id, question = _texts_and_problem(place, row, task, known, named)
    source, tokens = str(row.get("source") or name), _count(place, row, "tokens", 0)
    truncated = row.get("truncated") in (True, "true", "True")
    first = counts[problem_id, source]
    if len(texts) == 1:
        first = _count(place, row, "index", first)
    counts[problem_id, source] += len(texts)
    about = str(row.get("about") or "")
    thinking, stopped = _thinking(row, task), row.get("stopped")
    stopped = stopped if isinstance(stopped, str) else ""
    completions = [
        Completion(problem_id, index, text, tokens, truncated, thinking=thinking, stopped=stopped)
        for index, text in enumerate(texts, first)
    ]
    return [FromFile(source, completion, about, place, question) for completion in completions]


def _count(place: str, row: Mapping[str, Any], column: str, default: int) -> int:
    """A whole number of a column; the default where it is missing or empty."""
    cell = row.get(column)
    if cell is None or cell == "":
        return default
    if isinstance(cell, bool) or not re.fullmatch(r"[0-9]{1,12}", str(cell)):
        raise DataError(place, f"{column} is not a whole number: {str(cell)[:40]!r}; fix or remove it")
    return int(cell)


def _thinking(row: Mapping[str, Any], task: TaskSettings) -> str:
    """What the model thought, in a column of its own.

    In a graded rationale, `reasoning` is what is trained on. The task's rationale column is the rationale.
    """
    others = {"reasoning"} if "dropped" in row else set()
    if isinstance(task, FilesTask) and _text(row) is None:
        others.add(task.columns.rationale or "")
    cells = (row.get(column) for column in THINKING if column not in others)
    return next((cell for cell in cells if isinstance(cell, str) and cell.strip()), "")


def _text(row: Mapping[str, Any]) -> str | None:
    """The completion in our own columns; of one that ended inside its thinking, null is the empty text."""
    for column in ("completion", "text"):
        if column in row:
            cell = row[column]
            thought = cell is None and any(row.get(other) for other in THINKING)
            return "" if thought else cell if isinstance(cell, str) else None
    return None


def _texts_and_problem(
    place: str,
    row: Mapping[str, Any],
    task: TaskSettings,
    problems: Mapping[str, Problem],
    named: Mapping[str, Sequence[str]],
) -> tuple[list[str], str, str]:
    """The rationales of a row, the id of their problem, and the question, from our columns or the task's own.

    A row of the task's data may lack its answer and options: its question then says
    whose it is, if only one problem asks it (`named`: ids by question).

    Raises:
        DataError: the row holds no rationale, or does not say of which problem of the task.
    """
    text, stated = _text(row), row.get("question")
    own_id = row.get("problem_id", row.get("prompt_id"))
    problem_id = str(own_id) if isinstance(own_id, str | int) else ""
    question = stated.strip() if isinstance(stated, str) else ""
    if text is not None:
        if problem_id in problems:
            return [text], problems[problem_id].id, question
        if len(ids := named.get(question, [])) == 1:
            return [text], ids[0], question
    own = task.columns.rationale if isinstance(task, FilesTask) else None
    if text is not None and (own is None or own not in row):
        raise _unknown(place, task, problem_id, question, named)
    if own is None or not isinstance(task, FilesTask):
        raise DataError(
            place,
            "holds no text under completion or text; add it, or name the column of the rationales under "
            "task.columns.rationale",
        )
    columns = task.columns
    texts = [text for text in row_rationales(place, dict(row), columns, needed=True) if text.strip()]
    bare = columns.model_copy(update={"id": None, "options": None})
    _, question, _, _ = row_question(place, dict(row), bare, task.kind)
    if len(ids := named.get(question, [])) == 1:
        return texts, ids[0], question
    problem_id, *_ = row_question(place, dict(row), columns, task.kind)
    if problem_id not in problems:
        raise _unknown(place, task, problem_id if columns.id else "", question, named)
    return texts, problems[problem_id].id, question


def _unknown(
    place: str, task: TaskSettings, problem_id: str, question: str, named: Mapping[str, Sequence[str]]
) -> DataError:
    """Why a row belongs to no problem."""
    if ids := named.get(question, []):
        return DataError(
            place,
            f"{len(ids)} problems of task {task.name} ask {shortened(question)}; "
            "say which one under problem_id",
        )
    if not problem_id and not question:
        return DataError(place, "says neither problem_id nor question; add one of them")
    parts = [f"no problem of task {task.name}"]
    parts += [f"has the id {shortened(problem_id)}"] if problem_id else []
    parts += ["or" if problem_id else "", f"asks {shortened(question)}"] if question else []
    return DataError(place, f"{' '.join(filter(None, parts))}; give the recipe it was made with")
