"""Every error Limbeck raises on purpose.

LimbeckError                    exit status 1
├── InputError                  exit status 2: something the user gave is wrong
│   ├── RecipeError             a setting of the recipe or of the command line
│   ├── DataError               a line, column or value of a data file
│   │   ├── BadRowsError        several rows of a file, all named
│   │   ├── LeakError           a question is in train and in an examined split
│   │   └── DamagedError        a file of a finished stage changed since it was written
│   ├── ModelError              a model name or folder that cannot be used
│   ├── RunInUseError           another process works in this run folder
│   └── DiskError               a file cannot be read or written
├── NothingKeptError            no rationale is left to train on
├── NotServedError              a server cannot be reached, or has not got the model that is to write
├── TeacherError                the teacher answered with an error, or not at all
│   └── CostCapError            the next request could exceed the agreed cost
└── TrainingError               training cannot go on (a loss that is not finite)

The text of an error is one sentence: where, what is wrong, and how to fix it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

PACKAGE = f"{Path(__file__).parent}{os.sep}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or what kind it is where it has none; short."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:;")[:200]


def is_explainable(error: BaseException) -> bool:
    """Whether an error that a library raised about the user's input is an error of that input.

    Not where memory ran out, and not where our own code raised it: that is a bug, and must be seen as one.
    Errors of ours explain themselves.
    """
    if isinstance(error, LimbeckError) or out_of_memory(error):
        return False
    if isinstance(error, AssertionError | NameError | SystemError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or not trace.tb_frame.f_code.co_filename.startswith(PACKAGE)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, that of the CPU in torch (a RuntimeError), or a GPU's."""
    text = str(error).casefold()
    words = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, MemoryError) or any(word in text for word in words)


LONGEST = 1_000


class LimbeckError(Exception):
    """Base of all; the command prints its text and exits with `exit_status`.

    A text of more than `LONGEST` characters loses its middle: what it quotes of a file may be very long.
    """

    exit_status = 1

    def __init__(self, text: str = "") -> None:
        if len(text) > LONGEST:
            text = f"{text[: LONGEST - 300]} … {text[-250:]}"
        super().__init__(text)


class InputError(LimbeckError):
    """Something the user gave is wrong; nothing was changed."""

    exit_status = 2


class RecipeError(InputError):
    """A setting of the recipe or of the command line is wrong."""


class DataError(InputError):
    """A data file is wrong; `place` is `file:line` where a line is to blame."""

    def __init__(self, place: str | Path, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self.place = str(place)
        self.message = message


class BadRowsError(DataError):
    """Several rows of a file are wrong; `rows` says of the first ones where and why, a sentence each."""

    def __init__(self, place: str | Path, message: str, rows: Sequence[str]) -> None:
        super().__init__(place, message)
        self.rows = tuple(rows)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *self.rows])


class LeakError(DataError):
    """A question is both in train and in a split that is examined."""


class DamagedError(DataError):
    """A file of a finished stage is not what the stage wrote; a run makes the stage again."""

    def __init__(self, stage: Path, wrong: str) -> None:
        super().__init__(stage, f"{wrong}; `limbeck run` with its recipe and run folder makes it again")
        self.stage = stage
        self.wrong = wrong


class ModelError(InputError):
    """A model name or folder cannot be used."""


class RunInUseError(InputError):
    """Another process holds the lock of this run folder."""


class DiskError(InputError):
    """A file cannot be read or written."""

    def __init__(self, path: str | Path, error: OSError) -> None:
        reason = error.strerror or type(error).__name__
        fixes = {errno.ENAMETOOLONG: "use a shorter name", errno.ENOENT: "check that the file is there"}
        fix = fixes.get(error.errno or 0, "free the space or fix the permission")
        super().__init__(f"{str(path)[:300]}: {reason}; {fix}, then run again")


class NothingKeptError(LimbeckError):
    """Every rationale was dropped; what was collected and why it was dropped is on the disk."""


class NotServedError(LimbeckError):
    """A server cannot be reached, or has not got the model whose texts it is to write; nothing is lost.

    Attributes:
        place: of the server's settings.
        url: its address.
        served_as: the name that it should have the model under.
    """

    def __init__(self, place: str, url: str, served_as: str, text: str) -> None:
        super().__init__(f"{place}: {text}")
        self.place = place
        self.url = url
        self.served_as = served_as


class TeacherError(LimbeckError):
    """The teacher answered with an error, or not at all."""


class CostCapError(TeacherError):
    """The next request could cost more than was agreed; what arrived is kept."""


class TrainingError(LimbeckError):
    """Training cannot go on."""
