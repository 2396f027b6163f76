"""How well passages were found, where it is known which ones are relevant.

recall@k    the share of a query's relevant passages that are among its first k, a mean over queries
hit@k       the share of queries with at least one relevant passage among the first k
MRR         1 / the rank of the first relevant passage, 0 where none was found, a mean over queries

Intervals are Wilson's for hits and Student's t for the other two, within 0 and 1.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

from limbeck.statistics import mean_and_std, t_quantile, wilson

AT = (1, 5, 10, 100)


class Mean(NamedTuple):
    """A mean over queries, and its 95% interval over other queries of the same kind; None: not known."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one engine over some queries; `recall` and `hit` by k."""

    queries: int
    recall: Mapping[int, Mean]
    hit: Mapping[int, Mean]
    mrr: Mean

    def json(self) -> dict[str, Any]:
        """As a JSON object."""
        said: dict[str, Any] = {"queries": self.queries}
        said |= {f"recall@{k}": list(one) for k, one in self.recall.items()}
        said |= {f"hit@{k}": list(one) for k, one in self.hit.items()}
        return {**said, "mrr": list(self.mrr)}


def recall(found: Sequence[str], relevant: Collection[str], k: int) -> float:
    """The share of the relevant passages, of which there is one at least, among the first k found."""
    return len(set(found[:k]) & set(relevant)) / len(set(relevant))


def reciprocal_rank(found: Sequence[str], relevant: Collection[str]) -> float:
    """1 / the rank of the first relevant passage; 0 where there is none."""
    return next((1 / rank for rank, name in enumerate(found, start=1) if name in relevant), 0.0)


def quality(
    found: Sequence[Sequence[str]], relevant: Sequence[Collection[str]], at: Sequence[int] = AT
) -> Quality:
    """Of the passages found for each query, best first; each query has at least one relevant passage.

    Args:
        at: the k to report; so many were searched for.
    """
    recalls = {k: [recall(one, names, k) for one, names in zip(found, relevant, strict=True)] for k in at}
    ranks = [reciprocal_rank(one, names) for one, names in zip(found, relevant, strict=True)]
    return Quality(
        len(found),
        {k: _share(values) for k, values in recalls.items()},
        {k: hits(values) for k, values in recalls.items()},
        _share(ranks),
    )


def hits(values: Sequence[float]) -> Mean:
    """The share of values above 0, with Wilson's interval: a t of noughts and ones alone has no width."""
    count = sum(value > 0 for value in values)
    if len(values) < 2:
        return Mean(float(count), None, None)
    return Mean(count / len(values), *wilson(count, len(values)))


def _share(values: Sequence[float]) -> Mean:
    """The mean of values from 0 to 1, and its interval within these."""
    mean = mean_over(values)
    if mean.low is None or mean.high is None:
        return mean
    return Mean(mean.value, max(mean.low, 0.0), min(mean.high, 1.0))


def mean_over(values: Sequence[float]) -> Mean:
    """The mean of one value for each query, or of paired differences, with Student's t; of none it is 0.

    Of one value, or of values that are all the same, the spread is not known.
    """
    if not values:
        return Mean(0.0, None, None)
    mean, deviation = mean_and_std(values)
    if deviation is None or len(set(values)) == 1:
        return Mean(mean, None, None)
    half = t_quantile(0.975, len(values) - 1) * deviation / sqrt(len(values))
    return Mean(mean, mean - half, mean + half)


def overlap(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> float:
    """The share of the first list's passages that the second one has too, a mean over lists with any."""
    shares = array("d", (len({*one} & {*other}) / len({*one}) for one, other in pairs if one))
    return sum(shares) / len(shares) if shares else 0.0
