"""Original weights: Llama and Mistral as Meta and Mistral AI publish them, as ordinary Hugging Face folders.

Such a folder has `params.json`, `tokenizer.model` (or its parent has), `consolidated.00.pth`, and for a large
model `consolidated.01.pth` and more, each with a part of every matrix. What differs from transformers' own:

- the names of tensors;
- the order of a head's queries and keys. Positions turn pairs of numbers: theirs are neighbours (2i and
  2i + 1), those of transformers lie half a head apart (i and i + d/2).

Source: the reference code at github.com/meta-llama/llama and github.com/mistralai/mistral-inference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaTokenizer, MistralConfig, PretrainedConfig

from limbeck.errors import DiskError, ModelError
from limbeck.files import refuse_special, whole_folder
from limbeck.lm.configs import checked_tokenizer, refuse_odd
from limbeck.lm.load import explained
from limbeck.lm.pickles import PUBLISHED, pickles, read_tensors, write_safetensors

PARAMS = "params.json"

POSITIONS = 2048
"""`max_position_embeddings` where params.json names no `max_seq_len`: that of the first Llama."""

FOLDER = "take the model's Hugging Face folder"

_KNOWN = {
    *("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "norm_eps", "rope_theta", "head_dim"),
    *("hidden_dim", "multiple_of", "ffn_dim_multiplier", "sliding_window", "max_seq_len", "max_batch_size"),
}

_OF_LAYERS: dict[str, tuple[str, int | None]] = {
    "attention_norm.weight": ("input_layernorm.weight", None),
    "attention.wq.weight": ("self_attn.q_proj.weight", 0),
    "attention.wk.weight": ("self_attn.k_proj.weight", 0),
    "attention.wv.weight": ("self_attn.v_proj.weight", 0),
    "attention.wo.weight": ("self_attn.o_proj.weight", 1),
    "ffn_norm.weight": ("post_attention_layernorm.weight", None),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", 0),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", 1),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", 0),
}
"""By their name in a layer: ours, and the dimension along which parts lie. None: each part has all of it."""

_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_COMPUTED = "rope.freqs"
HEAD = "lm_head.weight"


def is_original(folder: Path) -> bool:
    """Whether a folder is one of original weights; files of a Hugging Face folder may lie next to them."""
    found = [file.name for file in pickles(folder)]
    others = any(folder.glob("*.safetensors")) or not all(name.startswith(PUBLISHED) for name in found)
    return (folder / PARAMS).is_file() and bool(found) and not others


def convert_original(folder: Path, out: Path) -> int:
    """Write the Hugging Face folder of original weights.

    Args:
        folder: with `params.json` and `consolidated.*.pth`.
        out: the new folder.

    Returns:
        How many tensors there are.

    Raises:
        ModelError: it is another family, a part is missing, its tokenizer cannot be read, or a tensor has
            another shape than `params.json` says.
        DiskError: `out` cannot be written.
    """
    params = _params(folder)
    tokenizer = _tokenizer(folder)
    weights = _joined(folder, [read_tensors(file) for file in pickles(folder)], params)
    config = _config(folder, params, weights, tokenizer)
    _refuse_other_shapes(folder, config, weights)
    for name, tensor in weights.items():
        if ".q_proj." in name or ".k_proj." in name:
            weights[name] = half_a_head_apart(tensor, len(tensor) // config.head_dim)
    with whole_folder(out) as partial:
        config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_safetensors(weights, partial / "model.safetensors")
    return len(weights)


def half_a_head_apart(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Queries or keys in transformers' order.

    Args:
        weight: [heads x d, width]; of each head the rows 2i and 2i + 1 are a pair.
        heads: how many there are.

    Returns:
        [heads x d, width]; of each head the rows i and i + d/2 are a pair.
    """
    rows, width = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, width)
    return pairs.transpose(1, 2).reshape(rows, width)


