"""Estimates, the hard cap and the ledger."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import httpx2
import pytest
from pydantic import ValidationError

from limbeck.errors import CostCapError, RecipeError, TeacherError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm.api import ApiTeacher, open_teacher
from limbeck.lm.cost import (
    ApiSettings,
    Budget,
    Ledger,
    Prices,
    Receipt,
    at_least,
    estimate,
    exact,
    tokens_at_most,
)
from limbeck.lm.remember import Remembered, ledger_of

from .endpoint import PRICES, PROMPTS, TWO, Recorder, answer, body_of, client, ok, settings, teacher

CHEAP = Prices(usd_per_million_input=2.0, usd_per_million_output=10.0)


class Echo:
    """A free model that says its prompt."""

    name = "echo"

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        for prompt in prompts:
            for index in range(sampling.n):
                yield Completion(prompt.id, index, prompt.text, tokens=3)


def test_price_of_tokens() -> None:
    assert CHEAP.usd(1_000_000, 0) == 2.0
    assert CHEAP.usd(500_000, 250_000) == 3.5


def test_estimate_without_a_memory() -> None:
    prompts = [Prompt("a", "a", "x" * 400), Prompt("b", "b", "y" * 800)]
    told = estimate(prompts, Sampling(n=3, temperature=0.7, max_tokens=100), CHEAP, system="z" * 40)
    assert (told.requests, told.from_memory, told.max_output_tokens) == (6, 0, 600)
    assert told.input_tokens == 3 * (110 + 210)
    assert told.usd_expected is None
    bound = 3 * (tokens_at_most("x" * 400, "z" * 40) + tokens_at_most("y" * 800, "z" * 40))
    assert told.usd_at_most == pytest.approx(CHEAP.usd(bound, 600))


def test_estimate_leaves_out_what_is_remembered(tmp_path: Path) -> None:
    prompts = [Prompt("a", "a", "one"), Prompt("b", "b", "two")]
    memory = Remembered(Echo(), tmp_path / "log.jsonl", key={})
    assert len(list(memory(prompts[:1], Sampling(n=2, temperature=1)))) == 2
    told = estimate(prompts, Sampling(n=3, temperature=1), CHEAP, memory)
    assert (told.requests, told.from_memory) == (4, 2)


def test_expected_cost_comes_from_the_usual_length(tmp_path: Path) -> None:
    memory = Remembered(Echo(), tmp_path / "log.jsonl", key={})
    memory.ledger.add(Receipt(Completion("a", 0, "", cost_usd=1.0), input_tokens=10, output_tokens=50))
    told = estimate([Prompt("b", "b", "x" * 400)], Sampling(max_tokens=1000), CHEAP, memory)
    assert told.usd_expected == pytest.approx(CHEAP.usd(100, 50))
    assert told.usd_at_most is not None and told.usd_at_most > 0.01
    short = estimate([Prompt("b", "b", "x" * 400)], Sampling(max_tokens=20), CHEAP, memory)
    assert short.usd_expected == pytest.approx(CHEAP.usd(100, 20))


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        (CHEAP, "1,000 requests (0 more come from memory), about 1,000 input and at most 64,000 output"),
        (CHEAP, "output tokens: at most $0.90"),
        (None, "no prices are set, so the cost is unknown"),
    ],
)
def test_the_estimate_reads_as_a_sentence(prices: Prices | None, says: str) -> None:
    prompts = [Prompt(str(i), str(i), "xyz") for i in range(1000)]
    assert says in str(estimate(prompts, Sampling(max_tokens=64), prices))


@pytest.mark.parametrize("text", ["plain words", "日本語のテキスト", "🙂🙂🙂", "a" * 1000, "\n\t  \n"])
def test_bytes_bound_the_tokens(text: str) -> None:
    """No byte-level vocabulary needs more tokens than bytes, whatever the script."""
    assert tokens_at_most(text) >= len(text.encode())


def test_the_ledger_adds_up() -> None:
    ledger = Ledger()
    ledger.add(Receipt(Completion("a", 0, "", cost_usd=0.5), 10, 20))
    ledger.add(Receipt(Completion("a", 1, "", cost_usd=0.25), 1, 2, estimated=True))
    ledger.add(Receipt(Completion("a", 2, ""), 500_000, 100_000, priced=False))
    assert (ledger.requests, ledger.input_tokens, ledger.output_tokens) == (3, 500_011, 100_022)
    assert ledger.usd == 0.75
    assert ledger.spent_usd(None) == 0.75
    assert ledger.spent_usd(CHEAP) == 0.75 + 2.0, "tokens bought without a known price count at today's"
    assert "1 of them estimated" in str(ledger) and "600,000 tokens without a known price" in str(ledger)


def test_the_budget_holds_under_threads() -> None:
    """Forty threads with random costs up to the worst case: the cap is reached and never passed."""
    budget, worst, cap = Budget(CHEAP, 1.0, spent=Fraction(1, 10)), Fraction(11, 1000), 1
    refused = threading.Event()

    def shop(seed: int) -> None:
        draw = random.Random(seed)
        while budget.reserve(worst):
            assert budget.spent + budget.held <= cap
            if draw.random() < 0.1:
                budget.hold(worst)
            else:
                budget.settle(worst, worst * exact(draw.random()))
        refused.set()

    threads = [threading.Thread(target=shop, args=(seed,)) for seed in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused.is_set()
    assert cap - 2 * worst < budget.spent + budget.held <= cap


def test_a_cap_can_be_used_up_to_the_cent() -> None:
    budget, dime = Budget(CHEAP, 0.3), Fraction(1, 10)
    for _ in range(3):
        assert budget.reserve(dime)  # 0.1 + 0.1 + 0.1 > 0.3 in floats
        budget.settle(dime, dime)
    assert not budget.reserve(Fraction(1, 10**12)), "and not a billionth of it beyond"
    assert budget.reserve(Fraction(0))


def test_no_price_is_kept_as_less_than_it_is() -> None:
    draw = random.Random(0)
    for _ in range(1000):
        prices = Prices(usd_per_million_input=draw.random(), usd_per_million_output=draw.random() * 75)
        usd = prices.exact(draw.randint(1, 10**6), draw.randint(1, 10**6))
        assert usd <= exact(at_least(usd)) <= usd * (1 + Fraction(1, 10**15))
    assert exact(at_least(CHEAP.exact(9, 5))) == Fraction(68, 10**6), "ordinary prices are kept exactly"


def test_a_lost_request_counts_as_paid() -> None:
    budget, some = Budget(CHEAP, 1.0), Fraction(4, 10)
    for _ in range(2):
        assert budget.reserve(some)
        budget.hold(some)
    assert not budget.reserve(some)
    assert (budget.spent, budget.held) == (0, 2 * some)


def test_a_server_that_exceeds_the_bounds_widens_them() -> None:
    budget = Budget(CHEAP, 1.0)
    before = budget.worst(100, 50)
    budget.widen(-20, 30)
    assert budget.worst(100, 50).usd == before.usd + CHEAP.exact(0, 30)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base_url": "localhost:8000"}, "must be an address"),
        ({"base_url": "https://user:pass@host/v1"}, "no user, password or query"),
        ({"base_url": "https://host/v1?api-key=abc"}, "no user, password or query"),
        ({"key_env": "sk-proj-abc"}, "name of an environment variable"),
        ({"endpoint": "completions", "system": "Be brief."}, "system has no place"),
        ({"max_cost_usd": 1.0}, "needs prices"),
        ({"extra_body": {"n": 4}}, "n is set by Limbeck"),
        *(
            ({"extra_body": body}, "must hold no key")
            for body in ({"apikey": "k"}, {"apiKey": "k"}, {"accessToken": "k"}, {"at": [{"api_key": "k"}]})
        ),
        ({"prices": {"usd_per_million_input": -1, "usd_per_million_output": 1}}, "greater than or equal"),
        ({"prices": {"usd_per_million_input": "nan", "usd_per_million_output": 1}}, "finite"),
        ({"tempo": 1}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ApiSettings.model_validate({"base_url": "http://localhost:8000/v1", "model": "m"} | change)


def test_a_schema_may_speak_of_keys() -> None:
    schema = {"properties": {"key": {"type": "string"}}, "required": ["key"]}
    body = {"response_format": {"json_schema": schema}, "stop_token_ids": [1], "skip_special_tokens": False}
    ApiSettings.model_validate({"base_url": "http://localhost/v1", "model": "m", "extra_body": body})


def test_every_setting_is_described() -> None:
    for model in (ApiSettings, Prices):
        assert [name for name, field in model.model_fields.items() if not field.description] == []


# The cap of a teacher behind an API


class Bill:
    """A server that charges random amounts and knows at any moment what may still come."""

    def __init__(self, cap: float, worst: float) -> None:
        self.cap, self.worst = cap, worst
        self.spent, self.under_way, self.sent = 0.0, 0, 0
        self.overdrawn = False
        self.lock = threading.Lock()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        with self.lock:
            self.sent += 1
            self.under_way += 1
            self.overdrawn |= self.spent + self.under_way * self.worst > self.cap + 1e-9
            tokens = (body_of(request)["seed"] % 50) + 1
        time.sleep(0.002)
        with self.lock:
            self.under_way -= 1
            self.spent += PRICES.usd(9, tokens)
        return ok(answer(tokens=tokens))


@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_the_cap_is_hard_at_any_concurrency(concurrency: int, tmp_path: Path) -> None:
    prompts = [Prompt(f"p{i:03}", f"p{i:03}", "question") for i in range(200)]
    worst = PRICES.usd(tokens_at_most("question"), TWO.max_tokens)
    bill = Bill(cap=1.0, worst=worst)
    options = settings(prices=PRICES, max_cost_usd=1.0, concurrency=concurrency)
    got = []
    with pytest.raises(CostCapError, match=r"teacher.max_cost_usd: .*cap of \$1\.00 .*raise the cap"):
        got.extend(open_teacher(options, tmp_path / "log.jsonl", client=client(bill))(prompts, TWO))
    assert not bill.overdrawn
    assert 1.0 - worst <= bill.spent <= 1.0, "used as far as is safe"
    assert len(got) == bill.sent
    assert sum(c.cost_usd for c in got) == pytest.approx(bill.spent)
    assert ledger_of(tmp_path / "log.jsonl").usd == pytest.approx(bill.spent)


def test_the_cap_counts_what_earlier_runs_paid(tmp_path: Path) -> None:
    path, server = tmp_path / "log.jsonl", Recorder()
    options = settings(prices=PRICES, max_cost_usd=10.0)
    list(open_teacher(options, path, client=client(server))(PROMPTS, TWO))
    assert ledger_of(path).usd == pytest.approx(12 * PRICES.usd(9, 5))
    poor = settings(prices=PRICES, max_cost_usd=12 * PRICES.usd(9, 5) + 0.01)
    memory = open_teacher(poor, path, client=client(server))
    assert len(list(memory(PROMPTS, TWO))) == 12, "what is remembered costs nothing"
    with pytest.raises(CostCapError):
        list(memory(PROMPTS, Sampling(n=3, temperature=0.7, max_tokens=50)))
    assert len(server.requests) == 12


def test_what_was_bought_without_prices_counts_later(tmp_path: Path) -> None:
    path, server = tmp_path / "log.jsonl", Recorder()
    got = list(open_teacher(settings(), path, client=client(server))(PROMPTS, TWO))
    assert {c.cost_usd for c in got} == {0.0}
    capped = settings(prices=PRICES, max_cost_usd=12 * PRICES.usd(9, 5))
    with pytest.raises(CostCapError):
        list(open_teacher(capped, path, client=client(server))([Prompt("q", "q", "q")], TWO))
    assert len(server.requests) == 12


def test_an_answer_lost_on_the_way_counts_as_paid() -> None:
    """A timed-out request may be on the bill: two lost ones use up a cap of 2.5 worst cases."""
    calls = []

    def serve(request: httpx2.Request) -> httpx2.Response:
        calls.append(request)
        raise httpx2.ReadTimeout("slow")

    worst = PRICES.usd(tokens_at_most("question 0"), 50)
    asked = teacher(serve, prices=PRICES, max_cost_usd=2.5 * worst)
    with pytest.raises(
        CostCapError, match="held for requests without an answer, which may have been charged"
    ):
        list(asked(PROMPTS[:1], Sampling(max_tokens=50)))
    assert len(calls) == 2
    assert asked.spent_usd == pytest.approx(2 * worst)


def test_a_server_that_ignores_the_token_limit_is_reckoned_with_from_then_on() -> None:
    """500 tokens instead of 50: the first answer shows it, the third would pass the cap of 1.3."""
    server = Recorder([ok(answer(tokens=500)) for _ in range(9)])
    asked = teacher(server, prices=PRICES, max_cost_usd=1.3, concurrency=1)
    with pytest.raises(CostCapError):
        list(asked(PROMPTS, Sampling(max_tokens=50)))
    assert len(server.requests) == 2
    assert asked.spent_usd == pytest.approx(2 * PRICES.usd(9, 500))


def test_a_refused_connection_costs_nothing() -> None:
    def serve(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    asked = teacher(serve, prices=PRICES, max_cost_usd=0.1, retries=2)
    with pytest.raises(TeacherError, match="cannot be reached at each of 3 attempts"):
        list(asked(PROMPTS[:1], Sampling(max_tokens=50)))
    assert asked.spent_usd == 0


def test_a_free_server_has_no_end_of_money() -> None:
    free = Prices(usd_per_million_input=0, usd_per_million_output=0)
    got = list(teacher(Recorder(), prices=free, max_cost_usd=0)(PROMPTS, TWO))
    assert len(got) == 12


def test_a_cap_without_prices_is_refused() -> None:
    unchecked = settings().model_copy(update={"max_cost_usd": 1.0})
    with pytest.raises(RecipeError, match="cannot be kept without prices"):
        ApiTeacher(unchecked, client=client(Recorder()))
