"""The teacher behind an API: what is sent, retried, paid and remembered. No sockets."""

import json
import sys
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx2
import pytest

from limbeck.errors import DiskError, RecipeError, TeacherError
from limbeck.lm import Prompt, Sampling
from limbeck.lm.api import ApiTeacher, open_teacher, seed_of
from limbeck.lm.cost import Receipt, Request, tokens_at_most
from limbeck.lm.remember import Remembered, ledger_of
from limbeck.sequences import Made

from .endpoint import KEY, PRICES, PROMPTS, TWO, Recorder, answer, body_of, client, ok, settings, teacher

# What is sent


def test_every_completion_is_a_request_with_a_seed_of_its_own() -> None:
    server = Recorder()
    got = list(teacher(server)(PROMPTS, TWO))
    assert {(c.prompt_id, c.index) for c in got} == {(p.id, i) for p in PROMPTS for i in range(2)}
    assert len({body["seed"] for body in server.bodies}) == 12
    assert all(0 <= body["seed"] < 2**31 and "n" not in body for body in server.bodies)


def test_what_is_drawn_depends_on_nothing_but_seed_prompt_and_index() -> None:
    """Order, neighbours and concurrency do not matter."""

    def drawn(prompts: list[Prompt], sampling: Sampling, **more: Any) -> dict[tuple[str, int], str]:
        return {(c.prompt_id, c.index): c.text for c in teacher(Recorder(), **more)(prompts, sampling)}

    forward = drawn(PROMPTS, TWO)
    assert drawn(PROMPTS[::-1], TWO, concurrency=1) == forward
    assert drawn(PROMPTS[3:4], TWO).items() < forward.items()
    assert not set(drawn(PROMPTS, Sampling(2, 0.7, seed=1)).values()) & set(forward.values())


def test_a_prompt_brings_its_own_system_prompt() -> None:
    server = Recorder()
    prompts = [replace(PROMPTS[0], system="Be brief."), PROMPTS[1]]
    list(teacher(server, system="Be long.", concurrency=1)(prompts, Sampling()))
    assert [body["messages"][0] for body in server.bodies] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be long."},
    ]
    with pytest.raises(RecipeError, match="no place at the completions endpoint"):
        list(teacher(server, endpoint="completions")(prompts, Sampling()))


def test_a_request_is_made_at_its_turn() -> None:
    made: list[int] = []

    def request(number: int) -> Request:
        made.append(number)
        return Request(Prompt(f"p{number}", f"question {number}", ""), 0)

    asked = teacher(Recorder(), concurrency=2).ask(Made(range(200), request), Sampling(temperature=0.7))
    next(asked)
    assert len(made) <= 4
    assert len(list(asked)) == 199 and sorted(made) == list(range(200))


def test_seeds_do_not_run_into_each_other() -> None:
    prompts = [Prompt(f"p{i}", f"p{i}", "") for i in range(40)]
    seeds = {seed_of(s, Request(p, i)) for s in range(5) for p in prompts for i in range(10)}
    assert len(seeds) == 2000


def test_a_chat_request() -> None:
    server = Recorder()
    options = {"system": "Be brief.", "stop": ["\n\n"], "extra_body": {"service_tier": "flex"}}
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=20, max_tokens=33)
    list(teacher(server, **options)(PROMPTS[:1], sampling))
    assert server.requests[0].url.path == "/v1/chat/completions"
    body = server.bodies[0]
    assert isinstance(body.pop("seed"), int)
    assert body == {
        "model": "big",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "question 0"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 20,
        "max_tokens": 33,
        "stop": ["\n\n"],
        "service_tier": "flex",
    }


def test_what_a_model_refuses_is_left_out() -> None:
    server = Recorder()
    adapted = teacher(server, max_tokens_field="max_completion_tokens", omit=["seed", "temperature", "top_p"])
    list(adapted(PROMPTS[:1], Sampling(temperature=0.7, top_p=0.9, max_tokens=33)))
    assert set(server.bodies[0]) == {"model", "messages", "max_completion_tokens"}


def test_the_completions_endpoint_of_base_models() -> None:
    def serve(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/v1/completions"
        assert body_of(request)["prompt"] == "question 0"
        return ok({"choices": [{"text": " so 4.", "finish_reason": "length"}], "usage": None})

    completion = next(iter(teacher(serve, endpoint="completions")(PROMPTS[:1], Sampling())))
    assert (completion.text, completion.truncated, completion.tokens) == (" so 4.", True, 2)


def test_several_greedy_completions_are_refused() -> None:
    with pytest.raises(RecipeError, match="temperature: 0 is greedy"):
        teacher(Recorder())(PROMPTS, Sampling(n=2))


# What comes back


def test_the_bill_is_on_the_receipt() -> None:
    """Hidden reasoning is paid as output and is no part of the text."""
    usage: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110}
    usage["completion_tokens_details"] = {"reasoning_tokens": 80}
    asked = teacher(lambda _: ok(answer("so 4", usage=usage)), prices=PRICES)
    receipt = next(asked.ask([Request(PROMPTS[0], 0)], Sampling()))
    assert (receipt.completion.text, receipt.completion.tokens) == ("so 4", 20)
    assert (receipt.input_tokens, receipt.output_tokens, receipt.estimated) == (10, 100, False)
    assert receipt.completion.cost_usd == pytest.approx(PRICES.usd(10, 100))


