"""A run that looks and does nothing: what a dry run gives the stories of methods in place of `Run`.

A stage that is done is found as it would be. Of one that is not, the name is noted. The problems, and the
grading of rationales that are there, are made in a folder that is thrown away: what comes later depends on
them, and no model and no teacher is asked for it. Any other stage has a folder that is not there, so a story
goes on until it reads what nobody made yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import DamagedError, LimbeckError
from limbeck.run_folder import Plan, Reached, Run, Stage, below

GRADING = ("rationales", "rationales-dev")
"""Last parts of the names of stages that grade."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A stage of the run: done, begun, to do, or open where nobody can say before others are done."""

    name: str
    state: str
    why: str = ""


@dataclass
class Looking:
    """See above; it is what `stages.context.Stages` asks for.

    Attributes:
        run: of the real folder, whose state is only read.
        scratch: a folder of its own.
        until: the stage after which the run is to end.
        seen: the stages that came up, in order.
        unseen: where a method could not be followed, and why.
    """

    run: Run
    scratch: Path
    say: Callable[[str], None]
    until: str = ""
    seen: dict[str, Seen] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    _undone: set[str] = field(default_factory=set)
    _damaged: dict[str, str] = field(default_factory=dict)
    _met: bool = False

    @property
    def folder(self) -> Path:
        """The run folder; it need not be there."""
        return self.run.folder

    @property
    def nowhere(self) -> Path:
        """Where the folders of stages would be that nobody made; it is never there."""
        return self.scratch / "not made"

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
        """The stage as far as it is there.

        Raises:
            Reached: the run is asked to end here.
        """
        inside = below(name, self.until)
        if self._met and not inside:
            raise Reached(self.until)
        look = self.run.look(name, plan, inputs)
        state, why, folder = look.state, look.why, look.folder
        if name in self._damaged:
            state, why = "to do", self._damaged[name]
        self.seen[name] = Seen(name, state, why)
        self._met = self._met or (bool(self.until) and inside)
        if state != "done":
            folder = self._made(name, work) if self._can_make(name, inputs) else self._unmade(name, look.id)
        if name == self.until:
            raise Reached(name)
        return Stage(name, folder, look.id)

    def _can_make(self, name: str, inputs: Mapping[str, str]) -> bool:
        parts = name.split("/")
        cheap = parts[0] in ("problems", "also") or parts[-1] in GRADING
        return cheap and self._undone.isdisjoint(inputs.values())

    def _made(self, name: str, work: Callable[[Path], None]) -> Path:
        folder = self.scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        work(folder)
        return folder

    def _unmade(self, name: str, id: str) -> Path:
        self._undone.add(id)
        return self.nowhere / name

    def is_of_nobody(self, error: LimbeckError | OSError) -> bool:
        """Whether an error is about a file of a stage that nobody made yet."""
        return str(self.nowhere) in str(error)

    def is_done(self, name: str, plan: Plan, inputs: Mapping[str, str]) -> bool:
        """Whether `stage` would find its work done."""
        return name not in self._damaged and self.run.look(name, plan, inputs).state == "done"

    def is_again(self, name: str) -> bool:
        """Whether it is asked for by --again."""
        return self.run.is_again(name)

    def ends_at(self, word: str) -> bool:
        """As `Run.ends_at`."""
        return self.until == word

    def verify(self, paths: Sequence[Path]) -> None:
        """Nothing: weights are read when something is made of them."""

    def put_aside(self, damaged: DamagedError) -> None:
        """From now on the stage counts as one to do.

        Raises:
            DamagedError: it is not of this run, or was damaged before.
        """
        name = str(damaged.stage).removeprefix(f"{self.folder.absolute()}/")
        if name in self._damaged or not damaged.stage.is_relative_to(self.folder.absolute()):
            raise damaged
        self._damaged[name] = damaged.wrong
        self._met = False

    def describe(self, recipe_yaml: str, facts: Mapping[str, Any]) -> None:
        """Nothing."""
