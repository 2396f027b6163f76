"""Tailored learning under two processes, and killed at any moment of its second round."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck.tasks import arithmetic
from limbeck.tasks.feedback import reply

from .commands import Started, end_as_a_launcher, finish
from .served import served
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


def until(happens: Callable[[], bool], seconds: float = 300) -> bool:
    """Wait for it; whether it happened."""
    deadline = time.monotonic() + seconds
    while not happens() and time.monotonic() < deadline:
        time.sleep(0.01)
    return happens()


def kill(processes: Sequence[Started]) -> None:
    for process in processes:
        process.send_signal(signal.SIGKILL)
    end_as_a_launcher(processes)
    finish(processes)


def test_two_processes_make_what_one_makes_and_kills_change_nothing(recipe: Path, tmp_path: Path) -> None:
    """Killed in the second round: while the student answers, while feedback is asked, while it trains."""
    run(1, "run", recipe, "--out", tmp_path / "one")
    run(2, "run", recipe, "--out", tmp_path / "two")
    assert_equal(tmp_path / "one", tmp_path / "two")

    out, draw = tmp_path / "killed", random.Random(5)
    for place in ("round1/answers", "round1/asked", "round2/checkpoints"):
        processes = start(2, "run", recipe, "--out", out)
        reached = until((out / "students/tailored/seed0" / place).exists)
        time.sleep(draw.random() / 5)
        kill(processes)
        assert reached, f"{place} was not there when they were killed"
    asked = (out / "memory/teacher.jsonl").read_text().splitlines()
    run(1, "run", recipe, "--out", out)
    assert_equal(tmp_path / "one", out)
    later, undisturbed = (
        (folder / "memory/teacher.jsonl").read_text().splitlines() for folder in (out, tmp_path / "one")
    )
    assert later[: len(asked)] == asked
    assert len(later) == len(undisturbed), "the teacher was asked nothing twice"


PAID = """
name: paid
task: {name: arithmetic, train: 24, dev: 0, test: 8, parameters: {steps: 1, largest: 20}}
teacher:
  kind: api
  base_url: ADDRESS
  model: big
  exam: false
  concurrency: 2
  prices: {usd_per_million_input: 1, usd_per_million_output: 10}
student:
  method: tailored
  model: tiny-causal-xs
  train: {learning_rate: 4.0e-3, batch_size: 8, epochs: 15, checkpoints: 6}
  settings:
    rounds: 2
    begin: rationales
    train_exam: {samples: 3, temperature: 0.5, max_tokens: 8, least_readable: 0}      # texts come again
    feedback: {kind: tailored, of: [wrong, no-answer, cut-off], max_tokens: 60}
exam: {max_tokens: 16}
"""


class Tutor:
    """A teacher that says the same to the same request, and after so many answers nothing until it may."""

    def __init__(self) -> None:
        self.answered: list[str] = []
        self.most: float = float("inf")
        self.waits, self.may = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> str | tuple[int, bytes]:
        text = body["messages"][-1]["content"]
        with self._lock:
            if answers := len(self.answered) < self.most:
                self.answered.append(text)
        if not answers:
            self.waits.set()
            self.may.wait(300)
            return 503, b"too late"
        story = arithmetic.read(text)
        assert story is not None
        right = f"{story.start} becomes {story.answer}. The answer is {story.answer}."
        return reply("The sum is off.", right) if "The student wrote" in text else right


def asked_in(out: Path, number: int) -> int:
    """How many requests for feedback a round sent."""
    place = out / f"students/tailored/seed0/round{number}/asked/completions.jsonl"
    return len(place.read_text().splitlines())


def test_a_paid_teacher_is_repaid_nothing_after_kills(tmp_path: Path) -> None:
    """Killed in the second round: while it is asked about mistakes, and while the student trains."""
    pytest.importorskip("openai", reason="the extra `api` is not installed")
    tutor, recipe, whole, out = Tutor(), tmp_path / "paid.yaml", tmp_path / "one", tmp_path / "killed"
    with served(tutor) as address:
        recipe.write_text(PAID.replace("ADDRESS", address))
        run(1, "run", recipe, "--out", whole, "--yes")
        wanted, tutor.answered = tutor.answered, []
        audit = json.loads((whole / "students/tailored/seed0/round1/feedback/audit.json").read_text())
        assert audit["answered in earlier rounds"] > 0 and asked_in(whole, 1) > 2

        tutor.most = len(wanted) - asked_in(whole, 1) + 2
        processes = start(1, "run", recipe, "--out", out, "--yes")
        assert tutor.waits.wait(150), "two requests of the second round are answered, the third is not"
        memory = out / "memory/teacher.jsonl"
        assert until(lambda: len(memory.read_text().splitlines()) == tutor.most)
        kill(processes)
        assert not (out / "students/tailored/seed0/round1/asked/completions.jsonl").exists()
        tutor.most = float("inf")
        tutor.may.set()
        processes = start(1, "run", recipe, "--out", out, "--yes")
        assert until((out / "students/tailored/seed0/round2/checkpoints").exists)
        kill(processes)
        run(1, "run", recipe, "--out", out, "--yes")
    assert_equal(whole, out)
    assert sorted(tutor.answered) == sorted(wanted) and len(set(wanted)) == len(wanted)
