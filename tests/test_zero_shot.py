"""`method: zero-shot`: a base sits the exam as it comes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.stages.model_inputs import model_inputs

Limbeck = Callable[..., Any]

RECIPE = """
name: base
task: {name: arithmetic, train: 40, test: 6, dev: 0}
students: {small: {method: finetune-cot, model: tiny-causal-xs, train: {epochs: 1}}}
exam: {max_tokens: 12}
"""


@pytest.fixture
def base(tmp_path: Path, limbeck: Limbeck) -> Path:
    """A model folder, and `base.yaml` whose run made it."""
    (tmp_path / "base.yaml").write_text(RECIPE)
    assert limbeck("run", tmp_path / "base.yaml", "--out", tmp_path / "base").status == 0
    return tmp_path / "base" / "students" / "small" / "seed0" / "model"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_base_answers_as_the_folder_does(base: Path, tmp_path: Path, limbeck: Limbeck) -> None:
    model = tmp_path / "model"
    shutil.copytree(base, model)
    recipe, out = tmp_path / "base.yaml", tmp_path / "run"
    students = (
        f"students={{asis: {{method: zero-shot, model: '{model}', train: {{precision: auto}}}}, "
        f"shown: {{method: zero-shot, model: '{model}', dtype: bfloat16, prompt: {{examples: 1}}}}}}"
    )
    answer = limbeck("run", recipe, "--out", out, "--set", students)
    assert answer.status == 0, answer.err
    exam = out / "students" / "asis" / "seed0" / "exam"
    before = lines(base.parent / "exam" / "predictions.jsonl")
    assert [one["completion"] for one in lines(exam / "predictions.jsonl")] == [
        one["completion"] for one in before
    ]
    facts = json.loads((exam / "metrics.json").read_text())
    trained = json.loads((base.parent / "exam" / "metrics.json").read_text())
    assert (facts["method"], facts["steps"], facts["tokens"]) == ("zero-shot", 0, None)
    assert facts["parameters"] == trained["parameters"]
    assert not (out / "precision").exists(), "nobody is trained, so no precision is tried"
    shown = lines(out / "students" / "shown" / "seed0" / "exam" / "predictions.jsonl")
    assert [one["completion"] for one in shown] != [one["completion"] for one in before]

    again = limbeck("run", recipe, "--out", out, "--set", students)
    assert again.status == 0 and "started" not in again.err


def test_another_base_is_examined_again(base: Path, tmp_path: Path, limbeck: Limbeck) -> None:
    model = tmp_path / "model"
    shutil.copytree(base, model)
    recipe, out = tmp_path / "base.yaml", tmp_path / "run"
    students = f"students={{asis: {{method: zero-shot, model: '{model}'}}}}"
    assert limbeck("run", recipe, "--out", out, "--set", students).status == 0
    about = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(about | {"max_length": 77}))
    model_inputs.cache_clear()  # read once per process
    again = limbeck("run", recipe, "--out", out, "--set", students)
    assert "students/asis/seed0/exam: runs again" in again.err


def test_a_model_from_scratch_is_refused(tmp_path: Path, limbeck: Limbeck) -> None:
    (tmp_path / "base.yaml").write_text(RECIPE)
    answer = limbeck("run", tmp_path / "base.yaml", "--set", "students.small.method=zero-shot")
    assert answer.status == 2
    assert "students.small.model: tiny-causal-xs is made from scratch, so it knows nothing" in answer.err


def test_a_base_of_some_layers_is_examined_here(base: Path, tmp_path: Path, limbeck: Limbeck) -> None:
    """A server has all of its layers, so it is not asked; nothing listens at this one."""
    given = [
        f"students={{cut: {{method: zero-shot, model: '{base}', layers: 1}}}}",
        "exam.endpoint={base_url: 'http://127.0.0.1:9/v1', retries: 0}",
    ]
    changes = [part for one in given for part in ("--set", one)]
    answer = limbeck("run", tmp_path / "base.yaml", "--out", tmp_path / "run", *changes)
    assert answer.status == 0, answer.err
    facts = json.loads((tmp_path / "run/students/cut/seed0/exam/metrics.json").read_text())
    whole = json.loads((base.parent / "exam" / "metrics.json").read_text())
    assert facts["served"] is None and facts["parameters"] < whole["parameters"]
