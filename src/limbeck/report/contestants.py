"""Contestants: the finished exams under the given folders, each with a name of its own."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from limbeck.errors import DataError, InputError
from limbeck.exam_facts import ExamFacts, Role, of_exam
from limbeck.records import Prediction, read_jsonl
from limbeck.report.places import Place, find_places, home
from limbeck.report.run_files import history, read_json, run_facts, validated
from limbeck.sealed import check


class Metrics(BaseModel):
    """What is read of the score in metrics.json; counts are checked against the predictions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    problems: int
    correct: int
    extraction_failed: int
    truncated: int
    mean_tokens: float
    tokens_per_s: float
    votes: int = 1


@dataclass(frozen=True, slots=True)
class Contestant:
    """One finished exam.

    `group` is the student (or its round) whatever its seed, `student` whatever its seed and round;
    `name` is unique among the contestants of one call; `exam` is the folder with the predictions,
    `run` the run folder it lies in (None: an exam folder of its own).
    """

    name: str
    group: str
    student: str
    facts: ExamFacts
    exam: Path
    run: Path | None
    metrics: Metrics
    predictions: tuple[Prediction, ...]

    @property
    def role(self) -> Role:
        return self.facts.role

    @property
    def seed(self) -> int | None:
        return self.facts.seed

    @property
    def correct(self) -> int:
        return self.metrics.correct

    @property
    def problems(self) -> int:
        return self.metrics.problems

    @property
    def accuracy(self) -> float:
        return self.correct / self.problems


def weights_of(exams: Iterable[Contestant]) -> list[str | None]:
    """A hash of the weights of each exam; None: not known."""
    return [one.facts.weights for one in exams]


def same_weights(a: Sequence[str | None], b: Sequence[str | None]) -> bool:
    """Whether the exams in one place of both are of the same weights, as far as is known."""
    return bool(a) and a == b and None not in a


def contestants(paths: Sequence[Path], other: str = "") -> list[Contestant]:
    """Read every finished exam of one task under the given folders, in the order given.

    Within a run: the teacher, the mentors, then the students in the recipe's order, rounds ascending and
    the student itself behind them, seeds ascending. A learner that is not examined yet, or no longer in
    the run's recipe, is left out here and named by `left_out`.

    Args:
        other: a task of `other_exams`; "": the task that each run is about. An exam whose own folder
            is given counts as one of these, whatever it is of.

    Raises:
        InputError: a folder holds no finished exam, or is given twice.
        DataError: metrics or predictions are broken or do not fit each other.
        DiskError: a file cannot be read.
    """
    if not paths:
        raise InputError("no folder given; name the folder of a run, a student or an exam")
    places: list[Place] = []
    for path in paths:
        found = [place for place in find_places(path) if _task_of(place, path) == other]
        done = [place for place in found if place.finished and not place.stale]
        if not done and not other:
            missing = f"{found[0].exam} has none" if found else "nobody was examined"
            raise InputError(
                f"{path}: no finished exam here ({missing}); finish `limbeck run` or `limbeck evaluate` first"
            )
        places += done
    counts = Counter(place.exam.resolve() for place in places)
    for place in places:
        if counts[place.exam.resolve()] > 1:
            raise InputError(f"{place.exam}: this exam is given twice; name every folder once")
    names = _names(places)
    return [_read(place, *name) for place, name in zip(places, names, strict=True)]


def other_exams(paths: Sequence[Path]) -> list[str]:
    """The other tasks (`exam.also`) of which there are finished exams, in the recipe's order.

    `DIRECT`, the exam without reasoning (`exam.direct`), is one of them, the first.
    """
    places = [(place, path) for path in paths for place in find_places(path)]
    tasks = [_task_of(place, path) for place, path in places if place.finished and not place.stale]
    return [task for task in dict.fromkeys(tasks) if task]


def _task_of(place: Place, given: Path) -> str:
    """The other task that an exam is of; "" where it is the run's own, or this very exam was asked for."""
    return "" if place.exam.resolve() == given.resolve() else place.other


def left_out(paths: Sequence[Path]) -> list[str]:
    """One sentence per teacher, mentor or student of the given folders that `contestants` leaves out.

    Of one that is left out of its own task's table, other tasks are not named.
    """
    absent: list[Place] = []
    known: set[object] = set()
    for place in (place for path in paths for place in find_places(path)):
        if not place.finished or place.stale:
            who = (place.side, place.facts.seed)
            absent += [place] if not place.other or who not in known else []
            known |= set() if place.other else {who}
    return [_absence(place) for place in absent]


