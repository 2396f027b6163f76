"""Documents from files: formats, columns, and what is said of bad rows."""

import csv
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from limbeck.errors import BadRowsError, DataError
from limbeck.knowledge.corpus import Corpus
from limbeck.knowledge.settings import CorpusSettings
from limbeck.tasks.readers import read_rows
from tests.knowledge.corpora import documents, write

ROWS = documents(5)


def read(path: Path, **columns: str) -> list[tuple[str, str, str]]:
    corpus = Corpus([str(path)], CorpusSettings(**columns))  # type: ignore[arg-type]
    return [one[:3] for one in corpus]


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    wanted = [(row["id"], row["title"], row["text"]) for row in ROWS]
    assert read(write(tmp_path / "c.jsonl", ROWS)) == wanted
    with (tmp_path / "c.tsv").open("w", newline="") as stream:
        lines = csv.DictWriter(stream, ["id", "title", "text"], delimiter="\t")
        lines.writeheader()
        lines.writerows(ROWS)
    assert read(tmp_path / "c.tsv") == wanted
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet") == wanted
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == wanted


def test_lines_under_another_ending_are_read_however_many_there_are(tmp_path: Path) -> None:
    for count in (5, 1):
        wanted = [(row["id"], row["title"], row["text"]) for row in ROWS[:count]]
        assert read(write(tmp_path / "c.json", ROWS[:count])) == wanted


def test_columns_have_other_names_and_a_title_may_be_missing(tmp_path: Path) -> None:
    """As BEIR has them (`_id`), and Anserini (`contents`)."""
    beir = write(tmp_path / "b.jsonl", [{"_id": 7, "title": None, "text": "an owl"}])
    assert read(beir, id="_id") == [("7", "", "an owl")]
    lucene = write(tmp_path / "l.jsonl", [{"id": "1-2", "contents": "a stone"}])
    assert read(lucene, text="contents") == [("1-2", "", "a stone")]
    with pytest.raises(DataError, match=r"l.jsonl:1: there is no column 'name', but id, contents"):
        read(lucene, text="contents", title="name")


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    rows = [
        ROWS[0],
        {"id": "", "text": "x"},
        {"id": "b", "text": 1.5},
        {"id": "c", "text": ""},
        {"text": "x"},
        {"id": True, "text": "x"},
        ROWS[1],
    ]
    file = write(tmp_path / "c.jsonl", rows)
    file.write_text(file.read_text() + "{broken\n")
    with pytest.raises(BadRowsError, match="6 rows cannot be used") as error:
        read(file)
    said = "\n".join(error.value.rows)
    reasons = ["is empty", "not text but float", "title and text are empty", "no column 'id'", "but bool"]
    for line, why in enumerate(reasons, start=2):
        assert any(f"c.jsonl:{line}: " in one and why in one for one in error.value.rows)
    assert "c.jsonl:8: not valid JSON" in said
    corpus = Corpus([str(file)], CorpusSettings(bad_rows="skip"))
    assert [one.id for one in corpus] == ["d0", "d1"] and len(corpus.left_out) == 6


def test_one_bad_row_is_one_sentence(tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [ROWS[0], {"id": "x", "text": ["a"]}])
    with pytest.raises(DataError, match=r"c.jsonl:2: the column 'text' is not text but list; write text$"):
        read(file)


def test_a_file_without_a_usable_row_is_refused_even_where_rows_are_skipped(tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [{"name": "a"}, {"name": "b"}])
    with pytest.raises(DataError, match="the same in all 2 rows"):
        read(file, bad_rows="skip")


def test_parquet_is_read_in_parts(tmp_path: Path) -> None:
    """What is before a damaged part is there before that part is read: a corpus need not fit into memory."""
    file = tmp_path / "c.parquet"
    rows = [{"id": str(place), "text": f"owl {place}"} for place in range(4000)]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, file, row_group_size=1000, compression="none", use_dictionary=False)
    data = bytearray(file.read_bytes())
    place = data.find(b"owl 3500")
    data[place - 40 : place + 40] = b"\xff" * 80
    file.write_bytes(data)
    found = []
    with pytest.raises(DataError):
        for _, row in read_rows(file):
            found.append(row["id"])
    assert 1000 < len(found) < 4000
