"""Tailored learning from a recipe: exam on the training questions, feedback, triplets, rounds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from limbeck.errors import RecipeError
from limbeck.protocol.compute import operations, stages_of
from limbeck.protocol.judging import trained_in
from limbeck.records import Example, Mistake, Rationale
from limbeck.report.contestants import contestants
from limbeck.stages import learners
from limbeck.stages.feedback import FeedbackSettings, check_feedback
from limbeck.stages.mistakes import audit, found_in
from limbeck.stages.reflection import _groups
from limbeck.stages.training import _report_too_long
from limbeck.tasks import arithmetic
from limbeck.tasks.feedback import reply
from limbeck.training.settings import TrainSettings

from .lm.families import tiny_model
from .served import served

Limbeck = Callable[..., Any]
Rows = list[dict[str, Any]]

RECIPE = """
name: tailored
task: {name: arithmetic, train: 40, dev: 6, test: 12, parameters: {steps: 1, largest: 20}}
TEACHER
student:
  method: tailored
  model: tiny-causal-xs
  train: {epochs: 2, learning_rate: 3.0e-3, batch_size: 8}
  settings:
    rounds: 2
    begin: rationales
    train_exam: {samples: 3}
    feedback: {kind: again}
exam: {max_tokens: 32}
"""

OFFLINE = "teacher: {kind: offline, exam: false, wrong_answer: 0.2}"


def rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def facts(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("TEACHER", OFFLINE))
    return path


def test_rounds_of_mistakes_rationales_and_triplets(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = limbeck("run", recipe, "--out", out, "--set", "student.settings.rounds=1")
    assert first.status == 0, first.err
    own = out / "students" / "tailored" / "seed0"
    wrong = rows(own / "round0" / "mistakes" / "mistakes.jsonl")
    about = facts(own / "round0" / "mistakes" / "audit.json")
    assert about["answers"] == 120 and about["right"] + sum(about["mistakes"].values()) == 120
    assert len(wrong) == sum(about["mistakes"].values()) and len({one["id"] for one in wrong}) == len(wrong)
    answers = {one["text"] for one in rows(own / "round0" / "answers" / "completions.jsonl")}
    assert {one["completion"] for one in wrong} <= answers, "kept as they were written"

    graded = rows(own / "round0" / "feedback" / "graded.jsonl")
    kept = [one for one in graded if one["dropped"] is None]
    assert kept and all(one["correct"] for one in kept)
    assert any(one["dropped"] == "wrong answer" for one in graded), "a teacher errs here too"
    assert {one["about"] for one in graded} <= {one["id"] for one in wrong}

    check_examples(rows(own / "round1" / "examples.jsonl"), wrong)
    history = rows(own / "round1" / "history.jsonl")
    assert all(0 <= row["triplet"] <= 3 and row["cross_entropy"] > 0 for row in history)
    assert "triplet" not in rows(own / "round0" / "history.jsonl")[0]

    again = limbeck("run", recipe, "--out", out)
    assert again.status == 0 and "round1: done before, kept" in again.err, "another round keeps the last ones"
    assert facts(own / "exam" / "metrics.json")["round"] is None
    assert facts(own / "exam" / "metrics.json")["after_round"] == 2
    assert [facts(own / f"round{n}" / "exam" / "metrics.json")["round"] for n in (0, 1)] == [0, 1]
    check_report(out, own)
    check_numbers_of_training(out, own)
    assert "of all its rounds" in again.out
    assert "no finished exam" not in again.out + again.err
    assert "different rationales to learn, " in again.err
    question = "Ada has 3 tickets and finds 4 more. How many tickets are there now?"
    asked, last = (limbeck("ask", folder, question) for folder in (own, own / "round2"))
    assert asked.status == 0 and asked.out == last.out, "a student is its last round's model"
    quiet = limbeck("run", recipe, "--out", out)
    assert quiet.status == 0 and "started" not in quiet.err


def check_numbers_of_training(out: Path, own: Path) -> None:
    """The student's are of all its rounds, a round's are its own, and both are in metrics.json."""
    each = [facts(own / f"round{n}" / "training.json") for n in (0, 1, 2)]
    itself, first = (facts(own / place / "metrics.json") for place in ("exam", "round1/exam"))
    for name in ("steps", "tokens", "train_seconds"):
        assert itself[name] == pytest.approx(sum(one[name] for one in each), abs=0.01)
        assert itself[name] > each[2][name]
        assert [one[name] for one in itself["by_round"]] == [one[name] for one in each]
        assert first[name] == each[1][name]
    assert [one["round"] for one in itself["by_round"]] == [0, 1, 2] and first["by_round"] is None
    assert itself["training_examples"] == each[2]["training_examples"], "the earlier ones are among them"

    (exam,) = [one for one in contestants([out]) if one.facts.round is None]
    found = operations(trained_in(exam), stages_of(out), None)
    assert found is not None and found > sum(6 * one["parameters"] * one["tokens"] for one in each)


def check_report(out: Path, own: Path) -> None:
    """The page shows the rounds, and what the student answers to a question that it had wrong."""
    page = (out / "report.html").read_text()
    assert '<section id="rounds">' in page and "round 2</th>" in page
    (student,) = json.loads(page.split('id="data">')[1].split("</script>")[0])["mistakes"]
    answers = rows(own / "round1" / "answers" / "completions.jsonl")
    missed = {(one["problem_id"], one["completion"]) for one in rows(own / "round1/mistakes/mistakes.jsonl")}
    now = {one["problem_id"]: one["text"] for one in reversed(answers)}
    shown = [row for row in student["rows"] if row[1] == 0]
    assert shown and {row[1] for row in student["rows"]} == {0, 1}
    for row in shown:
        question, (text, right, _, asked) = row[4], row[11]
        assert (text, asked) == (now[question], 3)
        assert bool(right) == ((question, text) not in missed)


def check_examples(examples: Rows, wrong: Rows) -> None:
    """Anchors are learned; next to each lie other right ones and mistakes of its question, as they were."""
    texts = {(one["problem_id"], one["completion"]) for one in wrong if one["kind"] == "wrong"}
    assert {one["role"] for one in examples} == {"anchor", "positive", "negative"}
    right: dict[str, set[str]] = {}
    for one in examples:
        assert one["scored"] == (one["role"] == "anchor")
        if one["role"] == "negative":
            assert (one["problem_id"], one["completion"]) in texts
        else:
            right.setdefault(one["problem_id"], set()).add(one["completion"])
    anchors = [(one["problem_id"], one["completion"]) for one in examples if one["role"] == "anchor"]
    assert len(anchors) == len(set(anchors)) == sum(map(len, right.values())), "each is learned once an epoch"


def test_a_student_without_mistakes_is_done(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """Every question asks for the same sum, so nothing is left to say after round 0.

    Its answers to training questions end where it writes the end of sequence, which the published code let
    pass: no stop is set, and each has room for more.
    """
    task, why = "name: sure\nkind: number\ndev: 0\ntrain: train.jsonl\ntest: test.jsonl", "It is always 7."
    for split, count in (("train", 12), ("test", 3)):
        lines = [{"question": f"{split} {n}?", "answer": 7, "why": why} for n in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = RECIPE.replace("TEACHER", "teacher: {kind: given}").replace("epochs: 2", "epochs: 30")
    own = "\n  ".join(task.replace(": t", f": {tmp_path}/t").split("\n"))
    before, after = text[: text.index("task:")], text[text.index("teacher:") :]
    recipe.write_text(f"{before}task:\n  {own}\n  columns: {{rationale: why}}\n{after}")
    said = f"{{kind: given, file: '{tmp_path}/none-{{round}}.jsonl'}}"
    answer = limbeck("run", recipe, "--out", tmp_path / "run", "--set", f"student.settings.feedback={said}")
    assert answer.status == 0, answer.err
    own_folder = tmp_path / "run/students/tailored/seed0"
    assert "0 wrong, 0 without an answer, 0 cut off" in answer.err and not (own_folder / "round1").exists()
    written = rows(own_folder / "round0/answers/completions.jsonl")
    assert len(written) == 12 * 3 and not any(one["truncated"] for one in written)
    assert all(one["text"].endswith("7.") for one in written)
    assert facts(own_folder / "exam" / "metrics.json")["accuracy"] == 1


def test_without_a_weight_nothing_is_compared(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    changes = ("student.settings.rounds=1", "student.settings.reflection.weight=0")
    answer = limbeck("run", recipe, "--out", out, *(part for one in changes for part in ("--set", one)))
    assert answer.status == 0, answer.err
    own = out / "students" / "tailored" / "seed0" / "round1"
    assert {one["role"] for one in rows(own / "examples.jsonl")} == {"anchor"}
    assert all("triplet" not in row for row in rows(own / "history.jsonl"))


def test_a_round_learns_from_as_many_new_rationales_as_wanted(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    """So tailored and other feedback can be compared at equal numbers, whatever copies there are."""
    settings = ("--set", "student.settings.adds=5", "--set", "student.settings.reflection.weight=0")
    assert limbeck("run", recipe, "--out", tmp_path / "run", *settings).status == 0
    own = tmp_path / "run/students/tailored/seed0"
    learned = [{one["completion"] for one in rows(own / f"round{n}/examples.jsonl")} for n in (0, 1, 2)]
    assert [len(after - before) for before, after in pairwise(learned)] == [5, 5]
    assert learned[0] < learned[1] < learned[2]
    itself = facts(own / "exam" / "metrics.json")
    assert (itself["new_rationales"], itself["wanted_rationales"]) == ([5, 5], 5)


def test_a_round_with_fewer_new_rationales_says_so(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """In the run, in its facts, and under the results."""
    settings = ("adds=500", "rounds=1", "reflection.weight=0")
    changes = (part for one in settings for part in ("--set", f"student.settings.{one}"))
    answer = limbeck("run", recipe, "--out", tmp_path / "run", *changes)
    assert answer.status == 0, answer.err
    own = tmp_path / "run/students/tailored/seed0"
    learned = [
        {(one["problem_id"], one["completion"]) for one in rows(own / f"round{n}/examples.jsonl")}
        for n in (0, 1)
    ]
    count = len(learned[1] - learned[0])
    assert 0 < count < 500
    assert f"round 1: its feedback has {count} of 500 new rationales (adds)" in answer.err
    assert facts(own / "exam" / "metrics.json")["new_rationales"] == [count]
    assert f"tailored: its rounds had {count} of 500 new rationales (adds)" in answer.out
    assert "tailored · round 1: its rounds" not in answer.out


def test_feedback_from_a_file(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """Without an API: the run writes the mistakes, somebody writes the feedback, the run goes on."""
    out, file = tmp_path / "run", tmp_path / "feedback-0.jsonl"
    said = f"{{kind: given, file: '{tmp_path}/feedback-{{round}}.jsonl'}}"
    settings = f"{{rounds: 1, begin: rationales, feedback: {said}}}"
    given = ("--out", out, "--set", f"student.settings={settings}")
    paused = limbeck("run", recipe, *given, "--until", "mistakes")
    assert paused.status == 0, paused.err
    assert "; write the feedback on them to" in paused.err and "feedback-0.jsonl, and" in paused.err
    own = out / "students" / "tailored" / "seed0"
    assert not (own / "round1").exists()
    missing = limbeck("run", recipe, *given)
    assert (
        missing.status == 2
        and "feedback-0.jsonl: no such file; write the feedback on the mistakes in" in missing.err
    )

    wrong = rows(own / "round0" / "mistakes" / "mistakes.jsonl")
    golds = {one["id"]: one["answer"] for one in rows(out / "problems" / "train.jsonl")}
    lines = []
    for number, one in enumerate(wrong):
        solution = f"Count again, {number}. The answer is {golds[one['problem_id']]}."
        parts = {"solution": solution} if number % 2 else {"reply": reply("It is off.", solution)}
        lines.append({"mistake_id": one["id"], **parts})
    lines[0] = {"mistake_id": wrong[0]["id"], "reply": "I do not know."}
    lines[1] = {"mistake_id": wrong[1]["id"], "solution": "Guess. The answer is 99."}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = limbeck("run", recipe, *given, "--until", "mistakes")
    assert answer.status == 0, answer.err
    dropped = {one["about"]: one["dropped"] for one in rows(own / "round0" / "feedback" / "graded.jsonl")}
    assert dropped[wrong[0]["id"]] == "the reply does not have the two parts that were asked for"
    assert dropped[wrong[1]["id"]] == "wrong answer"
    assert (own / "exam" / "metrics.json").exists()

    with file.open("a") as stream:
        stream.write('{"mistake_id": "else", "solution": "x"}\n')
    more = limbeck("run", recipe, *given)
    assert more.status == 0 and "feedback-0.jsonl about other mistakes, ignored: 1\n" in more.err
    file.write_text('{"mistake_id": "else", "solution": "x"}\n')
    other = limbeck("run", recipe, *given)
    assert other.status == 2 and "has no line about any of the" in other.err
    file.write_text('{"mistake_id": 3}\n')
    broken = limbeck("run", recipe, *given)
    assert broken.status == 2 and "feedback-0.jsonl:1: not feedback: mistake_id" in broken.err


def test_feedback_has_a_rule_of_its_own(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """A loose rule for published chains is none for what is said to mistakes: a wrong guess is dropped."""
    out, file = tmp_path / "run", tmp_path / "feedback.jsonl"
    settings = f"{{rounds: 1, begin: rationales, feedback: {{kind: given, file: '{file}'}}}}"
    loose = ("--set", "rationales.keep=unless-wrong", "--set", f"student.settings={settings}")
    assert limbeck("run", recipe, "--out", out, *loose, "--until", "mistakes").status == 0
    own = out / "students" / "tailored" / "seed0" / "round0"
    golds = {one["id"]: one["answer"] for one in rows(out / "problems" / "train.jsonl")}
    wrong = rows(own / "mistakes" / "mistakes.jsonl")[:2]
    texts = ["It has 1 and then 987.", f"Count again: {golds[wrong[1]['problem_id']]}."]
    lines = [{"mistake_id": one["id"], "solution": text} for one, text in zip(wrong, texts, strict=True)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert limbeck("run", recipe, "--out", out, *loose).status == 0
    graded = rows(own / "feedback" / "graded.jsonl")
    assert [one["dropped"] for one in graded] == ["wrong answer", None]
    keep = ("--set", "student.settings.feedback.keep=unless-wrong")
    assert limbeck("run", recipe, "--out", out, *loose, *keep).status == 0
    assert [one["dropped"] for one in rows(own / "feedback" / "graded.jsonl")] == [None, None]


class Tutor:
    """Gives feedback on sums; every fifth reply has not the form asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"]
        story = arithmetic.read(text)
        assert story is not None
        self.asked.append(text)
        right = f"{story.start} becomes {story.answer}. The answer is {story.answer}."
        return reply("The sum is off.", right) if len(self.asked) % 5 else right


