"""How a model is trained; holds no torch, so that a recipe is read without it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from limbeck.settings import Settings


def _share_or_steps(warmup: float) -> float:
    if warmup >= 1 and warmup != int(warmup):
        raise ValueError("give a share of all steps below 1, or a whole number of steps")
    return warmup


def _not_otherwise(sharding: object) -> object:
    """Tensor parallel training with adapters, and DeepSpeed, are what published models were trained by."""
    if isinstance(sharding, str) and sharding.replace("_", "-") in ("tp", "tensor", "tensor-parallel"):
        raise ValueError(
            "tensor parallel training is not offered, because adapters on all layers fail in it; take fsdp, "
            "with lora where a whole model is too large to train"
        )
    if isinstance(sharding, str) and sharding.lower().startswith(("deepspeed", "zero")):
        raise ValueError("DeepSpeed is asked for by train.deepspeed: FILE; here take none or fsdp")
    return sharding


class TrainSettings(Settings):
    """Settings of one training; rate, batch and epochs are Fine-tune-CoT's (arXiv 2212.10071).

    An optimiser step sees `accumulate` micro-batches of `batch_size` groups, however many processes
    share them. Losses are divided by counts over the whole step, so batch_size 8 with accumulate 1
    learns the same as 1 with 8.
    """

    epochs: int = Field(20, ge=1, le=100_000, description="times every group (mostly: every example) is seen")
    steps: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="optimiser steps, instead of epochs: the examples come again until so many are done",
    )
    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate")
    batch_size: int = Field(
        8, ge=1, description="most groups in a micro-batch; where every example is a group: examples"
    )
    batch_tokens: int = Field(
        8192,
        ge=1,
        description="most tokens in a micro-batch with its padding, over all examples of its groups; "
        "encoder and decoder count together",
    )
    batches: Literal["random", "by-length"] = Field(
        "random",
        description="which groups share a micro-batch: any, or those of similar length, which pads less; "
        "tokens, pairs and triplets are then weighted so that each counts on average as in random batches",
    )
    accumulate: int = Field(1, ge=1, description="micro-batches per optimiser step, shared by all processes")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or plain gradient descent")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="learning rate after the warm-up: kept, or brought to 0 at the last step"
    )
    warmup: Annotated[float, AfterValidator(_share_or_steps)] = Field(
        0.0,
        ge=0,
        description="steps in which the rate rises from 0: below 1 a share of all, from 1 up their number",
    )
    weight_decay: float = Field(0.01, ge=0, description="of matrices; norms and biases are never decayed")
    clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    max_length: int = Field(
        512,
        ge=2,
        description="longest example in tokens: prompt and completion together, or each of encoder and "
        "decoder; passages, then demonstrations are cut to fit (of an encoder-decoder in exams too); what is "
        "still longer is left out and reported",
    )
    max_completion: int | None = Field(
        None,
        ge=2,
        description="longest completion in tokens, with its end of sequence; examples with longer ones are "
        "left out and reported (tailored learning: 192, also of what is compared)",
    )
    precision: Literal["fp32", "bf16", "fp16", "auto"] = Field(
        "fp32",
        description="bf16 and fp16 compute under autocast, the weights keep their type; fp16 is for CUDA "
        "GPUs without bf16, and scales the loss; auto tries fp32 and bf16 once, and takes bf16 where it "
        "learns the same and is faster",
    )
    gradient_checkpointing: bool = Field(False, description="less memory, about a third more time")
    sharding: Annotated[Literal["none", "fsdp"], BeforeValidator(_not_otherwise)] = Field(
        "none",
        description="fsdp: each of several processes holds a part of the weights, gradients and optimiser "
        "state (FSDP2) in place of a whole copy",
    )
    deepspeed: str | None = Field(
        None,
        min_length=1,
        description="the same by DeepSpeed ZeRO-3, in fp32: its configuration, a JSON file (docs/scale.md)",
    )
    share_prompts: bool | Literal["auto"] = Field(
        "auto",
        description="compute a prompt once for the rows of a micro-batch that share it, with the same "
        "gradients; auto where it is 1.2 times faster by arithmetic, and possible: without dropout and a "
        "router loss, in a decoder-only model also without gradient_checkpointing",
    )
    prompt_weight: float = Field(
        0.0,
        ge=0,
        description="weight of prompt tokens in the loss, decoder-only models (tailored learning: 0.1)",
    )
    choose: Literal["last", "dev-loss", "dev-accuracy"] = Field(
        "last", description="which checkpoint becomes the model; the test split never chooses"
    )
    checkpoints: Annotated[int, Field(ge=1)] | Literal["epoch"] = Field(
        "epoch", description="when to evaluate on dev and save: once per epoch, or this often in the run"
    )

    @model_validator(mode="after")
    def _what_was_tried_of_deepspeed(self) -> Self:
        if self.deepspeed is not None and self.sharding != "none":
            raise ValueError("deepspeed and sharding: fsdp share out the same things; leave one of them out")
        if self.deepspeed is not None and self.precision != "fp32":
            raise ValueError(
                f"deepspeed was never tried with precision: {self.precision}; set it to fp32, or take "
                "sharding: fsdp"
            )
        return self

    @model_validator(mode="after")
    def _no_process_alone(self) -> Self:
        """What one process would do by itself, a process with a part of the model cannot."""
        how = self.how_shared
        if how is None:
            return self
        if self.choose == "dev-accuracy":
            raise ValueError(
                f"{how} does not go with choose: dev-accuracy, because processes that "
                "write answers of different lengths would wait for each other; choose dev-loss or last"
            )
        if self.precision == "auto":
            raise ValueError(
                f"{how} does not go with precision: auto, which tries the whole model in "
                "one process; write fp32 or bf16"
            )
        return self

    @property
    def how_shared(self) -> str | None:
        """The setting by which several processes hold a part of the weights each; None: each holds all."""
        if self.sharding != "none":
            return f"sharding: {self.sharding}"
        return "deepspeed" if self.deepspeed is not None else None


RANKING = TrainSettings(epochs=3, learning_rate=1e-4, batch_size=16, schedule="linear", warmup=0.05)
"""KARD's training of its reranker."""

UNUSED_IN_RANKING = (
    "batches",
    "max_length",
    "max_completion",
    "prompt_weight",
    "choose",
    "sharding",
    "deepspeed",
    "share_prompts",
)
"""Settings of trainings that have no effect on a reranker's."""


def refuse_unused_in_ranking(train: TrainSettings) -> None:
    """Refuse settings that a reranker's training would leave aside without a word.

    Raises:
        ValueError: naming the setting.
    """
    for name in UNUSED_IN_RANKING:
        if getattr(train, name) != (usual := TrainSettings.model_fields[name].default):
            raise ValueError(f"train.{name}: has no effect on a reranker; leave it at {usual}")
    if train.precision == "auto":
        raise ValueError("train.precision: auto is not available for a reranker; write fp32 or bf16")
    if train.precision == "fp16":
        raise ValueError("train.precision: fp16 is not available for a reranker; write fp32 or bf16")
