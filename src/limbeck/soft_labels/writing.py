"""One pass of a mentor over rows, to disk: shard by shard, so that a kill costs each rank one shard at most.

Batches and shards follow from the rows and `batch_tokens` alone. So each shard's place in the data files is
known before it is made: whoever makes it writes it there, in any order, and the files are the same, byte for
byte, whatever the number of ranks and of kills. Ranks share out the shards that are lacking.

`progress.jsonl` has the plan in its first line and a line per shard with the SHA-256 of its data, appended
after these were synced; rank n's is `progress.jsonl.n`. When the work goes on, a log's lines from a damaged
one on do not count, and their shards are made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import nn

from limbeck import ranks
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
    each_once,
    effective,
    kept,
    read_manifest,
)
from limbeck.soft_labels.live import Live
from limbeck.soft_labels.served import ServedLabels
from limbeck.soft_labels.settings import CodecSettings
from limbeck.training.collate import collate
from limbeck.training.rows import Row, Rows, as_rows
from limbeck.training.sampler import Cuts, Limits, cut_sizes, on_grid, snake

PROGRESS = "progress.jsonl"
SHARD_BATCHES = 4
SHARD_BYTES = 1 << 26
"""A shard ends with the batch that reaches either limit: what is held in memory, what a kill costs, and what
a rank takes."""


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
    """Write a mentor's soft labels of all scored rows, with all ranks; go on where a kill stopped it.

    Equal rows are stored once.

    Args:
        folder: `cache` says what is in it afterwards.
        mentor: on the device where it is, put into evaluation mode; or a decoder-only one that a server has.
        pad: the id that fills rows up.
        temperature: τ.
        vocabulary: real tokens, see `tokenizers.vocabulary_of`.
        identity: fingerprints by name: of the mentor's weights, the tokenizer, the prompt's format.
        batch_tokens: most tokens in a batch of the mentor, with padding.
        progress: called at first and after every batch with this rank's rows that are done, and of how many.
        say: gets a line where shards of an earlier process are damaged.

    Raises:
        DataError: no rows.
        RecipeError, ModelError: the folder holds soft labels that were made otherwise.
        RecipeError: a row is longer than a server reads.
        DiskError: the folder cannot be written.
    """
    known = as_rows(rows)
    scored = np.flatnonzero(known.scored)
    unique = known.some(scored[each_once(known.keys[scored])])
    if not len(unique):
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
    if ranks.share((folder / MANIFEST).exists()):
        compare(folder, read_manifest(folder), plan)
        return
    soft: Live | ServedLabels
    if isinstance(mentor, ServedLabels):
        mentor.refuse_too_long(int(unique.lengths.max()))
        both, soft = False, mentor
    else:
        both, soft = is_encoder_decoder(mentor), Live(mentor, codec, temperature, vocabulary)
    ordered, cuts = _batches(unique, both, batch_tokens)
    shards = _shards(ordered, cuts, pad, files, encoder_decoder=both)
    begun = plan | {"batch_tokens": batch_tokens}
    try:
        done = ranks.share(_resumed(folder, begun, files, shards, say) if ranks.main() else set[int]())
        _work(folder, begun, soft, ordered, shards, done, files, pad, progress)
        ranks.barrier()  # every shard is on the disk
        if ranks.main():
            _finish(folder, plan, ordered.keys, shards, files)
    except OSError as error:
        raise DiskError(error.filename or folder, error) from error


def text_of(rows: Sequence[Row]) -> str:
    """Fingerprint of what the rows are, whatever their order and however often one is among them."""
    keys_N2 = as_rows(rows).keys
    return hashlib.sha256(keys_N2[each_once(keys_N2)].astype("<i8").tobytes()).hexdigest()


def _batches(rows: Rows, encoder_decoder: bool, batch_tokens: int) -> tuple[Rows, Cuts]:
    """The rows in the order of their batches, and where each batch begins and ends.

    Rows of similar length share a batch; one that is over the limit has a batch of its own.
    """
    grid = on_grid(rows.lengths if encoder_decoder else rows.lengths[:, :1])
    order = snake(grid)
    sizes = np.concatenate([np.ones((len(rows), 1), np.int64), grid[order]], axis=1)
    return rows.some(order), cut_sizes(sizes, Limits(len(rows), batch_tokens))


@dataclass(frozen=True, slots=True, eq=False)
class _Shard:
    """Batches that are written in one go.

    Attributes:
        batches: (b,2) where each of them begins and ends among the rows in order.
        tokens: scored tokens of each row.
        begin: the place of its first token in the data files.
    """

    number: int
    batches: Cuts
    tokens: NDArray[np.int32]
    begin: int

    @property
    def end(self) -> int:
        return self.begin + int(self.tokens.sum(dtype=np.int64))


def _shards(
    rows: Rows, cuts: Cuts, pad: int, files: Sequence[Column], *, encoder_decoder: bool
) -> list[_Shard]:
    """The batches in shards: one ends with the batch that reaches `SHARD_BATCHES` or `SHARD_BYTES`."""
    shards: list[_Shard] = []
    tokens = np.empty(len(rows), np.int32)
    first = begin = held = 0  # batch and token that the shard begins with, and its tokens
    for number, (start, stop) in enumerate(cuts.tolist(), start=1):
        batch = collate(rows[start:stop], pad)
        own = align_batch(batch, encoder_decoder=encoder_decoder).keep_BT.sum(1)
        tokens[start:stop] = own.numpy()
        held += int(own.sum())
        size = sum(file.bytes(held) for file in files)
        if number - first >= SHARD_BATCHES or size >= SHARD_BYTES or number == len(cuts):
            shards.append(_Shard(len(shards), cuts[first:number], tokens[int(cuts[first, 0]) : stop], begin))
            first, begin, held = number, begin + held, 0
    return shards


def _work(
    folder: Path,
    plan: Mapping[str, Any],
    soft: Live | ServedLabels,
    ordered: Rows,
    shards: Sequence[_Shard],
    done: Collection[int],
    files: Sequence[Column],
    pad: int,
    progress: Advance | None,
) -> None:
    """Make this rank's part of the shards that are not there yet."""
    lacking = [shard for shard in shards if shard.number not in done]
    mine = lacking[ranks.rank() :: ranks.world()]
    rows = sum(len(shard.tokens) for shard in shards if shard.number in done)
    total = rows + sum(len(shard.tokens) for shard in mine)
    if progress:
        progress(rows, total=total)
    log = _log(folder, ranks.rank())
    if mine and not any(log.lines()):
        log.append(with_sum(json.dumps(plan).encode()))
    for shard in mine:
        packed = []
        end = int(shard.batches[-1, 1])
        for start, stop in shard.batches.tolist():
            packed.append(pack(soft.of(collate(ordered[start:stop], pad)), files))
            rows += stop - start
            if progress and stop < end:
                progress(rows, total=total)
        _write(folder, log, shard, packed, files)
        if progress:
            progress(rows, total=total)


