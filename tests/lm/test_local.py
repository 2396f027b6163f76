"""Batched generation: what a completion depends on, and what it must not."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Phi3Config,
)

from limbeck.errors import InputError, ModelError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm import local as local_module
from limbeck.lm.load import Loaded
from limbeck.lm.local import LocalModel, Row, batches, draw, position_limit, prompt_ids, stop_tokens
from limbeck.records import Example
from limbeck.training.collate import tokenise
from limbeck.training.groups import singles

from .families import DECODER, TEXTS, build_tokenizer, seeded, tiny_model

PROMPTS = [
    Prompt(f"p{number}", f"p{number}", text)
    for number, text in enumerate([*TEXTS[:4], "coin", "more apples", "Ada"])
]
SAMPLED = Sampling(n=3, temperature=1.0, max_tokens=12, seed=4)


def loaded(family: str = "llama-2", stops: int = 40) -> Loaded:
    """A random model of a family; `stops` of its tokens end a completion, so that lengths vary."""
    model, tokenizer = tiny_model(family)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(100, 100 + stops)]
    return Loaded(model, tokenizer, model.config.is_encoder_decoder, family)


def texts(completions: Iterator[Completion]) -> dict[tuple[str, int], str]:
    found = {(done.prompt_id, done.index): done.text for done in completions}
    assert len(found) > 0
    return found


@pytest.mark.parametrize("family", ["llama-2", "t5"])
def test_a_sampled_row_depends_on_seed_prompt_and_index_alone(family: str) -> None:
    model = loaded(family)
    together = texts(LocalModel(model)(PROMPTS, SAMPLED))
    assert set(together) == {(prompt.id, index) for prompt in PROMPTS for index in range(3)}
    alone = [
        texts(LocalModel(model, max_rows=rows)([prompt], SAMPLED))
        for prompt in reversed(PROMPTS)
        for rows in (1, 3)
    ]
    for each in alone:
        assert each.items() <= together.items()
    fewer = texts(LocalModel(model)(PROMPTS, dataclasses.replace(SAMPLED, n=1)))
    assert fewer.items() <= together.items()
    shorter = LocalModel(model)(PROMPTS, dataclasses.replace(SAMPLED, max_tokens=5))
    assert all(
        together[done.prompt_id, done.index].startswith(done.text.rstrip("\ufffd")) for done in shorter
    )
    assert texts(LocalModel(model)(PROMPTS, dataclasses.replace(SAMPLED, seed=5))) != together
    assert len(set(together.values())) > len(together) / 2


@pytest.mark.parametrize("family", ["llama-2", "gpt2", "t5"])
def test_batches_and_dropping_rows_change_no_greedy_completion(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(family, stops=100)
    greedy = Sampling(max_tokens=30)
    expected = list(LocalModel(model, max_rows=1)(PROMPTS, greedy))
    expected.sort(key=lambda done: done.prompt_id)
    assert len({done.tokens for done in expected}) > 2
    for share in (0.0, 0.2, 2.0):  # drop at once, sometimes, never
        monkeypatch.setattr(local_module, "DROP_SHARE", share)
        for limits in ({}, {"max_rows": 3}, {"token_budget": 100}):
            found = sorted(LocalModel(model, **limits)(PROMPTS, greedy), key=lambda done: done.prompt_id)
            assert found == expected, (share, limits)


@pytest.mark.parametrize("family", ["llama-2", "gpt2", "t5"])
def test_a_completion_that_was_begun_goes_on_as_if_the_model_had_begun_it(family: str) -> None:
    model, greedy = loaded(family), Sampling(max_tokens=16)
    ends = stop_tokens(model.bare, model.tokenizer)
    plain = {one.prompt_id: one for one in LocalModel(model)(PROMPTS, greedy)}
    for begun in ("more apples", "coin coin coin"):
        asked = [dataclasses.replace(prompt, begun=begun) for prompt in PROMPTS[:4]] + PROMPTS[4:]
        first = model.tokenizer(begun, add_special_tokens=False)["input_ids"]
        found = {one.prompt_id: one for one in LocalModel(model)(asked, greedy)}
        assert all(found[prompt.id] == plain[prompt.id] for prompt in PROMPTS[4:]), "the others stay"
        for prompt in asked[:4]:
            ids, (own,) = list(first), prompt_ids(model, [prompt.text])
            while len(ids) < 16 and ids[-1] not in ends:  # what the model says behind what it was given
                ids.append(_next(model, own, ids))
            said = found[prompt.id]
            assert said.tokens == len(ids) and said.text.startswith(begun)
            assert said.text == model.tokenizer.decode([one for one in ids if one not in ends])
    assert len(ids) > len(first) + 1, "it wrote something itself"


def _next(model: Loaded, prompt: list[int], written: list[int]) -> int:
    """The likeliest next token, by one pass over everything."""
    return int(_logits(model, prompt, written)[-1].argmax())


def _logits(model: Loaded, prompt: list[int], written: list[int]) -> torch.Tensor:
    """Of the tokens behind the prompt and each of those written, (written + 1, V)."""
    if model.encoder_decoder:
        decoder = torch.tensor([[model.bare.config.decoder_start_token_id, *written]])
        return model.bare(torch.tensor([prompt]), decoder_input_ids=decoder).logits[0]
    return model.bare(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 :]


@pytest.mark.parametrize("family", ["llama-2", "t5"])
def test_what_is_drawn_for_a_vote_knows_how_likely_it_was(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before temperature and top_k; tokens that it was begun with were not drawn."""
    model, drawn = loaded(family), []

    def decode(decoding: Any, rows: list[Row], *others: Any) -> Any:
        found = given(decoding, rows, *others)
        drawn.extend((row, *one) for row, one in zip(rows, found, strict=True))
        return found

    given = local_module._decode
    monkeypatch.setattr(local_module, "_decode", decode)
    asked = [dataclasses.replace(PROMPTS[0], begun="more apples"), *PROMPTS[1:4]]
    sampling = dataclasses.replace(SAMPLED, temperature=0.7, top_k=20)
    kept = {(one.prompt_id, one.index): one.probability for one in LocalModel(model)(asked, sampling)}
    assert len(drawn) == len(kept) == 12 and len({len(ids) for _, ids, _ in drawn}) > 1
    for row, ids, probability in drawn:
        with torch.no_grad():
            nats = _logits(model, row.ids, ids)[:-1].log_softmax(-1)[range(len(ids)), ids]
        expected = float(nats[len(row.begun) :].mean().exp())
        assert kept[row.prompt.id, row.index] == probability == pytest.approx(expected, rel=1e-4)
    alone = LocalModel(model)(asked, dataclasses.replace(sampling, n=1))
    assert all(one.probability == 0 for one in alone), "nobody votes"


