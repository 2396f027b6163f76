"""Soft labels on disk: what is read back, what a kill leaves, and what is refused."""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limbeck.errors import DataError, DiskError, ModelError, RecipeError
from limbeck.soft_labels import cache as soft_cache
from limbeck.soft_labels import writing as soft_writing
from limbeck.soft_labels.cache import Cached, Volume, missing
from limbeck.soft_labels.live import Live
from limbeck.soft_labels.settings import CodecSettings
from limbeck.soft_labels.writing import write_cache
from limbeck.training.collate import collate, tokenise
from limbeck.training.groups import singles
from limbeck.training.rows import Row
from tests import label_writer
from tests.commands import Started, end_as_a_launcher, finish, ranks_of

BOTH = pytest.mark.parametrize("kind", ["llama", "t5"])
CODECS = {
    "full": CodecSettings(kind="full"),
    "top-k": CodecSettings(k=6),
    "top-64": CodecSettings(k=64),  # of 43 tokens: all of them
}
IDENTITY = {"mentor": "a" * 64, "tokenizer": "b" * 64}


@pytest.fixture
def rows_of(tokenizer, make_examples):
    def rows(kind, count=20, seed=0, **more):
        groups = singles(make_examples(count, seed))
        return tokenise(tokenizer, groups, encoder_decoder=kind == "t5", max_length=99, **more).rows

    return rows


@pytest.fixture
def mentor_of(make_model):
    def mentor(kind):
        model = make_model(kind, seed=8)
        model.resize_token_embeddings(50, mean_resizing=False)
        return model

    return mentor


def write(folder, mentor, rows, codec, **more):
    """A shard is two batches of one or two rows."""
    given = {"temperature": 2.0, "vocabulary": 43, "identity": IDENTITY, "batch_tokens": 40} | more
    write_cache(folder, mentor, rows, 0, CODECS.get(codec, codec), **given)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(soft_writing, "SHARD_BATCHES", 2)


def expected(codec, **more):
    given = {"temperature": 2.0, "vocabulary": 43, "identity": IDENTITY} | more
    return {"codec": CODECS.get(codec, codec), **given}


def dense(soft):
    p = soft.log_p_NK.exp()
    if soft.ids_NK is None:
        return p
    return torch.zeros(len(p), soft.vocabulary).scatter_add_(1, soft.ids_NK, p)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


@BOTH
@pytest.mark.parametrize("codec", CODECS)
def test_cached_is_live(rows_of, mentor_of, small_shards, tmp_path, kind, codec):
    """For any subset in any order, repeated rows and empty batches included."""
    mentor, rows = mentor_of(kind), rows_of(kind)
    write(tmp_path / "soft", mentor, rows, codec)
    cached = Cached.open([tmp_path / "soft"], expected(codec))
    live = Live(mentor, CODECS[codec], 2.0, 43)
    assert (cached.temperature, cached.vocabulary) == (2.0, 43)
    rounding = 1e-5 if codec in ("full", "top-64") else 1e-3
    for some in (rows, rows[::-1], rows[7:2:-2], [rows[3], rows[3]]):
        stored, asked = cached.of(collate(some, 0)), live.of(collate(some, 0))
        torch.testing.assert_close(dense(stored), dense(asked), rtol=rounding, atol=1e-6)
        assert stored.tail == asked.tail == (codec == "top-k")
        assert (stored.ids_NK is None) == (asked.ids_NK is None)
        assert stored.log_p_NK.dtype == torch.float32
        assert stored.log_p_NK.shape == asked.log_p_NK.shape
    empty = cached.of(collate([], 0))
    assert empty.log_p_NK.shape[0] == 0 and empty.vocabulary == 43


