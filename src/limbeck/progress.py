"""Progress of long work: a live bar on a terminal, plain lines elsewhere.

Library code takes a `Track`, a function that opens a bar and gives back the
function to advance it; `SILENT` is the one that shows nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

LINE_EVERY_S = 15.0


class Advance(Protocol):
    """advance(done, note): `done` of the total, `note` such as "loss 0.31"; `total` corrects the total.

    The first call's `done` is where the rate starts from: what was there already was not done now.
    """

    def __call__(self, done: int, note: str = "", total: int | None = None) -> None: ...


class Track(Protocol):
    """track(what, total) -> context manager that yields `advance`; `total` 0: not known yet."""

    def __call__(self, what: str, total: int) -> AbstractContextManager[Advance]: ...


def notice(line: str) -> None:
    """Show a line where no run is open that keeps a log."""
    print(line, file=sys.stderr)


@contextmanager
def _silent(what: str, total: int) -> Iterator[Advance]:
    yield lambda done, note="", total=None: None


SILENT: Track = _silent


def tracker(say: Callable[[str], None]) -> Track:
    """A live bar when standard error is a terminal, else lines through `say`."""
    return _bar if sys.stderr.isatty() else _lines(say)


class _Pace:
    """How fast work goes: what was done before the first `advance`, by an earlier run, does not count."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.first: int | None = None

    def rate(self, done: int) -> float:
        """Units per second; 0 while there is nothing to report."""
        self.first = done if self.first is None else self.first
        elapsed = time.monotonic() - self.start
        return max(done - self.first, 0) / elapsed if elapsed > 0 else 0.0


@contextmanager
def _bar(what: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    pace = _Pace()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=total or None, note="", rate="")  # None: not known

        def advance(done: int, note: str = "", total: int | None = None) -> None:
            rate = pace.rate(done)
            progress.update(bar, completed=done, total=total or None, note=note, rate=f"{rate:.1f}/s")

        yield advance


def _lines(say: Callable[[str], None]) -> Track:
    @contextmanager
    def lines(what: str, total: int) -> Iterator[Advance]:
        pace = _Pace()
        last = pace.start
        whole = total

        def advance(done: int, note: str = "", total: int | None = None) -> None:
            nonlocal last, whole
            whole = total or whole
            rate = pace.rate(done)
            now = time.monotonic()
            if now - last < LINE_EVERY_S:
                return
            last = now
            known = f" of {whole}" if whole else ""
            left = f", {(whole - done) / rate:.0f} s left" if rate > 0 and whole > done else ""
            say(f"{what}: {done}{known}, {rate:.1f}/s{left} {note}".rstrip())

        yield advance

    return lines
