"""The stages of a mentor: trained, examined, writing, its rationales graded.

A mentor's stages lie in `mentors/NAME/` and belong to no student: whoever names
the mentor finds them done.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.evaluate import student_prompt
from limbeck.lm import Sampling
from limbeck.lm.chunks import Chunks
from limbeck.rationales import (
    DUPLICATE,
    DUPLICATE_OF_TEACHER,
    audit,
    collect,
    grade,
    mark_dropped,
)
from limbeck.recipe import MentorSettings
from limbeck.records import Example, Problem, Rationale, read_jsonl, write_json, write_jsonl
from limbeck.run import Stage
from limbeck.stages import rationales as stages
from limbeck.stages.learners import Learner, fine_tune, sit_exam
from limbeck.stages.rationales import Context, Rationales, RawCompletion, Split
from limbeck.stages.teacher import LOG


def learner_of(context: Context, name: str) -> Learner:
    """A mentor as one who is trained."""
    mentor = context.recipe.mentors[name]
    chosen = {"rationales", "choose", "teacher_share"}
    own = mentor.model_dump(mode="json", include=chosen)
    return Learner(f"mentors/{name}", shown(name), mentor, mentor.seed, own)


def shown(name: str) -> str:
    """What tables call a mentor."""
    return name if name == "mentor" else f"mentor {name}"


def taught(context: Context, name: str, split: Split = "train") -> Rationales:
    """The teacher's rationales that this mentor and its students may see."""
    return stages.rationales(context, split, context.recipe.mentors[name].teacher_share)


def trained(context: Context, name: str) -> Stage:
    """Fine-tune-CoT of the mentor on the teacher's correct rationales."""
    return stages.once(context, f"mentors/{name}", lambda: _train(context, name))


def _train(context: Context, name: str) -> Stage:
    mentor = context.recipe.mentors[name]
    inputs = {"problems": stages.problems(context).stage.fingerprint}

    def examples(split: Split) -> list[Example]:
        return stages.teacher_examples(
            context,
            split,
            inputs,
            per_problem=mentor.rationales,
            choose=mentor.choose,
            share=mentor.teacher_share,
            form=mentor.format,
        )

    train = examples("train")
    dev = examples("dev") if mentor.train.choose == "dev-loss" else []
    return fine_tune(context, learner_of(context, name), inputs, train, dev)


def examined(context: Context, name: str) -> None:
    """The mentor's exam on the test split, unless the recipe does without."""
    if context.recipe.mentors[name].exam:
        learner, model = learner_of(context, name), trained(context, name)
        stages.once(context, f"mentors/{name}/exam", lambda: sit_exam(context, learner, model))


def asked(context: Context, name: str) -> list[Problem]:
    """The training problems that the mentor writes about."""
    train = stages.problems(context).train
    if context.recipe.mentors[name].writes.problems == "all":
        return train
    known = {one.problem_id for one in taught(context, name).all if one.dropped is None}
    return [problem for problem in train if problem.id in known]


def written(context: Context, name: str) -> Stage:
    """What the mentor wrote about the training problems, as it came."""
    mentor, model = context.recipe.mentors[name], trained(context, name)
    writes, questions = mentor.writes, asked(context, name)
    sampling = Sampling(
        writes.per_problem,
        writes.temperature,
        writes.top_p,
        writes.top_k,
        writes.max_tokens,
        context.recipe.seed,
    )

    def work(folder: Path) -> None:
        from limbeck.lm.load import load
        from limbeck.lm.local import LocalModel

        loaded = load(str(model.folder / "model"), dtype=mentor.dtype, device=mentor.device, name=shown(name))
        writer = Chunks(LocalModel(loaded, max_rows=writes.batch_size), folder / LOG)
        ask = partial(student_prompt, loaded, mentor.format)
        completions = collect(questions, writer, ask, sampling, track=context.track)
        write_jsonl(folder / "completions.jsonl", map(RawCompletion.of, completions))
        writer.log.unlink(missing_ok=True)

    inputs = {"mentor": model.fingerprint, "problems": stages.problems(context).stage.fingerprint}
    if writes.problems == "taught":
        inputs["rationales of train"] = taught(context, name).stage.fingerprint
    return context.run.stage(f"mentors/{name}/collected", _writing_plan(context, mentor), inputs, work)


