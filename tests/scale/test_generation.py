"""Bytes of writing by arithmetic, against the library's cache and our own loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from limbeck.lm import Prompt
from limbeck.lm.load import Loaded
from limbeck.lm.local import TOKEN_BUDGET, DecoderOnly, EncoderDecoder, batches, prompt_ids
from limbeck.lm.local import Row as Asked
from limbeck.scale.generation import cache_bytes, rows_at_once

from ..lm.families import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_values_are_those_of_the_cache(family: str) -> None:
    """Fourteen tokens: beyond the windows of eight of Mistral and Gemma."""
    model, tokenizer = tiny_model(family)
    prompts, written = [[7] * 9, [8] * 9, [9] * 9], 6
    kind: Any = EncoderDecoder if model.config.is_encoder_decoder else DecoderOnly
    with torch.inference_mode():
        decoding = kind(model, prompts, written, tokenizer.pad_token_id, None)
        for _ in range(written - 1):
            decoding.step(torch.full((len(prompts),), 7))
    cache = decoding.cache
    halves = [cache.self_attention_cache, cache.cross_attention_cache] if kind is EncoderDecoder else [cache]
    held = sum(layer.keys.nbytes + layer.values.nbytes for half in halves for layer in half.layers)
    assert cache_bytes(model.config, len(prompts), 9, written) == held
    half = model.to(torch.bfloat16)
    assert cache_bytes(half.config, len(prompts), 9, written, "bfloat16") == held // 2


@pytest.mark.parametrize(("wanted", "prompt", "new"), [(64, 10, 6), (384, 768, 256), (9, 70_000, 6)])
def test_as_many_rows_as_the_loop_takes(wanted: int, prompt: int, new: int) -> None:
    rows = [Asked(Prompt(str(n), str(n), ""), n, 0, [7] * prompt, new) for n in range(400)]
    first = next(batches(rows, wanted, TOKEN_BUDGET, padded=True))
    assert len(first) == rows_at_once(wanted, prompt, new)


def test_prompts_are_counted_as_exams_read_them() -> None:
    model, tokenizer = tiny_model("llama-3")
    loaded = Loaded(model, tokenizer, encoder_decoder=False, name="a model")
    (ids,) = prompt_ids(loaded, ["Ada has 3 apples."])
    assert len(ids) == len(tokenizer("Ada has 3 apples.")["input_ids"])


def test_sixteen_times_as_many_rows_hold_as_much_more() -> None:
    config = tiny_model("llama-2")[0].config
    assert cache_bytes(config, 32, 10, 5) == 16 * cache_bytes(config, 2, 10, 5)
