"""What the command shows: tables on standard output."""

from __future__ import annotations

import sys
from json import loads
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from limbeck.report.compare import compare, pairs
from limbeck.report.contestants import Contestant, left_out
from limbeck.report.tables import comparison_table, results_table


def show(thing: object) -> None:
    """Print a rich table; a pipe gets the width it needs instead of a cut one.

    Strings are shown as they are: a name or a text of the data is never markup.
    """
    width = None if sys.stdout.isatty() else 160
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    console.print(thing)


def print_results(paths: list[Path], found: list[Contestant], baseline: str | None) -> None:
    """Results, paired comparisons where there is a pair, and what is missing."""
    show(results_table(found))
    if baseline or pairs(found):
        show(comparison_table(compare(found, baseline)))
    for line in left_out(paths):
        print(line)


def print_audit(path: Path) -> None:
    """The audit of rationales, from its file."""
    print_table(loads(path.read_text(encoding="utf-8")))


def print_table(summary: dict[str, Any]) -> None:
    """Counts, and counts of counts, as a table of two columns."""
    table = Table("audit of rationales", "", show_header=True)
    for key, value in summary.items():
        shown = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(key, shown)
    show(table)
