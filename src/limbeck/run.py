"""A run: the folder with everything one recipe produced, made in restartable stages.

A stage is a folder inside the run folder with a `stage.json` beside its files.
Its fingerprint is a hash of its settings and of its inputs' fingerprints:

    same fingerprint, done       -> nothing to do
    same fingerprint, half done  -> the work goes on in the same folder
    another fingerprint          -> the old folder moves to `old/`, the work runs again;
                                    going back to old settings brings the old folder back

So nothing that was paid for in money or hours is ever deleted by a changed setting.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from limbeck.errors import DiskError, InputError, RunInUseError
from limbeck.records import write_json, write_whole

VERSIONED = ("limbeck", "torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Stage:
    """A finished stage: where its files are, and the fingerprint later stages build on."""

    name: str
    folder: Path
    fingerprint: str


class Run:
    """An open run folder. Make one with `open_run`, which holds the lock."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.say = say

    def stage(
        self,
        name: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        work: Callable[[Path], None],
    ) -> Stage:
        """Return the stage `name`, doing its work unless it is done already.

        Args:
            name: the folder below the run folder, such as "students/cot-1/seed0".
            settings: every value that decides the result, JSON-serialisable.
            inputs: what is read, as name -> fingerprint.
            work: writes the files of the stage into the folder it is given; after
                a kill it is called again with the same folder and may go on there.
        """
        folder = self.folder / name
        plan = _plan(name, settings, inputs)
        print_of_plan = fingerprint(plan)
        self._make_room(name, plan, print_of_plan)
        stage = Stage(name, folder, print_of_plan)
        state = _read_state(folder)
        if state and state["state"] == "done":
            self.say(f"{name}: done before, kept")
            return stage
        begun = {**plan, "fingerprint": print_of_plan, "state": "started"}
        self.say(f"{name}: going on where it stopped" if state else f"{name}: started")
        if not state:
            write_json(folder / "stage.json", begun)
        clock = time.monotonic()
        try:
            work(folder)
        except OSError as error:
            raise DiskError(error.filename or folder, error) from error
        seconds = round(time.monotonic() - clock, 1)
        finished = {**begun, "state": "done", "seconds": seconds, "files": _files(folder)}
        write_json(folder / "stage.json", finished)
        self.say(f"{name}: done in {seconds:.1f} s")
        return stage

    def is_done(self, name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
        """Whether `stage` with the same arguments would find its work done, here or in `old/`."""
        print_of_plan = fingerprint(_plan(name, settings, inputs))
        for folder in (self.folder / name, self.folder / "old" / name / print_of_plan[:12]):
            state = _read_state(folder)
            if state and state["fingerprint"] == print_of_plan and state["state"] == "done":
                return not _damaged(folder, state)
        return False

    def describe(self, recipe_yaml: str, facts: Mapping[str, Any]) -> None:
        """Write `recipe.yaml` and `run.json`: what runs here, with versions, git revision and time."""
        with write_whole(self.folder / "recipe.yaml") as stream:
            stream.write(recipe_yaml)
        created = self._about().get("created") or datetime.now(UTC).isoformat(timespec="seconds")
        about = {**facts, "versions": versions(), "git": git_revision(), "created": created}
        write_json(self.folder / "run.json", about)

    def _about(self) -> dict[str, Any]:
        return _read_json(self.folder / "run.json") or {}

    def _make_room(self, name: str, plan: Mapping[str, Any], print_of_plan: str) -> None:
        """Move a folder of another fingerprint or a damaged one to `old/`; bring a matching one back."""
        folder = self.folder / name
        state = _read_state(folder)
        if state is None and folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            self._retire(name, "unknown")
            self.say(f"{name}: a folder without stage.json stood here; it was moved to old/")
        elif state and state["fingerprint"] != print_of_plan:
            self._retire(name, state["fingerprint"][:12])
            self.say(f"{name}: runs again, because {_difference(state, plan)}; the former result is in old/")
        elif state and state["state"] == "done" and (lost := _damaged(folder, state)):
            self._retire(name, "damaged")
            self.say(f"{name}: runs again, because {lost} is missing or has another size")
        kept = self.folder / "old" / name / print_of_plan[:12]
        if not folder.exists() and _read_state(kept):
            folder.parent.mkdir(parents=True, exist_ok=True)
            kept.rename(folder)
            self.say(f"{name}: these settings ran before; their result is brought back from old/")

    def _retire(self, name: str, label: str) -> None:
        target = self.folder / "old" / name / label
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{label}-{number}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).rename(target)
        except OSError as error:
            raise DiskError(target, error) from error


