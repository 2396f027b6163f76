"""The preflight: what must fail is refused before the first stage, with exit status 2 and nothing made."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from limbeck.errors import InputError, LimbeckError, RecipeError
from limbeck.opening import Request, open_context
from limbeck.stages.preflight import SPARE, preflight
from limbeck.uses import Uses

from .lm.families import tiny_model

Limbeck = Callable[..., Any]

API = "{kind: api, base_url: 'http://127.0.0.1:9', model: m, key_env: PREFLIGHT_KEY, max_cost_usd: 1,"
API += " prices: {usd_per_million_input: 1, usd_per_million_output: 1}}"
RECIPE = "name: x\ntask: {name: coin-flip, train: 5, dev: 1, test: 2}\nstudent: {method: finetune-cot}\n"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFLIGHT_KEY", "secret")
    path = tmp_path / "r.yaml"
    path.write_text(f"{RECIPE}teacher: {API}\n")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    found, tokenizer = tiny_model("llama-2")
    found.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def drop_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "mlp" in name))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def refused(limbeck: Limbeck, recipe: Path, *overrides: str) -> str:
    out = recipe.parent / "run"
    options = [part for override in overrides for part in ("--set", override)]
    answer = limbeck("run", recipe, "--out", out, *options)
    made = sorted(path.name for path in out.iterdir()) if out.exists() else []
    assert answer.status == 2, answer.err
    assert answer.err.splitlines()[-1].startswith("limbeck: ") and "Traceback" not in answer.err
    assert set(made) <= {"run.lock", "run.log", "run.pid"}, f"a stage was begun: {made}"
    return str(answer.err)


@pytest.mark.parametrize("place", ["student.model", "mentors.large.model"])
def test_a_mistyped_model_is_found_before_anything_is_made(
    limbeck: Limbeck, recipe: Path, place: str
) -> None:
    text = refused(limbeck, recipe, f"{place}=gogle/flan-t5")
    where = place.replace("student.", "students.finetune-cot.")
    assert f"{where}: gogle/flan-t5: no folder of this name, and the model hub cannot be reached" in text


def test_an_empty_key_and_a_missing_package_are_found_before_anything_is_made(
    limbeck: Limbeck, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    assert "needs the openai package; run pip install 'limbeck[api]'" in refused(limbeck, recipe)
    monkeypatch.undo()
    monkeypatch.setenv("PREFLIGHT_KEY", " ")
    assert "the variable PREFLIGHT_KEY is empty" in refused(limbeck, recipe)


def test_the_package_of_kind_math_is_looked_for_before_anything_is_made(
    limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golds that are words need no math-verify; answers to them do."""
    for split, names in (("train", ("Ann", "Bob", "Cy")), ("test", ("Dan",))):
        rows = [{"question": f"Who is {name}?", "answer": name, "why": f"It is {name}."} for name in names]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "r.yaml"
    path.write_text(
        f"name: x\ntask: {{name: x, kind: math, train: {tmp_path}/train.jsonl, test: {tmp_path}/test.jsonl,"
        " dev: 0, columns: {rationale: why}}\nteacher: {kind: given}\nstudent: {method: answers-only,"
        " model: tiny-causal-xs, train: {epochs: 1}}\nexam: {max_tokens: 2}\n"
    )
    monkeypatch.setitem(sys.modules, "math_verify", None)
    says = "kind math: needs the math-verify package; run pip install 'limbeck[math]'"
    assert says in refused(limbeck, path)
    claimed = ("--set", "students={a: {}, b: {}}", "--set", "claims={compare: [[a, b]]}")
    answer = limbeck("claims", path, "--out", tmp_path / "claims", *claimed)
    assert answer.status == 2 and says in answer.err and not (tmp_path / "claims/protocol.json").exists()
    monkeypatch.undo()
    out = ("--out", tmp_path / "run")
    assert limbeck("run", path, *out).status == 0
    monkeypatch.setitem(sys.modules, "math_verify", None)
    assert limbeck("run", path, *out).status == 0, "a finished run needs nothing"
    again = limbeck("run", path, *out, "--again", "students/answers-only")
    assert again.status == 2 and says in again.err


