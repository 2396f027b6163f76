"""Bytes of a training by arithmetic, against what torch holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from limbeck.lm.load import Dtype, adapted, empty, fit_embeddings, load
from limbeck.lm.settings import LoraSettings
from limbeck.objectives.align import IGNORED
from limbeck.scale.outline import Outline, outline
from limbeck.scale.training import MicroBatch, activations, gradients, optimiser, share, weights
from limbeck.training.collate import collate
from limbeck.training.lowered import Lowered, width_of
from limbeck.training.parts import CrossEntropy, loss
from limbeck.training.rows import Row

from ..commands import Started, finish, ranks_of
from ..lm.families import FAMILIES, TEXTS, tiny_model
from ..training.conftest import tokenizer
from . import sharded_worker
from .held import Held, Kept

__all__ = ["tokenizer"]

LORA = LoraSettings(r=8)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, str]:
    """A model, its folder, and its family."""
    model, tokenizer = tiny_model(request.param)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, folder, request.param


@pytest.mark.parametrize("read", [True, False], ids=["sizes of weights", "config alone"])
def test_a_model_is_counted_without_its_weights(family: tuple[Any, Path, str], read: bool) -> None:
    model, folder, _ = family
    if not read:
        folder = folder / "config"
        folder.mkdir()
        model.config.save_pretrained(folder)
    found = empty(folder, weights=read)
    assert {one.device.type for one in found.parameters()} == {"meta"}
    loaded = load(family[1])
    fit_embeddings(found, loaded.tokenizer, "a model")
    assert outline(found) == outline(loaded.model)
    assert outline(found).parameters == sum(one.numel() for one in loaded.model.parameters())


def test_an_adapter_is_counted_without_weights(family: tuple[Any, Path, str]) -> None:
    _, folder, name = family
    lora = LORA if name != "mixtral" else LoraSettings(r=8, dropout=0)  # peft drops no inputs of experts
    real = load(folder, lora=lora, trainable=True).model
    model = empty(folder)
    fit_embeddings(model, load(folder).tokenizer, "a model")
    plain = outline(model)
    found = outline(model, adapted(model, lora, "a model"), lora.dropout)
    sizes = [(one.numel(), one.requires_grad) for one in real.parameters()]
    assert found.parameters + found.adapter == sum(size for size, _ in sizes)
    assert found.trained == sum(size for size, trained in sizes if trained) == found.adapter
    assert found.stacks == plain.stacks


@pytest.mark.parametrize("name", ["tiny-causal-xs", "tiny-causal-m", "tiny-seq2seq-s"])
def test_a_model_from_scratch_is_counted(name: str) -> None:
    real = load(name, tokenizer_texts=TEXTS).model
    assert outline(empty(name, texts=TEXTS)).parameters == sum(one.numel() for one in real.parameters())


def test_what_the_layers_keep(family: tuple[Any, Path, str]) -> None:
    """The stated factor, though families have parts of their own: experts, norms of heads, biases."""
    model, rows = family[0], 4
    for length in (32, 64):
        ids = torch.full((rows, length), 7)
        mask = torch.ones_like(ids)
        mask[0, -3:] = 0
        model.train()
        with Kept(model) as kept:
            if model.config.is_encoder_decoder:
                inner = model.model if hasattr(model, "model") else model
                inner(input_ids=ids, attention_mask=mask, decoder_input_ids=ids, use_cache=False)
            else:
                model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        sizes = outline(model)
        found = activations(sizes, MicroBatch(rows, (length,) * len(sizes.stacks), 0)).kept
        assert 0.95 < found / kept.bytes < 1.25, found / kept.bytes


CASES: dict[str, dict[str, Any]] = {
    "all weights": {},
    "an encoder too": {"name": "tiny-seq2seq-m"},
    "narrow": {"name": "tiny-causal-xs"},
    "adapter": {"lora": LORA},
    "adapter without dropout": {"lora": LoraSettings(r=8, dropout=0)},
    "adapter on 16 bits": {"lora": LORA, "dtype": "bfloat16"},
    "autocast": {"precision": "bf16"},
    "autocast of long texts": {"precision": "bf16", "prompt": 256},
    "autocast of an encoder too": {"name": "tiny-seq2seq-m", "precision": "bf16"},
    "autocast and many tokens": {"precision": "bf16", "rows": 16, "prompt": 192},
    "checkpointing": {"checkpointing": True},
    "checkpointing on 16 bits": {"lora": LORA, "dtype": "bfloat16", "checkpointing": True},
    "gradient descent": {"kind": "sgd"},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_holds_what_arithmetic_says(case: dict[str, Any]) -> None:
    """Weights, gradients and optimiser to the byte; the rest of the peak within the stated factor."""
    dtype, kind = case.get("dtype", "float32"), case.get("kind", "adamw")
    sizes, batch, held, exact = _step(**case)
    assert exact == [weights(sizes, dtype), gradients(sizes, dtype), optimiser(sizes, dtype, kind)]
    found = activations(
        sizes,
        batch,
        dtype=dtype,
        precision=case.get("precision", "fp32"),
        checkpointing=case.get("checkpointing", False),
    )
    assert 0.95 < found.total / held < 1.6, (found, held)


def _step(
    name: str = "tiny-causal-m",
    lora: LoraSettings | None = None,
    dtype: Dtype = "float32",
    precision: str = "fp32",
    checkpointing: bool = False,
    kind: str = "adamw",
    rows: int = 8,
    prompt: int = 64,
    completion: int = 64,
) -> tuple[Outline, MicroBatch, int, list[int]]:
    """A micro-batch of a step whose gradients are there already: the sizes of the model and the batch, the
    peak of what it adds, and the bytes of weights, gradients and optimiser."""
    loaded = load(name, tokenizer_texts=TEXTS, lora=lora, dtype=dtype, trainable=True, device="cpu")
    model, both = loaded.model.train(), loaded.encoder_decoder
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    after = [8] * completion
    row = (
        Row("", [7] * prompt, after)
        if both
        else Row("", [7] * (prompt + completion), [IGNORED] * prompt + after)
    )
    batch = collate([row] * rows, 0)
    trained = [one for one in model.parameters() if one.requires_grad]
    made: Callable[..., Any] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[kind]
    steps = made(trained, lr=1e-3)
    part = CrossEntropy()
    counts = {part.name: part.count(batch, encoder_decoder=both)}

    lowered = Lowered(model) if precision == "bf16" else None

    def micro() -> None:
        with lowered.step(width_of(batch)) if lowered else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=lowered is not None):
                total, _ = loss((part,), model, batch, counts)
            total.backward()  # type: ignore[no-untyped-call]

    micro()
    steps.step()
    with Held() as held:
        micro()
    state = (one for found in steps.state.values() for one in found.values() if torch.is_tensor(one))
    exact = [
        sum(one.nbytes for one in model.parameters()),
        sum(one.grad.nbytes for one in trained if one.grad is not None),
        sum(one.nbytes for one in state),
    ]
    sizes = outline(loaded.bare, model if lora else None, lora.dropout if lora else 0.0)
    lengths = (prompt, completion) if both else (prompt + completion,)
    return sizes, MicroBatch(rows, lengths, rows * completion), held.peak, exact


def test_only_rows_of_completions_go_through_the_head() -> None:
    sizes = outline(load("tiny-causal-xs", tokenizer_texts=TEXTS).model)
    few, many = (activations(sizes, MicroBatch(4, (64,), scored)) for scored in (10, 200))
    assert few.kept == many.kept and few.head < many.head


def test_a_share_of_two_is_what_two_processes_hold(tokenizer: Any, tmp_path: Path) -> None:
    """With gradient checkpointing under bf16 and several micro-batches a step: above all, no copies of all
    layers in 16 bits at once, and no whole gradients."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    started = [Started([str(tmp_path)], rank, sharded_worker.main) for rank in ranks_of(2)]
    texts = finish(started, 600)
    assert [status for status, _, _ in texts] == [0, 0], texts
    held = json.loads((tmp_path / "held.json").read_text())
    with torch.device("meta"):
        sizes = outline(LlamaForCausalLM(sharded_worker.CONFIG))
    batch = MicroBatch(4, (24,), 4 * 15)
    acts = activations(sizes, batch, precision="bf16", checkpointing=True)
    found = share(sizes, acts, 2, checkpointing=True)
    state = (weights(sizes, "float32") + gradients(sizes, "float32") + optimiser(sizes, "float32")) // 2
    assert 1 < found / held["peak"] < 1.25 and state < held["peak"], held
    assert held["halves"] < acts.copies / 3
