"""A full or read-only disk: one sentence, status 2, and finished work untouched."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = "name: x\ntask: {name: coin-flip, train: 5, dev: 1, test: 2}\nstudent: {method: answers-only}\n"


def test_a_name_too_long_is_no_matter_of_space(limbeck: Callable[..., object], tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    for place in ("student.model", "base"):
        answer = limbeck("run", recipe, "--set", f"{place}={'x' * 5_000}", "--out", tmp_path / "run")
        assert answer.status == 2 and "free the space" not in answer.err and len(answer.err) < 1_100
    answer = limbeck("run", recipe, "--out", tmp_path / ("x" * 300))
    assert answer.status == 2 and "File name too long; use a shorter name" in answer.err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_the_disk_is_named_and_earlier_stages_stay(
    limbeck: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The exam's predictions cannot be written; what the problems stage made is whole and kept."""
    recipe, out = tmp_path / "r.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    import tempfile

    real = tempfile.mkstemp

    def full(**options: object) -> object:
        if "predictions" in str(options.get("prefix")):
            raise OSError(number, "No space left on device", str(options["dir"]))
        return real(**options)  # type: ignore[call-overload]

    monkeypatch.setattr(tempfile, "mkstemp", full)
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 2
    assert "predictions.jsonl: No space left on device; free the space" in answer.err
    assert not list(out.rglob("predictions.jsonl")) and not list((out / "teacher").rglob("*predictions*"))
    before = {path: path.stat().st_mtime_ns for path in (out / "problems").iterdir()}
    monkeypatch.undo()
    limbeck("collect", recipe, "--out", out)
    assert {path: path.stat().st_mtime_ns for path in (out / "problems").iterdir()} == before
