"""What a tokenised example costs in resident memory: rows, batches, an epoch's order, keys of soft labels.

    python benchmarks/rows.py --rows 1000 10000 100000

Each size in a process of its own. It tokenises examples that are made one by one, so no texts are held; makes
the feed of a training of 20 epochs with batches by length, corrected, in which the limit of tokens cuts; goes
through an epoch's order and its first ten batches; and asks which rows a store of soft labels lacks. Held:
resident memory (VmRSS, Linux) behind that. Peak: the largest one (VmHWM) on the way. Both less what the same
process held after a first round with 200 examples. The last columns are what each further example adds, by
the size before.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.lm.tiny import build_tokenizer
from limbeck.records import Example
from limbeck.soft_labels.cache import missing
from limbeck.training.collate import tokenise
from limbeck.training.feed import Feed, train_feed
from limbeck.training.groups import ALL, Group
from limbeck.training.sampler import Sharing
from limbeck.training.settings import TrainSettings

TEXT = "Mia has three red pens and buys four more at the market so she now holds seven of them"
WORDS = TEXT.split()
WARM = 200
"""Examples of the first round, which loads what is loaded once."""


def groups_of(count: int) -> Iterator[Group]:
    """Groups of one example, of 166 tokens on average."""
    for number in range(count):
        words = [WORDS[(number + n) % len(WORDS)] for n in range(80 + number % 167)]
        prompt, completion = " ".join(words[:60]), " ".join(words[60:])
        yield Group(
            str(number),
            (Example(problem_id=str(number), prompt=prompt, completion=f"{number} {completion}"),),
        )


def held(count: int, tokenizer: Any, folder: Path) -> tuple[Feed, float, float]:
    """All that a training holds of so many examples, seconds of tokenising, and tokens of an example."""
    begun = time.process_time()
    found = tokenise(tokenizer, groups_of(count), encoder_decoder=False, max_length=1024, folder=folder)
    seconds = time.process_time() - begun
    wanted = {"batches": "by-length", "max_length": 1024, "batch_tokens": 2000, "epochs": 20}
    settings = TrainSettings.model_validate(wanted)
    options: Any = {"draw": ALL, "seed": 1, "pad": 0, "encoder_decoder": False, "corrected": True}
    feed = train_feed(found.groups, settings, Sharing(), **options)
    order = iter(feed.sampler)
    for item in islice(order, 10):
        feed[item]
    assert sum(len(groups) for _, groups in order) > 0
    assert len(missing([], found.rows)) == count
    return feed, seconds, float(np.mean(found.rows.lengths[:, 0]))


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024


def measured(count: int) -> None:
    """Print bytes held and at the peak, seconds and tokens; for a process of its own."""
    tokenizer = build_tokenizer([TEXT] * 9)
    with tempfile.TemporaryDirectory() as name:
        held(WARM, tokenizer, Path(name))
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed must not serve for free
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        kept = held(count, tokenizer, Path(name))
        peak = status("VmHWM") - before
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        print(status("VmRSS") - before, peak, *kept[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="sizes")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measured(asked.one)
        return
    print("examples  tokens each  held MB  peak MB  µs of tokenising each  bytes each, held   peak")
    before = (0, 0.0, 0.0)
    for count in asked.rows:
        out = subprocess.check_output([sys.executable, __file__, "--one", str(count)], text=True)
        kept, peak, seconds, tokens = map(float, out.split())
        more, micro = count - before[0], seconds / count * 1e6
        print(
            f"{count:8d} {tokens:12.0f} {kept / 2**20:8.1f} {peak / 2**20:8.1f} {micro:22.0f} "
            f"{(kept - before[1]) / more:17.0f} {(peak - before[2]) / more:6.0f}",
            flush=True,
        )
        before = (count, kept, peak)


if __name__ == "__main__":
    main()
