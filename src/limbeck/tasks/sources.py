"""Your own data as problems and rationales, and the splits of either kind of task.

Rules. Without an id column, rows with the same question and answer are one problem
with several rationales. With one, a repeated id means more rationales of the same
question. Two answers to one question, a question that trains and is examined, a
gold answer its kind cannot parse: each is refused with its place, all of a file at once.
A row without its gold answer takes that of another row with the same question. In a file
that test is cut from, a question in another layout is the same question.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple
from unicodedata import normalize

from limbeck.errors import DataError, LeakError, RecipeError
from limbeck.records import Also, LeftOut, Problem
from limbeck.run_folder import path_fingerprint
from limbeck.sequences import Spool
from limbeck.tasks.answers import AnswerKind, same
from limbeck.tasks.forms import Form, form
from limbeck.tasks.generated import generated
from limbeck.tasks.leaks import Leak, Near, find_leaks, groups, near_duplicates
from limbeck.tasks.options import LETTERS
from limbeck.tasks.plain import plain_key
from limbeck.tasks.readers import Bad, Placed, hub_folder, locate, read_rows, refuse
from limbeck.tasks.rows import bad_rows, row_problem, row_rationales, shortened
from limbeck.tasks.settings import Columns, FilesTask, Gold, Leaks, TaskSettings


class GivenRationale(NamedTuple):
    """A rationale that was in the data: the `number`-th one (from 0) of its problem."""

    problem_id: str
    number: int
    text: str


Split = Literal["train", "dev", "test"]


@dataclass
class Table:
    """What was read from one file; `places` says where each problem was first, `again` where it was later.

    `also` are those that are no longer problems of their own.
    """

    problems: list[Problem] = field(default_factory=list)
    given: list[GivenRationale] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    again: dict[str, list[str]] = field(default_factory=dict)
    also: list[Also] = field(default_factory=list)
    empty_rationales: int = 0
    repeated_rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def is_also(self, one: Problem, other: Problem) -> None:
        """`one` is left out because `other` asks the same. Rationales that name letters need its order."""
        if _in_order(one) == _in_order(other):
            self.also.append(Also(id=one.id, question=one.question, problem_id=other.id))

    def give(self, problem_id: str, texts: Iterable[str]) -> None:
        """Add rationales of a problem; empty ones are counted."""
        for text in texts:
            if text.strip():
                self.given.append(GivenRationale(problem_id, self.counts[problem_id], text))
                self.counts[problem_id] += 1
            else:
                self.empty_rationales += 1


@dataclass(frozen=True)
class Splits:
    """The problems of a task; `given` are rationales of train and dev, `notes` what the user should know."""

    train: Sequence[Problem]
    dev: Sequence[Problem]
    test: Sequence[Problem]
    given: list[GivenRationale] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    also: list[Also] = field(default_factory=list)


def problems(
    rows: Iterable[Placed],
    columns: Columns,
    kind: AnswerKind,
    *,
    labels: tuple[str, ...] = (),
    rationale_needed: bool = True,
    gold: Gold = "needed",
    bad: Bad = refuse,
) -> Table:
    """Turn rows into problems and rationales.

    Args:
        rows: (place, row) pairs, as `read_rows` yields them.
        columns: what the columns are called.
        kind: the answer kind.
        labels: of kind label.
        rationale_needed: a row without the rationale column is an error.
        gold: "optional" where a row may lack its gold answer.
        bad: is given the error of each row that cannot be used.

    Raises:
        DataError: with the row's place, by `bad`; see the rules above.
    """
    table = Table()
    known: dict[str, Problem] = {}
    golds: dict[tuple[str, tuple[str, ...]], tuple[str, str]] = {}
    for place, row in rows:
        try:
            problem = row_problem(place, row, columns, kind, gold, labels)
            texts = row_rationales(place, row, columns, needed=rationale_needed)
            _check_against(place, problem, columns, known, golds, table.places)
        except DataError as error:
            bad(error)
            continue
        if problem.answer is not None:
            golds.setdefault((problem.question, problem.options), (problem.answer, place))
        if problem.id not in known:
            known[problem.id] = problem
            table.places[problem.id] = place
        else:
            table.again.setdefault(problem.id, []).append(place)
            table.repeated_rows += columns.rationale is None
        table.give(problem.id, texts)
    unknown: tuple[str | None, str] = (None, "")
    table.problems = [
        one.answered(golds.get((one.question, one.options), unknown)[0]) for one in known.values()
    ]
    return table


def _check_against(
    place: str,
    problem: Problem,
    columns: Columns,
    known: Mapping[str, Problem],
    golds: Mapping[tuple[str, tuple[str, ...]], tuple[str, str]],
    places: Mapping[str, str],
) -> None:
    """Refuse another answer to a question, and an id that is taken."""
    gold, earlier = golds.get((problem.question, problem.options), (problem.answer, place))
    if gold is not None and problem.answer is not None and gold != problem.answer:
        raise DataError(
            place,
            f"the question has the answer {shortened(problem.answer)} here, "
            f"but {shortened(gold)} at {earlier}; keep one of them",
        )
    if columns.id is None or problem.id not in known:
        return
    same_id = known[problem.id]
    other = (same_id.question, same_id.options) != (problem.question, problem.options)
    if other or columns.rationale is None:
        raise DataError(
            place,
            f"the id {problem.id!r} is at {places[problem.id]} too; "
            "make the ids unique, or remove task.columns.id",
        )


def _normal(question: str) -> str:
    return " ".join(question.casefold().split())


def cut(
    some: Sequence[Problem], share_or_count: float | int, seed: int, setting: str = "task.dev"
) -> tuple[list[Problem], list[Problem]]:
    """Cut a split from problems; return (what is left, what was cut).

    Which ones is decided by a hash of seed and question, so it does not depend on
    the order of the file, and problems with one question, in whatever layout, stay
    together (`leaks.groups`).

    Args:
        some: the problems.
        share_or_count: a float is a share below 1, an int a number of problems.
        seed: of the cut.
        setting: for the error text.

    Raises:
        RecipeError: nothing would be left to train on.
    """
    share = isinstance(share_or_count, float)
    count = max(1, round(share_or_count * len(some))) if share and share_or_count else int(share_or_count)
    if count >= len(some) > 0:
        raise RecipeError(
            f"{setting}: {share_or_count} of {len(some)} problems leaves none to train on; lower it"
        )
    if not count:
        return list(some), []
    names = groups([form(problem) for problem in some])
    members: dict[str, list[Problem]] = defaultdict(list)
    for name, problem in zip(names, some, strict=True):
        members[name].append(problem)

    def rank(name: str) -> bytes:
        question = min(_normal(problem.question) for problem in members[name])
        return hashlib.sha256(f"{seed}\0{question}".encode()).digest()

    chosen: set[str] = set()
    for name in sorted(members, key=rank):
        if count <= 0:
            break
        chosen.update(problem.id for problem in members[name])
        count -= len(members[name])
    left = [problem for problem in some if problem.id not in chosen]
    if not left:
        raise RecipeError(f"{setting}: all {len(some)} problems ask one question; give other data")
    return left, [problem for problem in some if problem.id in chosen]


def load_splits(settings: TaskSettings, seed: int, *, folder: Path | None = None) -> Splits:
    """The problems of a task, generated or read, with the rationales given.

    Those that are read are in memory. Generated ones are read from a file without a name when they are
    looked at.

    Args:
        folder: on the disk that takes this file; None: the system's for such files.

    Raises:
        DataError: the data are wrong; LeakError: a question trains and is examined.
        RecipeError: more problems are wanted than exist.
        DiskError: a file cannot be read.
    """
    if not isinstance(settings, FilesTask):
        name, parameters = settings.name, settings.parameters
        return Splits(
            train=Spool(generated(name, "train", settings.train, seed, **parameters), folder=folder),
            dev=Spool(generated(name, "dev", settings.dev, seed, **parameters), folder=folder),
            test=Spool(generated(name, "test", settings.test, seed, **parameters), folder=folder),
        )
    notes: list[str] = []
    left_out: list[LeftOut] = []
    read = {"train": _read(settings, "train", notes, left_out)}
    if isinstance(settings.dev, str):
        read["dev"] = _read(settings, "dev", notes, left_out)
    if isinstance(settings.test, str):
        read["test"] = _read(settings, "test", notes, left_out)
    else:
        read["test"] = _cut_test(read["train"], settings.test, seed, notes)
    _refuse_shared_ids(read)
    _settle_leaks(read, settings.leaks, notes, left_out)
    train = read["train"].problems
    if isinstance(settings.dev, str):
        dev = read["dev"].problems
    else:
        train, dev = cut(train, settings.dev, seed)
    ids = {problem.id for problem in [*train, *dev]}
    given = [one for table in read.values() for one in table.given if one.problem_id in ids]
    also = [one for table in read.values() for one in table.also]
    return Splits(train, dev, read["test"].problems, given, notes, left_out, also)


def read_test(settings: FilesTask, seed: int, notes: list[str], left_out: list[LeftOut]) -> Table:
    """The test split alone, from its own file or cut from train; what is to be said of it is added.

    Raises:
        DataError, RecipeError, DiskError: as `load_splits`.
    """
    if isinstance(settings.test, str):
        file, table = settings.test, _read(settings, "test", notes, left_out)
    else:
        file, train = settings.train, _read(settings, "train", notes, left_out)
        table = _cut_test(train, settings.test, seed, notes)
    if not table.problems:
        raise DataError(file, "holds no test problems; give other data")
    return table


def _read(settings: FilesTask, split: Split, notes: list[str], left_out: list[LeftOut]) -> Table:
    """A split's file; rows that cannot be used are refused all at once, or left out.

    Raises:
        DataError, BadRowsError: naming the rows.
    """
    path = str(getattr(settings, split))
    columns = settings.columns
    if split == "test":  # an exam needs no rationales
        columns = columns.model_copy(update={"rationale": None, "several_rationales": False})
    wrong: list[DataError] = []
    table = problems(
        read_rows(path, wrong.append),
        columns,
        settings.kind,
        labels=settings.labels,
        rationale_needed=split == "train",
        gold="needed" if split == "test" else settings.gold,
        bad=wrong.append,
    )
    repeated = 0
    if split == "train" and not isinstance(settings.test, str):
        repeated = _join_repeats(table, settings.kind, wrong.append)
    if wrong and (settings.bad_rows == "refuse" or not table.problems):
        raise bad_rows(path, wrong, every=not table.problems)
    if settings.kind == "choice" and table.problems:
        _refuse_without_options(path, table.problems)
    if wrong:
        left_out += [LeftOut(split=split, place=one.place, why=one.message) for one in wrong]
        notes.append(f"{split}: rows left out: {len(wrong)} (task.bad_rows: skip), such as {wrong[0]}")
    if table.empty_rationales:
        notes.append(f"{split}: empty rationales skipped: {table.empty_rationales}")
    if table.repeated_rows:
        notes.append(f"{split}: rows that repeat a question, counted once: {table.repeated_rows}")
    if repeated:
        notes.append(f"{split}: questions that repeat another in another layout, counted once: {repeated}")
    return table


_A_AND_B = re.compile(r"(?<![A-Za-z])A(?![A-Za-z]).*?(?<![A-Za-z])B(?![A-Za-z])", re.DOTALL)


def _refuse_without_options(path: str, some: Sequence[Problem]) -> None:
    """Refuse answers that are letters of options that nobody sees.

    A text that lists options, or has the letters A and B by themselves, shows some.

    Raises:
        DataError: no question has options, in a column or in its text.
    """
    if not any(form(one).asks or _A_AND_B.search(normalize("NFKC", one.question)) for one in some):
        raise DataError(
            path,
            "no question has options; name the column that lists them with task.columns.options, or write "
            "them into the questions, such as (A) this, (B) that",
        )


def _join_repeats(table: Table, kind: AnswerKind, bad: Bad) -> int:
    """Make problems that ask a question again, in another layout, part of the first one; how many.

    The options must be the same, in the same order, because rationales name their letters. A gold answer
    counts for all of them. `bad` is given each row whose gold answer is not that of its question, whatever
    the order of the options; its problem is left out.
    """
    golds: dict[tuple[str, frozenset[str]], Problem] = {}
    first: dict[tuple[str, frozenset[str], tuple[str, ...]], str] = {}
    answers: dict[str, str | None] = {}
    into: dict[str, str] = {}
    for (name, options), problem in zip(_asked(table.problems), table.problems, strict=True):
        known = golds.get((name, options))
        if known and problem.answer is not None and not _same_gold(kind, problem, known):
            told = f"but {shortened(_gold_text(known))} at {table.places[known.id]} in another layout"
            for place in (table.places[problem.id], *table.again.get(problem.id, ())):
                answer = shortened(_gold_text(problem))
                bad(DataError(place, f"the question has the answer {answer} here, {told}; keep one of them"))
            continue
        if known is None and problem.answer is not None:
            golds[name, options] = problem
        own = into[problem.id] = first.setdefault((name, options, _in_order(problem)), problem.id)
        answers[own] = answers.get(own) or problem.answer
    repeated = len(into) - len(answers)
    by_id = {one.id: one for one in table.problems}
    for again, own in into.items():
        if again != own:
            table.is_also(by_id[again], by_id[own])
    table.problems = [one.answered(answers[one.id]) for one in table.problems if one.id in answers]
    given, table.given, table.counts = table.given, [], Counter()
    for one in given:
        if one.problem_id in into:
            table.give(into[one.problem_id], [one.text])
    return repeated


def _in_order(problem: Problem) -> tuple[str, ...]:
    return tuple(plain_key(option) or option for option in problem.options)


def _asked(some: Sequence[Problem]) -> list[tuple[str, frozenset[str]]]:
    """What each problem asks, whatever its layout and the order of its options."""
    forms: list[Form] = [form(problem) for problem in some]
    return [(name, one.options) for name, one in zip(groups(forms), forms, strict=True)]


def _same_gold(kind: AnswerKind, one: Problem, other: Problem) -> bool:
    """Whether two problems that ask the same question have the same gold answer, an option by its text."""
    if one.options and other.options:
        texts = (_gold_text(one), _gold_text(other))
        return texts[0] == texts[1] or plain_key(texts[0]) == plain_key(texts[1]) != ""
    return one.answer == other.answer or same(kind, one.gold, other.gold)


def _gold_text(problem: Problem) -> str:
    return problem.options[LETTERS.index(problem.gold)] if problem.options else problem.gold


def _cut_test(train: Table, share_or_count: float | int, seed: int, notes: list[str]) -> Table:
    """A test split cut from the training data, in which every question is once.

    Only problems with a gold answer can be examined. What else asks a question of test is left out: one
    without a gold answer, or with the options in another order.
    """
    once: dict[tuple[str, frozenset[str]], Problem] = {}
    for asked, problem in zip(_asked(train.problems), train.problems, strict=True):
        if problem.answer is not None:
            once.setdefault(asked, problem)
    left, test = cut(list(once.values()), share_or_count, seed, "task.test")
    notes.append(f"test: {len(test)} of {len(test) + len(left)} problems, cut from train")
    cuttable = {problem.id for problem in once.values()}
    others = [one for one in train.problems if one.id not in cuttable]
    leaks = find_leaks([form(one) for one in others], [form(one) for one in test]) if others else []
    out = {one.id for one in test} | {others[leak.learned].id for leak in leaks}
    for leak in leaks:
        train.is_also(others[leak.learned], test[leak.examined])
    if leaks:
        notes.append(
            "train: problems that ask a question of test without a gold answer, or with its options in "
            f"another order, left out: {len(leaks)}"
        )
    train.problems = [one for one in train.problems if one.id not in out]
    return Table(test, places=train.places)


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


def _settle_leaks(read: dict[str, Table], policy: Leaks, notes: list[str], left_out: list[LeftOut]) -> None:
    """Apply `task.leaks` to every pair of splits; what leaks is dropped from the one trained on.

    Raises:
        LeakError: naming the first one, by default.
    """
    forms = {name: [form(problem) for problem in table.problems] for name, table in read.items()}
    for name, examined in (("dev", "test"), ("train", "test"), ("train", "dev")):
        if name not in read or examined not in read:
            continue
        table, other = read[name], read[examined]
        leaks = find_leaks(forms[name], forms[examined])
        places = [
            (table.places[table.problems[one.learned].id], other.places[other.problems[one.examined].id])
            for one in leaks
        ]
        if leaks and policy == "refuse":
            mine, theirs = places[0]
            raise LeakError(
                mine,
                f"this question is in {examined} too, at {theirs} ({shared(leaks)}); "
                f"remove them, or set task.leaks to drop (leaves them out of {name}) or keep",
            )
        if examined == "test":
            notes += _near_notes(name, table, other, near_duplicates(forms[name], forms[examined], leaks))
        if not leaks:
            continue
        done = f"left out of {name}" if policy == "drop" else "kept"
        notes.append(
            f"{name}: questions that are in {examined} too, {done}: {counted(leaks)} (task.leaks: {policy})"
        )
        if policy == "drop":
            left_out += [
                LeftOut(split=name, place=mine, why=f"this question is in {examined} too, at {theirs}")
                for mine, theirs in places
            ]
            for one in leaks:
                table.is_also(table.problems[one.learned], other.problems[one.examined])
            leaked = {one.learned for one in leaks}
            kept = [number for number in range(len(table.problems)) if number not in leaked]
            table.problems = [table.problems[number] for number in kept]
            forms[name] = [forms[name][number] for number in kept]
            if not kept:
                raise DataError(name, f"every question of {name} is in {examined} too; give other data")


def shared(leaks: Sequence[Leak]) -> str:
    """How many leaks there are, in an error's brackets."""
    return f"shared questions: {counted(leaks)}"


