"""What may have been charged, on disk before it is sent.

A request is written down with its worst case, the disk confirms it, and only then it leaves.
So whatever dies, the next run knows what the bill may hold. The answer's line in the memory
names the attempt's mark and so settles it; a server that refuses the work for sure frees it.
All other attempts count at their worst case until the user, who can look at the bill,
releases them.
"""

from __future__ import annotations

import json
import secrets
import threading
from fractions import Fraction
from pathlib import Path

from pydantic import Field, ValidationError

from limbeck.errors import DataError
from limbeck.files import AppendLog, with_sum, without_sum
from limbeck.lm.cost import MOST_COUNTED, MOST_USD, Prices, Request, Worst, at_least, exact
from limbeck.records import Record, first_problem


class Sent(Record):
    """One attempt, written before it left; `usd` None: no price was known."""

    sent: str = Field(min_length=1)
    prompt_id: str
    index: int = Field(ge=0, strict=True)
    input_tokens: int = Field(ge=0, le=MOST_COUNTED, strict=True)
    output_tokens: int = Field(ge=0, le=MOST_COUNTED, strict=True)
    usd: float | None = Field(ge=0, le=MOST_USD, strict=True, allow_inf_nan=False)

    def cost(self, prices: Prices | None) -> Fraction:
        """Its worst case in dollars; what was sent without a known price is counted at `prices`."""
        if self.usd is not None:
            return exact(self.usd)
        return prices.exact(self.input_tokens, self.output_tokens) if prices else Fraction(0)


class Freed(Record):
    """An attempt that was not charged, or that the user released."""

    free: str = Field(min_length=1)


class SentLog:
    """The attempts whose answer is not there, by their marks; safe to use from threads.

    Args:
        path: the log; made when the first request is sent.

    Attributes:
        unresolved: attempts that may have been charged; those under way among them.

    Raises:
        DataError: a line of the log is damaged (a torn last line is not an error: its request was not sent).
        DiskError: the log cannot be read, or, when a request is to be sent, not written.
    """

    def __init__(self, path: Path) -> None:
        self._log = AppendLog(path, durable=True)
        self._lock = threading.Lock()
        self.unresolved: dict[str, Sent] = {}
        self._read()

    def write(self, request: Request, worst: Worst, priced: bool) -> str:
        """Note an attempt, wait for the disk, and give its mark; now it may be sent."""
        line = Sent(
            sent=secrets.token_hex(8),
            prompt_id=request.prompt.id,
            index=request.index,
            input_tokens=worst.input_tokens,
            output_tokens=worst.output_tokens,
            usd=at_least(worst.usd) if priced else None,
        )
        with self._lock:
            self._append(line)
            self.unresolved[line.sent] = line
        return line.sent

    def answered(self, mark: str) -> Sent | None:
        """Forget an attempt whose answer is in the memory; give its line if it was unresolved."""
        with self._lock:
            return self.unresolved.pop(mark, None)

    def free(self, mark: str) -> None:
        """Note that an attempt was not charged."""
        with self._lock:
            self._append(Freed(free=mark))
            del self.unresolved[mark]

    def release(self) -> None:
        """Count everything that is unresolved as not charged."""
        for mark in list(self.unresolved):
            self.free(mark)

    def held(self, prices: Prices | None) -> Fraction:
        """Dollars that the unresolved attempts may have cost at most."""
        with self._lock:
            return sum((one.cost(prices) for one in self.unresolved.values()), Fraction(0))

    def _append(self, line: Record) -> None:
        self._log.append(with_sum(json.dumps(line.model_dump()).encode()))

    def _read(self) -> None:
        for number, (_, line) in enumerate(self._log.lines(), start=1):
            try:
                row = json.loads(without_sum(line))
                if isinstance(row, dict) and "free" in row:
                    self.unresolved.pop(Freed.model_validate(row).free, None)
                else:
                    sent = Sent.model_validate(row)
                    self.unresolved[sent.sent] = sent
            except (ValueError, RecursionError) as error:
                reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
                message = (
                    f"not a request that was sent ({reason}); delete the line, and lower "
                    "teacher.max_cost_usd by what the bill shows for it"
                )
                raise DataError(f"{self._log.path}:{number}", message) from None


def sent_log_of(memory: Path) -> Path:
    """Where the log of what was sent lies: next to the memory."""
    return memory.with_name(f"{memory.stem}.sent{memory.suffix}")
