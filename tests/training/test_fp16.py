"""fp16 with a scaled loss: for CUDA GPUs alone; here the library's scaler works on the CPU instead."""

import json
from types import SimpleNamespace

import pytest
import torch

from limbeck.errors import RecipeError, TrainingError
from limbeck.training import arguments
from limbeck.training.checkpoints import MARKER, skipped_of
from limbeck.training.settings import TrainSettings
from limbeck.training.trainer import PartsTrainer

from .test_resume import Stop, stop_at

SETTINGS = {"epochs": 3, "batch_size": 3, "schedule": "linear", "checkpoints": 4, "precision": "fp16"}
"""12 examples: 4 steps an epoch, 12 steps, checkpoints at 3, 6, 9 and 12."""


@pytest.fixture
def scaled_on_cpu(monkeypatch):
    """Trainings in fp16 on the CPU, by a scaler that begins at 2²⁰ and doubles after every second good step.

    Everything but the device is what a GPU gets: accelerate makes no scaler on a CPU.
    """
    begin, made = (
        PartsTrainer.create_accelerator_and_postprocess,
        SimpleNamespace(init_scale=2.0**20, scaler=None),
    )

    def with_a_scaler(self):
        begin(self)
        if self.args.fp16:
            made.scaler = torch.amp.GradScaler("cpu", init_scale=made.init_scale, growth_interval=2)
            self.accelerator.scaler, self.accelerator.native_amp = made.scaler, True

    monkeypatch.setattr(PartsTrainer, "create_accelerator_and_postprocess", with_a_scaler)
    monkeypatch.setattr(arguments, "refuse_fp16", lambda settings, device: None)
    return made


def overflows_at(model, *steps):
    """The model's gradient is infinite in these steps, counted from 1, whatever its scale."""
    seen = []

    def hook(gradient):
        seen.append(1)
        return gradient * float("inf") if len(seen) in steps else gradient

    model.model.norm.weight.register_hook(hook)
    return model


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_it_is_refused_without_a_cuda_gpu(device):
    with pytest.raises(RecipeError, match=f"fp16 needs a CUDA GPU, and this training is on {device}; set it"):
        arguments.refuse_fp16(TrainSettings(precision="fp16"), torch.device(device))
    arguments.refuse_fp16(TrainSettings(precision="fp16"), torch.device("cuda"))


def test_a_training_on_a_cpu_is_refused(fit, make_model, make_examples):
    with pytest.raises(RecipeError, match="set it to bf16 or fp32"):
        fit(make_model("llama"), make_examples(4), precision="fp16")


def test_it_computes_in_float16_under_a_scaled_loss(
    scaled_on_cpu, fit, make_model, make_examples, tmp_path, trainable
):
    """And what is learned is what bf16 learns, about."""
    scaled_on_cpu.init_scale = 2.0**8
    types, model, plain = set(), make_model("llama"), make_model("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda module, given, found: types.add(found.dtype))
    done = fit(model, make_examples(12), **SETTINGS)
    assert types == {torch.float16}
    assert scaled_on_cpu.scaler.get_scale() == 2.0**14
    other = SETTINGS | {"precision": "bf16"}
    assert done.skipped == 0
    assert fit(plain, make_examples(12), folder=tmp_path / "plain", **other).skipped is None
    begun = trainable(make_model("llama"))
    moved, expected = trainable(model) - begun, trainable(plain) - begun
    assert torch.cosine_similarity(moved, expected, 0) > 0.9


def test_a_skipped_step_changes_no_weight_and_is_counted(
    scaled_on_cpu, fit, make_model, make_examples, tmp_path, trainable, history
):
    model, rates = make_model("llama"), []
    done = fit(overflows_at(model, *range(1, 13)), make_examples(12), **SETTINGS)
    assert (done.steps, done.skipped) == (12, 12)
    assert torch.equal(trainable(model), trainable(make_model("llama")))
    rows = [row for row in history(tmp_path / "run") if "loss" in row]
    rates = {row["learning_rate"] for row in rows}
    assert len(rows) == 12 and len(rates) == 1  # the schedule waits for steps that count
    assert not any("grad_norm" in row for row in rows)  # JSON has no infinity
    assert (
        "Infinity"
        not in (tmp_path / "run" / "checkpoints" / "checkpoint-12" / "trainer_state.json").read_text()
    )


@pytest.mark.parametrize("stop", [2, 4, 7])
def test_scale_and_count_go_on_after_a_stop(
    scaled_on_cpu, fit, make_model, make_examples, tmp_path, trainable, history, stop
):
    def tell(folder, overflows, progress=None):
        model = overflows_at(make_model("llama"), *overflows)
        done = fit(model, make_examples(12), folder=tmp_path / folder, progress=progress, **SETTINGS)
        return done, trainable(model), history(tmp_path / folder)

    done, weights, rows = tell("undisturbed", (2, 3, 8))
    scale = scaled_on_cpu.scaler.state_dict()
    assert done.skipped >= 3  # its first scale is too large as well
    with pytest.raises(Stop):
        tell("stopped", (2, 3, 8), stop_at(stop))
    begun = stop // 3 * 3
    again, weights_again, rows_again = tell("stopped", [one - begun for one in (2, 3, 8)])
    assert again.resumed_from == begun
    assert again.skipped == done.skipped
    assert scaled_on_cpu.scaler.state_dict() == scale
    assert torch.equal(weights_again, weights)
    assert rows_again == rows


def test_a_checkpoint_from_before_fp16_had_skipped_nothing(fit, make_model, make_examples, tmp_path):
    fit(make_model("llama"), make_examples(4), epochs=1)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    marker = json.loads((checkpoint / MARKER).read_text())
    assert marker.pop("skipped") == 0
    (checkpoint / MARKER).write_text(json.dumps(marker))
    assert skipped_of(checkpoint) == 0


def test_a_gradient_that_no_scale_makes_finite_ends_the_training(
    scaled_on_cpu, fit, make_model, make_examples
):
    model = overflows_at(make_model("llama"), *range(1, 99))
    with pytest.raises(TrainingError, match="step 21: the gradient is not finite in fp16, whatever its"):
        fit(model, make_examples(12), **SETTINGS | {"epochs": 9})
