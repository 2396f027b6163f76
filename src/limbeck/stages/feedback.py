"""Feedback on a student's mistakes: asked of a teacher or taken from a file, read strictly, and graded."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from limbeck.errors import RecipeError
from limbeck.lm import Completion, Sampling
from limbeck.lm.cost import exact, tokens_at_most
from limbeck.lm.written import is_unfinished, whole
from limbeck.rationales import graded, mark_dropped
from limbeck.recipe import ApiTeacherSettings, GoldRule, Recipe
from limbeck.records import (
    Feedback,
    Mistake,
    Pieces,
    Problem,
    Rationale,
    read_jsonl,
    write_json,
    write_jsonl,
)
from limbeck.run_folder import Plan, Stage, fingerprint, plan, read_json
from limbeck.settings import Settings
from limbeck.stages.context import Context
from limbeck.stages.explaining import explaining_teacher, to_explain
from limbeck.stages.given_feedback import file_of, from_file, is_there, refuse_missing
from limbeck.stages.mistakes import MISTAKES, Kind, Mistakes, TrainExamSettings
from limbeck.stages.models import Question
from limbeck.stages.problems import problems
from limbeck.stages.rationales import Rationales, file_inputs
from limbeck.stages.teacher import (
    TeacherModel,
    local_stops,
    taken_as_rationale,
    teacher_name,
    teacher_system,
)
from limbeck.stages.writing import RawCompletion, completions_of, write
from limbeck.tasks import feedback as prompt
from limbeck.tasks.asking import Asking
from limbeck.tasks.prompts import gold_of
from limbeck.tasks.templates import Template

VERSION = 3
"""Raised by hand when this code makes other rationales of the same replies."""

FEEDBACK, GRADED, AUDIT = "feedback.jsonl", "graded.jsonl", "audit.json"

KNOWN, OTHERS = "answered in earlier rounds", "lines about other mistakes"
"""Counts of the audit."""

NO_PARTS = "the reply does not have the two parts that were asked for"


class FeedbackSettings(Settings):
    """What a teacher is asked about mistakes, and about how many."""

    kind: Literal["tailored", "given", "again"] = Field(
        "tailored",
        description="the teacher sees the mistake; what it says is in a file; or (to compare) it writes a "
        "rationale again without having seen the mistake",
    )
    file: str | None = Field(
        None,
        min_length=1,
        description="of kind given: JSONL with mistake_id, and `reply` or `said` and `solution`; {round} in "
        "its name is the number of the round whose mistakes it is about",
    )
    of: tuple[Kind, ...] = Field(
        ("wrong",), min_length=1, description="mistakes that are shown: wrong, no-answer, cut-off"
    )
    per_problem: int = Field(4, ge=1, description="mistakes per problem that are asked about, at most")
    problems: int | None = Field(None, ge=1, description="problems per round, at most; null: all")
    max_cost_usd: float | None = Field(
        None, ge=0, description="worst case of a round's requests in dollars, next to the teacher's own cap"
    )
    temperature: float = Field(0.7, ge=0)
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="new tokens per reply")
    keep: GoldRule = Field("correct", description="of its rationales; that of plain ones is rationales.keep")
    template: str | None = Field(
        None, description="places {question} {options} {mistake} {gold} {instruction}; null: ours"
    )
    instruction: str | None = Field(None, description="what the teacher shall write; null: ours")

    @field_validator("template")
    @classmethod
    def _is_read(cls, template: str | None) -> str | None:
        if template is not None:
            missing = {"mistake", "gold"} - Template.read(template, prompt.PLACES).names
            if missing:
                raise ValueError(f"has no place {{{sorted(missing)[0]}}}; write where it goes")
        return template

    @model_validator(mode="after")
    def _file_and_kind(self) -> Self:
        if (self.kind == "given") != (self.file is not None):
            raise ValueError("file: goes with kind: given, and only with it; set both or none")
        return self


@dataclass(frozen=True)
class Tailored:
    """Rationales about mistakes.

    Attributes:
        wrong: the mistakes.
        asked: the teacher's replies in this round; None: they are in a file, or saw no mistake.
    """

    rationales: Rationales
    wrong: Mistakes
    asked: Stage | None = None

    @property
    def kept(self) -> list[Rationale]:
        """The right ones."""
        return [one for one in self.rationales.all if one.dropped is None]


def feedback(
    context: Context,
    place: str,
    wrong: Mistakes,
    settings: FeedbackSettings,
    *,
    round: int,
    before: Sequence[Tailored] = (),
) -> Tailored:
    """Feedback on the mistakes of a round, as graded rationales that know their mistake.

    A text that the student wrote to the same question in an earlier round was answered there. It gets that
    reply again, is not sent, and has no part in the round's budget.

    Args:
        place: the folder of its stages `asked` and `feedback`.
        round: whose mistakes.
        before: the feedback of earlier rounds, by the same settings.

    Raises:
        DataError: a file of feedback cannot be read, or has no line about these mistakes.
    """
    by_id = {problem.id: problem for problem in problems(context).train}
    inputs = dict(problems(context).inputs) | wrong.inputs  # which stand on all rounds before
    source, asked = teacher_name(context.recipe), None
    if settings.file is not None:
        refuse_missing(settings.file, round, wrong.stage.folder)
        inputs |= file_inputs(file_of(settings.file, round))
        read = partial(_given, file_of(settings.file, round), wrong, source)
    else:
        known = replies_before(before)
        shown = chosen(wrong, settings, context.recipe.seed + round, known)
        shown = within_budget(context, shown, by_id, settings, known)
        new = [one for one in shown if text_id(one) not in known]
        asked = _asked(context, place, new, by_id, settings, inputs, round)
        inputs["asked"] = asked.fingerprint
        read = partial(_answered, asked, shown, known, source, again=settings.kind == "again")

    def work(folder: Path) -> None:
        said, cut, counts = read()
        found = rationales_of(context, said, by_id, cut, settings.keep)
        write_jsonl(folder / FEEDBACK, said)
        write_jsonl(folder / GRADED, found)
        about = len({one.mistake_id for one in said})
        write_json(folder / AUDIT, audit(about, found) | counts)

    stage = context.run.stage(f"{place}/feedback", _plan(context, settings, source, round), inputs, work)
    _say(context, place, settings, round, read_json(stage.folder / AUDIT) or {})
    found = list(read_jsonl(stage.folder / GRADED, Rationale))
    replies = None if settings.kind == "again" else asked
    return Tailored(Rationales(stage, f"feedback on round {round}", found), wrong, replies)


def _plan(context: Context, settings: FeedbackSettings, source: str, round: int) -> Plan:
    """What decides the stage of the graded feedback, besides its inputs."""
    about = {name: getattr(settings, name) for name in ("of", "per_problem", "problems")}
    reasoning = taken_as_rationale(context.recipe)
    return plan(
        {"feedback": settings.kind, **about},
        version=VERSION,
        round=round,
        seed=context.recipe.seed,
        kind=context.kind,
        keep=settings.keep,
        drop_false_equations=context.recipe.rationales.drop_false_equations,
        source=source,
        **({"reasoning": reasoning} if settings.kind == "again" and reasoning != "both" else {}),
    )


def _say(
    context: Context, place: str, settings: FeedbackSettings, round: int, facts: Mapping[str, Any]
) -> None:
    """What became of a round's feedback, by its audit."""
    context.run.say(
        f"{place}: feedback on {facts['mistakes']} mistakes, {facts['kept']} rationales kept"
        + "".join(f", {count} {reason}" for reason, count in facts["dropped"].items())
    )
    if count := facts.get(KNOWN):
        context.run.say(f"{place}: {count} of them were answered in earlier rounds, and not sent again")
    if settings.file and (others := facts.get(OTHERS)):
        file = file_of(settings.file, round)
        context.run.say(f"{place}: lines of {file} about other mistakes, ignored: {others}")
    if count := facts.get("unfinished"):
        context.run.say(
            f"{place}: {count} of {facts['replies']} replies end inside their thinking, and say nothing; "
            "raise settings.feedback.max_tokens"
        )