def _log(folder: Path, rank: int) -> AppendLog:
    """What a rank has finished."""
    return AppendLog(folder / (f"{PROGRESS}.{rank}" if rank else PROGRESS), durable=True)


def pack(soft: SoftTargets, files: Sequence[Column]) -> dict[str, Array]:
    """The numbers of each data file for one batch."""
    log_p_NK = soft.log_p_NK.numpy()
    made: dict[str, Array] = {"log_p": log_p_NK}
    if soft.ids_NK is not None:
        least = np.finfo(np.float16).min  # anything less likely would become minus infinity
        made = {"ids": soft.ids_NK.numpy(), "log_p": np.maximum(log_p_NK, least)}
    return {file.name: made[file.name].astype(file.dtype) for file in files}


def _write(
    folder: Path,
    log: AppendLog,
    shard: _Shard,
    packed: Sequence[Mapping[str, Array]],
    files: Sequence[Column],
) -> None:
    """Write a shard's data to their place, and once these are on the disk its line."""
    sums = {file.name: sha256() for file in files}
    for file in files:
        with (folder / file.file).open("r+b") as stream:
            stream.seek(file.bytes(shard.begin))
            for batch in packed:
                data = batch[file.name].tobytes()
                stream.write(data)
                sums[file.name].update(data)
            stream.flush()
            os.fsync(stream.fileno())
    written = {name: one.hexdigest() for name, one in sums.items()}
    tokens = tuple(shard.tokens.tolist())
    line = Shard(shard=shard.number, batches=len(shard.batches), tokens=tokens, sha256=written)
    log.append(with_sum(line.model_dump_json().encode()))


