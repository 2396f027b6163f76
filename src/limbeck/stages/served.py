"""A model of the run whose texts a server writes (`exam.endpoint`, `mentors.NAME.endpoint`).

It is the same model: plans, inputs and so fingerprints are those of the model whose weights the server has,
and no address is part of them. So an exam that was held here is not held again at a server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from limbeck.exam import SERVED_LOG
from limbeck.lm.endpoints import EndpointSettings, MentorEndpointSettings
from limbeck.records import Problem
from limbeck.stages.context import Context
from limbeck.stages.learners import prompted
from limbeck.stages.models import Model, Opened, Question, Weights
from limbeck.stages.others import Other


@dataclass(frozen=True)
class Served:
    """A model as a server has it. It can write and be examined; rank 0 asks for texts, every rank for its own
    rows of soft labels.

    Attributes:
        has: what the server has.
        endpoint: the server.
        place: of its settings in the recipe.
        say: shows a line.
    """

    model: Model
    has: Weights
    endpoint: EndpointSettings
    place: str
    say: Callable[[str], None]
    shared: ClassVar[bool] = False

    @property
    def served_as(self) -> str:
        """The name under which the server has it."""
        return self.endpoint.named(self.has.source, self.has.place, self.has.mark)

    @property
    def gives_soft_labels(self) -> bool:
        """Whether its distributions come from the server too."""
        return isinstance(self.endpoint, MentorEndpointSettings) and self.endpoint.soft_labels

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def folder(self) -> str:
        return self.model.folder

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.model.identity

    @property
    def inputs(self) -> Mapping[str, str]:
        return self.model.inputs

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**self.model.facts, "dtype": None, "served": self.served_as}  # the server knows the type

    @property
    def timed(self) -> bool:
        return self.model.timed

    @property
    def begins(self) -> bool:
        return self.model.begins

    @property
    def reads(self) -> tuple[Path, ...]:
        return ()  # no weights

    @property
    def weights(self) -> Weights:
        return self.has

    def question(self, problem: Problem) -> Question:
        return self.model.question(problem)

    def questions(self, problem: Problem) -> Sequence[Question]:
        return self.model.questions(problem)

    def asked_of(self, other: Other) -> Self | None:
        able = self.model.asked_of(other)
        return None if able is None else replace(self, model=able)

    def open(self, folder: Path, batch_size: int, max_tokens: int) -> Opened:
        from limbeck.lm.load import unloaded
        from limbeck.lm.served import ServedModel, remembered

        model, asking = unloaded(self.has.source, name=self.name), self.has.asking()
        served = ServedModel(
            self.endpoint, self.served_as, model, thinks=asking.thinks, place=self.place, say=self.say
        )
        key = {"to": self.endpoint.endpoint, "body": self.endpoint.extra_body}
        complete = remembered(served, folder / SERVED_LOG, key)
        return Opened(complete, prompted(model, asking, max_tokens))


def served_in_exams(context: Context, model: Model) -> Model:
    """The model as the recipe examines it: at a server, or the model itself.

    A mentor's own server comes first; verifiers and teachers are not examined at one.
    """
    has = model.weights
    if isinstance(model, Served) or has is None or has.role == "verifier":
        return model
    if has.role == "mentor" and context.recipe.mentors[has.name].endpoint is not None:
        return served_mentor(context, model)
    endpoint = context.recipe.exam.endpoint
    return model if endpoint is None else Served(model, has, endpoint, "exam.endpoint", context.run.say)


def served_mentor(context: Context, model: Model) -> Model:
    """A mentor as it writes: at its own server, or the model itself."""
    has = model.weights
    if has is None or has.role != "mentor":
        return model
    endpoint = context.recipe.mentors[has.name].endpoint
    if endpoint is None:
        return model
    return Served(model, has, endpoint, f"mentors.{has.name}.endpoint", context.run.say)
