"""Importing what KARD's scripts read and make, in invented records: what is written, graded, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import DataError, LeakError, LimbeckError, RecipeError
from limbeck.published.found import Request, write_import
from limbeck.published.kard import read
from limbeck.recipe import check_recipe, load_recipe
from limbeck.records import Problem, Rationale, read_jsonl
from limbeck.tasks.asking import learner_asking
from limbeck.tasks.sources import load_splits

Limbeck = Callable[..., Any]
SET = "medqa_usmle_hf"


def question(asked: str, label: object, *endings: str) -> dict[str, Any]:
    return {"id": asked[:3], "sent1": asked, "sent2": "", "label": label} | {
        f"ending{n}": text for n, text in enumerate(endings)
    }


TRAIN = [
    question("Which organ pumps blood?", 1, "the liver", "the heart", "Hepatitis B. virus", "a bone."),
    question("Who gives A. or B. their names? ", 0, "Nobody.", "Ann", "Ben", "Cy"),
    question("What keeps bones hard?", 3, "water", "air", "salt", "calcium"),
]
TEST = [
    question("What do lungs breathe?", 1, "stone", "air", "light", "sand"),
    question("What do eyes see?", 2, "sound", "taste", "light", "sand"),
]
MADE = "preprocessed_data/medqa-cot-wikipedia"
SAID = f"chatgpt_output/{SET}/train"


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def listed(row: dict[str, Any]) -> str:
    return f"{row['sent1']} " + " ".join(f"{'ABCD'[n]}. {row[f'ending{n}']}" for n in range(4))


def response(folder: Path, number: int, *texts: str | None, cut: bool = False) -> None:
    ended = "length" if cut else "stop"
    choices = [
        {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": ended}
        for n, text in enumerate(texts)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number:05d}.json").write_text(json.dumps({"object": "chat.completion", "choices": choices}))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Questions, responses about the first and third, and what the authors made of them."""
    top = tmp_path / "KARD"
    lines(top / f"data/{SET}/train.json", TRAIN)
    lines(top / f"data/{SET}/test.json", TEST)
    responses = top / f"chatgpt_output/{SET}/train"
    response(responses, 0, "A muscle beats. The answer is (B).", "The liver cleans. The answer is (A).")
    response(responses, 2, "Milk has it. The answer is (D).", None, cut=True)
    heart = "A muscle beats. The answer is (B).\nAnswer: B"
    made = [{"question": listed(TRAIN[0]), "reasoning": heart, "answer": 1, "knowledge": "Hearts pump."}]
    file = top / "preprocessed_data/medqa-cot-wikipedia/train.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(made))
    return top


def imported(tmp_path: Path, *paths: object, **request: Any) -> tuple[dict[str, Any], Path]:
    out = tmp_path / "out"
    said = Request(**{"task": SET, **request})
    return write_import(read([str(path) for path in paths], said), "kard", out), out


def test_responses_are_taken_with_the_verdict_of_their_verifier(tmp_path: Path, repository: Path) -> None:
    summary, out = imported(tmp_path, repository)
    train = list(read_jsonl(out / "train.jsonl", Problem))
    assert [(one.answer, one.options[3]) for one in train] == [
        ("B", "a bone."),
        ("A", "Cy"),
        ("D", "calcium"),
    ]
    found = list(read_jsonl(out / "teacher.jsonl", Rationale))
    assert [(one.problem_id, one.index, one.correct, one.truncated) for one in found] == [
        (train[0].id, 0, True, False),
        (train[0].id, 1, False, False),
        (train[2].id, 0, True, True),
    ]
    assert [one.origin for one in found] == [f"chatgpt_output/{SET}/train/00000.json"] * 2 + [
        f"chatgpt_output/{SET}/train/00002.json"
    ]
    counts = summary["files"]["teacher.jsonl"]
    assert (counts["texts"], counts["correct"], counts["flagged correct"]) == (4, 2, 1)
    assert counts["disagree with the flag"] == {"flagged wrong, the gold answer stated": 1}
    assert summary["missing"] == [f"data/{SET}/dev.json"]
    assert [one["records"] for one in summary["read"]] == [3, 2, 1, 2]
    assert "their passages are not taken" in summary["read"][2]["holds"]
    task = {"name": "m", "kind": "choice", "train": str(out / "train.jsonl"), "test": str(out / "test.jsonl")}
    task |= {"dev": 0, "columns": {"id": "id", "options": summary["options"]}}
    splits = load_splits(check_recipe({"name": "x", "task": task}, "x", trains=False).task, 0)
    assert list(splits.train) == train, "as the printed task reads them"


