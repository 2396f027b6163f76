"""What a model folder may say: no code from elsewhere, and no sizes that would build for hours.

The config is read as plain JSON before any class of transformers sees it, because these classes already
act on it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PretrainedConfig

from limbeck.errors import ModelError
from limbeck.files import refuse_special

LIMITS = (
    (re.compile("layer|num_blocks|n_blocks|attention_types"), 1_000),
    (re.compile("expert"), 10_000),
    (re.compile("label"), 10**6),
)
"""What is built one by one, by what its name holds, and more of it than any model has."""

KERNELS = "flash"
"""transformers fetches an attention of this name from the hub where its package is not installed."""

CUSTOM = "custom code"
"""What transformers says where only code of the model's own folder could read it."""

PACKAGES = ("flash_attn", "flash_attn_interface", "flash_attn_3", "flash_attn_4")


def checked_config(place: Path | str) -> Any:
    """The configuration of a model folder, or of a name on the hub.

    Raises:
        ModelError: it needs code from elsewhere, or names sizes that no model has.
        InputError: a file of the folder is a pipe or a device.
        Exception: whatever transformers raises about a config that it cannot read.
    """
    if isinstance(place, Path):
        for file in place.iterdir():
            refuse_special(file)
    _check(place)
    return AutoConfig.from_pretrained(place, trust_remote_code=False)


def checked_tokenizer(place: Path | str) -> Any:
    """The tokenizer of a model folder, of an adapter's folder, or of a name on the hub.

    Raises:
        ModelError: it, or its model, needs code from elsewhere.
        Exception: whatever transformers raises about a tokenizer that it cannot read.
    """
    if not isinstance(place, Path) or (place / "config.json").is_file():
        _check(place)  # its tokenizer would be refused for what it lacks, not for what the model is
    try:
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except ValueError as error:
        if CUSTOM not in str(error):
            raise
        raise ModelError(
            f"{place}: its tokenizer needs remote code (auto_map in tokenizer_config.json), which Limbeck "
            "does not run; take a model whose tokenizer transformers knows"
        ) from error


def _check(place: Path | str) -> None:
    raw, _ = PretrainedConfig.get_config_dict(place, trust_remote_code=False)
    _refuse_remote_code(place, raw)
    refuse_odd(place, raw)


def _refuse_remote_code(place: Path | str, raw: Mapping[str, Any]) -> None:
    """Refuse a family that transformers does not know and whose repository brings code for it.

    A family that it does know may have an `auto_map` too: it is for older versions, and nothing reads it.
    """
    family = raw.get("model_type")
    if family in CONFIG_MAPPING:
        return
    if family == "qwen" or "QWenLMHeadModel" in (raw.get("architectures") or ()):
        raise ModelError(
            f"{place}: the first generation of Qwen needs remote code, which Limbeck does not run; "
            "take Qwen1.5, Qwen2 or Qwen3, which need none"
        )
    if raw.get("auto_map"):
        raise ModelError(
            f"{place}: config.json names remote code (auto_map, for model_type {family}), which Limbeck "
            "does not run; take a model of a family that transformers knows"
        )


def refuse_odd(place: Path | str, raw: Mapping[str, Any], where: str = "config.json") -> None:
    """Refuse a configuration that names code to be fetched, or sizes that no model has.

    Raises:
        ModelError: naming the setting.
    """
    for name, value in _entries(raw):
        if name.endswith("attn_implementation") or name.endswith("experts_implementation"):
            _refuse_code(place, name, value)
        for pattern, most in LIMITS:
            if pattern.search(name) and isinstance(value, int) and value > most:
                raise ModelError(
                    f"{place}: {where} says {name} {value:,}, and no model has more than {most:,}; fix it"
                )
            if pattern.search(name) and "num" in name and isinstance(value, int) and value < 0:
                raise ModelError(f"{place}: {where} says {name} {value:,}, which cannot be; fix it")


def _entries(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value of a config, with the name of the setting that it is, or is part of."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            own = name if name.endswith("implementation") else str(key)
            yield from _entries(inner, own)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner, name)
    else:
        yield name, value


def _refuse_code(place: Path | str, name: str, value: Any) -> None:
    if not isinstance(value, str):
        return
    missing = KERNELS in value and not any(importlib.util.find_spec(package) for package in PACKAGES)
    if "/" in value or missing:
        raise ModelError(
            f"{place}: config.json asks for code from elsewhere ({name}: {value}), which is never run; "
            f"remove {name}, or write sdpa"
        )
