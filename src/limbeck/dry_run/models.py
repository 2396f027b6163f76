"""The models of a run: how large they are, what training and writing take, and whether a device has room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck.dry_run.probe import seconds_per_step
from limbeck.dry_run.reading import Reading, guessed, known, prompt_lengths, scored_tokens
from limbeck.errors import ModelError
from limbeck.lm.load import adapted, empty, fit_embeddings, load
from limbeck.recipe import LearnerSettings, LocalTeacherSettings, MentorSettings
from limbeck.scale import generation, stored, training
from limbeck.scale.devices import Memory, memory_of
from limbeck.scale.outline import Outline, outline
from limbeck.soft_labels.cache import each_once
from limbeck.soft_labels.tokenizers import vocabulary_of
from limbeck.stages.context import Context, PlannedTraining
from limbeck.stages.pairs import is_from_scratch, known_tokenizer
from limbeck.stages.problems import problems
from limbeck.stages.soft_labels import SoftLabelSettings
from limbeck.tasks.asking import learner_asking
from limbeck.training.rows import Rows
from limbeck.uses import Uses

ROWS = 64
"""Completions that a local teacher writes side by side."""

Facts = dict[str, Any]


@dataclass(frozen=True)
class Sized:
    """A model that a run loads.

    Attributes:
        config: of transformers.
        tokenizer: None where none is at hand.
        texts: what a model from scratch makes its tokenizer of; () of another.
    """

    config: Any
    outline: Outline
    tokenizer: Any
    texts: Sequence[str] = ()

    @property
    def encoder_decoder(self) -> bool:
        return bool(self.config.is_encoder_decoder)


def sized(
    context: Context, learner: LearnerSettings, planned: PlannedTraining | None, *, weights: bool
) -> Sized:
    """A learner's model without its weights.

    Args:
        weights: False where config.json is enough.
    """
    name, texts = learner.model, tuple[str, ...]()
    if is_from_scratch(name):
        texts = tuple(_texts(context, learner, planned))
    model = empty(name, learner.layers, texts=texts or ("",), weights=weights)
    tokenizer = _tokenizer(planned, texts) if texts else _tokenizer_of(name, needed=weights)
    if tokenizer is not None and not texts:
        fit_embeddings(model, tokenizer, name)
    config = model.config
    if learner.lora is None:
        return Sized(config, outline(model), tokenizer, texts)
    with_adapter = adapted(model, learner.lora, name)
    return Sized(config, outline(model, with_adapter, learner.lora.dropout), tokenizer, texts)


def _texts(context: Context, learner: LearnerSettings, planned: PlannedTraining | None) -> Sequence[str]:
    """What the tokenizer of a model from scratch is made of; before there are examples, the questions."""
    asking = learner_asking(learner.prompt, learner.format, demonstrations=(), thinks=learner.thinks)
    if planned is None:
        return [asking.plain(asking.pieces(problem)) for problem in problems(context).train]
    return [
        text
        for group in planned.data.train
        for one in group.examples
        for text in (
            one.prompt if isinstance(one.prompt, str) else planned.learner.asking.plain(one.prompt),
            one.completion,
        )
    ]


def _tokenizer_of(name: str, *, needed: bool) -> Any:
    """A model's tokenizer; None where it is not at hand and need not be."""
    try:
        return known_tokenizer(name)
    except ModelError:
        if needed:
            raise
        return None


def _tokenizer(planned: PlannedTraining | None, texts: Sequence[str]) -> Any:
    from limbeck.lm.tiny import build_tokenizer, read_tokenizer

    other = planned.tokenizer if planned else None
    return read_tokenizer(other) if other and other.is_dir() else build_tokenizer(texts)


