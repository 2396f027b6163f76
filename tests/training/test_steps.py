"""`train.steps`: as many optimiser steps as asked for, however many examples there are."""

import pytest
import torch

from limbeck.records import Example
from limbeck.training.groups import Draw, Group

from .test_resume import Stop, stop_at

PLAIN = {"batch_size": 3, "accumulate": 2, "schedule": "cosine", "warmup": 0.2}
"""20 examples: 4 steps an epoch."""


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("batches", ["random", "by-length"])
def test_whole_epochs_are_the_same_either_way(
    fit, make_model, make_examples, tmp_path, trainable, history, kind, batches
):
    found = []
    for name, length in (("epochs", {"epochs": 3}), ("steps", {"steps": 12, "epochs": 99})):
        model = make_model(kind, dropout=0.1)
        done = fit(
            model,
            make_examples(20),
            dev=make_examples(4, seed=1),
            folder=tmp_path / name,
            batches=batches,
            **PLAIN,
            **length,
        )
        found.append((done.steps, done.epochs, done.tokens, trainable(model), history(tmp_path / name)))
    (steps, epochs, tokens, weights, rows), (steps_, epochs_, tokens_, weights_, rows_) = found
    assert (steps, epochs, tokens) == (steps_, epochs_, tokens_) == (12, 3.0, tokens)
    assert torch.equal(weights, weights_) and rows == rows_


@pytest.mark.parametrize("draw", [None, Draw({"": 1})])
@pytest.mark.parametrize("steps", [1, 3, 6, 11])
def test_a_training_may_end_within_an_epoch(fit, make_model, make_examples, monkeypatch, draw, steps):
    """Its tokens are those of the batches that it saw."""
    from limbeck.training import trainer

    read, plain = [], trainer.loss

    def counting(parts, model, batch, counts):
        read.append(int(batch["attention_mask"].sum()))
        return plain(parts, model, batch, counts)

    monkeypatch.setattr(trainer, "loss", counting)
    examples = make_examples(40)
    groups = [Group(str(n), tuple(examples[n::20])) for n in range(20)] if draw else examples[:20]
    done = fit(make_model("llama"), groups, draw=draw, steps=steps, **PLAIN)
    assert (done.steps, done.epochs) == (steps, steps / 4)
    assert done.tokens == sum(read)


@pytest.mark.parametrize("checkpoints", [3, "epoch"])
def test_stopped_and_resumed_it_ends_the_same(
    fit, make_model, make_examples, tmp_path, trainable, history, checkpoints
):
    """10 steps of 4 an epoch, stopped in the second and in the third, which is not whole."""

    def tell(folder, stop=None):
        model = make_model("llama", dropout=0.2)
        done = fit(
            model,
            make_examples(20),
            dev=make_examples(4, seed=1),
            folder=tmp_path / folder,
            progress=stop and stop_at(stop),
            checkpoints=checkpoints,
            choose="dev-loss",
            steps=10,
            **PLAIN,
        )
        return done.chosen_step, done.tokens, trainable(model), history(tmp_path / folder)

    *facts, weights, rows = tell("undisturbed")
    for stop in (6, 9):
        with pytest.raises(Stop):
            tell("stopped", stop)
    *facts_again, weights_again, rows_again = tell("stopped")
    assert facts_again == facts and rows_again == rows and torch.equal(weights_again, weights)
    assert [row["step"] for row in rows if "dev_loss" in row] == [4, 8, 10]


def test_batches_cut_by_tokens_have_enough_epochs(fit, make_model, make_examples):
    """Some orders of these need more micro-batches than others."""
    done = fit(make_model("llama"), make_examples(20), batch_size=8, batch_tokens=40, steps=40, epochs=1)
    assert done.steps == 40 and done.epochs > 1


def test_two_sets_of_examples_get_the_same_number_of_steps(fit, make_model, make_examples, tmp_path):
    """What a comparison at equal steps needs."""
    steps = [
        fit(make_model("llama"), make_examples(count), folder=tmp_path / str(count), steps=15).steps
        for count in (7, 20, 33)
    ]
    assert steps == [15, 15, 15]


def test_steps_that_the_limit_of_tokens_makes_smaller_are_named(fit, make_model, tmp_path, capsys):
    four = Example(problem_id="p", prompt="w1 w2", completion="w3")  # and the end of sequence
    fit(make_model("llama"), [four] * 12, epochs=1, batch_size=4, batch_tokens=12)
    wanted = "makes steps smaller: they have 3.0 groups on average, not 4; 16 would cut none"
    assert f"train.batch_tokens: 12 {wanted}" in capsys.readouterr().err
    fit(make_model("llama"), [four] * 12, epochs=1, batch_size=4, batch_tokens=16, folder=tmp_path / "other")
    assert "batch_tokens" not in capsys.readouterr().err
