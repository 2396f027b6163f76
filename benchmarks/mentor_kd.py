"""The distillation stage of Mentor-KD: the published procedure, a live mentor done well, and ours.

    python benchmarks/mentor_kd.py

All sides train the same student from the same weights on the same examples, next to a mentor whose forward
pass costs about ten times the student's:

    published   the whole set padded to its longest example, the mentor run again at every step,
                whole logits of both, KL averaged over all positions
    dynamic     the same, each batch padded to its own longest example
    grouped     the same, batches of transformers' `group_by_length`: the strongest with a live mentor
    ours        one pass of the mentor into a cache, then training from it, batches by length; the
                pass counts

First table: what 20 epochs cost with embeddings of 32,000 words (T5 and Llama have that many, Qwen
152,000), estimated from one epoch of the other sides, and from the pass and two epochs of ours (start and
saving included). Second table: 20 epochs really trained with the words of the task alone, by `grouped` and
ours, and what the students reach on the same dev problems; every seed of ours pays for a cache of its own.
With so few words a student's step is its layers, which are the same on both sides: with a mentor that costs
ten students, 20 epochs and a backward pass of two forward ones, no cache can be more than
(20·10 + 20·3) / (10 + 20·3) = 3.7 times faster.

Everything happens in this process, in turns, on one thread; processor seconds, so that other work on the
machine does not count. The mentor's own training is not timed. The examples are coin flips of 2 to 12
people; the printed share of real target slots says how much padding the published procedure has here (in the
published data sets it is 14 to 58 %). Status 1 below a ratio of 5 to `grouped` in the first table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import kl_div
from torch.nn.functional import pad as fill
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.trainer_pt_utils import LengthGroupedSampler

from limbeck.exam import examine, student_prompts
from limbeck.lm import Sampling
from limbeck.lm.load import Loaded, load
from limbeck.lm.local import LocalModel
from limbeck.lm.tiny import build_model
from limbeck.objectives.align import IGNORED
from limbeck.records import Example, Problem
from limbeck.soft_labels.cache import Cached
from limbeck.soft_labels.settings import CodecSettings
from limbeck.soft_labels.writing import write_cache
from limbeck.tasks.asking import Asking, teacher_asking
from limbeck.tasks.generated import OfflineTeacher, generate
from limbeck.tasks.prompts import FORMATS
from limbeck.tasks.settings import PromptSettings
from limbeck.training.collate import collate, padding, tokenise
from limbeck.training.groups import singles
from limbeck.training.parts import CrossEntropy, SoftLabelKL
from limbeck.training.rows import Row
from limbeck.training.settings import TrainSettings
from limbeck.training.trainer import train

TASK, FORM = "coin-flip", "plain"
PEOPLE = {2: 20, 3: 24, 4: 20, 5: 14, 6: 8, 7: 4, 8: 4, 10: 3, 12: 3}
"""How long the questions are, per 100: a few long ones, as in every published set."""
LEAST = 5.0
SIDES = ("published", "dynamic", "grouped", "ours")
EPOCHS = 20
TIMED = 2
"""Epochs of ours that are timed: so many, that start and end are no large part."""
RATE, BATCH, LAMBDA, TAU = 1e-3, 8, 0.3, 2.0


def problems_of(split: Any, count: int) -> list[Problem]:
    """Problems of all lengths."""
    shares = {people: max(1, count * share // 100) for people, share in PEOPLE.items()}
    return [
        one for people, some in shares.items() for one in generate(TASK, split, some, seed=0, people=people)
    ]


def examples_of(problems: Sequence[Problem], per_problem: int) -> list[Example]:
    """Correct rationales of the offline teacher."""
    teacher, shape = OfflineTeacher(TASK, 0.0, 0.0, 0), FORMATS[FORM]
    prompts = teacher_asking(PromptSettings(), "yes-no").prompts(problems)
    by_id = {problem.id: problem for problem in problems}
    return [
        Example(
            problem_id=completion.prompt_id,
            prompt=shape.prompt(by_id[completion.prompt_id]),
            completion=completion.text,
        )
        for completion in teacher(prompts, Sampling(per_problem, 0.7))
    ]


def mentor_of(tokenizer: Any, width: int) -> nn.Module:
    """A Llama with about ten times the work of the student per token."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def order_of(side: str, rows: Sequence[Row], draw: torch.Generator) -> list[int]:
    """An epoch's order: random, or that of transformers' grouping by length."""
    if side == "grouped":
        return list(LengthGroupedSampler(BATCH, lengths=[len(r.input_ids) for r in rows], generator=draw))
    return list(torch.randperm(len(rows), generator=draw).tolist())


