"""Fine-tune-CoT (arXiv 2212.10071): the story of the paper.

1. The teacher writes rationales; those that end in the gold answer are kept.
2. The student learns question -> rationale and answer. More than one rationale
   per problem is the paper's "diverse reasoning".

    L = Σ cross-entropy over target tokens / number of target tokens of the optimiser step

Deviations from the published code are in docs/papers.md.
"""

from __future__ import annotations

from functools import partial

from pydantic import Field

from limbeck.methods import Method, Uses
from limbeck.recipe import Choose, Settings
from limbeck.stages import (
    Context,
    Learner,
    Picked,
    Split,
    cross_entropy,
    examine,
    rationale_data,
    rationales,
    train,
)


class FinetuneCotSettings(Settings):
    """The settings of Fine-tune-CoT."""

    rationales: int = Field(1, ge=1, description="rationales per problem trained on (diverse reasoning: > 1)")
    choose: Choose = Field("first", description="which ones: first, random, diverse or similar")
    ngram: int = Field(3, ge=1, description="diverse or similar by word n-grams of this n")
    teacher_share: float = Field(
        1.0, gt=0, le=1, description="share of the training problems whose rationales it may see"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, strict=True, description="share of each target spread over the vocabulary"
    )


def finetune_cot(context: Context, student: Learner, settings: FinetuneCotSettings) -> None:
    """Problems -> the teacher's rationales -> the correct ones -> train on them -> exam."""

    def pick(split: Split) -> Picked:
        found = rationales(context, split, settings.teacher_share)
        seed = context.recipe.seed
        return found.chosen(settings.rationales, settings.choose, seed=seed, ngram=settings.ngram)

    loss = partial(cross_entropy, smoothing=settings.label_smoothing)
    examine(context, train(context, student, rationale_data(context, student, pick), loss))


METHOD = Method(
    "fine-tune on question -> teacher rationale and answer; several rationales per problem if wanted",
    "Fine-tune-CoT, arXiv 2212.10071",
    FinetuneCotSettings,
    finetune_cot,
    uses=lambda settings: Uses(rows=settings.rationales),
)
