"""Reading answers takes linear time: texts that cost quadratic time, or very much, before."""

import time
from collections.abc import Callable

import pytest

from limbeck.audit import audit
from limbeck.lm import Completion
from limbeck.rationales import false_equations, grade, mark_dropped
from limbeck.records import Problem
from limbeck.tasks.answers import KINDS, extract, split_answer
from limbeck.tasks.numbers import guess_number, state_number
from limbeck.tasks.options import options_in

SECONDS = 1.5
"""Of processor time, for each step; this code needs a third at most."""

N = 50_000
TEXTS = {
    "equations in a row": " = ".join(map(str, range(N))),
    "sums": "1 + 2 = 3 " * (N // 3),
    "numbers in brackets that stay open": "(1 " * N,
    "therefore": "therefore, " * 2_000,
    "and now therefore": "and now, therefore that " * 2_000,
    "groups of digits": ",".join(["123"] * (N // 5)),
    "boxes": "\\boxed{" * 4_000,
    "blank lines": "\n" * N,
    "ends of turns": "</s>\n" * 4 * N,
    "two numbers": "The answer is 5 or 7. " * (N // 5),
    "formulas": "\\[ x = \\boxed{5} " * (N // 5),
}


def seconds(work: Callable[[], object]) -> float:
    clock = time.process_time()
    work()
    return time.process_time() - clock


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_is_graded_in_linear_time(text: str) -> None:
    problem = Problem(id="p", question="q?", answer="7")
    for kind in KINDS:
        options = ("red", "blue") if kind == "choice" else ()
        assert seconds(lambda kind=kind, options=options: extract(kind, text, options)) < SECONDS  # type: ignore[misc]
        assert seconds(lambda kind=kind, options=options: split_answer(kind, text, options)) < SECONDS  # type: ignore[misc]

    def graded() -> None:
        found = grade([problem], "number", [Completion("p", 0, text)], "s")
        audit(mark_dropped(found), [problem], "number")
        false_equations(text)

    assert seconds(graded) < SECONDS


SHAPES = r"""(
.
!x
".
1,
1 2 
a=
red or blue, 
(A) 
the answer is 
the answer is not 
if the answer is 5 
A: ~
Q: a~
the answer is 5. Q: 
18 is the answer. 
### Answer~
<answer>
\boxed{
--> 
one hundred 
check 
$x$ 
\("""
MILLION = {
    shape: (shape.replace("~", "\n") * (1_000_000 // len(shape) + 1))[:1_000_000]
    for shape in SHAPES.split("\n")
}
MILLION["blank lines"] = "\n" * 1_000_000
MILLION["one statement of brackets"] = "The answer is " + "(" * 1_000_000
MILLION["one statement of spaces"] = "The answer is 5 *" + " " * 1_000_000 + "x"
MILLION["one statement of numbers"] = "The answer is that " + "1 " * 500_000


@pytest.mark.parametrize("text", MILLION.values(), ids=MILLION)
def test_a_million_characters_are_read_within_a_second(text: str) -> None:
    """About 0.3 s at most; a limit of a second and a half leaves room for a slower machine."""
    for kind in ("number", "choice", "label"):
        options = () if kind == "number" else ("red", "blue")
        assert seconds(lambda k=kind, o=options: extract(k, text, o)) < SECONDS, kind  # type: ignore[misc]


def test_options_after_many_blank_lines_are_read_in_linear_time() -> None:
    assert seconds(lambda: options_in("\n" * 30_000 + "Which?")) < SECONDS
    assert options_in("Which?" + "\n" * 9 + "A. red\n\n  B) blue") == ("red", "blue")


def test_what_is_read_is_as_before() -> None:
    assert state_number("5 - 3 = 2", ()) == "2"
    assert guess_number("(3) and (4)", ()) == "4"
    assert guess_number("3 * 5 = 15. So she has 15 apples in all 3 bags.", ()) == "15"
    assert guess_number("3 * 5 = 15. She needs 3 of 4 bags.", ()) == "4"
    assert extract("number", "So, therefore, the answer is 12.").answer == "12"
    assert split_answer("number", "2 + 3 = 5. So, therefore, the answer is 5.") == ("2 + 3 = 5.", "5")
    assert false_equations("1,000 + 1 = 1,002; in 2020,3+4=8") == ["1,000 + 1 = 1,002", "3+4=8"]
