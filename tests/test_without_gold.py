"""Training problems without gold answers, from a file to an examined student; and runs that keep nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .given_rationales import given_recipe

Limbeck = Callable[..., Any]


def said(number: int, answer: object, words: str) -> str:
    return f"{words}, {number} and one more is {answer}. The answer is {answer}."


def rows(gold: bool = False) -> list[dict[str, Any]]:
    """Twelve questions: samples agree on the right answer of the first eight, and differ in the others."""
    found = []
    for number in range(12):
        right, wrong = number + 1, number + 3
        answers = [right, right, wrong] if number < 8 else [right, wrong] if number < 10 else [right, 90, 91]
        row = {
            "question": f"What is {number} + 1?",
            "answer": right if gold else None,
            "why": [said(number, answer, f"Try {place}") for place, answer in enumerate(answers)],
        }
        found.append(row)
    return found


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    test = [{"question": f"What is {number} + 1?", "answer": number + 1} for number in range(20, 24)]
    learner = """
rationales: {keep: agreement}
student:
  method: finetune-cot
  model: tiny-causal-xs
  settings: {rationales: 3}
  train: {epochs: 1}
exam: {max_tokens: 16}
"""
    return given_recipe(tmp_path, rows(), test, learner, task="  gold: optional")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_a_student_learns_what_the_samples_agree_on(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 0, answer.err
    graded = lines(out / "rationales" / "graded.jsonl")
    assert {one["correct"] for one in graded} == {None}
    audit = json.loads((out / "rationales" / "audit.json").read_text())
    assert audit["problems without a gold answer"] == 12 and audit["kept"] == 16
    assert "correct per problem" not in audit
    assert audit["dropped"] == {
        "another answer than the samples agree on": 8,
        "too few samples agree": 10,
    }
    examples = lines(out / "students" / "finetune-cot" / "seed0" / "examples.jsonl")
    assert len(examples) == 16
    for one in examples:
        start, end = one["answer_span"]
        number = int(json.dumps(one["prompt"]).split("What is ")[1].split(" ")[0])
        assert one["completion"][start:end] == str(number + 1)
    metrics = json.loads((out / "students/finetune-cot/seed0/exam/metrics.json").read_text())
    assert metrics["problems"] == 4
    again = limbeck("run", recipe, "--out", out)
    assert again.status == 0 and "started" not in again.err


def test_a_mentor_without_gold(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """Its samples must agree too, and on the answer of the teacher's, where those agree."""
    wrote = tmp_path / "mentor.jsonl"
    answers = {0: [1, 1], 1: [7, 7], 8: [9, 9], 9: [10, 11]}
    written = [
        {"question": f"What is {number} + 1?", "text": said(number, answer, f"Mentor {place}"), "source": "m"}
        for number, given in answers.items()
        for place, answer in enumerate(given)
    ]
    wrote.write_text("".join(json.dumps(row) + "\n" for row in written))
    mentor = (
        f"mentor={{model: tiny-causal-xs, file: {wrote}, keep: agreement, exam: false, train: {{epochs: 1}}}}"
    )
    out = tmp_path / "run"
    settings = [
        "--set",
        mentor,
        "--set",
        "student.method=mentor-kd",
        "--set",
        "student.settings={kl_weight: 0}",
    ]
    answer = limbeck("run", recipe, "--out", out, *settings)
    assert answer.status == 0, answer.err
    graded = lines(out / "mentors/mentor/rationales/graded.jsonl")
    assert [one["dropped"] for one in graded] == [
        *[None, None],
        *["another answer than the teacher's"] * 2,
        *[None, None],
        *["too few samples agree"] * 2,
    ]
    examples = lines(out / "students/mentor-kd/seed0/examples.jsonl")
    assert len(examples) == 16 + 4
    refused = limbeck("run", recipe, "--out", out, *settings, "--set", "mentor.keep=correct")
    assert refused.status == 2 and "mentors.mentor.keep: correct compares with gold" in refused.err


