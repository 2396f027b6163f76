"""The two base methods every paper compares with (Fine-tune-CoT, arXiv 2212.10071).

Answers only: question -> gold answer.
Fine-tune-CoT: the teacher writes rationales, those that end in the gold answer
are kept, and the student learns question -> rationale and answer. More than one
rationale per problem is the paper's "diverse reasoning".

Both: L = Σ cross-entropy over target tokens / number of target tokens of the
whole optimiser step. Deviations from the published code are in docs/papers.md.
"""

from __future__ import annotations

from pydantic import Field

from limbeck.rationales import Choose
from limbeck.recipe import Settings, StudentSettings
from limbeck.records import Example, Problem
from limbeck.stages import learners
from limbeck.stages import rationales as stages
from limbeck.stages.rationales import Context
from limbeck.tasks.prompts import FORMATS


class AnswersOnlySettings(Settings):
    """Answers only has no settings of its own."""


class FinetuneCotSettings(Settings):
    """What Fine-tune-CoT lets one choose."""

    rationales: int = Field(1, ge=1, description="rationales per problem trained on (diverse reasoning: > 1)")
    choose: Choose = Field(
        "first", description='which ones: "first", "random" or "diverse" (trigram Jaccard)'
    )
    teacher_share: float = Field(
        1.0, gt=0, le=1, description="share of the training problems whose rationales it may see"
    )


def answers_only(context: Context, name: str, student: StudentSettings, seed: int) -> None:
    """Problems -> train on the gold answers -> exam."""
    problems = stages.problems(context)
    form = FORMATS[student.format]

    def examples(some: list[Problem]) -> list[Example]:
        return [
            Example(problem_id=one.id, prompt=form.prompt(one), completion=form.answer_only(one.answer))
            for one in some
        ]

    inputs = {"problems": problems.stage.fingerprint}
    train, dev = examples(problems.train), examples(problems.dev)
    learner = learners.student_learner(name, student, seed, {})
    trained = learners.fine_tune(context, learner, inputs, train, dev)
    learners.sit_exam(context, learner, trained)


def finetune_cot(context: Context, name: str, student: StudentSettings, seed: int) -> None:
    """Problems -> rationales of the teacher -> the correct ones -> train on them -> exam."""
    settings = FinetuneCotSettings.model_validate(student.settings)
    inputs = {"problems": stages.problems(context).stage.fingerprint}

    def examples(split: stages.Split) -> list[Example]:
        return stages.teacher_examples(
            context,
            split,
            inputs,
            per_problem=settings.rationales,
            choose=settings.choose,
            share=settings.teacher_share,
            form=student.format,
        )

    train = examples("train")
    dev = examples("dev") if student.train.choose == "dev-loss" else []
    learner = learners.student_learner(name, student, seed, settings.model_dump(mode="json"))
    trained = learners.fine_tune(context, learner, inputs, train, dev)
    learners.sit_exam(context, learner, trained)
