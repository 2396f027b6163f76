"""The stages that methods share: problems, rationales, the teacher's exam.

Each function returns what its stage made, doing the work only when it is not
done (see `run.Run.stage`). A method is the order in which it calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from limbeck.errors import DataError
from limbeck.evaluate import examine, write_exam
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.progress import SILENT, Track
from limbeck.rationale_files import read_rationales
from limbeck.rationales import Choose, audit, collect, grade, mark_dropped, select
from limbeck.recipe import GivenTeacherSettings, Recipe
from limbeck.records import Example, Problem, Rationale, Record, read_jsonl, write_json, write_jsonl
from limbeck.run import Run, Stage, fingerprint, path_fingerprint
from limbeck.stages.teacher import LOG, Teacher, teacher_identity, teacher_inputs
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.prompts import FORMATS
from limbeck.tasks.settings import task_kind
from limbeck.tasks.sources import load_splits, source_fingerprint

M = TypeVar("M")

Split = Literal["train", "dev"]
"""What rationales are about; the test split has none."""

SUFFIX: dict[Split, str] = {"train": "", "dev": "-dev"}


@dataclass(frozen=True)
class Context:
    """What all stages of one run share."""

    run: Run
    recipe: Recipe
    teacher: Callable[[], Teacher]
    track: Track = SILENT
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> AnswerKind:
        """The task's answer kind."""
        return task_kind(self.recipe.task)


@dataclass(frozen=True)
class Problems:
    """The splits; `given` are rationales that stood in the data, as completions."""

    stage: Stage
    train: list[Problem]
    dev: list[Problem]
    test: list[Problem]
    given: list[Completion]

    def of(self, split: Split) -> list[Problem]:
        """The problems that rationales of a split are about."""
        return self.train if split == "train" else self.dev


@dataclass(frozen=True)
class Rationales:
    """All graded rationales; those with `dropped` None are trained on."""

    stage: Stage
    all: list[Rationale]


class GivenText(Record):
    """A rationale that stood in the user's data."""

    problem_id: str
    index: int
    text: str


def once(context: Context, key: str, make: Callable[[], M]) -> M:
    """What `make` gives at the first call with this key; the same afterwards."""
    if key not in context.memo:
        context.memo[key] = make()
    found: M = context.memo[key]
    return found


def problems(context: Context) -> Problems:
    """Generate or read the problems of all splits; wrong data are refused before anything changes."""
    if "problems" in context.memo:
        found: Problems = context.memo["problems"]
        return found
    recipe = context.recipe
    settings = {"task": recipe.task.model_dump(mode="json"), "seed": recipe.seed}
    inputs = source_fingerprint(recipe.task)
    splits = (
        None if context.run.is_done("problems", settings, inputs) else load_splits(recipe.task, recipe.seed)
    )

    def work(folder: Path) -> None:
        made = splits or load_splits(recipe.task, recipe.seed)
        for note in made.notes:
            context.run.say(note)
        write_jsonl(
            folder / "given.jsonl", [GivenText(problem_id=i, index=n, text=t) for i, n, t in made.given]
        )
        for split in ("train", "dev", "test"):
            write_jsonl(folder / f"{split}.jsonl", getattr(made, split))

    stage = context.run.stage("problems", settings, inputs, work)
    train, dev, test = (
        list(read_jsonl(stage.folder / f"{s}.jsonl", Problem)) for s in ("train", "dev", "test")
    )
    texts = read_jsonl(stage.folder / "given.jsonl", GivenText)
    given = [Completion(text.problem_id, text.index, text.text) for text in texts]
    context.memo["problems"] = Problems(stage, train, dev, test, given)
    return problems(context)


