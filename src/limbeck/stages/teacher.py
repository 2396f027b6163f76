"""The recipe's teacher: who it is, how it is asked, and the consent before it is paid."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from limbeck import ranks
from limbeck.errors import InputError, RecipeError
from limbeck.exam import LOG
from limbeck.lm import Complete, Prompt, Sampling
from limbeck.lm.api import open_teacher, release
from limbeck.lm.chunks import Chunks
from limbeck.lm.cost import estimate
from limbeck.lm.remember import Remembered
from limbeck.lm.settings import Reasoning
from limbeck.lm.written import opens_thinking
from limbeck.recipe import (
    ApiTeacherSettings,
    ExamSettings,
    LocalTeacherSettings,
    OfflineTeacherSettings,
    Recipe,
)
from limbeck.records import Problem
from limbeck.run_folder import Run
from limbeck.stages.asking import asking_teacher
from limbeck.stages.context import Context
from limbeck.stages.examining import examine
from limbeck.stages.model_inputs import model_inputs
from limbeck.stages.models import Opened, Question
from limbeck.stages.others import Other
from limbeck.tasks.asking import Asking, teacher_asking
from limbeck.tasks.settings import PromptSettings

Agree = Callable[[Sequence[Prompt], Sampling], None]


@dataclass(frozen=True)
class Teacher:
    """A teacher ready to be asked.

    `prompt` puts a question's pieces together for it. `complete` gives, for a stage's folder, a
    `Complete` that loses nothing when it is killed. `agree` prints what prompts will cost and
    raises unless that is agreed. `account` says what was paid.
    """

    name: str
    prompt: Callable[[Asking, Question], Prompt]
    complete: Callable[[Path], Complete]
    agree: Agree = lambda prompts, sampling: None
    account: Callable[[], list[str]] = list


@dataclass(frozen=True)
class TeacherModel:
    """The recipe's teacher as a `Model`: set up only when a stage opens it.

    Attributes:
        other: the task of `exam.also` that it is asked of; None: the run's own.
        asking: how it is asked for something else than a rationale; None: as the recipe says.
    """

    context: Context
    other: Other | None = None
    asking: Asking | None = None

    @property
    def asking_now(self) -> Asking:
        """How it is asked."""
        return self.asking or asking_teacher(self.context, self.other)

    @property
    def name(self) -> str:
        return f"teacher ({teacher_name(self.context.recipe)})"

    @property
    def folder(self) -> str:
        return "teacher"

    @property
    def identity(self) -> dict[str, Any]:
        """Its settings and its prompts, as far as they are not the usual ones."""
        recipe = self.context.recipe
        of = self.other or self.context
        usual = teacher_asking(PromptSettings(), of.kind, labels=of.labels)
        asking = self.asking_now.plan(usual)
        return {"teacher": teacher_identity(recipe), **({"asking": asking} if asking else {})}

    @property
    def inputs(self) -> dict[str, str]:
        """A local teacher's folder, as an input of stages."""
        settings = self.context.recipe.teacher
        return model_inputs(settings.model) if isinstance(settings, LocalTeacherSettings) else {}

    @property
    def facts(self) -> dict[str, Any]:
        recipe = self.context.recipe
        return {"role": "teacher", "name": "teacher", "model": teacher_name(recipe)}

    @property
    def shared(self) -> bool:
        return self.context.recipe.teacher.kind == "local"

    @property
    def timed(self) -> bool:
        return self.context.recipe.teacher.kind != "offline"  # which counts words, not tokens

    @property
    def begins(self) -> bool:
        return False  # what is written behind an endpoint, or by a program, is not begun from here

    @property
    def reads(self) -> tuple[Path, ...]:
        return ()  # a folder of the user's is an input, by its content

    @property
    def weights(self) -> None:
        return None

    def question(self, problem: Problem) -> Question:
        return Question(problem.id, problem.id, self.asking_now.pieces(problem))

    def questions(self, problem: Problem) -> Sequence[Question]:
        return (self.question(problem),)

    def asked_of(self, other: Other) -> Self | None:
        if self.context.recipe.teacher.kind == "offline":
            return None  # it solves the puzzles of its own task alone
        return replace(self, other=other)

    def open(self, folder: Path, batch_size: int, max_tokens: int) -> Opened:
        teacher = self.context.teacher()
        prompt = partial(teacher.prompt, self.asking_now)
        return Opened(teacher.complete(folder), prompt, teacher.agree, teacher.account)


