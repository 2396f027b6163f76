"""Which stages a run has, and which are done: the stories of all methods, on a run that only looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from limbeck.dry_run.looking import Looking, Seen
from limbeck.errors import DamagedError, LimbeckError
from limbeck.exam_facts import DIRECT
from limbeck.opening import stories
from limbeck.recipe import Recipe
from limbeck.run_folder import Reached
from limbeck.stages.context import Context, Planned
from limbeck.tasks.settings import own_name

if TYPE_CHECKING:
    from limbeck.methods import Chosen

OPEN = "depends on what is not there yet"


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
    for story in stories(context, chosen):
        try:
            story()
        except (DamagedError, Reached):
            raise
        except LimbeckError as error:
            if not looking.is_of_nobody(error):
                raise
        # A method of its own may ask anything of what is not there.
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, OSError):
            if all(one.state == "done" for one in looking.seen.values()):
                raise


def listed(recipe: Recipe, looking: Looking, chosen: Mapping[str, Chosen]) -> list[Seen]:
    """The stages that came up, and behind them those that every run of the recipe must have."""
    wanted = {} if looking.until else dict.fromkeys(_expected(recipe, chosen))
    known = looking.seen | {name: Seen(name, "to do", OPEN) for name in wanted if name not in looking.seen}
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
