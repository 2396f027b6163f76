"""What may be charged is known before it is sent, and no bill that a server sends is believed blindly."""

import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx2
import pytest

from limbeck.errors import CostCapError, DataError, RecipeError, TeacherError
from limbeck.lm import Prompt, Sampling
from limbeck.lm.api import ApiTeacher, open_teacher
from limbeck.lm.cost import Prices, Request, Worst, tokens_at_most
from limbeck.lm.hiding import hiding
from limbeck.lm.remember import ledger_of
from limbeck.lm.sent import SentLog

from .endpoint import PRICES, PROMPTS, Handler, Recorder, answer, body_of, client, ok, settings

WORST = PRICES.usd(tokens_at_most("question 0"), 50)
ONE = Sampling(max_tokens=50)
KEY = 'sk-"quoted"\\and\\back\'slashed/0123456789<abcdefghij>'
PAGE = httpx2.Response(200, text="<html>Bad gateway</html>")
CUT = httpx2.Response(200, text=json.dumps(answer())[:50])


class Charging:
    """Charges the most that was asked for, then breaks."""

    def __init__(self, broken: Any) -> None:
        self.requests = 0
        self.broken = broken

    @property
    def charged(self) -> float:
        return self.requests * WORST

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests += 1
        if isinstance(self.broken, Exception):
            raise self.broken
        return self.broken


def memory_of(handler: Handler, path: Path, **more: Any) -> Any:
    return open_teacher(settings(**more), path / "log.jsonl", client=client(handler))


# A12: what may have been charged outlives the process


@pytest.mark.parametrize(
    "broken",
    [
        httpx2.ReadError("reset"),
        httpx2.ReadTimeout("slow"),
        httpx2.Response(502, text="bad gateway"),
        PAGE,
        CUT,
    ],
    ids=["reset", "timeout", "gateway", "page", "cut"],
)
def test_what_failed_counts_in_the_next_run_too(tmp_path: Path, broken: Any) -> None:
    server, cap = Charging(broken), 3.5 * WORST
    for _ in range(5):
        with pytest.raises(TeacherError):
            list(memory_of(server, tmp_path, prices=PRICES, max_cost_usd=cap, retries=1)(PROMPTS[:1], ONE))
    assert server.charged <= cap, f"charged {server.charged / WORST:.1f} worst cases of 3.5"


def test_a_request_is_on_disk_before_it_arrives(tmp_path: Path) -> None:
    """The server itself looks: every request that it sees is in the log, with its worst case."""
    seen, lock = [], threading.Lock()

    def serve(request: httpx2.Request) -> httpx2.Response:
        log = [json.loads(line) for line in (tmp_path / "log.sent.jsonl").read_text().splitlines()]
        asked = body_of(request)["messages"][0]["content"].split()[1]
        with lock:
            seen.append([row["usd"] for row in log if row["prompt_id"] == f"p{asked}"])
        return ok()

    list(memory_of(serve, tmp_path, prices=PRICES)(PROMPTS, ONE))
    assert seen == [[pytest.approx(WORST)]] * 6


def test_an_answer_settles_its_own_attempt_and_no_other(tmp_path: Path) -> None:
    """A lost attempt may be on the bill as well as the one that was answered."""
    server = Recorder([PAGE])
    list(memory_of(server, tmp_path, prices=PRICES)(PROMPTS[:1], ONE))
    poor = memory_of(server, tmp_path, prices=PRICES, max_cost_usd=2 * WORST)
    assert len(list(poor(PROMPTS[:1], ONE))) == 1
    with pytest.raises(CostCapError, match=r"held for requests without an answer.*--release"):
        list(poor(PROMPTS[1:], ONE))
    assert len(server.requests) == 2


def test_what_was_refused_is_not_held(tmp_path: Path) -> None:
    busy = [httpx2.Response(status, headers={"retry-after": "0.001"}) for status in (429, 503, 529, 429)]
    server = Recorder(busy)
    list(memory_of(server, tmp_path, prices=PRICES, max_cost_usd=1.5 * WORST)(PROMPTS[:1], ONE))
    assert len(server.requests) == 5


def test_lost_without_a_price_counts_at_a_later_one(tmp_path: Path) -> None:
    server = Charging(PAGE)
    with pytest.raises(TeacherError):
        list(memory_of(server, tmp_path, retries=2)(PROMPTS[:1], ONE))
    capped = memory_of(Recorder(), tmp_path, prices=PRICES, max_cost_usd=3.9 * WORST)
    with pytest.raises(CostCapError):
        list(capped(PROMPTS[:1], ONE))


