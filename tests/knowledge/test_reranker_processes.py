"""Two processes train the reranker that one does; its last step has one question for both."""

import json
from pathlib import Path

import pytest
import torch

from limbeck.knowledge.encoders import load_encoder
from limbeck.knowledge.ranking import train_reranker
from tests.commands import Started, finish, ranks_of
from tests.knowledge import reranker_worker
from tests.knowledge.encoders import tiny
from tests.knowledge.test_ranking import RANKING, TRAIN, index, some_pools, weights

__all__ = ["index"]


def test_two_processes_train_as_one(index, tmp_path: Path) -> None:
    alone = tiny()
    train_reranker(alone, index, some_pools(9), RANKING, TRAIN, tmp_path / "one", seed=1)
    words = [str(tmp_path / "two"), str(index.folder)]
    said = finish([Started(words, about, reranker_worker.main) for about in ranks_of(2)], 300)
    assert [status for status, *_ in said] == [0, 0], said
    both = load_encoder(tmp_path / "two" / "model", device="cpu")
    for name, one in weights(alone).items():
        torch.testing.assert_close(weights(both)[name], one, rtol=1e-3, atol=2e-4)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
