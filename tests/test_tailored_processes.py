"""Tailored learning under two processes, and killed at any moment of its second round."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from .commands import end_as_a_launcher, finish
from .test_several_processes import losses, run, start, weights

RECIPE = """
name: rounds
task: {name: coin-flip, train: 64, dev: 0, test: 12, parameters: {people: 2}}
teacher: {kind: offline, wrong_answer: 0.2, exam: false}
student:
  method: tailored
  model: tiny-causal-xs
  train: {learning_rate: 4.0e-3, batch_size: 8, accumulate: 2, epochs: 4, checkpoints: 6}
  settings:
    rounds: 2
    begin: rationales
    train_exam: {samples: 2, batch_size: 8, least_readable: 0}
    feedback: {kind: again, per_problem: 1, problems: 20}
exam: {max_tokens: 40, batch_size: 4}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "rounds.yaml"
    path.write_text(RECIPE)
    return path


def assert_equal(one: Path, two: Path) -> None:
    for number in range(3):
        ours, theirs = (out / "students/tailored/seed0" / f"round{number}" for out in (one, two))
        assert losses(ours) == pytest.approx(losses(theirs), abs=1e-5)
        left, right = weights(ours), weights(theirs)
        assert max(float((left[key] - right[key]).abs().max()) for key in left) < 1e-5
        for name in ("mistakes/mistakes.jsonl", "feedback/graded.jsonl") if number < 2 else ():
            assert (ours / name).read_text() == (theirs / name).read_text()
        marks = [json.loads((round_ / "stage.json").read_text())["fingerprint"] for round_ in (ours, theirs)]
        assert marks[0] == marks[1]
    exams = [out / "students/tailored/seed0/exam/predictions.jsonl" for out in (one, two)]
    assert exams[0].read_text() == exams[1].read_text()


def test_two_processes_make_what_one_makes_and_kills_change_nothing(recipe: Path, tmp_path: Path) -> None:
    """Killed in the second round: while the student answers, while feedback is asked, while it trains."""
    run(1, "run", recipe, "--out", tmp_path / "one")
    run(2, "run", recipe, "--out", tmp_path / "two")
    assert_equal(tmp_path / "one", tmp_path / "two")

    out, draw = tmp_path / "killed", random.Random(5)
    for place in ("round1/answers", "round1/asked", "round2/checkpoints"):
        processes = start(2, "run", recipe, "--out", out)
        deadline = time.monotonic() + 300
        while not (out / "students/tailored/seed0" / place).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        reached = (out / "students/tailored/seed0" / place).exists()
        time.sleep(draw.random() / 5)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        end_as_a_launcher(processes)
        finish(processes)
        assert reached, f"{place} was not there when they were killed"
    asked = (out / "memory/teacher.jsonl").read_text().splitlines()
    run(1, "run", recipe, "--out", out)
    assert_equal(tmp_path / "one", out)
    later, undisturbed = (
        (folder / "memory/teacher.jsonl").read_text().splitlines() for folder in (out, tmp_path / "one")
    )
    assert later[: len(asked)] == asked
    assert len(later) == len(undisturbed), "the teacher was asked nothing twice"
