"""Whether a reranker trained from rationales finds better passages than BM25, for questions it never saw.

    LIMBECK_DATA=FOLDER python benchmarks/rerank.py --out FOLDER     published data, MiniLM (limbeck bases)
    ... --base tiny-encoder-s --out OTHER                            the same with a tiny encoder from scratch
    python benchmarks/rerank.py --small                              a generated corpus and a tiny encoder
    ... --rows late,late-trained --questions 40 --train 60           some rows, a part of the questions

`strategyqa_wiki`, as in `retrieval.py`: 70 % of the questions with GPT-3.5 rationales are trained on, with
all rationales; all other questions are held out. Every row but the first ranks the 100 passages that BM25
finds.

    bm25            by the question
    late            MaxSim of the encoder's token states, as they come (no projection)
    late-128        the same, projected to 128 orthonormal directions
    …-trained       trained on the divergence from BM25's softmax for the rationale
    late-best       trained on the best candidate alone
    bi              cosine of mean states: what the encoder was trained for
    cross-trained   question and passage read together, with a new head (which cannot rank before training)

All rows start from the same weights and see the same draws. The tokenizer of a tiny encoder is made of the
corpus and the rationales that it learns from. MRR@10 with its 95 % interval over questions, and the
difference to BM25 with that of the paired differences. Killed at any moment, the same command goes on; a
row that is in the folder is not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from retrieval import Relevant, Sets, generated, lines, strategyqa
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from limbeck.files import AppendLog, whole_folder
from limbeck.knowledge.bm25 import Index
from limbeck.knowledge.building import build
from limbeck.knowledge.candidates import Pool, pools
from limbeck.knowledge.encoders import load_encoder
from limbeck.knowledge.quality import Mean, mean_over, quality, reciprocal_rank
from limbeck.knowledge.ranking import PUBLISHED, train_reranker, train_scorer
from limbeck.knowledge.rerank import Reranked
from limbeck.knowledge.settings import CorpusSettings, EncoderSettings, IndexSettings, RankingSettings
from limbeck.knowledge.shards import searched
from limbeck.knowledge.states import Kept
from limbeck.lm import bases
from limbeck.lm.load import quiet
from limbeck.lm.tiny import seeded
from limbeck.lm.tiny_encoder import KIND, SIZES, is_tiny_encoder
from limbeck.records import Problem, Rationale, write_json
from limbeck.run_folder import read_json
from limbeck.training.settings import TrainSettings

BASE = "all-minilm-l6-v2"
BASES = [
    *(f"{KIND}-{size}" for size in SIZES),
    *(one.name for one in bases.BASES.values() if one.kind == "encoder"),
]
TINY_RATE = 2e-3
"""Learning rate of an encoder from scratch; the others learn at the published one."""
CANDIDATES = 100
SEED = 0
LENGTHS = {"question_tokens": 128, "passage_tokens": 256}
RANKING = RankingSettings()
TAU = {"late": 0.5, "bi": 0.05, "cross": 1.0}
"""Temperature of each kind's scores: sums over a question's tokens, cosines, logits."""
ROWS = (
    "bm25",
    "late",
    "late-128",
    "late-trained",
    "late-128-trained",
    "late-best",
    "bi",
    "bi-trained",
    "cross-trained",
)

Training = tuple[Index, list[Pool], RankingSettings, TrainSettings, Path]

Rank = Callable[[str, list[str]], list[str]]
"""Puts passages, by id, in order for a question."""


@dataclass
class Trial:
    """What all rows share."""

    out: Path
    index: Index
    base: str
    relevant: Relevant
    questions: dict[str, str]
    learned: list[Pool]
    train: TrainSettings

    @property
    def place(self) -> Path:
        """The encoder's folder."""
        return self.out / "base" if is_tiny_encoder(self.base) else bases.place_of(bases.BASES[self.base])


class BiEncoder(nn.Module):
    """Cosine of mean states."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(place)
        self.model = AutoModel.from_pretrained(place)

    def vectors(self, texts: Sequence[str]) -> Tensor:
        given = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        given = given.to(self.model.device)
        mask = given["attention_mask"][..., None]
        means = (self.model(**given).last_hidden_state * mask).sum(1) / mask.sum(1)
        return nn.functional.normalize(means.float(), dim=-1)

    def forward(self, questions: Sequence[str], passages: Sequence[str], owners: Sequence[int]) -> Tensor:
        return (self.vectors(questions)[owners] * self.vectors(passages)).sum(-1)


class CrossEncoder(nn.Module):
    """Question and passage read together."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(place)
        with seeded(SEED):
            self.model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=1)

    def forward(self, questions: Sequence[str], passages: Sequence[str], owners: Sequence[int]) -> Tensor:
        asked = [questions[one] for one in owners]
        given = self.tokenizer(
            asked, list(passages), padding=True, truncation=True, max_length=384, return_tensors="pt"
        )
        return self.model(**given.to(self.model.device)).logits[:, 0].float()


