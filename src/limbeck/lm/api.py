"""A teacher behind any OpenAI-compatible endpoint: a company's, or vLLM, SGLang, transformers serve.

A model of ours that a server has (`served.ServedModel`) is asked by the same code, without prices.

Every completion is a request of its own with a seed of its own: some servers
silently ignore `n`, and single requests can be remembered, retried and paid
for one by one. Importing this module does not import `openai`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pydantic import JsonValue

from limbeck.errors import CostCapError, RecipeError, TeacherError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm.cost import (
    ApiSettings,
    Budget,
    Ledger,
    Receipt,
    Request,
    Worst,
    at_least,
    counted,
    dollars,
    exact,
    tokens_about,
    tokens_at_least,
    tokens_at_most,
)
from limbeck.lm.endpoints import ServerSettings
from limbeck.lm.hiding import hiding
from limbeck.lm.remember import Remembered, receipts_of
from limbeck.lm.reply import LATER, Reply, Trouble, Usage, read_reply, refused
from limbeck.lm.sent import SentLog, sent_log_of
from limbeck.sequences import Made

T = TypeVar("T")

log = logging.getLogger(__name__)

GRACE_S = 20.0
"""How long a stopped collection waits for answers under way: they are paid for."""

GOODBYE_S = 5.0
"""How long closing the connections may take."""

PATIENCE = 30
"""So many failed attempts of requests that were given up, without an answer in between, end a collection:
a parameter that the server refuses, for one."""

WHOLE_KEY = 16
"""Characters from which on a key is also taken out of what a teacher wrote; shorter ones may be words."""

Keep = Callable[[Receipt], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Order:
    """What all requests of one collection share; `failures` and `silent` count what went wrong, by kind."""

    wire: _Wire
    client: Any
    sampling: Sampling
    keep: Keep | None
    stop: threading.Event
    failures: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    doubted: Counter[str] = field(default_factory=Counter)
    dearer: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Task:
    """A request and how often it was sent in vain."""

    request: Request
    tries: int = 0


class _Waiting:
    """Requests that are not under way: each is made at its turn, and those that came back go first."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._rest, self._left = map(_Task, requests), len(requests)
        self._first = deque[_Task]()

    def __len__(self) -> int:
        return len(self._first) + self._left

    def next(self) -> _Task:
        """The one whose turn it is; it stays."""
        if not self._first:
            self._first.append(next(self._rest))
            self._left -= 1
        return self._first[0]

    def take(self) -> _Task:
        """The same, which is under way now."""
        self.next()
        return self._first.popleft()

    def put_back(self, task: _Task) -> None:
        """One that was not sent after all."""
        self._first.appendleft(task)


@dataclass(frozen=True, slots=True)
class _Lost:
    """A request that was not answered at any of its attempts, and the last failure."""

    request: Request
    trouble: Trouble
    tries: int


_Outcome = Receipt | _Task | _Lost | Exception | None
"""An answer; a request that waits for room under the cap; one given up; a failure that ends all; nothing."""