@pytest.mark.parametrize("vocabulary", [40_000, 66_000])
def test_high_ids_survive(tmp_path, vocabulary):
    """Beyond 15 bits, and beyond 16."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    mentor = LlamaForCausalLM(config)
    with torch.no_grad():
        mentor.lm_head.weight.mul_(300)
    codec = CodecSettings()
    rows = [Row("a", [5, 6, 39_999], [-100, 6, 39_999]), Row("b", [7] * 40, [7] * 40)]
    write(tmp_path, mentor, rows, codec, vocabulary=vocabulary)
    stored = Cached.open([tmp_path], expected(codec, vocabulary=vocabulary)).of(collate(rows, 0))
    asked = Live(mentor, codec, 2.0, vocabulary).of(collate(rows, 0))
    assert asked.ids_NK.max() > min(vocabulary, 1 << 16) - 5000
    torch.testing.assert_close(dense(stored), dense(asked), rtol=6e-3, atol=1e-6)
    assert stored.log_p_NK.exp().amax(1).min() > 0.02  # something is likely
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["precision"]["ids"] == ("uint16" if vocabulary == 40_000 else "int32")


def test_impossible_tokens_stay_finite(rows_of, mentor_of, tmp_path):
    """A log-probability below what 16 bits hold is the lowest that they do."""
    write(tmp_path, mentor_of("llama"), rows_of("llama"), "top-k", temperature=1e-6)
    soft = Cached.open([tmp_path], {}).of(collate(rows_of("llama"), 0))
    assert soft.log_p_NK.isfinite().all() and soft.log_p_NK.min() < -6e4


def test_the_manifest(rows_of, mentor_of, small_shards, tmp_path):
    rows = rows_of("llama")
    write(tmp_path, mentor_of("llama"), [*rows, *rows[:5]], "top-k")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    tokens = sum(label != -100 for row in rows for label in row.labels[1:])
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert {name: manifest[name] for name in ("format", "codec", "k", "temperature", "vocabulary")} == {
        "format": 2,
        "codec": "top-k",
        "k": 6,
        "temperature": 2.0,
        "vocabulary": 43,
    }
    assert manifest["identity"] == IDENTITY
    assert manifest["rows"] == 20 and manifest["tokens"] == tokens
    assert files["ids.bin"] == files["log_p.bin"] == tokens * 6 * 2
    assert manifest["bytes"] == sum(manifest["files"][name] for name in files if name in manifest["files"])
    assert manifest["bytes_per_token"] == round(manifest["bytes"] / tokens, 2)
    assert set(files) == {*manifest["files"], "manifest.json", "progress.jsonl"}


def test_the_order_of_the_rows_changes_no_byte(rows_of, mentor_of, small_shards, tmp_path):
    rows = rows_of("t5")
    for name, some in (("a", rows), ("b", [*rows[::-1], rows[2]])):
        write(tmp_path / name, mentor_of("t5"), some, "top-k")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_only_what_is_looked_at_is_read(rows_of, mentor_of, tmp_path):
    """The index is mapped. The data are not: their pages would count as the process's own memory."""
    rows = rows_of("llama")
    write(tmp_path, mentor_of("llama"), rows, "top-k")
    volume = Volume.open(tmp_path, {})
    for values in (volume.keys, volume.places):
        while isinstance(values.base, np.ndarray) and not isinstance(values, np.memmap):
            values = values.base
        assert isinstance(values, np.memmap) and values.mode == "r"
    Cached((volume,)).of(collate(rows, 0))
    maps = Path("/proc/self/maps")
    assert not maps.exists() or f"{tmp_path}/log_p.bin" not in maps.read_text()


def test_data_that_are_cut_off_while_they_are_read_are_refused(rows_of, mentor_of, tmp_path):
    """A mapped file would end the process with a signal."""
    rows = rows_of("llama")
    write(tmp_path, mentor_of("llama"), rows, "top-k")
    labels = Cached.open([tmp_path], {})
    os.truncate(tmp_path / "log_p.bin", 10)
    with pytest.raises(DataError, match="cut off while they were read"):
        labels.of(collate(rows, 0))


class Kill(Exception):
    """Stands for a kill between two batches."""


def stop_at(call):
    calls = []

    def progress(done, note="", total=None):
        calls.append(done)
        if len(calls) == call + 1:  # the first tells where the work begins
            raise Kill

    return progress


