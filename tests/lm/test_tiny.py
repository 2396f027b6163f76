"""Models and tokenizers from scratch."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from limbeck.errors import ModelError
from limbeck.lm.tiny import CAUSAL_SIZES, SEQ2SEQ_SIZES, build_model, build_tokenizer, is_tiny

TEXTS = [
    "Then Alina gives 12 apples to Brugo. How many apples does Alina have?\n",
    "Alina has 30 apples and gives 12 to Brugo. Alina now has 30 - 12 = 18 apples. The answer is 18.",
    "Marcellus and the apples: the last letter of Marcellus is s.",
] * 5


def tokens(tokenizer: object, text: str) -> list[str]:
    return [token.replace("Ġ", " ") for token in tokenizer.tokenize(text)]  # type: ignore[attr-defined]


def test_frequent_words_are_whole_and_names_and_numbers_are_spelled() -> None:
    tokenizer = build_tokenizer(TEXTS)
    assert tokens(tokenizer, "Alina has 30 apples.") == [
        "A",
        "l",
        "i",
        "n",
        "a",
        " has",
        " 3",
        "0",
        " apples",
        ".",
    ]
    assert tokens(tokenizer, " Marcellus") == [" M", *"arcellus"]
    assert tokens(tokenizer, "The answer") == [*"The", " answer"], (
        "seen with a space before it only: not this token"
    )
    assert tokens(tokenizer, " The answer") == [" The", " answer"]
    assert tokens(tokenizer, " -12=1,234.50") == [" -", *"12=1,234.50"]
    assert tokens(tokenizer, " zebra's") == [" z", *"ebra's"], "a word the texts do not have"


def test_a_capital_is_whole_only_where_lower_case_is_frequent_or_it_opens_sentences() -> None:
    tokenizer = build_tokenizer(["Then Rose met Apples and Brugo, and apples too."] * 10)
    assert tokens(tokenizer, "Then Rose met Apples and Brugo") == [
        *["Then", " R", "o", "s", "e", " met", " Apples", " and", " B", "r", "u", "g", "o"]
    ]


def test_a_name_of_the_texts_is_whole_under_no_setting() -> None:
    tokenizer = build_tokenizer(TEXTS, min_count=1)
    assert " Brugo" not in tokens(tokenizer, "to Brugo")
    assert tokens(tokenizer, "Marcellus is") == [*"Marcellus", " is"]


def test_the_number_of_words_and_their_frequency_are_limits() -> None:
    few = build_tokenizer(TEXTS, max_words=1)
    assert tokens(few, " apples has") == [" apples", " h", *"as"]
    rare = ["common words here"] * 400 + ["seldom"] * 3
    assert tokens(build_tokenizer(rare), "seldom") == [*"seldom"], "3 times in 403 texts"
    assert tokens(build_tokenizer(rare, min_count=3), "seldom") == ["seldom"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Anna met José at 3:45, paying $1,234.50 (or so)?",
        "  two  spaces \n\n\t and\r\nlines \u2028\u0085 end  ",
        "“naïve” Straße Ελλάδα 日本語 עברית e\u0301 ² ½ Ⅷ 👩‍🔬 \x00\x7f\ufffd",
        "Ġ Ċ <eos",
    ],
)
def test_any_text_decodes_to_itself(text: str) -> None:
    tokenizer = build_tokenizer(TEXTS)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_same_texts_give_the_same_tokenizer_in_any_order() -> None:
    # Equal counts: only the alphabet can decide which words get in.
    texts = [f"{word} {word} {word}" for word in ("pear", "apple", "plum", "fig", "quince")]
    one = build_tokenizer(texts, max_words=3, min_count=1)
    other = build_tokenizer(reversed(texts), max_words=3, min_count=1)
    assert one.get_vocab() == other.get_vocab()
    assert {" apple", " fig", " pear"} == set(tokens(one, " apple fig pear"))


def test_end_padding_and_chat_roles_are_tokens_of_their_own() -> None:
    tokenizer = build_tokenizer(TEXTS)
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, None}) == 3
    assert tokenizer.bos_token is None
    turns = [{"role": "user", "content": "Hello"}]
    asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    answered = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "Hi"}], tokenize=False)
    assert answered == asked + "Hi" + tokenizer.eos_token
    assert tokens(tokenizer, asked)[0] == "<|user|>"
    assert tokenizer.decode(tokenizer(answered)["input_ids"], skip_special_tokens=True) == "HelloHi"


def test_a_beginning_token_if_wanted() -> None:
    tokenizer = build_tokenizer(TEXTS, bos=True)
    assert tokenizer("apples")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer("apples", add_special_tokens=False)["input_ids"][0] != tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("tiny-causal-xs", 0.2),
        ("tiny-causal", 0.65),
        ("tiny-causal-m", 2.5),
        ("tiny-causal-l", 8),
        ("tiny-seq2seq-xs", 0.2),
        ("tiny-seq2seq", 0.8),
        ("tiny-seq2seq-m", 2.9),
        ("tiny-seq2seq-l", 9),
    ],
)
def test_sizes(name: str, millions: float) -> None:
    texts = [" ".join("abcdefghij"[int(digit)] for digit in str(number)) for number in range(200)]
    words = " ".join("".join("abcdefghij"[int(digit)] for digit in str(number)) for number in range(100, 420))
    tokenizer = build_tokenizer([*texts, *[words] * 3])  # 320 words, as much as a task of a few phrasings has
    assert 600 < len(tokenizer) < 750
    count = sum(parameter.numel() for parameter in build_model(name, tokenizer, 0).parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.1)


def test_a_name_without_a_size_is_s() -> None:
    tokenizer = build_tokenizer(TEXTS)
    for kind in ("tiny-causal", "tiny-seq2seq"):
        plain, named = (build_model(name, tokenizer, 3).state_dict() for name in (kind, f"{kind}-s"))
        assert all(torch.equal(plain[key], named[key]) for key in named)


def test_an_unknown_size_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ModelError, match=r"tiny-causal-xxl: no such size; choose one of tiny-causal-xs, .*-l$"
    ):
        build_model("tiny-causal-xxl", build_tokenizer(TEXTS), 0)
    assert is_tiny("tiny-causal-xxl") and is_tiny("tiny-seq2seq")
    assert not is_tiny("tiny-causally") and not is_tiny("org/tiny-causal") and not is_tiny("tiny")
    assert set(CAUSAL_SIZES) == set(SEQ2SEQ_SIZES) == {"xs", "s", "m", "l"}


def test_weights_come_from_the_seed_alone_and_the_generators_stay() -> None:
    tokenizer = build_tokenizer(TEXTS)
    first = build_model("tiny-causal-xs", tokenizer, 1).state_dict()
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    again = build_model("tiny-causal-xs", tokenizer, 1).state_dict()
    other = build_model("tiny-causal-xs", tokenizer, 2).state_dict()
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@pytest.mark.parametrize("name", ["tiny-causal-xs", "tiny-seq2seq-xs"])
def test_saved_and_loaded_like_any_model(tmp_path: Path, name: str) -> None:
    tokenizer = build_tokenizer(TEXTS)
    model = build_model(name, tokenizer, 0).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    kind = AutoModelForSeq2SeqLM if "seq2seq" in name else AutoModelForCausalLM
    loaded, read = kind.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)

    text = "Then Alina has 12 apples; Zoë – none. The end\n"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert read.backend_tokenizer.model.ignore_merges
    assert read.decode(read(text)["input_ids"]) == text
    assert (read.pad_token, read.eos_token, read.chat_template) == ("<pad>", "<eos>", tokenizer.chat_template)
    assert list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.bin"))
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    given = {"input_ids": ids} | ({"decoder_input_ids": ids} if "seq2seq" in name else {})
    with torch.no_grad():
        assert torch.equal(loaded(**given).logits, model(**given).logits)


@pytest.mark.parametrize("name", ["tiny-causal", "tiny-seq2seq"])
def test_training_starts_near_the_uniform_loss(name: str) -> None:
    """Outputs are scaled sensibly: an unscaled T5 starts at tens of nats."""
    tokenizer = build_tokenizer(TEXTS)
    ids = torch.tensor([tokenizer(TEXTS[1])["input_ids"]])
    with torch.no_grad():
        loss = build_model(name, tokenizer, 0)(input_ids=ids, labels=ids).loss.item()
    assert loss == pytest.approx(np.log(len(tokenizer)), abs=2.5)
