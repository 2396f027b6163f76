"""Importing the published shape of Mentor-KD, in invented records: what is written, graded, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.audit import grade_file
from limbeck.errors import DataError, InputError, RecipeError
from limbeck.published.found import Request, write_import
from limbeck.published.mentor_kd import read
from limbeck.records import Problem, Rationale, read_jsonl
from limbeck.tasks.settings import Columns, FilesTask
from limbeck.tasks.sources import load_splits

Row = dict[str, Any]


def written(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def chain(question: str, text: str | None, answer: object, **more: object) -> Row:
    return {"input": question, "chain": text, "answer": answer, "initial_correct": True, **more}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of one set of numbers: all four kinds of files, and another set next to it."""
    folder = tmp_path / "data"
    train = [
        ("Ann has 2 and gets 3?\n", "5"),
        ("Ben had 9\u2028and lost 1?", "8"),
        ("Cid has 30 and 2?", "32"),
    ]
    written(folder / "skeleton/svamp_train.json", [{"input": q, "answer": a} for q, a in train])
    written(folder / "skeleton/asdiv_train.json", [{"input": "Else?", "answer": "1"}])
    written(
        folder / "main/svamp_3_train.json",
        [
            chain(train[0][0], "2 + 3 = 5. The answer is 5.", "5"),
            chain(train[0][0], "2 + 3 = 6 apples.", "5"),
            chain(train[1][0], "He had 9,\u2028so 9 - 1 = 8 are left.", "8"),
            chain(train[1][0], None, "8"),
        ],
    )
    written(
        folder / "main/svamp_test.json",
        [
            chain("Dan has 1 and 1?", " 1 + 1 = 2.", "2", completion=" 2.", initial_correct=True),
            chain("Eve has 4 and 4?", " I would add", "8", completion=" not known.", initial_correct=True),
        ],
    )
    written(
        folder / "aug/tiny/svamp_rand3_aug3.json",
        [
            chain(train[0][0], "2 + 3 = 5. The answer is 5.", "5", completion="5.0"),
            chain(train[2][0], "30 + 2 = 32. So 31 remain.", "32", completion="32.0"),
            chain(train[2][0], "30 - 5 is 32.", "32", completion="25.0", initial_correct=True),
            chain(train[2][0], None, "32", completion="32.0", initial_correct=False),
        ],
    )
    written(
        folder / "prompt/svamp_6.json",
        [{"instruction": train[0][0], "output": ["5 it is: 5.", "Six: 6.", None], "label": "5"}],
    )
    return folder


def imported(tmp_path: Path, paths: list[str], **request: Any) -> tuple[dict[str, Any], Path]:
    out = tmp_path / "out"
    return write_import(read(paths, Request(**request)), "mentor-kd", out), out


def rationales(path: Path) -> list[Rationale]:
    return list(read_jsonl(path, Rationale))


def test_a_data_folder_becomes_problems_and_rationales(data: Path, tmp_path: Path) -> None:
    summary, out = imported(tmp_path, [str(data)], task="svamp", teacher="gpt")
    assert sorted(path.name for path in out.iterdir()) == [
        "disagreements.jsonl",
        "import.json",
        "mentor-tiny.jsonl",
        "prompt.jsonl",
        "teacher-test.jsonl",
        "teacher.jsonl",
        "test.jsonl",
        "train.jsonl",
    ]
    assert json.loads((out / "import.json").read_text(encoding="utf-8")) == summary
    assert [problem.answer for problem in read_jsonl(out / "train.jsonl", Problem)] == ["5", "8", "32"]
    assert summary["missing"] == ["skeleton/svamp_test.json"]
    assert [(one["file"], one["records"]) for one in summary["read"]][1:3] == [
        ("main/svamp_3_train.json", 4),
        ("main/svamp_test.json", 2),
    ]
    teacher = rationales(out / "teacher.jsonl")
    assert [(one.answer, one.correct, one.index, one.source, one.origin) for one in teacher] == [
        ("5", True, 0, "gpt", "main/svamp_3_train.json#1"),
        ("6", False, 1, "gpt", "main/svamp_3_train.json#2"),
        ("8", True, 0, "gpt", "main/svamp_3_train.json#3"),
    ]
    assert "\u2028" in teacher[2].completion


