"""Importing the published shape of Learning from Committee, in invented records: joined, graded, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import DataError, LeakError, RecipeError
from limbeck.published import read
from limbeck.published.found import Request, write_import
from limbeck.records import Feedback, LeftOut, Mistake, Problem, Rationale, read_jsonl
from tests.published.mistake_files import problems, written

Row = dict[str, Any]
ANN, BEN, CID = (
    "Ann has 2 pens and gets 3. How many?",
    "Ben had 9 nuts, ate 1?",
    "Cid has 30 and 2. How many?",
)


def mistake(number: int, question: str, gold: str, text: str, stated: str, **more: Any) -> Row:
    return {
        "id": number,
        "question": question,
        "gold_answer": gold,
        "student_wrong_pred": text,
        "student_wrong_final_answer": stated,
        **more,
    }


ROWS = [
    mistake(4, ANN, "5", "Ann has 2 + 3 = 6", "6"),
    mistake(7, BEN, "8", "Answer: 8 nuts.\n\nExplanation: he had 9 and ate 1", "1"),
    mistake(9, CID, "32", "", "ABSOLUTE_WRONG_FINAL_ANS"),
]
SAID = [
    {"gpt_feedback": " 2 + 3 is 5.", "gemini_feedback": "Add again.", "mistral_feedback": "It is 5, not 6."},
    {"gpt_feedback": "Ben did well.", "gemini_feedback": "No.", "mistral_feedback": "See above."},
    {"gpt_feedback": "You wrote nothing.", "gemini_feedback": None, "mistral_feedback": "Write."},
]
WRITTEN = [
    {
        "gpt_rationale": ["2 + 3 = 5, so 5.", 5, 4],
        "gemini_rationale": ["It is 7.", 4, 5],
        "mistral_rationale": ["5 pens", 1, 1],
        "correct_rationale": ["2 + 3 = 5, so 5.", "It is 7."],
    },
    {
        "gpt_rationale": ["9 - 1 = 8.", 5, 5],
        "gemini_rationale": [None, 0, 0],
        "mistral_rationale": ["Ten.", 1, 2],
        "correct_rationale": ["9 - 1 = 8."],
    },
    {
        "gpt_rationale": ["30 + 2 = 32.", 5, 83],
        "gemini_rationale": ["32", 5, 5],
        "mistral_rationale": ["30 - 2 = 28.", 2, 1],
        "correct_rationale": ["30 + 2 = 32.", "32"],
    },
]
STUDENT = "little-llama_svamp"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Feedback on three mistakes, and rationales of the same ones in another order under other ids."""
    feedback = [row | said for row, said in zip(ROWS, SAID, strict=True)]
    wrote = [row | rationales | {"id": 70} for row, rationales in zip(ROWS, WRITTEN, strict=True)]
    return [
        str(written(tmp_path / f"{STUDENT}_feedback_round0.json", feedback)),
        str(written(tmp_path / f"{STUDENT}_rationale_round0.json", wrote[::-1])),
    ]


def imported(out: Path, paths: list[str], **request: Any) -> dict[str, Any]:
    asked = Request(**{"task": "svamp", **request})
    return write_import(read("learn-from-committee", paths, asked), "learn-from-committee", out)


