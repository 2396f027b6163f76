"""KARD under two processes: index, silver passages, reranker and students are those of one."""

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
    run(2, "run", recipe, "--out", two)
    for name in SAME:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    for place, at in (("reranker", 2e-4), ("students/kard/seed0", 1e-5), ("students/ranked/seed0", 1e-5)):
        ours, theirs = (
            [json.loads(line)["loss"] for line in (folder / place / "history.jsonl").read_text().splitlines()]
            for folder in (one, two)
        )
        assert ours == pytest.approx(theirs, rel=1e-3)
        for file in sorted((one / place / "model").rglob("model.safetensors")):
            weights = load_file(file), load_file(two / file.relative_to(one))
            for key, tensor in weights[0].items():
                torch.testing.assert_close(weights[1][key], tensor, rtol=1e-3, atol=at)
    again = run(1, "run", recipe, "--out", two)
    assert "started" not in again[0][2], "one process finds done what two have made"
