"""Listwise losses: value and gradient against plain float64 loops; only real candidates count."""

import doctest
import math

import pytest
import torch

from limbeck.objectives import listwise as module
from limbeck.objectives.listwise import annealed, best_cross_entropy, listwise_kl


def test_documented_examples():
    assert doctest.testmod(module).failed == 0


def lists(seed=0, questions=5, candidates=6):
    """Scores, targets and a mask; nonsense where nothing is. The first list is full, the last has one."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(questions, candidates, generator=draw) * 3
    targets = torch.randn(questions, candidates, generator=draw).abs() * 10
    mask = torch.rand(questions, candidates, generator=draw) < 0.6
    mask[0], mask[-1] = True, torch.tensor([False, False, True, False, False, False])
    scores[~mask], targets[~mask] = 1e6, 1e6
    return scores, targets, mask


def softmax(values):
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / sum(powers) for power in powers]


def reference(scores, targets, mask, tau_targets, tau_scores):
    """Values of both losses and the gradients of their sums, in Python's floats; without ties."""
    values = {"kl": [], "ce": []}
    gradients = {name: torch.zeros(scores.shape, dtype=torch.float64) for name in values}
    for row, (s, b) in enumerate(zip(scores.double().tolist(), targets.double().tolist(), strict=True)):
        places = [place for place in range(len(s)) if mask[row, place]]
        q = softmax([s[place] / tau_scores for place in places])
        wanted = softmax([b[place] / tau_targets for place in places])
        best = max(range(len(places)), key=lambda one: b[places[one]])
        values["kl"].append(sum(p * (math.log(p) - math.log(o)) for p, o in zip(wanted, q, strict=True)))
        values["ce"].append(-math.log(q[best]))
        for one, place in enumerate(places):
            gradients["kl"][row, place] = (q[one] - wanted[one]) / tau_scores
            gradients["ce"][row, place] = (q[one] - (one == best)) / tau_scores
    return values, gradients


@pytest.mark.parametrize(("tau_targets", "tau_scores"), [(1.0, 1.0), (5.0, 0.3), (0.7, 20.0)])
@pytest.mark.parametrize("name", ["kl", "ce"])
def test_value_and_gradient(name, tau_targets, tau_scores):
    scores, targets, mask = lists()
    scores.requires_grad_()
    if name == "kl":
        found = listwise_kl(scores, targets, mask, tau_targets, tau_scores)
    else:
        found = best_cross_entropy(scores, targets, mask, tau_scores)
    values, gradients = reference(scores.detach(), targets, mask, tau_targets, tau_scores)
    assert found.tolist() == pytest.approx(values[name], rel=1e-4, abs=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    torch.testing.assert_close(gradient.double(), gradients[name], rtol=1e-4, atol=1e-6)


LOSSES = {
    "kl": lambda s, b, m: listwise_kl(s, b, m, 2.0, 0.5),
    "ce": lambda s, b, m: best_cross_entropy(s, b, m, 0.5),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_padded_candidates_and_their_order_change_nothing(loss):
    scores, targets, mask = lists()
    targets[1, mask[1]] = 4.0  # all of them are the best
    expected = loss(scores, targets, mask)
    order = torch.tensor([4, 2, 0, 5, 3, 1])
    torch.testing.assert_close(loss(scores[:, order], targets[:, order], mask[:, order]), expected)
    scores[~mask], targets[~mask] = torch.nan, torch.inf
    scores.requires_grad_()
    found = loss(scores, targets, mask)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert gradient.isfinite().all() and not gradient[~mask].any()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_list_of_none_or_one_teaches_nothing(loss):
    scores, targets, mask = lists()
    mask[0] = False
    scores.requires_grad_()
    found = loss(scores, targets, mask)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    for row in (0, -1):
        assert found[row].item() == 0 and not gradient[row].any()


def test_equal_distributions_have_no_divergence():
    _, targets, mask = lists()
    found = listwise_kl(targets / 4 + 3, targets, mask, 2.0, 0.5)
    torch.testing.assert_close(found, torch.zeros(5), atol=1e-5, rtol=0)


def test_the_library_loss_is_the_same_but_for_its_scale():
    """It multiplies by the square of τ₂, which an annealed τ₂ would make a hidden schedule of the rate."""
    scores, targets, _ = lists()
    mask = torch.ones_like(scores, dtype=torch.bool)
    scores, targets = scores.clamp(max=9), targets.clamp(max=9)
    log_q, log_p = (scores / 0.5).log_softmax(-1), (targets / 2.0).log_softmax(-1)
    theirs = torch.nn.KLDivLoss(reduction="batchmean", log_target=True)(log_q, log_p) * 0.5**2
    ours = listwise_kl(scores, targets, mask, 2.0, 0.5).mean()
    torch.testing.assert_close(ours * 0.5**2, theirs)


def test_temperatures_stay_between_their_bounds():
    """KARD's published schedule is negative from 5.1 % on, and then prefers the worst passages."""
    found = [annealed(5.0, 1.0, step / 100) for step in range(101)]
    assert found == sorted(found, reverse=True) and found[0] == 5.0 and 1.0 <= found[-1] < 1.001
    published = [1.0 - 4 * (2 / (1 + math.exp(-10 * step / 100)) - 1) for step in range(101)]
    assert min(published) < -2.9  # what must not come back


@pytest.mark.parametrize("tau", [0.0, -1.0, math.inf, math.nan])
def test_no_other_temperature(tau):
    scores, targets, mask = lists()
    with pytest.raises(ValueError, match="temperature"):
        listwise_kl(scores, targets, mask, 1.0, tau)
