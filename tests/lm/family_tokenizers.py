"""Small tokenizers that split texts as those of published families do, for `families`.

Most families are tested with the one of `lm.tiny`. These two differ from it in what an answer's place hangs
on: where a space belongs, how digits are joined, and what stands before every text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

BYTES = [f"<0x{number:02X}>" for number in range(256)]
BEGIN, END, TURN, FILL = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>"


def sentencepiece(texts: Sequence[str]) -> LlamaTokenizer:
    """As Llama 1 and 2: every text begins with <s> and a space, digits are single, <unk> pads."""
    special = ["<unk>", "<s>", "</s>", *BYTES]
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    found = json.loads(made.to_str())["model"]
    merges = [tuple(pair) for pair in found["merges"]]
    return LlamaTokenizer(vocab=found["vocab"], merges=merges, add_bos_token=True, pad_token="<unk>")


def byte_level(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """As Llama 3: bytes, up to three digits in a token, and a token before every text."""
    special = [BEGIN, END, TURN, FILL]
    pieces = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    first = [(BEGIN, made.token_to_id(BEGIN))]
    made.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=first)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=BEGIN,
        eos_token=TURN,
        pad_token=FILL,
        clean_up_tokenization_spaces=False,
    )
