"""What is looked at before the first stage, so that nothing is made or paid for in vain.

The models' folders and configs, their tokenizers, the devices, the teacher's key and package, and room on
the disk. What only finished stages need is not asked for: a finished run opens without key and network.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from limbeck import ranks
from limbeck.errors import DiskError, InputError, ModelError, RecipeError
from limbeck.exam_facts import DIRECT
from limbeck.lm import names
from limbeck.lm.settings import Layers, LoraSettings
from limbeck.recipe import (
    ApiTeacherSettings,
    LearnerSettings,
    LocalTeacherSettings,
    MentorSettings,
    Recipe,
    VerifierSettings,
    load_recipe,
)
from limbeck.stages.context import Context
from limbeck.stages.knowledge import check_there
from limbeck.stages.pairs import (
    architecture,
    check_chat,
    check_pair,
    check_places,
    is_from_scratch,
    tokenizer_of,
)
from limbeck.stages.teacher import teacher_identity
from limbeck.tasks.settings import own_name, task_kind
from limbeck.tasks.verifying import check_installed
from limbeck.uses import Uses

SPARE = 20_000_000
"""Bytes that any run needs."""


def preflight(
    context: Context,
    uses: Mapping[str, Uses],
    *,
    trains: bool = True,
    weights: bool = True,
    room: bool = True,
) -> None:
    """Refuse what would fail later.

    Args:
        uses: of the students' methods, by the student's name.
        trains: False where only the teacher is asked; then a model of the hub need not be there yet.
        weights: False where a model's config.json is enough: nobody loads it now.
        room: whether too little room on the disk is refused.

    Raises:
        RecipeError, ModelError, InputError: naming the learner or the teacher and the setting.
    """
    recipe = context.recipe
    if trains and not recipe.students and not recipe.mentors:
        raise RecipeError(
            "students: the recipe trains nobody; add `student: {method: finetune-cot}`, or a mentor"
        )
    if not _is_graded(context, trains=trains):
        check_kind(recipe)
    learners = list(_learners(context))
    untrained = {f"students.{name}" for name, used in uses.items() if not used.trains}
    if recipe.verifier and not recipe.verifier.folds:
        untrained.add("verifier")
    by_place = {f"students.{name}": used for name, used in uses.items()}
    for place, learner, _ in learners:
        _check_learner(place, learner, trains=place not in untrained)
    _check_teacher(context, [name for name, used in uses.items() if used.asks], weights=weights)
    former = _former(context)
    if trains:
        check_reading(recipe, _still_to_read(context, uses, former))
    saved = training = 0
    for place, learner, folders in learners:
        changed = former is not None and _changed(place, recipe, former)
        left = [folder for folder in folders if changed or not _has_sat(context, folder)]
        if left and trains:
            model = _check_model(
                f"{place}.model", learner.model, learner.lora, learner.layers, weights=weights
            )
            if place == "verifier" and place in untrained and is_from_scratch(learner.model):
                raise ModelError(
                    f"verifier.model: {learner.model} is made from scratch, and folds: 0 trains nobody; "
                    "name a model that was trained, or take 2 folds"
                )
            _check_four_bits(place, learner)
            if place in untrained:
                continue
            _check_fp16(place, learner)
            check_deepspeed(place, learner.train.deepspeed)
            _check_shared_prompts(place, learner)
            once = 0 if learner.lora else model * (4 if learner.dtype == "float32" else 2)
            used = by_place.get(place, Uses())
            whole = once * used.models * len(left)
            saved += whole - min(whole, sum(map(_size, left)))
            training = max(training, _checkpoints(learner, once))
    for place, learner, folders in learners if trains else ():
        _check_server(context, place, learner, folders)
    for student, used in uses.items():
        if used.mentor and used.soft_labels:
            check_pair(recipe.students[student], recipe.mentors[used.mentor], f"students.{student}")
        if used.answer_places:
            check_places(recipe.students[student], f"students.{student}")
    if room:
        _check_room(context.run.folder, saved + training)


def _checkpoints(learner: LearnerSettings, model: int) -> int:
    """Bytes of the checkpoints of a training, of a model of so many."""
    from limbeck.scale.stored import checkpoints_at_once

    moments = 2 if learner.train.optimizer == "adamw" else 0
    return checkpoints_at_once(learner.train.choose) * model * (1 + moments)


def check_kind(recipe: Recipe) -> None:
    """Refuse answer kinds whose package is missing; needs no run folder, so protocols use it too.

    Raises:
        InputError: naming the package.
    """
    if "math" in map(task_kind, (recipe.task, *recipe.exam.also)):
        check_installed()


def _is_graded(context: Context, *, trains: bool) -> bool:
    """Whether every student sat its exam; where nobody is trained, whether the rationales are graded."""
    students = [folders for place, _, folders in _learners(context) if place.startswith("students.")]
    exams = [exam for folders in students for folder in folders for exam in _exams(context, folder)]
    folders = exams if trains else [context.run.folder / "rationales"]
    return bool(folders) and all(_is_done(context, folder) for folder in folders)


def check_reading(recipe: Recipe, uses: Iterable[Uses]) -> None:
    """Refuse a search or a reranker that cannot be made; needs no run folder, so protocols use it too.

    Args:
        uses: of the students' methods.

    Raises:
        RecipeError, ModelError, InputError: naming the setting or the package.
    """
    settings, uses = recipe.knowledge, list(uses)
    if settings is None or not any(used.reads for used in uses):
        return
    from limbeck.knowledge.words import check_words

    check_there(settings)
    if settings.engine.milvus:
        from limbeck.knowledge.milvus import library

        library()  # before hours of building
    try:
        check_words(settings.search if settings.corpus else None)
    except RecipeError as error:
        raise RecipeError(f"knowledge.search.{error}") from None
    if any(used.ranks for used in uses):
        from limbeck.knowledge.encoders import check_encoder

        _check_device("knowledge.reranker", settings.reranker.device)
        try:
            check_encoder(settings.reranker.model)
        except ModelError as error:
            raise ModelError(f"knowledge.reranker.model: {error}") from error


def _still_to_read(context: Context, uses: Mapping[str, Uses], former: Recipe | None) -> list[Uses]:
    """What the methods of students need that did not sit their exam."""
    recipe, folder = context.recipe, context.run.folder
    found = []
    for name, used in uses.items():
        seeds = [folder / "students" / name / f"seed{seed}" for seed in recipe.students[name].seeds]
        sat = all(_is_done(context, one) for seed in seeds for one in (seed, seed / "exam"))
        if not sat or former is None or _changed(f"students.{name}", recipe, former):
            found.append(used)
    return found


def check_models(recipe: Recipe, compared: Collection[str] = ()) -> None:
    """Refuse models that no run of the recipe could train; needs no run folder, so protocols use it too.

    Args:
        compared: students whose answers are found again among their tokens.

    Raises:
        RecipeError, ModelError: naming the learner and the setting.
    """
    for place, learner in recipe.learners.items():
        _check_learner(place, learner)
        _check_four_bits(place, learner)
        if not isinstance(learner, VerifierSettings) or learner.folds:
            _check_fp16(place, learner)
        _check_model(f"{place}.model", learner.model, learner.lora, learner.layers)
        _check_shared_prompts(place, learner)
    for student in compared:
        check_places(recipe.students[student], f"students.{student}")


def _learners(context: Context) -> Iterable[tuple[str, LearnerSettings, list[Path]]]:
    """(place in the recipe, settings, folders of the trained models) of verifier, mentors and students."""
    recipe, folder = context.recipe, context.run.folder
    if recipe.verifier:
        models = [folder / "verifier" / f"fold{number + 1}" for number in range(recipe.verifier.folds)]
        yield "verifier", recipe.verifier, models or [folder / "verified"]
    for name, mentor in recipe.mentors.items():
        yield f"mentors.{name}", mentor, [folder / "mentors" / name]
    for name, student in recipe.students.items():
        own = folder / "students" / name
        yield f"students.{name}", student, [own / f"seed{seed}" for seed in student.seeds]


def _former(context: Context) -> Recipe | None:
    """The recipe by which the run folder was made; None where no recipe that can be read is there."""
    try:
        return load_recipe(context.run.folder / "recipe.yaml")
    except (RecipeError, DiskError):
        return None


def _changed(place: str, now: Recipe, former: Recipe) -> bool:
    """Whether what a learner is trained on, or how, is no longer what the folder's recipe says."""
    role, _, name = place.partition(".")
    shared = [
        (
            one.seed,
            one.task,
            one.rationales,
            teacher_identity(one),
            getattr(one.teacher, "prompt", None),
            one.verifier,
            one.knowledge,
        )
        for one in (now, former)
    ]
    own = [getattr(one, role).get(name) if name else one.verifier for one in (now, former)]
    mentors = [one.mentors if role == "students" else {} for one in (now, former)]
    return any(pair[0] != pair[1] for pair in (shared, own, mentors))


