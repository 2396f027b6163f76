"""The stages of the passages that are found for questions.

passages/SPLIT/           found.jsonl: those that each question finds; texts.jsonl: the first of them
passages/SPLIT-reranker/  the same, ranked by the run's reranker
passages/test-silver/     by the teacher's rationale of a test question, for an upper bound
passages/SPLIT-question+answer/  by question and gold answer, to train on where there are no rationales
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from limbeck.knowledge.silver import asked, found_by, with_answer
from limbeck.lm import Sampling
from limbeck.records import Found, Problem, Records, write_records
from limbeck.run_folder import Stage, plan
from limbeck.sequences import Made
from limbeck.stages.context import Context
from limbeck.stages.knowledge import STORED, Knowledge, found_for, read_texts, write_texts
from limbeck.stages.problems import Split, problems
from limbeck.stages.rationales import grade_completions
from limbeck.stages.reranker import reranker
from limbeck.stages.teacher import TeacherModel, local_stops, taken_as_rationale, teacher_name
from limbeck.stages.writing import completions_of, write

VERSION = 2
"""Raised by hand when this code finds other passages with the same settings."""

Finder = Literal["question", "reranker", "silver"]
"""By what passages of the exam are found: the question; it and then the reranker; the teacher's rationale."""

TrainFinder = Literal["question", "question+answer"]
"""By what those of training problems are found where no rationale is needed: also by the gold answer."""


@dataclass(frozen=True)
class Passages:
    """The passages of a split's problems, as prompts hold them: so many at most, found by whom.

    `texts` are those of each problem, in the order of the split, read when they are looked at.
    """

    stage: Stage
    names: Sequence[str]
    texts: Sequence[tuple[str, ...]]
    most: int
    by: Finder | TrainFinder

    @cached_property
    def of(self) -> Mapping[str, tuple[str, ...]]:
        """The same by the problem's id, all in memory: for an exam."""
        return dict(zip(self.names, self.texts, strict=True))

    @property
    def inputs(self) -> dict[str, str]:
        """As an input of later stages."""
        return {"passages": self.stage.fingerprint}


def found_passages(
    context: Context,
    base: Knowledge,
    split: Split | Literal["test"],
    most: int,
    by: Finder | TrainFinder = "question",
) -> Passages:
    """The first passages that are found for each problem of a split.

    Args:
        most: in a prompt.
        by: see `Finder`, and for training `TrainFinder`.
    """
    some: Sequence[Problem] = getattr(problems(context), split)
    replies = _asked_test(context, some) if by == "silver" else None
    ranker = reranker(context, base) if by == "reranker" else None
    inputs = {
        **problems(context).inputs,
        **base.inputs,
        **({"asked": replies.fingerprint} if replies else {}),
    }
    settings: dict[str, Any] = {"by": by}
    if replies and (reasoning := taken_as_rationale(context.recipe)) != "both":
        settings["reasoning"] = reasoning
    if ranker:
        inputs["reranker"] = ranker.stage.fingerprint
        settings["candidates"] = ranker.settings.candidates

    def work(folder: Path) -> None:
        query = with_answer if by == "question+answer" else asked
        queries = _reasoning(context, replies, some) if replies else Made(some, query)
        search = base.search()
        if ranker:
            search = ranker.search(base, folder / "states", list(queries), context.track)
        hits = found_by(search, queries, STORED)
        found = write_records(folder / "found.jsonl", map(found_for, some, hits), Found)
        write_texts(folder, base, (one.passages for one in found))
        shutil.rmtree(folder / "states", ignore_errors=True)

    place = f"passages/{split}" + ("" if by == "question" else f"-{by}")
    reads = [ranker.model] if ranker else []
    stage = context.run.stage(place, plan(settings, version=VERSION, k=STORED), inputs, work, reads=reads)
    found = Records(stage.folder / "found.jsonl", Found)
    texts = read_texts(stage, base, Made(found, lambda one: one.passages), most)
    return Passages(stage, Made(found, lambda one: one.problem_id), texts, most, by)


def _asked_test(context: Context, some: Sequence[Problem]) -> Stage:
    """The teacher's rationales of test questions, for an upper bound alone; nobody is trained on them."""
    model, recipe = TeacherModel(context), context.recipe
    sampling = Sampling(max_tokens=recipe.rationales.max_tokens, seed=recipe.seed, stop=local_stops(recipe))
    return write(
        context,
        "passages/asked-test",
        model,
        [model.question(problem) for problem in some],
        sampling,
        settings={"max_tokens": sampling.max_tokens, "seed": sampling.seed},
        inputs=problems(context).inputs,
    )


def _reasoning(context: Context, replies: Stage, some: Sequence[Problem]) -> list[str]:
    """The reasoning that the teacher gave to each problem."""
    name, reasoning = teacher_name(context.recipe), taken_as_rationale(context.recipe)
    graded = grade_completions(context, some, completions_of(replies), name, reasoning)
    by_problem = {one.problem_id: one.reasoning for one in graded}
    return [by_problem.get(problem.id, "") for problem in some]
