"""A run: the folder with everything one recipe produced, made in restartable stages.

A stage is a folder inside the run folder with a `stage.json` next to its files.
Its fingerprint is a hash of its name, its plan and of what its inputs are:

    same fingerprint, done       -> nothing to do
    same fingerprint, half done  -> the work goes on in the same folder
    another fingerprint          -> the old folder moves to `old/`, the work runs again;
                                    going back to old settings brings the old folder back
    damaged (see `sealed`)       -> its files move to `old/`, the work runs again; what was built on it stays
                                    where the work makes the same files again

So a changed setting never deletes what cost money or hours.
A plan holds no setting at its default: a new setting with a default changes no fingerprint.

Under several ranks, rank 0 holds the lock, decides and writes; the others follow.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from filelock import FileLock, Timeout
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from limbeck import __version__, old_runs, ranks, sealed
from limbeck.errors import DamagedError, DiskError, InputError, RunInUseError
from limbeck.files import HIDDEN_BY_NFS, digest, remove_partial, sync, whole_file
from limbeck.sealed import STAGE

VERSIONED = ("limbeck", "torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")

LOCK, HOLDER = "run.lock", "run.pid"

DAMAGED, UNKNOWN = "damaged", "unknown"
"""Folders in `old/` of what is never brought back."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides a stage's result, apart from its inputs. Make one with `plan`.

    Attributes:
        settings: as JSON gives them back, without those at their default.
        version: of the code that makes the stage.
        source: hash of a method's file outside the package; "" without one.
        full: the settings with defaults. They decide nothing; texts and old runs are compared with them.
    """

    settings: dict[str, Any]
    version: int = 1
    source: str = ""
    full: dict[str, Any] = field(default_factory=dict, compare=False)

    def json(self) -> dict[str, Any]:
        """What is hashed and kept in `stage.json`."""
        more = {"source": self.source} if self.source else {}
        return {"settings": self.settings, "version": self.version, **more}


def plan(
    settings: BaseModel | Mapping[str, Any],
    /,
    *,
    version: int = 1,
    source: str = "",
    exclude: Collection[str] = (),
    **more: Any,
) -> Plan:
    """The plan of a stage: its settings without those at their default.

    So a new setting with a default changes no plan, and writing a default out changes none. A default
    that gets another value, and code that makes something else of the same settings, change no plan
    either: raise `version` then. The fixed word that names one of several kinds of settings (`kind: api`)
    always stays.

    Args:
        settings: a settings object, or values by name, each JSON, a settings object, or made of these.
        version: raised by hand.
        source: `path_fingerprint` of the file of a method outside the package.
        exclude: top-level settings that do not decide what is made, such as the device.
        more: further settings by name.

    Raises:
        ValueError: a name is in `settings` and in `more`.
    """
    given = type(settings).model_fields if isinstance(settings, BaseModel) else settings
    if twice := set(given) & set(more):
        raise ValueError(f"settings given twice: {', '.join(sorted(twice))}")
    both = [{**make(settings), **make(more)} for make in (_lean, _full)]
    left = [{name: value for name, value in one.items() if name not in exclude} for one in both]
    lean, full = (json.loads(json.dumps(one)) for one in left)
    return Plan(lean, version, source, full)


def _members(model: BaseModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields}


def _lean(value: Any, dumped: Any = None) -> Any:
    """A value as JSON, its settings objects without what is at its default.

    Args:
        dumped: the value as pydantic dumps it inside its owner; None: it has no owner.
    """
    if isinstance(value, BaseModel):
        dumped = value.model_dump(mode="json") if dumped is None else dumped
        if not isinstance(dumped, dict):  # it has a serialiser of its own
            return dumped
        fields = type(value).model_fields
        return {
            name: _lean(inner, dumped[name])
            for name, inner in _members(value).items()
            if name in dumped and (_is_tag(fields[name]) or not _is_default(fields[name], inner))
        }
    if isinstance(value, Mapping) and isinstance(dumped, dict | None):
        shown = [None] * len(value) if dumped is None else list(dumped.values())
        return {str(k): _lean(v, d) for (k, v), d in zip(value.items(), shown, strict=True)}
    if isinstance(value, list | tuple) and isinstance(dumped, list | None):
        shown = [None] * len(value) if dumped is None else dumped
        return [_lean(one, d) for one, d in zip(value, shown, strict=True)]
    return value if dumped is None else dumped


def _is_tag(field: FieldInfo) -> bool:
    """Whether a field can only have one value: it names the kind of settings."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _is_default(field: FieldInfo, value: Any) -> bool:
    if field.is_required():
        return False
    default = field.get_default(call_default_factory=True, validated_data={})
    # Not the types: a default is not validated, so `alpha: float = 32` stays an int until written out.
    return isinstance(default, bool) is isinstance(value, bool) and bool(default == value)


