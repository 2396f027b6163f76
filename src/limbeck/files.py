"""Files that survive a kill: whole files, whole folders, and logs that grow line by line.

What a file holds is known again by its SHA-256 (`digest`), a line of a log by a sum at its end (`with_sum`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from limbeck.errors import DiskError, InputError, RunInUseError

BLOCK = 1 << 16

SUM = re.compile(rb', "sum": "([0-9a-f]{16})"\}\Z')


TICK_NS = 50_000_000
"""Longer than the step of the clock that dates files: what is older gets another date when written."""

_Known = dict[Path, tuple[tuple[int, ...], str]]

_known: _Known = {}  # what this process hashed: size, dates and place, SHA-256


def digest(path: Path) -> str:
    """SHA-256 of a file, read once per process as long as it is not written again.

    Raises:
        OSError: it cannot be read.
    """
    place, version = path.resolve(), _version(path)
    if place in _known and _known[place][0] == version:
        return _known[place][1]
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if _version(path) == version and time.time_ns() - max(version[1:3]) > TICK_NS:
        _known[place] = (version, found)
    return found


def _version(path: Path) -> tuple[int, ...]:
    at = path.stat()
    return at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino


def read_at(stream: FileIO, count: int, begin: int) -> bytes:
    """So many bytes from a place; fewer only where the file ends before.

    The system may give fewer at a time: Linux at most 2 GB.
    """
    parts = []
    while count and (part := _some_at(stream, count, begin)):
        parts.append(part)
        count, begin = count - len(part), begin + len(part)
    return b"".join(parts)


def _some_at(stream: FileIO, count: int, begin: int) -> bytes:
    """At most so many bytes from a place; none only at the end of the file.

    Processes that forked share the stream's own place. So it is used only where there is no `pread`: on
    Windows, which does not fork.
    """
    if hasattr(os, "pread"):
        return os.pread(stream.fileno(), count, begin)
    stream.seek(begin)
    return stream.read(count)


def with_sum(line: bytes) -> bytes:
    """A JSON object on one line, with a sum of its bytes as its last entry."""
    return line[:-1] + b', "sum": "' + _sum(line).encode() + b'"}'


def without_sum(line: bytes) -> bytes:
    """The line as it was given to `with_sum`; one that has no sum as it is.

    Raises:
        ValueError: the line changed since.
    """
    line = line.rstrip(b"\n")
    found = SUM.search(line)
    if not found:
        return line
    plain = line[: found.start()] + b"}"
    if _sum(plain) != found[1].decode():
        raise ValueError("it changed since it was written")
    return plain


def _sum(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


def sync(folder: Path) -> None:
    """Wait until the disk holds everything in a folder, and its name.

    What goes away meanwhile is left out, such as the temporary files of other processes on NFS.
    """
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            _to_disk(path)
    for path in (folder, folder.parent):
        _to_disk(path)


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a device or a socket: reading it may never end, and never gives the same twice.

    What is not there is left to the code that opens it.

    Raises:
        InputError: naming the path.
    """
    with suppress(OSError, ValueError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{path}: a pipe or a device, not a file; write its content to a file")


HIDDEN_BY_NFS = ".nfs"
"""How the name of a file begins that was removed on NFS while a process has it open."""

PARTIAL = ".partial"
"""How the name of a file ends that is not whole yet."""


def existing_parent(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.is_dir())


def remove_partial(folder: Path) -> None:
    """Remove the files in a folder, itself alone, that a killed process did not finish."""
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """Open a text file (UTF-8) that appears under `path` only when the block ends well.

    Raises:
        DiskError: the folder cannot be written or the disk is full.
    """
    with _whole(path, "w", encoding="utf-8", newline="\n") as stream:
        yield stream


@contextmanager
def whole_binary_file(path: Path) -> Iterator[IO[bytes]]:
    """As `whole_file`, for bytes."""
    with _whole(path, "wb") as stream:
        yield stream


@contextmanager
def _whole(path: Path, mode: str, **how: str) -> Iterator[IO[Any]]:
    partial: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
        with open(handle, mode, **how) as stream:  # type: ignore[call-overload]
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
        _to_disk(path.parent)
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


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of `folder` only when the block ends well.

    Raises:
        DiskError: the place cannot be written or the disk is full; an older folder is still there.
    """
    folder = Path(os.path.abspath(folder))  # `.` has no name
    partial, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
        _put_back(old, folder)
        partial.mkdir(parents=True)
        yield partial
        sync(partial)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        _to_disk(folder.parent)
    except OSError as error:
        raise DiskError(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _put_back(old, folder)


def _put_back(old: Path, folder: Path) -> None:
    """The older folder that was moved aside: back to its place if that is free, else removed."""
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _to_disk(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows syncs what may be written
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class AppendLog:
    """A file of lines that are appended one by one; one process writes, any may read.

    A line counts once its line end is there. What a kill left after the last whole line is never read,
    and is cut off before the next line is appended. Reading changes nothing.

    Args:
        path: the file; made with the first line.
        durable: wait until the disk holds each line (fsync).

    Raises:
        DiskError: the file cannot be read.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        self._durable = durable
        self._end = self._size = 0  # bytes of whole lines, and of the file as last seen
        self.refresh()

    def refresh(self) -> None:
        """Take note of what another process appended since."""
        try:
            with self.path.open("rb") as stream:
                self._size = stream.seek(0, os.SEEK_END)
                self._end = _end_of_lines(stream, self._size)
        except (FileNotFoundError, NotADirectoryError):
            self._end = self._size = 0
        except OSError as error:
            raise DiskError(self.path, error) from error

    def lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, line with its end) of the whole lines from `start`, an offset, on."""
        if start >= self._end:
            return
        with self._reading() as stream:
            stream.seek(start)
            while start < self._end:
                line = stream.readline()
                yield start, line
                start += len(line)

    def at(self, offsets: Iterable[int]) -> Iterator[bytes]:
        """Yield the lines that begin at these offsets."""
        with self._reading() as stream:
            for offset in offsets:
                stream.seek(offset)
                yield stream.readline()

    def append(self, line: bytes) -> int:
        """Append one line, given without its end, whole or not at all; return its offset.

        Raises:
            RunInUseError: another process appended to the file.
            DiskError: the file cannot be written; it is as it was.
        """
        try:
            folder, begun = self.path.parent, self._size > 0
            folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as stream:
                self._write(stream, line + b"\n")
            if (
                self._durable and not begun
            ):  # a new file is found after a power cut only if its folders know it
                _to_disk(folder)
                _to_disk(folder.parent)
        except OSError as error:
            raise DiskError(self.path, error) from error
        offset, self._end = self._end, self._end + len(line) + 1
        self._size = self._end
        return offset

    def cut(self, offset: int) -> None:
        """Drop the lines from an offset on.

        Raises:
            DiskError: the file cannot be written.
        """
        try:
            with self.path.open("ab") as stream:
                os.ftruncate(stream.fileno(), offset)
        except OSError as error:
            raise DiskError(self.path, error) from error
        self._end = self._size = offset

    def _write(self, stream: Any, line: bytes) -> None:
        handle = stream.fileno()
        if os.fstat(handle).st_size != self._size:
            raise RunInUseError(f"{self.path}: another process writes here; let one of them end first")
        if self._size > self._end:
            os.ftruncate(handle, self._end)  # a torn last line
            self._size = self._end
        try:
            rest = line
            while rest:
                rest = rest[stream.write(rest) :]
            if self._durable:
                os.fsync(handle)
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle, self._end)
            raise

    @contextmanager
    def _reading(self) -> Iterator[IO[bytes]]:
        try:
            with self.path.open("rb") as stream:
                yield stream
        except OSError as error:
            raise DiskError(self.path, error) from error


def _end_of_lines(stream: IO[bytes], size: int) -> int:
    """Where the last whole line of a file ends; 0 when there is none."""
    stop = size
    while stop > 0:
        start = max(0, stop - BLOCK)
        stream.seek(start)
        found = stream.read(stop - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        stop = start
    return 0


@contextmanager
def held(lock: Path, in_use: str) -> Iterator[None]:
    """Hold a lock; its folder is made.

    Args:
        in_use: the error's text where another process holds it.

    Raises:
        RunInUseError: another process holds it.
        DiskError: the folder cannot be written.
    """
    found = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        found.acquire(timeout=0)
    except Timeout:
        raise RunInUseError(in_use) from None
    except OSError as error:
        raise DiskError(lock.parent, error) from error
    try:
        yield
    finally:
        found.release()