class ApiTeacher:
    """Completes prompts at an endpoint; `ask` does so for single completions.

    Args:
        settings: the endpoint.
        spent: what the run's earlier completions cost, in dollars; it counts towards the cap.
        sent: notes every attempt on disk before it is sent; what is unresolved in it counts towards the cap.
        client: an `openai.AsyncOpenAI` to use instead of one made from the settings.
        say: shows a line.
        place: of the settings, for errors.
        called: what lines and errors call it; "": the teacher, by the model's name.
        explicit: send `top_p` although it is 1: a server may have another default, from the model's files.
        spelled: the tokens of a prompt, which the completions endpoint is sent in place of its text.

    Raises:
        RecipeError: openai is not installed, the key's variable is empty or holds what no key does,
            or there is a cap without prices.
    """

    def __init__(
        self,
        settings: ApiSettings,
        *,
        spent: Fraction = Fraction(0),
        sent: SentLog | None = None,
        client: Any = None,
        say: Say = log.warning,
        place: str = "teacher",
        called: str = "",
        explicit: bool = False,
        spelled: Callable[[Prompt], list[int]] | None = None,
    ) -> None:
        if settings.max_cost_usd is not None and settings.prices is None:  # model_copy checks nothing
            raise RecipeError("teacher.max_cost_usd: a cap cannot be kept without prices; set teacher.prices")
        self._settings = settings
        self._place = place
        self._called = called or f"teacher {settings.model}"
        self._explicit = explicit
        self._spelled = spelled
        self._secret = secret_of(settings, place)
        self._hide = hiding(self._secret)
        self._openai = openai_of(place)
        self._client = client
        self._sent = sent
        held = sent.held(settings.prices) if sent else Fraction(0)
        self._budget = Budget(settings.prices, settings.max_cost_usd, spent=spent, held=held)
        self._say = say
        self._noting = threading.Lock()
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
        return float(self._budget.spent + self._budget.held)

    def widen(self, over_input: int, over_output: int) -> None:
        """Reckon with a server that was seen to exceed the bounds by so many tokens."""
        self._budget.widen(over_input, over_output)

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Complete every prompt `sampling.n` times; see `ask`."""
        n = sampling.n
        requests = Made(range(n * len(prompts)), lambda place: Request(prompts[place // n], place % n))
        return (receipt.completion for receipt in self.ask(requests, sampling))

    def ask(
        self, requests: Sequence[Request], sampling: Sampling, keep: Keep | None = None
    ) -> Generator[Receipt, None, None]:
        """Send every request; call `keep` for each answer as it arrives (in the
        thread that received it), then yield it.

        After an error, the cap or an interrupt nothing is sent any more; what is
        under way is awaited, kept and yielded (for at most `GRACE_S` after an
        interrupt or when the reader stops; a second interrupt ends that too). SIGTERM and SIGHUP (a
        closed terminal) are interrupts. A request that fails `retries` + 1 times ends nothing: others go on.

        Raises:
            TeacherError: the key, the credit or the model was refused; or, when all others are answered,
                requests were refused or not answered in `retries` + 1 attempts.
            CostCapError: the next request could pass the cap, and nothing is under way that could make room.
            RecipeError: several greedy completions of one prompt are asked for, or a
                prompt has a system prompt and the endpoint no place for it.
        """
        if sampling.temperature == 0 and any(request.index > 0 for request in requests):
            raise RecipeError("temperature: 0 is greedy and gives equal completions; raise it or ask for one")
        if self._settings.endpoint == "completions" and any(request.prompt.system for request in requests):
            raise RecipeError("system: has no place at the completions endpoint; write it into the text")
        return self._ask(_Waiting(requests), sampling, keep)

    def _ask(
        self, waiting: _Waiting, sampling: Sampling, keep: Keep | None
    ) -> Generator[Receipt, None, None]:
        asked, lost = len(waiting), list[_Lost]()
        with _heeding_signals(), self._connected() as (wire, client):
            order = _Order(wire, client, sampling, keep, threading.Event())
            size = min(self._settings.concurrency, asked)
            crew = _Crew(size, partial(self._complete, order), order.stop)
            try:
                failure = yield from self._direct(crew, waiting, sampling, lost)
            except KeyboardInterrupt:
                yield from crew.last()
                raise
            except GeneratorExit:
                if keep is not None:
                    deque(crew.last(), maxlen=0)
                raise
            finally:
                crew.dismiss()
                self._sum_up(order)
        if failure is not None:
            raise failure
        if waiting:
            raise self._too_dear(len(waiting))
        if lost:
            raise self._unanswered(lost)

    def _direct(
        self, crew: _Crew, waiting: _Waiting, sampling: Sampling, lost: list[_Lost]
    ) -> Generator[Receipt, None, Exception | None]:
        """Hand out requests while the cap allows it; return the first failure when none is under way.

        Near the cap fewer are under way: the next one waits until an answer turns out cheaper than its worst
        case, and only if none can is the collection over.
        """
        failure: Exception | None = None
        in_a_row = 0
        while True:
            while waiting and failure is None and crew.idle:
                try:
                    worst = self._worst(waiting.next().request, sampling)
                except Exception as error:  # it cannot be read, from a file for one
                    failure = error
                    crew.stop.set()
                    break
                if not self._budget.reserve(worst.usd):
                    break
                crew.put(waiting.take(), worst)
            if not crew.flying:
                return failure
            outcome = crew.next()
            if isinstance(outcome, Receipt):
                in_a_row = 0
                yield outcome
            elif isinstance(outcome, _Task):
                waiting.put_back(outcome)
            elif isinstance(outcome, _Lost):
                lost.append(outcome)
                in_a_row += outcome.tries
                if in_a_row >= PATIENCE and failure is None:
                    failure = self._unanswered(lost)
                    crew.stop.set()
            elif outcome is not None and failure is None:
                failure = outcome
                crew.stop.set()

    @contextmanager
    def _connected(self) -> Iterator[tuple[_Wire, Any]]:
        """A client that leaves retries to us, with its connections closed in the end."""
        settings, given = self._settings, self._client
        # reaching a server takes less than the whole: if it cannot be reached, nothing was sent or charged
        timeout = self._openai.Timeout(settings.timeout_s, connect=settings.timeout_s / 2)
        wire = _Wire()
        client = given or self._openai.AsyncOpenAI(base_url=settings.base_url, api_key=self._secret or "none")
        try:
            yield wire, client.with_options(timeout=timeout, max_retries=0)
        finally:
            wire.close(None if given else client)

    def _complete(self, order: _Order, task: _Task, worst: Worst) -> _Outcome:
        """Send one request until it is answered; None if `stop` came first.

        Args:
            worst: is reserved.
        """
        while True:
            if self._held_back(order.stop):
                self._budget.settle(worst.usd, Fraction(0))
                return None
            now = self._worst(task.request, order.sampling)  # an answer may have been dearer meanwhile
            if now.usd > worst.usd:
                self._budget.settle(worst.usd, Fraction(0))
                if not self._budget.reserve(now.usd):
                    return task
                worst = now
            outcome = self._attempt(order, task.request, worst)
            if isinstance(outcome, Receipt):
                return outcome
            task.tries += 1
            self._note(order.failures, outcome.what, f"{outcome.said}; {self._next(outcome, task.tries)}")
            if self._over(task, outcome):
                return _Lost(task.request, outcome, task.tries)
            self._pause(outcome, task.tries, order.stop)
            if order.stop.is_set():
                return None
            worst = self._worst(task.request, order.sampling)
            if not self._budget.reserve(worst.usd):
                return task

    def _attempt(self, order: _Order, request: Request, worst: Worst) -> Receipt | Trouble:
        """Send a request once, after its worst case is on disk; settle or hold what was reserved for it."""
        paid, charged, mark = Fraction(0), False, ""
        try:
            if self._sent and (worst.usd or self._settings.prices is None):
                mark = self._sent.write(request, worst, self._settings.prices is not None)
            charged = True  # until it is known otherwise
            outcome = self._send(order, request)
            if isinstance(outcome, Trouble) and not outcome.refusal:
                charged = outcome.charged
                if mark and self._sent and not charged:
                    self._sent.free(mark)
                return outcome
            if isinstance(outcome, Trouble):
                receipt = self._refusal(order, request, outcome, worst, mark)
            else:
                receipt = self._receipt(order, request, outcome, worst, mark)
            charged, paid = False, exact(receipt.completion.cost_usd)
            if order.keep is not None:
                order.keep(receipt)
            if mark and self._sent:
                self._sent.answered(mark)
            return receipt
        finally:
            if charged:
                self._budget.hold(worst.usd)
            else:
                self._budget.settle(worst.usd, paid)

    def _worst(self, request: Request, sampling: Sampling) -> Worst:
        bound = tokens_at_most(request.prompt.text, self._system(request))
        return self._budget.worst(bound, sampling.max_tokens)

    def _too_dear(self, left: int) -> CostCapError:
        cap, spent, held = self._settings.max_cost_usd or 0.0, self._budget.spent, self._budget.held
        lost = ""
        if held:
            lost = f", {dollars(held)} held for requests without an answer, which may have been charged"
        release = ", or --release what the bill does not show" if held else ""
        return CostCapError(
            f"teacher.max_cost_usd: the next request could pass the cap of {dollars(cap)} ({dollars(spent)} "
            f"spent{lost}; {left:,} requests were not sent); raise the cap to go on{release}, "
            "what arrived is kept"
        )

    def _unanswered(self, lost: Sequence[_Lost]) -> TeacherError:
        """What to say of requests that were given up."""
        last = lost[-1]
        others = f" (and {len(lost) - 1:,} more prompts)" if len(lost) > 1 else ""
        tries = f" at each of {last.tries} attempts" if last.tries > 1 else ""
        return TeacherError(
            f"{self._where(last.request)}{others}: {last.trouble.said}{tries}; "
            f"{last.trouble.fix}, what arrived is kept"
        )

    def _where(self, request: Request) -> str:
        return f"{self._called} at {self._settings.base_url}, prompt {request.prompt.id}"

    def _note(self, kinds: Counter[str], kind: str, line: str) -> None:
        """Count something that went wrong; show the first of its kind."""
        with self._noting:
            kinds[kind] += 1
            if kinds[kind] == 1:
                self._say(f"{self._called}: {line}")

    def _sum_up(self, order: _Order) -> None:
        """Say how often things went wrong in a collection."""
        parts = {
            "attempts that failed": order.failures,
            "answers without text, kept and not asked for again": order.silent,
            "bills that cannot be right, counted at their worst case": order.doubted,
            "bills above what was asked for, and every later request is counted as if it were so dear": (
                order.dearer
            ),
        }
        with self._noting:
            said = [f"{what}: {kinds.total():,} ({counted(kinds)})" for what, kinds in parts.items() if kinds]
        if order.failures and self._budget.held:
            said.append(f"{dollars(self._budget.held)} may have been charged for requests without an answer")
        if said:
            self._say(f"{self._called}: {'; '.join(said)}")

    def _held_back(self, stop: threading.Event) -> bool:
        """Wait until the server accepts requests again; True if `stop` came first."""
        while not stop.is_set() and (delay := self._quiet_until - time.monotonic()) > 0:
            stop.wait(delay * random.uniform(1.0, 1.1))  # not all threads at the same moment
        return stop.is_set()

    def _over(self, task: _Task, trouble: Trouble) -> bool:
        """Whether a request has had its last attempt.

        Raises:
            TeacherError: no other request would fare better either, or the server asks for a wait that is
                too long.
        """
        too_long = trouble.wait_s is not None and trouble.wait_s > self._settings.max_wait_s
        if not trouble.ends and not too_long:
            return not trouble.passing or task.tries > self._settings.retries
        said = trouble.said
        if trouble.passing and trouble.wait_s is not None:
            said += f" and asks to wait {trouble.wait_s:,.0f} s"
        raise TeacherError(f"{self._where(task.request)}: {said}; {trouble.fix}, what arrived is kept")

    def _next(self, trouble: Trouble, tries: int) -> str:
        """What is done about a failure, in words."""
        again = f"attempt {tries} of {self._settings.retries + 1}"
        return again if trouble.fix == LATER else f"{again}; {trouble.fix}"

    def _pause(self, trouble: Trouble, tries: int, stop: threading.Event) -> None:
        """Wait before the next attempt."""
        settings = self._settings
        if trouble.wait_s is not None:
            self._quiet_until = max(self._quiet_until, time.monotonic() + trouble.wait_s)
        else:
            longest = min(settings.backoff_s * 2.0 ** min(tries - 1, 60), settings.max_wait_s)
            stop.wait(longest * random.uniform(0.5, 1.0))

    def _send(self, order: _Order, request: Request) -> Reply | Trouble:
        openai = self._openai
        try:
            text = order.wire.run(self._exchange(order, request))
        except openai.APIStatusError as error:
            body = error.body or error.message
            return refused(error.status_code, body, error.response.headers, self._hide, self._place)
        except openai.APIConnectionError as error:  # a timeout of a part among them
            cause = type(error.__cause__).__name__
            if cause in ("ConnectError", "ConnectTimeout", "PoolTimeout"):
                return Trouble("cannot be reached")
            if isinstance(error, openai.APITimeoutError):
                return self._late()
            return Trouble(f"lost the connection ({cause})", charged=True)
        except TimeoutError:
            return self._late()
        except Exception as error:  # of the client: an answer in a character set that is none, for one
            return Trouble(f"sent what cannot be read ({type(error).__name__})", charged=True)
        stops, opened = self._stops(order.sampling), request.prompt.opened
        return read_reply(text, self._hide, stops, opened=opened, place=self._place)

    def _late(self) -> Trouble:
        return Trouble(f"sent no whole answer within {self._settings.timeout_s:g} s", charged=True)

    async def _exchange(self, order: _Order, request: Request) -> str:
        """Send a request and read the whole answer, in `timeout_s` altogether: a server that
        drips a byte now and then keeps every single read short."""
        chat = self._settings.endpoint == "chat"
        endpoint = order.client.chat.completions if chat else order.client.completions
        async with asyncio.timeout(self._settings.timeout_s):
            answer = await endpoint.with_raw_response.create(**self._body(request, order.sampling))
        response = answer.http_response
        try:
            text: str = response.text
        except Exception:  # of the codec that the server named, if it is none for texts; JSON is UTF-8 anyway
            text = response.content.decode("utf-8", "replace")
        return text

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        settings, text, own = self._settings, request.prompt.text, self._system(request)
        body: dict[str, Any] = {"model": settings.model, settings.max_tokens_field: sampling.max_tokens}
        if settings.endpoint == "chat":
            system = [] if own is None else [{"role": "system", "content": own}]
            body["messages"] = [*system, {"role": "user", "content": text}]
        else:
            body["prompt"] = text if self._spelled is None else self._spelled(request.prompt)
        drawn = {"temperature": sampling.temperature, "seed": seed_of(sampling.seed, request)}
        if sampling.top_p != 1 or self._explicit:
            drawn["top_p"] = sampling.top_p
        body |= {name: value for name, value in drawn.items() if name not in settings.omit}
        stops = self._stops(sampling)
        if stops and "stop" not in settings.omit:
            body["stop"] = list(stops)
        top_k = {"top_k": sampling.top_k} if sampling.top_k else {}  # not OpenAI's, but vLLM's and SGLang's
        # as an argument of the client's it would be read event by event; the whole text is kept or nothing
        streamed = {"stream": True, "stream_options": {"include_usage": True}} if settings.stream else {}
        return {**body, "extra_body": {**top_k, **streamed, **settings.extra_body}}

    def _stops(self, sampling: Sampling) -> tuple[str, ...]:
        """The teacher's own stop strings, then those of this collection."""
        return tuple(dict.fromkeys((*self._settings.stop, *sampling.stop)))

    def _system(self, request: Request) -> str | None:
        """The prompt's own system prompt, else the teacher's."""
        return request.prompt.system or self._settings.system

    def _receipt(self, order: _Order, request: Request, reply: Reply, worst: Worst, mark: str) -> Receipt:
        prices, text, thinking, doubted = self._settings.prices, reply.text, reply.thinking, reply.doubted
        if len(self._secret) >= WHOLE_KEY:
            text, thinking = (part.replace(self._secret, "[key]") for part in (text, thinking))
        least = tokens_at_least((self._system(request) or "") + request.prompt.text)
        usage = reply.usage
        if usage is not None and usage.input_tokens < least:
            doubted = f"{usage.input_tokens} prompt tokens"
            usage = None
        if doubted:
            self._note(order.doubted, "usage", f"an answer came with a bill that cannot be right ({doubted})")
        if reply.without:
            self._note(
                order.silent,
                reply.without,
                f"an answer without text ({reply.without}); kept{'' if self._explicit else ', it is paid'}",
            )
        if usage is None:
            paid, cost = Usage(worst.input_tokens, worst.output_tokens), worst.usd
            shown = tokens_about(thinking + text)
        else:
            paid, shown = usage, usage.output_tokens - (0 if thinking else usage.hidden_tokens)
            cost = Fraction(0) if prices is None else prices.exact(usage.input_tokens, usage.output_tokens)
            self._learn(order, usage, worst)
        return Receipt(
            Completion(
                request.prompt.id,
                request.index,
                text,
                shown,
                reply.truncated,
                at_least(cost),
                thinking,
                reply.stopped,
            ),
            input_tokens=paid.input_tokens,
            output_tokens=paid.output_tokens,
            estimated=usage is None,
            priced=prices is not None,
            without=reply.without,
            sent=mark,
        )

    def _refusal(self, order: _Order, request: Request, trouble: Trouble, worst: Worst, mark: str) -> Receipt:
        """A prompt that is never answered: an answer without text, so that the collection can be finished."""
        why = f"refused: {trouble.refusal}"
        self._note(
            order.silent, why, f"prompt {request.prompt.id}: {trouble.said}; kept as an answer without text"
        )
        usage = Usage(worst.input_tokens, worst.output_tokens) if trouble.charged else Usage(0, 0)
        return Receipt(
            Completion(
                request.prompt.id,
                request.index,
                "",
                0,
                False,
                at_least(worst.usd) if trouble.charged else 0.0,
            ),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            estimated=trouble.charged,
            priced=self._settings.prices is not None,
            without=why,
            sent=mark,
        )

    def _learn(self, order: _Order, usage: Usage, worst: Worst) -> None:
        """Widen the bounds by what an answer exceeded them, and say so: every later request gets dearer."""
        over = usage.input_tokens - worst.input_tokens, usage.output_tokens - worst.output_tokens
        for kind, more in zip(("prompt", "completion"), over, strict=True):
            if more > 0:
                line = f"an answer was billed {more:,} {kind} tokens more than it can have"
                self._note(order.dearer, f"{kind} tokens", f"{line}; later requests are counted as so dear")
        self.widen(*over)


