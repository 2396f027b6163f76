"""A streamed answer of an OpenAI-compatible server, put together as if it had come in one piece.

Some servers only stream reasoning models, and some proxies cut a connection that is silent for as long as
such a model thinks. The stream is read whole, so all that follows is the same for both. Pure functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_LINE_END = re.compile(r"\r\n|\n|\r")  # not splitlines: texts hold U+2028
_FIELDS = ("data:", "event:", "id:", "retry:", ":")
_PIECES = ("reasoning_content", "reasoning", "refusal")
_DONE = "[DONE]"


def is_stream(text: str) -> bool:
    """Whether a body is a stream of server-sent events."""
    return text.lstrip().startswith(_FIELDS)


def assembled(text: str) -> dict[str, Any] | None:
    """The body that the server would have sent without streaming; None for a stream that broke off.

    Only the first choice is read. An event that reports an error becomes the whole answer.
    """
    message: dict[str, Any] = {}
    choice: dict[str, Any] = {"finish_reason": None}
    body: dict[str, Any] = {"choices": [], "usage": None}
    for event in _events(text):
        if event == _DONE:
            return body
        if not isinstance(event, dict):
            return None
        if event.get("error"):
            return {"error": event["error"]}
        body["usage"] = event.get("usage") or body["usage"]
        choices = event.get("choices")
        for part in choices if isinstance(choices, list) else ():
            if isinstance(part, dict) and not part.get("index"):
                body["choices"] = [choice]
                _add(choice, message, part)
    return None if choice["finish_reason"] is None else body


def _events(text: str) -> Iterator[Any]:
    """The data of every event, read as JSON; None where it is none."""
    for line in _LINE_END.split(text):
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == _DONE:
            yield _DONE
            return
        try:
            yield json.loads(data)
        except (ValueError, RecursionError):
            yield None


def _add(choice: dict[str, Any], message: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add what one event says of the choice."""
    for name in ("finish_reason", "stop_reason", "error"):
        if part.get(name) is not None:
            choice[name] = part[name]
    if isinstance(part.get("text"), str):
        choice["text"] = choice.get("text", "") + part["text"]
    delta = part.get("delta")
    if not isinstance(delta, dict):
        return
    choice["message"] = message
    for name in _PIECES:
        if isinstance(delta.get(name), str):
            message[name] = message.get(name, "") + delta[name]
    if delta.get("tool_calls"):
        message["tool_calls"] = delta["tool_calls"]
    content = delta.get("content")
    if content:
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        message["content"] = message.get("content", []) + parts
