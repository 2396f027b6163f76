"""Asking: everything that makes a problem a prompt, the same in training, exams, `ask` and `evaluate`.

A model folder keeps it in `limbeck.json`, spelled out, so that inference needs no
recipe; a part that is missing or unknown there is refused, never skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue, ValidationError

from limbeck.errors import InputError, ModelError, RecipeError
from limbeck.lm import Prompt
from limbeck.lm.written import CLOSE, OPEN, opens_thinking
from limbeck.records import Demonstration, Example, Pieces, Problem, first_problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.cutting import cut
from limbeck.tasks.prompts import (
    FORMATS,
    TEACHER_TEMPLATE,
    ChatTokenizer,
    chat,
    completion_of,
    known_format,
    listed_options,
    question_with_options,
    teacher_instruction,
)
from limbeck.tasks.settings import PromptSettings
from limbeck.tasks.templates import PLACES, Template, without_asked

ABOUT = "limbeck.json"
"""File in a model folder: what it is, and what its prompts need."""

BASE_TEMPLATE = "base_chat_template"
"""In that file: the chat template of the base model's tokenizer; null: it had none."""

BASE_IDENTITY = "base_identity"
"""In that file, of an adapter on a base or a GGUF file: a hash of what that is made from."""

KNOWLEDGE = "knowledge"
"""A need: passages come with every question."""

RATIONALE = "rationale"
"""A need, and the place that it fills: a rationale comes with every question (a verifier's)."""

NEEDS = (KNOWLEDGE, RATIONALE)


