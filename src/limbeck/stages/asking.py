"""How a learner or the teacher is asked: the recipe's prompt settings with their demonstrations read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from limbeck.lm import Completion
from limbeck.rationales import grade, mark_dropped
from limbeck.recipe import LearnerSettings
from limbeck.records import Demonstration
from limbeck.sequences import ById
from limbeck.stages.context import Context, once
from limbeck.stages.others import Other, others
from limbeck.stages.problems import problems
from limbeck.tasks.asking import Asking, learner_asking, teacher_asking
from limbeck.tasks.demonstrations import chosen, of_answers, of_rationales
from limbeck.tasks.settings import PromptSettings


def asking_learner(
    context: Context, settings: LearnerSettings, place: str, *, reasons: bool = True
) -> Asking:
    """How a student or mentor is asked, in training, in exams, and from its saved folder.

    Args:
        place: opens error texts, such as "students.small".
        reasons: demonstrations of the training split hold the teacher's kept rationales; False:
            the answer alone.
    """

    def pool() -> list[Demonstration]:
        from limbeck.stages.rationales import rationales  # which needs learners, which are asked

        train = problems(context).train
        if not reasons:
            return of_answers(train, settings.format)
        return of_rationales(train, rationales(context).all, settings.format, thinks=settings.thinks)

    shown = _demonstrations(
        context, settings.prompt, settings.format, pool, f"{place}.prompt", thinks=settings.thinks and reasons
    )
    return learner_asking(settings.prompt, settings.format, demonstrations=shown, thinks=settings.thinks)


def asking_teacher(context: Context, other: Other | None = None) -> Asking:
    """How the recipe asks its teacher; demonstrations of the training split hold given rationales.

    Args:
        other: the task of `exam.also` that it is asked of: its instruction is that of the task's answers,
            its demonstrations are those of the run's own.
    """
    key = "asking the teacher" + (f" of {other.name}" if other else "")
    return once(context, key, lambda: _asking_teacher(context, other))


def _asking_teacher(context: Context, other: Other | None) -> Asking:
    teacher, of = context.recipe.teacher, other or context
    settings = PromptSettings() if teacher.kind == "given" else teacher.prompt
    shown = _demonstrations(
        context, settings, "", lambda: _given_demonstrations(context, "plain"), "teacher.prompt"
    )
    return teacher_asking(settings, of.kind, labels=of.labels, demonstrations=shown)


def _demonstrations(
    context: Context,
    settings: PromptSettings,
    form: str,
    pool: Callable[[], Sequence[Demonstration]],
    place: str,
    *,
    thinks: bool = False,
) -> tuple[Demonstration, ...]:
    return chosen(
        settings.examples,
        context.kind,
        form=form,
        thinks=thinks,
        pool=pool,
        test=[*problems(context).test, *(problem for one in others(context) for problem in one.test)],
        seed=context.recipe.seed,
        place=place,
    )


def _given_demonstrations(context: Context, form: str) -> list[Demonstration]:
    """Rationales that the user's data hold for training problems, the right ones."""
    parts = problems(context)
    train = ById(parts.train)
    given: list[Completion] = [one for one in parts.given if one.prompt_id in train]
    graded = mark_dropped(grade(parts.train, context.kind, given, "given"))
    return of_rationales(parts.train, graded, form)
