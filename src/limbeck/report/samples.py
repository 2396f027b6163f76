"""Samples of what would make a page too large: fair shares, cut texts, and the questions they are about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from limbeck import sealed
from limbeck.errors import DataError
from limbeck.records import numbered_lines
from limbeck.report.run_files import AGAIN

K = TypeVar("K")
T = TypeVar("T")

LONGEST, LONGEST_QUESTION = 1_500, 500
"""Characters of a text and of a question; a longer one loses its middle."""


def fair_shares(counts: Mapping[K, int], room: int) -> dict[K, int]:
    """How many of each may be shown: rare ones all, frequent ones an equal part of what is left."""
    shares: dict[K, int] = {}
    for name, count in sorted(counts.items(), key=lambda pair: pair[1]):
        shares[name] = min(count, room // (len(counts) - len(shares)))
        room -= shares[name]
    return shares


def evenly(places: Sequence[T], count: int) -> list[T]:
    """`count` of the places, evenly spread over all of them."""
    return [places[number * len(places) // count] for number in range(count)]


def some_problems(
    folder: Path, wanted: set[str], splits: Sequence[str] = ("train", "dev")
) -> dict[str, dict[str, Any]]:
    """Some problems by id, as far as the run's files hold them."""
    found: dict[str, dict[str, Any]] = {}
    for path in (folder / f"{split}.jsonl" for split in splits):
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


def cut(text: str, longest: int) -> str:
    """A text without its middle where it is long; what is wrong with an answer stands near the end."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"