def _full(value: Any) -> Any:
    """A value as JSON, with all its settings."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _full(inner) for key, inner in value.items()}
    return [_full(one) for one in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, slots=True)
class Stage:
    """A finished stage: where its files are, and the fingerprint later stages build on.

    The fingerprint is that of the plan, until the stage is done again on request.
    """

    name: str
    folder: Path
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a stage is before it comes up: see `Run.look`.

    Attributes:
        state: done, begun or to do.
        folder: where its files are, which may be in `old/`.
        id: the fingerprint that later stages build on.
        why: it runs again, or where it comes from; "" where there is nothing to say.
    """

    state: str
    folder: Path
    id: str
    why: str = ""


class Reached(Exception):
    """The stage after which the run was asked to end is done. `open_run` makes a good end of it."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage)
        self.stage = stage


class Run:
    """An open run folder. Make one with `open_run`, which holds the lock.

    Args:
        folder: of the run.
        say: gets lines about what happens, on rank 0.
        until: a stage, or the folder of several: once these are done the run ends, by `Reached`.
        again: stages, or folders of several, that are done again though they are done.
    """

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None],
        *,
        until: str | None = None,
        again: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.say = say if ranks.main() else _silent
        self._until = until.strip("/") if until else ""
        self._again = [name.strip("/") for name in again]
        self._came: list[str] = []
        self._put_aside: list[str] = []
        self._renewed: list[str] = []  # done again, as asked
        self._contents: dict[str, str] = {}  # what the stages that came up hold, by their fingerprint
        self._words: set[str] = set()  # that a method was ready to end at
        self._met = False  # a stage that `until` means came up
        self._working = ""

    def stage(
        self,
        name: str,
        plan: Plan,
        inputs: Mapping[str, str],
        work: Callable[[Path], None],
        *,
        everyone: bool = False,
        reads: Sequence[Path] = (),
    ) -> Stage:
        """Return the stage `name`, doing its work unless it is done already.

        Args:
            name: the folder below the run folder, such as "students/cot-1/seed0".
            plan: every setting that decides the result.
            inputs: what is read, as name -> fingerprint.
            work: writes the files of the stage into the folder it is given; after
                a kill it is called again with the same folder and may go on there.
                It opens no other stage.
            everyone: under several ranks, all do the work and rank 0 alone writes what is
                written once; otherwise rank 0 works, as if alone, and the others wait.
            reads: weights of other stages that the work reads. All their other files were
                looked at when these stages came up.

        Raises:
            Reached: the run was asked to end here.
            DamagedError: a file in `reads` is not what its stage wrote.
        """
        if self._met and not below(name, self._until):
            raise Reached(self._until)
        if self._working and ranks.world() > 1:
            raise RuntimeError(f"{name}: a stage inside the work of {self._working}")
        state = ranks.share(self._begin(name, plan, inputs) if ranks.main() else {})
        stage = Stage(name, self.folder / name, state["id"])
        if state["state"] != "done":
            self.verify(reads)
            self._do(stage, state, work, everyone)
        if name not in self._came:
            self._came.append(name)
        self._met = self._met or (bool(self._until) and below(name, self._until))
        if name == self._until:
            raise Reached(name)
        return stage

    @property
    def until(self) -> str:
        """The stage, or the folder of several, after which the run ends; "": it goes on to its end."""
        return self._until

    def ends_at(self, word: str) -> bool:
        """Whether `until` is this word: one at which a method may end its story (see `Uses.pauses`)."""
        self._words.add(word)
        return self._until == word

    def is_done(self, name: str, plan: Plan, inputs: Mapping[str, str]) -> bool:
        """Whether `stage` with the same arguments would find its work done, here or in `old/`."""
        return ranks.share(ranks.main() and self._is_done(name, plan, inputs))

    def _is_done(self, name: str, plan: Plan, inputs: Mapping[str, str]) -> bool:
        if self.is_again(name):
            return False
        mark = _mark(name, plan, inputs)
        state = _read_state(self.folder / name)
        if state and _fits(state, mark, plan, inputs) and not self._wrong(self.folder / name, state, inputs):
            return bool(state["state"] == "done")  # half done, it goes on, whatever old/ holds
        kept = self._newest(name, plan, inputs, mark)
        return kept is not None and bool((_read_state(kept) or {})["state"] == "done")

    def describe(self, recipe_yaml: str, facts: Mapping[str, Any]) -> None:
        """Write `recipe.yaml` and `run.json`: what runs here, with versions, git revision and time."""
        if not ranks.main():
            return
        with whole_file(self.folder / "recipe.yaml") as stream:
            stream.write(recipe_yaml)
        before = sealed.read(self.folder / "run.json") or {}
        about = {
            **facts,
            "versions": versions(),
            "git": git_revision(),
            "begun_by": _begun_by(before) or _code(),
            "created": before.get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
            "sha256": sealed.sums(self.folder, ["recipe.yaml"]),
        }
        sealed.write(self.folder / "run.json", about)

    def verify(self, paths: Sequence[Path]) -> None:
        """Refuse to build on files of finished stages that are not what the stages wrote.

        Args:
            paths: files or folders; every file below is read.

        Raises:
            DamagedError: on every rank; `put_aside` is what to do then.
        """
        found = (one for one in map(sealed.found_damage, paths) if one)
        if wrong := ranks.share(next(found, None) if ranks.main() else None):
            raise DamagedError(*wrong)

    def put_aside(self, damaged: DamagedError) -> None:
        """Move a damaged stage's files to `old/`, so that the stage is done again when it comes up again.

        Raises:
            DamagedError: it is not of this run, or was damaged again as soon as it was made.
        """
        inside = damaged.stage.is_relative_to(os.path.abspath(self.folder))
        name = damaged.stage.relative_to(os.path.abspath(self.folder)).as_posix() if inside else ""
        if not inside or name in self._put_aside:
            raise damaged
        self._put_aside.append(name)
        if ranks.main():
            self._set_aside(name, DAMAGED)
            self.say(f"{name}: {damaged.wrong}; it runs again, the damaged files are in old/")
        ranks.barrier()

    def check(self) -> None:
        """Refuse, at the beginning, to do a stage again that was never done here.

        Raises:
            InputError: naming the stages that there are.
        """
        there = sorted(_stages(self.folder))
        for wanted in self._again:
            if not any(below(name, wanted) for name in there):
                raise InputError(
                    f"--again {wanted}: no such stage was done here; there are: {_listed(there)}"
                )

    def close(self) -> None:
        """Complain, at the end, about names of stages that did not come up.

        Raises:
            InputError: naming those that did.
        """
        wanted = [("--again", name) for name in self._again]
        wanted += [("--until", self._until)] if self._until else []
        for option, name in wanted:
            if not any(below(one, name) for one in self._came) and name not in self._words:
                raise InputError(f"{option} {name}: no such stage came up; there were: {_listed(self._came)}")

    def _begin(self, name: str, plan: Plan, inputs: Mapping[str, str]) -> dict[str, Any]:
        """What is to be done about a stage: its `stage.json`, done or started."""
        folder, mark = self.folder / name, _mark(name, plan, inputs)
        self._make_room(name, plan, inputs, mark)
        state = _read_state(folder)
        times = state.get("again", 0) if state else 0
        if state and self.is_again(name):
            self._renewed.append(name)
            self._retire(name, mark[:12])
            self.say(f"{name}: runs again, as asked; the former result is in old/")
            state, times = None, times + 1
        if state and state["state"] == "done":
            if name not in self._came:
                self.say(f"{name}: done before, kept")
            self._contents[state["id"]] = sealed.content(state)
            return state
        if state:
            self.say(f"{name}: going on where it stopped")
            return state
        self.say(f"{name}: started")
        begun: dict[str, Any] = {"name": name, "plan": plan.json(), "inputs": dict(inputs)}
        begun |= {"fingerprint": mark, "id": fingerprint([mark, times]) if times else mark}
        begun |= {"again": times} if times else {}
        begun |= {"limbeck": _version("limbeck"), "state": "started"}
        sealed.write(folder / STAGE, begun)
        return begun

    def _do(
        self, stage: Stage, state: Mapping[str, Any], work: Callable[[Path], None], everyone: bool
    ) -> None:
        clock = time.monotonic()
        self._working = stage.name
        try:
            if everyone:
                ranks.group()
                work(stage.folder)
            elif ranks.main():
                with ranks.alone():
                    work(stage.folder)
        except OSError as error:
            raise DiskError(error.filename or stage.folder, error) from error
        finally:
            self._working = ""
        ranks.barrier()
        if ranks.main():
            seconds = round(time.monotonic() - clock, 1)
            self._finish(stage, {**state, "state": "done", "seconds": seconds})
            self.say(f"{stage.name}: done in {seconds:.1f} s")

    def _finish(self, stage: Stage, state: Mapping[str, Any]) -> None:
        """Write, once the disk holds the files of a stage, what they are and what they were made from."""
        try:
            remove_partial(stage.folder)
            sync(stage.folder)
        except OSError as error:
            raise DiskError(error.filename or stage.folder, error) from error
        found = sealed.files(stage.folder)
        read = {label: self._contents.get(one, "") for label, one in state["inputs"].items()}
        done = {**state, "files": found, "sha256": sealed.sums(stage.folder, found)}
        done["read"] = {label: one for label, one in read.items() if one}
        sealed.write(stage.folder / STAGE, done)
        self._contents[stage.fingerprint] = sealed.content(done)

    def is_again(self, name: str) -> bool:
        """Whether the stage is to be done again; once per run, though it may come up twice."""
        if name in self._came or name in self._renewed:
            return False
        return any(below(name, wanted) for wanted in self._again)

    def look(self, name: str, plan: Plan, inputs: Mapping[str, str]) -> Look:
        """What `stage` with the same arguments would find and begin with; nothing is changed."""
        folder, mark = self.folder / name, _mark(name, plan, inputs)
        state = _read_state(folder)
        if state and self.is_again(name):
            times = state.get("again", 0) + 1
            return Look("to do", folder, fingerprint([mark, times]), "asked for by --again")
        _, why = self._unfit(name, state, plan, inputs, mark)
        if state is None or why:
            kept = self._newest(name, plan, inputs, mark)
            if kept is None:
                return Look("to do", folder, mark, why)
            folder, state, why = kept, _read_state(kept), "comes back from old/"
        assert state is not None
        if old_runs.is_old(state):
            state = old_runs.converted(state, plan.json(), inputs, mark)
        if state["state"] != "done":
            return Look("begun", folder, state["id"], why)
        self._contents[state["id"]] = sealed.content(state)
        return Look("done", folder, state["id"], why)

    def _unfit(
        self,
        name: str,
        state: Mapping[str, Any] | None,
        plan: Plan,
        inputs: Mapping[str, str],
        mark: str,
    ) -> tuple[str, str]:
        """Why what is in a stage's folder is not its result, "" if it is or nothing is there; and what it is
        in `old/`: damaged, unknown, or "" for another result."""
        folder = self.folder / name
        if state is None:
            if folder.exists() and (sealed.files(folder) or (folder / STAGE).exists()):
                what = "its stage.json is damaged" if (folder / STAGE).exists() else "it has no stage.json"
                return UNKNOWN, what
            return "", ""
        if not _fits(state, mark, plan, inputs):
            return "", _difference(state, plan, inputs)
        if state["state"] == "done" and (wrong := sealed.damage(folder, state)):
            return DAMAGED, wrong
        return "", self._other_input(state, inputs) if state["state"] == "done" else ""

    def _make_room(self, name: str, plan: Plan, inputs: Mapping[str, str], mark: str) -> None:
        """Move a folder of another fingerprint or a damaged one to `old/`; bring a matching one back."""
        folder = self.folder / name
        state = _read_state(folder)
        kind, why = self._unfit(name, state, plan, inputs, mark)
        if why and kind:
            self._set_aside(name, kind)
            self.say(f"{name}: runs again, because {why}; what was there is in old/")
        elif why and state:
            self._retire(name, state["fingerprint"][:12])
            self.say(f"{name}: runs again, because {why}; the former result is in old/")
        if not (folder / STAGE).exists():
            self._bring_back(name, plan, inputs, mark)
        state = _read_state(folder)
        if state and old_runs.is_old(state):
            ours = old_runs.converted(state, plan.json(), inputs, mark)
            sealed.write(folder / STAGE, {**ours, "sha256": sealed.sums(folder, ours["files"])})

    def _wrong(self, folder: Path, state: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
        """Why a finished stage of the right plan cannot be used, in words; "" if it can."""
        return sealed.damage(folder, state) or self._other_input(state, inputs)

    def _other_input(self, state: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
        """Says which input was made again, after damage, and came out different; "" when none was.

        Its fingerprint does not say so: it is that of its plan. On a CPU the same plan gives the same
        files, on a GPU it may not.
        """
        for label, former in state.get("read", {}).items():
            now = self._contents.get(inputs.get(label, ""), "")
            if now and now != former:
                return f"its input {label} was made again and is not what it was"
        return ""

    def _bring_back(self, name: str, plan: Plan, inputs: Mapping[str, str], mark: str) -> None:
        """Take the newest result of this plan out of `old/`."""
        kept = self._newest(name, plan, inputs, mark)
        if kept:
            _move(kept, self.folder / name)
            self.say(f"{name}: these settings ran before; their result is brought back from old/")

    def _newest(self, name: str, plan: Plan, inputs: Mapping[str, str], mark: str) -> Path | None:
        """The newest result of this plan in `old/`."""
        states = {kept: state for kept in self._former(name) if (state := _read_state(kept))}
        kept = [one for one, state in states.items() if _fits(state, mark, plan, inputs)]
        kept = [one for one in kept if not self._wrong(one, states[one], inputs)]
        return max(kept, key=lambda one: states[one].get("again", 0), default=None)

    def _former(self, name: str) -> list[Path]:
        """The folders in `old/` of a stage that were whole when they came there."""
        found = (path.parent for path in (self.folder / "old" / name).glob(f"*/{STAGE}"))
        return sorted(one for one in found if one.name.partition("-")[0] not in (DAMAGED, UNKNOWN))

    def _retire(self, name: str, label: str) -> None:
        """Move a stage's folder to `old/`; stages inside it that came up before it in this run stay."""
        target = self._free(name, label)
        earlier = [one for one in self._came if one != name and below(one, name)]
        try:
            _move(self.folder / name, target)
            for inner in sorted(earlier, key=len):  # an outer one takes its inner ones along
                inside = target / Path(inner).relative_to(name)
                if inside.exists():
                    _move(inside, self.folder / inner)
        except OSError as error:
            raise DiskError(target, error) from error

    def _set_aside(self, name: str, label: str) -> None:
        """Move a stage's own files to `old/`, first the one that makes it count; stages inside it stay."""
        folder, target = self.folder / name, self._free(name, label)
        own = [one for one in (STAGE, *sealed.files(folder)) if (folder / one).exists()]
        try:
            for one in own:
                (target / one).parent.mkdir(parents=True, exist_ok=True)
                (folder / one).rename(target / one)
            for path in sorted(folder.rglob("*"), reverse=True):  # inner folders first
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
        except OSError as error:
            raise DiskError(target, error) from error

    def _free(self, name: str, label: str) -> Path:
        """A folder in `old/` that is not there yet."""
        target, number = self.folder / "old" / name / label, 1
        while target.exists():
            number += 1
            target = target.with_name(f"{label}-{number}")
        return target


