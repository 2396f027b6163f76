"""What is trained on, or chosen by, besides the problems' own questions, against the questions of the exam.

The splits of a task are compared when they are read (`tasks/sources.py`), demonstrations when they are
chosen (`tasks/demonstrations.py`). Files of rationales may state other questions than those of the problems
they name, and a method may train on questions of its own, such as those of mistakes: they are looked at here.
"""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.errors import DataError, LeakError
from limbeck.rationale_files import FromFile
from limbeck.records import Example
from limbeck.stages.context import Context, once
from limbeck.stages.problems import problems
from limbeck.tasks.forms import Form, form, question_form
from limbeck.tasks.leaks import find_leaks
from limbeck.tasks.prompts import question_with_options
from limbeck.tasks.rows import shortened
from limbeck.tasks.settings import FilesTask, Leaks
from limbeck.training.groups import Group


def policy(context: Context) -> Leaks:
    """What the recipe says of leaks."""
    task = context.recipe.task
    return task.leaks if isinstance(task, FilesTask) else "refuse"


def _examined(context: Context) -> list[Form]:
    return once(context, "questions examined", lambda: [form(one) for one in problems(context).test])


def without_leaks(
    context: Context, shown: str, groups: Sequence[Group], does: str = "is trained on"
) -> Sequence[Group]:
    """The groups that ask no question of the exam, by the recipe's `task.leaks`.

    Args:
        shown: who learns them, for messages.
        does: what it does with them: "is trained on", or "takes its dev loss from" of dev examples.

    Raises:
        LeakError: naming the first question, by default.
        DataError: each of them asks one.
    """
    leaking = _leaking(context, groups)
    if not leaking or policy(context) == "keep":
        return groups
    if policy(context) == "refuse":
        message = f"a question of the exam, {shortened(leaking[0])} (shared questions: {len(leaking)})"
        raise LeakError(shown, f"{does} {message}; remove them, or set task.leaks to drop or keep")
    context.run.say(f"{shown} {does} questions of the exam, left out: {len(leaking)} (task.leaks: drop)")
    kept = [group for group in groups if not any(_question(one) in leaking for one in group.examples)]
    if not kept:
        raise DataError(shown, f"every question that it {does} is one of the exam; give other data")
    return kept


def _leaking(context: Context, groups: Sequence[Group]) -> list[str]:
    """Questions of these groups that are examined and are none of the task's own training questions."""
    parts = problems(context)
    own = {text for one in (*parts.train, *parts.dev) for text in (one.question, question_with_options(one))}
    asked = dict.fromkeys(_question(example) for group in groups for example in group.examples)
    others = [question for question in asked if question not in own]
    found = find_leaks([question_form(question) for question in others], _examined(context) if others else [])
    return [others[leak.learned] for leak in found]


def _question(example: Example) -> str:
    return example.prompt if isinstance(example.prompt, str) else example.prompt.question


def check_stated(context: Context, file: str, found: Sequence[FromFile]) -> None:
    """Refuse rationales that ask a question of the exam under another name; say how many are about the exam.

    Raises:
        LeakError: a rationale names a training problem, and its own question is one of the exam.
    """
    parts = problems(context)
    own = {one.id: one.question for one in (*parts.train, *parts.dev)}
    left = sum(one.completion.prompt_id not in own for one in found)
    if left:
        context.run.say(f"{file}: rationales of problems of the exam, left out: {left} of {len(found)}")
    stated = [
        one
        for one in found
        if one.question and own.get(one.completion.prompt_id, one.question) != one.question
    ]
    leaks = find_leaks([question_form(one.question) for one in stated], _examined(context) if stated else [])
    if leaks and policy(context) == "refuse":
        first = stated[leaks[0].learned]
        raise LeakError(
            first.place,
            f"names the problem {first.completion.prompt_id!r}, and its question is one of the exam (such "
            f"rows: {len(leaks)}); fix them, or set task.leaks to keep",
        )
