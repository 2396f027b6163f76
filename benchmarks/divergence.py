"""What compressed soft labels cost in accuracy, and what the chunked loss saves in memory.

    python benchmarks/divergence.py [--small]

Accuracy: the divergence of a student from a mentor's compressed distribution against that from the
whole one, over 32,000 tokens, top-k rounded as the cache stores it; the mentor is a sharp Zipf law
per position, the near student has it with a little noise, the far one is flatter and has more. Value
is the share of the full divergence (top-k with a tail is a lower bound), cosine and error compare
the gradients of the logits; error is relative. Besides the tail: the head's part alone, and both
sides renormalised over the head. Random draws from the mentor were measured here too, up to the
commit before they were removed, and lost to top-k: the figures are in docs/log.md.

Memory: forward and backward of 0.7 cross-entropy + 0.3 divergence at τ = 2 from rows of width 256
and an output head of 151,936 rows (151,669 tokens are real). Plain: logits of student and mentor
whole and torch's own losses, as published code has it, over scored tokens only. Ours: the chunked
loss and top-64 soft labels (`loss_memory.py` measures it at other sizes). Each side in a process of
its own: the rise of its largest resident set (VmHWM, Linux) above what it holds with its inputs, the
head's gradient included. Time: processor seconds on one thread, the mentor's part left out on both
sides. Status 1 if ours takes over 0.15 of the memory.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.divergence import divergence
from limbeck.objectives.soft import SoftTargets, full, top_k
from limbeck.objectives.tokens import Term, token_loss

POSITIONS, WORDS = 96, 32_000
FEW_POSITIONS, FEW_TOKENS = 4, 64
"""Of a smoke test."""
TOKENS, WIDTH, ROWS, REAL = 4096, 256, 151_936, 151_669
KL_WEIGHT, TAU, K = 0.3, 2.0, 64
MOST = 0.15
PLAIN_COPIES = 8
"""Tensors of the size of the logits that the plain side holds at its peak, about."""

Loss = Callable[[Tensor, SoftTargets, float], Tensor]


def mentor_logits(draw: torch.Generator, positions: int) -> Tensor:
    """Zipf laws of different sharpness over shuffled tokens."""
    sharpness = 4.0 * torch.exp(0.5 * torch.randn(positions, 1, generator=draw))
    ranks = torch.rand(positions, WORDS, generator=draw).argsort(-1) + 1
    return -sharpness * ranks.log() + 0.5 * torch.randn(positions, WORDS, generator=draw)


def with_tail(logits: Tensor, soft: SoftTargets, tau: float) -> Tensor:
    return token_loss(logits, None, [Term(divergence(soft, tau), torch.ones(()))])[0]


def head_alone(logits: Tensor, soft: SoftTargets, tau: float) -> Tensor:
    log_q = (logits / tau).log_softmax(-1).gather(1, soft.ids_NK)
    return (soft.log_p_NK.exp() * (soft.log_p_NK - log_q)).sum()


def renormalised(logits: Tensor, soft: SoftTargets, tau: float) -> Tensor:
    log_p = soft.log_p_NK.log_softmax(-1)
    log_q = (logits / tau).gather(1, soft.ids_NK).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum()


def stored(mentor: Tensor, tau: float, k: int) -> SoftTargets:
    """Top-k labels in the half precision of the cache."""
    soft = top_k(mentor, tau, WORDS, k)
    return replace(soft, log_p_NK=soft.log_p_NK.half().float())


def measured(loss: Loss, logits: Tensor, soft: SoftTargets, tau: float) -> tuple[float, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, soft, tau)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.item(), gradient


def rows_of(mentor: Tensor, student: Tensor, tau: float) -> dict[str, tuple[float, float, float]]:
    """Per codec: share of the full value, cosine and relative error of the gradient."""
    value, exact = measured(with_tail, student, full(mentor, tau, WORDS), tau)

    def compared(other: float, gradient: Tensor) -> tuple[float, float, float]:
        cosine = functional.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0).item()
        return other / value, cosine, ((gradient - exact).norm() / exact.norm()).item()

    found = {}
    for k in (8, 16, 32, 64, 128):
        found[f"top-{k} + tail"] = compared(*measured(with_tail, student, stored(mentor, tau, k), tau))
    some = stored(mentor, tau, 32)
    found["top-32, no tail"] = compared(*measured(head_alone, student, some, tau))
    found["top-32, renormalised"] = compared(*measured(renormalised, student, some, tau))
    return found


def print_accuracy(positions: int) -> None:
    draw = torch.Generator().manual_seed(0)
    mentor = mentor_logits(draw, positions)
    noise = torch.randn(mentor.shape, generator=draw)
    students = {"near": mentor + 0.5 * noise, "far": 0.6 * mentor + 1.5 * noise}
    likeliest = [(mentor / tau).softmax(-1).amax(-1).median().item() for tau in (1.0, 2.0)]
    print("median probability of the mentor's likeliest token: {:.2f}, at τ = 2 {:.2f}".format(*likeliest))
    columns = {
        f"{name} student, τ = {tau:g}": rows_of(mentor, student, tau)
        for tau in (1.0, 2.0)
        for name, student in students.items()
    }
    print(" " * 22 + "".join(f"{title:>26}" for title in columns))
    print(" " * 22 + f"{'value  cosine  error':>26}" * len(columns))
    for row in next(iter(columns.values())):
        cells = (column[row] for column in columns.values())
        print(f"{row:22}" + "".join(f"{v:12.3f} {c:7.4f} {e:5.3f}" for v, c, e in cells), flush=True)


def inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows and head of student and mentor, and targets; the student is near the mentor."""
    draw = torch.Generator().manual_seed(0)
    mentor_rows, mentor_head = (torch.randn(n, WIDTH, generator=draw) for n in (tokens, ROWS))
    rows = mentor_rows + 0.3 * torch.randn(tokens, WIDTH, generator=draw)
    head = mentor_head.mul_(0.4) + 0.1 * torch.randn(ROWS, WIDTH, generator=draw)
    targets = torch.randint(REAL, (tokens,), generator=draw)
    return rows.requires_grad_(), head.requires_grad_(), mentor_rows, mentor_head, targets


