"""Checkpoints that survive a kill at any moment, and the history of a training.

A checkpoint counts only if its marker is there, which is written once the disk holds everything else. The
marker has the SHA-256 of every file, and a training that goes on reads them all first: a damaged
checkpoint is left out for the one before, or for the beginning. So two are kept, and the one that was
best on dev. An older one is removed, marker first, before the next is written: no more room is
needed than for writing a new one next to the last.

The sums cost half a second to two seconds per gigabyte at every checkpoint, less than writing it does.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from limbeck import ranks, sealed
from limbeck.errors import RecipeError, TrainingError
from limbeck.files import sync, whole_file

MARKER = "complete.json"

METADATA = "*/.metadata"
"""What torch calls the list of the parts of a sharded checkpoint."""

NAME = re.compile("checkpoint-[0-9]+")


def newest(folder: Path, fingerprint: str, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint below `folder` that is whole, or None: then training begins at the beginning.

    Args:
        say: gets a line for each damaged one that is left out.

    Raises:
        RecipeError: it belongs to a training with other settings or other examples.
    """
    marked = [one for one in _checkpoints(folder) if (one / MARKER).exists()]
    for one in sorted(marked, key=step_of, reverse=True):
        if wrong := damage(one):
            say(f"{one}: {wrong}; training goes on from an earlier checkpoint, or begins again")
        elif _marker(one)["fingerprint"] != fingerprint:
            raise RecipeError(
                f"{folder}: these checkpoints were begun with other settings, examples or loss parts; "
                "remove the folder to begin again"
            )
        else:
            return one
    return None


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, or with the best one that it would end with; "" when nothing is."""
    wrong = _own_damage(checkpoint)
    if wrong:
        return wrong
    state = sealed.read(checkpoint / "trainer_state.json") or {}
    best = state.get("best_global_step")
    if best and best != step_of(checkpoint):
        wrong = _own_damage(checkpoint.with_name(f"checkpoint-{best}"))
    return f"the best checkpoint so far, of step {best}, is lost ({wrong})" if wrong else ""


def _own_damage(checkpoint: Path) -> str:
    marker = sealed.read(checkpoint / MARKER)
    if marker is None or not {"fingerprint", "seconds", "files"} <= marker.keys():
        return f"{MARKER} is missing or damaged"
    return sealed.damage(checkpoint, marker, "")


def refuse_damaged(checkpoint: Path) -> None:
    """Refuse to end a training with the weights of a damaged checkpoint.

    Raises:
        TrainingError: naming it. The next run leaves it out.
    """
    if ranks.main() and (wrong := _own_damage(checkpoint)):
        raise TrainingError(f"{checkpoint}: {wrong}; run again, which goes on from an earlier one")


def remove_others(folder: Path, kept: Path | None) -> None:
    """Remove what a kill left half written or half removed, and what is newer than the one to go on from."""
    last = step_of(kept) if kept else -1
    for path in _checkpoints(folder):
        if step_of(path) > last or not (path / MARKER).is_file():
            _remove(path)


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints' folders; a copy that somebody made under a name of their own is none."""
    return [path for path in folder.glob("checkpoint-*") if NAME.fullmatch(path.name) and path.is_dir()]


def _remove(checkpoint: Path) -> None:
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def _marker(checkpoint: Path) -> dict[str, Any]:
    return sealed.read(checkpoint / MARKER) or {}


def seconds_of(checkpoint: Path) -> float:
    """How long the training had taken when it wrote this checkpoint."""
    return float(_marker(checkpoint)["seconds"])


