"""The report's page: self-contained, escaped, complete, the same every time."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import DataError, DiskError, InputError
from limbeck.records import Prediction, write_json
from limbeck.report import write_report
from limbeck.report.page import Block, audit_blocks

Make = Callable[..., Path]
Predict = Callable[..., Prediction]

NASTY = "<script>alert(1)</script> </SCRIPT > <!-- --> ]]> &amp; & \" ' {{ 7*7 }} ${x} \\ 😀"
NASTY += "\u2028 \u2029 \u202e \x00"
PARTS = ("results", "comparisons", "curves", "rationales", "problems", "origin")


class Page(HTMLParser):
    """Elements, attributes and texts as a browser's parser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.texts.append(data)

    def data(self) -> dict[str, Any]:
        loaded = json.loads(self.scripts[0])
        assert isinstance(loaded, dict)
        return loaded

    def has(self, name: str) -> bool:
        return any(attributes.get("id") == name for _, attributes in self.elements)


def report(paths: list[Path], out: Path) -> Page:
    write_report(paths, out)
    return Page(out.read_text(encoding="utf-8"))


def test_the_page_holds_everything_and_loads_nothing(demo: Path, tmp_path: Path) -> None:
    page = report([demo], tmp_path / "report.html")
    for tag, attributes in page.elements:
        assert tag not in {"img", "iframe", "object", "embed", "base", "form", "video", "audio"}
        for name in ("src", "srcset", "action", "xlink:href", "poster"):
            assert name not in attributes
        link = attributes.get("href")
        assert link is None or link.startswith("#") or link == "data:,"
        assert not any(name.startswith("on") for name in attributes)
    html = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?://|@import|url\(", html)


def test_only_the_pages_own_script_may_run(demo: Path, tmp_path: Path) -> None:
    page = report([demo], tmp_path / "report.html")
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    data, script = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert "innerHTML" not in script
    assert json.loads(data)["names"] == ["teacher", "answers-only", *(f"cot-3 seed {n}" for n in range(3))]


def test_the_figures_of_the_run_stand_in_the_page(demo: Path, tmp_path: Path) -> None:
    page = report([demo], tmp_path / "report.html")
    metrics = json.loads((demo / "students/answers-only/seed0/exam/metrics.json").read_text())
    figures = [f"{100 * metrics[key]:.1f}" for key in ("accuracy", "low", "high")]
    assert "{} [{}, {}]".format(*figures) in page.text
    for words in ("demo", "60 test problems", "0123456789abcdef", "2025-11-20T18:02", "torch 2.13.0"):
        assert words in page.text
    assert "name: demo seed: 0 students: answers-only: method: finetune-cot" in page.text  # the recipe
    assert "problems with a kept rationale 3,911" in page.text
    assert all(map(page.has, PARTS))
    titles = [text for text in page.texts if text in ("loss (cross entropy)", "dev loss", "dev accuracy")]
    assert titles == ["loss (cross entropy)", "dev loss", "dev accuracy"]


def test_every_completion_can_be_browsed(demo: Path, tmp_path: Path) -> None:
    problems = report([demo], tmp_path / "report.html").data()["problems"]
    lines = (demo / "students/cot-3/seed1/exam/predictions.jsonl").read_text().splitlines()
    assert len(problems) == len(lines) == 60
    for (key, question, gold, answers), line in zip(problems, lines, strict=True):
        one = Prediction.model_validate_json(line)
        assert (key, question, gold) == (one.problem_id, one.question, one.gold)
        said: list[object] = [
            one.completion,
            one.answer,
            int(one.correct),
            one.tokens,
            int(one.truncated),
            [],
        ]
        assert answers[3] == said


