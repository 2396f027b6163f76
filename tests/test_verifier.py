"""The verifier: rationales that lead no model to the answer are dropped; no model judges what it learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.lm import Completion
from limbeck.rationales import graded, without_closing
from limbeck.records import Problem
from limbeck.stages.verifier import parts

Limbeck = Callable[..., Any]

RECIPE = """
name: judged
task: {name: coin-flip, train: 24, dev: 4, test: 2, parameters: {people: 2}}
teacher: {kind: offline, exam: false, wrong_answer: 0.3}
rationales: {per_problem: 2}
verifier: {model: tiny-causal-xs, train: {epochs: 6, learning_rate: 0.003}}
student: {method: finetune-cot, model: tiny-causal-xs, settings: {rationales: 2}}
students: {one: {train: {epochs: 1, choose: dev-loss}}}
exam: {max_tokens: 8}
"""


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_name(path: Path) -> dict[str, dict[str, Any]]:
    """Rationales by what the verifier is asked under: problem and place."""
    return {f"{one['problem_id']}/{place}": one for place, one in enumerate(rows(path))}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return Path("r.yaml")


def test_rationales_are_judged_by_models_that_did_not_learn_them(limbeck: Limbeck, recipe: Path) -> None:
    ran = limbeck("run", recipe)
    assert ran.status == 0, ran.err
    run = Path("runs/judged")
    before, after = by_name(run / "rationales/graded.jsonl"), by_name(run / "verified/graded.jsonl")
    assert before.keys() == after.keys() and any(one["dropped"] for one in before.values())
    kept = {own for own, one in before.items() if one["dropped"] is None}
    gold = {one["id"]: one["answer"] for one in rows(run / "problems/train.jsonl")}

    said: dict[str, str] = {}
    for fold in (1, 2):
        learned = {one["problem_id"] for one in rows(run / f"verifier/fold{fold}/examples.jsonl")}
        answers = rows(run / f"verifier/fold{fold}/answers/completions.jsonl")
        assert not learned & {one["problem_id"] for one in answers}
        assert learned | {one["problem_id"] for one in answers} == {before[own]["problem_id"] for own in kept}
        said |= {one["prompt_id"]: one["text"] for one in answers}
        for one in rows(run / f"verifier/fold{fold}/examples.jsonl"):
            assert "answer is" not in one["prompt"], "the closing answer would be copied"
            assert one["completion"] == f"The answer is {gold[one['problem_id']]}."
    assert said.keys() == kept, "each once, those that are wrong anyway never"
    for own in kept:
        right = said[own].strip() == f"The answer is {gold[after[own]['problem_id']]}."
        assert (after[own]["dropped"] is None) == right
        assert right or after[own]["dropped"].startswith("the verifier comes to")
    assert all(after[own]["dropped"] == before[own]["dropped"] for own in before.keys() - kept)
    check_who_reads_them(run, after, ran.err)
    check_again(limbeck, recipe, run, len(kept))


def check_who_reads_them(run: Path, after: dict[str, Any], log: str) -> None:
    """Students, the audit and the report have those that are left."""
    verified = [one for one in after.values() if one["dropped"] is None]
    examples = rows(run / "students/one/seed0/examples.jsonl")
    assert len(examples) == len(verified)
    assert {one["problem_id"] for one in examples} == {one["problem_id"] for one in verified}
    audit = json.loads((run / "verified/audit.json").read_text())
    reasons = [one["dropped"] for one in after.values() if one["dropped"]]
    assert audit["kept"] == audit["verified"] == len(verified)
    assert audit["dropped"] == {why: reasons.count(why) for why in audit["dropped"]}
    page = (run / "report.html").read_text()
    assert all(why in page for why in audit["dropped"]), "as other dropped ones are"
    assert f"verifier: {len(verified)} of {audit['judged by the verifier']} rationales" in log
    dev = [one["prompt_id"] for one in rows(run / "verifier/fold1/answers-dev/completions.jsonl")]
    assert dev and (run / "verified-dev/graded.jsonl").is_file(), (
        "those of dev by one that learned none of dev"
    )


def check_again(limbeck: Limbeck, recipe: Path, run: Path, judged: int) -> None:
    """A finished run stays; a model that is only asked judges the same ones; `collect` trains nobody."""
    again = limbeck("run", recipe)
    assert again.status == 0 and ": started" not in again.err
    student = run / "verifier/fold1/model"
    refused = limbeck("ask", student, "Is the coin still heads up?")
    assert refused.status == 2 and "is a verifier, and reads a rationale with every question" in refused.err
    asked = f"verifier={{model: {student.resolve()}, folds: 0}}"
    ran = limbeck("run", recipe, "--set", asked, "--out", "asked", "--until", "verified")
    assert ran.status == 0, ran.err
    assert len(rows(Path("asked/verifier/answers/completions.jsonl"))) == judged
    assert not Path("asked/verifier/fold1").exists() and not Path("asked/students").exists()
    collected = limbeck("collect", recipe, "--out", "collected")
    assert collected.status == 0 and not Path("collected/verifier").exists(), "trains nobody"


def test_what_is_dropped_does_not_come_back_through_a_mentor(limbeck: Limbeck, recipe: Path) -> None:
    assert limbeck("run", recipe, "--until", "verified").status == 0
    refused = [one for one in rows(Path("runs/judged/verified/graded.jsonl")) if one["dropped"]]
    refused = [one for one in refused if one["dropped"].startswith("the verifier")]
    assert refused
    said = [{name: one[name] for name in ("problem_id", "completion")} for one in refused]
    said.append({"problem_id": refused[0]["problem_id"], "completion": f"So. {refused[0]['completion']}"})
    Path("mentor.jsonl").write_text("".join(json.dumps(one) + "\n" for one in said))
    mentor = "{model: tiny-causal-xs, file: mentor.jsonl, exam: false, train: {epochs: 1}}"
    students = "{two: {method: mentor-kd, settings: {kl_weight: 0}, train: {epochs: 1}}}"
    more = ("--set", f"mentor={mentor}", "--set", f"students={students}", "--set", "student.settings={}")
    ran = limbeck("run", recipe, *more)
    assert ran.status == 0, ran.err
    graded = rows(Path("runs/judged/mentors/mentor/rationales/graded.jsonl"))
    assert [one["dropped"] for one in graded] == [*(one["dropped"] for one in refused), None]


def test_parts_are_equal_in_size_and_do_not_change() -> None:
    some = [Problem(id=f"p{number}", question=f"q{number}?", answer="1") for number in range(10)]
    part = parts(some, 3, 0)
    assert sorted(map(list(part.values()).count, (1, 2, 3))) == [3, 3, 4]
    assert part == parts(some[::-1], 3, 0) and part != parts(some, 3, 1)


def test_what_is_shown_has_no_closing_answer_in_its_thinking_either() -> None:
    problem = Problem(id="p", question="2 + 3?", answer="5")
    text = Completion(
        "p", 0, "Two and three make five.\nThe answer is 5.", thinking="2 + 3 = 5. The answer is 5."
    )
    one = graded(problem, "number", text, "t")
    assert "The answer is 5" in one.reasoning, "a student may learn it"
    shown = without_closing(problem, "number", one)
    assert shown == "2 + 3 = 5.\n\nTwo and three make five."


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("verifier.folds=1", "verifier: folds: 1 would judge what it was trained on; take 2 or more, or 0"),
        ("verifier.train.choose=dev-loss", "train.choose: there are no dev examples of a verifier"),
        ("verifier.prompt={instruction: Go.}", "write template and instruction instead"),
        ('verifier.template="{question}\\n"', "verifier.template: has no place {rationale}"),
        ('verifier.template="{question} {rationale}:"', "must end in a line break or a space"),
        ("verifier.folds=0", "verifier: folds: 0 trains nobody; leave out train and lora"),
        (
            "verifier={folds: 0}",
            "verifier.model: tiny-causal is made from scratch, and folds: 0 trains nobody",
        ),
        ("verifier={model: no/where/here}", "verifier.model: no/where/here: no such folder"),
        ("verifier={folds: 40}", "verifier.folds: 40 parts leave no rationale"),
    ],
)
def test_a_verifier_that_cannot_judge_is_refused(
    limbeck: Limbeck, recipe: Path, setting: str, says: str
) -> None:
    few = ("--set", "task.train=1") if "40" in setting else ()
    ran = limbeck("run", recipe, "--set", setting, *few)
    assert ran.status == 2 and says in ran.err, ran.err
    assert "verifier/fold1: started" not in ran.err