def _is_done(context: Context, folder: Path) -> bool:
    """Whether a stage is done, as its file says."""
    if context.run.is_again(folder.relative_to(context.run.folder).as_posix()):
        return False
    try:
        state = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(state, dict) and state.get("state") == "done"


def _has_sat(context: Context, folder: Path) -> bool:
    """Whether a model was trained, or examined without that."""
    direct = [folder / f"exam-{DIRECT}"] if context.recipe.exam.direct else []
    exams = [*_exams(context, folder), *direct]
    return _is_done(context, folder) or all(_is_done(context, exam) for exam in exams)


def _exams(context: Context, folder: Path) -> list[Path]:
    """The exams of a model: its task's, and those of other tasks."""
    return [folder / "exam", *(folder / f"exam-{own_name(one)}" for one in context.recipe.exam.also)]


def _check_teacher(context: Context, asking: Iterable[str], *, weights: bool) -> None:
    """`asking`: students whose methods ask it for more than plain rationales."""
    teacher, folder = context.recipe.teacher, context.run.folder
    if not isinstance(teacher, ApiTeacherSettings | LocalTeacherSettings):
        return
    asked = [folder / "collected", *(_exams(context, folder / "teacher") if teacher.exam else [])]
    for name in asking:
        seeds = [folder / "students" / name / f"seed{seed}" for seed in context.recipe.students[name].seeds]
        asked += [seed / "exam" for seed in seeds]
    if all(_is_done(context, one) for one in asked):
        return
    if isinstance(teacher, ApiTeacherSettings):
        from limbeck.lm.api import check_ready

        check_ready(teacher)
        return
    _check_device("teacher", teacher.device)
    if is_from_scratch(teacher.model):
        raise ModelError(
            f"teacher.model: {teacher.model} is made from scratch; name a model that was trained"
        )
    _check_model("teacher.model", teacher.model, weights=weights)


