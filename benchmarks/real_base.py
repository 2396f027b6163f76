"""A real base on a CPU: training with LoRA in bfloat16, and an exam, ours and others' of today.

    limbeck bases get smollm2-135m
    python benchmarks/real_base.py [--small] [--only training|exam]

Training: SmolLM2-135M, LoRA of rank 32 on all linear layers, bf16 autocast, 8 examples a step of the lengths
that `step.py` has. `grouped` is `transformers.Trainer` with peft and `group_by_length`; `eager` the same with
`attn_implementation="eager"`, since torch's fused attention is slow in bfloat16 on CPUs; `trl` TRL's
`SFTTrainer` on the same batches (left out without the extra `bench`). In bfloat16 the sides round
differently; how far their losses on the same batch are apart is printed.

Exam: the same model in float32 answers questions of our built-in tasks in its chat format, 128 new tokens at
most. `generate` gets batches of 64 sorted by length, ours is `LocalModel` as an exam calls it.

Wanted: 1.1 times the tokens per second of the faster one of `grouped` and `eager`, 1.3 times those of
`generate`, 99 % of the texts equal; status 1 if one is missed. Processor seconds of one thread, all
sides in this process.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from typing import Any

import exam
import step
import torch

from limbeck.lm.load import Loaded, load
from limbeck.lm.settings import LoraSettings
from limbeck.recipe import check_recipe
from limbeck.tasks.asking import Asking
from limbeck.tasks.sources import load_splits

BASE = "smollm2-135m"
TASKS = ("arithmetic", "last-letters", "coin-flip", "shuffled-objects")


def model_of(name: str) -> Loaded:
    """The base with a new adapter, without dropout."""
    lora = LoraSettings(r=32, alpha=64, dropout=0.0)
    return load(name, tokenizer_texts=["a b c"], lora=lora, trainable=True)


EAGER = "eager"
OTHERS = ("grouped", EAGER)


def model_for(side: str, name: str) -> Any:
    """The model that a side trains."""
    model = model_of(name).model
    if side == EAGER:
        model.set_attn_implementation("eager")
    return model


def training(name: str, steps: int, longest: int) -> float:
    """Print a row per side; how many times as fast as the faster of `OTHERS` ours is."""
    words = model_of(name).model.config.vocab_size
    scale = step.Scale(words, 350, 8, longest)
    rows = step.rows_of("llama", scale)
    sides = [*OTHERS, *(["trl"] if importlib.util.find_spec("trl") else []), "ours"]
    known = {side: "grouped" if side == EAGER else side for side in sides}  # what `step.py` calls it
    batches = {side: step.batches_of(known[side], "llama", rows, scale) for side in sides}
    seconds, real = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            side: step.trainer_of(known[side], model_for(side, name), folder, bf16=True) for side in sides
        }
        shared = batches["ours"][len(batches["ours"]) // 2]
        losses = {side: took(trainers[side], known[side], shared, rows)[1] for side in sides}
        for n in range(steps):
            for side, own in batches.items():
                batch = own[int((n + 0.5) * len(own) / steps)]
                seconds[side] += took(trainers[side], known[side], batch, rows)[0]
                real[side] += sum(len(row.input_ids) for row in batch)
    rates = {side: real[side] / seconds[side] for side in sides}
    print(f"training {name} with LoRA in bf16, {steps} steps of {scale.per_step} examples")
    for side in sides:
        print(
            f"  {side:10}{rates[side]:7.0f} tokens/s, ours {rates['ours'] / rates[side]:5.2f} times as fast, "
            f"loss apart by {abs(losses[side] / losses['grouped'] - 1):.0e}",
            flush=True,
        )
    return rates["ours"] / max(rates[side] for side in OTHERS)


def took(trainer: Any, side: str, batch: Any, rows: Any) -> tuple[float, float]:
    seconds, loss, _ = step.step(trainer, step.collated(side, batch, rows))
    return seconds, loss


def questions(loaded: Loaded, count: int) -> list[str]:
    """Chat prompts of built-in tasks."""
    how = Asking("chat" if loaded.tokenizer.chat_template else "plain")
    texts = []
    for task in TASKS:
        body = {"name": "bench", "task": {"name": task, "test": count // len(TASKS)}}
        recipe = check_recipe(body, "bench", trains=False)
        asked = load_splits(recipe.task, 0).test
        texts += [how.text(loaded.tokenizer, how.pieces(problem)) for problem in asked]
    return texts


def examination(name: str, count: int) -> tuple[float, float]:
    """Print what came out: how many times faster than `generate` ours is, and the share of equal texts."""
    loaded = load(name, tokenizer_texts=["a b c"])
    loaded.model.eval()
    texts = questions(loaded, count)
    done, rate = {}, {}
    for side in (exam.sorted_64, exam.ours):
        side(loaded, texts[:2])  # the first call sets things up
        start = time.process_time()
        done[side] = side(loaded, texts)
        rate[side] = sum(length for _, length in done[side]) / (time.process_time() - start)
    same = sum(a == b for a, b in zip(done[exam.sorted_64], done[exam.ours], strict=True)) / len(texts)
    lengths = sorted(length for _, length in done[exam.ours])
    ratio = rate[exam.ours] / rate[exam.sorted_64]
    print(
        f"exam of {name} in float32, {len(texts)} questions, outputs of {lengths[0]} to {lengths[-1]} "
        f"tokens, median {lengths[len(lengths) // 2]}\n"
        f"  generate  {rate[exam.sorted_64]:7.0f} tokens/s, ours {ratio:5.2f} times as fast, "
        f"{same:.1%} of the texts equal",
        flush=True,
    )
    return ratio, same


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a smoke test: a tiny model, few steps")
    parser.add_argument("--only", choices=("training", "exam"), help="one of the two alone")
    chosen = parser.parse_args()
    small = chosen.small
    torch.set_num_threads(1)
    name = "tiny-causal-xs" if small else BASE
    reached = []
    if chosen.only != "exam":
        reached.append(training(name, 2 if small else 6, 64 if small else 256) >= 1.1)
    if chosen.only != "training":
        ratio, same = examination(name, 8 if small else 64)
        reached.append(ratio >= 1.3 and same >= 0.99)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
