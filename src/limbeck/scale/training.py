"""Bytes of a training: weights, gradients, optimiser, and the peak of a step.

    peak = weights + gradients + optimiser + activations

    activations = kept + copies + head + working
    kept        tokens · (linear · bytes + norm · 4) + layers · tokens · seen · (1 + scores · heads) · 4:
                linear and norm are of all layers, and seen are the tokens that a row's attentions look at;
                with gradient checkpointing layers · tokens · hidden · (bytes of a weight), and all that one
                layer keeps
                on a CPU, bf16 computes attention of up to 256 tokens by single operations
                (`training.lowered`), which keep the scores of every head in both types
    copies      under autocast: every matrix once more in 16 bits
    head        a chunk of logits, three blocks of it, rows and their gradients, and the head's own gradient:
                only rows of completions go through the head
    working     three outputs of the widest linear layer; with a base in 4 bits one layer's weights too

It is an estimate from above: a step without accumulation makes its gradients while it lets go of activations,
and where prompts are computed once the prompts of a micro-batch count more than once here. Of the 16 families
of the tests what is kept is 0.95 to 1.25 times what torch keeps (tests/scale/test_training.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from limbeck.objectives.tokens import BLOCK_BYTES, CHUNK_BYTES, OTHER_BLOCK_BYTES, OTHER_CHUNK_BYTES
from limbeck.scale.outline import Outline, Stack
from limbeck.training.lowered import LONGEST

FLOAT32 = 4
BYTES = {"float32": 4, "bfloat16": 2}
"""Of one number."""

BLOCKS = 3
"""Blocks of float32 logits that are worked on at the same time (see `objectives.tokens`)."""

AT_ONCE = 2
"""Layers of a sharded model that are whole at the same time: the one at work, and the one that comes next;
of gradients the one at work, and the one whose gradients are on their way."""

STEP_COUNT = 4
"""Bytes of the count of steps that AdamW keeps for every tensor."""


PACKED = 1 / 2 + 1 / 64 + FLOAT32 / (64 * 256)
"""Bytes of a weight in 4 bits: itself, its block's scale in 8 bits, and the scale of 256 of these."""


def weights(model: Outline, dtype: str, *, packed: bool = False) -> int:
    """Bytes of the weights; an adapter's are always float32 (`lm.load`).

    Args:
        packed: linear layers are kept in 4 bits (`lm.four_bits`).
    """
    plain = model.parameters - (model.packable if packed else 0)
    rest = math.ceil(model.packable * PACKED) if packed else 0
    return plain * BYTES[dtype] + rest + model.adapter * FLOAT32


def trained(model: Outline, dtype: str) -> int:
    """Bytes of the weights that are trained."""
    return model.trained * (FLOAT32 if model.adapter else BYTES[dtype])


def gradients(model: Outline, dtype: str) -> int:
    """Bytes of all gradients: of the type of what is trained."""
    return trained(model, dtype)


def optimiser(model: Outline, dtype: str, kind: Literal["adamw", "sgd"] = "adamw") -> int:
    """Bytes of the optimiser's state: two moments of the weights' type, and a count per tensor; plain
    gradient descent keeps nothing."""
    if kind == "sgd":
        return 0
    return 2 * trained(model, dtype) + STEP_COUNT * model.trained_tensors


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward pass reads.

    Attributes:
        rows: of the batch.
        lengths: padded tokens of a row in each stack: (input,), or (encoder, decoder).
        scored: tokens over all rows of which logits are made.
    """

    rows: int
    lengths: tuple[int, ...]
    scored: int


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes of a step beyond weights, gradients and optimiser; see the top of this file."""

    kept: int
    copies: int
    head: int
    working: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.kept + self.copies + self.head + self.working


