"""A model of some of another's layers computes what the whole one does with the others skipped."""

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from limbeck.errors import ModelError
from limbeck.lm.layers import chosen, with_layers

from .families import FAMILIES, tiny_model

COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
KEPT = (0, 3, 4)


def five_layers(family: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A random model of five layers (and five of its decoder)."""
    made = FAMILIES[family]
    more = {name: 5 for name in COUNTS if name in made.arguments}
    monkeypatch.setitem(FAMILIES, family, replace(made, arguments={**made.arguments, **more}))
    return tiny_model(family)


def skipping(model: Any) -> Any:
    """The same model whose other layers hand on what they get."""
    skipped = deepcopy(model)
    stacks = [
        module for module in skipped.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == 5
    ]
    for stack in stacks:
        for number in {0, 1, 2, 3, 4} - set(KEPT):
            layer, plain = stack[number], stack[number].forward

            def hand_on(states: Any, *more: Any, plain: Any = plain, **named: Any) -> Any:
                out = plain(states, *more, **named)
                return (states, *out[1:]) if isinstance(out, tuple) else states

            layer.forward = hand_on
    return skipped


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    batch = tokenizer(["Ada has 3 apples", "Is the coin still heads up?"], return_tensors="pt", padding=True)
    more = {"decoder_input_ids": batch["input_ids"]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        found: torch.Tensor = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **more
        ).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stays_computes_the_same(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = five_layers(family, monkeypatch)
    whole, expected = logits(model, tokenizer), logits(skipping(model), tokenizer)
    assert not torch.allclose(whole, expected, atol=1e-3), "the layers make a difference"
    smaller = with_layers(deepcopy(model), KEPT, family)
    assert torch.equal(logits(smaller, tokenizer), expected)
    smaller.save_pretrained(tmp_path)
    again, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(logits(again, tokenizer), expected)
    ids = tokenizer("Ada has 3 apples and", return_tensors="pt")["input_ids"]
    short: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    cached, plain = (smaller.generate(ids, use_cache=use, **short) for use in (True, False))
    assert torch.equal(cached, plain), "keys and values are kept in the layers' own places"


def test_the_weights_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = five_layers("llama-2", monkeypatch)
    places = {one.data_ptr() for one in model.parameters()}
    smaller = with_layers(model, 3, "llama-2")
    assert {one.data_ptr() for one in smaller.parameters()} < places
    assert smaller.get_input_embeddings().weight.requires_grad


@pytest.mark.parametrize(("total", "layers"), [(30, 12), (12, 12), (30, 20), (7, 2), (5, 4)])
def test_layers_are_evenly_spaced(total: int, layers: int) -> None:
    found = chosen(total, layers, "it")
    gaps = [b - a for a, b in pairwise(found)]
    assert len(found) == layers and found[0] == 0 and found[-1] == total - 1
    assert max(gaps) - min(gaps) <= 1 and min(gaps) > 0


@pytest.mark.parametrize(("layers", "says"), [(6, "but it has 5"), ((0, 5), "no layer 5; it has 5")])
def test_layers_that_are_not_there(layers: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = five_layers("qwen3", monkeypatch)
    with pytest.raises(ModelError, match=says):
        with_layers(model, layers, "it")


def test_a_model_that_cannot_be_cut() -> None:
    """Its layers are not in one list."""
    config = transformers.XLMConfig(vocab_size=50, emb_dim=16, n_layers=3, n_heads=2)
    model = transformers.XLMWithLMHeadModel(config)
    with pytest.raises(ModelError, match="type xlm cannot be cut"):
        with_layers(model, 2, "it")


def test_a_layer_that_depends_on_its_number_is_not_moved() -> None:
    """The third layer of such a GPT-2 divides its attention by three, wherever its weights come from."""
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=3, n_head=2, scale_attn_by_inverse_layer_idx=True
    )
    with pytest.raises(ModelError, match="scale_attn_by_inverse_layer_idx a layer depends on its number"):
        with_layers(transformers.GPT2LMHeadModel(config), 2, "it")


def test_as_many_end_tokens_as_layers_stay() -> None:
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        eos_token_id=[5, 6, 7],
    )  # fmt: skip
    assert with_layers(transformers.LlamaForCausalLM(config), 2, "it").config.eos_token_id == [5, 6, 7]


def test_the_first_layer_of_t5_holds_the_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = five_layers("t5", monkeypatch)
    with pytest.raises(ModelError, match=r"relative_attention_bias.*keep its first layer"):
        with_layers(model, (1, 4), "it")


def test_a_decoder_may_have_fewer_layers_than_its_encoder() -> None:
    sizes = {"d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "vocab_size": 12}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(encoder_layers=4, decoder_layers=3, **sizes, **heads)
    smaller = with_layers(transformers.BartForConditionalGeneration(config), 2, "bart")
    assert (len(smaller.get_encoder().layers), len(smaller.get_decoder().layers)) == (2, 2)
    assert (smaller.config.encoder_layers, smaller.config.decoder_layers) == (2, 2)
