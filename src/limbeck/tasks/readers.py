"""Reading the user's files, whatever their format: rows, each with its place.

The ending says the format: .json, .jsonl (or .ndjson), .csv, .tsv, .parquet; a folder
is one that `datasets` saved; `hf:NAME[/CONFIG]:SPLIT` is loaded by `datasets`, where
NAME is "owner/name" or a folder. A .json file holds a list of objects, or one object
per line; FILE.json#KEY is the list under a key of its one object.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from limbeck.errors import DataError, DiskError, first_line, is_explainable
from limbeck.files import refuse_special
from limbeck.records import numbered_lines

Row = dict[str, Any]
Placed = tuple[str, Row]
"""Where a row is ("file:line", or "file record n" without lines), and the row."""

Bad = Callable[[DataError], None]
"""What is done with the error of one row."""


def refuse(error: DataError) -> None:
    """A `Bad` that goes no further."""
    raise error


def read_rows(path: str | Path, bad: Bad = refuse) -> Iterator[Placed]:
    """Yield (place, row) of a file, a saved data set or one of the hub.

    Args:
        path: see above.
        bad: is given the error of each row that cannot be read, if the rows after it can.

    Raises:
        DataError: no such file, an unknown ending, a broken line, or no rows at all.
        DiskError: it cannot be read.
    """
    empty = True

    def is_bad(error: DataError) -> None:
        nonlocal empty
        empty = False
        bad(error)

    for placed in _open(str(path), is_bad):
        empty = False
        yield placed
    if empty:
        raise DataError(path, "holds no records; check that it is the right file")


def locate(path: str) -> tuple[Path, str]:
    """The file of a path, and the key after "#" where there is one."""
    file = Path(path)
    if not _exists(file) and "#" in file.name:
        name, _, key = file.name.partition("#")
        if name:
            return file.with_name(name), key
    return file, ""


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # such as a name that is longer than names can be
        return False


def _open(path: str, bad: Bad) -> Iterable[Placed]:
    if path.startswith("hf:"):
        return _hub(path)
    file, key = locate(path)
    if not _exists(file):
        raise DataError(path[:200], "there is no such file; check the path")
    refuse_special(file)
    if file.is_dir():
        return _saved(file)
    if file.suffix == ".json":
        return _json(file, key, bad)
    if key and file.suffix in READERS:
        raise DataError(path, f"a key after # is for .json files, not {file.suffix}; remove #{key}")
    if file.suffix not in READERS:
        raise DataError(path, f"has an unknown ending; use .json, {', '.join(READERS)}")
    return READERS[file.suffix](file, bad)


def read_object(path: str | Path) -> Row:
    """The one object that a .json file holds, such as {question: [texts]}; no key may be there twice.

    Raises:
        DataError: no such file, or it holds anything else; DiskError: it cannot be read.
    """
    file = Path(path)
    if not _exists(file):
        raise DataError(str(path)[:200], "there is no such file; check the path")
    refuse_special(file)
    try:
        value = _parsed(_json_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}", f"not valid JSON ({error.msg}); fix it there") from None
    except _Unreadable as error:
        raise DataError(file, f"{error}; fix it there") from None
    return _object(str(file), value)[1]


def _json_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(file, f"not valid UTF-8 ({error.reason}); convert the file to UTF-8") from None
    except OSError as error:
        raise DiskError(file, error) from error


def _json(file: Path, key: str, bad: Bad) -> Iterator[Placed]:
    text = _json_text(file)
    try:
        value = _parsed(text) if text.strip() else []
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and not key:  # one object per line, whatever the ending says
            yield from _jsonl(file, bad)
            return
        raise DataError(f"{file}:{error.lineno}", f"not valid JSON ({error.msg}); fix it there") from None
    except _Unreadable as error:
        raise DataError(f"{file}:{_guilty_line(text)}", f"{error}; fix the record there") from None
    found = value.get(key) if key and isinstance(value, dict) else None if key else value
    if isinstance(found, dict) and not key and _is_row(text, found):  # one object per line, and one of them
        yield from _jsonl(file, bad)
        return
    if not isinstance(found, list):
        raise DataError(file, _no_list(file, key, value))
    for number, row in enumerate(found, start=1):
        try:
            placed = _object(f"{file} record {number}", row)
        except DataError as error:
            bad(error)
        else:
            yield placed


def _is_row(text: str, value: Row) -> bool:
    """Whether an object is a record and no file's outer brackets: it is in one line, and holds no lists of
    objects."""
    rows = (one for one in value.values() if isinstance(one, list))
    return "\n" not in text.strip() and not any(isinstance(row, dict) for own in rows for row in own)


def _no_list(file: Path, key: str, value: Any) -> str:
    """Why there are no rows, and which keys have some."""
    under = f" under the key {key!r}" if key else ""
    lists = (
        [name for name, rows in value.items() if isinstance(rows, list)] if isinstance(value, dict) else []
    )
    if not lists:
        return f"holds no list of objects{under}; write one"
    names = ", ".join(f"{file.name}#{name}" for name in lists)[:300]
    return f"holds no list of objects{under}; name one that is there: {names}"


def _jsonl(file: Path, bad: Bad) -> Iterator[Placed]:
    for number, line in numbered_lines(file):
        place = f"{file}:{number}"
        try:
            placed = _object(place, _parsed(line.lstrip("\ufeff")))
        except json.JSONDecodeError as error:
            bad(DataError(place, f"not valid JSON ({error.msg}); write one object per line"))
        except _Unreadable as error:
            bad(DataError(place, f"{error}; fix it there"))
        except DataError as error:
            bad(error)
        else:
            yield placed


class _Unreadable(ValueError):
    """Valid JSON that cannot be meant, or cannot be held."""


def _pairs(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Unreadable(f"an object has the key {twice!r} twice")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs)


def _parsed(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (json.JSONDecodeError, _Unreadable):
        raise
    except RecursionError:
        raise _Unreadable("values are nested too deeply") from None
    except ValueError:  # Python's limit on the digits of an integer
        raise _Unreadable("a number has too many digits") from None


def _guilty_line(text: str) -> int:
    """The line at which the first record that `_parsed` refuses begins; 1 where there is no list of them."""
    opening = re.search(r"\[\s*(?=\{)", text)
    place = opening.end() if opening else 0
    try:
        while opening and text[place : place + 1] == "{":
            _, end = _DECODER.raw_decode(text, place)
            place = len(text) - len(text[end:].lstrip(" \t\r\n,"))
    except (ValueError, RecursionError):
        pass
    else:
        place = 0
    return text.count("\n", 0, place) + 1


def _object(place: str, row: object) -> Placed:
    if not isinstance(row, dict):
        raise DataError(place, 'not an object; write {"column": value, ...}')
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(
            place, "holds half a character (a lone surrogate such as \\ud800); fix or remove it"
        ) from None
    except RecursionError:
        raise DataError(place, "values are nested too deeply; fix it there") from None
    return place, row


def _csv(file: Path, bad: Bad, delimiter: str = ",") -> Iterator[Placed]:
    csv.field_size_limit(2**31 - 1)  # long documents are ordinary; the limit is one for all readers
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, delimiter=delimiter, strict=True)
            header = next(lines, [])
            named = [name for name in header if name]
            if len(set(named)) < len(named):
                raise DataError(f"{file}:1", "two columns have the same name; rename one")
            for cells in lines:
                place = f"{file}:{lines.line_num}"
                if not cells:
                    continue
                try:
                    row = _cells(place, header, cells)
                except DataError as error:
                    bad(error)
                else:
                    yield place, row
    except csv.Error as error:
        raise DataError(
            f"{file}:{lines.line_num}", f"not valid CSV ({error}); fix the quoting there"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(file, f"not valid UTF-8 ({error.reason}); convert the file to UTF-8") from None
    except OSError as error:
        raise DiskError(file, error) from error


def _cells(place: str, header: list[str], cells: list[str]) -> Row:
    """The row; empty cells of columns without a name, as spreadsheets leave them, are nothing."""
    if len(cells) != len(header):
        raise DataError(place, f"has {len(cells)} cells, the header {len(header)}; fix the quoting")
    nameless = [cell for name, cell in zip(header, cells, strict=True) if not name and cell.strip()]
    if nameless and header.count("") > 1:
        raise DataError(place, "a column without a name holds a value; name the column in the first line")
    return {name: cell for name, cell in zip(header, cells, strict=True) if name or cell.strip()}


def _tsv(file: Path, bad: Bad) -> Iterator[Placed]:
    return _csv(file, bad, "\t")


PART = 1024
"""Rows of a parquet file that are in memory at once."""


def _parquet(file: Path, bad: Bad) -> Iterator[Placed]:
    """A part of the file at a time: what it holds need not fit into memory."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise DataError(file, f"two columns are called {twice!r}; rename one")
            number = 0
            for batch in table.iter_batches(batch_size=PART):
                columns = [_values(file, name, batch.column(name)) for name in names]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield f"{file} record {number}", dict(zip(names, cells, strict=True))
    except (pyarrow.ArrowException, ArithmeticError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, MemoryError):
            raise
        raise DataError(file, f"not a readable parquet file ({first_line(error)}); write it again") from None
    except OSError as error:
        if error.errno is None:  # how pyarrow says that the content is damaged
            raise DataError(
                file, f"not a readable parquet file ({first_line(error)}); write it again"
            ) from None
        raise DiskError(file, error) from error


