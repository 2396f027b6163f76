"""What the actions share: opening a run, finding the task that is meant, showing progress.

Every import that costs time happens inside the function that needs it, as in `actions`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from limbeck.errors import DamagedError, InputError, RecipeError

if TYPE_CHECKING:
    from limbeck.methods import Chosen
    from limbeck.progress import Track
    from limbeck.recipe import Recipe
    from limbeck.records import Problem
    from limbeck.stages.context import Context
    from limbeck.tasks.settings import TaskSettings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """How a recipe is to be run.

    Attributes:
        out: the run folder; `runs/<recipe name>` when None.
        yes: the user agreed to the teacher's cost beforehand.
        max_cost: never pay more than this in all, in dollars; overrides the recipe's cap.
        release: requests to the teacher without an answer were not charged, by the bill.
        until: end well after this stage.
        again: a stage that runs again although nothing changed, or several.
        report: write report.html; False: the runs of a protocol show nothing before all are done.
    """

    out: Path | str | None = None
    yes: bool = False
    max_cost: float | None = None
    release: bool = False
    until: str | None = None
    again: str | Sequence[str] = ()
    report: bool = True


@contextmanager
def open_context(
    path: Path, overrides: Sequence[str], request: Request, *, trains: bool = True
) -> Iterator[tuple[Context, dict[str, Chosen]]]:
    """Read the recipe, open its run folder, and set up the teacher.

    Yields the context and each student's method; `prepare` comes next. Reaching `request.until` ends
    the block well. `trains` False: only the teacher is asked, and students need no method.
    """
    from limbeck import ranks
    from limbeck.methods import resolve_methods
    from limbeck.progress import SILENT, tracker
    from limbeck.recipe import load_recipe
    from limbeck.run_folder import open_run
    from limbeck.stages.context import Context
    from limbeck.stages.teacher import make_teacher

    recipe, chosen = resolve_methods(load_recipe(path, overrides, trains=trains), str(path), path.parent)
    check_until(request.until, recipe, chosen)
    folder = Path(request.out or Path("runs") / recipe.name)
    again = (request.again,) if isinstance(request.again, str) else request.again
    with open_run(folder, recipe.name, to_stderr, until=request.until, again=again) as opened:
        teacher = make_teacher(
            recipe, opened, agreed=request.yes, max_cost=request.max_cost, released=request.release
        )
        track = tracker(opened.say) if ranks.main() else SILENT
        yield Context(opened, recipe, teacher, track), chosen


def check_until(until: str | None, recipe: Recipe, chosen: Mapping[str, Chosen]) -> None:
    """Refuse a stage that cannot come up, before everything is run and paid in vain.

    Raises:
        RecipeError: naming what could be meant.
    """
    head, _, name = (until or "").strip("/").partition("/")
    learners = {"students": [*recipe.students], "mentors": [*recipe.mentors]}
    places = _places(recipe, chosen)
    if head in learners:
        known = ", ".join(f"{head}/{one}" for one in learners[head]) or "none"
        if not name and len(learners[head]) > 1:  # stages of others come up between them
            raise RecipeError(f"--until {until}: means several; name one of {known}")
        if name and name.partition("/")[0] not in learners[head]:
            raise RecipeError(f"--until {until}: the recipe has no such stage; there are {known}")
    elif head and head not in places and not any(one.method.source for one in chosen.values()):
        known = ", ".join([*sorted(places), *(f"{role}/NAME" for role in learners)])
        raise RecipeError(f"--until {until}: there is no such stage; choose one of {known}")


def _places(recipe: Recipe, chosen: Mapping[str, Chosen]) -> set[str]:
    """The stages and folders of stages that the recipe has, without those of students and mentors."""
    uses = [one.uses for one in chosen.values()]
    trained = [one.train for one in recipe.learners.values()]
    there = {
        "problems": True,
        "rationales": True,
        "collected": recipe.teacher.kind != "given",
        "teacher": getattr(recipe.teacher, "exam", False),  # one that is given sits none
        "also": bool(recipe.exam.also),
        "precision": any(one.precision == "auto" for one in trained),
        "verifier": recipe.verifier is not None,
        "verified": recipe.verifier is not None,
        "knowledge": any(one.reads for one in uses),
        "passages": any(one.reads for one in uses),
        "silver": any(one.supports or one.ranks for one in uses),
        "reranker": any(one.ranks for one in uses),
    }
    places = {place for place, is_there in there.items() if is_there}
    if any(one.choose == "dev-loss" for one in trained):
        places |= {f"{one}-dev" for one in ("collected", "rationales", "verified") if there[one]}
    return places | {pause for one in uses for pause in one.pauses}


def tell(context: Context, story: Callable[[], T]) -> T:
    """Run a story. Where a stage that it reads is damaged, put that aside and begin again: what is whole
    is kept."""
    while True:
        try:
            return story()
        except DamagedError as damaged:
            context.run.put_aside(damaged)
            context.memo.clear()


def prepare(context: Context, chosen: Mapping[str, Chosen], *, trains: bool = True) -> Context:
    """Refuse what must fail, make the problems, and only then write the recipe into the run folder.

    So a refused recipe leaves the folder's own in place. `trains` False: only the teacher is asked.

    Returns:
        The context with what is left to the machine settled (`precision: auto`).
    """
    from limbeck.stages.checks import check
    from limbeck.stages.others import others, read_others
    from limbeck.stages.precision import settled
    from limbeck.stages.preflight import preflight
    from limbeck.stages.problems import problems
    from limbeck.stages.soft_labels import SoftLabelSettings, check_served_labels

    uses = {name: found.uses for name, found in chosen.items()}
    untrained = {f"students.{name}" for name, used in uses.items() if not used.trains}
    mentors = context.recipe.mentors.keys() if context.recipe.students else set()
    idle = sorted(mentors - {used.mentor for used in uses.values()})
    undecided = untrained | {f"mentors.{name}" for name in idle}
    if context.recipe.verifier and not context.recipe.verifier.folds:
        undecided.add("verifier")
    context = settled(context, undecided, known=True)
    preflight(context, uses, trains=trains)
    for name, found in chosen.items():
        if isinstance(found.settings, SoftLabelSettings):
            check_served_labels(context.recipe, name, found.settings)
    read_others(context)
    problems(context)
    others(context)
    if trains and not _ends_untrained(context):
        context = settled(context, undecided)
    check(context)
    recipe = context.recipe
    for name in idle:
        context.run.say(f"mentors.{name}: no student learns from it, so it is not trained")
    facts = {
        "recipe": recipe.name,
        "task": recipe.task.name,
        "kind": context.kind,
        "seed": recipe.seed,
    }
    context.run.describe(recipe.to_yaml(), facts)
    return context


def _ends_untrained(context: Context) -> bool:
    """Whether the run ends before anybody's training, which a verifier's is too."""
    head = context.run.until.partition("/")[0]
    before = {"teacher", "collected", "rationales", "knowledge"}
    return head in before or (head in ("silver", "passages") and context.recipe.verifier is None)


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter of a run.

    Attributes:
        place: whose it is: a folder of the run.
        work: makes its stages.
        ours: of Limbeck; False: of a method from outside.
    """

    place: str
    work: Callable[[], object]
    ours: bool = True


