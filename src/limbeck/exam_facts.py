"""Who was examined and what it took to make it: what metrics.json says next to the score.

The code that holds an exam writes these facts. The report reads them and never guesses
from a folder's name. A fact that is not known is None, never 0.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from limbeck.records import Record

Role = Literal["teacher", "mentor", "verifier", "student", "exam"]
"""`exam`: any other model, such as the one of `limbeck evaluate`."""


DIRECT = "direct"
"""The name of an exam without reasoning, among those of other tasks: its folder is `exam-direct`."""


def of_exam(other: str) -> str:
    """The words behind "exam" for another task's exam, or for the one without reasoning."""
    return "without reasoning" if other == DIRECT else f"of {other}"


class RoundFacts(Record):
    """What one round of a student's training took; None: not known."""

    round: int | None = Field(None, ge=0)
    training_examples: int | None = Field(None, ge=0)
    steps: int | None = Field(None, ge=0)
    epochs: float | None = Field(None, ge=0, allow_inf_nan=False)
    tokens: int | None = Field(None, ge=0)
    train_seconds: float | None = Field(None, ge=0, allow_inf_nan=False)


class ExamFacts(Record):
    """Who sat one exam; with the numbers of `evaluate.metrics` it makes metrics.json.

    Seeds of one student share role, name and round. The student itself, after its last round, has no
    `round`; `after_round` says which one it was. Numbers of training are those of this learner alone, not of
    the mentor it learned from. Those of a round are its own; those of the student itself are of all rounds
    behind its weights, and `by_round` says which is of which.
    """

    role: Role = Field(description="what it is in its run")
    name: str = Field(min_length=1, description="what the recipe calls it, without its seed")
    seed: int | None = Field(None, ge=0, description="of its training; null: it has none")
    round: int | None = Field(None, ge=0, description="of a method that trains in rounds; null: it does not")
    after_round: int | None = Field(
        None, ge=0, description="the round that its weights come from; null: not known, or without rounds"
    )
    model: str = Field(description="name or folder of the model it was made from, or that was asked")
    dtype: str | None = Field(None, description="of the weights in this exam; null: not known")
    served: str | None = Field(
        None, description="the name under which a server wrote its answers; null: they were written here"
    )
    method: str | None = Field(None, description="by which it was trained; null: it was not trained here")
    parameters: int | None = Field(None, ge=1, description="of the whole model, adapters included")
    trained_parameters: int | None = Field(None, ge=0, description="those that training changed")
    training_examples: int | None = Field(None, ge=0, description="different examples it was trained on")
    new_rationales: tuple[int, ...] | None = Field(
        None, description="of each round's feedback, where `adds` says how many it should be"
    )
    wanted_rationales: int | None = Field(None, ge=1, description="new ones of each round: `adds`")
    chosen_similarity: float | None = Field(
        None, ge=0, le=1, description="mean trigram similarity of a problem's rationales, as trained on"
    )
    kept_similarity: float | None = Field(
        None, ge=0, le=1, description="the same of all that were kept, of which they were chosen"
    )
    pairs: int | None = Field(
        None, ge=0, description="of rationales of a question, whose answers could be compared; null: none are"
    )
    pairs_unlike: int | None = Field(
        None, ge=0, description="of these, cut into different tokens, so not compared"
    )
    questions_without_pair: int | None = Field(
        None, ge=0, description="with fewer than two rationales whose answer was found"
    )
    without_span: int | None = Field(
        None, ge=0, description="examples whose answer was not found among their tokens"
    )
    copied_from: str | None = Field(
        None, description="the place in the run of the training that it shares; null: it has its own"
    )
    weights: str | None = Field(
        None, description="a hash of its weights: equal ones are one training; null: not known"
    )
    steps: int | None = Field(None, ge=0, description="optimiser steps behind its weights")
    epochs: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="how often it saw its examples; steps may end within one"
    )
    tokens: int | None = Field(None, ge=0, description="read in training, prompts too, again in every epoch")
    train_seconds: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="of wall clock in training, resumed parts included"
    )
    cost_usd: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="dollars paid to an endpoint: for the answers it was trained on, or (a teacher) its exam",
    )
    by_round: tuple[RoundFacts, ...] | None = Field(
        None, description="of the student itself after several rounds: each one's own numbers of training"
    )
    passages: int | None = Field(None, ge=1, description="that its prompts hold; null: it reads none")
    found_by: str | None = Field(
        None, description="what found them: question, reranker (behind the question) or silver; null: none"
    )
    split: str = Field(description="of the problems asked: train, dev or test")
    task: str = Field(description="the task's name")
    kind: str = Field(description="of the answers: number, choice, text, yes-no")
    also: bool = Field(False, description="an exam of another task than the run's own (`exam.also`)")
    direct: bool = Field(
        False, description="without reasoning: answers began with the answer (`exam.direct`)"
    )

    @property
    def other(self) -> str:
        """The other task that an exam of a run is of, or `DIRECT`; "": it is the usual one of the run's task.

        The exams of `limbeck evaluate` are each by itself.
        """
        if self.role == "exam":
            return ""
        return DIRECT if self.direct else self.task if self.also else ""
