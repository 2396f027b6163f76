"""What is learned must not depend on how a step is cut, padded or counted."""

import copy
import math
import random
import resource
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from limbeck.errors import DiskError, RecipeError, TrainingError
from limbeck.records import Example
from limbeck.training.collate import collate, tokenise
from limbeck.training.groups import Draw, Group, singles
from limbeck.training.parts import CrossEntropy, SpanKL, Triplet

BOTH = pytest.mark.parametrize("kind", ["llama", "t5"])


@dataclass(frozen=True)
class Naive:
    """A part of `naive_loss`, which knows it by its name; its count is of tokens, examples or 1."""

    name: str
    weight: float = 1.0
    per: str = "token"

    def count(self, batch, *, encoder_decoder):
        labels = batch["labels"] if encoder_decoder else batch["labels"][:, 1:]
        scored = labels != -100
        if self.per == "token":
            return scored.sum().float()
        return scored.any(1).sum().float() if self.per == "example" else torch.tensor(1.0)


THREE = (Naive("tokens"), Naive("examples", 0.7, "example"), Naive("pairs", 0.1, "example"))
"""Per token, and two per example."""

MEAN_OF_MEANS = (Naive("mean", 1.0, "step"),)
"""The usual mistake: the mean of the micro-batches' means."""


def naive_loss(parts, model, batch, counts):
    """The interface of `parts.loss`, from the library's own logits."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labels = batch["labels"]
    if model.config.is_encoder_decoder:
        logits = model(**inputs, labels=labels).logits
    else:
        logits, labels = model(**inputs).logits[:, :-1], labels[:, 1:]
    nats = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    lengths = (labels != -100).sum(1)
    means = nats.sum(1) / lengths.clamp_min(1)
    sums = {
        "tokens": nats.sum(),
        "examples": means.square().sum(),
        "pairs": means.sqrt().sum(),
        "mean": nats.sum() / lengths.sum(),
        "broken": nats.sum() * math.inf,
    }
    values = {part.name: sums[part.name] / counts[part.name].clamp_min(1) for part in parts}
    total = torch.stack([part.weight * values[part.name] for part in parts]).sum()
    return total, {name: value.detach() for name, value in values.items()}


@pytest.fixture
def naive(monkeypatch):
    monkeypatch.setattr("limbeck.training.trainer.loss", naive_loss)


CUTS = [(8, 1), (2, 4), (3, 3), (1, 8)]


def moved(fit, make_model, make_examples, tmp_path, trainable, kind, lora, parts, **settings):
    """How far 8 ragged examples move the weights in 3 steps, for every way to cut a step."""
    moves = []
    for batch_size, accumulate in CUTS:
        model = make_model(kind, lora=lora)
        start = trainable(model)
        fit(
            model,
            make_examples(8),
            parts=parts,
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
@pytest.mark.parametrize(
    ("optimizer", "rate", "batches"), [("sgd", 0.1, "random"), ("adamw", 1e-2, "by-length")]
)
def test_8x1_is_2x4_is_1x8(
    fit, make_model, make_examples, tmp_path, trainable, naive, kind, lora, optimizer, rate, batches
):
    given = (fit, make_model, make_examples, tmp_path, trainable, kind, lora, THREE)
    assert max(moved(*given, optimizer=optimizer, learning_rate=rate, batches=batches)) < 1e-4


def test_the_mean_of_means_would_be_noticed(fit, make_model, make_examples, tmp_path, trainable, naive):
    given = (fit, make_model, make_examples, tmp_path, trainable, "llama", False)
    assert min(moved(*given, MEAN_OF_MEANS, optimizer="sgd", learning_rate=0.1)) > 1e-2


@pytest.mark.parametrize("batches", ["random", "by-length"])
def test_weighted_prompts_are_invariant_too(fit, make_model, make_examples, tmp_path, trainable, batches):
    """By length: also the correction, which is then 1."""
    given = (fit, make_model, make_examples, tmp_path, trainable, "llama", False, (CrossEntropy(),))
    more = {"prompt_weight": 0.1, "batches": batches}
    assert max(moved(*given, optimizer="sgd", learning_rate=0.1, **more)) < 1e-4


@torch.no_grad()
def one_by_one(model, tokenizer, examples, prompt_weight=0.0):
    """(Σ weighted nats, Σ weights) of scored tokens, one unpadded example at a time, in float64."""
    nats = total = 0.0
    both = model.config.is_encoder_decoder
    for row in tokenise(tokenizer, singles(examples), encoder_decoder=both, max_length=99).rows:
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


def test_parts_add_up_to_the_loss(fit, make_model, make_examples, tmp_path, history, naive):
    """Also where a row averages several steps."""
    dev = make_examples(3, seed=2)
    done = fit(make_model("llama"), make_examples(8), dev, THREE, epochs=220, batch_size=4, checkpoints=3)
    rows = history(tmp_path / "run")
    training = [row for row in rows if "loss" in row]
    assert done.steps == 440
    assert training[0]["step"] == 2 and training[-1]["step"] == 440  # 440 steps, about 200 rows
    assert [row["step"] for row in rows if "dev_loss" in row] == [147, 294, 440]

    def total(row, prefix=""):
        return sum(part.weight * row[prefix + part.name] for part in THREE)

    for row in training:
        assert row["loss"] == pytest.approx(total(row), rel=1e-9)
    for row in rows:
        if "dev_loss" in row:
            assert row["dev_loss"] == pytest.approx(total(row, "dev_"), rel=1e-9)


def test_the_logged_loss_is_that_which_was_differentiated(
    fit, make_model, make_examples, tmp_path, history, naive, monkeypatch
):
    seen = []

    def watched(*given):
        total, values = naive_loss(*given)
        seen.append(total.item())
        return total, values

    monkeypatch.setattr("limbeck.training.trainer.loss", watched)
    fit(make_model("llama"), make_examples(8), parts=THREE, epochs=2, batch_size=2, accumulate=4)
    rows = history(tmp_path / "run")
    assert [row["loss"] for row in rows] == pytest.approx([sum(seen[:4]), sum(seen[4:])], rel=1e-6)


class Unused:
    name, weight = "unused", 0.0

    def count(self, batch, *, encoder_decoder):
        raise AssertionError("a part weighted 0 was counted")


def test_a_part_weighted_0_is_neither_run_nor_logged(
    fit, make_model, make_examples, tmp_path, history, trainable
):
    weights = []
    for name, parts in {"alone": (CrossEntropy(),), "two": (CrossEntropy(), Unused())}.items():
        model = make_model("llama")
        fit(model, make_examples(6), make_examples(2), parts, epochs=1, folder=tmp_path / name)
        weights.append(trainable(model))
    assert torch.equal(*weights)
    assert not [name for row in history(tmp_path / "two") for name in row if "unused" in name]


@pytest.mark.parametrize("parts", [(Unused(),), (CrossEntropy(), CrossEntropy(0.5))])
def test_parts_need_a_weight_and_a_name_of_their_own(fit, make_model, make_examples, parts):
    with pytest.raises(ValueError, match=r"every loss part has weight 0|their names must differ"):
        fit(make_model("llama"), make_examples(2), parts=parts)


@dataclass(frozen=True)
class InRow(Naive):
    """Counts something in the batches that have one row; with the default in none."""

    key: tuple = (1, 1)
    seen: list = field(default_factory=list)

    def count(self, batch, *, encoder_decoder):
        self.seen.extend(map(tuple, batch["keys"].tolist()))
        return torch.tensor(float(self.key in map(tuple, batch["keys"].tolist())))


@pytest.mark.parametrize("length", [{"steps": 1}, {"epochs": 3}])
def test_a_part_that_counts_nothing_is_refused_before_the_first_step(
    fit, make_model, make_examples, tmp_path, naive, length
):
    """Whatever the length of the training; what is in one batch of an epoch is enough."""
    given = {"batch_size": 2, **length}
    nothing = InRow("pairs")
    with pytest.raises(
        TrainingError, match=r"pairs: this part .* counts nothing in any epoch.* set its weight to 0"
    ):
        fit(make_model("llama"), make_examples(8), parts=(Naive("tokens"), nothing), **given)
    assert not (tmp_path / "run" / "history.jsonl").exists()
    parts = (Naive("tokens"), InRow("pairs", key=nothing.seen[-1]))
    assert fit(make_model("llama"), make_examples(8), parts=parts, **given).steps == length.get("steps", 12)


def test_a_row_that_some_epochs_draw_is_enough(fit, make_model, naive):
    """One of three is drawn in each epoch, and the part counts one of them alone."""
    group = Group("q", tuple(Example(problem_id="q", prompt="w1", completion=f"w{n}") for n in (2, 3, 4)))
    given = {"draw": Draw({"": 1}), "epochs": 12}
    watched = InRow("pairs")
    with pytest.raises(TrainingError, match="counts nothing in any epoch"):
        fit(make_model("llama"), [group], parts=(Naive("tokens"), watched), **given)
    assert len(watched.seen) == 12 and len(set(watched.seen)) == 3
    last = max(set(watched.seen), key=watched.seen.index)
    assert fit(make_model("llama"), [group], parts=(Naive("tokens"), InRow("pairs", key=last)), **given)


@pytest.mark.parametrize(
    ("part", "needs"),
    [
        (SpanKL(0.5), r"span_divergence: .*rationales.per_problem, .* or set settings.span_weight to 0"),
        (
            Triplet(0.5),
            r"triplet: .*settings.rationales, .*raise train.max_length or train.max_completion where they "
            r"were too long, or set settings.reflection.weight to 0",
        ),
    ],
)
def test_a_part_that_compares_says_what_it_needs(fit, make_model, make_examples, part, needs):
    with pytest.raises(TrainingError, match=needs):
        fit(make_model("llama"), make_examples(4), parts=(CrossEntropy(), part), steps=1)


def test_what_a_step_does_not_count_is_not_in_its_history(
    fit, make_model, make_examples, tmp_path, history, monkeypatch
):
    """One group of four has a triplet: a 0 in other steps, or in a mean over all, would say it is learned."""
    first, *others = make_examples(6)
    three = [
        first.model_copy(update={"role": role, "scored": role == "anchor", "completion": text})
        for role, text in (("anchor", first.completion), ("positive", "w3 w4"), ("negative", "w5 w6 w7"))
    ]
    groups = [Group("0", tuple(three)), *singles(others[:3])]
    given = {"parts": (CrossEntropy(), Triplet(0.5)), "epochs": 2, "batch_size": 1, "checkpoints": 1}
    fit(make_model("llama"), groups, others[3:], folder=tmp_path / "steps", **given)
    *steps, dev = history(tmp_path / "steps")
    found = [row["triplet"] for row in steps if "triplet" in row]
    assert len(steps) == 8 and len(found) == 2 and all(0 < value < 3 for value in found)
    assert all("cross_entropy" in row for row in steps)
    assert "dev_loss" in dev and "dev_triplet" not in dev

    monkeypatch.setattr("limbeck.training.arguments.LOGGED_ROWS", 1)
    fit(make_model("llama"), groups, folder=tmp_path / "whole", **given)
    (whole,) = history(tmp_path / "whole")
    assert whole["triplet"] == pytest.approx(sum(found) / 2, abs=1e-5)
    assert whole["loss"] == pytest.approx(sum(row["loss"] for row in steps) / 8, abs=1e-5)


def without_a_model(parts, model, batch, counts):
    """A loss that runs no model: what waits for the device is then ours or the library's."""
    norm = torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()
    value = norm * batch["attention_mask"].sum() / counts["tokens"]
    return value, {"tokens": value.detach()}


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_host_waits_once_per_step(fit, make_model, make_examples, monkeypatch, accumulate):
    """Counted: the ways from a tensor to a number, in steps that log nothing."""
    monkeypatch.setattr("limbeck.training.trainer.loss", without_a_model)
    monkeypatch.setattr("limbeck.training.arguments.LOGGED_ROWS", 1)
    waits, at_step = [], []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(tensor, *given, original=original):
            waits.append(tensor)
            return original(tensor, *given)

        monkeypatch.setattr(torch.Tensor, name, counted)
    fit(
        make_model("llama"),
        make_examples(32),
        parts=(Naive("tokens"),),
        epochs=1,
        batch_size=1,
        accumulate=accumulate,
        optimizer="sgd",
        checkpoints=1,
        progress=lambda step, steps, loss: at_step.append(len(waits)),
    )
    assert [after - before for before, after in pairwise(at_step)] == [1] * (32 // accumulate - 1)


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


@pytest.mark.parametrize("lora", [False, True])
def test_an_exam_on_dev_computes_as_that_of_the_saved_model(fit, make_model, make_examples, lora):
    """Not under the autocast of the training, which goes on afterwards."""
    model, trained, examined, seen = make_model("llama", lora=lora), set(), set(), []

    def exam(model):
        seen.clear()
        model(input_ids=torch.tensor([[5, 6, 7]]))
        examined.update(seen)
        return {"accuracy": 0.5}

    layer = next(module for name, module in model.named_modules() if name.endswith("layers.0.mlp"))
    layer.register_forward_hook(
        lambda module, given, found: trained.add(found.dtype) if module.training else seen.append(found.dtype)
    )
    fit(model, make_examples(4), dev_exam=exam, epochs=2, precision="bf16", choose="dev-accuracy")
    assert (trained, examined) == ({torch.bfloat16}, {torch.float32})


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
        fit(make_model("llama"), make_examples(8), epochs=9, optimizer="sgd", learning_rate=4e9, clip=0)


def test_a_loss_that_is_not_finite_changes_no_weight(fit, make_model, make_examples, naive, trainable):
    model = make_model("llama")
    before = trainable(model)
    parts = (Naive("tokens"), Naive("broken"))
    with pytest.raises(TrainingError, match=r"step 1: loss is not finite \(tokens 3\.\d+, broken inf\)"):
        fit(model, make_examples(8), parts=parts, epochs=1, batch_size=2, accumulate=2)
    assert torch.equal(trainable(model), before)


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
    fit(model, make_examples(2), epochs=1, optimizer="sgd", learning_rate=1e-11, weight_decay=1e9, clip=1e-9)
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


@pytest.mark.parametrize("warmup", [0.35, 4])
def test_warmup_of_a_constant_rate(fit, make_model, make_examples, tmp_path, history, warmup):
    fit(make_model("llama"), make_examples(10), epochs=1, batch_size=1, warmup=warmup, learning_rate=8e-4)
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


def questions(count, per_question, seed=0):
    """Groups of rationales of a question; the first word says whose a rationale is and which."""
    draw = random.Random(seed)
    return [
        Group(
            f"q{n}",
            tuple(
                Example(
                    problem_id=f"q{n}",
                    prompt=f"w{n}",
                    completion=" ".join(
                        [f"w{20 + k}", *(f"w{draw.randrange(20)}" for _ in range(draw.randint(1, 9)))]
                    ),
                )
                for k in range(per_question)
            ),
        )
        for n in range(count)
    ]


@pytest.fixture
def seen(monkeypatch):
    """The batches of every step: (question, rationale, group of the batch) of each row."""
    batches = []

    def watched(parts, model, batch, counts):
        rows = zip(batch["input_ids"][:, 0], batch["input_ids"][:, 1], batch["groups"], strict=True)
        batches.append([(int(q) - 3, int(k) - 23, int(group)) for q, k, group in rows])
        return naive_loss(parts, model, batch, counts)

    monkeypatch.setattr("limbeck.training.trainer.loss", watched)
    return batches


@pytest.mark.parametrize("batches", ["random", "by-length"])
def test_two_of_k_drawn_again_each_epoch_in_one_micro_batch(fit, make_model, seen, batches):
    """10 questions with 5 rationales, 12 epochs: 10 pairs of each question are possible."""
    fit(
        make_model("llama"),
        questions(10, 5),
        parts=(Naive("tokens"),),
        draw=Draw({"": 2}),
        epochs=12,
        batch_size=3,
        checkpoints=1,
        batches=batches,
    )
    epochs = [seen[n : n + 4] for n in range(0, 48, 4)]
    assert len(seen) == 48
    pairs = {n: set() for n in range(10)}
    for epoch in epochs:
        found = []
        for batch in epoch:
            groups = [[row for row in batch if row[2] == number] for number in range(len(batch) // 2)]
            assert all(len(group) == 2 and len({row[0] for row in group}) == 1 for group in groups)
            found += [group[0][0] for group in groups]
            for (question, first, _), (_, second, _) in groups:
                pairs[question].add((first, second))
        assert sorted(found) == list(range(10))  # an epoch is each question once
    assert all(len(of) >= 5 for of in pairs.values())


def test_an_ablation_sees_the_same_pairs_in_the_same_order(fit, make_model, tmp_path, seen):
    given = {"draw": Draw({"": 2}), "epochs": 3, "batch_size": 3, "checkpoints": 1}
    for name, parts in {
        "whole": (Naive("tokens"), Naive("examples", 0.5, "example")),
        "less": (Naive("tokens"),),
    }.items():
        fit(make_model("llama"), questions(7, 4), parts=parts, folder=tmp_path / name, **given)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


def test_pairs_of_two_drawn_count_on_dev_too(fit, make_model, history, tmp_path):
    """All three rationales of a question are no pair; so dev gets two of them, always the same."""
    groups = [
        Group(
            group.key,
            tuple(
                one.model_copy(
                    update={"completion": f"{one.completion} w7", "answer_span": (start, start + 2)}
                )
                for one in group.examples
                for start in [len(one.completion) + 1]
            ),
        )
        for group in questions(4, 3)
    ]
    parts = (CrossEntropy(), SpanKL(1.0))
    for rate, folder in ((1e-9, "still"), (1e-2, "moving")):
        given = {"parts": parts, "draw": Draw({"": 2}), "epochs": 2, "learning_rate": rate}
        fit(make_model("llama"), groups, groups[:2], folder=tmp_path / folder, **given)
    dev = [row for row in history(tmp_path / "still") if "dev_loss" in row]
    assert dev[0]["dev_span_divergence"] > 0
    assert dev[0]["dev_span_divergence"] == pytest.approx(dev[1]["dev_span_divergence"], rel=1e-4)
    assert history(tmp_path / "moving")[-1]["dev_loss"] < dev[0]["dev_loss"]


def test_groups_of_one_are_examples(fit, make_model, make_examples, tmp_path, trainable):
    """Also where one is drawn of one: K = 1."""
    weights = []
    for name, draw in {"plain": None, "drawn": Draw({"": 1})}.items():
        model = make_model("llama")
        fit(model, make_examples(9), draw=draw, epochs=2, batch_size=4, folder=tmp_path / name)
        weights.append(trainable(model))
    assert torch.equal(*weights)


def test_a_question_with_one_rationale_takes_part_with_it(fit, make_model, seen):
    groups = [*questions(4, 3), *questions(1, 1, seed=9)]
    draw = Draw({"": 2})
    done = fit(make_model("llama"), groups, parts=(Naive("tokens"),), draw=draw, epochs=1, batch_size=8)
    assert not done.dropped
    assert sum(len(rows) for rows in seen) == 4 * 2 + 1


def test_tokens_are_those_of_what_was_drawn(fit, make_model, make_examples, monkeypatch, tmp_path):
    """Without padding, encoder and decoder together."""
    examples = make_examples(9)
    words = sum(len(f"{example.prompt} {example.completion}".split()) + 1 for example in examples)
    for kind in ("llama", "t5"):
        assert (
            fit(make_model(kind), examples, folder=tmp_path / kind, epochs=3, batch_size=2).tokens
            == 3 * words
        )
    read = []

    def watched(parts, model, batch, counts):
        read.append(int(batch["attention_mask"].sum()))
        return naive_loss(parts, model, batch, counts)

    monkeypatch.setattr("limbeck.training.trainer.loss", watched)
    groups = [Group("q", tuple(Example(problem_id="q", prompt="w1", completion="w2 " * n) for n in (1, 8)))]
    done = fit(make_model("llama"), groups, parts=(Naive("tokens"),), draw=Draw({"": 1}), epochs=6)
    assert done.tokens == sum(read)
    assert set(read) == {3, 10}
