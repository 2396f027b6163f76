"""The stages of knowledge: the index of a corpus, and the passages that support rationales.

knowledge/             the index, where the recipe names a corpus
silver/QUERY/          silver.jsonl: the passages of each rationale (KARD, arXiv 2305.18395)
                       asked.jsonl: what the questions find; texts.jsonl: the passages themselves
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import RecipeError
from limbeck.knowledge.reading import texts
from limbeck.knowledge.settings import BUILT_IN, CorpusSettings
from limbeck.recipe import KnowledgeSettings, Recipe
from limbeck.records import (
    Found,
    Passage,
    Problem,
    Rationale,
    Record,
    Silver,
    SilverQuery,
    read_jsonl,
    write_json,
    write_jsonl,
)
from limbeck.run_folder import Stage, plan
from limbeck.stages.context import Context, once
from limbeck.stages.problems import SUFFIX, Split, problems
from limbeck.stages.rationales import rationales
from limbeck.tasks.asking import KNOWLEDGE
from limbeck.tasks.generated import built_in_task, settle_parameters
from limbeck.tasks.settings import GeneratedTask

if TYPE_CHECKING:
    from limbeck.knowledge.search import Hit, Search

INDEX_VERSION = 2
"""Raised by hand when this code makes another index of the same settings."""

VERSION = 2
"""Raised by hand when this code finds other passages for rationales with the same settings."""

SILVER = 10
"""Passages that are kept of each rationale; a prompt holds the first few of them."""


STORED = 100
"""Passages that are kept of each question; a prompt holds the first few of them."""

KEPT = 10
"""Passages of a question, or of a rationale, whose texts are kept: a prompt holds no more of them, so that
a stage that is done opens no index."""

TEXTS = "texts.jsonl"


@dataclass(frozen=True)
class Knowledge:
    """An index, opened when something is searched."""

    context: Context
    folder: Path
    fingerprint: str

    @property
    def inputs(self) -> dict[str, str]:
        """As an input of later stages."""
        return {KNOWLEDGE: self.fingerprint}

    def search(self) -> Search:
        """The engine."""

        def make() -> Search:
            from limbeck.knowledge.engines import opened

            return opened(self.folder)

        return once(self.context, f"search {self.folder}", make)

    @property
    def index(self) -> str:
        """The index's own fingerprint, whatever run it was made in; nothing is opened."""
        from limbeck.knowledge.building import built

        return built(self.folder).fingerprint


def knowledge(context: Context) -> Knowledge:
    """The recipe's knowledge: its index, built where the recipe names a corpus.

    Raises:
        RecipeError: the recipe names none.
    """
    return once(context, KNOWLEDGE, lambda: _knowledge(context))


def check_knowledge(recipe: Recipe, place: str) -> None:
    """Refuse a method that reads where the recipe has nothing to read.

    Args:
        place: opens the error's text.

    Raises:
        RecipeError: naming the setting.
    """
    task, settings = recipe.task, recipe.knowledge
    if settings is None:
        raise RecipeError(
            f"{place}.method: it reads passages, and the recipe names none; add `knowledge: {{corpus: FILE}}`"
        )
    if settings.corpus == (BUILT_IN,):
        known = isinstance(task, GeneratedTask) and built_in_task(task.name).corpus
        if not known:
            raise RecipeError("knowledge.corpus: built-in is that of task animals; name files of yours")


def _knowledge(context: Context) -> Knowledge:
    settings = context.recipe.knowledge
    assert settings is not None, "`check_knowledge` saw to it"
    from limbeck.knowledge.building import build, built

    if settings.index is not None:
        folder = Path(settings.index).expanduser()
        return Knowledge(context, folder, built(folder).fingerprint)
    of_task = settings.corpus == (BUILT_IN,)

    def work(folder: Path) -> None:
        files = list(map(_expanded, settings.corpus))
        columns = settings.columns
        if of_task:
            write_jsonl(folder / "corpus.jsonl", _built_in(context))
            files, columns = [str(folder / "corpus.jsonl")], CorpusSettings()
        made = build(files, folder / "index", settings.search, columns, track=context.track)
        if settings.engine.milvus:
            from limbeck.knowledge.milvus import move

            made = move(folder / "index", settings.engine.milvus, context.track)
        context.run.say(f"knowledge: {made.passages:,} passages of {made.documents:,} documents")

    inputs = dict(problems(context).inputs) if of_task else _files(settings.corpus)
    said = {"search": settings.search, "columns": settings.columns, "engine": settings.engine}
    how = plan(said, version=INDEX_VERSION, built_in=of_task)
    stage = context.run.stage(KNOWLEDGE, how, inputs, work)
    return Knowledge(context, stage.folder / "index", stage.fingerprint)


