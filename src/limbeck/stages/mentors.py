"""The stages of a mentor: trained, examined, writing, its rationales graded.

A mentor's stages lie in `mentors/NAME/` and belong to no student: every student
that names the mentor finds them done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.agreement import Agreement
from limbeck.audit import audit, nothing_kept
from limbeck.lm import Sampling
from limbeck.places import key_of, places_of
from limbeck.rationales import DUPLICATE, DUPLICATE_OF_TEACHER, mark_dropped
from limbeck.records import Problem, Rationale, Records, write_json
from limbeck.run_folder import Stage, plan
from limbeck.sequences import Made, Part, Spool, where
from limbeck.stages.context import Context, once
from limbeck.stages.examining import examine
from limbeck.stages.learners import Trained, mentor_learner
from limbeck.stages.problems import Split, problems
from limbeck.stages.rationales import (
    GRADED,
    Picked,
    Rationales,
    conditions,
    file_inputs,
    grade_completions,
    grade_file,
    grading_settings,
    rationale_data,
    rationales,
    report_unfinished,
    write_graded,
)
from limbeck.stages.served import served_mentor
from limbeck.stages.training import train
from limbeck.stages.writing import completions_of, write
from limbeck.tasks.answers import AnswerKind

VERSION = 4
"""Raised by hand when this code grades a mentor's rationales differently."""


def taught(context: Context, name: str, split: Split = "train") -> Rationales:
    """The teacher's rationales that this mentor and its students may see."""
    return rationales(context, split, context.recipe.mentors[name].teacher_share)


def mentor(context: Context, name: str) -> Trained:
    """The mentor, fine-tuned on the teacher's correct rationales (Fine-tune-CoT)."""
    return once(context, f"mentors/{name}", lambda: _mentor(context, name))


def _mentor(context: Context, name: str) -> Trained:
    settings = context.recipe.mentors[name]
    learner = mentor_learner(context, name)

    def pick(split: Split) -> Picked:
        found = taught(context, name, split)
        seed = context.recipe.seed
        return found.chosen(settings.rationales, settings.choose, seed=seed, ngram=settings.ngram)

    return train(context, learner, rationale_data(context, learner, pick))


def examine_mentor(context: Context, name: str) -> None:
    """The mentor's exam on the test split, unless the recipe switches it off."""
    if context.recipe.mentors[name].exam:
        once(context, f"mentors/{name}/exam", lambda: examine(context, mentor(context, name)))


def asked(context: Context, name: str) -> Sequence[Problem]:
    """The training problems that the mentor writes about."""
    train_problems = problems(context).train
    if context.recipe.mentors[name].writes.problems == "all":
        return train_problems
    known = places_of(one.problem_id for one in taught(context, name).all if one.dropped is None)
    return Part(train_problems, where(train_problems, lambda problem: key_of(problem.id) in known))


def written(context: Context, name: str) -> Stage:
    """What the mentor wrote about the training problems, as it came."""
    model, settings = mentor(context, name), context.recipe.mentors[name]
    writes = settings.writes
    sampling = Sampling(
        writes.per_problem,
        writes.temperature,
        writes.top_p,
        writes.top_k,
        writes.max_tokens,
        context.recipe.seed,
        writes.stop,
    )
    inputs = dict(problems(context).inputs)
    if writes.problems == "taught":
        inputs |= taught(context, name).inputs
    return write(
        context,
        f"mentors/{name}/collected",
        served_mentor(context, model),
        Made(asked(context, name), model.question),
        sampling,
        settings=writes,
        inputs=inputs,
        batch_size=writes.batch_size,
        format=settings.format,
        seed=context.recipe.seed,
    )


def mentor_rationales(context: Context, name: str) -> Rationales:
    """The mentor's rationales, graded; those equal to a kept one of the teacher are dropped."""
    return once(context, f"mentors/{name}/rationales", lambda: _mentor_rationales(context, name))


