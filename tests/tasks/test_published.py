"""The real data: published files load as they are, and extraction agrees with their gold as it should.

Needs the folder that LIMBECK_DATA names; nothing of it is part of the project.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import LeakError
from limbeck.tasks.answers import AnswerKind, canonical, extract, same, split_answer
from limbeck.tasks.options import options_in
from limbeck.tasks.settings import Columns, FilesTask, Leaks
from limbeck.tasks.sources import load_splits

DATA = Path(os.environ.get("LIMBECK_DATA", ""))
MENTOR = DATA / "published/2hojae+mentor-kd/data"

pytestmark = pytest.mark.skipif(
    "LIMBECK_DATA" not in os.environ, reason="LIMBECK_DATA names no folder of real data"
)


def mentor_kd(name: str, kind: AnswerKind, leaks: Leaks = "refuse") -> FilesTask:
    return FilesTask(
        name=name,
        kind=kind,
        train=str(MENTOR / f"main/{name}_3_train.json"),
        test=str(MENTOR / f"main/{name}_test.json"),
        columns=Columns(question="input", rationale="chain"),
        leaks=leaks,
    )


@pytest.mark.parametrize(
    ("name", "kind", "questions", "rationales", "tests"),
    [
        ("svamp", "number", 651, 1953, 150),
        ("date_understanding", "choice", 256, 768, 111),
        ("last_letter_concatenation", "text", 350, 1050, 150),
        ("tracking_shuffled_objects", "choice", 512, 1536, 225),
    ],
)
def test_mentor_kd_files_load_by_path_and_columns(
    name: str, kind: AnswerKind, questions: int, rationales: int, tests: int
) -> None:
    splits = load_splits(mentor_kd(name, kind), seed=0)
    assert len(splits.train) + len(splits.dev) == questions
    assert (len(splits.given), len(splits.test), splits.notes) == (rationales, tests, [])
    assert max(Counter(problem_id for problem_id, _, _ in splits.given).values()) == 3
    assert all(bool(problem.options) == (kind == "choice") for problem in splits.train + splits.test)


def test_mentor_kd_strategyqa_leaks_one_question() -> None:
    with pytest.raises(
        LeakError, match=r"strategy_qa_3_train\.json record \d+: .*\(shared questions: 1\).*task\.leaks"
    ):
        load_splits(mentor_kd("strategy_qa", "yes-no"), 0)
    splits = load_splits(mentor_kd("strategy_qa", "yes-no", "drop"), 0)
    assert len(splits.train) + len(splits.dev) == 1495 and len(splits.test) == 687
    assert splits.notes == ["train: questions that are in test too, left out of train: 1 (task.leaks: drop)"]


def measured(file: str, kind: AnswerKind) -> dict[str, float]:
    """Share of chains with the gold answer (of all, of those with a marker, by fallback), and of failures."""
    rows: list[dict[str, Any]] = json.loads((MENTOR / file).read_text(encoding="utf-8"))
    counts: Counter[str] = Counter()
    for row in rows:
        if row["chain"] is not None:
            found = extract(kind, row["chain"], options_in(row["input"]) if kind == "choice" else ())
            right = found.answer is not None and same(kind, found.answer, row["answer"])
            counts.update([found.how or "failed", "all"])
            counts.update([f"{found.how} right", "right"] if right else [])
    shares = {"right": counts["right"] / counts["all"], "failed": counts["failed"] / counts["all"]}
    for how in ("marker", "fallback"):
        shares[how] = counts[f"{how} right"] / max(1, counts[how])
    return shares


@pytest.mark.parametrize(
    ("file", "kind", "right", "failed"),
    [
        # The last number alone agrees on 77% of these; 96.8% contain the gold number at all.
        ("main/svamp_3_train.json", "number", 0.82, 0.0),
        ("main/date_understanding_3_train.json", "choice", 0.98, 0.011),
        ("main/tracking_shuffled_objects_3_train.json", "choice", 0.988, 0.001),
        # The rest mostly has spaces between its letters ("hhe n"), which is another text.
        ("main/last_letter_concatenation_3_train.json", "text", 0.94, 0.004),
        # Few of these chains say yes, no, true or false; whose verdict it is would have to be guessed.
        ("main/strategy_qa_3_train.json", "yes-no", 0.16, 0.84),
        # The mentor's own chains, flagged right: svamp .742, date .986, tracking .884, last letters .980.
        ("aug/flan-t5_large/svamp_rand3_aug3.json", "number", 0.65, 0.001),
        ("aug/flan-t5_large/date_understanding_rand3_aug3.json", "choice", 0.95, 0.004),
        ("aug/flan-t5_large/tracking_shuffled_objects_rand3_aug3.json", "choice", 0.88, 0.001),
        ("aug/flan-t5_large/last_letter_concatenation_rand3_aug3.json", "text", 0.90, 0.001),
    ],
)
def test_extraction_agrees_with_published_gold(
    file: str, kind: AnswerKind, right: float, failed: float
) -> None:
    shares = measured(file, kind)
    assert shares["right"] >= right
    assert shares["failed"] <= failed


def test_what_yes_no_extracts_is_seldom_wrong() -> None:
    shares = measured("main/strategy_qa_3_train.json", "yes-no")
    assert shares["marker"] == 1.0 and shares["fallback"] >= 0.97


def test_reasoning_keeps_all_but_the_closing_statement() -> None:
    """What is left are lines of its chain (but for a full stop), and nothing more can be cut from it."""
    for name, kind in (
        ("tracking_shuffled_objects", "choice"),
        ("date_understanding", "choice"),
        ("svamp", "number"),
    ):
        for row in json.loads((MENTOR / f"main/{name}_3_train.json").read_text(encoding="utf-8")):
            options = options_in(row["input"])
            reasoning, _ = split_answer(kind, row["chain"], options)  # type: ignore[arg-type]
            for line in reasoning.splitlines():
                because = line.removeprefix("Because ").removeprefix("Since ")
                assert because.removesuffix(".") in row["chain"]
            assert split_answer(kind, reasoning, options)[0] == reasoning  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("train", "test", "kind", "columns", "problems"),
    [
        (
            "datasets/gsm8k/train.jsonl",
            "datasets/gsm8k/test.jsonl",
            "number",
            Columns(rationale="answer"),
            7473,
        ),
        (
            "datasets/strategyqa/train.jsonl",
            "datasets/strategyqa/dev.jsonl",
            "yes-no",
            Columns(id="qid"),
            2061,
        ),
        (
            "datasets/medqa/us_4opt_dev.jsonl",
            "datasets/medqa/us_4opt_test.jsonl",
            "choice",
            Columns(answer="answer_idx", options="options"),
            1272,
        ),
        (
            "datasets/aqua/dev.json",
            "datasets/aqua/test.json",
            "choice",
            Columns(answer="correct", options="options", rationale="rationale"),
            254,
        ),
        (
            "published/homzer+MCC-KD/data/SVAMP/train.json",
            "published/homzer+MCC-KD/data/SVAMP/test.json",
            "number",
            Columns(question="instruction", answer="label", rationale="output"),
            700,
        ),
        (
            "published/homzer+MCC-KD/data/CSQA/dev.json",
            "published/homzer+MCC-KD/data/CSQA/test.json",
            "choice",
            Columns(question="instruction", answer="label"),
            1221,
        ),
        (
            "datasets/coin_flip/coin_flip.json#examples",
            "datasets/bbh/bbh/web_of_lies.json#examples",
            "yes-no",
            Columns(),
            500,
        ),
    ],
)
def test_other_published_sets_load_without_code(
    train: str, test: str, kind: AnswerKind, columns: Columns, problems: int
) -> None:
    if "web_of_lies" in test:
        test = train  # one file: every question leaks, which `keep` allows
    task = FilesTask(
        kind=kind, train=str(DATA / train), test=str(DATA / test), columns=columns, leaks="keep", dev=50
    )
    splits = load_splits(task, 0)
    assert len(splits.train) + len(splits.dev) == problems
    assert all(canonical(kind, problem.answer, problem.options) == problem.answer for problem in splits.test)


def test_obqa_leaks_are_counted() -> None:
    paths = {split: str(DATA / f"datasets/obqa/{split}.jsonl") for split in ("train", "test")}
    task = FilesTask(kind="choice", columns=Columns(options="choices", id="id"), **paths)
    with pytest.raises(LeakError, match=r"shared questions: 23"):
        load_splits(task, 0)