def _check_server(context: Context, place: str, learner: LearnerSettings, folders: Iterable[Path]) -> None:
    """Refuse a server that could not be asked for a learner's texts, while some are still to be written."""
    where, endpoint = "exam.endpoint", context.recipe.exam.endpoint
    sits = not isinstance(learner, MentorSettings) or learner.exam
    texts = [exam for folder in folders for exam in _exams(context, folder)] if sits else []
    if isinstance(learner, MentorSettings) and learner.endpoint is not None:
        where, endpoint = f"{place}.endpoint", learner.endpoint
        texts += [folder / "collected" for folder in folders if learner.file is None]
    if endpoint is None or place == "verifier" or all(_is_done(context, one) for one in texts):
        return
    from limbeck.lm.api import check_ready

    check_ready(endpoint, where)
    if architecture(learner.model) == "seq2seq":
        raise RecipeError(
            f"{place}.model: {learner.model} is an encoder-decoder model, of which servers give back a cut "
            f"text or none; leave {where} out"
        )


def _check_learner(place: str, learner: LearnerSettings, *, trains: bool = True) -> None:
    """What needs no look at a model of the hub."""
    _check_device(place, learner.device)
    if trains and learner.dtype == "bfloat16" and learner.lora is None:
        raise RecipeError(
            f"{place}.dtype: updates of all weights get lost in bfloat16; "
            "set dtype float32 with train.precision bf16, or use lora"
        )
    _check_name(place, learner.model)
    if learner.quantize and is_from_scratch(learner.model):
        raise RecipeError(
            f"{place}.quantize: {learner.model} is made from scratch, and 4 bits are of a trained model; "
            "leave quantize out"
        )
    if learner.format == "chat":
        check_chat(learner, place)


def check_deepspeed(place: str, file: str | None) -> None:
    """Refuse a configuration that no training could take, and several processes without the package."""
    if file is None:
        return
    from limbeck.training.deepspeed import check_installed, read

    try:
        read(file)
        if ranks.world() > 1:
            check_installed()
    except RecipeError as error:
        raise RecipeError(f"{place}.{error}") from None


