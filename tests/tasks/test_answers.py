"""Extraction, comparison and grading: the traps that published evaluators fell into."""

from __future__ import annotations

import time
from typing import Any

import pytest

import limbeck
from limbeck.errors import InputError
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind, canonical, extract, grade, read, same, split_answer

BALLS = ("orange ball", "white ball", "blue ball")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So 3 + 4 = 7. The answer is 7.", "7"),
        ("The answer is 7. She has 12 apples and 3 pears.", "7"),
        ("First answer: 5. No, the final answer is 6.", "6"),
        ("The answer is 25.0", "25"),
        ("The answer is 1,234,567.", "1234567"),
        ("The answer is -3.", "-3"),
        ("The answer is \u22123.", "-3"),
        ("The answer is - 3.", "-3"),
        ("The answer is 5 - 3 = 2.", "2"),
        ("The answer is 5 apples - 3 apples = 2 apples.", "2"),
        ("The answer is x = 5", "5"),
        ("The answer is $12.50.", "12.5"),
        ("The answer is -$5.", "-5"),
        ("The answer is $-5.", "-5"),
        ("The answer is 50%.", "50"),
        ("The answer is 3/4.", "0.75"),
        ("The answer is 2 1/2.", "2.5"),
        ("The answer is 1/3 of it.", "1/3"),
        ("The answer is 1e3.", "1000"),
        ("The answer is 60ft.", "60"),
        ("The answer is 14 (since 2 * 7 = 14).", "14"),
        ("**Answer:** 12", "12"),
        ("Adding gives 10.\n#### 18", "18"),
        ("so we get \\boxed{42}.", "42"),
        ("it is \\boxed{\\frac{3}{4}}", "0.75"),
        ("it is \\boxed{\\frac12}", "0.5"),
        ("The answer is $-1\\tfrac{1}{2}$", "-1.5"),
        ("The answer is \\dfrac{1,000}{2.5}", "400"),
        ("The answer is 10²", "100"),
        ("The answer is 10⁻² m²", "0.01"),
        ("The answer is 5 m²", "5"),
        ("The answer is 2½ cups", "2.5"),
        ("The answer is ⅔", "2/3"),
        ("The answer is 3⁄4", "0.75"),
        ("cut off in \\boxed{42", "42"),
        ("reasoning 4 4 4 --> 9", "9"),
        ("The answer is:\n\n7", "7"),
        ("The answer is 7\u2028and that is all, 3.", "7"),
        ("So the final answer to the question is 21 marbles.", "21"),
        ("The correct answer would be 8 dollars, not 9.", "8"),
        ("The answer is 20% of 50 = 10.", "10"),
        ("The answer is 1/2 of 10, which is 5.", "5"),
        ("The answer is 75% of the 100 students.", "75"),
        ("The answer is 5 + 2 (7).", "7"),
        ("The answer is 60% of the 10 questions, which is more than 50.", "60"),
        ("The answer is 7 (8 with mine).", "7"),
        ("The answer is 18, 3 more than 15.", "18"),
        ("The answer is 3 apples and 2 pears left over.", "3"),
    ],
)
def test_number_after_a_marker(text: str, answer: str) -> None:
    found = extract("number", text)
    assert (found.answer, found.how) == (answer, "marker")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 5 apples and buys 3, which makes 8.", "8"),
        ("3 * 5 = 15. So she has 15 apples in all 3 bags.", "15"),
        ("There are 10 peaches in each basket (7 red + 3 green).", "10"),
        ("There are 30 peaches in the basket. (7+15+8=30)", "30"),
        ("5 - 3 = 2", "2"),
        ("10-3", "3"),
        ("10 -3", "3"),
        ("It falls from 4 to -3", "-3"),
        ("7.", "7"),
        ("It happened on 04/21/2021, 6 days ago", "6"),
        ("The answer is not 5 but more: 8", "8"),
        ("To find the answer: first take 2. Then 6 + 2 makes 8", "8"),
        ("Jake = Steven - 11 --> we can rewrite this.\nSteven = 28", "28"),
        ("step1---->22\nless 4", "4"),
        ("The answer is 5 - 3, and that leaves 2", "2"),
    ],
)
def test_number_without_a_marker(text: str, answer: str) -> None:
    found = extract("number", text)
    assert (found.answer, found.how) == (answer, "fallback")


