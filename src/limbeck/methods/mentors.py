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
from limbeck.methods import stages
from limbeck.methods.learners import Learner, fine_tune, sit_exam
from limbeck.methods.stages import Rationales, RawCompletion, Split, Way
from limbeck.methods.teachers import LOG
from limbeck.rationales import (
    DUPLICATE,
    DUPLICATE_OF_TEACHER,
    audit,
    collect,
    grade,
    sift,
)
from limbeck.recipe import MentorSettings
from limbeck.records import Example, Problem, Rationale, read_jsonl, write_json, write_jsonl
from limbeck.run import Stage


def learner_of(way: Way, name: str) -> Learner:
    """A mentor as one who is trained."""
    mentor = way.recipe.mentors[name]
    chosen = {"rationales", "choose", "teacher_share"}
    own = mentor.model_dump(mode="json", include=chosen)
    return Learner(f"mentors/{name}", shown(name), mentor, mentor.seed, own)


def shown(name: str) -> str:
    """What tables call a mentor."""
    return name if name == "mentor" else f"mentor {name}"


def taught(way: Way, name: str, split: Split = "train") -> Rationales:
    """The teacher's rationales that this mentor and its students may see."""
    return stages.rationales(way, split, way.recipe.mentors[name].teacher_share)


def trained(way: Way, name: str) -> Stage:
    """Fine-tune-CoT of the mentor on the teacher's correct rationales."""
    return stages.once(way, f"mentors/{name}", lambda: _train(way, name))


def _train(way: Way, name: str) -> Stage:
    mentor = way.recipe.mentors[name]
    inputs = {"problems": stages.problems(way).stage.fingerprint}

    def examples(split: Split) -> list[Example]:
        return stages.teacher_examples(
            way,
            split,
            inputs,
            per_problem=mentor.rationales,
            choose=mentor.choose,
            share=mentor.teacher_share,
            form=mentor.format,
        )

    train = examples("train")
    dev = examples("dev") if mentor.train.choose == "dev-loss" else []
    return fine_tune(way, learner_of(way, name), inputs, train, dev)


def examined(way: Way, name: str) -> None:
    """The mentor's exam on the test split, unless the recipe does without."""
    if way.recipe.mentors[name].exam:
        learner, model = learner_of(way, name), trained(way, name)
        stages.once(way, f"mentors/{name}/exam", lambda: sit_exam(way, learner, model))


def asked(way: Way, name: str) -> list[Problem]:
    """The training problems that the mentor writes about."""
    train = stages.problems(way).train
    if way.recipe.mentors[name].writes.problems == "all":
        return train
    known = {one.problem_id for one in taught(way, name).all if one.dropped is None}
    return [problem for problem in train if problem.id in known]


def written(way: Way, name: str) -> Stage:
    """What the mentor wrote about the training problems, as it came."""
    mentor, model = way.recipe.mentors[name], trained(way, name)
    writes, questions = mentor.writes, asked(way, name)
    sampling = Sampling(
        writes.per_problem,
        writes.temperature,
        writes.top_p,
        writes.top_k,
        writes.max_tokens,
        way.recipe.seed,
    )

    def work(folder: Path) -> None:
        from limbeck.lm.load import load
        from limbeck.lm.local import LocalModel

        loaded = load(str(model.folder / "model"), dtype=mentor.dtype, device=mentor.device, name=shown(name))
        speaker = Chunks(LocalModel(loaded, max_rows=writes.batch_size), folder / LOG)
        ask = partial(student_prompt, loaded, mentor.format)
        completions = collect(questions, speaker, ask, sampling, track=way.track)
        write_jsonl(folder / "completions.jsonl", map(RawCompletion.of, completions))
        speaker.log.unlink(missing_ok=True)

    inputs = {"mentor": model.fingerprint, "problems": stages.problems(way).stage.fingerprint}
    if writes.problems == "taught":
        inputs["rationales of train"] = taught(way, name).stage.fingerprint
    return way.run.stage(f"mentors/{name}/collected", _writing_plan(way, mentor), inputs, work)


