"""Soft labels on disk: their layout, and how they are read back.

A store is a folder of volumes; each volume holds the rows that one stage added, and is never changed:

    manifest.json            what was kept, of which mentor, at which temperature; written last
    keys.npy                 (2, R) the keys of the R rows, sorted
    places.npy               (R, 2) first token and tokens of each
    ids.bin, log_p.bin       top-k: k tokens and their log-probabilities, per scored token
    log_p.bin                full: a log-probability per token of the vocabulary

Only a batch's own stretches are read, so that what is stored may be larger than memory. The data files are
not memory-mapped, because mapped pages would count as the process's own until the system wants them back; the
keys and places are, 32 bytes a row. Rows are found by key, in whichever volume: any subset, in any order, can
be trained on.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from limbeck.errors import DataError, DiskError, InputError, ModelError, RecipeError
from limbeck.files import digest, read_at
from limbeck.objectives.soft import SoftTargets
from limbeck.records import first_problem
from limbeck.soft_labels.settings import CodecSettings
from limbeck.training.collate import Batch
from limbeck.training.rows import NO_KEY, Row, Rows, as_rows

FORMAT = 2
MANIFEST, KEYS, PLACES = "manifest.json", "keys.npy", "places.npy"
REMAKE = "remove the folder to make them again"

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One data file: `width` numbers per scored token."""

    name: str
    dtype: str
    width: int

    @property
    def file(self) -> str:
        return f"{self.name}.bin"

    def bytes(self, tokens: int) -> int:
        """Size of the file that holds so many tokens."""
        return tokens * self.width * np.dtype(self.dtype).itemsize


def effective(codec: CodecSettings, vocabulary: int) -> CodecSettings:
    """The codec that is stored: where k keeps every token there is no tail, and ids are not needed."""
    return CodecSettings(kind="full") if codec.kind == "top-k" and codec.k >= vocabulary else codec


def columns(codec: CodecSettings, vocabulary: int) -> tuple[Column, ...]:
    """The data files of an effective codec; 16 bits hold an id wherever the vocabulary allows."""
    if codec.kind == "full":
        return (Column("log_p", "<f4", vocabulary),)
    id_type = "<u2" if vocabulary <= 1 << 16 else "<i4"
    return Column("ids", id_type, codec.k), Column("log_p", "<f2", codec.k)


def kept(codec: CodecSettings) -> dict[str, Any]:
    """An effective codec as the manifest says it, with nothing that does not decide what is stored."""
    return {"codec": codec.kind, "k": codec.k} if codec.kind == "top-k" else {"codec": codec.kind}