def test_a_server_that_exceeds_the_bounds_is_remembered(tmp_path: Path) -> None:
    """500 tokens instead of 50, a cap of 1.3 dollars: a third answer could pass it, in any process."""
    server = Recorder([ok(answer(tokens=500)) for _ in range(9)])
    for prompt in PROMPTS:
        with suppress(CostCapError):
            list(memory_of(server, tmp_path, prices=PRICES, max_cost_usd=1.3)([prompt], ONE))
    assert len(server.requests) == 2


def test_a_free_server_writes_no_log(tmp_path: Path) -> None:
    free = Prices(usd_per_million_input=0, usd_per_million_output=0)
    list(memory_of(Recorder(), tmp_path, prices=free)(PROMPTS, ONE))
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize(
    "change",
    [
        {"usd": -1.0},
        {"usd": 1e400},
        {"input_tokens": True},
        {"output_tokens": -5},
        {"output_tokens": 10**400},
        {"x": 1},
    ],
)
def test_a_damaged_log_of_what_was_sent_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    list(memory_of(Recorder(), tmp_path, prices=PRICES)(PROMPTS[:2], ONE))
    path = tmp_path / "log.sent.jsonl"
    first, second = path.read_text().splitlines()
    row = json.loads(second)
    del row["sum"]
    path.write_text(f"{first}\n{json.dumps(row | change)}\n")
    with pytest.raises(DataError, match=r"log\.sent\.jsonl:2: not a request that was sent"):
        memory_of(Recorder(), tmp_path)


def test_no_flipped_bit_makes_what_was_sent_cheaper(tmp_path: Path) -> None:
    """Every bit of a log in turn, the last line's end apart, which a kill may leave out as well."""
    path = tmp_path / "log.sent.jsonl"
    log = SentLog(path)
    for prompt in PROMPTS[:2]:
        log.write(Request(prompt, 0), Worst(9, 50, Fraction(1, 10)), True)
    before = path.read_bytes()
    for place in range(8 * (len(before) - 1)):
        data = bytearray(before)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"log\.sent\.jsonl:[12]: not a request that was sent"):
            SentLog(path)


# A13: no bill is believed blindly


@pytest.mark.parametrize("tokens", [0, -1_200_000, 10**400, True, 0.5, "5"])
def test_a_bill_that_cannot_be_right_is_the_worst_case(tmp_path: Path, tokens: Any) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": tokens}
    memory = memory_of(
        lambda _: ok(answer("because so", usage=usage)), tmp_path, prices=PRICES, max_cost_usd=9
    )
    got = list(memory(PROMPTS, ONE))
    assert len(got) == 6, "the answers are paid for, and kept"
    assert all(one.cost_usd == pytest.approx(WORST) for one in got)
    assert memory.ledger.estimated == 6 and ledger_of(tmp_path / "log.jsonl").estimated == 6


