"""The tables of docs/scale.md: what models of 7 to 70 billion parameters take on eight devices.

    python -m limbeck.scale
    python -m limbeck.scale --kept
    python -m limbeck.scale FOLDER --devices 4 --memory 24 --rows 4 --length 1024

Bytes of a device, in GB of 10⁹. Replicated (DDP): every device holds everything. Sharded (FSDP2): a device
holds its share of weights, gradients and optimiser, and whole what it gathers (`training.share`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.lm.cost import CHARACTERS_PER_TOKEN, Prices
from limbeck.lm.load import adapted, empty, quiet
from limbeck.lm.settings import LoraSettings
from limbeck.records import Rationale
from limbeck.scale import generation, training
from limbeck.scale.outline import outline
from limbeck.scale.published import CONFIGS, made
from limbeck.scale.stored import soft_label_bytes
from limbeck.scale.training import MicroBatch

RANK = 64
"""Of adapters on all linear layers, with those of experts, of which peft drops no inputs."""

RESERVED = 2_000_000_000
"""Bytes of a device that are left to its driver, its libraries and to fragments."""

MANY, ASKED, WRITTEN, LABELLED = 10_000_000, 150, 100, 100_000_000
"""Rationales, tokens of their prompts and of themselves; soft-labelled tokens."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a model is trained."""

    name: str
    dtype: str
    precision: str
    lora: LoraSettings | None = None


def ways(rank: int = RANK) -> tuple[Way, ...]:
    """The two ways of the table, with adapters of this rank."""
    return (
        Way("LoRA, weights in bfloat16", "bfloat16", "fp32", LoraSettings(r=rank, dropout=0)),
        Way("all weights, in float32 under bf16", "float32", "bf16"),
    )


@dataclass(frozen=True, slots=True)
class Training:
    """Bytes of one device."""

    replicated: int
    sharded: int


def trained(model: Any, way: Way, batch: MicroBatch, devices: int) -> Training:
    """What a training takes of each of several GPUs, with gradient checkpointing.

    Args:
        model: on the meta device; it gets an adapter where the way has one.
        batch: of one device.
    """
    sizes = outline(model)
    if way.lora is not None:
        sizes = outline(model, adapted(model, way.lora, "a model"), way.lora.dropout)
    acts = training.activations(
        sizes, batch, dtype=way.dtype, precision=way.precision, checkpointing=True, device="cuda"
    )
    stays = (
        training.weights(sizes, way.dtype)
        + training.gradients(sizes, way.dtype)
        + training.optimiser(sizes, way.dtype)
    )
    shared = training.share(sizes, acts, devices, dtype=way.dtype, checkpointing=True)
    return Training(stays + acts.total, shared)


@dataclass(frozen=True, slots=True)
class Exam:
    """Bytes of writing in bfloat16: keys and values of all rows; of one device, with rows spread over devices
    that hold all weights, or with weights and heads spread (tensor parallel)."""

    cache: int
    spread: int
    parallel: int


