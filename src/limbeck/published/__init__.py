"""Published data of other projects, made into files that a recipe reads; one module per format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from limbeck.errors import RecipeError
from limbeck.published import kard, learn_from_committee, mcc_kd, mentor_kd, tailored
from limbeck.published.found import Found, Request

Read = Callable[[Sequence[str], Request], Found]
"""read(paths, what else the user says): everything that was found, not yet graded."""


@dataclass(frozen=True, slots=True)
class Format:
    """What `limbeck import` can read, and where it was published.

    `of_mistakes`: its texts name questions that other files ask. `leaves_out`: what leaks can be left out.
    """

    summary: str
    paper: str
    read: Read
    of_mistakes: bool = False
    leaves_out: bool = False


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
    "kard": Format(
        "questions and explanations of their answers, as the scripts of KARD read and make them",
        "KARD, arXiv 2305.18395",
        kard.read,
        leaves_out=True,
    ),
    "learn-from-committee": Format(
        "a student's mistakes, with the feedback and the rationales of three teachers, as the repository "
        "of Learning from Committee publishes them",
        "Learning from Committee, arXiv 2410.03663",
        learn_from_committee.read,
        of_mistakes=True,
    ),
    "tailored": Format(
        "rationales and a student's mistakes by question, as the repository of tailored learning has them",
        "tailored learning, arXiv 2310.13332",
        tailored.read,
        of_mistakes=True,
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


def read(name: str, paths: Sequence[str], request: Request) -> Found:
    """Read published files of the format of that name.

    Raises:
        RecipeError: there is no such format, or the request says what this one does not ask for.
        DataError, DiskError: see the format.
    """
    form = known_format(name)
    said = [
        option
        for option, value, usual in (
            ("--student", request.student, None),
            ("--leaks", request.leaks, "refuse"),
            ("--unknown", request.unknown, "refuse"),
        )
        if value != usual
    ]
    said = [option for option in said if not (form.of_mistakes or (form.leaves_out and option == "--leaks"))]
    if said:
        raise RecipeError(f"{said[0]}: {name} holds no mistakes of a student; remove it")
    return form.read(paths, request)
