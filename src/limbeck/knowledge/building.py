"""`limbeck index`: a corpus becomes an index that is searched from the disk.

    FOLDER/index.json       settings, corpus and files with their sums, sealed
    FOLDER/left-out.jsonl   rows that were skipped, if that was asked for
    FOLDER/vocabulary.txt   all words, sorted (with vocabulary.txt.npy)
    FOLDER/frequencies.npy  how many passages each is in
    FOLDER/shards/00000/    see `shards.py`

The corpus is read once: each shard is a folder that appears when it is whole. Then the words of all shards
are counted together, and each shard's occurrences are weighed by these counts: so the scores of an index do
not depend on its shards. A killed build reads over what its finished shards hold and goes on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from limbeck import sealed
from limbeck.errors import DataError, InputError
from limbeck.files import held, refuse_special, whole_folder
from limbeck.knowledge import shards, weights
from limbeck.knowledge.corpus import Corpus, Document
from limbeck.knowledge.settings import CorpusSettings, IndexSettings
from limbeck.knowledge.shards import ShardWriter, mapped, save
from limbeck.knowledge.splitting import split
from limbeck.knowledge.texts import TextsWriter
from limbeck.knowledge.words import Words, bm25s, stop_words
from limbeck.progress import SILENT, Track
from limbeck.records import LeftOut, read_jsonl, write_json, write_jsonl
from limbeck.run_folder import fingerprint, path_fingerprint, read_json
from limbeck.tasks.readers import locate

STATE, LOCK, SHARDS, LEFT_OUT = "index.json", "index.lock", "shards", "left-out.jsonl"
VOCABULARY, FREQUENCIES = "vocabulary.txt", "frequencies.npy"
MILVUS = "milvus"
"""In index.json where the passages went into Milvus: where they are (`milvus.py`)."""

VERSION = 2
"""Raised when the same corpus and settings give another index."""

SHARD = 500_000
"""Passages of a shard: about a gigabyte of memory while it is built."""

AT_ONCE = 1 << 20
"""Occurrences that are weighed at once."""


@dataclass(frozen=True, slots=True)
class Built:
    """What an index holds. `kept`: it was there already; `milvus`: where its passages are, or ""."""

    folder: Path
    fingerprint: str
    documents: int
    passages: int
    words: int
    left_out: int
    kept: bool = False
    milvus: str = ""


def build(
    paths: Sequence[str],
    folder: Path,
    settings: IndexSettings,
    columns: CorpusSettings | None = None,
    *,
    shard: int = SHARD,
    track: Track = SILENT,
) -> Built:
    """Make the index of a corpus; go on with one that was begun.

    Args:
        paths: files of the corpus, in order; see `tasks.readers`.
        folder: a new one, or one that this began.
        settings: what decides what is found.
        columns: what the columns of the corpus are called.
        shard: passages of a shard at least; no result depends on it.

    Raises:
        DataError: a row cannot be used, or an id is there twice; nothing is left in `folder`.
        InputError: `folder` holds something else. RunInUseError: another process builds there.
        DiskError: it cannot be written.
    """
    columns = columns or CorpusSettings()
    settings = settings.model_copy(update={"stop_words": stop_words(settings)})
    words = Words.of(settings)
    plan = _plan(paths, settings, columns)
    with _locked(folder):
        if _finished(folder, plan):
            return built(folder, kept=True)
        sealed.write(folder / STATE, {"state": "begun", "plan": plan})
        try:
            _read(Corpus(paths, columns), folder, settings, words, shard, track)
        except DataError:
            _clear(folder)
            raise
        _weigh(folder, settings, track)
        _finish(folder, plan)
        return built(folder)


def built(folder: Path, *, kept: bool = False) -> Built:
    """What a finished index says of itself.

    Raises:
        InputError: there is none, or it is damaged.
    """
    state = opened(folder)
    counts = {name: state[name] for name in ("documents", "passages", "words", "left_out")}
    moved = state.get(MILVUS, {}).get("uri", "")
    return Built(folder, state["fingerprint"], **counts, kept=kept, milvus=moved)


def opened(folder: Path, *, whole: bool = False) -> dict[str, Any]:
    """The `index.json` of a finished index whose files are all there.

    Args:
        whole: read every file, and refuse one that changed; otherwise their sizes are looked at.

    Raises:
        InputError: naming what is wrong.
    """
    state = sealed.read(folder / STATE)
    if state is None:
        raise InputError(f"{folder}: is not an index or is damaged; run `limbeck index` to make one")
    if state.get("state") != "done":
        raise InputError(f"{folder}: this index is unfinished; run the same `limbeck index` command again")
    if wrong := _damage(folder, state, whole=whole):
        raise InputError(f"{folder}: {wrong}; remove the folder and run limbeck index again")
    return state


def _damage(folder: Path, state: Mapping[str, Any], *, whole: bool) -> str:
    if whole:
        return sealed.damage(folder, state, "")
    return sealed.damage(folder, {"files": state["files"]})


def _plan(paths: Sequence[str], settings: IndexSettings, columns: CorpusSettings) -> dict[str, Any]:
    if not paths:
        raise InputError("CORPUS: no file is named; name one")
    return {
        "version": VERSION,
        "corpus": [content(path) for path in paths],
        "columns": columns.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
    }


def corpus_file(path: str) -> tuple[Path, str] | None:
    """The file or folder of a corpus, and the key in it; None: a data set of the hub.

    Raises:
        DataError: it is not there. InputError: it is a pipe or a device.
    """
    if path.startswith("hf:"):
        return None
    file, key = locate(path)
    refuse_special(file)
    if not file.exists():
        raise DataError(path[:200], "there is no such file; check the path")
    return file, key


def content(path: str) -> str:
    """What a file or folder of a corpus holds, as a sum; a data set of the hub is known by its name."""
    if (there := corpus_file(path)) is None:
        return path
    file, key = there
    return f"{path_fingerprint(file)}{f'#{key}' if key else ''}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a folder of something else is left alone."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name another folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LOCK).is_file():
        raise InputError(f"{folder}: holds other files and is not an index; name another folder with --out")
    with held(folder / LOCK, f"{folder}: another process builds this index; wait for it"):
        yield


def _finished(folder: Path, plan: Mapping[str, Any]) -> bool:
    """Whether the index is there; what was begun by another plan, or is damaged, is removed."""
    state = sealed.read(folder / STATE)
    same = state is not None and state.get("plan") == plan
    done = state is not None and state.get("state") == "done"
    if state and done and not same:
        raise InputError(
            f"{folder}: holds an index with {_difference(state['plan'], plan)}; name another folder with "
            "--out, or remove this one"
        )
    if state and done and not _damage(folder, state, whole=True):
        return True
    if done or not same:
        _clear(folder)
    return False


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which part of a plan changed, in words."""
    for part in ("settings", "columns"):
        for name, value in new[part].items():
            if (before := old[part].get(name)) != value:
                shown = f"{name} {before!r}" if not isinstance(before, list) else f"other {name}"
                return shown.replace("_", " ")
    return "another corpus" if old["corpus"] != new["corpus"] else "the format of another version"


