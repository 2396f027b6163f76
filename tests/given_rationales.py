"""A task of one's own with several rationales for each problem, and a recipe that reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def given_recipe(
    folder: Path, train: Sequence[Row], test: Sequence[Row], more: str, *, task: str = ""
) -> Path:
    """Write both splits and the recipe.

    Args:
        train: rows whose column `why` lists the rationales; where they have an `id`, it is theirs.
        more: who learns, and other sections of the recipe.
        task: further lines of the task.
    """
    for name, rows in (("train", train), ("test", test)):
        (folder / f"{name}.json").write_text(json.dumps(rows))
    path = folder / "r.yaml"
    path.write_text(f"""
name: given
task:
  kind: number
  train: {folder}/train.json
  test: {folder}/test.json
  dev: 0
  columns: {{{"id: id, " if "id" in train[0] else ""}rationale: why, several_rationales: true}}
{task}
teacher: {{kind: given}}
{more}
""")
    return path
