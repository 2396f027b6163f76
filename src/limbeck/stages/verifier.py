"""The verifier: a model reads question and rationale, and must come to the gold answer.

As in KARD (arXiv 2305.18395); there a model is asked that was not trained for it.

verifier/foldN/            a model that is trained on the rationales of all other parts' problems
verifier/foldN/answers/    what it answers to the rationales of part N
verifier/answers/          what a model answers that is asked as it comes (`folds: 0`)
verified/                  graded.jsonl, audit.json: all rationales; those that fail are dropped

It sees a rationale without its closing answer, which it could copy. The rationales of dev are judged by the
model of part 1: no problem of dev is among those that it was trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.audit import audit, nothing_kept
from limbeck.errors import NothingKeptError, RecipeError
from limbeck.lm import Completion, Sampling
from limbeck.rationales import EMPTY, NOT_REACHED, NOT_READ, graded, without_closing
from limbeck.recipe import VerifierSettings
from limbeck.records import Example, Problem, Rationale, read_jsonl, write_json, write_jsonl
from limbeck.run_folder import Stage, fingerprint, plan, read_json
from limbeck.stages.context import Context, once
from limbeck.stages.learners import Learner, Trained, Untrained
from limbeck.stages.models import Question
from limbeck.stages.problems import SUFFIX, Split, problems
from limbeck.stages.rationales import Rationales, conditions, graded_rationales
from limbeck.stages.training import Data, train
from limbeck.stages.writing import completions_of, write
from limbeck.tasks.asking import RATIONALE, Asking
from limbeck.tasks.prompts import FORMATS, wanted_of
from limbeck.training.groups import singles

VERSION = 1
"""Raised by hand when this code judges the same answers differently."""

TRAINED = "{question}\n{options}\n\n{rationale}"
ASKED = "{question}\n{options}\n\n{rationale}\n\n{instruction}"
"""What prompts hold by default, of a verifier that is trained, and of one that is not."""

Shown = Mapping[int, str]
"""What the verifier sees of a rationale, by its place among all."""


def verified(context: Context, given: Rationales, split: Split) -> Rationales:
    """The same rationales; those are dropped from which the verifier does not come to the gold answer.

    Where no gold answer is known, it must come to the one that the rationale's problem was settled with.

    Raises:
        NothingKeptError: it comes to none. RecipeError: there is nothing to train it on.
    """
    settings = context.recipe.verifier
    assert settings is not None, "`rationales` saw to it"
    asked = problems(context).of(split)
    by_id = {problem.id: problem for problem in asked}
    shown = {
        place: without_closing(by_id[one.problem_id], context.kind, one)
        for place, one in enumerate(given.all)
        if one.dropped is None
    }
    answers = list(_answers(context, settings, given, split, shown))
    rule = context.recipe.rationales

    def work(folder: Path) -> None:
        said = {raw.prompt_id: Completion.kept(raw) for stage in answers for raw in completions_of(stage)}
        marked = [
            one
            if place not in shown
            else _judged(context, by_id[one.problem_id], one, said.get(_name(one, place)))
            for place, one in enumerate(given.all)
        ]
        why = Counter(marked[place].dropped for place in shown)
        counts = {"judged by the verifier": len(shown), "verified": why[None]}
        before = read_json(given.stage.folder / "audit.json") or {}
        now = audit(marked, asked, context.kind, conditions(context, rule)[1])
        write_jsonl(folder / "graded.jsonl", marked)
        write_json(folder / "audit.json", before | now | counts)
        others = "".join(f"; {reason}: {count}" for reason, count in why.items() if reason)
        context.run.say(f"verifier: {why[None]} of {len(shown)} rationales lead it to the answer{others}")
        if not why[None]:
            raise NothingKeptError(
                f"{nothing_kept(marked)}; {folder / 'graded.jsonl'} holds them with the reasons"
            )

    inputs = {**given.inputs}
    inputs |= {f"answers {number}": stage.fingerprint for number, stage in enumerate(answers, start=1)}
    how = plan({"folds": settings.folds}, version=VERSION, kind=context.kind)
    stage = context.run.stage("verified" + SUFFIX[split], how, inputs, work)
    return Rationales(stage, given.label, list(read_jsonl(stage.folder / "graded.jsonl", Rationale)))


def _judged(context: Context, problem: Problem, one: Rationale, said: Completion | None) -> Rationale:
    """The rationale, dropped where the verifier's answer is not the one that it should lead to.

    Args:
        said: None: there was nothing to show besides the closing answer.
    """
    if said is None:
        return one.model_copy(update={"dropped": EMPTY})
    found = graded(problem.answered(one.answer), context.kind, said, "verifier")
    why = NOT_READ if found.answer is None else None if found.correct else NOT_REACHED
    return one.model_copy(update={"dropped": why})


def _name(one: Rationale, place: int) -> str:
    """The id of what the verifier is asked about a rationale."""
    return f"{one.problem_id}/{place}"


def _answers(
    context: Context,
    settings: VerifierSettings,
    given: Rationales,
    split: Split,
    shown: Shown,
) -> Iterator[Stage]:
    """The stages of what verifiers answer: one of each part of the problems, or one of all of them."""
    kept = [place for place, text in shown.items() if text]
    if not settings.folds:
        learner = _learner(context, settings, "asked")
        yield _asked(context, Untrained(learner), "verifier", kept, given, split, shown)
        return
    part = parts(problems(context).train, settings.folds, context.recipe.seed)
    if split == "dev":
        model = _trained(context, settings, part, 1)
        yield _asked(context, model, "verifier/fold1", kept, given, split, shown)
        return
    for number in range(1, settings.folds + 1):
        own = [place for place in kept if part[given.all[place].problem_id] == number]
        if own:
            model = _trained(context, settings, part, number)
            yield _asked(context, model, f"verifier/fold{number}", own, given, split, shown)


def parts(some: Sequence[Problem], count: int, seed: int) -> dict[str, int]:
    """The part, from 1, that each problem belongs to: as equal in size as can be, drawn by the seed."""
    ranked = sorted((fingerprint([seed, problem.id]), problem.id) for problem in some)
    return {own: place % count + 1 for place, (_, own) in enumerate(ranked)}


def _trained(context: Context, settings: VerifierSettings, part: Mapping[str, int], number: int) -> Trained:
    """The verifier of a part, trained on the kept rationales of all others."""
    return once(context, f"verifier {number}", lambda: _train(context, settings, part, number))


def _train(context: Context, settings: VerifierSettings, part: Mapping[str, int], number: int) -> Trained:
    given, learner = graded_rationales(context), _learner(context, settings, f"fold{number}")
    by_id = {problem.id: problem for problem in problems(context).train}
    examples: list[Example] = []
    for one in given.all:
        if one.dropped is None and part[one.problem_id] != number:
            problem = by_id[one.problem_id].answered(one.answer)
            text = without_closing(problem, context.kind, one)
            examples += [learner.asking.example(problem, "", **{RATIONALE: text})] if text else []
    if not examples:
        raise RecipeError(
            f"verifier.folds: {settings.folds} parts leave no rationale to train {learner.shown} on; collect "
            "more, or name a model that is only asked (folds: 0)"
        )
    own = {"folds": settings.folds, "fold": number}
    inputs = {**problems(context).inputs, **given.inputs}
    return train(context, learner, Data(singles(examples), [], inputs, settings=own))


def _learner(context: Context, settings: VerifierSettings, name: str) -> Learner:
    """Who judges; `name` is the folder's."""
    return Learner("verifier", name, settings, settings.seed, _asking(context, settings), "verifier")