def test_a_recipe_reads_what_was_written(data: Path, tmp_path: Path) -> None:
    _, out = imported(tmp_path, [str(data)], task="svamp")
    paths = {split: str(out / f"{split}.jsonl") for split in ("train", "test")}
    task = FilesTask(kind="number", dev=0, columns=Columns(id="id"), **paths)
    splits = load_splits(task, 0)
    assert (len(splits.train), len(splits.test)) == (3, 2)
    for name in ("teacher", "teacher-test", "prompt", "mentor-tiny"):
        graded, _ = grade_file(out / f"{name}.jsonl", task, 0)
        ours = {(one.origin, one.answer, one.correct) for one in rationales(out / f"{name}.jsonl")}
        by_id = {(one.problem_id, one.answer, one.correct) for one in graded}
        assert len(graded) == len(rationales(out / f"{name}.jsonl")), "every line joins"
        assert {(answer, right) for _, answer, right in ours} == {(a, right) for _, a, right in by_id}
    assert {one.source for one in graded} == {"tiny"}


def test_a_stated_answer_is_what_gets_graded(data: Path, tmp_path: Path) -> None:
    _, out = imported(tmp_path, [str(data)], task="svamp")
    mentor = rationales(out / "mentor-tiny.jsonl")
    assert [(one.answer, one.correct, one.how) for one in mentor] == [
        ("5", True, "marker"),
        ("32", True, "marker"),
        ("25", False, "marker"),
        ("32", True, "marker"),
    ]
    assert mentor[0].reasoning == "2 + 3 = 5." and mentor[0].completion.endswith(" --> 5.0")
    assert mentor[1].reasoning == "30 + 2 = 32. So 31 remain.", "the chain stays whole"
    assert mentor[3].reasoning == "", "a null chain has an answer and no reasoning"
    test = rationales(out / "teacher-test.jsonl")
    assert test[0].completion == " 1 + 1 = 2.\nTherefore, the answer is 2." and test[0].correct
    assert test[1].answer is None


def test_the_audit_counts_and_names_what_the_authors_saw_otherwise(data: Path, tmp_path: Path) -> None:
    summary, out = imported(tmp_path, [str(data)], task="svamp")
    teacher, mentor = summary["files"]["teacher.jsonl"], summary["files"]["mentor-tiny.jsonl"]
    assert (teacher["texts"], teacher["null chains"], teacher["correct"]) == (4, 1, 2)
    assert teacher["share correct"] == 0.5, "the null chain stays in the denominator"
    assert teacher["disagree with the flag"] == {
        "flagged correct, another answer guessed": 1,
        "flagged correct, no answer found": 1,
    }
    assert teacher["flagged correct, but the gold number is nowhere"] == 2
    assert mentor["questions with a correct one, and none of the teacher's"] == 1
    assert mentor["the chain alone against the answer next to it"] == {
        "same": 1,
        "another answer guessed": 2,
        "no answer in the chain": 1,
    }
    assert mentor["audit"]["dropped"]["duplicate of the teacher's"] == 1
    assert summary["files"]["prompt.jsonl"]["questions by number of texts"] == {"3": 1}
    assert "flagged correct" not in summary["files"]["prompt.jsonl"]
    rows = [json.loads(line) for line in (out / "disagreements.jsonl").read_text("utf-8").split("\n") if line]
    assert [(row["origin"], row["why"]) for row in rows if row["file"] == "mentor-tiny.jsonl"] == [
        ("aug/tiny/svamp_rand3_aug3.json#3", "flagged correct, another answer stated"),
        ("aug/tiny/svamp_rand3_aug3.json#4", "flagged wrong, the gold answer stated"),
    ]


