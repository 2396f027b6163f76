"""What is refused once the problems are known, and before anything else is made of them."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.errors import RecipeError
from limbeck.records import Problem
from limbeck.stages.asking import asking_learner, asking_teacher
from limbeck.stages.context import Context
from limbeck.stages.knowledge import knowledge_fingerprints
from limbeck.stages.problems import problems
from limbeck.stages.rationales import check_file


def _without_gold(some: Sequence[Problem]) -> str | None:
    """The first problem without a gold answer."""
    return next((f"problem {problem.id}" for problem in some if problem.answer is None), None)


def check(context: Context) -> None:
    """Refuse what would fail once a learner is trained; `preflight` looks at what needs no problems.

    Raises:
        RecipeError, DataError: naming the learner and the setting.
    """
    recipe = context.recipe
    for place, learner in recipe.learners.items():
        if learner.train.choose != "last" and not problems(context).dev:
            raise RecipeError(
                f"{place}.train.choose: {learner.train.choose} needs dev problems; raise task.dev"
            )
        if learner.train.choose == "dev-accuracy" and (unknown := _without_gold(problems(context).dev)):
            raise RecipeError(
                f"{place}.train.choose: dev-accuracy needs gold answers, and {unknown} of dev has none; "
                "take dev-loss or last, or name a file of dev problems with answers under task.dev"
            )
        examples = learner.prompt.examples
        if examples is not None and examples.file is not None:
            asking_learner(context, learner, place)
    if recipe.teacher.kind != "given":
        asking_teacher(context)  # reads its demonstrations
    knowledge_fingerprints(recipe)  # is it there?
    files = [one.file for one in recipe.mentors.values()]
    files += [recipe.teacher.file] if recipe.teacher.kind == "given" else []
    for file in files:
        check_file(context, file)
