"""Whether what is trained on is also examined: the same question in another layout, or nearly the same one.

Two questions are the same when what is left of them is (`forms.py`): letters, digits and
signs that carry meaning, without case and spaces (`plain.py`), without what stands around
a question, such as "Q:" and "Let's think step by step." (`surroundings.py`), and without
the options they list. Near-duplicates have the same numbers in the same order and share
93 % of their words, in order; they may be other questions, so one only warns of them.

To find a leak is to look it up. Near-duplicates are looked for among questions with the
same numbers that share two of their rarest words, as all that share 93 % of them must
(the prefix filter of set similarity joins: Chaudhuri, Ganti, Kaushik, ICDE 2006).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal, NamedTuple

from limbeck.tasks.forms import Form

NEAR = 0.93
"""Share of the longer question's words that a near-duplicate has in common with it, in order."""

TEMPLATE = 5
"""A text that so many different lists of options follow asks nothing without them."""

How = Literal["word for word", "in another layout", "with other options"]


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
        for key in _lookups(form):
            places[key].append(place)
    templates = _templates([*(form for form in learned if form.key in places), *examined])
    leaks = []
    for number, form in enumerate(learned):
        near = {place for key in _lookups(form) for place in places.get(key, ())}
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
        own = _own(form, templates)
        for key in _lookups(form):
            if key not in templates:
                name_of[name(key)] = name(own)
    return [name(_own(form, templates)) for form in forms]


def _own(form: Form, templates: set[str]) -> str:
    """The key of a question; with its options, where they decide."""
    return form.asks or form.key if form.key in templates else form.key


def _lookups(form: Form) -> set[str]:
    """What it has in common with other forms of the same question."""
    return {form.key, form.whole, form.asks} - {""}


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
    """For each question trained on that does not leak, the examined one closest to it, if `NEAR`."""
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
