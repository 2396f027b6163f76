"""DeepSpeed ZeRO-3 by a file: two processes make what one makes, and what was never tried is refused.

What runs DeepSpeed is left out where it is not installed. On a CPU it would compile a C++ kernel for shared
memory first, which needs a compiler and minutes; it works without, by gloo alone, and so it does here.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import RecipeError
from limbeck.recipe import LearnerSettings, load_recipe
from limbeck.stages.learners import Learner
from limbeck.stages.preflight import check_deepspeed
from limbeck.tasks.asking import Asking
from limbeck.training.deepspeed import read, refuse_from_outside, refuse_other_number

from .commands import Started, end_as_a_launcher, finish, limbeck, ranks_of
from .test_several_processes import start as start_plain
from .test_sharded import PATIENCE, facts, losses, saved, wait_for_whole_checkpoint

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the package deepspeed is not installed"
)

CONFIG: dict[str, Any] = {
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 200,  # norms stay whole
        "reduce_bucket_size": 100_000,  # 2 GB by default
    },
    "train_batch_size": "auto",
}

RECIPE = """
name: zero
task: {name: coin-flip, train: 32, dev: 8, test: 8, parameters: {people: 2}}
teacher: {kind: offline, wrong_answer: 0.2, exam: false}
rationales: {per_problem: 3}
mentor: {model: tiny-causal-xs, train: {epochs: 1}, exam: false}
student:
  model: tiny-causal-xs
  train: {learning_rate: 1.0e-3, batch_size: 8, epochs: 2, checkpoints: 4, deepspeed: FILE}
students:
  cot: {method: finetune-cot, settings: {rationales: 1}, train: {choose: dev-loss}}
  lora: {method: finetune-cot, settings: {rationales: 1}, lora: {r: 4, dropout: 0}}
  mcc: {method: mcc-kd, settings: {rationales: 3}, train: {accumulate: 2, share_prompts: true, epochs: 1}}
  t5: {method: finetune-cot, model: tiny-seq2seq-xs, settings: {rationales: 1}, train: {epochs: 1}}
  kd:
    method: mentor-kd
    settings: {mentor_rationales: 0}
    train: {accumulate: 2, epochs: 1, gradient_checkpointing: true, schedule: linear, optimizer: sgd}
  plain: {method: finetune-cot, settings: {rationales: 1}, train: {deepspeed: null, epochs: 1}}
  rounds:
    method: tailored
    train: {epochs: 1, checkpoints: 1}
    settings:
      rounds: 1
      begin: rationales
      train_exam: {samples: 1, batch_size: 24, least_readable: 0}
      feedback: {kind: again, per_problem: 1, problems: 12}
exam: {max_tokens: 12, batch_size: 24}
"""

COT, *OTHERS = (f"students/{name}/seed0" for name in ("cot", "lora", "mcc", "t5", "kd"))
ROUNDS = tuple(f"students/rounds/seed0/round{number}" for number in range(2))
SHARED = (COT, *OTHERS, *ROUNDS)
WHOLE = ("mentors/mentor", "students/plain/seed0")
"""Trained without DeepSpeed after somebody who was not."""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "zero3.json").write_text(json.dumps(CONFIG))
    path = tmp_path / "zero.yaml"
    path.write_text(RECIPE.replace("FILE", str(tmp_path / "zero3.json")))
    return path


def by_gloo() -> None:
    """The command, with DeepSpeed on the CPU and without its kernel; nothing of its engines stays."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    importlib.import_module("deepspeed.comm")
    # Not by its name: there, that is torch itself.
    vars(sys.modules["deepspeed.comm.torch"])["build_shm_op"] = lambda: None
    try:
        limbeck()
    except SystemExit as stop:
        gc.collect()
        alive = {type(one).__name__ for one in gc.get_objects()}
        assert stop.code or not alive & {"DeepSpeedEngine", "DeepSpeedZeroOptimizer_Stage3"}
        raise


