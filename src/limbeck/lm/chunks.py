"""Long generation that survives a kill bit for bit.

A local model's greedy outputs can flip on near-ties when a batch is composed
differently. So prompts are cut once, by their order alone, into chunks; a chunk's
completions are appended to a log in one write, and after a kill whole chunks are
read back and only the rest runs, in the very batches it would have run in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limbeck.errors import DiskError
from limbeck.lm import Complete, Completion, Prompt, Sampling
from limbeck.records import numbered_lines

CHUNK = 512


class Chunks:
    """`Complete` in resumable chunks; `seconds` sums the time of all chunks, old and new.

    The log belongs to one fingerprinted stage: it does not check that the
    model and the sampling are those that wrote it.
    """

    def __init__(self, complete: Complete, log: Path, size: int = CHUNK) -> None:
        self.complete = complete
        self.log = log
        self.size = size
        self.seconds = 0.0

    @property
    def name(self) -> str:
        return self.complete.name

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        done = self._read()
        # Similar lengths side by side, so that a chunk's batches waste little padding.
        ordered = sorted(prompts, key=lambda prompt: (len(prompt.text), prompt.id))
        for number, start in enumerate(range(0, len(ordered), self.size)):
            if number not in done:
                clock = time.monotonic()
                fresh = list(self.complete(ordered[start : start + self.size], sampling))
                done[number] = {
                    "seconds": time.monotonic() - clock,
                    "completions": [asdict(c) for c in fresh],
                }
                self._append(number, done[number])
            self.seconds += done[number]["seconds"]
            yield from (Completion(**fields) for fields in done[number]["completions"])

    def _read(self) -> dict[int, dict[str, Any]]:
        if not self.log.exists():
            return {}
        whole: dict[int, dict[str, Any]] = {}
        length = 0
        for _, line in numbered_lines(self.log, torn_tail=True):
            chunk = json.loads(line)
            whole[chunk.pop("chunk")] = chunk
            length += len(line.encode())
        with self.log.open("r+b") as stream:
            stream.truncate(length)  # a torn last line must not be glued to the next one
        return whole

    def _append(self, number: int, chunk: dict[str, Any]) -> None:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8", newline="\n") as stream:
                stream.write(json.dumps({"chunk": number, **chunk}) + "\n")
        except OSError as error:
            raise DiskError(self.log, error) from error
