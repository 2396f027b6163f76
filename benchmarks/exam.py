"""Generation of an exam: ours against the library's `generate`, in one process.

512 prompts of 10 to 90 tokens, greedy, at most 128 new tokens, random models of
about 3.5 million parameters. The library runs twice, padded as its documents say,
and keeps finished rows to the end of their batch: batches of 16 in the given order,
as published code does it, and batches of 64 sorted by length, the strongest that
one would write today. Ours is `LocalModel` as an exam calls it, whose batches have
at most 64 rows. An output ends when the model's own
end-of-sequence logit wins: the output head has a bias for that token, set so
that the mean length is 74 tokens; the lengths lie all over 1 to 128.

    python benchmarks/exam.py [--prompts 512] [--architecture causal|seq2seq]

Prints, for each architecture, the ratios of useful new tokens per second (ours to
the library's; wanted: 1.3 or more to the stronger) and the share of identical outputs
(wanted: 99% or more; where two tokens are all but equally likely, another batch composition
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
LARGE_BATCH = 64
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


Output = tuple[str, int]
"""Text and new tokens."""


def in_order(loaded: Loaded, texts: list[str], size: int = BATCH) -> list[Output]:
    """The library's, batches in the given order."""
    eos = loaded.tokenizer.eos_token_id
    done = []
    for start in range(0, len(texts), size):
        batch = padded(loaded, texts[start : start + size])
        skip = 1 if loaded.encoder_decoder else batch["input_ids"].shape[1]
        for row in loaded.model.generate(**batch, do_sample=False, max_new_tokens=LONGEST)[:, skip:].tolist():
            length = row.index(eos) + 1 if eos in row else len(row)
            done.append((loaded.tokenizer.decode(row[:length], skip_special_tokens=True), length))
    return done


def sorted_64(loaded: Loaded, texts: list[str]) -> list[Output]:
    """The library's, batches as large as ours, longest prompts first."""
    sizes = [len(ids) for ids in prompt_ids(loaded, texts)]
    order = sorted(range(len(texts)), key=lambda n: -sizes[n])
    done = in_order(loaded, [texts[n] for n in order], LARGE_BATCH)
    return [output for _, output in sorted(zip(order, done, strict=True))]


def ours(loaded: Loaded, texts: list[str]) -> list[Output]:
    """Through `LocalModel`."""
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
    sides = (in_order, sorted_64, ours)
    done, rate = {}, {}
    for side in sides:
        side(loaded, texts[:BATCH])  # the first call sets things up
        start = time.process_time()
        done[side] = side(loaded, texts)
        rate[side] = sum(length for _, length in done[side]) / (time.process_time() - start)
    same = sum(a == b for a, b in zip(done[ours], done[in_order], strict=True)) / count
    strongest = rate[ours] / max(rate[in_order], rate[sorted_64])
    lengths = sorted(length for _, length in done[in_order])
    asked = sorted(map(len, prompt_ids(loaded, texts)))
    print(
        f"{architecture}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
        f"prompts {asked[0]} to {asked[-1]} tokens, outputs {lengths[0]} to {lengths[-1]} "
        f"(quartiles {lengths[count // 4]}, {lengths[count // 2]}, {lengths[3 * count // 4]}; "
        f"mean {sum(lengths) / count:.0f})\n"
        f"  useful new tokens per second, ours to generate's in given order, batches of {BATCH}: "
        f"{rate[ours] / rate[in_order]:.2f}\n"
        f"  to generate's sorted, batches of {LARGE_BATCH}: {rate[ours] / rate[sorted_64]:.2f}\n"
        f"  identical outputs: {same:.1%}",
        flush=True,
    )
    return strongest >= 1.3 and same >= 0.99


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