@contextmanager
def open_run(folder: Path, recipe_name: str, say: Callable[[str], None]) -> Iterator[Run]:
    """Lock a run folder and yield the `Run`; nothing in it changes yet but `run.lock` and `run.log`.

    Args:
        folder: made when missing.
        recipe_name: a folder belongs to one recipe.
        say: gets every line that is also appended to `run.log`.

    Raises:
        RunInUseError: another process holds the folder.
        DiskError: the folder cannot be written.
        InputError: the folder holds something else than a run of this recipe.
    """
    _refuse_foreign(folder, recipe_name)
    with _lock(folder) as log:

        def say_and_log(line: str) -> None:
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            log.write(f"{stamp} {line}\n")
            log.flush()
            say(line)

        yield Run(folder, say_and_log)


def _refuse_foreign(folder: Path, recipe_name: str) -> None:
    """Leave alone what is no run folder, and the run of another recipe."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name another folder with --out")
    about = _read_json(folder / "run.json") or {}
    ours = (folder / "run.lock").is_file() or "versions" in about
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise InputError(f"{folder}: holds other files and is no run folder; name another one with --out")
    other = about.get("recipe", recipe_name)
    if other != recipe_name:
        raise InputError(f"{folder}: holds the run of recipe {other!r}; name another folder with --out")


@contextmanager
def _lock(folder: Path) -> Iterator[Any]:
    """Hold `run.lock` (the kernel lets go when the process dies) and yield the open run.log."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DiskError(folder, error) from error
    with os.fdopen(handle, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = lock.read().strip() or "unknown"
            message = (
                f"{folder}: process {holder} is running in this folder; wait for it or name another --out"
            )
            raise RunInUseError(message) from None
        try:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            log = (folder / "run.log").open("a", encoding="utf-8")
        except OSError as error:
            raise DiskError(folder, error) from error
        with log:
            yield log


def fingerprint(value: object) -> str:
    """SHA-256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def path_fingerprint(path: Path) -> str:
    """SHA-256 of a file's content, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    try:
        for file in files:
            digest.update(file.relative_to(path).as_posix().encode() if file != path else b"")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise DiskError(path, error) from error
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries a result depends on."""
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_revision() -> str:
    """Revision of the source tree Limbeck runs from, with `+` when it is changed; "" outside git."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None when there is none, or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DiskError(path, error) from error
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _read_state(folder: Path) -> dict[str, Any] | None:
    state = _read_json(folder / "stage.json") or {}
    return state if {"state", "fingerprint"} <= state.keys() else None


def _files(folder: Path) -> dict[str, int]:
    """Sizes of the stage's files, without those of stages nested in it."""
    nested = {p.parent for p in folder.rglob("stage.json") if p.parent != folder}
    return {
        p.relative_to(folder).as_posix(): p.stat().st_size
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "stage.json" and p.name[0] != "." and not nested & set(p.parents)
    }


def _damaged(folder: Path, state: Mapping[str, Any]) -> str:
    """The first file of a done stage that is missing or has another size; "" when all are there."""
    for name, size in state.get("files", {}).items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return str(name)
    return ""


def _difference(state: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """What changed between a stage's former plan and the new one, in words."""
    for part in ("settings", "inputs"):
        old, new = _flat(state.get(part, {})), _flat(plan[part])
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                if part == "inputs":
                    return f"its input {key} changed"
                return f"{key} changed from {old.get(key)!r} to {new.get(key)!r}"
    return "its plan changed"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _plan(name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """What a stage is fingerprinted by; settings as JSON gives them back, to compare with stored ones."""
    return {"name": name, "settings": json.loads(json.dumps(settings)), "inputs": dict(inputs)}