@pytest.mark.parametrize(
    "change",
    [
        {"cost_usd": -1199.96},
        {"cost_usd": 1e400},
        {"cost_usd": True},
        {"input_tokens": -1},
        {"output_tokens": 10**400},
        {"output_tokens": True},
        {"tokens": 5.5},
        {"index": -1},
    ],
)
def test_numbers_of_the_memory_are_bounded(
    tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    list(memory_of(Recorder(), tmp_path, prices=PRICES)(PROMPTS[:2], ONE))
    path = tmp_path / "log.jsonl"
    first, second = path.read_text().splitlines()
    without_sum = {name: value for name, value in json.loads(second).items() if name != "sum"}
    path.write_text(f"{first}\n{json.dumps(without_sum | change)}\n")
    memory = memory_of(Recorder(), tmp_path)
    assert "log.jsonl:2: damaged" in capsys.readouterr().err
    missing = [request.prompt.id for request in memory.missing(PROMPTS[:2], ONE)]
    assert missing == [json.loads(second)["prompt_id"]]
    assert memory.ledger.usd == 2 * json.loads(first)["cost_usd"] > 0, "it counts as the dearest"


# A14: a bad answer ends nothing


@pytest.mark.parametrize("bad", [PAGE, CUT], ids=["page", "cut"])
def test_a_bad_answer_is_tried_again_counted_and_shown(
    tmp_path: Path, bad: httpx2.Response, caplog: pytest.LogCaptureFixture
) -> None:
    server = Recorder([ok(), bad, ok(), bad, ok()])
    assert len(list(memory_of(server, tmp_path, concurrency=1)(PROMPTS, ONE))) == 6
    assert len(server.requests) == 8
    first, summary = (record.getMessage() for record in caplog.records)
    assert "teacher big: answered with something that is not JSON (" in first and "base_url" in first
    assert "attempts that failed: 2 (2 × answered with something that is not JSON)" in summary


def test_a_request_that_never_works_ends_nothing(tmp_path: Path) -> None:
    def serve(request: httpx2.Request) -> httpx2.Response:
        return PAGE if body_of(request)["messages"][0]["content"] == "question 0" else ok()

    got = []
    with pytest.raises(TeacherError, match=r"prompt p0: .* at each of 3 attempts"):
        got.extend(memory_of(serve, tmp_path, retries=2, concurrency=2)(PROMPTS, ONE))
    assert len(got) == 5


def test_a_server_that_answers_nothing_is_given_up(tmp_path: Path) -> None:
    server = Charging(PAGE)
    prompts = [Prompt(f"p{i}", f"p{i}", "question") for i in range(500)]
    with pytest.raises(TeacherError, match=r"\(and 14 more prompts\): .*base_url"):
        list(memory_of(server, tmp_path, retries=1, concurrency=1)(prompts, ONE))
    assert server.requests == 30


def test_near_the_cap_a_reset_ends_nothing(tmp_path: Path) -> None:
    """Eight under way reserve 8 of 8.5 worst cases and one is lost. The others turn out cheap: room again."""
    together, lock, lost = threading.Barrier(8, timeout=10), threading.Lock(), []

    def serve(request: httpx2.Request) -> httpx2.Response:
        with lock:
            first = not lost
            lost.append(request)
            number = len(lost)
        if number <= 8:
            together.wait()
        if first:
            raise httpx2.ReadError("reset")
        time.sleep(0.05)
        return ok(answer(tokens=1))

    prompts = [Prompt(f"p{i}", f"p{i}", "question 0") for i in range(30)]
    memory = memory_of(serve, tmp_path, prices=PRICES, max_cost_usd=8.5 * WORST, concurrency=8)
    assert len(list(memory(prompts, ONE))) == 30


# A15: nothing of a key is printed


def pieces(key: str) -> set[str]:
    return {key[at : at + 4] for at in range(len(key) - 3)}


@pytest.mark.parametrize("key", [KEY, "sk-plain-0123456789abcdefghijklmnopqrstuvwxyz"])
@pytest.mark.parametrize("before", [0, 250, 262, 275, 290, 298, 19_990])
@pytest.mark.parametrize("form", ["json", "text", "page"])
def test_a_key_is_taken_out_before_the_text_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, before: int, form: str
) -> None:
    monkeypatch.setenv("TEACHER_KEY", key)
    quoted = f"{'x' * before}{key} is no key"
    response = {
        "json": httpx2.Response(401, json={"error": {"message": quoted, "key": [key]}}),
        "text": httpx2.Response(401, text=json.dumps([quoted, {"key": key}])),
        "page": httpx2.Response(200, text=quoted),
    }[form]
    memory = memory_of(lambda _: response, tmp_path, key_env="TEACHER_KEY", retries=0)
    with pytest.raises(TeacherError) as error:
        list(memory(PROMPTS[:1], ONE))
    said = str(error.value)
    assert not {piece for piece in pieces(key) if piece in said}, said
    assert len(said) < 600


@pytest.mark.parametrize("key", [KEY, "sk-Plain-0123456789AbcdefghijKlmnopqrstuvwxyz"])
def test_a_key_is_known_in_any_case_in_base64_and_in_hexadecimal_digits(key: str) -> None:
    hide = hiding(key)
    for quoted in (key.upper(), key.lower(), key.encode().hex().upper()):
        assert hide(f"no such token {quoted}!") == "no such token [key]!"
    for user in ("", "a:", "user:", "me:"):
        line = hide(base64.b64encode(f"{user}{key}".encode()).decode())
        assert "[key]" in line and len(line) < 4 + 4 + len("[key]") + len(user) * 2, line
    assert hide("what a server says, in words") == "what a server says, in words"


def test_a_key_in_an_answer_is_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    (got,) = memory_of(lambda _: ok(answer(f"invalid key {KEY}")), tmp_path, key_env="TEACHER_KEY")(
        PROMPTS[:1], ONE
    )
    assert got.text == "invalid key [key]"


def test_a_key_that_was_copied_cut_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-0123456789…wxyz")
    with pytest.raises(RecipeError, match=r"teacher\.key_env: the variable TEACHER_KEY holds") as error:
        ApiTeacher(settings(key_env="TEACHER_KEY"))
    assert "0123" not in str(error.value)


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("name", ["undefined", "hex"])
def test_a_character_set_that_is_none_ends_nothing(tmp_path: Path, name: str, status: int) -> None:
    kind = {"content-type": f"application/json; charset={name}"}
    odd = httpx2.Response(status, content=json.dumps(answer("said")).encode(), headers=kind)
    server = Recorder([odd])
    assert len(list(memory_of(server, tmp_path, concurrency=1)(PROMPTS, ONE))) == len(PROMPTS)
    assert len(server.requests) == len(PROMPTS) + (status != 200), "what was paid for is read"


