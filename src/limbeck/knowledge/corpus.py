"""Documents from the user's files, one at a time: what they hold need not fit into memory.

Formats are those of `tasks.readers`; a .json file alone is read whole. Every row that cannot be used is
named. From the first one on, the rest is only read for more of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from limbeck.errors import DataError
from limbeck.knowledge.settings import CorpusSettings
from limbeck.tasks.readers import Row, read_rows
from limbeck.tasks.rows import bad_rows


class Document(NamedTuple):
    """A text of a corpus; `place` is its "file:line"."""

    id: str
    title: str
    text: str
    place: str


@dataclass
class Corpus:
    """The documents of several files, in order.

    Args:
        paths: files, saved data sets, or "hf:NAME:SPLIT".
        columns: which are what, and whether bad rows are skipped.

    Attributes:
        left_out: the errors of rows that were skipped so far.
    """

    paths: Sequence[str]
    columns: CorpusSettings

    def __post_init__(self) -> None:
        self.left_out: list[DataError] = []

    def __iter__(self) -> Iterator[Document]:
        """Read them.

        Raises:
            DataError: naming every row that cannot be used; there is no such file.
            DiskError: a file cannot be read.
        """
        self.left_out = []
        for path in self.paths:
            yield from self._file(path)

    def _file(self, path: str) -> Iterator[Document]:
        wrong: list[DataError] = []
        usable = False
        for place, row in read_rows(path, wrong.append):
            try:
                document = _document(place, row, self.columns)
            except DataError as error:
                wrong.append(error)
                continue
            usable = True
            if not wrong or self.columns.bad_rows == "skip":
                yield document
        if wrong and (self.columns.bad_rows == "refuse" or not usable):
            raise bad_rows(path, wrong, every=not usable, skip="leave them out with --bad-rows skip")
        self.left_out += wrong


def _document(place: str, row: Row, columns: CorpusSettings) -> Document:
    name, title, text = (_text(place, row, column) for column in (columns.id, columns.title, columns.text))
    if not name.strip():
        raise DataError(place, f"the id (column {columns.id!r}) is empty; give every document its own")
    if not (title.strip() or text.strip()):
        raise DataError(place, "title and text are empty; write a text or remove the row")
    return Document(name, title, text, place)


_OPTIONAL = CorpusSettings().title


def _text(place: str, row: Row, column: str) -> str:
    """A cell as text; a whole number is one, and nothing is none."""
    if not column or (column == _OPTIONAL and column not in row):
        return ""
    if column not in row:
        raise DataError(
            place,
            f"there is no column {column!r}, but {', '.join(row)[:200]}; name the columns of the corpus",
        )
    cell = row[column]
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    if cell is not None and not isinstance(cell, str):
        raise DataError(place, f"the column {column!r} is not text but {type(cell).__name__}; write text")
    return cell or ""
