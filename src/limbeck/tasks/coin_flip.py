"""Coin flip: a coin starts heads up, some people flip it, some do not; how does it lie?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from limbeck.tasks.puzzle import Slip, listed
from limbeck.tasks.words import SHORT_NAMES

_QUESTION = re.compile(
    r"A coin is heads up\.((?: [A-Z][a-z]+ (?:flips it|does not)\.)+) Is the coin still heads up\?"
)
_PERSON = re.compile(r"([A-Z][a-z]+) (flips it|does not)\.")
_SIDES = ("heads", "tails")


@dataclass(frozen=True)
class CoinFlip:
    """`people` are distinct names; each of them `flips` the coin or does not."""

    people: tuple[str, ...]
    flips: tuple[bool, ...]
    options: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        deeds = [
            f"{name} {'flips it' if flips else 'does not'}."
            for name, flips in zip(self.people, self.flips, strict=True)
        ]
        return " ".join(["A coin is heads up.", *deeds, "Is the coin still heads up?"])

    @property
    def answer(self) -> str:
        return "no" if sum(self.flips) % 2 else "yes"

    def rationale(self, phrasing: int, slip: Slip, rng: Random) -> tuple[str, str]:
        """See `Puzzle.rationale`. The error: one flip is missed, or one too many is seen."""
        place = rng.randrange(len(self.people)) if slip != "none" else None
        told = [flips != (n == place) for n, flips in enumerate(self.flips)]
        built_on = told if slip == "answer" else self.flips
        counts = [sum(built_on[:n]) + flips for n, flips in enumerate(told)]
        total = sum(told) if slip == "answer" else sum(self.flips)
        return _tell(phrasing, self.people, told, counts, total), "no" if total % 2 else "yes"


def _tell(phrasing: int, people: tuple[str, ...], told: list[bool], counts: list[int], total: int) -> str:
    """`told`: who flips, as the rationale says; `counts`: flips after each person; `total`: at the end."""
    sides = [_SIDES[count % 2] for count in counts]
    steps = list(zip(people, told, counts, sides, strict=True))
    side, parity = _SIDES[total % 2], "odd" if total % 2 else "even"
    if phrasing == 0:
        tale = [f"{name}: {lies}." for name, _, _, lies in steps]
        return " ".join(["Start: heads.", *tale, f"At the end it is {side} up."])
    if phrasing == 1:
        tale = [f"{count} after {name}" for name, _, count, _ in steps]
        return f"Count the flips: {listed(tale)}. An {parity} count means {side} up."
    if phrasing == 2:
        flippers = [name for name, flips, _, _ in steps if flips]
        who = f"The coin is flipped by {listed(flippers)}" if flippers else "Nobody flips the coin"
        times = "1 flip" if total == 1 else f"{total} flips"
        return f"{who}. That makes {times}. Since {total} is {parity}, the coin ends {side} up."
    tale = [f"{name} {'turns it to' if flips else 'leaves it at'} {lies}" for name, flips, _, lies in steps]
    return f"{listed(tale)}. So {side} is up now."


def draw(rng: Random, parameters: Mapping[str, int]) -> CoinFlip:
    """A puzzle of `people` names, each flipping or not with equal chance."""
    people = tuple(rng.sample(SHORT_NAMES, parameters["people"]))
    return CoinFlip(people, tuple(rng.random() < 0.5 for _ in people))


def read(text: str) -> CoinFlip | None:
    """The last such question of a text."""
    found = _QUESTION.findall(text)
    if not found:
        return None
    deeds = _PERSON.findall(found[-1])
    return CoinFlip(tuple(name for name, _ in deeds), tuple(deed == "flips it" for _, deed in deeds))
