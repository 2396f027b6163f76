"""What the built-in tasks have in common: a puzzle can be asked, solved, explained and read back.

One file per family: `last_letters.py`, `coin_flip.py`, `shuffled_objects.py`,
`arithmetic.py`. Each draws puzzles from a generator of random numbers and reads
them out of a text, so that the offline teacher sees what any teacher sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal, Protocol

Slip = Literal["none", "answer", "step"]
"""How a rationale errs: not at all; in a step that spoils the answer; in a step alone."""

PHRASINGS = 4
"""Ways in which every family writes its rationales; phrasing 0 is the plainest."""


class Puzzle(Protocol):
    """A question with a solution that is known step by step."""

    @property
    def question(self) -> str: ...

    @property
    def options(self) -> tuple[str, ...]: ...

    @property
    def answer(self) -> str: ...

    def rationale(self, phrasing: int, slip: Slip, rng: Random) -> tuple[str, str]:
        """The reasoning in one of the `PHRASINGS`, and the answer it comes to.

        With slip "answer" a step is wrong, what follows builds on it, and the answer
        is not the gold one. With "step" a step is wrong, what follows does not build
        on it, and the answer is the gold one. `rng` chooses the step and the error.
        """
        ...


def listed(words: Sequence[str]) -> str:
    """Words as an English list.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
