"""Loading and saving: by folder, from scratch, with adapters; and one sentence for whatever is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from limbeck import files
from limbeck.errors import DiskError, ModelError, RecipeError
from limbeck.lm.load import Loaded, load, quiet, read_config
from limbeck.lm.saving import export, merged, save
from limbeck.lm.settings import LoraSettings
from limbeck.lm.tiny import build_model, build_tokenizer

from .families import TEXTS, tiny_model

LORA = LoraSettings(r=2, alpha=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An ordinary small model folder."""
    return written(tmp_path / "model", *tiny_model("llama-2"))


def written(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def change(file: Path, **settings: Any) -> None:
    """Change a JSON file; None removes a setting."""
    known = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({key: value for key, value in known.items() if value is not None}))


def state(loaded: Loaded) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_from_scratch_saved_and_loaded(tmp_path: Path) -> None:
    made = load("tiny-seq2seq-xs", seed=5, tokenizer_texts=TEXTS, device="cpu")
    assert (made.encoder_decoder, made.lora, made.name) == (True, False, "tiny-seq2seq-xs")
    save(made, tmp_path / "out" / "model", about={"format": "plain", "max_tokens": 64, "task": "ä"})
    again = load(tmp_path / "out" / "model", name="student", device="cpu")
    assert same(state(made), state(again)) and again.encoder_decoder and again.name == "student"
    assert again.tokenizer.get_vocab() == made.tokenizer.get_vocab()
    about = json.loads((tmp_path / "out" / "model" / "limbeck.json").read_text("utf-8"))
    template = about.pop("base_chat_template")
    assert about == {"format": "plain", "max_tokens": 64, "task": "ä"}
    assert template == made.tokenizer.chat_template == again.tokenizer.chat_template
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"], "nothing half-written is left"
    assert not list((tmp_path / "out").rglob("*.bin"))


def test_a_model_from_scratch_needs_texts() -> None:
    with pytest.raises(
        ModelError,
        match="tiny-causal: made from scratch, it needs training texts; give a model folder instead",
    ):
        load("tiny-causal")


def test_the_same_seed_gives_the_same_weights_and_adapter_and_leaves_the_generator() -> None:
    before = torch.get_rng_state()
    threads = torch.get_num_threads()
    runs = [
        state(load("tiny-causal-xs", seed=seed, tokenizer_texts=TEXTS, lora=LORA, device="cpu"))
        for seed in (1, 1, 2)
    ]
    assert same(runs[0], runs[1])
    changed = {name.split(".")[-3] for name in runs[0] if not torch.equal(runs[0][name], runs[2][name])}
    assert "lora_A" in changed and len(changed) > 1
    assert torch.equal(before, torch.get_rng_state()) and threads == torch.get_num_threads()


