"""`quantize: 4bit`: an adapter on a base in 4 bits (QLoRA), with the real bitsandbytes where it is there."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.errors import ModelError, RecipeError
from limbeck.lm import four_bits
from limbeck.lm.load import load
from limbeck.lm.settings import LoraSettings
from limbeck.scale import training
from limbeck.scale.outline import outline

from .lm.families import tiny_folder

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed, which keeps weights in 4 bits",
)

RECIPE = """
name: packed
task: {{name: coin-flip, train: 12, dev: 0, test: 4, parameters: {{people: 2}}}}
teacher: {{kind: offline, exam: false}}
rationales: {{per_problem: 1}}
student:
  method: finetune-cot
  model: '{base}'
  quantize: 4bit
  lora: {{r: 4, dropout: 0}}
  train: {{epochs: 6, batch_size: 4, learning_rate: 0.01}}
exam: {{max_tokens: 8}}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_folder("llama-2", tmp_path / "base")


@pytest.fixture
def recipe(tmp_path: Path, base: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE.format(base=base))
    return tmp_path / "r.yaml"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["student.lora=null"], "quantize: 4bit trains an adapter, because weights in 4 bits take no"),
        (["student.layers=1"], "quantize: 4bit does not go with layers"),
        (["student.train.sharding=fsdp"], "quantize: 4bit does not go with train.sharding"),
        (
            ["student.train.precision=auto"],
            "does not go with train.precision: auto; write bf16, fp16 or fp32",
        ),
        (
            ["student.model=tiny-causal-xs"],
            "tiny-causal-xs is made from scratch, and 4 bits are of a trained",
        ),
        (
            [],
            "quantize: 4bit needs bitsandbytes 0.46.1 or newer, which is not here; pip install bitsandbytes",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    limbeck: Callable[..., Any],
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(four_bits, "is_bitsandbytes_available", lambda: False)
    options = [part for setting in settings for part in ("--set", setting)]
    answer = limbeck("run", recipe, *options, "--out", tmp_path / "run")
    assert answer.status == 2, answer.err
    assert said in " ".join(answer.err.split())
    assert not (tmp_path / "run" / "rationales").exists()


def test_an_adapter_is_no_base_for_4_bits(
    limbeck: Callable[..., Any], recipe: Path, base: Path, tmp_path: Path
) -> None:
    from limbeck.lm.saving import save

    save(load(base, device="cpu", lora=LoraSettings(r=2)), tmp_path / "adapter")
    other = ("--set", f"student.model={tmp_path / 'adapter'}")
    answer = limbeck("run", recipe, *other, "--out", tmp_path / "run")
    assert answer.status == 2
    assert "which does not fold into 4 bits; make a whole model of it" in " ".join(answer.err.split())
    assert not (tmp_path / "run" / "rationales").exists()


def test_arithmetic_of_weights_in_4_bits(base: Path) -> None:
    """Half a byte and the scales for what is in 4 bits; embeddings, norms and the head as they are."""
    sizes = outline(load(base, device="cpu").model)
    inside = 2 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48)  # q, o; k, v of grouped heads; MLP; two layers
    assert sizes.packable == inside
    apart = training.weights(sizes, "bfloat16") - training.weights(sizes, "bfloat16", packed=True)
    assert apart / inside == pytest.approx(2 - 0.5 - 1 / 64 - 4 / (64 * 256), rel=1e-4)


