"""Soft labels from a server: a stand-in with a real mentor answers as vLLM documents `prompt_logprobs`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from limbeck.errors import ModelError, RecipeError, TeacherError
from limbeck.lm.endpoints import EndpointSettings
from limbeck.lm.load import unloaded
from limbeck.records import Example
from limbeck.soft_labels.live import Live
from limbeck.soft_labels.served import ServedLabels
from limbeck.soft_labels.settings import CodecSettings
from limbeck.soft_labels.writing import write_cache
from limbeck.training.collate import collate, tokenise
from limbeck.training.groups import singles
from limbeck.training.rows import Rows

from ..lm.test_saved_students import base_model
from ..served import served

K = 5


class Server:
    """Prompt log-probabilities of the model that a request names, in vLLM's form."""

    def __init__(self, favoured: int | None = None) -> None:
        self.favoured = favoured  # a token that is made the likeliest of every place
        self.models: dict[str, tuple[Any, Any]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> bytes:
        with self.lock, torch.inference_mode():
            self.bodies.append(body)
            model, tokenizer = self.model(body["model"])
            prompt = body["prompt"]
            ids = prompt if isinstance(prompt, list) else tokenizer(prompt)["input_ids"]
            log_p = model(torch.tensor([ids])).logits[0].float()
            if self.favoured is not None:
                log_p[:, self.favoured] = log_p.max() + 1
            log_p = log_p.log_softmax(-1)
        places: list[Any] = [None]
        for token, own in zip(ids[1:], log_p, strict=False):
            best = own.topk(body["prompt_logprobs"]).indices.tolist()
            ranked = dict.fromkeys([token, *best])  # the token that is there comes first, whatever its rank
            places.append(
                {
                    str(one): {
                        "logprob": float(own[one]),
                        "rank": int((own > own[one]).sum()) + 1,
                        "decoded_token": tokenizer.decode([one]),
                    }
                    for one in ranked
                }
            )
        choice = {"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": places}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        return json.dumps({"choices": [choice], "usage": usage}).encode()

    def model(self, folder: str) -> tuple[Any, Any]:
        if folder not in self.models:
            model = AutoModelForCausalLM.from_pretrained(folder).eval()
            self.models[folder] = model, AutoTokenizer.from_pretrained(folder)
        return self.models[folder]


def labels(folder: Path, url: str, k: int = K) -> ServedLabels:
    endpoint = EndpointSettings(base_url=url, retries=0)
    return ServedLabels(endpoint, str(folder), unloaded(folder), k, "mentors.mentor.endpoint")


def rows_of(folder: Path) -> Rows:
    tokenizer = unloaded(folder).tokenizer
    texts = [(f"How many are {n} + {n}?\n", f"{n} + {n} = {2 * n}. The answer is {2 * n}.") for n in range(6)]
    examples = [Example(problem_id=asked, prompt=asked, completion=said) for asked, said in texts]
    return tokenise(tokenizer, singles(examples), encoder_decoder=False, max_length=99).rows


def batch_of(folder: Path) -> Any:
    return collate(rows_of(folder), unloaded(folder).tokenizer.pad_token_id)


@pytest.mark.parametrize("family", ["qwen2", "llama-2"])
def test_a_server_gives_what_the_mentor_here_gives(tmp_path: Path, family: str) -> None:
    """llama-2 has embedding rows above its tokenizer: never among the likeliest, but not without mass."""
    folder, server = base_model(tmp_path, family), Server()
    batch = batch_of(folder)
    with served(server, [str(folder)]) as url:
        found = labels(folder, url)
        theirs = found.of(batch)
        found.close()
    model = AutoModelForCausalLM.from_pretrained(folder)
    width = model.get_input_embeddings().weight.shape[0]
    ours = Live(model, CodecSettings(k=K), 1.0, width).of(batch)
    assert theirs.ids_NK is not None and ours.ids_NK is not None
    assert len(theirs.log_p_NK) == int((batch["labels"] != -100).sum()) > 50
    assert theirs.tail and theirs.vocabulary == found.vocabulary
    if width == found.vocabulary:
        assert torch.equal(theirs.ids_NK, ours.ids_NK)
        torch.testing.assert_close(theirs.log_p_NK, ours.log_p_NK, atol=1e-4, rtol=1e-4)
    else:
        assert int(theirs.ids_NK.max()) < found.vocabulary < width
    rows = [body["prompt"] for body in server.bodies if isinstance(body["prompt"], list)]
    assert len(rows) == 6, "a row is one request"
    assert all(body["prompt_logprobs"] >= K and body["max_tokens"] == 1 for body in server.bodies)


def test_a_row_above_the_tokenizer_gives_way_to_the_next_token(tmp_path: Path) -> None:
    """It is the likeliest of all places; the text's own token is no stopgap."""
    folder = base_model(tmp_path, "llama-2")
    model = AutoModelForCausalLM.from_pretrained(folder)
    width, batch = model.get_input_embeddings().weight.shape[0], batch_of(folder)
    with served(Server(favoured=width - 1), [str(folder)]) as url:
        found = labels(folder, url)
        theirs = found.of(batch)
        found.close()
    assert found.vocabulary < width
    ours = Live(model, CodecSettings(k=width - 1), 1.0, width).of(batch)
    assert theirs.ids_NK is not None and ours.ids_NK is not None
    for told, known in zip(theirs.ids_NK.tolist(), ours.ids_NK.tolist(), strict=True):
        assert told == [token for token in known if token < found.vocabulary][:K]


@pytest.mark.parametrize(("status", "hinted"), [(400, True), (401, False), (503, False)])
def test_only_a_request_that_is_refused_is_about_its_number_of_tokens(
    tmp_path: Path, status: int, hinted: bool
) -> None:
    folder = base_model(tmp_path, "qwen2")

    def refuses(body: dict[str, Any]) -> tuple[int, bytes]:
        return status, b'{"error": {"message": "no"}}'

    with served(refuses, [str(folder)]) as url, pytest.raises(TeacherError) as told:
        labels(folder, url)
    assert ("--max-logprobs 13" in str(told.value)) is hinted


def test_processes_share_the_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asks for its own rows, so each has its part of `concurrency`, and at least one."""
    crews = []

    class Crew(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            crews.append(count)
            super().__init__(count)

    monkeypatch.setattr("limbeck.soft_labels.served.ThreadPoolExecutor", Crew)
    folder = base_model(tmp_path, "qwen2")
    batch = batch_of(folder)
    with served(Server(), [str(folder)]) as url:
        found = labels(folder, url)
        for world in (1, 3, 64):
            monkeypatch.setattr("limbeck.ranks.world", lambda world=world: world)
            found.of(batch)
        found.close()
    assert crews == [32, 10, 1]


def test_a_row_that_fills_all_positions_is_refused_before_any_is_asked_for(tmp_path: Path) -> None:
    """A server writes one token, whatever it is asked; vLLM refuses a row without room for it."""
    folder, server = base_model(tmp_path, "qwen2"), Server()
    config, rows = json.loads((folder / "config.json").read_text()), rows_of(folder)
    longest = max(len(row.input_ids) for row in rows)

    def write(positions: int) -> None:
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))
        with served(server, [str(folder)]) as url, closing(labels(folder, url)) as found:
            about: Any = {"vocabulary": found.vocabulary, "identity": {}, "batch_tokens": 99}
            write_cache(tmp_path / "labels", found, rows, 0, CodecSettings(k=K), 1.0, **about)

    said = rf"train.max_length: the longest example has {longest} tokens, and .* lower it to {longest - 1}"
    with pytest.raises(RecipeError, match=said):
        write(longest)
    assert not any(isinstance(body["prompt"], list) for body in server.bodies)
    write(longest + 1)
    assert sum(isinstance(body["prompt"], list) for body in server.bodies) == len(rows)


RECIPE = """
name: own
task: {name: coin-flip, train: 8, dev: 0, test: 4, parameters: {people: 2}}
mentor: {model: tiny-causal-s, rationales: 1, exam: false, train: {epochs: 2}}
student: {method: mentor-kd, model: tiny-causal-xs, train: {epochs: 2}}
students: {kd: {settings: {temperature: 1, codec: {k: 5}, teacher_rationales: 1, mentor_rationales: 0}}}
exam: {max_tokens: 16}
"""


def history(run: Path) -> list[dict[str, float]]:
    lines = (run / "students/kd/seed0/history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_student_learns_the_same_from_a_servers_labels(
    limbeck: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(RECIPE)
    assert limbeck("run", "own.yaml", "--out", "here").status == 0
    server = Server()
    with served(server) as url:
        there = f"mentor.endpoint={{base_url: '{url}', soft_labels: true}}"
        ran = limbeck("run", "own.yaml", "--out", "there", "--set", there)
    assert ran.status == 0, ran.err
    examples = Path("there/students/kd/seed0/examples.jsonl").read_text().splitlines()
    assert sum(isinstance(body["prompt"], list) for body in server.bodies) == len(examples) > 4
    pairs = list(zip(history(Path("here")), history(Path("there")), strict=True))
    assert all(ours["divergence"] == pytest.approx(theirs["divergence"], rel=2e-3) for ours, theirs in pairs)
    assert pairs[0][0]["divergence"] > 0
    local = limbeck("run", "own.yaml", "--out", "there")
    assert local.status == 0 and ": started" not in local.err, "who gave the labels decides no result"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "{temperature: 2}",
            "students.kd.settings.temperature: 2, and a server gives log-probabilities of temp",
        ),
        (
            "{temperature: 1, codec: {kind: full}}",
            "students.kd.settings.codec.kind: full, and a server gives the",
        ),
        (
            "{temperature: 1, soft_labels: live}",
            "students.kd.settings.soft_labels: live, and a server would be",
        ),
    ],
)
def test_what_no_server_gives_is_refused_first(
    limbeck: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(RECIPE)
    there = "mentor.endpoint={base_url: 'http://127.0.0.1:1/v1', soft_labels: true}"
    ran = limbeck("run", "own.yaml", "--set", there, "--set", f"students.kd.settings={more}")
    assert ran.status == 2 and said in ran.err, ran.err
    assert not Path("runs/own/mentors").exists()


def test_a_server_of_other_tokens_or_without_probabilities_is_refused(tmp_path: Path) -> None:
    folder = base_model(tmp_path / "ours", "qwen2")
    other, server = base_model(tmp_path / "other", "llama-2"), Server()
    server.models[str(folder)] = server.model(str(other))
    with (
        served(server) as url,
        pytest.raises(ModelError, match=r"reads a text as .* give it this model with"),
    ):
        labels(folder, url)
    silent = b'{"choices": [{"index": 0, "text": "a", "finish_reason": "length"}]}'
    with served(lambda body: silent) as url, pytest.raises(ModelError, match="gives no log-probabilities of"):
        labels(folder, url)
    with (
        served(lambda body: silent) as url,
        pytest.raises(RecipeError, match=r"codec\.k: 5000 tokens are all"),
    ):
        labels(folder, url, k=5000)


def test_a_server_that_loses_the_connection_is_named(tmp_path: Path) -> None:
    folder, server = base_model(tmp_path, "qwen2"), Server()
    with served(server) as url:
        found = labels(folder, url)
    with pytest.raises(TeacherError, match=f"the server of .* at {url}: lost the connection"):
        found.of(batch_of(folder))
    found.close()
