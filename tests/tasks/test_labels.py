"""Answers of a fixed set of labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.errors import DataError, RecipeError
from limbeck.recipe import load_recipe
from limbeck.tasks.answers import canonical, extract, grade
from limbeck.tasks.asking import teacher_asking
from limbeck.tasks.settings import FilesTask, PromptSettings
from limbeck.tasks.sources import load_splits

LABELS = ("entailed", "not_entailed", "Neutral", "C", "C++")


@pytest.mark.parametrize(
    ("text", "answer", "how"),
    [
        ("The answer is entailed.", "entailed", "marker"),
        ("The answer is not_entailed.", "not_entailed", "marker"),
        ("The answer is: **Not entailed**", "not_entailed", "marker"),
        ("So the answer is NEUTRAL because nothing is said.", "Neutral", "marker"),
        ("The answer is C++.", "C++", "marker"),
        ("The answer is C.", "C", "marker"),
        ("The answer is that the claim is neutral.", "Neutral", "marker"),
        ("The answer is entailed or neutral.", None, "marker"),
        ("It is entailed. The answer is unclear.", None, "marker"),
        ("The answer is not neutral, but entailed.", "entailed", "fallback"),
        ("neutral", "Neutral", "fallback"),
        ("The text says so.\nNot entailed.", "not_entailed", "fallback"),
        ("So the claim is clearly entailed.", "entailed", "fallback"),
        ("Nothing fits.", None, None),
    ],
)
def test_labels(text: str, answer: str | None, how: str | None) -> None:
    found = extract("label", text, LABELS)
    assert (found.answer, found.how) == (answer, how)


def test_gold_labels_are_matched_exactly_then_normalised() -> None:
    assert canonical("label", "c", ("c", "C-")) == "c"
    assert canonical("label", "NEUTRAL.", LABELS) == "Neutral"
    with pytest.raises(ValueError, match=r"none of task\.labels"):
        canonical("label", "maybe", LABELS)


@pytest.mark.parametrize("labels", [(), ("one",), ("yes", "Yes"), ("a", " ")])
def test_labels_that_cannot_be_distinguished_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="labels"):
        FilesTask(kind="label", labels=labels, train="a.jsonl", test="b.jsonl")


def test_labels_belong_to_their_kind(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\ntask: {kind: number, labels: [a, b], train: a.jsonl, test: b.jsonl}\n"
        "teacher: {kind: given}\nstudent: {method: finetune-cot, model: tiny-causal-xs}\n"
    )
    with pytest.raises(RecipeError, match="labels: answers of kind number have none"):
        load_recipe(recipe)


def test_from_rows_to_grades(tmp_path: Path) -> None:
    for split, answer in (("train", "neutral"), ("test", "entailed")):
        row = {"question": f"Does {split} follow?", "answer": answer}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    paths = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    task = FilesTask(kind="label", labels=LABELS, dev=0, **paths)
    problem = load_splits(task, 0).train[0]
    assert (problem.answer, problem.labels, problem.options) == ("Neutral", LABELS, ())
    assert grade(problem, "label", "Nothing is said. The answer is neutral.").correct
    wrong = task.model_copy(update={"labels": ("yes", "no")})
    with pytest.raises(DataError, match=r"train\.jsonl:1: .*none of task\.labels \(yes, no\)"):
        load_splits(wrong, 0)


def test_the_teacher_is_told_the_labels() -> None:
    instruction = teacher_asking(PromptSettings(), "label", labels=("warm", "cold")).instruction
    assert "one of these labels, word for word: warm, cold" in instruction
