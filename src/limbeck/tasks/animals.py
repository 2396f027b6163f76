"""Animals: how much of something several made-up animals have; how much one has is in a corpus of facts.

No fact is asked twice, so what was learned of other questions answers none: the passage has to be found and
read. A question says nothing in the words of its passage but the animal's name, which six passages share;
a rationale repeats the passage's words. So search by rationale finds it, and search by question has to guess.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random

from limbeck.records import Passage
from limbeck.tasks.claims import Claim, Form, Forms
from limbeck.tasks.puzzle import RightStep, Slip

MOST = 5000
"""Animals that there can be."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What is known of every animal: `fact` says it with {name} and {each}, `question` asks it of {count}."""

    name: str
    fact: str
    question: str


TOPICS = (
    Topic(
        "eggs",
        "every spring a mother {name} lays {each} eggs",
        "How many young do {count} {name} nests hold?",
    ),
    Topic(
        "speed",
        "on level ground the {name} covers {each} miles an hour",
        "How far does one {name} run from noon until {count} o'clock?",
    ),
    Topic(
        "weight", "a grown {name} weighs {each} pounds", "How heavy are {count} of the {name} kind together?"
    ),
    Topic(
        "food",
        "the daily food of the {name} is {each} fish",
        "What number of herrings do {count} hungry {name} guests finish before tomorrow?",
    ),
    Topic(
        "price",
        "at the market the {name} costs {each} coins",
        "How much money does a farmer need to buy {count} {name} calves?",
    ),
    Topic(
        "sleep",
        "in winter the {name} sleeps for {each} weeks",
        "How long is one {name} at rest in the cold months of {count} years?",
    ),
)

_HOMES = (
    "It lives in reeds by slow rivers.",
    "Its home is the dry hills of the south.",
    "It is shy and seldom seen.",
    "Old songs of the coast tell of it.",
    "Its fur is grey, with a white stripe.",
    "Travellers take it for a fox at first.",
)


@dataclass(frozen=True)
class Animals:
    """A question about `topic` (its place in `TOPICS`) of the animal called `name`."""

    name: str
    topic: int
    options: tuple[str, ...] = ()

    @property
    def each(self) -> int:
        """What the corpus says."""
        return 2 + _number(self.name, self.topic, "each") % 8

    @property
    def count(self) -> int:
        """What the question multiplies it by."""
        return 2 + _number(self.name, self.topic, "count") % 4

    @property
    def question(self) -> str:
        return TOPICS[self.topic].question.format(count=self.count, name=self.name)

    @property
    def answer(self) -> str:
        return str(self.count * self.each)

    def fact(self, each: int) -> str:
        """The fact as passages put it, with whatever number."""
        return TOPICS[self.topic].fact.format(name=self.name, each=each)

    def rationale(self, phrasing: int, slip: Slip, rng: Random) -> tuple[str, str]:
        """See `Puzzle.rationale`. The error: another number than the corpus has."""
        each = self.each
        if slip != "none":
            each = rng.choice([number for number in range(2, 10) if number != each])
        total = self.count * (each if slip == "answer" else self.each)
        return _tell(
            phrasing, self.fact(each), self.count, each if slip == "answer" else self.each, total
        ), str(total)

    def right_steps(self, phrasing: int) -> list[RightStep]:
        """See `Puzzle.right_steps`: the fact, and the product."""
        fact, count, each, total = self.fact(self.each), self.count, self.each, self.answer
        said = f"{fact[0].upper()}{fact[1:]}" if phrasing == 0 else fact
        known = {"number": (str(each), f"the corpus says that {fact}")}
        facts = {
            "count": (str(count), f"the question is about {count}"),
            "each": (str(each), f"{fact}"),
            "total": (total, f"{count} times {each} is {total}"),
        }
        says = _PRODUCTS[phrasing].format(count=count, each=each, total=total)
        return [
            RightStep(said, f"{self.name} {TOPICS[self.topic].name}", known),
            RightStep(says, _PRODUCT, facts),
        ]

    def claims(self, text: str) -> list[Claim]:
        """See `Puzzle.claims`."""
        return _FORMS.claims(text)


