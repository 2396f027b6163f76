"""`train.share_prompts`: when it is worth it, when it is refused, and that it changes nothing but time."""

import doctest
import json
import random
from types import SimpleNamespace

import pytest
import torch

from limbeck.errors import RecipeError
from limbeck.objectives import shared_prompts as forward
from limbeck.records import Example
from limbeck.training import shared_prompts as module
from limbeck.training import trainer
from limbeck.training.arguments import fingerprint
from limbeck.training.groups import Draw, Group
from limbeck.training.parts import CrossEntropy, SpanKL, Triplet
from limbeck.training.rows import Row, RowGroup
from limbeck.training.settings import TrainSettings
from limbeck.training.shared_prompts import Tokens, Work, gain, probe_rows, tokens_of, work_of

from .conftest import WORDS
from .test_resume import Stop, stop_at
from .test_router import mixture


def test_documented_examples():
    assert doctest.testmod(module).failed == 0


@pytest.fixture(autouse=True)
def no_cost_of_a_pass(monkeypatch):
    """In models this small it is all that a second pass costs; see the tests of the arithmetic."""
    monkeypatch.setattr(module, "LAYER", 0.0)


def text(draw, words):
    return " ".join(f"w{draw.randrange(40)}" for _ in range(words))


def questions(count=8, prompt=40, rows=4, words=3, seed=0):
    """Groups with one long prompt and several short completions, which end with one of two answers."""
    draw = random.Random(seed)
    roles = ("anchor", "positive", "negative", "negative")
    groups = []
    for n in range(count):
        asked, some = text(draw, prompt + n % 3), []
        for role in roles[:rows]:
            thoughts = text(draw, draw.randint(1, words))
            span = (len(thoughts) + 1, len(thoughts) + 6)
            some.append(
                Example(
                    problem_id=str(n),
                    prompt=asked,
                    completion=f"{thoughts} w5 w6",
                    role=role,
                    answer_span=span if role in roles[:2] else None,
                    scored=role != "negative",
                )
            )
        groups.append(Group(str(n), tuple(some)))
    return groups


K = (2, 3, 6, 10)
MEASURED = {
    ("llama", 45, 50): (1.08, 1.17, 1.32, 1.32),
    ("llama", 75, 130): (1.12, 1.03, 1.19, 1.40),
    ("llama", 30, 90): (1.02, 1.05, 1.05, 1.28),
    ("llama", 600, 130): (1.54, 1.73, 2.27, 2.91),
    ("t5", 45, 50): (1.21, 1.07, 1.12, 1.23),
    ("t5", 75, 130): (1.07, 1.06, 1.14, 1.13),
    ("t5", 30, 90): (1.02, 1.10, 1.04, 1.04),
    ("t5", 600, 130): (1.37, 1.67, 2.17, 2.54),
}
"""Prompt and completion -> how many times faster steps of 2 to 10 rows per prompt were, on one CPU thread:
toy models of 20 million weights with 32,000 words, half of whose work is the head."""
SIZES = {
    "llama": Work(9.8e6, 0, 9.8e6, 10.2e6, 8 * module.LAYER),
    "t5": Work(4.7e6, 0.8e6, 5.5e6, 8.2e6),
}


def test_the_arithmetic_agrees_with_what_was_measured():
    ratios = []
    for (kind, prompt, completion), measured in MEASURED.items():
        n = 1 if prompt == 600 else 2  # questions in a step
        for k, was in zip(K, measured, strict=True):
            counts = Tokens(n * k * prompt, n * prompt, n * k * completion, n * k * completion, 1)
            ratios.append(gain(counts, SIZES[kind]) / was)
    assert sum(abs(ratio - 1) < 0.15 for ratio in ratios) >= 29
    assert max(ratios) < 1.09, "where it promises too much, `auto` may make a training slower"
    assert min(ratios) > 0.7


TINY = Work(160_192, 0, 160_192, 22_720, 3 * module.LAYER)
"""`tiny-causal-xs`."""


@pytest.mark.parametrize(
    ("prompt", "completion", "k", "questions", "measured"),
    [(60, 6, 2, 1, 0.69), (60, 10, 2, 8, 1.37), (100, 40, 3, 8, 1.60), (200, 60, 3, 4, 1.53)],
)
def test_a_second_pass_is_not_free_in_a_tiny_model(prompt, completion, k, questions, measured):
    rows = questions * k
    counts = Tokens(rows * prompt, questions * prompt, rows * completion, rows * completion, 1)
    assert gain(counts, TINY) == pytest.approx(measured, rel=0.2)


def test_where_nothing_is_shared_nothing_is_gained():
    assert gain(Tokens(100, 100, 100, 100), Work(1, 0, 1, 1)) < 1
    assert gain(Tokens(0, 0, 0, 0), Work(1, 0, 1, 1)) == 1


