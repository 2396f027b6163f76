"""KARD under two processes: index, silver passages, reranker and students are those of one.

Each holding a half of the student's weights (FSDP2), too; with a mentor that is asked live beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .test_several_processes import run

RECIPE = """
name: reads
task: {name: animals, train: 24, dev: 0, test: 6, parameters: {animals: 20}}
knowledge:
  corpus: built-in
  reranker: {model: tiny-encoder-xs, encoder: {dimensions: 16}, train: {epochs: 2, batch_size: 4}}
teacher: {kind: offline, exam: false}
student:
  method: kard
  model: tiny-causal-xs
  settings: {passages: 2}
  train: {learning_rate: 1.0e-3, batch_size: 8, epochs: 3}
students:
  kard: {}
  ranked: {settings: {find: reranker}}
exam: {max_tokens: 16, batch_size: 2, votes: 2}
"""

SAME = (
    "silver/rationale/silver.jsonl",
    "reranker/pools.jsonl",
    "passages/test/found.jsonl",
    *(f"students/{name}/seed0/examples.jsonl" for name in ("kard", "ranked")),
)


def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    recipe = tmp_path / "reads.yaml"
    recipe.write_text(RECIPE)
    one, two = (tmp_path / name for name in ("one", "two"))
    run(1, "run", recipe, "--out", one)
    (_, printed, _), (_, other, _) = run(2, "run", recipe, "--out", two)
    assert "report: " in printed and other == "", "two ranks of one command, of which the first alone prints"
    for name in SAME:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    for place in ("reranker", "students/kard/seed0", "students/ranked/seed0"):
        ours, theirs = (
            [json.loads(line)["loss"] for line in (folder / place / "history.jsonl").read_text().splitlines()]
            for folder in (one, two)
        )
        assert ours == pytest.approx(theirs, rel=1e-5)
        for file in sorted((one / place / "model").rglob("model.safetensors")):
            weights = load_file(file), load_file(two / file.relative_to(one))
            for key, tensor in weights[0].items():
                torch.testing.assert_close(weights[1][key], tensor, rtol=0, atol=2e-5)
    shared = json.loads((two / "students/ranked/seed0/training.json").read_text())
    assert shared["copied_from"] == "students/kard/seed0"
    again = run(1, "run", recipe, "--out", two)
    assert "started" not in again[0][2], "one process finds done what two have made"


SHARDED = """
name: halves
task: {name: animals, train: 16, dev: 0, test: 4, parameters: {animals: 20}}
knowledge: {corpus: built-in}
teacher: {kind: offline, exam: false}
mentor: {model: tiny-causal-xs, train: {epochs: 1}, exam: false}
student: {model: tiny-causal-xs, train: {learning_rate: 1.0e-3, batch_size: 8, epochs: 2, sharding: fsdp}}
students:
  kard: {method: kard, settings: {passages: 2}}
  live: {method: mentor-kd, settings: {mentor_rationales: 0, soft_labels: live}}
exam: {max_tokens: 12}
"""


def test_sharded_students_that_read_or_ask_a_mentor_at_every_step(tmp_path: Path) -> None:
    recipe = tmp_path / "halves.yaml"
    recipe.write_text(SHARDED)
    one, two = (tmp_path / name for name in ("one", "two"))
    run(1, "run", recipe, "--out", one)
    run(2, "run", recipe, "--out", two)
    for name in ("kard", "live"):
        ours, theirs = (folder / "students" / name / "seed0" for folder in (one, two))
        told = json.loads((theirs / "training.json").read_text())
        held = told["held_parameters"]
        assert len(held) == 2 and sum(held) == told["parameters"] and max(held) < 0.51 * sum(held)
        assert "held_parameters" not in json.loads((ours / "training.json").read_text())
        rows = [
            [json.loads(line) for line in (place / "history.jsonl").read_text().splitlines()]
            for place in (ours, theirs)
        ]
        assert ("divergence" in rows[1][0]) == (name == "live"), rows[1][0]
        for part in ("loss", "divergence") if name == "live" else ("loss",):
            one_s, two_s = ([row[part] for row in side] for side in rows)
            assert len(one_s) == 4 and two_s == pytest.approx(one_s, abs=1e-5), (name, part)
        weights = [load_file(place / "model" / "model.safetensors") for place in (ours, theirs)]
        assert weights[0].keys() == weights[1].keys()
        assert max(float((weights[1][key] - weights[0][key]).abs().max()) for key in weights[0]) < 5e-5, name
        exams = [(place / "exam" / "predictions.jsonl").read_text() for place in (ours, theirs)]
        assert exams[0] == exams[1], name
    assert not list((two / "mentors").rglob("soft-labels")), "they were asked for, not written"
