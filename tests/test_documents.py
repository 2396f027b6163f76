"""The worked examples of docs/architecture.md, run as they stand there."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = Path(__file__).parent.parent / "docs" / "architecture.md"
BLOCK = re.compile(r"```(\w+) (file|run)=(\S+)\n(.*?)```", re.DOTALL)
BLOCKS = [found.groups() for found in BLOCK.finditer(DOCUMENT.read_text(encoding="utf-8"))]
COMMANDS = {name: text for _, what, name, text in BLOCKS if what == "run"}


def test_there_is_an_example_of_each() -> None:
    assert COMMANDS.keys() == {"task", "loss", "method"}


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_every_table_is_whole(path: Path) -> None:
    """A blank line inside a table makes its lower part plain text, as once in the README's speed table."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        lines = table.splitlines()
        assert len(lines) > 2 and re.fullmatch(r"\|[-:| ]+\|", lines[1]), f"{path.name}: {lines[0]}"


@pytest.mark.parametrize("example", COMMANDS)
def test_worked_examples(
    limbeck: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: str
) -> None:
    for _, what, name, text in BLOCKS:
        if what == "file":
            (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for line in COMMANDS[example].splitlines():
        program, *arguments = shlex.split(line)
        assert program == "limbeck"
        answer = limbeck(*arguments)
        assert answer.status == 0, answer.err
    histories = [path.read_text() for path in tmp_path.glob("runs/*/students/*/seed0/history.jsonl")]
    column = {"task": "loss", "loss": "confidence", "method": "divergence"}[example]
    assert histories and all(f'"{column}"' in text for text in histories)
