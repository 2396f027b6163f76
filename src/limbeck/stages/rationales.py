"""The stages of the teacher's rationales: collected, graded, chosen, made into examples."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.agreement import Agreement
from limbeck.audit import UNFINISHED, audit, left_out_facts, nothing_kept, rows_left_out
from limbeck.errors import DataError, NothingKeptError, RecipeError
from limbeck.lm import Completion, Sampling
from limbeck.lm.settings import Reasoning
from limbeck.rationale_files import read_rationales
from limbeck.rationales import Owner, grade, graded, mark_dropped
from limbeck.recipe import (
    Choose,
    GivenTeacherSettings,
    GoldRule,
    MentorSettings,
    RationaleSettings,
    rules_of,
)
from limbeck.records import Example, Problem, Rationale, Records, write_json, write_records
from limbeck.run_folder import Stage, fingerprint, path_fingerprint, plan
from limbeck.selection import select, similarity, together
from limbeck.sequences import ById, Made, Part, Spool, where
from limbeck.stages.context import Context, once
from limbeck.stages.explaining import explaining_teacher, to_explain
from limbeck.stages.leaks import check_stated
from limbeck.stages.learners import Learner
from limbeck.stages.problems import LEFT_OUT, SUFFIX, Problems, Split, problems, write_left_out
from limbeck.stages.teacher import TeacherModel, local_stops, taken_as_rationale, teacher_name
from limbeck.stages.training import Data
from limbeck.stages.writing import RawCompletion, completions_of, write
from limbeck.training.groups import Draw, Group, singles

VERSION = 5
"""Raised by hand when this code grades the same completions differently."""


GRADED = "graded.jsonl"

SHOWS_GOLD = "the teacher was shown the gold answers"
"""In an audit."""


@dataclass(frozen=True)
class Picked:
    """Rationales to train on, and the stages they come from.

    `kept` holds all that they were chosen from, where several of a problem were asked for.
    """

    rationales: Sequence[Rationale]
    inputs: Mapping[str, str]
    kept: Sequence[Rationale] = ()

    def similarities(self) -> dict[str, float]:
        """How near a problem's rationales are, those chosen and all kept ones; {}: no problem has two."""
        if not self.kept:
            return {}
        chosen, kept = similarity(self.rationales), similarity(self.kept)
        known = {"chosen_similarity": chosen, "kept_similarity": kept}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Rationales:
    """All graded rationales of a split; those with `dropped` None may be trained on.

    `label` is what a later stage calls this input.
    """

    stage: Stage
    label: str
    all: Sequence[Rationale]

    @property
    def inputs(self) -> dict[str, str]:
        """As an input of later stages."""
        return {f"rationales of {self.label}": self.stage.fingerprint}

    @property
    def kept(self) -> Sequence[Rationale]:
        """Those that were not dropped."""
        return Part(self.all, where(self.all, lambda one: one.dropped is None))

    def chosen(self, per_problem: int, choose: Choose = "first", *, seed: int = 0, ngram: int = 3) -> Picked:
        """At most `per_problem` kept ones of each problem, to train on; see `selection.select`.

        Raises:
            NothingKeptError: none was kept.
        """
        picked = self.picked(select(self.all, per_problem, choose=choose, seed=seed, ngram=ngram))
        return replace(picked, kept=self.kept if per_problem > 1 else ())

    def picked(self, chosen: Sequence[Rationale]) -> Picked:
        """Some of them, to train on; `chosen` chooses among those that were kept.

        Raises:
            NothingKeptError: none.
        """
        if not chosen:
            message = f"no rationale of {self.label} was picked"
            raise NothingKeptError(
                f"{message}; {self.stage.folder / 'audit.json'} says how many were kept, and why"
            )
        return Picked(chosen, self.inputs)


