"""Run folders: stages that are done, go on, run again or come back; the lock; bad folders."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from limbeck import run_folder
from limbeck.errors import DiskError, InputError, RunInUseError
from limbeck.run_folder import Run, fingerprint, git_revision, open_run, path_fingerprint, plan


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
    first = run.stage("a", plan({"x": 1}), {}, write("one", log))
    again = run.stage("a", plan({"x": 1}), {}, write("two", log))
    assert log == ["one"] and again == first
    assert (first.folder / "out.txt").read_text() == "one"


def test_a_changed_setting_says_why_and_keeps_the_former_result(tmp_path: Path, lines: list[str]) -> None:
    run, log = Run(tmp_path, lines.append), []
    run.stage("a", plan({"train": {"rate": 1}}), {}, write("one", log))
    run.stage("a", plan({"train": {"rate": 2}}), {}, write("two", log))
    assert any("train.rate changed from 1 to 2" in line for line in lines)
    back = run.stage("a", plan({"train": {"rate": 1}}), {}, write("three", log))
    assert log == ["one", "two"], "the former result must come back without work"
    assert (back.folder / "out.txt").read_text() == "one"


def test_a_changed_input_runs_what_follows_again(tmp_path: Path, lines: list[str]) -> None:
    run, log = Run(tmp_path, lines.append), []
    for rate in (1, 2):
        first = run.stage("a", plan({"rate": rate}), {}, write(f"a{rate}", log))
        run.stage("b", plan({}), {"a": first.fingerprint}, write(f"b{rate}", log))
    assert log == ["a1", "b1", "a2", "b2"]
    assert any("b: runs again, because its input a changed" in line for line in lines)


def test_a_stage_that_broke_goes_on_in_its_folder(tmp_path: Path, lines: list[str]) -> None:
    run = Run(tmp_path, lines.append)
    assert not run.is_done("a", plan({}), {})

    def breaks(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.stage("a", plan({}), {}, breaks)
    seen = []
    run.stage("a", plan({}), {}, lambda folder: seen.append((folder / "half.txt").read_text()))
    assert seen == ["half"] and run.is_done("a", plan({}), {})
    assert "a: going on where it stopped" in lines


@pytest.mark.parametrize("harm", ["delete", "cut"])
def test_a_damaged_result_is_made_again(tmp_path: Path, lines: list[str], harm: str) -> None:
    run, log = Run(tmp_path, lines.append), []
    stage = run.stage("a", plan({}), {}, write("one", log))
    if harm == "delete":
        (stage.folder / "out.txt").unlink()
    else:
        (stage.folder / "out.txt").write_text("on")
    run.stage("a", plan({}), {}, write("two", log))
    assert log == ["one", "two"]
    assert any("out.txt is missing or has another size" in line for line in lines)


def test_stages_may_nest(tmp_path: Path, lines: list[str]) -> None:
    run, log = Run(tmp_path, lines.append), []
    for _ in range(2):
        run.stage("student", plan({}), {}, write("student", log))
        run.stage("student/exam", plan({}), {}, write("exam", log))
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
    while not (tmp_path / "run.pid").exists() or not (tmp_path / "run.pid").read_text():
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
    with pytest.raises(InputError, match="not a run folder"), open_run(tmp_path, "x", print):
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
    run.stage("a", plan({}), {}, write("one", log))
    (tmp_path / "a" / "stage.json").write_text('{"state": "done"}')
    run.stage("a", plan({}), {}, write("two", log))
    assert log == ["one", "two"] and (tmp_path / "old" / "a" / "unknown" / "out.txt").exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path, lines: list[str]) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder / "model.safetensors"))

    with pytest.raises(DiskError, match=r"model\.safetensors: No space left on device; free the space"):
        Run(tmp_path, lines.append).stage("a", plan({}), {}, full)


def test_fingerprints_see_content_not_order_or_place(tmp_path: Path) -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("same")
    assert path_fingerprint(tmp_path / "one") == path_fingerprint(tmp_path / "two")
    (tmp_path / "one" / ".nfs0001").write_text("removed, and still open somewhere")
    assert path_fingerprint(tmp_path / "one") == path_fingerprint(tmp_path / "two")
    (tmp_path / "two" / "f").write_text("else")
    assert path_fingerprint(tmp_path / "one") != path_fingerprint(tmp_path / "two")


# --- plans


class Inner(BaseModel):
    rate: float = 3
    size: int = 4


class Api(BaseModel):
    kind: Literal["api"] = "api"
    name: str = "it"


class Local(BaseModel):
    kind: Literal["local"] = "local"
    name: str = "it"


class Settings(BaseModel):
    model: str
    inner: Inner = Inner(size=8)
    teacher: Api | Local = Api()
    several: tuple[Inner, ...] = ()
    named: Mapping[str, Inner] = Field(default_factory=dict)
    place: Path = Path("here")
    device: str = "auto"


def test_a_plan_holds_no_setting_at_its_default() -> None:
    written_out = Settings(
        model="m",
        inner=Inner(rate=3.0, size=8),
        teacher=Api(name="it"),
        several=(),
        named={},
        place=Path("here"),
    )
    assert plan(Settings(model="m")) == plan(written_out)
    assert plan(written_out).settings == {"model": "m"}
    assert plan(written_out).full["inner"] == {"rate": 3.0, "size": 8}
    changed = Settings(
        model="m",
        inner=Inner(rate=5),
        teacher=Local(),
        several=(Inner(), Inner(size=5)),
        named={"a": Inner(rate=1)},
        place=Path("there"),
    )
    assert plan(changed).settings == {
        "model": "m",
        "inner": {"rate": 5.0},  # its size differs from its owner's default, so it stands there at all
        "teacher": {"kind": "local"},
        "several": [{}, {"size": 5}],
        "named": {"a": {"rate": 1.0}},
        "place": "there",
    }
    assert plan(Settings(model="m", inner=Inner())).settings == {"model": "m", "inner": {}}


def test_a_plan_is_made_of_parts() -> None:
    made = plan({"train": Inner(rate=1), "keep": "all"}, seed=3, exclude=("keep",), version=2, source="f00")
    assert made.json() == {"settings": {"train": {"rate": 1.0}, "seed": 3}, "version": 2, "source": "f00"}
    assert plan(Settings(model="m", device="cpu"), exclude=("device",)).settings == {"model": "m"}
    with pytest.raises(ValueError, match="settings given twice: seed"):
        plan({"seed": 1}, seed=2)


def test_a_new_setting_with_a_default_runs_nothing_again(tmp_path: Path, lines: list[str]) -> None:
    class Later(Settings):
        sharded: bool = False

    run, log = Run(tmp_path, lines.append), []
    for settings in (Settings(model="m"), Later(model="m"), Later(model="m", sharded=False)):
        run.stage("a", plan(settings), {}, write("done", log))
    assert log == ["done"]
    run.stage("a", plan(Later(model="m", sharded=True)), {}, write("sharded", log))
    assert "a: runs again, because sharded changed from its default to True" in "\n".join(lines)
    run.stage("a", plan(Later(model="m")), {}, write("again", log))
    assert log == ["done", "sharded"]


def test_other_code_runs_again_when_it_says_so(tmp_path: Path, lines: list[str]) -> None:
    run, log = Run(tmp_path, lines.append), []
    for changed in ({}, {"version": 2}, {"version": 2, "source": "a"}, {"version": 2, "source": "b"}):
        run.stage("a", plan({}, **changed), {}, write(str(changed), log))
    assert len(log) == 4
    text = "\n".join(lines)
    assert "makes it differently (version 1 to 2)" in text and "the file of its method changed" in text


def test_a_default_is_named_where_a_setting_goes_back_to_it(tmp_path: Path, lines: list[str]) -> None:
    run = Run(tmp_path, lines.append)
    for rate in (5, 3):
        run.stage("a", plan({"train": Inner(rate=rate)}), {}, write("x", []))
    assert any("train.rate changed from 5.0 to its default, 3.0" in line for line in lines)


# --- parts of a run


def story(run: Run, log: list[str]) -> None:
    """Two stages, one built on the other, and an exam inside the second one's folder."""
    first = run.stage("problems", plan({}), {}, write("problems", log))
    student = run.stage("students/a/seed0", plan({}), {"of": first.fingerprint}, write("student", log))
    run.stage("students/a/seed0/exam", plan({}), {"of": student.fingerprint}, write("exam", log))
    run.stage("students/b/seed0", plan({}), {"of": first.fingerprint}, write("other", log))


