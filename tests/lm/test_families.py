"""Every promised family: saved, loaded, generated with, adapted and trained, in some 50 k parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.lm import Prompt, Sampling
from limbeck.lm.load import Loaded, load, read_config
from limbeck.lm.local import LocalModel, prompt_ids
from limbeck.lm.saving import export, save
from limbeck.lm.settings import LoraSettings
from limbeck.records import Example
from limbeck.training.groups import singles
from limbeck.training.parts import CrossEntropy
from limbeck.training.settings import TrainSettings
from limbeck.training.trainer import train

from .families import tiny_model

PROMPTS = [
    "Ada has 3 apples.",
    "How many apples does Ada have, if Ada has 3 apples and buys 12 more?\n",
    "coin",
    "Is the coin still heads up? The coin is flipped twice, so the coin is heads up.\n",
    "more and more apples",
]
LORA = LoraSettings(r=4, alpha=8, dropout=0)
NEW = 24  # with the longest prompts, well beyond the windows of 8


def by_library(loaded: Loaded, texts: Sequence[str], max_tokens: int = NEW) -> list[list[int]]:
    """New tokens of the library's own greedy `generate`, one prompt at a time."""
    found = []
    for ids in prompt_ids(loaded, texts):
        whole = loaded.bare.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=max_tokens)[
            0
        ].tolist()
        found.append(whole[1:] if loaded.encoder_decoder else whole[len(ids) :])
    return found


def by_limbeck(
    loaded: Loaded, texts: Sequence[str], max_tokens: int = NEW, **limits: int
) -> list[tuple[str, int]]:
    """Text and number of new tokens of our greedy completions, in the order of the prompts."""
    prompts = [Prompt(str(number), str(number), text) for number, text in enumerate(texts)]
    done = list(LocalModel(loaded, **limits)(prompts, Sampling(max_tokens=max_tokens)))
    done.sort(key=lambda completion: int(completion.prompt_id))
    assert [completion.prompt_id for completion in done] == [prompt.id for prompt in prompts]
    return [(completion.text, completion.tokens) for completion in done]


def read(loaded: Loaded, ids: list[int], stops: Sequence[int] = ()) -> tuple[str, int]:
    """What a completion of these tokens should be: the text without the stopping token, and their number."""
    ends = ids[-1] in {loaded.tokenizer.eos_token_id, *stops}
    return loaded.tokenizer.decode(ids[:-1] if ends else ids, skip_special_tokens=True), len(ids)


GROUPED = {"llama-2", "llama-3", "mistral", "mixtral", "qwen2", "qwen3"}
PROJECTIONS = ["k_proj.bias", "k_proj.weight", "o_proj.weight", "q_proj.bias", "q_proj.weight"]
PROJECTIONS += ["v_proj.bias", "v_proj.weight"]


@pytest.mark.parametrize("name", sorted(GROUPED | {"llama-1", "qwen1.5"}))
def test_each_name_has_its_published_layout(name: str) -> None:
    """Which heads share keys, which projections have a bias, and whether the head is the embedding."""
    model, _ = tiny_model(name)
    inside = "model.layers.0.self_attn."
    found = {key.removeprefix(inside): one for key, one in model.state_dict().items() if inside in key}
    assert (len(found["k_proj.weight"]) < len(found["q_proj.weight"])) == (name in GROUPED)
    qwen2 = name in ("qwen1.5", "qwen2")
    norms = ["q_norm.weight", "k_norm.weight"] if name == "qwen3" else []
    expected = [one for one in PROJECTIONS if qwen2 or "bias" not in one]
    assert sorted(found) == sorted(expected + norms)
    assert all(one.abs().max() > 0 for key, one in found.items() if "bias" in key)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (name == "qwen2"), "of half a billion parameters; larger ones have a head"


def test_the_frequencies_of_llama_3_are_scaled(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama-3")
    plain = 500_000.0 ** -(torch.arange(0, 8, 2) / 8)
    scaled = model.model.rotary_emb.inv_freq
    assert torch.equal(scaled[0], plain[0]) and torch.allclose(scaled[1:], plain[1:] / 8)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path).model.model.rotary_emb.inv_freq, scaled)


def test_llama_1_says_nothing_of_key_value_heads(tmp_path: Path) -> None:
    """Its config.json is older than the setting; every head then has its own."""
    model, _ = tiny_model("llama-1")
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings.pop("num_key_value_heads") == 4
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert read_config(tmp_path).num_key_value_heads == 4