Read = tuple[list[Feedback], set[str], dict[str, int]]
"""Feedback in its parts, the mistakes whose reply was cut off, and counts for the audit."""


def _given(file: str, wrong: Mistakes, source: str) -> Read:
    """What a file says; it says itself about which mistakes."""
    said, others = from_file(file, {one.id: one for one in wrong.all}, source)
    return said, set(), {OTHERS: others}


def _answered(
    asked: Stage, shown: Sequence[Mistake], known: Mapping[str, RawCompletion], source: str, *, again: bool
) -> Read:
    """What a teacher replied."""
    replies = _replies(asked, shown, known)
    said = [(_fresh if again else _read)(one, source) for one in replies]
    unfinished = sum(is_unfinished(one.thinking, one.text) for one in replies)
    before = sum(text_id(one) in known for one in shown)
    cut = {one.about for one in replies if one.truncated}
    return said, cut, {"unfinished": unfinished, KNOWN: before}


def text_id(mistake: Mistake) -> str:
    """The same for the same text about the same question, whichever round, answer or student it is of.

    What a teacher is asked is known by it, so its memory has the reply to a text that another student of
    the run wrote.
    """
    text = mistake.completion.strip().encode("utf-8", "surrogatepass")
    return f"{mistake.problem_id}/{hashlib.blake2b(text, digest_size=16).hexdigest()}"


