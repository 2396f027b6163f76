"""What a token weighs in random batches, in batches by length, and in those corrected; and what each costs.

    python benchmarks/batches.py [--small]

Weights: of the tokens of the shortest and of the longest 5 % of rows, relative to the mean over tokens,
in steps of 8 rows. The lengths are like those of a published set of rationales for SVAMP (73 words on
average, 708 at most; 1.3 tokens a word).

Speed and results: a tiny model learns a built-in task, of which most problems are short and few are
long, three times in each kind of batches. Processor seconds of the whole training on one thread, all
three kinds in turns in this process; loss per token and share of rationales whose every token is the
likeliest one (what greedy decoding would write), on held-out problems.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import nn

from limbeck.lm.load import Loaded, load
from limbeck.records import Example
from limbeck.tasks.generated import GENERATED, generate
from limbeck.training.collate import Batch, collate, tokenise
from limbeck.training.feed import Feed, train_feed
from limbeck.training.groups import ALL, singles
from limbeck.training.parts import CrossEntropy
from limbeck.training.rows import Row, RowGroup
from limbeck.training.sampler import Sharing
from limbeck.training.settings import TrainSettings
from limbeck.training.trainer import train

KINDS: dict[str, tuple[str, bool]] = {
    "random": ("random", False),
    "by length": ("by-length", False),
    "by length, corrected": ("by-length", True),
}
"""`batches`, and whether they are corrected."""

TASK = "arithmetic"
PROBLEMS_OF_STEPS = {1: 0.25, 2: 0.3, 3: 0.2, 4: 0.12, 5: 0.06, 6: 0.04, 7: 0.02, 8: 0.01}
"""Share of the problems with so many steps."""


def like_svamp(count: int) -> list[RowGroup]:
    """Rows of a decoder-only model."""
    draw = random.Random(0)
    words = [min(708, max(8, int(draw.lognormvariate(math.log(64), 0.5)))) for _ in range(count - 4)]
    groups = []
    for number, length in enumerate([*words, 708, 520, 460, 380]):
        prompt, labels = [7] * max(10, int(1.3 * draw.gauss(31, 7))), [8] * int(1.3 * length)
        row = Row(str(number), prompt + labels, [-100] * len(prompt) + labels)
        groups.append(RowGroup(str(number), (row,)))
    return groups


def feed_of(groups: Sequence[RowGroup], kind: str) -> Feed:
    """Batches of 8 rows."""
    batches, corrected = KINDS[kind]
    settings = TrainSettings.model_validate({"batches": batches, "max_length": 1024})
    options: Any = {"draw": ALL, "seed": 1, "pad": 0, "encoder_decoder": False, "corrected": corrected}
    return train_feed(groups, settings, Sharing(), **options)


def weights(feed: Feed, epochs: int) -> tuple[float, float, float]:
    """What a token of the shortest and of the longest 5 % weighs, and the share of padding."""
    counts = np.array([sum(label >= 0 for label in group.rows[0].labels) for group in feed.groups])
    found, read, padded = np.zeros(len(counts)), 0, 0
    for epoch in range(epochs):
        for step in feed.sampler.steps(epoch):
            for micro in step:
                batch = feed[epoch, micro]
                of = list(micro)
                factors, total = np.ones(len(of)), counts[of].sum()
                if "expected" in batch:
                    factors, total = batch["label_weights"][:, 0].numpy(), batch["expected"].sum().item()
                found[of] += factors / total
                read += int(batch["attention_mask"].sum())
                padded += batch["input_ids"].numel()
    found *= counts.sum() / (found * counts).sum()
    order = np.argsort(counts, kind="stable")
    few = max(1, len(order) // 20)
    short, long = (np.average(found[end], weights=counts[end]) for end in (order[:few], order[-few:]))
    return float(short), float(long), 1 - read / padded


def problems(count: int, split: Any) -> list[Example]:
    """Problems of the task with 1 to 8 steps, and their rationales."""
    examples = []
    for steps, share in PROBLEMS_OF_STEPS.items():
        for problem in generate(TASK, split, max(1, round(share * count)), 0, steps=steps):
            puzzle = GENERATED[TASK].read(problem.question)
            assert puzzle is not None
            reasoning, answer = puzzle.rationale(0, "none", random.Random(0))
            completion = f" {reasoning} The answer is {answer}."
            examples.append(
                Example(problem_id=problem.id, prompt=f"{problem.question}\n", completion=completion)
            )
    return examples


@torch.no_grad()
def right(model: nn.Module, batches: Sequence[Batch]) -> list[bool]:
    """Whether every token of a row's completion is the likeliest, row by row."""
    found: list[bool] = []
    for batch in batches:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels = batch["labels"][:, 1:]
        found += ((logits[:, :-1].argmax(-1) == labels) | (labels < 0)).all(1).tolist()
    return found


