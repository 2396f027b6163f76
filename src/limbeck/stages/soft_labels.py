"""Soft labels for a student: a mentor's distribution over every token of the student's examples.

They are found by text: all students of a mentor share what it was asked before, whatever they
select, and only rows that nobody asked for yet cost a pass of the mentor. So they are not an input
of a student's stage; what they say follows from mentor, text, temperature and codec.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from limbeck import ranks
from limbeck.errors import DamagedError, InputError, RecipeError
from limbeck.recipe import Recipe, Settings
from limbeck.run_folder import fingerprint, is_finished, path_fingerprint, plan
from limbeck.soft_labels.settings import CodecSettings
from limbeck.stages.context import Context, PlannedLabels, once
from limbeck.stages.learners import Learner, Trained
from limbeck.stages.pairs import check_tokenizers, is_from_scratch, tokenizer_of
from limbeck.stages.served import Served, served_mentor
from limbeck.stages.training import Data, is_trained, rendered

if TYPE_CHECKING:
    from limbeck.training.parts import SoftLabelKL, SoftLabels
    from limbeck.training.rows import Rows

VERSION = 1
"""Raised by hand when this code stores other distributions of the same mentor."""


class SoftLabelSettings(Settings):
    """How a student learns from its mentor's distributions; λ and τ are Mentor-KD's."""

    mentor: str = Field("mentor", description="a name from the recipe's `mentors:`")
    kl_weight: float = Field(0.3, ge=0, le=1, strict=True, description="λ; 0: without soft labels")
    temperature: float = Field(
        2.0, gt=0, allow_inf_nan=False, description="τ of mentor and student in the divergence"
    )
    temperature_squared: bool = Field(False, description="multiply the divergence by τ² (Hinton et al.)")
    soft_labels: Literal["cached", "live"] = Field(
        "cached", description='"live" runs the mentor next to the student at every step'
    )
    codec: CodecSettings = CodecSettings()

    def plan(self) -> Self:
        """The settings that decide what the student becomes; without soft labels theirs do not."""
        if self.kl_weight:
            return self
        theirs = ("temperature", "temperature_squared", "soft_labels", "codec")
        return self.model_copy(update={name: type(self).model_fields[name].default for name in theirs})


def check_served_labels(recipe: Recipe, student: str, settings: SoftLabelSettings) -> None:
    """Refuse soft labels that the mentor's server cannot give, before anybody is trained.

    Raises:
        RecipeError: naming the student's setting.
    """
    endpoint = recipe.mentors[settings.mentor].endpoint
    if endpoint is None or not endpoint.soft_labels or not settings.kl_weight:
        return
    from limbeck.soft_labels.served import refuse_elsewhere

    place, where = f"students.{student}.settings", f"mentors.{settings.mentor}.endpoint"
    refuse_elsewhere(settings.temperature, settings.codec, place, where)
    if settings.soft_labels == "live":
        raise RecipeError(
            f"{place}.soft_labels: live, and a server would be asked at every step; take cached, or set "
            f"{where}.soft_labels: false"
        )


@dataclass(frozen=True)
class SoftLabelStage:
    """Soft labels that are there, or a mentor to ask; opened when a training needs them."""

    context: Context
    mentor: Trained
    learner: Learner
    settings: SoftLabelSettings
    folders: tuple[Path, ...]

    def parts(self) -> tuple[SoftLabelKL, ...]:
        """The loss part of the settings' weight; none where the weight is 0."""
        from limbeck.training.parts import SoftLabelKL

        weight, squared = self.settings.kl_weight, self.settings.temperature_squared
        return (SoftLabelKL(self.open(), weight, squared=squared),) if weight else ()

    def open(self) -> SoftLabels:
        """Open the files, or load the mentor."""
        if self.settings.soft_labels == "live":
            return _live(self)
        from limbeck.soft_labels.cache import Cached

        return Cached.open(self.folders, expected(self.context, self.mentor, self.learner, self.settings))


