"""bfloat16 on a processor: frozen weights are converted once, and short texts use another attention."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from limbeck.training.lowered import LONGEST, Lowered, width_of
from tests.lm.families import tiny_model

FAMILIES = ["llama-3", "mistral", "qwen2", "qwen3", "gpt2", "flan-t5", "t5", "bart", "gemma2", "mixtral"]


def adapted(family: str) -> Any:
    """A tiny model of the family with an adapter that already changes what it says."""
    model, _ = tiny_model(family)
    kind = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    stored = family == "gpt2"  # transposed
    settings = LoraConfig(
        r=4, target_modules="all-linear", init_lora_weights=False, fan_in_fan_out=stored, task_type=kind
    )
    torch.manual_seed(1)
    with warnings.catch_warnings():  # of peft, about names that it looks for and no family here has
        warnings.simplefilter("ignore")
        return get_peft_model(model, settings)


def loss_and_gradient(model: Any, *, bf16: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Of two rows, one of them padded."""
    ids = torch.arange(3, 27).reshape(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
    loss.backward()
    gradient = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
    model.zero_grad()
    return loss.detach(), gradient


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_with_converted_weights_is_autocasts_bit_for_bit(family: str) -> None:
    model = adapted(family)
    loss, gradient = loss_and_gradient(model)
    lowered = Lowered(model)
    assert lowered.weights or family == "gpt2"  # its layers are no linear ones
    with lowered.step(width=LONGEST + 1):
        low, its_gradient = loss_and_gradient(model)
    assert torch.equal(low, loss) and torch.equal(its_gradient, gradient)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_attention_of_short_texts_computes_the_same_function(family: str) -> None:
    model = adapted(family)
    loss, gradient = loss_and_gradient(model, bf16=False)
    before, before_gradient = loss_and_gradient(model)
    with Lowered(model).step(width=LONGEST):
        after, after_gradient = loss_and_gradient(model)
    exact = gradient.norm()
    assert abs(after - loss) <= 2 * abs(before - loss) + 1e-2 * abs(loss)
    assert (after_gradient - gradient).norm() <= 2 * (before_gradient - gradient).norm() + 1e-3 * exact


@pytest.mark.parametrize("family", ["llama-3", "flan-t5"])
def test_between_steps_the_model_is_as_it_was(family: str) -> None:
    model = adapted(family)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.get_base_model().config
    attention = config._attn_implementation
    lowered = Lowered(model)
    with pytest.raises(KeyboardInterrupt), lowered.step(width=8):
        low = {p.dtype for p in model.parameters() if not p.requires_grad}
        assert torch.bfloat16 in low and config._attn_implementation != "sdpa"
        raise KeyboardInterrupt
    assert config._attn_implementation == attention
    after = model.state_dict()
    assert all(
        torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in state.items()
    )


def test_what_is_trained_or_shared_with_an_embedding_stays_in_float32() -> None:
    model, _ = tiny_model("qwen2")  # its head is its embedding
    assert Lowered(model).weights == []  # everything is trained
    model = adapted("qwen2")
    low = {id(weight) for weight, _ in Lowered(model).weights}
    assert low and id(model.get_base_model().get_input_embeddings().weight) not in low
    assert not any(id(one) in low for one in model.parameters() if one.requires_grad)


def test_the_width_is_that_of_the_longer_side() -> None:
    batch = {"input_ids": torch.zeros(2, 5), "labels": torch.zeros(2, 9), "keys": torch.zeros(2)}
    assert width_of(batch) == 9
