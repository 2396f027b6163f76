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

from pydantic import Field

from limbeck.errors import DataError, RecipeError
from limbeck.rationales import select
from limbeck.recipe import Recipe, StudentSettings
from limbeck.records import Example, Rationale
from limbeck.stages import learners, mentors
from limbeck.stages import rationales as stages
from limbeck.stages import soft_labels as distillation
from limbeck.stages.rationales import Context


class MentorKdSettings(distillation.SoftLabelSettings):
    """What Mentor-KD lets one choose."""

    teacher_rationales: int = Field(3, ge=0, description="the teacher's rationales per problem, at most")
    mentor_rationales: int = Field(
        3, ge=0, description="the mentor's rationales per problem, at most; 0: without RD"
    )


def mentor_kd(context: Context, name: str, student: StudentSettings, seed: int) -> None:
    """Rationales -> mentor -> its rationales -> its soft labels -> student -> exam."""
    settings = MentorKdSettings.model_validate(student.settings)
    mentor = mentors.trained(context, settings.mentor)
    mentors.examined(context, settings.mentor)
    inputs = {"problems": stages.problems(context).stage.fingerprint, "mentor": mentor.fingerprint}

    def examples(split: stages.Split) -> list[Example]:
        added: list[Rationale] = []
        teacher = mentors.taught(context, settings.mentor, split)
        inputs[f"rationales of {split}"] = teacher.stage.fingerprint
        wanted = settings.teacher_rationales or (1 if split == "dev" else 0)  # the mentor writes none of dev
        chosen = select(teacher.all, wanted, seed=context.recipe.seed)
        if split == "train" and settings.mentor_rationales:
            more = mentors.rationales(context, settings.mentor)
            inputs["rationales of the mentor"] = more.stage.fingerprint
            new = mentors.beside(context, settings.mentor, chosen)
            added = select(new, settings.mentor_rationales, seed=context.recipe.seed)
            if not added:
                message = (
                    f"mentor {settings.mentor} gives {name} nothing new; set mentor_rationales to 0, or see"
                )
                raise DataError(more.stage.folder / "audit.json", f"{message} what was dropped")
        if not chosen and not added:
            message = f"no rationale of {split} was kept for {name}; audit.json beside each says why"
            raise DataError(teacher.stage.folder, message)
        context.run.say(
            f"{name}: {split} on {len(chosen)} rationales of the teacher and {len(added)} of the mentor"
        )
        return stages.rationale_examples(stages.problems(context), [*chosen, *added], student.format)

    train = examples("train")
    dev = examples("dev") if student.train.choose == "dev-loss" else []
    learner = learners.student_learner(name, student, seed, settings.plan())
    soft = distillation.distillation(context, student, settings)
    trained = learners.fine_tune(context, learner, inputs, train, dev, soft)
    learners.sit_exam(context, learner, trained)


def check(recipe: Recipe, student: StudentSettings, place: str) -> None:
    """Refuse what would fail after hours of training the mentor.

    Raises:
        RecipeError: naming the setting.
    """
    settings = MentorKdSettings.model_validate(student.settings)
    mentor = recipe.mentors.get(settings.mentor)
    if mentor is None:
        known = ", ".join(recipe.mentors)
        fix = f"name one of {known}" if known else "add it under mentors:"
        raise RecipeError(f"{place}.settings.mentor: the recipe has no mentor {settings.mentor!r}; {fix}")
    if not settings.teacher_rationales and not settings.mentor_rationales:
        raise RecipeError(f"{place}.settings: no rationales of teacher or mentor; raise one of the two")
    if settings.mentor_rationales > mentor.writes.per_problem and mentor.file is None:
        raise RecipeError(
            f"{place}.settings.mentor_rationales: {settings.mentor_rationales} of a mentor that writes "
            f"{mentor.writes.per_problem}; raise mentors.{settings.mentor}.writes.per_problem"
        )
