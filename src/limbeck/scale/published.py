"""Shapes of published models, for the tables of docs/scale.md: no weights and no hub are needed.

Sizes are those of the models' config.json.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

_OF_LLAMA = {"vocab_size": 32_000, "max_position_embeddings": 4096, "tie_word_embeddings": False}

CONFIGS: dict[str, Any] = {
    "Llama 2 7B": lambda: LlamaConfig(
        **_OF_LLAMA, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32
    ),
    "Llama 2 13B": lambda: LlamaConfig(
        **_OF_LLAMA, hidden_size=5120, intermediate_size=13_824, num_hidden_layers=40, num_attention_heads=40
    ),
    "Llama 2 70B": lambda: LlamaConfig(
        **_OF_LLAMA,
        hidden_size=8192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    ),
    "Mixtral 8x7B": lambda: MixtralConfig(
        **_OF_LLAMA | {"max_position_embeddings": 32_768},
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=None,
    ),
}
"""Makers of configs by the name of the model."""


def made(name: str) -> Any:
    """A model of one of these shapes on the meta device."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(CONFIGS[name]())
