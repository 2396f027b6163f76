"""An epoch of training steps: ours, the published procedure, and what a good engineer would run today.

    python benchmarks/step.py [--small] [--device cuda [--peak-tflops N]]

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

With a GPU (`--device cuda`; written without one and never run on one): a random Llama of 1.1 billion weights
in bf16 autocast, 32 examples a step. Sides come one after the other, each with its own model and optimiser
(the same weights), since two of them do not fit 80 GB beside a step. Time is that of the clock, between two
moments at which the GPU has done all it was given; every step that is timed is run once before. Memory is the
peak of what torch has allocated in the largest step, above what it holds before. `trl` is as its users have
it, which recomputes every layer; `trl-kept` does not, and neither do the others.

    tokens/s     real tokens, prompts too, without padding
    utilisation  operations that a model needs for them, over the time and what the GPU could do
                 (`--peak-tflops`; 989 is an H100's dense bf16): 6 per token and weight but the input
                 embeddings, and causal attention. What a side does besides (padding, layers again) does not
                 count. The head of prompts does, though `ours` and `trl` leave it out: 2 % of all here, in
                 their favour

Wanted there: 50 % for `ours`, which is said and not judged.

Status 1 if a side makes another loss or gradient.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
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
STEPS_ON_GPU = 12
"""The same on a GPU; the whole epoch where it has no more of them."""
H100 = 989.0
"""TFLOP/s of its dense matrices in bf16."""
FP32, BF16 = (1e-5, 1e-4), (1e-4, 3e-2)
"""How far losses and gradients may be apart, relatively. A number in bf16 has 8 bits, so sides that pad or
multiply in another order round differently. With a Llama of 22 layers, 256 wide, in bf16 on a CPU, sides
of `step.py`, `mcc_kd.py` and `tailored.py` were up to 5e-6 and 6e-3 apart. A wrong step is further: without
one of its 16 examples 4e-4 and 2e-1, without 5 of its 1,485 tokens 5e-5 and 5e-2: the gradient tells."""


@dataclass(frozen=True)
class Scale:
    """How large a benchmark is, and where it runs.

    Args:
        words: of the vocabulary.
        per_step: examples in a step.
        longest: tokens of the longest target.
        llama: a key of `LLAMAS`.
        peak: TFLOP/s that the device could do.
    """

    words: int
    examples: int
    per_step: int
    longest: int
    device: str = "cpu"
    llama: str = "toy"
    peak: float = H100


WHOLE, SMALL = Scale(32_000, 350, 8, 512), Scale(500, 20, 2, 64)
ON_GPU = replace(WHOLE, device="cuda", llama="1b")
LLAMAS = {
    "toy": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "max_position_embeddings": 1024,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
    },
}
FILL = {"input_ids": 0, "attention_mask": 0, "labels": -100}


def sides_of(kind: str, scale: Scale) -> list[str]:
    """The sides that can train such a model here; the last one is ours."""
    trl = ["trl"] if kind == "llama" and importlib.util.find_spec("trl") else []
    if trl and scale.device == "cuda":
        trl.append("trl-kept")
    both = ["grouped-both"] if kind == "t5" else []
    return ["published", "dynamic", "grouped", *both, *trl, "ours-random", "ours"]


def model_of(kind: str, scale: Scale) -> nn.Module:
    """About 15 (T5) and 20 million weights, or a large Llama; always the same ones, without dropout."""
    torch.manual_seed(0)
    with torch.device(scale.device):
        if kind == "llama":
            return LlamaForCausalLM(LlamaConfig(vocab_size=scale.words, **LLAMAS[scale.llama]))
        config = T5Config(
            vocab_size=scale.words,
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
    given = {**arguments_of(folder, model), **more}
    if side.startswith("trl"):
        as_it_is = model.device.type == "cuda" and side == "trl"
        trainer = trl_trainer(model, given if as_it_is else {**given, "activation_checkpointing": False})
    elif side.startswith("ours"):
        both = model.config.is_encoder_decoder
        feed = Feed([], GroupSampler(np.array([[1, 1]]), Limits(1, 1), seed=0), 0, both)
        trainer = PartsTrainer(model, TrainingArguments(**given), (CrossEntropy(),), feed)
    else:
        trainer = Trainer(model=model, args=TrainingArguments(**given))
    return ready(trainer)


def ready(trainer: Any) -> Any:
    """What `train` does before the first step: recomputing, autocast around the model, the optimiser."""
    if trainer.args.activation_checkpointing:
        trainer.model.activation_checkpointing_enable()
    if trainer.args.bf16:
        trainer.model = trainer.accelerator.prepare_model(trainer.model)
    trainer.create_optimizer()
    return trainer


def arguments_of(folder: str, model: Any) -> dict[str, Any]:
    """Of any trainer here; where the model lies says on what it trains."""
    on_gpu = model.device.type == "cuda"
    return {
        "output_dir": folder,
        "learning_rate": 0.0,
        "weight_decay": 0.0,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


def trl_trainer(model: nn.Module, given: dict[str, Any]) -> Any:
    """TRL's; it wants data and a tokenizer, which the steps do not use."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from limbeck.lm.tiny import build_tokenizer

    args = SFTConfig(**given)
    rows = Dataset.from_dict({"input_ids": [[3, 4]], "labels": [[3, 4]]})
    return SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=build_tokenizer(["a b"]))


