"""KARD (NeurIPS 2023, arXiv 2305.18395): the story of the paper.

1. The teacher writes rationales; those that end in the gold answer are kept.
2. Each rationale finds the passages of a corpus that support it (BM25): the silver passages.
3. The student learns question and passages -> rationale and answer.

       L = Σ cross-entropy over target tokens / number of target tokens of the optimiser step

4. A reranker learns, from the question alone, to rank passages as BM25 does for the rationale.
5. In the exam the question finds passages, the reranker puts the best first, and the student reads them.

Deviations from the published code are in docs/papers.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from limbeck.errors import RecipeError
from limbeck.methods import Method, Uses
from limbeck.recipe import Choose, Recipe, Settings
from limbeck.records import SilverQuery
from limbeck.stages import (
    Context,
    Finder,
    Learner,
    Reader,
    TrainFinder,
    answered_data,
    check_reads,
    examine,
    found_passages,
    grounded_data,
    knowledge,
    read_in_exam,
    reads_passages,
    reranker,
    silver_passages,
    train,
)


class KardSettings(Settings):
    """The settings of KARD."""

    passages: int = Field(1, ge=1, le=10, description="in a prompt of the exam, best first")
    train_passages: int | None = Field(
        None, ge=1, le=10, description="in a prompt of training; null: as many as in the exam"
    )
    apart: bool = Field(
        False,
        description="ours, not the paper's: in the exam a prompt for each passage, whose answers vote; the "
        "best one alone is trained with",
    )
    query: SilverQuery = Field("rationale", description="what finds the passages that are trained with")
    learns: Literal["rationales", "answers"] = Field(
        "rationales",
        description="answers: no reasoning; with query: question (the paper's fine-tuning with knowledge) or "
        "question+answer (ours) every training problem, with or without rationales",
    )
    rationales: int = Field(1, ge=1, description="per problem")
    choose: Choose = Field("first", description="which ones: first, random, diverse or similar")
    find: Finder = Field(
        "question",
        description="what finds the passages of the exam. question: BM25 by the question; reranker: the "
        "same, reranked; silver: by the teacher's rationale, an upper bound",
    )

    @property
    def inside(self) -> int:
        """Passages of a prompt of training."""
        return 1 if self.apart else self.train_passages or self.passages


def answers_by(settings: KardSettings) -> TrainFinder | None:
    """What finds the passages of answers that need no rationale; None: rationales are needed."""
    if settings.learns == "answers" and settings.query in ("question", "question+answer"):
        return settings.query
    return None


def shared(context: Context, several: Sequence[KardSettings]) -> None:
    """Index -> silver passages -> reranker -> passages of the exam, for all students before the first one."""
    base = knowledge(context)
    for query in dict.fromkeys(one.query for one in several if answers_by(one) is None):
        silver_passages(context, base, "train", query)
    if any(one.find == "reranker" for one in several):
        reranker(context, base)
    # Next to those of the exam, so that --until ends behind both.
    for finder in dict.fromkeys(one for one in map(answers_by, several) if one is not None):
        found_passages(context, base, "train", 1, finder)
    for find in dict.fromkeys(one.find for one in several):
        found_passages(context, base, "test", 1, find)


def kard(context: Context, student: Learner, settings: KardSettings) -> None:
    """Rationales -> their silver passages -> train on question and passages -> exam with what is found."""
    base, reader = knowledge(context), reads_passages(student, apart=settings.apart)
    if (finder := answers_by(settings)) is None:
        reasons, most = settings.learns == "rationales", settings.inside
        data = grounded_data(
            context, base, reader, settings.rationales, settings.choose, settings.query, most, reasons=reasons
        )
    else:
        data = answered_data(context, base, reader, query=finder, most=settings.inside)
    # Students that differ in their exam alone share a training.
    learned = {**settings.model_dump(exclude={"find", "train_passages"}), "passages": settings.inside}
    data = read_in_exam(context, base, reader, data, settings.passages, settings.find, learned)
    found = found_passages(context, base, "test", settings.passages, settings.find)
    examine(context, Reader(train(context, reader, data), found))
    if context.recipe.exam.also:
        context.run.say(f"{student.shown}: its corpus is about its own task, so it skips exam.also")


def check(recipe: Recipe, settings: KardSettings, place: str) -> None:
    """Refuse what would fail after the rationales: a RecipeError names the setting."""
    check_reads(recipe, place, settings.passages, settings.find)
    if settings.apart and settings.passages == 1:
        raise RecipeError(f"{place}.settings.apart: one passage cannot vote; raise passages, or leave it out")
    if settings.apart and settings.train_passages:
        raise RecipeError(f"{place}.settings.train_passages: apart trains with one; leave it out")
    if "answer" in settings.query and recipe.task.source == "files" and recipe.task.gold == "optional":
        raise RecipeError(f"{place}.settings.query: by task.gold: optional some questions have no answer")


METHOD = Method(
    "each rationale finds a passage of a corpus; the student learns to reason from question and passage",
    "KARD, arXiv 2305.18395",
    KardSettings,
    kard,
    uses=lambda own: Uses(
        asks=own.find == "silver",
        reasons=own.learns == "rationales",
        reads=True,
        ranks=own.find == "reranker",
        supports=answers_by(own) is None,
        rows=own.rationales if answers_by(own) is None else 1,
    ),
    check=check,
    shared=shared,
)
