"""A student that learns from a mentor's soft labels, through the one trainer."""

import copy
import json

import pytest
import torch
from torch.nn import functional

from limbeck.soft_labels.cache import Cached
from limbeck.soft_labels.live import Live
from limbeck.soft_labels.settings import CodecSettings
from limbeck.soft_labels.writing import write_cache
from limbeck.training.collate import collate, tokenise
from limbeck.training.groups import singles
from limbeck.training.parts import CrossEntropy, SoftLabelKL, loss

from ..commands import Started, ranks_of
from . import distil_worker

BOTH = pytest.mark.parametrize("kind", ["llama", "t5"])
TOP = CodecSettings(k=6)
FULL = CodecSettings(kind="full")
SGD = {"optimizer": "sgd", "learning_rate": 0.1, "clip": 0}


def distil(soft, share, squared=False):
    """Mentor-KD's loss."""
    return CrossEntropy(1 - share), SoftLabelKL(soft, share, squared)


@pytest.fixture
def rows_of(tokenizer, make_examples):
    def rows(kind, count=8, seed=0, **more):
        examples = singles(make_examples(count, seed))
        return tokenise(tokenizer, examples, encoder_decoder=kind == "t5", max_length=99, **more).rows

    return rows


def mentor_of(make_model, kind, rows=50):
    """Another model than the student's, sharper, with another number of padding rows."""
    mentor = make_model(kind, seed=8)
    mentor.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        mentor.get_output_embeddings().weight.mul_(8.0)
    return mentor


@pytest.fixture
def live(make_model):
    def make(kind, codec=TOP, temperature=2.0, rows=50):
        return Live(mentor_of(make_model, kind, rows), codec, temperature, 43)

    return make


@pytest.fixture
def stored(live, tmp_path):
    def make(kind, rows, codec=TOP, temperature=2.0):
        mentor = live(kind).mentor
        write_cache(tmp_path / "soft", mentor, rows, 0, codec, temperature, 43, {}, batch_tokens=90)
        return Cached.open([tmp_path / "soft"], {"temperature": temperature, "codec": codec})

    return make


def naive(student, mentor, rows, temperature, weight=0.0):
    """Float64 sums of CE and KL over 43 real tokens, one unpadded row at a time, and Σ weights."""
    ce = kl = total = 0.0
    for row in rows:
        inputs = {"input_ids": torch.tensor([row.input_ids])}
        if student.config.is_encoder_decoder:
            labels = torch.tensor([row.labels])
            inputs["decoder_input_ids"] = student.prepare_decoder_input_ids_from_labels(labels=labels)
            targets, weights = row.labels, [1.0] * len(row.labels)
        else:
            targets, weights = row.input_ids[1:], [float(label != -100) for label in row.labels[1:]]
            if row.weights:
                weights = row.weights[1:]
        z, z_mentor = (model(**inputs).logits[0].double() for model in (student, mentor))
        for n, (target, w) in enumerate(zip(targets, weights, strict=True)):
            ce = ce - w * z[n].log_softmax(-1)[target]
            q, p = ((x[n, :43] / temperature).log_softmax(-1) for x in (z, z_mentor))
            kl = kl + w * functional.kl_div(q, p, reduction="sum", log_target=True)
            total += w
    return ce, kl, total


