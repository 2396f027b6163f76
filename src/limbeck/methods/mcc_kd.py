"""MCC-KD (arXiv 2310.14747): the story of the paper.

1. The teacher writes several rationales per question; those that end in the gold answer are kept.
2. K of them are chosen whose n-grams overlap least (smallest sum of pairwise Jaccard similarities).
3. Every epoch draws two of the K for each question. The student learns both, and what it predicts for
   the answer after one is pulled towards what it predicts after the other:

    L = ½ (CE₁ + CE₂) + α · ½ [KL(p ‖ q) + KL(q ‖ p)]

p and q are the student's own distributions over the tokens of the answer, at one temperature, and both get
a gradient. Our cross-entropy is a mean over all tokens of the step, so the longer of two rationales weighs
more than ½. A question with one rationale learns by cross-entropy alone. With α = 0 the student sees the
same pairs in the same order: that is the control.

Deviations from the published code are in docs/papers.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from limbeck.errors import RecipeError
from limbeck.methods import Method, Uses
from limbeck.recipe import Choose, Recipe, Settings
from limbeck.stages import (
    Context,
    Draw,
    Learner,
    Picked,
    Split,
    cross_entropy,
    examine,
    rationale_data,
    rationales,
    train,
)

if TYPE_CHECKING:
    from limbeck.training.parts import Parts


class MccKdSettings(Settings):
    """The settings of MCC-KD."""

    rationales: int = Field(5, ge=1, description="K: rationales per problem, of which each epoch draws two")
    choose: Choose = Field(
        "diverse", description='which K: "diverse" (n-grams that overlap least), "similar", "random", "first"'
    )
    ngram: int = Field(3, ge=1, description="length of the word n-grams by which similarity is measured")
    span_weight: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="α, of the divergence between the two answers"
    )
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="of both distributions")


def mcc_kd(context: Context, student: Learner, settings: MccKdSettings) -> None:
    """Problems -> the teacher's rationales -> K different correct ones -> train on pairs of them -> exam."""

    def pick(split: Split) -> Picked:
        found = rationales(context, split)
        seed = context.recipe.seed
        return found.chosen(settings.rationales, settings.choose, seed=seed, ngram=settings.ngram)

    def parts() -> Parts:
        from limbeck.training.parts import SpanKL

        agreement = SpanKL(settings.span_weight, settings.temperature)
        return (*cross_entropy(), *((agreement,) if settings.rationales > 1 else ()))

    data = rationale_data(context, student, pick, grouped=True, draw=Draw({"": 2}))
    examine(context, train(context, student, data, parts))


def check(recipe: Recipe, settings: MccKdSettings, place: str) -> None:
    """Refuse to compare answers where there is one rationale per problem."""
    if settings.span_weight == 0:
        return
    given = recipe.teacher.kind == "given"
    wanted = {"settings.rationales": settings.rationales}
    wanted |= {} if given else {"rationales.per_problem": recipe.rationales.per_problem}
    for name, count in wanted.items():
        if count == 1:
            raise RecipeError(
                f"{place}.settings: the answers of two rationales are compared, and {name} is 1; raise it, "
                "or set settings.span_weight to 0"
            )


def uses(settings: MccKdSettings) -> Uses:
    """The places of answers, where answers are compared."""
    return Uses(answer_places=settings.span_weight > 0, rows=min(settings.rationales, 2), together=True)


METHOD = Method(
    "pairs of diverse rationales; cross-entropy + two-way KL between their answers",
    "MCC-KD, arXiv 2310.14747",
    MccKdSettings,
    mcc_kd,
    uses,
    check,
)