def of_learner(
    context: Context,
    place: str,
    learner: LearnerSettings,
    uses: Uses,
    planned: PlannedTraining | None,
    devices: int,
    *,
    probe: bool,
) -> tuple[Facts, Sized, Reading | None]:
    """What is to be said of a student or a mentor.

    Args:
        place: in the recipe.
        uses: of its method.
        planned: its training, where the examples are known.
        devices: how many processes will train it, a device each.
        probe: take three steps.
    """
    model, memory = sized(context, learner, planned, weights=probe), memory_of(learner.device)
    packed = learner.quantize is not None
    found: Facts = {
        "place": place,
        "model": learner.model,
        "parameters": model.outline.parameters + model.outline.adapter,
        "trained": model.outline.trained if uses.trains else 0,
        "device": memory.name,
        "free": memory.free,
        "weights": training.weights(model.outline, learner.dtype, packed=packed),
        "estimates": [],
    }
    reading = _reading(context, learner, uses, planned, model) if uses.trains else None
    if reading is not None:
        found |= _of_training(learner, model, reading, memory, devices)
    found["writing"] = _of_writing(context, learner, model, memory)
    if reading is not None:
        found |= _timed(learner, model, reading, found, probe=probe)
    return found, model, reading


def _reading(
    context: Context, learner: LearnerSettings, uses: Uses, planned: PlannedTraining | None, model: Sized
) -> Reading | None:
    both = model.encoder_decoder
    if planned is not None and model.tokenizer is not None:
        rows = context.planned.rows if context.planned else None
        return known(planned, model.tokenizer, rows, encoder_decoder=both)
    return guessed(
        context,
        learner,
        learner.rationales if isinstance(learner, MentorSettings) else uses.rows,
        model.tokenizer,
        together=uses.together,
        compared=uses.compared,
        encoder_decoder=both,
    )


def _of_training(
    learner: LearnerSettings, model: Sized, reading: Reading, memory: Memory, devices: int
) -> Facts:
    settings, sizes, batch = learner.train, model.outline, reading.largest()
    packed = learner.quantize is not None
    acts = training.activations(
        sizes,
        batch,
        dtype=learner.dtype,
        precision=settings.precision,
        checkpointing=settings.gradient_checkpointing,
        device=memory.kind,
        packed=packed,
    )
    bytes_ = {
        "gradients": training.gradients(sizes, learner.dtype),
        "optimiser": training.optimiser(sizes, learner.dtype, settings.optimizer),
        "activations": acts.total,
    }
    alone = training.weights(sizes, learner.dtype, packed=packed) + sum(bytes_.values())
    peak = alone
    if settings.sharding != "none" and devices > 1:
        peak = training.share(
            sizes,
            acts,
            devices,
            dtype=learner.dtype,
            kind=settings.optimizer,
            checkpointing=settings.gradient_checkpointing,
        )
    steps = reading.steps(learner)
    return {
        **bytes_,
        "sharding": settings.sharding,
        "devices": devices,
        "peak": peak,
        "peak_alone": alone,
        "fits": peak <= memory.free,
        "batch": {"rows": batch.rows, "lengths": list(batch.lengths), "scored": batch.scored},
        "examples": reading.examples,
        "steps": steps,
        "tokens": reading.feed.tokens(steps),
        "estimates": list(reading.guessed),
        "rows": reading.row_bytes(learner),
        "saved": stored.model_bytes(sizes, learner.dtype),
        "checkpoints": stored.checkpoint_bytes(sizes, learner.dtype, settings.optimizer, settings.choose),
    }


def _of_writing(context: Context, learner: LearnerSettings, model: Sized, memory: Memory) -> Facts | None:
    """The largest of what it writes here: its exam, and of a mentor its rationales; None: a server writes."""
    exam, found = context.recipe.exam, problems(context)
    asking = learner_asking(learner.prompt, learner.format, demonstrations=(), thinks=learner.thinks)
    tests = max(prompt_lengths(asking, found.test, model.tokenizer), default=1)
    own = learner.endpoint if isinstance(learner, MentorSettings) else None
    sides = [] if exam.endpoint or own else [(exam.batch_size, tests, exam.max_tokens)]
    if isinstance(learner, MentorSettings) and not own and learner.file is None and context.recipe.students:
        trains = max(prompt_lengths(asking, found.train, model.tokenizer), default=1)
        sides.append((learner.writes.batch_size, trains, learner.writes.max_tokens))
    packed = learner.quantize is not None
    written = (_written(model, *side, learner.dtype, memory, packed=packed) for side in sides)
    return max(written, key=lambda one: one["peak"], default=None)


