"""Every benchmark runs through at its smallest size; the numbers that it prints are not judged here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
BENCHMARKS = sorted(path.stem for path in FOLDER.glob("*.py"))

SMALLEST = {
    "batches": "--small",
    "data_path": "--problems 60 120",
    "divergence": "--small",
    "exam": "--prompts 16",
    "kard": "--small",
    "knowledge": "--passages 300 --queries 10",
    "leaks": "--learned 1000 --examined 200",
    "loss_memory": "--small",
    "mcc_kd": "--small --kind llama",
    "mentor_kd": "--problems 10 --dev 10 --epochs 1 --mentor-epochs 1 --seeds 1 --width 32"
    " --student tiny-causal-xs",
    "real_base": "--small",
    "rerank": "--small --questions 20 --train 20 --epochs 1 --rows late,late-128-trained,bi-trained",
    "retrieval": "--small",
    "rows": "--rows 300 600",
    "shared_prompts": "--small --padded --kind llama",
    "step": "--small --kind t5",
    "tailored": "--small",
}
"""Flags of each benchmark that make it a smoke test of seconds; of two kinds of models one is enough."""

SAID = {
    "batches": ["by length, corrected", "seconds  ratio"],
    "data_path": [
        "more: bytes an example",
        "120  grading           240 ",
        "120  soft labels",
        "120  passages",
    ],
    "divergence": ["top-64 + tail", "64 tokens, 151936 logits each: memory"],
    "exam": ["causal: ", "seq2seq: ", "identical outputs: "],
    "kard": ["questions    ours", "the same ranking of 2 of 2", "train   2 rationales", "apart"],
    "knowledge": ["300 passages", "30 million", "questions    ours", "rationales   ours"],
    "leaks": ["stories", "flips"],
    "loss_memory": ["1024 tokens, 2048 logits each", "ours with divergence"],
    "mcc_kd": ["llama: an epoch", "plain-by-length", "memory ratio  1.00", "apart by: loss"],
    "mentor_kd": ["published", "dynamic", "grouped", "ours", "time ratio to grouped with", "bytes per token"],
    "real_base": ["grouped", "ours    ", "of the texts equal"],
    "retrieval": ["generated: stop words", "en_plus, english, lucene", "question  ", "rationale, once"],
    "rows": ["bytes each, held", "     600 "],
    "shared_prompts": [
        "llama demonstrations",
        "memory ratio",
        "auto on",
        "apart by: loss",
    ],
    "rerank": ["20 questions with 20 rationales", "to BM25", "late-128-trained", "bi-trained"],
    "step": ["t5: an epoch", "grouped-both", "memory ratio  1.00"],
    "tailored": ["llama: an epoch", "published", "ours-bare", "memory ratio  1.00", "apart by: loss"],
}
"""Words that a benchmark prints when it came to its end."""


def test_every_benchmark_is_run_here() -> None:
    assert set(BENCHMARKS) <= set(SMALLEST), "give the new benchmark its smallest flags"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_through(name: str) -> None:
    """Status 1 says that a ratio is not what it should be, as it is at these sizes."""
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", *SMALLEST[name].split()],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    assert done.stdout
    for words in SAID.get(name, []):
        assert words in done.stdout, done.stdout + done.stderr
