"""A limit on how long code from a file may run, such as the loops of a chat template."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TookTooLong(Exception):
    """The block ran longer than it may; raised inside it."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Stop the block, which must be Python code, once it has run so long; in any thread, on any system.

    What is one long step of the interpreter (a huge power, a huge text) is not stopped.

    Raises:
        TookTooLong: it was stopped.
    """
    thread, lock, over = threading.get_ident(), threading.Lock(), False

    def stop() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(TookTooLong)
                )

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    lock.acquire()  # nothing is raised before the block has begun
    timer.start()
    try:
        lock.release()
        yield
    finally:
        with lock:  # from here on nothing is raised any more
            over = True
        timer.cancel()
