"""Tensor parallel training: what the libraries do with it, and what a recipe that asks for it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.errors import RecipeError
from limbeck.recipe import check_recipe
from tests.commands import Started, finish, ranks_of
from tests.lm.families import tiny_model

from . import tensor_parallel_worker


def test_a_step_of_two_processes(tmp_path: Path) -> None:
    """Exact for all weights and for adapters on layers that are cut by columns. Adapters on all layers fail
    in the libraries: when they no longer do, docs/architecture.md and docs/papers.md have news."""
    tiny_model("llama-2")[0].save_pretrained(tmp_path)
    said = finish([Started([str(tmp_path)], about, tensor_parallel_worker.main) for about in ranks_of(2)])
    assert [status for status, *_ in said] == [0, 0], said
    found = dict(line.split(" ", 1) for line in said[0][1].splitlines())
    assert found["processes"] == "2" and 0.49 < float(found["held"]) < 0.51, "half of what is cut"
    assert all(float(found[name]) < 1e-5 for name in ("gradient", "step", "columns")), found
    assert found["text"] == "True"
    for layers in ("o_proj", "down_proj", "all-linear"):
        assert "is invalid for input of size" in found[layers], found


@pytest.mark.parametrize("word", ["tensor", "tp", "tensor-parallel"])
def test_a_recipe_that_asks_for_it_is_told_what_to_take(word: str) -> None:
    train = {"sharding": word}
    recipe = {
        "name": "x",
        "task": {"name": "coin-flip"},
        "student": {"method": "finetune-cot", "train": train},
    }
    with pytest.raises(RecipeError, match=r"sharding: tensor parallel .* take fsdp, with lora"):
        check_recipe(recipe, "x.yaml")
