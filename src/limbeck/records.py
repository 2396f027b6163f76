"""The records that travel between stages, and the JSONL files they live in.

One record is one line. Files are written whole or not at all (`files.whole_file`),
except append logs of paid-for work, whose torn last line is dropped on reading.
Lines end with "\\n" only: U+2028 and U+0085 occur inside real questions.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limbeck.errors import DataError, DiskError
from limbeck.files import refuse_special, whole_file
from limbeck.sequences import part


@cache
def _names(kind: type[BaseModel]) -> set[str]:
    return set(kind.model_fields)


class Record(BaseModel):
    """Base of all records: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def model_post_init(self, context: object, /) -> None:
        # Pydantic notes in each object which fields were given: a set that takes more than half of a record's
        # memory, for a question that is asked of mistakes alone. All others of a kind have the same one.
        object.__setattr__(self, "__pydantic_fields_set__", _names(type(self)))


class Problem(Record):
    """A question with its gold answer in canonical form (see `tasks.answers`).

    `options` are those of kind choice; `labels` the fixed set of kind label, the same for a whole task.
    `answer` None: no gold answer is known; only training problems may lack it.
    """

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str | None = Field(min_length=1)
    options: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def gold(self) -> str:
        """The gold answer, where one is needed.

        Raises:
            DataError: none is known.
        """
        if self.answer is None:
            raise DataError(f"problem {self.id}", "has no gold answer, and one is needed here; write it")
        return self.answer

    def answered(self, answer: str | None) -> Problem:
        """This problem with its gold answer; where none is known, with the one given."""
        return self if self.answer is not None else self.model_copy(update={"answer": answer})


class Rationale(Record):
    """A chain of thought about a problem, as `source` wrote it.

    `reasoning` is the completion without its closing answer statement, `answer`
    what was extracted from it (None: extraction failed) and `how` by what: an
    explicit marker ("the answer is") or the answer kind's fallback; by a marker and
    without an answer: what it states is none of the kind. `correct` is None
    where the problem has no gold answer. `cut` is how many characters at the end of
    the completion go on to another question (`tasks.run_on`): they are neither graded
    nor part of the reasoning. `dropped`
    says why it is not trained on; None means kept. `origin` is "file#record" of
    the published file that it was imported from. `about` names what else it is
    about than its problem: a mistake's or a passage's id.
    """

    problem_id: str
    source: str
    index: int = Field(
        ge=0, description="n-th rationale of this source for this problem, whatever it is about"
    )
    completion: str
    reasoning: str
    answer: str | None
    how: Literal["marker", "fallback"] | None = None
    correct: bool | None
    dropped: str | None = None
    truncated: bool = False
    tokens: int = 0
    origin: str = ""
    about: str = ""
    cut: int = Field(default=0, ge=0)
    thinking: str = Field("", description="what a reasoning model wrote before the completion")
    stopped: str = Field("", description="the stop string that ended the completion, which does not hold it")


class Prediction(Record):
    """What one model answered to one problem in an exam.

    With several votes, `completion` is the first one that gave the majority's
    answer, `votes` the answers of all. `answer` None: extraction failed. `cut`: as
    of a rationale.
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
    cut: int = Field(default=0, ge=0)
    thinking: str = ""
    stopped: str = ""


class Mistake(Record):
    """A student's answer to a training question that is not right, as the student wrote it.

    `kind`: it comes to another answer than gold ("wrong"), no answer could be read ("no-answer"), or it was
    cut off at its token limit ("cut-off"). `id` is unique in its file; what is said about it names it.
    """

    id: str = Field(min_length=1)
    problem_id: str = Field(min_length=1)
    source: str = ""
    completion: str
    answer: str | None = None
    kind: Literal["wrong", "no-answer", "cut-off"] = "wrong"
    origin: str = ""

    def model_post_init(self, context: object, /) -> None:
        """Keep which fields were given: a user's file may leave `kind` out, and it is found out then."""

    @staticmethod
    def answer_of(problem_id: str, round: int, index: int) -> str:
        """What the id of a mistake begins with: which question, which round, which answer to it."""
        return f"{problem_id}/{round}.{index}"

    @staticmethod
    def id_of(problem_id: str, round: int, index: int, text: str) -> str:
        """The id of a student's answer to a question, if it is a mistake.

        What was written is part of it: so feedback on what another student wrote, or the same one before it
        was trained again, is never taken for feedback on this.
        """
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
        return f"{Mistake.answer_of(problem_id, round, index)}-{digest}"


