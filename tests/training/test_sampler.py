"""Which examples share a batch."""

import random

import pytest
import torch

from limbeck.errors import RecipeError
from limbeck.training.sampler import BucketSampler, cut, on_grid


def lengths_of(count, tensors, seed=0):
    draw = random.Random(seed)
    return [
        tuple(min(500, 1 + int(draw.lognormvariate(4, 0.8))) for _ in range(tensors)) for _ in range(count)
    ]


def sampler_of(lengths, batch_size=8, batch_tokens=1200, seed=1, multiple=1):
    return BucketSampler(
        lengths, batch_size=batch_size, batch_tokens=batch_tokens, seed=seed, multiple=multiple
    )


def epoch(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


@pytest.mark.parametrize("tensors", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 8, 1000])
def test_every_example_once_in_as_many_batches_every_epoch_within_the_budget(tensors, batch_size):
    lengths = lengths_of(317, tensors)
    sampler = sampler_of(lengths, batch_size=batch_size)
    for number in range(4):
        batches = epoch(sampler, number)
        assert len(batches) == len(sampler)
        assert sorted(i for batch in batches for i in batch) == list(range(317))
        for batch in batches:
            padded = sum(max(lengths[i][tensor] for i in batch) for tensor in range(tensors)) * len(batch)
            assert padded <= 1200
            assert len(batch) <= batch_size


def test_the_budget_is_used():
    """Real tokens fill most of the padded batches: of 317 lengths spread over 1..500, above 85%."""
    lengths = lengths_of(317, 1)
    sampler = sampler_of(lengths, batch_size=1000)
    padded = sum(max(lengths[i][0] for i in batch) * len(batch) for batch in sampler)
    assert sum(length for (length,) in lengths) / padded > 0.85
    assert len(sampler) < 1.3 * sum(length for (length,) in lengths) / 1200


def test_encoder_and_decoder_lengths_both_pad_little():
    lengths = lengths_of(2000, 2)
    batches = epoch(sampler_of(lengths, batch_size=16, batch_tokens=4000), 0)
    padded = sum(sum(max(lengths[i][t] for i in batch) for t in (0, 1)) * len(batch) for batch in batches)
    assert sum(map(sum, lengths)) / padded > 0.7


def test_an_epoch_is_its_own_and_a_seed_too():
    lengths = lengths_of(100, 1)
    sampler = sampler_of(lengths)
    assert epoch(sampler, 2) == epoch(sampler_of(lengths), 2)
    assert epoch(sampler, 2) != epoch(sampler, 3)
    assert epoch(sampler, 1) != epoch(sampler_of(lengths, seed=2), 0)  # seeds and epochs do not add up
    mates = [{frozenset(batch) for batch in epoch(sampler, number)} for number in (2, 3)]
    assert mates[0] != mates[1]  # not only the order of the batches is new


def test_order_does_not_depend_on_global_generators():
    sampler = sampler_of(lengths_of(50, 1))
    first = list(sampler)
    torch.manual_seed(123)
    random.seed(5)
    assert list(sampler) == first


def test_batches_are_filled_up_for_all_processes():
    sampler = sampler_of([(5,)] * 9, batch_size=4, multiple=2)
    batches = list(sampler)
    assert [len(batch) for batch in batches].count(0) == 1
    assert batches[-1] == ()
    assert len(sampler) == len(batches) == 4


def test_an_example_over_the_budget_is_refused():
    with pytest.raises(
        RecipeError, match=r"batch_tokens: 64 is less than the 65 tokens .* raise batch_tokens"
    ):
        sampler_of([(5,), (65,)], batch_tokens=64)
    assert list(sampler_of([(64,)], batch_tokens=64)) == [(0,)]


def test_rounding_on_the_grid_does_not_break_a_batch_of_one():
    """61 tokens fit a budget of 61, though they round up to 64."""
    assert on_grid(61) == 64
    assert cut([(64,), (64,)], 8, 61) == [(0, 1), (1, 2)]


def test_grid():
    assert [on_grid(n) for n in (1, 16, 17, 33, 65, 100, 512)] == [1, 16, 18, 36, 72, 104, 512]
    assert all(n <= on_grid(n) <= 1.125 * n + 1 for n in range(1, 3000))


def test_no_examples():
    assert list(sampler_of([])) == []
