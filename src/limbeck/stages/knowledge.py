"""The stages of knowledge: the index of a corpus, and the passages that support rationales.

knowledge/             the index, where the recipe names a corpus
silver/QUERY/          silver.jsonl: the passages of each rationale (KARD, arXiv 2305.18395)
                       asked.jsonl: what the questions find; texts.jsonl: the passages themselves
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from limbeck.errors import RecipeError
from limbeck.knowledge.reading import texts
from limbeck.knowledge.settings import BUILT_IN, CorpusSettings
from limbeck.knowledge.silver import QUERIES, about_silver, silver
from limbeck.places import Places, key_of
from limbeck.recipe import KnowledgeSettings, Recipe
from limbeck.records import (
    Found,
    Passage,
    Problem,
    Rationale,
    Record,
    Records,
    Silver,
    SilverQuery,
    write_json,
    write_jsonl,
    write_records,
)
from limbeck.run_folder import Stage, plan
from limbeck.sequences import ById, Made, Part
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
    """The passages of rationales, which are read when they are looked at.

    `places` says where those of a rationale are, by what they were found with: a file of rationales may hold
    one source and index twice.
    """

    stage: Stage
    silver: Sequence[Silver]
    places: Places

    def of(self, rationale: Rationale) -> tuple[str, ...]:
        """The passages of a rationale, best first."""
        place = self.places.get(_key(rationale))
        if place is None:
            raise KeyError(rationale.problem_id)
        return self.silver[place].passages


def _key(rationale: Rationale) -> bytes:
    return key_of(rationale.problem_id, rationale.source, str(rationale.index), rationale.reasoning)


def silver_passages(
    context: Context, base: Knowledge, split: Split, query: SilverQuery = "rationale"
) -> Supported:
    """The passages that support each kept rationale of a split, by what is searched with."""
    return once(context, f"silver {split} {query}", lambda: _silver_passages(context, base, split, query))


def _silver_passages(context: Context, base: Knowledge, split: Split, query: SilverQuery) -> Supported:
    given, asked = rationales(context, split), problems(context).of(split)
    kept = given.kept

    def work(folder: Path) -> None:
        search = base.search()
        found = write_records(
            folder / "silver.jsonl", silver(search, asked, kept, k=SILVER, query=query), Silver
        )
        questions, firsts = _questions(kept)
        by_question = silver(search, asked, Part(kept, firsts), k=STORED, query="question")
        others = write_records(folder / "asked.jsonl", map(_asked, by_question), Found)
        both = chain((one.passages for one in found), (one.passages for one in others))
        write_texts(folder, base, both)
        said = about_silver(Made(found, _first), Part(Made(others, _first), questions))
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
    places = Places()
    for number, one in enumerate(kept):
        places.put(_key(one), number)
    return Supported(stage, Records(stage.folder / "silver.jsonl", Silver), places)


def _questions(kept: Sequence[Rationale]) -> tuple[array[int], array[int]]:
    """The number of each rationale's question, by their first rationales; and where these stand."""
    numbers, questions, firsts = Places(), array("Q"), array("Q")
    for place, one in enumerate(kept):
        questions.append(numbers.number(key_of(one.problem_id)))
        if questions[-1] == len(firsts):
            firsts.append(place)
    return questions, firsts


def _asked(one: Silver) -> Found:
    """What a question found, whichever rationale it was asked for."""
    return Found(problem_id=one.problem_id, passages=one.passages, scores=one.scores)


def found_for(problem: Problem, hits: Sequence[Hit]) -> Found:
    """What a problem's question found."""
    found, scores = tuple(hit.passage for hit in hits), tuple(hit.score for hit in hits)
    return Found(problem_id=problem.id, passages=found, scores=scores)


def write_texts(folder: Path, base: Knowledge, found: Iterable[Sequence[str]]) -> None:
    """The first passages of each list, so that neither prompts nor the report need the index again."""
    write_jsonl(folder / TEXTS, _texts(base.search(), found))


def _texts(search: Search, found: Iterable[Sequence[str]]) -> Iterator[Passage]:
    seen = Places()
    names = (name for own in found for name in own[:KEPT] if seen.add(key_of(name)))
    while some := list(islice(names, QUERIES)):
        yield from search.passages(some)


def read_texts(
    stage: Stage, base: Knowledge, found: Sequence[Sequence[str]], most: int
) -> Sequence[tuple[str, ...]]:
    """The first passages of each list that a stage found, as prompts hold them; read when looked at."""
    there = ById(Records(stage.folder / TEXTS, Passage))

    def held(names: Sequence[str]) -> tuple[str, ...]:
        known = [one for name in names[:most] if (one := there.get(name))]
        (own,) = texts(lambda ids: base.search().passages(ids), [names], most, known)
        return own

    return Made(found, held)


R = TypeVar("R", Silver, Found)


def _first(one: R) -> R:
    """The same with the best passage alone."""
    return one.model_copy(update={"passages": one.passages[:1], "scores": one.scores[:1]})
