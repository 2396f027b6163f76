"""What a method needs of a run, declared by the method and asked by generic code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Uses:
    """What a method needs beyond the problems; generic code asks this and never a method's name.

    Attributes:
        mentor: a name of the recipe's `mentors:`, or None.
        soft_labels: the student learns from the mentor's distributions, so both must read the same tokens.
        answer_places: answers are found again among their tokens, so the tokenizer must show places.
        reasons: the student learns to reason, so that demonstrations for it hold rationales.
        trains: False where nobody is trained.
        rows: training examples of a problem that an epoch reads, at most; for estimates alone.
        together: whether these are one group.
        compared: rows that each is compared with in an epoch, and that are not learned; for estimates alone.
        models: how many models a student's training leaves in its folder, such as one for each round.
        asks: the teacher is asked for more than plain rationales.
        files: that its settings name; a protocol of claims holds their hashes.
        reads: the student reads passages of the recipe's `knowledge`.
        ranks: and the run's reranker chooses them.
        supports: in training those are read that rationales find.
        pauses: words of `--until` at which the story ends by itself, see `Run.ends_at`.
    """

    mentor: str | None = None
    soft_labels: bool = False
    answer_places: bool = False
    reasons: bool = True
    trains: bool = True
    rows: int = 1
    together: bool = False
    compared: int = 0
    models: int = 1
    asks: bool = False
    reads: bool = False
    ranks: bool = False
    supports: bool = False
    files: tuple[str, ...] = ()
    pauses: tuple[str, ...] = ()
