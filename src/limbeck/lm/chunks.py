"""Long generation that survives a kill bit for bit.

A local model's greedy outputs can flip on near-ties when a batch is composed
differently. So prompts are cut once, by their order alone, into chunks; a chunk's
completions are appended to a log in one write, and after a kill whole chunks are
read back and only the rest runs, in the very batches it would have run in.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import ValidationError

from limbeck.errors import DataError, DiskError
from limbeck.lm import Complete, Completion, Prompt, Sampling, finishing
from limbeck.records import Record, first_problem

ROWS = 64
"""Completions of a batch where the model does not say how many it makes side by side."""

BATCHES = 2
"""Batches of a chunk: what a kill costs at most."""


@runtime_checkable
class Batched(Protocol):
    """A model that says how many completions it makes side by side, such as `LocalModel`."""

    max_rows: int


class Chunk(Record):
    """One line of the log."""

    chunk: int
    seconds: float
    prompts: tuple[str, ...]
    completions: tuple[Completion, ...]


class Chunks:
    """`Complete` in resumable chunks.

    The log belongs to one fingerprinted stage: it does not check that the
    model and the sampling are those that wrote it.

    Args:
        complete: who speaks.
        log: JSONL, a line per whole chunk; made with the first one.
        size: completions of a chunk, cut down to whole prompts; None: `BATCHES`
            times as many as the model makes side by side.

    Attributes:
        seconds: the model's time for all chunks so far, old and new.
        from_memory: completions that were read back from the log.
    """

    def __init__(self, complete: Complete, log: Path, size: int | None = None) -> None:
        self.complete = complete
        self.log = log
        rows = complete.max_rows if isinstance(complete, Batched) else ROWS
        self.size = BATCHES * rows if size is None else size
        self.seconds = 0.0
        self.from_memory = 0

    @property
    def name(self) -> str:
        return self.complete.name

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Yield each completion as it arrives; it is kept once its chunk is whole.

        Raises:
            DataError: a line of the log is damaged or of other prompts.
            DiskError: the log cannot be read or written.
        """
        done = self._read()
        # Similar lengths side by side, so that a chunk's batches waste little padding.
        ordered = sorted(prompts, key=lambda prompt: (len(prompt.text), prompt.id))
        step = max(1, self.size // sampling.n)
        for number, start in enumerate(range(0, len(ordered), step)):
            mine = ordered[start : start + step]
            if number in done:
                yield from self._recall(*done[number], mine)
            else:
                yield from self._work(number, mine, sampling)

    def _recall(self, line: int, chunk: Chunk, prompts: Sequence[Prompt]) -> Iterator[Completion]:
        if chunk.prompts != tuple(prompt.id for prompt in prompts):
            message = "completions of other prompts; delete the file to complete all prompts anew"
            raise DataError(f"{self.log}:{line}", message)
        self.seconds += chunk.seconds
        self.from_memory += len(chunk.completions)
        yield from chunk.completions

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
        self._append(number, seconds, prompts, fresh)
        self.seconds += seconds

    def _read(self) -> dict[int, tuple[int, Chunk]]:
        """The whole chunks by number, each with its line; a torn last line is cut off."""
        try:
            if not self.log.exists():
                return {}
            *lines, torn = self.log.read_bytes().split(b"\n")
            if torn:  # must not be glued to the next line
                os.truncate(self.log, self.log.stat().st_size - len(torn))
        except OSError as error:
            raise DiskError(self.log, error) from error
        whole: dict[int, tuple[int, Chunk]] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                chunk = Chunk.model_validate(json.loads(line))
            except ValueError as error:
                reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
                message = f"not a chunk of completions ({reason}); delete the line to complete it again"
                raise DataError(f"{self.log}:{number}", message) from None
            whole[chunk.chunk] = (number, chunk)
        return whole

    def _append(
        self, number: int, seconds: float, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> None:
        chunk = {
            "chunk": number,
            "seconds": seconds,
            "prompts": [prompt.id for prompt in prompts],
            "completions": [asdict(completion) for completion in completions],
        }
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8", newline="\n") as stream:
                stream.write(json.dumps(chunk) + "\n")
        except OSError as error:
            raise DiskError(self.log, error) from error
