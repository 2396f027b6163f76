"""The stage of the problems: generated, or read from the user's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from limbeck.files import existing_parent
from limbeck.lm import Completion
from limbeck.recipe import Recipe
from limbeck.records import Also, LeftOut, Problem, Record, Records, read_jsonl, write_jsonl
from limbeck.run_folder import Plan, Stage, plan
from limbeck.stages.context import Context, once
from limbeck.tasks.settings import FilesTask, Leaks
from limbeck.tasks.sources import load_splits, source_fingerprint

VERSION = 5
"""Raised by hand when this code makes other problems from the same recipe."""

Split = Literal["train", "dev"]
"""What rationales are about; no rationales are written about the test split."""

SUFFIX: dict[Split, str] = {"train": "", "dev": "-dev"}
"""Of the folders of stages that exist per split."""


@dataclass(frozen=True)
class Problems:
    """The splits; `given` are rationales that the data held, as completions.

    `also` are rows that ask what a problem asks: files of rationales may name them.
    """

    stage: Stage
    train: Sequence[Problem]
    dev: Sequence[Problem]
    test: Sequence[Problem]
    given: list[Completion]
    also: list[Also]

    def of(self, split: Split) -> Sequence[Problem]:
        """The problems that rationales of a split are about."""
        return self.train if split == "train" else self.dev

    @property
    def inputs(self) -> dict[str, str]:
        """As an input of later stages."""
        return {"problems": self.stage.fingerprint}


class GivenText(Record):
    """A rationale that the user's data held."""

    problem_id: str
    index: int
    text: str


LEFT_OUT, ALSO = "left-out.jsonl", "also.jsonl"


def write_left_out(folder: Path, left_out: Sequence[LeftOut]) -> None:
    """Write what was left out into a stage's folder; no file where that is nothing."""
    if left_out:
        write_jsonl(folder / LEFT_OUT, left_out)


def leak_policy(recipe: Recipe) -> Leaks:
    """What a recipe says of questions that are trained on and examined."""
    return recipe.task.leaks if isinstance(recipe.task, FilesTask) else "refuse"


def problems(context: Context) -> Problems:
    """Generate or read the problems of all splits; wrong data are refused before anything changes."""
    return once(context, "problems", lambda: _problems(context))


def is_made(context: Context) -> bool:
    """Whether `problems` would find its work done."""
    return context.run.is_done("problems", *_decided(context.recipe))


def _decided(recipe: Recipe) -> tuple[Plan, dict[str, str]]:
    """The plan and the inputs of the stage."""
    settings = plan({"task": recipe.task}, version=VERSION, seed=recipe.seed)
    return settings, source_fingerprint(recipe.task)


def _problems(context: Context) -> Problems:
    recipe = context.recipe
    settings, inputs = _decided(recipe)
    looks = context.planned is not None  # a dry run writes nothing there
    disk = None if looks else existing_parent(context.run.folder)
    splits = None if is_made(context) else load_splits(recipe.task, recipe.seed, folder=disk)

    def work(folder: Path) -> None:
        made = splits or load_splits(recipe.task, recipe.seed, folder=folder)
        for note in made.notes:
            context.run.say(note)
        if made.left_out:
            context.run.say(f"what was left out, and why: {context.run.folder / 'problems' / LEFT_OUT}")
        given = [GivenText(problem_id=i, index=n, text=t) for i, n, t in made.given]
        write_jsonl(folder / "given.jsonl", given)
        write_left_out(folder, made.left_out)
        if made.also:
            write_jsonl(folder / ALSO, made.also)
        for split in ("train", "dev", "test"):
            write_jsonl(folder / f"{split}.jsonl", getattr(made, split))

    stage = context.run.stage("problems", settings, inputs, work)
    train, dev, test = (
        Records(stage.folder / f"{split}.jsonl", Problem) for split in ("train", "dev", "test")
    )
    texts = read_jsonl(stage.folder / "given.jsonl", GivenText)
    given = [Completion(text.problem_id, text.index, text.text) for text in texts]
    also = list(read_jsonl(stage.folder / ALSO, Also)) if (stage.folder / ALSO).exists() else []
    return Problems(stage, train, dev, test, given, also)