def _clear(folder: Path) -> None:
    """Remove what a build makes."""
    shutil.rmtree(folder / SHARDS, ignore_errors=True)
    for name in (STATE, LEFT_OUT, VOCABULARY, f"{VOCABULARY}.npy", FREQUENCIES):
        (folder / name).unlink(missing_ok=True)


def shard_folders(folder: Path) -> list[Path]:
    """The whole shards of an index, in the order of the corpus."""
    return sorted(path for path in (folder / SHARDS).glob("[0-9]*") if path.is_dir())


def _read(
    corpus: Corpus, folder: Path, settings: IndexSettings, words: Words, size: int, track: Track
) -> None:
    """Read the corpus into shards, after those that are there."""
    documents = iter(corpus)
    content = hashlib.sha256()
    there = shard_folders(folder)
    with track("passages", 0) as advance:
        done = _read_over(there, documents, content, corpus, folder)
        advance(done)
        for number in range(len(there), 10**9):
            first = next(documents, None)
            if first is None:
                break
            place = folder / SHARDS / f"{number:05d}"
            with whole_folder(place) as partial, TextsWriter(partial / shards.PASSAGES) as texts:
                writer = ShardWriter(partial, words, texts)
                count = 0
                for document in chain([first], documents):
                    _take_in(document, content)
                    count += 1
                    for passage in split(document, settings.words, settings.overlap):
                        writer.add(passage)
                    advance(done + len(writer))
                    if len(writer) >= size:
                        break
                if name := _twice(writer.ids, shard_folders(folder)):
                    raise _named_twice(name, corpus, settings)
                writer.end(documents=count, content=content.hexdigest())
            done += len(writer)
    left_out = (LeftOut(split="corpus", place=one.place, why=one.message) for one in corpus.left_out)
    write_jsonl(folder / LEFT_OUT, left_out)


def _take_in(document: Document, content: Any) -> None:
    """Add a document to the sum of all so far."""
    content.update(json.dumps(document[:3], ensure_ascii=False).encode())


def _read_over(
    there: Sequence[Path], documents: Iterator[Document], content: Any, corpus: Corpus, folder: Path
) -> int:
    """Read the documents of shards that are there already; return how many passages they hold."""
    passages = 0
    for one in there:
        about = read_json(one / shards.ABOUT) or {}
        for document in islice(documents, about.get("documents", 0)):
            _take_in(document, content)
        if content.hexdigest() != about.get("content"):
            raise DataError(
                corpus.paths[0], f"is not what the index in {folder} was begun with; run the command again"
            )
        passages += about["passages"]
    return passages


