"""A prompt that is computed once, against every row with its own: loss and gradients of all families."""

import pytest
import torch

from limbeck.objectives.align import align_batch, run
from limbeck.objectives.shared_prompts import CannotShareError
from limbeck.training.collate import collate
from limbeck.training.parts import CrossEntropy, SpanKL, Triplet, loss
from limbeck.training.rows import Row

from ..commands import Started, finish, ranks_of
from ..lm.families import FAMILIES, tiny_model
from .conftest import VOCABULARY

PARTS = (CrossEntropy(), SpanKL(0.5), Triplet(0.7), Triplet(0.3, name="mean", pooling="mean"))
ANSWER = [17, 18]
QUESTIONS = [(13, (3, 9, 6)), (4, (12, 2)), (7, (5, 8, 1, 10)), (2, (4,))]
"""Tokens of the prompts, and of the reasoning of each row; longer than the windows of 8 in some families."""
ROLES = ("anchor", "positive", "negative", "negative")

FLOAT32_INSIDE = 2e-7
"""What float64 models differ by that make some of their steps in float32, as the library's norms do."""
EXACT = {"gpt2": 1e-13, "opt": 1e-13, "bart": 1e-13}
IN_FLOAT32 = {"gemma2": 2e-6}
"""In float64 the library's masks overflow, with separate rows too."""


def some_rows(encoder_decoder, vocabulary=VOCABULARY, prompt_weight=0.0):
    """Groups of one to four rows with a prompt; two rows of each are a pair, one is not scored."""
    draw = torch.Generator().manual_seed(3)

    def tokens(count):
        return torch.randint(19, vocabulary, (count,), generator=draw).tolist()

    rows, groups = [], []
    for question, (length, reasonings) in enumerate(QUESTIONS):
        prompt = tokens(length)
        before = [] if encoder_decoder else prompt
        for n, reasoning in enumerate(reasonings):
            completion = [*tokens(reasoning), *ANSWER, 1]
            start = len(before) + reasoning
            unscored = [-100] * len(before)
            rows.append(
                Row(
                    str(question),
                    prompt if encoder_decoder else prompt + completion,
                    (before if prompt_weight else unscored) + completion,
                    [prompt_weight] * len(before) + [1.0] * len(completion) if prompt_weight else None,
                    scored=n != 2,
                    role=ROLES[n],
                    span=(start, start + 2) if n < 2 else (-1, -1),
                    prompt=len(before) if prompt_weight else 0,
                )
            )
            groups.append(question)
    return rows, groups


def both_batches(model, **more):
    """The same rows separately and with shared prompts."""
    both = model.config.is_encoder_decoder
    rows, groups = some_rows(both, **more)
    prompts = [row.prompt_ids(encoder_decoder=both) for row in rows]
    return collate(rows, 0, groups=groups), collate(rows, 0, groups=groups, prompts=prompts)


def gradient(model, batch, parts=PARTS):
    """Loss, and the gradients of all trained weights in one float64 vector."""
    model.zero_grad()
    counts = {part.name: part.count(batch, encoder_decoder=model.config.is_encoder_decoder) for part in parts}
    assert all(counts.values()), "every part has something to count"
    total, _ = loss(parts, model, batch, counts)
    total.backward()
    return total.item(), torch.cat([p.grad.flatten().double() for p in model.parameters() if p.requires_grad])


def assert_same(model, separate, shared, close, parts=PARTS):
    expected, wanted = gradient(model, separate, parts)
    value, found = gradient(model, shared, parts)
    assert value == pytest.approx(expected, rel=1e-6)
    assert (found - wanted).norm() <= close * wanted.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_every_family(family):
    model, tokenizer = tiny_model(family)
    close = IN_FLOAT32.get(family)
    if close is None:
        model, close = model.double(), EXACT.get(family, FLOAT32_INSIDE)
    if family == "mixtral":
        model.set_experts_implementation("eager")  # the fast products know no float64
    separate, shared = both_batches(model.train(), vocabulary=len(tokenizer))
    assert len(shared["prompts"]) == len(QUESTIONS)
    assert_same(model, separate, shared, close)


def test_gradients_in_float32_and_with_adapters(model):
    """Llama, Gemma 2 and T5, full and with LoRA; of Llama also on the head."""
    assert_same(model.train(), *both_batches(model), 2e-6)


@pytest.mark.parametrize("model", ["t5", "t5+lora"], indirect=True)
def test_gradient_checkpointing_of_an_encoder_changes_nothing(model):
    """Against separate rows without it."""
    separate, shared = both_batches(model.train())
    _, wanted = gradient(model, separate)
    model.activation_checkpointing_enable({"use_reentrant": False})
    _, found = gradient(model, shared)
    assert (found - wanted).norm() <= 2e-6 * wanted.norm()


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_gradient_checkpointing_of_a_decoder_forgets_the_prompt(model):
    """So a training refuses it."""
    separate, shared = both_batches(model.train())
    _, wanted = gradient(model, separate)
    model.activation_checkpointing_enable({"use_reentrant": False})
    _, found = gradient(model, shared)
    assert (found - wanted).norm() > 0.1 * wanted.norm()


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_what_was_read_of_the_prompt_matters(model):
    """The test notices a wrong prompt, a forgotten one and a wrong place."""
    separate, shared = both_batches(model)
    _, wanted = gradient(model, separate)
    wrong = [
        {"owners": shared["owners"].roll(1)},
        {"begins": shared["begins"] - 1},
        {"prompts": shared["prompts"].roll(1)},
    ]
    for change in wrong:
        _, found = gradient(model, {**shared, **change})
        assert (found - wanted).norm() > 0.1 * wanted.norm()


