"""Processes that are forked from one that has imported the libraries, since imports take seconds."""

import atexit
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["limbeck.cli", "limbeck.lm.local", "limbeck.report", "limbeck.training.trainer"]
)


def limbeck() -> None:
    """The command, on `sys.argv`."""
    from limbeck.cli import main

    main()


def ranks_of(world: int) -> list[dict[str, str]]:
    """What a launcher tells each of so many processes; nothing to a lone one."""
    if world == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


class Started:
    """A process that runs, with as much of `subprocess.Popen` as tests need.

    Args:
        arguments: the words behind the program's name in `sys.argv`.
        environment: variables that are added.
        work: what it does; a function of a module, since another process imports it.
    """

    def __init__(
        self, arguments: list[str], environment: Mapping[str, str], work: Callable[[], None] = limbeck
    ) -> None:
        self._folder = Path(tempfile.mkdtemp())
        self._texts = [str(self._folder / name) for name in ("out", "err")]
        self._process = SERVER.Process(target=_work, args=(work, arguments, dict(environment), *self._texts))
        self._process.start()

    @property
    def returncode(self) -> int:
        """The exit status; below 0: the signal that ended it."""
        assert self._process.exitcode is not None
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> None:
        """Until it ends.

        Raises:
            subprocess.TimeoutExpired: it did not, in so many seconds.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("limbeck", timeout)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it wrote, once it ended, to be asked for once; raises as `wait`."""
        self.wait(timeout)
        out, error = (Path(text).read_text() for text in self._texts)
        shutil.rmtree(self._folder)
        return out, error

    def send_signal(self, number: int) -> None:
        """Nothing where it has ended."""
        if self._process.exitcode is None and self._process.pid:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()


def finish(processes: Sequence[Started], seconds: float = 150) -> list[tuple[int, str, str]]:
    """Wait for all; each one's exit status, and what it wrote on both streams."""
    try:
        texts = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(one.returncode, out, error) for one, (out, error) in zip(processes, texts, strict=True)]


def end_as_a_launcher(processes: Sequence[Started]) -> None:
    """One was killed: the others end by themselves within seconds, or the launcher ends them."""
    deadline = time.monotonic() + 10
    for process in processes:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()  # it waits at the store, which does not know that the other one is gone


def _work(
    work: Callable[[], None], arguments: list[str], environment: dict[str, str], out: str, error: str
) -> None:
    for number, path in ((1, out), (2, error)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.environ.update(environment)
    sys.argv = ["limbeck", *arguments]
    try:
        work()
    finally:
        atexit._run_exitfuncs()  # a forked process would leave them out
        sys.stdout.flush()
        sys.stderr.flush()
