"""What is learned must not depend on how a step is cut, padded or counted."""

import copy
import math
import resource

import pytest
import torch
from torch.nn import functional

from limbeck.errors import DiskError, RecipeError, TrainingError
from limbeck.objectives.align import align_batch, score
from limbeck.records import Example
from limbeck.training.collate import collate, tokenise
from limbeck.training.parts import FineTune

BOTH = pytest.mark.parametrize("kind", ["llama", "t5"])


class ThreeParts:
    """Per token, per example, and one that is only watched."""

    def __init__(self, encoder_decoder):
        self.weights = {"tokens": 1.0, "examples": 0.7, "watched": 0.0}
        self.encoder_decoder = encoder_decoder

    def count(self, batch):
        scored = align_batch(batch, encoder_decoder=self.encoder_decoder)
        examples = torch.tensor(float(len(scored.rows_N.unique())))
        return {"tokens": scored.count(), "examples": examples, "watched": examples}

    def sums(self, model, batch):
        scored, logits = score(model, batch)
        losses = functional.cross_entropy(logits, scored.targets_N, reduction="none")
        lengths = scored.row_sums(torch.ones_like(losses)).clamp_min(1)
        examples = (scored.row_sums(losses) / lengths).square().sum()
        return {"tokens": losses.sum(), "examples": examples, "watched": 1e6 * examples}


class MeanOfMeans(FineTune):
    """The usual mistake: the mean of the micro-batches' means."""

    def count(self, batch):
        return {"cross_entropy": torch.tensor(1.0)}

    def sums(self, model, batch):
        count = super().count(batch)["cross_entropy"]
        return {"cross_entropy": super().sums(model, batch)["cross_entropy"] / count}


CUTS = [(8, 1), (2, 4), (3, 3), (1, 8)]


def moved(fit, make_model, make_examples, tmp_path, trainable, kind, lora, objective, **settings):
    """How far 8 ragged examples move the weights in 3 steps, for every way to cut a step."""
    moves = []
    for batch_size, accumulate in CUTS:
        model = make_model(kind, lora=lora)
        start = trainable(model)
        fit(
            model,
            make_examples(8),
            objective=objective(kind == "t5"),
            folder=tmp_path / f"{batch_size}x{accumulate}",
            epochs=3,
            checkpoints=1,
            batch_size=batch_size,
            accumulate=accumulate,
            **settings,
        )
        moves.append(trainable(model) - start)
    return [((move - moves[0]).norm() / moves[0].norm()).item() for move in moves[1:]]


@BOTH
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.1), ("adamw", 1e-2)])
def test_8x1_is_2x4_is_1x8(fit, make_model, make_examples, tmp_path, trainable, kind, lora, optimizer, rate):
    given = (fit, make_model, make_examples, tmp_path, trainable, kind, lora)
    assert max(moved(*given, ThreeParts, optimizer=optimizer, learning_rate=rate)) < 1e-4


def test_the_mean_of_means_would_be_noticed(fit, make_model, make_examples, tmp_path, trainable):
    given = (fit, make_model, make_examples, tmp_path, trainable, "llama", False)
    assert min(moved(*given, MeanOfMeans, optimizer="sgd", learning_rate=0.1)) > 1e-2


def test_weighted_prompts_are_invariant_too(fit, make_model, make_examples, tmp_path, trainable):
    given = (fit, make_model, make_examples, tmp_path, trainable, "llama", False)
    assert max(moved(*given, FineTune, optimizer="sgd", learning_rate=0.1, prompt_weight=0.1)) < 1e-4


@torch.no_grad()
def one_by_one(model, tokenizer, examples, prompt_weight=0.0):
    """(Σ weighted nats, Σ weights) of scored tokens, one unpadded example at a time, in float64."""
    nats = total = 0.0
    both = model.config.is_encoder_decoder
    for row in tokenise(tokenizer, examples, encoder_decoder=both, max_length=99).rows:
        batch = collate([row], 0)
        inputs = {"input_ids": batch["input_ids"]}
        if both:
            inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
            targets, weights = row.labels, [1.0] * len(row.labels)
        else:
            targets = row.input_ids[1:]
            weights = [prompt_weight if label == -100 else 1.0 for label in row.labels[1:]]
        log_p = model(**inputs).logits[0].double().log_softmax(-1)
        for place, (target, weight) in enumerate(zip(targets, weights, strict=True)):
            nats -= weight * log_p[place, target].item()
            total += weight
    return nats, total


@BOTH
def test_logged_loss_is_the_mean_over_all_tokens(
    fit, make_model, make_examples, tokenizer, tmp_path, history, kind
):
    """Of the first step: 20 examples in 5 micro-batches, before anything is learned."""
    model, examples = make_model(kind), make_examples(20)
    nats, total = one_by_one(copy.deepcopy(model), tokenizer, examples)
    fit(model, examples, epochs=1, batch_size=4, accumulate=8)
    (row,) = history(tmp_path / "run")
    assert row["step"] == 1 and row["epoch"] == 1.0
    assert row["loss"] == pytest.approx(nats / total, rel=1e-5)
    assert row["cross_entropy"] == row["loss"]


