"""A smaller model of the same family: some of a base's layers, and everything else of it.

Where no small model has the tokenizer of a large one, a student that shares soft labels with it can be cut
from it. The layers that stay keep their weights and their order; embeddings, last norm and head are whole.
Until it is trained such a model writes nonsense, but it starts far ahead of random weights.

Source: DistilBERT (arXiv 1910.01108, §3) begins with every second layer of its teacher.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from limbeck.errors import ModelError
from limbeck.lm.settings import Layers

COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "encoder_layers")
DECODER_COUNTS = ("num_decoder_layers", "decoder_layers")
"""What configurations call the number of layers, and that of a decoder next to an encoder."""

BY_NUMBER = ("scale_attn_by_inverse_layer_idx", "num_kv_shared_layers")
"""Settings by which a layer computes something else in another place: some GPT-2, Gemma 3n."""


def with_layers(model: Any, layers: Layers, name: str) -> Any:
    """A model of some of another one's layers, in the same memory; `model` must not be used any more.

    Both halves of an encoder-decoder model are cut at the same places.

    Args:
        model: a transformers model without an adapter.
        layers: so many, evenly spaced, the first and the last among them; or those with these numbers,
            in ascending order.
        name: what errors call the model.

    Raises:
        ModelError: a layer that is not there, or an architecture that cannot be cut so.
    """
    found = stacks(model)
    kept = {place: chosen(len(stack), layers, name) for place, stack in found.items()}
    renamed = {
        f"{place}.{number}.": f"{place}.{now}."
        for place, numbers in kept.items()
        for now, number in enumerate(numbers)
    }
    try:
        if not found:
            raise ValueError("no list of layers is found in it")
        smaller = _empty(model, [kept[place] for place in found])
        _fill(smaller, model, found, renamed)
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
        kind, why = model.config.model_type, str(error).splitlines()[-1].strip()
        raise ModelError(
            f"{name}: layers: a model of type {kind} cannot be cut so ({why}); keep its first layer, "
            "take a model like Llama, GPT-2 or T5, or remove layers"
        ) from error
    return smaller


def chosen(total: int, layers: Layers, name: str) -> list[int]:
    """Which of `total` layers stay.

    Raises:
        ModelError: more than there are, or one that is not there.

    Example:
        >>> chosen(30, 4, "a model"), chosen(30, 1, "a model"), chosen(30, (0, 1, 29), "a model")
        ([0, 10, 19, 29], [0], [0, 1, 29])
    """
    if isinstance(layers, int):
        if layers > total:
            raise ModelError(f"{name}: layers: {layers}, but it has {total}; keep as many or fewer")
        gaps = max(layers - 1, 1)
        return [(2 * n * (total - 1) + gaps) // (2 * gaps) for n in range(layers)]
    if layers[-1] >= total:
        raise ModelError(f"{name}: layers: no layer {layers[-1]}; it has {total}, counted from 0")
    return list(layers)


def stacks(model: Any) -> dict[str, nn.ModuleList]:
    """Lists of layers by their place in the model: one, or an encoder's and a decoder's; {}: none found."""
    config = model.config
    halves = [(model.get_decoder(), _first(config, COUNTS))]
    if config.is_encoder_decoder:
        halves = [
            (model.get_encoder(), _first(config, COUNTS)),
            (model.get_decoder(), _first(config, DECODER_COUNTS)),
        ]
    found = {}
    for half, count in halves:
        for place, module in model.named_modules():
            inside = any(module is child for child in half.children())
            if inside and isinstance(module, nn.ModuleList) and len(module) == count:
                found[place] = module
    return found if len(found) == len(halves) else {}


def _first(config: Any, names: Sequence[str]) -> int:
    return next((getattr(config, name) for name in names if isinstance(getattr(config, name, None), int)), -1)


def _empty(model: Any, kept: Sequence[Sequence[int]]) -> Any:
    """A model of the new size without weights."""
    config = copy.deepcopy(model.config)
    before = _first(config, COUNTS)
    if found := [name for name in BY_NUMBER if vars(config).get(name)]:
        raise ValueError(f"by {found[0]} a layer depends on its number")
    for name, value in list(vars(config).items()):  # one entry per layer, such as their kinds of attention
        listed = isinstance(value, list) and not name.endswith("_token_id")
        if listed and len(value) == before and not config.is_encoder_decoder:
            setattr(config, name, [value[number] for number in kept[0]])
    for names, numbers in zip((COUNTS, DECODER_COUNTS), (kept[0], kept[-1]), strict=True):
        for name in names:
            if isinstance(getattr(config, name, None), int):
                setattr(config, name, len(numbers))
    with torch.device("meta"):
        return type(model)(config)


def _fill(smaller: Any, model: Any, stacks: Mapping[str, nn.ModuleList], renamed: Mapping[str, str]) -> None:
    """Put the weights and buffers of the layers that stay in their places."""
    inside = re.compile("|".join(rf"{re.escape(place)}\.\d+\." for place in stacks))

    def named(tensors: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, tensor in tensors.items():
            layer = inside.match(name)
            if layer is None:
                found[name] = tensor
            elif layer.group() in renamed:
                found[renamed[layer.group()] + name[layer.end() :]] = tensor
        return found

    # The very parameters, so that those are one that were one. The library's tie_weights goes by the config,
    # which says that FLAN-T5's head is its embedding.
    smaller.load_state_dict(named(model.state_dict(keep_vars=True)), strict=True, assign=True)
    tied = named(model.all_tied_weights_keys)
    smaller.all_tied_weights_keys = {
        name: source for name, source in smaller.all_tied_weights_keys.items() if name in tied
    }
    for name, buffer in named(dict(model.named_buffers())).items():  # rotary frequencies are in no state
        place, _, own = name.rpartition(".")
        smaller.get_submodule(place)._buffers[own] = buffer
    smaller.generation_config = model.generation_config
    there = {*model.parameters(), *model.buffers()}
    for name, one in (*smaller.named_parameters(), *smaller.named_buffers()):
        if one.is_meta and not any(other.is_meta for other in there):
            raise ValueError(f"{name} would have no weights")
    smaller.train(model.training)
