"""One training for the students of a run that learn the same, and differ in what their exams show them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck import ranks
from limbeck.files import whole_file, whole_folder
from limbeck.run_folder import Plan, fingerprint
from limbeck.stages.context import Context, once
from limbeck.stages.learners import Learner
from limbeck.tasks.asking import ABOUT


def trained_before(
    context: Context, learner: Learner, plan: Plan, inputs: Mapping[str, str]
) -> Learner | None:
    """The student of this run whose training came up first with the same plan and inputs; None: no other.

    One that is asked for by `--again` is trained itself.
    """
    first = once(context, f"learned {fingerprint([plan.json(), dict(inputs)])}", lambda: learner)
    return None if first is learner or context.run.is_again(learner.place) else first


def take(trained: Path, folder: Path, about: Mapping[str, Any]) -> None:
    """Copy a finished training, whose facts come last: without them it is copied again after a kill.

    Args:
        trained: the other's folder.
        folder: the student's own.
        about: what its `limbeck.json` says otherwise.
    """
    if ranks.main():
        with whole_folder(folder / "model") as copy:
            shutil.copytree(trained / "model", copy, dirs_exist_ok=True)
            said = {**json.loads((copy / ABOUT).read_text("utf-8")), **about}
            (copy / ABOUT).write_text(f"{json.dumps(said, indent=1, ensure_ascii=False)}\n", "utf-8")
        for name in ("examples.jsonl", "history.jsonl", "training.json"):
            with (trained / name).open(encoding="utf-8") as theirs, whole_file(folder / name) as own:
                shutil.copyfileobj(theirs, own)
    ranks.barrier()