def _twice(ids: list[str], before: Sequence[Path]) -> str:
    """An id that is there already, in this shard or one before; "" if all are new."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            return name
        seen.add(name)
    own = shards.hashes(ids)
    for one in before:
        common = np.isin(own, mapped(one / shards.HASHES))
        suspects = [ids[place] for place in np.flatnonzero(common).tolist()]
        if suspects:
            found = shards.Passages(one).places(suspects)
            for name, place in zip(suspects, found, strict=True):
                if place >= 0:
                    return name
    return ""


def _named_twice(name: str, corpus: Corpus, settings: IndexSettings) -> DataError:
    """The error of an id that two passages have; the corpus is read again to name both places."""
    places: list[str] = []
    for document in corpus:
        for passage in split(document, settings.words, settings.overlap):
            if passage.id == name:
                places.append(document.place)
                if len(places) == 2:
                    why = f"the id {name!r} is that of {places[0]} too; give every document its own"
                    return DataError(places[1], why)
    return DataError(corpus.paths[0], f"the id {name!r} is there twice; give every document its own")


def _weigh(folder: Path, settings: IndexSettings, track: Track) -> None:
    """Count the words of all shards together, then weigh every occurrence."""
    there = shard_folders(folder)
    frequencies: dict[str, int] = {}
    for one in there:
        counts = np.diff(mapped(one / shards.STARTS)).tolist()
        for word, count in zip(_words_of(one), counts, strict=True):
            frequencies[word] = frequencies.get(word, 0) + count
    about = [read_json(one / shards.ABOUT) or {} for one in there]
    passages, length = (sum(one[name] for one in about) for name in ("passages", "words"))
    ordered = sorted(frequencies)
    array = np.fromiter((frequencies[word] for word in ordered), np.int64, len(ordered))
    with TextsWriter(folder / VOCABULARY) as vocabulary:
        for word in ordered:
            vocabulary.add(word)
    save(folder / FREQUENCIES, array)
    number = {word: place for place, word in enumerate(ordered)}
    with track("shards weighed", len(there)) as advance:
        for done, one in enumerate(there):
            advance(done)
            if not (one / shards.PARAMETERS).is_file():
                terms = np.fromiter((number[word] for word in _words_of(one)), np.int32)
                _weigh_shard(one, settings, terms, array[terms], passages, length / passages or 1.0)
            for name in (shards.COUNTS, shards.LENGTHS):
                (one / name).unlink(missing_ok=True)


def _words_of(shard: Path) -> Mapping[str, int]:
    return read_json(shard / shards.VOCABULARY) or {}


def _weigh_shard(
    shard: Path, settings: IndexSettings, terms: Any, frequencies: Any, passages: int, mean: float
) -> None:
    """Write the weights of a shard, and last what says that they are there.

    Args:
        terms: the number that each word of the shard has in the index, (words,).
        frequencies: in how many passages of the index each of them is, (words,).
        mean: words of a passage.
    """
    starts, owners, counts, lengths = (
        mapped(shard / name) for name in (shards.STARTS, shards.OWNERS, shards.COUNTS, shards.LENGTHS)
    )
    rarity = weights.idf(settings.variant, frequencies, passages)
    absent = weights.absent(settings, frequencies, passages)
    found = np.empty(len(counts), np.float32)
    which = np.repeat(np.arange(len(terms), dtype=np.int32), np.diff(starts))
    for first in range(0, len(counts), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        worth = weights.tf(settings, counts[part], lengths[owners[part]] / mean)
        found[part] = rarity[which[part]] * worth - absent[which[part]]
    save(shard / shards.WEIGHTS, found)
    save(shard / shards.TERMS, terms)
    if absent.any():
        save(shard / shards.ABSENT, absent.astype(np.float32))
    parameters = {
        "k1": settings.k1,
        "b": settings.b,
        "delta": settings.delta,
        "method": settings.variant,
        "dtype": "float32",
        "int_dtype": "int32",
        "num_docs": len(lengths),
        "version": bm25s().__version__,
    }
    write_json(shard / shards.PARAMETERS, parameters)


def _finish(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write what the index is, and the sums of its files."""
    about = [read_json(one / shards.ABOUT) or {} for one in shard_folders(folder)]
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (STATE, LOCK) and path.name[0] != "."
    }
    corpus = about[-1]["content"]
    state = {
        "state": "done",
        "plan": plan,
        "fingerprint": fingerprint([VERSION, corpus, plan["settings"]]),
        "corpus": corpus,
        **{name: sum(one[name] for one in about) for name in ("documents", "passages", "words")},
        "left_out": sum(1 for _ in read_jsonl(folder / LEFT_OUT, LeftOut)),
        "files": files,
        "sha256": sealed.sums(folder, files),
    }
    sealed.write(folder / STATE, state)
