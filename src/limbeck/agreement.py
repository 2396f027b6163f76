"""Agreement: what the samples of a problem answer together, with or without a gold answer.

Samples that end in the same answer are right more often than one alone
(self-consistency, arXiv 2203.11171). So where no gold answer is known, their
agreement can decide which rationales are kept. Where gold is known,
`against_gold` shows how often the agreed answer is gold, level by level: the
figures by which a share is chosen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from limbeck.records import Problem, Rationale
from limbeck.tasks.answers import AnswerKind, same

Abstentions = Literal["count", "leave-out"]

TIE = "samples tie"
TOO_FEW = "too few samples agree"
OTHER_ANSWER = "another answer than the samples agree on"

LEVELS = 10
"""Levels of agreement: 100 %, 90 to 99 %, and so on. Samples of ten or fewer have a level per count."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What counts as agreement.

    Attributes:
        kind: of the answers, for which ones are the same.
        share: of a problem's samples that must state the same answer, at least.
        least: that many of them at least; a sample alone agrees with nobody.
        abstentions: a sample without a readable answer counts as one that does not
            agree, or is left out of the share.
    """

    kind: AnswerKind
    share: float = 0.5
    least: int = 2
    abstentions: Abstentions = "count"

    def agreed(self, vote: Vote) -> str | None:
        """The answer that enough samples state; None where too few do, or as many state another one."""
        return None if self.missing(vote) else vote.answers[0]

    def is_gold(self, vote: Vote, problem: Problem) -> bool:
        """Whether what the samples agree on is the gold answer."""
        agreed = self.agreed(vote)
        return agreed is not None and problem.answer is not None and same(self.kind, agreed, problem.answer)

    def missing(self, vote: Vote) -> str | None:
        """Why the samples of a problem agree on nothing, as a reason to drop them; None where they agree."""
        whole = vote.samples if self.abstentions == "count" else vote.stated
        if vote.most < max(self.least, 1) or vote.most / whole < self.share:  # a product would round
            return TOO_FEW
        return TIE if vote.tied else None

    def objection(self, vote: Vote, rationale: Rationale) -> str | None:
        """Why a rationale that states an answer is not kept by agreement; None where it is."""
        if missing := self.missing(vote):
            return missing
        return None if vote.group_of.get(rationale.answer or "") == 0 else OTHER_ANSWER


@dataclass(frozen=True, slots=True)
class Vote:
    """What the samples of one problem answer.

    Attributes:
        answers: the different ones, the most frequent first; of equally frequent ones
            that which came first.
        counts: how many samples state each of them.
        group_of: every spelling of an answer -> its place in `answers`.
        samples: all of them, with those that abstain.
    """

    answers: tuple[str, ...]
    counts: tuple[int, ...]
    group_of: Mapping[str, int]
    samples: int

    @property
    def most(self) -> int:
        """How many samples state the most frequent answer."""
        return self.counts[0] if self.counts else 0

    @property
    def stated(self) -> int:
        return sum(self.counts)

    @property
    def tied(self) -> bool:
        """Whether two answers are the most frequent."""
        return len(self.counts) > 1 and self.counts[0] == self.counts[1]

    def shown(self) -> str:
        """The answers with their counts, as people read them: "15 (3), 12 (1), none (2)"."""
        pairs = [*zip(self.answers, self.counts, strict=True)][:5]
        silent = [("none", self.samples - self.stated)] if self.samples > self.stated else []
        return ", ".join(f"{answer[:40]} ({count})" for answer, count in [*pairs, *silent])


def abstains(rationale: Rationale) -> bool:
    """Whether a sample has no vote: nothing could be read, or it was cut off and would be a guess."""
    return rationale.answer is None or (rationale.truncated and rationale.how != "marker")


def votes(rationales: Iterable[Rationale], kind: AnswerKind) -> dict[str, Vote]:
    """What the samples of each problem answer, by the problem's id; all sources vote together."""
    samples: dict[str, list[Rationale]] = defaultdict(list)
    for one in rationales:
        samples[one.problem_id].append(one)
    return {problem_id: vote(group, kind) for problem_id, group in samples.items()}


def vote(group: Iterable[Rationale], kind: AnswerKind) -> Vote:
    """What the samples of one problem answer."""
    return _vote([None if abstains(one) else one.answer for one in group], kind)


def _vote(answers: Sequence[str | None], kind: AnswerKind) -> Vote:
    counts: dict[str, int] = {}
    first_of: dict[str, str] = {}
    for answer in answers:
        if answer is None:
            continue
        if answer not in first_of:  # a comparison costs far more than a look-up
            first_of[answer] = next((other for other in counts if same(kind, other, answer)), answer)
        counts[first_of[answer]] = counts.get(first_of[answer], 0) + 1
    ranked = sorted(counts, key=lambda answer: -counts[answer])  # stable: the first one of equals
    places = {answer: place for place, answer in enumerate(ranked)}
    return Vote(
        answers=tuple(ranked),
        counts=tuple(counts[answer] for answer in ranked),
        group_of={answer: places[first] for answer, first in first_of.items()},
        samples=len(answers),
    )


def against_gold(
    found: Mapping[str, Vote], problems: Iterable[Problem], kind: AnswerKind
) -> dict[str, dict[str, Any]]:
    """How often the most frequent answer is gold, by the share of samples that state it.

    Counted are problems with a gold answer and two samples or more. "from here up" are
    the figures of a level and all higher ones: what a rule with that share would keep.
    Ties and problems without any answer have rows of their own, and no right answer.
    """
    levels = Levels(kind)
    for problem in problems:
        if problem.id in found:
            levels.add(found[problem.id], problem)
    return levels.table()


class Levels:
    """The counts of `against_gold`, problem by problem."""

    def __init__(self, kind: AnswerKind) -> None:
        self._kind = kind
        self._counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        self._tied = self._silent = 0

    def add(self, found: Vote, problem: Problem) -> None:
        """Count what the samples of a problem answer."""
        if problem.answer is None or found.samples < 2:
            return
        if not found.answers:
            self._silent += 1
        elif found.tied:
            self._tied += 1
        else:
            level = self._counts[found.most * LEVELS // found.samples]
            level[0] += 1
            level[1] += same(self._kind, found.answers[0], problem.answer)

    def table(self) -> dict[str, dict[str, Any]]:
        """A row for each level, the highest first."""
        table: dict[str, dict[str, Any]] = {}
        above = right_above = 0
        for place, (count, right) in sorted(self._counts.items(), reverse=True):
            above, right_above = above + count, right_above + right
            table[_level_name(place)] = {
                "problems": count,
                "gold": right,
                "share": round(right / count, 4),
                "from here up": above,
                "share from here up": round(right_above / above, 4),
            }
        for name, count in (("tie", self._tied), ("no answer", self._silent)):
            if count:
                table[name] = {"problems": count}
        return table


def _level_name(level: int) -> str:
    low = 100 * level // LEVELS
    return "100 %" if level == LEVELS else f"{low} to {low + 100 // LEVELS - 1} %"