def _move(folder: Path, place: Path) -> None:
    """Move a folder; where the place holds stages of its own already, they stay there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        folder.rename(place)
        return
    for entry in sorted(
        folder.iterdir(), key=lambda one: one.name == "stage.json"
    ):  # the last one makes it count
        if not entry.name.startswith(HIDDEN_BY_NFS) and not (place / entry.name).exists():
            entry.rename(place / entry.name)


def _silent(line: str) -> None:
    """Where a rank that is not the first says things."""


@contextmanager
def open_run(
    folder: Path,
    recipe_name: str,
    say: Callable[[str], None],
    *,
    until: str | None = None,
    again: Sequence[str] = (),
) -> Iterator[Run]:
    """Lock a run folder and yield the `Run`; nothing in it changes yet but the lock and `run.log`.

    A run that was asked to end after a stage leaves the block there, and that is not an error.

    Args:
        folder: made when missing.
        recipe_name: a folder belongs to one recipe.
        say: gets every line that is also appended to `run.log`.
        until: see `Run`.
        again: see `Run`.

    Raises:
        RunInUseError: another process holds the folder.
        DiskError: the folder cannot be written.
        InputError: the folder holds something else than a run of this recipe; `again` names a stage
            that was not done in it; at the end: a named stage did not come up.
    """
    with ranks.together(), _opened(folder, recipe_name, say) as say_and_log:
        run = Run(folder, say_and_log, until=until, again=again)
        if ranks.main():
            _tell_of_other_code(folder, say_and_log)
            run.check()
        ranks.barrier()
        try:
            yield run
        except Reached as reached:
            run.say(f"{reached.stage} is done: the run ends here, as --until says")
        run.close()


@contextmanager
def _opened(folder: Path, recipe_name: str, say: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """On rank 0: the lock, and a `say` that also writes to run.log."""
    if not ranks.main():
        yield _silent
        return
    refuse_foreign(folder, recipe_name)
    with _lock(folder) as log:

        def say_and_log(line: str) -> None:
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            log.write(f"{stamp} {line}\n")
            log.flush()
            say(line)

        yield say_and_log


def refuse_foreign(folder: Path, recipe_name: str) -> None:
    """Leave alone what is not a run folder, and the run of another recipe."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name another folder with --out")
    about = sealed.read(folder / "run.json") or {}
    ours = (folder / LOCK).is_file() or "versions" in about
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise InputError(f"{folder}: holds other files and is not a run folder; name another one with --out")
    other = about.get("recipe", recipe_name)
    if other != recipe_name:
        raise InputError(f"{folder}: holds the run of recipe {other!r}; name another folder with --out")


