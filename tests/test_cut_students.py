"""`layers` in a recipe: a student of some of its base's layers, next to a mentor that has all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.lm.load import load

from .lm.families import tiny_folder

RECIPE = """
name: cut
task: {{name: coin-flip, train: 12, dev: 0, test: 4, parameters: {{people: 2}}}}
teacher: {{kind: offline, exam: false}}
rationales: {{per_problem: 1}}
mentor: {{model: '{base}', rationales: 1, writes: {{per_problem: 1, max_tokens: 12}}, train: {{epochs: 1}}}}
student: {{model: '{base}', layers: {layers}, lora: {lora}, train: {{epochs: 1}}}}
students: {{small: {{method: mentor-kd, settings: {{teacher_rationales: 1, mentor_rationales: 1}}}}}}
exam: {{max_tokens: 8}}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with a model of two layers."""
    return tiny_folder("llama-2", tmp_path / "base")


@pytest.mark.parametrize("lora", ["null", "{r: 2}"])
def test_a_cut_student_learns_from_the_whole_model(
    limbeck: Callable[..., Any], tmp_path: Path, base: Path, lora: str
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.format(base=base, layers=1, lora=lora))
    run = tmp_path / "run"
    answer = limbeck("run", tmp_path / "r.yaml", "--out", run)
    assert answer.status == 0, answer.err
    student = run / "students/small/seed0"
    folder = student / "model"
    config = json.loads((folder / ("config.json" if lora == "null" else "base/config.json")).read_text())
    assert config["num_hidden_layers"] == 1
    texts = [one.read_text() for one in folder.rglob("*") if one.suffix in (".json", ".md")]
    assert not [one for one in texts if str(base) in one], "its own base is inside, and is not that folder"
    found = load(folder, device="cpu").model
    assert len(found.model.layers) == 1 and len(load(base, device="cpu").model.model.layers) == 2
    assert (run / "mentors/mentor/soft-labels").is_dir()
    asked = limbeck("ask", student, "Is the coin still heads up?")
    assert asked.status == 0, asked.err
    again = limbeck("run", tmp_path / "r.yaml", "--out", run)
    assert again.status == 0 and "students/small/seed0: done before, kept" in again.err


def test_a_setting_that_cuts_nothing_changes_no_plan(
    limbeck: Callable[..., Any], tmp_path: Path, base: Path
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(base=base, layers="null", lora="null"))
    assert limbeck("run", recipe, "--out", tmp_path / "run").status == 0
    recipe.write_text(recipe.read_text().replace("layers: null, ", ""))
    again = limbeck("run", recipe, "--out", tmp_path / "run")
    assert ": started" not in again.err
    recipe.write_text(recipe.read_text().replace("lora: null", "layers: [0]"))
    third = limbeck("run", recipe, "--out", tmp_path / "run")
    assert third.err.count(": started") == 2, "the student and its exam"


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ("3", "layers: 3, but it has 2"),
        ("[0, 2]", "no layer 2; it has 2, counted from 0"),
        ("[1, 0]", "in ascending order"),
        ("[0, 0]", "name each layer once"),
        ("0", "greater than or equal to 1"),
    ],
)
def test_layers_that_cannot_be_kept_are_refused_before_the_first_stage(
    limbeck: Callable[..., Any], tmp_path: Path, base: Path, layers: str, says: str
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.format(base=base, layers=layers, lora="null"))
    answer = limbeck("run", tmp_path / "r.yaml", "--out", tmp_path / "run")
    assert answer.status == 2 and says in answer.err and ": started" not in answer.err


def test_a_model_from_scratch_is_cut_too(tmp_path: Path) -> None:
    """Its layers are drawn before: what stays is what the whole model has."""
    texts = ["one two three"]
    whole = load("tiny-causal-xs", tokenizer_texts=texts, device="cpu").model
    some = load("tiny-causal-xs", tokenizer_texts=texts, layers=1, device="cpu").model
    assert len(some.model.layers) == 1 < len(whole.model.layers)
    pairs = zip(some.model.layers[0].parameters(), whole.model.layers[0].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
