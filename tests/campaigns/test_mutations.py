"""The small size of the campaign; and it must be able to fail."""

import random
import time
from pathlib import Path

import pytest
import yaml

from limbeck.errors import DataError, DiskError, TeacherError
from limbeck.opening import Request, open_context, prepare

from . import mutations
from .mutations import TRIALS, Found, run


@pytest.mark.parametrize(("name", "size"), [("records", 600), ("recipes", 60)])
def test_whatever_is_changed_is_read_or_refused_in_one_sentence(name: str, size: int) -> None:
    found = run(TRIALS[name], name, 0, range(size), Found())
    assert found.failures == []
    assert found.outcomes["read"] > size // 100 and found.outcomes.total() == size


@pytest.mark.parametrize("tree", mutations.RECIPES, ids=["plain", "mentor", "files", "shots"])
def test_every_recipe_is_good_before_it_is_changed(tree: object, tmp_path: Path) -> None:
    path = mutations.in_folder(yaml.safe_dump(tree).encode(), tmp_path)
    with open_context(path, [], Request(out=tmp_path / "run")) as (context, chosen):
        prepare(context, chosen, trains=False)


def test_a_trial_follows_from_its_number(tmp_path: Path) -> None:
    drawn = [mutations.value(random.Random("0-records-7")) for _ in range(2)]
    assert repr(drawn[0]) == repr(drawn[1])


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyError("x"), "unexpected KeyError"),
        (TeacherError("no"), "exit status 1"),
        (DataError("f", "x" * 5_000), None),
        (DiskError("f", OSError("broken")), "the disk is blamed"),
        (OSError("broken"), "OSError: broken"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_went_wrong_is_seen(error: Exception, says: str | None) -> None:
    def broken(draw: random.Random, folder: Path) -> None:
        raise error

    found = run(broken, "x", 0, range(1), Found())
    assert [says in failure for failure in found.failures] == ([True] if says else [])


def test_a_hang_and_a_slow_trial_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(draw: random.Random, folder: Path) -> None:
        while True:
            time.sleep(0.01)

    def slow(draw: random.Random, folder: Path) -> None:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass

    monkeypatch.setattr(mutations, "SECONDS", 0.1)
    monkeypatch.setattr(mutations, "HANGS", 0.5)
    assert run(hangs, "x", 0, range(1), Found()).failures == ["x:0: hangs"]
    monkeypatch.setattr(mutations, "HANGS", 60.0)
    assert "took" in run(slow, "x", 0, range(1), Found()).failures[0]
