"""Numbers in running text: what counts as one, its exact value, its canonical text.

Counted: 25, 25.0, .5, 1,234,567, 1 234 567 (also with thin spaces, and LaTeX's
1{,}234), -3 (also with U+2212, see `answers.py`, or an en dash), $12.50, 50% (as 50),
3/4, 2 1/2, 3 and 1/2, \\frac{3}{4}, 1e3 (as 1000), 2^3 (as 8) and 10^-3 (as 0.001),
10 million. Not counted: dates (04/21/2021), digits inside words (B12), exponents of
units (m^3) and, but for statements without digits, number words (three). Units may follow (60ft).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from fractions import Fraction

from limbeck.tasks.number_words import number_in_words
from limbeck.tasks.statements import SENTENCE_END

_NUMBER = re.compile(
    r"""(?<![A-Za-z0-9^])(?<![0-9]\.)(?<!\^[-{])(?P<sign>[-+–])?[$£€]?(?P<inner>[-–])?
    (?:\\d?frac\{(?P<over>[0-9]+)\}\{(?P<under>[0-9]+)\}
     |(?:(?P<whole>[0-9]+)\ (?:and\ )?)?(?P<top>[0-9]+)\ ?/\ ?(?P<bottom>[0-9]+)(?![0-9])
     |(?P<plain>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])
                 |[1-9][0-9]{0,2}(?:[ \u2009\u202f][0-9]{3})+(?![0-9])(?![ \u2009\u202f][0-9])
                 |[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)
      (?P<power>[eE][-+]?[0-9]{1,2}(?![0-9]))?
      (?:\^(?:\{(?P<braced>-?[0-9]{1,2})\}|(?P<raised>-?[0-9]{1,2})(?![0-9])))?
      (?P<scale>(?:[ ](?:hundred|[Tt]housand|[Mm]illion|[Bb]illion|[Tt]rillion)\b)*))""",
    re.VERBOSE,
)
_DATE = re.compile(r"(?<![0-9])[0-9]{1,4}([/.-])[0-9]{1,2}\1[0-9]{1,4}(?![0-9])")
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_GOES_ON = re.compile(
    r"""[)\s*]*(?:[A-Za-z]+\s+){0,3}(?:[A-Za-z]+\s*)?
    (?:[-–+*×÷/=]|\bx\b|\\times|\\div|\b(?:plus|minus|times|(?:divided|multiplied)\s+by)\b)
    \s*+(?:[($£€]++\s*+)?-?[$]?[0-9]""",
    re.VERBOSE,
)
_RESULT = re.compile(r"=|\bequals\b|\bwhich\s+(?:is|equals|makes|gives|leaves)\b")
_LONGEST = 100
"""Longer runs of digits are babble, not answers (and slow to convert)."""


Number = tuple[int, int, Fraction]
"""(start, end, value) of a number in a text."""


def numbers_in(text: str) -> list[Number]:
    """All numbers of a text; a minus after a number is an operator, not a sign."""
    found = _candidates(text)
    return [number for match in found if (number := _number(match))]


def _last_number(text: str) -> Number | None:
    """The last of `numbers_in`, without computing the others: rationales may hold very many."""
    return next((number for match in reversed(_candidates(text)) if (number := _number(match))), None)


def _first_number(text: str) -> Number | None:
    return next(
        (number for match in _NUMBER.finditer(_without_dates(text)) if (number := _number(match))), None
    )


def _candidates(text: str) -> list[re.Match[str]]:
    """What may be a number, if it has a value."""
    return list(_NUMBER.finditer(_without_dates(text)))


def _without_dates(text: str) -> str:
    return _DATE.sub(lambda date: "_" * len(date[0]), text)


def _number(match: re.Match[str]) -> Number | None:
    value = _value(match)
    if value is None:
        return None
    if match["sign"]:
        before = match.string[max(0, match.start() - 9) : match.start()].rstrip()
        if before and (before[-1].isdigit() or before[-1] in ")%"):
            value = abs(value)
    return match.start(), match.end(), value


def _value(match: re.Match[str]) -> Fraction | None:
    """The exact value of a match; None for a zero denominator or a run of babble."""
    if len(match[0]) > _LONGEST:
        return None
    if match["plain"]:
        size = Fraction(re.sub(r"[,\s]", "", match["plain"]) + (match["power"] or ""))
        if raised := match["braced"] or match["raised"]:
            exponent = int(raised)
            if (size == 0 and exponent < 0) or len(match["plain"]) * abs(exponent) > _LONGEST:
                return None
            size = size**exponent
        for word in match["scale"].casefold().split():
            size *= _SCALES[word]
    else:
        bottom = int(match["bottom"] or match["under"])
        if bottom == 0:
            return None
        size = int(match["whole"] or 0) + Fraction(int(match["top"] or match["over"]), bottom)
    return -size if {"-", "–"} & {match["sign"], match["inner"]} else size


def _without_latex(text: str) -> str:
    """LaTeX's separators of thousands, 1{,}234 and 1\\,234, as ordinary ones."""
    return text.replace("{,}", ",").replace(",\\!", ",").replace("\\,", " ")


def write_number(value: Fraction) -> str:
    """The canonical text: a whole number or finite decimal, else a fraction in lowest terms.

    >>> [write_number(Fraction(text)) for text in ("25.0", "-3/4", "1/3")]
    ['25', '-0.75', '1/3']
    """
    places = 0
    while places <= _LONGEST and (value * 10**places).denominator != 1:
        places += 1
    if places > _LONGEST:
        return str(value)
    digits = f"{abs(value * 10**places).numerator:0{places + 1}d}"
    text = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return f"-{text}" if value < 0 else text


def state_number(statement: str, options: Sequence[str]) -> str | None:
    """The first number of a statement; of "5 - 3 = 2" the result, of "5 - 3" alone nothing.

    Where the statement is a clause that reasons on ("that with 60 feet of cloth, 15 shirts can be made"),
    what it supposes is left out, and what follows its own "is" counts. Without digits, number words do.

    >>> state_number("5 plus 7, which is 12.", ())
    '12'
    """
    statement = re.sub(r"^([\s*=:]*[-–])\s+(?=[0-9$])", r"\1", _without_latex(statement))
    below = _BELOW_ZERO.match(statement)
    if below and not _RESULT.search(statement):
        size = state_number(statement[below.end() :], options)
        return size if size is None or size.startswith("-") or size == "0" else f"-{size}"
    statement = _after_supposition(statement)
    first = _first_number(statement)
    if first is None:
        words = number_in_words(statement)
        return None if words is None else str(words)
    _, end, value = first
    if _GOES_ON.match(statement, end):
        *before, result = _RESULT.split(statement[end:])
        stated = _first_number(result) if before else None
        return write_number(stated[2]) if stated else None
    return write_number(value)


_BELOW_ZERO = re.compile(r"[\s*=:]*(?:negative|minus)\s+", re.IGNORECASE)
"""A sign in words, at the beginning of a statement; inside of one "minus" is an operator."""
_SUPPOSES = re.compile(
    r"""\W*(?:that\s+)?(?:(?:if|with|when|for|after|since|because|given|from|out\s+of|on|in|at|by)\b[^,\n]*,\s*)""",
    re.IGNORECASE | re.VERBOSE,
)
_OWN_IS = re.compile(
    r"\W*that\s+(?:[^\W\d]\S*\s+)(?:\S+\s+){0,25}?(?:is|are|was|were|equals)\s+(?=\D{0,20}\d)", re.IGNORECASE
)


def _after_supposition(statement: str) -> str:
    """A statement without the clause it opens with and its subject, where a number follows."""
    supposed = _SUPPOSES.match(statement)
    if supposed and re.search("[0-9]", statement[supposed.end() :]):
        statement = statement[supposed.end() :]
    own = _OWN_IS.match(statement)
    return statement[own.end() :] if own else statement


def guess_number(text: str, options: Sequence[str]) -> str | None:
    """The last number outside brackets; but where its sentence names the result of the last equation, that.

    What checks a result is left out, unless all numbers are there.

    >>> guess_number("3 * 5 = 15. So she has 15 apples in all 3 bags (5 in each bag).", ())
    '15'
    """
    text = _without_latex(text)
    return _guess(_without_checks(text)) or _guess(text)


_CHECK = re.compile(r"\b(?:check|verif(?:y|ied|ying|ication)|confirm)", re.IGNORECASE)
_CHECKS_ON = re.compile(
    r"""(?:(?<!need\ )(?<!have\ )(?<!has\ )(?<!want\ )\bto|\blet['’]?s|\blet\ us|\bcan|\bwe|\bnow)\s+
    (?:(?:also|now|quickly)\s+|double[-\s]?){0,3}(?:check|verify|confirm)
    |^\W*(?:(?:double|sanity)[-\s]?)?(?:check|verification|proof)\b""",
    re.IGNORECASE | re.VERBOSE,
)


def _without_checks(text: str) -> str:
    """The text up to where it sets out to check its result, without the sentences that speak of checking."""
    if not _CHECK.search(text):
        return text
    ends = [stop.end() for stop in SENTENCE_END.finditer(text)]
    pieces = [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    solved = itertools.takewhile(lambda piece: not _CHECKS_ON.search(piece), pieces)
    return "".join(piece for piece in solved if not _CHECK.search(piece))


def _guess(text: str) -> str | None:
    bare = _ASIDE.sub(lambda aside: " " * len(aside[0]), text)
    last = _last_number(bare)
    if last is None:  # all its numbers are in brackets, or it has none
        bare, last = text, _last_number(text)
    if last is None:
        return None
    start, _, value = last
    parts = bare.split("=")[1:]
    result = next((found[2] for part in reversed(parts) if (found := _first_number(part))), None)
    if result not in (None, value) and any(
        number == result for _, _, number in numbers_in(_sentence_at(bare, start))
    ):
        value = result
    return write_number(value)


_ASIDE = re.compile(r"\([^()]*+\)")


def _sentence_at(text: str, place: int) -> str:
    """The sentence (or line) that the number at `place` is in."""
    parts = re.finditer(r"(?:[^.!?\n]|[.!?](?!\s|$))+", text)
    return next(part[0] for part in parts if part.end() > place)


def canonical_number(gold: str, options: Sequence[str]) -> str:
    """A gold number: it must be the whole text, but for a currency or percent sign.

    Raises:
        ValueError: it is not.
    """
    text = _without_latex(gold.strip().rstrip("."))
    numbers = numbers_in(text)
    if len(numbers) != 1 or (text[: numbers[0][0]] + text[numbers[0][1] :]).strip(" %$£€"):
        raise ValueError("it is not a number")
    return write_number(numbers[0][2])


def same_number(one: str, other: str) -> bool:
    """Whole numbers are compared exactly, others within one millionth (relative) or 1e-9 (absolute)."""
    first, second = Fraction(one), Fraction(other)
    if first.denominator == second.denominator == 1:
        return first == second
    return math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-9)
