"""Settings of models. Importing this loads no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from limbeck.settings import Settings


def _one_is_several(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


Stops = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_one_is_several, json_schema_input_type=Any),
]
"""Stop strings of a model that writes; a single one may be written without a list."""


def _ascending(layers: Any) -> Any:
    if isinstance(layers, tuple) and list(layers) != sorted(set(layers)):
        raise ValueError("name each layer once, in ascending order, such as [0, 10, 20, 29]")
    return layers


Layers = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)],
    AfterValidator(_ascending),
]
"""How many layers of a model stay, evenly spaced, or which ones, counted from 0."""


Reasoning = Literal["both", "thinking", "answer"]
"""What of a completion that thinks becomes the rationale."""


class LoraSettings(Settings):
    """A low-rank adapter (LoRA, arXiv 2106.09685) trained instead of all weights.

    The defaults are Mentor-KD's for its large models, on all linear layers
    instead of its queries and values only.
    """

    r: int = Field(64, ge=1, le=65_536, description="rank")
    alpha: float = Field(32, gt=0, description="the adapter's output is scaled by alpha / r")
    dropout: float = Field(0.05, ge=0, lt=1, description="on the adapter's input, in training only")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        min_length=1,
        description='"all-linear" (not the output head) or names such as [q_proj, v_proj]',
    )