def test_dtype_and_adapter_dtype(folder: Path) -> None:
    assert {p.dtype for p in load(folder).model.parameters()} == {torch.float32}
    half = load(folder, dtype="bfloat16", lora=LORA)
    assert all(
        parameter.dtype == (torch.float32 if "lora" in name else torch.bfloat16)
        for name, parameter in half.model.named_parameters()
    )
    scratch = load("tiny-causal-xs", tokenizer_texts=TEXTS, dtype="bfloat16", device="cpu")
    assert {p.dtype for p in scratch.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"device": "gpu"}, "device: 'gpu' is not a device; write auto, cpu"),
        ({"device": "cuda:99"}, "device: cuda:99 is not there"),
        ({"dtype": "float8"}, "dtype: 'float8' is not supported; choose one of float32, bfloat16"),
    ],
)
def test_a_device_or_dtype_that_is_not_there(folder: Path, setting: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load(folder, **setting)


def test_only_the_adapter_is_trainable_and_never_the_head(folder: Path) -> None:
    loaded = load(folder, lora=LORA)
    assert loaded.lora and loaded.bare is loaded.model.get_base_model()
    trained = {name.split(".")[-4] for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    some = load(folder, lora=LoraSettings(r=2, target_modules=("q_proj", "v_proj")))
    assert {name.split(".")[-4] for name, p in some.model.named_parameters() if p.requires_grad} == {
        "q_proj",
        "v_proj",
    }
    with pytest.raises(ModelError, match=r"lora.target_modules: .*nothing_proj.*; name its layers"):
        load(folder, lora=LoraSettings(target_modules=("nothing_proj",)))


@pytest.mark.parametrize(("family", "layer"), [("gpt2", "wte"), ("gemma2", "lm_head"), ("t5", "shared")])
def test_an_adapter_on_a_shared_weight_is_refused(tmp_path: Path, family: str, layer: str) -> None:
    """Folded in, it would act in the embedding and in the head; it was trained in one of them."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = tiny_model(family)
    base = written(tmp_path / "base", model, tokenizer)
    with pytest.raises(ModelError, match=f"lora.target_modules: {layer} is a layer whose weight another"):
        load(base, lora=LoraSettings(r=2, target_modules=(layer,)))
    with quiet():
        found = get_peft_model(model, LoraConfig(r=2, target_modules=[layer]))
        found.save_pretrained(tmp_path / "found", save_embedding_layers=False)
    change(tmp_path / "found" / "adapter_config.json", base_model_name_or_path=str(base))
    for trainable in (False, True):
        with pytest.raises(ModelError, match=f"found: its adapter is on {layer}, whose weight another"):
            load(tmp_path / "found", trainable=trainable)


def test_an_adapter_on_a_head_of_its_own_may_be_folded_in(folder: Path, tmp_path: Path) -> None:
    loaded = nudge(load(folder, lora=LoraSettings(r=2, target_modules=("lm_head", "embed_tokens"))), 0.1)
    save(loaded, tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7]])
    before = loaded.model.eval()(ids).logits
    assert torch.allclose(load(tmp_path / "adapter").model.eval()(ids).logits, before, atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"r": 0}, {"dropout": 1}, {"rank": 3}, {"target_modules": "all"}, {"target_modules": []}]
)
def test_lora_settings_are_checked(wrong: dict[str, Any]) -> None:
    assert LoraSettings().model_dump() == {
        "r": 64,
        "alpha": 32,
        "dropout": 0.05,
        "target_modules": "all-linear",
    }
    assert LoraSettings.model_validate({"target_modules": ["q", "v"]}).target_modules == ("q", "v")
    with pytest.raises(ValidationError):
        LoraSettings.model_validate(wrong)


# --- padding, end of sequence


def with_tokens(folder: Path, **tokens: str | None) -> Path:
    """The folder with other special tokens; its old padding token becomes an ordinary one."""
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] != "<pad>"]
    raw["model"]["vocab"]["pad"] = raw["model"]["vocab"].pop("<pad>")
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    change(folder / "tokenizer_config.json", **tokens)
    for file in ("config.json", "generation_config.json"):
        change(folder / file, pad_token_id=None)
    return folder


@pytest.mark.parametrize("pad", [None, "<eos>"], ids=["none", "end-of-sequence"])
def test_a_missing_padding_token_becomes_one_of_its_own(
    folder: Path, tmp_path: Path, pad: str | None
) -> None:
    model, tokenizer = tiny_model("llama-2")
    model.resize_token_embeddings(len(tokenizer))  # no spare rows
    written(folder, model, tokenizer)
    loaded = load(with_tokens(folder, pad_token=pad))

    assert loaded.tokenizer.pad_token == "<pad>"
    assert loaded.tokenizer.pad_token_id == len(tokenizer) != loaded.tokenizer.eos_token_id
    table = loaded.model.get_input_embeddings().weight
    assert table.shape[0] == len(tokenizer) + 1
    assert torch.allclose(table[-1], table[:-1].mean(dim=0)), "never the likeliest token"
    assert loaded.model.config.pad_token_id == loaded.model.generation_config.pad_token_id == len(tokenizer)
    save(loaded, tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.tokenizer.pad_token_id == len(tokenizer) and same(state(again), state(loaded))


def test_the_new_padding_token_takes_a_spare_row(folder: Path) -> None:
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    loaded = load(with_tokens(folder, pad_token=None))
    assert loaded.model.get_input_embeddings().weight.shape[0] == rows
    assert loaded.tokenizer.pad_token_id < rows


def test_the_unknown_token_pads_where_there_is_one(folder: Path) -> None:
    loaded = load(with_tokens(folder, pad_token=None, unk_token="<|system|>"))
    assert loaded.tokenizer.pad_token == "<|system|>"
    assert loaded.model.config.pad_token_id == loaded.tokenizer.convert_tokens_to_ids("<|system|>")


def test_an_adapter_with_a_new_padding_row_comes_back(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = tiny_model("gpt2")
    model.resize_token_embeddings(len(tokenizer))
    base = written(tmp_path / "base", model, tokenizer)
    loaded = load(with_tokens(base, pad_token=None), lora=LORA)
    save(loaded, tmp_path / "alone")
    again = load(tmp_path / "alone", trainable=True)
    assert again.tokenizer.pad_token_id == loaded.tokenizer.pad_token_id == len(tokenizer)
    assert same(state(again), state(loaded))


def test_of_published_defaults_only_the_tokens_are_saved(folder: Path, tmp_path: Path) -> None:
    """A temperature without sampling (Llama 2) could not even be saved once the padding token changed."""
    change(folder / "generation_config.json", temperature=0.9, top_p=0.6, eos_token_id=[1, 5])
    loaded = load(with_tokens(folder, pad_token="<|system|>"))
    save(loaded, tmp_path / "again")
    kept = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    del kept["transformers_version"]
    pad = loaded.tokenizer.pad_token_id
    assert kept == {"do_sample": False, "eos_token_id": [1, 5], "pad_token_id": pad}


def test_the_start_of_a_decoder_may_stand_in_the_generation_config(tmp_path: Path) -> None:
    folder = written(tmp_path / "t5", *tiny_model("t5"))
    change(folder / "config.json", decoder_start_token_id=None)
    assert load(folder).model.config.decoder_start_token_id == 0
    change(folder / "generation_config.json", decoder_start_token_id=None)
    with pytest.raises(ModelError, match=r"no decoder_start_token_id; set it in config\.json"):
        load(folder)


# --- what is wrong


def broken_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama",')


def no_type(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def unknown_type(folder: Path) -> None:
    change(folder / "config.json", model_type="nosuch")


def wrong_value(folder: Path) -> None:
    change(folder / "config.json", hidden_size="big")


def own_code(folder: Path) -> None:
    change(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})
    (folder / "own.py").write_text("raise SystemExit('this code must not run')")


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20_000])


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def other_shapes(folder: Path) -> None:
    change(folder / "config.json", intermediate_size=50)


def more_layers(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=3)


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model"')


def no_end(folder: Path) -> None:
    change(folder / "tokenizer_config.json", eos_token=None)


def too_many_tokens(folder: Path) -> None:
    build = build_tokenizer(
        [" ".join(f"word{letter}{other}" for letter in "abcdefgh" for other in "stuvwxyz")] * 3
    )
    build.save_pretrained(folder)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (broken_json, "config.json cannot be read (It looks like the config file"),
        (no_type, "config.json cannot be read (Unrecognized model"),
        (unknown_type, "model type `nosuch`"),
        (wrong_value, "config.json cannot be read (Validation error for field 'hidden_size'"),
        (
            own_code,
            "config.json names remote code (auto_map, for model_type own), which Limbeck does not run",
        ),
        (truncated, "the weights cannot be read (Error while deserializing header"),
        (no_weights, "the weights cannot be read (Error no file named model.safetensors"),
        (pickled, "could hold code; turn its weights into safetensors with: limbeck convert"),
        (other_shapes, "the weights cannot be read ("),
        (more_layers, "the weights lack 9 tensors, such as model.layers.2.input_layernorm.weight"),
        (no_tokenizer, "the tokenizer cannot be read ("),
        (broken_tokenizer, "the tokenizer cannot be read ("),
        (no_end, "the tokenizer has no end-of-sequence token; set eos_token in tokenizer_config.json"),
        (too_many_tokens, "beyond the model's"),
        (no_config, "not a model folder, it has no config.json; give one that has"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_broken_folder_is_one_sentence_with_a_fix(
    folder: Path, capfd: pytest.CaptureFixture[str], spoil: Callable[[Path], None], says: str
) -> None:
    spoil(folder)
    capfd.readouterr()
    with pytest.raises(ModelError) as caught:
        load(folder)
    text = str(caught.value)
    assert text.startswith(f"{folder}: ") and says in text and ";" in text and "\n" not in text
    assert capfd.readouterr() == ("", ""), "the sentence is all there is"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./nowhere", "./nowhere: no such folder; check the path"),
        ("/nowhere/at/all", "/nowhere/at/all: no such folder; check the path"),
        ("runs/demo/model", "runs/demo/model: no such folder; check the path"),
        (
            "nobody/nothing",
            "nobody/nothing: no folder of this name, and the model hub cannot be reached; give a model",
        ),
        ("no such name", "no such name: config.json cannot be read (Repo id must"),
        ("tiny-causal-xxl", "tiny-causal-xxl: no such size; choose one of tiny-causal-xs"),
    ],
)
def test_a_name_that_leads_nowhere(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=re.escape(says)):
        load(name, tokenizer_texts=TEXTS)


def test_a_file_is_no_model(folder: Path) -> None:
    with pytest.raises(ModelError, match="a file, not a model; give the folder it is in"):
        load(folder / "model.safetensors")


def test_a_model_that_only_fills_gaps_is_refused(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(TEXTS)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
    )
    with pytest.raises(
        ModelError, match="bert is not a model that writes text; give a causal or an encoder-decoder"
    ):
        load(written(tmp_path / "bert", BertForMaskedLM(config), tokenizer))


def nudge(loaded: Loaded, by: float) -> Loaded:
    """Give an adapter an effect."""
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(by)
    return loaded


def logits(loaded: Loaded) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = loaded.model.eval()(input_ids=torch.tensor([[5, 6, 7]])).logits
    return found


def test_an_adapter_of_a_model_from_scratch_carries_its_base_and_may_move(tmp_path: Path) -> None:
    made = nudge(load("tiny-causal-xs", tokenizer_texts=TEXTS, lora=LORA, device="cpu"), 0.1)
    save(made, tmp_path / "model", about={"format": "plain"})
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors")}
    assert found == {"model/adapter_model.safetensors", "model/base/model.safetensors"}
    (tmp_path / "model").rename(tmp_path / "moved")
    assert read_config(tmp_path / "moved").model_type == made.bare.config.model_type
    again = load(tmp_path / "moved", lora=LORA, trainable=True, device="cpu")
    assert same(state(again), state(made)) and again.tokenizer.get_vocab() == made.tokenizer.get_vocab()
    save(again, tmp_path / "second")  # trained on, it carries its base along
    torch.testing.assert_close(logits(load(tmp_path / "second", device="cpu")), logits(made))
    export(tmp_path / "second", tmp_path / "whole")
    torch.testing.assert_close(logits(load(tmp_path / "whole", device="cpu")), logits(made))
    assert not (tmp_path / "whole" / "adapter_config.json").exists()


def test_what_export_writes_is_in_the_type_it_was_trained_in(folder: Path, tmp_path: Path) -> None:
    save(load(folder, lora=LORA, dtype="bfloat16"), tmp_path / "adapter", about={"dtype": "bfloat16"})
    export(tmp_path / "adapter", tmp_path / "half")
    export(tmp_path / "adapter", tmp_path / "full", dtype="float32")
    kinds = [
        {tensor.dtype for tensor in load_file(tmp_path / name / "model.safetensors").values()}
        for name in ("half", "full")
    ]
    assert kinds == [{torch.bfloat16}, {torch.float32}]
    about = [json.loads((tmp_path / name / "limbeck.json").read_text()) for name in ("adapter", "half")]
    assert about[0] == about[1] and about[1]["dtype"] == "bfloat16"


def test_a_base_that_is_gone_or_not_named(folder: Path, tmp_path: Path) -> None:
    save(load(folder, lora=LORA), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match=re.escape(f"its base model is no longer at {folder}; put it back")):
        load(tmp_path / "adapter")
    change(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=None)
    for read in (load, read_config):
        with pytest.raises(
            ModelError, match=r"no base model is named; set base_model_name_or_path in adapter_config\.json"
        ):
            read(tmp_path / "adapter")


def test_a_broken_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    save(load(folder, lora=LORA), adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    lacking = {name: tensor for name, tensor in weights.items() if "layers.1" not in name}
    save_file(lacking, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"the adapter cannot be read \(Found missing adapter keys"):
        load(adapter)
    save_file(
        {name: tensor[:, :3].clone() for name, tensor in weights.items()},
        adapter / "adapter_model.safetensors",
    )
    with pytest.raises(ModelError, match=r"the adapter cannot be read \("):
        load(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the adapter cannot be read \("):
        load(adapter)
    other = {"peft_type": "IA3", "base_model_name_or_path": str(folder), "target_modules": ["k_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(other))
    with pytest.raises(ModelError, match="an adapter of type IA3; only LORA is supported"):
        load(adapter)


def test_an_adapter_goes_on_or_is_merged_under_a_second_one(folder: Path, tmp_path: Path) -> None:
    first = nudge(load(folder, lora=LORA), 0.1)
    save(first, tmp_path / "first")
    going_on = load(tmp_path / "first", lora=LORA, trainable=True)
    assert going_on.lora and same(state(going_on), state(first))
    assert any(p.requires_grad for p in going_on.model.parameters())
    second = nudge(load(tmp_path / "first", lora=LORA, seed=1), 0.2)
    save(second, tmp_path / "second")
    both = load(tmp_path / "second")
    torch.testing.assert_close(logits(both), logits(second))
    assert not torch.allclose(logits(both), logits(first)), (
        "the first adapter is in the base it is saved with"
    )
    plain = load(tmp_path / "first", lora=None)
    assert not plain.lora and all(p.requires_grad for p in plain.model.parameters())


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"r": 4}, "has r = 2, lora.r asks for 4"),
        ({"alpha": 8}, "has alpha = 4.0, lora.alpha asks for 8"),
        ({"target_modules": ("q_proj",)}, "lora.target_modules asks for ['q_proj']"),
    ],
)
def test_training_does_not_go_on_with_other_settings(
    folder: Path, tmp_path: Path, other: dict[str, Any], says: str
) -> None:
    save(load(folder, lora=LORA), tmp_path / "adapter")
    with pytest.raises(ModelError, match=re.escape(says)):
        load(tmp_path / "adapter", lora=LORA.model_copy(update=other), trainable=True)


def test_merged_is_an_ordinary_model(folder: Path, tmp_path: Path) -> None:
    loaded = nudge(load(folder, lora=LORA), 0.1)
    before = logits(loaded)
    whole = merged(loaded)
    save(whole, tmp_path / "whole")
    assert not whole.lora and not (tmp_path / "whole" / "adapter_config.json").exists()
    torch.testing.assert_close(logits(load(tmp_path / "whole")), before)


def test_a_base_given_by_a_relative_path_is_found_from_elsewhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    save(load(folder.name, lora=LORA), tmp_path / "adapter")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(tmp_path / "adapter").name == str(tmp_path / "adapter")


# --- saving


def test_a_failed_save_leaves_the_older_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_to_disk", full)
    with pytest.raises(DiskError, match=f"{folder}: No space left on device; free the space"):
        save(loaded, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_save_replaces_the_older_folder_and_what_a_kill_left(folder: Path) -> None:
    (folder / "old.txt").write_text("old")
    for word in ("partial", "old"):
        (folder.parent / f".model.{word}").mkdir()
        (folder.parent / f".model.{word}" / "junk").write_text("junk")
    loaded = load(folder)
    loaded.model.lm_head.weight.data.fill_(0.5)
    save(loaded, folder)
    assert not (folder / "old.txt").exists() and list(folder.parent.iterdir()) == [folder]
    assert load(folder).model.lm_head.weight.unique().tolist() == [0.5]


def test_the_older_folder_survives_the_last_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands aside while the new one moves in; if that fails, or is killed there, it comes back."""
    loaded = load(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == ".model.partial":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fail)
        with pytest.raises(DiskError, match="Input/output error"):
            save(loaded, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before

    folder.rename(folder.parent / ".model.old")  # as a kill between the two moves leaves it
    monkeypatch.setattr(files, "_to_disk", lambda path: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(DiskError):
        save(loaded, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place_is_named(folder: Path) -> None:
    loaded = load(folder)
    folder.parent.chmod(0o500)
    try:
        with pytest.raises(DiskError, match="Permission denied"):
            save(loaded, folder.parent / "new")
    finally:
        folder.parent.chmod(0o700)


def test_a_place_below_a_file_is_named(folder: Path) -> None:
    with pytest.raises(DiskError, match="fix the permission"):
        save(load(folder), folder / "config.json" / "model")


def test_saving_shows_no_bars(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = Loaded(
        build_model("tiny-causal-xs", build_tokenizer(TEXTS), 0), build_tokenizer(TEXTS), False, "x"
    )
    capfd.readouterr()
    save(model, folder)
    load(folder)
    assert capfd.readouterr() == ("", "")