def soft_labels(
    context: Context, mentor: Trained, learner: Learner, data: Data, settings: SoftLabelSettings
) -> SoftLabelStage:
    """The mentor's distributions over these examples; what is not stored yet is written now.

    Nothing is written for a student that is trained already, or that asks the mentor live or not at all.

    Raises:
        InputError: the examples do not name the mentor as an input, so that another mentor would not
            train the student again.
        ModelError: mentor and student read texts differently.
    """
    from limbeck.soft_labels.cache import missing

    if settings.kl_weight and mentor.stage.fingerprint not in data.inputs.values():
        raise InputError(
            f"soft_labels: {mentor.name} is not an input of the examples; add inputs=mentor.inputs there"
        )
    if not settings.kl_weight or is_trained(context, learner, data):
        return SoftLabelStage(context, mentor, learner, settings, ())
    context.run.verify([mentor.path])
    _agree(mentor, learner, data)
    if settings.soft_labels == "live":
        return SoftLabelStage(context, mentor, learner, settings, ())
    place = store(context, mentor, learner, settings)
    rows = rows_of(context, mentor, learner, data)
    stored = ranks.share(volumes(context, place))  # before a rank writes more of them
    context.run.verify(stored)
    _of_this_mentor(stored, expected(context, mentor, learner, settings))
    lacking = missing(stored, rows)
    if context.planned is not None:
        context.planned.labels[learner.place] = PlannedLabels(place, lacking)
    if len(lacking):
        taken = {path.name.partition("-")[0] for path in stored}
        number = next(one for one in map("{:03d}".format, count()) if one not in taken)
        _write(context, mentor, learner, settings, f"{place}/{number}", lacking)
    else:
        context.run.say(f"{place}: holds all {len(rows)} rows that {learner.shown} needs")
    # Rank 0 knows when the stage is done; the others may be here before.
    return SoftLabelStage(context, mentor, learner, settings, tuple(ranks.share(volumes(context, place))))


def _of_this_mentor(stored: Sequence[Path], wanted: Mapping[str, Any]) -> None:
    """Refuse what a mentor wrote that was damaged since and whose second training gave other weights.

    Raises:
        DamagedError: naming the volume, which is then made again.
    """
    from limbeck.soft_labels.cache import read_manifest

    ours = wanted["identity"]["mentor"]
    others = (one for one in stored if read_manifest(one)["identity"].get("mentor") != ours)
    if other := ranks.share(next(others, None) if ranks.main() else None):
        raise DamagedError(Path(os.path.abspath(other)), "was written by a mentor of other weights")


def _agree(mentor: Trained, learner: Learner, data: Data) -> None:
    """Refuse a student that reads these texts as other tokens than its mentor."""
    from limbeck.lm.load import read_config

    name = learner.settings.model
    if is_from_scratch(name):
        return  # it takes the mentor's tokenizer
    ours, theirs = tokenizer_of(name), tokenizer_of(str(mentor.path))
    both = bool(read_config(mentor.path).is_encoder_decoder)
    groups = rendered(theirs, learner, chain(data.train, data.dev), encoder_decoder=both)
    texts = (
        text
        for group in groups
        for example in group.examples
        for text in (str(example.prompt), example.completion)
    )
    check_tokenizers(ours, theirs, learner.asking, texts, name)


def store(context: Context, mentor: Trained, learner: Learner, settings: SoftLabelSettings) -> str:
    """The folder of all distributions of this mentor that are made with the same settings."""
    same = {
        "mentor": mentor.stage.fingerprint,
        "temperature": settings.temperature,
        "codec": settings.codec.plan(),
        "asking": learner.asking.about(),
        "prompts": learner.settings.train.prompt_weight > 0,
    }
    return f"{mentor.stage.name}/soft-labels/{settings.codec.kind}-{fingerprint(same)[:8]}"


def volumes(context: Context, place: str) -> list[Path]:
    """The finished parts of a store, oldest first."""
    from limbeck.soft_labels.cache import MANIFEST

    found = (path.parent for path in (context.run.folder / place).glob(f"*/{MANIFEST}"))
    return sorted(filter(is_finished, found), key=lambda path: path.name)


