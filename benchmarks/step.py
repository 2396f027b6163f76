"""An epoch of training steps: ours, the published procedure, and what a good engineer would run today.

    python benchmarks/step.py [--small]

Toy T5 and Llama with 32,000 words; the lengths are those of a published set (350 examples, targets of 84
tokens on average and 512 at most), 8 examples a step, the same weights on all sides. The sides:

    published       random batches padded to the longest example of the set, logits everywhere
    dynamic         `transformers.Trainer`, random batches padded to their own longest
    grouped         the same, with the library's `group_by_length` (lengths of `input_ids`)
    grouped-both    encoder-decoder: the same, grouped by the sum of both lengths
    trl             TRL's `SFTTrainer`, batches of `grouped`; decoder-only. Its tiled head is made for a GPU
                    and runs here as its fallback does. Needs the extra `bench`; left out without it
    ours-random     ours, the batches of `dynamic`
    ours            ours, batches by length (no correction weights: a token weighs as in `grouped`)

All sides weigh a token as one over the step's tokens. Given the same 8 examples, each must make the same loss
and the same gradient.

Time: processor seconds of forward, backward, clipping and optimiser step on one thread, so that other work
on the machine does not count; an epoch is estimated from steps at even ranks of what each side pads, all
sides in turns in this process. Memory: each side in a process of its own; the rise of its largest resident
set (VmHWM, Linux) above what it holds at rest with weights and optimiser state, over the largest of its
steps.

Status 1 if a side makes another loss or gradient.
"""

from __future__ import annotations

import argparse
import importlib.util
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

import numpy as np
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
from transformers.trainer_pt_utils import LengthGroupedSampler

from limbeck.training.collate import Batch, collate
from limbeck.training.feed import Feed, lengths_of
from limbeck.training.parts import CrossEntropy
from limbeck.training.rows import Row
from limbeck.training.sampler import GroupSampler, Limits
from limbeck.training.trainer import PartsTrainer

STEPS = 6
"""Steps of an epoch that are timed, on every side."""


@dataclass(frozen=True)
class Scale:
    """How many words and examples there are, examples in a step, and tokens of the longest target."""

    words: int
    examples: int
    per_step: int
    longest: int


WHOLE, SMALL = Scale(32_000, 350, 8, 512), Scale(500, 20, 2, 64)
FILL = {"input_ids": 0, "attention_mask": 0, "labels": -100}


def sides_of(kind: str) -> list[str]:
    """The sides that can train such a model here; the last one is ours."""
    trl = ["trl"] if kind == "llama" and importlib.util.find_spec("trl") else []
    both = ["grouped-both"] if kind == "t5" else []
    return ["published", "dynamic", "grouped", *both, *trl, "ours-random", "ours"]


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


def batches_of(side: str, kind: str, rows: Sequence[Row], scale: Scale) -> list[list[Row]]:
    """An epoch of a side's batches, the one that pads most at the end."""
    both = kind == "t5"
    if side == "ours":
        sizes = np.array([(1, *lengths_of(row, encoder_decoder=both)) for row in rows])
        sampler = GroupSampler(sizes, Limits(scale.per_step, 1 << 20), seed=0, batches="by-length")
        found = [[rows[i] for i in batch] for _, batch in sampler]
    else:
        order = order_of(side, rows, scale)
        found = [
            [rows[i] for i in order[n : n + scale.per_step]] for n in range(0, len(rows), scale.per_step)
        ]
    return sorted(found, key=lambda batch: sum(tensor.numel() for tensor in short(batch).values()))


def order_of(side: str, rows: Sequence[Row], scale: Scale) -> list[int]:
    """The examples as `Trainer` would take them."""
    draw = torch.Generator().manual_seed(0)
    if side in ("published", "dynamic", "ours-random"):
        return torch.randperm(len(rows), generator=draw).tolist()
    added = [len(row.labels) if side == "grouped-both" else 0 for row in rows]
    lengths = [len(row.input_ids) + more for row, more in zip(rows, added, strict=True)]
    return list(LengthGroupedSampler(scale.per_step, lengths=lengths, generator=draw))


