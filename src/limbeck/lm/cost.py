"""What completions cost: prices, the estimate before asking, the hard cap, the ledger.

Money is in US dollars, lengths are in tokens. The tokenizer of another company
is not known before the bill comes, so lengths of texts are bounded from above by
their UTF-8 bytes (a byte-level vocabulary never needs more tokens than bytes) and
guessed at four characters per token. Only the bound is used for the cap.

What counts towards the cap is counted in fractions: the sum of a million small
prices is exact. A float stands for the decimal number that it is written as, and
a price that no float is written as is kept as the next larger one.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, JsonValue, model_validator

from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm.endpoints import ServerSettings
from limbeck.lm.settings import Stops
from limbeck.settings import Settings

if TYPE_CHECKING:
    from limbeck.lm.remember import Remembered

TEMPLATE_TOKENS = 128
"""Room for what a server's chat template adds around the texts it is sent."""

CHARACTERS_PER_TOKEN = 4
"""English prose under today's vocabularies; for guesses, never for the cap."""

LONGEST_TOKEN = 128
"""Characters that the longest tokens of today's vocabularies stand for (they are white space)."""

MOST_TOKENS = 2_000_000
"""More than any model reads or writes for one answer; a larger number is not a count of tokens."""

MOST_COUNTED = 10**9
"""Tokens on a line of a log, by the bytes of the longest prompts; a larger number is damage."""

MOST_USD = 1e9
"""A larger sum is a mistake."""


class Prices(Settings):
    """What a teacher charges; reasoning tokens are output. Zero is a price, for servers of your own."""

    usd_per_million_input: float = Field(ge=0, le=1e6, description="dollars per million prompt tokens")
    usd_per_million_output: float = Field(ge=0, le=1e6, description="dollars per million written tokens")

    def exact(self, input_tokens: int, output_tokens: int) -> Fraction:
        """The price in dollars of so many tokens; discounts for cached input are not counted."""
        asked, written = exact(self.usd_per_million_input), exact(self.usd_per_million_output)
        return (input_tokens * asked + output_tokens * written) / 1_000_000

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        """As `exact`, in floats, also of mean lengths: for what is shown."""
        return (
            input_tokens * self.usd_per_million_input + output_tokens * self.usd_per_million_output
        ) / 1_000_000


class ApiSettings(ServerSettings):
    """Where the teacher is, how it is asked and what it charges."""

    model: str = Field(min_length=1, description="the model's name as the endpoint knows it")
    endpoint: Literal["chat", "completions"] = Field("chat", description='"completions" is for base models')
    system: str | None = Field(None, description="system prompt")
    stop: Stops = Field((), description="texts at which the teacher stops; cut here too, not included")
    remember_as: str | None = Field(
        None,
        description="used in the memory instead of base_url; keep it when the same model moves elsewhere",
    )
    prices: Prices | None = Field(None, description="null: unknown, and no cap can be kept")
    max_cost_usd: float | None = Field(
        None, ge=0, le=MOST_USD, description="hard cap on what the run's teacher may cost"
    )

    @property
    def identity(self) -> dict[str, JsonValue]:
        """Everything that changes what this teacher says except prompt and sampling; holds no key."""
        decisive = {"model", "endpoint", "system", "stop", "max_tokens_field", "omit", "extra_body"}
        return {"where": self.remember_as or self.base_url, **self.model_dump(mode="json", include=decisive)}

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.endpoint == "completions" and self.system is not None:
            raise ValueError("system has no place at the completions endpoint; use chat or remove it")
        if self.max_cost_usd is not None and self.prices is None:
            raise ValueError("a cap (max_cost_usd) needs prices; set them, to 0 if the server is free")
        return self


@dataclass(frozen=True, slots=True)
class Request:
    """One completion asked for: the `index`-th of a prompt."""

    prompt: Prompt
    index: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """A completion with its bill.

    `output_tokens` is what was charged, hidden reasoning included, while
    `completion.tokens` counts what was shown: the text and its thinking. `estimated`: the server sent no
    usage that can be right, and the cost is the most it can have been. `priced` False:
    no price was known, `completion.cost_usd` is 0 because nothing better can be said.
    `without` says why there is no text. `sent` is the attempt's mark in the log of what
    was sent (see `sent.py`).
    """

    completion: Completion
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    priced: bool = True
    without: str = ""
    sent: str = ""


