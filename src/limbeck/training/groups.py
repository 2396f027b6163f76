"""Training data come in groups: what must share a micro-batch.

A group is one example, the K rationales of a question, a mistake with its corrections, the
passages of a question. An epoch is each group once. A group may hold more examples than an epoch
uses: `Draw` says how many of each role, and they are drawn again every epoch.

Loads no torch, so that a method can build groups without it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from limbeck.records import Example
from limbeck.sequences import Made


@dataclass(frozen=True, slots=True)
class Group:
    """Examples that must share a micro-batch.

    `key` decides, with the seed and the epoch, what is drawn: give each group its own, such as its
    problem's id. Groups of one `question` never share an optimiser step (unique-question batches of
    tailored learning, arXiv 2310.13332); those with "" share one with any.
    """

    key: str
    examples: tuple[Example, ...]
    question: str = ""


@dataclass(frozen=True, slots=True)
class Draw:
    """How many examples of each role a group gives each epoch, drawn again every epoch.

    A role that is not named here is given whole, and so is one that has fewer: a question with one
    rationale takes part with that one.

    Raises:
        ValueError: a number below 1.

    Example:
        >>> Draw({"": 2}).chosen("p1", ["", "", ""], seed=0, epoch=0)
        (1, 2)
        >>> Draw({"positive": 1}).chosen("p1", ["anchor", "positive", "positive"], seed=0, epoch=1)
        (0, 2)
    """

    per_role: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for role, number in self.per_role.items():
            if number < 1:
                raise ValueError(f"draw {number} examples of role {role!r}: at least 1 must be drawn")

    def chosen(self, key: str, roles: Sequence[str], *, seed: int, epoch: int) -> tuple[int, ...]:
        """Indices of what a group gives in an epoch, in the group's order.

        They follow from (seed, epoch, key) and the roles alone: not from other groups, nor from
        any generator.
        """
        whole = Counter(roles) if self.per_role else {}
        if all(whole[role] <= number for role, number in self.per_role.items()):
            return tuple(range(len(roles)))
        left = dict(self.per_role)
        kept = []
        for index in sorted(range(len(roles)), key=lambda index: _lot(seed, epoch, key, index)):
            if left.get(roles[index], 1) > 0:
                kept.append(index)
                if roles[index] in left:
                    left[roles[index]] -= 1
        return tuple(sorted(kept))

    def most(self, roles: Sequence[str]) -> int:
        """How many examples a group with these roles gives."""
        return sum(min(number, self.per_role.get(role, number)) for role, number in Counter(roles).items())


ALL = Draw()
"""Every example of a group, every epoch."""


def _lot(seed: int, epoch: int, key: str, index: int) -> bytes:
    """A number that decides who is drawn: those with the lowest."""
    return hashlib.blake2b(f"{seed} {epoch} {index} {key}".encode(), digest_size=8).digest()


def singles(examples: Iterable[Example]) -> Sequence[Group]:
    """Every example as a group of its own; of a sequence, each group is made when it is looked at."""
    known = examples if isinstance(examples, Sequence) else list(examples)
    return Made(known, lambda example: Group(example.problem_id, (example,)))
