"""Agreement on published samples with known gold. Needs the folder that LIMBECK_DATA names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from limbeck.agreement import Agreement
from limbeck.audit import grade_file
from limbeck.tasks.settings import Columns, FilesTask

pytestmark = pytest.mark.skipif(
    "LIMBECK_DATA" not in os.environ, reason="LIMBECK_DATA names no folder of real data"
)
SVAMP = Path(os.environ.get("LIMBECK_DATA", "")) / "published/homzer+MCC-KD/data/SVAMP"


def test_agreement_of_ten_raw_samples_predicts_gold() -> None:
    """700 questions with ten unfiltered rationales each; most state no answer, so most are guesses."""
    columns = Columns(question="instruction", answer="label", rationale="output", several_rationales=True)
    train, test = str(SVAMP / "train.json"), str(SVAMP / "test.json")
    task = FilesTask(kind="number", train=train, test=test, dev=0, leaks="keep", columns=columns)
    graded, audit = grade_file(Path(train), task, 0, keep="all", agreement=Agreement("number"))
    levels = audit["agreement and gold"]
    assert levels["100 %"]["share"] > 0.97 > 0.8 > levels["50 to 59 %"]["share"]
    assert sum(level["problems"] for level in levels.values()) == 700
    kept = [one for one in graded if one.dropped is None]
    right = sum(one.correct is True for one in kept) / len(kept)
    alone = audit["correct"] / len(graded)
    assert right > 0.92 and right > alone + 0.15, "without a look at gold"
    assert 0 < audit["suspected wrong gold answers"] < 10