def test_whatever_models_and_people_write_stays_text(
    tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Predict
) -> None:
    clean = report([run_folder(tmp_path / "clean", {"cot": {0: [True] * 3}})], tmp_path / "clean.html")
    run = run_folder(tmp_path / "nasty", {"cot": {0: [True] * 3}}, recipe=NASTY, task=NASTY, git=NASTY)
    said: dict[str, Any] = {"gold": NASTY, "answer": NASTY, "completion": NASTY, "votes": (NASTY, None)}
    answers = [predict(n, True, question=NASTY + str(n), **said) for n in range(3)]
    student = run / "students" / "cot"
    who = "<img src=x onerror=alert(1)>\"'&"
    exam_folder(student / "seed0" / "exam", answers, who, "student", seed=0)
    write_json(run / "rationales" / "audit.json", {NASTY: NASTY, "nested": {NASTY: 3}})
    (run / "recipe.yaml").write_text("name: </pre></details><script>alert(3)</script>")
    page = report([run], tmp_path / "nasty.html")
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in clean.elements}
    assert all(
        set(given) <= {"class", "scope", "title"} for tag, given in page.elements if tag in {"th", "bdi"}
    )
    assert len(page.scripts) == 2
    assert page.scripts[1] == clean.scripts[1]
    html = (tmp_path / "nasty.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "{{ 7*7 }}" in page.text  # text is no template
    assert not set("<>&\u2028\u2029") & set(page.scripts[0])
    key, question, gold, (answer,) = page.data()["problems"][2]
    assert (key, question, gold) == ("sums-test-0002", NASTY + "2", NASTY)
    assert (answer[0], answer[1], answer[5]) == (NASTY, NASTY, [NASTY, None])
    assert page.data()["names"] == ["<img src=x onerror=alert(1)>\"'&"]


def test_the_same_inputs_give_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    write_report([demo], tmp_path / "here.html")
    code = "import sys, pathlib; from limbeck.report import write_report; "
    code += "write_report([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]))"
    for hash_seed in ("1", "2"):
        there = tmp_path / f"{hash_seed}.html"
        world = {**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": "Asia/Tokyo"}
        subprocess.run([sys.executable, "-c", code, str(demo), str(there)], check=True, env=world)
        assert there.read_bytes() == (tmp_path / "here.html").read_bytes()


def test_an_unfinished_student_is_named_and_its_curve_drawn(demo: Path, tmp_path: Path) -> None:
    (demo / "students/cot-3/seed1/exam/metrics.json").unlink()
    shutil.rmtree(demo / "students/cot-3/seed2")
    page = report([demo], tmp_path / "report.html")
    note = "cot-3 seed 1 has no finished exam; its training log ends at step 400"
    assert f"Not in this report: {note}" in page.text
    assert "cot-3 seed 1 (not examined)" in page.texts
    assert page.data()["names"] == ["teacher", "answers-only", "cot-3"]


def test_a_divergence_is_said_to_be_a_bound(demo: Path, tmp_path: Path) -> None:
    """What a codec does to the number stands where the number is shown, and only there."""
    said = (
        "a lower bound of the full one: compare it at the same k only. Stored in half precision it is up to"
    )
    assert said not in report([demo], tmp_path / "without.html").text
    log = demo / "students/cot-3/seed1/history.jsonl"
    rows = [json.loads(line) | {"divergence": 0.02} for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report([demo], tmp_path / "with.html")
    assert "divergence" in page.texts and said in page.text


def test_one_exam_without_run_or_history(tmp_path: Path, exam_folder: Make, predict: Predict) -> None:
    exam = exam_folder(tmp_path / "flan", [predict(n, n > 2) for n in range(5)])
    page = report([exam], tmp_path / "report.html")
    assert "5 test problems, 1 exam" in page.text
    assert "40.0 [11.8, 76.9]" in page.text
    assert [name for name in PARTS if page.has(name)] == ["results", "problems"]


def test_several_runs_and_problems_only_some_were_asked(tmp_path: Path, run_folder: Make) -> None:
    first = run_folder(tmp_path / "a", {"cot": {0: [True] * 4}})
    second = run_folder(tmp_path / "b", {"cot": {0: [False] * 6}})
    page = report([first, second], tmp_path / "report.html")
    assert page.data()["names"] == ["a/cot", "b/cot"]
    assert [len(page.data()["problems"]), page.data()["problems"][5][3][0]] == [6, 0]
    assert "4 to 6 test problems, 2 exams" in page.text
    assert "compared on the 4 problems they have in common (of 4 and 6)" in page.text
    assert [text for text in page.texts if text in ("a", "b")].count("b") >= 2  # both runs in Origin


def test_verdict_counts_lead_to_their_problems(tmp_path: Path, exam_folder: Make, predict: Predict) -> None:
    exam_folder(tmp_path / "a", [predict(n, n < 3) for n in range(9)])
    exam_folder(tmp_path / "b", [predict(n, n > 1) for n in range(9)])
    page = report([tmp_path / "a", tmp_path / "b"], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    links = re.findall(r'data-right="(\d)" data-wrong="(\d)"[^>]*>(\d+)</button>', html)
    assert links == [("0", "1", "2"), ("1", "0", "6")]  # only A solved 2 problems, only B 6
    at = page.texts.index("B − A [95%]")
    assert [text for text in page.texts[at:] if text.isdigit()][:4] == ["1", "2", "6", "0"]


def test_the_file_is_written_whole_or_not_at_all(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    (demo / "teacher/exam/predictions.jsonl").write_text("{}\n")
    with pytest.raises(DataError):
        write_report([demo], out)
    assert out.read_text() == "old"
    shutil.rmtree(demo / "teacher")
    with pytest.raises(DiskError):
        write_report([demo], out / "inside-a-file.html")
    with pytest.raises(InputError):
        write_report([tmp_path / "nothing"], out)
    assert out.read_text() == "old"


def test_1300_problems_of_six_contestants_take_a_moment(
    tmp_path: Path, exam_folder: Make, predict: Predict
) -> None:
    said = "So we add the marbles and multiply them by the number of bags. " * 12
    paths = [
        exam_folder(tmp_path / f"s{k}", [predict(n, n % (k + 2) > 0, completion=said) for n in range(1300)])
        for k in range(6)
    ]
    clock = time.monotonic()
    page = report(paths, tmp_path / "report.html")
    assert time.monotonic() - clock < 15  # about 1 s on a quiet machine
    assert len(page.data()["problems"]) == 1300
    rows = sum(tag == "tr" for tag, _ in page.elements)
    assert rows < 60  # problems become rows only when they are looked at


def test_tables_with_words_get_the_whole_width(demo: Path, tmp_path: Path) -> None:
    """How well agreement predicts gold, and problems that are named, are too wide for a card."""
    audit = {
        "agreement and gold": {
            "100 %": {
                "problems": 3,
                "gold": 2,
                "share": 0.6667,
                "from here up": 3,
                "share from here up": 0.6667,
            }
        },
        "suspected wrong gold answers": 1,
        "suspected wrong gold answers, named": [
            {"problem": "p1", "question": "How many <b>?", "gold": "7", "answers": "8 (3)"}
        ],
    }
    write_json(demo / "rationales" / "audit.json", audit)
    page = report([demo], tmp_path / "report.html")
    for words in ("share from here up", "0.667", "How many <b>?", "8 (3)"):
        assert words in page.text
    html = (tmp_path / "report.html").read_text()
    cards = html.split('<div class="cards">')[1].split("<h2>Problems")[0]
    inside, _, below = cards.partition("\n</div>\n")
    assert html.count('class="audit words"') == 2 and 'class="audit words"' not in inside
    assert below.index("agreement and gold") < below.index("8 (3)")


def test_an_audit_of_any_shape_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    assert audit_blocks(path) == []
    audit = {
        "rationales": 12000,
        "similarity": None,
        "checked": True,
        "share": 0.41267,
        "dropped": {"wrong": 30, "no answer": 10},
        "per source": {"gpt": {"kept": 3, "correct": 4}, "offline": {"kept": 9}},
        "deep": {"x": {"y": {"z": 1}}, "list": [1, "two"]},
        "steps": [{"at": 1}, {"at": 2}],
        "empty": {},
    }
    write_json(path, audit)
    plain = [("rationales", "12,000"), ("similarity", "–"), ("checked", "yes"), ("share", "0.413")]
    assert audit_blocks(path) == [
        Block("", (), [*plain, ("empty", "–")]),
        Block("dropped", (), [("wrong", "30"), ("no answer", "10")], [1.0, 1 / 3]),
        Block("per source", ("", "kept", "correct"), [("gpt", "3", "4"), ("offline", "9", "")]),
        Block("deep", (), [("list", "1, two")]),
        Block("deep: x", ("", "z"), [("y", "1")]),
        Block("steps", ("", "at"), [("1", "1"), ("2", "2")]),
    ]
    path.write_text("[1, 2]")
    assert audit_blocks(path) == [Block("", (), [("audit", "1, 2")])]
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        audit_blocks(path)


def test_the_page_shows_what_it_took(
    tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Predict
) -> None:
    run = run_folder(tmp_path / "r", {"cot": {0: [True]}})
    made = {"parameters": 613_632, "steps": 2500, "train_seconds": 143.0, "training_examples": 4000}
    exam = run / "students/cot/seed0/exam"
    exam_folder(exam, [predict(0, True)], "cot", "student", seed=0, **made)
    page = report([run], tmp_path / "report.html")
    at = page.texts.index("parameters")
    assert [text for text in page.texts[at:] if text.strip()][:4] == [
        "parameters",
        "examples",
        "steps",
        "train time",
    ]
    assert "0.6M 4,000 2,500 2 min 23 s" in page.text
    assert "cost" not in page.texts


def test_rounds_have_curves_of_their_own(
    tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Predict, train_log: Callable[..., None]
) -> None:
    run = run_folder(tmp_path / "r", {"loop": {}})
    for number in (1, 2):
        folder = run / "students/loop/seed0" / f"round{number}"
        train_log(folder)
        exam_folder(folder / "exam", [predict(0, True)], "loop", "student", seed=0, round=number)
        exam_folder(folder / "voted", [predict(0, True)], "loop", "student", seed=0, round=10 + number)
    train_log(run / "students/loop/seed0/round3")
    page = report([run], tmp_path / "report.html")
    key = page.texts.index("Learning curves", page.texts.index("Problems"))
    legend = [text for text in page.texts[key:] if text.startswith("loop")][:3]
    assert legend == ["loop · round 1", "loop · round 2", "loop · round 3 seed 0 (not examined)"]