@pytest.mark.parametrize(
    ("again", "done"),
    [
        ("problems", ["problems", "student", "exam", "other"]),
        ("students/a", ["student", "exam"]),
        ("students/a/seed0/", ["student", "exam"]),
        ("students/a/seed0/exam", ["exam"]),
        ("students", ["student", "exam", "other"]),
    ],
)
def test_a_stage_runs_again_with_what_follows(tmp_path: Path, again: str, done: list[str]) -> None:
    log: list[str] = []
    with open_run(tmp_path, "x", print) as run:
        story(run, log)
    for _ in range(2):  # each time again
        log.clear()
        with open_run(tmp_path, "x", print, again=[again]) as run:
            story(run, log)
        assert log == done
        log.clear()
        with open_run(tmp_path, "x", print) as run:
            story(run, log)
        assert log == []
    assert len(list((tmp_path / "old").rglob("out.txt"))) >= 2, "the former results are kept"


def test_what_ran_again_is_brought_back_in_its_newest_form(tmp_path: Path) -> None:
    log: list[str] = []
    for text, rate, again in (("one", 1, ()), ("two", 1, ("a",)), ("other", 2, ()), ("three", 1, ())):
        with open_run(tmp_path, "x", print, again=again) as run:
            stage = run.stage("a", plan({"rate": rate}), {}, write(text, log))
    assert log == ["one", "two", "other"] and (stage.folder / "out.txt").read_text() == "two"


