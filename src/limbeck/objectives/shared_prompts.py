"""A prompt that several rows of a batch have in common, computed once for all of them.

The rows stay as they are for everything around: their hidden states come out where they would without it.
Inside, an encoder reads each different prompt once. A decoder-only model reads the prompts first, padded
on the left, and keeps their keys and values; those are given to every row, and the rest of the rows is read
behind them with an ordinary mask. This is exact in every family that was tried, windows and position
biases included, because no mask of our own is needed.

Both reads happen inside one forward of the model, so that what is wrapped around it (DDP, autocast, an
adapter) sees one. Not exact are: dropout, whose one draw then serves all rows; gradient checkpointing of a
decoder-only model, which forgets the keys and values; and a router loss, which counts the prompt once.
`training.shared_prompts` refuses them.

Shapes: B rows of T tokens, Q different prompts of P tokens at most, C tokens of the longest rest of a row,
H hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache


class CannotShareError(RuntimeError):
    """A model's forward does not use its encoder or decoder as expected."""


@contextmanager
def computed_once(model: nn.Module, batch: Mapping[str, Any]) -> Iterator[None]:
    """While open, the model's forward on this batch computes each different prompt once.

    Args:
        model: any Hugging Face model that is not wrapped, or a PEFT model.
        batch: `input_ids`, `attention_mask` (B,T), padded on the right; `prompts` (Q,), the first row of
            each different prompt; `owners` (B,), which of them each row has; of a decoder-only model also
            `begins` (B,), the tokens of each row's prompt, and `widths`, P and C.

    Raises:
        CannotShareError: (at the end) the model did not call its encoder or decoder exactly once.
    """
    both = bool(model.config.is_encoder_decoder)  # type: ignore[union-attr]
    part: nn.Module = model.get_encoder() if both else model.get_decoder()  # type: ignore[operator]
    calls: list[None] = []
    own = vars(part).get("forward")
    forward = part.forward
    read = _encode_once if both else _read_twice

    def instead(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return read(part, forward, _named(forward, args, kwargs), batch)

    part.forward = instead
    try:
        yield
    finally:
        vars(part).pop("forward")
        if own is not None:
            part.forward = own
    if len(calls) != 1:
        raise CannotShareError(
            f"{type(model).__name__} called its {type(part).__name__} {len(calls)} times in one forward, so "
            "prompts cannot be shared; set train.share_prompts to false"
        )


Forward = Callable[..., Any]


def _named(forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name."""
    return dict(zip(inspect.signature(forward).parameters, args, strict=False)) | kwargs


def _encode_once(
    encoder: nn.Module, forward: Forward, given: dict[str, Any], batch: Mapping[str, Any]
) -> Any:
    """An encoder's states (B,T,H), made of one row of each prompt."""
    rows = {name: given[name].index_select(0, batch["prompts"]) for name in ("input_ids", "attention_mask")}
    output = forward(**given | rows)
    output.last_hidden_state = output.last_hidden_state.index_select(0, batch["owners"])
    return output


def _read_twice(decoder: nn.Module, forward: Forward, given: dict[str, Any], batch: Mapping[str, Any]) -> Any:
    """A decoder's states (B,T,H): first the prompts, then the rest of every row behind its own."""
    ids_BT, mask_BT, owners_B = given["input_ids"], given["attention_mask"], batch["owners"]
    most, rest = batch["widths"]
    before_B = batch["begins"].clamp_min(1)  # of an empty prompt the first token, which nothing predicts
    before_Q = before_B.index_select(0, batch["prompts"])
    takes_positions = "position_ids" in inspect.signature(forward).parameters

    def read(ids: Tensor, mask: Tensor, positions: Tensor) -> Any:
        where = {"position_ids": positions} if takes_positions else {}
        more = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache, "use_cache": True}
        return forward(**given | more | where)

    cache = DynamicCache(config=decoder.config)
    positions_QP = torch.arange(most, device=ids_BT.device) - (most - before_Q)[:, None]  # < 0: padding
    prompts_QP = ids_BT.index_select(0, batch["prompts"]).gather(1, positions_QP.clamp_min(0))
    mask_QP = (positions_QP >= 0).to(mask_BT.dtype)
    first = read(prompts_QP, mask_QP, positions_QP.clamp_min(0))

    cache.reorder_cache(owners_B)
    positions_BC = before_B[:, None] + torch.arange(rest, device=ids_BT.device)
    inside_BC = positions_BC.clamp_max(ids_BT.shape[1] - 1)
    mask_BC = mask_BT.gather(1, inside_BC) * (positions_BC == inside_BC)
    mask_BM = torch.cat([mask_QP.index_select(0, owners_B), mask_BC], 1)
    output = read(ids_BT.gather(1, inside_BC), mask_BM, inside_BC)

    output.last_hidden_state = _in_place(first[0], output[0], owners_B, before_B, mask_BT)
    output.past_key_values = None
    return output


def _in_place(
    prompts_QPH: Tensor, rest_BCH: Tensor, owners_B: Tensor, before_B: Tensor, mask_BT: Tensor
) -> Tensor:
    """The states of whole rows, padded on the right with their last one."""
    count, most, size = prompts_QPH.shape
    rest = rest_BCH.shape[1]
    last_B1 = mask_BT.sum(1, keepdim=True) - 1
    positions_BT = torch.arange(mask_BT.shape[1], device=mask_BT.device).minimum(last_B1)
    from_prompt_BT = (owners_B * most + most - before_B)[:, None] + positions_BT
    rows_B1 = torch.arange(len(owners_B), device=mask_BT.device)[:, None]
    from_rest_BT = count * most + rows_B1 * rest + positions_BT - before_B[:, None]
    where_BT = torch.where(positions_BT < before_B[:, None], from_prompt_BT, from_rest_BT)
    states_SH = torch.cat([prompts_QPH.reshape(-1, size), rest_BCH.reshape(-1, size)])
    return states_SH.index_select(0, where_BT.reshape(-1)).reshape(*mask_BT.shape, size)
