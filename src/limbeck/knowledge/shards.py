"""Some passages and where each word occurs in them: a folder that is there whole, or not at all.

    passages.jsonl        [id, title, text, document] of each passage (with passages.jsonl.npy: `texts.py`)
    ids.hashes.npy        a hash of each id, sorted
    ids.places.npy        and which passage it is of
    vocab.index.json      the shard's words, sorted, with their numbers
    indptr.csc.index.npy  where in the next two files each word's passages begin, and the last one's end
    indices.csc.index.npy the passages that a word is in, ascending
    counts.npy            how often it occurs in each, until its weight is known
    lengths.npy           words of each passage, until then
    shard.json            how many documents and passages, and what was read up to here

Weighing (`building.py`) adds, by the statistics of all shards,

    data.csc.index.npy    the weight of each occurrence, float32
    terms.npy             the number that each word of the shard has in the whole index
    params.index.json     what bm25s needs to open the folder as an index of its own
    (nonoccurrence_array.index.npy    with bm25l and bm25+, as well)

So each shard is an ordinary index of bm25s, whose scores are those of the whole corpus.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.files import whole_binary_file, whole_file
from limbeck.knowledge.texts import Texts, TextsWriter
from limbeck.knowledge.words import Counted, Words
from limbeck.records import Passage, write_json

BATCH = 5_000
"""Passages whose words are read at once."""

PASSAGES, VOCABULARY, ABOUT = "passages.jsonl", "vocab.index.json", "shard.json"
HASHES, PLACES = "ids.hashes.npy", "ids.places.npy"
STARTS, OWNERS, WEIGHTS = "indptr.csc.index.npy", "indices.csc.index.npy", "data.csc.index.npy"
COUNTS, LENGTHS, TERMS = "counts.npy", "lengths.npy", "terms.npy"
ABSENT, PARAMETERS = "nonoccurrence_array.index.npy", "params.index.json"


def hashes(ids: list[str]) -> NDArray[np.uint64]:
    """64 bits of each id."""
    digests = b"".join(hashlib.blake2b(one.encode(), digest_size=8).digest() for one in ids)
    return np.frombuffer(digests, np.uint64)


def searched(passage: Passage) -> str:
    """The text whose words find a passage."""
    return f"{passage.title} {passage.text}".strip()


class ShardWriter:
    """Takes passages one by one, whose texts are written at once; `end` writes all else into the folder."""

    def __init__(self, folder: Path, words: Words, texts: TextsWriter) -> None:
        self._folder = folder
        self._words = words
        self._texts = texts
        self._vocabulary: dict[str, int] = {}
        self._waiting: list[str] = []
        self._counted: list[Counted] = []
        self.ids: list[str] = []

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, passage: Passage) -> None:
        """Append a passage."""
        line = [passage.id, passage.title, passage.text, passage.document]
        self._texts.add(json.dumps(line, ensure_ascii=False))
        self.ids.append(passage.id)
        self._waiting.append(searched(passage))
        if len(self._waiting) == BATCH:
            self._count()

    def _count(self) -> None:
        counted = self._words.count(self._waiting, self._vocabulary)
        first = np.int32(len(self.ids) - len(self._waiting))
        self._counted.append(counted._replace(texts=counted.texts + first))
        self._waiting = []

    def end(self, **about: object) -> None:
        """Write everything but the weights; `about` goes into shard.json."""
        self._count()
        found = hashes(self.ids)
        order = np.argsort(found, kind="stable")
        save(self._folder / HASHES, found[order])
        save(self._folder / PLACES, order.astype(np.int32))
        words = sorted(self._vocabulary)
        with whole_file(self._folder / VOCABULARY) as stream:
            stream.write(json.dumps({word: number for number, word in enumerate(words)}, ensure_ascii=False))
        self._write_occurrences(words)
        length = sum(int(one.lengths.sum()) for one in self._counted)
        write_json(self._folder / ABOUT, {"passages": len(self.ids), "words": length, **about})

    def _write_occurrences(self, words: list[str]) -> None:
        """By word, and by passage within each: stable, so the order of passages is kept."""
        rank = np.empty(len(words), np.int32)
        rank[[self._vocabulary[word] for word in words]] = np.arange(len(words))
        which = rank[np.concatenate([one.words for one in self._counted])]
        order = np.argsort(which, kind="stable")
        starts = np.zeros(len(words) + 1, np.int64)
        np.cumsum(np.bincount(which, minlength=len(words)), out=starts[1:])
        save(self._folder / STARTS, starts)
        save(self._folder / OWNERS, np.concatenate([one.texts for one in self._counted])[order])
        save(self._folder / COUNTS, np.concatenate([one.counts for one in self._counted])[order])
        save(self._folder / LENGTHS, np.concatenate([one.lengths for one in self._counted]))


def save(path: Path, array: NDArray[Any]) -> None:
    """Write an array, whole or not at all."""
    with whole_binary_file(path) as stream:
        np.save(stream, array)


def mapped(path: Path) -> NDArray[Any]:
    """An array on the disk, of which only what is used is read."""
    return np.asarray(np.load(path, mmap_mode="r"))  # without the subclass, whose slices are slow


_DECODER = json.JSONDecoder()


class Passages:
    """The passages of a shard, read from the disk one by one."""

    def __init__(self, folder: Path) -> None:
        self._texts = Texts(folder / PASSAGES)
        self._hashes, self._places = mapped(folder / HASHES), mapped(folder / PLACES)

    def __len__(self) -> int:
        return len(self._texts)

    def id(self, place: int) -> str:
        """A passage's id; the rest of its line is not read."""
        line = self._texts[place]
        name: str = _DECODER.raw_decode(line, 1)[0]
        return name

    def __getitem__(self, place: int) -> Passage:
        name, title, text, document = json.loads(self._texts[place])
        return Passage(id=name, title=title, text=text, document=document)

    def places(self, ids: list[str]) -> list[int]:
        """Where passages of these ids are; -1: not in this shard."""
        wanted = hashes(ids)
        found = np.searchsorted(self._hashes, wanted)
        return [
            self._place(start, number, name)
            for start, number, name in zip(found.tolist(), wanted.tolist(), ids, strict=True)
        ]

    def _place(self, start: int, number: int, name: str) -> int:
        while start < len(self._hashes) and self._hashes[start] == number:
            place = int(self._places[start])
            if self.id(place) == name:
                return place
            start += 1  # another id with the same hash
        return -1
