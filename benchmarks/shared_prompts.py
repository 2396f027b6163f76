"""A training step whose rows share prompts: each prompt computed once, against once per row.

    python benchmarks/shared_prompts.py [--small] [--kind llama|t5] [--lengths NAME] [-k K] [--equal|--padded]
        [--device cuda]

A Llama of 20 and a T5 of 19 million weights with 32,000 words. Lengths are about those of published data,
prompt + completion in tokens:

    svamp 45 + 50, gsm8k 75 + 130, strategyqa 30 + 90, and demonstrations 600 + 130: a few examples in front
    of the question

A step has two questions (demonstrations: one) with K rows each, K = 2, 3, 6 and 10. Padded: prompts vary by
20 % and completions by 30 %. Equal: nothing is padded, where separate rows have an attention without a mask.
Both sides have the same rows, all of whose completions are scored, and must make the same loss and gradient.

Time: processor seconds of forward, backward, clipping and optimiser step on one thread, the fastest of some
steps, both sides in turns in this process. Memory: each side in a process of its own; the rise of its largest
resident set (VmHWM, Linux) above what it holds at rest with weights and optimiser state. Ratios are how many
times the side with shared prompts. `auto` is what `train.share_prompts: auto` would do, and the gain that it
expects.

Wanted with demonstrations: time 1.5 at K = 2 and 2.2 at K = 6, memory 2 at every K (at K = 2 there are 1,460
tokens against 860, a ratio of 1.7, so tokens alone do not reach it); and nowhere a time below 1.0 where
`auto` shares. What is missed is said below its line. Status 1 if anything is, or if the two sides do not do
the same step.

With a GPU (`--device cuda`; never run on one): the Llama of 1.1 billion weights of `step.py`, whose head is
not its embeddings, in bf16 and timed as there; the time of a step is the mean.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import step
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from limbeck.training.collate import Batch, collate
from limbeck.training.rows import Row
from limbeck.training.shared_prompts import WORTH, gain, tokens_of, work_of

LENGTHS = {"svamp": (45, 50), "gsm8k": (75, 130), "strategyqa": (30, 90), "demonstrations": (600, 130)}
SMALL_LENGTHS = {"demonstrations": (60, 6)}
K = (2, 3, 6, 10)
SIDES = ("separate", "shared")
WANTED = {2: 1.5, 6: 2.2}
"""With demonstrations: how many times faster, by rows per prompt."""
WANTED_MEMORY = 2.0
"""The same of memory, whatever the number of rows."""
TIMED = 3
"""Steps of each side, after one that is compared."""


@dataclass(frozen=True)
class Cell:
    """What a step is made of."""

    kind: str
    lengths: str
    k: int
    equal: bool
    small: bool
    device: str = "cpu"

    def arguments(self) -> list[str]:
        """On the command line."""
        chosen = ["--kind", self.kind, "--lengths", self.lengths, "-k", str(self.k)]
        return chosen + ["--equal" if self.equal else "--padded"] + ["--small"] * self.small

    @property
    def words(self) -> int:
        return self.scale.words

    @property
    def scale(self) -> step.Scale:
        """Its model and where it runs; the examples are the cell's own."""
        if self.small or self.device == "cpu":
            return replace(step.SMALL if self.small else step.WHOLE, device=self.device)
        return step.ON_GPU


def model_of(cell: Cell, *, empty: bool = False) -> nn.Module:
    """Always the same weights, without dropout; on a CPU the head is the embeddings.

    `empty`: no weights on a GPU, but their shapes.
    """
    if cell.device == "cuda":
        return step.model_of("llama", replace(cell.scale, device="meta") if empty else cell.scale)
    torch.manual_seed(0)
    layers = 1 if cell.small else 8
    if cell.kind == "t5":
        config = T5Config(
            vocab_size=cell.words,
            d_model=256,
            d_kv=64,
            d_ff=1024,
            num_layers=layers * 3 // 4 or 1,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
        return T5ForConditionalGeneration(config)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=cell.words,
            hidden_size=320,
            intermediate_size=864,
            num_hidden_layers=layers,
            num_attention_heads=5,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    )


def groups_of(cell: Cell) -> list[list[Row]]:
    """The rows of each question."""
    draw = random.Random(0)
    about, long = (SMALL_LENGTHS if cell.small else LENGTHS)[cell.lengths]

    def tokens(count: int, spread: float) -> list[int]:
        varied = count if cell.equal else round(count * draw.uniform(1 - spread, 1 + spread))
        return [draw.randrange(3, cell.words) for _ in range(varied)]

    groups = []
    for number in range(1 if cell.lengths == "demonstrations" else 2):
        prompt, rows = tokens(about, 0.2), []
        for _ in range(cell.k):
            completion = tokens(long, 0.3)
            if cell.kind == "t5":
                rows.append(Row(str(number), prompt, completion))
            else:
                rows.append(Row(str(number), prompt + completion, [-100] * len(prompt) + completion))
        groups.append(rows)
    return groups


def collated(side: str, kind: str, groups: Sequence[Sequence[Row]]) -> Batch:
    """A micro-batch as training makes it."""
    rows = [row for group in groups for row in group]
    prompts = [row.prompt_ids(encoder_decoder=kind == "t5") for row in rows]
    return collate(rows, 0, prompts=prompts if side == "shared" else None)


