"""The exam on the training questions: what a student gets wrong, kept as it wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from limbeck.errors import DataError, LeakError, NothingKeptError
from limbeck.lm import Completion, Sampling
from limbeck.lm.written import OPEN, is_unfinished, whole
from limbeck.rationales import graded
from limbeck.records import (
    Mistake,
    Problem,
    Rationale,
    placed_records,
    read_jsonl,
    write_json,
    write_jsonl,
)
from limbeck.run_folder import Stage, plan, read_json
from limbeck.settings import Settings
from limbeck.stages.context import Context
from limbeck.stages.learners import Trained, Untrained
from limbeck.stages.problems import problems
from limbeck.stages.rationales import file_inputs, grade_completions
from limbeck.stages.served import served_in_exams
from limbeck.stages.writing import completions_of, write

VERSION = 3
"""Raised by hand when this code finds other mistakes in the same answers."""

SHOWN = 300
"""Characters of a prompt that an error shows."""

MISTAKES, AUDIT = "mistakes.jsonl", "audit.json"

Kind = Literal["wrong", "no-answer", "cut-off"]


class TrainExamSettings(Settings):
    """How a student sits the exam on its training questions; the defaults are those of tailored learning."""

    samples: int = Field(4, ge=1, le=1000, description="answers to every training question")
    temperature: float = Field(1.0, gt=0)
    top_k: int = Field(50, ge=0, description="drawn from the likeliest tokens only; 0: from all")
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(
        None, ge=1, le=1_000_000, description="new tokens per answer; null: those of the exam"
    )
    batch_size: int = Field(64, ge=1, description="answers written side by side")
    least_readable: float = Field(
        0.2, ge=0, le=1, description="the run stops if a smaller share of round 0's answers can be read"
    )
    file: str | None = Field(
        None,
        min_length=1,
        description="mistakes of round 0 from a file (`limbeck import` writes such); nobody sits that exam",
    )


@dataclass(frozen=True)
class Mistakes:
    """What is wrong of a student's answers to the training questions."""

    stage: Stage
    all: list[Mistake]
    facts: Mapping[str, Any]

    @property
    def inputs(self) -> dict[str, str]:
        """As an input of later stages."""
        return {"mistakes": self.stage.fingerprint}

    def of(self, kinds: Sequence[Kind]) -> list[Mistake]:
        """Those of some kinds; of equal texts about one question the first."""
        seen: dict[tuple[str, str], Mistake] = {}
        for one in self.all:
            if one.kind in kinds and one.completion.strip():
                seen.setdefault((one.problem_id, " ".join(one.completion.split())), one)
        return list(seen.values())


def check_gold(context: Context, *, train: bool, dev: bool) -> None:
    """Refuse, before anybody is trained, exams on questions whose answers nobody knows.

    Args:
        train, dev: whether a student sits one on this split.

    Raises:
        DataError: none of the training questions has a gold answer, or one of dev has none.
    """
    found = problems(context)
    if train and all(problem.answer is None for problem in found.train):
        raise DataError(
            "task.train",
            "no training question has a gold answer, so nobody knows what a student gets wrong; write the "
            "answers of some, or take a method that needs none",
        )
    unknown = next((problem.id for problem in found.dev if problem.answer is None), None) if dev else None
    if unknown is not None:
        raise DataError(
            "task.dev",
            f"stop: dev needs gold answers, and problem {unknown} has none; write the missing answers, or "
            "set stop: never",
        )


