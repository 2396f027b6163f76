"""Milvus as the engine finds what our index finds: real Milvus Lite, as a file and as a server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError
from limbeck.knowledge import milvus
from limbeck.knowledge.bm25 import Index
from limbeck.knowledge.building import build
from limbeck.knowledge.engines import opened
from limbeck.knowledge.search import Search
from limbeck.knowledge.settings import IndexSettings, Variant
from tests.knowledge.corpora import documents, write

pytest.importorskip("pymilvus", reason="the extra `milvus` is not installed")
pytest.importorskip("milvus_lite", reason="the extra `milvus` is not installed")
pytestmark = pytest.mark.filterwarnings("default")  # theirs

ODD = "an \"odd\" 'id' \\ or 1 == 1"
ROWS = [
    *documents(60),
    {"id": ODD, "title": "", "text": "a heron, a heron and a pond"},
    {"id": "empty", "title": "", "text": "the of and"},
]
QUERIES = [
    "The owl hides a tower",
    "copper copper bridge, no 17",
    "a word that nobody wrote: zzz",
    "the the the",
    "heron",
    "23 harbour 42 spider lamp willow engine stone river copper",
]


def both(folder: Path, uri: str, **settings: Any) -> tuple[Index, Search]:
    """The same corpus as an ordinary index, and in Milvus."""
    corpus = write(folder / "corpus.jsonl", ROWS)
    chosen = IndexSettings(**settings)
    for name in ("here", "there"):
        build([str(corpus)], folder / name, chosen, shard=25)
    milvus.move(folder / "there", uri)
    return Index(folder / "here"), opened(folder / "there")


def agree(here: Index, there: Search) -> None:
    """All that each query finds, in this order; the best few; scores of any passage; and texts."""
    everything = here.search(QUERIES, len(ROWS))
    assert sum(map(len, everything)) > 25
    for own, found in zip(everything, there.search(QUERIES, len(ROWS)), strict=True):
        assert [one.passage for one in found] == [one.passage for one in own]
        assert [one.score for one in found] == pytest.approx([one.score for one in own], rel=1e-5)
    for own, found in zip(everything, there.search(QUERIES, 3), strict=True):  # ties: any of them is third
        assert [one.score for one in found] == pytest.approx([one.score for one in own[:3]], rel=1e-5)
    ids = [str(row["id"]) for row in ROWS]
    some = [ids, ids[::-1], [], ["empty"], ["d7", ODD, "d7"], ids[:5]]
    for own_scores, scores in zip(here.scores(QUERIES, some), there.scores(QUERIES, some), strict=True):
        assert scores == pytest.approx(own_scores, rel=1e-5, abs=1e-6)
    assert there.passages(ids[::-1] + ids[:2]) == here.passages(ids[::-1] + ids[:2])


VARIANTS: list[Variant] = ["lucene", "robertson", "bm25l", "bm25+"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_finds_what_our_index_finds(tmp_path: Path, variant: Variant) -> None:
    here, there = both(tmp_path, str(tmp_path / "wiki.db"), variant=variant, k1=1.7, b=0.6)
    agree(here, there)
    with pytest.raises(ValueError):
        there.search(["owl"], 0)
    for ask in (lambda: there.passages(["d1", "d999"]), lambda: there.scores(["owl"], [["d999"]])):
        with pytest.raises(InputError, match="holds no passage 'd999'"):
            ask()
    assert there.fingerprint != here.fingerprint and not (tmp_path / "there/shards").exists()
    with pytest.raises(InputError, match="its passages are in Milvus"):
        Index(tmp_path / "there")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of Milvus Lite as a process of its own: what a client says to it, it says to a cluster."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = f"import sys; sys.path[:] = {sys.path!r}; from milvus_lite.cmdline import main; main()"
    command = [
        sys.executable,
        "-c",
        start,
        "server",
        "--data-dir",
        str(tmp_path / "data"),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def test_a_server_answers_too(tmp_path: Path, server: str) -> None:
    here, there = both(tmp_path, server)
    agree(here, there)
    agree(here, opened(tmp_path / "there"))  # a second client


def test_a_collection_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limbeck: Callable[..., Any]
) -> None:
    corpus = write(tmp_path / "c.jsonl", documents(30))
    command = ("index", corpus, "--out", tmp_path / "i", "--milvus", tmp_path / "i.db")
    with monkeypatch.context() as patch:
        patch.setattr(milvus, "ROWS", 10)
        stored = milvus._rows

        def killed(folder: Path) -> Iterator[dict[str, Any]]:
            for number, row in enumerate(stored(folder)):
                if number == 25:
                    raise KeyboardInterrupt
                yield row

        patch.setattr(milvus, "_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            milvus.move(build([str(corpus)], tmp_path / "i", IndexSettings()).folder, str(tmp_path / "i.db"))
    assert Index(tmp_path / "i").search(["owl"], 1)[0], "it is an ordinary index still"
    first, again = limbeck(*command), limbeck(*command)
    assert first.status == 0 and again.status == 0 and "it was there already" in again.out, first.err
    assert all("passages: in Milvus, " in one.out for one in (first, again)), again.out
    there = opened(tmp_path / "i")
    assert isinstance(there, milvus.Milvus) and len(there.search(["the owl and the river"], 30)[0]) > 10
    refused = limbeck(*command[:-1], tmp_path / "other.db")
    assert refused.status == 2 and f"its passages are in {tmp_path / 'i.db'}" in refused.err


RECIPE = """
name: reads
task: {name: animals, train: 8, dev: 0, test: 4, parameters: {animals: 20}}
knowledge: {corpus: built-in, engine: {milvus: facts.db}}
teacher: {kind: offline, exam: false}
student: {method: kard, model: tiny-causal-xs, settings: {passages: 2}, train: {epochs: 1}}
exam: {max_tokens: 12}
"""


def test_a_student_reads_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limbeck: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    ran = limbeck("run", "r.yaml")
    assert ran.status == 0, ran.err
    run = Path("runs/reads")
    assert not (run / "knowledge/index/shards").exists() and Path("facts.db").exists()
    again = limbeck("run", "r.yaml")
    assert again.status == 0 and "knowledge: started" not in again.err, "what Milvus writes is no damage"
    student = run / "students/kard/seed0"
    said = limbeck("evaluate", student / "model", "--task", "r.yaml", "--out", "again")
    assert said.status == 0, said.err
    assert Path("again/predictions.jsonl").read_text() == (student / "exam/predictions.jsonl").read_text()
    question = json.loads((run / "problems/test.jsonl").read_text().splitlines()[0])["question"]
    asked = limbeck("ask", student, question, "--max-tokens", 12)
    first = json.loads((student / "exam/predictions.jsonl").read_text().splitlines()[0])
    assert asked.out.rstrip("\n") == first["completion"].rstrip("\n")


def test_what_is_wrong_is_one_sentence(tmp_path: Path, limbeck: Callable[..., Any]) -> None:
    corpus = write(tmp_path / "c.jsonl", [{"id": "long", "text": "owl " * 20_000}])
    for folder, address, sentence in (
        ("a", tmp_path / "i.db", "passage 'long': its text has more than 65,535 bytes"),
        ("b", "http://127.0.0.1:9", "http://127.0.0.1:9: Milvus failed at connecting"),
        ("c", "wiki", "'wiki' is neither http://HOST:PORT nor a file that ends in .db"),
        ("d", "http://me:secret@host:1", "put USER:PASSWORD into the environment variable MILVUS_TOKEN"),
    ):
        said = limbeck("index", corpus, "--out", tmp_path / folder, "--milvus", address)
        assert said.status == 2 and sentence in said.err and said.err.count("\n") == 1, said.err
        assert "secret@" not in said.err


def test_passages_that_are_gone_are_missed(tmp_path: Path) -> None:
    uri = str(tmp_path / "i.db")
    both(tmp_path, uri)
    client = milvus.connected(uri)
    name = json.loads((tmp_path / "there/index.json").read_text())["milvus"]["collection"]
    client.delete(name, ids=[milvus.key("d3")])
    with pytest.raises(InputError, match="holds 61 of its 62 passages"):
        opened(tmp_path / "there")
    client.drop_collection(name)
    with pytest.raises(InputError, match="holds 0 of its 62 passages"):
        opened(tmp_path / "there")
    state = tmp_path / "there/index.json"
    milvus.sealed.write(
        state, json.loads(state.read_text()) | {"milvus": {"uri": f"{uri}.db", "collection": name}}
    )
    with pytest.raises(InputError, match="which is not there"):
        opened(tmp_path / "there")
