"""Importing the published shape of MCC-KD, in invented records: what is written, graded, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.audit import grade_file
from limbeck.errors import DataError, RecipeError
from limbeck.published.found import Request, write_import
from limbeck.published.mcc_kd import read
from limbeck.records import Problem, Rationale, read_jsonl
from limbeck.tasks.settings import Columns, FilesTask
from limbeck.tasks.sources import load_splits

Row = dict[str, Any]


def written(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def row(question: str, output: object, label: object, **more: object) -> Row:
    return {"instruction": question, "output": output, "label": label, **more}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a set of numbers, whole, and one of choices without training questions."""
    folder = tmp_path / "data"
    written(
        folder / "SVAMP/train.json",
        [
            row("Ann has 2 and gets 3?\n", ["2 + 3 = 5.", "2 + 3 =  5.", "2 + 3 = 6 in all.", "", None], "5"),
            row("Ben had 9\u2028and lost 1?", "9 - 1 = 8. The answer is 8.", "8.0"),
            row("Cid has 30 and 2?", ["30 - 2 = 28."], "32"),
        ],
    )
    written(folder / "SVAMP/dev.json", [row("Dan has 1 and 1?", "", "2"), row("Eve lost 1 of 4?", "", "3")])
    written(
        folder / "SVAMP/test.json", [row("Fay has 4 and 4?", "", "8"), row("Cid has 30 and 2?", "", "32")]
    )
    shelf = "What holds books? Answer Choices:\nA. a shelf\nB. a lake\n"
    written(folder / "CSQA/dev.json", [row(shelf, "", "A")])
    return folder


def imported(tmp_path: Path, paths: list[str], **request: Any) -> tuple[dict[str, Any], Path]:
    out = tmp_path / "out"
    return write_import(read(paths, Request(**request)), "mcc-kd", out), out


def rationales(path: Path) -> list[Rationale]:
    return list(read_jsonl(path, Rationale))


def test_a_set_becomes_splits_and_rationales(data: Path, tmp_path: Path) -> None:
    summary, out = imported(tmp_path, [str(data)], task="SVAMP", teacher="gpt")
    names = ["dev", "disagreements", "import", "teacher", "test", "train"]
    assert sorted(path.stem for path in out.iterdir()) == names
    assert summary["questions"] == {
        "train": 3,
        "dev": 2,
        "test": 2,
        "of train that are in dev": 0,
        "of train that are in test": 1,
    }
    assert [(one["file"], one["holds"]) for one in summary["read"]] == [
        ("SVAMP/train.json", "rationales of train"),
        ("SVAMP/dev.json", "questions of dev"),
        ("SVAMP/test.json", "questions of test"),
    ]
    found = rationales(out / "teacher.jsonl")
    assert [(one.answer, one.correct, one.index, one.source, one.origin[-2:]) for one in found] == [
        ("5", True, 0, "gpt", "#1"),
        ("5", True, 1, "gpt", "#1"),
        ("6", False, 2, "gpt", "#1"),
        ("8", True, 0, "gpt", "#2"),
        ("28", False, 0, "gpt", "#3"),
    ]
    counts = summary["files"]["teacher.jsonl"]
    assert (counts["texts"], counts["null chains"], counts["correct"], counts["duplicates"]) == (7, 2, 3, 1)
    assert counts["audit"]["dropped"] == {"wrong answer": 2, "duplicate": 1}
    assert "flagged correct" not in counts


def test_a_recipe_reads_what_was_written(data: Path, tmp_path: Path) -> None:
    _, out = imported(tmp_path, [str(data)], task="svamp")
    paths = {split: str(out / f"{split}.jsonl") for split in ("train", "dev", "test")}
    task = FilesTask(kind="number", columns=Columns(id="id"), leaks="drop", **paths)
    splits = load_splits(task, 0)
    assert [len(part) for part in (splits.train, splits.dev, splits.test)] == [2, 2, 2]
    graded, _ = grade_file(out / "teacher.jsonl", task, 0)
    assert len(graded) == len(rationales(out / "teacher.jsonl")), "every line joins"


def test_the_sentence_behind_the_answers_place_is_no_evidence(tmp_path: Path) -> None:
    """Who wrote `indices` closed every rationale with the label, also one that chooses another option."""
    ball = "Who has it?\nAnswer choices: (A) Ann, (B) Ben."
    closed = [
        "Ann gives it to Ben. So the correct answer is (B) Ben. Therefore, the answer is B..",
        "Ben gives it to Ann. So the correct answer is (A) Ann. Therefore, the answer is B..",
        "Ann keeps it, and so it is not hers. Therefore, the answer is A.",
    ]
    path = written(tmp_path / "train_with_indices_x.json", [row(ball, closed, "B", indices=[[9, 9]] * 3)])
    summary, out = imported(tmp_path, [str(path)], kind="choice")
    found = rationales(out / "teacher.jsonl")
    assert [(one.answer, one.correct) for one in found] == [("B", True), ("A", False), ("A", False)]
    assert found[1].completion == "Ben gives it to Ann. So the correct answer is (A) Ann."
    counts = summary["files"]["teacher.jsonl"]
    assert counts["flagged correct"] == 2
    assert counts["disagree with the flag"] == {"flagged correct, another answer stated": 1}
    assert summary["read"][0]["holds"] == "rationales of train; their indices are not taken"
    bare = written(tmp_path / "train.json", [row(ball, closed[1], "B")])
    found_bare = read([str(bare)], Request(kind="choice"))
    assert found_bare.given["teacher.jsonl"][0].whole == closed[1], "without indices it is the teacher's own"


