"""What a finished stage wrote, and whether it is still there, bit for bit.

`stage.json` holds size and SHA-256 of every file of its stage, and a seal, which is a hash of the rest of
`stage.json`. Whatever reads a stage's files asks here first:

    weights, and the data of soft labels    hashed when somebody is about to read them
    everything else                         hashed when its stage comes up in a run, or a report reads it

So opening a finished run does not read its weights. A file is hashed once per process. On one core SHA-256
takes about half a second to two seconds per gigabyte, as the processor has instructions for it or not:
7 to 30 seconds for a model of 14 GB when its stage ends, and again in each process that loads it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from hashlib import sha256
from json import dumps, loads
from pathlib import Path
from typing import Any

from limbeck.errors import DamagedError, DiskError
from limbeck.files import digest, refuse_special
from limbeck.records import write_json

STAGE = "stage.json"

LARGE = (".safetensors", ".bin")
"""Endings of what is hashed only when somebody reads it."""

TIMED = ("training.json", "metrics.json")
"""Files that also say how long something took: they differ each time and decide nothing."""


def seal(value: Mapping[str, Any]) -> str:
    """A hash of a JSON object without its own entry `seal`."""
    rest = {key: inner for key, inner in value.items() if key != "seal"}
    return sha256(dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its seal, whole or not at all."""
    write_json(path, {**value, "seal": seal(value)})


def read(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None when there is none, when it is something else, or when it changed.

    What earlier versions wrote has no seal.

    Raises:
        InputError: it is a pipe or a device.
        DiskError: it cannot be read.
    """
    refuse_special(path)
    try:
        value = loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DiskError(path, error) from error
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    whole = value["seal"] == seal(value) if "seal" in value else "sha256" not in value
    return value if whole else None


def files(folder: Path) -> dict[str, int]:
    """Sizes of a stage's files, without those of stages nested in it."""
    nested = {path.parent for path in folder.rglob(STAGE) if path.parent != folder}
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != STAGE and path.name[0] != "." and not nested & set(path.parents)
    }


def sums(folder: Path, names: Collection[str]) -> dict[str, str]:
    """SHA-256 of files of a folder.

    Raises:
        DiskError: one cannot be read.
    """
    try:
        return {name: digest(folder / name) for name in names}
    except OSError as error:
        raise DiskError(error.filename or folder, error) from error


def content(state: Mapping[str, Any]) -> str:
    """Says whether two results of one stage are the same; "" where its files were not hashed."""
    kept = {name: one for name, one in state.get("sha256", {}).items() if Path(name).name not in TIMED}
    return seal(kept) if kept else ""


def damage(folder: Path, state: Mapping[str, Any], below: str | None = None) -> str:
    """What is wrong with the files of a finished stage, in words; "" when nothing is.

    Args:
        state: its `stage.json`.
        below: a file or folder in it, all of which is read; None: everything that is not `LARGE`.
    """
    for name, size in state.get("files", {}).items():
        if below is not None and name != below and not name.startswith(f"{below}/" if below else ""):
            continue
        path, known = folder / name, state.get("sha256", {}).get(name)
        if not path.is_file() or path.stat().st_size != size:
            return f"{name} is missing or has another size"
        hashed = known and (below is not None or path.suffix not in LARGE)
        if hashed and sums(folder, [name])[name] != known:
            return f"{name} is damaged: it changed since it was written"
    return ""


def found_damage(path: Path) -> tuple[Path, str] | None:
    """The stage to which a file or folder belongs and what is wrong there; None when nothing is.

    What belongs to no finished stage of a run, such as a copy of a model folder, was hashed by nobody.
    """
    place = Path(os.path.abspath(path))
    for folder in (place, *place.parents):
        if any((folder / name).is_file() for name in ("run.json", "run.lock")):
            return None
        if (folder / STAGE).is_file() and _in_a_run(folder):
            state = read(folder / STAGE)
            if state is None:
                return folder, f"{STAGE} is damaged"
            below = place.relative_to(folder).as_posix()
            wrong = damage(folder, state, "" if below == "." else below)
            return (folder, wrong) if wrong and state.get("state") == "done" else None
    return None


def _in_a_run(folder: Path) -> bool:
    return any((one / name).is_file() for one in folder.parents for name in ("run.json", "run.lock"))


def check(path: Path) -> None:
    """Refuse a file or folder of a finished stage that is not what the stage wrote.

    Raises:
        DamagedError: naming the stage's folder and the file.
    """
    if found := found_damage(path):
        raise DamagedError(*found)