_PRODUCTS = (
    "{count} times {each} is {total}",
    "{count} x {each} = {total}",
    "the total is {count} times {each}, which makes {total}",
    "{count} * {each} = {total}",
)


def _tell(phrasing: int, fact: str, count: int, each: int, total: int) -> str:
    made = _PRODUCTS[phrasing].format(count=count, each=each, total=total)
    if phrasing == 0:
        return f"{fact[0].upper()}{fact[1:]}. {made}."
    if phrasing == 1:
        return f"We know that {fact}, so {made}."
    if phrasing == 2:
        return f"Since {fact}, {made}."
    return f"Fact: {fact}. Product: {made}."


_PRODUCT = "the product"
_N = r"(\d{1,9})"


def _fact_form(topic: Topic) -> Form:
    pattern = re.escape(topic.fact).replace(r"\{name\}", r"(\w{1,30})").replace(r"\{each\}", _N)
    return Form(None, rf"\b{pattern}", lambda one: (f"{one[0]} {topic.name}", (("number", one[1]),)))


def _product_form(phrasing: int, pattern: str) -> Form:
    return Form(
        phrasing,
        pattern,
        lambda one: (_PRODUCT, (("count", one[0]), ("each", one[1]), ("total", one[2]))),
    )


_FORMS = Forms(
    [
        *map(_fact_form, TOPICS),
        _product_form(2, rf"\bthe total is {_N} times {_N}, which makes {_N}"),
        _product_form(0, rf"\b{_N} times {_N} is {_N}"),
        _product_form(1, rf"\b{_N} x {_N} = {_N}"),
        _product_form(3, rf"\b{_N} \* {_N} = {_N}"),
    ],
    ["we know that", "since", "fact", "product"],
)


def draw(rng: Random, parameters: Mapping[str, int]) -> Animals:
    """A puzzle about one of the `animals` first names, and any topic."""
    return Animals(_names()[rng.randrange(parameters["animals"])], rng.randrange(len(TOPICS)))


def read(text: str) -> Animals | None:
    """The last such question of a text."""
    found = [
        (match.start(), match["name"], topic, match[0])
        for topic, pattern in enumerate(_QUESTIONS)
        for match in pattern.finditer(text)
    ]
    asked = [(start, Animals(name, topic), text) for start, name, topic, text in found if name in _known()]
    known = [(start, one) for start, one, text in asked if one.question == text]
    return max(known, key=lambda pair: pair[0])[1] if known else None


_QUESTIONS = [
    re.compile(
        re.escape(topic.question).replace(r"\{count\}", r"\d").replace(r"\{name\}", r"(?P<name>[a-z]+)")
    )
    for topic in TOPICS
]


def corpus(parameters: Mapping[str, int]) -> Iterator[Passage]:
    """All that is known of the animals that are asked about, a fact to a passage."""
    for name in _names()[: parameters["animals"]]:
        for place, topic in enumerate(TOPICS):
            about = Animals(name, place)
            fact = about.fact(about.each)
            home = _HOMES[_number(name, place, "home") % len(_HOMES)]
            yield Passage(
                id=f"{name}-{topic.name}",
                title=name.capitalize(),
                text=f"{fact[0].upper()}{fact[1:]}. {home}",
            )


@cache
def _names() -> tuple[str, ...]:
    """Made-up names, in an order that is always the same, each with a stem of its own: "baled" has that of
    "bales", and whoever searches for one would find the other."""
    made = ["".join(letters) for letters in product("bdfgklmprtvz", "aeiou", "lmnrv", "aeiou", "kbgtpsd")]
    made = [name for name in made if not name.endswith("ed")]
    return tuple(sorted(made, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:MOST])


@cache
def _known() -> frozenset[str]:
    return frozenset(_names())


def _number(name: str, topic: int, what: str) -> int:
    return int(hashlib.sha256(f"{name} {topic} {what}".encode()).hexdigest()[:12], 16)