def _built_in(context: Context) -> Sequence[Record]:
    task = context.recipe.task
    assert isinstance(task, GeneratedTask)
    about = built_in_task(task.name)
    assert about.corpus is not None
    return list(about.corpus(settle_parameters(about, task.parameters)))


def knowledge_fingerprints(recipe: Recipe) -> dict[str, str]:
    """What the recipe's `knowledge` names, by its content; {}: nothing, or the corpus of the task.

    Raises:
        DataError, InputError: it is not there.
    """
    from limbeck.knowledge.building import built

    settings = recipe.knowledge
    if settings is not None and settings.engine.milvus:
        from limbeck.knowledge.milvus import library

        library()
    if settings is None or settings.corpus == (BUILT_IN,):
        return {}
    if settings.index is not None:
        return {"index": built(Path(settings.index).expanduser()).fingerprint}
    return _files(settings.corpus)


def check_there(settings: KnowledgeSettings) -> None:
    """Refuse files of a corpus that are not there, or a folder that is not an index; no corpus is read.

    Raises:
        DataError, InputError: naming it.
    """
    from limbeck.knowledge.building import built, corpus_file

    if settings.index is not None:
        built(Path(settings.index).expanduser())
    for path in settings.corpus:
        if path != BUILT_IN:
            corpus_file(_expanded(path))


def _expanded(path: str) -> str:
    """A file of a corpus with the user's folder written out; a data set of the hub stays."""
    return path if path.startswith("hf:") else str(Path(path).expanduser())


def _files(paths: Sequence[str]) -> dict[str, str]:
    """Files of a corpus as inputs."""
    from limbeck.knowledge.building import content

    return {f"corpus {number}": content(_expanded(path)) for number, path in enumerate(paths)}


@dataclass(frozen=True)
class Supported:
    """The passages of rationales, best first; by the rationale, since a file of them may count twice."""

    stage: Stage
    found: Mapping[Rationale, tuple[str, ...]]


def silver_passages(
    context: Context, base: Knowledge, split: Split, query: SilverQuery = "rationale"
) -> Supported:
    """The passages that support each kept rationale of a split, by what is searched with."""
    return once(context, f"silver {split} {query}", lambda: _silver_passages(context, base, split, query))


def _silver_passages(context: Context, base: Knowledge, split: Split, query: SilverQuery) -> Supported:
    from limbeck.knowledge.silver import about_silver, silver

    given, asked = rationales(context, split), problems(context).of(split)
    kept = [one for one in given.all if one.dropped is None]

    def work(folder: Path) -> None:
        found = silver(base.search(), asked, kept, k=SILVER, query=query)
        others = silver(base.search(), asked, kept, k=STORED, query="question")
        write_jsonl(folder / "silver.jsonl", found)
        by_question = {one.problem_id: one for one in others}
        write_jsonl(
            folder / "asked.jsonl",
            (
                Found(problem_id=one.problem_id, passages=one.passages, scores=one.scores)
                for one in by_question.values()
            ),
        )
        write_texts(folder, base, [one.passages for one in (*found, *by_question.values())])
        said = about_silver(_first(found), _first(others))
        write_json(folder / "audit.json", said)
        context.run.say(
            f"silver passages by {query}: {said['passages']:,} for {said['rationales']:,} rationales of "
            f"{said['questions']:,} questions, {said['without']:,} rationales have none; the question alone "
            f"ranks {said.get('with_others', 0.0):.0%} of them first"
        )

    place = f"silver/{query}{SUFFIX[split]}"
    stage = context.run.stage(
        place, plan({"query": query}, version=VERSION, k=SILVER), {**given.inputs, **base.inputs}, work
    )
    found = [one.passages for one in read_jsonl(stage.folder / "silver.jsonl", Silver)]
    return Supported(stage, dict(zip(kept, found, strict=True)))


def found_for(problem: Problem, hits: Sequence[Hit]) -> Found:
    """What a problem's question found."""
    found, scores = tuple(hit.passage for hit in hits), tuple(hit.score for hit in hits)
    return Found(problem_id=problem.id, passages=found, scores=scores)


def write_texts(folder: Path, base: Knowledge, found: Sequence[Sequence[str]]) -> None:
    """The first passages of each list, so that neither prompts nor the report need the index again."""
    ids = list(dict.fromkeys(name for names in found for name in names[:KEPT]))
    write_jsonl(folder / TEXTS, base.search().passages(ids))


def read_texts(
    stage: Stage, base: Knowledge, found: Sequence[Sequence[str]], most: int
) -> list[tuple[str, ...]]:
    """The first passages of each list that a stage found, as prompts hold them."""
    there = read_jsonl(stage.folder / TEXTS, Passage)
    return texts(lambda ids: base.search().passages(ids), found, most, there)


def _first(found: Sequence[Silver]) -> list[Silver]:
    """The same with the best passage alone."""
    return [one.model_copy(update={"passages": one.passages[:1], "scores": one.scores[:1]}) for one in found]
