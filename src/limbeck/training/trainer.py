"""The one Trainer subclass: named, weighted loss parts with global denominators.

    loss of an optimiser step = Σ_p weight_p · Σ sums_p / Σ counts_p

Both inner sums run over all micro-batches of the step and all processes, so that neither
padding nor the way a step is cut into micro-batches and processes changes what is learned.
"""

from __future__ import annotations

import errno
import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from limbeck.errors import DiskError, RecipeError, TrainingError
from limbeck.objectives.align import is_encoder_decoder
from limbeck.records import Example
from limbeck.training.arguments import arguments, fingerprint, set_steps, undisturbed
from limbeck.training.checkpoints import Keeper, newest, remove_incomplete, step_of
from limbeck.training.collate import Batch, Row, Tokenised, collate, padding, tokenise
from limbeck.training.parts import Objective
from limbeck.training.sampler import BucketSampler
from limbeck.training.settings import TrainSettings

DevExam = Callable[[nn.Module], Mapping[str, float]]
"""Examines the model (in evaluation mode, without gradients) on dev; gives at least "accuracy"."""

REMEDY = "lower learning_rate or lengthen warmup; with bf16, set precision to fp32"


@dataclass(frozen=True, slots=True)
class Feed:
    """Rows, how they share batches, and the id that pads them."""

    rows: Sequence[Row]
    sampler: BucketSampler
    pad: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: tuple[int, ...]) -> list[Row]:
        return [self.rows[index] for index in batch]

    def loader(self) -> DataLoader[Any]:
        """A loader whose item is a whole micro-batch: sharding and resuming then count micro-batches."""
        return DataLoader(
            self,  # type: ignore[arg-type]
            batch_size=1,
            sampler=self.sampler,
            collate_fn=lambda items: collate(items[0], self.pad),
        )


