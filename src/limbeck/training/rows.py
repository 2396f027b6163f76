"""Tokenised examples, and groups of them, in a file without a name: a row is made when it is looked at.

What batches, keys and orders need of every row is in flat arrays, some 50 bytes a row. Its ids, labels and
weights are read from the file. It is read and not mapped, because mapped pages would count as the process's
own until the system wants them back. The system removes the file with the process, however that ends.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DiskError
from limbeck.files import read_at
from limbeck.objectives.align import IGNORED

NO_KEY = (0, 0)
"""The key of a row that is not there."""

NO_SPAN = (-1, -1)
"""The span of a row whose answer was not marked or not found."""

HEAD = struct.Struct("<7i")
"""In front of a row in the file: span (two), prompt, how many ignored labels are left out in front of those
that are the ids again (-1: all labels follow), and the bytes of problem id, key and question. The last two
are its group's, and stand with the group's first row."""

Places = NDArray[np.int64]
"""Rows or groups, by their numbers from 0."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenised example.

    Decoder-only: `labels` and `weights` go with `input_ids`, position by position.
    Encoder-decoder: `input_ids` feed the encoder, `labels` are the decoder's.

    `span` is the answer's place in `labels`, `prompt` how many labels in front of the completion are scored.
    `key` follows from the ids and labels alone: 128 bits
    of their BLAKE2b, as two signed int64. What is stored about a row is found again by it, whatever
    the batch, the order, the role or the span.

    Ids, labels and weights may be given as any sequence; they are kept as arrays, in 4 bytes (8 for a weight)
    where a list takes 40 and more.
    """

    problem_id: str
    input_ids: Sequence[int]
    labels: Sequence[int]
    weights: Sequence[float] | None = None
    scored: bool = True
    role: str = ""
    span: tuple[int, int] = NO_SPAN
    prompt: int = 0
    key: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        for name, code in (("input_ids", "i"), ("labels", "i"), ("weights", "d")):
            given = getattr(self, name)
            if given is not None and not (isinstance(given, array) and given.typecode == code):
                object.__setattr__(self, name, array(code, given))
        object.__setattr__(self, "key", _key(self.input_ids, self.labels))

    @property
    def begin(self) -> int:
        """Where in `labels` the completion begins."""
        return self.prompt or next((n for n, label in enumerate(self.labels) if label != IGNORED), 0)

    def prompt_ids(self, *, encoder_decoder: bool) -> tuple[int, ...]:
        """What rows must have in common to share it: all that the encoder reads, or what is in front of the
        completion. An empty prompt gives the completion's first token, which nothing predicts."""
        return tuple(self.input_ids if encoder_decoder else self.input_ids[: max(self.begin, 1)])


def _key(input_ids: Sequence[int], labels: Sequence[int]) -> tuple[int, int]:
    numbers = np.concatenate([[len(input_ids)], input_ids, labels]).astype("<i8")
    digest = hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()
    first, second = np.frombuffer(digest, "<i8").tolist()
    return first, second


@dataclass(frozen=True, slots=True)
class RowGroup:
    """The rows of a group that can be trained on, one at least; see `groups.Group`."""

    key: str
    rows: Sequence[Row]
    question: str = ""

    @property
    def roles(self) -> list[str]:
        """The role of each row."""
        return self.rows.roles if isinstance(self.rows, Rows) else [row.role for row in self.rows]


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """What batches need of G groups of R rows, without reading a row.

    Attributes:
        starts: (G+1,) the first row of each group, and R.
        lengths: (R,2) int32: tokens of `input_ids` and of `labels`.
        scored: (R,) bool.
        spanned: (R,) bool: whether the row has a span.
        roles: (R,) int32: which of `named` the role is.
        questions: (G,) int64: equal where questions are, 0 where there is none.
    """

    starts: Places
    lengths: NDArray[np.int32]
    scored: NDArray[np.bool_]
    spanned: NDArray[np.bool_]
    roles: NDArray[np.int32]
    named: tuple[str, ...]
    questions: NDArray[np.int64]

    @property
    def rows_of_groups(self) -> Places:
        """(G,) how many rows each group has."""
        return np.diff(self.starts)

    def per_group(self, values: NDArray[Any]) -> Places:
        """(G,) sums of something over each group's rows."""
        sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return np.diff(sums[self.starts])


