"""Whether what is trained on is also examined: the same question in another layout, or nearly the same one.

Two questions are the same when what is left of them is: letters and digits, without
case and spaces, without a prefix such as "Q:" and without the options they list. So
"1,000" is "1000" and "do n't" is "don't", but 1.5 is not 15, 5 - 3 is not 5 + 3, 5² is
not 52, C++ is not C, and numbers stay apart. Near-duplicates have the same numbers in
the same order and share 93 % of their words, in order; they may be other questions, so
one only warns of them.

To find a leak is to look it up. Near-duplicates are looked for among questions with the
same numbers that share two of their rarest words, as all that share 93 % of them must
(the prefix filter of set similarity joins: Chaudhuri, Ganti, Kaushik, ICDE 2006).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal, NamedTuple, Protocol

from limbeck.tasks.options import Listing, labelled, listing

NEAR = 0.93
"""Share of the longer question's words that a near-duplicate has in common with it, in order."""

TEMPLATE = 5
"""A text that so many different lists of options follow asks nothing without them."""

How = Literal["word for word", "in another layout", "with other options"]


class Asks(Protocol):
    """A question and the options that stand apart from it; a `Problem` is one."""

    @property
    def question(self) -> str: ...

    @property
    def options(self) -> tuple[str, ...]: ...


class Form(NamedTuple):
    """What a question is compared by.

    `words` are its words and numbers, without the options that it lists; `key` is the same without
    spaces, `whole` that of all its text. `options` are a set of such keys; `apart`: they are not in
    the text.
    """

    text: str
    words: str
    key: str
    whole: str
    options: frozenset[str]
    apart: bool


class Leak(NamedTuple):
    """The `learned`-th question that is trained on is the `examined`-th one of the exam."""

    learned: int
    examined: int
    how: How


class Near(NamedTuple):
    """The `learned`-th question that is trained on shares so much with the `examined`-th one of the exam."""

    learned: int
    examined: int
    share: float


# --- the same question -------------------------------------------------------


