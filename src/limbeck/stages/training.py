"""The verb *train*: groups of examples and loss parts in, a model folder out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck import ranks
from limbeck.errors import RecipeError
from limbeck.exam import examine, student_prompts
from limbeck.lm import Sampling
from limbeck.lm.written import apart, opens_thinking
from limbeck.records import Example, Pieces, read_jsonl, write_json, write_jsonl
from limbeck.run_folder import Plan, read_json
from limbeck.sequences import Made
from limbeck.stages.context import Context, PlannedTraining
from limbeck.stages.leaks import without_leaks
from limbeck.stages.learners import Learner, Trained
from limbeck.stages.model_inputs import model_inputs
from limbeck.stages.pairs import refuse_without_places
from limbeck.stages.problems import problems
from limbeck.stages.same_training import take, trained_before
from limbeck.tasks.asking import Asking, about_model
from limbeck.tasks.asking import rendered as rendered_examples
from limbeck.tasks.chat_template import differing, student_template
from limbeck.training.groups import Draw, Group

if TYPE_CHECKING:
    from limbeck.lm.load import Loaded
    from limbeck.training.parts import Parts
    from limbeck.training.trainer import Training

VERSION = 1
"""Raised by hand when this code trains another model from the same recipe."""

FACTS = "training.json"

CHECKED = 200
"""Training prompts that are compared with what the saved chat template makes of their questions."""


@dataclass(frozen=True)
class Data:
    """What a learner is trained on.

    Attributes:
        train: groups of examples; what must share a micro-batch is one group.
        dev: for a checkpoint chosen by dev loss; empty otherwise.
        inputs: fingerprints of the stages that the examples come from.
        draw: how many examples of each role a group gives each epoch; None: all of them.
        settings: what else decides the training, for its plan.
        facts: what else `exam_facts` knows of the examples; asked for when somebody is trained on them.
        passages: of the dev problems, for an exam on dev of one that reads passages, by the problem's id.
        about: what else `limbeck.json` says, such as where passages come from.
        learned: of the settings of the learner's method those that decide what is learned. Students of a run
            that differ in no others share one training (`stages.same_training`). None: each has its own.
    """

    train: Sequence[Group]
    dev: Sequence[Group]
    inputs: Mapping[str, str]
    draw: Draw | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Callable[[], Mapping[str, Any]] = dict
    passages: Mapping[str, Sequence[str]] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    learned: Mapping[str, Any] | None = None


def cross_entropy(weight: float = 1.0, smoothing: float = 0.0) -> Parts:
    """The loss of fine-tuning: cross-entropy of the scored tokens, with label smoothing ε if wanted."""
    from limbeck.training.parts import CrossEntropy, Smoothing

    smoothed = (Smoothing(weight * smoothing),) if smoothing else ()
    return CrossEntropy(weight * (1 - smoothing)), *smoothed


def train(
    context: Context,
    learner: Learner,
    data: Data,
    parts: Callable[[], Parts] = cross_entropy,
    *,
    start: Trained | None = None,
    tokenizer: Path | None = None,
) -> Trained:
    """Train a learner; its folder gets `model/`, `examples.jsonl`, `history.jsonl` and `training.json`.

    Args:
        parts: makes the loss parts when the training begins; nothing is made for a training that is done.
        start: goes on from this model instead of the learner's base.
        tokenizer: model folder whose tokenizer a model from scratch takes; None: made from the examples.
    """
    place = f"trained {learner.place}"
    if place in context.memo:
        raise RecipeError(
            f"{learner.shown}: its method trains it twice in {learner.place}; give each training its round: "
            "dataclasses.replace(student, round=0), then round=1 with start="
        )
    context.memo[place] = True
    settings, inputs = _planned(context, learner, data, start)
    same = _same(context, learner, data, start)
    if context.planned is not None:
        planned = PlannedTraining(learner, data, start, tokenizer, same=same is not None)
        context.planned.trainings[learner.place] = planned

    def work(folder: Path) -> None:
        if same:
            context.run.say(f"{learner.shown}: learns the same as {same.shown}, whose training is copied")
            take(same, context.run.folder, folder, data.about, context.recipe.exam.max_tokens)
        # A whole model without facts: killed in between. The facts need the training's own counts.
        elif not (folder / FACTS).is_file():
            learned = without_leaks(context, learner.shown, data.train)
            chosen_by = without_leaks(context, learner.shown, data.dev, "takes its dev loss from")
            asked = replace(data, train=learned, dev=chosen_by)
            _train(context, learner, asked, parts, folder, start, tokenizer)
        if ranks.main():
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    reads = [start.path] if start else []
    reads += [context.run.folder / same.place] if same else []
    stage = context.run.stage(learner.place, settings, inputs, work, everyone=True, reads=reads)
    return Trained(stage, learner, read_json(stage.folder / FACTS) or {}, start)


def made_parts(learner: Learner, parts: Callable[[], Parts]) -> Parts:
    """The loss parts of a method.

    Raises:
        RecipeError: they cannot be made, or do not go together.
    """
    from limbeck.training.parts import check

    try:
        made = tuple(parts())
        check(made)
    except (AttributeError, NameError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise RecipeError(
            f"{learner.shown}: the loss parts of method {learner.method} cannot be used ({problem})"
        ) from error
    return made


def is_trained(context: Context, learner: Learner, data: Data, start: Trained | None = None) -> bool:
    """Whether `train` with these arguments would find its work done."""
    return context.run.is_done(learner.place, *_planned(context, learner, data, start))


def _planned(
    context: Context, learner: Learner, data: Data, start: Trained | None
) -> tuple[Plan, dict[str, str]]:
    """Plan and inputs of the stage."""
    more: dict[str, Any] = dict(data.settings)
    if data.draw:
        more["draw"] = dict(data.draw.per_role)
    if learner.settings.train.choose == "dev-accuracy":
        exam = context.recipe.exam
        more["exam"] = {"max_tokens": exam.max_tokens, **({"stop": exam.stop} if exam.stop else {})}
    base = {"start": start.stage.fingerprint} if start else model_inputs(learner.settings.model)
    return learner.plan(VERSION, **more), {**data.inputs, **base}


def _same(context: Context, learner: Learner, data: Data, start: Trained | None) -> Learner | None:
    """Another student of the run that was trained on the same before; see `Data.learned`."""
    if data.learned is None:
        return None
    whoever = replace(learner, own={"method": learner.method, "learned": data.learned})
    return trained_before(context, learner, *_planned(context, whoever, replace(data, settings={}), start))


def _train(
    context: Context,
    learner: Learner,
    data: Data,
    parts: Callable[[], Parts],
    folder: Path,
    start: Trained | None,
    tokenizer: Path | None,
) -> None:
    """Load the learner, train it on rendered examples, save it as an ordinary model folder."""
    from limbeck.lm.four_bits import ABOUT_KEY
    from limbeck.lm.saving import save
    from limbeck.training.parts import PairPart
    from limbeck.training.trainer import train as run_training

    settings = learner.settings
    loaded = _load(learner, data.train, start, tokenizer)
    made = made_parts(learner, parts)
    compares = any(isinstance(part, PairPart) and part.weight for part in made)
    if compares:
        refuse_without_places(loaded.tokenizer, f"{learner.shown}: {settings.model}")
    written = folder / "examples.jsonl"
    if ranks.main():
        seen = _write_examples(written, learner, loaded, data.train)
        _report_cut(context, learner, seen)
        _report_chat(context, learner, loaded, seen)
    ranks.barrier()  # all read it
    text = partial(rendered, loaded.tokenizer, learner, encoder_decoder=loaded.encoder_decoder)
    by_accuracy = settings.train.choose == "dev-accuracy"
    asking = _asked_as_trained(learner, encoder_decoder=loaded.encoder_decoder)
    with context.track(f"training {learner.shown}", 0) as advance:
        done = run_training(
            loaded.model,
            loaded.tokenizer,
            _groups_of(written, data.train),
            Made(data.dev, lambda group: next(text([group]))),
            made,
            settings.train,
            folder,
            seed=learner.seed,
            draw=data.draw,
            dev_exam=partial(_dev_exam, context, loaded, asking, data) if by_accuracy else None,
            progress=lambda step, steps, loss: advance(step, f"loss {loss:.3f}", steps),
            say=lambda line: context.run.say(f"{learner.shown}: {line}"),
        )
    _report_too_long(context, learner, data, done)
    if done.skipped:
        context.run.say(
            f"{learner.shown}: {done.skipped} of {done.steps} steps changed nothing, because their gradient "
            "was not finite in fp16; a few are usual"
        )
    about: dict[str, Any] = {
        "task": context.recipe.task.name,
        "kind": context.kind,
        "dtype": settings.dtype,
        "max_tokens": context.recipe.exam.max_tokens,
    }
    if settings.four_bits:
        about[ABOUT_KEY] = settings.four_bits
    save(loaded, folder / "model", about=about | asking.about() | dict(data.about))
    if ranks.main():
        about_data = dict(data.facts())
        _report_choice(context, learner, about_data)
        write_json(folder / FACTS, facts_of(loaded, data, done) | about_data)


def _asked_as_trained(learner: Learner, *, encoder_decoder: bool) -> Asking:
    """How the trained model is asked: an encoder-decoder's prompts are cut as in its training.

    A decoder-only model's were cut by what each completion left of `max_length`, which no exam knows.
    """
    return replace(learner.asking, room=learner.settings.train.max_length if encoder_decoder else None)


def _load(learner: Learner, groups: Sequence[Group], start: Trained | None, tokenizer: Path | None) -> Loaded:
    """The learner's model; from scratch, its tokenizer is made from the examples or is another model's."""
    from limbeck.lm.load import load

    settings = learner.settings
    sharded = settings.train.sharding == "fsdp"
    if start is not None:
        return load(
            str(start.path),
            seed=learner.seed,
            lora=settings.lora,
            trainable=settings.lora is not None,
            dtype=settings.dtype,
            device=settings.device,
            sharded=sharded,
            compressed=settings.four_bits,
        )
    return load(
        settings.model,
        seed=learner.seed,
        tokenizer_texts=(
            text
            for group in groups
            for example in group.examples
            for text in (_plain(learner.asking, example), example.completion)
        ),
        tokenizer_of=tokenizer,
        lora=settings.lora,
        layers=settings.layers,
        dtype=settings.dtype,
        device=settings.device,
        sharded=sharded,
        compressed=settings.four_bits,
        whole=True,
    )


def _plain(asking: Asking, example: Example) -> str:
    return example.prompt if isinstance(example.prompt, str) else asking.plain(example.prompt)


def rendered(
    tokenizer: Any, learner: Learner, groups: Iterable[Group], *, encoder_decoder: bool
) -> Iterator[Group]:
    """Groups whose prompts are text, as the tokenizer's model reads them, cut where they may be.

    Each is made when it is its turn: their texts together may be larger than memory.
    """
    text = partial(
        rendered_examples,
        learner.asking,
        tokenizer,
        max_length=learner.settings.train.max_length,
        encoder_decoder=encoder_decoder,
    )
    return (replace(group, examples=tuple(text(group.examples))) for group in groups)


@dataclass
class _Seen:
    """What the reports want to know of the training prompts, without keeping all of them.

    Attributes:
        prompts: how many there are.
        cut: of these, which lost demonstrations or passages.
        opens: whether one of the first group opens <think>.
        shown: pieces and text of the first that show the learner's demonstrations.
    """

    prompts: int = 0
    cut: int = 0
    opens: bool = False
    shown: list[tuple[Pieces, str]] = field(default_factory=list)


def _write_examples(path: Path, learner: Learner, loaded: Loaded, groups: Sequence[Group]) -> _Seen:
    """Write what is trained on, rendered; each prompt is let go when it was looked at and written."""
    asking, seen = learner.asking, _Seen()
    shown = asking.demonstrations[: asking.shots]

    def examples() -> Iterator[Example]:
        made = rendered(loaded.tokenizer, learner, groups, encoder_decoder=loaded.encoder_decoder)
        for number, (whole, group) in enumerate(zip(groups, made, strict=True)):
            for before, after in zip(whole.examples, group.examples, strict=True):
                pieces, text = before.prompt, str(after.prompt)
                seen.prompts += 1
                seen.opens |= number == 0 and opens_thinking(text)
                if not isinstance(pieces, str):
                    seen.cut += text != asking.text(loaded.tokenizer, pieces)
                    if pieces.examples == shown and len(seen.shown) < CHECKED:
                        seen.shown.append((pieces, text))
                yield after

    write_jsonl(path, examples())
    return seen


def _groups_of(path: Path, groups: Sequence[Group]) -> Iterator[Group]:
    """These groups with the examples that were written, as they are read."""
    written = read_jsonl(path, Example)
    for group in groups:
        yield replace(group, examples=tuple(islice(written, len(group.examples))))


def _dev_exam(
    context: Context, loaded: Loaded, asking: Asking, data: Data, model: object
) -> dict[str, float]:
    """Greedy accuracy on the dev split of the model as it is now."""
    from limbeck.lm.local import LocalModel

    dev, exam = problems(context).dev, context.recipe.exam
    prompts = student_prompts(loaded, asking, dev, exam.max_tokens, passages=data.passages)
    complete = LocalModel(loaded, max_rows=exam.batch_size)
    sampling = Sampling(max_tokens=exam.max_tokens, stop=exam.stop)
    _, summary = examine(complete, dev, context.kind, prompts, sampling)
    return {"accuracy": summary["accuracy"]}


def _report_cut(context: Context, learner: Learner, seen: _Seen) -> None:
    """Say how many prompts lost demonstrations or passages: exams of a decoder-only model may show all of
    them."""
    if seen.cut:
        context.run.say(
            f"{learner.shown}: {seen.cut} of {seen.prompts} prompts were cut to train.max_length = "
            f"{learner.settings.train.max_length} tokens; raise it, or show fewer demonstrations or passages"
        )


def _report_chat(context: Context, learner: Learner, loaded: Loaded, seen: _Seen) -> None:
    """Say that a chat model is trained without its template, and where the saved one fails the training."""
    form, tokenizer = learner.settings.format, loaded.tokenizer
    if form != "chat" and tokenizer.chat_template is not None and is_chat_model(learner.settings.model):
        context.run.say(
            f"{learner.shown}: {learner.settings.model} has a chat template, and format {form} trains it "
            "without; set format: chat, unless that is meant"
        )
    if not learner.asking.thinks and seen.opens:
        context.run.say(
            f"{learner.shown}: the chat template of {learner.settings.model} opens <think>, and no example "
            "closes it; set thinks: true, unless that is meant"
        )
    asking, shown = learner.asking, learner.asking.demonstrations[: learner.asking.shots]
    thoughts = [apart(one.completion)[0] for one in shown] if asking.thinks else []
    if any(thought not in text for thought in thoughts for _, text in seen.shown[:1]):
        context.run.say(
            f"{learner.shown}: the chat template of {learner.settings.model} leaves out what demonstrations "
            "think, so they show the answers alone; use another format, or remove prompt.examples"
        )
    uncut = [(pieces, text) for pieces, text in seen.shown if text == asking.text(tokenizer, pieces)]
    template = student_template(asking, tokenizer, encoder_decoder=loaded.encoder_decoder)
    if count := differing(template, tokenizer, uncut, encoder_decoder=loaded.encoder_decoder):
        context.run.say(
            f"{learner.shown}: the chat template in its folder makes another prompt than the training's for "
            f"{count} of {len(uncut)} examples; ask it by `limbeck ask`, or send whole prompts"
        )


def _report_choice(context: Context, learner: Learner, facts: Mapping[str, Any]) -> None:
    """Say how different the chosen rationales of a question are, where there was a choice."""
    chosen, kept = facts.get("chosen_similarity"), facts.get("kept_similarity")
    if chosen != kept:
        context.run.say(
            f"{learner.shown}: mean similarity of a question's rationales (word trigrams in common): "
            f"{chosen} of those chosen, {kept} of all kept"
        )


def is_chat_model(name: str) -> bool:
    """Whether a chat template is what a model was made for: not one from scratch, no student without it."""
    scratch = name.startswith("tiny-") and not Path(name).exists()
    return not scratch and about_model(name).get("format", "chat") == "chat"


def _report_too_long(context: Context, learner: Learner, data: Data, done: Training) -> None:
    train = learner.settings.train
    limit = f"train.max_length = {train.max_length} tokens"
    if train.max_completion is not None:
        limit += f", or their completions than train.max_completion = {train.max_completion},"
    for what, left, groups in (("", done.too_long, data.train), ("dev ", done.dev_too_long, data.dev)):
        if left:
            whole = sum(len(group.examples) for group in groups)
            texts = len({(one.problem_id, str(one.prompt), one.completion) for one in left})
            copies = f" ({texts} different ones)" if texts < len(left) else ""
            context.run.say(
                f"{learner.shown}: {len(left)} of {whole} {what}examples{copies} are longer than {limit} "
                "and were left out"
            )


def facts_of(loaded: Loaded, data: Data, done: Training) -> dict[str, Any]:
    """What a report says of a training."""
    from limbeck.lm.four_bits import numel

    sizes = [(numel(one), one.requires_grad) for one in loaded.model.parameters()]
    return {
        "parameters": sum(size for size, _ in sizes),
        "trained_parameters": sum(size for size, trained in sizes if trained),
        "training_examples": sum(example.scored for group in data.train for example in group.examples)
        - sum(example.scored for example in done.too_long),
        "steps": done.steps,
        "epochs": round(done.epochs, 4),
        "tokens": done.tokens,
        "train_seconds": round(done.seconds, 1),
        **done.shared.facts(),
        **({"held_parameters": done.held} if done.held else {}),
        **({"skipped_steps": done.skipped} if done.skipped is not None else {}),
        **_facts_of_pairs(done),
    }


def _facts_of_pairs(done: Training) -> dict[str, int]:
    if done.pairs is None:
        return {}
    return {
        "pairs": done.pairs.possible,
        "pairs_unlike": done.pairs.unlike,
        "questions_without_pair": done.pairs.alone,
        "without_span": done.without_span,
    }
