"""What an OpenAI-compatible server said: a reply, or a trouble and what to do about it.

Read from the JSON itself and with tolerance, because compatible servers differ in
what they leave out. Pure functions, no network.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens on the bill; `output_tokens` includes `hidden_tokens`, the reasoning that is not shown."""

    input_tokens: int
    output_tokens: int
    hidden_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion as the server sent it; `usage` None: the server did not count."""

    text: str
    truncated: bool
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a request was not answered.

    `passing`: another attempt may be answered, after `wait_s` seconds if the server
    said so. `charged`: it may be on the bill although no answer came.
    """

    said: str
    fix: str = "run again later"
    passing: bool = True
    wait_s: float | None = None
    charged: bool = False


def read_reply(text: str) -> Reply | Trouble:
    """Read the body of an answer with status 200, of the chat or the completions endpoint."""
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        fix = "check teacher.base_url, which often ends in /v1"
        return Trouble(f"answered with something that is not JSON ({_line(text)})", fix, passing=False)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        error = body.get("error")  # routers send a failed answer under status 200
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and code >= 400 else 500
        return replace(refused(status, error or text, {}), charged=True)
    content, message = choice.get("text"), choice.get("message")
    if isinstance(message, dict):
        content = message.get("content") or message.get("refusal")
    return Reply(_text(content), choice.get("finish_reason") == "length", _usage(body.get("usage")))


def refused(status: int, body: object, headers: Mapping[str, str]) -> Trouble:
    """What an error status means: whether to try again, when, and what to fix."""
    inner = body.get("error", body) if isinstance(body, dict) else body
    fields = inner if isinstance(inner, dict) else {}
    said = f"answered {status} ({_line(fields.get('message') or fields.get('detail') or inner)})"
    if status == 402 or "insufficient_quota" in (fields.get("code"), fields.get("type")):
        return Trouble(said, "add credit at the provider, then run again", passing=False)
    if status in (408, 409, 429) or status >= 500:
        return Trouble(said, wait_s=_retry_after(headers))
    fixes = {
        401: "check the key in the variable that teacher.key_env names",
        403: "check the rights of the key in the variable that teacher.key_env names",
        404: "check teacher.base_url and teacher.model",
    }
    default = "fix what it names; teacher.omit and teacher.max_tokens_field adapt the parameters"
    return Trouble(said, fixes.get(status, default), passing=False)


def _text(content: object) -> str:
    """The text of a content field: a string, null, or a list of typed parts."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(str(part.get("text", "")) for part in parts)
    text = content if isinstance(content, str) else ""
    # half of a surrogate pair (a text cut inside an emoji) cannot be written as UTF-8
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    asked, written, total = (usage.get(f"{what}_tokens") for what in ("prompt", "completion", "total"))
    if not isinstance(asked, int) or not isinstance(written, int):
        return None
    # some servers leave hidden reasoning out of completion_tokens, none leaves it out of the total
    charged = max(written, total - asked) if isinstance(total, int) else written
    details = usage.get("completion_tokens_details")
    hidden = details.get("reasoning_tokens") if isinstance(details, dict) else 0
    return Usage(asked, charged, min(hidden, charged) if isinstance(hidden, int) else 0)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the server says it, None if it says nothing readable."""
    for header, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with suppress(ValueError, KeyError):
            seconds = float(headers[header]) / unit
            if math.isfinite(seconds):
                return max(0.0, seconds)
    with suppress(ValueError, KeyError):
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    return None


def _line(text: object) -> str:
    """Anything as one short line."""
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else line[:299] + "…"
