"""Memory of the data path: the most that each of its steps ever holds, as the number of problems grows.

    python benchmarks/data_path.py           # 1,000, 10,000 and 100,000 problems, two rationales each
    python benchmarks/data_path.py --problems 1000 4000 --steps collecting grading

Coin flips and the offline teacher. Each step of each size is a process of its own, which goes on in the run
folder of the step before; a step that is left out is done by the next one. `more` is what each example more
(rationale, row or what is found for it) takes at the peak, between a size and the one before it; the program
itself is not in it. Seconds are those of the processor, so that only their growth says something. Status 1:
an example takes more than `ALLOWED` bytes, or takes longer where there are more of them.

collecting   the teacher's completions
grading      rationales of them, kept or dropped
selecting    one of each problem, the most diverse
rows         examples of all kept ones, tokenised; their batches for 20 epochs; one epoch of these is read
soft labels  the same, a mentor's soft labels of all rows, and one epoch in which a student reads them
passages     those that each rationale and each question finds among 300, and the examples that hold them
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limbeck.opening import Request, open_context
from limbeck.stages.context import Context

SIZES = (1_000, 10_000, 100_000)
PER_PROBLEM = 2
PASSAGES = 300

ALLOWED = 300
"""Bytes an example: places in files, lengths and hashes, and none of its text."""

SLOWER = 1.25
"""Times as long that an example may take among more of them."""

TEXT = "the coin is heads up after one flip and tails up after another nobody flips it twice"
"""Its words are those of the passages."""

RECIPE = """\
name: data-path
task: {{name: coin-flip, train: {problems}, dev: 20, test: 20, parameters: {{people: 7}}}}
teacher: {{kind: offline, wrong_answer: 0.1, wrong_step: 0.05}}
rationales: {{per_problem: {each}, temperature: 0.7}}
knowledge: {{corpus: {folder}/corpus.jsonl}}
student:
  method: kard
  model: tiny-causal-xs
  train: {{batches: random, batch_tokens: 2000, max_length: 1024}}
