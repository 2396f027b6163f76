"""What the arithmetic knows of a model: sizes that are read from its modules, which need no weights.

They are counted over the modules and not taken from the names of a config, so a family that nobody thought of
is counted too. Per token and in elements, not bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from limbeck.objectives.align import head_weight, linear_head

STEPWISE = ("NewGELUActivation", "FastGELUActivation", "QuickGELUActivation", "AccurateGELUActivation")
"""Activations that transformers composes of single operations, each of which keeps its input."""

KEPT_BY_STEPWISE = 3
"""Tensors that one of these keeps more than one that is a single operation."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers of a decoder, or of an encoder, without embeddings and head.

    Attributes:
        layers: how many.
        hidden: width of the states between them.
        linear: elements that the layers' linear parts keep of a token for the backward pass: inputs (once
            where several layers read the same) and outputs, over all layers.
        norm: the same of norms.
        widest: outputs of the widest linear layer, or of the experts that see a token.
        heads: attention heads of a layer.
        attentions: attentions of a layer: two in a decoder that looks at an encoder.
        scores: copies of a head's scores that are kept: 0 where one kernel computes the attention.
        largest: parameters of the largest layer.
    """

    layers: int
    hidden: int
    linear: int
    norm: int
    widest: int
    heads: int
    attentions: int
    scores: int
    largest: int


@dataclass(frozen=True, slots=True)
class Outline:
    """A model's sizes.

    Attributes:
        parameters: of the model without an adapter; a shared weight counts once.
        adapter: parameters of the adapter, 0 without one.
        trained: those that are trained, and `trained_tensors` in how many tensors.
        linear_weights: parameters of matrices, which autocast copies.
        packable: of these, those that `quantize: 4bit` keeps in 4 bits: of linear layers without the head.
        stacks: one, or the encoder's and the decoder's.
        vocabulary, head_width: rows of the head and width of what it reads.
        head_trained: whether the head has a gradient.
        plain_head: whether logits are made a chunk at a time (see `objectives.tokens`).
        lora: bytes that an adapter keeps of a token, over all stacks, and `lora_16` where the other weights
            have 16 bits: an adapter computes in float32.
    """

    parameters: int
    adapter: int
    trained: int
    trained_tensors: int
    linear_weights: int
    packable: int
    stacks: tuple[Stack, ...]
    vocabulary: int
    head_width: int
    head_trained: bool
    plain_head: bool
    lora: int = 0
    lora_16: int = 0


def outline(model: Any, adapted: Any = None, dropout: float = 0.0) -> Outline:
    """The sizes of a model, which may be on the meta device.

    Args:
        model: a transformers model; looked at as it is without an adapter.
        adapted: peft's wrapper around the same model, where an adapter is trained.
        dropout: of the adapter's inputs.
    """
    # An adapter's own layers lie inside the model that it wraps.
    own = [one for name, one in model.named_parameters() if ".lora_" not in name]
    parameters = sum(one.numel() for one in own)
    trained = [one for one in (adapted or model).parameters() if one.requires_grad]
    adapter = sum(one.numel() for name, one in model.named_parameters() if ".lora_" in name)
    head = head_weight(model)
    config = model.config
    return Outline(
        parameters=parameters,
        adapter=adapter,
        trained=sum(one.numel() for one in trained),
        trained_tensors=len(trained),
        linear_weights=sum(one.numel() for one in own if one.ndim > 1),
        packable=_packable(model),
        stacks=tuple(_stack(half, model) for half in _halves(model)),
        vocabulary=head.shape[0],
        head_width=head.shape[1],
        head_trained=bool(head.requires_grad),
        plain_head=_makes_chunks(model, config),
        lora=_lora(model, dropout, own_inputs=dropout > 0),
        lora_16=_lora(model, dropout, own_inputs=True),
    )


def _packable(model: Any) -> int:
    """Weights of linear layers, but for the head, which stays as it is."""
    head = model.get_output_embeddings()
    found = {
        id(one.weight): one.weight.numel()
        for name, one in model.named_modules()
        if isinstance(one, nn.Linear | Conv1D) and ".lora_" not in name
    }
    if head is not None:
        found.pop(id(head.weight), None)
    return sum(found.values())


def _halves(model: Any) -> list[Any]:
    """The encoder and the decoder, or the only stack."""
    if model.config.is_encoder_decoder:
        return [model.get_encoder(), model.get_decoder()]
    return [model.base_model]


def _makes_chunks(model: Any, config: Any) -> bool:
    """Whether the head is one plain matrix, as far as can be said without running it."""
    head = linear_head(model)
    text = config.get_text_config(decoder=True)
    changed = [getattr(text, name, None) for name in ("final_logit_softcapping", "logit_scale")]
    return head is not None and getattr(head, "bias", None) is None and not any(changed)


def _stack(half: Any, model: Any) -> Stack:
    config = model.config.get_text_config(decoder=True)
    layers = _layers(half)
    hidden = _hidden(layers[0]) if layers else model.get_input_embeddings().weight.shape[1]
    experts = int(getattr(config, "num_experts_per_tok", None) or 1)
    linear = norm = widest = 0
    relative = False
    for layer in layers:
        for name, module in layer.named_modules():
            if "lora_" in name:
                continue
            own, wide = _linear_of(module, hidden, experts)
            linear += own + _activation_of(module)
            norm += _norms_of(module)
            widest = max(widest, wide)
            relative |= bool(getattr(module, "has_relative_attention_bias", False))
    decodes = bool(model.config.is_encoder_decoder) and half is model.get_decoder()
    names = ("decoder_attention_heads", "num_attention_heads") if decodes else ("num_attention_heads",)
    heads = next((n for name in names if isinstance(n := getattr(model.config, name, None), int)), 0)
    attentions = 1 + decodes
    wide, narrow = _attention(half.config, hidden, heads or 1)
    linear += len(layers) * attentions * (wide + 2 * (wide - narrow))
    eager = getattr(half.config, "_attn_implementation", "sdpa") == "eager"
    capped = bool(getattr(half.config, "attn_logit_softcapping", None))
    largest = max((_size(layer) for layer in layers), default=0)
    ends = 3 * hidden  # what embeddings give, and the last norm
    return Stack(
        layers=len(layers),
        hidden=hidden,
        linear=linear,
        norm=norm + ends,
        widest=widest,
        heads=heads or 1,
        attentions=attentions,
        scores=1 + capped if eager else int(relative),
        largest=largest,
    )


def _size(layer: Any) -> int:
    return sum(one.numel() for name, one in layer.named_parameters() if "lora_" not in name)


def _attention(config: Any, hidden: int, heads: int) -> tuple[int, int]:
    """Widths of an attention's queries and of its keys. Its output is kept twice, and keys and values that
    several heads share are kept once for each."""
    width = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or hidden // heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    return heads * width, min(keys, heads) * width


def _layers(half: Any) -> list[Any]:
    """The outermost list of modules in it: its layers."""
    return list(next((module for module in half.modules() if isinstance(module, nn.ModuleList)), ()))


def _hidden(layer: Any) -> int:
    """The width of what goes through a layer: that of its widest norm."""
    return max(int(module.weight.numel()) for module in layer.modules() if _is_norm(module))


def _is_norm(module: Any) -> bool:
    name = type(module).__name__
    weight = getattr(module, "weight", None)
    return weight is not None and ("Norm" in name) and weight.ndim == 1


def _sides(module: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear layer; an adapter's wrapper has those of what it wraps."""
    rows, columns = module.weight.shape
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def _linears(module: Any) -> dict[str, Any]:
    """The linear layers that are a module's own, by their names; of an adapted one its base."""
    found = {}
    for name, child in module.named_children():
        base = getattr(child, "base_layer", child)
        if isinstance(base, nn.Linear | Conv1D):
            found[name] = base
    return found


