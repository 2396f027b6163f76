"""Models that hard use has found: code from elsewhere, sizes that build for hours, pickles."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from limbeck.errors import InputError, ModelError, RecipeError
from limbeck.lm import configs
from limbeck.lm.load import explained, load, read_config
from limbeck.lm.pickles import convert
from limbeck.lm.saving import save
from limbeck.lm.settings import LoraSettings
from limbeck.records import Problem
from limbeck.stages.pairs import tokenizer_of
from limbeck.tasks.asking import Asking

from .families import tiny_model

Limbeck = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An ordinary small model folder."""
    model, tokenizer = tiny_model("llama-2")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


# --- what is explained, and what is not (A27) ------------


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), AssertionError("bug")],
    ids=lambda error: type(error).__name__,
)
def test_a_lack_of_memory_and_a_bug_are_no_fault_of_the_model(error: Exception) -> None:
    with pytest.raises(type(error)), explained("name", "the weights"):
        raise error


def test_the_cpus_own_lack_of_memory_passes_through_too() -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"), explained("name", "the weights"):
        torch.empty(10**15)


def test_a_mistake_in_our_code_passes_through(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "AutoConfig", None)
    with pytest.raises(AttributeError):
        read_config(folder)


def test_a_lack_of_memory_is_one_sentence(limbeck: Limbeck, monkeypatch: pytest.MonkeyPatch) -> None:
    from limbeck import actions

    def hungry(*_: object) -> Path:
        torch.empty(10**15)
        raise AssertionError

    monkeypatch.setattr(actions, "export", hungry)
    answer = limbeck("export", "model", "--out", "out")
    assert (
        answer.status == 1
        and answer.err.startswith("limbeck: out of memory (")
        and "unexpected" not in answer.err
    )


# --- code from elsewhere (A28) ------------


@pytest.mark.parametrize("setting", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize(
    "value", ["org/repo", "org/repo:kernel", "paged|org/repo", {"": "sdpa", "text_config": "a/b"}]
)
def test_a_config_cannot_fetch_code(folder: Path, setting: str, value: object) -> None:
    change(folder / "config.json", **{setting: value})
    for read in (load, read_config):
        with pytest.raises(ModelError, match=f"asks for code from elsewhere .{setting}: .*never run; remove"):
            read(folder)


def test_code_is_refused_in_a_part_of_a_config_and_where_its_package_is_missing(folder: Path) -> None:
    change(folder / "config.json", text_config={"attn_implementation": "org/repo"})
    with pytest.raises(ModelError, match="code from elsewhere"):
        read_config(folder)
    change(folder / "config.json", text_config=None, attn_implementation="flash_attention_2")
    with pytest.raises(ModelError, match=r"code from elsewhere .attn_implementation: flash_attention_2"):
        read_config(folder)
    change(folder / "config.json", attn_implementation="eager")
    assert load(folder, device="cpu").model.config._attn_implementation == "eager"


QWEN = {
    "model_type": "qwen",
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    },
    "hidden_size": 64,
    "num_hidden_layers": 2,
}
"""The part of the first Qwen's config.json that says what it is."""

QWEN_TOKENIZER = {
    "tokenizer_class": "QWenTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
}

FIRST_QWEN = "the first generation of Qwen needs remote code, which Limbeck does not run; "
FIRST_QWEN += "take Qwen1.5, Qwen2 or Qwen3, which need none"

LEARNS = {
    "student": "student: {{method: mcc-kd, model: {model}}}",
    "student that chats": "student: {{method: mcc-kd, model: {model}, format: chat}}",
    "mentor": "mentor: {{model: {model}}}\nstudent: {{method: mentor-kd, model: tiny-causal-xs}}",
    "untrained": "student: {{method: zero-shot, model: {model}}}",
    "teacher": "teacher: {{kind: local, model: {model}}}\nstudent: {{method: mcc-kd, model: tiny-causal-xs}}",
}