def _values(file: Path, name: str, column: Any) -> list[Any]:
    """A column as Python values."""
    try:
        found: list[Any] = column.to_pylist()
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Text that is not UTF-8, times beyond Python's, unknown time zones, objects with a key twice.
        reason = first_line(error)
        raise DataError(
            file, f"the column {name!r} holds what cannot be read ({reason}); write it as text"
        ) from None
    return found


def _saved(folder: Path) -> Iterator[Placed]:
    """A folder written by `Dataset.save_to_disk`."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except FileNotFoundError:
        raise DataError(
            folder, "not a saved data set; give a file, or a folder written by save_to_disk"
        ) from None
    except Exception as error:  # broken parts of such a folder raise whatever their parsers raise
        if not is_explainable(error):
            raise
        raise DataError(
            folder, f"this saved data set cannot be read ({first_line(error)}); save it again"
        ) from None
    if isinstance(found, datasets.DatasetDict):
        raise DataError(
            folder, f"holds several splits; name one, such as {folder / next(iter(found), 'train')}"
        )
    return _loaded(str(folder), found)


def _loaded(name: str, found: Any) -> Iterator[Placed]:
    """The rows of a data set that the library loaded; it reads them only now."""
    number = 0
    try:
        for number, row in enumerate(found, start=1):
            yield f"{name} record {number}", row
    except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{name} record {number + 1}", f"cannot be read ({first_line(error)}); write it as text"
        ) from None


def hub_folder(path: str) -> Path | None:
    """The local folder that an "hf:FOLDER:SPLIT" means; None if it means a data set of the hub."""
    folder = Path(path.removeprefix("hf:").rpartition(":")[0])
    return folder if path.startswith("hf:") and folder.name and folder.is_dir() else None


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
        if not is_explainable(error):
            raise
        raise DataError(
            path, f"cannot be loaded ({first_line(error)}); check name, config, split and connection"
        ) from error
    return _loaded(path, found)


READERS: dict[str, Callable[[Path, Bad], Iterator[Placed]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
