"""Tiny models from scratch, with a tokenizer made from the run's own texts.

The models are ordinary architectures (Llama; T5 1.1) in sizes that a laptop's
processor trains in minutes. The tokenizer keeps frequent words whole and spells
everything else, names and numbers above all, letter by letter and digit by
digit: last letters need letters, and plain characters would make sequences
three to five times longer. Both save and load as ordinary Hugging Face folders.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from limbeck.errors import ModelError
from limbeck.tasks.asking import about_model
from limbeck.tasks.chat_template import own_template

PAD, EOS, BOS = "<pad>", "<eos>", "<bos>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
MAX_POSITIONS = 2048

SPACE = "Ġ"  # how the byte-level alphabet writes a space

# A word, one digit or one mark, each with the space before it; else white space.
PIECES = r" ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]|\s+(?!\S)|\s"

# Capitalised because they open a sentence, though the texts may never have them in lower case.
OPENERS = """
    A After Again All Also An And Answer As At Because Before Both But By Each Every Finally First For From
    He Hence How However If In It Its Last Let Letter Lower Next No Not Note Now Of On One Only Or Question
    Second She Since So Step Such Take That The Their Then There Therefore These They Third This Those Three
    Thus To Two We What When Where Which While Who Why With Yes You
"""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(
    texts: Iterable[str], max_words: int = 1000, min_count: int | None = None, *, bos: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer whose whole words are the frequent ones of `texts`.

    A word is one token when it occurs at least `min_count` times and is not a name:
    with a capital it must be a common opener of sentences ("Then") or be frequent
    in lower case too. "word" and " word" are counted, and are tokens, apart.
    Every other word is spelled, every number is single digits; a space joins the
    first character after it (" Anna" is " A", "n", "n", "a"). Characters outside
    ASCII are spelled in UTF-8 bytes, so any text decodes to itself, except that
    the special tokens' own spellings ("<eos>") are read as those tokens.

    Args:
        texts: the training texts of a run, prompts and completions.
        max_words: how many whole-word tokens at most, the most frequent ones.
        min_count: occurrences needed; None: 1 per 100 texts, and at least 3.
        bos: put a `<bos>` before every text.
    """
    words = _frequent_words(texts, max_words, min_count)
    glue = [(SPACE, mark) for mark in string.ascii_letters + string.digits + string.punctuation]
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + [space + mark for space, mark in glue] + words
    special = [PAD, EOS, *([BOS] if bos else []), *ROLES]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(special + pieces))}
    # ignore_merges: a piece that is a token is taken whole; merges serve spelled pieces only.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=glue, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS if bos else None,
        extra_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a tiny model's folder.

    Raises:
        ModelError: there is none, or the folder's limbeck.json is damaged.
    """
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: its tokenizer cannot be read ({error}); make the model again") from error
    tokenizer.chat_template = own_template(about_model(folder), tokenizer.chat_template)
    return tokenizer


def _frequent_words(texts: Iterable[str], max_words: int, min_count: int | None) -> list[str]:
    """Whole-word tokens in the byte-level alphabet, most frequent first, ties in alphabetical order."""
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    counts: Counter[str] = Counter()
    lines = 0
    for text in texts:
        lines += 1
        counts.update(piece for piece, _ in split.pre_tokenize_str(text))
    least = max(3, lines // 100) if min_count is None else min_count
    openers = frozenset(OPENERS.split())
    totals: Counter[str] = Counter()
    for piece, count in counts.items():
        totals[piece.lstrip(" ")] += count

    def is_whole(piece: str) -> bool:
        word = piece.lstrip(" ")
        if len(word) < 2 or not word[0].isalpha():
            return False
        return word == word.lower() or word in openers or totals[word.lower()] >= least

    frequent = [piece for piece, count in counts.items() if count >= least and is_whole(piece)]
    frequent.sort(key=lambda piece: (-counts[piece], piece))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [byte_level.pre_tokenize_str(piece)[0][0] for piece in frequent[:max_words]]


@dataclass(frozen=True, slots=True)
class Size:
    """Width of hidden states; layers (of encoder and decoder each); heads; width of the feed-forward part."""

    width: int
    layers: int
    heads: int
    inner: int


# Parameters with a vocabulary of about 700 (one row per token, shared by input and output).
CAUSAL_SIZES = {
    "xs": Size(64, 3, 4, 192),  # 0.2 M
    "s": Size(128, 4, 4, 192),  # 0.65 M
    "m": Size(256, 4, 8, 448),  # 2.5 M
    "l": Size(384, 5, 8, 896),  # 8 M
}
SEQ2SEQ_SIZES = {
    "xs": Size(64, 2, 4, 96),  # 0.2 M
    "s": Size(128, 2, 4, 192),  # 0.8 M
    "m": Size(256, 2, 8, 384),  # 2.9 M
    "l": Size(384, 3, 8, 512),  # 9 M
}
SIZES = {"tiny-causal": CAUSAL_SIZES, "tiny-seq2seq": SEQ2SEQ_SIZES}


def is_tiny(name: str) -> bool:
    """Whether `name` asks for a model from scratch: `tiny-causal`, `tiny-seq2seq`, with or without a size."""
    return re.match(r"tiny-(causal|seq2seq)(-|$)", name) is not None


def build_model(name: str, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """A new model for `tokenizer`, drawn from `seed` alone; the global generator is left as it was.

    Args:
        name: `tiny-causal` or `tiny-seq2seq`, with `-xs`, `-s` (the default), `-m` or `-l`.
        tokenizer: as made by `build_tokenizer`.
        seed: of the weights.

    Raises:
        ModelError: an unknown size.
    """
    kind, size = _parse(name)
    with seeded(seed):
        return _llama(size, tokenizer) if kind == "tiny-causal" else _t5(size, tokenizer)


def _parse(name: str) -> tuple[str, Size]:
    kind = "-".join(name.split("-")[:2])
    size = name.removeprefix(kind).removeprefix("-") or "s"
    if size not in SIZES[kind]:
        known = ", ".join(f"{kind}-{size}" for size in SIZES[kind])
        raise ModelError(f"{name}: no such size; choose one of {known}")
    return kind, SIZES[kind][size]


def _llama(size: Size, tokenizer: PreTrainedTokenizerFast) -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.width,
            intermediate_size=size.inner,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _t5(size: Size, tokenizer: PreTrainedTokenizerFast) -> Any:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=size.width,
            d_kv=size.width // size.heads,
            d_ff=size.inner,
            num_layers=size.layers,
            num_heads=size.heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,  # these models are too small to overfit before they fit
            # Scaled outputs, unlike the published 1.1: else training starts at tens of nats per token.
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from torch's CPU generator as if freshly seeded, then put its state back (CUDA's stays)."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
