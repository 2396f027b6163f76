"""Students that train in rounds: what each round is worth, and what became of their mistakes.

A student sits an exam on its training questions in every round (`mistakes.jsonl` next to the round's own
exam), with several answers to each. A question is *missed* if any of them is not right. The next round's
exam on the same questions says what became of it:

    fixed           all its answers are right
    mostly right    more than half of them
    kept            half of them or fewer
    newly missed    all were right before, and one is no longer

So missed questions − fixed + newly missed are those of the next round. After the last round nobody sits
that exam, and nothing is said.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from limbeck import sealed
from limbeck.errors import DataError
from limbeck.lm.cost import dollars
from limbeck.records import Feedback, Mistake, Rationale, numbered_lines, read_jsonl
from limbeck.report.contestants import Contestant, in_rounds
from limbeck.report.plots import COLOURS, Line, line_svg, series_of
from limbeck.report.run_files import AGAIN
from limbeck.report.tables import Row, percent, result_cells, results_rows

FIXED, MOSTLY, KEPT, UNKNOWN = "fixed", "mostly right", "kept", "not asked again"

COUNTS = (
    *("answers", "wrong", "questions", "missed", "fixed", "mostly", "kept", "new"),
    *("said", "usable", "shown", "fixed_shown", "cost_usd"),
)
"""What `mistake_rows` counts; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Sitting:
    """One exam on the training questions, and the feedback on its mistakes.

    `mistakes` are (id, question); `answers` says how many answers a question has (None: the mistakes are
    from a file, and nobody sat the exam). `said` holds, by mistake, why its solutions were dropped (None:
    kept). `cost` is what the feedback costs by itself in dollars; None: nothing, or not known. A
    reply that another student of the run was given too is paid for once, and counts for each of them.
    """

    exam: Contestant
    mistakes: tuple[tuple[str, str], ...]
    answers: Counter[str] | None
    said: Mapping[str, Sequence[str | None]]
    cost: float | None

    @property
    def round(self) -> int:
        return self.exam.facts.round or 0

    @property
    def folder(self) -> Path:
        return self.exam.exam.parent

    @property
    def wrong(self) -> Counter[str]:
        """Question -> how many answers are not right."""
        return Counter(question for _, question in self.mistakes)


def accuracy_lines(exams: Sequence[Contestant]) -> tuple[list[int], list[tuple[str, int, bool, list[str]]]]:
    """Accuracy after each round: the rounds, and lines of (name, colour, under its mean, cells).

    A student with several seeds has a line of means, and its seeds under it; where seeds ended at different
    rounds a mean says how many it is of.
    """
    students = in_rounds(exams)
    numbers = sorted({number for rounds in students.values() for number in rounds})
    colours = _colours(exams)
    lines = []
    for student, rounds in students.items():
        most = max(map(len, rounds.values()))
        table = {number: _rows(student, members) for number, members in rounds.items()}
        for seed in _seeds(rounds):
            cells = [
                _cell(table.get(number, {}).get(seed), most if seed is None else 1) for number in numbers
            ]
            name = student if most == 1 else f"{student}, mean"
            lines.append(
                (name if seed is None else f"seed {seed}", colours[student], seed is not None, cells)
            )
    return numbers, lines


def accuracy_notes(exams: Sequence[Contestant]) -> list[str]:
    """Whose own exam does not say after which round it is."""
    unknown = {
        one.student: None for one in exams if one.facts.round is None and one.facts.after_round is None
    }
    return [
        f"{student}: its own exam, in the results above, does not say after which round it was, so it is not "
        "here."
        for student in in_rounds(exams)
        if student in unknown
    ]


def _seeds(rounds: Mapping[int, Sequence[Contestant]]) -> list[int | None]:
    """None for the student as a whole, then its seeds where it has several."""
    seeds = dict.fromkeys(one.seed for members in rounds.values() for one in members)
    return [None, *(seeds if len(seeds) > 1 else ())]


def _rows(student: str, members: Sequence[Contestant]) -> dict[int | None, Row]:
    """Rows of results by seed; None: the mean, or the only one there is."""
    rows = results_rows([replace(one, group=student) for one in members])
    return {None: rows[0], **{row["seed"]: row for row in rows if row["seeds"] == 1}}


def _cell(row: Row | None, seeds: int) -> str:
    if row is None:
        return "–"
    fewer = f" ({row['seeds']} of {seeds} seeds)" if row["seeds"] < seeds else ""
    return result_cells(row, ["accuracy % [95%]"])[0] + fewer


def _colours(exams: Sequence[Contestant]) -> dict[str, int]:
    """Student -> the colour of its last round; the next free one where another has it."""
    numbers, found = series_of(exams), dict[str, int]()
    for student, rounds in in_rounds(exams).items():
        number = numbers[rounds[max(rounds)][0].group]
        while number in found.values() and len(found) < len(COLOURS):
            number = (number + 1) % len(COLOURS)
        found[student] = number
    return found


