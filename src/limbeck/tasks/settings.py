"""The `task:` part of a recipe, in one of two forms, and the `prompt:` of a model.

A built-in task:                       Your own data:

    task:                                  task:
      name: arithmetic                       name: tracking
      train: 4000                            kind: choice
      dev: 200                               train: train.json
      test: 500                              test: test.json
      parameters: {steps: 3}                 dev: 0.1
                                             columns: {question: input, rationale: chain}
                                             leaks: refuse

With a kind, columns, leaks, bad_rows or a path it is the second form. `exam.also` lists further tasks, in
either form, of which the test split alone is used.

A prompt, of the teacher, a mentor or a student; all of it may be left out:

    prompt:
      system: You are a careful accountant.
      instruction: Think step by step.
      examples: 4                            or {file: shots.jsonl, k: 4}
      template: "{instruction}\\n\\n{examples}\\n\\nQ: {question}\\nA:\\n"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from limbeck.settings import Name, Settings
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.generated import GENERATED, built_in_task, settle_parameters
from limbeck.tasks.labels import refuse_ambiguous
from limbeck.tasks.templates import Template

Leaks = Literal["refuse", "drop", "keep"]
BadRows = Literal["refuse", "skip"]
Gold = Literal["needed", "optional"]


_NUMERIC = re.compile(r"[-+]?(?:[0-9]{1,9}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,2})?")


class Columns(Settings):
    """What the columns of your data are called; "a.b" reaches into a column of objects."""

    question: str | tuple[str, ...] = Field(
        default="question", description="one column, or several that make up the question together"
    )
    join: str = Field(default=" ", description="what is written between the columns of a question")
    answer: str = Field(default="answer", description="the gold answer, or scores by option as in BIG-bench")
    options: str | tuple[str, ...] | None = Field(
        default=None, description="kind choice: one column that lists the options, or one column per option"
    )
    id: str | None = Field(default=None, description="without it, ids are made from the questions")
    rationale: str | None = Field(default=None, description="given rationales, of the training data only")
    several_rationales: bool = Field(
        default=False, description="a list in the rationale column holds several rationales of its question"
    )

    @field_validator("question")
    @classmethod
    def _is_some_column(cls, question: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not question or not all(question):
            raise ValueError("name one column, or a list of columns")
        return question[0] if isinstance(question, tuple) and len(question) == 1 else question

    @model_validator(mode="after")
    def _several_of_a_column(self) -> Self:
        if self.several_rationales and self.rationale is None:
            raise ValueError("several_rationales: names no column by itself; set rationale, or remove it")
        return self


class GeneratedTask(Settings):
    """A built-in task: how many problems of each split, and how hard they are."""

    name: str = Field(description="a name from `limbeck tasks`")
    train: int = Field(default=4000, ge=1, description="training problems")
    dev: int = Field(default=200, ge=0, description="problems that checkpoints are chosen on")
    test: int = Field(default=500, ge=1, description="problems of the exam")
    parameters: Mapping[str, int] = Field(default_factory=dict, description="the task's own settings")

    @property
    def source(self) -> Literal["generated"]:
        return "generated"

    @field_validator("name")
    @classmethod
    def _exists(cls, name: str) -> str:
        if name not in GENERATED:
            known = ", ".join(GENERATED)
            raise ValueError(
                f"there is no such task; choose one of {known}, or give your own data by path and kind"
            )
        return name

    @model_validator(mode="after")
    def _parameters_fit(self) -> Self:
        settle_parameters(GENERATED[self.name], self.parameters)
        return self

    @field_validator("parameters")
    @classmethod
    def _without_defaults(cls, given: Mapping[str, int], info: ValidationInfo) -> Mapping[str, int]:
        """One that is written out at its default is the same task."""
        usual = GENERATED[info.data["name"]].parameters if "name" in info.data else {}
        return {name: value for name, value in given.items() if value != usual.get(name)}


class FilesTask(Settings):
    """Your own data: JSON, JSONL, CSV, TSV or parquet, or a data set as `hf:NAME[/CONFIG]:SPLIT`."""

    name: str = Field(default="data", description="what tables call it")
    kind: AnswerKind = Field(description="number, choice, yes-no, text, label or math")
    labels: tuple[str, ...] = Field(
        default=(), description="kind label: the answers that there are; the teacher is told them"
    )
    train: str = Field(min_length=1, description="path of the training data")
    test: int | float | str = Field(
        description="path of the data that is examined; or cut from train: a share below 1, or a number"
    )
    dev: int | float | str = Field(
        default=0.1, description="cut from train: a share below 1, or a number of problems; or a path"
    )
    columns: Columns = Columns()
    gold: Gold = Field(
        default="needed",
        description='"optional": training problems may lack their answer; what their samples agree on is '
        "trained on (rationales.keep: agreement)",
    )
    leaks: Leaks = Field(
        default="refuse",
        description="questions of train that are in dev or test too: refuse, drop from train, or keep",
    )
    bad_rows: BadRows = Field(
        default="refuse", description="rows that cannot be used: refuse the file, or skip them and list them"
    )

    @property
    def source(self) -> Literal["files"]:
        return "files"

    @field_validator("dev", "test", mode="before")
    @classmethod
    def _is_share_count_or_path(cls, cut: object) -> object:
        if isinstance(cut, str) and _NUMERIC.fullmatch(cut):  # YAML reads 1e-1 as text
            cut = float(cut) if re.search("[.eE]", cut) else int(cut)
        if isinstance(cut, bool) or not isinstance(cut, int | float | str) or cut == "":
            raise ValueError("give a share below 1, a number of problems, or a path")
        if isinstance(cut, float) and not 0 <= cut < 1:
            raise ValueError(
                "a share must be at least 0 and below 1; write a number of problems without a point"
            )
        if isinstance(cut, int) and cut < 0:
            raise ValueError("a number of problems cannot be negative")
        return cut

    @field_validator("test")
    @classmethod
    def _is_some_test(cls, test: int | float | str) -> int | float | str:
        if not test:
            raise ValueError("the exam needs problems; give a share above 0, a number of them, or a path")
        return test

    @model_validator(mode="after")
    def _labels_are_of_label(self) -> Self:
        if self.kind == "label":
            refuse_ambiguous(self.labels)
        elif self.labels:
            raise ValueError(f"labels: answers of kind {self.kind} have none; remove them or set kind: label")
        return self

    @model_validator(mode="after")
    def _options_are_of_choice(self) -> Self:
        if self.columns.options is not None and self.kind != "choice":
            raise ValueError(
                f"columns.options: answers of kind {self.kind} have none; remove it or set kind: choice"
            )
        return self


def _form(value: Any) -> str:
    """Which form a `task:` has; of a broken one, the form whose complaint helps more."""
    if isinstance(value, Mapping):
        paths = [name for name in ("train", "dev", "test") if isinstance(value.get(name), str)]
        own = {"kind", "labels", "columns", "leaks", "bad_rows"}
        return "files" if paths or own & value.keys() else "generated"
    return "files" if isinstance(value, FilesTask) else "generated"


def _is_a_group(value: object) -> object:
    if not isinstance(value, Mapping | GeneratedTask | FilesTask):
        raise ValueError("must be a group of settings, such as `name: arithmetic`")
    return value


TaskSettings = Annotated[
    Annotated[GeneratedTask, Tag("generated")] | Annotated[FilesTask, Tag("files")],
    Discriminator(_form),
    BeforeValidator(_is_a_group),
]


class OtherGenerated(GeneratedTask):
    """A built-in task whose test problems are an exam too."""

    called: Name | None = Field(default=None, description="what tables and folders call it; null: its name")


class OtherFiles(FilesTask):
    """Your own data, whose test split is an exam too."""

    name: Name = Field(description="what tables and folders call it")
    train: str = Field(
        default="", description="path of the data that test is cut from, where it is not a path"
    )

    @model_validator(mode="after")
    def _has_a_test(self) -> Self:
        if not isinstance(self.test, str) and not self.train:
            raise ValueError(f"test: {self.test} is cut from train, which is missing; give test a path")
        return self


def _named_alone(value: object) -> object:
    """`also: [coin-flip]` is a built-in task with its defaults."""
    return _is_a_group({"name": value} if isinstance(value, str) else value)


OtherTask = Annotated[
    Annotated[OtherGenerated, Tag("generated")] | Annotated[OtherFiles, Tag("files")],
    Discriminator(_form),
    BeforeValidator(_named_alone),
]
"""A task as under `task:`, of which the test split alone is used: that of a recipe can be copied."""


def own_name(other: OtherTask) -> str:
    """What tables and folders call an entry of `exam.also`."""
    return (other.called if isinstance(other, OtherGenerated) else None) or other.name


def only_test(other: OtherTask) -> OtherTask:
    """The settings that decide the test split; those that only say something of others at their defaults."""
    usual: dict[str, Any] = {"dev": type(other).model_fields["dev"].default}
    if isinstance(other, OtherGenerated):
        return other.model_copy(update=usual | {"train": GeneratedTask.model_fields["train"].default})
    usual |= {"leaks": "refuse"}
    usual["columns"] = other.columns.model_copy(update={"rationale": None, "several_rationales": False})
    if isinstance(other.test, str):
        usual |= {"train": "", "gold": "needed"}
    return other.model_copy(update=usual)


def task_labels(settings: TaskSettings) -> tuple[str, ...]:
    """The labels that a task's answers are of; () where its kind is not label."""
    return settings.labels if isinstance(settings, FilesTask) else ()


