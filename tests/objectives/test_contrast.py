"""The triplet loss on last states: value and gradient against plain float64 loops."""

import copy
import doctest
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limbeck.objectives import contrast as module
from limbeck.objectives.contrast import ROLES, triplet, triplets
from limbeck.records import Example
from limbeck.training.collate import collate, tokenise
from limbeck.training.groups import Group
from limbeck.training.parts import CrossEntropy, Triplet, loss


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


class Numbers:
    """Its tokens are the numbers of a text."""

    eos_token_id, pad_token_id, is_fast = 1, 0, False

    def __call__(self, texts, **how):
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


def step(model, prompt, texts):
    """Value and gradients of a triplet and a language model loss; prompt tokens weigh a tenth."""
    examples = [
        Example(
            problem_id="q",
            prompt=" ".join(map(str, prompt)),
            completion=" ".join(map(str, text)),
            role=role,
            scored=role == "anchor",
        )
        for role, text in zip(ROLES, texts, strict=True)
    ]
    group = Group("q", tuple(examples))
    found = tokenise(Numbers(), [group], encoder_decoder=False, max_length=99, prompt_weight=0.1)
    batch = collate([*found.rows], 0, groups=[0, 0, 0])
    parts = CrossEntropy(), Triplet(0.5)
    counts = {part.name: part.count(batch, encoder_decoder=False) for part in parts}
    model.zero_grad()
    total, values = loss(parts, model, batch, counts)
    total.backward()
    return values, model.get_input_embeddings().weight.grad.clone()


def naive(model, rows, begin, *, scored_all=False, frozen=False):
    """The same by whole float64 forwards of single rows; or as the published code has it.

    Args:
        scored_all: the language model loss is divided by the number of all tokens, not by their weights.
        frozen: the prompt is read without a gradient, from a cache, for all but the language model loss.
    """
    model = copy.deepcopy(model).double()
    model.zero_grad()
    weights = [0.1] * (begin - 1) + [1.0] * (len(rows[0]) - begin)
    log_q = model(torch.tensor([rows[0]])).logits[0, :-1].log_softmax(-1)
    terms = [-w * log_q[t, rows[0][t + 1]] for t, w in enumerate(weights)]
    hard = sum(terms) / (len(terms) if scored_all else sum(weights))
    embedded = [model.get_input_embeddings()(torch.tensor([row])) for row in rows]
    if frozen:
        embedded = [torch.cat([one[:, :begin].detach(), one[:, begin:]], 1) for one in embedded]
    a, p, n = (model.model(inputs_embeds=one).last_hidden_state[0, -1] for one in embedded)
    near, far = (torch.nn.functional.cosine_similarity(a, other, 0) for other in (p, n))
    contrast = (far - near + 1).clamp_min(0)
    (hard + 0.5 * contrast).backward()
    return {"cross_entropy": hard, "triplet": contrast}, model.get_input_embeddings().weight.grad


def test_the_published_faults_would_be_seen():
    """arXiv 2310.13332's code: a prompt without gradient, the gold answer behind a mistake, prompt tokens
    that count whole in the denominator, no end of sequence."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    prompt, gold, end = [5, 6, 7, 8], [30], [1]
    texts = [[9, 10, 11, *gold], [12, 13, *gold], [9, 14, 31]]
    rows = [prompt + some + end for some in texts]
    values, gradient = step(model, prompt, texts)
    right, wanted = naive(model, rows, len(prompt))
    for name in right:
        assert values[name].item() == pytest.approx(right[name].item(), rel=1e-5)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-6)

    diluted, _ = naive(model, rows, len(prompt), scored_all=True)
    assert diluted["cross_entropy"] < 0.9 * right["cross_entropy"]
    _, cached = naive(model, rows, len(prompt), frozen=True)
    assert (cached - wanted).norm() > 5e-3 * wanted.norm()
    appended, _ = step(model, prompt, [*texts[:2], [*texts[2], *gold]])
    assert abs(appended["triplet"] - values["triplet"]) > 1e-3
    without_end, _ = naive(model, [row[:-1] for row in rows], len(prompt))
    assert abs(without_end["triplet"] - values["triplet"]) > 1e-3


def test_either_side_may_be_padded():
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    rows = [[5, 6, 9, 10, 11, 1], [5, 6, 12, 1], [5, 6, 9, 14, 31, 7, 1]]
    part = Triplet(1.0)
    found = []
    for left in (False, True):
        batch = {
            "groups": torch.zeros(3, dtype=torch.long),
            "roles": list(ROLES),
            "scored": torch.zeros(3) > 0,
        }
        for name, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
            own = [[1] * len(row) if name == "attention_mask" else row for row in rows]
            filled = [[fill] * (9 - len(row)) for row in own]
            batch[name] = torch.tensor([f + o if left else o + f for o, f in zip(own, filled, strict=True)])
        counts = {part.name: part.count(batch, encoder_decoder=False)}
        found.append(loss((part,), model, batch, counts)[0].item())
    assert found[0] == pytest.approx(found[1], rel=1e-5) and found[0] > 0