def test_the_beginning_must_leave_room_for_the_rest() -> None:
    asked = [dataclasses.replace(PROMPTS[0], begun="more apples")]
    with pytest.raises(InputError, match=r"prompt p0: .* fill the 2 new ones; raise max_tokens"):
        list(LocalModel(loaded())(asked, Sampling(max_tokens=2)))


def test_the_text_ends_before_the_stopping_token_and_tokens_count_it() -> None:
    model = loaded(stops=0)
    whole = next(LocalModel(model)(PROMPTS[:1], Sampling(max_tokens=8)))
    assert whole.tokens == 8 and whole.truncated
    ids = model.bare.generate(
        torch.tensor(prompt_ids(model, [PROMPTS[0].text])), do_sample=False, max_new_tokens=8
    )
    ids = ids[0, -8:].tolist()
    assert whole.text == model.tokenizer.decode(ids)
    stop = next(number for number in range(2, 8) if ids[number] not in ids[:number])
    model.bare.generation_config.eos_token_id = ids[stop]
    for room in (stop + 1, 20):  # ending with the last token allowed is ending by itself
        ended = next(LocalModel(model)(PROMPTS[:1], Sampling(max_tokens=room)))
        assert (ended.tokens, ended.truncated) == (stop + 1, False)
        assert ended.text == model.tokenizer.decode(ids[:stop])
    cut = next(LocalModel(model)(PROMPTS[:1], Sampling(max_tokens=stop)))
    assert (cut.tokens, cut.truncated, cut.text) == (stop, True, ended.text)