def _absence(place: Place) -> str:
    name = shown(place.facts) + ("" if place.facts.seed is None else f" seed {place.facts.seed}")
    if place.stale and place.other:
        return f"{name}: the exam {of_exam(place.other)} is no longer in the recipe"
    if place.stale:
        return f"{name} is no longer in the recipe"
    if place.other:
        return f"{name} has no finished exam {of_exam(place.other)}"
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


def in_rounds(exams: Sequence[Contestant]) -> dict[str, dict[int, list[Contestant]]]:
    """Who trains in rounds: student -> round -> the exams of its seeds after that round, rounds ascending.

    Round 0 is who began. The exam of the student itself takes the place of that of its last round; where
    nothing says which round that was, it is left out.
    """
    found: dict[str, dict[int, dict[int | None, Contestant]]] = {}
    for exam in exams:
        itself = exam.facts.round is None
        number = exam.facts.after_round if itself else exam.facts.round
        if number is not None:
            seeds = found.setdefault(exam.student, {}).setdefault(number, {})
            seeds[exam.seed] = exam if itself else seeds.get(exam.seed, exam)
    several = {exam.student for exam in exams if exam.facts.round is not None}
    return {
        student: {number: list(rounds[number].values()) for number in sorted(rounds)}
        for student, rounds in found.items()
        if student in several
    }


def shown(facts: ExamFacts) -> str:
    """What tables call it, whatever its seed; a helper without a name of its own is just its role."""
    helper = facts.role in ("mentor", "verifier") and facts.name != facts.role
    name = f"{facts.role} {facts.name}" if helper else facts.name
    name = name if facts.round is None else f"{name} · round {facts.round}"
    return name if facts.split in ("", "test") or facts.role == "exam" else f"{name} · on {facts.split}"


def _read(place: Place, name: str, group: str, student: str) -> Contestant:
    path = place.exam / "metrics.json"
    metrics = validated(path, read_json(path), Metrics)
    path = place.exam / "predictions.jsonl"
    check(path)
    predictions = tuple(read_jsonl(path, Prediction))
    counted = (len(predictions), sum(prediction.correct for prediction in predictions))
    if not predictions:
        raise DataError(path, "no predictions; an exam needs problems, so run it again")
    if counted != (metrics.problems, metrics.correct):
        raise DataError(
            path,
            f"{counted[1]} of {counted[0]} right, but metrics.json next to it says "
            f"{metrics.correct} of {metrics.problems}; run the exam again",
        )
    repeated = [key for key, times in Counter(p.problem_id for p in predictions).items() if times > 1]
    if repeated:
        raise DataError(path, f"problem {repeated[0]!r} is answered twice; run the exam again")
    return Contestant(name, group, student, place.facts, place.exam, place.run, metrics, predictions)


def _names(places: Sequence[Place]) -> list[tuple[str, str, str]]:
    """(name, group, student) of every exam: the shortest that no other exam has.

    "cot-3" within one run; "demo/cot-3" when several runs have a cot-3; the path
    when that does not help. One rule for all, so that names stay comparable.
    """
    recipes = {place.run: run_facts(place.run).recipe for place in places if place.run}
    owners = _owners(places)
    levels: list[Callable[[Place, ExamFacts], str]] = [
        lambda one, facts: shown(facts),
        lambda one, facts: f"{recipes[one.run]}/{shown(facts)}" if one.run else shown(facts),
        lambda one, facts: _path(one, facts) if owners[one.exam] == one.side else str(one.exam),
        lambda one, facts: str(one.exam),
    ]
    groups: list[str] = []
    for level in levels:
        groups = [level(place, place.facts) for place in places]
        pairs = {(group, owners[place.exam]) for group, place in zip(groups, places, strict=True)}
        if len(pairs) == len(set(groups)):
            break
    sizes = Counter(groups)
    return [
        (
            group if sizes[group] == 1 or place.facts.seed is None else f"{group} seed {place.facts.seed}",
            group,
            level(place, place.facts.model_copy(update={"round": None})),
        )
        for group, place in zip(groups, places, strict=True)
    ]


def _owners(places: Sequence[Place]) -> dict[Path, object]:
    """Exam -> whose seeds it is one of. Exams with equal seeds, or none, are not of one student."""
    sides = defaultdict(list)
    for place in places:
        sides[place.side].append(place)
    return {
        place.exam: side if len({one.facts.seed for one in members}) == len(members) else place.exam
        for side, members in sides.items()
        for place in members
    }


def _path(place: Place, facts: ExamFacts) -> str:
    """The student's folder; its round where it has some."""
    folder = home(place.exam) if place.exam.is_absolute() else os.path.relpath(home(place.exam))
    return f"{folder}" if facts.round is None else f"{folder} · round {facts.round}"
