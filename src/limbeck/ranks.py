"""Several processes, one command: under `torchrun` every rank runs the same code, and rank 0 decides.

Python values go through the launcher's key-value store and not through a collective. So a rank that waits
sees that another one failed, whatever that one was doing, and all of them end. Gradients and weights go
through the process group that `group` makes. One process pays nothing: torch is not even imported.

All ranks must call `share`, `gather` and `barrier` in the same order.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from limbeck.errors import LimbeckError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""Rank 0 may collect from an endpoint for long while the others wait."""

FAREWELL_S = 10.0
"""Longest wait for the rank that failed to say why."""

GOODBYE_S = 1.0
"""Longest wait of that rank for the others to see it; one in a collective sees it once this one is gone."""

PIECE = 1 << 22  # the store takes 16 MiB at most

FAILED, CLAIMS, SAID, GONE = (f"limbeck/{word}" for word in ("failed", "claims", "said", "gone"))

INTERRUPTED = 130


class Ended(SystemExit):
    """Another rank failed, or was interrupted, and says why: this one ends with the same exit status."""


class _Here:
    """What this process knows: its connection, how often it has met the others, what it is inside."""

    store: Any = None
    meetings = 0
    groups = 0
    commands = 0
    alone = False
    together = False
    keys: ClassVar[list[str]] = []  # that it put into the store


def rank() -> int:
    """This process's number; 0 decides, writes and prints."""
    return 0 if world() == 1 else int(os.environ["RANK"])


def world() -> int:
    """Number of processes, by the launcher's environment (torchrun, accelerate launch)."""
    if _Here.alone or "RANK" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))


def local() -> int:
    """This process's number on its own machine: which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK", "0")) if "RANK" in os.environ else 0


def main() -> bool:
    """Whether this process decides, writes and prints."""
    return rank() == 0


def share(value: T) -> T:
    """Rank 0's value (anything that can be pickled), on every rank; the values of the others are not used."""
    if world() == 1:
        return value
    place = _meeting()
    if main():
        _put(place, value)
        return value
    shared: T = _take(place)
    return shared


def gather(value: T) -> list[T]:
    """The values of all ranks, on every rank, in the order of the ranks."""
    if world() == 1:
        return [value]
    place, before = _meeting(), list(_Here.keys)
    _put(f"{place}/{rank()}", value)
    values = [_take(f"{place}/{other}") for other in range(world())]
    for key in before:  # who is here has read what came before
        _store().delete_key(key)
    del _Here.keys[: len(before)]
    return values


def barrier() -> None:
    """Wait until every rank is here."""
    gather(None)


def pause() -> None:
    """Wait a moment for what another rank does; end if one of them failed."""
    time.sleep(0.05)
    if world() > 1:
        _end_with_others()


def group() -> None:
    """Make the process group of the trainer: gloo for tensors on the CPU, NCCL for those on GPUs.

    The libraries take the group that they find; the one of their own would give up after minutes.
    """
    if world() == 1:
        return
    import torch
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore

    if distributed.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", world())):
        torch.cuda.set_device(local())
        backend = "cpu:gloo,cuda:nccl"
    _Here.groups += 1
    store = PrefixStore(f"group {_Here.groups}", _store())
    distributed.init_process_group(backend, store=store, rank=rank(), world_size=world(), timeout=PATIENCE)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is the only one: for work of rank 0 that the others only wait for."""
    before, _Here.alone = _Here.alone, True
    try:
        yield
    finally:
        _Here.alone = before


@contextmanager
def together() -> Iterator[None]:
    """A command of all ranks. When one fails, all end with its exit status and one of them says why.

    An error leaves the block on the first rank that fails, and is shown there; on all others it is `Ended`.

    Raises:
        LimbeckError: another rank was killed.
    """
    if world() == 1 or _Here.together:
        yield
        return
    _Here.together = True
    _Here.commands += 1
    try:
        yield
    except Ended:
        raise
    except BaseException as error:
        if status := _status(error):
            _fail(status)
            if isinstance(error, RuntimeError) and "gloo" in str(error):
                text = "another process of this run was killed; the same command goes on where it stopped"
                raise LimbeckError(text) from error
        else:
            _part()
        raise
    else:
        _part()
    finally:
        _Here.together = False


def _status(error: BaseException) -> int:
    """The exit status that the command makes of an error."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return 2 if isinstance(error, OSError) else int(getattr(error, "exit_status", 1))


def _store() -> Any:
    """The launcher's store: torchrun's own, or that of rank 0."""
    if _Here.store is None:
        from torch.distributed.rendezvous import rendezvous

        _Here.store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    return _Here.store


def _meeting() -> str:
    _Here.meetings += 1
    return f"limbeck/{_Here.meetings}"


def _put(key: str, value: object) -> None:
    data, store = pickle.dumps(value), _store()
    pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
    for number, piece in enumerate(pieces):
        store.set(f"{key}.{number}", piece)
    store.set(key, str(len(pieces)))
    _Here.keys += [key, *(f"{key}.{number}" for number in range(len(pieces)))]


def _take(key: str) -> Any:
    store, wait = _store(), 0.001
    try:
        while not store.check([key]):
            _end_with_others()
            time.sleep(wait)
            wait = min(wait * 1.5, 0.2)
        pieces = [store.get(f"{key}.{number}") for number in range(int(store.get(key)))]
    except RuntimeError:  # rank 0, which held the store, is gone
        raise Ended(1) from None
    return pickle.loads(b"".join(pieces))


def _end_with_others() -> None:
    """End this process if another one failed."""
    store = _store()
    if not store.check([FAILED]):
        return
    status = int(store.get(FAILED))
    with suppress(ValueError):  # the launcher stops all when one has ended; this one ends by itself
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _wait(FAREWELL_S, lambda: store.check([SAID]))
    with suppress(RuntimeError):
        store.add(GONE, 1)
    raise Ended(status)


def _fail(status: int) -> None:
    """Say to the others that this rank failed; end quietly if another one did before."""
    try:
        store = _store()
        if store.add(CLAIMS, 1) > 1:
            while True:
                _end_with_others()
                time.sleep(0.05)
        store.set(FAILED, str(status))
    except RuntimeError:  # rank 0, which held the store, is gone
        raise Ended(status) from None
    with suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    atexit.register(_said)


def _said() -> None:
    """At the end of the rank that failed first: it has said why, so the others may go."""
    with suppress(RuntimeError):
        _store().set(SAID, "")
        _wait(GOODBYE_S, lambda: int(_store().add(GONE, 0)) >= world() - 1)


def _part() -> None:
    """All ends well: rank 0, which may hold the store, goes last."""
    if _Here.store is None:
        return
    parted = f"limbeck/parted/{_Here.commands}"
    with suppress(RuntimeError):
        if main():
            while int(_store().add(parted, 0)) < world() - 1:
                _end_with_others()
                time.sleep(0.02)
        else:
            _store().add(parted, 1)
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def _wait(seconds: float, over: Callable[[], bool]) -> None:
    """Wait until it is over, this long at most, or until the store is gone."""
    end = time.monotonic() + seconds
    with suppress(RuntimeError):
        while not over() and time.monotonic() < end:
            time.sleep(0.02)