def test_every_stopping_token_counts() -> None:
    model = loaded(stops=0)
    eos = model.tokenizer.eos_token_id
    config = model.bare.generation_config
    for given, expected in ((None, {eos}), (7, {eos, 7}), ([7, 8], {eos, 7, 8})):
        config.eos_token_id = given
        assert stop_tokens(model.bare, model.tokenizer) == expected


def test_special_tokens_are_no_text() -> None:
    model = loaded(stops=0)
    model.bare.lm_head.weight.data[:] = 0
    model.bare.lm_head.weight.data[model.tokenizer.convert_tokens_to_ids("<|user|>")] = 1
    model.bare.model.norm.weight.data[:] = 0
    model.bare.lm_head.bias = torch.nn.Parameter(torch.zeros(model.bare.config.vocab_size))
    model.bare.lm_head.bias.data[model.tokenizer.convert_tokens_to_ids("<|user|>")] = 1
    done = next(LocalModel(model)(PROMPTS[:1], Sampling(max_tokens=3)))
    assert (done.text, done.tokens) == ("", 3)


# --- drawing


def by_hand(logits: list[float], chance: float, sampling: Sampling) -> int:
    """The token at `chance`, straight from the definitions, one row in float64."""
    weights = np.exp(np.array(logits) / sampling.temperature)
    likely = weights / weights.sum()
    order = sorted(range(len(likely)), key=lambda token: (-likely[token], token))
    if sampling.top_k:
        order = order[: sampling.top_k]
    if sampling.top_p < 1:
        total, kept = sum(likely[token] for token in order), []
        for token in order:
            if sum(likely[other] for other in kept) / total < sampling.top_p:
                kept.append(token)
        order = kept
    if not sampling.top_k and sampling.top_p == 1:
        order = list(range(len(likely)))
    total, reached = sum(likely[token] for token in order), 0.0
    for token in order:
        reached += likely[token] / total
        if chance < reached:
            return token
    return order[-1]


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_k": 50},
        {"top_p": 0.6},
        {"top_p": 0.01},
        {"top_k": 4, "top_p": 0.7, "temperature": 1.7},
    ],
    ids=str,
)
def test_a_draw_is_the_definition(setting: dict[str, Any]) -> None:
    sampling = Sampling(**({"temperature": 1.0} | setting))
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(400, 7)) * 2
    chance = generator.random(400)
    found = draw(torch.tensor(logits, dtype=torch.float32), torch.tensor(chance), sampling).tolist()
    assert found == [by_hand(row, u, sampling) for row, u in zip(logits.tolist(), chance, strict=True)]


def test_draws_come_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0, -30.0]]).expand(20_000, 4)
    chance = torch.tensor(np.random.default_rng(1).random(20_000))
    counts = Counter(draw(logits, chance, Sampling(temperature=1.0)).tolist())
    likely = torch.tensor([2.0, 0.0, 1.0]).softmax(0).tolist()
    assert [counts[token] / 20_000 for token in range(3)] == pytest.approx(likely, abs=0.01)
    assert counts[3] == 0