def collected(context: Context, split: Split) -> Stage:
    """The teacher's completions, as they came; `memory/` keeps what was paid for beyond this stage."""
    recipe, wanted = context.recipe, context.recipe.rationales
    asked = problems(context).of(split)
    sampling = Sampling(
        wanted.per_problem, wanted.temperature, wanted.top_p, 0, wanted.max_tokens, recipe.seed
    )

    def work(folder: Path) -> None:
        teacher = context.teacher()
        teacher.agree([Prompt(p.id, teacher.ask(p, context.kind)) for p in asked], sampling)
        model = teacher.model(folder)
        completions = collect(
            asked, model, lambda p: teacher.ask(p, context.kind), sampling, track=context.track
        )
        for line in teacher.account():
            context.run.say(line)
        raw = [RawCompletion.of(completion) for completion in completions]
        write_jsonl(folder / "completions.jsonl", raw)
        (folder / LOG).unlink(missing_ok=True)

    settings = {
        "teacher": teacher_identity(recipe),
        "per_problem": wanted.per_problem,
        "temperature": wanted.temperature,
        "top_p": wanted.top_p,
        "max_tokens": wanted.max_tokens,
        "split": split,
        "seed": recipe.seed,
    }
    inputs = {"problems": problems(context).stage.fingerprint} | teacher_inputs(recipe)
    return context.run.stage("collected" + SUFFIX[split], settings, inputs, work)


class RawCompletion(Record):
    """A completion as a file keeps it."""

    prompt_id: str
    index: int
    text: str
    tokens: int = 0
    truncated: bool = False
    cost_usd: float = 0.0

    @classmethod
    def of(cls, completion: Completion) -> RawCompletion:
        return cls(
            prompt_id=completion.prompt_id,
            index=completion.index,
            text=completion.text,
            tokens=completion.tokens,
            truncated=completion.truncated,
            cost_usd=completion.cost_usd,
        )

    def back(self) -> Completion:
        return Completion(self.prompt_id, self.index, self.text, self.tokens, self.truncated, self.cost_usd)


def rationales(context: Context, split: Split = "train", share: float = 1.0) -> Rationales:
    """Graded and filtered rationales of a split, with their audit.

    Those of dev are asked for only when a checkpoint is chosen by dev loss, in
    stages of their own, so that they change nothing for other students.

    Args:
        share: of the training problems whose rationales are returned (Mentor-KD's
            low-resource setting); a smaller share is a part of every larger one.
    """
    if split in context.memo:
        found: Rationales = context.memo[split]
        if share == 1 or split == "dev":
            return found
        some = share_of(problems(context).train, share, context.recipe.seed)
        return Rationales(found.stage, [one for one in found.all if one.problem_id in some])
    recipe, parts = context.recipe, problems(context)
    asked = parts.of(split)
    file = recipe.teacher.file if isinstance(recipe.teacher, GivenTeacherSettings) else None
    source = None if recipe.teacher.kind == "given" else collected(context, split)

    def work(folder: Path) -> None:
        if file is not None:
            graded = graded_file(context, file, asked)
        elif source is None:
            ids = {problem.id for problem in asked}
            given = [completion for completion in parts.given if completion.prompt_id in ids]
            graded = grade(asked, context.kind, given, teacher_name(recipe))
        else:
            graded = grade(asked, context.kind, completions_of(source), teacher_name(recipe))
        rule = recipe.rationales
        filtered = mark_dropped(graded, keep=rule.keep, drop_false_equations=rule.drop_false_equations)
        write_jsonl(folder / "graded.jsonl", filtered)
        write_json(folder / "audit.json", audit(filtered, asked))

    inputs = {"problems": parts.stage.fingerprint} | file_inputs(file)
    if source is not None:
        inputs["collected"] = source.fingerprint
    settings = grading_plan(context) | {"source": teacher_name(recipe), "split": split}
    stage = context.run.stage("rationales" + SUFFIX[split], settings, inputs, work)
    context.memo[split] = Rationales(stage, list(read_jsonl(stage.folder / "graded.jsonl", Rationale)))
    return rationales(context, split, share)


def share_of(some: Sequence[Problem], share: float, seed: int) -> frozenset[str]:
    """Ids of a share of problems; at least one, the same ones again in every larger share."""
    ranked = sorted((fingerprint([seed, problem.id]), problem.id) for problem in some)
    return frozenset(own for _, own in ranked[: max(1, round(share * len(ranked)))])


def grading_plan(context: Context) -> dict[str, Any]:
    """The settings that decide what grading makes of a completion."""
    rule = context.recipe.rationales
    return {"kind": context.kind, "keep": rule.keep, "drop_false_equations": rule.drop_false_equations}


def completions_of(stage: Stage) -> list[Completion]:
    """What a stage's model wrote."""
    return [raw.back() for raw in read_jsonl(stage.folder / "completions.jsonl", RawCompletion)]