def mistakes(
    context: Context, model: Trained | Untrained, place: str, settings: TrainExamSettings, *, round: int
) -> Mistakes:
    """Let a model answer the training questions that have a gold answer; keep what is wrong.

    Those of round 0 are taken from `settings.file`, where that is given.

    Args:
        place: the folder of its stages `answers` and `mistakes`.
        round: names the mistakes, and decides with the recipe's seed what is drawn.

    Raises:
        NothingKeptError: of round 0's answers hardly any can be read.
    """
    if settings.file is not None and round == 0:
        return given_mistakes(context, place, settings.file)
    asked = [problem for problem in problems(context).train if problem.answer is not None]
    exam = context.recipe.exam
    room = settings.max_tokens or exam.max_tokens
    sampling = Sampling(
        settings.samples,
        settings.temperature,
        settings.top_p,
        settings.top_k,
        room,
        context.recipe.seed + round,
        exam.stop,
    )
    answers = write(
        context,
        f"{place}/answers",
        served_in_exams(context, model),
        [model.question(problem) for problem in asked],
        sampling,
        settings={name: getattr(settings, name) for name in ("samples", "temperature", "top_k", "top_p")},
        inputs=problems(context).inputs,
        batch_size=settings.batch_size,
        max_tokens=room,
        seed=sampling.seed,
        **({"stop": exam.stop} if exam.stop else {}),
    )

    def work(folder: Path) -> None:
        found = list(grade_completions(context, asked, completions_of(answers), model.name))
        write_jsonl(folder / MISTAKES, found_in(found, round))
        write_json(folder / AUDIT, audit(found))

    stage = context.run.stage(
        f"{place}/mistakes",
        plan({"round": round}, version=VERSION, kind=context.kind),
        {**problems(context).inputs, "answers": answers.fingerprint},
        work,
    )
    found = _read(stage)
    _say(context, model, found.facts)
    if not round and found.facts["readable"] < settings.least_readable:
        setting = "settings.train_exam.max_tokens" if settings.max_tokens else "exam.max_tokens"
        who, remedy = _who_and_remedy(model)
        raise NothingKeptError(
            f"{model.name}: {found.facts['readable']:.0%} of its answers to the training questions can be "
            f"read, too few to learn from (least_readable); {found.facts['mistakes']['cut-off']} of "
            f"{found.facts['answers']} were cut off. {answers.folder} holds them; {who} "
            f"{model.facts['model']}, {_prompt(model, asked[0])}. {remedy}; where most were cut off, raise "
            f"{setting}"
        )
    return found


def _who_and_remedy(model: Trained | Untrained) -> tuple[str, str]:
    """What is said before the base's name of a model that can hardly be read, and what to do."""
    if isinstance(model, Trained):
        return "the student was trained from", "Train it longer (train.epochs or train.steps)"
    return (
        "the base is",
        "Take another base or prompt, show demonstrations (prompt.examples), or begin with rationales",
    )


def _prompt(model: Trained | Untrained, problem: Problem) -> str:
    """How a model is asked, in words: how many demonstrations, and its prompt, of which a long one's end."""
    asking, pieces = model.learner.asking, model.question(problem).pieces
    text = asking.plain(pieces)
    shown = text if len(text) <= SHOWN else f"…{text[-SHOWN:]}"
    return (
        f"in format {asking.format} with {len(pieces.examples)} demonstrations; its prompt ends in {shown!r}"
    )


def given_mistakes(context: Context, place: str, file: str) -> Mistakes:
    """Mistakes from a file, those about training problems of this task.

    Raises:
        DataError: a line is not a mistake, or none is about a training problem.
        LeakError: one is about a question of the test split.
    """

    def work(folder: Path) -> None:
        parts = problems(context)
        train, test = ({one.id: one for one in split} for split in (parts.train, parts.test))
        ours: list[Mistake] = []
        lines: dict[str, str] = {}
        left = Counter[str]()
        for place, one in placed_records(Path(file).expanduser(), Mistake, called="a mistake"):
            if one.problem_id in test:
                raise LeakError(place, f"is about problem {one.problem_id} of the test split; leave it out")
            if one.id in lines:
                raise DataError(
                    place, f"has the id {one.id!r} of line {lines[one.id]}; every mistake needs its own"
                )
            lines[one.id] = place.rpartition(":")[2]
            if one.problem_id not in train:
                left["of other problems"] += 1
            elif (read := _read_again(context, train[one.problem_id], one)) is None:
                left["right"] += 1
            else:
                ours.append(read)
        if not ours:
            raise DataError(
                file,
                f"holds no mistake about a training problem ({_left_out(left) or 'it is empty'}); its "
                "problem_id must be the ids of the task's training problems (task.columns.id), and its "
                "answer a wrong one",
            )
        write_jsonl(folder / MISTAKES, ours)
        counts = Counter(one.kind for one in ours)
        write_json(folder / AUDIT, {"mistakes": dict(counts), "left out": dict(left)})

    stage = context.run.stage(
        f"{place}/mistakes",
        plan({"given": True}, version=VERSION),
        {**problems(context).inputs, **file_inputs(file)},
        work,
    )
    found = _read(stage)
    left_out = _left_out(found.facts["left out"])
    context.run.say(
        f"{place}: {len(found.all)} mistakes from {file}" + (f"; left out: {left_out}" if left_out else "")
    )
    return found