def qwen(folder: Path) -> Path:
    """A folder as the first Qwen's, whose code must not run."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(QWEN))
    (folder / "tokenizer_config.json").write_text(json.dumps(QWEN_TOKENIZER))
    for name in ("configuration_qwen", "modeling_qwen", "tokenization_qwen"):
        (folder / f"{name}.py").write_text("raise SystemExit('this code must not run')")
    return folder


@pytest.mark.parametrize("who", LEARNS)
def test_the_first_qwen_is_refused_before_any_stage(tmp_path: Path, limbeck: Limbeck, who: str) -> None:
    folder = qwen(tmp_path / "Qwen-7B")
    recipe = tmp_path / "r.yaml"
    task = "name: x\ntask: {name: coin-flip, train: 5, dev: 1, test: 2}\nrationales: {per_problem: 2}\n"
    recipe.write_text(task + LEARNS[who].format(model=folder))
    answer = limbeck("run", recipe, "--out", tmp_path / "run")
    assert answer.status == 2 and f"{folder}: {FIRST_QWEN}" in answer.err
    assert answer.err.splitlines()[-1].startswith("limbeck: ") and ".model: " in answer.err
    assert not any(path.is_dir() for path in (tmp_path / "run").iterdir()), "no stage was begun"
    for arguments in (
        ("ask", folder, "Hi?"),
        ("evaluate", folder, "--task", recipe, "--out", tmp_path / "e"),
    ):
        answer = limbeck(*arguments)
        assert answer.status == 2 and answer.err == f"limbeck: {folder}: {FIRST_QWEN}\n"


def test_the_first_qwen_is_refused_by_its_name_on_the_hub(
    tmp_path: Path, limbeck: Limbeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--Qwen--Qwen-7B-Chat"
    qwen(model / "snapshots" / "a1b2")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a1b2")
    answer = limbeck("ask", "Qwen/Qwen-7B-Chat", "Hi?")
    assert answer.status == 2 and answer.err == f"limbeck: Qwen/Qwen-7B-Chat: {FIRST_QWEN}\n"


@pytest.mark.parametrize("left_out", ["auto_map", "model_type", "architectures"])
def test_the_first_qwen_is_known_by_either_sign(tmp_path: Path, left_out: str) -> None:
    folder = qwen(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({k: v for k, v in QWEN.items() if k != left_out}))
    for read in (load, read_config):
        with pytest.raises(ModelError, match="the first generation of Qwen"):
            read(folder)


def test_a_family_that_transformers_knows_needs_none_of_the_code_that_its_folder_brings(folder: Path) -> None:
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    (folder / "modeling_own.py").write_text("raise SystemExit('this code must not run')")
    assert load(folder, device="cpu").model.config.model_type == "llama"


def test_a_tokenizer_that_needs_remote_code_is_refused(folder: Path) -> None:
    change(folder / "tokenizer_config.json", **QWEN_TOKENIZER)
    for read in (load, lambda place: tokenizer_of(str(place))):
        with pytest.raises(ModelError, match=r"tokenizer needs remote code \(auto_map.*does not run; take"):
            read(folder)


# --- sizes (A22) ------------


@pytest.mark.parametrize("setting", ["num_hidden_layers", "num_experts", "num_labels"])
def test_a_size_that_no_model_has_is_refused_at_once(folder: Path, setting: str) -> None:
    change(folder / "config.json", **{setting: 10**7})
    clock = time.monotonic()
    for read in (load, read_config):
        with pytest.raises(ModelError, match=f"config.json says {setting} 10,000,000, and no model"):
            read(folder)
    assert time.monotonic() - clock < 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_in_a_model_folder_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match="a pipe or a device"):
        load(folder)


LOOPS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3


def test_a_chat_template_with_nested_loops_is_refused_within_seconds(folder: Path) -> None:
    tokenizer = load(folder, device="cpu").tokenizer
    tokenizer.chat_template = LOOPS
    clock = time.monotonic()
    with pytest.raises(ModelError, match="chat template takes more than"):
        Asking("chat").text(tokenizer, Asking("chat").pieces(Problem(id="p", question="q?", answer="1")))
    assert time.monotonic() - clock < 10


@pytest.mark.parametrize("template", ["{{ 9**9**9**9 }}", "{% set n = 10 ** messages %}"])
def test_a_chat_template_with_powers_is_refused_before_it_is_compiled(folder: Path, template: str) -> None:
    tokenizer = load(folder, device="cpu").tokenizer
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="chat template computes powers"):
        Asking("chat").text(tokenizer, Asking("chat").pieces(Problem(id="p", question="q?", answer="1")))


# --- pickles ------------


def pickled(folder: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """The folder's weights spread over pickles of these names."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts: list[dict[str, torch.Tensor]] = [{} for _ in names]
    for number, (name, tensor) in enumerate(weights.items()):
        parts[number % len(names)][name] = tensor
    for name, part in zip(names, parts, strict=True):
        torch.save(part, folder / name)
    return weights