def activations(
    model: Outline,
    batch: MicroBatch,
    *,
    dtype: str = "float32",
    precision: str = "fp32",
    checkpointing: bool = False,
    device: str = "cpu",
    packed: bool = False,
) -> Activations:
    """The peak of a step beyond what stays from step to step, in bytes.

    Args:
        batch: the largest micro-batch.
        dtype: of the weights.
        precision: bf16 computes under autocast.
        checkpointing: whether layers are computed again in the backward pass.
        device: its kind; chunks of logits are larger on a GPU.
        packed: linear layers are kept in 4 bits; at most one layer's are whole at a time, while it computes.
    """
    number = 2 if "16" in precision or "16" in dtype else FLOAT32
    adapter = model.lora_16 if "16" in dtype else model.lora
    kept = working = 0
    eager = device == "cpu" and "16" in precision and max(batch.lengths) <= LONGEST
    before = 0  # tokens of the stack before it, which a decoder looks at
    for stack, length in zip(model.stacks, batch.lengths, strict=True):
        tokens = batch.rows * length
        whole = _kept(stack, tokens, length + before, number, eager=eager)
        whole += adapter * tokens // len(model.stacks)
        if checkpointing:
            whole = stack.layers * tokens * stack.hidden * BYTES[dtype] + whole // max(stack.layers, 1)
        kept += whole
        working = max(working, 3 * tokens * stack.widest * number)
        before = length
    cast = model.linear_weights - (model.packable if packed else 0)
    copies = 2 * cast if "16" in precision and dtype == "float32" else 0
    working += max(stack.largest for stack in model.stacks) * number if packed else 0
    return Activations(kept, copies, _head(model, batch.scored, number, device), working)


def share(
    model: Outline,
    acts: Activations,
    devices: int,
    *,
    dtype: str = "float32",
    kind: Literal["adamw", "sgd"] = "adamw",
    checkpointing: bool = False,
) -> int:
    """The peak of a step on one of several devices that share a model (`lm.sharding`), in bytes.

        share = (weights + gradients + optimiser) / devices + adapter + gathered + activations

    gathered is in the weights' type: embeddings and head for a whole pass, two layers, and the gradients of
    two; or, at the end of the backward pass, the gradients of embeddings and head, and what is sent of them.
    An adapter, its gradients and its optimiser's state are whole on every device. With gradient checkpointing
    autocast copies a layer at a time (`training.trainer`).

    Args:
        acts: of one device's micro-batch.
    """
    layer = max(stack.largest for stack in model.stacks)
    ends = 2 * model.vocabulary * model.head_width
    layers = AT_ONCE * layer
    gathered = BYTES[dtype] * (ends + layers if model.adapter else max(ends + 2 * layers, 2 * ends))
    copies = min(acts.copies, 2 * layer) if checkpointing else acts.copies
    state = gradients(model, dtype) + optimiser(model, dtype, kind)
    whole = model.adapter * FLOAT32 + state if model.adapter else 0
    shared = weights(model, dtype) + state - whole
    return -(-shared // devices) + whole + gathered + acts.total - acts.copies + copies


def _kept(stack: Stack, tokens: int, seen: int, number: int, *, eager: bool) -> int:
    """Bytes that the layers keep for the backward pass; `seen`: tokens that a row's attentions look at."""
    pairs = stack.layers * tokens * seen
    scores = stack.heads * (max(stack.scores, 1) * FLOAT32 + number if eager else stack.scores * FLOAT32)
    return tokens * (stack.linear * number + stack.norm * FLOAT32) + pairs * (FLOAT32 + scores)


def _head(model: Outline, scored: int, number: int, device: str) -> int:
    """Bytes of the loss over `scored` tokens; see `objectives.tokens`."""
    rows = scored * model.head_width
    gradient = model.vocabulary * model.head_width * FLOAT32 if model.head_trained else 0
    if not model.plain_head:  # whole logits, their gradient, and a block in float32
        return scored * model.vocabulary * number * 2 + rows * number * 2 + gradient
    logits = scored * model.vocabulary
    chunk = min(CHUNK_BYTES.get(device, OTHER_CHUNK_BYTES), logits * number)
    block = min(BLOCK_BYTES.get(device, OTHER_BLOCK_BYTES), logits * FLOAT32)
    return chunk + BLOCKS * block + rows * number * 2 + gradient
