"""A browsable sample of questions: the passages found for each, the silver ones, and the rationale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limbeck import sealed
from limbeck.records import Passage, Silver, read_jsonl
from limbeck.report.contestants import Contestant
from limbeck.report.dropped import graded_rows
from limbeck.report.retrieval import Source, read, readers, sources
from limbeck.report.rounds import completions
from limbeck.report.run_files import run_facts
from limbeck.report.samples import LONGEST, LONGEST_QUESTION, cut, evenly, fair_shares, some_problems

MOST = 200
"""Questions in a page, of all runs and splits together."""

FEWEST = 20
"""Of each run and split at least, where there are as many."""

SHOWN = 3
"""Passages of each way of finding."""

LONGEST_PASSAGE = 600
"""Characters of a passage."""

RANKS = (("first", 1), ("2 to 5", 5), ("6 to 10", 10), ("11 to 100", 100))
"""Where the question's own search has the first silver passage; UNFOUND: not there."""

UNFOUND, UNKNOWN = "not found", "not known"

Way = tuple[str, Sequence[str], Sequence[float]]
"""What found some passages; their ids and scores."""


class Asked(NamedTuple):
    """A question with what was found for it; `key` is the rationale's, of several to a question."""

    problem: str
    ways: Sequence[Way]
    silver: Sequence[str]
    key: str = ""

    @property
    def rank(self) -> str:
        """Where the question's own search has the first silver passage."""
        found = next((ids for way, ids, _ in self.ways if way == "question"), None)
        if found is None or not self.silver:
            return UNKNOWN
        place = next((number for number, name in enumerate(found, start=1) if name in self.silver), None)
        return (
            UNFOUND if place is None else next((rank for rank, last in RANKS if place <= last), RANKS[-1][0])
        )


def passages_data(exams: Sequence[Contestant]) -> list[dict[str, Any]]:
    """What the browser of passages reads: a sample per run and split, evenly spread over the ranks of silver.

    A row is [problem, question, gold, rank, ways, rationale, answers]: `ways` lists [found by, passages], and
    a passage is [id, score, text or null, silver]; `rationale` is [who, text] or []; `answers` lists [reader,
    right]. `counts` are [rank, number] of all questions.
    """
    by_run: dict[tuple[Path, str], list[Source]] = defaultdict(list)
    for source in sources(exams):
        by_run[source.run, source.split].append(source)
    room = max(FEWEST, MOST // max(len(by_run), 1))
    several = len({run for run, _ in by_run}) > 1
    found = []
    for (run, split), own in by_run.items():
        name = f"{split} questions" if split == "test" else "training rationales"
        name = f"{run_facts(run).recipe}: {name}" if several else name
        found.append({"name": name, **_sampled(run, split, own, exams, room)})
    return [one for one in found if one["rows"]]


def _sampled(
    run: Path, split: str, own: Sequence[Source], exams: Sequence[Contestant], room: int
) -> dict[str, Any]:
    places: dict[str, list[Asked]] = defaultdict(list)
    for one in _test(own) if split == "test" else _train(own[0]):
        places[one.rank].append(one)
    shares = fair_shares({rank: len(some) for rank, some in places.items()}, room)
    chosen = [one for rank, some in places.items() for one in evenly(some, shares[rank])]
    texts = _texts(own, {name for one in chosen for _, ids, _ in one.ways for name in ids[:SHOWN]})
    written = _of_teacher(run) if split == "test" else _of_training(run, {one.key for one in chosen})
    problems = some_problems(run / "problems", {one.problem for one in chosen}, (split,))
    answers: dict[str, list[list[Any]]] = defaultdict(list)
    for exam in (reader for source in own for reader in readers(source, exams)):
        for said in exam.predictions:
            answers[said.problem_id].append([exam.name, int(said.correct)])
    order = [*(rank for rank, _ in RANKS), UNFOUND, UNKNOWN]
    return {
        "counts": [[rank, len(places[rank])] for rank in order if places[rank]],
        "rows": [
            [
                one.problem,
                cut(str(problems.get(one.problem, {}).get("question") or ""), LONGEST_QUESTION),
                problems.get(one.problem, {}).get("answer"),
                one.rank,
                [[way, _shown(ids, scores, texts, one.silver)] for way, ids, scores in one.ways],
                written.get(one.key or one.problem, []),
                answers[one.problem],
            ]
            for one in sorted(chosen, key=lambda one: (one.problem, one.key))
        ],
    }


def _shown(
    ids: Sequence[str], scores: Sequence[float], texts: Mapping[str, str], silver: Sequence[str]
) -> list[list[Any]]:
    return [
        [name, round(score, 3), texts.get(name), int(name in silver)]
        for name, score in zip(ids[:SHOWN], scores[:SHOWN], strict=True)
    ]


def _test(own: Sequence[Source]) -> Iterator[Asked]:
    """The test questions, with each way of finding."""
    by = {source.by: {one.problem_id: one for one in source.found} for source in own}
    for name in dict.fromkeys(name for found in by.values() for name in found):
        ways = [(way, one.passages, one.scores) for way, found in by.items() if (one := found.get(name))]
        yield Asked(name, ways, tuple(own[0].relevant.get(name, ())))


def _train(source: Source) -> Iterator[Asked]:
    """The rationales of training questions: what the question found, and what the rationale itself."""
    asked = {one.problem_id: one for one in source.found}
    for one in read(source.folder / "silver.jsonl", Silver):
        by_question = asked[one.problem_id]
        ways = [
            ("question", by_question.passages, by_question.scores),
            ("silver", one.passages, one.scores),
        ]
        yield Asked(one.problem_id, ways, one.passages[:1], _key(one.problem_id, one.source, one.index))


def _key(*parts: object) -> str:
    return "\n".join(map(str, parts))


def _texts(own: Sequence[Source], wanted: set[str]) -> dict[str, str]:
    """The texts of passages, as prompts hold them, as far as the stages wrote them."""
    from limbeck.knowledge.reading import shown  # with templates, which a table needs not

    found: dict[str, str] = {}
    for folder in dict.fromkeys(source.folder for source in own):
        path = folder / "texts.jsonl"
        if path.is_file():
            sealed.check(path)
            some = (one for one in read_jsonl(path, Passage) if one.id in wanted)
            found |= {one.id: cut(shown(one), LONGEST_PASSAGE) for one in some}
    return found


def _of_teacher(run: Path) -> dict[str, list[str]]:
    """[who, text] of the rationales of test questions, by problem."""
    path = run / "passages" / "asked-test" / "completions.jsonl"
    some = completions(path) if path.is_file() else ()
    return {one["problem_id"]: ["teacher", cut(one["text"], LONGEST)] for one in some}


def _of_training(run: Path, wanted: set[str]) -> dict[str, list[str]]:
    """[who, text] of some rationales of training questions, by `_key`."""
    path, found = run / "rationales" / "graded.jsonl", {}
    sealed.check(path)
    for _, row in graded_rows(path):
        if (key := _key(row["problem_id"], row.get("source"), row.get("index"))) in wanted:
            who = f"{row.get('source')}, number {row.get('index')}"
            found[key] = [who, cut(str(row["completion"]), LONGEST)]
    return found