def short(batch: Sequence[Row]) -> Batch:
    """The tensors that a model takes, padded to the longest of the batch."""
    padded = collate(batch, 0)
    return {name: padded[name] for name in FILL}


def to_longest(batch: Sequence[Row], rows: Sequence[Row]) -> Batch:
    """The same, padded to the longest example of the whole set."""
    longest = {"input_ids": max(len(r.input_ids) for r in rows), "labels": max(len(r.labels) for r in rows)}
    longest["attention_mask"] = longest["input_ids"]
    return {
        name: pad(tensor, (0, longest[name] - tensor.shape[1]), value=FILL[name])
        for name, tensor in short(batch).items()
    }


def collated(side: str, batch: Sequence[Row], rows: Sequence[Row]) -> Batch:
    if side.startswith("ours"):
        return collate(batch, 0)
    return to_longest(batch, rows) if side == "published" else short(batch)


def trainer_of(side: str, model: Any, folder: str, **more: Any) -> Any:
    """A trainer of any side, with a learning rate of 0: every step begins from the same weights."""
    given = {**arguments_of(folder), **more}
    if side == "trl":
        trainer = trl_trainer(model, given)
    elif side.startswith("ours"):
        both = model.config.is_encoder_decoder
        feed = Feed([], GroupSampler(np.array([[1, 1]]), Limits(1, 1), seed=0), 0, both)
        trainer = PartsTrainer(model, TrainingArguments(**given), (CrossEntropy(),), feed)
    else:
        trainer = Trainer(model=model, args=TrainingArguments(**given))
    trainer.create_optimizer()
    return trainer