@contextmanager
def _lock(folder: Path) -> Iterator[Any]:
    """Hold `run.lock` (the kernel lets go when the process dies) and yield the open run.log."""
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        holder = "another process"
        with suppress(OSError, ValueError):
            holder = f"process {int((folder / HOLDER).read_text())}"
        raise RunInUseError(
            f"{folder}: {holder} is running in this folder; wait for it or name another --out"
        ) from None
    except OSError as error:
        raise DiskError(folder, error) from error
    try:
        # In a file of its own: Windows lets nobody read a file that is locked.
        (folder / HOLDER).write_text(str(os.getpid()))
        log = (folder / "run.log").open("a", encoding="utf-8")
    except OSError as error:
        lock.release()
        raise DiskError(folder, error) from error
    try:
        with log:
            yield log
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink()
        lock.release()


def _tell_of_other_code(folder: Path, say: Callable[[str], None]) -> None:
    """One line if other code than this began the run."""
    about = sealed.read(folder / "run.json") or {}
    if not about and (folder / "run.json").exists():
        say("run.json is damaged; it is written again")
    begun, now = _begun_by(about), _code()
    if begun and begun != now:
        shown = [f"limbeck {one['limbeck']}{_at(one['git'])}" for one in (begun, now)]
        say(f"this run was begun by {shown[0]}, this is {shown[1]}; what is finished is used")


