"""The command under several processes: what one process makes, two make too, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from .commands import Started, end_as_a_launcher, finish, ranks_of

Limbeck = Callable[..., Any]

MCC = "{method: mcc-kd, settings: {rationales: 3}, train: {accumulate: 2, epochs: 7, share_prompts: true}}"

RECIPE = f"""
name: shared
task: {{name: coin-flip, train: 48, dev: 0, test: 12, parameters: {{people: 2}}}}
teacher: {{kind: offline, wrong_answer: 0.2, exam: false}}
rationales: {{per_problem: 3}}
mentor: {{model: tiny-causal-xs, train: {{epochs: 1}}, exam: false}}
student:
  model: tiny-causal-xs
  train: {{learning_rate: 1.0e-3, batch_size: 8, epochs: 4, checkpoints: 12}}
students:
  cot: {{method: finetune-cot, settings: {{rationales: 2}}}}
  kd: {{method: mentor-kd, settings: {{mentor_rationales: 0}}, train: {{accumulate: 2, epochs: 2}}}}
  mcc: {MCC}
exam: {{max_tokens: 24, batch_size: 4}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "shared.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def one(recipe: Path) -> Path:
    """The run of one process that nobody killed."""
    run(1, "run", recipe, "--out", recipe.parent / "one")
    return recipe.parent / "one"


@pytest.fixture(scope="module")
def two(recipe: Path) -> tuple[Path, list[tuple[int, str, str]]]:
    """The run of two processes that nobody killed, and what they printed."""
    return recipe.parent / "two", run(2, "run", recipe, "--out", recipe.parent / "two")


def start(world: int, *arguments: object) -> list[Started]:
    """`limbeck ARGUMENT...` as so many ranks, without a launcher, so that single ones can be killed."""
    return [Started([*map(str, arguments)], environment) for environment in ranks_of(world)]


def run(world: int, *arguments: object) -> list[tuple[int, str, str]]:
    found = finish(start(world, *arguments))
    assert [status for status, *_ in found] == [0] * world, found
    return found


def losses(student: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (student / "history.jsonl").read_text().splitlines()]


def weights(student: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(student / "model" / "model.safetensors")
    return found


ALL = ("mentors/mentor", "students/cot/seed0", "students/kd/seed0", "students/mcc/seed0")


def assert_equal(one: Path, two: Path, trained: Sequence[str] = ALL) -> None:
    for name in trained:
        assert losses(one / name) == pytest.approx(losses(two / name), abs=1e-6)
        ours, theirs = weights(one / name), weights(two / name)
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 1e-5
        marks = [json.loads((run / name / "stage.json").read_text())["fingerprint"] for run in (one, two)]
        assert marks[0] == marks[1], "how many processes trained it is in no fingerprint"
        if name.startswith("students/"):
            exams = [(run / name / "exam" / "predictions.jsonl").read_text() for run in (one, two)]
            assert exams[0] == exams[1]


def test_two_processes_make_what_one_makes(
    recipe: Path, one: Path, two: tuple[Path, list[tuple[int, str, str]]]
) -> None:
    folder, ((_, out, err), (_, other_out, other_err)) = two
    assert_equal(one, folder)
    history = (folder / "students/mcc/seed0/history.jsonl").read_text().splitlines()
    assert len(history) > 20 and all(json.loads(line)["span_divergence"] > 0 for line in history)
    assert "report: " in out and other_out == "", "rank 0 alone prints"
    assert "started" in err and "started" not in other_err
    again = run(1, "run", recipe, "--out", folder)
    assert "started" not in again[0][2], "one process finds done what two have made"


def test_kills_of_each_and_of_both(recipe: Path, one: Path, tmp_path: Path) -> None:
    """Killed in training: rank 0, rank 1, both; then finished by one process."""
    out = tmp_path / "killed"
    for victims in ((0,), (1,), (0, 1)):
        processes = start(2, "run", recipe, "--out", out)
        wait_for_checkpoint(out / "students/cot/seed0", processes)
        for victim in victims:
            processes[victim].send_signal(signal.SIGKILL)
        end_as_a_launcher(processes)
        statuses = [status for status, *_ in finish(processes)]
        assert all(statuses), "no rank that is left over claims success"
    run(1, "run", recipe, "--out", out)
    assert_equal(one, out)
    assert "going on where it stopped" in (out / "run.log").read_text()


TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def torchrun(launcher: Sequence[str], *arguments: object) -> subprocess.Popen[str]:
    """`limbeck ARGUMENT...` under a launcher with these options."""
    source = str(Path(__file__).parents[1] / "src")
    about = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, *launcher, "-m", "limbeck", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=about)


def test_mcc_kd_under_torchrun_goes_on_after_a_kill(
    recipe: Path, one: Path, two: tuple[Path, list[tuple[int, str, str]]], tmp_path: Path
) -> None:
    """Launcher and ranks get SIGKILL in the middle of training; the same command ends what they began."""

    def launched() -> subprocess.Popen[str]:
        own = f"students={{mcc: {MCC}}}"
        return torchrun(
            ("--standalone", "--nproc-per-node=2"), "run", recipe, "--out", tmp_path, "--set", own
        )

    mcc = "students/mcc/seed0"
    begun = launched()
    wait_for_checkpoint(tmp_path / mcc, [begun])
    everybody = [psutil.Process(begun.pid), *psutil.Process(begun.pid).children(recursive=True)]
    for process in everybody:  # the launcher first, so that it ends nobody in another manner
        process.kill()
    begun.communicate(timeout=30)
    assert len(everybody) > 2
    while not all(is_over(process) for process in everybody):
        time.sleep(0.02)
    assert not (tmp_path / mcc / "training.json").exists(), "killed before it was over"

    begun = launched()
    err = begun.communicate(timeout=150)[1]
    status = begun.returncode
    assert status == 0, err
    assert "going on where it stopped" in (tmp_path / "run.log").read_text()
    calm, _ = two
    assert losses(tmp_path / mcc) == losses(calm / mcc)
    ours, theirs = weights(tmp_path / mcc), weights(calm / mcc)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs), "bit for bit"
    assert_equal(tmp_path, one, [mcc])


