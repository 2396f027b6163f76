"""Importing the published shape of tailored learning, {question: [texts]}, in invented texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.audit import grade_file
from limbeck.errors import DataError, LeakError, RecipeError
from limbeck.published import read
from limbeck.published.found import Request, write_import
from limbeck.records import LeftOut, Mistake, Problem, Rationale, read_jsonl
from limbeck.tasks.settings import Columns, FilesTask
from tests.published.mistake_files import problems, written

ANN, BEN = "Ann has 2 pens and gets 3. How many?", "Ben had 9 nuts\u2028and ate 1?"
WRONG = {
    ANN: ["She has 2 + 3 = 6.\nAnswer: 6", "  So 7 pens ", "She has 2 + 3 = 6.\nAnswer: 6", "2 + 3 = 5"],
    BEN: ["He ate them"],
}
RIGHT = {ANN: ["2 + 3 = 5. The answer is 5.", "So 4."], BEN: []}


@pytest.fixture
def train(tmp_path: Path) -> str:
    return f"train={problems(tmp_path / 'problems.jsonl', (ANN, '5'), (BEN, '8'), ('More?', '1'))}"


def imported(out: Path, *paths: object, **request: Any) -> dict[str, Any]:
    asked = Request(**{"task": "svamp", **request})
    return write_import(read("tailored", [str(path) for path in paths], asked), "tailored", out)


def test_a_file_is_known_by_its_published_name(tmp_path: Path, train: str) -> None:
    out = tmp_path / "out"
    summary = imported(
        out,
        written(tmp_path / "svamp.student.train.round0.neg4.json", WRONG),
        written(tmp_path / "svamp.train.round1.json", RIGHT),
        train,
        teacher="chatgpt",
        student="gpt-j",
    )
    assert [(one["file"], one["records"], one["holds"]) for one in summary["read"]] == [
        ("problems.jsonl", 3, "problems that texts are joined to"),
        ("svamp.student.train.round0.neg4.json", 2, "questions with the student's mistakes (5)"),
        ("svamp.train.round1.json", 2, "questions with the teacher's rationales (2)"),
    ]
    assert [one.id for one in read_jsonl(out / "train.jsonl", Problem)] == ["p1", "p2", "p3"]
    teacher = list(read_jsonl(out / "teacher.jsonl", Rationale))
    assert [(one.problem_id, one.source, one.correct, one.origin) for one in teacher] == [
        ("p1", "chatgpt", True, "svamp.train.round1.json#1"),
        ("p1", "chatgpt", False, "svamp.train.round1.json#1"),
    ]
    assert {one.source for one in read_jsonl(out / "mistakes.jsonl", Mistake)} == {"gpt-j"}
    student = imported(tmp_path / "s", written(tmp_path / "student_wrong.json", WRONG), train)
    assert student["mistakes"]["texts"] == 4
    with pytest.raises(DataError, match=r"rationales or mistakes\?; write rationales=.*x\.json or mistakes="):
        imported(tmp_path / "x", written(tmp_path / "x.json", WRONG), train)
    imported(tmp_path / "x", f"mistakes={tmp_path / 'x.json'}", train)
    assert (tmp_path / "x" / "mistakes.jsonl").exists()


def test_a_text_keeps_its_own_ending_and_nothing_is_written_behind_it(tmp_path: Path, train: str) -> None:
    out = tmp_path / "out"
    summary = imported(out, f"mistakes={written(tmp_path / 'm.json', WRONG)}", train)
    mistakes = list(read_jsonl(out / "mistakes.jsonl", Mistake))
    assert [(one.completion, one.answer, one.kind, one.problem_id) for one in mistakes] == [
        ("She has 2 + 3 = 6.\nAnswer: 6", "6", "wrong", "p1"),
        ("  So 7 pens ", "7", "wrong", "p1"),
        ("He ate them", None, "no-answer", "p2"),
    ]
    assert len({one.id for one in mistakes}) == 3
    assert [(one.place, one.why) for one in read_jsonl(out / "left-out.jsonl", LeftOut)] == [
        ("m.json#1", "its answer, a guess, is right, so it is not a mistake")
    ]
    counts = summary["mistakes"]
    assert (counts["texts"], counts["duplicates"], counts["right, so no mistakes"]) == (4, 1, 1)
    assert "what their authors read" not in counts
    again = tmp_path / "again"
    imported(again, f"mistakes={tmp_path / 'm.json'}", train)
    assert [one.id for one in read_jsonl(again / "mistakes.jsonl", Mistake)] == [one.id for one in mistakes]


def test_a_recipe_reads_what_was_written(tmp_path: Path, train: str) -> None:
    exam, out = problems(tmp_path / "test.jsonl", ("Else?", "1"), letter="t"), tmp_path / "out"
    imported(out, f"rationales={written(tmp_path / 'r.json', RIGHT)}", train, f"test={exam}")
    task = FilesTask(
        kind="number",
        dev=0,
        columns=Columns(id="id"),
        train=str(out / "train.jsonl"),
        test=str(out / "test.jsonl"),
    )
    graded, _ = grade_file(out / "teacher.jsonl", task, 0)
    assert [(one.problem_id, one.correct) for one in graded] == [("p1", True), ("p1", False)]
    assert not (out / "mistakes.jsonl").exists()


def test_questions_of_the_exam_and_of_nobody_are_refused_or_left_out(tmp_path: Path, train: str) -> None:
    stray = {"Who knows?": ["It is 3.", "It is 4."]}
    file = written(tmp_path / "a.neg.json", WRONG | stray)
    exam = f"test={problems(tmp_path / 'test.jsonl', (' Q: ' + ANN.upper(), '5'), letter='t')}"
    with pytest.raises(LeakError, match=r"a\.neg\.json question 1: asks .* the exam, 'Ann .*: 1\)"):
        imported(tmp_path / "out", file, train, exam)
    with pytest.raises(DataError, match=r"neg\.json question 3: asks no question of .*problems\.jsonl, 'Who"):
        imported(tmp_path / "out", file, train, exam, leaks="drop")
    summary = imported(tmp_path / "out", file, train, exam, leaks="drop", unknown="drop")
    assert summary["left out"] == {
        "mistakes: asks a question of the exam": 4,
        "mistakes: asks no question of train": 2,
    }
    assert [one.completion for one in read_jsonl(tmp_path / "out/mistakes.jsonl", Mistake)] == ["He ate them"]
    assert summary["questions"]["of train that are in test"] == 1, "the problems stay as they were given"
    only = written(tmp_path / "b.neg.json", {ANN: ["6"]})
    with pytest.raises(DataError, match="no question is left to learn from"):
        imported(tmp_path / "no", only, train, exam, leaks="drop")


SHELF = "What holds books?\nAnswer Choices:\n(a) a lake\n(b) a shelf"


def test_letters_mean_the_same_only_where_the_options_have_one_order(tmp_path: Path) -> None:
    own = problems(tmp_path / "p.jsonl", ("What holds books?", "B"), options=("a lake", "a shelf"))
    file = written(
        tmp_path / "q.neg.json",
        {SHELF: ["The answer is a lake (a)."], "What holds books?": ["So it is (a) a lake."]},
    )
    out = tmp_path / "out"
    imported(out, file, f"train={own}", task="cqa")
    assert [(one.problem_id, one.answer) for one in read_jsonl(out / "mistakes.jsonl", Mistake)] == [
        ("p1", "A"),
        ("p1", "A"),
    ]
    turned = problems(tmp_path / "t.jsonl", ("What holds books?", "A"), options=("a shelf", "a lake"))
    with pytest.raises(DataError, match=r"question 1: asks no question of .*t\.jsonl"):
        imported(tmp_path / "no", file, f"train={turned}", task="cqa")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", r"m\.json: not an object"),
        ("{}", r"m\.json: holds no questions"),
        ("{", r"m\.json:1: not valid JSON"),
        ("", r"m\.json:1: not valid JSON"),
        ('{"a?": ["1"], "a?": ["2"]}', r"m\.json: an object has the key 'a\?' twice"),
        ('{"a?": ["\\ud800"]}', r"m\.json: holds half a character"),
        ('{"a?": "1"}', r"m\.json question 1: holds no list of texts but '1'"),
        ('{"a?": ["1"], "b?": [{"answer": "1"}]}', r"m\.json question 2: holds no list of texts"),
        ('{" ": ["1"]}', r"m\.json question 1: the question is empty"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, train: str, text: str, complaint: str
) -> None:
    (tmp_path / "m.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=complaint):
        imported(tmp_path / "out", f"mistakes={tmp_path / 'm.json'}", train)
    assert not (tmp_path / "out").exists()


def test_problems_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "m.neg.json", WRONG)
    shapes = {
        "other.jsonl": ({"input": ANN, "answer": "5"}, r"other\.jsonl:1: not a Problem: .*our own form"),
        "kind.jsonl": (
            {"id": "a", "question": ANN, "answer": "owl"},
            r"kind\.jsonl problem a: .*number",
        ),
        "none.jsonl": (
            {"id": "a", "question": ANN, "answer": None},
            r"question 1: asks problem a, which",
        ),
    }
    for name, (row, complaint) in shapes.items():
        rows = [row, {"id": "b", "question": BEN, "answer": "8"}]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
        with pytest.raises(DataError, match=complaint):
            imported(tmp_path / "out", file, f"train={tmp_path / name}")
    (tmp_path / "empty.jsonl").touch()
    for name, complaint in (("empty.jsonl", "holds no problems"), ("gone.jsonl", "there is no such file")):
        with pytest.raises(DataError, match=complaint):
            imported(tmp_path / "out", file, f"train={tmp_path / name}")
    one, two = problems(tmp_path / "1.jsonl", (ANN, "5")), problems(tmp_path / "2.jsonl", (BEN, "8"))
    with pytest.raises(DataError, match=r"2\.jsonl problem p1: another one has this id"):
        imported(tmp_path / "out", file, f"train={one}", f"train={two}")


def test_settings_that_are_wrong(tmp_path: Path, train: str, limbeck: Callable[..., Any]) -> None:
    file = written(tmp_path / "m.neg.json", WRONG)
    with pytest.raises(RecipeError, match=r"hold no gold answers; name the problems .* with train=FILE"):
        imported(tmp_path / "out", file)
    with pytest.raises(RecipeError, match="--gold first: these files hold no gold answers"):
        imported(tmp_path / "out", file, train, gold="first")
    with pytest.raises(RecipeError, match="only problems; name a file of rationales or mistakes"):
        imported(tmp_path / "out", train)
    answer = limbeck("import", "tailored", file, train, "--task", "svamp", "--out", tmp_path / "out")
    assert answer.status == 0 and "mistakes: 3 of 4 texts" in answer.out, answer.err
    assert "left out, mistakes: its answer, a guess, is right, so it is not a mistake: 1" in answer.out
