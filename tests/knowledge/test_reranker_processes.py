"""Two processes train the reranker that one does; its last step has one question for both."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from limbeck.knowledge.encoders import load_encoder
from limbeck.knowledge.ranking import train_reranker
from tests.knowledge.encoders import tiny
from tests.knowledge.test_ranking import RANKING, TRAIN, index, some_pools, weights

__all__ = ["index"]


def test_two_processes_train_as_one(index, tmp_path: Path) -> None:
    alone = tiny()
    train_reranker(alone, index, some_pools(9), RANKING, TRAIN, tmp_path / "one", seed=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parents[2]
    about = {
        **os.environ,
        "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, str(root / "tests/knowledge/reranker_worker.py"), str(tmp_path / "two")]
    processes = [
        subprocess.Popen(
            [*command, str(index.folder)],
            env={**about, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    both = load_encoder(tmp_path / "two" / "model", device="cpu")
    for name, one in weights(alone).items():
        torch.testing.assert_close(weights(both)[name], one, rtol=1e-3, atol=2e-4)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
