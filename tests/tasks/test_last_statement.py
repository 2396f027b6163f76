"""One rule: the last statement of a text is never replaced by a guess or by an earlier sentence."""

from __future__ import annotations

import pytest

from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind, Extracted, extract, grade, split_answer

FRUIT = ("apple", "pear", "plum", "fig")
TWO = ("a brown hat", "a grey hat")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Both hats fit. Option A looks good. The answer is (None of the above).", TWO),
        ("So it should be a grey hat. The answer is none of these.", TWO),
        ("The answer is (A). Wait, no. The final answer is that it cannot be known.", TWO),
        ("The answer is A, B, or D.", FRUIT),
        ("The answer is (A), (B) or (D).", FRUIT),
        ("The answer is A, C", FRUIT),
        ("It is the pear. The answer is the apple or the pear.", FRUIT),
    ],
)
def test_a_choice_that_states_no_option_is_not_guessed(text: str, options: tuple[str, ...]) -> None:
    found = extract("choice", text, options)
    assert (found.answer, found.how) == (None, "marker")


@pytest.mark.parametrize(
    "text", ["Option A fits. The answer is (C).", "A, I think. The answer is c).", "Answer: C"]
)
def test_a_letter_beyond_the_options_is_wrong_and_not_unread(text: str) -> None:
    found = grade(Problem(id="p", question="Which?", answer="B", options=TWO), "choice", text)
    assert (found.answer, found.correct, found.how) == ("C", False, "marker")


@pytest.mark.parametrize(
    "text",
    [
        "Yes, in winter. The answer is that it depends on the weather.",
        "No. The answer is unknown.",
        "The answer is yes or no.",
        "The answer is no or yes.",
        "It rains. So the answer is **No**/**Yes**.",
        "The answer is neither yes nor no.",
        "The answer is neither false nor true.",
        "The answer is no and yes, because both happen.",
    ],
)
def test_a_verdict_that_is_none_is_not_guessed(text: str) -> None:
    found = extract("yes-no", text)
    assert (found.answer, found.how) == (None, "marker")


@pytest.mark.parametrize(
    "text",
    [
        "The answer is unknown. Bob has 5 apples.",
        "He has 4 of 9 keys. The answer cannot be told; so the answer is: we cannot determine how many.",
        "4 + 5 = 9. Answer: not enough information",
        "The answer is 9. But one number is missing, so the final answer is undefined.",
        "They share 4 + 5 = 9 keys. The answer cannot be determined.",
        "They share 4 + 5 = 9 keys. The answer can not be found from 9 keys alone.",
        "They share 9 keys. Hence the **final answer** could not be calculated.",
        "They share 9 keys. The answer does not exist.",
        "They share 9 keys. The answer remains unknown.",
    ],
)
def test_a_number_that_is_said_to_be_unknown_is_not_guessed(text: str) -> None:
    found = extract("number", text)
    assert (found.answer, found.how) == (None, "marker")


@pytest.mark.parametrize("text", ["No or yes.", "It is neither yes nor no.", "No/Yes", "True, or false."])
def test_both_verdicts_are_no_guess(text: str) -> None:
    assert extract("yes-no", text) == Extracted(None, None)


def test_a_verdict_before_a_word_about_both_counts() -> None:
    assert extract("yes-no", "The answer is no, as it is more than a yes or no matter.").answer == "no"


@pytest.mark.parametrize(
    "stated",
    [
        "5 or 7",
        "either 5 apples, or 7",
        "$5 or $7",
        "between 5 and 7 apples, we think",
        "5 to 7",
        "from 5 days to 7 days",
        "5-7",
        "5–7 apples",
        "5 and 7",
        "five or seven",
        "x = 5 or x = 7",
    ],
)
def test_two_numbers_are_no_answer_and_not_guessed(stated: str) -> None:
    assert extract("number", f"She had 3 left. The answer is {stated}.") == Extracted(None, "marker")


