"""Fake finished runs: the files `limbeck run` leaves behind, without any training."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck.exam_facts import ExamFacts
from limbeck.records import Prediction, write_json, write_jsonl
from limbeck.statistics import wilson

Verdicts = Sequence[bool | None]
"""Per problem: right, wrong, or None for a failed extraction."""


def prediction(number: int, verdict: bool | None, *, cot: bool = True, **changes: Any) -> Prediction:
    """What a student might say to a small multi-step sum."""
    a, b, c = 3 + number % 17, 2 + number % 7, 1 + number % 5
    gold = (a + b) * c
    said = gold if verdict else gold - c
    steps = f"There are {a} + {b} = {a + b} marbles in a bag. In {c} bags that makes {said}.\n" if cot else ""
    fields: dict[str, Any] = {
        "problem_id": f"sums-test-{number:04}",
        "question": f"A bag holds {a} red and {b} blue marbles. How many marbles are in {c} such bags?",
        "gold": str(gold),
        "completion": steps + ("and then we" if verdict is None else f"The answer is {said}."),
        "answer": None if verdict is None else str(said),
        "correct": verdict is True,
        "tokens": 28 if cot else 5,
        "truncated": verdict is None,
    }
    return Prediction(**{**fields, **changes})


def write_exam(
    folder: Path, predictions: Sequence[Prediction], name: str = "", role: str = "exam", **changes: Any
) -> Path:
    """predictions.jsonl and metrics.json as the exam writes them; `changes` are of facts and figures."""
    right = sum(one.correct for one in predictions)
    low, high = wilson(right, len(predictions))
    about = {"name": name or folder.name, "role": role, "model": "tiny", "split": "test"}
    about |= {"task": "sums", "kind": "number"}
    facts = {key: changes.pop(key) for key in ExamFacts.model_fields if key in changes}
    metrics = {
        "name": "what the model calls itself",
        "problems": len(predictions),
        "correct": right,
        "accuracy": right / len(predictions),
        "low": low,
        "high": high,
        "extraction_failed": sum(one.answer is None for one in predictions),
        "truncated": sum(one.truncated for one in predictions),
        "mean_tokens": sum(one.tokens for one in predictions) / len(predictions),
        "tokens_per_s": 812.4,
        "seconds": 11.0,
        "votes": 1,
    }
    write_jsonl(folder / "predictions.jsonl", predictions)
    whole = {**metrics, **ExamFacts.model_validate(about | facts).model_dump(mode="json")}
    write_json(folder / "metrics.json", {**whole, **changes})
    return folder


def of_0_1_0(folder: Path) -> None:
    """Take from every metrics.json below what Limbeck 0.1.0 did not write."""
    unknown = set(ExamFacts.model_fields) - {"name", "split"}
    for path in folder.rglob("metrics.json"):
        found = json.loads(path.read_text())
        write_json(path, {key: value for key, value in found.items() if key not in unknown})


def luck(problems: int, accuracy: float, seed: int, failing: float = 0.02) -> list[bool | None]:
    """Verdicts of a student of about this accuracy; equal problems stay hard for everyone."""
    draw, hard = random.Random(seed), random.Random(99)
    easiness = [1 - hard.random() for _ in range(problems)]
    return [
        None if draw.random() < failing else 0.3 * ease + 0.7 * draw.random() > 1 - 1.1 * accuracy * ease**0.1
        for ease in easiness
    ]


def write_history(folder: Path, steps: int = 400, floor: float = 0.1) -> None:
    """A falling loss of two parts, a learning rate and a dev row every tenth."""
    draw = random.Random(str(folder.parent.name + folder.name))
    rows = []
    for step in range(10, steps + 1, 10):
        part = floor + 3.2 * 0.985**step + 0.02 * draw.random()
        row: dict[str, Any] = {"step": step, "epoch": step / 100, "loss": part, "cross_entropy": part}
        rows.append({**row, "learning_rate": 1e-3 * (1 - step / steps)})
        if step % 40 == 0:
            dev = {"dev_loss": part + 0.05, "dev_accuracy": 1 - min(1, part)}
            rows.append({"step": step, "epoch": step / 100, **dev})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


AUDIT = {
    "problems": 4000,
    "problems with a kept rationale": 3911,
    "rationales": 12000,
    "correct": 10788,
    "dropped": {"wrong answer": 1012, "no answer found": 200},
    "sources": {"offline": 12000},
    "kept per problem": {"0": 89, "1": 310, "2": 911, "3": 2690},
    "similarity of kept rationales of a problem": 0.41267,
}


def write_run(
    folder: Path, students: Mapping[str, Mapping[int, Verdicts]], teacher: Verdicts = (), **facts: Any
) -> Path:
    """A run folder: student -> seed -> verdicts; no teacher without verdicts."""
    about = {
        "recipe": folder.name,
        "task": "sums",
        "kind": "number",
        "seed": 0,
        "versions": {"python": "3.11.7", "limbeck": "0.1.0", "torch": "2.13.0"},
        "git": "0123456789abcdef0123456789abcdef01234567",
        "created": "2025-11-20T18:02:00+00:00",
    }
    write_json(folder / "run.json", {**about, **facts})
    listed = "".join(f"  {name}:\n    method: finetune-cot\n" for name in students)
    (folder / "recipe.yaml").write_text(f"name: {folder.name}\nseed: 0\nstudents:\n{listed}")
    write_json(folder / "rationales" / "audit.json", AUDIT)
    if teacher:
        asked = [prediction(n, v) for n, v in enumerate(teacher)]
        write_exam(folder / "teacher" / "exam", asked, "teacher", "teacher", model="offline")
    for name, seeds in students.items():
        for seed, verdicts in seeds.items():
            home = folder / "students" / name / f"seed{seed}"
            cot = name != "answers-only"
            write_history(home, floor=0.05 if cot else 0.5)
            asked = [prediction(n, v, cot=cot) for n, v in enumerate(verdicts)]
            write_exam(home / "exam", asked, name, "student", seed=seed, method="finetune-cot")
    return folder


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A teacher, one student with one seed, one with three; 60 problems."""
    students = {
        "answers-only": {0: luck(60, 0.1, 1)},
        "cot-3": {seed: luck(60, 0.8, 10 + seed) for seed in range(3)},
    }
    return write_run(tmp_path / "demo", students, teacher=luck(60, 0.95, 5, 0.0))


@pytest.fixture
def run_folder() -> Callable[..., Path]:
    return write_run


@pytest.fixture
def train_log() -> Callable[..., None]:
    return write_history


@pytest.fixture
def old() -> Callable[[Path], None]:
    return of_0_1_0


@pytest.fixture
def exam_folder() -> Callable[..., Path]:
    return write_exam


@pytest.fixture
def predict() -> Callable[..., Prediction]:
    return prediction
