"""Soft labels for a student: the stage that caches them, and the loss that learns from them.

A cache holds the mentor's distribution over every kept rationale, its teacher's
and, where a student of the recipe trains on them, its own. It is found by text, so
that all students of the mentor share it whatever they select, and it is no input
of theirs: what it says follows from mentor, text, temperature and codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from limbeck.errors import ModelError, RecipeError
from limbeck.recipe import LearnerSettings, Recipe, Settings, StudentSettings
from limbeck.records import Example, Problem
from limbeck.run import Stage, fingerprint, path_fingerprint
from limbeck.stages import mentors
from limbeck.stages import rationales as stages
from limbeck.stages.learners import Distillation, rendered
from limbeck.stages.rationales import Context
from limbeck.tasks.prompts import FORMATS
from limbeck.training.settings import CodecSettings

if TYPE_CHECKING:
    from limbeck.lm.load import Loaded
    from limbeck.soft_labels.live import SoftLabels
    from limbeck.training.parts import Objective


class SoftLabelSettings(Settings):
    """How a student learns from its mentor's distributions; λ and τ are Mentor-KD's."""

    mentor: str = Field("mentor", description="a name from the recipe's `mentors:`")
    kl_weight: float = Field(0.3, ge=0, le=1, description="λ; 0: without soft labels")
    temperature: float = Field(
        2.0, gt=0, allow_inf_nan=False, description="τ of mentor and student in the divergence"
    )
    temperature_squared: bool = Field(False, description="multiply the divergence by τ² (Hinton et al.)")
    soft_labels: Literal["cached", "live"] = Field(
        "cached", description='"live" runs the mentor beside the student at every step'
    )
    codec: CodecSettings = CodecSettings()

    def plan(self) -> dict[str, Any]:
        """The settings that decide what the student becomes; without soft labels theirs do not."""
        theirs = {"temperature", "temperature_squared", "soft_labels", "codec"}
        if not self.kl_weight:
            return self.model_dump(mode="json", exclude=theirs)
        return self.model_dump(mode="json") | {"codec": self.codec.plan()}


def distillation(context: Context, student: StudentSettings, settings: SoftLabelSettings) -> Distillation:
    """What the student is to learn from its mentor; the cache is made when training needs it."""
    model = mentors.trained(context, settings.mentor).folder / "model"

    def objective(loaded: Loaded, examples: Sequence[Example]) -> Objective:
        from limbeck.training.parts import Distil

        _agree(student.format, model, loaded, examples)
        soft = (
            _live(context, student, settings, loaded)
            if settings.soft_labels == "live"
            else _stored(context, student, settings, loaded, examples)
        )
        return Distil(loaded.encoder_decoder, soft, settings.kl_weight, settings.temperature_squared)

    return Distillation(model, objective if settings.kl_weight else None)


def _agree(form: str, model: Path, loaded: Loaded, examples: Sequence[Example]) -> None:
    """Make sure that mentor and student read the examples alike."""
    from transformers import AutoConfig, AutoTokenizer

    from limbeck.soft_labels.live import tokenizers_agree

    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    if loaded.encoder_decoder != bool(config.is_encoder_decoder):
        raise ModelError(
            f"{loaded.name} and its mentor are of two kinds; "
            "soft labels need two decoder-only or two encoder-decoder models"
        )
    theirs = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    texts = [text for example in examples for text in (example.prompt, example.completion)]
    tokenizers_agree(loaded.tokenizer, theirs, texts)
    _same_template(form, loaded.tokenizer, theirs, loaded.name)


def _same_template(form: str, ours: Any, theirs: Any, name: str) -> None:
    if template_fingerprint(form, ours) != template_fingerprint(form, theirs):
        raise ModelError(
            f"{name} and its mentor have different chat templates; choose a mentor of the student's family"
        )


def _live(
    context: Context, student: StudentSettings, settings: SoftLabelSettings, loaded: Loaded
) -> SoftLabels:
    from limbeck.lm.load import load
    from limbeck.soft_labels.live import Live, vocabulary_of

    model = mentors.trained(context, settings.mentor).folder / "model"
    beside = load(str(model), dtype=context.recipe.mentors[settings.mentor].dtype, device=student.device)
    vocabulary = vocabulary_of(loaded.tokenizer)
    return Live(beside.model, settings.codec, settings.temperature, vocabulary, context.recipe.seed)


def _stored(
    context: Context,
    student: StudentSettings,
    settings: SoftLabelSettings,
    loaded: Loaded,
    examples: Sequence[Example],
) -> SoftLabels:
    from limbeck.soft_labels.cache import Cached
    from limbeck.training.collate import tokenise

    stage = cached(context, student, settings)
    found = Cached.open(stage.folder, _expected(context, student.format, loaded.tokenizer, settings))
    rows = tokenise(
        loaded.tokenizer,
        examples,
        encoder_decoder=loaded.encoder_decoder,
        max_length=student.train.max_length,
        prompt_weight=student.train.prompt_weight,
    ).rows
    found.check(rows)
    return found


def cached(context: Context, student: StudentSettings, settings: SoftLabelSettings) -> Stage:
    """The mentor's distributions on disk, for all students that ask for them alike."""
    alike = {
        "temperature": settings.temperature,
        "codec": settings.codec.plan(),
        "format": student.format,
        "prompts": student.train.prompt_weight > 0,
        "seed": context.recipe.seed,
    }
    place = f"mentors/{settings.mentor}/soft-labels/{settings.codec.kind}-{fingerprint(alike)[:8]}"
    return stages.once(context, place, lambda: _cache(context, student, settings, place, alike))


