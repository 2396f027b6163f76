"""One training step of ours against the same step of a plain `transformers.Trainer`.

    python benchmarks/step.py [--small]

Plain: every example padded to the longest of the set, logits for every position, as the published
code of this field trains. Ours: batches by length (as they are, without correction weights) padded to
their own longest, logits for scored tokens only. The same 8 examples are in a step on both sides,
from the same weights, and the loss and all gradients must agree. Toy T5 and Llama with 32,000 words;
the lengths are those of a published set (350 examples, targets of 84 tokens on average and 512 at most).

Time: both sides in this process, in turns, on one thread; processor seconds of forward, backward,
clipping and optimiser step, so that other work on the machine does not count, summed over steps at
even ranks of length. Memory: each side in a process of its own; the rise of its largest resident
set (VmHWM, Linux) above what it holds at rest with weights and optimiser state, over a middle step
and the one with the longest example of all, which decides what fits.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from limbeck.training.collate import Batch, Row, collate
from limbeck.training.feed import Feed, lengths_of
from limbeck.training.parts import CrossEntropy
from limbeck.training.sampler import GroupSampler, Limits, Size
from limbeck.training.trainer import PartsTrainer

STEPS = 5


@dataclass(frozen=True)
class Scale:
    """How many words and examples there are, examples in a step, and tokens of the longest target."""

    words: int
    examples: int
    per_step: int
    longest: int


WHOLE, SMALL = Scale(32_000, 350, 8, 512), Scale(500, 20, 2, 64)
KINDS = ("t5", "llama")
SIDES = ("plain", "ours")
FILL = {"input_ids": 0, "attention_mask": 0, "labels": -100}


def model_of(kind: str, words: int) -> nn.Module:
    """About 15 (T5) and 20 million weights, always the same ones, without dropout."""
    torch.manual_seed(0)
    if kind == "t5":
        config = T5Config(
            vocab_size=words,
            d_model=256,
            d_kv=64,
            d_ff=512,
            num_layers=4,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
        )
        return T5ForConditionalGeneration(config)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=words,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=8,
            max_position_embeddings=1024,
        )
    )


def rows_of(kind: str, scale: Scale) -> list[Row]:
    """Prompts of about 50 tokens; targets log-normal, mean 84, one as long as the longest."""
    draw = random.Random(0)

    def tokens(mean: float, spread: float, most: int) -> list[int]:
        count = int(draw.lognormvariate(0, spread) * mean)
        return [draw.randrange(3, scale.words) for _ in range(max(4, min(most, count)))]

    rows = []
    for number in range(scale.examples):
        prompt = tokens(47, 0.35, 120)
        target = tokens(72, 0.55, scale.longest)
        if number == 0:
            target = [draw.randrange(3, scale.words) for _ in range(scale.longest)]
        if kind == "t5":
            rows.append(Row(str(number), prompt, target))
        else:
            rows.append(Row(str(number), prompt + target, [-100] * len(prompt) + target))
    return rows


def steps_of(rows: Sequence[Row], kind: str, scale: Scale) -> list[list[Row]]:
    """Batches of our sampler: at even ranks of length, then the one with the longest example."""
    sizes = [Size(1, lengths_of(row, encoder_decoder=kind == "t5")) for row in rows]
    sampler = GroupSampler(sizes, Limits(scale.per_step, 1 << 20), seed=0, batches="by-length")
    batches = sorted(
        ([rows[i] for i in batch] for _, batch in sampler), key=lambda b: max(len(row.labels) for row in b)
    )
    return [batches[int((n + 0.5) * len(batches) / STEPS)] for n in range(STEPS)] + [batches[-1]]


def collate_to_longest(batch: Sequence[Row], rows: Sequence[Row]) -> Batch:
    """Pad a batch to the longest example of the whole set; the tensors that a model takes."""
    longest = {"input_ids": max(len(r.input_ids) for r in rows), "labels": max(len(r.labels) for r in rows)}
    longest["attention_mask"] = longest["input_ids"]
    return {
        name: pad(tensor, (0, longest[name] - tensor.shape[1]), value=FILL[name])
        for name, tensor in short(batch).items()
    }


def short(batch: Sequence[Row]) -> Batch:
    """The tensors that a model takes, padded to the longest of the batch."""
    padded = collate(batch, 0)
    return {name: padded[name] for name in FILL}


def trainer_of(side: str, kind: str, folder: str, words: int) -> Any:
    """A trainer of either kind, with a learning rate of 0: every step begins from the same weights."""
    args = TrainingArguments(
        output_dir=folder,
        learning_rate=0.0,
        weight_decay=0.0,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    if side == "plain":
        trainer: Any = Trainer(model=model_of(kind, words), args=args)
    else:
        feed = Feed([], GroupSampler([Size(1, (1,))], Limits(1, 1), seed=0), 0, kind == "t5")
        trainer = PartsTrainer(model_of(kind, words), args, (CrossEntropy(),), feed)
    trainer.create_optimizer()
    return trainer


def step(trainer: Any, batch: Batch, look: bool = True) -> tuple[float, float, Tensor | None]:
    """One optimiser step: its seconds, loss and, to `look` at, gradient (copied while the clock stands)."""
    start = time.process_time()
    batches, counts = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(trainer.model, batches[0], counts)
    seconds = time.process_time() - start
    gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]) if look else None
    start = time.process_time()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.model.zero_grad()
    return seconds + time.process_time() - start, loss.item(), gradient


def collated(side: str, batch: Sequence[Row], rows: Sequence[Row]) -> Batch:
    return collate(batch, 0) if side == "ours" else collate_to_longest(batch, rows)


def compare(kind: str, scale: Scale) -> dict[str, float]:
    """Seconds of both sides over the steps; the largest relative distance of losses and gradients."""
    rows = rows_of(kind, scale)
    seconds = dict.fromkeys(SIDES, 0.0)
    apart = {"loss": 0.0, "gradient": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {side: trainer_of(side, kind, folder, scale.words) for side in SIDES}
        for side in SIDES:
            step(trainers[side], short(rows[1:3]))  # the first step makes the optimiser's state
        for batch in steps_of(rows, kind, scale)[:STEPS]:
            done = {side: step(trainers[side], collated(side, batch, rows)) for side in SIDES}
            for side in SIDES:
                seconds[side] += done[side][0]
            (_, plain_loss, plain), (_, our_loss, ours) = done["plain"], done["ours"]
            apart["loss"] = max(apart["loss"], abs(our_loss / plain_loss - 1))
            apart["gradient"] = max(apart["gradient"], ((ours - plain).norm() / plain.norm()).item())
    return {**seconds, **apart}


def added_memory(side: str, kind: str, scale: Scale) -> float:
    """MB that the steps add to weights and optimiser state at their peak; for a process of its own."""
    rows = rows_of(kind, scale)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(side, kind, folder, scale.words)
        step(trainer, short(rows[1:3]), look=False)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        steps = steps_of(rows, kind, scale)
        for batch in (steps[STEPS // 2], steps[-1]):
            step(trainer, collated(side, batch, rows), look=False)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
    return peak_kb / 1024 - pages * resource.getpagesize() / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--small", action="store_true", help="a smoke test: few and short examples")
    parser.add_argument("--memory", nargs=2, metavar=("SIDE", "KIND"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    scale = SMALL if chosen.small else WHOLE
    torch.set_num_threads(1)
    if chosen.memory:
        print(added_memory(*chosen.memory, scale))
        return 0
    equal, twice = True, True
    for kind in KINDS:
        found = compare(kind, scale)
        again = [sys.executable, __file__, *(["--small"] if chosen.small else [])]
        memory = {side: float(subprocess.check_output([*again, "--memory", side, kind])) for side in SIDES}
        speed, peak = found["plain"] / found["ours"], memory["plain"] / memory["ours"]
        equal = equal and found["loss"] < 1e-5 and found["gradient"] < 1e-4
        twice = twice and speed >= 2 and peak >= 2
        print(
            f"{kind:6} time ratio {speed:.1f}   "
            f"added peak memory ratio {peak:.1f}   "
            f"(loss apart by {found['loss']:.0e}, gradient by {found['gradient']:.0e}, relative)",
            flush=True,
        )
    if not equal:
        print("loss or gradient differ: the sides do not do the same step", file=sys.stderr)
    if not twice:
        print("a ratio is below 2", file=sys.stderr)
    return 0 if equal and twice else 1


if __name__ == "__main__":
    sys.exit(main())