@BOTH
@pytest.mark.parametrize("codec", ["top-k", "full"])
def test_killed_and_resumed_is_byte_for_byte_undisturbed(
    rows_of, mentor_of, small_shards, tmp_path, kind, codec
):
    """At every third batch in turn; then with half a shard and half a line left behind."""
    seen = []
    rows, mentor = rows_of(kind), mentor_of(kind)
    write(tmp_path / "whole", mentor, rows, codec, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {20} and seen[0] == (0, 20) and seen[-1] == (20, 20)
    assert len(seen) >= 10
    whole = contents(tmp_path / "whole")
    resumed = tmp_path / "resumed"
    kills = 0
    while True:
        try:
            write(resumed, mentor, rows, codec, progress=stop_at(3))
        except Kill:
            kills += 1
            assert not (resumed / "manifest.json").exists()
            with pytest.raises(DataError, match="there are no whole soft labels here"):
                Cached.open([resumed], {})
            with (resumed / "ids.bin" if codec != "full" else resumed / "log_p.bin").open("ab") as stream:
                stream.write(b"half a shard")
            with (resumed / "progress.jsonl").open("ab") as stream:
                stream.write(b'{"shard": 7, "batc')
        else:
            break
    assert kills >= 4
    assert contents(resumed) == whole
    before = (resumed / "manifest.json").stat().st_mtime_ns
    write(resumed, None, rows[::-1], codec)  # whole: the mentor is not asked
    assert (resumed / "manifest.json").stat().st_mtime_ns == before


def test_a_kill_before_the_manifest(rows_of, mentor_of, small_shards, tmp_path, monkeypatch):
    """All shards are there, the index is not, or is half written."""
    rows, mentor = rows_of("llama"), mentor_of("llama")
    write(tmp_path / "whole", mentor, rows, "top-k")

    def killed(*args):
        raise Kill

    for name in ("_save", "write_json"):
        with monkeypatch.context() as patch, pytest.raises(Kill):
            patch.setattr(soft_writing, name, killed)
            write(tmp_path / name, mentor, rows, "top-k")
        asked = []
        write(tmp_path / name, mentor, rows, "top-k", progress=lambda done, total, a=asked: a.append(done))
        assert asked == [20]
        assert contents(tmp_path / name) == contents(tmp_path / "whole")


@pytest.fixture
def writing(rows_of, mentor_of, tmp_path):
    """What writes into a folder with so many ranks; the one that makes this shard is killed then."""
    mentor_of("llama").save_pretrained(tmp_path / "mentor")
    rows = [(row.problem_id, [*row.input_ids], [*row.labels]) for row in rows_of("llama")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))

    def written(folder, world=1, killed_at=99):
        given = [tmp_path / folder, tmp_path / "mentor", tmp_path / "rows.json", killed_at]
        begun = [Started([*map(str, given)], rank, label_writer.write) for rank in ranks_of(world)]
        if killed_at < 99:
            end_as_a_launcher(begun)
        found = finish(begun)
        return [status for status, *_ in found], [error for *_, error in found]

    return written


def test_sigkill(writing, tmp_path):
    (status,), errors = writing("killed", killed_at=2)
    assert status == -signal.SIGKILL, errors
    lines = (tmp_path / "killed" / "progress.jsonl").read_text().splitlines()
    assert len(lines) == 4 and not lines[-1].endswith("}")
    assert writing("killed")[0] == writing("whole")[0] == [0]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def shards_of(folder):
    """How many each log has, without torn lines."""
    logs = [log.read_text().splitlines(keepends=True) for log in folder.glob("progress.jsonl*")]
    return [sum('"shard"' in line and line.endswith("\n") for line in log) for log in logs]


def without_logs(folder):
    return {name: data for name, data in contents(folder).items() if "progress" not in name}


@pytest.mark.parametrize("then", [(2,), (1,), (3, 2)])
def test_ranks_share_the_pass_and_its_bytes_are_those_of_one(writing, tmp_path, then):
    """One rank is killed, again and again; more, fewer or as many go on."""
    assert writing("one")[0] == [0]
    for world in (2, 2, *then[:-1]):
        statuses, errors = writing("two", world, killed_at=3)
        assert -signal.SIGKILL in statuses and all(statuses), errors
    statuses, errors = writing("two", then[-1])
    assert not any(statuses), errors
    assert without_logs(tmp_path / "two") == without_logs(tmp_path / "one")
    made, of_one = shards_of(tmp_path / "two"), shards_of(tmp_path / "one")
    assert len(made) > 1 and all(made) and sum(made) == sum(of_one), "each shard was made once"