@pytest.mark.parametrize(
    "stated",
    [
        "5 x 4",
        "63 - 14",
        "12:30",
        "8:15, 45 minutes after 7",
        "04/21/2021",
        "7, 8",
        "7, 8 and 9",
        "3 hours and 20 minutes",
    ],
)
def test_a_statement_without_one_number_is_not_replaced_by_an_earlier_one(stated: str) -> None:
    found = extract("number", f"She has 6 of them and finds 3 more. The answer is {stated}.")
    assert (found.answer, found.how) == (None, "marker")


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 5 * 8\n= 40 hours.",
        "The answer is 5 * 8. So he works 40 hours.",
        "The answer is 50 - 10, i.e. 40.",
        "The answer is 20 + 20\n\nSo 40 apples.",
    ],
)
def test_a_calculation_whose_result_follows_is_no_end(text: str) -> None:
    found = extract("number", text)
    assert (found.answer, found.how) == ("40", "fallback")


def test_a_text_that_ends_by_giving_up_has_no_number() -> None:
    assert extract("number", "They add up to 12. We do not know.").answer is None
    assert extract("number", "12 - 5 = 7 are left. We do not know how many are green.").answer == "7"
    assert extract("number", "6 / 3 = 2 eggs. We don't know what to do with the cups.").answer == "2"


@pytest.mark.parametrize("text", ["", "   \n", "three apples", "B12 and Q4x", "04/21/2021", "3/0", "9" * 200])
def test_no_number(text: str) -> None:
    found = extract("number", text)
    assert (found.answer, found.how) == (None, None)


@pytest.mark.parametrize(
    ("text", "answer", "how"),
    [
        ("Alice has the blue ball.", "C", "fallback"),
        ("Then Alice has it. The answer is (C).", "C", "marker"),
        ("The answer is C.", "C", "marker"),
        ("The answer is C", "C", "marker"),
        ("The answer is (c) blue ball.", "C", "marker"),
        ("The answer is blue ball.", "C", "marker"),
        ("The answer is the  BLUE\nball.", None, "marker"),
        ("The answer is that Alice has the white ball.", "B", "marker"),
        ("The answer is A blue ball.", "C", "marker"),
        ("The answer is A because Alice took it.", "A", "marker"),
        ("The answer is not (A). It is (B).", "B", "fallback"),
        ("The answer is **B**.", "B", "marker"),
        ("The answer is F.", "F", "marker"),
        ("The answer is Alice.", None, "marker"),
        ("The answer is Bob's.", None, "marker"),
        ("The answer is the white ball or the blue ball.", None, "marker"),
        ("--> b", "B", "marker"),
        ("So Alice is dancing with **white ball (B)**.", "B", "fallback"),
        ("This matches choice B, of course.", "B", "fallback"),
        ("Bob has the white ball and Claire has the blue ball.", None, None),
        ("The correct choice is (B) blue ball.", "B", "marker"),
        ("(A) no.\n(B) no.\n(C) 04/2", None, None),
        ("C. blue ball", "C", "fallback"),
        ("b", "B", "fallback"),
        ("Claire took it. B is correct.", "B", "fallback"),
        ("It must be B.", "B", "fallback"),
        ("I choose B.", "B", "fallback"),
        ("We go with **C**, as A is right of it.", "C", "fallback"),
        ("So B.", "B", "fallback"),
        ("I don't think B is correct.", None, None),
        ("I can't choose A.", None, None),
        ("It can't be B.", None, None),
        ("A or B is correct.", None, None),
        ("Neither A nor B is correct.", None, None),
        ("I would choose B, but that is the white ball, so it is the blue ball.", None, None),
        ("Plan A is the best plan here, so Tom gets the blue ball.", "C", "fallback"),
        ("Alice ends with the blue ball. Team A is best.", "C", "fallback"),
        ("Answer **B**", "B", "fallback"),
        ("\u2028(C)\u2028", "C", "fallback"),
        ("I have no idea.", None, None),
    ],
)
def test_choice(text: str, answer: str | None, how: str | None) -> None:
    found = extract("choice", text, BALLS)
    assert (found.answer, found.how) == (answer, how)


def test_choice_without_options_reads_letters_only() -> None:
    assert extract("choice", "The answer is E.").answer == "E"
    assert extract("choice", "Alice has the blue ball.").answer is None
    assert extract("choice", "The answer is Z.").answer is None, "beyond J nothing can be meant"


def test_option_texts_that_overlap_or_repeat() -> None:
    assert extract("choice", "The answer is New York City.", ("New York", "New York City")).answer == "B"
    assert extract("choice", "The answer is 10.", ("1", "10")).answer == "B"
    assert extract("choice", "The answer is red.", ("red", "red")).answer is None