@dataclass(slots=True)
class Ledger:
    """What was paid so far; `unpriced_*` tokens were bought while no price was known.

    `without` counts answers without text, by the reason.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    paid: Fraction = Fraction(0)
    estimated: int = 0
    unpriced_input_tokens: int = 0
    unpriced_output_tokens: int = 0
    without: Counter[str] = field(default_factory=Counter)

    def add(self, receipt: Receipt) -> None:
        """Enter one receipt."""
        self.requests += 1
        self.input_tokens += receipt.input_tokens
        self.output_tokens += receipt.output_tokens
        self.paid += exact(receipt.completion.cost_usd)
        self.estimated += receipt.estimated
        if not receipt.priced:
            self.unpriced_input_tokens += receipt.input_tokens
            self.unpriced_output_tokens += receipt.output_tokens
        if not receipt.completion.text.strip():
            self.without[receipt.without or "not kept why"] += 1

    @property
    def usd(self) -> float:
        """Dollars paid, to be shown."""
        return float(self.paid)

    def spent_usd(self, prices: Prices | None) -> Fraction:
        """Dollars spent; what was bought without a known price is counted at `prices`."""
        late = prices.exact(self.unpriced_input_tokens, self.unpriced_output_tokens) if prices else 0
        return self.paid + late

    def __str__(self) -> str:
        estimated = f", {self.estimated:,} of them estimated from above" if self.estimated else ""
        unpriced = self.unpriced_input_tokens + self.unpriced_output_tokens
        without = f", and {unpriced:,} tokens without a known price" if unpriced else ""
        silent = f"; {self.without.total():,} have no text ({counted(self.without)})" if self.without else ""
        return (
            f"{self.requests:,} completions, {self.input_tokens:,} input and {self.output_tokens:,} output "
            f"tokens, {dollars(self.usd)}{estimated}{without}{silent}"
        )


@dataclass(frozen=True, slots=True)
class Worst:
    """The most that one request can cost: its tokens by the bounds, and what they cost.

    `usd` counts the bounds as they were learnt to be exceeded, the tokens do not.
    """

    input_tokens: int
    output_tokens: int
    usd: Fraction


class Budget:
    """A cap that holds while many requests are under way; safe to use from threads.

    Every request is reserved at its worst case before it is sent. Its answer settles it at
    the real cost; without one it is held at its worst case, since it may have been charged:
    spent + held + reserved never passes the cap. A server that exceeds the bounds (it ignores
    the token limit, or its template is longer than `TEMPLATE_TOKENS`) widens them, from the
    first answer that shows it.
    """

    def __init__(
        self,
        prices: Prices | None,
        cap_usd: float | None,
        *,
        spent: Fraction = Fraction(0),
        held: Fraction = Fraction(0),
    ) -> None:
        self._prices = prices
        self._cap = None if cap_usd is None else exact(cap_usd)
        self._reserved = Fraction(0)
        self._wider_input = self._wider_output = 0
        self._lock = threading.Lock()
        self.spent = spent
        self.held = held

    def worst(self, input_bound: int, max_tokens: int) -> Worst:
        """The most one request can cost (0 where no price is known)."""
        if self._prices is None:
            return Worst(input_bound, max_tokens, Fraction(0))
        usd = self._prices.exact(input_bound + self._wider_input, max_tokens + self._wider_output)
        return Worst(input_bound, max_tokens, usd)

    def reserve(self, usd: Fraction) -> bool:
        """Set `usd` aside; False (and nothing is set aside) if the cap could be passed."""
        with self._lock:
            if self._cap is not None and self.spent + self.held + self._reserved + usd > self._cap:
                return False
            self._reserved += usd
            return True

    def settle(self, reserved: Fraction, paid: Fraction) -> None:
        """Replace a reservation by what the request did cost."""
        with self._lock:
            self._reserved -= reserved
            self.spent += paid

    def hold(self, reserved: Fraction) -> None:
        """Hold a reservation for good: the request may have been charged, and no answer came."""
        with self._lock:
            self._reserved -= reserved
            self.held += reserved

    def widen(self, over_input: int, over_output: int) -> None:
        """Learn by how many tokens an answer exceeded its bounds (negative: it did not)."""
        with self._lock:
            self._wider_input = max(self._wider_input, over_input)
            self._wider_output = max(self._wider_output, over_output)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of what a collection will take, shown before anything is sent.

    `input_tokens` is a guess, `max_output_tokens` a bound. `usd_expected` is None
    without prices or without a paid completion to learn the usual length from,
    `usd_at_most` is None without prices.
    """

    requests: int
    from_memory: int
    input_tokens: int
    max_output_tokens: int
    usd_expected: float | None
    usd_at_most: float | None

    def __str__(self) -> str:
        what = (
            f"{self.requests:,} requests ({self.from_memory:,} more come from memory), about "
            f"{self.input_tokens:,} input and at most {self.max_output_tokens:,} output tokens"
        )
        if self.usd_at_most is None:
            return f"{what}; no prices are set, so the cost is unknown"
        expected = "" if self.usd_expected is None else f"about {dollars(self.usd_expected)}, "
        return f"{what}: {expected}at most {dollars(self.usd_at_most)}"


