"""A training step of tailored learning: ours, the published procedure, and what a good engineer would write.

    python benchmarks/tailored.py [--small] [--profile SIDE] [--device cuda]

A toy Llama of `step.py` with 32,000 words; 240 right rationales, each with another one of its question and a
mistake, 8 of them a step. Questions have about 70 tokens, rationales and mistakes about 100, and in front of
every question stand the same demonstrations of 350 tokens. Loss: cross-entropy of the right rationale, its
prompt weighing .1, + 0.5 · max(0, cos(a, n) − cos(a, p) + 1) of last states. The sides:

    published        one forward of prompt and rationale; the prompt again, without gradient, into a cache;
                     three forwards behind copies of it, of rationale, other rationale and mistake; logits
                     everywhere. The mathematics is put right: masks and positions, a mean by the weights,
                     mistakes with their own ending. No gradient goes through the cached prompt, as published.
                     Batches are random, whatever the lengths, each of different questions, as published
    plain            `transformers.Trainer`: the three rows of 8 groups in one forward, padded to the longest,
                     grouped by the library's `group_by_length`; logits everywhere
    plain-by-length  the same in the batches of `ours`
    ours-separate    ours, every row with its own prompt
    ours             ours, a prompt once for its three rows (`train.share_prompts`), batches by length (no
                     correction weights: a token weighs as in `plain`)
    ours-bare        the same without the demonstrations: another training, for students that need none

Given the same groups each must make the same loss, and all but `published` and `ours-bare` the same gradient.

Time and memory are measured as in `step.py`: processor seconds of one thread, sides in turns, an epoch
estimated from steps at even ranks of what a side pads; memory in a process for each side. Ratios are how many
times ours.

With a GPU (`--device cuda`; never run on one): the Llama of 1.1 billion weights of `step.py`, timed as there.

The ratios of `ours` are not those of every recipe. recipes/tailored.yaml has `gradient_checkpointing: true`,
with which prompts are not shared: its step is that of `ours-separate`, with a second forward.
real/tailored.yaml shows demonstrations to its student `from-shots` alone, and tailored/committee.yaml to
nobody: their other students are like `ours-bare`.

Wanted: 5 times our time for `published`, 1.5 for `plain`. Status 1 if one is missed, or if a side makes
another loss or gradient.
"""

from __future__ import annotations

import copy
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import step
import torch
from step import SMALL, WHOLE, Scale, model_of
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, relu
from transformers import DynamicCache, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from limbeck.training.collate import Batch, collate
from limbeck.training.feed import Feed
from limbeck.training.parts import CrossEntropy, Triplet
from limbeck.training.rows import Row
from limbeck.training.sampler import GroupSampler, Limits
from limbeck.training.trainer import PartsTrainer

SIDES = ["published", "plain", "plain-by-length", "ours-separate", "ours", "ours-bare"]
ROLES = ("anchor", "positive", "negative")
PROMPT_WEIGHT, WEIGHT, MARGIN = 0.1, 0.5, 1.0
WANTED = {"published": 5.0, "plain": 1.5}
"""How many times our time a side should take."""

Three = tuple[Row, Row, Row]
"""Anchor, positive and negative of a group."""


def groups_of(scale: Scale, *, bare: bool = False) -> list[Three]:
    """The groups; `bare`: without demonstrations."""
    draw = random.Random(0)
    share = scale.longest / WHOLE.longest

    def tokens(count: float) -> list[int]:
        return [draw.randrange(3, scale.words) for _ in range(max(3, int(count * share)))]

    shown = tokens(350)
    groups = []
    for number in range(min(scale.examples, 240)):
        question = tokens(68 * draw.lognormvariate(0, 0.25))
        prompt = question if bare else shown + question
        about = 90 * draw.lognormvariate(0, 0.4)
        rows = []
        for role in ROLES:
            ending = [*tokens(min(190.0, about * draw.lognormvariate(0, 0.25))), 1]
            ids = prompt + ending
            weights = [PROMPT_WEIGHT] * len(prompt) + [1.0] * len(ending)
            scored = role == "anchor"
            rows.append(Row(str(number), ids, ids, weights, scored, role, prompt=len(prompt)))
        groups.append((rows[0], rows[1], rows[2]))
    return groups