@pytest.mark.parametrize(
    ("text", "answer", "how"),
    [
        ("The answer is yes.", "yes", "marker"),
        ("The answer is True", "yes", "marker"),
        ("The answer is not yes.", "no", "marker"),
        ("The answer is false.", "no", "marker"),
        ("--> No", "no", "marker"),
        ("Therefore, the statement is false.", "no", "fallback"),
        ("Therefore, the statement is not true.", "no", "fallback"),
        ("Yes, they would fit on it.", "yes", "fallback"),
        ("NO", "no", "fallback"),
        ("No. But in the end it is true.", "yes", "fallback"),
        ("There is no evidence that they met.", None, None),
        ("Boolean algebra has true and false values in it.", None, None),
        ("It is not common to see frost.", None, None),
        ("", None, None),
    ],
)
def test_yes_no(text: str, answer: str | None, how: str | None) -> None:
    found = extract("yes-no", text)
    assert (found.answer, found.how) == (answer, how)


@pytest.mark.parametrize(
    ("text", "answer", "how"),
    [
        ("The answer is nk.", "nk", "marker"),
        ('The answer is "nk".', "nk", "marker"),
        ("The answer is “nk”. I hope this helps.", "nk", "marker"),
        ("The answer is St. Louis.", "St. Louis", "marker"),
        ('The answer is "Ann" and "Ben".', 'Ann" and "Ben', "marker"),
        ("r --> yajc", "yajc", "marker"),
        ('So the final result is "enko" from the names.', "enko", "marker"),
        ("The answer is nk.\nGoodbye", "nk", "marker"),
        ('Putting them together, we get "naar".', "naar", "fallback"),
        ("Concatenated: tane", "tane", "fallback"),
        ("n + a = na", "na", "fallback"),
        ('The letters of "Ann Ben" are nn.', "nn", "fallback"),
        ('The word "lime" it was', "lime", "fallback"),
        ("nile", "nile", "fallback"),
        ("I cannot tell you that", None, None),
        ("\n \u2028", None, None),
    ],
)
def test_text(text: str, answer: str | None, how: str | None) -> None:
    found = extract("text", text)
    assert (found.answer, found.how) == (answer, how)


@pytest.mark.parametrize("kind", ["number", "choice", "yes-no", "text"])
@pytest.mark.parametrize(
    "babble",
    [
        "(" * 50_000,
        "\n" * 50_000,
        "- " * 30_000,
        "1," * 30_000,
        "7" * 50_000,
        "the answer is " * 4_000,
        "a=" * 9_000,
    ],
)
def test_babble_costs_no_time(kind: AnswerKind, babble: str) -> None:
    """A student that repeats itself must not hang the exam."""
    begin = time.perf_counter()
    split_answer(kind, babble + " The answer is", BALLS if kind == "choice" else ())
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    ("kind", "text", "reasoning"),
    [
        ("number", "3 + 4 = 7.\nTherefore, the answer is 7.", "3 + 4 = 7."),
        ("number", "3 + 4 = 7, so the answer is 7.", "3 + 4 = 7."),
        ("number", "3 + 4 = 7. --> 7", "3 + 4 = 7."),
        ("number", "3 + 4 = 7. The answer is 7.\n#### 7", "3 + 4 = 7."),
        ("number", "So she has \\boxed{7}.", ""),
        ("number", "3 + 4 = 7. The final answer is \\boxed{7}.", "3 + 4 = 7."),
        ("number", "3 + 4 = 7. The answer is 7.\n\nFinal answer: **7**", "3 + 4 = 7."),
        ("number", "The answer is 7.", ""),
        ("number", "She has 3 + 4 = 7 apples.", "She has 3 + 4 = 7 apples."),
        ("number", "The answer is 7. She is happy.", "She is happy."),
        ("number", "2+3=5.\n\nThe answer is 5.\n\nI hope this helps!", "2+3=5."),
        ("number", "The answer is 5. First 2+3=5.", "First 2+3=5."),
        ("number", "So the answer is 5 because we add 2 and 3.", "Because we add 2 and 3."),
        ("number", "The answer is 5. First 2+3=5. The answer is 5.", "First 2+3=5."),
        ("text", "The answer is nk. Because n ends Ann.", "Because n ends Ann."),
        (
            "number",
            "Half? The answer is 5. 10 - 5 = 5. The answer is 5.",
            "Half? The answer is 5. 10 - 5 = 5.",
        ),
        ("number", "It is 7. The answer is unknown.", "It is 7. The answer is unknown."),
        ("number", "Since 3 + 4 = 7 the answer is 7", "Since 3 + 4 = 7."),
        ("choice", "1. It is April.\n2. Therefore, the correct answer is (B) white ball.", "1. It is April."),
        ("choice", "Bob has it. Bob's answer is B.", "Bob has it."),
        ("yes-no", "Frost is cold.\u2028So the answer is no.", "Frost is cold."),
        ("text", "Ann ends in n.\nThe answer is n.", "Ann ends in n."),
        ("text", " Ann ends in n. ", "Ann ends in n."),
    ],
)
def test_reasoning_without_its_closing_statement(kind: AnswerKind, text: str, reasoning: str) -> None:
    assert split_answer(kind, text, BALLS if kind == "choice" else ())[0] == reasoning


