"""What the command shows: tables on standard output."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from json import loads
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from limbeck.report.compare import compare, compare_other, pairs
from limbeck.report.contestants import Contestant, contestants, left_out, other_exams
from limbeck.report.retrieval import retrieval_rows, retrieval_table
from limbeck.report.tables import comparison_table, results_table


def show(thing: object) -> None:
    """Print a rich table; a pipe gets the width it needs instead of a cut one.

    Strings are shown as they are: a name or a text of the data is never markup.
    """
    width = None if sys.stdout.isatty() else 160
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    console.print(thing)


def print_results(paths: list[Path], found: list[Contestant], baseline: str | None) -> None:
    """Results, pairs, how well passages were found, as far as there are any; other exams; what is missing."""
    show(results_table(found))
    if baseline or pairs(found):
        show(comparison_table(compare(found, baseline)))
    if rows := retrieval_rows(found):
        show(retrieval_table(rows))
    for task in other_exams(paths):
        show(results_table(contestants(paths, task)))
        if compared := compare_other(paths, task, baseline):
            show(comparison_table(compared, task))
    for line in left_out(paths):
        print(line)


def print_audit_file(path: Path) -> None:
    """The audit of rationales, from its file."""
    print_audit(loads(path.read_text(encoding="utf-8")))


def print_audit(summary: Mapping[str, Any]) -> None:
    """Counts, and counts of counts, as a table of two columns; then a table of each list of named things."""
    table = Table("audit of rationales", "", show_header=True)
    lines = {key: _lines(value) for key, value in summary.items()}
    for key, value in summary.items():
        if not lines[key]:
            counts = isinstance(value, dict)
            table.add_row(key, ", ".join(f"{k}: {v}" for k, v in value.items()) if counts else str(value))
    show(table)
    for key, rows in lines.items():
        if rows:
            show(_grid(key, rows))


def _lines(value: object) -> dict[str, dict[str, Any]]:
    """What is to be a table of its own, line by line with the lines' names; {} for anything else."""
    if isinstance(value, list):
        value = {str(number): row for number, row in enumerate(value, 1)}
    if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        return value
    return {}


def _grid(title: str, lines: Mapping[str, Mapping[str, Any]]) -> Table:
    headings = dict.fromkeys(key for row in lines.values() for key in row)
    table = Table("", *headings, title=Text(title), title_justify="left")
    for name, row in lines.items():
        table.add_row(name, *(str(row.get(key, "")) for key in headings))
    return table
