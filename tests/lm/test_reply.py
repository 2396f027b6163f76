"""What compatible servers say, in all the ways they say it."""

import json
import time
from email.utils import formatdate
from typing import Any

import pytest

from limbeck.lm.reply import Reply, Trouble, Usage, read_reply, refused


def body(content: Any = "because", **more: Any) -> str:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    return json.dumps({"choices": [choice]} | more)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("So 4.", "So 4."),
        (None, ""),
        ("", ""),
        ([{"type": "thinking"}, {"type": "text", "text": "So "}, {"type": "text", "text": "4."}], "So 4."),
        ("cut inside \ud83d", "cut inside \ufffd"),
        ("whole 🙂", "whole 🙂"),
    ],
)
def test_the_text_of_a_chat_answer(content: Any, text: str) -> None:
    assert read_reply(body(content)) == Reply(text, False, None)


def test_a_refusal_is_what_the_teacher_said() -> None:
    message = {"role": "assistant", "content": None, "refusal": "I cannot."}
    choices = [{"finish_reason": "stop", "message": message}]
    assert read_reply(json.dumps({"choices": choices})) == Reply("I cannot.", False, None)


def test_length_means_truncated_at_both_endpoints() -> None:
    chat = {"finish_reason": "length", "message": {"content": None}}
    plain = {"finish_reason": "length", "text": "half"}
    assert read_reply(json.dumps({"choices": [chat]})) == Reply("", True, None)
    assert read_reply(json.dumps({"choices": [plain]})) == Reply("half", True, None)


REASONED = {
    "prompt_tokens": 10,
    "total_tokens": 110,
    "completion_tokens_details": {"reasoning_tokens": 80},
}


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110}, Usage(10, 100)),
        ({"prompt_tokens": 10, "completion_tokens": 100}, Usage(10, 100)),
        # hidden reasoning inside completion_tokens, and beside it
        (REASONED | {"completion_tokens": 100}, Usage(10, 100, 80)),
        (REASONED | {"completion_tokens": 20}, Usage(10, 100, 80)),
        ({"prompt_tokens": 10, "completion_tokens": 20, "completion_tokens_details": None}, Usage(10, 20)),
        ({"prompt_tokens": 10, "completion_tokens": None}, None),
        ({}, None),
        (None, None),
    ],
)
def test_reasoning_is_charged_as_output(usage: Any, read: Usage | None) -> None:
    reply = read_reply(body(usage=usage))
    assert isinstance(reply, Reply) and reply.usage == read


@pytest.mark.parametrize("text", ["<html>Welcome</html>", "", "[1]", "null"])
def test_what_is_no_answer_is_final(text: str) -> None:
    trouble = read_reply(text)
    assert isinstance(trouble, Trouble) and not trouble.passing
    assert "base_url" in trouble.fix


@pytest.mark.parametrize(
    ("code", "passing"), [(502, True), (429, True), (None, True), ("overloaded", True), (401, False)]
)
def test_an_error_under_status_200_is_an_error(code: object, passing: bool) -> None:
    """Routers answer so when the model behind them fails; it may be on the bill."""
    trouble = read_reply(json.dumps({"error": {"code": code, "message": "provider down"}}))
    assert isinstance(trouble, Trouble) and trouble.passing is passing and trouble.charged
    assert "provider down" in trouble.said


@pytest.mark.parametrize("choices", [None, [], "none", [None]])
def test_an_answer_without_a_choice_is_tried_again(choices: Any) -> None:
    trouble = read_reply(json.dumps({"choices": choices}))
    assert isinstance(trouble, Trouble) and trouble.passing


@pytest.mark.parametrize(
    ("status", "body", "said", "fix"),
    [
        (400, {"error": {"message": "Unsupported: 'seed'"}}, "400 (Unsupported: 'seed')", "teacher.omit"),
        (401, {"message": "bad key"}, "401 (bad key)", "check the key"),
        (402, {"message": "Insufficient Balance"}, "402 (Insufficient Balance)", "add credit"),
        (403, {"message": "no"}, "403 (no)", "rights"),
        (404, {"detail": "no such model"}, "404 (no such model)", "teacher.model"),
        (422, "two\nlines", "422 (two lines)", "fix what it names"),
        (429, {"message": "quota", "code": "insufficient_quota"}, "429 (quota)", "add credit"),
    ],
)
def test_a_refusal_is_final_and_says_the_fix(status: int, body: object, said: str, fix: str) -> None:
    trouble = refused(status, body, {})
    assert not trouble.passing
    assert said in trouble.said and fix in trouble.fix


def test_long_complaints_are_cut() -> None:
    assert len(refused(400, "x" * 10_000, {}).said) < 350


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "12"}, 12),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_the_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert refused(429, {}, headers).wait_s == seconds


def test_a_wait_until_a_date() -> None:
    wait = refused(503, {}, {"retry-after": formatdate(time.time() + 100, usegmt=True)}).wait_s
    assert wait is not None and 95 < wait <= 100
