"""The only shift and the only mask of the project, and the one forward pass that serves all loss parts.

Shapes: B rows of a batch, T positions of `labels`, N scored tokens of the whole
batch in row order, M rows that the head or a loss sees, S tokens of the longest
span, H hidden size, V vocabulary. A digit is a dimension of that size.

A decoder-only model's logits at position t predict the token at t + 1, an
encoder-decoder's those at t. Everything that scores tokens gets them from here
as aligned `(N, V)` logits and `(N,)` targets and never shifts or masks again.
A *place* is the index of a predictor in the flattened `labels`: row · T + position.

Logits are made for the wanted places only: a forward pre-hook on the output
embeddings keeps their hidden rows, and the model's own forward does the rest, so
that soft caps, scales, biases and LoRA on the head all work. A loss that makes
logits itself, a few rows at a time, gets these rows instead, where `plain_head`
says that the head is one product and nothing more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from limbeck.objectives.shared_prompts import computed_once

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

    def places(self) -> Tensor:
        """Where the logits of the scored tokens are, (N,)."""
        return self.keep_BT.reshape(-1).nonzero()[:, 0]


def align(
    labels_BT: Tensor,
    label_weights_BT: Tensor | None = None,
    scored_B: Tensor | None = None,
    *,
    encoder_decoder: bool,
) -> Scored:
    """Find the scored tokens of a batch.

    Args:
        labels_BT: token ids, `IGNORED` where nothing is scored. For a decoder-only model
            label t is input token t (unshifted, as everywhere in the ecosystem).
        label_weights_BT: float weight of each label, or None.
        scored_B: bool, which rows are scored at all; None: every row.
        encoder_decoder: labels are at their own position and are not shifted.

    Example:
        >>> scored = align(torch.tensor([[-100, 7, 8], [5, 6, -100]]), encoder_decoder=False)
        >>> scored.keep_BT.tolist()
        [[True, True, False], [True, False, False]]
        >>> scored.targets_N.tolist(), scored.rows_N.tolist()
        ([7, 8, 6], [0, 0, 1])
    """
    targets_BT = labels_BT if encoder_decoder else _to_predictor(labels_BT, IGNORED)
    keep_BT = targets_BT != IGNORED
    if scored_B is not None:
        keep_BT = keep_BT & scored_B[:, None]
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


def align_batch(batch: Mapping[str, Any], *, encoder_decoder: bool) -> Scored:
    """`align` for a batch with `labels` and perhaps `label_weights` and `scored`."""
    return align(
        batch["labels"], batch.get("label_weights"), batch.get("scored"), encoder_decoder=encoder_decoder
    )


def token_count(batch: Mapping[str, Any], *, encoder_decoder: bool) -> Tensor:
    """What a sum over scored tokens is divided by: Σ `expected` if given, else Σ weights or N; float32."""
    if "expected" in batch:
        expected_B: Tensor = batch["expected"]
        return expected_B.float().sum()
    return align_batch(batch, encoder_decoder=encoder_decoder).count()


@dataclass(frozen=True, slots=True)
class Spans:
    """The answer span of each row, at its predictors.

    Attributes:
        keep_BS: bool; whether a row's span has so many tokens.
        targets_BS: its tokens, `IGNORED` after its end. The first token of a decoder-only row is not
            among them: nothing predicts it.
        places_BS: the place of the logits that predict each; 0 after its end.
    """

    keep_BS: Tensor
    targets_BS: Tensor
    places_BS: Tensor


def align_spans(batch: Mapping[str, Any], *, encoder_decoder: bool) -> Spans:
    """Find the tokens of `spans` (B,2): first and one-past-last position in `labels`, (-1,-1) for none.

    Rows that are not scored have spans too.

    Example:
        >>> labels = torch.tensor([[-100, 5, 6, 7], [-100, 8, 9, -100]])
        >>> batch = {"labels": labels, "spans": torch.tensor([[2, 4], [-1, -1]])}
        >>> spans = align_spans(batch, encoder_decoder=False)
        >>> spans.targets_BS[0].tolist(), spans.places_BS[0].tolist(), spans.keep_BS[1].any().item()
        ([6, 7, -100, -100], [1, 2, 0, 0], False)
    """
    labels_BT = batch["labels"]
    shift = 0 if encoder_decoder else 1
    first_B1, end_B1 = batch["spans"].to(labels_BT.device).clamp_min(shift).split(1, dim=1)
    count, width = labels_BT.shape
    positions_BS = first_B1 + torch.arange(width, device=labels_BT.device)
    keep_BS = positions_BS < end_B1
    positions_BS = positions_BS.clamp_max(width - 1)
    targets_BS = labels_BT.gather(1, positions_BS).masked_fill(~keep_BS, IGNORED)
    rows_B1 = torch.arange(count, device=labels_BT.device)[:, None]
    return Spans(keep_BS, targets_BS, (rows_B1 * width + positions_BS - shift).masked_fill(~keep_BS, 0))


Pooling = Literal["last", "mean"]
"""Which state is a row's: the one that has read its last label (the end of sequence), or the mean of those
that have read a label of its completion."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one run of a model gave.

    Attributes:
        found_MX: the logits (M,V) of the wanted places, or the rows (M,H) that would enter the head,
            under autocast in its type, as the head would see them.
        states: by pooling the states (B,H) that were asked for, as they would enter the head; of a row
            without labels some other.
        nothing: 0, with a gradient path through the head.
        router: a mixture-of-experts model's own balance loss of this batch, not yet multiplied with its
            coefficient; None where its config does not ask for it (`output_router_logits`).
    """

    found_MX: Tensor
    states: Mapping[Pooling, Tensor]
    nothing: Tensor
    router: Tensor | None = None


def run(
    model: nn.Module,
    batch: Mapping[str, Any],
    places_M: Tensor,
    *,
    withhold: bool = False,
    states: Collection[Pooling] = (),
    share: bool = False,
) -> Pass:
    """Run the model once on a batch.

    Args:
        model: any Hugging Face causal or encoder-decoder model, also wrapped (PEFT, DDP).
        batch: `input_ids` (B,T), `attention_mask` (B,T), `labels` (B,T) or (B,U); for the mean of states
            `begins` (B,), where in the labels the completions begin. A decoder-only batch that is padded on
            the left has `position_ids` (B,T) too: models with learned positions count padding as tokens.
        places_M: where predictors are (see `Scored.places`, `Spans`), any order, or none.
        withhold: give the rows that enter the head in place of logits; allowed where `plain_head` holds.
        states: which are wanted. An encoder-decoder's decoder then reads one token more.
        share: compute a prompt that rows have in common once (see `shared_prompts`); the result is the same.

    Raises:
        RuntimeError: the model does not make its logits by one call of its output embeddings.
        ValueError: the batch was made for a model of the other kind.
    """
    inner = unwrap(model)
    labels_BT: Tensor = batch["labels"]
    width = labels_BT.shape[1]
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    reads = {pooling: _reads(batch, pooling) for pooling in states}
    if is_encoder_decoder(inner):
        if reads:  # the decoder reads the labels one position later
            labels_BT = nn.functional.pad(labels_BT, (0, 1), value=IGNORED)
            reads = {pooling: (first_B + 1, last_B + 1) for pooling, (first_B, last_B) in reads.items()}
        inputs["decoder_input_ids"] = inner.prepare_decoder_input_ids_from_labels(labels=labels_BT)  # type: ignore[operator]
    elif labels_BT.shape != batch["input_ids"].shape:
        raise ValueError(
            f"labels {tuple(labels_BT.shape)} for inputs {tuple(batch['input_ids'].shape)}: "
            "the batch was made for an encoder-decoder, and the model is decoder-only"
        )
    elif "position_ids" in batch:
        inputs["position_ids"] = batch["position_ids"]
    once = computed_once(inner, batch) if share else nullcontext()
    with only_places(inner, places_M, width, reads, withhold=withhold) as calls, once:
        output = model(**inputs, use_cache=False)
    logits_1NV: Tensor = output.logits
    _check_calls(inner, calls, logits_1NV, 0 if withhold else len(places_M))
    rows_MH, found = calls[0]
    found_MX = rows_MH if withhold else logits_1NV[0]
    return Pass(found_MX, found, logits_1NV[0, :0].float().sum(), output.get("aux_loss"))


Reads = tuple[Tensor, Tensor]
"""Positions (B,) of the first and of the last state whose mean is a row's state."""


