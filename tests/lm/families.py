"""Random tiny models of every family that Limbeck promises to train and to run.

`FAMILIES` maps a name to the keyword arguments of its config; `tiny_model`
builds one. Small windows, vocabularies and position tables, so that tests reach
their edges with a few tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers

from limbeck.lm.tiny import build_tokenizer, seeded

TEXTS = [
    "Ada has 3 apples and buys 12 more. How many apples does Ada have?\n",
    "Ada starts with 3 apples. She buys 12 more, so she has 3 + 12 = 15 apples. The answer is 15.",
    "Is the coin still heads up?\n",
    "The coin is flipped twice, so the coin is still heads up. The answer is yes.",
] * 3

DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.35,
}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "initializer_factor": 1.5,
    "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}


@dataclass(frozen=True)
class Family:
    """Names of the config and model classes in transformers, and the config's arguments."""

    config: str
    model: str
    arguments: dict[str, Any]
    embedding: float = 1.0  # scale of the embeddings; where they drown the layers, greedy output stands still


def _decoder(name: str, embedding: float = 1.0, **arguments: Any) -> Family:
    return Family(f"{name}Config", f"{name}ForCausalLM", DECODER | arguments, embedding)


FAMILIES: dict[str, Family] = {
    "llama": _decoder("Llama"),
    "mistral": _decoder("Mistral", sliding_window=8),
    "mixtral": _decoder("Mixtral", sliding_window=None, num_local_experts=3, num_experts_per_tok=2),
    "qwen2": _decoder("Qwen2"),
    "qwen3": _decoder("Qwen3", head_dim=16),
    "gemma2": _decoder("Gemma2", embedding=0.1, head_dim=8, sliding_window=8, query_pre_attn_scalar=8),
    "gpt2": Family(
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.35}
        | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    "gptj": Family(
        "GPTJConfig",
        "GPTJForCausalLM",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "rotary_dim": 4,
            "n_positions": 128,
            "initializer_range": 0.35,
        },
    ),
    "opt": Family(
        "OPTConfig",
        "OPTForCausalLM",
        {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "init_std": 0.35}
        | {"word_embed_proj_dim": 16, "max_position_embeddings": 128, "dropout": 0.0},
    ),
    "phi3": _decoder("Phi3", resid_pdrop=0.0),
    "bart": Family(
        "BartConfig",
        "BartForConditionalGeneration",
        {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "init_std": 0.2, "dropout": 0.0}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 128}
        | {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 1}
        | {"forced_eos_token_id": 1},
        0.5,
    ),
    "t5": Family("T5Config", "T5ForConditionalGeneration", T5 | {"feed_forward_proj": "relu"}, 0.05),
    "flan-t5": Family(
        "T5Config",
        "T5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        0.05,
    ),
}


def tiny_model(family: str, seed: int = 0) -> tuple[Any, Any]:
    """A random model of a family with the same small tokenizer for all.

    Weights are drawn wide, so that greedy output wanders instead of repeating one token.
    """
    tokenizer = build_tokenizer(TEXTS)
    made = FAMILIES[family]
    tokens = {
        "vocab_size": len(tokenizer) + 5,  # spare rows, as published models have
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    config = getattr(transformers, made.config)(**made.arguments, **tokens)
    with seeded(seed), torch.no_grad():
        model = getattr(transformers, made.model)(config)
        model.get_input_embeddings().weight.mul_(made.embedding)
    return model.eval(), tokenizer
