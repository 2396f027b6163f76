"""The page's browser of dropped rationales: complete in its counts, small in its texts, escaped."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import DataError
from limbeck.records import Problem, Rationale, write_jsonl
from limbeck.report import write_report
from limbeck.report.dropped import MOST, dropped_data
from limbeck.report.samples import LONGEST, evenly, fair_shares

Make = Callable[..., Path]
NASTY = "</script><img src=x onerror=alert(1)> <!-- \u2028 \" ' {{ 7*7 }}"


def rationale(number: int, dropped: str | None, text: str = "", **more: Any) -> Rationale:
    fields: dict[str, Any] = {
        "problem_id": f"p{number}",
        "source": "t",
        "index": 0,
        "completion": text or f"text {number}",
        "reasoning": "r",
        "answer": "4",
        "how": "fallback",
        "correct": dropped is None,
        "dropped": dropped,
    }
    return Rationale(**fields | more)


def written(run: Path, some: list[Rationale], place: str = "rationales") -> Path:
    write_jsonl(run / place / "graded.jsonl", some)
    problems = [Problem(id=f"p{n}", question=f"What is {n}?", answer="3") for n in range(5)]
    write_jsonl(run / "problems" / "train.jsonl", problems)
    return run


def embedded(page: str) -> Any:
    return json.loads(page.split('id="data">')[1].split("</script>")[0])["dropped"]


def test_every_reason_is_there_with_its_count(tmp_path: Path, run_folder: Make) -> None:
    run = run_folder(tmp_path / "run", {"cot": {0: [True]}})
    (run / "recipe.yaml").write_text("name: run\nstudents: {cot: {}}\nmentors: {large: {}}\n")
    some = [
        rationale(1, "wrong answer"),
        rationale(2, None),
        rationale(9, "duplicate", answer=None, how=None),
    ]
    written(run, some)
    written(run, [rationale(3, "cut off at max_tokens")], "mentors/large/rationales")
    write_report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    teacher, mentor = embedded(page)
    assert (teacher["name"], teacher["rationales"], teacher["dropped"]) == ("teacher", 3, 2)
    assert teacher["reasons"] == [["wrong answer", 1], ["duplicate", 1]]
    assert teacher["rows"] == [
        ["wrong answer", "p1", "What is 1?", "3", "4", "fallback", "t", 0, "text 1"],
        ["duplicate", "p9", "", None, None, None, "t", 0, "text 9"],
    ]
    assert mentor["name"] == "mentor large" and mentor["rows"][0][0] == "cut off at max_tokens"
    for element in ("dropped", "dropped-who", "dropped-why", "dropped-search", "dropped-list"):
        assert f'id="{element}"' in page


def test_one_function_browses_all_tables(tmp_path: Path, run_folder: Make) -> None:
    """Every element that it looks for is there under every prefix; no other code turns pages."""
    run = written(run_folder(tmp_path / "run", {"cot": {0: [True]}}), [rationale(1, "wrong answer")])
    write_report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    browse, others = page.split("const browse = ")[1].split("// --- problems ---")
    wanted = set(re.findall(r'byId\("(\w+)"\)', browse))
    assert {"list", "search", "count", "page", "pages", "back", "next", "unfold"} <= wanted
    for element in wanted:
        assert f'id="{element}"' in page and f'id="dropped-{element}"' in page
    assert others.count("= browse(") == 4 and "PER_PAGE" not in others and "toggle" not in others


def test_a_run_that_dropped_nothing_has_no_browser(tmp_path: Path, run_folder: Make) -> None:
    run = written(run_folder(tmp_path / "run", {"cot": {0: [True]}}), [rationale(1, None)])
    write_report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert embedded(page) == [] and 'id="dropped"' not in page


def test_texts_of_models_stay_text(tmp_path: Path, run_folder: Make) -> None:
    run = run_folder(tmp_path / "run", {"cot": {0: [True]}})
    written(run, [rationale(1, "wrong answer", NASTY, answer=NASTY, source=NASTY)])
    write_report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<img" not in page
    (row,) = embedded(page)[0]["rows"]
    assert (row[4], row[6], row[8]) == (NASTY, NASTY, NASTY)


def test_a_page_of_100_000_rationales_stays_small(tmp_path: Path, run_folder: Make) -> None:
    """Also with very long texts; a rare reason is not lost among frequent ones."""
    clean = run_folder(tmp_path / "clean", {"cot": {0: [True]}})
    write_report([clean], tmp_path / "clean.html")
    run = run_folder(tmp_path / "run", {"cot": {0: [True]}})
    line = rationale(0, "wrong answer", "long " * 40).model_dump_json() + "\n"
    kept = rationale(0, None).model_dump_json() + "\n"
    rare = rationale(1, "false equation", "x" * 200_000 + "the end").model_dump_json() + "\n"
    (run / "rationales" / "graded.jsonl").write_text((line + kept) * 49_998 + rare + (line + kept) + rare)
    clock = time.process_time()
    write_report([run], tmp_path / "page.html")
    assert time.process_time() - clock < 20  # about 1 s on a quiet machine
    (found,) = embedded((tmp_path / "page.html").read_text())
    assert (found["rationales"], found["dropped"]) == (100_000, 50_001)
    assert Counter(row[0] for row in found["rows"]) == {"wrong answer": MOST - 2, "false equation": 2}
    texts = [row[8] for row in found["rows"] if row[0] == "false equation"]
    assert all(text.endswith("the end") and "characters …]" in text for text in texts)
    assert max(map(len, texts)) < LONGEST + 50
    added = (tmp_path / "page.html").stat().st_size - (tmp_path / "clean.html").stat().st_size
    assert added < MOST * (LONGEST + 300)


def test_many_sources_share_the_room(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        write_jsonl(tmp_path / name / "graded.jsonl", [rationale(n, "wrong answer") for n in range(500)])
    sources = {name: (tmp_path / name, tmp_path) for name in ("a", "b", "c", "d", "absent")}
    assert [len(one["rows"]) for one in dropped_data(sources)] == [MOST // 4] * 4


def test_shares_and_places() -> None:
    assert fair_shares({"a": 1_000, "b": 3, "c": 500}, 100) == {"b": 3, "c": 48, "a": 49}
    assert fair_shares({"a": 2, "b": 3}, 100) == {"a": 2, "b": 3}
    assert fair_shares({}, 100) == {}
    assert evenly(range(0, 1_000, 10), 4) == [0, 250, 500, 750]
    assert evenly([5, 7], 2) == [5, 7] and evenly([5], 0) == []


def test_a_line_that_is_no_rationale_is_named(tmp_path: Path, run_folder: Make) -> None:
    run = run_folder(tmp_path / "run", {"cot": {0: [True]}})
    (run / "rationales" / "graded.jsonl").write_text('{"dropped": null}\n')
    with pytest.raises(DataError, match=r"graded\.jsonl:1: not a graded rationale"):
        write_report([run], tmp_path / "page.html")
