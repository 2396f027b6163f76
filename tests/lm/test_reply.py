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
    assert read_reply(body(content)) == Reply(text, False, None, without="" if text else "empty")


def test_a_refusal_is_what_the_teacher_said() -> None:
    message = {"role": "assistant", "content": None, "refusal": "I cannot."}
    choices = [{"finish_reason": "stop", "message": message}]
    assert read_reply(json.dumps({"choices": choices})) == Reply("I cannot.", False, None)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [{}]}}, "tool calls"),
        ({"finish_reason": "content_filter", "message": {"content": ""}}, "content filter"),
        ({"finish_reason": "stop", "message": {"content": None}}, "empty"),
        ({"finish_reason": "stop", "message": {"content": " \n"}}, "empty"),
        (
            {"finish_reason": "stop", "message": {"content": None, "reasoning_content": "So 4."}},
            "thinking without an answer",
        ),
        (
            {"finish_reason": "length", "message": {"content": None, "reasoning": "So 4."}},
            "cut off while thinking",
        ),
        ({"finish_reason": "length", "message": {"content": "<think>So 4."}}, "cut off while thinking"),
        ({"finish_reason": "length", "text": ""}, "cut off before any text"),
        ({"finish_reason": "stop", "message": {"content": "So 4."}}, ""),
    ],
)
def test_why_there_is_no_text(choice: dict[str, Any], reason: str) -> None:
    reply = read_reply(json.dumps({"choices": [choice]}))
    assert isinstance(reply, Reply) and reply.without == reason


def test_a_choice_that_failed_is_tried_again() -> None:
    """Routers say so inside the choice, after what was written so far."""
    choice = {"finish_reason": "error", "message": {"content": "So"}, "error": {"message": "provider down"}}
    trouble = read_reply(json.dumps({"choices": [choice]}))
    assert isinstance(trouble, Trouble) and trouble.passing and trouble.charged
    assert "provider down" in trouble.said


LIES: list[dict[str, Any]] = [
    {"prompt_tokens": 0, "completion_tokens": 0},
    {"prompt_tokens": 9, "completion_tokens": 0},
    {"prompt_tokens": 0, "completion_tokens": 5},
    {"prompt_tokens": -9, "completion_tokens": 5},
    {"prompt_tokens": 9, "completion_tokens": -5},
    {"prompt_tokens": 9, "completion_tokens": 10**400},
    {"prompt_tokens": 10**400, "completion_tokens": 5},
    {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 10**400},
    {"prompt_tokens": True, "completion_tokens": True},
    {"prompt_tokens": 9.0, "completion_tokens": 5.5},
    {"prompt_tokens": 9, "completion_tokens": "5"},
]


@pytest.mark.parametrize("usage", LIES)
def test_a_bill_that_cannot_be_right_is_no_bill(usage: dict[str, Any]) -> None:
    reply = read_reply(body(usage=usage))
    assert isinstance(reply, Reply) and reply.usage is None and reply.doubted


@pytest.mark.parametrize("hidden", [-5, 10**400, True, "80", 0.5])
def test_hidden_tokens_are_part_of_the_charged_ones(hidden: object) -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "completion_tokens_details": {"reasoning_tokens": hidden},
    }
    reply = read_reply(body(usage=usage))
    assert isinstance(reply, Reply) and reply.usage is not None
    assert reply.usage.hidden_tokens == (5 if hidden == 10**400 else 0)


def test_a_long_text_has_more_than_one_token() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 1}
    reply = read_reply(body("so " * 100, usage=usage))
    assert isinstance(reply, Reply) and reply.usage is None and reply.doubted


def test_length_means_truncated_at_both_endpoints() -> None:
    chat = {"finish_reason": "length", "message": {"content": None}}
    plain = {"finish_reason": "length", "text": "half"}
    assert read_reply(json.dumps({"choices": [chat]})) == Reply(
        "", True, None, without="cut off before any text"
    )
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
        # hidden reasoning inside completion_tokens, and next to it
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


@pytest.mark.parametrize(
    "text", ["<html>Welcome</html>", "", "[1]", "null", '{"choices": [{"mess', "[" * 10**5]
)
def test_what_is_no_answer_is_tried_again_and_may_be_charged(text: str) -> None:
    trouble = read_reply(text)
    assert isinstance(trouble, Trouble) and trouble.passing and trouble.charged
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


@pytest.mark.parametrize(
    ("status", "headers", "charged"),
    [
        (400, {}, False),
        (401, {}, False),
        (429, {}, False),
        (503, {"retry-after": "1"}, False),
        (529, {"retry-after": "1"}, False),
        (503, {}, True),
        (408, {}, True),
        (500, {}, True),
        (502, {}, True),
        (504, {"retry-after": "1"}, True),
    ],
)
def test_what_a_gateway_gave_up_may_be_charged(status: int, headers: dict[str, str], charged: bool) -> None:
    assert refused(status, "", headers).charged is charged


def test_numbers_in_complaints_are_bounded() -> None:
    trouble = read_reply(json.dumps({"error": {"code": 10**400, "message": "no"}}))
    assert isinstance(trouble, Trouble) and trouble.said == "answered 500 (no)"
    waits = [
        refused(429, {}, {"retry-after": text}).wait_s
        for text in ("1e300", "1e999", "Mon, 01 Jan 9999 00:00:00 GMT")
    ]
    assert waits == [365 * 86_400, None, 365 * 86_400]


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
