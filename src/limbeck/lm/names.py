"""What a recipe may name as a model apart from folders and names on the hub: bases and GGUF files.

Both become ordinary folders in the cache. Plans and adapters keep the name, and the hash of what the model
was made from; so a run is the same run wherever the cache is. Importing this loads no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache as cached
from pathlib import Path

from limbeck import ranks
from limbeck.errors import DiskError, ModelError
from limbeck.files import digest, refuse_special
from limbeck.lm import bases, cache

GGUF = ".gguf"


def is_gguf(name: str) -> bool:
    """Whether a name is meant as a GGUF file; a folder may be called so too."""
    return name.lower().endswith(GGUF) and not Path(name).expanduser().is_dir()


def located(name: str) -> str:
    """The folder of a base, or of what a GGUF file holds; any other name as it is.

    A GGUF file is read once, and kept in the cache as an ordinary folder.

    Raises:
        ModelError: the base was not fetched yet or writes no text; the file is not there or cannot be read.
    """
    if base := bases.find(name):
        refuse_encoder(name)
        return str(bases.place_of(base))
    if is_gguf(name):
        return str(_read(Path(name).expanduser()))
    return name


def folder_or_hub(
    text: str, where: str, *, what: str = "a model", holds: Sequence[str] = ("config.json",)
) -> Path | str:
    """The folder of a model, as an absolute path (adapters store it), or its name on the hub.

    Args:
        text: what the user named.
        where: the folder that it means, or the same.
        what: "a model" or "an encoder", for errors.
        holds: one of these files is in it.

    Raises:
        ModelError: it is neither.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        if not any((path / file).exists() for file in holds):
            original = any(path.glob("consolidated.*.pth"))  # as Meta and Mistral AI publish weights
            fix = f"make one of it: limbeck convert {text} --out FOLDER" if original else "give one that has"
            raise ModelError(f"{text}: not {what} folder, it has no config.json; {fix}")
        return path.resolve()
    if path.exists():
        or_file = ", or a .gguf file" if what == "a model" else ""
        raise ModelError(f"{text}: a file, not {what}; give the folder it is in{or_file}")
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or "\\" in text:
        raise ModelError(f"{text}: no such folder; check the path")
    return where


def refuse_encoder(name: str) -> None:
    """Refuse a base that cannot be a student, a mentor or a teacher.

    Raises:
        ModelError: it is an encoder.
    """
    base = bases.find(name)
    if base and base.kind == "encoder":
        raise ModelError(f"{name}: an encoder, for retrieval, writes no text; name a model that does")


def is_here(name: str) -> bool:
    """Whether a model is on this machine: a folder, a GGUF file, a base in the cache."""
    if base := bases.find(name):
        return cache.is_there(bases.folder_of(base))
    return Path(name).expanduser().exists()


def identity(name: str) -> str:
    """A hash of what a base or a GGUF file is made from; "" for other names, and for a missing file.

    Raises:
        DiskError: the file cannot be read.
    """
    if base := bases.find(name):
        return bases.identity_of(base.sha256)
    file = Path(name).expanduser()
    return bases.identity_of(_digest(file)) if is_gguf(name) and file.is_file() else ""


def kept_name(name: str) -> str:
    """What an adapter calls its base model so that it is found again: a base's name, a GGUF file; else ""."""
    if bases.find(name):
        return name
    # Not where a link leads: hubs keep files under their hashes, without the ending that says what they are.
    return str(Path(name).expanduser().absolute()) if is_gguf(name) else ""


def _digest(file: Path) -> str:
    try:
        at = file.stat()
        return _digest_of(file, at.st_size, at.st_mtime_ns)
    except OSError as error:
        raise DiskError(file, error) from error


@cached
def _digest_of(file: Path, size: int, changed: int) -> str:
    """Of a file as it is: once per process, since several stages ask, and large ones take a while."""
    return digest(file)


def _read(file: Path) -> Path:
    """The folder in the cache that is made of a GGUF file, unless it is there."""
    refuse_special(file)
    if not file.is_file():
        raise ModelError(f"{file}: no such file; check the path")
    sha256 = _digest(file)
    folder = cache.root() / "gguf" / f"{file.stem[:60]}-{bases.identity_of(sha256)[:12]}"
    if not cache.is_there(folder):
        from limbeck.lm.gguf import read_into

        if ranks.main():
            print(f"{file}: is read once, into {folder}", file=sys.stderr)
        cache.keep(folder, {"file": file.name, "sha256": sha256}, lambda partial: read_into(file, partial))
    return folder
