"""Answer statements: where a text says outright what its answer is.

`MARKERS` lists what makes a statement. No statement is a sentence *about* the answer ("to check whether
our answer is correct", "the answer is found by adding"), one that says what it is not, or a marker that
nothing follows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from limbeck.tasks.formulas import around, end_of_opened

SENTENCE_END = re.compile(r"(?<![.!?])[.!?]++[\"'”’*)]*+(?=\s|$)|\n+")
"""A run of marks is looked at from its beginning only: from each mark it would take quadratic time."""

CHATTER = (
    r"(?:I hope|Hope (?:this|that|it)|Let me know|Thanks?\b|Feel free|Please let|Is there anything"
    r"|Have a (?:great|nice|good)|Goodbye|Good luck|Happy to help|You['’]re welcome)"
)
"""Beginnings of sentences after the answer that say nothing about the problem."""

MOST = 1_000
"""Statements looked at, from the last one: a student that repeats itself for ever has said it all by then."""
LONGEST = 5_000
"""Characters of a statement that are read."""
FAR = 200_000
"""Characters at the end of a text in which statements are looked for."""

Reach = Literal["sentence", "line", "brace", "tag", "before"]
"""Where what is stated ends; "before": it comes before the marker."""


@dataclass(frozen=True, slots=True)
class Marker:
    """One form of statement: how it looks (for docs/data.md), its pattern, and where what it states ends."""

    name: str
    example: str
    pattern: str
    reach: Reach
    note: str = ""


_NOUN = r"""(?:(?:correct|right|best|final|true)\s+(?:answer\s+)?(?:choice|option)
    |(?:final|end)\s+(?:result|output|string|word)
    |(?:(?:correct|right|best|final)\s+)?answer(?:\s+(?:choice|option))?)"""
_ABOUT = r"(?:\s+(?:to|for)\s+(?:the|this|that|your|our)\s+(?:\w+\s+)?(?:question|problem))?"
_ASIDE = r"(?:\s*\([^()\n]{1,60}\))?"
_IS = r"(?:\s+(?:is|are|was|equals|will\s+be|would\s+be|should\s+be|must\s+be)\b\s*:?)"

MARKERS: tuple[Marker, ...] = (
    Marker("arrow", "--> 18", r"(?<!-)-->", "line", "on the last line only"),
    Marker(
        "heading",
        "### Answer, with 18 on the next line",
        r"(?<![^\n])[ \t]*(?:\#{1,6}[ \t]*+|\*\*|__)(?:the[ \t]+)?(?:(?:final|correct)[ \t]+)?answer"
        r"[ \t]*+(?:\*\*|__)?[ \t]*+\n",
        "line",
    ),
    Marker("hashes", "#### 18", r"\#{4}", "line"),
    Marker("box", r"\boxed{18}", r"\\(?:f?boxed)\s*+\{", "brace"),
    Marker("tag", "<answer>18</answer>", r"<answer>", "tag"),
    Marker(
        "says",
        "The (correct, final …) answer (to the question) is 18; also choice, option, result, output",
        rf"\b{_NOUN}{_ABOUT}{_ASIDE}\**{_IS}",
        "sentence",
    ),
    Marker(
        "denies",
        "The answer cannot be determined; also known, found, given …; does not exist, remains unknown",
        rf"""\b{_NOUN}{_ABOUT}{_ASIDE}\**(?=\s+(?:
        (?:can(?:\s*not|['’]t)|could(?:\s+not|n['’]t))\s+be\s+(?:determined|known|found|calculated|computed|given
            |told|obtained|inferred|deduced)\b(?!\s+(?:by|directly|immediately|just|simply|until|yet)\b)
        |does\s+not\s+exist\b|remains\s+(?:unknown|unclear|undetermined)\b))""",
        "sentence",
        "it states that there is none",
    ),
    Marker(
        "label",
        "Answer: 18, Answer = 18, Answer - 18, Ans: 18",
        rf"\b(?:{_NOUN}{_ABOUT}{_ASIDE}\**\s*(?:[:=]|[-–—](?=\s))|ans\b\.?\s*(?:[:=]|[-–—](?=\s)))",
        "sentence",
        "where a clause begins",
    ),
    Marker(
        "letter A",
        "A: 18",
        r"(?<![^\n])[ \t*]*(?-i:A)\**:(?=[\s*])",
        "sentence",
        "at the beginning of a line; not of kind choice, whose options look like this",
    ),
    Marker(
        "reversed",
        "18 is the answer; also correct answer, choice, option",
        r"\bis\s+(?:therefore\s+|thus\s+|indeed\s+|clearly\s+)?the\s+"
        r"(?:(?:correct|right|best|final|true)\s+)?(?:answer(?:\s+(?:choice|option))?|choice|option)\b"
        r"(?=[*\"')\]]*(?:[.!;]|\s*\n|\s*\Z|,?\s+(?:because|since|as|for|to\s+(?:the|this|your))\b))",
        "before",
        "an answer stands right before it",
    ),
)
"""In the order in which they are tried at one place of the text."""

_MARKER = re.compile(
    "|".join(f"(?P<m{n}>{marker.pattern})" for n, marker in enumerate(MARKERS)), re.IGNORECASE | re.VERBOSE
)
_HEADING = re.compile(
    r"""[*_]*+(?:(?:Step|Part|Case|Phase|Stage)\s+\w+|[0-9]{1,2}[.):]\s+[*_]*+[A-Za-z]
    |(?:(?:Final|Proposed)\s+)?(?:Solution|Check(?:ing)?|Verif\w+|Expla\w+|Reason(?:ing)?|Rationale|Conclusion
        |Summary|Given|Notes?|Understand\w*|Analy\w+|Calculate|Calculating|Calculations?|Approach|Method|Problem|Question)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