def _cache(
    context: Context,
    student: StudentSettings,
    settings: SoftLabelSettings,
    place: str,
    alike: dict[str, Any],
) -> Stage:
    mentor = settings.mentor
    others = _students_of(context.recipe, mentor)
    longest = max(one.train.max_length for one in [context.recipe.mentors[mentor], student, *others])
    teacher = mentors.taught(context, mentor)
    sources, inputs = [teacher.all], {"rationales of train": teacher.stage.fingerprint}
    if any(one.settings.get("mentor_rationales", 1) for one in others):
        sources.append(mentors.beside(context, mentor, []))
        inputs["rationales of the mentor"] = mentors.rationales(context, mentor).stage.fingerprint
    if any(one.train.choose == "dev-loss" for one in others):
        dev = mentors.taught(context, mentor, "dev")
        sources.append(dev.all)
        inputs["rationales of dev"] = dev.stage.fingerprint
    kept = [one for source in sources for one in source if one.dropped is None]
    examples = stages.rationale_examples(stages.problems(context), kept, student.format)

    def work(folder: Path) -> None:
        _write(context, student, settings, folder, examples, longest)

    inputs["mentor"] = mentors.trained(context, mentor).fingerprint
    return context.run.stage(place, alike | {"max_length": longest}, inputs, work)


def _students_of(recipe: Recipe, mentor: str) -> list[StudentSettings]:
    """All students of the recipe that learn from a mentor."""
    return [
        one
        for one in recipe.students.values()
        if one.method == "mentor-kd" and one.settings.get("mentor", "mentor") == mentor
    ]


def _write(
    context: Context,
    student: StudentSettings,
    settings: SoftLabelSettings,
    folder: Path,
    examples: Sequence[Example],
    longest: int,
) -> None:
    """One pass of the mentor over the examples."""
    from limbeck.lm.load import load
    from limbeck.soft_labels.live import vocabulary_of
    from limbeck.soft_labels.writing import write_cache
    from limbeck.training.collate import padding, tokenise

    mentor = context.recipe.mentors[settings.mentor]
    model = mentors.trained(context, settings.mentor).folder / "model"
    loaded = load(str(model), dtype=mentor.dtype, device=mentor.device)
    rows = tokenise(
        loaded.tokenizer,
        rendered(loaded.tokenizer, student.format, examples),
        encoder_decoder=loaded.encoder_decoder,
        max_length=longest,
        prompt_weight=student.train.prompt_weight,
    ).rows
    expected = _expected(context, student.format, loaded.tokenizer, settings)
    with context.track(f"soft labels of {mentors.shown(settings.mentor)}", len(rows)) as advance:
        write_cache(
            folder,
            loaded.model,
            rows,
            pad=padding(loaded.tokenizer),
            codec=settings.codec,
            temperature=settings.temperature,
            vocabulary=vocabulary_of(loaded.tokenizer),
            identity=expected["identity"],
            batch_tokens=mentor.train.batch_tokens,
            seed=context.recipe.seed,
            progress=advance,
        )


