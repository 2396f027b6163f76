"""A model folder, a base or a GGUF file that the recipe names, as an input of stages."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from limbeck.lm import names
from limbeck.run_folder import path_fingerprint


@cache
def model_inputs(name: str) -> dict[str, str]:
    """The content of a model folder as stage inputs, with the base folder of an adapter; {} for a name.

    Of a base or a GGUF file it is what the model is made from: neither the cache nor where it is matters.
    Read once per process: a large model takes a while.
    """
    if made_from := names.identity(name):
        return {"model": made_from}
    folder = Path(name).expanduser()
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() and not (folder / "config.json").is_file():
        return {}  # a name on the hub, or nothing: loading says so
    found = {"model": path_fingerprint(folder)}
    if adapter.is_file():
        try:
            base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        except (ValueError, AttributeError):
            base = None  # loading names the broken file
        if isinstance(base, str) and (made_from := names.identity(base)):
            found["base"] = made_from
        elif isinstance(base, str) and (Path(base) / "config.json").is_file():
            found["base"] = path_fingerprint(Path(base))
    return found