"""What stands behind "####" where it is a heading of a solution and not its answer."""
_LEAD = re.compile(
    r"""\b(?:(?:therefore|thus|so|hence|consequently|finally|then|and|now|in\ conclusion)\b[,\s]*){0,8}
    (?:that\s+)?(?:(?:the|our|my|your|its)\s+)?\Z""",
    re.IGNORECASE | re.VERBOSE,
)
"""What belongs to a marker before it. At most eight: "therefore, " for ever would cost quadratic time."""
_TO_BOX = re.compile(r"[\s$*]*+(?:\\[\[(]|\\begin\{\w{1,20}\*?\})?[\s$*]*+")
_CLOSE = re.compile("</answer>", re.IGNORECASE)
_FILLED = re.compile(r"\S")
_NOT = re.compile(r"not\b", re.IGNORECASE)
_OPENS_SUPPOSED = re.compile(r"\W*(?:if|whether)\b", re.IGNORECASE)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|unless|suppose|supposing|assume|assuming)\s+(?:that\s+)?$", re.IGNORECASE
)
_JUDGED = re.compile(
    r"""(?:(?:now|indeed|also|thus|therefore|hence)\s+)?(?:
    (?:in)?(?:correct|accurate|valid)\b|right\b|wrong\b|verified\b|consistent\b|reasonable\b|supposed\b
    |(?:obtained|found|reached|derived|given|calculated|computed|determined|shown|explained)\b|as\s+follows\b
    |to\b|by\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_JUDGED_WHOLE = re.compile(
    r"""(?:(?:in)?correct|accurate|verified|wrong)\W*$
    |(?:obtained|found|reached|derived|given|calculated|computed|determined)\s+(?:by|from|when|using)\b
    |as\s+follows\b""",
    re.IGNORECASE | re.VERBOSE,
)
_NONE_SAID = re.compile(
    r"""\b(?:unknown|undetermined|undefined|unclear|impossible|indeterminate|unanswerable|insufficient|unable
    |can\s*not|can['’]t|could\s*n[o'’]t|none|nothing|depends?|n/a
    |not\s+(?:known|given|possible|determine\w*|determinable|enough|stated|specified|provided|clear|sufficient|defined)
    |(?:does\s+not|doesn['’]t)\s+exist|no\s+(?:solution|answer|way|such))\b""",
    re.IGNORECASE | re.VERBOSE,
)
_CLAUSE = re.compile(r"[,;:]\s|\b(?:so|hence|thus|therefore|then|that|and|conclude|means)\s", re.IGNORECASE)
_EXPLAINS = re.compile(
    r"\W{0,20}(?:Explanation|Explained|Reason(?:ing|s)?|Rationale|Justification|Because|Why)\b",
    re.IGNORECASE,
)
_BECAUSE = re.compile(r"\b(?:because|since|as)\b", re.IGNORECASE)
_READ_AS = str.maketrans("\u2212\u2010\u2011\u2028\u2029\x85\r\xa0", "---\n\n\n\n ")


@dataclass(frozen=True, slots=True)
class Statement:
    """A marker begins at `start`; what is stated is `text`, from `begin`; the whole ends at `end`.

    `sure` False: it is a statement only if an answer can be read in it ("-->" means "becomes" too). `titles`:
    its marker is a title ("Answer:") at the beginning of the text, with more than an explanation after it.
    `closer`: it begins within a formula that argues before it; this closes what is left of that.
    """

    start: int
    begin: int
    text: str
    end: int
    sure: bool = True
    titles: bool = False
    closer: str = ""


def read_plainly(text: str) -> str:
    """Unusual minus signs, line ends and spaces as the usual ones, one for one: places stay.

    >>> read_plainly("\u22123\u2028")
    '-3\\n'
    """
    return text.translate(_READ_AS)


def sentences(text: str) -> list[str]:
    """The non-empty sentences and lines of a text, without their ends."""
    return [part.strip() for part in SENTENCE_END.split(text) if part.strip()]


def statements(
    text: str,
    *,
    whole_lines: bool,
    negatable: bool,
    names_options: bool,
    words: frozenset[str],
    denies: Callable[[str], bool] = lambda text: False,
) -> Iterator[Statement]:
    """The answer statements of a text (read plainly), the last one first; `MOST` markers at most.

    Args:
        text: a completion.
        whole_lines: they reach to the end of their line, not only of their sentence.
        negatable: "the answer is not ..." states something too.
        names_options: "A: ..." is an option, not a statement.
        words: first words of possible answers, in lower case; "the answer is right" is about the answer
            unless this can be one.
        denies: whether what is stated begins with an answer that itself begins with "not".
    """
    limit = len(text)
    for start, marker in itertools.islice(reversed(_markers(text)), MOST):
        kind = MARKERS[_number(marker)]
        if kind.name == "letter A" and names_options:
            continue
        if kind.reach == "before":
            found = _before(text, start, marker.end(), limit)
        else:
            found = _after(text, start, marker, kind.reach, limit, whole_lines)
        limit = found.start if found and kind.reach != "before" else start
        if found and not _skipped(text, found, kind, marker, whole_lines, negatable, words, denies):
            yield found


def _markers(text: str) -> list[tuple[int, re.Match[str]]]:
    """The markers and where they begin; "the answer is \\boxed{" is one that begins with "the"."""
    found: list[tuple[int, re.Match[str]]] = []
    for marker in _MARKER.finditer(text, max(0, len(text) - FAR)):
        start = marker.start()
        before = MARKERS[_number(found[-1][1])] if found else None
        if before and before.reach != "before" and _TO_BOX.fullmatch(text, found[-1][1].end(), start):
            start, _ = found.pop()
        found.append((start, marker))
    return found


def _number(marker: re.Match[str]) -> int:
    return int((marker.lastgroup or "m0")[1:])


def _after(
    text: str, start: int, marker: re.Match[str], reach: Reach, limit: int, whole_lines: bool
) -> Statement | None:
    """What follows a marker; None where nothing does."""
    opening = _FILLED.search(text, marker.end(), limit)
    if opening is None:
        return None
    begin = opening.start()
    end, whole = _end(text, reach, begin, limit, whole_lines)
    if not text[begin:end].strip("*_ "):
        return None
    lead = _LEAD.search(text, max(0, start - 120), start) if text[start].isalpha() else None
    first = lead.start() if lead else start
    formula = around(text, marker.start(), whole) if reach == "brace" else None
    closer = ""
    if formula and formula.end <= limit:
        whole = formula.end
        if start == marker.start():
            first, closer = (first, formula.closer) if formula.argues else (formula.start, "")
    title = reach == "line" or marker[0].rstrip()[-1:] in ":=*_"
    opens = first < 100 and not text[:first].strip(" \n*#_")
    titles = title and opens and bool(_FILLED.search(text, whole)) and not _EXPLAINS.match(text, whole)
    sure = MARKERS[_number(marker)].name != "arrow" or len(text[begin:end].split(maxsplit=4)) < 4
    return Statement(first, begin, text[begin : min(end, begin + LONGEST)], whole, sure, titles, closer)


def _end(text: str, reach: Reach, begin: int, limit: int, whole_lines: bool) -> tuple[int, int]:
    """Where what a marker states ends, and where the statement does; `limit` at the latest."""
    if reach == "brace":
        depth = 1
        for place in range(begin, min(limit, begin + LONGEST)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return place, place
        return limit, limit
    if reach == "tag":
        close = _CLOSE.search(text, begin, limit)
        return (close.start(), close.end()) if close else (limit, limit)
    begin = end_of_opened(text, begin, limit)
    if reach == "line" or whole_lines:
        newline = text.find("\n", begin, limit)
        return (limit, limit) if newline < 0 else (newline, newline)
    stop = SENTENCE_END.search(text, begin, limit)
    return (stop.end(), stop.end()) if stop else (limit, limit)


def _before(text: str, place: int, behind: int, limit: int) -> Statement | None:
    """What stands in the clause before "is the answer"."""
    sentence = unfinished(text, place)
    clause = sentence
    for cut in _CLAUSE.finditer(sentence):
        clause = sentence[cut.end() :]
    if not clause.strip():
        return None
    stop = SENTENCE_END.search(text, behind, limit)
    begin = place - len(clause)
    return Statement(place - len(sentence.lstrip()), begin, clause, stop.end() if stop else limit, sure=False)


def _skipped(
    text: str,
    found: Statement,
    kind: Marker,
    marker: re.Match[str],
    whole_lines: bool,
    negatable: bool,
    words: frozenset[str],
    denies: Callable[[str], bool],
) -> bool:
    """Is this no statement: about the answer, supposed, negated, or a marker where none belongs?"""
    if kind.name == "arrow":
        return bool(_FILLED.search(text, found.end))
    if kind.name == "hashes":
        return bool(_HEADING.match(text, found.begin) and _FILLED.search(text, found.end))
    if kind.name == "label":
        return not _opens_clause(text, found.start)
    if kind.name not in ("says", "denies", "reversed"):
        return False
    before = unfinished(text, marker.start() if kind.name == "reversed" else found.start)
    if _SUPPOSED.search(before) or (kind.name == "reversed" and _OPENS_SUPPOSED.match(before)):
        return True
    if kind.name == "reversed":
        return False
    if not negatable and _NOT.match(found.text) and not _NONE_SAID.match(found.text):
        return not denies(found.text)
    judged = (_JUDGED_WHOLE if whole_lines else _JUDGED).match(found.text)
    return bool(judged) and re.split(r"\W+", found.text, maxsplit=1)[0].casefold() not in words


def says_none(statement: str) -> bool:
    """Does a statement say that there is no answer ("unknown", "we cannot determine how many")?"""
    return _NONE_SAID.search(_BECAUSE.split(statement[:100], maxsplit=1)[0]) is not None


def sentences_after(text: str, statement: Statement) -> int:
    """How many sentences follow a statement, counted to four."""
    rest = text[statement.end : statement.end + LONGEST]
    return sum(1 for _ in itertools.islice(filter(str.strip, SENTENCE_END.split(rest, maxsplit=8)), 4))


def unfinished(text: str, place: int) -> str:
    """What comes before `place` in the sentence that goes on there (of a very long one, its tail)."""
    return SENTENCE_END.split(text[max(0, place - 300) : place])[-1]


def _opens_clause(text: str, place: int) -> bool:
    """Does a clause begin here? In "to find the answer: ..." none does."""
    before = unfinished(text, place).strip(" *#>-_")
    return not before or before[-1] in ",;:"


def marker_table() -> str:
    """`MARKERS` as the table of docs/data.md."""
    ends = {
        "sentence": "with the sentence",
        "line": "with the line",
        "brace": "with its brace",
        "tag": "with the closing tag",
        "before": "before the marker",
    }
    rows = [f"| `{one.example}` | {ends[one.reach]} | {one.note} |" for one in MARKERS]
    return "\n".join(["| marker | the answer ends | only |", "|---|---|---|", *rows])