class Feedback(Record):
    """What a teacher says to a mistake: what went wrong, and the reasoning put right.

    `solution` is a whole rationale that ends in the answer; "" where the teacher wrote none.
    """

    mistake_id: str = Field(min_length=1)
    problem_id: str = ""
    source: str = ""
    said: str = ""
    solution: str = ""
    origin: str = ""


class Passage(Record):
    """A piece of knowledge that a prompt may hold; `document` is the id of what it was cut from."""

    id: str = Field(min_length=1)
    title: str = ""
    text: str
    document: str = ""


SilverQuery = Literal["rationale", "question", "question+rationale", "question+answer"]
"""What silver passages are searched with; the answer is the gold one, in place of the question's options."""


class Silver(Record):
    """The passages that support a rationale, best first: those that `query` finds, with their scores.

    The rationale is the one of `Rationale` with these `problem_id`, `source` and `index`. Fewer passages
    than were asked for: no others share a word with the query.
    """

    problem_id: str
    source: str
    index: int = Field(ge=0)
    query: SilverQuery
    passages: tuple[str, ...]
    scores: tuple[float, ...]


class Found(Record):
    """The passages that were found for a question, best first, with their scores."""

    problem_id: str
    passages: tuple[str, ...]
    scores: tuple[float, ...]


class Demonstration(Record):
    """A question, with its options, and what shall be written to it: shown before the question asked."""

    question: str = Field(min_length=1)
    completion: str = Field(min_length=1)
    problem_id: str = ""


class Also(Record):
    """A row of the data that asks what problem `problem_id` asks: its rationales are about that one."""

    id: str
    question: str
    problem_id: str


class LeftOut(Record):
    """A row of a file that is not used, and why; `split` says of which one, or "rationales"."""

    split: str
    place: str
    why: str


class Pieces(Record):
    """The named parts of a prompt, until its tokens are counted (see `tasks.templates`).

    `options` is empty where they are in the question. `more` are the places of
    later kinds of prompts by name: the answer given, a mistake, feedback. Only
    passages and examples may be cut.
    """

    question: str = Field(min_length=1)
    options: str = ""
    instruction: str = ""
    examples: tuple[Demonstration, ...] = ()
    passages: tuple[str, ...] = ()
    cue: str = ""
    more: Mapping[str, str] = Field(default_factory=dict)


class Example(Record):
    """One training example; the columns are those of the ecosystem's trainers.

    `prompt` is in pieces until tokens are counted, then text. `answer_span` are
    character offsets of the final answer in `completion`; `role` is what a loss
    part knows the example by, such as "positive". One that is not `scored` is in
    the batch without a token loss of its own; `weight` is that of its tokens.
    """

    problem_id: str
    prompt: str | Pieces
    completion: str
    answer_span: tuple[int, int] | None = None
    role: str = ""
    scored: bool = True
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)


