"""Contestants: finished exams found in run folders, students' folders and exam folders.

What lies in a folder tells what it is:

    run/                         run.json -> the teacher and every student and seed
    run/students/<student>/      seed<k>/ -> every seed of one student
    run/students/<student>/seed0 exam/    -> one student
    run/teacher/                 exam/    -> the teacher
    run/mentors/<mentor>/        exam/    -> a mentor
    an exam folder               metrics.json and predictions.jsonl
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from limbeck.errors import DataError, DiskError, InputError
from limbeck.records import Prediction, first_problem, numbered_lines, read_jsonl

Role = Literal["teacher", "mentor", "student", "exam"]
M = TypeVar("M", bound=BaseModel)


class Metrics(BaseModel):
    """What is read of metrics.json; counts are checked against the predictions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    problems: int
    correct: int
    extraction_failed: int
    truncated: int
    mean_tokens: float
    tokens_per_s: float
    votes: int = 1


class RunFacts(BaseModel):
    """What is read of run.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    recipe: str
    task: str = ""
    kind: str = ""
    seed: int | None = None
    versions: dict[str, str] = {}
    git: str | None = None
    created: str = ""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One finished exam.

    `group` is the student whatever its seed, `name` tells all contestants of one
    call apart; `exam` is the folder with the predictions, `run` the run folder it
    lies in (None: an exam folder of its own).
    """

    name: str
    group: str
    seed: int | None
    role: Role
    exam: Path
    run: Path | None
    metrics: Metrics
    predictions: tuple[Prediction, ...]

    @property
    def correct(self) -> int:
        return self.metrics.correct

    @property
    def problems(self) -> int:
        return self.metrics.problems

    @property
    def accuracy(self) -> float:
        return self.correct / self.problems


@dataclass(frozen=True, slots=True)
class Place:
    """Where an exam is, or should be: found before anything large is read.

    `stale`: the run's recipe no longer names this student or seed, so its exam may
    be of other problems.
    """

    exam: Path
    role: Role
    student: str
    seed: int | None
    run: Path | None
    stale: bool = False

    @property
    def finished(self) -> bool:
        """metrics.json is written last, so it says that the exam is over."""
        return (self.exam / "metrics.json").is_file() and (self.exam / "predictions.jsonl").is_file()


def contestants(paths: Sequence[Path]) -> list[Contestant]:
    """Read every finished exam under the given folders, in the order given.

    Within a run: the teacher, the mentors, then the students in the recipe's order, seeds
    ascending. Students of a run that are not examined yet, or that its recipe no
    longer names, are left out here and named by `left_out`.

    Raises:
        InputError: a folder is neither a run nor a student nor an exam, holds no
            finished exam, or is given twice.
        DataError: metrics or predictions are broken or do not fit each other.
        DiskError: a file cannot be read.
    """
    if not paths:
        raise InputError("no folder given; name the folder of a run, a student or an exam")
    places: list[Place] = []
    for path in paths:
        found = find_places(path)
        done = [place for place in found if place.finished and not place.stale]
        if not done:
            missing = f"{found[0].exam} has none" if found else "nobody was examined"
            raise InputError(
                f"{path}: no finished exam here ({missing}); finish `limbeck run` or `limbeck evaluate` first"
            )
        places += done
    counts = Counter(place.exam.resolve() for place in places)
    for place in places:
        if counts[place.exam.resolve()] > 1:
            raise InputError(f"{place.exam}: this exam is given twice; name every folder once")
    return _named([_read(place) for place in places])


def left_out(paths: Sequence[Path]) -> list[str]:
    """One sentence per teacher, mentor or student of the given folders that `contestants` leaves out."""
    return [
        _absence(place) for path in paths for place in find_places(path) if place.stale or not place.finished
    ]


def _absence(place: Place) -> str:
    name = place.student if place.seed is None else f"{place.student} seed {place.seed}"
    if place.stale:
        return f"{name} is no longer in the recipe"
    last = max((row["step"] for row in history(place.exam.parent)), default=None)
    return f"{name} has no finished exam" + (
        "" if last is None else f"; its training log ends at step {last:,}"
    )


