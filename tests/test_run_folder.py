"""Run folders: stages that are done, go on, run again or come back; the lock; bad folders."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.errors import DiskError, InputError, RunInUseError
from limbeck.run_folder import Run, fingerprint, open_run, path_fingerprint


@pytest.fixture
def lines() -> list[str]:
    return []


def write(text: str, log: list[str]) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        log.append(text)
        (folder / "out.txt").write_text(text)

    return work


def test_a_done_stage_is_not_done_again(tmp_path: Path, lines: list[str]) -> None:
    run, log = Run(tmp_path, lines.append), []
    first = run.stage("a", {"x": 1}, {}, write("one", log))
    again = run.stage("a", {"x": 1}, {}, write("two", log))
    assert log == ["one"] and again == first
    assert (first.folder / "out.txt").read_text() == "one"


def test_a_changed_setting_says_why_and_keeps_the_former_result(tmp_path: Path, lines: list[str]) -> None:
    run, log = Run(tmp_path, lines.append), []
    run.stage("a", {"train": {"rate": 1}}, {}, write("one", log))
    run.stage("a", {"train": {"rate": 2}}, {}, write("two", log))
    assert any("train.rate changed from 1 to 2" in line for line in lines)
    back = run.stage("a", {"train": {"rate": 1}}, {}, write("three", log))
    assert log == ["one", "two"], "the former result must come back without work"
    assert (back.folder / "out.txt").read_text() == "one"


def test_a_changed_input_runs_what_follows_again(tmp_path: Path, lines: list[str]) -> None:
    run, log = Run(tmp_path, lines.append), []
    for rate in (1, 2):
        first = run.stage("a", {"rate": rate}, {}, write(f"a{rate}", log))
        run.stage("b", {}, {"a": first.fingerprint}, write(f"b{rate}", log))
    assert log == ["a1", "b1", "a2", "b2"]
    assert any("b: runs again, because its input a changed" in line for line in lines)


def test_a_stage_that_broke_goes_on_in_its_folder(tmp_path: Path, lines: list[str]) -> None:
    run = Run(tmp_path, lines.append)
    assert not run.is_done("a", {}, {})

    def breaks(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.stage("a", {}, {}, breaks)
    seen = []
    run.stage("a", {}, {}, lambda folder: seen.append((folder / "half.txt").read_text()))
    assert seen == ["half"] and run.is_done("a", {}, {})
    assert "a: going on where it stopped" in lines


@pytest.mark.parametrize("harm", ["delete", "cut"])
def test_a_damaged_result_is_made_again(tmp_path: Path, lines: list[str], harm: str) -> None:
    run, log = Run(tmp_path, lines.append), []
    stage = run.stage("a", {}, {}, write("one", log))
    if harm == "delete":
        (stage.folder / "out.txt").unlink()
    else:
        (stage.folder / "out.txt").write_text("on")
    run.stage("a", {}, {}, write("two", log))
    assert log == ["one", "two"]
    assert any("out.txt is missing or has another size" in line for line in lines)


def test_stages_may_nest(tmp_path: Path, lines: list[str]) -> None:
    run, log = Run(tmp_path, lines.append), []
    for _ in range(2):
        run.stage("student", {}, {}, write("student", log))
        run.stage("student/exam", {}, {}, write("exam", log))
    assert log == ["student", "exam"], "files of the inner stage are no damage to the outer one"


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, "x", print),
        pytest.raises(RunInUseError, match=f"process {os.getpid()}"),
        open_run(tmp_path, "x", print),
    ):
        pass


def _hold(folder: Path) -> None:
    with open_run(folder, "x", print):
        time.sleep(60)


def test_a_killed_process_lets_go_of_the_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path,))
    process.start()
    while not (tmp_path / "run.lock").exists() or not (tmp_path / "run.lock").read_text():
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    with open_run(tmp_path, "x", print):
        pass


def test_run_json_says_what_ran(tmp_path: Path) -> None:
    with open_run(tmp_path, "x", print) as run:
        run.describe("name: x\n", {"recipe": "x", "seed": 3})
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["seed"] == 3 and about["versions"]["torch"] and "git" in about
    with open_run(tmp_path, "x", print) as run:
        run.describe("name: x\n", {"recipe": "x", "seed": 3})
    assert json.loads((tmp_path / "run.json").read_text())["created"] == about["created"]
    assert (tmp_path / "recipe.yaml").read_text() == "name: x\n"


@pytest.mark.parametrize("name", ["thesis.tex", "recipe.yaml", "run.log", "run.json"])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="no run folder"), open_run(tmp_path, "x", print):
        pass
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(InputError, match="is a file"), open_run(tmp_path / name, "x", print):
        pass


def test_the_run_of_another_recipe_is_left_alone(tmp_path: Path) -> None:
    with open_run(tmp_path, "x", print) as run:
        run.describe("name: x\n", {"recipe": "x"})
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="holds the run of recipe 'x'"), open_run(tmp_path, "y", print):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_broken_stage_file_is_no_stage(tmp_path: Path, lines: list[str]) -> None:
    run, log = Run(tmp_path, lines.append), []
    run.stage("a", {}, {}, write("one", log))
    (tmp_path / "a" / "stage.json").write_text('{"state": "done"}')
    run.stage("a", {}, {}, write("two", log))
    assert log == ["one", "two"] and (tmp_path / "old" / "a" / "unknown" / "out.txt").exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path, lines: list[str]) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder / "model.safetensors"))

    with pytest.raises(DiskError, match=r"model\.safetensors: No space left on device; free the space"):
        Run(tmp_path, lines.append).stage("a", {}, {}, full)


def test_fingerprints_see_content_not_order_or_place(tmp_path: Path) -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("same")
    assert path_fingerprint(tmp_path / "one") == path_fingerprint(tmp_path / "two")
    (tmp_path / "two" / "f").write_text("else")
    assert path_fingerprint(tmp_path / "one") != path_fingerprint(tmp_path / "two")
