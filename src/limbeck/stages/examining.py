"""The verb *examine*: a teacher or a trained model sits an exam on a split, then one without reasoning and
those of other tasks, where the recipe asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limbeck import ranks
from limbeck.exam import examine as run_exam
from limbeck.exam import write_exam
from limbeck.exam_facts import DIRECT, ExamFacts
from limbeck.recipe import ExamSettings
from limbeck.records import Problem
from limbeck.run_folder import Stage, plan, read_json
from limbeck.stages.context import Context, PlannedWriting
from limbeck.stages.leaks import not_trained_on
from limbeck.stages.models import Model
from limbeck.stages.others import Other, others
from limbeck.stages.problems import problems
from limbeck.stages.served import served_in_exams
from limbeck.tasks.answers import AnswerKind

VERSION = 5
"""Raised by hand when this code gives other predictions for the same plan."""


@dataclass(frozen=True)
class _Asked:
    """What an exam is of. `other`: the task of `exam.also` that it is of; None: the run's own.

    `direct`: without reasoning.
    """

    task: str
    kind: AnswerKind
    split: str
    problems: Sequence[Problem]
    inputs: Mapping[str, str]
    other: Other | None = None
    direct: bool = False


def examine(
    context: Context,
    model: Model,
    *,
    place: str | None = None,
    split: str = "test",
    settings: ExamSettings | None = None,
) -> Stage:
    """Examine a model; the stage holds `predictions.jsonl` and `metrics.json`, which says who it is.

    A server writes the answers where the recipe says so (`exam.endpoint`). With the test split go the exam
    without reasoning (`exam.direct`) and those of the recipe's other tasks (`exam.also`): stages next to this
    one, called `exam-direct` and `exam-NAME`.

    Args:
        place: the stage's folder; None: `exam` in the model's own.
        split: which problems.
        settings: None: the recipe's.

    Returns:
        The stage of the task's own exam.
    """
    found, recipe, model = problems(context), context.recipe, served_in_exams(context, model)
    exam, place = settings or recipe.exam, place or f"{model.folder}/exam"
    own = _Asked(recipe.task.name, context.kind, split, getattr(found, split), found.inputs)
    stage = _sit(context, model, own, exam, place)
    if exam.direct and split == "test" and model.begins:
        _sit(context, model, replace(own, direct=True), exam, f"{place}-{DIRECT}")
    for other in others(context) if split == "test" else ():
        asked = _Asked(other.name, other.kind, split, other.test, other.inputs, other)
        if (able := model.asked_of(other)) is not None:
            _sit(context, able, asked, exam, f"{place}-{other.name}")
    return stage


def accuracy(context: Context, model: Model, split: str) -> float:
    """Share of a split's problems that a model answers right, in an exam of its own: `exam-on-SPLIT`."""
    stage = examine(context, model, place=f"{model.folder}/exam-on-{split}", split=split)
    return float((read_json(stage.folder / "metrics.json") or {})["accuracy"])


def _sit(context: Context, model: Model, asked: _Asked, exam: ExamSettings, place: str) -> Stage:
    """The stage of one exam."""
    sampling = exam.sampling(context.recipe.seed)
    usual = ExamSettings()
    exam = exam.model_copy(update={"also": usual.also, "direct": asked.direct, "endpoint": None})
    if exam.votes == 1:  # greedy: nothing is drawn
        greedy = {name: getattr(usual, name) for name in ("temperature", "top_p", "top_k")}
        exam = exam.model_copy(update=greedy)

    def work(folder: Path) -> None:
        opened = model.open(folder, exam.batch_size, exam.max_tokens)
        some = asked.problems
        questions = [
            replace(one, direct=asked.direct) for problem in some for one in model.questions(problem)
        ]
        prompts = [opened.prompt(question) for question in questions]
        if asked.other:
            by_problem = {one.problem_id: one for one in prompts}
            own = context.run.folder / model.folder
            fair = not_trained_on(context, model.name, own, asked.other, by_problem)
            some = [problem for problem in some if problem.id in fair]
            prompts = [one for one in prompts if one.problem_id in fair]
        opened.agree(prompts, sampling)
        predictions, summary = run_exam(
            opened.complete, some, asked.kind, prompts, sampling, track=context.track, timed=model.timed
        )
        for line in opened.account():
            context.run.say(line)
        if count := summary.get("unfinished_thinking"):
            context.run.say(
                f"{model.name}: {count} of {len(some)} answers end inside their thinking, which is "
                "wrong; raise exam.max_tokens (of a teacher: rationales.max_tokens)"
            )
        if ranks.main():
            write_exam(folder, predictions, summary, _facts(model, asked, summary["cost_usd"]))

    if context.planned is not None:
        wanted = [
            replace(one, direct=asked.direct)
            for problem in asked.problems
            for one in model.questions(problem)
        ]
        context.planned.writings[place] = PlannedWriting(place, model, wanted, sampling, exam.batch_size)
    more: dict[str, Any] = {} if asked.split == "test" else {"split": asked.split}
    if exam.votes > 1:
        more["ties"] = "probability"  # as `exam.majority` breaks them; before, the first answer won
    return context.run.stage(
        place,
        plan(
            {"exam": exam},
            version=VERSION,
            seed=context.recipe.seed,
            kind=asked.kind,
            **more,
            **model.identity,
        ),
        {**asked.inputs, **model.inputs},
        work,
        everyone=model.shared,
        reads=model.reads,
    )


def _facts(model: Model, asked: _Asked, cost: float) -> ExamFacts:
    """Who sat this exam, for the report."""
    facts = {**model.facts, **({"cost_usd": cost} if cost else {})}
    own = {"split": asked.split, "task": asked.task, "kind": asked.kind}
    return ExamFacts(**facts, **own, also=asked.other is not None, direct=asked.direct)