def test_split_gives_the_extracted_answer() -> None:
    assert split_answer("number", "3 + 4 = 7, so the answer is 7.")[1] == "7"
    assert split_answer("number", "no idea") == ("no idea", None)


@pytest.mark.parametrize(
    ("kind", "gold", "expected"),
    [
        ("number", "25.0", "25"),
        ("number", " $1,234.50 ", "1234.5"),
        ("number", "50 %", "50"),
        ("number", "7.", "7"),
        ("number", "\u22123", "-3"),
        ("number", "2/6", "1/3"),
        ("number", "1e16", "10000000000000000"),
        ("number", "She sold 48/2 = 24 clips.\n#### 72", "72"),
        ("choice", "A. ignore", "A"),
        ("choice", "(c)", "C"),
        ("choice", "b", "B"),
        ("choice", "Blue  Ball", "C"),
        ("yes-no", "True", "yes"),
        ("yes-no", "No.", "no"),
        ("text", ' "nk". ', "nk"),
        ("text", "two\nwords", "two words"),
    ],
)
def test_gold_becomes_canonical(kind: AnswerKind, gold: str, expected: str) -> None:
    assert canonical(kind, gold, BALLS if kind == "choice" else ()) == expected


@pytest.mark.parametrize(
    ("kind", "gold", "reason"),
    [
        ("number", "twelve", "not a number"),
        ("number", "12 apples", "not a number"),
        ("number", "3 or 4", "not a number"),
        ("number", "nan", "not a number"),
        ("number", "True", "not a number"),
        ("choice", "D", "one of the 3 options"),
        ("choice", "a ball", "one of the 3 options"),
        ("choice", "", "one of the 3 options"),
        ("yes-no", "maybe", "neither"),
        ("yes-no", "1", "neither"),
        ("text", '"."', "empty"),
    ],
)
def test_gold_that_its_kind_cannot_parse(kind: AnswerKind, gold: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        canonical(kind, gold, BALLS if kind == "choice" else ())


def test_gold_choice_without_options_and_ambiguous_gold() -> None:
    assert canonical("choice", "A. ignore") == "A"
    with pytest.raises(ValueError, match="a letter of an option"):
        canonical("choice", "ignore")
    with pytest.raises(ValueError, match="more than one"):
        canonical("choice", "B", ("B", "A"))
    assert canonical("choice", "O", ("A", "B", "AB", "O")) == "D"


@pytest.mark.parametrize(
    ("kind", "one", "other", "equal"),
    [
        ("number", "25.0", "25", True),
        ("number", "1,000", "1000", True),
        ("number", "0.3333333", "1/3", True),
        ("number", "0.33", "1/3", False),
        ("number", "123456788", "123456789", False),
        ("number", "-3", "3", False),
        ("number", "seven", "7", False),
        ("choice", "c", "C", True),
        ("choice", "A", "B", False),
        ("yes-no", "True", "yes", True),
        ("yes-no", "False", "yes", False),
        ("text", "NK", "'nk'.", True),
        ("text", "hhe n", "hhen", False),
        ("text", "", "", False),
    ],
)
def test_same(kind: AnswerKind, one: str, other: str, equal: bool) -> None:
    assert same(kind, one, other) is equal
    assert same(kind, other, one) is equal


def test_grade_knows_the_options_written_in_the_question() -> None:
    question = "At the end, Alice has the\nAnswer choices: (A) orange ball, (B) white ball, (C) blue ball."
    problem = Problem(id="1", question=question, answer="C")
    right, wrong = (
        grade(problem, "choice", f"The answer is {ball}.") for ball in ("blue ball", "white ball")
    )
    assert (right.answer, right.correct, right.how) == ("C", True, "marker")
    assert (wrong.answer, wrong.correct) == ("B", False)
    failed = grade(problem, "choice", "Who knows?")
    assert (failed.answer, failed.correct, failed.how) == (None, False, None)


@pytest.mark.parametrize(
    ("kind", "text", "answer", "options"),
    [
        ("number", "The answer is 1 234 567.", "1234567", ()),
        ("number", "The answer is 1\u2009234\u202f567.", "1234567", ()),
        ("number", "\\boxed{1{,}234}", "1234", ()),
        ("number", "The answer is 2^3 = 8.", "8", ()),
        ("number", "The answer is 10^-3.", "0.001", ()),
        ("number", "The answer is 10^{-3}.", "0.001", ()),
        ("number", "The answer is 10 million.", "10000000", ()),
        ("number", "The answer is 2.5 million dollars", "2500000", ()),
        ("number", "The answer is 3 and 1/2.", "3.5", ()),
        ("number", "The answer is –3.", "-3", ()),
        ("number", "The answer is – 3.", "-3", ()),
        ("number", "The answer is 5 plus 7, which is 12.", "12", ()),
        ("number", "The answer is 12 m^3.", "12", ()),
        ("number", "So the volume is 12 m^3.", "12", ()),
        ("number", "The answer is 5 – 3 = 2", "2", ()),
        ("number", "from 10–20", "20", ()),
        ("number", "The answer is 5 200 300 1", "5", ()),
        ("number", "The answer is 8 times.", "8", ()),
        ("number", "so -10 million", "-10000000", ()),
        ("number", "We have 4 –3", "3", ()),
        ("number", "2**3 = 8", "8", ()),
        ("choice", "The answer is C++.", "B", ("Java", "C++", "Python")),
        ("choice", "The answer is C.", "C", ("Java", "C++", "Python")),
        ("choice", "The answer is (C).", "C", ("Java", "C++", "Python")),
        ("choice", "The answer is A or B.", None, ("red ball", "blue ball", "green ball")),
        ("choice", "The answer is B or A.", None, ("red ball", "blue ball", "green ball")),
        ("choice", "The answer is either A or B.", None, ("red ball", "blue ball", "green ball")),
        (
            "choice",
            "The answer is (A) red ball or (B) blue ball.",
            None,
            ("red ball", "blue ball", "green ball"),
        ),
        ("choice", "The answer is either B or A", None, ()),
        ("choice", "The answer is not B. It is A.", "A", ("red ball", "blue ball", "green ball")),
        ("choice", "not B. It is A.", "A", ("red ball", "blue ball", "green ball")),
        (
            "choice",
            "The answer is a red ball, not a blue ball.",
            "A",
            ("red ball", "blue ball", "green ball"),
        ),
        ("choice", "Alice has a red ball, not a blue ball.", "A", ("red ball", "blue ball", "green ball")),
        ("choice", "The answer is B, not A.", "B", ("red ball", "blue ball", "green ball")),
        ("choice", "The answer is (B), not (A) or (C).", "B", ("red ball", "blue ball", "green ball")),
        ("choice", "The answer is (A) and (B).", None, ("red ball", "blue ball", "green ball")),
        ("choice", "The answer is A/B.", None, ("red ball", "blue ball", "green ball")),
        ("choice", "The answer is C#.", "B", ("C", "C#")),
        ("yes-no", "The answer is that it isn't true.", "no", ()),
        ("yes-no", "It isn't true.", "no", ()),
        ("yes-no", "It is never true.", "no", ()),
        ("yes-no", "It is not necessarily true.", "no", ()),
        ("yes-no", "The answer is that there is no evidence, so yes.", "yes", ()),
        ("yes-no", "The answer is that there is no doubt it is true.", "yes", ()),
        ("yes-no", "The answer is no one.", None, ()),
        ("yes-no", "No one knows.", None, ()),
        ("yes-no", "No-one knows.", None, ()),
        ("yes-no", "The answer is no because it rains.", "no", ()),
        ("yes-no", "The answer is **No**, it is not.", "no", ()),
        ("yes-no", "The answer is no.", "no", ()),
        ("yes-no", "The answer is No", "no", ()),
        ("yes-no", "It is hardly true.", "no", ()),
        ("yes-no", "I don't think it is true.", "no", ()),
        ("yes-no", "The answer is not no.", "yes", ()),
        ("yes-no", "The answer is no (it rains).", "no", ()),
        ("yes-no", "It can't be true.", "no", ()),
        ("yes-no", "It isn’t false.", "yes", ()),
        ("yes-no", "The answer is no the sky", "no", ()),
        ("text", "The answer is nk. Thanks!", "nk", ()),
        ("text", "The answer is St. Louis.", "St. Louis", ()),
        ("text", "The answer is New York. I hope this helps!", "New York", ()),
        ("text", "The answer is J. K. Rowling.", "J. K. Rowling", ()),
        ("text", "The answer is The cat sat. The dog ran.", "The cat sat. The dog ran", ()),
    ],
)
def test_ways_of_writing_that_were_misread(
    kind: AnswerKind, text: str, answer: str | None, options: tuple[str, ...]
) -> None:
    assert extract(kind, text, options).answer == answer


@pytest.mark.parametrize(
    ("kind", "text", "options"),
    [
        ("number", "5", ()),
        ("number", "**5**\n", ()),
        ("choice", "(B)", ("tea", "milk")),
        ("yes-no", "Yes.", ()),
        ("number", "5. The answer is 5.", ()),
    ],
)
def test_an_answer_alone_is_no_reasoning(kind: AnswerKind, text: str, options: tuple[str, ...]) -> None:
    assert read(kind, text, options).reasoning == ""


def test_a_short_calculation_is_reasoning() -> None:
    assert read("number", "2 + 3 = 5").reasoning == "2 + 3 = 5"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("number", None), "text: it must be a string, not NoneType"),
        (("number", 5), "text: it must be a string, not int"),
        (("number", b"The answer is 5."), "text: it must be a string, not bytes"),
        (("digit", "5"), "kind: no kind 'digit'; choose one of number"),
        ((["number"], "5"), "kind: no kind \\['number'\\]"),
        (("choice", "B", "owl"), "options: give a list of strings, not str"),
        (("choice", "B", None), "options: give a list of strings, not NoneType"),
        (("choice", "B", {"A": "owl", "B": "bat"}), "options: give a list of strings, not dict"),
        (("choice", "B", [1, 2]), "options: give a list of strings; 1 is int"),
        (("number", "5", [None]), "options: give a list of strings; None is NoneType"),
        (("choice", "It is 29.", [str(n) for n in range(30)]), "options: there are 30, and 26 letters"),
        (("label", "owl"), "options: kind label needs its labels"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(asked: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}"):
        limbeck.extract(*asked)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>The answer is 3? No, 4.</think>It is 5.", "5"),
        ("<think>The answer is 3.</think>", None),
        ("<think>The answer is 3.", None),
        ("The answer is 3.</think>\n\n5", "5"),
    ],
)
def test_only_what_stands_behind_the_thinking_is_extracted(text: str, answer: str | None) -> None:
    assert limbeck.extract("number", text) == answer


