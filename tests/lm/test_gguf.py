"""GGUF files as models: read once, exactly; trained and saved as any other; what is not read is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from limbeck.errors import ModelError
from limbeck.lm import cache
from limbeck.lm.load import load, parameters_of
from limbeck.lm.saving import save
from limbeck.lm.settings import LoraSettings
from limbeck.stages.model_inputs import model_inputs

from .gguf_files import write_gguf, write_t5

Limbeck = Callable[..., Any]

RECIPE = """
name: x
task: {name: coin-flip, train: 6, dev: 0, test: 3, parameters: {people: 2}}
student: {method: finetune-cot, model: MODEL, format: chat, train: {epochs: 1}}
exam: {max_tokens: 4}
"""

QUESTION = "Ada has 3 apples and buys 12 more."


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    model_inputs.cache_clear()
    return tmp_path / "cache"


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([ids])).logits
    return found


@pytest.mark.parametrize(("family", "bits"), [("llama", 32), ("llama", 8), ("qwen2", 32)])
def test_what_is_loaded_is_what_the_file_says(
    tmp_path: Path, family: str, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logits and tokens of the model that was written; read once; saved and loaded by transformers alone."""
    file = tmp_path / "tiny.gguf"
    written, tokenizer = write_gguf(file, family, bits=bits)
    loaded = load(file, device="cpu")
    ids = loaded.tokenizer(QUESTION).input_ids
    if family == "llama":  # Qwen2 splits digits by a rule of its own, which the file's name for it stands for
        assert ids == tokenizer.encode(QUESTION).ids
    assert loaded.tokenizer.decode(ids) == QUESTION
    assert torch.equal(logits(loaded.model, ids), logits(written, ids))
    assert "is read once, into" in capsys.readouterr().err
    assert parameters_of(str(file)) == sum(one.numel() for one in written.parameters())
    assert "is read once" not in capsys.readouterr().err
    save(loaded, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again, ids), logits(written, ids))
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(QUESTION).input_ids == ids


LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("factor", [8.0, 32.0])  # of Llama 3.1 and 3.2
def test_positions_are_scaled_as_the_file_says(tmp_path: Path, factor: float) -> None:
    """llama.cpp writes what each frequency is divided by; transformers overlooks it."""
    file, rope = tmp_path / "tiny.gguf", LLAMA_3 | {"factor": factor}
    written, _ = write_gguf(file, context=2**17, rope=rope)
    plain = 500_000.0 ** -(torch.arange(4) / 4)
    divisors = (plain / written.model.rotary_emb.inv_freq).numpy()
    assert divisors[0] == 1 and divisors[-1] == pytest.approx(factor)
    written, _ = write_gguf(file, context=2**17, rope=rope, divisors=divisors)
    loaded = load(file, device="cpu")
    assert torch.equal(logits(loaded.model, [*range(5, 60)]), logits(written, [*range(5, 60)]))
    write_gguf(file, divisors=np.ones(4))  # as older converters wrote them of models that scale nothing
    assert load(file, device="cpu").model.config.rope_parameters["rope_type"] == "default"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"divisors": np.array([1.0, 1.5, 2.0, 8.0])}, r"a way of its own \(rope_freqs.weight\)"),
        ({"scaling": "yarn"}, r"scales its positions \(yarn\), which is not read from GGUF files"),
    ],
)
def test_positions_that_cannot_be_read_are_refused(tmp_path: Path, more: Any, says: str) -> None:
    write_gguf(tmp_path / "tiny.gguf", **more)
    with pytest.raises(ModelError, match=says):
        load(tmp_path / "tiny.gguf", device="cpu")


@pytest.mark.parametrize("family", ["flan-t5", "t5"])
def test_a_t5_keeps_its_head_and_its_activation(tmp_path: Path, family: str) -> None:
    written = write_t5(tmp_path / "tiny.gguf", family)
    model = load(tmp_path / "tiny.gguf", device="cpu").model
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        found, expected = (one(input_ids=ids, decoder_input_ids=ids).logits for one in (model, written))
    assert torch.equal(found, expected)


def test_a_run_trains_it_and_a_second_one_does_nothing(limbeck: Limbeck, tmp_path: Path) -> None:
    file, recipe, out = tmp_path / "tiny.gguf", tmp_path / "r.yaml", tmp_path / "run"
    write_gguf(file)
    recipe.write_text(RECIPE.replace("MODEL", str(file)))
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 0, answer.err
    student = out / "students/finetune-cot/seed0"
    assert (student / "exam/metrics.json").is_file() and (student / "model/model.safetensors").is_file()
    again = limbeck("run", recipe, "--out", out)
    assert again.status == 0 and ": started" not in again.err
    assert limbeck("ask", student, "Is it heads up?", "--max-tokens", 4).status == 0
    write_gguf(file, bits=8)  # another file under the same name trains another student
    model_inputs.cache_clear()
    changed = limbeck("run", recipe, "--out", out)
    assert changed.status == 0 and "students/finetune-cot/seed0: started" in changed.err


