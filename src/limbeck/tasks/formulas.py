"""LaTeX formulas around an answer: where they open and close, so that none is cut in half."""

from __future__ import annotations

import re
from typing import NamedTuple

_ENVIRONMENT = r"\\begin\{((?:equation|align|aligned|gather|multline)\*?)\}"
_OPENS = re.compile(rf"\\\[|\\\(|\$\$|{_ENVIRONMENT}")
_CLOSERS = {"\\[": "\\]", "\\(": "\\)", "$$": "$$", "$": "$"}
_NAMES_ONLY = re.compile(r"[\s*&{}]*(?:[A-Za-z\\]{1,12}\s*&?\s*=?)?[\s&{}]*")
"""What may stand before a box in its formula and argues nothing: "x =", "&="."""

_PROSE = re.compile(r"[.!?]\s|\n|(?<![\\{A-Za-z])[A-Za-z]{3,}|\$[0-9]")
"""What shows that a "$" is a currency's, and no formula's."""

FAR, NEAR = 300, 80
"""Characters before and behind a box in which its formula opens and closes."""


class Formula(NamedTuple):
    """Opens at `start`; `closer` ends it at `end`. `argues`: there is more in it than the answer's name."""

    start: int
    end: int
    closer: str
    argues: bool


def around(text: str, box: int, behind: int) -> Formula | None:
    """The formula that holds a box, from its backslash at `box` to its closing brace at `behind`."""
    begin = max(0, box - FAR)
    before = text[begin:box]
    opener = next(reversed(list(_OPENS.finditer(before))), None)
    place, after_opener = (opener.start(), opener.end()) if opener else (-1, -1)
    closer = "" if opener is None else _closer(opener)
    dollars = before.rpartition("\n")[2].replace("\\$", "  ").count("$")
    if (closer == "$$" and before.count("$$") % 2 == 0) or (opener and closer in before[after_opener:]):
        closer = ""
    if not closer and dollars % 2:
        place = before.rfind("$")
        after_opener, closer = place + 1, "$"
    if not closer or "\n\n" in before[after_opener:]:
        return None
    inside = before[after_opener:]
    close = text.find(closer, behind, behind + NEAR)
    if close < 0 or (closer == "$" and (_PROSE.search(inside) or _PROSE.search(text[behind : close + 2]))):
        return None
    return Formula(begin + place, close + len(closer), closer, not _NAMES_ONLY.fullmatch(inside))


def end_of_opened(text: str, begin: int, limit: int) -> int:
    """Where the formula ends that opens at `begin`; `begin` where none does or none closes."""
    opener = _OPENS.match(text, begin, limit)
    if opener is None:
        return begin
    closer = _closer(opener)
    close = text.find(closer, opener.end(), min(limit, begin + 10 * FAR))
    return begin if close < 0 else close + len(closer)


def closed(text: str, closer: str) -> str:
    """A text that is cut within a formula, without the sign that led up to what was cut, and closed."""
    text = text.rstrip(" =&\\\n\t")
    return text + closer if closer == "$" else f"{text} {closer}"


def _closer(opener: re.Match[str]) -> str:
    return _CLOSERS.get(opener[0]) or f"\\end{{{opener[1]}}}"