def learn(kind: str, seed: int, examples: list[Example], held_out: list[Example], epochs: int) -> list[float]:
    """Processor seconds, and on held-out problems loss and shares right: of all, of short, of long ones."""
    loaded = load(
        "tiny-causal",
        seed=seed,
        device="cpu",
        tokenizer_texts=[text for example in examples for text in (example.prompt, example.completion)],
    )
    batches, corrected = KINDS[kind]
    values = {"epochs": epochs, "batch_size": 16, "learning_rate": 2e-3, "schedule": "linear", "warmup": 0.05}
    settings = TrainSettings.model_validate({**values, "batches": batches, "checkpoints": 1})
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        train(
            loaded.model,
            loaded.tokenizer,
            singles(examples),
            [],
            (CrossEntropy(),),
            settings,
            Path(folder),
            seed=seed,
            corrected=corrected,
        )
        seconds = time.process_time() - begun
    return [seconds, *held_out_results(loaded, held_out)]


def held_out_results(loaded: Loaded, held_out: list[Example]) -> list[float]:
    """Loss per token; shares right of all, of the shortest and of the longest fifth."""
    found = tokenise(loaded.tokenizer, singles(held_out), encoder_decoder=False, max_length=512)
    rows = sorted(found.rows, key=lambda row: len(row.labels))
    batches = [collate(rows[start : start + 50], 0) for start in range(0, len(rows), 50)]
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            logits = loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            labels = batch["labels"][:, 1:]
            losses = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="sum")
            nats, tokens = nats + losses.item(), tokens + int((labels >= 0).sum())
    found = right(loaded.model, batches)
    few = len(found) // 5
    return [nats / tokens, mean(found), mean(found[:few]), mean(found[-few:])]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="what batches by length change")
    parser.add_argument("--small", action="store_true", help="a smoke test: few rows, one seed")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    print("a token of the            shortest 5 %   longest 5 %   padding")
    rows = like_svamp(200 if small else 2000)
    for kind in KINDS:
        short, long, padding = weights(feed_of(rows, kind), 5 if small else 40)
        print(f"{kind:24}  {short:12.2f}   {long:11.2f}   {padding:7.0%}", flush=True)
    count, epochs, seeds = (60, 1, [1]) if small else (1500, 8, [1, 2, 3])
    examples, held_out = problems(count, "train"), problems(30 if small else 300, "test")
    results: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    for seed in seeds:
        for kind in KINDS:
            row = learn(kind, seed, examples, held_out, epochs)
            results[kind].append(row)
            print(f"seed {seed} {kind:24}", *(f"{value:.3f}" for value in row), flush=True)
    print(f"\n{TASK}, {len(examples)} problems, {epochs} epochs, {len(seeds)} seeds: mean (deviation)")
    print("                          seconds  ratio   loss             right     shortest 5th  longest 5th")
    base = mean(row[0] for row in results["random"])
    for kind, table in results.items():
        columns = list(zip(*table, strict=True))
        shown = [f"{mean(c):.3f} ({stdev(c) if len(c) > 1 else 0:.3f})" for c in columns[1:]]
        seconds = mean(columns[0])
        print(f"{kind:24}  {seconds:7.1f}  {base / seconds:5.2f}   " + "   ".join(shown))


if __name__ == "__main__":
    main()
