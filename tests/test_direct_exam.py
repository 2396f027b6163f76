"""`exam.direct`: students and mentors sit their exam once more, without reasoning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.tasks.asking import Asking

Limbeck = Callable[..., Any]

RECIPE = """
name: own
task: {name: coin-flip, train: 12, dev: 0, test: 6, parameters: {people: 2}}
mentor: {model: tiny-causal-xs, rationales: 1, train: {epochs: 1}, writes: {per_problem: 1, max_tokens: 16}}
student: {model: tiny-causal-xs, train: {epochs: 1}}
students:
  cot: {method: finetune-cot}
  seq2seq: {method: finetune-cot, model: tiny-seq2seq-xs, format: arrow}
exam: {max_tokens: 24, stop: ["\\n\\n"]}
"""


def predictions(exam: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (exam / "predictions.jsonl").read_text().splitlines()]


def test_everybody_that_runs_here_answers_at_once(
    limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(RECIPE)
    assert limbeck("run", "own.yaml", "--until", "students/cot").status == 0
    mark = json.loads(Path("runs/own/students/cot/seed0/exam/stage.json").read_text())
    settings = "{kl_weight: 0, teacher_rationales: 1, mentor_rationales: 0}"
    kd = f"students.kd={{method: mentor-kd, settings: {settings}}}"
    ran = limbeck("run", "own.yaml", "--set", "exam.direct=true", "--set", kd)
    assert ran.status == 0, ran.err
    run = Path("runs/own")
    assert json.loads((run / "students/cot/seed0/exam/stage.json").read_text()) == mark, "kept as it was"
    begun = {
        "students/cot/seed0": "The answer is",
        "students/seq2seq/seed0": "-->",
        "mentors/mentor": "The answer is",
    }
    for folder, statement in begun.items():
        usual, direct = predictions(run / folder / "exam"), predictions(run / folder / "exam-direct")
        assert all(one["completion"].startswith(statement) for one in direct), folder
        assert [one["problem_id"] for one in usual] == [one["problem_id"] for one in direct]
        about = json.loads((run / folder / "exam-direct/metrics.json").read_text())
        assert (about["direct"], about["also"], about["task"]) == (True, False, "coin-flip")
    assert not (run / "teacher/exam-direct").exists()
    assert "Exam of 6 problems without reasoning" in ran.out and "What reasoning adds" in ran.out
    again = limbeck("run", "own.yaml", "--set", "exam.direct=true", "--set", kd)
    assert again.status == 0 and ": started" not in again.out

    out = ("--out", "at-once", "--direct")
    ran = limbeck("evaluate", run / "students/cot/seed0/model", "--task", "own.yaml", *out)
    assert ran.status == 0 and "Exam of 6 problems without reasoning" in ran.out
    assert predictions(Path("at-once")) == predictions(run / "students/cot/seed0/exam-direct")


def test_no_other_task_may_take_its_name(limbeck: Limbeck, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(RECIPE)
    ran = limbeck("run", tmp_path / "own.yaml", "--set", "exam.also=[{name: coin-flip, called: direct}]")
    assert ran.status == 2 and "exam: also: direct" in ran.err and "give the task another name" in ran.err


@pytest.mark.parametrize(
    ("asking", "prompt", "begun"),
    [
        (Asking("plain"), "2 + 2?\n", "The answer is"),
        (Asking("arrow"), "2 + 2?\n###\n", "-->"),
        (Asking("chat", thinks=True), "<user>2 + 2?<assistant>", "<think>\n</think>\nThe answer is"),
        (Asking("chat", thinks=True), "<user>2 + 2?<assistant><think>\n", "</think>\nThe answer is"),
    ],
)
def test_what_an_answer_begins_with(asking: Asking, prompt: str, begun: str) -> None:
    assert asking.direct(prompt) == begun
