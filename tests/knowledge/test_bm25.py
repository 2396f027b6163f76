"""BM25 over an index: the right scores, whatever the shards, threads and batches; ties in a fixed order."""

import json
from pathlib import Path

import numpy as np
import pytest

from limbeck.errors import InputError
from limbeck.knowledge.bm25 import Index, best
from limbeck.knowledge.building import build, shard_folders
from limbeck.knowledge.settings import IndexSettings, Variant
from limbeck.knowledge.words import bm25s
from tests.knowledge.corpora import documents, reference, write

ROWS = documents(60)
TEXTS = [f"{row['title']} {row['text']}" for row in ROWS]
QUERIES = [
    "The owl hides a tower",
    "copper copper bridge, no 17",
    "tower",
    "a word that nobody wrote: zzz",
    "the the the",
    "",
    "23 harbour 42 spider lamp willow engine stone river copper",
]
PLAIN = {"stop_words": "none", "stemmer": "none"}
VARIANTS: list[Variant] = ["lucene", "robertson", "atire", "bm25l", "bm25+"]


def made(folder: Path, shard: int = 500_000, **settings: object) -> Path:
    corpus = folder / "corpus.jsonl"
    if not corpus.exists():
        write(corpus, ROWS)
    out = folder / f"index-{shard}-{settings.get('variant', '')}"
    build([str(corpus)], out, IndexSettings(**{**PLAIN, **settings}), shard=shard)  # type: ignore[arg-type]
    return out


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shard", [500_000, 7])
def test_scores_are_those_of_the_formula(tmp_path: Path, variant: Variant, shard: int) -> None:
    settings = IndexSettings(**PLAIN, variant=variant)  # type: ignore[arg-type]
    index = Index(made(tmp_path, shard, variant=variant))
    for query, hits in zip(QUERIES, index.search(QUERIES, len(ROWS)), strict=True):
        wanted = reference(TEXTS, query, settings)
        got = {hit.passage: hit.score for hit in hits}
        known = [word for word in query.split() if any(word.lower() in text.lower() for text in TEXTS)]
        if not known:
            assert not hits
        for row, score in zip(ROWS, wanted, strict=True):
            if row["id"] in got:
                assert got[row["id"]] == pytest.approx(score, rel=2e-6, abs=1e-6)
            else:  # what is not found gets no more than a passage without any word of the query
                assert score <= min(wanted) + 1e-9
        ranked = [got[hit.passage] for hit in hits]
        assert ranked == sorted(ranked, reverse=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_and_order_depend_on_nothing_but_query_and_corpus(tmp_path: Path, variant: Variant) -> None:
    """To the last bit: shards, threads, batches."""
    whole = Index(made(tmp_path, variant=variant), threads=1)
    cut = [
        Index(made(tmp_path, shard, variant=variant), threads=threads)
        for shard, threads in ((7, 1), (7, 5), (20, 2))
    ]
    for k in (1, 3, 10, 60):
        wanted = whole.search(QUERIES, k)
        for index in cut:
            assert index.search(QUERIES, k) == wanted
            assert [index.search([query], k)[0] for query in QUERIES] == wanted
            assert index.search(QUERIES * 20, k) == wanted * 20  # several chunks


def test_of_equal_scores_the_first_of_the_corpus_comes_first(tmp_path: Path) -> None:
    rows = [{"id": f"{9 - place}", "text": "an owl" if place % 3 else "a lamp"} for place in range(9)]
    corpus = write(tmp_path / "c.jsonl", rows)
    build([str(corpus)], tmp_path / "i", IndexSettings(), shard=2)
    owls = [row["id"] for row in rows if "owl" in row["text"]]
    index = Index(tmp_path / "i")
    for k in range(1, 8):
        assert [hit.passage for hit in index.search(["owl"], k)[0]] == owls[:k]


def test_best_takes_ties_in_order() -> None:
    scores = np.array([1, 3, 2, 3, 2, 0, 2], np.float32)
    assert best(scores, 3).tolist() == [1, 3, 2]
    assert best(scores, 4).tolist() == [1, 3, 2, 4]
    assert best(scores, 9).tolist() == [1, 3, 2, 4, 6, 0]
    assert best(scores, 2, above=2.0).tolist() == [1, 3]
    assert best(np.zeros(3, np.float32), 2).tolist() == []


def test_a_shard_is_an_index_of_bm25s_with_the_scores_of_the_whole_corpus(tmp_path: Path) -> None:
    library = bm25s()
    for variant in VARIANTS:
        ours = Index(made(tmp_path, 20, variant=variant))
        direct = library.BM25(k1=0.9, b=0.4, method=variant)
        direct.index(library.tokenize(TEXTS, stopwords=[], show_progress=False), show_progress=False)
        wanted = direct.get_scores(["copper", "owl"])
        names = [row["id"] for row in ROWS]
        assert ours.scores(["copper owl"], [names])[0] == pytest.approx(wanted.tolist(), rel=2e-6)
        parts = [library.BM25.load(one, mmap=True) for one in shard_folders(ours.folder)]
        together = np.concatenate([part.get_scores(["copper", "owl"]) for part in parts])
        assert together.tolist() == pytest.approx(wanted.tolist(), rel=2e-6)


def test_scores_of_given_passages_are_those_of_the_search(tmp_path: Path) -> None:
    for variant in VARIANTS:
        index = Index(made(tmp_path, 7, variant=variant))
        found = index.search(QUERIES, 60)
        names = [[hit.passage for hit in hits][::-1] for hits in found]
        assert index.scores(QUERIES, names) == [[hit.score for hit in hits][::-1] for hits in found]
        nothing = index.scores(["owl"], [[row["id"] for row in ROWS]])[0]
        assert min(nothing) == pytest.approx(min(reference(TEXTS, "owl", index.settings)), abs=1e-6)


def test_passages_are_read_by_their_ids(tmp_path: Path) -> None:
    index = Index(made(tmp_path, 7))
    assert len(index) == 60
    for one, row in zip(index.passages(["d59", "d0", "d7"]), (ROWS[59], ROWS[0], ROWS[7]), strict=True):
        assert (one.id, one.title, one.text) == (row["id"], row["title"], row["text"])
    with pytest.raises(InputError, match="holds no passage 'd60'"):
        index.passages(["d60"])


def test_numba_finds_the_same(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    for variant in VARIANTS:
        folder = made(tmp_path, 20, variant=variant)
        plain = Index(folder, backend="numpy").search(QUERIES, 10)
        assert Index(folder, backend="numba").search(QUERIES, 10) == plain


def test_stop_words_and_stems_are_those_of_the_index(tmp_path: Path) -> None:
    """Queries are read as the index was, even where a list of stop words changed since."""
    corpus = write(
        tmp_path / "c.jsonl", [{"id": "a", "text": "Bridges carried"}, {"id": "b", "text": "rivers"}]
    )
    build([str(corpus)], tmp_path / "i", IndexSettings(stop_words=("carry", "carried")))
    index = Index(tmp_path / "i")
    assert [len(hits) for hits in index.search(["a bridge", "carry", "carries", "river"], 5)] == [1, 0, 0, 1]
    state = json.loads((tmp_path / "i" / "index.json").read_text())
    assert state["plan"]["settings"]["stop_words"] == ["carry", "carried"]


def test_words_are_the_same_however_their_accents_are_written(tmp_path: Path) -> None:
    """One file has accents in their letters, another behind them; stop words may be in capitals."""
    rows = [{"id": "a", "text": "un cafe\u0301 tre\u0300s fort"}, {"id": "b", "text": "la cafe teria"}]
    settings = IndexSettings(stemmer="none", stop_words=("LA", "Tre\u0300s"))
    build([str(write(tmp_path / "c.jsonl", rows))], tmp_path / "i", settings)
    index = Index(tmp_path / "i")
    for query in ("caf\u00e9", "cafe\u0301", "CAFE\u0301"):
        assert [hit.passage for hit in index.search([query], 5)[0]] == ["a"]
    assert index.search(["la tr\u00e8s"], 5) == [[]]
