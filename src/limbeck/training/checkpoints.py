"""Checkpoints that survive a kill at any moment, and the history of a training.

A checkpoint counts only if its marker is there, which is written after everything else. Older
ones are removed after that, marker first: at every moment at least one whole checkpoint exists,
once there has been one.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from limbeck import ranks
from limbeck.errors import RecipeError
from limbeck.files import whole_file
from limbeck.records import write_json
from limbeck.training.sampler import GroupSampler

MARKER = "complete.json"


def newest(folder: Path, fingerprint: str) -> Path | None:
    """The newest whole checkpoint below `folder`, or None.

    Raises:
        RecipeError: it belongs to a training with other settings or other examples.
    """
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{MARKER}")]
    if not whole:
        return None
    last = max(whole, key=step_of)
    if json.loads((last / MARKER).read_text(encoding="utf-8"))["fingerprint"] != fingerprint:
        raise RecipeError(
            f"{folder}: these checkpoints were begun with other settings, examples or loss parts; "
            "remove the folder to begin again"
        )
    return last


def remove_incomplete(folder: Path) -> None:
    """Remove what a kill left half written or half removed."""
    for path in folder.glob("checkpoint-*"):
        if not (path / MARKER).is_file():
            shutil.rmtree(path)


def seconds_of(checkpoint: Path) -> float:
    """How long the training had taken when it wrote this checkpoint."""
    seconds: float = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["seconds"]
    return seconds


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
        sampler: GroupSampler,
        progress: Callable[[int, int, float], None] | None,
    ) -> None:
        self.history = history
        self.fingerprint = fingerprint
        self.sampler = sampler
        self.progress = progress
        self.read_step: Callable[[], float] = lambda: math.nan
        self.loss = math.nan
        self.begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the training began, what was done before a resumption included."""
        return time.monotonic() - self.begun

    def went_on_from(self, checkpoint: Path) -> None:
        """Count the time that the training had taken before."""
        self.begun -= seconds_of(checkpoint)

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

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log with every checkpoint: a resumed run begins with empty sums, as the first one went on."""
        # The library counts micro-batches of this process, which are fewer where several share a step.
        state.epoch = state.global_step / self.sampler.steps_per_epoch
        control.should_log = control.should_log or control.should_save
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
        """Mark the checkpoint as whole, then remove all others but the best."""
        ranks.barrier()  # each process writes its random state
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        current = folder / f"checkpoint-{state.global_step}"
        mark = {"step": state.global_step, "fingerprint": self.fingerprint, "seconds": self.seconds}
        write_json(current / MARKER, mark)
        for old in folder.glob("checkpoint-*"):
            if step_of(old) not in (state.global_step, state.best_global_step):
                (old / MARKER).unlink(missing_ok=True)
                shutil.rmtree(old)
