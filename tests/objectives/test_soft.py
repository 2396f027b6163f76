"""Encoders of soft labels, against plain float64 softmax."""

import doctest
import math

import pytest
import torch

from limbeck.objectives import soft as module
from limbeck.objectives.soft import full, top_k

CODECS = {
    "full": full,
    "top_k": lambda logits, tau, vocabulary: top_k(logits, tau, vocabulary, 4),
}


def test_documented_examples():
    assert doctest.testmod(module).failed == 0


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def mentor(rows=7, width=47, seed=1):
    return 3 * torch.randn(rows, width, generator=generator(seed))


def dense(soft):
    """Probabilities of the entries as a table of all tokens, in float64."""
    p = soft.log_p_NK.double().exp()
    if soft.ids_NK is None:
        return p
    return p.new_zeros(len(p), soft.vocabulary).scatter_add_(1, soft.ids_NK, p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_full_is_the_softmax_at_its_temperature(tau, dtype):
    logits = mentor().to(dtype)
    soft = full(logits, tau, 41)
    assert (soft.log_p_NK.dtype, soft.ids_NK, soft.tail, soft.vocabulary) == (torch.float32, None, False, 41)
    torch.testing.assert_close(dense(soft), (logits[:, :41].double() / tau).softmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_top_k_keeps_the_likeliest_with_their_true_probabilities(tau, dtype):
    logits = mentor().to(dtype)
    soft = top_k(logits, tau, 41, 5)
    expected = (logits[:, :41].double() / tau).log_softmax(-1)
    assert soft.tail and soft.log_p_NK.dtype == torch.float32 and soft.ids_NK.dtype == torch.int64
    torch.testing.assert_close(soft.log_p_NK.double(), expected.topk(5).values, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(soft.log_p_NK.double(), expected.gather(1, soft.ids_NK), rtol=1e-6, atol=1e-6)
    assert all(len(set(row)) == 5 for row in soft.ids_NK.tolist())


@pytest.mark.parametrize("k", [41, 60])
def test_as_many_as_there_are_is_full(k):
    soft, whole = top_k(mentor(), 2.0, 41, k), full(mentor(), 2.0, 41)
    assert soft.ids_NK is None and not soft.tail
    assert torch.equal(soft.log_p_NK, whole.log_p_NK)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_padding_rows_of_the_embedding_do_not_matter(codec):
    """Not even when they are the likeliest of all."""
    logits = mentor()
    other = logits.clone()
    other[:, 41:] = 90.0
    one, two = codec(logits, 2.0, 41), codec(other, 2.0, 41)
    assert torch.equal(dense(one), dense(two))


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_scaled_logits_are_a_temperature(codec):
    torch.testing.assert_close(dense(codec(2 * mentor(), 2.0, 47)), dense(codec(mentor(), 1.0, 47)))


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_chunks_change_nothing(codec, monkeypatch):
    whole = codec(mentor(), 2.0, 41)
    monkeypatch.setattr(module, "CHUNK_LOGITS", 3 * 41)
    parts = codec(mentor(), 2.0, 41)
    assert torch.equal(whole.log_p_NK, parts.log_p_NK)
    assert whole.ids_NK is None or torch.equal(whole.ids_NK, parts.ids_NK)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_no_tokens(codec):
    soft = codec(mentor(0), 2.0, 41)
    assert len(soft.log_p_NK) == 0 and soft.rows(0, 0).log_p_NK.shape == soft.log_p_NK.shape


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_rows(codec):
    soft = codec(mentor(), 2.0, 41)
    assert torch.equal(dense(soft.rows(2, 5)), dense(soft)[2:5])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: full(mentor(), 0.0, 47), "temperature is 0.0; it must be above 0"),
        (lambda: full(mentor(), math.nan, 47), "temperature is nan"),
        (lambda: full(mentor(), 1.0, 48), "48 tokens has no place in 47 logits"),
        (lambda: full(mentor(), 1.0, 0), "0 tokens"),
        (lambda: top_k(mentor(), 1.0, 47, 0), "k is 0; keep at least 1 token"),
    ],
)
def test_what_cannot_be_is_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        wrong()
