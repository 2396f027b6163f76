"""Rows and leaks as the command shows them, and leaks in what is trained on besides the training problems."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck.report.page import run_views

Limbeck = Callable[..., Any]

RECIPE = """
name: own
task: {name: own, kind: number, train: TRAIN, test: TEST, dev: 0, columns: {rationale: why}}
teacher: {kind: given}
student:
  method: METHOD
  model: tiny-causal-xs
  train: {epochs: 1}
exam: {max_tokens: 8}
"""

MISTAKES = '''
"""Trains on questions of its own."""

from pathlib import Path

from limbeck.methods import Method
from limbeck.recipe import Settings
from limbeck.records import Example, Pieces
from limbeck.stages import Data, examine, problems, singles, train


def story(context, student, settings):
    asked = Path(__file__).with_name("asked.txt").read_text().strip().split("\\n")
    examples = [
        Example(problem_id=f"m{n}", prompt=Pieces(question=question), completion="It is 5. The answer is 5.")
        for n, question in enumerate(asked)
    ]
    dev = examples[: settings.dev]
    data = Data(train=singles(examples[settings.dev :]), dev=singles(dev), inputs=problems(context).inputs)
    examine(context, train(context, student, data))


class Own(Settings):
    dev: int = 0


METHOD = Method("its own questions", "none", Own, story)
'''


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def asks(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "question": f"What is {n} + 1?",
            "answer": n + 1,
            "why": f"{n} + 1 = {n + 1}. The answer is {n + 1}.",
        }
        for n in range(start, start + count)
    ]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    train, test = lines(tmp_path / "train.jsonl", asks(12)), lines(tmp_path / "test.jsonl", asks(3, 50))
    text = RECIPE.replace("TRAIN", str(train)).replace("TEST", str(test)).replace("METHOD", "finetune-cot")
    (tmp_path / "own.yaml").write_text(text)
    (tmp_path / "mine.py").write_text(MISTAKES)
    return tmp_path / "own.yaml"


def test_wrong_rows_are_shown_a_line_each(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    train = lines(
        tmp_path / "train.jsonl", [*asks(3), *({"question": f"{n}?", "answer": "x"} for n in range(30))]
    )
    answer = limbeck("run", recipe, "--out", tmp_path / "run")
    assert answer.status == 2 and not (tmp_path / "run/problems").exists()
    first, *rows = answer.err.strip().split("\n")[-22:]
    assert first == f"limbeck: {train}: 30 rows cannot be used; fix them, or set task.bad_rows to skip:"
    assert rows[0].startswith(f"  {train}:4: the answer 'x' does not suit the kind number")
    assert rows[20] == "  and 10 more"


def test_skipped_rows_lie_in_the_run_folder(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", [*asks(6), {"question": "What?", "answer": "x", "why": ""}])
    out = tmp_path / "run"
    skip = ("--set", "task.bad_rows=skip", "--until", "problems")
    answer = limbeck("run", recipe, "--out", out, *skip)
    assert answer.status == 0 and "train: rows left out: 1" in answer.err
    (row,) = (json.loads(line) for line in (out / "problems/left-out.jsonl").read_text().splitlines())
    assert row["split"] == "train" and row["place"].endswith("train.jsonl:7") and "'x'" in row["why"]
    assert len((out / "problems/train.jsonl").read_text().splitlines()) == 6


def test_an_audit_says_what_was_left_out(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", [*asks(6), {"question": "What?", "answer": "x", "why": ""}])
    wrong = [{"question": f"Who is {n}?", "completion": "5"} for n in range(25)]
    named = [{"question": one["question"], "completion": one["why"]} for one in asks(6)]
    file, out = lines(tmp_path / "given.jsonl", [*named, *wrong]), tmp_path / "graded.jsonl"
    skip = ("--task", recipe, "--set", "task.bad_rows=skip")
    summary = json.loads(limbeck("grade", file, *skip, "--json").out)
    assert (summary["rationales"], summary["rows left out"]) == (6, 26)
    assert "--out FILE" in summary["rows left out, listed in"] and not out.exists()
    first, second, *others = summary["rows left out, named"]
    assert len(others) == 18 and first["place"].endswith("train.jsonl:7") and "'x'" in first["why"]
    assert second["place"].endswith("given.jsonl:7") and "asks 'Who is 0?'" in second["why"]
    answer = limbeck("grade", file, *skip, "--out", out)
    assert answer.status == 0 and "rows left out" in answer.out and "graded.left-out.jsonl" in answer.out
    listed = [json.loads(one) for one in (tmp_path / "graded.left-out.jsonl").read_text().splitlines()]
    assert [one["split"] for one in listed] == ["train", *["rationales"] * 25]

    run = tmp_path / "run"
    given = (*skip[2:], "--set", f"teacher.file={file}")
    assert limbeck("run", recipe, "--out", run, *given).status == 0
    audit = json.loads((run / "rationales/audit.json").read_text())
    assert (audit["rows left out"], audit["rows left out, listed in"]) == (25, "rationales/left-out.jsonl")
    (view,) = run_views([run])
    rows = {block.title: block.rows for block in view.audit}
    assert ("rows left out", "25") in rows[""] and len(rows["rows left out, named"]) == 20
    assert rows["rows of the data left out"] == [("train", "1"), ("listed in", "problems/left-out.jsonl")]


def test_an_audit_of_rows_that_are_all_used_says_nothing(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert limbeck("run", recipe, "--out", out, "--until", "rationales").status == 0
    assert not any("left out" in key for key in json.loads((out / "rationales/audit.json").read_text()))


def test_collect_asks_for_no_method(limbeck: Limbeck, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    for student in ("", "student: {model: tiny-causal}", "student: {model: t}\nstudents: {a: {}, b: {}}"):
        recipe.write_text(f"name: x\ntask: {{name: arithmetic, train: 5, dev: 1, test: 2}}\n{student}\n")
        answer = limbeck("collect", recipe, "--out", tmp_path / f"run{len(student)}")
        assert answer.status == 0, answer.err
        assert len((tmp_path / f"run{len(student)}/rationales/graded.jsonl").read_text().splitlines()) == 5
        assert limbeck("run", recipe, "--out", tmp_path / "no").status == 2
        graded = tmp_path / f"run{len(student)}/rationales/graded.jsonl"
        assert limbeck("grade", graded, "--task", recipe).status == 0


def test_a_method_of_ones_own_does_not_train_on_the_exam(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    layout = "Q: what is 51 + 1 ?"
    method = ("--set", "student.method=./mine.py")
    (tmp_path / "asked.txt").write_text("What is 2 + 3?\n" + layout + "\n")
    refused = limbeck("run", recipe, "--out", tmp_path / "a", *method)
    assert refused.status == 2 and "is trained on a question of the exam" in refused.err
    assert "(shared questions: 1)" in refused.err and "task.leaks" in refused.err
    dropped = limbeck("run", recipe, "--out", tmp_path / "b", *method, "--set", "task.leaks=drop")
    assert dropped.status == 0
    assert "mine (seed 0) is trained on questions of the exam, left out: 1 (task.leaks: drop)" in dropped.err
    trained = (tmp_path / "b/students/mine/seed0/examples.jsonl").read_text()
    assert "2 + 3" in trained and "51 + 1" not in trained
    kept = limbeck("run", recipe, "--out", tmp_path / "c", *method, "--set", "task.leaks=keep")
    assert kept.status == 0 and "51 + 1" in (tmp_path / "c/students/mine/seed0/examples.jsonl").read_text()
    (tmp_path / "asked.txt").write_text(layout + "\n")
    nothing = limbeck("run", recipe, "--out", tmp_path / "d", *method, "--set", "task.leaks=drop")
    assert nothing.status == 2 and "every question that it is trained on is one of the exam" in nothing.err


def test_what_a_checkpoint_is_chosen_by_is_no_question_of_the_exam(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    method = ("--set", "student.method=./mine.py", "--set", "student.settings.dev=2")
    method += ("--set", "student.train.choose=dev-loss", "--set", "task.dev=2")
    (tmp_path / "asked.txt").write_text("Q: what is 51 + 1 ?\nWhat is 8 + 9?\nWhat is 2 + 3?\n")
    refused = limbeck("run", recipe, "--out", tmp_path / "a", *method)
    assert refused.status == 2 and "takes its dev loss from a question of the exam" in refused.err
    dropped = limbeck("run", recipe, "--out", tmp_path / "b", *method, "--set", "task.leaks=drop")
    assert dropped.status == 0, dropped.err
    says = "mine (seed 0) takes its dev loss from questions of the exam, left out: 1 (task.leaks: drop)"
    assert says in dropped.err
    (tmp_path / "asked.txt").write_text("What is 51+1?\nWhat is 52+1?\nWhat is 2 + 3?\n")
    nothing = limbeck("run", recipe, "--out", tmp_path / "c", *method, "--set", "task.leaks=drop")
    assert (
        nothing.status == 2
        and "every question that it takes its dev loss from is one of the exam" in nothing.err
    )


def test_a_rationale_that_asks_a_question_of_the_exam(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    given = ("--set", "teacher.file=" + str(tmp_path / "given.jsonl"), "--until", "problems")
    named = [{"question": one["question"], "completion": one["why"]} for one in asks(12)]
    lines(tmp_path / "given.jsonl", [*named, {"question": "What is 50 + 1?", "completion": "51"}])
    answer = limbeck("run", recipe, "--out", tmp_path / "run", *given[:2], "--until", "rationales")
    assert answer.status == 0, answer.err
    assert "rationales of problems of the exam, left out: 1 of 13" in answer.err
    assert len((tmp_path / "run/rationales/graded.jsonl").read_text().splitlines()) == 12
    own = json.loads((tmp_path / "run/problems/train.jsonl").read_text().split("\n")[0])["id"]
    lines(
        tmp_path / "given.jsonl",
        [*named, {"problem_id": own, "question": "Q: what is 50+1 ?", "completion": "51"}],
    )
    answer = limbeck("run", recipe, "--out", tmp_path / "run", *given[:2], "--until", "rationales")
    assert answer.status == 2 and "given.jsonl:13: names the problem" in answer.err
    assert "its question is one of the exam (such rows: 1)" in answer.err
    lines(tmp_path / "given.jsonl", [*named, {"question": "a", "completion": "b"}, {"completion": "c"}])
    answer = limbeck("run", recipe, "--out", tmp_path / "run", *given[:2], "--until", "rationales")
    assert answer.status == 2 and "2 rows cannot be used" in answer.err and "given.jsonl:14" in answer.err
    skip = ("--set", "task.bad_rows=skip")
    answer = limbeck("run", recipe, "--out", tmp_path / "run", *given[:2], *skip, "--until", "rationales")
    assert answer.status == 0 and "given.jsonl: rows left out: 2" in answer.err
    listed = (tmp_path / "run/rationales/left-out.jsonl").read_text().splitlines()
    assert [json.loads(one)["place"][-2:] for one in listed] == ["13", "14"]


def test_an_exam_of_what_a_student_learned_is_said_to_be_one(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert limbeck("run", recipe, "--out", out).status == 0
    lines(tmp_path / "test.jsonl", [*asks(2, 50), {"question": "Q: what is 3+1 ?", "answer": 4}])
    task = ("--task", recipe, "--set", "task.leaks=keep")
    answer = limbeck("evaluate", out / "students/finetune-cot/seed0", *task, "--out", tmp_path / "exam")
    assert answer.status == 0 and "1 of 3 questions are among those of its run's training" in answer.err
    lines(tmp_path / "test.jsonl", asks(2, 50))
    answer = limbeck("evaluate", out / "students/finetune-cot/seed0", *task, "--out", tmp_path / "exam2")
    assert answer.status == 0 and "training" not in answer.err


def plums(numbers: Sequence[int], split: str = "") -> list[dict[str, Any]]:
    return [
        {
            "id": f"{split}{n}",
            "question": f"Ann picks {n} plums and eats one. How many are left?",
            "answer": n - 1,
        }
        for n in numbers
    ]


@pytest.mark.parametrize("named", ["problem_id", "question"])
def test_rationales_of_a_question_in_another_layout_are_those_of_its_problem(
    limbeck: Limbeck, tmp_path: Path, named: str
) -> None:
    rows = plums(range(3, 11))
    rows.append({"id": "again", "question": f"Q: {rows[0]['question'][:-1]} ?", "answer": 2})
    lines(tmp_path / "train.jsonl", rows)
    key = "id" if named == "problem_id" else "question"
    texts = [{named: one[key], "completion": f"One less. The answer is {one['answer']}."} for one in rows]
    file = lines(tmp_path / "rationales.jsonl", texts)
    recipe = tmp_path / "recipe.yaml"
    task = f"{{name: own, kind: number, train: {tmp_path}/train.jsonl, test: 2, dev: 0, columns: {{id: id}}}}"
    recipe.write_text(
        f"name: own\ntask: {task}\nteacher: {{kind: given, file: {file}}}\n"
        "student: {method: finetune-cot, model: tiny-causal-xs}\n"
    )
    result = limbeck("grade", file, "--task", recipe, "--json")
    audit = json.loads(result.out)
    assert (audit["problems"], audit["correct"], audit["correct per problem"]) == (8, 9, {"1": 7, "2": 1})
    limbeck("run", recipe, "--out", tmp_path / "run", "--until", "rationales")
    graded = (tmp_path / "run/rationales/graded.jsonl").read_text().splitlines()
    examined = (tmp_path / "run/problems/test.jsonl").read_text()
    assert len(graded) == (6 if '"id":"3"' in examined else 7)  # both of its rows are examined, or trained on


def test_rationales_of_dropped_leaks_are_those_of_the_exam(limbeck: Limbeck, tmp_path: Path) -> None:
    train, test = plums(range(3, 9)), plums(range(7, 11), "t")
    lines(tmp_path / "train.jsonl", train)
    lines(tmp_path / "test.jsonl", test)
    texts = [{"problem_id": one["id"], "completion": f"The answer is {one['answer']}."} for one in train]
    file = lines(tmp_path / "rationales.jsonl", [{**one, "thinking": "One less."} for one in texts])
    recipe = tmp_path / "recipe.yaml"
    paths = f"train: {tmp_path}/train.jsonl, test: {tmp_path}/test.jsonl"
    recipe.write_text(
        f"name: own\ntask: {{name: own, kind: number, {paths}, dev: 0, leaks: drop, columns: {{id: id}}}}\n"
        f"teacher: {{kind: given, file: {file}}}\n"
        "student: {method: finetune-cot, model: tiny-causal-xs}\n"
    )
    result = limbeck("run", recipe, "--out", tmp_path / "run", "--until", "rationales")
    assert "rationales of problems of the exam, left out: 2 of 6" in result.err
    graded = (tmp_path / "run/rationales/graded.jsonl").read_text().splitlines()
    assert [json.loads(one)["problem_id"] for one in graded] == ["3", "4", "5", "6"]
