"""Where exams are: every folder with metrics.json and predictions.jsonl below the given ones.

Who was examined is in metrics.json (`exam_facts`), so a method may lay out its
folders as it likes. Only what is not finished is known by its folder alone.
The exam of another task (`exam.also`) is a stage `exam-NAME` next to that of the task itself, and so is the
one without reasoning, `exam-direct`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from limbeck.errors import DataError, DiskError, InputError
from limbeck.exam_facts import DIRECT, ExamFacts, Role
from limbeck.report.run_files import read_json, read_recipe, recipe_part, run_facts, validated

ROLES: tuple[Role, ...] = get_args(Role)
"""In the order of tables."""


@dataclass(frozen=True, slots=True)
class Place:
    """One exam, finished or not, before anything large is read.

    `run` is the run folder it lies in. `stale`: the run's recipe no longer names this
    student, seed or mentor, so its exam may be of other problems.
    """

    exam: Path
    facts: ExamFacts
    run: Path | None
    finished: bool
    stale: bool

    @property
    def other(self) -> str:
        """See `ExamFacts.other`."""
        return self.facts.other

    @property
    def side(self) -> tuple[Path, Role, str, int | None]:
        """What all seeds of one student have in common, and nobody else."""
        folder = self.run.resolve() if self.run else home(self.exam)
        return (folder, self.facts.role, self.facts.name, self.facts.round)


def find_places(path: Path) -> list[Place]:
    """The exams at or below a folder: teacher, mentors, then students in the recipe's order.

    Raises:
        InputError: there is no such folder.
        DataError: a metrics.json or a recipe.yaml is broken.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; name the folder of a run, a student or an exam")
    folders = {exam: _run_of(exam) for exam in _exam_folders(path)}
    recipes = {run: read_recipe(run) for run in set(folders.values())}
    for exam, run in list(folders.items()):
        to_come = [exam.with_name(f"exam-{name}") for name in other_tasks(recipes[run])]
        folders |= {one: run for one in to_come if exam.name == "exam" and exam != path}
    places = [_place(exam, run, recipes[run], path) for exam, run in folders.items()]
    places = _without_later_rounds(places)
    places = [place for place in places if _expected(place, recipes[place.run])]
    return sorted(places, key=lambda place: _order(place, recipes[place.run]))


def _without_later_rounds(places: list[Place]) -> list[Place]:
    """Without rounds behind the one that a student ended with, which a longer run left in the same folder.

    A round that was no better on dev stays, with its exam there.
    """
    last = {
        (place.side[:3], place.facts.seed): place.facts.after_round
        for place in places
        if place.finished and not (place.other or place.stale)
        if place.facts.round is None and place.facts.after_round is not None
    }
    return [
        place
        for place in places
        if place.facts.round is None
        or place.facts.split not in ("", "test")
        or (end := last.get((place.side[:3], place.facts.seed))) is None
        or place.facts.round <= end
    ]


def _exam_folders(top: Path) -> list[Path]:
    """Folders of exams, held, begun or to come; what a run put aside in its old/ is left out."""

    def fail(error: OSError) -> None:
        raise DiskError(error.filename or top, error) from error

    exams: list[Path] = []
    trained: list[Path] = []
    for at, inner, files in os.walk(top, onerror=fail):
        aside = "old" if "run.json" in files else ""
        inner[:] = [name for name in inner if name != aside and not name.startswith(".")]
        folder = Path(at)
        begun = folder.name == "exam" or _is_of_another_task(folder)
        if "predictions.jsonl" in files or (begun and not inner):
            exams.append(folder)
        elif "history.jsonl" in files or "examples.jsonl" in files:
            trained.append(folder)
    # a learner of a method with rounds may be examined after each of them, or by itself after the last one
    unexamined = [
        one
        for one in trained
        if not any(exam.is_relative_to(one) for exam in exams)
        and not (re.fullmatch(r"round\d+", one.name) and one.parent / "exam" in exams)
    ]
    return exams + [one / "exam" for one in unexamined]


def _run_of(exam: Path) -> Path | None:
    """The run folder that an exam lies in."""
    given = next((folder for folder in exam.parents if (folder / "run.json").is_file()), None)
    above = (folder for folder in exam.resolve().parents if (folder / "run.json").is_file())
    return given or next(above, None)


def _place(exam: Path, run: Path | None, recipe: Mapping[str, Any], top: Path) -> Place:
    finished = (exam / "metrics.json").is_file() and (exam / "predictions.jsonl").is_file()
    facts = _facts(exam, run) if finished else facts_by_path(exam, run)
    by_name = run is not None and len(top.resolve().parts) > len(run.resolve().parts) + 1
    return Place(exam, facts, run, finished, not by_name and _is_stale(facts, recipe))


