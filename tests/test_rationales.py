"""Grading, filtering, choosing and auditing rationales."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from limbeck.audit import audit
from limbeck.errors import DataError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.rationale_files import read_rationales
from limbeck.rationales import (
    DUPLICATE,
    DUPLICATE_OF_TEACHER,
    EMPTY,
    FALSE_EQUATION,
    NO_ANSWER,
    TRUNCATED,
    WRONG,
    Owner,
    collect,
    false_equations,
    grade,
    mark_dropped,
)
from limbeck.records import Problem, Rationale, write_jsonl
from limbeck.tasks.settings import built_in

PROBLEMS = [
    Problem(id=str(number), question=f"What is {number} + 1?", answer=str(number + 1)) for number in range(4)
]


def rationale(
    text: str, *, problem: str = "1", index: int = 0, answer: str | None = "2", **more: object
) -> Rationale:
    fields = {"how": "marker", "correct": answer == "2", "completion": text, "source": "t"} | more
    return Rationale(problem_id=problem, index=index, reasoning=text, answer=answer, **fields)  # type: ignore[arg-type]


def test_grading_compares_with_gold_and_keeps_every_completion() -> None:
    completions = [
        Completion("1", 0, "1 + 1 = 2. The answer is 2.", 9),
        Completion("1", 1, "1 + 1 = 3. The answer is 3.", 9),
        Completion("2", 0, "I do not know.", 4, truncated=True),
    ]
    graded = list(grade(PROBLEMS, "number", completions, "teacher"))
    assert [(r.answer, r.how, r.correct) for r in graded] == [
        ("2", "marker", True),
        ("3", "marker", False),
        (None, None, False),
    ]
    assert graded[0].reasoning == "1 + 1 = 2." and graded[0].completion == completions[0].text
    assert graded[2].truncated and graded[0].source == "teacher"


class Writer:
    """Answers every prompt with its text and the index, last prompt first."""

    name = "writer"

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        for prompt in reversed(prompts):
            for index in reversed(range(sampling.n)):
                yield Completion(prompt.id, index, f"{prompt.text} {index}. The answer is 2.", 3)


def test_several_prompts_of_a_problem_are_collected_and_graded_apart() -> None:
    """Two mistakes of problem 1, none of 2, one prompt of 3."""
    prompts = [
        Prompt("1#a", "1", "Sum it", about="a"),
        Prompt("3", "3", "Sum it"),
        Prompt("1#b", "1", "Sum it", about="b"),
    ]
    completions = collect(prompts, Writer(), Sampling(n=2, temperature=1.0))
    assert [(one.prompt_id, one.index) for one in completions] == [
        *[("1#a", 0), ("1#a", 1)],
        *[("3", 0), ("3", 1)],
        *[("1#b", 0), ("1#b", 1)],
    ]
    owners = [Owner(one.id, one.problem_id, one.about) for one in prompts]
    graded = list(grade(PROBLEMS, "number", completions, "t", owners=owners))
    assert [(r.problem_id, r.index, r.about, r.correct) for r in graded] == [
        *[("1", 0, "a", True), ("1", 1, "a", True)],
        *[("3", 0, "", False), ("3", 1, "", False)],
        *[("1", 2, "b", True), ("1", 3, "b", True)],
    ]
    backwards = list(grade(PROBLEMS, "number", completions[::-1], "t", owners=owners))
    assert backwards[::-1] == graded, "indices do not depend on the order of arrival"
    assert {r.dropped for r in mark_dropped(graded) if r.problem_id == "1"} == {None}
    with pytest.raises(ValueError, match="same id"):
        collect([prompts[0]] * 2, Writer(), Sampling())


def test_equal_texts_about_different_mistakes_are_no_duplicates() -> None:
    rationales = [rationale("a", about="m1"), rationale("a", about="m2"), rationale(" a", about="m1")]
    assert [r.dropped for r in mark_dropped(rationales)] == [None, None, DUPLICATE]
    assert [r.dropped for r in mark_dropped(rationales[1:2], known=rationales[:1])] == [None]


def test_a_file_says_what_its_rationales_are_about(tmp_path: Path) -> None:
    file = tmp_path / "graded.jsonl"
    written = [rationale("1 + 1 = 2.", about="m1"), rationale("So 2.", index=1)]
    write_jsonl(file, written)
    read = read_rationales(file, built_in("arithmetic"), PROBLEMS)
    assert [(one.source, one.completion.index, one.about) for one in read] == [("t", 0, "m1"), ("t", 1, "")]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("correct", {"right"}),
        ("unless-wrong", {"right", "guess", "none"}),
        ("all", {"right", "guess", "none", "wrong"}),
    ],
)
def test_what_is_kept(keep: str, kept: set[str]) -> None:
    rationales = [
        rationale("right"),
        rationale("wrong", answer="3"),
        rationale("guess", answer="3", how="fallback"),
        rationale("none", answer=None, how=None),
    ]
    filtered = list(mark_dropped(rationales, keep=keep))  # type: ignore[arg-type]
    assert {r.reasoning for r in filtered if r.dropped is None} == kept
    assert len(filtered) == 4, "dropped ones stay in the file"


def test_every_reason_is_named() -> None:
    filtered = mark_dropped(
        [
            rationale("a"),
            rationale(" a\n"),
            rationale("a", problem="2"),
            rationale("b", answer="3"),
            rationale("c", answer=None, how=None),
            rationale("d", truncated=True),
            rationale(" "),
            rationale("2 + 2 = 5"),
        ],
        drop_false_equations=True,
    )
    assert [r.dropped for r in filtered] == [
        None,
        DUPLICATE,
        None,
        WRONG,
        NO_ANSWER,
        TRUNCATED,
        EMPTY,
        FALSE_EQUATION,
    ]


def test_what_the_teacher_kept_already_is_a_duplicate_of_the_teachers() -> None:
    teacher = [rationale("a"), rationale("b", dropped=WRONG), rationale("c", problem="2")]
    mentor = [rationale(" a"), rationale("b"), rationale("b "), rationale("c"), rationale("a", answer="3")]
    assert [r.dropped for r in mark_dropped(mentor, known=teacher)] == [
        DUPLICATE_OF_TEACHER,
        None,
        DUPLICATE,
        None,
        WRONG,
    ]
    assert [r.dropped for r in mark_dropped(mentor[:1])] == [None]


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("12 + 5 = 17 and 17 - 20 = -3", 0),
        ("12 + 5 = 18", 1),
        ("1,200 * 2 = 2,400", 0),
        ("100 − 68 = 33", 1),
        ("7 / 3 = 2.33 and 7 / 2 = 3.5 and 8 / 4 = 3", 1),
        ("3 x 4 = 12, 3 × 4 = 13", 1),
        ("2 + 3 + 4 = 9", 0),  # the last two terms alone do not make the sum
        ("10 - 2 * 3 = 4", 0),
        ("x3 + 1 = 5 and 5 + 5 = 10%", 0),
        ("5 / 0 = 0", 1),
        ("$3 + $4 = $8", 0),  # not a plain two-term equation of numbers: left alone
        ("0.1 + 0.2 = 0.3", 0),
    ],
)
def test_false_equations(text: str, false: int) -> None:
    assert len(false_equations(text)) == false


def test_the_audit_adds_up() -> None:
    rationales = mark_dropped(
        [
            rationale("1 + 1 = 2"),
            rationale("1 + 1 = 3", index=1),
            rationale("guess", problem="2", answer="9", how="fallback"),
        ]
    )
    found = audit(rationales, PROBLEMS, "number")
    assert found["problems"] == 4 and found["problems with a kept rationale"] == 1
    assert found["rationales"] == 3 and found["correct"] == 2 and found["kept"] == 2
    assert found["dropped"] == {WRONG: 1}
    assert found["right answer but a false equation"] == 1 == found["kept with a false equation"]
    assert found["answer found by fallback"] == 1
    assert found["kept per problem"] == {"0": 3, "2": 1}


def test_the_audit_counts_dates_where_options_are_dates() -> None:
    choices = ("05/01/2021", "05/02/2021")
    days = [Problem(id="1", question="When?", answer="B", options=choices), *PROBLEMS[2:]]
    chains = ["April 30 and two days is May 2, 2021.", "That is 05/01/2021.", "05/01/2021 it is."]
    rationales = mark_dropped(
        [
            rationale(chains[0], answer="B", correct=True),
            rationale(chains[1], answer="B", correct=True),
            rationale(chains[2], answer="A", correct=False),
            rationale("05/03/2021", answer="A", correct=False),
        ]
    )
    found = audit(rationales, days, "choice")
    assert found["states a date other than the chosen option"] == 2
    assert found["kept with another date than the chosen option"] == 1
    assert not [key for key in audit(rationales, PROBLEMS, "number") if "date" in key]


def test_lines_join_by_problem_or_else_by_question(tmp_path: Path) -> None:
    twice = [
        Problem(id=f"o{n}", question="Which?", answer="A", options=options)
        for n, options in enumerate([("x", "y"), ("y", "x")])
    ]
    task = built_in("arithmetic")
    lines = [
        {"problem_id": "2", "question": "What is 1 + 1?", "completion": "by id", "source": "t", "index": 4},
        {"problem_id": "old", "question": " What is 3 + 1?\n", "completion": "by question"},
        {"question": "What is 3 + 1?", "text": "again", "origin": "f#1", "correct": False},
    ]
    file = tmp_path / "given.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_rationales(file, task, [*PROBLEMS, *twice])
    assert [(one.source, one.completion, one.about) for one in read] == [
        ("t", Completion("2", 4, "by id"), ""),
        ("given", Completion("3", 0, "by question"), ""),
        ("given", Completion("3", 1, "again"), ""),
    ]
    for question, says in (("Which?", "2 problems of task arithmetic ask"), ("Else?", "no problem of task")):
        line = {"problem_id": "old", "question": question}
        file.write_text(json.dumps({**line, "completion": "x"}) + "\n")
        with pytest.raises(DataError, match=rf"given\.jsonl:1: {says}"):
            read_rationales(file, task, [*PROBLEMS, *twice])


def test_a_statement_that_is_no_answer_is_dropped_and_named() -> None:
    problem = Problem(id="p", question="Which?", answer="B", options=("a hat", "a cap"))
    text = "Neither fits. The answer is none of the above."
    (found,) = grade([problem], "choice", [Completion("p", 0, text)], "s")
    assert (found.answer, found.how, found.correct) == (None, "marker", False)
    for keep in ("correct", "unless-wrong"):
        (marked,) = mark_dropped([found], keep=keep)  # type: ignore[arg-type]
        assert marked.dropped == "states no answer that can be read"
