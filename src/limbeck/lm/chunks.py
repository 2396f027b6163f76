"""Long generation that survives a kill bit for bit, and is shared out among ranks.

A local model's greedy outputs can flip on near-ties when a batch is composed
differently. So prompts are cut once, by their order alone, into chunks; a chunk's
completions are appended to a log in one write, and after a kill whole chunks are
read back and only the rest runs, in the very batches it would have run in.

Under several ranks each completes every n-th chunk that is missing and appends it to a log
of its own; each reads the others' chunks from theirs. So one process and several say the same.
"""

from __future__ import annotations

import json
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from pydantic import ValidationError

from limbeck import ranks
from limbeck.errors import DataError
from limbeck.files import AppendLog, with_sum, without_sum
from limbeck.lm import Complete, Completion, Prompt, Sampling, finishing
from limbeck.progress import notice
from limbeck.records import Record, first_problem
from limbeck.sequences import Made, Part

ROWS = 64
"""Completions of a batch where the model does not say how many it makes side by side."""

BATCHES = 2
"""Batches of a chunk: what a kill costs at most."""


@runtime_checkable
class Batched(Protocol):
    """A model that says how many completions it makes side by side, such as `LocalModel`."""

    max_rows: int


class Chunk(Record):
    """One line of a log."""

    chunk: int
    seconds: float
    prompts: tuple[str, ...]
    completions: tuple[Completion, ...]


