"""The verb *examine*: a teacher or a trained model sits an exam on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck import ranks
from limbeck.exam import examine as run_exam
from limbeck.exam import write_exam
from limbeck.exam_facts import ExamFacts
from limbeck.lm import Sampling
from limbeck.recipe import ExamSettings
from limbeck.run_folder import Stage, plan
from limbeck.stages.context import Context
from limbeck.stages.models import Model
from limbeck.stages.problems import problems

VERSION = 5
"""Raised by hand when this code gives other predictions for the same plan."""


def examine(
    context: Context,
    model: Model,
    *,
    place: str | None = None,
    split: str = "test",
    settings: ExamSettings | None = None,
) -> Stage:
    """Examine a model; the stage holds `predictions.jsonl` and `metrics.json`, which says who it is.

    Args:
        place: the stage's folder; None: `exam` in the model's own.
        split: which problems.
        settings: None: the recipe's.
    """
    exam = settings or context.recipe.exam
    sampling = Sampling(
        exam.votes,
        exam.temperature if exam.votes > 1 else 0.0,
        max_tokens=exam.max_tokens,
        seed=context.recipe.seed,
        stop=exam.stop,
    )
    asked = getattr(problems(context), split)
    if exam.votes == 1:  # greedy: the temperature decides nothing
        exam = exam.model_copy(update={"temperature": ExamSettings().temperature})

    def work(folder: Path) -> None:
        opened = model.open(folder, exam.batch_size, exam.max_tokens)
        prompts = [opened.prompt(model.question(problem)) for problem in asked]
        opened.agree(prompts, sampling)
        predictions, summary = run_exam(
            opened.complete, asked, context.kind, prompts, sampling, track=context.track, timed=model.timed
        )
        for line in opened.account():
            context.run.say(line)
        if count := summary.get("unfinished_thinking"):
            context.run.say(
                f"{model.name}: {count} of {len(asked)} answers end inside their thinking, which is "
                "wrong; raise exam.max_tokens (of a teacher: rationales.max_tokens)"
            )
        if ranks.main():
            write_exam(folder, predictions, summary, _facts(context, model, split, summary["cost_usd"]))

    more: dict[str, Any] = {} if split == "test" else {"split": split}
    return context.run.stage(
        place or f"{model.folder}/exam",
        plan(
            {"exam": exam},
            version=VERSION,
            seed=context.recipe.seed,
            kind=context.kind,
            **more,
            **model.identity,
        ),
        {**problems(context).inputs, **model.inputs},
        work,
        everyone=model.shared,
        reads=model.reads,
    )


def _facts(context: Context, model: Model, split: str, cost: float) -> ExamFacts:
    """Who sat this exam, for the report."""
    facts = {**model.facts, **({"cost_usd": cost} if cost else {})}
    return ExamFacts(**facts, split=split, task=context.recipe.task.name, kind=context.kind)
