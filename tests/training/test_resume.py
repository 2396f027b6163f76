"""Killed at any moment and begun again, a training ends as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import time
from functools import cache

import pytest
import torch

from limbeck import sealed
from limbeck.errors import RecipeError, TrainingError
from limbeck.scale.stored import checkpoints_at_once
from limbeck.training.checkpoints import MARKER, newest, remove_others, seconds_of, step_of
from limbeck.training.groups import Draw, Group, singles
from limbeck.training.parts import CrossEntropy

from ..commands import Started, end_as_a_launcher, ranks_of
from . import worker

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
    """story(kind, checkpoints, folder, stop) -> what a training (dropout, dev exam) ends with.

    With "+draw" a group has three examples, of which two are drawn each epoch.
    """

    def exam(model):
        """A score that looks random but depends on the weights alone."""
        return {"accuracy": (trainable(model).double().abs().sum().item() * 1e4) % 1}

    def tell(kind, checkpoints, folder, stop=None):
        name, _, more = kind.partition("+")
        model = make_model(name, lora=more == "lora", dropout=0.2)
        examples = make_examples(60 if more == "draw" else 20)
        pairs = {"draw": Draw({"": 2})} if more == "draw" else {}
        done = fit(
            model,
            [Group(str(n), tuple(examples[n::20])) for n in range(20)],
            dev=make_examples(3, seed=1),
            folder=tmp_path / folder,
            dev_exam=exam,
            progress=stop and stop_at(stop),
            checkpoints=checkpoints,
            batches="by-length" if more == "by-length" else "random",
            **pairs,
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
        ("llama+draw", 4, 8, 6),
        ("llama+by-length", 4, 8, 6),
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
    assert again.tokens == done.tokens
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


@pytest.mark.parametrize("choose", ["last", "dev-accuracy"])
def test_so_many_checkpoints_lie_there_at_once(fit, make_model, make_examples, tmp_path, monkeypatch, choose):
    """As many as the arithmetic of the disk counts: the first evaluation is the best, so it stays."""
    seen, scores, folder = [], iter([0.9, 0.1, 0.2, 0.3]), tmp_path / "run" / "checkpoints"

    def counted(path):
        seen.append(len(list(folder.glob("checkpoint-*"))))

    monkeypatch.setattr("limbeck.training.checkpoints.sync", counted)
    exam = None if choose == "last" else lambda model: {"accuracy": next(scores)}
    fit(make_model("llama"), make_examples(4), dev_exam=exam, epochs=4, choose=choose)
    assert max(seen) == checkpoints_at_once(choose)


def test_a_finished_training_is_not_repeated(story):
    done, weights, rows = story("llama", 4, "run")
    again, weights_again, rows_again = story("llama", 4, "run")
    assert again.resumed_from == again.steps == done.steps == 12
    assert again.chosen_step == done.chosen_step
    assert torch.equal(weights_again, weights)
    assert rows_again == rows


def test_time_before_a_stop_is_counted(story, tmp_path):
    with pytest.raises(Stop):
        story("llama", 4, "run", 8)
    (checkpoint,) = (path for path in (tmp_path / "run/checkpoints").iterdir() if step_of(path) == 6)
    mark = json.loads((checkpoint / MARKER).read_text())
    sealed.write(checkpoint / MARKER, {**mark, "seconds": 1000.0})
    assert seconds_of(checkpoint) == 1000
    done, _, _ = story("llama", 4, "run")
    assert 1000 < done.seconds < 1100


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


def work(tmp_path, jobs, world=1):
    """Do the jobs in another process, or in two as under a launcher; the statuses, and what they wrote."""
    spec = tmp_path / "jobs.json"
    spec.write_text(json.dumps(jobs))
    started = [Started([str(spec)], environment, worker.main) for environment in ranks_of(world)]
    started[0].wait(timeout=120) if world == 1 else wait_as_a_launcher(started)
    texts = [process.communicate(timeout=1) for process in started]
    return [process.returncode for process in started], texts


def wait_as_a_launcher(processes):
    """Until all have ended well, or one has not and the others were ended."""
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            end_as_a_launcher(processes)
            return
        time.sleep(0.05)


def test_killed_in_the_middle_of_a_checkpoint(
    fit, make_model, make_examples, job, tmp_path, trainable, history
):
    """SIGKILL while the third checkpoint is written: the half one is removed, the second goes on."""
    settings = {"epochs": 3, "batch_size": 3, "checkpoints": 6, "learning_rate": 1e-2}
    killed = tmp_path / "killed"
    statuses, texts = work(tmp_path, [job("t5", killed, settings, kill_at_write=11)])
    assert statuses == [-signal.SIGKILL], texts
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
    left = sorted(path.name for path in (killed / "checkpoints").iterdir())
    assert left == ["checkpoint-20", "checkpoint-21"], "the last two"


def same(one, two, start, history, trainable):
    """One and two processes: as many steps, the same losses, the same weights. (folder, model) each."""
    moved = (trainable(one[1]) - trainable(two[1])).norm() / (trainable(one[1]) - start).norm()
    assert moved.item() < 1e-5
    for first, second in zip(history(one[0]), history(two[0]), strict=True):
        assert second == pytest.approx(first, rel=1e-6 if "loss" in first else 1e-5)


PLAIN = {"epochs": 3, "checkpoints": "epoch", "learning_rate": 0.1, "optimizer": "sgd"}
"""Plain descent: a rounding error stays as small as it is."""


def test_two_processes_do_the_steps_of_one(fit, make_model, make_examples, job, tmp_path, trainable, history):
    """Each has micro-batches of its own: 7 in an epoch, 2 in a step."""
    settings = {**PLAIN, "batch_size": 3, "accumulate": 2}
    model = make_model("t5")
    start = trainable(model)
    fit(model, make_examples(20), dev=make_examples(3, seed=1), folder=tmp_path / "one", **settings)
    statuses, texts = work(tmp_path, [job("t5", tmp_path / "two", settings)], 2)
    assert statuses == [0, 0], texts
    two = type(model).from_pretrained(tmp_path / "two" / "model")
    same((tmp_path / "one", model), (tmp_path / "two", two), start, history, trainable)


def test_killed_with_two_processes_it_goes_on_with_two_or_one(
    fit, make_model, make_examples, job, tmp_path, trainable, history
):
    """The two share each micro-batch; 5 steps an epoch.

    Rank 0, rank 1, and both are killed in the second epoch and resumed with two; "both" is killed
    again in the third and finished with one. "alone" was begun with one and goes on with two.
    """
    settings = {**PLAIN, "batch_size": 4, "batches": "by-length"}
    dev = make_examples(3, seed=1)

    def alone(folder, **more):
        model = make_model("llama")
        done = fit(model, make_examples(20), dev=dev, folder=tmp_path / folder, **settings, **more)
        return model, done.resumed_from

    kills = {"first": {"0": 8}, "second": {"1": 8}, "both": {"0": 8, "1": 8}}
    for folder, kill in [*kills.items(), ("both", {"1": 12})]:
        statuses, _ = work(tmp_path, [job("llama", tmp_path / folder, settings, kill=kill)], 2)
        assert -signal.SIGKILL in statuses
    assert "checkpoint-10" in [path.name for path in (tmp_path / "both/checkpoints").iterdir()]
    with pytest.raises(Stop):
        alone("alone", progress=stop_at(7))
    with_two = ("first", "second", "alone")
    statuses, texts = work(tmp_path, [job("llama", tmp_path / folder, settings) for folder in with_two], 2)
    assert statuses == [0, 0], texts
    assert [(tmp_path / folder / "resumed_from").read_text() for folder in with_two] == ["5"] * 3

    start = trainable(make_model("llama"))
    one, _ = alone("one")
    both, resumed_from = alone("both")
    assert resumed_from == 10
    results = {folder: type(one).from_pretrained(tmp_path / folder / "model") for folder in with_two}
    for folder, model in {**results, "both": both}.items():
        same((tmp_path / "one", one), (tmp_path / folder, model), start, history, trainable)


def test_checkpoints_of_another_training_are_refused(fit, make_model, make_examples, tmp_path):
    fit(make_model("llama"), make_examples(4), epochs=1)
    for change in ({"seed": 4}, {"learning_rate": 1e-4}, {"dev": make_examples(1)}):
        with pytest.raises(
            RecipeError, match=r"checkpoints: these checkpoints .* remove the folder to begin again"
        ):
            fit(make_model("llama"), make_examples(4), epochs=1, **change)
    first, *rest = singles(make_examples(4))
    for other in (
        make_examples(5),
        [Group("a", first.examples), *rest],
        [Group(first.key, (first.examples[0].model_copy(update={"role": "anchor"}),)), *rest],
        [Group(first.key, (*first.examples, *rest[0].examples)), *rest[1:]],
    ):
        with pytest.raises(RecipeError, match="begun with other settings, examples or loss parts"):
            fit(make_model("llama"), other, epochs=1)
    for change in (
        {"parts": (CrossEntropy(0.5),)},
        {"draw": Draw({"": 1})},
        {"batches": "by-length"},
        {"corrected": False},
    ):
        with pytest.raises(RecipeError, match="begun with other settings, examples or loss parts"):
            fit(make_model("llama"), make_examples(4), epochs=1, **change)


def test_a_folder_without_its_marker_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-12").mkdir()
    assert newest(tmp_path, "x", print) is None
    (tmp_path / "checkpoint-12" / "half").write_text("written")
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / MARKER).write_text(
            '{"fingerprint": "x", "seconds": 1, "files": {}}'
        )
    for copy in ("checkpoint-10-backup", "checkpoint-old"):
        shutil.copytree(tmp_path / "checkpoint-10", tmp_path / copy)
    found = newest(tmp_path, "x", print)
    assert found == tmp_path / "checkpoint-10"  # by number, not by name or time
    remove_others(tmp_path, found)
    copies = {"checkpoint-10-backup", "checkpoint-old"}  # made by somebody, and left alone
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-10"} | copies


def flip(path):
    """One bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("harm", [flip, cut])
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", MARKER],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(story, tmp_path, capsys, name, harm):
    """The checkpoints are those of steps 3 and 6 when the training stops; that of 6 is damaged."""
    _, weights, rows = story("llama", 4, "calm")
    with pytest.raises(Stop):
        story("llama", 4, "hurt", 8)
    harm(tmp_path / "hurt/checkpoints/checkpoint-6" / name)
    capsys.readouterr()
    again, weights_again, rows_again = story("llama", 4, "hurt")
    said = capsys.readouterr().err
    assert again.resumed_from == 3
    assert said.count("checkpoint-6: ") == 1 and said.count("\n") == 1, said
    assert torch.equal(weights_again, weights) and rows_again == rows


