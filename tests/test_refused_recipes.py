"""Recipes that hard use has found: each was accepted, hung, or ended in a traceback before."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from limbeck.errors import InputError, RecipeError
from limbeck.lm.cost import ApiSettings, Prices
from limbeck.lm.settings import LoraSettings
from limbeck.methods import built_in, find_method
from limbeck.recipe import ExamSettings, Recipe, WritingSettings, check_recipe, load_recipe
from limbeck.settings import Settings
from limbeck.soft_labels.settings import CodecSettings
from limbeck.tasks.settings import ExamplesSettings, GeneratedTask
from limbeck.training.settings import TrainSettings

Limbeck = Callable[..., object]
MINIMAL = "name: x\ntask: {name: arithmetic}\nstudent: {method: answers-only}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL)
    return path


def refusal(path: Path, *overrides: str) -> str:
    """The sentence that refuses a recipe, within seconds."""
    clock = time.process_time()
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    assert time.process_time() - clock < 5
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


# --- names and keys (A20) ------------


@pytest.mark.parametrize("key", ["no", "off", "010", "yes", "1.5", "2024-01-01", "null", "~"])
@pytest.mark.parametrize("place", ["students: {%s: {}}", "mentors: {%s: {}}", "rationales: {%s: 1}"])
def test_a_key_that_is_no_text_is_refused_with_its_line(recipe: Path, key: str, place: str) -> None:
    recipe.write_text(MINIMAL + place % key + "\n")
    text = refusal(recipe)
    assert f"r.yaml:4: the key {key} is not text in YAML" in text and "quotes" in text
    assert f"the key {key} is not text" in refusal(recipe, f"student.settings={{{key}: 1}}")


def test_a_quoted_name_is_meant(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "students: {'no': {}, '010': {}}\n")
    assert list(load_recipe(recipe).students) == ["no", "010"]


@pytest.mark.parametrize("name", ["a" * 201, "ü" * 101])
def test_a_name_that_no_folder_can_have_is_refused_before_anything_is_done(recipe: Path, name: str) -> None:
    for place in ("students", "mentors"):
        assert "bytes; use at most 200" in refusal(recipe, f"{place}={{{name}: {{}}}}")
    assert "bytes; use at most 200" in refusal(recipe, f"name={name}")
    assert load_recipe(recipe, [f"name={'a' * 200}"]).name == "a" * 200


def test_names_that_are_one_folder_on_some_systems_are_refused(recipe: Path) -> None:
    for one, other in (("Cot", "cot"), ("u\u0308", "\u00fc")):
        assert "one folder on macOS" in refusal(recipe, f"students={{{one}: {{}}, {other}: {{}}}}")


# --- numbers (A21) ------------


def number_settings() -> list[tuple[type[Settings], str]]:
    """Every setting of the recipe that may be a number, by reading the schema of all its parts."""
    classes: list[type[Settings]] = [TrainSettings, LoraSettings, CodecSettings, Prices, ApiSettings]
    classes += [ExamSettings, WritingSettings, ExamplesSettings, GeneratedTask, Recipe]
    classes += [find_method(name).settings for name in built_in()]  # type: ignore[misc]
    found = []
    for one in classes:
        for name, schema in one.model_json_schema()["properties"].items():
            kinds = {part.get("type") for part in [schema, *schema.get("anyOf", [])]}
            if kinds & {"integer", "number"}:
                found.append((one, name))
    return found


@pytest.mark.parametrize(
    ("settings", "name"), number_settings(), ids=lambda one: getattr(one, "__name__", one)
)
@pytest.mark.parametrize("value", [True, False, float("inf"), float("nan"), "inf", 10**30, 1e30, "1e400"])
def test_no_setting_takes_what_is_no_number(settings: type[Settings], name: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        settings.model_validate({name: value})
    assert (name,) in {one["loc"][:1] for one in caught.value.errors() if one["type"] != "missing"}


def test_every_class_of_settings_is_one_of_ours() -> None:
    """A new class cannot forget the rule: all that a recipe is made of derives from `Settings`."""

    def inner(one: object) -> set[type]:
        found: set[type] = set()
        if isinstance(one, type) and hasattr(one, "model_fields"):
            found = {one}
            for field in one.model_fields.values():
                found |= inner(field.annotation)
        for part in getattr(one, "__args__", ()):
            found |= inner(part)
        return found

    assert {one for one in inner(Recipe) if not issubclass(one, Settings)} == set()
    assert len(inner(Recipe)) > 12
    assert all(issubclass(find_method(name).settings, Settings) for name in built_in())


@pytest.mark.parametrize(
    "override",
    [
        "student.train.clip=.inf",
        "student.train.learning_rate=true",
        "student.train.epochs=1000000000000000000000000000000",
        "student.train.epochs=1000000000",
        "exam.votes=1000000000",
        "exam.max_tokens=2000000000",
        "rationales.per_problem=1000000000",
        "student.train.epochs=0x" + "f" * 90,
        "student.seeds=[true]",
        "task.parameters={steps: true}",
        "rationales.temperature=.inf",
        "rationales.temperature=.nan",
        "student.lora={alpha: .inf}",
    ],
)
def test_a_number_that_is_none_is_named_with_its_setting(recipe: Path, override: str) -> None:
    setting = override.partition("=")[0].rpartition(".")[2]
    assert setting in refusal(recipe, override)


# --- hangs (A22) ------------


def bomb(first: str, inner: str) -> str:
    lines = [f"a0: &a0 {first}"]
    for level in range(1, 9):
        again = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} {inner % again}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        bomb("[1, 1]", "[%s]"),
        bomb("{x: 1}", "{y: [%s]}"),
        bomb("{x: 1}", "{<<: [%s]}"),
        "seeds: [" + "1," * 110_000 + "]",
    ],
    ids=["lists", "mappings", "merges", "long"],
)
def test_aliases_that_multiply_are_refused_at_once(recipe: Path, text: str) -> None:
    recipe.write_text(text)
    assert "more than 100,000 values" in refusal(recipe)


def test_an_alias_inside_itself_is_refused(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "students: &a {x: *a}\n")
    assert "an alias stands for what it is part of" in refusal(recipe)


def test_a_huge_recipe_and_a_huge_number_are_refused_at_once(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "# " + "x" * 300_000)
    assert "so it is not a recipe" in refusal(recipe)
    recipe.write_text(f"name: x\nseed: {'1:' * 100_000}1\n")
    assert "a number of 200001 characters" in refusal(recipe)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.yaml")
    assert "a pipe or a device" in refusal(tmp_path / "r.yaml")


# --- what ended in "unexpected ..." (A23) ------------


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("!!bool x", "bool"),
        ("!!int ''", "int"),
        ("!!int x", "int"),
        ("!!float ''", "float"),
        ("!!timestamp x", "timestamp"),
        ("2024-13-45", "timestamp"),
        ("!!map x", "map"),
    ],
)
def test_a_value_that_does_not_fit_its_tag_is_refused_with_its_line(
    limbeck: Limbeck, recipe: Path, value: str, kind: str
) -> None:
    recipe.write_text(f"name: x\nseed: {value}\n")
    answer = limbeck("run", recipe)
    assert answer.status == 2 and "r.yaml:2: " in answer.err and f"cannot be read as {kind}" in answer.err
    recipe.write_text(MINIMAL)
    assert limbeck("run", recipe, "--set", f"seed={value}").status == 2


@pytest.mark.parametrize("value", ["!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]"])
def test_kinds_that_no_setting_has_are_refused(recipe: Path, value: str) -> None:
    recipe.write_text(f"name: {value}\n")
    assert "could not determine a constructor" in refusal(recipe)


def test_a_long_wrong_value_is_shown_in_short(recipe: Path) -> None:
    assert "given: 'yyyy" in refusal(recipe, f"student.train.epochs={'y' * 5000}")
    assert "unknown setting" in refusal(recipe, f"student.train={{{'y' * 500}: 1}}")


def test_a_recipe_of_python_objects_is_checked_too() -> None:
    with pytest.raises(RecipeError, match="is not text in YAML"):
        check_recipe({"name": "x", "task": {"name": "coin-flip"}, "students": {False: {}}}, "r")
