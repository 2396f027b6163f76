"""Few-shot files as they are published, and which demonstrations are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.errors import DataError, LeakError
from limbeck.records import Demonstration, Problem, Rationale
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.demonstrations import (
    chosen,
    in_format,
    of_answers,
    of_rationales,
    read_demonstrations,
)
from limbeck.tasks.settings import ExamplesSettings

BLOCKS = """BENCHMARK DATA - do not train on it
-----
Solve the sums.

Q: 1 + 1?
Options:
(A) 1
(B) 2
A: Let's think step by step.
One more than one is two.

So the answer is (B).

Q: 2 + 2?
A: Twice two. The answer is 4.
"""
PAIRS = [("1 + 1?", "One more than one. The answer is 2."), ("2 + 2?", "Twice two. The answer is 4.")]


def pairs(shown: list[Demonstration]) -> list[tuple[str, str]]:
    return [(one.question, one.completion) for one in shown]


def read(folder: Path, name: str, text: str, kind: AnswerKind = "number") -> list[tuple[str, str]]:
    (folder / name.partition("#")[0]).write_text(text, encoding="utf-8")
    return pairs(read_demonstrations(folder / name, kind))


def test_blocks_of_question_and_answer(tmp_path: Path) -> None:
    first, second = read(tmp_path, "bbh.txt", BLOCKS)
    assert first[0] == "1 + 1?\nOptions:\n(A) 1\n(B) 2"
    assert first[1].startswith("Let's think") and first[1].endswith("two.\n\nSo the answer is (B).")
    assert second == PAIRS[1]
    tight = "".join(f"Q: {question}\nA: {answer}\n" for question, answer in PAIRS)
    assert read(tmp_path, "tight.txt", tight) == PAIRS
    assert read(tmp_path, "cot.json#sums", json.dumps({"sums": {"prompt": tight, "comment": ""}})) == PAIRS


def test_one_that_thinks_is_shown_its_reasoning_inside_the_tags() -> None:
    def shown(text: str, *, thinks: bool = True) -> str:
        one = Demonstration(question="2 + 2?", completion=text)
        return in_format("f", one, "number", "plain", thinks=thinks).completion

    assert shown(PAIRS[1][1]) == "<think>\nTwice two.\n</think>\nThe answer is 4."
    traced = "<think>\nIs the answer 5? No.\n</think>\nTwice two. The answer is 4."
    assert shown(traced) == "<think>\nIs the answer 5? No.\n</think>\nTwice two.\nThe answer is 4."
    assert shown(traced, thinks=False) == "Is the answer 5? No.\n\nTwice two.\nThe answer is 4."
    for bare in ("4", "The answer is 4."):
        assert shown(bare, thinks=False) == "The answer is 4."
        with pytest.raises(
            DataError, match=r"f: a demonstration holds no reasoning for the <think> tags \('2"
        ):
            shown(bare)


def test_blocks_with_reasoning_and_answer_apart(tmp_path: Path) -> None:
    text = "Question: 1 + 1?\nReasoning: One more than one.\nAnswer: 2\n\nQuestion: 2 + 2?\nAnswer: 4\n"
    assert read(tmp_path, "apart.txt", text) == [
        ("1 + 1?", "One more than one.\nThe answer is 2."),
        ("2 + 2?", "4"),
    ]


def test_one_demonstration_a_line(tmp_path: Path) -> None:
    text = 'Who \\"has\\" it?\\nA. Ann\\nB. Ben\\nAnswer: Ben took it.\\nSo, the answer is B\n'
    assert read(tmp_path, "kard.txt", text, "choice") == [
        ('Who "has" it?\nA. Ann\nB. Ben', "Ben took it.\nSo, the answer is B")
    ]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        (
            "a.jsonl",
            [{"question": q, "rationale": r.partition(" The")[0], "answer": r[-2]} for q, r in PAIRS],
        ),
        ("b.json", [{"input": q, "chain": r, "answer": int(r[-2])} for q, r in PAIRS]),
        ("c.json", [{"instruction": q, "output": [r, "another"], "label": "9"} for q, r in PAIRS]),
        ("d.json", {q: [r, "another"] for q, r in PAIRS}),
        ("e.yaml", [{"q": q, "text": r} for q, r in PAIRS]),
        ("f.jsonl", [{"question": q, "answer": f"{r.partition(' The')[0]} #### {r[-2]}"} for q, r in PAIRS]),
    ],
)
def test_rows_with_columns_of_many_names(tmp_path: Path, name: str, rows: object) -> None:
    lines = "\n".join(map(json.dumps, rows)) if name.endswith("jsonl") else json.dumps(rows)  # type: ignore[call-overload]
    found = read(tmp_path, name, lines)
    as_is = [("a.jsonl", "\nThe answer is"), ("f.jsonl", " ####")]
    for (question, completion), (q, r) in zip(found, PAIRS, strict=True):
        parts = [r.replace(" The answer is", said) for file, said in as_is if file == name] or [r]
        wanted = parts[0].rstrip(".") if name == "f.jsonl" else parts[0]
        assert (question, completion) == (q, wanted)
        shown = Demonstration(question=question, completion=completion)
        assert (
            in_format("f", shown, "number", "arrow").completion == r.replace(". The answer is", ". -->")[:-1]
        )


def test_options_of_a_row_are_listed_with_its_question(tmp_path: Path) -> None:
    rows = [{"question": "Who?", "options": ["Ann", "Ben"], "rationale": "Ben did.", "answer": "B"}]
    assert read(tmp_path, "choice.json", json.dumps(rows), "choice") == [
        ("Who?\nAnswer choices: (A) Ann, (B) Ben.", "Ben did.\nThe answer is B.")
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("empty.txt", "", "holds no demonstrations"),
        ("empty.json", "[]", "holds no demonstrations"),
        ("prose.txt", "Just some prose.", r"prose.txt:1: no demonstration"),
        ("half.txt", "Q: 1?\nA: 2\n\nQ: 3?\n", "half.txt:4: a question without an answer"),
        ("hollow.txt", "Q:\nA: 2\n", "a question or its answer is empty"),
        ("keys.json", '{"sums": {"prompt": "Q: 1?"}}', "name one of its keys as FILE#KEY: sums"),
        ("broken.json", '{"a', "cannot be read as json"),
        ("broken.yaml", "a: [", "cannot be read as yaml"),
        ("row.json", '[{"question": "1?"}]', "record 1: has no question, or neither"),
        ("row.json", "[3]", "record 1: not an object"),
        ("text.json", "7", "write a list of objects"),
    ],
)
def test_what_is_no_demonstration_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        read_demonstrations(tmp_path / name, "number")
    with pytest.raises(DataError, match="no such file"):
        read_demonstrations(tmp_path / "nowhere.txt", "number")


def test_a_student_is_shown_its_own_format() -> None:
    one = Demonstration(question="1 + 1?", completion="One more. So the answer is 2.")
    assert in_format("f", one, "number", "arrow").completion == "One more. --> 2"
    assert in_format("f", one.model_copy(update={"completion": "2"}), "number", "plain").completion == (
        "The answer is 2."
    )
    with pytest.raises(DataError, match="states no answer"):
        in_format("f", one.model_copy(update={"completion": "Who knows?"}), "number", "plain")


PROBLEMS = [Problem(id=f"p{n}", question=f"What is {n} + 1?", answer=str(n + 1)) for n in range(20)]


def rationale(problem: str, text: str, dropped: str | None = None) -> Rationale:
    return Rationale(
        problem_id=problem,
        source="t",
        index=0,
        completion=text,
        reasoning=text,
        answer="1",
        correct=True,
        dropped=dropped,
    )


def test_from_the_training_split() -> None:
    kept = [rationale("p3", "late"), rationale("p1", "wrong", "wrong answer"), rationale("p1", "right")]
    kept += [rationale("p1", "second")]
    assert of_rationales(PROBLEMS, kept, "arrow") == [
        Demonstration(question="What is 1 + 1?", completion="right --> 2", problem_id="p1"),
        Demonstration(question="What is 3 + 1?", completion="late --> 4", problem_id="p3"),
    ]
    assert of_answers(PROBLEMS[:1], "plain") == [
        Demonstration(question="What is 0 + 1?", completion="The answer is 1.", problem_id="p0")
    ]


def test_the_choice_is_seeded_and_more_only_adds() -> None:
    def draw(k: int, seed: int = 0, pool: list[Problem] = PROBLEMS) -> list[str]:
        some = chosen(ExamplesSettings(k=k), "number", pool=lambda: of_answers(pool, "plain"), seed=seed)
        return [one.problem_id for one in some]

    four = draw(4)
    assert len(four) == 5, "one to spare"
    assert draw(4) == four and draw(4, pool=PROBLEMS[::-1]) == four
    assert draw(6)[:5] == four and draw(4, seed=1) != four
    assert len(draw(20)) == 20
    with pytest.raises(DataError, match="21 demonstrations are wanted and 20 are there"):
        draw(21)
    assert chosen(None, "number") == ()


def test_from_a_file_and_never_of_the_exam(tmp_path: Path) -> None:
    file = tmp_path / "shots.txt"
    file.write_text("".join(f"Q: {question}\nA: {answer}\n" for question, answer in PAIRS))
    whole, one = ExamplesSettings(file=str(file)), ExamplesSettings(file=str(file), k=1)
    assert pairs(list(chosen(whole, "number"))) == PAIRS
    assert pairs(list(chosen(one, "number"))) == PAIRS, "the second one is to spare"
    assert [shown.completion for shown in chosen(whole, "number", form="arrow")] == [
        "One more than one. --> 2",
        "Twice two. --> 4",
    ]
    with pytest.raises(DataError, match="3 demonstrations are wanted and 2 are there"):
        chosen(ExamplesSettings(file=str(file), k=3), "number")
    asked = [*PROBLEMS, Problem(id="t", question="1+1 ?", answer="2")]
    with pytest.raises(LeakError, match="a problem of the exam"):
        chosen(whole, "number", test=asked)
    with pytest.raises(LeakError, match="a problem of the exam"):
        chosen(whole, "number", test=[Problem(id="t", question="Question: “1+1”?\nAnswer:", answer="2")])
    listed = Problem(id="t", question="Who?", answer="A", options=("Ann", "Ben"))
    file.write_text("Q: Who? Answer choices: (A) Ann, (B) Ben.\nA: Her. The answer is A.")
    with pytest.raises(LeakError, match="a problem of the exam"):
        chosen(whole, "choice", test=[listed])
