"""How well passages were found, next to the accuracy of who read them (KARD, arXiv 2305.18395).

What is relevant is silver: the best passage for a rationale. A question is hit at k if one of these is among
the first k that were found for it.

    test    the rationale that the teacher wrote to the test question, right or wrong; where a run has it,
            because a student reads silver passages in its exam (`find: silver`)
    train   the kept rationales of the training question, of all sources; the reranker learned from these, so
            only the question's own search is judged
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.table import Table
from rich.text import Text

from limbeck import sealed
from limbeck.knowledge.quality import AT, Mean, quality
from limbeck.records import Found, Silver, read_jsonl
from limbeck.report.contestants import Contestant, by_group
from limbeck.report.run_files import run_facts
from limbeck.report.tables import Row, add_columns, percent, titled

HITS = (1, 5, 10)
"""The k whose hits are shown; recall is shown at the last one of `quality.AT`."""

FINDERS = {"question": "test", "reranker": "test-reranker", "silver": "test-silver"}
"""By what passages of test questions are found, and the folder below passages/."""

HEADINGS = (*(f"hit@{k} % [95%]" for k in HITS), "MRR [95%]", f"recall@{AT[-1]} % [95%]", "read by")


R = TypeVar("R", Found, Silver)


@dataclass(frozen=True, slots=True)
class Source:
    """The passages that were found for the questions of a split of a run, in one way.

    `relevant`: what is silver for each question; {}: not known.
    """

    run: Path
    split: str
    by: str
    folder: Path
    found: tuple[Found, ...]
    relevant: Mapping[str, Collection[str]]


def sources(exams: Sequence[Contestant]) -> list[Source]:
    """All that was found in the runs of these exams."""
    runs = dict.fromkeys(exam.run for exam in exams if exam.run)
    return [source for run in runs for source in _of_run(run, exams)]


def _of_run(run: Path, exams: Sequence[Contestant]) -> Iterator[Source]:
    test = list(_of_test(run))
    yield from test
    current = {_searched(source.folder)[0] for source in test if readers(source, exams)}
    for source in _of_train(run):
        if not current or _searched(source.folder)[0] in current:  # else another recipe left it here
            yield source


def _of_test(run: Path) -> Iterator[Source]:
    silver = read(run / "passages" / FINDERS["silver"] / "found.jsonl", Found)
    relevant = {one.problem_id: one.passages[:1] for one in silver if one.passages}
    searched = _searched(run / "passages" / FINDERS["silver"])
    for by, name in FINDERS.items():
        folder = run / "passages" / name
        if found := read(folder / "found.jsonl", Found):
            same = _searched(folder) == searched  # another recipe may have left silver passages here
            yield Source(run, "test", by, folder, found, relevant if same else {})


def _searched(folder: Path) -> list[str | None]:
    """Which index a stage searched, and for whose questions."""
    inputs = (sealed.read(folder / sealed.STAGE) or {}).get("inputs", {})
    return [inputs.get(name) for name in ("knowledge", "problems")]


def _of_train(run: Path) -> Iterator[Source]:
    folder = run / "silver" / "rationale"
    relevant: dict[str, set[str]] = {}
    for one in read(folder / "silver.jsonl", Silver):
        if one.passages:
            relevant.setdefault(one.problem_id, set()).add(one.passages[0])
    if found := read(folder / "asked.jsonl", Found):
        yield Source(run, "train", "question", folder, found, relevant)


def read(path: Path, kind: type[R]) -> tuple[R, ...]:
    """The records of a stage's file; none where the stage is not there or not done."""
    state = sealed.read(path.parent / sealed.STAGE)
    if state is None or state.get("state") != "done" or not path.is_file():
        return ()
    sealed.check(path)
    return tuple(read_jsonl(path, kind))