def by_group(exams: Sequence[Contestant]) -> dict[str, list[Contestant]]:
    """Contestants of one student together, seeds ascending, groups in first-seen order."""
    groups: dict[str, list[Contestant]] = {}
    for contestant in exams:
        groups.setdefault(contestant.group, []).append(contestant)
    return groups


def run_facts(run: Path) -> RunFacts:
    """The facts of run.json.

    Raises:
        DataError: the file is not what `limbeck run` writes.
    """
    return _json_model(run / "run.json", RunFacts)


def history(student: Path) -> list[dict[str, Any]]:
    """Rows of a student's history.jsonl; none when it never trained.

    A torn last line (training was killed) is left out.

    Raises:
        DataError: a line is not a JSON object with a step.
    """
    path = student / "history.jsonl"
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    for number, line in numbered_lines(path, torn_tail=True):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(f"{path}:{number}", "not a row with a step; train this student again")
        rows.append(row)
    return rows


def read_json(path: Path) -> Any:
    """The JSON document in a file.

    Raises:
        DataError, DiskError: not JSON; not readable.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DiskError(path, error) from error
    except ValueError:
        raise DataError(path, "not valid JSON; run the stage that wrote it again") from None


def find_places(path: Path) -> list[Place]:
    """The exams a folder holds or should hold, finished or not, told by what lies in it.

    Raises:
        InputError: it holds none of the things Limbeck writes.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; name the folder of a run, a student or an exam")
    if (path / "run.json").is_file():
        return list(_run_places(path))
    if (path / "metrics.json").is_file() or (path / "predictions.jsonl").is_file():
        return [_exam_place(path)]
    seeds = _seed_folders(path)
    if seeds:
        return [_exam_place(folder / "exam") for folder in seeds]
    marks = ("exam", "examples.jsonl", "history.jsonl", "model")
    if any((path / mark).exists() for mark in marks):
        return [_exam_place(path / "exam")]
    raise InputError(
        f"{path}: neither a run, a student nor an exam (it holds no run.json, seed folder, exam folder or "
        "metrics.json); name a folder that `limbeck run` or `limbeck evaluate --out` wrote"
    )


def _run_places(run: Path) -> Iterator[Place]:
    if (run / "teacher").is_dir():
        yield Place(run / "teacher" / "exam", "teacher", "teacher", None, run)
    current = recipe_mentors(run, examined=True)
    for mentor in _folders(run / "mentors"):
        if (mentor / "exam").is_dir():
            stale = mentor.name not in current
            yield Place(mentor / "exam", "mentor", _mentor(mentor), None, run, stale)
    named = {
        name: list(one["seeds"]) if isinstance(one.get("seeds"), list) else None
        for name, one in _recipe_part(run, "students").items()
    }
    order = {name: number for number, name in enumerate(named)}
    students = [folder for folder in _folders(run / "students") if _seed_folders(folder)]
    for student in sorted(students, key=lambda folder: (order.get(folder.name, len(order)), folder.name)):
        for folder in _seed_folders(student):
            seeds = named.get(student.name, [])
            stale = bool(named) and seeds is not None and _seed(folder) not in seeds
            yield Place(folder / "exam", "student", student.name, _seed(folder), run, stale)


def _exam_place(exam: Path) -> Place:
    """An exam folder given by itself: its place in a run, when it lies in one."""
    home = exam.resolve()
    owner, above = home.parent, home.parents
    if home.name == "exam" and owner.name == "teacher" and (owner.parent / "run.json").is_file():
        return Place(exam, "teacher", "teacher", None, owner.parent)
    if home.name == "exam" and above[1].name == "mentors" and (above[2] / "run.json").is_file():
        return Place(exam, "mentor", _mentor(owner), None, above[2])
    if home.name == "exam" and _seed(owner) is not None and len(above) > 3 and above[2].name == "students":
        run = above[3] if (above[3] / "run.json").is_file() else None
        return Place(exam, "student", owner.parent.name, _seed(owner), run)
    return Place(exam, "exam", owner.name if home.name == "exam" else home.name, None, None)