@BOTH
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("head", ["plain", "biased", "lora"])
@pytest.mark.parametrize("student_rows", [43, 47, 57])
def test_the_loss_and_its_gradient(rows_of, live, make_model, kind, squared, head, student_rows):
    """Against the definition; the mentor has 50 embeddings, the student fewer, some more or many more."""
    rows, soft = rows_of(kind), live(kind, FULL)
    student = make_model(kind, lora=head == "lora")
    if head == "lora" and student_rows != 43:
        pytest.skip("an adapter stands on a model of a fixed size")
    if student_rows != 43:
        student.resize_token_embeddings(student_rows, mean_resizing=False)
    if head == "biased":
        bias = torch.linspace(-1, 1, student_rows)
        student.get_output_embeddings().bias = torch.nn.Parameter(bias)
    student.eval()
    parts, batch = distil(soft, 0.3, squared), collate(rows, 0)
    counts = {part.name: part.count(batch, encoder_decoder=kind == "t5") for part in parts}
    value, values = loss(parts, student, batch, counts)
    value.backward()
    found = {name: p.grad.clone() for name, p in student.named_parameters() if p.requires_grad}
    student.zero_grad()
    ce, kl, total = naive(student, soft.mentor, rows, 2.0)
    kl = kl * 4 if squared else kl
    ((0.7 * ce + 0.3 * kl) / total).backward()
    assert list(counts.values()) == [total] * 2
    assert values["cross_entropy"].item() == pytest.approx(ce.item() / total, rel=1e-5)
    assert values["divergence"].item() == pytest.approx(kl.item() / total, rel=1e-4)
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_prompts_weigh_in_both_parts(rows_of, live, make_model):
    rows, soft, student = rows_of("llama", prompt_weight=0.3), live("llama", FULL), make_model("llama").eval()
    parts, batch = distil(soft, 0.3), collate(rows, 0)
    counts = {part.name: part.count(batch, encoder_decoder=False) for part in parts}
    _, values = loss(parts, student, batch, counts)
    ce, kl, total = naive(student, soft.mentor, rows, 2.0)
    assert counts["divergence"].item() == pytest.approx(total)
    assert values["cross_entropy"].item() == pytest.approx(ce.item() / total, rel=1e-5)
    assert values["divergence"].item() == pytest.approx(kl.item() / total, rel=1e-4)


@BOTH
def test_how_a_step_is_cut_changes_nothing(
    fit, make_model, make_examples, rows_of, stored, tmp_path, trainable, kind
):
    """Padding too: the cuts pad the same rows differently."""
    parts = distil(stored(kind, rows_of(kind)), 0.3)
    moves = []
    for batch_size, accumulate in ((8, 1), (2, 4), (1, 8)):
        model = make_model(kind)
        start = trainable(model)
        cut = {"batch_size": batch_size, "accumulate": accumulate, "folder": tmp_path / f"{batch_size}"}
        fit(model, make_examples(8), parts=parts, epochs=2, checkpoints=1, **cut, **SGD)
        moves.append(trainable(model) - start)
    assert moves[0].norm() > 0.01
    for move in moves[1:]:
        assert ((move - moves[0]).norm() / moves[0].norm()).item() < 1e-4


@BOTH
@pytest.mark.parametrize(("precision", "lora"), [("fp32", False), ("bf16", True)])
@pytest.mark.parametrize("codec", ["top-k", "full"])
def test_cached_trains_as_live(
    fit,
    make_model,
    make_examples,
    rows_of,
    stored,
    live,
    tmp_path,
    trainable,
    history,
    kind,
    precision,
    lora,
    codec,
):
    """A subset of what is stored, in another order; the dev loss as well."""
    codec = CodecSettings(kind=codec, k=6)
    cached = stored(kind, [*rows_of(kind, 12), *rows_of(kind, 3, seed=1)], codec)
    moves, losses = [], []
    for name, soft in (("cached", cached), ("live", live(kind, codec))):
        model = make_model(kind, lora=lora)
        start = trainable(model)
        fit(
            model,
            make_examples(12)[8:2:-1],
            dev=make_examples(3, seed=1),
            parts=distil(soft, 0.5),
            folder=tmp_path / name,
            epochs=2,
            batch_size=4,
            checkpoints=2,
            precision=precision,
            **SGD,
        )
        moves.append(trainable(model) - start)
        losses.append(
            [
                (row["step"], row.get("divergence", row.get("dev_divergence")))
                for row in history(tmp_path / name)
            ]
        )
    assert moves[1].norm() > 1e-3
    apart = ((moves[0] - moves[1]).norm() / moves[1].norm()).item()
    assert apart < (3e-2 if precision == "bf16" else 1e-3)
    for (step, one), (other_step, other) in zip(*losses, strict=True):
        assert step == other_step
        assert one == pytest.approx(other, rel=2e-3)


@BOTH
def test_bf16_is_near_fp32(fit, make_model, make_examples, live, tmp_path, trainable, kind):
    moves = []
    for precision in ("fp32", "bf16"):
        model = make_model(kind)
        start = trainable(model)
        given = {"parts": distil(live(kind), 0.5), "folder": tmp_path / precision}
        fit(model, make_examples(8), epochs=2, precision=precision, **given, **SGD)
        moves.append(trainable(model) - start)
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert 0 < ((moves[1] - moves[0]).norm() / moves[0].norm()).item() < 0.1