def step(trainer: Any, batch: Batch, look: bool = False) -> tuple[float, float, Tensor | None]:
    """One optimiser step: its seconds, loss and, to `look` at, gradient (copied while the clock stands)."""
    device = trainer.args.device
    start = now(device)
    batches, counts = trainer.get_batch_samples(iter([batch]), 1, device)
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(trainer.model, batches[0], counts)
    gradient, paused = None, 0.0
    if look:
        stopped = now(device)
        # To the host: a large model's gradients would take from the GPU what the next side's step needs.
        gradient = torch.cat([p.grad.flatten().cpu() for p in trainer.model.parameters()])
        paused = now(device) - stopped
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.model.zero_grad()
    return now(device) - start - paused, loss.item(), gradient


def now(device: torch.device) -> float:
    """Seconds: of this processor, or of the clock when the GPU has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def some_of(batches: Sequence[Any], count: int) -> list[Any]:
    """Batches at even ranks."""
    return [batches[int((n + 0.5) * len(batches) / count)] for n in range(count)]


def epochs(kind: str, scale: Scale) -> tuple[dict[str, float], dict[str, float]]:
    """Processor seconds of an epoch on each side; and how far apart losses and gradients are, relatively."""
    rows, sides = rows_of(kind, scale), sides_of(kind, scale)
    batches = {side: batches_of(side, kind, rows, scale) for side in sides}
    seconds = dict.fromkeys(sides, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {side: trainer_of(side, model_of(kind, scale), folder) for side in sides}
        shared = batches["ours"][len(batches["ours"]) // 2]
        apart = differences(trainers, {side: collated(side, shared, rows) for side in sides}, "dynamic")
        for n in range(STEPS):
            for side, own in batches.items():
                batch = some_of(own, STEPS)[n]
                taken = step(trainers[side], collated(side, batch, rows))[0]
                seconds[side] += taken * len(own) / STEPS
    return seconds, apart


def differences(trainers: dict[str, Any], given: dict[str, Batch], reference: str) -> dict[str, float]:
    """Largest relative distance of the sides' losses and gradients from those of one side.

    Args:
        given: the same examples, as each side takes them.
    """
    done = {side: step(trainers[side], batch, look=True)[1:] for side, batch in given.items()}
    return largest_of(distance(own, done[reference]) for own in done.values())


def distance(own: tuple[float, Tensor | None], expected: tuple[float, Tensor | None]) -> dict[str, float]:
    """How far a loss and a gradient are from others, relatively; without a gradient, the loss alone."""
    (value, other), (loss, gradient) = own, expected
    found = {"loss": abs(value / loss - 1)}
    if other is not None and gradient is not None:
        apart, whole = (vector_norm(of, dtype=torch.float64) for of in (other - gradient, gradient))
        found["gradient"] = (apart / whole).item()  # a billion squares do not add up in float32
    return found


def largest_of(apart: Iterable[dict[str, float]]) -> dict[str, float]:
    """The largest of each; where one is not a number, that."""
    each = list(apart)
    return {name: float(np.max([own.get(name, 0.0) for own in each])) for name in ("loss", "gradient")}


def one_by_one(
    make: Callable[[str], Any],
    batches: dict[str, list[Batch]],
    given: dict[str, Batch],
    reference: str,
    loss_only: Collection[str] = (),
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """On a GPU: seconds of an epoch, MB added, and how far apart losses and gradients are.

    Args:
        make: (side) -> its trainer, on a model that no other side has: TRL changes the one that it is given.
        batches: an epoch of each side, the one that pads most at the end.
        given: the same examples, as each side takes them; none of a side that takes others.
        loss_only: sides with another gradient.
    """
    seconds, memory = dict.fromkeys(batches, 0.0), dict.fromkeys(batches, 0.0)
    apart = []
    expected: tuple[float, Tensor | None] = (0.0, None)
    for side in sorted(batches, key=lambda side: side != reference):  # the reference first
        trainer, own = make(side), batches[side]
        if side in given:
            done = step(trainer, given[side], look=side not in loss_only)[1:]
            expected = done if side == reference else expected
            apart.append(distance(done, expected))
        memory[side] = rise(trainer, own[0], own[-1])
        timed = some_of(own, min(STEPS_ON_GPU, len(own)))
        for batch in timed:  # every shape once: kernels are chosen and memory is found
            step(trainer, batch)
        seconds[side] = sum(step(trainer, batch)[0] for batch in timed) * len(own) / len(timed)
        del trainer
        gc.collect()  # a model and the autocast around it hold each other
        torch.cuda.empty_cache()
    return seconds, memory, largest_of(apart)


def added_memory(side: str, kind: str, scale: Scale) -> float:
    """MB that the largest step adds to weights and optimiser state; for a process of its own."""
    rows = rows_of(kind, scale)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(side, model_of(kind, scale), folder)
        few = collated("ours" if side.startswith("ours") else "dynamic", rows[1:3], rows)
        return rise(trainer, few, collated(side, batches_of(side, kind, rows, scale)[-1], rows))


def rise(trainer: Any, few: Batch, largest: Batch) -> float:
    """MB that the largest step adds to what the process, or a GPU, holds after a step on a few rows."""
    step(trainer, few)
    if trainer.args.device.type == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(trainer, largest)
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    step(trainer, largest)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
    return peak_kb / 1024 - pages * resource.getpagesize() / 2**20


def on_gpu(kind: str, scale: Scale) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """See `one_by_one`."""
    rows, sides = rows_of(kind, scale), sides_of(kind, scale)
    batches = {side: batches_of(side, kind, rows, scale) for side in sides}
    shared = batches["ours"][len(batches["ours"]) // 2]
    with tempfile.TemporaryDirectory() as folder:
        return one_by_one(
            lambda side: trainer_of(side, model_of(kind, scale), folder),
            {side: [collated(side, batch, rows) for batch in own] for side, own in batches.items()},
            {side: collated(side, shared, rows) for side in sides},
            "dynamic",
        )


def report(kind: str, scale: Scale, again: Sequence[str]) -> list[str]:
    """Print a row per side; what is not as it should be."""
    if scale.device == "cuda":
        seconds, memory, apart = on_gpu(kind, scale)
    else:
        seconds, apart = epochs(kind, scale)
        sides = ["grouped", "ours"] if scale is SMALL else list(seconds)
        memory = {side: float(subprocess.check_output([*again, "--memory", side, kind])) for side in sides}
    show(f"{kind}: an epoch of {scale.examples} examples", seconds, memory, apart, scale)
    if scale.device == "cuda":
        show_use(seconds, rows_of(kind, scale), scale)
    if kind == "llama" and "trl" not in seconds:
        print("  trl: not installed (pip install 'limbeck[bench]')")
    if not equal(apart, scale):
        return [f"{kind}: loss or gradient differ: the sides do not do the same step"]
    return []


def profile(side: str, kind: str, scale: Scale) -> None:
    """Print where the time of a side's largest step goes."""
    rows = rows_of(kind, scale)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(side, model_of(kind, scale), folder)
        profiled(trainer, collated(side, batches_of(side, kind, rows, scale)[-1], rows))


