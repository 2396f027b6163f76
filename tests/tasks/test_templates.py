"""Templates: what is refused when the recipe is read, and what empty places leave behind."""

from __future__ import annotations

import pytest

from limbeck.records import Demonstration, Pieces
from limbeck.tasks.templates import Template, without_asked

SHOTS = (
    Demonstration(question="1 + 1?", completion="One more than one. The answer is 2."),
    Demonstration(question="2 + 2?", completion="Twice two. The answer is 4."),
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no place {question}"),
        ("Q: {{question}}", "no place {question}"),
        ("{question} {answer}", "there is no place {answer}; choose of {instruction}, {examples}"),
        ("{question} {}", "there is no place {}"),
        ("{ question }", "there is no place { question }"),
        ("{question", "it has a single {; write {{"),
        ("{question}}", "it has a single }; write }}"),
        ("{que\nstion}", "a single {"),
        ("{examples} {question}", "alone on its line"),
        ("{examples}\n{examples}\n{question}", "once"),
        ("{question}\n{examples}", "before {question}"),
    ],
)
def test_a_wrong_template_is_refused_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        Template.read(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "pieces", "filled"),
    [
        ("Q: {question}\nA:", {}, "Q: Why?\nA:"),
        ("{{{question}}} {{x}}", {}, "{Why?} {x}"),
        ("{instruction}\n\n{question}\n", {}, "Why?\n"),
        ("{instruction}\n\n{question}\n", {"instruction": "Think."}, "Think.\n\nWhy?\n"),
        ("{question}\n{options}\n\n{instruction}", {}, "Why?"),
        ("{question}\n{options}\n\n{instruction}", {"instruction": "Think."}, "Why?\n\nThink."),
        ("{question}\n{options}\n###\n", {}, "Why?\n###\n"),
        ("{question}\n{options}\n\n", {}, "Why?\n\n"),
        ("{question}\n{options}\n\n", {"options": "(A) no"}, "Why?\n(A) no\n\n"),
        ("Knowledge: {passages}\n\n\n{question}", {}, "Why?"),
        ("Knowledge: {passages}\n\n{question}", {"passages": ("a", "", "b")}, "Knowledge: a\nb\n\nWhy?"),
        ("Q: {question} {options}.", {}, "Q: Why?."),
        ("{instruction} Q: {question}", {}, "Q: Why?"),
        ("one\n\n\n{instruction}\n\ntwo {question}", {}, "one\n\n\ntwo Why?"),
        ("\n\nQ {question}\n\n\n", {}, "\n\nQ Why?\n\n\n"),
        ("{question} {question}{cue}", {"cue": " So"}, "Why? Why? So"),
    ],
)
def test_places_are_filled_and_empty_ones_vanish(text: str, pieces: dict[str, object], filled: str) -> None:
    given = Pieces.model_validate({"question": "Why?", **pieces})
    assert Template.read(text).fill(given) == filled


def test_braces_in_what_is_filled_in_stay() -> None:
    assert Template.read("Q: {question}").fill(Pieces(question="{answer} {{x}}")) == "Q: {answer} {{x}}"


@pytest.mark.parametrize(
    ("text", "filled", "turns"),
    [
        (
            "{examples}\nQ: {question}\nA:",  # as Fine-tune-CoT's prompts are published
            "Q: 1 + 1?\nA: One more than one. The answer is 2.\n"
            "Q: 2 + 2?\nA: Twice two. The answer is 4.\nQ: 3 + 3?\nA:",
            ["Q: 1 + 1?\nA:", "Q: 2 + 2?\nA:", "Q: 3 + 3?\nA:"],
        ),
        (
            "Sums.\n\n{examples}\n\n{question}\n{options}\n\n{instruction}",  # the instruction once
            "Sums.\n\n1 + 1?\nOne more than one. The answer is 2.\n\n"
            "2 + 2?\nTwice two. The answer is 4.\n\n3 + 3?\n\nThink.",
            ["Sums.\n\n1 + 1?", "2 + 2?", "3 + 3?\n\nThink."],
        ),
        (
            "{instruction}\n{examples}\n\n{question}\n###\n",  # the instruction once, at the beginning
            "Think.\n1 + 1?\n###\nOne more than one. The answer is 2.\n\n"
            "2 + 2?\n###\nTwice two. The answer is 4.\n\n3 + 3?\n###\n",
            ["Think.\n1 + 1?\n###\n", "2 + 2?\n###\n", "3 + 3?\n###\n"],
        ),
    ],
)
def test_demonstrations_as_text_and_as_turns(text: str, filled: str, turns: list[str]) -> None:
    instruction = "Think." if "{instruction}" in text else ""
    pieces = Pieces(question="3 + 3?", instruction=instruction, examples=SHOTS)
    template = Template.read(text)
    assert template.fill(pieces) == filled
    assert template.turns(pieces)[::2] == turns
    assert template.turns(pieces)[1::2] == [one.completion for one in SHOTS]
    bare = pieces.model_copy(update={"examples": ()})
    assert template.turns(bare) == [template.fill(bare)]


def test_what_has_no_place_is_refused_and_so_is_a_place_without_anything() -> None:
    template = Template.read("{question} {mistake}", None)
    assert template.fill(Pieces(question="Why?", more={"mistake": "7"})) == "Why? 7"
    with pytest.raises(ValueError, match=r"a place \{mistake\} that nothing fills"):
        template.fill(Pieces(question="Why?"))
    for more in (
        {"instruction": "x"},
        {"passages": ("x",)},
        {"examples": SHOTS},
        {"more": {"feedback": "x"}},
    ):
        with pytest.raises(ValueError, match="has no place"):
            Template.read("{question}").fill(Pieces.model_validate({"question": "Why?", **more}))


def test_kinds_that_come_later_are_one_template_each() -> None:
    explained = Template.read("{question}\nThe answer is {answer}.\n\n{instruction}", None)
    feedback = Template.read("{question}\nA student wrote: {mistake}\nCorrect: {answer}\n{instruction}", None)
    knowing = Template.read("{passages}\n\n{question}\n")
    given = Pieces(question="Why?", instruction="Explain it.", more={"answer": "B"})
    assert explained.fill(given) == "Why?\nThe answer is B.\n\nExplain it."
    wrong = given.model_copy(update={"more": {"answer": "B", "mistake": "Because. A."}})
    assert feedback.fill(wrong) == "Why?\nA student wrote: Because. A.\nCorrect: B\nExplain it."
    assert knowing.fill(Pieces(question="Why?", passages=("p", "q"))) == "p\nq\n\nWhy?\n"


def test_a_question_is_known_in_another_layout() -> None:
    assert without_asked(SHOTS, [" 1+1 ?"]) == [SHOTS[1]]
    assert without_asked(SHOTS, ["other", "2 + 2?"]) == [SHOTS[0]]
    for other in ("1 * 1?", "1.1?", "11?", "1 + 1 + 1?"):
        assert without_asked(SHOTS, [other]) == list(SHOTS)
