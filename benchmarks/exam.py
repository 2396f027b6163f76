"""Generation of an exam: ours against the library's `generate`, in one process.

512 prompts of 10 to 90 tokens, greedy, at most 128 new tokens, random models of
about 3.5 million parameters. The library gets batches of 16 in the given order,
padded as its documents say, and keeps finished rows to the end of their batch;
ours is `LocalModel` as an exam calls it. An output ends when the model's own
end-of-sequence logit wins: the output head has a bias for that token, set so
that the mean length is 74 tokens; the lengths lie all over 1 to 128.

    python benchmarks/exam.py [--prompts 512] [--architecture causal|seq2seq]

Prints, for each architecture, the ratio of useful new tokens per second (ours to
the library's; wanted: 2 or more) and the share of identical outputs (wanted: 99%
or more; where two tokens are all but equally likely, another batch composition
can choose the other one). Exit status 1 if either is missed. Seconds are those of
the processor, on one thread, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from limbeck.lm import Prompt, Sampling
from limbeck.lm.load import Loaded
from limbeck.lm.local import LocalModel, prompt_ids
from limbeck.lm.tiny import build_tokenizer, seeded

LONGEST = 128
MEAN = 74
BATCH = 16
WORDS = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "that",
    "is",
    "was",
    "for",
    "on",
    "with",
    "as",
    "by",
    "at",
    "from",
    "it",
    "an",
    "be",
    "this",
    "which",
    "or",
    "are",
    "but",
    "not",
]


def prompts(count: int, seed: int = 0) -> list[str]:
    """Random words and letters, 10 to 90 tokens each, in random order."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        length = draw.randint(10, 90)
        texts.append(" ".join(draw.choice(WORDS if draw.random() < 0.7 else "xyz") for _ in range(length)))
    return texts


def random_model(architecture: str, tokenizer: Any, seed: int = 0) -> Any:
    """About 3.5 M parameters, drawn so wide that greedy output wanders; its head has a bias."""
    tokens = {
        "vocab_size": 1024,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with seeded(seed), torch.no_grad():
        if architecture == "causal":
            config = LlamaConfig(
                hidden_size=192,
                intermediate_size=576,
                num_hidden_layers=7,
                num_attention_heads=8,
                initializer_range=0.1,
                bos_token_id=None,
                **tokens,
            )
            model = LlamaForCausalLM(config)
        else:
            config = T5Config(
                d_model=160,
                d_kv=20,
                d_ff=448,
                num_layers=4,
                num_heads=8,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                initializer_factor=1.5,
                decoder_start_token_id=tokenizer.pad_token_id,
                **tokens,
            )
            model = T5ForConditionalGeneration(config)
            model.shared.weight.mul_(0.05)
        old = model.get_output_embeddings()
        head = nn.Linear(old.in_features, old.out_features, bias=True)
        head.weight.copy_(old.weight)
        head.bias.zero_()
        model.lm_head = head
    return model.eval()


def set_stopping(loaded: Loaded, texts: list[str]) -> None:
    """Set the head's bias of the end-of-sequence token so that outputs have the wanted mean length.

    Without that token a greedy output never depends on its logit; so one run with the token
    forbidden shows for every bias at which step each output would end.
    """
    bias = loaded.model.lm_head.bias
    eos = loaded.tokenizer.eos_token_id
    with torch.no_grad():
        bias[eos] = -1e4
        gaps = []
        for start in range(0, len(texts), BATCH):
            output = loaded.model.generate(
                **padded(loaded, texts[start : start + BATCH]),
                do_sample=False,
                max_new_tokens=LONGEST,
                output_logits=True,
                return_dict_in_generate=True,
            )
            logits = torch.stack(output.logits, dim=1)  # (B,T,V)
            gaps.append(logits.amax(dim=-1) - (logits[..., eos] + 1e4))
        gap = torch.cat(gaps)
        low, high = gap.min().item(), gap.max().item()
        for _ in range(40):
            bias[eos] = (low + high) / 2
            ends = gap < bias[eos]
            length = torch.where(ends.any(dim=1), ends.float().argmax(dim=1) + 1, LONGEST)
            low, high = (low, bias[eos].item()) if length.float().mean() < MEAN else (bias[eos].item(), high)


def padded(loaded: Loaded, texts: list[str]) -> dict[str, torch.Tensor]:
    """A batch as `generate` wants it: padded left for a decoder-only model, right for an encoder."""
    loaded.tokenizer.padding_side = "right" if loaded.encoder_decoder else "left"
    encoded = loaded.tokenizer(texts, padding=True, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def by_library(loaded: Loaded, texts: list[str]) -> list[tuple[str, int]]:
    """Text and new tokens of each output, batches of 16 in the given order."""
    eos = loaded.tokenizer.eos_token_id
    done = []
    for start in range(0, len(texts), BATCH):
        batch = padded(loaded, texts[start : start + BATCH])
        skip = 1 if loaded.encoder_decoder else batch["input_ids"].shape[1]
        for row in loaded.model.generate(**batch, do_sample=False, max_new_tokens=LONGEST)[:, skip:].tolist():
            length = row.index(eos) + 1 if eos in row else len(row)
            done.append((loaded.tokenizer.decode(row[:length], skip_special_tokens=True), length))
    return done


def by_limbeck(loaded: Loaded, texts: list[str]) -> list[tuple[str, int]]:
    """The same through `LocalModel`."""
    asked = [Prompt(str(number), str(number), text) for number, text in enumerate(texts)]
    done = {c.prompt_id: (c.text, c.tokens) for c in LocalModel(loaded)(asked, Sampling(max_tokens=LONGEST))}
    return [done[prompt.id] for prompt in asked]


def compare(architecture: str, count: int) -> bool:
    """Run both sides, print a line, and say whether the goals are met."""
    texts = prompts(count)
    tokenizer = build_tokenizer(texts)
    model = random_model(architecture, tokenizer)
    loaded = Loaded(model, tokenizer, architecture == "seq2seq", architecture)
    set_stopping(loaded, texts[:64])
    for side in (by_library, by_limbeck):
        side(loaded, texts[:BATCH])  # first calls set things up
    clock = time.process_time()
    theirs = by_library(loaded, texts)
    middle = time.process_time()
    ours = by_limbeck(loaded, texts)
    end = time.process_time()
    their_rate = sum(length for _, length in theirs) / (middle - clock)
    our_rate = sum(length for _, length in ours) / (end - middle)
    same = sum(a == b for a, b in zip(ours, theirs, strict=True)) / count
    lengths = sorted(length for _, length in theirs)
    asked = sorted(map(len, prompt_ids(loaded, texts)))
    print(
        f"{architecture}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
        f"prompts {asked[0]} to {asked[-1]} tokens, outputs {lengths[0]} to {lengths[-1]} "
        f"(quartiles {lengths[count // 4]}, {lengths[count // 2]}, {lengths[3 * count // 4]}; "
        f"mean {sum(lengths) / count:.0f})\n"
        f"  useful new tokens per second, ours to generate's: {our_rate / their_rate:.2f}\n"
        f"  identical outputs: {same:.1%}",
        flush=True,
    )
    return our_rate / their_rate >= 2 and same >= 0.99


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--architecture", choices=["causal", "seq2seq"], action="append")
    given = parser.parse_args()
    torch.set_num_threads(1)
    reached = [
        compare(architecture, given.prompts) for architecture in given.architecture or ["causal", "seq2seq"]
    ]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