def test_a_stage_that_runs_again_and_is_killed_goes_on_without_being_told(tmp_path: Path) -> None:
    log: list[str] = []

    def killed(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with open_run(tmp_path, "x", print) as run:
        story(run, log)
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path, "x", print, again=["problems"]) as run:
        run.stage("problems", plan({}), {}, killed)
    log.clear()
    with open_run(tmp_path, "x", print) as run:
        story(run, log)
    assert log == ["problems", "student", "exam", "other"]
    assert (tmp_path / "problems" / "half.txt").exists()


def test_a_name_that_means_nothing_is_refused(tmp_path: Path) -> None:
    log: list[str] = []

    def run_it(**more: Any) -> None:
        with open_run(tmp_path, "x", print, **more) as run:
            story(run, log)

    with pytest.raises(InputError, match="--again a: no such stage was done here; there are: none"):
        run_it(again=["a"])
    run_it()
    log.clear()
    with pytest.raises(InputError, match=r"--again student: .* there are: problems, students/a/seed0, stud"):
        run_it(again=["student"])
    assert log == [], "before anything ran"
    with pytest.raises(InputError, match="--again students/b: no such stage came up; there were: problems"):
        run_it(again=["students/b"], until="students/a")
    with pytest.raises(InputError, match="--until exam: no such stage came up; there were: problems, stud"):
        run_it(until="exam")


@pytest.mark.parametrize(
    ("until", "done"),
    [
        ("problems", ["problems"]),
        ("students/a/seed0", ["problems", "student"]),
        ("students/a", ["problems", "student", "exam"]),
        ("students", ["problems", "student", "exam", "other"]),
    ],
)
def test_a_run_ends_well_where_it_was_asked_to(
    tmp_path: Path, lines: list[str], until: str, done: list[str]
) -> None:
    log: list[str] = []
    with open_run(tmp_path, "x", lines.append, until=until) as run:
        story(run, log)
    assert log == done
    ends = [line for line in lines if "the run ends here" in line]
    assert len(ends) == (until != "students")
    with open_run(tmp_path, "x", print) as run:
        story(run, log)
    assert log == ["problems", "student", "exam", "other"]


# --- whose code it was