@dataclass(frozen=True, slots=True)
class Asking:
    """How problems become prompts.

    Attributes:
        format: how text becomes what the model reads, and how completions close.
        template: see `tasks.templates`; "": the format's own.
        instruction, system: "": none.
        demonstrations: to choose from; a problem is never shown its own.
        shots: how many are shown, the first that fit; None: all.
        needs: what must come with every problem; "knowledge": passages; "rationale": one to be judged.
        thinks: it reasons inside `<think>` tags, and its answer is behind them.
        apart: each of a problem's passages is in a prompt of its own, and the answers to all of them vote.
        room: most tokens of a prompt, as in its training; None: as many as the model can read.

    Raises:
        RecipeError: no such format, or the template cannot be read or has no place for what is given.
    """

    format: str = "plain"
    template: str = ""
    instruction: str = ""
    system: str = ""
    demonstrations: tuple[Demonstration, ...] = ()
    shots: int | None = None
    needs: tuple[str, ...] = ()
    thinks: bool = False
    apart: bool = False
    room: int | None = None
    _layout: Template = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = self.template or known_format(self.format).template
        shots = len(self.demonstrations) if self.shots is None else self.shots
        try:
            layout = Template.read(text, None)
        except ValueError as error:
            raise RecipeError(f"template: {error}") from None
        for name, there in (("instruction", self.instruction), ("examples", shots)):
            if there and name not in layout.names:
                raise RecipeError(f"template: has no place {{{name}}} for what is given; add it")
        for name, value in (("template", text), ("shots", shots), ("_layout", layout)):
            object.__setattr__(self, name, value)

    def pieces(
        self, problem: Problem, passages: Sequence[str] | None = None, *, cue: str = "", **more: str
    ) -> Pieces:
        """The parts of a problem's prompt.

        Args:
            passages: what is known about it; None: not looked for.
            cue, more: what fills places of the template beyond the usual ones.

        Raises:
            InputError: knowledge is needed and was not looked for, or a rationale and there is none.
        """
        if passages is None and KNOWLEDGE in self.needs:
            raise InputError(
                f"problem {problem.id}: this model needs knowledge with every question; give it passages"
            )
        if RATIONALE in self.needs and RATIONALE not in more:
            raise InputError(
                f"problem {problem.id}: this model is a verifier, and reads a rationale with every question; "
                "name a student"
            )
        apart, whole = "options" in self._layout.names, question_with_options(problem)
        others = without_asked(self.demonstrations, (problem.question, whole))
        return Pieces(
            question=problem.question if apart else whole,
            options=listed_options(problem) if apart else "",
            instruction=self.instruction,
            examples=tuple(others[: self.shots]),
            passages=tuple(passages or ()),
            cue=cue,
            more=more,
        )

    def example(
        self,
        problem: Problem,
        reasoning: str,
        passages: Sequence[str] | None = None,
        *,
        role: str = "",
        thinking: str = "",
        **more: str,
    ) -> Example:
        """A training example: the problem's prompt, and reasoning with the *gold* answer, or that alone.

        Args:
            thinking: see `completion_of`.
            more: see `pieces`.

        Raises:
            InputError: as `pieces`; the problem has no gold answer.
        """
        form = FORMATS[self.format]
        completion = completion_of(form, reasoning, problem.gold, thinks=self.thinks, thinking=thinking)
        end = len(completion) - len(form.after_answer)
        return Example(
            problem_id=problem.id,
            prompt=self.pieces(problem, passages, **more),
            completion=completion,
            answer_span=(end - len(problem.gold), end),
            role=role,
        )

    def text(self, tokenizer: ChatTokenizer | None, pieces: Pieces, room: int | None = None) -> str:
        """The text that is tokenised.

        What is longer than the room is cut (see `tasks.cutting`). One that even so does not
        fit is returned as short as it gets: training leaves it out and says so, a model
        that is asked refuses it.

        Args:
            tokenizer: needed for format `chat`, and where there is a room.
            pieces: from `pieces`.
            room: most tokens, as the tokenizer counts them; None: as many as `self.room` says.

        Raises:
            ModelError: format `chat` and the tokenizer has no chat template.
            RecipeError: a piece without a place in the template, or a place that nothing fills.
        """
        room = min((one for one in (room, self.room) if one is not None), default=None)
        if room is None or tokenizer is None or not (pieces.passages or pieces.examples):
            return self._whole(tokenizer, pieces)
        made, counted = partial(self._whole, tokenizer), partial(_length, tokenizer)
        return cut(pieces, room, made, counted)

    def _whole(self, tokenizer: ChatTokenizer | None, pieces: Pieces) -> str:
        if self.format != "chat":
            plain = self.plain(pieces)
            return f"{self.system}\n\n{plain}" if self.system else plain
        if tokenizer is None:
            raise ModelError("format: chat needs a tokenizer with a chat template; use format plain")
        return chat(tokenizer, self._refilled(pieces), self.system)

    def _refilled(self, pieces: Pieces) -> list[str]:
        try:
            return self._layout.turns(pieces)
        except ValueError as error:
            raise RecipeError(f"template: {error}") from None

    def opened(self, text: str) -> bool:
        """Whether a completion of this text begins inside the thinking: the chat template opened it.

        A student that was trained not to think writes no closing tag, and all of its text is its answer.
        """
        return self.thinks and opens_thinking(text)

    def direct(self, text: str) -> str:
        """How a completion without reasoning begins, behind this prompt: the statement up to the answer.

        The space behind it is left out, since tokenizers write it with what follows.
        """
        statement = FORMATS[self.format].before_answer.rstrip()
        if not self.thinks:
            return statement
        return f"{CLOSE}\n{statement}" if self.opened(text) else f"{OPEN}\n{CLOSE}\n{statement}"

    def plain(self, pieces: Pieces) -> str:
        """The prompt as one text without the system prompt, for an endpoint that takes that apart.

        Raises:
            RecipeError: as `text`.
        """
        try:
            return self._layout.fill(pieces)
        except ValueError as error:
            raise RecipeError(f"template: {error}") from None

    def prompts(
        self,
        problems: Iterable[Problem],
        tokenizer: ChatTokenizer | None = None,
        *,
        room: int | None = None,
        passages: Mapping[str, Sequence[str]] | None = None,
        direct: bool = False,
    ) -> list[Prompt]:
        """One prompt per problem, rendered, whose id is the problem's; or what `asked` gives.

        Args:
            tokenizer, room: see `text`.
            passages: by the problem's id.
            direct: completions begin with the answer statement (see `direct`).

        Raises:
            As `pieces` and `text`.
        """
        made = []
        for problem in problems:
            known = None if passages is None else passages.get(problem.id)
            for name, pieces in self.asked(problem, known):
                text = self.text(tokenizer, pieces, room)
                begun, own = self.direct(text) if direct else "", (name, problem.id)
                made.append(Prompt(*own, text, opened=self.opened(text), begun=begun, pieces=pieces))
        return made

    def asked(self, problem: Problem, passages: Sequence[str] | None = None) -> list[tuple[str, Pieces]]:
        """What an exam asks about a problem: one prompt, or one for each passage, with its id.

        Raises:
            InputError: as `pieces`.
        """
        if not self.apart or passages is None or len(passages) < 2:
            return [(problem.id, self.pieces(problem, passages))]
        return [
            (f"{problem.id}/passage{number}", self.pieces(problem, [one]))
            for number, one in enumerate(passages, start=1)
        ]

    def with_format(self, name: str) -> Self:
        """The same in another format, each with the format's own template.

        Raises:
            RecipeError: no such format, or a template or demonstrations that belong to this one.
        """
        if name == self.format:
            return self
        if self.demonstrations or self.template != FORMATS[self.format].template:
            raise RecipeError(f"--format: this model's prompts are made for {self.format}; leave it out")
        return replace(self, format=known_format(name).name, template="")

    def about(self) -> dict[str, JsonValue]:
        """What `limbeck.json` keeps of it, everything spelled out."""
        return {
            "format": self.format,
            "prompt": {
                "template": self.template,
                "instruction": self.instruction,
                "system": self.system,
                "demonstrations": [one.model_dump(mode="json") for one in self.demonstrations],
                "shots": self.shots,
                **({"thinks": True} if self.thinks else {}),
                **({"apart": True} if self.apart else {}),
                **({"room": self.room} if self.room is not None else {}),
            },
            "needs": list(self.needs),
        }

    def plan(self, usual: Asking | None = None) -> dict[str, JsonValue]:
        """What decides the prompts, for a stage's plan: `about` without what is usual.

        Args:
            usual: how one would be asked whose recipe says nothing; None: the format's default.
        """
        mine, theirs = self.about(), (usual or Asking(self.format)).about()
        changed = {
            name: value
            for name, value in mine["prompt"].items()  # type: ignore[union-attr]
            if value != theirs["prompt"].get(name)  # type: ignore[union-attr]
        }
        needs: dict[str, JsonValue] = {"needs": mine["needs"]} if self.needs else {}
        return {**({"prompt": changed} if changed else {}), **needs}

    @classmethod
    def of_about(cls, about: Mapping[str, Any], place: str | Path) -> Self:
        """As `limbeck.json` keeps it; a file of before 0.2, which names the format alone, means its defaults.

        Raises:
            ModelError: a part is missing, unknown or damaged.
        """
        fix = "fix it, or delete the file and name the prompt format with --format"
        form = about.get("format", "plain")
        if not isinstance(form, str) or form not in FORMATS:
            raise ModelError(f"{place}: format {form!r} is not one of {', '.join(FORMATS)}; {fix}")
        if "prompt" not in about and "needs" not in about:
            return cls(form)
        prompt, needs = about.get("prompt"), about.get("needs")
        parts = {"template", "instruction", "system", "demonstrations", "shots"}
        if not isinstance(prompt, dict) or not isinstance(needs, list):
            raise ModelError(f"{place}: prompt or needs is missing, so its prompts cannot be made; {fix}")
        for name in sorted(parts ^ (prompt.keys() - {"thinks", "apart", "room"})):
            what = "is missing" if name in parts else "is unknown here"
            raise ModelError(f"{place}: prompt.{name} {what}; load it with the Limbeck that saved it")
        for need in needs:
            if need not in NEEDS:
                raise ModelError(f"{place}: needs {need!r}, unknown here; load it with a newer Limbeck")
        shots, thinks, apart = prompt["shots"], prompt.get("thinks", False), prompt.get("apart", False)
        texts = [prompt[name] for name in ("template", "instruction", "system")]
        whole_number = isinstance(shots, int) and not isinstance(shots, bool) and shots >= 0
        flags = isinstance(thinks, bool) and isinstance(apart, bool)
        room = prompt.get("room")
        counted = room is None or (isinstance(room, int) and not isinstance(room, bool) and room > 0)
        right = whole_number and flags and counted and all(isinstance(text, str) for text in texts)
        if not right or not prompt["template"]:
            raise ModelError(f"{place}: prompt holds no text or number where one is needed; {fix}")
        try:
            Template.read(prompt["template"], (*PLACES, *(RATIONALE for need in needs if need == RATIONALE)))
            shown = tuple(Demonstration.model_validate(one) for one in prompt["demonstrations"])
            template, instruction, system = texts
            return cls(form, template, instruction, system, shown, shots, tuple(needs), thinks, apart, room)
        except ValidationError as error:
            raise ModelError(f"{place}: prompt.demonstrations: {first_problem(error)}; {fix}") from None
        except (TypeError, ValueError, RecipeError) as error:
            raise ModelError(f"{place}: prompt: {error}; {fix}") from None

    @classmethod
    def of_folder(cls, path: str | Path) -> Self:
        """How a saved model is asked; one without `limbeck.json` in format plain.

        Raises:
            ModelError: its `limbeck.json` is damaged, or a part is missing or unknown.
        """
        return cls.of_about(about_model(path), Path(path) / ABOUT)


