"""One pass of a mentor over rows, to disk: shard by shard, so that a kill costs one shard at most.

`progress.jsonl` has the plan in its first line and a line per shard with the SHA-256 of its data, appended
after these were synced. When the work goes on, everything behind the last whole shard is cut off.
Batches and shards follow from the rows and `batch_tokens` alone, so that work that was killed
ends with the same files, byte for byte, as work that was not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError
from torch import nn

from limbeck.errors import DataError, DiskError
from limbeck.files import AppendLog, digest, whole_binary_file, with_sum, without_sum
from limbeck.objectives.align import align_batch, is_encoder_decoder
from limbeck.objectives.soft import SoftTargets
from limbeck.progress import Advance, notice
from limbeck.records import Record, first_problem, write_json
from limbeck.soft_labels.cache import (
    FORMAT,
    KEYS,
    MANIFEST,
    PLACES,
    Array,
    Column,
    columns,
    compare,
    effective,
    kept,
    read_manifest,
)
from limbeck.soft_labels.live import Live
from limbeck.soft_labels.served import ServedLabels
from limbeck.soft_labels.settings import CodecSettings
from limbeck.training.collate import Row, collate
from limbeck.training.feed import lengths_of
from limbeck.training.sampler import Limits, Size, cut_sizes, on_grid_size, snake

PROGRESS = "progress.jsonl"
SHARD_BATCHES = 16
SHARD_BYTES = 1 << 26
"""A shard ends with the batch that reaches either limit: what is held in memory, and what a kill costs."""


class Shard(Record):
    """One line of the progress: scored tokens of each row, and what was written to each file."""

    shard: int
    batches: int
    tokens: tuple[int, ...]
    sha256: dict[str, str] = Field(default_factory=dict)


def write_cache(
    folder: Path,
    mentor: nn.Module | ServedLabels,
    rows: Sequence[Row],
    pad: int,
    codec: CodecSettings,
    temperature: float,
    vocabulary: int,
    identity: Mapping[str, str],
    *,
    batch_tokens: int,
    progress: Advance | None = None,
    say: Callable[[str], None] = notice,
) -> None:
    """Write a mentor's soft labels of all scored rows; go on where a kill stopped it.

    Equal rows are stored once.

    Args:
        folder: `cache` says what is in it afterwards.
        mentor: on the device where it is, put into evaluation mode; or a decoder-only one that a server has.
        pad: the id that fills rows up.
        temperature: τ.
        vocabulary: real tokens, see `tokenizers.vocabulary_of`.
        identity: fingerprints by name: of the mentor's weights, the tokenizer, the prompt's format.
        batch_tokens: most tokens in a batch of the mentor, with padding.
        progress: called at first and after every batch with the rows that are done, and of how many.
        say: gets a line where shards of an earlier process are damaged.

    Raises:
        DataError: no rows.
        RecipeError, ModelError: the folder holds soft labels that were made otherwise.
        DiskError: the folder cannot be written.
    """
    unique = sorted({row.key: row for row in rows if row.scored}.values(), key=lambda row: row.key)
    if not unique:
        raise DataError(folder, "there are no rows to make soft labels for; look at what was kept")
    codec = effective(codec, vocabulary)
    files = columns(codec, vocabulary)
    plan = {
        "format": FORMAT,
        "identity": dict(identity),
        "vocabulary": vocabulary,
        "temperature": float(temperature),
        **kept(codec),
        "precision": {file.name: np.dtype(file.dtype).name for file in files},
        "text": text_of(unique),
    }
    if (folder / MANIFEST).exists():
        compare(folder, read_manifest(folder), plan)
        return
    soft: Live | ServedLabels
    if isinstance(mentor, ServedLabels):
        both, soft = False, mentor
    else:
        both, soft = is_encoder_decoder(mentor), Live(mentor, codec, temperature, vocabulary)
    batches = _batches(unique, both, batch_tokens)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = AppendLog(folder / PROGRESS, durable=True)
        shards = _resumed(folder, log, plan | {"batch_tokens": batch_tokens}, files, batches, say)
        _work(folder, log, soft, batches, shards, files, pad, both, progress)
        _finish(folder, plan, [row for batch in batches for row in batch], shards, files)
    except OSError as error:
        raise DiskError(error.filename or folder, error) from error


def text_of(rows: Sequence[Row]) -> str:
    """Fingerprint of what the rows are, whatever their order and however often one is among them."""
    keys = np.array(sorted({row.key for row in rows}), "<i8")
    return hashlib.sha256(keys.tobytes()).hexdigest()


def _batches(rows: Sequence[Row], encoder_decoder: bool, batch_tokens: int) -> list[list[Row]]:
    """Rows of similar length share a batch; one that is over the limit has a batch of its own."""
    sizes = [on_grid_size(Size(1, lengths_of(row, encoder_decoder=encoder_decoder))) for row in rows]
    order = snake([size.lengths for size in sizes])
    cuts = cut_sizes([sizes[i] for i in order], Limits(len(rows), batch_tokens))
    return [[rows[i] for i in order[start:stop]] for start, stop in cuts]


@dataclass
class _Buffer:
    """The shard that is being made."""

    batches: int = 0
    tokens: list[int] = field(default_factory=list)
    data: dict[str, list[Array]] = field(default_factory=dict)
    bytes: int = 0

    def add(self, packed: Mapping[str, Array], tokens: Sequence[int]) -> None:
        self.batches += 1
        self.tokens += tokens
        for name, values in packed.items():
            self.data.setdefault(name, []).append(values)
            self.bytes += values.nbytes

    @property
    def is_full(self) -> bool:
        return self.batches >= SHARD_BATCHES or self.bytes >= SHARD_BYTES


def _work(
    folder: Path,
    log: AppendLog,
    soft: Live | ServedLabels,
    batches: Sequence[Sequence[Row]],
    shards: list[Shard],
    files: Sequence[Column],
    pad: int,
    encoder_decoder: bool,
    progress: Advance | None,
) -> None:
    """Make the shards that are not there yet, and add them to `shards`."""
    done = sum(len(shard.tokens) for shard in shards)
    total = sum(map(len, batches))
    if progress:
        progress(done, total=total)
    buffer = _Buffer()
    begin = sum(shard.batches for shard in shards)
    for number, rows in enumerate(batches[begin:], start=begin + 1):
        batch = collate(rows, pad)
        tokens = align_batch(batch, encoder_decoder=encoder_decoder).keep_BT.sum(1).tolist()
        buffer.add(pack(soft.of(batch), files), tokens)
        done += len(rows)
        if buffer.is_full or number == len(batches):
            shards.append(_append(folder, log, len(shards), buffer, files))
            buffer = _Buffer()
        if progress:
            progress(done, total=total)


def pack(soft: SoftTargets, files: Sequence[Column]) -> dict[str, Array]:
    """The numbers of each data file for one batch."""
    log_p_NK = soft.log_p_NK.numpy()
    made: dict[str, Array] = {"log_p": log_p_NK}
    if soft.ids_NK is not None:
        least = np.finfo(np.float16).min  # anything less likely would become minus infinity
        made = {"ids": soft.ids_NK.numpy(), "log_p": np.maximum(log_p_NK, least)}
    return {file.name: made[file.name].astype(file.dtype) for file in files}


def _append(folder: Path, log: AppendLog, number: int, buffer: _Buffer, files: Sequence[Column]) -> Shard:
    """Write a shard: its data, and once that is on the disk its line."""
    sums = {file.name: sha256() for file in files}
    with ExitStack() as stack:
        streams = [stack.enter_context((folder / file.file).open("ab")) for file in files]
        for file, stream in zip(files, streams, strict=True):
            for values in buffer.data[file.name]:
                stream.write(values.tobytes())
                sums[file.name].update(values.tobytes())
        for stream in streams:
            stream.flush()
            os.fsync(stream.fileno())
    written = {name: one.hexdigest() for name, one in sums.items()}
    shard = Shard(shard=number, batches=buffer.batches, tokens=tuple(buffer.tokens), sha256=written)
    log.append(with_sum(shard.model_dump_json().encode()))
    return shard


def _resumed(
    folder: Path,
    log: AppendLog,
    plan: Mapping[str, Any],
    files: Sequence[Column],
    batches: Sequence[Sequence[Row]],
    say: Callable[[str], None],
) -> list[Shard]:
    """The shards that are whole; everything behind them is cut off, and a new plan begun if there is none.

    Raises:
        RecipeError, ModelError: the work was begun with other settings, models or rows.
    """
    shards: list[Shard] = []
    end = tokens = 0
    for number, (start, line) in enumerate(log.lines(), start=1):
        try:
            if number == 1:
                compare(folder, _object(line), plan)
            else:
                shard = _shard(line, number - 2, batches[sum(one.batches for one in shards) :])
                _check_data(folder, shard, files, tokens)
                shards.append(shard)
                tokens += sum(shard.tokens)
        except ValueError as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
            place = f"{folder / PROGRESS}:{number}"
            say(f"{place}: damaged ({reason}); these soft labels and those behind are made again")
            log.cut(start)
            break
        end = start + len(line)
    for file in files:
        with (folder / file.file).open("ab") as stream:
            stream.truncate(file.bytes(tokens))
    if not end:
        log.append(with_sum(json.dumps(plan).encode()))
    return shards


def _object(line: bytes) -> dict[str, Any]:
    """The JSON object of a line; ValueError: it is none, or it changed since it was written."""
    found = json.loads(without_sum(line))
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _shard(line: bytes, number: int, batches: Sequence[Sequence[Row]]) -> Shard:
    """The shard of a line; ValueError: it is damaged, or not the one that belongs to the first batches."""
    shard = Shard.model_validate(_object(line))
    if shard.shard != number or len(shard.tokens) != sum(map(len, batches[: shard.batches])):
        raise ValueError("not the shard that belongs here")
    return shard


def _check_data(folder: Path, shard: Shard, files: Sequence[Column], begin: int) -> None:
    """ValueError: the data files do not hold what was written for this shard, from token `begin` on."""
    for file in files:
        path, size = folder / file.file, file.bytes(sum(shard.tokens))
        if not path.is_file():
            raise ValueError(f"{file.file} is missing")
        with path.open("rb") as stream:
            stream.seek(file.bytes(begin))
            data = stream.read(size)
        if len(data) < size or shard.sha256.get(file.name, "") not in ("", sha256(data).hexdigest()):
            raise ValueError(f"{file.file} does not hold what was written")


def _finish(
    folder: Path,
    plan: Mapping[str, Any],
    rows: Sequence[Row],
    shards: Sequence[Shard],
    files: Sequence[Column],
) -> None:
    """Write the index, then the manifest; `rows` in the order in which they were written."""
    counts = np.array([count for shard in shards for count in shard.tokens])
    keys = np.array([row.key for row in rows], np.int64)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    places = np.stack([np.cumsum(counts) - counts, counts], 1)
    _save(folder / KEYS, np.ascontiguousarray(keys[order].T))
    _save(folder / PLACES, places[order].astype(np.int64))
    tokens = int(counts.sum())
    names = [KEYS, PLACES, *(file.file for file in files)]
    sizes = {name: (folder / name).stat().st_size for name in names}
    total = sum(sizes.values())
    about = {"rows": len(rows), "tokens": tokens}
    weight = {"bytes": total, "bytes_per_token": round(total / max(tokens, 1), 2), "files": sizes}
    weight["sha256"] = {name: digest(folder / name) for name in names}
    write_json(folder / MANIFEST, {**plan, **about, **weight})


def _save(path: Path, values: Array) -> None:
    """A .npy file that is there whole or not at all."""
    with whole_binary_file(path) as stream:
        np.save(stream, values)
