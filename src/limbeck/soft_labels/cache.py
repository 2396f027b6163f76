"""Soft labels on disk: their layout, and how they are read back.

    manifest.json            what was kept, of which mentor, at which temperature; written last
    keys.npy                 (2, R) the keys of the R rows, sorted
    places.npy               (R, 2) first token and tokens of each; sampled: also first entry and entries
    ids.bin, log_p.bin       top-k: k tokens and their log-probabilities, per scored token
    log_p.bin                full: a log-probability per token of the vocabulary
    sizes.bin, ids.bin, counts.bin   sampled: distinct tokens per scored token; each with its count

The files are memory-mapped and only a batch's own stretches are read, so that what is stored may
be larger than memory. Rows are found by key: any subset, in any order, can be trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from limbeck.errors import DataError, DiskError, InputError, ModelError, RecipeError
from limbeck.objectives.soft import SoftTargets
from limbeck.records import first_problem
from limbeck.training.collate import NO_KEY, Batch, Row
from limbeck.training.settings import CodecSettings

FORMAT = 1
MANIFEST, KEYS, PLACES = "manifest.json", "keys.npy", "places.npy"
ANEW = "remove the folder to make them anew"

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One data file: `width` numbers per scored token or, when ragged, one per distinct draw."""

    name: str
    dtype: str
    width: int = 1
    ragged: bool = False

    @property
    def file(self) -> str:
        return f"{self.name}.bin"

    def bytes(self, tokens: int, entries: int) -> int:
        """Size of the file that holds so many tokens and distinct draws."""
        return (entries if self.ragged else tokens) * self.width * np.dtype(self.dtype).itemsize


def effective(codec: CodecSettings, vocabulary: int) -> CodecSettings:
    """The codec that is stored: where k keeps every token there is no tail, and ids need not stand there."""
    return CodecSettings(kind="full") if codec.kind == "top-k" and codec.k >= vocabulary else codec


def columns(codec: CodecSettings, vocabulary: int) -> tuple[Column, ...]:
    """The data files of an effective codec; 16 bits hold an id wherever the vocabulary allows."""
    id_type = "<u2" if vocabulary <= 1 << 16 else "<i4"
    if codec.kind == "full":
        return (Column("log_p", "<f4", vocabulary),)
    if codec.kind == "top-k":
        return Column("ids", id_type, codec.k), Column("log_p", "<f2", codec.k)
    count_type = "<u1" if codec.draws <= 0xFF else "<u2"
    return (
        Column("sizes", count_type),
        Column("ids", id_type, ragged=True),
        Column("counts", count_type, ragged=True),
    )


def kept(codec: CodecSettings, seed: int) -> dict[str, Any]:
    """An effective codec as the manifest tells it, with nothing that does not decide what is stored."""
    if codec.kind == "top-k":
        return {"codec": codec.kind, "k": codec.k}
    if codec.kind == "sampled":
        return {"codec": codec.kind, "draws": codec.draws, "seed": seed}
    return {"codec": codec.kind}


