"""The stages of other tasks' test problems, `also/NAME/`: what everybody is examined on too (`exam.also`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from limbeck.records import Problem, read_jsonl, write_jsonl
from limbeck.run_folder import Plan, Stage, plan
from limbeck.stages.context import Context, once
from limbeck.stages.problems import is_made, leak_policy, problems, write_left_out
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.others import OtherTest, load_other, other_fingerprint, settle_leaks
from limbeck.tasks.settings import OtherTask, only_test, own_name, task_kind, task_labels

VERSION = 1
"""Raised by hand when this code makes other problems from the same settings."""


@dataclass(frozen=True)
class Other:
    """Another task, and its test problems."""

    settings: OtherTask
    stage: Stage
    test: list[Problem]

    @property
    def name(self) -> str:
        """Of its own, which folders and tables have."""
        return own_name(self.settings)

    @property
    def kind(self) -> AnswerKind:
        return task_kind(self.settings)

    @property
    def labels(self) -> tuple[str, ...]:
        return task_labels(self.settings)

    @property
    def inputs(self) -> dict[str, str]:
        """As an input of its exams."""
        return {"problems": self.stage.fingerprint}


def read_others(context: Context) -> None:
    """Read what is not in the run folder yet, so that wrong data are refused before anything changes.

    Raises:
        DataError, RecipeError, DiskError: as `load_other`.
    """
    known = is_made(context)
    for other in context.recipe.exam.also:
        if not (known and _is_done(context, other)):
            _loaded(context, other)


def others(context: Context) -> list[Other]:
    """The recipe's other tasks, in its order.

    Raises:
        LeakError: one asks a question that is trained on, by default.
    """
    return once(context, "others", lambda: [_other(context, one) for one in context.recipe.exam.also])


def _place(other: OtherTask) -> str:
    return f"also/{own_name(other)}"


def _plan(context: Context, other: OtherTask) -> Plan:
    return plan({"task": only_test(other)}, version=VERSION, seed=context.recipe.seed)


def _inputs(context: Context, other: OtherTask) -> dict[str, str]:
    """Its data; and the problems that are trained on, with the rule for leaks."""
    return {**other_fingerprint(other), **problems(context).inputs}


def _is_done(context: Context, other: OtherTask) -> bool:
    return context.run.is_done(_place(other), _plan(context, other), _inputs(context, other))


def _loaded(context: Context, other: OtherTask) -> OtherTest:
    return once(context, f"{_place(other)} as read", lambda: load_other(other, context.recipe.seed))


def _settled(context: Context, other: OtherTask) -> OtherTest:
    parts = problems(context)
    trained_on = {"train": parts.train, "dev": parts.dev}
    return settle_leaks(own_name(other), _loaded(context, other), trained_on, leak_policy(context.recipe))


def _other(context: Context, other: OtherTask) -> Other:
    found = None if _is_done(context, other) else _settled(context, other)

    def work(folder: Path) -> None:
        made = found or _settled(context, other)
        for note in made.notes:
            context.run.say(note)
        write_left_out(folder, made.left_out)
        write_jsonl(folder / "test.jsonl", made.problems)

    stage = context.run.stage(_place(other), _plan(context, other), _inputs(context, other), work)
    return Other(other, stage, list(read_jsonl(stage.folder / "test.jsonl", Problem)))
