"""Answers of mathematics, compared through math-verify."""

from __future__ import annotations

import importlib.util
import threading
import time

import pytest

from limbeck.errors import InputError
from limbeck.tasks import verifying
from limbeck.tasks.answers import canonical, extract, same, split_answer

verified = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="the extra math is not installed"
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So $x = 3$. The answer is $\\boxed{\\frac{4}{3}}$.", "\\frac{4}{3}"),
        ("The answer is $\\frac43$.", "\\frac43"),
        ("The answer is \\(90^\\circ\\).", "90^\\circ"),
        ("The answer is 2\\sqrt{3}.", "2\\sqrt{3}"),
        ("The answer is (1, 2].", "(1, 2]"),
        ("Adding gives $2x = 8$, so $x = 4$.", "4"),
        ("That makes 12 in all.", "12"),
        ("The answer is undefined.", "undefined"),
        ("The answer is no solution.", "no solution"),
        ("It has none. \\boxed{\\text{no solution}}", "\\text{no solution}"),
        ("\\text{no solution}", "\\text{no solution}"),
        ("The answer is $\\boxed{\\text{cannot be determined}}$.", "\\text{cannot be determined}"),
        ("The answer is unknown.", None),
        ("The answer cannot be determined, so the answer is: not enough information.", None),
        ("The answer is $\\text{even}$.", "\\text{even}"),
        ("Hm.", None),
        ("\\boxed{" + "1+" * 400 + "1}", None),
    ],
)
def test_reading(text: str, answer: str | None) -> None:
    assert extract("math", text).answer == answer


def test_reasoning_has_no_statement() -> None:
    assert split_answer("math", "Since $2x = 8$, $x = 4$. The answer is $\\boxed{4}$.") == (
        "Since $2x = 8$, $x = 4$.",
        "4",
    )


@verified
@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        ("4/3", "\\frac43", True),
        ("\\frac{8}{6}", "$\\frac43$", True),
        ("1.3", "\\frac43", False),
        ("90", "90^\\circ", True),
        ("90^{\\circ}", "90^\\circ", True),
        ("\\$32,348", "\\$32,\\!348", True),
        ("32348", "\\$32,\\!348", True),
        ("10%", "10\\%", True),
        ("0.1", "10\\%", True),
        ("12", "10\\%", False),
        ("\\sqrt{12}", "2\\sqrt{3}", True),
        ("(1,2]", "(1, 2]", True),
        ("Even", "\\text{even}", True),
        ("odd", "\\text{even}", False),
        ("\\frac{", "5", False),
        ("no solution", "\\text{No solution}", True),
        ("no solution", "\\text{undefined}", False),
    ],
)
def test_comparing(answer: str, gold: str, equal: bool) -> None:
    assert same("math", answer, gold) is equal


@verified
def test_gold_must_be_an_expression() -> None:
    assert canonical("math", " $\\frac43$. ") == "\\frac43"
    for gold in ("", "$$", "\\frac{"):
        with pytest.raises(ValueError, match="not a mathematical expression"):
            canonical("math", gold)


@verified
def test_what_takes_too_long_is_stopped_and_the_next_comparison_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert same("math", "7", "7.0"), "the process is up"
    monkeypatch.setattr(verifying, "SECONDS", 1.0)
    clock = time.monotonic()
    assert not same("math", "9^{9^{9^{9}}}", "8^{8^{8^{8}}}+1")
    assert time.monotonic() - clock < 60
    monkeypatch.setattr(verifying, "SECONDS", 30.0)
    assert same("math", "14/2", "7")


@verified
def test_in_another_thread() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(same("math", "22/7", "\\frac{22}{7}")))
    thread.start()
    thread.join()
    assert found == [True]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'limbeck\[math\]'"):
        same("math", "0.333333", "\\frac{1}{3}")
