"""math-verify in a process of its own, which is stopped when an expression takes too long.

Nothing else bounds it: `9^{9^{9}}` is one step of the interpreter, which neither a signal nor another
thread can stop. Run as a program, this module is that process: a question a line, as JSON, and an answer.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import logging
import subprocess
import sys
import threading

from limbeck.errors import InputError

SECONDS = 5.0
"""For one comparison."""
STARTING_S = 120.0
"""For the process to load sympy."""


class _Process:
    """The process, started at the first question and again after one that took too long."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: subprocess.Popen[str] | None = None

    def ask(self, question: dict[str, str]) -> bool:
        with self.lock:
            if self.running is None:
                self.running = self._start()
            line = self._exchange(json.dumps(question), SECONDS)
            if not line:  # it was stopped, or fell over the expression
                self.close()
            return line.strip() == "true"

    def _start(self) -> subprocess.Popen[str]:
        self.running = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        if self._exchange("{}", STARTING_S).strip() != "ready":
            self.close()
            raise InputError("kind math: math-verify cannot be loaded; run pip install 'limbeck[math]' again")
        return self.running

    def _exchange(self, line: str, seconds: float) -> str:
        """What the process answers; "" where it was stopped."""
        process = self.running
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return process.stdout.readline()
        except OSError:
            return ""
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the process."""
        process, self.running = self.running, None
        if process is not None:
            process.kill()
            process.communicate()


_PROCESS = _Process()
atexit.register(_PROCESS.close)


def ask(question: dict[str, str]) -> bool:
    """Whether an expression can be read (`{"read"}`), or an answer means the gold one (`{"gold", "answer"}`).

    False where that takes longer than `SECONDS`.

    Raises:
        InputError: math-verify is not installed.
    """
    check_installed()
    return _PROCESS.ask(question)


def check_installed() -> None:
    """Refuse kind math without its package.

    Raises:
        InputError: math-verify is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise InputError("kind math: needs the math-verify package; run pip install 'limbeck[math]'")


def serve() -> None:
    """Answer questions from standard input until it ends."""
    from math_verify import parse, verify

    logging.disable()  # that no time limit is set: the process itself has one

    def read(text: str) -> list[object]:
        found: list[object] = parse(f"${text}$", fallback_mode="no_fallback", parsing_timeout=None)
        return found or list(parse(text, fallback_mode="no_fallback", parsing_timeout=None))

    for line in sys.stdin:
        question = json.loads(line)
        try:
            if not question:
                print("ready", flush=True)
                continue
            if "read" in question:
                found = bool(read(question["read"]))
            else:
                found = verify(read(question["gold"]), read(question["answer"]), timeout_seconds=None)
        except Exception:  # whatever sympy makes of it, it is not the same
            found = False
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    serve()
