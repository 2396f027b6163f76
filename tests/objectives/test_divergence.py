"""The divergence, alone and with cross-entropy in one pass: value and gradient against float64 loops."""

import doctest
import math
from dataclasses import replace

import pytest
import torch

from limbeck.objectives import divergence as module
from limbeck.objectives import tokens
from limbeck.objectives.divergence import divergence
from limbeck.objectives.soft import SoftTargets, full, top_k
from limbeck.objectives.tokens import token_loss

from .conftest import diverging, mixture, term

SHAPES = [(1, 2, 2), (3, 47, 41), (7, 131, 131), (61, 47, 40)]


def without_tail(logits, tau, vocabulary):
    """A few tokens hold all mass."""
    soft = top_k(logits, tau, vocabulary, min(5, vocabulary - 1))
    return replace(soft, log_p_NK=soft.log_p_NK.log_softmax(-1), tail=False)


CODECS = {
    "full": full,
    "top_k": lambda logits, tau, vocabulary: top_k(logits, tau, vocabulary, 5),
    "without_tail": without_tail,
}
codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def test_documented_examples():
    assert doctest.testmod(module).failed == 0


def generator(seed):
    return torch.Generator().manual_seed(seed)


def softmax(logits):
    top = max(logits)
    exps = [math.exp(z - top) for z in logits]
    return [e / sum(exps) for e in exps]


def naive(logits, targets, soft, tau, share, factor=1.0, weights=None):
    """Both sums, and the gradient of their mixture, one token and one category at a time."""
    rows = logits.double().tolist()
    weights = [1.0] * len(rows) if weights is None else weights.tolist()
    total_ce = total_kl = 0.0
    gradient = torch.zeros(logits.shape, dtype=torch.float64)
    for n, (row, target, w) in enumerate(zip(rows, targets.tolist(), weights, strict=True)):
        p_all = softmax(row)
        total_ce -= w * math.log(p_all[target])
        for v, p in enumerate(p_all):
            gradient[n, v] += w * (1 - share) * (p - (v == target))
        q = softmax([z / tau for z in row[: soft.vocabulary]])
        for mass, members in categories(soft, n):
            own = sum(q[v] for v in members)
            total_kl += w * factor * (mass * math.log(mass / own) if mass else 0.0)
            for v in members:
                gradient[n, v] += w * share * factor / tau * (q[v] - mass * q[v] / own)
    return total_ce, total_kl, gradient


def categories(soft, n):
    """The mentor's mass of each set of tokens; they cover the vocabulary."""
    mass = dict.fromkeys(range(soft.vocabulary), 0.0)
    log_p = soft.log_p_NK[n].tolist()
    ids = range(soft.vocabulary) if soft.ids_NK is None else soft.ids_NK[n].tolist()
    for token, value in zip(ids, log_p, strict=True):
        mass[token] += math.exp(value)
    if not soft.tail:
        return [(p, [token]) for token, p in mass.items()]
    rest = [token for token in mass if token not in ids]
    return [(mass[token], [token]) for token in ids] + [(max(0.0, 1 - sum(mass.values())), rest)]


def case(shape=(7, 131, 131), codec=full, tau=2.0, dtype=torch.float32):
    rows, width, vocabulary = shape
    draw = generator(sum(shape))
    logits = (3 * torch.randn(rows, width, generator=draw)).to(dtype).requires_grad_()
    targets = torch.randint(width, (rows,), generator=draw)
    weights = torch.rand(rows, generator=draw) * 2
    soft = codec(3 * torch.randn(rows, width, generator=draw), tau, vocabulary)
    return logits, targets, soft, weights


def run(logits, targets, soft, tau=2.0, share=0.3, squared=False, weights=None):
    """Both sums as numbers, and the gradient of their mixture."""
    loss, sums = mixture(logits, None, targets, soft, tau, share, squared, weights)
    assert loss.dtype == sums.dtype == torch.float32 and loss.shape == () and not sums.requires_grad
    ce, kl = sums.tolist()
    assert loss.item() == pytest.approx((1 - share) * ce + share * kl, rel=1e-5, abs=1e-6)
    return ce, kl, torch.autograd.grad(loss, logits)[0]


def assert_same(found, expected, rtol=1e-5, atol=1e-6):
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-5)
    assert found[1] == pytest.approx(expected[1], rel=1e-5, abs=1e-5)
    torch.testing.assert_close(found[2].double(), expected[2].double(), rtol=rtol, atol=atol)


