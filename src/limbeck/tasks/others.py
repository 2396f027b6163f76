"""The test problems of other tasks that a run examines on too (`exam.also`), and leaks into them.

Training must not depend on what else is examined, so a question that is trained on never leaves the training
for such an exam: by `task.leaks` it is refused, left out of this exam (drop), or kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from limbeck.errors import DataError, LeakError, RecipeError
from limbeck.records import LeftOut, Problem
from limbeck.tasks.forms import form
from limbeck.tasks.generated import generate
from limbeck.tasks.leaks import find_leaks, near_duplicates
from limbeck.tasks.rows import shortened
from limbeck.tasks.settings import FilesTask, Leaks, OtherTask, only_test, own_name
from limbeck.tasks.sources import NEAR_SHOWN, counted, read_test, shared, source_fingerprint


@dataclass(frozen=True)
class OtherTest:
    """Another task's test split; `places` says where each problem was, `notes` what the user should know."""

    problems: list[Problem]
    places: Mapping[str, str]
    notes: list[str]
    left_out: list[LeftOut]


def load_other(other: OtherTask, seed: int) -> OtherTest:
    """The test split, generated or read; rationales are not looked at.

    Raises:
        DataError: the data are wrong, or hold no problem.
        RecipeError: more problems are wanted than exist.
        DiskError: a file cannot be read.
    """
    name, settings = own_name(other), only_test(other)
    notes: list[str] = []
    left_out: list[LeftOut] = []
    try:
        if isinstance(settings, FilesTask):
            table = read_test(settings, seed, notes, left_out)
            some, places = table.problems, table.places
        else:
            some = generate(settings.name, "test", settings.test, seed, **settings.parameters)
            places = {one.id: f"{name}, problem {one.id}" for one in some}
    except RecipeError as error:
        raise RecipeError(f"exam.also, {name}: {error}") from None
    return OtherTest(some, places, [f"{name}, {note}" for note in notes], left_out)


def other_fingerprint(other: OtherTask) -> dict[str, str]:
    """What its data are, as inputs of a stage."""
    return source_fingerprint(only_test(other))


def settle_leaks(
    name: str, found: OtherTest, trained_on: Mapping[str, Sequence[Problem]], policy: Leaks
) -> OtherTest:
    """Apply `task.leaks` to another task's test split.

    Args:
        name: of the other task.
        trained_on: train and dev of the run's own task, as `problems/` holds them.
        policy: the run's own `task.leaks`.

    Raises:
        LeakError: naming the first leak, by default.
        DataError: every question of the exam leaks and is to be left out.
    """
    known = [
        (split, f"problems/{split}.jsonl:{line}", one)
        for split, some in trained_on.items()
        for line, one in enumerate(some, start=1)
    ]
    asked, learned = [form(one) for one in found.problems], [form(one) for *_, one in known]
    leaks = find_leaks(asked, learned)  # one for each question of the exam
    near = near_duplicates(asked, learned, leaks)
    notes = list(found.notes)
    if leaks:
        first, (split, place, _) = found.problems[leaks[0].learned], known[leaks[0].examined]
        if policy == "refuse":
            raise LeakError(
                found.places[first.id],
                f"this question of {name} is in {split} too, at {place} of the run ({shared(leaks)}); remove "
                "them, or set task.leaks to drop (leaves them out of this exam) or keep",
            )
        done = "left out of this exam" if policy == "drop" else "kept"
        notes.append(
            f"{name}: questions that are trained on too, {done}: {counted(leaks)} (task.leaks: {policy})"
        )
    if near:
        notes.append(
            f"{name}: questions that nearly repeat one that is trained on, kept: {len(near)} of "
            f"{len(found.problems)}, such as"
        )
    for pair in near[:NEAR_SHOWN]:
        mine, (_, place, theirs) = found.problems[pair.learned], known[pair.examined]
        notes.append(
            f"  {found.places[mine.id]} {shortened(mine.question)} and {place} "
            f"{shortened(theirs.question)}: {pair.share:.0%} of the words"
        )
    if not leaks or policy == "keep":
        return replace(found, notes=notes)
    return _without(
        name, replace(found, notes=notes), {one.learned: known[one.examined][:2] for one in leaks}
    )


def _without(name: str, found: OtherTest, leaking: Mapping[int, tuple[str, str]]) -> OtherTest:
    """The exam without the questions of these numbers, which are trained on: (split, place) of each."""
    left_out = [
        LeftOut(
            split="test",
            place=found.places[found.problems[number].id],
            why=f"this question is in {split} too, at {place}",
        )
        for number, (split, place) in leaking.items()
    ]
    kept = [one for number, one in enumerate(found.problems) if number not in leaking]
    if not kept:
        raise DataError(name, "every question of this exam is trained on too; give other data")
    return replace(found, problems=kept, left_out=[*found.left_out, *left_out])
