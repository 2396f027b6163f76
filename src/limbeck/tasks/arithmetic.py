"""Multi-step arithmetic: short stories about one person and a number of things."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from limbeck.tasks.claims import Claim, Facts, Form, Forms
from limbeck.tasks.puzzle import RightStep, Slip, listed
from limbeck.tasks.words import SHORT_NAMES, THINGS

LARGEST = 99
"""No number of a story is larger, whatever the parameters."""

_START = 50
_OPERAND = 20
"""A story starts with at most so many; so many come or go in one step. Less where `largest` is small."""


@dataclass(frozen=True)
class Deed:
    """What happens in a step: `tells` in the question, `after` in a rationale; {n} is the operand."""

    sign: str
    tells: str
    after: str
    plan: str
    fixed: int | None = None


DEEDS: tuple[Deed, ...] = (
    Deed("+", "finds {n} more", "After finding {n} more", "add {n}"),
    Deed("+", "buys {n} more", "After buying {n} more", "add {n}"),
    Deed("+", "gets {n} more", "After getting {n} more", "add {n}"),
    Deed("-", "loses {n}", "After losing {n}", "subtract {n}"),
    Deed("-", "sells {n}", "After selling {n}", "subtract {n}"),
    Deed("-", "gives away {n}", "After giving away {n}", "subtract {n}"),
    Deed("*", "doubles the number", "After doubling", "multiply by 2", 2),
    Deed("*", "triples the number", "After tripling", "multiply by 3", 3),
    Deed("/", "gives away half", "After giving away half", "divide by 2", 2),
)


@dataclass(frozen=True)
class Step:
    """A deed (its place in `DEEDS`) with its operand."""

    deed: int
    operand: int

    def apply(self, value: int) -> int | None:
        """The new number; None where it is not a whole number from 1 to `LARGEST`."""
        sign, n = DEEDS[self.deed].sign, self.operand
        if sign == "/":
            result = value // n if value % n == 0 else 0
        else:
            result = {"+": value + n, "-": value - n, "*": value * n}[sign]
        return result if 1 <= result <= LARGEST else None

    def write(self, template: str) -> str:
        return template.format(n=self.operand)


@dataclass(frozen=True)
class Arithmetic:
    """`name` starts with `start` things; the steps follow."""

    name: str
    thing: str
    start: int
    steps: tuple[Step, ...]
    options: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        deeds = [step.write(DEEDS[step.deed].tells) for step in self.steps]
        story = listed([f"has {self.start} {self.thing}", *deeds])
        return f"{self.name} {story}. How many {self.thing} are there now?"

    @property
    def answer(self) -> str:
        return str(self._results()[-1])

    @property
    def solvable(self) -> bool:
        """Do all numbers stay whole and within bounds?"""
        return bool(self._results())

    def _results(self, slip_at: int | None = None, error: int = 0) -> list[int]:
        """The numbers after each step, built on an `error` made at step `slip_at`; [] if that cannot be."""
        value = self.start
        results: list[int] = []
        for n, step in enumerate(self.steps):
            result = step.apply(value)
            if result is None:
                return []
            value = result + (error if n == slip_at else 0)
            results.append(value)
        return results if min(results) >= 1 else []

    def rationale(self, phrasing: int, slip: Slip, rng: Random) -> tuple[str, str]:
        """See `Puzzle.rationale`. The error: a result is off by 1, 2 or 10."""
        results = self._results()
        starts = [self.start, *results[:-1]]
        stated = results[-1]
        if slip == "answer":
            errors = [(place, error) for place in range(len(results)) for error in (-10, -2, -1, 1, 2, 10)]
            chains = [self._results(*error) for error in errors]
            results = rng.choice([chain for chain in chains if chain and chain[-1] != stated])
            starts = [self.start, *results[:-1]]
            stated = results[-1]
        elif slip == "step":
            place = rng.randrange(len(results))
            results[place] += rng.choice(
                [error for error in (-10, -2, -1, 1, 2, 10) if results[place] + error >= 1]
            )
        return _tell(phrasing, self, starts, results), str(stated)

    def right_steps(self, phrasing: int) -> list[RightStep]:
        """See `Puzzle.right_steps`: the sums. The plan and the words in front of a sum may be left out, and
        come in any phrasing."""
        results = self._results()
        steps = [self._first(), *map(self._planned, self.steps)]
        for step, before, result in zip(self.steps, [self.start, *results[:-1]], results, strict=True):
            steps += [self._after(step), self._sum(step, before, result)]
        return steps

    def _sum(self, step: Step, before: int, result: int) -> RightStep:
        operation = _operation(step)
        told = self._told(step)
        facts = {
            "operation": (operation, f"{told}, so it is {before} {operation}, and that is {result}"),
            "result": (str(result), f"{before} {operation} is {result}"),
        }
        because = f"there are {before} {self.thing} then and {told}"
        return RightStep(f"{before} {operation} = {result}", str(before), facts, because=because)

    def _told(self, step: Step) -> str:
        return f"{self.name} {step.write(DEEDS[step.deed].tells)}"

    def _after(self, step: Step) -> RightStep:
        """Words in front of a sum; of "finding", "buying" and "getting" one is as good as the other."""
        facts = {"operation": (_operation(step), f"{self._told(step)} here")}
        return RightStep(step.write(DEEDS[step.deed].after), _AFTER, facts, optional=True)

    def _planned(self, step: Step) -> RightStep:
        says = step.write(DEEDS[step.deed].plan)
        facts = {"plan": (says, f"{self._told(step)}, so here the plan is to {says}")}
        return RightStep(says, _PLAN, facts, optional=True)

    def _first(self) -> RightStep:
        facts = {"number": (str(self.start), f"{self.name} has {self.start} {self.thing} at first")}
        return RightStep(f"There are {self.start} {self.thing} at first", _AT_FIRST, facts, optional=True)

    def claims(self, text: str) -> list[Claim]:
        """See `Puzzle.claims`."""
        return _FORMS.claims(text)


def _tell(phrasing: int, puzzle: Arithmetic, starts: list[int], results: list[int]) -> str:
    """`starts` and `results` of each step, as the rationale gives them."""
    steps = list(zip(puzzle.steps, starts, results, strict=True))
    sums = [f"{before} {DEEDS[step.deed].sign} {step.operand} = {result}" for step, before, result in steps]
    if phrasing == 0:
        return f"First {', then '.join(sums)}."
    if phrasing == 1:
        deeds = [step.write(DEEDS[step.deed].after) for step in puzzle.steps]
        return " ".join(f"{deed}: {line}." for deed, line in zip(deeds, sums, strict=True))
    if phrasing == 2:
        plan = listed([step.write(DEEDS[step.deed].plan) for step in puzzle.steps])
        return f"We {plan}: {', '.join(sums)}."
    return f"There are {puzzle.start} {puzzle.thing} at first. Then there are {listed(sums)}."


def _operation(step: Step) -> str:
    return f"{DEEDS[step.deed].sign} {step.operand}"


_AFTER, _PLAN, _AT_FIRST = "what happens", "the plan", "the start"
"""What claims are about that are no sums; a sum is about the number that it begins with."""

_NUMBER = r"([0-9]{1,9})"
_SIGNS = {"×": "*", "x": "*", "÷": "/", "−": "-", "–": "-"}


def _summed(groups: Sequence[str]) -> tuple[str, Facts]:
    before, sign, operand, result = groups
    operation = f"{_SIGNS.get(sign.casefold(), sign)} {int(operand)}"
    return str(int(before)), (
        ("operation", operation),
        ("result", result if "-" in result else str(int(result))),
    )


_DOING = {deed.after.removeprefix("After ").partition(" {n}")[0]: deed for deed in DEEDS}
"""Deeds by what they are called in a rationale."""


def _done(groups: Sequence[str]) -> tuple[str, Facts]:
    name, operand, itself = groups
    deed = _DOING[(name or itself).casefold()]
    return _AFTER, (("operation", f"{deed.sign} {deed.fixed or int(operand)}"),)


def _called(fixed: bool) -> str:
    return "|".join(name for name, deed in _DOING.items() if (deed.fixed is not None) == fixed)


_FORMS = Forms(
    [
        Form(  # a whole equation: no part of a longer sum, no piece of a decimal number
            None,
            rf"(?<![\w.,/*+=-])(?<![-+*/×÷=] ){_NUMBER} ?([-+*/×÷x−–]) ?{_NUMBER} ?= ?(-?[0-9]{{1,9}})"
            r"(?![\w%/]|[.,][0-9]| ?[-+*/×÷=])",
            _summed,
        ),
        Form(1, rf"\bAfter (?:({_called(False)}) {_NUMBER}(?: more)?|({_called(True)}))\b", _done),
        Form(
            2,
            r"\b((?:add|subtract|multiply by|divide by) [0-9]{1,9})\b",
            lambda one: (_PLAN, (("plan", one[0]),)),
        ),
        Form(
            3,
            rf"\bThere are {_NUMBER} \w{{1,30}} at first",
            lambda one: (_AT_FIRST, (("number", str(int(one[0]))),)),
        ),
    ],
    ["then there are"],
)


def draw(rng: Random, parameters: Mapping[str, int]) -> Arithmetic:
    """A story of `steps` steps; numbers stay whole and between 2 and `largest`."""
    largest = parameters["largest"]
    start = rng.randint(5, min(_START, (largest + 1) // 2))
    value = start
    steps: list[Step] = []
    while len(steps) < parameters["steps"]:
        sign = rng.choice("++--*/")
        deed = rng.choice([place for place, deed in enumerate(DEEDS) if deed.sign == sign])
        step = Step(deed, DEEDS[deed].fixed or rng.randint(2, min(_OPERAND, largest // 3)))
        result = step.apply(value)
        if result is not None and 1 < result <= largest:
            value = result
            steps.append(step)
    return Arithmetic(rng.choice(SHORT_NAMES), rng.choice(THINGS), start, tuple(steps))


_QUESTION = re.compile(r"([A-Z][a-z]+) has (\d+) ([a-z]+)(?:, | and )([^.?]+)\. How many \3 are there now\?")
_DEED_FORMS = [(place, re.compile(deed.tells.replace("{n}", r"(\d+)"))) for place, deed in enumerate(DEEDS)]


def read(text: str) -> Arithmetic | None:
    """The last such question of a text; None too if a step is unknown or leaves the numbers allowed."""
    found = _QUESTION.findall(text)
    if not found:
        return None
    name, start, thing, deeds = found[-1]
    steps = []
    for part in re.split(r", | and ", deeds):
        forms = [(place, form.fullmatch(part)) for place, form in _DEED_FORMS]
        known = [(place, match) for place, match in forms if match]
        if not known:
            return None
        place, match = known[0]
        steps.append(Step(place, DEEDS[place].fixed or int(match[1])))
    story = Arithmetic(name, thing, int(start), tuple(steps))
    return story if story.solvable else None
