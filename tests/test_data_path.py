"""What collecting, grading and choosing hold in memory: places and hashes, and no texts."""

import gc
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from limbeck.actions import collect, run
from limbeck.errors import DataError, DiskError, RecipeError
from limbeck.places import Places, key_of
from limbeck.records import (
    Example,
    Found,
    Passage,
    Problem,
    Rationale,
    Records,
    Silver,
    write_jsonl,
    write_records,
)
from limbeck.selection import select, together
from limbeck.sequences import ById, Joined, Made, Part, Spool
from limbeck.stages import leaks
from limbeck.stages.rationales import by_problem
from limbeck.training.groups import Group, singles
from tests.test_selection import rationale

RECIPE = """
name: many
task: {{name: coin-flip, train: {problems}, dev: 4, test: 4, parameters: {{people: 7}}}}
teacher: {{kind: offline, wrong_answer: 0.1, wrong_step: 0.05}}
rationales: {{per_problem: 2, temperature: 0.7{more}}}
"""


def peak(work: Callable[[], object]) -> int:
    """Bytes that Python's own memory held at most, beyond those from before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("more", ["", ", keep: agreement"])
def test_a_collection_holds_no_texts(tmp_path: Path, more: str) -> None:
    """A rationale more took 2 kB when records were lists; now places and hashes, 60 to 120 bytes."""

    def collected(problems: int) -> int:
        recipe = tmp_path / f"{problems}.yaml"
        recipe.write_text(RECIPE.format(problems=problems, more=more))
        return peak(lambda: collect(recipe, out=tmp_path / f"run{problems}"))

    collected(20)  # what is loaded and compiled once
    few, many = collected(200), collected(1000)
    assert (many - few) / (2 * 800) < 250


def test_no_ids_are_held_where_the_data_hold_no_rationales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def looked(folder: Path, marked: Iterable[Rationale]) -> Sequence[Rationale]:
        ids = {one.problem_id for one in marked}
        seen.extend(one for one in gc.get_objects() if isinstance(one, set) and one == ids and one is not ids)
        raise RecipeError("seen enough")

    monkeypatch.setattr(import_module("limbeck.stages.rationales"), "write_graded", looked)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(problems=10, more=""))
    with pytest.raises(RecipeError, match="seen enough"):
        collect(recipe, out=tmp_path / "run")
    assert not seen


@pytest.mark.parametrize("method", ["answers-only", "finetune-cot", "mcc-kd", "kard"])
def test_examples_are_made_when_they_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """An example with the pieces of its prompt takes 2 to 4 kB."""
    seen: list[int] = []

    def looked(learner: object, groups: Sequence[Group], *_: object) -> None:
        assert sum(len(group.examples) for group in groups) > 10
        kinds = Example, Found, Passage, Silver
        seen.append(sum(type(one) in kinds for one in gc.get_objects()))
        raise RecipeError("seen enough")

    monkeypatch.setattr("limbeck.stages.training._load", looked)
    written = f"{RECIPE.format(problems=20, more='')}student: {{method: {method}, model: tiny-causal-xs}}\n"
    if method == "kard":
        written = written.replace("coin-flip", "animals").replace("people: 7", "animals: 40")
        written += "knowledge: {corpus: built-in}\n"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(written)
    with pytest.raises(RecipeError, match="seen enough"):
        run(recipe, out=tmp_path / "run")
    assert len(seen) == 1 and seen[0] <= 1, "a passage that was looked up last"


def test_a_problems_examples_are_one_group() -> None:
    some = [rationale("x", i, f"p{n}") for i in range(2) for n in (1, 0, 2)]
    examples = [Example(problem_id=one.problem_id, prompt="q", completion=str(one.index)) for one in some]
    assert list(by_problem(examples, some)) == [
        Group("p1", (examples[0], examples[3])),
        Group("p0", (examples[1], examples[4])),
        Group("p2", (examples[2], examples[5])),
    ]
    assert not by_problem([], [])


def test_looking_for_leaks_holds_no_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question has 1,000 characters; those that are not the task's own come once."""

    def problem(number: int) -> Problem:
        return Problem(id=f"p{number}", question=f"{number} " * 200, answer="1")

    def group(number: int) -> Group:
        asked = "Another one?" if number % 100 == 50 else problem(number).question
        return singles([Example(problem_id=f"p{number}", prompt=asked, completion="1")])[0]

    context: Any = SimpleNamespace(recipe=None, memo={}, run=SimpleNamespace(say=print))
    parts = SimpleNamespace(train=Made(range(500), problem), dev=Made(range(500, 600), problem), test=[])
    monkeypatch.setattr(leaks, "problems", lambda context: parts)
    monkeypatch.setattr(leaks, "leak_policy", lambda recipe: "drop")
    groups, found = Made(range(600), group), []
    assert peak(lambda: found.append(leaks.without_leaks(context, "student", groups))) < 600 * 150
    assert found == [groups], "nothing leaks"
    parts.test = [Problem(id="t", question="another one", answer="1")]
    context.memo.clear()
    kept = leaks.without_leaks(context, "student", groups)
    assert len(kept) == 594 and kept[50] == groups[51]