def outline(groups: Sequence[RowGroup]) -> Outline:
    """The outline of any groups; of those in a file it is at hand."""
    if isinstance(groups, RowGroups):
        return groups.file.outline
    columns = _Columns()
    for group in groups:
        columns.add(group)
    return columns.outline()


def question_number(question: str) -> int:
    """A number for a question: 0 for "", else 63 bits of its BLAKE2b.

    Two questions of one number would only never share a step; of a million the chance is 1 in ten million.
    """
    if not question:
        return 0
    digest = hashlib.blake2b(question.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 1) or 1


class _Columns:
    """The arrays of an outline while they grow."""

    def __init__(self) -> None:
        self.starts, self.lengths = array("q", [0]), array("i")
        self.scored, self.spanned = array("b"), array("b")
        self.roles, self.questions = array("i"), array("q")
        self.named: dict[str, int] = {}

    def add(self, group: RowGroup) -> None:
        for row in group.rows:
            self.lengths.extend((len(row.input_ids), len(row.labels)))
            self.scored.append(row.scored)
            self.spanned.append(row.span != NO_SPAN)
            self.roles.append(self.named.setdefault(row.role, len(self.named)))
        self.starts.append(len(self.scored))
        self.questions.append(question_number(group.question))

    def outline(self) -> Outline:
        return Outline(
            np.asarray(self.starts),
            np.asarray(self.lengths).reshape(-1, 2),
            np.asarray(self.scored).astype(bool),
            np.asarray(self.spanned).astype(bool),
            np.asarray(self.roles),
            tuple(self.named),
            np.asarray(self.questions),
        )


class RowFile:
    """Rows on the disk, and what is known of them without reading; `stored` makes one."""

    def __init__(self, stream: FileIO, known: Outline, keys: NDArray[np.int64], begins: Places) -> None:
        self.outline, self.keys = known, keys
        self._begins, self._stream = begins, stream
        weakref.finalize(self, stream.close)

    def _record(self, place: int) -> tuple[list[int], bytes]:
        """The head of a row, and all that follows it."""
        begin, end = self._begins[place : place + 2].tolist()
        data = read_at(self._stream, end - begin, begin)
        return list(HEAD.unpack_from(data)), data[HEAD.size :]

    def row(self, place: int) -> Row:
        """A row by its number from 0."""
        (first, last, prompt, ignored, *names), data = self._record(place)
        inputs, count = self.outline.lengths[place].tolist()
        at = sum(names)
        input_ids, labels, weights = array("i"), array("i"), array("d")
        input_ids.frombytes(data[at : at + 4 * inputs])
        at += 4 * inputs
        if ignored < 0:
            labels.frombytes(data[at : at + 4 * count])
            at += 4 * count
        else:
            labels = array("i", [IGNORED]) * ignored + input_ids[ignored:]
        weights.frombytes(data[at:])
        return Row(
            data[: names[0]].decode("utf-8", "surrogatepass"),
            input_ids,
            labels,
            weights or None,
            bool(self.outline.scored[place]),
            self.outline.named[self.outline.roles[place]],
            (first, last),
            prompt,
        )

    def group(self, number: int) -> RowGroup:
        """A group by its number from 0; its rows are read when they are looked at."""
        first, end = self.outline.starts[number : number + 2].tolist()
        (*_, name, key, question), data = self._record(first)
        text = data[name : name + key + question]
        key_text, question_text = text[:key], text[key:]
        return RowGroup(
            key_text.decode("utf-8", "surrogatepass"),
            Rows(self, range(first, end)),
            question_text.decode("utf-8", "surrogatepass"),
        )


