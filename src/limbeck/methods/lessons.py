"""Soft labels for a student: the stage that caches them, and the loss that learns from them.

The cache holds the mentor's distribution over every kept rationale, its
teacher's and its own, so that students with fewer of them, or in another
order, use the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from limbeck.errors import ModelError, RecipeError
from limbeck.methods import mentors, stages
from limbeck.methods.learners import Lesson, rendered
from limbeck.methods.stages import Way
from limbeck.recipe import MentorSettings, StudentSettings
from limbeck.records import Example, Problem
from limbeck.run import Stage, fingerprint, path_fingerprint
from limbeck.tasks.prompts import FORMATS
from limbeck.training.settings import CodecSettings

if TYPE_CHECKING:
    from limbeck.lm.load import Loaded
    from limbeck.training.parts import Objective
    from limbeck.training.soft_labels import SoftLabels


class Softness(Protocol):
    """The settings of a method that learns from soft labels."""

    @property
    def mentor(self) -> str: ...
    @property
    def kl_weight(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def temperature_squared(self) -> bool: ...
    @property
    def soft_labels(self) -> str: ...
    @property
    def codec(self) -> CodecSettings: ...


def lesson(way: Way, student: StudentSettings, settings: Softness, inputs: dict[str, str]) -> Lesson:
    """What the student is to learn from its mentor; a cache, if one is used, joins `inputs`."""
    model = mentors.trained(way, settings.mentor).folder / "model"
    if settings.kl_weight == 0:
        return Lesson(model)
    cache = cached(way, student, settings) if settings.soft_labels == "cached" else None
    if cache is not None:
        inputs["soft labels"] = cache.fingerprint

    def objective(loaded: Loaded, examples: Sequence[Example]) -> Objective:
        from limbeck.training.parts import Distil

        soft = _agreed(way, student, settings, loaded, examples, model, cache)
        return Distil(loaded.encoder_decoder, soft, settings.kl_weight, settings.temperature_squared)

    return Lesson(model, objective)


def _agreed(
    way: Way,
    student: StudentSettings,
    settings: Softness,
    loaded: Loaded,
    examples: Sequence[Example],
    model: Path,
    cache: Stage | None,
) -> SoftLabels:
    """The soft labels, once it is sure that mentor and student read the examples alike."""
    from transformers import AutoTokenizer

    from limbeck.lm.load import load
    from limbeck.training.collate import tokenise
    from limbeck.training.soft_cache import Cached
    from limbeck.training.soft_labels import Live, tokenizers_agree, vocabulary_of

    if loaded.encoder_decoder != _is_encoder_decoder(model):
        raise ModelError(
            f"{student.model} and its mentor {way.recipe.mentors[settings.mentor].model} are of two kinds; "
            "soft labels need two decoder-only or two encoder-decoder models"
        )
    texts = [text for example in examples for text in (example.prompt, example.completion)]
    theirs = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    tokenizers_agree(loaded.tokenizer, theirs, texts)
    vocabulary = vocabulary_of(loaded.tokenizer)
    if cache is None:
        mentor = way.recipe.mentors[settings.mentor]
        teacher = load(str(model), dtype=mentor.dtype, device=student.device)
        return Live(teacher.model, settings.codec, settings.temperature, vocabulary, way.recipe.seed)
    found = Cached.open(cache.folder, _expected(way, model, loaded.tokenizer, student, settings))
    train = student.train
    found.check(
        tokenise(
            loaded.tokenizer,
            examples,
            encoder_decoder=loaded.encoder_decoder,
            max_length=train.max_length,
            prompt_weight=train.prompt_weight,
        ).rows
    )
    return found


def _is_encoder_decoder(model: Path) -> bool:
    from transformers import AutoConfig

    return bool(AutoConfig.from_pretrained(model, trust_remote_code=False).is_encoder_decoder)


def _expected(
    way: Way, model: Path, tokenizer: Any, student: StudentSettings, settings: Softness
) -> dict[str, Any]:
    """What the manifest of fitting soft labels says."""
    from limbeck.training.soft_labels import tokenizer_fingerprint, vocabulary_of

    return {
        "identity": {
            "mentor": path_fingerprint(model),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "template": template_fingerprint(student.format, tokenizer),
        },
        "temperature": settings.temperature,
        "codec": settings.codec,
        "seed": way.recipe.seed,
        "vocabulary": vocabulary_of(tokenizer),
    }


def check_pair(student: StudentSettings, mentor: MentorSettings, place: str) -> None:
    """Refuse a mentor whose tokens are not the student's, as far as can be told before it is trained.

    Raises:
        RecipeError, ModelError: naming both models.
    """
    pair = f"{place}.model: {student.model}, but its mentor is {mentor.model}"
    if is_from_scratch(mentor.model):
        if not is_from_scratch(student.model):
            raise RecipeError(
                f"{pair}, from scratch; soft labels need one tokenizer, so name a model for both"
            )
        if student.model.split("-")[1] != mentor.model.split("-")[1]:
            raise RecipeError(f"{pair}; soft labels need two causal or two seq2seq models")
    elif not is_from_scratch(student.model):
        from limbeck.training.soft_labels import tokenizers_agree

        ours, theirs = _tokenizer(student.model), _tokenizer(mentor.model)
        if ours is not None and theirs is not None:
            tokenizers_agree(ours, theirs, [])


def is_from_scratch(name: str) -> bool:
    """Whether a model of this name is made, not loaded."""
    return name.startswith("tiny-") and not Path(name).exists()


def _tokenizer(name: str) -> Any:
    """A model's tokenizer; None where it cannot be had now: whoever loads the model says why."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(Path(name).expanduser(), trust_remote_code=False)
    except (OSError, ValueError):
        return None