def _facts(exam: Path, run: Path | None) -> ExamFacts:
    path = exam / "metrics.json"
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(path, "not a JSON object; run the exam again")
    if "role" not in found:
        return facts_by_path(exam, run, found)
    known = {key: found[key] for key in ExamFacts.model_fields if key in found}
    return validated(path, known, ExamFacts)


def facts_by_path(exam: Path, run: Path | None, metrics: Mapping[str, Any] | None = None) -> ExamFacts:
    """Who an exam is of by the folders of Limbeck's own stages: `students/NAME/seedN/roundN/exam`.

    For exams that are not over, and for those of Limbeck 0.1.0, whose metrics.json does not say.
    """
    learner, folder = home(exam), exam.resolve()
    number = re.search(r"/round(\d+)(?:/exam[^/]*)?$", folder.as_posix())
    seed = re.search(r"/seed(\d+)(?:/round\d+)?(?:/exam[^/]*)?$", folder.as_posix())
    group = learner.parent.name
    role: Role = "exam"
    if group == "students" and seed:
        role = "student"
    elif run and learner.parent == run.resolve() and learner.name == "teacher":
        role = "teacher"
    elif run and group == "mentors":
        role = "mentor"
    about = run_facts(run) if run else None
    other = folder.name.removeprefix("exam-") if _is_of_another_task(folder) else ""
    direct, also = other == DIRECT, other not in ("", DIRECT)
    return ExamFacts(
        role=role,
        name=learner.name or "exam",
        seed=int(seed[1]) if seed else None,
        round=int(number[1]) if number else None,
        model=str((metrics or {}).get("name", "")),
        split=str((metrics or {}).get("split", "")),
        task=other if also else about.task if about else "",
        kind="" if also else about.kind if about else "",
        also=also,
        direct=direct,
    )


def _is_of_another_task(exam: Path) -> bool:
    """Whether a folder is a stage `exam-NAME`, or one to come; `limbeck evaluate --out` makes no stages."""
    stage = (exam / "stage.json").is_file() or not exam.exists()
    return exam.name.startswith("exam-") and stage and exam.parent.name not in ("students", "mentors")


def other_tasks(recipe: Mapping[str, Any]) -> list[str]:
    """What a recipe's `exam.also` calls its tasks; `DIRECT` before them where `exam.direct` is set."""
    exam = recipe.get("exam")
    exam = exam if isinstance(exam, dict) else {}
    found = [one for one in exam.get("also") or () if isinstance(one, dict)]
    direct = [DIRECT] if exam.get("direct") else []
    return [*direct, *(str(one.get("called") or one.get("name")) for one in found)]


def home(exam: Path) -> Path:
    """The folder that all seeds and rounds of an exam's student share."""
    folder = exam.resolve()
    if _is_of_another_task(folder):
        folder = folder.with_name("exam")
    for part in (r"exam", r"round\d+", r"seed\d+"):
        folder = folder.parent if re.fullmatch(part, folder.name) else folder
    return folder


def examined_mentors(recipe: Mapping[str, Any]) -> list[str]:
    """The mentors that a recipe examines."""
    return [name for name, one in recipe_part(recipe, "mentors").items() if one.get("exam", True)]


def _is_stale(facts: ExamFacts, recipe: Mapping[str, Any]) -> bool:
    if facts.other and recipe and facts.other not in other_tasks(recipe):
        return True
    if facts.role == "mentor":
        return bool(recipe) and facts.name not in examined_mentors(recipe)
    students = recipe_part(recipe, "students")
    if facts.role != "student" or not students:
        return False
    seeds = students.get(facts.name, {"seeds": []}).get("seeds")
    if facts.name in students and facts.seed is None:
        return False
    return isinstance(seeds, list) and facts.seed not in seeds


def _expected(place: Place, recipe: Mapping[str, Any]) -> bool:
    """Not a learner that was trained for something else than an exam, such as a mentor with `exam: false`."""
    if place.exam.is_dir() or place.facts.role == "student":
        return True
    return place.facts.role == "mentor" and not _is_stale(place.facts, recipe)


def _order(place: Place, recipe: Mapping[str, Any]) -> tuple[Any, ...]:
    facts, others = place.facts, ["", *other_tasks(recipe)]
    exam = others.index(place.other) if place.other in others else len(others)
    listed = list(recipe_part(recipe, f"{facts.role}s"))
    rank = listed.index(facts.name) if facts.name in listed else len(listed)
    round = math.inf if facts.round is None else facts.round  # the student itself is after its last round
    seed = -1 if facts.seed is None else facts.seed
    order = (exam, ROLES.index(facts.role), rank, facts.name, round, seed)
    return (str(place.run or ""), *order, str(place.exam))
