"""A reply to a mistake is read strictly: both parts, once, in order."""

from __future__ import annotations

import pytest

from limbeck.tasks.feedback import PLACES as FEEDBACK_PLACES
from limbeck.tasks.feedback import TEMPLATE, instruction, read, reply
from limbeck.tasks.templates import Template


@pytest.mark.parametrize(
    "text",
    [
        "Mistake: it adds 5.\nSolution: 3 + 4 = 7.\nThe answer is 7.",
        "Let us see.\n\n**Mistake:** it adds 5.\n\n**Solution:** 3 + 4 = 7.\nThe answer is 7.",
        "## mistake:\nit adds 5.\n\n## SOLUTION:\n3 + 4 = 7.\nThe answer is 7.\n",
        "1. Mistake: it adds 5.\n2. Solution: 3 + 4 = 7.\nThe answer is 7.",
        "- Mistake: it adds 5.\n- **Solution**: 3 + 4 = 7.\nThe answer is 7.",
        "> Mistake: it adds 5.\n> Solution: 3 + 4 = 7.\nThe answer is 7.",
        "### Mistake\nit adds 5.\n### Solution\n3 + 4 = 7.\nThe answer is 7.",
        "**Mistake: it adds 5.**\n**Solution: 3 + 4 = 7.\nThe answer is 7.**",
    ],
)
def test_both_parts_are_found(text: str) -> None:
    found = read(text)
    assert found is not None
    assert (found.said, found.solution) == ("it adds 5.", "3 + 4 = 7.\nThe answer is 7.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3 + 4 = 7. The answer is 7.",
        "Mistake: it adds 5.",
        "Solution: 3 + 4 = 7. The answer is 7.",
        "Solution: 3 + 4 = 7.\nMistake: it adds 5.",
        "Mistake: it adds 5.\nSolution:",
        "Mistake:\nSolution: 3 + 4 = 7. The answer is 7.",
        "Mistake: a.\nMistake: b.\nSolution: 7",
        "Mistake: a.\nSolution: 7\nSolution: 8",
        "The student's mistake: it adds 5. The solution: 7",
    ],
)
def test_anything_else_is_no_reply(text: str) -> None:
    assert read(text) is None


def test_a_reply_is_read_as_it_was_written() -> None:
    found = read(reply("it adds 5.", "3 + 4 = 7.\nThe answer is 7."))
    assert found is not None and (found.said, found.solution) == (
        "it adds 5.",
        "3 + 4 = 7.\nThe answer is 7.",
    )


def test_the_template_has_its_places_and_the_instruction_names_the_answer() -> None:
    assert Template.read(TEMPLATE, FEEDBACK_PLACES).names == set(FEEDBACK_PLACES)
    assert "where X is the letter of the right choice" in instruction("choice")
    assert "word for word: left, right" in instruction("label", ["left", "right"])
    assert read(instruction("number")) is None, "its own words are no reply"
