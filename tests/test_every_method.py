"""Every method trains two steps on every family that Limbeck promises, and its student is examined."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.methods import built_in

from .given_rationales import given_recipe
from .lm.families import FAMILIES, tiny_model

Limbeck = Callable[..., Any]

SETTINGS = {
    "mentor-kd": "{mentor: whole, teacher_rationales: 2, mentor_rationales: 0}",
    "mcc-kd": "{rationales: 2}",
}


def sums() -> list[dict[str, Any]]:
    """Seven, in the words of the families' tokenizer, each with two rationales."""
    rows = []
    for number in range(1, 8):
        answer = number + 2
        why = [
            f"Ada starts with {number} apples. She buys 2 more, so she has {answer} apples.",
            f"She has {number} + 2 = {answer} apples.",
        ]
        question = f"Ada has {number} apples and buys 2. How many?"
        rows.append({"question": question, "answer": answer, "why": why})
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_trains_it(family: str, tmp_path: Path, limbeck: Limbeck) -> None:
    model, tokenizer = tiny_model(family)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    students = "\n".join(
        f"  {name}: {{method: {name}, settings: {SETTINGS.get(name, '{}')}}}" for name in built_in()
    )
    learners = f"""
mentors: {{whole: {{model: {tmp_path}/model, train: &two {{steps: 2, batch_size: 2, max_length: 120}}}}}}
student: {{model: {tmp_path}/model, train: *two}}
students:
{students}
exam: {{max_tokens: 4}}
"""
    recipe = given_recipe(tmp_path, sums()[:6], sums()[6:], learners)
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 0, answer.err
    for name in built_in():
        folder = out / "students" / name / "seed0"
        metrics = json.loads((folder / "exam" / "metrics.json").read_text())
        assert metrics["steps"] == (0 if name == "zero-shot" else 2)
        if name == "mcc-kd":
            history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
            assert all(one["span_divergence"] > 0 for one in history), "the answers' tokens were found"
