"""KARD with a corpus and rationales of one's own: odd passages, rationales that count twice, a run again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.knowledge import engines

Limbeck = Callable[..., Any]

RECIPE = """
name: own
task: {name: sky, kind: yes-no, train: train.jsonl, dev: 0, test: test.jsonl}
knowledge: {corpus: corpus.jsonl}
teacher: {kind: given, file: said.jsonl}
student:
  method: kard
  model: tiny-causal-xs
  settings: {passages: 1, rationales: 4}
  train: {epochs: 1}
students: {kard: {}}
exam: {max_tokens: 4}
"""

CORPUS = [
    {"id": "sun", "title": "The\nSun", "text": "It is a star.\n\nStars shine."},
    {"id": "moon", "title": " ", "text": "The moon is rock."},
    {"id": "mars", "title": "Mars, a planet", "text": ""},
]
SAID = ["A star shines by itself.", "The moon is made of rock.", "Mars is a planet."]


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write(path: str, some: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(f"{json.dumps(one)}\n" for one in some), encoding="utf-8")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    write("corpus.jsonl", CORPUS)
    write("train.jsonl", [{"question": "Is it lit?", "answer": "yes"}])
    write("test.jsonl", [{"question": "Is the moon a rock?", "answer": "yes"}])
    said = [
        {"question": "Is it lit?", "completion": f"{one}\nThe answer is yes.", "index": 0} for one in SAID
    ]
    write("said.jsonl", said)  # a file may count them all as the first one
    return Path("r.yaml")


def test_each_rationale_is_learned_with_its_own_passage_in_one_line(limbeck: Limbeck, recipe: Path) -> None:
    ran = limbeck("run", recipe)
    assert ran.status == 0, ran.err
    read = {one["completion"]: one["prompt"] for one in rows("runs/own/students/kard/seed0/examples.jsonl")}
    assert read == {
        f"{SAID[0]}\nThe answer is yes.": "Is it lit?\n\nThe Sun: It is a star. Stars shine.\n",
        f"{SAID[1]}\nThe answer is yes.": "Is it lit?\n\nThe moon is rock.\n",
        f"{SAID[2]}\nThe answer is yes.": "Is it lit?\n\nMars, a planet\n",
    }


def test_gold_answers_that_may_be_missing_search_nothing(limbeck: Limbeck, recipe: Path) -> None:
    changes = ("task.gold=optional", "rationales.keep=agreement", "student.settings.query=question+answer")
    ran = limbeck("run", recipe, *(part for one in changes for part in ("--set", one)))
    assert ran.status == 2 and "kard.settings.query: by task.gold: optional some questions have" in ran.err
    assert not Path("runs").exists()


def test_a_finished_run_opens_no_index(
    limbeck: Limbeck, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limbeck("run", recipe).status == 0
    opened: list[object] = []
    monkeypatch.setattr(engines, "opened", lambda folder: opened.append(folder))
    again = limbeck("run", recipe)
    assert again.status == 0 and opened == [], again.err


def test_each_passage_may_be_read_apart_and_their_answers_vote(limbeck: Limbeck, recipe: Path) -> None:
    """Ours, not the paper's; the same in the exam, `evaluate` and `ask`."""
    write("test.jsonl", [{"question": "Is the moon of rock a planet?", "answer": "yes"}])
    more = ("--set", "students={kard: {settings: {apart: true, passages: 3}}}", "--set", "exam.max_tokens=8")
    ran = limbeck("run", recipe, *more)
    assert ran.status == 0, ran.err
    student = Path("runs/own/students/kard/seed0")
    prompts = {one["prompt"] for one in rows(str(student / "examples.jsonl"))}
    assert "Is it lit?\n\nThe moon is rock.\n" in prompts, "trained with the best one alone"
    (said,) = rows(str(student / "exam/predictions.jsonl"))
    (found,) = rows("runs/own/passages/test/found.jsonl")
    assert len(said["votes"]) == len(found["passages"]) == 2, "as many as were found"
    assert json.loads((student / "exam/metrics.json").read_text())["votes"] == 2
    ran = limbeck("evaluate", student, "--task", recipe, *more, "--out", "again")
    assert ran.status == 0 and rows("again/predictions.jsonl") == [said], ran.err
    asked = limbeck("ask", student, said["question"], "--max-tokens", 8)
    assert asked.out.rstrip("\n") == said["completion"].rstrip("\n"), asked.err
    one = limbeck("run", recipe, "--set", "students={kard: {settings: {apart: true}}}")
    assert one.status == 2 and "settings.apart: one passage cannot vote" in one.err


def test_what_students_share_is_made_before_any_of_them_is_trained(limbeck: Limbeck, recipe: Path) -> None:
    """So each of the published scripts' steps can be run by itself, for every student at once."""
    students = "{plain: {method: finetune-cot, settings: {}}, kard: {}, asked: {settings: {query: question}}}"
    more = ("--set", f"students={students}", "--set", "student.settings={}")
    ran = limbeck("run", recipe, *more, "--until", "silver")
    assert ran.status == 0, ran.err
    run = Path("runs/own")
    assert {one.name for one in (run / "silver").iterdir()} == {"rationale", "question"}
    assert not (run / "students").exists() and not (run / "passages").exists()
    assert limbeck("run", recipe, *more, "--until", "passages/test").status == 0
    assert (run / "passages/test/found.jsonl").exists() and not (run / "students").exists()
    alone = limbeck("run", recipe, *more, "--out", "alone", "--until", "students/plain")
    assert alone.status == 0 and "knowledge" not in alone.err, "who reads nothing waits for no index"
