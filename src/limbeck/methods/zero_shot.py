"""Zero-shot: the base model as it comes sits the exam; the row that says what training is worth.

With `prompt.examples` it is shown demonstrations, so it is few-shot prompting then.
"""

from __future__ import annotations

from limbeck.methods import Method, Uses
from limbeck.recipe import Recipe, Settings
from limbeck.stages import Context, Learner, Untrained, examine
from limbeck.stages.pairs import refuse_from_scratch


class ZeroShotSettings(Settings):
    """Zero-shot has no settings of its own; those of training do nothing."""


def zero_shot(context: Context, student: Learner, settings: ZeroShotSettings) -> None:
    """The base -> exam."""
    examine(context, Untrained(student))


def check(recipe: Recipe, settings: ZeroShotSettings, place: str) -> None:
    """Refuse a model that knows nothing before it is trained.

    Raises:
        RecipeError: naming the student.
    """
    refuse_from_scratch(recipe, place, "name a real model")


METHOD = Method(
    "no training: the base as it comes, or with demonstrations in its prompt",
    "zero-shot and few-shot prompting",
    ZeroShotSettings,
    zero_shot,
    uses=lambda settings: Uses(trains=False),
    check=check,
)
