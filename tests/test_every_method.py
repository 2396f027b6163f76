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
    "tailored": "{rounds: 1, rationales: 2, train_exam: {file: %s/mistakes.jsonl}, "
    "feedback: {kind: given, file: %s/said.jsonl}}",
}


COMPARED = {"mcc-kd": "span_divergence", "tailored": "triplet"}
"""The loss part by which a method compares rationales."""


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
        rows.append({"id": f"sum{number}", "question": question, "answer": answer, "why": why})
    return rows


def write_mistakes(folder: Path) -> None:
    """One about each training problem, and what a teacher says to it."""
    mistakes, said = [], []
    for number in range(1, 7):
        mistake = f"She has {number} + 2 = {number + 8} apples.\nThe answer is {number + 8}."
        right = f"{number} and 2 more apples are {number + 2} apples.\nThe answer is {number + 2}."
        mistakes.append({"id": f"m{number}", "problem_id": f"sum{number}", "completion": mistake})
        said.append({"mistake_id": f"m{number}", "solution": right})
    for name, rows in (("mistakes", mistakes), ("said", said)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_facts(folder: Path) -> None:
    """A corpus with a passage about each sum."""
    rows = [{"id": str(n), "text": f"She has {n} + 2 = {n + 2} apples."} for n in range(1, 8)]
    (folder / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_trains_it(family: str, tmp_path: Path, limbeck: Limbeck) -> None:
    model, tokenizer = tiny_model(family)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_mistakes(tmp_path)
    write_facts(tmp_path)
    students = "\n".join(
        f"  {name}: {{method: {name}, settings: {SETTINGS.get(name, '{}').replace('%s', str(tmp_path))}}}"
        for name in built_in()
    )
    learners = f"""
knowledge: {{corpus: {tmp_path}/facts.jsonl}}
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
        assert name not in COMPARED or all(one[COMPARED[name]] > 0 for one in history(folder)), (
            "the answers' tokens were found, or mistakes to compare with"
        )


def history(student: Path) -> list[dict[str, Any]]:
    """Of its training, or of the last round's."""
    last = student if (student / "history.jsonl").exists() else student / "round1"
    return [json.loads(line) for line in (last / "history.jsonl").read_text().splitlines()]