def _mentor_rationales(context: Context, name: str) -> Rationales:
    settings, teacher = context.recipe.mentors[name], taught(context, name)
    questions = asked(context, name)
    source = None if settings.file else written(context, name)

    def work(folder: Path) -> None:
        left_out: dict[str, Any] = {}
        graded: Iterable[Rationale]
        if source is None:
            graded, left_out = grade_file(context, str(settings.file), questions, folder)
        else:
            graded = grade_completions(context, questions, completions_of(source), name)
        known = teacher.kept
        _, agreement = conditions(context, settings)
        graded = Spool(graded, folder=folder) if agreement else graded  # which looks at them three times
        marked = write_graded(folder, _marked(context, name, graded, known))
        summary = mentor_audit(marked, known, questions, context.kind, agreement) | left_out
        write_json(folder / "audit.json", summary)
        facts = (
            "accuracy on training problems",
            "rationales",
            "kept",
            "duplicates",
            "newly covered problems",
        )
        shown = mentor(context, name).name
        context.run.say(f"{shown}: " + ", ".join(f"{fact} {summary[fact]}" for fact in facts))
        report_unfinished(context, shown, summary, f"mentors.{name}.writes.max_tokens")
        if not summary["kept"]:
            context.run.say(f"{shown}: {nothing_kept(marked)}")

    own = {
        "source": name,
        "teacher_share": settings.teacher_share,
        "problems": settings.writes.problems,
        **(
            {"verified": True} if context.recipe.verifier else {}
        ),  # what the verifier dropped is dropped here
    }
    inputs: Mapping[str, str] = {
        **problems(context).inputs,
        "rationales of the teacher": teacher.stage.fingerprint,
        **file_inputs(settings.file),
        **({"collected": source.fingerprint} if source else {}),
    }
    stage = context.run.stage(
        f"mentors/{name}/rationales",
        plan(grading_settings(context, settings) | own, version=VERSION),
        inputs,
        work,
    )
    return Rationales(stage, "mentor", Records(stage.folder / GRADED, Rationale))


def _marked(
    context: Context, name: str, graded: Iterable[Rationale], known: Iterable[Rationale]
) -> Iterator[Rationale]:
    """A mentor's rationales by its own rule; the teacher's may be unfinished texts, its own may not."""
    keep, agreement = conditions(context, context.recipe.mentors[name])
    taught_answers = {
        one.problem_id: one.answer
        for one in taught(context, name).all
        if one.dropped is None and one.correct is None and one.answer is not None
    }
    return mark_dropped(
        graded,
        keep=keep,
        agreement=agreement,
        settled=taught_answers,
        drop_false_equations=context.recipe.rationales.drop_false_equations,
        known=known,
        judged=taught(context, name).all,
    )


def new_rationales(context: Context, name: str, teacher: Sequence[Rationale]) -> Sequence[Rationale]:
    """The mentor's kept rationales that repeat none of those of the teacher that a student is given.

    A student that sees fewer of the teacher's gets the mentor's equal ones instead; without any of
    the teacher's, these are all that are kept.
    """
    written = mentor_rationales(context, name).all
    new = Part(written, where(_marked(context, name, written, teacher), lambda one: one.dropped is None))
    return Made(new, lambda one: one.model_copy(update={"dropped": None}))  # it may repeat one not given


def mentor_audit(
    marked: Sequence[Rationale],
    teacher: Sequence[Rationale],
    questions: Sequence[Problem],
    kind: AnswerKind,
    agreement: Agreement | None,
) -> dict[str, Any]:
    """The audit of a mentor's rationales: first what it adds to the teacher's kept ones.

    `duplicates` repeat a kept rationale, of the teacher or its own; `newly covered` are problems of
    which the teacher has no kept rationale and the mentor has one.
    """
    covered = {rationale.problem_id for rationale in teacher}
    kept = {rationale.problem_id for rationale in marked if rationale.dropped is None}
    right = sum(rationale.correct is True for rationale in marked)
    repeated = sum(rationale.dropped in (DUPLICATE, DUPLICATE_OF_TEACHER) for rationale in marked)
    return {
        "accuracy on training problems": round(right / max(len(marked), 1), 4),
        "problems the teacher covers": len(covered),
        "newly covered problems": len(kept - covered),
        "duplicates": repeated,
        **audit(marked, questions, kind, agreement),
    }
