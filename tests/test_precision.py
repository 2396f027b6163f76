"""`train.precision: auto`: settled once by a short training, then part of the recipe and of every plan."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import RecipeError
from limbeck.recipe import LearnerSettings, check_recipe, load_recipe
from limbeck.records import Problem
from limbeck.stages import precision, precision_trial

Limbeck = Callable[..., Any]

RECIPE = """
name: fast
task: {name: arithmetic, train: 40, test: 4, dev: 0}
students:
  one: {method: finetune-cot, model: tiny-causal-xs, train: {epochs: 1, precision: auto}}
  two: {method: answers-only, model: tiny-causal-xs, train: {epochs: 1, precision: auto}}
  three: {method: answers-only, model: tiny-causal-xs, train: {epochs: 1}}
exam: {max_tokens: 4}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path


def _learns(learner: LearnerSettings, asked: list[Problem]) -> None:
    """Both precisions are timed and trained."""
    trial = precision_trial._begun(learner, asked)
    assert min(trial.seconds().values()) > 0
    assert all(math.isfinite(trial.loss(one)) for one in ("fp32", "bf16"))


def test_it_is_found_once_written_down_and_kept_on_another_machine(
    recipe: Path, tmp_path: Path, limbeck: Limbeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_trial, "STEPS", 3)
    out = tmp_path / "run"
    first = limbeck("run", recipe, "--out", out)
    assert first.status == 0, first.err
    (file,) = out.glob("precision/*/precision.json")  # one trial for both: they train the same weights
    found = json.loads(file.read_text())
    if "seconds" in found:
        assert min(found["seconds"].values()) > 0
    students = load_recipe(out / "recipe.yaml").students
    assert {students[name].train.precision for name in ("one", "two")} == {found["precision"]}
    assert students["three"].train.precision == "fp32"
    plan = json.loads((out / "students" / "one" / "seed0" / "stage.json").read_text())["plan"]
    assert plan["settings"]["train"].get("precision", "fp32") == found["precision"]

    monkeypatch.setattr(precision, "_machine", lambda learner: "a Commodore 64")
    again = limbeck("run", recipe, "--out", out)
    assert again.status == 0 and "started" not in again.err
    assert "kept on a Commodore 64; --again precision finds it again" in again.err


