from __future__ import annotations

import pytest

from limbeck.records import Problem
from limbeck.tasks.options import list_options, options_in, options_of, without_label
from limbeck.tasks.prompts import question_with_options


@pytest.mark.parametrize(
    ("question", "options"),
    [
        (
            "Who?\nAnswer choices: (A) red ball, (B) blue ball, (C) Catch-22.",
            ("red ball", "blue ball", "Catch-22"),
        ),
        ("Where? Answer Choices:\nA. bank\nB. new york\n", ("bank", "new york")),
        ("When?\nOptions:\n(A) 07/09/1972\n(B) 12/01/1972", ("07/09/1972", "12/01/1972")),
        ("Is it?\nOptions:\n- Yes\n- No\n", ("Yes", "No")),
        ("Is it? Options:\n* Yes\n* No", ("Yes", "No")),
        ("Which?\n(a) one\n(b) two\nAnswer:", ("one", "two")),
        ("Which?\n(A) one\n(B) two\nThink first.", ("one", "two")),
        ("P(A) = 0.2, P(B) = 0.8?\nA. 0.1\nB. 0.2", ("0.1", "0.2")),
        ("- Yes\n- No", ()),
        ("Options: - Yes", ()),
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


def test_options_without_letters_are_listed_again() -> None:
    """A dash names no option: who is to answer with a letter must see it."""
    dashes = Problem(id="1", question="Is it?\nOptions:\n- Yes\n- No", answer="A", options=("Yes", "No"))
    assert question_with_options(dashes).endswith("- No\nAnswer choices: (A) Yes, (B) No.")
    small = Problem(id="1", question="Is it?\n(a) Yes\n(b) No", answer="A", options=("Yes", "No"))
    assert question_with_options(small) == small.question


def test_labels_are_taken_off_only_where_all_have_their_own() -> None:
    assert without_label(["A)10", "B)20"]) == ("10", "20")
    assert without_label(["A) ten", "twenty"]) == ("A) ten", "twenty")
    assert without_label(["B)10", "A)20"]) == ("B)10", "A)20")