def accuracy_plot(exams: Sequence[Contestant]) -> tuple[str, list[tuple[str, int]]]:
    """The accuracy after each round as a drawing, and its legend: (student, colour)."""
    colours, lines = _colours(exams), []
    for student, rounds in in_rounds(exams).items():
        rows = {number: _rows(student, members)[None] for number, members in rounds.items()}
        seeds = [(number, one.accuracy) for number, some in rounds.items() if len(some) > 1 for one in some]
        lines.append(
            Line(
                student,
                tuple((number, row["accuracy"]) for number, row in rows.items()),
                colours[student],
                spans=tuple((row["low"], row["high"]) for row in rows.values()),
                seeds=tuple(seeds),
            )
        )
    return line_svg(lines, share=True, over="round"), [(line.label, line.series) for line in lines]


def sittings(exams: Sequence[Contestant]) -> list[list[Sitting]]:
    """The exams on training questions: a list per student and seed, rounds ascending.

    Raises:
        DataError: a file of mistakes, answers or feedback is damaged or broken.
        DiskError: it cannot be read.
    """
    found: dict[tuple[str, int | None], dict[int, Sitting]] = {}
    seen: set[Path] = set()
    for exam in exams:
        folder = exam.exam.parent
        if exam.facts.round is None or not (folder / "mistakes" / "mistakes.jsonl").is_file():
            continue
        if folder.resolve() not in seen:  # a round may be examined on several splits
            seen.add(folder.resolve())
            found.setdefault((exam.student, exam.seed), {})[exam.facts.round] = _sitting(exam, folder)
    return [[rounds[number] for number in sorted(rounds)] for rounds in found.values()]


def _sitting(exam: Contestant, folder: Path) -> Sitting:
    mistakes = tuple((one.id, one.problem_id) for one in mistakes_of(folder))
    said: dict[str, list[str | None]] = {}
    for reply, solution in replies_of(folder):
        said.setdefault(reply.mistake_id, []).append(solution.dropped)
    written = folder / "answers" / "completions.jsonl"
    answers = Counter(one["problem_id"] for one in completions(written)) if written.is_file() else None
    asked = folder / "asked" / "completions.jsonl"
    cost = sum(float(one.get("cost_usd") or 0) for one in completions(asked)) if asked.is_file() else 0.0
    return Sitting(exam, mistakes, answers, said, cost or None)


def mistakes_of(folder: Path) -> Iterator[Mistake]:
    """The mistakes in a round's folder."""
    path = folder / "mistakes" / "mistakes.jsonl"
    sealed.check(path)
    return read_jsonl(path, Mistake)


def replies_of(folder: Path) -> Iterator[tuple[Feedback, Rationale]]:
    """What was said in a round, with the graded solution; nothing where nobody was asked.

    Raises:
        DataError: the two files of the stage do not fit each other.
    """
    paths = [folder / "feedback" / name for name in ("feedback.jsonl", "graded.jsonl")]
    if not all(path.is_file() for path in paths):
        return
    for path in paths:
        sealed.check(path)
    for one, solution in zip_longest(read_jsonl(paths[0], Feedback), read_jsonl(paths[1], Rationale)):
        if one is None or solution is None or one.mistake_id != solution.about:
            raise DataError(paths[1], f"its lines are not about those of feedback.jsonl next to it; {AGAIN}")
        yield one, solution


