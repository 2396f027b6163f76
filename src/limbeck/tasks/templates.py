"""Templates: the text of a prompt with named places, such as "Q: {question}\\nA:".

    {instruction}  what to do                 {question}  needed; with the options, unless {options}
    {examples}     the demonstrations         {options}   "Answer choices: (A) …", where they are apart
    {passages}     knowledge, one a line      {cue}       last words before the answer

Further kinds of prompts have places of their own ({answer}, {mistake}, …), filled by
`Pieces.more`. A brace that is meant as itself is doubled.

An empty place vanishes: a line all of whose places are empty goes whole, its label
included, and of the blank lines around it only the longer run stays; at either end
of the text, only those beyond it. In a line that stays, the spaces before the empty
place go with it.

Demonstrations are written by the part of the template behind {examples}, with nothing
but their question filled in, each followed by its completion: the instruction is
given once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from limbeck.records import Demonstration, Pieces

PLACES = ("instruction", "examples", "passages", "question", "options", "cue")
"""The places that prompts of every kind have."""

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|[{}]")
_LAYOUT = re.compile(r"[^\w+\-*/=<>^%×÷.]|(?<!\d)\.|\.(?!\d)")
"""White space and marks that mean nothing; signs of arithmetic and decimal points stay."""

Line = tuple[tuple[str, bool], ...]
"""Parts of a line: (text, False) is literal, (name, True) a place."""


@dataclass(frozen=True, slots=True)
class Template:
    """A template that was read and found right.

    Attributes:
        text: as it was written.
        before, after: its lines before and after {examples}; without that place all are `after`.
        gap: line breaks between {examples} and what follows, and so between demonstrations.
    """

    text: str
    before: tuple[Line, ...]
    after: tuple[Line, ...]
    gap: int
    has_examples: bool

    @classmethod
    def read(cls, text: str, places: Iterable[str] | None = PLACES) -> Self:
        """Read and check a template.

        Args:
            text: with named places.
            places: the names that may be in it; None: any.

        Raises:
            ValueError: one sentence that says what is wrong and how to fix it.
        """
        allowed = None if places is None else tuple(places)
        lines = tuple(_line(line, allowed) for line in text.split("\n"))
        names = [[name for name, is_place in line if is_place] for line in lines]
        questions = [number for number, own in enumerate(names) if "question" in own]
        if not questions:
            raise ValueError("has no place {question}; write where the question goes")
        shown = [number for number, own in enumerate(names) if "examples" in own]
        if not shown:
            return cls(text, (), lines, 2, False)
        place = shown[0]
        if len(shown) > 1 or lines[place] != (("examples", True),):
            raise ValueError("the place {examples} must be there once, alone on its line; move it there")
        if place > questions[0]:
            raise ValueError("the place {examples} must come before {question}; move it up")
        after = lines[place + 1 :]
        blank = next(number for number, line in enumerate(after) if not _is_blank(line))
        return cls(text, lines[:place], after[blank:], blank + 1, True)

    @property
    def names(self) -> frozenset[str]:
        """The places it has."""
        found = {name for line in (*self.before, *self.after) for name, is_place in line if is_place}
        return frozenset(found | {"examples"}) if self.has_examples else frozenset(found)

    def fill(self, pieces: Pieces) -> str:
        """The prompt as one text, its demonstrations written out in front of the question.

        Raises:
            ValueError: a piece has no place, or a place nothing that fills it.
        """
        values = self._values(pieces)
        if not self.has_examples:
            return _filled(self.after, values)
        apart = "\n" * self.gap
        shown = apart.join(f"{continued(asked)}{done}" for asked, done in self._demonstrations(pieces))
        # The gap is part of the item, so that it vanishes when there are no examples.
        gap: tuple[Line, ...] = ((),) * (self.gap - 1)
        whole = (*self.before, (("examples", True),), *gap, *self.after)
        return _filled(whole, {**values, "examples": shown})

    def turns(self, pieces: Pieces) -> list[str]:
        """The same cut into the turns of a chat: user, assistant, user, … and the question last.

        Raises:
            ValueError: as `fill`.
        """
        values = self._values(pieces)
        if not pieces.examples:
            return [self.fill(pieces)]
        spoken = [text for pair in self._demonstrations(pieces) for text in pair]
        spoken.append(_filled(self.after, values))
        opening = _filled(self.before, values).rstrip("\n")
        if opening:
            blank = next(n for n, line in enumerate(reversed(self.before)) if not _is_blank(line))
            spoken[0] = opening + "\n" * (blank + 1) + spoken[0]
        return spoken

    def _demonstrations(self, pieces: Pieces) -> list[tuple[str, str]]:
        empty = dict.fromkeys(self.names, "")
        return [
            (_filled(self.after, empty | {"question": one.question}), one.completion)
            for one in pieces.examples
        ]

    def _values(self, pieces: Pieces) -> dict[str, str]:
        """What goes into every place; the examples are written by the caller."""
        values = {
            "instruction": pieces.instruction,
            "question": pieces.question,
            "options": pieces.options,
            "passages": "\n".join(passage for passage in pieces.passages if passage),
            "cue": pieces.cue,
            **pieces.more,
        }
        shown = {**values, "examples": "shown" if pieces.examples else ""}
        for name, value in shown.items():
            if value and name not in self.names:
                raise ValueError(f"has no place {{{name}}} for what belongs there; add it")
        for name in sorted(self.names - shown.keys()):
            raise ValueError(f"has a place {{{name}}} that nothing fills here; remove it")
        return values


def continued(asked: str) -> str:
    """A demonstration's question, ready for its completion: behind white space nothing is added,
    behind a colon a space, else a line break."""
    if asked[-1:].isspace():
        return asked
    return asked + (" " if asked.endswith(":") else "\n")


def without_asked(examples: Sequence[Demonstration], questions: Sequence[str]) -> list[Demonstration]:
    """Demonstrations but those of the very question that is asked, in any of its layouts."""
    same = {bare_text(question) for question in questions} if examples else set()
    return [one for one in examples if bare_text(one.question) not in same]


def bare_text(text: str) -> str:
    """A question without case, white space and punctuation, by which it is known in another layout.

    >>> bare_text("What is 1.5 * 2 ?") == bare_text("what is 1.5*2"), bare_text("1.5 / 2")
    (True, '1.5/2')
    """
    return _LAYOUT.sub("", text.casefold())


def _line(line: str, allowed: Sequence[str] | None) -> Line:
    """The parts of one line.

    Raises:
        ValueError: a single brace, or a place that does not exist.
    """
    parts: list[tuple[str, bool]] = []
    literal, end = "", 0
    for found in _TOKEN.finditer(line):
        literal += line[end : found.start()]
        end = found.end()
        if found[0] in ("{{", "}}"):
            literal += found[0][0]
            continue
        name = found[1]
        if name is None:
            raise ValueError(f"it has a single {found[0]}; write {found[0] * 2} for the brace itself")
        if not name.isidentifier() or (allowed is not None and name not in allowed):
            known = ", ".join(f"{{{one}}}" for one in allowed or PLACES)
            raise ValueError(f"there is no place {{{name}}}; choose of {known}, or double the braces")
        if literal:
            parts.append((literal, False))
            literal = ""
        parts.append((name, True))
    literal += line[end:]
    return (*parts, (literal, False)) if literal else tuple(parts)


def _is_blank(line: Line) -> bool:
    return all(not is_place and not text.strip() for text, is_place in line)


def _filled(lines: Sequence[Line], values: Mapping[str, str]) -> str:
    """Lines with their places filled; see the module's text for what vanishes."""
    closed = bool(lines) and lines[-1] == ()  # the text ends in a line break
    written: list[str] = []
    blanks = [0]  # runs of blank lines since the last line, cut where a line vanished
    for line in lines[:-1] if closed else lines:
        places = [name for name, is_place in line if is_place]
        if places and not any(values[name] for name in places):
            blanks.append(0)
        elif _is_blank(line):
            blanks[-1] += 1
        else:
            written += [""] * (max(blanks) if written else blanks[0])
            written.append(_text(line, values))
            blanks = [0]
    written += [""] * blanks[-1]
    return "\n".join(written) + ("\n" if closed and written else "")


def _text(line: Line, values: Mapping[str, str]) -> str:
    text, hollow = "", False
    for part, is_place in line:
        piece = values[part] if is_place else part
        if is_place and not piece:
            text = text.rstrip(" \t")
            hollow = not text
        else:
            text += piece.lstrip(" \t") if hollow and not is_place else piece
            hollow = False
    return text
