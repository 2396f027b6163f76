"""The whole run, for real and in small: every stage, both architectures, killed and resumed."""

import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.campaigns.small_run import results

Limbeck = Callable[..., object]

SMALL = """
name: small
task: {name: last-letters, train: 48, dev: 12, test: 20, parameters: {words: 2}}
teacher: {kind: offline, wrong_answer: 0.2, wrong_step: 0.1}
rationales: {per_problem: 2}
student:
  model: tiny-causal-xs
  train: {learning_rate: 1.0e-3, batch_size: 16, epochs: 2}
students:
  answers-only: {method: answers-only}
  cot: {method: finetune-cot, settings: {rationales: 2}}
exam: {max_tokens: 24}
"""
TRAINING = re.compile(r"\S+ students/[\w-]+/seed\d+: (started|going on where it stopped)")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("model", ["tiny-causal-xs", "tiny-seq2seq-xs"])
def test_from_a_recipe_to_an_examined_student(
    limbeck: Limbeck, recipe: Path, tmp_path: Path, model: str
) -> None:
    out = tmp_path / "run"
    answer = limbeck(
        "run", recipe, "--out", out, "--set", f"student.model={model}", "--set", "student.seeds=[0,1]"
    )
    assert answer.status == 0, answer.err
    assert all(name in answer.out for name in ("answers-only", "cot", "teacher", "report.html"))
    for student in ("answers-only", "cot"):
        for seed in ("seed0", "seed1"):
            exam = out / "students" / student / seed / "exam"
            metrics = json.loads((exam / "metrics.json").read_text())
            predictions = [
                json.loads(line) for line in (exam / "predictions.jsonl").read_text().split("\n") if line
            ]
            assert metrics["problems"] == len(predictions) == 20
            assert metrics["correct"] == sum(p["correct"] for p in predictions)
            assert metrics["extraction_failed"] == sum(p["answer"] is None for p in predictions)
    audit = json.loads((out / "rationales" / "audit.json").read_text())
    assert audit["rationales"] == 96 and 0 < audit["dropped"]["wrong answer"] < 48
    about = json.loads((out / "run.json").read_text())
    assert about["recipe"] == "small" and about["versions"]["torch"]
    assert "cot" in (out / "report.html").read_text()

    before = results(out)
    again = limbeck(
        "run", recipe, "--out", out, "--set", f"student.model={model}", "--set", "student.seeds=[0,1]"
    )
    assert again.status == 0 and "started" not in again.err, "a finished run has nothing to do"
    assert results(out) == before

    student = out / "students" / "cot" / "seed0"
    asked = limbeck("ask", student, "Take the last letters of the words and join them.", "--max-tokens", "5")
    assert asked.status == 0
    exam = limbeck("evaluate", student, "--task", recipe, "--out", tmp_path / "exam")
    assert exam.status == 0, exam.err
    same = (tmp_path / "exam" / "predictions.jsonl").read_bytes() == (
        student / "exam" / "predictions.jsonl"
    ).read_bytes()
    assert same, "evaluate must find what the run's own exam found"
    voted = ("--votes", "3", "--limit", "4", "--split", "dev", "--out", tmp_path / "votes")
    assert limbeck("evaluate", student, "--task", recipe, *voted).status == 0
    first = json.loads((tmp_path / "votes" / "predictions.jsonl").read_text().split("\n")[0])
    assert len(first["votes"]) == 3

    compared = limbeck("compare", student, tmp_path / "exam", "--json")
    assert compared.status == 0
    assert json.loads(compared.out)["pairs"]


def test_every_way_of_training_a_student(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """LoRA, dev-chosen checkpoints, chat format, arrow format, bf16: each from recipe to exam."""
    ways = {
        "lora": "{lora: {r: 4}, train: {epochs: 1}}",
        "by-accuracy": "{train: {choose: dev-accuracy}}",
        "by-loss": "{train: {choose: dev-loss}}",
        "chat": "{format: chat, train: {epochs: 1}}",
        "arrow": "{format: arrow, train: {epochs: 1, precision: bf16}}",
        "diverse": "{settings: {rationales: 1, choose: diverse}, train: {epochs: 1, prompt_weight: 0.1}}",
    }
    students = ", ".join(f"{name}: {settings}" for name, settings in ways.items())
    recipe.write_text(SMALL.split("students:")[0] + f"students: {{{students}}}\nexam: {{max_tokens: 24}}\n")
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out, "--set", "student.method=finetune-cot")
    assert answer.status == 0, answer.err
    for name in ways:
        folder = out / "students" / name / "seed0"
        weights = "adapter_config.json" if name == "lora" else "config.json"
        assert (folder / "model" / weights).exists() and (folder / "exam" / "metrics.json").exists()
    history = (out / "students" / "by-accuracy" / "seed0" / "history.jsonl").read_text()
    assert history.count("dev_accuracy") == 2, "one exam on dev per epoch"
    assert "dev_loss" in (out / "students" / "by-loss" / "seed0" / "history.jsonl").read_text()


