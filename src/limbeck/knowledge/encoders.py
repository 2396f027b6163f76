"""Late-interaction encoders: a text becomes a state for each of its tokens (ColBERT).

They are sentence-transformers' `MultiVectorEncoder`, and saved as ordinary folders of that library: a ColBERT
or PyLate checkpoint as it is; or any encoder of transformers or sentence-transformers, whose token states
are projected and brought to length 1; or a tiny one from scratch. Questions and passages go through the same
weights.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel

from limbeck.errors import InputError, ModelError
from limbeck.files import whole_folder
from limbeck.knowledge.settings import EncoderSettings
from limbeck.lm import bases, cache, names
from limbeck.lm.configs import checked_config
from limbeck.lm.load import device_of, explained, quiet
from limbeck.lm.local import positions_of
from limbeck.lm.pickles import refuse_pickles
from limbeck.lm.tiny import build_tokenizer, seeded
from limbeck.lm.tiny_encoder import build_encoder, is_tiny_encoder, size_of

SAFE: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}

OURS = "sentence_transformers."
PYLATE = "pylate.models.Dense.Dense"
"""A module that PyLate's checkpoints name, and that the library knows as its own."""

AT_ONCE = 32
"""Passages that are encoded together."""

States = NDArray[np.float16]
"""Of the tokens of a text, (tokens, dimensions)."""


def library() -> Any:
    """sentence-transformers.

    Raises:
        InputError: the extra `knowledge` is not installed.
    """
    try:
        return importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise InputError(
            f"knowledge: a reranker needs sentence-transformers ({error}); "
            "run pip install 'limbeck[knowledge]'"
        ) from None


class Encoded(NamedTuple):
    """A padded batch of states, (B, T, D), and the mask of tokens that count, (B, T)."""

    states: torch.Tensor
    mask: torch.Tensor


class Encoder:
    """A model that is loaded; `name` is what errors call it."""

    def __init__(self, model: Any, name: str) -> None:
        self.model = model
        self.name = name

    def __call__(self, texts: Sequence[str], task: str) -> Encoded:
        """States with their gradients; `task` is "query" or "document"."""
        features = self.model.preprocess(list(texts), prompt=self.model.prompts.get(task), task=task)
        device = next(self.model.parameters()).device
        given = {key: one.to(device) if torch.is_tensor(one) else one for key, one in features.items()}
        found = self.model(given, task=task)
        return Encoded(found["token_embeddings"], found["attention_mask"].bool())

    def question(self, text: str) -> NDArray[np.float32]:
        """The states of a question, (tokens, dimensions); encoded alone, so that no other changes them."""
        found = self.model.encode_query([text], show_progress_bar=False, convert_to_numpy=True)
        states: NDArray[np.float32] = found[0].astype(np.float32)
        return states

    def passages(self, texts: Sequence[str]) -> list[States]:
        """The states of each passage, in half precision.

        Raises:
            ModelError: of a passage no token counts, so that it could be compared with nothing.
        """
        found = self.model.encode_document(
            list(texts), batch_size=AT_ONCE, show_progress_bar=False, convert_to_numpy=True
        )
        for text, one in zip(texts, found, strict=True):
            if not len(one):
                raise ModelError(
                    f"{self.name}: leaves no token of the passage {text[:80]!r}; take another encoder"
                )
        return [one.astype(np.float16) for one in found]

    @property
    def dimensions(self) -> int:
        """Numbers of a token's state."""
        return int(self.model.get_embedding_dimension())

    @property
    def transformer(self) -> Any:
        """The library's first module, which holds the transformers model."""
        return self.model[0]

    def fingerprint(self) -> str:
        """Of everything that states depend on: weights, tokenizer, prompts, lengths. Not of where it lies."""
        whole = hashlib.sha256()
        for key, tensor in sorted(self.model.state_dict().items()):
            whole.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
            whole.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        configs = [one.get_config_dict() for one in self.model if hasattr(one, "get_config_dict")]
        whole.update(json.dumps([configs, self.model.prompts], sort_keys=True, default=str).encode())
        whole.update(json.dumps(_content(self.model.tokenizer), sort_keys=True).encode())
        return whole.hexdigest()

    def save(self, folder: Path) -> None:
        """Write it as a folder of sentence-transformers, whole or not at all.

        Raises:
            DiskError: the folder cannot be written.
        """
        with whole_folder(folder) as partial, quiet():
            self.model.save_pretrained(str(partial), create_model_card=False)