def late(trial: Trial, name: str) -> Rank:
    settings = EncoderSettings(dimensions=128 if "128" in name else 0, **LENGTHS)
    place = trial.out / name / "model"
    trained = name not in ("late", "late-128")
    encoder = load_encoder(place if place.is_dir() else trial.place, settings, seed=SEED, device="cpu")
    if trained and not place.is_dir():
        ranking = RANKING.model_copy(
            update={"tau_scores": TAU["late"], "loss": "best" if name == "late-best" else "kl"}
        )
        train_reranker(encoder, *training(trial, name, ranking), seed=SEED, progress=said(name))
        encoder.save(place)
    kept = Kept(trial.out / name / "states", encoder, trial.index)
    found = trial.index.search(list(trial.questions.values()), CANDIDATES)
    kept.fill(sorted({hit.passage for hits in found for hit in hits}))
    reranked = Reranked(trial.index, kept, CANDIDATES)
    return lambda question, ids: [hit.passage for hit in reranked.search([question], CANDIDATES)[0]]


def training(trial: Trial, name: str, ranking: RankingSettings) -> Training:
    """What all rows are trained with."""
    return trial.index, trial.learned, ranking, trial.train, trial.out / name


def other(trial: Trial, name: str) -> Rank:
    """A scorer of another kind, by the same training."""
    kind = name.removesuffix("-trained")
    with quiet():
        scorer = {"bi": BiEncoder, "cross": CrossEncoder}[kind](trial.place)
    if name.endswith("-trained"):
        ranking = RANKING.model_copy(update={"tau_scores": TAU[kind]})
        mark = {"kind": kind, "base": trial.base}
        train_scorer(scorer, mark, *training(trial, name, ranking), seed=SEED, progress=said(name))
    scorer.eval()

    @torch.no_grad()
    def rank(question: str, ids: list[str]) -> list[str]:
        texts = [searched(one) for one in trial.index.passages(ids)]
        order = sorted(range(len(texts)), key=lambda one: len(texts[one]))
        scores = np.empty(len(texts))
        for first in range(0, len(order), 32):
            places = order[first : first + 32]
            scores[places] = scorer([question], [texts[one] for one in places], [0] * len(places)).numpy()
        return [ids[place] for place in np.argsort(-scores, kind="stable").tolist()]

    return rank


def bm25(trial: Trial, name: str) -> Rank:
    return lambda question, ids: ids


