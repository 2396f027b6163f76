"""The two-way divergence of paired spans, and which rows are a pair."""

import doctest
import math

import pytest
import torch

from limbeck.objectives import spans as module
from limbeck.objectives import tokens
from limbeck.objectives.spans import paired_divergence, paired_rows, paired_tokens, two_way_divergence
from limbeck.objectives.tokens import token_loss

from .conftest import term


def test_documented_examples():
    assert doctest.testmod(module).failed == 0


def softmax(logits, tau):
    exps = [math.exp((z - max(logits)) / tau) for z in logits]
    return [e / sum(exps) for e in exps]


def naive(one, other, tau):
    """Value, and the gradient of both sides, one token and one class at a time."""
    value = 0.0
    gradients = torch.zeros(2, *one.shape, dtype=torch.float64)
    for n, rows in enumerate(zip(one.double().tolist(), other.double().tolist(), strict=True)):
        p, q = (softmax(row, tau) for row in rows)
        logs = [math.log(a / b) for a, b in zip(p, q, strict=True)]
        there = sum(a * d for a, d in zip(p, logs, strict=True))
        back = -sum(b * d for b, d in zip(q, logs, strict=True))
        value += 0.5 * (there + back)
        for v, (a, b, d) in enumerate(zip(p, q, logs, strict=True)):
            gradients[0, n, v] = 0.5 / tau * (a * (d - there) + a - b)
            gradients[1, n, v] = 0.5 / tau * (b * (-d - back) + b - a)
    return value, gradients


def case(pairs=5, width=31):
    draw = torch.Generator().manual_seed(pairs)
    return 3 * torch.randn(2, pairs, width, generator=draw)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)])
def test_value_and_gradient_of_both_sides(tau, dtype, tolerance):
    """In bf16 the logits are worked on in float32; their gradient is rounded once."""
    both = case().to(dtype).requires_grad_()
    value = two_way_divergence(both[0], both[1], tau).sum()
    (gradient,) = torch.autograd.grad(value, both)
    expected, expected_gradient = naive(*both.detach(), tau)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert value.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=tolerance, atol=tolerance / 100)


def test_bf16_logits_in_a_pass_over_tokens():
    """The step by which a training makes value and gradient, for every pair alike."""
    both = case().bfloat16()
    source = both.transpose(0, 1).reshape(10, 31).clone().requires_grad_()
    loss, sums = token_loss(source, None, [term(paired_divergence(2.0), 3.0)])
    (gradient,) = torch.autograd.grad(loss, source)
    expected, expected_gradient = naive(*both, 2.0)
    assert sums.item() == pytest.approx(expected, rel=1e-5) and gradient.dtype == torch.bfloat16
    exact = 3 * expected_gradient.transpose(0, 1).reshape(10, 31)
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-2, atol=1e-4)


def test_identity_symmetry_and_temperature():
    one, other = case()
    assert two_way_divergence(one, one).count_nonzero() == 0
    torch.testing.assert_close(two_way_divergence(one, other), two_way_divergence(other, one))
    torch.testing.assert_close(two_way_divergence(one, other), two_way_divergence(3 * one, 3 * other, 3.0))
    assert (two_way_divergence(one, other) > 0).all()


@pytest.mark.parametrize("rows", [2, 4, 100])
@pytest.mark.parametrize("head", [False, True])
def test_pairs_in_a_pass_over_tokens(rows, head, monkeypatch):
    """Rows 2i and 2i+1, weighted, whatever the chunk; a chunk of one row has two."""
    monkeypatch.setattr(tokens, "BLOCK_BYTES", {"cpu": rows * 31 * 4})
    monkeypatch.setattr(tokens, "CHUNK_BYTES", {"cpu": 1})
    one, other = case()
    source = torch.stack([one, other], 1).reshape(10, 31).requires_grad_()
    weights = torch.tensor([1.0, 0.5, 0.25, 0.0, 2.0])
    plain = torch.eye(31) if head else None
    made = term(paired_divergence(2.0), 3.0, weights.repeat_interleave(2))
    loss, sums = token_loss(source, plain, [made])
    (gradient,) = torch.autograd.grad(loss, source)
    both = torch.stack([one, other]).double().requires_grad_()
    expected = (weights * two_way_divergence(both[0], both[1], 2.0)).sum()
    assert sums.item() == pytest.approx(expected.item(), rel=1e-5)
    (exact,) = torch.autograd.grad(3 * expected, both)
    torch.testing.assert_close(gradient.double(), exact.transpose(0, 1).reshape(10, 31), rtol=1e-4, atol=1e-6)


def batch_of(spans, groups, answers, scored=None):
    """Rows of 6 labels; the tokens of row n's answer are answers[n]."""
    labels = torch.arange(10, 10 + 6 * len(spans)).reshape(-1, 6)
    for row, (start, _), answer in zip(labels, spans, answers, strict=True):
        row[start : start + len(answer)] = torch.tensor(answer, dtype=torch.int64)
    return {"labels": labels, "spans": torch.tensor(spans), "groups": torch.tensor(groups)}


def test_who_is_a_pair():
    """Two rows of a group with a span of equal tokens, wherever it stands; all else is not."""
    none = (-1, -1)
    batch = batch_of(
        [(1, 3), (3, 5), (2, 4), (2, 4), (2, 3), none, (2, 4), (2, 4), (2, 4), (1, 3), (4, 6), none],
        [0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4],
        [[7, 8], [7, 8], [7, 8], [7, 9], [7], [], [7, 8], [7, 8], [7, 8], [7, 8], [7, 8], []],
    )
    for encoder_decoder in (False, True):
        found = paired_rows(batch, encoder_decoder=encoder_decoder).nonzero().tolist()
        assert found == [[0, 1], [9, 10]]


def test_spans_of_another_length_are_no_pair():
    batch = batch_of([(1, 3), (1, 4)], [0, 0], [[7, 8], [7, 8, 9]])
    assert not paired_rows(batch, encoder_decoder=False).any()


@pytest.mark.parametrize(("encoder_decoder", "shift"), [(False, 1), (True, 0)])
def test_tokens_of_pairs(encoder_decoder, shift):
    batch = batch_of([(1, 3), (2, 3), (3, 5), (4, 5)], [0, 1, 0, 1], [[7, 8], [9], [7, 8], [9]])
    found = paired_tokens(batch, encoder_decoder=encoder_decoder)
    places = torch.tensor([1, 15, 2, 16, 8, 22]) - shift
    assert torch.equal(found.places_2N, places)
    assert found.weights_2N.tolist() == [0.5, 0.5, 0.5, 0.5, 1.0, 1.0]


def test_a_temperature_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"temperature is 0\.0; it must be above 0"):
        paired_divergence(0.0)