def _params(folder: Path) -> dict[str, Any]:
    file = folder / PARAMS
    refuse_special(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DiskError(file, error) from error
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not {"dim", "n_layers", "n_heads", "norm_eps"} <= found.keys():
        raise ModelError(f"{file}: is not the params.json of a Llama or Mistral; get it again, or {FOLDER}")
    if odd := sorted(name for name in found.keys() - _KNOWN if found[name]):
        raise ModelError(f"{file}: {odd[0]} is not supported by convert; {FOLDER}")
    for name in sorted(_KNOWN & found.keys() - {"vocab_size"}):
        value = found[name]
        if value is not None and not (isinstance(value, int | float) and value > 0):
            raise ModelError(f"{file}: {name} is {value!r} and no number above 0; get it again")
    return found


def _joined(
    folder: Path, parts: Sequence[dict[str, torch.Tensor]], params: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The whole tensors by transformers' names, taken out of `parts`; queries and keys are not turned yet."""
    weights = {}
    for name in list(parts[0]):
        if name.endswith(_COMPUTED):
            continue
        if not all(name in part for part in parts):
            raise ModelError(f"{folder}: {name[:80]} is not in all of its parts; get them again")
        ours, along = _place(folder, name, parts[0][name], params["dim"])
        pieces = [part.pop(name) for part in parts]
        try:
            weights[ours] = pieces[0] if along is None or len(pieces) == 1 else torch.cat(pieces, along)
        except (IndexError, RuntimeError):
            raise ModelError(f"{folder}: the parts of {name} do not fit together; get them again") from None
    return weights


def _place(folder: Path, name: str, part: torch.Tensor, width: int) -> tuple[str, int | None]:
    if name == "tok_embeddings.weight":
        # Split by width until Llama 2, by words since.
        return "model.embed_tokens.weight", 0 if part.shape[-1] == width else 1
    if name in ("norm.weight", "output.weight"):
        return ("model.norm.weight", None) if name == "norm.weight" else (HEAD, 0)
    if (found := _LAYER.fullmatch(name)) and found[2] in _OF_LAYERS:
        ours, along = _OF_LAYERS[found[2]]
        return f"model.layers.{found[1]}.{ours}", along
    raise ModelError(f"{folder}: {name[:80]} is no tensor of a Llama or Mistral; {FOLDER}")


def _config(
    folder: Path, params: Mapping[str, Any], weights: Mapping[str, torch.Tensor], tokenizer: Any
) -> PretrainedConfig:
    gate = weights.get("model.layers.0.mlp.gate_proj.weight")
    words = weights.get("model.embed_tokens.weight")
    if gate is None or words is None:
        raise ModelError(f"{folder}: lacks its embedding or its first layer; get all of its files")
    window, heads = params.get("sliding_window"), params["n_heads"]
    family: Any = MistralConfig if window else LlamaConfig
    # Only Mistral's has hidden_dim. Where its window is not said, its code takes the second one.
    theta = params.get("rope_theta") or (1_000_000.0 if "hidden_dim" in params and not window else 10_000.0)
    sizes = {
        "vocab_size": params["vocab_size"] if params.get("vocab_size", 0) > 0 else len(words),
        "hidden_size": params["dim"],
        "intermediate_size": params.get("hidden_dim") or len(gate),
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": params.get("n_kv_heads") or heads,
        "head_dim": params.get("head_dim") or params["dim"] // heads,
        "max_position_embeddings": params.get("max_seq_len") or POSITIONS,
    }
    refuse_odd(folder, sizes, PARAMS)
    if sizes["head_dim"] % 2:
        raise ModelError(
            f"{folder / PARAMS}: gives heads of {sizes['head_dim']} numbers, and positions need pairs"
        )
    if len(tokenizer) > len(words):
        raise ModelError(
            f"{folder}: its tokenizer has {len(tokenizer):,} tokens, and there are weights for "
            f"{len(words):,}; get the model's own tokenizer"
        )
    with explained(folder / PARAMS, "the model that it describes"):
        found: PretrainedConfig = family(
            **sizes,
            **({"sliding_window": window} if window else {}),
            architectures=["MistralForCausalLM" if window else "LlamaForCausalLM"],
            rms_norm_eps=params["norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": theta},
            tie_word_embeddings=HEAD not in weights,
            dtype=words.dtype,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    return found


def _refuse_other_shapes(folder: Path, config: PretrainedConfig, weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that are not those of the model that `params.json` describes."""
    with explained(folder / PARAMS, "the model that it describes"), torch.device("meta"):
        wanted = AutoModelForCausalLM.from_config(config).state_dict()
    if config.tie_word_embeddings:
        del wanted[HEAD]
    if missing := sorted(wanted.keys() - weights.keys()):
        raise ModelError(f"{folder}: {missing[0]} is missing; {FOLDER}")
    if more := sorted(weights.keys() - wanted.keys()):
        raise ModelError(f"{folder}: {more[0]} was not expected; {FOLDER}")
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise ModelError(
                f"{folder}: {name} has shape {list(tensor.shape)}, and {PARAMS} gives "
                f"{list(wanted[name].shape)}: a part is missing, or a file is of another model"
            )


def _tokenizer(folder: Path) -> Any:
    """Its `tokenizer.json` if there is one, else of `tokenizer.model`."""
    if (folder / "tokenizer.json").is_file():
        with explained(folder, "the tokenizer"):
            return checked_tokenizer(folder)
    found = [file for place in (folder, folder.parent) if (file := place / "tokenizer.model").is_file()]
    if not found:
        raise ModelError(f"{folder}: no tokenizer.model there or in its parent; copy it there")
    refuse_special(found[0])
    with found[0].open("rb") as stream:
        if stream.readline().rstrip().endswith(b" 0"):  # the ranks of Llama 3's: words and their numbers
            raise ModelError(
                f"{found[0]}: is of Llama 3; copy tokenizer.json and tokenizer_config.json of the model's "
                f"Hugging Face folder into {folder}"
            )
    try:
        import google.protobuf  # noqa: F401
        import sentencepiece  # noqa: F401  transformers reads the file by both
    except ImportError:
        raise ModelError(
            f"{found[0]}: needs sentencepiece and protobuf; run pip install 'limbeck[original]'"
        ) from None
    with explained(found[0], "the tokenizer"):
        # By its own class: the automatic one does not mark the first word's space.
        return LlamaTokenizer.from_pretrained(found[0].parent, add_bos_token=True)