def test_a_local_teacher_is_looked_at_too(limbeck: Limbeck, recipe: Path, model: Path) -> None:
    teacher = "teacher={kind: local, model: %s}"
    assert "teacher.model: nobody/nothing: no folder" in refused(limbeck, recipe, teacher % "nobody/nothing")
    assert "teacher.model: tiny-causal is made from scratch" in refused(
        limbeck, recipe, teacher % "tiny-causal"
    )
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert f"limbeck convert {model} --out" in refused(limbeck, recipe, teacher % model)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda model: (model / "model.safetensors").unlink(), "there are no weights"),
        (lambda model: cut(model / "model.safetensors"), "the weights cannot be read"),
        (lambda model: drop_a_tensor(model), "the weights lack 1 tensors"),
        (lambda model: change(model, vocab_size=7), "the weights cannot be read"),
        (lambda model: (model / "tokenizer.json").write_text("{"), "tokenizer"),
        (lambda model: (model / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda model: change(model, attn_implementation="org/repo"), "asks for code from elsewhere"),
        (lambda model: change(model, num_hidden_layers=10**7), "no model has more than 1,000"),
        (lambda model: change(model, model_type="bert"), "is not a model that writes text"),
    ],
    ids=["no weights", "cut", "a tensor", "sizes", "tokenizer", "config", "code", "layers", "bert"],
)
def test_a_broken_model_folder_is_found_before_anything_is_made(
    limbeck: Limbeck, recipe: Path, model: Path, spoil: Callable[[Path], Any], says: str
) -> None:
    spoil(model)
    text = refused(limbeck, recipe, f"student.model={model}")
    assert "students.finetune-cot.model" in text and says in text


@pytest.mark.parametrize("name", ["a folder", "tiny-causal-xs", "tiny-seq2seq-xs"])
def test_an_adapter_that_does_not_fit_is_found_before_anything_is_made(
    limbeck: Limbeck, recipe: Path, model: Path, name: str
) -> None:
    named = str(model) if name == "a folder" else name
    lora = f"student={{model: '{named}', lora: {{r: 2, target_modules: [nosuch]}}, method: finetune-cot}}"
    text = refused(limbeck, recipe, lora)
    assert "students.finetune-cot.model" in text and "lora.target_modules" in text


def test_a_recipe_that_changed_is_looked_at_again(limbeck: Limbeck, tmp_path: Path, model: Path) -> None:
    """The student of the former recipe is done; the one of this recipe would be trained after the teacher."""
    path, out = tmp_path / "r.yaml", tmp_path / "run"
    path.write_text(RECIPE + "exam: {max_tokens: 4}\n")
    first = ("--set", "student.model=tiny-causal-xs", "--set", "student.train.epochs=1")
    assert limbeck("run", path, "--out", out, *first).status == 0
    cut(model / "model.safetensors")
    more = ("--set", f"student.model={model}", "--set", "rationales.per_problem=2")
    answer = limbeck("run", path, "--out", out, *more)
    assert answer.status == 2 and "students.finetune-cot.model" in answer.err
    assert ": started" not in answer.err and not (out / "old").exists()
    again = limbeck("run", path, "--out", out, *first)
    assert again.status == 0 and ": started" not in again.err


