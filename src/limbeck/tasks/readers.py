"""Reading the user's files, whatever their format: rows, each with the place it stands at.

The ending says the format: .json, .jsonl (or .ndjson), .csv, .tsv, .parquet; a folder
is one that `datasets` saved; `hf:NAME[/CONFIG]:SPLIT` is loaded by `datasets`, where
NAME is "owner/name" or a folder. A .json file holds a list of objects, or one object
per line; FILE.json#KEY is the list under a key of its one object.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from limbeck.errors import DataError, DiskError
from limbeck.records import numbered_lines

Row = dict[str, Any]
Placed = tuple[str, Row]
"""Where a row stands ("file:line", or "file record n" without lines), and the row."""


def read_rows(path: str | Path) -> Iterator[Placed]:
    """Yield (place, row) of a file, a saved data set or one of the hub.

    Raises:
        DataError: no such file, an unknown ending, a broken line, or no rows at all.
        DiskError: it cannot be read.
    """
    empty = True
    for placed in _open(str(path)):
        empty = False
        yield placed
    if empty:
        raise DataError(path, "holds no records; check that it is the right file")


def locate(path: str) -> tuple[Path, str]:
    """The file of a path, and the key after "#" where there is one."""
    file = Path(path)
    if not file.exists() and "#" in file.name:
        name, _, key = file.name.partition("#")
        return file.with_name(name), key
    return file, ""


def _open(path: str) -> Iterable[Placed]:
    if path.startswith("hf:"):
        return _hub(path)
    file, key = locate(path)
    if not file.exists():
        raise DataError(path, "there is no such file; check the path")
    if file.is_dir():
        return _saved(file)
    if file.suffix == ".json":
        return _json(file, key)
    if file.suffix not in READERS:
        raise DataError(path, f"has an unknown ending; use .json, {', '.join(READERS)}")
    return READERS[file.suffix](file)


def _json(file: Path, key: str) -> Iterator[Placed]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(file, f"not valid UTF-8 ({error.reason}); convert the file to UTF-8") from None
    except OSError as error:
        raise DiskError(file, error) from error
    try:
        value = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and not key:  # one object per line, whatever the ending says
            yield from _jsonl(file)
            return
        raise DataError(f"{file}:{error.lineno}", f"not valid JSON ({error.msg}); mend it there") from None
    if key:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, list):
        under = f" under the key {key!r}" if key else ""
        raise DataError(
            file, f"holds no list of objects{under}; write one, or name its key as {file.name}#KEY"
        )
    for number, row in enumerate(value, start=1):
        yield _object(f"{file} record {number}", row)


def _jsonl(file: Path) -> Iterator[Placed]:
    for number, line in numbered_lines(file):
        place = f"{file}:{number}"
        try:
            row = json.loads(line.lstrip("\ufeff"))
        except json.JSONDecodeError as error:
            raise DataError(place, f"not valid JSON ({error.msg}); write one object per line") from None
        yield _object(place, row)


def _object(place: str, row: object) -> Placed:
    if not isinstance(row, dict):
        raise DataError(place, 'not an object; write {"column": value, ...}')
    return place, row


def _csv(file: Path, delimiter: str = ",") -> Iterator[Placed]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, delimiter=delimiter, strict=True)
            header = next(lines, [])
            if len(set(header)) < len(header):
                raise DataError(f"{file}:1", "two columns have the same name; rename one")
            for cells in lines:
                place = f"{file}:{lines.line_num}"
                if cells and len(cells) != len(header):
                    raise DataError(
                        place, f"has {len(cells)} cells, the header {len(header)}; mend the quoting"
                    )
                if cells:
                    yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{file}:{lines.line_num}", f"not valid CSV ({error}); mend the quoting there"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(file, f"not valid UTF-8 ({error.reason}); convert the file to UTF-8") from None
    except OSError as error:
        raise DiskError(file, error) from error


def _tsv(file: Path) -> Iterator[Placed]:
    return _csv(file, "\t")


def _parquet(file: Path) -> Iterator[Placed]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            rows = [row for batch in table.iter_batches() for row in batch.to_pylist()]
    except pyarrow.ArrowException as error:
        raise DataError(
            file, f"not a readable parquet file ({str(error).splitlines()[0]}); write it anew"
        ) from None
    except OSError as error:
        raise DiskError(file, error) from error
    return _numbered(str(file), rows)


def _numbered(name: str, rows: Iterable[Row]) -> Iterator[Placed]:
    return ((f"{name} record {number}", row) for number, row in enumerate(rows, start=1))


def _saved(folder: Path) -> Iterator[Placed]:
    """A folder written by `Dataset.save_to_disk`."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except FileNotFoundError:
        raise DataError(
            folder, "not a saved data set; give a file, or a folder written by save_to_disk"
        ) from None
    if isinstance(found, datasets.DatasetDict):
        raise DataError(
            folder, f"holds several splits; name one, such as {folder / next(iter(found), 'train')}"
        )
    return _numbered(str(folder), found)


def _hub(path: str) -> Iterator[Placed]:
    """`hf:owner/name:split`, `hf:owner/name/config:split` or `hf:./folder:split`."""
    import datasets

    body, colon, split = path.removeprefix("hf:").rpartition(":")
    if not colon or not body or not split:
        raise DataError(path, "names no split; write hf:NAME:SPLIT, such as hf:openai/gsm8k/main:train")
    parts = body.split("/")
    local = Path(body).is_dir()
    name, config = (body, None) if local or len(parts) < 3 else ("/".join(parts[:2]), "/".join(parts[2:]))
    try:
        found = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises dozens of kinds here, from ValueError to HTTP errors
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            path, f"cannot be loaded ({reason}); check name, config, split and connection"
        ) from error
    return _numbered(path, found)


READERS: dict[str, Callable[[Path], Iterator[Placed]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