@needs_bitsandbytes
def test_it_learns_and_sits_its_exam_in_4_bits(
    limbeck: Callable[..., Any], recipe: Path, base: Path, tmp_path: Path
) -> None:
    answer = limbeck("run", recipe, "--out", tmp_path / "run")
    assert answer.status == 0, answer.err
    student = tmp_path / "run/students/finetune-cot/seed0"
    losses = [json.loads(line)["loss"] for line in (student / "history.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    assert (student / "exam" / "predictions.jsonl").is_file()

    folder = student / "model"
    assert sorted(one.name for one in folder.glob("*.safetensors")) == ["adapter_model.safetensors"]
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert json.loads((folder / "limbeck.json").read_text())["four_bits"] == "fp32"
    facts = json.loads((student / "training.json").read_text())
    plain = load(base, device="cpu").model
    adapter = facts["trained_parameters"]
    assert facts["parameters"] == sum(one.numel() for one in plain.parameters()) + adapter

    asked = load(folder, device="cpu")  # as exams load it
    assert asked.lora and not any(one.requires_grad for one in asked.model.parameters())
    layer = asked.bare.model.layers[0].mlp.down_proj.base_layer.weight
    assert layer.dtype == torch.uint8 and layer.quant_state.quant_type == "nf4" and layer.quant_state.nested
    again = limbeck("run", recipe, "--out", tmp_path / "run")
    assert again.status == 0 and "students/finetune-cot/seed0: done before, kept" in again.err


@needs_bitsandbytes
def test_all_weights_of_its_adapter_can_be_trained_further(
    limbeck: Callable[..., Any], recipe: Path, tmp_path: Path
) -> None:
    """Then it is folded into its whole base."""
    assert limbeck("run", recipe, "--out", tmp_path / "run").status == 0
    student = tmp_path / "run/students/finetune-cot/seed0/model"
    further = ["student.quantize=null", "student.lora=null", f"student.model={student}"]
    options = [part for setting in further for part in ("--set", setting)]
    answer = limbeck("run", recipe, *options, "--out", tmp_path / "further")
    assert answer.status == 0, answer.err
    facts = json.loads((tmp_path / "further/students/finetune-cot/seed0/training.json").read_text())
    assert facts["trained_parameters"] == facts["parameters"]


@needs_bitsandbytes
def test_what_is_exported_is_the_adapter_on_the_whole_base(
    limbeck: Callable[..., Any], recipe: Path, base: Path, tmp_path: Path
) -> None:
    assert limbeck("run", recipe, "--out", tmp_path / "run").status == 0
    student = tmp_path / "run/students/finetune-cot/seed0"
    answer = limbeck("export", student, "--out", tmp_path / "whole")
    assert answer.status == 0, answer.err
    assert "four_bits" not in json.loads((tmp_path / "whole" / "limbeck.json").read_text())
    name = "model.layers.1.mlp.up_proj"
    adapted = load(student / "model", device="cpu").model.get_submodule(f"base_model.model.{name}")
    change = adapted.lora_B["default"].weight @ adapted.lora_A["default"].weight * adapted.scaling["default"]
    before = load(base, device="cpu").model.get_submodule(name).weight
    after = load(tmp_path / "whole", device="cpu").model.get_submodule(name).weight
    torch.testing.assert_close(after, before + change)


@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_computes_in_the_precision_of_its_training(base: Path, precision: str) -> None:
    found = load(base, lora=LoraSettings(r=2), device="cpu", compressed=precision)
    layer = found.bare.model.layers[0].mlp.up_proj.base_layer
    assert layer.compute_dtype == four_bits.COMPUTE[precision]
    assert {one.dtype for one in found.model.parameters() if one.requires_grad} == {torch.float32}
    held = sum(one.numel() * one.element_size() for name, one in found.model.named_parameters())
    sizes = outline(load(base, device="cpu").model)
    adapter = sum(one.numel() * 4 for one in found.model.parameters() if one.requires_grad)
    scales = sizes.packable // 64 + 4 * (sizes.packable // (64 * 256))
    assert training.weights(sizes, "float32", packed=True) - scales == pytest.approx(held - adapter, rel=1e-3)


@needs_bitsandbytes
def test_an_exam_on_dev_changes_nothing_in_the_training(base: Path) -> None:
    """On some CPUs bitsandbytes packs weights anew in evaluation mode."""
    found = load(base, lora=LoraSettings(r=2, dropout=0), device="cpu", compressed="fp32")
    model, ids = found.model, torch.tensor([[5, 6, 7, 8]])
    weight = found.bare.model.layers[0].self_attn.q_proj.lora_A["default"].weight
    torch.nn.init.ones_(found.bare.model.layers[0].self_attn.q_proj.lora_B["default"].weight)

    def gradient() -> torch.Tensor:
        model.train().zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        assert weight.grad is not None
        return weight.grad.clone()

    before = gradient()
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        torch.testing.assert_close(model.eval()(input_ids=ids).logits, logits, rtol=0, atol=0)
    assert before.norm() > 0
    torch.testing.assert_close(gradient(), before, rtol=0, atol=0)


@needs_bitsandbytes
def test_an_adapter_is_not_folded_into_4_bits(base: Path, tmp_path: Path) -> None:
    from limbeck.lm.saving import save

    save(load(base, lora=LoraSettings(r=2), device="cpu"), tmp_path / "adapter")
    with pytest.raises(ModelError, match="does not fold into 4 bits; limbeck export it first"):
        load(tmp_path / "adapter", lora=LoraSettings(r=2), device="cpu", compressed="fp32")
    with pytest.raises(ModelError, match="made from scratch, it has no weights to keep in 4 bits"):
        load("tiny-causal-xs", tokenizer_texts=["a"], compressed="fp32")
    with pytest.raises(RecipeError, match="four_bits: 'fp8' is not one of fp32, bf16, fp16"):
        load(base, lora=LoraSettings(r=2), device="cpu", compressed="fp8")