def _at(revision: str) -> str:
    return f" ({revision[:10]}{'+' * revision.endswith('+')})" if revision else ""


def _begun_by(about: Mapping[str, Any]) -> dict[str, str]:
    """The version and revision that began the run of a `run.json`; {} if it does not say."""
    if "begun_by" in about:
        return dict(about["begun_by"])
    if "versions" not in about:
        return {}
    return {"limbeck": about["versions"].get("limbeck", ""), "git": about.get("git", "")}


def _code() -> dict[str, str]:
    return {"limbeck": _version("limbeck"), "git": git_revision()}


def below(name: str, wanted: str) -> bool:
    """Whether a stage is the wanted one, or in the wanted folder."""
    return name == wanted or name.startswith(f"{wanted}/")


def _stages(folder: Path) -> set[str]:
    """The stages that are in a run folder."""
    found = {path.parent.relative_to(folder) for path in folder.rglob("stage.json")}
    return {path.as_posix() for path in found if path.parts and path.parts[0] != "old"}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def fingerprint(value: object) -> str:
    """SHA-256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def path_fingerprint(path: Path) -> str:
    """SHA-256 of a file's content, or of all files of a folder with their names."""
    whole = hashlib.sha256()
    below = (p for p in path.rglob("*") if not p.name.startswith(HIDDEN_BY_NFS) and p.is_file())
    files = [path] if path.is_file() else sorted(below)
    try:
        for file in files:
            whole.update(file.relative_to(path).as_posix().encode() if file != path else b"")
            whole.update(bytes.fromhex(digest(file)))
    except OSError as error:
        raise DiskError(path, error) from error
    return whole.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries a result depends on."""
    return {"python": platform.python_version()} | {package: _version(package) for package in VERSIONED}


def _version(package: str) -> str:
    if package == "limbeck":
        return __version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@cache
def git_revision() -> str:
    """Revision of Limbeck's own source tree, with `+` when it is changed; "" when it is installed."""
    root = Path(__file__).resolve().parents[2]
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        if project.get("name") != "limbeck" or not _git(root, "ls-files", "--error-unmatch", __file__):
            return ""
        top = _git(root, "rev-parse", "--show-toplevel")
        if not top or Path(top).resolve() != root:  # a copy that somebody keeps in a repository of their own
            return ""
        changed = _git(root, "status", "--porcelain", "--", "src", "pyproject.toml")
        return _git(root, "rev-parse", "HEAD") + "+" * bool(changed)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""