def test_a_bill_above_the_bound_is_shown(tmp_path: Path) -> None:
    """It makes every later request dearer, so that a cap may let none through any more."""
    said: list[str] = []
    bill = {"prompt_tokens": 1_999_999, "completion_tokens": 5}
    more: dict[str, Any] = {"prices": PRICES, "max_cost_usd": 3, "concurrency": 1}
    for _ in range(2):
        memory = open_teacher(
            settings(**more),
            tmp_path / "log.jsonl",
            client=client(Recorder([ok(answer(usage=bill))])),
            say=said.append,
        )
        with pytest.raises(CostCapError):
            list(memory(PROMPTS, ONE))
    over = 1_999_999 - tokens_at_most("question 0")
    assert f"billed {over:,} prompt tokens more" in said[0] and "bills above what" in said[1]
    assert f"earlier answers were billed up to {over:,} prompt" in said[2]


def test_a_request_that_waits_is_weighed_again_before_it_is_sent(tmp_path: Path) -> None:
    """Another answer shows meanwhile that requests are dearer than they were taken for."""
    bill = {"prompt_tokens": 1_999_999, "completion_tokens": 5}
    requests: list[httpx2.Request] = []
    both = threading.Barrier(2, timeout=5)

    def handler(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        first = len(requests) == 1
        if len(requests) <= 2:
            both.wait()  # both are under way before either is answered
        if first:
            return httpx2.Response(429, headers={"retry-after": "1"})
        time.sleep(0.3)
        return ok(answer(usage=bill))

    with pytest.raises(CostCapError):
        list(memory_of(handler, tmp_path, prices=PRICES, max_cost_usd=3, concurrency=2)(PROMPTS[:2], ONE))
    assert len(requests) == 2


# A16: one deadline for the whole request


@contextmanager
def dripping(begin: bytes) -> Iterator[str]:
    """A server that sends `begin` and then a byte every tenth of a second, without end."""
    over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(begin)
            while not over.wait(0.1):
                connection.sendall(b" ")

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        over.set()
        listening.close()


@pytest.mark.parametrize(
    "begin",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", b"HTTP/1.1 200 OK\r\nx-slow:"],
    ids=["body", "head"],
)
def test_a_drip_without_end_is_a_timeout(tmp_path: Path, begin: bytes) -> None:
    from limbeck.lm.cost import ApiSettings

    before = threading.active_count()
    with dripping(begin) as url:
        options = ApiSettings(base_url=url, model="m", timeout_s=0.5, retries=1, backoff_s=0.001)
        clock = time.monotonic()
        with pytest.raises(TeacherError, match=r"no whole answer within 0\.5 s at each of 2 attempts"):
            list(open_teacher(options, tmp_path / "log.jsonl")(PROMPTS[:1], ONE))
        assert time.monotonic() - clock < 5
    time.sleep(0.5)
    assert threading.active_count() <= before + 1, "no thread is held"


# A17: answers without text are counted aloud


def test_answers_without_text_are_counted_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filtered = {"finish_reason": "content_filter", "message": {"content": None}}
    called = {"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [{"id": "1"}]}}
    silent = [ok(answer() | {"choices": [choice]}) for choice in (filtered, called, called)]
    memory = memory_of(Recorder(silent), tmp_path, concurrency=1)
    with caplog.at_level(logging.WARNING):
        assert sum(not one.text for one in memory(PROMPTS, ONE)) == 3
    said = [record.getMessage() for record in caplog.records]
    assert "an answer without text (content filter)" in said[0]
    assert (
        "answers without text, kept and not asked for again: 3" in said[-1]
        and "2 × tool calls, 1 × content filter" in said[-1]
    )
    again = ledger_of(tmp_path / "log.jsonl")
    assert "3 have no text (2 × tool calls, 1 × content filter)" in str(again)


def test_the_sum_of_many_small_prices_is_exact(tmp_path: Path) -> None:
    """The cap is the price of exactly sixty answers, in decimals that no float holds."""
    prices = Prices(usd_per_million_input=0.1, usd_per_million_output=0.7)
    prompts = [Prompt(f"p{i:02}", f"p{i:02}", "q") for i in range(60)]
    most = Fraction(tokens_at_most("q") * 1 + 50 * 7, 10_000_000)
    full = ok(answer(usage={"prompt_tokens": tokens_at_most("q"), "completion_tokens": 50}))
    memory = memory_of(lambda _: full, tmp_path, prices=prices, max_cost_usd=float(most * 60))
    assert len(list(memory(prompts, ONE))) == 60
    with pytest.raises(CostCapError):
        list(memory([Prompt("more", "more", "q")], ONE))
