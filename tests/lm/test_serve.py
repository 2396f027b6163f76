"""Real processes and real sockets: a stand-in that counts requests, and `transformers serve`."""

import importlib.util
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from limbeck.errors import TeacherError
from limbeck.lm import Prompt, Sampling
from limbeck.lm.api import ApiTeacher, open_teacher
from limbeck.lm.cost import ApiSettings, Prices
from limbeck.lm.remember import ledger_of

from .serving import transformers_serve

# Killed and interrupted processes, on a stand-in that counts


class Served:
    """A local server that counts the requests it got and the answers it sent."""

    def __init__(self, seconds: float) -> None:
        self.asked: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        served = self

        class Handle(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                seed = json.loads(self.rfile.read(int(self.headers["content-length"])))["seed"]
                served.asked[seed] += 1
                time.sleep(seconds)
                body = json.dumps({"choices": [{"message": {"content": f"said {seed}"}}]}).encode()
                try:
                    self.send_response(200)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    served.answered[seed] += 1
                except OSError:
                    pass  # the reader was killed

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handle)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextmanager
def served(seconds: float) -> Iterator[Served]:
    it = Served(seconds)
    thread = threading.Thread(target=it.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield it
    finally:
        it.server.shutdown()
        thread.join()
        it.server.server_close()


COLLECT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from limbeck.lm import Prompt, Sampling
    from limbeck.lm.api import open_teacher
    from limbeck.lm.cost import ApiSettings

    memory = open_teacher(ApiSettings(base_url=sys.argv[1], model="m", concurrency=8), Path(sys.argv[2]))
    prompts = [Prompt(f"p{i}", f"p{i}", f"question {i}") for i in range(60)]
    got = 0
    try:
        for completion in memory(prompts, Sampling(n=2, temperature=1.0)):
            got += 1
    except KeyboardInterrupt:
        print("interrupted", got)
    else:
        print("done", got, memory.from_memory)
    """
)


def collecting(server: Served, path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", COLLECT, server.url, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_answers(server: Served, more: int) -> None:
    goal, end = server.answered.total() + more, time.monotonic() + 30
    while server.answered.total() < goal and time.monotonic() < end:
        time.sleep(0.005)


def test_killed_twice_nothing_is_paid_again_but_what_was_under_way(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with served(0.03) as server:
        safe: set[int] = set()
        for more in (20, 35):
            process = collecting(server, path)
            wait_for_answers(server, more)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kept = path.read_bytes().split(b"\n")[:-1]
            safe |= {int(json.loads(line)["text"].split()[1]) for line in kept}
        before = {seed: server.asked[seed] for seed in safe}
        assert len(safe) >= 55 - 16
        out, err = collecting(server, path).communicate(timeout=60)
    assert out.split() == ["done", "120", str(len(safe))], err
    assert len(server.asked) == 120
    assert {seed: server.asked[seed] for seed in safe} == before, "what is on disk is never asked again"
    assert server.asked.total() <= 120 + 2 * 8, "at most what was under way at each kill"


@pytest.mark.parametrize(
    "how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["Ctrl-C", "SIGTERM", "closed terminal"]
)
def test_an_interrupt_keeps_and_yields_what_was_under_way(tmp_path: Path, how: signal.Signals) -> None:
    path = tmp_path / "log.jsonl"
    with served(0.5) as server:
        process = collecting(server, path)
        wait_for_answers(server, 9)
        time.sleep(0.25)  # into the middle of a round of eight
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
    assert out.split() == ["interrupted", str(server.asked.total())], err
    assert server.asked.total() == server.answered.total() < 120
    assert ledger_of(path).requests == server.asked.total()


# A server of the ecosystem with a model, random but real

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NUMBERS = ["one", "two", "three", "four"]
WORDS = ["<unk>", "<eos>", "<user>", "<system>", "<assistant>", "what", "is", "plus", "so", *NUMBERS]


def build_model(folder: Path) -> None:
    """A random chat model with a vocabulary of words, saved as an ordinary model folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(WORDS),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
    # without do_sample here the server is greedy at any temperature
    model.generation_config = GenerationConfig(do_sample=True, eos_token_id=1, pad_token_id=1)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(base URL, model name) of a running `transformers serve`."""
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"transformers serve needs {package}")
    home = tmp_path_factory.mktemp("serve")
    build_model(home / "model")
    with transformers_serve(home / "model", home) as url:
        yield url, str(home / "model")


QUESTIONS = [Prompt(word, word, f"what is {word} plus one") for word in NUMBERS]


def test_a_real_server_is_asked_once(model_server: tuple[str, str], tmp_path: Path) -> None:
    url, model = model_server
    free = Prices(usd_per_million_input=0, usd_per_million_output=0)
    options = ApiSettings(base_url=url, model=model, concurrency=2, prices=free, max_cost_usd=0, system="so")
    sampling = Sampling(n=3, temperature=1.0, max_tokens=12)
    path = tmp_path / "log.jsonl"
    got, on_disk = [], []
    for completion in open_teacher(options, path)(QUESTIONS, sampling):
        got.append(completion)
        on_disk.append(ledger_of(path).requests)
    assert {(c.prompt_id, c.index) for c in got} == {(q.id, i) for q in QUESTIONS for i in range(3)}
    assert on_disk[0] < 12 and on_disk[-1] == 12, "they stream"
    assert all(set(c.text.split()) <= set(WORDS) for c in got)
    assert all(0 < c.tokens <= 12 and c.truncated == (c.tokens == 12) for c in got)
    for question in QUESTIONS:
        assert len({c.text for c in got if c.prompt_id == question.id}) > 1, "indices are drawn differently"
    ledger = ledger_of(path)
    assert ledger.estimated == 0 and ledger.output_tokens == sum(c.tokens for c in got)
    again = open_teacher(options.model_copy(update={"timeout_s": 1e-3, "retries": 0}), path)
    assert sorted(again(QUESTIONS, sampling), key=repr) == sorted(got, key=repr)
    assert again.from_memory == 12


def test_a_real_server_draws_by_seed(model_server: tuple[str, str]) -> None:
    """One request at a time, since this server's seed is global."""
    url, model = model_server
    teacher = ApiTeacher(ApiSettings(base_url=url, model=model, concurrency=1))
    sampling = Sampling(temperature=1.0, max_tokens=12)
    first = {c.prompt_id: c.text for c in teacher(QUESTIONS, sampling)}
    assert {c.prompt_id: c.text for c in teacher(QUESTIONS[::-1], sampling)} == first


def test_the_completions_endpoint_of_a_real_server(model_server: tuple[str, str]) -> None:
    url, model = model_server
    teacher = ApiTeacher(ApiSettings(base_url=url, model=model, endpoint="completions"))
    (completion,) = teacher(QUESTIONS[:1], Sampling(max_tokens=5))
    assert 0 < completion.tokens <= 5


def test_a_real_server_refuses_what_it_does_not_know(model_server: tuple[str, str]) -> None:
    url, model = model_server
    teacher = ApiTeacher(ApiSettings(base_url=url, model=model, extra_body={"frobnicate": 1}))
    with pytest.raises(TeacherError, match=r"answered 422 \(.*frobnicate.*\); fix what it names"):
        list(teacher(QUESTIONS, Sampling()))
