"""Soft labels on disk: what is read back, what a kill leaves, and what is refused."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limbeck.errors import DataError, DiskError, ModelError, RecipeError
from limbeck.soft_labels import cache as soft_cache
from limbeck.soft_labels import writing as soft_writing
from limbeck.soft_labels.cache import Cached
from limbeck.soft_labels.live import Live
from limbeck.soft_labels.writing import write_cache
from limbeck.training.collate import Row, collate, tokenise
from limbeck.soft_labels.settings import CodecSettings

BOTH = pytest.mark.parametrize("kind", ["llama", "t5"])
CODECS = {
    "full": CodecSettings(kind="full"),
    "top-k": CodecSettings(k=6),
    "top-64": CodecSettings(k=64),  # of 43 tokens: all of them
    "sampled": CodecSettings(kind="sampled", draws=20),
    "sampled-300": CodecSettings(kind="sampled", draws=300),
}
IDENTITY = {"mentor": "a" * 64, "tokenizer": "b" * 64}


@pytest.fixture
def rows_of(tokenizer, make_examples):
    def rows(kind, count=20, seed=0):
        examples = make_examples(count, seed)
        return tokenise(tokenizer, examples, encoder_decoder=kind == "t5", max_length=99).rows

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
    given = {"temperature": 2.0, "vocabulary": 43, "identity": IDENTITY, "seed": 0} | more
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
    cached = Cached.open(tmp_path / "soft", expected(codec))
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
@pytest.mark.parametrize("codec", [CodecSettings(), CodecSettings(kind="sampled")])
def test_high_ids_survive(tmp_path, vocabulary, codec):
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
    rows = [Row("a", [5, 6, 39_999], [-100, 6, 39_999]), Row("b", [7] * 40, [7] * 40)]
    write(tmp_path, mentor, rows, codec, vocabulary=vocabulary)
    stored = Cached.open(tmp_path, expected(codec, vocabulary=vocabulary)).of(collate(rows, 0))
    asked = Live(mentor, codec, 2.0, vocabulary).of(collate(rows, 0))
    assert asked.ids_NK.max() > min(vocabulary, 1 << 16) - 5000
    torch.testing.assert_close(dense(stored), dense(asked), rtol=6e-3, atol=1e-6)
    assert stored.log_p_NK.exp().amax(1).min() > 0.02  # something is likely
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["precision"]["ids"] == ("uint16" if vocabulary == 40_000 else "int32")


def test_impossible_tokens_stay_finite(rows_of, mentor_of, tmp_path):
    """A log-probability below what 16 bits hold is the lowest that they do."""
    write(tmp_path, mentor_of("llama"), rows_of("llama"), "top-k", temperature=1e-6)
    soft = Cached.open(tmp_path, {}).of(collate(rows_of("llama"), 0))
    assert soft.log_p_NK.isfinite().all() and soft.log_p_NK.min() < -6e4


def test_a_sharp_mentor_is_drawn_from_again_and_again(rows_of, mentor_of, tmp_path):
    """300 draws of one token: more than a byte counts."""
    write(tmp_path, mentor_of("llama"), rows_of("llama"), "sampled-300", temperature=1e-6)
    soft = Cached.open(tmp_path, {}).of(collate(rows_of("llama"), 0))
    assert soft.log_p_NK.shape[1] == 1 and (soft.log_p_NK == 0).all()


def test_the_manifest(rows_of, mentor_of, small_shards, tmp_path):
    rows = rows_of("llama")
    write(tmp_path, mentor_of("llama"), [*rows, *rows[:5]], "top-k")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    tokens = sum(label != -100 for row in rows for label in row.labels[1:])
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert {name: manifest[name] for name in ("format", "codec", "k", "temperature", "vocabulary")} == {
        "format": 1,
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
        write(tmp_path / name, mentor_of("t5"), some, "sampled")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_only_what_is_looked_at_is_read(rows_of, mentor_of, tmp_path):
    write(tmp_path, mentor_of("llama"), rows_of("llama"), "sampled")
    cached = Cached.open(tmp_path, {})
    for values in (cached.keys, cached.places, *cached.data.values()):
        while isinstance(values.base, np.ndarray) and not isinstance(values, np.memmap):
            values = values.base
        assert isinstance(values, np.memmap) and values.mode == "r"


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
@pytest.mark.parametrize("codec", ["top-k", "sampled", "full"])
def test_killed_and_resumed_is_byte_for_byte_undisturbed(
    rows_of, mentor_of, small_shards, tmp_path, kind, codec
):
    """At every third batch in turn; then with half a shard and half a line left behind."""
    told = []
    rows, mentor = rows_of(kind), mentor_of(kind)
    write(tmp_path / "whole", mentor, rows, codec, progress=lambda done, total: told.append((done, total)))
    assert [total for _, total in told] == [20] * len(told) and told[0] == (0, 20) and told[-1] == (20, 20)
    assert len(told) >= 10
    whole = contents(tmp_path / "whole")
    resumed = tmp_path / "resumed"
    kills = 0
    while True:
        try:
            write(resumed, mentor, rows, codec, progress=stop_at(3))
        except Kill:
            kills += 1
            assert not (resumed / "manifest.json").exists()
            with pytest.raises(DataError, match="no whole soft labels stand here"):
                Cached.open(resumed, {})
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


WORKER = """
import os, signal, sys
from pathlib import Path
from transformers import AutoModelForCausalLM
from limbeck.files import AppendLog
from limbeck.soft_labels import writing as soft_writing
from limbeck.training.collate import Row
from limbeck.soft_labels.settings import CodecSettings

