"""Records and their files: whole or not at all, and errors with file and line."""

import tracemalloc
from pathlib import Path

import pytest
from pydantic import ValidationError

from limbeck.errors import DataError, DiskError
from limbeck.records import Example, Mistake, Problem, Rationale, read_jsonl, write_json, write_jsonl

ODD = "line\u2028separator \u0085 next, <b>&amp; \U0001f600"


def test_round_trip_keeps_every_character(tmp_path: Path) -> None:
    problems = [
        Problem(id="1", question=ODD, answer="4"),
        Problem(id="2", question="q", answer="A", options=("x", "y")),
    ]
    assert write_jsonl(tmp_path / "p.jsonl", problems) == 2
    assert list(read_jsonl(tmp_path / "p.jsonl", Problem)) == problems


def test_the_ecosystem_reads_our_files(tmp_path: Path) -> None:
    import datasets

    write_jsonl(tmp_path / "e.jsonl", [Example(problem_id="1", prompt=ODD, completion="The answer is 4.")])
    table = datasets.load_dataset(
        "json", data_files=str(tmp_path / "e.jsonl"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert table.column_names[:3] == ["problem_id", "prompt", "completion"]
    assert table[0]["prompt"] == ODD


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{broken", "Invalid JSON"),
        ('{"id": "1", "question": "", "answer": "4"}', "question"),
        ('{"id": "1", "question": "q"}', "answer"),
        ('{"id": "1", "question": "q", "answer": "4", "gold": "4"}', "gold"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "0", "question": "q", "answer": "4"}\n' + line + "\n")
    with pytest.raises(DataError, match=complaint) as caught:
        list(read_jsonl(path, Problem))
    assert str(caught.value).startswith(f"{path}:2: ")


def test_a_torn_tail_is_left_out_only_where_wanted(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "0", "question": "q", "answer": "4"}\n{"id": "1", "ques')
    assert [problem.id for problem in read_jsonl(path, Problem, torn_tail=True)] == ["0"]
    with pytest.raises(DataError):
        list(read_jsonl(path, Problem))


def test_what_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="file"):
        write_json(tmp_path / "file" / "below.json", 1)
    with pytest.raises(DiskError, match=r"none\.jsonl"):
        list(read_jsonl(tmp_path / "none.jsonl", Problem))
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(DataError, match="UTF-8"):
        list(read_jsonl(tmp_path / "latin.jsonl", Problem))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_cannot_divide_is_refused(weight: float) -> None:
    """A loss is divided by the sum of the weights."""
    with pytest.raises(ValidationError, match="weight"):
        Example(problem_id="1", prompt="a", completion="b", weight=weight)


def test_a_record_takes_little_more_than_its_texts() -> None:
    """Of a million, 0.7 GB less: pydantic's note of which fields were given is one for all of a kind."""
    words = {"source": "s", "completion": "so 4", "reasoning": "so", "answer": "4"}
    line = Rationale(problem_id="p", index=0, correct=True, **words).model_dump_json()
    tracemalloc.start()
    try:
        found = [Rationale.model_validate_json(line) for _ in range(1000)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / 1000 < 800
    changed = found[0].model_copy(update={"dropped": "duplicate"})
    assert found[0].dropped is None and found[0] == found[1] != changed
    assert found[0].model_dump_json() == line


def test_a_mistake_knows_whether_its_kind_was_given() -> None:
    given = {"id": "m", "problem_id": "p", "completion": "so"}
    assert "kind" not in Mistake.model_validate(given).model_fields_set
    assert "kind" in Mistake.model_validate({**given, "kind": "wrong"}).model_fields_set