def _asking(context: Context, settings: VerifierSettings) -> Asking:
    """How it is asked: question, options and rationale; one that was not trained gets an instruction too."""
    usual = (TRAINED if settings.folds else ASKED) + FORMATS[settings.format].after_question
    instruction = settings.instruction or ""
    if settings.instruction is None and not settings.folds and settings.template is None:
        instruction = (
            "Which answer does this reasoning come to? Reply with the sentence "
            f'"The answer is X.", where X is {wanted_of(context.kind, context.labels)}.'
        )
    template = settings.template or usual
    if instruction and settings.template is None and settings.folds:
        template = ASKED + FORMATS[settings.format].after_question
    return Asking(settings.format, template, instruction, needs=(RATIONALE,))


def _asked(
    context: Context,
    model: Trained | Untrained,
    place: str,
    some: Sequence[int],
    given: Rationales,
    split: Split,
    shown: Shown,
) -> Stage:
    """The stage of a verifier's answers, greedy ones that begin with the answer statement."""
    settings = context.recipe.verifier
    assert settings is not None
    by_id = {problem.id: problem for problem in problems(context).of(split)}
    questions = []
    for number in some:
        one = given.all[number]
        pieces = model.learner.asking.pieces(by_id[one.problem_id], **{RATIONALE: shown[number]})
        questions.append(Question(_name(one, number), one.problem_id, pieces, direct=True))
    how: dict[str, Any] = {"max_tokens": settings.max_tokens, "split": split}
    return write(
        context,
        f"{place}/answers{SUFFIX[split]}",
        model,
        questions,
        Sampling(max_tokens=settings.max_tokens),
        settings=how,
        inputs={**problems(context).inputs, **given.inputs},
        batch_size=settings.batch_size,
    )