R = TypeVar("R", bound=Record)


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Write records to `path`, whole or not at all; return how many."""
    count = 0
    with whole_file(path) as stream:
        for record in records:
            stream.write(record.model_dump_json() + "\n")
            count += 1
    return count


def write_records(path: Path, records: Iterable[R], kind: type[R]) -> Records[R]:
    """As `write_jsonl`; gives the records as they are read from there, which are not checked again."""
    starts, end = array("Q"), 0
    with whole_file(path) as stream:
        for record in records:
            line = record.model_dump_json() + "\n"
            stream.write(line)
            starts.append(end)
            end += len(line.encode())
    return Records(path, kind, starts)


def write_json(path: Path, value: object) -> None:
    """Write one JSON document to `path`, whole or not at all."""
    with whole_file(path) as stream:
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
    lines = numbered_lines(path, torn_tail=torn_tail)
    return (_record(path, number, line, kind) for number, line in lines)


def placed_records(
    path: Path, kind: type[R], *, called: str = "", torn_tail: bool = False
) -> Iterator[tuple[str, R]]:
    """As `read_jsonl`, with each record's `file:line`.

    Args:
        called: what errors call such a record; "": its class.
    """
    for number, line in numbered_lines(path, torn_tail=torn_tail):
        yield f"{path}:{number}", _record(path, number, line, kind, called)


def _record(path: Path, number: int, line: str, kind: type[R], called: str = "") -> R:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        wrong = f"not {called or f'a {kind.__name__}'}: {first_problem(error)}"
        raise DataError(f"{path}:{number}", wrong) from None


AHEAD = 64
"""Records that are read from the disk at once where they are looked at one after another."""


class Records(Sequence[R]):
    """The records of a JSONL file, which are read when they are looked at: 8 bytes of memory each.

    All of them are read once at the beginning, so what is wrong is found then. The file stays as it is while
    anybody holds them; another one in its place is refused, whose lines may begin elsewhere.

    Args:
        path: the file.
        kind: the record type of every line.
        starts: where each line begins, in bytes, of a file that was just written; None: it is read.

    Raises:
        DataError: as `read_jsonl`; when records are looked at: the file was written again.
        DiskError: as `read_jsonl`.
    """

    def __init__(self, path: Path, kind: type[R], starts: array[int] | None = None) -> None:
        self.path = path
        self.kind = kind
        self._starts = array("Q") if starts is None else starts
        self._ahead: tuple[int, list[bytes]] = (0, [])
        if starts is None:
            for number, start, line in _lines(path):
                _record(path, number, line, kind)
                self._starts.append(start)
        self._version = self._found()

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[R]:
        self._refuse_another()
        yield from read_jsonl(self.path, self.kind)

    @overload
    def __getitem__(self, place: int) -> R: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[R]: ...
    def __getitem__(self, place: int | slice) -> R | Sequence[R]:
        if isinstance(place, slice):
            return part(self, place)
        return self.kind.model_validate_json(self._line(range(len(self))[place]))

    def _line(self, place: int) -> bytes:
        """The line of a record; where the one before was looked at last, some more are read with it."""
        first, lines = self._ahead
        if first <= place < first + len(lines):
            return lines[place - first]
        stop = min(place + AHEAD, len(self)) if place == first + len(lines) else place + 1
        self._refuse_another()
        try:
            with self.path.open("rb") as stream:
                lines = []
                for start in self._starts[place:stop]:
                    stream.seek(start)
                    lines.append(stream.readline())
        except OSError as error:
            raise DiskError(self.path, error) from error
        self._ahead = place, lines
        return lines[0]

    def _found(self) -> tuple[int, int]:
        """Which file it is: one that is written whole has another number. Times differ by themselves on
        network disks."""
        try:
            at = self.path.stat()
        except OSError as error:
            raise DiskError(self.path, error) from error
        return at.st_ino, at.st_size

    def _refuse_another(self) -> None:
        if self._found() != self._version:
            raise DataError(
                self.path,
                "was overwritten while this run was still reading it; write the new records to another file",
            )


def numbered_lines(path: Path, *, torn_tail: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the non-empty lines of a UTF-8 file."""
    return ((number, line) for number, _, line in _lines(path, torn_tail=torn_tail))


def _lines(path: Path, *, torn_tail: bool = False) -> Iterator[tuple[int, int, str]]:
    """As `numbered_lines`, with the byte at which each line begins between the two."""
    refuse_special(path)
    start = 0
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if torn_tail and not line.endswith(b"\n"):
                    return
                text = line.decode()
                if text.strip():
                    yield number, start, text
                start += len(line)
    except UnicodeDecodeError as error:
        raise DataError(path, f"not valid UTF-8 ({error.reason}); convert the file to UTF-8") from None
    except OSError as error:
        raise DiskError(path, error) from error


def first_problem(error: ValidationError) -> str:
    """The first complaint of a pydantic error, as `setting.path: what is wrong`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
