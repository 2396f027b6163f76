"""Models that write: every teacher, mentor and student is a `Complete`.

Importing this module loads no torch; `lm.load` and `lm.local` do.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, overload

from limbeck.places import Places, key_of, places_of
from limbeck.records import Pieces
from limbeck.sequences import Spool


@dataclass(frozen=True, slots=True)
class Prompt:
    """One text to complete.

    `id` identifies the completions and decides, with seed and index, what is drawn;
    of a problem's only prompt it is the problem's id. `problem_id` says whose it is
    and `about` what else it is about: a mistake's or a passage's id. `system` is for
    a model that takes its system prompt separately (a chat endpoint); where a template
    was applied here, it is part of the text. `opened`: the text ends in `<think>`, so
    the completion begins inside the thinking. `begun`: how the completion begins, written for a model on
    this machine; it is part of the completion and of its tokens. `pieces`: the parts that a teacher's text
    was put together from, for one that is a program and not a model (the offline teacher).
    """

    id: str
    problem_id: str
    text: str
    system: str = ""
    about: str = ""
    opened: bool = False
    begun: str = ""
    pieces: Pieces | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to complete. `temperature` 0 is greedy; then `n` must be 1.

    `max_tokens` counts new tokens. `seed`, the prompt's id and the completion's
    index alone decide what is drawn: never the neighbours in a batch. A completion
    ends before the first of the `stop` strings (see `lm.written`).
    """

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """Text from a model as it came: the `index`-th (0-based) completion of a prompt.

    `truncated`: it ended at `max_tokens`, not by itself. `cost_usd` is what a
    paid endpoint charged for it, 0 elsewhere. `thinking` is what a reasoning model
    wrote before its answer, which is then `text` (see `lm.written`); `tokens` counts
    both. `stopped` is the stop string that ended it, which is not part of the text.
    `probability` is the geometric mean of what a model on this machine gave to each token that was drawn,
    before temperature, top_k and top_p; 0: not known. It breaks ties of votes, and no file of
    rationales keeps it.
    """

    prompt_id: str
    index: int
    text: str
    tokens: int = 0
    truncated: bool = False
    cost_usd: float = 0.0
    thinking: str = ""
    stopped: str = ""
    probability: float = field(default=0.0, compare=False)

    @classmethod
    def kept(cls, line: object) -> Completion:
        """What a line of a file holds, which has attributes of the same names."""
        return cls(**{name: getattr(line, name) for name in KEPT})

    def line(self) -> dict[str, Any]:
        """What such a line holds."""
        return {name: getattr(self, name) for name in KEPT}


UNKEPT = "probability"
"""Of a completion, what files of rationales do not hold."""

KEPT = tuple(one.name for one in fields(Completion) if one.name != UNKEPT)
"""What they hold."""


class Prompts(Sequence[Prompt]):
    """Prompts in a file without a name, with the place of each: 50 bytes of memory for a prompt.

    They are not made again for each look, because a tokenizer or a template may take long.

    Args:
        prompts: all there will be.
        folder: on the disk that takes the file.

    Attributes:
        places: where each prompt stands, by the key of its id; of two with one id the last.
    """

    def __init__(self, prompts: Iterable[Prompt], folder: Path) -> None:
        self.places = Places()
        self._spool = Spool(self._noted(prompts), folder=folder)

    def _noted(self, prompts: Iterable[Prompt]) -> Iterator[Prompt]:
        for place, prompt in enumerate(prompts):
            self.places.put(key_of(prompt.id), place)
            yield prompt

    def __len__(self) -> int:
        return len(self._spool)

    @overload
    def __getitem__(self, place: int) -> Prompt: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Prompt]: ...
    def __getitem__(self, place: int | slice) -> Prompt | Sequence[Prompt]:
        return self._spool[place]


class Complete(Protocol):
    """Anything that completes prompts; completions come as they are ready, in any order."""

    @property
    def name(self) -> str:
        """What records call it (`source`), such as "offline" or a model's name."""
        ...

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]: ...


TWICE = "two prompts have the same id, so their completions cannot be distinguished"


def by_id(prompts: Sequence[Prompt]) -> dict[str, Prompt]:
    """Prompts by their ids.

    Raises:
        ValueError: two have the same id, so that their completions could not be distinguished.
    """
    found = {prompt.id: prompt for prompt in prompts}
    if len(found) < len(prompts):
        raise ValueError(TWICE)
    return found


def places_by_id(prompts: Sequence[Prompt]) -> Places:
    """Where each prompt stands, by the key of its id (`places.key_of`).

    Raises:
        ValueError: as `by_id`.
    """
    found = prompts.places if isinstance(prompts, Prompts) else places_of(one.id for one in prompts)
    if len(found) < len(prompts):
        raise ValueError(TWICE)
    return found


@contextmanager
def finishing(stream: Iterator[Completion]) -> Iterator[None]:
    """Close a stream that is left early, so that answers under way, and paid for, are still kept."""
    try:
        yield
    finally:
        if isinstance(stream, Generator):
            stream.close()
