"""Rationales of thousands of tokens, as models that think write them: the memory of a step stays small."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from limbeck.errors import RecipeError
from limbeck.records import Example
from limbeck.training.groups import singles
from limbeck.training.parts import CrossEntropy
from limbeck.training.settings import TrainSettings
from limbeck.training.trainer import Training, train

from ..lm.families import TEXTS, build_tokenizer

VOCABULARY = 16_000


@pytest.fixture(scope="module")
def words() -> Any:
    made = build_tokenizer(TEXTS)
    made.model_max_length = 20_000
    return made


def thinking(count: int) -> Example:
    """A rationale of about so many tokens, inside the tags."""
    text = " ".join(["apples"] * count)
    completion = f"<think>\n{text}\n</think>\nThe answer is 4."
    return Example(problem_id=str(count), prompt="How many?\n", completion=completion)


def fitted(folder: Path, model: Any, words: Any, *examples: Example, **settings: Any) -> Training:
    usual = {"epochs": 1, "max_length": 9000, "batch_tokens": 9000}
    return train(
        model,
        words,
        singles(examples),
        [],
        (CrossEntropy(),),
        TrainSettings.model_validate(usual | settings),
        folder,
        seed=0,
    )


def llama(words: Any, positions: int = 9000) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=positions,
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
        )
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the largest resident set is read from /proc")
def test_eight_thousand_tokens_are_trained_in_the_memory_of_chunks(tmp_path: Path, words: Any) -> None:
    """Their logits alone, of one copy in float32, would be 490 MB."""
    model = llama(words)
    fitted(tmp_path / "warm", model, words, thinking(20))
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    done = fitted(tmp_path / "long", model, words, thinking(8000))
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    assert done.steps == 1 and done.tokens > 8000 and not done.too_long
    assert (peak - held) / 2**20 < 200


def test_what_is_too_short_for_them_is_named(tmp_path: Path, words: Any) -> None:
    model = llama(words)
    with pytest.raises(RecipeError, match=r"max_length: all 1 examples are longer than 512 tokens.*raise"):
        fitted(tmp_path / "a", model, words, thinking(800), max_length=512)
    done = fitted(tmp_path / "b", model, words, thinking(800), thinking(20), max_length=512)
    assert len(done.too_long) == 1
    with pytest.raises(
        RecipeError, match=r"batch_tokens: 512 is less than the 8\d\d tokens.*raise batch_tok"
    ):
        fitted(tmp_path / "c", model, words, thinking(800), batch_tokens=512)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_more_tokens_than_positions_are_refused(tmp_path: Path, words: Any, kind: str) -> None:
    """GPT-2 would fail inside its embeddings; rotary positions would go on untrained."""
    tokens = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id}
    small = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=128, **tokens)
    model = llama(words, positions=128) if kind == "llama" else GPT2LMHeadModel(small)
    with pytest.raises(
        RecipeError, match=r"the longest example has 2\d\d tokens, and the model 128 positions"
    ):
        fitted(tmp_path / "a", model, words, thinking(200), thinking(20))
    done = fitted(tmp_path / "b", model, words, thinking(200), thinking(20), max_length=128)
    assert done.steps == 1 and len(done.too_long) == 1
