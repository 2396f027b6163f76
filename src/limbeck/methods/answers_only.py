"""Answers only: question -> gold answer; the baseline without any reasoning (arXiv 2212.10071)."""

from __future__ import annotations

from limbeck.methods import Method, Uses
from limbeck.recipe import Settings
from limbeck.stages import Context, Data, Learner, answer_examples, examine, problems, singles, train


class AnswersOnlySettings(Settings):
    """Answers only has no settings of its own."""


def answers_only(context: Context, student: Learner, settings: AnswersOnlySettings) -> None:
    """Problems -> train on the gold answers -> exam."""
    found = problems(context)
    by_loss = student.settings.train.choose == "dev-loss"
    data = Data(
        train=singles(answer_examples(student, found.train)),
        dev=singles(answer_examples(student, found.dev)) if by_loss else [],
        inputs=found.inputs,
    )
    examine(context, train(context, student, data))


METHOD = Method(
    "fine-tune on question -> gold answer; the baseline without any reasoning",
    "the `fine-tuning` baseline of arXiv 2212.10071",
    AnswersOnlySettings,
    answers_only,
    uses=lambda settings: Uses(reasons=False),
)
