"""An explanation of the right answer: how a teacher that is shown it is asked for one.

KARD (arXiv 2305.18395) collects its rationales like this. The published prompt has five examples; this one
has none, and is ours. It asks for the closing sentence too: what a teacher comes to is graded as always.
"""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.prompts import wanted_of

PLACES = ("instruction", "question", "options", "gold")
"""Places that a template for explanations may have."""

TEMPLATE = "{question}\n{options}\n\nThe right answer: {gold}\n\n{instruction}"


def instruction(kind: AnswerKind, labels: Sequence[str] = ()) -> str:
    """What the teacher shall write; `labels` are those of kind label."""
    return (
        "Explain step by step how one comes to this answer, and write every step down, for a reader who does "
        'not know it: do not mention that it was given. Close with the sentence "The answer is X.", where X '
        f"is {wanted_of(kind, labels)}."
    )
