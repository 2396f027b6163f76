"""What a saved student reads: which index, found by whom, how many passages; and those of a question.

Its `limbeck.json` says it, so that `ask` and `evaluate` put together the prompts of its training. Where the
index is not there, or is another one, the student is refused and not asked without.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, ModelError
from limbeck.knowledge.search import Search
from limbeck.knowledge.silver import asked
from limbeck.progress import SILENT, Track
from limbeck.records import Passage, Problem
from limbeck.sealed import check
from limbeck.tasks.asking import ABOUT, KNOWLEDGE, about_model


@dataclass(frozen=True, slots=True)
class Reading:
    """What `limbeck.json` says under `knowledge`.

    Attributes:
        index: the folder; a path within a run begins at the model's folder.
        fingerprint: of the index that the student was trained with.
        passages: in a prompt.
        reranker: its folder, as that of the index; "": none.
        candidates: how many passages it ranks.
    """

    index: str
    fingerprint: str
    passages: int
    reranker: str = ""
    candidates: int = 100

    def json(self) -> dict[str, Any]:
        """As `limbeck.json` keeps it."""
        return {KNOWLEDGE: asdict(self)}


def reading_of(model: str | Path) -> Reading | None:
    """What a model folder says that its student reads; None: nothing.

    Raises:
        DamagedError: the folder belongs to a run and changed since it was written.
        ModelError: it needs knowledge and does not say which.
    """
    check(Path(model))
    about = about_model(model)
    if KNOWLEDGE not in about.get("needs", ()):
        return None
    said: Any = about.get(KNOWLEDGE)
    try:
        first = str(said["index"]), str(said["fingerprint"]), int(said["passages"])
        return Reading(*first, str(said["reranker"]), int(said["candidates"]))
    except (TypeError, KeyError, ValueError):
        raise ModelError(
            f"{Path(model) / ABOUT}: needs knowledge, and does not say which; train it again"
        ) from None


def _ranker(model: str | Path, reading: Reading, reranker: str | None) -> Path | None:
    """The folder of what ranks a student's passages; None: nothing does.

    Args:
        reranker: the folder of another one, or "none".

    Raises:
        InputError: it is not there. DamagedError: it changed since it was written.
    """
    wanted = _inside(model, reading.reranker) if reranker is None and reading.reranker else reranker
    if wanted in (None, "none"):
        return None
    folder = Path(str(wanted)).expanduser()
    if not folder.is_dir() and reranker is not None:
        raise InputError(f"--reranker {reranker}: no such folder; name one of a reranker, or none")
    if not folder.is_dir():
        raise InputError(
            f"{model}: this student's passages are ranked by {folder}, which is not there; name its reranker "
            "with --reranker FOLDER, or none"
        )
    check(folder)
    return folder


def elsewhere(about: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """What `limbeck.json` says, for a copy of the model's folder in another place: with whole paths."""
    said: Any = about.get(KNOWLEDGE)
    if not isinstance(said, dict):
        return dict(about)
    places = {
        name: str(_inside(source.resolve(), said[name])) for name in ("index", "reranker") if said.get(name)
    }
    return {**about, KNOWLEDGE: said | places}


def _inside(model: str | Path, place: str) -> Path:
    """A folder that a model's folder names from where it is."""
    return Path(os.path.normpath(Path(model) / place))


def _index(model: str | Path, reading: Reading, other: str | None) -> Search:
    from limbeck.knowledge import engines

    if other is not None:
        return engines.opened(Path(other).expanduser())
    folder = _inside(model, reading.index)
    if not folder.is_dir():
        raise InputError(
            f"{model}: this student reads passages of {folder}, which is not there; name its index with "
            "--knowledge FOLDER"
        )
    index = engines.opened(folder)
    if index.fingerprint != reading.fingerprint:
        raise InputError(
            f"{model}: this student was trained with another index than the one in {folder}; name one with "
            "--knowledge FOLDER"
        )
    return index


def texts(
    passages: Callable[[Sequence[str]], Sequence[Passage]],
    found: Sequence[Sequence[str]],
    most: int,
    there: Iterable[Passage] = (),
) -> list[tuple[str, ...]]:
    """The first passages of each list of ids, as prompts hold them.

    Args:
        passages: looks up passages by their ids; not asked where none is missing.
        there: passages that need not be looked up.
    """
    known = {one.id: shown(one) for one in there}
    missing = [name for name in dict.fromkeys(_firsts(found, most)) if name not in known]
    if missing:
        known |= zip(missing, map(shown, passages(missing)), strict=True)
    return [tuple(known[name] for name in names[:most]) for names in found]


def _firsts(found: Sequence[Sequence[str]], most: int) -> Iterable[str]:
    return (name for names in found for name in names[:most])


def shown(passage: Passage) -> str:
    """A passage as a prompt holds it: its title, then its text, in one line."""
    title, text = (" ".join(part.split()) for part in (passage.title, passage.text))
    return ": ".join(filter(None, (title, text)))


def passages_of(search: Search, problems: Iterable[Problem], most: int) -> Mapping[str, tuple[str, ...]]:
    """The passages that each question finds, as prompts hold them, by the problem's id."""
    some = list(problems)
    hits = search.search([asked(problem) for problem in some], most)
    found = texts(search.passages, [[hit.passage for hit in own] for own in hits], most)
    return {problem.id: own for problem, own in zip(some, found, strict=True)}


def read_for(
    model: str | Path,
    problems: Iterable[Problem],
    other: str | None = None,
    reranker: str | None = None,
    *,
    states: str | Path | None = None,
    device: str = "auto",
    track: Track = SILENT,
) -> Mapping[str, tuple[str, ...]] | None:
    """The passages of problems for a saved student; None: it reads none.

    Args:
        model: its folder.
        other: the folder of the same or of another index, which the user names.
        reranker: the folder of another reranker, or "none".
        states: a folder that keeps the states of passages, so that the next command encodes none of them
            again; None: they are thrown away.
        device: of the reranker; it encodes every passage once, whatever the number of problems.

    Raises:
        InputError: its index or reranker is not there; one is named and the student reads none; or `states`
            has those of another reranker or index.
    """
    reading = reading_of(model)
    if reading is None:
        for name, given in (("--knowledge", other), ("--reranker", reranker), ("--states", states)):
            if given is not None:
                raise InputError(f"{name}: {model} reads no passages; leave it out")
        return None
    index, ranker, some = _index(model, reading, other), _ranker(model, reading, reranker), list(problems)
    if ranker is None and states is not None:
        raise InputError(f"{model}: no reranker is used here; leave out --states")
    if ranker is None:
        return passages_of(index, some, reading.passages)
    from limbeck.knowledge.encoders import load_encoder
    from limbeck.knowledge.rerank import ranked_for
    from limbeck.knowledge.states import Kept

    encoder, questions = load_encoder(ranker, device=device), [asked(problem) for problem in some]
    with tempfile.TemporaryDirectory() as folder:
        kept = Kept(Path(states or folder).expanduser(), encoder, index, bits=None)
        search = ranked_for(questions, index, kept, reading.candidates, track)
        return passages_of(search, some, reading.passages)
