"""One rank of a reranker's training: in the folder of its first argument, with the index of its second."""

import sys
from pathlib import Path

from limbeck import ranks
from limbeck.knowledge.bm25 import Index
from limbeck.knowledge.ranking import train_reranker
from tests.knowledge.encoders import tiny
from tests.knowledge.test_ranking import RANKING, TRAIN, some_pools


def main() -> None:
    folder, encoder = Path(sys.argv[1]), tiny()
    train_reranker(encoder, Index(sys.argv[2]), some_pools(9), RANKING, TRAIN, folder, seed=1)
    if ranks.main():
        encoder.save(folder / "model")
