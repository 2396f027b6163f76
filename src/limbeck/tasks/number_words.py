"""Numbers written in words: "one hundred and fifty-one" is 151."""

from __future__ import annotations

import re

_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: n for n, word in enumerate(_ONES.split())}
_SMALL |= {word: 20 + 10 * n for n, word in enumerate(_TENS.split())}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD = "|".join([*sorted(_SMALL, key=len, reverse=True), "hundred", "dozen", *_LARGE])
_RUN = re.compile(
    rf"\b(?:a\s+(?=hundred|thousand|million|dozen))?(?:{_WORD})\b(?:(?:\s*-\s*|\s+and\s+|\s+)(?:{_WORD})\b){{0,20}}",
    re.IGNORECASE,
)
_COUNTS_NOTHING = re.compile(r"\s+(?:of|by|another|who|that|which|is)\b", re.IGNORECASE)
"""After "one": "one of the boxes", "the larger one is"."""


def words_as_digits(text: str) -> str:
    """A text with the numbers that are written in words as digits; a "one" that counts nothing stays.

    >>> words_as_digits("It costs one hundred and fifty-one dollars, or two.")
    'It costs 151 dollars, or 2.'
    >>> words_as_digits("the larger one")
    'the larger one'
    """
    return _RUN.sub(_in_digits, text)


def _in_digits(run: re.Match[str]) -> str:
    words = re.findall("[a-z]+", run[0].casefold())
    if words == ["one"]:
        before = run.string[: run.start()].strip(' *:="')
        if before or _COUNTS_NOTHING.match(run.string, run.end()):
            return run[0]
    return str(_value([word for word in words if word not in ("and", "a")]))


def _value(words: list[str]) -> int:
    """Of the words of one number, from left to right."""
    whole = part = 0
    for word in words:
        if word in _SMALL:
            part += _SMALL[word]
        elif word in _LARGE:
            whole, part = whole + max(part, 1) * _LARGE[word], 0
        else:
            part = max(part, 1) * (100 if word == "hundred" else 12)
    return whole + part