def estimate(
    prompts: Sequence[Prompt],
    sampling: Sampling,
    prices: Prices | None,
    remembered: Remembered | None = None,
    *,
    system: str | None = None,
) -> Estimate:
    """Say what completing `prompts` will take, less what is remembered.

    Args:
        prompts: what would be asked.
        sampling: with `n` completions per prompt of at most `max_tokens`.
        prices: what the teacher charges, None if unknown.
        remembered: the memory that will be asked first; its ledger gives the usual length.
        system: the system prompt of every request whose prompt has none of its own.
    """
    requests: Sequence[Request]
    if remembered is None:
        requests = [Request(prompt, index) for prompt in prompts for index in range(sampling.n)]
    else:
        requests = remembered.missing(prompts, sampling)
    guess = bound = 0
    for request in requests:
        text, own = request.prompt.text, request.prompt.system or system
        guess += tokens_about((own or "") + text)
        bound += tokens_at_most(text, own)
    most = len(requests) * sampling.max_tokens
    usual = remembered.ledger if remembered is not None and remembered.ledger.output_tokens else None
    expected = None
    if prices is not None and usual is not None:
        mean = min(usual.output_tokens / usual.requests, sampling.max_tokens)
        expected = prices.usd(guess, mean * len(requests))
    return Estimate(
        requests=len(requests),
        from_memory=len(prompts) * sampling.n - len(requests),
        input_tokens=guess,
        max_output_tokens=most,
        usd_expected=expected,
        usd_at_most=None if prices is None else prices.usd(bound, most),
    )


def tokens_at_most(text: str, system: str | None = None) -> int:
    """More tokens than any server will count for this input."""
    return len(((system or "") + text).encode("utf-8", "replace")) + TEMPLATE_TOKENS


def tokens_about(text: str) -> int:
    """A guess at the tokens of a text."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def tokens_at_least(text: str) -> int:
    """Fewer tokens than any server can honestly count for this text; 0 for an empty one only."""
    return math.ceil(len(text) / LONGEST_TOKEN)


def exact(usd: float) -> Fraction:
    """The decimal number that a float is written as, exactly."""
    return Fraction(repr(usd))


def at_least(usd: Fraction) -> float:
    """The nearest float that is not written as less."""
    near = float(usd)
    return near if exact(near) >= usd else math.nextafter(near, math.inf)


def counted(reasons: Counter[str]) -> str:
    """ "7 × cut off, 5 × tool calls", the most frequent first."""
    return ", ".join(f"{count:,} × {reason}" for reason, count in reasons.most_common())


def dollars(usd: float | Fraction) -> str:
    """ "$12.34", with more digits where cents would hide the sum."""
    usd = float(usd)
    return f"${usd:,.2f}" if usd == 0 or usd >= 1 else f"${usd:.4f}"
