"""What must share a micro-batch, and what of it is drawn each epoch."""

import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest

from limbeck.records import Example
from limbeck.training.groups import ALL, Draw, Group, singles


def drawn(roles, per_role, key="p", seed=1, epochs=range(600)):
    return [Draw(per_role).chosen(key, roles, seed=seed, epoch=epoch) for epoch in epochs]


def test_singles_are_groups_of_one():
    examples = [Example(problem_id=name, prompt="q", completion="a") for name in ("a", "b", "a")]
    assert (
        list(singles(examples))
        == list(singles(iter(examples)))
        == [Group(example.problem_id, (example,)) for example in examples]
    )


def test_pairs_are_all_drawn_as_often():
    """2 of 4, 600 epochs: each of 6 pairs 100 times, standard deviation 9."""
    seen = Counter(drawn([""] * 4, {"": 2}))
    assert set(seen) == set(combinations(range(4), 2))
    assert all(60 < times < 140 for times in seen.values())


def test_a_draw_follows_from_seed_epoch_and_key():
    first = drawn([""] * 6, {"": 2}, epochs=range(40))
    assert drawn([""] * 6, {"": 2}, epochs=range(40)) == first
    assert drawn([""] * 6, {"": 2}, epochs=range(40), seed=2) != first
    assert drawn([""] * 6, {"": 2}, epochs=range(40), key="q") != first


def test_roles_are_drawn_apart_and_the_others_given_whole():
    roles = ["anchor", "positive", "negative", "positive", "negative", "negative"]
    for chosen in drawn(roles, {"positive": 1, "negative": 2}, epochs=range(50)):
        assert list(chosen) == sorted(chosen)
        assert Counter(roles[n] for n in chosen) == {"anchor": 1, "positive": 1, "negative": 2}
    assert len(set(drawn(roles, {"positive": 1, "negative": 2}, epochs=range(50)))) == 6


def test_everything_is_drawn_where_nothing_is_left_to_choose():
    assert ALL.chosen("p", ["", "a"], seed=0, epoch=0) == (0, 1)
    assert Draw({"": 1}).chosen("p", [""], seed=0, epoch=5) == (0,)


def test_a_group_with_fewer_gives_what_it_has():
    draw = Draw({"positive": 1, "negative": 2})
    roles = ["anchor", "positive", "negative", "negative", "negative"]
    assert draw.most(roles) == 4 and ALL.most(roles) == 5
    few = ["anchor", "negative"]
    assert draw.most(few) == 2 and draw.chosen("p", few, seed=0, epoch=0) == (0, 1)


def test_nothing_cannot_be_drawn():
    with pytest.raises(ValueError, match="draw 0 examples of role 'positive': at least 1"):
        Draw({"positive": 0})


def test_building_groups_loads_no_torch():
    code = "import limbeck.training.groups, sys; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
