"""What the command does, as functions: `limbeck.run`, `limbeck.collect`, `limbeck.grade` …

Every import that costs time happens inside the function that needs it, so that importing this is fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from limbeck.errors import DamagedError, InputError, NotServedError
from limbeck.opening import (
    Request,
    about_task,
    live_track,
    model_folder,
    open_context,
    prepare,
    problems_of,
    stories,
    tell,
    tell_leaks,
    to_stderr,
)

if TYPE_CHECKING:
    from limbeck.knowledge.building import Built
    from limbeck.lm.endpoints import EndpointSettings
    from limbeck.lm.load import Dtype
    from limbeck.methods import Chosen
    from limbeck.recipe import Keep, Recipe
    from limbeck.records import Prediction, Problem, Rationale
    from limbeck.stages.context import Context
    from limbeck.tasks.answers import AnswerKind


def run(recipe: Path | str, overrides: Sequence[str] = (), **request: Any) -> Path:
    """Everything from problems to exams, and the report; goes on where it was stopped.

    Args:
        recipe: a YAML file.
        overrides: `a.b=value` texts.
        request: see `opening.Request`: out, yes, max_cost, release, until, again, report.

    Returns:
        The run folder; `report.html` is in it, if anybody was examined.
    """
    asked = Request(**request)
    with open_context(Path(recipe), overrides, asked) as (context, chosen):
        folder = context.run.folder
        tell(context, lambda: _everything(context, chosen, report=asked.report))
    return folder


def dry_run(
    recipe: Path | str,
    overrides: Sequence[str] = (),
    *,
    probe: bool = True,
    devices: int | None = None,
    **request: Any,
) -> dict[str, Any]:
    """What `run` with the same arguments will do and take; it writes nothing and asks no teacher.

    Args:
        recipe: a YAML file.
        overrides: `a.b=value` texts.
        probe: take three steps of every training on this machine, to say how long it will take.
        devices: processes that a launcher will start, a device each; None: as many as there are GPUs here.
        request: see `opening.Request`: out, until, again.

    Returns:
        Stages, the teacher's price, models, disk, as JSON values (docs/architecture.md).
    """
    from limbeck.dry_run import dry_run as look

    return look(Path(recipe), overrides, Request(**request), probe=probe, devices=devices)


def _everything(context: Context, chosen: Mapping[str, Chosen], *, report: bool) -> None:
    """All stories and the report. One that waits for a server holds nobody else up: the others are trained,
    so that one start of the server serves them all."""
    from limbeck import ranks

    context = prepare(context, chosen)
    waiting: list[NotServedError] = []
    for chapter in stories(context, chosen):
        try:
            chapter.work()
        except NotServedError as error:
            if ranks.world() > 1:  # the others wait inside the stage
                raise
            context.run.say(f"not served yet: {error}")
            waiting.append(error)
    if report:
        _report(context.run.folder)
    if waiting:
        raise waiting[0] if len(waiting) == 1 else _all_of(waiting)


def _all_of(waiting: Sequence[NotServedError]) -> NotServedError:
    """One sentence about all models that wait for a server."""
    first = waiting[0]
    missing = {one.url: [other.served_as for other in waiting if other.url == one.url] for one in waiting}
    said = "; ".join(f"{url} has not got {', '.join(dict.fromkeys(some))}" for url, some in missing.items())
    text = f"{said}; start a server that has them, then run the same command again"
    return NotServedError(first.place, first.url, first.served_as, text)


def _report(folder: Path) -> None:
    """Rank 0 writes the page; an exam that it finds damaged is known to all ranks."""
    from limbeck import ranks
    from limbeck.report import write_report

    wrong = None
    if ranks.main() and any(folder.glob("**/metrics.json")):
        try:
            write_report([folder], folder / "report.html")
        except DamagedError as damaged:
            wrong = damaged.stage, damaged.wrong
    if wrong := ranks.share(wrong):
        raise DamagedError(*wrong)


def collect(recipe: Path | str, overrides: Sequence[str] = (), **request: Any) -> Path:
    """The teacher's rationales alone, graded and audited.

    Returns:
        The stage's folder, with `graded.jsonl` and `audit.json`.
    """
    from limbeck import stages

    with open_context(Path(recipe), overrides, Request(**request), trains=False) as (context, chosen):

        def story() -> Path:
            prepare(context, chosen, trains=False)
            return stages.graded_rationales(context).stage.folder

        return tell(context, story)


def grade(
    file: Path | str,
    task: Path | str,
    overrides: Sequence[str] = (),
    *,
    keep: Keep | None = None,
    drop_false_equations: bool = False,
    out: Path | str | None = None,
) -> tuple[list[Rationale], dict[str, Any]]:
    """Grade a file of rationales against a task's gold answers.

    Args:
        file: JSONL, such as a run's `graded.jsonl`.
        task: a built-in task's name, or a recipe file whose task is meant.
        keep: what is kept; None: the recipe's own rule. "agreement" takes the recipe's, or the usual one.
        out: gets the rationales as JSONL. Rows that are left out are listed next to it, in a file of
            this name that ends in `.left-out.jsonl`.

    Returns:
        The rationales with their verdicts, and the audit.
    """
    from limbeck.agreement import Agreement
    from limbeck.audit import grade_file, left_out_facts
    from limbeck.recipe import rules_of
    from limbeck.records import LeftOut, write_jsonl
    from limbeck.stages.problems import LEFT_OUT
    from limbeck.stages.teacher import taken_as_rationale
    from limbeck.tasks.settings import task_kind

    about = about_task(str(task), overrides)
    gold, agreement = rules_of(keep or about.rationales.keep, about.rationales.agreement)
    left_out: list[LeftOut] = []
    graded, summary = grade_file(
        Path(file),
        about.task,
        about.seed,
        keep=gold,
        agreement=Agreement(task_kind(about.task), **agreement.model_dump()) if agreement else None,
        drop_false_equations=drop_false_equations or about.rationales.drop_false_equations,
        reasoning=taken_as_rationale(about),
        left_out=left_out,
    )
    if out is not None:
        write_jsonl(Path(out), graded)
        if left_out:
            listed = Path(out).with_suffix(f".{LEFT_OUT}")
            write_jsonl(listed, left_out)
            summary |= left_out_facts(left_out, str(listed))
    return graded, summary


@dataclass(frozen=True, slots=True)
class Exam:
    """What `evaluate` found."""

    predictions: list[Prediction]
    metrics: dict[str, Any]


def evaluate(
    model: Path | str,
    task: Path | str,
    overrides: Sequence[str] = (),
    *,
    out: Path | str,
    split: Literal["train", "dev", "test"] = "test",
    limit: int | None = None,
    votes: int | None = None,
    form: str | None = None,
    direct: bool = False,
    device: str = "auto",
    dtype: Dtype | None = None,
    stop: Sequence[str] | None = None,
    knowledge: Path | str | None = None,
    reranker: Path | str | None = None,
    states: Path | str | None = None,
    endpoint: str | None = None,
    endpoint_model: str | None = None,
    replace: bool = False,
) -> Exam:
    """Examine any model on a split of a task; with a recipe as the task, by that recipe's exam settings.

    Args:
        model: a name, a model folder, or a student's folder.
        out: gets `predictions.jsonl` and `metrics.json`.
        form: of the prompt; None: what the model was trained with.
        direct: without reasoning; answers begin with the answer statement.
        dtype: of the weights; None: what the model's folder names, as in the exam of its run, or float32.
        stop: texts at which an answer ends; None: the recipe's `exam.stop`.
        knowledge: the index that a student reads; None: the one it was trained with.
        reranker: what ranks its passages, or "none"; None: as in its run.
        states: a folder that keeps what the reranker makes of passages; None: made again each time.
        endpoint: the address of a server that has the model and writes the answers; its other settings are
            those of the recipe's `exam.endpoint`, or of its mentor's own `endpoint`. Tokenizer and prompts
            are still those of `model`.
        endpoint_model: the name under which the server has it; None: the name that its run asks for, by those
            settings' `model`. By default that is the whole path of the model's folder; of a model of no run
            it is `model` as given here.
        replace: a finished exam in `out` may be replaced.

    Raises:
        InputError: `out` is part of a run, or holds other files or a finished exam; or the split has
            no problems.
        DamagedError: the model belongs to a run and changed since it was written.
        NotServedError: the server cannot be reached, or has not got the model.
    """
    from limbeck import ranks, sealed
    from limbeck.exam import AskedAs, examine_model, examine_served, write_exam
    from limbeck.exam_facts import ExamFacts
    from limbeck.tasks.settings import task_kind

    _refuse_options(endpoint, endpoint_model, dtype)
    about, folder = about_task(str(task), overrides), Path(out)
    exam = about.exam if votes is None else about.exam.model_copy(update={"votes": votes})
    exam = exam if stop is None else exam.model_copy(update={"stop": tuple(stop)})
    if ranks.main():
        _refuse_taken(folder, replace=replace)
    ranks.barrier()
    sampling = exam.sampling(about.seed)
    kind = task_kind(about.task)
    asked = problems_of(about.task, about.seed, split)[:limit]
    if ranks.main() and split != "train":
        tell_leaks(model_folder(str(model)), asked, split)
    own = model_folder(str(model))
    places = [None if one is None else str(one) for one in (knowledge, reranker)]
    read = ranks.share(_read(own, asked, *places, states=states, device=device) if ranks.main() else None)
    given: Any = {**AskedAs(form=form, direct=direct, passages=read), "track": live_track()}
    served_as = None
    if endpoint is None:
        given |= {"device": device, "dtype": dtype, "max_rows": exam.batch_size}
        found = examine_model(own, asked, kind, sampling, folder, **given)
    else:
        stage = sealed.read(Path(own).parent / sealed.STAGE) or {}
        place, server = _server(about, stage.get("name", ""), endpoint)
        served_as = endpoint_model or _served_as(place, server, own, stage)
        found = examine_served(own, server, served_as, asked, kind, sampling, folder, place=place, **given)
    predictions, summary, examined = found
    facts = ExamFacts(
        role="exam",
        name=folder.resolve().name,
        model=str(model),
        parameters=examined.parameters,
        dtype=examined.dtype,
        served=served_as,
        split=split,
        task=about.task.name,
        kind=kind,
        direct=direct,
    )
    if ranks.main():
        write_exam(folder, predictions, summary, facts)
    return Exam(predictions, {**summary, **facts.model_dump(mode="json")})


def _read(
    model: str,
    asked: Sequence[Problem],
    knowledge: str | None,
    reranker: str | None,
    *,
    states: Path | str | None,
    device: str,
) -> Mapping[str, tuple[str, ...]] | None:
    """The passages of an exam; one process alone looks for them, so that each is encoded once."""
    from limbeck import ranks
    from limbeck.knowledge.reading import read_for

    with ranks.alone():
        return read_for(model, asked, knowledge, reranker, states=states, device=device, track=live_track())


def _refuse_options(endpoint: str | None, endpoint_model: str | None, dtype: Dtype | None) -> None:
    """Refuse options that say nothing with a server, or without one."""
    from limbeck import ranks

    if endpoint is None and endpoint_model is not None:
        raise InputError("--endpoint-model: needs --endpoint; add that")
    if endpoint is not None and dtype is not None:
        raise InputError("--dtype: is the server's affair under --endpoint; leave it out")
    if endpoint is not None and ranks.world() > 1:
        raise InputError(
            "--endpoint: the server shares the work out itself; run the command without torchrun"
        )


def _server(recipe: Recipe, name: str, address: str) -> tuple[str, EndpointSettings]:
    """The recipe's server of a model, at this address, and where the recipe has it: a mentor's own first.

    Args:
        name: of the model's stage; "" of a model of no run.
    """
    from limbeck.lm.endpoints import EndpointSettings
    from limbeck.recipe import checked

    place, found = "exam.endpoint", recipe.exam.endpoint
    role, _, mentor = name.partition("/")
    if role == "mentors" and mentor in recipe.mentors and recipe.mentors[mentor].endpoint is not None:
        place, found = f"mentors.{mentor}.endpoint", recipe.mentors[mentor].endpoint
    kind, known = EndpointSettings, dict[str, Any]()
    if found is not None:
        kind, known = type(found), found.model_dump(mode="json")
    return place, checked(kind, {**known, "base_url": address}, "--endpoint: ")


def _served_as(place: str, server: EndpointSettings, own: str, stage: Mapping[str, Any]) -> str:
    """The name under which a server has a model, as its run would ask for it.

    Args:
        place: of the server's settings in the recipe.
        stage: what the model's stage says of itself; {} of a model of no run.

    Raises:
        InputError: the name holds what only a model of a run has.
    """
    from limbeck.stages.learners import MARK

    if {"name", "id"} <= stage.keys():
        return server.named(str(Path(own).resolve()), stage["name"], stage["id"][:MARK])
    if "{place}" in server.model or "{mark}" in server.model:
        raise InputError(
            f"--endpoint: {place}.model is {server.model}, and {own} is no model of a run; give its "
            "name there with --endpoint-model"
        )
    return server.named(own, "", "")


def _refuse_taken(out: Path, *, replace: bool) -> None:
    """Leave alone what is part of a run or not ours, and a finished exam unless it may be replaced."""
    from limbeck.exam import LOG

    inside = [folder for folder in (out, *out.resolve().parents) if (folder / "run.lock").exists()]
    there = [one.name for one in out.iterdir()] if out.is_dir() else []
    ours = any(name == "metrics.json" or name.startswith(LOG) for name in there)  # an exam, or a killed one
    if inside or out.is_file() or (there and not ours):
        raise InputError(f"{out}: is part of a run or holds other files; name a new folder with --out")
    if "metrics.json" in there and not replace:
        raise InputError(f"{out}: holds a finished exam; name a new folder with --out, or add --replace")


def compare(*runs: Path | str, baseline: str | None = None) -> list[dict[str, Any]]:
    """Paired comparisons of runs on the same problems, one row per pair.

    Args:
        runs: run, student or exam folders.
        baseline: pair all others with this one only.
    """
    from limbeck import report

    return report.comparison_rows(report.compare(report.contestants([Path(one) for one in runs]), baseline))


def claims(
    recipe: Path | str,
    overrides: Sequence[str] = (),
    *,
    out: Path | str | None = None,
    processes: int | None = None,
) -> Path:
    """Run the protocol of a recipe's `claims:`, or what of it is left, and judge every claim.

    Args:
        recipe: a YAML file; with the first call it becomes a protocol, which does not change any more.
        out: the protocol's folder; `runs/<recipe name>-claims` when None.
        processes: runs side by side, in place of the recipe's number.

    Returns:
        The protocol's folder; `claims.json` in it has the verdicts (none of an exploratory one), `claims.txt`
        the table.
    """
    from limbeck.files import whole_file
    from limbeck.methods import resolve_methods
    from limbeck.protocol.judging import judge, plain
    from limbeck.protocol.table import text
    from limbeck.protocol.workers import locked, run_all
    from limbeck.protocol.written import open_protocol
    from limbeck.recipe import load_recipe
    from limbeck.records import write_json

    if processes is not None and processes < 1:
        raise InputError(f"--processes {processes}: must be 1 or more")
    path = Path(recipe)
    resolved, chosen = resolve_methods(load_recipe(path, overrides), str(path), path.parent)
    folder = Path(out or Path("runs") / f"{resolved.name}-claims")
    protocol = open_protocol(folder, resolved, str(path), chosen)
    with locked(folder):
        run_all(protocol, processes or protocol.claims.processes, to_stderr)
        standings, found = judge(protocol)
        write_json(folder / "claims.json", plain(protocol, standings, found))
        with whole_file(folder / "claims.txt") as stream:
            stream.write(text(protocol.claims, standings, found))
    return folder


def extract(kind: AnswerKind, text: str, options: Sequence[str] = ()) -> str | None:
    """The answer of a text, in canonical form: as it states it, or as its kind's fallback guesses; else None.

    It takes time in proportion to the text. docs/data.md lists what counts as a statement. Of a text with
    `<think>` tags only what follows the last closing one is read.

    Args:
        kind: number, choice, yes-no, text, label or math.
        text: what a model wrote.
        options: of kind choice, or the labels of kind label.

    Raises:
        InputError: there is no such kind, no labels, or more options than letters; text is not a string, or
            options is not a list of strings.
    """
    from limbeck.lm.written import apart
    from limbeck.tasks.answers import KINDS
    from limbeck.tasks.answers import extract as extract_answer
    from limbeck.tasks.options import LETTERS

    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"kind: no kind {kind!r}; choose one of {', '.join(KINDS)}")
    if not isinstance(text, str):
        raise InputError(
            f"text: it must be a string, not {type(text).__name__}; decode bytes, leave out None"
        )
    if not isinstance(options, Sequence) or isinstance(options, str | bytes):
        raise InputError(f"options: give a list of strings, not {type(options).__name__}")
    if odd := [one for one in options if not isinstance(one, str)]:
        raise InputError(f"options: give a list of strings; {odd[0]!r} is {type(odd[0]).__name__}")
    if kind == "choice" and len(options) > len(LETTERS):
        raise InputError(f"options: there are {len(options)}, and {len(LETTERS)} letters; give fewer")
    if kind == "label" and not options:
        raise InputError("options: kind label needs its labels; give options=[...]")
    _, answer = apart(text)
    return extract_answer(kind, answer, options).answer


def convert(model: Path | str, out: Path | str) -> Path:
    """An ordinary model folder of one with weights in `.bin` or `.pth`, or of a GGUF file; no code is run.

    Llama and Mistral are also read as their authors publish them (`params.json`, `consolidated.*.pth`).

    Args:
        model: a folder, a GGUF file, or a model's name on the hub.
        out: the new folder.

    Raises:
        InputError: `out` is there already, or there are no weights to convert.
    """
    from limbeck.lm.names import is_gguf
    from limbeck.lm.original import convert_original, is_original
    from limbeck.lm.pickles import convert as convert_folder
    from limbeck.lm.pickles import downloaded

    _refuse_filled(Path(out))
    folder = Path(model).expanduser()
    if is_gguf(str(model)):
        from limbeck.lm.gguf import convert as convert_file

        convert_file(folder, Path(out))
        return Path(out)
    folder = folder if folder.is_dir() else downloaded(str(model))
    (convert_original if is_original(folder) else convert_folder)(folder, Path(out))
    return Path(out)


def index(
    corpus: Sequence[Path | str],
    out: Path | str,
    overrides: Sequence[str] = (),
    *,
    columns: Mapping[str, str] | None = None,
    shard: int | None = None,
    milvus: str = "",
) -> Built:
    """Make a corpus searchable; goes on with an index that was begun.

    Args:
        corpus: its files, in order.
        out: the folder of the index.
        overrides: `name=value` texts for `knowledge.settings.IndexSettings`.
        columns: what `knowledge.settings.CorpusSettings` says.
        shard: passages of a shard; the usual number when None.
        milvus: see `knowledge.settings.EngineSettings`.

    Raises:
        RecipeError: a setting is unknown or wrong; others: see `knowledge.building.build` and
            `knowledge.milvus.move`.
    """
    from limbeck.knowledge.building import SHARD, build
    from limbeck.knowledge.settings import CorpusSettings, EngineSettings, IndexSettings
    from limbeck.recipe import checked

    engine = checked(EngineSettings, {"milvus": milvus}, "--")
    if engine.milvus:
        from limbeck.knowledge.milvus import library, move

        library()  # before hours of building
    built = build(
        [str(path) for path in corpus],
        Path(out),
        checked(IndexSettings, {}, "--set ", overrides),
        checked(CorpusSettings, columns or {}, "--"),
        shard=shard or SHARD,
        track=live_track(),
    )
    return move(built.folder, engine.milvus, live_track()) if engine.milvus else built


def _refuse_filled(folder: Path) -> None:
    if folder.exists() and (folder.is_file() or any(folder.iterdir()) or folder.samefile(Path.cwd())):
        raise InputError(f"{folder}: is there already; name a new folder with --out")


def export(model: Path | str, out: Path | str) -> Path:
    """An ordinary model folder from a student's: an adapter is merged into its base.

    Raises:
        InputError: `out` is there already.
        DamagedError: the model belongs to a run and changed since it was written.
    """
    from limbeck import ranks, sealed
    from limbeck.knowledge.reading import elsewhere
    from limbeck.lm.saving import export as export_folder

    folder = Path(out)
    sealed.check(Path(model_folder(str(model))))
    if ranks.main():
        _refuse_filled(folder)
    source = Path(model_folder(str(model)))
    export_folder(source, folder, about=partial(elsewhere, source=source))
    return folder
