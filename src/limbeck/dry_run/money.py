"""What the teacher will cost: the estimate that a run would show, from the prompts that it would send."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any

from limbeck.lm import Completion, Sampling
from limbeck.lm.cost import estimate
from limbeck.lm.remember import Remembered
from limbeck.recipe import ApiTeacherSettings
from limbeck.stages.context import Context
from limbeck.stages.teacher import TeacherModel, plain_prompt


class Nobody:
    """A teacher that is not there to be asked; its memory is."""

    name = "nobody"

    def __call__(self, prompts: Any, sampling: Sampling) -> Iterator[Completion]:
        raise RuntimeError("a dry run asks no teacher")


def estimates(context: Context, todo: Collection[str]) -> list[dict[str, Any]]:
    """By stage what a paid teacher is asked and what it costs, `lm.cost.Estimate` as JSON.

    Questions about mistakes that nobody made yet are not among them.
    """
    teacher = context.recipe.teacher
    if not isinstance(teacher, ApiTeacherSettings) or context.planned is None:
        return []
    memory = context.run.folder / "memory" / "teacher.jsonl"
    remembered = None
    if memory.is_file():
        remembered = Remembered(Nobody(), memory, key=teacher.identity, say=context.run.say)
    found = []
    for place, writing in context.planned.writings.items():
        if place in todo and isinstance(writing.model, TeacherModel):
            asking = writing.model.asking_now
            prompts = [plain_prompt(asking, question) for question in writing.questions]
            one = estimate(prompts, writing.sampling, teacher.prices, remembered, system=teacher.system)
            found.append({"stage": place, **asdict(one), "says": str(one)})
    return found
