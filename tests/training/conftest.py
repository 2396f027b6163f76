"""A word-level tokenizer, ragged examples and tiny models, for tests that really train."""

import json
import random
import warnings

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from limbeck.records import Example
from limbeck.training.groups import Group, singles
from limbeck.training.parts import CrossEntropy
from limbeck.training.settings import TrainSettings
from limbeck.training.trainer import train

WORDS = ["<pad>", "</s>", "<unk>", *[f"w{n}" for n in range(40)]]


@pytest.fixture(scope="session")
def tokenizer():
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def some_examples(count, seed=0):
    """Ragged: completions of 1 to 14 words."""
    draw = random.Random(seed)

    def text(least, most):
        return " ".join(f"w{draw.randrange(40)}" for _ in range(draw.randint(least, most)))

    return [Example(problem_id=str(n), prompt=text(1, 8), completion=text(1, 14)) for n in range(count)]


@pytest.fixture(scope="session")
def make_examples():
    return some_examples


def build(kind, lora=False, dropout=0.0, seed=5):
    torch.manual_seed(seed)
    if kind == "llama":
        config = LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_dropout=dropout,
            tie_word_embeddings=True,
        )
        model, targets = LlamaForCausalLM(config), ["q_proj", "v_proj"]
    else:
        config = T5Config(
            vocab_size=len(WORDS),
            d_model=16,
            d_kv=4,
            d_ff=24,
            num_layers=2,
            num_heads=4,
            dropout_rate=dropout,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
        model, targets = T5ForConditionalGeneration(config), ["q", "v"]
    if not lora:
        return model
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():  # peft 0.21 reads a name that transformers 5.23 deprecates
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(
            model, LoraConfig(r=4, lora_alpha=16, target_modules=targets, lora_dropout=dropout)
        )


@pytest.fixture(scope="session")
def make_model():
    return build


def grouped(data):
    """Examples as groups of one; groups as they are."""
    return [one if isinstance(one, Group) else singles([one])[0] for one in data]


@pytest.fixture
def fit(tokenizer, tmp_path):
    """Train with few words: fit(model, examples or groups, epochs=2, ...); settings and arguments of
    `train` together."""

    def fitting(
        model,
        data,
        dev=(),
        parts=None,
        folder=None,
        seed=3,
        draw=None,
        dev_exam=None,
        progress=None,
        corrected=True,
        **settings,
    ):
        return train(
            model,
            tokenizer,
            grouped(data),
            grouped(dev),
            parts or (CrossEntropy(),),
            TrainSettings(**settings),
            folder or tmp_path / "run",
            seed=seed,
            draw=draw,
            dev_exam=dev_exam,
            progress=progress,
            corrected=corrected,
        )

    return fitting


@pytest.fixture(scope="session")
def history():
    return lambda folder: [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def trainable():
    """The trainable weights in one vector."""
    return lambda model: torch.cat(
        [p.detach().flatten().clone() for p in model.parameters() if p.requires_grad]
    )