def open_teacher(
    settings: ApiSettings, path: Path, *, client: Any = None, say: Say = log.warning
) -> Remembered:
    """A teacher with its memory at `path`, and the log of what was sent next to it.

    What the memory paid for counts towards the cap, and what requests without an answer may have cost.

    Args:
        settings: the endpoint.
        path: the log of completions.
        client: see `ApiTeacher`.
        say: shows a line.
    """
    sent, ledger, over = _books(path)
    teacher = ApiTeacher(settings, spent=ledger.spent_usd(settings.prices), sent=sent, client=client, say=say)
    teacher.widen(*over)
    if max(over) > 0:
        say(
            f"teacher {teacher.name}: earlier answers were billed up to {max(over[0], 0):,} prompt and "
            f"{max(over[1], 0):,} completion tokens more than they can have; requests are counted as so dear"
        )
    if sent.unresolved:
        held = sent.held(settings.prices)
        say(
            f"teacher {teacher.name}: {len(sent.unresolved):,} earlier requests have no answer and may have "
            f"been charged, {dollars(held)} at most; it counts towards a cap until you --release them"
        )
    return Remembered(teacher, path, key=teacher.identity, ask=teacher.ask, durable=True)


def release(path: Path) -> int:
    """Count every request without an answer as not charged; give their number.

    Args:
        path: the memory.
    """
    sent, _, _ = _books(path)
    number = len(sent.unresolved)
    sent.release()
    return number


