"""Cross-entropy: value and gradient against plain float64 loops."""

import doctest
import math

import pytest
import torch

from limbeck.objectives import cross_entropy as module
from limbeck.objectives.cross_entropy import cross_entropy as step
from limbeck.objectives.cross_entropy import smoothing
from limbeck.objectives.tokens import token_loss

from .conftest import term

SHAPES = [(1, 2), (1, 7), (3, 47), (31, 123), (0, 5)]


def test_documented_examples():
    assert doctest.testmod(module).failed == 0


def cross_entropy(logits, targets, weights=None):
    """The term alone, unscaled."""
    return token_loss(logits, None, [term(step(targets), 1.0, weights)])[0]


def naive(logits, targets, weights):
    """Value and gradient, one token and one class at a time: w · (softmax − onehot)."""
    value, gradient = 0.0, [[0.0] * logits.shape[1] for _ in targets]
    for n, (row, target, weight) in enumerate(zip(logits.tolist(), targets, weights, strict=True)):
        top = max(row)
        total = sum(math.exp(z - top) for z in row)
        value -= weight * (row[target] - top - math.log(total))
        for v, z in enumerate(row):
            gradient[n][v] = weight * (math.exp(z - top) / total - (v == target))
    return value, torch.tensor(gradient, dtype=torch.float64).reshape(logits.shape)


def case(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    logits = (4 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(shape[1], shape[:1], generator=generator)
    weights = torch.rand(shape[:1], generator=generator) * 2
    return logits, targets, weights


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_value_and_gradient(shape, weighted, dtype, tolerance):
    logits, targets, weights = case(shape, dtype)
    value = cross_entropy(logits, targets, weights if weighted else None)
    value.backward()
    used = weights.tolist() if weighted else [1.0] * shape[0]
    expected, gradient = naive(logits.detach().double(), targets.tolist(), used)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(logits.grad.double(), gradient, rtol=tolerance, atol=tolerance)


def test_masked_equals_filtered():
    """A token of weight 0 is as if it were not there."""
    logits, targets, _ = case((9, 13))
    keep = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 0])
    masked = cross_entropy(logits, targets, keep.float())
    filtered = cross_entropy(logits[keep.bool()], targets[keep.bool()])
    assert masked.item() == pytest.approx(filtered.item(), rel=1e-6)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (masked, filtered)]
    torch.testing.assert_close(*gradients)


def test_limits():
    """Uniform: log V per token. Certain and right: 0. Certain and wrong: the margin, not infinity."""
    targets = torch.tensor([2, 0])
    assert cross_entropy(torch.zeros(2, 8), targets).item() == pytest.approx(2 * math.log(8))
    certain = 1e4 * torch.nn.functional.one_hot(targets, 8).float()
    assert cross_entropy(certain, targets).item() == 0
    assert cross_entropy(certain, (targets + 1) % 8).item() == pytest.approx(2e4)


def test_bf16_logits_are_summed_in_float32():
    """In bf16 the sum over 4,096 equal classes would lose most of them."""
    logits = torch.zeros(1, 4096, dtype=torch.bfloat16)
    assert cross_entropy(logits, torch.tensor([5])).item() == pytest.approx(math.log(4096), abs=1e-4)


def test_no_tokens_is_zero_with_a_gradient():
    logits, targets, weights = case((0, 5))
    for value in (cross_entropy(logits, targets), cross_entropy(logits, targets, weights)):
        assert value.item() == 0
        assert torch.autograd.grad(value, logits)[0].shape == (0, 5)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7])
def test_label_smoothing(share):
    """(1 − ε) · cross-entropy + ε · smoothing: value and gradient against float64, target smoothed."""
    logits, targets, weights = case((31, 123))
    terms = [term(step(targets), 1 - share, weights), term(smoothing(), share, weights)]
    value = token_loss(logits, None, terms)[0]
    value.backward()
    log_p = logits.detach().double().log_softmax(-1)
    smoothed = torch.full_like(log_p, share / 123)
    smoothed[range(31), targets] += 1 - share
    gradient = weights.double()[:, None] * (log_p.exp() - smoothed)
    assert value.item() == pytest.approx(
        -(weights.double()[:, None] * smoothed * log_p).sum().item(), rel=1e-6
    )
    torch.testing.assert_close(logits.grad.double(), gradient, rtol=1e-5, atol=1e-6)
