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
    "a chat template's mark of the end of a turn or of the next one, anywhere in a line (</s>, <|im_end|>, "
    "<|eot_id|>, <end_of_turn>, <|user|>, <|im_start|>user, [INST], [/INST], …)",
    '"Q:", "Question:", "USER:" or "Human:" after the end of a sentence, in the same line',
)
"""What begins another question, in words (for docs/data.md)."""

MOST = 100
"""Questions looked at: whoever asked so many without an answer gives none."""

ENDS = (
    *("</s>", "<eos>", "<end_of_turn>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>"),
    *("<|end_of_text|>", "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<|end|>", "<|return|>"),
    "<｜end▁of▁sentence｜>",
)
"""Special tokens that end a turn."""

_END = "|".join(map(re.escape, ENDS))
_ROLE = r"[ \t]*+(?:user|human|system|assistant)\b"
_TURN = rf"""(?:{_END})(?!\s*+<\|start\|>assistant)|<\|(?:im_start|start_header_id)\|>{_ROLE}
    |<\|start\|>(?:user|system|developer)\b|<\|(?:user|assistant|system|prompter|USER_TOKEN)\|>|<｜(?:User|Assistant)｜>|<start_of_turn>{_ROLE}|\[/?INST\]"""
"""Ends a turn or begins one. Behind <|end|> a model may go on from its thinking to its answer (<|start|>)."""

_QUESTION = r"""(?<![^\n])[ \t>]*+(?:
        [*_]*+(?:Q|Question|Problem|Exercise|Human|User)[ \t]*+(?:\#?[0-9]{1,4})?[*_]*+[ \t]*+:
        |\#{1,6}[ \t]*+(?:Question|Problem|Exercise|Instruction|Input|Human|User)\b)
    |(?<=[.!?)\]}"”])[ \t]++(?:(?:Q|Question)[ \t]*+(?:[0-9]{1,4})?|USER|Human):(?=\s)"""
_BEGINS = re.compile(_QUESTION, re.VERBOSE)
_BEGINS_OR_TURNS = re.compile(rf"{_QUESTION}|{_TURN}", re.VERBOSE)
"""The marks of turns are sought only where a text has their brackets: most have none."""


def run_on(text: str, answered: Callable[[str], bool]) -> int:
    """Where the first question after an answer begins; the text's length if none does.

    Args:
        text: a completion, read plainly.
        answered: whether a piece of the text, from one question to the next, states an answer.

    A question that is repeated before it is answered is left in.
    """
    begins = _BEGINS_OR_TURNS if "<" in text or "INST]" in text else _BEGINS
    last = 0
    for question in itertools.islice(begins.finditer(text), MOST):
        if answered(text[last : question.start()]):
            return question.start()
        last = question.start()
    return len(text)


def spoken(text: str) -> int:
    """Where a text ends without the special tokens that close it.

    >>> "So it is 5.</s><|im_end|>"[: spoken("So it is 5.</s><|im_end|>")]
    'So it is 5.'
    """
    end, rest = len(text), _filled(text, len(text))
    while token := next((one for one in ENDS if text.endswith(one, 0, rest)), None):
        end = rest - len(token)
        rest = _filled(text, end)
    return end


def _filled(text: str, end: int) -> int:
    """Where the spaces that end a text begin, without a copy of it."""
    while end and text[end - 1].isspace():
        end -= 1
    return end