def _git(folder: Path, *command: str) -> str:
    """What git answers about the repository that a folder is in; "" when it refuses."""
    # A hook of another repository calls us with GIT_DIR set to that one.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    answer = subprocess.run(
        ["git", *command], cwd=folder, env=own, capture_output=True, text=True, timeout=10, check=False
    )
    return answer.stdout.strip() if answer.returncode == 0 else ""


def read_json(path: Path) -> dict[str, Any] | None:
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
    """A stage's `stage.json`; None where there is none, or one that no version of Limbeck writes."""
    state = sealed.read(folder / STAGE) or {}
    needed = {"state", "fingerprint", *(() if old_runs.is_old(state) else ("id", "plan", "inputs"))}
    typed = all(isinstance(state[name], kind) for name, kind in _SHAPE.items() if name in state)
    if not (typed and needed <= state.keys()):
        return None
    plan, sizes = state.get("plan", _EMPTY), state.get("files", {})
    whole = isinstance(plan.get("settings"), dict) and isinstance(plan.get("version"), int)
    return state if whole and all(isinstance(size, int) for size in sizes.values()) else None


_EMPTY: dict[str, Any] = {"settings": {}, "version": 1}
_SHAPE = {
    **dict.fromkeys(("state", "fingerprint", "id", "limbeck", "name"), str),
    **dict.fromkeys(("plan", "inputs", "files", "settings", "sha256", "read"), dict),
    "again": int,
}
"""What the entries of a `stage.json` are; somebody may have edited one."""


