"""What a live mentor says of a batch, and whether student and mentor read the same tokens."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from limbeck.errors import ModelError
from limbeck.lm.tiny import build_tokenizer
from limbeck.soft_labels import live as soft_labels
from limbeck.soft_labels.live import Live
from limbeck.soft_labels.settings import CodecSettings
from limbeck.soft_labels.tokenizers import tokenizer_fingerprint, tokenizers_agree, vocabulary_of
from limbeck.training.collate import collate, tokenise
from limbeck.training.groups import singles

BOTH = pytest.mark.parametrize("kind", ["llama", "t5"])
CODECS = pytest.mark.parametrize("codec", ["full", "top-k"])
FULL = CodecSettings(kind="full")


@pytest.fixture
def rows_of(tokenizer, make_examples):
    def rows(kind, count=5, **more):
        groups = singles(make_examples(count))
        return tokenise(tokenizer, groups, encoder_decoder=kind == "t5", max_length=99, **more).rows

    return rows


@pytest.fixture
def make_mentor(make_model):
    """Sharper than a model from scratch, with random padding rows above the tokenizer's 43 tokens."""

    def make(kind, rows=50, dropout=0.0):
        mentor = make_model(kind, dropout=dropout, seed=8)
        mentor.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():
            mentor.get_output_embeddings().weight.mul_(8.0)
        return mentor

    return make


def codec_of(kind):
    return CodecSettings(kind=kind, k=5)


def dense(soft):
    """Probabilities over all real tokens, and the tail's in one more column."""
    p = soft.log_p_NK.exp()
    if soft.ids_NK is not None:
        p = torch.zeros(len(p), soft.vocabulary).scatter_add_(1, soft.ids_NK, p)
    return torch.cat([p, 1 - p.sum(1, keepdim=True)], 1)


@torch.no_grad()
def naive(mentor, rows, temperature, vocabulary):
    """Probabilities in float64, from one unpadded row at a time."""
    found = []
    for row in rows:
        batch = collate([row], 0)
        inputs = {"input_ids": batch["input_ids"]}
        if mentor.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = mentor.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
            keep = [label != -100 for label in row.labels]
        else:
            keep = [label != -100 for label in row.labels[1:]] + [False]
        logits = mentor(**inputs).logits[0].double()[torch.tensor(keep)]
        found.append((logits[:, :vocabulary] / temperature).softmax(-1))
    return torch.cat(found).float()


@BOTH
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_live_is_the_mentors_softmax_over_real_tokens(rows_of, make_mentor, kind, temperature):
    mentor, rows = make_mentor(kind), rows_of(kind)
    soft = Live(mentor, FULL, temperature, 43).of(collate(rows, 0))
    p = naive(mentor.eval(), rows, temperature, 43)
    torch.testing.assert_close(dense(soft)[:, :43], p, atol=1e-5, rtol=1e-4)
    assert p.max() > 0.09  # sharp enough to tell temperatures apart


@BOTH
def test_top_k_keeps_the_likeliest_and_a_tail(rows_of, make_mentor, kind):
    mentor, rows = make_mentor(kind), rows_of(kind)
    soft = Live(mentor, codec_of("top-k"), 2.0, 43).of(collate(rows, 0))
    best = naive(mentor.eval(), rows, 2.0, 43).topk(5).values
    assert soft.tail and soft.ids_NK.max() < 43
    torch.testing.assert_close(soft.log_p_NK.exp(), best, atol=1e-5, rtol=1e-4)