def said(name: str) -> Callable[[int, int, float], None]:
    def progress(step: int, steps: int, loss: float) -> None:
        if step % max(1, steps // 10) == 0:
            print(f"  {name}: step {step} of {steps}, loss {loss:.3f}", file=sys.stderr, flush=True)

    return progress


def rank_all(trial: Trial, name: str) -> dict[str, list[str]]:
    """The passages of every held-out question, best first; goes on with those that are not there."""
    log = AppendLog(trial.out / name / "ranked.jsonl")
    done = {row["question"]: row["passages"] for row in (json.loads(line) for _, line in log.lines())}
    missing = [one for one in trial.questions if one not in done]
    if missing:
        rank = {"bm25": bm25, "late": late}.get(name.split("-")[0], other)(trial, name)
        found = trial.index.search([trial.questions[one] for one in missing], CANDIDATES)
        for one, hits in zip(missing, found, strict=True):
            ids = rank(trial.questions[one], [hit.passage for hit in hits])
            log.append(json.dumps({"question": one, "passages": ids}).encode())
            done[one] = ids
    return {one: done[one] for one in trial.questions}


def show(name: str, trial: Trial, found: dict[str, list[str]], first: dict[str, list[str]]) -> None:
    names = [trial.relevant[one] for one in found]
    known = quality(list(found.values()), names)
    ranks, before = (
        [reciprocal_rank(one[:10], relevant) for one, relevant in zip(lists.values(), names, strict=True)]
        for lists in (found, first)
    )
    mrr = mean_over(ranks)
    gain = mean_over([one - other for one, other in zip(ranks, before, strict=True)])
    cells = [*(known.hit[k] for k in (1, 5, 10)), mrr, gain, known.recall[10], known.recall[100]]
    print(f"{name:18}" + "".join(f"{_cell(one):>13}" for one in cells), flush=True)
    write_json(trial.out / name / "row.json", {**known.json(), "mrr@10": mrr, "to bm25": gain})


def _cell(one: Mean) -> str:
    if one.low is None or one.high is None:
        return f"{one.value:.3f}"
    return f"{one.value:.3f} ±.{round((one.high - one.low) / 2 * 1000):03d}"


def rationales_of(sets: Sets, data: Path | None) -> list[Rationale]:
    """All rationales of each question that has some."""
    chains: defaultdict[str, list[str]] = defaultdict(list)
    if data is None:
        for name, text in sets.queries["rationale"].items():
            chains[name].append(text)
    else:
        path = data / "published/2hojae+mentor-kd/data/main/strategy_qa_3_train.json"
        ids = {" ".join(text.split()): name for name, text in sets.queries["question"].items()}
        for row in json.loads(path.read_text(encoding="utf-8")):
            if name := ids.get(" ".join(row["input"].split())):
                chains[name].append(row["chain"])
    return [
        Rationale(
            problem_id=name, source="teacher", index=number, completion=text, reasoning=text, answer=None,
            correct=None,
        )
        for name, texts in chains.items()
        for number, text in enumerate(texts)
    ]  # fmt: skip


def prepare(asked: argparse.Namespace) -> Trial:
    out: Path = asked.out
    data = None if asked.small else Path(os.environ["LIMBECK_DATA"])
    usual = "tiny-encoder-s" if asked.small else BASE
    base = asked.base or usual
    chosen = {name: getattr(asked, name) for name in ("small", "train", "epochs")}
    chosen |= {"base": base} if base != usual else {}  # folders from before --base go on
    if (before := read_json(out / "chosen.json")) not in (None, chosen):
        sys.exit(f"--out: {out} was begun with {before}, not with {chosen}; name another folder")
    write_json(out / "chosen.json", chosen)
    sets = strategyqa(data) if data else generated(out)
    build([str(sets.corpus)], out / "index", IndexSettings(), CorpusSettings())
    index = Index(out / "index", threads=1)
    found = rationales_of(sets, data)
    with_some = sorted({one.problem_id for one in found})
    random.Random(SEED).shuffle(with_some)
    learned = with_some[: int(0.7 * len(with_some))][: asked.train]
    held_out = sorted(set(sets.queries["question"]) - set(with_some[: int(0.7 * len(with_some))]))
    random.Random(SEED).shuffle(held_out)
    questions = {one: sets.queries["question"][one] for one in held_out[: asked.questions]}
    problems = [Problem(id=one, question=sets.queries["question"][one], answer=None) for one in learned]
    some = [one for one in found if one.problem_id in set(learned)]
    pool_list = pools(index, problems, some, RANKING.top)
    train = PUBLISHED.model_copy(update={"epochs": asked.epochs, "checkpoints": 6, "batch_tokens": 4096})
    if is_tiny_encoder(base):
        texts = [str(row["text"]) for row in lines(sets.corpus)] + [one.reasoning for one in some]
        train = train.model_copy(update={"learning_rate": TINY_RATE})
        save_tiny(base, out / "base", texts)
    print(
        f"{base}: {len(learned)} questions with {len(pool_list)} rationales to learn from, "
        f"{len(questions)} held out"
    )
    return Trial(out, index, base, sets.relevant, questions, pool_list, train)


def save_tiny(base: str, folder: Path, texts: Sequence[str]) -> None:
    """A tiny encoder as an ordinary folder, for all rows."""
    if not folder.is_dir():
        encoder = load_encoder(base, EncoderSettings(dimensions=0), texts=texts, device="cpu")
        with quiet(), whole_folder(folder) as partial:
            encoder.transformer.auto_model.save_pretrained(partial)
            encoder.model.tokenizer.save_pretrained(partial)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where rows, models and states are kept; --small needs none")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--base", choices=BASES, help=f"the encoder; {BASE}, or with --small tiny-encoder-s")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--questions", type=int, help="held-out questions, at most")
    parser.add_argument("--train", type=int, help="questions to learn from, at most")
    parser.add_argument("--epochs", type=int, default=PUBLISHED.epochs)
    asked = parser.parse_args()
    if not asked.small and "LIMBECK_DATA" not in os.environ:
        sys.exit("LIMBECK_DATA: names no folder of published data; set it, or try --small")
    if wrong := set(asked.rows.split(",")) - set(ROWS):
        sys.exit(f"--rows: {', '.join(sorted(wrong))} is none; choose from {', '.join(ROWS)}")
    if asked.out is None and not asked.small:
        sys.exit("--out: is missing; name a folder, so that the command goes on after a kill")
    with tempfile.TemporaryDirectory() as temporary:
        asked.out = asked.out or Path(temporary)
        measure(prepare(asked), asked.rows.split(","))


def measure(trial: Trial, rows: Sequence[str]) -> None:
    heads = ("hit@1", "hit@5", "hit@10", "MRR@10", "to BM25", "recall@10", "recall@100")
    print(f"{'':18}" + "".join(f"{head:>13}" for head in heads))
    first = rank_all(trial, "bm25")
    for name in rows:
        begun = time.monotonic()
        found = rank_all(trial, name)
        show(name, trial, found, first)
        print(f"{'':18}{time.monotonic() - begun:10.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
