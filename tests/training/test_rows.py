"""Rows in a file: what comes back, and what they cost in memory."""

import pickle
import tracemalloc

import pytest

from limbeck.errors import DiskError
from limbeck.records import Example
from limbeck.soft_labels.cache import missing
from limbeck.training.collate import tokenise
from limbeck.training.feed import train_feed
from limbeck.training.groups import Draw, Group
from limbeck.training.rows import Row, RowGroup, as_rows, outline, stored
from limbeck.training.sampler import Sharing
from limbeck.training.settings import TrainSettings

GROUPS = [
    RowGroup("käse", [Row("a", [5, 6, 7], [-100, 6, 7], role="negative", span=(1, 3), scored=False)], "q"),
    RowGroup("", [Row("b", [8], [9, 1]), Row("\ud800", [5, 6], [5, 6], [0.1, 2.0], prompt=1)]),
    RowGroup("c", [Row("d", [5, -100, 7], [-100, -100, 7]), Row("", [1, 2], [-100, -100])], "q"),
]


def test_rows_come_back_as_they_were_given():
    found = stored(GROUPS)
    assert [(g.key, list(g.rows), g.question, g.roles) for g in found] == [
        (g.key, g.rows, g.question, g.roles) for g in GROUPS
    ]
    rows = [row for group in GROUPS for row in group.rows]
    assert list(found.rows) == rows and found.rows[-1] == rows[-1] and found.rows[1:3] == rows[1:3]
    assert [tuple(key) for key in found.rows.keys.tolist()] == [row.key for row in rows]
    some = found.rows.some(found.rows.scored.nonzero()[0])
    assert list(some) == rows[1:] and list(as_rows(rows[:2])) == rows[:2]
    known = outline(found)
    assert known.questions[0] == known.questions[2] != known.questions[1] == 0


def test_rows_are_read_without_pread_too(monkeypatch):
    """As on Windows; in any order, and with two files side by side."""
    monkeypatch.delattr("os.pread")
    one, other = stored(GROUPS), stored(GROUPS[::-1])
    rows = [row for group in GROUPS for row in group.rows]
    for place in (4, 0, 2, 1, 3, 3):
        assert one.rows[place] == rows[place]
        assert list(other[0].rows) == GROUPS[2].rows


def test_no_file_is_left_in_the_folder(tmp_path):
    found = stored(GROUPS, tmp_path)
    assert list(tmp_path.iterdir()) == [] and found[1].rows[1].problem_id == "\ud800"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="file: "):
        stored(GROUPS, tmp_path / "file")


def groups_of(count):
    """Made one by one, so that nothing of them is held but what the rows hold."""
    words = " ".join(f"w{n % 38}" for n in range(80))
    for number in range(count):
        completion = f"w{number % 38} w{number // 38 % 38} w{number // 1444} {words[: 40 + number % 150]}"
        yield Group(str(number), (Example(problem_id=str(number), prompt=words, completion=completion),))


@pytest.mark.parametrize(("batches", "draw"), [("by-length", Draw()), ("random", Draw({"": 1}))])
def test_a_row_costs_few_bytes_through_a_whole_epoch(tokenizer, batches, draw):
    """A million examples must fit next to a model: ids, texts and tuples of each would be kilobytes."""
    settings = TrainSettings(batches=batches, max_length=1024)
    options = {"draw": draw, "seed": 1, "pad": 0, "encoder_decoder": False, "corrected": True}
    taken = []
    for count in (2_000, 6_000):
        tracemalloc.start()
        try:
            found = tokenise(tokenizer, groups_of(count), encoder_decoder=False, max_length=1024)
            feed = train_feed(found.groups, settings, Sharing(), **options)
            order = iter(feed.sampler)
            feed[next(order)]
            lacking = missing([], found.rows)
            taken.append(tracemalloc.get_traced_memory()[0])
            assert sum(len(groups) for _, groups in order) > count - 10
            assert 0 < len(lacking) <= count
        finally:
            tracemalloc.stop()
    assert (taken[1] - taken[0]) / 4_000 < 150


def test_rows_are_not_sent_to_another_process():
    """It has no such file: it would read from whatever file of its own has the same number."""
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(stored(GROUPS))