@pytest.mark.parametrize(
    ("name", "number"), [("llama-1", ["▁", "1", "2", "3"]), ("llama-3", ["Ġ", "12", "3"])]
)
def test_the_tokenizers_of_llama_begin_every_text_and_split_numbers_their_own_way(
    name: str, number: list[str], tmp_path: Path
) -> None:
    model, tokenizer = tiny_model(name)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    read = load(tmp_path).tokenizer
    tokens = read.convert_ids_to_tokens(read("The answer is 123.").input_ids)
    assert tokens[0] == read.bos_token and tokens[-1 - len(number) :] == [*number, "."]


@pytest.fixture
def folder(tiny_family: tuple[Any, Any], tmp_path: Path) -> Path:
    """The family's random model, saved as its own library saves it."""
    model, tokenizer = tiny_family
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_greedy_completions_are_those_of_the_library(folder: Path) -> None:
    loaded = load(folder)
    # Several stopping tokens, so that rows end at different steps and leave the batch.
    common = by_library(loaded, PROMPTS)
    stops = [loaded.tokenizer.eos_token_id, common[0][5], common[1][9], common[3][12]]
    loaded.bare.generation_config.eos_token_id = stops
    expected = by_library(loaded, PROMPTS)
    assert len({len(ids) for ids in expected}) > 1, "no row ends early: the test would not see a wrong drop"
    assert by_limbeck(loaded, PROMPTS) == [read(loaded, ids, stops) for ids in expected]


def logits(loaded: Loaded) -> torch.Tensor:
    """Next-token logits after a prompt, and after one token of an encoder-decoder."""
    ids = torch.tensor(prompt_ids(loaded, [PROMPTS[1]]))
    given = {"decoder_input_ids": ids[:, :4]} if loaded.encoder_decoder else {}
    with torch.no_grad():
        return loaded.model.eval()(input_ids=ids, **given).logits


def nudge(loaded: Loaded) -> Loaded:
    """Give an untrained adapter an effect: its second matrices begin at zero."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    return loaded


def test_an_adapter_generates_and_is_saved_merged_or_alone(folder: Path, tmp_path: Path) -> None:
    plain = logits(load(folder))
    loaded = nudge(load(folder, lora=LORA))
    adapted = logits(loaded)
    assert not torch.allclose(adapted, plain, atol=1e-2)
    assert by_limbeck(loaded, PROMPTS) == [read(loaded, ids) for ids in by_library(loaded, PROMPTS)]

    save(loaded, tmp_path / "alone")
    save(replace(loaded, base=""), tmp_path / "moving")  # as a model from scratch, its base next to it
    assert torch.equal(logits(loaded), adapted), "saving changed the model"
    (tmp_path / "moving").rename(tmp_path / "moved")
    export(tmp_path / "moved", tmp_path / "exported")
    merged, alone = load(tmp_path / "exported"), load(tmp_path / "alone")
    apart, own = (load(tmp_path / name, trainable=True) for name in ("alone", "moved"))
    assert [one.lora for one in (merged, alone, apart, own)] == [False, False, True, True]
    assert (apart.base, own.base, alone.base) == (str(folder), "", "")
    assert all(
        parameter.requires_grad == ("lora" in name) for name, parameter in apart.model.named_parameters()
    )
    torch.testing.assert_close(logits(merged), adapted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(alone), adapted, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(apart), adapted) and torch.equal(logits(own), adapted)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_two_steps_of_training_lower_the_loss(
    folder: Path, tmp_path: Path, lora: LoraSettings | None
) -> None:
    loaded = load(folder, lora=lora)
    by_limbeck(loaded, PROMPTS[:2], max_tokens=4)  # what generation leaves behind must not disturb training
    examples = [
        Example(problem_id=str(n), prompt=text, completion="yes, 12 apples") for n, text in enumerate(PROMPTS)
    ]
    settings = TrainSettings(epochs=2, learning_rate=3e-3)
    parts, folder = (CrossEntropy(),), tmp_path / "run"
    train(loaded.model, loaded.tokenizer, singles(examples), [], parts, settings, folder, seed=0)

    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    first, second = (row["loss"] for row in rows)
    assert second < first
    assert by_limbeck(loaded, PROMPTS) == [read(loaded, ids) for ids in by_library(loaded, PROMPTS)]
