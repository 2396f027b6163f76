"""Bytes on the disk by arithmetic, against files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.files import existing_parent
from limbeck.lm.load import load
from limbeck.scale.devices import memory_of
from limbeck.scale.outline import outline
from limbeck.scale.stored import checkpoint_bytes, model_bytes, soft_label_bytes
from limbeck.soft_labels.settings import CodecSettings
from limbeck.soft_labels.writing import write_cache
from limbeck.training.collate import tokenise

from ..lm.families import TEXTS
from ..training.conftest import make_examples, make_model, tokenizer

__all__ = ["make_examples", "make_model", "tokenizer"]


@pytest.mark.parametrize("codec", [CodecSettings(k=5), CodecSettings(k=64), CodecSettings(kind="full")])
def test_soft_labels_are_as_large_as_their_files(
    tmp_path: Path,
    make_examples: Callable[..., Any],
    make_model: Callable[..., Any],
    tokenizer: Any,
    codec: Any,
) -> None:
    from limbeck.training.groups import singles

    rows = tokenise(tokenizer, singles(make_examples(20)), encoder_decoder=False, max_length=64).rows
    words = len(tokenizer)
    write_cache(tmp_path, make_model("llama"), rows, 0, codec, 1.0, words, {}, batch_tokens=512)
    said = json.loads((tmp_path / "manifest.json").read_text())
    assert soft_label_bytes(said["tokens"], said["rows"], words, codec) == said["bytes"]


def test_ids_of_a_large_vocabulary_take_four_bytes() -> None:
    small, large = (soft_label_bytes(1_000, 0, words) for words in (32_000, 152_000))
    assert large - small == 1_000 * 64 * 2


def test_a_model_and_its_checkpoints() -> None:
    loaded = load("tiny-causal-xs", tokenizer_texts=TEXTS)
    sizes, real = outline(loaded.model), sum(one.nbytes for one in loaded.model.parameters())
    assert model_bytes(sizes, "float32") == real
    assert checkpoint_bytes(sizes, "float32", "sgd") == 2 * real
    assert checkpoint_bytes(sizes, "float32") == 2 * (3 * real + 4 * sizes.trained_tensors)
    assert checkpoint_bytes(sizes, "float32", "sgd", "dev-loss") == 3 * real


def test_the_memory_of_a_processor() -> None:
    found = memory_of("cpu")
    assert found.kind == "cpu" and 0 < found.free <= found.total


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert existing_parent(tmp_path / "a" / "b") == tmp_path
