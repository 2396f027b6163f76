"""An exam whose answers a server writes is the exam that is written here."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import limbeck
from limbeck.errors import InputError, ModelError
from limbeck.lm import Prompt, Sampling
from limbeck.lm.endpoints import EndpointSettings
from limbeck.lm.load import load, unloaded
from limbeck.lm.reply import Reply, read_reply
from limbeck.lm.saving import save
from limbeck.lm.served import ServedModel
from limbeck.lm.settings import LoraSettings
from limbeck.opening import about_task, problems_of
from limbeck.tasks.asking import Asking

from ..served import served
from .serving import transformers_serve
from .test_saved_students import base_model

MAX_TOKENS = 24
QUESTIONS = 100

RECIPE = f"""
name: served
task: {{name: coin-flip, train: 4, dev: 0, test: {QUESTIONS}, parameters: {{people: 2}}}}
exam: {{max_tokens: {MAX_TOKENS}, endpoint: {{base_url: "http://127.0.0.1:1/v1"}}}}
"""

ASKED = {
    "plain": Asking("plain", instruction="Flip by flip."),
    "arrow": Asking("arrow"),
    "chat": Asking("chat", system="Be brief."),
}


def saved(folder: Path, asking: Asking, family: str = "llama-2") -> Path:
    """A random model, saved as a student that is asked so."""
    loaded = load(base_model(folder / "base", family), device="cpu")
    save(loaded, folder / "student", about={**asking.about(), "max_tokens": MAX_TOKENS})
    return folder / "student"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(RECIPE)
    return file


# transformers serve, a real process with real models


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"transformers serve needs {package}")
    with transformers_serve(None, tmp_path_factory.mktemp("serve")) as url:
        yield url


@pytest.mark.parametrize(
    ("family", "form", "route"),
    [
        ("llama-2", "plain", "completions"),
        ("gpt2", "arrow", "completions"),
        ("qwen2", "chat", "completions"),
        ("llama-2", "chat", "chat"),
    ],
)
def test_a_real_server_writes_the_exam_that_is_written_here(
    server: str, recipe: Path, tmp_path: Path, family: str, form: str, route: str
) -> None:
    student = saved(tmp_path, ASKED[form], family)
    here = limbeck.evaluate(student, recipe, out=tmp_path / "here")
    to = [f"exam.endpoint.endpoint={route}"]
    there = limbeck.evaluate(student, recipe, to, out=tmp_path / "there", endpoint=server)
    pairs = list(zip(here.predictions, there.predictions, strict=True))
    equal = sum(ours == theirs for ours, theirs in pairs)
    assert len(pairs) == QUESTIONS and equal >= 0.99 * QUESTIONS, f"{equal} of {len(pairs)}"
    assert len({ours.completion for ours, _ in pairs}) > 20, "the model says the same to everybody"
    if family == "llama-2":  # the others are cut off in all answers
        assert len({ours.truncated for ours, _ in pairs}) == 2, "finish_reason would not matter"
    assert (there.metrics["served"], there.metrics["dtype"]) == (str(student), None)
    assert here.metrics["served"] is None and there.metrics["parameters"] == here.metrics["parameters"]


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_a_real_server_goes_on_behind_the_beginning_of_an_answer(
    server: str, recipe: Path, tmp_path: Path, family: str
) -> None:
    """Without reasoning the answer's first words are sent with the prompt, and are part of the answer."""
    student, asked = saved(tmp_path, Asking("plain"), family), {"direct": True, "limit": 20}
    here = limbeck.evaluate(student, recipe, out=tmp_path / "here", **asked)
    there = limbeck.evaluate(student, recipe, out=tmp_path / "there", endpoint=server, **asked)
    assert there.predictions == here.predictions
    assert all(one.completion.startswith("The answer is") for one in there.predictions)
    assert len({one.completion for one in there.predictions}) > 5