def live(
    side: str,
    student: nn.Module,
    mentor: nn.Module,
    rows: Sequence[Row],
    pad: int,
    epochs: int,
    seed: int,
) -> None:
    """The loop of the published code, by its description; only padding and order differ between the sides."""
    longest = max(len(row.input_ids) for row in rows) if side == "published" else 0
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.01)
    order = torch.Generator().manual_seed(seed)
    mentor.eval()
    student.train()
    for _ in range(epochs):
        places = order_of(side, rows, order)
        for start in range(0, len(rows), BATCH):
            batch = collate([rows[i] for i in places[start : start + BATCH]], pad)
            ids, mask, labels = (
                filled(batch[name], longest, value)
                for name, value in (("input_ids", pad), ("attention_mask", 0), ("labels", IGNORED))
            )
            inputs = {"input_ids": ids, "attention_mask": mask}
            answer = student(**inputs, labels=labels)
            with torch.no_grad():
                theirs = mentor(**inputs).logits
            divergence = kl_div(
                (answer.logits / TAU).log_softmax(-1).flatten(0, 1),
                (theirs / TAU).softmax(-1).flatten(0, 1),
                reduction="batchmean",
            )
            optimizer.zero_grad()
            ((1 - LAMBDA) * answer.loss + LAMBDA * divergence).backward()
            optimizer.step()


def filled(tensor_BT: torch.Tensor, longest: int, value: int) -> torch.Tensor:
    """Padded on to the longest example of the set, where that is wanted."""
    return fill(tensor_BT, (0, max(0, longest - tensor_BT.shape[1])), value=value)


def ours(
    loaded: Loaded, mentor: nn.Module, examples: Sequence[Example], epochs: int, folder: Path, seed: int
) -> tuple[float, dict[str, Any]]:
    """One pass of the mentor, then training from it: the pass's seconds, and the cache's manifest."""
    start = time.process_time()
    codec, words, pad = CodecSettings(), len(mentor.get_input_embeddings().weight), padding(loaded.tokenizer)
    rows = tokenise(loaded.tokenizer, singles(examples), encoder_decoder=False, max_length=1024).rows
    write_cache(folder / "cache", mentor, rows, pad, codec, TAU, words, {}, batch_tokens=8192)
    seconds = time.process_time() - start
    soft = Cached.open([folder / "cache"], {"temperature": TAU, "codec": codec})
    settings = TrainSettings(
        epochs=epochs, learning_rate=RATE, batch_size=BATCH, batches="by-length", checkpoints=1
    )
    parts = CrossEntropy(1 - LAMBDA), SoftLabelKL(soft, LAMBDA)
    train(loaded.model, loaded.tokenizer, singles(examples), [], parts, settings, folder, seed=seed)
    return seconds, dict(soft.volumes[0].manifest)


def accuracy(loaded: Loaded, problems: Sequence[Problem]) -> float:
    """Greedy accuracy."""
    loaded.model.eval()
    sampling = Sampling(max_tokens=128)
    prompts = student_prompts(loaded, Asking(FORM), problems, sampling.max_tokens)
    _, summary = examine(LocalModel(loaded), problems, "yes-no", prompts, sampling)
    return float(summary["accuracy"])


def forward_seconds(model: nn.Module, rows: Sequence[Row], pad: int) -> float:
    """Processor seconds of forward passes over some of the rows."""
    batches = [collate(rows[start : start + BATCH], pad) for start in range(0, 10 * BATCH, BATCH)]
    model.eval()
    with torch.no_grad():
        for batch in batches[:2]:
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        start = time.process_time()
        for batch in batches:
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return time.process_time() - start


def cost(options: argparse.Namespace, tokenizer: Any, examples: Sequence[Example], folder: Path) -> float:
    """Print what 20 epochs cost each side with many words; the ratio to the strongest other one."""
    pad = padding(tokenizer)
    rows = tokenise(tokenizer, singles(examples), encoder_decoder=False, max_length=1024).rows
    mentor = widened(mentor_of(tokenizer, options.width), options.words)
    students = {side: widened(build_model(options.student, tokenizer, 0), options.words) for side in SIDES}
    ratio = forward_seconds(mentor, rows, pad) / forward_seconds(students["ours"], rows, pad)
    print(f"with {options.words:,} words the mentor's forward pass costs {ratio:.1f} times the student's")
    seconds = {}
    for side, student in students.items():
        start = time.process_time()
        if side == "ours":
            learner = Loaded(student, tokenizer, False, side)
            cached, manifest = ours(learner, mentor, examples, TIMED, folder, 0)
            trained = time.process_time() - start - cached
            seconds[side] = cached + trained / TIMED * EPOCHS
            print(f"ours: {cached:.0f} s for the pass, {trained / TIMED:.0f} s per epoch; ", end="")
            print(f"cache: {manifest['bytes_per_token']} bytes per token, {manifest['tokens']:,} tokens")
        else:
            live(side, student, mentor, rows, pad, 1, 0)
            seconds[side] = (time.process_time() - start) * EPOCHS
    title = f"{EPOCHS} epochs with {options.words:,} words"
    table = Table("side", "processor s", "time ratio", title=title)
    for side in SIDES:
        table.add_row(side, f"{seconds[side]:.0f}", f"{seconds[side] / seconds['ours']:.2f}")
    Console().print(table)
    return seconds["grouped"] / seconds["ours"]


