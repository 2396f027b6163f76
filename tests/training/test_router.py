"""The router loss of mixture-of-experts models, against the models' own loss in float64."""

import copy

import pytest
import torch
import transformers as hf
from torch.nn.functional import pad

from limbeck.errors import RecipeError
from limbeck.training.parts import CrossEntropy, Router, loss, with_router

from .conftest import WORDS, some_examples

SHARED = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "router_aux_loss_coef": 0.3,
}
FAMILIES = {
    "mixtral": (hf.MixtralConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": (
        hf.Qwen2MoeConfig,
        {"num_experts": 4, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12}
        | {"num_experts_per_tok": 2},
    ),
    "olmoe": (hf.OlmoeConfig, {"num_experts": 4, "num_experts_per_tok": 2}),
    "jetmoe": (
        hf.JetMoeConfig,
        {"num_local_experts": 4, "kv_channels": 8, "aux_loss_coef": 0.3, "num_experts_per_tok": 2},
    ),
}


def mixture(family="mixtral", **settings):
    kind, own = FAMILIES[family]
    torch.manual_seed(3)
    given = {**SHARED, **own, "output_router_logits": True, **settings}
    if family == "jetmoe":
        given.pop("num_attention_heads"), given.pop("router_aux_loss_coef", None)
    model = hf.AutoModelForCausalLM.from_config(kind(**given))
    if family in ("mixtral", "qwen2_moe", "olmoe"):
        model.set_experts_implementation("eager")  # the fast products know no float64
    with torch.no_grad():  # experts that differ
        for name, parameter in model.named_parameters():
            if "gate.weight" in name or "router" in name:
                parameter.mul_(40)
    return model.eval()


def batch_of(lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = [torch.randint(3, len(WORDS), (length,), generator=draw) for length in lengths]
    batch = {
        "input_ids": torch.stack([pad(own, (0, width - len(own))) for own in ids]),
        "attention_mask": torch.stack([pad(torch.ones_like(own), (0, width - len(own))) for own in ids]),
        "labels": torch.stack([pad(own, (0, width - len(own)), value=-100) for own in ids]),
    }
    batch["labels"][:, :2] = -100
    return batch


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys()
    whole = torch.stack([one.norm() for one in expected.values()]).norm()
    gap = torch.stack([(found[name] - expected[name]).norm() for name in expected]).norm()
    assert gap <= 1e-5 * whole


@pytest.mark.parametrize("family", FAMILIES)
def test_value_and_gradient_are_those_of_the_models_own_loss(family):
    model, batch = mixture(family).double(), batch_of([9, 4, 6])
    parts = with_router((CrossEntropy(),), model)
    assert [(part.name, part.weight) for part in parts] == [("cross_entropy", 1.0), ("router", 0.3)]
    counts = {part.name: part.count(batch, encoder_decoder=False) for part in parts}
    assert counts["router"] == 9 + 4 + 6
    total, values = loss(parts, model, batch, counts)
    own = model(**batch)
    assert values["router"].item() == pytest.approx(own.aux_loss.item(), rel=1e-6)
    assert total.item() == pytest.approx(own.loss.item(), rel=1e-6)
    assert_same_gradients(gradients(model, total), gradients(model, own.loss))
    alone = gradients(model, loss((CrossEntropy(),), model, batch, counts)[0])
    with pytest.raises(AssertionError):
        assert_same_gradients(alone, gradients(model, model(**batch).loss))


def test_a_step_is_the_mean_over_its_micro_batches_by_their_tokens():
    model = mixture().double()
    micros = [batch_of([9, 4, 6], seed=1), batch_of([3], seed=2), batch_of([5, 5], seed=3)]
    part = Router(0.3)
    counts = {"router": sum(part.count(micro, encoder_decoder=False) for micro in micros)}
    found = [loss((part,), model, micro, counts) for micro in micros]
    tokens = [int(micro["attention_mask"].sum()) for micro in micros]
    own = sum(n * model(**micro).aux_loss for n, micro in zip(tokens, micros, strict=True)) / sum(tokens)
    assert sum(values["router"].item() for _, values in found) == pytest.approx(own.item(), rel=1e-6)
    total = sum(value for value, _ in found)
    assert_same_gradients(gradients(model, total), gradients(model, 0.3 * own))


def test_training_takes_the_step_of_the_models_own_loss(fit, history, tmp_path, tokenizer):
    """One step of gradient descent on everything at once."""
    model, examples = mixture(), some_examples(6)
    before = copy.deepcopy(model)
    fit(model, examples, epochs=1, batch_size=6, optimizer="sgd", learning_rate=0.1, weight_decay=0, clip=0)
    (row,) = history(tmp_path / "run")
    prompts = [tokenizer(one.prompt)["input_ids"] for one in examples]
    rows = [
        (ids, ids + tokenizer(one.completion)["input_ids"] + [tokenizer.eos_token_id])
        for ids, one in zip(prompts, examples, strict=True)
    ]
    width = max(len(whole) for _, whole in rows)
    batch = {
        "input_ids": torch.tensor([whole + [0] * (width - len(whole)) for _, whole in rows]),
        "attention_mask": torch.tensor([[1] * len(w) + [0] * (width - len(w)) for _, w in rows]),
        "labels": torch.tensor([[-100] * len(p) + w[len(p) :] + [-100] * (width - len(w)) for p, w in rows]),
    }
    own = before.train()(**batch)
    assert row["router"] == pytest.approx(own.aux_loss.item(), rel=1e-5)
    assert row["loss"] == pytest.approx(own.loss.item(), rel=1e-5)
    own.loss.backward()
    for (name, found), old in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(found, old - 0.1 * old.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "settings", [{"output_router_logits": False}, {"router_aux_loss_coef": 0.0}], ids=["off", "weight 0"]
)
def test_a_model_that_asks_for_none_gets_none(settings):
    assert with_router((CrossEntropy(),), mixture(**settings)) == (CrossEntropy(),)


def no_such_loss():
    """A family with the setting and without the loss."""
    config = hf.DeepseekV3Config(
        **{**SHARED, "num_key_value_heads": 4},
        moe_intermediate_size=8,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=4,
        output_router_logits=True,
    )
    return hf.AutoModelForCausalLM.from_config(config)


def only_with_labels():
    """An encoder-decoder that makes its router losses from labels alone."""
    sizes = {"vocab_size": len(WORDS), "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
    config = hf.SwitchTransformersConfig(
        **sizes, num_decoder_layers=2, num_experts=2, decoder_start_token_id=0, pad_token_id=0
    )
    config.output_router_logits = True
    return hf.AutoModelForSeq2SeqLM.from_config(config)


@pytest.mark.parametrize("make", [no_such_loss, only_with_labels])
def test_a_router_loss_that_cannot_be_had_is_refused(make, fit, tmp_path):
    with pytest.raises(RecipeError, match=r"output_router_logits: true.* set it to false there"):
        fit(make(), some_examples(4), epochs=1)
    assert not (tmp_path / "run" / "history.jsonl").exists()
