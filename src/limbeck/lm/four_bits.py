"""A frozen base in 4 bits below an adapter (QLoRA, arXiv 2305.14314), by the package bitsandbytes.

The weights of linear layers are kept as nf4, their scales in 8 bits (double quantisation), and are made whole
again where they compute. Embeddings, norms and the head keep the model's `dtype`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from limbeck.errors import RecipeError

COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What the layers compute in, by `train.precision`."""

ABOUT_KEY = "four_bits"
"""In the `limbeck.json` of an adapter: the precision in which its base in 4 bits computes."""


def check_installed() -> None:
    """Refuse a base in 4 bits without the package.

    Raises:
        RecipeError: naming what to install.
    """
    if not is_bitsandbytes_available():
        raise RecipeError(
            "quantize: 4bit needs bitsandbytes 0.46.1 or newer, which is not here; pip install bitsandbytes, "
            "or leave quantize out"
        )


def reading(precision: str, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` needs to put a base in 4 bits, on its device at once.

    Raises:
        RecipeError: bitsandbytes is not installed, or there is no such precision.
    """
    if precision not in COMPUTE:
        raise RecipeError(f"{ABOUT_KEY}: {precision!r} is not one of {', '.join(COMPUTE)}")
    check_installed()
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=COMPUTE[precision],
    )
    place = device.type if device.type != "cuda" else device.index or 0
    return {"quantization_config": settings, "device_map": {"": place}}


def as_in_training(model: Any) -> None:
    """Let every layer in 4 bits compute in an exam, on dev too, what it computes in training.

    On a CPU with AVX512-BF16, bitsandbytes packs a weight anew in its first pass in evaluation mode: the
    scales lose digits, and no gradient goes through that layer any more.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def numel(weight: torch.Tensor) -> int:
    """The weights in a tensor; one in 4 bits holds two of them in each number."""
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else int(state.shape.numel())
