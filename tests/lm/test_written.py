"""What was written is taken apart in one place: thinking, answer, stop string."""

from __future__ import annotations

import pytest

from limbeck.lm import Completion
from limbeck.lm.written import Written, apart, cut, read_written, separated, whole


@pytest.mark.parametrize(
    ("raw", "opened", "thinking", "answer"),
    [
        ("So 4.", False, "", "So 4."),
        ("<think>\n2 and 2\n</think>\n\nSo 4.", False, "2 and 2", "So 4."),
        ("\n<think>2 and 2</think>So 4.", False, "2 and 2", "So 4."),
        ("<think>\n\n</think>\n\nSo 4.", False, "", "So 4."),
        # the chat template opened it
        ("2 and 2\n</think>\n\nSo 4.", False, "2 and 2", "So 4."),
        ("2 and 2\n</think>\n\nSo 4.", True, "2 and 2", "So 4."),
        ("<think>\n2 and 2\n</think>So 4.", True, "2 and 2", "So 4."),
        # it was not closed
        ("<think>\n2 and 2, so 4", False, "2 and 2, so 4", ""),
        ("2 and 2, so 4", True, "2 and 2, so 4", ""),
        ("<think>2 and 2</think>So 4. <think>Or is it", False, "2 and 2\nSo 4.\nOr is it", ""),
        ("", True, "", ""),
        # several times: what follows the last one is the answer
        ("<think>2</think>First.<think>and 2</think>So 4.", False, "2\nFirst.\nand 2", "So 4."),
        ("2 and 2</think>\n</think>So 4.", True, "2 and 2", "So 4."),
    ],
)
def test_thinking_and_answer(raw: str, opened: bool, thinking: str, answer: str) -> None:
    assert apart(raw, opened=opened) == (thinking, answer)
    assert read_written(raw, opened=opened) == Written(thinking, answer)


@pytest.mark.parametrize(
    ("raw", "stops", "left", "stopped"),
    [
        ("So 4.\n\nQ: What", ["\nQ:"], "So 4.\n", "\nQ:"),
        ("So 4.", ["\nQ:"], "So 4.", ""),
        ("So 4. END more END", ["END"], "So 4. ", "END"),
        ("a b c", ["c", "b"], "a ", "b"),
        # the one that is complete first, whatever a model writes at once
        ("xabcy", ["abc", "b"], "xa", "b"),
        ("xabcy", ["bc", "abc"], "x", "abc"),
        ("Q: at once", ["Q:"], "", "Q:"),
    ],
)
def test_a_text_ends_before_its_first_stop_string(
    raw: str, stops: list[str], left: str, stopped: str
) -> None:
    assert cut(raw, stops) == (left, stopped)


@pytest.mark.parametrize("opened", [False, True])
def test_stop_strings_do_not_end_thinking(opened: bool) -> None:
    """A blank line is a usual stop string, and thinking is full of them."""
    raw = "2.\n\nAnd 2.\n</think>\nSo 4.\n\nQ: What"
    raw = raw if opened else f"<think>\n{raw}"
    assert read_written(raw, ["\n\n"], opened=opened) == Written("2.\n\nAnd 2.", "So 4.", "\n\n")
    assert read_written("2</think>\n\nSo 4.", ["\n\n"], opened=opened) == Written("2", "So 4.", "")
    assert read_written("2.\n\nAnd", ["\n\n"], opened=True) == Written("2.\n\nAnd", "", "")


def test_a_text_that_was_kept_whole_is_taken_apart_later() -> None:
    kept = Completion("p", 0, "<think>2 and 2</think>So 4.", 9, True, 0.5)
    assert separated(kept) == Completion("p", 0, "So 4.", 9, True, 0.5, thinking="2 and 2")
    for one in (Completion("p", 0, "So 4."), Completion("p", 0, "a </think> b", thinking="known")):
        assert separated(one) is one


def test_a_student_writes_what_is_read_back() -> None:
    assert apart(whole("2 and\n2", "So 4.")) == ("2 and\n2", "So 4.")
    assert whole("", "So 4.") == "So 4."
