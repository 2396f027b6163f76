"""Building an index: shards are whole or not there, a killed build goes on, nothing half is used."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from limbeck.errors import DataError, InputError, RecipeError, RunInUseError
from limbeck.knowledge import building
from limbeck.knowledge.bm25 import Index
from limbeck.knowledge.building import build
from limbeck.knowledge.settings import CorpusSettings, IndexSettings
from tests.knowledge.corpora import documents, write

SETTINGS = IndexSettings(words=30, overlap=5)


def corpus(folder: Path, number: int = 60) -> str:
    return str(write(folder / "corpus.jsonl", documents(number)))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_index_says_what_it_is(tmp_path: Path) -> None:
    made = build([corpus(tmp_path)], tmp_path / "i", SETTINGS, shard=20)
    assert made.documents == 60 and made.passages > 100 and not made.kept
    again = build([corpus(tmp_path)], tmp_path / "i", SETTINGS, shard=20)
    assert again.kept and again.fingerprint == made.fingerprint
    assert not list((tmp_path / "i").rglob("counts.npy"))  # only needed until weighed


def test_the_fingerprint_is_that_of_what_is_found(tmp_path: Path) -> None:
    """Not of the format, the column names, the shards; but of every document and setting."""
    file = corpus(tmp_path)
    rows = documents(60)
    renamed = [{"_id": row["id"], "name": row["title"], "body": row["text"]} for row in rows]
    other = str(write(tmp_path / "other.jsonl", renamed))
    columns = CorpusSettings(id="_id", title="name", text="body")
    same = {
        build([file], tmp_path / "a", SETTINGS).fingerprint,
        build([file], tmp_path / "b", SETTINGS, shard=9).fingerprint,
        build([other], tmp_path / "c", SETTINGS, columns).fingerprint,
    }
    rows[5]["text"] += "."
    changed = str(write(tmp_path / "changed.jsonl", rows))
    different = [build([changed], tmp_path / "d", SETTINGS).fingerprint]
    for place, setting in enumerate(
        ({"k1": 1.2}, {"overlap": 4}, {"stemmer": "porter"}, {"stop_words": "none"})
    ):
        settings = SETTINGS.model_copy(update=setting)
        different.append(build([file], tmp_path / f"e{place}", settings).fingerprint)
    assert len(same) == 1 and len({*same, *different}) == 6


def _build(folder: Path, wait: float) -> None:
    """A build that is slow enough to be killed in its middle."""
    inner = building.ShardWriter.end

    def slow(self: building.ShardWriter, **about: object) -> None:
        inner(self, **about)
        time.sleep(wait)

    building.ShardWriter.end = slow  # type: ignore[method-assign]
    weigh = building._weigh_shard

    def slow_weigh(*given: object) -> None:
        weigh(*given)  # type: ignore[arg-type]
        time.sleep(wait)

    building._weigh_shard = slow_weigh
    build([str(folder / "corpus.jsonl")], folder / "killed", SETTINGS, shard=20)


@pytest.mark.parametrize("until", ["shards/00001", "shards/00002/params.index.json"])
def test_a_killed_build_goes_on_and_ends_the_same(tmp_path: Path, until: str) -> None:
    wanted = tmp_path / "whole"
    made = build([corpus(tmp_path)], wanted, SETTINGS, shard=20)
    process = multiprocessing.get_context("fork").Process(target=_build, args=(tmp_path, 0.3))
    process.start()
    place = tmp_path / "killed"
    end = time.monotonic() + 60
    while not (place / until).exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert (place / until).exists()
    with pytest.raises(InputError, match="this index is unfinished; run the same `limbeck index` command"):
        Index(place)
    kept = (place / "shards/00000/passages.jsonl").stat().st_mtime_ns
    again = build([corpus(tmp_path)], place, SETTINGS, shard=20)
    assert (place / "shards/00000/passages.jsonl").stat().st_mtime_ns == kept  # not made again
    assert again.fingerprint == made.fingerprint
    ours, theirs = contents(place), contents(wanted)
    assert ours == theirs


def test_what_was_begun_with_other_settings_begins_again(tmp_path: Path) -> None:
    file = corpus(tmp_path)
    begun = tmp_path / "i"
    build([file], begun, SETTINGS, shard=20)
    state = json.loads((begun / "index.json").read_text())
    building.sealed.write(begun / "index.json", {"state": "begun", "plan": state["plan"]})
    other = SETTINGS.model_copy(update={"words": 10})
    assert build([file], begun, other).fingerprint == build([file], tmp_path / "j", other).fingerprint


def test_a_finished_index_is_not_replaced(tmp_path: Path) -> None:
    build([corpus(tmp_path)], tmp_path / "i", SETTINGS)
    before = contents(tmp_path / "i")
    with pytest.raises(InputError, match=r"holds an index with k1 0.9; name another folder"):
        build([corpus(tmp_path)], tmp_path / "i", SETTINGS.model_copy(update={"k1": 1.5}))
    with pytest.raises(InputError, match=r"holds an index with another corpus"):
        build([corpus(tmp_path, 61)], tmp_path / "i", SETTINGS)
    assert contents(tmp_path / "i") == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="holds other files and is not an index"):
        build([corpus(tmp_path)], tmp_path / "mine", SETTINGS)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_two_builds_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    file = corpus(tmp_path)
    with building._locked(tmp_path / "i"), pytest.raises(RunInUseError, match="another process builds"):
        build([file], tmp_path / "i", SETTINGS)


@pytest.mark.parametrize("shard", [1, 3, 100])
def test_an_id_twice_is_refused_with_both_places(tmp_path: Path, shard: int) -> None:
    rows = [*documents(8), {"id": "d2", "text": "once more"}]
    file = write(tmp_path / "c.jsonl", rows)
    with pytest.raises(DataError, match=r"c.jsonl:9: the id 'd2' is that of .*c.jsonl:3 too"):
        build([str(file)], tmp_path / "i", IndexSettings(), shard=shard)
    assert not (tmp_path / "i" / "index.json").exists() and not (tmp_path / "i" / "shards").exists()


def test_ids_of_passages_must_differ_too(tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [{"id": "a", "text": "x y"}, {"id": "a#1", "text": "z"}])
    with pytest.raises(DataError, match=r"c.jsonl:2: the id 'a#1' is that of .*c.jsonl:1 too"):
        build([str(file)], tmp_path / "i", IndexSettings(words=1))


def test_bad_rows_leave_nothing_behind(tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [*documents(8), {"id": "x", "text": 5.5}])
    with pytest.raises(DataError, match=r"c.jsonl:9: "):
        build([str(file)], tmp_path / "i", IndexSettings(), shard=2)
    assert [path.name for path in (tmp_path / "i").iterdir()] == ["index.lock"]
    made = build([str(file)], tmp_path / "i", IndexSettings(), CorpusSettings(bad_rows="skip"))
    assert (made.documents, made.left_out) == (8, 1)
    assert "c.jsonl:9" in (tmp_path / "i" / "left-out.jsonl").read_text()


def test_damage_is_refused_and_built_again(tmp_path: Path) -> None:
    file = corpus(tmp_path)
    made = build([file], tmp_path / "i", SETTINGS, shard=20)
    weights = tmp_path / "i/shards/00001/data.csc.index.npy"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\0\0\0\0")
    Index(tmp_path / "i")  # sizes alone
    with pytest.raises(InputError, match=r"shards/00001/data.csc.index.npy is damaged"):
        Index(tmp_path / "i", whole=True)
    weights.unlink()
    with pytest.raises(InputError, match=r"shards/00001/data.csc.index.npy is missing"):
        Index(tmp_path / "i")
    again = build([file], tmp_path / "i", SETTINGS, shard=20)
    assert not again.kept and again.fingerprint == made.fingerprint and weights.read_bytes() == whole


def test_a_corpus_of_several_files_is_one(tmp_path: Path) -> None:
    rows = documents(60)
    first, second = write(tmp_path / "1.jsonl", rows[:25]), write(tmp_path / "2.jsonl", rows[25:])
    parts = build([str(first), str(second)], tmp_path / "i", SETTINGS)
    assert parts.fingerprint == build([corpus(tmp_path)], tmp_path / "j", SETTINGS).fingerprint


def test_passages_without_words_are_kept_and_never_found(tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", [{"id": "a", "text": "?"}, {"id": "b", "text": "!"}])
    build([str(file)], tmp_path / "i", IndexSettings())
    index = Index(tmp_path / "i")
    assert index.search(["owl", "?"], 3) == [[], []] and index.passages(["b"])[0].text == "!"


def test_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never come to an end"):
        IndexSettings(words=5, overlap=5)
    with pytest.raises(RecipeError, match="stemmer: there is no 'klingon'"):
        build([corpus(tmp_path)], tmp_path / "i", IndexSettings(stemmer="klingon"))
    with pytest.raises(DataError, match="there is no such file"):
        build([str(tmp_path / "none.jsonl")], tmp_path / "i", SETTINGS)
    assert not (tmp_path / "i").exists()
