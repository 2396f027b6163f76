"""A cache with free space at its end: a new token's keys and values are written there, nothing else moves.

The library's own layers copy all keys and values for every token. On a CPU that is a fifth of the time of an
exam's step, with 64 rows of 100 tokens (docs/log.md).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

LEAST = 32
"""Tokens that a full layer gets room for, at least; a quarter of what it holds where that is more."""


def with_room(cache: Cache, most: int) -> None:
    """Replace the layers that grow with every token by ones with room; others stay as they are.

    Those are layers that keep a window, a state, or what a decoder reads of its encoder.

    Args:
        most: tokens of a row that it will hold in the end; no room is made for more.
    """
    growing = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    growing.layers = [Growing(one, most) if _grows(one) else one for one in growing.layers]


def _grows(layer: Any) -> bool:
    """Whether it holds something, all of it: a layer that reads images stays empty where there is none."""
    return type(layer) is DynamicLayer and layer.is_initialized


class Growing(DynamicLayer):  # type: ignore[misc]  # the library has no types
    """A layer whose `keys` and `values` (B,H,T,D) are the first T columns of larger tensors.

    Args:
        layer: what it begins with.
        most: columns that room is made for.
    """

    def __init__(self, layer: DynamicLayer, most: int) -> None:
        super().__init__()
        self.is_initialized, self.dtype, self.device = layer.is_initialized, layer.dtype, layer.device
        self.keys, self.values = layer.keys, layer.values
        self._room = (layer.keys, layer.values)
        self._most = most

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new columns; returns all keys and values."""
        before = self.keys.shape[-2]
        length = before + key_states.shape[-2]
        if length > self._room[0].shape[-2]:
            columns = max(length, min(length + max(LEAST, length // 4), self._most))
            self._room = (_wider(self.keys, columns), _wider(self.values, columns))
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, before:length] = new
        self._show(length)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these rows, with the same room."""
        length = self.keys.shape[-2]
        keys, values = (room.index_select(0, beam_idx.to(room.device)) for room in self._room)
        self._room = (keys, values)
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = (room[:, :, :length] for room in self._room)


def _wider(states: Tensor, columns: int) -> Tensor:
    """A copy with room for more columns."""
    rows, heads, held, width = states.shape
    found = states.new_empty(rows, heads, columns, width)
    found[:, :, :held] = states
    return found