def test_a_changed_setting_runs_only_what_it_touches(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert limbeck("run", recipe, "--out", out).status == 0
    answer = limbeck("run", recipe, "--out", out, "--set", "students.cot.train.epochs=1")
    assert "students/cot/seed0: runs again, because train.epochs changed from 2 to 1" in answer.err
    assert "students/answers-only/seed0: done before, kept" in answer.err
    once = ("--set", "students.cot.train.epochs=1")
    other = limbeck("run", recipe, "--out", out, "--set", "exam.max_tokens=20", *once)
    assert "students/cot/seed0: done before, kept" in other.err, "an exam's setting trains nobody again"
    assert "students/cot/seed0/exam: runs again, because exam.max_tokens changed from 24 to 20" in other.err
    by_loss = "students.by-loss={method: finetune-cot, train: {choose: dev-loss}}"
    more = limbeck("run", recipe, "--out", out, "--set", by_loss, *once)
    assert more.status == 0, more.err
    assert more.err.count("started") == 4, "dev rationales, the new student and exams; no old student"
    assert "students/cot/seed0: done before, kept" in more.err
    back = limbeck("run", recipe, "--out", out)
    assert "students/cot/seed0: these settings ran before" in back.err and "started" not in back.err


def _run(recipe: Path, out: Path) -> None:
    """In a forked child: the whole run, its text to a file."""
    from limbeck.cli import main

    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    sys.argv = ["limbeck", "run", str(recipe), "--out", str(out)]
    main()


def test_ten_kills_change_nothing(recipe: Path, tmp_path: Path) -> None:
    """SIGKILL at ten random moments, then to the end: weights, metrics and files as if undisturbed.

    The children are forked after the libraries are imported, so that the kills fall
    into the work and not into imports.
    """
    import limbeck.lm.local
    import limbeck.training.trainer  # noqa: F401

    fork = multiprocessing.get_context("fork")
    clock = time.monotonic()
    undisturbed = fork.Process(target=_run, args=(recipe, tmp_path / "calm"))
    undisturbed.start()
    undisturbed.join()
    assert undisturbed.exitcode == 0
    whole = time.monotonic() - clock

    moments = random.Random(7)
    log = tmp_path / "killed" / "run.log"
    stages = []
    for number in range(10):
        lines_before = len(_lines(log))
        child = fork.Process(target=_run, args=(recipe, tmp_path / "killed"))
        child.start()
        if number == 3:  # chance alone might miss the training
            while child.is_alive() and not any(map(TRAINING.fullmatch, _lines(log)[lines_before:])):
                time.sleep(0.002)
            child.join(timeout=moments.uniform(0.02, 0.08) * whole)
        else:
            child.join(timeout=moments.uniform(0.02, 0.15 if number < 3 else 0.35) * whole)
        os.kill(child.pid or 0, signal.SIGKILL) if child.is_alive() else None
        child.join()
        stages.append(_lines(log)[-1] if child.exitcode == -signal.SIGKILL and _lines(log) else "")
    last = fork.Process(target=_run, args=(recipe, tmp_path / "killed"))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert any(map(TRAINING.fullmatch, stages)), f"no kill fell into a training: {stages}"
    killed, calm = results(tmp_path / "killed"), results(tmp_path / "calm")
    assert killed.keys() == calm.keys()
    assert killed == calm


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_a_local_model_as_the_teacher(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """A chat model that was never trained teaches: all of it is noise, and all of it is accounted for."""
    from limbeck.lm.load import load
    from limbeck.lm.saving import save

    texts = ["Take the last letters of the words and join them. The answer is ab."]
    teacher = tmp_path / "teacher"
    save(load("tiny-causal-xs", seed=1, tokenizer_texts=texts, device="cpu"), teacher)
    settings = (
        f"teacher={{kind: local, model: {teacher}, dtype: float32, device: cpu}}",
        "rationales={per_problem: 2, temperature: 1.0, max_tokens: 64, keep: all}",
        "task.train=24",
        "students={cot: {method: finetune-cot, settings: {rationales: 2}, train: {epochs: 1}}}",
    )
    out = tmp_path / "run"
    command = ("run", recipe, "--out", out, *(part for one in settings for part in ("--set", one)))
    answer = limbeck(*command)
    assert answer.status == 0, answer.err
    graded = [
        json.loads(line) for line in (out / "rationales" / "graded.jsonl").read_text().split("\n") if line
    ]
    assert len(graded) == 48 and {rationale["source"] for rationale in graded} == {str(teacher)}
    assert len({rationale["completion"] for rationale in graded}) == 48, "two different ones per problem"
    assert all(0 < rationale["tokens"] <= 64 for rationale in graded)
    kept = [rationale for rationale in graded if rationale["dropped"] is None]
    assert kept and not any(rationale["truncated"] for rationale in kept)
    assert any(not rationale["correct"] for rationale in kept), "keep: all keeps wrong ones"
    examples = (out / "students" / "cot" / "seed0" / "examples.jsonl").read_text().strip().split("\n")
    assert len(examples) == len(kept)
    exam = json.loads((out / "teacher" / "exam" / "metrics.json").read_text())
    assert exam["problems"] == 20 and exam["tokens_per_s"] > 0
    assert (out / "students" / "cot" / "seed0" / "exam" / "metrics.json").exists()

    before = results(out)
    again = limbeck(*command)
    assert again.status == 0 and "started" not in again.err
    assert results(out) == before
