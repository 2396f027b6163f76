"""The settings of a training: closed, and readable without torch."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from limbeck.errors import RecipeError
from limbeck.training.arguments import warmup_steps
from limbeck.training.settings import TrainSettings


def test_unknown_key_is_refused():
    with pytest.raises(ValidationError, match="lerning_rate"):
        TrainSettings(lerning_rate=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"warmup": 1.5}, {"checkpoints": 0}, {"choose": "test"}, {"precision": "fp8"}]
)
def test_impossible_values_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrainSettings(**wrong)


@pytest.mark.parametrize("asked", ["deepspeed", "zero3"])
def test_deepspeed_is_no_word_for_sharding(asked):
    with pytest.raises(ValidationError, match=r"DeepSpeed is asked for by train.deepspeed: FILE"):
        TrainSettings(sharding=asked)


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "clip", "prompt_weight", "warmup"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_are_finite(name, value):
    with pytest.raises(ValidationError, match=name):
        TrainSettings(**{name: float(value)})


def test_every_setting_is_described():
    fields = TrainSettings.model_fields
    assert [name for name, field in fields.items() if not field.description] == []


def test_reading_settings_loads_no_torch():
    code = (
        "import limbeck.training.settings, sys; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_warmup_is_a_share_or_a_number_of_steps():
    """Tailored learning's is 100 steps (arXiv 2310.13332)."""
    shares = [warmup_steps(TrainSettings(warmup=share), 250) for share in (0, 0.02, 0.999)]
    assert shares == [0, 5, 250]
    assert [warmup_steps(TrainSettings(warmup=number), 250) for number in (1, 100, 249.0)] == [1, 100, 249]
    with pytest.raises(RecipeError, match=r"train\.warmup: 250 steps, and the training has 250, .*fewer"):
        warmup_steps(TrainSettings(warmup=250), 250)
