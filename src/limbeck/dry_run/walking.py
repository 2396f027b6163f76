"""Which stages a run has, and which are done: the stories of all methods, on a run that only looks."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.dry_run.looking import Looking, Seen
from limbeck.errors import PACKAGE, DamagedError, LimbeckError, first_line
from limbeck.exam_facts import DIRECT
from limbeck.opening import stories
from limbeck.recipe import Recipe
from limbeck.run_folder import Reached
from limbeck.stages.context import Context, Planned
from limbeck.tasks.settings import own_name

if TYPE_CHECKING:
    from limbeck.methods import Chosen

OPEN = "depends on what is not there yet"
UNSEEN = "its method stopped at what is not there yet, so what comes behind is not known"


def walk(context: Context, looking: Looking, chosen: Mapping[str, Chosen]) -> None:
    """Go through every story until it needs what nobody made; `looking` and `context.planned` then know.

    Raises:
        LimbeckError: what a run would refuse as well.
    """
    while True:
        try:
            _walk(context, looking, chosen)
            return
        except Reached:
            return
        except DamagedError as damaged:
            looking.put_aside(damaged)
            context.memo.clear()


def _walk(context: Context, looking: Looking, chosen: Mapping[str, Chosen]) -> None:
    looking.unseen.clear()
    for chapter in stories(context, chosen):
        try:
            chapter.work()
        except (DamagedError, Reached):
            raise
        except Exception as error:
            if isinstance(error, LimbeckError | OSError) and looking.is_of_nobody(error):
                continue
            # A method from outside may do anything with what is not there. In one of ours, or with everything
            # there, it is a mistake that a run would make too.
            there = all(one.state == "done" for one in looking.seen.values())
            if isinstance(error, LimbeckError) or chapter.ours or there:
                raise
            looking.unseen[chapter.place] = _reason(error)


def _reason(error: Exception) -> str:
    """What a method from outside did where a stage was not there: the error, and its own last line."""
    frames = [
        one
        for one in traceback.extract_tb(error.__traceback__)
        if not one.filename.startswith((PACKAGE, "<"))
    ]
    text = first_line(error)
    said = text if text == type(error).__name__ else f"{type(error).__name__}: {text}"
    return f"{UNSEEN} ({said}, {Path(frames[-1].filename).name}:{frames[-1].lineno})"


def listed(recipe: Recipe, looking: Looking, chosen: Mapping[str, Chosen]) -> list[Seen]:
    """The stages that came up, and behind them those that every run of the recipe must have.

    Where a method from outside could not be followed, its student's line says why.
    """
    wanted = {} if looking.until else dict.fromkeys(_expected(recipe, chosen))
    known = looking.seen | {name: Seen(name, "to do", OPEN) for name in wanted if name not in looking.seen}
    for place, reason in looking.unseen.items():
        state = looking.seen[place].state if place in looking.seen else "to do"
        known[place] = Seen(place, state, reason)
    return list(known.values())


def _expected(recipe: Recipe, chosen: Mapping[str, Chosen]) -> Iterator[str]:
    """Names of stages that the recipe alone says."""
    also = [own_name(other) for other in recipe.exam.also]
    exams = ["exam", *([f"exam-{DIRECT}"] if recipe.exam.direct else []), *(f"exam-{name}" for name in also)]
    taught = {one.uses.mentor for one in chosen.values()} if recipe.students else set(recipe.mentors)
    for name, mentor in recipe.mentors.items():
        if name in taught:
            yield f"mentors/{name}"
            yield from (f"mentors/{name}/{exam}" for exam in exams if mentor.exam)
            if recipe.students:
                yield f"mentors/{name}/rationales"
    for name, student in recipe.students.items():
        uses = chosen[name].uses
        for seed in student.seeds:
            place = f"students/{name}/seed{seed}"
            if uses.trains and uses.models == 1:
                yield place
            yield from (f"{place}/{exam}" for exam in exams)


def planned(context: Context) -> Planned:
    """What the walk heard of."""
    assert context.planned is not None
    return context.planned