def test_duplicates_are_equal_chains_of_one_question(tmp_path: Path) -> None:
    rows = [chain(q, text, "5") for q in ("One?", "Two?") for text in ("It is 5.", "It  is\n5.", "So 5.")]
    summary, _ = imported(tmp_path, [str(written(tmp_path / "t.json", rows))], kind="number")
    assert summary["files"]["teacher.jsonl"]["duplicates"] == 2
    assert summary["files"]["teacher.jsonl"]["correct ones that differ"] == 4


def test_booleans_and_labelled_options_are_golds_too(tmp_path: Path) -> None:
    rows = [
        chain("Is it so?", "Yes, for it is.", True, completion=True),
        chain("Is it not?", "It is.", "No", completion="False"),
    ]
    path = written(tmp_path / "aug/m/x.json", rows)
    _, out = imported(tmp_path, [str(path)], kind="yes-no")
    assert [one.correct for one in rationales(out / "mentor-m.jsonl")] == [True, True]
    assert [problem.answer for problem in read_jsonl(out / "train.jsonl", Problem)] == ["yes", "no"]

    shelf = "What holds books?\nAnswer Choices:\nA. a shelf\nB. a lake"
    path = written(
        tmp_path / "c.json", [chain(shelf, "Books stand on a shelf. The answer is A.", "A. a shelf")]
    )
    write_import(read([str(path)], Request(kind="choice")), "mentor-kd", tmp_path / "choice")
    (one,) = rationales(tmp_path / "choice" / "teacher.jsonl")
    assert one.correct and one.answer == "A"


def test_a_question_of_both_splits_is_counted_and_a_second_gold_refused(tmp_path: Path) -> None:
    train = written(tmp_path / "x_train.json", [{"input": "One?", "answer": "1"}])
    test = written(tmp_path / "x_test.json", [{"input": "Q: one ?", "answer": "1"}])
    summary, _ = imported(tmp_path, [str(train), str(test)], kind="number")
    assert summary["questions"] == {"train": 1, "test": 1, "of train that are in test": 1}
    other = written(
        tmp_path / "y_test.json", [{"input": "Zero?", "answer": "0"}, {"input": "One?", "answer": "2"}]
    )
    with pytest.raises(
        DataError, match=r"y_test\.json record 2: .*'2' here, but '1' at .*x_train.*--gold first"
    ):
        read([str(train), str(other)], Request(kind="number"))
    found = read([str(train), str(other)], Request(kind="number", gold="first"))
    assert [problem.answer for problem in found.test] == ["0", "1"]
    assert [(one.origin, one.gold, one.kept) for one in found.set_aside] == [("y_test.json#2", "2", "1")]


STATED = chain("One?", "1.", "1", completion="1")
QUESTION = {"input": "One?", "answer": "1"}


