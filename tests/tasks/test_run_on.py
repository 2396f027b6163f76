"""A completion that invents a next question is read up to it, and no further."""

from __future__ import annotations

import pytest

from limbeck.exam import predict
from limbeck.lm import Completion
from limbeck.rationales import graded
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind, Reading, extract, read

OPTIONS = ("Ann", "Ben", "Cy")
NEXT = "What is 4 + 4? We add them. The answer is 8."


@pytest.mark.parametrize(
    "begins",
    [
        "\n\nQ: ",
        "\nQuestion: ",
        "\n**Question 2:** ",
        "\n### Instruction\n",
        "\n### Question: ",
        "\nQ3: ",
        " Q: ",
        "\nUser: ",
        "\n<|im_start|>user\n",
        "\n[INST] ",
        "</s><s>[INST] ",
        " [/INST] ",
        "<|eot_id|>user\n",
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
        "<|im_end|>\n<|im_start|>user\n",
        "<|im_start|>user\n",
        "<end_of_turn>\n<start_of_turn>user\n",
        "<|endoftext|>",
        "<|end|><|user|>",
        "<｜end▁of▁sentence｜><｜User｜>",
        " USER: ",
    ],
)
def test_the_next_question_is_cut_off(begins: str) -> None:
    own = "2 + 3 = 5. So the answer is 5."
    found = read("number", own + begins + NEXT)
    assert (found.answer, found.how, found.reasoning) == ("5", "marker", "2 + 3 = 5.")
    whole = own + begins + NEXT
    assert whole[: len(whole) - found.cut].rstrip() == own


@pytest.mark.parametrize(
    ("kind", "own", "after", "answer"),
    [
        ("choice", "Ann gave it to Ben. So the answer is (b).", "Q: Who has it? The answer is (c).", "B"),
        ("choice", "The answer is none of the above.", "Q: Who has it? The answer is (c).", None),
        ("yes-no", "It rains. The answer is no.", "Question: Does it snow? The answer is yes.", "no"),
        ("text", "The answer is amber", "Q: And then? The answer is basil", "amber"),
        ("choice", "The answer is A, B, or C.", "Q: Who has it? The answer is (c).", None),
        ("yes-no", "The answer is no or yes.", "Question: Does it snow? The answer is yes.", None),
        ("number", "The answer is 5 or 7.", "Q: How many? The answer is 9.", None),
        ("number", "5", "Q: What is 4 + 4?\nA: 8", "5"),
        ("choice", "(B)", "Q: Who has it?\nA: (C)", "B"),
    ],
)
def test_of_every_kind(kind: AnswerKind, own: str, after: str, answer: str | None) -> None:
    found = extract(kind, f"{own}\n{after}", OPTIONS if kind == "choice" else ())
    assert found.answer == answer


@pytest.mark.parametrize(
    "text",
    [
        "Question: What is 2 + 3?\nWe add them. The answer is 5.",
        "Let us see.\nQ: What is 2 + 3?\nA: We add them, and get 5.\nThe answer is 5.",
        "The answer is 5. That was Q: a hard one",
        "The question: what is it? The answer is 5.",
    ],
)
def test_a_question_that_is_repeated_or_mentioned_stays(text: str) -> None:
    found = read("number", text)
    assert found.answer == "5" and found.cut == 0


def test_rationales_and_predictions_say_how_much_was_cut() -> None:
    problem = Problem(id="p", question="What is 2 + 3?", answer="5")
    completion = Completion("p", 0, "2 + 3 = 5. The answer is 5.\nQ: " + NEXT)
    rationale = graded(problem, "number", completion, "s")
    assert rationale.correct and rationale.cut == len("Q: " + NEXT)
    assert rationale.completion == completion.text and "4 + 4" not in rationale.reasoning
    prediction = predict(problem, "number", [completion])
    assert prediction.correct and prediction.cut == rationale.cut


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("number", "Sarah has 5.\nQuestion: what is 3*4?\nThe answer is 12.", "12"),
        ("number", "Given: 20 apples\nQuestion: what is 3*4?\nThe answer is 12.", "12"),
        ("number", "Solution 1\n\nProblem: what is 3*4?\nThe answer is 12.", "12"),
        ("text", "Okay.\nQuestion: Who?\nThe answer is Bob.", "Bob"),
        ("number", "5 apples\n\nQ: what?\nThe answer is 6.", "5"),
        ("yes-no", "Yes, he is.\nQ: what?\nThe answer is no.", "yes"),
    ],
)
def test_a_line_before_a_question_answers_only_if_it_is_an_answer(kind: str, text: str, answer: str) -> None:
    assert extract(kind, text).answer == answer


@pytest.mark.parametrize("token", ["</s>", "<|im_end|>", "<|eot_id|>\n", "<end_of_turn></s>"])
def test_what_closes_a_turn_is_neither_answer_nor_cut(token: str) -> None:
    assert read("text", "It rhymes. The answer is Paris" + token) == Reading(
        "It rhymes.", "Paris", "marker", 0
    )
    assert read("text", "Paris" + token).answer == "Paris"


def test_an_answer_behind_a_turn_of_thinking_is_read() -> None:
    thinking = "I add. The answer is 4.<|end|><|start|>assistant<|channel|>final<|message|>"
    assert read("number", thinking + "2 + 3 = 5. The answer is 5.<|return|>").answer == "5"
    prompt = "<s>[INST] What is 2 + 3? [/INST] "
    assert read("number", prompt + "The answer is 5.</s>").answer == "5"
