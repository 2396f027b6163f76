"""What `limbeck import` prints: what was read, what is missing, how the verdicts compare, how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from limbeck.report.console import show


def show_import(summary: dict[str, Any], out: Path) -> None:
    """Print the summary that `write_import` returned."""
    for source in summary["read"]:
        print(f"read {source['file']}: {source['records']} records, {source['holds']}")
    for name in summary["missing"]:
        print(f"not there: {name}")
    table = Table("file", "texts", "questions", "correct", "flagged correct", "no answer", "duplicates")
    for name, counts in summary["files"].items():
        flagged = counts.get("flagged correct")
        table.add_row(
            name,
            str(counts["texts"]),
            str(counts["questions"]),
            _with_share(counts["correct"], counts["share correct"]),
            "" if flagged is None else _with_share(flagged, counts["share flagged correct"]),
            str(counts["no answer found"]),
            str(counts["duplicates"]),
        )
    if summary["files"]:
        show(table)
    _show_mistakes(summary)
    questions, aside = summary["questions"], summary["golds set aside"]
    splits = [split for split in ("train", "dev", "test") if split in questions]
    print("questions:", ", ".join(f"{split} {questions[split]}" for split in splits))
    if aside:
        print(f"records whose gold answer is not the first one, which was kept: {len(aside)}")
    leaks = {split: questions[f"of train that are in {split}"] for split in splits[1:]}
    for split, count in leaks.items():
        if count:
            print(
                f"questions of train that are in {split} too: {count}; set task.leaks to drop in the recipe"
            )
    print(f"audit and provenance: {out / 'import.json'}; verdicts that differ: {out / 'disagreements.jsonl'}")
    absent = [split for split in ("train", "test") if not questions[split]]
    if absent:
        print(f"no recipe can read this alone: there are no questions of {' and '.join(absent)}")
        return
    leaking = {"leaks": "drop"} if any(leaks.values()) else {}
    task = {
        "name": summary["task"],
        "kind": summary["kind"],
        **{split: str(out / f"{split}.jsonl") for split in splits},
        "columns": {"id": "id", **({"options": summary["options"]} if "options" in summary else {})},
        **leaking,
    }
    print("task:", yaml.safe_dump(task, default_flow_style=True, sort_keys=False, width=1000).strip())


def _show_mistakes(summary: dict[str, Any]) -> None:
    """What is a mistake, what teachers say to them, what is left out; nothing of an import without any."""
    if mistakes := summary.get("mistakes"):
        print(
            f"mistakes: {mistakes['mistakes']} of {mistakes['texts']} texts (wrong {mistakes['wrong']}, no "
            f"answer found {mistakes['no answer found']}; right, so no mistakes: "
            f"{mistakes['right, so no mistakes']})"
        )
    for name, own in summary.get("feedback", {}).items():
        solutions = f"solutions {own['with a solution']}, right {own['a right one']}"
        print(f"feedback of {name}: {own['texts']} ({solutions})")
    for why, count in summary.get("left out", {}).items():
        print(f"left out, {why}: {count}")
    if mistakes and not summary["questions"]["test"]:
        print("not compared with the questions of an exam; name them with test=FILE")


def _with_share(count: int, share: float) -> str:
    return f"{count} ({share:.3f})"