@pytest.fixture
def half(rows_of, mentor_of, small_shards, tmp_path):
    """A folder with three whole shards, and what writes the rest."""
    folder, mentor, rows = tmp_path / "half", mentor_of("llama"), rows_of("llama")
    with pytest.raises(Kill):
        write(folder, mentor, rows, "top-k", progress=stop_at(7))

    def go_on(folder=folder, **more):
        write(folder, mentor, more.pop("rows", rows), more.pop("codec", "top-k"), **more)

    return folder, go_on


@pytest.mark.parametrize(
    ("line", "text", "complaint"),
    [
        (1, "nonsense", "progress.jsonl:1: damaged"),
        (1, "[]", r"progress.jsonl:1: damaged \(not a JSON object"),
        (2, '{"shard": 0}', r"progress.jsonl:2: damaged \(batches: Field required\)"),
        (3, '{"shard":0,"batches":2,"tokens":[1,2]}', "progress.jsonl:3: damaged .not the shard that"),
        (3, '{"shard":1,"batches":2,"tokens":[1]}', "progress.jsonl:3: damaged .not the shard that"),
        (3, "", "progress.jsonl:3: damaged"),
        (3, "\xff", "progress.jsonl:3: damaged"),
    ],
)
def test_behind_a_damaged_line_all_is_made_again(half, tmp_path, capsys, line, text, complaint):
    folder, go_on = half
    lines = (folder / "progress.jsonl").read_bytes().split(b"\n")
    lines[line - 1] = text.encode("latin-1")
    (folder / "progress.jsonl").write_bytes(b"\n".join(lines))
    go_on()
    assert re.search(complaint, capsys.readouterr().err)
    go_on(folder=tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["log_p.bin", "ids.bin"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove", "line"])
def test_data_that_changed_are_made_again(half, tmp_path, capsys, name, harm):
    """In what three shards hold, before the rest is written."""
    folder, go_on = half
    path = folder / ("progress.jsonl" if harm == "line" else name)
    data = bytearray(path.read_bytes())
    lines = (folder / "progress.jsonl").read_text().splitlines()[1:]
    last = (
        2 * CODECS["top-k"].k * sum(sum(json.loads(line)["tokens"]) for line in lines) - 1
    )  # of their bytes
    if harm == "flip":
        data[last // 2] ^= 1
    elif harm == "line":  # another number of tokens in the second shard
        at = data.index(b'"tokens":[', data.index(b'"shard":1')) + 10
        data[at] ^= 1
    path.write_bytes(data[:last] if harm == "cut" else data)
    if harm == "remove":
        path.unlink()
    go_on()
    assert capsys.readouterr().err.count("are made again") == 1
    go_on(folder=tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


def test_work_begun_otherwise_is_refused(half, rows_of):
    _, go_on = half
    with pytest.raises(RecipeError, match=r"half: .*made at temperature 2, and this student asks for 1; set"):
        go_on(temperature=1.0)
    with pytest.raises(DataError, match="are of other examples than this student's"):
        go_on(rows=rows_of("llama", 19))
    with pytest.raises(RecipeError, match="made with batch_tokens 40, and this student asks for 50"):
        go_on(batch_tokens=50)
    go_on()
    with pytest.raises(RecipeError, match="made with k 6, and this student asks for 7"):
        go_on(codec=CodecSettings(k=7))


def test_nothing_to_label(mentor_of, tmp_path):
    with pytest.raises(DataError, match="no rows to make soft labels for"):
        write(tmp_path, mentor_of("llama"), [], "top-k")


def test_a_place_that_cannot_be_written(rows_of, mentor_of, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="file: "):
        write(tmp_path / "file", mentor_of("llama"), rows_of("llama"), "top-k")


@pytest.fixture
def stored(rows_of, mentor_of, tmp_path):
    def store(codec):
        write(tmp_path / "soft", mentor_of("llama"), rows_of("llama"), codec)
        return tmp_path / "soft"

    return store


@pytest.mark.parametrize(
    ("codec", "change", "error", "sentence"),
    [
        (
            "top-k",
            {"temperature": 1.0},
            RecipeError,
            "temperature 2, and this student asks for 1; set tempera",
        ),
        (
            "top-k",
            {"codec": CodecSettings(k=7)},
            RecipeError,
            "k 6, and this student asks for 7; set k to 6 or",
        ),
        ("top-k", {"codec": CODECS["full"]}, RecipeError, "codec top-k, and this student asks for full"),
        ("full", {"codec": CODECS["top-k"]}, RecipeError, "codec full, and this student asks for top-k"),
        (
            "top-k",
            {"vocabulary": 44},
            ModelError,
            "vocabulary 43, and this student asks for 44; choose a mentor",
        ),
        (
            "top-k",
            {"identity": IDENTITY | {"mentor": "c" * 64}},
            ModelError,
            r"another mentor \(aaaaaaaaaaaa, an",
        ),
        ("top-k", {"identity": IDENTITY | {"tokenizer": "c"}}, ModelError, "another tokenizer .*asks for c"),
        (
            "top-k",
            {"identity": IDENTITY | {"template": "c"}},
            ModelError,
            r"another template \(none, .*asks for c",
        ),
        ("top-k", {"identity": {"mentor": "a" * 64}}, ModelError, r"another tokenizer \(bbbb.*asks for none"),
    ],
)
def test_soft_labels_that_are_not_those_asked_for(stored, codec, change, error, sentence):
    folder = stored(codec)
    with pytest.raises(error, match=f"soft: these soft labels were made .*{sentence}.*make|{sentence}"):
        Cached.open([folder], expected(change.pop("codec", codec), **change))
    Cached.open([folder], expected(codec))


def test_what_a_codec_does_not_use_is_not_compared(stored):
    Cached.open([stored("full")], expected(CodecSettings(kind="full", k=9)))


def test_other_formats_and_texts(stored, rows_of):
    folder = stored("top-k")
    Cached.open([folder], {"text": soft_writing.text_of(rows_of("llama")[::-1])})
    with pytest.raises(
        DataError,
        match=r"soft: these soft labels are of other examples than this student's; remove the folder to",
    ):
        Cached.open([folder], {"text": soft_writing.text_of(rows_of("llama", 3))})
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    with pytest.raises(DataError, match="made with format 1, and this student asks for 2"):
        Cached.open([folder], expected("top-k"))
    (folder / "manifest.json").write_text("{")
    with pytest.raises(
        DataError, match=r"manifest.json: not a manifest of soft labels \(.*to make them again"
    ):
        Cached.open([folder], expected("top-k"))
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"manifest.json: not a manifest of soft labels \(format: "):
        Cached.open([folder], expected("top-k"))


@pytest.mark.parametrize("name", ["ids.bin", "log_p.bin", "keys.npy", "places.npy"])
def test_damaged_files(stored, name):
    folder = stored("top-k")
    size = (folder / name).stat().st_size
    with (folder / name).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(DataError, match=f"{name}: damaged soft labels, {size + 1} bytes instead of {size}"):
        Cached.open([folder], {})
    whole = (folder / name).read_bytes()[:size]
    (folder / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(DataError, match=f"{name}: damaged soft labels, the content changed"):
        Cached.open([folder], {})
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: this file of the soft labels is missing; remove"):
        Cached.open([folder], {})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"vocabulary": "x"}, "vocabulary"),
        ({"temperature": None}, "temperature"),
        ({"files": []}, "files"),
        ({"codec": "weird"}, "codec"),
        ({"k": "x"}, "k"),
    ],
)
def test_a_damaged_manifest_names_what_is_wrong(stored, wrong, named):
    folder = stored("top-k")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | wrong))
    with pytest.raises(DataError, match=rf"manifest.json: not a manifest of soft labels \({named}: "):
        Cached.open([folder], {})


