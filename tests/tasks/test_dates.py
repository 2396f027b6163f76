"""Dates that a rationale arrives at, and whether they are those of the option it chooses."""

import doctest

import pytest

from limbeck.tasks import dates
from limbeck.tasks.dates import contradicts_choice, options_are_dates, results

OPTIONS = ("05/01/2021", "05/02/2021", "04/30/2021")


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(dates).failed == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is 4/30/2021, or Apr. 30, 2021.", [(2021, 4, 30), (2021, 4, 30)]),
        ("Sept. 1st, 2021 and then September 2nd 2021", [(2021, 9, 1), (2021, 9, 2)]),
        ("one day from May 1, 2021 is 05/02/2021", [(2021, 5, 2)]),
        ("05/02/2021 is one day after 05/01/2021", [(2021, 5, 2)]),
        ("(A) 05/01/2021: no. (B) 05/02/2021 - yes", []),
        ("05/02/2021 (05/01/2021 + 1 day)", [(2021, 5, 2)]),
        ("gives us a date of 05/02/2021", [(2021, 5, 2)]),
        ("that is May 2nd", [(None, 5, 2)]),
        ("1/2/3/2021, 31/31/20211, maybe 12, in May 2021", []),
    ],
)
def test_dates_that_are_arrived_at(text: str, found: list[tuple[int | None, int, int]]) -> None:
    assert results(text) == found


@pytest.mark.parametrize(
    ("reasoning", "answer", "other"),
    [
        ("Yesterday was April 30, 2021. So today is 05/01/2021.", "A", False),
        ("Yesterday was April 30, 2021. So today is 05/01/2021.", "B", True),
        ("Today is 05/02/2021, the closest to it is (A) 05/01/2021.", "A", True),
        ("Today is May 2nd.", "B", False),
        ("Today is May 2nd.", "A", True),
        ("Today is the day after.", "A", False),
        ("Today is 05/02/2021.", None, False),
        ("Today is 05/02/2021.", "F", False),
    ],
)
def test_the_last_date_against_the_chosen_option(reasoning: str, answer: str | None, other: bool) -> None:
    assert contradicts_choice(reasoning, answer, OPTIONS) is other


def test_other_options_have_no_dates_to_contradict() -> None:
    assert not options_are_dates(()) and not options_are_dates(("05/01/2021", "a ball"))
    assert not contradicts_choice("It is 05/02/2021.", "A", ("a ball", "05/02/2021"))
