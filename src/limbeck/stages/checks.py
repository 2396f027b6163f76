"""What is refused before the first stage, so that no time or money is spent on what must fail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from limbeck.errors import ModelError, RecipeError
from limbeck.recipe import LearnerSettings
from limbeck.stages.asking import asking_learner, asking_teacher
from limbeck.stages.context import Context
from limbeck.stages.pairs import check_chat, check_pair
from limbeck.stages.problems import problems
from limbeck.stages.rationales import check_file


def check(context: Context, pairs: Mapping[str, str]) -> None:
    """Refuse what would fail once a learner is trained.

    Args:
        pairs: student -> the mentor whose soft labels it learns from.

    Raises:
        RecipeError, ModelError, DataError: naming the learner and the setting.
    """
    recipe = context.recipe
    if not recipe.students and not recipe.mentors:
        raise RecipeError(
            "students: the recipe trains nobody; add `student: {method: finetune-cot}`, or a mentor"
        )
    learners: dict[str, LearnerSettings] = {f"mentors.{name}": one for name, one in recipe.mentors.items()}
    learners |= {f"students.{name}": one for name, one in recipe.students.items()}
    for place, learner in learners.items():
        _check_learner(context, place, learner)
    if recipe.teacher.kind != "given":
        asking_teacher(context)  # reads its demonstrations
    files = [one.file for one in recipe.mentors.values()]
    files += [recipe.teacher.file] if recipe.teacher.kind == "given" else []
    for file in files:
        check_file(context, file)
    for student, mentor in pairs.items():
        check_pair(recipe.students[student], recipe.mentors[mentor], f"students.{student}")


def _check_learner(context: Context, place: str, learner: LearnerSettings) -> None:
    if learner.train.choose != "last" and not problems(context).dev:
        raise RecipeError(f"{place}.train.choose: {learner.train.choose} needs dev problems; raise task.dev")
    if learner.device == "cuda":
        check_cuda(place)
    if learner.dtype == "bfloat16" and learner.lora is None:
        raise RecipeError(
            f"{place}.dtype: updates of all weights get lost in bfloat16; "
            "set dtype float32 with train.precision bf16, or use lora"
        )
    check_model(place, learner.model)
    examples = learner.prompt.examples
    if examples is not None and examples.file is not None:
        asking_learner(context, learner, place)
    if learner.format == "chat":
        check_chat(learner, place)


def check_model(place: str, name: str) -> None:
    """Refuse a model that does not exist: no such tiny size, no such folder, a folder without a model."""
    model = Path(name).expanduser()
    if name.startswith("tiny-") and not model.exists():
        if not re.fullmatch(r"tiny-(causal|seq2seq)(-(xs|s|m|l))?", name):
            raise ModelError(f"{place}.model: no tiny model {name!r}; add -xs, -s, -m or -l, or nothing")
        return
    looks_local = model.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not model.is_dir():
        raise ModelError(f"{place}.model: {name}: no such folder; check the path")
    files = ("config.json", "adapter_config.json")
    if model.is_dir() and not any((model / file).is_file() for file in files):
        raise ModelError(f"{place}.model: {name or '(empty)'} is a folder without config.json; name a model")


def check_cuda(place: str) -> None:
    """Refuse a GPU that this machine does not have."""
    import torch

    if not torch.cuda.is_available():
        raise RecipeError(f"{place}.device: cuda is not there; write auto or cpu")