folder, model, write = Path(sys.argv[1]), sys.argv[2], AppendLog.append
soft_writing.SHARD_BATCHES = 2
def killing(log, line):
    if b'"shard":2' in line:  # its data stands on the disk, its line does not
        log.path.open("ab").write(line[:20])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(log, line)
AppendLog.append = killing
rows = [Row(*row) for row in eval(sys.stdin.read())]
soft_writing.write_cache(folder, AutoModelForCausalLM.from_pretrained(model), rows, 0, CodecSettings(k=6),
    2.0, 43, {"mentor": "a" * 64, "tokenizer": "b" * 64}, batch_tokens=40)
"""


def test_sigkill(rows_of, mentor_of, small_shards, tmp_path):
    mentor, rows = mentor_of("llama"), rows_of("llama")
    mentor.save_pretrained(tmp_path / "mentor")
    told = repr([(row.problem_id, row.input_ids, row.labels) for row in rows])
    command = [sys.executable, "-c", WORKER, tmp_path / "killed", tmp_path / "mentor"]
    done = subprocess.run(
        command,
        input=told,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    lines = (tmp_path / "killed" / "progress.jsonl").read_text().splitlines()
    assert len(lines) == 4 and not lines[-1].endswith("}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other process, so that sums are rounded alike
    try:
        write(tmp_path / "killed", mentor, rows, "top-k")
        write(tmp_path / "whole", mentor, rows, "top-k")
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.fixture
def half(rows_of, mentor_of, small_shards, tmp_path):
    """A folder with three whole shards, and what writes the rest."""
    folder, mentor, rows = tmp_path / "half", mentor_of("llama"), rows_of("llama")
    with pytest.raises(Kill):
        write(folder, mentor, rows, "top-k", progress=stop_at(7))

    def go_on(**more):
        write(folder, mentor, more.pop("rows", rows), more.pop("codec", "top-k"), **more)

    return folder, go_on


@pytest.mark.parametrize(
    ("line", "text", "complaint"),
    [
        (1, "{}", "made with format none"),
        (1, "nonsense", r"progress.jsonl:1: not a line of progress"),
        (1, "[]", r"progress.jsonl:1: not a line of progress"),
        (2, '{"shard": 0}', r"progress.jsonl:2: not a line of progress \(batches: Field required\)"),
        (3, '{"shard":0,"batches":2,"tokens":[1,2],"entries":[]}', "progress.jsonl:3: not the shard that"),
        (3, '{"shard":1,"batches":2,"tokens":[1],"entries":[]}', "progress.jsonl:3: not the shard that"),
        (3, "", "progress.jsonl:3: not a line of progress"),
        (3, "\xff", "progress.jsonl:3: not a line of progress"),
    ],
)
def test_a_damaged_progress_is_refused(half, line, text, complaint):
    folder, go_on = half
    lines = (folder / "progress.jsonl").read_bytes().split(b"\n")
    lines[line - 1] = text.encode("latin-1")
    (folder / "progress.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=f"{complaint}.*(remove .*half to make|make them anew)"):
        go_on()


def test_data_that_was_lost_is_refused(half):
    folder, go_on = half
    size = (folder / "log_p.bin").stat().st_size
    os.truncate(folder / "log_p.bin", size - 1)
    with pytest.raises(
        DataError, match=rf"log_p.bin: {size - 1} bytes where progress.jsonl tells of {size}; rem"
    ):
        go_on()


def test_work_begun_otherwise_is_refused(half, rows_of):
    _, go_on = half
    with pytest.raises(RecipeError, match=r"half: .*made at temperature 2, and this student asks for 1; set"):
        go_on(temperature=1.0)
    with pytest.raises(DataError, match="made with text"):
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
        (
            "top-k",
            {"codec": CODECS["sampled"]},
            RecipeError,
            "codec top-k, and this student asks for sampled",
        ),
        ("sampled", {"codec": CODECS["sampled-300"]}, RecipeError, "draws 20, and this student asks for 300"),
        ("sampled", {"seed": 4}, RecipeError, "seed 0, and this student asks for 4"),
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
        Cached.open(folder, expected(change.pop("codec", codec), **change))
    Cached.open(folder, expected(codec))


def test_what_a_codec_does_not_use_is_not_compared(stored):
    Cached.open(stored("top-k"), expected(CodecSettings(k=6, draws=9), seed=5))


def test_other_formats_and_texts(stored, rows_of):
    folder = stored("top-k")
    Cached.open(folder, {"text": soft_writing.text_of(rows_of("llama")[::-1])})
    with pytest.raises(
        DataError,
        match=r"soft: these soft labels were made with text .*; remove the folder to",
    ):
        Cached.open(folder, {"text": soft_writing.text_of(rows_of("llama", 3))})
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(DataError, match="made with format 2, and this student asks for 1"):
        Cached.open(folder, expected("top-k"))
    (folder / "manifest.json").write_text("{")
    with pytest.raises(
        DataError, match=r"manifest.json: not a manifest of soft labels \(.*to make them anew"
    ):
        Cached.open(folder, expected("top-k"))
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"manifest.json: not a manifest of soft labels \(format: "):
        Cached.open(folder, expected("top-k"))


@pytest.mark.parametrize("name", ["ids.bin", "counts.bin", "sizes.bin", "keys.npy", "places.npy"])
def test_damaged_files(stored, name):
    folder = stored("sampled")
    size = (folder / name).stat().st_size
    with (folder / name).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(DataError, match=f"{name}: damaged soft labels, {size + 1} bytes instead of {size}"):
        Cached.open(folder, {})
    whole = (folder / name).read_bytes()[:size]
    (folder / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(DataError, match=f"{name}: damaged soft labels, the content changed"):
        Cached.open(folder, {})
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: this file of the soft labels is missing; remove"):
        Cached.open(folder, {})


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
        Cached.open(folder, {})


def test_rows_without_soft_labels(stored, rows_of):
    cached = Cached.open(stored("top-k"), {})
    known, unknown = rows_of("llama"), rows_of("llama", 3, seed=9)
    assert cached.missing(known) == [] and cached.missing([]) == []
    cached.check(known[::-2])
    mixed = [known[0], unknown[1], known[4], unknown[2]]
    assert cached.missing(mixed) == [unknown[1], unknown[2]]
    with pytest.raises(
        DataError, match=r"soft: no soft labels for problem '1' \(2 of 4 rows lack them\); remove"
    ):
        cached.check(mixed)
    with pytest.raises(DataError, match="no soft labels for 2 rows of a batch"):
        cached.of(collate(mixed, 0))


def test_keys_that_begin_alike_are_told_apart(stored):
    """64 of 128 bits would be enough for luck, not for certainty."""
    cached = Cached.open(stored("top-k"), {})
    keys = np.array([[1, 2, 2, 2, 9], [7, -5, 0, 5, 0]])
    alike = Cached(cached.folder, cached.manifest, cached.codec, keys, cached.places, cached.data)
    wanted = np.array([[2, 5], [2, -5], [2, 0], [2, 6], [1, 7], [9, 0], [9, 1], [0, 0], [2, -9]])
    assert alike._find(wanted).tolist() == [3, 1, 2, -1, 0, 4, -1, -1, -1]


def test_sizes_of_the_store():
    """Bytes per token of top-64: 2 for the id of a small vocabulary, 4 of a large; 2 for the probability."""
    for vocabulary, size in ((700, 256), (32_128, 256), (65_536, 256), (65_537, 384), (151_936, 384)):
        files = soft_cache.columns(CodecSettings(), vocabulary)
        assert sum(file.bytes(1, 0) for file in files) == size


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
