"""Tailored learning (EMNLP 2023, arXiv 2310.13332): the story of the paper.

0. A student sits an exam on the training questions: a base that is shown demonstrations, as published, or one
   that was first trained on the teacher's rationales.
1. Its wrong answers, as it wrote them, go to the teacher with the right answer. The teacher says what went
   wrong and writes a rationale for this mistake; those that end in the gold answer are kept.
2. The student learns from all rationales so far, and to tell right ones from its own mistakes:

       L = LM + λ · max(0, cos(a, n) − cos(a, p) + ρ)

   a and p are the last states of two right rationales of a question, n that of a mistake.
3. It sits the exam again. Steps 1 to 3 are a round.

Deviations from the published code are in docs/papers.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from limbeck.errors import RecipeError
from limbeck.methods import Method, Uses
from limbeck.recipe import Recipe, Settings
from limbeck.stages import (
    Context,
    FeedbackSettings,
    Learner,
    Mistakes,
    Picked,
    Split,
    Tailored,
    Trained,
    TrainExamSettings,
    Untrained,
    accuracy,
    check_feedback,
    cross_entropy,
    examine,
    feedback,
    has_feedback,
    has_triplets,
    mistakes,
    rationale_data,
    rationales,
    reflection_data,
    train,
)
from limbeck.stages.pairs import is_from_scratch

if TYPE_CHECKING:
    from limbeck.training.parts import Parts


class TailoredSettings(Settings):
    """The settings of tailored learning."""

    rounds: int = Field(3, ge=0, le=100, description="of mistakes, feedback and training")
    begin: Literal["base", "rationales"] = Field(
        "base",
        description="who sits round 0's exam: the base as it comes, or trained on the teacher's rationales",
    )
    rationales: int = Field(
        1, ge=0, description="the teacher's plain rationales per problem, learned from in every round"
    )
    train_exam: TrainExamSettings = TrainExamSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    reflection_weight: float = Field(
        0.5, ge=0, allow_inf_nan=False, description="λ; 0: without self-reflection"
    )
    margin: float = Field(1.0, ge=0, allow_inf_nan=False, description="ρ of the triplets")
    pooling: Literal["last", "mean"] = Field(
        "last", description="a rationale's state: of its last token, or the mean over its tokens"
    )
    positives: int = Field(10, ge=1, description="other right rationales that one is compared with, at most")
    negatives: int = Field(4, ge=1, description="mistakes per question that it is compared with, at most")
    stop: Literal["never", "dev"] = Field(
        "never", description="dev: end before a round that does not raise the accuracy on dev"
    )

    def plan(self) -> Self:
        """The settings that decide what a round's training makes; all others decide its data."""
        theirs = ("rationales", "reflection_weight", "margin", "pooling", "positives", "negatives")
        fields = type(self).model_fields
        usual = {name: one.get_default(call_default_factory=True) for name, one in fields.items()}
        return self.model_copy(update={name: value for name, value in usual.items() if name not in theirs})


def tailored(context: Context, student: Learner, settings: TailoredSettings) -> None:
    """Round 0 -> (exam -> mistakes -> feedback -> train) per round -> exam."""
    model, said = begin(context, student, settings), list[Tailored]()
    for number in range(settings.rounds):
        examine(context, model)
        place = replace(student, round=number).place
        wrong = mistakes(context, model, place, settings.train_exam, round=number)
        if context.run.ends_at("mistakes") and not has_feedback(settings.feedback, number):
            return
        said.append(feedback(context, place, wrong, settings.feedback, round=number))
        better = learn(context, student, model, settings, said, wrong)
        if settings.stop == "dev" and accuracy(context, better, "dev") <= accuracy(context, model, "dev"):
            context.run.say(f"{student.shown}: round {number + 1} is no better on dev; round {number} counts")
            break
        model = better
    examine(context, replace(model, learner=student), place=f"{student.place}/exam")


def begin(context: Context, student: Learner, settings: TailoredSettings) -> Trained | Untrained:
    """Who sits the exam of round 0."""
    first = replace(student, round=0)
    if settings.begin == "base":
        return Untrained(first)
    first = replace(first, own={"method": student.method, "rationales": settings.rationales})
    return train(context, first, rationale_data(context, first, partial(plain, context, settings)))


def plain(context: Context, settings: TailoredSettings, split: Split) -> Picked:
    """The teacher's rationales that no mistake led to."""
    if not settings.rationales:
        return Picked((), {})
    return rationales(context, split).chosen(settings.rationales)


def learn(
    context: Context,
    student: Learner,
    model: Trained | Untrained,
    settings: TailoredSettings,
    said: Sequence[Tailored],
    wrong: Mistakes,
) -> Trained:
    """The next round's model, from the last one's and all rationales so far."""
    learner = replace(student, round=len(said))
    data = reflection_data(
        context,
        learner,
        plain(context, settings, "train"),
        said,
        wrong,
        positives=settings.positives if settings.reflection_weight else 0,
        negatives=settings.negatives,
    )

    def parts() -> Parts:
        from limbeck.training.parts import Triplet

        triplet = Triplet(settings.reflection_weight, settings.margin, pooling=settings.pooling)
        return *cross_entropy(), *((triplet,) if has_triplets(data.train) else ())

    return train(context, learner, data, parts, start=model if isinstance(model, Trained) else None)


def check(recipe: Recipe, settings: TailoredSettings, place: str) -> None:
    """Refuse what would fail after round 0.

    Raises:
        RecipeError: naming the setting.
    """
    check_feedback(recipe, settings.feedback, f"{place}.settings.feedback")
    model = recipe.students[place.rpartition("students.")[2]].model
    if settings.begin == "rationales" and not settings.rationales:
        raise RecipeError(f"{place}.settings.rationales: 0, and begin: rationales learns from them; raise it")
    if settings.begin == "base" and settings.train_exam.file is None and is_from_scratch(model):
        raise RecipeError(
            f"{place}.settings.begin: base, and {model} is made from scratch, so it answers nothing; begin "
            "with rationales, or name a real model"
        )
    if settings.stop == "dev" and not recipe.task.dev:
        raise RecipeError(f"{place}.settings.stop: dev needs dev problems; raise task.dev")


METHOD = Method(
    "in rounds: the student's mistakes get a teacher's feedback; cross-entropy + triplets of right and wrong",
    "tailored learning, arXiv 2310.13332",
    TailoredSettings,
    tailored,
    uses=lambda settings: Uses(pauses=("mistakes",)),
    check=check,
    plan=TailoredSettings.plan,
)