def collected(context: Context, split: Split) -> Stage:
    """The teacher's completions, as they came; `memory/` keeps what was paid for beyond this stage."""
    recipe, wanted = context.recipe, context.recipe.rationales
    shown = wanted.explain_gold
    model = TeacherModel(context) if shown is None else explaining_teacher(context, shown)
    sampling = Sampling(
        wanted.per_problem,
        wanted.temperature,
        wanted.top_p,
        0,
        wanted.max_tokens,
        recipe.seed,
        local_stops(recipe),
    )
    settings = {
        "per_problem": wanted.per_problem,
        "temperature": wanted.temperature,
        "top_p": wanted.top_p,
        "max_tokens": wanted.max_tokens,
        "split": split,
        "seed": recipe.seed,
        **({"shows_gold": True} if shown else {}),
    }
    asked = problems(context).of(split)
    questions = Made(asked, partial(to_explain, model) if shown else model.question)
    inputs = problems(context).inputs
    return write(
        context, "collected" + SUFFIX[split], model, questions, sampling, settings=settings, inputs=inputs
    )


def rationales(context: Context, split: Split = "train", share: float = 1.0) -> Rationales:
    """Graded rationales of a split, with their audit; where the recipe has a verifier, after it judged them.

    Those of dev are asked for only when a checkpoint is chosen by dev loss, in
    stages of their own, so that they change nothing for other students.

    Args:
        share: of the training problems whose rationales are returned (Mentor-KD's
            low-resource setting); a smaller share is a part of every larger one.
    """
    found = once(context, f"rationales of {split}", lambda: _judged(context, split))
    if share == 1 or split == "dev":
        return found
    some = share_of(problems(context).train, share, context.recipe.seed)
    return replace(found, all=Part(found.all, where(found.all, lambda one: one.problem_id in some)))


def graded_rationales(context: Context, split: Split = "train") -> Rationales:
    """The same as they were graded; none is dropped because of the recipe's verifier."""
    return once(context, f"graded rationales of {split}", lambda: _rationales(context, split))


def _judged(context: Context, split: Split) -> Rationales:
    given = graded_rationales(context, split)
    if context.recipe.verifier is None:
        return given
    from limbeck.stages.verifier import verified  # which trains on graded ones

    return verified(context, given, split)


def _rationales(context: Context, split: Split) -> Rationales:
    recipe, parts = context.recipe, problems(context)
    asked = parts.of(split)
    file = recipe.teacher.file if isinstance(recipe.teacher, GivenTeacherSettings) else None
    source = None if recipe.teacher.kind == "given" else collected(context, split)
    rule, reasoning = recipe.rationales, taken_as_rationale(recipe)
    given = _given_of(parts, asked) if source is None and file is None else []
    if source is None and file is None and not given:
        raise RecipeError(
            f"teacher.kind: given, and the data hold no rationale of {split}; name their column under "
            "task.columns.rationale, a file of them under teacher.file, or another kind of teacher"
        )

    def work(folder: Path) -> None:
        left_out: dict[str, Any] = {}
        found: Iterable[Rationale]
        if file is not None:
            found, left_out = grade_file(context, file, asked, folder, reasoning)
        elif source is None:
            found = grade(asked, context.kind, given, teacher_name(recipe), reasoning=reasoning)
        else:
            written = completions_of(source)
            found = grade_completions(context, asked, written, teacher_name(recipe), reasoning)
        keep, agreement = conditions(context, rule)
        found = Spool(found, folder=folder) if agreement else found  # which looks at them three times
        marked = write_graded(
            folder,
            mark_dropped(
                found, keep=keep, agreement=agreement, drop_false_equations=rule.drop_false_equations
            ),
        )
        shown = {SHOWS_GOLD: "yes"} if source and rule.explain_gold else {}
        summary = audit(marked, asked, context.kind, agreement)
        write_json(folder / "audit.json", summary | shown | left_out)
        report_unfinished(context, teacher_name(recipe), summary, "rationales.max_tokens")
        if not summary["kept"]:
            raise NothingKeptError(f"{nothing_kept(marked)}; {folder / GRADED} holds them with the reasons")

    inputs = {**parts.inputs, **file_inputs(file)}
    if source is not None:
        inputs["collected"] = source.fingerprint
    settings = grading_settings(context, rule) | {"source": teacher_name(recipe), "split": split}
    if reasoning != "both":
        settings["reasoning"] = reasoning
    stage = context.run.stage("rationales" + SUFFIX[split], plan(settings, version=VERSION), inputs, work)
    return Rationales(stage, split, Records(stage.folder / GRADED, Rationale))