@pytest.mark.parametrize(
    "names",
    [
        ["pytorch_model.bin"],
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
        ["consolidated.00.pth"],
        ["model.pth"],
    ],
)
def test_pickled_weights_are_refused_and_converted(
    folder: Path, tmp_path: Path, limbeck: Limbeck, names: list[str]
) -> None:
    before = load(folder, device="cpu").model.state_dict()
    weights = pickled(folder, names)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert f"could hold code; turn its weights into safetensors with: limbeck convert {folder} --out" in str(
        caught.value
    )
    answer = limbeck("convert", folder, "--out", tmp_path / "new")
    assert answer.status == 0, answer.err
    assert not list((tmp_path / "new").glob("*.[bp][it][nh]")), "no pickle is copied"
    found = load_file(tmp_path / "new" / "model.safetensors")
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    after = load(tmp_path / "new", device="cpu").model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert limbeck("convert", folder, "--out", tmp_path / "new").status == 2, "nothing is replaced"


@pytest.mark.parametrize(
    "odd",
    [
        {"s": torch.eye(3).to_sparse()},
        {"s": torch.ones(3, dtype=torch.complex128)},
        {"s": torch.empty(3, device="meta")},
        {"\ud800": torch.ones(3)},
        {1: torch.ones(3), "1": torch.zeros(3)},
    ],
    ids=["sparse", "complex128", "meta", "surrogate", "number"],
)
def test_what_safetensors_cannot_hold_is_refused(
    limbeck: Limbeck, folder: Path, tmp_path: Path, odd: dict[Any, torch.Tensor]
) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights | odd, folder / "pytorch_model.bin")
    answer = limbeck("convert", folder, "--out", tmp_path / "new")
    assert answer.status == 2 and "pytorch_model.bin" in answer.err and "unexpected" not in answer.err
    assert not (tmp_path / "new").exists()


def test_half_of_a_model_is_not_converted(limbeck: Limbeck, folder: Path, tmp_path: Path) -> None:
    weights = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    first, second = (f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2))
    torch.save(dict(weights[:5]), folder / first)
    places = {name: first if n < 5 else second for n, (name, _) in enumerate(weights)}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    answer = limbeck("convert", folder, "--out", tmp_path / "new")
    assert answer.status == 2 and f"{second}, which {index.name} names, is not there" in answer.err
    torch.save(dict(weights[5:]), folder / second)
    assert limbeck("convert", folder, "--out", tmp_path / "new").status == 0
    assert load(tmp_path / "new").model is not None


