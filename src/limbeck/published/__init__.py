"""Published data of other projects, made into files that a recipe reads; one module per format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from limbeck.errors import RecipeError
from limbeck.published import mcc_kd, mentor_kd
from limbeck.published.found import Found, Request

Read = Callable[[Sequence[str], Request], Found]
"""read(paths, what else the user says): everything that was found, not yet graded."""


@dataclass(frozen=True, slots=True)
class Format:
    """What `limbeck import` can read, and where it was published."""

    summary: str
    paper: str
    read: Read


FORMATS: dict[str, Format] = {
    "mentor-kd": Format(
        "questions, the teacher's rationales and a mentor's, as the repository of Mentor-KD publishes them",
        "Mentor-KD, arXiv 2410.09037",
        mentor_kd.read,
    ),
    "mcc-kd": Format(
        "questions and several rationales of each, as the repository of MCC-KD publishes them",
        "MCC-KD, arXiv 2310.14747",
        mcc_kd.read,
    ),
}


def known_format(name: str) -> Format:
    """The format of that name.

    Raises:
        RecipeError: there is none.
    """
    if name not in FORMATS:
        raise RecipeError(f"FORMAT: there is no {name!r}; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]
