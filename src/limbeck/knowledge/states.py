"""The states of passages' tokens, computed once and kept on the disk.

    FOLDER/states.json      whose states these are: encoder and index, sealed
    FOLDER/codec/           where they are compressed: `residual.py`
    FOLDER/parts/00000/     some passages, whole or not at all
        ids.jsonl           their ids
        ends.npy            where in the next file each one's states end
        states.npy          float16, (tokens, dimensions), read from the disk where they are used; or codes
        part.json           sizes of the files, sealed

A state of D numbers takes 2 · D bytes: a passage of 100 tokens with D 128 about 26 kB. A folder holds the
passages that were asked for, not a whole corpus. Where each of them is, is in memory: about 150 bytes each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from limbeck import sealed
from limbeck.errors import InputError
from limbeck.files import held, whole_folder
from limbeck.knowledge.encoders import Encoder
from limbeck.knowledge.residual import Bits, Codec
from limbeck.knowledge.search import Search
from limbeck.knowledge.shards import mapped, save, searched
from limbeck.progress import SILENT, Track
from limbeck.records import numbered_lines

VERSION = 1
"""Raised when the same encoder gives other states."""

STATE, LOCK, PARTS, PART, CODEC = "states.json", "states.lock", "parts", "part.json", "codec"
IDS, ENDS, STATES = "ids.jsonl", "ends.npy", "states.npy"

AT_ONCE = 1024
"""Passages of a part: about 25 MB, and what a kill costs at most."""


class Found(NamedTuple):
    """The states of some passages, one after the other, (tokens, dimensions), and the tokens of each."""

    states: NDArray[np.float16]
    lengths: NDArray[np.int64]


def _plan(encoder: Encoder, search: Search, bits: int = 0) -> dict[str, Any]:
    """What decides states."""
    return {
        "version": VERSION,
        "encoder": encoder.fingerprint(),
        "index": search.fingerprint,
        "dimensions": encoder.dimensions,
        **({"bits": bits} if bits else {}),
    }


class PassageStates(Protocol):
    """Where a reranker has states from."""

    @property
    def encoder(self) -> Encoder:
        """What made them, and makes those of questions."""
        ...

    def of(self, ids: Sequence[str]) -> Found:
        """The states of passages, in this order."""
        ...


class Fresh:
    """States that are computed each time they are asked for, as in KARD's published code.

    Args:
        search: where the texts are.
    """

    def __init__(self, encoder: Encoder, search: Search) -> None:
        self.encoder = encoder
        self._search = search

    def of(self, ids: Sequence[str]) -> Found:
        """The states of passages, in this order."""
        found = self.encoder.passages([searched(one) for one in self._search.passages(ids)])
        if not found:
            return Found(np.empty((0, self.encoder.dimensions), np.float16), np.empty(0, np.int64))
        return Found(np.concatenate(found), np.array([len(one) for one in found], np.int64))


class Kept:
    """States on the disk; those that are not there are computed, and kept only by `fill`.

    Args:
        folder: a new one, or one of this encoder and this index.
        search: where the texts are.
        bits: compress what is kept to so many bits of a number (`residual.py`); 0: half precision; None: as
            the folder has it. What is not kept is brought to the same.

    Raises:
        InputError: the folder holds the states of another encoder or index, or something else, or is damaged.
    """

    def __init__(self, folder: Path, encoder: Encoder, search: Search, *, bits: Bits | None = 0) -> None:
        bits = (sealed.read(folder / STATE) or {}).get("bits", 0) if bits is None else bits
        self.folder = folder
        self.encoder = encoder
        self.bits: Bits = bits
        self._fresh = Fresh(encoder, search)
        self._plan = _plan(encoder, search, bits)
        self._codec: Codec | None = None
        self._refuse_other()
        self._places: dict[str, tuple[int, int]] = {}
        self._parts: set[str] = set()
        self._states: list[NDArray[Any]] = []
        self._ends: list[NDArray[np.int64]] = []
        self._read()

    @staticmethod
    def fits(folder: Path, encoder: Encoder, search: Search) -> bool:
        """Whether a folder is new, or holds states of this encoder and this index."""
        state = sealed.read(folder / STATE)
        if state is None:
            return not (folder / STATE).exists() and not (folder / PARTS).exists()
        return all(state.get(name) == value for name, value in _plan(encoder, search).items())

    def __len__(self) -> int:
        """Of how many passages states are there."""
        return len(self._places)

    def of(self, ids: Sequence[str]) -> Found:
        """The states of passages, in this order."""
        missing = [name for name in dict.fromkeys(ids) if name not in self._places]
        fresh = self._fresh.of(missing)
        if self._codec is not None and missing:
            fresh = fresh._replace(states=self._codec.decode(self._codec.encode(fresh.states)))
        starts = np.cumsum(fresh.lengths) - fresh.lengths
        new = {
            name: fresh.states[start : start + length]
            for name, start, length in zip(missing, starts.tolist(), fresh.lengths.tolist(), strict=True)
        }
        found = [new[name] if name in new else self._kept(name) for name in ids]
        if not found:
            return fresh
        return Found(np.concatenate(found), np.array([len(one) for one in found], np.int64))

    def fill(self, ids: Iterable[str], track: Track = SILENT) -> int:
        """Compute and keep the states of those that are not there; return how many these were.

        Killed, it keeps what was whole; called again it goes on. Called with the same ids in the same order
        it makes the same files.

        Raises:
            RunInUseError: another process does so. DiskError: the folder cannot be written.
        """
        wanted = list(dict.fromkeys(ids))
        in_use = f"{self.folder}: another process keeps states here; wait for it"
        with held(self.folder / LOCK, in_use):
            self._refuse_other()
            sealed.write(self.folder / STATE, self._plan)
            self._read()
            missing = [name for name in wanted if name not in self._places]
            with track("passages encoded", len(missing)) as advance:
                for first in range(0, len(missing), AT_ONCE):
                    advance(first)
                    self._write(missing[first : first + AT_ONCE])
                advance(len(missing))
            return len(missing)

    def _kept(self, name: str) -> NDArray[np.float16]:
        part, row = self._places[name]
        ends = self._ends[part]
        found = self._states[part][int(ends[row - 1]) if row else 0 : int(ends[row])]
        return found if self._codec is None else self._codec.decode(found)

    def _refuse_other(self) -> None:
        state = sealed.read(self.folder / STATE)
        if state is None:
            if (self.folder / STATE).exists() or (self.folder / PARTS).exists():
                raise InputError(f"{self.folder}: {STATE} is missing or damaged; remove the folder")
            begun = (self.folder / LOCK).is_file()  # and killed before it wrote more
            others = self.folder.is_dir() and any(
                not one.name.startswith(".") for one in self.folder.iterdir()
            )
            if others and not begun:
                raise InputError(f"{self.folder}: holds other files; name a new or an empty folder")
            return
        names = {
            "encoder": "encoder",
            "index": "index",
            "version": "version of Limbeck",
            "bits": "compression",
        }
        for name, what in names.items():
            if state.get(name) != self._plan.get(name):
                raise InputError(
                    f"{self.folder}: holds states of another {what}; name another folder, or remove this one"
                )

    def _read(self) -> None:
        """Take note of the parts that are there."""
        folders = self._folders()
        if self.bits and self._codec is None and (folders or (self.folder / CODEC).is_dir()):
            _whole(self.folder / CODEC)
            self._codec = Codec.read(self.folder / CODEC)
        for folder in (one for one in folders if one.name not in self._parts):
            _whole(folder)
            number = len(self._states)
            self._parts.add(folder.name)
            self._states.append(mapped(folder / STATES))
            self._ends.append(mapped(folder / ENDS))
            names = [json.loads(line) for _, line in numbered_lines(folder / IDS)]
            self._places |= {name: (number, row) for row, name in enumerate(names)}

    def _folders(self) -> list[Path]:
        """The parts that are there; numbers may be missing, where somebody removed a damaged one."""
        return sorted(one for one in (self.folder / PARTS).glob("[0-9]*") if one.is_dir())

    def _write(self, names: Sequence[str]) -> None:
        """Encode some passages as a part of their own."""
        found = self._fresh.of(names)
        if self.bits and self._codec is None:  # made of the first part
            with whole_folder(self.folder / CODEC) as partial:
                Codec.of(found.states, self.bits).save(partial)
                sealed.write(partial / PART, {"files": sealed.files(partial)})
            self._codec = Codec.read(self.folder / CODEC)
        number = max((int(one.name) for one in self._folders()), default=-1) + 1
        with whole_folder(self.folder / PARTS / f"{number:05d}") as partial:
            text = "".join(json.dumps(name) + "\n" for name in names)
            (partial / IDS).write_text(text, encoding="utf-8")
            save(partial / ENDS, np.cumsum(found.lengths))
            save(partial / STATES, self._codec.encode(found.states) if self._codec else found.states)
            sealed.write(partial / PART, {"files": sealed.files(partial)})
        self._read()


def _whole(folder: Path) -> None:
    """Refuse a part, or the codec, that is not what was written."""
    about = sealed.read(folder / PART)
    if wrong := "part.json is missing or damaged" if about is None else sealed.damage(folder, about):
        rest = "the whole folder of states" if folder.name == CODEC else "this folder"
        raise InputError(f"{folder}: {wrong}; remove {rest}, and its passages are encoded again")
