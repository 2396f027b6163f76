"""What the built-in tasks have in common: a puzzle can be asked, solved, explained and read back.

One file per family: `last_letters.py`, `coin_flip.py`, `shuffled_objects.py`,
`arithmetic.py`. Each draws puzzles from a generator of random numbers and reads
them out of a text, so that the offline teacher sees what any teacher sees. It also reads
what a student's text claims, and knows the steps of which `checking.py` says whether they are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from limbeck.tasks.claims import Claim

Slip = Literal["none", "answer", "step"]
"""How a rationale errs: not at all; in a step that spoils the answer; in a step alone."""

PHRASINGS = 4
"""Ways in which every family writes its rationales; phrasing 0 is the plainest."""


@dataclass(frozen=True, slots=True)
class RightStep:
    """A step of the right reasoning.

    Attributes:
        says: as the rationale puts it.
        about: what it is about, such as a person; a claim about the same is this step, right or wrong.
        facts: what is so there, by name, and why: "Ben does not flip it, so it stays heads up".
        other: why a fact of another {name} is wrong, such as one about a person who is not there.
        because: why this step comes here; "": nothing more to say.
        optional: a text that leaves it out is not wrong.
    """

    says: str
    about: str
    facts: Mapping[str, tuple[str, str]]
    other: str = ""
    because: str = ""
    optional: bool = False

    def is_about(self, claim: Claim) -> bool:
        return claim.about.casefold() == self.about.casefold()

    def objection(self, name: str, value: str) -> str:
        """Why a fact is wrong here; "": it is right."""
        known = self.facts.get(name.casefold())
        if known is None:
            return self.other.replace("{name}", name)
        return "" if value.casefold() == known[0].casefold() else known[1]


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

    def right_steps(self, phrasing: int) -> list[RightStep]:
        """The steps of the right reasoning, as a rationale of that phrasing gives them."""
        ...

    def claims(self, text: str) -> list[Claim]:
        """What a text claims, in its order, in whatever phrasing."""
        ...


def listed(words: Sequence[str]) -> str:
    """Words as an English list.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
