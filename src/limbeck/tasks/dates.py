"""Dates in running text, and whether a rationale computes another date than the option it chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence

from limbeck.tasks.options import LETTERS

Date = tuple[int | None, int, int]
"""Year (None: "May 7"), month, day, as written: 2/30/2021 is one too, for a rationale may get there."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMES = (
    r"jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
_DATE = re.compile(
    rf"""(?<![\d/])(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}})/(?P<year>\d{{4}})(?![\d/])
    |\b(?P<name>{_NAMES})\.?\s(?P<nth>\d{{1,2}})(?!\d)(?:[nr]d|st|th)?(?:(?:,|\sof)?\s?(?P<in>\d{{4}})\b)?""",
    re.IGNORECASE | re.VERBOSE,
)
_NO_RESULT = re.compile(
    r"(?:\((?:[A-Z]\)\s*)?|\b(?:from|before|after|than|and|(?<!\bdate )of)\s+)$", re.IGNORECASE
)
"""What comes before a date that is listed ("(B) 04/01/2021"), reckoned from, or an aside."""


def results(text: str) -> list[Date]:
    """The dates that a text arrives at, in order: all but those it reckons from or lists as options.

    >>> results("10 days from April 20, 2021 is 04/30/2021.")
    [(2021, 4, 30)]
    """
    found = _DATE.finditer(text)
    return [
        _date(date) for date in found if not _NO_RESULT.search(text, max(0, date.start() - 20), date.start())
    ]


def _date(found: re.Match[str]) -> Date:
    if found["month"]:
        return int(found["year"]), int(found["month"]), int(found["day"])
    return (
        int(found["in"]) if found["in"] else None,
        _MONTHS.index(found["name"][:3].lower()) + 1,
        int(found["nth"]),
    )


def options_are_dates(options: Sequence[str]) -> bool:
    """Is every option a date?"""
    return bool(options) and all(_DATE.fullmatch(option.strip()) for option in options)


def contradicts_choice(reasoning: str, answer: str | None, options: Sequence[str]) -> bool:
    """Does the reasoning arrive last at another date than that of the option it chooses?

    A rationale without an answer, one without a date, and options that are not
    dates contradict nothing.

    >>> contradicts_choice("Ten days before May 11 is May 2, 2021.", "A", ("05/01/2021", "05/09/2021"))
    True
    """
    if answer is None or answer not in LETTERS[: len(options)] or not options_are_dates(options):
        return False
    chosen = _DATE.fullmatch(options[LETTERS.index(answer)].strip())
    found = results(reasoning)
    if chosen is None or not found:
        return False
    skip = found[-1][0] is None  # without a year, month and day are all there is to compare
    return found[-1][skip:] != _date(chosen)[skip:]
