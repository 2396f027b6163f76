"""A browsable sample of mistakes: what the student wrote, what it was told, and what it writes now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from limbeck.lm.written import whole
from limbeck.records import Mistake
from limbeck.report.rounds import Sitting, became, completions, following, mistakes_of, replies_of
from limbeck.report.samples import LONGEST, LONGEST_QUESTION, cut, evenly, fair_shares, some_problems

MOST = 300
"""Mistakes in a page, of all students together."""

FEWEST = 20
"""Of each student at least, where there are as many."""

MOST_SAID = 3
"""Feedback to one mistake that is shown; a file may hold that of several teachers."""

Kind = tuple[int, str, str]
"""Round, what became of the question, and of the feedback."""


def mistakes_data(chains: Sequence[Sequence[Sitting]]) -> list[dict[str, Any]]:
    """What the browser of mistakes reads: a sample per student, evenly spread over rounds and outcomes.

    A row is [seed, round, became, feedback, problem, question, gold, text, answer, kind, said, now]: `said`
    lists [teacher, what it says, its solution, why that was dropped or null], `now` is null or
    [text, right, right answers, answers] of the next round's exam on the same question, the first
    of its answers. `counts` are [round, became, feedback, number] of all mistakes.
    """
    students: dict[str, list[Sequence[Sitting]]] = {}
    for chain in chains:
        students.setdefault(chain[0].exam.student, []).append(chain)
    room = max(FEWEST, MOST // max(len(students), 1))
    found = [_student(name, own, room) for name, own in students.items()]
    return [one for one in found if one["rows"]]


def _student(name: str, chains: Sequence[Sequence[Sitting]], room: int) -> dict[str, Any]:
    places: dict[Kind, list[tuple[int, int, str]]] = defaultdict(list)
    for seed, chain in enumerate(chains):
        for number, now in enumerate(chain):
            fates = became(now, following(chain, now))
            for one, question in now.mistakes:
                places[now.round, fates[question], _feedback(now, one)].append((seed, number, one))
    shares = fair_shares({kind: len(own) for kind, own in places.items()}, room)
    chosen: dict[tuple[int, int], set[str]] = defaultdict(set)
    for kind, own in places.items():
        for seed, number, one in evenly(own, shares[kind]):
            chosen[seed, number].add(one)
    rows = [
        row
        for seed, number in sorted(chosen)
        for row in _rows(
            chains[seed][number], following(chains[seed], chains[seed][number]), chosen[seed, number]
        )
    ]
    return {"name": name, "counts": [[*kind, len(places[kind])] for kind in sorted(places)], "rows": rows}


def _feedback(now: Sitting, mistake: str) -> str:
    """Whether something usable was said to a mistake."""
    if mistake not in now.said:
        return "none"
    return "usable" if None in now.said[mistake] else "dropped"


def _rows(now: Sitting, after: Sitting | None, wanted: set[str]) -> list[list[Any]]:
    some = {one.id: one for one in mistakes_of(now.folder) if one.id in wanted}
    said: dict[str, list[list[Any]]] = defaultdict(list)
    for reply, solution in replies_of(now.folder):
        if reply.mistake_id in some and len(said[reply.mistake_id]) < MOST_SAID:
            texts = cut(reply.said, LONGEST), cut(reply.solution, LONGEST)
            said[reply.mistake_id].append([reply.source, *texts, solution.dropped])
    questions = {one.problem_id for one in some.values()}
    run = now.exam.run
    asked = some_problems(run / "problems", questions) if run else {}
    fates, answers = became(now, after), _answers(after, questions)
    return [
        [
            now.exam.seed,
            now.round,
            fates[one.problem_id],
            _feedback(now, one.id),
            one.problem_id,
            cut(str(asked.get(one.problem_id, {}).get("question") or ""), LONGEST_QUESTION),
            asked.get(one.problem_id, {}).get("answer"),
            cut(one.completion, LONGEST),
            one.answer,
            one.kind,
            said.get(one.id, []),
            answers.get(one.problem_id),
        ]
        for one in some.values()
    ]


def _answers(after: Sitting | None, questions: set[str]) -> dict[str, list[Any]]:
    """The first answer to each question in a later round, and how many of all are right."""
    if after is None or after.answers is None:
        return {}
    missed, wrong = {one.rpartition("-")[0] for one, _ in after.mistakes}, after.wrong
    found: dict[str, list[Any]] = {}
    for one in completions(after.folder / "answers" / "completions.jsonl"):
        question = one["problem_id"]
        if question in questions and question not in found:
            text = whole(one.get("thinking", ""), one["text"])
            right = Mistake.answer_of(question, after.round, one["index"]) not in missed
            asked = after.answers[question]
            found[question] = [cut(text, LONGEST), int(right), asked - wrong[question], asked]
    return found
