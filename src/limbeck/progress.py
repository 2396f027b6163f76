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
    """advance(done, note): `done` of the total, `note` such as "loss 0.31"; `total` corrects the total."""

    def __call__(self, done: int, note: str = "", total: int | None = None) -> None: ...


class Track(Protocol):
    """track(what, total) -> context manager that yields `advance`."""

    def __call__(self, what: str, total: int) -> AbstractContextManager[Advance]: ...


@contextmanager
def _silent(what: str, total: int) -> Iterator[Advance]:
    yield lambda done, note="", total=None: None


SILENT: Track = _silent


def tracker(say: Callable[[str], None]) -> Track:
    """A live bar when standard error is a terminal, else lines through `say`."""
    return _bar if sys.stderr.isatty() else _lines(say)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=total, note="", rate="")

        def advance(done: int, note: str = "", total: int | None = None) -> None:
            rate = done / max(time.monotonic() - start, 1e-9)
            progress.update(bar, completed=done, total=total, note=note, rate=f"{rate:.1f}/s")

        yield advance


def _lines(say: Callable[[str], None]) -> Track:
    @contextmanager
    def lines(what: str, total: int) -> Iterator[Advance]:
        start = last = time.monotonic()
        first: int | None = None
        whole = total

        def advance(done: int, note: str = "", total: int | None = None) -> None:
            nonlocal last, first, whole
            whole = whole if total is None else total
            first = done if first is None else first  # a resumed stage starts above 0
            now = time.monotonic()
            if now - last < LINE_EVERY_S:
                return
            last = now
            rate = max(done - first, 0) / (now - start)
            left = f", {(whole - done) / rate:.0f} s left" if rate > 0 else ""
            say(f"{what}: {done} of {whole}, {rate:.1f}/s{left} {note}".rstrip())

        yield advance

    return lines