def widened(model: Any, words: int) -> Any:
    """The model with embeddings of so many words, most of which the tokenizer never makes."""
    model.resize_token_embeddings(words, mean_resizing=False)
    return model


def quality(options: argparse.Namespace, tokenizer: Any, examples: Sequence[Example], folder: Path) -> None:
    """Train the mentor, and students of two sides, with the words of the task alone; print it."""
    pad = padding(tokenizer)
    rows = tokenise(tokenizer, singles(examples), encoder_decoder=False, max_length=1024).rows
    dev = problems_of("dev", options.dev)
    mentor = Loaded(mentor_of(tokenizer, options.width), tokenizer, False, "mentor")
    settings = TrainSettings(
        epochs=options.mentor_epochs,
        learning_rate=1e-3,
        batches="by-length",
        schedule="linear",
        warmup=0.05,
        checkpoints=1,
    )
    groups, parts = singles(examples), (CrossEntropy(),)
    train(mentor.model, tokenizer, groups, [], parts, settings, folder / "mentor", seed=0)
    seconds: dict[str, list[float]] = {"grouped": [], "ours": []}
    right: dict[str, list[float]] = {side: [] for side in seconds}
    for seed in range(options.seeds):
        for side in seconds:
            learner = Loaded(build_model(options.student, tokenizer, seed), tokenizer, False, side)
            start = time.process_time()
            if side == "ours":
                ours(learner, mentor.model, examples, options.epochs, folder / f"ours{seed}", seed)
            else:
                live(side, learner.model, mentor.model, rows, pad, options.epochs, seed)
            seconds[side].append(time.process_time() - start)
            right[side].append(accuracy(learner, dev))
    columns = ("side", "processor s", "time ratio", "dev accuracy %", "of each seed")
    table = Table(*columns, title=f"{options.epochs} epochs trained, {len(tokenizer)} words")
    for side, taken in seconds.items():
        each = ", ".join(f"{100 * one:.1f}" for one in right[side])
        mean = sum(right[side]) / len(right[side])
        ratio = sum(taken) / sum(seconds["ours"])
        table.add_row(side, f"{sum(taken):.0f}", f"{ratio:.2f}", f"{100 * mean:.1f}", each)
    Console().print(table)
    print(f"mentor itself on dev: {100 * accuracy(mentor, dev):.1f} %")


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=200, help="training problems, two rationales each")
    parser.add_argument("--words", type=int, default=32_000, help="of the embeddings in the first table")
    parser.add_argument("--dev", type=int, default=300, help="dev problems")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the second table")
    parser.add_argument("--seeds", type=int, default=2, help="students of each side; 0: no second table")
    parser.add_argument("--mentor-epochs", type=int, default=12)
    parser.add_argument("--student", default="tiny-causal-s")
    parser.add_argument("--width", type=int, default=480, help="of the mentor's hidden states")
    options = parser.parse_args()
    torch.set_num_threads(1)

    examples = examples_of(problems_of("train", options.problems), 2)
    texts = [text for example in examples for text in (example.prompt, example.completion)]
    tokenizer = load(options.student, tokenizer_texts=texts, device="cpu").tokenizer
    rows = tokenise(tokenizer, singles(examples), encoder_decoder=False, max_length=1024).rows
    longest = max(len(row.input_ids) for row in rows)
    targets = [sum(label != IGNORED for label in row.labels) for row in rows]
    real = sum(targets) / (max(targets) * len(rows))
    print(f"{len(rows)} examples, longest {longest} tokens, {real:.0%} of padded target slots real")
    with tempfile.TemporaryDirectory() as name:
        ratio = cost(options, tokenizer, examples, Path(name) / "cost")
        if options.seeds:
            quality(options, tokenizer, examples, Path(name))
    print(f"time ratio to grouped with {options.words:,} words: {ratio:.2f}")
    sys.exit(ratio < LEAST)


if __name__ == "__main__":
    main()
