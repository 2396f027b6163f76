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
    copied = [one["place"] for one in planned["learners"] if "copied: 1" in str(one["estimates"])]
    assert copied == ["students.three", "students.silver"]
    ran = limbeck("run", recipe)
    assert ran.status == 0, ran.err
    assert trained == ["one", "question", "two"]
    assert "silver (seed 0): learns the same as one (seed 0), whose training is copied" in ran.err
    run = Path("runs/reads")
    for name in ("three", "silver"):
        for file in ("model/model.safetensors", "examples.jsonl", "history.jsonl", "training.json"):
            assert of(run, name, file) == of(run, "one", file)
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


def test_after_a_kill_the_copy_is_made_again_and_an_own_training_on_request(
    limbeck: Limbeck, recipe: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    students = ("--set", "students={one: {}, three: {settings: {passages: 3}}}")
    real = training.take

    def killed(*arguments: Any) -> None:
        real(*arguments)
        (arguments[1] / "training.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "take", killed)
    assert limbeck("run", recipe, *students).status == 130
    monkeypatch.setattr(training, "take", real)
    assert limbeck("run", recipe, *students).status == 0
    assert trained == ["one"]
    run = Path("runs/reads")
    before = of(run, "three", "model/model.safetensors")
    (run / "students/one/seed0/model/model.safetensors").write_bytes(b"damaged")
    again = limbeck("run", recipe, *students, "--again", "students/three/seed0")
    assert again.status == 0, again.err
    assert "three" in trained and of(run, "three", "model/model.safetensors") == before


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
    for file in ("model/model.safetensors", "training.json"):
        assert (run / "with/seed0/round0" / file).read_bytes() == (
            run / "without/seed0/round0" / file
        ).read_bytes()
