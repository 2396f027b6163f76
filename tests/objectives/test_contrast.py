"""The triplet loss on last states: value and gradient against plain float64 loops."""

import copy
import doctest
import math
from functools import partial

import pytest
import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

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


PROMPTS = [[5, 6, 7, 8], [20, 21]]
"""Of two questions: beside the longer one the shorter is padded."""
GOLD = [[30], [32]]
TEXTS = [[[9, 10, 11, 30], [12, 13, 30], [9, 14, 31]], [[22, 32], [23, 24, 25, 32], [26, 33]]]
"""Of each question the anchor, the positive and the negative, without the end of sequence."""
END = [1]
PARTS = CrossEntropy(), Triplet(0.5)


def llama():
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config)


def gpt2():
    """Its positions are learned: one that is shifted is another one, whatever the distance to others."""
    config = GPT2Config(vocab_size=40, n_positions=24, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3)
    return GPT2LMHeadModel(config)


@pytest.fixture(params=[llama, gpt2])
def model(request):
    torch.manual_seed(3)
    return request.param().eval()


def step(model, texts=TEXTS, *, shared=False):
    """Values and the embeddings' gradient of language model loss and triplets, by our code.

    Prompt tokens weigh a tenth. `shared`: a prompt is read once for its three rows.
    """
    groups = []
    for question, (prompt, some) in enumerate(zip(PROMPTS, texts, strict=True)):
        examples = tuple(
            Example(
                problem_id=str(question),
                prompt=" ".join(map(str, prompt)),
                completion=" ".join(map(str, text)),
                role=role,
                scored=role == "anchor",
            )
            for role, text in zip(ROLES, some, strict=True)
        )
        groups.append(Group(str(question), examples))
    rows = [*tokenise(Numbers(), groups, encoder_decoder=False, max_length=99, prompt_weight=0.1).rows]
    prompts = [row.prompt_ids(encoder_decoder=False) for row in rows] if shared else None
    batch = collate(rows, 0, groups=[0, 0, 0, 1, 1, 1], prompts=prompts)
    assert ("owners" in batch) == shared
    counts = {part.name: part.count(batch, encoder_decoder=False) for part in PARTS}
    model.zero_grad()
    total, values = loss(PARTS, model, batch, counts)
    total.backward()
    return values, model.get_input_embeddings().weight.grad.clone()


def by_row(model, end=END):
    """Last states of anchors, positives and negatives, each by a forward of its whole row."""

    def state(prompt, text):
        return model.get_decoder()(torch.tensor([[*prompt, *text, *end]])).last_hidden_state[0, -1]

    return [
        torch.stack([state(prompt, texts[n]) for prompt, texts in zip(PROMPTS, TEXTS, strict=True)])
        for n in range(3)
    ]


