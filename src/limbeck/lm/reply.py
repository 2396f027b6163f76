"""What an OpenAI-compatible server said: a reply, or a trouble and what to do about it.

Read from the JSON itself and with tolerance, because compatible servers differ in
what they leave out. Pure functions, no network.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime

from limbeck.lm.cost import MOST_TOKENS, tokens_at_least
from limbeck.lm.hiding import Hide
from limbeck.lm.stream import assembled, is_stream
from limbeck.lm.written import is_unfinished, read_written

FREE = (503, 529)
"""Statuses of an overloaded server: with a time to come back it has refused the work, and charges nothing."""

LATER = "run again later"

OF_A_PROMPT = (
    "content_filter",
    "content_policy_violation",
    "invalid_prompt",
    "moderation",
    "context_length_exceeded",
    "string_above_max_length",
)
"""Codes of refusals that are about one prompt and come again with it (OpenAI, Azure, OpenRouter)."""

LONGEST_WAIT_S = 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens on the bill; `output_tokens` includes `hidden_tokens`, the reasoning, shown or not."""

    input_tokens: int
    output_tokens: int
    hidden_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion as the server sent it.

    `usage` None: the server did not count, or, where `doubted` says so, what it sent cannot be right.
    `without`: why there is no text, "" where there is some. `thinking` comes from a field of its own
    or from inside the text; `stopped` is the stop string that ended the text.
    """

    text: str
    truncated: bool
    usage: Usage | None
    without: str = ""
    doubted: str = ""
    thinking: str = ""
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a request was not answered: `what` is the kind of failure, `detail` what the server wrote.

    `passing`: another attempt may be answered, after `wait_s` seconds if the server
    said so. `ends`: no other request would fare better. `refusal`: why this very prompt is
    never answered, "" where that is not known; it then counts as an answer without text.
    `charged`: it may be on the bill although no answer came.
    """

    what: str
    detail: str = ""
    fix: str = LATER
    passing: bool = True
    ends: bool = False
    refusal: str = ""
    wait_s: float | None = None
    charged: bool = False

    @property
    def said(self) -> str:
        """As part of a sentence."""
        return f"{self.what} ({self.detail})" if self.detail else self.what


def read_reply(
    text: str,
    hide: Hide = str,
    stops: Sequence[str] = (),
    *,
    opened: bool = False,
    place: str = "teacher",
) -> Reply | Trouble:
    """Read the body of an answer with status 200, of the chat or the completions endpoint.

    Args:
        text: the body, streamed or not.
        hide: takes the key out of what is quoted.
        stops: texts at which the completion is cut; not every server has done so.
        opened: the prompt ends in `<think>`, so the text begins inside the thinking.
        place: of the endpoint's settings, for what is to be fixed.
    """
    streamed = is_stream(text)
    try:
        body = assembled(text) if streamed else json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if streamed and body is None:
        return Trouble("broke its stream off", _line(text[-300:], hide), charged=True)
    if not isinstance(body, dict):
        fix = f"check {place}.base_url, which often ends in /v1"
        return Trouble("answered with something that is not JSON", _line(text, hide), fix, charged=True)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        error = body.get("error")  # routers send a failed answer under status 200
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        return replace(refused(status, error or text, {}, hide, place), charged=True, ends=False)
    if choice.get("finish_reason") == "error" or choice.get("error"):
        return replace(refused(500, choice.get("error") or text, {}, hide, place), charged=True)
    content, apart = choice.get("text"), ""
    message = choice.get("message")
    if isinstance(message, dict):
        content, apart = message.get("content") or message.get("refusal"), _thinking(message)
    raw = _text(content)
    said = read_written(raw, stops, opened=opened and not apart)
    thinking = "\n".join(dict.fromkeys(part for part in (apart, said.thinking) if part))
    # vLLM and SGLang say so; others leave it open whether the model ended by itself
    at = choice.get("stop_reason") or choice.get("matched_stop")
    stopped = said.stopped or (at if isinstance(at, str) and at in stops else "")
    truncated = choice.get("finish_reason") == "length" and not stopped
    try:
        usage, doubted = _usage(body.get("usage"), apart + raw), ""
    except ValueError as error:
        usage, doubted = None, _line(error, hide)
    without = _without(said.answer, thinking, choice)
    return Reply(said.answer, truncated, usage, without, doubted, thinking, stopped)