def _books(path: Path) -> tuple[SentLog, Ledger, tuple[int, int]]:
    """What was sent without an answer, what was paid, by how many tokens answers exceeded their bounds."""
    sent, ledger, over = SentLog(sent_log_of(path)), Ledger(), (0, 0)
    for receipt in receipts_of(path):
        ledger.add(receipt)
        line = sent.answered(receipt.sent)
        if line and not receipt.estimated:
            more = receipt.input_tokens - line.input_tokens, receipt.output_tokens - line.output_tokens
            over = max(over[0], more[0]), max(over[1], more[1])
    return sent, ledger, over


def seed_of(seed: int, request: Request) -> int:
    """The seed of one request, of 31 bits, from the sampling's seed, the prompt's id and the index."""
    parts = repr((seed, request.prompt.id, request.index)).encode()
    return int.from_bytes(hashlib.blake2b(parts, digest_size=4).digest(), "big") >> 1


def check_ready(settings: ServerSettings, place: str = "teacher") -> None:
    """Refuse, before anything is done, a server that could not be asked.

    Raises:
        RecipeError: the key's variable is empty, or openai is not installed.
    """
    secret_of(settings, place)
    openai_of(place)


def secret_of(settings: ServerSettings, place: str) -> str:
    """The key, or "" where none is needed."""
    if settings.key_env is None:
        return ""
    secret = os.environ.get(settings.key_env, "").strip()
    if not secret:
        raise RecipeError(f"{place}.key_env: the variable {settings.key_env} is empty; export the key in it")
    if not (secret.isascii() and secret.isprintable()):
        raise RecipeError(
            f"{place}.key_env: the variable {settings.key_env} holds a character that no key has "
            "(perhaps it was copied cut, with …); export the whole key in it"
        )
    return secret