def test_two_nodes_of_one_rank_each(recipe: Path, one: Path, tmp_path: Path) -> None:
    """A launcher for each node, as on two machines with a common folder; each holds half of the weights."""
    port = ranks_of(2)[0]["MASTER_PORT"]
    shared = ("--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}")
    own = "students={cot: {method: finetune-cot, settings: {rationales: 2}, train: {sharding: fsdp}}}"
    command = ("run", recipe, "--out", tmp_path, "--set", own)
    nodes = [torchrun((*shared, f"--node-rank={node}"), *command) for node in range(2)]
    texts = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], texts
    assert "report: " in texts[0][0] and texts[1][0] == "", "the first node's rank alone prints"
    cot = "students/cot/seed0"
    told = json.loads((tmp_path / cot / "training.json").read_text())
    held = told["held_parameters"]
    assert len(held) == 2 and sum(held) == told["parameters"] and max(held) < 0.51 * sum(held)
    assert losses(tmp_path / cot) == pytest.approx(losses(one / cot), abs=1e-5)
    ours, theirs = weights(tmp_path / cot), weights(one / cot)
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 5e-5


def is_over(process: psutil.Process) -> bool:
    """Whether it ended; one that nobody asked for its status stays listed."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def wait_for_checkpoint(student: Path, processes: list[Started] | list[subprocess.Popen[str]]) -> None:
    """Until the training wrote a checkpoint that was not there before, or is over."""
    known = set(student.glob("checkpoints/checkpoint-*"))
    for _ in range(2000):
        if set(student.glob("checkpoints/checkpoint-*")) - known:
            return
        if any(process.poll() is not None for process in processes):
            return
        time.sleep(0.02)


def test_a_batch_that_cannot_be_shared_is_refused(recipe: Path, tmp_path: Path) -> None:
    found = finish(
        start(2, "run", recipe, "--out", tmp_path / "run", "--set", "students.cot.train.batch_size=5")
    )
    assert [status for status, *_ in found] == [2, 2]
    told = [err for *_, err in found if "batch_size" in err and "limbeck: " in err]
    assert len(told) == 1, "one sentence, once"


def test_evaluate_and_collect_with_a_local_teacher(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    from limbeck.lm.load import load
    from limbeck.lm.saving import save

    teacher = tmp_path / "teacher"
    texts = ["The coin is heads up. Ana flips it. The answer is no."]
    save(load("tiny-causal-xs", seed=1, tokenizer_texts=texts, device="cpu"), teacher)
    local = f"teacher={{kind: local, model: {teacher}, dtype: float32, device: cpu, exam: false}}"
    more = ("--set", local, "--set", "rationales={per_problem: 2, max_tokens: 16, keep: all}")
    for world in (1, 2):
        run(world, "collect", recipe, "--out", tmp_path / f"run{world}", *more)
        run(world, "evaluate", teacher, "--task", recipe, "--out", tmp_path / f"exam{world}")
    for one, two in (
        ("run1/collected/completions.jsonl", "run2/collected/completions.jsonl"),
        ("exam1/predictions.jsonl", "exam2/predictions.jsonl"),
    ):
        assert (tmp_path / one).read_bytes() == (tmp_path / two).read_bytes()
    assert sorted(path.name for path in (tmp_path / "exam2").iterdir()) == [
        "metrics.json",
        "predictions.jsonl",
    ], "no log of chunks is left"
