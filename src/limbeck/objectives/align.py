"""The only shift and the only mask of the project.

Shapes: B rows of a batch, T positions of `labels`, N scored tokens of the whole
batch in row order, H hidden size, V vocabulary. A digit is a dimension of that size.

A decoder-only model's logits at position t predict the token at t + 1, an
encoder-decoder's those at t. Everything that scores tokens gets them from here
as aligned `(N, V)` logits and `(N,)` targets and never shifts or masks again.

Logits are made for scored tokens only: a forward pre-hook on the output
embeddings keeps the hidden rows that are scored, and the model's own forward
does the rest, so that soft caps, scales, biases and LoRA on the head all work. A loss
that makes logits itself, a few rows at a time, gets these rows from `hidden` instead,
where `plain_head` says that the head is one product and nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

IGNORED = -100
"""The label of a token that is not scored (prompt, padding)."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The scored tokens of a batch.

    Attributes:
        keep_BT: bool; logits at these positions are scored (already shifted).
        targets_N: the token each of those logits should predict.
        weights_N: float32 weight of each token, or None when all weigh 1.
        rows_N: the row of the batch each token belongs to.
    """

    keep_BT: Tensor
    targets_N: Tensor
    weights_N: Tensor | None
    rows_N: Tensor

    def count(self) -> Tensor:
        """Σ weights, or N: what a per-token sum is divided by. A float32 scalar."""
        if self.weights_N is not None:
            return self.weights_N.sum()
        return torch.tensor(float(self.targets_N.numel()), device=self.targets_N.device)

    def row_sums(self, values_N: Tensor) -> Tensor:
        """Sum a value per token within each row: (N,) -> (B,), 0 for a row with no scored token."""
        return values_N.new_zeros(self.keep_BT.shape[0]).index_add(0, self.rows_N, values_N)


def align(labels_BT: Tensor, label_weights_BT: Tensor | None = None, *, encoder_decoder: bool) -> Scored:
    """Find the scored tokens of a batch.

    Args:
        labels_BT: token ids, `IGNORED` where nothing is scored. For a decoder-only model
            label t is input token t (unshifted, as everywhere in the ecosystem).
        label_weights_BT: float weight of each label, or None.
        encoder_decoder: labels stand at their own position and are not shifted.

    Example:
        >>> scored = align(torch.tensor([[-100, 7, 8], [5, 6, -100]]), encoder_decoder=False)
        >>> scored.keep_BT.tolist()
        [[True, True, False], [True, False, False]]
        >>> scored.targets_N.tolist(), scored.rows_N.tolist()
        ([7, 8, 6], [0, 0, 1])
    """
    targets_BT = labels_BT if encoder_decoder else _to_predictor(labels_BT, IGNORED)
    keep_BT = targets_BT != IGNORED
    index_N = keep_BT.reshape(-1).nonzero()[:, 0]
    weights_N = None
    if label_weights_BT is not None:
        weights_BT = label_weights_BT if encoder_decoder else _to_predictor(label_weights_BT, 0.0)
        weights_N = weights_BT.reshape(-1)[index_N].float()
    rows_N = index_N // max(labels_BT.shape[1], 1)
    return Scored(keep_BT, targets_BT.reshape(-1)[index_N], weights_N, rows_N)


def _to_predictor(values_BT: Tensor, fill: float) -> Tensor:
    """Move the value of token t to position t - 1, whose logits predict it."""
    return nn.functional.pad(values_BT[:, 1:], (0, 1), value=fill)


def align_batch(batch: Mapping[str, Tensor], *, encoder_decoder: bool) -> Scored:
    """`align` for a batch with `labels` and perhaps `label_weights`."""
    return align(batch["labels"], batch.get("label_weights"), encoder_decoder=encoder_decoder)


def score(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Scored, Tensor]:
    """Run the model on a batch and return its scored tokens and their logits.

    Args:
        model: any Hugging Face causal or encoder-decoder model, also wrapped (PEFT, DDP).
        batch: `input_ids` (B,T), `attention_mask` (B,T), `labels` (B,T) or (B,U), perhaps `label_weights`.

    Returns:
        The scored tokens and `logits_NV`. With no scored token, N is 0 and a sum over
        the logits is 0 with a gradient (of 0) for every parameter.

    Raises:
        RuntimeError: the model does not make its logits by one call of its output embeddings.
    """
    inner = unwrap(model)
    scored, inputs = _inputs(inner, batch)
    with only_scored(inner, scored.keep_BT) as calls:
        logits_1NV: Tensor = model(**inputs, use_cache=False).logits
    _check_calls(inner, calls, logits_1NV, scored.targets_N.numel())
    return scored, logits_1NV[0]


def hidden(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Scored, Tensor]:
    """Like `score`, but return the rows that enter the output head; no logits are made for them.

    For losses that make logits themselves, a few rows at a time: allowed where `plain_head` holds.

    Args:
        model: as for `score`.
        batch: as for `score`.

    Returns:
        The scored tokens and `hidden_NH`, under autocast in its type, as the head would see them.

    Raises:
        RuntimeError: as `score`.
    """
    inner = unwrap(model)
    scored, inputs = _inputs(inner, batch)
    with only_scored(inner, scored.keep_BT, withhold=True) as calls:
        logits_10V: Tensor = model(**inputs, use_cache=False).logits
    _check_calls(inner, calls, logits_10V, 0)
    hidden_NH = calls[0]
    return scored, hidden_NH


def _inputs(inner: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Scored, dict[str, Any]]:
    """The scored tokens of a batch, and what the model is called with."""
    encoder_decoder = is_encoder_decoder(inner)
    scored = align_batch(batch, encoder_decoder=encoder_decoder)
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if encoder_decoder:
        inputs["decoder_input_ids"] = inner.prepare_decoder_input_ids_from_labels(labels=batch["labels"])  # type: ignore[operator]
    return scored, inputs


def _check_calls(inner: nn.Module, calls: list[Tensor], logits_1NV: Tensor, count: int) -> None:
    if len(calls) != 1 or logits_1NV.shape[:2] != (1, count):
        raise RuntimeError(
            f"{type(inner).__name__} called its output embeddings {len(calls)} times and made logits of "
            f"shape {tuple(logits_1NV.shape)} for {count} scored tokens; this architecture cannot be trained"
        )


@contextmanager
def only_scored(model: nn.Module, keep_BT: Tensor, *, withhold: bool = False) -> Iterator[list[Tensor]]:
    """While open, the model's head sees only the hidden rows where `keep_BT` is true.

    The model then returns logits of shape (1, N, V), or (1, 0, V) if the rows are withheld from
    the head too. Yields a list that gets one entry, the rows (N, H), at each call of the head:
    there must be exactly one.

    Raises:
        RuntimeError: the model has no output embeddings.
    """
    index_N = keep_BT.reshape(-1).nonzero()[:, 0]
    calls: list[Tensor] = []

    def select(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden_BTH = args[0]
        hidden_NH = hidden_BTH.reshape(-1, hidden_BTH.shape[-1]).index_select(0, index_N)
        device = hidden_NH.device.type
        if withhold and torch.is_autocast_enabled(device):
            # Autocast may end with the model's forward, and the type of the products with it.
            hidden_NH = hidden_NH.to(torch.get_autocast_dtype(device))
        calls.append(hidden_NH)
        return (hidden_NH[: 0 if withhold else None].unsqueeze(0), *args[1:]), kwargs

    hook = _head(model).register_forward_pre_hook(select, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def head_weight(model: nn.Module) -> Tensor:
    """The output head's weight (V, H), the parameter itself."""
    weight: Tensor = _head(model).weight  # type: ignore[assignment]
    return weight


