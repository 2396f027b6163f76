"""What all stages of one run share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from limbeck.progress import SILENT, Track
from limbeck.recipe import LearnerSettings, Recipe
from limbeck.run_folder import Run
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.settings import task_kind, task_labels

if TYPE_CHECKING:
    from limbeck.stages.teacher import Teacher

M = TypeVar("M")


@dataclass(frozen=True)
class Context:
    """An open run and its recipe.

    Attributes:
        teacher: sets the recipe's teacher up at the first call and gives the same one afterwards.
        memo: what stages have read already, see `once`.
    """

    run: Run
    recipe: Recipe
    teacher: Callable[[], Teacher]
    track: Track = SILENT
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> AnswerKind:
        """The task's answer kind."""
        return task_kind(self.recipe.task)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a task of kind label."""
        return task_labels(self.recipe.task)


def changed(context: Context, place: str, learner: LearnerSettings) -> Context:
    """The same run with other settings of a learner.

    Args:
        place: `students.NAME`, `mentors.NAME` or `verifier`.
    """
    role, _, name = place.partition(".")
    learners = {**getattr(context.recipe, role), name: learner} if name else learner
    return replace(context, recipe=context.recipe.model_copy(update={role: learners}))


def once(context: Context, key: str, make: Callable[[], M]) -> M:
    """What `make` gives at the first call with this key; the same afterwards."""
    if key not in context.memo:
        context.memo[key] = make()
    found: M = context.memo[key]
    return found
