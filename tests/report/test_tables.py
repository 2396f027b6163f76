"""What people and scripts read: rows, figures, tables for the terminal."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from limbeck.records import Prediction
from limbeck.report.compare import compare
from limbeck.report.console import print_audit
from limbeck.report.contestants import contestants
from limbeck.report.tables import (
    comparison_rows,
    comparison_table,
    duration,
    interval,
    p_value,
    percent,
    results_rows,
    results_table,
    short,
    signed_percent,
)
from limbeck.statistics import wilson

Make = Callable[..., Path]


def printed(table: RenderableType, width: int = 80) -> str:
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
    table = comparison_table(compare(contestants([tmp_path / "a", tmp_path / "b"])))
    assert "2/5/12/0" in printed(table, 100)
    text = printed(table)
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
    (slow,) = (line for line in text.splitlines() if line.startswith(" b "))
    assert "–" in slow  # a speed that was not measured


def test_reading_and_comparing_load_nothing_heavy() -> None:
    code = (
        "import sys, limbeck.report; "
        "print({'torch', 'transformers', 'datasets', 'matplotlib', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


MADE = {
    "parameters": 613_632,
    "trained_parameters": 613_632,
    "training_examples": 4000,
    "steps": 2500,
    "train_seconds": 143.2,
    "cost_usd": 0.0,
}


def test_a_wide_terminal_shows_what_it_took(
    tmp_path: Path, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    exam_folder(tmp_path / "cot", [predict(0, True)], role="student", seed=0, **MADE)
    lora = MADE | {"parameters": 7_615_616_512, "trained_parameters": 20_185_088, "cost_usd": 1.5}
    exam_folder(tmp_path / "lora", [predict(0, True)], role="student", seed=0, **lora)
    exam_folder(tmp_path / "gpt", [predict(0, True)])
    table = results_table(contestants([tmp_path]))
    wide = printed(table, 160)
    for heading in ("parameters", "trained", "examples", "steps", "train time", "cost"):
        assert heading in wide
    (cot,) = (line for line in wide.splitlines() if line.lstrip().startswith("cot"))
    assert cot.split()[-9:] == ["0.6M", "0.6M", "4,000", "2,500", "2", "min", "23", "s", "$0.00"]
    (lora_line,) = (line for line in wide.splitlines() if line.lstrip().startswith("lora"))
    assert lora_line.split()[-9:-6] == ["7.6B", "20.2M", "4,000"]
    (gpt,) = (line for line in wide.splitlines() if line.lstrip().startswith("gpt"))
    assert gpt.split()[-6:] == ["–"] * 6
    narrow = printed(table, 80)
    assert "parameters" not in narrow and "min" not in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_only_known_facts_get_a_column(demo: Path, old: Callable[[Path], None]) -> None:
    old(demo)
    table = results_table(contestants([demo]))
    assert "train time" not in printed(table, 160)
    assert "parameters" not in printed(table, 160)


def test_rows_hold_the_facts_and_means_of_them(
    tmp_path: Path, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    for seed, steps, seconds in ((0, 10, 60.0), (1, 10, 80.0)):
        about = {"seed": seed, "steps": steps, "train_seconds": seconds, "method": "mine", "round": 2}
        if seed:
            about["training_examples"] = 7
        folder = tmp_path / "x" / f"seed{seed}" / "exam"
        exam_folder(folder, [predict(0, True)], "x", "student", **about)
    mean, first, second = results_rows(contestants([tmp_path]))
    assert (mean["name"], mean["role"], mean["method"], mean["round"]) == (
        "x · round 2",
        "student",
        "mine",
        2,
    )
    assert (mean["steps"], mean["train_seconds"], mean["training_examples"]) == (10, 70.0, None)
    assert (mean["seed"], first["seed"], second["training_examples"]) == (None, 0, 7)
    json.dumps([mean, first, second], allow_nan=False)


def test_counts_and_durations_are_short() -> None:
    counts = (9640, 99_999, 100_000, 613_632, 124e6, 999.4e6, 999.6e6, 7_615_616_512, 671e9)
    assert [short(count) for count in counts] == [
        "9,640",
        "99,999",
        "0.1M",
        "0.6M",
        "124M",
        "999M",
        "1.0B",
        "7.6B",
        "671B",
    ]
    spans = (0.2, 59.4, 59.6, 143.2, 3599.4, 3599.6, 12_000, 400_000)
    assert [duration(seconds) for seconds in spans] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "2 min 23 s",
        "59 min 59 s",
        "1 h 00 min",
        "3 h 20 min",
        "111 h 07 min",
    ]


def test_data_are_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_audit({"[/b]": "[bold]x[/bold] :smile:", "sources": {"[/b]": 3}})
    out = capsys.readouterr().out
    assert out.count("[/b]") == 2
    assert "[bold]x[/bold] :smile:" in out


def test_tables_say_what_their_figures_count(tmp_path: Path, run_folder: Make) -> None:
    right = {"x": {0: [True, False] * 20}, "y": {seed: [True] * 38 + [seed == 0] * 2 for seed in range(3)}}
    exams = contestants([run_folder(tmp_path / "few", right)])
    results, comparison = (
        " ".join(printed(table).split()) for table in (results_table(exams), comparison_table(compare(exams)))
    )
    assert "between seeds, in points: y ± 2.9 (3 seeds)." in results
    assert "its interval counts seeds and problems" in results
    assert "between seeds, in points: y ± 2.9 (3 seeds)." in comparison
    assert "speak of these seeds only, so the verdict is undecided" in comparison
    assert "count seeds and problems" not in comparison

    right["x"] = {seed: [True, False] * 20 for seed in range(3)}
    exams = contestants([run_folder(tmp_path / "enough", right)])
    comparison = " ".join(printed(comparison_table(compare(exams))).split())
    assert "interval and p count seeds and problems, t with Satterthwaite's" in comparison
    assert "these seeds only" not in comparison
    assert "holds" in comparison

    alone = contestants(
        [run_folder(tmp_path / "alone", {name: {0: seeds[0]} for name, seeds in right.items()})]
    )
    for table in (results_table(alone), comparison_table(compare(alone))):
        assert "between seeds: ± not known, nobody has several seeds." in " ".join(printed(table).split())


def test_rows_carry_seeds_freedom_and_method(tmp_path: Path, run_folder: Make) -> None:
    right = {name: {seed: [True, False] * 20 for seed in range(3)} for name in "xy"}
    (row,) = comparison_rows(compare(contestants([run_folder(tmp_path / "r", right)])))
    known = {key: row[key] for key in ("seeds_a", "seeds_b", "test", "verdict", "std_a", "std_b")}
    assert known == {
        "seeds_a": 3,
        "seeds_b": 3,
        "test": "t",
        "verdict": "undecided",
        "std_a": 0.0,
        "std_b": 0.0,
    }
    assert row["df"] > 4 and row["error"] > 0