def test_a_real_server_stops_where_the_loop_here_stops(server: str, recipe: Path, tmp_path: Path) -> None:
    student = saved(tmp_path, Asking("plain"))
    free = limbeck.evaluate(student, recipe, out=tmp_path / "free", limit=20).predictions
    letters = Counter(letter for one in free for letter in set(one.completion) if letter.isalnum())
    stop = [letter for letter, _ in letters.most_common(2)]
    here = limbeck.evaluate(student, recipe, out=tmp_path / "here", limit=20, stop=stop)
    there = limbeck.evaluate(student, recipe, out=tmp_path / "there", limit=20, stop=stop, endpoint=server)
    assert there.predictions == here.predictions
    assert {one.stopped for one in there.predictions} >= set(stop)


# The protocol, on a stand-in that runs the real model


class Model:
    """The library's own `generate` behind the completions route; `bodies` are what it got."""

    def __init__(self, folder: Path) -> None:
        self.model, self.tokenizer = load_whole(folder)
        self.stops = self.model.generation_config.eos_token_id
        # an adapter comes with the sampling defaults of its base, which vLLM leaves out if it is told to
        self.model.generation_config = GenerationConfig(eos_token_id=self.stops)
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> bytes:
        prompt = body["prompt"]
        ids = prompt if isinstance(prompt, list) else self.tokenizer(prompt)["input_ids"]
        with self.lock, torch.inference_mode():
            self.bodies.append(body)
            whole = self.model.generate(
                torch.tensor([ids]), do_sample=False, max_new_tokens=body["max_tokens"]
            )
        new = whole[0, len(ids) :].tolist()
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        ended = new[-1] in self.stops
        choice = {"index": 0, "text": text, "finish_reason": "stop" if ended else "length"}
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(new)}
        return json.dumps({"choices": [choice], "usage": usage}).encode()


def load_whole(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def ids_of(bodies: list[dict[str, Any]]) -> set[tuple[int, ...]]:
    return {tuple(body["prompt"]) for body in bodies}


@pytest.mark.parametrize("direct", [False, True])
def test_prompts_as_tokens_are_read_as_in_training_whatever_the_tokenizer(
    recipe: Path, tmp_path: Path, direct: bool
) -> None:
    """SentencePiece writes another first token inside a text than at its start, and loses a first space."""
    student = saved(tmp_path, Asking("plain"), "llama-1")
    model, asked = Model(student), {"direct": direct, "limit": 20}
    here = limbeck.evaluate(student, recipe, out=tmp_path / "here", **asked)
    with served(model, [str(student)]) as url:
        to = ["exam.endpoint.endpoint=tokens"]
        there = limbeck.evaluate(student, recipe, to, out=tmp_path / "there", endpoint=url, **asked)
    assert [one.correct for one in there.predictions] == [one.correct for one in here.predictions]
    assert [one.tokens for one in there.predictions] == [one.tokens for one in here.predictions]
    assert [bare(one.completion) for one in there.predictions] == [
        bare(one.completion) for one in here.predictions
    ]
    assert len(ids_of(model.bodies)) == 20
    if direct:
        with served(model, [str(student)]) as url, pytest.raises(InputError, match="in one text are other"):
            limbeck.evaluate(student, recipe, out=tmp_path / "texts", endpoint=url, **asked)


def test_an_adapter_is_asked_by_its_name(recipe: Path, tmp_path: Path) -> None:
    """As vLLM serves it: base and adapter, under the name of the LoRA module."""
    lora = LoraSettings(r=4, alpha=8, dropout=0)
    loaded = load(base_model(tmp_path / "base"), lora=lora, device="cpu")
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    save(loaded, tmp_path / "adapter", about={**Asking("plain").about(), "max_tokens": MAX_TOKENS})
    here = limbeck.evaluate(tmp_path / "adapter", recipe, out=tmp_path / "here", limit=20)
    base = limbeck.evaluate(tmp_path / "base", recipe, out=tmp_path / "bare", limit=20, form="plain")
    with served(Model(tmp_path / "adapter"), ["base", "cot"]) as url:
        there = limbeck.evaluate(
            tmp_path / "adapter", recipe, out=tmp_path / "there", limit=20, endpoint=url, endpoint_model="cot"
        )
    assert there.predictions == here.predictions != base.predictions
    assert there.metrics["served"] == "cot"


def bare(text: str) -> str:
    return "".join(text.split())


def test_what_is_sent_is_the_prompt_to_the_letter_and_the_settings_of_the_exam(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = saved(tmp_path, ASKED["plain"])
    config = json.loads((student / "config.json").read_text())
    tokenizer = load_whole(student)[1]
    asked = problems_of(about_task(str(recipe), ()).task, 0, "test")[:20]
    prompts = {one.problem_id: one.text for one in ASKED["plain"].prompts(asked)}
    lengths = [len(tokenizer(text)["input_ids"]) for text in prompts.values()]
    edge = sorted(lengths)[10] + 20  # so that half of the prompts leave room for fewer than 24 tokens
    config["max_position_embeddings"] = edge
    (student / "config.json").write_text(json.dumps(config))
    bodies: list[dict[str, Any]] = []
    sampled = ["exam.top_k=7", "exam.stop=[STOP]"]
    with served(lambda body: bodies.append(body) or plain("The answer is yes."), ["ada"]) as url:
        found = limbeck.evaluate(
            student,
            recipe,
            sampled,
            out=tmp_path / "exam",
            limit=20,
            votes=3,
            endpoint=url,
            endpoint_model="ada",
        )
    assert found.metrics["votes"] == 3 and found.metrics["served"] == "ada"
    assert Counter(body["prompt"] for body in bodies) == Counter(list(prompts.values()) * 3)
    rooms = {
        text: min(MAX_TOKENS, edge - length) for text, length in zip(prompts.values(), lengths, strict=True)
    }
    assert len(set(rooms.values())) > 1
    assert {(body["prompt"], body["max_tokens"]) for body in bodies} == set(rooms.items())
    assert len({body["seed"] for body in bodies}) == 60, "every vote has a seed of its own"
    rest = [{key: body[key] for key in body.keys() - {"prompt", "max_tokens", "seed"}} for body in bodies]
    expected = {"model": "ada", "temperature": 0.7, "top_p": 1.0, "top_k": 7, "stop": ["STOP"]}
    assert all(one == expected for one in rest)
    said = "the server of {}: all answers to a question are equal, for each of 20 questions"
    assert said.format(student) in capsys.readouterr().err, "votes that are not drawn are no votes"


def plain(text: str) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 50, "completion_tokens": 5}}).encode()