def _expected(context: Context, form: str, tokenizer: Any, settings: SoftLabelSettings) -> dict[str, Any]:
    """What the manifest of fitting soft labels says."""
    from limbeck.soft_labels.live import tokenizer_fingerprint, vocabulary_of

    model = mentors.trained(context, settings.mentor).folder / "model"
    return {
        "identity": {
            "mentor": stages.once(context, f"{model} as a file", lambda: path_fingerprint(model)),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "template": template_fingerprint(form, tokenizer),
        },
        "temperature": settings.temperature,
        "codec": settings.codec,
        "seed": context.recipe.seed,
        "vocabulary": vocabulary_of(tokenizer),
    }


def template_fingerprint(form: str, tokenizer: Any) -> str:
    """Tells prompt formats apart by what they make of one problem."""
    shape = FORMATS[form]
    sample = Problem(id="sample", question="Which of these is it?", answer="A", options=("one", "two"))
    example = Example(
        problem_id="sample", prompt=shape.prompt(sample), completion=shape.completion("So.", "A")
    )
    (shown,) = rendered(tokenizer, form, [example])
    return fingerprint([form, shown.prompt, shown.completion])


def check_pairs(recipe: Recipe) -> None:
    """`check_pair` for every student that learns from soft labels."""
    for name, student in recipe.students.items():
        mentor = recipe.mentors.get(str(student.settings.get("mentor")))
        if mentor is not None and student.settings.get("kl_weight"):
            check_pair(student, mentor, f"students.{name}")


def check_pair(student: StudentSettings, mentor: LearnerSettings, place: str) -> None:
    """Refuse a mentor whose tokens are not the student's, as far as can be told before it is trained.

    Raises:
        RecipeError, ModelError: naming both models.
    """
    pair = f"{place}.model: {student.model}, but its mentor is {mentor.model}"
    if student.format != mentor.format:
        raise RecipeError(
            f"{place}.format: {student.format}, but its mentor reads {mentor.format}; "
            "soft labels need one format"
        )
    if is_from_scratch(mentor.model) and not is_from_scratch(student.model):
        raise RecipeError(f"{pair}, from scratch; soft labels need one tokenizer, so name a model for both")
    kinds = {_kind(student.model), _kind(mentor.model)} - {None}
    if len(kinds) > 1:
        raise RecipeError(f"{pair}; soft labels need two causal or two seq2seq models")
    if not is_from_scratch(student.model):
        from limbeck.soft_labels.live import tokenizers_agree

        ours, theirs = _tokenizer(student.model), _tokenizer(mentor.model)
        if ours is not None and theirs is not None:
            tokenizers_agree(ours, theirs, [])
            _same_template(student.format, ours, theirs, student.model)


def is_from_scratch(name: str) -> bool:
    """Whether a model of this name is made, not loaded."""
    return name.startswith("tiny-") and not Path(name).exists()


@cache
def _kind(name: str) -> str | None:
    """causal or seq2seq; None where it cannot be told now: whoever loads the model says why."""
    if is_from_scratch(name):
        return name.split("-")[1]
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(Path(name).expanduser()), trust_remote_code=False)
    except (OSError, ValueError):
        return None
    return "seq2seq" if config.is_encoder_decoder else "causal"


@cache
def _tokenizer(name: str) -> Any:
    """A model's tokenizer as loading makes it; None where it cannot be had now."""
    from transformers import AutoTokenizer

    from limbeck.lm.load import complete_tokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(Path(name).expanduser()), trust_remote_code=False)
    except (OSError, ValueError):
        return None
    complete_tokenizer(tokenizer)
    return tokenizer
