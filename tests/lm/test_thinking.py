"""Teachers that think, behind real servers: their thinking is paid for, kept, and apart from the answer."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import TeacherError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm.api import ApiTeacher, open_teacher
from limbeck.lm.cost import ApiSettings, Prices, exact, tokens_at_most
from limbeck.lm.remember import Remembered, ledger_of
from limbeck.lm.reply import Reply, Trouble, read_reply
from limbeck.lm.stream import assembled, is_stream

from .endpoint import KEY
from .reasoning import WIRES, Said, thinking_server, usage_of

pytest.importorskip("openai", reason="the extra `api` is not installed")

PROMPTS = [Prompt(f"p{number}", f"p{number}", f"question {number}") for number in range(4)]
ONE = Sampling(max_tokens=50)
PRICES = Prices(usd_per_million_input=1.0, usd_per_million_output=1000.0)
WHOLE = Said("It is even.\n\nWait, is it? Yes\u2028🙂.", "Even. The answer is yes.")
BARE = Said("It is even, so yes.", "The answer is yes.")
CUT = Said("It is even, but then", "", whole=False)


def settings(url: str, **more: Any) -> ApiSettings:
    return ApiSettings.model_validate(
        {"base_url": url, "model": "thinker", "backoff_s": 0.001, "timeout_s": 20, "prices": PRICES} | more
    )


def shown(completion: Completion) -> tuple[str, str, int, bool]:
    return completion.thinking, completion.text, completion.tokens, completion.truncated


@pytest.mark.parametrize("stream", [False, True], ids=["at once", "streamed"])
@pytest.mark.parametrize("wire", WIRES)
def test_thinking_is_kept_apart_from_the_answer(tmp_path: Path, wire: str, stream: bool) -> None:
    """The same from every server, in the memory too, and all of it is on the bill once."""
    log = tmp_path / "log.jsonl"
    with thinking_server(wire, lambda _: WHOLE) as server:
        got = list(open_teacher(settings(server.url, stream=stream), log)(PROMPTS, ONE))
        again = list(open_teacher(settings(server.url, stream=not stream), log)(PROMPTS, ONE))
    assert len(server.asked) == 4, "streaming changes no answer, so nothing is asked again"
    assert [bool(body.get("stream")) for body in server.asked] == [stream] * 4
    bill = usage_of(WHOLE)
    for one in got:
        assert shown(one) == (WHOLE.thinking, WHOLE.answer, bill["completion_tokens"], False)
        assert exact(one.cost_usd) == PRICES.exact(20, bill["completion_tokens"])
    assert sorted(again, key=lambda one: one.prompt_id) == sorted(got, key=lambda one: one.prompt_id)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(line["thinking"], line["text"]) for line in lines} == {(WHOLE.thinking, WHOLE.answer)}


@pytest.mark.parametrize("stream", [False, True], ids=["at once", "streamed"])
@pytest.mark.parametrize("wire", WIRES)
def test_what_is_cut_off_while_thinking_is_counted_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wire: str, stream: bool
) -> None:
    """Paid for, kept, and no answer: not even where it could be read as one."""
    with thinking_server(wire, lambda _: CUT) as server, caplog.at_level(logging.WARNING):
        got = list(open_teacher(settings(server.url, stream=stream), tmp_path / "log.jsonl")(PROMPTS, ONE))
    assert all(one.truncated for one in got)
    if wire == "begun":  # nothing in it says that it is thinking; being cut off, it is never trained on
        assert {shown(one)[:2] for one in got} == {("", CUT.thinking)}
        return
    assert {shown(one)[:2] for one in got} == {(CUT.thinking, "")}
    said = [record.getMessage() for record in caplog.records]
    assert "answers without text, kept and not asked for again: 4 (4 × cut off while thinking)" in said[-1]
    ledger = ledger_of(tmp_path / "log.jsonl")
    assert "4 have no text (4 × cut off while thinking)" in str(ledger)
    assert ledger.paid == 4 * PRICES.exact(20, usage_of(CUT)["completion_tokens"])


@pytest.mark.parametrize("stream", [False, True], ids=["at once", "streamed"])
def test_the_cap_holds_for_thinking(tmp_path: Path, stream: bool) -> None:
    """Thinking is output: the cap allows so many answers, and what they cost stays below it."""
    from limbeck.errors import CostCapError

    worst = PRICES.exact(tokens_at_most("question 0"), 50)
    with thinking_server("deepseek", lambda _: WHOLE) as server:
        cap = settings(server.url, stream=stream, max_cost_usd=float(worst * 2), concurrency=1)
        memory = open_teacher(cap, tmp_path / "log.jsonl")
        with pytest.raises(CostCapError):
            list(memory([Prompt(f"p{number}", f"p{number}", "question 0") for number in range(90)], ONE))
        paid = PRICES.exact(20, usage_of(WHOLE)["completion_tokens"]) * len(server.asked)
    assert 2 < len(server.asked) < 90
    assert worst < memory.ledger.paid == paid <= 2 * worst


def test_a_key_in_the_thinking_is_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with thinking_server("vllm", lambda _: Said(f"I was sent {KEY}.", "No.")) as server:
        [got] = open_teacher(settings(server.url, key_env="TEACHER_KEY"), tmp_path / "log.jsonl")(
            PROMPTS[:1], ONE
        )
    assert got.thinking == "I was sent [key]."
    assert KEY not in (tmp_path / "log.jsonl").read_text()


def test_a_memory_of_before_reads_as_it_was_and_a_new_line_without_thinking_is_an_old_one(
    tmp_path: Path,
) -> None:
    with thinking_server("tags", lambda _: Said("", "Yes.")) as server:
        list(open_teacher(settings(server.url), tmp_path / "log.jsonl")(PROMPTS, ONE))
    names = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0]).keys()
    assert not {"thinking", "stopped"} & names


# stop strings


RUN_ON = Said("One.\n\nTwo.", "Even. The answer is yes.\n\nQ: Is 4 even?")


@pytest.mark.parametrize("omit", [(), ("stop",)], ids=["sent", "not sent"])
@pytest.mark.parametrize("wire", WIRES)
def test_a_server_that_does_not_stop_is_cut(tmp_path: Path, wire: str, omit: tuple[str, ...]) -> None:
    """At the stop string, which is not part of the text and never ends the thinking; it is stored."""
    with thinking_server(wire, lambda _: RUN_ON) as server:
        own = settings(server.url, stop="\n\nQ:", omit=omit)
        got = list(open_teacher(own, tmp_path / "log.jsonl")(PROMPTS, ONE))
        again = list(open_teacher(own, tmp_path / "log.jsonl")(PROMPTS, ONE))
    assert [body.get("stop") for body in server.asked] == [None if omit else ["\n\nQ:"]] * 4
    for one in (*got, *again):
        assert (one.thinking, one.text, one.stopped) == ("One.\n\nTwo.", "Even. The answer is yes.", "\n\nQ:")


def test_stop_strings_are_part_of_the_key_where_they_are_set(tmp_path: Path) -> None:
    with thinking_server("tags", lambda _: RUN_ON) as server:
        teacher = ApiTeacher(settings(server.url))
        memory = Remembered(teacher, tmp_path / "log.jsonl", key=teacher.identity, ask=teacher.ask)
        list(memory(PROMPTS, ONE))
        assert not memory.missing(PROMPTS, replace(ONE, stop=()))
        stopping = replace(ONE, stop=("\n\n",))
        assert len(memory.missing(PROMPTS, stopping)) == 4
        assert {one.text for one in memory(PROMPTS, stopping)} == {"Even. The answer is yes."}
        assert server.asked[-1]["stop"] == ["\n\n"]


def test_a_text_that_ran_on_to_the_last_token_is_whole_up_to_its_stop_string() -> None:
    choice = {"finish_reason": "length", "message": {"content": "So 4.\nQ: and then"}}
    reply = read_reply(json.dumps({"choices": [choice]}), stops=["\nQ:"])
    assert reply == Reply("So 4.", False, None, stopped="\nQ:")


@pytest.mark.parametrize(("reason", "stopped"), [("\nQ:", "\nQ:"), ("other", ""), (None, ""), (151645, "")])
def test_a_server_may_say_where_it_stopped(reason: object, stopped: str) -> None:
    choice = {"finish_reason": "stop", "stop_reason": reason, "message": {"content": "So 4."}}
    assert read_reply(json.dumps({"choices": [choice]}), stops=["\nQ:"]) == Reply(
        "So 4.", False, None, stopped=stopped
    )


# what servers say in other forms


def test_thinking_as_parts_of_the_content() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "2 and 2"}]},
        {"type": "text", "text": "So 4."},
    ]
    choice = {"finish_reason": "stop", "message": {"content": parts}}
    assert read_reply(json.dumps({"choices": [choice]})) == Reply("So 4.", False, None, thinking="2 and 2")


def test_thinking_in_a_field_and_in_the_text_is_kept_once() -> None:
    message = {"reasoning": "2 and 2", "content": "<think>2 and 2</think>So 4."}
    reply = read_reply(json.dumps({"choices": [{"finish_reason": "stop", "message": message}]}))
    assert reply == Reply("So 4.", False, None, thinking="2 and 2")


def test_a_bill_that_leaves_long_thinking_out_cannot_be_right() -> None:
    message = {"reasoning_content": "so " * 1000, "content": "4"}
    usage = {"prompt_tokens": 9, "completion_tokens": 1}
    body = {"choices": [{"finish_reason": "stop", "message": message}], "usage": usage}
    reply = read_reply(json.dumps(body))
    assert isinstance(reply, Reply) and reply.usage is None and reply.doubted


# streams


def events(*bodies: Any, end: str = "data: [DONE]\n\n") -> str:
    return "".join(f"data: {json.dumps(body)}\n\n" for body in bodies) + end


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def test_a_stream_at_the_completions_endpoint() -> None:
    parts = [{"choices": [{"text": "So "}]}, {"choices": [{"text": "4.", "finish_reason": "length"}]}]
    assert read_reply(events(*parts)) == Reply("So 4.", True, None)


def test_other_choices_lines_and_line_ends_are_no_part_of_it() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]}
    text = events(delta(content="So\u2028"), other, delta(content="4."), END)
    text = "event: message\nid: 3\n" + text.replace("\n", "\r\n")
    assert is_stream(text) and read_reply(text) == Reply("So\u20284.", False, None)


def test_half_an_emoji_in_each_event_is_a_whole_one() -> None:
    assert read_reply(events(delta(content="\ud83d"), delta(content="\ude42"), END)) == Reply(
        "🙂", False, None
    )


@pytest.mark.parametrize(
    "text",
    [
        events(delta(content="So"), end=""),
        events(delta(content="So"), end='data: {"choices": [{"index": 0, "del'),
        events(delta(content="So"), ["no event"], END),
        ": keep-alive\n\n",
    ],
    ids=["no end", "half an event", "no event", "nothing"],
)
def test_a_stream_that_broke_off_is_tried_again_and_may_be_charged(text: str) -> None:
    assert assembled(text) is None
    trouble = read_reply(text)
    assert isinstance(trouble, Trouble) and trouble.passing and trouble.charged
    assert "broke its stream off" in trouble.said


@pytest.mark.parametrize("bodies", [[{"error": {"message": "overloaded", "code": 503}}], []])
def test_an_error_in_a_stream_is_an_error(bodies: list[Any]) -> None:
    trouble = read_reply(events(*bodies))
    assert isinstance(trouble, Trouble) and trouble.charged
    late = read_reply(events(delta(content="So"), *bodies, end="")) if bodies else trouble
    assert isinstance(late, Trouble) and late.charged


def test_a_broken_stream_counts_at_its_worst_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from . import reasoning

    monkeypatch.setattr(reasoning, "_stream", lambda wire, said: events(delta(content="So"), end="").encode())
    with thinking_server("vllm", lambda _: WHOLE) as server:
        memory = open_teacher(settings(server.url, stream=True, retries=1), tmp_path / "log.jsonl")
        with pytest.raises(TeacherError, match="broke its stream off"):
            list(memory(PROMPTS[:1], ONE))
        again = open_teacher(
            settings(server.url, max_cost_usd=1.0), tmp_path / "log.jsonl", say=lambda _: None
        )
        held = again._complete.spent_usd  # type: ignore[attr-defined]
    assert Fraction(repr(held)) == 2 * PRICES.exact(tokens_at_most("question 0"), 50)
