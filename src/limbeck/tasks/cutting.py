"""What is cut of a prompt that is too long: passages, then demonstrations; never question or instruction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from limbeck.records import Pieces


def cut(pieces: Pieces, room: int, text_of: Callable[[Pieces], str], length: Callable[[str], int]) -> str:
    """A prompt's text within the room, or as short as it gets.

    Words go from the end of the last passage, then that passage, the one before it, …;
    when none is left, demonstrations go from the first.

    Args:
        pieces: what the prompt is made of.
        room: most tokens.
        text_of: makes the text.
        length: counts its tokens.
    """
    text = text_of(pieces)
    if length(text) <= room:
        return text
    bare = text_of(pieces.model_copy(update={"passages": ()}))
    if pieces.passages and length(bare) <= room:
        return _most_words(pieces, room, text_of, length)
    for first in range(1, len(pieces.examples) + 1):
        bare = text_of(pieces.model_copy(update={"passages": (), "examples": pieces.examples[first:]}))
        if length(bare) <= room:
            break
    return bare


def _most_words(
    pieces: Pieces, room: int, text_of: Callable[[Pieces], str], length: Callable[[str], int]
) -> str:
    """The text with as many words of its passages as fit; none of them fits, and not all."""

    def some(words: int) -> str:
        return text_of(pieces.model_copy(update={"passages": first_words(pieces.passages, words)}))

    fits, too_many = 0, sum(len(passage.split()) for passage in pieces.passages)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if length(some(middle)) <= room else (fits, middle)
    return some(fits)


def first_words(passages: Sequence[str], count: int) -> tuple[str, ...]:
    """The first so many words of passages, cut behind a word; passages without any are left out.

    >>> first_words(["one  two", "three four"], 3)
    ('one  two', 'three')
    """
    kept = []
    for passage in passages:
        words = passage.split()
        if count <= 0:
            break
        if len(words) <= count:
            kept.append(passage)
        else:
            end = 0
            for word in words[:count]:
                end = passage.index(word, end) + len(word)
            kept.append(passage[:end])
        count -= len(words)
    return tuple(kept)
