"""Shuffled objects: people hold objects and swap them in pairs; who holds what at the end?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from limbeck.tasks.claims import WHOLE, Claim, Facts, Form, Forms, each
from limbeck.tasks.options import LETTERS, list_options
from limbeck.tasks.puzzle import RightStep, Slip, listed
from limbeck.tasks.words import COLOURS, OBJECTS, SHORT_NAMES

_HAS = r"[A-Z][a-z]+ has the [a-z]+ [a-z]+"
_SWAP = r"(?:First|Then|Finally) [A-Z][a-z]+ and [A-Z][a-z]+ swap\."
_QUESTION = re.compile(
    rf"({_HAS}(?:(?:, | and ){_HAS})+)\.((?: {_SWAP})+) Which [a-z]+ does ([A-Z][a-z]+) have now\?"
)

State = tuple[int, ...]
"""Which object (by number) each person (by place) holds."""


@dataclass(frozen=True)
class ShuffledObjects:
    """Person n starts with object n; `swaps` are pairs of people; `asked` is a person."""

    people: tuple[str, ...]
    colours: tuple[str, ...]
    thing: str
    swaps: tuple[tuple[int, int], ...]
    asked: int

    @property
    def question(self) -> str:
        starts = [
            f"{name} has the {colour} {self.thing}"
            for name, colour in zip(self.people, self.colours, strict=True)
        ]
        words = ["First", *["Then"] * (len(self.swaps) - 1)]
        if len(words) > 2:
            words[-1] = "Finally"
        swaps = [f"{word} {self._pair(swap)} swap." for word, swap in zip(words, self.swaps, strict=True)]
        asked = f"Which {self.thing} does {self.people[self.asked]} have now?"
        return " ".join([f"{listed(starts)}.", *swaps, asked, list_options(self.options)])

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(f"{colour} {self.thing}" for colour in self.colours)

    @property
    def answer(self) -> str:
        return LETTERS[self._states()[-1][self.asked]]

    def _pair(self, swap: tuple[int, int]) -> str:
        return f"{self.people[swap[0]]} and {self.people[swap[1]]}"

    def _states(self) -> list[State]:
        """The state after each swap."""
        return _follow(tuple(range(len(self.people))), self.swaps)

    def rationale(self, phrasing: int, slip: Slip, rng: Random) -> tuple[str, str]:
        """See `Puzzle.rationale`. The error: in a swap, one person's object is mistaken for another's."""
        states = self._states()
        got = states[-1][self.asked]
        if slip == "step":
            place = rng.randrange(len(states))
            states[place] = _swapped(states[place], self._mistake(place, states[place].index(got), rng))
        elif slip == "answer":
            chains = [self._mistaken_chain(place, pair) for place, pair in self._mistakes()]
            states = rng.choice([chain for chain in chains if chain[-1][self.asked] != got])
            got = states[-1][self.asked]
        return _tell(phrasing, self, states, got), LETTERS[got]

    def right_steps(self, phrasing: int) -> list[RightStep]:
        """See `Puzzle.right_steps`. Phrasing 2 follows each object, 3 goes back from the end."""
        swaps = [self._swap(phrasing, place) for place in range(len(self.swaps))]
        if phrasing == 2:
            return [*(self._path(held) for held in range(len(self.people))), self._end(phrasing)]
        if phrasing == 3:
            name = self.people[self.asked]
            facts = {"who": (name, f"the question is what {name} has")}
            asked = RightStep(f"Go back from what {name} has now", _ASKED, facts, optional=True)
            return [asked, *reversed(swaps), self._at_first()]
        start = RightStep(
            f"Start: {self.holdings(tuple(range(len(self.people))))}",
            _START,
            self._held(tuple(range(len(self.people))), "at first"),
            other=_NOBODY,
            optional=True,
        )
        return [*([start] if phrasing == 0 else []), *swaps, self._end(phrasing)]

    def _swap(self, phrasing: int, place: int) -> RightStep:
        """What is so after a swap: what everybody has, and who has "it", what the one asked ends with."""
        pair, state = self._pair(self.swaps[place]), self._states()[place]
        holder = self.people[state.index(self._states()[-1][self.asked])]
        gets = listed([f"{self.people[n]} gets {self.colours[state[n]]}" for n in self.swaps[place]])
        says = {
            0: f"{pair} swap: {self.holdings(state)}",
            1: f"When {pair} swap, {gets}",
            3: f"After {pair} swapped, {holder} had it",
        }
        facts = self._held(state, "after that swap")
        facts["it"] = (holder, f"what {self.people[self.asked]} has now was with {holder} after that swap")
        return RightStep(says.get(phrasing, ""), _of_pair(pair.split(" and ")), facts, other=_NOBODY)

    def _held(self, state: State, when: str) -> dict[str, tuple[str, str]]:
        held = [(name, self.colours[n]) for name, n in zip(self.people, state, strict=True)]
        return {name.casefold(): (colour, f"{name} has {colour} {when}") for name, colour in held}

    def _path(self, held: int) -> RightStep:
        """Who holds an object, at first and after each swap."""
        states = [tuple(range(len(self.people))), *self._states()]
        colour, path = self.colours[held], [self.people[state.index(held)] for state in states]
        when = ["at first", *(f"after swap {number}" for number in range(1, len(states)))]
        why = [f"{who} holds the {colour} one {then}" for who, then in zip(path, when, strict=True)]
        facts = {
            str(place): (who, because) for place, (who, because) in enumerate(zip(path, why, strict=True))
        }
        right = f"{path[0]} holds it at first, and the holders after each swap are {listed(path[1:])}"
        facts["how many"] = (str(len(path)), right)
        return RightStep(
            f"The {colour} one is held by {', then '.join(path)}", f"the {colour} one", facts, other=right
        )

    def _at_first(self) -> RightStep:
        end = self._end(3)
        who = self.people[self._states()[-1][self.asked]]
        colour, choice = end.facts["colour"][0], end.facts["choice"][0]
        facts = {
            "who": (who, f"what {self.people[self.asked]} has now was with {who} at first"),
            "colour": (colour, f"what {who} had at first was {colour}"),
            "choice": end.facts["choice"],
        }
        return RightStep(f"At first {who} had it, and that was {colour}, choice {choice}", _AT_FIRST, facts)

    def _end(self, phrasing: int) -> RightStep:
        got = self._states()[-1][self.asked]
        name, colour, choice = self.people[self.asked], self.colours[got], f"choice {LETTERS[got]}"
        says = {
            0: f"{name} has {colour}, {choice}",
            1: f"So {name} ends with {colour}, which is {choice}",
            2: f"At the end {name} holds {colour}, so it is {choice}",
        }
        facts = {
            "who": (name, f"the question is what {name} has"),
            "colour": (colour, f"{name} has {colour} at the end"),
            "choice": (LETTERS[got], f"{colour} is {choice}"),
        }
        return RightStep(says.get(phrasing, ""), _END, facts, optional=True)

    def claims(self, text: str) -> list[Claim]:
        """See `Puzzle.claims`."""
        return _FORMS.claims(text)

    def _mistake(self, place: int, holder: int, rng: Random) -> tuple[int, int]:
        """A pair of `holder` and another, one of whom takes part in the swap at `place`."""
        others = [n for n in range(len(self.people)) if n != holder]
        if holder not in self.swaps[place]:
            others = list(self.swaps[place])
        return holder, rng.choice(others)

    def _mistakes(self) -> list[tuple[int, tuple[int, int]]]:
        """All (place, pair) in which the pair shares someone with the swap at `place`."""
        pairs = _pairs(len(self.people))
        return [(place, pair) for place, swap in enumerate(self.swaps) for pair in pairs if {*pair} & {*swap}]

    def _mistaken_chain(self, place: int, pair: tuple[int, int]) -> list[State]:
        """The states when `pair`'s objects are mistaken after the swap at `place`, and all builds on it."""
        states = self._states()[: place + 1]
        states[place] = _swapped(states[place], pair)
        return states + _follow(states[place], self.swaps[place + 1 :])

    def holdings(self, state: State) -> str:
        """Who has what, in note form."""
        return ", ".join(
            f"{name} {self.colours[held]}" for name, held in zip(self.people, state, strict=True)
        )