def retrieval_rows(exams: Sequence[Contestant]) -> list[Row]:
    """A row for each way in which passages were found, ready for JSON; none where nobody reads.

    `judged` are the questions with a silver passage; hits, `mrr` and recall are [value, low, high] over
    these, with the 95% interval for other questions of the kind (its ends are None where it is not known),
    and None where nothing is known to be relevant, or where these are the silver passages themselves.
    `read_by` are exams with their accuracy.
    """
    found = sources(exams)
    several = len({source.run for source in found}) > 1
    return [_row(source, exams, several=several) for source in found]


def _row(source: Source, exams: Sequence[Contestant], *, several: bool) -> Row:
    judged = [one for one in source.found if one.problem_id in source.relevant]
    known = quality([one.passages for one in judged], [source.relevant[one.problem_id] for one in judged])
    itself = source.by == "silver" or not judged
    figures = {
        **{f"hit@{k}": known.hit[k] for k in HITS},
        "mrr": known.mrr,
        f"recall@{AT[-1]}": known.recall[AT[-1]],
    }
    return {
        "run": run_facts(source.run).recipe if several else "",
        "split": source.split,
        "found_by": source.by,
        "questions": len(source.found),
        "judged": 0 if itself else len(judged),
        **{name: None if itself else [*one] for name, one in figures.items()},
        "read_by": [
            {"name": group, "accuracy": sum(one.accuracy for one in members) / len(members)}
            for group, members in by_group(readers(source, exams)).items()
        ],
    }


def readers(source: Source, exams: Sequence[Contestant]) -> list[Contestant]:
    """The exams whose prompts held these passages: their stages name this one."""
    state = sealed.read(source.folder / sealed.STAGE) or {}
    marks = {state.get("id"), state.get("fingerprint")}
    of_run = [exam for exam in exams if exam.run == source.run]
    return [exam for exam in of_run if _inputs(exam).get("passages") in marks]


def _inputs(exam: Contestant) -> Mapping[str, str]:
    state = sealed.read(exam.exam / sealed.STAGE) or {}
    inputs = state.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def retrieval_label(row: Row) -> str:
    """What a row is called."""
    way = {"question": "by question", "reranker": "by question, reranked", "silver": "silver"}[
        row["found_by"]
    ]
    return f"{row['run']}: {way}, {row['split']}" if row["run"] else f"{way}, {row['split']}"


def retrieval_cells(row: Row) -> list[str]:
    """The texts under `HEADINGS`."""
    shares = [_share(row[f"hit@{k}"]) for k in HITS]
    who = ", ".join(f"{one['name']} {percent(one['accuracy'])}%" for one in row["read_by"])
    return [*shares, _plain(row["mrr"]), _share(row[f"recall@{AT[-1]}"]), who or "–"]


def _share(given: Sequence[float] | None) -> str:
    """Per cent."""
    return _interval(given, percent)


def _plain(given: Sequence[float] | None) -> str:
    return _interval(given, "{:.3f}".format)


def _interval(given: Sequence[float] | None, shown: Callable[[float], str]) -> str:
    if given is None:
        return "–"
    one = Mean(*given)
    if one.low is None or one.high is None:
        return shown(one.value)
    return f"{shown(one.value)} [{shown(one.low)}, {shown(one.high)}]"


def retrieval_notes(rows: Sequence[Row]) -> list[str]:
    """What counts as a hit, and over how many questions."""
    judged = {row["split"]: row["judged"] for row in rows if row["judged"]}
    over = ", ".join(f"{count:,} {split} questions" for split, count in judged.items())
    notes = [f"hit@k: a silver passage is among the first k found, over {over}."] if over else []
    if "test" in judged:
        notes.append("test: silver is the best passage for the teacher's rationale of the test question.")
    elif any(row["split"] == "test" for row in rows):
        notes.append("test: no silver passages; a student with `find: silver` makes them.")
    if "train" in judged:
        notes.append("train: silver are the best passages of the question's kept rationales.")
    return notes


def retrieval_table(rows: Sequence[Row]) -> Table:
    """The rows for the terminal."""
    table = titled("Passages found", retrieval_notes(rows))
    add_columns(table, ["found"], HEADINGS)
    for row in rows:
        table.add_row(*map(Text, [retrieval_label(row), *retrieval_cells(row)]))
    return table
