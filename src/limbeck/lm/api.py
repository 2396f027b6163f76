"""A teacher behind any OpenAI-compatible endpoint: a company's, or vLLM, SGLang, transformers serve.

Every completion is a request of its own with a seed of its own: some servers
silently ignore `n`, and single requests can be remembered, retried and paid
for one by one. Importing this module does not import `openai`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from pydantic import JsonValue

from limbeck.errors import CostCapError, RecipeError, TeacherError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm.cost import ApiSettings, Budget, Receipt, Request, dollars, tokens_about, tokens_at_most
from limbeck.lm.remember import Remembered, ledger_of
from limbeck.lm.reply import Reply, Trouble, Usage, read_reply, refused

log = logging.getLogger(__name__)

GRACE_S = 20.0
"""How long a stopped collection waits for answers under way: they are paid for."""

Keep = Callable[[Receipt], None]


@dataclass(frozen=True, slots=True)
class _Order:
    """What all requests of one collection share."""

    client: Any
    sampling: Sampling
    keep: Keep | None
    stop: threading.Event


class ApiTeacher:
    """Completes prompts at an endpoint; `ask` does so for single completions.

    Args:
        settings: the endpoint.
        spent_usd: what the run's earlier completions cost; it counts towards the cap.
        client: an `openai.OpenAI` to use instead of one made from the settings.

    Raises:
        RecipeError: openai is not installed, the key's variable is empty, or there
            is a cap without prices.
    """

    def __init__(self, settings: ApiSettings, *, spent_usd: float = 0.0, client: Any = None) -> None:
        if settings.max_cost_usd is not None and settings.prices is None:  # model_copy checks nothing
            raise RecipeError("teacher.max_cost_usd: a cap cannot be kept without prices; set teacher.prices")
        self._settings = settings
        self._secret = _secret(settings)
        self._openai = _openai()
        self._client = client
        self._budget = Budget(settings.prices, settings.max_cost_usd, spent_usd)
        self._quiet_until = 0.0  # a wait that the server asks for holds for all threads

    @property
    def name(self) -> str:
        """The model's name."""
        return self._settings.model

    @property
    def identity(self) -> dict[str, JsonValue]:
        """See `ApiSettings.identity`."""
        return self._settings.identity

    @property
    def spent_usd(self) -> float:
        """Dollars spent, earlier completions and possibly charged failures included."""
        return self._budget.spent_usd

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Complete every prompt `sampling.n` times; see `ask`."""
        requests = [Request(prompt, index) for prompt in prompts for index in range(sampling.n)]
        return (receipt.completion for receipt in self.ask(requests, sampling))

    def ask(
        self, requests: Sequence[Request], sampling: Sampling, keep: Keep | None = None
    ) -> Generator[Receipt, None, None]:
        """Send every request; call `keep` for each answer as it arrives (in the
        thread that received it), then yield it.

        After an error, the cap or an interrupt nothing is sent any more; what is
        under way is awaited, kept and yielded (for at most `GRACE_S` after an
        interrupt or when the reader stops; a second interrupt ends that too).

        Raises:
            TeacherError: a request was refused, or failed `retries` + 1 times.
            CostCapError: the next request could pass the cap.
            RecipeError: several greedy completions of one prompt are asked for, or a
                prompt has a system prompt and the endpoint no place for it.
        """
        if sampling.temperature == 0 and any(request.index > 0 for request in requests):
            raise RecipeError("temperature: 0 is greedy and gives equal completions; raise it or ask for one")
        if self._settings.endpoint == "completions" and any(request.prompt.system for request in requests):
            raise RecipeError("system: has no place at the completions endpoint; write it into the text")
        return self._ask(deque(requests), sampling, keep)

    def _ask(
        self, waiting: deque[Request], sampling: Sampling, keep: Keep | None
    ) -> Generator[Receipt, None, None]:
        with self._connected() as client:
            order = _Order(client, sampling, keep, threading.Event())
            size = min(self._settings.concurrency, len(waiting))
            crew = _Crew(size, partial(self._complete, order), order.stop)
            try:
                failure = yield from self._direct(crew, waiting, sampling)
            except KeyboardInterrupt:
                yield from crew.last()
                raise
            except GeneratorExit:
                if keep is not None:
                    deque(crew.last(), maxlen=0)
                raise
            finally:
                crew.dismiss()
        if failure is not None:
            raise failure
        if waiting:
            raise self._too_dear(f"{len(waiting):,} requests were not sent")

    def _direct(
        self, crew: _Crew, waiting: deque[Request], sampling: Sampling
    ) -> Generator[Receipt, None, Exception | None]:
        """Hand out requests while the cap allows it; return the first failure when none is under way."""
        failure: Exception | None = None
        while True:
            while waiting and failure is None and crew.idle:
                worst = self._worst(waiting[0], sampling)
                if not self._budget.reserve(worst):
                    break  # what is under way may turn out cheaper and make room
                crew.put(waiting.popleft(), worst)
            if not crew.flying:
                return failure
            outcome = crew.next()
            if isinstance(outcome, Receipt):
                yield outcome
            elif outcome is not None and failure is None:
                failure = outcome
                crew.stop.set()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """A client that leaves retries to us, with its connections closed in the end."""
        settings, given = self._settings, self._client
        key = self._secret or "none"
        client = given or self._openai.OpenAI(base_url=settings.base_url, api_key=key)
        try:
            yield client.with_options(timeout=settings.timeout_s, max_retries=0)
        finally:
            if given is None:
                client.close()

    def _complete(self, order: _Order, request: Request, reserved: float) -> Receipt | None:
        """Send one request until it is answered; None if `stop` came first."""
        spent = 0.0
        try:
            for attempt in range(self._settings.retries + 1):
                if self._held_back(order.stop):
                    break
                outcome = self._send(order, request)
                if isinstance(outcome, Reply):
                    receipt = self._receipt(request, order.sampling, outcome)
                    spent = receipt.completion.cost_usd
                    if order.keep is not None:
                        order.keep(receipt)
                    return receipt
                room = self._budget.lose(reserved) if outcome.charged else True
                self._pause(request, outcome, attempt, order.stop)
                if not room:
                    raise self._too_dear("an unanswered request may have been charged")
            return None
        finally:
            self._budget.settle(reserved, spent)

    def _worst(self, request: Request, sampling: Sampling) -> float:
        bound = tokens_at_most(request.prompt.text, self._system(request))
        return self._budget.worst(bound, sampling.max_tokens)

    def _too_dear(self, why: str) -> CostCapError:
        cap = dollars(self._settings.max_cost_usd or 0.0)
        return CostCapError(
            f"teacher.max_cost_usd: the next request could pass the cap of {cap} "
            f"({dollars(self.spent_usd)} spent; {why}); raise the cap to go on, what arrived is kept"
        )

    def _held_back(self, stop: threading.Event) -> bool:
        """Wait until the server accepts requests again; True if `stop` came first."""
        while not stop.is_set() and (delay := self._quiet_until - time.monotonic()) > 0:
            stop.wait(delay * random.uniform(1.0, 1.1))  # not all threads at the same moment
        return stop.is_set()

    def _pause(self, request: Request, trouble: Trouble, attempt: int, stop: threading.Event) -> None:
        """Wait before the next attempt, or raise if it was the last one."""
        settings, wait = self._settings, trouble.wait_s
        said, fix, tries = trouble.said, trouble.fix, settings.retries + 1
        too_long = wait is not None and wait > settings.max_wait_s
        if trouble.passing and not too_long and attempt + 1 < tries:
            log.info("teacher %s: %s; attempt %d of %d", self.name, said, attempt + 1, tries)
            if wait is not None:
                self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
            else:
                longest = min(settings.backoff_s * 2**attempt, settings.max_wait_s)
                stop.wait(longest * random.uniform(0.5, 1.0))
            return
        if trouble.passing:
            said += f" and asks to wait {wait:,.0f} s" if too_long else f" at each of {tries} attempts"
        where = f"teacher {self.name} at {settings.base_url}, prompt {request.prompt.id}"
        raise TeacherError(f"{where}: {said}; {fix}, what arrived is kept")

    def _send(self, order: _Order, request: Request) -> Reply | Trouble:
        openai, chat = self._openai, self._settings.endpoint == "chat"
        endpoint = order.client.chat.completions if chat else order.client.completions
        outcome: Reply | Trouble
        try:
            answer = endpoint.with_raw_response.create(**self._body(request, order.sampling))
            outcome = read_reply(answer.http_response.text)
        except openai.APIStatusError as error:
            outcome = refused(error.status_code, error.body or error.message, error.response.headers)
        except openai.APITimeoutError:
            outcome = Trouble(f"sent no answer within {self._settings.timeout_s:g} s", charged=True)
        except openai.APIConnectionError as error:
            cause = type(error.__cause__).__name__
            sent = cause not in ("ConnectError", "ConnectTimeout", "PoolTimeout")
            outcome = Trouble(f"lost the connection ({cause})" if sent else "cannot be reached", charged=sent)
        if isinstance(outcome, Trouble) and self._secret:
            outcome = replace(outcome, said=outcome.said.replace(self._secret, "[key]"))
        return outcome

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        settings, text, own = self._settings, request.prompt.text, self._system(request)
        body: dict[str, Any] = {"model": settings.model, settings.max_tokens_field: sampling.max_tokens}
        if settings.endpoint == "chat":
            system = [] if own is None else [{"role": "system", "content": own}]
            body["messages"] = [*system, {"role": "user", "content": text}]
        else:
            body["prompt"] = text
        drawn = {"temperature": sampling.temperature, "seed": seed_of(sampling.seed, request)}
        if sampling.top_p != 1:
            drawn["top_p"] = sampling.top_p
        body |= {name: value for name, value in drawn.items() if name not in settings.omit}
        if settings.stop:
            body["stop"] = list(settings.stop)
        top_k = {"top_k": sampling.top_k} if sampling.top_k else {}  # not OpenAI's, but vLLM's and SGLang's
        return {**body, "extra_body": {**top_k, **settings.extra_body}}

    def _system(self, request: Request) -> str | None:
        """The prompt's own system prompt, else the teacher's."""
        return request.prompt.system or self._settings.system

    def _receipt(self, request: Request, sampling: Sampling, reply: Reply) -> Receipt:
        bound = tokens_at_most(request.prompt.text, self._system(request))
        prices = self._settings.prices
        if reply.usage is None:
            paid, shown = Usage(bound, sampling.max_tokens), tokens_about(reply.text)
        else:
            paid, shown = reply.usage, reply.usage.output_tokens - reply.usage.hidden_tokens
            self._budget.widen(paid.input_tokens - bound, paid.output_tokens - sampling.max_tokens)
        cost = 0.0 if prices is None else prices.usd(paid.input_tokens, paid.output_tokens)
        return Receipt(
            Completion(request.prompt.id, request.index, reply.text, shown, reply.truncated, cost),
            input_tokens=paid.input_tokens,
            output_tokens=paid.output_tokens,
            estimated=reply.usage is None,
            priced=prices is not None,
        )


def open_teacher(
    settings: ApiSettings, path: Path, *, spent_usd: float = 0.0, client: Any = None
) -> Remembered:
    """A teacher with its memory at `path`; what the memory paid for counts towards the cap.

    Args:
        settings: the endpoint.
        path: the log of completions.
        spent_usd: what the run spent outside this log; it counts towards the cap too.
        client: see `ApiTeacher`.
    """
    spent_usd += ledger_of(path).spent_usd(settings.prices)
    teacher = ApiTeacher(settings, spent_usd=spent_usd, client=client)
    return Remembered(teacher, path, key=teacher.identity, ask=teacher.ask, durable=True)


def seed_of(seed: int, request: Request) -> int:
    """The seed of one request, of 31 bits, from the sampling's seed, the prompt's id and the index."""
    parts = repr((seed, request.prompt.id, request.index)).encode()
    return int.from_bytes(hashlib.blake2b(parts, digest_size=4).digest(), "big") >> 1


def check_ready(settings: ApiSettings) -> None:
    """Refuse, before anything is done, a teacher that could not be asked.

    Raises:
        RecipeError: the key's variable is empty, or openai is not installed.
    """
    _secret(settings)
    _openai()


def _secret(settings: ApiSettings) -> str:
    """The key, or "" where none is needed."""
    if settings.key_env is None:
        return ""
    secret = os.environ.get(settings.key_env, "").strip()
    if not secret:
        raise RecipeError(f"teacher.key_env: the variable {settings.key_env} is empty; export the key in it")
    return secret


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise RecipeError(
            "teacher.kind: an api teacher needs the openai package; run pip install 'limbeck[api]'"
        ) from None
    return openai


class _Crew:
    """Threads that complete requests; daemons, so that one that hangs does not hold the exit."""

    def __init__(
        self, size: int, complete: Callable[[Request, float], Receipt | None], stop: threading.Event
    ) -> None:
        self.flying = 0
        self.stop = stop
        self._size = size
        self._complete = complete
        self._work: SimpleQueue[tuple[Request, float] | None] = SimpleQueue()
        self._done: SimpleQueue[Receipt | Exception | None] = SimpleQueue()
        for _ in range(size):
            threading.Thread(target=self._labour, daemon=True).start()

    @property
    def idle(self) -> bool:
        return self.flying < self._size

    def put(self, request: Request, reserved: float) -> None:
        self.flying += 1
        self._work.put((request, reserved))

    def next(self, timeout: float | None = None) -> Receipt | Exception | None:
        outcome = self._done.get(timeout=timeout)
        self.flying -= 1
        return outcome

    def last(self) -> Iterator[Receipt]:
        """Send nothing more; yield what is under way, for as long as `GRACE_S`."""
        self.stop.set()
        if self.flying:
            log.warning("stopping: up to %.0f s for %d answers under way", GRACE_S, self.flying)
        end = time.monotonic() + GRACE_S
        with suppress(Empty):
            while self.flying:
                outcome = self.next(max(0.0, end - time.monotonic()))
                if isinstance(outcome, Receipt):
                    yield outcome

    def dismiss(self) -> None:
        self.stop.set()
        for _ in range(self._size):
            self._work.put(None)

    def _labour(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                self._done.put(self._complete(*work))
            except Exception as error:
                self._done.put(error)
