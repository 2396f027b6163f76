"""One training for the students of a run that learn the same, and differ in what their exams show them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck import ranks
from limbeck.files import whole_file, whole_folder
from limbeck.records import write_json
from limbeck.run_folder import Plan, fingerprint, read_json
from limbeck.stages.context import Context, once
from limbeck.stages.learners import Learner
from limbeck.tasks.asking import ABOUT

COPIED = "copied_from"
"""The fact of a copy: the place of the training that made its weights."""


@dataclass(frozen=True, slots=True)
class First:
    """The student whose training came up first, and whether it was asked for by `--again`."""

    learner: Learner
    again: bool


def trained_before(
    context: Context, learner: Learner, plan: Plan, inputs: Mapping[str, str]
) -> Learner | None:
    """The student of this run whose training came up first with the same plan and inputs; None: no other.

    One that is trained itself already, or is to be by `--again`, goes on; both again are one training again.
    """
    again = context.run.is_again(learner.place)
    key = f"learned {fingerprint([plan.json(), dict(inputs), learner.round])}"
    first = once(context, key, lambda: First(learner, again))
    own = (context.run.folder / learner.place / "checkpoints").is_dir()
    alone = ranks.share((own or (again and not first.again)) if ranks.main() else False)
    return None if first.learner is learner or alone else first.learner


def take(first: Learner, run: Path, folder: Path, about: Mapping[str, Any], max_tokens: int) -> None:
    """Copy a finished training, whose facts come last: without them it is copied again after a kill.

    Args:
        first: whose it is.
        run: the run folder.
        folder: the student's own.
        about: what its `limbeck.json` says otherwise.
        max_tokens: of its exam, which may not be those of the first one's training.
    """
    if ranks.main():
        trained = run / first.place
        with whole_folder(folder / "model") as copy:
            for file in sorted(one for one in (trained / "model").rglob("*") if one.is_file()):
                own = copy / file.relative_to(trained / "model")
                own.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, own)
            _say(copy / ABOUT, {"max_tokens": max_tokens, **about})
            _say(copy / "generation_config.json", {"max_new_tokens": max_tokens})
        for name in ("examples.jsonl", "history.jsonl"):
            with (trained / name).open(encoding="utf-8") as theirs, whole_file(folder / name) as ours:
                shutil.copyfileobj(theirs, ours)
        facts = read_json(trained / "training.json") or {}
        write_json(folder / "training.json", {COPIED: first.place, **facts})  # of a copy: where that is from
    ranks.barrier()


def _say(path: Path, values: Mapping[str, Any]) -> None:
    """Change values of a JSON file."""
    write_json(path, {**(read_json(path) or {}), **values})