def test_gold_decides_where_it_is_known(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    mixed = rows()
    for row in mixed[:3]:
        row["answer"] = row["question"].split()[2]  # gold says something else than the samples
    del mixed[3]["answer"]
    mixed[4]["answer"] = " "
    (tmp_path / "train.json").write_text(json.dumps(mixed))
    both = ["--set", "rationales={keep: correct, agreement: {share: 0.6}}"]
    answer = limbeck("collect", recipe, "--out", tmp_path / "run", *both)
    assert answer.status == 0, answer.err
    audit = json.loads((tmp_path / "run/rationales/audit.json").read_text())
    assert audit["kept"] == 10 and audit["dropped"]["wrong answer"] == 9
    assert audit["suspected wrong gold answers"] == 0, "one of three samples differs"
    alone = limbeck("collect", recipe, "--out", tmp_path / "alone")
    assert alone.status == 0
    assert json.loads((tmp_path / "alone/rationales/audit.json").read_text())["kept"] == 16


def refused(answer: Any, *words: str) -> None:
    assert answer.status == 2, answer.err
    assert answer.err.count("limbeck: ") == 1 and "started" not in answer.err.partition("limbeck: ")[2]
    assert all(word in answer.err for word in words), answer.err


def test_what_needs_gold_is_refused_in_one_sentence(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    refused(
        limbeck("run", recipe, *out, "--set", "rationales.keep=correct"),
        "rationales.keep: correct compares with gold answers",
        "task.gold: optional",
    )
    refused(limbeck("run", recipe, *out, "--set", "task.gold=needed"), "train.json", "answer", "empty")
    refused(
        limbeck("run", recipe, *out, "--set", "task.dev=2", "--set", "student.train.choose=dev-accuracy"),
        "dev-accuracy needs gold answers",
    )
    refused(
        limbeck("evaluate", "x", "--task", recipe, "--out", tmp_path / "exam", "--split", "train"),
        "has no gold answer",
        "--split train",
    )
    assert not (tmp_path / "exam").exists()
    answer = limbeck("run", recipe, *out, "--set", "student={method: answers-only, model: tiny-causal-xs}")
    assert answer.status == 2 and "has no gold answer, and one is needed here" in answer.err
    (tmp_path / "test.json").write_text('[{"question": "What is 20 + 1?", "answer": null}]')
    refused(limbeck("run", recipe, *out), "test.json", "answer")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("rationales={keep: all, agreement: {}}", "keep: all drops nothing"),
        ("rationales={keep: agreement, agreement: {share: 1.5}}", "share"),
        ("rationales={keep: agreement, agreement: {least: 1}}", "least"),
        ("teacher={kind: local, model: x}", "rationales.per_problem: 1 of a problem cannot agree; take 2"),
        ("mentor={keep: agreement, writes: {per_problem: 1}}", "mentors.mentor.writes.per_problem: 1 of a"),
    ],
)
def test_agreement_that_cannot_be_is_refused(limbeck: Limbeck, recipe: Path, change: str, words: str) -> None:
    refused(limbeck("run", recipe, "--set", change), words)


def test_a_run_that_keeps_nothing_says_so_and_exits_1(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    data = rows(gold=True)
    for row in data:
        row["answer"] = 1_000
    (tmp_path / "train.json").write_text(json.dumps(data))
    wrong = ("--set", "rationales.keep=correct", "--set", "task.gold=needed")
    said_aloud = "NOTHING WAS KEPT: all 34 rationales were dropped (wrong answer: 34)"
    for command in ("collect", "run"):
        out = tmp_path / command
        for until in ((), ("--until", "rationales")) if command == "run" else ((),):
            answer = limbeck(command, recipe, "--out", out, *wrong, *until)
            assert answer.status == 1 and said_aloud in answer.err, answer.err
        assert len(lines(out / "rationales" / "graded.jsonl")) == 34, "what was dropped, and why, can be read"
        assert not (out / "students").exists()
    graded = limbeck("grade", tmp_path / "train.json", "--task", recipe, *wrong, "--json")
    assert graded.status == 1 and said_aloud in graded.err
    assert json.loads(graded.out)["kept"] == 0


def test_grade_prints_json_and_named_problems(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    data = rows(gold=True)
    data[0]["answer"] = 5
    data[0]["why"] = [said(0, 1, words) for words in ("One", "Two", "Three")]
    (tmp_path / "train.json").write_text(json.dumps(data))
    file = tmp_path / "train.json"
    answer = limbeck("grade", file, "--task", recipe, "--keep", "correct", "--json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert found["suspected wrong gold answers, named"][0]["answers"] == "1 (3)"
    assert found["agreement and gold"]["100 %"] == {
        "problems": 1,
        "gold": 0,
        "share": 0.0,
        "from here up": 1,
        "share from here up": 0.0,
    }
    table = limbeck(
        "grade", file, "--task", recipe, "--keep", "agreement", "--out", tmp_path / "graded.jsonl"
    )
    assert table.status == 0 and "suspected wrong gold answers" in table.out and "What is 0 + 1?" in table.out
    kept = [one for one in lines(tmp_path / "graded.jsonl") if one["dropped"] is None]
    assert len(kept) == 3 + 7 * 2
