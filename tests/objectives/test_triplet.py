"""The triplet loss on last states: value and gradient against plain float64 loops."""

import doctest
import math

import pytest
import torch

from limbeck.objectives import triplet as module
from limbeck.objectives.triplet import triplet, triplets


def test_documented_examples():
    assert doctest.testmod(module).failed == 0


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def to_cosine(a, b):
    """∂cos(a, b)/∂a."""
    c = cosine(a, b)
    return [
        y / math.hypot(*a) / math.hypot(*b) - c * x / math.hypot(*a) ** 2 for x, y in zip(a, b, strict=True)
    ]


@pytest.mark.parametrize("margin", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient(margin, dtype):
    states = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()
    values = triplet(*states, margin)
    assert values.dtype == torch.float32
    (gradient,) = torch.autograd.grad(values.sum(), states)
    expected = torch.zeros(3, 9, 5, dtype=torch.float64)
    for m, (a, p, n) in enumerate(zip(*states.double().tolist(), strict=True)):
        value = cosine(a, n) - cosine(a, p) + margin
        assert values[m].item() == pytest.approx(max(0.0, value), abs=1e-5)
        if value > 0:
            expected[0, m] = torch.tensor(to_cosine(a, n)) - torch.tensor(to_cosine(a, p))
            expected[1, m] = -torch.tensor(to_cosine(p, a))
            expected[2, m] = torch.tensor(to_cosine(n, a))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(gradient.double(), expected, rtol=tolerance, atol=tolerance)
    assert margin == 1 or (values == 0).any()


def test_limits():
    """Positive like the anchor and negative against it: 0. The other way round: 2 + ρ. All equal: ρ."""
    a = torch.tensor([[1.0, 2.0]])
    assert triplet(a, 3 * a, -a, 1.0).item() == 0
    assert triplet(a, -a, 2 * a, 1.0).item() == pytest.approx(3.0)
    assert triplet(a, a, a, 0.7).item() == pytest.approx(0.7)


def test_every_combination_within_a_group():
    roles = ["anchor", "positive", "negative", "negative", "positive", "anchor", "negative", "", "positive"]
    batch = {"roles": roles, "groups": torch.tensor([0, 0, 0, 0, 1, 1, 2, 1, 0])}
    assert triplets(batch).nonzero().tolist() == [[0, 1, 2], [0, 1, 3], [0, 8, 2], [0, 8, 3]]


def test_no_triplet_is_zero_with_a_gradient():
    states = torch.randn(0, 5, requires_grad=True)
    total = triplet(states, states, states, 1.0).sum()
    assert total == 0
    assert torch.autograd.grad(total, states)[0].shape == (0, 5)
