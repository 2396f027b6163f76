"""`limbeck run RECIPE --dry-run`: what a run will do and take, before it does anything.

It refuses what a run would refuse before its first stage, writes nothing into the run folder, and asks no
teacher.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck import ranks
from limbeck.errors import InputError
from limbeck.opening import Request, check_until, to_stderr

if TYPE_CHECKING:
    from limbeck.dry_run.models import Sized
    from limbeck.methods import Chosen
    from limbeck.recipe import LearnerSettings, Recipe
    from limbeck.stages.context import Context
    from limbeck.stages.soft_labels import SoftLabelSettings
    from limbeck.training.rows import Rows

Facts = dict[str, Any]


def dry_run(
    path: Path,
    overrides: Sequence[str],
    request: Request,
    *,
    probe: bool = True,
    devices: int | None = None,
) -> Facts:
    """What `limbeck run` with the same arguments will do: stages, models, price, disk.

    Args:
        path: the recipe's file.
        probe: take three steps of every training, to say how long it will take. Without it a model needs no
            weights at hand, config.json is enough.
        devices: processes that will run it; None: as many as there are GPUs here, at least one.

    Returns:
        JSON values; bytes, seconds and dollars. docs/architecture.md names them.

    Raises:
        LimbeckError: what a run would refuse.
    """
    from limbeck.dry_run.looking import Looking
    from limbeck.dry_run.walking import listed, walk
    from limbeck.methods import resolve_methods
    from limbeck.recipe import load_recipe
    from limbeck.run_folder import Run, refuse_foreign
    from limbeck.scale.devices import visible_devices
    from limbeck.stages.context import Context, Planned

    if ranks.world() > 1:
        raise InputError("--dry-run: looks at one process; run it without torchrun, with --devices N")
    recipe, chosen = resolve_methods(load_recipe(path, overrides), str(path), path.parent)
    check_until(request.until, recipe, chosen)
    folder = Path(request.out or Path("runs") / recipe.name)
    refuse_foreign(folder, recipe.name)
    again = (request.again,) if isinstance(request.again, str) else request.again
    run = Run(folder, to_stderr, again=again)
    run.check()
    with tempfile.TemporaryDirectory(prefix="limbeck-") as scratch:
        looking = Looking(run, Path(scratch), _quiet)
        context = Context(looking, recipe, _no_teacher, planned=Planned(rows=_room(folder)))
        context = _prepared(context, chosen, probe=probe)
        looking.until = (request.until or "").strip("/")
        if looking.until not in looking.seen:  # the problems are looked at already
            walk(context, looking, chosen)
        found: Facts = {
            "recipe": recipe.name,
            "folder": str(folder),
            "stages": [
                {"stage": one.name, "state": one.state, "why": one.why}
                for one in listed(recipe, looking, chosen)
            ],
        }
        todo = {one["stage"] for one in found["stages"] if one["state"] != "done"}
        found["teacher"] = _of_teacher(context, todo)
        devices = devices or visible_devices()
        labels = _Labels(context)
        found["learners"] = _of_learners(context, chosen, todo, devices, labels, probe=probe)
        found["disk"] = _of_disk(folder, found["learners"], devices, labels.bytes())
    return found


def _quiet(line: str) -> None:
    """What a run would say of its stages; the list of them says it."""


def _no_teacher() -> Any:
    raise RuntimeError("a dry run asks no teacher")


def _prepared(context: Context, chosen: Mapping[str, Chosen], *, probe: bool) -> Context:
    """What a run refuses before its first stage is refused; its problems are known then.

    A `precision: auto` that no run settled yet stays.
    """
    from limbeck.stages.checks import check
    from limbeck.stages.others import others, read_others
    from limbeck.stages.precision import settled
    from limbeck.stages.preflight import preflight
    from limbeck.stages.problems import problems

    context = settled(context, known=True)
    uses = {name: found.uses for name, found in chosen.items()}
    preflight(context, uses, weights=probe, room=False)
    read_others(context)
    problems(context)
    others(context)
    check(context)
    return context


def _of_teacher(context: Context, todo: set[str]) -> list[Facts]:
    """What asking the teacher will cost, stage by stage; empty where it costs nothing."""
    from limbeck.dry_run.money import estimates

    return estimates(context, todo)


def _of_learners(
    context: Context,
    chosen: Mapping[str, Chosen],
    todo: set[str],
    devices: int,
    labels: _Labels,
    *,
    probe: bool,
) -> list[Facts]:
    """The models of the run, each with how many of it are still to be trained."""
    from limbeck.dry_run import models
    from limbeck.recipe import LocalTeacherSettings
    from limbeck.run_folder import below
    from limbeck.stages.soft_labels import SoftLabelSettings
    from limbeck.uses import Uses

    recipe, found = context.recipe, []
    assert context.planned is not None
    trainings = context.planned.trainings
    if isinstance(recipe.teacher, LocalTeacherSettings):
        found.append({**models.of_teacher(context, recipe.teacher, weights=probe), "left": 0})
    for place, learner in recipe.learners.items():
        role, _, name = place.partition(".")
        uses = chosen[name].uses if role == "students" else Uses()
        if role == "verifier":
            assert recipe.verifier is not None
            uses = Uses(trains=recipe.verifier.folds > 0, rows=recipe.rationales.per_problem)
        folders = _folders(recipe, role, name)
        rounds = uses.models > 1  # then a training is a stage inside this folder
        left = sum(any(below(one, folder) if rounds else one == folder for one in todo) for folder in folders)
        planned = next((trainings[one] for one in folders if one in trainings), None)
        facts, model, reading = models.of_learner(
            context, place, learner, uses, planned, devices, probe=probe and left > 0
        )
        facts |= {"left": left * (uses.models if uses.trains else 0), "seeds": len(folders)}
        copies = [at for at, one in trainings.items() if one.same and at in todo]
        facts["copies"] = sum(below(at, own) for at in copies for own in folders)
        settings = chosen[name].settings if role == "students" else None
        if isinstance(settings, SoftLabelSettings) and uses.soft_labels and reading is not None:
            facts["soft_labels"] = models.of_soft_labels(settings, model, reading)
            if left:
                labels.add(folders, learner, settings, model, facts["soft_labels"]["bytes"])
            if settings.soft_labels == "live":
                facts["estimates"] = [*facts["estimates"], "its live mentor's weights are not counted"]
        if learner.train.precision == "auto":
            facts["estimates"] = [
                *facts["estimates"],
                "precision: auto counts as fp32 until a run tried both",
            ]
        if role == "verifier":
            facts["estimates"] = [*facts["estimates"], "rationales in its prompts are not counted"]
        if uses.models > 1:
            which = "with the rows that it is compared with" if uses.compared else "the first"
            facts["estimates"] = [*facts["estimates"], f"one of {uses.models} trainings, {which}"]
        found.append(facts)
    return found


def _folders(recipe: Recipe, role: str, name: str) -> list[str]:
    """Where the models of a learner are."""
    if role == "mentors":
        return [f"mentors/{name}"]
    if role == "verifier":
        folds = recipe.verifier.folds if recipe.verifier else 0
        return [f"verifier/fold{number + 1}" for number in range(folds)] or ["verifier/answers"]
    return [f"students/{name}/seed{seed}" for seed in recipe.students[name].seeds]


@dataclass
class _Labels:
    """Soft labels that are still to be written: students whose labels are kept in one place share them.

    Attributes:
        exact: by that place, what they are made by, and the rows that are not there yet.
        guessed: where the rows are not known, the most bytes by what the place will depend on.
    """

    context: Context
    exact: dict[str, tuple[SoftLabelSettings, Sized, list[Rows]]] = field(default_factory=dict)
    guessed: dict[str, int] = field(default_factory=dict)

    def add(
        self,
        folders: Sequence[str],
        learner: LearnerSettings,
        settings: SoftLabelSettings,
        model: Sized,
        guess: int,
    ) -> None:
        """Take note of a student's, in all of its folders."""
        assert self.context.planned is not None
        heard = [one for folder in folders if (one := self.context.planned.labels.get(folder))]
        for one in heard:
            self.exact.setdefault(one.store, (settings, model, []))[2].append(one.lacking)
        if not heard:
            about = (settings.mentor, settings.temperature, settings.codec.plan())
            place = repr((about, learner.prompt, learner.format, learner.train.prompt_weight > 0))
            self.guessed[place] = max(guess, self.guessed.get(place, 0))

    def bytes(self) -> int:
        """Of all of them."""
        from limbeck.dry_run.models import labels_left

        return sum(self.guessed.values()) + sum(labels_left(*one) for one in self.exact.values())


def _room(folder: Path) -> Path | None:
    """Where rows of tokens take their room while a run is looked at: on the disk of the run folder, in files
    without a name. The system's folder of temporary files is memory on many machines."""
    from limbeck.files import existing_parent

    place = existing_parent(folder)
    return place if os.access(place, os.W_OK) else None


def _of_disk(folder: Path, learners: Sequence[Facts], devices: int, labels: int) -> Facts:
    """Bytes that the run will still take, without its texts: models, the largest checkpoints, soft labels,
    and the rows of tokens of the largest training, which each process has while it trains."""
    from limbeck.files import existing_parent

    saved = sum(one["saved"] * one["left"] for one in learners if "saved" in one)
    largest = max((one["checkpoints"] for one in learners if one["left"] and "saved" in one), default=0)
    rows = devices * max((one["rows"] for one in learners if one["left"] and "saved" in one), default=0)
    free = shutil.disk_usage(existing_parent(folder)).free
    needed = saved + largest + labels + rows
    return {
        "models": saved,
        "checkpoints": largest,
        "soft_labels": labels,
        "rows": rows,
        "needed": needed,
        "free": free,
        "fits": needed <= free,
    }
