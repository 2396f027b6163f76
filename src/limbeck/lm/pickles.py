"""Weights that are pickles, which could hold code: read as weights only, written as safetensors.

Read are `*.bin` and `*.pth`, whole or in parts: Hugging Face's `pytorch_model.bin` and
`pytorch_model-00001-of-00002.bin`, and the `consolidated.00.pth` of models as their authors publish them.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save, save_file

from limbeck.errors import DiskError, ModelError, first_line, is_explainable
from limbeck.files import refuse_special, whole_folder

CONVERT = "turn its weights into safetensors with: limbeck convert {} --out FOLDER"

_ENDINGS = (".bin", ".pth", ".pt")
_OTHERS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
"""Beginnings of the names of pickles that hold something else than weights."""

_PARTS = ".index.json"
PUBLISHED = "consolidated"
"""How the weights that a model's authors publish are named, next to those of Hugging Face at times."""


def pickles(folder: Path) -> list[Path]:
    """The weights of a model folder that are pickles, in the order of their names."""
    found = (file for file in folder.iterdir() if file.suffix in _ENDINGS and not file.is_dir())
    weights = sorted(file for file in found if not file.name.startswith(_OTHERS))
    # The same weights under other names, which would be in the model twice.
    return [one for one in weights if not one.name.startswith(PUBLISHED)] or weights


def _name(folder: Path) -> str:
    """What the weights of a folder are called as safetensors."""
    return "adapter_model" if (folder / "adapter_config.json").is_file() else "model"


def refuse_pickles(folder: Path) -> None:
    """Refuse a folder whose weights are pickles only.

    Raises:
        ModelError: naming the command that converts them.
    """
    if not any(folder.glob("*.safetensors")) and (found := pickles(folder)):
        raise ModelError(
            f"{folder}: its weights are in {found[0].name}, which could hold code; {CONVERT.format(folder)}"
        )


def convert(folder: Path, out: Path) -> int:
    """Copy a model folder, its pickled weights as `model.safetensors`.

    The weights are read by `torch.load(weights_only=True)`, which runs no code. Parts of one name are put
    together only where they hold different tensors: those of tensor parallel training are refused.

    Args:
        folder: with weights in `.bin` or `.pth`.
        out: the new folder.

    Returns:
        How many tensors there are.

    Raises:
        ModelError: it holds no such weights, or they cannot be read as weights only.
        DiskError: `out` cannot be written.
    """
    found = pickles(folder)
    if any(folder.glob("*.safetensors")) or not found:
        said = "it has safetensors already" if any(folder.glob("*.safetensors")) else "there are none"
        raise ModelError(f"{folder}: no weights in .bin or .pth to convert ({said}); name another folder")
    _refuse_missing_parts(folder)
    weights: dict[str, torch.Tensor] = {}
    holds: dict[str, str] = {}
    for file in found:
        for name, tensor in read_tensors(file).items():
            if name in weights:
                raise ModelError(
                    f"{file}: holds {name[:80]}, as {holds[name]} does: they are the same weights "
                    "twice (move one file away), or a part of tensor parallel "
                    "training, for the tool of the model's authors"
                )
            weights[name], holds[name] = tensor, file.name
    if "tok_embeddings.weight" in weights:
        raise ModelError(
            f"{folder}: {holds['tok_embeddings.weight']} has a model's original weights, which are read with "
            "their params.json; copy it there"
        )
    with whole_folder(out) as partial:
        for file in folder.iterdir():
            if file.is_file() and file.suffix not in _ENDINGS and not file.name.endswith(_PARTS):
                refuse_special(file)
                shutil.copyfile(file, partial / file.name)
        write_safetensors(weights, partial / f"{_name(folder)}.safetensors")
    return len(weights)


def write_safetensors(weights: dict[str, torch.Tensor], file: Path) -> None:
    """Write tensors to a file that transformers reads.

    Raises:
        DiskError: it cannot be written.
    """
    try:
        save_file(_apart(weights), str(file), {"format": "pt"})
    except SafetensorError as error:  # how its writer reports a full disk
        raise DiskError(file, OSError(0, first_line(error))) from error


def _refuse_missing_parts(folder: Path) -> None:
    """Refuse a folder that lacks one of the files which its index names."""
    for index in sorted(folder.glob(f"*{_PARTS}")):
        refuse_special(index)
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            missing = sorted(name for name in named if not (folder / name).is_file())
        except OSError as error:
            raise DiskError(index, error) from error
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            raise ModelError(f"{index}: does not say which files the weights are in; get it again") from None
        if missing:
            raise ModelError(f"{folder}: {missing[0][:80]}, which {index.name} names, is not there; get it")


def downloaded(name: str) -> Path:
    """The files of a model of the hub that `convert` needs.

    Raises:
        ModelError: there is no such model, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    wanted = [f"*{ending}" for ending in (*_ENDINGS, ".json", ".model", ".txt", ".jinja")]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name}: no such folder, and not to be had from the hub ({first_line(error)})"
        ) from error


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file by name, read without running code.

    Raises:
        ModelError: it cannot be read so, or holds something else.
    """
    refuse_special(file)
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch have classes of their own
        if not is_explainable(error):
            raise
        # Its own text says how to run the code in the file.
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = "it holds something else, or is not a file of torch" if unsafe else first_line(error)
        raise ModelError(
            f"{file}: cannot be read as weights only ({reason}); get the weights again"
        ) from error
    for wrapper in ("state_dict", "model", "module"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found:
        raise ModelError(f"{file}: holds no tensors by name; give the file of the model's weights")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ModelError(
                f"{file}: {str(name)[:80]!r} is not a tensor; give the file of the model's weights"
            )
        _refuse_odd(file, name, value)
    return found


def _refuse_odd(file: Path, name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor that safetensors cannot hold: sparse, nested, quantised, empty, oddly named."""
    try:
        if tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.layout != torch.strided:
            raise ValueError
        save({name: tensor.new_empty(0)})
    except (KeyError, ValueError, SafetensorError):  # UnicodeEncodeError is a ValueError
        kind = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
        raise ModelError(
            f"{file}: {name[:80]!r} is a tensor that safetensors cannot hold ({kind}); give plain weights"
        ) from None


def _apart(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as safetensors holds them: contiguous, each with memory of its own (tied ones as copies)."""
    seen: set[int] = set()
    found = {}
    for name, tensor in weights.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone().contiguous() if place in seen else tensor.contiguous()
        seen.add(place)
    return found