def batches_of(side: str, groups: Sequence[Three], scale: Scale) -> list[list[Three]]:
    """An epoch of a side's batches, the one that pads most at the end."""
    longest = [max(len(row.input_ids) for row in group) for group in groups]
    if side.startswith("ours") or side == "plain-by-length":
        sizes, limits = np.array([(3, one) for one in longest]), Limits(scale.per_step, 1 << 20)
        order = [list(batch) for _, batch in GroupSampler(sizes, limits, seed=0, batches="by-length")]
    else:
        draw = torch.Generator().manual_seed(0)
        if side == "published":  # every group is another question
            taken = torch.randperm(len(groups), generator=draw).tolist()
        else:
            taken = list(LengthGroupedSampler(scale.per_step, lengths=longest, generator=draw))
        order = [taken[n : n + scale.per_step] for n in range(0, len(taken), scale.per_step)]
    found = [[groups[n] for n in batch] for batch in order]
    return sorted(found, key=lambda batch: len(batch) * max(len(row.input_ids) for g in batch for row in g))


def collated(side: str, batch: Sequence[Three]) -> Batch:
    """What a side's model is given; what its loss needs besides is found here, outside of the time taken."""
    rows = [row for group in batch for row in group]
    if side.startswith("ours"):
        shared = None if side == "ours-separate" else [row.prompt_ids(encoder_decoder=False) for row in rows]
        return collate(rows, 0, groups=[n // 3 for n in range(len(rows))], prompts=shared)
    if side == "published":
        return {
            "anchors": weighted([anchor for anchor, _, _ in batch]),
            "prompts": left([row.input_ids[: row.prompt] for row, _, _ in batch]),
            "endings": [right([group[n].input_ids[group[n].prompt :] for group in batch]) for n in range(3)],
        }
    return weighted(rows)


def weighted(rows: Sequence[Row]) -> Batch:
    """Rows padded on the right, with the weight of each token; rows that are not scored weigh nothing."""
    batch = right([row.input_ids for row in rows])
    weights = [[(one if row.scored else 0.0) for one in row.weights or []] for row in rows]
    width = batch["input_ids"].shape[1]
    return {**batch, "weights": torch.tensor([own + [0.0] * (width - len(own)) for own in weights])}


def right(ids: Sequence[Sequence[int]]) -> Batch:
    most = max(map(len, ids))
    return {
        "input_ids": torch.tensor([[*own, *[0] * (most - len(own))] for own in ids]),
        "attention_mask": torch.tensor([[1] * len(own) + [0] * (most - len(own)) for own in ids]),
    }


def left(ids: Sequence[Sequence[int]]) -> Batch:
    most = max(map(len, ids))
    return {
        "input_ids": torch.tensor([[*[0] * (most - len(own)), *own] for own in ids]),
        "attention_mask": torch.tensor([[0] * (most - len(own)) + [1] * len(own) for own in ids]),
    }


def published(model: Any, inputs: Batch) -> Tensor:
    """One forward for the cross-entropy, one for the prompt, three behind it."""
    anchors = inputs["anchors"]
    given = {name: anchors[name] for name in ("input_ids", "attention_mask")}
    hard = by_weight(model(**given, use_cache=False).logits, anchors)
    prompt = inputs["prompts"]
    mask = prompt["attention_mask"]
    with torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config)
        model(**prompt, position_ids=positions, past_key_values=cache, use_cache=True)
    states = []
    for ending in inputs["endings"]:
        own = ending["attention_mask"]
        behind = mask.sum(1, keepdim=True) + torch.arange(own.shape[1], device=own.device)
        output = model(
            input_ids=ending["input_ids"],
            attention_mask=torch.cat([mask, own], 1),
            position_ids=behind,
            past_key_values=copy.deepcopy(cache),
            use_cache=True,
            output_hidden_states=True,
        )
        states.append(last_of(output.hidden_states[-1], own))
    return hard + WEIGHT * triplets(*states)


def plain(model: Any, inputs: Batch) -> Tensor:
    """One forward of all rows."""
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    output = model(**given, use_cache=False, output_hidden_states=True)
    states = last_of(output.hidden_states[-1], inputs["attention_mask"])
    return by_weight(output.logits, inputs) + WEIGHT * triplets(states[0::3], states[1::3], states[2::3])


def last_of(states: Tensor, mask: Tensor) -> Tensor:
    """The state of each row's last token."""
    return states[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1]


def by_weight(logits: Tensor, inputs: Batch) -> Tensor:
    """Cross-entropy of the next token, a mean by the weights."""
    weights = inputs["weights"][:, 1:].flatten()
    each = cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), inputs["input_ids"][:, 1:].flatten(), reduction="none"
    )
    return torch.dot(each, weights) / weights.sum()


