"""What can be an answer of the kinds choice and yes-no (each of the others has a file of its own).

Per kind: `state_*` finds the answer in a *statement* (the text after an explicit
marker, up to the end of its sentence), `guess_*` is the documented fallback for a
text without one, `canonical_*` checks a gold answer. The first two return None
where nothing is found, the last raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from limbeck.tasks.options import LETTERS
from limbeck.tasks.statements import sentences

_QUOTES = "\"'“”‘’`*"

Mention = tuple[int, str]
"""Where an option is named in a text, and its letter."""


# --- choice: a letter --------------------------------------------------------


def state_choice(statement: str, options: Sequence[str]) -> str | None:
    """The first of: a letter "(c)", "C.", "C", "c) blue ball", or an option's text, if only one is named.

    A bare letter is a capital within the options (within A-J where they are not
    known), or the whole statement. "A" and "I" before another word may be words:
    they count only if nothing else is found. What follows "not" does not
    count, "A or B" and "A, B, or D" are no answers, and the option "C++" is not the letter C.
    A label beyond the options is what was answered: it is wrong, not unread. A
    reason ("because the blue ball ...") is read only where nothing comes before it.
    """
    statement = _LATEX_TEXT.sub(r"\1", statement)
    reason = _REASON.search(statement)
    if reason and (before := state_choice(statement[: reason.start()], options)):
        return before
    label = _LABEL_FIRST.match(statement)
    if label and not _is_list(statement, _letters(statement, options)):
        letter = label[1] or label[2] or label[3]
        if known := _letter(letter, options):
            return known
        if not _named(statement, options):  # "x" may be an option's text
            return letter.upper() if options else None
    either = [letter for pair in _EITHER.findall(statement) for letter in pair if _letter(letter, options)]
    if len(set(either)) > 1:
        return None
    letters = _letters(statement, options)
    texts = _named(statement, options)
    if texts and (not letters or texts[0][0] < letters[0][0]):
        named = {letter for place, letter in texts if not letters or place < letters[0][0]}
        return named.pop() if len(named) == 1 else None
    if letters:
        return None if _is_list(statement, letters) else letters[0][1]
    maybe = re.match(r"[\s*:\"']*([AI])\b(?!['’])", statement)
    return _letter(maybe[1], options) if maybe else None


_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_REASON = re.compile(r"(?<=\w\W)(?:because|since)\b|(?<=\w[.,)]\s)(?:because|since)\b", re.IGNORECASE)
_LABEL_FIRST = re.compile(
    r"""[\s*:$"'“”‘’`]*+(?:
    (?:(?:option|choice|answer|letter)\s+)?[(\[]([A-Za-z])[)\]]
    |(?:(?:option|choice|letter)\s+)?([A-Za-z])[).:]?[\s*.:;$"'“”‘’`]*+$
    |([A-Za-z])\)(?=\s|$))""",
    re.IGNORECASE | re.VERBOSE,
)
"""A label that opens a statement: "(b)", "option b", "b) white ball", or the letter alone."""
_JOINS = re.compile(
    r"(?:[A-Za-z]\))?[)\s*]*(?:,|\bor\b|\band\b|/|&|,\s*(?:or|and)\b)[(\s*]*(?:(?:option|choice)\s+)?[(]?",
    re.IGNORECASE,
)


def _is_list(statement: str, letters: Sequence[Mention]) -> bool:
    """Do the letters from the first one on make a list ("A, B, or D", "(A) and (B)"), and not one answer?"""
    if not letters:
        return False
    joined = False
    place, first = letters[0]
    for other, letter in letters[1:]:
        between = statement[place + 1 : other]
        word = re.search(r"\b(?:or|and)\s+(?:(?:option|choice)\s+)?\W*$|[/&]\W*$", between)
        if word and letter != first:
            return True
        if not _JOINS.fullmatch(between):
            return False
        joined, place = joined or letter != first, other
    after = re.sub(r"^[A-Za-z]\)", "", statement[place + 1 :]).strip(" )*.\"'”’")
    return joined and not after


def _letter(letter: str, options: Sequence[str]) -> str | None:
    known = LETTERS[: len(options)] if options else LETTERS[:10]
    return letter.upper() if letter.upper() in known and letter else None


_EITHER = re.compile(r"(?<![\w'’])\(?([A-Z])\)?\s*(?:\bor\b|\band\b|/|&)\s*\(?([A-Z])\b(?!['’]?\w)")
_NEGATED = re.compile(
    r"\b(?:not|rather\s+than|instead\s+of)\s+(?:(?:an?|the|option|choice|answer)\s+|[(\"'“*])*$",
    re.IGNORECASE,
)
_AND_SO_IS = re.compile(
    r"(?:\b(?:or|nor|and)|,)\s+(?:(?:an?|the|option|choice)\s+|[(\"'“*])*$", re.IGNORECASE
)


def _meant(text: str, mentions: Sequence[Mention]) -> list[Mention]:
    """The mentions without a "not" before them ("not B", "not the red or the blue ball")."""
    meant: list[Mention] = []
    last, negated = 0, False
    for place, letter in mentions:
        before = text[max(last, place - 60) : place]
        negated = bool(_NEGATED.search(before)) or (negated and bool(_AND_SO_IS.search(before)))
        if not negated:
            meant.append((place, letter))
        last = place
    return meant


def _letters(text: str, options: Sequence[str]) -> list[Mention]:
    """(place, letter) of what can only be meant as a letter."""
    pattern = r"\(([A-Za-z])\)|\b(?:([B-HJ-Z])|([AI])(?!\s+\w))\b(?!['’.&/-]\w|[+#])"
    found = [(match.start(), match[1] or match[2] or match[3]) for match in re.finditer(pattern, text)]
    return _meant(text, [(place, letter.upper()) for place, letter in found if _letter(letter, options)])


def _named(text: str, options: Sequence[str]) -> list[Mention]:
    """(place, letter) of the options whose text occurs, in order; the longest where they overlap.

    An option that occurs twice in the list is never meant.
    """
    folded = [" ".join(option.casefold().split()) for option in options]
    by_text = {option: LETTERS[n] for n, option in enumerate(folded) if option and folded.count(option) == 1}
    if not by_text:
        return []
    text = text.casefold()
    found = _any_of(tuple(by_text)).finditer(text)
    return _meant(text, [(match.start(), by_text[" ".join(match[0].split())]) for match in found])


@lru_cache(maxsize=1_024)
def _any_of(options: tuple[str, ...]) -> re.Pattern[str]:
    """Any of these texts as whole words, the longest where they overlap."""
    longest_first = sorted(options, key=len, reverse=True)
    choices = "|".join(re.escape(option).replace(r"\ ", r"\s+") for option in longest_first)
    return re.compile(rf"(?<!\w)(?:{choices})(?!\w)")


_OPENING_LABEL = re.compile(
    r"[\s*_$`]*+\(?([A-Za-z])(?:\)|[.:](?=\s|\*|$)|[*_$`]*+[.!]?\s*(?=\n|$))[).:*_]*+[ \t]*+([^\n]*)"
)
_LAST_LINE = re.compile(r"\n[*_ \t(]*([A-Z])[*_ \t).]*\s*\Z")
_LISTED_LINE = re.compile(r"\n[\s*_-]*\(?[A-Z][).:]\s")
_SO = r"^\W*(?i:(?:so|thus|hence|therefore),?\s+)?"
_ONE = r"[*_\"'“(]{0,3}([A-Z])[*_\"'”)]{0,3}"
_ENDS = r"(?:\W*$|,?\s+(?i:as|because|since)\b)"
_LABEL = re.compile(
    rf"""\(([A-Z])\)
    |\b(?i:option|choice|answer)\s+[*_"'“]{{0,3}}([A-Z])\b
    |\bis\s+\**([A-Z])\W*$
    |{_SO}(?i:it|this|that)\s+must\s+be\s+{_ONE}{_ENDS}
    |{_SO}(?i:i|we)(?:['’]ll|\s+will)?\s+(?i:choose|pick|select|go\s+with)\s+{_ONE}{_ENDS}
    |^\W*(?i:so|thus|hence|therefore|it['’]s|that['’]s),?\s+{_ONE}\W*$
    |{_SO}{_ONE}\s+is\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|choice|option|one))?{_ENDS}""",
    re.VERBOSE,
)
"""The last four are whole sentences: elsewhere "B is best" may be said of a plan, or denied."""


def guess_choice(text: str, options: Sequence[str]) -> str | None:
    """The text as a label ("C. red ball"), its first line with an explanation after it, or its last line;
    else the option that the last sentence with any names, if it is one.

    An option is named by "(C)", "option C", "I choose C", "C is correct", a closing "is C", "So C" or its
    text. A sentence that names several decides nothing.
    """
    opening = _OPENING_LABEL.match(text)
    if opening and (letter := _letter(opening[1], options)) and _answers(opening, letter, options):
        return letter
    last = _LAST_LINE.search(text)
    if last and (letter := _letter(last[1], options)):
        return letter
    parts = sentences(text)
    listed = [bool(re.match(r"\W*\(?[A-Z][).]", part)) for part in parts]
    for place in range(len(parts) - 1, -1, -1):
        sentence = parts[place]
        labels = [(match.start(), "".join(match.groups(""))) for match in _LABEL.finditer(sentence)]
        labels = [(place, letter) for place, letter in labels if _letter(letter, options)]
        marked = {letter for _, letter in _meant(sentence, labels)}
        named = marked or {letter for _, letter in _named(sentence, options)}
        if named:
            in_a_list = listed[place] and place > 0 and listed[place - 1]
            return named.pop() if len(named) == 1 and not in_a_list else None
    return None


def _answers(opening: re.Match[str], letter: str, options: Sequence[str]) -> bool:
    """Is a label that opens a text its answer: with its option or nothing after it, and no list?"""
    rest, own = (
        " ".join(text.casefold().split()).strip(" *.")
        for text in (opening[2], options[LETTERS.index(letter)] if options else "")
    )
    if not opening.string[opening.end() :].strip():
        return True
    if _LISTED_LINE.search(opening.string, opening.end()):
        return False
    return not rest or (rest.startswith(own) if own else len(rest.split()) <= 8)


def canonical_choice(gold: str, options: Sequence[str]) -> str:
    """A gold choice as its letter: "C", "(c)", "C. red ball", or an option's text."""
    text = gold.strip()
    label = re.fullmatch(r"\(?([A-Za-z])(?:[).:]+(?:\s.*)?)?", text, re.DOTALL)
    folded = [" ".join(option.casefold().split()) for option in options]
    places = [n for n, option in enumerate(folded) if option == " ".join(text.casefold().split())]
    letters = {LETTERS[n] for n in places}
    if label and (not options or label[1].upper() in LETTERS[: len(options)]):
        letters.add(label[1].upper())
    if len(letters) > 1:
        raise ValueError("it can mean more than one option")
    if not letters:
        known = f"one of the {len(options)} options" if options else "a letter of an option"
        raise ValueError(f"it is not {known}")
    return letters.pop()


# --- yes-no ------------------------------------------------------------------

_VERDICTS = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_NEGATION = r"""(?:(?:\b(?:not|cannot|never|hardly|scarcely|no\s+longer)|n['’]t)\s+
    (?:(?:be|seem|look|sound|appear|necessarily|really|actually|always|entirely|quite|strictly
        |think|believe|that|it|this|is)\s+){0,5})"""
_ENDS_CLAUSE = r"(?=\W*$|[\s*\"'”’)]*(?:[,;:.!?(–—]|-(?!\w)))"
_GOES_ON = r"""(?=\W+(?:because|since|as|for|but|and|so|if|when|due|given|they|he|she|it|we|you|i
    |this|that|these|those|the|an?|there)\b)"""
_VERDICT = re.compile(
    rf"({_NEGATION})?\b(yes|true|false|no(?:{_ENDS_CLAUSE}|{_GOES_ON}))\b", re.IGNORECASE | re.VERBOSE
)
_OPENING_VERDICT = re.compile(rf"\W*(yes|no|true|false)\b{_ENDS_CLAUSE}", re.IGNORECASE)
_CLOSING_VERDICT = re.compile(
    rf"""\b(?:is|are|was|were)(?:\s+|(?=n['’]t)){_NEGATION}?(?:true|false)\b
    |{_NEGATION}?\b(?:yes|no|true|false)\b{_ENDS_CLAUSE}""",
    re.IGNORECASE | re.VERBOSE,
)


def _verdict(match: re.Match[str]) -> str:
    """yes or no; "not", "n't", "never" and "hardly" turn it round."""
    value = _VERDICTS[match[2].lower()]
    if match[1]:
        return "no" if value == "yes" else "yes"
    return value


def state_yes_no(statement: str, options: Sequence[str]) -> str | None:
    """The first of yes, no, true, false; "not true" is no, "not false" and "not no" are yes.

    A no before a noun ("no evidence", "no doubt", "no one") is not a verdict. Where both are named at once
    ("no or yes", "yes and no", "neither yes nor no"), there is none.
    """
    match = _VERDICT.search(statement)
    if match is None:
        return None
    both = _BOTH.search(statement)
    return None if both and both.start() <= match.start(2) else _verdict(match)


_OR = r"[\s*_\"'“”‘’(),.]{0,4}(?:/|\b(?:or|and|nor)\b)[\s*_\"'“”‘’()]{0,4}(?:also\s+)?"
_BOTH = re.compile(rf"\b(?:(?:yes|true)\b{_OR}(?:no|false)|(?:no|false)\b{_OR}(?:yes|true))\b", re.IGNORECASE)
"""Yes and no in one breath: undecided."""


def guess_yes_no(text: str, options: Sequence[str]) -> str | None:
    """The last verdict of the last sentence, else a "Yes," or "No," that opens the text.

    A verdict is a yes or no before a mark of punctuation ("there is no evidence" has
    none), or a true or false that ends a clause or follows "is", "are", "was".
    """
    last = [_BOTH.sub("", sentence) for sentence in sentences(text)[-1:]]
    found = [match[0] for sentence in last for match in _CLOSING_VERDICT.finditer(sentence)]
    opening = _OPENING_VERDICT.match(text)
    if opening and _BOTH.match(text, opening.start(1)):
        opening = None
    match = _VERDICT.search(found[-1] if found else opening[1] if opening else "")
    return _verdict(match) if match else None


def canonical_yes_no(gold: str, options: Sequence[str]) -> str:
    """A gold verdict: yes, no, true or false in any case."""
    word = gold.strip().rstrip(".").casefold()
    if word not in _VERDICTS:
        raise ValueError("it is neither yes/no nor true/false")
    return _VERDICTS[word]
