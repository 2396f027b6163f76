"""`limbeck index`, as it is typed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from limbeck.knowledge.bm25 import Index
from tests.knowledge.corpora import documents, write


def test_a_corpus_becomes_an_index_once(tmp_path: Path, limbeck: Callable[..., Any]) -> None:
    corpus = write(tmp_path / "c.jsonl", documents(20))
    command = (
        "index",
        corpus,
        "--out",
        tmp_path / "i",
        "--set",
        "words=20",
        "--set",
        "overlap=5",
        "--shard",
        9,
    )
    first = limbeck(*command)
    assert first.status == 0, first.err
    assert "passages of 20 documents" in first.out and f"index: {tmp_path / 'i'}\n" in first.out
    assert Index(tmp_path / "i").settings.words == 20
    again = limbeck(*command)
    assert again.status == 0 and "it was there already" in again.out


def test_columns_have_names(tmp_path: Path, limbeck: Callable[..., Any]) -> None:
    corpus = write(tmp_path / "c.jsonl", [{"docid": "a", "contents": "an owl"}])
    said = limbeck("index", corpus, "--out", tmp_path / "i", "--id", "docid", "--text", "contents")
    assert said.status == 0 and Index(tmp_path / "i").search(["owl"], 1)[0][0].passage == "a"


def test_what_is_wrong_is_one_sentence(tmp_path: Path, limbeck: Callable[..., Any]) -> None:
    corpus = write(tmp_path / "c.jsonl", [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}])
    for arguments, sentence in {
        (): "c.jsonl:2: the id 'a' is that of",
        ("--set", "k=1"): "--set k: unknown setting",
        ("--set", "k1=0"): "--set k1: Input should be greater than 0",
        ("--set", "words=3", "--set", "overlap=3"): "overlap is not smaller than words",
        ("--set", "stop_words=latin"): "--set stop_words: ",
        ("--set", "stemmer=latin"): "stemmer: there is no 'latin'",
        ("--id", ""): "--id: ",
        ("--id", "name"): "there is no column 'name', but id, text",
    }.items():
        said = limbeck("index", corpus, "--out", tmp_path / "i", *arguments)
        assert said.status == 2 and sentence in said.err, said.err
        assert said.err.count("\n") == 1 and not (tmp_path / "i" / "index.json").exists()
