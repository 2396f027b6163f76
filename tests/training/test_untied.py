"""T5 1.1 and FLAN-T5 have a head of their own, and it stays so."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from limbeck.lm import Prompt, Sampling
from limbeck.lm.load import Loaded, load
from limbeck.lm.local import LocalModel
from limbeck.lm.saving import save
from limbeck.lm.settings import LoraSettings
from limbeck.records import Example
from limbeck.training.groups import singles
from limbeck.training.parts import CrossEntropy
from limbeck.training.settings import TrainSettings
from limbeck.training.trainer import train

from ..lm.families import tiny_model

PROMPTS = [
    Prompt(str(n), str(n), text) for n, text in enumerate(["Ada has 3 apples.", "coin", "How many apples?"])
]
HEAD, TABLE = "lm_head.weight", "shared.weight"


def published(folder: Path) -> Path:
    """As FLAN-T5 is published: a head of its own, `tie_word_embeddings: false`, outputs not scaled."""
    model, tokenizer = tiny_model("flan-t5")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(9)
    weights[HEAD] = torch.randn(weights[TABLE].shape, generator=generator) * 0.1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("scale_decoder_outputs", None)
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return folder


def fitted(folder: Path, out: Path, lora: LoraSettings | None = None) -> Loaded:
    loaded = load(folder, device="cpu", lora=lora)
    examples = [Example(problem_id=p.id, prompt=p.text, completion="yes, 12 apples") for p in PROMPTS]
    settings = TrainSettings(epochs=3, learning_rate=1e-2, optimizer="sgd", clip=0)
    train(loaded.model, loaded.tokenizer, singles(examples), [], (CrossEntropy(),), settings, out, seed=0)
    return loaded


def test_an_untied_head_trains_on_its_own_and_is_saved(tmp_path: Path) -> None:
    folder = published(tmp_path / "flan")
    before = load_file(folder / "model.safetensors")
    loaded = fitted(folder, tmp_path / "run")
    state = loaded.model.state_dict()
    moved = {name: (state[name] - before[name]).norm().item() for name in (HEAD, TABLE)}
    assert min(moved.values()) > 0 and not torch.equal(
        state[HEAD] - before[HEAD], state[TABLE] - before[TABLE]
    )
    done = list(LocalModel(loaded)(PROMPTS, Sampling(max_tokens=12)))

    save(loaded, tmp_path / "student", about={"format": "plain"})
    kept = load_file(tmp_path / "student" / "model.safetensors")
    assert torch.equal(kept[HEAD], state[HEAD]) and torch.equal(kept[TABLE], state[TABLE])
    again = load(tmp_path / "student", device="cpu")
    assert torch.equal(again.model.lm_head.weight, state[HEAD])
    assert list(LocalModel(again)(PROMPTS, Sampling(max_tokens=12))) == done


def test_the_gradient_is_that_of_an_untied_head(tmp_path: Path) -> None:
    """By hand: logits are the decoder's states times the head, without T5's scale of tied outputs."""
    loaded = load(published(tmp_path / "flan"), device="cpu")
    model = loaded.model.double()
    ids = torch.tensor([[5, 6, 7, 1]])
    labels = torch.tensor([[9, 10, 1]])
    rows: list[torch.Tensor] = []
    hook = model.lm_head.register_forward_pre_hook(lambda module, args: rows.append(args[0]))
    logits = model(input_ids=ids, labels=labels).logits
    hook.remove()
    states = model.decoder(
        input_ids=torch.tensor([[0, 9, 10]]), encoder_hidden_states=model.encoder(ids)[0]
    ).last_hidden_state
    torch.testing.assert_close(rows[0], states)
    torch.testing.assert_close(logits, states @ model.lm_head.weight.T)


def test_an_adapter_leaves_both_and_comes_back(tmp_path: Path) -> None:
    folder = published(tmp_path / "flan")
    before = load_file(folder / "model.safetensors")
    loaded = fitted(
        folder, tmp_path / "run", LoraSettings(r=2, alpha=4, dropout=0, target_modules=("q", "v"))
    )
    assert torch.equal(loaded.bare.lm_head.weight, before[HEAD])
    assert torch.equal(loaded.bare.shared.weight, before[TABLE])
    done = [one.text for one in LocalModel(loaded)(PROMPTS, Sampling(max_tokens=12))]
    save(loaded, tmp_path / "student", about={"format": "plain"})
    again = load(tmp_path / "student", device="cpu")
    assert [one.text for one in LocalModel(again)(PROMPTS, Sampling(max_tokens=12))] == done
    assert torch.equal(again.model.lm_head.weight, before[HEAD])
