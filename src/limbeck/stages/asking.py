"""How a learner or the teacher is asked: the recipe's prompt settings with their demonstrations read."""

from __future__ import annotations

from limbeck.recipe import LearnerSettings
from limbeck.stages.context import Context
from limbeck.stages.problems import problems
from limbeck.tasks.asking import Asking, asking_of


def asking(context: Context, settings: LearnerSettings) -> Asking:
    """How a student or mentor is asked, in training, in exams, and from its saved folder."""
    return asking_of(settings.format, settings.prompt, problems(context), context.recipe.seed)