def test_a_run_begun_by_other_code_says_so_in_one_line(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for revision in ("a" * 40, "b" * 40 + "+", "a" * 40):
        monkeypatch.setattr(run_folder, "git_revision", lambda known=revision: known)
        lines.append(revision[0])
        with open_run(tmp_path, "x", lines.append) as run:
            run.describe("", {"recipe": "x"})
        about = json.loads((tmp_path / "run.json").read_text())
        assert (about["begun_by"]["git"], about["git"]) == ("a" * 40, revision)
    assert len(lines) == 4 and lines[0] == "a" and lines[3] == "a"
    assert re.fullmatch(
        r"this run was begun by limbeck \S+ \(a{10}\), this is limbeck \S+ \(b{10}\+\); .*", lines[2]
    )


def test_the_revision_is_that_of_our_own_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def revision(file: Path) -> str:
        monkeypatch.setattr(run_folder, "__file__", str(file))
        return str(git_revision.__wrapped__())

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x@x", *command],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    ours = tmp_path / "src" / "limbeck" / "run_folder.py"
    ours.parent.mkdir(parents=True)
    ours.write_text("")
    assert revision(ours) == "", "installed: no source tree"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "thesis"\n')
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")
    assert revision(ours) == "", "somebody else's repository"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "limbeck"\n')
    assert revision(ours) == git("rev-parse", "HEAD") + "+"
    git("commit", "-qam", "ours")
    assert revision(ours) == git("rev-parse", "HEAD")
    other = tmp_path / "lib" / "limbeck" / "run_folder.py"
    other.parent.mkdir(parents=True)
    other.write_text("")
    assert revision(other) == "", "a copy that the repository does not know"
    (tmp_path / "src" / "limbeck" / "new.py").write_text("")
    assert revision(ours) == git("rev-parse", "HEAD") + "+", "code that is not committed"


def test_the_revision_of_another_repository_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of Limbeck that somebody keeps inside a repository of their own, pyproject.toml and all."""

    def git(*command: str, folder: Path = tmp_path) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@x")
        subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True)

    root = tmp_path / "third-party" / "limbeck"
    ours = root / "src" / "limbeck" / "run_folder.py"
    ours.parent.mkdir(parents=True)
    ours.write_text("")
    (root / "pyproject.toml").write_text('[project]\nname = "limbeck"\n')
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "thesis")
    monkeypatch.setattr(run_folder, "__file__", str(ours))
    assert git_revision.__wrapped__() == ""
    git("init", "-q", folder=root)
    git("add", ".", folder=root)
    git("commit", "-qm", "ours", folder=root)
    whole = git_revision.__wrapped__()
    assert len(whole) == 40
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook of the other repository
    assert git_revision.__wrapped__() == whole


def test_a_stage_that_runs_again_and_was_killed_is_not_done(tmp_path: Path) -> None:
    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with open_run(tmp_path, "x", print) as run:
        run.stage("a", plan({}), {}, write("one", []))
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path, "x", print, again=["a"]) as run:
        run.stage("a", plan({}), {}, killed)
    with open_run(tmp_path, "x", print) as run:
        assert not run.is_done("a", plan({}), {}), "the former result in old/ is not what `stage` would take"


def test_a_stage_around_earlier_ones_leaves_them_in_place(tmp_path: Path, lines: list[str]) -> None:
    def story(rate: int, again: tuple[str, ...] = ()) -> list[str]:
        log: list[str] = []
        with open_run(tmp_path, "x", lines.append, again=again) as run:
            first = run.stage("a/round0", plan({"rate": rate}), {}, write("first", log))
            inner = run.stage("a/round0/exam", plan({}), {"a": first.fingerprint}, write("inner", log))
            last = run.stage("a", plan({"rate": rate}), {"a": first.fingerprint}, write("last", log))
            outer = run.stage("a/exam", plan({}), {"a": last.fingerprint}, write("outer", log))
            assert all((one.folder / "out.txt").exists() for one in (first, inner, last, outer))
        return log

    everything = ["first", "inner", "last", "outer"]
    assert story(1) == everything and story(1) == []
    assert story(2) == everything and story(2) == []
    assert story(1) == [], "and they come back"
    assert story(1, again=("a",)) == everything and story(1) == []


class Grouped(BaseModel):
    inner: Inner | None = None


def test_a_group_of_settings_that_is_new_is_named(tmp_path: Path, lines: list[str]) -> None:
    run = Run(tmp_path, lines.append)
    for lora in (None, Inner()):
        run.stage("a", plan(Grouped(inner=lora)), {}, write("x", []))
    assert any("a: runs again, because inner changed from its default to {}" in line for line in lines)
