"""Published mistakes themselves: the counts of their imports. Needs the folder that LIMBECK_DATA names."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import LeakError
from limbeck.published import read
from limbeck.published.found import Request, write_import
from limbeck.records import Feedback, Mistake, Problem, Rationale, read_jsonl

pytestmark = pytest.mark.skipif(
    "LIMBECK_DATA" not in os.environ, reason="LIMBECK_DATA names no folder of real data"
)
DATA = Path(os.environ.get("LIMBECK_DATA", ""))
MENTOR = DATA / "published/2hojae+mentor-kd/data"
COMMITTEE = DATA / "mistakes/learn-from-committee"
TAILORED = DATA / "tailored_format"
SVAMP = [f"{COMMITTEE}/Llama-2-7b-chat-hf_svamp_{what}_round0.json" for what in ("feedback", "rationale")]
STRATEGY = [f"{COMMITTEE}/Llama-2-7b-chat-hf_strategyQA_false_round0.json"]

Splits = dict[str, list[str]]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Train and test of Mentor-KD's sets, as their import writes them and this one reads them."""
    found = {}
    for task in ("svamp", "strategy_qa", "date_understanding", "last_letter_concatenation"):
        out = tmp_path_factory.mktemp(task) / "out"
        files = [f"{MENTOR}/skeleton/{task}_train.json", f"test={MENTOR}/main/{task}_test.json"]
        write_import(read("mentor-kd", files, Request(task, gold="first")), "mentor-kd", out)
        found[task] = [f"train={out / 'train.jsonl'}", f"test={out / 'test.jsonl'}"]
    return found


def imported(out: Path, form: str, paths: list[str], task: str, **request: Any) -> dict[str, Any]:
    return write_import(read(form, paths, Request(task, **request)), form, out)


def test_svamp_mistakes_with_feedback_and_rationales_of_three_teachers(tmp_path: Path) -> None:
    """54 of the 387 texts name the gold number somewhere; 21 of them state it as their answer."""
    out = tmp_path / "out"
    summary = imported(out, "learn-from-committee", SVAMP, "svamp")
    counts = summary["mistakes"]
    assert (counts["texts"], counts["mistakes"], counts["wrong"], counts["no answer found"]) == (
        387,
        366,
        355,
        11,
    )
    assert (counts["right, so no mistakes"], counts["empty"], counts["duplicates"]) == (21, 9, 0)
    assert counts["what their authors read"]["another answer"] == 96
    assert {name: own["a right one"] for name, own in summary["feedback"].items()} == {
        "gpt-3.5-turbo": 268,
        "gemini-1.0-pro": 227,
        "mixtral-8x7b": 225,
    }
    mistakes = {one.id: one for one in read_jsonl(out / "mistakes.jsonl", Mistake)}
    feedback = list(read_jsonl(out / "feedback.jsonl", Feedback))
    assert Counter(one.mistake_id for one in feedback) == dict.fromkeys(mistakes, 3)
    assert all(one.said and one.solution for one in feedback)
    assert len(list(read_jsonl(out / "train.jsonl", Problem))) == 387
    teacher = summary["files"]["teacher.jsonl"]
    assert (teacher["texts"], teacher["correct"], teacher["flagged correct"]) == (1161, 773, 826)


def test_verdicts_of_the_other_teachers_follow_from_their_scores() -> None:
    """A text is one of `correct_rationale` where the mean of its scores from 1 to 5 is above 3."""
    for row in json.loads(Path(SVAMP[1]).read_text("utf-8")):
        for teacher in ("gpt", "gemini", "mistral"):
            text, *scores = row[f"{teacher}_rationale"]
            valid = [score for score in scores if 1 <= score <= 5]
            assert (sum(valid) > 3 * len(valid)) == (text in row["correct_rationale"])


def test_every_extraction_failure_of_strategyqa_is_no_answer_for_us_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = imported(out, "learn-from-committee", STRATEGY, "strategyQA")["mistakes"]
    assert (counts["texts"], counts["mistakes"], counts["wrong"], counts["no answer found"]) == (
        825,
        797,
        418,
        379,
    )
    assert counts["right, so no mistakes"] == 28
    assert counts["what their authors read"] == {
        "the same answer": 418,
        "no answer, nor do we": 278,
        "an answer, but we read none": 101,
        "another answer": 28,
    }
    assert not (out / "feedback.jsonl").exists()


