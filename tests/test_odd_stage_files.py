"""A `stage.json` that somebody or something changed: the stage runs again, and nothing is "unexpected"."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Limbeck = Callable[..., Any]
RECIPE = "name: x\ntask: {name: coin-flip, train: 5, dev: 1, test: 2}\nstudent: {method: answers-only}\n"

ODD: list[Any] = [
    [],
    5,
    None,
    {"state": "done"},
    {"state": 5, "fingerprint": 3, "id": 7},
    {"state": "done", "fingerprint": None, "id": "x"},
    {"state": "done", "fingerprint": "x", "id": []},
    {"plan": None},
    {"plan": {}},
    {"plan": {"settings": 5}},
    {"plan": {"settings": {"a": 1}, "version": None}},
    {"inputs": 3},
    {"inputs": None},
    {"files": 5},
    {"files": ["train.jsonl"]},
    {"files": {"../x": 3, "train.jsonl": "many"}},
    {"again": "x"},
    {"again": 10**400},
    {"limbeck": 3},
]


@pytest.mark.parametrize("damage", ODD, ids=lambda one: json.dumps(one)[:40])
@pytest.mark.parametrize("other", [False, True], ids=["same settings", "other settings"])
def test_an_odd_stage_file_is_one_line_and_the_stage_runs_again(
    limbeck: Limbeck, tmp_path: Path, damage: Any, other: bool
) -> None:
    recipe, out = tmp_path / "r.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    assert limbeck("collect", recipe, "--out", out).status == 0
    file = out / "problems" / "stage.json"
    known = json.loads(file.read_text())
    partial = isinstance(damage, dict) and not {"state", "fingerprint"} & damage.keys()
    file.write_text(json.dumps({**known, **damage} if partial else damage))
    more = ["--set", "task.train=6"] if other else []
    answer = limbeck("collect", recipe, "--out", out, *more)
    assert answer.status == 0, answer.err
    assert "unexpected" not in answer.err
    lines = (out / "problems" / "train.jsonl").read_text().splitlines()
    assert len(lines) == (6 if other else 5)
    assert json.loads(file.read_text())["state"] == "done"
