"""A student that reads (KARD, arXiv 2305.18395): how it is asked, what it learns, how it sits exams."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from limbeck.errors import RecipeError
from limbeck.knowledge.reading import Reading
from limbeck.places import Places, key_of
from limbeck.recipe import Choose, Recipe, RerankerSettings
from limbeck.records import Example, Problem, SilverQuery
from limbeck.sequences import ById, Made, Part, where
from limbeck.stages.context import Context
from limbeck.stages.knowledge import Knowledge, Supported, check_knowledge, read_texts, silver_passages
from limbeck.stages.learners import Learner, Trained
from limbeck.stages.models import Opened, Question, Weights
from limbeck.stages.others import Other
from limbeck.stages.passages import Finder, Passages, TrainFinder, found_passages
from limbeck.stages.problems import Split, problems
from limbeck.stages.rationales import Picked, rationales, refuse_dropped
from limbeck.stages.reranker import reranker
from limbeck.stages.training import Data
from limbeck.tasks.asking import KNOWLEDGE
from limbeck.tasks.prompts import FORMATS
from limbeck.tasks.templates import Template
from limbeck.training.groups import Group, singles

READING = "{instruction}\n\n{examples}\n\n{question}\n{options}\n\n{passages}"
"""How a student that reads is asked by default: passages behind the question, as published."""


def grounded_data(
    context: Context,
    base: Knowledge,
    learner: Learner,
    per_problem: int,
    choose: Choose,
    query: SilverQuery,
    most: int,
    *,
    reasons: bool = True,
) -> Data:
    """Examples of the teacher's rationales, each with the passages that it finds in its prompt.

    Args:
        per_problem, choose: of the rationales; see `Rationales.chosen`.
        query: what finds the passages.
        most: passages of a prompt.
        reasons: False: the answer alone is learned.
    """
    train = rationales(context).chosen(per_problem, choose, seed=context.recipe.seed)
    choice = learner.settings.train.choose
    dev = rationales(context, "dev").chosen(per_problem) if choice == "dev-loss" else Picked((), {})
    support = silver_passages(context, base, "train", query)
    inputs = {**problems(context).inputs, **train.inputs, **dev.inputs, "silver": support.stage.fingerprint}
    held_out: Sequence[Group] = []
    if dev.rationales:
        of_dev = silver_passages(context, base, "dev", query)
        inputs["silver of dev"] = of_dev.stage.fingerprint
        held_out = _groups(context, base, learner, dev, of_dev, most, "dev", reasons=reasons)
    return Data(
        _groups(context, base, learner, train, support, most, "train", reasons=reasons),
        held_out,
        inputs,
        settings={} if reasons else {"copies": False},
        facts=train.similarities,
    )


def answered_data(
    context: Context, base: Knowledge, learner: Learner, *, query: TrainFinder, most: int
) -> Data:
    """The gold answers of all training problems, behind the passages that `query` finds.

    Args:
        query: what finds them: the question, or the gold answer with it.
        most: passages of a prompt.
    """
    splits: list[Split] = ["train"]
    if learner.settings.train.choose == "dev-loss":
        splits.append("dev")
    inputs, groups = dict(problems(context).inputs), {}
    for split in splits:
        found = found_passages(context, base, split, most, query)
        inputs[f"passages of {split}"] = found.stage.fingerprint
        some = problems(context).of(split)
        groups[split] = singles(_answers(learner, some, found.texts))
    return Data(groups["train"], groups.get("dev", []), inputs)


def _answers(
    learner: Learner, some: Sequence[Problem], passages: Sequence[Sequence[str]]
) -> Sequence[Example]:
    """Question and passages -> gold answer; each example is made when it is looked at."""
    return Made(range(len(some)), lambda place: learner.asking.example(some[place], "", passages[place]))


def read_in_exam(
    context: Context,
    base: Knowledge,
    learner: Learner,
    data: Data,
    most: int,
    find: Finder,
    learned: Mapping[str, Any],
) -> Data:
    """The same data, for a student that says what it reads in exams; one on dev may choose its checkpoint.

    Args:
        most: passages of a problem in an exam.
        find: what finds them; those of dev too.
        learned: the settings that decide what is learned, see `Data`.
    """
    by_accuracy = learner.settings.train.choose == "dev-accuracy"
    found = found_passages(context, base, "dev", most, _able(find)) if by_accuracy else None
    return replace(
        data,
        inputs={**data.inputs, **(found.inputs if found else {})},
        settings={"passages": most, **_ranked(context, find), **data.settings},
        passages=found.of if found else None,
        about=reading(context, base, learner, most, find),
        learned={**learned, "passages of dev": most} if by_accuracy else learned,
    )


def _ranked(context: Context, find: Finder) -> dict[str, int]:
    """How many passages the reranker ranks, for the plan; {}: as many as usual, or there is none."""
    knowledge = context.recipe.knowledge
    wanted = knowledge.reranker.candidates if knowledge and find == "reranker" else None
    usual = RerankerSettings().candidates
    return {} if wanted in (None, usual) else {"candidates": int(wanted or usual)}


def _able(find: Finder) -> Finder:
    """Nobody has rationales of dev questions that a student could search with."""
    return "question" if find == "silver" else find


def _groups(
    context: Context,
    base: Knowledge,
    learner: Learner,
    picked: Picked,
    support: Supported,
    most: int,
    split: Split,
    *,
    reasons: bool,
) -> Sequence[Group]:
    """A group of each rationale; without reasons, of each different row: rationales of a problem often
    find the same passages. Each is made when it is looked at."""
    refuse_dropped(picked)
    some, by_id = picked.rationales, ById(problems(context).of(split))
    held = read_texts(support.stage, base, Made(some, support.of), most)

    def example(place: int) -> Example:
        one = some[place]
        return learner.asking.example(
            by_id[one.problem_id].answered(one.answer),
            one.reasoning if reasons else "",
            held[place],
            thinking=one.thinking if reasons else "",
        )

    examples = Made(range(len(some)), example)
    return singles(examples if reasons else _different(examples))


def _different(examples: Sequence[Example]) -> Sequence[Example]:
    """Of equal ones the first."""
    seen = Places()
    return Part(examples, where(examples, lambda one: seen.add(key_of(one.model_dump_json()))))


def check_reads(recipe: Recipe, place: str, most: int, find: Finder) -> None:
    """Refuse a student that could not read what its exam finds: a RecipeError names the setting.

    Args:
        place: `RECIPE: students.NAME`.
        most, find: as of `read_in_exam`.
    """
    check_knowledge(recipe, place)
    template = recipe.students[place.rpartition(": students.")[2]].prompt.template
    if template is not None and "passages" not in Template.read(template, None).names:  # None: ours
        raise RecipeError(f"{place}.prompt.template: has no place {{passages}}; add it")
    ranked = recipe.knowledge.reranker.candidates if recipe.knowledge else 0
    if find == "reranker" and ranked < most:
        raise RecipeError(
            f"{place}.settings.passages: {most}, and knowledge.reranker.candidates: {ranked}; "
            "rank as many as a prompt holds"
        )
    if find == "silver" and recipe.teacher.kind == "given":
        raise RecipeError(f"{place}.settings.find: silver asks a teacher about test questions; name one")


def reads_passages(student: Learner, *, apart: bool = False) -> Learner:
    """The student as it is asked with passages; `check_reads` saw to it that its template has a place.

    Args:
        apart: each passage is in a prompt of its own.
    """
    asking, form = student.asking, FORMATS[student.asking.format]
    template = READING + form.after_question if asking.template == form.template else asking.template
    return replace(student, asking=replace(asking, template=template, needs=(KNOWLEDGE,), apart=apart))


def reading(
    context: Context, base: Knowledge, student: Learner, most: int, find: Finder = "question"
) -> dict[str, Any]:
    """What the student's `limbeck.json` says that it reads."""
    home, run = context.run.folder / student.place / "model", context.run.folder

    def place(folder: Path) -> str:
        return os.path.relpath(folder, home) if folder.is_relative_to(run) else str(folder.resolve())

    said = Reading(place(base.folder), base.index, most)
    if find == "reranker":
        ranker = reranker(context, base)
        said = replace(said, reranker=place(ranker.model), candidates=ranker.settings.candidates)
    return said.json()


@dataclass(frozen=True)
class Reader:
    """A trained model with the passages of an exam's problems. It can be examined."""

    model: Trained
    passages: Passages
    shared: ClassVar[bool] = True
    timed: ClassVar[bool] = True
    begins: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def folder(self) -> str:
        return self.model.folder

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.model.identity

    @property
    def inputs(self) -> dict[str, str]:
        return {**self.model.inputs, **self.passages.inputs}

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**self.model.facts, "passages": self.passages.most, "found_by": self.passages.by}

    @property
    def reads(self) -> Sequence[Path]:
        return self.model.reads

    @property
    def weights(self) -> Weights:
        return self.model.weights

    def question(self, problem: Problem) -> Question:
        return self.questions(problem)[0]

    def questions(self, problem: Problem) -> Sequence[Question]:
        asked = self.model.learner.asking.asked(problem, self.passages.of[problem.id])
        return [Question(name, problem.id, pieces) for name, pieces in asked]

    def asked_of(self, other: Other) -> None:
        return None  # the corpus is that of the run's own task

    def open(self, folder: Path, batch_size: int, max_tokens: int) -> Opened:
        return self.model.open(folder, batch_size, max_tokens)
