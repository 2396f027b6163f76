"""Original weights of Llama and Mistral: the converted folder computes what the authors' own code does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from limbeck.errors import ModelError
from limbeck.lm.load import load
from limbeck.lm.original import half_a_head_apart
from limbeck.lm.tiny import build_tokenizer

Limbeck = Callable[..., Any]
Weights = dict[str, torch.Tensor]

PARAMS = {
    "dim": 24,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "norm_eps": 1e-5,
    "vocab_size": -1,
    "multiple_of": 8,
}
INNER = 40

ROWS = {"wq", "wk", "wv", "w1", "w3", "output"}
COLUMNS = {"wo", "w2"}


def drawn(params: dict[str, Any], words: int) -> Weights:
    """Random weights by the authors' names."""
    torch.manual_seed(0)
    width, heads = params["dim"], params["n_heads"]
    head = params.get("head_dim", width // heads)
    found: Weights = {"tok_embeddings.weight": torch.randn(words, width), "rope.freqs": torch.ones(head // 2)}
    for layer in range(params["n_layers"]):
        sizes = {
            "attention.wq": (heads * head, width),
            "attention.wk": (params["n_kv_heads"] * head, width),
            "attention.wv": (params["n_kv_heads"] * head, width),
            "attention.wo": (width, heads * head),
            "feed_forward.w1": (INNER, width),
            "feed_forward.w2": (width, INNER),
            "feed_forward.w3": (INNER, width),
        }
        for name, size in sizes.items():
            found[f"layers.{layer}.{name}.weight"] = 0.3 * torch.randn(size)
        for name in ("attention_norm", "ffn_norm"):
            found[f"layers.{layer}.{name}.weight"] = 1 + 0.1 * torch.randn(width)
    return found | {
        "norm.weight": 1 + 0.1 * torch.randn(width),
        "output.weight": 0.3 * torch.randn(words, width),
    }


def logits(weights: Weights, params: dict[str, Any], ids: torch.Tensor) -> torch.Tensor:
    """The authors' forward pass as their reference code has it, one text, in float64."""
    weights = {name: tensor.double() for name, tensor in weights.items()}

    def norm(states: torch.Tensor, name: str) -> torch.Tensor:
        return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * weights[name]

    def turned(states: torch.Tensor) -> torch.Tensor:
        """[tokens, heads, d]: each two neighbours are a complex number, turned by its position."""
        tokens, _, size = states.shape
        # Mistral's own code, where params.json says neither.
        usual = 1e6 if "hidden_dim" in params and "sliding_window" not in params else 1e4
        speeds = params.get("rope_theta", usual) ** (-torch.arange(0, size, 2).double() / size)
        angles = torch.outer(torch.arange(tokens).double(), speeds)
        pairs = torch.view_as_complex(states.reshape(*states.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(2)

    heads, groups = params["n_heads"], params["n_heads"] // params["n_kv_heads"]
    states = weights["tok_embeddings.weight"][ids]
    tokens = len(ids)
    for layer in range(params["n_layers"]):
        own = f"layers.{layer}."

        def times(states: torch.Tensor, name: str, own: str = own) -> torch.Tensor:
            return states @ weights[f"{own}{name}.weight"].T

        entered = norm(states, f"{own}attention_norm.weight")
        queries = turned(times(entered, "attention.wq").view(tokens, heads, -1))
        keys = turned(times(entered, "attention.wk").view(tokens, heads // groups, -1))
        values = times(entered, "attention.wv").view(tokens, heads // groups, -1)
        keys, values = (one.repeat_interleave(groups, 1).transpose(0, 1) for one in (keys, values))
        scores = queries.transpose(0, 1) @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5
        hidden = torch.triu(torch.ones(tokens, tokens), 1).bool()
        if window := params.get("sliding_window"):
            hidden |= torch.tril(torch.ones(tokens, tokens), -window).bool()
        looked = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values
        states = states + times(looked.transpose(0, 1).flatten(1), "attention.wo")
        entered = norm(states, f"{own}ffn_norm.weight")
        gated = functional.silu(times(entered, "feed_forward.w1")) * times(entered, "feed_forward.w3")
        states = states + times(gated, "feed_forward.w2")
    return norm(states, "norm.weight") @ weights["output.weight"].T


def along(name: str, by_words: bool) -> int | None:
    """The dimension along which tensor parallel code splits a tensor."""
    kind = name.split(".")[-2]
    if kind == "tok_embeddings":
        return 0 if by_words else 1
    return 0 if kind in ROWS else 1 if kind in COLUMNS else None


def publish(
    folder: Path, weights: Weights, params: dict[str, Any], parts: int = 1, by_words: bool = False
) -> None:
    """A folder as the authors publish it, with a tokenizer in one file."""
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(params))
    for number in range(parts):
        part = {}
        for name, tensor in weights.items():
            split = along(name, by_words)
            part[name] = tensor if split is None else tensor.chunk(parts, split)[number].clone()
        torch.save(part, folder / f"consolidated.{number:02}.pth")
    tokenizer().save_pretrained(folder)


def tokenizer() -> Any:
    return build_tokenizer(["Danny found 15 and 18 caps. How many is that?"])


def close(folder: Path, weights: Weights, params: dict[str, Any]) -> bool:
    loaded = load(folder, device="cpu")
    ids = torch.tensor(loaded.tokenizer("Danny found 15 caps.", add_special_tokens=False).input_ids)
    assert len(ids) > 6
    with torch.no_grad():
        ours = loaded.model.double()(ids[None]).logits[0]
    return torch.allclose(ours, logits(weights, params, ids), atol=1e-4)


@pytest.mark.parametrize(
    ("more", "parts", "by_words"),
    [
        ({}, 1, False),
        ({}, 2, False),
        ({"rope_theta": 500_000.0, "ffn_dim_multiplier": 1.3}, 2, True),
        ({"head_dim": 8, "hidden_dim": INNER, "sliding_window": 3}, 1, False),
        ({"hidden_dim": INNER}, 1, False),
    ],
    ids=["llama-2", "llama-2 in two parts", "llama-3 in two parts", "mistral", "mistral without a window"],
)
def test_the_folder_computes_what_the_authors_code_does(
    tmp_path: Path, limbeck: Limbeck, more: dict[str, Any], parts: int, by_words: bool
) -> None:
    params = PARAMS | more
    weights = drawn(params, len(tokenizer()))
    publish(tmp_path / "theirs", weights, params, parts, by_words)
    answer = limbeck("convert", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert answer.status == 0, answer.err
    assert close(tmp_path / "ours", weights, params)


def test_neighbours_are_half_a_head_apart() -> None:
    rows = torch.arange(12.0)[:, None]  # two heads of six
    assert half_a_head_apart(rows, 2)[:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_a_recipe_that_names_such_a_folder_is_told_the_command(tmp_path: Path) -> None:
    publish(tmp_path / "theirs", drawn(PARAMS, len(tokenizer())), PARAMS)
    with pytest.raises(ModelError, match=f"limbeck convert {tmp_path / 'theirs'} --out"):
        load(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_scaled_rope": True}, "use_scaled_rope is not supported by convert; take the model's"),
        ({"moe": {"num_experts": 8}}, "moe is not supported by convert"),
        ({"n_heads": "4"}, "n_heads is '4' and no number above 0"),
        ({"dim": 48}, "and params.json gives"),
        ({"n_layers": 3}, "model.layers.2.input_layernorm.weight is missing"),
        ({"n_layers": 1}, "model.layers.1.input_layernorm.weight was not expected"),
        ({"n_heads": 5}, "params.json: the model that it describes cannot be read"),
        ({"n_heads": 8}, "gives heads of 3 numbers, and positions need pairs"),
        ({"vocab_size": 9}, "model.embed_tokens.weight has shape"),
        ({"hidden_dim": 9}, "mlp.gate_proj.weight has shape"),
        ({"n_heads": 0}, "n_heads is 0 and no number above 0"),
        ({"n_layers": 10**9}, "no model has more"),
    ],
)
def test_what_is_another_model_is_refused(
    tmp_path: Path, limbeck: Limbeck, change: dict[str, Any], said: str
) -> None:
    publish(tmp_path / "theirs", drawn(PARAMS, len(tokenizer())), PARAMS)
    (tmp_path / "theirs" / "params.json").write_text(json.dumps(PARAMS | change))
    answer = limbeck("convert", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert answer.status == 2 and said in answer.err and "unexpected" not in answer.err, answer.err
    assert not (tmp_path / "ours").exists()


def test_a_missing_part_is_refused(tmp_path: Path, limbeck: Limbeck) -> None:
    publish(tmp_path / "theirs", drawn(PARAMS, len(tokenizer())), PARAMS, parts=2)
    (tmp_path / "theirs" / "consolidated.01.pth").unlink()
    answer = limbeck("convert", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert answer.status == 2 and "a part is missing" in answer.err, answer.err


def test_files_of_its_hugging_face_folder_may_lie_there(tmp_path: Path, limbeck: Limbeck) -> None:
    weights = drawn(PARAMS, len(tokenizer()))
    publish(tmp_path / "theirs", weights, PARAMS)
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "llama"}')
    answer = limbeck("convert", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert answer.status == 0, answer.err
    assert close(tmp_path / "ours", weights, PARAMS)


def test_without_params_json_nothing_is_written(tmp_path: Path, limbeck: Limbeck) -> None:
    publish(tmp_path / "theirs", drawn(PARAMS, len(tokenizer())), PARAMS)
    (tmp_path / "theirs" / "params.json").unlink()
    answer = limbeck("convert", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert answer.status == 2 and "are read with their params.json; copy it there" in answer.err
    assert not (tmp_path / "ours").exists()


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, limbeck: Limbeck) -> None:
    publish(tmp_path / "theirs", drawn(PARAMS, 20), PARAMS)
    answer = limbeck("convert", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert answer.status == 2 and "tokens, and there are weights for 20" in answer.err
    (tmp_path / "theirs" / "tokenizer.json").write_text("{")
    answer = limbeck("convert", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert answer.status == 2 and "the tokenizer cannot be read" in answer.err


def test_a_mixture_of_experts_is_refused(tmp_path: Path, limbeck: Limbeck) -> None:
    weights = drawn(PARAMS, len(tokenizer())) | {"layers.0.block_sparse_moe.gate.weight": torch.ones(4, 24)}
    publish(tmp_path / "theirs", weights, PARAMS)
    answer = limbeck("convert", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert (
        answer.status == 2 and "block_sparse_moe.gate.weight is no tensor of a Llama or Mistral" in answer.err
    )


def without_tokenizer(folder: Path) -> None:
    publish(folder, drawn(PARAMS, len(tokenizer())), PARAMS)
    for file in folder.glob("*token*"):
        file.unlink()


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, limbeck: Limbeck) -> None:
    without_tokenizer(tmp_path / "theirs")
    answer = limbeck("convert", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert answer.status == 2 and "no tokenizer.model there or in its parent" in answer.err
    (tmp_path / "theirs" / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    answer = limbeck("convert", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert answer.status == 2 and "is of Llama 3; copy tokenizer.json" in answer.err


@pytest.mark.parametrize("more", [{}, {"sliding_window": 9}], ids=["llama", "mistral"])
def test_its_tokenizer_cuts_as_sentencepiece_does(
    tmp_path: Path, limbeck: Limbeck, more: dict[str, Any]
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = [f"Danny found {n} + {7 * n} = {8 * n} bottle caps and wrappers at the park." for n in range(400)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    without_tokenizer(tmp_path / "theirs")
    weights = drawn(PARAMS, theirs.vocab_size())
    torch.save(weights, tmp_path / "theirs" / "consolidated.00.pth")
    (tmp_path / "theirs" / "params.json").write_text(json.dumps(PARAMS | more))
    answer = limbeck("convert", tmp_path / "theirs", "--out", tmp_path / "ours")  # it lies in the parent
    assert answer.status == 0, answer.err
    ours = load(tmp_path / "ours", device="cpu").tokenizer
    # None begins with a space: there, transformers leaves out the one that sentencepiece puts before a text.
    for text in ("Danny found 15 caps.", "two  spaces\n\nQuestion: é 漢", "\n", "", "The answer is 1,234."):
        assert ours(text).input_ids == [theirs.bos_id(), *theirs.encode(text)]
        assert ours.decode(ours(text).input_ids, skip_special_tokens=True).strip() == text.strip()
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_id(), theirs.eos_id())
    assert close(tmp_path / "ours", weights, PARAMS | more)