@pytest.mark.parametrize("kind", ["number", "math"])
@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("We add 2 and 3.\n\\[\n\\boxed{5}\n\\]", "We add 2 and 3."),
        ("We add 2 and 3. \\[ \\boxed{5} \\]", "We add 2 and 3."),
        ("We add 2 and 3, so the answer is \\(\\boxed{5}\\).", "We add 2 and 3."),
        ("We add 2 and 3. The final answer is:\n\\[\n5\n\\]", "We add 2 and 3."),
        ("We add 2 and 3.\n\\begin{equation}\nx = \\boxed{5}\n\\end{equation}", "We add 2 and 3."),
        ("We add 2 and 3. So $x = \\boxed{5}$.", "We add 2 and 3."),
        ("We see that \\[ x = 2 + 3 = \\boxed{5}. \\]", "We see that \\[ x = 2 + 3 \\]"),
        ("We see that $x = 2 + 3 = \\boxed{5}$.", "We see that $x = 2 + 3$"),
        ("\\begin{align*}x&=2+3\\\\&=\\boxed{5}\\end{align*}", "\\begin{align*}x&=2+3 \\end{align*}"),
        ("\\[ \\boxed{5} \\]\nHere we took the sum of 2 and 3.", "Here we took the sum of 2 and 3."),
        (
            "They cost $2 and $3. So in all \\boxed{5} of $9.",
            "They cost $2 and $3. So in all \\boxed{5} of $9.",
        ),
    ],
)
def test_a_formula_goes_with_its_answer_or_stays_whole(kind: AnswerKind, text: str, reasoning: str) -> None:
    assert split_answer(kind, text) == (reasoning, "5")
