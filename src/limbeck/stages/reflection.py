"""Groups for self-reflection: a right rationale, other right ones and the student's own mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from limbeck.errors import NothingKeptError
from limbeck.records import Example, Rationale
from limbeck.settings import Settings
from limbeck.stages.context import Context
from limbeck.stages.feedback import Tailored
from limbeck.stages.learners import Learner
from limbeck.stages.mistakes import Kind, Mistakes
from limbeck.stages.problems import problems
from limbeck.stages.rationales import Picked, rationale_examples, rationales, refuse_dropped
from limbeck.stages.training import Data, cross_entropy
from limbeck.training.groups import Draw, Group, singles

if TYPE_CHECKING:
    from limbeck.training.parts import Parts


class ReflectionSettings(Settings):
    """How a student learns to tell right rationales from its own mistakes; the defaults are published."""

    weight: float = Field(0.5, ge=0, allow_inf_nan=False, description="λ; 0: without self-reflection")
    margin: float = Field(1.0, ge=0, allow_inf_nan=False, description="ρ of the triplets")
    pooling: Literal["last", "mean"] = Field(
        "last", description="a rationale's state: of its last token, or the mean over its tokens"
    )
    positives: int = Field(10, ge=1, description="other right rationales that one is compared with, at most")
    negatives: int = Field(4, ge=1, description="mistakes per question that it is compared with, at most")
    of: tuple[Kind, ...] = Field(
        ("wrong",), min_length=1, description="mistakes that count here: wrong, no-answer, cut-off"
    )


def reflection_data(
    context: Context,
    learner: Learner,
    plain: Picked,
    said: Sequence[Tailored],
    settings: ReflectionSettings,
    *,
    adds: int | None = None,
) -> Data:
    """One group per rationale: it is learned, and compared each epoch with one other and with one mistake.

    A rationale is in a group of its own where its question has no other, or no mistake. No step sees a
    question twice.

    Args:
        plain: the teacher's rationales that no mistake led to.
        said: feedback of all rounds so far; its right rationales are learned too. The mistakes of the last
            one are what rationales are compared with.
        adds: of each round's feedback so many rationales at most that are not known yet; None: all.

    Raises:
        NothingKeptError: there is no rationale.
    """
    wrong, inputs = said[-1].wrong, dict(plain.inputs)
    for one in said:
        inputs |= one.rationales.inputs
    right = Picked([*plain.rationales, *(kept for one in said for kept in one.kept)], inputs)
    refuse_dropped(right)
    if not right.rationales:
        raise NothingKeptError(f"{learner.shown}: no rationale is right, so there is nothing to learn from")
    chosen, new = _without_copies([(plain.rationales, None), *((one.kept, adds) for one in said)])
    if adds is not None and new[-1] < adds:
        context.run.say(
            f"{learner.shown}, round {learner.round}: its feedback has {new[-1]} of {adds} new rationales "
            "(adds)"
        )
    by_question: dict[str, list[Example]] = {}
    for example in rationale_examples(context, learner, chosen):
        by_question.setdefault(example.problem_id, []).append(example)
    against = _mistakes(context, learner, wrong, settings) if settings.weight else {}
    groups = [
        group
        for question, some in by_question.items()
        for group in _groups(question, some, against.get(question, []), settings.positives)
    ]
    if settings.weight:
        _report(context, learner, by_question, against)
    draw = Draw({"positive": 1, "negative": 1}) if has_triplets(groups) else None
    inputs = {**problems(context).inputs, **right.inputs, **wrong.inputs}
    dev = Picked((), {})
    if learner.settings.train.choose == "dev-loss":
        dev = rationales(context, "dev").chosen(1)
    held_out = singles(rationale_examples(context, learner, dev.rationales))
    counts: dict[str, Any] = {} if adds is None else {"new_rationales": new[1:], "wanted_rationales": adds}
    return Data(groups, held_out, {**inputs, **dev.inputs}, draw, facts=lambda: counts)


def _report(
    context: Context,
    learner: Learner,
    right: Mapping[str, Sequence[Example]],
    wrong: Mapping[str, Sequence[Example]],
) -> None:
    """Say how many rationales are learned and how many compared, and why others are not."""
    alone = sum(len(some) for some in right.values() if len(some) == 1)
    unmissed = sum(len(some) for question, some in right.items() if len(some) > 1 and question not in wrong)
    count = sum(map(len, right.values()))
    compared = count - alone - unmissed
    context.run.say(
        f"{learner.shown}, round {learner.round}: {count} different rationales to learn, {compared} of them "
        f"with mistakes to compare with (texts that are too long are not excluded yet); {alone} are the only "
        f"right rationale of their question; for {unmissed} no mistake is known"
        + ("" if compared else "; so it learns without self-reflection")
    )


def reflection(settings: ReflectionSettings, data: Data) -> Callable[[], Parts]:
    """Cross-entropy, and the loss of the triplets where anything is compared."""

    def parts() -> Parts:
        from limbeck.training.parts import Triplet

        triplet = Triplet(settings.weight, settings.margin, pooling=settings.pooling)
        return (*cross_entropy(), triplet) if has_triplets(data.train) else cross_entropy()

    return parts


def has_triplets(groups: Sequence[Group]) -> bool:
    """Whether a rationale is compared with anything; see `_groups`."""
    return any(len(group.examples) > 1 for group in groups)


def _without_copies(
    sources: Iterable[tuple[Sequence[Rationale], int | None]],
) -> tuple[list[Rationale], list[int]]:
    """Of equal texts about a question the first: feedback on several mistakes may well be the same.

    Args:
        sources: rationales, and how many new ones of them at most, those that come first; None: all.

    Returns:
        The rationales, and how many of them are of each source.
    """
    seen: dict[tuple[str, str], Rationale] = {}
    new: list[int] = []
    for some, most in sources:
        before = len(seen)
        for one in some:
            if most is None or len(seen) < before + most:
                seen.setdefault((one.problem_id, " ".join(one.reasoning.split())), one)
        new.append(len(seen) - before)
    return list(seen.values()), new


def _mistakes(
    context: Context, learner: Learner, wrong: Mistakes, settings: ReflectionSettings
) -> dict[str, list[Example]]:
    """The mistakes of each question, exactly as the student wrote them, with their own ending."""
    by_id = {problem.id: problem for problem in problems(context).train}
    found: dict[str, list[Example]] = {}
    for one in wrong.of(settings.of):
        own = found.setdefault(one.problem_id, [])
        if len(own) < settings.negatives:
            asked = learner.asking.pieces(by_id[one.problem_id])
            own.append(
                Example(
                    problem_id=one.problem_id,
                    prompt=asked,
                    completion=one.completion,
                    role="negative",
                    scored=False,
                )
            )
    return found


def _groups(question: str, right: Sequence[Example], wrong: Sequence[Example], positives: int) -> list[Group]:
    """A group for each right rationale of a question; the positives are those that follow it, in a circle.

    All groups of a question hold the same examples, so a text is in memory once, however many it is compared
    with.
    """
    others = [one.model_copy(update={"role": "positive", "scored": False}) for one in right]
    found = []
    for place, example in enumerate(right):
        compared = [*others[place + 1 :], *others[:place]][:positives]
        more = (*compared, *wrong) if compared and wrong else ()
        anchor = example.model_copy(update={"role": "anchor"})
        found.append(Group(f"{question}/{place}", (anchor, *more), question))
    return found
