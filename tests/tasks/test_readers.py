"""Every format gives the same rows, and every broken file one sentence with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import DataError, DiskError
from limbeck.tasks.readers import read_object, read_rows

ROWS: list[dict[str, Any]] = [
    {"question": "one\u2028line,\x85 still?", "answer": "1"},
    {"question": 'a "quoted"\nquestion?', "answer": "2"},
]


def write(path: Path) -> Path:
    """ROWS in the format that the ending names."""
    import csv

    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".json":
        path.write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")
    elif path.suffix in (".jsonl", ".ndjson"):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS]
        path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8", newline="\n")
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.DictWriter(stream, list(ROWS[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"])
def test_all_formats_give_the_same_rows(tmp_path: Path, ending: str) -> None:
    assert [row for _, row in read_rows(write(tmp_path / f"data{ending}"))] == ROWS


def test_places_are_lines_where_there_are_lines(tmp_path: Path) -> None:
    places = {
        ending: [p for p, _ in read_rows(write(tmp_path / f"d{ending}"))]
        for ending in (".json", ".jsonl", ".csv")
    }
    assert places[".json"] == [f"{tmp_path}/d.json record 1", f"{tmp_path}/d.json record 2"]
    assert places[".jsonl"] == [f"{tmp_path}/d.jsonl:1", f"{tmp_path}/d.jsonl:3"], "the blank line counts"
    assert places[".csv"] == [f"{tmp_path}/d.csv:2", f"{tmp_path}/d.csv:4"], (
        "a row may span lines; its last one counts"
    )


def test_json_by_line_or_under_a_key(tmp_path: Path) -> None:
    lines = tmp_path / "lines.json"
    lines.write_text('{"a": 1}\n{"a": 2}\n', encoding="utf-8")
    assert [row for _, row in read_rows(lines)] == [{"a": 1}, {"a": 2}]
    keyed = tmp_path / "keyed.json"
    keyed.write_text('{"about": "x", "examples": [{"a": 3}]}', encoding="utf-8")
    assert [row for _, row in read_rows(f"{keyed}#examples")] == [{"a": 3}]
    with pytest.raises(
        DataError,
        match=r"keyed\.json: holds no list of objects; name one that is there: keyed\.json#examples$",
    ):
        list(read_rows(keyed))
    with pytest.raises(DataError, match="no list of objects under the key 'about'"):
        list(read_rows(f"{keyed}#about"))
    with pytest.raises(DataError, match="no list of objects under the key 'x'"):
        list(read_rows(f"{write(tmp_path / 'list.json')}#x"))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl:2: not valid JSON .*one object per line"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', r"a\.jsonl:2: not an object"),
        ("a.jsonl", b"\xff\xfe", r"a\.jsonl: not valid UTF-8"),
        ("a.json", b'[{"a": 1},\n{"a" 2}]', r"a\.json:2: not valid JSON .*fix it there"),
        ("a.json", b'[{"a": 1}, 7]', r"a\.json record 2: not an object"),
        ("a.json", b"7", r"a\.json: holds no list of objects"),
        ("a.json", b"\xff\xfe", r"a\.json: not valid UTF-8"),
        ("a.csv", b"q,a\none,1\ntwo\n", r"a\.csv:3: has 1 cells, the header 2"),
        ("a.csv", b'q,a\none,"1\n', r"a\.csv:2: not valid CSV"),
        ("a.csv", b"q,q\none,1\n", r"a\.csv:1: two columns have the same name"),
        ("a.jsonl", b'{"a": 1}\n{"a": ' + b"7" * 5000 + b"}", r"a\.jsonl:2: a number has too many digits"),
        ("a.json", b'[{"a": 1},\n{"a": ' + b"7" * 5000 + b"}]", r"a\.json:2: a number has too many digits"),
        ("a.jsonl", b'{"a": ' + b"[" * 99999 + b"\n", r"a\.jsonl:1: values are nested too deeply"),
        ("a.json", b'[{"a": 1},\n{"a": ' + b"[" * 99999, r"a\.json:2: values are nested too deeply"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\\ud800"}', r"a\.jsonl:2: holds half a character"),
        ("a.json", b'[{"a": "\\ud800"}]', r"a\.json record 1: holds half a character"),
        ("a.jsonl", b'{"a": 1, "a": 2}', r"a\.jsonl:1: an object has the key 'a' twice"),
        ("a.json", b'[{"a": 1},\n {"a": 1, "a": 2}]', r"a\.json:2: an object has the key 'a' twice"),
        ("a.csv", b"q,a,,\none,1,,\ntwo,2,x,\n", r"a\.csv:3: a column without a name holds a value"),
        ("a.csv", b"q,a\n\xff,1\n", r"a\.csv: not valid UTF-8"),
        ("a.parquet", b"no parquet at all", r"a\.parquet: not a readable parquet file"),
        ("a.txt", b"text", r"a\.txt: has an unknown ending; use \.json, \.jsonl"),
        ("a.jsonl", b"\n\n", r"a\.jsonl: holds no records"),
        ("a.json", b"", r"a\.json: holds no records"),
        ("a.json", b"[]", r"a\.json: holds no records"),
        ("a.csv", b"q,a\n", r"a\.csv: holds no records"),
        ("a.csv", b"", r"a\.csv: holds no records"),
    ],
)
def test_a_broken_file_is_refused_at_its_place(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint) as error:
        list(read_rows(path))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_an_unreadable_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"gone\.json#x: there is no such file; check the path"):
        list(read_rows(f"{tmp_path}/gone.json#x"))
    files = [write(tmp_path / f"d{ending}") for ending in (".json", ".csv", ".parquet", ".jsonl")]

    def refuse(*args: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", refuse)
    for path in files:
        with pytest.raises(DiskError, match="Permission denied; free the space or fix the permission"):
            list(read_rows(path))


def test_a_folder_saved_by_datasets(tmp_path: Path) -> None:
    import datasets

    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(str(tmp_path / "one"))
    assert list(read_rows(tmp_path / "one")) == [
        (f"{tmp_path}/one record {n}", row) for n, row in enumerate(ROWS, 1)
    ]
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "many"))
    assert [row for _, row in read_rows(tmp_path / "many" / "train")] == ROWS
    with pytest.raises(DataError, match=f"holds several splits; name one, such as {tmp_path}/many/train"):
        list(read_rows(tmp_path / "many"))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="not a saved data set"):
        list(read_rows(tmp_path / "none"))


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str, str | None, str]] = []

    def load(name: str, config: str | None, *, split: str) -> list[dict[str, Any]]:
        if split == "nowhere":
            raise ValueError('Unknown split "nowhere".\nShould be one of train, test.')
        asked.append((name, config, split))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert next(iter(read_rows("hf:openai/gsm8k/main:train"))) == (
        "hf:openai/gsm8k/main:train record 1",
        ROWS[0],
    )
    for path in ("hf:svamp:test", "hf:owner/name:test", f"hf:{tmp_path}:train"):
        assert [row for _, row in read_rows(path)] == ROWS
    assert asked == [
        ("openai/gsm8k", "main", "train"),
        ("svamp", None, "test"),
        ("owner/name", None, "test"),
        (str(tmp_path), None, "train"),
    ]
    for path in ("hf:svamp", "hf::train", "hf:svamp:"):
        with pytest.raises(DataError, match="names no split; write hf:NAME:SPLIT"):
            list(read_rows(path))
    with pytest.raises(DataError, match=r'cannot be loaded \(Unknown split "nowhere"\); check name'):
        list(read_rows("hf:svamp:nowhere"))


def test_csv_with_long_cells_and_columns_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("q,a,,\n" + "x" * 200_000 + ",1,,\n", encoding="utf-8")
    assert [row for _, row in read_rows(path)] == [{"q": "x" * 200_000, "a": "1"}]


def test_a_key_on_jsonl_and_a_broken_saved_folder(tmp_path: Path) -> None:
    import datasets

    with pytest.raises(DataError, match=r"a key after # is for \.json files, not \.jsonl; remove #k"):
        list(read_rows(f"{write(tmp_path / 'good.jsonl')}#k"))
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    (tmp_path / "one/state.json").write_text("{broken", encoding="utf-8")
    with pytest.raises(DataError, match=r"one: this saved data set cannot be read \(.*\); save it again"):
        list(read_rows(tmp_path / "one"))


def test_one_object_is_read_whole_and_without_a_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "o.json"
    path.write_text('\ufeff{"one\u2028line?": ["a", "b"], "two?": []}', encoding="utf-8")
    assert read_object(path) == {"one\u2028line?": ["a", "b"], "two?": []}
    for text, complaint in (
        ('{"a": 1, "a": 2}', "has the key 'a' twice"),
        ('{"a": 1}\n{"b": 2}', r"o\.json:2: not valid JSON"),
        ("[1]", "not an object"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=complaint):
            read_object(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match="not valid UTF-8"):
        read_object(path)
    with pytest.raises(DataError, match="there is no such file"):
        read_object(tmp_path / "none.json")
    with pytest.raises(DiskError):
        read_object(tmp_path)
