"""Killed at any moment and begun again, a training ends as if nothing had happened."""

import json
import random
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from limbeck.errors import RecipeError
from limbeck.training.checkpoints import MARKER, newest, remove_incomplete, step_of

SETTINGS = {"epochs": 3, "batch_size": 3, "accumulate": 2, "schedule": "cosine", "choose": "dev-accuracy"}
"""20 examples: 7 micro-batches and 4 steps an epoch, the last with one micro-batch; 12 steps."""


class Stop(Exception):
    """Stands for a kill between two steps."""


def stop_at(step):
    def progress(done, total, loss):
        if done == step:
            raise Stop

    return progress


@pytest.fixture
def story(fit, make_model, make_examples, tmp_path, trainable, history):
    """story(kind, checkpoints, folder, stop) -> what a training (dropout, dev exam) ends with."""

    def exam(model):
        """A score that looks random but depends on the weights alone."""
        return {"accuracy": (trainable(model).double().abs().sum().item() * 1e4) % 1}

    def tell(kind, checkpoints, folder, stop=None):
        name, _, lora = kind.partition("+")
        model = make_model(name, lora=bool(lora), dropout=0.2)
        done = fit(
            model,
            make_examples(20),
            dev=make_examples(3, seed=1),
            folder=tmp_path / folder,
            dev_exam=exam,
            progress=stop and stop_at(stop),
            checkpoints=checkpoints,
            **SETTINGS,
        )
        return done, trainable(model), history(tmp_path / folder)

    return tell


@pytest.mark.parametrize(
    ("kind", "checkpoints", "stop", "expected"),
    [
        ("llama", 4, 2, 0),  # before the first checkpoint
        ("llama", 4, 5, 3),  # in the first epoch
        ("llama", 4, 8, 6),  # in the second
        ("llama", "epoch", 6, 4),  # between epochs
        ("llama", 4, 12, 9),
        ("t5", 4, 8, 6),
        ("t5", "epoch", 10, 8),
        ("llama+lora", 4, 8, 6),
        ("t5+lora", "epoch", 6, 4),
    ],
)
def test_stopped_and_resumed_is_bit_for_bit_undisturbed(story, tmp_path, kind, checkpoints, stop, expected):
    """Also when the run folder moved, and generators were used, in between."""
    done, weights, rows = story(kind, checkpoints, "undisturbed")
    with pytest.raises(Stop):
        story(kind, checkpoints, "stopped", stop)
    (tmp_path / "stopped").rename(tmp_path / "moved")
    torch.manual_seed(99)
    random.seed(99)
    again, weights_again, rows_again = story(kind, checkpoints, "moved")
    assert again.resumed_from == expected
    assert again.chosen_step == done.chosen_step
    assert torch.equal(weights_again, weights)
    assert rows_again == rows
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))


def test_a_best_checkpoint_from_before_the_stop_is_still_chosen(
    fit, make_model, make_examples, tmp_path, trainable
):
    """The first evaluation is the best; the run stops after it, moves, and resumes from a later one."""
    seen, scores = [], iter([0.9, 0.1, 0.2, 0.3, 0.4])

    def exam(model):
        seen.append(trainable(model))
        return {"accuracy": next(scores)}

    given = {"dev_exam": exam, "epochs": 4, "choose": "dev-accuracy", "learning_rate": 1e-2}
    with pytest.raises(Stop):
        fit(make_model("llama"), make_examples(4), folder=tmp_path / "a", progress=stop_at(3), **given)
    (tmp_path / "a").rename(tmp_path / "b")
    model = make_model("llama")
    done = fit(model, make_examples(4), folder=tmp_path / "b", **given)
    assert (done.resumed_from, done.chosen_step) == (2, 1)
    assert torch.equal(trainable(model), seen[0])
    (tmp_path / "b").rename(tmp_path / "c")  # finished, moved, and asked for again
    again = make_model("llama")
    assert fit(again, make_examples(4), folder=tmp_path / "c", **given).chosen_step == 1
    assert torch.equal(trainable(again), seen[0])


def test_rows_that_average_several_steps_are_the_same_after_a_stop(story, monkeypatch):
    """12 steps in 2 rows would average 6 steps each; checkpoints at 3, 6, 9 cut them in the same places."""
    monkeypatch.setattr("limbeck.training.arguments.LOGGED_ROWS", 2)
    _, _, rows = story("llama", 4, "undisturbed")
    with pytest.raises(Stop):
        story("llama", 4, "stopped", 5)
    _, _, rows_again = story("llama", 4, "stopped")
    assert rows_again == rows


def test_a_finished_training_is_not_repeated(story):
    done, weights, rows = story("llama", 4, "run")
    again, weights_again, rows_again = story("llama", 4, "run")
    assert again.resumed_from == again.steps == done.steps == 12
    assert again.chosen_step == done.chosen_step
    assert torch.equal(weights_again, weights)
    assert rows_again == rows


