"""Rows instead of logits: which heads allow it, and the chunked loss against the whole one."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
import transformers as hf
from torch import nn

from limbeck.objectives import soft as soft_module
from limbeck.objectives.align import align, head_weight, hidden, plain_head, score
from limbeck.objectives.distillation import chunked_distillation, distillation
from limbeck.objectives.soft import full, sampled, top_k

from .conftest import VOCABULARY, ragged

SHARED = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
GPT = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 4} | IDS
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4} | IDS
BART = {"vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1} | IDS
OPT = {"vocab_size": VOCABULARY, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2} | IDS

MODELS = {
    "t5 tied": (hf.T5Config, T5 | {"decoder_start_token_id": 0}),
    "t5 untied": (
        hf.T5Config,
        T5 | {"decoder_start_token_id": 0, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
    ),
    "bart": (hf.BartConfig, BART | {"encoder_attention_heads": 4, "decoder_attention_heads": 4}),
    "gpt2": (hf.GPT2Config, GPT),
    "opt": (hf.OPTConfig, OPT | {"num_attention_heads": 4, "word_embed_proj_dim": 8}),
    "llama": (hf.LlamaConfig, SHARED | HEADS | IDS),
    "llama tied": (hf.LlamaConfig, SHARED | HEADS | IDS | {"tie_word_embeddings": True}),
    "qwen2": (hf.Qwen2Config, SHARED | HEADS | IDS),
    "qwen3": (hf.Qwen3Config, SHARED | HEADS | IDS | {"head_dim": 4}),
    "phi3": (hf.Phi3Config, SHARED | HEADS | IDS),
    "neox": (hf.GPTNeoXConfig, SHARED | IDS | {"num_attention_heads": 4}),
    "granite unscaled": (hf.GraniteConfig, SHARED | HEADS | IDS),
}
BENT = {
    "gptj with a bias": (hf.GPTJConfig, GPT | {"rotary_dim": 4}),
    "gemma2 with a cap": (hf.Gemma2Config, SHARED | HEADS | IDS | {"head_dim": 4}),
    "gemma2 with a cap far off": (
        hf.Gemma2Config,
        SHARED | HEADS | IDS | {"head_dim": 4, "final_logit_softcapping": 3e4},
    ),
    "granite with a scale": (hf.GraniteConfig, SHARED | HEADS | IDS | {"logits_scaling": 8.0}),
    "cohere with a scale": (hf.CohereConfig, SHARED | HEADS | IDS),
}
CODECS = {
    "full": full,
    "top_k": lambda logits, tau, vocabulary: top_k(logits, tau, vocabulary, 5),
    "sampled": lambda logits, tau, vocabulary: sampled(logits, tau, vocabulary, 20, torch.Generator()),
}
OPTIONS = {"temperature": 2.0, "kl_weight": 0.3}


def built(name):
    kind, settings = (MODELS | BENT)[name]
    torch.manual_seed(7)
    config = kind(**settings)
    family = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM
    return family.from_config(config).eval()


def lora(model, **settings):
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():  # peft 0.21 reads a name that transformers 5.23 deprecates
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, LoraConfig(r=3, init_lora_weights=False, **settings)).eval()


def mentor(scored, codec=CODECS["top_k"], vocabulary=VOCABULARY - 3):
    draw = torch.Generator().manual_seed(2)
    return codec(3 * torch.randn(len(scored.targets_N), VOCABULARY, generator=draw), 2.0, vocabulary)


def by_logits(model, batch, codec=CODECS["top_k"], **options):
    scored, logits = score(model, batch)
    return distillation(logits, scored.targets_N, mentor(scored, codec), **OPTIONS, **options)


def by_rows(model, batch, codec=CODECS["top_k"], **options):
    scored, rows = hidden(model, batch)
    soft = mentor(scored, codec)
    return chunked_distillation(rows, head_weight(model), scored.targets_N, soft, **OPTIONS, **options)


def gradients(model, batch, loss_of, *more, **options):
    model.zero_grad()
    ce, kl = loss_of(model, batch, *more, **options)
    (0.5 * (0.7 * ce + 0.3 * kl)).backward()
    return ce.item(), kl.item(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def assert_same(found, expected, tolerance=1e-5, of_values=1e-5):
    assert found[:2] == pytest.approx(expected[:2], rel=of_values)
    assert found[2].keys() == expected[2].keys()
    for name, gradient in expected[2].items():
        own = found[2][name]
        assert (own is None) == (gradient is None), name
        if gradient is not None:
            assert own.dtype == gradient.dtype
            assert (own - gradient).norm() <= tolerance * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("name", MODELS)
def test_plain_heads_give_the_same_loss_by_rows(name):
    """In value and in the gradient of every parameter; a head that is tied gets both its shares."""
    model = built(name)
    assert plain_head(model)
    batch = ragged(model.config.is_encoder_decoder)
    scored, rows = hidden(model, batch)
    torch.testing.assert_close(rows @ head_weight(model).T, score(model, batch)[1])
    assert torch.equal(scored.targets_N, score(model, batch)[0].targets_N)
    assert_same(gradients(model, batch, by_rows), gradients(model, batch, by_logits))


@pytest.mark.parametrize("name", BENT)
def test_heads_that_do_more_are_not_plain(name):
    assert not plain_head(built(name))


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"target_modules": ["q_proj"]}, True),
        ({"target_modules": ["q_proj", "lm_head"]}, False),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
    ],
)
def test_lora(settings, plain):
    model = lora(built("llama"), **settings)
    assert plain_head(model) == plain
    if plain:
        batch = ragged(False)
        assert_same(gradients(model, batch, by_rows), gradients(model, batch, by_logits))
        assert head_weight(model).grad is None


def test_other_heads_that_are_not_plain():
    class Doubled(nn.Linear):
        pass

    def changed(change):
        model = built("llama")
        change(model.lm_head)
        return model

    def parametrize(head):
        nn.utils.parametrizations.orthogonal(head)

    def shard(head):
        head.weight = nn.Parameter(head.weight.detach().flatten()[:10])

    changes = [
        parametrize,
        shard,
        lambda head: head.register_forward_hook(lambda module, args, out: out * 2),
        lambda head: head.register_forward_pre_hook(lambda module, args: args),
        lambda head: head.register_full_backward_hook(lambda module, into, out: None),
        lambda head: setattr(head, "forward", lambda rows: 2 * rows @ head.weight.T),
        lambda head: setattr(head, "__class__", Doubled),
    ]
    assert [plain_head(changed(change)) for change in changes] == [False] * len(changes)


@pytest.mark.parametrize(
    "after",
    [
        lambda z: 30 * torch.tanh(z / 30),
        lambda z: 1.001 * z,
        lambda z: z.mul_(2),
        lambda z: z + 1e-3,
        lambda z: z[..., :-1],
    ],
)
def test_whatever_the_model_does_after_its_head_is_seen(after):
    model = built("llama")
    forward = model.forward

    def bent(**inputs):
        output = forward(**inputs)
        output.logits = after(output.logits)
        return output

    model.forward = bent
    assert not plain_head(model)


def test_the_question_leaves_the_model_as_it_was():
    """Mode of each part, gradients, random state, hooks; and the weights that autocast keeps."""
    model = lora(built("llama"), target_modules=["q_proj"], lora_dropout=0.5).train()
    layers = model.base_model.model.model.layers
    layers[1].eval()
    model.activation_checkpointing_enable({"use_reentrant": False})
    batch = ragged(False)
    before = {n: g.clone() for n, g in gradients(model, batch, by_logits)[2].items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert plain_head(model)
        assert torch.equal(torch.get_rng_state(), state)
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(p.grad, before[n]) for n, p in model.named_parameters() if p.requires_grad)
        head = model.get_output_embeddings()
        assert not head._forward_pre_hooks and not head._forward_hooks
        after = gradients(model, batch, by_logits)[2]
    assert True in modes and False in modes
    assert all(gradient.count_nonzero() for gradient in after.values())


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_chunk_borders_do_not_matter(codec, monkeypatch):
    model, batch = built("llama"), ragged(False)
    weights = torch.rand(9, generator=torch.Generator().manual_seed(4))
    expected = gradients(model, batch, by_logits, codec, weights_N=weights, squared=True)
    for rows in (1, 4, 9):
        monkeypatch.setattr(soft_module, "CHUNK_LOGITS", rows * VOCABULARY)
        assert_same(gradients(model, batch, by_rows, codec, weights_N=weights, squared=True), expected)


@pytest.mark.parametrize("name", ["llama", "t5 tied"])
@pytest.mark.parametrize("around", ["autocast", "autocast in the forward only", "bfloat16 weights"])
def test_bfloat16(name, around, monkeypatch):
    """Products in bfloat16 as in the model's own head; its gradient summed over chunks in float32."""
    model = built(name)
    batch = ragged(model.config.is_encoder_decoder)
    context = torch.autocast("cpu", torch.bfloat16, enabled=around == "autocast")
    if around == "bfloat16 weights":
        model.bfloat16()
    if around == "autocast in the forward only":  # as accelerate does it
        model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    with context:
        assert plain_head(model)
        expected = gradients(model, batch, by_logits)
        assert hidden(model, batch)[1].dtype == torch.bfloat16
        assert_same(gradients(model, batch, by_rows), expected, 2e-2)
        monkeypatch.setattr(soft_module, "CHUNK_LOGITS", 2 * VOCABULARY)
        assert_same(gradients(model, batch, by_rows), expected, 2e-2, 1e-3)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_autocast_does_not_touch_the_mathematics(codec):
    """Logits in float32 give the same to the bit; only the products are made in its type."""
    logits = 3 * torch.randn(9, VOCABULARY, generator=torch.Generator().manual_seed(6))
    scored = align(torch.full((1, 9), 4), encoder_decoder=True)
    soft = mentor(scored, codec)
    expected = distillation(logits, scored.targets_N, soft, **OPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        assert distillation(logits, scored.targets_N, soft, **OPTIONS) == expected
        rows = torch.eye(VOCABULARY)  # in bfloat16 too, a product with it is exact
        exact = logits.bfloat16()
        found = chunked_distillation(exact, rows, scored.targets_N, soft, **OPTIONS)
    assert found == distillation(exact.float(), scored.targets_N, soft, **OPTIONS)


def test_a_head_in_bfloat16_is_summed_in_float32(monkeypatch):
    """1,000 chunks with equal gradients: in bfloat16 the sum would stand still at 256 of them."""
    monkeypatch.setattr(soft_module, "CHUNK_LOGITS", 1)
    rows = torch.ones(1000, 2, dtype=torch.bfloat16)
    head = torch.zeros(2, 2, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(1000, dtype=torch.int64)
    soft = full(torch.zeros(1000, 2), 1.0, 2)
    ce, _ = chunked_distillation(rows, head, targets, soft, temperature=1.0, kl_weight=0.0)
    ce.backward()
    torch.testing.assert_close(
        head.grad.float(), torch.tensor([[-500.0] * 2, [500.0] * 2]), rtol=1e-2, atol=0
    )


def test_only_what_is_asked_for_is_made(monkeypatch):
    """No gradient of a frozen head or of rows that need none, and none at all without grad mode."""
    made = []
    spread = chunked_distillation.__globals__["_spread"]

    def look(gradient, rows, head, kept, start):
        made.append([tensor is not None for tensor in kept])
        spread(gradient, rows, head, kept, start)

    monkeypatch.setitem(chunked_distillation.__globals__, "_spread", look)
    rows, head = torch.randn(5, 4), nn.Parameter(torch.randn(7, 4))
    targets, soft = torch.zeros(5, dtype=torch.int64), full(torch.zeros(5, 7), 2.0, 7)
    with torch.no_grad():
        ce, kl = chunked_distillation(rows, head, targets, soft, **OPTIONS)
    assert made == [] and not ce.requires_grad
    again = chunked_distillation(rows, head, targets, soft, **OPTIONS)
    assert again[0].requires_grad and (again[0].item(), again[1].item()) == (ce.item(), kl.item())
    frozen = chunked_distillation(rows.clone().requires_grad_(), head.detach(), targets, soft, **OPTIONS)
    (0.7 * frozen[0] + 0.3 * frozen[1]).backward()
    assert made == [[False, True], [True, False]]


def test_sums_of_chunks_must_be_weighted_as_the_gradient_was():
    model, batch = built("llama"), ragged(False)
    ce, kl = by_rows(model, batch)
    with pytest.raises(RuntimeError, match="must be weighted as"):
        (ce + kl).backward()
    ce, kl = by_rows(model, batch)
    (0.7 * ce + 0.3 * kl).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated before"):
        (0.7 * ce + 0.3 * kl).backward()


@pytest.mark.parametrize("name", ["llama tied", "t5 tied"])
def test_nothing_scored_is_zero_with_a_gradient(name):
    model = built(name)
    batch = ragged(model.config.is_encoder_decoder)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    ce, kl, found = gradients(model, batch, by_rows)
    assert ce == kl == 0
    assert all(gradient.count_nonzero() == 0 for gradient in found.values())


def test_a_model_without_a_head_is_refused():
    model = built("llama")
    model.lm_head = None
    for ask in (plain_head, head_weight, lambda m: hidden(m, ragged(False))):
        with pytest.raises(RuntimeError, match="no output embeddings"):
            ask(model)


def test_a_head_called_twice_is_refused(monkeypatch):
    model = built("llama")
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, **k: (forward(self, **k), forward(self, **k))[1])
    with pytest.raises(RuntimeError, match="LlamaForCausalLM called its output embeddings 2 times"):
        hidden(model, ragged(False))
    assert not plain_head(model)


PROCESS = """
import sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM
from limbeck.objectives.align import head_weight, hidden, plain_head, score
from limbeck.objectives.distillation import chunked_distillation, distillation
from limbeck.objectives.soft import top_k

rank, meeting = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
torch.manual_seed(0)
sizes = {"vocab_size": 31, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
batches, mentors = [], []
for _ in range(2):
    ids = torch.randint(31, (2, 6))
    batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})
    mentors.append(top_k(3 * torch.randn(10, 31), 2.0, 29, 4))
options = {"temperature": 2.0, "kl_weight": 0.3}

def backward(parts):
    (0.7 * parts[0] + 0.3 * parts[1]).backward()

for tied in (True, False):
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=tied))
    for batch, soft in zip(batches, mentors):
        scored, logits = score(model, batch)
        backward([part / 2 for part in distillation(logits, scored.targets_N, soft, **options)])
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    for unused in (False, True):
        model.zero_grad()
        wrapped = DistributedDataParallel(model, find_unused_parameters=unused)
        assert plain_head(wrapped)
        scored, rows = hidden(wrapped, batches[rank])
        head = head_weight(wrapped)
        backward(chunked_distillation(rows, head, scored.targets_N, mentors[rank], **options))
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6)
        del wrapped
assert not plain_head(fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,))))
dist.destroy_process_group()
print("equal")
"""


def test_two_processes(tmp_path):
    """Gradients under DistributedDataParallel are the mean over both; a sharded head is not plain."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120) for process in running]
    assert [out for out, _ in said] == ["equal\n"] * 2, said[0][1]