def _content(tokenizer: Any) -> Any:
    """What a tokenizer does, without what its last call left in it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # a slow tokenizer has none
    if backend is None:
        return tokenizer.get_vocab()
    return {**json.loads(backend.to_str()), "truncation": None, "padding": None}


def load_encoder(
    name_or_path: str | Path,
    settings: EncoderSettings | None = None,
    *,
    seed: int = 0,
    texts: Iterable[str] | None = None,
    device: str = "auto",
) -> Encoder:
    """An encoder by name, by folder, or from scratch, in single precision.

    Args:
        name_or_path: a folder or a name on the hub, of an encoder or of a ColBERT or PyLate checkpoint; a
            base such as `all-minilm-l6-v2`; or `tiny-encoder`.
        settings: of what is made of an ordinary encoder.
        seed: of the projection, and of all weights of a tiny one.
        texts: what a tiny one makes its tokenizer from.
        device: as of `lm.load`.

    Raises:
        ModelError: no such model, a broken folder, code from elsewhere, weights that are pickles or missing.
        InputError: the extra `knowledge` is not installed.
    """
    library()
    settings, target = settings or EncoderSettings(), device_of(device)
    name = str(name_or_path)
    with quiet(), seeded(seed):
        if is_tiny_encoder(name) and not Path(name).exists():
            model = _from_scratch(name, settings, seed, texts)
        else:
            place = _place(name)
            _refuse_unsafe(place)
            _refuse_incomplete(place)
            with explained(place, "the encoder"):
                model = _late_interaction(place) if _is_one(place) else _made(place, settings)
    return Encoder(model.float().to(target).eval(), name)


def check_encoder(name: str) -> None:
    """Refuse what `load_encoder` would refuse, before anything is made for it; an ordinary encoder is read.

    Raises:
        ModelError, InputError: as `load_encoder`.
    """
    library()
    if is_tiny_encoder(name) and not Path(name).exists():
        size_of(name)
        return
    with quiet():
        place = _place(name)
        _refuse_unsafe(place)
        _refuse_incomplete(place)


def _from_scratch(name: str, settings: EncoderSettings, seed: int, texts: Iterable[str] | None) -> Any:
    if texts is None:
        raise ModelError(f"{name}: made from scratch, it needs texts; give an encoder's folder instead")
    tokenizer = build_tokenizer(texts)
    tokenizer.chat_template = None  # or the library would ask with it
    with tempfile.TemporaryDirectory() as folder:
        encoder = build_encoder(name, tokenizer, seed)
        # In parts, because the model's own save_pretrained writes nothing in a process that is not the first.
        save_file(encoder.state_dict(), Path(folder) / "model.safetensors", metadata={"format": "pt"})
        encoder.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return _made(Path(folder), settings)


def _made(place: Path | str, settings: EncoderSettings) -> Any:
    """A late-interaction encoder of an ordinary one: token states, projected, of length 1."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    transformer = Transformer(str(place), model_kwargs=dict(SAFE))
    positions = positions_of(transformer.config) or settings.passage_tokens
    transformer.query_length = min(settings.question_tokens, positions)
    transformer.document_length = min(settings.passage_tokens, positions)
    modules: list[nn.Module] = [transformer]
    if settings.dimensions:
        modules.append(_projection(Dense, transformer.get_embedding_dimension(), settings.dimensions))
    modules += [MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    return MultiVectorEncoder(modules=modules, device="cpu", similarity_fn_name="maxsim")


def _projection(dense: Any, given: int, wanted: int) -> Any:
    """Orthonormal rows, so that before any training inner products are about those of the encoder."""
    layer = dense(
        given, wanted, bias=False, activation_function=nn.Identity(), module_input_name="token_embeddings"
    )
    nn.init.orthogonal_(layer.linear.weight)
    return layer


def _late_interaction(place: Path | str) -> Any:
    from sentence_transformers import MultiVectorEncoder

    local = isinstance(place, Path)
    return MultiVectorEncoder(str(place), device="cpu", local_files_only=local, model_kwargs=dict(SAFE))


def _place(name: str) -> Path | str:
    """The folder, or the name on the hub."""
    if base := bases.find(name):
        place = bases.place_of(base)
        if file := cache.damage(place):
            raise ModelError(
                f"{name}: {file} changed since it was made; limbeck bases get {name} makes it again"
            )
        return place
    return names.folder_or_hub(name, name, what="an encoder")


def _refuse_unsafe(place: Path | str) -> None:
    """Refuse code from elsewhere and weights that are pickles."""
    with explained(place, "config.json"):
        checked_config(place)
    if not isinstance(place, Path):
        return
    for folder in [place, *(one for one in sorted(place.iterdir()) if one.is_dir())]:
        refuse_pickles(folder)
    for module in _json(place / "modules.json") or []:
        kind = str(module.get("type", ""))
        if not kind.startswith(OURS) and kind != PYLATE:
            raise ModelError(f"{place}: modules.json names {kind}, code from elsewhere; take another encoder")


def _is_one(place: Path | str) -> bool:
    """Whether it is a late-interaction checkpoint: of the library, of PyLate, or Stanford's."""
    from sentence_transformers.util import load_file_path

    local = isinstance(place, Path)

    def read(name: str) -> Any:
        path = load_file_path(str(place), name, local_files_only=local)
        return _json(Path(path)) if path else None

    said, config = read("config_sentence_transformers.json") or {}, read("config.json") or {}
    return said.get("model_type") in ("MultiVectorEncoder", "ColBERT") or (
        "HF_ColBERT" in (config.get("architectures") or [])
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _refuse_incomplete(place: Path | str) -> None:
    """Refuse weights that lack a part, which would be random; a pooler is not used, and may be missing."""
    with explained(place, "the weights"):
        _, report = AutoModel.from_pretrained(place, output_loading_info=True, **SAFE)
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise ModelError(
            f"{place}: the weights lack {len(missing)} tensors, such as {missing[0]}; give a complete encoder"
        )
