"""Data that hard use has found: each hung, was read wrongly, or ended in a traceback before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from limbeck.errors import DataError, InputError
from limbeck.tasks.demonstrations import read_demonstrations
from limbeck.tasks.readers import read_rows

Limbeck = Callable[..., Any]

NOT_UTF8 = pyarrow.Array.from_buffers(
    pyarrow.string(), 1, [None, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xfe")]
)


def refusal(path: object) -> str:
    clock = time.monotonic()
    with pytest.raises(InputError) as caught:
        list(read_rows(str(path)))
    assert time.monotonic() - clock < 5 and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (NOT_UTF8, "can't decode byte 0xff"),
        (pyarrow.array([2**53], pyarrow.timestamp("ms")), "out of range"),
        (pyarrow.array([2**31 - 1], pyarrow.date32()), "days=2147483647"),
        (
            pyarrow.StructArray.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"]),
            "duplicate field names",
        ),
    ],
    ids=["bad UTF-8", "far time", "far date", "a key twice"],
)
def test_a_parquet_column_that_cannot_be_read_is_named_with_its_file(
    tmp_path: Path, limbeck: Limbeck, column: Any, reason: str
) -> None:
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"fine": [1], "odd": column}), path)
    text = refusal(path)
    assert text.startswith(f"{path}: the column 'odd' holds") and reason in text
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: x\ntask: {{kind: number, train: {path}, test: {path}}}\nstudent: {{method: answers-only}}\n"
    )
    answer = limbeck("run", recipe, "--out", tmp_path / "run")
    assert answer.status == 2 and "the column 'odd'" in answer.err and "unexpected" not in answer.err


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    arrays = [pyarrow.array(["first"]), pyarrow.array(["last"])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, names=["q", "q"]), path)
    assert refusal(path) == f"{path}: two columns are called 'q'; rename one"


def test_a_damaged_parquet_file_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"question": ["a?"] * 99, "answer": ["7"] * 99}), path)
    content = path.read_bytes()
    for place in range(4, 60, 5):
        path.write_bytes(content[:place] + b"\xff\xff" + content[place + 2 :])
        try:
            list(read_rows(path))
        except DataError as error:
            assert "not a readable parquet file" in str(error) or "cannot be read" in str(error)


def test_a_parquet_file_whose_column_names_are_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"question": ["a?"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"question", b"quest\xffon"))
    assert "not a readable parquet file" in refusal(path)


def test_a_value_in_very_many_lists_is_named_at_any_depth(tmp_path: Path) -> None:
    """What Python can still read it cannot always write again."""
    path = tmp_path / "data.jsonl"
    for depth in range(400, 1_100):
        path.write_text('{"question": ' + "[" * depth + "]" * depth + "}\n")
        try:
            list(read_rows(path))
        except DataError as error:
            assert "nested too deeply" in str(error)


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "tsv", "parquet"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_or_a_device_is_no_data(tmp_path: Path, ending: str) -> None:
    pipe, link = tmp_path / f"pipe.{ending}", tmp_path / f"zero.{ending}"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path in (pipe, link):
        assert refusal(path) == f"{path}: a pipe or a device, not a file; write its content to a file"


def test_a_name_longer_than_names_can_be_is_refused() -> None:
    assert "there is no such file" in refusal("x" * 5000 + ".jsonl")
    assert "there is no such file" in refusal("#a")


def test_a_row_of_very_many_columns_is_told_in_short(tmp_path: Path) -> None:
    from limbeck.tasks.rows import row_problem
    from limbeck.tasks.settings import Columns

    row = {f"column{number}": "x" for number in range(10_000)}
    with pytest.raises(DataError) as caught:
        row_problem("f:1", row, Columns(), "number")
    assert len(str(caught.value)) < 500


def test_demonstrations_of_multiplied_aliases_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "shots.yaml"
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    path.write_text("\n".join(lines))
    clock = time.monotonic()
    with pytest.raises(DataError, match="more than 100,000 values"):
        read_demonstrations(path, "number")
    assert time.monotonic() - clock < 5


def test_data_on_the_terminal_are_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from limbeck.progress import _bar
    from limbeck.report.console import print_audit

    print_audit({"[/b]": 1, "[red]x[/red]": {"[/i]": 2}})
    assert "[/b]" in (out := capsys.readouterr().out) and "[red]x[/red]" in out and "[/i]: 2" in out
    with _bar("[/b]", 3) as advance:
        advance(1, note="[/i]")
