"""From the user's rows to problems, rationales and splits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import BadRowsError, DataError, LeakError, RecipeError
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.forms import form
from limbeck.tasks.leaks import find_leaks
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


def test_choices_without_options_in_any_question_are_refused(tmp_path: Path) -> None:
    """A column that nobody named is said; options in a form that grading does not read are options."""
    shown = [row("Who? Options: Ann, Ben", "A"), row("Is it so? A. no B. yes", "B"), row("And?", "A")]
    hidden = [
        row("Who is it?", "A", options=["Ann", "Ben"]),
        row("What is it?", "(b)", options=["no", "yes"]),
    ]
    named = Columns(options="options")
    for train, test in ((hidden[:1], hidden[1:]), (shown, hidden)):
        paths = files(tmp_path, train=train, test=test)
        says = "jsonl: no question has options; name the column that lists them with task.columns.options"
        with pytest.raises(DataError, match=says):
            load_splits(FilesTask(kind="choice", dev=0, **paths), 0)
    assert len(load_splits(FilesTask(kind="choice", dev=0, train=paths["train"], test=0.3), 0).train) == 2
    paths = files(tmp_path, train=hidden[:1], test=hidden[1:])
    splits = load_splits(FilesTask(kind="choice", dev=0, columns=named, **paths), 0)
    assert [one.options for one in (*splits.train, *splits.test)] == [("Ann", "Ben"), ("no", "yes")]


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
    again = load_splits(task, seed=1)
    for some, same in ((splits.train, again.train), (splits.dev, again.dev), (splits.test, again.test)):
        assert list(some) == list(same)
    assert splits.given == [] == splits.notes
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


# --- wrong rows, all at once ---------------------------------------------------


def wrong_rows(count: int) -> list[dict[str, Any]]:
    """Every second row is wrong, in turn by its answer, its question and another row."""
    wrong = [row("a?", "ten"), row(" ", 1), row("0?", 9)]
    return [one for n in range(count) for one in (row(f"{n}?", n), wrong[n % 3])]


def test_all_wrong_rows_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    paths = files(tmp_path, train=wrong_rows(3), test=many(2, "test "))
    with pytest.raises(BadRowsError) as error:
        load_splits(FilesTask(kind="number", **paths), 0)
    train = paths["train"]
    assert str(error.value).split("\n") == [
        f"{train}: 3 rows cannot be used; fix them, or set task.bad_rows to skip:",
        f"{train}:2: the answer 'ten' does not suit the kind number: it is not a number; fix it or task.kind",
        f"{train}:4: the question (column 'question') is empty or not text; write one or remove the row",
        f"{train}:6: the question has the answer '9' here, but '0' at {train}:1; keep one of them",
    ]
    paths = files(tmp_path, train=wrong_rows(2400))
    with pytest.raises(BadRowsError, match="2,400 rows cannot be used") as error:
        load_splits(FilesTask(kind="number", test="unread.jsonl", **paths), 0)
    assert len(error.value.rows) == 21 and error.value.rows[-1] == "and 2,380 more"


def test_one_wrong_row_is_one_sentence(tmp_path: Path) -> None:
    paths = files(tmp_path, train=wrong_rows(1), test=many(2, "test "))
    with pytest.raises(DataError, match=r"^\S+train\.jsonl:2: the answer 'ten' does not suit"):
        load_splits(FilesTask(kind="number", **paths), 0)


def test_a_setting_that_suits_no_row_is_one_sentence(tmp_path: Path) -> None:
    paths = files(tmp_path, train=many(9), test=many(2, "test "))
    for policy in ("refuse", "skip"):
        task = FilesTask(kind="number", **paths, columns=Columns(question="q"), bad_rows=policy)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=r"jsonl:1: no column 'q'; .*\(the same in all 9 rows\)$"):
            load_splits(task, 0)


def test_wrong_rows_are_left_out_and_listed(tmp_path: Path) -> None:
    paths = files(tmp_path, train=wrong_rows(6), test=[*many(2, "test "), {"question": "no answer"}])
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("{broken\n[1]\n")
    splits = load_splits(FilesTask(kind="number", **paths, dev=0, bad_rows="skip"), 0)
    assert [problem.question for problem in splits.train] == [f"{n}?" for n in range(6)]
    places = [f"{paths['train']}:{line}" for line in (2, 4, 6, 8, 10, 12, 13, 14)] + [f"{paths['test']}:3"]
    assert [one.place for one in splits.left_out] == places
    assert [one.split for one in splits.left_out] == ["train"] * 8 + ["test"]
    assert "not valid JSON" in splits.left_out[6].why and "no column 'answer'" in splits.left_out[8].why
    assert splits.notes[0].startswith(
        f"train: rows left out: 8 (task.bad_rows: skip), such as {paths['train']}:2: the answer 'ten'"
    )


def test_a_row_that_is_left_out_leaves_nothing_behind() -> None:
    """Its question may come again, with a rationale that can be read and another answer."""
    wrong: list[DataError] = []
    rows = [("f:1", row("q?", why=3)), ("f:2", row("q?", 2, why="so")), ("f:3", row("q?", 1, why="no"))]
    found = problems(rows, TAUGHT, "number", bad=wrong.append)
    assert [problem.answer for problem in found.problems] == ["2"] and [text for *_, text in found.given] == [
        "so"
    ]
    assert [one.place for one in wrong] == ["f:1", "f:3"] and found.places[found.problems[0].id] == "f:2"


def test_wrong_cells_of_csv_are_rows_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\n1?,1\n2?,2,2\n3?,3\n4?\n", encoding="utf-8")
    paths = files(tmp_path, test=many(1, "test "))
    task = FilesTask(kind="number", train=str(tmp_path / "a.csv"), **paths, dev=0, bad_rows="skip")
    splits = load_splits(task, 0)
    assert [one.question for one in splits.train] == ["1?", "3?"]
    assert [one.place for one in splits.left_out] == [f"{tmp_path}/a.csv:3", f"{tmp_path}/a.csv:5"]


# --- shapes ----------------------------------------------------------------------


def test_a_question_of_several_columns() -> None:
    rows = [{"Body": "Ann has 3 pens. ", "Question": "How many?", "answer": 3}]
    (problem,) = table(rows, Columns(question=("Body", "Question"))).problems
    assert problem.question == "Ann has 3 pens. How many?"
    (problem,) = table(rows, Columns(question=("Body", "Question"), join="\n")).problems
    assert problem.question == "Ann has 3 pens.\nHow many?"
    rows = [{"Body": None, "Question": "How many?", "answer": 3}]
    assert table(rows, Columns(question=("Body", "Question"))).problems[0].question == "How many?"
    assert Columns(question=("Body",)).question == "Body"
    several = Columns(question=("Body", "Question"))
    complaint = "f:1: the question (columns 'Body', 'Question') is empty or not text"
    assert refused([{"Body": None, "Question": " ", "answer": 3}], several).startswith(complaint)
    assert refused([{"Body": 5, "Question": "How?", "answer": 3}], several).startswith(complaint)
    assert "no column 'Body'" in refused([{"Question": "How?", "answer": 3}], several)


def test_a_list_of_rationales_is_declared() -> None:
    complaint = "f:1: the rationale (column 'why') is a list; if each is a rationale of its own, set task."
    assert refused([row("q?", why=["So 1.", "It is 1."])], TAUGHT).startswith(complaint)
    with pytest.raises(ValueError, match="several_rationales: names no column by itself"):
        Columns(several_rationales=True)


@pytest.mark.parametrize("options", [None, "answer"])
def test_scores_by_option(options: str | None) -> None:
    rows = [row(f"{n}?", {"one": 0, "two": 1, "three": 0.5, "four": None}) for n in range(9)]
    found = table(rows, Columns(options=options), "choice").problems
    assert all(one.options["ABC".index(one.answer)] == "two" for one in found)
    assert all(sorted(one.options) == ["one", "three", "two"] for one in found)
    assert len({one.answer for one in found}) > 1, "the right one is written first, but does not stay there"
    assert table([row("q?", {"Yes": 1, "No": 0})], kind="yes-no").problems[0].answer == "yes"
    assert table([row("q?", {"12": 1, "13": 0})]).problems[0].answer == "12"
    assert "several options have the highest score" in refused([row("q?", {"a": 1, "b": 1})], kind="choice")


def test_scores_with_the_options_in_the_question() -> None:
    asked = "Which? (A) owl, (B) bat."
    assert table([row(asked, {"bat": 1, "owl": 0})], kind="choice").problems[0].answer == "B"


def test_options_with_dashes_and_small_letters_in_lines() -> None:
    for listed, gold in (
        ("Options:\n- Yes\n- No", "No"),
        ("(a) Yes\n(b) No", "(b)"),
        ("a) Yes\nb) No", "No"),
    ):
        (problem,) = table([row(f"Is it?\n{listed}", gold)], kind="choice").problems
        assert (problem.options, problem.answer) == (("Yes", "No"), "B")


def test_a_gold_text_that_two_options_have() -> None:
    columns = Columns(options="o")
    assert table([row("q?", "Red", o=["blue", "red", "red"])], columns, "choice").problems[0].answer == "B"


# --- a test split from one file ------------------------------------------------


def test_a_test_split_is_cut_from_one_file(tmp_path: Path) -> None:
    paths = files(tmp_path, train=many(100, why="so"))
    task = FilesTask(kind="number", **paths, test=0.2, dev=0.1, columns=TAUGHT)
    splits = load_splits(task, seed=0)
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (72, 8, 20)
    everyone = [*splits.train, *splits.dev, *splits.test]
    assert len({one.id for one in everyone}) == 100
    assert {one.problem_id for one in splits.given} == {one.id for one in (*splits.train, *splits.dev)}
    assert load_splits(task, seed=0) == splits
    assert load_splits(task, seed=1).test != splits.test
    files(tmp_path, train=many(100, why="so")[::-1])
    assert {one.id for one in load_splits(task, seed=0).test} == {one.id for one in splits.test}
    assert splits.notes == ["test: 20 of 100 problems, cut from train"]
    assert source_fingerprint(task).keys() == {"train"}


def test_no_question_is_on_both_sides_of_the_cut(tmp_path: Path) -> None:
    layouts = ("{} ?", "Q: {}?", "“{}?”", "{}?\nAnswer:")
    rows = [
        row(layout.format(f"How many are {n}"), n, why=f"so {layout}")
        for layout in layouts
        for n in range(40)
    ]
    paths = files(tmp_path, train=rows)
    splits = load_splits(FilesTask(kind="number", **paths, test=12, dev=8, columns=TAUGHT), 0)
    assert len(splits.train) + len(splits.dev) + len(splits.test) == 40
    for one, other in ((splits.train, splits.test), (splits.dev, splits.test), (splits.train, splits.dev)):
        assert not leaks(one, other)
    assert splits.notes[0] == "train: questions that repeat another in another layout, counted once: 120"
    (first, *_) = splits.train
    texts = [given.text for given in splits.given if given.problem_id == first.id]
    assert len(texts) == 4, "rationales of all layouts stay"


def test_a_dev_file_is_held_against_the_cut(tmp_path: Path) -> None:
    paths = files(tmp_path, train=many(10), dev=[row("Q: 3 ?", 3)])
    with pytest.raises(LeakError, match="this question is in t"):
        load_splits(FilesTask(kind="number", **paths, test=4), 0)


@pytest.mark.parametrize(
    ("test", "complaint"),
    [
        (0, "the exam needs problems"),
        (0.0, "the exam needs problems"),
        (1.5, "a share must be at least 0 and below 1"),
        (-3, "cannot be negative"),
        (True, "give a share below 1"),
        ("", "give a share below 1"),
    ],
)
def test_a_test_split_that_is_none(test: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        FilesTask(kind="number", train="a", test=test)


def test_a_cut_that_leaves_nothing(tmp_path: Path) -> None:
    paths = files(tmp_path, train=many(4))
    with pytest.raises(RecipeError, match=r"task\.test: 4 of 4 problems leaves none to train on; lower it"):
        load_splits(FilesTask(kind="number", **paths, test=4), 0)
    same = [row("Which?", "owl", o=["owl", f"bat {n}"]) for n in range(3)]
    with pytest.raises(RecipeError, match=r"task\.test: all 3 problems ask one question"):
        paths = files(tmp_path, train=same)
        load_splits(FilesTask(kind="choice", **paths, test=1, columns=Columns(options="o")), 0)


# --- leaks in another layout -----------------------------------------------------


def test_a_leak_in_another_layout_is_refused_counted_and_listed(tmp_path: Path) -> None:
    paths = files(
        tmp_path,
        train=[*many(3), row("Who is it?"), row("“Where  is it?”")],
        test=[row("Q: who is it ?"), row("where is it?"), row("where is he?")],
    )
    with pytest.raises(
        LeakError, match=r"train\.jsonl:4: .*test\.jsonl:1 \(shared questions: 2, 2 of them in ano"
    ):
        load_splits(FilesTask(kind="number", **paths), 0)
    splits = load_splits(FilesTask(kind="number", **paths, leaks="drop", dev=0), 0)
    assert len(splits.train) == 3 and [one.place for one in splits.left_out] == [
        f"{paths['train']}:4",
        f"{paths['train']}:5",
    ]
    assert splits.left_out[0].why == f"this question is in test too, at {paths['test']}:1"


def test_near_duplicates_are_warned_of_with_examples(tmp_path: Path) -> None:
    story = "In the year {} the {} owl of the old mill caught ten mice, an eel and two small fish. How many?"
    train = [row(story.format(n, "grey"), 13) for n in range(5)]
    test = [row(story.format(n, "brown"), 13) for n in (*range(4), 9)]
    paths = files(tmp_path, train=train, test=test)
    splits = load_splits(FilesTask(kind="number", **paths, dev=0), 0)
    assert len(splits.train) == 5, "they stay"
    first, *examples = splits.notes
    assert first == "train: questions that nearly repeat one of test, kept: 4 of 5, such as"
    assert len(examples) == 3 and f"{paths['train']}:1" in examples[0] and f"{paths['test']}:1" in examples[0]


def test_only_problems_with_gold_are_cut_for_the_exam(tmp_path: Path) -> None:
    unknown = [{"question": f"Q: {n} ?", "answer": None} for n in range(5, 15)]
    paths = files(tmp_path, train=[*many(10), *unknown])
    task = FilesTask(kind="number", **paths, test=4, dev=0, gold="optional")
    splits = load_splits(task, seed=0)
    assert len(splits.test) == 4 and all(one.answer is not None for one in splits.test)
    assert not leaks(splits.train, splits.test)
    assert len(splits.train) == 11 and sum(one.answer is None for one in splits.train) == 5


# --- one question, twice in the file of a cut -------------------------------------

ANOTHER_LAYOUT = ("How many  owls are there?", "How many owls are there ?", "“how many owls are there?”")


@pytest.mark.parametrize("layout", ANOTHER_LAYOUT)
def test_two_golds_of_a_question_in_another_layout_are_bad_rows(tmp_path: Path, layout: str) -> None:
    rows = [*many(8, why="so"), row("How many owls are there?", 3, why="three"), row(layout, 4, why="four")]
    rows += [row(layout, 4, why="four again"), row("x", "y", why="no number")]
    paths = files(tmp_path, train=rows)
    task = FilesTask(kind="number", **paths, test=8, dev=0, columns=TAUGHT)
    with pytest.raises(BadRowsError) as error:
        load_splits(task, 0)
    place = paths["train"]
    assert "3 rows cannot be used" in str(error.value), "all errors of the file at once"
    told = f"the question has the answer '4' here, but '3' at {place}:9 in another layout; keep one of them"
    assert f"{place}:10: {told}" in str(error.value) and f"{place}:11: {told}" in str(error.value)
    splits = load_splits(task.model_copy(update={"bad_rows": "skip"}), 0)
    asked = [one for one in (*splits.train, *splits.test) if "owls" in one.question.casefold()]
    assert [one.answer for one in asked] == ["3"], "the first stays"
    assert [(one.split, one.place) for one in splits.left_out][1:] == [
        ("train", f"{place}:{n}") for n in (10, 11)
    ]
    assert not any("four" in one.text for one in splits.given)


def test_options_in_another_order_are_one_question_of_the_exam(tmp_path: Path) -> None:
    orders = (["owl", "bat"], ["bat", "owl"])
    rows = [row(f"Which {n}?", "owl", o=order, why="so") for n in range(20) for order in orders]
    paths = files(tmp_path, train=rows)
    columns = Columns(options="o", rationale="why")
    splits = load_splits(FilesTask(kind="choice", **paths, test=6, dev=0, columns=columns), 0)
    assert len({one.question for one in splits.test}) == len(splits.test) == 6, "each is asked once"
    assert len(splits.train) == 28 and not leaks(splits.train, splits.test), "train keeps both orders"
    assert {one.answer for one in splits.train} == {"A", "B"}
    paths = files(tmp_path, train=[*rows, row("which 3 ?", "bat", o=orders[1], why="no")])
    with pytest.raises(DataError, match=r"train\.jsonl:41: .* the answer 'bat' here, but 'owl' at .*jsonl:7"):
        load_splits(FilesTask(kind="choice", **paths, test=6, dev=0, columns=columns), 0)


def test_forms_of_one_gold_contradict_nobody(tmp_path: Path) -> None:
    rows = [*many(5), row("Who is it?", "An owl"), row("who is it ?", "“an owl.”")]
    splits = load_splits(FilesTask(kind="text", **files(tmp_path, train=rows), test=2, dev=0), 0)
    assert len(splits.train) + len(splits.test) == 6


def test_gold_wins_over_its_absence(tmp_path: Path) -> None:
    for rows in ([("1+1?", None), ("1+1?", 2)], [("1+1?", 2), ("1+1?", None)]):
        given = [row(question, answer, why=f"so {n}") for n, (question, answer) in enumerate(rows)]
        paths = files(tmp_path, train=[*many(3, why="so"), *given], test=[row("z?", 1)])
        for bad in ("refuse", "skip"):
            task = FilesTask(kind="number", **paths, dev=0, gold="optional", bad_rows=bad, columns=TAUGHT)
            splits = load_splits(task, 0)
            assert [one.answer for one in splits.train if one.question == "1+1?"] == ["2"]
            assert [one.text for one in splits.given][-2:] == ["so 0", "so 1"] and not splits.left_out


def test_gold_wins_whatever_the_id_and_the_layout(tmp_path: Path) -> None:
    ids = Columns(id="id")
    rows = [row("1+1?", None, id="a"), row("1+1?", 2, id="b"), row("2+2?", 4, id="c")]
    paths = files(tmp_path, train=rows, test=[row("z?", 1, id="t")])
    splits = load_splits(FilesTask(kind="number", **paths, dev=0, gold="optional", columns=ids), 0)
    assert [(one.id, one.answer) for one in splits.train] == [("a", "2"), ("b", "2"), ("c", "4")]
    several = Columns(id="id", rationale="why")
    rows = [row("1+1?", None, id="a", why="one"), row("1+1?", 2, id="a", why="two")]
    assert [one.answer for one in table_optional(rows, several).problems] == ["2"]
    rows = [*many(4), row("Q: how many ?", None), row("How many?", 7), row("“how many”?", None)]
    paths = files(tmp_path, train=rows)
    splits = load_splits(FilesTask(kind="number", **paths, test=2, dev=0, gold="optional"), 0)
    asked = [one.answer for one in (*splits.train, *splits.test) if "how many" in one.question.casefold()]
    assert asked == ["7"]


def table_optional(rows: Sequence[dict[str, Any]], columns: Columns) -> Table:
    placed = [(f"f:{number}", one) for number, one in enumerate(rows, 1)]
    return problems(placed, columns, "number", gold="optional")
