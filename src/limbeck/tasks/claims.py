"""What a text claims, claim by claim, in the phrasings of a built-in task.

A claim that no form reads is kept too, as one that cannot be read, unless it only leads on
("First", "and then"). Reading takes linear time, whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WHOLE = r"(?=[ \t]*(?:[.\n]|\Z))"
"""Behind a list in a form: its sentence ends, so that no name of the list is left unread."""

Facts = tuple[tuple[str, str], ...]
"""What is claimed, one by one: (of what, what)."""

_WORDS = r"first|then|and|so|next|finally|we|there (?:are|is)|now|thus|</?\w{1,12}>"
_WORD = re.compile(rf"(?<!\w)(?:{_WORDS})(?!\w)", re.IGNORECASE)
_SENTENCE = re.compile(r"(?:[^.\n]|\.(?=[0-9]))+")
_CLOSING = re.compile(r"(?:\bthe answer is\b|-->|####)[ \t]*(?:\(?\w{1,30}\)?)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim as it was written; `about` "": it cannot be read. `phrasing` None: it is in several."""

    text: str
    about: str = ""
    facts: Facts = ()
    phrasing: int | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """How a claim is written in one phrasing, and what it says: about what, which facts."""

    phrasing: int | None
    pattern: str
    read: Callable[[Sequence[str]], tuple[str, Facts]]


class Forms:
    """All forms of a task.

    Args:
        forms: where two match at one place, the earlier one counts. A pattern starts at a word and tries only
            so many characters from there on.
        leads_on: patterns of words that claim nothing, besides "first", "then" and the like.
    """

    def __init__(self, forms: Sequence[Form], leads_on: Sequence[str]) -> None:
        self._forms = forms
        self._single = [re.compile(form.pattern, re.IGNORECASE) for form in forms]
        named = (f"(?P<f{number}>{form.pattern})" for number, form in enumerate(forms))
        self._any = re.compile("|".join(named), re.IGNORECASE)
        self._leads_on = re.compile(
            rf"\b(?:{'|'.join(leads_on)})(?!\w)" if leads_on else "(?!)", re.IGNORECASE
        )

    def claims(self, text: str) -> list[Claim]:
        """The claims of a text in their order; statements of the answer are none."""
        found: list[Claim] = []
        end = 0
        for match in self._any.finditer(text):
            found += self._between(text[end : match.start()])
            number = int((match.lastgroup or "f0")[1:])
            groups = self._single[number].match(text, match.start())
            if groups:
                form = self._forms[number]
                found.append(Claim(_plain(match[0]), *form.read(groups.groups("")), form.phrasing))
            end = match.end()
        return found + self._between(text[end:])

    def _between(self, text: str) -> list[Claim]:
        """What stands between claims that were read: claims that cannot be."""
        rest = self._leads_on.sub(".", _CLOSING.sub(".", text))
        return [
            Claim(_plain(piece))
            for piece in _SENTENCE.findall(rest)
            if re.search(r"\w", _WORD.sub(" ", piece))
        ]


def _plain(text: str) -> str:
    """In one line, without the marks around it."""
    return " ".join(text.split()).strip(" .,;:")


def each(text: str, pattern: str) -> list[tuple[str, ...]]:
    """The groups of all places of a text where a pattern is found, in whatever case.

    >>> each("Ann red, Ben blue", r"(\\w+) (\\w+)")
    [('Ann', 'red'), ('Ben', 'blue')]
    """
    return [match.groups("") for match in re.finditer(pattern, text, re.IGNORECASE)]
