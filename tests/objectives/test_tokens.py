"""Rows instead of logits: which heads allow it, the loss made in chunks against the whole one, any term."""

import doctest
import os
import subprocess
import sys
import warnings

import pytest
import torch
import transformers as hf
from torch import nn

from limbeck.objectives import tokens as module
from limbeck.objectives.align import align, head_weight, hidden, plain_head, score
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.divergence import divergence
from limbeck.objectives.soft import full, top_k
from limbeck.objectives.tokens import by_autograd, even_rows, token_loss

from .conftest import VOCABULARY, mixture, ragged, term

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
}


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
    return mixture(logits, None, scored.targets_N, mentor(scored, codec), **options)


def by_rows(model, batch, codec=CODECS["top_k"], **options):
    scored, rows = hidden(model, batch)
    return mixture(rows, head_weight(model), scored.targets_N, mentor(scored, codec), **options)


def gradients(model, batch, loss_of, *more, **options):
    model.zero_grad()
    loss, sums = loss_of(model, batch, *more, **options)
    (0.5 * loss).backward()
    return *sums.tolist(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


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
    expected = gradients(model, batch, by_logits, codec, weights=weights, squared=True)
    for rows, block in ((1, 9), (4, 2), (9, 1), (9, 4)):
        monkeypatch.setattr(module, "CHUNK_BYTES", {"cpu": rows * VOCABULARY * 4})
        monkeypatch.setattr(module, "BLOCK_BYTES", {"cpu": block * VOCABULARY * 4})
        assert_same(gradients(model, batch, by_rows, codec, weights=weights, squared=True), expected)


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
        monkeypatch.setattr(module, "CHUNK_BYTES", {"cpu": 4 * VOCABULARY * 2})
        monkeypatch.setattr(module, "BLOCK_BYTES", {"cpu": 2 * VOCABULARY * 4})
        assert_same(gradients(model, batch, by_rows), expected, 2e-2, 1e-3)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_autocast_does_not_touch_the_mathematics(codec):
    """Logits in float32 give the same to the bit; only the products are made in its type."""
    logits = 3 * torch.randn(9, VOCABULARY, generator=torch.Generator().manual_seed(6))
    scored = align(torch.full((1, 9), 4), encoder_decoder=True)
    soft = mentor(scored, codec)

    def value(source, head):
        return mixture(source, head, scored.targets_N, soft)[0]

    expected = value(logits, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert value(logits, None) == expected
        rows = torch.eye(VOCABULARY)  # in bfloat16 too, a product with it is exact
        exact = logits.bfloat16()
        found = value(exact, rows)
    assert found == value(exact.float(), None)


def test_a_head_in_bfloat16_is_summed_in_float32(monkeypatch):
    """500 chunks with equal gradients: in bfloat16 the sum would stand still at 256 of them."""
    monkeypatch.setattr(module, "CHUNK_BYTES", {"cpu": 1})
    rows = torch.ones(1000, 2, dtype=torch.bfloat16)
    head = torch.zeros(2, 2, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(1000, dtype=torch.int64)
    token_loss(rows, head, [term(cross_entropy(targets))])[0].backward()
    torch.testing.assert_close(
        head.grad.float(), torch.tensor([[-500.0] * 2, [500.0] * 2]), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_small_scale_does_not_underflow(dtype):
    """The gradient is made at the size of one token's and scaled at the end, also for half precision."""
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 30, generator=draw).to(dtype)
    targets = torch.zeros(4, dtype=torch.int64)
    found = []
    for scale, loud in ((1e-7, 1e7), (1.0, 1.0)):
        leaf = logits.clone().requires_grad_()
        (token_loss(leaf, None, [term(cross_entropy(targets), scale)])[0] * loud).backward()
        found.append(leaf.grad)
    assert found[1].count_nonzero() == 120
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=0)


def test_only_what_is_asked_for_is_made(monkeypatch):
    """No gradient of a frozen head or of rows that need none, and none at all without grad mode."""
    asked, spread = [], []
    rows, head = torch.randn(5, 4), nn.Parameter(torch.randn(7, 4))
    soft = full(torch.zeros(5, 7), 2.0, 7)

    def look(step):
        def looked(logits, where, weights, *, gradient):
            asked.append(gradient)
            return step(logits, where, weights, gradient=gradient)

        return looked

    def loss(rows, head):
        steps = cross_entropy(torch.zeros(5, dtype=torch.int64)), divergence(soft, 2.0)
        return token_loss(rows, head, [term(look(step)) for step in steps])

    product = module._add_product
    monkeypatch.setattr(module, "_add_product", lambda *given: spread.append(1) or product(*given))
    with torch.no_grad():
        silent, sums = loss(rows, head)
    assert asked == [False] * 2 and not silent.requires_grad
    again, sums_again = loss(rows, head)
    assert asked == [False] * 2 + [True] * 2 and spread == [1]
    assert again.requires_grad and torch.equal(sums, sums_again) and again.item() == silent.item()
    leaf = rows.clone().requires_grad_()
    frozen, _ = loss(leaf, head.detach())
    frozen.backward()
    assert leaf.grad.count_nonzero() and spread == [1]


def test_differentiated_once():
    model, batch = built("llama"), ragged(False)
    for by in (by_rows, by_logits):
        loss, _ = by(model, batch)
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="differentiated before; compute it again"):
            loss.backward()


def test_given_logits_stay_as_they_are():
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(1), requires_grad=True)
    before = logits.detach().clone()
    token_loss(logits, None, [term(cross_entropy(torch.zeros(5, dtype=torch.int64)))])[0].backward()
    assert torch.equal(logits, before)