@BOTH
def test_a_student_like_its_mentor_has_nothing_to_learn(
    fit, make_model, make_examples, tmp_path, trainable, history, kind
):
    """λ = 1: also with a tail and at another temperature. Of the full distribution to rounding."""
    for codec, temperature in ((TOP, 2.0), (FULL, 0.7)):
        model = make_model(kind)
        soft = Live(copy.deepcopy(model), codec, temperature, 43)
        start = trainable(model)
        folder = tmp_path / codec.kind
        given = {"parts": distil(soft, 1.0), "folder": folder}
        fit(model, make_examples(8), epochs=2, weight_decay=0, **given, **SGD)
        assert (trainable(model) - start).abs().max() < 1e-6
        for row in history(folder):
            assert abs(row["loss"]) < 1e-5 and "cross_entropy" not in row


@BOTH
def test_without_the_divergence_it_is_fine_tuning(
    fit, make_model, make_examples, live, tmp_path, trainable, history, kind
):
    """To the bit: a part weighted 0 does not run."""
    ends = []
    for name, parts in (("a", distil(live(kind), 0.0)), ("b", (CrossEntropy(),))):
        model, settings = make_model(kind), {"epochs": 3, "batch_size": 3, **SGD}
        fit(model, make_examples(8), parts=parts, folder=tmp_path / name, **settings)
        ends.append((trainable(model).tolist(), [row.get("loss") for row in history(tmp_path / name)]))
        assert all("divergence" not in row for row in history(tmp_path / name))
    assert ends[0] == ends[1]


@BOTH
def test_a_student_comes_nearer_to_its_mentor(fit, make_model, make_examples, live, tmp_path, history, kind):
    """On texts that neither was trained on."""
    fit(
        make_model(kind),
        make_examples(24),
        dev=make_examples(8, seed=1),
        parts=distil(live(kind), 1.0),
        epochs=8,
        learning_rate=3e-3,
    )
    dev = [row["dev_divergence"] for row in history(tmp_path / "run") if "dev_divergence" in row]
    assert dev[-1] < 0.9 * dev[0]


def test_two_processes_equal_one(
    fit, make_model, make_examples, rows_of, live, stored, tokenizer, tmp_path, trainable
):
    """9 examples in batches of 2: five micro-batches, so that one process gets an empty one.

    T5 reads the cache, Llama asks its mentor; its head is untied, so that DDP sees it in the loss alone.
    """
    settings = {"epochs": 2, "batch_size": 2, "accumulate": 2, "checkpoints": 1, **SGD}
    jobs, alone = [], {}
    for kind in ("t5", "llama"):
        folder = tmp_path / kind
        student, soft = make_model(kind), live(kind)
        if kind == "llama":
            student.config.tie_word_embeddings = False
            student.lm_head.weight = torch.nn.Parameter(student.lm_head.weight.detach() * 3)
        student.save_pretrained(folder / "student")
        tokenizer.save_pretrained(folder / "student")
        soft.mentor.save_pretrained(folder / "mentor")
        if kind == "t5":
            soft = stored(kind, rows_of(kind, 9))
            (tmp_path / "soft").rename(folder / "soft")
        start = trainable(student)
        fit(student, make_examples(9), parts=distil(soft, 0.5), folder=folder / "one", **settings)
        alone[kind] = (start, trainable(student), type(student))
        examples = [example.model_dump() for example in make_examples(9)]
        job = {"folder": str(folder), "both": kind == "t5", "cached": kind == "t5"}
        jobs.append({**job, "examples": examples, "settings": settings})
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    spec = str(tmp_path / "jobs.json")
    two = [Started([spec], environment, distil_worker.main) for environment in ranks_of(2)]
    texts = [process.communicate(timeout=120) for process in two]
    assert [process.returncode for process in two] == [0, 0], texts
    for kind, (start, one, family) in alone.items():
        two = trainable(family.from_pretrained(tmp_path / kind / "trained"))
        assert (one - start).norm() > 0.01
        assert ((two - one).norm() / (one - start).norm()).item() < 1e-4, kind
