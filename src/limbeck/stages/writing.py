"""The verb *write*: a teacher or a trained model completes prompts, and its texts become a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from limbeck import ranks
from limbeck.exam import remove_logs
from limbeck.lm import Completion, Prompt, Prompts, Sampling
from limbeck.rationales import collect
from limbeck.records import Record, Records, write_jsonl
from limbeck.run_folder import Stage, plan
from limbeck.stages.context import Context, PlannedWriting
from limbeck.stages.models import Model, Question

VERSION = 1
"""Raised by hand when this code makes other completions from the same plan."""

COMPLETIONS = "completions.jsonl"


class RawCompletion(Record):
    """A completion as a file keeps it, with whose problem it is and what it is about."""

    prompt_id: str
    problem_id: str = ""
    index: int
    text: str
    tokens: int = 0
    truncated: bool = False
    cost_usd: float = 0.0
    about: str = ""
    thinking: str = ""
    stopped: str = ""

    @classmethod
    def of(cls, completion: Completion, prompt: Prompt) -> RawCompletion:
        return cls(**completion.line(), problem_id=prompt.problem_id, about=prompt.about)


def write(
    context: Context,
    place: str,
    model: Model,
    questions: Sequence[Question],
    sampling: Sampling,
    *,
    settings: BaseModel | Mapping[str, Any],
    inputs: Mapping[str, str],
    batch_size: int = 64,
    **more: Any,
) -> Stage:
    """Let a model write; the stage holds `completions.jsonl`, in the order of the questions.

    Args:
        place: the stage's folder.
        questions: several may be about one problem.
        settings: what decides the texts beyond the model itself; defaults are left out.
        inputs: fingerprints of the stages that the questions come from.
        batch_size: completions that a local model makes at the same time.
        more: further settings by name.
    """

    def work(folder: Path) -> None:
        opened = model.open(folder, batch_size, sampling.max_tokens)
        prompts = Prompts(map(opened.prompt, questions), folder)
        opened.agree(prompts, sampling)
        completions = collect(prompts, opened.complete, sampling, track=context.track, folder=folder)
        for line in opened.account():
            context.run.say(line)
        if ranks.main():
            write_jsonl(folder / COMPLETIONS, _raw(completions, prompts))
            remove_logs(folder)

    if context.planned is not None:
        context.planned.writings[place] = PlannedWriting(place, model, questions, sampling, batch_size)
    return context.run.stage(
        place,
        plan(settings, version=VERSION, **model.identity, **more),
        {**inputs, **model.inputs},
        work,
        everyone=model.shared,
        reads=model.reads,
    )


def _raw(completions: Iterable[Completion], prompts: Iterable[Prompt]) -> Iterator[RawCompletion]:
    """Completions with what was asked; both in the same order, some prompts without any."""
    asked = iter(prompts)
    prompt = next(asked, None)
    for one in completions:
        while prompt is not None and prompt.id != one.prompt_id:
            prompt = next(asked, None)
        assert prompt is not None, "`collect` gives only what was asked for, in order"
        yield RawCompletion.of(one, prompt)


def completions_of(stage: Stage) -> Sequence[RawCompletion]:
    """What a model wrote in this stage."""
    return Records(stage.folder / COMPLETIONS, RawCompletion)
