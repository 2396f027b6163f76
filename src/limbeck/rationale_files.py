"""Reading files of rationales: our own records, imported ones, or data with a rationale column."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.errors import DataError
from limbeck.lm import Completion
from limbeck.records import Problem
from limbeck.tasks.readers import read_rows
from limbeck.tasks.rows import bad_rows, row_question, row_rationales
from limbeck.tasks.settings import FilesTask, TaskSettings


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
    file: Path, task: TaskSettings, problems: Iterable[Problem], left_out: list[DataError] | None = None
) -> list[FromFile]:
    """The completions of a file, joined to problems; no verdict in it is read.

    Args:
        file: JSONL of rationales or completions: `problem_id` (or `prompt_id`) or
            `question`, and `completion` (or `text`), with or without `source`, `index`,
            `about`, `thinking` and `stopped`; or data with the task's own question and rationale columns, as
            `limbeck run` reads them: a text, a list of texts, or null, which is
            skipped. An unknown `problem_id` joins by the question next to it.
        task: whose columns are meant.
        problems: whose rationales these are.
        left_out: gets what is wrong with rows that `task.bad_rows` lets skip.

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
        raise bad_rows(str(file), wrong, every=not read, skippable=isinstance(task, FilesTask))
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
    if problem_id not in known:
        raise DataError(
            place, f"no problem {problem_id!r} in task {task.name}; give the recipe it was made with"
        )
    source, tokens = str(row.get("source") or name), _count(place, row, "tokens", 0)
    truncated = row.get("truncated") in (True, "true", "True")
    first = counts[problem_id, source]
    if len(texts) == 1:
        first = _count(place, row, "index", first)
    counts[problem_id, source] += len(texts)
    about = str(row.get("about") or "")
    apart = (row.get(column) for column in ("thinking", "stopped"))
    thinking, stopped = (cell if isinstance(cell, str) else "" for cell in apart)
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
    """
    text, problem_id = row.get("completion", row.get("text")), row.get("problem_id", row.get("prompt_id"))
    if isinstance(text, str):
        stated = row.get("question")
        question = stated.strip() if isinstance(stated, str) else ""
        if isinstance(problem_id, str | int) and str(problem_id) in problems:
            return [text], str(problem_id), question
        ids = named.get(question, [])
        if len(ids) == 1:
            return [text], ids[0], question
        if isinstance(problem_id, str | int):
            return [text], str(problem_id), question
    if not isinstance(task, FilesTask) or task.columns.rationale is None:
        raise DataError(
            place,
            "neither problem_id and completion nor the task's question and rationale columns are here; "
            "add them",
        )
    columns, known = task.columns, dict(row)
    texts = [text for text in row_rationales(place, known, columns, needed=True) if text.strip()]
    bare = columns.model_copy(update={"id": None, "options": None})
    _, question, _, _ = row_question(place, known, bare, task.kind)
    ids = named.get(question, [])
    if len(ids) == 1:
        return texts, ids[0], question
    problem_id, *_ = row_question(place, known, columns, task.kind)
    return texts, problem_id if problem_id in problems else question, question