def replies_before(before: Sequence[Tailored]) -> dict[str, RawCompletion]:
    """What a teacher said to mistakes in earlier rounds, by `text_id`; the first reply to each text."""
    found: dict[str, RawCompletion] = {}
    for one in before:
        if one.asked is not None:
            texts = {mistake.id: text_id(mistake) for mistake in one.wrong.all}
            for reply in completions_of(one.asked):
                found.setdefault(texts[reply.about], reply)
    return found


def _replies(
    asked: Stage, shown: Sequence[Mistake], known: Mapping[str, RawCompletion]
) -> list[RawCompletion]:
    """The reply to each mistake, of this round or an earlier one, about this round's mistake."""
    now = {one.about: one for one in completions_of(asked)}
    found = [(one, now.get(one.id) or known.get(text_id(one))) for one in shown]
    return [reply.model_copy(update={"about": one.id}) for one, reply in found if reply is not None]


def check_feedback(recipe: Recipe, settings: FeedbackSettings, place: str, *, rounds: int) -> None:
    """Refuse feedback that nobody can give.

    Args:
        place: opens the error's text.
        rounds: how many rounds need some.

    Raises:
        RecipeError: naming the setting.
    """
    teacher = recipe.teacher
    if rounds and settings.kind != "given" and teacher.kind == "given":
        raise RecipeError(
            f"{place}.kind: {settings.kind} asks a teacher, and the recipe has none; give feedback as a file "
            "(kind: given), or name a teacher"
        )
    if rounds > 1 and settings.file is not None and "{round}" not in settings.file:
        raise RecipeError(
            f"{place}.file: {rounds} rounds need a file each; write {{round}} into its name, such as "
            "feedback-{round}.jsonl"
        )
    priced = isinstance(teacher, ApiTeacherSettings) and teacher.prices is not None
    if settings.max_cost_usd is not None and not priced:
        raise RecipeError(f"{place}.max_cost_usd: needs a teacher with prices (teacher.prices); leave it out")


def chosen(
    wrong: Mistakes, settings: FeedbackSettings, seed: int, known: Collection[str] = ()
) -> list[Mistake]:
    """The mistakes that are shown: of each problem the first ones, of the problems some drawn by the seed.

    They come in the order of the draw, so that a budget takes a part of them and not the first problems.

    Args:
        known: what was answered before (`text_id`); that is all there, and counts for nothing.
    """
    of: dict[str, list[Mistake]] = {}
    for one in wrong.of(settings.of):
        of.setdefault(one.problem_id, []).append(one)
    shown: list[Mistake] = []
    count = 0
    for own in sorted(of, key=lambda own: fingerprint([seed, own])):
        new = [one for one in of[own] if text_id(one) not in known][: settings.per_problem]
        if settings.problems is not None and count == settings.problems:
            new = []
        count += bool(new)
        shown += [one for one in of[own] if one in new or text_id(one) in known]
    return shown


def within_budget(
    context: Context,
    shown: Sequence[Mistake],
    by_id: Mapping[str, Problem],
    settings: FeedbackSettings,
    known: Collection[str] = (),
) -> list[Mistake]:
    """As many of them as cost at most the round's budget, by the worst case of each request.

    Args:
        known: what is not sent (`text_id`), and costs nothing.
    """
    teacher = context.recipe.teacher
    if settings.max_cost_usd is None or not isinstance(teacher, ApiTeacherSettings) or not teacher.prices:
        return list(shown)
    model, left = _teacher(context, settings), exact(settings.max_cost_usd)
    system = model.asking_now.system or teacher.system
    new = [one for one in shown if text_id(one) not in known]
    for count, one in enumerate(new):
        text = model.asking_now.plain(_pieces(model, by_id[one.problem_id], one, settings))
        left -= teacher.prices.exact(tokens_at_most(text, system), settings.max_tokens)
        if left < 0:
            context.run.say(
                f"feedback.max_cost_usd = {settings.max_cost_usd:g}: the teacher is shown {count} of "
                f"{len(new)} mistakes"
            )
            beyond = {one.id for one in new[count:]}
            return [one for one in shown if one.id not in beyond]
    return list(shown)


def _teacher(context: Context, settings: FeedbackSettings) -> TeacherModel:
    """The teacher as it is asked here."""
    if settings.kind == "again":
        explained = context.recipe.rationales.explain_gold
        return TeacherModel(context) if explained is None else explaining_teacher(context, explained)
    wanted = settings.instruction
    usual = prompt.instruction(context.kind, context.labels)
    template = settings.template or prompt.TEMPLATE
    named = "instruction" in Template.read(template, prompt.PLACES).names
    own = (usual if named else "") if wanted is None else wanted
    return TeacherModel(context, asking=Asking("plain", template, own, teacher_system(context.recipe)))


