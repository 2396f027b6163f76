"""Mentor-KD (EMNLP 2024, arXiv 2410.09037): the story of the paper.

1. The teacher writes rationales; those that end in the gold answer are kept.
2. A mid-sized mentor is fine-tuned on them (Fine-tune-CoT).
3. The mentor writes more rationales for every training problem, also for those
   the teacher failed; correct ones that are new are kept (rationale
   distillation, RD).
4. The mentor's distribution over every token of both kinds of rationales is
   cached once (soft-label distillation, SLD).
5. The student learns from all of it:

       L = (1 − λ) · CE + λ · KL(mentor ‖ student), both at temperature τ,

   each a mean over the target tokens of the whole optimiser step.

Steps 1 to 4 are stages that all students of a mentor share. The ablations are
settings: `mentor_rationales: 0` is the paper's "w/o RD", `kl_weight: 0` its
"w/o SLD". Deviations from the published code are in docs/papers.md.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from limbeck.errors import DataError, RecipeError
from limbeck.methods import learners, lessons, mentors, stages
from limbeck.methods.stages import Way
from limbeck.rationales import select
from limbeck.recipe import Recipe, Settings, StudentSettings
from limbeck.records import Example, Rationale
from limbeck.training.settings import CodecSettings


class MentorKdSettings(Settings):
    """What Mentor-KD lets one choose; λ, τ and the counts are the published ones."""

    mentor: str = Field("mentor", description="a name from the recipe's `mentors:`")
    teacher_rationales: int = Field(3, ge=0, description="the teacher's rationales per problem")
    mentor_rationales: int = Field(3, ge=0, description="the mentor's rationales per problem; 0: without RD")
    kl_weight: float = Field(0.3, ge=0, le=1, description="λ; 0: without soft labels")
    temperature: float = Field(2.0, gt=0, description="τ of mentor and student in the divergence")
    temperature_squared: bool = Field(False, description="multiply the divergence by τ² (Hinton et al.)")
    soft_labels: Literal["cached", "live"] = Field(
        "cached", description='"live" runs the mentor beside the student at every step'
    )
    codec: CodecSettings = CodecSettings()


def mentor_kd(way: Way, name: str, student: StudentSettings, seed: int) -> None:
    """Rationales -> mentor -> its rationales -> its soft labels -> student -> exam."""
    settings = MentorKdSettings.model_validate(student.settings)
    mentor = mentors.trained(way, settings.mentor)
    mentors.examined(way, settings.mentor)
    inputs = {"problems": stages.problems(way).stage.fingerprint, "mentor": mentor.fingerprint}

    def examples(split: stages.Split) -> list[Example]:
        teacher = mentors.taught(way, settings.mentor, split)
        inputs[f"rationales of {split}"] = teacher.stage.fingerprint
        chosen = _some(way, teacher, settings.teacher_rationales)
        if split == "train" and settings.mentor_rationales:
            more = mentors.rationales(way, settings.mentor)
            inputs["rationales of the mentor"] = more.stage.fingerprint
            chosen += _some(way, more, settings.mentor_rationales)
        if not chosen:
            message = f"no rationale of {split} was kept for {name}; audit.json beside each says why"
            raise DataError(teacher.stage.folder, message)
        return stages.rationale_examples(stages.problems(way), chosen, student.format)

    train = examples("train")
    dev = examples("dev") if student.train.choose == "dev-loss" else []
    lesson = lessons.lesson(way, student, settings, inputs)
    learner = learners.student_learner(name, student, seed)
    trained = learners.fine_tune(way, learner, inputs, train, dev, lesson)
    learners.sit_exam(way, learner, trained)


def _some(way: Way, rationales: stages.Rationales, per_problem: int) -> list[Rationale]:
    return select(rationales.all, per_problem, seed=way.recipe.seed) if per_problem else []


def check(recipe: Recipe, student: StudentSettings, place: str) -> None:
    """Refuse what would fail after hours of training the mentor.

    Raises:
        RecipeError: naming the setting.
    """
    settings = MentorKdSettings.model_validate(student.settings)
    mentor = recipe.mentors.get(settings.mentor)
    if mentor is None:
        known = ", ".join(recipe.mentors) or "none"
        raise RecipeError(
            f"{place}.settings.mentor: the recipe has no mentor {settings.mentor!r} ({known}); "
            "add it under mentors:"
        )
    if not settings.teacher_rationales and not settings.mentor_rationales:
        raise RecipeError(f"{place}.settings: no rationales of teacher or mentor; raise one of the two")
    if settings.mentor_rationales > mentor.writes.per_problem and mentor.file is None:
        raise RecipeError(
            f"{place}.settings.mentor_rationales: {settings.mentor_rationales} of a mentor that writes "
            f"{mentor.writes.per_problem}; raise mentors.{settings.mentor}.writes.per_problem"
        )
    if settings.kl_weight and student.format != mentor.format:
        raise RecipeError(
            f"{place}.format: {student.format}, but mentor {settings.mentor} reads {mentor.format}; "
            "soft labels need one format"
        )
    if settings.kl_weight:
        lessons.check_pair(student, mentor, place)
