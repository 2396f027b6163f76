"""Bytes of writing: an exam, a mentor, a local teacher.

    peak = weights + keys and values of all rows + logits of the next token

Keys and values are as many as in the library's own cache (transformers' `DynamicCache`): of every layer, row
and token `2 · heads of keys · width of a head` numbers of the weights' type. A layer with a sliding window
keeps one token less than its window. An encoder-decoder model keeps those of what it writes and, once, of
what its encoder read.
"""

from __future__ import annotations

from typing import Any

from limbeck.lm.local import TOKEN_BUDGET
from limbeck.scale.training import BYTES, FLOAT32


def cache_bytes(config: Any, rows: int, prompt: int, written: int, dtype: str = "float32") -> int:
    """Keys and values of `rows` sequences when all are written.

    Args:
        config: of a transformers model.
        rows: sequences side by side.
        prompt: tokens of each prompt, with its padding.
        written: new tokens of each; the last one is in no cache.
        dtype: of the weights.
    """
    kept = max(written - 1, 0)
    if config.is_encoder_decoder:
        layers = _first(config, "num_decoder_layers", "decoder_layers", "num_hidden_layers")
        heads = _first(config, "decoder_attention_heads", "num_attention_heads")
        width = getattr(config, "d_kv", None) or _first(config, "hidden_size", "d_model") // heads
        # A decoder begins with a start token of its own, which is in the cache.
        return 2 * layers * heads * width * rows * (prompt + kept + 1) * BYTES[dtype]
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    tokens = sum(min(prompt + kept, window) for window in _windows(text, prompt + kept))
    return int(2 * heads * width * rows * tokens * BYTES[dtype])


def _first(config: Any, *names: str) -> int:
    return next(found for name in names if isinstance(found := getattr(config, name, None), int))


def _windows(text: Any, length: int) -> list[int]:
    """Most tokens that each layer keeps, as the library's cache says it."""
    from transformers import DynamicCache

    made = DynamicCache(config=text).layers or [None] * text.num_hidden_layers
    return [one.sliding_window - 1 if getattr(one, "is_sliding", False) else length for one in made]


def rows_at_once(batch_size: int, prompt: int, new: int, token_budget: int = TOKEN_BUDGET) -> int:
    """Sequences that `lm.local` writes side by side: `batch_size`, or as many as its budget of tokens has
    room for; at least one."""
    return max(1, min(batch_size, token_budget // max(prompt + new, 1)))


def logits_bytes(vocabulary: int, rows: int) -> int:
    """The next token's logits, and the float32 copy that is chosen from."""
    return 2 * rows * vocabulary * FLOAT32