def test_the_edges_of_a_draw() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, 5)
    chance = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, chance, Sampling(temperature=1.0)).tolist() == [1, 3, 3]
    assert draw(logits, chance, Sampling(temperature=1.0, top_p=0.5)).tolist() == [1, 1, 1]
    assert draw(logits, chance, Sampling(temperature=1.0, top_k=1)).tolist() == [1, 1, 1]
    assert draw(
        torch.tensor([[1.0, 5.0, 2.0]]),
        torch.tensor([0.999], dtype=torch.float64),
        Sampling(temperature=0.01),
    ).tolist() == [1]


# --- what generation leaves alone


def test_the_model_is_as_it_was_and_the_generators_too() -> None:
    model = loaded("opt")
    model.bare.train()
    model.bare.model.decoder.layers[0].eval()
    modes = {name: module.training for name, module in model.bare.named_modules()}
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    stream = LocalModel(model, max_rows=2)(PROMPTS, SAMPLED)
    next(stream)
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    assert {name: module.training for name, module in model.bare.named_modules()} == modes, (
        "between two batches"
    )
    stream.close()  # type: ignore[attr-defined]
    assert {name: module.training for name, module in model.bare.named_modules()} == modes
    assert torch.equal(state[0], torch.get_rng_state()) and state[1] == np.random.get_state()[1].tolist()


def test_dropout_is_off_while_generating() -> None:
    model, tokenizer = tiny_model("llama-2")
    model.config.attention_dropout = 0.9
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    own = Loaded(model.train(), tokenizer, False, "llama-2")
    runs = [texts(LocalModel(own)(PROMPTS, Sampling(max_tokens=8))) for _ in range(2)]
    assert runs[0] == runs[1] and model.training


def test_the_mode_comes_back_after_an_error() -> None:
    model = loaded()
    model.bare.train()
    model.bare.model.embed_tokens.weight.data[:] = torch.nan
    with pytest.raises(ModelError, match="the model's logits are not numbers; its weights are broken"):
        list(LocalModel(model)(PROMPTS, Sampling(max_tokens=4)))
    assert model.bare.training


# --- work