class Manifest(BaseModel):
    """What every manifest says; `identity` and what differs by codec may say more."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    format: int
    identity: dict[str, str]
    text: str
    temperature: float
    codec: Literal["top-k", "full"]
    k: int = 1
    vocabulary: int
    rows: int
    tokens: int
    files: dict[str, int]
    sha256: dict[str, str]


def find(stored_2R: Array, keys_B2: Array) -> Array:
    """(B,) the place of each key among sorted ones, or -1."""
    first, second = stored_2R
    place = np.searchsorted(first, keys_B2[:, 0])
    while True:
        inside = np.minimum(place, len(first) - 1)
        equal = (place < len(first)) & (first[inside] == keys_B2[:, 0])
        found = equal & (second[inside] == keys_B2[:, 1])
        if not (equal & ~found).any():
            return np.where(found, place, -1)
        place = place + (equal & ~found)  # another row with the same first half


def each_once(keys_B2: Array) -> Array:
    """The place of each different key where it comes first, by key.

    Example:
        >>> each_once(np.array([[7, 0], [-1, 5], [7, 0], [-1, 4]]))
        array([3, 1, 0])
    """
    order = np.lexsort((keys_B2[:, 1], keys_B2[:, 0]))
    ordered = keys_B2[order]
    new = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    return order[new]


class DataFile:
    """The numbers of a column, read where they are looked at; closed with what reads them."""

    def __init__(self, path: Path, column: Column) -> None:
        self._path, self._column = path, column
        self._stream = FileIO(path)
        weakref.finalize(self, self._stream.close)

    def tokens(self, first: int, end: int) -> Array:
        """(N, width) of some tokens.

        Raises:
            DataError: they are not there any more.
            DiskError: the file cannot be read.
        """
        column = self._column
        size = column.bytes(end - first)
        try:
            found = read_at(self._stream, size, column.bytes(first))
        except OSError as error:
            raise DiskError(self._path, error) from error
        if len(found) != size:
            raise DataError(self._path, f"damaged soft labels, cut off while they were read; {REMAKE}")
        return np.frombuffer(found, column.dtype).reshape(-1, column.width)


@dataclass(frozen=True)
class Volume:
    """The rows of one folder; `Volume.open` makes one."""

    folder: Path
    manifest: Mapping[str, Any]
    codec: CodecSettings
    keys: Array
    places: Array
    data: Mapping[str, DataFile]

    @classmethod
    def open(cls, folder: Path, expected: Mapping[str, Any]) -> Volume:
        """Open the files of whole soft labels that are what is expected.

        Args:
            expected: any of `identity` (fingerprints by name), `vocabulary`, `temperature`, `codec`
                (`CodecSettings`), and `text` (see `writing.text_of`) where the rows must be the same.

        Raises:
            RecipeError: another temperature or codec.
            ModelError: another mentor, tokenizer or vocabulary.
            DataError: no whole soft labels, a file of another size, another format or text.
            DiskError: a file cannot be read.
        """
        manifest = read_manifest(folder)
        wanted = dict(expected)
        asked = wanted.pop("codec", None)
        if asked is not None:
            wanted |= kept(effective(asked, manifest["vocabulary"]))
        compare(folder, manifest, {"format": FORMAT, **wanted})
        codec = CodecSettings(kind=manifest["codec"], k=manifest.get("k", 1))
        files = columns(codec, manifest["vocabulary"])
        for name in (KEYS, PLACES, *(column.file for column in files)):
            _check_written(folder, name, manifest)
        try:
            keys, places = (np.load(folder / name, mmap_mode="r") for name in (KEYS, PLACES))
            data = {column.name: DataFile(folder / column.file, column) for column in files}
        except ValueError as error:
            raise DataError(folder, f"damaged soft labels ({error}); {REMAKE}") from None
        except OSError as error:
            raise DiskError(error.filename or folder, error) from error
        return cls(folder, manifest, codec, np.asarray(keys), np.asarray(places), data)

    def find(self, keys_B2: Array) -> Array:
        """Each key's row number here, or -1."""
        return find(self.keys, keys_B2)

    def spans(self, rows: Array) -> list[tuple[int, int]]:
        """Where each row's tokens begin and end in the data files."""
        return [(first, first + count) for first, count in self.places[rows].tolist()]


@dataclass(frozen=True)
class Cached:
    """Soft labels of one mentor, read from the volumes of a store; `Cached.open` makes one."""

    volumes: tuple[Volume, ...]

    @classmethod
    def open(cls, folders: Sequence[Path], expected: Mapping[str, Any]) -> Cached:
        """Open volumes that are all what is expected, and are of one kind.

        Raises:
            ValueError: no folders.
            And as `Volume.open`.
        """
        if not folders:
            raise ValueError("soft labels are read from at least one volume")
        first = Volume.open(folders[0], expected)
        shared = {name: first.manifest[name] for name in ("identity", "vocabulary", "temperature")}
        others = (Volume.open(folder, {**expected, **shared, "codec": first.codec}) for folder in folders[1:])
        return cls((first, *others))

    @property
    def temperature(self) -> float:
        """τ, at which the mentor's log-probabilities were stored."""
        return float(self.volumes[0].manifest["temperature"])

    @property
    def vocabulary(self) -> int:
        """Real tokens."""
        return int(self.volumes[0].manifest["vocabulary"])

    def of(self, batch: Batch) -> SoftTargets:
        """The stored targets of the batch's scored rows.

        Raises:
            DataError: a row that is not stored; `missing` says which before training.
        """
        keys = batch["keys"].cpu().numpy()
        wanted = (keys != NO_KEY).any(1)
        if "scored" in batch:
            wanted &= batch["scored"].cpu().numpy()
        places = self._places(keys[wanted])
        device = batch["labels"].device
        log_p_NK = torch.from_numpy(self._read("log_p", places)).to(device).float()
        if self.volumes[0].codec.kind == "full":
            return SoftTargets(log_p_NK, None, False, self.vocabulary)
        return SoftTargets(log_p_NK, _widened(self._read("ids", places), device), True, self.vocabulary)

    def _places(self, keys_B2: Array) -> list[tuple[int, int, int]]:
        """(volume, first token, one past the last) of each row."""
        places: list[tuple[int, int, int]] = [(-1, 0, 0)] * len(keys_B2)
        for number, volume in enumerate(self.volumes):
            rows = volume.find(keys_B2)
            here = np.flatnonzero(rows >= 0)
            for row, span in zip(here.tolist(), volume.spans(rows[here]), strict=True):
                places[row] = (number, *span)
        if lost := sum(number < 0 for number, *_ in places):
            raise DataError(
                self.volumes[0].folder.parent,
                f"no soft labels for {lost} rows of a batch; make them for these rows",
            )
        return places

    def _read(self, name: str, places: Sequence[tuple[int, int, int]]) -> Array:
        """Stretches of files, one after the other, in memory."""
        parts = [self.volumes[number].data[name].tokens(start, stop) for number, start, stop in places]
        return np.concatenate(parts or [self.volumes[0].data[name].tokens(0, 0)])