def test_tokens_are_counted_by_hand():
    asked, other = [5, 6, 7], [5, 6]
    decoder = [
        Row("a", [*asked, 9, 1], [-100, -100, -100, 9, 1]),
        Row("a", [*asked, 1], [-100, -100, -100, 1], scored=False),
        Row("a", [*other, 8, 1], [5, 6, 8, 1], weights=[0.1, 0.1, 1, 1], prompt=2),
    ]
    assert tokens_of([decoder, decoder[:1]], encoder_decoder=False) == Tokens(8 + 3, 5 + 3, 5 + 2, 6 + 2)
    both = [Row("a", asked, [9, 1]), Row("a", asked, [1])]
    assert tokens_of([both], encoder_decoder=True) == Tokens(6, 3, 3, 3)


def test_a_weight_in_4_bits_is_two_in_each_number(make_model):
    """As bitsandbytes keeps it: half as many numbers, and what it was before."""
    model = make_model("llama")
    whole = work_of(model)
    layer = model.model.layers[0].mlp.up_proj
    packed = torch.nn.Parameter(torch.zeros(layer.weight.numel() // 2, 1), requires_grad=False)
    packed.quant_state = SimpleNamespace(shape=layer.weight.shape)
    layer.weight = packed
    assert work_of(model) == whole


@pytest.mark.parametrize("lora", [False, True])
def test_work_is_the_size_of_the_weights(make_model, lora, monkeypatch):
    """Llama of the tests: tied, 2 layers of 16 × (16 + 8 + 8 + 16 + 3 · 24), and norms."""
    monkeypatch.setattr(module, "LAYER", 7)
    layers = 2 * 16 * (16 + 8 + 8 + 16 + 3 * 24)
    work = work_of(make_model("llama", lora=lora))
    assert (work.again, work.scored, work.batch) == (0, 16 * len(WORDS), 14)
    assert layers <= work.prompt == work.completion <= layers * (1.2 if lora else 1.03)
    attention, inner = 4 * 16 * 16, 2 * 16 * 24
    seq2seq = work_of(make_model("t5", lora=lora))
    assert seq2seq.batch == 0, "its encoder and its decoder run once as ever"
    assert seq2seq.prompt == pytest.approx(2 * (attention + inner), rel=0.3 if lora else 0.05)
    assert seq2seq.completion + seq2seq.again == pytest.approx(
        2 * (2 * attention + inner), rel=0.3 if lora else 0.05
    )


PARTS = (CrossEntropy(), SpanKL(0.3), Triplet(0.5))


@pytest.mark.parametrize("batches", ["random", "by-length"])
@pytest.mark.parametrize("kind", ["llama", "t5", "llama+lora"])
def test_a_training_learns_the_same(fit, make_model, tmp_path, trainable, history, kind, batches):
    """Pairs and triplets, three of four rows drawn every epoch, accumulated."""
    name, _, lora = kind.partition("+")
    made = {}
    for share in (False, True):
        model = make_model(name, lora=bool(lora))
        settings = {"epochs": 3, "batch_size": 2, "accumulate": 2, "batches": batches}
        done = fit(
            model,
            questions(),
            parts=PARTS,
            draw=Draw({"negative": 1}),
            folder=tmp_path / str(share),
            learning_rate=1e-3,
            optimizer="sgd",
            share_prompts=share,
            **settings,
        )
        assert done.shared.shared is share
        made[share] = trainable(model), [line["loss"] for line in history(tmp_path / str(share))]
    assert made[True][1] == pytest.approx(made[False][1], rel=1e-5)
    torch.testing.assert_close(made[True][0], made[False][0], rtol=1e-4, atol=1e-6)
    assert not torch.equal(made[True][0], trainable(make_model(name, lora=bool(lora)))), "it learned"


def test_auto_shares_long_prompts_and_says_so(fit, make_model, capsys):
    done = fit(make_model("llama"), questions(), parts=PARTS, epochs=1)
    shared = done.shared
    assert shared.shared and shared.gain > 2 and shared.apart < 1e-5
    assert shared.because.startswith("a prompt is computed once for the rows that share it: about ")
    assert f"train.share_prompts: {shared.because}" in capsys.readouterr().err
    facts = shared.facts()["share_prompts"]
    assert (
        facts == json.loads(json.dumps(facts)) and facts["shared"] and facts["gain"] == round(shared.gain, 2)
    )


@pytest.mark.parametrize(
    "data",
    [questions(rows=1), questions(prompt=2, rows=2, words=40), questions(prompt=8, rows=2, words=20)],
    ids=["groups of one", "short prompts", "little to gain"],
)
def test_auto_says_nothing_where_nothing_is_to_gain(fit, make_model, tmp_path, trainable, capsys, data):
    """And the training is to the bit that of `false`."""
    weights = []
    for share in ("auto", False):
        model = make_model("llama", dropout=0.2)
        done = fit(model, data, epochs=1, share_prompts=share, folder=tmp_path / str(share))
        assert not done.shared.shared and done.shared.because == "" and done.shared.facts() == {}
        weights.append(trainable(model))
    assert torch.equal(*weights)
    assert "share_prompts" not in capsys.readouterr().err


def test_auto_is_about_what_is_drawn(fit, make_model):
    """Of four rationales one is drawn each epoch: nobody shares."""
    groups = [
        Group(one.key, tuple(e.model_copy(update={"role": ""}) for e in one.examples)) for one in questions()
    ]
    assert not fit(make_model("llama"), groups, draw=Draw({"": 1}), epochs=1).shared.shared


def test_auto_counts_the_batches(fit, make_model, tmp_path, monkeypatch):
    """A question alone in its micro-batch is not worth a second pass, many together are."""
    monkeypatch.setattr(module, "LAYER", 1e6)
    found = [
        fit(make_model("llama"), questions(), epochs=1, batch_size=n, folder=tmp_path / str(n)).shared
        for n in (1, 8)
    ]
    assert [one.shared for one in found] == [False, True] and found[0].gain < 1


def falls_back(fit, make_model, tmp_path, trainable, why, model_of=None, **settings):
    """`true` is refused with a sentence; `auto` says the same and trains to the bit as `false` does."""
    model_of = model_of or (lambda: make_model("llama"))
    with pytest.raises(RecipeError, match=f"^train.share_prompts: true cannot be, because .*{why}"):
        fit(model_of(), questions(), folder=tmp_path / "true", epochs=1, **settings | {"share_prompts": True})
    weights = []
    for share in ("auto", False):
        model = model_of()
        folder = tmp_path / str(share)
        done = fit(model, questions(), folder=folder, epochs=1, **settings | {"share_prompts": share})
        weights.append(trainable(model))
        if share == "auto":
            assert not done.shared.shared and done.shared.gain > 1.2
            assert why in done.shared.because and done.shared.facts()["share_prompts"]["shared"] is False
    assert torch.equal(*weights)


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("lora", [False, True])
def test_dropout_is_refused(fit, make_model, tmp_path, trainable, kind, lora):
    """Of the base or of an adapter alone: an adapter's begins to matter after the first step."""
    falls_back(
        fit,
        make_model,
        tmp_path,
        trainable,
        "the model uses dropout, and one draw would then serve",
        lambda: make_model(kind, lora=lora, dropout=0.05),
    )


def test_a_router_loss_is_refused(fit, make_model, tmp_path, trainable):
    falls_back(fit, make_model, tmp_path, trainable, "router loss", mixture)


def test_a_mixture_without_router_loss_is_not(fit):
    model = mixture(output_router_logits=False)
    assert fit(model, questions(), epochs=1, share_prompts=True).shared.shared


def test_gradient_checkpointing_is_refused_where_prompts_are_read_through_a_cache(
    fit, make_model, tmp_path, trainable
):
    why = "gradient_checkpointing forgets the keys and values"
    falls_back(fit, make_model, tmp_path, trainable, why, gradient_checkpointing=True)


def test_an_encoder_decoder_shares_under_gradient_checkpointing(fit, make_model, tmp_path, trainable):
    made = []
    for share in (False, True):
        model = make_model("t5")
        settings = {"epochs": 2, "optimizer": "sgd", "gradient_checkpointing": True, "share_prompts": share}
        done = fit(model, questions(), parts=PARTS, folder=tmp_path / str(share), **settings)
        assert done.shared.shared is share
        made.append(trainable(model))
    torch.testing.assert_close(made[1], made[0], rtol=1e-4, atol=1e-6)
    assert not torch.equal(made[0], trainable(make_model("t5"))), "it learned"


def test_positions_that_only_a_batch_would_reach_are_refused(fit, make_model):
    """Each row fits; the longest prompt and the longest completion together would not."""
    model = make_model("llama")
    model.config.max_position_embeddings = 64
    groups = [*questions(), *questions(1, prompt=4, words=50, seed=1)]
    done = fit(model, groups, epochs=1)
    assert not done.shared.shared and "64 positions" in done.shared.because


def shifted(*given):
    """The states of the rest come one place too late: the mistake that is easiest to make."""
    return IN_PLACE(*given).roll(1, 1)


IN_PLACE = forward._in_place


def test_other_gradients_are_found_before_the_training(fit, make_model, tmp_path, trainable, monkeypatch):
    monkeypatch.setattr(forward, "_in_place", shifted)
    falls_back(fit, make_model, tmp_path, trainable, "gradients of one question differ by")


def test_a_forgotten_prompt_is_found(fit, make_model, tmp_path, trainable, monkeypatch):
    """A model that begins a cache of its own reads the rest without its prompt; nothing fails."""

    class Forgetful(forward.DynamicCache):
        def reorder_cache(self, owners):
            super().reorder_cache(owners)
            for layer in self.layers:
                layer.values = torch.zeros_like(layer.values)

    monkeypatch.setattr(forward, "DynamicCache", Forgetful)
    falls_back(fit, make_model, tmp_path, trainable, "gradients of one question differ by")


def test_a_model_that_cannot_read_behind_a_prompt(fit, make_model, tmp_path, trainable):
    """Mamba keeps states of its own kind."""
    import transformers as hf

    def mamba():
        torch.manual_seed(0)
        about = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
        about |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
        return hf.MambaForCausalLM(hf.MambaConfig(**about))

    falls_back(fit, make_model, tmp_path, trainable, "cannot read behind a prompt", mamba)


def test_a_model_that_goes_around_its_decoder(fit, make_model, tmp_path, trainable, monkeypatch):
    kind = type(make_model("llama"))
    monkeypatch.setattr(kind, "get_decoder", lambda self: torch.nn.Identity())
    falls_back(fit, make_model, tmp_path, trainable, "called its Identity 0 times in one forward")


def test_an_error_of_ours_is_not_hidden(fit, make_model, monkeypatch):
    def broken(*given):
        raise AssertionError("of ours")

    monkeypatch.setattr(forward, "_in_place", broken)
    with pytest.raises(AssertionError, match="of ours"):
        fit(make_model("llama"), questions(), epochs=1)


def test_the_check_leaves_the_model_and_the_generators_alone(fit, make_model, trainable, monkeypatch):
    model = make_model("llama")
    model.model.layers[0].train()
    model.eval()
    before, state = trainable(model), torch.get_rng_state()
    seen = []
    decided = module.decided

    def look(model, *given):
        modes = [part.training for part in model.modules()]
        verdict = decided(model, *given)
        seen.append(verdict.shared)
        assert modes == [part.training for part in model.modules()]
        assert torch.equal(trainable(model), before) and torch.equal(torch.get_rng_state(), state)
        assert all(one.grad is None for one in model.parameters())
        return verdict

    monkeypatch.setattr(trainer, "decided", look)
    torch.set_rng_state(state)
    fit(model, questions(), epochs=1)
    assert seen == [True]


@pytest.mark.parametrize("kind", ["llama", "t5", "llama+lora"])
def test_killed_and_resumed_it_ends_the_same(fit, make_model, tmp_path, trainable, history, kind):
    name, _, lora = kind.partition("+")
    settings = {"epochs": 3, "batch_size": 2, "checkpoints": 5, "share_prompts": True}

    def told(folder, stop=None):
        model = make_model(name, lora=bool(lora))
        progress = stop and stop_at(stop)
        fit(model, questions(), parts=PARTS, folder=tmp_path / folder, progress=progress, **settings)
        return trainable(model), history(tmp_path / folder)

    calm = told("calm")
    with pytest.raises(Stop):
        told("killed", 8)
    again = told("killed")
    assert torch.equal(calm[0], again[0]) and calm[1] == again[1]


def test_a_training_begun_without_it_goes_on(fit, make_model):
    """Checkpoints are not another training's because prompts are computed once, or the setting is new."""
    given = (0, (CrossEntropy(),), [[], []], {}, 4, make_model("llama"))
    marks = {
        fingerprint(TrainSettings(share_prompts=share), *given, corrected=True)
        for share in ("auto", True, False)
    }
    assert len(marks) == 1


def test_the_probe_is_the_smallest_question_and_another_length():
    def row(prompt, completion, name="a"):
        return Row(name, [*prompt, *completion, 1], [-100] * len(prompt) + [*completion, 1])

    short, longer, long = [5, 6], [5, 6, 7, 8], [9] * 20
    rows = [
        row(long, [3]),
        row(long, [4]),
        row(longer, [3] * 5),
        row(longer, [4]),
        row(longer, [5]),
        row(short, [3]),
    ]

    def groups(rows):
        return [RowGroup(str(n), (one,)) for n, one in enumerate(rows)]

    assert probe_rows(groups(rows), encoder_decoder=False) == [rows[3], rows[4], rows[5]]
    alone = [row(long, [3]), row(short, [3])]
    assert probe_rows(groups(alone), encoder_decoder=False) == [alone[1], alone[1], alone[0]]