@codecs
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tau", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient(codec, shape, tau, weighted):
    logits, targets, soft, weights = case(shape, codec, tau)
    used = weights if weighted else None
    before = logits.detach().clone()
    found = run(logits, targets, soft, tau, weights=used)
    assert_same(found, naive(logits, targets, soft, tau, 0.3, weights=used))
    assert torch.equal(logits, before)


@codecs
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_part_alone(codec, share):
    """Scaled by 0, a term has its sum and no gradient."""
    logits, targets, soft, _ = case(codec=codec)
    assert_same(run(logits, targets, soft, 2.0, share), naive(logits, targets, soft, 2.0, share))


@codecs
def test_divergence_alone_is_the_second_part(codec):
    logits, targets, soft, weights = case((7, 47, 41), codec)
    value = diverging(logits, soft, squared=True, weights=weights)
    _, expected, gradient = run(logits, targets, soft, 2.0, 1.0, squared=True, weights=weights)
    assert value.item() == expected
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], gradient)


@codecs
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_bfloat16_logits_are_worked_on_in_float32(codec, tau):
    logits, targets, soft, _ = case((7, 131, 120), codec, tau, torch.bfloat16)
    found = run(logits, targets, soft, tau)
    assert found[2].dtype == torch.bfloat16
    assert_same(found, naive(logits, targets, soft, tau, 0.3), rtol=1e-2, atol=1e-4)


@codecs
def test_a_student_like_its_mentor_diverges_by_nothing(codec):
    logits, _, _, _ = case()
    soft = codec(logits.detach(), 2.0, 131)
    if codec is without_tail:  # its few tokens are not the mentor: put the student where they are
        soft = SoftTargets(torch.full((7, 1), 0.0), logits.detach().argmax(-1, keepdim=True), False, 131)
        logits = (
            logits.detach() + 900 * torch.nn.functional.one_hot(soft.ids_NK[:, 0], 131)
        ).requires_grad_()
    value = diverging(logits, soft)
    assert value.item() == pytest.approx(0.0, abs=1e-5)
    assert torch.autograd.grad(value, logits)[0].abs().max() < 1e-6


def test_as_many_as_there_are_equals_full():
    """Also where the entries come with ids, in another order and with a tail that is empty."""
    logits, targets, whole, _ = case((7, 47, 41))
    order = torch.randperm(41, generator=generator(0)).expand(7, 41)
    shuffled = SoftTargets(whole.log_p_NK.gather(1, order), order, True, 41)
    expected = run(logits, targets, whole)
    for soft in (shuffled, replace(shuffled, tail=False)):
        assert_same(run(logits, targets, soft), expected)


@codecs
def test_masked_equals_filtered(codec):
    """A token of weight 0 is as if it were not there."""
    logits, targets, soft, _ = case(codec=codec)
    keep = torch.tensor([1, 0, 1, 1, 0, 0, 1])
    masked = run(logits, targets, soft, weights=keep.float())
    ids = None if soft.ids_NK is None else soft.ids_NK[keep.bool()]
    fewer = SoftTargets(soft.log_p_NK[keep.bool()], ids, soft.tail, soft.vocabulary)
    loss, sums = mixture(logits[keep.bool()], None, targets[keep.bool()], fewer)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert_same(masked, (*sums.tolist(), gradient))


@codecs
def test_all_masked_is_zero_with_a_gradient_of_zero(codec):
    logits, targets, soft, _ = case(codec=codec)
    ce, kl, gradient = run(logits, targets, soft, weights=torch.zeros(7))
    assert ce == kl == gradient.count_nonzero() == 0


@codecs
def test_padding_rows_of_the_embedding_do_not_diverge(codec):
    """They have no part in the divergence and get no gradient from it, whatever their logits."""
    logits, _, soft, _ = case((7, 47, 41), codec)
    other = logits.detach().clone()
    other[:, 41:] = 50.0
    other.requires_grad_()
    values = [diverging(z, soft) for z in (logits, other)]
    gradients = [torch.autograd.grad(v, z)[0] for v, z in zip(values, (logits, other), strict=True)]
    assert values[0].item() == values[1].item()
    assert torch.equal(*gradients) and gradients[0][:, 41:].count_nonzero() == 0