def show(
    title: str, seconds: dict[str, float], memory: dict[str, float], apart: dict[str, float], scale: Scale
) -> None:
    """Print a row per side."""
    print(f"{title}; ratios are how many times ours")
    for side in seconds:
        taken = seconds[side]
        line = f"  {side:16}" + (f"{taken:8.1f} s" if scale.device == "cpu" else f"{1000 * taken:7.0f} ms")
        line += f"  time ratio {taken / seconds['ours']:5.2f}"
        if side in memory:
            line += f"   {memory[side]:6.0f} MB added  memory ratio {memory[side] / memory['ours']:5.2f}"
        print(line, flush=True)
    print(f"  apart by: loss {apart['loss']:.0e}, gradient {apart['gradient']:.0e} (relative)")


def show_use(seconds: dict[str, float], rows: Sequence[Row], scale: Scale) -> None:
    """Print what each side makes of a GPU, from its seconds of an epoch."""
    tokens, work = sum(len(row.input_ids) for row in rows), operations(rows, scale)
    for side, taken in seconds.items():
        print(
            f"  {side:16}{tokens / taken:10.0f} tokens/s  utilisation {work / taken / scale.peak / 1e12:6.1%}"
            f" of {scale.peak:g} TFLOP/s"
        )


def operations(rows: Sequence[Row], scale: Scale) -> float:
    """Of forward and backward of a Llama on rows without padding."""
    model: Any = model_of("llama", replace(scale, device="meta"))
    weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    per_pair = 6 * model.config.num_hidden_layers * model.config.hidden_size  # 12, of which half is masked
    lengths = [len(row.input_ids) for row in rows]
    return 6.0 * weights * sum(lengths) + per_pair * sum(length**2 for length in lengths)


