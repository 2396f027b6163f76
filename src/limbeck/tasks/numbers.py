"""Numbers in running text: what counts as one, its exact value, its canonical text.

Counted: 25, 25.0, .5, 1,234,567, 1 234 567 (also with thin spaces, and LaTeX's
1{,}234), -3 (also with U+2212, see `answers.py`, or an en dash), $12.50, 50% (as 50),
3/4, 2 1/2, 2½, 3 and 1/2, \\frac{3}{4}, \\frac34, 1e3 (as 1000), 2^3 and 2³ (as 8), 10^-3 (as
0.001), 10 million. Not counted: dates (04/21/2021), times (12:30), digits inside words (B12), exponents
of units (m^3) and, but for statements without digits, number words (three). Units may follow (60ft).
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction

from limbeck.tasks.number_words import words_as_digits
from limbeck.tasks.statements import LONGEST, SENTENCE_END, sentences

_NUMBER = re.compile(
    r"""(?<![A-Za-z0-9^])(?<![0-9]\.)(?<!\^[-{])(?P<sign>[-+–])?[$£€]?(?P<inner>[-–])?
    (?:(?:(?P<wholes>[0-9]+)\ ?)?\\[dtc]?frac\s?(?:\{\s?(?P<over>-?[0-9.,]+)\s?\}|(?P<digit_over>[0-9]))
         \s?(?:\{\s?(?P<under>[0-9.,]+)\s?\}|(?P<digit_under>[0-9]))
     |(?:(?P<whole>[0-9]+)\ (?:and\ )?)?(?P<top>[0-9]+)\ ?/\ ?(?P<bottom>[0-9]+)(?![0-9])
     |(?P<plain>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])
                 |[1-9][0-9]{0,2}(?:[ \u2009\u202f][0-9]{3})+(?![0-9])(?![ \u2009\u202f][0-9])
                 |[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)
      (?P<power>[eE][-+]?[0-9]{1,2}(?![0-9]))?
      (?:\^(?:\{(?P<braced>-?[0-9]{1,2})\}|(?P<raised>-?[0-9]{1,2})(?![0-9])))?
      (?P<scale>(?:[ ](?:hundred|[Tt]housand|[Mm]illion|[Bb]illion|[Tt]rillion)\b)*))""",
    re.VERBOSE,
)
_DATE = re.compile(
    r"(?<![0-9])(?:[0-9]{1,4}([/.-])[0-9]{1,2}\1[0-9]{1,4}|[0-9]{1,2}:(?!00)[0-5][0-9](?::[0-5][0-9])?)(?![0-9])"
)
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_GOES_ON = re.compile(
    r"""[)\s*]*(?:[A-Za-z]+\s+){0,3}(?:[A-Za-z]+\s*)?
    (?:[-–+*×÷/=]|\bx\b|\\times|\\div|\b(?:plus|minus|times|(?:divided|multiplied)\s+by)\b)
    \s*+(?:[($£€]++\s*+)?-?[$]?[0-9]""",
    re.VERBOSE,
)
_PART_OF = re.compile(r"(?:\s*\\?%|(?<=/[0-9])|(?<=/[0-9]{2}))\s+of\s+(?:the\s+)?[$£€]?[0-9]")
"""Right behind a share ("20% of 50", "1/2 of 10"): a calculation, if its result follows."""
_RESULT_IN_BRACKETS = re.compile(r"[\w%]\s+\((?=\s*=?\s*[-–]?[$£€]?[0-9][0-9.,]*+\)\W*\Z)")
"""Before the result of "5 + 2 (7)"."""
_SHARE_IS = re.compile(r"(?:=|\bequals\b|\bwhich\s+(?:is|equals|makes|gives|leaves)\b)\s*(?=[-–$£€]?[0-9])")
"""Right before what a share comes to; "which is more than 50" says no result."""
_EQUALS = re.compile(r"[)\s*]*(?:[A-Za-z]+\s+){0,3}=")
"""Right behind the first number: what follows says how it comes about ("20 apples = 5 * 4")."""
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
        parts = (
            match["top"] or match["over"] or match["digit_over"],
            match["bottom"] or match["under"] or match["digit_under"],
        )
        try:
            top, bottom = (Fraction(part.replace(",", "")) for part in parts)
        except ValueError:  # "1.2.3"
            return None
        if bottom == 0:
            return None
        size = int(match["whole"] or match["wholes"] or 0) + top / bottom
    return -size if {"-", "–"} & {match["sign"], match["inner"]} else size


def _plain_digits(text: str) -> str:
    """LaTeX's separators of thousands (1{,}234, 1\\,234), ½ and 2³ as in plain text: 1/2, 2^{3}."""
    text = text.replace("{,}", ",").replace(",\\!", ",").replace("\\,", " ")
    if text.isascii():
        return text
    text = _VULGAR.sub(lambda one: " " * (one[1] is not None) + unicodedata.normalize("NFKC", one[2]), text)
    text = _RAISED.sub(lambda one: f"^{{{one[0].translate(_RAISED_AS)}}}", text)
    return text.replace("\N{FRACTION SLASH}", "/")


_VULGAR = re.compile("((?<=[0-9]))?([¼-¾⅐-⅞↉])")
_RAISED = re.compile("(?<=[0-9])⁻?[⁰¹²³⁴-⁹]+")
_RAISED_AS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


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
    """The first number of a statement; of "5 - 3 = 2", "2 = 5 - 3", "5 - 3 (2)" and "40% of 5, which is 2"
    the result; of "5 - 3" alone, "5 or 7", "5, 7" and "5 minutes and 7 seconds" nothing.

    Where the statement is a clause that reasons on ("that with 60 feet of cloth, 15 shirts can be made"),
    what it supposes is left out, and what follows its own "is" counts. Without digits, number words do.

    >>> state_number("5 plus 7, which is 12.", ())
    '12'
    """
    statement = re.sub(r"^([\s*=:]*[-–])\s+(?=[0-9$])", r"\1", _plain_digits(statement))
    below = _BELOW_ZERO.match(statement)
    if below and not _RESULT.search(statement):
        size = state_number(statement[below.end() :], options)
        return size if size is None or size.startswith("-") or size == "0" else f"-{size}"
    statement = _after_supposition(statement)
    first = _first_number(statement)
    if first is None:
        statement = words_as_digits(statement)
        first = _first_number(statement)
    if first is None:
        return None
    _, end, value = first
    if _DATE.match(statement, re.match(r"[\s*]*", statement).end()):  # type: ignore[union-attr]
        return None
    other = _alternative(statement, first)
    if not other and _PART_OF.match(statement, end):
        *before, result = _SHARE_IS.split(statement[end:])
        return write_number((_first_number(result) or first)[2] if before else value)
    if not (other or _GOES_ON.match(statement, end)):
        return write_number(value)
    *before, result = _RESULT.split(statement[other or end :])
    stated = _first_number(result) if before else None
    if not before and not other:
        stated = _in_brackets(statement, end)
    if stated and not other and _GOES_ON.match(result, stated[1]) and _EQUALS.match(statement, end):
        stated = first
    return write_number(stated[2]) if stated else None


def _in_brackets(statement: str, place: int) -> Number | None:
    """The result that stands in brackets behind a calculation, and is none of its numbers: "5 + 2 (7)"."""
    bracket = _RESULT_IN_BRACKETS.search(statement, place)
    found = _first_number(statement[bracket.end() :]) if bracket else None
    taken = {value for _, _, value in numbers_in(statement[: bracket.end()])} if bracket else set()
    return found if found and found[2] not in taken else None


def states_no_number(statement: str) -> bool:
    """Does a statement name two numbers where one is asked for ("5 or 7", "5, 7", "between 5 and 7"), or
    a date or time of day?"""
    if state_number(statement, ()) is not None:
        return False
    statement = _after_supposition(_plain_digits(statement))
    if _DATE.match(statement.lstrip(" *")):
        return True
    statement = statement if _first_number(statement) else words_as_digits(statement)
    first = _first_number(statement)
    return first is not None and _alternative(statement, first) is not None


def is_open_calculation(statement: str) -> bool:
    """Does a statement end with a calculation without its result ("5 x 4")?"""
    if state_number(statement, ()) is not None:
        return False
    statement = _after_supposition(_plain_digits(statement))
    first = _first_number(statement)
    return first is not None and not _after_calculation(statement, first[1])


def _after_calculation(statement: str, place: int) -> bool:
    """Does a number follow the calculation whose first number ends at `place`?"""
    while operator := _GOES_ON.match(statement, place):
        operand = _NUMBER.search(statement, operator.end() - 1)
        place = operand.end() if operand else operator.end()
    return _first_number(statement[place:]) is not None


def _alternative(statement: str, first: Number) -> int | None:
    """Where the number ends that a statement names as well as its first one; None where it does not.

    Other units ("5 minutes or 300 seconds", but not "and"), another form ("1/2 or 0.5", "33.33 or 33",
    "60% or 0.6") and what rounds ("3.14 to 2 decimal places") are one answer.
    """
    start, end, value = first
    if _LISTED.match(statement, end):
        same = all(_same_quantity(value, one, "%" in statement) for _, _, one in numbers_in(statement[end:]))
        return None if same else len(statement)
    join = _JOIN.match(statement, end)
    match = _NUMBER.match(statement, join.end()) if join else None
    other = _number(match) if match else None
    if join is None or match is None or other is None:
        return None
    _, stop, second = other
    after = _UNIT.match(statement, stop)
    if _SAYS_HOW_EXACT.match(statement, stop) or _same_quantity(value, second, "%" in statement):
        return None
    own, its = _unit(statement[start:end], join["unit"]), _unit(match[0], after[0] if after else "")
    one_unit = not own or not its or own == its
    match (join["join"] or "-").casefold():
        case "or":
            undecided = one_unit
        case "to":
            undecided = not join["unit"].strip(" *") or own == its
        case "and":
            ends = not _FILLED.search(statement, after.end() if after else stop)
            undecided = (ends and second != 0) or (
                one_unit and _BETWEEN.search(statement, 0, start) is not None
            )
        case _:  # 5-7, but not 7-5 or 5-7 = -2
            undecided = second > value and one_unit and not _RESULT.search(statement, stop)
    return stop if undecided else None


def _unit(number: str, after: str) -> str:
    """The currency sign of a number, or the word behind it, in the singular; "" for none."""
    sign = re.search("[$£€]", number)
    return sign[0] if sign else after.strip(" *").casefold().partition(" ")[0].rstrip("s")


def _same_quantity(one: Fraction, other: Fraction, percent: bool) -> bool:
    """Is one the other, as a share or rounded?"""
    if one == other or (percent and (one == 100 * other or other == 100 * one)):
        return True
    fine, rough = sorted((one, other), key=lambda value: -value.denominator)
    places = len(write_number(rough).partition(".")[2])
    return fine.denominator > 1 and abs(fine - rough) * 2 * 10**places <= 1


_JOIN = re.compile(
    r"""(?P<unit>[\s*]*(?:%|[A-Za-z]+(?:[\s*]+[A-Za-z]+)?)?)[\s*]*(?:,\s*)?
    (?:\b(?P<join>or|and|to)\b[\s*(]*(?:(?:else|maybe|perhaps|possibly|even|to)\s+)?(?:[A-Za-z]\s*=\s*)?
    |(?P<dash>[-–])(?=[0-9$£€]))(?=[-–$£€.0-9\\])""",
    re.IGNORECASE | re.VERBOSE,
)
_LISTED = re.compile(r"(?:[\s*]*(?:,\s+|,?\s+(?:and|or)\s+)(?:[-–]?[$£€]?[0-9][0-9.,/]*+))+(?<=[0-9.])\W*\Z")
"""Numbers to the end of a statement: "5, 7", "5, 7 and 9"."""
_UNIT = re.compile(r"[\s*]*(?:%|[A-Za-z]+)?")
_BETWEEN = re.compile(r"\bbetween\W*\Z", re.IGNORECASE)
_FILLED = re.compile(r"[^\W_]")
_SAYS_HOW_EXACT = re.compile(
    r"\s*(?:st|nd|rd|th|decimals?|d\.?p|s\.?f|significant|places?|digits?)\b", re.IGNORECASE
)
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
    """The last number outside brackets; but where its sentence names the result of the last equation, that;
    nothing where it is one of two ("4 or 5 slices") or where the text gives up ("We cannot know.").

    A number behind "not" is not taken. What checks a result is left out, unless all numbers are there.

    >>> guess_number("3 * 5 = 15. So she has 15 apples in all 3 bags (5 in each bag).", ())
    '15'
    """
    last = next(reversed(sentences(text[-LONGEST:])), "")
    if _GIVES_UP.search(last) and not any(char.isdigit() for char in last):
        return None
    text = _DENIED.sub(lambda denied: " " * len(denied[0]), _plain_digits(text))
    return _guess(_without_checks(text)) or _guess(text)


_GIVES_UP = re.compile(
    r"""\b(?:no|not\ enough|not\ sufficient|insufficient)\ (?:answer|solution|information|data)\b
    |\b(?:we|I)\ (?:do\ not|don['’]t)\ know(?:\W*\Z|\ the\ (?:answer|result|total)\b)
    |\b(?:is|are)\ (?:not\ known|unknown)\W*\Z
    |\b(?:can\s?not|can['’]t|could\ not|couldn['’]t)\ be
        \ (?:determined|known|answered|solved|found|calculated)\b
    |\b(?:can\s?not|can['’]t)\ (?:know|say|tell|determine|answer|solve)\b
    |\bimpossible\ to\ (?:know|say|tell|determine|answer|find)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""What a last sentence without a number says where there is no answer."""
_DENIED = re.compile(
    r"(?:\bnot|n['’]t)\s{1,3}(?:equal\s{1,3}to\s{1,3})?[$£€]?[-+]?[0-9][0-9.,/]*+", re.IGNORECASE
)


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
    start, end, value = last
    if _ends_in_two(bare, start, end):
        return None
    parts = bare.split("=")[1:]
    result = next((found[2] for part in reversed(parts) if (found := _first_number(part))), None)
    if result not in (None, value) and any(
        number == result for _, _, number in numbers_in(_sentence_at(bare, start))
    ):
        value = result
    return write_number(value)


def _ends_in_two(text: str, start: int, end: int) -> bool:
    """Is the number at `start` the second one of "4 or 5 slices" or "between 4 and 5"?"""
    begin = max(0, start - 60)
    if not _JOINED.search(text, max(0, start - 20), start):
        return False
    before = numbers_in(text[begin:end])[-2:-1]
    tail = text[begin : end + 30]
    if not before or _alternative(tail, before[0]) is None:
        return False
    join = tail[before[0][1] : start - begin]
    return "," not in join and bool(_OR.search(join) or _BETWEEN.search(tail, 0, before[0][0]))


_OR = re.compile(r"\bor\b", re.IGNORECASE)
_JOINED = re.compile(
    r"\b(?:or|and)\b[^A-Za-z]*(?:else|maybe|perhaps|possibly|even)?[^A-Za-z]*\Z", re.IGNORECASE
)
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
    text = _plain_digits(gold.strip().rstrip("."))
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