def _writing_plan(way: Way, mentor: MentorSettings) -> dict[str, Any]:
    """The settings that decide what the mentor writes."""
    return mentor.writes.model_dump(mode="json") | {"format": mentor.format, "seed": way.recipe.seed}


def rationales(way: Way, name: str) -> Rationales:
    """The mentor's rationales, graded; those equal to a kept one of the teacher are dropped."""
    return stages.once(way, f"mentors/{name}/rationales", lambda: _rationales(way, name))


def _rationales(way: Way, name: str) -> Rationales:
    mentor, teacher, questions = way.recipe.mentors[name], taught(way, name), asked(way, name)
    source = None if mentor.file else written(way, name)

    def work(folder: Path) -> None:
        if source is None:
            graded = stages.graded_file(way, str(mentor.file), questions)
        else:
            graded = grade(questions, way.kind, stages.completions_of(source), name)
        known = [rationale for rationale in teacher.all if rationale.dropped is None]
        sifted = _sifted(way, name, graded, known)
        summary = mentor_audit(sifted, known, questions)
        write_jsonl(folder / "graded.jsonl", sifted)
        write_json(folder / "audit.json", summary)
        facts = (
            "accuracy on training problems",
            "rationales",
            "kept",
            "duplicates",
            "newly covered problems",
        )
        way.run.say(f"{shown(name)}: " + ", ".join(f"{fact} {summary[fact]}" for fact in facts))

    plan = stages.grading_plan(way) | {
        "keep": mentor.keep,
        "source": name,
        "teacher_share": mentor.teacher_share,
        "problems": mentor.writes.problems,
    }
    inputs = {
        "problems": stages.problems(way).stage.fingerprint,
        "rationales of the teacher": teacher.stage.fingerprint,
    } | stages.file_inputs(mentor.file)
    if source is not None:
        inputs["collected"] = source.fingerprint
    stage = way.run.stage(f"mentors/{name}/rationales", plan, inputs, work)
    return Rationales(stage, list(read_jsonl(stage.folder / "graded.jsonl", Rationale)))


def _sifted(way: Way, name: str, graded: Sequence[Rationale], known: Sequence[Rationale]) -> list[Rationale]:
    """A mentor's rationales by its own rule; the teacher's may be unfinished texts, its own may not."""
    equations = way.recipe.rationales.drop_false_equations
    return sift(graded, keep=way.recipe.mentors[name].keep, drop_false_equations=equations, known=known)


def beside(way: Way, name: str, teacher: Sequence[Rationale]) -> list[Rationale]:
    """The mentor's rationales that are new beside those of the teacher that a student is given.

    A student that sees fewer of the teacher's gets the mentor's equal ones instead; without any of
    the teacher's, these are all that are kept.
    """
    return _sifted(way, name, rationales(way, name).all, teacher)


def mentor_audit(
    sifted: Sequence[Rationale], teacher: Sequence[Rationale], questions: Sequence[Problem]
) -> dict[str, Any]:
    """The audit of a mentor's rationales: first what it adds to the teacher's kept ones.

    `duplicates` repeat a kept rationale, of the teacher or its own; `newly covered` are problems of
    which the teacher has no kept rationale and the mentor has one.
    """
    covered = {rationale.problem_id for rationale in teacher}
    kept = {rationale.problem_id for rationale in sifted if rationale.dropped is None}
    right = sum(rationale.correct for rationale in sifted)
    repeated = sum(rationale.dropped in (DUPLICATE, DUPLICATE_OF_TEACHER) for rationale in sifted)
    return {
        "accuracy on training problems": round(right / max(len(sifted), 1), 4),
        "problems the teacher covers": len(covered),
        "newly covered problems": len(kept - covered),
        "duplicates": repeated,
        **audit(sifted, questions),
    }
