"""Which engine answers: the index on the disk, or Milvus where its passages were put there."""

from __future__ import annotations

from pathlib import Path

from limbeck.knowledge import building
from limbeck.knowledge.search import Search


def opened(folder: Path | str) -> Search:
    """The index of a folder, ready to be searched.

    Raises:
        InputError: there is none, a file of it is missing, or its engine does not answer.
    """
    if building.MILVUS in building.opened(Path(folder)):
        from limbeck.knowledge.milvus import Milvus

        return Milvus(folder)
    from limbeck.knowledge.bm25 import Index

    return Index(folder)