def _given_of(parts: Problems, asked: Sequence[Problem]) -> list[Completion]:
    """The rationales of these problems that the data held."""
    ids = {problem.id for problem in asked}
    return [completion for completion in parts.given if completion.prompt_id in ids]


def write_graded(folder: Path, marked: Iterable[Rationale]) -> Sequence[Rationale]:
    """Write graded and marked rationales into a stage's folder, and give them as they are read from there."""
    return write_records(folder / GRADED, marked, Rationale)


def share_of(some: Sequence[Problem], share: float, seed: int) -> frozenset[str]:
    """Ids of a share of problems; at least one, the same ones again in every larger share."""
    ranked = sorted((fingerprint([seed, problem.id]), problem.id) for problem in some)
    return frozenset(own for _, own in ranked[: max(1, round(share * len(ranked)))])


def grading_settings(context: Context, rule: RationaleSettings | MentorSettings) -> dict[str, Any]:
    """The settings that decide what grading makes of a completion."""
    _, agreement = rules_of(rule.keep, rule.agreement)
    return {
        "kind": context.kind,
        "keep": rule.keep,
        "drop_false_equations": context.recipe.rationales.drop_false_equations,
        **({"agreement": agreement.model_dump(mode="json")} if agreement else {}),
    }


def conditions(
    context: Context, rule: RationaleSettings | MentorSettings
) -> tuple[GoldRule, Agreement | None]:
    """What rationales are kept for: the gold rule, and the agreement of samples, if wanted."""
    keep, agreement = rules_of(rule.keep, rule.agreement)
    return keep, Agreement(context.kind, **agreement.model_dump()) if agreement else None


def report_unfinished(context: Context, name: str, summary: Mapping[str, Any], setting: str) -> None:
    """Say how many completions ended while their model was thinking.

    Args:
        summary: the audit.
    """
    count = summary.get(UNFINISHED, 0)
    if count:
        context.run.say(
            f"{name}: {count} of {summary['rationales']} completions end inside their thinking, without an "
            f"answer; they are paid for and dropped: raise {setting}"
        )


def grade_completions(
    context: Context,
    asked: Sequence[Problem],
    completions: Sequence[RawCompletion],
    source: str,
    reasoning: Reasoning = "both",
) -> Iterator[Rationale]:
    """Rationales of what a model wrote, one by one; several prompts may be about one problem."""
    written = Made(completions, Completion.kept)
    owners = None
    if any(raw.about or raw.problem_id not in ("", raw.prompt_id) for raw in completions):
        owners = Made(completions, _owner)
    return grade(asked, context.kind, written, source, owners=owners, reasoning=reasoning)


def _owner(raw: RawCompletion) -> Owner:
    return Owner(raw.prompt_id, raw.problem_id or raw.prompt_id, raw.about)


def grade_file(
    context: Context, file: str, asked: Sequence[Problem], folder: Path, reasoning: Reasoning = "both"
) -> tuple[list[Rationale], dict[str, Any]]:
    """Rationales of a file, graded again; those of other splits' problems are left out.

    Rows that `task.bad_rows` lets skip are listed in the stage's folder. The audit says so with what is
    returned next to the rationales.
    """
    parts = problems(context)
    everyone = [*parts.train, *parts.dev, *parts.test]
    bad: list[DataError] = []
    found = read_rationales(Path(file).expanduser(), context.recipe.task, everyone, bad, parts.also)
    left_out = rows_left_out(bad)
    write_left_out(folder, left_out)
    by_id = ById(asked)
    ours = [one for one in found if one.completion.prompt_id in by_id]
    rationales = [
        graded(
            by_id[one.completion.prompt_id],
            context.kind,
            one.completion,
            source,
            about=one.about,
            reasoning=reasoning,
        )
        for source in dict.fromkeys(one.source for one in found)
        for one in ours
        if one.source == source
    ]
    listed = Path(os.path.relpath(folder / LEFT_OUT, context.run.folder))
    return rationales, left_out_facts(left_out, listed.as_posix())


