"""An OpenAI-compatible server on loopback, for whole runs with a paid teacher."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def served(
    reply: Callable[[dict[str, Any]], str | bytes | tuple[int, bytes]], models: Sequence[str] = ()
) -> Iterator[str]:
    """The address of a server while it answers.

    Args:
        reply: from a request's body the completion's text, or bytes to send as they are, with their status
            if it is not 200.
        models: the names that it lists.
    """

    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(json.dumps({"object": "list", "data": [{"id": name} for name in models]}).encode())

        def do_POST(self) -> None:
            said = reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, said = said if isinstance(said, tuple) else (200, said)
            self.answer(said if isinstance(said, bytes) else json.dumps(completion(said)).encode(), status)

        def answer(self, answer: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            """Keep the test's output clean."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 256  # connections that come at once

    server = Server(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def completion(text: str) -> dict[str, Any]:
    """The body of an answer."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
    return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}