@pytest.mark.parametrize(
    ("stated", "answer"),
    [
        ("5 minutes or 300 seconds", "5"),
        ("$5 or 500 cents", "5"),
        ("1/2 or 0.5", "0.5"),
        ("33.33 or 33", "33.33"),
        ("60%, or 0.6 of them", "60"),
        ("3.14 to 2 decimal places", "3.14"),
        ("5.678 rounded to 5.68", "5.678"),
        ("5 or more", "5"),
        ("3 and 1/2", "3.5"),
        ("5 - 7 = -2", "-2"),
        ("the difference between 5 and 7, which is 2", "2"),
        ("five", "5"),
    ],
)
def test_one_number_in_two_forms_is_an_answer(stated: str, answer: str) -> None:
    assert extract("number", f"The answer is {stated}.").answer == answer


def test_one_of_two_is_no_guess() -> None:
    assert extract("number", "9 shared by 2 is 4.5, so each gets 4 or 5 of them.") == Extracted(None, None)
    assert extract("number", "Each gets 4 plums, which takes 1 or more bags of 6.").answer == "6"


def test_behind_other_statements_without_a_number_the_guess_stays_and_counts_as_one() -> None:
    found = extract("number", "4 + 5 = 9 keys. So the answer is the sum of both.")
    assert (found.answer, found.how) == ("9", "fallback")
    earlier = extract("number", "The answer is 3. But 4 + 5 = 9. So the answer is the sum.")
    assert (earlier.answer, earlier.how) == ("9", "fallback"), "not the earlier statement"


def test_a_statement_long_before_the_end_is_not_where_the_text_ends_up() -> None:
    text = (
        "The answer is not clear at first. Let x be the keys. Then x - 4 = 5. Add 4 to both sides. "
        "That gives 9. So x = 9."
    )
    assert extract("number", text).answer == "9"


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("number", "She has 20 eggs. To check if our answer is correct, we can add 27 and 3.", "20"),
        ("number", "12 - 4 = 8 pens. Let us verify that this is right: 8 + 4 = 12.", "8"),
        ("number", "12 - 4 = 8 pens.\nCheck:\n8 + 4 = 12", "8"),
        ("number", "It takes 6 jars. The answer is found by dividing 30 by 5.", "5"),
        ("number", "The answer is 6. If the answer is 7, one jar is left over.", "6"),
        ("number", "The answer is that with 60 feet of cloth, 15 shirts can be made.", "15"),
        ("number", "The answer is that the number of shirts from 60 feet is 15.", "15"),
        ("number", "The answer is 15 shirts, made of 60 feet of cloth.", "15"),
        ("number", "The answer is one hundred and fifty-one dollars.", "151"),
        ("number", "The answer is twelve.", "12"),
        ("number", "So the answer is two thousand and forty.", "2040"),
        ("number", "The answer is five (5).", "5"),
        ("choice", "The pear is ripe, so (B). The answer is correct.", "B"),
        ("choice", "The answer is the pear because the plum is green.", "B"),
        ("choice", "The answer is (B) because (C) is green.", "B"),
        ("yes-no", "So the answer is yes. We verified that our answer is right.", "yes"),
        ("text", "The answer is red wine because the guests eat beef.", "red wine"),
    ],
)
def test_sentences_about_the_answer(kind: AnswerKind, text: str, answer: str) -> None:
    assert extract(kind, text, FRUIT if kind == "choice" else ()).answer == answer


def test_the_question_true_or_false_is_no_verdict() -> None:
    assert extract("yes-no", "Please answer:\n\nTrue or False: a comet has a tail").answer is None
    assert extract("yes-no", "The answer is true, no doubt.").answer == "yes"


