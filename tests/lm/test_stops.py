"""Stop strings of local models: decoding ends there, whatever the borders of the tokens are."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from transformers import AddedToken

from limbeck.errors import InputError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm import local as local_module
from limbeck.lm.load import Loaded
from limbeck.lm.local import LocalModel
from limbeck.lm.written import cut

from .families import TEXTS, tiny_model

PROMPTS = [Prompt(f"p{number}", f"p{number}", text) for number, text in enumerate(TEXTS[:4])]
LONG = Sampling(max_tokens=40)


def loaded(family: str = "llama-2") -> Loaded:
    model, tokenizer = tiny_model(family)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return Loaded(model, tokenizer, model.config.is_encoder_decoder, family)


def by_prompt(model: LocalModel, prompts: list[Prompt], sampling: Sampling) -> dict[str, Completion]:
    return {done.prompt_id: done for done in model(prompts, sampling)}


def parts_of(text: str, count: int, seed: int) -> list[str]:
    """Pieces of a text that begin and end anywhere, also inside a token."""
    draw, found = random.Random(seed), list[str]()
    while len(found) < count:
        start = draw.randrange(len(text))
        piece = text[start : start + draw.randint(1, 9)]
        if "\ufffd" not in piece:
            found.append(piece)
    return found


@pytest.mark.parametrize("family", ["llama-2", "gpt2", "t5"])
def test_a_completion_ends_before_the_first_stop_string(family: str) -> None:
    """In the text it is as if all had been written; in time it is over with the token that completes it."""
    model = LocalModel(loaded(family))
    whole = by_prompt(model, PROMPTS, LONG)
    assert all(done.tokens == 40 and done.truncated for done in whole.values())
    for number, prompt in enumerate(PROMPTS):
        text = whole[prompt.id].text
        for stop in parts_of(text, 6, seed=number):
            done = by_prompt(model, PROMPTS, replace(LONG, stop=(stop,)))
            for own, other in whole.items():
                left, stopped = cut(other.text, [stop])
                assert (done[own].text, done[own].stopped) == (left, stopped)
                assert done[own].truncated == (not stopped)
            tokens = done[prompt.id].tokens
            assert 1 <= tokens <= 40
            if tokens > 1:
                before = by_prompt(model, [prompt], Sampling(max_tokens=tokens - 1))[prompt.id]
                assert stop not in before.text, "it did not stop too late"
            assert stop in by_prompt(model, [prompt], Sampling(max_tokens=tokens))[prompt.id].text


def test_the_first_of_several_counts_and_each_row_has_its_own_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(loaded())
    whole = by_prompt(model, PROMPTS, LONG)
    stops = tuple(part for done in whole.values() for part in parts_of(done.text[20:], 1, seed=3))
    expected = {own: cut(done.text, stops) for own, done in whole.items()}
    for share in (0.0, 2.0):  # rows leave the batch at once, or never
        monkeypatch.setattr(local_module, "DROP_SHARE", share)
        done = by_prompt(model, PROMPTS, replace(LONG, stop=stops))
        assert {own: (one.text, one.stopped) for own, one in done.items()} == expected
    assert len({one.tokens for one in done.values()}) > 1


def test_decoding_really_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is asked for no token behind the stop string."""
    steps = []
    step = local_module.DecoderOnly.step
    monkeypatch.setattr(
        local_module.DecoderOnly, "step", lambda self, tokens: (steps.append(len(tokens)), step(self, tokens))
    )
    model = LocalModel(loaded())
    [done] = model(PROMPTS[:1], LONG)
    assert len(steps) == 39
    steps.clear()
    [stopped] = model(PROMPTS[:1], replace(LONG, stop=(done.text[10:14],)))
    assert len(steps) == stopped.tokens - 1 < 39


def test_a_sampled_row_is_the_same_up_to_its_stop_string() -> None:
    model = LocalModel(loaded())
    sampling = Sampling(n=4, temperature=1.0, max_tokens=30, seed=2)
    free = {(done.prompt_id, done.index): done.text for done in model(PROMPTS, sampling)}
    for done in model(PROMPTS, replace(sampling, stop=("a", "e"))):
        assert done.text == cut(free[done.prompt_id, done.index], ("a", "e"))[0]


def test_stop_strings_wait_for_the_end_of_the_thinking() -> None:
    """The prompt ends in an opened tag: nothing that is written here closes it."""
    model = LocalModel(loaded())
    opened = [replace(prompt, opened=True) for prompt in PROMPTS]
    whole = by_prompt(model, PROMPTS, LONG)
    stops = tuple(done.text[5:8] for done in whole.values())
    for own, done in by_prompt(model, opened, replace(LONG, stop=stops)).items():
        assert (done.thinking, done.text, done.stopped) == (whole[own].text.strip(), "", "")
        assert done.truncated and done.tokens == 40


def test_borders_of_any_tokenizer() -> None:
    """Spaces that belong to the next piece and vanish at the left, and characters of several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    metaspace = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace()
    metaspace.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    metaspace.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=tokens[:1]))
    vocabulary = dict.fromkeys([*tokens, *metaspace.get_vocab()])
    merges = [tuple(pair) for pair in json.loads(metaspace.to_str())["model"]["merges"]]
    made = {token: number for number, token in enumerate(vocabulary)}
    metaspace.model = models.BPE(vocab=made, merges=merges, byte_fallback=True, unk_token="<unk>")
    text = "Ada has 12 apples 🙂 and é.\n\nQ: Is the coin still heads up? The answer is yes."
    ids = metaspace.encode(text).ids
    assert metaspace.decode(ids) == text
    row = local_module.Row(PROMPTS[0], 0, 0, [], 400)
    for stop in (*parts_of(text, 60, seed=1), " ", "🙂", "é", "\n", "\n\nQ:"):
        watch = local_module._Watch([row], [stop], lambda ids: metaspace.decode(list(ids)))
        seen = next(place for place, token in enumerate(ids) if watch.stopped([0], [token])[0])
        first = next(place for place in range(len(ids)) if stop in metaspace.decode(ids[: place + 1]))
        assert seen == first, stop


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InputError, match="empty stop string"):
        LocalModel(loaded())(PROMPTS, Sampling(stop=("x", "")))


@pytest.mark.parametrize("special", [True, False])
def test_tags_that_are_tokens_are_read_although_special_tokens_are_no_text(special: bool) -> None:
    """Some tokenizers mark them as special, and decoding would leave them out."""
    whole = loaded()
    whole.tokenizer.add_tokens([AddedToken(tag, special=special) for tag in ("<think>", "</think>")])
    model = LocalModel(whole)
    ids: Any = whole.tokenizer("<think>Ada has 3.<|user|></think> The answer is 3.")["input_ids"]
    row = local_module.Row(PROMPTS[0], 0, 0, [], 40)
    done = model._completion(row, [*ids, whole.tokenizer.eos_token_id], ())
    assert (done.thinking, done.text) == ("Ada has 3.", "The answer is 3.")
    stopped = model._completion(row, ids, (" is",))
    assert (stopped.text, stopped.stopped, stopped.truncated) == ("The answer", " is", False)