def test_the_same_weights_under_the_names_of_their_authors_are_left_out(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    torch.save({"tok_embeddings.weight": torch.zeros(3)}, folder / "consolidated.00.pth")
    assert convert(folder, tmp_path / "new") == len(weights)


def test_a_pickle_with_code_is_refused_without_advice_to_run_it(
    limbeck: Limbeck, folder: Path, tmp_path: Path
) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": Path("x")}, folder / "pytorch_model.bin")
    answer = limbeck("convert", folder, "--out", tmp_path / "new")
    assert answer.status == 2 and "weights_only" not in answer.err


def test_the_folder_one_is_in_is_no_new_one(
    limbeck: Limbeck, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for command in ("convert", "export"):
        answer = limbeck(command, folder, "--out", ".")
        assert answer.status == 2 and "name a new folder with --out" in answer.err


@pytest.mark.parametrize(
    "settings",
    [
        {"num_hidden_layers": -3},
        {"model_type": "gpt_neo", "num_layers": 2, "attention_types": [[["global", "local"], 10**9]]},
    ],
    ids=["negative", "gpt-neo"],
)
def test_sizes_that_no_model_has_are_refused_at_once(folder: Path, settings: dict[str, Any]) -> None:
    change(folder / "config.json", **settings)
    with pytest.raises(ModelError, match=r"config\.json says"):
        read_config(folder)


def test_tied_and_transposed_weights_are_converted(folder: Path, tmp_path: Path) -> None:
    weights = pickled(folder, ["pytorch_model.bin"])
    name = next(iter(weights))
    odd = {"tied": weights[name], "transposed": weights[name].T}
    torch.save({"state_dict": weights | odd}, folder / "pytorch_model.bin")
    assert convert(folder, tmp_path / "new") == len(weights) + 2
    found = load_file(tmp_path / "new" / "model.safetensors")
    assert torch.equal(found["tied"], weights[name]) and torch.equal(found["transposed"], weights[name].T)


class Bomb:
    """What a pickle can do to whoever loads it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_code_in_a_pickle_is_never_run(folder: Path, tmp_path: Path, limbeck: Limbeck) -> None:
    pickled(folder, ["pytorch_model.bin"])
    torch.save({"a": Bomb(tmp_path / "ran")}, folder / "pytorch_model.bin")
    answer = limbeck("convert", folder, "--out", tmp_path / "new")
    assert (
        answer.status == 2
        and "cannot be read as weights only" in answer.err
        and "\n" not in answer.err.strip()
    )
    assert not (tmp_path / "ran").exists() and not (tmp_path / "new").exists()


def test_what_cannot_be_converted_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it has safetensors already"):
        convert(folder, tmp_path / "new")
    weights = pickled(folder, ["consolidated.00.pth"])
    shutil.copy(folder / "consolidated.00.pth", folder / "consolidated.01.pth")
    with pytest.raises(ModelError, match="part of tensor parallel training"):
        convert(folder, tmp_path / "new")
    (folder / "consolidated.01.pth").unlink()
    for content, says in (
        ([1], "no tensors by name"),
        ({"step": 3}, "'step' is not a tensor"),
        ({}, "no tensors"),
    ):
        torch.save(content, folder / "consolidated.00.pth")
        with pytest.raises(ModelError, match=says):
            convert(folder, tmp_path / "new")
    torch.save(weights, folder / "consolidated.00.pth")
    content = (folder / "consolidated.00.pth").read_bytes()
    (folder / "consolidated.00.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be read as weights only"):
        convert(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_pickled_adapter_is_refused_and_converted(folder: Path, tmp_path: Path) -> None:
    save(load(folder, lora=LoraSettings(r=2, alpha=4), device="cpu"), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(ModelError, match="limbeck convert"):
        load(tmp_path / "adapter")
    convert(tmp_path / "adapter", tmp_path / "new")
    assert load(tmp_path / "new", trainable=True, device="cpu").lora


# --- devices (A29) ------------


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this is a Mac")
def test_mps_is_a_device_that_this_machine_does_not_have(folder: Path) -> None:
    with pytest.raises(RecipeError, match="mps is not there, it needs macOS"):
        load(folder, device="mps")
    with pytest.raises(RecipeError, match="xpu is not supported; write auto, cpu, cuda or mps"):
        load(folder, device="xpu")


@pytest.mark.parametrize(
    "template",
    ["{{ 1 / 0 }}", "{{ messages + 1 }}", "{{ range(1000000000) }}", "{{ messages[9].x }}", "{% for %}"],
)
def test_whatever_a_chat_template_raises_is_one_sentence(folder: Path, template: str) -> None:
    tokenizer = load(folder, device="cpu").tokenizer
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=r"this model's chat template fails .*; use format plain"):
        Asking("chat").text(tokenizer, Asking("chat").pieces(Problem(id="p", question="q?", answer="1")))
