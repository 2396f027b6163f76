"""Tiny random models and ragged batches for the objectives."""

import warnings

import pytest
import torch
from torch.nn.functional import pad
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.divergence import divergence
from limbeck.objectives.tokens import Term, token_loss

VOCABULARY = 53


def llama():
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config), ["q_proj", "lm_head"]


def gemma():
    """Caps its logits after the head, and ties the head to the embeddings."""
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        final_logit_softcapping=0.5,
    )
    return Gemma2ForCausalLM(config), ["q_proj", "v_proj"]


def t5():
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5ForConditionalGeneration(config), ["q", "v"]


BUILDERS = {"llama": llama, "gemma": gemma, "t5": t5}


@pytest.fixture(params=["llama", "llama+lora", "gemma", "t5", "t5+lora"])
def model(request):
    """Every architecture, full and with LoRA (of Llama also on the head)."""
    kind, _, lora = request.param.partition("+")
    torch.manual_seed(7)
    built, targets = BUILDERS[kind]()
    if not lora:
        return built
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():  # peft 0.21 reads a name that transformers 5.23 deprecates
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(built, LoraConfig(r=3, target_modules=targets, init_lora_weights=False))


@pytest.fixture
def batch(model):
    """Three ragged rows; of the last nothing is scored."""
    return ragged(model.config.is_encoder_decoder)


def ragged(encoder_decoder):
    generator = torch.Generator().manual_seed(11)
    prompts, completions = (5, 2, 4), (3, 6, 0)
    rows = []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = torch.randint(3, VOCABULARY, (prompt + completion,), generator=generator)
        labels = ids.clone()
        labels[:prompt] = -100
        rows.append((ids[:prompt], labels[prompt:]) if encoder_decoder else (ids, labels))
    return {
        "input_ids": stack([ids for ids, _ in rows], 0),
        "attention_mask": stack([torch.ones_like(ids) for ids, _ in rows], 0),
        "labels": stack([labels for _, labels in rows], -100),
        "begins": torch.tensor([0, 0, 0] if encoder_decoder else prompts),
    }


def stack(tensors, fill):
    longest = max(len(tensor) for tensor in tensors)
    return torch.stack([pad(tensor, (0, longest - len(tensor)), value=fill) for tensor in tensors])


def term(step, scale=1.0, weights=None, **more):
    return Term(step, torch.tensor(float(scale)), weights, **more)


def mixture(source, head, targets, soft, tau=2.0, share=0.3, squared=False, weights=None):
    """(1 - share) cross-entropy + share divergence: the loss, and both sums."""
    steps = cross_entropy(targets), divergence(soft, tau, squared=squared)
    terms = [term(step, scale, weights) for step, scale in zip(steps, (1 - share, share), strict=True)]
    return token_loss(source, head, terms)


def diverging(logits, soft, tau=2.0, squared=False, weights=None):
    """The divergence alone."""
    return token_loss(logits, None, [term(divergence(soft, tau, squared=squared), 1.0, weights)])[0]
