"""Feedback from files of the user's: which file is a round's, whether it is there, and what its lines say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from limbeck.errors import DataError
from limbeck.records import Feedback, Mistake, Record, placed_records
from limbeck.tasks import feedback as prompt


def file_of(name: str, round: int) -> str:
    """The file of a round's feedback: {round} in the name is the round's number."""
    return name.replace("{round}", str(round))


def is_there(name: str, round: int) -> bool:
    """Whether the file of a round's feedback has been written."""
    return Path(file_of(name, round)).expanduser().is_file()


def refuse_missing(name: str, round: int, mistakes: Path) -> None:
    """Refuse a round without its file.

    Raises:
        DataError: it names the file and the folder of the mistakes.
    """
    if not is_there(name, round):
        raise DataError(
            file_of(name, round),
            f"no such file; write the feedback on the mistakes in {mistakes} to it, then run this again",
        )


def from_file(file: str, shown: Mapping[str, Mistake], source: str) -> tuple[list[Feedback], int]:
    """The lines of a file that are about these mistakes, and how many are about others.

    Raises:
        DataError: a line is not feedback, or no line is about one of them.
    """
    found, others = [], 0
    for place, line in placed_records(Path(file).expanduser(), Said, called="feedback"):
        one = _parts(place, line)
        if one.mistake_id in shown:
            about = {"problem_id": shown[one.mistake_id].problem_id, "source": one.source or source}
            found.append(one.model_copy(update=about))
        others += one.mistake_id not in shown
    if not found:
        raise DataError(
            file,
            f"has no line about any of the {len(shown)} mistakes of this round; each line needs the "
            "mistake_id that mistakes.jsonl gives as id, which changes with what the student wrote",
        )
    return found, others


class Said(Record):
    """A line of a user's file: the parts, or the whole `reply` of a teacher."""

    mistake_id: str
    problem_id: str = ""
    source: str = ""
    said: str = ""
    solution: str = ""
    reply: str = ""
    origin: str = ""


def _parts(place: str, one: Said) -> Feedback:
    if one.reply and one.solution:
        raise DataError(place, "has both reply and solution; keep one of them")
    parts = prompt.read(one.reply) or prompt.Reply(one.said, one.solution)
    return Feedback(
        mistake_id=one.mistake_id,
        source=one.source,
        said=parts.said,
        solution=parts.solution,
        origin=one.origin,
    )
