"""KARD's three costs against what they replace: search, reranking, a training step of the reranker.

    limbeck bases get all-minilm-l6-v2
    python benchmarks/kard.py                            about 15 minutes of one core
    python benchmarks/kard.py --parts rerank,train       some of it
    python benchmarks/kard.py --milvus FILE.db           Milvus Lite answers the searches too
    python benchmarks/kard.py --small                    a tiny encoder: does it run?

Both sides of a ratio are measured in this process, one after the other, in seconds of the processor.

    search    queries per second over `--passages` generated passages, ours from the disk to bm25s called
              directly with its index in memory (goal .9); the lower ratio of questions and rationales counts.
              rank-bm25 (pip install rank-bm25) over 10,000 of the passages, for comparison: see knowledge.py
    rerank    100 candidates of a question with passage states that are kept on the disk, to all of them
              encoded for each question, as published (goal 30, and the same ranking); after a first question
    train     a step of the reranker with passages padded to the longest one that is encoded with them, to
              all of them padded to 512 tokens, as published (goal 3, and the same loss)

The last two have passages of 100 common words on average, so of about 100 tokens. Status 1: a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from knowledge import compared, show_rank_bm25, write_corpus
from torch import Tensor, nn

from limbeck.knowledge.bm25 import Index
from limbeck.knowledge.building import build
from limbeck.knowledge.encoders import Encoder, load_encoder
from limbeck.knowledge.rerank import Reranked
from limbeck.knowledge.scoring import LateInteraction
from limbeck.knowledge.settings import EncoderSettings, IndexSettings
from limbeck.knowledge.shards import searched
from limbeck.knowledge.states import Fresh, Kept
from limbeck.objectives.listwise import listwise_kl

GOALS = {"search": 0.9, "rerank": 30.0, "train": 3.0}
CANDIDATES = 100
TOKENS = 4096
"""Tokens, with padding, that are encoded together in a training step: both sides."""


class Words:
    """Texts of common words, so that a word is about a token."""

    def __init__(self, seed: int) -> None:
        from bm25s.stopwords import STOPWORDS_EN_PLUS

        self._draw = np.random.default_rng(seed)
        self._words = sorted(word for word in STOPWORDS_EN_PLUS if word.isalpha())

    def text(self, words: int) -> str:
        return " ".join(self._draw.choice(self._words, words))

    def passage(self) -> str:
        return self.text(int(np.clip(self._draw.lognormal(np.log(100) - 0.125, 0.5), 10, 400)))


class PaddedTo512(LateInteraction):
    """The same scorer, as published: every passage has 512 tokens, most of them padding."""

    def __init__(self, encoder: Encoder, tokens: int) -> None:
        super().__init__(encoder, tokens)
        self._encoder = _Padded(encoder)


class _Padded:
    """An encoder whose passages are padded."""

    def __init__(self, encoder: Encoder) -> None:
        self.transformer = encoder.transformer
        self._encoder = encoder

    def __call__(self, texts: Sequence[str], task: str) -> Any:
        if task == "query":
            return self._encoder(texts, task)
        model = self._encoder.model
        plain = model.preprocess

        def padded(*given: Any, **named: Any) -> dict[str, Any]:
            features = plain(*given, **named)
            missing = model[0].document_length - features["input_ids"].shape[1]  # 512, or all that it reads
            return {
                key: nn.functional.pad(one, (0, missing)) if torch.is_tensor(one) and one.ndim == 2 else one
                for key, one in features.items()
            }

        model.preprocess = padded
        try:
            return self._encoder(texts, task)
        finally:
            del model.preprocess


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Of the processor, of the fastest round."""
    found = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def search(folder: Path, asked: argparse.Namespace) -> float:
    corpus = folder / "corpus.jsonl"
    write_corpus(corpus, asked.passages)
    index = Index(build([str(corpus)], folder / "search", IndexSettings()).folder, threads=1)
    ratio = compared(corpus, index, asked.queries)
    show_rank_bm25(corpus, asked.queries)
    if asked.milvus:
        from limbeck.knowledge.engines import opened
        from limbeck.knowledge.milvus import move

        began = time.perf_counter()
        move(build([str(corpus)], folder / "moved", IndexSettings()).folder, asked.milvus)
        print(f"  Milvus: stored in {time.perf_counter() - began:.0f} s")
        compared(corpus, opened(folder / "moved"), min(asked.queries, 50))
    return ratio


def passages(folder: Path, number: int) -> Index:
    """An index of common words, made once."""
    corpus, draw = folder / "words.jsonl", Words(0)
    if not corpus.exists():
        rows = ({"id": str(one), "text": draw.passage()} for one in range(number))
        corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Index(build([str(corpus)], folder / "words", IndexSettings(stop_words="none")).folder)


def encoder_of(index: Index, asked: argparse.Namespace) -> Encoder:
    texts = [one.text for one in index.passages([str(number) for number in range(min(100, len(index)))])]
    base = "tiny-encoder-xs" if asked.small else asked.base
    return load_encoder(base, EncoderSettings(dimensions=0), texts=texts, device="cpu")


