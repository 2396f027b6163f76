"""Models saved as ordinary Hugging Face folders, or as adapters; whole or not at all."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import GenerationConfig

from limbeck import ranks
from limbeck.errors import DiskError, first_line
from limbeck.files import whole_folder
from limbeck.lm import names
from limbeck.lm.four_bits import ABOUT_KEY
from limbeck.lm.load import ADAPTER, BASE, Dtype, Loaded, load, quiet
from limbeck.lm.local import stop_tokens
from limbeck.lm.sharding import gathered, written_by_one
from limbeck.objectives.align import is_sharded
from limbeck.tasks.asking import ABOUT, BASE_IDENTITY, BASE_TEMPLATE, Asking, about_model
from limbeck.tasks.chat_template import student_template

MAX_TOKENS = 512
"""New tokens of a student whose `limbeck.json` does not say what its exam gave it, as `limbeck ask` gives."""


def save(loaded: Loaded, folder: Path, *, about: Mapping[str, object] | None = None) -> None:
    """Write model and tokenizer to `folder`, whole or not at all; an older folder is replaced.

    A model with an adapter is saved as the adapter alone, with the name or the folder of its base
    model. A base model that is in no folder (from scratch, or with an earlier adapter folded in) is
    written once inside the same folder, as `base/`. For one ordinary folder save `merged(loaded)`, or
    `export` later.

    A student is saved with all that others need to ask it as its exam did: a generation config that
    decodes greedily to the exam's `max_tokens`, and a chat template that writes the prompts of its
    training (see `tasks.chat_template`). An adapter is read with its base model's generation config by
    other programs: export it for them.

    Under several ranks, rank 0 writes and the others do nothing but, of a sharded model, send their parts:
    rank 0 gathers the whole of it in CPU memory.

    Args:
        loaded: the model; it is not changed.
        folder: where; safetensors weights.
        about: of a student, written next to the weights as `limbeck.json`: how it is asked
            (`Asking.about`), `max_tokens` of its exam, and anything else.

    Raises:
        ModelError: `about` does not say how it is asked.
        DiskError: the folder cannot be written.
    """
    whole = not loaded.lora or not loaded.base
    state = gathered(loaded.bare) if whole and is_sharded(loaded.model) else None
    if not ranks.main():
        return
    try:
        with whole_folder(Path(folder)) as partial, quiet(), written_by_one(loaded.bare):
            if loaded.lora:
                _save_adapter(loaded, partial, state)
            else:
                loaded.model.save_pretrained(str(partial), state_dict=state)
            _greedy(loaded, about).save_pretrained(str(partial))
            _tokenizer(loaded, about).save_pretrained(str(partial))
            if about is not None:
                kept = {**about, BASE_TEMPLATE: loaded.tokenizer.chat_template}
                kept.pop(BASE_IDENTITY, None)  # of the folder that is exported
                if loaded.lora and (made_from := names.identity(loaded.base)):
                    kept[BASE_IDENTITY] = made_from
                text = json.dumps(kept, indent=1, ensure_ascii=False)
                (partial / ABOUT).write_text(f"{text}\n", "utf-8")
    except SafetensorError as error:  # how its writer reports a full disk
        raise DiskError(folder, OSError(0, first_line(error))) from error


def merged(loaded: Loaded) -> Loaded:
    """The model with its adapter folded into its weights; `loaded` is used up by that."""
    if not loaded.lora:
        return loaded
    with quiet():
        return replace(loaded, model=loaded.model.merge_and_unload(), lora=False, base="")


def export(
    folder: Path,
    out: Path,
    *,
    dtype: Dtype | None = None,
    about: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> None:
    """Write a saved adapter with its base model, in full precision, as one ordinary model folder.

    Args:
        folder: of the adapter, or of a whole model, which is then copied.
        out: the new folder.
        dtype: of the weights; None: what `limbeck.json` names, or else float32.
        about: what the copy's `limbeck.json` says, from the folder's own.

    Raises:
        ModelError: not a model folder, its base model cannot be found, or its `limbeck.json` is damaged.
        DiskError: `out` cannot be written.
    """
    said = about_model(folder)
    found = load(folder, dtype=dtype or said.get("dtype", "float32"), device="cpu", whole=True)
    said.pop(ABOUT_KEY, None)
    save(found, out, about=about(said) if said else None)


def _greedy(loaded: Loaded, about: Mapping[str, object] | None) -> GenerationConfig:
    """How the model is decoded in exams: greedily, up to its stop tokens or the exam's most tokens."""
    config = copy.deepcopy(loaded.bare.generation_config)
    stops = sorted(stop_tokens(loaded.bare, loaded.tokenizer))
    config.eos_token_id = stops[0] if len(stops) == 1 else stops
    if about is not None:
        config.max_new_tokens = about.get("max_tokens", MAX_TOKENS)
    return config


def _tokenizer(loaded: Loaded, about: Mapping[str, object] | None) -> Any:
    """The tokenizer; a student's with the chat template of its training."""
    if about is None:
        return loaded.tokenizer
    asking = Asking.of_about(about, ABOUT)
    tokenizer = copy.copy(loaded.tokenizer)
    tokenizer.chat_template = student_template(
        asking, loaded.tokenizer, encoder_decoder=loaded.encoder_decoder
    )
    return tokenizer


def _save_adapter(loaded: Loaded, folder: Path, state: Mapping[str, Any] | None) -> None:
    """The adapter, and its base where that is in no folder: `state`, if its weights had to be gathered."""
    own = {
        name: tensor for name, tensor in loaded.model.state_dict().items() if ".lora_" in name
    }  # no shards
    loaded.model.save_pretrained(str(folder), state_dict=own, save_embedding_layers=False)
    if not loaded.base:
        loaded.bare.save_pretrained(
            str(folder / BASE), state_dict=_without_adapter(state or loaded.bare.state_dict())
        )
    config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = loaded.base or BASE
    place, card = loaded.bare.config.name_or_path, folder / "README.md"
    if place and card.is_file():  # it names the cache, or the whole of what was cut
        named = card.read_text(encoding="utf-8").replace(place, loaded.base or BASE)
        card.write_text(named, encoding="utf-8")
    (folder / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _without_adapter(state: Mapping[str, Any]) -> dict[str, Any]:
    """The base model's own tensors under their own names, not copied (peft wraps the layers it adapts)."""
    return {
        name.replace("base_layer.", ""): tensor  # twice where one adapter lies around another
        for name, tensor in state.items()
        if ".lora_" not in name
    }
