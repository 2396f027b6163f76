"""The `prompt:` of a recipe: short forms, and what is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from limbeck.errors import RecipeError
from limbeck.recipe import Recipe, check_recipe
from limbeck.tasks.settings import ExamplesSettings, PromptSettings

FILES = {"kind": "number", "train": "a.json", "test": "b.json"}


def recipe(**more: Any) -> Recipe:
    base = {"name": "r", "task": {"name": "arithmetic"}, "student": {"method": "finetune-cot"}}
    return check_recipe(base | more, "r.yaml")


def student(**prompt: Any) -> dict[str, Any]:
    return {"student": {"method": "finetune-cot", "prompt": prompt}}


def test_everything_may_be_left_out() -> None:
    assert recipe().students["finetune-cot"].prompt == PromptSettings()
    assert recipe().teacher.prompt == PromptSettings()  # type: ignore[union-attr]


def test_examples_in_short() -> None:
    def examples(value: object) -> ExamplesSettings | None:
        return recipe(**student(examples=value)).students["finetune-cot"].prompt.examples

    assert examples(4) == ExamplesSettings(k=4)
    assert examples("shots.jsonl") == ExamplesSettings(file="shots.jsonl")
    assert examples({"file": "shots.jsonl", "k": 2}) == ExamplesSettings(k=2, file="shots.jsonl")
    for wrong in (0, True, {}, {"k": 2, "from": "test"}, "", [4]):
        with pytest.raises(RecipeError, match="examples"):
            examples(wrong)


def test_a_recipe_with_prompts_is_written_and_read_again() -> None:
    made = recipe(
        teacher={"kind": "offline", "prompt": {"instruction": "Think.", "examples": "f.txt"}},
        **student(system="S", template="{examples}\n\nQ: {question}\nA:\n", examples=3),
    )
    assert Recipe.model_validate(yaml.safe_load(made.to_yaml())) == made


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (student(template="Q:"), r"prompt.template: has no place \{question\}"),
        (student(template="{question}{mistake}"), r"there is no place \{mistake\}"),
        (student(template="{question}\nA:"), "must end in a line break or a space"),
        (student(template="{question}\n", instruction="x"), r"no place \{instruction\} for instruction"),
        (student(template="{question}\n", examples=2), r"no place \{examples\} for examples"),
        (student(exmples=2), "did you mean examples"),
        ({"teacher": {"kind": "given", "prompt": {}}, "task": FILES}, "prompt: unknown setting"),
        (
            {
                "teacher": {
                    "kind": "api",
                    "base_url": "http://h/v1",
                    "model": "m",
                    "system": "a",
                    "prompt": {"system": "b"},
                }
            },
            "system and prompt.system are both given",
        ),
        (
            {"teacher": {"kind": "offline", "prompt": {"examples": 2}}},
            "hold no rationales to show; name a file",
        ),
        ({"teacher": {"kind": "local", "model": "m", "prompt": {"examples": 2}}, "task": FILES}, "hold no"),
    ],
)
def test_what_cannot_be_is_refused_when_the_recipe_is_read(more: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(**more)


def test_a_template_of_a_chat_may_end_as_it_likes() -> None:
    settings = {"student": {"method": "m", "format": "chat", "prompt": {"template": "Q: {question}"}}}
    assert recipe(**settings).students["m"].prompt.template == "Q: {question}"


def test_a_teacher_may_show_rationales_of_its_own_data() -> None:
    task = {**FILES, "columns": {"rationale": "chain"}}
    made = recipe(task=task, teacher={"kind": "local", "model": "m", "prompt": {"examples": 2}})
    assert made.teacher.prompt.shots == 2  # type: ignore[union-attr]