def _seed(folder: Path) -> int | None:
    match = re.fullmatch(r"seed(\d+)", folder.name)
    return int(match.group(1)) if match else None


def _seed_folders(student: Path) -> list[Path]:
    folders = [folder for folder in _folders(student) if _seed(folder) is not None]
    return sorted(folders, key=lambda folder: _seed(folder) or 0)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(entry for entry in parent.iterdir() if entry.is_dir()) if parent.is_dir() else []
    except OSError as error:
        raise DiskError(parent, error) from error


def recipe_mentors(run: Path, *, examined: bool = False) -> list[str]:
    """The mentors of the run's recipe, or those it examines; without a recipe, all there are."""
    if not (run / "recipe.yaml").is_file():
        return [folder.name for folder in _folders(run / "mentors")]
    mentors = _recipe_part(run, "mentors")
    return [name for name, one in mentors.items() if one.get("exam", True) or not examined]


def _mentor(folder: Path) -> str:
    """What tables call a mentor; one that has no name of its own is just that."""
    return "mentor" if folder.name == "mentor" else f"mentor {folder.name}"


def _recipe_part(run: Path, part: str) -> dict[str, dict[str, Any]]:
    """The `students:` or `mentors:` of the run's recipe, in its order; empty when it cannot be told."""
    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    own = recipe.get(part) if isinstance(recipe, dict) else None
    if not isinstance(own, dict):
        return {}
    return {str(name): one if isinstance(one, dict) else {} for name, one in own.items()}


def _read(place: Place) -> Contestant:
    metrics = _json_model(place.exam / "metrics.json", Metrics)
    path = place.exam / "predictions.jsonl"
    predictions = tuple(read_jsonl(path, Prediction))
    counted = (len(predictions), sum(prediction.correct for prediction in predictions))
    if not predictions:
        raise DataError(path, "no predictions; an exam needs problems, so run it again")
    if counted != (metrics.problems, metrics.correct):
        raise DataError(
            path,
            f"{counted[1]} of {counted[0]} right, but metrics.json beside it says "
            f"{metrics.correct} of {metrics.problems}; run the exam again",
        )
    repeated = [key for key, times in Counter(p.problem_id for p in predictions).items() if times > 1]
    if repeated:
        raise DataError(path, f"problem {repeated[0]!r} is answered twice; run the exam again")
    name = place.student
    return Contestant(name, name, place.seed, place.role, place.exam, place.run, metrics, predictions)


def _named(exams: list[Contestant]) -> list[Contestant]:
    """Give every contestant the shortest name that tells it from all others.

    "cot-3" within one run; "demo/cot-3" when several runs have a cot-3; the path
    when that does not help. One rule for all, so that names stay comparable.
    """
    recipes = {c.run: run_facts(c.run).recipe for c in exams if c.run}
    levels: list[Callable[[Contestant], str]] = [
        lambda c: c.group,
        lambda c: f"{recipes[c.run]}/{c.group}" if c.run else c.group,
        lambda c: str({"student": c.exam.parent.parent, "exam": c.exam}.get(c.role, c.exam.parent)),
    ]
    groups: list[str] = []
    for level in levels:
        groups = [level(contestant) for contestant in exams]
        owners = {(group, _owner(c)) for group, c in zip(groups, exams, strict=True)}
        if len(owners) == len(set(groups)):
            break
    sizes = Counter(groups)
    return [
        replace(c, group=g, name=g if sizes[g] == 1 or c.seed is None else f"{g} seed {c.seed}")
        for g, c in zip(groups, exams, strict=True)
    ]


def _owner(contestant: Contestant) -> Path:
    """The folder all seeds of a student share; an exam of its own for anyone else."""
    exam = contestant.exam.resolve()
    return exam.parent.parent if contestant.role == "student" else exam


def _json_model(path: Path, kind: type[M]) -> M:
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(path, f"{first_problem(error)}; run the stage that wrote it again") from None