class Calls:
    """Shapes of the input ids of every call of the model, and of the logits it gave."""

    def __init__(self, model: Any) -> None:
        self.given: list[tuple[int, ...]] = []
        self.logits: list[tuple[int, ...]] = []
        self.inference: set[bool] = set()
        model.register_forward_hook(self.see, with_kwargs=True)

    def see(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        ids = kwargs["decoder_input_ids"] if "decoder_input_ids" in kwargs else kwargs["input_ids"]
        self.given.append(tuple(ids.shape))
        self.logits.append(tuple(output.logits.shape[:2]))
        self.inference.add(torch.is_inference_mode_enabled())


@pytest.mark.parametrize("family", ["qwen2", "t5"])
def test_a_prompt_is_read_once_and_finished_rows_leave(family: str) -> None:
    model = loaded(family, stops=80)
    calls = Calls(model.bare)
    done = list(LocalModel(model)(PROMPTS, dataclasses.replace(SAMPLED, n=4, max_tokens=40)))
    assert calls.given[0][0] == len(PROMPTS), "not once per completion"
    assert all(shape[1] == 1 for shape in calls.given[1:]), "the cache is used"
    assert all(shape[1] == 1 for shape in calls.logits), "no logits of the prompt"
    assert calls.inference == {True}
    rows = [shape[0] for shape in calls.given[1:]]
    assert rows == sorted(rows, reverse=True) and rows[0] <= 4 * len(PROMPTS)
    # A row takes part in as many steps as it has tokens after the first, plus what waits for a drop.
    needed = sum(completion.tokens - 1 for completion in done)
    assert needed <= sum(rows) <= needed / (1 - local_module.DROP_SHARE) + 1


def test_batches_hold_both_limits_and_every_row_longest_first() -> None:
    rows = [Row(Prompt(str(n), str(n), ""), n, 0, [1] * (1 + 7 * n % 50), 10) for n in range(97)]
    found = list(batches(rows, 8, 300, padded=True))
    assert sorted(row.number for batch in found for row in batch) == list(range(97))
    lengths = [[len(row.ids) for row in batch] for batch in found]
    order = [length for batch in lengths for length in batch]
    assert order == sorted(order, reverse=True)
    assert all(len(batch) <= 8 and len(batch) * (batch[0] + 10) <= 300 for batch in lengths)
    assert len(found) == 15
    assert [len(batch) for batch in batches(rows[:3], 8, 5, padded=True)] == [1, 1, 1], (
        "one row is always let in"
    )
    assert all(
        len(set(map(len, (row.ids for row in batch)))) == 1 for batch in batches(rows, 8, 300, padded=False)
    )


def test_completions_come_batch_by_batch() -> None:
    model = loaded()
    calls = Calls(model.bare)
    stream = LocalModel(model, max_rows=2)(PROMPTS, Sampling(max_tokens=3))
    assert calls.given == [], "nothing runs before the first is asked for"
    next(stream)
    first = len(calls.given)
    next(stream)
    assert len(calls.given) == first
    next(stream)
    assert len(calls.given) > first


# --- positions


def test_a_row_ends_at_the_models_last_position_and_its_neighbours_go_on() -> None:
    model = loaded("gpt2", stops=0)  # 128 learned positions: one more would be an error
    long = " apples" * 120
    assert len(prompt_ids(model, [long])[0]) == 120
    # Many neighbours: the rows that are done wait in the batch, beyond the last position, to be dropped.
    short = [Prompt(f"short {number}", f"short {number}", "Ada") for number in range(30)]
    prompts = [Prompt("long", "long", long), Prompt("full", "full", " apples" * 127), *short]
    found = {done.prompt_id: done for done in LocalModel(model)(prompts, Sampling(max_tokens=20))}
    ends = {name: (done.tokens, done.truncated) for name, done in found.items()}
    assert (ends.pop("long"), ends.pop("full")) == ((8, True), (1, True))
    assert set(ends.values()) == {(20, True)} and len(ends) == 30
    whole = model.bare.generate(torch.tensor(prompt_ids(model, [long])), do_sample=False, max_new_tokens=8)
    assert found["long"].text == model.tokenizer.decode(whole[0, 120:])


@pytest.mark.parametrize(("words", "family"), [(128, "gpt2"), (200, "llama-2")])
def test_a_prompt_without_room_is_named(words: int, family: str) -> None:
    with pytest.raises(
        InputError, match=f"prompt p9: its {words} tokens leave no room in the 128 positions of {family}"
    ):
        LocalModel(loaded(family))([*PROMPTS, Prompt("p9", "p9", " apples" * words)], Sampling())


def test_position_limits() -> None:
    assert position_limit(tiny_model("gpt2")[0].config) == 128
    assert position_limit(tiny_model("gptj")[0].config) == 128
    assert position_limit(tiny_model("t5")[0].config) is None
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "factor": 4.0,
    }
    config = Phi3Config(
        **(DECODER | {"max_position_embeddings": 256, "original_max_position_embeddings": 64}),
        rope_parameters=rope,
    )
    assert position_limit(config) == 64, "beyond, all cached states would have to be made anew"


def test_t5_reads_prompts_of_any_length() -> None:
    model = loaded("t5")
    assert (
        next(LocalModel(model)([Prompt("long", "long", " apples" * 700)], Sampling(max_tokens=3))).tokens <= 3
    )


# --- prompts, families, settings


@pytest.mark.parametrize("family", ["llama-2", "t5"])
@pytest.mark.parametrize("bos", [False, True])
def test_prompt_ids_are_those_of_training(family: str, bos: bool) -> None:
    model, _ = tiny_model(family)
    own = Loaded(model, build_tokenizer(TEXTS, bos=bos), family == "t5", family)
    given = ["Ada has 3 apples.\n", "coin", "ends<eos>"]
    rows = tokenise(
        own.tokenizer,
        singles(Example(problem_id="p", prompt=text, completion="so") for text in given),
        encoder_decoder=own.encoder_decoder,
        max_length=100,
    ).rows
    answer = [*own.tokenizer("so", add_special_tokens=False)["input_ids"], own.tokenizer.eos_token_id]
    for ids, row in zip(prompt_ids(own, given), rows, strict=True):
        assert [*row.input_ids] == (ids if own.encoder_decoder else ids + answer)
    assert prompt_ids(own, []) == []