@pytest.mark.parametrize(
    ("name", "rows", "complaint"),
    [
        ("a.json", [{"input": "q", "gold": "1"}], r"a\.json record 1: has none of the known shapes"),
        ("a.json", [chain("q", "1", "1"), QUESTION], r"a\.json record 2: has the shape of questions"),
        ("a.json", [{**chain("q", None, "1"), "chain": ["1"]}], r"record 1: a rationale is not text"),
        ("a.json", [chain("q", "1", "one")], r"a\.json record 1: .*does not suit the kind number"),
        ("a.json", [chain("q", "1", "1", initial_correct="yes")], r"record 1: initial_correct is 'yes'"),
        ("aug/m/a.json", [{**STATED, "completion": ["1"]}], r"record 1: completion is not a single value"),
        ("a.json", [STATED], r"look the same; write test=.*a\.json or aug:MODEL="),
        ("a.json", [QUESTION], r"of which split\?; write train="),
        ("a.json", [], r"holds no records"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, name: str, rows: list[Row], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        read([str(written(tmp_path / name, rows))], Request(kind="number"))


def test_the_user_says_what_a_shape_cannot(tmp_path: Path) -> None:
    stated = written(tmp_path / "a.json", [STATED])
    questions = written(tmp_path / "b.json", [QUESTION])
    found = read([f"aug:big.model-1={stated}", f"test={questions}"], Request(kind="number"))
    assert list(found.given) == ["mentor-big.model-1.jsonl"] and len(found.train) == len(found.test) == 1
    assert list(read([f"test={stated}"], Request(kind="number")).given) == ["teacher-test.jsonl"]
    assert list(read([str(written(tmp_path / "main/z.json", [STATED]))], Request(kind="number")).given) == [
        "teacher-test.jsonl"
    ]
    train = written(tmp_path / "c.json", [chain("q", "1", "1")])
    with pytest.raises(DataError, match="remove test= before it"):
        read([f"test={train}"], Request(kind="number"))


def test_folders_tasks_and_kinds_that_are_wrong(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--task: .* several sets; name one of asdiv, svamp"):
        read([str(data)], Request(kind="number"))
    with pytest.raises(RecipeError, match=r"--task gsm8k: .* no files of it; name one of asdiv, svamp"):
        read([str(data)], Request(task="gsm8k"))
    with pytest.raises(RecipeError, match=r"--kind: the answer kind of 'other' is not known"):
        read([str(data / "main/svamp_3_train.json")], Request(task="other"))
    with pytest.raises(RecipeError, match=r"--kind text: the answers of svamp are of kind number"):
        read([str(data)], Request(task="svamp", kind="text"))
    with pytest.raises(DataError, match=r"holds none of the folders skeleton, main, aug, prompt"):
        read([str(data / "main")], Request(task="svamp"))
    with pytest.raises(DataError, match=r"none\.json: there is no such file"):
        read([str(tmp_path / "none.json")], Request(task="svamp"))


def test_a_folder_with_files_is_left_alone(data: Path, tmp_path: Path) -> None:
    found = read([str(data)], Request(task="svamp"))
    kept = written(tmp_path / "full" / "mine.txt", [])
    with pytest.raises(InputError, match=r"full: is a file or holds files; name a new folder"):
        write_import(found, "mentor-kd", tmp_path / "full")
    assert [path.name for path in kept.parent.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    write_import(found, "mentor-kd", tmp_path / "empty")
    assert (tmp_path / "empty" / "import.json").exists()


def test_nothing_is_left_of_an_import_that_breaks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import limbeck.published.found as module

    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="No space left"):
        write_import(read([str(data)], Request(task="svamp")), "mentor-kd", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_shows_what_it_did(limbeck: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = limbeck("import", "mentor-kd", data, "--task", "svamp", "--out", out)
    assert answer.status == 0, answer.err
    assert "not there: skeleton/svamp_test.json" in answer.out
    assert "read aug/tiny/svamp_rand3_aug3.json: 4 records, tiny's rationales of train" in answer.out
    assert f"task: {{name: svamp, kind: number, train: {out / 'train.jsonl'}" in answer.out
    assert limbeck("import", "mentor-kd", data, "--task", "svamp", "--out", out).status == 2
    unknown = limbeck("import", "mentor-kt", data, "--out", tmp_path / "o")
    assert unknown.status == 2 and "choose one of mentor-kd" in unknown.err
    asdiv = limbeck("import", "mentor-kd", data, "--task", "asdiv", "--out", tmp_path / "asdiv")
    assert asdiv.status == 0 and "there are no questions of test" in asdiv.out


def test_a_file_given_twice_is_refused(data: Path, tmp_path: Path) -> None:
    """It would double every count without a word."""
    path = data / "main" / "svamp_3_train.json"
    with pytest.raises(RecipeError, match=r"svamp_3_train.json: given twice"):
        imported(tmp_path, [str(path), str(path)], task="svamp")
    with pytest.raises(RecipeError, match="given twice"):
        imported(tmp_path, [str(data), str(path)], task="svamp")