def about_model(path: str | Path) -> dict[str, Any]:
    """What `limbeck.json` in a model folder says; {} when it has none.

    Raises:
        ModelError: it is damaged, or names prompts or a max_tokens that cannot be.
    """
    file = Path(path) / ABOUT
    if not file.is_file():
        return {}
    fix = "fix it, or delete the file and name the prompt format with --format"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ModelError(f"{file}: not JSON; {fix}") from None
    if not isinstance(about, dict):
        raise ModelError(f"{file}: not a JSON object; {fix}")
    Asking.of_about(about, file)
    room = about.get("max_tokens", 1)
    if isinstance(room, bool) or not isinstance(room, int) or room < 1:
        raise ModelError(f"{file}: max_tokens {room!r} is not a whole number above 0; {fix}")
    if not isinstance(about.get(BASE_TEMPLATE), str | dict | None):
        raise ModelError(f"{file}: {BASE_TEMPLATE} is not text; {fix}")
    return about


def teacher_asking(
    settings: PromptSettings,
    kind: AnswerKind,
    *,
    labels: Sequence[str] = (),
    form: str = "plain",
    demonstrations: Sequence[Demonstration] = (),
) -> Asking:
    """How a recipe's teacher is asked for rationales.

    Args:
        labels: of kind label: it is told them.
        form: "chat" for a local model with a chat template.
        demonstrations: from `demonstrations.chosen`.
    """
    own = settings.template is not None and "instruction" not in Template.read(settings.template).names
    usual = "" if own else teacher_instruction(kind, labels)
    return Asking(
        form,
        settings.template or TEACHER_TEMPLATE,
        usual if settings.instruction is None else settings.instruction,
        settings.system or "",
        tuple(demonstrations),
        settings.shots,
    )


