"""What tokenizers must be able to do: chat templates, and a mentor's soft labels for a student.

A student can learn from a mentor's soft labels only if both read texts as the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from limbeck.errors import ModelError, RecipeError
from limbeck.recipe import LearnerSettings
from limbeck.records import Problem
from limbeck.tasks.asking import Asking, about_model
from limbeck.tasks.chat_template import own_template

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
    if is_from_scratch(mentor.model) and not is_from_scratch(student.model):
        raise RecipeError(f"{pair}, from scratch; soft labels need one tokenizer, so name a model for both")
    architectures = {architecture(student.model), architecture(mentor.model)} - {None}
    if len(architectures) > 1:
        raise RecipeError(f"{pair}; soft labels need two causal or two seq2seq models")
    if not is_from_scratch(student.model):
        ours, theirs = tokenizer_of(student.model), tokenizer_of(mentor.model)
        if ours is not None and theirs is not None:
            check_tokenizers(ours, theirs, Asking(format=student.format), [], student.model)


def check_tokenizers(ours: Any, theirs: Any, asking: Asking, texts: Sequence[str], name: str) -> None:
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
    tokenizer = None if is_from_scratch(learner.model) else tokenizer_of(learner.model)
    if tokenizer is None:
        return
    asking = Asking("chat", system=learner.prompt.system or "")
    try:
        asking.text(tokenizer, asking.pieces(SAMPLE))
    except ModelError as error:
        raise ModelError(f"{place}.{error}") from None


def is_from_scratch(name: str) -> bool:
    """Whether a model of this name is made, not loaded."""
    return name.startswith("tiny-") and not Path(name).exists()


@cache
def architecture(name: str) -> str | None:
    """causal or seq2seq; None where it is not known yet: loading the model says why."""
    if is_from_scratch(name):
        return name.split("-")[1]
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(Path(name).expanduser()), trust_remote_code=False)
    except (OSError, ValueError):
        return None
    return "seq2seq" if config.is_encoder_decoder else "causal"


@cache
def tokenizer_of(name: str) -> Any:
    """A model's tokenizer as loading makes it; None where it cannot be had now."""
    from transformers import AutoTokenizer

    from limbeck.lm.load import complete_tokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(Path(name).expanduser()), trust_remote_code=False)
    except (OSError, ValueError):
        return None
    complete_tokenizer(tokenizer)
    tokenizer.chat_template = own_template(about_model(Path(name).expanduser()), tokenizer.chat_template)
    return tokenizer