def measured(cell: Cell) -> tuple[dict[str, float], dict[str, float]]:
    """Processor seconds of each side's fastest step; how far apart losses and gradients are, relatively."""
    groups = groups_of(cell)
    batches = {side: collated(side, cell.kind, groups) for side in SIDES}
    seconds = dict.fromkeys(SIDES, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        trainers = {side: step.trainer_of("ours", model_of(cell), folder) for side in SIDES}
        apart = step.differences(trainers, batches, "separate")
        for _ in range(1 if cell.small else TIMED):
            for side in SIDES:
                seconds[side] = min(seconds[side], step.step(trainers[side], batches[side])[0])
    return seconds, apart


def on_gpu(cell: Cell) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Seconds of each side's step, MB added, and how far apart they are; see `step.one_by_one`."""
    groups = groups_of(cell)
    given = {side: collated(side, cell.kind, groups) for side in SIDES}
    batches = {side: [batch] * TIMED for side, batch in given.items()}
    with tempfile.TemporaryDirectory() as folder:
        seconds, memory, apart = step.one_by_one(
            lambda side: step.trainer_of("ours", model_of(cell), folder), batches, given, "separate"
        )
    return {side: taken / TIMED for side, taken in seconds.items()}, memory, apart


def added_memory(cell: Cell, side: str) -> float:
    """MB that a step adds to weights and optimiser state; for a process of its own."""
    groups = groups_of(cell)
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = step.trainer_of("ours", model_of(cell), folder)
        few = collated(side, cell.kind, [groups[0][:2]])
        return step.rise(trainer, few, collated(side, cell.kind, groups))


def report(cell: Cell) -> bool:
    """Print a line, and what is missed; whether nothing is."""
    if cell.device == "cuda":
        seconds, memory, apart = on_gpu(cell)
    else:
        seconds, apart = measured(cell)
        command = [sys.executable, __file__, *cell.arguments(), "--memory"]
        memory = {side: float(subprocess.check_output([*command, side])) for side in SIDES}
    faster = seconds["separate"] / seconds["shared"]
    smaller = memory["separate"] / max(memory["shared"], 1e-9)
    both = cell.kind == "t5"
    expected = gain(
        tokens_of(groups_of(cell), encoder_decoder=both, batches=1), work_of(model_of(cell, empty=True))
    )
    shares = expected >= WORTH
    print(
        f"{cell.kind:6}{cell.lengths:15}{'equal' if cell.equal else 'padded':7} K {cell.k:2}"
        f"  {seconds['separate']:6.{2 if cell.device == 'cpu' else 3}f} s  time ratio {faster:5.2f}"
        f"  {memory['separate']:6.0f} MB added  memory ratio {smaller:5.2f}"
        f"  auto {'on ' if shares else 'off'} ({expected:.2f})"
        f"  apart by: loss {apart['loss']:.0e}, gradient {apart['gradient']:.0e}",
        flush=True,
    )
    if not step.equal(apart, cell.scale):
        print("  loss or gradient differ: the sides do not do the same step", file=sys.stderr)
        return False
    missed = [] if cell.small else missed_by(cell, faster, smaller, shares=shares)
    for line in missed:
        print(f"  missed: {line}", flush=True)
    return not missed


def missed_by(cell: Cell, faster: float, smaller: float, *, shares: bool) -> list[str]:
    """What is wanted of a cell and is not so."""
    time = memory = 0.0
    if cell.lengths == "demonstrations":
        time, memory = WANTED.get(cell.k, 0.0), WANTED_MEMORY
    if shares:
        time = max(time, 1.0)
    ratios = (("time", faster, time), ("memory", smaller, memory))
    return [f"{name} ratio {got:.2f}, wanted {wanted:.1f}" for name, got, wanted in ratios if got < wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--small", action="store_true", help="a smoke test: few and short rows")
    parser.add_argument("--kind", choices=("llama", "t5"), help="one of the two alone")
    parser.add_argument("--lengths", choices=tuple(LENGTHS), help="one of them alone")
    parser.add_argument("-k", type=int, help="one number of rows per prompt alone")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--equal", action="store_true", help="equal lengths alone")
    alone.add_argument("--padded", action="store_true", help="varied lengths alone")
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    step.add_device(parser)
    chosen = parser.parse_args()
    kinds = [chosen.kind] if chosen.kind else ["llama", "t5"]
    if chosen.device == "cuda":
        kinds = step.kinds_on_gpu(parser, chosen.kind)
    torch.set_num_threads(1)
    lengths = SMALL_LENGTHS if chosen.small else LENGTHS
    cells = [
        Cell(kind, name, k, equal, chosen.small, chosen.device)
        for kind in kinds
        for equal in ([chosen.equal] if chosen.equal or chosen.padded else [False, True])
        for name in ([chosen.lengths] if chosen.lengths else lengths)
        for k in ([chosen.k] if chosen.k else [2] if chosen.small else K)
    ]
    if chosen.memory:
        print(added_memory(cells[0], chosen.memory))
        return 0
    good = [report(cell) for cell in cells]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