def examine_teacher(context: Context) -> None:
    """Examine the teacher, greedily, on the test split, and on other tasks as far as it can be asked them."""
    teacher = context.recipe.teacher
    if teacher.kind != "given" and teacher.exam:
        room = context.recipe.rationales.max_tokens
        settings = ExamSettings(max_tokens=room, stop=local_stops(context.recipe))
        examine(context, TeacherModel(context), settings=settings)


def make_teacher(
    recipe: Recipe, run: Run, *, agreed: bool, max_cost: float | None, released: bool = False
) -> Callable[[], Teacher]:
    """A function that sets the recipe's teacher up at its first call and gives the same one afterwards.

    Args:
        recipe: names the teacher.
        run: its folder keeps the memory of paid-for answers, `memory/teacher.jsonl`.
        agreed: the user said yes to the cost beforehand.
        max_cost: overrides the recipe's cap, in dollars.
        released: the user says that requests without an answer were not charged.
    """
    made: list[Teacher] = []
    settings, memory = recipe.teacher, run.folder / "memory" / "teacher.jsonl"
    paid = isinstance(settings, ApiTeacherSettings)
    if max_cost is not None and not (math.isfinite(max_cost) and max_cost >= 0):
        raise RecipeError(f"--max-cost: {max_cost} is not a sum of money; give dollars, such as 5")
    for option, given in (("--max-cost", max_cost is not None), ("--release", released)):
        if given and not paid:
            raise RecipeError(
                f"{option}: the teacher of this recipe ({settings.kind}) costs nothing; leave it out"
            )
    if released and ranks.main():
        run.say(f"--release: {release(memory):,} requests without an answer count as not charged")

    def teacher() -> Teacher:
        if not made:
            if isinstance(settings, ApiTeacherSettings):
                made.append(_api(settings, memory, run.say, agreed, max_cost))
            elif isinstance(settings, LocalTeacherSettings):
                made.append(_local(settings))
            elif isinstance(settings, OfflineTeacherSettings):
                made.append(_offline(recipe, settings, memory, run.say))
            else:
                raise RecipeError("teacher.kind: given rationales have no teacher that could be asked")
        return made[0]

    return teacher


def _offline(
    recipe: Recipe, settings: OfflineTeacherSettings, memory: Path, say: Callable[[str], None]
) -> Teacher:
    from limbeck.tasks.generated import OfflineTeacher

    if recipe.task.source != "generated":
        raise RecipeError(
            "teacher.kind: the offline teacher knows only the built-in tasks; choose api, local or given"
        )
    offline = OfflineTeacher(
        recipe.task.name,
        settings.wrong_answer,
        settings.wrong_step,
        recipe.seed,
        openings=settings.openings,
    )
    # What was remembered before there were openings has none in its key.
    openings = () if settings.openings else ("openings",)
    own = settings.model_dump(mode="json", exclude={"exam", "prompt", *openings})
    key = own | {"task": recipe.task.name, "seed": recipe.seed}
    remembered = Remembered(offline, memory, key=key, say=say)
    return Teacher(offline.name, plain_prompt, lambda folder: remembered)


def plain_prompt(asking: Asking, question: Question) -> Prompt:
    """Text, with a system prompt of its own, as endpoints take them; its pieces for the offline teacher."""
    text = asking.plain(question.pieces)
    own = question.id, question.problem_id
    return Prompt(*own, text, asking.system, question.about, pieces=question.pieces)


