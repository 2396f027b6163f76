"""What is trained on, or chosen by, besides the problems' own questions, against the questions of the exam.

The splits of a task are compared when they are read (`tasks/sources.py`), demonstrations when they are
chosen (`tasks/demonstrations.py`). Files of rationales may state other questions than those of the problems
they name, and a method may train on questions of its own, such as those of mistakes: they are looked at here.
The exams of other tasks (`exam.also`) are compared too. What leaks into one of those never leaves the
training, which must not depend on what else is examined: it is refused, or left out of that exam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from limbeck.errors import DataError, LeakError
from limbeck.lm import Prompt
from limbeck.places import key_of, places_of
from limbeck.rationale_files import FromFile
from limbeck.records import Example, read_jsonl
from limbeck.sequences import Part, where
from limbeck.stages.context import Context, once
from limbeck.stages.others import Other, others
from limbeck.stages.problems import leak_policy, problems
from limbeck.tasks.forms import Form, form, question_form
from limbeck.tasks.leaks import find_leaks
from limbeck.tasks.prompts import question_with_options
from limbeck.tasks.rows import shortened
from limbeck.training.groups import Group


def _examined(context: Context) -> list[Form]:
    return once(context, "questions examined", lambda: [form(one) for one in problems(context).test])


def _all_examined(context: Context) -> dict[str, list[Form]]:
    """The questions of the exam, and of each other task's, by what messages call them."""
    too = once(
        context,
        "questions examined too",
        lambda: {f"the exam of {one.name}": [form(each) for each in one.test] for one in others(context)},
    )
    return {"the exam": _examined(context), **too}


def without_leaks(
    context: Context, shown: str, groups: Sequence[Group], does: str = "is trained on"
) -> Sequence[Group]:
    """The groups that ask no question of the exam, by the recipe's `task.leaks`.

    Args:
        shown: who learns them, for messages.
        does: what it does with them: "is trained on", or "takes its dev loss from" of dev examples.

    Raises:
        LeakError: naming the first question, by default; also where it is one of another task's exam.
        DataError: each of them asks one.
    """
    rule = leak_policy(context.recipe)
    if rule == "keep":
        return groups
    questions = _of_its_own(context, groups)
    if rule == "refuse":
        for exam, examined in _all_examined(context).items():
            if leaking := _leaking(questions, examined):
                message = f"a question of {exam}, {shortened(leaking[0])} (shared questions: {len(leaking)})"
                raise LeakError(shown, f"{does} {message}; remove them, or set task.leaks to drop or keep")
    leaking = _leaking(questions, _examined(context))
    if not leaking:
        return groups
    context.run.say(f"{shown} {does} questions of the exam, left out: {len(leaking)} (task.leaks: drop)")
    asked = set(leaking)
    kept = where(groups, lambda group: not any(_question(one) in asked for one in group.examples))
    if not kept:
        raise DataError(shown, f"every question that it {does} is one of the exam; give other data")
    return Part(groups, kept)


def _of_its_own(context: Context, groups: Sequence[Group]) -> list[str]:
    """Questions of these groups that are none of the task's own training questions.

    Of the task's own, which are usually all, no text is held.
    """
    parts = problems(context)
    own = places_of(
        text for one in chain(parts.train, parts.dev) for text in (one.question, question_with_options(one))
    )
    asked = (_question(example) for group in groups for example in group.examples)
    return list(dict.fromkeys(question for question in asked if key_of(question) not in own))


def _leaking(questions: Sequence[str], examined: Sequence[Form]) -> list[str]:
    """Those of the questions that are examined."""
    if not questions:
        return []
    found = find_leaks([question_form(question) for question in questions], examined)
    return [questions[leak.learned] for leak in found]


def not_trained_on(
    context: Context, shown: str, folder: Path, other: Other, prompts: Mapping[str, Prompt]
) -> set[str]:
    """Ids of another task's problems that a model may be examined on, by the recipe's `task.leaks`.

    The training may be older than this exam, so what it was trained on is read from its `examples.jsonl`.

    Args:
        shown: who is examined, for messages.
        folder: its own; that of a model that was not trained here holds no examples.
        prompts: by problem, as the model is asked; examples hold theirs in the same form.

    Raises:
        LeakError: it was trained on one, by default.
        DataError: it was trained on all of them.
    """
    file, rule = folder / "examples.jsonl", leak_policy(context.recipe)
    if rule == "keep" or not file.is_file():
        return set(prompts)
    learned = dict.fromkeys(_question(one) for one in read_jsonl(file, Example))
    asked = list(prompts)
    forms = [question_form(prompts[one].text) for one in asked]
    leaks = find_leaks(forms, [question_form(one) for one in learned])
    if leaks and rule == "refuse":
        message = f"was trained on a question of the exam of {other.name} (shared questions: {len(leaks)})"
        raise LeakError(shown, f"{message}; remove them, or set task.leaks to drop or keep")
    if len(leaks) == len(asked):
        raise DataError(shown, f"was trained on every question of the exam of {other.name}; give other data")
    if leaks:
        context.run.say(
            f"{shown}: questions of the exam of {other.name} that it was trained on, left out of it: "
            f"{len(leaks)} (task.leaks: drop)"
        )
    return set(asked) - {asked[leak.learned] for leak in leaks}


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
    if not stated or leak_policy(context.recipe) != "refuse":
        return
    for exam, examined in _all_examined(context).items():
        leaks = find_leaks([question_form(one.question) for one in stated], examined)
        if leaks:
            first = stated[leaks[0].learned]
            raise LeakError(
                first.place,
                f"names the problem {first.completion.prompt_id!r}, and its question is one of {exam} (such "
                f"rows: {len(leaks)}); fix them, or set task.leaks to keep",
            )
