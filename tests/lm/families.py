"""Random tiny models of every family that Limbeck promises to train and to run.

`FAMILIES` maps a published name to the keyword arguments of its config, in that name's own layout
(docs/models.md lists them); `tiny_model` builds one. Small windows, vocabularies and position tables, so
that tests reach their edges with a few tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from limbeck.lm.tiny import build_tokenizer, seeded

from .family_tokenizers import byte_level, sentencepiece

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
WITHOUT_GROUPS = {"num_key_value_heads": 4}  # every head has its own keys and values
LLAMA_3 = {
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
"""As its config.json writes it; with 32 positions, so that all but a head's first frequency are scaled."""

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
    tokenizer: Callable[[Sequence[str]], Any] = build_tokenizer
    own_head: bool = False


def _decoder(name: str, embedding: float = 1.0, **arguments: Any) -> Family:
    return Family(f"{name}Config", f"{name}ForCausalLM", DECODER | arguments, embedding)


def _llama(tokenizer: Callable[[Sequence[str]], Any], **arguments: Any) -> Family:
    return replace(_decoder("Llama", **arguments), tokenizer=tokenizer)


FAMILIES: dict[str, Family] = {
    "llama-1": _llama(sentencepiece, rms_norm_eps=1e-6, **WITHOUT_GROUPS),  # and Llama 2 of 7B and 13B
    "llama-2": _decoder("Llama", rms_norm_eps=1e-5),  # of 70B: grouped queries
    "llama-3": _llama(byte_level, rms_norm_eps=1e-5, **LLAMA_3),
    "mistral": _decoder("Mistral", sliding_window=8),
    "mixtral": _decoder("Mixtral", sliding_window=None, num_local_experts=3, num_experts_per_tok=2),
    "qwen1.5": _decoder("Qwen2", **WITHOUT_GROUPS),
    "qwen2": _decoder("Qwen2", tie_word_embeddings=True),
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
        own_head=True,
    ),
}


def tiny_model(family: str, seed: int = 0) -> tuple[Any, Any]:
    """A random model of a family and its small tokenizer.

    Weights are drawn wide, so that greedy output wanders instead of repeating one token. Biases of
    projections are drawn too: the library begins with zeros, which no test would miss.
    """
    made = FAMILIES[family]
    tokenizer = made.tokenizer(TEXTS)
    tokens = {
        "vocab_size": len(tokenizer) + 5,  # spare rows, as published models have
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    config = getattr(transformers, made.config)(**made.arguments, **tokens)
    with seeded(seed), torch.no_grad():
        model = getattr(transformers, made.model)(config)
        model.get_input_embeddings().weight.mul_(made.embedding)
        for name, parameter in model.named_parameters():
            if name.endswith("_proj.bias"):
                parameter.normal_(std=0.1)
        if made.own_head:  # transformers ties those of any T5, unless a checkpoint has both
            head = torch.empty_like(model.lm_head.weight).normal_(std=0.35)
            model.lm_head.weight = torch.nn.Parameter(head)
            model.all_tied_weights_keys = {}
    return model.eval(), tokenizer


def tiny_folder(family: str, folder: Path) -> Path:
    """`tiny_model` saved as an ordinary model folder."""
    model, tokenizer = tiny_model(family)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