def test_rows_without_soft_labels(stored, rows_of):
    folder = stored("top-k")
    known, unknown = rows_of("llama"), rows_of("llama", 3, seed=9)
    assert not any(map(len, (missing([folder], known[::-2]), missing([folder], []), missing([], []))))
    mixed = [known[0], unknown[1], known[4], unknown[2], unknown[1]]
    assert list(missing([folder], mixed)) == [unknown[1], unknown[2]]
    assert list(missing([], mixed)) == [known[0], unknown[1], known[4], unknown[2]]
    assert not len(missing([folder], [replace(row, scored=False) for row in mixed]))
    with pytest.raises(DataError, match="no soft labels for 3 rows of a batch; make them"):
        Cached.open([folder], {}).of(collate(mixed, 0))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("keys.npy", b"", "keys.npy: damaged soft labels"),
        ("keys.npy", None, "keys.npy: this file of the soft labels is missing"),
        ("manifest.json", b"{}", "not a manifest"),
        ("manifest.json", None, "there are no whole soft labels here"),
    ],
)
def test_what_is_missing_is_not_asked_of_a_damaged_volume(stored, rows_of, name, content, complaint):
    folder = stored("top-k")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        missing([folder], rows_of("llama"))


@BOTH
@pytest.mark.parametrize("codec", ["top-k", "full"])
def test_a_second_volume_adds_rows_and_leaves_the_first_as_it_is(
    rows_of, mentor_of, small_shards, tmp_path, kind, codec
):
    """Targets are in the order of the batch's rows, whichever volume has them; one is in both."""
    mentor, rows = mentor_of(kind), rows_of(kind)
    folders = [tmp_path / "000", tmp_path / "001"]
    write(folders[0], mentor, rows[:9], codec)
    before = contents(folders[0])
    lacking = missing(folders[:1], rows)
    assert list(lacking) == rows[9:]
    write(folders[1], mentor, [rows[4], *lacking], codec)
    assert contents(folders[0]) == before
    assert not len(missing(folders, rows))
    cached, live = Cached.open(folders, expected(codec)), Live(mentor, CODECS[codec], 2.0, 43)
    for some in (rows, [rows[n] for n in (12, 3, 4, 19, 0, 12, 9, 8)], rows[:3], rows[15:]):
        found, asked = cached.of(collate(some, 0)), live.of(collate(some, 0))
        torch.testing.assert_close(dense(found), dense(asked), rtol=1e-3, atol=1e-6)
    assert cached.of(collate([], 0)).log_p_NK.shape[0] == 0
    with pytest.raises(DataError, match="no soft labels for 1 rows"):
        Cached.open(folders[:1], {}).of(collate(rows[8:10], 0))


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"codec": CodecSettings(k=7)}, RecipeError, "made with k 7, and this student asks for 6"),
        ({"codec": CODECS["full"]}, RecipeError, "made with codec full"),
        ({"temperature": 1.0}, RecipeError, "made at temperature 1, and this student asks for 2"),
        ({"vocabulary": 42}, ModelError, "made with vocabulary 42"),
        ({"identity": IDENTITY | {"mentor": "c" * 64}}, ModelError, "another mentor"),
    ],
)
def test_volumes_of_two_kinds_are_not_read_together(
    stored, rows_of, mentor_of, tmp_path, change, error, sentence
):
    """Also where the caller asked for nothing that would show the difference."""
    first, second = stored("top-k"), tmp_path / "second"
    more = {name: value for name, value in change.items() if name != "codec"}
    write(second, mentor_of("llama"), rows_of("llama", 3), change.get("codec", "top-k"), **more)
    with pytest.raises(error, match=f"second: these soft labels were .*{sentence}"):
        Cached.open([first, second], {})