def _local(settings: LocalTeacherSettings) -> Teacher:
    from limbeck.lm.load import load
    from limbeck.lm.local import LocalModel

    loaded = load(settings.model, dtype=settings.dtype, device=settings.device)
    form = "chat" if loaded.tokenizer.chat_template else "plain"

    def prompt(asking: Asking, question: Question) -> Prompt:
        text = replace(asking, format=form).text(loaded.tokenizer, question.pieces)
        own = question.id, question.problem_id
        return Prompt(*own, text, about=question.about, opened=opens_thinking(text))

    return Teacher(settings.model, prompt, lambda folder: Chunks(LocalModel(loaded), folder / LOG))


def _api(
    settings: ApiTeacherSettings,
    memory: Path,
    say: Callable[[str], None],
    agreed: bool,
    max_cost: float | None,
) -> Teacher:
    cap = settings.max_cost_usd if max_cost is None else max_cost
    plain = settings.model_copy(update={"max_cost_usd": cap})
    remembered = open_teacher(plain, memory, say=say)

    def agree(prompts: Sequence[Prompt], sampling: Sampling) -> None:
        expected = estimate(prompts, sampling, plain.prices, remembered, system=plain.system)
        say(f"{plain.model}: {expected}")
        free = expected.requests == 0 or expected.usd_at_most == 0
        if not (agreed or free or cap is not None):
            _consent()

    def account() -> list[str]:
        return [f"{plain.model}: this run's memory holds {remembered.ledger}"]

    return Teacher(plain.model, plain_prompt, lambda folder: remembered, agree, account)


def _consent() -> None:
    """Ask on a terminal; elsewhere refuse, because there is no one to say yes."""
    if not sys.stdin.isatty():
        raise InputError(
            "the teacher costs money: agree with --yes, or set a cap with --max-cost or teacher.max_cost_usd"
        )
    print("go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("not agreed: nothing was asked of the teacher and nothing was paid")


SAYS = {
    "api": ("base_url", "model", "endpoint", "system", "stop", "max_tokens_field", "omit", "extra_body"),
    "local": ("model", "dtype", "stop"),
    "offline": ("wrong_answer", "wrong_step", "openings"),
    "given": ("file", "source"),
}
"""By kind of teacher: the settings that decide what it says, not its price, its waiting times or its exam."""


def teacher_identity(recipe: Recipe) -> BaseModel:
    """The teacher's settings that decide what it says, all others at their default; how it is asked is
    not among them."""
    teacher = recipe.teacher
    fields, known = type(teacher).model_fields, {"kind", *SAYS[teacher.kind]}
    usual = {
        name: one.get_default(call_default_factory=True) for name, one in fields.items() if name not in known
    }
    if isinstance(teacher, ApiTeacherSettings):
        usual["base_url"] = teacher.remember_as or teacher.base_url
    return teacher.model_copy(update=usual)


def local_stops(recipe: Recipe) -> tuple[str, ...]:
    """The stop strings that a local teacher is asked with; an endpoint is sent its own with every request."""
    return recipe.teacher.stop if isinstance(recipe.teacher, LocalTeacherSettings) else ()


def taken_as_rationale(recipe: Recipe) -> Reasoning:
    """What of the teacher's completions becomes the rationale, where it thinks."""
    return "both" if isinstance(recipe.teacher, OfflineTeacherSettings) else recipe.teacher.reasoning


def teacher_system(recipe: Recipe) -> str:
    """The system prompt that the recipe gives its teacher, for what is asked besides plain rationales."""
    return "" if recipe.teacher.kind == "given" else recipe.teacher.prompt.system or ""


def teacher_name(recipe: Recipe) -> str:
    """What records call the teacher."""
    teacher = recipe.teacher
    if teacher.kind == "given":
        return teacher.source
    return "offline" if teacher.kind == "offline" else teacher.model