def test_a_missing_bill_is_estimated_from_above_and_marked() -> None:
    asked = teacher(lambda _: ok(answer("four words of text", usage=None)), prices=PRICES)
    receipt = next(asked.ask([Request(PROMPTS[0], 0)], Sampling(max_tokens=64)))
    assert receipt.estimated
    assert receipt.completion.tokens == 5
    assert receipt.completion.cost_usd == pytest.approx(PRICES.usd(tokens_at_most("question 0"), 64))


# Trouble


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_a_passing_failure_is_tried_again(status: int) -> None:
    server = Recorder([httpx2.Response(status, json={"error": {"message": "busy"}})])
    got = list(teacher(server)(PROMPTS[:1], Sampling()))
    assert len(got) == 1 and len(server.requests) == 2


def test_a_lost_connection_is_tried_again() -> None:
    calls = []

    def serve(request: httpx2.Request) -> httpx2.Response:
        calls.append(request)
        if len(calls) == 1:
            raise httpx2.ReadError("reset")
        if len(calls) == 2:
            raise httpx2.ReadTimeout("slow")
        return ok()

    assert len(list(teacher(serve)(PROMPTS[:1], Sampling()))) == 1
    assert len(calls) == 3


@pytest.mark.parametrize("header", ["retry-after", "retry-after-ms", "date"])
def test_retry_after_is_honoured_by_all_threads(header: str) -> None:
    wait = 0.3
    headers = {
        "retry-after": {"retry-after": str(wait)},
        "retry-after-ms": {"retry-after-ms": str(1000 * wait)},
        # dates count whole seconds: this one is between 1 and 2 seconds away
        "date": {"retry-after": formatdate(time.time() + 2, usegmt=True)},
    }[header]
    server = Recorder([httpx2.Response(429, json={}, headers=headers)])
    got = list(teacher(server, concurrency=1)(PROMPTS[:3], Sampling()))
    assert len(got) == 3 and len(server.requests) == 4
    assert server.times[1] - server.times[0] >= (0.9 if header == "date" else wait)
    assert server.times[3] - server.times[1] < wait, "one wait for all"


def test_a_wait_beyond_the_limit_is_an_error_at_once() -> None:
    later = httpx2.Response(429, json={"error": {"message": "daily limit"}}, headers={"retry-after": "7200"})
    server = Recorder([later])
    start = time.monotonic()
    with pytest.raises(TeacherError, match=r"daily limit.* asks to wait 7,200 s; run again"):
        list(teacher(server)(PROMPTS[:1], Sampling()))
    assert time.monotonic() - start < 2 and len(server.requests) == 1


def test_failures_without_end_are_bounded() -> None:
    server = Recorder([httpx2.Response(500, json={"error": {"message": "broken"}}) for _ in range(100)])
    says = r"teacher big at http://teacher.test/v1, prompt p0: answered 500 \(broken\) at each of 4 attempts"
    with pytest.raises(TeacherError, match=says) as error:
        list(teacher(server, retries=3)(PROMPTS[:1], Sampling()))
    assert len(server.requests) == 4
    assert "\n" not in str(error.value)


def test_waits_grow() -> None:
    server = Recorder([httpx2.Response(500) for _ in range(5)])
    list(teacher(server, backoff_s=0.02)(PROMPTS[:1], Sampling()))
    waits = [later - sooner for sooner, later in zip(server.times, server.times[1:], strict=False)]
    assert all(wait >= 0.01 * 2**attempt for attempt, wait in enumerate(waits))
    assert waits[4] > waits[0]


@pytest.mark.parametrize("status", [401, 402, 404])
def test_a_refusal_of_key_credit_or_model_ends_everything(status: int) -> None:
    server = Recorder([httpx2.Response(status, json={"error": {"message": "no"}}) for _ in range(9)])
    with pytest.raises(TeacherError, match=rf"prompt p0: answered {status} \(no\); "):
        list(teacher(server, concurrency=1)(PROMPTS, TWO))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_a_refused_prompt_ends_nothing_and_is_named_at_the_end(status: int) -> None:
    server, got = Recorder([httpx2.Response(status, json={"error": {"message": "no"}})]), []
    with pytest.raises(TeacherError, match=rf"prompt p0: answered {status} \(no\); "):
        got.extend(teacher(server, concurrency=1)(PROMPTS, Sampling()))
    assert len(server.requests) == len(PROMPTS), "nothing is sent again"
    assert {one.prompt_id for one in got} == {prompt.id for prompt in PROMPTS[1:]}


