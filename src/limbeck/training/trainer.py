"""The one Trainer subclass: several loss parts with global denominators, in one forward pass.

    loss of an optimiser step = Σ_p weight_p · Σ sums_p / Σ counts_p

Both inner sums run over all micro-batches of the step and all ranks, so that neither padding nor
the way a step is cut into micro-batches and ranks changes what is learned. (The router loss of a
mixture of experts is the one exception, see `parts.Router`.)

The host waits for the device in two places. In every micro-batch it waits for the indices of scored
tokens, pairs and triplets: they are made on the device, and their number decides shapes. And once per
step, after the step's work was begun and before it changes a weight, it reads the parts' values, which say
whether the loss is finite and what the progress shows.
"""

from __future__ import annotations

import errno
import gc
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import SaveStrategy

from limbeck import ranks
from limbeck.errors import DiskError, RecipeError, TrainingError
from limbeck.lm.local import positions_of
from limbeck.lm.sharding import held
from limbeck.objectives.align import is_encoder_decoder, is_sharded
from limbeck.progress import notice
from limbeck.records import Example
from limbeck.training import deepspeed, sharded
from limbeck.training.arguments import arguments, fingerprint, set_steps, undisturbed
from limbeck.training.checkpoints import Keeper, newest, refuse_damaged, remove_others, step_of
from limbeck.training.collate import Batch, Pairs, Tokenised, padding, pairs_in, said_of_pairs, tokenise
from limbeck.training.feed import Feed, dev_feed, train_feed
from limbeck.training.groups import ALL, Draw, Group
from limbeck.training.lowered import Lowered, width_of
from limbeck.training.parts import NEEDS, NEEDS_ELSE, PairPart, Parts, loss, weighted, with_router
from limbeck.training.rows import Rows
from limbeck.training.sampler import Sharing
from limbeck.training.settings import TrainSettings
from limbeck.training.shared_prompts import Verdict, decided

DevExam = Callable[[nn.Module], Mapping[str, float]]
"""Examines the model (in evaluation mode, without gradients) on dev; gives at least "accuracy"."""

Progress = Callable[[int, int, float], None]
"""Called on rank 0 after every optimiser step with (step, steps, loss)."""

REMEDY = "lower learning_rate or lengthen warmup; with bf16 or fp16, set precision to fp32"