def test_the_recipe_of_medqa_reads_what_was_imported(tmp_path: Path, repository: Path) -> None:
    """Prompts show the options, and each rationale is about a question by its id."""
    _, out = imported(tmp_path, repository)
    recipe = Path(__file__).parent.parent.parent / "recipes/kard/medqa.yaml"
    found = load_recipe(recipe, [f"task.train={out}/train.jsonl", f"task.test={out}/test.jsonl"])
    train = load_splits(found.task, 0).train
    assert list(train) == list(read_jsonl(out / "train.jsonl", Problem))
    student = found.students["kard"]
    asking = learner_asking(student.prompt, student.format)
    assert asking.plain(asking.pieces(train[0], ["Hearts pump."])) == (
        "Which organ pumps blood?\n"
        "Answer choices: (A) the liver, (B) the heart, (C) Hepatitis B. virus, (D) a bone..\n"
        "Knowledge: Hearts pump.\nExplanation:\n"
    )
    about = {one.problem_id for one in read_jsonl(out / "teacher.jsonl", Rationale)}
    assert about == {train[0].id, train[2].id}


def test_the_answer_that_the_authors_wrote_behind_a_text_is_no_evidence(tmp_path: Path) -> None:
    """Options come out of the question's own line; the file of questions gives the same ids."""
    rows = [
        {"question": listed(TRAIN[0]), "reasoning": "It beats. The answer is C.\nAnswer: B", "answer": 1},
        {"question": listed(TRAIN[1]), "reasoning": "Nobody does it.\nAnswer: A", "label": 0},
        {
            "question": listed(TRAIN[2]),
            "reasoning": "Milk.\nAnswer: A",
            "answer": 3,
            "knowledge": "Milk is white.",
        },
    ]
    made = tmp_path / "made.json"
    made.write_text(json.dumps(rows))
    summary, out = imported(tmp_path, made)
    found = list(read_jsonl(out / "teacher.jsonl", Rationale))
    assert [(one.completion, one.answer, one.correct) for one in found] == [
        ("It beats. The answer is C.", "C", False),
        ("Nobody does it.", None, False),
        ("Milk.\nAnswer: A", "A", False),
    ]
    problems = list(read_jsonl(out / "train.jsonl", Problem))
    assert problems[0].options == ("the liver", "the heart", "Hepatitis B. virus", "a bone.")
    assert problems[1].question == "Who gives A. or B. their names?"
    assert summary["files"]["teacher.jsonl"]["flagged correct"] == 3
    questions = lines(tmp_path / "train.json", TRAIN)
    joined = read([f"train={questions}", f"preprocessed={made}"], Request(task=SET))
    assert [one.id for one in joined.train] == [one.id for one in problems]


def test_questions_of_the_exam_are_refused_or_left_out(
    tmp_path: Path, repository: Path, limbeck: Limbeck
) -> None:
    asked = TRAIN[0] | {"sent1": "Which organ pumps blood ?"}
    lines(repository / f"data/{SET}/test.json", [*TEST, asked])
    with pytest.raises(LeakError, match=r"00000.json: asks a question of the exam, .*--leaks drop"):
        imported(tmp_path, repository)
    out = tmp_path / "left"
    ran = limbeck("import", "kard", repository, "--task", SET, "--leaks", "drop", "--out", out)
    assert ran.status == 0 and "left out, rationales: asks a question of the exam: 2" in ran.out, ran.out
    assert len(list(read_jsonl(out / "teacher.jsonl", Rationale))) == 1
    assert "Which organ" not in (out / "train.jsonl").read_text()
    assert "'options': 'options'" in ran.out.replace("options: options", "'options': 'options'")
    other = limbeck("import", "kard", repository, "--task", SET, "--student", "s", "--out", tmp_path / "o")
    assert other.status == 2 and "--student: kard holds no mistakes" in other.err


