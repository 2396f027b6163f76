"""The user's cache: model folders that were made once from something else, whole or not at all.

What is there can be deleted at any time and made again. `origin.json` in each folder says what it was made
from, under which licence, and the SHA-256 of its files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from limbeck.errors import DiskError, InputError
from limbeck.files import digest, whole_folder
from limbeck.records import write_json

ORIGIN = "origin.json"


def root() -> Path:
    """`$LIMBECK_CACHE`, or `limbeck` in the user's cache folder."""
    if own := os.environ.get("LIMBECK_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").expanduser().absolute() / "limbeck"


def is_there(folder: Path) -> bool:
    """Whether a folder of the cache was made; it then is whole."""
    return (folder / ORIGIN).is_file()


def keep(folder: Path, origin: Mapping[str, object], make: Callable[[Path], None], needs: int = 0) -> bool:
    """Make a folder of the cache unless it is there; of two processes one makes it and the other waits.

    Args:
        origin: what it is made from; goes into `origin.json`, with the sums of its files.
        make: writes the files into a folder that takes the name of `folder` when all is done.
        needs: bytes of it, about; less room is refused first.

    Returns:
        False where it was there already, undamaged.

    Raises:
        InputError: too little room.
        DiskError: the cache cannot be written.
    """
    if is_there(folder) and not damage(folder):
        return False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if is_there(folder) and not damage(folder):
                return False
            check_room(folder.parent, needs)
            with whole_folder(folder) as partial:
                make(partial)
                files = sorted(one for one in partial.rglob("*") if one.is_file())
                sums = {one.relative_to(partial).as_posix(): digest(one) for one in files}
                write_json(partial / ORIGIN, {**origin, "files": sums})
    except OSError as error:
        raise DiskError(error.filename or folder, error) from error
    return True


def check_room(place: Path, needs: int, *, elsewhere: str = "the variable LIMBECK_CACHE") -> None:
    """Refuse to write this many bytes where the disk has no room for them.

    Args:
        elsewhere: what names another folder.

    Raises:
        InputError: it has not.
    """
    free = shutil.disk_usage(place).free
    if free < needs:
        raise InputError(
            f"{place}: {needs / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB of the disk are free; "
            f"free some, or name a folder on another disk with {elsewhere}"
        )


def damage(folder: Path) -> str:
    """The file of a folder of the cache that is not as it was made; "" when none is, or for other folders."""
    if not is_there(folder) or not folder.resolve().is_relative_to(root().resolve()):
        return ""
    try:
        sums = dict(json.loads((folder / ORIGIN).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return ORIGIN
    return next((name for name, known in sums.items() if not _is_as_made(folder / name, known)), "")


def _is_as_made(file: Path, known: str) -> bool:
    try:
        return digest(file) == known
    except OSError:
        return False