class PartsTrainer(Trainer):  # type: ignore[misc]
    """Trains on loss parts; evaluates with the same parts and, if given, an exam.

    Args:
        model: a Hugging Face model, full or PEFT.
        args: the library's arguments (see `training.arguments`).
        parts: the loss, all with a weight above 0.
        train: what to train on.
        dev: what to evaluate on, or None.
        dev_exam: joins its results to every evaluation.
        callbacks: the library's callbacks.
        in_parts: checkpoints are those of `training.sharded`.

    Raises:
        TrainingError: a loss or a gradient is not finite.
    """

    loss_is_scaled_for_ga = True
    control: Any

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        parts: Parts,
        train: Feed,
        dev: Feed | None = None,
        dev_exam: DevExam | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        *,
        in_parts: bool = False,
    ) -> None:
        with _unsaved(args) if in_parts else nullcontext():
            super().__init__(
                model=model, args=args, train_dataset=train, eval_dataset=dev or (), callbacks=list(callbacks)
            )
        if in_parts and args.activation_checkpointing:
            # The cache would keep the copies of all layers in 16 bits, whole, until the forward pass ends.
            self.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)
        self.remove_callback(PrinterCallback)
        self.parts = parts
        self.encoder_decoder = is_encoder_decoder(model)
        self.train_feed = train
        self.dev_feed = dev
        self.dev_exam = dev_exam
        self.in_parts = in_parts
        on_cpu = args.bf16 and args.device.type == "cpu" and not in_parts
        self.lowered = Lowered(model) if on_cpu else None
        self._step_values: list[Tensor] = []
        self._logged: list[dict[str, float]] = []

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This rank's share of the micro-batches."""
        return self.train_feed.loader()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], dict[str, Tensor]]:
        """This rank's micro-batches of a step, and each part's count over the whole step."""
        batches = list(islice(epoch_iterator, num_batches))
        counts_P = self._count(batches).to(device)
        if ranks.world() > 1:
            counts_P = self.accelerator.reduce(counts_P, "sum")
        self._step_counts, self._step_values = counts_P, []
        return batches, self._named(counts_P)

    def _count(self, batches: Sequence[Batch]) -> Tensor:
        """Each part's count over some micro-batches, (P,) float32."""
        both = self.encoder_decoder
        counts_PM = [[part.count(batch, encoder_decoder=both) for batch in batches] for part in self.parts]
        return torch.stack([torch.stack(counts_M).sum() for counts_M in counts_PM])

    def _named(self, counts_P: Tensor) -> dict[str, Tensor]:
        return {part.name: count for part, count in zip(self.parts, counts_P, strict=True)}

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """A micro-batch's forward and backward."""
        with self.lowered.step(width_of(inputs)) if self.lowered else nullcontext():
            step: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """This micro-batch's share of the loss, times the ranks whose gradients are averaged."""
        total, values = loss(self.parts, model, inputs, num_items_in_batch)
        self._step_values.append(self._stacked(values))
        return total * ranks.world()

    def _stacked(self, values: Mapping[str, Tensor]) -> Tensor:
        """The parts' values, (P,)."""
        return torch.stack([values[part.name].float() for part in self.parts])

    def read_step(self) -> float:
        """The loss of the whole step; the host waits for it.

        Raises:
            TrainingError: it is not finite.
        """
        summed = torch.stack(self._step_values).sum(0)
        if ranks.world() > 1:
            summed = self.accelerator.reduce(summed, "sum")
        values, counts = torch.stack([summed, self._step_counts]).tolist()
        value = self._total(values)
        if not math.isfinite(value):
            named = ", ".join(f"{part.name} {v:g}" for part, v in zip(self.parts, values, strict=True))
            step = self.state.global_step + 1
            raise TrainingError(f"step {step}: loss is not finite ({named}); {REMEDY}")
        counted = {part.name: v for part, v, n in zip(self.parts, values, counts, strict=True) if n}
        self._logged.append({"loss": value, **counted})
        return value

    def _total(self, values: Sequence[float]) -> float:
        return sum(part.weight * value for part, value in zip(self.parts, values, strict=True))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the loss and its parts as means over the steps, each over all its tokens or examples.

        A part's mean is over the steps in which it counted something; without any it is left out, since 0
        would say that it is learned.
        """
        if "grad_norm" in logs and self.accelerator.optimizer_step_was_skipped:
            del logs["grad_norm"]  # of a gradient that was thrown away
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise TrainingError(f"step {self.state.global_step}: the gradient is not finite; {REMEDY}")
        if "loss" in logs:
            for name in ("loss", *(part.name for part in self.parts)):
                if column := [step[name] for step in self._logged if name in step]:
                    logs[name] = sum(column) / len(column)
            self._logged = []
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

    @cached_property
    def _dev_counts(self) -> dict[str, Tensor]:
        """What each part is divided by over the whole of dev."""
        assert self.dev_feed is not None
        counts = [self._count([batch]).double() for batch in self.dev_feed.loader()]
        counts_P = torch.stack(counts).sum(0).float().to(self.args.device)
        if ranks.world() > 1:
            counts_P = self.accelerator.reduce(counts_P, "sum")
        return self._named(counts_P)

    def _dev_loss(self) -> dict[str, float]:
        """Loss and parts, divided by their counts over the whole of dev; empty without dev examples.

        A part that counts nothing there is left out.
        """
        if not self.dev_feed:
            return {}
        values = []
        for batch in self.dev_feed.loader():
            with self.compute_loss_context_manager():
                _, found = loss(self.parts, self.model, self._prepare_inputs(batch), self._dev_counts)
            values.append(self._stacked(found))
        own = [sum(column) for column in zip(*torch.stack(values).tolist(), strict=True)]
        parts = [sum(column) for column in zip(*ranks.gather(own), strict=True)]
        named = zip(self.parts, parts, strict=True)
        counted = {part.name: value for part, value in named if self._dev_counts[part.name] > 0}
        return {"loss": self._total(parts), **counted}

    def _dev_exam(self) -> dict[str, float]:
        """What the exam found, on every rank what it found on the first."""
        if self.dev_exam is None:
            return {}
        with _own_forward(self.model):
            return ranks.share(dict(self.dev_exam(self.model)))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights of a checkpoint; where they are in parts, the optimiser's state brings them."""
        if not (self.in_parts or self.is_deepspeed_enabled):
            super().save_model(output_dir, _internal_call)
        elif output_dir:  # the library takes a checkpoint for the best one only if its folder is there
            Path(output_dir).mkdir(parents=True, exist_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.in_parts:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        sharded.save(Path(output_dir), self.model, self.optimizer.optimizer)
        if ranks.main():
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.in_parts:
            sharded.load_model(Path(resume_from_checkpoint), self.model)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.in_parts:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        sharded.load_optimizer(Path(checkpoint), self.model, self.optimizer.optimizer)
        state = torch.load(Path(checkpoint) / SCHEDULER_NAME, map_location="cpu", weights_only=True)
        self.lr_scheduler.load_state_dict(state)

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        refuse_damaged(best)
        if self.in_parts:
            sharded.load_model(best, self.model)
        else:
            super()._load_best_model()

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices only: a one-dimensional parameter is a norm or a bias, whatever its name."""
        matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
        return [name for name in super().get_decay_parameter_names(model) if name in matrices]

    def floating_point_ops(self, inputs: Any) -> int:
        """Not reported; counting all parameters again at every micro-batch costs time."""
        return 0


@contextmanager
def _own_forward(model: nn.Module) -> Iterator[None]:
    """While open, the model computes as the saved one will: without the autocast around it."""
    own, around = vars(model).get("_original_forward"), vars(model).get("forward")
    if own is not None:
        vars(model)["forward"] = own
    try:
        yield
    finally:
        if own is not None:
            vars(model)["forward"] = around


@contextmanager
def _unsaved(args: TrainingArguments) -> Iterator[None]:
    """While open, nothing is to be saved: the library refuses to write checkpoints of sharded models."""
    before, args.save_strategy = args.save_strategy, SaveStrategy.NO
    try:
        yield
    finally:
        args.save_strategy = before


@dataclass(frozen=True, slots=True)
class Training:
    """What one training did.

    Attributes:
        steps: optimiser steps of the whole training.
        chosen_step: the step whose weights the model now has.
        resumed_from: the step this call went on from; 0: it began at the beginning.
        epochs: how often every group was seen; not whole where steps were given.
        tokens: real tokens that the model read in all steps, without padding.
        seconds: wall time of all steps and evaluations, before a resumption too.
        too_long: examples left out because they are over `max_length` or `max_completion`.
        dev_too_long: the same of dev.
        dropped: groups left out because every example of theirs was too long.
        without_span: examples whose `answer_span` could not be found among their tokens.
        pairs: what a divergence between the answers of two rationales could compare; None: no part has one.
        shared: whether prompts were computed once for the rows that share them, and why.
        held: parameters that each process held, by rank; () where each had the whole model.
        skipped: of the steps, those that changed no weight because their scaled gradient was not finite;
            None: the loss was not scaled (it is in fp16 alone).
    """

    steps: int
    chosen_step: int
    resumed_from: int
    epochs: float
    tokens: int
    seconds: float
    too_long: list[Example]
    dev_too_long: list[Example]
    dropped: list[Group]
    without_span: int
    pairs: Pairs | None
    shared: Verdict
    held: tuple[int, ...] = ()
    skipped: int | None = None


def train(
    model: nn.Module,
    tokenizer: Any,
    groups: Iterable[Group],
    dev_groups: Sequence[Group],
    parts: Parts,
    settings: TrainSettings,
    folder: Path,
    *,
    seed: int,
    draw: Draw | None = None,
    dev_exam: DevExam | None = None,
    progress: Progress | None = None,
    corrected: bool = True,
    say: Callable[[str], None] = notice,
) -> Training:
    """Train `model` in place, on the device where it is; go on from the newest checkpoint if there is one.

    Writes `history.jsonl` and `checkpoints/` into `folder`. Afterwards the model is in evaluation
    mode with the weights that `settings.choose` asks for. Killed at any moment and called again
    with the same arguments, it ends with the same weights (bit for bit on CPU) and history.
    Seeds the global generators with `seed`.

    Under several ranks every one calls this; they share the steps that one alone would do.

    Args:
        groups: what to train on; each is seen once per epoch, and `prompt` is rendered text. They are gone
            through once, and nothing is kept of their texts.
        dev_groups: evaluated at every checkpoint, always on what `draw` gives of them in the first epoch;
            may be empty.
        parts: the loss; those weighted 0 are neither run nor logged. The router loss of a
            mixture-of-experts model that asks for it joins them.
        draw: what a group gives each epoch; None: all of it.
        dev_exam: its results are in the history as `dev_<name>`.
        progress: called after every optimiser step with (step, steps, loss).
        corrected: False leaves what `batches: by-length` hold as it weighs by itself.
        say: on rank 0, gets a line where a checkpoint is damaged and another one is taken, where prompts
            are computed once, or would be if it were possible, where `batch_tokens` makes steps smaller,
            where there is nobody to share a model, and where answers that a part compares are in no pair.

    Raises:
        RecipeError: settings that contradict each other, the model, the ranks or the examples.
        TrainingError: a part of the loss counts nothing, or a loss or a gradient is not finite.
        DiskError: the folder cannot be written.
    """
    ranks.barrier()  # begins their group, before the library would with a timeout of minutes
    check_choice(settings, dev_groups, dev_exam)
    parts, draw = with_router(weighted(parts), model), draw or ALL
    sharing = Sharing(settings.accumulate, ranks.rank(), ranks.world())
    shares = _shares(model, settings, say)
    found, dev = _tokenised(model, tokenizer, groups, dev_groups, settings, folder)
    pairs = _pairs(found, parts, say)
    with undisturbed(model), deepspeed.undone():
        device = next(model.parameters()).device
        args = arguments(settings, folder / "checkpoints", seed, device, sharing.turns)
        both = is_encoder_decoder(model)
        about: Any = {"draw": draw, "seed": seed, "pad": padding(tokenizer), "encoder_decoder": both}
        feed = train_feed(found.groups, settings, sharing, corrected=corrected, **about)
        refuse_idle(parts, feed, settings)
        held_out = dev_feed(dev.groups, settings, **about)
        shared = decided(model, feed, settings, parts)
        feed = replace(feed, share=shared.shared)
        if ranks.main():
            for line in _to_know(feed, shared, settings, len(found.groups)):
                say(line)
        per_epoch = feed.sampler.steps_per_epoch
        set_steps(args, settings, per_epoch, evaluate=bool(dev.groups or dev_exam))
        splits = [found.groups, dev.groups]
        mark = fingerprint(
            settings, seed, parts, splits, draw.per_role, per_epoch, model, corrected=corrected
        )
        keeper = Keeper(folder / "history.jsonl", mark, feed.sampler, progress)
        in_parts = settings.sharding != "none"
        trainer = PartsTrainer(model, args, parts, feed, held_out, dev_exam, [keeper], in_parts=in_parts)
        keeper.read_step = trainer.read_step
        before = deepspeed.modules_of(model) if trainer.is_deepspeed_enabled else []
        start = run(trainer, keeper, say)
        if before:
            shares = deepspeed.make_whole(model, before)
    state = trainer.state
    release(trainer)
    if before:
        model.to(device)
    return Training(
        steps=state.global_step,
        chosen_step=state.global_step if settings.choose == "last" else state.best_global_step,
        resumed_from=start,
        epochs=state.global_step / per_epoch,
        tokens=feed.tokens(state.global_step),
        seconds=keeper.seconds,
        too_long=found.too_long,
        dev_too_long=dev.too_long,
        dropped=found.dropped,
        without_span=found.without_span,
        pairs=pairs,
        shared=shared,
        held=shares,
        skipped=keeper.skipped if settings.precision == "fp16" else None,
    )


def _tokenised(
    model: nn.Module,
    tokenizer: Any,
    groups: Iterable[Group],
    dev_groups: Sequence[Group],
    settings: TrainSettings,
    folder: Path,
) -> tuple[Tokenised, Tokenised]:
    """What is trained on, and dev, as rows of tokens that fit the model."""
    given: Any = {
        "encoder_decoder": is_encoder_decoder(model),
        "max_length": settings.max_length,
        "max_completion": settings.max_completion,
        "prompt_weight": settings.prompt_weight,
        "folder": folder,
    }
    found = tokenise(tokenizer, groups, **given)
    dev = tokenise(tokenizer, dev_groups, **given)
    if not found.groups:
        raise TrainingError(f"{folder}: there is no example to train on; look at what the stage before kept")
    _refuse_beyond_positions(model, [found.rows, dev.rows])
    return found, dev


def _pairs(found: Tokenised, parts: Parts, say: Callable[[str], None]) -> Pairs | None:
    """What can be compared, said before a training without any pair is refused; None: no part compares."""
    if not any(isinstance(part, PairPart) for part in parts):
        return None
    pairs = pairs_in(found.groups)
    if ranks.main():
        for line in said_of_pairs(found, pairs):
            say(line)
    return pairs


def _to_know(feed: Feed, shared: Verdict, settings: TrainSettings, groups: int) -> Iterator[str]:
    """What a user should know of the steps before the first one: shared prompts, and where tokens cut."""
    if shared.because:
        yield f"train.share_prompts: {shared.because}"
    if wanted := feed.sampler.tokens_wanted:
        yield (
            f"train.batch_tokens: {settings.batch_tokens} makes steps smaller: they have "
            f"{groups / feed.sampler.steps_per_epoch:.1f} groups on average, not "
            f"{settings.batch_size * settings.accumulate}; {wanted} would cut none"
        )


def _shares(model: nn.Module, settings: TrainSettings, say: Callable[[str], None]) -> tuple[int, ...]:
    """How many parameters each rank holds where they are shared out; () where they are not.

    Raises:
        RecipeError: they were to be shared out, and some are not, or the other way round.
    """
    if settings.sharding == "none" and is_sharded(model):
        raise RecipeError("train.sharding: none, and the model is sharded; set it to fsdp")
    if not settings.deepspeed:
        deepspeed.refuse_from_outside()
    if settings.how_shared is None:
        return ()
    if ranks.world() == 1:
        say(
            f"train.{settings.how_shared}: one process holds the whole model; start several with torchrun to "
            "share it out"
        )
        return ()
    if settings.deepspeed:
        deepspeed.check_installed()
        deepspeed.refuse_elsewhere(next(model.parameters()).device)
        return ()  # its engine shares them out
    return tuple(ranks.gather(held(model)))


def _refuse_beyond_positions(model: nn.Module, splits: Sequence[Rows]) -> None:
    """Refuse rows that are longer than what the model has positions for.

    Raises:
        RecipeError: naming both lengths.
    """
    limit = positions_of(model.config)
    longest = max(int(rows.lengths.max(initial=0)) for rows in splits)
    if limit is not None and longest > limit:
        raise RecipeError(
            f"max_length: the longest example has {longest} tokens, and the model {limit} positions; "
            f"lower max_length to {limit}, which leaves longer ones out, or take a model with more"
        )


def refuse_idle(parts: Parts, feed: Feed, settings: TrainSettings) -> None:
    """Refuse a part of the loss that would count nothing in a whole training, before its first step.

    The batches of all ranks are looked at, each part's up to the first one in which it counts something.

    Raises:
        TrainingError: naming the part and what it needs.
    """
    per_epoch = feed.sampler.steps_per_epoch
    epochs = math.ceil(settings.steps / per_epoch) if settings.steps else settings.epochs
    for part in parts:
        batches = (
            feed[epoch, micro]
            for epoch in range(epochs if feed.draw.per_role else 1)  # without a draw all are the same
            for step in feed.sampler.steps(epoch)
            for micro in step
        )
        if not any(part.count(batch, encoder_decoder=feed.encoder_decoder) > 0 for batch in batches):
            raise TrainingError(
                f"{part.name}: this part of the loss counts nothing in any epoch, so it would train nothing; "
                + NEEDS.get(type(part), NEEDS_ELSE)
            )


def release(trainer: PartsTrainer) -> None:
    """Let go of optimiser and model: the trainer's own cycles would keep them through the exam."""
    trainer.optimizer = trainer.lr_scheduler = trainer.deepspeed = None
    trainer.model_wrapped = trainer.model
    trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
    trainer.accelerator.free_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_choice(settings: TrainSettings, dev_groups: Sequence[Group], dev_exam: DevExam | None) -> None:
    """Refuse a choice of checkpoint that nothing decides."""
    if settings.choose == "dev-loss" and not dev_groups:
        raise RecipeError("choose: dev-loss needs dev examples; cut a dev split or choose last")
    if settings.choose == "dev-accuracy" and dev_exam is None:
        raise RecipeError("choose: dev-accuracy needs an exam on dev; cut a dev split or choose last")


def run(trainer: PartsTrainer, keeper: Keeper, say: Callable[[str], None]) -> int:
    """Train from the newest whole checkpoint or from the beginning; return the step it began at."""
    folder = Path(trainer.args.output_dir)
    try:
        start = ranks.share(newest(folder, keeper.fingerprint, say) if ranks.main() else None)
        if ranks.main():
            remove_others(folder, start)
        if start:
            deepspeed.refuse_other_number(start, ranks.world() if trainer.is_deepspeed_enabled else 0)
            keeper.went_on_from(start)
        with warnings.catch_warnings():
            # Of a sharded T5's blocks; their states are changed in place by nobody.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
            trainer.train(resume_from_checkpoint=str(start) if start else None)
    except OSError as error:
        raise DiskError(error.filename or folder, error) from error
    except (SafetensorError, RuntimeError) as error:  # what was read had its sums checked before
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch.save's writer
            raise
        raise DiskError(folder, OSError(errno.EIO, "a checkpoint could not be written")) from error
    return step_of(start) if start else 0