def rerank(folder: Path, asked: argparse.Namespace) -> float:
    index = passages(folder, 40 if asked.small else 400)
    encoder, draw = encoder_of(index, asked), Words(1)
    questions = [draw.text(20) for _ in range(asked.questions + 1)]
    kept = Kept(folder / "states", encoder, index)
    began = time.process_time()
    kept.fill(hit.passage for hits in index.search(questions, CANDIDATES) for hit in hits)
    filled = time.process_time() - began
    sides = {"kept": Reranked(index, kept), "encoded": Reranked(index, Fresh(encoder, index))}
    took, found = {}, {}
    for name, side in sides.items():
        side.search(questions[:1], CANDIDATES)
        began = time.process_time()
        found[name] = side.search(questions[1:], CANDIDATES)
        took[name] = (time.process_time() - began) / asked.questions
    same = sum(
        [hit.passage for hit in one] == [hit.passage for hit in other]
        for one, other in zip(found["kept"], found["encoded"], strict=True)
    )
    ratio = took["encoded"] / took["kept"]
    print(
        f"rerank  {CANDIDATES} candidates: kept {took['kept'] * 1e3:8.1f} ms   encoded for each question "
        f"{took['encoded'] * 1e3:8.1f} ms   ratio {ratio:6.1f}\n"
        f"        the same ranking of {same} of {asked.questions} questions; "
        f"{len(kept)} passages kept once in {filled:.1f} s"
    )
    return ratio if same == asked.questions else 0.0


def train(folder: Path, asked: argparse.Namespace) -> float:
    index = passages(folder, 40 if asked.small else 400)
    draw = np.random.default_rng(2)
    words = Words(3)
    questions = [words.text(20) for _ in range(asked.batch)]
    ids = draw.choice(len(index), 8 * asked.batch).astype(str).tolist()
    texts = [searched(one) for one in index.passages(ids)]
    owners = [place // 8 for place in range(len(texts))]
    targets = torch.tensor(draw.random((asked.batch, 8)) * 10, dtype=torch.float32)
    took, losses = {}, {}
    for name, kind in (("dynamic", LateInteraction), ("512", PaddedTo512)):
        encoder = encoder_of(index, asked)
        encoder.model.eval()  # no dropout, so that both sides have one loss
        scorer = kind(encoder, TOKENS)
        optimizer = torch.optim.AdamW(scorer.parameters(), lr=1e-6)
        losses[name] = float(step(scorer, optimizer, questions, texts, owners, targets))
        took[name] = seconds(lambda: step(scorer, optimizer, questions, texts, owners, targets), asked.rounds)  # noqa: B023
    ratio, apart = took["512"] / took["dynamic"], abs(losses["512"] - losses["dynamic"])
    print(
        f"train   {asked.batch} rationales: dynamic {took['dynamic']:6.2f} s   512 tokens "
        f"{took['512']:6.2f} s   ratio {ratio:6.2f}\n        losses {apart:.1e} apart"
    )
    return ratio if apart < 1e-3 * max(1.0, abs(losses["512"])) else 0.0


def step(
    scorer: nn.Module,
    optimizer: torch.optim.Optimizer,
    questions: Sequence[str],
    texts: Sequence[str],
    owners: Sequence[int],
    targets: Tensor,
) -> Tensor:
    """One optimiser step; the loss before it."""
    scores = scorer(questions, texts, owners).view(targets.shape)
    loss = listwise_kl(scores, targets, torch.ones_like(targets, dtype=torch.bool), 5.0, 0.5).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--parts", default="search,rerank,train")
    parser.add_argument("--base", default="all-minilm-l6-v2", help="the encoder")
    parser.add_argument("--passages", type=int, default=100_000, help="searched")
    parser.add_argument("--queries", type=int, default=500, help="searched with")
    parser.add_argument("--questions", type=int, default=10, help="reranked for")
    parser.add_argument("--batch", type=int, default=16, help="rationales of a step, with 8 passages each")
    parser.add_argument("--rounds", type=int, default=3, help="steps that are timed; the fastest counts")
    parser.add_argument("--milvus", default="", help="a file or a server, as of limbeck index")
    asked = parser.parse_args()
    if asked.small:
        asked.passages, asked.queries, asked.questions, asked.batch, asked.rounds = 300, 10, 2, 2, 1
    torch.set_num_threads(1)
    parts = {"search": search, "rerank": rerank, "train": train}
    if wrong := set(asked.parts.split(",")) - set(parts):
        sys.exit(f"--parts: {', '.join(sorted(wrong))} is none; choose from {', '.join(parts)}")
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.parts.split(","):
            ratio = parts[name](Path(folder), asked)
            if ratio < GOALS[name]:
                missed.append(f"{name}: {ratio:.2f}, below {GOALS[name]:g}")
    print("\n".join(missed) or "all goals met")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