@pytest.mark.parametrize(
    ("output", "indices"),
    [
        ("It is 5.", [4, 5]),
        (["It is 5."], [[4, 5]]),
        (["It is 5."], [[[4, 5]]]),
        ("It is 5.", "4 5"),
    ],
)
def test_one_rationale_with_or_without_brackets(tmp_path: Path, output: object, indices: object) -> None:
    path = written(tmp_path / "train.json", [row("Two and 3?", output, 5, indices=indices)])
    _, out = imported(tmp_path, [str(path)], kind="number")
    assert [(one.completion, one.correct) for one in rationales(out / "teacher.jsonl")] == [
        ("It is 5.", True)
    ]


def test_what_the_authors_parsed_is_their_verdict(tmp_path: Path) -> None:
    rows = [
        row("One?", "It is 1.\nTherefore, the answer is 1 .", "1", predict="1"),
        row("Two?", "It is 2.\nTherefore, the answer is 2 .", "2", predict="3"),
    ]
    test = written(tmp_path / "gsm8k_test.json", rows)
    dev = written(tmp_path / "other.json", [row("Three?", "It is 3.", "3")])
    summary, out = imported(tmp_path, [str(test), f"dev={dev}"], kind="number", teacher="human")
    assert sorted(summary["files"]) == ["teacher-dev.jsonl", "teacher-test.jsonl"]
    counts = summary["files"]["teacher-test.jsonl"]
    assert (counts["correct"], counts["flagged correct"]) == (2, 1)
    assert counts["disagree with the flag"] == {"flagged wrong, the gold answer stated": 1}
    assert counts["audit"]["problems"] == 2
    assert {one.source for one in rationales(out / "teacher-dev.jsonl")} == {"human"}


def test_options_in_the_question_are_the_problems(data: Path, tmp_path: Path) -> None:
    summary, out = imported(tmp_path, [str(data)], task="csqa")
    assert summary["files"] == {} and summary["missing"] == ["CSQA/train.json", "CSQA/test.json"]
    (problem,) = read_jsonl(out / "dev.jsonl", Problem)
    assert problem.options == ("a shelf", "a lake") and problem.answer == "A"


def test_a_second_gold_is_refused_or_set_aside(tmp_path: Path) -> None:
    path = written(tmp_path / "train.json", [row("One?", ["1."], "1"), row("One?", ["2."], "2")])
    with pytest.raises(DataError, match=r"train\.json record 2: .*'2' here, but '1' at .*--gold first"):
        read([str(path)], Request(kind="number"))
    found = read([str(path)], Request(kind="number", gold="first"))
    assert [problem.answer for problem in found.train] == ["1"] and found.set_aside[0].gold == "2"
    assert len(found.given["teacher.jsonl"]) == 2


@pytest.mark.parametrize(
    ("name", "rows", "complaint"),
    [
        ("train.json", [{"instruction": "q", "label": "1"}], r"train\.json record 1: is not of the shape"),
        ("train.json", [row("q", "1", "1", gold="1")], r"record 1: is not of the shape .* gold; give"),
        ("train.json", [row("q", ["1", ["2"]], "1")], r"record 1: a rationale is not text but \"\['2'\]\""),
        ("train.json", [row("q", 7, "1")], r"record 1: a rationale is not text but '7'"),
        ("train.json", [row("q", "1", "1", predict=["1"])], r"record 1: predict is not a single value"),
        ("train.json", [row("q", "1", "one")], r"train\.json record 1: .*does not suit the kind number"),
        (
            "training.json",
            [row("q", "1", "1")],
            "its name does not say whether it is train, dev or test; write train=",
        ),
        ("train.json", [], r"holds no records"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, name: str, rows: list[Row], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        read([str(written(tmp_path / name, rows))], Request(kind="number"))


def test_folders_sets_and_kinds_that_are_wrong(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--task: .* is a folder of sets; name one of CSQA, SVAMP"):
        read([str(data)], Request(kind="number"))
    with pytest.raises(RecipeError, match=r"--task GSM8K: .* no folder of that name; name one of CSQA"):
        read([str(data)], Request(task="GSM8K"))
    with pytest.raises(RecipeError, match=r"--kind text: the answers of SVAMP are of kind number"):
        read([str(data)], Request(task="SVAMP", kind="text"))
    with pytest.raises(RecipeError, match=r"--kind: the answer kind is not known"):
        read([str(data / "SVAMP/train.json")], Request())
    assert len(read([str(data / "SVAMP")], Request(task="svamp")).train) == 3, "the set's own folder will do"
    with pytest.raises(RecipeError, match=r"train\.json: given twice"):
        read([str(data / "SVAMP"), str(data / "SVAMP/train.json")], Request(task="svamp"))
    written(data / "SVAMP/train_more.json", [row("q", "1", "1")])
    with pytest.raises(RecipeError, match=r"several files of train \(train\.json, train_more\.json\)"):
        read([str(data)], Request(task="svamp"))


def test_the_command_shows_what_it_did(limbeck: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = limbeck("import", "mcc-kd", data, "--task", "SVAMP", "--out", out)
    assert answer.status == 0, answer.err
    assert "read SVAMP/train.json: 3 records, rationales of train" in answer.out
    assert "questions: train 3, dev 2, test 2" in answer.out
    assert "questions of train that are in test too: 1; set task.leaks to drop in the recipe" in answer.out
    assert (
        f"dev: {out / 'dev.jsonl'}, test: {out / 'test.jsonl'}, columns: {{id: id}}, leaks: drop"
        in answer.out
    )
    assert limbeck("import", "mcc-kd", data, "--out", tmp_path / "o").status == 2
    unknown = limbeck("import", "mcckd", data, "--out", tmp_path / "o")
    assert unknown.status == 2 and "choose one of mentor-kd, mcc-kd" in unknown.err