@pytest.mark.parametrize("model", ["llama", "gemma"], indirect=True)
def test_a_weighted_prompt_counts_once_for_each_row(model):
    separate, shared = both_batches(model, prompt_weight=0.1)
    parts = (CrossEntropy(),)
    assert_same(model, separate, shared, 2e-6, parts)
    once = shared["label_weights"].clone()
    once[1:][once[1:] == 0.1] = 0.0
    _, wanted = gradient(model, shared, parts)
    _, found = gradient(model, {**shared, "label_weights": once}, parts)
    assert (found - wanted).norm() > 0.01 * wanted.norm(), "counting it once would be noticed"


def test_rows_and_states_are_those_of_separate_rows(model):
    separate, shared = both_batches(model)
    places = align_batch(separate, encoder_decoder=model.config.is_encoder_decoder).places()
    found = [
        run(model, batch, places, withhold=True, states=("last", "mean"), share="owners" in batch)
        for batch in (separate, shared)
    ]
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found[1].found_MX, found[0].found_MX, **close)
    for pooling in ("last", "mean"):
        torch.testing.assert_close(found[1].states[pooling], found[0].states[pooling], **close)


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_who_shares_what(encoder_decoder):
    """Equal ids share, whatever the group; a prompt that is only the beginning of another one does not."""
    rows = [
        Row("a", [5, 6], [9, 1]) if encoder_decoder else Row("a", [5, 6, 9, 1], [-100, -100, 9, 1]),
        Row("b", [5, 6, 7], [1]) if encoder_decoder else Row("b", [5, 6, 7, 1], [-100] * 3 + [1]),
        Row("c", [5, 6], [8, 8, 1]) if encoder_decoder else Row("c", [5, 6, 8, 8, 1], [-100, -100, 8, 8, 1]),
    ]
    prompts = [row.prompt_ids(encoder_decoder=encoder_decoder) for row in rows]
    batch = collate(rows, 0, prompts=prompts)
    assert batch["owners"].tolist() == [0, 1, 0] and batch["prompts"].tolist() == [0, 1]
    assert batch["widths"] == (3, 1 if encoder_decoder else 3)
    assert not {"owners", "prompts", "widths"} & collate(rows, 0).keys()


@pytest.mark.parametrize("model", ["llama", "t5"], indirect=True)
def test_empty_prompts_and_no_rows(model):
    """What has nothing in front of its completion, and what keeps processes in step, goes through too."""
    both = model.config.is_encoder_decoder
    nothing = collate([], 0, prompts=[])
    total, _ = loss((CrossEntropy(),), model, nothing, {"cross_entropy": torch.tensor(0.0)})
    total.backward()
    assert total == 0 and all(p.grad is not None and not p.grad.any() for p in model.parameters())
    if not both:
        rows = [Row("a", [5, 1], [5, 1]), Row("b", [5, 7, 1], [5, 7, 1]), Row("c", [6], [6])]
        prompts = [row.prompt_ids(encoder_decoder=False) for row in rows]
        assert_same(model, collate(rows, 0), collate(rows, 0, prompts=prompts), 2e-6, (CrossEntropy(),))


@pytest.mark.parametrize("model", ["llama", "t5"], indirect=True)
def test_the_model_is_left_as_it_was(model):
    part = model.get_encoder() if model.config.is_encoder_decoder else model.get_decoder()
    before, (_, shared) = set(vars(part)), both_batches(model)
    gradient(model, shared)
    assert set(vars(part)) == before


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_model_that_goes_around_its_decoder_is_refused(model, monkeypatch):
    _, shared = both_batches(model)
    monkeypatch.setattr(model, "get_decoder", lambda: torch.nn.Identity())
    with pytest.raises(CannotShareError, match="called its Identity 0 times in one forward"):
        gradient(model, shared)


def test_two_processes():
    """DDP and FSDP2 see one forward; a process with one row, or none, keeps in step with the other."""
    from . import shared_prompts_worker  # which imports this file

    said = finish([Started([], about, shared_prompts_worker.main) for about in ranks_of(2)])
    assert [status for status, *_ in said] == [0, 0], said
    found = [line.split() for line in said[0][1].splitlines()]
    ways = [[kind, how, rows] for kind in ("llama", "t5") for how in ("ddp", "fsdp") for rows in "10"]
    assert [line[:3] for line in found] == ways
    assert all(float(line[3]) < 2e-6 for line in found), found
