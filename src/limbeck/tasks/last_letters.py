"""Last letters: take the last letter of each name and put them together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from limbeck.tasks.claims import Claim, Form, Forms
from limbeck.tasks.puzzle import RightStep, Slip, listed
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

    def right_steps(self, phrasing: int) -> list[RightStep]:
        """See `Puzzle.right_steps`: one for each word, and one that joins the letters."""
        steps = [self._word(phrasing, place) for place in range(len(self.words))]
        letters = listed(list(self.answer))
        ends = {
            0: f"Together that is {self.answer}",
            1: f"Putting {letters} side by side gives {self.answer}",
            3: f"Written as one word, they are {self.answer}",
        }
        together = f"{letters} put together {'are' if len(self.answer) > 1 else 'is'} {self.answer}"
        facts = {"letters": (self.answer, f"the letters are {letters}"), "whole": (self.answer, together)}
        if phrasing in ends:
            steps.append(RightStep(ends[phrasing], _TOGETHER, facts, optional=True))
        return steps

    def _word(self, phrasing: int, place: int) -> RightStep:
        word, letter, so_far = self.words[place], self.answer[place], self.answer[: place + 1]
        says = (
            f"{word} ends in {letter}",
            f"The last letter of {word} is {letter}",
            f"{word} adds {letter}: {so_far}",
            f"{letter} from {word}",
        )
        facts = {
            "letter": (letter, f"the last letter of {word} is {letter}"),
            "so far": (so_far, f"{word} adds {letter}, so the letters up to there are {so_far}"),
        }
        return RightStep(says[phrasing], word, facts)

    def claims(self, text: str) -> list[Claim]:
        """See `Puzzle.claims`."""
        return _FORMS.claims(text)


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


_TOGETHER = "all letters"
_WORD, _LETTER = r"(?!(?:and|word|letter)\b)\b(\w{1,30})", r"(?!(?:and|is)\b)(\w{1,30})\b"
_FORMS = Forms(
    [
        Form(1, rf"\bThe last letter of {_WORD} is {_LETTER}", lambda one: (one[0], (("letter", one[1]),))),
        Form(
            1,
            r"\bPutting ((?:\w{1,30}(?:, and |, | and |(?= side))){1,50}) side by side gives (\w{1,60})",
            lambda one: (
                _TOGETHER,
                (("letters", re.sub(r"\band\b|\W", "", one[0])), ("whole", one[1])),
            ),
        ),
        Form(0, rf"{_WORD} (?:ends )?in {_LETTER}", lambda one: (one[0], (("letter", one[1]),))),
        Form(0, r"\bTogether that is (\w{1,60})", lambda one: (_TOGETHER, (("whole", one[0]),))),
        Form(
            2,
            rf"{_WORD} adds {_LETTER}: (\w{{1,60}})",
            lambda one: (one[0], (("letter", one[1]), ("so far", one[2]))),
        ),
        Form(3, rf"\b{_LETTER} from {_WORD}", lambda one: (one[1], (("letter", one[0]),))),
        Form(
            3,
            r"\bWritten as one word, they are (\w{1,60})",
            lambda one: (_TOGETHER, (("whole", one[0]),)),
        ),
    ],
    ["in order(?:, we(?: take)?)?"],
)


def draw(rng: Random, parameters: Mapping[str, int]) -> LastLetters:
    """A puzzle of `words` names."""
    return LastLetters(tuple(rng.sample(NAMES, parameters["words"])))


def read(text: str) -> LastLetters | None:
    """The last such question of a text."""
    found = _QUESTION.findall(text)
    return LastLetters(tuple(found[-1].split())) if found and found[-1].split() else None
