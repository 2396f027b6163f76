"""Makes batches by length weigh a token, and a group's comparison, as random batches do.

A token loss is a mean over the tokens of a step. In random batches a step holds rows of all
lengths, so a token weighs about the same wherever it is. By length a step holds rows of one length,
and a token of a short row has few others to share the step with: on lengths like those of GPT-3.5's
rationales for SVAMP, one of the shortest 5 % of rows weighs six times the mean.

So the step's own count is replaced by an expected one, E · (rows of the step), with E the scored
tokens of a row on average, and the tokens of row r are multiplied by

    v_r = mean over random steps with r of 1 / (tokens of the step)
        / mean over steps by length with r of 1 / (E · rows of the step)

Both means are estimated once, from simulated epochs with seeds of their own, so that every rank,
every student and every resumed run has the same. They are smoothed over rows of similar length.
The expectation of the gradient over an epoch is then that of random batches; its spread over the
steps is larger: a step of long rows moves more than one of short rows.

What is compared within a group, a pair or a triplet, weighs 1 / (those of the step). By length the longest
groups always share the short step of an epoch, and where a limit of tokens cuts, long groups share theirs
with few others. So the comparison of group g is multiplied by

    u_g = mean over random steps with g of 1 / (groups of the step that compare)
        / mean over steps by length with g of the same

A group of several rows is taken to give one comparison, which is so for two drawn of K rationales, and for
one anchor, one positive and one negative.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.objectives.align import IGNORED
from limbeck.training.groups import Draw
from limbeck.training.rows import Outline, Row, RowGroup
from limbeck.training.sampler import GroupSampler, Sizes, on_grid_sizes, padded

Floats = NDArray[np.float64]

SAMPLES = 20_000
"""Rows whose steps are looked at, about, of either kind of batches; at least two epochs."""

BINS = 20
"""Rows are smoothed within this many bins of length, each with as many rows."""

QUANTILES = 500
"""Of the rest of a step, per bin."""


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What the rows of batches by length are corrected by.

    Attributes:
        factors: v, of each row, through all groups.
        starts: the first row of each group, and their number.
        expected: E, what each scored row adds to the count of a step.
        of_groups: u, of each group; None where none has several rows.
    """

    factors: Floats
    starts: NDArray[np.int64]
    expected: float
    of_groups: Floats | None = None

    def of(self, group: int) -> list[float]:
        """v of a group's rows."""
        first, end = self.starts[group : group + 2]
        found: list[float] = self.factors[first:end].tolist()
        return found


def correction(
    groups: Sequence[RowGroup],
    known: Outline,
    sizes: Sizes,
    by_length: GroupSampler,
    at_random: GroupSampler,
    draw: Draw,
    *,
    encoder_decoder: bool,
) -> Correction:
    """Estimate v, E and u.

    Args:
        known: their outline.
        sizes: of each group at its largest draw, as the samplers have them.
        by_length: with any seed; epochs of it are simulated.
        at_random: the same groups and limits.
    """
    each = (scored_tokens(row, encoder_decoder=encoder_decoder) for group in groups for row in group.rows)
    counts, scored, starts = np.fromiter(each, np.float64), known.scored, known.starts
    of_groups = _of_groups(sizes, by_length, at_random)
    expected = float(counts[scored].mean()) if scored.any() else 0.0
    if expected == 0:
        return Correction(np.ones(len(counts)), starts, 1.0, of_groups)
    rows = known.rows_of_groups
    widths = np.repeat(padded(sizes), rows)
    epochs = max(2, round(SAMPLES / len(counts)))
    wanted = _at_random(_steps(groups, at_random, draw, starts, epochs), counts, widths)
    steps = _steps(groups, by_length, draw, starts, epochs)
    found = _by_class(steps, np.where(scored, expected, 0.0), np.repeat(_classes(sizes), rows))
    # Where a limit of tokens cuts, epochs by length have fewer steps: each still adds up to 1.
    factors = wanted / found * (by_length.steps_per_epoch / at_random.steps_per_epoch)
    return Correction(np.where(scored, factors, 1.0), starts, expected, of_groups)


def _of_groups(sizes: Sizes, by_length: GroupSampler, at_random: GroupSampler) -> Floats | None:
    """u of each group; 1 where a group is one row."""
    compares = sizes[:, 0] > 1
    if not compares.any():
        return None
    epochs = max(2, round(SAMPLES / len(sizes)))
    counts = compares.astype(np.float64)
    wanted = _by_class(_groups(at_random, epochs), counts, _bins(padded(sizes)))
    found = _by_class(_groups(by_length, epochs), counts, _classes(sizes))
    factors = wanted / found * (by_length.steps_per_epoch / at_random.steps_per_epoch)
    return np.where(compares, factors, 1.0)