def test_a_killed_exam_asks_for_the_rest_alone(
    limbeck: Callable[..., Any], recipe: Path, tmp_path: Path
) -> None:
    student = saved(tmp_path, Asking("plain"))
    broken, asked = [True], list[str]()

    def reply(body: dict[str, Any]) -> bytes:
        asked.append(body["prompt"])
        return b"no JSON" if broken and len(asked) > 7 else plain("The answer is yes.")

    with served(reply, [str(student)]) as url:
        command = ["evaluate", student, "--task", recipe, "--out", tmp_path / "exam", "--limit", "20"]
        command += ["--endpoint", url, "--set", "exam.endpoint.retries=0"]
        command += ["--set", "exam.endpoint.concurrency=1"]
        failed = limbeck(*command)
        assert failed.status == 1 and "check exam.endpoint.base_url, which often ends in /v1" in failed.err
        assert "teacher" not in failed.err and not (tmp_path / "exam" / "metrics.json").exists()
        broken.clear()
        answered, asked[:] = asked[:7], []
        ran = limbeck(*command)
    assert ran.status == 0, ran.err
    assert len(asked) == 13 and not set(asked) & set(answered)
    metrics = json.loads((tmp_path / "exam" / "metrics.json").read_text())
    assert (metrics["problems"], metrics["cost_usd"], metrics["tokens_per_s"]) == (20, None, 0.0)
    assert sorted(path.name for path in (tmp_path / "exam").iterdir()) == [
        "metrics.json",
        "predictions.jsonl",
    ]


def test_a_student_that_thinks_inside_the_prompt_is_read_so() -> None:
    """Where the chat template opened the tag, the text begins inside, unless the server tells both apart."""
    said = read_reply(plain("2 + 2</think>\nSo 4.").decode(), opened=True)
    assert isinstance(said, Reply) and (said.thinking, said.text) == ("2 + 2", "So 4.")
    cut_off = read_reply(plain("2 + 2").decode(), opened=True)
    assert isinstance(cut_off, Reply) and (cut_off.thinking, cut_off.text) == ("2 + 2", "")
    apart = {"choices": [{"message": {"content": "So 4.", "reasoning_content": "2 + 2"}}]}
    kept = read_reply(json.dumps(apart), opened=True)
    assert isinstance(kept, Reply) and (kept.thinking, kept.text) == ("2 + 2", "So 4.")


