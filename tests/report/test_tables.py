"""What people and scripts read: rows, figures, tables for the terminal."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from limbeck.records import Prediction
from limbeck.report.compare import compare
from limbeck.report.contestants import contestants
from limbeck.report.tables import (
    comparison_rows,
    comparison_table,
    interval,
    p_value,
    percent,
    results_rows,
    results_table,
    signed_percent,
)
from limbeck.statistics import wilson

Make = Callable[..., Path]


def printed(table: Table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_figures_as_people_read_them() -> None:
    assert percent(0.78125) == "78.1"
    assert percent(1.0) == "100.0"
    assert signed_percent(0.125) == "+12.5"
    assert signed_percent(-0.0401) == "−4.0"
    assert signed_percent(-0.0001) == signed_percent(0.0001) == "0.0"
    assert interval(0.7431, 0.8149) == "[74.3, 81.5]"
    assert [p_value(p) for p in (0.0, 0.000999, 0.001, 0.0494, 1.0)] == [
        "<0.001",
        "<0.001",
        "0.001",
        "0.049",
        "1.000",
    ]


def test_rows_of_a_run(demo: Path) -> None:
    rows = results_rows(contestants([demo]))
    assert [(row["name"], row["seeds"], row["seed"]) for row in rows] == [
        ("teacher", 1, None),
        ("answers-only", 1, 0),
        ("cot-3", 3, None),
        ("cot-3 seed 0", 1, 0),
        ("cot-3 seed 1", 1, 1),
        ("cot-3 seed 2", 1, 2),
    ]
    teacher, _, mean, *seeds = rows
    assert (teacher["low"], teacher["high"]) == wilson(teacher["correct"], 60)
    assert mean["accuracy"] == pytest.approx(sum(row["accuracy"] for row in seeds) / 3)
    assert mean["extraction_failed"] == pytest.approx(sum(row["extraction_failed"] for row in seeds) / 3)
    assert mean["low"] < mean["accuracy"] < mean["high"]
    json.dumps(rows)
    json.dumps(comparison_rows(compare(contestants([demo]))))


def test_tables_fit_a_terminal_of_80_columns(demo: Path) -> None:
    exams = contestants([demo])
    for table, rows in [(results_table(exams), 6), (comparison_table(compare(exams)), 9)]:
        text = printed(table)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80
        assert sum("[" in line and "]" in line for line in text.splitlines()) >= rows
    for table in (results_table(exams), comparison_table(compare(exams))):
        assert "…" not in printed(table, 50)  # narrower ones fold, nothing is cut
    text = printed(results_table(exams))
    teacher = exams[0]
    low, high = wilson(teacher.correct, 60)
    assert f"{percent(teacher.accuracy)} {interval(low, high)}" in text
    assert "Exam of 60 problems" in text


def test_verdict_counts_stand_in_the_comparison_table(
    tmp_path: Path, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    exam_folder(tmp_path / "a", [predict(n, n < 7) for n in range(20)])
    exam_folder(tmp_path / "b", [predict(n, n > 4) for n in range(19)])
    text = printed(comparison_table(compare(contestants([tmp_path / "a", tmp_path / "b"]))))
    assert "2/5/12/0" in text
    assert "19 problems they have in common (of 20 and 19)" in " ".join(text.split())
    assert "Holm" not in text


def test_names_are_no_markup_and_long_ones_fold(
    tmp_path: Path, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    long = "a-student-with-a-very-long-name-that-does-not-fit-into-a-narrow-terminal"
    names = ["[red]x[∕red]", long]
    exams = contestants([exam_folder(tmp_path / name, [predict(0, True)]) for name in names])
    text = printed(results_table(exams))
    assert "[red]x[∕red]" in "".join(text.split())
    assert "…" not in text
    assert text.count("100.0 [20.7, 100.0]") == 2


def test_exams_of_unequal_size_say_so(
    tmp_path: Path, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    exam_folder(tmp_path / "a", [predict(n, True) for n in range(1200)])
    exam_folder(tmp_path / "b", [predict(0, True)], votes=5, tokens_per_s=0.0)
    text = printed(results_table(contestants([tmp_path / "a", tmp_path / "b"])), 100)
    assert "1,200" in text
    assert "votes" in text
    assert "–" in text.splitlines()[-2]  # a speed that was not measured


def test_reading_and_comparing_load_nothing_heavy() -> None:
    code = (
        "import sys, limbeck.report; "
        "print({'torch', 'transformers', 'datasets', 'matplotlib', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
