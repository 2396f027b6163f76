"""What reading published files has in common: which files, of which split, one gold per question."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from limbeck.errors import DataError, DiskError, RecipeError
from limbeck.published.found import Found, Given, Request, SetAside, Source
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.readers import Placed, Row, read_rows
from limbeck.tasks.rows import row_problem, shortened
from limbeck.tasks.settings import Columns


@dataclass(frozen=True, slots=True)
class File:
    """A file to read; `name` is its path from what was given, `role` what is known of it ("": nothing)."""

    path: Path
    name: str
    role: str = ""


@dataclass
class Reading:
    """What has been read so far; `golds` remembers each question's answer and where it was."""

    kind: AnswerKind
    request: Request
    splits: dict[str, dict[str, Problem]] = field(
        default_factory=lambda: {"train": {}, "dev": {}, "test": {}}
    )
    golds: dict[str, tuple[Problem, str]] = field(default_factory=dict)
    given: dict[str, list[Given]] = field(default_factory=dict)
    set_aside: list[SetAside] = field(default_factory=list)

    def problem(self, place: str, row: Row, columns: Columns, split: str, origin: str) -> Problem:
        """The row's problem, now one of the split.

        Its gold must be that of all other records of the question; or the first is kept, if the user said so.

        Raises:
            DataError: the row is none, or the question has two golds.
        """
        problem = row_problem(place, row, columns, self.kind)
        first, earlier = self.golds.setdefault(problem.id, (problem, place))
        if first.gold != problem.gold:
            if self.request.gold == "refuse":
                raise DataError(
                    place,
                    f"the question has the answer {shortened(problem.gold)} here, but "
                    f"{shortened(first.gold)} at {earlier}; keep one of them, or the first with --gold first",
                )
            self.set_aside.append(SetAside(origin, problem.gold, first.gold, earlier))
        self.splits[split].setdefault(first.id, first)
        return first

    def found(self, read: Sequence[Source], missing: Sequence[str]) -> Found:
        """All of it."""
        train, dev, test = (list(problems.values()) for problems in self.splits.values())
        task = self.request.task or "imported"
        return Found(task, self.kind, read, missing, train, test, self.given, self.set_aside, dev)


def files_of(
    paths: Sequence[str], roles: str, in_folder: Callable[[Path], tuple[list[File], list[str]]]
) -> tuple[list[File], list[str]]:
    """The files that the user named, and the names of those that a folder lacks.

    Args:
        paths: folders, or files with or without "ROLE=" before them.
        roles: a regular expression of the roles.
        in_folder: what a folder holds, and lacks.

    Raises:
        RecipeError: a file is given twice.
    """
    files: list[File] = []
    missing: list[str] = []
    for path in paths:
        named = re.fullmatch(rf"({roles})=(.+)", path)
        if named and not Path(path).exists():
            files.append(File(Path(named[2]), Path(named[2]).name, named[1]))
        elif Path(path).is_dir():
            there, absent = in_folder(Path(path))
            files, missing = files + there, missing + absent
        else:
            files.append(File(Path(path), Path(path).name))
    places = [file.path.resolve() for file in files]
    for place in places:
        if places.count(place) > 1:
            raise RecipeError(f"{place}: given twice; name every file once")
    return files, missing


def kind_of(request: Request, known: Mapping[str, AnswerKind]) -> AnswerKind:
    """The kind of the answers: that of the published set, or what the user says.

    Raises:
        RecipeError: nobody says it, or the two differ.
    """
    task, kind = request.task, request.kind
    usual = known.get((task or "").casefold())
    if usual and kind and kind != usual:
        raise RecipeError(f"--kind {kind}: the answers of {task} are of kind {usual}; remove --kind")
    if kind is None and usual is None:
        which = f"the answer kind of {task!r} is not known" if task else "the answer kind is not known"
        raise RecipeError(
            f"--kind: {which}; give number, choice, text or yes-no, or --task with one of {', '.join(known)}"
        )
    return kind or usual or "text"


def records_of(file: File) -> tuple[list[Placed], str]:
    """The rows of a file, each with its place, and the SHA-256 of its content.

    Raises:
        DataError: there is no such file, or it holds no rows; DiskError: it cannot be read.
    """
    checksum = checksum_of(file)
    return list(read_rows(file.path)), checksum


def checksum_of(file: File) -> str:
    """The SHA-256 of a file's content.

    Raises:
        DataError: there is no such file; DiskError: it cannot be read.
    """
    try:
        return hashlib.sha256(file.path.read_bytes()).hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(file.path, "there is no such file; check the path") from None
    except OSError as error:
        raise DiskError(file.path, error) from error


def no_folders(folder: Path) -> tuple[list[File], list[str]]:
    """What a folder holds, of a format whose files are named one by one.

    Raises:
        RecipeError: always.
    """
    raise RecipeError(f"{folder}: is a folder; name the files in it")
