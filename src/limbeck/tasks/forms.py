"""What a question is compared by: its words without its layout, what stands around it and its options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from limbeck.tasks.options import LETTERS, Listing, labelled, listing
from limbeck.tasks.plain import plain_words, spaceless
from limbeck.tasks.surroundings import bare


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
    the text. `asks` is the key with its options, "" without any. What only may be options, because no
    letters stand before them, is left in all of these but `asks`: it decides where another lists the same.
    """

    text: str
    words: str
    key: str
    whole: str
    options: frozenset[str]
    apart: bool
    asks: str


def form(asked: Asks) -> Form:
    """What a question is compared by. What its text lists are its options only if none else are known."""
    text, options = asked.question, _keys(asked.options)
    stripped = bare(text)
    within, listed = _where_listed(text, stripped, options)
    guess = None if listed or options else _guessed(stripped)
    words = whole = plain_words(stripped)
    if listed is not None:
        words, options = plain_words(bare(_stem(within, listed))), _keys(listed.texts)
    if not words:  # a text of nothing but its options or signs
        words = whole = plain_words(text)
    key = spaceless(words)
    asks = _with_options(key, options)
    if guess is not None and (stem := plain_words(bare(_stem(stripped, guess)))):
        asks = _with_options(spaceless(stem), _keys(guess.texts))
    return Form(text, words, key, spaceless(whole), options, apart=listed is None, asks=asks)


def _where_listed(text: str, stripped: str, options: frozenset[str]) -> tuple[str, Listing | None]:
    """In which text the options are listed, and where; known ones also without letters, and only as they are.

    The whole text is tried too: its last option may read like "Explain your reasoning."
    """
    for within in dict.fromkeys((stripped, text)) if options else (stripped,):
        for listed in (_listed(within), _guessed(within) if options else None):
            if listed is not None and (not options or _keys(listed.texts) == options):
                return within, listed
    return stripped, None


def _with_options(key: str, options: frozenset[str]) -> str:
    return "\0".join((key, *sorted(options))) if options else ""


def _keys(options: Sequence[str]) -> frozenset[str]:
    """Options as a set, without their letters where every one carries its own, in whatever order."""
    texts = list(options)
    while texts and (labels := [found for one in texts if (found := _LABEL.match(one))]):
        letters = "".join(sorted(label[1].upper() for label in labels))
        if len(labels) < len(texts) or not LETTERS.startswith(letters):
            break
        texts = [label.string[label.end() :] for label in labels]
    return frozenset(spaceless(plain_words(text)) for text in texts)


def question_form(question: str) -> Form:
    """That of a text that is not a problem's, such as a demonstration's question."""
    return form(_Text(question))


class _Text(NamedTuple):
    question: str
    options: tuple[str, ...] = ()


_LABEL = re.compile(r"\s*[(\[]?([A-Za-z])[).:\]]\s*")

_ANY_LABEL = re.compile(r"(?<!\S)[(\[]?([A-Za-z])[).:\]]\s*")
"""Labels within a line, too: too bold a guess for grading, but here both sides must list the same."""

_MAY_LIST = re.compile(r"[Bb][).:\]]|^[^\S\n]*[-*•]", re.MULTILINE)


def _listed(text: str) -> Listing | None:
    if not _MAY_LIST.search(text):
        return None
    lists = [found for found in (listing(text), labelled(text, _ANY_LABEL)) if found is not None]
    return max(lists, key=lambda found: found.start, default=None)


_WORD = re.compile(r"\w|[^\x00-\x7f]")
_NAMED_LIST = re.compile(
    r"\b(?:options|choices|alternatives|answers)[^\S\n*_]?[*_]*:[*_]*(?P<list>[^\n]*)", re.IGNORECASE
)
_BETWEEN = (
    re.compile(r"\n"),
    re.compile(r"\|"),
    re.compile(r";"),
    re.compile(r",(?![0-9])(?:\s*or\b)?|,(?=\s)|\bor\b", re.IGNORECASE),
    re.compile(r"/"),
)
"""What stands between options without letters; the first that is there counts."""


def _guessed(text: str) -> Listing | None:
    """Options without letters, "Options: owl, bat", in a line or each in one; too bold a guess by itself."""
    if ":" not in text:
        return None
    lists = list(_NAMED_LIST.finditer(text))
    if not lists:
        return None
    start, end = lists[-1].span("list")
    if not text[start:end].strip():
        end = len(text)
    for between in _BETWEEN:
        texts = tuple(one.strip() for one in between.split(text[start:end]) if _WORD.search(one))
        if len(texts) > 1:
            return Listing(start, end, texts, lettered=False)
    return None


def _stem(text: str, listed: Listing) -> str:
    """A question without the options that it lists, and without the words that introduce them."""
    return f"{_LEAD.sub('', text[: listed.start])} {text[listed.end :]}"


_LEAD = re.compile(
    r"(?:\b(?:which|what)\s+(?:choice|option|answer)(?:\s+is\s+(?:true|correct|right|best))?\s*\?)?[\s*_#]*"
    r"(?:\b(?:(?:possible|answer|multiple)\s+)*(?:choices|options|alternatives|answers)\b[\s*_]*[:.]?)?[\s*_:]*$",
    re.IGNORECASE,
)
"""What introduces options: "Which choice is true? Answer choices:"."""
