"""A real HTTP server that thinks before it answers, and puts both on the wire as different servers do.

`deepseek`    DeepSeek's API: `reasoning_content`, blank lines or comments while it thinks
`vllm`        vLLM with a reasoning parser today: `reasoning`, and `reasoning_content` with the same text
`openrouter`  `reasoning` with `reasoning_details`, comments while it thinks
`tags`        a server without a parser: both in the text, in tags
`begun`       the same behind a chat template that opens the tag: the text begins inside
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WIRES = ("deepseek", "vllm", "openrouter", "tags", "begun")


@dataclass(frozen=True)
class Said:
    """What the model behind the server writes; `whole` False: it ran into max_tokens where the text ends."""

    thinking: str
    answer: str
    whole: bool = True


@dataclass
class Server:
    """A running server; `asked` are the bodies of its requests."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def thinking_server(wire: str, say: Callable[[str], Said]) -> Iterator[Server]:
    """Serve completions on the loopback interface until the block ends.

    Args:
        wire: see the module's text.
        say: what to answer to a question.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append(body)
            said = say(body["messages"][-1]["content"])
            streamed = bool(body.get("stream"))
            text = _stream(wire, said) if streamed else _whole(wire, said)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: object) -> None:
            """Keep the test's output clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}/v1")
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def usage_of(said: Said) -> dict[str, Any]:
    """A token is a word; thinking is part of the completion's."""
    thought, answered = len(said.thinking.split()), len(said.answer.split())
    return {
        "prompt_tokens": 20,
        "completion_tokens": thought + answered,
        "total_tokens": 20 + thought + answered,
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def _fields(wire: str, said: Said) -> dict[str, Any]:
    """The parts of a message that hold text."""
    empty = said.answer if said.answer else None
    if wire == "deepseek":
        return {"reasoning_content": said.thinking, "content": empty}
    if wire == "vllm":
        return {"reasoning": said.thinking, "reasoning_content": said.thinking, "content": empty}
    if wire == "openrouter":
        return {"reasoning": said.thinking, "content": said.answer}
    tagged = f"{said.thinking}\n</think>\n\n{said.answer}" if said.answer or said.whole else said.thinking
    return {"content": tagged if wire == "begun" else f"<think>\n{tagged}"}


def _whole(wire: str, said: Said) -> bytes:
    message = {"role": "assistant", **_fields(wire, said)}
    if wire == "openrouter":
        message["reasoning_details"] = [{"type": "reasoning.text", "text": said.thinking}]
    choice = {"index": 0, "message": message, "finish_reason": _reason(said)}
    body = {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage_of(said)}
    return ("\n" * 3 if wire == "deepseek" else "").encode() + json.dumps(body).encode()


def _stream(wire: str, said: Said) -> bytes:
    events: list[dict[str, Any]] = [{"choices": [_delta({"role": "assistant", "content": ""})]}]
    for name, text in _fields(wire, said).items():
        if name != "reasoning_content" or wire == "deepseek":  # vLLM streams the one name
            pieces = [(text or "")[start : start + 3] for start in range(0, len(text or ""), 3)]
            events += [{"choices": [_delta({name: piece})]} for piece in pieces]
    events.append({"choices": [_delta({}) | {"finish_reason": _reason(said)}]})
    if wire == "deepseek":
        events[-1]["usage"] = usage_of(said)
    else:
        events.append({"choices": [], "usage": usage_of(said)})
    comment = ": OPENROUTER PROCESSING\n\n" if wire == "openrouter" else ": keep-alive\n\n"
    lines = [f"data: {json.dumps({'object': 'chat.completion.chunk', **event})}\n\n" for event in events]
    return (comment * 2 + comment.join(lines) + "data: [DONE]\n\n").encode()


def _delta(fields: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "delta": fields, "finish_reason": None}


def _reason(said: Said) -> str:
    return "stop" if said.whole else "length"