def test_prompt_weight_divides_by_the_weights(fit, make_model, make_examples, tokenizer, tmp_path, history):
    model, examples = make_model("llama"), make_examples(9)
    nats, total = one_by_one(copy.deepcopy(model), tokenizer, examples, prompt_weight=0.3)
    fit(model, examples, epochs=1, batch_size=4, accumulate=3, prompt_weight=0.3)
    assert history(tmp_path / "run")[0]["loss"] == pytest.approx(nats / total, rel=1e-5)


@BOTH
def test_dev_loss_is_the_mean_over_all_dev_tokens(
    fit, make_model, make_examples, tokenizer, tmp_path, history, kind
):
    """Of the last evaluation: the finished model, dropout off."""
    model, dev = make_model(kind, dropout=0.3), make_examples(7, seed=1)
    fit(model, make_examples(6), dev=dev, epochs=2, batch_size=3)
    nats, total = one_by_one(model, tokenizer, dev)
    last = history(tmp_path / "run")[-1]
    assert last["step"] == 4
    assert last["dev_loss"] == pytest.approx(nats / total, rel=1e-5)
    assert last["dev_cross_entropy"] == last["dev_loss"]


def test_parts_add_up_to_the_loss(fit, make_model, make_examples, tmp_path, history):
    """Also where a row averages several steps; a part weighted 0 is logged but not trained on."""
    dev = make_examples(3, seed=2)
    done = fit(
        make_model("llama"), make_examples(8), dev, ThreeParts(False), epochs=220, batch_size=4, checkpoints=3
    )
    rows = history(tmp_path / "run")
    training = [row for row in rows if "loss" in row]
    assert done.steps == 440
    assert training[0]["step"] == 2 and training[-1]["step"] == 440  # 440 steps, about 200 rows
    assert [row["step"] for row in rows if "dev_loss" in row] == [147, 294, 440]
    for row in training:
        assert row["loss"] == pytest.approx(row["tokens"] + 0.7 * row["examples"], rel=1e-4)
        assert row["watched"] == pytest.approx(1e6 * row["examples"], rel=1e-4)
    for row in rows:
        if "dev_loss" in row:
            assert row["dev_loss"] == pytest.approx(row["dev_tokens"] + 0.7 * row["dev_examples"])


def test_evaluating_more_often_changes_nothing(fit, make_model, make_examples, tmp_path, trainable):
    """Dropout of the training does not see what the evaluation draws."""
    weights = []
    for checkpoints in (1, 6):
        model = make_model("t5", dropout=0.2)
        fit(
            model,
            make_examples(8),
            dev=make_examples(3),
            dev_exam=lambda m: {"accuracy": torch.rand(1).item()},
            folder=tmp_path / str(checkpoints),
            epochs=3,
            batch_size=4,
            checkpoints=checkpoints,
        )
        weights.append(trainable(model))
    assert torch.equal(*weights)


@BOTH
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("choose", ["dev-accuracy", "dev-loss"])
def test_the_chosen_checkpoint_is_what_the_model_becomes(
    fit, make_model, make_examples, tmp_path, trainable, history, kind, lora, choose
):
    """Training on one text teaches the opposite of dev, so that the first evaluations are the best."""
    seen = []

    def exam(model):
        assert not model.training
        seen.append(trainable(model))
        return {"accuracy": (0.2, 0.9, 0.9, 0.1)[len(seen) - 1]}

    model = make_model(kind, lora=lora)
    done = fit(
        model,
        [Example(problem_id="a", prompt="w1", completion="w2 w3 w4")] * 4,
        dev=make_examples(4),
        dev_exam=exam,
        epochs=4,
        learning_rate=0.1,
        choose=choose,
    )
    rows = [row for row in history(tmp_path / "run") if "dev_loss" in row]
    assert [row["dev_accuracy"] for row in rows] == [0.2, 0.9, 0.9, 0.1]
    if choose == "dev-loss":
        best = min(range(4), key=lambda n: rows[n]["dev_loss"])
        assert best < 3  # or the test could not fail
    else:
        best = 1
    assert done.chosen_step == best + 1
    assert torch.equal(trainable(model), seen[best])
    assert not torch.equal(trainable(model), seen[-1])


def test_a_choice_without_dev_is_refused(fit, make_model, make_examples):
    model, examples = make_model("llama"), make_examples(2)
    with pytest.raises(RecipeError, match="choose: dev-loss needs dev examples"):
        fit(model, examples, choose="dev-loss")
    with pytest.raises(RecipeError, match="choose: dev-accuracy needs an exam on dev"):
        fit(model, examples, dev=examples, choose="dev-accuracy")


