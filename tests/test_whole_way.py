"""The whole way, for real and in small: every stage, both architectures, killed and resumed."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Limbeck = Callable[..., object]

SMALL = """
name: small
task: {name: last-letters, train: 48, dev: 12, test: 20, knobs: {words: 2}}
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
TIMES = ("seconds", "tokens_per_s")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def results(folder: Path) -> dict[str, str]:
    """Hash of everything a run decided: weights, metrics without times, predictions, rationales, history."""
    wanted = (
        "model.safetensors",
        "predictions.jsonl",
        "graded.jsonl",
        "audit.json",
        "history.jsonl",
        "examples.jsonl",
    )
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "metrics.json":
            metrics = json.loads(path.read_text())
            found[name] = str({key: value for key, value in metrics.items() if key not in TIMES})
        elif path.name in wanted and not name.startswith("old/"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


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
        assert (folder / "model" / "config.json").exists() and (folder / "exam" / "metrics.json").exists()
    history = (out / "students" / "by-accuracy" / "seed0" / "history.jsonl").read_text()
    assert history.count("dev_accuracy") == 2, "one exam on dev per epoch"
    assert "dev_loss" in (out / "students" / "by-loss" / "seed0" / "history.jsonl").read_text()


def test_a_changed_setting_runs_only_what_it_touches(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert limbeck("run", recipe, "--out", out).status == 0
    answer = limbeck("run", recipe, "--out", out, "--set", "students.cot.train.epochs=1")
    assert "students/cot/seed0: runs again, because train.epochs changed from 2 to 1" in answer.err
    assert "students/answers-only/seed0: done before, kept" in answer.err
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
    stages = set()
    for _ in range(10):
        child = fork.Process(target=_run, args=(recipe, tmp_path / "killed"))
        child.start()
        child.join(timeout=moments.uniform(0.02, 0.35) * whole)
        os.kill(child.pid or 0, signal.SIGKILL) if child.is_alive() else None
        child.join()
        log = tmp_path / "killed" / "run.log"
        stages.add(log.read_text().splitlines()[-1].split(" ", 1)[1] if log.exists() else "before the log")
    last = fork.Process(target=_run, args=(recipe, tmp_path / "killed"))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert len(stages) > 1, f"every kill fell into the same place: {stages}"
    assert results(tmp_path / "killed") == results(tmp_path / "calm")