def arguments_of(folder: str) -> dict[str, Any]:
    """Of any trainer here."""
    return {
        "output_dir": folder,
        "learning_rate": 0.0,
        "weight_decay": 0.0,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


def trl_trainer(model: nn.Module, given: dict[str, Any]) -> Any:
    """TRL's, without recomputing; it wants data and a tokenizer, which the steps do not use."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from limbeck.lm.tiny import build_tokenizer

    args = SFTConfig(**{"bf16": False, **given}, activation_checkpointing=False)
    rows = Dataset.from_dict({"input_ids": [[3, 4]], "labels": [[3, 4]]})
    return SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=build_tokenizer(["a b"]))


def step(trainer: Any, batch: Batch, look: bool = False) -> tuple[float, float, Tensor | None]:
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


def epochs(kind: str, scale: Scale) -> tuple[dict[str, float], dict[str, float]]:
    """Processor seconds of an epoch on each side; and how far apart losses and gradients are, relatively."""
    rows, sides = rows_of(kind, scale), sides_of(kind)
    batches = {side: batches_of(side, kind, rows, scale) for side in sides}
    seconds = dict.fromkeys(sides, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {side: trainer_of(side, model_of(kind, scale.words), folder) for side in sides}
        shared = batches["ours"][len(batches["ours"]) // 2]
        apart = differences(trainers, {side: collated(side, shared, rows) for side in sides}, "dynamic")
        for n in range(STEPS):
            for side, own in batches.items():
                batch = own[int((n + 0.5) * len(own) / STEPS)]
                taken = step(trainers[side], collated(side, batch, rows))[0]
                seconds[side] += taken * len(own) / STEPS
    return seconds, apart


def differences(trainers: dict[str, Any], given: dict[str, Batch], reference: str) -> dict[str, float]:
    """Largest relative distance of the sides' losses and gradients from those of one side.

    Args:
        given: the same examples, as each side takes them.
    """
    done = {side: step(trainers[side], batch, look=True) for side, batch in given.items()}
    _, loss, gradient = done[reference]
    assert gradient is not None
    others = [(value, other) for _, value, other in done.values() if other is not None]
    return {
        "loss": max(abs(value / loss - 1) for value, _ in others),
        "gradient": max(((other - gradient).norm() / gradient.norm()).item() for _, other in others),
    }


def added_memory(side: str, kind: str, scale: Scale) -> float:
    """MB that the largest step adds to weights and optimiser state; for a process of its own."""
    rows = rows_of(kind, scale)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(side, model_of(kind, scale.words), folder)
        few = collated("ours" if side.startswith("ours") else "dynamic", rows[1:3], rows)
        return rise(trainer, few, collated(side, batches_of(side, kind, rows, scale)[-1], rows))


def rise(trainer: Any, few: Batch, largest: Batch) -> float:
    """MB that the largest step adds to what the process holds after a step on a few rows."""
    step(trainer, few)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    step(trainer, largest)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
    return peak_kb / 1024 - pages * resource.getpagesize() / 2**20


def report(kind: str, scale: Scale, again: Sequence[str]) -> list[str]:
    """Print a row per side; what is not as it should be."""
    seconds, apart = epochs(kind, scale)
    sides = ["grouped", "ours"] if scale is SMALL else list(seconds)
    memory = {side: float(subprocess.check_output([*again, "--memory", side, kind])) for side in sides}
    show(f"{kind}: an epoch of {scale.examples} examples", seconds, memory, apart)
    if kind == "llama" and "trl" not in seconds:
        print("  trl: not installed (pip install 'limbeck[bench]')")
    return [] if equal(apart) else [f"{kind}: loss or gradient differ: the sides do not do the same step"]


def profile(side: str, kind: str, scale: Scale) -> None:
    """Print where the time of a side's largest step goes."""
    rows = rows_of(kind, scale)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(side, model_of(kind, scale.words), folder)
        profiled(trainer, collated(side, batches_of(side, kind, rows, scale)[-1], rows))


def show(title: str, seconds: dict[str, float], memory: dict[str, float], apart: dict[str, float]) -> None:
    """Print a row per side."""
    print(f"{title}; ratios are how many times ours")
    for side in seconds:
        line = f"  {side:16}{seconds[side]:8.1f} s  time ratio {seconds[side] / seconds['ours']:5.2f}"
        if side in memory:
            line += f"   {memory[side]:6.0f} MB added  memory ratio {memory[side] / memory['ours']:5.2f}"
        print(line, flush=True)
    print(f"  apart by: loss {apart['loss']:.0e}, gradient {apart['gradient']:.0e} (relative)")


def equal(apart: dict[str, float]) -> bool:
    """Whether all sides do the same step; see `differences`."""
    return apart["loss"] < 1e-5 and apart["gradient"] < 1e-4


def profiled(trainer: Any, batch: Batch) -> None:
    """Print where the processor time of a step goes."""
    step(trainer, batch)
    with torch.profiler.profile() as found:
        step(trainer, batch)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))


def command(file: str, doc: str, kinds: Sequence[str], report: Any, added_memory: Any, profile: Any) -> int:
    """A benchmark of sides that do the same step, of some kinds of models; () where there is one kind.

    Args:
        report: (kind, scale, command that runs it again) -> what is not as wanted; no kind where kinds is ().
        added_memory, profile: (side, kind, scale), or (side, scale).
    """
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    parser.add_argument("--small", action="store_true", help="a smoke test: few and short examples")
    what = ("SIDE", "KIND") if kinds else ("SIDE",)
    parser.add_argument(
        "--profile", nargs=len(what), metavar=what, help="only print where a step's time goes"
    )
    parser.add_argument("--memory", nargs=len(what), metavar=what, help=argparse.SUPPRESS)
    if kinds:
        parser.add_argument("--kind", choices=kinds, help="one of them alone")
    chosen = parser.parse_args()
    scale = SMALL if chosen.small else WHOLE
    torch.set_num_threads(1)
    if chosen.memory:
        print(added_memory(*chosen.memory, scale))
        return 0
    if chosen.profile:
        profile(*chosen.profile, scale)
        return 0
    again = [sys.executable, file, *(["--small"] if chosen.small else [])]
    if kinds:
        some = [chosen.kind] if chosen.kind else kinds
        missed = [line for kind in some for line in report(kind, scale, again)]
    else:
        missed = report(scale, again)
    print("\n".join(missed), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(command(__file__, __doc__ or "", ("t5", "llama"), report, added_memory, profile))