def plain(tokens: int) -> Callable[[], tuple[float, Tensor]]:
    rows, head, mentor_rows, mentor_head, targets = inputs(tokens)

    def work() -> tuple[float, Tensor]:
        mentor = mentor_rows @ mentor_head.T
        start = time.process_time()
        student = rows @ head.T
        ce = functional.cross_entropy(student, targets, reduction="sum")
        kl = functional.kl_div(
            functional.log_softmax(student[:, :REAL] / TAU, -1),
            functional.softmax(mentor[:, :REAL] / TAU, -1),
            reduction="sum",
        )
        ((1 - KL_WEIGHT) * ce + KL_WEIGHT * kl).backward()
        return time.process_time() - start, ce

    return work


def ours(tokens: int) -> Callable[[], tuple[float, Tensor]]:
    rows, head, mentor_rows, mentor_head, targets = inputs(tokens)
    parts = [top_k(some @ mentor_head.T, TAU, REAL, K) for some in mentor_rows.split(64)]
    ids = torch.cat([part.ids_NK for part in parts if part.ids_NK is not None])
    soft = SoftTargets(torch.cat([part.log_p_NK for part in parts]), ids, True, REAL)

    def work() -> tuple[float, Tensor]:
        start = time.process_time()
        terms = [
            Term(cross_entropy(targets), torch.tensor(1 - KL_WEIGHT)),
            Term(divergence(soft, TAU), torch.tensor(KL_WEIGHT)),
        ]
        value, sums = token_loss(rows, head, terms)
        value.backward()
        return time.process_time() - start, sums[0]

    return work


SIDES = {"plain": plain, "ours": ours}


def added_memory(side: str, tokens: int) -> tuple[float, float, float]:
    """MB above the inputs at the peak, seconds, and the cross-entropy; for a process of its own."""
    SIDES[side](8)()
    work = SIDES[side](tokens)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed must not serve for free
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    seconds, ce = work()
    peak_kb = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    return peak_kb / 1024 - pages * resource.getpagesize() / 2**20, seconds, ce.item()


def print_memory(tokens: int) -> bool:
    """Whether both sides did the same and ours is within its share."""
    found = {}
    for side in SIDES:
        command = [sys.executable, __file__, "--side", side, "--tokens", str(tokens)]
        found[side] = [float(value) for value in subprocess.check_output(command).split()]
    (plain_mb, plain_s, plain_ce), (our_mb, our_s, our_ce) = found["plain"], found["ours"]
    print(
        f"{tokens} tokens, {ROWS} logits each: memory {our_mb:.0f} MB of {plain_mb:.0f} MB, "
        f"ratio {our_mb / plain_mb:.3f}; time ratio {our_s / plain_s:.2f}"
    )
    if abs(our_ce / plain_ce - 1) > 1e-5:
        print("the cross-entropies differ: the sides do not do the same step", file=sys.stderr)
        return False
    if our_mb > MOST * plain_mb:
        print(f"the memory ratio is above {MOST}", file=sys.stderr)
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"scored tokens, default {TOKENS}")
    parser.add_argument("--small", action="store_true", help="a smoke test: few positions and tokens")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.side:
        print(*added_memory(chosen.side, chosen.tokens))
        return 0
    if chosen.small:
        chosen.tokens = FEW_TOKENS
    needed = PLAIN_COPIES * chosen.tokens * ROWS * 4 // 1024
    free = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    if needed > free:
        parser.error(
            f"the plain side needs about {needed >> 20} GB and {free >> 20} GB are free; "
            f"give --tokens {chosen.tokens * free // needed // 256 * 256} or fewer"
        )
    print_accuracy(FEW_POSITIONS if chosen.small else POSITIONS)
    return 0 if print_memory(chosen.tokens) else 1


if __name__ == "__main__":
    sys.exit(main())