def test_a_full_disk_is_found_before_anything_is_made(
    limbeck: Limbeck, recipe: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With LoRA the model's weights are not written."""
    free = shutil.disk_usage(model)._replace(free=SPARE + 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    text = refused(limbeck, recipe, f"student.model={model}")
    assert "the models and checkpoints of this run need about" in text and "of the disk are free" in text
    overrides = [f"student.model={model}", "student.lora={r: 2}"]
    with open_context(recipe, overrides, Request(out=recipe.parent / "run")) as (context, _):
        preflight(context, {})


def test_every_round_keeps_a_model(recipe: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits for one model and its checkpoints does not fit for eleven."""
    weights = sum(one.numel() for one in load_file(model / "model.safetensors").values()) * 4
    free = shutil.disk_usage(model)._replace(free=SPARE + weights * 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    overrides = [f"student.model={model}"]
    for number, uses in enumerate((Uses(), Uses(models=11))):
        with open_context(recipe, overrides, Request(out=recipe.parent / f"run{number}")) as (context, _):
            if uses.models == 1:
                preflight(context, {"finetune-cot": uses})
            else:
                with pytest.raises(InputError, match="the models and checkpoints of this run need about"):
                    preflight(context, {"finetune-cot": uses})


def test_a_choice_by_dev_keeps_a_third_checkpoint(
    recipe: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model and two checkpoints with AdamW's moments are 7 times its weights, with a third one 10."""
    weights = sum(one.numel() for one in load_file(model / "model.safetensors").values()) * 4
    free = shutil.disk_usage(model)._replace(free=SPARE + weights * 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    overrides = [f"student.model={model}"]
    with open_context(recipe, overrides, Request(out=recipe.parent / "last")) as (context, _):
        preflight(context, {})
    overrides.append("student.train.choose=dev-loss")
    request = Request(out=recipe.parent / "dev")
    says = "the models and checkpoints of this run need about"
    with open_context(recipe, overrides, request) as (context, _), pytest.raises(InputError, match=says):
        preflight(context, {})


def test_a_teacher_that_is_asked_again_needs_its_key(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plain rationales are there, the feedback is not."""
    monkeypatch.delenv("PREFLIGHT_KEY")
    out = recipe.parent / "run"
    asks = {"finetune-cot": Uses(asks=True)}
    with open_context(recipe, ["student.model=tiny-causal-xs"], Request(out=out)) as (context, _):
        for name in ("collected", "teacher/exam"):
            (out / name).mkdir(parents=True)
            (out / name / "stage.json").write_text('{"state": "done"}')
        preflight(context, {"finetune-cot": Uses()})
        with pytest.raises(LimbeckError, match="PREFLIGHT_KEY is empty"):
            preflight(context, asks)
        (out / "students/finetune-cot/seed0/exam").mkdir(parents=True)
        (out / "students/finetune-cot/seed0/exam/stage.json").write_text('{"state": "done"}')
        preflight(context, asks)


def test_what_only_finished_stages_need_is_not_asked_for(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFLIGHT_KEY")
    out = recipe.parent / "run"
    for name in ("collected", "teacher/exam", "students/finetune-cot/seed0"):
        with (
            open_context(recipe, ["student.model=gone/away"], Request(out=out)) as (context, _),
            pytest.raises(Exception, match=r"PREFLIGHT_KEY is empty|gone/away"),
        ):
            preflight(context, {})
        (out / name).mkdir(parents=True)
        (out / name / "stage.json").write_text('{"state": "done"}')
    with open_context(recipe, ["student.model=gone/away"], Request(out=out)) as (context, _):
        preflight(context, {})


def test_a_cache_of_prompts_that_would_be_forgotten_is_found_before_anything_is_made(
    limbeck: Limbeck, recipe: Path
) -> None:
    both = ("student.train.share_prompts=true", "student.train.gradient_checkpointing=true")
    text = refused(limbeck, recipe, "student.model=tiny-causal-xs", *both)
    why = "students.finetune-cot.train.share_prompts: true cannot be, because gradient_checkpointing forgets"
    assert why in text
    overrides = ["student.model=tiny-seq2seq-xs", *both]
    with open_context(recipe, overrides, Request(out=recipe.parent / "other")) as (context, _):
        preflight(context, {})  # its encoder's states are no cache


def test_collecting_needs_no_model_of_the_hub_yet(recipe: Path) -> None:
    with open_context(recipe, ["student.model=gone/away"], Request(out=recipe.parent / "run")) as (
        context,
        _,
    ):
        preflight(context, {}, trains=False)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this is a Mac")
def test_a_device_that_is_not_there_is_refused(recipe: Path) -> None:
    for place in ("student", "teacher"):
        teacher = "teacher={kind: local, model: m}"
        with (
            open_context(recipe, [teacher, f"{place}.device=mps"], Request(out=recipe.parent / "run")) as (
                c,
                _,
            ),
            pytest.raises(RecipeError, match=r"device: mps is not there; write auto or cpu"),
        ):
            preflight(c, {})
