"""The words, numbers and signs of a text that carry meaning, whatever its layout.

So "1,000" and "1 000" are "1000" and "do n't" is "don't", but 1.5 is not 15, 5 - 3 is not
5 + 3, 5² is not 52, |x| is not x, €5 is not £5, C++ is not C, and numbers stay apart.
"""

from __future__ import annotations

import re
import unicodedata

_POINT = "\N{DECIMAL SEPARATOR KEY SYMBOL}"
_SPACED = re.compile(r"[0-9](?<![\w.,].)[0-9]*(?:[.,][0-9]+)*(?: [0-9]+(?:[.,][0-9]+)*)+")
"""Numbers with only a space between them; after NFKC a thin or no-break one is an ordinary space."""
_THOUSANDS = re.compile(r"([1-9][0-9]{0,2}(?: [0-9]{3})+)((?:\.[0-9]+|,[0-9]{1,2})?)")
_CURRENCY = "¢-¥֏؋฿₠-⃀"
"""All signs of a currency but the dollar's, which also stands around formulas."""
_MONEY = re.compile(rf"([0-9]+(?:[.,][0-9]+)*) ?([{_CURRENCY}])(?! ?[0-9])")
_GROUPS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_POINTS = re.compile(r"(?<=[0-9])[.,](?=[0-9])")
_LEADING = re.compile(r"(?<![\w.])\.(?=[0-9])")
_SIGN = re.compile(r"[-+*/^<>×÷%(!#|~¬∧∨⊕∩∪]|==|&&")
_BARS = re.compile(r"(?<![|\w])\|(?! )((?:[-+*/^0-9.,() ]|(?<![a-z])[a-z](?![a-z])){1,40}+)(?<! )\|(?![|\w])")
"""An absolute value of numbers and single letters; other bars are those of a table."""
_NOT = re.compile(r"(?<![\w})])~(?= ?(?:[a-z]\b|\())|(?<![^\s(&|])!(?=[a-z]\b|\()")
_PRIME = re.compile(r"(?<=\b[a-z])(['’′]+)(?=\()")
_OPERATORS = re.compile(
    rf"([0-9)\]}}∣]|\b[a-z])(\$? ?)([-+*/^<>×÷%]+)"
    rf"(?= ?[-+(\[]? ?(?:[${_CURRENCY}] ?)?(?:[0-9(\[∣]|[a-z]\b))"
)
_MINUS = re.compile(r"(?<![\w)\]∣])-(?=[0-9(∣])")
_EXPRESSION = re.compile(r"\b(?:true|false)\b|[¬∧∨⊕∩∪]")
_COMPARES = re.compile(r"(?:[<>]\s?=|[!=]=|&&|\|\|)(?=\s*[^\s=])")
"""Between any two words; a single sign calculates between digits, brackets and letters by themselves."""
_LESS = re.compile(r"[<>](?<=\w\s[<>])(?=\s\w)")
_AFTER = re.compile(
    r"""%(?:(?<=[0-9]%)|(?<=[0-9][\s\\]%))
    |!(?:(?<=[0-9]!)|(?<=[0-9][\s)]!)|(?<=\b[a-z]!)|(?<=\b[a-z]\s!))
    |\+\+?(?!\w)(?:(?<=\w\+)|(?<=\w\+\+))|\#(?!\w)(?<=\b[a-z]\#)|-(?=[\s,.;:!?)]|\Z)(?<=\w[ ][a-z]-)""",
    re.VERBOSE,
)
"""A sign behind what it belongs to: 5%, 3!, C++, Na+, C#, "an A-"."""
_NAMES = {"+": "plus", "-": "minus", "*": "times", "×": "times", "/": "over", "÷": "over", "=": "equal"}
_NAMES |= {
    "^": "power",
    "<": "less",
    ">": "greater",
    "%": "mod",
    "!": "not",
    "&": "and",
    "|": "or",
    "#": "sharp",
}
_NAMED_AFTER = _NAMES | {"%": "percent", "!": "factorial"}
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–−", "-") | dict.fromkeys("∗⋅∙", "*") | dict.fromkeys("⁄∕", "/"))
_DASHES |= str.maketrans({"≤": "<=", "≥": ">=", "≠": "!=", "→": "->", "←": "<-", "⇒": "=>"})
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻]+")
_VULGAR = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞↉])")


