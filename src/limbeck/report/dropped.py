"""A browsable sample of the rationales that were dropped, small however many there are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from limbeck import sealed
from limbeck.errors import DataError
from limbeck.records import numbered_lines
from limbeck.report.run_files import AGAIN
from limbeck.report.samples import LONGEST, LONGEST_QUESTION, cut, evenly, fair_shares, some_problems

MOST = 400
"""Dropped rationales in a page, of all sources together."""

FEWEST = 20
"""Of each source at least, where there are as many."""


def dropped_data(sources: Mapping[str, tuple[Path, Path]]) -> list[dict[str, Any]]:
    """What the browser of dropped rationales reads: a sample per source, all reasons in it, evenly spread.

    A row is [reason, problem, question, gold, answer, how it was found, source, index, text]. The
    counts are of all rationales.

    Args:
        sources: name -> folder of a stage with `graded.jsonl`, and the folder of its problems.
            A source without that file or without a dropped rationale is left out.

    Raises:
        DataError: a file is damaged, or a line is not a graded rationale.
    """
    there = {name: both for name, both in sources.items() if (both[0] / "graded.jsonl").is_file()}
    room = max(FEWEST, MOST // max(len(there), 1))
    found = [_source(name, folder, problems, room) for name, (folder, problems) in there.items()]
    return [one for one in found if one["rows"]]


def _source(name: str, folder: Path, problems: Path, room: int) -> dict[str, Any]:
    path = folder / "graded.jsonl"
    sealed.check(path)
    places: dict[str, list[int]] = {}
    total = 0
    for number, rationale in graded_rows(path):
        total += 1
        if rationale["dropped"] is not None:
            places.setdefault(str(rationale["dropped"]), []).append(number)
    counts = {reason: len(lines) for reason, lines in places.items()}
    shares = fair_shares(counts, room)
    chosen = {line for reason, lines in places.items() for line in evenly(lines, shares[reason])}
    rows = [rationale for number, rationale in graded_rows(path, chosen)]
    asked = some_problems(problems, {str(row["problem_id"]) for row in rows})
    return {
        "name": name,
        "rationales": total,
        "dropped": sum(counts.values()),
        "reasons": sorted(counts.items(), key=lambda pair: -pair[1]),
        "rows": [_row(row, asked.get(str(row["problem_id"]), {})) for row in rows],
    }


def graded_rows(path: Path, wanted: set[int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a file of graded rationales, or some of them, by their number."""
    for number, line in numbered_lines(path):
        if wanted is not None and number not in wanted:
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not {"dropped", "problem_id", "completion"} <= row.keys():
            raise DataError(f"{path}:{number}", f"not a graded rationale; {AGAIN}")
        yield number, row


def _row(rationale: Mapping[str, Any], problem: Mapping[str, Any]) -> list[Any]:
    return [
        rationale["dropped"],
        rationale["problem_id"],
        cut(str(problem.get("question") or ""), LONGEST_QUESTION),
        problem.get("answer"),
        rationale.get("answer"),
        rationale.get("how"),
        rationale.get("source"),
        rationale.get("index"),
        cut(_whole(rationale), LONGEST),
    ]


def _whole(rationale: Mapping[str, Any]) -> str:
    """What a model wrote, with its thinking before it."""
    parts = (rationale.get("thinking"), rationale["completion"])
    return "\n\n".join(str(part) for part in parts if part)
