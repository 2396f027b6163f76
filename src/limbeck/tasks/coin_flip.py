"""Coin flip: a coin starts heads up, some people flip it, some do not; how does it lie?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from limbeck.tasks.claims import WHOLE, Claim, Facts, Form, Forms, each
from limbeck.tasks.puzzle import RightStep, Slip, listed
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

    def right_steps(self, phrasing: int) -> list[RightStep]:
        """See `Puzzle.right_steps`: one for each person; in phrasing 2 one for all who flip it."""
        total = sum(self.flips)
        side, parity = _SIDES[total % 2], "odd" if total % 2 else "even"
        ends = {
            0: f"At the end it is {side} up",
            1: f"An {parity} count means {side} up",
            2: f"Since {total} is {parity}, the coin ends {side} up",
            3: f"So {side} is up now",
        }
        flipped = f"the coin is flipped {_times(total)}"
        facts = {
            "total": (str(total), flipped),
            "parity": (parity, f"{flipped}, and {total} is {parity}"),
            "side": (side, f"{flipped}, so it ends {side} up"),
        }
        end = RightStep(ends[phrasing], _END, facts, optional=True)
        if phrasing == 2:
            count = RightStep(
                f"That makes {_flips(total)}", "total", {"total": facts["total"]}, optional=True
            )
            return [self._flippers(), count, end]
        start = RightStep(
            "Start: heads", "Start", {"side": ("heads", "the coin starts heads up")}, optional=True
        )
        people = [self._person(phrasing, place) for place in range(len(self.people))]
        return [*([start] if phrasing == 0 else []), *people, end]

    def _person(self, phrasing: int, place: int) -> RightStep:
        name, flips, count = self.people[place], self.flips[place], sum(self.flips[: place + 1])
        side, deed = _SIDES[count % 2], "turns it to" if flips else "leaves it at"
        says = {0: f"{name}: {side}", 1: f"{count} after {name}", 3: f"{name} {deed} {side}"}
        does = f"{name} flips it" if flips else f"{name} does not flip it"
        counted = f"{does}, so the count is {count}" if flips else f"{does}, so the count stays {count}"
        facts = {
            "deed": (deed.split()[0], f"{does}, so it {'turns to' if flips else 'stays'} {side}"),
            "count": (str(count), counted),
            "side": (side, f"{does}, so it {'turns to' if flips else 'stays'} {side}"),
        }
        return RightStep(says[phrasing], name, facts)

    def _flippers(self) -> RightStep:
        names = [name for name, flips in zip(self.people, self.flips, strict=True) if flips]
        facts = {name: ("", f"{name} does not flip it") for name in self.people}
        facts |= {name: ("flips", f"{name} flips it") for name in names}
        right = f"those who flip it are {listed(names)}" if names else "nobody flips it"
        facts = {name.casefold(): fact for name, fact in facts.items()}
        facts["how many"] = (str(len(names)), right)
        return RightStep(_who(names), _FLIPPERS, facts, "there is no {name}")

    def claims(self, text: str) -> list[Claim]:
        """See `Puzzle.claims`."""
        return _FORMS.claims(text)


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
        told_total = f"That makes {_flips(total)}. Since {total} is {parity}, the coin ends {side} up."
        return f"{_who(flippers)}. {told_total}"
    tale = [f"{name} {'turns it to' if flips else 'leaves it at'} {lies}" for name, flips, _, lies in steps]
    return f"{listed(tale)}. So {side} is up now."


def _who(flippers: Sequence[str]) -> str:
    return f"The coin is flipped by {listed(flippers)}" if flippers else "Nobody flips the coin"


def _flips(total: int) -> str:
    return "1 flip" if total == 1 else f"{total} flips"


def _times(total: int) -> str:
    return {0: "by nobody", 1: "once"}.get(total, f"{total} times")


_END, _FLIPPERS = "the end", "who flips it"
"""What claims are about that are about no person."""


def _named(groups: Sequence[str]) -> tuple[str, Facts]:
    names = (
        [] if groups[0].casefold() == "nobody" else [name for (name,) in each(groups[1], r"(?!and\b)\b(\w+)")]
    )
    return _FLIPPERS, (*((name, "flips") for name in names), ("how many", str(len(names))))


_SIDE = r"(heads|tails)\b"
_FORMS = Forms(
    [
        Form(0, rf"\b(\w{{1,30}}): {_SIDE}", lambda one: (one[0], (("side", one[1]),))),
        Form(0, rf"\bAt the end it is {_SIDE} up", lambda one: (_END, (("side", one[0]),))),
        Form(1, r"\b([0-9]{1,9}) after (?!and\b)(\w{1,30})", lambda one: (one[1], (("count", one[0]),))),
        Form(
            1,
            rf"\bAn? (odd|even) count means {_SIDE} up",
            lambda one: (_END, (("parity", one[0]), ("side", one[1]))),
        ),
        Form(
            2, r"\bThe coin is flipped (by) (\w{1,30}(?:(?:, and |, | and )\w{1,30}){0,50})" + WHOLE, _named
        ),
        Form(2, r"\b(Nobody) flips the coin", _named),
        Form(2, r"\bThat makes ([0-9]{1,9}) flips?\b", lambda one: ("total", (("total", one[0]),))),
        Form(
            2,
            rf"\bSince ([0-9]{{1,9}}) is (odd|even), the coin ends {_SIDE} up",
            lambda one: (_END, (("total", one[0]), ("parity", one[1]), ("side", one[2]))),
        ),
        Form(
            3,
            rf"\b(\w{{1,30}}) (turns|leaves) it (?:to|at) {_SIDE}",
            lambda one: (one[0], (("deed", one[1]), ("side", one[2]))),
        ),
        Form(3, rf"\bSo {_SIDE} is up now", lambda one: (_END, (("side", one[0]),))),
    ],
    ["count the flips"],
)


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
