"""Batches by length, corrected, weigh a token as random batches do."""

import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest

from limbeck.objectives.spans import paired_rows, paired_tokens
from limbeck.training.corrections import scored_tokens
from limbeck.training.feed import train_feed
from limbeck.training.groups import ALL, Draw
from limbeck.training.rows import Row, RowGroup
from limbeck.training.sampler import Sharing
from limbeck.training.settings import TrainSettings

SVAMP = Path(os.environ.get("LIMBECK_DATA", "")) / ("published/2hojae+mentor-kd/data/main/svamp_3_train.json")


def like_svamp(count=600, seed=0):
    """(prompt, completion) tokens: 73 words a rationale on average, a few of hundreds; 1.3 tokens a word."""
    draw = random.Random(seed)
    words = [min(708, max(8, int(draw.lognormvariate(math.log(64), 0.5)))) for _ in range(count - 4)]
    words += [708, 520, 460, 380]
    return [(int(1.3 * draw.gauss(31, 7)), int(1.3 * n)) for n in words]


def rows_of(lengths, encoder_decoder=False):
    for number, (prompt, completion) in enumerate(lengths):
        before, labels = [7] * max(prompt, 3), [8] * completion
        if encoder_decoder:
            yield Row(str(number), before, labels)
        else:
            yield Row(str(number), before + labels, [-100] * len(before) + labels)


def singles(lengths, encoder_decoder=False):
    return [RowGroup(row.problem_id, (row,)) for row in rows_of(lengths, encoder_decoder)]


def feed_of(groups, batches, *, draw=ALL, corrected=True, sharing=None, encoder_decoder=False, **settings):
    known = TrainSettings(batches=batches, max_length=2000, **settings)
    return train_feed(
        groups,
        known,
        sharing or Sharing(known.accumulate),
        draw=draw,
        seed=11,
        pad=0,
        encoder_decoder=encoder_decoder,
        corrected=corrected,
    )


def weights(feed, epochs):
    """How much a token of each row weighs, relative to the mean over tokens; and how many it has.

    From the batches themselves: `label_weights` over the step's count.
    """
    rows = {row.key: n for n, row in enumerate(row for group in feed.groups for row in group.rows)}
    counts = np.array(
        [scored_tokens(r, encoder_decoder=feed.encoder_decoder) for g in feed.groups for r in g.rows]
    )
    # Keys of rows of the same lengths are the same here: they share what they weigh.
    found, shown = np.zeros(len(counts)), np.zeros(len(counts))
    for epoch in range(100, 100 + epochs):
        for step in feed.sampler.steps(epoch):
            batches = [feed[epoch, micro] for micro in step]
            if "expected" in batches[0]:
                total = sum(batch["expected"].sum().item() for batch in batches)
            else:
                total = sum((batch["labels"] != -100).sum().item() for batch in batches)
            for batch in batches:
                weighed = [1.0] * len(batch["keys"])
                if "label_weights" in batch:
                    weighed = batch["label_weights"][:, 0].tolist()
                for key, weight in zip(batch["keys"].tolist(), weighed, strict=True):
                    found[rows[tuple(key)]] += weight / total
                    shown[rows[tuple(key)]] += 1
    seen = shown > 0
    means, counts, shown = found[seen] / shown[seen], counts[seen], shown[seen]
    return means / ((means * counts * shown).sum() / (counts * shown).sum()), counts, shown


def ends(feed, epochs):
    """What a token of the shortest and of the longest 5 % of rows weighs."""
    means, counts, shown = weights(feed, epochs)
    order = np.argsort(counts, kind="stable")
    place = np.cumsum(shown[order]) / shown.sum()
    ends = [order[place <= 0.05], order[place >= 0.95]]
    return [np.average(means[end], weights=(counts * shown)[end]) for end in ends]


def check(groups, epochs=12, **more):
    """Corrected within 10 % of random, uncorrected far from it."""
    at_random = ends(feed_of(groups, "random", **more), 4 * epochs)
    corrected = ends(feed_of(groups, "by-length", **more), epochs)
    assert corrected == pytest.approx(at_random, rel=0.1)
    plain = ends(feed_of(groups, "by-length", corrected=False, **more), epochs)
    return at_random, corrected, plain


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_on_lengths_like_those_of_svamp(encoder_decoder):
    groups = singles(like_svamp(), encoder_decoder)
    _, _, plain = check(groups, encoder_decoder=encoder_decoder)
    assert plain[0] > 2 and plain[1] < 0.5  # or there would be nothing to correct