def test_a_parameter_that_no_request_may_have_ends_everything_soon() -> None:
    requests: list[httpx2.Request] = []

    def serve(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(400, json={"error": {"message": "unknown parameter: seed"}})

    prompts = [Prompt(f"p{i}", f"p{i}", f"question {i}") for i in range(200)]
    with pytest.raises(TeacherError, match=r"unknown parameter: seed.*teacher\.omit"):
        list(teacher(serve, concurrency=4)(prompts, Sampling()))
    assert len(requests) <= 34


def test_a_prompt_that_a_filter_refuses_does_not_keep_a_collection_from_its_end(tmp_path: Path) -> None:
    def serve(request: httpx2.Request) -> httpx2.Response:
        if "question 2" in body_of(request)["messages"][0]["content"]:
            return httpx2.Response(400, json={"error": {"message": "no", "code": "content_filter"}})
        return ok()

    said: list[str] = []
    memory = open_teacher(settings(), tmp_path / "log.jsonl", client=client(serve), say=said.append)
    texts = {one.prompt_id: one.text for one in memory(PROMPTS, Sampling())}
    assert len(texts) == len(PROMPTS) and [own for own, text in texts.items() if not text] == ["p2"]
    assert "refused: content_filter" in said[-1]
    assert not memory.missing(PROMPTS, Sampling()), "and is not asked again"
    assert memory.ledger.spent_usd(None) == 0


def test_the_key_is_sent_and_never_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEACHER_KEY", f"{KEY}\n")
    complaint = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    server = Recorder([httpx2.Response(401, json=complaint)])
    options = settings(key_env="TEACHER_KEY")
    memory = open_teacher(options, tmp_path / "log.jsonl", client=client(server))
    with pytest.raises(TeacherError, match=r"Incorrect API key provided: \[key\]") as error:
        list(memory(PROMPTS[:1], Sampling()))
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    list(memory(PROMPTS, TWO))
    told = [str(error.value), repr(error.value), repr(options), (tmp_path / "log.jsonl").read_text()]
    told += [json.dumps(ApiTeacher(options, client=client(server)).identity), repr(memory)]
    assert not any(KEY in text for text in told)


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(RecipeError, match=r"teacher\.key_env: the variable TEACHER_KEY is empty"):
        ApiTeacher(settings(key_env="TEACHER_KEY"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(RecipeError, match=r"pip install 'limbeck\[api\]'"):
        ApiTeacher(settings())


def test_an_address_that_is_no_endpoint() -> None:
    page = httpx2.Response(200, text="<html>Welcome</html>", headers={"content-type": "text/html"})
    with pytest.raises(TeacherError, match=r"not JSON.*check teacher\.base_url"):
        list(teacher(lambda _: page)(PROMPTS[:1], Sampling()))


def test_what_is_under_way_at_an_error_is_yielded_first() -> None:
    """The first request is refused; the seven next to it are answered later, and paid."""
    together = threading.Barrier(8, timeout=10)

    def serve(request: httpx2.Request) -> httpx2.Response:
        together.wait()
        if body_of(request)["messages"][0]["content"] == "question 0":
            return httpx2.Response(401, json={"error": {"message": "expired"}})
        time.sleep(0.1)
        return ok()

    got = []
    prompts = [Prompt(f"p{i}", f"p{i}", f"question {i}") for i in range(100)]
    with pytest.raises(TeacherError, match=r"prompt p0: .*expired"):
        got.extend(teacher(serve, concurrency=8)(prompts, Sampling()))
    assert {c.prompt_id for c in got} == {f"p{i}" for i in range(1, 8)}


def test_what_is_under_way_is_kept_where_the_next_request_cannot_be_read(tmp_path: Path) -> None:
    """Requests are read from a file; three are sent and paid when the disk fails."""
    sent, failed = threading.Barrier(4, timeout=10), threading.Event()
    kept, got = list[Receipt](), list[Receipt]()

    def request(number: int) -> Request:
        if number == 3:
            sent.wait()
            failed.set()
            raise DiskError(tmp_path, OSError(5, "Input/output error"))
        return Request(Prompt(f"p{number}", f"p{number}", f"question {number}"), 0)

    def serve(request: httpx2.Request) -> httpx2.Response:
        sent.wait()
        assert failed.wait(10)
        return ok()

    asked = teacher(serve, concurrency=8).ask(
        Made(range(50), request), Sampling(temperature=0.7), kept.append
    )
    with pytest.raises(DiskError, match="Input/output error"):
        got.extend(asked)
    assert {one.completion.prompt_id for one in kept} == {"p0", "p1", "p2"}
    assert len(got) == 3


def test_a_failure_ends_the_waits_of_the_others() -> None:
    """One request is told to come back in a minute, another one is refused: nobody waits a minute."""
    together = threading.Barrier(2, timeout=10)

    def serve(request: httpx2.Request) -> httpx2.Response:
        together.wait()
        if body_of(request)["messages"][0]["content"] == "question 0":
            return httpx2.Response(429, json={}, headers={"retry-after": "60"})
        time.sleep(0.1)
        return httpx2.Response(401, json={"error": {"message": "no"}})

    start = time.monotonic()
    with pytest.raises(TeacherError, match="answered 401"):
        list(teacher(serve)(PROMPTS[:2], Sampling()))
    assert time.monotonic() - start < 10


def test_requests_run_side_by_side_up_to_the_bound() -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def serve(request: httpx2.Request) -> httpx2.Response:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.1)
        with lock:
            at_once -= 1
        return ok()

    assert len(list(teacher(serve, concurrency=5)(PROMPTS, Sampling(n=5, temperature=1)))) == 30
    assert most == 5


def test_completions_stream() -> None:
    """The first answer is yielded while the second is still being written."""
    gate = threading.Event()

    def serve(request: httpx2.Request) -> httpx2.Response:
        if body_of(request)["messages"][0]["content"] != "question 4":
            assert gate.wait(10)
        return ok()

    stream = teacher(serve, concurrency=6)(PROMPTS, Sampling())
    assert next(stream).prompt_id == "p4"
    gate.set()
    assert len(list(stream)) == 5


# Memory


def test_more_completions_are_bought_singly(tmp_path: Path) -> None:
    path, server = tmp_path / "log.jsonl", Recorder()
    list(open_teacher(settings(), path, client=client(server))(PROMPTS, TWO))
    memory = open_teacher(settings(), path, client=client(server))
    assert len(list(memory(PROMPTS, Sampling(n=5, temperature=0.7, max_tokens=50)))) == 30
    assert len(server.requests) == 30 and memory.from_memory == 12


@pytest.mark.parametrize(
    ("change", "asked_anew"),
    [
        ({"concurrency": 2, "timeout_s": 9, "prices": PRICES, "max_cost_usd": 5}, 0),
        ({"system": "Be brief."}, 12),
        ({"model": "bigger"}, 12),
        ({"base_url": "http://elsewhere.test/v1"}, 12),
        ({"base_url": "http://elsewhere.test/v1", "remember_as": "http://teacher.test/v1"}, 0),
        ({"extra_body": {"reasoning_effort": "high"}}, 12),
    ],
)
def test_the_memory_knows_who_spoke(tmp_path: Path, change: dict[str, Any], asked_anew: int) -> None:
    path = tmp_path / "log.jsonl"
    list(open_teacher(settings(), path, client=client(Recorder()))(PROMPTS, TWO))
    memory = open_teacher(settings(**change), path, client=client(Recorder()))
    assert len(memory.missing(PROMPTS, TWO)) == asked_anew


def test_answers_are_on_disk_before_a_slow_reader_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    stream = open_teacher(settings(concurrency=6), path, client=client(Recorder()))(PROMPTS, Sampling())
    next(stream)
    end = time.monotonic() + 10
    while ledger_of(path).requests < 6 and time.monotonic() < end:
        time.sleep(0.01)
    assert ledger_of(path).requests == 6
    stream.close()  # type: ignore[attr-defined]


def test_a_reader_that_leaves_waits_for_what_is_paid(tmp_path: Path) -> None:
    path, together = tmp_path / "log.jsonl", threading.Barrier(4, timeout=10)

    def serve(request: httpx2.Request) -> httpx2.Response:
        together.wait()
        if body_of(request)["messages"][0]["content"] != "question 0":
            time.sleep(0.2)
        return ok()

    stream = open_teacher(settings(concurrency=4), path, client=client(serve))(PROMPTS[:4], Sampling())
    assert next(stream).prompt_id == "p0"
    stream.close()  # type: ignore[attr-defined]
    assert ledger_of(path).requests == 4


def test_a_full_disk_stops_the_spending(tmp_path: Path) -> None:
    """Answers that cannot be kept end the collection; nothing new is bought."""
    (tmp_path / "file").write_text("")
    server = Recorder()
    asked = ApiTeacher(settings(concurrency=2), client=client(server))
    memory = Remembered(asked, tmp_path / "file" / "log.jsonl", key={}, ask=asked.ask)
    with pytest.raises(DiskError):
        list(memory([Prompt(str(i), str(i), "q") for i in range(50)], Sampling()))
    assert len(server.requests) <= 4
