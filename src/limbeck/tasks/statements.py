"""Answer statements: where a text says outright what its answer is.

Markers are `-->` (on the last line), `####`, `\\boxed{...}`, "the answer is",
"answer:", "the correct choice is" and "the final result is", with the words that go
with them ("So the final answer to the question is"). No markers are "to find the
answer:" and, where `negatable` is not set, "the answer is not".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

SENTENCE_END = re.compile(r"[.!?]+[\"'”’*)]*(?=\s|$)|\n+")

CHATTER = (
    r"(?:I hope|Hope (?:this|that|it)|Let me know|Thanks?\b|Feel free|Please let|Is there anything"
    r"|Have a (?:great|nice|good)|Goodbye|Good luck|Happy to help|You['’]re welcome)"
)
"""Beginnings of sentences after the answer that say nothing about the problem."""

_BEFORE = r"(?:(?:therefore|thus|so|hence|consequently|finally|then|and|now|in conclusion)\b[,\s]*+){0,8}"
"""At most eight: a student that repeats "therefore, " for ever would cost quadratic time."""
_NOUN = r"""(?:(?:correct|right|best|final|true)\s+(?:answer\s+)?(?:choice|option)
    |(?:final|end)\s+(?:result|output|string|word)
    |(?:(?:correct|right|best|final)\s+)?answer(?:\s+(?:choice|option))?)"""
_ABOUT = r"(?:\s+(?:to|for)\s+(?:the|this|that|your|our)\s+(?:\w+\s+)?(?:question|problem))?"
_VERB = r"(?:\s+(?:is|are|was|will\s+be|would\s+be|should\s+be|must\s+be)\b\s*:?|\s*[:=])"
_MARKER = re.compile(
    rf"""(?<!-)-->|\#{{4}}|\\boxed\s*\{{
    |\b{_BEFORE}(?:that\s+)?(?:\b(?:the|our|my|your|its)\s+)?\b{_NOUN}{_ABOUT}\**{_VERB}""",
    re.IGNORECASE | re.VERBOSE,
)
_FILLED = re.compile(r"\S")
_NOT = re.compile(r"not\b", re.IGNORECASE)
_READ_AS = str.maketrans("\u2212\u2010\u2011\u2028\u2029\x85\r\xa0", "---\n\n\n\n ")


@dataclass(frozen=True, slots=True)
class Statement:
    """A marker begins at `start`; what is stated is `text`, which ends at `end`."""

    start: int
    text: str
    end: int


def read_plainly(text: str) -> str:
    """Unusual minus signs, line ends and spaces as the usual ones, one for one: places stay.

    >>> read_plainly("\u22123\u2028")
    '-3\\n'
    """
    return text.translate(_READ_AS)


def sentences(text: str) -> list[str]:
    """The non-empty sentences and lines of a text, without their ends."""
    return [part.strip() for part in SENTENCE_END.split(text) if part.strip()]


def statements(text: str, *, whole_lines: bool, negatable: bool) -> Iterator[Statement]:
    """All answer statements of a text (read plainly), the last one first.

    Args:
        text: a completion.
        whole_lines: they reach to the end of their line, not only of their sentence.
        negatable: "the answer is not ..." states something too.
    """
    limit = len(text)
    for start, marker in reversed(_markers(text)):
        opening = _FILLED.search(text, marker.end(), limit)
        begin = opening.start() if opening else limit
        end = _end(text, marker[0][-1], begin, limit, whole_lines)
        limit = start
        if not negatable and _NOT.match(text, begin, end):
            continue
        if marker[0][-1] == ">" and _FILLED.search(text, end):
            continue
        if marker[0][-1] in ":=" and not _opens_clause(text, start):
            continue
        yield Statement(start, text[begin:end], end)


def _markers(text: str) -> list[tuple[int, re.Match[str]]]:
    """The markers and where they begin; "the answer is \\boxed{" is one that begins with "the"."""
    found: list[tuple[int, re.Match[str]]] = []
    for marker in _MARKER.finditer(text):
        start = marker.start()
        if found and not text[found[-1][1].end() : start].strip():
            start, _ = found.pop()
        found.append((start, marker))
    return found


def _end(text: str, sign: str, begin: int, limit: int, whole_lines: bool) -> int:
    """Where the statement after a marker (whose last character is `sign`) ends; `limit` at the latest."""
    if sign == "{":
        depth = 1
        for place in range(begin, limit):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return place
        return limit
    if sign in ">#" or whole_lines:
        newline = text.find("\n", begin, limit)
        return limit if newline < 0 else newline
    stop = SENTENCE_END.search(text, begin, limit)
    return stop.end() if stop else limit


def unfinished(text: str, place: int) -> str:
    """What comes before `place` in the sentence that goes on there (of a very long one, its tail)."""
    return SENTENCE_END.split(text[max(0, place - 300) : place])[-1]


def _opens_clause(text: str, place: int) -> bool:
    """Does a clause begin here? In "to find the answer: ..." none does."""
    before = unfinished(text, place).strip(" *#>-")
    return not before or before[-1] in ",;:"