@pytest.fixture
def job(make_model, make_examples, tokenizer, tmp_path):
    """job(kind, folder, settings) -> what `worker.py` needs to do a training."""

    @cache
    def saved(kind):
        make_model(kind).save_pretrained(tmp_path / kind)
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        return str(tmp_path / kind)

    def describe(kind, folder, settings, **more):
        return {
            "encoder_decoder": kind == "t5",
            "model": saved(kind),
            "tokenizer": str(tmp_path / "tokenizer"),
            "examples": [example.model_dump() for example in make_examples(20)],
            "dev": [example.model_dump() for example in make_examples(3, seed=1)],
            "settings": settings,
            "folder": str(folder),
            "seed": 3,
            **more,
        }

    return describe


def work(tmp_path, jobs, launcher=()):
    """Run `worker.py` on jobs in another process."""
    spec = tmp_path / "jobs.json"
    spec.write_text(json.dumps(jobs))
    script = Path(__file__).with_name("worker.py")
    return subprocess.run(
        [sys.executable, *launcher, script, spec], capture_output=True, text=True, check=False
    )


def test_killed_in_the_middle_of_a_checkpoint(
    fit, make_model, make_examples, job, tmp_path, trainable, history
):
    """SIGKILL while the third checkpoint is written: the half one is removed, the second goes on."""
    settings = {"epochs": 3, "batch_size": 3, "checkpoints": 6, "learning_rate": 1e-2}
    killed = tmp_path / "killed"
    done = work(tmp_path, [job("t5", killed, settings, kill_at_write=11)])
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = {step_of(path): (path / MARKER).exists() for path in (killed / "checkpoints").iterdir()}
    assert left == {8: True, 12: False}
    results = []
    for folder in (killed, tmp_path / "undisturbed"):
        model = make_model("t5")
        trained = fit(model, make_examples(20), dev=make_examples(3, seed=1), folder=folder, **settings)
        results.append((trainable(model), history(folder), trained.resumed_from))
    assert [resumed for _, _, resumed in results] == [8, 0]
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert [path.name for path in (killed / "checkpoints").iterdir()] == ["checkpoint-21"]


def test_two_processes_equal_one_with_the_double_batch(
    fit, make_model, make_examples, job, tmp_path, trainable, history
):
    """7 micro-batches for two processes: one gets an empty batch at the end of each epoch.

    The two train Llama at one go; T5 stops after step 7 and resumes from 6, within the second epoch.
    """
    settings = {"epochs": 3, "batch_size": 3, "checkpoints": 4, "learning_rate": 1e-2}
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    stops = {"llama": 0, "t5": 7}
    jobs = [job(kind, tmp_path / f"{kind}-two", settings, stop_after=stop) for kind, stop in stops.items()]
    done = work(tmp_path, jobs, launcher)
    assert done.returncode == 0, done.stderr
    for kind, resumed in (("llama", "0"), ("t5", "6")):
        assert (tmp_path / f"{kind}-two" / "resumed_from").read_text() == resumed
        model = make_model(kind)
        start = trainable(model)
        alone = {"folder": tmp_path / f"{kind}-one", "dev": make_examples(3, seed=1), "accumulate": 2}
        fit(model, make_examples(20), **alone, **settings)
        two = type(model).from_pretrained(tmp_path / f"{kind}-two" / "model")
        moved = trainable(model) - start
        assert ((trainable(two) - trainable(model)).norm() / moved.norm()).item() < 1e-4
        rows = zip(history(tmp_path / f"{kind}-one"), history(tmp_path / f"{kind}-two"), strict=True)
        for one_row, two_row in rows:
            two_row["epoch"] = one_row["epoch"]  # the empty batch counts as a share of the epoch
            assert two_row == pytest.approx(one_row, rel=1e-4)


def test_checkpoints_of_another_training_are_refused(fit, make_model, make_examples, tmp_path):
    fit(make_model("llama"), make_examples(4), epochs=1)
    for change in ({"seed": 4}, {"learning_rate": 1e-4}, {"dev": make_examples(1)}):
        with pytest.raises(
            RecipeError, match=r"checkpoints: these checkpoints .* remove the folder to begin anew"
        ):
            fit(make_model("llama"), make_examples(4), epochs=1, **change)
    with pytest.raises(RecipeError, match="begun with other settings, examples"):
        fit(make_model("llama"), make_examples(5), epochs=1)


def test_a_folder_without_its_marker_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-12").mkdir()
    assert newest(tmp_path, "x") is None
    (tmp_path / "checkpoint-12" / "half").write_text("written")
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / MARKER).write_text('{"fingerprint": "x"}')
    assert newest(tmp_path, "x") == tmp_path / "checkpoint-10"  # by number, not by name or time
    remove_incomplete(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-10"}