class _Log:
    """One rank's log, as far as it was read."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.file = AppendLog(path)
        self.say = say
        self.seconds = 0.0
        self._read = 0  # bytes
        self._lines = 0

    def news(self) -> Iterator[tuple[_Line, Chunk]]:
        """The whole chunks that were appended since the last call, each with its place."""
        self.file.refresh()
        for start, line in self.file.lines(self._read):
            self._lines += 1
            self._read = start + len(line)
            if line.strip():
                found = _Line(self, start, self._lines)
                try:
                    yield found, _chunk(line)
                except ValueError as error:
                    reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
                    self.say(f"{found.place}: damaged ({reason}); these prompts are completed again")

    def append(self, chunk: Mapping[str, object]) -> None:
        self.file.append(with_sum(json.dumps(chunk).encode()))


class _Line(NamedTuple):
    """Where a chunk is; its completions are read again when it is their turn."""

    log: _Log
    start: int
    number: int

    @property
    def place(self) -> str:
        return f"{self.log.file.path}:{self.number}"

    @property
    def chunk(self) -> Chunk:
        """Raises DataError: it is not there any more."""
        try:
            return _chunk(next(self.log.file.at([self.start])))
        except ValueError as error:
            raise DataError(
                self.place, f"was changed while this run was still reading it ({error}); start the run again"
            ) from None


class Chunks:
    """`Complete` in resumable chunks.

    The logs belong to one fingerprinted stage: they do not check that the
    model and the sampling are those that wrote them.

    Args:
        complete: the model.
        log: JSONL, a line per whole chunk; made with the first one. Rank n's is `log` with `.n` behind it.
        size: completions of a chunk, cut down to whole prompts; None: `BATCHES`
            times as many as the model makes side by side.
        say: on rank 0, gets a line for each damaged chunk of a log, which is completed again.

    Attributes:
        from_memory: completions that were read back from the logs at the beginning.
    """

    def __init__(
        self, complete: Complete, log: Path, size: int | None = None, say: Callable[[str], None] = notice
    ) -> None:
        self.complete = complete
        self.log = log
        rows = complete.max_rows if isinstance(complete, Batched) else ROWS
        self.size = BATCHES * rows if size is None else size
        self.from_memory = 0
        self.say = say if ranks.main() else _silent
        self._logs: dict[int, _Log] = {}

    @property
    def name(self) -> str:
        return self.complete.name

    @property
    def seconds(self) -> float:
        """The model's time for all chunks so far, old and new: that of the rank that took longest."""
        return max((log.seconds for log in self._logs.values()), default=0.0)

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Yield the completions, chunk by chunk and the same on every rank; a whole chunk is kept.

        Raises:
            DataError: a line of a log is of other prompts.
            DiskError: a log cannot be read or written.
        """
        chunks = _cut(prompts, max(1, self.size // sampling.n))
        found = self._found()
        done = set(ranks.share(sorted(found)))  # another rank may have read a line more
        missing = [number for number in range(len(chunks)) if number not in done]
        owners = {number: place % ranks.world() for place, number in enumerate(missing)}
        mine = deque(number for number in missing if owners[number] == ranks.rank())
        ahead: dict[int, list[Completion]] = {}
        for number, asked in enumerate(chunks):
            if number not in owners:
                completions = _recall(found[number], asked)
                self.from_memory += len(completions)
                yield from completions
            elif number in ahead:
                yield from ahead.pop(number)
            elif owners[number] == ranks.rank():
                yield from self._work(mine.popleft(), asked, sampling)
            else:
                while number not in found:  # its rank is at it: do what comes next here
                    if mine:
                        next_one = mine.popleft()
                        ahead[next_one] = list(self._work(next_one, chunks[next_one], sampling))
                    else:
                        ranks.pause()
                    self._hear(owners[number], found)
                yield from _recall(found[number], asked)
        ranks.barrier()  # nobody reads a log that another one removes

    def forget(self) -> None:
        """Remove the logs, once what they hold is kept elsewhere; rank 0 does it."""
        if ranks.main():
            for path in self._paths().values():
                path.unlink(missing_ok=True)

    def _paths(self) -> dict[int, Path]:
        """The logs that there are, by rank; today's world may be smaller than the one that wrote them."""
        found = {0: self.log}
        for path in self.log.parent.glob(f"{self.log.name}.*"):
            number = path.name.removeprefix(f"{self.log.name}.")
            if number.isdecimal():
                found[int(number)] = path
        return dict(sorted(found.items()))

    def _log(self, rank: int) -> _Log:
        if rank not in self._logs:
            path = self.log if rank == 0 else self.log.with_name(f"{self.log.name}.{rank}")
            self._logs[rank] = _Log(path, self.say)
        return self._logs[rank]

    def _found(self) -> dict[int, _Line]:
        """The whole chunks of all logs by number, each with its place."""
        self._logs = {}
        found: dict[int, _Line] = {}
        for rank in self._paths():
            self._hear(rank, found)
        return found

    def _hear(self, rank: int, found: dict[int, _Line]) -> None:
        """Take note of what a rank has finished since."""
        log = self._log(rank)
        for line, chunk in log.news():
            found[chunk.chunk] = line
            log.seconds += chunk.seconds

    def _work(self, number: int, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        fresh: list[Completion] = []
        seconds = 0.0
        clock = time.monotonic()
        stream = iter(self.complete(prompts, sampling))
        with finishing(stream):
            for completion in stream:
                seconds += time.monotonic() - clock
                fresh.append(completion)
                yield completion
                clock = time.monotonic()  # the reader's time is not the model's
        seconds += time.monotonic() - clock
        log = self._log(ranks.rank())
        log.append(
            {
                "chunk": number,
                "seconds": seconds,
                "prompts": [prompt.id for prompt in prompts],
                "completions": [asdict(completion) for completion in fresh],
            }
        )
        log.seconds += seconds


def _cut(prompts: Sequence[Prompt], step: int) -> Sequence[Sequence[Prompt]]:
    """The prompts of each chunk: so many at most, read when it is their turn.

    Similar lengths are next to each other, so that a chunk's batches waste little padding.
    """
    keys = [(len(prompt.text), prompt.id) for prompt in prompts]
    ordered = Part(prompts, array("Q", sorted(range(len(keys)), key=keys.__getitem__)))
    return Made(range(0, len(ordered), step), lambda start: list(ordered[start : start + step]))


def _recall(line: _Line, prompts: Sequence[Prompt]) -> tuple[Completion, ...]:
    chunk = line.chunk
    if chunk.prompts != tuple(prompt.id for prompt in prompts):
        message = "completions of other prompts; delete the file to complete all prompts again"
        raise DataError(line.place, message)
    return chunk.completions


def _chunk(line: bytes) -> Chunk:
    """Raises ValueError: not a chunk, or it changed since it was written."""
    return Chunk.model_validate(json.loads(without_sum(line)))


def _silent(line: str) -> None:
    """Of a rank that is not the first."""