TRAIN_FILE = f"data/{SET}/train.json"


@pytest.mark.parametrize(
    ("file", "rows", "says"),
    [
        (
            TRAIN_FILE,
            [TRAIN[0], TRAIN[1] | {"label": 4}],
            "json:2: the label '4' is not a place of 4 options",
        ),
        (TRAIN_FILE, [TRAIN[0], {"sent1": "Why?"}], "train.json:2: is not of the shape sent1, ending0"),
        (TRAIN_FILE, [TRAIN[0], TRAIN[1] | {"ending2": None}], "train.json:2: an option is not text"),
        (TRAIN_FILE, TRAIN[:2], "00002.json: is about row 2 of train, from 0, which has 2"),
        (TRAIN_FILE, None, "name those of train with train=FILE"),
        (f"{SAID}/00002.json", '{\n"choices": [', "00002.json:2: not valid JSON"),
        (f"{SAID}/00002.json", '{"error": 1}', "00002.json: is not a response of the API"),
        (f"{SAID}/00002.json", '{"choices": [{}]}', "choice 1 has no text under message.content"),
        (f"{MADE}/test.json", '[{"question": "Why?"}]', "record 1: is not of the shape question, reasoning"),
        (f"{MADE}/test.json", '[{"question": "Why?", "reasoning": 1, "answer": 0}]', "reasoning is not text"),
        (f"{MADE}/test.json", '[{"question": "Why?", "reasoning": "So.", "answer": 0}]', "lists no options"),
    ],
)
def test_other_shapes_are_refused(
    tmp_path: Path, repository: Path, file: str, rows: list[dict[str, Any]] | str | None, says: str
) -> None:
    if rows is None:
        (repository / file).unlink()
    elif isinstance(rows, str):
        (repository / file).write_text(rows)
    else:
        lines(repository / file, rows)
    with pytest.raises(LimbeckError) as refused:
        imported(tmp_path, repository)
    assert says in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path, repository: Path) -> None:
    for path, request, says in (
        (tmp_path / "KARD/data", {}, "holds none of the folders .*its README links"),
        (repository, {"task": None}, "--task: .*holds several sets"),
        (repository, {"task": "obqa"}, "holds no rationales of it"),
        (repository, {"kind": "number"}, "--kind number"),
    ):
        with pytest.raises(LimbeckError, match=says):
            imported(tmp_path, path, **request)
    with pytest.raises(RecipeError, match="there are only questions"):
        imported(tmp_path, f"train={repository}/data/{SET}/train.json")


def test_a_question_has_one_answer_in_all_files(tmp_path: Path) -> None:
    """Another one next to a rationale is refused, or the first is kept and the other one listed."""
    questions = lines(tmp_path / "train.json", TRAIN)
    made = tmp_path / "made.json"
    wrong = (int(TRAIN[0]["label"]) + 1) % 4
    made.write_text(json.dumps([{"question": listed(TRAIN[0]), "reasoning": "So.", "answer": wrong}]))
    paths = [f"train={questions}", f"preprocessed={made}"]
    with pytest.raises(
        DataError, match=r"made\.json record 1: the question has the answer 'C' here, but 'B'"
    ):
        read(paths, Request(task=SET))
    found = read(paths, Request(task=SET, gold="first"))
    assert [one.gold for one in found.train] == ["ABCD"[int(row["label"])] for row in TRAIN]
    assert len(found.set_aside) == 1
