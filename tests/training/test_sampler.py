"""Which groups share a micro-batch and a step, and what each rank has of it."""

import random
import time
import tracemalloc

import numpy as np
import pytest
import torch

from limbeck.errors import RecipeError
from limbeck.training.rows import question_number
from limbeck.training.sampler import GroupSampler, Limits, Sharing, cut_sizes, on_grid, passes

BOTH = pytest.mark.parametrize("batches", ["by-length", "random"])


OLD_EPOCHS = (
    [(0, 4, 7), (2, 8, 3), (5, 6), (9, 1)],
    [(2, 8, 5), (3, 6), (9, 1), (4, 7, 0)],
    [(2,), (5, 3, 1), (10, 8), (0, 11, 9, 7), (6, 4)],
)


def lengths_of(count, tensors, seed=0):
    draw = random.Random(seed)
    return [
        tuple(min(500, 1 + int(draw.lognormvariate(4, 0.8))) for _ in range(tensors)) for _ in range(count)
    ]


def sampler_of(lengths, batch_size=8, batch_tokens=1200, seed=1, rows=(), **more):
    counts = rows or [1] * len(lengths)
    sizes = [(count, *length) for count, length in zip(counts, lengths, strict=True)]
    sizes = np.array(sizes or np.empty((0, 2)), np.int32)
    return GroupSampler(sizes, Limits(batch_size, batch_tokens), seed=seed, **more)


@BOTH
def test_what_the_limit_of_tokens_makes_smaller(batches):
    """Eight groups of three rows: with 342 tokens in a row some are cut; with as many as are wanted, none."""
    groups = {"batch_tokens": 8192, "rows": [3] * 16, "batches": batches}
    assert sampler_of([(320,)] * 16, **groups).tokens_wanted is None
    cut = sampler_of([(342,)] * 16, **groups)
    assert (cut.tokens_wanted, cut.steps_per_epoch) == (8 * 3 * 352, 3)
    whole = sampler_of([(342,)] * 16, **groups | {"batch_tokens": cut.tokens_wanted})
    assert (whole.tokens_wanted, whole.steps_per_epoch) == (None, 2)
    passes = sampler_of([(9,)] * 5, batch_size=4, batches=batches, questions=numbers("aabcd"))
    assert (passes.tokens_wanted, passes.steps_per_epoch) == (None, 2), "the end of a pass is not counted"


@BOTH
def test_one_epochs_order_is_held_at_a_time(batches):
    """Where the limit of tokens cuts, all epochs are tried: cuts and orders of 20 were 300 bytes a group."""
    lengths, asked = lengths_of(2000, 1), np.arange(1, 2001)

    def peak(epochs):
        tracemalloc.start()
        sampler_of(lengths, batch_tokens=1000, batches=batches, epochs=epochs, questions=asked)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(20) - peak(2) < 2000 * 20


def numbers(questions):
    return np.array([question_number(question) for question in questions])


def epoch(sampler, number):
    sampler.set_epoch(number)
    items = list(sampler)
    assert {of for of, _ in items} <= {number}
    return [batch for _, batch in items]


@BOTH
@pytest.mark.parametrize("tensors", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 8, 1000])
def test_every_group_once_in_as_many_batches_every_epoch_within_the_budget(tensors, batch_size, batches):
    lengths = lengths_of(317, tensors)
    sampler = sampler_of(lengths, batch_size=batch_size, batches=batches, epochs=4)
    for number in range(4):
        found = epoch(sampler, number)
        assert len(found) == len(sampler)
        assert sorted(i for batch in found for i in batch) == list(range(317))
        for batch in found:
            padded = sum(max(lengths[i][tensor] for i in batch) for tensor in range(tensors)) * len(batch)
            assert padded <= 1200
            assert 1 <= len(batch) <= batch_size


@BOTH
def test_groups_of_several_rows_count_all_of_them(batches):
    """Up to 4 rows in a group, padded to the longest of the batch."""
    lengths, draw = lengths_of(200, 1), random.Random(3)
    rows = [draw.randint(1, 4) for _ in lengths]
    lengths = [(min(length, 300),) for (length,) in lengths]
    sampler = sampler_of(lengths, rows=rows, batches=batches, epochs=3)
    for number in range(3):
        found = epoch(sampler, number)
        assert sorted(i for batch in found for i in batch) == list(range(200))
        assert all(max(lengths[i][0] for i in batch) * sum(rows[i] for i in batch) <= 1200 for batch in found)
    assert max(map(len, found)) <= 8


