"""Progress: how much of how much, how fast, and how long yet; what an earlier run did is not done now."""

import io
import re
import sys

import pytest

from limbeck.progress import SILENT, Track, tracker


class Clock:
    """A monotonic clock that is moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("limbeck.progress.time.monotonic", clock)
    return clock


@pytest.fixture
def said() -> list[str]:
    return []


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error is a terminal from here on (pytest sets its own one after the fixtures)."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in {"TERM": "xterm", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return screen


def work(track: Track, clock: Clock, total: int, steps: list[int], *, seconds: float = 20) -> None:
    """Advance to each of `steps`, the first one at once and the others `seconds` apart."""
    with track("work", total) as advance:
        for place, done in enumerate(steps):
            clock.now += seconds if place else 0
            advance(done, "loss 0.5")


def test_lines_say_how_far_how_fast_and_how_long(clock: Clock, said: list[str]) -> None:
    work(tracker(said.append), clock, 100, [0, 40, 80])
    assert said == [
        "work: 40 of 100, 2.0/s, 30 s left loss 0.5",
        "work: 80 of 100, 2.0/s, 10 s left loss 0.5",
    ]


def test_lines_come_seldom(clock: Clock, said: list[str]) -> None:
    work(tracker(said.append), clock, 100, list(range(31)), seconds=1)
    assert [line.split(",")[0] for line in said] == ["work: 15 of 100", "work: 30 of 100"]


def test_lines_leave_out_what_is_not_known(clock: Clock, said: list[str]) -> None:
    with tracker(said.append)("work", 0) as advance:
        advance(0)
        clock.now += 20
        advance(5)
        clock.now += 20
        advance(8, "", 40)
        clock.now += 20
        advance(41)
    assert said == ["work: 5, 0.2/s", "work: 8 of 40, 0.2/s, 160 s left", "work: 41 of 40, 0.7/s"]


def test_lines_do_not_count_what_an_earlier_run_did(clock: Clock, said: list[str]) -> None:
    work(tracker(said.append), clock, 1000, [900, 920])
    assert said == ["work: 920 of 1000, 1.0/s, 80 s left loss 0.5"]


def test_no_time_at_all_is_no_division_by_zero(clock: Clock, said: list[str]) -> None:
    work(tracker(said.append), clock, 10, [0, 5], seconds=0)
    assert said == []


@pytest.mark.parametrize(
    ("total", "steps", "shown"),
    [(100, [0, 40], "40/100 2.0/s"), (1000, [900, 920], "920/1000 1.0/s"), (0, [0, 5], "5/? 0.2/s")],
)
def test_the_bar_shows_the_same_rate(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, total: int, steps: list[int], shown: str
) -> None:
    terminal, lines = open_terminal(monkeypatch), list[str]()
    work(tracker(lines.append), clock, total, steps)
    screen = plain(terminal.getvalue())
    assert shown in " ".join(screen.split()), screen
    assert "loss 0.5" in screen
    assert lines == [], "a terminal gets a bar instead"


def plain(screen: str) -> str:
    """The text of a screen without its control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with SILENT("work", 3) as advance:
        advance(1, "note", 4)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
