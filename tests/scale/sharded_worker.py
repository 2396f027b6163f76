"""One of two processes that train a model in parts, and say what they held at their peak."""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from limbeck import ranks
from limbeck.lm.sharding import shard
from limbeck.training.groups import singles
from limbeck.training.parts import CrossEntropy
from limbeck.training.settings import TrainSettings
from limbeck.training.trainer import train

from ..training.conftest import some_examples

CONFIG = LlamaConfig(
    vocab_size=1000,
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=12,
    num_attention_heads=4,
    tie_word_embeddings=False,
)

SETTINGS = TrainSettings(
    epochs=1,
    batch_size=4,
    accumulate=4,
    precision="bf16",
    gradient_checkpointing=True,
    sharding="fsdp",
    checkpoints=1,
)


class Live(TorchDispatchMode):  # type: ignore[misc]
    """`peak`: the most bytes of all storages that it saw, which FSDP2 resizes; `halves`: of 16 bits alone."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.halves = 0
        self._seen: dict[int, tuple[Any, bool]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for one in tree_leaves((args, kwargs, found)):
            if torch.is_tensor(one):
                plain = getattr(one, "_local_tensor", one)
                storage = plain.untyped_storage()
                self._seen[id(storage)] = (weakref.ref(storage), plain.dtype == torch.bfloat16)
        living = [(one, half) for there, half in self._seen.values() if (one := there()) is not None]
        self.peak = max(self.peak, sum(one.nbytes() for one, _ in living))
        self.halves = max(self.halves, sum(one.nbytes() for one, half in living if half))
        return found


def main() -> None:
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    model = shard(LlamaForCausalLM(CONFIG), "a model")
    live, told = Live(), list[dict[str, int]]()

    def heard(step: int, steps: int, loss: float) -> None:
        told.append({"peak": live.peak, "halves": live.halves})  # before the checkpoint is written

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    with live:
        train(
            model,
            tokenizer,
            singles(some_examples(32)),
            (),
            (CrossEntropy(),),
            SETTINGS,
            folder / "run",
            seed=0,
            progress=heard,
        )
    if ranks.main():
        (folder / "held.json").write_text(json.dumps(told[-1]))
    torch.distributed.destroy_process_group()