def examined(model: Any, rows: int, prompt: int, new: int, devices: int) -> Exam:
    """What an exam takes of each of several GPUs that write `rows` answers together."""
    sizes, dtype = outline(model), "bfloat16"
    held = generation.cache_bytes(model.config, rows, prompt, new, dtype)
    weights, own = training.weights(sizes, dtype), -(-rows // devices)
    logits = generation.logits_bytes(sizes.vocabulary, own)
    of_own = generation.cache_bytes(model.config, own, prompt, new, dtype)
    both = generation.logits_bytes(sizes.vocabulary, rows) // devices
    return Exam(held, weights + of_own + logits, (weights + held) // devices + both)


def lines(
    names: Sequence[str],
    devices: int,
    memories: Sequence[int],
    rows: int,
    length: int,
    rank: int = RANK,
) -> Iterator[str]:
    """Both tables in Markdown."""
    half = MicroBatch(rows, (length,), rows * length // 2)
    fits = [f"{devices} × {memory} GB" for memory in memories]
    head = f"| training, {rows} × {length} tokens a device | trained | replicated | sharded |"
    yield f"{head} {' | '.join(fits)} |"
    yield f"|---|---|---|---|{'---|' * len(fits)}"
    for name in names:
        for way in ways(rank):
            with quiet():
                model = _made(name)
                count = outline(model).parameters
                found = trained(model, way, half, devices)
            answers = [_which(found, memory) for memory in memories]
            cells = [f"{name}, {count / 1e9:.1f}B", way.name, _gb(found.replicated), _gb(found.sharded)]
            yield f"| {' | '.join(cells + answers)} |"
    yield ""
    yield (
        "| exam, 384 answers at once, 768 + 256 tokens | keys and values of all | rows spread | "
        f"tensor parallel | {' | '.join(fits)} |"
    )
    yield f"|---|---|---|---|{'---|' * len(fits)}"
    for name in names:
        with quiet():
            exam = examined(_made(name), 384, 768, 256, devices)
        answers = [_how(exam, memory) for memory in memories]
        cells = [name, _gb(exam.cache), _gb(exam.spread), _gb(exam.parallel)]
        yield f"| {' | '.join(cells + answers)} |"


def kept() -> Iterator[str]:
    """What many texts and soft labels take on the disk, and what their tokens cost, in Markdown."""
    text = "x" * (WRITTEN * CHARACTERS_PER_TOKEN)
    record = Rationale(
        problem_id="train-00000001",
        source="a teacher",
        index=0,
        completion=text,
        reasoning=text,
        answer="12",
        how="marker",
        correct=True,
    )
    graded = MANY * (len(record.model_dump_json()) + 1)
    prices = Prices(usd_per_million_input=1, usd_per_million_output=1)
    read, wrote = prices.usd(MANY * ASKED, 0), prices.usd(0, MANY * WRITTEN)
    what = f"{MANY // 10**6} million rationales of {WRITTEN} tokens, prompts of {ASKED}"
    money = f"{read:,.0f} × the price of a million input tokens + {wrote:,.0f} × that of output"
    yield "| what | GB | money |"
    yield "|---|---|---|"
    yield f"| {what} | {graded / 1e9:.1f} (`graded.jsonl`) | {money} |"
    for words in (32_000, 152_000):
        count = soft_label_bytes(LABELLED, LABELLED // WRITTEN, words)
        what = f"{LABELLED // 10**6} million soft-labelled tokens in rows of {WRITTEN}, 64 of {words:,} words"
        yield f"| {what} | {count / 1e9:.1f} | – |"


def _made(name: str) -> Any:
    return made(name) if name in CONFIGS else empty(name, weights=False)


def _which(found: Training, memory: int) -> str:
    if _fits(found.replicated, memory):
        return "DDP"
    return "FSDP2" if _fits(found.sharded, memory) else "no"


def _how(found: Exam, memory: int) -> str:
    if _fits(found.spread, memory):
        return "rows spread"
    return "tensor parallel" if _fits(found.parallel, memory) else "no"


def _fits(count: int, memory: int) -> bool:
    return count + RESERVED <= memory * 1_000_000_000


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m limbeck.scale", description="Tables of docs/scale.md.")
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="folders or names; only config.json is read"
    )
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--memory", type=int, action="append", help="GB of a device; may be given often")
    parser.add_argument("--rows", type=int, default=8, help="of a device's micro-batch")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row, half of them a completion")
    parser.add_argument("--rank", type=int, default=RANK, help="of the adapters")
    parser.add_argument("--kept", action="store_true", help="what texts and soft labels take")
    asked = parser.parse_args()
    if asked.kept:
        print("\n".join(kept()))
        return
    names = asked.models or list(CONFIGS)
    found = lines(names, asked.devices, asked.memory or [32, 80], asked.rows, asked.length, asked.rank)
    print("\n".join(found))
