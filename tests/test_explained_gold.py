"""Rationales that explain a gold answer: it is in these requests, and in no others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from limbeck.lm import Prompt, Sampling
from limbeck.records import Pieces
from limbeck.tasks.generated import OfflineTeacher, generate

from .served import served

Limbeck = Callable[..., Any]
SHOWN = "The right answer:"


class Endpoint:
    """Says that one of two coins is heads up, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, body: dict[str, Any]) -> str:
        self.asked.append(body["messages"][-1]["content"])
        return f"Look number {len(self.asked)}. The answer is yes."


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    pytest.importorskip("openai", reason="the extra `api` is not installed")
    monkeypatch.chdir(tmp_path)
    endpoint = Endpoint()
    with served(endpoint) as address:
        Path("r.yaml").write_text(
            "name: explained\ntask: {name: coin-flip, train: 8, dev: 1, test: 2}\n"
            f"teacher: {{kind: api, base_url: '{address}', model: big, max_cost_usd: 1,\n"
            "  prices: {usd_per_million_input: 1, usd_per_million_output: 10}}\n"
            "rationales: {explain_gold: true, max_tokens: 50}\n"
        )
        yield endpoint.asked


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_rationale_written_again_is_asked_for_as_plain_ones(limbeck: Limbeck, asked: list[str]) -> None:
    own = (
        "{rounds: 1, begin: rationales, train_exam: {samples: 1, least_readable: 0}, "
        "feedback: {kind: again, of: [wrong, no-answer, cut-off], max_tokens: 50}}"
    )
    student = f"student={{method: tailored, model: tiny-causal-xs, train: {{epochs: 1}}, settings: {own}}}"
    ran = limbeck(
        "run", "r.yaml", "--set", student, "--set", "exam.max_tokens=4", "--set", "teacher.exam=false"
    )
    assert ran.status == 0, ran.err
    plain = {text for text in asked[:8] if SHOWN in text}
    again = rows(Path("runs/explained/students/tailored/seed0/round0/asked/completions.jsonl"))
    assert len(plain) == 8 and again and len(asked) == 8 + len(again) and set(asked[8:]) <= plain


def test_gold_is_shown_where_it_is_explained_and_nowhere_else(limbeck: Limbeck, asked: list[str]) -> None:
    """Everything that is asked, of teacher and student."""
    student = ("--set", "student={method: finetune-cot, model: tiny-causal-xs, train: {epochs: 1}}")
    ran = limbeck("run", "r.yaml", *student, "--set", "exam.max_tokens=4")
    assert ran.status == 0, ran.err
    run = Path("runs/explained")
    train, test = (
        {one["question"]: one["answer"] for one in rows(run / f"problems/{split}.jsonl")}
        for split in ("train", "test")
    )
    assert len(asked) == len(train) + len(test)
    for text in asked:
        (question,) = [one for one in (*train, *test) if one in text]
        if question in train:
            assert f"\n\n{SHOWN} {train[question]}\n\n" in text
        else:
            assert SHOWN not in text, "an exam"
    graded = rows(run / "rationales/graded.jsonl")
    wrong = [one for one in graded if train_answer(run, one) == "no"]
    assert wrong and all(one["dropped"] == "wrong answer" for one in wrong), "what it comes to is graded"
    audit = json.loads((run / "rationales/audit.json").read_text())
    assert audit["the teacher was shown the gold answers"] == "yes"
    plan = json.loads((run / "collected/stage.json").read_text())["plan"]["settings"]
    assert plan["shows_gold"] is True and "{gold}" in plan["asking"]["prompt"]["template"]
    for file in run.glob("students/**/*.jsonl"):
        assert SHOWN not in file.read_text()


def train_answer(run: Path, one: dict[str, Any]) -> str:
    (found,) = [row["answer"] for row in rows(run / "problems/train.jsonl") if row["id"] == one["problem_id"]]
    return str(found)


def test_a_template_of_ones_own_and_back_to_solving(limbeck: Limbeck, asked: list[str]) -> None:
    own = 'rationales.explain_gold={template: "Q: {question}\\nA: {gold}\\nWhy: "}'
    assert limbeck("collect", "r.yaml", "--set", own).status == 0
    assert all(text.startswith("Q: A coin") and text.endswith("\nWhy: ") for text in asked[:8])
    solved = limbeck("collect", "r.yaml", "--set", "rationales.explain_gold=false")
    assert solved.status == 0 and len(asked) == 16 and "collected: started" in solved.err
    assert not any("\nA: " in text or SHOWN in text for text in asked[8:])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"rationales.explain_gold": '{template: "{question}"}'},
            "explain_gold.template: has no place {gold}",
        ),
        (
            {"teacher": "{kind: given}", "task": "{kind: number, train: a.jsonl, test: 1}"},
            "and there is none",
        ),
        ({"task": "{kind: number, train: a.jsonl, test: 1, gold: optional}"}, "gold answers are missing"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    limbeck: Limbeck, asked: list[str], settings: dict[str, str], says: str
) -> None:
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    ran = limbeck(
        "collect",
        "r.yaml",
        "--set",
        "rationales.keep=agreement",
        "--set",
        "rationales.per_problem=2",
        *options,
    )
    assert ran.status == 2 and says in ran.err, ran.err
    assert not asked


def test_the_offline_teacher_that_is_shown_gold_always_ends_in_it() -> None:
    problems = generate("coin-flip", "train", 20, 0)
    teacher = OfflineTeacher("coin-flip", wrong_answer=0.9)
    plain = [Prompt(one.id, one.id, one.question) for one in problems]
    shown = [
        Prompt(one.id, one.id, one.question, pieces=Pieces(question=one.question, more={"gold": one.gold}))
        for one in problems
    ]

    def right(prompts: list[Prompt]) -> list[bool]:
        texts = [one.text for one in teacher(prompts, Sampling())]
        return [
            text.endswith(f"The answer is {one.gold}.") for text, one in zip(texts, problems, strict=True)
        ]

    assert all(right(shown)) and not all(right(plain))