def test_choosing_holds_no_texts(tmp_path: Path) -> None:
    """Each text has 1,000 characters; in a file by source, where a problem's are far apart, too."""

    def written() -> Iterator[Rationale]:
        for index in range(3):
            for problem in range(400):
                dropped = "wrong" if index == 1 else None
                yield rationale(f"{problem} {index} " * 100, index, f"p{problem}", dropped)

    write_jsonl(tmp_path / "graded.jsonl", written())
    records = Records(tmp_path / "graded.jsonl", Rationale)
    chosen = select(records, 2, choose="diverse")
    assert [(one.problem_id, one.index) for one in chosen[:4]] == [("p0", 0), ("p0", 2), ("p1", 0), ("p1", 2)]
    assert peak(lambda: [len(one.reasoning) for one in select(records, 2)]) < 1200 * 150


def test_those_of_a_problem_come_together() -> None:
    mixed = [rationale("x", i, f"p{n}", "no" if n == 2 else None) for i in range(2) for n in (1, 0, 2)]
    assert [(one.problem_id, one.places) for one in together(mixed)] == [
        ("p1", [0, 3]),
        ("p0", [1, 4]),
        ("p2", [2, 5]),
    ]
    seen: list[Rationale] = []
    assert [one.problem_id for one in together(mixed, kept=True, each=seen.append)] == ["p1", "p0"]
    assert seen == mixed, "each is given all of them, in their order"


def test_places_are_a_dictionary() -> None:
    rng, known, places = Random(0), dict[bytes, int](), Places()
    for _ in range(3000):
        key, number = key_of(str(rng.randrange(2000))), rng.randrange(2**60)
        assert places.get(key) == known.get(key) and (key in places) == (key in known)
        known[key] = number
        places.put(key, number)
    assert len(places) == len(known) and all(places.get(key) == known[key] for key in known)
    assert key_of("a", "bc") != key_of("ab", "c")


def test_records_are_a_list_of_those_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    some = [Problem(id=f"p{n}", question=f"Ünï {n}\u2028?", answer=str(n)) for n in range(200)]
    again = write_records(file, some, Problem)
    file.write_bytes(b"\n" + file.read_bytes())  # empty lines are passed over
    records = Records(file, Problem)
    assert list(records) == some and len(records) == 200
    assert [records[n] for n in range(200)] == some, "one after another, read ahead"
    assert [records[n] for n in (7, 199, -1, 0, 8, 9)] == [some[n] for n in (7, 199, -1, 0, 8, 9)]
    assert list(records[10:2:-3]) == some[10:2:-3] and len(again) == 200
    with pytest.raises(IndexError):
        records[200]
    by_id = ById(records)
    assert by_id["p17"] == some[17] and by_id.get("p200") is None and "p200" not in by_id
    with file.open("a") as stream:
        stream.write('{"id": "p"}\n')
    with pytest.raises(DataError, match="jsonl:202: not a Problem: question"):
        Records(file, Problem)


def test_what_is_written_is_found_where_it_is(tmp_path: Path) -> None:
    some = [Problem(id=f"p{n}", question=f"Ünï {n}?", answer=None) for n in range(5)]
    records = write_records(tmp_path / "a.jsonl", some, Problem)
    assert list(records) == some and records[3] == some[3]
    write_jsonl(tmp_path / "b.jsonl", some)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_joined_sequences_are_a_list() -> None:
    parts = (range(3), Made(range(3, 5), int), (), Part(range(9), [5, 6]))
    joined = Joined(*parts)
    assert list(joined) == [joined[place] for place in range(7)] == list(range(7)) and len(joined) == 7
    assert joined[-1] == 6 and joined[-7] == 0 and list(joined[2:6:3]) == [2, 5]
    assert not Joined() and not Joined((), ())
    with pytest.raises(IndexError):
        joined[7]


def test_a_spool_leaves_no_file_behind(tmp_path: Path) -> None:
    spool = Spool((str(n) for n in range(100)), folder=tmp_path)
    assert list(spool) == [str(n) for n in range(100)] and spool[-1] == "99"
    assert list(Part(spool, [5, 2])) == ["5", "2"] and list(Made(spool, int))[7:9] == [7, 8]
    assert not [*tmp_path.iterdir()]


def test_records_of_a_file_that_was_written_again_are_refused(tmp_path: Path) -> None:
    """A stage that comes up again with other settings: the old places are in the middle of the new lines."""
    file = tmp_path / "problems.jsonl"
    held = write_records(file, [Problem(id=f"p{n}", question="?", answer="1") for n in range(99)], Problem)
    some = held[70:]
    (tmp_path / "old").mkdir()
    file.rename(tmp_path / "old" / "problems.jsonl")
    with pytest.raises(DiskError, match="No such file"):
        some[0]
    write_jsonl(file, [Problem(id=f"q{n}", question="?" * n, answer="1") for n in range(1, 99)])
    for look in (lambda: some[0], lambda: list(held)):
        with pytest.raises(DataError, match="was overwritten while this run was still reading it"):
            look()
