"""What the loss over tokens costs in memory and time: whole logits against the chunked kernel.

    python benchmarks/loss_memory.py

Forward and backward of the loss alone, in float32, from rows of width 256 and an output head of
151,936 rows, on one thread. Whole: logits at once and torch's own cross-entropy, over scored tokens
only. Ours: the kernel with cross-entropy, and with 0.7 cross-entropy + 0.3 divergence at τ = 2 from
top-64 soft labels.

Memory: the rise of the largest resident set (VmHWM, Linux) of a process of its own above what it holds
with its inputs (rows, head, targets, soft labels), less the head's gradient, which every side must
make. The gradient of the rows, which every side makes too, is part of it and printed. Time: processor
seconds. Where whole logits do not fit into what is free, their side is left out.

Status 1 if ours needs more than 100 MB at any size, or gives another loss than torch.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.divergence import divergence
from limbeck.objectives.soft import SoftTargets, top_k
from limbeck.objectives.tokens import Term, token_loss

TOKENS = (768, 4096, 16_384)
WIDTH, ROWS, K, TAU, KL_WEIGHT = 256, 151_936, 64, 2.0, 0.3
MOST_MB = 100
WHOLE_COPIES = 3
"""Tensors of the size of the logits that the whole side holds at its peak, about."""

Work = Callable[[], Tensor]


def inputs(tokens: int, head_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that enter the head, the head, and targets."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(tokens, WIDTH, generator=draw)
    head = torch.randn(head_rows, WIDTH, generator=draw).mul_(0.2)
    targets = torch.randint(head_rows, (tokens,), generator=draw)
    return rows.requires_grad_(), head.requires_grad_(), targets


def whole(tokens: int, head_rows: int) -> Work:
    rows, head, targets = inputs(tokens, head_rows)
    return lambda: functional.cross_entropy(rows @ head.T, targets, reduction="sum") / tokens


def ours(tokens: int, head_rows: int) -> Work:
    rows, head, targets = inputs(tokens, head_rows)
    term = Term(cross_entropy(targets), torch.tensor(1 / tokens))
    return lambda: token_loss(rows, head, [term])[0]


def ours_with_divergence(tokens: int, head_rows: int) -> Work:
    rows, head, targets = inputs(tokens, head_rows)
    ids, log_p = torch.empty(tokens, K, dtype=torch.int64), torch.empty(tokens, K)
    with torch.no_grad():
        for start in range(0, tokens, 32):  # a mentor near the student
            near = 1.2 * rows[start : start + 32] @ head.T
            soft = top_k(near, TAU, head_rows, K)
            ids[start : start + 32], log_p[start : start + 32] = soft.ids_NK, soft.log_p_NK
    terms = [
        Term(cross_entropy(targets), torch.tensor((1 - KL_WEIGHT) / tokens)),
        Term(divergence(SoftTargets(log_p, ids, True, head_rows), TAU), torch.tensor(KL_WEIGHT / tokens)),
    ]
    return lambda: token_loss(rows, head, terms)[0]


SIDES = {"whole": whole, "ours": ours, "ours with divergence": ours_with_divergence}


def measured(side: str, tokens: int, head_rows: int) -> tuple[float, float, float]:
    """MB above inputs and head gradient at the peak, seconds, and the loss; for a process of its own."""
    SIDES[side](8, head_rows)().backward()
    work = SIDES[side](tokens, head_rows)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed must not serve for free
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    start = time.process_time()
    value = work()
    value.backward()
    seconds = time.process_time() - start
    peak_kb = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    held = pages * resource.getpagesize() + head_rows * WIDTH * 4
    return peak_kb / 1024 - held / 2**20, seconds, value.item()


def free_bytes() -> int:
    return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024


def print_size(tokens: int, head_rows: int) -> bool:
    """Print the ratios at a size; whether ours gives the loss of torch in little memory."""
    found = {}
    for side in SIDES:
        if side == "whole" and WHOLE_COPIES * tokens * head_rows * 4 > free_bytes():
            continue
        command = [
            sys.executable,
            __file__,
            "--side",
            side,
            "--tokens",
            str(tokens),
            "--rows",
            str(head_rows),
        ]
        found[side] = [float(value) for value in subprocess.check_output(command).split()]
    good = all(mb <= MOST_MB for side, (mb, _, _) in found.items() if side != "whole")
    row_mb = tokens * WIDTH * 4 / 2**20
    print(f"{tokens} tokens, {head_rows} logits each; the gradient of the rows has {row_mb:.1f} MB")
    for side, (mb, seconds, _) in found.items():
        line = f"  {side:22}{mb:9.0f} MB {seconds:8.2f} s"
        if side != "whole" and "whole" in found:
            whole_mb, whole_s, _ = found["whole"]
            line += f"   of whole logits: memory {mb / whole_mb:.3f}, time {seconds / whole_s:.2f}"
        print(line, flush=True)
    if "whole" not in found:
        print(f"  whole logits need about {WHOLE_COPIES * tokens * head_rows * 4 >> 30} GB: left out")
    elif abs(found["ours"][2] / found["whole"][2] - 1) > 1e-5:
        print("the losses differ: the sides do not do the same", file=sys.stderr)
        good = False
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--small", action="store_true", help="2,048 logits, for a test that it runs")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, help="scored tokens; default: three sizes")
    parser.add_argument("--rows", type=int, default=ROWS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.side:
        print(*measured(chosen.side, chosen.tokens, chosen.rows))
        return 0
    sizes = [chosen.tokens] if chosen.tokens else [tokens // (16 if chosen.small else 1) for tokens in TOKENS]
    good = [print_size(tokens, 2048 if chosen.small else chosen.rows) for tokens in sizes]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