def equal(apart: dict[str, float], scale: Scale) -> bool:
    """Whether all sides do the same step; see `differences`."""
    loss, gradient = FP32 if scale.device == "cpu" else BF16
    return apart["loss"] < loss and apart["gradient"] < gradient


def profiled(trainer: Any, batch: Batch) -> None:
    """Print where the time of a step goes, the processor's or the GPU's."""
    step(trainer, batch)
    with torch.profiler.profile() as found:
        step(trainer, batch)
    by = "self_device_time_total" if trainer.args.device.type == "cuda" else "self_cpu_time_total"
    print(found.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=40))


def command(
    file: str,
    doc: str,
    kinds: Sequence[str],
    report: Any,
    added_memory: Any,
    profile: Any,
    large: Scale = ON_GPU,
) -> int:
    """A benchmark of sides that do the same step, of some kinds of models; () where there is one kind.

    Args:
        report: (kind, scale, command that runs it again) -> what is not as wanted; no kind where kinds is ().
        added_memory, profile: (side, kind, scale), or (side, scale).
        large: on a GPU; of a kind that is no Llama there is none.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    parser.add_argument("--small", action="store_true", help="a smoke test: few and short examples")
    what = ("SIDE", "KIND") if kinds else ("SIDE",)
    parser.add_argument(
        "--profile", nargs=len(what), metavar=what, help="only print where a step's time goes"
    )
    parser.add_argument("--memory", nargs=len(what), metavar=what, help=argparse.SUPPRESS)
    add_device(parser)
    if kinds:
        parser.add_argument("--kind", choices=kinds, help="one of them alone")
        parser.add_argument(
            "--peak-tflops", type=float, default=H100, help="what the GPU could do (989, an H100's)"
        )
    chosen = parser.parse_args()
    scale = SMALL if chosen.small else WHOLE
    if chosen.device == "cuda":
        own = kinds_on_gpu(parser, chosen.kind if kinds else None)
        scale = replace(SMALL, device="cuda") if chosen.small else large
        if kinds:
            kinds, scale = own, replace(scale, peak=chosen.peak_tflops)
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


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: a large Llama in bf16"
    )


def kinds_on_gpu(parser: argparse.ArgumentParser, kind: str | None) -> list[str]:
    """What runs there; ends the program for another kind, or where there is not one GPU."""
    if kind == "t5":
        parser.error("--device cuda: a T5 of that size is not made here; leave out --kind t5")
    if torch.cuda.device_count() != 1:
        parser.error(
            f"--device cuda: torch sees {torch.cuda.device_count()} GPUs here, and this needs exactly one "
            "(of several, CUDA_VISIBLE_DEVICES chooses)"
        )
    print(torch.cuda.get_device_name())
    return ["llama"]


if __name__ == "__main__":
    large = replace(ON_GPU, per_step=32)
    sys.exit(command(__file__, __doc__ or "", ("t5", "llama"), report, added_memory, profile, large))