def test_an_adapter_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    written, _ = write_gguf(file)
    adapted = load(file, lora=LoraSettings(r=2, alpha=4), device="cpu")
    save(adapted, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(file)
    again = load(tmp_path / "adapter", device="cpu")  # a new adapter changes nothing
    assert torch.allclose(logits(again.model, [5, 6, 7]), logits(written, [5, 6, 7]), atol=1e-6)
    inputs = model_inputs(str(tmp_path / "adapter"))
    file.unlink()
    model_inputs.cache_clear()
    assert inputs["base"] and "base" not in model_inputs(str(tmp_path / "adapter"))
    with pytest.raises(Exception, match=r"its base model is no longer at .*tiny\.gguf; put it back"):
        load(tmp_path / "adapter", device="cpu")


def test_an_adapter_names_a_link_by_its_own_name(tmp_path: Path) -> None:
    """Caches of hubs keep files under their hashes and link to them."""
    write_gguf(tmp_path / "blob")
    (tmp_path / "tiny.gguf").symlink_to(tmp_path / "blob")
    save(load(tmp_path / "tiny.gguf", lora=LoraSettings(r=2), device="cpu"), tmp_path / "adapter")
    load(tmp_path / "adapter", device="cpu")


def test_an_adapter_is_refused_on_another_file(tmp_path: Path) -> None:
    file, about = tmp_path / "tiny.gguf", {"format": "plain"}
    write_gguf(file)
    save(load(file, lora=LoraSettings(r=2), device="cpu"), tmp_path / "adapter", about=about)
    load(tmp_path / "adapter", device="cpu")
    write_gguf(file, bits=8)
    with pytest.raises(ModelError, match=r"adapter: its adapter was not trained on what .*tiny\.gguf is now"):
        load(tmp_path / "adapter", device="cpu")


def test_files_next_to_it_are_not_read(tmp_path: Path) -> None:
    """Such as those of the folder that it was converted from, with another vocabulary."""
    from tokenizers import Tokenizer, models

    write_gguf(tmp_path / "tiny.gguf")
    expected = load(tmp_path / "tiny.gguf", device="cpu").tokenizer(QUESTION).input_ids
    beside = tmp_path / "beside"
    beside.mkdir()
    write_gguf(beside / "tiny.gguf", bits=8)  # other content: it is not in the cache yet
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(beside / "tokenizer.json"))
    (beside / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert load(beside / "tiny.gguf", device="cpu").tokenizer(QUESTION).input_ids == expected


def test_convert_writes_a_folder(limbeck: Limbeck, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    assert limbeck("convert", tmp_path / "tiny.gguf", "--out", tmp_path / "folder").status == 0
    assert load(tmp_path / "folder", device="cpu").tokenizer.chat_template
    assert not (tmp_path / "cache").exists()


def _unknown(file: Path) -> None:
    write_gguf(file, named="rwkv7")


def _bert(file: Path) -> None:
    write_gguf(file, named="bert")


def _silent(file: Path) -> None:
    write_gguf(file, with_tokenizer=False)


def _cut(share: float) -> Callable[[Path], None]:
    def cut(file: Path) -> None:
        write_gguf(file)
        whole = file.read_bytes()
        file.write_bytes(whole[: int(len(whole) * share)])

    return cut


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_unknown, "rwkv7 is not supported"),
        (_bert, "bert is not supported"),
        (_silent, "no tokenizer is inside"),
        (_cut(0.0002), "cut off or damaged"),
        (_cut(0.05), "cut off or damaged"),
        (_cut(0.3), "cut off or damaged"),
        (_cut(0.7), "cut off or damaged"),
        (_cut(0.99), "cut off or damaged"),
        (lambda file: file.write_bytes(b""), "not a GGUF file"),
        (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"), "not a GGUF file"),
        (lambda file: None, "no such file; check the path"),
    ],
    ids=[
        "unknown",
        "encoder",
        "no tokenizer",
        "header",
        "5%",
        "30%",
        "70%",
        "99%",
        "empty",
        "text",
        "absent",
    ],
)
def test_what_is_not_read_is_refused_before_anything_is_made(
    limbeck: Limbeck, tmp_path: Path, own_cache: Path, spoil: Callable[[Path], None], says: str
) -> None:
    file, recipe, out = tmp_path / "tiny.gguf", tmp_path / "r.yaml", tmp_path / "run"
    spoil(file)
    recipe.write_text(RECIPE.replace("MODEL", str(file)).replace("format: chat, ", ""))
    answer = limbeck("run", recipe, "--out", out)
    last = answer.err.splitlines()[-1]
    assert answer.status == 2 and says in last, answer.err
    assert (
        last.startswith(f"limbeck: students.finetune-cot.model: {file}: ") and "Traceback" not in answer.err
    )
    assert not (out / "problems").exists()
    assert not [one for one in own_cache.rglob("*") if one.is_file() and one.suffix != ".lock"]


def test_a_part_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tiny-00001-of-00002.gguf"
    write_gguf(file)
    with pytest.raises(Exception, match="one of 2 parts; merge them"):
        load(file)


def test_sizes_that_no_model_has_are_refused(tmp_path: Path) -> None:
    import gguf

    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    reader = gguf.GGUFReader(file, "r+")
    reader.fields["llama.block_count"].parts[-1][0] = 4_000_000
    del reader
    with pytest.raises(Exception, match="it says num_hidden_layers 4,000,000, and no model has more"):
        load(file)


def test_a_damaged_folder_of_the_cache_is_refused(tmp_path: Path, own_cache: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    load(file, device="cpu")
    (weights,) = own_cache.rglob("model.safetensors")
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1
    weights.write_bytes(whole)
    assert cache.damage(weights.parent) == "model.safetensors"
    with pytest.raises(Exception, match=r"model\.safetensors changed since it was made; delete the folder"):
        load(file, device="cpu")