def _reads(batch: Mapping[str, Any], pooling: Pooling) -> Reads:
    """In `labels`; a row that has none gives position 0."""
    labels_BT: Tensor = batch["labels"]
    positions_T = torch.arange(labels_BT.shape[1], device=labels_BT.device)
    last_B = torch.where(labels_BT != IGNORED, positions_T, 0).amax(1)
    return (last_B if pooling == "last" else batch["begins"].clamp_max(last_B)), last_B


def _mean_state(hidden_BTH: Tensor, reads: Reads) -> Tensor:
    """The mean (B,H) of each row's states from the first to the last read."""
    first_B, last_B = reads
    if first_B is last_B:
        return hidden_BTH[torch.arange(len(last_B), device=last_B.device), last_B]
    positions_T = torch.arange(hidden_BTH.shape[1], device=last_B.device)
    inside_BT = (positions_T >= first_B[:, None]) & (positions_T <= last_B[:, None])
    weights_BT = inside_BT / inside_BT.sum(1, keepdim=True)
    return torch.bmm(weights_BT[:, None].to(hidden_BTH), hidden_BTH)[:, 0]


def score(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Scored, Tensor]:
    """Run the model on a batch and return its scored tokens and their logits (N,V).

    With no scored token, N is 0 and a sum over the logits is 0 with a gradient (of 0) for every
    parameter. `model`, `batch` and errors are as for `run`.
    """
    scored = align_batch(batch, encoder_decoder=is_encoder_decoder(model))
    return scored, run(model, batch, scored.places()).found_MX