def _resumed(
    folder: Path,
    plan: Mapping[str, Any],
    files: Sequence[Column],
    shards: Sequence[_Shard],
    say: Callable[[str], None],
) -> set[int]:
    """The numbers of the shards that are there; the data files get the size that they will have.

    Raises:
        RecipeError, ModelError: the work was begun with other settings, models or rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done: set[int] = set()
    for rank in _ranks(folder):
        log = _log(folder, rank)
        for number, (start, line) in enumerate(log.lines(), start=1):
            try:
                if number == 1:
                    compare(folder, _object(line), plan)
                else:
                    found = Shard.model_validate(_object(line))
                    _check(folder, found, files, shards, done)
                    done.add(found.shard)
            except ValueError as error:
                reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
                place = f"{log.path}:{number}"
                say(f"{place}: damaged ({reason}); these soft labels and those behind are made again")
                log.cut(start)
                break
    tokens = shards[-1].end
    for file in files:
        with (folder / file.file).open("ab") as stream:
            stream.truncate(file.bytes(tokens))
    return done


def _ranks(folder: Path) -> list[int]:
    """Those that have logs: today's world may be smaller than the one that wrote them."""
    ends = (path.name.removeprefix(f"{PROGRESS}.") for path in folder.glob(f"{PROGRESS}.*"))
    return [0, *sorted(int(end) for end in ends if end.isdecimal())]


def _object(line: bytes) -> dict[str, Any]:
    """The JSON object of a line; ValueError: it is none, or it changed since it was written."""
    found = json.loads(without_sum(line))
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _check(
    folder: Path, found: Shard, files: Sequence[Column], shards: Sequence[_Shard], done: Collection[int]
) -> None:
    """ValueError: a line is not of one of these shards, or the data files do not hold what it says."""
    shard = shards[found.shard] if 0 <= found.shard < len(shards) else None
    if shard is None or found.shard in done or list(found.tokens) != shard.tokens.tolist():
        raise ValueError("not the shard that belongs here")
    for file in files:
        path, size = folder / file.file, file.bytes(shard.end - shard.begin)
        if not path.is_file():
            raise ValueError(f"{file.file} is missing")
        with path.open("rb") as stream:
            stream.seek(file.bytes(shard.begin))
            data = stream.read(size)
        if len(data) < size or found.sha256.get(file.name, "") not in ("", sha256(data).hexdigest()):
            raise ValueError(f"{file.file} does not hold what was written")


def _finish(
    folder: Path, plan: Mapping[str, Any], keys: Array, shards: Sequence[_Shard], files: Sequence[Column]
) -> None:
    """Write the index, then the manifest."""
    counts = np.concatenate([shard.tokens for shard in shards]).astype(np.int64)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    places = np.stack([np.cumsum(counts) - counts, counts], 1)
    _save(folder / KEYS, np.ascontiguousarray(keys[order].T))
    _save(folder / PLACES, places[order].astype(np.int64))
    tokens = int(counts.sum())
    names = [KEYS, PLACES, *(file.file for file in files)]
    sizes = {name: (folder / name).stat().st_size for name in names}
    total = sum(sizes.values())
    about = {"rows": len(keys), "tokens": tokens}
    weight = {"bytes": total, "bytes_per_token": round(total / max(tokens, 1), 2), "files": sizes}
    weight["sha256"] = {name: digest(folder / name) for name in names}
    write_json(folder / MANIFEST, {**plan, **about, **weight})


def _save(path: Path, values: Array) -> None:
    """A .npy file that is there whole or not at all."""
    with whole_binary_file(path) as stream:
        np.save(stream, values)