def focal(logits, targets):
    """A token loss from outside the package."""
    log_p = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return -((1 - log_p.exp()) ** 2) * log_p


def terms_of_three(targets, weights, soft):
    return [
        term(cross_entropy(targets), 0.5, weights),
        term(by_autograd(focal, targets), 2.0, weights),
        term(divergence(soft, 2.0), 0.25, weights),
    ]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2), (1,)])
@pytest.mark.parametrize("blocks", [1, 4, 100])
def test_any_terms_share_a_pass(order, blocks, monkeypatch):
    """As many and in whatever order: their scaled sum, and its gradients, in float64 by autograd."""
    monkeypatch.setattr(module, "CHUNK_BYTES", {"cpu": 6 * 23 * 4})
    monkeypatch.setattr(module, "BLOCK_BYTES", {"cpu": blocks * 23 * 4})
    draw = torch.Generator().manual_seed(9)
    rows, head = torch.randn(13, 5, generator=draw), torch.randn(23, 5, generator=draw)
    targets = torch.randint(23, (13,), generator=draw)
    weights = torch.rand(13, generator=draw)
    soft = full(torch.randn(13, 23, generator=draw), 2.0, 20)
    exact = [tensor.double().requires_grad_() for tensor in (rows, head)]
    z, w = exact[0] @ exact[1].T, weights.double()
    p = soft.log_p_NK.double()
    values = [
        (w * nn.functional.cross_entropy(z, targets, reduction="none")).sum(),
        (w * focal(z, targets)).sum(),
        (w[:, None] * p.exp() * (p - (z[:, :20] / 2).log_softmax(-1))).sum(),
    ]
    scales = (0.5, 2.0, 0.25)
    sum(scales[n] * values[n] for n in order).backward()
    leaves = [tensor.clone().requires_grad_() for tensor in (rows, head)]
    made = terms_of_three(targets, weights, soft)
    loss, sums = token_loss(*leaves, [made[n] for n in order])
    loss.backward()
    assert sums.tolist() == pytest.approx([values[n].item() for n in order], rel=1e-5)
    for leaf, reference in zip(leaves, exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), reference.grad, rtol=1e-4, atol=1e-5)


def test_terms_that_see_some_rows_in_another_order(monkeypatch):
    """The first rows only, or by an index; blocks end where a term does."""
    monkeypatch.setattr(module, "BLOCK_BYTES", {"cpu": 4 * 11 * 4})
    draw = torch.Generator().manual_seed(9)
    logits = torch.randn(9, 11, generator=draw)
    targets = torch.randint(11, (9,), generator=draw)
    order = torch.randperm(9, generator=draw)
    sizes = []

    def looked(logits, targets):
        sizes.append(len(logits))
        return focal(logits, targets)

    leaf = logits.clone().requires_grad_()
    terms = [
        term(cross_entropy(targets), where_M=order),
        term(by_autograd(looked, targets), rows=6),
        term(cross_entropy(targets), rows=0),
    ]
    loss, sums = token_loss(leaf, None, terms)
    loss.backward()
    assert sizes == [4, 2] and sums[2] == 0
    exact = logits.double().requires_grad_()
    ce = nn.functional.cross_entropy(exact, targets[order], reduction="sum")
    (ce + focal(exact[:6], targets[:6]).sum()).backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


def test_a_function_that_gives_no_value_per_token_is_refused():
    step = by_autograd(lambda logits, targets: focal(logits, targets).sum(), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"values of shape \(\) for 2 tokens"):
        token_loss(torch.zeros(2, 3), None, [term(step)])


def test_documented_examples():
    assert doctest.testmod(module).failed == 0


def test_rows_of_a_chunk():
    """An even number, so that pairs stay together, and at least one pair whatever the vocabulary."""
    assert [even_rows(size, 10) for size in (0, 10, 29, 30, 79)] == [2, 2, 2, 2, 6]


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
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.divergence import divergence
from limbeck.objectives.soft import top_k
from limbeck.objectives.tokens import Term, token_loss

rank, meeting = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
torch.manual_seed(0)
sizes = {"vocab_size": 31, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
batches, mentors = [], []
for _ in range(2):
    ids = torch.randint(31, (2, 6))
    batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})
    mentors.append(top_k(3 * torch.randn(10, 31), 2.0, 29, 4))

def backward(source, head, scored, soft, share=1.0):
    steps = cross_entropy(scored.targets_N), divergence(soft, 2.0)
    terms = [Term(step, torch.tensor(scale * share)) for step, scale in zip(steps, (0.7, 0.3))]
    token_loss(source, head, terms)[0].backward()

for tied in (True, False):
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=tied))
    for batch, soft in zip(batches, mentors):
        scored, logits = score(model, batch)
        backward(logits, None, scored, soft, 0.5)
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    for unused in (False, True):
        model.zero_grad()
        wrapped = DistributedDataParallel(model, find_unused_parameters=unused)
        assert plain_head(wrapped)
        scored, rows = hidden(wrapped, batches[rank])
        backward(rows, head_weight(wrapped), scored, mentors[rank])
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-6)
        del wrapped
model.zero_grad()
sharded = fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
assert not plain_head(sharded)
scored, logits = score(sharded, batches[rank])  # the hook path
backward(logits, None, scored, mentors[rank])
for name, parameter in sharded.named_parameters():
    torch.testing.assert_close(parameter.grad.full_tensor(), expected[name], rtol=1e-5, atol=1e-6)
dist.destroy_process_group()
print("equal")
"""


def test_two_processes(tmp_path):
    """Gradients under DDP and FSDP2 are the mean over both; a sharded head is not plain."""
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