@BOTH
@CODECS
def test_who_shares_a_batch_changes_nothing(rows_of, make_mentor, kind, codec):
    """Neither padding, order nor neighbours."""
    live = Live(make_mentor(kind), codec_of(codec), 2.0, 43)
    rows = rows_of(kind)
    together = dense(live.of(collate(rows, 0)))
    alone = torch.cat([dense(live.of(collate([row], 0))) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    backwards = dense(live.of(collate(rows[::-1], 0)))
    lengths = [len(dense(live.of(collate([row], 0)))) for row in rows]
    torch.testing.assert_close(torch.cat(together.split(lengths)[::-1]), backwards, atol=1e-5, rtol=1e-4)


@CODECS
def test_logits_are_made_in_chunks(rows_of, make_mentor, monkeypatch, codec):
    """With room for 3 tokens' logits no encoder sees more, and nothing changes."""
    live, batch = Live(make_mentor("llama"), codec_of(codec), 2.0, 43), collate(rows_of("llama"), 0)
    whole = dense(live.of(batch))
    name = {"full": "full", "top-k": "top_k"}[codec]
    encode, seen = getattr(soft_labels, name), []

    def watched(logits, *more):
        seen.append(len(logits))
        return encode(logits, *more)

    monkeypatch.setattr(soft_labels, name, watched)
    monkeypatch.setattr("limbeck.objectives.soft.CHUNK_LOGITS", 3 * 50 + 7)
    torch.testing.assert_close(dense(live.of(batch)), whole)
    assert max(seen) == 3 and sum(seen) == len(whole)


@BOTH
def test_rows_that_are_not_scored_have_no_targets(rows_of, make_mentor, kind):
    """They are in the batch for their states; the others' targets are as without them."""
    live, rows = Live(make_mentor(kind), FULL, 2.0, 43), rows_of(kind)
    some = [replace(row, scored=n % 2 == 0) for n, row in enumerate(rows)]
    found, wanted = live.of(collate(some, 0)), live.of(collate(rows[::2], 0))
    torch.testing.assert_close(dense(found), dense(wanted), atol=1e-5, rtol=1e-4)


def test_prompt_tokens_have_targets_where_they_are_scored(rows_of, make_mentor):
    rows = rows_of("llama", prompt_weight=0.1)
    soft = Live(make_mentor("llama"), FULL, 2.0, 43).of(collate(rows, 0))
    assert len(soft.log_p_NK) == sum(len(row.input_ids) - 1 for row in rows)
    p = naive(make_mentor("llama").eval(), rows, 2.0, 43)
    torch.testing.assert_close(dense(soft)[:, :43], p, atol=1e-5, rtol=1e-4)


@BOTH
def test_the_mentor_is_asked_without_dropout_gradients_or_autocast(rows_of, make_mentor, kind):
    """And the student's dropout does not see that it was."""
    mentor, batch = make_mentor(kind, dropout=0.3), collate(rows_of(kind), 0)
    live = Live(mentor.train(), FULL, 2.0, 43)
    state = torch.get_rng_state()
    quiet = live.of(batch)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = live.of(batch)
    assert torch.equal(quiet.log_p_NK, under.log_p_NK)
    assert not quiet.log_p_NK.requires_grad and quiet.log_p_NK.dtype == torch.float32
    assert mentor.training is False and all(p.grad is None for p in mentor.parameters())


def test_a_capped_head_and_adapters_are_asked_whole(rows_of, make_mentor, make_model):
    """What is no plain matrix goes through the model's own head."""
    mentor, rows = make_mentor("llama"), rows_of("llama")
    mentor.lm_head.bias = torch.nn.Parameter(torch.linspace(-3, 3, 50))
    soft = Live(mentor, FULL, 1.0, 43).of(collate(rows, 0))
    torch.testing.assert_close(dense(soft)[:, :43], naive(mentor.eval(), rows, 1.0, 43), atol=1e-5, rtol=1e-4)


@CODECS
def test_a_batch_that_counts_nothing(make_mentor, codec):
    soft = Live(make_mentor("llama"), codec_of(codec), 2.0, 43).of(collate([], 0))
    assert soft.log_p_NK.shape[0] == 0 and soft.vocabulary == 43


def test_a_mentor_with_fewer_embeddings_than_tokens_is_refused(rows_of, make_mentor):
    with pytest.raises(ModelError, match="mentor has 50 embeddings for the 60 tokens"):
        Live(make_mentor("llama"), FULL, 1.0, 60).of(collate(rows_of("llama"), 0))


TEXTS = ["Ada has 3 apples and buys 12 more.", "The coin is flipped twice, so the answer is yes."] * 3


def test_tokenizers_that_agree(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    tokenizers_agree(tokenizer, again, ["w1 w2 unknown", ""])
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(again)
    assert vocabulary_of(tokenizer) == 43
    again.add_tokens(["w99"])
    assert vocabulary_of(again) == 44


def test_tokenizers_that_disagree(tokenizer):
    """Each difference has its own sentence."""
    ours = build_tokenizer(TEXTS)
    with pytest.raises(
        ModelError, match=rf"student's tokenizer has {len(ours)} tokens and the mentor's 43; ch"
    ):
        tokenizers_agree(ours, tokenizer, [])
    ours.add_tokens(["new"])
    with pytest.raises(ModelError, match="choose a mentor of the student's family"):
        tokenizers_agree(ours, build_tokenizer(TEXTS), [])
    renamed = build_tokenizer(TEXTS)
    renamed.add_tokens(["other"])
    with pytest.raises(ModelError, match=r"token 'new' is \d+ in the student's .* and does not exist in the"):
        tokenizers_agree(ours, renamed, [])
    ended = copy.deepcopy(ours)
    ended.eos_token = "<pad>"
    with pytest.raises(ModelError, match="texts end with token 1 and the mentor's with 0"):
        tokenizers_agree(ours, ended, [])
    beginning = build_tokenizer(TEXTS, bos=True)
    beginning.add_tokens(["new"])
    plain = copy.deepcopy(beginning)
    plain.backend_tokenizer.post_processor = (
        copy.deepcopy(ours.backend_tokenizer.post_processor) or _nothing()
    )
    texts = ["", *TEXTS]
    with pytest.raises(ModelError, match=r"cut 'Ada has .*' differently, into \d+ and \d+ tokens"):
        tokenizers_agree(beginning, plain, texts[1:])
    prints = [tokenizer_fingerprint(one) for one in (ours, ended, beginning, plain, renamed, tokenizer)]
    assert len(set(prints)) == 6


def _nothing():
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])


def test_every_text_is_compared():
    """Also beyond the first thousand."""

    def speaking(odd):
        return type(
            "Speaking",
            (SimpleNamespace,),
            {
                "get_vocab": lambda self: {"a": 0},
                "eos_token_id": 0,
                "__call__": lambda self, texts, **more: {"input_ids": [[text == odd] for text in texts]},
            },
        )()

    texts = [str(n) for n in range(2001)]
    tokenizers_agree(speaking("x"), speaking("y"), texts)
    with pytest.raises(ModelError, match="cut '2000' differently"):
        tokenizers_agree(speaking("x"), speaking("2000"), texts)