def stories(context: Context, chosen: Mapping[str, Chosen]) -> Iterator[Chapter]:
    """What is done after `prepare`, in order: the teacher's exam, what the students of a method share, then
    every student's method; without any student the mentors'."""
    from limbeck import stages
    from limbeck.stages.teacher import examine_teacher

    def student(name: str, seed: int) -> None:
        method, uses = chosen[name].method, chosen[name].uses
        learner = stages.student(
            context, name, seed, chosen[name].plan, source=method.source, reasons=uses.reasons
        )
        method.story(context, learner, chosen[name].settings)

    yield Chapter("teacher", partial(examine_teacher, context))
    if context.run.until in ("collected", "rationales"):  # else they come when a student needs them
        yield Chapter("rationales", partial(stages.graded_rationales, context))
    if context.run.until == "verified":
        yield Chapter("verified", partial(stages.rationales, context))
    students = context.recipe.students
    one_alone = context.run.until.startswith(("students/", "mentors/"))  # whose story makes what it needs
    for own in () if one_alone else dict.fromkeys(one.method for one in students.values()):
        first, *others = [name for name, one in students.items() if one.method == own]
        method = chosen[first].method
        settings = [chosen[name].settings for name in (first, *others)]
        yield Chapter(f"students/{first}", partial(method.shared, context, settings), not method.source)
    for name, one in students.items():
        for seed in one.seeds:
            ours = not chosen[name].method.source
            yield Chapter(f"students/{name}/seed{seed}", partial(student, name, seed), ours)
    if not students:
        for name, mentor in context.recipe.mentors.items():
            work = stages.examine_mentor if mentor.exam else stages.mentor
            yield Chapter(f"mentors/{name}", partial(work, context, name))


