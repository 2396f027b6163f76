"""`exam.also`: everybody sits the exams of other tasks too, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import DataError
from limbeck.methods import resolve_methods
from limbeck.protocol.written import open_protocol
from limbeck.recipe import load_recipe
from limbeck.report.contestants import other_exams

from .lm.reasoning import Said, thinking_server

Limbeck = Callable[..., Any]

RECIPE = """
name: own
task: {name: sums, kind: number, train: train.jsonl, test: test.jsonl, dev: 0, columns: {rationale: why}}
teacher: {kind: given}
mentor: {model: tiny-causal-xs, rationales: 1, keep: all, writes: {per_problem: 1, max_tokens: 8}}
student: {model: tiny-causal-xs, train: {epochs: 1}}
students:
  cot: {method: finetune-cot}
exam: {max_tokens: 8}
"""

ALSO = """[{name: colours, kind: label, labels: [red, blue], test: colours.jsonl},
  {name: coin-flip, called: coins, test: 5, parameters: {people: 2}}]"""

MINE = '''
"""Trains on questions of its own."""

from pathlib import Path

from limbeck.methods import Method
from limbeck.recipe import Settings
from limbeck.records import Example, Pieces
from limbeck.stages import Data, examine, problems, singles, train


def story(context, student, settings):
    asked = Path(__file__).with_name("asked.txt").read_text().strip().split("\\n")
    examples = [
        Example(problem_id=f"m{n}", prompt=Pieces(question=one), completion="The answer is red.")
        for n, one in enumerate(asked)
    ]
    data = Data(train=singles(examples), dev=[], inputs=problems(context).inputs)
    examine(context, train(context, student, data))


class Own(Settings):
    pass


METHOD = Method("its own questions", "none", Own, story)
'''


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def sums(numbers: range) -> list[dict[str, Any]]:
    return [
        {"question": f"What is {n} + 1?", "answer": n + 1, "why": f"One more. The answer is {n + 1}."}
        for n in numbers
    ]


def colours(*things: str) -> list[dict[str, Any]]:
    return [{"question": f"Which colour has the {one}?", "answer": "red"} for one in things]


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in path.read_text(encoding="utf-8").splitlines()]


def metrics(exam: Path) -> dict[str, Any]:
    found = json.loads((exam / "metrics.json").read_text())
    assert isinstance(found, dict)
    return found


def marks(run: Path) -> dict[str, str]:
    """The fingerprint of every stage in use that is not about another task."""
    found = {path.parent.relative_to(run): json.loads(path.read_text()) for path in run.rglob("stage.json")}
    own = {name: one for name, one in found.items() if name.parts[0] not in ("old", "also")}
    return {str(name): one["fingerprint"] for name, one in own.items() if not name.name.startswith("exam-")}


def done_now(said: str) -> list[str]:
    """The stages that a command ran."""
    return [line.removesuffix(": started") for line in said.splitlines() if line.endswith(": started")]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "train.jsonl", sums(range(12)))
    lines(tmp_path / "test.jsonl", sums(range(50, 53)))
    lines(tmp_path / "colours.jsonl", colours("fire", "rose", "brick", "sunset"))
    (tmp_path / "own.yaml").write_text(RECIPE)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "own.yaml"


def also(entries: str) -> tuple[str, str]:
    return ("--set", f"exam.also={entries}")


def test_everybody_sits_them_and_they_are_tables_of_their_own(limbeck: Limbeck, recipe: Path) -> None:
    settings = "{mentor_rationales: 0, teacher_rationales: 1, kl_weight: 0}"
    kd = f"students.kd={{method: mentor-kd, settings: {settings}}}"
    others = ("--set", "students.answers={method: answers-only}", "--set", "students.cot.seeds=[0, 1]")
    ran = limbeck("run", recipe, *also(ALSO), *others, "--set", kd)
    assert ran.status == 0, ran.err
    run = recipe.parent / "runs/own"
    learners = ["students/cot/seed0", "students/cot/seed1", "students/answers/seed0"]
    for folder in (*learners, "students/kd/seed0", "mentors/mentor"):
        about = metrics(run / folder / "exam-colours")
        assert (about["task"], about["kind"], about["also"], about["problems"]) == (
            "colours",
            "label",
            True,
            4,
        )
        about = metrics(run / folder / "exam-coins")
        assert (about["task"], about["kind"], about["split"], about["problems"]) == (
            "coins",
            "yes-no",
            "test",
            5,
        )
        own = metrics(run / folder / "exam")
        assert (own["task"], own["kind"], own["also"], own["problems"]) == ("sums", "number", False, 3)
        asked = {one["question"] for one in records(run / folder / "exam-colours/predictions.jsonl")}
        assert asked == {one["question"] for one in colours("fire", "rose", "brick", "sunset")}

    titles = ["Exam of 3 problems", "Exam of 4 problems of colours", "Exam of 5 problems of coins"]
    places = [ran.out.index(f"{title} ") for title in titles]
    assert places == sorted(places) and "Paired comparison on colours" in ran.out
    found = json.loads(limbeck("compare", run, "--json").out)
    names = ["mentor", "cot", "cot seed 0", "cot seed 1", "answers", "kd"]
    assert [(one["name"], one["problems"]) for one in found["results"]] == [(name, 3) for name in names]
    assert list(found["also"]) == ["colours", "coins"]
    coins = found["also"]["coins"]
    assert [(one["name"], one["problems"]) for one in coins["results"]] == [(name, 5) for name in names]
    assert {one["problems"] for one in coins["pairs"]} == {5} and len(coins["pairs"]) == 3
    assert coins["pairs"][0]["p_holm"] is not None, "corrected for the three pairs of this exam"
    base = json.loads(limbeck("compare", run, "--json", "--baseline", "answers").out)
    assert {one["a"] for one in base["also"]["coins"]["pairs"]} == {"answers"}
    page = (run / "report.html").read_text()
    assert 'id="also"' in page and titles[1] in page and "Which colour" not in page


def test_they_come_and_go_without_anything_being_done_again(limbeck: Limbeck, recipe: Path) -> None:
    run = recipe.parent / "runs/own"
    assert limbeck("run", recipe).status == 0
    before = marks(run)
    assert not (run / "also").exists() and not list(run.rglob("exam-*"))
    more = limbeck("run", recipe, *also("[{name: coin-flip, test: 5}]"))
    assert more.status == 0, more.err
    exam = "students/cot/seed0/exam-coin-flip"
    assert done_now(more.err) == ["also/coin-flip", exam]
    two = limbeck(
        "run", recipe, *also("[{name: colours, kind: text, test: colours.jsonl}, {name: coin-flip, test: 5}]")
    )
    assert done_now(two.err) == ["also/colours", "students/cot/seed0/exam-colours"]
    smaller = limbeck("run", recipe, *also("[{name: coin-flip, test: 4}]"))
    assert done_now(smaller.err) == ["also/coin-flip", exam]
    assert "cot seed 0: the exam of colours is no longer in the recipe" in smaller.out
    assert "problems of colours" not in smaller.out
    gone = limbeck("run", recipe)
    assert done_now(gone.err) == [] and "problems of" not in gone.out and other_exams([run]) == []
    assert before == marks(run)


def test_one_that_is_lost_is_sat_again_alone(limbeck: Limbeck, recipe: Path) -> None:
    run = recipe.parent / "runs/own"
    assert limbeck("run", recipe, *also(ALSO)).status == 0
    lost = run / "students/cot/seed0/exam-colours"
    former = (lost / "predictions.jsonl").read_text()
    (lost / "predictions.jsonl").unlink()
    missing = limbeck("compare", run)
    assert "cot seed 0 has no finished exam of colours" in missing.out
    again = limbeck("run", recipe, *also(ALSO))
    assert done_now(again.err) == ["students/cot/seed0/exam-colours"]
    assert (lost / "predictions.jsonl").read_text() == former
    named = limbeck("run", recipe, *also(ALSO), "--again", "students/cot/seed0/exam-coins")
    assert done_now(named.err) == ["students/cot/seed0/exam-coins"]


def test_a_task_of_another_recipe_can_be_copied(limbeck: Limbeck, recipe: Path) -> None:
    """Train, dev, gold, leaks and rationales of a `task:` say nothing about its test split."""
    folder = recipe.parent
    lines(folder / "one.jsonl", [{**one, "why": ""} for one in sums(range(70, 90))])
    lines(folder / "many.jsonl", sums(range(100, 104)))
    copied = """[{name: cut, kind: number, train: one.jsonl, test: 5, dev: 0.2, gold: optional, leaks: drop,
        columns: {rationale: why}}, {name: whole, kind: number, train: nowhere.jsonl, dev: nowhere.jsonl,
        test: many.jsonl, leaks: keep}, coin-flip, {name: last-letters, train: 9, dev: 3, test: 2}]"""
    ran = limbeck("run", recipe, *also(copied), "--until", "also")
    assert ran.status == 0, ran.err
    run = folder / "runs/own"
    found = {name: records(run / "also" / name / "test.jsonl") for name in ("cut", "whole", "coin-flip")}
    assert [len(one) for one in found.values()] == [5, 4, 500]
    assert len(records(run / "also/last-letters/test.jsonl")) == 2
    (folder / "again.yaml").write_text(load_recipe(recipe, [f"exam.also={copied}"]).to_yaml())
    again = limbeck("run", folder / "again.yaml", "--until", "also")
    assert again.status == 0 and done_now(again.err) == []


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ("[coin-flip, {name: coin-flip, test: 3}]", "two other tasks are called coin-flip; give one another"),
        ("[{name: a, kind: text, test: x}, {name: A, kind: text, test: x}]", "two other tasks are called A"),
        ("[{name: Sums, kind: number, test: x}]", "exam.also: Sums is the name of the task itself"),
        ("[{name: a, kind: number, test: nowhere.jsonl}]", "nowhere.jsonl: there is no such file"),
        ("[{name: a, kind: number, test: empty.jsonl}]", "empty.jsonl: holds no records"),
        ("[{name: a, kind: number, test: bad.jsonl, bad_rows: skip}]", "bad.jsonl:1: the answer 'x'"),
        ("[{name: a, kind: number, test: 0.2}]", "test: 0.2 is cut from train, which is missing"),
        ("[{name: a, kind: number}]", "exam.also.0.test: this setting is needed"),
        ("[{kind: number, test: bad.jsonl}]", "exam.also.0.name: this setting is needed"),
        ("[{name: ../a, kind: number, test: bad.jsonl}]", "exam.also.0.name:"),
        ("[no-such-task]", "exam.also.0.name: there is no such task"),
        ("[{name: coin-flip, parameters: {people: 1}}]", "exam.also, coin-flip: task.test: only about"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_exam_is_refused_before_the_first_stage(
    limbeck: Limbeck, recipe: Path, entries: str, complaint: str
) -> None:
    (recipe.parent / "empty.jsonl").write_text("")
    lines(recipe.parent / "bad.jsonl", [{"question": "What?", "answer": "x"}])
    refused = limbeck("run", recipe, *also(entries))
    assert refused.status == 2 and complaint in refused.err, refused.err
    assert len(refused.err.strip().splitlines()) == 1 and not (recipe.parent / "runs/own/problems").exists()


def test_a_question_that_is_trained_on_is_no_question_of_another_exam(limbeck: Limbeck, recipe: Path) -> None:
    folder, run = recipe.parent, recipe.parent / "runs/own"
    assert limbeck("run", recipe).status == 0
    trained = marks(run)
    layout = {"question": "Q: what is 3+1 ?", "answer": 4}
    lines(folder / "more.jsonl", [*sums(range(60, 63)), layout, {**layout, "question": "what is 3 + 1"}])
    other = also("[{name: more, kind: number, test: more.jsonl}]")
    refused = limbeck("run", recipe, *other)
    assert refused.status == 2 and "more.jsonl:4: this question of more is in train too" in refused.err
    assert (
        "problems/train.jsonl:4 of the run (shared questions: 2, 2 of them in another layout)" in refused.err
    )
    assert "task.leaks" in refused.err and not (run / "also").exists()

    assert limbeck("run", recipe, "--set", "task.leaks=drop").status == 0
    trained = marks(run)
    dropped = limbeck("run", recipe, *other, "--set", "task.leaks=drop")
    assert dropped.status == 0, dropped.err
    assert "more: questions that are trained on too, left out of this exam: 2" in dropped.err
    assert [one["place"][-12:] for one in records(run / "also/more/left-out.jsonl")] == [
        "more.jsonl:4",
        "more.jsonl:5",
    ]
    assert metrics(run / "students/cot/seed0/exam-more")["problems"] == 3
    assert trained == marks(run), "the training does not depend on what else is examined"
    assert "rows of the data of more left out" in (run / "report.html").read_text()
    kept = limbeck("run", recipe, *other, "--set", "task.leaks=keep")
    assert metrics(run / "students/cot/seed0/exam-more")["problems"] == 5 and "kept: 2" in kept.err
    lines(folder / "more.jsonl", [layout])
    nothing = limbeck("run", recipe, *other, "--set", "task.leaks=drop")
    assert nothing.status == 2 and "every question of this exam is trained on too" in nothing.err


def test_nor_one_that_a_method_brings_itself(limbeck: Limbeck, recipe: Path) -> None:
    """Before the training, and where a training is older than the exam."""
    folder = recipe.parent
    (folder / "asked.txt").write_text("What is 2 + 3?\nWhich colour has the  ROSE ?\n")
    method = ("--set", "students={mine: {method: ./mine.py}}")
    other = also("[{name: colours, kind: text, test: colours.jsonl}]")
    early = limbeck("run", recipe, *method, *other, "--out", folder / "early")
    assert early.status == 2 and "is trained on a question of the exam of colours" in early.err
    assert not (folder / "early/students/mine/seed0/model").exists()

    assert limbeck("run", recipe, *method).status == 0
    late = limbeck("run", recipe, *method, *other)
    assert late.status == 2, late.err
    assert "mine (seed 0): was trained on a question of the exam of colours (shared questions: 1)" in late.err
    drop = ("--set", "task.leaks=drop")
    assert limbeck("run", recipe, *method, *drop).status == 0
    trained = marks(folder / "runs/own")
    dropped = limbeck("run", recipe, *method, *other, *drop)
    assert dropped.status == 0 and "that it was trained on, left out of it: 1" in dropped.err
    assert metrics(folder / "runs/own/students/mine/seed0/exam-colours")["problems"] == 3
    assert trained == marks(folder / "runs/own")
    kept = limbeck("run", recipe, *method, *other, "--set", "task.leaks=keep")
    assert kept.status == 0
    assert metrics(folder / "runs/own/students/mine/seed0/exam-colours")["problems"] == 4


def test_nor_a_demonstration_nor_a_rationales_question(limbeck: Limbeck, recipe: Path) -> None:
    folder = recipe.parent
    (folder / "shots.txt").write_text("Q: Which colour has the rose?\nA: The answer is red.\n")
    other = also("[{name: colours, kind: text, test: colours.jsonl}]")
    shown = ("--set", "student.prompt.examples=shots.txt", "--set", "task.kind=text")
    assert limbeck("run", recipe, *shown, "--until", "problems").status == 0
    refused = limbeck("run", recipe, *shown, *other, "--until", "problems")
    assert refused.status == 0, "it ends before"
    refused = limbeck("run", recipe, *shown, *other)
    assert refused.status == 2 and "a demonstration is a problem of the exam" in refused.err

    own = records(folder / "runs/own/problems/train.jsonl")[0]["id"]
    stated = {"problem_id": own, "question": "which colour has the brick", "completion": "The answer is 1."}
    lines(folder / "given.jsonl", [stated])
    refused = limbeck("run", recipe, *other, "--set", "teacher.file=given.jsonl")
    assert refused.status == 2 and "its question is one of the exam of colours" in refused.err


def test_a_teacher_that_can_be_asked_sits_them_by_their_own_instruction(
    limbeck: Limbeck, recipe: Path
) -> None:
    pytest.importorskip("openai", reason="the extra `api` is not installed")

    def says(question: str) -> Said:
        return Said("", "The answer is red." if "colour" in question else "The answer is 51.")

    with thinking_server("tags", says) as server:
        teacher = f"teacher={{kind: api, base_url: '{server.url}', model: big, prices: "
        teacher += "{usd_per_million_input: 1, usd_per_million_output: 1}}"
        command = ("run", recipe, "--set", teacher, "--yes", "--until", "teacher", *also(ALSO))
        ran = limbeck(*command)
        assert ran.status == 0, ran.err
        exam = recipe.parent / "runs/own/teacher"
        about = metrics(exam / "exam-colours")
        assert (about["accuracy"], about["role"], about["kind"]) == (1.0, "teacher", "label")
        assert about["also"] and metrics(exam / "exam-coins")["extraction_failed"] == 5
        asked = [one["messages"][-1]["content"] for one in server.asked]
        of_colours = [one for one in asked if "colour" in one]
        assert len(of_colours) == 4 and all("red" in one and "blue" in one for one in of_colours)
        assert not any("blue" in one for one in asked if "What is" in one)
        assert limbeck(*command).status == 0 and len(server.asked) == 12, "nothing is asked twice"


def test_a_protocol_fixes_the_data_of_other_exams(recipe: Path) -> None:
    compare = "{problem_draws: 1, mentors: 1, students: 3, processes: 1, compare: [[answers, cot]]}"
    wanted = ["exam.also=[{name: colours, kind: text, test: colours.jsonl}]", f"claims={compare}"]
    wanted += ["students.answers={method: answers-only}"]
    loaded, chosen = resolve_methods(load_recipe(recipe, wanted), "own.yaml")
    made = open_protocol(recipe.parent / "claims", loaded, "own.yaml", chosen)
    assert open_protocol(recipe.parent / "claims", loaded, "own.yaml", chosen).digest == made.digest
    assert made.runs[0].recipe.exam.also == loaded.exam.also
    lines(recipe.parent / "colours.jsonl", colours("sky"))
    with pytest.raises(DataError, match=r"the data exam\.also\.colours\.test changed since"):
        open_protocol(recipe.parent / "claims", loaded, "own.yaml", chosen)
    (recipe.parent / "colours.jsonl").unlink()
    with pytest.raises(DataError, match="there is no such file"):
        open_protocol(recipe.parent / "new", loaded, "own.yaml", chosen)
    assert not (recipe.parent / "new/protocol.json").exists()
