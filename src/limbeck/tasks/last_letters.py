"""Last letters: take the last letter of each name and put them together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from limbeck.tasks.puzzle import Slip, listed
from limbeck.tasks.words import NAMES

_QUESTION = re.compile(r'Take the last letters of the words in "([A-Za-z ]+)" and concatenate them\.')
_LETTERS = "abcdefghiklmnorstuxyz"


@dataclass(frozen=True)
class LastLetters:
    """`words` are distinct names."""

    words: tuple[str, ...]
    options: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        return f'Take the last letters of the words in "{" ".join(self.words)}" and concatenate them.'

    @property
    def answer(self) -> str:
        return "".join(word[-1] for word in self.words).lower()

    def rationale(self, phrasing: int, slip: Slip, rng: Random) -> tuple[str, str]:
        """See `Puzzle.rationale`."""
        letters = list(self.answer)
        if slip != "none":
            place = rng.randrange(len(letters))
            near = self.words[place][-2:-1].lower()
            near = near if rng.random() < 0.5 and near.isalpha() else rng.choice(_LETTERS)
            letters[place] = near if near != letters[place] else _next_letter(near)
        stated = "".join(letters) if slip == "answer" else self.answer
        return _tell(phrasing, self.words, letters, stated), stated


def _next_letter(letter: str) -> str:
    return "a" if letter == "z" else chr(ord(letter) + 1)


def _tell(phrasing: int, words: tuple[str, ...], letters: list[str], stated: str) -> str:
    pairs = list(zip(words, letters, strict=True))
    if phrasing == 0:
        first, *others = pairs
        ends = [f"{first[0]} ends in {first[1]}", *(f"{word} in {letter}" for word, letter in others)]
        return f"{listed(ends)}. Together that is {stated}."
    if phrasing == 1:
        gives = [f"The last letter of {word} is {letter}." for word, letter in pairs]
        return " ".join([*gives, f"Putting {listed(letters)} side by side gives {stated}."])
    if phrasing == 2:
        steps = [f"{word} adds {letter}: {stated[:n]}{letter}." for n, (word, letter) in enumerate(pairs)]
        return " ".join(steps)
    taken = listed([f"{letter} from {word}" for word, letter in pairs])
    return f"In order, we take {taken}. Written as one word, they are {stated}."


def draw(rng: Random, parameters: Mapping[str, int]) -> LastLetters:
    """A puzzle of `words` names."""
    return LastLetters(tuple(rng.sample(NAMES, parameters["words"])))


def read(text: str) -> LastLetters | None:
    """The last such question of a text."""
    found = _QUESTION.findall(text)
    return LastLetters(tuple(found[-1].split())) if found and found[-1].split() else None
