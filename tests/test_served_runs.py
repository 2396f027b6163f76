"""A run whose students and mentors a server has: what they write goes on with the run as if written here."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck import actions
from limbeck.errors import InputError
from limbeck.opening import about_task

from .lm.serving import transformers_serve
from .served import served

Limbeck = Callable[..., Any]

RECIPE = """
name: own
task: {name: coin-flip, train: 12, dev: 0, test: 20, parameters: {people: 2}}
mentor:
  model: tiny-causal-xs
  rationales: 1
  train: {epochs: 2}
  writes: {per_problem: 2, max_tokens: 16, top_k: 0, top_p: 0.9, temperature: 1.5}
student: {model: tiny-causal-xs, train: {epochs: 2}}
students:
  cot: {method: finetune-cot}
  kd: {method: mentor-kd, settings: {kl_weight: 0, teacher_rationales: 1, mentor_rationales: 1}}
exam: {max_tokens: 16}
"""


def predictions(exam: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (exam / "predictions.jsonl").read_text().splitlines()]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def completions(stage: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage / "completions.jsonl").read_text().splitlines()]


def metrics(exam: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((exam / "metrics.json").read_text())
    return found


def test_a_real_server_loads_each_model_as_it_is_trained(
    limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`transformers serve` loads what a request names, so one run does everything."""
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"transformers serve needs {package}")
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(RECIPE)
    assert limbeck("run", "own.yaml", "--out", "here").status == 0
    (tmp_path / "serve").mkdir()
    with transformers_serve(None, tmp_path / "serve") as url:
        draws = "extra_body: {generation_config: '{\"do_sample\": true}'}"
        at = [f"--set=exam.endpoint={{base_url: '{url}'}}"]
        at += [f"--set=mentor.endpoint={{base_url: '{url}', {draws}}}"]
        ran = limbeck("run", "own.yaml", "--out", "there", *at, "--until", "students/cot")
        assert ran.status == 0, ran.err
        ran = limbeck("run", "own.yaml", "--out", "there", *at)
        assert ran.status == 0, ran.err
    for folder in ("students/cot/seed0", "mentors/mentor"):
        ours, theirs = (
            predictions(Path("here") / folder / "exam"),
            predictions(Path("there") / folder / "exam"),
        )
        equal = sum(one == other for one, other in zip(ours, theirs, strict=True))
        assert equal == 20, f"{folder}: {equal} of 20"
        about = metrics(Path("there") / folder / "exam")
        assert about["served"] == str((tmp_path / "there" / folder / "model").resolve())
        assert about["dtype"] is None and about["role"] == ("student" if "cot" in folder else "mentor")
    wrote = completions(Path("there/mentors/mentor/collected"))
    assert Counter(one["problem_id"] for one in wrote) == Counter(
        one["problem_id"] for one in completions(Path("here/mentors/mentor/collected"))
    )
    assert len({one["text"] for one in wrote}) > 12, "two of a question are drawn by two seeds"
    local = limbeck("run", "own.yaml", "--out", "there")
    assert local.status == 0 and ": started" not in local.err, "an address decides no result"


TWO = """
name: two
task: {name: coin-flip, train: 8, dev: 0, test: 4, parameters: {people: 2}}
student: {model: tiny-causal-xs, method: finetune-cot, train: {epochs: 1}}
students: {one: {seeds: [0, 1]}, other: {}}
exam: {max_tokens: 16, endpoint: {base_url: URL, model: "{place}@{mark}", retries: 0}}
"""


