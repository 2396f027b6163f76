"""What all tests share: one thread, no network, and the command as a function."""

import gc
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
for ended_by, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, ended_by, None)  # Windows has no SIGHUP
    if number and signal.getsignal(number) is signal.SIG_IGN:  # in the background, under nohup
        signal.signal(number, handler)


LONG = (
    "test_several_processes.py",
    "test_benchmarks.py",
    "test_tailored_processes.py",
    "test_whole_way.py",
    "test_runs.py",
    "test_resume.py",
    "test_mentor_kd.py",
    "test_kard_processes.py",
    "test_every_method.py",
)
"""Files of a minute and more. They run first, so that no process is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, the others in their order."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


def pytest_collection_finish() -> None:
    """Leave what was imported out of later collections of garbage: each training ends with three of them."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Answer:
    """What the command printed, and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture
def limbeck(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run `limbeck ARGUMENT...` in this process."""
    from limbeck.cli import main

    def command(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["limbeck", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    return command