class Manifest(BaseModel):
    """What every manifest says; `identity` and what differs by codec may say more."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    format: int
    identity: dict[str, str]
    text: str
    temperature: float
    codec: Literal["top-k", "sampled", "full"]
    k: int = 1
    draws: int = 1
    seed: int = 0
    vocabulary: int
    rows: int
    tokens: int
    entries: int = 0
    files: dict[str, int]
    sha256: dict[str, str]


@dataclass(frozen=True)
class Cached:
    """Soft labels that stand in a folder; `Cached.open` makes one."""

    folder: Path
    manifest: Mapping[str, Any]
    codec: CodecSettings
    keys: Array
    places: Array
    data: Mapping[str, Array]

    @classmethod
    def open(cls, folder: Path, expected: Mapping[str, Any]) -> Cached:
        """Map the files of whole soft labels that are what is expected.

        Args:
            expected: any of `identity` (fingerprints by name), `vocabulary`, `temperature`, `codec`
                (`CodecSettings`; with `seed` where draws must be the same), and `text` (see
                `soft_writing.text_of`) where the rows must be the same.

        Raises:
            RecipeError: another temperature or codec.
            ModelError: another mentor, tokenizer or vocabulary.
            DataError: no whole soft labels, a file of another size, another format or text.
            DiskError: a file cannot be read.
        """
        manifest = read_manifest(folder)
        wanted = dict(expected)
        asked, seed = wanted.pop("codec", None), wanted.pop("seed", manifest.get("seed", 0))
        if asked is not None:
            wanted |= kept(effective(asked, manifest["vocabulary"]), seed)
        compare(folder, manifest, {"format": FORMAT, **wanted})
        codec = CodecSettings(
            kind=manifest["codec"], **{name: manifest[name] for name in ("k", "draws") if name in manifest}
        )
        files = columns(codec, manifest["vocabulary"])
        for name in (KEYS, PLACES, *(column.file for column in files)):
            _check_file(folder / name, manifest["files"].get(name, -1), manifest["sha256"].get(name, ""))
        entries = int(manifest.get("entries", 0))
        try:
            keys, places = (np.load(folder / name, mmap_mode="r") for name in (KEYS, PLACES))
            data = {
                column.name: _mapped(folder / column.file, column, int(manifest["tokens"]), entries)
                for column in files
            }
        except ValueError as error:
            raise DataError(folder, f"damaged soft labels ({error}); {ANEW}") from None
        except OSError as error:
            raise DiskError(error.filename or folder, error) from error
        return cls(folder, manifest, codec, np.asarray(keys), np.asarray(places), data)

    @property
    def temperature(self) -> float:
        """τ, at which the mentor's log-probabilities were stored."""
        return float(self.manifest["temperature"])

    @property
    def vocabulary(self) -> int:
        """Real tokens."""
        return int(self.manifest["vocabulary"])

    def of(self, batch: Batch) -> SoftTargets:
        """The stored targets of the batch's rows.

        Raises:
            DataError: a row that is not stored; `check` names its problem before training.
        """
        keys = batch["keys"].cpu().numpy()
        keys = keys[(keys != NO_KEY).any(1)]
        rows = self._find(keys)
        if (rows < 0).any():
            raise DataError(
                self.folder,
                f"no soft labels for {(rows < 0).sum()} rows of a batch; make them for these rows",
            )
        places = self.places[rows].tolist()
        device = batch["labels"].device
        tokens = [(first, first + count) for first, count, *_ in places]
        if self.codec.kind == "sampled":
            entries = [(first, first + count) for *_, first, count in places]
            return self._draws(tokens, entries, device)
        log_p_NK = torch.from_numpy(_gather(self.data["log_p"], tokens)).to(device).float()
        if self.codec.kind == "full":
            return SoftTargets(log_p_NK, None, False, self.vocabulary)
        ids_NK = _widened(_gather(self.data["ids"], tokens), device)
        return SoftTargets(log_p_NK, ids_NK, True, self.vocabulary)

    def missing(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that have no soft labels here."""
        keys = np.array([row.key for row in rows], np.int64).reshape(-1, 2)
        return [row for row, place in zip(rows, self._find(keys).tolist(), strict=True) if place < 0]

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse rows without soft labels, before a training is begun.

        Raises:
            DataError: names the first one's problem.
        """
        if missing := self.missing(rows):
            raise DataError(
                self.folder,
                f"no soft labels for problem {missing[0].problem_id!r} ({len(missing)} of {len(rows)} "
                f"rows lack them); {ANEW}",
            )

    def _find(self, keys_B2: Array) -> Array:
        """Each key's row number here, or -1."""
        first, second = self.keys
        place = np.searchsorted(first, keys_B2[:, 0])
        while True:
            inside = np.minimum(place, len(first) - 1)
            alike = (place < len(first)) & (first[inside] == keys_B2[:, 0])
            found = alike & (second[inside] == keys_B2[:, 1])
            if not (alike & ~found).any():
                return np.where(found, place, -1)
            place = place + (alike & ~found)  # another row with the same first half

    def _draws(
        self, tokens: list[tuple[int, int]], entries: list[tuple[int, int]], device: torch.device
    ) -> SoftTargets:
        """Counts of distinct tokens as log-probabilities, filled up to the longest."""
        sizes_N1 = _gather(self.data["sizes"], tokens).astype(np.int64)
        slots_NK = np.arange(sizes_N1.max(initial=1)) < sizes_N1
        counts = _gather(self.data["counts"], entries)[:, 0].astype(np.float32)
        log_p_NK = np.full(slots_NK.shape, -np.inf, np.float32)
        log_p_NK[slots_NK] = np.log(counts / self.codec.draws)
        ids_NK = np.zeros(slots_NK.shape, np.int64)
        ids_NK[slots_NK] = _gather(self.data["ids"], entries)[:, 0]
        return SoftTargets(
            torch.from_numpy(log_p_NK).to(device), torch.from_numpy(ids_NK).to(device), False, self.vocabulary
        )


def _gather(data: Array, spans: Sequence[tuple[int, int]]) -> Array:
    """Stretches of a mapped file, one after the other, in memory."""
    return np.concatenate([data[start:stop] for start, stop in spans or [(0, 0)]])


def _widened(ids: Array, device: torch.device) -> Tensor:
    """Ids as int64, made so on the device: torch counts with few unsigned types."""
    if ids.dtype != np.uint16:
        return torch.from_numpy(ids).to(device).long()
    return torch.from_numpy(ids.view(np.int16)).to(device).long().bitwise_and_(0xFFFF)


def _check_file(path: Path, size: int, digest: str) -> None:
    """Refuse a file that is not as it was written: a wrong bit would teach without a word."""
    try:
        found = path.stat().st_size
        if found != size:
            raise DataError(path, f"damaged soft labels, {found} bytes instead of {size}; {ANEW}")
        if digest_of(path) != digest:
            raise DataError(path, f"damaged soft labels, the content changed since it was written; {ANEW}")
    except FileNotFoundError:
        raise DataError(path, f"this file of the soft labels is missing; {ANEW}") from None
    except OSError as error:
        raise DiskError(path, error) from error


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _mapped(path: Path, column: Column, tokens: int, entries: int) -> Array:
    """A data file as an array that is read where it is looked at."""
    shape = (entries if column.ragged else tokens, column.width)
    if not column.bytes(tokens, entries):
        return np.empty(shape, column.dtype)
    return np.asarray(np.memmap(path, column.dtype, "r", shape=shape))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of whole soft labels.

    Raises:
        DataError: there is none, or it is no manifest.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(folder, "no whole soft labels stand here; make them first") from None
    except OSError as error:
        raise DiskError(path, error) from error
    except ValueError as error:
        raise DataError(path, f"not a manifest of soft labels ({error}); {ANEW}") from None
    try:
        Manifest.model_validate(manifest)
    except ValidationError as error:
        raise DataError(path, f"not a manifest of soft labels ({first_problem(error)}); {ANEW}") from None
    return dict(manifest)


def compare(folder: Path, manifest: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse soft labels that are not those that are asked for; the errors are `Cached.open`'s."""
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
                f"asks for {ours[:12]}); {ANEW}"
            )


def _difference(folder: Path, name: str, theirs: Any, ours: Any) -> InputError:
    """The error for one fact that differs."""
    if name == "temperature":
        made = f"made at temperature {theirs:g}, and this student asks for {ours:g}"
    else:
        made = f"made with {name} {_said(theirs)}, and this student asks for {_said(ours)}"
    where = f"these soft labels were {made}"
    if name in ("format", "text", "precision"):
        return DataError(folder, f"{where}; {ANEW}")
    if name == "vocabulary":
        return ModelError(f"{folder}: {where}; choose a mentor with the student's tokenizer")
    fix = f"set {name} to {_said(theirs)} or {ANEW}" if theirs is not None else ANEW
    return RecipeError(f"{folder}: {where}; {fix}")


def _said(value: Any) -> str:
    """A fact in an error's sentence; of a fingerprint the beginning."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return "none" if value is None else str(value)[:12]
