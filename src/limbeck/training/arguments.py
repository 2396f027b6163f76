"""From our settings to the library's arguments, and what distinguishes one training from another."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from limbeck import ranks
from limbeck.errors import RecipeError
from limbeck.files import digest as digest_of
from limbeck.objectives.align import unwrap
from limbeck.training import deepspeed
from limbeck.training.parts import Parts
from limbeck.training.rows import RowGroup
from limbeck.training.settings import TrainSettings

LOGGED_ROWS = 200
"""Rows of a training's learning curve, about."""


def arguments(
    settings: TrainSettings, folder: Path, seed: int, device: torch.device, turns: int
) -> TrainingArguments:
    """The library's arguments; `set_steps` adds what depends on the number of steps.

    Args:
        turns: micro-batches of a step that each process takes part in (see `sampler.Sharing`).

    Raises:
        RecipeError: bf16 on a GPU that does not know it, fp16 without a CUDA GPU, a precision that was
            not settled, or a file of DeepSpeed that cannot be taken.
    """
    if settings.precision == "auto":
        raise RecipeError("precision: auto is settled by a run of a recipe; here write fp32 or bf16")
    if settings.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise RecipeError("precision: this GPU does not compute in bf16; set it to fp16 or fp32")
    refuse_fp16(settings, device)
    shared_out = deepspeed.read(settings.deepspeed) if settings.deepspeed else None
    warm = settings.schedule == "constant" and settings.warmup > 0
    # Fused AdamW leaves a step out by itself, and accelerate 1.15 would not see that it was skipped.
    adamw = "adamw_torch" if settings.precision == "fp16" else "adamw_torch_fused"
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,  # an item is a micro-batch, see Feed
        gradient_accumulation_steps=turns,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if warm else settings.schedule,
        optim={"adamw": adamw, "sgd": "sgd"}[settings.optimizer],
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        activation_checkpointing=settings.gradient_checkpointing,
        deepspeed=shared_out if ranks.world() > 1 else None,
        accelerator_config=None if settings.sharding == "none" else _shared_out_at_once(),
        load_best_model_at_end=False,
        logging_nan_inf_filter=False,  # a loss that is not finite is an error here
        save_total_limit=None,  # the keeper removes old checkpoints
        seed=seed,
        use_cpu=device.type == "cpu",
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
        report_to="none",
    )
    args._n_gpu = min(args.n_gpu, 1)  # one process, one device: nn.DataParallel would copy the head's hook
    return args


def _shared_out_at_once() -> dict[str, dict[str, bool]]:
    """For gradients of sharded models: the library would keep them whole until the last micro-batch of a
    step. It changes what it is given, so each training gets its own."""
    return {"gradient_accumulation_kwargs": {"sync_each_batch": True}}


def refuse_fp16(settings: TrainSettings, device: torch.device) -> None:
    """Refuse fp16 elsewhere than on a CUDA GPU: a CPU computes in it slowly and has no scaled loss.

    Raises:
        RecipeError: that is so.
    """
    if settings.precision == "fp16" and device.type != "cuda":
        raise RecipeError(
            f"precision: fp16 needs a CUDA GPU, and this training is on {device.type}; set it to bf16 or fp32"
        )


def set_steps(args: TrainingArguments, settings: TrainSettings, per_epoch: int, *, evaluate: bool) -> None:
    """Set the warm-up, and when to log, evaluate and save, from the optimiser steps of an epoch.

    Raises:
        RecipeError: the warm-up is as long as the training.
    """
    total = settings.steps or per_epoch * settings.epochs
    every = per_epoch if settings.checkpoints == "epoch" else math.ceil(total / settings.checkpoints)
    args.warmup_steps = warmup_steps(settings, total)
    args.logging_steps = max(1, total // LOGGED_ROWS)
    args.save_strategy = SaveStrategy.STEPS
    args.save_steps = every
    if evaluate:
        args.eval_strategy = IntervalStrategy.STEPS
        args.eval_steps = every
    if settings.choose != "last":
        args.load_best_model_at_end = True
        args.metric_for_best_model = {"dev-loss": "eval_loss", "dev-accuracy": "eval_accuracy"}[
            settings.choose
        ]
        args.greater_is_better = settings.choose == "dev-accuracy"


def warmup_steps(settings: TrainSettings, total: int) -> int:
    """In how many of all steps the learning rate rises.

    Raises:
        RecipeError: in all of them, so that it would never be reached.
    """
    if settings.warmup < 1:
        return math.ceil(total * settings.warmup)
    if settings.warmup >= total:
        raise RecipeError(
            f"train.warmup: {settings.warmup:.0f} steps, and the training has {total}, so that it would "
            "never reach its learning rate; give fewer, or a share below 1"
        )
    return int(settings.warmup)


def fingerprint(
    settings: TrainSettings,
    seed: int,
    parts: Parts,
    splits: Sequence[Sequence[RowGroup]],
    draw: Mapping[str, int],
    steps_per_epoch: int,
    model: nn.Module,
    *,
    corrected: bool,
) -> str:
    """Identifies a training, so that none goes on from another's checkpoint.

    It knows the trained parameters' names, shapes and types, not their values, and the parts' names
    and weights, not what they compute. The number of processes is not in it, nor whether prompts are computed
    once: both change nothing but roundings.
    """
    trained = [(n, list(p.shape), str(p.dtype)) for n, p in model.named_parameters() if p.requires_grad]
    weights = [(part.name, part.weight) for part in parts]
    plain = [
        settings.model_dump(mode="json", exclude={"share_prompts", "deepspeed"}),
        seed,
        weights,
        sorted(draw.items()),
        steps_per_epoch,
        trained,
        corrected,
    ]
    if settings.deepspeed:
        plain.append(digest_of(Path(settings.deepspeed).expanduser()))
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for groups in splits:
        digest.update(str(len(groups)).encode())
        for group in groups:
            rows = [
                (
                    list(row.input_ids),
                    list(row.labels),
                    None if row.weights is None else list(row.weights),
                    row.scored,
                    row.role,
                    row.span,
                )
                for row in group.rows
            ]
            digest.update(repr((group.key, rows)).encode())
    return digest.hexdigest()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Silence the library's bars, and put back what else it changes on the way.

    That is its verbosity, `use_cache` (which would be saved with the model), autocast around
    `forward` (which would make an exam differ from that of the saved model), and checkpointing.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    config = vars(unwrap(model).config)
    use_cache, forward = config.get("use_cache"), vars(model).get("forward")
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if use_cache is not None:
            config["use_cache"] = use_cache
        model.activation_checkpointing_disable()  # type: ignore[operator]
        for name in ("forward", "_original_forward"):
            vars(model).pop(name, None)
        if forward is not None:
            vars(model)["forward"] = forward
        model.eval()
