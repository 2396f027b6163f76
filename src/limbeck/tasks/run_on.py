"""Where a completion runs on: after its answer it invents another question, and answers that too.

Models that were trained on pages of questions, and those that are shown demonstrations, do so until
they are stopped. What they invent would be graded in place of what was asked, and trained on.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

QUESTIONS = (
    'a line that begins with "Q:", "Question:", "Problem:", "Exercise:", "Human:" or "User:", with or '
    "without a number or emphasis",
    'a heading "### Question", "### Problem", "### Exercise", "### Instruction", "### Input" or "### User"',
    "a chat template's mark of the user's turn (<|user|>, <|im_start|>user, [INST])",
    '"Q:" or "Question:" after the end of a sentence, in the same line',
)
"""What begins another question, in words (for docs/data.md)."""

MOST = 100
"""Questions looked at: whoever asked so many without an answer gives none."""

_BEGINS = re.compile(
    r"""(?<![^\n])[ \t>]*+(?:
        [*_]*+(?:Q|Question|Problem|Exercise|Human|User)[ \t]*+(?:\#?[0-9]{1,4})?[*_]*+[ \t]*+:
        |\#{1,6}[ \t]*+(?:Question|Problem|Exercise|Instruction|Input|Human|User)\b
        |<\|(?:im_start\|>|start_header_id\|>)?[ \t]*+user\b|\[INST\])
    |(?<=[.!?)\]}"”])[ \t]++(?:Q|Question)[ \t]*+(?:[0-9]{1,4})?:(?=\s)""",
    re.VERBOSE,
)


def run_on(text: str, answered: Callable[[str], bool]) -> int:
    """Where the first question after an answer begins; the text's length if none does.

    Args:
        text: a completion, read plainly.
        answered: whether a piece of the text, from one question to the next, states an answer.

    A question that is repeated before it is answered is left in.
    """
    last = 0
    for question in itertools.islice(_BEGINS.finditer(text), MOST):
        if answered(text[last : question.start()]):
            return question.start()
        last = question.start()
    return len(text)