def start(world: int, *arguments: object) -> list[Started]:
    return [Started([*map(str, arguments)], environment, by_gloo) for environment in ranks_of(world)]


def run(world: int, recipe: Path, out: Path, *more: object) -> list[tuple[int, str, str]]:
    begin: Callable[..., list[Started]] = start if world > 1 else start_plain
    found = finish(begin(world, "run", recipe, "--out", out, *more), PATIENCE)
    assert [status for status, *_ in found] == [0] * world, found
    return found


@needs_deepspeed
def test_two_processes_make_what_one_makes(recipe: Path, tmp_path: Path) -> None:
    """Killed in between, they go on; one process refuses their checkpoint."""
    one, two = (tmp_path / name for name in ("one", "two"))
    run(1, recipe, one)
    assert "train.deepspeed: one process holds the whole model" in (one / "run.log").read_text()

    processes = start(2, "run", recipe, "--out", two)
    wait_for_whole_checkpoint(two / COT, processes)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    end_as_a_launcher(processes)
    found = finish(processes)
    assert (two / COT).exists() and not (two / COT / "training.json").exists(), found
    ((status, _, error),) = finish(start_plain(1, "run", recipe, "--out", two), PATIENCE)
    assert (
        status == 2
        and "was written by 2 processes, and this run has one process; start as many as before" in error
    )
    run(2, recipe, two)
    assert (two / "run.log").read_text().count("going on where it stopped") >= 1

    for name in (*SHARED, *WHOLE):
        assert losses(two / name) == pytest.approx(losses(one / name), abs=1e-5), name
        ours, theirs = saved(two / name), saved(one / name)
        assert {key: tensor.shape for key, tensor in ours.items()} == {
            key: tensor.shape for key, tensor in theirs.items()
        }
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 5e-5, name
        marks = [
            json.loads((folder / name / "stage.json").read_text())["fingerprint"] for folder in (one, two)
        ]
        assert marks[0] == marks[1]
        told, alone = facts(two / name), facts(one / name)
        for count in ("parameters", "trained_parameters"):
            assert told[count] == alone[count]
    for name in SHARED:
        told = facts(two / name)
        assert len(told["held_parameters"]) == 2 and max(told["held_parameters"]) < 0.52 * told["parameters"]
    assert not any("held_parameters" in facts(two / name) for name in WHOLE)
    exams = sorted(path.relative_to(one) for path in one.rglob("predictions.jsonl"))
    assert exams and all((one / path).read_bytes() == (two / path).read_bytes() for path in exams)


@needs_deepspeed
def test_a_loss_that_is_not_finite_ends_the_training(recipe: Path, tmp_path: Path) -> None:
    wrong = ("--set", "student.train.learning_rate=1.0e+9", "--set", "student.train.clip=0")
    found = finish(start(2, "run", recipe, "--out", tmp_path / "out", "--until", COT, *wrong), PATIENCE)
    assert [status for status, *_ in found] == [1, 1], found
    assert any("is not finite" in error and "lower learning_rate" in error for *_, error in found), found
    assert not (tmp_path / "out" / COT / "training.json").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("no JSON", "is not JSON"),
        ([], "must have"),
        ({"zero_optimization": {}}, "must have"),
        ({"zero_optimization": {"stage": 2}}, "must have"),
        (CONFIG | {"train_batch_size": 8}, 'train_batch_size: is set by train of the recipe; write "auto"'),
        (CONFIG | {"optimizer": {"type": "AdamW"}}, "optimizer: is set by train.optimizer, learning_rate"),
        (CONFIG | {"scheduler": {"type": "WarmupLR"}}, "scheduler: is set by train.schedule and warmup"),
        (CONFIG | {"bf16": {"enabled": True}}, "bf16: was never tried here"),
        (CONFIG | {"fp16": {}}, "fp16: was never tried here"),
        (CONFIG | {"compression_training": {}}, "compression_training: was never tried here"),
    ],
)
def test_a_file_that_decides_what_it_should_not_is_refused(tmp_path: Path, changed: Any, said: str) -> None:
    file = tmp_path / "zero3.json"
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(RecipeError, match=said):
        read(str(file))