def _written(
    model: Sized, rows: int, prompt: int, new: int, dtype: str, memory: Memory, *, packed: bool = False
) -> Facts:
    rows = generation.rows_at_once(rows, prompt, new)
    held = generation.cache_bytes(model.config, rows, prompt, new, dtype)
    logits = generation.logits_bytes(model.outline.vocabulary, rows)
    peak = training.weights(model.outline, dtype, packed=packed) + held + logits
    shape = {"rows": rows, "prompt": prompt, "new": new}
    return {**shape, "cache": held, "peak": peak, "fits": peak <= memory.free}


def _timed(learner: LearnerSettings, model: Sized, reading: Reading, found: Facts, *, probe: bool) -> Facts:
    """Seconds of a step and of the training, where three steps may be taken."""
    if not probe:
        return {}
    if found["peak_alone"] > found["free"]:
        return {"not_timed": "it does not fit" if found["devices"] == 1 else "it does not fit on one device"}
    loaded = load(
        learner.model,
        tokenizer_texts=model.texts or None,
        lora=learner.lora,
        layers=learner.layers,
        dtype=learner.dtype,
        device=learner.device,
        compressed=learner.four_bits,
        whole=True,
    )
    step = seconds_per_step(loaded.model, reading, learner)
    return {"seconds_per_step": step, "seconds": step * found["steps"]}


def of_teacher(context: Context, teacher: LocalTeacherSettings, *, weights: bool) -> Facts:
    """What is to be said of a local teacher."""
    learner = LearnerSettings(model=teacher.model, dtype=teacher.dtype, device=teacher.device)
    model, memory = sized(context, learner, None, weights=weights), memory_of(teacher.device)
    texts = prompt_lengths(
        learner_asking(learner.prompt, learner.format, demonstrations=(), thinks=False),
        problems(context).train,
        model.tokenizer,
    )
    new = context.recipe.rationales.max_tokens
    return {
        "place": "teacher",
        "model": teacher.model,
        "parameters": model.outline.parameters,
        "trained": 0,
        "device": memory.name,
        "free": memory.free,
        "weights": training.weights(model.outline, teacher.dtype),
        "writing": _written(model, ROWS, max(texts, default=1), new, teacher.dtype, memory),
        "estimates": ["its instruction and demonstrations are not counted"],
    }


def labels_left(settings: SoftLabelSettings, model: Sized, some: Iterable[Rows]) -> int:
    """Bytes of soft labels of these rows, each different one once."""
    rows = list(some)
    keys = np.concatenate([one.keys for one in rows])
    tokens = np.array([scored_tokens(row) for one in rows for row in one])
    first = each_once(keys)
    if not len(first):
        return 0
    return stored.soft_label_bytes(int(tokens[first].sum()), len(first), _words(model), settings.codec)


def _words(model: Sized) -> int:
    return model.outline.vocabulary if model.tokenizer is None else vocabulary_of(model.tokenizer)


def of_soft_labels(settings: SoftLabelSettings, model: Sized, reading: Reading) -> Facts:
    """Soft labels that a student's mentor writes: scored tokens and bytes; none where it is asked live."""
    tokens, rows = reading.scored()
    if settings.soft_labels == "live":
        return {"tokens": tokens, "bytes": 0}
    return {"tokens": tokens, "bytes": stored.soft_label_bytes(tokens, rows, _words(model), settings.codec)}