def _writing_plan(context: Context, mentor: MentorSettings) -> dict[str, Any]:
    """The settings that decide what the mentor writes."""
    return mentor.writes.model_dump(mode="json") | {"format": mentor.format, "seed": context.recipe.seed}


def rationales(context: Context, name: str) -> Rationales:
    """The mentor's rationales, graded; those equal to a kept one of the teacher are dropped."""
    return stages.once(context, f"mentors/{name}/rationales", lambda: _rationales(context, name))


def _rationales(context: Context, name: str) -> Rationales:
    mentor, teacher, questions = context.recipe.mentors[name], taught(context, name), asked(context, name)
    source = None if mentor.file else written(context, name)

    def work(folder: Path) -> None:
        if source is None:
            graded = stages.graded_file(context, str(mentor.file), questions)
        else:
            graded = grade(questions, context.kind, stages.completions_of(source), name)
        known = [rationale for rationale in teacher.all if rationale.dropped is None]
        filtered = _filtered(context, name, graded, known)
        summary = mentor_audit(filtered, known, questions)
        write_jsonl(folder / "graded.jsonl", filtered)
        write_json(folder / "audit.json", summary)
        facts = (
            "accuracy on training problems",
            "rationales",
            "kept",
            "duplicates",
            "newly covered problems",
        )
        context.run.say(f"{shown(name)}: " + ", ".join(f"{fact} {summary[fact]}" for fact in facts))

    plan = stages.grading_plan(context) | {
        "keep": mentor.keep,
        "source": name,
        "teacher_share": mentor.teacher_share,
        "problems": mentor.writes.problems,
    }
    inputs = {
        "problems": stages.problems(context).stage.fingerprint,
        "rationales of the teacher": teacher.stage.fingerprint,
    } | stages.file_inputs(mentor.file)
    if source is not None:
        inputs["collected"] = source.fingerprint
    stage = context.run.stage(f"mentors/{name}/rationales", plan, inputs, work)
    return Rationales(stage, list(read_jsonl(stage.folder / "graded.jsonl", Rationale)))


def _filtered(
    context: Context, name: str, graded: Sequence[Rationale], known: Sequence[Rationale]
) -> list[Rationale]:
    """A mentor's rationales by its own rule; the teacher's may be unfinished texts, its own may not."""
    equations = context.recipe.rationales.drop_false_equations
    return mark_dropped(
        graded, keep=context.recipe.mentors[name].keep, drop_false_equations=equations, known=known
    )


def beside(context: Context, name: str, teacher: Sequence[Rationale]) -> list[Rationale]:
    """The mentor's rationales that are new beside those of the teacher that a student is given.

    A student that sees fewer of the teacher's gets the mentor's equal ones instead; without any of
    the teacher's, these are all that are kept.
    """
    return _filtered(context, name, rationales(context, name).all, teacher)


def mentor_audit(
    filtered: Sequence[Rationale], teacher: Sequence[Rationale], questions: Sequence[Problem]
) -> dict[str, Any]:
    """The audit of a mentor's rationales: first what it adds to the teacher's kept ones.

    `duplicates` repeat a kept rationale, of the teacher or its own; `newly covered` are problems of
    which the teacher has no kept rationale and the mentor has one.
    """
    covered = {rationale.problem_id for rationale in teacher}
    kept = {rationale.problem_id for rationale in filtered if rationale.dropped is None}
    right = sum(rationale.correct for rationale in filtered)
    repeated = sum(rationale.dropped in (DUPLICATE, DUPLICATE_OF_TEACHER) for rationale in filtered)
    return {
        "accuracy on training problems": round(right / max(len(filtered), 1), 4),
        "problems the teacher covers": len(covered),
        "newly covered problems": len(kept - covered),
        "duplicates": repeated,
        **audit(filtered, questions),
    }
