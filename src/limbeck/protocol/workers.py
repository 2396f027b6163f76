"""The runs of a protocol as processes of one thread, side by side, across interruptions."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from limbeck.errors import DiskError, LimbeckError
from limbeck.files import held
from limbeck.protocol.written import FILE, Planned, Protocol, check_code
from limbeck.records import write_json
from limbeck.run_folder import path_fingerprint, read_json

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ONE_THREAD |= {"TOKENIZERS_PARALLELISM": "false"}

LOOK_S = 0.1
"""How often we look whether a process has ended."""


@dataclass(slots=True)
class _Working:
    """A run in its process."""

    run: Planned
    process: subprocess.Popen[bytes]
    begun: float


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the protocol's folder.

    Raises:
        RunInUseError: another process holds it.
    """
    message = f"{folder}: another process runs this protocol; wait for it or name another --out"
    with held(folder / "claims.lock", message):
        yield


def run_all(protocol: Protocol, processes: int, say: Callable[[str], None]) -> None:
    """Do every run that is not done yet.

    Raises:
        LimbeckError: a run failed; the text says how, and all others have ended too. They go on next time.
    """
    waiting = [one for one in protocol.runs if not is_done(protocol, one)]
    total = len(protocol.runs)
    if len(waiting) < total:
        say(f"{total - len(waiting)} of {total} runs are done already")
    working: list[_Working] = []
    try:
        while waiting or working:
            while waiting and len(working) < processes:
                working.append(_begin(protocol, waiting.pop(0)))
                say(f"{working[-1].run.name}: started; {_log(protocol, working[-1].run)} says how it goes")
            time.sleep(LOOK_S)
            for one in [one for one in working if one.process.poll() is not None]:
                working.remove(one)
                _end(protocol, one)
                left = len(waiting) + len(working)
                say(
                    f"{one.run.name}: done after {time.monotonic() - one.begun:.0f} s; {left} of {total} left"
                )
    finally:
        for one in working:
            assert one.process.stdin is not None
            with suppress(OSError):
                one.process.stdin.close()  # it ends; see worker.py
        for one in working:
            one.process.wait()


def is_done(protocol: Protocol, one: Planned) -> bool:
    """Whether a run was finished under this very protocol and its exams are as they were."""
    done = read_json(_done(protocol, one)) or {}
    return done.get("protocol") == protocol.digest and done.get("exams") == _exams(protocol.run_folder(one))


def _begin(protocol: Protocol, one: Planned) -> _Working:
    check_code(protocol.folder / FILE)  # days may have passed
    log = _log(protocol, one)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "limbeck.protocol.worker",
                    str(protocol.recipe_file(one)),
                    str(protocol.run_folder(one)),
                ],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                env=os.environ | ONE_THREAD,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it
            )
    except OSError as error:
        raise DiskError(log, error) from error
    return _Working(one, process, time.monotonic())


def _end(protocol: Protocol, one: _Working) -> None:
    """Note that a run is done, or say why it is not."""
    assert one.process.stdin is not None
    one.process.stdin.close()
    log = _log(protocol, one.run)
    if one.process.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        raise LimbeckError(
            f"{one.run.name}: ended with status {one.process.returncode}: {last.removeprefix('limbeck: ')} "
            f"({log}); the same command goes on where all runs stopped"
        )
    exams = _exams(protocol.run_folder(one.run))
    write_json(_done(protocol, one.run), {"protocol": protocol.digest, "exams": exams})


def _exams(run: Path) -> dict[str, str]:
    """Hashes of what was answered in the run's exams, by their path in it."""
    files = sorted(run.rglob("predictions.jsonl"))
    found = {path.relative_to(run): path for path in files}
    return {name.as_posix(): path_fingerprint(path) for name, path in found.items() if name.parts[0] != "old"}


def _done(protocol: Protocol, one: Planned) -> Path:
    return protocol.folder / "done" / f"{one.name}.json"


def _log(protocol: Protocol, one: Planned) -> Path:
    return protocol.folder / "logs" / f"{one.name}.txt"