@pytest.mark.parametrize(
    ("bf16", "disturbed", "seconds", "chosen"),
    [
        (2.01, (), 0.6, "bf16"),
        (None, (), 1.1, "fp32"),  # it is not even trained where it is slower
        (2.1, (2.0, 2.01, 1.99), 0.6, "fp32"),
        (2.1, (2.0, 1.89), 0.6, "bf16"),
        (math.nan, (), 0.6, "fp32"),
    ],
)
def test_bfloat16_must_be_faster_and_learn_the_same(
    bf16: float | None,
    disturbed: tuple[float, ...],
    seconds: float,
    chosen: str,
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same: within 1 %, or as near to float32 as float32 from slightly other weights is."""
    losses = {("fp32", 0): 2.0, ("bf16", 0): bf16}
    losses |= {("fp32", seed): value for seed, value in enumerate(disturbed, start=1)}
    asked = []

    class Trial:
        def seconds(self) -> dict[str, float]:
            return {"fp32": 1.0, "bf16": seconds}

        def loss(self, precision: str, *, disturbed: int = 0) -> float:
            asked.append((precision, disturbed))
            found = losses[precision, disturbed]
            assert found is not None
            return found

    monkeypatch.setattr(precision, "_computes_bf16", lambda device: True)
    monkeypatch.setattr(precision_trial, "_begun", lambda learner, asked: Trial())
    found = precision._tried(load_recipe(recipe).students["one"], [])
    assert found["precision"] == chosen
    assert asked == ([] if bf16 is None else list(losses))


def test_a_processor_without_bfloat16_tries_nothing(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_computes_bf16", lambda device: False)
    assert precision._tried(load_recipe(recipe).students["one"], [])["precision"] == "fp32"


def test_trainings_begin_at_the_same_weights_and_learn(recipe: Path) -> None:
    from limbeck.tasks.sources import load_splits

    loaded = load_recipe(recipe)
    for model in ("tiny-causal-xs", "tiny-seq2seq-xs"):
        learner = loaded.students["one"].model_copy(update={"model": model})
        trial = precision_trial._begun(learner, load_splits(loaded.task, 0).train)
        assert set(trial.seconds()) == {"fp32", "bf16"}
        reference, low = trial.loss("fp32"), trial.loss("bf16")
        assert low != reference and low == pytest.approx(reference, rel=precision_trial.CLOSE)
        assert trial.loss("fp32") == reference  # whatever was trained between
        other = trial.loss("fp32", disturbed=1)
        assert other != reference and other == pytest.approx(reference, rel=precision_trial.CLOSE)
        assert trial.loss("fp32", disturbed=2) not in (other, reference)
        assert reference < replace(trial, rate=0.0).loss("fp32")


def test_a_base_that_is_an_adapter_is_tried_as_it_is_trained(recipe: Path, tmp_path: Path) -> None:
    """It is folded in, and the new adapter may have other settings."""
    from limbeck.lm.load import load
    from limbeck.lm.saving import save
    from limbeck.lm.settings import LoraSettings
    from limbeck.tasks.sources import load_splits

    texts = ["Question: how many?"]
    save(load("tiny-causal-xs", tokenizer_texts=texts, lora=LoraSettings(r=2)), tmp_path / "adapter")
    given = [
        f"students.one.model={tmp_path / 'adapter'}",
        "students.one.lora={r: 4}",
        "students.one.layers=1",
    ]
    loaded = load_recipe(recipe, given)
    _learns(loaded.students["one"], load_splits(loaded.task, 0).train)


def test_the_trial_holds_one_optimiser(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the training does: its state is twice as large as what is trained."""
    from weakref import WeakSet

    import torch

    from limbeck.tasks.sources import load_splits

    at_once, there = [], WeakSet[torch.optim.Optimizer]()

    class Counted(torch.optim.AdamW):
        def step(self, *given: Any) -> Any:
            done = super().step(*given)
            there.add(self)
            at_once.append(len(there))
            return done

    monkeypatch.setattr(torch.optim, "AdamW", Counted)
    monkeypatch.setattr(precision_trial, "STEPS", 3)
    loaded = load_recipe(recipe)
    _learns(loaded.students["one"], load_splits(loaded.task, 0).train)
    assert set(at_once) == {1}


def test_the_learning_rate_of_a_trial_rises_in_both_precisions(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from limbeck.tasks.sources import load_splits

    rates: list[float] = []

    class Noted(torch.optim.AdamW):
        def step(self, *given: Any) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(*given)

    monkeypatch.setattr(torch.optim, "AdamW", Noted)
    loaded = load_recipe(recipe)
    _learns(loaded.students["one"], load_splits(loaded.task, 0).train)
    full, steps = loaded.students["one"].train.learning_rate, precision_trial.STEPS
    warmup = precision_trial.WARMUP
    assert len(rates) == 2 * (1 + precision_trial.TIMED) + 2 * steps
    for of_one in (rates[-2 * steps : -steps], rates[-steps:]):
        assert of_one[:2] == pytest.approx([full / warmup, 2 * full / warmup])
        assert of_one[warmup - 1 :] == [full] * (steps - warmup + 1)


def test_questions_of_a_letter_and_small_micro_batches_will_do(recipe: Path) -> None:
    asked = [Problem(id=text, question=text, answer="1") for text in ("a", "?!", "two")]
    for model in ("tiny-causal-xs", "tiny-seq2seq-xs"):
        given = [
            f"students.one.model={model}",
            "students.one.train.batch_tokens=16",
            "students.one.train.optimizer=sgd",
        ]
        _learns(load_recipe(recipe, given).students["one"], asked)


def test_a_training_on_texts_shorter_than_rationales_is_tried(recipe: Path) -> None:
    asked = [Problem(id=text, question=f"{text} and one?", answer="1") for text in ("one", "two", "three")]
    for model in ("tiny-causal-xs", "tiny-seq2seq-xs"):
        given = [f"students.one.model={model}", "students.one.train.max_length=32"]
        _learns(load_recipe(recipe, given).students["one"], asked)


def test_steps_of_another_size_get_a_trial_of_their_own_and_idle_mentors_none(
    recipe: Path, tmp_path: Path, limbeck: Limbeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_trial, "STEPS", 3)
    given = ["students.two.train.batch_size=3", "mentor={model: tiny-causal-s, train: {precision: auto}}"]
    out = tmp_path / "run"
    changes = [part for one in given for part in ("--set", one)]
    answer = limbeck("run", recipe, "--out", out, "--until", "precision", *changes)
    assert answer.status == 0, answer.err
    assert len([*out.glob("precision/*/precision.json")]) == 2
    for name in ("one", "two"):
        assert f"students.{name}.train.precision: auto; short trainings" in answer.err
    assert "mentors.mentor.train.precision" not in answer.err


def test_no_trial_comes_up_where_nobody_leaves_it_to_the_machine(
    recipe: Path, tmp_path: Path, limbeck: Limbeck
) -> None:
    changes = [f"students.{name}.train.precision=fp32" for name in ("one", "two")]
    given = [part for one in changes for part in ("--set", one)]
    answer = limbeck("run", recipe, "--out", tmp_path / "run", "--until", "precision", *given)
    assert answer.status == 2 and "--until precision: there is no such stage" in answer.err
    assert not (tmp_path / "run" / "problems").exists()


def test_what_cannot_be_settled_is_refused(tmp_path: Path) -> None:
    from limbeck.protocol.written import _checked

    body = {
        "name": "p",
        "task": {"name": "arithmetic"},
        "students": {
            name: {"method": "answers-only", "model": "tiny-causal-xs", "train": {"precision": "auto"}}
            for name in ("a", "b")
        },
        "claims": {"students": 3, "compare": [["a", "b"]]},
    }
    recipe = check_recipe(body, "p.yaml")
    with pytest.raises(RecipeError, match=r"students.b.train.precision: .* write fp32 or bf16"):
        _checked(recipe, "p.yaml", untrained={"students.a"})
    assert _checked(recipe, "p.yaml", untrained={"students.a", "students.b"}).students == 3