def rows_of(context: Context, mentor: Trained, learner: Learner, data: Data) -> Rows:
    """The student's tokenised examples; the mentor's tokenizer is the student's."""
    from limbeck.lm.load import read_config
    from limbeck.training.collate import tokenise

    tokenizer = tokenizer_of(str(mentor.path))
    encoder_decoder = bool(read_config(mentor.path).is_encoder_decoder)
    groups = chain(data.train, data.dev)
    found = tokenise(
        tokenizer,
        rendered(tokenizer, learner, groups, encoder_decoder=encoder_decoder),
        encoder_decoder=encoder_decoder,
        max_length=learner.settings.train.max_length,
        max_completion=learner.settings.train.max_completion,
        prompt_weight=learner.settings.train.prompt_weight,
        folder=context.run.folder if context.planned is None else context.planned.rows,
    )
    return found.rows.some(found.rows.scored.nonzero()[0])


def _write(
    context: Context,
    mentor: Trained,
    learner: Learner,
    settings: SoftLabelSettings,
    place: str,
    rows: Rows,
) -> None:
    """One pass of the mentor over rows that are not stored yet: a stage of its own."""
    from limbeck.soft_labels.writing import text_of

    text = text_of(rows)

    def work(folder: Path) -> None:
        from limbeck.soft_labels.tokenizers import vocabulary_of
        from limbeck.soft_labels.writing import write_cache
        from limbeck.training.collate import padding

        with (
            _source(context, mentor, settings) as (model, tokenizer),
            context.track(f"soft labels of {mentor.name}", len(rows)) as advance,
        ):
            write_cache(
                folder,
                model,
                rows,
                pad=padding(tokenizer),
                codec=settings.codec,
                temperature=settings.temperature,
                vocabulary=vocabulary_of(tokenizer),
                identity=expected(context, mentor, learner, settings)["identity"],
                batch_tokens=mentor.learner.settings.train.batch_tokens,
                progress=advance,
                say=context.run.say,
            )

    context.run.stage(
        f"{place}-{text[:8]}",
        plan({"text": text, "temperature": settings.temperature, "codec": settings.codec}, version=VERSION),
        mentor.inputs,
        work,
        everyone=True,
    )


@contextmanager
def _source(context: Context, mentor: Trained, settings: SoftLabelSettings) -> Iterator[tuple[Any, Any]]:
    """Who is asked for the distributions, and its tokenizer: the mentor, loaded, or a server that has it."""
    there = served_mentor(context, mentor)
    if not isinstance(there, Served) or not there.gives_soft_labels:
        loaded = mentor.load()
        yield loaded.model, loaded.tokenizer
        return
    from limbeck.lm.load import unloaded
    from limbeck.soft_labels.served import ServedLabels

    known = unloaded(mentor.path, name=mentor.name)
    labels = ServedLabels(there.endpoint, there.served_as, known, settings.codec.k, there.place)
    with closing(labels):
        yield labels, known.tokenizer


def expected(
    context: Context, mentor: Trained, learner: Learner, settings: SoftLabelSettings
) -> dict[str, Any]:
    """What the manifest of fitting soft labels says."""
    from limbeck.soft_labels.tokenizers import tokenizer_fingerprint, vocabulary_of

    tokenizer = tokenizer_of(str(mentor.path))
    return {
        "identity": {
            "mentor": once(context, f"{mentor.path} as a file", lambda: path_fingerprint(mentor.path)),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "asking": fingerprint(learner.asking.about()),
        },
        "temperature": settings.temperature,
        "codec": settings.codec,
        "vocabulary": vocabulary_of(tokenizer),
    }


def _live(stage: SoftLabelStage) -> SoftLabels:
    from limbeck.lm.load import load
    from limbeck.soft_labels.live import Live
    from limbeck.soft_labels.tokenizers import vocabulary_of

    mentor = stage.mentor
    loaded = load(str(mentor.path), dtype=mentor.learner.settings.dtype, device=stage.learner.settings.device)
    return Live(
        loaded.model, stage.settings.codec, stage.settings.temperature, vocabulary_of(loaded.tokenizer)
    )
