"""The one shift and mask: by hand, and against full logits on real architectures."""

import doctest
import math

import pytest
import torch

from limbeck.objectives import align as module
from limbeck.objectives.align import align, align_batch, align_spans, only_places, run, score, token_count
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.tokens import token_loss

from .conftest import term


def test_documented_examples():
    assert doctest.testmod(module).failed == 0


def test_causal_by_hand():
    """Row 0: prompt 4 5, completion 6 7. Row 1: completion 8 and a padding."""
    labels = torch.tensor([[-100, -100, 6, 7], [-100, 8, -100, -100]])
    scored = align(labels, encoder_decoder=False)
    assert scored.keep_BT.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert scored.targets_N.tolist() == [6, 7, 8]
    assert scored.rows_N.tolist() == [0, 0, 1]
    assert scored.count().item() == 3


def test_causal_first_token_is_never_scored():
    """Nothing stands before it that could predict it."""
    assert align(torch.tensor([[9, 8]]), encoder_decoder=False).targets_N.tolist() == [8]


def test_encoder_decoder_by_hand():
    labels = torch.tensor([[6, 7, 1], [8, 1, -100]])
    scored = align(labels, encoder_decoder=True)
    assert scored.keep_BT.tolist() == [[True, True, True], [True, True, False]]
    assert scored.targets_N.tolist() == [6, 7, 1, 8, 1]
    assert scored.rows_N.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("encoder_decoder", "expected"), [(False, [0.5, 1.0, 0.25]), (True, [9, 0.5, 1.0, 0.25])]
)
def test_weights_move_with_their_tokens(encoder_decoder, expected):
    labels = torch.tensor([[3, 4, 5, -100], [-100, 6, -100, -100]])
    weights = torch.tensor([[9, 0.5, 1.0, 7.0], [8.0, 0.25, 7.0, 7.0]])
    scored = align(labels, weights, encoder_decoder=encoder_decoder)
    assert scored.weights_N.tolist() == expected
    assert scored.count().item() == sum(expected)


def loss_and_gradient(model, batch, loss_of):
    model.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def scored_loss(model, batch):
    scored, logits = score(model, batch)
    assert logits.shape == (len(scored.targets_N), model.config.vocab_size)
    return token_loss(logits, None, [term(cross_entropy(scored.targets_N))])[0]