@codecs
def test_temperature_stands_on_both_sides(codec):
    """Logits of mentor and student times τ, at τ, diverge as the logits themselves at 1."""
    logits = case()[0]
    scaled = (3 * logits.detach()).requires_grad_()
    mentor = 3 * torch.randn(7, 131, generator=generator(8))
    one, three = codec(mentor, 1.0, 131), codec(3 * mentor, 3.0, 131)
    values = [diverging(logits, one, 1.0), diverging(scaled, three, 3.0)]
    assert values[1].item() == pytest.approx(values[0].item(), rel=1e-5)
    gradients = [torch.autograd.grad(v, z)[0] for v, z in zip(values, (logits, scaled), strict=True)]
    torch.testing.assert_close(3 * gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@codecs
def test_squared_multiplies_by_the_square_of_the_temperature(codec):
    logits, targets, soft, _ = case(codec=codec, tau=3.0)
    plain = run(logits, targets, soft, 3.0, 1.0)
    squared = run(logits, targets, soft, 3.0, 1.0, squared=True)
    assert squared[0] == plain[0]
    assert squared[1] == pytest.approx(9 * plain[1], rel=1e-6)
    torch.testing.assert_close(squared[2], 9 * plain[2])


@codecs
def test_halves_add_up(codec):
    logits, targets, soft, weights = case(codec=codec)
    whole = run(logits, targets, soft, weights=weights)
    one, two = (
        run(logits[a:b], targets[a:b], soft.rows(a, b), weights=weights[a:b]) for a, b in ((0, 4), (4, 7))
    )
    assert_same((one[0] + two[0], one[1] + two[1], torch.cat([one[2], two[2]])), whole)


@codecs
def test_chunk_borders_do_not_matter(codec, monkeypatch):
    logits, targets, soft, weights = case((61, 47, 40), codec)
    whole = run(logits, targets, soft, weights=weights)
    for rows in (1, 7, 60):
        monkeypatch.setattr(tokens, "BLOCK_BYTES", {"cpu": rows * 47 * 4 + 1})
        assert_same(run(logits, targets, soft, weights=weights), whole)


def test_top_k_is_a_lower_bound_that_grows_with_k():
    logits, _, whole, _ = case((61, 131, 131))
    mentor = whole.log_p_NK * 2  # logits of which `whole` is the softmax at 2
    values = [diverging(logits, top_k(mentor, 2.0, 131, k)).item() for k in (1, 4, 16, 64, 130, 131)]
    assert values == sorted(values) and values[0] < 0.5 * values[-1]
    assert values[-1] == pytest.approx(diverging(logits, whole).item(), rel=1e-6)


@codecs
def test_labels_stored_in_half_precision(codec):
    """Probabilities that sum to a little more or less than 1: the divergence stays one, and close."""
    logits, targets, soft, _ = case((61, 131, 131), codec)
    stored = replace(soft, log_p_NK=soft.log_p_NK.half())
    exact, rounded = (run(logits, targets, labels, share=1.0) for labels in (soft, stored))
    assert rounded[1] == pytest.approx(exact[1], rel=1e-3)
    torch.testing.assert_close(rounded[2], exact[2], rtol=0, atol=2e-4)
    total = rounded[2].sum(-1)  # softmax does not notice a shift of all logits
    torch.testing.assert_close(total, torch.zeros(61), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("first", [0.5, 0.9, 0.99, 0.999])
def test_half_precision_moves_a_sure_mentors_divergence_more_than_its_gradient(first, tau):
    """What the report says of the logged value: rounding makes a tail where next to nothing is left."""
    draw, words = generator(1), 2000
    falling = torch.softmax(-0.5 * torch.arange(1.0, words), 0) * (1 - first)
    chances = torch.cat([torch.tensor([first]), falling]).clamp_min(1e-30)
    mentor = chances.log() * tau + 0.3 * torch.randn(400, words, generator=draw)
    for noise in (0.3, 1.0):
        logits = (mentor + noise * torch.randn(400, words, generator=draw)).requires_grad_()
        soft = top_k(mentor, tau, words, 64)
        stored = replace(soft, log_p_NK=soft.log_p_NK.half())
        targets = torch.zeros(400, dtype=torch.int64)
        exact, rounded = (run(logits, targets, labels, tau, share=1.0) for labels in (soft, stored))
        assert -1e-4 < (rounded[1] - exact[1]) / 400 < 2.5e-3
        assert (rounded[2] - exact[2]).norm() < 0.01 * exact[2].norm()
        if noise == 0.3 and tau == 2:
            assert rounded[1] > 1.1 * exact[1], "the value is a tenth too high and more"


def test_tokens_that_the_mentor_rules_out():
    """A probability of 0 adds nothing, though its logarithm is not finite."""
    logits, targets, soft, _ = case((3, 47, 41))
    soft.log_p_NK[:, 7] = -math.inf
    ruled_out = replace(soft, log_p_NK=soft.log_p_NK.log_softmax(-1))
    assert_same(run(logits, targets, soft), naive(logits, targets, ruled_out, 2.0, 0.3))


def test_mass_above_one_is_scaled_to_one():
    """Two tokens that were stored as 0.51 each are 0.5 each, and nothing is left for the tail."""
    logits = torch.tensor([[0.0, 0.0, -1.0]], requires_grad=True)
    ids = torch.tensor([[0, 1]])
    above = diverging(logits, SoftTargets(torch.tensor([[0.51, 0.51]]).log(), ids, True, 3), 1.0)
    exact = diverging(logits, SoftTargets(torch.tensor([[0.5, 0.5]]).log(), ids, True, 3), 1.0)
    assert above.item() == pytest.approx(exact.item(), rel=1e-6)
    assert exact.item() == pytest.approx(math.log(2 + math.exp(-1)) - math.log(2), rel=1e-6)


@codecs
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_extreme_students_stay_finite_and_exact(codec, tau):
    """Sure of a token that the mentor holds impossible, or sure of the mentor's tokens."""
    mentor = 3 * torch.randn(4, 47, generator=generator(1))
    mentor[1, 5] = 500.0  # the mentor is sure too: its tail is empty
    mentor[2] = -400.0
    mentor[2, 5:9] = 0.0
    soft = codec(mentor, tau, 41)
    logits = torch.zeros(4, 47)
    logits[0, mentor[0, :41].argmin()] = 1e4
    logits[1, 7] = 1e4
    logits[2, mentor[2].argmax()] = 1e4
    logits[3] = 1e4 * mentor[3]
    ce, kl, gradient = run(logits.requires_grad_(), torch.full((4,), 5), soft, tau)
    assert math.isfinite(ce) and math.isfinite(kl) and gradient.isfinite().all()
    assert kl > 1e3
    assert gradient.abs().max() <= 2
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(4), rtol=0, atol=1e-5)


def test_an_over_confident_student_is_pulled_back_to_the_tail():
    """Where 1 − Σ q is 0 in float32, the tail's part is p (log p − log q), with log q about −144."""
    ids = torch.tensor([[0]])
    soft = SoftTargets(torch.tensor([[0.75]]).log(), ids, True, 3)
    logits = torch.tensor([[144.0, 0.0, 0.0]], requires_grad=True)
    value = diverging(logits, soft, 1.0)
    entropy = 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert value.item() == pytest.approx(entropy + 0.25 * (144 - math.log(2)), rel=1e-6)
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient, torch.tensor([[0.25, -0.125, -0.125]]))