def plain_head(model: nn.Module) -> bool:
    """Whether logits are exactly `rows @ head.weight.T`, so that a loss may make them itself.

    Not so with a bias, a soft cap or a scale after the head, LoRA on the head or a copy of it that
    is trained instead, nor where its weight is sharded. Found by the kind of the head and by asking
    the model: three rows put in the place of the head's input must come out as its products with
    them, to the bit. Mode, gradients and random state stay as they are.

    Raises:
        RuntimeError: the model has no output embeddings.
    """
    inner = unwrap(model)
    head = _head(inner)
    if type(head) is not nn.Linear:
        return False
    return _unchanged(head) and _probe(inner, head)


def _unchanged(head: Any) -> bool:
    """Whether a linear layer has no bias, all of its weight, and nobody who interferes."""
    weight = head.weight
    # A shard is another type (DTensor, a view) or has another shape (FSDP, ZeRO).
    whole = type(weight) is nn.Parameter and weight.shape == (head.out_features, head.in_features)
    hooks = head._forward_pre_hooks or head._forward_hooks or head._backward_pre_hooks or head._backward_hooks
    return whole and head.bias is None and not hooks and "forward" not in vars(head)


def _probe(inner: nn.Module, head: nn.Linear) -> bool:
    """Whether the model returns what its head made, for the rows 0, h and 1000 h."""
    made: list[Tensor] = []
    device = head.weight.device
    direction_H = torch.randn(head.in_features, generator=torch.Generator().manual_seed(0))
    rows_13H = torch.outer(torch.tensor([0.0, 1.0, 1000.0]), direction_H).unsqueeze(0)

    def put(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (rows_13H.to(args[0]), *args[1:]), kwargs

    def look(module: nn.Module, args: tuple[Any, ...], logits_13V: Tensor) -> None:
        made.append(logits_13V.clone())  # the model may change it in place

    tokens_13 = torch.zeros(1, 3, dtype=torch.int64, device=device)
    inputs = {"input_ids": tokens_13, "attention_mask": torch.ones_like(tokens_13)}
    if is_encoder_decoder(inner):
        inputs["decoder_input_ids"] = tokens_13
    hooks = [head.register_forward_pre_hook(put, with_kwargs=True), head.register_forward_hook(look)]
    training = {module: module.training for module in inner.modules()}
    try:
        inner.eval()
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            logits_13V: Tensor = inner(**inputs, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
        torch.clear_autocast_cache()  # weights that it cast here would have no gradient
    return len(made) == 1 and torch.equal(logits_13V.float(), made[0].float())


def _head(model: nn.Module) -> nn.Module:
    head: nn.Module | None = unwrap(model).get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise RuntimeError(f"{type(model).__name__} has no output embeddings, so it makes no logits to score")
    return head


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel; a PEFT model stays, it passes its base model's methods on."""
    while isinstance(model, DistributedDataParallel):
        model = model.module
    return model


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether the model reads its prompt with an encoder (T5, BART) rather than continuing it."""
    return bool(unwrap(model).config.is_encoder_decoder)  # type: ignore[union-attr]
