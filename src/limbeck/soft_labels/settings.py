"""How much of a mentor's distribution is kept; holds no torch, so that a recipe is read without it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from limbeck.settings import Settings


class CodecSettings(Settings):
    """What is kept of a mentor's distribution over each scored token."""

    kind: Literal["top-k", "full"] = Field(
        "top-k",
        description="the likeliest tokens and one bucket for the rest; or the whole vocabulary, for tests",
    )
    k: int = Field(64, ge=1, description="of top-k: tokens kept")

    def plan(self) -> dict[str, str | int]:
        """What of it decides what is kept."""
        return {"kind": self.kind, "k": self.k} if self.kind == "top-k" else {"kind": self.kind}
