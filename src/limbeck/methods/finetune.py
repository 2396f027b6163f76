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

from limbeck.errors import DataError
from limbeck.methods import stages, students
from limbeck.methods.stages import Way
from limbeck.rationales import Choose, select
from limbeck.recipe import Settings, StudentSettings
from limbeck.records import Example
from limbeck.tasks.prompts import FORMATS


class AnswersOnlySettings(Settings):
    """Answers only has no settings of its own."""


class FinetuneCotSettings(Settings):
    """What Fine-tune-CoT lets one choose."""

    rationales: int = Field(1, ge=1, description="rationales per problem trained on (diverse reasoning: > 1)")
    choose: Choose = Field(
        "first", description='which ones: "first", "random" or "diverse" (trigram Jaccard)'
    )


def answers_only(way: Way, name: str, student: StudentSettings, seed: int) -> None:
    """Problems -> train on the gold answers -> exam."""
    problems = stages.problems(way)
    form = FORMATS[student.format]
    examples = [
        Example(
            problem_id=problem.id, prompt=form.prompt(problem), completion=form.answer_only(problem.answer)
        )
        for problem in problems.train
    ]
    dev_examples = [
        Example(
            problem_id=problem.id, prompt=form.prompt(problem), completion=form.answer_only(problem.answer)
        )
        for problem in problems.dev
    ]
    inputs = {"problems": problems.stage.fingerprint}
    trained = students.fine_tune(way, name, student, seed, inputs, examples, dev_examples)
    students.examine_student(way, name, student, trained)


def finetune_cot(way: Way, name: str, student: StudentSettings, seed: int) -> None:
    """Problems -> rationales of the teacher -> the correct ones -> train on them -> exam."""
    settings = FinetuneCotSettings.model_validate(student.settings)
    problems = stages.problems(way)
    rationales = stages.rationales(way)
    chosen = select(rationales.all, settings.rationales, choose=settings.choose, seed=way.recipe.seed)
    if not chosen:
        raise DataError(
            rationales.stage.folder, "no rationale was kept; its audit.json says why they were dropped"
        )
    examples = stages.rationale_examples(problems, chosen, student.format)
    train_ids = {problem.id for problem in problems.train}
    inputs = {"problems": problems.stage.fingerprint, "rationales": rationales.stage.fingerprint}
    trained = students.fine_tune(
        way,
        name,
        student,
        seed,
        inputs,
        [example for example in examples if example.problem_id in train_ids],
        [example for example in examples if example.problem_id not in train_ids],
    )
    students.examine_student(way, name, student, trained)