def _left_out(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in counts.items())


def _read_again(context: Context, problem: Problem, mistake: Mistake) -> Mistake | None:
    """A mistake of a file as we read its answer; None where that is right. A kind that the file names stays.

    Raises:
        DataError: nobody knows the right answer.
    """
    text = Completion(mistake.id, 0, mistake.completion)
    read = graded(problem, context.kind, text, mistake.source)
    if read.correct is None:
        raise DataError(
            f"problem {problem.id}", "has no gold answer, so nothing about it is a mistake; leave it out"
        )
    if read.correct:
        return None
    kind = mistake.kind if "kind" in mistake.model_fields_set else kind_of(read)
    return mistake.model_copy(update={"answer": read.answer, "kind": kind})


def _read(stage: Stage) -> Mistakes:
    found = list(read_jsonl(stage.folder / MISTAKES, Mistake))
    return Mistakes(stage, found, read_json(stage.folder / AUDIT) or {})


def found_in(answers: Sequence[Rationale], round: int) -> list[Mistake]:
    """The answers that are not right, as they were written; what goes on to another question is cut off."""
    return [
        Mistake(
            id=Mistake.id_of(one.problem_id, round, one.index, one.completion),
            problem_id=one.problem_id,
            source=one.source,
            completion=_as_written(one),
            answer=one.answer,
            kind=kind_of(one),
        )
        for one in answers
        if one.correct is False
    ]


def _as_written(one: Rationale) -> str:
    """Its text up to where another question begins; thinking that was not closed stays open."""
    text = one.completion[: len(one.completion) - one.cut]
    return f"{OPEN}\n{one.thinking}" if is_unfinished(one.thinking, text) else whole(one.thinking, text)


def kind_of(wrong: Rationale) -> Kind:
    """Why an answer is not a right one: the text ended too early, states nothing, or states something else.

    What runs on to another question came to its end before that, wherever the limit was then.
    """
    if (wrong.truncated and not wrong.cut) or is_unfinished(wrong.thinking, wrong.completion):
        return "cut-off"
    return "no-answer" if wrong.answer is None else "wrong"


def audit(graded: Sequence[Rationale]) -> dict[str, Any]:
    """What became of the answers: how many are right, wrong, without an answer, cut off, and of which share
    an answer could be read, whether they were cut off behind it or not."""
    counts = Counter("right" if one.correct else kind_of(one) for one in graded)
    read = sum(one.answer is not None for one in graded)
    missed = {one.problem_id for one in graded if one.correct is False}
    return {
        "answers": len(graded),
        "right": counts["right"],
        "mistakes": {kind: counts[kind] for kind in ("wrong", "no-answer", "cut-off")},
        "readable": round(read / max(len(graded), 1), 4),
        "problems": len({one.problem_id for one in graded}),
        "problems with mistakes": len(missed),
    }


def _say(context: Context, model: Trained | Untrained, facts: Mapping[str, Any]) -> None:
    wrong = facts["mistakes"]
    context.run.say(
        f"{model.name}: {facts['right']} of {facts['answers']} answers to training questions are right; "
        f"{wrong['wrong']} wrong, {wrong['no-answer']} without an answer, {wrong['cut-off']} cut off, in "
        f"{facts['problems with mistakes']} of {facts['problems']} problems"
    )
    if 2 * wrong["cut-off"] > facts["answers"]:
        context.run.say(
            f"{model.name}: most answers are cut off, and mistakes that were cut off are used only if "
            "feedback.of names cut-off; allow longer answers (max_tokens), or say where one ends (exam.stop)"
        )