def triplets(anchors: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    to_negative, to_positive = (cosine_similarity(anchors, other, dim=-1) for other in (negatives, positives))
    return relu(to_negative - to_positive + MARGIN).mean()


class TripletTrainer(Trainer):  # type: ignore[misc]
    """The library's trainer with a loss of three rows."""

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Of one batch, which is a whole step here."""
        return published(model, inputs) if "anchors" in inputs else plain(model, inputs)


def trainer_of(side: str, scale: Scale, folder: str) -> Any:
    """A trainer of any side, with a learning rate of 0: every step begins from the same weights."""
    model = model_of("llama", scale)
    args = TrainingArguments(**step.arguments_of(folder, model))
    trainer: Any
    if side.startswith("ours"):
        feed = Feed([], GroupSampler(np.array([[1, 1]]), Limits(1, 1), seed=0), 0, False)
        trainer = PartsTrainer(model, args, (CrossEntropy(), Triplet(WEIGHT, MARGIN)), feed)
    else:
        trainer = TripletTrainer(model=model, args=args)
    return step.ready(trainer)


def data_of(side: str, scale: Scale) -> list[list[Three]]:
    return batches_of(side, groups_of(scale, bare=side == "ours-bare"), scale)


def epochs(scale: Scale) -> tuple[dict[str, float], dict[str, float]]:
    """Processor seconds of an epoch on each side; and how far apart losses and gradients are, relatively."""
    batches = {side: data_of(side, scale) for side in SIDES}
    seconds = dict.fromkeys(SIDES, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {side: trainer_of(side, scale, folder) for side in SIDES}
        shared = batches["ours"][len(batches["ours"]) // 2]
        given = {side: collated(side, shared) for side in SIDES if side not in ("published", "ours-bare")}
        apart = step.differences(trainers, given, "plain")
        losses = [step.step(trainers[side], collated(side, shared))[1] for side in ("published", "plain")]
        apart["loss"] = max(apart["loss"], abs(losses[0] / losses[1] - 1))
        for n in range(step.STEPS):
            for side, own in batches.items():
                batch = step.some_of(own, step.STEPS)[n]
                taken = step.step(trainers[side], collated(side, batch))[0]
                seconds[side] += taken * len(own) / step.STEPS
    return seconds, apart


def on_gpu(scale: Scale) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """See `step.one_by_one`."""
    batches = {side: data_of(side, scale) for side in SIDES}
    shared = batches["ours"][len(batches["ours"]) // 2]
    with tempfile.TemporaryDirectory() as folder:
        return step.one_by_one(
            lambda side: trainer_of(side, scale, folder),
            {side: [collated(side, batch) for batch in own] for side, own in batches.items()},
            {side: collated(side, shared) for side in SIDES if side != "ours-bare"},
            "plain",
            loss_only=["published"],
        )


def added_memory(side: str, scale: Scale) -> float:
    """MB that the largest step adds to weights and optimiser state; for a process of its own."""
    batches = data_of(side, scale)
    few = [min((group for batch in batches for group in batch), key=lambda group: len(group[0].input_ids))]
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(side, scale, folder)
        return step.rise(trainer, collated(side, few), collated(side, batches[-1]))


def report(scale: Scale, again: Sequence[str]) -> list[str]:
    """Print a row per side; what is not as wanted."""
    if scale.device == "cuda":
        seconds, memory, apart = on_gpu(scale)
    else:
        seconds, apart = epochs(scale)
        sides = ["plain", "ours"] if scale is SMALL else SIDES
        memory = {side: float(subprocess.check_output([*again, "--memory", side])) for side in sides}
    step.show(f"llama: an epoch of {len(groups_of(scale))} groups", seconds, memory, apart, scale)
    missed = [
        f"{side} takes {seconds[side] / seconds['ours']:.2f} times our time, not {least:g}"
        for side, least in WANTED.items()
        if seconds[side] < least * seconds["ours"]
    ]
    if not step.equal(apart, scale):
        missed.append("loss or gradient differ: the sides do not do the same step")
    return missed


def profile(side: str, scale: Scale) -> None:
    """Print where the processor time of the step in the middle of an epoch goes."""
    batches = data_of(side, scale)
    batch = collated(side, batches[len(batches) // 2])
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(side, scale, folder)
        step.profiled(trainer, batch)


if __name__ == "__main__":
    sys.exit(step.command(__file__, __doc__ or "", (), report, added_memory, profile))