_BRACKETS = re.compile(r"[()\[\]{}<>](?: ?[()\[\]{}<>]){2,}+")
"""A run of brackets, as in a question about closing them."""
_BRACKET_NAMES = {bracket: f" bracket{number} " for number, bracket in enumerate("()[]{}<>")}


def plain_words(text: str) -> str:
    """Words and numbers in lower case, one space between them; of signs only those that carry meaning."""
    if not text.isascii():
        text = _VULGAR.sub(" ", _RAISED.sub(r"^\g<0>", text))
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_DASHES).split())
    text = _SPACED.sub(_joined, text)
    text = _BRACKETS.sub(lambda run: "".join(_BRACKET_NAMES.get(one, "") for one in run[0]), text)
    if not text.isascii():
        text = _MONEY.sub(r"\2\1", text)
    text = _POINTS.sub(_POINT, _LEADING.sub("0.", _GROUPS.sub("", text)))
    if _SIGN.search(text):
        text = _calculation(text)
    text = text.translate(_KEPT)
    return " ".join((_EDGE.sub(" ", text) if _MIXED.search(text) else text).split())


def _calculation(text: str) -> str:
    """A text with the signs that calculate as words; then its brackets count, too."""
    if "|" in text:
        text = _BARS.sub(r"∣\1∣", text)
    if "~" in text or "!" in text:
        text = _NOT.sub("¬", text)
    if "(" in text:
        text = _PRIME.sub(lambda found: " prime" * len(found[1]), text)
    written = _OPERATORS.sub(_operator, text)
    if written != text or _EXPRESSION.search(text):
        written = written.replace("(", " open ").replace(")", " close ")
    written = _COMPARES.sub(_comparison, _MINUS.sub(" negative ", written))
    written = _LESS.sub(lambda sign: f" {_NAMES[sign[0]]} ", written)
    return _AFTER.sub(lambda sign: " ".join(("", *map(_NAMED_AFTER.__getitem__, sign[0]), "")), written)


def _operator(found: re.Match[str]) -> str:
    others = ("negative" if sign == "-" else _NAMES[sign] for sign in found[3][1:])
    return " ".join((found[1], _NAMES[found[3][0]], *others, ""))


def _joined(found: re.Match[str]) -> str:
    """Thousands without their spaces, where no other number is next to them: "5 000", not "1 200 3"."""
    number = _THOUSANDS.fullmatch(found[0])
    return number[1].replace(" ", "") + number[2] if number else found[0]


def _comparison(found: re.Match[str]) -> str:
    """A sign of two characters in words, where something stands before it; "3!=6" is about 3!."""
    before = found.string[max(0, found.start() - 4) : found.start()]
    if not re.search(r"[\w)\]]\s*$", before) or (found[0] == "!=" and before[-1].isdigit()):
        return found[0]
    return " ".join(("", *(_NAMES[sign] for sign in found[0] if not sign.isspace()), ""))


_MIXED = re.compile(rf"[0-9][^\s0-9{_POINT}]|[^\s0-9{_POINT}][0-9]")
_EDGE = re.compile(rf"(?<=[0-9])(?=[^\s0-9{_POINT}])|(?<=[^\s0-9{_POINT}])(?=[0-9])")
"""Where a number meets letters: "5kg" is "5 kg"."""


class _Kept(dict[int, int | None]):
    """What becomes of a character: letters, marks, digits, pictures and signs such as √ stay.

    Each is looked up once.
    """

    def __missing__(self, code: int) -> int | None:
        kind = unicodedata.category(chr(code))
        sign = kind == "So" or (kind in ("Sm", "Sc") and code > 127 and chr(code) not in "×÷")
        self[code] = code if sign or kind[0] in "LMN" else None if kind == "Cf" else 32
        return self[code]


_KEPT = _Kept()
_SPACES = re.compile(r"(?<![0-9]) | (?![0-9])")


def plain_key(text: str) -> str:
    """A text by itself as what it is compared by."""
    return spaceless(plain_words(text))


def spaceless(words: str) -> str:
    """The words without spaces, except between two numbers."""
    return _SPACES.sub("", words)