def test_no_gradient_flows_to_the_soft_labels_or_weights():
    logits, targets, soft, weights = case()
    soft.log_p_NK.requires_grad_()
    weights.requires_grad_()
    mixture(logits, None, targets, soft, weights=weights)[0].backward()
    assert soft.log_p_NK.grad is None and weights.grad is None


@codecs
@pytest.mark.parametrize("vocabulary", [47, 41])
def test_no_tokens_is_zero_with_a_gradient(codec, vocabulary):
    logits, targets, soft, weights = case((0, 47, vocabulary), codec)
    for used in (None, weights):
        ce, kl, gradient = run(logits, targets, soft, weights=used)
        assert ce == kl == 0 and gradient.shape == (0, 47)
    rows, head = torch.zeros(0, 6, requires_grad=True), torch.ones(47, 6, requires_grad=True)
    loss, sums = mixture(rows, head, targets, soft)
    loss.backward()
    assert loss == sums[0] == sums[1] == 0
    assert rows.grad.shape == (0, 6) and head.grad.shape == (47, 6) and head.grad.count_nonzero() == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_cannot_be_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature is {temperature}; it must be above 0"):
        divergence(full(torch.zeros(7, 131), 2.0, 131), temperature)


def test_soft_labels_over_more_tokens_than_logits_are_refused():
    soft = full(torch.zeros(7, 140), 2.0, 140)
    for source, head in ((torch.zeros(7, 131), None), (torch.zeros(7, 6), torch.zeros(131, 6))):
        with pytest.raises(ValueError, match="soft labels over 140 tokens for 131 logits"):
            token_loss(source, head, [term(divergence(soft, 2.0))])
