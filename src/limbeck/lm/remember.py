"""A memory of completions: what was paid for once is never asked again.

The log is JSONL, one line per completion, appended the moment it arrives. Its key
is a hash of the model's identity, the prompt's id, text and system prompt, the
sampling (all of it but `n`) and the completion's index. The id belongs to the key because what is
drawn depends on it (`lm.Sampling`): two problems with the same text get
completions of their own instead of copies. Asking for n=6 after n=4 therefore
asks for 2 more per prompt, and a longer `max_tokens` asks again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field

from limbeck.files import AppendLog, with_sum, without_sum
from limbeck.lm import Complete, Completion, Prompt, Sampling, places_by_id
from limbeck.lm.cost import MOST_COUNTED, MOST_USD, Ledger, Receipt, Request
from limbeck.places import KEY, Places, key_of
from limbeck.progress import notice
from limbeck.records import Record
from limbeck.sequences import Made, Part

ALWAYS = ("temperature", "top_p", "top_k", "max_tokens", "seed")
"""Of the sampling, always part of the key; any other setting only where it is not at its default."""


class Ask(Protocol):
    """A model that can be asked for single completions, such as `ApiTeacher.ask`.

    It calls `keep` for every receipt the moment it arrives, perhaps from another
    thread, and yields it afterwards: a slow or stopped reader loses nothing.
    """

    def __call__(
        self, requests: Sequence[Request], sampling: Sampling, keep: Callable[[Receipt], None]
    ) -> Generator[Receipt, None, None]: ...


Tokens = Annotated[int, Field(ge=0, le=MOST_COUNTED, strict=True)]


class Entry(Record):
    """One line of the log; its numbers are bounded, since sums of money are made of them."""

    key: str
    prompt_id: str
    index: int = Field(ge=0, strict=True)
    text: str
    tokens: Tokens
    truncated: bool
    cost_usd: float = Field(ge=0, le=MOST_USD, strict=True, allow_inf_nan=False)
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    estimated: bool = False
    priced: bool = True
    without: str = ""
    sent: str = ""
    thinking: str = ""
    stopped: str = ""

    @property
    def receipt(self) -> Receipt:
        """The line as it was kept."""
        counts = self.input_tokens, self.output_tokens, self.estimated, self.priced
        return Receipt(Completion.kept(self), *counts, self.without, self.sent)


class _Missing:
    """Completions that a memory does not hold, by their numbers: prompt p has those from p * n on.

    24 bytes each and 40 for each prompt; the prompts are made again when they are asked.

    Raises:
        ValueError: two prompts have the same id.
    """

    def __init__(self, prompts: Sequence[Prompt], n: int, numbers: array[int], keys: bytearray) -> None:
        self._prompts = prompts
        self._n = n
        self._numbers = numbers  # ascending
        self._keys = keys
        self._places = places_by_id(prompts)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, number: int) -> bool:
        return self._place(number) is not None

    def key(self, completion: Completion) -> bytes | None:
        """The key of a completion; None: it is not missing."""
        prompt = self._places.get(key_of(completion.prompt_id))
        if prompt is None or not 0 <= completion.index < self._n:
            return None
        place = self._place(prompt * self._n + completion.index)
        return None if place is None else bytes(self._keys[KEY * place : KEY * (place + 1)])

    @property
    def requests(self) -> Sequence[Request]:
        return Made(self._numbers, self._request)

    @property
    def prompts(self) -> Sequence[Prompt]:
        """Those of which anything is missing."""
        return Part(self._prompts, array("Q", (place for place, _ in groupby(self._numbers, self._prompt))))

    def _request(self, number: int) -> Request:
        prompt, index = divmod(number, self._n)
        return Request(self._prompts[prompt], index)

    def _prompt(self, number: int) -> int:
        return number // self._n

    def _place(self, number: int) -> int | None:
        place = bisect_left(self._numbers, number)
        return place if place < len(self._numbers) and self._numbers[place] == number else None


class Remembered:
    """A `Complete` that answers from its log what the log holds, and asks only for the rest.

    Args:
        complete: who is asked.
        path: the log; made when the first completion arrives.
        key: the model's identity, everything that changes what it says except
            prompt and sampling: base URL and model, or a model folder's
            fingerprint. JSON values; only a hash of it is written.
        ask: asks `complete`'s model for single completions. Without it a prompt
            of which anything is missing is completed whole and what was known is
            dropped again, which is acceptable for a free model only.
        durable: wait until the disk holds each completion (fsync): for what was paid.
        say: gets one line if lines of the log are damaged. What they held is asked again; what it
            had cost is not known any more and counts as much as the dearest answer of the log.

    Attributes:
        from_memory: completions answered from the log so far.
        ledger: what all completions of the log cost, those of other runs of the command too.

    Raises:
        DiskError: the log cannot be read, or, when a completion arrives, not written;
            what arrived before stays.
        RunInUseError: another process appended to the log.
    """

    def __init__(
        self,
        complete: Complete,
        path: Path,
        *,
        key: Mapping[str, object],
        ask: Ask | None = None,
        durable: bool = False,
        say: Callable[[str], None] = notice,
    ) -> None:
        self._complete = complete
        self._ask = ask
        self._log = AppendLog(path, durable=durable)
        self._model = _hashed(dict(key)).hexdigest()
        self._lock = threading.Lock()
        self._offsets = Places()  # where the line of a key starts; the texts stay on disk
        self.ledger = Ledger()
        self.from_memory = 0
        self._read(say)

    @property
    def name(self) -> str:
        """The name of who is asked."""
        return self._complete.name

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Yield what is remembered, in the order of the prompts, then the rest as it arrives.

        Raises:
            ValueError: two prompts have the same id.
        """
        return self._answer(prompts, sampling, self._missing(prompts, sampling))

    def missing(self, prompts: Sequence[Prompt], sampling: Sampling) -> Sequence[Request]:
        """What would have to be asked: the completions that the log does not hold.

        Raises:
            ValueError: two prompts have the same id.
        """
        return self._missing(prompts, sampling).requests

    def _missing(self, prompts: Sequence[Prompt], sampling: Sampling) -> _Missing:
        numbers, keys = array("Q"), bytearray()
        for number, key in enumerate(self._keys(prompts, sampling)):
            if key not in self._offsets:
                numbers.append(number)
                keys += key
        return _Missing(prompts, sampling.n, numbers, keys)

    def _answer(
        self, prompts: Sequence[Prompt], sampling: Sampling, missing: _Missing
    ) -> Iterator[Completion]:
        if len(missing) < len(prompts) * sampling.n:
            keys = enumerate(self._keys(prompts, sampling))
            yield from self._recall(key for number, key in keys if number not in missing)
        if not missing:
            return
        if self._ask is None:
            yield from self._ask_whole(missing, sampling)
            return

        def keep(receipt: Receipt) -> None:
            key = missing.key(receipt.completion)
            if key is None:
                raise KeyError((receipt.completion.prompt_id, receipt.completion.index))
            self._append(key, receipt)

        with closing(self._ask(missing.requests, sampling, keep)) as receipts:
            for receipt in receipts:
                yield receipt.completion

    def _ask_whole(self, missing: _Missing, sampling: Sampling) -> Iterator[Completion]:
        """Complete every prompt of which something is missing; keep and yield the missing part."""
        for completion in self._complete(missing.prompts, sampling):
            key = missing.key(completion)
            if key is not None:
                self._append(key, Receipt(completion))
                yield completion

    def _recall(self, keys: Iterable[bytes]) -> Iterator[Completion]:
        offsets = (self._offsets.get(key) for key in keys)
        for line in self._log.at(offset for offset in offsets if offset is not None):
            completion = _entry(line).receipt.completion
            self.from_memory += 1
            yield completion

    def _keys(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[bytes]:
        """The key of each completion, in the order of the prompts, then by index."""
        common = _hashed([self._model, _decisive(sampling)])
        for prompt in prompts:
            mine = common.copy()
            system = [prompt.system] if prompt.system else []  # logs of 0.1.0 know none
            mine.update(_hashable([prompt.id, prompt.text, *system]))
            for index in range(sampling.n):
                one = mine.copy()
                one.update(_hashable([index]))
                yield one.digest()

    def _read(self, say: Callable[[str], None]) -> None:
        """Index the log, as far as it is whole."""
        damaged: list[int] = []
        for offset, _, key in _entries(self._log, damaged):
            if len(key) == KEY:  # no other one is ever asked for
                self._offsets.put(key, offset)
        for receipt in receipts_of(self._log.path):
            self.ledger.add(receipt)
        if damaged:
            say(
                f"{self._log.path}:{damaged[0]}: damaged, {len(damaged)} lines in all; the others are used, "
                "what these held is asked again"
            )

    def _append(self, key: bytes, receipt: Receipt) -> None:
        completion = receipt.completion
        entry = Entry(
            key=key.hex(),
            **completion.line(),
            input_tokens=receipt.input_tokens,
            output_tokens=receipt.output_tokens,
            estimated=receipt.estimated,
            priced=receipt.priced,
            without=receipt.without,
            sent=receipt.sent,
        )
        # ASCII escapes, so that even a text with half a surrogate pair can be kept
        # a version that knows no thinking reads a line without any
        empty = {name for name in ("thinking", "stopped") if not getattr(entry, name)}
        line = with_sum(json.dumps(entry.model_dump(exclude=empty)).encode())
        with self._lock:
            self._offsets.put(key, self._log.append(line))
            self.ledger.add(receipt)


def receipts_of(path: Path) -> Iterator[Receipt]:
    """Yield the receipts of a log; none if there is no log.

    What a damaged line had cost is not known any more: it counts as much as the dearest answer.

    Raises:
        DiskError: as `Remembered`.
    """
    damaged: list[int] = []
    dearest = Receipt(Completion("", 0, ""))
    for _, entry, _ in _entries(AppendLog(path), damaged):
        receipt = entry.receipt
        dearest = max(dearest, receipt, key=lambda one: one.completion.cost_usd)
        yield receipt
    yield from (replace(dearest, sent="") for _ in damaged)


def ledger_of(path: Path) -> Ledger:
    """Total what the completions of a log cost; an empty ledger if there is no log.

    Raises:
        DiskError: as `Remembered`.
    """
    ledger = Ledger()
    for receipt in receipts_of(path):
        ledger.add(receipt)
    return ledger


def _entries(log: AppendLog, damaged: list[int]) -> Iterator[tuple[int, Entry, bytes]]:
    """Yield (offset, line, key) of a log; the numbers of lines that hold none are added to `damaged`."""
    for number, (offset, line) in enumerate(log.lines(), start=1):
        try:
            entry = _entry(line)
            key = bytes.fromhex(entry.key)
        except (ValueError, RecursionError):
            damaged.append(number)
        else:
            yield offset, entry, key


def _entry(line: bytes) -> Entry:
    return Entry.model_validate(
        json.loads(without_sum(line))
    )  # pydantic's own reader refuses half surrogate pairs


def _decisive(sampling: Sampling) -> dict[str, object]:
    """The settings that decide what is drawn. A new one at its default changes no key."""
    settings = {one.name: getattr(sampling, one.name) for one in fields(sampling) if one.name != "n"}
    defaults = asdict(Sampling())
    kept = {name: value for name, value in settings.items() if name in ALWAYS or value != defaults[name]}
    return kept | {"temperature": float(sampling.temperature), "top_p": float(sampling.top_p)}


def _hashable(parts: object) -> bytes:
    return json.dumps(parts, sort_keys=True).encode() + b"\n"


def _hashed(parts: object) -> hashlib.blake2b:
    return hashlib.blake2b(_hashable(parts), digest_size=KEY)
