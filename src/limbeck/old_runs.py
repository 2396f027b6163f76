"""Stages of run folders that Limbeck 0.1.0 made: what of them can be used.

It kept all settings of a stage, defaults too, and no plan. A finished stage is used where nothing that
both versions know differs. Its `stage.json` is then written as ours, with the old fingerprint as what
later stages build on. This file can go once nobody opens such a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.tasks.generated import GENERATED

VERSION = "0.1.0"

RENAMED = {"task.knobs": "task.parameters", "teacher.where": "teacher.base_url"}
"""Settings that were renamed since."""


def is_old(state: Mapping[str, Any]) -> bool:
    """Whether a `stage.json` is of that version."""
    return "settings" in state and "plan" not in state


def difference(state: Mapping[str, Any], settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Why an old stage cannot be used, in words; "" if it can.

    Args:
        state: its `stage.json`.
        settings: today's settings of the stage, with those at their default.
        inputs: today's inputs. An old one counts as unchanged when its fingerprint is among them.
    """
    if state["state"] != "done":
        return "another version of Limbeck had not finished it"
    old, new = flat(state["settings"]), flat(settings)
    task = GENERATED.get(str(new.get("task.name")))
    if task is not None:  # its defaults are in no recipe
        new = {f"task.parameters.{name}": value for name, value in task.parameters.items()} | new
    if "asking" in settings:
        return "its prompts are no longer the usual ones"  # 0.1.0 knew no others
    for key, value in old.items():
        name = next((key.replace(a, b, 1) for a, b in RENAMED.items() if key.startswith(a)), key)
        if name in new and new[name] != value:
            return f"{name} changed from {value!r} to {new[name]!r}"
        if value in (None, {}) and name not in new and any(other.startswith(f"{name}.") for other in new):
            return f"{name} was not set before"
        group = name.rpartition(".")[0]
        if group and group in new and new[group] is None:
            return f"{group} is no longer set"
    for name, found in state.get("inputs", {}).items():
        if found not in inputs.values():
            return f"its input {name} changed"
    return ""


def converted(
    state: Mapping[str, Any], plan: Mapping[str, Any], inputs: Mapping[str, str], mark: str
) -> dict[str, Any]:
    """The old stage's `stage.json` as this version writes it; `mark` is the fingerprint of today's plan."""
    ours = {"name": state["name"], "plan": dict(plan), "inputs": dict(inputs), "fingerprint": mark}
    kept = {"seconds": state.get("seconds", 0.0), "files": state.get("files", {})}
    return {**ours, "id": state["fingerprint"], "limbeck": VERSION, "state": "done", **kept}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by their full names, such as `train.epochs`; an empty group stays."""
    if not isinstance(value, dict) or (prefix and not value):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found.update(flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return found
