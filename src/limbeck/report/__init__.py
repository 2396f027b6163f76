"""The report: finished runs as one self-contained HTML page.

The page loads nothing from anywhere: style, script, drawings and data are in
it, and its content policy forbids everything else, so that it can be mailed and
opened years later. The same inputs give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from limbeck.exam_facts import DIRECT
from limbeck.files import whole_file
from limbeck.report.compare import Comparison, compare, compare_all, compare_other
from limbeck.report.contestants import Contestant, by_group, contestants, in_rounds, left_out, other_exams
from limbeck.report.dropped import dropped_data
from limbeck.report.mistakes import mistakes_data
from limbeck.report.page import RunView, embedded, learning_curves, problem_data, run_views
from limbeck.report.passages import passages_data
from limbeck.report.plots import bar_plot, bar_svg, bars, series_of
from limbeck.report.retrieval import (
    HEADINGS,
    retrieval_cells,
    retrieval_label,
    retrieval_notes,
    retrieval_rows,
)
from limbeck.report.rounds import (
    Sitting,
    accuracy_lines,
    accuracy_notes,
    accuracy_plot,
    mistake_cells,
    mistake_headings,
    mistake_label,
    mistake_notes,
    mistake_rows,
    sittings,
)
from limbeck.report.tables import (
    comparison_cells,
    comparison_headings,
    comparison_labels,
    comparison_notes,
    comparison_rows,
    comparison_table,
    exam_title,
    making_headings,
    percent,
    result_cells,
    result_headings,
    results_notes,
    results_rows,
    results_table,
    row_label,
)

__all__ = [
    "Comparison",
    "Contestant",
    "bar_plot",
    "by_group",
    "compare",
    "comparison_rows",
    "comparison_table",
    "contestants",
    "left_out",
    "other_rows",
    "results_rows",
    "results_table",
    "retrieval_rows",
    "write_report",
]


def other_rows(paths: Sequence[Path], baseline: str | None = None) -> dict[str, dict[str, Any]]:
    """Results and pairs of every other exam (`exam.direct`, `exam.also`), as `limbeck compare --json` gives
    them; for those of `DIRECT` see `compare_other`."""
    return {
        task: {
            "results": results_rows(contestants(paths, task)),
            "pairs": comparison_rows(compare_other(paths, task, baseline)),
        }
        for task in other_exams(paths)
    }


def write_report(paths: Sequence[Path], out: Path) -> None:
    """Write the report of runs, students or exams as one HTML file, whole or not at all.

    Args:
        paths: as for `contestants`; all exams must be of the same problems, or of
            overlapping ones.
        out: the HTML file, replaced when it exists.

    Raises:
        InputError, DataError: as `contestants` and `compare`.
        DiskError: the file cannot be written.
    """
    exams = contestants(paths)
    page = _page(paths, exams)
    with whole_file(out) as stream:
        # a file name that is not UTF-8 must not cost the whole page
        stream.write(page.encode("utf-8", "replace").decode("utf-8"))


def _page(paths: Sequence[Path], exams: Sequence[Contestant]) -> str:
    import jinja2

    parts = {name: _shipped(name) for name in ("page.html", "style.html")}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(parts),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _shipped("script.html")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    runs = run_views(paths)
    dropped, others = _dropped(runs), other_exams(paths)
    sat = sittings(exams)
    return environment.get_template("page.html").render(
        **_head(paths, runs, exams),
        dropped=bool(dropped),
        **_results(exams),
        **_comparisons(exams, compare_all(exams)),
        rounds=_rounds(exams, sat),
        retrieval=_retrieval(exams),
        direct=[_other(paths, task) for task in others if task == DIRECT],
        others=[_other(paths, task) for task in others if task != DIRECT],
        curves=learning_curves(paths, exams),
        data=embedded(
            {
                **problem_data(exams),
                "mistakes": mistakes_data(sat),
                "found": passages_data(exams),
                "dropped": dropped,
            }
        ),
        script=script,
        script_hash=f"sha256-{digest}",
    )


def _shipped(name: str) -> str:
    return files("limbeck.report").joinpath(name).read_text(encoding="utf-8")


def _dropped(runs: Sequence[RunView]) -> list[dict[str, Any]]:
    """The dropped rationales of all runs; with several runs a source is named after its own."""
    several = len(runs) > 1
    return dropped_data(
        {
            f"{run.facts.recipe}: {name}" if several else name: places
            for run in runs
            for name, places in run.graded.items()
        }
    )


def _head(paths: Sequence[Path], runs: Sequence[RunView], exams: Sequence[Contestant]) -> dict[str, Any]:
    sizes = sorted({exam.problems for exam in exams})
    students = len(by_group([exam for exam in exams if exam.role in ("student", "exam")]))
    return {
        "title": ", ".join(dict.fromkeys(run.facts.recipe for run in runs)) or "exams",
        "runs": runs,
        "missing": left_out(paths),
        "problems": " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1]))),
        "students": students,
        "exams": len(exams),
    }


def _results(exams: Sequence[Contestant]) -> dict[str, Any]:
    rows = results_rows(exams)
    headings = [*result_headings(rows), *making_headings(rows)]
    numbers = series_of(exams)
    shipped = {exam.group for exam in exams if exam.role in ("student", "exam")}
    best = max(bars(exams), key=lambda bar: (bar.label in shipped, bar.value))
    return {
        "result_headings": headings,
        "result_lines": [
            (row, row_label(row).strip(), result_cells(row, headings), numbers[row["group"]]) for row in rows
        ],
        "result_notes": results_notes(rows),
        "bar_svg": bar_svg(bars(exams)),
        "best": f"{best.label} {percent(best.value)}%",
    }


def _rounds(exams: Sequence[Contestant], sat: Sequence[Sequence[Sitting]]) -> dict[str, Any] | None:
    """Accuracy after each round, and what became of mistakes; None where nobody trains in rounds."""
    if not in_rounds(exams):
        return None
    numbers, lines = accuracy_lines(exams)
    plot, legend = accuracy_plot(exams)
    rows = mistake_rows(sat)
    headings = mistake_headings(rows)
    return {
        "numbers": numbers,
        "lines": lines,
        "svg": plot,
        "legend": legend,
        "notes": accuracy_notes(exams),
        "mistake_headings": headings,
        "mistake_lines": [(row, mistake_label(row), mistake_cells(row, headings)) for row in rows],
        "mistake_notes": mistake_notes(rows),
    }


def _retrieval(exams: Sequence[Contestant]) -> dict[str, Any] | None:
    """How well passages were found; None where nobody reads."""
    rows = retrieval_rows(exams)
    return (
        {
            "headings": HEADINGS,
            "lines": [(retrieval_label(row), retrieval_cells(row)) for row in rows],
            "notes": retrieval_notes(rows),
        }
        if rows
        else None
    )


def _other(paths: Sequence[Path], task: str) -> dict[str, Any]:
    """Results and comparisons of another exam, with the title of their part of the page."""
    exams = contestants(paths, task)
    compared = _comparisons(exams, compare_other(paths, task))
    return {"title": exam_title(results_rows(exams)), **_results(exams), **compared}


def _comparisons(exams: Sequence[Contestant], found: Sequence[Comparison]) -> dict[str, Any]:
    """Paired comparisons as table lines."""
    places = {exam.name: place for place, exam in enumerate(exams)}
    lines = []
    for one in found:
        for level, each in enumerate([one, *one.by_seed]):
            pair = (places.get(each.a, -1), places.get(each.b, -1))
            lines.append((each, comparison_labels(each), comparison_cells(each, found), pair, level > 0))
    return {
        "comparison_headings": comparison_headings(found) if found else [],
        "comparison_lines": lines,
        "comparison_notes": comparison_notes(found) if found else [],
    }