def test_words_about_an_answer_may_be_the_answer() -> None:
    assert extract("choice", "The answer is right.", ("left", "right")).answer == "B"
    assert extract("text", "The answer is right.").answer == "right"


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("number", "2 * 9 is 18 and 3 are lost. The answer (arabic numerals) is 15.", "15"),
        ("yes-no", "It rains. The answer (Yes or No) is no.", "no"),
        ("choice", "It is sweet, not sour.\nAns: B", "B"),
        ("choice", "It is sweet, not sour. ANS:D", "D"),
        ("choice", "It is sweet, not sour.\nAnswer - A", "A"),
        ("number", "Three bags hold 15.\nA: 18", "18"),
        ("choice", "It is sweet. B is the answer", "B"),
        ("choice", "It is sweet, hence (B) is the correct answer.", "B"),
        ("number", "15 + 3 leaves 2 over, hence 18 is the answer", "18"),
        ("number", "15 and 3 and 2\n<answer>18</answer>", "18"),
        ("number", "15 and 3 and 2\n### Answer\n18", "18"),
        ("number", "15 and 3 and 2\n\n**Final Answer**\n\n18 eggs", "18"),
        ("choice", "The answer is b)", "B"),
        ("choice", "\\boxed{\\text{(B)}}", "B"),
    ],
)
def test_markers(kind: AnswerKind, text: str, answer: str) -> None:
    found = extract(kind, text, FRUIT if kind == "choice" else ())
    assert (found.answer, found.how) == (answer, "marker")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("b)", "B"),
        ("(b) pear\n\nExplanation: the apple was sold, and the plum and the fig with it.", "B"),
        ("**B. pear**\nThe apple was sold.", "B"),
        ("(A) apple\n(B) pear\n(C) plum", None),
        ("It is sweet, and not sour.\nB", "B"),
        ("It is sweet, and not sour (ANSWER B)", "B"),
    ],
)
def test_an_option_that_opens_a_text(text: str, answer: str | None) -> None:
    assert extract("choice", text, FRUIT).answer == answer


def test_an_option_line_is_no_answer_line() -> None:
    assert extract("choice", "A: apple\nB: pear\nSo it is the pear.", FRUIT).answer == "B"


def test_a_title_before_the_whole_solution_is_no_statement() -> None:
    text = "Answer:\nThere are 3 bags of 5 eggs. 3 * 5 = 15. With 2 more it is 17 eggs."
    found = extract("number", text)
    assert (found.answer, found.how) == ("17", "fallback")
    explained = extract("number", "Answer:\nThere are 17 eggs.\n\nExplanation:\n3 * 5 = 15 and 2 more.")
    assert (explained.answer, explained.how) == ("17", "marker")


def test_an_arrow_that_means_becomes_is_no_statement() -> None:
    text = "The answer is B. pear --> the fruit that keeps for many weeks in a cool and dry cellar"
    assert extract("choice", text, FRUIT).answer == "B"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("amber basil cedar dill", "amber basil cedar dill"),
        ("amber, basil, cedar", "amber, basil, cedar"),
        ("amber\n", "amber"),
        ("I cannot sort these words", None),
        ("We sort them. Then we look again", None),
        ("First the a-words\nthen the others", None),
    ],
)
def test_a_bare_text_of_several_words(text: str, answer: str | None) -> None:
    assert extract("text", text).answer == answer


@pytest.mark.parametrize(
    ("kind", "text", "reasoning"),
    [
        ("number", "15 + 3 = 18. Hence 18 is the answer.", "15 + 3 = 18."),
        ("number", "15 + 3 = 18\n<answer>18</answer>", "15 + 3 = 18."),
        ("number", "15 + 3 = 18\n### Answer\n18", "15 + 3 = 18."),
        ("choice", "It is sweet.\nAns: B", "It is sweet."),
        (
            "choice",
            "(A) apple: sold\n(B) pear is the correct answer\n(C) plum: green",
            "(A) apple: sold\n(B) pear is the correct answer\n(C) plum: green",
        ),
        ("number", "15 + 3 = 18. The answer is $\\boxed{18}$.", "15 + 3 = 18."),
        (
            "text",
            "They eat beef. The answer is red wine because it suits beef.",
            "They eat beef.\nBecause it suits beef.",
        ),
    ],
)
def test_no_statement_is_left_in_the_reasoning(kind: AnswerKind, text: str, reasoning: str) -> None:
    found = split_answer(kind, text, FRUIT if kind == "choice" else ())[0]
    assert found.split() == reasoning.split()