def to_stderr(line: str) -> None:
    """Say a line about what happens; standard output is for results."""
    print(line, file=sys.stderr)


def about_task(name: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of that file; or of a built-in task's name, one with everything at its default."""
    from limbeck.recipe import check_recipe, load_recipe
    from limbeck.tasks.generated import built_in_task

    if name.endswith((".yaml", ".yml")):
        return load_recipe(Path(name), overrides, trains=False)
    if overrides:
        raise InputError("--set: changes the settings of a recipe; name a recipe file with --task")
    task = {"name": built_in_task(name).name}
    return check_recipe({"name": "built-in", "task": task}, "--task", trains=False)


def problems_of(settings: TaskSettings, seed: int, split: str) -> list[Problem]:
    from limbeck.tasks.sources import load_splits

    problems: list[Problem] = getattr(load_splits(settings, seed), split)
    if not problems:
        raise InputError(f"--split {split}: this task has no problems there; choose another split")
    for problem in problems:
        if problem.answer is None:
            raise InputError(
                f"--split {split}: problem {problem.id} has no gold answer, so nobody can be examined on it; "
                "take test, or write the missing answers"
            )
    return problems


def tell_leaks(model: str, asked: Sequence[Problem], split: str) -> None:
    """Say how many of these questions a student of a run may have been trained on, or chosen by.

    The run folder is known by its problems; of other models nothing is known.
    """
    from limbeck.records import Problem, read_jsonl
    from limbeck.tasks.forms import form
    from limbeck.tasks.leaks import find_leaks

    folders = [folder / "problems" for folder in Path(model).resolve().parents]
    files = [
        folder / f"{name}.jsonl"
        for folder in folders
        if (folder / "stage.json").is_file()
        for name in (("train", "dev") if split == "test" else ("train",))
    ]
    learned = [form(one) for file in files if file.is_file() for one in read_jsonl(file, Problem)]
    examined = {leak.examined for leak in find_leaks(learned, [form(one) for one in asked])}
    if examined:
        to_stderr(
            f"{model}: {len(examined)} of {len(asked)} questions are among those of its run's training; "
            "its accuracy here says little about new ones"
        )


def model_folder(model: str) -> str:
    """The model inside a student's folder, that of its last round where it has rounds; any other name or
    folder as it is.

    Raises:
        InputError: the student's folder has no `stage.json`, by which damage would be noticed.
    """
    from limbeck.run_folder import read_json
    from limbeck.sealed import STAGE

    own = Path(model)
    last = (read_json(own / "exam" / "metrics.json") or {}).get("after_round")
    trained = own if last is None else own / f"round{last}"
    inner = trained / "model"
    if not any((inner / name).is_file() for name in ("config.json", "adapter_config.json")):
        return model
    if not (trained / STAGE).is_file():
        raise InputError(
            f"{trained}: {STAGE} is missing, so its training did not end or its files cannot be checked; run "
            f"the recipe again, or name {inner} to take it as it is"
        )
    return str(inner)


def live_track() -> Track:
    from limbeck import ranks
    from limbeck.progress import SILENT, tracker

    return tracker(to_stderr) if ranks.main() else SILENT