def _pieces(model: TeacherModel, problem: Problem, mistake: Mistake, settings: FeedbackSettings) -> Pieces:
    if settings.kind == "again":
        explains = model.context.recipe.rationales.explain_gold is not None
        return (to_explain(model, problem) if explains else model.question(problem)).pieces
    return model.asking_now.pieces(problem, mistake=mistake.completion.strip(), gold=gold_of(problem))


def _asked(
    context: Context,
    place: str,
    shown: Sequence[Mistake],
    by_id: Mapping[str, Problem],
    settings: FeedbackSettings,
    inputs: Mapping[str, str],
    round: int,
) -> Stage:
    """The stage of the teacher's replies, as they came."""
    model = _teacher(context, settings)
    # What never saw the mistake is drawn again for each: the same request, known by the mistake.
    again = settings.kind == "again"
    questions = [
        Question(
            one.id if again else text_id(one),
            one.problem_id,
            _pieces(model, by_id[one.problem_id], one, settings),
            one.id,
        )
        for one in shown
    ]
    sampling = Sampling(
        1,
        settings.temperature,
        max_tokens=settings.max_tokens,
        seed=context.recipe.seed,
        stop=local_stops(context.recipe),
    )
    about = {
        "kind": settings.kind,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "of": settings.of,
        "per_problem": settings.per_problem,
        "problems": settings.problems,
        "max_cost_usd": settings.max_cost_usd,
        "round": round,
        "seed": context.recipe.seed,
    }
    return write(context, f"{place}/asked", model, questions, sampling, settings=about, inputs=inputs)


def _read(reply: RawCompletion, source: str) -> Feedback:
    """A reply in its parts; with neither where it has not the form that was asked for."""
    found = prompt.read(reply.text)
    said, solution = (found.said, found.solution) if found else ("", "")
    return Feedback(
        mistake_id=reply.about, problem_id=reply.problem_id, source=source, said=said, solution=solution
    )


def _fresh(reply: RawCompletion, source: str) -> Feedback:
    """A rationale that saw no mistake, with its thinking: what of it is learned is as for plain ones."""
    solution = whole(reply.thinking, reply.text)
    return Feedback(mistake_id=reply.about, problem_id=reply.problem_id, source=source, solution=solution)


def waits_for_feedback(context: Context, wrong: Mistakes, settings: FeedbackSettings, round: int) -> bool:
    """Whether `--until mistakes` ends a story here; not where a file holds this round's feedback already."""
    file = settings.file
    if not context.run.ends_at("mistakes") or (file is not None and is_there(file, round)):
        return False
    context.run.say(
        f"the run ends here, as --until says: the mistakes are in {wrong.stage.folder / MISTAKES}"
        + (f"; write the feedback on them to {file_of(file, round)}, and run again" if file else "")
    )
    return True


def files_of(exam: TrainExamSettings, settings: FeedbackSettings, rounds: int) -> tuple[str, ...]:
    """The files that the settings of all rounds name."""
    said = [file_of(settings.file, number) for number in range(rounds)] if settings.file else []
    return tuple(dict.fromkeys([*([exam.file] if exam.file else []), *said]))


def rationales_of(
    context: Context,
    said: Iterable[Feedback],
    by_id: Mapping[str, Problem],
    cut: Iterable[str],
    keep: GoldRule,
) -> list[Rationale]:
    """The solutions as graded rationales, each about its mistake."""
    cut, numbers, found, unread = set(cut), Counter[tuple[str, str]](), [], set()
    reasoning = taken_as_rationale(context.recipe)
    for one in said:
        number = numbers[one.source, one.problem_id]
        numbers[one.source, one.problem_id] += 1
        text = Completion(one.mistake_id, number, one.solution, 0, truncated=one.mistake_id in cut)
        about = by_id[one.problem_id]
        found.append(graded(about, context.kind, text, one.source, about=one.mistake_id, reasoning=reasoning))
        if not one.solution:
            unread.add((one.source, one.problem_id, number))
    equations = context.recipe.rationales.drop_false_equations
    marked = mark_dropped(found, keep=keep, drop_false_equations=equations)
    return [
        one.model_copy(update={"dropped": NO_PARTS})
        if (one.source, one.problem_id, one.index) in unread
        else one
        for one in marked
    ]


def audit(shown: int, found: Sequence[Rationale]) -> dict[str, Any]:
    """What became of the feedback on so many mistakes."""
    dropped = Counter(one.dropped for one in found if one.dropped is not None)
    kept = [one for one in found if one.dropped is None]
    return {
        "mistakes": shown,
        "replies": len(found),
        "kept": len(kept),
        "problems": len({one.problem_id for one in kept}),
        "dropped": dict(sorted(dropped.items())),
    }
