"""What all stages of one run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from limbeck.errors import DamagedError
from limbeck.progress import SILENT, Track
from limbeck.recipe import LearnerSettings, Recipe
from limbeck.run_folder import Plan, Stage
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.settings import task_kind, task_labels

if TYPE_CHECKING:
    from limbeck.lm import Sampling
    from limbeck.stages.learners import Learner, Trained
    from limbeck.stages.models import Model, Question
    from limbeck.stages.teacher import Teacher
    from limbeck.stages.training import Data
    from limbeck.training.rows import Rows

M = TypeVar("M")


class Stages(Protocol):
    """What stages ask of a run: `run_folder.Run`, or one that only looks (`dry_run.looking`)."""

    @property
    def folder(self) -> Path: ...
    @property
    def say(self) -> Callable[[str], None]: ...
    @property
    def until(self) -> str: ...
    def stage(
        self,
        name: str,
        plan: Plan,
        inputs: Mapping[str, str],
        work: Callable[[Path], None],
        *,
        everyone: bool = False,
        reads: Sequence[Path] = (),
    ) -> Stage: ...
    def is_done(self, name: str, plan: Plan, inputs: Mapping[str, str]) -> bool: ...
    def is_again(self, name: str) -> bool: ...
    def ends_at(self, word: str) -> bool: ...
    def verify(self, paths: Sequence[Path]) -> None: ...
    def put_aside(self, damaged: DamagedError) -> None: ...
    def describe(self, recipe_yaml: str, facts: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class PlannedTraining:
    """A training whose examples are known; see `stages.training.train`.

    `same`: another student's weights are copied, see `stages.same_training`.
    """

    learner: Learner
    data: Data
    start: Trained | None
    tokenizer: Path | None
    same: bool = False


@dataclass(frozen=True, slots=True)
class PlannedWriting:
    """What a model is asked in a stage: questions, each `sampling.n` times; `rows` are written at once."""

    place: str
    model: Model
    questions: Sequence[Question]
    sampling: Sampling
    rows: int


@dataclass(frozen=True, slots=True)
class PlannedLabels:
    """Soft labels that a student needs: where its mentor's are kept, and the rows that are not there yet."""

    store: str
    lacking: Rows


@dataclass
class Planned:
    """What a dry run hears of work that comes up, whether it is done or not.

    Attributes:
        rows: where rows of tokens take their room; None: where the system has its temporary files.
    """

    rows: Path | None = None
    trainings: dict[str, PlannedTraining] = field(default_factory=dict)
    labels: dict[str, PlannedLabels] = field(default_factory=dict)
    writings: dict[str, PlannedWriting] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """An open run and its recipe.

    Attributes:
        teacher: sets the recipe's teacher up at the first call and gives the same one afterwards.
        memo: what stages have read already, see `once`.
        planned: of a dry run, hears of trainings and of what is asked.
    """

    run: Stages
    recipe: Recipe
    teacher: Callable[[], Teacher]
    track: Track = SILENT
    memo: dict[str, Any] = field(default_factory=dict)
    planned: Planned | None = None

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