def test_files_of_the_same_mistakes_are_joined_by_question_and_text(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    imported(out, files)
    first, empty = read_jsonl(out / "mistakes.jsonl", Mistake)
    assert (first.completion, first.answer, first.kind) == ("Ann has 2 + 3 = 6", "6", "wrong")
    assert (first.source, first.origin) == ("little-llama", f"{STUDENT}_feedback_round0.json#1")
    assert (empty.completion, empty.answer, empty.kind) == ("", None, "no-answer")
    asked = {one.question: one for one in read_jsonl(out / "train.jsonl", Problem)}
    assert {question: one.answer for question, one in asked.items()} == {ANN: "5", BEN: "8", CID: "32"}
    assert (first.problem_id, empty.problem_id) == (asked[ANN].id, asked[CID].id)
    feedback = list(read_jsonl(out / "feedback.jsonl", Feedback))
    assert [(one.mistake_id, one.source, one.said, one.solution) for one in feedback] == [
        (first.id, "gpt-3.5-turbo", "2 + 3 is 5.", "2 + 3 = 5, so 5."),
        (first.id, "gemini-1.0-pro", "Add again.", "It is 7."),
        (first.id, "mixtral-8x7b", "It is 5, not 6.", "5 pens"),
        (empty.id, "gpt-3.5-turbo", "You wrote nothing.", "30 + 2 = 32."),
        (empty.id, "mixtral-8x7b", "Write.", "30 - 2 = 28."),
    ]
    assert {one.problem_id for one in feedback} == {asked[ANN].id, asked[CID].id}


def test_another_text_of_the_same_question_is_another_mistake(files: list[str], tmp_path: Path) -> None:
    """The rationales belong to a text of the same student that the feedback is not about."""
    feedback, wrote = (json.loads(Path(file).read_text("utf-8")) for file in files)
    wrote[2]["student_wrong_pred"] = "Ann has 2 + 3 = 9"
    paths = [str(written(tmp_path / "a.json", feedback)), str(written(tmp_path / "b.json", wrote))]
    out = tmp_path / "out"
    imported(out, paths)
    texts = {one.completion: one.id for one in read_jsonl(out / "mistakes.jsonl", Mistake)}
    assert set(texts) == {"Ann has 2 + 3 = 6", "Ann has 2 + 3 = 9", ""}
    about = [one for one in read_jsonl(out / "feedback.jsonl", Feedback) if one.solution == ""]
    assert {one.mistake_id for one in about} == {texts["Ann has 2 + 3 = 6"]} and len(about) == 3


def test_what_answers_right_is_no_mistake(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = imported(out, files)
    assert [(one.split, one.place, one.why) for one in read_jsonl(out / "left-out.jsonl", LeftOut)] == [
        ("mistakes", f"{STUDENT}_feedback_round0.json#2", "its answer is right, so it is not a mistake")
    ]
    assert summary["mistakes"] == {
        "texts": 3,
        "questions": 3,
        "mistakes": 2,
        "wrong": 1,
        "wrong, the answer guessed": 1,
        "no answer found": 1,
        "empty": 1,
        "right, so no mistakes": 1,
        "duplicates": 0,
        "what their authors read": {"the same answer": 1, "another answer": 1, "no answer, nor do we": 1},
    }
    assert summary["feedback"]["gemini-1.0-pro"] == {"texts": 1, "with a solution": 1, "a right one": 0}
    assert summary["left out"] == {"mistakes: its answer is right, so it is not a mistake": 1}


def test_rationales_are_graded_against_the_verdict_of_the_other_teachers(
    files: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = imported(out, files)["files"]["teacher.jsonl"]
    assert (summary["texts"], summary["null chains"], summary["correct"], summary["flagged correct"]) == (
        9,
        1,
        5,
        5,
    )
    assert summary["disagree with the flag"] == {
        "flagged correct, another answer guessed": 1,
        "flagged wrong, the gold answer guessed": 1,
    }
    own = [one for one in read_jsonl(out / "teacher.jsonl", Rationale) if one.source == "gpt-3.5-turbo"]
    assert [one.completion for one in own] == ["30 + 2 = 32.", "9 - 1 = 8.", "2 + 3 = 5, so 5."]


def test_one_teacher_is_taken_by_either_name(files: list[str], tmp_path: Path) -> None:
    for name in ("mistral", "mixtral-8x7b"):
        imported(tmp_path / name, files, teacher=name)
        for record, file in ((Feedback, "feedback.jsonl"), (Rationale, "teacher.jsonl")):
            found = list(read_jsonl(tmp_path / name / file, record))
            assert found and {one.source for one in found} == {"mixtral-8x7b"}
    with pytest.raises(RecipeError, match=r"--teacher gpt-4: choose one of gpt-3\.5-turbo, gemini"):
        imported(tmp_path / "no", files, teacher="gpt-4")


def test_mistakes_alone_and_golds_with_facts_behind_them(tmp_path: Path) -> None:
    rows = [
        mistake(
            1, "Is ice warm?", "false.\tIce is cold.\tWarm is not.", "\nTrue or False: Ice warm.", "true"
        ),
        mistake(2, "Is fire hot?", "true.\tFire burns.", "The answer is false.", "false"),
    ]
    file = written(tmp_path / "small_strategyQA_false_round0.json", rows)
    out = tmp_path / "out"
    summary = imported(out, [str(file)], task="strategyQA", student="another")
    assert sorted(path.name for path in out.iterdir()) == [
        "disagreements.jsonl",
        "import.json",
        "mistakes.jsonl",
        "train.jsonl",
    ]
    assert [one.answer for one in read_jsonl(out / "train.jsonl", Problem)] == ["no", "yes"]
    echoed, wrong = read_jsonl(out / "mistakes.jsonl", Mistake)
    assert (echoed.kind, echoed.completion) == ("no-answer", "\nTrue or False: Ice warm.")
    assert (wrong.kind, wrong.source) == ("wrong", "another")
    assert summary["mistakes"]["what their authors read"] == {
        "an answer, but we read none": 1,
        "the same answer": 1,
    }


def test_questions_of_the_exam_are_refused_or_left_out_with_all_that_is_said(
    files: list[str], tmp_path: Path
) -> None:
    exam = problems(tmp_path / "test.jsonl", (f"Q: {ANN.lower()} ", "5"), ("Else?", "1"), letter="t")
    paths = [*files, f"test={exam}"]
    with pytest.raises(LeakError, match=r"round0\.json record 1: asks .*'Ann has .*questions: 1.*--leaks"):
        imported(tmp_path / "out", paths)
    assert not (tmp_path / "out").exists()
    out = tmp_path / "out"
    summary = imported(out, paths, leaks="drop")
    assert [one.question for one in read_jsonl(out / "train.jsonl", Problem)] == [BEN, CID]
    assert len(list(read_jsonl(out / "test.jsonl", Problem))) == 2
    assert [one.completion for one in read_jsonl(out / "mistakes.jsonl", Mistake)] == [""]
    assert {one.problem_id for one in read_jsonl(out / "teacher.jsonl", Rationale)} == {
        one.id for one in read_jsonl(out / "train.jsonl", Problem)
    }
    assert summary["left out"]["mistakes: asks a question of the exam"] == 1
    assert summary["questions"]["of train that are in test"] == 0


def test_texts_join_the_users_own_problems(files: list[str], tmp_path: Path) -> None:
    train = problems(tmp_path / "train.jsonl", (f"{ANN} ", "5"), ("Q: " + BEN, "8"), ("More?", "3"))
    paths = [*files, f"train={train}"]
    with pytest.raises(DataError, match=r"asks no question of .*train\.jsonl, 'Cid.*such questions: 1"):
        imported(tmp_path / "out", paths)
    out = tmp_path / "out"
    summary = imported(out, paths, unknown="drop")
    assert [one.id for one in read_jsonl(out / "train.jsonl", Problem)] == ["p1", "p2", "p3"]
    assert [one.problem_id for one in read_jsonl(out / "mistakes.jsonl", Mistake)] == ["p1"]
    assert {one.problem_id for one in read_jsonl(out / "teacher.jsonl", Rationale)} == {"p1", "p2"}
    assert summary["left out"]["mistakes: asks no question of train"] == 1
    other = problems(tmp_path / "other.jsonl", (ANN, "4"), (BEN, "8"), (CID, "32"))
    with pytest.raises(DataError, match=r"record 1: .*'5' here, but '4' at .*other\.jsonl problem p1"):
        imported(tmp_path / "no", [*files, f"train={other}"])
    imported(tmp_path / "first", [*files, f"train={other}"], gold="first")
    assert next(read_jsonl(tmp_path / "first/train.jsonl", Problem)).answer == "4"


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([ROWS[0] | {"why": "?"}], r"m\.json record 1: is not of the shape id, question, gold_answer"),
        ([ROWS[0], ROWS[1] | SAID[1]], r"m\.json record 2: has another shape than the records before it"),
        ([ROWS[0] | {"question": " "}], r"m\.json record 1: the question is empty"),
        ([ROWS[0] | {"student_wrong_pred": None}], r"record 1: student_wrong_pred is not text but 'None'"),
        ([ROWS[0] | {"gold_answer": "many"}], r"record 1: .*does not suit the kind number"),
        ([ROWS[0] | SAID[0] | {"gpt_feedback": 5}], r"record 1: gpt_feedback is not text but '5'"),
        (
            [ROWS[0] | WRITTEN[0] | {"gpt_rationale": "5"}],
            r"record 1: gpt_rationale is not \[text, sc",
        ),
        ([ROWS[0] | WRITTEN[0] | {"gpt_rationale": ["5", 5]}], r"record 1: gpt_rationale is not \[text, sc"),
        ([ROWS[0] | WRITTEN[0] | {"correct_rationale": "5"}], r"correct_rationale is not a list of texts"),
        ([ROWS[0], mistake(5, ANN, "6", "Hm", "7")], r"record 2: .*'6' here, but '5' at .*record 1"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, rows: list[Row], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        imported(tmp_path / "out", [str(written(tmp_path / "m.json", rows))])
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]


def test_settings_that_would_do_nothing_are_refused(files: list[str], tmp_path: Path) -> None:
    train = problems(tmp_path / "train.jsonl", (ANN, "5"))
    for paths, request, complaint in (
        (files, {"leaks": "drop"}, r"--leaks drop: needs .* with test=FILE"),
        (files, {"unknown": "drop"}, r"--unknown drop: needs .* with train=FILE"),
        ([f"train={train}"], {}, r"there are only problems; name a file of mistakes"),
        ([str(tmp_path)], {}, r"is a folder; name the files in it"),
        (files, {"task": "other"}, r"--kind: the answer kind of 'other' is not known"),
    ):
        with pytest.raises(RecipeError, match=complaint):
            imported(tmp_path / "out", paths, **request)
    with pytest.raises(RecipeError, match="--leaks: mentor-kd holds no mistakes of a student; remove it"):
        read("mentor-kd", files, Request(leaks="drop"))


def test_the_command_says_what_became_of_the_mistakes(
    limbeck: Callable[..., Any], files: list[str], tmp_path: Path
) -> None:
    exam, out = problems(tmp_path / "test.jsonl", ("Else?", "1")), tmp_path / "out"
    refused = limbeck(
        "import", "learn-from-committee", *files, "--task", "svamp", "--leaks", "drop", "--out", out
    )
    assert refused.status == 2 and "name them with test=FILE" in refused.err
    alone = limbeck("import", "learn-from-committee", *files, "--task", "svamp", "--out", tmp_path / "a")
    assert alone.status == 0 and "not compared with the questions of an exam" in alone.out
    answer = limbeck(
        "import", "learn-from-committee", *files, f"test={exam}", "--task", "svamp", "--out", out
    )
    assert answer.status == 0, answer.err
    assert "mistakes: 2 of 3 texts (wrong 1, no answer found 1; right, so no mistakes: 1)" in answer.out
    assert "feedback of gpt-3.5-turbo: 2 (solutions 2, right 2)" in answer.out
    assert "not compared" not in answer.out and f"train: {out / 'train.jsonl'}" in answer.out
    again = limbeck("import", "learn-from-committee", *files, "--task", "svamp", "--out", out)
    assert again.status == 2 and "holds files; name a new folder" in again.err