def refused(
    status: int, body: object, headers: Mapping[str, str], hide: Hide = str, place: str = "teacher"
) -> Trouble:
    """What an error status means: whether to try again, when, what to fix, and whether it may be charged.

    No credit, a wrong key and no such model end a collection. Any other refusal is about this request:
    some providers refuse single prompts (`OF_A_PROMPT`); a parameter that all have is refused 30 times.
    A gateway that gives up says nothing of the model behind it, which may have done the work. Only what was
    refused (400 to 499, or overload with a time to come back) costs nothing.
    """
    inner = body.get("error", body) if isinstance(body, dict) else body
    fields = inner if isinstance(inner, dict) else {}
    what, detail = f"answered {status}", _line(fields.get("message") or fields.get("detail") or inner, hide)
    if status == 402 or "insufficient_quota" in (fields.get("code"), fields.get("type")):
        return Trouble(what, detail, "add credit at the provider, then run again", passing=False, ends=True)
    if status in (408, 409, 429) or status >= 500:
        wait = _retry_after(headers)
        free = status in (409, 429) or (status in FREE and wait is not None)
        return Trouble(what, detail, wait_s=wait, charged=not free)
    fixes = {
        401: f"check the key in the variable that {place}.key_env names",
        403: f"check the rights of the key in the variable that {place}.key_env names",
        404: f"check {place}.base_url and {place}.model",
    }
    default = f"fix what it names; {place}.omit and {place}.max_tokens_field adapt the parameters"
    named = [fields.get("code"), fields.get("type")]
    refusal = next((str(one) for one in named if isinstance(one, str) and one in OF_A_PROMPT), "")
    return Trouble(
        what,
        detail,
        fixes.get(status, default),
        passing=False,
        ends=status in (401, 404),
        refusal=refusal,
        charged=status < 400,
    )


def _text(content: object) -> str:
    """The text of a content field: a string, null, or a list of typed parts."""
    if isinstance(content, list):
        parts = [
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        ]
        content = "".join(part for part in parts if isinstance(part, str))
    text = content if isinstance(content, str) else ""
    # half of a surrogate pair (a text cut inside an emoji) cannot be written as UTF-8
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _thinking(message: Mapping[str, object]) -> str:
    """What a reasoning model thought, where the server keeps it apart from the answer.

    DeepSeek and vLLM call the field `reasoning_content`, newer vLLM and OpenRouter `reasoning` (some send
    both, with the same text); Mistral puts parts of type "thinking" into the content.
    """
    apart = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return apart or "".join(_text(part.get("thinking")) for part in parts if part.get("type") == "thinking")


def _without(text: str, thinking: str, choice: Mapping[str, object]) -> str:
    """Why an answer has no text; "" where it has."""
    if text.strip():
        return ""
    message = choice.get("message")
    fields = message if isinstance(message, dict) else {}
    cut_off, unfinished = choice.get("finish_reason") == "length", is_unfinished(thinking, text)
    reasons = {
        "tool calls": fields.get("tool_calls") or fields.get("function_call"),
        "content filter": choice.get("finish_reason") == "content_filter",
        "cut off while thinking": unfinished and cut_off,
        "thinking without an answer": unfinished,
        "cut off before any text": cut_off,
    }
    return next((reason for reason, here in reasons.items() if here), "empty")


def _usage(usage: object, text: str) -> Usage | None:
    """The bill of an answer; None where the server sent none.

    Raises:
        ValueError: it sent one that cannot be right.
    """
    counts = usage if isinstance(usage, dict) else {}
    asked, written, total = (_count(counts, f"{what}_tokens") for what in ("prompt", "completion", "total"))
    if asked is None or written is None:
        return None
    # some servers leave reasoning out of completion_tokens, none leaves it out of the total
    charged = max(written, total - asked) if total is not None else written
    if asked == 0 or charged < tokens_at_least(text):
        raise ValueError(f"{asked} prompt and {charged} completion tokens")
    details = counts.get("completion_tokens_details")
    hidden = details.get("reasoning_tokens") if isinstance(details, dict) else 0
    known = hidden if isinstance(hidden, int) and not isinstance(hidden, bool) else 0
    return Usage(asked, charged, min(max(known, 0), charged))


def _count(usage: Mapping[str, object], name: str) -> int | None:
    """A number of tokens; None where there is none.

    Raises:
        ValueError: it is not a whole number, negative, or more than any model writes.
    """
    count = usage.get(name)
    if count is None:
        return None
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_TOKENS:
        raise ValueError(f"{name} {str(count)[:20]}")
    return count


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the server says it, None if it says nothing readable."""
    for header, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with suppress(ValueError, KeyError):
            seconds = float(headers[header]) / unit
            if math.isfinite(seconds):
                return min(max(0.0, seconds), LONGEST_WAIT_S)
    with suppress(ValueError, KeyError, TypeError, OverflowError):
        seconds = parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
        return min(max(0.0, seconds), LONGEST_WAIT_S)
    return None


def _line(text: object, hide: Hide) -> str:
    """Anything as one short line; the key is taken out before it is cut."""
    try:
        whole = str(text)
    except RecursionError:
        whole = "something deeply nested"
    line = " ".join(hide(whole).split())
    return line if len(line) <= 300 else line[:299] + "…"