def test_what_the_recipe_decides_is_filled_in(tmp_path: Path) -> None:
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps(CONFIG | {"bf16": {"enabled": "auto"}}))
    found = read(str(file))
    assert found["gradient_clipping"] == found["gradient_accumulation_steps"] == "auto"
    assert found["zero_optimization"] == CONFIG["zero_optimization"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.sharding=fsdp", "deepspeed and sharding: fsdp share out the same things"),
        ("train.precision=bf16", "deepspeed was never tried with precision: bf16"),
        ("train.precision=fp16", "deepspeed was never tried with precision: fp16"),
        ("train.precision=auto", "deepspeed was never tried with precision: auto"),
        ("train.choose=dev-accuracy", "deepspeed does not go with choose: dev-accuracy"),
        ("dtype=bfloat16", "train.deepspeed was never tried with dtype: bfloat16"),
    ],
)
def test_what_was_never_tried_with_it_is_refused(recipe: Path, setting: str, said: str) -> None:
    more = ["students={one: {method: finetune-cot}}", f"student.{setting}"]
    with pytest.raises(RecipeError, match=said):
        load_recipe(recipe, more)


def test_a_base_in_4_bits_is_refused(recipe: Path) -> None:
    more = ["students={one: {method: finetune-cot, lora: {}, quantize: 4bit}}"]
    with pytest.raises(RecipeError, match=r"quantize: 4bit does not go with train\.deepspeed"):
        load_recipe(recipe, more)


def test_a_missing_file_is_refused_before_any_work(recipe: Path, limbeck: Callable[..., Any]) -> None:
    (recipe.parent / "zero3.json").unlink()
    answer = limbeck("run", recipe, "--out", recipe.parent / "out")
    assert answer.status == 2 and "zero3.json: cannot be read (No such file or directory)" in answer.err
    assert "students.cot.train.deepspeed: " in answer.err


def test_several_processes_without_the_package_are_refused(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, find=importlib.util.find_spec: None if name == "deepspeed" else find(name),
    )
    file = str(recipe.parent / "zero3.json")
    check_deepspeed("students.cot", file)  # one process needs it for nothing
    monkeypatch.setattr("limbeck.ranks.world", lambda: 2)
    with pytest.raises(
        RecipeError, match=r"students\.cot\.train\.deepspeed: the package deepspeed is not here"
    ):
        check_deepspeed("students.cot", file)


def test_what_accelerates_launcher_asks_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_from_outside()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(
        RecipeError, match="accelerate's configuration asks for DeepSpeed; give DeepSpeed's own"
    ):
        refuse_from_outside()


def test_parts_of_another_number_of_processes_are_refused(tmp_path: Path) -> None:
    refuse_other_number(tmp_path, 0)
    with pytest.raises(
        RecipeError, match="was written by one process, and this run has 2 processes; start as many as before"
    ):
        refuse_other_number(tmp_path, 2)
    for rank in range(2):
        part = tmp_path / "global_step3" / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        part.parent.mkdir(exist_ok=True)
        part.touch()
    refuse_other_number(tmp_path, 2)
    with pytest.raises(RecipeError, match="was written by 2 processes, and this run has 3 processes"):
        refuse_other_number(tmp_path, 3)


def test_the_content_of_the_file_decides_not_its_name(tmp_path: Path) -> None:
    def planned(name: str, content: str) -> Any:
        (tmp_path / name).write_text(content)
        settings = LearnerSettings(train={"deepspeed": str(tmp_path / name)})
        return Learner("student", "one", settings, 0, Asking()).plan(1)

    assert planned("a.json", "{}") == planned("b.json", "{}") != planned("a.json", "[]")
    plain = Learner("student", "one", LearnerSettings(), 0, Asking()).plan(1)
    assert plain.settings == {"seed": 0}, "trainings without it keep their fingerprints"