def test_no_volume_at_all():
    with pytest.raises(ValueError, match="at least one volume"):
        Cached.open([], {})


@BOTH
def test_rows_that_are_not_scored_have_no_targets(rows_of, mentor_of, tmp_path, kind):
    """They are neither stored nor looked for: they are in a batch for their states alone."""
    mentor, rows = mentor_of(kind), rows_of(kind)
    mixed = [replace(row, scored=n % 3 != 1) for n, row in enumerate(rows)]
    scored = [row for row in mixed if row.scored]
    write(tmp_path, mentor, mixed, "top-k")
    cached = Cached.open([tmp_path], expected("top-k", text=soft_writing.text_of(scored)))
    assert cached.volumes[0].manifest["rows"] == len(scored)
    found, wanted = cached.of(collate(mixed, 0)), cached.of(collate(scored, 0))
    assert torch.equal(found.log_p_NK, wanted.log_p_NK) and torch.equal(found.ids_NK, wanted.ids_NK)
    asked = Live(mentor, CODECS["top-k"], 2.0, 43).of(collate(mixed, 0))
    torch.testing.assert_close(dense(found), dense(asked), rtol=1e-3, atol=1e-6)
    assert list(missing([tmp_path], rows)) == rows[1::3]
    assert cached.of(collate(mixed[1::3], 0)).log_p_NK.shape == (0, 6)