def find_leaks(learned: Sequence[Form], examined: Sequence[Form]) -> list[Leak]:
    """Questions that are trained on and examined: one leak for each of them, in their order.

    Options decide only where both texts list their own, or where `TEMPLATE` different
    lists follow the same text.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, form in enumerate(examined):
        for key in {form.key, form.whole}:
            places[key].append(place)
    templates = _templates([*(form for form in learned if form.key in places), *examined])
    leaks = []
    for number, form in enumerate(learned):
        near = {place for key in (form.key, form.whole) for place in places.get(key, ())}
        found = [(how, place) for place in near if (how := _same(form, examined[place]))]
        found = [one for one in found if one[0] != "with other options" or form.key not in templates]
        if found:
            how, place = min(found, key=lambda one: (_ORDER.index(one[0]), one[1]))
            leaks.append(Leak(number, place, how))
    return leaks


def groups(forms: Sequence[Form]) -> list[str]:
    """A name for each question that all forms of the same question share: what a cut keeps together."""
    templates, name_of = _templates(forms), dict[str, str]()

    def name(key: str) -> str:
        while (other := name_of.setdefault(key, key)) != key:
            name_of[key] = name_of[other]  # a shorter chain the next time
            key = other
        return key

    for form in forms:
        if form.key not in templates:
            name_of[name(form.whole)] = name(form.key)
    return [
        name(form.key) if form.key not in templates else "\0".join((form.key, *sorted(form.options)))
        for form in forms
    ]


_ORDER: tuple[How, ...] = ("word for word", "in another layout", "with other options")


def _same(one: Form, other: Form) -> How | None:
    """How two questions with a key in common are the same one."""
    differ = one.options and other.options and one.options != other.options
    if differ and one.apart and other.apart:
        return "with other options"
    if differ and one.whole != other.whole:
        return None
    same = one.text.casefold().split() == other.text.casefold().split()
    return "word for word" if same else "in another layout"


def _templates(forms: Sequence[Form]) -> set[str]:
    """Texts that many different lists of options follow."""
    lists: dict[str, set[frozenset[str]]] = defaultdict(set)
    for form in forms:
        if form.options:
            lists[form.key].add(form.options)
    return {key for key, different in lists.items() if len(different) >= TEMPLATE}


# --- nearly the same question ------------------------------------------------

Word = tuple[str, int]
"""A word, and which occurrence of it in its question."""


def near_duplicates(learned: Sequence[Form], examined: Sequence[Form], leaks: Sequence[Leak]) -> list[Near]:
    """For each question trained on that is no leak, the examined one that shares most with it, if `NEAR`."""
    words = [form.words.split() for form in examined]
    common = Counter(chain.from_iterable(_counted(one) for one in words))
    blocks: dict[tuple[str, ...], dict[Word, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, one in enumerate(words):
        if _may_lose(one):
            postings = blocks[_numbers(one)]
            for word in _rarest(one, common):
                postings[word].append(place)
    leaking = {leak.learned for leak in leaks}
    near = []
    for number, form in enumerate(learned):
        own = form.words.split()
        block = None if number in leaking or not _may_lose(own) else blocks.get(_numbers(own))
        if block is None:
            continue
        hits = Counter(chain.from_iterable(block.get(word, ()) for word in _rarest(own, common)))
        shares = [(_share(own, words[place]), -place) for place, shared in hits.items() if shared >= _SHARED]
        if shares and (best := max(shares))[0] >= NEAR:
            near.append(Near(number, -best[1], best[0]))
    return near


_SHARED = 2
"""So many of the rarest words must be shared before two questions are compared; more finds less by chance."""


def _may_lose(words: Sequence[str]) -> int:
    """How many words a question may lack of a near-duplicate; short ones none, and then there is no other."""
    return int(len(words) * (1 - NEAR) + 1e-9)


def _rarest(words: Sequence[str], common: Mapping[Word, int]) -> list[Word]:
    """Of its rarest words as many as a near-duplicate may lack, and `_SHARED` more."""
    ranked = sorted(_counted(words), key=lambda word: (common.get(word, 0), word))
    return ranked[: _may_lose(words) + _SHARED]


def _counted(words: Sequence[str]) -> list[Word]:
    seen: Counter[str] = Counter()
    counted = []
    for word in words:
        counted.append((word, seen[word]))
        seen[word] += 1
    return counted


def _numbers(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word[0].isdigit())


def _share(one: Sequence[str], other: Sequence[str]) -> float:
    """Words in common, in order, as a share of the longer one's."""
    longer = max(len(one), len(other))
    if min(len(one), len(other)) < NEAR * longer:
        return 0.0
    return _common(one, other) / longer


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence, all places of `one` in one integer (Hyyrö 2004)."""
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(one):
        places[word] |= 1 << place
    every = (1 << len(one)) - 1
    free = every
    for word in other:
        if hits := free & places.get(word, 0):
            free = ((free + hits) | (free - hits)) & every
    return len(one) - free.bit_count()


# --- what a question is compared by ------------------------------------------


def form(asked: Asks) -> Form:
    """What a question is compared by. What its text lists are its options only if none else are known."""
    text, listed = asked.question, _listed(asked.question)
    options = _keys(asked.options)
    if listed is not None and options and _keys(listed.texts) != options:
        listed = None
    words = whole = _words(_bare(text))
    if listed is not None:
        words, options = _words(_bare(_stem(text, listed))), _keys(listed.texts)
    if not words:  # a text of nothing but its options or its prefix
        words = whole = _words(text)
    return Form(text, words, _key(words), _key(whole), options, apart=listed is None)


def _keys(options: Sequence[str]) -> frozenset[str]:
    return frozenset(_key(_words(_LABEL.sub("", option))) for option in options)


def question_form(question: str) -> Form:
    """That of a text that is no problem's, such as a demonstration's question."""
    return form(_Text(question))


class _Text(NamedTuple):
    question: str
    options: tuple[str, ...] = ()


_LABEL = re.compile(r"^\s*[(\[]?[A-Za-z][).:\]]\s*")

_ANY_LABEL = re.compile(r"(?<!\S)[(\[]?([A-Za-z])[).:\]]\s*")
"""Labels within a line, too: too bold a guess for grading, but here both sides must list the same."""

_MAY_LIST = re.compile(r"[Bb][).:\]]|^[^\S\n]*[-*•]", re.MULTILINE)


def _listed(text: str) -> Listing | None:
    if not _MAY_LIST.search(text):
        return None
    return listing(text) or labelled(text, _ANY_LABEL)


def _stem(text: str, listed: Listing) -> str:
    """A question without the options that it lists, and without the words that introduce them."""
    return f"{_LEAD.sub('', text[: listed.start])} {text[listed.end :]}"


_LEAD = re.compile(
    r"(?:\b(?:which|what)\s+(?:choice|option|answer)(?:\s+is\s+(?:true|correct|right|best))?\s*\?)?[\s*_#]*"
    r"(?:\b(?:(?:possible|answer|multiple)\s+)*(?:choices|options|alternatives|answers)\b[\s*_]*[:.]?)?[\s*_:]*$",
    re.IGNORECASE,
)
"""What introduces options: "Which choice is true? Answer choices:"."""


def _bare(stem: str) -> str:
    """A question without what stands before and behind it."""
    before, cue = _PREFIX.match(stem), _CUE.search(stem, max(0, len(stem) - 40))
    return stem[before.end() if before else 0 : cue.start() if cue else len(stem)]


_PREFIX = re.compile(
    r"(?:[\s*_#>]*(?:(?:q|question|query|problem|exercise|task|example|instruction|input|human|user)"
    r"[\s*_]*(?:\(?\#?[0-9]{1,6}\)?)?[\s*_]*(?:[:.)\]]|\n)|\(?[0-9]{1,6}[.)](?=\s+[^\W\d]))[\s*_]*)+",
    re.IGNORECASE,
)
"""What stands before a question: "Q:", "Question 12.", "### Question", "**Problem:**", "12)"."""

_CUE = re.compile(r"[\s*_#]*\b(?:a|answer|response|assistant)[\s*_]*:[\s*_]*$", re.IGNORECASE)
"""What stands behind it: "A:"."""


_POINT = "\N{DECIMAL SEPARATOR KEY SYMBOL}"
_GROUPS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_POINTS = re.compile(r"(?<=[0-9])[.,](?=[0-9])")
_LEADING = re.compile(r"(?<![\w.])\.(?=[0-9])")
_SIGN = re.compile(r"[-+*/^<>×÷%(!#]|==|&&|\|\|")
_OPERATORS = re.compile(r"([0-9)\]}]|\b[a-z])(\s*)([-+*/^<>×÷%]+)(?=\s*[-+(\[]?\s*(?:[0-9(\[]|[a-z]\b))")
_MINUS = re.compile(r"(?<![\w)\]])-(?=[0-9(])")
_EXPRESSION = re.compile(r"\b(?:true|false)\b")
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


def _words(text: str) -> str:
    """Words and numbers in lower case, one space between them; of signs only those that carry meaning."""
    if not text.isascii():
        text = _VULGAR.sub(" ", _RAISED.sub(r"^\g<0>", text))
    text = unicodedata.normalize("NFKC", text).casefold().translate(_DASHES)
    text = _POINTS.sub(_POINT, _LEADING.sub("0.", _GROUPS.sub("", text)))
    if _SIGN.search(text):
        text = _calculation(text)
    text = text.translate(_KEPT)
    return " ".join((_EDGE.sub(" ", text) if _MIXED.search(text) else text).split())


def _calculation(text: str) -> str:
    """A text with the signs that calculate as words; then its brackets count, too."""
    written = _OPERATORS.sub(_operator, text)
    if written != text or _EXPRESSION.search(text):
        written = written.replace("(", " open ").replace(")", " close ")
    written = _COMPARES.sub(_comparison, _MINUS.sub(" minus ", written))
    written = _LESS.sub(lambda sign: f" {_NAMES[sign[0]]} ", written)
    return _AFTER.sub(lambda sign: " ".join(("", *map(_NAMED_AFTER.__getitem__, sign[0]), "")), written)


def _operator(found: re.Match[str]) -> str:
    return " ".join((found[1], *(_NAMES[sign] for sign in found[3]), ""))


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
        sign = kind == "So" or (kind == "Sm" and code > 127 and chr(code) not in "×÷")
        self[code] = code if sign or kind[0] in "LMN" else None if kind == "Cf" else 32
        return self[code]


_KEPT = _Kept()
_SPACES = re.compile(r"(?<![0-9]) | (?![0-9])")


def plain_key(text: str) -> str:
    """A text by itself as what it is compared by."""
    return _key(_words(text))


def _key(words: str) -> str:
    """The words without spaces, except between two numbers."""
    return _SPACES.sub("", words)
