"""The `task:` part of a recipe, in both forms."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from limbeck.errors import RecipeError
from limbeck.run_folder import plan
from limbeck.tasks.settings import FilesTask, GeneratedTask, TaskSettings, built_in, task_kind

ADAPTER: TypeAdapter[Any] = TypeAdapter(TaskSettings)
OWN = {"kind": "number", "train": "a.jsonl", "test": "b.jsonl"}


def complaint(raw: object) -> tuple[str, str]:
    with pytest.raises(ValidationError) as error:
        ADAPTER.validate_python(raw)
    first = error.value.errors()[0]
    return ".".join(map(str, first["loc"])), str(first["msg"])


def test_a_built_in_task_by_name() -> None:
    settings = ADAPTER.validate_python({"name": "arithmetic", "train": 10, "parameters": {"steps": 2}})
    assert isinstance(settings, GeneratedTask)
    assert (settings.train, settings.dev, settings.test) == (10, 200, 500)
    assert settings.source == "generated" and task_kind(settings) == "number"


def test_your_own_data_by_path() -> None:
    settings = ADAPTER.validate_python({**OWN, "columns": {"question": "q"}, "leaks": "drop"})
    assert isinstance(settings, FilesTask)
    assert (settings.name, settings.dev, settings.columns.question) == ("data", 0.1, "q")
    assert settings.source == "files" and task_kind(settings) == "number"


@pytest.mark.parametrize(
    "raw", [{"name": "coin-flip"}, {**OWN, "dev": "c.csv"}, {**OWN, "dev": 20}, {**OWN, "dev": 0.2}]
)
def test_resolved_settings_load_again_as_the_same(raw: dict[str, Any]) -> None:
    settings = ADAPTER.validate_python(raw)
    assert ADAPTER.validate_python(settings.model_dump(mode="json")) == settings
    assert ADAPTER.validate_python(settings) == settings


@pytest.mark.parametrize(
    ("raw", "place", "what"),
    [
        ({"name": "arithmetik"}, "generated.name", "choose one of last-letters"),
        (
            {"name": "arithmetic", "parameters": {"step": 2}},
            "generated",
            "parameters.step: arithmetic has no such parameter",
        ),
        ({"name": "arithmetic", "train": 0}, "generated.train", "greater than or equal to 1"),
        ({"name": "arithmetic", "size": 5}, "generated.size", "Extra"),
        ({"name": "arithmetic", "train": "a.jsonl"}, "files.kind", "required"),
        ({**OWN, "kind": "essay"}, "files.kind", "'number', 'choice'"),
        ({**OWN, "train": ""}, "files.train", "at least 1"),
        ({**OWN, "dev": 1.5}, "files.dev", "below 1"),
        ({**OWN, "dev": -1}, "files.dev", "negative"),
        ({**OWN, "dev": ""}, "files.dev", "give a share below 1, a number of problems, or a path"),
        ({**OWN, "dev": [1]}, "files.dev", "give a share below 1, a number of problems, or a path"),
        ({**OWN, "dev": True}, "files.dev", "give a share below 1, a number of problems, or a path"),
        ({**OWN, "columns": {"questions": "q"}}, "files.columns.questions", "Extra"),
        ({**OWN, "columns": {"options": "o"}}, "files", "columns.options: answers of kind number have none"),
        ("arithmetic", "", "must be a group of settings"),
    ],
)
def test_what_is_wrong_is_named(raw: object, place: str, what: str) -> None:
    where, message = complaint(raw)
    assert where == place and what in message


def test_a_built_in_task_with_its_defaults() -> None:
    assert built_in("coin-flip") == GeneratedTask(name="coin-flip")
    with pytest.raises(RecipeError, match="choose one of last-letters"):
        built_in("coinflip")


def test_a_parameter_written_out_at_its_default_is_the_same_task() -> None:
    usual, written = (
        ADAPTER.validate_python({"name": "shuffled-objects", "parameters": given})
        for given in ({"swaps": 3}, {"people": 3, "swaps": 3})
    )
    assert usual == written and plan(usual) == plan(written)
