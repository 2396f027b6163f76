"""Late-interaction encoders: from scratch, from folders, saved and loaded; what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from limbeck.errors import InputError, ModelError
from limbeck.knowledge.encoders import load_encoder
from limbeck.knowledge.settings import EncoderSettings
from tests.knowledge.encoders import SMALL, TEXTS, tiny

PASSAGES = ["The owl holds a lamp no 12.", "A river", "The tower warms a spider no 60. " * 20]


def test_states_are_of_each_token_and_of_length_one() -> None:
    encoder = tiny()
    states = encoder.passages(PASSAGES)
    assert [one.shape[1] for one in states] == [16, 16, 16] and states[0].dtype == np.float16
    assert len(states[1]) < len(states[0]) < len(states[2]) == 40  # the longest is cut
    question = encoder.question("Which owl holds a lamp, " * 20)
    assert question.shape == (24, 16) and question.dtype == np.float32
    for one in [*states, question]:
        np.testing.assert_allclose(np.linalg.norm(one.astype(np.float32), axis=1), 1, atol=2e-3)


def test_training_sees_the_states_of_inference() -> None:
    """The same tokens, the same cut, the same mask; only in batches, and with gradients."""
    encoder = tiny()
    with torch.no_grad():
        found = encoder(PASSAGES, "document")
    for states, mask, alone in zip(found.states, found.mask, encoder.passages(PASSAGES), strict=True):
        np.testing.assert_allclose(states[mask].numpy(), alone.astype(np.float32), atol=1e-3)
    assert encoder(["a question"], "query").states.requires_grad


def test_the_seed_decides() -> None:
    before = torch.random.get_rng_state()
    assert tiny(1).fingerprint() == tiny(1).fingerprint() != tiny(2).fingerprint()
    assert tiny(1, SMALL.model_copy(update={"passage_tokens": 30})).fingerprint() != tiny(1).fingerprint()
    assert torch.equal(before, torch.random.get_rng_state())


def test_use_does_not_change_the_fingerprint() -> None:
    """The library leaves the last cut and padding in the tokenizer."""
    encoder = tiny()
    before = encoder.fingerprint()
    encoder.passages(PASSAGES), encoder.question("owl"), encoder(PASSAGES, "document")
    assert encoder.fingerprint() == before


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    """By us, and by the library alone: an ordinary folder of its own."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = tiny()
    encoder.save(tmp_path / "model")
    again = load_encoder(tmp_path / "model", EncoderSettings(dimensions=3), device="cpu")
    assert again.fingerprint() == encoder.fingerprint() and again.dimensions == 16
    theirs = sentence_transformers.MultiVectorEncoder(str(tmp_path / "model"), device="cpu")
    for one, other, own in zip(
        again.passages(PASSAGES),
        encoder.passages(PASSAGES),
        theirs.encode_document(PASSAGES, convert_to_numpy=True),
        strict=True,
    ):
        assert np.array_equal(one, other) and np.array_equal(one, own.astype(np.float16))


def bert(folder: Path, **changed: object) -> Path:
    """A folder of an ordinary encoder."""
    encoder = tiny()
    config = BertConfig(
        vocab_size=len(encoder.model.tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    encoder.model.tokenizer.save_pretrained(folder)
    return folder


def test_an_ordinary_encoder_is_projected_the_same_each_time(tmp_path: Path) -> None:
    folder = bert(tmp_path / "bert")
    first, again = (load_encoder(folder, SMALL, seed=3, device="cpu") for _ in range(2))
    assert (
        first.fingerprint() == again.fingerprint() != load_encoder(folder, SMALL, device="cpu").fingerprint()
    )
    assert first.dimensions == 16
    assert len(first.passages(["the owl " * 60])[0]) == 32  # as many as it has positions for
    plain = load_encoder(folder, SMALL.model_copy(update={"dimensions": 0}), device="cpu")
    assert plain.dimensions == 16 and len(list(plain.model)) == len(list(first.model)) - 1


def test_a_projection_of_full_size_keeps_products(tmp_path: Path) -> None:
    """Orthonormal rows: before any training states are those of the encoder, turned."""
    folder = bert(tmp_path / "bert")
    turned, plain = (load_encoder(folder, EncoderSettings(dimensions=n), device="cpu") for n in (16, 0))
    one, other = (encoder.question(PASSAGES[0]) for encoder in (turned, plain))
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-5)


def test_a_checkpoint_of_pylate_is_taken_as_it_is(tmp_path: Path) -> None:
    """Transformer and Dense under PyLate's names, with its lengths and markers."""
    folder = bert(tmp_path / "colbert")
    about = {
        "model_type": "ColBERT",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 12,
        "document_length": 20,
        "do_query_expansion": False,
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(about))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Dense").mkdir()
    dense = {
        "in_features": 16,
        "out_features": 8,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense))
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    save_file({"linear.weight": weight}, folder / "1_Dense" / "model.safetensors")
    encoder = load_encoder(folder, SMALL, device="cpu")
    assert encoder.dimensions == 8
    assert torch.equal(encoder.model.state_dict()["1.linear.weight"], weight)
    # Its 20 tokens begin with the marker, whose brackets PyLate does not compare, as no punctuation.
    assert len(encoder.passages(["the owl " * 60])[0]) == 18


@pytest.mark.parametrize("damage", ["missing", "pickle", "code", "nothing", "folder"])
def test_what_is_refused(tmp_path: Path, damage: str) -> None:
    folder = bert(tmp_path / "bert")
    weights = folder / "model.safetensors"
    if damage == "missing":
        tensors = load_file(weights)
        tensors.pop("encoder.layer.0.output.dense.weight")
        save_file(tensors, weights, {"format": "pt"})
        wrong = "lack 1 tensors, such as encoder.layer.0.output.dense.weight"
    elif damage == "pickle":
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
        wrong = "limbeck convert"
    elif damage == "code":
        modules = [{"idx": 0, "name": "0", "path": "", "type": "modeling.Mine"}]
        (folder / "modules.json").write_text(json.dumps(modules))
        wrong = "modeling.Mine, code from elsewhere"
    elif damage == "nothing":
        (folder / "config.json").unlink()
        wrong = "no config.json"
    else:
        folder = tmp_path / "elsewhere"
        wrong = "no such folder"
    with pytest.raises(ModelError, match=wrong):
        load_encoder(folder, device="cpu")


def test_a_passage_without_tokens_is_refused() -> None:
    """It could be compared with nothing; this tokenizer puts no token of its own around a text."""
    with pytest.raises(ModelError, match="leaves no token of the passage ''"):
        tiny().passages(["the owl", ""])


def test_tiny_ones_need_texts_and_a_known_size() -> None:
    with pytest.raises(ModelError, match="needs texts"):
        load_encoder("tiny-encoder", device="cpu")
    with pytest.raises(ModelError, match="no such size"):
        load_encoder("tiny-encoder-xxl", texts=TEXTS, device="cpu")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"limbeck\[knowledge\]"):
        tiny()
