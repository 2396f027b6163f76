"""The records that travel between stages, and the JSONL files they live in.

One record is one line. Files are written whole or not at all (`write_whole`),
except append logs of paid-for work, whose torn last line is dropped on reading.
Lines end with "\\n" only: U+2028 and U+0085 occur inside real questions.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limbeck.errors import DataError, DiskError


class Record(BaseModel):
    """Base of all records: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Problem(Record):
    """A question with its gold answer in canonical form (see `tasks.answers`)."""

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    options: tuple[str, ...] = ()


class Rationale(Record):
    """A chain of thought about a problem, as `source` wrote it.

    `reasoning` is the completion without its closing answer statement, `answer`
    what was extracted from it (None: extraction failed) and `how` by what: an
    explicit marker ("the answer is") or the answer kind's fallback. `dropped`
    says why it is not trained on; None means kept. `origin` is "file#record" of
    the published file that it was imported from.
    """

    problem_id: str
    source: str
    index: int = Field(ge=0, description="n-th rationale of this source for this problem")
    completion: str
    reasoning: str
    answer: str | None
    how: Literal["marker", "fallback"] | None = None
    correct: bool
    dropped: str | None = None
    truncated: bool = False
    tokens: int = 0
    origin: str = ""


class Passage(Record):
    """A piece of knowledge."""

    id: str
    title: str = ""
    text: str


class Prediction(Record):
    """What one model answered to one problem in an exam.

    With several votes, `completion` is the first one that gave the majority's
    answer, `votes` the answers of all. `answer` None: extraction failed.
    """

    problem_id: str
    question: str
    gold: str
    completion: str
    answer: str | None
    correct: bool
    tokens: int
    truncated: bool = False
    votes: tuple[str | None, ...] = ()


class Example(Record):
    """One training example; the columns are those of the ecosystem's trainers.

    `answer_span` is where the final answer stands in `completion`, in characters. A loss part knows
    an example by its `role`. An example that is not `scored` is in the batch (its states and its
    span can be used) without a token loss of its own; `weight` is that of its tokens in such losses.
    """

    problem_id: str
    prompt: str
    completion: str
    answer_span: tuple[int, int] | None = None
    role: str = ""
    scored: bool = True
    weight: float = 1.0


R = TypeVar("R", bound=Record)


@contextmanager
def write_whole(path: Path) -> Iterator[IO[str]]:
    """Open a text file that appears under `path` only when the block ends well.

    Raises:
        DiskError: the folder cannot be written or the disk is full.
    """
    partial: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        raise DiskError(path, error) from error
    finally:
        if partial is not None:
            with suppress(OSError):
                os.unlink(partial)


def _umask() -> int:
    """The process's umask (mkstemp ignores it, so that files come out 0600)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Write records to `path`, whole or not at all; return how many."""
    count = 0
    with write_whole(path) as stream:
        for record in records:
            stream.write(record.model_dump_json() + "\n")
            count += 1
    return count


def write_json(path: Path, value: object) -> None:
    """Write one JSON document to `path`, whole or not at all."""
    with write_whole(path) as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False)
        stream.write("\n")


def read_jsonl(path: Path, kind: type[R], *, torn_tail: bool = False) -> Iterator[R]:
    """Yield the records of a JSONL file.

    Args:
        path: the file.
        kind: the record type of every line.
        torn_tail: leave out a last line without its line end (a killed append).

    Raises:
        DataError: a line is not JSON or not such a record, with `file:line`.
        DiskError: the file cannot be read.
    """
    for number, line in numbered_lines(path, torn_tail=torn_tail):
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"{path}:{number}", f"not a {kind.__name__}: {first_problem(error)}") from None


def numbered_lines(path: Path, *, torn_tail: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the non-empty lines of a UTF-8 file."""
    try:
        with path.open(encoding="utf-8", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                if torn_tail and not line.endswith("\n"):
                    return
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise DataError(path, f"not valid UTF-8 ({error.reason}); convert the file to UTF-8") from None
    except OSError as error:
        raise DiskError(path, error) from error


def first_problem(error: ValidationError) -> str:
    """The first complaint of a pydantic error, as `setting.path: what is wrong`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
