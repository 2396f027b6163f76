"""GGUF files (llama.cpp's format) as ordinary Hugging Face folders.

transformers reads the families that it knows, and makes float32 of weights in fewer bits: nothing is lost,
and training goes on from exactly what the file says. It refuses to save what it loaded so, because of the
file's quantisation in the config. So the weights move into a fresh model of the same config without it.
"""

from __future__ import annotations

import re
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PretrainedConfig
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


def check(file: Path) -> None:
    """Refuse a file that is no whole GGUF model with its tokenizer, as far as is seen without its weights.

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


def read_into(file: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file into a folder that is there.

    Raises:
        ModelError: what of the file cannot be read.
        InputError: too little room.
        DiskError: the folder cannot be written.
    """
    check(file)
    where: dict[str, Any] = {"gguf_file": file.name}
    place = file.absolute().parent
    with quiet():
        config = _config(file, place, where)
        kind = architecture_of(file, config)
        with explained(file, "the config"), torch.device("meta"):
            fresh = kind.from_config(config, dtype=torch.float32)
        cache.check_room(folder.parent, 4 * sum(one.numel() for one in fresh.parameters()))
        with explained(file, "the tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **where)
        with redirect_stderr(StringIO()):  # a bar of its own that no setting turns off
            loaded = weights_of(place, kind, config, said=file, dtype=torch.float32, **where)
        with explained(file, "the weights"):
            fresh.load_state_dict(loaded.state_dict(), assign=True)
        fresh.tie_weights()
        fresh.generation_config = loaded.generation_config
        try:
            fresh.save_pretrained(str(folder))
        except SafetensorError as error:  # how its writer reports a full disk
            raise DiskError(folder, OSError(0, first_line(error))) from error
        tokenizer.save_pretrained(str(folder))


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


def _config(file: Path, place: Path, where: dict[str, Any]) -> Any:
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
        return CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