def counted(leaks: Sequence[Leak]) -> str:
    """How many leaks there are, and how many of them need a second look.

    >>> counted([Leak(0, 0, "word for word"), Leak(1, 5, "in another layout")])
    '2, 1 of them in another layout'
    """
    hows = Counter(leak.how for leak in leaks)
    more = [f"{hows[how]} of them {how}" for how in hows if how != "word for word"]
    return ", ".join([str(len(leaks)), *more])


NEAR_SHOWN = 3


def _near_notes(name: str, table: Table, test: Table, near: Sequence[Near]) -> list[str]:
    """A warning with the first examples."""
    if not near:
        return []
    examples = [
        f"  {table.places[mine.id]} {shortened(mine.question)} and "
        f"{test.places[theirs.id]} {shortened(theirs.question)}: {one.share:.0%} of the words"
        for one in near[:NEAR_SHOWN]
        for mine, theirs in [(table.problems[one.learned], test.problems[one.examined])]
    ]
    count = f"{len(near)} of {len(table.problems)}"
    return [f"{name}: questions that nearly repeat one of test, kept: {count}, such as", *examples]


def source_fingerprint(settings: TaskSettings) -> dict[str, str]:
    """What a task's data are, as inputs of a stage: hashes of files and folders, else a hub name."""
    if not isinstance(settings, FilesTask):
        return {}
    prints = {}
    for split, path in (("train", settings.train), ("dev", settings.dev), ("test", settings.test)):
        if isinstance(path, str) and path:
            file = hub_folder(path) or locate(path)[0]
            prints[split] = path_fingerprint(file) if file.exists() else path
    return prints
