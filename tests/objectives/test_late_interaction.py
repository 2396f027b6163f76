"""MaxSim: value and gradient against plain float64 loops; padding can never win."""

import doctest

import pytest
import torch

from limbeck.objectives import late_interaction as module
from limbeck.objectives.late_interaction import maxsim


def test_documented_examples():
    assert doctest.testmod(module).failed == 0


def pairs(seed=0, number=4, length=5, width=7, size=3, dtype=torch.float32):
    """Ragged pairs, with nonsense where nothing is."""
    draw = torch.Generator().manual_seed(seed)
    questions = torch.randn(number, length, size, generator=draw)
    passages = torch.randn(number, width, size, generator=draw)
    here, there = torch.arange(length), torch.arange(width)
    questions_mask = here < torch.tensor([5, 1, 3, 2])[:, None]
    passages_mask = there < torch.tensor([2, 7, 1, 4])[:, None]
    questions[~questions_mask], passages[~passages_mask] = 1e3, 1e3
    return questions.to(dtype), questions_mask, passages.to(dtype), passages_mask


def reference(questions, questions_mask, passages, passages_mask):
    """Scores, and the gradients of their sum."""
    scores, to_questions = [], torch.zeros(questions.shape, dtype=torch.float64)
    to_passages = torch.zeros(passages.shape, dtype=torch.float64)
    for p, (question, passage) in enumerate(
        zip(questions.double().tolist(), passages.double().tolist(), strict=True)
    ):
        score = 0.0
        for i, state in enumerate(question):
            if not questions_mask[p, i]:
                continue
            products = {
                j: sum(x * y for x, y in zip(state, other, strict=True))
                for j, other in enumerate(passage)
                if passages_mask[p, j]
            }
            best = max(products, key=lambda j: products[j])
            score += products[best]
            to_questions[p, i] += torch.tensor(passage[best], dtype=torch.float64)
            to_passages[p, best] += torch.tensor(state, dtype=torch.float64)
        scores.append(score)
    return scores, to_questions, to_passages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient(dtype):
    questions, questions_mask, passages, passages_mask = pairs(dtype=dtype)
    questions.requires_grad_(), passages.requires_grad_()
    scores = maxsim(questions, questions_mask, passages, passages_mask)
    assert scores.dtype == torch.float32
    expected, *gradients = reference(questions, questions_mask, passages, passages_mask)
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)
    found = torch.autograd.grad(scores.sum(), [questions, passages])
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("nonsense", [0.0, 1e4, torch.inf, torch.nan])
def test_padding_never_wins(nonsense):
    """Padding of product 0 would be the largest where all real products are negative."""
    questions, questions_mask, passages, passages_mask = pairs()
    questions, passages = -questions.abs(), passages.abs()  # every product is negative
    expected, *_ = reference(questions, questions_mask, passages, passages_mask)
    questions[~questions_mask], passages[~passages_mask] = nonsense, nonsense
    questions.requires_grad_(), passages.requires_grad_()
    scores = maxsim(questions, questions_mask, passages, passages_mask)
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)
    for gradient, mask in zip(
        torch.autograd.grad(scores.sum(), [questions, passages]), [questions_mask, passages_mask], strict=True
    ):
        assert gradient.isfinite().all() and not gradient[~mask].any()


def test_more_padding_and_another_order_change_nothing():
    questions, questions_mask, passages, passages_mask = pairs()
    scores = maxsim(questions, questions_mask, passages, passages_mask)
    order = torch.tensor([3, 0, 6, 5, 1, 4, 2])
    turned = maxsim(questions, questions_mask, passages[:, order], passages_mask[:, order])
    torch.testing.assert_close(turned, scores)
    wider = torch.cat([passages, torch.full((4, 6, 3), 50.0)], 1)
    padded = maxsim(
        questions, questions_mask, wider, torch.nn.functional.pad(passages_mask, (0, 6), value=False)
    )
    torch.testing.assert_close(padded, scores)


def test_a_passage_without_tokens_scores_nothing():
    questions, questions_mask, passages, passages_mask = pairs()
    passages_mask[1] = False
    passages.requires_grad_()
    scores = maxsim(questions, questions_mask, passages, passages_mask)
    assert scores[1].item() == 0
    (gradient,) = torch.autograd.grad(scores.sum(), passages)
    assert gradient.isfinite().all() and not gradient[1].any()


def test_the_library_scores_are_the_same():
    similarity = pytest.importorskip("sentence_transformers.util.similarity")
    questions, questions_mask, passages, passages_mask = pairs()
    theirs = similarity.maxsim_pairwise(questions, passages, a_mask=questions_mask, b_mask=passages_mask)
    torch.testing.assert_close(maxsim(questions, questions_mask, passages, passages_mask), theirs)
