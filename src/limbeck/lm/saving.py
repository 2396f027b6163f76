"""Models saved as ordinary Hugging Face folders, whole or not at all."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from limbeck.errors import DiskError, ModelError
from limbeck.lm.load import Loaded, first_line, quiet


def save(
    loaded: Loaded, folder: Path, *, merge: bool = True, about: Mapping[str, object] | None = None
) -> None:
    """Write model and tokenizer to `folder`, whole or not at all; an older folder is replaced.

    Args:
        loaded: the model; it is not changed.
        folder: where; an ordinary Hugging Face folder with safetensors weights.
        merge: fold a LoRA adapter into the weights (the model is copied for that);
            False writes the adapter alone, which needs its base model to be loaded.
        about: written beside the weights as `limbeck.json`.

    Raises:
        DiskError: the folder cannot be written.
        ModelError: an adapter alone of a model that is in no folder and has no name.
    """
    written = loaded.model
    if loaded.lora and merge:
        written = copy.deepcopy(loaded.model).merge_and_unload()
    elif loaded.lora and not loaded.bare.name_or_path:
        raise ModelError(f"{loaded.name}: an adapter of a model from scratch has no base; save it merged")
    with _whole_folder(Path(folder)) as partial, quiet():
        if written is loaded.model and loaded.lora:
            written.save_pretrained(str(partial), save_embedding_layers=False)
        else:
            written.save_pretrained(str(partial))
        loaded.tokenizer.save_pretrained(str(partial))
        if about is not None:
            text = json.dumps(about, indent=1, ensure_ascii=False)
            (partial / "limbeck.json").write_text(f"{text}\n", "utf-8")


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of `folder` only when the block ends well."""
    partial, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
        _put_back(old, folder)
        partial.mkdir(parents=True)
        yield partial
        for file in partial.rglob("*"):
            _to_disk(file)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        _to_disk(folder.parent)
    except OSError as error:
        raise DiskError(folder, error) from error
    except SafetensorError as error:  # how its writer reports a full disk
        raise DiskError(folder, OSError(0, first_line(error))) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _put_back(old, folder)


def _put_back(old: Path, folder: Path) -> None:
    """The older folder that was moved aside: back to its place if nothing took it, else away."""
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
