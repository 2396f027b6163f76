"""A Mentor-KD run of seconds for the campaigns: a teacher, a mentor, soft labels, two students."""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RECIPE = """
name: campaign
task: {name: coin-flip, train: 16, dev: 4, test: 6, parameters: {people: 2}}
teacher: {kind: offline, wrong_answer: 0.3}
rationales: {per_problem: 2}
mentor:
  model: tiny-causal-xs
  rationales: 2
  train: {learning_rate: 2.0e-3, batch_size: 8, epochs: 2}
  writes: {per_problem: 1, max_tokens: 24}
  keep: all
student:
  model: tiny-causal-xs
  train: {learning_rate: 1.0e-3, batch_size: 8, epochs: 2}
students:
  both: {method: mentor-kd, settings: {mentor_rationales: 1}}
  cot: {method: finetune-cot, train: {choose: dev-accuracy}}
exam: {max_tokens: 16}
"""

TIMES = ("seconds", "tokens_per_s", "train_seconds")
LOGS = ("run.log", "run.lock", "run.pid", "stage.json", "teacher.jsonl")
"""What differs between two runs that end the same: logs, times, and the memory, whose damaged lines stay."""
DATED = ("run.json", "report.html")


@dataclass(frozen=True)
class Ended:
    """A command that ended, or was killed."""

    status: int
    text: str


def forked(*arguments: object, until: Callable[[], bool] = lambda: False) -> Ended:
    """`limbeck ARGUMENT...` in a forked child, which imports nothing; it is killed once `until` says so."""
    import limbeck.cli
    import limbeck.lm.local
    import limbeck.report
    import limbeck.training.trainer  # noqa: F401

    reading, writing = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=_work, args=(writing, [*map(str, arguments)]))
    child.start()
    os.close(writing)
    os.set_blocking(reading, False)
    said = b""
    while child.is_alive():
        said += _read(reading)
        if until():
            os.kill(child.pid or 0, signal.SIGKILL)
            break
        time.sleep(0.002)
    child.join()
    said += _read(reading)
    os.close(reading)
    return Ended(child.exitcode or 0, said.decode("utf-8", "replace"))


def _read(handle: int) -> bytes:
    found = b""
    try:
        while piece := os.read(handle, 1 << 16):
            found += piece
    except BlockingIOError:
        pass
    return found


def _work(handle: int, arguments: list[str]) -> None:
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["limbeck", *arguments]
    from limbeck.cli import main

    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def results(folder: Path) -> dict[str, str]:
    """Every file of a run but its logs, with a hash of what it holds; times and dates are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name[0] == "." or path.name in LOGS or name.startswith("old/"):
            continue
        if path.name in ("metrics.json", "training.json"):
            metrics = json.loads(path.read_text())
            found[name] = str({key: value for key, value in metrics.items() if key not in TIMES})
        elif name in DATED:
            found[name] = "there"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def log_lines(folder: Path) -> list[str]:
    """The lines of run.log without their dates."""
    log = folder / "run.log"
    return [line.partition(" ")[2] for line in log.read_text().splitlines()] if log.exists() else []
