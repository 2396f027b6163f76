"""Loss parts: any of them in one forward pass, against separate float64 references; what changes nothing."""

import copy
import warnings
from itertools import chain, combinations

import pytest
import torch
import transformers as hf
from torch.nn import functional
from torch.nn.functional import pad

from limbeck.objectives import tokens
from limbeck.objectives.align import align_batch, score
from limbeck.objectives.soft import full, top_k
from limbeck.training import parts as module
from limbeck.training.parts import CrossEntropy, SoftLabelKL, SpanKL, TokenLoss, Triplet, loss

VOCABULARY = 53
SHARED = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
T5 |= IDS | {"decoder_start_token_id": 0, "dropout_rate": 0.0}
BART = {"vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
BART |= IDS | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 24}
GPTJ = {"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 4, "rotary_dim": 4}
GPTJ |= IDS | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

MODELS = {
    "llama": (hf.LlamaConfig, SHARED | HEADS | IDS),
    "llama tied": (hf.LlamaConfig, SHARED | HEADS | IDS | {"tie_word_embeddings": True}),
    "gemma2 with a cap": (
        hf.Gemma2Config,
        SHARED | HEADS | IDS | {"head_dim": 4, "final_logit_softcapping": 0.5},
    ),
    "gptj with a bias": (hf.GPTJConfig, GPTJ),
    "t5 tied": (hf.T5Config, T5),
    "t5 untied": (hf.T5Config, T5 | {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
    "bart": (hf.BartConfig, BART),
}
ADAPTED = {
    "llama+lora": ["q_proj"],
    "llama+lora on the head": ["q_proj", "lm_head"],
    "t5 tied+lora": ["q", "v"],
}
PLAIN = {"llama", "llama tied", "t5 tied", "t5 untied", "bart", "llama+lora", "t5 tied+lora"}
TAU, SPAN_TAU, MARGIN = 2.0, 1.5, 0.8


def built(name):
    kind, settings = MODELS[name.partition("+")[0]]
    torch.manual_seed(7)
    config = kind(**settings, attn_implementation="eager")
    family = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM
    model = family.from_config(config).eval()
    if name == "gptj with a bias":
        torch.nn.init.normal_(model.lm_head.bias)
    if name not in ADAPTED:
        return model
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():  # peft 0.21 reads a name that transformers 5.23 deprecates
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing", category=FutureWarning)
        settings = LoraConfig(r=3, init_lora_weights=False, target_modules=ADAPTED[name])
        return get_peft_model(model, settings).eval()


ANSWER, OTHER = [40, 41, 42], [43]
# Prompt and reasoning lengths, answer, group, role, scored. Group 0 is a pair with a whole triplet; of
# group 1's pair one row is not scored; group 2 has two spans that differ; group 3 three spans.
ROWS = [
    (5, 3, ANSWER, 0, "anchor", True),
    (5, 6, ANSWER, 0, "positive", True),
    (5, 2, [], 0, "negative", False),
    (2, 4, OTHER, 1, "anchor", True),
    (2, 1, OTHER, 1, "", False),
    (3, 2, ANSWER, 2, "anchor", True),
    (3, 1, OTHER, 2, "positive", True),
    (4, 0, OTHER, 3, "negative", True),
    (4, 3, OTHER, 3, "anchor", True),
    (4, 2, OTHER, 3, "negative", True),
    (4, 5, [], 3, "positive", False),
]


NO_ROW = {
    "input_ids": [0],
    "labels": [-100],
    "spans": [-1, -1],
    "begins": 0,
    "groups": 0,
    "roles": "",
    "scored": True,
    "keys": [0, 0],
}


def rows_of(encoder_decoder, seed=11):
    """Rows as dicts of lists: every completion ends with 1, the end of sequence."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for n, (prompt, reasoning, answer, group, role, scored) in enumerate(ROWS):
        ids = torch.randint(3, 40, (prompt + reasoning,), generator=draw).tolist()
        completion = [*ids[prompt:], *answer, 1]
        start = reasoning + (0 if encoder_decoder else prompt)
        rows.append(
            {
                "input_ids": ids[:prompt] if encoder_decoder else ids[:prompt] + completion,
                "labels": completion if encoder_decoder else [-100] * prompt + completion,
                "spans": [start, start + len(answer)] if answer else [-1, -1],
                "begins": 0 if encoder_decoder else prompt,
                "groups": group,
                "roles": role,
                "scored": scored,
                "keys": [n, n],
            }
        )
    return rows


def collate(rows, more=0):
    """A batch as training makes it, padded by `more` than needed."""
    fills = {"input_ids": 0, "labels": -100}
    batch = {}
    for name, fill in fills.items():
        width = max(len(row[name]) for row in rows) + more
        padded = [pad(torch.tensor(row[name]), (0, width - len(row[name])), value=fill) for row in rows]
        batch[name] = torch.stack(padded)
    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths).long()
    for name in ("spans", "groups", "scored", "keys", "begins"):
        batch[name] = torch.tensor([row[name] for row in rows])
    batch["roles"] = [row["roles"] for row in rows]
    if "group_factors" in rows[0]:
        batch["group_factors"] = torch.tensor([row["group_factors"] for row in rows])
    if "label_weights" in rows[0]:
        width = batch["labels"].shape[1]
        batch["label_weights"] = torch.stack(
            [pad(torch.tensor(row["label_weights"]), (0, width - len(row["label_weights"]))) for row in rows]
        )
    return batch


def mentor_logits(row, position):
    """A mentor that answers from the row's key alone."""
    draw = torch.Generator().manual_seed(1000 * row + position)
    return 3 * torch.randn(VOCABULARY, generator=draw)


class Mentor:
    """Soft labels of a batch's scored tokens, over all but three of the embedding's rows."""

    temperature, vocabulary = TAU, VOCABULARY - 3

    def __init__(self, encoder_decoder, k=None):
        self.encoder_decoder, self.k, self.asked = encoder_decoder, k, 0

    def of(self, batch):
        self.asked += 1
        scored = align_batch(batch, encoder_decoder=self.encoder_decoder)
        starts = {}
        found = []
        for row in scored.rows_N.tolist():
            starts[row] = starts.get(row, -1) + 1
            found.append(mentor_logits(int(batch["keys"][row, 0]), starts[row]))
        logits = torch.stack(found) if found else torch.zeros(0, VOCABULARY)
        return top_k(logits, TAU, self.vocabulary, self.k) if self.k else full(logits, TAU, self.vocabulary)


def focal(logits, targets):
    log_p = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return -((1 - log_p.exp()) ** 2) * log_p


def parts_of(encoder_decoder):
    return (
        CrossEntropy(0.7),
        SoftLabelKL(Mentor(encoder_decoder), 0.3, squared=True),
        SpanKL(0.4, SPAN_TAU),
        Triplet(0.5, MARGIN),
        TokenLoss("focal", 0.2, focal),
    )


def means(parts, batch, encoder_decoder):
    return {part.name: part.count(batch, encoder_decoder=encoder_decoder) for part in parts}


def kl(p, q):
    return (p.log_softmax(-1).exp() * (p.log_softmax(-1) - q.log_softmax(-1))).sum()


def reference(model, rows, pooling="last"):
    """Each part's mean, written down row by row from whole float64 logits and hidden states."""
    encoder_decoder = model.config.is_encoder_decoder
    model = copy.deepcopy(model).double()
    before = []
    model.get_output_embeddings().register_forward_pre_hook(lambda module, args: before.append(args[0][0]))
    logits, lasts, averages = [], [], []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        if encoder_decoder:
            labels = torch.tensor([row["labels"]])
            decoder = torch.cat([torch.tensor([[model.config.decoder_start_token_id]]), labels], 1)
            z = model(input_ids=ids, decoder_input_ids=decoder).logits[0]
        else:
            z = model(input_ids=ids).logits[0]
            z = torch.cat([z[:1], z])[: len(row["labels"])]  # z[t] predicts label t; the first is nobody's
        logits.append(z)
        lasts.append(before[-1][-1])
        averages.append(before[-1][-sum(label != -100 for label in row["labels"]) :].mean(0))
    states = averages if pooling == "mean" else lasts
    sums = dict.fromkeys(("cross_entropy", "divergence", "focal", "span_divergence", "triplet"), 0.0)
    count = dict.fromkeys(sums, 0)
    for row, z in zip(rows, logits, strict=True):
        position = -1
        for t, label in enumerate(row["labels"]):
            weight = row["label_weights"][t] if "label_weights" in row else 1.0
            if label == -100 or not row["scored"] or (t == 0 and not encoder_decoder):
                continue
            position += 1
            mentor = mentor_logits(row["keys"][0], position).double()[: VOCABULARY - 3] / TAU
            sums["cross_entropy"] -= weight * z[t].log_softmax(-1)[label]
            sums["divergence"] += weight * TAU**2 * kl(mentor, z[t, : VOCABULARY - 3] / TAU)
            sums["focal"] += weight * focal(z[t][None], torch.tensor([label]))[0]
            for name in ("cross_entropy", "divergence", "focal"):
                count[name] += weight
    for group in {row["groups"] for row in rows}:
        members = [n for n, row in enumerate(rows) if row["groups"] == group]
        factor = rows[members[0]].get("group_factors", 1.0)
        marked = [n for n in members if rows[n]["spans"] != [-1, -1]]
        answers = [rows[n]["labels"][slice(*rows[n]["spans"])] for n in marked]
        if len(marked) == 2 and answers[0] == answers[1]:
            one, other = (logits[n][slice(*rows[n]["spans"])] / SPAN_TAU for n in marked)
            sums["span_divergence"] += factor * 0.5 * (kl(one, other) + kl(other, one)) / len(answers[0])
            count["span_divergence"] += 1
        by_role = {
            role: [n for n in members if rows[n]["roles"] == role]
            for role in ("anchor", "positive", "negative")
        }
        for a in by_role["anchor"]:
            for p in by_role["positive"]:
                for n in by_role["negative"]:
                    near, far = (functional.cosine_similarity(states[a], states[x], 0) for x in (p, n))
                    sums["triplet"] += factor * (far - near + MARGIN).clamp_min(0)
                    count["triplet"] += 1
    return model, {name: sums[name] / count[name] for name in sums}, count


def gradients(model, value):
    model.zero_grad()
    value.backward(retain_graph=True)
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def assert_near(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        own = found[name]
        if gradient is None or own is None:
            assert all(g is None or g.count_nonzero() == 0 for g in (gradient, own)), name
        else:
            gap = (own.double() - gradient.double()).norm()
            assert gap <= tolerance * gradient.double().norm() + 1e-7, name


def subsets(values):
    return chain.from_iterable(combinations(values, size) for size in range(1, len(values) + 1))


@pytest.mark.parametrize("name", [*MODELS, *ADAPTED])
def test_every_combination_of_parts(name, monkeypatch):
    """Values and the gradients of all parameters, with several chunks and blocks."""
    model = built(name)
    encoder_decoder = model.config.is_encoder_decoder
    rows = rows_of(encoder_decoder)
    batch = collate(rows)
    exact, expected, count = reference(model, rows)
    parts = parts_of(encoder_decoder)
    counts = means(parts, batch, encoder_decoder)
    assert {n: c.item() for n, c in counts.items()} == count
    assert count["span_divergence"] == 2 and count["triplet"] == 3
    monkeypatch.setattr(tokens, "CHUNK_BYTES", {"cpu": 18 * VOCABULARY * 4})
    monkeypatch.setattr(tokens, "BLOCK_BYTES", {"cpu": 6 * VOCABULARY * 4})
    by_part = {part.name: gradients(exact, part.weight * expected[part.name]) for part in parts}
    by_part = {
        n: {k: None if g is None else g.clone() for k, g in found.items()} for n, found in by_part.items()
    }
    for used in subsets(parts):
        total, values = loss(used, model, batch, counts)
        assert list(values) == [part.name for part in used]
        for part in used:
            assert values[part.name].item() == pytest.approx(expected[part.name].item(), rel=1e-4)
            assert not values[part.name].requires_grad
        assert total.item() == pytest.approx(sum(p.weight * values[p.name].item() for p in used), rel=1e-5)
        summed = {}
        for key in by_part["cross_entropy"]:
            own = [by_part[part.name][key] for part in used if by_part[part.name][key] is not None]
            summed[key] = sum(own) if own else None
        assert_near(gradients(model, total), summed, 2e-4)


@pytest.mark.parametrize("name", [*MODELS, *ADAPTED])
def test_states_may_be_means_over_the_completion(name):
    """Next to last states and the cross-entropy; scored prompt tokens are no part of a mean."""
    model = built(name)
    encoder_decoder = model.config.is_encoder_decoder
    rows = rows_of(encoder_decoder)
    exact, expected, count = reference(model, rows, "mean")
    mean = Triplet(0.3, MARGIN, "mean_triplet", "mean")
    parts = CrossEntropy(0.7), Triplet(0.5, MARGIN), mean
    batch = collate(rows)
    counts = means(parts, batch, encoder_decoder)
    assert counts["mean_triplet"].item() == count["triplet"]
    _, values = loss(parts, model, batch, counts)
    assert values["mean_triplet"].item() == pytest.approx(expected["triplet"].item(), rel=1e-4)
    assert values["mean_triplet"] != values["triplet"]
    total, _ = loss((mean,), model, batch, counts)
    assert_near(gradients(model, total), gradients(exact, 0.3 * expected["triplet"]), 2e-4)
    if not encoder_decoder:
        batch["labels"] = torch.where(batch["attention_mask"] > 0, batch["input_ids"], -100)
        assert loss((mean,), model, batch, counts)[0].item() == pytest.approx(total.item(), rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_batches_by_length_weigh_pairs_and_triplets(name):
    """Each group's by its factor, over the same counts; tokens do not see it."""
    model = built(name)
    encoder_decoder = model.config.is_encoder_decoder
    rows = [
        {**row, "group_factors": (0.5, 3.0, 7.0, 1.25)[row["groups"]]} for row in rows_of(encoder_decoder)
    ]
    exact, expected, _ = reference(model, rows)
    batch = collate(rows)
    for part in (CrossEntropy(0.7), SpanKL(0.4, SPAN_TAU), Triplet(0.5, MARGIN)):
        total, values = loss((part,), model, batch, means((part,), batch, encoder_decoder))
        assert values[part.name].item() == pytest.approx(expected[part.name].item(), rel=1e-4)
        assert_near(gradients(model, total), gradients(exact, part.weight * expected[part.name]), 2e-4)


@pytest.mark.parametrize("name", [*MODELS, *ADAPTED])
def test_plain_heads_make_no_whole_logits(name, monkeypatch):
    """The head is asked about at most once; what reaches the model's own head is counted."""
    model, asked = built(name), []
    plain = module.plain_head
    monkeypatch.setattr(module, "plain_head", lambda model: asked.append(1) or plain(model))
    encoder_decoder = model.config.is_encoder_decoder
    batch, parts = collate(rows_of(encoder_decoder)), parts_of(encoder_decoder)
    counts = means(parts, batch, encoder_decoder)
    loss(parts[:1], model, batch, counts)
    seen = []
    hook = model.get_output_embeddings().register_forward_hook(lambda m, a, out: seen.append(out.shape[1]))
    for used in subsets(parts):
        loss(used, model, batch, counts)
    hook.remove()
    assert len(asked) <= 1
    states_alone = 1
    assert (set(seen) == {0}) == (name in PLAIN)
    assert seen.count(0) == (len(seen) if name in PLAIN else states_alone)


def test_a_head_that_changes_is_asked_about_again():
    """An adapter is put on it in place, or its weight is made anew; the loss follows."""
    from peft import LoraConfig, inject_adapter_in_model

    model, batch, parts = built("llama"), collate(rows_of(False)), (CrossEntropy(),)
    counts = means(parts, batch, False)

    def values():
        scored, logits_NV = score(model, batch)
        losses_N = functional.cross_entropy(logits_NV, scored.targets_N, reduction="none")
        weights_N = 1.0 if scored.weights_N is None else scored.weights_N
        expected = (losses_N * weights_N).sum() / counts["cross_entropy"]
        return loss(parts, model, batch, counts)[0].item(), pytest.approx(expected.item(), rel=1e-5)

    first, expected = values()
    assert first == expected
    model.lm_head.bias = torch.nn.Parameter(torch.randn(len(model.lm_head.weight)))
    biased, expected = values()
    assert biased == expected != pytest.approx(first)
    model.lm_head.bias = None
    settings = LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
    inject_adapter_in_model(settings, model)
    adapted, expected = values()
    assert adapted == expected != pytest.approx(first)


def whole(model, batch, parts=None):
    """Loss, values and gradients of all parts."""
    encoder_decoder = model.config.is_encoder_decoder
    parts = parts or parts_of(encoder_decoder)
    total, values = loss(parts, model, batch, means(parts, batch, encoder_decoder))
    return total.item(), values, copy.deepcopy(gradients(model, total))


def assert_same(found, expected, tolerance=1e-4):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        assert found[1][name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-7)
    assert_near(found[2], expected[2], tolerance)


KINDS = pytest.mark.parametrize("name", ["llama", "gemma2 with a cap", "t5 tied"])


@KINDS
def test_padding_changes_nothing(name):
    model = built(name)
    rows = rows_of(model.config.is_encoder_decoder)
    assert_same(whole(model, collate(rows, more=5)), whole(model, collate(rows)))


@KINDS
def test_how_a_step_is_cut_changes_nothing(name):
    """Groups whole, in one micro-batch or in several, in another order, with an empty one."""
    model = built(name)
    encoder_decoder = model.config.is_encoder_decoder
    rows, parts = rows_of(encoder_decoder), parts_of(encoder_decoder)
    expected = whole(model, collate(rows))
    cuts = [rows[7:], rows[5:7], [NO_ROW], rows[:5]]
    batches = [collate(cut) for cut in cuts]
    counts = [means(parts, batch, encoder_decoder) for batch in batches]
    totals = {name: sum(count[name] for count in counts) for name in counts[0]}
    model.zero_grad()
    found, values = 0.0, dict.fromkeys(totals, 0.0)
    for batch in batches:
        total, some = loss(parts, model, batch, totals)
        total.backward()
        found += total.item()
        values = {name: values[name] + some[name] for name in values}
    summed = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert_same((found, values, summed), expected)


@KINDS
def test_chunk_borders_do_not_matter(name, monkeypatch):
    """From two rows at once, a pair, to all."""
    model = built(name)
    batch = collate(rows_of(model.config.is_encoder_decoder))
    expected = whole(model, batch)
    for chunk, block in ((1, 1), (6, 4), (10**6, 2)):
        monkeypatch.setattr(tokens, "CHUNK_BYTES", {"cpu": chunk * VOCABULARY * 4})
        monkeypatch.setattr(tokens, "BLOCK_BYTES", {"cpu": block * VOCABULARY * 4})
        assert_same(whole(model, batch), expected)


@KINDS
def test_rows_that_are_not_scored_are_as_if_left_out(name):
    """For parts over tokens; the others still see them."""
    model = built(name)
    encoder_decoder = model.config.is_encoder_decoder
    rows = rows_of(encoder_decoder)
    parts = [part for part in parts_of(encoder_decoder) if part.name not in ("span_divergence", "triplet")]
    masked = whole(model, collate(rows), parts)
    assert_same(masked, whole(model, collate([row for row in rows if row["scored"]]), parts))


@KINDS
def test_nothing_scored_leaves_spans_and_states(name):
    model = built(name)
    encoder_decoder = model.config.is_encoder_decoder
    rows = [row | {"scored": False} for row in rows_of(encoder_decoder)]
    parts = parts_of(encoder_decoder)
    found = whole(model, collate(rows))
    others = [part for part in parts if part.name in ("span_divergence", "triplet")]
    expected = whole(model, collate(rows), others)
    assert found[1]["cross_entropy"] == found[1]["divergence"] == found[1]["focal"] == 0
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert_near(found[2], expected[2], 1e-5)


@pytest.mark.parametrize("name", [*MODELS, *ADAPTED])
def test_nothing_at_all_is_zero_with_a_gradient(name):
    """Every parameter's gradient is 0 and there, whatever the parts, so that processes stay in step."""
    model = built(name)
    encoder_decoder = model.config.is_encoder_decoder
    batch = collate([NO_ROW])
    parts = *parts_of(encoder_decoder), Triplet(0.3, MARGIN, "mean_triplet", "mean")
    counts = means(parts, batch, encoder_decoder)
    assert set(counts.values()) == {torch.tensor(0.0)} or all(count == 0 for count in counts.values())
    for used in (parts, parts[:2], parts[2:3], parts[3:4], parts[5:]):
        total, values = loss(used, model, batch, counts)
        assert total == 0 and all(value == 0 for value in values.values())
        for key, gradient in gradients(model, total).items():
            assert gradient is not None and gradient.count_nonzero() == 0, key


@KINDS
def test_weighted_tokens(name):
    """Prompts may weigh too, in every part over tokens; spans and states do not heed it."""
    model = built(name)
    encoder_decoder = model.config.is_encoder_decoder
    rows = rows_of(encoder_decoder)
    for row in rows:
        prompt = row["labels"].count(-100)
        row["label_weights"] = [0.3] * prompt + [1.0 + 0.1 * row["groups"]] * (len(row["labels"]) - prompt)
        row["labels"] = row["input_ids"] if prompt else row["labels"]
    _, expected, count = reference(model, rows)
    total, values, _ = whole(model, collate(rows))
    parts = parts_of(encoder_decoder)
    counts = means(parts, collate(rows), encoder_decoder)
    assert {n: c.item() for n, c in counts.items()} == pytest.approx(count)
    for part in parts:
        assert values[part.name].item() == pytest.approx(expected[part.name].item(), rel=1e-4)
    assert total == pytest.approx(sum(p.weight * expected[p.name].item() for p in parts), rel=1e-4)


def test_expected_tokens_take_the_place_of_those_that_are_there():
    batch = collate(rows_of(False)) | {"expected": torch.full((len(ROWS),), 2.5)}
    for part in parts_of(False):
        if part.name in ("cross_entropy", "divergence", "focal"):
            assert part.count(batch, encoder_decoder=False).item() == 2.5 * len(ROWS)


@KINDS
def test_a_weight_of_zero_costs_nothing(name, monkeypatch):
    """The parts are never run: no soft labels, no pairs, no states, no function of a user."""
    model = built(name)
    encoder_decoder = model.config.is_encoder_decoder
    batch = collate(rows_of(encoder_decoder))
    mentor, called = Mentor(encoder_decoder), []
    off = (
        SoftLabelKL(mentor, 0.0),
        SpanKL(0.0),
        Triplet(0.0),
        TokenLoss("focal", 0.0, lambda logits, targets: called.append(1) or focal(logits, targets)),
    )
    for ask in ("paired_tokens", "triplet", "triplets"):
        monkeypatch.setattr(module, ask, lambda *given, **named: called.append(1))
    counts = {"cross_entropy": CrossEntropy().count(batch, encoder_decoder=encoder_decoder)}
    total, values = loss((CrossEntropy(), *off), model, batch, counts)
    assert total.item() == loss((CrossEntropy(),), model, batch, counts)[0].item()
    assert list(values) == ["cross_entropy"] and not called and not mentor.asked


@pytest.mark.parametrize("k", [5, None])
@pytest.mark.parametrize("around", ["autocast", "bfloat16 weights"])
@pytest.mark.parametrize("name", ["llama", "llama+lora", "t5 tied", "gptj with a bias"])
def test_bfloat16(name, around, k):
    """Near float32; gradients in the parameters' type; a frozen head has none."""
    model = built(name)
    encoder_decoder = model.config.is_encoder_decoder
    batch = collate(rows_of(encoder_decoder))
    parts = (CrossEntropy(0.7), SoftLabelKL(Mentor(encoder_decoder, k), 0.3), SpanKL(0.4), Triplet(0.5))
    expected = whole(model, batch, parts)
    if around == "bfloat16 weights":
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=around == "autocast"):
        found = whole(model, batch, parts)
    assert found[0] == pytest.approx(expected[0], rel=2e-2)
    norm = sum(g.double().square().sum() for g in expected[2].values()).sqrt()
    gap = sum((found[2][n].double() - g.double()).square().sum() for n, g in expected[2].items()).sqrt()
    assert gap < 0.1 * norm
    wanted = {n: p.dtype for n, p in model.named_parameters() if p.requires_grad}
    assert {n: gradient.dtype for n, gradient in found[2].items()} == wanted
    if "lora" in name:
        assert model.get_output_embeddings().weight.grad is None


def test_dev_loss_makes_no_gradient():
    model, batch, parts = built("llama"), collate(rows_of(False)), parts_of(False)
    counts = means(parts, batch, False)
    with torch.no_grad():
        silent, values = loss(parts, model, batch, counts)
    total, again = loss(parts, model, batch, counts)
    assert not silent.requires_grad and silent.item() == pytest.approx(total.item(), rel=1e-6)
    assert values.keys() == again.keys()


def test_a_row_of_logits_is_made_once(monkeypatch):
    """Though pairs, and several parts over tokens, share it."""
    model, batch, parts = built("llama"), collate(rows_of(False)), parts_of(False)
    sizes, kernel = [], module.token_loss
    monkeypatch.setattr(
        module, "token_loss", lambda rows, *given: sizes.append(len(rows)) or kernel(rows, *given)
    )
    loss(parts, model, batch, means(parts, batch, False))
    scored = sum(len(row["labels"]) - row["labels"].count(-100) for row in rows_of(False) if row["scored"])
    assert sizes == [scored + len(OTHER)]  # of the paired row that is not scored, its span alone


def test_the_model_runs_once():
    model, batch, parts = built("llama"), collate(rows_of(False)), parts_of(False)
    counts, calls = means(parts, batch, False), []
    loss(parts, model, batch, counts)  # asks about the head
    model.model.layers[0].register_forward_hook(lambda *given: calls.append(1))
    loss(parts, model, batch, counts)
    assert calls == [1]


def test_parts_that_cannot_be_used_are_refused():
    model, batch = built("llama"), collate(rows_of(False))
    counts = {"cross_entropy": torch.tensor(1.0)}
    with pytest.raises(ValueError, match="called cross_entropy, cross_entropy; their names must differ"):
        loss((CrossEntropy(), CrossEntropy(0.5)), model, batch, counts)
    with pytest.raises(ValueError, match="every loss part has weight 0"):
        loss((CrossEntropy(0.0),), model, batch, counts)

    class Nothing:
        name, weight = "nothing", 1.0

        def count(self, batch, *, encoder_decoder):
            return torch.tensor(1.0)

    class Two(Triplet):
        def of_pairs(self):
            raise AssertionError

    for part in (Nothing(), Two(1.0, name="nothing")):
        with pytest.raises(ValueError, match="nothing: a loss part needs one of of_tokens, of_"):
            loss((part,), model, batch, counts | {"nothing": torch.tensor(1.0)})


def test_a_batch_for_the_other_kind_of_model_is_refused():
    batch = collate(rows_of(True))
    with pytest.raises(ValueError, match="made for an encoder-decoder, and the model is decoder-only"):
        loss((CrossEntropy(),), built("llama"), batch, {"cross_entropy": torch.tensor(1.0)})


def test_soft_labels_of_other_tokens_are_refused():
    class Short(Mentor):
        def of(self, batch):
            return super().of(batch).rows(0, 3)

    model, batch = built("llama"), collate(rows_of(False))
    parts = (SoftLabelKL(Short(False), 1.0),)
    with pytest.raises(ValueError, match=r"3 soft labels for \d+ scored tokens"):
        loss(parts, model, batch, means(parts, batch, False))
