"""GGUF files (llama.cpp's format) as ordinary Hugging Face folders.

transformers reads the families that it knows, and makes float32 of weights in fewer bits: nothing is lost,
and training goes on from exactly what the file says. It refuses to save what it loaded so, because of the
file's quantisation in the config. So the weights move into a fresh model of the same config without it.

Two things it overlooks without a word: how positions are scaled (Llama 3.1 and later), and the activation
of a gated T5 (FLAN-T5). They are put right here, or the file is refused.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, LlamaConfig, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from limbeck.errors import DiskError, ModelError, first_line, is_explainable
from limbeck.files import refuse_special, whole_folder
from limbeck.lm import cache
from limbeck.lm.configs import refuse_odd
from limbeck.lm.load import architecture_of, explained, quiet, weights_of

MAGIC = b"GGUF"

PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
"""How the parts of a model that is in several files are named."""

FOLDER = "give the model's Hugging Face folder"

LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""How all published Llamas from 3.1 on scale positions, but for the factor."""


def check(file: Path) -> Any:
    """Refuse a file that is not a whole GGUF model with its tokenizer, as far as is seen without its weights.

    Returns:
        The gguf package's reader of it.

    Raises:
        ModelError: what is wrong.
    """
    refuse_special(file)
    try:
        with file.open("rb") as stream:
            begins = stream.read(len(MAGIC))
    except OSError as error:
        raise DiskError(file, error) from error
    if begins != MAGIC:
        raise ModelError(f"{file}: not a GGUF file, it does not begin with GGUF; get it again")
    if (part := PART.search(file.name)) and int(part[1]) > 1:
        raise ModelError(
            f"{file}: one of {int(part[1])} parts; merge them with llama-gguf-split, or {FOLDER}"
        )
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        fields = set(reader.fields)
    except Exception as error:  # of numpy, struct and its own: whatever a cut file meets first
        if not is_explainable(error):
            raise
        raise ModelError(f"{file}: cut off or damaged ({first_line(error)}); get it again") from error
    if "general.architecture" not in fields:
        raise ModelError(f"{file}: does not say of which family its model is; {FOLDER}")
    if "tokenizer.ggml.tokens" not in fields:
        raise ModelError(f"{file}: no tokenizer is inside; {FOLDER}")
    if not reader.tensors:
        raise ModelError(f"{file}: a vocabulary without weights; {FOLDER}")
    return reader


def read_into(file: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file into a folder that is there.

    Raises:
        ModelError: what of the file cannot be read.
        InputError: too little room.
        DiskError: the folder cannot be written.
    """
    reader = check(file)
    where: dict[str, Any] = {"gguf_file": file.name}
    with quiet(), _alone(file) as place:
        config = _config(file, reader, place, where)
        kind = architecture_of(file, config)
        with explained(file, "the config"), torch.device("meta"):
            fresh = kind.from_config(config, dtype=torch.float32)
        needs = 4 * sum(one.numel() for one in fresh.parameters())
        cache.check_room(folder.parent, needs, elsewhere="--out, or the variable LIMBECK_CACHE")
        with explained(file, "the tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **where)
        with redirect_stderr(StringIO()):  # a bar of its own that no setting turns off
            loaded = weights_of(place, kind, config, said=file, dtype=torch.float32, **where)
        with explained(file, "the weights"):
            # The very parameters: a head stays its embedding, or its own where a T5 has one.
            fresh.load_state_dict(loaded.state_dict(keep_vars=True), assign=True)
        fresh.all_tied_weights_keys = loaded.all_tied_weights_keys
        fresh.generation_config = loaded.generation_config
        try:
            fresh.save_pretrained(str(folder))
        except SafetensorError as error:  # how its writer reports a full disk
            raise DiskError(folder, OSError(0, first_line(error))) from error
        tokenizer.save_pretrained(str(folder))


@contextmanager
def _alone(file: Path) -> Iterator[Path]:
    """A folder in which nothing but this file is: the library also reads a tokenizer.json next to one."""
    with tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        (Path(folder) / file.name).symlink_to(file.resolve())
        yield Path(folder)


def convert(file: Path, out: Path) -> int:
    """Write a GGUF file as a new model folder; return how many tensors it has."""
    from safetensors import safe_open

    with whole_folder(out) as partial:
        read_into(file, partial)
        count = 0
        for one in partial.glob("*.safetensors"):
            with safe_open(one, "pt") as opened:
                count += len(list(opened.keys()))
    return count


def _config(file: Path, reader: Any, place: Path, where: dict[str, Any]) -> Any:
    """The config of a GGUF file, as its family's class."""
    with explained(file, "its family or sizes"):
        try:
            raw, _ = PretrainedConfig.get_config_dict(place, **where)
        except ValueError as error:
            if "not supported" in str(error):
                raise ModelError(
                    f"{file}: {first_line(error)} by transformers, which reads these files; {FOLDER}"
                ) from error
            raise
        refuse_odd(file, raw, "it")
        raw.pop("_model_name_or_path", None)  # a title
        raw |= _positions(file, reader, raw) | _activation(reader, raw)
        return CONFIG_MAPPING[raw["model_type"]].from_dict(raw)


def _positions(file: Path, reader: Any, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The setting by which the model scales its rotary positions; {} where it does not, or the config has it.

    llama.cpp writes for Llama 3.1 and later what each frequency is divided by, and no setting.

    Raises:
        ModelError: a way to scale them that is not known here; without it this would be another model.
    """
    if "rope_scaling" in raw or "rope_parameters" in raw:
        return {}
    tensors = {one.name: one.data for one in reader.tensors}
    said = reader.fields.get(f"{reader.fields['general.architecture'].contents()}.rope.scaling.type")
    way = said.contents() if said else "none"
    if way == "none" and "rope_factors_long.weight" in tensors:
        way = "longrope"
    if way != "none":
        raise ModelError(f"{file}: scales its positions ({way}), which is not read from GGUF files; {FOLDER}")
    divisors = torch.tensor(tensors.get("rope_freqs.weight", (1.0,)), dtype=torch.float32)
    if bool((divisors == 1).all()):
        return {}
    rope = {"rope_type": "llama3", "factor": divisors.max().item(), **LLAMA_3}
    theta = raw.get("rope_theta", 10_000.0)
    config = LlamaConfig(
        head_dim=2 * len(divisors), max_position_embeddings=2**17, rope_theta=theta, rope_scaling=rope
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = theta ** -(torch.arange(len(divisors)) / len(divisors))
    if not torch.allclose(plain / scaled, divisors, rtol=1e-3):
        raise ModelError(f"{file}: scales its positions in a way of its own (rope_freqs.weight); {FOLDER}")
    return {"rope_scaling": rope}


def _activation(reader: Any, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Of a T5 whether its layers are gated, and so by which function; {} of others."""
    if raw["model_type"] != "t5":
        return {}
    gated = any(one.name.endswith("ffn_gate.weight") for one in reader.tensors)
    form = "gated-gelu" if gated else "relu"
    return {"feed_forward_proj": form, "is_gated_act": gated}