def behind_cache(model, fault=""):
    """The same as the published code has them: behind a cache of the prompts, which are padded on the right.

    Args:
        fault: one of the published ones. "frozen": no gradient goes through the prompts; "unmasked": their
            padding is read; "in place": each pass is read behind those before it, since the library adds
            to a cache what it reads; "positions": counted from the end of the padding.
    """
    ids, mask = padded(PROMPTS)
    cache, seen, found = None, mask, []
    for n in range(3):
        if fault != "in place" or cache is None:
            cache, seen = DynamicCache(config=model.config), mask
            with torch.set_grad_enabled(fault != "frozen"):
                model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        own_ids, own = padded([[*texts[n], *END] for texts in TEXTS])
        before = (
            torch.full_like(mask[:, :1], mask.shape[1]) if fault == "positions" else mask.sum(1, keepdim=True)
        )
        seen = torch.cat([torch.ones_like(seen) if fault == "unmasked" else seen, own], 1)
        states = model.get_decoder()(
            input_ids=own_ids,
            attention_mask=seen,
            position_ids=before + torch.arange(own.shape[1]),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        found.append(states[torch.arange(len(own)), own.sum(1) - 1])
    return found


def padded(ids):
    """On the right, and the mask."""
    most = max(map(len, ids))
    mask = [[1] * len(own) + [0] * (most - len(own)) for own in ids]
    return torch.tensor([[*own, *[0] * (most - len(own))] for own in ids]), torch.tensor(mask)


def naive(model, states_of=by_row, *, diluted=False):
    """What `step` gives, in float64 and of single rows.

    Args:
        states_of: makes the states that are compared.
        diluted: the language model loss is divided by the number of all tokens, not by their weights.
    """
    model = copy.deepcopy(model).double()
    model.zero_grad()
    total, weight = 0.0, 0.0
    for prompt, texts in zip(PROMPTS, TEXTS, strict=True):
        row = [*prompt, *texts[0], *END]
        log_q = model(torch.tensor([row])).logits[0, :-1].log_softmax(-1)
        for place, token in enumerate(row[1:]):
            own = 0.1 if place + 1 < len(prompt) else 1.0
            total, weight = total - own * log_q[place, token], weight + (1.0 if diluted else own)
    hard = total / weight
    a, p, n = states_of(model)
    near, far = (torch.nn.functional.cosine_similarity(a, other, 1) for other in (p, n))
    contrast = (far - near + 1).clamp_min(0).mean()
    (hard + 0.5 * contrast).backward()
    return {
        "cross_entropy": hard.item(),
        "triplet": contrast.item(),
    }, model.get_input_embeddings().weight.grad


@pytest.mark.parametrize("shared", [False, True])
def test_a_step_is_that_of_single_rows(model, shared):
    """Also where a prompt is read once, into a cache."""
    values, gradient = step(model, shared=shared)
    right, wanted = naive(model)
    for name in right:
        assert values[name].item() == pytest.approx(right[name], rel=1e-5)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-6)


def test_the_published_faults_would_be_seen(model):
    """arXiv 2310.13332's code: a cache of prompts that is wrong in four ways, the gold answer behind a
    mistake, prompt tokens that count whole in the denominator, no end of sequence."""
    right, wanted = naive(model)
    cached, gradient = naive(model, behind_cache)
    assert cached == pytest.approx(right, rel=1e-6), "without a fault a cache changes nothing"
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-7)

    frozen, gradient = naive(model, partial(behind_cache, fault="frozen"))
    assert frozen == pytest.approx(right, rel=1e-6) and (gradient - wanted).norm() > 5e-3 * wanted.norm()
    for fault in ("unmasked", "in place", "positions"):
        values, _ = naive(model, partial(behind_cache, fault=fault))
        assert abs(values["triplet"] - right["triplet"]) > 1e-3, fault

    diluted, _ = naive(model, diluted=True)
    assert diluted["cross_entropy"] < 0.9 * right["cross_entropy"]
    appended, _ = step(
        model, [[*texts[:2], [*texts[2], *gold]] for texts, gold in zip(TEXTS, GOLD, strict=True)]
    )
    assert abs(appended["triplet"] - right["triplet"]) > 1e-3
    without_end, _ = naive(model, partial(by_row, end=[]))
    assert abs(without_end["triplet"] - right["triplet"]) > 1e-3


def test_either_side_may_be_padded(model):
    """On the left with the positions of the tokens, which a model with learned ones cannot know."""
    part = Triplet(1.0)
    rows = [[5, 6, 9, 10, 11, 1], [5, 6, 12, 1], [5, 6, 9, 14, 31, 7, 1]]

    def value(*, left, positions=False):
        batch = {
            "groups": torch.zeros(3, dtype=torch.long),
            "roles": list(ROLES),
            "scored": torch.zeros(3) > 0,
        }
        for name, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
            own = [[1] * len(row) if name == "attention_mask" else row for row in rows]
            filled = [[fill] * (9 - len(row)) for row in own]
            batch[name] = torch.tensor([f + o if left else o + f for o, f in zip(own, filled, strict=True)])
        if positions:
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
        counts = {part.name: part.count(batch, encoder_decoder=False)}
        return loss((part,), model, batch, counts)[0].item()

    right = value(left=False)
    assert right > 0 and value(left=True, positions=True) == pytest.approx(right, rel=1e-5)
    relative = isinstance(model, LlamaForCausalLM)
    assert (value(left=True) == pytest.approx(right, rel=1e-5)) == relative