def _linear_of(module: Any, hidden: int, experts: int) -> tuple[int, int]:
    """Elements that a module's own linear layers keep of a token, and outputs of the widest one.

    Matrices of experts are parameters of three dimensions; a token goes through some of them.
    """
    if hasattr(module, "base_layer"):  # counted with the module it belongs to
        return 0, 0
    sides = [_sides(one) for one in _linears(module).values()]
    kept = sum({inputs for inputs, _ in sides}) + sum(outputs for _, outputs in sides)
    widest = max((outputs for _, outputs in sides), default=0)
    for one in module.parameters(recurse=False):
        if one.ndim == 3:
            other = one.numel() // (one.shape[0] * hidden)
            kept += experts * (2 * hidden + other)  # its inputs are gathered, its outputs weighted
            widest = max(widest, experts * other)
    return kept, widest


def _activation_of(module: Any) -> int:
    """What a module's own activation keeps beyond its output; below 0 where that is all it keeps."""
    width = max((_sides(one)[1] for one in _linears(module).values()), default=0)
    kept = 0
    for child in module.children():
        if type(child).__name__ in STEPWISE:
            kept += KEPT_BY_STEPWISE * width
        elif isinstance(child, nn.ReLU):
            kept -= width
    return kept


def _norms_of(module: Any) -> int:
    """Elements that a module's own norms keep of a token: input and scaled input, of one kernel the input."""
    linears, kept = _linears(module), 0
    for name, child in module.named_children():
        if _is_norm(child):
            before = linears.get(f"{name[0]}_proj") if name in ("q_norm", "k_norm") else None
            width = _sides(before)[1] if before is not None else child.weight.numel()
            kept += width if isinstance(child, nn.LayerNorm) else 2 * width
    return kept


def _lora(model: Any, dropout: float, *, own_inputs: bool) -> int:
    """Bytes that an adapter keeps of a token: what its narrow side makes; its inputs, where they are not
    those of the layer that it is on; and with dropout a mask of a byte each."""
    kept = 0
    for module in model.modules():
        for narrow in getattr(module, "lora_A", {}).values():
            rank, inputs = narrow.weight.shape
            kept += 4 * (rank + (inputs if own_inputs else 0)) + (inputs if dropout else 0)
    return kept
