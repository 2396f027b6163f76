"""A browsable sample of the rationales that were dropped, small however many there are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck import sealed
from limbeck.errors import DataError
from limbeck.records import numbered_lines
from limbeck.report.run_files import AGAIN

MOST = 400
"""Dropped rationales in a page, of all sources together."""

FEWEST = 20
"""Of each source at least, where there are as many."""

LONGEST, LONGEST_QUESTION = 1_500, 500
"""Characters of a text and of a question; a longer one loses its middle."""


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
    for number, rationale in _rationales(path):
        total += 1
        if rationale["dropped"] is not None:
            places.setdefault(str(rationale["dropped"]), []).append(number)
    counts = {reason: len(lines) for reason, lines in places.items()}
    shares = fair_shares(counts, room)
    chosen = {line for reason, lines in places.items() for line in evenly(lines, shares[reason])}
    rows = [rationale for number, rationale in _rationales(path, chosen)]
    asked = _problems(problems, {str(row["problem_id"]) for row in rows})
    return {
        "name": name,
        "rationales": total,
        "dropped": sum(counts.values()),
        "reasons": sorted(counts.items(), key=lambda pair: -pair[1]),
        "rows": [_row(row, asked.get(str(row["problem_id"]), {})) for row in rows],
    }


def fair_shares(counts: Mapping[str, int], room: int) -> dict[str, int]:
    """How many of each may be shown: rare ones all, frequent ones an equal part of what is left."""
    shares: dict[str, int] = {}
    for name, count in sorted(counts.items(), key=lambda pair: pair[1]):
        shares[name] = min(count, room // (len(counts) - len(shares)))
        room -= shares[name]
    return shares


def evenly(places: Sequence[int], count: int) -> list[int]:
    """`count` of the places, evenly spread over all of them."""
    return [places[number * len(places) // count] for number in range(count)]


def _rationales(path: Path, wanted: set[int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
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


def _problems(folder: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Some training and dev problems by id, as far as the run's files hold them."""
    found: dict[str, dict[str, Any]] = {}
    for path in (folder / "train.jsonl", folder / "dev.jsonl"):
        if not path.is_file():
            continue
        sealed.check(path)
        for number, line in numbered_lines(path):
            try:
                row = json.loads(line)
            except ValueError:
                raise DataError(f"{path}:{number}", f"not a problem; {AGAIN}") from None
            if isinstance(row, dict) and row.get("id") in wanted:
                found[row["id"]] = row
    return found


def _row(rationale: Mapping[str, Any], problem: Mapping[str, Any]) -> list[Any]:
    return [
        rationale["dropped"],
        rationale["problem_id"],
        _cut(str(problem.get("question") or ""), LONGEST_QUESTION),
        problem.get("answer"),
        rationale.get("answer"),
        rationale.get("how"),
        rationale.get("source"),
        rationale.get("index"),
        _cut(_whole(rationale), LONGEST),
    ]


def _whole(rationale: Mapping[str, Any]) -> str:
    """What a model wrote, with its thinking before it."""
    parts = (rationale.get("thinking"), rationale["completion"])
    return "\n\n".join(str(part) for part in parts if part)


def _cut(text: str, longest: int) -> str:
    """A text without its middle where it is long; what is wrong with an answer stands near the end."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"