def _swapped(state: State, pair: tuple[int, int]) -> State:
    held = list(state)
    held[pair[0]], held[pair[1]] = held[pair[1]], held[pair[0]]
    return tuple(held)


def _follow(state: State, swaps: Sequence[tuple[int, int]]) -> list[State]:
    states = []
    for swap in swaps:
        state = _swapped(state, swap)
        states.append(state)
    return states


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(one, other) for one in range(count) for other in range(one + 1, count)]


def _tell(phrasing: int, puzzle: ShuffledObjects, states: list[State], got: int) -> str:
    """`states` after each swap, as the rationale gives them; `got`: what the asked person ends with."""
    people, colours, name = puzzle.people, puzzle.colours, puzzle.people[puzzle.asked]
    steps = [(puzzle._pair(swap), swap, state) for swap, state in zip(puzzle.swaps, states, strict=True)]
    start = tuple(range(len(people)))
    choice = f"choice {LETTERS[got]}"
    if phrasing == 0:
        tale = [f"{pair} swap: {puzzle.holdings(state)}." for pair, _, state in steps]
        return " ".join([f"Start: {puzzle.holdings(start)}.", *tale, f"{name} has {colours[got]}, {choice}."])
    if phrasing == 1:
        tale = [
            f"When {pair} swap, {listed([f'{people[one]} gets {colours[state[one]]}' for one in swap])}."
            for pair, swap, state in steps
        ]
        return " ".join([*tale, f"So {name} ends with {colours[got]}, which is {choice}."])
    if phrasing == 2:
        paths = [[people[state.index(n)] for state in (start, *states)] for n in start]
        tale = [f"The {colours[n]} one is held by {', then '.join(path)}." for n, path in enumerate(paths)]
        return " ".join([*tale, f"At the end {name} holds {colours[got]}, so it is {choice}."])
    holders = [people[state.index(got)] for state in states]
    tale = [f"After {pair} swapped, {who} had it." for who, (pair, _, _) in zip(holders, steps, strict=True)]
    began = f"At first {people[start.index(got)]} had it, and that was {colours[got]}, {choice}."
    return " ".join([f"Go back from what {name} has now.", *reversed(tale), began])