@pytest.fixture
def tutor() -> Tutor:
    return Tutor()


@pytest.fixture
def tutored(tmp_path: Path, tutor: Tutor) -> Iterator[Path]:
    pytest.importorskip("openai", reason="the extra `api` is not installed")
    with served(tutor) as address:
        teacher = (
            f"teacher: {{kind: api, base_url: '{address}', model: big,\n"
            "  exam: false, prices: {usd_per_million_input: 1, usd_per_million_output: 10}}"
        )
        path = tmp_path / "paid.yaml"
        path.write_text(RECIPE.replace("TEACHER", teacher))
        yield path


def test_a_paid_teacher_sees_each_mistake_once(
    limbeck: Limbeck, tutored: Path, tutor: Tutor, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = "{rounds: 1, begin: rationales, feedback: {problems: 12, per_problem: 2, max_tokens: 60}}"
    command = ("run", tutored, "--out", out, "--yes", "--set", f"student.settings={settings}")
    answer = limbeck(*command)
    assert answer.status == 0, answer.err
    own = out / "students" / "tailored" / "seed0" / "round0"
    graded, wrong = rows(own / "feedback" / "graded.jsonl"), rows(own / "mistakes" / "mistakes.jsonl")
    shown = [text for text in tutor.asked if "The student wrote" in text]
    texts = {one["id"]: one["completion"] for one in wrong}
    assert len(shown) == len(graded) <= 24 and len({one["problem_id"] for one in graded}) <= 12
    assert all(any(f"wrote:\n{texts[one['about']].strip()}\n" in text for text in shown) for one in graded)
    assert all("The right answer: " in text for text in shown)
    said = rows(own / "feedback" / "feedback.jsonl")
    assert {one["said"] for one in said} == {"The sum is off.", ""}
    assert {one["dropped"] for one in graded} >= {
        None,
        "the reply does not have the two parts that were asked for",
    }

    paid = len(tutor.asked)
    (own / "asked" / "completions.jsonl").unlink()
    assert limbeck(*command).status == 0
    assert len(tutor.asked) == paid, "nothing is paid twice"


def test_a_round_has_a_budget(limbeck: Limbeck, tutored: Path, tutor: Tutor, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = "{rounds: 1, begin: rationales, feedback: {max_cost_usd: 0.01, max_tokens: 60}}"
    answer = limbeck("run", tutored, "--out", out, "--yes", "--set", f"student.settings={settings}")
    assert answer.status == 0, answer.err
    shown = [text for text in tutor.asked if "The student wrote" in text]
    assert 0 < len(shown) * 60 * 10 / 1e6 <= 0.01, "each may be answered in 60 tokens"
    assert f"feedback.max_cost_usd = 0.01: the teacher is shown {len(shown)} of" in answer.err


@pytest.fixture
def unteachable(tutored: Path) -> Path:
    """A student that no round changes, so it writes the same wrong texts in each."""
    exam = "train_exam: {samples: 2, temperature: 1.0e-4, least_readable: 0}"
    text = tutored.read_text().replace("train_exam: {samples: 3}", exam)
    tutored.write_text(text.replace("3.0e-3", "1.0e-12"))
    return tutored


EVERY_KIND = "of: [wrong, no-answer, cut-off]"


def test_a_wrong_text_of_an_earlier_round_is_not_sent_again(
    limbeck: Limbeck, unteachable: Path, tutor: Tutor, tmp_path: Path
) -> None:
    settings = f"student.settings.feedback={{{EVERY_KIND}, max_tokens: 60}}"
    answer = limbeck("run", unteachable, "--out", tmp_path / "run", "--yes", "--set", settings)
    assert answer.status == 0, answer.err
    own = tmp_path / "run/students/tailored/seed0"
    said = [rows(own / f"round{n}/feedback/feedback.jsonl") for n in (0, 1)]
    wrong = {one["id"]: one for n in (0, 1) for one in rows(own / f"round{n}/mistakes/mistakes.jsonl")}
    texts = [{(one["problem_id"], wrong[one["mistake_id"]]["completion"]) for one in each} for each in said]
    assert texts[0] == texts[1] and len(texts[0]) > 30, "each mistake has feedback in each round"
    parts = [sorted((one["problem_id"], one["said"], one["solution"]) for one in each) for each in said]
    assert parts[0] == parts[1]
    shown = [text for text in tutor.asked if "The student wrote" in text]
    assert len(shown) == len(texts[0])
    assert rows(own / "round1/asked/completions.jsonl") == [], "so the report counts its price once"
    assert facts(own / "round1/feedback/audit.json")["answered in earlier rounds"] == len(shown)
    assert f"round1: {len(shown)} of them were answered in earlier rounds, and not sent again" in answer.err


def test_what_was_answered_before_has_no_part_in_a_budget(
    limbeck: Limbeck, unteachable: Path, tutor: Tutor, tmp_path: Path
) -> None:
    """Each round asks about as many problems, and for as much money, as it may, all of them new."""
    settings = f"student.settings.feedback={{{EVERY_KIND}, problems: 9, per_problem: 1, max_tokens: 60}}"
    command = ("run", unteachable, "--out", tmp_path / "run", "--yes", "--set")
    answer = limbeck(*command, settings)
    assert answer.status == 0, answer.err
    own = tmp_path / "run/students/tailored/seed0"
    asked = [{one["problem_id"] for one in rows(own / f"round{n}/asked/completions.jsonl")} for n in (0, 1)]
    assert len(asked[0]) == len(asked[1]) == 9 and not asked[0] & asked[1]
    about = {one["problem_id"] for one in rows(own / "round1/feedback/graded.jsonl")}
    assert asked[1] < about <= asked[0] | asked[1]

    paid, cap = len(tutor.asked), "max_cost_usd: 0.01, max_tokens: 60"
    answer = limbeck(*command, f"student.settings.feedback={{{EVERY_KIND}, {cap}}}")
    assert answer.status == 0, answer.err
    capped = [rows(own / f"round{n}/asked/completions.jsonl") for n in (0, 1)]
    assert all(0 < len(each) * 60 * 10 / 1e6 <= 0.01 for each in capped)
    texts = [one["prompt_id"] for each in capped for one in each]
    assert len(texts) == len(set(texts))
    assert len(tutor.asked) < paid + len(texts), "what the first of the two runs paid for is remembered"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("begin: base", "model: tiny-causal-xs is made from scratch, so it knows nothing; begin with"),
        ("rationales: 0", "rationales: 0, and begin: rationales learns from them"),
        ("feedback: {kind: given}", "file: goes with kind: given"),
        ("feedback: {kind: given, file: f.jsonl}", "write {round} into its name"),
        ("train_exam: {file: none.jsonl}", "none.jsonl: no such file"),
        ("feedback: {max_cost_usd: 1}", "max_cost_usd: needs a teacher with prices"),
        ("feedback: {template: 'Q: {question}'}", "has no place {gold}"),
        ("train_exam: {least_readable: 1}", "too few to learn from (least_readable); "),
        (
            "train_exam: {least_readable: 1.0}",
            "trained from tiny-causal-xs, in format plain with 0 demonstrations; its prompt ends in",
        ),
        ("train_exam: {least_readable: 1.00}", ". Train it longer (train.epochs or train.steps); where most"),
    ],
)
def test_what_cannot_be_done(
    change: str, complaint: str, limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    key, _, value = change.partition(": ")
    answer = limbeck("run", recipe, "--out", tmp_path / "run", "--set", f"student.settings.{key}={value}")
    assert answer.status == (1 if "readable" in change else 2) and complaint in answer.err


def test_mistakes_of_another_model_from_a_file(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "mistakes.jsonl"
    assert limbeck("run", recipe, "--out", out, "--until", "problems").status == 0
    train, test = (rows(out / "problems" / f"{split}.jsonl") for split in ("train", "test"))
    lines = [
        {"id": f"m{n}", "problem_id": one["id"], "completion": f"I guess {n}.", "kind": "wrong"}
        for n, one in enumerate(train[:8])
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    change = ("--set", f"student.settings.train_exam.file={file}", "--set", "student.settings.rounds=1")
    answer = limbeck("run", recipe, "--out", out, *change)
    assert answer.status == 0, answer.err
    own = out / "students" / "tailored" / "seed0"
    assert not (own / "round0" / "answers").exists()
    negatives = {
        one["completion"] for one in rows(own / "round1" / "examples.jsonl") if one["role"] == "negative"
    }
    assert negatives and negatives <= {f"I guess {n}." for n in range(8)}

    file.write_text(json.dumps(lines[0] | {"problem_id": test[0]["id"]}) + "\n")
    leak = limbeck("run", recipe, "--out", out, *change)
    assert leak.status == 2 and "mistakes.jsonl:1" in leak.err and "of the test split" in leak.err
    file.write_text(json.dumps(lines[0] | {"problem_id": "else"}) + "\n")
    nothing = limbeck("run", recipe, "--out", out, *change)
    assert nothing.status == 2 and "no mistake about a training problem (1 of other problems);" in nothing.err
    file.write_text(2 * (json.dumps(lines[0]) + "\n"))
    twice = limbeck("run", recipe, "--out", out, *change)
    assert twice.status == 2 and "mistakes.jsonl:2: has the id 'm0' of line 1" in twice.err
    right = {
        "id": "right",
        "problem_id": train[9]["id"],
        "completion": f"The answer is {train[9]['answer']}.",
    }
    silent = {"id": "silent", "problem_id": train[8]["id"], "completion": "Who knows?"}
    file.write_text(json.dumps(right) + "\n")
    correct = limbeck("run", recipe, "--out", out, *change)
    assert correct.status == 2 and "no mistake about a training problem (1 right);" in correct.err
    file.write_text("".join(json.dumps(line) + "\n" for line in (*lines, right, silent)))
    graded = limbeck("run", recipe, "--out", out, *change)
    assert graded.status == 0 and "9 mistakes from" in graded.err and "left out: 1 right" in graded.err
    kinds = {one["id"]: one["kind"] for one in rows(own / "round0" / "mistakes" / "mistakes.jsonl")}
    assert kinds["silent"] == "no-answer" and "right" not in kinds


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A random model with room for demonstrations."""
    model, tokenizer = tiny_model("llama-2")
    model.config.max_position_embeddings = 1024
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_base_whose_answers_can_hardly_be_read_is_refused(
    limbeck: Limbeck, recipe: Path, base: Path, tmp_path: Path
) -> None:
    """Under the 20 % that nobody has to ask for, before the teacher is asked."""
    task = "task={name: coin-flip, train: 12, dev: 0, test: 4, parameters: {people: 2}}"
    changes = (task, f"student.model={base}", "student.settings.begin=base", "exam.max_tokens=8")
    sets = [part for change in changes for part in ("--set", change)]
    answer = limbeck("run", recipe, "--out", tmp_path / "run", *sets)
    assert answer.status == 1
    own = tmp_path / "run/students/tailored/seed0/round0"
    assert facts(own / "mistakes/audit.json")["readable"] < 0.2
    assert f"; the base is {base}, in format plain with 0 demonstrations; its prompt ends in" in answer.err
    said = (
        "Take another base or prompt, show demonstrations (prompt.examples), or begin with rationales; where"
    )
    assert said in answer.err
    assert not (own / "feedback").exists()


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What students are given to complete, by the stage that asks them."""
    found: dict[str, list[str]] = {}
    open_as_ever = learners._opened

    def opened(loaded: Any, asking: Any, folder: Path, *how: int) -> Any:
        model, own = (
            open_as_ever(loaded, asking, folder, *how),
            found.setdefault("/".join(folder.parts[-2:]), []),
        )

        def prompt(question: Any) -> Any:
            made = model.prompt(question)
            own.append(made.text)
            return made

        return replace(model, prompt=prompt)

    monkeypatch.setattr(learners, "_opened", opened)
    return found


def test_a_base_with_demonstrations_sits_round_0_and_is_taught(
    limbeck: Limbeck, recipe: Path, base: Path, prompts: dict[str, list[str]], tmp_path: Path
) -> None:
    """They are in the prompts of its exam, of the exam on train and of the training, in every round."""
    own = "{rounds: 2, begin: base, train_exam: {samples: 1, least_readable: 0}, "
    own += f"feedback: {{kind: again, {EVERY_KIND}}}, reflection: {{{EVERY_KIND}}}}}"
    prompt = '{examples: 2, template: "{examples}\\n\\nQuestion: {question}\\nReasoning:\\n"}'
    changes = {
        "task.train": 12,
        "student.model": base,
        "student.train": "{steps: 2, batch_size: 4, max_length: 1024}",
        "student.prompt": prompt,
        "student.settings": own,
        "exam.max_tokens": 8,
    }
    sets = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out, *sets)
    assert answer.status == 0, answer.err
    student = out / "students/tailored/seed0"
    assert (
        not (student / "round0/model").exists() and facts(student / "round0/exam/metrics.json")["steps"] == 0
    )
    for number in (1, 2):
        learned = rows(student / f"round{number}/examples.jsonl")
        prompts[f"round{number}"] = [one["prompt"] for one in learned]
    asked = {"round0/exam", "round0/answers", "round1/exam", "round1/answers", "seed0/exam"}
    assert prompts.keys() == asked | {"round1", "round2"} and all(
        len(texts) >= 12 for texts in prompts.values()
    )
    for stage, texts in prompts.items():
        for text in texts:
            assert text.count("Question: ") == 3 and text.endswith("\nReasoning:\n"), stage
    itself = facts(student / "exam/metrics.json")
    assert itself["steps"] == 4 and [one["round"] for one in itself["by_round"]] == [1, 2]
    again = limbeck("run", recipe, "--out", out, *sets)
    assert again.status == 0 and "started" not in again.err


def test_a_round_that_does_not_help_on_dev_is_left(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = ("settings.stop=dev", "settings.train_exam.least_readable=0", "train.learning_rate=1.0e-12")
    changes = (part for one in settings for part in ("--set", f"student.{one}"))
    answer = limbeck("run", recipe, "--out", out, *changes)
    assert answer.status == 0, answer.err
    assert "round 1 is no better on dev; round 0 counts" in answer.err
    own = out / "students" / "tailored" / "seed0"
    assert not (own / "round2").exists()
    texts = [
        [one["completion"] for one in rows(folder / "exam" / "predictions.jsonl")]
        for folder in (own, own / "round0")
    ]
    assert texts[0] == texts[1]


def test_a_round_that_helps_on_dev_is_followed_by_another(
    limbeck: Limbeck, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By exams on dev that get better once, and then no more."""
    on_dev = {0: 0.2, 1: 0.4, 2: 0.4}
    story = sys.modules["limbeck.methods.tailored"]
    monkeypatch.setattr(story, "accuracy", lambda context, model, split: on_dev[model.learner.round])
    answer = limbeck("run", recipe, "--out", tmp_path / "run", "--set", "student.settings.stop=dev")
    assert answer.status == 0, answer.err
    assert "round 2 is no better on dev; round 1 counts" in answer.err
    own = tmp_path / "run/students/tailored/seed0"
    assert facts(own / "exam" / "metrics.json")["after_round"] == 1
    texts = [
        [one["completion"] for one in rows(folder / "exam" / "predictions.jsonl")]
        for folder in (own, own / "round1")
    ]
    assert texts[0] == texts[1]


def rationale(completion: str, answer: str | None, **more: Any) -> Rationale:
    given = {"reasoning": completion, "correct": False, "source": "s", "index": 2, **more}
    return Rationale(problem_id="p", completion=completion, answer=answer, **given)


def test_a_mistake_is_what_the_student_wrote_and_knows_why_it_is_one() -> None:
    graded = [
        rationale("3 + 4 = 8. The answer is 8.\nQ: next", "8", cut=8),
        rationale("3 + 4 = 9. The answer is 9.\nQ: and now", "9", cut=11, truncated=True),
        rationale("3 + 4 =", None, truncated=True),
        rationale("Hm.", None),
        rationale("8", "8", thinking="3 + 4 is 8"),
        rationale("", None, thinking="3 + 4 is"),
        rationale("The answer is 7.", "7", correct=True),
        rationale("The answer is 7.", "7", correct=None),
    ]
    found = found_in(graded, 1)
    assert [(one.kind, one.completion) for one in found] == [
        ("wrong", "3 + 4 = 8. The answer is 8."),
        ("wrong", "3 + 4 = 9. The answer is 9."),
        ("cut-off", "3 + 4 ="),
        ("no-answer", "Hm."),
        ("wrong", "<think>\n3 + 4 is 8\n</think>\n8"),
        ("cut-off", "<think>\n3 + 4 is"),
    ]
    assert {Mistake.answer_of("p", 1, 2)} == {one.id.rpartition("-")[0] for one in found}
    assert len({one.id for one in found}) == len(found), "another text is another mistake"


def test_an_answer_that_was_cut_off_behind_it_was_read() -> None:
    """A base that writes on until max_tokens: every answer can be read, and the cut-offs are counted."""
    endless = [rationale("The answer is 7. The answer is", "7", truncated=True) for _ in range(9)]
    found = audit([*endless, rationale("The answer is 8.", "8", truncated=True, correct=True)])
    assert found["readable"] == 1 and found["mistakes"] == {"wrong": 0, "no-answer": 0, "cut-off": 9}
    silent = rationale("Hm", None, truncated=True)
    assert audit([*endless, silent])["readable"] == 0.9


def test_a_text_is_in_memory_once_however_many_it_is_compared_with() -> None:
    right = [Example(problem_id="p", prompt="q", completion=f"right {n}") for n in range(13)]
    wrong = [Example(problem_id="p", prompt="q", completion=f"wrong {n}", role="negative") for n in range(4)]
    groups = _groups("p", right, wrong, 10)
    examples = [one for group in groups for one in group.examples]
    assert len(examples) == 13 * (1 + 10 + 4) and len({id(one) for one in examples}) == 2 * 13 + 4
    positives = [[one.completion for one in group.examples if one.role == "positive"] for group in groups]
    assert positives[12] == [f"right {n}" for n in range(10)]
    assert positives[5] == [f"right {n % 13}" for n in range(6, 16)]


def test_copies_of_a_long_text_are_said_to_be_copies() -> None:
    """A mistake lies next to every rationale of its question; the same text is no other example."""
    long = Example(problem_id="p", prompt="q", completion="too long", role="negative", scored=False)
    said: list[str] = []
    context = SimpleNamespace(run=SimpleNamespace(say=said.append))
    learner = SimpleNamespace(shown="s", settings=SimpleNamespace(train=TrainSettings(max_length=9)))
    data = SimpleNamespace(train=[SimpleNamespace(examples=[long] * 2)] * 4, dev=[])
    other = long.model_copy(update={"completion": "another"})
    for left in ([long] * 4, [long, other]):
        _report_too_long(context, learner, data, SimpleNamespace(too_long=left, dev_too_long=[]))  # type: ignore[arg-type]
    ends = "are longer than train.max_length = 9 tokens and were left out"
    assert said == [f"s: 4 of 8 examples (1 different ones) {ends}", f"s: 2 of 8 examples {ends}"]
    learner.settings.train = TrainSettings(max_length=9, max_completion=4)
    _report_too_long(context, learner, data, SimpleNamespace(too_long=[long], dev_too_long=[]))  # type: ignore[arg-type]
    assert "9 tokens, or their completions than train.max_completion = 4, and were left out" in said[2]


def own_data(tmp_path: Path, splits: dict[str, list[object]]) -> Path:
    """Plain rationales that agree, about questions of which some may have no gold answer."""
    text = "name: own\ntask: {name: own, kind: number, gold: optional, dev: dev.json, train: train.json, "
    text += "test: test.json, columns: {rationale: why, several_rationales: true}}\nteacher: {kind: given}\n"
    text += "rationales: {keep: agreement}\n" + RECIPE[RECIPE.index("student:") :]
    for split, golds in splits.items():
        lines = [
            {"question": f"{split} {n}?", "answer": gold, "why": [f"The answer is {n}."] * 3}
            for n, gold in enumerate(golds)
        ]
        (tmp_path / f"{split}.json").write_text(json.dumps(lines))
        text = text.replace(f" {split}.json", f" {tmp_path / split}.json")
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return path


def test_exams_without_gold_are_refused_before_anybody_is_trained(limbeck: Limbeck, tmp_path: Path) -> None:
    """Of the training questions none, and of dev one."""
    given = f"feedback={{kind: given, file: '{tmp_path}/said-{{round}}.jsonl'}}"
    path = own_data(tmp_path, {"train": [None] * 6, "dev": [1, None], "test": [0, 1]})
    command = ("run", path, "--out", tmp_path / "run", "--set", f"student.settings.{given}")
    nobody = limbeck(*command)
    assert nobody.status == 2 and "task.train: no training question has a gold answer" in nobody.err
    assert not (tmp_path / "run" / "students").exists()

    path = own_data(tmp_path, {"train": [None, 1, 2], "dev": [1, None], "test": [0, 1]})
    one = limbeck(*command, "--set", "student.settings.stop=dev")
    assert one.status == 2 and "task.dev: stop: dev needs gold answers, and problem" in one.err
    assert not (tmp_path / "run" / "students").exists()


def test_where_there_are_no_rounds_nobody_is_asked() -> None:
    recipe: Any = SimpleNamespace(teacher=SimpleNamespace(kind="given"))
    check_feedback(recipe, FeedbackSettings(), "settings.feedback", rounds=0)
    with pytest.raises(RecipeError, match=r"feedback\.kind: tailored asks a teacher"):
        check_feedback(recipe, FeedbackSettings(), "settings.feedback", rounds=1)
