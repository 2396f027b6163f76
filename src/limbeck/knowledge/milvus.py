"""Milvus as the engine: passages and the weights of their words lie on its server, and it answers.

    FOLDER/index.json     as of any index, and where its passages are
    FOLDER/vocabulary.txt, frequencies.npy    what queries are read with

An ordinary index is built first; `move` puts its passages into a collection and removes its shards. A passage
is stored as a sparse vector, word -> weight, with the weights of the whole corpus; a query is one too, word
-> how often it has it. Their inner product is BM25. So variant, k1, b, stop words and stemmer are those of
the index, and Milvus finds what it finds: in one file (Milvus Lite) or on a cluster, by the same client.

Milvus has a BM25 of its own. In Milvus Lite 3.2 that weighs words by the segment that a passage happens to be
in, and knows no stemmer, so it would find other passages than the cluster does.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from limbeck import sealed
from limbeck.errors import InputError
from limbeck.files import held
from limbeck.knowledge import building, shards
from limbeck.knowledge.building import Built, built, opened, shard_folders
from limbeck.knowledge.queries import Queries, Terms
from limbeck.knowledge.search import Hit
from limbeck.knowledge.settings import IndexSettings
from limbeck.knowledge.shards import Passages, mapped
from limbeck.progress import SILENT, Track
from limbeck.records import Passage
from limbeck.run_folder import fingerprint

VERSION = 1
"""Raised when the same index finds other passages in Milvus."""

TOKEN = "MILVUS_TOKEN"
"""Environment variable with USER:PASSWORD or an API key; it is in no file."""

ROWS = 250
"""Passages of a request; one of the longest takes 64 kB, and a server takes 64 MB."""

QUERIES = 64
"""Queries of a request."""

LONGEST = 65_535
"""Bytes of a text that Milvus stores."""

SECONDS = 30.0
"""How long a connection may take."""

QUIET = {"grpc.keepalive_permit_without_calls": 0, "grpc.keepalive_time_ms": 600_000}
"""While a student is trained nothing is asked; a server hangs up on a client that pings it all the time."""

TEXTS = ("id", "document", "title", "text")
VECTOR = "words"

Vector = Mapping[int, float]
"""Word number -> weight."""


def library() -> Any:
    """pymilvus, which logs every error before it raises it; quiet here.

    Raises:
        InputError: the extra `milvus` is not installed.
    """
    try:
        found = importlib.import_module("pymilvus")
    except ImportError as error:
        raise InputError(
            f"knowledge: an index in Milvus needs pymilvus ({error}); run pip install 'limbeck[milvus]'"
        ) from None
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return found


@contextmanager
def _explained(uri: str, doing: str) -> Iterator[None]:
    """What Milvus raises, as one sentence."""
    try:
        yield
    except library().MilvusException as error:
        said = " ".join(str(error.message).split())[:300]
        raise InputError(
            f"{uri}: Milvus failed at {doing} ({said}); check the address, {TOKEN}, and that no other "
            "process has the file open"
        ) from None


def connected(uri: str) -> Any:
    """A client: http://HOST:PORT of a server or a cluster, or a file that ends in .db (Milvus Lite).

    Raises:
        InputError: nobody answers; the extra is not installed.
    """
    client = library().MilvusClient
    with _explained(uri, "connecting"):
        return client(uri, token=os.environ.get(TOKEN, ""), timeout=SECONDS, grpc_options=QUIET)


def move(folder: Path, uri: str, track: Track = SILENT) -> Built:
    """Put the passages of a finished index into Milvus, and remove them here.

    Killed, it begins again when it is called again: a collection gets its name when it is complete. A
    collection of this index that is there already is taken.

    Raises:
        InputError: there is no index, it is in another Milvus, a text is too long, or Milvus does not answer.
    """
    with held(folder / building.LOCK, f"{folder}: another process builds this index; wait for it"):
        state = opened(folder)
        said = where(uri)
        if (there := state.get(building.MILVUS)) is not None:
            if there["uri"] != said:
                raise InputError(
                    f"{folder}: its passages are in {there['uri']}; name another folder with --out"
                )
            return built(folder, kept=True)
        name = f"limbeck_{state['fingerprint'][:32]}"
        client = connected(said)
        with _explained(said, "storing passages"):
            if not client.has_collection(name):
                _fill(client, name, folder, state, track)
        client.close()
        small = {one: size for one, size in state["files"].items() if not one.startswith(building.SHARDS)}
        state |= {
            "fingerprint": fingerprint([state["fingerprint"], building.MILVUS, VERSION]),
            building.MILVUS: {"uri": said, "collection": name},
            "files": small,
            "sha256": {one: state["sha256"][one] for one in small},
        }
        sealed.write(folder / building.STATE, {key: value for key, value in state.items() if key != "seal"})
        shutil.rmtree(folder / building.SHARDS)
        return built(folder)


def where(uri: str) -> str:
    """The address as an index keeps it: of a file the whole path."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def _fill(client: Any, name: str, folder: Path, state: Mapping[str, Any], track: Track) -> None:
    """Make a collection; it has its name once it holds every passage."""
    partial = f"{name}_partial"
    if client.has_collection(partial):
        client.drop_collection(partial)
    index = client.prepare_index_params()
    index.add_index(VECTOR, index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection(partial, schema=_schema(client), index_params=index, consistency_level="Strong")
    rows, done = _rows(folder), 0
    with track("passages into Milvus", state["passages"]) as advance:
        while batch := list(islice(rows, ROWS)):
            client.insert(partial, batch)
            done += len(batch)
            advance(done)
    client.flush(partial)
    client.release_collection(partial)
    client.rename_collection(partial, name)


def _schema(client: Any) -> Any:
    kinds = library().DataType
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", kinds.VARCHAR, is_primary=True, max_length=32)
    schema.add_field("place", kinds.INT64)
    for one in TEXTS:
        schema.add_field(one, kinds.VARCHAR, max_length=LONGEST)
    schema.add_field(VECTOR, kinds.SPARSE_FLOAT_VECTOR)
    return schema


def key(name: str) -> str:
    """What a passage is found by: an id may hold any sign, and Milvus puts keys into an expression."""
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The passages of an index as Milvus stores them, in the order of the corpus."""
    place, nobodys = 0, len(mapped(folder / building.FREQUENCIES))
    for shard in shard_folders(folder):
        passages = Passages(shard)
        for number, vector in enumerate(_vectors(shard, len(passages))):
            one = passages[number]
            texts = {name: getattr(one, name) for name in TEXTS}
            for field, text in texts.items():
                if len(text.encode()) > LONGEST:
                    raise InputError(
                        f"passage {one.id[:80]!r}: its {field} has more than {LONGEST:,} bytes, which Milvus "
                        "does not store; cut passages with --set words=200"
                    )
            # No vector may be empty: a passage without any word that is searched has one that no query has.
            yield {"key": key(one.id), "place": place, **texts, VECTOR: vector or {nobodys: 1.0}}
            place += 1


def _vectors(shard: Path, passages: int) -> Iterator[Vector]:
    """The weights of each passage's words: the shard's, which are by word, turned around."""
    starts, owners, worth, terms = (
        mapped(shard / name) for name in (shards.STARTS, shards.OWNERS, shards.WEIGHTS, shards.TERMS)
    )
    which = np.repeat(terms, np.diff(starts))
    order = np.argsort(owners, kind="stable")
    ends = np.cumsum(np.bincount(owners, minlength=passages)).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        own = order[start:end]
        vector = dict(zip(which[own].tolist(), worth[own].tolist(), strict=True))
        yield {word: weight for word, weight in vector.items() if weight > 0}


class Milvus:
    """An index whose passages are in Milvus; a `Search`.

    Of equal scores the passage comes first that is first in the corpus, except at the k-th place, where
    Milvus chooses. Scores are those of `bm25.Index` up to the rounding of single precision.

    Args:
        folder: that `move` was used on.

    Raises:
        InputError: it is not there, Milvus does not answer, or the collection is not there or incomplete.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        state = opened(self.folder)
        if building.MILVUS not in state:
            raise InputError(f"{folder}: an ordinary index; open it with limbeck.knowledge.engines.opened")
        self.fingerprint: str = state["fingerprint"]
        self.uri, self._name = (str(state[building.MILVUS][one]) for one in ("uri", "collection"))
        self._queries = Queries(self.folder, IndexSettings(**state["plan"]["settings"]), state["passages"])
        if "://" not in self.uri and not Path(self.uri).exists():
            raise InputError(
                f"{self.folder}: its passages are in {self.uri}, which is not there; put it back"
            )
        self._client = connected(self.uri)
        with _explained(self.uri, "opening the collection"):
            there = self._client.has_collection(self._name)
            if there:
                self._client.load_collection(self._name)
                counted = self._client.query(self._name, filter="", output_fields=["count(*)"])
        found = int(counted[0]["count(*)"]) if there else 0
        if found != state["passages"]:
            raise InputError(
                f"{self.folder}: {self.uri} holds {found:,} of its {state['passages']:,} passages in "
                f"{self._name}; remove the folder and that collection, and run limbeck index again"
            )

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The k best passages for each query, best first; fewer where no others share a word with it."""
        if k < 1:
            raise ValueError("k is below 1")
        terms = self._queries.terms(queries)
        asked = [number for number, one in enumerate(terms) if len(one)]
        found: list[list[Hit]] = [[] for _ in terms]
        for first in range(0, len(asked), QUERIES):
            numbers = asked[first : first + QUERIES]
            for number, hits in zip(numbers, self._best([terms[one] for one in numbers], k), strict=True):
                found[number] = hits
        return found

    def _best(self, queries: Sequence[Terms], k: int) -> list[list[Hit]]:
        with _explained(self.uri, "a search"):
            found = self._client.search(
                self._name,
                data=[dict(_counted(one)) for one in queries],
                anns_field=VECTOR,
                limit=k,
                output_fields=["id", "place"],
                search_params={"metric_type": "IP"},
            )
        return [
            self._hits([(float(hit["distance"]), hit["entity"]) for hit in hits], self._queries.absent(terms))
            for terms, hits in zip(queries, found, strict=True)
        ]

    @staticmethod
    def _hits(found: Iterable[tuple[float, Mapping[str, Any]]], more: np.float32) -> list[Hit]:
        """Best first; of equal scores the first in the corpus."""
        ordered = sorted(found, key=lambda one: (-one[0], one[1]["place"]))
        return [Hit(about["id"], float(np.float32(score) + more)) for score, about in ordered if score > 0]

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        """The scores of the passages with the given ids, for each query its own list.

        Raises:
            InputError: there is no passage of an id.
        """
        terms, found = self._queries.terms(queries), []
        for first in range(0, len(terms), QUERIES):
            own, wanted = terms[first : first + QUERIES], passages[first : first + QUERIES]
            known = self._stored(dict.fromkeys(one for ids in wanted for one in ids), VECTOR)
            found += [
                self._score(query, [known[one] for one in ids])
                for query, ids in zip(own, wanted, strict=True)
            ]
        return found

    def _score(self, terms: Terms, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        more, counted = self._queries.absent(terms), _counted(terms)
        products = [sum(count * row[VECTOR].get(word, 0.0) for word, count in counted) for row in rows]
        return [float(np.float32(one) + more) for one in products]

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """The passages of these ids, in this order.

        Raises:
            InputError: there is no passage of an id.
        """
        known = self._stored(dict.fromkeys(ids), *TEXTS)
        return [Passage(**{one: known[name][one] for one in TEXTS}) for name in ids]

    def _stored(self, ids: Iterable[str], *fields: str) -> dict[str, Mapping[str, Any]]:
        """What is stored of passages, by their ids."""
        keys = {key(one): one for one in ids}
        found: dict[str, Mapping[str, Any]] = {}
        wanted = list(keys)
        for first in range(0, len(wanted), ROWS):
            with _explained(self.uri, "reading passages"):
                rows = self._client.get(
                    self._name, ids=wanted[first : first + ROWS], output_fields=["key", *fields]
                )
            found |= {keys[row["key"]]: row for row in rows}
        if missing := next((one for one in keys.values() if one not in found), None):
            raise InputError(f"{self.folder}: holds no passage {missing!r}; name the index it is from")
        return found


def _counted(terms: Terms) -> list[tuple[int, float]]:
    """How often a query has each of its words."""
    words, counts = np.unique(terms, return_counts=True)
    return list(zip(words.tolist(), counts.astype(float).tolist(), strict=True))