def skipped_of(checkpoint: Path) -> int:
    """How many steps the training had skipped when it wrote this checkpoint."""
    return int(_marker(checkpoint).get("skipped", 0))


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint folder is named after."""
    return int(checkpoint.name.rpartition("-")[2])


def history_row(entry: dict[str, Any]) -> dict[str, float] | None:
    """A line of history.jsonl from an entry of the library's log; None for its closing summary."""
    row = {"step": entry["step"], "epoch": round(entry["epoch"], 4)}
    if "loss" in entry:
        return row | {name: value for name, value in entry.items() if name not in row}
    found = {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
    dev = {f"dev_{name}": value for name, value in found.items()}
    return row | dev if dev else None


class Epochs(Protocol):
    """What knows the epochs of a training, such as `sampler.GroupSampler`."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch it is."""
        ...


class Keeper(TrainerCallback):  # type: ignore[misc]
    """Writes the marker and the history, removes old checkpoints, reports the progress.

    Args:
        history: the file that gets a line per logged step and per evaluation.
        fingerprint: of the training, for the marker.
        sampler: gets the epoch.
        progress: called after every step with (step, steps, loss).
    """

    def __init__(
        self,
        history: Path,
        fingerprint: str,
        sampler: Epochs,
        progress: Callable[[int, int, float], None] | None,
    ) -> None:
        self.history = history
        self.fingerprint = fingerprint
        self.sampler = sampler
        self.progress = progress
        self.read_step: Callable[[], float] = lambda: math.nan
        self.loss = math.nan
        self.begun = time.monotonic()
        self.skipped = 0

    @property
    def seconds(self) -> float:
        """Since the training began, what was done before a resumption included."""
        return time.monotonic() - self.begun

    def went_on_from(self, checkpoint: Path) -> None:
        """Count the time that the training had taken before, and the steps that it had skipped."""
        self.begun -= seconds_of(checkpoint)
        self.skipped = skipped_of(checkpoint)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the history up to the checkpoint: what a kill left after it is logged again."""
        if state.best_global_step:  # the run folder may have moved since
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")
        if state.is_world_process_zero:
            with whole_file(self.history) as stream:
                rows = map(history_row, state.log_history)
                stream.writelines(json.dumps(row, sort_keys=True) + "\n" for row in rows if row)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the sampler's epoch; the library does not reach it through a loader that skips batches."""
        self.sampler.set_epoch(state.global_step // self.sampler.steps_per_epoch)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read what the step's losses were: after its work was begun, before it changes a weight."""
        self.loss = self.read_step()

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        optimizer: Any,
        **kwargs: Any,
    ) -> None:
        """Count a step that changed no weight: in fp16 the scaled gradient may not be finite.

        The scale is halved then. Where even the plain gradient is not finite, that cures nothing.

        Raises:
            TrainingError: that is so.
        """
        if not optimizer.step_was_skipped:
            return
        self.skipped += 1
        if optimizer.scaler.get_scale() < 1:
            raise TrainingError(
                f"step {state.global_step + 1}: the gradient is not finite in fp16, whatever its scale; "
                "set precision to bf16 or fp32"
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log with every checkpoint: a resumed run begins with empty sums, as the first one went on.

        Before one is written, all are removed but the last and the best.
        """
        # The library counts micro-batches of this process, which are fewer where several share a step.
        state.epoch = state.global_step / self.sampler.steps_per_epoch
        control.should_log = control.should_log or control.should_save
        if control.should_save and state.is_world_process_zero:
            self._make_room(Path(args.output_dir), state.best_global_step)
        if self.progress and state.is_world_process_zero:
            self.progress(state.global_step, state.max_steps, self.loss)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Append to history.jsonl."""
        row = history_row(state.log_history[-1])
        if row and state.is_world_process_zero:
            with self.history.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row, sort_keys=True) + "\n")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mark the checkpoint as whole, once the disk holds all of it."""
        ranks.barrier()  # each process writes its random state
        if not state.is_world_process_zero:
            return
        current = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (current / MARKER).unlink(missing_ok=True)
        sync(current)
        found = sealed.files(current) | {
            hidden.relative_to(current).as_posix(): hidden.stat().st_size for hidden in current.glob(METADATA)
        }
        mark = {
            "step": state.global_step,
            "fingerprint": self.fingerprint,
            "seconds": self.seconds,
            "skipped": self.skipped,
        }
        sealed.write(current / MARKER, {**mark, "files": found, "sha256": sealed.sums(current, found)})

    def _make_room(self, folder: Path, best: int | None) -> None:
        steps = sorted(step_of(path) for path in _checkpoints(folder) if (path / MARKER).is_file())
        for step in steps[:-1]:
            if step != best:
                _remove(folder / f"checkpoint-{step}")