def task_kind(settings: TaskSettings) -> AnswerKind:
    """The answer kind of either form."""
    return settings.kind if isinstance(settings, FilesTask) else GENERATED[settings.name].kind


def built_in(name: str) -> GeneratedTask:
    """A built-in task with all its defaults.

    Raises:
        RecipeError: there is none of that name.
    """
    return GeneratedTask(name=built_in_task(name).name)


class ExamplesSettings(Settings):
    """Demonstrations shown before the question: of a file, or of the training split; never of test."""

    k: int | None = Field(
        None, ge=1, le=100, description="how many; null: all of the file's; needed without a file"
    )
    file: str | None = Field(
        None, min_length=1, description="few-shot examples (docs/data.md); null: from the training split"
    )

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: object) -> object:
        """`examples: 4` is a number from the training split, `examples: shots.jsonl` a whole file."""
        if isinstance(value, int) and not isinstance(value, bool):
            return {"k": value}
        return {"file": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _says_how_many(self) -> Self:
        if self.k is None and self.file is None:
            raise ValueError("say how many demonstrations (k), or name a file of them")
        return self


class PromptSettings(Settings):
    """What is in a prompt besides the question."""

    template: str | None = Field(
        None, description="text with places such as {question}; null: the usual one (see tasks/templates.py)"
    )
    instruction: str | None = Field(
        None,
        description="what to do; null: for a teacher to reason step by step, where its template has the "
        "place, for others nothing",
    )
    system: str | None = Field(None, min_length=1, description="system prompt")
    examples: ExamplesSettings | None = Field(None, description="demonstrations shown before the question")

    @property
    def shots(self) -> int | None:
        """How many demonstrations are shown; None: all there are."""
        return None if self.examples is None else self.examples.k

    @field_validator("template")
    @classmethod
    def _is_read(cls, template: str | None) -> str | None:
        if template is not None:
            Template.read(template)
        return template

    @model_validator(mode="after")
    def _has_places(self) -> Self:
        if self.template is None:
            return self
        names = Template.read(self.template).names
        for name, value in (("instruction", self.instruction), ("examples", self.examples)):
            if value and name not in names:
                raise ValueError(f"template: has no place {{{name}}} for {name}; add it or remove {name}")
        return self

    def check_format(self, form: str) -> None:
        """Refuse a template that a text format would glue to the completion.

        Raises:
            ValueError: naming the template.
        """
        if self.template is not None and form != "chat" and not self.template[-1:].isspace():
            raise ValueError(
                "prompt.template: must end in a line break or a space, because what the student "
                f"writes follows it directly in format {form}"
            )
