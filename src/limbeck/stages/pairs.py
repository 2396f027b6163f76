"""What tokenizers must be able to do: chat templates, and a mentor's soft labels for a student.

A student can learn from a mentor's soft labels only if both read texts as the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from limbeck.errors import ModelError, RecipeError
from limbeck.lm import names
from limbeck.recipe import LearnerSettings, Recipe
from limbeck.records import Problem
from limbeck.tasks.asking import Asking, about_model
from limbeck.tasks.chat_template import own_template

T = TypeVar("T")

SAMPLE = Problem(id="sample", question="Which of these is it?", answer="A", options=("one", "two"))


def check_pair(student: LearnerSettings, mentor: LearnerSettings, place: str) -> None:
    """Refuse a mentor whose tokens are not the student's, as far as is known before it is trained.

    Raises:
        RecipeError, ModelError: naming both models.
    """
    pair = f"{place}.model: {student.model}, but its mentor is {mentor.model}"
    if student.format != mentor.format:
        raise RecipeError(
            f"{place}.format: {student.format}, but its mentor reads {mentor.format}; "
            "soft labels need one format"
        )
    if student.thinks != mentor.thinks:
        raise RecipeError(
            f"{place}.thinks: {student.thinks}, but its mentor's is {mentor.thinks}; "
            "soft labels need the same"
        )
    if is_from_scratch(mentor.model) and not is_from_scratch(student.model):
        raise RecipeError(f"{pair}, from scratch; soft labels need one tokenizer, so name a model for both")
    architectures = {architecture(student.model), architecture(mentor.model)} - {None}
    if len(architectures) > 1:
        raise RecipeError(f"{pair}; soft labels need two causal or two seq2seq models")
    if not is_from_scratch(student.model):
        ours, theirs = known_tokenizer(student.model), known_tokenizer(mentor.model)
        if ours is not None and theirs is not None:  # else they are compared once the mentor is trained
            check_tokenizers(ours, theirs, Asking(format=student.format), [], student.model)


def check_tokenizers(ours: Any, theirs: Any, asking: Asking, texts: Iterable[str], name: str) -> None:
    """Refuse two tokenizers that cut texts differently or whose chat templates differ.

    Raises:
        ModelError: what differs.
    """
    from limbeck.soft_labels.tokenizers import tokenizers_agree

    tokenizers_agree(ours, theirs, texts)
    sample = asking.pieces(SAMPLE)
    if asking.text(ours, sample) != asking.text(theirs, sample):
        raise ModelError(
            f"{name} and its mentor have different chat templates; choose a mentor of the student's family"
        )


def check_chat(learner: LearnerSettings, place: str) -> None:
    """Refuse a model whose tokenizer has no chat template that works, as far as it can be had now.

    Raises:
        ModelError: naming the learner.
    """
    try:
        tokenizer = None if is_from_scratch(learner.model) else known_tokenizer(learner.model)
    except ModelError as error:
        raise ModelError(f"{place}.model: {error}") from error
    if tokenizer is None:
        return
    asking = Asking("chat", system=learner.prompt.system or "")
    try:
        asking.text(tokenizer, asking.pieces(SAMPLE))
    except ModelError as error:
        raise ModelError(f"{place}.{error}") from None


def check_places(learner: LearnerSettings, place: str) -> None:
    """Refuse a model whose tokenizer does not show where an answer is, as far as it can be had now.

    Raises:
        ModelError: naming the learner.
    """
    tokenizer = None if is_from_scratch(learner.model) else known_tokenizer(learner.model)
    if tokenizer is not None:
        refuse_without_places(tokenizer, f"{place}.model: {learner.model}")


def refuse_without_places(tokenizer: Any, model: str) -> None:
    """Refuse a slow tokenizer where answers are compared: nothing would be, without a word.

    Raises:
        ModelError: naming the model and the tokenizer.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{model}: its tokenizer ({type(tokenizer).__name__}) does not say which characters a token was "
            "made from, so no answer is found among the tokens and none can be compared; take a model with "
            "a tokenizer.json, or set the weight of the comparison to 0 (mcc-kd: settings.span_weight)"
        )


def is_from_scratch(name: str) -> bool:
    """Whether a model of this name is made, not loaded."""
    return name.startswith("tiny-") and not Path(name).exists()


def refuse_from_scratch(recipe: Recipe, place: str, fix: str) -> None:
    """Refuse a student that is asked before it was trained, where its model is made from scratch.

    Args:
        place: ends in students.NAME.
        fix: what to do, in words.

    Raises:
        RecipeError: naming its model.
    """
    model = recipe.students[place.rpartition("students.")[2]].model
    if is_from_scratch(model):
        raise RecipeError(f"{place}.model: {model} is made from scratch, so it knows nothing; {fix}")


def architecture(name: str) -> str | None:
    """causal or seq2seq; None for a model that is not here and cannot be had now: loading it says why.

    Raises:
        ModelError: a folder whose configuration cannot be read.
    """
    if is_from_scratch(name):
        return name.split("-")[1]
    return _unless_away(name, lambda: _architecture(name, _version(names.located(name))))


def known_tokenizer(name: str) -> Any:
    """A model's tokenizer; None for a model that is not here and cannot be had now.

    Raises:
        ModelError: a folder whose tokenizer cannot be read.
    """
    return _unless_away(name, lambda: tokenizer_of(name))


def tokenizer_of(name: str) -> Any:
    """A model's tokenizer as loading makes it, read once per process as long as its folder is the same.

    Raises:
        ModelError: it cannot be read now. That is not remembered.
    """
    place = names.located(name)
    return _tokenizer(place, _version(place))


def _unless_away(name: str, find: Callable[[], T]) -> T | None:
    try:
        return find()
    except ModelError:
        if names.is_here(name):
            raise
        return None


def _version(name: str) -> tuple[Any, ...]:
    """Sizes and dates of a model folder's files; () for a name of the hub."""
    files = sorted(path for path in Path(name).expanduser().glob("*") if path.is_file())
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@cache
def _architecture(name: str, version: tuple[Any, ...]) -> str:
    from limbeck.lm.load import read_config

    return "seq2seq" if read_config(name).is_encoder_decoder else "causal"


@cache
def _tokenizer(name: str, version: tuple[Any, ...]) -> Any:
    from limbeck.errors import first_line
    from limbeck.lm.configs import checked_tokenizer
    from limbeck.lm.load import complete_tokenizer

    folder = Path(name).expanduser()
    try:
        tokenizer = checked_tokenizer(folder if folder.is_dir() else name)
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # a broken tokenizer.json raises no narrower class
        reason = f"its tokenizer cannot be read ({first_line(error)})"
        raise ModelError(f"{name}: {reason}; give a complete model folder, or check the name") from error
    complete_tokenizer(tokenizer)
    tokenizer.chat_template = own_template(about_model(folder), tokenizer.chat_template)
    return tokenizer