def learner_asking(
    settings: PromptSettings,
    form: str,
    *,
    demonstrations: Sequence[Demonstration] = (),
    needs: Sequence[str] = (),
    thinks: bool = False,
) -> Asking:
    """How a recipe's student or mentor is asked, in training and afterwards.

    Args:
        demonstrations: from `demonstrations.chosen`, in this format.
        needs, thinks: see `Asking`.
    """
    return Asking(
        form,
        settings.template or "",
        settings.instruction or "",
        settings.system or "",
        tuple(demonstrations),
        settings.shots,
        tuple(needs),
        thinks,
    )


def rendered(
    asking: Asking,
    tokenizer: Any,
    examples: Iterable[Example],
    *,
    max_length: int | None = None,
    encoder_decoder: bool = False,
) -> list[Example]:
    """Examples with their prompts as the model reads them; those that are text already stay.

    Args:
        max_length: most tokens of a row (of each side of an encoder-decoder's): what may be
            cut of a prompt is cut to it, less the completion and its end; None: nothing is cut.
    """
    made = []
    for example in examples:
        pieces, room = example.prompt, max_length
        if isinstance(pieces, str):
            made.append(example)
            continue
        if room is not None and not encoder_decoder and (pieces.passages or pieces.examples):
            written = tokenizer(example.completion, add_special_tokens=False, verbose=False)["input_ids"]
            room -= len(written) + 1
        text = asking.text(tokenizer, pieces, room)
        opening = _opening(text, example.completion) if asking.opened(text) else 0
        span = example.answer_span and (example.answer_span[0] - opening, example.answer_span[1] - opening)
        changed = {"prompt": text, "completion": example.completion[opening:], "answer_span": span}
        made.append(example.model_copy(update=changed))
    return made


def _opening(prompt: str, completion: str) -> int:
    """How many characters of a completion its prompt holds already: the opening tag, and its line break."""
    tag = f"{OPEN}\n" if prompt.endswith("\n") else OPEN
    return len(tag) if completion.startswith(tag) else 0


def _length(tokenizer: ChatTokenizer, text: str) -> int:
    return len(tokenizer(text, verbose=False)["input_ids"])
