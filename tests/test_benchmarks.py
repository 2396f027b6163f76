"""Every benchmark runs through at its smallest size; the numbers that it prints are not judged here."""

import gc
import importlib
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

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
    "mentor_kd": "--problems 10 --words 1000 --dev 10 --epochs 1 --mentor-epochs 1 --seeds 1 --width 32"
    " --student tiny-causal-xs",
    "real_base": "--small",
    "rerank": "--small --base tiny-encoder-xs --questions 20 --train 20 --epochs 1"
    " --rows late,late-128-trained,bi-trained",
    "retrieval": "--small",
    "rows": "--rows 300 600",
    "shared_prompts": "--small --padded --kind llama",
    "step": "--small --kind t5",
    "tailored": "--small",
}
"""Flags of each benchmark that make it a smoke test of seconds; of two kinds of models one is enough."""

RANK_BM25 = "rank-bm25 over 300 passages: " if find_spec("rank_bm25") else "rank-bm25 is not installed"

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
    "kard": ["questions    ours", RANK_BM25, "the same ranking of 2 of 2", "train   2 rationales", "apart"],
    "knowledge": ["300 passages", "30 million", "questions    ours", "rationales   ours", RANK_BM25],
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
    "rerank": [
        "tiny-encoder-xs: 20 questions with 20 rationales",
        "to BM25",
        "late-128-trained",
        "bi-trained",
    ],
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


@pytest.mark.parametrize("name", ["step", "mcc_kd", "tailored", "shared_prompts"])
def test_what_a_gpu_would_run_is_one_model_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of `--device cuda`, on a CPU: in bf16, and all but its clock and its memory."""
    monkeypatch.syspath_prepend(FOLDER)
    benchmark, step = importlib.import_module(name), importlib.import_module("step")
    monkeypatch.setattr(step, "STEPS_ON_GPU", 1)
    arguments_of = step.arguments_of
    monkeypatch.setattr(step, "arguments_of", lambda *given: {**arguments_of(*given), "bf16": True})
    made: list[weakref.ref[Any]] = []
    build = benchmark.model_of

    def model_of(*given: Any) -> Any:
        assert not [model for model in made if model()], "a model of a side before is still held"
        model = build(*given)
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(benchmark, "model_of", model_of)
    scale = replace(step.SMALL, examples=6)
    given: tuple[Any, ...] = ("llama", scale)
    if name == "tailored":
        given = (scale,)
    elif name == "shared_prompts":
        given = (benchmark.Cell("llama", "demonstrations", 2, False, True),)
    gc.collect()
    gc.disable()  # no luck: what is freed is freed by the benchmark
    try:
        seconds, memory, apart = benchmark.on_gpu(*given)
    finally:
        gc.enable()
    assert list(seconds) == list(memory) and len(made) == len(seconds) > 1
    assert min(seconds.values()) > 0 and step.equal(apart, replace(scale, device="cuda"))


def test_the_published_batches_of_tailored_learning_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sampler knows questions, not lengths; the baseline groups by length."""
    monkeypatch.syspath_prepend(FOLDER)
    benchmark, step = importlib.import_module("tailored"), importlib.import_module("step")
    groups = benchmark.groups_of(step.WHOLE)
    padded = {}
    for side in ("published", "plain"):
        batches = benchmark.batches_of(side, groups, step.WHOLE)
        assert sorted(group[0].problem_id for batch in batches for group in batch) == sorted(
            group[0].problem_id for group in groups
        ), "each question once"
        longest = [max(len(row.input_ids) for group in batch for row in group) for batch in batches]
        padded[side] = sum(most * len(batch) for most, batch in zip(longest, batches, strict=True))
    assert padded["published"] > 1.05 * padded["plain"]


def test_operations_are_those_of_weights_and_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    step = importlib.import_module("step")
    rows = [step.Row("1", [3] * 10, [3] * 10), step.Row("2", [3] * 30, [3] * 30)]
    layer = 4 * 256 * 256 + 3 * 256 * 688 + 2 * 256
    weights = 4 * layer + 256 + 500 * 256  # and the head, not the embeddings
    assert step.operations(rows, step.SMALL) == 6 * weights * 40 + 6 * 4 * 256 * (10**2 + 30**2)
    large = step.model_of("llama", replace(step.ON_GPU, device="meta"))
    assert sum(p.numel() for p in large.parameters()) == pytest.approx(1.1e9, rel=0.001)


def test_a_gpu_is_judged_by_its_rounding_and_its_use_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    step = importlib.import_module("step")
    scale = replace(step.SMALL, device="cuda", peak=0.5)
    found = {"ours": 0.25}, {"ours": 10.0}, {"loss": 1e-6, "gradient": 1e-2}
    monkeypatch.setattr(step, "on_gpu", lambda kind, scale: found)
    assert step.report("llama", scale, []) == [] and not step.equal(found[2], step.SMALL)
    broken = step.largest_of([{"loss": 0.0, "gradient": 0.0}, {"loss": 0.0, "gradient": float("nan")}])
    assert not step.equal(broken, scale)
    rows = step.rows_of("llama", scale)
    rate = sum(len(row.input_ids) for row in rows) / 0.25
    printed = capsys.readouterr().out
    assert "250 ms" in printed and f"{rate:.0f} tokens/s" in printed
    assert f"{step.operations(rows, scale) / 0.25 / 0.5e12:.1%} of 0.5 TFLOP/s" in printed


@pytest.mark.parametrize("name", ["step", "mcc_kd", "tailored", "shared_prompts"])
def test_without_a_gpu_cuda_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    benchmark, step = importlib.import_module(name), importlib.import_module("step")
    monkeypatch.setattr(sys, "argv", [name, "--device", "cuda"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit) as refused:
        if name == "shared_prompts":
            benchmark.main()
        else:
            step.command(__file__, "", ["llama"] if name != "tailored" else [], None, None, None)
    assert refused.value.code == 2
    assert "torch sees 0 GPUs here, and this needs exactly one" in capsys.readouterr().err