def completions(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a completions.jsonl."""
    sealed.check(path)
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not {"problem_id", "index", "text"} <= row.keys():
            raise DataError(f"{path}:{number}", f"not a completion; {AGAIN}")
        yield row


def following(rounds: Sequence[Sitting], now: Sitting) -> Sitting | None:
    """The next round's exam on the training questions, if somebody sat it."""
    after = next((one for one in rounds if one.round == now.round + 1), None)
    return None if after is None or after.answers is None else after


def became(now: Sitting, after: Sitting | None) -> dict[str, str]:
    """Every missed question -> what became of it."""
    found: dict[str, str] = {}
    wrong = after.wrong if after else Counter[str]()
    for question in now.wrong:
        asked = after.answers[question] if after and after.answers else 0
        fate = FIXED if not wrong[question] else MOSTLY if 2 * wrong[question] < asked else KEPT
        found[question] = fate if asked else UNKNOWN
    return found


def mistake_rows(chains: Sequence[Sequence[Sitting]]) -> list[Row]:
    """What each round's mistakes are and became, as plain values: a row per student, round and seed.

    A student with several seeds gets a row of means before them, as in `results_rows`. See `COUNTS`.
    """
    rounds: dict[tuple[str, int], list[Row]] = {}
    for chain in chains:
        for now in chain:
            rounds.setdefault((now.exam.student, now.round), []).append(_counts(now, following(chain, now)))
    order = list(dict.fromkeys(student for student, _ in rounds))
    rows: list[Row] = []
    for key in sorted(rounds, key=lambda key: (order.index(key[0]), key[1])):
        own = rounds[key]
        rows += [_mean(own)] if len(own) > 1 else []
        rows += [{**row, "under_mean": len(own) > 1} for row in own]
    return rows


def _counts(now: Sitting, after: Sitting | None) -> Row:
    fates, shown = became(now, after), {question for one, question in now.mistakes if one in now.said}
    known = Counter(fate for fate in fates.values() if fate != UNKNOWN) if after else None
    about = [fates[question] for question in shown if fates[question] != UNKNOWN]
    return {
        "student": now.exam.student,
        "round": now.round,
        "seed": now.exam.seed,
        "seeds": 1,
        "answers": now.answers and now.answers.total(),
        "wrong": len(now.mistakes),
        "questions": now.answers and len(now.answers),
        "missed": len(fates),
        "fixed": known and known[FIXED],
        "mostly": known and known[MOSTLY],
        "kept": known and known[KEPT],
        "new": _newly_missed(now, after),
        "said": sum(map(len, now.said.values())),
        "usable": sum(why is None for each in now.said.values() for why in each),
        "shown": len(about) if after else None,
        "fixed_shown": about.count(FIXED) if after else None,
        "cost_usd": now.cost,
    }


def _newly_missed(now: Sitting, after: Sitting | None) -> int | None:
    if after is None or now.answers is None:
        return None
    missed = now.wrong
    return sum(question in now.answers and question not in missed for question in after.wrong)


def _mean(rows: Sequence[Row]) -> Row:
    """Means over seeds; None where one seed's is not known."""
    means: Row = {}
    for key in COUNTS:
        values = [row[key] for row in rows if row[key] is not None]
        means[key] = sum(values) / len(rows) if len(values) == len(rows) else None
    return {**rows[0], **means, "seed": None, "seeds": len(rows), "under_mean": False}


def mistake_headings(rows: Sequence[Row]) -> list[str]:
    """Column headings after the name; money only where some was paid."""
    headings = ["wrong answers", "missed", "fixed", "mostly right", "kept", "newly missed"]
    headings += ["usable feedback", "fixed with feedback"]
    return headings + (["cost", "per fixed"] if any(row["cost_usd"] for row in rows) else [])


def mistake_cells(row: Row, headings: Sequence[str]) -> list[str]:
    """The cells under `mistake_headings`."""
    per_fixed = row["cost_usd"] / row["fixed_shown"] if row["cost_usd"] and row["fixed_shown"] else None
    cells = {
        "wrong answers": _of(row["wrong"], row["answers"]),
        "missed": _of(row["missed"], row["questions"]),
        "fixed": _fixed(row),
        "mostly right": _number(row["mostly"]),
        "kept": _number(row["kept"]),
        "newly missed": _number(row["new"]),
        "usable feedback": _of(row["usable"], row["said"]),
        "fixed with feedback": "–" if row["shown"] is None else _of(row["fixed_shown"], row["shown"]),
        "cost": "–" if row["cost_usd"] is None else dollars(row["cost_usd"]),
        "per fixed": "–" if per_fixed is None else dollars(per_fixed),
    }
    return [cells[heading] for heading in headings]


def mistake_label(row: Row) -> str:
    """The student and its round; seeds are indented under their mean."""
    if row["under_mean"]:
        return f"seed {row['seed']}"
    return f"{row['student']} · round {row['round']}" + (", mean" if row["seeds"] > 1 else "")


def mistake_notes(rows: Sequence[Row]) -> list[str]:
    """What is not known, and why, and what the costs are of."""
    notes = []
    if any(row["cost_usd"] for row in rows) and len({row["student"] for row in rows}) > 1:
        notes.append(
            "cost: of this student's feedback by itself. A reply that several students were given was paid "
            "for once, so the run may have cost less than the sum."
        )
    if any(row["fixed"] is None for row in rows):
        notes.append(
            "–: not known. After the last round nobody sits the exam on the training questions, so nothing "
            "says what became of the mistakes before it."
        )
    if given := sorted({row["round"] for row in rows if row["answers"] is None and not row["under_mean"]}):
        notes.append(
            f"Mistakes of round {', '.join(map(str, given))} without a number of answers are from a file and "
            "may be another model's: which questions this student missed is not known there."
        )
    return notes


def _of(part: float | None, whole: float | None) -> str:
    return _number(part) + (f" of {_number(whole)}" if whole is not None else "")


def _fixed(row: Row) -> str:
    """With its share of the missed questions that were asked again."""
    again = sum(row[key] or 0 for key in ("fixed", "mostly", "kept"))
    return _number(row["fixed"]) + (f" ({percent(row['fixed'] / again)}%)" if again else "")


def _number(count: float | None) -> str:
    return "–" if count is None else f"{count:,.1f}".removesuffix(".0")
