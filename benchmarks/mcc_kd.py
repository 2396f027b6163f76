"""A training step of MCC-KD: ours, the published procedure, and what a good engineer would write today.

    python benchmarks/mcc_kd.py [--small] [--kind t5|llama] [--profile SIDE KIND] [--device cuda]

Toy T5 and Llama of `step.py` with 32,000 words; 350 questions with two rationales each, 8 questions a step.
Lengths are log-normal with the means and spreads of the published SVAMP rationales: questions of 39 tokens,
rationales of 98, which differ more within a question than between questions. The answer is 1 to 4 tokens
before the end of sequence. Loss: cross-entropy of both rationales + 0.1 · two-way KL of their answers at
τ = 1.3. The sides:

    published         every sequence padded to 512 tokens (T5: questions and rationales), one forward for
                      the first rationales and one for the second, logits everywhere, the answers' logits
                      copied example by example into buffers. The mathematics is put right: labels shifted
                      and masked, one temperature on both sides, log-softmax
    plain             `transformers.Trainer`: padded to the longest of a batch, questions grouped by the
                      library's `group_by_length` (T5: sum of both lengths), both rationales of a question
                      in one forward, logits everywhere, the answers' rows gathered from them at once
    plain-by-length   the same in the batches of `ours`
    ours-random       ours, random batches
    ours              ours, batches by length (no correction weights: a token weighs as in `plain`)

All sides weigh a token as one over the step's tokens and a pair as one over its pairs. Given the same
questions, each must make the same loss and the same gradient.

Time and memory are measured as in `step.py`: processor seconds of one thread, sides in turns, an epoch
estimated from steps at even ranks of what a side pads (two steps of `published`, whose steps all cost the
same); memory in a process for each side. Ratios are how many times ours.

With a GPU (`--device cuda`; never run on one): the Llama of 1.1 billion weights of `step.py`, timed as there.
Tokens count as in `step.py` too, both rationales with their prompts.

Wanted: against `published` time 4 and memory 3; against `plain` time 1.5 (Llama) and 1.3 (T5). Status 1 if
one is missed, or if a side makes another loss or gradient.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import step
import torch
from step import SMALL, Scale, model_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, pad
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from limbeck.training.collate import Batch, collate
from limbeck.training.feed import Feed, lengths_of
from limbeck.training.parts import CrossEntropy, SpanKL
from limbeck.training.rows import Row
from limbeck.training.sampler import GroupSampler, Limits
from limbeck.training.trainer import PartsTrainer

SIDES = ["published", "plain", "plain-by-length", "ours-random", "ours"]
WEIGHT, TEMPERATURE = 0.1, 1.3
WANTED = {"t5": {"published": 4.0, "plain": 1.3}, "llama": {"published": 4.0, "plain": 1.5}}
"""How many times our time each side should take."""
WANTED_MEMORY = 3.0
"""How many times our memory the published procedure should take."""

Pair = tuple[Row, Row]
"""Two rationales of a question."""


def pairs_of(kind: str, scale: Scale) -> list[Pair]:
    """The questions; whole rows never exceed the longest of the scale."""
    draw = random.Random(0)

    def tokens(count: float, least: int, most: int) -> list[int]:
        return [draw.randrange(3, scale.words) for _ in range(max(least, min(most, int(count))))]

    pairs = []
    for number in range(scale.examples):
        prompt = tokens(38 * draw.lognormvariate(0, 0.25), 4, scale.longest // 2)
        answer = tokens(draw.randint(1, 4), 1, 4)
        about = 78 * draw.lognormvariate(0, 0.45)
        rows = []
        for _ in range(2):
            room = scale.longest - len(prompt) - len(answer) - 1
            thoughts = tokens(about * draw.lognormvariate(0, 0.6) - len(answer) - 1, 4, room)
            before = [] if kind == "t5" else [-100] * len(prompt)
            labels = [*before, *thoughts, *answer, 1]
            inputs = prompt if kind == "t5" else [*prompt, *thoughts, *answer, 1]
            span = (len(labels) - 1 - len(answer), len(labels) - 1)
            rows.append(Row(str(number), inputs, labels, span=span))
        pairs.append((rows[0], rows[1]))
    return pairs


def batches_of(side: str, kind: str, pairs: Sequence[Pair], scale: Scale) -> list[list[Pair]]:
    """An epoch of a side's batches, the one that pads most at the end."""
    both = kind == "t5"
    longest = [tuple(map(max, *(lengths_of(row, encoder_decoder=both) for row in pair))) for pair in pairs]
    if side in ("ours", "plain-by-length"):
        limits = Limits(scale.per_step, 1 << 20)
        sampler = GroupSampler(np.array([(2, *own) for own in longest]), limits, seed=0, batches="by-length")
        order = [list(batch) for _, batch in sampler]
    else:
        draw = torch.Generator().manual_seed(0)
        taken = (
            list(LengthGroupedSampler(scale.per_step, lengths=[*map(sum, longest)], generator=draw))
            if side == "plain"
            else torch.randperm(len(pairs), generator=draw).tolist()
        )
        order = [taken[n : n + scale.per_step] for n in range(0, len(taken), scale.per_step)]

    def padded(batch: Sequence[int]) -> int:
        return len(batch) * sum(map(max, zip(*(longest[n] for n in batch), strict=True)))

    return [[pairs[n] for n in batch] for batch in sorted(order, key=padded)]


