"""Short trainings of one model in float32 and in bfloat16: which is faster, and whether both learn the same.

Steps of full size are timed first, on texts as long as rationales are. Where bfloat16 is faster, the model
takes `STEPS` small steps from the same weights in each, on questions of the task.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device

from limbeck.errors import RecipeError
from limbeck.lm.load import load
from limbeck.recipe import LearnerSettings
from limbeck.records import Example, Problem
from limbeck.training.collate import Batch, collate, tokenise
from limbeck.training.groups import Group
from limbeck.training.rows import Row
from limbeck.training.timed_step import Step, timed_step

STEPS = 50
"""Steps of a short training."""
WARMUP = 25
"""The first of them, in which the learning rate rises. Their losses do not count: without a warm-up, Adam's
first steps turn a rounding into a step of the full learning rate; and adapters learn a little later in
bfloat16, which is made up for by then."""
ROWS = 2
"""Questions in one of them."""
CLOSE = 1e-2
"""Largest relative difference of the mean losses at which both learn the same. Single steps differ more."""
DISTURBED = 3
"""Further trainings in float32, where the difference is larger than that: if one of them differs as much from
the first, then such a difference says nothing of bfloat16."""
DISTURBANCE = 1e-4
"""By how much of themselves their weights begin elsewhere; bfloat16 rounds by up to 4e-3."""
TIMED = 4
"""Steps of the training's own size that are timed in each precision, in turns, after one that is not."""
FASTER = 0.9
"""Largest share of float32's time at which bfloat16 is worth it; the fastest step counts, which other work
on the machine disturbs least."""
LONGEST = 600
"""Characters of a question that are used."""
AS_RATIONALES = 500
"""Characters of the texts that are timed, about those of a question with a rationale: in float32 and in
bfloat16 the work that each text adds differs most, and a question alone is too short to show it."""
PRECISIONS = ("fp32", "bf16")


def tried(learner: LearnerSettings, asked: Sequence[Problem]) -> dict[str, Any]:
    """What both were found to do.

    Returns:
        `precision`: fp32 or bf16. `seconds` of a step in each. Where bfloat16 is faster, `difference`: of its
        mean loss from that of float32, as a share of it; where that is large, `disturbed`: the same of
        float32 from slightly other weights, until one is as large.
    """
    trial = _begun(learner, asked[: STEPS * ROWS])
    seconds = trial.seconds()
    if seconds["bf16"] > FASTER * seconds["fp32"]:
        return {"precision": "fp32", "seconds": seconds}
    reference = trial.loss("fp32")
    difference = abs(trial.loss("bf16") / reference - 1)
    found: dict[str, Any] = {"seconds": seconds, "difference": difference}
    if math.isfinite(difference) and difference > CLOSE:
        found["disturbed"] = []
        while len(found["disturbed"]) < DISTURBED and max(found["disturbed"], default=0) < difference:
            other = trial.loss("fp32", disturbed=1 + len(found["disturbed"]))
            found["disturbed"].append(abs(other / reference - 1))
    same = difference <= max(CLOSE, *found.get("disturbed", [0]))  # false for a loss of nan
    return found | {"precision": "bf16" if same else "fp32"}


@dataclass(frozen=True)
class _Trial:
    """A model that takes steps in both precisions, again and again from where it began.

    It holds one optimiser for all, which may be as large as the model.
    """

    begin: Sequence[torch.Tensor]
    optimizer: torch.optim.Optimizer
    steps: Mapping[str, Step]
    small: Sequence[Batch]
    full: Sequence[Batch]
    rate: float

    def seconds(self) -> dict[str, float]:
        """Of the fastest full step in each precision."""
        times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        for batch in self.full:
            for precision, step in self.steps.items():
                times[precision].append(step([batch])[1])
        return {precision: min(some[1:]) for precision, some in times.items()}

    def loss(self, precision: str, *, disturbed: int = 0) -> float:
        """Mean loss of the small steps after the warm-up.

        Args:
            disturbed: if not 0, the seed of what the weights are disturbed by.
        """
        self._begin_again(disturbed)
        losses = []
        for number, batch in enumerate(self.small, start=1):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * min(1.0, number / WARMUP)
            losses.append(self.steps[precision]([batch])[0])
        return statistics.mean(losses[WARMUP:] or losses)

    def _begin_again(self, disturbed: int) -> None:
        random = torch.Generator().manual_seed(disturbed)
        trained = [one for group in self.optimizer.param_groups for one in group["params"]]
        with torch.no_grad():
            for one, value in zip(trained, self.begin, strict=True):
                noise = DISTURBANCE * torch.randn(value.shape, generator=random) if disturbed else 0.0
                one.copy_(value * (1 + noise))
        self.optimizer.state.clear()


def _begun(learner: LearnerSettings, asked: Sequence[Problem]) -> _Trial:
    """Load the model and make the batches.

    A full step keeps to the training's `batch_tokens`, and is one row where the training recomputes
    activations, which this does not. Next to that it holds a copy of the trained weights, on the CPU.
    """
    loaded = load(
        learner.model,
        tokenizer_texts=["Question:", *(problem.question for problem in asked)],
        lora=learner.lora,
        layers=learner.layers,
        dtype=learner.dtype,
        device=learner.device,
        whole=True,
    )
    model, both = loaded.model.eval(), loaded.encoder_decoder  # dropout would not be the same in both
    form: Any = {"encoder_decoder": both, "max_length": learner.train.max_length}
    short = tokenise(loaded.tokenizer, [_group(problem) for problem in asked], **form).rows
    try:
        full = tokenise(loaded.tokenizer, _long(asked), **form).rows
    except RecipeError:  # none of these fits into `max_length`, and what is trained may
        full = short
    longest = max(len(row.input_ids) + both * len(row.labels) for row in [*short, *full])
    size = min(learner.train.batch_size, max(1, learner.train.batch_tokens // longest))
    size = 1 if learner.train.gradient_checkpointing else size

    def batches(rows: Sequence[Row], count: int, size: int) -> list[Batch]:
        taken = [[rows[(step * size + n) % len(rows)] for n in range(size)] for step in range(count)]
        return [send_to_device(collate(one, loaded.tokenizer.pad_token_id), model.device) for one in taken]

    trained = [one for one in model.parameters() if one.requires_grad]
    kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[learner.train.optimizer]
    optimizer = kind(trained, lr=learner.train.learning_rate)
    return _Trial(
        begin=[one.detach().cpu().clone() for one in trained],
        optimizer=optimizer,
        steps={one: timed_step(model, optimizer, one, encoder_decoder=both) for one in PRECISIONS},
        small=batches(short, STEPS, min(ROWS, size)),
        full=batches(full, 1 + TIMED, size),
        rate=learner.train.learning_rate,
    )


def _group(problem: Problem) -> Group:
    """A question's last three quarters as something to write: every task has questions."""
    text = f"Question: {problem.question[:LONGEST]}"  # so that the shortest one has a beginning
    begun = max(len("Question:"), len(text) // 4)
    return Group(problem.id, (Example(problem_id=problem.id, prompt=text[:begun], completion=text[begun:]),))


def _long(asked: Sequence[Problem]) -> list[Group]:
    """Texts of `AS_RATIONALES` characters: each question with those after it."""
    found = []
    for number, problem in enumerate(asked):
        text = "Question:"
        for other in range(len(asked)):
            text += f" {asked[(number + other) % len(asked)].question}"
            if len(text) >= AS_RATIONALES:
                break
        example = Example(problem_id=problem.id, prompt="Question:", completion=text[9:AS_RATIONALES])
        found.append(Group(problem.id, (example,)))
    return found
