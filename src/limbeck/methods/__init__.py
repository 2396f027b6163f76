"""The published ways of distilling, by name. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from limbeck.errors import RecipeError
from limbeck.methods import finetune, mentor_kd
from limbeck.recipe import Recipe, StudentSettings, complaint
from limbeck.stages.learners import check_learners
from limbeck.stages.rationales import Context
from limbeck.stages.soft_labels import check_pairs

Distil = Callable[[Context, str, StudentSettings, int], None]
"""distil(context, student's name, its settings, seed): every stage from problems to exam."""

Check = Callable[[Recipe, StudentSettings, str], None]
"""check(recipe, student's settings, its place in the recipe): refuses what cannot go together."""


def _nothing_more(recipe: Recipe, student: StudentSettings, place: str) -> None:
    """The settings alone are all there is to check."""


@dataclass(frozen=True, slots=True)
class Method:
    """What `limbeck methods` lists: where it was published, its settings, and the story itself."""

    summary: str
    paper: str
    settings: type[BaseModel]
    distil: Distil
    check: Check = _nothing_more


METHODS: dict[str, Method] = {
    "answers-only": Method(
        "fine-tune on question -> gold answer; the baseline without any reasoning",
        "the `fine-tuning` baseline of arXiv 2212.10071",
        finetune.AnswersOnlySettings,
        finetune.answers_only,
    ),
    "finetune-cot": Method(
        "fine-tune on question -> teacher rationale and answer; several rationales per problem if wanted",
        "Fine-tune-CoT, arXiv 2212.10071",
        finetune.FinetuneCotSettings,
        finetune.finetune_cot,
    ),
    "mentor-kd": Method(
        "a fine-tuned mentor writes more rationales and gives soft labels; cross-entropy + KL",
        "Mentor-KD, arXiv 2410.09037",
        mentor_kd.MentorKdSettings,
        mentor_kd.mentor_kd,
        mentor_kd.check,
    ),
}


def resolve_methods(recipe: Recipe, place: str) -> Recipe:
    """The recipe with every method's settings at their values; wrong ones are refused before any work begins.

    Raises:
        RecipeError: naming the student and the setting.
    """
    resolved = {}
    for name, student in recipe.students.items():
        if student.method not in METHODS:
            known = ", ".join(METHODS)
            raise RecipeError(
                f"{place}: students.{name}.method: no method {student.method!r}; choose one of {known}"
            )
        model = METHODS[student.method].settings
        try:
            settings = model.model_validate(student.settings)
        except ValidationError as error:
            raise RecipeError(f"{place}: students.{name}.settings.{complaint(error, model)}") from None
        METHODS[student.method].check(recipe, student, f"{place}: students.{name}")
        resolved[name] = student.model_copy(update={"settings": settings.model_dump(mode="json")})
    return recipe.model_copy(update={"students": resolved})


def check_context(context: Context) -> None:
    """Refuse, before a teacher is paid, what would fail when a student's or mentor's turn comes.

    Raises:
        RecipeError, ModelError: naming the learner and the setting.
    """
    check_learners(context)
    check_pairs(context.recipe)
    named = {student.settings.get("mentor") for student in context.recipe.students.values()}
    for idle in sorted(context.recipe.mentors.keys() - named):
        context.run.say(f"mentors.{idle}: no student learns from it, so it is not trained")


def distil(context: Context) -> None:
    """Train and examine every student of the recipe, one per seed, in the recipe's order."""
    for name, student in context.recipe.students.items():
        for seed in student.seeds:
            METHODS[student.method].distil(context, name, student, seed)