def collated(side: str, kind: str, batch: Sequence[Pair], scale: Scale) -> Batch:
    """What a side's model is given; where the answers are is found here, outside of the time taken."""
    rows = [row for pair in batch for row in pair]
    if side.startswith("ours"):
        return collate(rows, 0, groups=[n // 2 for n in range(len(rows))])
    if side == "published":
        return {"first": fixed(rows[0::2], kind, scale), "second": fixed(rows[1::2], kind, scale)}
    inputs = step.short(rows)
    width = inputs["labels"].shape[1]
    places = [[n * width + place for place in predictors(row, kind)] for n, row in enumerate(rows)]
    weights = [1 / len(own) / len(batch) for own in places[0::2] for _ in own]
    first, second = ([place for own in places[n::2] for place in own] for n in (0, 1))
    return {**inputs, "places": torch.tensor(first + second), "weights": torch.tensor(weights)}


def predictors(row: Row, kind: str) -> range:
    """Positions of the logits that predict the answer."""
    shift = 0 if kind == "t5" else 1
    return range(row.span[0] - shift, row.span[1] - shift)


def fixed(rows: Sequence[Row], kind: str, scale: Scale) -> Batch:
    """Padded to the longest of the scale; `targets` are the labels where their logits are."""
    padded = {
        name: pad(tensor, (0, scale.longest - tensor.shape[1]), value=step.FILL[name])
        for name, tensor in step.short(rows).items()
    }
    labels = padded["labels"]
    targets = labels if kind == "t5" else pad(labels[:, 1:], (0, 1), value=-100)
    return {**padded, "targets": targets, "predictors": [predictors(row, kind) for row in rows]}


def published(model: Any, inputs: Batch) -> Tensor:
    """Two forwards, logits of 512 positions each, buffers of answers."""
    sides = [inputs["first"], inputs["second"]]
    logits = [logits_of(model, side) for side in sides]
    targets = [side["targets"].flatten() for side in sides]
    count = sum((own != -100).sum() for own in targets)
    hard = [
        cross_entropy(z.flatten(0, 1).float(), own, reduction="sum")
        for z, own in zip(logits, targets, strict=True)
    ]
    lengths = [len(own) for own in sides[0]["predictors"]]
    buffers = []
    for z, side in zip(logits, sides, strict=True):
        buffer = torch.zeros(len(lengths), max(lengths), z.shape[-1], device=z.device)
        for n, own in enumerate(side["predictors"]):
            buffer[n, : len(own)] = z[n, own.start : own.stop]
        buffers.append(buffer)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    weights = (mask / mask.sum(1, keepdim=True) / len(lengths)).to(count.device)
    return (hard[0] + hard[1]) / count + WEIGHT * (two_way(*buffers) * weights).sum()


def logits_of(model: Any, inputs: Batch) -> Tensor:
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=inputs["labels"])
    logits: Tensor = model(**given, use_cache=False).logits
    return logits


def plain(model: Any, inputs: Batch) -> Tensor:
    """The library's own loss in one forward, and the answers' rows of its logits."""
    output = model(**{name: inputs[name] for name in step.FILL}, use_cache=False)
    first, second = output.logits.flatten(0, 1)[inputs["places"]].chunk(2)
    loss: Tensor = output.loss + WEIGHT * torch.dot(two_way(first, second), inputs["weights"])
    return loss


def two_way(first: Tensor, second: Tensor) -> Tensor:
    """½ [KL(p ‖ q) + KL(q ‖ p)] of each token."""
    log_p, log_q = (log_softmax(z.float() / TEMPERATURE, -1) for z in (first, second))
    forth = kl_div(log_q, log_p, reduction="none", log_target=True)
    back = kl_div(log_p, log_q, reduction="none", log_target=True)
    return (forth + back).sum(-1) / 2


class PairTrainer(Trainer):  # type: ignore[misc]
    """The library's trainer with a loss of pairs."""

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Of one batch, which is a whole step here."""
        return published(model, inputs) if "first" in inputs else plain(model, inputs)


def trainer_of(side: str, kind: str, scale: Scale, folder: str) -> Any:
    """A trainer of any side, with a learning rate of 0: every step begins from the same weights."""
    model = model_of(kind, scale)
    args = TrainingArguments(**step.arguments_of(folder, model))
    trainer: Any
    if side.startswith("ours"):
        feed = Feed([], GroupSampler(np.array([[1, 1]]), Limits(1, 1), seed=0), 0, kind == "t5")
        trainer = PartsTrainer(model, args, (CrossEntropy(), SpanKL(WEIGHT, TEMPERATURE)), feed)
    else:
        trainer = PairTrainer(model=model, args=args)
    return step.ready(trainer)


def epochs(kind: str, scale: Scale) -> tuple[dict[str, float], dict[str, float]]:
    """Processor seconds of an epoch on each side; and how far apart losses and gradients are, relatively."""
    pairs = pairs_of(kind, scale)
    batches = {side: batches_of(side, kind, pairs, scale) for side in SIDES}
    seconds = dict.fromkeys(SIDES, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {side: trainer_of(side, kind, scale, folder) for side in SIDES}
        shared = batches["ours"][len(batches["ours"]) // 2]
        given = {side: collated(side, kind, shared, scale) for side in SIDES}
        apart = step.differences(trainers, given, "plain")
        for n in range(step.STEPS):
            for side, own in batches.items():
                times = 2 if side == "published" else step.STEPS
                if n >= times:
                    continue
                batch = step.some_of(own, times)[n]
                taken = step.step(trainers[side], collated(side, kind, batch, scale))[0]
                seconds[side] += taken * len(own) / times
    return seconds, apart


def on_gpu(kind: str, scale: Scale) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """See `step.one_by_one`."""
    pairs = pairs_of(kind, scale)
    batches = {side: batches_of(side, kind, pairs, scale) for side in SIDES}
    shared = batches["ours"][len(batches["ours"]) // 2]
    with tempfile.TemporaryDirectory() as folder:
        return step.one_by_one(
            lambda side: trainer_of(side, kind, scale, folder),
            {side: [collated(side, kind, batch, scale) for batch in own] for side, own in batches.items()},
            {side: collated(side, kind, shared, scale) for side in SIDES},
            "plain",
        )


def added_memory(side: str, kind: str, scale: Scale) -> float:
    """MB that the largest step adds to weights and optimiser state; for a process of its own."""
    pairs = pairs_of(kind, scale)
    largest = batches_of(side, kind, pairs, scale)[-1]
    few = [min(pairs, key=lambda pair: len(pair[0].labels) + len(pair[1].labels))]
    first = collated("ours" if side.startswith("ours") else "plain", kind, few, scale)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(side, kind, scale, folder)
        return step.rise(trainer, first, collated(side, kind, largest, scale))


def report(kind: str, scale: Scale, again: Sequence[str]) -> list[str]:
    """Print a row per side; what is not as wanted."""
    if scale.device == "cuda":
        seconds, memory, apart = on_gpu(kind, scale)
    else:
        seconds, apart = epochs(kind, scale)
        sides = ["plain", "ours"] if scale is SMALL else SIDES
        memory = {side: float(subprocess.check_output([*again, "--memory", side, kind])) for side in sides}
    step.show(f"{kind}: an epoch of {scale.examples} pairs", seconds, memory, apart, scale)
    if scale.device == "cuda":
        step.show_use(seconds, [row for pair in pairs_of(kind, scale) for row in pair], scale)
    missed = [
        f"{kind}: {side} takes {seconds[side] / seconds['ours']:.2f} times our time, not {least:g}"
        for side, least in WANTED[kind].items()
        if seconds[side] < least * seconds["ours"]
    ]
    if memory.get("published", torch.inf) < WANTED_MEMORY * memory["ours"]:
        missed.append(f"{kind}: published does not take {WANTED_MEMORY:g} times our memory")
    if not step.equal(apart, scale):
        missed.append(f"{kind}: loss or gradient differ: the sides do not do the same step")
    return missed


def profile(side: str, kind: str, scale: Scale) -> None:
    """Print where the processor time of the step in the middle of an epoch goes."""
    batches = batches_of(side, kind, pairs_of(kind, scale), scale)
    batch = collated(side, kind, batches[len(batches) // 2], scale)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(side, kind, scale, folder)
        step.profiled(trainer, batch)


if __name__ == "__main__":
    sys.exit(step.command(__file__, __doc__ or "", ("t5", "llama"), report, added_memory, profile))