def test_what_a_server_has_not_got_yet_waits_and_everybody_is_trained(
    limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked, there = list[str](), ["base"]
    with served(lambda body: asked.append(body["model"]) or text("The answer is yes."), there) as url:
        Path("two.yaml").write_text(TWO.replace("URL", url))
        first = limbeck("run", "two.yaml")
        places = ("students/one/seed0", "students/one/seed1", "students/other/seed0")
        marks = [json.loads(Path("runs/two", one, "stage.json").read_text())["fingerprint"] for one in places]
        models = {f"{one}@{mark[:12]}": one for one, mark in zip(places, marks, strict=True)}
        assert first.status == 1 and not asked
        said = (
            f"{url} has not got {', '.join(models)}; start a server that has them, then run the same command"
        )
        assert said in first.err
        assert all(Path("runs/two", place, "model").is_dir() for place in models.values())
        there += list(models)[:2]
        second = limbeck("run", "two.yaml")
        assert second.status == 1 and f"the server at {url} has base, {', '.join(there[1:])}" in second.err
        assert f"and other (seed 0) not as {list(models)[2]}; start one that has it" in second.err
        there.append(list(models)[2])
        last = limbeck("run", "two.yaml")
    assert last.status == 0, last.err
    assert Counter(asked) == dict.fromkeys(models, 4)
    assert "students/one/seed0: started" not in second.err + last.err, "nobody is trained again"
    assert all(metrics(Path("runs/two", place, "exam"))["served"] == name for name, place in models.items())
    closed = limbeck("run", "two.yaml")
    assert closed.status == 0, "a finished run needs no server"
    again = ("evaluate", f"runs/two/{places[0]}", "--task", "two.yaml", "--endpoint")
    named = []
    with served(lambda body: named.append(body["model"]) or text("The answer is yes."), there) as url:
        assert limbeck(*again, url, "--out", "own").status == 0, "by the name of the run's recipe"
        assert limbeck(*again, url, "--endpoint-model", "base", "--out", "other").status == 0
        by_path = ['--set=exam.endpoint.model="{path}"', "--set=exam.endpoint.listed=false"]
        assert limbeck(*again, url, *by_path, "--out", "whole").status == 0
    whole = str(Path("runs/two", places[0], "model").resolve())
    assert Counter(named) == {next(iter(models)): 4, "base": 4, whole: 4}, "the last as the run names it"


def test_evaluate_asks_for_a_mentor_by_the_settings_of_its_own_server(tmp_path: Path) -> None:
    own = "{base_url: URL, model: 'm-{mark}', soft_labels: true}"
    mentor = f"mentor: {{model: tiny-causal-xs, endpoint: {own}}}"
    (tmp_path / "two.yaml").write_text(f"{TWO}{mentor}\n".replace("URL", "http://127.0.0.1:1/v1"))
    recipe, there = about_task(str(tmp_path / "two.yaml"), ()), "http://127.0.0.1:2/v1"
    place, server = actions._server(recipe, "mentors/mentor", there)
    assert (place, server.base_url, server.concurrency) == ("mentors.mentor.endpoint", there, 32)
    stage = {"name": "mentors/mentor", "id": "0123456789abcdef"}
    assert actions._served_as(place, server, "m", stage) == "m-0123456789ab"
    place, server = actions._server(recipe, "students/one/seed0", there)
    assert (place, server.retries) == ("exam.endpoint", 0)
    with pytest.raises(InputError, match=r"exam.endpoint.model is .*, and m is no model of a run"):
        actions._served_as(place, server, "m", {})


def text(said: str) -> bytes:
    choice = {"index": 0, "text": said, "finish_reason": "stop"}
    usage = {"prompt_tokens": 50, "completion_tokens": 5}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def test_the_exams_of_rounds_are_written_by_the_server_too(
    limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = TWO.replace("finetune-cot", "tailored, settings: {begin: rationales, rounds: 1}")
    recipe = recipe.replace("students: {one: {seeds: [0, 1]}, other: {}}", "students: {one: {}}")
    asked = list[dict[str, Any]]()
    with served(lambda body: asked.append(body) or text("Start: tails. The answer is yes.")) as url:
        Path("two.yaml").write_text(recipe.replace("URL", url))
        ran = limbeck("run", "two.yaml", "--set", "teacher={kind: offline, wrong_answer: 0}")
    assert ran.status == 0, ran.err
    counts = Counter((body["model"].partition("@")[0], body["temperature"]) for body in asked)
    zero, one = "students/one/seed0/round0", "students/one/seed0/round1"
    assert counts == {(zero, 0.0): 4, (zero, 1.0): 8 * 4, (one, 0.0): 4}
    assert all(body["top_k"] == 50 for body in asked if body["temperature"])
    check_offline_feedback(Path("runs/two", zero), rows(Path("runs/two/problems/train.jsonl")))


def check_offline_feedback(own: Path, problems: list[dict[str, Any]]) -> None:
    """On what a student says to all questions: its first wrong step, and the reasoning put right."""
    missed = {problem["id"] for problem in problems if problem["answer"] == "no"}
    wrong = rows(own / "mistakes/mistakes.jsonl")
    assert missed and {one["problem_id"] for one in wrong} == missed and len(wrong) == 4 * len(missed)
    said, graded = (rows(own / "feedback" / name) for name in ("feedback.jsonl", "graded.jsonl"))
    assert {one["problem_id"] for one in said} == missed and len(said) == len(graded) == len(missed)
    assert {one["mistake_id"] for one in said} <= {one["id"] for one in wrong}
    assert {one["said"] for one in said} == {"The step 'Start: tails' is wrong: the coin starts heads up."}
    assert [one["completion"] for one in graded] == [one["solution"] for one in said]
    assert {(one["source"], one["answer"], one["correct"], one["dropped"]) for one in graded} == {
        ("offline", "no", True, None)
    }


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("exam.endpoint.model=mine", "exam: endpoint.model: is one name for all models; write {path}"),
        ("student.model=tiny-seq2seq-xs", "students.one.model: tiny-seq2seq-xs is an encoder-decoder model"),
        (
            "exam={direct: true, endpoint: {base_url: 'http://x/v1', endpoint: chat}}",
            "cannot be begun in a chat",
        ),
        ("exam.endpoint.omit=[temperature]", "exam.endpoint.omit"),
        (
            "exam.endpoint.key_env=LIMBECK_NO_KEY",
            "exam.endpoint.key_env: the variable LIMBECK_NO_KEY is empty",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anybody_is_trained(
    limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.yaml").write_text(TWO.replace("URL", "http://127.0.0.1:1/v1"))
    ran = limbeck("run", "two.yaml", "--set", more)
    assert ran.status == 2 and said in ran.err, ran.err
    assert not Path("runs/two/students").exists()


def test_a_dry_run_counts_no_memory_for_what_a_server_writes(
    limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.yaml").write_text(TWO.replace("URL", "http://127.0.0.1:1/v1"))
    ran = limbeck("run", "two.yaml", "--dry-run", "--no-probe", "--json")
    assert ran.status == 0, ran.err
    assert [one["writing"] for one in json.loads(ran.out)["learners"]] == [None, None]
    assert "by a server" in limbeck("run", "two.yaml", "--dry-run", "--no-probe").out