def test_a_prompt_without_tokens_is_named() -> None:
    with pytest.raises(InputError, match="prompt void: it has no tokens; give it some text"):
        LocalModel(loaded())([Prompt("void", "void", "")], Sampling())


def test_a_system_prompt_beside_the_text_is_refused_not_skipped() -> None:
    with pytest.raises(InputError, match="prompt p: its system prompt is separate; render it"):
        LocalModel(loaded())([Prompt("p", "p", "Ada", system="Be brief.")], Sampling())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"n": 0}, "n and max_tokens must be at least 1"),
        ({"max_tokens": 0}, "n and max_tokens must be at least 1"),
        ({"temperature": -1}, "temperature and top_k must not be negative"),
        ({"temperature": 1, "top_k": -1}, "temperature and top_k must not be negative"),
        ({"temperature": 1, "top_p": 0}, "top_p must be in"),
        ({"temperature": 1, "top_p": 1.1}, "top_p must be in"),
        ({"n": 2}, "n above 1 needs a temperature above 0; greedy completions are all equal"),
    ],
    ids=str,
)
def test_impossible_sampling_is_refused_at_once(setting: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        LocalModel(loaded())(PROMPTS, Sampling(**setting))


def test_nothing_to_do() -> None:
    assert list(LocalModel(loaded())([], Sampling())) == []


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        # Positions from distances alone: rows of one length, no padding.
        (BloomForCausalLM, BloomConfig(hidden_size=32, n_layer=2, n_head=4, initializer_range=0.35)),
        # A convolution's state beside the attention's cache.
        (Lfm2ForCausalLM, Lfm2Config(**DECODER, layer_types=["conv", "full_attention"], conv_L_cache=3)),
    ],
    ids=["bloom", "lfm2"],
)
def test_other_caches_and_positions_work_too(kind: Any, config: Any) -> None:
    tokenizer = build_tokenizer(TEXTS)
    config.vocab_size, config.pad_token_id, config.eos_token_id, config.bos_token_id = (
        len(tokenizer),
        0,
        1,
        None,
    )
    with seeded(0):
        model = kind(config).eval()
    model.generation_config.eos_token_id = [1, *range(300, 340)]
    own = Loaded(model, tokenizer, False, "other")
    expected = {}
    for prompt, ids in zip(PROMPTS, prompt_ids(own, [prompt.text for prompt in PROMPTS]), strict=True):
        new = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=20)[0, len(ids) :].tolist()
        expected[prompt.id, 0] = tokenizer.decode(
            new[:-1] if len(new) < 20 else new, skip_special_tokens=True
        )
    assert texts(LocalModel(own)(PROMPTS, Sampling(max_tokens=20))) == expected


@pytest.mark.filterwarnings("ignore")
def test_a_family_without_such_a_cache_is_refused() -> None:
    tokenizer = build_tokenizer(TEXTS)
    config = MambaConfig(
        hidden_size=32, num_hidden_layers=1, state_size=4, vocab_size=len(tokenizer), eos_token_id=1
    )
    own = Loaded(MambaForCausalLM(config), tokenizer, False, "mamba")
    with pytest.raises(
        ModelError, match="mamba: models of this family keep no cache that rows can be dropped from"
    ):
        list(LocalModel(own)(PROMPTS, Sampling(max_tokens=4)))


def test_its_name_is_the_models() -> None:
    assert LocalModel(loaded("gptj")).name == "gptj"