def hidden(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Scored, Tensor]:
    """Like `score`, but return the rows (N,H) that enter the output head; no logits are made for them."""
    scored = align_batch(batch, encoder_decoder=is_encoder_decoder(model))
    return scored, run(model, batch, scored.places(), withhold=True).found_MX


Call = tuple[Tensor, dict[Pooling, Tensor]]
"""What the head was called with: the chosen rows (M,H) and the states (B,H)."""


def _check_calls(inner: nn.Module, calls: list[Call], logits_1NV: Tensor, count: int) -> None:
    if len(calls) != 1 or logits_1NV.shape[:2] != (1, count):
        raise RuntimeError(
            f"{type(inner).__name__} called its output embeddings {len(calls)} times and made logits of "
            f"shape {tuple(logits_1NV.shape)} for {count} scored tokens; this architecture cannot be trained"
        )


@contextmanager
def only_places(
    model: nn.Module, places_M: Tensor, width: int, reads: Mapping[Pooling, Reads], *, withhold: bool
) -> Iterator[list[Call]]:
    """While open, the model's head sees only the hidden rows at the places.

    The model then returns logits of shape (1, M, V), or (1, 0, V) if the rows are withheld from
    the head too. Yields a list that gets one entry at each call of the head: there must be exactly one.

    Args:
        width: T of the places; the hidden states may be wider.
        reads: of which states the mean is wanted, by pooling.

    Raises:
        RuntimeError: the model has no output embeddings.
    """
    calls: list[Call] = []

    def select(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden_BTH = args[0]
        wider = hidden_BTH.shape[1] - width
        index_M = places_M + places_M // width * wider if wider else places_M
        rows_MH = hidden_BTH.reshape(-1, hidden_BTH.shape[-1]).index_select(0, index_M)
        states = {pooling: _mean_state(hidden_BTH, own) for pooling, own in reads.items()}
        device = rows_MH.device.type
        if withhold and torch.is_autocast_enabled(device):
            # Autocast may end with the model's forward, and the type of the products with it.
            rows_MH = rows_MH.to(torch.get_autocast_dtype(device))
        calls.append((rows_MH, states))
        return (rows_MH[: 0 if withhold else None].unsqueeze(0), *args[1:]), kwargs

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
    head = linear_head(model)
    return head is not None and not _has_hooks(head) and _probe(unwrap(model), head)


def linear_head(model: nn.Module) -> nn.Linear | None:
    """The output head if it is a linear layer without a bias that has all of its weight; cheap to ask.

    Raises:
        RuntimeError: the model has no output embeddings.
    """
    head = _head(model)
    return head if type(head) is nn.Linear and _is_whole(head) and not is_sharded(model) else None


def is_sharded(model: nn.Module) -> bool:
    """Whether its weights are shared out among processes (FSDP2).

    A head of such a model looks whole for a while after a pass without gradients, and must be left alone.
    """
    return any(isinstance(module, FSDPModule) for module in model.modules())


def _is_whole(head: Any) -> bool:
    """Whether a linear layer has no bias, all of its weight, and its own forward."""
    weight = head.weight
    # A shard is another type (DTensor, a view) or has another shape (FSDP, ZeRO). One of ZeRO's has an id,
    # and looks whole at times.
    shape, part = (head.out_features, head.in_features), "ds_id" in vars(weight)
    whole = type(weight) is nn.Parameter and weight.shape == shape and not part
    return whole and head.bias is None and "forward" not in vars(head)


def _has_hooks(head: Any) -> bool:
    """Whether somebody interferes with a layer."""
    before = head._forward_pre_hooks or head._backward_pre_hooks
    return bool(before or head._forward_hooks or head._backward_hooks)


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


def router_coefficient(model: nn.Module) -> float | None:
    """What a mixture-of-experts model multiplies its router loss with; None where its config asks for none.

    Raises:
        ValueError: its config asks for a router loss that it does not return by itself.
    """
    inner = unwrap(model)
    config = inner.config.get_text_config(decoder=True)  # type: ignore[operator,union-attr]
    if not config.to_dict().get("output_router_logits"):
        return None
    names = ("router_aux_loss_coef", "aux_loss_coef")  # the second is JetMoe's
    found = next((value for name in names if (value := getattr(inner, name, None)) is not None), None)
    if found is None or is_encoder_decoder(inner):
        raise ValueError(
            f"{config.model_type}: its config.json asks for a router loss (output_router_logits: true) that "
            "this architecture does not return by itself; set it to false there"
        )
    return float(found)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel or DeepSpeed's engine; a PEFT model stays, it passes its base
    model's methods on."""
    # By its name, because DeepSpeed is rarely installed.
    while isinstance(model, DistributedDataParallel) or type(model).__name__ == "DeepSpeedEngine":
        model = model.module  # type: ignore[assignment]
    return model


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether the model reads its prompt with an encoder (T5, BART) rather than continuing it."""
    return bool(unwrap(model).config.is_encoder_decoder)  # type: ignore[union-attr]