@BOTH
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("batch_tokens", [1200, 10**6])
def test_no_step_sees_a_question_twice(batches, accumulate, batch_tokens):
    draw = random.Random(7)
    questions = [str(n) for n in range(40) for _ in range(draw.randint(1, 5))] + [""] * 9
    draw.shuffle(questions)
    lengths = lengths_of(len(questions), 1)
    sampler = sampler_of(
        lengths,
        batch_tokens=batch_tokens,
        batches=batches,
        epochs=4,
        sharing=Sharing(accumulate),
        questions=numbers(questions),
    )
    orders = []
    for number in range(4):
        steps = sampler.steps(number)
        assert len(steps) == sampler.steps_per_epoch
        assert sorted(i for step in steps for micro in step for i in micro) == list(range(len(lengths)))
        for step in steps:
            asked = [questions[i] for micro in step for i in micro if questions[i]]
            assert len(set(asked)) == len(asked)
        assert {len(step) for step in steps} == {accumulate}
        assert len(sampler) == sum(map(len, steps)), "a trainer counts steps by micro-batches"
        orders.append([micro for step in steps for micro in step])
        # One pass more than needed would waste steps: only the last step of a pass may be short.
        assert sum(() in step for step in steps) <= 5
    assert orders[0] != orders[1] and orders[2] != orders[3]
    if batches == "random":
        firsts = {tuple(sorted(i for micro in order[:5] for i in micro)) for order in orders}
        assert len(firsts) == 4, "which rationale of a question comes first changes"


@BOTH
def test_groups_without_a_question_go_as_if_there_were_none(batches):
    lengths = lengths_of(50, 1)
    plain, named = (
        sampler_of(lengths, batches=batches, epochs=2, questions=questions)
        for questions in (None, numbers(str(n) for n in range(50)))
    )
    assert [list(plain.steps(n)) for n in range(2)] == [list(named.steps(n)) for n in range(2)]


def test_the_order_of_groups_of_one_by_length_is_that_of_old_runs():
    """Written down from the release before groups: (seed, epoch) must go on meaning the same."""
    lengths = [(5,), (90,), (7,), (33,), (5,), (34,), (61,), (5,), (12,), (88,)]
    sampler = sampler_of(lengths, batch_size=3, batch_tokens=200, seed=4)
    assert epoch(sampler, 0) == OLD_EPOCHS[0]
    assert epoch(sampler, 7) == OLD_EPOCHS[1]
    both = sampler_of([(n % 7 + 1, n * 5 % 11 + 1) for n in range(12)], batch_size=5, batch_tokens=40, seed=2)
    assert epoch(both, 3) == OLD_EPOCHS[2]


def test_the_budget_is_used():
    """Real tokens fill most of the padded batches: of 317 lengths spread over 1..500, above 85%."""
    lengths = lengths_of(317, 1)
    sampler = sampler_of(lengths, batch_size=1000)
    padded = sum(max(lengths[i][0] for i in batch) * len(batch) for batch in epoch(sampler, 0))
    assert sum(length for (length,) in lengths) / padded > 0.85
    assert len(sampler) < 1.3 * sum(length for (length,) in lengths) / 1200


def test_encoder_and_decoder_lengths_both_pad_little():
    lengths = lengths_of(2000, 2)
    batches = epoch(sampler_of(lengths, batch_size=16, batch_tokens=4000), 0)
    padded = sum(sum(max(lengths[i][t] for i in batch) for t in (0, 1)) * len(batch) for batch in batches)
    assert sum(map(sum, lengths)) / padded > 0.7


def test_random_batches_are_of_all_lengths():
    """The shortest 30 of 300 rows meet rows of every length."""
    lengths = [(n + 1,) for n in range(300)]
    found = epoch(sampler_of(lengths, batch_tokens=10**6, batches="random"), 0)
    assert [len(batch) for batch in found] == [8] * 37 + [4]
    mates = [i for batch in found if min(batch) < 30 for i in batch]
    assert sum(i >= 150 for i in mates) > 0.3 * len(mates)


@BOTH
def test_an_epoch_is_its_own_and_a_seed_too(batches):
    lengths = lengths_of(100, 1)
    more = {"batches": batches, "epochs": 4}
    sampler = sampler_of(lengths, **more)
    assert epoch(sampler, 2) == epoch(sampler_of(lengths, **more), 2)
    assert epoch(sampler, 2) != epoch(sampler, 3)
    other = sampler_of(lengths, seed=2, **more)
    assert epoch(sampler, 1) != epoch(other, 0)  # seeds and epochs do not add up
    mates = [{frozenset(batch) for batch in epoch(sampler, number)} for number in (2, 3)]
    assert mates[0] != mates[1]  # not only the order of the batches is new


@BOTH
def test_order_does_not_depend_on_global_generators(batches):
    sampler = sampler_of(lengths_of(50, 1), batches=batches)
    first = list(sampler)
    torch.manual_seed(123)
    random.seed(5)
    assert list(sampler) == first