class DistilTrainer(Trainer):  # type: ignore[misc]
    """Trains any `Objective`; evaluates with the same parts and, if given, an exam.

    Args:
        model: a Hugging Face model, full or PEFT.
        args: the library's arguments (see `training.arguments`).
        objective: the loss parts.
        train: what to train on.
        dev: what to evaluate on, or None.
        dev_exam: joins its results to every evaluation.
        callbacks: the library's callbacks.

    Raises:
        TrainingError: a loss or a gradient is not finite.
    """

    loss_is_scaled_for_ga = True
    control: Any

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        objective: Objective,
        train: Feed,
        dev: Feed | None = None,
        dev_exam: DevExam | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        super().__init__(
            model=model, args=args, train_dataset=train, eval_dataset=dev or (), callbacks=list(callbacks)
        )
        self.remove_callback(PrinterCallback)
        self.objective = objective
        self.train_feed = train
        self.dev_feed = dev
        self.dev_exam = dev_exam
        self.last_loss = math.nan
        self._logged: dict[str, Tensor] = {}
        self._logged_steps = 0

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Micro-batches of this process."""
        loader: DataLoader[Any] = self.accelerator.prepare(self.train_feed.loader())
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], dict[str, Tensor]]:
        """The micro-batches of an optimiser step and each part's count over all of them and all processes."""
        batches = list(islice(epoch_iterator, num_batches))
        counts = [self.objective.count(batch) for batch in batches]
        totals = {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
        if self.accelerator.num_processes > 1:
            totals = self.accelerator.reduce(totals, "sum")
        self._logged_steps += 1
        self.last_loss = 0.0
        return batches, {name: torch.where(total > 0, total, 1.0) for name, total in totals.items()}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """This micro-batch's share of the loss, times the processes whose gradients are averaged."""
        counts: dict[str, Tensor] = num_items_in_batch
        sums = self.objective.sums(model, inputs)
        weights = self.objective.weights
        parts = {name: sums[name] / counts[name] for name in weights}
        loss = torch.stack([weights[name] * part for name, part in parts.items() if weights[name]]).sum()
        value = loss.item()
        if not math.isfinite(value):
            named = ", ".join(f"{name} {part.item():g}" for name, part in parts.items())
            raise TrainingError(f"step {self.state.global_step + 1}: loss is not finite ({named}); {REMEDY}")
        processes = int(self.accelerator.num_processes)
        self.last_loss += value * processes
        for name, part in parts.items():
            self._logged[name] = self._logged.get(name, 0.0) + part.detach()
        return loss * processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to the logged loss its parts: means over the steps, each over all its tokens or examples."""
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise TrainingError(f"step {self.state.global_step}: the gradient is not finite; {REMEDY}")
        if "loss" in logs:
            totals = self.accelerator.reduce(self._logged, "sum")
            means = {name: total.item() / self._logged_steps for name, total in totals.items()}
            logs = {"loss": logs["loss"], **means, **logs}
            self._logged, self._logged_steps = {}, 0
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss, its parts, and the exam on dev. Draws nothing from the generators of the training."""
        self.model.eval()
        devices = [torch.cuda.current_device()] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            found = self._dev_loss() | self._dev_exam()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        for name, value in found.items():
            if not math.isfinite(value):
                raise TrainingError(f"step {self.state.global_step}: {name} on dev is not finite; {REMEDY}")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _dev_loss(self) -> dict[str, float]:
        """Loss and parts, divided by their counts over the whole of dev; empty without dev examples."""
        if not self.dev_feed:
            return {}
        names = list(self.objective.weights)
        sums = torch.zeros(2, len(names), dtype=torch.float64)
        for batch in self.accelerator.prepare(self.dev_feed.loader()):
            with self.compute_loss_context_manager():
                part = self.objective.sums(self.model, batch)
            count = self.objective.count(batch)
            pair = [[part[n].item() for n in names], [count[n].item() for n in names]]
            sums += torch.tensor(pair, dtype=torch.float64)
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(sums.to(self.args.device), "sum")
        parts = {n: s / c if c > 0 else 0.0 for n, s, c in zip(names, *sums.tolist(), strict=True)}
        return {"loss": sum(w * parts[n] for n, w in self.objective.weights.items()), **parts}

    def _dev_exam(self) -> dict[str, float]:
        """What the exam found, on every process what it found on the first."""
        if self.dev_exam is None:
            return {}
        found = [dict(self.dev_exam(self.model))]
        broadcast_object_list(found)
        return found[0]

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices only: a one-dimensional parameter is a norm or a bias, whatever its name."""
        matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
        return [name for name in super().get_decay_parameter_names(model) if name in matrices]

    def floating_point_ops(self, inputs: Any) -> int:
        """Not reported; counting all parameters again at every micro-batch costs time."""
        return 0


@dataclass(frozen=True, slots=True)
class Trained:
    """What one training did.

    Attributes:
        steps: optimiser steps of the whole training.
        chosen_step: the step whose weights the model now has.
        resumed_from: the step this call went on from; 0: it began at the beginning.
        too_long: examples left out because they are over `max_length`.
        dev_too_long: the same of dev.
    """

    steps: int
    chosen_step: int
    resumed_from: int
    too_long: list[Example]
    dev_too_long: list[Example]


def train(
    model: nn.Module,
    tokenizer: Any,
    examples: Sequence[Example],
    dev_examples: Sequence[Example],
    objective: Objective,
    settings: TrainSettings,
    folder: Path,
    *,
    seed: int,
    dev_exam: DevExam | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Trained:
    """Train `model` in place, on the device where it is; go on from the newest checkpoint if there is one.

    Writes `history.jsonl` and `checkpoints/` into `folder`. Afterwards the model is in evaluation
    mode with the weights that `settings.choose` asks for. Killed at any moment and called again
    with the same arguments, it ends with the same weights (bit for bit on CPU) and history.
    Seeds the global generators with `seed`.

    Args:
        examples: `prompt` is rendered text (see `collate.tokenise`).
        dev_examples: evaluated at every checkpoint; may be empty.
        objective: the loss parts, such as `parts.FineTune`.
        dev_exam: its results stand in the history as `dev_<name>`.
        progress: called after every optimiser step with (step, steps, loss).

    Raises:
        RecipeError: settings that contradict each other, the model or the examples.
        TrainingError: a loss or a gradient is not finite.
        DiskError: the folder cannot be written.
    """
    check_choice(settings, dev_examples, dev_exam)
    found = tokenised(model, tokenizer, examples, settings)
    dev = tokenised(model, tokenizer, dev_examples, settings)
    if not found.rows:
        raise TrainingError(f"{folder}: there is no example to train on; look at what the stage before kept")
    with undisturbed(model):
        args = arguments(settings, folder / "checkpoints", seed, next(model.parameters()).device)
        feed = feed_of(model, tokenizer, found.rows, settings, args)
        dev_feed = feed_of(model, tokenizer, dev.rows, settings, args)
        steps_per_epoch = set_steps(args, settings, len(feed.sampler), evaluate=bool(dev.rows or dev_exam))
        mark = fingerprint(settings, seed, objective, [found.rows, dev.rows], steps_per_epoch, model)
        keeper = Keeper(folder / "history.jsonl", mark, feed.sampler, steps_per_epoch, progress)
        trainer = DistilTrainer(model, args, objective, feed, dev_feed, dev_exam, [keeper])
        keeper.last_loss = lambda: trainer.last_loss
        start = run(trainer, mark)
    state = trainer.state
    release(trainer)
    chosen = state.global_step if settings.choose == "last" else state.best_global_step
    return Trained(state.global_step, chosen, start, found.too_long, dev.too_long)


def release(trainer: DistilTrainer) -> None:
    """Let go of optimiser and model: the trainer's own cycles would keep them through the exam."""
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.accelerator.free_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_choice(settings: TrainSettings, dev_examples: Sequence[Example], dev_exam: DevExam | None) -> None:
    """Refuse a choice of checkpoint that nothing decides."""
    if settings.choose == "dev-loss" and not dev_examples:
        raise RecipeError("choose: dev-loss needs dev examples; cut a dev split or choose last")
    if settings.choose == "dev-accuracy" and dev_exam is None:
        raise RecipeError("choose: dev-accuracy needs an exam on dev; cut a dev split or choose last")


def tokenised(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], settings: TrainSettings
) -> Tokenised:
    """Examples as rows for this model."""
    return tokenise(
        tokenizer,
        examples,
        encoder_decoder=is_encoder_decoder(model),
        max_length=settings.max_length,
        prompt_weight=settings.prompt_weight,
    )


def feed_of(
    model: nn.Module, tokenizer: Any, rows: Sequence[Row], settings: TrainSettings, args: TrainingArguments
) -> Feed:
    """Rows with the sampler that the settings ask for."""
    both = is_encoder_decoder(model)
    sampler = BucketSampler(
        [(len(row.input_ids), len(row.labels)) if both else (len(row.input_ids),) for row in rows],
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
        seed=args.seed,
        multiple=args.world_size,
    )
    return Feed(rows, sampler, padding(tokenizer))


def run(trainer: DistilTrainer, mark: str) -> int:
    """Train from the newest whole checkpoint or from the beginning; return the step it began at."""
    folder = Path(trainer.args.output_dir)
    try:
        start = newest(folder, mark)
        if trainer.is_world_process_zero():
            remove_incomplete(folder)
        trainer.train(resume_from_checkpoint=str(start) if start else None)
    except OSError as error:
        raise DiskError(error.filename or folder, error) from error
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch.save's writer
            raise
        raise DiskError(folder, OSError(errno.EIO, "a checkpoint could not be written")) from error
    return step_of(start) if start else 0