def check_file(context: Context, file: str | None) -> None:
    """Refuse a file of rationales that cannot be read or joined, before hours are spent.

    Raises:
        DataError: there is no such file, or nothing in it belongs to the task's problems.
    """
    if file_inputs(file):
        parts = problems(context)
        everyone = [*parts.train, *parts.dev, *parts.test]
        bad: list[DataError] = []
        found = read_rationales(Path(str(file)).expanduser(), context.recipe.task, everyone, bad, parts.also)
        if not found:
            raise DataError(str(file), "holds no rationales; import or collect some")
        if bad:
            context.run.say(f"{file}: rows left out: {len(bad)} (task.bad_rows: skip), such as {bad[0]}")
        check_stated(context, str(file), found)


def file_inputs(file: str | None) -> dict[str, str]:
    """A file of rationales, mistakes or feedback as a stage input."""
    if file is None:
        return {}
    path = Path(file).expanduser()
    if not path.is_file():
        what = "is a folder; name a file in it" if path.is_dir() else "no such file; check the path"
        raise DataError(path, what)
    return {"file": path_fingerprint(path)}


def rationale_data(
    context: Context,
    learner: Learner,
    pick: Callable[[Split], Picked],
    *,
    grouped: bool = False,
    draw: Draw | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Data:
    """Examples of the rationales that a method picks: question -> reasoning and the *gold* answer.

    Those of dev are picked only where the checkpoint is chosen by dev loss.

    Args:
        grouped: all rationales of a problem are one group; otherwise each is a group of its own.
        draw: see `Data`.
        inputs: what the training depends on beyond the rationales, such as `mentor.inputs`.
    """
    train = pick("train")
    dev = pick("dev") if learner.settings.train.choose == "dev-loss" else Picked((), {})

    def groups(picked: Picked) -> Sequence[Group]:
        refuse_dropped(picked)
        examples = rationale_examples(context, learner, picked.rationales)
        return by_problem(examples, picked.rationales) if grouped else singles(examples)

    named = {**problems(context).inputs, **train.inputs, **dev.inputs, **(inputs or {})}
    return Data(groups(train), groups(dev), named, draw, facts=train.similarities if train.kept else dict)


def refuse_dropped(picked: Picked) -> None:
    """Refuse to train on what grading dropped: it would get the gold answer after wrong reasoning.

    Raises:
        DataError: naming the first one.
    """
    for one in picked.rationales:
        if one.dropped is not None:
            message = (
                f"was dropped ({one.dropped}) and is picked to train on; pick those whose dropped is None"
            )
            raise DataError(f"rationale {one.index} of problem {one.problem_id}", message)


def rationale_examples(context: Context, learner: Learner, chosen: Sequence[Rationale]) -> Sequence[Example]:
    """One training example per rationale, its final answer's characters marked; made when it is looked at.

    The answer is gold; where none is known, that of the rationale, which its problem's samples agree on.
    """
    parts, asking = problems(context), learner.asking
    train, dev = ById(parts.train), ById(parts.dev)

    def example(one: Rationale) -> Example:
        problem = train.get(one.problem_id) or dev[one.problem_id]
        return asking.example(problem.answered(one.answer), one.reasoning, thinking=one.thinking)

    return Made(chosen, example)


def answer_examples(learner: Learner, some: Sequence[Problem]) -> Sequence[Example]:
    """One training example per problem: question -> gold answer, without any reasoning.

    Each is made when it is looked at, which raises DataError where its problem has no gold answer. A training
    looks at all of them before its first step.
    """
    return Made(some, lambda problem: learner.asking.example(problem, ""))


def by_problem(examples: Sequence[Example], rationales: Sequence[Rationale]) -> Sequence[Group]:
    """The examples of each problem as one group, in their order; made when it is looked at.

    Args:
        rationales: what the examples were made of.
    """
    places, starts = array("Q"), array("Q", (0,))
    for problem in together(rationales):
        places.extend(problem.places)
        starts.append(len(places))

    def group(number: int) -> Group:
        some = tuple(Part(examples, places[starts[number] : starts[number + 1]]))
        return Group(some[0].problem_id, some)

    return Made(range(len(starts) - 1), group)