# What is refused


def test_a_server_without_the_model_is_not_asked(
    limbeck: Callable[..., Any], recipe: Path, tmp_path: Path
) -> None:
    student, asked = saved(tmp_path, Asking("plain")), list[object]()
    command = ["evaluate", student, "--task", recipe, "--out", tmp_path / "exam", "--limit", "3"]
    with served(lambda body: asked.append(body) or plain("The answer is no."), ["bob", "eve"]) as url:
        ran = limbeck(*command, "--endpoint", url, "--endpoint-model", "ada")
        assert ran.status == 1 and not asked
        assert f"the server at {url} has bob, eve, and {student} not as ada; start one that has it" in ran.err
        loads = limbeck(
            *command, "--endpoint", url, "--endpoint-model", "ada", "--set", "exam.endpoint.listed=false"
        )
        assert loads.status == 0 and len(asked) == 3
    gone = limbeck(*command, "--replace", "--endpoint", url)
    assert gone.status == 1 and f"no server at {url} can be reached; start one that has {student}" in gone.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--dtype", "bfloat16"], "--dtype: is the server's affair under --endpoint; leave it out"),
        (
            ["--set", "exam.endpoint.model=x-{step}"],
            "has no place {step}; there are {path}, {place} and {mark}",
        ),
        (
            ["--direct", "--set", "exam.endpoint.endpoint=chat"],
            "an answer cannot be begun in a chat; set exam.endpoint.endpoint to completions or tokens",
        ),
        (
            ["--format", "chat", "--set", "exam.endpoint.endpoint=chat"],
            "makes another prompt than the training",
        ),
        (
            ["--set", "exam.endpoint.model=ours/{place}"],
            "is no model of a run; give its name there with --endpoint-model",
        ),
        (
            ["--set", "exam.endpoint.key_env=LIMBECK_NO_KEY"],
            "exam.endpoint.key_env: the variable LIMBECK_NO_KEY",
        ),
    ],
)
def test_what_would_be_asked_otherwise_is_refused(
    limbeck: Callable[..., Any], recipe: Path, tmp_path: Path, more: list[str], said: str
) -> None:
    student = saved(tmp_path, Asking("plain"))
    command = ["evaluate", student, "--task", recipe, "--out", tmp_path / "exam", "--limit", "3"]
    ran = limbeck(*command, "--endpoint", "http://127.0.0.1:1/v1", *more)
    assert ran.status == 2 and said in ran.err, ran.err


def test_an_address_with_a_password_is_not_shown(
    limbeck: Callable[..., Any], recipe: Path, tmp_path: Path
) -> None:
    command = ["evaluate", "any", "--task", recipe, "--out", tmp_path / "exam"]
    ran = limbeck(*command, "--endpoint", "http://me:hidden@127.0.0.1/v1")
    assert ran.status == 2 and "must hold no user, password" in ran.err and "hidden" not in ran.err


def test_models_that_servers_read_otherwise_are_refused(tmp_path: Path) -> None:
    endpoint = EndpointSettings(base_url="http://127.0.0.1:1/v1")
    seq2seq = unloaded(saved(tmp_path / "t5", Asking("plain"), "t5"))
    with pytest.raises(ModelError, match="is an encoder-decoder model, of which servers"):
        ServedModel(endpoint, "ada", seq2seq)
    student = saved(tmp_path / "llama", Asking("plain"))
    ends = unloaded(student)
    end = ends.tokenizer.eos_token
    ends.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, ends.tokenizer.eos_token_id)]
    )
    with pytest.raises(InputError, match=f"its tokenizer ends every text with {end}; set exam.endpoint"):
        list(ServedModel(endpoint, "ada", ends)([Prompt("q", "q", "How many?\n")], Sampling()))
