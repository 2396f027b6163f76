"""docs/data.md lists the markers and the questions that the code knows, in its order."""

from __future__ import annotations

from pathlib import Path

from limbeck.tasks.run_on import QUESTIONS
from limbeck.tasks.statements import marker_table

DOCUMENT = Path(__file__).parents[2] / "docs/data.md"


def block(name: str) -> str:
    return DOCUMENT.read_text(encoding="utf-8").split(f"<!-- {name} -->\n")[1].split("\n<!-- end -->")[0]


def test_the_table_of_markers_is_that_of_the_code() -> None:
    assert block("markers") == marker_table()


def test_what_begins_a_question_is_what_the_code_looks_for() -> None:
    assert block("questions") == "\n".join(f"   - {one}" for one in QUESTIONS)
