from __future__ import annotations

import pytest

from limbeck.records import Problem
from limbeck.tasks.options import list_options, options_in, options_of, without_label


@pytest.mark.parametrize(
    ("question", "options"),
    [
        (
            "Who?\nAnswer choices: (A) red ball, (B) blue ball, (C) Catch-22.",
            ("red ball", "blue ball", "Catch-22"),
        ),
        ("Where? Answer Choices:\nA. bank\nB. new york\n", ("bank", "new york")),
        ("When?\nOptions:\n(A) 07/09/1972\n(B) 12/01/1972", ("07/09/1972", "12/01/1972")),
        ("Vitamin (A) is good. Which? (A) one, (B) two", ("one", "two")),
        ("What is f(A) and f(C)?", ()),
        ("Only (A) here.", ()),
        ("(B) comes first here, (C) then", ()),
        ("No options at all.", ()),
    ],
)
def test_options_in_a_question(question: str, options: tuple[str, ...]) -> None:
    assert options_in(question) == options


def test_listed_options_are_read_again() -> None:
    assert options_in("Who? " + list_options(["Ann", "Ben Bo", "C3"])) == ("Ann", "Ben Bo", "C3")


def test_a_problems_own_options_come_first() -> None:
    asked = "Which? (A) x, (B) y"
    assert options_of(Problem(id="1", question=asked, answer="A", options=("p", "q"))) == ("p", "q")
    assert options_of(Problem(id="1", question=asked, answer="A")) == ("x", "y")


def test_labels_are_taken_off_only_where_all_have_their_own() -> None:
    assert without_label(["A)10", "B)20"]) == ("10", "20")
    assert without_label(["A) ten", "twenty"]) == ("A) ten", "twenty")
    assert without_label(["B)10", "A)20"]) == ("B)10", "A)20")
