"""Trainings whose weights are shared out among two processes: they make what one process makes.

One recipe holds every method; one process does it from beginning to end, two begin it, are killed, go on, are
killed again, and one ends it. So every method is trained by two processes, a checkpoint of two is read by
two, and one of two by one. One of one by two: of a single student.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import RecipeError
from limbeck.recipe import load_recipe

from .commands import Started, end_as_a_launcher, finish
from .test_several_processes import start, weights

RECIPE = """
name: parts
task: {name: coin-flip, train: 32, dev: 8, test: 8, parameters: {people: 2}}
teacher: {kind: offline, wrong_answer: 0.2, exam: false}
rationales: {per_problem: 3}
mentor: {model: tiny-causal-xs, train: {epochs: 1, sharding: fsdp}, exam: false}
student:
  model: tiny-causal-xs
  train: {learning_rate: 1.0e-3, batch_size: 8, epochs: 2, checkpoints: 8, sharding: fsdp}
students:
  cot:
    method: finetune-cot
    settings: {rationales: 1}
    train: {gradient_checkpointing: true, choose: dev-loss}
  kd:
    method: mentor-kd
    lora: {r: 4, dropout: 0}
    settings: {mentor_rationales: 0}
    train: {accumulate: 2, checkpoints: 1}
  mcc: {method: mcc-kd, settings: {rationales: 3}, train: {accumulate: 2, share_prompts: true}}
  t5: {method: finetune-cot, model: tiny-seq2seq-xs, settings: {rationales: 1}, train: {checkpoints: 1}}
  rounds:
    method: tailored
    train: {accumulate: 2}
    settings:
      rounds: 1
      begin: rationales
      train_exam: {samples: 1, batch_size: 24, least_readable: 0}
      feedback: {kind: again, per_problem: 1, problems: 12}
exam: {max_tokens: 12, batch_size: 24}
"""

TRAINED = ("mentors/mentor", *(f"students/{name}/seed0" for name in ("cot", "kd", "mcc", "t5")))
COT = "students/cot/seed0"
ROUNDS = tuple(f"students/rounds/seed0/round{number}" for number in range(2))

Limbeck = Callable[..., Any]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "parts.yaml"
    path.write_text(RECIPE)
    return path


PATIENCE = 900.0
"""Seconds: every method is in one command."""


def alone(recipe: Path, out: Path) -> None:
    """The whole recipe, or what is left of it, by one process."""
    ((status, _, error),) = finish(start(1, "run", recipe, "--out", out), PATIENCE)
    assert status == 0, error


def wait_for_whole_checkpoint(student: Path, processes: list[Started]) -> None:
    """Until the training marked its first checkpoint as whole, or is over."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        if any(student.glob("checkpoints/checkpoint-*/complete.json")):
            return
        time.sleep(0.02)


def begin_and_kill(world: int, recipe: Path, out: Path, place: str) -> None:
    """The command of so many processes, killed after the first whole checkpoint of a training."""
    processes = start(world, "run", recipe, "--out", out)
    wait_for_whole_checkpoint(out / place, processes)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    end_as_a_launcher(processes)
    found = finish(processes)
    there = (out / place).exists() and not (out / place / "training.json").exists()
    assert there, ("killed before it was over", found)


def facts(stage: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage / "training.json").read_text())
    return found


def losses(stage: Path) -> list[float]:
    """Of every step, and of dev where a checkpoint is chosen by it."""
    rows = [json.loads(line) for line in (stage / "history.jsonl").read_text().splitlines()]
    return [row["loss"] if "loss" in row else row["dev_loss"] for row in rows]


def saved(stage: Path) -> dict[str, Any]:
    """The tensors of a model folder; of an adapter, those of its base too."""
    from safetensors.torch import load_file

    if not (stage / "model" / "adapter_config.json").exists():
        return weights(stage)
    files = ("adapter_model.safetensors", "base/model.safetensors")
    return {
        f"{file} {name}": one for file in files for name, one in load_file(stage / "model" / file).items()
    }


def test_two_processes_with_a_part_each_make_what_one_makes(recipe: Path, tmp_path: Path) -> None:
    alone(recipe, tmp_path / "one")
    assert "one process holds the whole model" in (tmp_path / "one" / "run.log").read_text()

    out = tmp_path / "two"
    for killed_in in (COT, ROUNDS[1]):
        begin_and_kill(2, recipe, out, killed_in)
    parts = sorted((out / ROUNDS[1]).glob("checkpoints/checkpoint-*/parts/*.distcp"))
    assert {path.name for path in parts} == {"__0_0.distcp", "__1_0.distcp"}, "each process wrote its part"
    alone(recipe, out)
    assert (out / "run.log").read_text().count("going on where it stopped") == 2
    assert_same(tmp_path / "one", out)
    assert_two_end_what_one_began(recipe, tmp_path / "one", tmp_path / "grown")


def assert_two_end_what_one_began(recipe: Path, one_run: Path, out: Path) -> None:
    """A checkpoint of one process, read by two that hold a part each."""
    begin_and_kill(1, recipe, out, COT)
    found = finish(start(2, "run", recipe, "--out", out, "--until", COT), PATIENCE)
    assert [status for status, *_ in found] == [0, 0], found
    said = (out / "run.log").read_text()
    assert "going on where it stopped" in said and "damaged" not in said
    assert len(facts(out / COT)["held_parameters"]) == 2
    assert losses(out / COT) == pytest.approx(losses(one_run / COT), abs=1e-5)
    ours, theirs = saved(out / COT), saved(one_run / COT)
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 5e-5


def assert_same(one_run: Path, out: Path) -> None:
    """Losses, weights and files of all trainings, and who held what."""
    for name in (*TRAINED, *ROUNDS):
        one, two = one_run / name, out / name
        assert losses(two) == pytest.approx(losses(one), abs=1e-5), name
        ours, theirs = saved(two), saved(one)
        assert ours.keys() == theirs.keys()
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 5e-5, name
        configs = [
            json.loads((run_ / "model" / "config.json").read_text())
            for run_ in (one, two)
            if "kd" not in name
        ]
        assert not configs or (configs[0] == configs[1] and "distributed_config" not in configs[0])
        marks = [json.loads((run_ / "stage.json").read_text())["fingerprint"] for run_ in (one, two)]
        assert marks[0] == marks[1], "how many processes shared it is in no fingerprint"
        assert "held_parameters" not in facts(one)

    for name in (*TRAINED, ROUNDS[0]):
        told = facts(out / name)
        held, whole = told["held_parameters"], told["parameters"]
        adapter = told["trained_parameters"] if "kd" in name else 0
        assert len(held) == 2 and sum(held) == whole + adapter, "weights are halved, adapters whole"
        assert max(held) < 0.51 * whole + adapter


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("choose=dev-accuracy", "sharding: fsdp does not go with choose: dev-accuracy"),
        ("precision=auto", "sharding: fsdp does not go with precision: auto"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(recipe: Path, setting: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe(recipe, [f"student.train.{setting}"])


def test_a_whole_model_in_a_sharded_training_is_refused() -> None:
    """A launcher that starts processes that do not know of each other, or a model that was loaded whole."""
    from limbeck.lm.sharding import held
    from limbeck.lm.tiny import build_model, build_tokenizer

    model = build_model("tiny-causal-xs", build_tokenizer(["a b"]), 0)
    with pytest.raises(RecipeError, match=r"embed_tokens.weight is whole in each of 1 processes"):
        held(model)