def test_where_every_checkpoint_is_damaged_training_begins_again(story, tmp_path):
    _, weights, rows = story("llama", 4, "calm")
    with pytest.raises(Stop):
        story("llama", 4, "hurt", 8)
    for path in (tmp_path / "hurt/checkpoints").glob("*/model.safetensors"):
        flip(path)
    again, weights_again, rows_again = story("llama", 4, "hurt")
    assert again.resumed_from == 0
    assert torch.equal(weights_again, weights) and rows_again == rows


def test_a_training_does_not_end_with_a_damaged_best_checkpoint(fit, make_model, make_examples, tmp_path):
    """The first evaluation is the best: its weights are damaged after the second checkpoint."""

    def run(folder):
        scores = iter([0.9, 0.1, 0.2, 0.3])
        given = {"epochs": 4, "choose": "dev-accuracy", "learning_rate": 1e-2}

        def hurt(step, steps, loss):
            if folder == "hurt" and step == 3 and not (tmp_path / "once").exists():
                flip(tmp_path / "hurt/checkpoints/checkpoint-1/model.safetensors")
                (tmp_path / "once").touch()

        dev_exam = lambda model: {"accuracy": next(scores)}  # noqa: E731
        model = make_model("llama")
        done = fit(
            model, make_examples(4), folder=tmp_path / folder, dev_exam=dev_exam, progress=hurt, **given
        )
        return done, model

    with pytest.raises(TrainingError, match=r"checkpoint-1: model\.safetensors is damaged"):
        run("hurt")
    done, _ = run("hurt")
    assert done.resumed_from == 0 and done.chosen_step == 1, "all others would end with the lost one"


def test_everything_in_a_checkpoint_is_on_the_disk_before_its_marker(
    fit, make_model, make_examples, tmp_path, monkeypatch
):
    order = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(handle):
        order.append(os.readlink(f"/proc/self/fd/{handle}"))
        real_sync(handle)

    def replace(source, target):
        order.append(("moved", str(target)))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    fit(make_model("llama"), make_examples(4), folder=tmp_path / "run", epochs=2)
    checkpoint = tmp_path / "run/checkpoints/checkpoint-1"
    before = order[: order.index(("moved", str(checkpoint / MARKER)))]
    files = {str(path) for path in checkpoint.rglob("*") if path.name != MARKER}
    assert len(files) > 5 and files <= set(before)
    assert {str(checkpoint), str(checkpoint.parent)} <= set(before), "their names too"
    after = order[order.index(("moved", str(checkpoint / MARKER))) :]
    assert str(checkpoint) in after, "and the name of the marker"
