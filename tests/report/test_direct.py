"""The exam without reasoning is a table of its own, and every model is compared with itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from limbeck.records import Prediction
from limbeck.report import other_rows, write_report
from limbeck.report.compare import against_direct
from limbeck.report.contestants import contestants, left_out
from limbeck.statistics import from_units

Make = Callable[..., Path]
Predict = Callable[..., Prediction]


@pytest.fixture
def run(tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Predict) -> Path:
    """A student with three seeds and one with one; without reasoning they solve fewer of 40 problems."""
    solved = {"cot": {0: 30, 1: 33, 2: 27}, "plain": {0: 10}}
    verdicts = {
        name: {seed: [n < k for n in range(40)] for seed, k in seeds.items()}
        for name, seeds in solved.items()
    }
    folder = run_folder(tmp_path / "r", verdicts, teacher=[True] * 40)
    listed = "students:\n  cot: {seeds: [0, 1, 2]}\n  plain: {seeds: [0]}\n"
    (folder / "recipe.yaml").write_text(f"name: r\nexam: {{direct: true}}\n{listed}")
    for name, seeds in solved.items():
        for seed, count in seeds.items():
            place = folder / "students" / name / f"seed{seed}" / "exam-direct"
            right = count - 20 if name == "cot" else count
            asked = [predict(n, n < right) for n in range(40)]
            exam_folder(place, asked, name, "student", seed=seed, direct=True)
            (place / "stage.json").write_text("{}")
    return folder


def test_each_is_compared_with_itself_seed_by_seed(run: Path) -> None:
    usual, direct = contestants([run]), contestants([run], "direct")
    assert [one.name for one in direct] == ["cot seed 0", "cot seed 1", "cot seed 2", "plain"]
    cot, plain = against_direct(usual, direct)
    assert (cot.a, cot.b, cot.difference, cot.test) == ("cot without reasoning", "cot", 0.5, "t")
    gained = [
        [float(a.correct) - float(b.correct) for a, b in zip(one.predictions, other.predictions, strict=True)]
        for one, other in zip(usual[1:4], direct[:3], strict=True)
    ]
    expected = from_units([[np.array(gained)]])
    assert (cot.error, cot.df) == (expected.error, expected.freedom), "one side: seeds are the same models"
    assert cot.verdict == "holds" and cot.p_holm is not None
    assert (plain.difference, plain.p, plain.verdict) == (0.0, 1.0, "undecided")


def test_pages_and_json_show_it_apart(run: Path, tmp_path: Path) -> None:
    rows = other_rows([run])
    assert list(rows) == ["direct"] and [one["b"] for one in rows["direct"]["pairs"]] == ["cot", "plain"]
    write_report([run], tmp_path / "page.html")
    own, _, rest = (tmp_path / "page.html").read_text().partition('<section id="direct"')
    assert "without reasoning" not in own and "cot without reasoning" in rest and 'id="also"' not in rest
    (run / "students/plain/seed0/exam-direct/metrics.json").unlink()
    assert left_out([run]) == ["plain seed 0 has no finished exam without reasoning"]
    (run / "recipe.yaml").write_text(
        (run / "recipe.yaml").read_text().replace("direct: true", "direct: false")
    )
    assert other_rows([run]) == {}
