"""Your own data as problems and rationales, and the splits of either kind of task.

Rules. Without an id column, rows with the same question and answer are one problem
with several rationales. With one, a repeated id means more rationales of the same
question. Two answers to one question, a question that trains and is examined, a
gold answer its kind cannot parse: each is refused with its place.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from limbeck.errors import DataError, LeakError, RecipeError
from limbeck.records import Problem
from limbeck.run_folder import path_fingerprint
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.generated import generate
from limbeck.tasks.readers import Placed, hub_folder, locate, read_rows
from limbeck.tasks.rows import row_problem, row_rationales, shortened
from limbeck.tasks.settings import Columns, FilesTask, Gold, Leaks, TaskSettings


class GivenRationale(NamedTuple):
    """A rationale that was in the data: the `number`-th one (from 0) of its problem."""

    problem_id: str
    number: int
    text: str


@dataclass
class Table:
    """What was read from one file; `places` says where each problem was first."""

    problems: list[Problem] = field(default_factory=list)
    given: list[GivenRationale] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    empty_rationales: int = 0
    repeated_rows: int = 0


@dataclass(frozen=True)
class Splits:
    """The problems of a task; `given` are rationales of train and dev, `notes` what the user should know."""

    train: list[Problem]
    dev: list[Problem]
    test: list[Problem]
    given: list[GivenRationale] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def problems(
    rows: Iterable[Placed],
    columns: Columns,
    kind: AnswerKind,
    *,
    labels: tuple[str, ...] = (),
    rationale_needed: bool = True,
    gold: Gold = "needed",
) -> Table:
    """Turn rows into problems and rationales.

    Args:
        rows: (place, row) pairs, as `read_rows` yields them.
        columns: what the columns are called.
        kind: the answer kind.
        labels: of kind label.
        rationale_needed: a row without the rationale column is an error.
        gold: "optional" where a row may lack its gold answer.

    Raises:
        DataError: with the row's place; see the rules above.
    """
    table = Table()
    known: dict[str, Problem] = {}
    answers: dict[tuple[str, tuple[str, ...]], tuple[str | None, str]] = {}
    counts: Counter[str] = Counter()
    for place, row in rows:
        problem = row_problem(place, row, columns, kind, gold, labels)
        answer, earlier = answers.setdefault((problem.question, problem.options), (problem.answer, place))
        if answer != problem.answer:
            raise DataError(
                place,
                f"the question has the answer {shortened(problem.answer or 'none')} here, "
                f"but {shortened(answer or 'none')} at {earlier}; keep one of them",
            )
        same_id = known.get(problem.id)
        if same_id is None:
            known[problem.id] = problem
            table.problems.append(problem)
            table.places[problem.id] = place
        elif columns.id is not None and (same_id != problem or columns.rationale is None):
            raise DataError(
                place,
                f"the id {problem.id!r} is at {table.places[problem.id]} too; "
                "make the ids unique, or remove task.columns.id",
            )
        elif columns.rationale is None:
            table.repeated_rows += 1
        for text in row_rationales(place, row, columns, needed=rationale_needed):
            if text.strip():
                table.given.append(GivenRationale(problem.id, counts[problem.id], text))
                counts[problem.id] += 1
            else:
                table.empty_rationales += 1
    return table


def _normal(question: str) -> str:
    return " ".join(question.casefold().split())


def find_leaks(train: Sequence[Problem], examined: Sequence[Problem]) -> list[tuple[Problem, Problem]]:
    """Pairs (train, examined) with the same question, but for white space and case."""
    by_question = {_normal(problem.question): problem for problem in reversed(examined)}
    pairs = [(problem, by_question.get(_normal(problem.question))) for problem in train]
    return [(problem, other) for problem, other in pairs if other is not None]


def cut_dev(
    train: Sequence[Problem], share_or_count: float | int, seed: int
) -> tuple[list[Problem], list[Problem]]:
    """Cut a dev split from training problems; return (train, dev).

    Which ones is decided by a hash of seed and question, so it does not depend on
    the order of the file, and problems with one question stay together.

    Args:
        train: the problems.
        share_or_count: a float is a share below 1, an int a number of problems.
        seed: of the cut.

    Raises:
        RecipeError: nothing would be left to train on.
    """
    share = isinstance(share_or_count, float)
    count = max(1, round(share_or_count * len(train))) if share and share_or_count else int(share_or_count)
    if count and count >= len(train):
        raise RecipeError(
            f"task.dev: {share_or_count} of {len(train)} problems leaves none to train on; lower it"
        )
    sizes = Counter(_normal(problem.question) for problem in train)
    chosen: set[str] = set()
    for question in sorted(
        sizes, key=lambda question: hashlib.sha256(f"{seed}\0{question}".encode()).digest()
    ):
        if count <= 0:
            break
        chosen.add(question)
        count -= sizes[question]
    dev = [problem for problem in train if _normal(problem.question) in chosen]
    return [problem for problem in train if _normal(problem.question) not in chosen], dev


def load_splits(settings: TaskSettings, seed: int) -> Splits:
    """The problems of a task, generated or read, with the rationales given.

    Raises:
        DataError: the data are wrong; LeakError: a question trains and is examined.
        RecipeError: more problems are wanted than exist.
        DiskError: a file cannot be read.
    """
    if not isinstance(settings, FilesTask):
        name, parameters = settings.name, settings.parameters
        return Splits(
            train=generate(name, "train", settings.train, seed, **parameters),
            dev=generate(name, "dev", settings.dev, seed, **parameters),
            test=generate(name, "test", settings.test, seed, **parameters),
        )
    columns, kind, labels = settings.columns, settings.kind, settings.labels
    bare = columns.model_copy(update={"rationale": None})
    gold = settings.gold
    read = {"train": problems(read_rows(settings.train), columns, kind, labels=labels, gold=gold)}
    if isinstance(settings.dev, str):
        read["dev"] = problems(
            read_rows(settings.dev), columns, kind, labels=labels, rationale_needed=False, gold=gold
        )
    read["test"] = problems(read_rows(settings.test), bare, kind, labels=labels)
    _refuse_shared_ids(read)
    notes = [note for name, table in read.items() for note in _notes(name, table)]
    notes += _settle_leaks(read, settings.leaks)
    train = read["train"].problems
    if isinstance(settings.dev, str):
        dev = read["dev"].problems
    else:
        train, dev = cut_dev(train, settings.dev, seed)
    ids = {problem.id for problem in [*train, *dev]}
    given = [one for table in read.values() for one in table.given if one.problem_id in ids]
    return Splits(train, dev, read["test"].problems, given, notes)


def _refuse_shared_ids(read: dict[str, Table]) -> None:
    """Ids must be unique over all splits: records join by them."""
    seen: dict[str, tuple[Problem, str]] = {}
    for table in read.values():
        for problem in table.problems:
            place = table.places[problem.id]
            other, earlier = seen.setdefault(problem.id, (problem, place))
            if _normal(other.question) != _normal(problem.question):
                raise DataError(
                    place,
                    f"the id {problem.id!r} is that of another question at {earlier}; "
                    "make ids unique over all files, or remove task.columns.id",
                )


def _notes(name: str, table: Table) -> list[str]:
    notes = []
    if table.empty_rationales:
        notes.append(f"{name}: empty rationales skipped: {table.empty_rationales}")
    if table.repeated_rows:
        notes.append(f"{name}: rows that repeat a question, counted once: {table.repeated_rows}")
    return notes


def _settle_leaks(read: dict[str, Table], policy: Leaks) -> list[str]:
    """Apply `task.leaks` to every pair of splits; what leaks is dropped from the one trained on."""
    notes = []
    for name, examined in (("dev", "test"), ("train", "test"), ("train", "dev")):
        if name not in read or examined not in read:
            continue
        table, other = read[name], read[examined]
        leaks = find_leaks(table.problems, other.problems)
        if not leaks:
            continue
        if policy == "refuse":
            mine, theirs = table.places[leaks[0][0].id], other.places[leaks[0][1].id]
            raise LeakError(
                mine,
                f"this question is in {examined} too, at {theirs} (shared questions: {len(leaks)}); "
                f"remove them, or set task.leaks to drop (leaves them out of {name}) or keep",
            )
        done = f"left out of {name}" if policy == "drop" else "kept"
        notes.append(
            f"{name}: questions that are in {examined} too, {done}: {len(leaks)} (task.leaks: {policy})"
        )
        if policy == "drop":
            leaked = {problem.id for problem, _ in leaks}
            table.problems = [problem for problem in table.problems if problem.id not in leaked]
            if not table.problems:
                raise DataError(name, f"every question of {name} is in {examined} too; give other data")
    return notes


def source_fingerprint(settings: TaskSettings) -> dict[str, str]:
    """What a task's data are, as inputs of a stage: hashes of files and folders, else a hub name."""
    if not isinstance(settings, FilesTask):
        return {}
    prints = {}
    for split, path in (("train", settings.train), ("dev", settings.dev), ("test", settings.test)):
        if isinstance(path, str):
            file = hub_folder(path) or locate(path)[0]
            prints[split] = path_fingerprint(file) if file.exists() else path
    return prints