def missing(folders: Sequence[Path], rows: Sequence[Row]) -> Rows:
    """The rows that no volume holds, each once; rows that are not scored need no soft labels.

    Of a volume this reads the manifest and the keys alone, and of rows in a file nothing but their keys.

    Raises:
        DataError: no whole soft labels, another format, or damaged keys.
        DiskError: a file cannot be read.
    """
    known = as_rows(rows)
    keys_N2, scored = known.keys, np.flatnonzero(known.scored)
    lacking = scored[np.sort(each_once(keys_N2[scored]))]
    for folder in folders:
        manifest = read_manifest(folder)
        compare(folder, manifest, {"format": FORMAT})
        _check_written(folder, KEYS, manifest)
        lacking = lacking[find(np.load(folder / KEYS, mmap_mode="r"), keys_N2[lacking]) < 0]
    return known.some(lacking)


def _widened(ids: Array, device: torch.device) -> Tensor:
    """Ids as int64, made so on the device: torch counts with few unsigned types."""
    if ids.dtype != np.uint16:
        return torch.from_numpy(ids).to(device).long()
    return torch.from_numpy(ids.view(np.int16)).to(device).long().bitwise_and_(0xFFFF)


def _check_written(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Refuse a file that is not as it was written: a wrong bit would be learned without a warning."""
    path, size, known = folder / name, manifest["files"].get(name, -1), manifest["sha256"].get(name, "")
    try:
        found = path.stat().st_size
        if found != size:
            raise DataError(path, f"damaged soft labels, {found} bytes instead of {size}; {REMAKE}")
        if digest(path) != known:
            raise DataError(path, f"damaged soft labels, the content changed since it was written; {REMAKE}")
    except FileNotFoundError:
        raise DataError(path, f"this file of the soft labels is missing; {REMAKE}") from None
    except OSError as error:
        raise DiskError(path, error) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of whole soft labels.

    Raises:
        DataError: there is none, or it is not a manifest.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(folder, "there are no whole soft labels here; make them first") from None
    except OSError as error:
        raise DiskError(path, error) from error
    except ValueError as error:
        raise DataError(path, f"not a manifest of soft labels ({error}); {REMAKE}") from None
    try:
        Manifest.model_validate(manifest)
    except ValidationError as error:
        raise DataError(path, f"not a manifest of soft labels ({first_problem(error)}); {REMAKE}") from None
    return dict(manifest)


def compare(folder: Path, manifest: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse soft labels that are not those that are asked for; the errors are `Volume.open`'s."""
    for name, ours in expected.items():
        theirs = manifest.get(name)
        if theirs == ours:
            continue
        if name == "identity":
            _compare_identities(folder, theirs or {}, ours)
        raise _difference(folder, name, theirs, ours)


def _compare_identities(folder: Path, stored: Mapping[str, str], asked: Mapping[str, str]) -> None:
    for name in sorted(stored.keys() | asked.keys()):
        theirs, ours = stored.get(name, "none"), asked.get(name, "none")
        if theirs != ours:
            raise ModelError(
                f"{folder}: these soft labels were made with another {name} ({theirs[:12]}, and this student "
                f"asks for {ours[:12]}); {REMAKE}"
            )


def _difference(folder: Path, name: str, theirs: Any, ours: Any) -> InputError:
    """The error for one fact that differs."""
    if name == "text":
        return DataError(folder, f"these soft labels are of other examples than this student's; {REMAKE}")
    if name == "temperature":
        made = f"made at temperature {theirs:g}, and this student asks for {ours:g}"
    else:
        made = f"made with {name} {_said(theirs)}, and this student asks for {_said(ours)}"
    where = f"these soft labels were {made}"
    if name in ("format", "precision"):
        return DataError(folder, f"{where}; {REMAKE}")
    if name == "vocabulary":
        return ModelError(f"{folder}: {where}; choose a mentor with the student's tokenizer")
    fix = f"set {name} to {_said(theirs)} or {REMAKE}" if theirs is not None else REMAKE
    return RecipeError(f"{folder}: {where}; {fix}")


def _said(value: Any) -> str:
    """A fact in an error's sentence; of a fingerprint the beginning."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return "none" if value is None else str(value)[:12]