def test_a_row_with_and_without_its_loss_is_stored_with_it(rows_of, mentor_of, tmp_path):
    """Both have the same key, because what the mentor says of them is the same."""
    row = rows_of("llama")[0]
    write(tmp_path, mentor_of("llama"), [row, replace(row, scored=False)], "top-k")
    found = Cached.open([tmp_path], {}).of(collate([row], 0))
    assert len(found.log_p_NK) == sum(label != -100 for label in row.labels[1:])


def test_prompt_tokens_are_stored_where_they_are_scored(rows_of, mentor_of, tmp_path):
    """Whatever their weight; rows with and without them are different rows."""
    rows, plain, mentor = rows_of("llama", prompt_weight=0.1), rows_of("llama"), mentor_of("llama")
    write(tmp_path, mentor, rows, "full")
    cached, live = Cached.open([tmp_path], {}), Live(mentor, CODECS["full"], 2.0, 43)
    assert cached.volumes[0].manifest["tokens"] == sum(len(row.input_ids) - 1 for row in rows)
    for weighted in (rows, rows_of("llama", prompt_weight=0.7)):
        batch = collate(weighted, 0)
        assert "label_weights" in batch
        torch.testing.assert_close(cached.of(batch).log_p_NK, live.of(batch).log_p_NK)
    assert list(missing([tmp_path], plain)) == list(plain)


@BOTH
def test_who_shared_a_batch_when_it_was_written_changes_nothing(rows_of, mentor_of, tmp_path, kind):
    """Padding in the mentor's batches: one row each, or all together."""
    rows, mentor = rows_of(kind), mentor_of(kind)
    stores = []
    for batch_tokens in (1, 10_000):
        folder = tmp_path / str(batch_tokens)
        write(folder, mentor, rows, "full", batch_tokens=batch_tokens)
        stores.append(Cached.open([folder], {}).of(collate(rows, 0)).log_p_NK)
    torch.testing.assert_close(*stores, rtol=1e-4, atol=1e-5)


def test_keys_with_the_same_first_half_are_different(stored):
    """64 of 128 bits would be enough for luck, not for certainty."""
    volume = Volume.open(stored("top-k"), {})
    keys = np.array([[1, 2, 2, 2, 9], [7, -5, 0, 5, 0]])
    similar = replace(volume, keys=keys)
    wanted = np.array([[2, 5], [2, -5], [2, 0], [2, 6], [1, 7], [9, 0], [9, 1], [0, 0], [2, -9]])
    assert similar.find(wanted).tolist() == [3, 1, 2, -1, 0, 4, -1, -1, -1]


def test_sizes_of_the_store():
    """Bytes per token of top-64: 2 for the id of a small vocabulary, 4 of a large; 2 for the probability."""
    for vocabulary, size in ((700, 256), (32_128, 256), (65_536, 256), (65_537, 384), (151_936, 384)):
        files = soft_cache.columns(CodecSettings(), vocabulary)
        assert sum(file.bytes(1) for file in files) == size


def test_keys_follow_ids_and_labels():
    row = Row("a", [1, 2, 3], [-100, 2, 3])
    assert row.key == Row("other", [1, 2, 3], [-100, 2, 3], [0.0, 1.0, 1.0]).key
    others = [
        Row("a", [1, 2, 3], [1, 2, 3]),
        Row("a", [1, 2], [3, -100, 2, 3]),
        Row("a", [1, 2, 4], [-100, 2, 3]),
    ]
    assert len({row.key, *(other.key for other in others)}) == 4
    assert row.key == (6335207534285062069, 653940613884631131)  # stored on disk: must never change
    batch = collate([row, others[0]], 0)
    assert batch["keys"].tolist() == [list(row.key), list(others[0].key)]
    assert collate([], 0)["keys"].tolist() == [[0, 0]]
