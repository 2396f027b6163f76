"""Documents into passages of so many words."""

from itertools import pairwise

from limbeck.knowledge.corpus import Document
from limbeck.knowledge.splitting import split


def pieces(text: str, words: int, overlap: int = 0) -> list[tuple[str, str]]:
    return [(one.id, one.text) for one in split(Document("d", "T", text, "f:1"), words, overlap)]


def test_a_short_document_is_one_passage_with_its_own_id() -> None:
    assert pieces("one  two\nthree", 3) == [("d", "one  two\nthree")]
    assert pieces("one two three", 0) == [("d", "one two three")]
    assert pieces("", 3) == [("d", "")]


def test_a_long_one_is_cut_and_white_space_inside_stays() -> None:
    assert pieces(" a b  c\nd e ", 2) == [("d#0", "a b"), ("d#1", "c\nd"), ("d#2", "e")]


def test_passages_overlap_and_none_says_only_what_the_one_before_said() -> None:
    assert pieces("a b c d e", 3, 1) == [("d#0", "a b c"), ("d#1", "c d e")]
    assert pieces("a b c d e f", 3, 1) == [("d#0", "a b c"), ("d#1", "c d e"), ("d#2", "e f")]
    assert pieces("a b c d", 3, 2) == [("d#0", "a b c"), ("d#1", "b c d")]


def test_every_word_is_in_a_passage_for_all_lengths() -> None:
    for length in range(1, 40):
        text = " ".join(map(str, range(length)))
        for size, overlap in ((1, 0), (5, 0), (5, 2), (5, 4), (7, 6)):
            found = [one.split() for _, one in pieces(text, size, overlap)]
            assert {word for one in found for word in one} == set(text.split())
            assert all(len(one) <= size for one in found)
            for first, second in pairwise(found):
                assert first[-overlap:] == second[:overlap] if overlap else first[-1] != second[0]
                assert set(second) - set(first)


def test_a_passage_keeps_title_and_document() -> None:
    one, *_ = split(Document("d", "T", "a b", "f:1"), 1, 0)
    assert (one.title, one.document) == ("T", "d")
