"""Students that learn the same are trained once, however many exams they sit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.knowledge.reading import reading_of
from limbeck.stages import training

Limbeck = Callable[..., Any]

RECIPE = """
name: reads
task: {name: animals, train: 20, dev: 0, test: 4, parameters: {animals: 20}}
knowledge: {corpus: built-in}
teacher: {kind: offline, exam: false}
student:
  method: kard
  model: tiny-causal-xs
  settings: {train_passages: 1}
  train: {epochs: 1}
students:
  one: {}
  three: {settings: {passages: 3}}
  silver: {settings: {find: silver}}
  question: {settings: {query: question}}
  two: {settings: {train_passages: 2}}
exam: {max_tokens: 8}
"""

ROUNDS = """
name: rounds
task: {name: arithmetic, train: 12, dev: 0, test: 4}
teacher: {kind: offline, exam: false}
student:
  method: tailored
  model: tiny-causal-xs
  train: {epochs: 1}
  settings:
    rounds: 1
    begin: rationales
    train_exam: {samples: 1, least_readable: 0}
    feedback: {kind: tailored}
students:
  with: {}
  without: {settings: {reflection: {weight: 0}}}
exam: {max_tokens: 8}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return Path("r.yaml")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was trained, in order."""
    names: list[str] = []
    real = training._train

    def train(context: Any, learner: Any, *others: Any) -> None:
        names.append(learner.name)
        real(context, learner, *others)

    monkeypatch.setattr(training, "_train", train)
    return names


def of(run: Path, name: str, file: str) -> bytes:
    return (run / f"students/{name}/seed0" / file).read_bytes()


def prompts(run: Path, name: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in of(run, name, "examples.jsonl").splitlines()]


def test_one_training_serves_all_that_differ_in_their_exam_alone(
    limbeck: Limbeck, recipe: Path, trained: list[str]
) -> None:
    assert limbeck("run", recipe, "--until", "passages").status == 0
    planned = json.loads(limbeck("run", recipe, "--dry-run", "--no-probe", "--json").out)
    copied = [one["place"] for one in planned["learners"] if one["copies"]]
    assert copied == ["students.three", "students.silver"]
    ran = limbeck("run", recipe)
    assert ran.status == 0, ran.err
    assert trained == ["one", "question", "two"]
    assert "silver (seed 0): learns the same as one (seed 0), whose training is copied" in ran.err
    run = Path("runs/reads")
    for name in ("three", "silver"):
        for file in ("model/model.safetensors", "examples.jsonl", "history.jsonl"):
            assert of(run, name, file) == of(run, "one", file)
        facts, copied_from = (json.loads(of(run, one, "training.json")) for one in ("one", name))
        assert copied_from == facts | {"copied_from": "students/one/seed0"}
    sums = {
        name: json.loads(of(run, name, "exam/metrics.json"))["weights"] for name in ("one", "three", "two")
    }
    assert sums["one"] == sums["three"] != sums["two"] and None not in sums.values()
    assert "three: was trained once with one; its steps" in ran.out.replace("\n", " ")
    for name in ("question", "two"):
        assert of(run, name, "model/model.safetensors") != of(run, "one", "model/model.safetensors")
    read = {
        name: reading_of(run / f"students/{name}/seed0/model") for name in ("one", "three", "silver", "two")
    }
    assert {name: one.passages for name, one in read.items() if one} == {
        "one": 1,
        "three": 3,
        "silver": 1,
        "two": 1,
    }
    lines = {name: prompts(run, name)[0].strip().count("\n") for name in ("one", "two")}
    assert lines["two"] == lines["one"] + 1, "a line for each passage of training"


TWO = ("--set", "students={one: {}, three: {settings: {passages: 3}}}")


def test_after_a_kill_the_copy_is_made_again(
    limbeck: Limbeck, recipe: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.take
    run = Path("runs/reads")

    def killed(*arguments: Any) -> None:
        real(*arguments)
        for name in ("examples.jsonl", "history.jsonl", "training.json"):
            (arguments[2] / name).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "take", killed)
    assert limbeck("run", recipe, *TWO).status == 130
    monkeypatch.setattr(training, "take", real)
    assert limbeck("run", recipe, *TWO, "--set", "exam.max_tokens=9").status == 0
    assert trained == ["one"] and of(run, "three", "examples.jsonl") == of(run, "one", "examples.jsonl")
    model = run / "students/three/seed0/model"
    said, generation = (
        json.loads((model / name).read_text()) for name in ("limbeck.json", "generation_config.json")
    )
    assert (said["max_tokens"], generation["max_new_tokens"]) == (9, 9), "of its own exam"


def test_a_student_is_trained_itself_on_request(
    limbeck: Limbeck, recipe: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limbeck("run", recipe, *TWO).status == 0
    assert limbeck("run", recipe, *TWO, "--again", "students").status == 0
    assert trained == ["one", "one"], "both again are one training again"

    real = training._train

    def killed(*arguments: Any) -> None:
        (arguments[4] / "checkpoints").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_train", killed)
    assert limbeck("run", recipe, *TWO, "--again", "students/three/seed0").status == 130
    monkeypatch.setattr(training, "_train", real)
    assert limbeck("run", recipe, *TWO).status == 0
    assert trained == ["one", "one", "three"], "what was begun by itself goes on so"
    assert b"copied_from" not in of(Path("runs/reads"), "three", "training.json")


def test_a_checkpoint_that_was_chosen_with_other_passages_is_no_copy(
    limbeck: Limbeck, recipe: Path, trained: list[str]
) -> None:
    more = ("--set", "student.train.choose=dev-accuracy", "--set", "task.dev=2")
    assert limbeck("run", recipe, *TWO, *more).status == 0
    assert trained == ["one", "three"]


def test_a_damaged_training_is_not_copied(limbeck: Limbeck, recipe: Path, trained: list[str]) -> None:
    first, second = (
        "students={one: {}}",
        "students={one: {}, three: {settings: {passages: 3}}}",
    )
    assert limbeck("run", recipe, "--set", first).status == 0
    run = Path("runs/reads")
    weights = run / "students/one/seed0/model/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    ran = limbeck("run", recipe, "--set", second)
    assert ran.status == 0, ran.err
    assert trained == ["one", "one"] and of(run, "three", "model/model.safetensors") == whole


def test_the_first_training_of_rounds_is_shared(
    limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    """With and without self-reflection, round 0 is the same student; its exam and its rounds are its own."""
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(ROUNDS)
    ran = limbeck("run", "r.yaml")
    assert ran.status == 0, ran.err
    assert trained == ["with", "with", "without"], "a first training for both, a round for each"
    run = Path("runs/rounds/students")
    for file in ("model/model.safetensors", "examples.jsonl"):
        assert (run / "with/seed0/round0" / file).read_bytes() == (
            run / "without/seed0/round0" / file
        ).read_bytes()