def is_finished(folder: Path) -> bool:
    """Whether a stage is done there."""
    return (_read_state(folder) or {}).get("state") == "done"


def _mark(name: str, plan: Plan, inputs: Mapping[str, str]) -> str:
    """The fingerprint of a stage."""
    return fingerprint({"name": name, "plan": plan.json(), "inputs": dict(inputs)})


def _fits(state: Mapping[str, Any], mark: str, plan: Plan, inputs: Mapping[str, str]) -> bool:
    """Whether a folder's stage is, or becomes, what is wanted."""
    if old_runs.is_old(state):
        return not old_runs.difference(state, plan.full, inputs)
    return bool(state["fingerprint"] == mark)


def _difference(state: Mapping[str, Any], plan: Plan, inputs: Mapping[str, str]) -> str:
    """What changed between a stage's former plan and the new one, in words."""
    if old_runs.is_old(state):
        return old_runs.difference(state, plan.full, inputs)
    former = state["plan"]
    old, new, full = old_runs.flat(former["settings"]), old_runs.flat(plan.settings), old_runs.flat(plan.full)
    names = old.keys() | new.keys()
    for key in sorted(names):
        group = any(other.startswith(f"{key}.") for other in names)  # what changed inside it says more
        if old.get(key) != new.get(key) and not group:
            return f"{key} changed from {_shown(key, old)} to {_shown(key, new, full)}"
    before = state["inputs"]
    for key in sorted(before.keys() | inputs.keys()):
        if before.get(key) != inputs.get(key):
            return f"its input {key} changed"
    if former.get("source", "") != plan.source:
        return "the file of its method changed"
    return f"this version of Limbeck makes it differently (version {former['version']} to {plan.version})"


def _shown(key: str, settings: Mapping[str, Any], full: Mapping[str, Any] | None = None) -> str:
    """A setting's value in words; one that a plan does not hold is at its default."""
    if key in settings:
        return repr(settings[key])
    return f"its default, {full[key]!r}" if full and key in full else "its default"
