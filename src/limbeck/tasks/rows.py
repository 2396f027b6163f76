"""One row of the user's data as a problem, and the rationales in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.errors import BadRowsError, DataError
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind, canonical
from limbeck.tasks.options import LETTERS, options_in, without_label
from limbeck.tasks.readers import Row
from limbeck.tasks.settings import Columns, Gold


def row_problem(
    place: str,
    row: Row,
    columns: Columns,
    kind: AnswerKind,
    gold_is: Gold = "needed",
    labels: tuple[str, ...] = (),
) -> Problem:
    """The problem of a row; without an id column its id is made from question and options.

    Where gold is "optional", a row without the answer column, or with nothing in it, has no gold answer.
    `labels` are those of kind label.

    Raises:
        DataError: a missing column, an empty question, a gold answer that its kind cannot parse.
    """
    name, question, options, own_labels = row_question(place, row, columns, kind)
    if gold_is == "optional" and _is_missing(row, columns.answer):
        return Problem(id=name, question=question, answer=None, options=options, labels=labels)
    cell = _cell(place, row, columns.answer, "answer")
    if scores := _scores(cell):
        cell = _best(place, scores, columns.answer)
    gold = _answer_text(place, cell, columns.answer)
    try:
        if kind == "choice":
            gold = _letter(cell[0] if isinstance(cell, list) else cell, gold, options, own_labels)
        answer = canonical(kind, gold, options or labels)
    except ValueError as error:
        raise DataError(
            place,
            f"the answer {shortened(gold)} does not suit the kind {kind}: {error}; fix it or task.kind",
        ) from None
    return Problem(id=name, question=question, answer=answer, options=options, labels=labels)


def row_question(
    place: str, row: Row, columns: Columns, kind: AnswerKind
) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    """The id of a row's problem, its question, options, and the labels its options carry in the data."""
    question = _question(place, row, columns)
    options, labels = _options(place, row, columns, question) if kind == "choice" else ((), ())
    if columns.id is None:
        name = "q-" + hashlib.sha256("\0".join((question, *options)).encode()).hexdigest()[:16]
    else:
        cell = _cell(place, row, columns.id, "id")
        name = "" if cell is None else str(cell).strip()
    if not name:
        raise DataError(
            place, f"the id (column {columns.id!r}) is empty; write one, or remove task.columns.id"
        )
    return name, question, options, labels


def _question(place: str, row: Row, columns: Columns) -> str:
    """The question, or the parts of it that are not empty, joined."""
    names = (columns.question,) if isinstance(columns.question, str) else columns.question
    cells = [_cell(place, row, name, "question") for name in names]
    several = len(names) > 1
    parts = [cell for cell in cells if not (several and cell is None)]
    question = columns.join.join(part.strip() for part in parts if isinstance(part, str) and part.strip())
    if not question or not all(isinstance(part, str) for part in parts):
        which = f"column {names[0]!r}" if not several else f"columns {', '.join(map(repr, names))}"
        raise DataError(place, f"the question ({which}) is empty or not text; write one or remove the row")
    return question


def _letter(cell: object, gold: str, options: tuple[str, ...], labels: tuple[str, ...]) -> str:
    """A gold choice as its letter where a label of the data or an index says it, else as it stands.

    "3" is the option labelled "3", if the data label their options. Where they do
    not, a whole number (not a text) is an index from 0, as MMLU has it. A text that
    several options have is the first of them.

    Raises:
        ValueError: it can mean two options, or the index is not that of an option.
    """
    places = {n for n, label in enumerate(labels) if label.casefold() == gold.strip(" ().").casefold()}
    if not places and isinstance(cell, int) and not isinstance(cell, bool) and options:
        if not 0 <= cell < len(options):
            raise ValueError(f"as an index from 0 it is not one of the {len(options)} options")
        places = {cell}
    same_text = {n for n, text in enumerate(options) if _plain(text) == _plain(gold)}
    if not places:
        if len(same_text) < 2 or _plain(gold).upper() in LETTERS[: len(options)]:
            return gold
        return LETTERS[min(same_text)]
    if len(places | same_text) > 1:
        raise ValueError("it can mean more than one option")
    return LETTERS[places.pop()]


