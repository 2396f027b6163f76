"""Who can write and be examined: the teacher, and every model that was trained.

All of them are a `Model`: what decides what it says is known before it is opened,
so that a stage that is done loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from limbeck.lm import Complete, Prompt, Sampling
from limbeck.records import Pieces, Problem
from limbeck.stages.others import Other
from limbeck.tasks.asking import Asking


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that a model is asked; several may be about one problem.

    Attributes:
        id: unique within a stage; what is drawn follows from it.
        pieces: the prompt in named parts.
        about: what it is about beyond the problem, such as a mistake's or a passage's id.
        direct: no reasoning is wanted: the completion begins with the answer statement.
    """

    id: str
    problem_id: str
    pieces: Pieces
    about: str = ""
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Weights:
    """What a server would need to have a model.

    Attributes:
        source: the model's folder, or the name of a base that nobody trained.
        place: where it lies in the run.
        mark: changes with its training.
        role, name: whose it is, as in the recipe.
        asking: reads how its prompts are put together.
    """

    source: str
    place: str
    mark: str
    role: str
    name: str
    asking: Callable[[], Asking]


@dataclass(frozen=True)
class Opened:
    """A model that is ready to write.

    Attributes:
        complete: completes prompts and loses nothing when it is killed.
        prompt: puts a question's pieces together for this model.
        agree: prints what prompts will cost, and raises unless that is agreed.
        account: what was paid, in lines.
    """

    complete: Complete
    prompt: Callable[[Question], Prompt]
    agree: Callable[[Sequence[Prompt], Sampling], None] = lambda prompts, sampling: None
    account: Callable[[], list[str]] = list


class Model(Protocol):
    """A teacher, or a model that was trained.

    `identity` is what decides what it says (settings without defaults), `inputs` the fingerprints
    of what it is made of, `facts` what a report says of it (see `exam_facts`). `shared`: every
    rank completes a part of the prompts; False: rank 0 alone. `timed`: its speed means something.
    `begins`: its answers can be begun for it (`Question.direct`).
    `reads`: its weights, where a stage of this run made them.
    """

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> str: ...
    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def inputs(self) -> Mapping[str, str]: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def shared(self) -> bool: ...
    @property
    def timed(self) -> bool: ...
    @property
    def begins(self) -> bool: ...
    @property
    def reads(self) -> Sequence[Path]: ...

    @property
    def weights(self) -> Weights | None:
        """What a server of the user's would need to have it; None: it is not a model of the run."""
        ...

    def question(self, problem: Problem) -> Question:
        """The plain question of a problem, as this model is asked it."""
        ...

    def questions(self, problem: Problem) -> Sequence[Question]:
        """What an exam asks about a problem: that question, or several whose answers vote."""
        ...

    def asked_of(self, other: Other) -> Self | None:
        """The model as it is asked another task's problems; None: it cannot be."""
        ...

    def open(self, folder: Path, batch_size: int, max_tokens: int) -> Opened:
        """Load it.

        Args:
            folder: the stage's.
            batch_size: completions that are made at the same time.
            max_tokens: new tokens, for which a prompt leaves room.
        """
        ...
