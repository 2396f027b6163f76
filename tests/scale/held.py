"""What torch holds while something runs: bytes of all tensors that live, counted at every operation."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Held(TorchDispatchMode):  # type: ignore[misc]
    """`peak` is the most bytes of storages that were made inside and lived at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._live: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What an operation was given is not new, such as weights that it changes in place.
        known = {id(one.untyped_storage()) for one in tree_leaves((args, kwargs)) if torch.is_tensor(one)}
        found = function(*args, **(kwargs or {}))
        for one in tree_leaves(found):
            if torch.is_tensor(one) and id(storage := one.untyped_storage()) not in known | self._live:
                self._live.add(id(storage))
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, id(storage), storage.nbytes())
        return found

    def _gone(self, number: int, size: int) -> None:
        self._live.discard(number)
        self.now -= size


class Kept:
    """Bytes of what the forward pass keeps for the backward one, each storage once, without `weights`."""

    def __init__(self, model: Any) -> None:
        self.bytes = 0
        self._seen = {one.untyped_storage()._cdata for one in (*model.parameters(), *model.buffers())}
        self._held: list[Any] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda one: one)

    def _pack(self, tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._held.append(storage)
            self.bytes += storage.nbytes()
        return tensor

    def __enter__(self) -> Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
