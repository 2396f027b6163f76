"""What stands around a question comes off, however combined, and what asks for something else stays."""

from __future__ import annotations

import time

import pytest

from limbeck.tasks.forms import question_form
from limbeck.tasks.leaks import find_leaks
from limbeck.tasks.surroundings import bare

STORY = "Ann has 3 owls. How many owls does Ann have?"

BEHIND = r"""Let's think step by step.
Let’s think about it.
Let us solve this problem step by step:
Let's work this out in a step by step way to be sure we have the right answer.
Take a deep breath and work on this problem step-by-step.
Think step by step.
Please think step by step.
Think carefully before answering.
Think about the problem first, then give your final answer.
Please reason step by step, and put your final answer within \boxed{}.
(Answer with a number.)
Answer with yes or no.
Answer (yes or no).
Answer with (A) or (B).
Please answer with a single letter.
Respond only with the letter of the correct option.
Give your answer as a number.
Give only the number.
Your answer should be a number.
Choose the correct answer.
Explain your reasoning.
Explain how you got your answer.
Show your work.
Show all your work and explain your reasoning.
Answer the question above.
Output:
Solution:
Step-by-step solution:
Reasoning:
Rationale:
Final answer:
The answer is
So the answer is:
Response:
Explanation:
### Response
**Solution:**
[Answer]
Answer: Let's think step by step.
Let's think step by step. Answer:"""


@pytest.mark.parametrize("behind", BEHIND.split("\n"))
def test_how_to_answer_comes_off_behind_a_question(behind: str) -> None:
    for between in (" ", "\n", "\n\n"):
        assert bare(f"{STORY}{between}{behind}").strip() == STORY
        assert bare(f"{STORY}{between}{behind.upper()}\n").strip() == STORY
    assert find_leaks([question_form(STORY)], [question_form(f"{STORY} {behind}")])


def test_a_capital_begins_a_sentence_behind_a_question_without_its_mark() -> None:
    for start in ("Ann's owls hunt at", "It rains. Ann's owls (two) hunt at"):
        for behind in (
            "Let's think step by step.",
            "Explain your reasoning.",
            "Solution:",
            "(Show your work)",
        ):
            assert bare(f"{start} {behind}").strip() == start


@pytest.mark.parametrize(
    "before",
    [
        "Question 3 - ",
        "Question 3 \u2013 ",
        "Q3 - ",
        "(Question 4) ",
        "[Question] ",
        "[Question]\n",
        "Problem - ",
        "Given the following question, think step by step and give the answer: ",
        "Given the following question and options, choose the correct answer:\n",
        "Answer the following question:\n",
        "Answer the following yes/no question: ",
        "Answer with yes or no: ",
        "Solve the following problem: ",
        "Solve:\n",
        "Please answer this: ",
        "Please solve the following grade school math problem:\n",
        "Can you answer the following question: ",
        "Read the question and answer. ",
        "Read the following question and answer it.\nQ: ",
        "### Instruction:\nSolve the problem.\n\n### Input:\n",
        "### Instruction:\nSolve the following maths word problem step by step.\n\n### Input:\n",
        "Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\n",
        "Let's think step by step. ",
    ],
)
def test_headings_and_how_to_answer_come_off_before_a_question(before: str) -> None:
    assert bare(before + STORY) == STORY
    assert (
        bare(f"{before}{STORY}\nShow your work.\n\n### Response:\nLet's think step by step.").strip() == STORY
    )
    assert find_leaks([question_form(before + STORY)], [question_form(STORY)])


@pytest.mark.parametrize(
    "other",
    [
        f"{STORY} Give your answer in dozens.",
        f"{STORY} Answer: none",
        f"{STORY} Name a good solution:",
        f"{STORY} Give the number.",
        f"{STORY} Give the number of steps.",
        f"{STORY} Explain the word.",
        f"{STORY} Explain the water cycle step by step.",
        f"{STORY} Solve for x.",
        f"{STORY} Take one step to the right.",
        f"{STORY} Walk down the steps.",
        f"{STORY} Let's think of a number.",
        f"{STORY} Is this the answer?",
        f"{STORY}\nA. ask questions\nE. answer the question",
        f"{STORY}\n- ask questions\n- answer the question",
        f"### Instruction:\nTell the story in French.\n\n### Input:\n{STORY}",
        f"Answer: three. {STORY}",
        f"The answer is 3. {STORY}",
        f"Think of a number: it is 3. {STORY}",
    ],
)
def test_what_may_ask_something_else_stays(other: str) -> None:
    assert not find_leaks([question_form(STORY)], [question_form(other)])


def test_some_text_stays() -> None:
    for text in ("Explain your reasoning.", "Let's think step by step.", "Answer:", "Solution:", "", " \n"):
        assert bare(text) == text.rstrip()
    assert bare("Q: Answer:") == "Answer:" and bare("Q - 3 = 5. What is Q?") == "Q - 3 = 5. What is Q?"
    assert not find_leaks([question_form("Explain your reasoning.")], [question_form("Show your work.")])


def test_it_takes_linear_time() -> None:
    shapes = [
        "Question 3 - ",
        "Q  \n",
        "Answer the following question:\n",
        "\nLet's think step by step.",
        "(Answer with a number.) ",
        "\nOutput:",
        "answer ",
        "please ",
        "and answer the question ",
        "think step by step and give your answer ",
        "\n(",
        " ",
    ]
    began = time.process_time()
    for shape in shapes:
        for text in (shape * (50_000 // len(shape)), f"Who is it? {shape * (50_000 // len(shape))}"):
            bare(text)
            bare(f"{text}Who is it?")
    assert time.process_time() - began < 3