@pytest.mark.parametrize(
    ("paths", "task", "of", "leaks", "unknown", "mistakes"),
    [(SVAMP, "svamp", "svamp", 59, 61, 252), (STRATEGY, "strategyQA", "strategy_qa", 242, 0, 561)],
)
def test_questions_of_mentor_kds_test_are_refused_or_left_out(
    paths: list[str],
    task: str,
    of: str,
    leaks: int,
    unknown: int,
    mistakes: int,
    splits: Splits,
    tmp_path: Path,
) -> None:
    with pytest.raises(LeakError, match=rf"record 1: asks a question of the exam.*questions: {leaks}\)"):
        imported(tmp_path / "no", "learn-from-committee", [*paths, *splits[of]], task)
    out = tmp_path / "out"
    both = {"leaks": "drop", "unknown": "drop"}
    summary = imported(out, "learn-from-committee", [*paths, *splits[of]], task, **both)
    assert summary["left out"]["mistakes: asks a question of the exam"] == leaks
    assert summary["left out"].get("mistakes: asks no question of train", 0) == unknown
    own = {one.id for one in read_jsonl(out / "train.jsonl", Problem)}
    found = list(read_jsonl(out / "mistakes.jsonl", Mistake))
    assert len(found) == mistakes and {one.problem_id for one in found} <= own


@pytest.mark.parametrize(
    ("task", "questions", "texts", "wrong", "none", "right"),
    [
        ("svamp", 295, 540, 535, 2, 3),
        ("date_understanding", 9, 11, 11, 0, 0),
        ("last_letter_concatenation", 13, 20, 19, 0, 1),
    ],
)
def test_texts_that_a_mentors_authors_found_wrong(
    task: str,
    questions: int,
    texts: int,
    wrong: int,
    none: int,
    right: int,
    splits: Splits,
    tmp_path: Path,
) -> None:
    """Without the answer that was cut off behind them, which is what the authors graded."""
    file = TAILORED / f"{task}.flan-t5-large.train.neg.json"
    counts = imported(tmp_path / "out", "tailored", [str(file), *splits[task]], task)["mistakes"]
    assert (counts["questions"], counts["texts"]) == (questions, texts)
    assert (counts["wrong"], counts["no answer found"], counts["right, so no mistakes"]) == (
        wrong,
        none,
        right,
    )


def test_rounds_of_svamp_in_the_published_form(splits: Splits, tmp_path: Path) -> None:
    files = [f"{TAILORED}/svamp.student.train.round0.neg.json", f"{TAILORED}/svamp.train.round1.json"]
    with pytest.raises(LeakError, match=r"question 1: asks a question of the exam.*questions: 59\)"):
        imported(tmp_path / "no", "tailored", [*files, *splits["svamp"]], "svamp")
    out = tmp_path / "out"
    both = {"leaks": "drop", "unknown": "drop"}
    summary = imported(out, "tailored", [*files, *splits["svamp"]], "svamp", **both)
    assert summary["left out"] == {
        "rationales: asks a question of the exam": 132,
        "rationales: asks no question of train": 124,
        "mistakes: asks no question of train": 61,
        "mistakes: asks a question of the exam": 59,
        "mistakes: its answer is right, so it is not a mistake": 15,
    }
    counts = summary["mistakes"]
    assert (counts["texts"], counts["wrong"], counts["no answer found"]) == (267, 246, 6)
    rationales = summary["files"]["teacher.jsonl"]
    assert (rationales["texts"], rationales["questions"], rationales["correct"]) == (570, 251, 486)
    assert {one.source for one in read_jsonl(out / "teacher.jsonl", Rationale)} == {"gpt-3.5-turbo"}
    published = json.loads(Path(files[0]).read_text("utf-8"))
    whole = {text for texts in published.values() for text in texts}
    assert {one.completion for one in read_jsonl(out / "mistakes.jsonl", Mistake)} <= whole
