"""From the user's rows to problems, rationales and splits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import DataError, LeakError, RecipeError
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.leaks import find_leaks, form
from limbeck.tasks.settings import Columns, FilesTask, GeneratedTask
from limbeck.tasks.sources import Table, cut, load_splits, problems, source_fingerprint

PLAIN = Columns()
TAUGHT = Columns(rationale="why")


def table(rows: Sequence[dict[str, Any]], columns: Columns = PLAIN, kind: AnswerKind = "number") -> Table:
    return problems([(f"f:{number}", row) for number, row in enumerate(rows, 1)], columns, kind)


def refused(rows: Sequence[dict[str, Any]], columns: Columns = PLAIN, kind: AnswerKind = "number") -> str:
    with pytest.raises(DataError) as error:
        table(rows, columns, kind)
    assert "\n" not in str(error.value)
    return str(error.value)


def row(question: str, answer: object = "1", **more: object) -> dict[str, Any]:
    return {"question": question, "answer": answer, **more}


def test_a_problem_per_question_with_canonical_gold_and_stable_id() -> None:
    found = table([row(" What is 1 + 1?\n", 2.0), row("And 2 + 2?", "4.0"), row("And 0?", ["0"])])
    assert [(p.question, p.answer) for p in found.problems] == [
        ("What is 1 + 1?", "2"),
        ("And 2 + 2?", "4"),
        ("And 0?", "0"),
    ]
    again = table([row("And 2 + 2?", "4")]).problems[0]
    assert again == found.problems[1], "the id depends on the question alone"
    assert found.places == {p.id: f"f:{n}" for n, p in enumerate(found.problems, 1)}


@pytest.mark.parametrize(
    ("kind", "gold", "answer"),
    [
        ("yes-no", True, "yes"),
        ("yes-no", "No", "no"),
        ("text", "'nk'.", "nk"),
        ("number", 3, "3"),
        ("choice", "b", "B"),
    ],
)
def test_gold_of_every_type(kind: AnswerKind, gold: object, answer: str) -> None:
    assert table([row("q?", gold)], kind=kind).problems[0].answer == answer


def test_equal_questions_are_one_problem_with_several_rationales() -> None:
    found = table(
        [row("q?", why="a"), row("r?", why="b"), row("q?", "1.0", why="c"), row("q?", why=None)], TAUGHT
    )
    assert len(found.problems) == 2 and found.empty_rationales == 1 and found.repeated_rows == 0
    first, second = (problem.id for problem in found.problems)
    assert found.given == [(first, 0, "a"), (second, 0, "b"), (first, 1, "c")]


def test_a_list_of_rationales_in_one_cell() -> None:
    several = Columns(rationale="why", several_rationales=True)
    found = table([row("q?", why=["a", None, " ", "b"])], several)
    assert [(number, text) for _, number, text in found.given] == [(0, "a"), (1, "b")]
    assert found.empty_rationales == 2


def test_repeated_rows_without_rationales_count_once() -> None:
    found = table([row("q?"), row("q?")])
    assert len(found.problems) == 1 and found.repeated_rows == 1


def test_ids_of_the_users_own() -> None:
    named = Columns(id="id")
    found = table([row("q?", id=7), row("r?", id="x"), row("q?", id="y")], named)
    assert [problem.id for problem in found.problems] == ["7", "x", "y"]
    told = table([row("q?", id=7, why="a"), row("q?", id=7, why="b")], Columns(id="id", rationale="why"))
    assert [text for _, _, text in told.given] == ["a", "b"] and len(told.problems) == 1
    complaint = "f:2: the id '7' is at f:1 too; make the ids unique, or remove task.columns.id"
    assert refused([row("q?", id=7), row("q?", id=7)], named) == complaint
    assert (
        refused([row("q?", id=7, why="a"), row("r?", id=7, why="b")], Columns(id="id", rationale="why"))
        == complaint
    )
    assert (
        refused([row("q?", id=None)], named)
        == "f:1: the id (column 'id') is empty; write one, or remove task.columns.id"
    )


@pytest.mark.parametrize(
    ("cells", "columns"),
    [
        ({"o": ["red", "blue"]}, Columns(options="o")),
        ({"o": ["A) red", "B) blue"]}, Columns(options="o")),
        ({"o": {"A": "red", "B": "blue"}}, Columns(options="o")),
        ({"o": {"label": ["A", "B"], "text": ["red", "blue"]}}, Columns(options="o")),
        ({"o": [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}]}, Columns(options="o")),
        ({"deep": {"o": ["red", "blue"]}}, Columns(options="deep.o")),
        ({"one": "red", "two": "blue"}, Columns(options=("one", "two"))),
    ],
)
def test_options_in_every_shape_people_write_them(cells: dict[str, Any], columns: Columns) -> None:
    problem = table([row("Which?", "blue", **cells)], columns, "choice").problems[0]
    assert (problem.options, problem.answer) == (("red", "blue"), "B")


def test_options_are_read_from_the_question_where_there_is_no_column() -> None:
    problem = table([row("Which? (A) red, (B) blue.", "(B)")], kind="choice").problems[0]
    assert (problem.options, problem.answer) == (("red", "blue"), "B")
    assert table([row("Which? (A) red, (B) blue.", "1")], kind="number").problems[0].options == ()


def test_the_same_question_with_other_options_is_another_problem() -> None:
    columns = Columns(options="o")
    found = table([row("Which?", "A", o=["x", "y"]), row("Which?", "B", o=["p", "q"])], columns, "choice")
    assert len({problem.id for problem in found.problems}) == 2


@pytest.mark.parametrize(
    "options", [None, ["x"], ["x", None], ["x", " "], "xy", {"A": "x", "C": "y"}, list("x" * 27)]
)
def test_options_that_are_none(options: object) -> None:
    assert "the options are not a list of 2 to 26 texts" in refused(
        [row("q?", "A", o=options)], Columns(options="o"), "choice"
    )


@pytest.mark.parametrize(
    ("rows", "columns", "complaint"),
    [
        (
            [{"q": "q?", "a": "1"}],
            PLAIN,
            "f:1: no column 'question'; set task.columns.question to one of: q, a",
        ),
        ([{}], PLAIN, "f:1: no column 'question'; set task.columns.question to one of: none"),
        ([{"question": "q?"}], PLAIN, "f:1: no column 'answer'; set task.columns.answer to one of: question"),
        ([row("q?")], TAUGHT, "f:1: no column 'why'; set task.columns.rationale to one of: question, answer"),
        ([row("q?", why=3)], TAUGHT, "f:1: the rationale (column 'why') is not text; write text or null"),
        (
            [row(" ")],
            PLAIN,
            "f:1: the question (column 'question') is empty or not text; write one or remove the row",
        ),
        (
            [{"question": 3, "answer": "1"}],
            PLAIN,
            "f:1: the question (column 'question') is empty or not text; ",
        ),
        ([row("q?", None)], PLAIN, "f:1: the answer (column 'answer') is empty or not a single value; "),
        ([row("q?", "")], PLAIN, "f:1: the answer (column 'answer') is empty or not a single value; "),
        ([row("q?", [1, 2])], PLAIN, "f:1: the answer (column 'answer') is empty or not a single value; "),
        (
            [row("q?"), row("r?", "ten")],
            PLAIN,
            "f:2: the answer 'ten' does not suit the kind number: it is not a number",
        ),
        ([row("q?", "x" * 99)], PLAIN, "f:1: the answer '" + "x" * 57 + "...' does not suit"),
        (
            [row("q?"), row("q?", 2)],
            PLAIN,
            "f:2: the question has the answer '2' here, but '1' at f:1; keep one of them",
        ),
    ],
)
def test_wrong_rows_are_refused_at_their_place(
    rows: list[dict[str, Any]], columns: Columns, complaint: str
) -> None:
    assert refused(rows, columns).startswith(complaint)


def asked(*questions: str) -> list[Problem]:
    return [Problem(id=f"{n}", question=question, answer="1") for n, question in enumerate(questions)]


def leaks(train: Sequence[Problem], test: Sequence[Problem]) -> list[tuple[int, int]]:
    found = find_leaks([form(one) for one in train], [form(one) for one in test])
    return [(one.learned, one.examined) for one in found]


def test_leaks_are_found_whatever_the_case_and_spaces() -> None:
    train, test = asked("Who  is\nit?", "Where?"), asked("Why?", "who is it?", "WHO is it?")
    assert leaks(train, test) == [(0, 1)]


def test_dev_is_cut_by_question_whatever_the_order() -> None:
    train = asked(*(f"{n}?" for n in range(50)), *(f" {n}? " for n in range(50)))
    rest, dev = cut(train, 0.2, seed=1)
    assert len(rest) == 80 and len(dev) == 20
    assert not leaks(rest, dev), "problems with one question stay together"
    backwards = cut(train[::-1], 0.2, seed=1)
    assert {p.id for p in backwards[1]} == {p.id for p in dev}
    assert {p.id for p in cut(train, 0.2, seed=2)[1]} != {p.id for p in dev}
    assert [p for p in train if p in rest] == rest, "the order of the file stays"


def test_dev_as_a_count_and_none_at_all() -> None:
    train = asked(*(f"{n}?" for n in range(10)))
    assert len(cut(train, 3, 0)[1]) == 3
    assert cut(train, 0, 0) == (train, []) == cut(train, 0.0, 0)
    assert len(cut(train, 0.01, 0)[1]) == 1, "a share above 0 gives one at least"
    with pytest.raises(RecipeError, match=r"task\.dev: 10 of 10 problems leaves none to train on"):
        cut(train, 10, 0)


def files(tmp_path: Path, **splits: list[dict[str, Any]]) -> dict[str, str]:
    for name, rows in splits.items():
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {name: str(tmp_path / f"{name}.jsonl") for name in splits}


def many(count: int, prefix: str = "", **more: object) -> list[dict[str, Any]]:
    return [row(f"{prefix}{n}?", n, **more) for n in range(count)]


def test_own_data_become_splits_with_rationales_of_train_and_dev(tmp_path: Path) -> None:
    paths = files(tmp_path, train=[*many(20, why="so"), row("null?", why=None)], test=many(5, "test "))
    task = FilesTask(kind="number", **paths, dev=4, columns=TAUGHT)
    splits = load_splits(task, seed=0)
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (17, 4, 5)
    assert len(splits.given) == 20, "the test data need no rationale column"
    assert splits.notes == ["train: empty rationales skipped: 1"]
    assert load_splits(task, seed=0) == splits != load_splits(task, seed=1)


def test_dev_by_path_with_or_without_rationales(tmp_path: Path) -> None:
    paths = files(tmp_path, train=many(5, why="so"), test=many(5, "test "), dev=many(3, "dev ") * 2)
    splits = load_splits(FilesTask(kind="number", **paths, columns=TAUGHT), seed=0)
    assert (len(splits.train), len(splits.dev), len(splits.given)) == (5, 3, 5)
    assert splits.notes == [], "a repeated question may carry another rationale"
    paths = files(tmp_path, dev=many(3, "dev ", why="so"), test=many(2, "test ") * 2)
    task = FilesTask(kind="number", train=str(tmp_path / "train.jsonl"), **paths, columns=TAUGHT)
    splits = load_splits(task, seed=0)
    assert len(splits.given) == 8
    assert splits.notes == ["test: rows that repeat a question, counted once: 2"]


def test_leaks_are_refused_dropped_or_kept_by_name(tmp_path: Path) -> None:
    shared = [row("Shared  question?", 1), row("Another?", 2)]
    paths = files(
        tmp_path, train=[*many(10), *shared], test=[*many(3, "test "), row("shared question?", 1), shared[1]]
    )
    with pytest.raises(LeakError) as error:
        load_splits(FilesTask(kind="number", **paths), 0)
    assert str(error.value) == (
        f"{paths['train']}:11: this question is in test too, at {paths['test']}:4 (shared questions: 2); "
        "remove them, or set task.leaks to drop (leaves them out of train) or keep"
    )
    dropped = load_splits(FilesTask(kind="number", **paths, leaks="drop", dev=0), 0)
    assert (len(dropped.train), len(dropped.test)) == (10, 5), "the examined split stays whole"
    assert dropped.notes == ["train: questions that are in test too, left out of train: 2 (task.leaks: drop)"]
    kept = load_splits(FilesTask(kind="number", **paths, leaks="keep", dev=0), 0)
    assert (len(kept.train), len(kept.test)) == (12, 5)
    assert kept.notes == ["train: questions that are in test too, kept: 2 (task.leaks: keep)"]


def test_leaks_between_all_three_files(tmp_path: Path) -> None:
    paths = files(
        tmp_path,
        train=[*many(5), row("in dev?"), row("in all?")],
        dev=[row("in dev?"), row("in test?"), row("in all?")],
        test=[row("in test?"), row("in all?")],
    )
    splits = load_splits(FilesTask(kind="number", **paths, leaks="drop"), 0)
    assert [problem.question for problem in splits.dev] == ["in dev?"]
    assert len(splits.train) == 5 and len(splits.test) == 2 and len(splits.notes) == 3


def test_when_every_question_leaks_nothing_is_left(tmp_path: Path) -> None:
    paths = files(tmp_path, train=many(3), test=many(3))
    with pytest.raises(DataError, match="train: every question of train is in test too; give other data"):
        load_splits(FilesTask(kind="number", **paths, leaks="drop"), 0)


def test_ids_are_unique_over_all_files(tmp_path: Path) -> None:
    paths = files(tmp_path, train=[row("a?", id=1), row("b?", id=2)], test=[row("c?", id=2)])
    with pytest.raises(
        DataError, match=r"test\.jsonl:1: the id '2' is that of another question at .*train\.jsonl:2"
    ):
        load_splits(FilesTask(kind="number", **paths, columns=Columns(id="id")), 0)


def test_built_in_tasks_become_splits_too() -> None:
    task = GeneratedTask(name="arithmetic", train=20, dev=5, test=10, parameters={"steps": 2})
    splits = load_splits(task, seed=1)
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (20, 5, 10)
    assert splits.given == [] == splits.notes and load_splits(task, seed=1) == splits
    assert source_fingerprint(task) == {}


def test_the_fingerprint_follows_the_files_content(tmp_path: Path) -> None:
    paths = files(tmp_path, train=many(3), test=many(3, "test "))
    task = FilesTask(kind="number", train=f"{paths['train']}#k", test=paths["test"])
    before = source_fingerprint(task)
    assert before.keys() == {"train", "test"}
    files(tmp_path, train=many(4))
    after = source_fingerprint(task)
    assert after["train"] != before["train"] and after["test"] == before["test"]
    hub = FilesTask(kind="number", train="hf:a/b:train", test="hf:a/b:test", dev="hf:a/b:dev")
    assert source_fingerprint(hub) == {"train": "hf:a/b:train", "test": "hf:a/b:test", "dev": "hf:a/b:dev"}
    folder = tmp_path / "local"
    folder.mkdir()
    (folder / "train.jsonl").write_text("{}", encoding="utf-8")
    local = FilesTask(kind="number", train=f"hf:{folder}:train", test="hf:a/b:test")
    before = source_fingerprint(local)
    (folder / "train.jsonl").write_text("{} ", encoding="utf-8")
    assert source_fingerprint(local)["train"] != before["train"]


def test_dev_as_text_that_is_a_number(tmp_path: Path) -> None:
    assert FilesTask(kind="number", train="a", test="b", dev="1e-1").dev == 0.1
    assert FilesTask(kind="number", train="a", test="b", dev="20").dev == 20
    assert FilesTask(kind="number", train="a", test="b", dev="20.json").dev == "20.json"


@pytest.mark.parametrize(
    ("gold", "cell", "letter"),
    [
        ("3", {"label": ["1", "2", "3"], "text": ["x", "y", "z"]}, "C"),
        ("B", {"label": ["A", "B", "C"], "text": ["x", "y", "z"]}, "B"),
        (3, [{"label": "1", "text": "x"}, {"label": "2", "text": "y"}, {"label": "3", "text": "z"}], "C"),
        (2, ["x", "y", "z"], "C"),
        (0, ["x", "y", "z"], "A"),
    ],
)
def test_gold_as_a_label_or_an_index_from_zero(gold: object, cell: object, letter: str) -> None:
    assert table([row("q?", gold, o=cell)], Columns(options="o"), "choice").problems[0].answer == letter


@pytest.mark.parametrize(
    ("gold", "cell", "reason"),
    [
        ("2", ["x", "y", "z"], "not one of the 3 options"),
        (3, ["x", "y", "z"], "as an index from 0"),
        (1, ["1", "2", "3"], "more than one option"),
        ("2", {"label": ["1", "2"], "text": ["2", "3"]}, "more than one option"),
    ],
)
def test_gold_that_can_mean_nothing_or_two_options(gold: object, cell: object, reason: str) -> None:
    assert reason in refused([row("q?", gold, o=cell)], Columns(options="o"), "choice")