"""


def collecting(context: Context) -> int:
    from limbeck.stages.rationales import collected
    from limbeck.stages.writing import completions_of

    return len(completions_of(collected(context, "train")))


def grading(context: Context) -> int:
    from limbeck.stages.rationales import graded_rationales

    return len(graded_rationales(context).all)


def selecting(context: Context) -> int:
    from limbeck.stages.rationales import rationales

    found = rationales(context)
    found.chosen(1, "diverse")
    return len(found.all)


def rows(context: Context) -> int:
    found, feed = _fed(context)
    for item in feed.sampler:
        feed[item]
    return len(found.rows)


def soft_labels(context: Context) -> int:
    from limbeck.lm.tiny import build_model
    from limbeck.soft_labels.cache import Cached
    from limbeck.soft_labels.settings import CodecSettings
    from limbeck.soft_labels.writing import write_cache

    found, feed = _fed(context)
    tokenizer, folder = _tokenizer(context), context.run.folder / "soft-labels"
    mentor, codec = build_model("tiny-causal-xs", tokenizer, 0), CodecSettings(k=4)
    write_cache(
        folder, mentor, found.rows, feed.pad, codec, 1.0, len(tokenizer), {"mentor": "1"}, batch_tokens=2000
    )
    soft = Cached.open([folder], {})
    for item in feed.sampler:
        soft.of(feed[item])
    return len(found.rows)


def passages(context: Context) -> int:
    from limbeck.stages.grounded import grounded_data, reads_passages
    from limbeck.stages.knowledge import knowledge

    data = grounded_data(
        context,
        knowledge(context),
        reads_passages(_student(context)),
        per_problem=PER_PROBLEM,
        choose="first",
        query="rationale",
        most=3,
    )
    return sum(len(group.examples) for group in data.train)


STEPS: dict[str, Callable[[Context], int]] = {
    "collecting": collecting,
    "grading": grading,
    "selecting": selecting,
    "rows": rows,
    "soft labels": soft_labels,
    "passages": passages,
}


def _student(context: Context) -> Any:
    from limbeck.stages.learners import student

    return student(context, "kard", 0, {})


def _tokenizer(context: Context) -> Any:
    from limbeck.lm.tiny import build_tokenizer
    from limbeck.stages.problems import problems

    return build_tokenizer([problem.question for problem in problems(context).train[:200]])


def _fed(context: Context) -> tuple[Any, Any]:
    """The rows of all kept rationales, and what a training of 20 epochs reads of them."""
    from limbeck.stages.rationales import rationale_data, rationales
    from limbeck.stages.training import rendered
    from limbeck.training.collate import padding, tokenise
    from limbeck.training.feed import train_feed
    from limbeck.training.groups import ALL
    from limbeck.training.sampler import Sharing

    learner, tokenizer = _student(context), _tokenizer(context)
    data = rationale_data(context, learner, lambda split: rationales(context, split).chosen(PER_PROBLEM))
    texts = rendered(tokenizer, learner, data.train, encoder_decoder=False)
    folder, most = context.run.folder, learner.settings.train.max_length
    found = tokenise(tokenizer, texts, encoder_decoder=False, max_length=most, folder=folder)
    options: Any = {"draw": ALL, "seed": 1, "pad": padding(tokenizer), "encoder_decoder": False}
    settings = learner.settings.train
    return found, train_feed(found.groups, settings, Sharing(), corrected=True, **options)


def peak() -> int:
    """Bytes of memory that this process had at its peak: resident, as the system counts them."""
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` may be the parent's
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured(step: str, folder: Path) -> None:
    """What a child does."""
    from limbeck.opening import prepare

    began = time.process_time()
    with open_context(folder / "recipe.yaml", (), Request(out=folder / "run")) as (context, chosen):
        prepare(context, chosen, trains=False)
        examples = STEPS[step](context)
    print(json.dumps({"examples": examples, "peak": peak(), "seconds": time.process_time() - began}))


def begin(folder: Path, problems: int) -> None:
    """The recipe and the corpus."""
    written = RECIPE.format(problems=problems, each=PER_PROBLEM, folder=folder)
    (folder / "recipe.yaml").write_text(written)
    words = TEXT.split()
    with (folder / "corpus.jsonl").open("w") as stream:
        for number in range(PASSAGES):
            text = " ".join(words[(number * n) % len(words)] for n in range(1, 40))
            stream.write(json.dumps({"id": str(number), "text": f"{number} {text}"}) + "\n")


def child(step: str, folder: Path) -> dict[str, float]:
    """One step in a process of its own."""
    command = [sys.executable, __file__, "--child", str(folder), "--steps", step]
    # One heap: where each thread has its own, peaks differ by megabytes from run to run.
    heap = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    quiet: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    done = subprocess.run(command, text=True, check=True, env={**os.environ, **heap}, **quiet)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--where", type=Path, help="folder for the runs")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        measured(asked.steps[0], asked.child)
        return 0
    print("problems  step         examples   peak MB   more: bytes an example   seconds  ms an example")
    wrong = False
    last: dict[str, dict[str, float]] = {}
    for problems in asked.problems:
        with tempfile.TemporaryDirectory(dir=asked.where, ignore_cleanup_errors=True) as folder:
            begin(Path(folder), problems)
            for step in asked.steps:
                found = child(step, Path(folder))
                each, more = 1000 * found["seconds"] / found["examples"], "-"
                if before := last.get(step):
                    grown = (found["peak"] - before["peak"]) / (found["examples"] - before["examples"])
                    slower = each > SLOWER * 1000 * before["seconds"] / before["examples"]
                    wrong, more = wrong or grown > ALLOWED or slower, f"{grown:,.0f}"
                print(
                    f"{problems:8,}  {step:11s} {found['examples']:9,} {found['peak'] / 1e6:9.1f} "
                    f"{more:>24s} {found['seconds']:9.1f} {each:14.3f}",
                    flush=True,
                )
                last[step] = found
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