def graded_file(context: Context, file: str, asked: Sequence[Problem]) -> list[Rationale]:
    """Rationales of a file, graded anew; those of other splits' problems are left out."""
    parts = problems(context)
    everyone = [*parts.train, *parts.dev, *parts.test]
    found = read_rationales(Path(file).expanduser(), context.recipe.task, everyone)
    ids = {problem.id for problem in asked}
    sources = dict.fromkeys(source for source, _ in found)
    return [
        rationale
        for source in sources
        for rationale in grade(
            asked, context.kind, [c for name, c in found if name == source and c.prompt_id in ids], source
        )
    ]


def check_file(context: Context, file: str | None) -> None:
    """Refuse a file of rationales that cannot be read or joined, before hours are spent.

    Raises:
        DataError: there is no such file, or nothing in it belongs to the task's problems.
    """
    if file_inputs(file):
        parts = problems(context)
        everyone = [*parts.train, *parts.dev, *parts.test]
        if not read_rationales(Path(str(file)).expanduser(), context.recipe.task, everyone):
            raise DataError(str(file), "holds no rationales; import or collect some")


def file_inputs(file: str | None) -> dict[str, str]:
    """A file of rationales as a stage input."""
    if file is None:
        return {}
    path = Path(file).expanduser()
    if not path.is_file():
        what = (
            "is a folder; name a file in it"
            if path.is_dir()
            else "no such file of rationales; check the path"
        )
        raise DataError(path, what)
    return {"file": path_fingerprint(path)}


def teacher_name(recipe: Recipe) -> str:
    """What records call the teacher."""
    teacher = recipe.teacher
    if teacher.kind == "given":
        return teacher.source
    return "offline" if teacher.kind == "offline" else teacher.model


def rationale_examples(parts: Problems, chosen: Sequence[Rationale], form: str) -> list[Example]:
    """One training example per rationale: question -> reasoning and the *gold* answer."""
    by_id = {problem.id: problem for problem in [*parts.train, *parts.dev]}
    shape = FORMATS[form]
    return [
        Example(
            problem_id=rationale.problem_id,
            prompt=shape.prompt(by_id[rationale.problem_id]),
            completion=shape.completion(rationale.reasoning, by_id[rationale.problem_id].answer),
        )
        for rationale in chosen
    ]


def teacher_examples(
    context: Context,
    split: Split,
    inputs: dict[str, str],
    *,
    per_problem: int,
    choose: Choose,
    share: float,
    form: str,
) -> list[Example]:
    """Fine-tune-CoT's examples: some kept rationales of the teacher per problem; their stage joins `inputs`.

    Raises:
        DataError: none was kept.
    """
    found = rationales(context, split, share)
    inputs[f"rationales of {split}"] = found.stage.fingerprint
    chosen = select(found.all, per_problem, choose=choose, seed=context.recipe.seed)
    if not chosen:
        message = f"no rationale of {split} was kept; it says why they were dropped"
        raise DataError(found.stage.folder / "audit.json", message)
    return rationale_examples(problems(context), chosen, form)


def examine_teacher(context: Context) -> None:
    """Examine the teacher, greedily, on the test split."""
    recipe = context.recipe
    if recipe.teacher.kind == "given" or not recipe.teacher.exam:
        return
    parts = problems(context)
    sampling = Sampling(max_tokens=recipe.rationales.max_tokens, seed=recipe.seed)

    def work(folder: Path) -> None:
        teacher = context.teacher()
        teacher.agree([Prompt(p.id, teacher.ask(p, context.kind)) for p in parts.test], sampling)
        model = teacher.model(folder)
        predictions, summary = examine(
            model,
            parts.test,
            context.kind,
            lambda p: teacher.ask(p, context.kind),
            sampling,
            track=context.track,
            timed=recipe.teacher.kind != "offline",  # which counts words, not tokens
        )
        for line in teacher.account():
            context.run.say(line)
        write_exam(folder, predictions, {**summary, "name": f"teacher ({teacher.name})", "split": "test"})
        (folder / LOG).unlink(missing_ok=True)

    inputs = {"problems": parts.stage.fingerprint} | teacher_inputs(recipe)
    settings = {"teacher": teacher_identity(recipe), "max_tokens": sampling.max_tokens, "seed": recipe.seed}
    context.run.stage("teacher/exam", settings, inputs, work)