@pytest.mark.parametrize(
    "more", [{"accumulate": 4}, {"batch_size": 32}, {"batch_size": 16, "batch_tokens": 3000}]
)
def test_whatever_a_step_is(more):
    """Several micro-batches in a step; and batches that the limit of tokens cuts."""
    at_random, _, plain = check(singles(like_svamp()), **more)
    assert plain[0] > 1.15 * at_random[0]


def test_two_of_three_drawn():
    rows = list(rows_of(like_svamp(600)))
    groups = [RowGroup(str(n), tuple(rows[n::200])) for n in range(200)]
    at_random, _, plain = check(groups, draw=Draw({"": 2}), epochs=20)
    assert plain[0] > 1.05 * at_random[0]  # a group has rows of all lengths, so there is less to correct


def pairs_of(lengths):
    """Groups of two rows that end in the same answer."""
    for number, (prompt, completion) in enumerate(lengths):
        before, span = [7] * max(prompt, 3), (max(prompt, 3), max(prompt, 3) + 1)
        labels = [8, *[number % 7 + 10] * max(completion, 1)]
        rows = [Row(str(number), before + labels, [-100] * len(before) + labels, span=span)] * 2
        yield RowGroup(str(number), rows)


def weights_of_pairs(feed, epochs):
    """What the divergence of each group's pair weighs in an epoch, on average, one batch at a time."""
    found = np.zeros(len(feed.groups))
    for epoch in range(100, 100 + epochs):
        for step in feed.sampler.steps(epoch):
            batches = [(micro, feed[epoch, micro]) for micro in step]
            count = sum(paired_rows(batch, encoder_decoder=False).sum().item() for _, batch in batches)
            for micro, batch in batches:
                of_rows = paired_tokens(batch, encoder_decoder=False).weights_2N.double().tolist()
                # The span is one token, so a pair has two rows of logits, in the order of the groups.
                for place, group in enumerate(micro):
                    assert of_rows[2 * place] == of_rows[2 * place + 1]
                    found[group] += of_rows[2 * place] / count / epochs
    return found


def test_twelve_questions_weigh_the_same():
    """In steps of eight and of four: by themselves, the four longest pairs weigh twice the others'."""
    groups = list(pairs_of([(5, 8 * n + 1) for n in range(1, 13)]))
    plain = weights_of_pairs(feed_of(groups, "by-length", corrected=False), 1)
    assert sorted(np.round(plain * 8, 6)) == [1.0] * 8 + [2.0] * 4
    corrected = weights_of_pairs(feed_of(groups, "by-length"), 1)
    assert corrected == pytest.approx([1 / 6] * 12, rel=0.03)
    assert weights_of_pairs(feed_of(groups, "random"), 400) == pytest.approx([1 / 6] * 12, rel=0.1)


@pytest.mark.parametrize("more", [{}, {"batch_size": 16, "batch_tokens": 3000}, {"accumulate": 4}])
def test_pairs_weigh_what_they_do_in_random_batches(more):
    """Long ones too, whose steps a limit of tokens makes short."""
    groups = list(pairs_of(like_svamp(300)))
    lengths = np.array([len(group.rows[0].labels) for group in groups])
    fifths = np.array_split(np.argsort(lengths, kind="stable"), 5)

    def by_fifth(batches, epochs, **how):
        weights = weights_of_pairs(feed_of(groups, batches, **more, **how), epochs)
        return np.array([weights[fifth].sum() for fifth in fifths]) / weights.sum()

    at_random = by_fifth("random", 30)
    assert by_fifth("by-length", 10) == pytest.approx(at_random, rel=0.05)
    if more.get("batch_tokens"):
        assert by_fifth("by-length", 10, corrected=False)[-1] > 1.3 * at_random[-1]


def test_groups_of_one_row_compare_nothing():
    """Beside pairs they keep weight 1; without any pair nothing is said of groups."""
    singles_too = [*pairs_of(like_svamp(40)), *singles(like_svamp(40, seed=1))]
    feed = feed_of(singles_too, "by-length")
    assert feed.correction.of_groups[40:] == pytest.approx([1.0] * 40)
    alone = feed_of(singles(like_svamp(40)), "by-length")
    assert alone.correction.of_groups is None and "group_factors" not in alone[0, (0, 1)]


@pytest.mark.skipif("LIMBECK_DATA" not in os.environ, reason="LIMBECK_DATA names no folder of real data")
def test_on_the_real_svamp():
    data = json.loads(SVAMP.read_text(encoding="utf-8"))
    records = data["data"] if isinstance(data, dict) else data
    words = [(int(1.3 * len(r["input"].split())), int(1.3 * len(r["chain"].split()))) for r in records]
    _, _, plain = check(singles(words), epochs=10)
    assert plain[0] > 4


