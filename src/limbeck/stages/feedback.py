"""What a teacher says to a student's mistakes: asked for, read strictly, graded, or taken from a file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from limbeck.errors import DataError, RecipeError
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
    Record,
    placed_records,
    read_jsonl,
    write_json,
    write_jsonl,
)
from limbeck.run_folder import Stage, fingerprint, plan, read_json
from limbeck.settings import Settings
from limbeck.stages.context import Context
from limbeck.stages.explaining import explaining_teacher, to_explain
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

NO_PARTS = "the reply has not the two parts asked for"


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
    """What is said to the mistakes of a round, as graded rationales that know their mistake.

    A text that the student wrote to the same question in an earlier round was answered there. It gets that
    reply again, is not sent, and has no part in the round's budget.

    Args:
        place: the folder of its stages `asked` and `feedback`.
        round: whose mistakes.
        before: the feedback of earlier rounds, by the same settings.

    Raises:
        DataError: a file of feedback cannot be read, or says nothing to these mistakes.
    """
    by_id = {problem.id: problem for problem in problems(context).train}
    inputs = dict(problems(context).inputs) | wrong.inputs  # which stand on all rounds before
    known, again = replies_before(before), settings.kind == "again"
    if settings.kind == "given":
        file, asked = file_of(settings, round), None
        if not has_feedback(settings, round):
            raise DataError(
                file,
                f"no such file; write to it what is to be said to the mistakes in {wrong.stage.folder}, then "
                "run this again",
            )
        inputs |= file_inputs(file)
        shown, new = wrong.all, list[Mistake]()  # the file says which of them
    else:
        shown = chosen(wrong, settings, context.recipe.seed + round, known)
        shown = within_budget(context, shown, by_id, settings, known)
        new = [one for one in shown if text_id(one) not in known]
        asked = _asked(context, place, new, by_id, settings, inputs, round)
        inputs["asked"] = asked.fingerprint
    source, reasoning = teacher_name(context.recipe), taken_as_rationale(context.recipe)

    def work(folder: Path) -> None:
        replies = _replies(asked, shown, known) if asked else []
        if asked is None:
            said, others = _from_file(file, {one.id: one for one in shown}, source)
        else:
            said = [(_fresh if again else _read)(one, source) for one in replies]
        cut = {one.about for one in replies if one.truncated}
        found = rationales_of(context, said, by_id, cut, settings.keep)
        write_jsonl(folder / FEEDBACK, said)
        write_jsonl(folder / GRADED, found)
        about = len({one.mistake_id for one in said})
        unfinished = sum(is_unfinished(one.thinking, one.text) for one in replies)
        counts = {"unfinished": unfinished, KNOWN: len(shown) - len(new)} if asked else {OTHERS: others}
        write_json(folder / AUDIT, audit(about, found) | counts)

    about = {name: getattr(settings, name) for name in ("of", "per_problem", "problems")}
    how = plan(
        {"feedback": settings.kind, **about},
        version=VERSION,
        round=round,
        seed=context.recipe.seed,
        kind=context.kind,
        keep=settings.keep,
        drop_false_equations=context.recipe.rationales.drop_false_equations,
        source=source,
        **({"reasoning": reasoning} if again and reasoning != "both" else {}),
    )
    stage = context.run.stage(f"{place}/feedback", how, inputs, work)
    found = list(read_jsonl(stage.folder / GRADED, Rationale))
    facts = read_json(stage.folder / AUDIT) or {}
    context.run.say(
        f"{place}: feedback on {facts['mistakes']} mistakes, {facts['kept']} rationales kept"
        + "".join(f", {count} {reason}" for reason, count in facts["dropped"].items())
    )
    if count := facts.get(KNOWN):
        context.run.say(f"{place}: {count} of them were answered in earlier rounds, and not sent again")
    if others := facts.get(OTHERS):
        context.run.say(f"{place}: {others} lines of {file} are about other mistakes, and are passed over")
    if count := facts.get("unfinished"):
        context.run.say(
            f"{place}: {count} of {facts['replies']} replies end inside their thinking, and say nothing; "
            "raise settings.feedback.max_tokens"
        )
    return Tailored(Rationales(stage, f"feedback on round {round}", found), wrong, None if again else asked)


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
    if settings.kind != "given" and teacher.kind == "given":
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
    if not context.run.ends_at("mistakes") or has_feedback(settings, round):
        return False
    given = settings.kind == "given"
    context.run.say(
        f"the run ends here, as --until says: the mistakes are in {wrong.stage.folder / MISTAKES}"
        + (f"; write what is said to them into {file_of(settings, round)}, and run again" if given else "")
    )
    return True


def has_feedback(settings: FeedbackSettings, round: int) -> bool:
    """Whether the feedback of a round is in a file that is there."""
    return settings.kind == "given" and Path(file_of(settings, round)).expanduser().is_file()


def files_of(exam: TrainExamSettings, settings: FeedbackSettings, rounds: int) -> tuple[str, ...]:
    """The files that the settings of all rounds name."""
    said = [file_of(settings, number) for number in range(rounds)] if settings.kind == "given" else []
    return tuple(dict.fromkeys([*([exam.file] if exam.file else []), *said]))


def file_of(settings: FeedbackSettings, round: int) -> str:
    """The file of a round's feedback."""
    return str(settings.file).replace("{round}", str(round))


def _from_file(file: str, shown: Mapping[str, Mistake], source: str) -> tuple[list[Feedback], int]:
    """The lines of a file that are about these mistakes, and how many are about others.

    Raises:
        DataError: a line is not feedback, or no line is about one of them.
    """
    found, others = [], 0
    for place, line in placed_records(Path(file).expanduser(), Said, called="feedback"):
        one = _parts(place, line)
        if one.mistake_id in shown:
            about = {"problem_id": shown[one.mistake_id].problem_id, "source": one.source or source}
            found.append(one.model_copy(update=about))
        others += one.mistake_id not in shown
    if not found:
        raise DataError(
            file,
            f"says nothing to the {len(shown)} mistakes of this round; each line needs the mistake_id that "
            "mistakes.jsonl gives as id, which changes with what the student wrote",
        )
    return found, others


class Said(Record):
    """A line of a user's file: the parts, or the whole `reply` of a teacher."""

    mistake_id: str
    problem_id: str = ""
    source: str = ""
    said: str = ""
    solution: str = ""
    reply: str = ""
    origin: str = ""


def _parts(place: str, one: Said) -> Feedback:
    if one.reply and one.solution:
        raise DataError(place, "has both reply and solution; keep one of them")
    parts = prompt.read(one.reply) or prompt.Reply(one.said, one.solution)
    return Feedback(
        mistake_id=one.mistake_id,
        source=one.source,
        said=parts.said,
        solution=parts.solution,
        origin=one.origin,
    )


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