def openai_of(place: str) -> Any:
    """The client's package."""
    try:
        import openai
    except ImportError:
        what = "teacher.kind: an api teacher" if place == "teacher" else f"{place}: a server"
        raise RecipeError(f"{what} needs the openai package; run pip install 'limbeck[api]'") from None
    return openai


@contextmanager
def _heeding_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP as Ctrl-C, which awaits what is paid for; in the main thread, where nobody else
    heeds them."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    main = threading.current_thread() is threading.main_thread()
    ours = [one for one in map(signal.Signals.__getitem__, names) if signal.getsignal(one) == signal.SIG_DFL]
    for one in ours if main else []:
        signal.signal(one, interrupt)
    try:
        yield
    finally:
        with suppress(ValueError):  # a generator that was forgotten may be closed in another thread
            for one in ours:
                if signal.getsignal(one) is interrupt:
                    signal.signal(one, signal.SIG_DFL)


class _Wire:
    """An event loop in a thread of its own: what is awaited there can be cut off wherever it hangs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the result; from other threads."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self, client: Any | None) -> None:
        """Cut off what still runs, close the client's connections, end the thread."""
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(client), self._loop).result(GOODBYE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(GOODBYE_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self, client: Any | None) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if client is not None:
            await client.close()


class _Crew:
    """Threads that complete requests; daemons, so that one that hangs does not hold the exit."""

    def __init__(
        self, size: int, complete: Callable[[_Task, Worst], _Outcome], stop: threading.Event
    ) -> None:
        self.flying = 0
        self.stop = stop
        self._size = size
        self._complete = complete
        self._work: SimpleQueue[tuple[_Task, Worst] | None] = SimpleQueue()
        self._done: SimpleQueue[_Outcome] = SimpleQueue()
        for _ in range(size):
            threading.Thread(target=self._labour, daemon=True).start()

    @property
    def idle(self) -> bool:
        return self.flying < self._size

    def put(self, task: _Task, worst: Worst) -> None:
        self.flying += 1
        self._work.put((task, worst))

    def next(self, timeout: float | None = None) -> _Outcome:
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
