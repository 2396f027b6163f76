"""What a model wrote: its thinking, its answer, and the stop string that ended it.

A reasoning model thinks first, inside `<think>…</think>`, and answers behind it. Where the chat template
writes the opening tag, the text begins inside. A tag counts wherever it is: the answer is what follows
the last closing tag, all before it is thinking. Thinking that is not closed has no answer, so a text
that was cut off there is never read as a whole one.

Stop strings are looked for outside the thinking, and behind the white space that follows it. A stop such
as a blank line would otherwise end the thinking, or the answer before it begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from limbeck.lm import Completion

OPEN, CLOSE = "<think>", "</think>"

_TAG = re.compile("</?think>")
_BLANK = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Written:
    """A text in its parts; `stopped` is the stop string that ended it, "" for none."""

    thinking: str
    answer: str
    stopped: str = ""


def read_written(raw: str, stops: Sequence[str] = (), *, opened: bool = False) -> Written:
    """Cut a text at its first stop string and take its thinking apart.

    Args:
        raw: all that was written.
        opened: the prompt ends in `<think>`, so the text begins inside.

    >>> read_written("<think>2 + 2</think>So 4.\\nQ: next", ["\\nQ:"])
    Written(thinking='2 + 2', answer='So 4.', stopped='\\nQ:')
    """
    raw, stopped = cut(raw, stops, opened=opened)
    thinking, answer = apart(raw, opened=opened)
    return Written(thinking, answer, stopped)


def cut(raw: str, stops: Sequence[str], *, opened: bool = False) -> tuple[str, str]:
    """A text before its first stop string outside the thinking, and that string; "" where there is none.

    The first one is the one that is complete first. So it does not matter how many characters a model
    writes at once.
    """
    for start, end in _outside(raw, opened) if stops else ():
        found = [
            (place + len(stop), place, stop) for stop in stops if (place := raw.find(stop, start, end)) >= 0
        ]
        if found:
            _, place, stop = min(found)
            return raw[:place], stop
    return raw, ""


def apart(raw: str, *, opened: bool = False) -> tuple[str, str]:
    """Thinking and answer of a text, without the tags; the answer is "" where the thinking is not closed."""
    tags = list(_TAG.finditer(raw))
    if not tags:
        return (raw.strip(), "") if opened else ("", raw)
    last = tags[-1]
    end, answer = (len(raw), "") if last[0] == OPEN else (last.start(), raw[last.end() :].lstrip())
    return "\n".join(part.strip() for part in _TAG.split(raw[:end]) if part.strip()), answer


def thinks_still(raw: str, *, opened: bool = False) -> bool:
    """Whether a text ends inside its thinking."""
    tags = _TAG.findall(raw)
    return tags[-1] == OPEN if tags else opened


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt ends in an opening tag, as some chat templates write it."""
    return prompt.rstrip().endswith(OPEN)


def separated(completion: Completion) -> Completion:
    """A completion with its thinking apart; in files and in memories of before 0.2 both are one text."""
    if completion.thinking or not _TAG.search(completion.text):
        return completion
    thinking, answer = apart(completion.text)
    return replace(completion, thinking=thinking, text=answer)


def is_unfinished(thinking: str, answer: str) -> bool:
    """Whether a completion ended before its answer began: it was cut off while thinking."""
    return bool(thinking.strip()) and not answer.strip()


def whole(thinking: str, answer: str) -> str:
    """Both in one text, as a student that thinks is trained to write it."""
    return f"{OPEN}\n{thinking}\n{CLOSE}\n{answer}" if thinking else answer


def _outside(raw: str, opened: bool) -> Iterator[tuple[int, int]]:
    """Where the parts of a text begin and end that are no thinking."""
    tags, start = list(_TAG.finditer(raw)), 0
    inside = opened or (bool(tags) and tags[0][0] == CLOSE)
    for tag in tags:
        if not inside:
            yield start, tag.start()
        inside, start = tag[0] == OPEN, _BLANK.match(raw, tag.end()).end()  # type: ignore[union-attr]
    if not inside:
        yield start, len(raw)