_START, _END, _ASKED, _AT_FIRST = "the start", "the end", "what is asked", "the first holder"
"""What claims are about that are about no swap and no object."""

_NOBODY = "there is no {name}"


def _of_pair(pair: Sequence[str]) -> str:
    """A swap, whoever of the two is named first."""
    return " and ".join(sorted(name.casefold() for name in pair))


def _holdings(text: str) -> Facts:
    return tuple((name, colour) for name, colour in each(text, r"(?!and\b)\b(\w+)(?: gets)? (\w+)"))


def _holders(groups: Sequence[str]) -> tuple[str, Facts]:
    path = [name for (name,) in each(groups[1], r"(?!then\b)\b(\w+)")]
    facts = [(str(place), name) for place, name in enumerate(path)]
    return f"the {groups[0]} one", (*facts, ("how many", str(len(path))))


def _found(groups: Sequence[str], about: str) -> tuple[str, Facts]:
    who, colour, choice = groups
    return about, (("who", who), ("colour", colour), ("choice", choice))


_NAME, _PAIR = r"(\w{1,30})", r"(\w{1,30}) and (\w{1,30})"
_HOLDINGS = r"(\w{1,30} \w{1,30}(?:, \w{1,30} \w{1,30}){0,20})"
_GETS = r"(\w{1,30} gets \w{1,30}(?:(?:, and |, | and )\w{1,30} gets \w{1,30}){0,20})"
_CHOICE = r"choice \(?([A-Z])\b"
_FORMS = Forms(
    [
        Form(0, rf"\bStart: {_HOLDINGS}", lambda one: (_START, _holdings(one[0]))),
        Form(1, rf"\bWhen {_PAIR} swap, {_GETS}", lambda one: (_of_pair(one[:2]), _holdings(one[2]))),
        Form(
            3, rf"\bAfter {_PAIR} swapped, {_NAME} had it", lambda one: (_of_pair(one[:2]), (("it", one[2]),))
        ),
        Form(0, rf"\b{_PAIR} swap: {_HOLDINGS}", lambda one: (_of_pair(one[:2]), _holdings(one[2]))),
        Form(2, rf"\bThe {_NAME} one is held by (\w{{1,30}}(?:, then \w{{1,30}}){{0,20}}){WHOLE}", _holders),
        Form(2, rf"\bAt the end {_NAME} holds {_NAME}, so it is {_CHOICE}", lambda one: _found(one, _END)),
        Form(3, rf"\bGo back from what {_NAME} has now", lambda one: (_ASKED, (("who", one[0]),))),
        Form(
            3,
            rf"\bAt first {_NAME} had it, and that was {_NAME}, {_CHOICE}",
            lambda one: _found(one, _AT_FIRST),
        ),
        Form(1, rf"\bSo {_NAME} ends with {_NAME}, which is {_CHOICE}", lambda one: _found(one, _END)),
        Form(0, rf"\b{_NAME} has {_NAME}, {_CHOICE}", lambda one: _found(one, _END)),
    ],
    [],
)


def draw(rng: Random, parameters: Mapping[str, int]) -> ShuffledObjects:
    """A puzzle of `people` and `swaps`; no pair swaps twice in a row (that would undo it)."""
    count = parameters["people"]
    people = tuple(rng.sample(SHORT_NAMES, count))
    colours = tuple(rng.sample(COLOURS, count))
    swaps: list[tuple[int, int]] = []
    for _ in range(parameters["swaps"]):
        fresh = [pair for pair in _pairs(count) if not swaps or pair != swaps[-1] or count == 2]
        swaps.append(rng.choice(fresh))
    return ShuffledObjects(people, colours, rng.choice(OBJECTS), tuple(swaps), rng.randrange(count))


def read(text: str) -> ShuffledObjects | None:
    """The last such question of a text; None too if it names someone or something twice or unannounced."""
    found = _QUESTION.findall(text)
    if not found:
        return None
    starts, swaps, asked = found[-1]
    holds = re.findall(r"([A-Z][a-z]+) has the ([a-z]+) ([a-z]+)", starts)
    people = [name for name, _, _ in holds]
    pairs = re.findall(r"([A-Z][a-z]+) and ([A-Z][a-z]+) swap", swaps)
    if len(set(people)) < len(people) or not {asked, *(name for pair in pairs for name in pair)} <= set(
        people
    ):
        return None
    places = tuple((people.index(one), people.index(other)) for one, other in pairs)
    colours = tuple(colour for _, colour, _ in holds)
    return ShuffledObjects(tuple(people), colours, holds[0][2], places, people.index(asked))