def _check_fp16(place: str, learner: LearnerSettings) -> None:
    """Refuse fp16 where no CUDA GPU trains."""
    if learner.train.precision == "fp16":
        from limbeck.lm.load import device_of
        from limbeck.training.arguments import refuse_fp16

        try:
            refuse_fp16(learner.train, device_of(learner.device))
        except RecipeError as error:
            raise RecipeError(f"{place}.train.{error}") from None


def _check_shared_prompts(place: str, learner: LearnerSettings) -> None:
    """Refuse a cache of prompts in a model that keeps none; what else rules it out, its training finds."""
    train = learner.train
    if train.share_prompts is True and train.gradient_checkpointing:
        from limbeck.training.shared_prompts import FORGOTTEN

        if architecture(learner.model) == "causal":
            raise RecipeError(
                f"{place}.train.share_prompts: true cannot be, because {FORGOTTEN}; set it to auto or false"
            )


def _check_four_bits(place: str, learner: LearnerSettings) -> None:
    """Refuse 4 bits without their package, and of an adapter, which would be rounded."""
    if learner.quantize:
        from limbeck.lm.four_bits import check_installed
        from limbeck.lm.load import ADAPTER

        if (Path(learner.model).expanduser() / ADAPTER).is_file():
            raise RecipeError(
                f"{place}.quantize: {learner.model} is an adapter, which does not fold into 4 bits; make a "
                "whole model of it with limbeck export first"
            )
        try:
            check_installed()
        except RecipeError as error:
            raise RecipeError(f"{place}.{error}") from None


def _check_name(place: str, name: str) -> None:
    """Refuse a model that does not exist: no such tiny size, no such folder, a folder without a model."""
    try:
        names.refuse_encoder(name)
    except ModelError as error:
        raise ModelError(f"{place}.model: {error}") from error
    model = Path(name).expanduser()
    if name.startswith("tiny-") and not model.exists():
        if not re.fullmatch(r"tiny-(causal|seq2seq)(-(xs|s|m|l))?", name):
            raise ModelError(f"{place}.model: no tiny model {name!r}; add -xs, -s, -m or -l, or nothing")
        return
    looks_local = model.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if names.is_gguf(name) and not model.is_file():
        raise ModelError(f"{place}.model: {name}: no such file; check the path")
    if looks_local and not (model.is_dir() or names.is_gguf(name)):
        raise ModelError(f"{place}.model: {name}: no such folder; check the path")
    files = ("config.json", "adapter_config.json")
    if model.is_dir() and not any((model / file).is_file() for file in files):
        raise ModelError(f"{place}.model: {name or '(empty)'} is a folder without config.json; name a model")


def _check_model(
    place: str,
    name: str,
    lora: LoraSettings | None = None,
    layers: Layers | None = None,
    *,
    weights: bool = True,
) -> int:
    """Read a model's config and tokenizer, and what weights there are; return how many (0: a tiny one).

    Without `weights` the config alone; the tokenizer need not be there either.

    Raises:
        ModelError: naming the setting.
    """
    if is_from_scratch(name) and lora is None and layers is None:
        return 0
    from limbeck.lm.load import ADAPTER, parameters_of

    try:
        count = parameters_of(name, lora, layers, weights=weights)
        if is_from_scratch(name) or not weights:
            return 0
        own = Path(name).expanduser()
        borrowed = (own / ADAPTER).is_file() and not (own / "tokenizer_config.json").is_file()
        if not borrowed and tokenizer_of(name) is None:
            raise ModelError(f"{name}: its tokenizer cannot be read; give a complete model")
    except ModelError as error:
        raise ModelError(f"{place}: {error}") from error
    return count


def _check_device(place: str, device: str) -> None:
    """Refuse a GPU that this machine does not have."""
    if device not in ("cuda", "mps"):
        return
    import torch

    there = torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
    if not there:
        raise RecipeError(f"{place}.device: {device} is not there; write auto or cpu")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise InputError(
            f"{folder}: the models and checkpoints of this run need about {_size_of(needed + SPARE)}, "
            f"and {_size_of(free)} of the disk are free; free some, or name another place with --out"
        )


def _size_of(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
