"""The search index: what a million passages cost, and how many queries per second it answers.

    python benchmarks/knowledge.py                        10,000 and 100,000 generated passages
    python benchmarks/knowledge.py --passages 1000000     about five gigabytes of memory and disk

Passages have 60 words on average, a third of them stop words, the rest by Zipf's law from a million types.
`build`: seconds and peak memory of `limbeck index` in a process of its own; `per million` and `30 million` by
proportion, without what a corpus of 1,000 passages costs as well. Queries are questions of 12 words and
rationales of 100, for the best 10 passages each; ours reads texts, index and ids from the disk, bm25s called
directly holds its index in memory and gives places. The ratio is ours to bm25s. rank-bm25 (`pip install
rank-bm25`) has a row of its own: a few queries over the first 10,000 passages. Seconds are those of one
processor core; waiting for the disk comes on top.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from limbeck.knowledge.search import Search

TYPES = 1_000_000
WORDS = 60
FEW = 10_000
"""Passages that rank-bm25 searches at most: it scores all of them for every query."""


class Texts:
    """Generated texts, the same for a seed; a word's letters say its rank."""

    def __init__(self, seed: int) -> None:
        from bm25s.stopwords import STOPWORDS_EN

        self._draw = np.random.default_rng(seed)
        self._stop_words = STOPWORDS_EN

    def text(self, words: int) -> str:
        ranks = np.exp(self._draw.random(words) * np.log(TYPES)).astype(int).tolist()
        stops = self._draw.integers(0, 3 * len(self._stop_words), words).tolist()
        return " ".join(
            self._stop_words[stop] if stop < len(self._stop_words) else _word(rank)
            for rank, stop in zip(ranks, stops, strict=True)
        )

    def passage(self) -> str:
        return self.text(max(5, int(self._draw.lognormal(np.log(WORDS) - 0.125, 0.5))))


def _word(rank: int) -> str:
    letters = []
    while rank:
        rank, letter = divmod(rank, 20)
        letters.append("bcdfghjklmnpqrstvwxz"[letter] + "aeiou"[letter % 5])
    return "".join(letters)


def write_corpus(path: Path, passages: int) -> None:
    texts = Texts(0)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(passages):
            stream.write(json.dumps({"id": str(number), "text": texts.passage()}) + "\n")


def build_alone(corpus: Path, out: Path, answers: multiprocessing.Queue[tuple[float, float]]) -> None:
    """Build, and say in how many seconds and how many megabytes."""
    from limbeck.knowledge.building import build
    from limbeck.knowledge.settings import IndexSettings

    began = time.process_time()
    build([str(corpus)], out, IndexSettings())
    unit = 1024**2 if sys.platform == "darwin" else 1024
    answers.put((time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit))


def built(corpus: Path, out: Path) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    process = context.Process(target=build_alone, args=(corpus, out, answers))
    process.start()
    answer = answers.get()
    process.join()
    return answer


def rate(ask: Callable[[Sequence[str]], object], queries: Sequence[str], rounds: int = 3) -> float:
    """Queries per second of processor time, of the fastest round."""
    ask(queries[:2])
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        ask(queries)
        seconds.append(time.process_time() - began)
    return len(queries) / min(seconds)


def direct(texts: Sequence[str]) -> Callable[[Sequence[str]], object]:
    """Bm25s as its guide calls it, with our settings."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def read(some: Sequence[str]) -> object:
        return bm25s.tokenize(list(some), stopwords="en", stemmer=stemmer, show_progress=False)

    engine = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    engine.index(read(texts), show_progress=False)
    return lambda queries: engine.retrieve(read(queries), k=10, show_progress=False)


def rank_bm25(texts: Sequence[str]) -> Callable[[Sequence[str]], object]:
    from rank_bm25 import BM25Okapi

    from limbeck.knowledge.settings import IndexSettings
    from limbeck.knowledge.words import Words

    words = Words.of(IndexSettings())
    engine = BM25Okapi(words.read(texts), k1=0.9, b=0.4)
    return lambda queries: [engine.get_scores(query).argsort()[-10:] for query in words.read(queries)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=500)
    asked = parser.parse_args()
    for passages in asked.passages:
        folder = Path(tempfile.mkdtemp())
        try:
            measure(passages, asked.queries, folder)
        finally:
            shutil.rmtree(folder)


def measure(passages: int, number: int, folder: Path) -> None:
    from limbeck.knowledge.bm25 import Index

    corpus, out = folder / "corpus.jsonl", folder / "index"
    write_corpus(corpus, passages)
    few = folder / "few.jsonl"
    write_corpus(few, 1000)
    fixed, nothing = built(few, folder / "few")
    seconds, memory = built(corpus, out)
    sizes = {path: path.stat().st_size / 1e6 for path in out.rglob("*") if path.is_file()}
    texts = sum(size for path, size in sizes.items() if path.name.startswith("passages.jsonl"))
    disk = sum(sizes.values())
    million = 1_000_000 / passages
    each = max(seconds - fixed, 0) * million
    print(f"{passages:,} passages, {corpus.stat().st_size / 1e6:.0f} MB of JSONL")
    print(
        f"  build        {seconds:8.1f} s   {memory:8.0f} MB of memory "
        f"(1,000 passages: {fixed:.1f} s, {nothing:.0f} MB)"
    )
    print(f"  disk         {disk:8.1f} MB  ({texts:.1f} texts, {disk - texts:.1f} index)")
    print(f"  per million  {each:8.0f} s   {disk * million:8.0f} MB of disk")
    print(f"  30 million   {each / 120:8.1f} h   {disk * million * 0.03:8.1f} GB of disk")
    began = time.perf_counter()
    index = Index(out, threads=1)
    print(f"  open         {(time.perf_counter() - began) * 1e3:8.0f} ms")
    compared(corpus, index, number)
    show_rank_bm25(corpus, number)


def compared(corpus: Path, index: Search, number: int) -> float:
    """Queries per second of a search and of bm25s called directly.

    Returns the lower of both ratios, for questions and for rationales.
    """
    theirs, ratios = direct(texts_of(corpus)), []
    for kind, queries in queries_of(number).items():
        ours_s = rate(lambda some: index.search(some, 10), queries)
        theirs_s = rate(theirs, queries)
        ratios.append(ours_s / theirs_s)
        print(
            f"  {kind:12} ours {ours_s:8.0f}/s   bm25s {theirs_s:8.0f}/s   ratio {ratios[-1]:5.2f}",
            flush=True,
        )
    return min(ratios)


def show_rank_bm25(corpus: Path, number: int) -> None:
    """Queries per second of rank-bm25 over few of the passages, where it is installed."""
    if importlib.util.find_spec("rank_bm25") is None:
        print("  rank-bm25 is not installed: pip install rank-bm25")
        return
    some = texts_of(corpus)[:FEW]
    slow = rank_bm25(some)
    rates = [
        f"{kind} {rate(slow, queries[:10], rounds=1):.1f}/s" for kind, queries in queries_of(number).items()
    ]
    print(f"  rank-bm25 over {len(some):,} passages: {', '.join(rates)}", flush=True)


def queries_of(number: int) -> dict[str, list[str]]:
    """Questions, and half as many rationales."""
    draw = Texts(1)
    return {
        "questions": [draw.text(12) for _ in range(number)],
        "rationales": [draw.text(100) for _ in range(number // 2)],
    }


def texts_of(corpus: Path) -> list[str]:
    with corpus.open(encoding="utf-8") as stream:
        return [json.loads(line)["text"] for line in stream]


if __name__ == "__main__":
    main()
