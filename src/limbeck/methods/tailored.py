"""Tailored learning (EMNLP 2023, arXiv 2310.13332): the story of the paper.

0. A student sits an exam on the training questions: a base, or one trained on plain rationales first.
1. Its wrong answers, as it wrote them, go to the teacher with the right answer. The teacher says what went
   wrong and writes a rationale for this mistake; those that end in the gold answer are kept.
2. The student learns from all rationales so far, and to tell right ones (last states a, p) from mistakes (n):
       L = LM + λ · max(0, cos(a, n) − cos(a, p) + ρ)
3. It sits the exam again. Steps 1 to 3 are a round. Deviations from the published code: docs/papers.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from pydantic import Field

from limbeck.errors import RecipeError
from limbeck.methods import Method, Uses
from limbeck.recipe import Recipe, Settings
from limbeck.stages import (
    Context,
    FeedbackSettings,
    Learner,
    Model,
    Picked,
    ReflectionSettings,
    Split,
    Tailored,
    Trained,
    TrainExamSettings,
    Untrained,
    accuracy,
    check_feedback,
    check_gold,
    examine,
    feedback,
    file_inputs,
    files_of,
    mistakes,
    rationale_data,
    rationales,
    reflection,
    reflection_data,
    train,
    waits_for_feedback,
)
from limbeck.stages.pairs import refuse_from_scratch


class TailoredSettings(Settings):
    """The settings of tailored learning."""

    rounds: int = Field(3, ge=0, le=100, description="of mistakes, feedback and training")
    begin: Literal["base", "rationales"] = Field(
        "base", description="who sits round 0's exam: the base as it comes, or trained on plain rationales"
    )
    rationales: int = Field(1, ge=0, description="the teacher's plain rationales per problem, in every round")
    adds: int | None = Field(None, ge=1, description="new rationales of a round's feedback, at most")
    train_exam: TrainExamSettings = TrainExamSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    reflection: ReflectionSettings = ReflectionSettings()
    stop: Literal["never", "dev"] = Field("never", description="dev: end when a round is no better there")


def shared(context: Context, several: Sequence[TailoredSettings]) -> None:
    """Before anybody is trained: the answers to what the students will be asked are known."""
    asked = any(one.rounds > (1 if one.train_exam.file else 0) for one in several)  # a file is round 0's exam
    check_gold(context, train=asked, dev=any(one.stop == "dev" for one in several))


def tailored(context: Context, student: Learner, settings: TailoredSettings) -> None:
    """Round 0 -> (exam -> mistakes -> feedback -> train) per round -> exam."""
    shared(context, [settings])
    model, said = begin(context, student, settings), list[Tailored]()
    for number in range(settings.rounds):
        examine(context, model)
        place = replace(student, round=number).place
        wrong = mistakes(context, model, place, settings.train_exam, round=number)
        if waits_for_feedback(context, wrong, settings.feedback, number):
            return
        if not wrong.all:
            break
        said.append(feedback(context, place, wrong, settings.feedback, round=number, before=said))
        better = learn(context, student, model, said, settings)
        if settings.stop == "dev" and accuracy(context, better, "dev") <= accuracy(context, model, "dev"):
            context.run.say(f"{student.shown}: round {number + 1} is no better on dev; round {number} counts")
            break
        model = better
    itself = replace(student, after_round=model.learner.round)
    examine(context, replace(model, learner=itself), place=f"{student.place}/exam")


def begin(context: Context, student: Learner, settings: TailoredSettings) -> Trained | Untrained:
    """Who sits the exam of round 0."""
    if settings.begin == "base":
        return Untrained(replace(student, round=0))
    own = {"method": student.method, "rationales": settings.rationales}
    first, pick = replace(student, round=0, own=own), partial(plain, context, settings)
    return train(context, first, replace(rationale_data(context, first, pick), learned=own))


def plain(context: Context, settings: TailoredSettings, split: Split) -> Picked:
    """The teacher's rationales that no mistake led to."""
    return rationales(context, split).chosen(settings.rationales) if settings.rationales else Picked((), {})


def learn(
    context: Context, student: Learner, model: Model, said: Sequence[Tailored], settings: TailoredSettings
) -> Trained:
    """The next round's model, from the last one's, all rationales so far and the last mistakes."""
    learner, first = replace(student, round=len(said)), plain(context, settings, "train")
    data = reflection_data(context, learner, first, said, settings.reflection, adds=settings.adds)
    start, parts = model if isinstance(model, Trained) else None, reflection(settings.reflection, data)
    return train(context, learner, data, parts, start=start)


def check(recipe: Recipe, settings: TailoredSettings, place: str) -> None:
    """Refuse what would fail after round 0: a RecipeError or DataError names the setting or the file."""
    check_feedback(recipe, settings.feedback, f"{place}.settings.feedback", rounds=settings.rounds)
    file_inputs(settings.train_exam.file)  # a file of mistakes is there
    if settings.begin == "base":
        refuse_from_scratch(recipe, place, "begin with rationales (settings.begin), or name a real model")
    if settings.begin == "rationales" and not settings.rationales:
        raise RecipeError(f"{place}.settings.rationales: 0, and begin: rationales learns from them; raise it")
    if settings.stop == "dev" and not recipe.task.dev:
        raise RecipeError(f"{place}.settings.stop: dev needs dev problems; raise task.dev")


def uses(own: TailoredSettings) -> Uses:
    """What these settings need."""
    n, asks = own.rounds + (own.begin == "rationales"), own.feedback.kind != "given" and own.rounds > 0
    files = files_of(own.train_exam, own.feedback, own.rounds)
    rows, two = max(own.rationales, 1), 2 if own.rounds and own.reflection.weight else 0
    return Uses(trains=n > 0, models=n, asks=asks, files=files, pauses=("mistakes",), rows=rows, compared=two)


METHOD = Method(
    "in rounds: the student's mistakes get a teacher's feedback; cross-entropy + triplets of right and wrong",
    "tailored learning, arXiv 2310.13332",
    TailoredSettings,
    tailored,
    uses=uses,
    check=check,
    shared=shared,
    plan=lambda own: TailoredSettings(rationales=own.rationales, adds=own.adds, reflection=own.reflection),
)