def _cell(place: str, row: Row, column: str, setting: str) -> Any:
    """The value of a column; "a.b" is also the value under b of the object in a."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(map(str, row))[:300] or "none"
            raise DataError(place, f"no column {column!r}; set task.columns.{setting} to one of: {there}")
        value = value[part]
    return value


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _scores(cell: object) -> dict[str, float]:
    """Scores by option, as BIG-bench has them: {"Yes": 1, "No": 0}; of anything else, nothing."""
    if not isinstance(cell, Mapping):
        return {}
    scores = {name: score for name, score in cell.items() if score is not None}  # parquet fills up with null
    are_numbers = all(
        isinstance(score, int | float) and not isinstance(score, bool) for score in scores.values()
    )
    return scores if len(scores) > 1 and are_numbers else {}


def _best(place: str, scores: Mapping[str, float], column: str) -> str:
    """The option with the highest score."""
    best = [name for name, score in scores.items() if score == max(scores.values())]
    if len(best) > 1:
        raise DataError(place, f"several options have the highest score (column {column!r}); leave it to one")
    return best[0]


def _in_no_order(question: str, options: Mapping[str, float]) -> list[str]:
    """Options of scores, in an order that follows from the texts: the right one is often written first."""
    return sorted(options, key=lambda text: hashlib.sha256(f"{question}\0{text}".encode()).digest())


def _is_missing(row: Row, column: str) -> bool:
    """Whether a row holds nothing under a column: not the column, null, or a text without letters."""
    value: Any = row
    for part in [column] if column in row else column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value is None or (isinstance(value, str) and not value.strip())


def _answer_text(place: str, cell: Any, column: str) -> str:
    """A gold answer as text; of a list, its only element."""
    if isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, str | int | float) and str(cell).strip():
        return str(cell)
    raise DataError(
        place, f"the answer (column {column!r}) is empty or not a single value; write one or remove the row"
    )


def _options(
    place: str, row: Row, columns: Columns, question: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options of a choice question, from their column(s), else as written in it; and their labels."""
    if columns.options is None:
        scores = _scores(row.get(columns.answer))
        return options_in(question) or tuple(_in_no_order(question, scores)), ()
    labels: list[Any] = []
    if isinstance(columns.options, str):
        cell = _cell(place, row, columns.options, "options")
    else:
        cell = [_cell(place, row, name, "options") for name in columns.options]
    if isinstance(cell, dict) and isinstance(cell.get("text"), list):  # {"label": [...], "text": [...]}
        labels = cell["label"] if isinstance(cell.get("label"), list) else []
        cell = cell["text"]
    elif scores := _scores(cell):  # {"Yes": 1, "No": 0}
        cell = _in_no_order(question, scores)
    elif isinstance(cell, dict):  # {"A": ..., "B": ...}
        cell = [cell.get(letter) for letter in LETTERS[: len(cell)]]
    elif isinstance(cell, list):  # ["...", ...] or [{"label": "A", "text": "..."}, ...]
        labels = [one["label"] for one in cell if isinstance(one, dict) and "label" in one]
        cell = [one.get("text") if isinstance(one, dict) else one for one in cell]
    cells = cell if isinstance(cell, list) else []
    texts = [str(one) for one in cells if one is not None and str(one).strip()]
    if not 2 <= len(texts) <= len(LETTERS) or len(texts) < len(cells):
        raise DataError(
            place, "the options are not a list of 2 to 26 texts; fix them, or name other task.columns.options"
        )
    return without_label(texts), tuple(map(str, labels)) if len(labels) == len(texts) else ()


def row_rationales(place: str, row: Row, columns: Columns, *, needed: bool) -> list[str]:
    """The rationales of a row: its cell, or each element of a declared list; a null one is an empty text."""
    if columns.rationale is None or (not needed and columns.rationale not in row):
        return []
    cell = _cell(place, row, columns.rationale, "rationale")
    if isinstance(cell, list) and not columns.several_rationales:
        raise DataError(
            place,
            f"the rationale (column {columns.rationale!r}) is a list; if each is a rationale "
            "of its own, set task.columns.several_rationales, otherwise join them",
        )
    texts = ["" if text is None else text for text in (cell if isinstance(cell, list) else [cell])]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(
            place, f"the rationale (column {columns.rationale!r}) is not text; write text or null"
        )
    return texts


SHOWN = 20
"""Errors of a file that are shown at once."""


SKIP = "set task.bad_rows to skip"
"""How rows of a task's files that cannot be used are left out."""


def bad_rows(path: str, wrong: Sequence[DataError], *, every: bool, skip: str = SKIP) -> DataError:
    """The error of a file with rows that cannot be used.

    `every`: there are no others. `skip`: how to leave them out; "" where that cannot be.
    """
    first = wrong[0]
    if len(wrong) == 1:
        return first
    if every and len({one.message for one in wrong}) == 1:  # a setting is wrong, not the rows
        return DataError(first.place, f"{first.message} (the same in all {len(wrong):,} rows)")
    more = [f"and {len(wrong) - SHOWN:,} more"] if len(wrong) > SHOWN else []
    fix = "no other is there; check the columns" if every else f"fix them, or {skip}" if skip else "fix them"
    return BadRowsError(
        path,
        f"{len(wrong):,} rows cannot be used; {fix}:",
        [*(str(one)[:LONGEST_ROW] for one in wrong[:SHOWN]), *more],
    )


LONGEST_ROW = 300
"""Characters of a row's error among others."""


def shortened(text: str) -> str:
    """The text in quotes, cut to what an error message can hold."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