def test_an_exam_alone_can_choose(fit, make_model, make_examples, tmp_path, history):
    scores = iter([0.5, 0.75, 0.25])
    done = fit(
        make_model("llama"),
        make_examples(4),
        dev_exam=lambda model: {"accuracy": next(scores)},
        epochs=3,
        choose="dev-accuracy",
    )
    assert done.chosen_step == 2
    assert [row["dev_accuracy"] for row in history(tmp_path / "run") if "dev_accuracy" in row] == [
        0.5,
        0.75,
        0.25,
    ]


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_loss_that_is_not_finite_names_step_and_fix(fit, make_model, make_examples, tmp_path):
    with pytest.raises(TrainingError, match=r"step \d+: .* not finite.*; lower learning_rate"):
        fit(make_model("llama"), make_examples(8), epochs=9, optimizer="sgd", learning_rate=1e30, clip=0)


def test_a_broken_last_step_is_not_passed_on(fit, make_model, make_examples):
    """No later loss would show it."""
    model = make_model("llama")
    model.model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="step 1: the gradient is not finite"):
        fit(model, make_examples(4), epochs=1)


def test_too_long_examples_are_reported(fit, make_model, make_examples):
    long = Example(problem_id="long", prompt="w1 " * 30, completion="w2")
    done = fit(
        make_model("llama"), [*make_examples(3), long], dev=[long, *make_examples(2)], epochs=1, max_length=24
    )
    assert done.too_long == [long] and done.dev_too_long == [long]


def test_nothing_to_train_on(fit, make_model):
    with pytest.raises(TrainingError, match="no example to train on"):
        fit(make_model("llama"), [])


@BOTH
def test_norms_and_biases_are_not_decayed(fit, make_model, make_examples, kind):
    """With a vanishing gradient only decay moves a weight: matrices shrink, T5's layer norms stay."""
    model = make_model(kind)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    fit(model, make_examples(2), epochs=1, optimizer="sgd", learning_rate=1e-12, weight_decay=1e10, clip=1e-9)
    kept = {name for name, weight in model.named_parameters() if torch.allclose(weight, before[name])}
    assert {name for name in before if "norm" in name} <= kept
    shrunk = set(before) - kept
    assert {
        name for name in shrunk if torch.allclose(model.get_parameter(name), 0.99 * before[name])
    } == shrunk
    assert any("k_proj" in name or ".k." in name for name in shrunk)


@BOTH
def test_gradient_checkpointing_and_bf16_train(fit, make_model, make_examples, tmp_path, trainable, kind):
    results = {}
    for name, more in {
        "plain": {},
        "checkpointed": {"gradient_checkpointing": True},
        "bf16": {"precision": "bf16"},
    }.items():
        model = make_model(kind)
        forward = model.forward
        fit(
            model,
            make_examples(8),
            folder=tmp_path / name,
            epochs=2,
            optimizer="sgd",
            learning_rate=0.1,
            **more,
        )
        results[name] = trainable(model)
        assert model.forward.__func__ is forward.__func__  # no autocast is left around it
        assert not model.is_activation_checkpointing
    torch.testing.assert_close(results["checkpointed"], results["plain"])
    assert not torch.equal(results["bf16"], results["plain"])
    torch.testing.assert_close(results["bf16"], results["plain"], atol=1e-2, rtol=0.1)


def test_the_model_is_left_as_it_was_found(fit, make_model, make_examples, capfd):
    """The library would save `use_cache: false` with the model, and print its bars and logs."""
    model = make_model("llama")
    fit(model, make_examples(4), dev=make_examples(2), epochs=2)
    assert model.config.use_cache is True
    assert not model.training
    assert capfd.readouterr() == ("", "")


def test_progress_is_told_after_every_step(fit, make_model, make_examples, tmp_path, history):
    told = []
    fit(
        make_model("llama"),
        make_examples(8),
        epochs=2,
        batch_size=3,
        progress=lambda *told_: told.append(told_),
    )
    assert [(step, total) for step, total, _ in told] == [(n, 6) for n in range(1, 7)]
    losses = [row["loss"] for row in history(tmp_path / "run")]
    assert [loss for _, _, loss in told] == pytest.approx(losses, rel=1e-5)


def test_warmup_of_a_constant_rate(fit, make_model, make_examples, tmp_path, history):
    fit(make_model("llama"), make_examples(10), epochs=1, batch_size=1, warmup=0.35, learning_rate=8e-4)
    rates = [row["learning_rate"] for row in history(tmp_path / "run")]
    assert rates == pytest.approx([0, 2e-4, 4e-4, 6e-4] + [8e-4] * 6)


def test_a_full_disk_is_one_sentence(fit, make_model, make_examples):
    """Files may not grow beyond 20 kB; the weights need more, in a format that has its own errors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(DiskError, match="checkpoints: a checkpoint could not be written; free the space"):
            fit(make_model("llama"), make_examples(4), epochs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_objective_for_the_other_architecture_is_refused(fit, make_model, make_examples):
    with pytest.raises(ValueError, match="got a model of another kind"):
        fit(make_model("t5"), make_examples(2), objective=FineTune(encoder_decoder=False))
