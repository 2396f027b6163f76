"""Tiny encoders from scratch, for retrieval: BERT in sizes that a laptop trains in seconds.

Their tokenizer is that of the other tiny models (`tiny.build_tokenizer`), made from the run's own texts.
"""

from __future__ import annotations

from typing import Any

from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from limbeck.errors import ModelError
from limbeck.lm.tiny import MAX_POSITIONS, Size, seeded

KIND = "tiny-encoder"

SIZES = {
    "xs": Size(32, 1, 2, 64),
    "s": Size(64, 2, 4, 128),
    "m": Size(128, 2, 4, 256),
}


def is_tiny_encoder(name: str) -> bool:
    """Whether `name` asks for an encoder from scratch: `tiny-encoder`, with or without a size."""
    return name == KIND or name.startswith(f"{KIND}-")


def size_of(name: str) -> Size:
    """The size that a name asks for.

    Raises:
        ModelError: an unknown one.
    """
    size = name.removeprefix(KIND).removeprefix("-") or "s"
    if size not in SIZES:
        known = ", ".join(f"{KIND}-{size}" for size in SIZES)
        raise ModelError(f"{name}: no such size; choose one of {known}")
    return SIZES[size]


def build_encoder(name: str, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """A new encoder for `tokenizer`, drawn from `seed` alone; the global generator is left as it was.

    Args:
        name: `tiny-encoder` with `-xs`, `-s` (the default) or `-m`.
        tokenizer: as made by `tiny.build_tokenizer`.
        seed: of the weights.

    Raises:
        ModelError: an unknown size.
    """
    shape = size_of(name)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        # These models are too small to overfit before they fit; and two processes learn what one does.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with seeded(seed):
        return BertModel(config, add_pooling_layer=False)