def test_one_step_an_epoch_needs_no_correction():
    """Every token shares the step with all others, whatever the batches."""
    feed = feed_of(singles(like_svamp(30)), "by-length", batch_size=6, batch_tokens=10**6, accumulate=5)
    assert feed.sampler.steps_per_epoch == 1
    assert feed.correction.factors == pytest.approx([1.0] * 30)


def test_the_loss_stays_a_mean_over_an_epoch():
    """The weights of all tokens add up to the number of steps, as they do uncorrected."""
    feed = feed_of(singles(like_svamp(400)), "by-length", batch_size=16, batch_tokens=3000)
    total = 0.0
    for step in feed.sampler.steps(3):
        batches = [feed[3, micro] for micro in step]
        expected = sum(batch["expected"].sum().item() for batch in batches)
        total += sum(b["label_weights"][b["labels"] != -100].sum().item() for b in batches) / expected
    assert total == pytest.approx(feed.sampler.steps_per_epoch, rel=0.05)


def test_every_rank_and_seed_has_the_same_weights():
    groups = singles(like_svamp(120))
    found = [
        feed_of(groups, "by-length", accumulate=2, sharing=Sharing(2, rank, world)).correction
        for rank, world in ((0, 1), (0, 2), (1, 2), (3, 4))
    ]
    assert all(one.expected == found[0].expected for one in found)
    assert all(one.factors.tolist() == found[0].factors.tolist() for one in found)
    assert found[0].of_groups is None
    pairs = list(pairs_of(like_svamp(60)))
    one, other = (
        feed_of(pairs, "by-length", accumulate=2, sharing=Sharing(2, rank, 2)).correction for rank in (0, 1)
    )
    assert one.of_groups.tolist() == other.of_groups.tolist()


def test_rows_without_a_loss_count_nothing():
    rows = list(rows_of(like_svamp(80)))
    quiet = [Row(row.problem_id, row.input_ids, row.labels, scored=False) for row in rows[40:]]
    groups = [RowGroup(str(n), pair) for n, pair in enumerate(zip(rows[:40], quiet, strict=True))]
    feed = feed_of(groups, "by-length")
    counts = [scored_tokens(row, encoder_decoder=False) for row in rows[:40]]
    assert feed.correction.expected == pytest.approx(sum(counts) / 40)
    assert {feed.correction.of(group)[1] for group in range(40)} == {1.0}
    batch = feed[0, (0, 1)]
    assert batch["expected"].tolist() == pytest.approx([feed.correction.expected, 0] * 2)
    nothing = [RowGroup(str(n), (row,)) for n, row in enumerate(quiet)]
    assert set(feed_of(nothing, "by-length").correction.factors.tolist()) == {1.0}


def test_steps_without_a_scored_row_change_nothing():
    """Long rows that are mostly not scored share steps by length in which no token counts."""
    rows = [
        Row(row.problem_id, row.input_ids, row.labels, scored=n % 3 == 0 or len(row.labels) < 140)
        for n, row in enumerate(rows_of(like_svamp()))
    ]
    groups = [RowGroup(row.problem_id, (row,)) for row in rows]
    feed, reference = feed_of(groups, "by-length"), feed_of(groups, "random")
    scored = {row.key: scored_tokens(row, encoder_decoder=False) for row in rows if row.scored}

    def share_of_long(feed, epochs):
        """The weight of the tokens of long rows in an epoch, over that of all."""
        long, total = 0.0, 0.0
        for epoch in range(100, 100 + epochs):
            for step in feed.sampler.steps(epoch):
                drawn = [(g, feed.groups[g].rows[0].key) for micro in step for g in micro]
                counted = [(g, scored[key]) for g, key in drawn if key in scored]
                if not counted:
                    continue
                if feed.correction:
                    whole = len(counted) * feed.correction.expected
                    weights = [(n, n * feed.correction.of(g)[0] / whole) for g, n in counted]
                else:
                    weights = [(n, n / sum(n for _, n in counted)) for _, n in counted]
                long += sum(weight for n, weight in weights if n >= 110)
                total += sum(weight for _, weight in weights)
        return long / total

    assert share_of_long(feed, 10) == pytest.approx(share_of_long(reference, 40), rel=0.1)


def test_scored_tokens_are_those_that_a_loss_counts():
    """Nothing predicts the first token of a decoder-only row; weights count as they weigh."""
    row = Row("a", [5, 6, 7], [5, 6, 7], [0.5, 0.5, 2.0])
    assert scored_tokens(row, encoder_decoder=False) == 2.5
    assert scored_tokens(row, encoder_decoder=True) == 3.0
    assert scored_tokens(Row("a", [5, 6, 7], [-100, 6, 7]), encoder_decoder=False) == 2
    assert scored_tokens(Row("a", [5, 6], [8], scored=False), encoder_decoder=True) == 0