@pytest.mark.parametrize(
    ("kind", "text", "options", "answer"),
    [
        ("number", "#### Step 1: add\n2+3=5\n#### Step 2: double\n5*2=10\n\nSo she has 10 apples.", (), "10"),
        ("number", "The answer is 4.\n\n#### Explanation 1\n 2+2=4", (), "4"),
        ("choice", "The answer is (B).\n#### Check\nB fits.", ("x", "y"), "B"),
        ("text", "The answer is nb.\n#### Check\nAnn ends in n.", (), "nb"),
        ("number", "2+3=5\n#### 5\n\nI hope this helps!", (), "5"),
    ],
)
def test_a_heading_of_a_solution_is_no_answer(
    kind: str, text: str, options: tuple[str, ...], answer: str
) -> None:
    assert extract(kind, text, options).answer == answer


@pytest.mark.parametrize(
    ("kind", "text", "options", "answer"),
    [
        (
            "label",
            "The answer is not entailed. The tone is neutral.",
            ("entailed", "not_entailed", "neutral"),
            "not_entailed",
        ),
        (
            "label",
            "The answer is not neutral. It is entailed.",
            ("entailed", "not_entailed", "neutral"),
            "entailed",
        ),
        ("choice", "The answer is not red. The ball is red elsewhere.", ("red", "not red"), "B"),
    ],
)
def test_an_answer_that_begins_with_not(kind: str, text: str, options: tuple[str, ...], answer: str) -> None:
    assert extract(kind, text, options).answer == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 - 8 is below zero. The answer is negative 5.", "-5"),
        ("The answer is minus five.", "-5"),
        ("The answer is minus 5 plus 7, which is 2.", "2"),
        ("The answer is 7 minus 5 = 2.", "2"),
        ("Some were lost. The answer is unknown because 5 apples were not counted.", None),
        ("The answer is not known: 3 or 4 of them left.", None),
    ],
)
def test_signs_in_words_and_numbers_behind_a_denial(text: str, answer: str | None) -> None:
    assert extract("number", text).answer == answer


@pytest.mark.parametrize(
    "text",
    [
        "If the answer cannot be determined, say so. There are 9 keys.",
        "The answer cannot be determined directly. There are 9 keys.",
        "The answer cannot be negative, so there are 9 keys.",
    ],
)
def test_what_only_speaks_of_an_answer_that_cannot_be_is_no_statement(text: str) -> None:
    assert extract("number", text) == Extracted("9", "fallback")


def test_an_answer_that_cannot_be_determined_is_an_option_or_none() -> None:
    text = "It may be a grey hat. The answer cannot be determined."
    assert extract("choice", text, TWO) == Extracted(None, "marker")
    assert extract("choice", text, (*TWO, "cannot be determined")) == Extracted("C", "marker")
    assert extract("yes-no", "It seems true. The answer can’t be known.") == Extracted(None, "marker")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 20 = 5 * 4.", "20"),
        ("The answer is 20 apples = 4 x $5", "20"),
        ("The answer is 5 * 4 = 20.", "20"),
        ("The answer is 5 + 3 = 2 * 4 = 8.", "8"),
    ],
)
def test_a_result_before_its_calculation(text: str, answer: str) -> None:
    assert extract("number", text) == Extracted(answer, "marker")


@pytest.mark.parametrize("text", ["**B**", "__B__", "$B$", "`B`", "B!", "**B**.", "**B**\n\nIt is grey."])
def test_a_letter_alone_in_marks(text: str) -> None:
    assert extract("choice", text, TWO).answer == "B"


@pytest.mark.parametrize(
    "text",
    [
        "3 + 4 = 7. There is no answer.",
        "3 + 4 = 7. It cannot be determined.",
        "She has 3 + 4 = 7. But there is not enough information.",
        "3 + 4 = 7 so far.\nWithout his age we can't tell how many are left.",
        "The answer is not 5.",
        "It is not $5.00.",
    ],
)
def test_a_text_that_gives_up_or_denies_is_not_guessed(text: str) -> None:
    assert extract("number", text).answer is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She cannot know the price. 3 + 4 = 7.", "7"),
        ("He has 7, not 5.", "7"),
        ("3 + 4 = 7. We don't know what the others cost.", "7"),
        ("The box cannot hold all 12.", "12"),
    ],
)
def test_what_only_sounds_like_giving_up_is_guessed(text: str, answer: str) -> None:
    assert extract("number", text).answer == answer
