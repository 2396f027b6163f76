"""An OpenAI-compatible endpoint without sockets, for the tests of teachers behind an API."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai

from limbeck.lm import Prompt, Sampling
from limbeck.lm.api import ApiTeacher
from limbeck.lm.cost import ApiSettings, Prices

PROMPTS = [Prompt(f"p{i}", f"p{i}", f"question {i}") for i in range(6)]
TWO = Sampling(n=2, temperature=0.7, max_tokens=50)
PRICES = Prices(usd_per_million_input=1.0, usd_per_million_output=1000.0)
KEY = "sk-very-secret-0123456789"
Handler = Callable[[httpx2.Request], httpx2.Response]
SERVERS = ThreadPoolExecutor(64)


def settings(**more: Any) -> ApiSettings:
    base = {"base_url": "http://teacher.test/v1", "model": "big", "backoff_s": 0.001, "timeout_s": 5}
    return ApiSettings.model_validate(base | more)


def client(handler: Handler) -> openai.AsyncOpenAI:
    """A client of the endpoint; the handler may block, as a server may."""

    async def handle(request: httpx2.Request) -> httpx2.Response:
        return await asyncio.get_running_loop().run_in_executor(SERVERS, handler, request)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(handle))
    return openai.AsyncOpenAI(base_url="http://teacher.test/v1", api_key=KEY, http_client=http)


def teacher(handler: Handler, **more: Any) -> ApiTeacher:
    return ApiTeacher(settings(**more), client=client(handler))


def answer(text: str | None = "because", tokens: int = 5, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
    return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage} | more


def ok(body: Mapping[str, Any] | None = None) -> httpx2.Response:
    return httpx2.Response(200, json=answer() if body is None else body)


def body_of(request: httpx2.Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.content)
    return body


class Recorder:
    """Answers with what it was asked, and keeps the requests."""

    def __init__(self, responses: list[httpx2.Response] | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self.times: list[float] = []
        self.responses = responses or []
        self.lock = threading.Lock()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        with self.lock:
            self.requests.append(request)
            self.times.append(time.monotonic())
            if self.responses:
                return self.responses.pop(0)
        body = body_of(request)
        said = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        return ok(answer(f"{said} / {body.get('seed')}"))

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body_of(request) for request in self.requests]
