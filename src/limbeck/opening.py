"""What the commands share: opening a run, finding the task that is meant, showing progress.

Every import that costs time happens inside the function that needs it, as in `cli`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import InputError

if TYPE_CHECKING:
    from limbeck.progress import Track
    from limbeck.recipe import Recipe
    from limbeck.records import Problem
    from limbeck.stages.rationales import Context
    from limbeck.tasks.settings import TaskSettings


@contextmanager
def open_context(
    path: Path, overrides: list[str] | None, out: Path | None, yes: bool, max_cost: float | None
) -> Iterator[Context]:
    """Read the recipe, open its run folder, and set up the teacher and the progress."""
    from limbeck.methods import check_context, resolve_methods
    from limbeck.progress import tracker
    from limbeck.recipe import load_recipe
    from limbeck.run import open_run
    from limbeck.stages.rationales import Context, problems
    from limbeck.stages.teacher import make_teacher
    from limbeck.tasks.settings import task_kind

    recipe = resolve_methods(load_recipe(path, overrides or ()), str(path))
    folder = out or Path("runs") / recipe.name
    facts = {
        "recipe": recipe.name,
        "task": recipe.task.name,
        "kind": task_kind(recipe.task),
        "seed": recipe.seed,
    }

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    with open_run(folder, recipe.name, say) as opened:
        teacher = make_teacher(recipe, opened, agreed=yes, max_cost=max_cost)
        context = Context(opened, recipe, teacher, tracker(opened.say))
        problems(context)
        check_context(context)
        opened.describe(
            recipe.to_yaml(), facts
        )  # only now: a refused recipe leaves the folder's own in place
        yield context


def about_task(name: str, overrides: list[str] | None) -> Recipe:
    """The recipe of that file; or of a built-in task's name, one with everything at its default."""
    from limbeck.recipe import check_recipe, load_recipe
    from limbeck.tasks.generated import built_in_task

    if name.endswith((".yaml", ".yml")):
        return load_recipe(Path(name), overrides or ())
    if overrides:
        raise InputError("--set: changes the settings of a recipe; name a recipe file with --task")
    task = {"name": built_in_task(name).name}
    return check_recipe({"name": "built-in", "task": task, "student": {"method": "answers-only"}}, "--task")


def problems_of(settings: TaskSettings, seed: int, split: str) -> list[Problem]:
    from limbeck.tasks.sources import load_splits

    problems: list[Problem] = getattr(load_splits(settings, seed), split)
    if not problems:
        raise InputError(f"--split {split}: this task has no problems there; choose another split")
    return problems


def model_folder(model: str) -> str:
    """A student's folder stands for the model inside it."""
    inner = Path(model) / "model"
    return (
        str(inner)
        if (inner / "config.json").is_file() or (inner / "adapter_config.json").is_file()
        else model
    )


def live_track() -> Track:
    from limbeck.progress import tracker

    return tracker(lambda line: print(line, file=sys.stderr))