@BOTH
@pytest.mark.parametrize(
    ("accumulate", "world"), [(1, 2), (2, 2), (4, 2), (2, 4), (3, 2), (6, 4), (1, 8), (5, 1)]
)
def test_ranks_share_the_steps_that_one_would_do(accumulate, world, batches):
    """50 groups in 9 batches or more: the last step of an epoch is short."""
    lengths = lengths_of(50, 1)
    one = sampler_of(lengths, batches=batches, sharing=Sharing(accumulate))
    ranks = [
        sampler_of(lengths, batches=batches, sharing=Sharing(accumulate, rank, world))
        for rank in range(world)
    ]
    turns = ranks[0].sharing.turns
    shares = [epoch(rank, 1) for rank in ranks]
    assert {len(share) for share in shares} == {len(rank) for rank in ranks} == {len(ranks[0])}
    assert -(-len(ranks[0]) // turns) == one.steps_per_epoch == ranks[0].steps_per_epoch
    for number, step in enumerate(one.steps(1)):
        cut_up = [share[number * turns : (number + 1) * turns] for share in shares]
        found = [micro for share in cut_up for micro in share]
        assert sorted(g for micro in found for g in micro) == sorted(g for micro in step for g in micro)
        for whole in step:  # of each micro-batch, every rank of a team has its share
            sizes = [len(set(whole) & set(micro)) for micro in found if set(whole) & set(micro)]
            assert max(sizes) - min(sizes) <= 1 and len(sizes) <= ranks[0].sharing.members


def test_a_rank_that_has_less_gets_empty_batches():
    ranks = [sampler_of([(5,)] * 9, batch_size=4, sharing=Sharing(2, rank, 2)) for rank in range(2)]
    sizes = [[len(batch) for batch in epoch(rank, 0)] for rank in ranks]
    assert [sum(column) for column in zip(*sizes, strict=True)] in ([8, 1], [5, 4])
    assert sizes[1][-1] == 0 and len(ranks[1]) == 2
    eight = [sampler_of([(5,)] * 9, batch_size=8, sharing=Sharing(1, rank, 8)) for rank in range(8)]
    sizes = [[len(batch) for batch in epoch(rank, 0)] for rank in eight]
    assert sorted(map(tuple, sizes)) in ([(1, 0)] * 7 + [(1, 1)], [(0, 1)] * 7 + [(1, 1)])


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(
        RecipeError,
        match=r"batch_size: 4 processes cannot share 2 × 3 .* make batch_size a multiple of 2 or acc.* of 4",
    ):
        sampler_of([(5,)], batch_size=3, sharing=Sharing(2, 0, 4))
    sampler_of([(5,)], batch_size=3, sharing=Sharing(4, 0, 4))


@BOTH
def test_an_example_over_the_budget_is_refused(batches):
    with pytest.raises(
        RecipeError, match=r"batch_tokens: 64 is less than the 65 tokens of the longest example; raise"
    ):
        sampler_of([(5,), (65,)], batch_tokens=64, batches=batches)
    assert epoch(sampler_of([(64,)], batch_tokens=64, batches=batches), 0) == [(0,)]


@BOTH
def test_a_group_over_the_budget_is_refused(batches):
    with pytest.raises(
        RecipeError,
        match=r"64 is less than the 66 tokens of the largest group \(3 examples, padded .*\); raise",
    ):
        sampler_of([(60,), (22,)], rows=[1, 3], batch_tokens=64, batches=batches)


def test_rounding_on_the_grid_does_not_break_a_batch_of_one():
    """61 tokens fit a budget of 61, though they round up to 64."""
    assert on_grid(61) == 64
    assert cut_sizes(np.array([(1, 64), (1, 64)]), Limits(8, 61)).tolist() == [[0, 1], [1, 2]]
    three = np.array([(1, 8), (3, 64), (1, 8)])
    assert cut_sizes(three, Limits(8, 190)).tolist() == [[0, 1], [1, 2], [2, 3]]


def test_grid():
    assert [on_grid(n) for n in (1, 16, 17, 33, 65, 100, 512)] == [1, 16, 18, 36, 72, 104, 512]
    assert all(n <= on_grid(n) <= 1.125 * n + 1 for n in range(1, 3000))


@BOTH
def test_no_examples(batches):
    assert list(sampler_of([], batches=batches)) == []


def test_a_question_of_all_groups_takes_a_pass_for_each_in_little_time():
    start = time.process_time()
    found = passes(np.arange(300_000), np.full(300_000, 5))
    assert time.process_time() - start < 5  # with a look at all groups for each pass: half a minute
    assert len(found) == 300_000 and found[7].tolist() == [7]