def _groups(sampler: GroupSampler, epochs: int) -> Iterator[NDArray[Any]]:
    """The groups of every step of some epochs."""
    for epoch in range(epochs):
        for step in sampler.steps(epoch):
            yield np.array([group for micro in step for group in micro])


def _classes(sizes: Sizes) -> NDArray[Any]:
    """A number for each group: the same for those that change places by length."""
    classes: NDArray[Any] = np.unique(on_grid_sizes(sizes), axis=0, return_inverse=True)[1]
    return classes


def _bins(widths: NDArray[Any]) -> NDArray[Any]:
    """Which of `BINS` bins of similar width each of some is in."""
    place = np.empty(len(widths), int)
    place[np.argsort(widths, kind="stable")] = np.arange(len(widths))
    return place * BINS // len(widths)


def scored_tokens(row: Row, *, encoder_decoder: bool) -> float:
    """What a row adds to the count of a token loss: its labels' weights, or their number."""
    if not row.scored:
        return 0.0
    first = 0 if encoder_decoder else 1  # nothing predicts the first token of a decoder-only row
    if row.weights is None:
        labels = row.labels[first:]
        return float(len(labels) - labels.count(IGNORED))
    pairs = zip(row.labels[first:], row.weights[first:], strict=True)
    return sum(weight for label, weight in pairs if label != IGNORED)


def _steps(
    groups: Sequence[RowGroup], sampler: GroupSampler, draw: Draw, starts: NDArray[Any], epochs: int
) -> Iterator[NDArray[Any]]:
    """The rows of every step of some epochs, numbered through all groups."""

    def drawn(group: int, epoch: int) -> Sequence[int]:
        if not draw.per_role:  # every row of a group, which then need not be read
            return range(starts[group + 1] - starts[group])
        own = groups[group]
        return draw.chosen(own.key, own.roles, seed=sampler.seed, epoch=epoch)

    for epoch in range(epochs):
        for step in sampler.steps(epoch):
            yield np.array([starts[g] + row for micro in step for g in micro for row in drawn(g, epoch)])


def _at_random(steps: Iterator[NDArray[Any]], counts: Floats, widths: NDArray[Any]) -> Floats:
    """Mean of 1 / (tokens of the step) for each row.

    What the others of a step add up to hardly depends on a row's own length, so it is pooled over
    rows of similar length, and a row's own tokens are added to each. It depends a little, because a
    row is not among its own others: their mean falls by `share` of what the row has more.
    """
    rows, rests, shares = array("q"), array("d"), array("d")
    for step in steps:
        share = (len(step) - 1) / max(len(counts) - 1, 1)
        rows.frombytes(step.tobytes())
        rests.frombytes((counts[step].sum() - (1 - share) * counts[step]).tobytes())
        shares.frombytes(np.full(len(step), share).tobytes())
    row, rest, share_of = np.asarray(rows), np.asarray(rests), np.asarray(shares)
    bins = _bins(widths)
    means = np.empty(len(counts))
    for number in np.unique(bins):
        own = bins == number
        seen = own[row] if own[row].any() else np.ones(len(row), bool)
        pooled = np.quantile(rest[seen], (np.arange(QUANTILES) + 0.5) / QUANTILES)
        lengths, where = np.unique((1 - share_of[seen].mean()) * counts[own], return_inverse=True)
        means[own] = np.array([(1 / np.maximum(c + pooled, 1e-9)).mean() for c in lengths])[where]
    return means


def _by_class(steps: Iterator[NDArray[Any]], expected: Floats, classes: NDArray[Any]) -> Floats:
    """Mean of 1 / (what is expected of the step) for each row or group: that of all of its class.

    Those of which nothing is expected have no share in it: a step may hold them alone.
    """
    totals, times = np.zeros(classes.max() + 1), np.zeros(classes.max() + 1)
    for step in steps:
        own = classes[step[expected[step] > 0]]
        np.add.at(totals, own, 1 / max(expected[step].sum(), 1e-9))
        np.add.at(times, own, 1)
    means = np.divide(totals, times, out=np.ones_like(totals), where=times > 0)
    found: Floats = means[classes]
    return found