def template_fingerprint(form: str, tokenizer: Any) -> str:
    """Tells prompt formats apart by what they make of one problem."""
    shape = FORMATS[form]
    sample = Problem(id="sample", question="Which of these is it?", answer="A", options=("one", "two"))
    example = Example(
        problem_id="sample", prompt=shape.prompt(sample), completion=shape.completion("So.", "A")
    )
    (shown,) = rendered(tokenizer, form, [example])
    return fingerprint([form, shown.prompt, shown.completion])


def cached(way: Way, student: StudentSettings, settings: Softness) -> Stage:
    """The mentor's distribution over every kept rationale, on disk, for all students that share it."""
    train, name = student.train, settings.mentor
    dev = train.choose == "dev-loss"
    plan = {
        "format": student.format,
        "max_length": train.max_length,
        "prompt_weight": train.prompt_weight,
        "temperature": settings.temperature,
        "codec": settings.codec.model_dump(mode="json"),
        "dev": dev,
        "seed": way.recipe.seed,
    }
    place = f"mentors/{name}/soft-labels/{settings.codec.kind}-{fingerprint(plan)[:8]}"
    return stages.once(way, place, lambda: _cache_stage(way, student, settings, place, plan))


def _cache_stage(
    way: Way, student: StudentSettings, settings: Softness, place: str, plan: dict[str, Any]
) -> Stage:
    name = settings.mentor
    model, parts = mentors.trained(way, name), stages.problems(way)
    sources = [mentors.taught(way, name), mentors.rationales(way, name)]
    if plan["dev"]:
        sources.append(mentors.taught(way, name, "dev"))
    kept = [one for source in sources for one in source.all if one.dropped is None]
    examples = stages.rationale_examples(parts, kept, student.format)

    def work(folder: Path) -> None:
        from limbeck.lm.load import load
        from limbeck.training.collate import padding, tokenise
        from limbeck.training.soft_labels import vocabulary_of
        from limbeck.training.soft_writing import write_cache

        mentor = way.recipe.mentors[name]
        loaded = load(str(model.folder / "model"), dtype=mentor.dtype, device=mentor.device)
        rows = tokenise(
            loaded.tokenizer,
            rendered(loaded.tokenizer, student.format, examples),
            encoder_decoder=loaded.encoder_decoder,
            max_length=student.train.max_length,
            prompt_weight=student.train.prompt_weight,
        ).rows
        expected = _expected(way, model.folder / "model", loaded.tokenizer, student, settings)
        with way.track(f"soft labels of mentor {name}", len(rows)) as advance:
            write_cache(
                folder,
                loaded.model,
                rows,
                pad=padding(loaded.tokenizer),
                codec=settings.codec,
                temperature=settings.temperature,
                vocabulary=vocabulary_of(loaded.tokenizer),
                identity=expected["identity"],
                batch_tokens=student.train.batch_tokens,
                seed=way.recipe.seed,
                progress=advance,
            )

    inputs = {f"rationales {n}": source.stage.fingerprint for n, source in enumerate(sources)}
    return way.run.stage(place, plan, {"mentor": model.fingerprint, **inputs}, work)