class Rows(Sequence[Row]):
    """Some rows of a file, in an order; each is read when it is looked at."""

    def __init__(self, file: RowFile, places: range | Places) -> None:
        self._file, self._places = file, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self._file.row(int(one)) for one in self._places[place]]
        return self._file.row(int(self._places[place]))

    def some(self, places: Places) -> Rows:
        """Those at these places of this sequence, in this order."""
        own = self._places
        return Rows(self._file, own[places] if isinstance(own, np.ndarray) else places + own.start)

    def _of(self, column: NDArray[Any]) -> NDArray[Any]:
        own = self._places
        return column[own] if isinstance(own, np.ndarray) else column[own.start : own.stop]

    @property
    def keys(self) -> NDArray[np.int64]:
        """(N,2) their keys."""
        return self._of(self._file.keys)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(N,2) as `Outline.lengths`."""
        return self._of(self._file.outline.lengths)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """(N,) which are."""
        return self._of(self._file.outline.scored)

    @property
    def roles(self) -> list[str]:
        """The role of each."""
        named = self._file.outline.named
        return [named[number] for number in self._of(self._file.outline.roles).tolist()]


class RowGroups(Sequence[RowGroup]):
    """All groups of a file, in the order in which they were given."""

    def __init__(self, file: RowFile) -> None:
        self.file = file

    def __len__(self) -> int:
        return len(self.file.outline.questions)

    @overload
    def __getitem__(self, place: int) -> RowGroup: ...
    @overload
    def __getitem__(self, place: slice) -> list[RowGroup]: ...
    def __getitem__(self, place: int | slice) -> RowGroup | list[RowGroup]:
        numbers = range(len(self))[place]
        return self.file.group(numbers) if isinstance(numbers, int) else list(map(self.file.group, numbers))

    @property
    def rows(self) -> Rows:
        """The rows of all groups."""
        return Rows(self.file, range(len(self.file.outline.scored)))


def stored(groups: Iterable[RowGroup], folder: Path | None = None) -> RowGroups:
    """Groups of rows in a file without a name; each is let go when it is written.

    Args:
        folder: where the file takes its room, made if it is not there; None: where the system has its
            temporary files.

    Raises:
        DiskError: it cannot be written.
    """
    place = folder or Path(tempfile.gettempdir())
    columns, keys, begins = _Columns(), array("q"), array("q", [0])
    with _writing(place):
        place.mkdir(parents=True, exist_ok=True)
        stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    with stream:
        for group in groups:
            with _writing(place):
                for data in _records(group):
                    begins.append(begins[-1] + stream.write(data))
            columns.add(group)
            for row in group.rows:
                keys.extend(row.key)
        with _writing(place):
            stream.flush()
        # The file must outlive this block, and is closed with what reads it.
        own = FileIO(os.dup(stream.fileno()))
    known = columns.outline()
    return RowGroups(RowFile(own, known, np.asarray(keys).reshape(-1, 2), np.asarray(begins)))


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(place, error) from error


def _records(group: RowGroup) -> Iterator[bytes]:
    names = [text.encode("utf-8", "surrogatepass") for text in (group.key, group.question)]
    for row in group.rows:
        own = [row.problem_id.encode("utf-8", "surrogatepass"), *names]
        input_ids, labels = (array("i", ids).tobytes() for ids in (row.input_ids, row.labels))
        ignored = row.labels.count(IGNORED)
        # Most rows of a decoder-only model: half of the file is not needed.
        if labels == array("i", [IGNORED]).tobytes() * ignored + input_ids[4 * ignored :]:
            labels = b""
        else:
            ignored = -1
        weights = b"" if row.weights is None else array("d", row.weights).tobytes()
        yield (
            HEAD.pack(*row.span, row.prompt, ignored, *map(len, own))
            + b"".join(own)
            + input_ids
            + labels
            + weights
        )
        names = [b"", b""]


def as_rows(rows: Sequence[Row]) -> Rows:
    """Any rows as those of a file."""
    return rows if isinstance(rows, Rows) else stored(RowGroup("", (row,)) for row in rows).rows
