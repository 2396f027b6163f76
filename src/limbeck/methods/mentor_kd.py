"""Mentor-KD (EMNLP 2024, arXiv 2410.09037): the story of the paper.

1. The teacher writes rationales; those that end in the gold answer are kept.
2. A mid-sized mentor is fine-tuned on them (Fine-tune-CoT).
3. The mentor writes more rationales for every training problem, also for those
   the teacher failed; correct ones that are new are kept (rationale
   distillation, RD).
4. The mentor's distribution over every token of both kinds of rationales is
   cached once (soft-label distillation, SLD).
5. The student learns from all of it:

       L = (1 − λ) · CE + λ · KL(mentor ‖ student),

   mentor and student at the same temperature τ in the KL, each part a mean
   over the target tokens of the whole optimiser step.

Steps 1 to 4 are stages that all students of a mentor share. The ablations are
settings: `mentor_rationales: 0` is the paper's "w/o RD", `kl_weight: 0` its
"w/o SLD". Deviations from the published code are in docs/papers.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from limbeck.errors import NothingKeptError, RecipeError
from limbeck.methods import Method, Uses
from limbeck.recipe import Recipe
from limbeck.records import Rationale
from limbeck.selection import select
from limbeck.sequences import Joined
from limbeck.stages import (
    Context,
    Learner,
    Picked,
    SoftLabelSettings,
    Split,
    cross_entropy,
    examine,
    examine_mentor,
    mentor,
    mentor_rationales,
    new_rationales,
    rationale_data,
    soft_labels,
    taught,
    train,
)

if TYPE_CHECKING:
    from limbeck.training.parts import Parts


class MentorKdSettings(SoftLabelSettings):
    """The settings of Mentor-KD."""

    teacher_rationales: int = Field(3, ge=0, description="the teacher's rationales per problem, at most")
    mentor_rationales: int = Field(
        3, ge=0, description="the mentor's rationales per problem, at most; 0: without RD"
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        strict=True,
        description="share of each target of the cross-entropy spread over the vocabulary",
    )


def mentor_kd(context: Context, student: Learner, settings: MentorKdSettings) -> None:
    """Rationales -> mentor -> its rationales -> its soft labels -> student -> exam."""
    teaching = mentor(context, settings.mentor)
    examine_mentor(context, settings.mentor)
    data = rationale_data(context, student, partial(pick, context, student, settings))
    labels = soft_labels(context, teaching, student, data, settings)

    def parts() -> Parts:
        return *cross_entropy(1 - settings.kl_weight, settings.label_smoothing), *labels.parts()

    examine(context, train(context, student, data, parts, tokenizer=teaching.path))


def pick(context: Context, student: Learner, settings: MentorKdSettings, split: Split) -> Picked:
    """The rationales that the student learns from: the teacher's, and what is new of the mentor's."""
    name, seed = settings.mentor, context.recipe.seed
    teacher = taught(context, name, split)
    wanted = settings.teacher_rationales or (1 if split == "dev" else 0)  # the mentor writes none of dev
    chosen = select(teacher.all, wanted, seed=seed)
    inputs = {"mentor": mentor(context, name).stage.fingerprint, **teacher.inputs}
    added: Sequence[Rationale] = ()
    if split == "train" and settings.mentor_rationales:
        written = mentor_rationales(context, name)
        inputs |= written.inputs
        added = select(new_rationales(context, name, chosen), settings.mentor_rationales, seed=seed)
        if not added:
            context.run.say(
                f"{student.name}: mentor {name} wrote nothing new; it learns from the teacher's rationales "
                f"alone; {written.stage.folder / 'audit.json'} says what was dropped"
            )
    if not chosen and not added:
        message = f"no rationale of {split} was kept for {student.name}"
        raise NothingKeptError(f"{message}; {teacher.stage.folder / 'audit.json'} says why")
    context.run.say(
        f"{student.name}: {split} on {len(chosen)} rationales of the teacher and {len(added)} of the mentor"
    )
    return Picked(Joined(chosen, added), inputs)


def uses(settings: MentorKdSettings) -> Uses:
    """The mentor, and its distributions unless their weight is 0."""
    rows = settings.teacher_rationales + settings.mentor_rationales
    return Uses(mentor=settings.mentor, soft_labels=settings.kl_weight > 0, rows=rows)


def check(recipe: Recipe, settings: MentorKdSettings, place: str) -> None:
    """Refuse what would fail after hours of training the mentor.

    Raises:
        RecipeError: naming the setting.
    """
    if not settings.teacher_rationales and not settings.mentor_rationales:
        raise RecipeError(f"{place}.settings: no rationales of teacher or mentor; raise one of the two")
    writing = recipe.mentors[settings.mentor]
    if settings.mentor_rationales > writing.writes.per_problem and writing.file is None:
        raise RecipeError(
            f"{place}.settings.mentor_rationales: {settings.mentor_rationales} of a mentor that writes "
            f"{writing.writes.per_problem}; raise mentors.{settings.mentor}.writes.per_problem"
        )


METHOD = Method(
    "a fine-tuned mentor writes more rationales and gives soft labels; cross-entropy + KL",
    "Mentor-KD, arXiv 2410.09037",
    MentorKdSettings,
    mentor_kd,
    uses=uses,
    check=check,
    plan=MentorKdSettings.plan,
)
