"""What a contestant cost: counted by hand from the files of a real run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.protocol.compute import operations, stages_of

Limbeck = Callable[..., Any]

RECIPE = """
name: small
task: {name: coin-flip, train: 20, dev: 0, test: 4, parameters: {people: 2}}
teacher: {kind: offline, exam: false}
rationales: {per_problem: 2}
mentor:
  model: tiny-causal-s
  train: {epochs: 2}
  writes: {per_problem: 1, max_tokens: 20}
  keep: all
  exam: false
student: {model: tiny-causal-xs, train: {epochs: 3}}
students:
  both: {method: mentor-kd, settings: {mentor_rationales: 1}}
  labels: {method: mentor-kd, settings: {mentor_rationales: 0}}
  live: {method: mentor-kd, settings: {mentor_rationales: 0, soft_labels: live}}
  cot: {method: finetune-cot}
exam: {max_tokens: 4}
"""


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return found


def test_operations_are_those_of_the_training_and_of_what_it_stands_on(
    limbeck: Limbeck, tmp_path: Path
) -> None:
    recipe, run = tmp_path / "small.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    assert limbeck("run", recipe, "--out", run).status == 0
    mentor, stages = run / "mentors" / "mentor", stages_of(run)
    teaching = facts(mentor)
    lines = (mentor / "collected" / "completions.jsonl").read_text().splitlines()
    wrote = 2 * teaching["parameters"] * sum(json.loads(line)["tokens"] for line in lines)
    taught = 6 * teaching["parameters"] * teaching["tokens"]
    assert wrote > 0
    for name, extra in (("both", taught + wrote), ("labels", taught), ("live", taught), ("cot", 0)):
        student = run / "students" / name / "seed0"
        own = facts(student)
        expected = 6 * own["parameters"] * own["tokens"] + extra
        passes = {"cot": 0, "live": 3}.get(name, 1)  # of three epochs
        expected += 2 * teaching["parameters"] * own["tokens"] * passes / 3
        found = operations(student, stages, None if name == "cot" else mentor)
        assert found == pytest.approx(expected), name


def test_what_is_not_known_is_no_number(tmp_path: Path) -> None:
    assert operations(tmp_path, {}, None) is None