def full_loss(model, batch, shift=1):
    """Full logits and an explicit loop over positions; `shift` 0 is the wrong one for a causal model."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if model.config.is_encoder_decoder:
        labels = batch["labels"]
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=labels)
        shift = 0
    log_p = model(**inputs).logits.double().log_softmax(-1)
    total = log_p.sum() * 0
    for row, labels in enumerate(batch["labels"].tolist()):
        for position, label in enumerate(labels):
            if label != -100:
                total = total - log_p[row, position - shift, label]
    return total


def distance(one, other):
    """Relative distance of two gradients."""
    difference = math.sqrt(sum((one[n] - other[n]).double().square().sum().item() for n in other))
    return difference / math.sqrt(sum(g.double().square().sum().item() for g in other.values()))


def test_scored_logits_equal_full_logits(model, batch):
    loss, gradient = loss_and_gradient(model, batch, scored_loss)
    expected, expected_gradient = loss_and_gradient(model, batch, full_loss)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert distance(gradient, expected_gradient) < 1e-5


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_wrong_shift_would_be_noticed(model, batch):
    _, gradient = loss_and_gradient(model, batch, scored_loss)
    _, wrong = loss_and_gradient(model, batch, lambda m, b: full_loss(m, b, shift=0))
    assert distance(gradient, wrong) > 0.3


def test_gradient_checkpointing_changes_nothing(model, batch):
    loss, gradient = loss_and_gradient(model.train(), batch, scored_loss)
    model.activation_checkpointing_enable()
    again, gradient_again = loss_and_gradient(model, batch, scored_loss)
    assert again == pytest.approx(loss, rel=1e-6)
    assert distance(gradient_again, gradient) < 1e-5


def test_padding_changes_nothing(model, batch):
    loss, gradient = loss_and_gradient(model, batch, scored_loss)
    fill = {"input_ids": 2, "attention_mask": 0, "labels": -100}
    padded = {n: torch.nn.functional.pad(batch[n], (0, 6), value=fill[n]) for n in fill}
    again, gradient_again = loss_and_gradient(model, padded, scored_loss)
    assert again == pytest.approx(loss, rel=1e-6)
    assert distance(gradient_again, gradient) < 1e-5


def test_nothing_scored_is_zero_with_a_gradient(model, batch):
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss, gradient = loss_and_gradient(model, batch, scored_loss)
    assert loss == 0
    assert gradient and all(value.count_nonzero() == 0 for value in gradient.values())


@pytest.mark.parametrize("model", ["t5"], indirect=True)
def test_the_hook_goes_even_after_an_error(model, batch):
    places = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(KeyError, match="fix"), only_places(model, places, 1, {}, withhold=False):
        raise KeyError("fix")
    assert not model.get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_head_called_twice_is_refused(model, batch, monkeypatch):
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, **k: (forward(self, **k), forward(self, **k))[1])
    with pytest.raises(RuntimeError, match="LlamaForCausalLM called its output embeddings 2 times"):
        score(model, batch)


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_model_without_a_head_is_refused(model, batch):
    model.lm_head = None
    with pytest.raises(RuntimeError, match="no output embeddings"):
        score(model, batch)


def test_rows_that_are_not_scored_have_no_tokens():
    labels = torch.tensor([[6, 7, 1], [8, 9, 1]])
    scored = align(labels, None, torch.tensor([False, True]), encoder_decoder=True)
    assert scored.targets_N.tolist() == [8, 9, 1] and scored.rows_N.tolist() == [1, 1, 1]
    assert scored.places().tolist() == [3, 4, 5]


def test_token_count():
    """What was expected, if that is given; else weights; else the number of scored tokens."""
    batch = {"labels": torch.tensor([[-100, 7, 8], [3, 4, -100]]), "scored": torch.tensor([True, False])}
    assert token_count(batch, encoder_decoder=False).item() == 2
    batch["label_weights"] = torch.tensor([[0.1, 0.5, 1.0], [1.0, 1.0, 0.0]])
    assert token_count(batch, encoder_decoder=False).item() == 1.5
    batch["expected"] = torch.tensor([2.5, 0.0])
    assert token_count(batch, encoder_decoder=False).item() == 2.5
    assert token_count(batch, encoder_decoder=False).dtype == torch.float32


@pytest.mark.parametrize(("encoder_decoder", "first"), [(False, 1), (True, 2)])
def test_spans_by_hand(encoder_decoder, first):
    """Also of a row that is not scored; none; and one that begins where nothing predicts it."""
    labels = torch.tensor([[-100, 5, 6, 7], [4, 8, 9, -100], [4, 8, 9, -100], [4, 8, 9, -100]])
    spans = torch.tensor([[2, 4], [-1, -1], [0, 2], [1, 1]])
    batch = {"labels": labels, "spans": spans, "scored": torch.zeros(4, dtype=torch.bool)}
    found = align_spans(batch, encoder_decoder=encoder_decoder)
    assert found.keep_BS.sum(1).tolist() == [2, 0, 2 if encoder_decoder else 1, 0]
    assert found.targets_BS[0].tolist() == [6, 7, -100, -100]
    assert found.places_BS[0].tolist() == [first, first + 1, 0, 0]
    assert found.targets_BS[2].tolist() == ([4, 8, -100, -100] if encoder_decoder else [8, -100, -100, -100])
    assert found.places_BS[2, 0].item() == 8


def test_last_states_have_read_the_end(model, batch):
    """Against the whole hidden states: the row that enters the head at, or after, the last label."""
    seen = []
    head = model.get_output_embeddings()
    scored = align_batch(batch, encoder_decoder=model.config.is_encoder_decoder)
    for withhold in (False, True):
        found = run(model, batch, scored.places().flip(0), withhold=withhold, states=("last", "mean"))
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        last = [row.tolist() for row in batch["labels"]]
        last = [max((t for t, label in enumerate(row) if label != -100), default=0) for row in last]
        if model.config.is_encoder_decoder:
            longer = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)
            inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=longer)
            last = [t + 1 for t in last]
        hook = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        logits = model(**inputs).logits
        hook.remove()
        expected = torch.stack([seen[-1][row, t] for row, t in enumerate(last)])
        torch.testing.assert_close(found.states["last"][:2], expected[:2], rtol=1e-5, atol=1e-6)
        if not withhold:
            width = batch["labels"].shape[1]
            places = scored.places().flip(0)
            whole = logits[places // width, places % width]
            torch.testing.assert_close(found.found_MX, whole, rtol=1e-5, atol=1e-6)
        firsts = [one + model.config.is_encoder_decoder for one in batch["begins"].tolist()]
        reads = enumerate(zip(firsts, last, strict=True))
        means = torch.stack([seen[-1][row, a : b + 1].mean(0) for row, (a, b) in reads])
        torch.testing.assert_close(found.states["mean"][:2], means[:2], rtol=1e-5, atol=1e-6)
        (found.states["last"].sum() + found.states["mean"].sum() + found.nothing).backward()
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_batch_of_another_kind_is_refused(model, batch):
    batch["labels"] = batch["labels"][:, 1:]
    with pytest.raises(ValueError, match="made for an encoder-decoder, and the model is decoder-only"):
        score(model, batch)
