"""Where a student's soft labels come from: the mentor itself (`live`), or files (`cache`)."""

from __future__ import annotations

from typing import Protocol

from limbeck.objectives.soft import SoftTargets
from limbeck.training.collate import Batch


class SoftLabels(Protocol):
    """A mentor's distributions; the loss does not know whether they are asked for or read back."""

    @property
    def temperature(self) -> float:
        """τ, the same for mentor and student."""
        ...

    @property
    def vocabulary(self) -> int:
        """Real tokens: the highest id of the tokenizer + 1."""
        ...

    def of(self, batch: Batch) -> SoftTargets:
        """The targets of the batch's scored tokens, in row order, on the batch's device."""
        ...
