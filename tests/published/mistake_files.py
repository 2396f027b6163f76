"""What tests of several formats of mistakes write: files of JSON, and problems in our own form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from limbeck.records import Problem, write_jsonl


def written(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def problems(path: Path, *asked: tuple[str, str | None], **more: Any) -> Path:
    """Questions with their gold answers; ids are p1, p2 …, or with another letter."""
    letter = more.pop("letter", "p")
    rows = [
        Problem(id=f"{letter}{number}", question=question, answer=answer, **more)
        for number, (question, answer) in enumerate(asked, start=1)
    ]
    write_jsonl(path, rows)
    return path
