"""`limbeck claims` for real and in small: written first, killed and interrupted, judged at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from limbeck.errors import InputError
from limbeck.protocol import written
from limbeck.protocol.settings import ClaimsSettings
from limbeck.protocol.workers import ONE_THREAD
from limbeck.protocol.written import planned
from limbeck.recipe import check_recipe, load_recipe

Limbeck = Callable[..., object]

SMALL = """
name: small
seed: 7
task: {name: coin-flip, train: 16, dev: 0, test: 12, parameters: {people: 2}}
teacher: {kind: offline, exam: false}
student: {model: tiny-causal-xs, seeds: [3], train: {epochs: 2}}
students:
  answers: {method: answers-only}
  cot: {method: finetune-cot}
exam: {max_tokens: 16}
claims:
  problem_draws: 2
  students: 2
  compare: [[answers, cot]]
"""
PATIENCE_S = 240


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_no_two_draws_share_a_seed() -> None:
    raw = {
        "name": "x",
        "seed": 5,
        "task": {"name": "coin-flip"},
        "mentors": {"large": {"seed": 40}, "small": {}},
        "students": {"a": {"method": "answers-only", "seeds": [100, 9]}, "b": {"method": "answers-only"}},
        "claims": {"problem_draws": 2, "mentors": 2, "students": 3, "compare": [["a", "b"]]},
    }
    recipe = check_recipe(raw, "x")
    assert isinstance(recipe.claims, ClaimsSettings)
    runs = planned(recipe, recipe.claims)
    assert [one.name for one in runs] == ["draw1-mentor1", "draw1-mentor2", "draw2-mentor1", "draw2-mentor2"]
    assert [one.recipe.seed for one in runs] == [5, 5, 6, 6]
    assert [one.recipe.mentors["large"].seed for one in runs] == [40, 41, 42, 43]
    seeds = [seed for one in runs for seed in one.recipe.students["a"].seeds]
    assert seeds == list(range(100, 112))
    assert {one.recipe.claims for one in runs} == {None}
    reading = check_recipe({**raw, "knowledge": {"corpus": "x", "reranker": {"seed": 7}}}, "x")
    rerankers = [one.recipe.knowledge for one in planned(reading, recipe.claims)]
    assert [one and one.reranker.seed for one in rerankers] == [7, 8, 9, 10]


def begin(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "limbeck", "claims", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(path: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.02)


def let_go(lock: Path) -> None:
    """Wait until nobody holds a lock: the process that did has ended."""
    try:
        with FileLock(lock).acquire(timeout=20):
            pass
    except Timeout:
        pytest.fail(f"{lock} is still held: a run outlived its protocol")


def test_a_protocol_survives_a_kill_and_an_interrupt(recipe: Path, tmp_path: Path, limbeck: Limbeck) -> None:
    out = tmp_path / "protocol"
    first, second = (out / "runs" / f"draw{number}-mentor1" for number in (1, 2))

    one = begin(recipe, out)
    wait_for(first / "problems" / "stage.json")
    first_written = (out / "protocol.json").read_bytes()
    assert not (out / "claims.json").exists()
    one.kill()
    one.communicate()
    let_go(first / "run.lock")

    one = begin(recipe, out)
    wait_for(second / "problems" / "stage.json")
    one.send_signal(signal.SIGINT)
    _, said = one.communicate(timeout=PATIENCE_S)
    assert one.returncode == 130
    assert b"the same command goes on where it stopped" in said
    let_go(second / "run.lock")
    assert (out / "done" / "draw1-mentor1.json").is_file()
    answered = {path: path.stat().st_mtime_ns for path in first.rglob("predictions.jsonl")}
    assert len(answered) == 4

    answer = limbeck("claims", recipe, "--out", out, "--json")
    assert answer.status == 0, answer.err
    assert "1 of 2 runs are done already" in answer.err
    assert "draw1-mentor1: started" not in answer.err
    assert {path: path.stat().st_mtime_ns for path in answered} == answered
    found = json.loads(answer.out)
    (claim,) = found["claims"]
    assert (claim["a"], claim["b"], claim["level"]) == ("answers", "cot", "students")
    assert claim["verdict"] in ("holds", "does not hold", "undecided")
    assert {one["name"]: one["exams"] for one in found["standings"]} == {"answers": 4, "cot": 4}
    assert (out / "protocol.json").read_bytes() == first_written
    ordinary = limbeck("compare", first, "--json")
    assert ordinary.status == 0 and json.loads(ordinary.out)["pairs"]

    # finished: nothing runs again, and the table is the same
    answer = limbeck("claims", recipe, "--out", out)
    assert answer.status == 0 and "started" not in answer.err
    assert "cot is better than answers" in answer.out

    # exams that are not those that were finished are run again
    lost = next(iter(answered))
    (lost.parent / "stage.json").unlink()
    lost.write_text("")
    answer = limbeck("claims", recipe, "--out", out)
    assert answer.status == 0, answer.err
    assert "draw1-mentor1: started" in answer.err and "draw2-mentor1: started" not in answer.err

    # what is claimed does not change any more
    for change, complaint in (
        ("exam.max_tokens=17", "exam.max_tokens: is 17, but"),
        ("claims.compare=[[cot, answers]]", "claims.compare: is"),
        ("claims.students=3", "claims.students: is 3, but"),
    ):
        answer = limbeck("claims", recipe, "--out", out, "--set", change)
        assert (answer.status, answer.out) == (2, "")
        assert complaint in answer.err and "does not change any more" in answer.err
    assert limbeck("claims", recipe, "--out", out, "--set", "claims.processes=3").status == 0
    file = out / "protocol.json"
    os.chmod(file, 0o644)
    file.write_text(file.read_text().replace('"max_tokens": 16', '"max_tokens": 17'))
    answer = limbeck("claims", recipe, "--out", out, "--set", "exam.max_tokens=17")
    assert answer.status == 2 and "protocol.json: was changed after it was written" in answer.err


def test_a_protocol_is_run_by_one_code(
    recipe: Path, tmp_path: Path, limbeck: Limbeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    process = begin(recipe, out)
    wait_for(out / "protocol.json")
    process.kill()
    process.communicate()
    monkeypatch.setattr(written, "code_fingerprint", lambda: "a later version")
    answer = limbeck("claims", recipe, "--out", out)
    assert answer.status == 2 and "protocol.json: was written by other code (Limbeck " in answer.err


def test_runs_have_one_thread(recipe: Path) -> None:
    assert ONE_THREAD["OMP_NUM_THREADS"] == "1"
    assert load_recipe(recipe).claims is not None


def test_wrong_protocols_are_refused_and_nothing_is_written(
    recipe: Path, tmp_path: Path, limbeck: Limbeck
) -> None:
    out = tmp_path / "out"
    for changes, complaint in (
        (["claims=null"], "claims: this setting is needed"),
        (["claims.compare=[[answers, magic]]"], "nobody is examined as 'magic'; choose one of answers, cot"),
        (["claims.students=1"], "decide nothing"),
        (["claims.mentor=5"], "claims.mentor: unknown setting; did you mean mentors?"),
        (["claims.problem_draws=99999"], "claims.problem_draws"),
        (["task.test=500", "task.parameters={people: 1}"], "different problems"),
        (["seed=4294967295"], "leaves no room"),
        (["student.model=no/such-model"], "students.answers.model"),
        (["student.dtype=bfloat16"], "students.answers.dtype"),
        (["teacher={kind: api, model: x, base_url: 'http://localhost:1'}"], "a protocol pays no teacher"),
        (["exam.endpoint={base_url: 'http://localhost:1'}"], "exam.endpoint: a protocol's runs train models"),
        (
            ["mentor={model: tiny-causal-xs, endpoint: {base_url: 'http://localhost:1'}}"],
            "mentors.mentor.endpoint: a protocol's runs train models",
        ),
        (["task={name: t, kind: text, train: a.jsonl, test: b.jsonl}"], "problems from files are one draw"),
    ):
        settings = [part for change in changes for part in ("--set", change)]
        answer = limbeck("claims", recipe, "--out", out, *settings)
        assert (answer.status, answer.out) == (2, ""), complaint
        assert complaint in answer.err, answer.err
        assert not out.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("hours of work")
    answer = limbeck("claims", recipe, "--out", tmp_path / "mine")
    assert answer.status == 2 and "holds other files" in answer.err
    assert [one.name for one in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_every_file_that_the_recipe_names_is_part_of_it(tmp_path: Path, limbeck: Limbeck) -> None:
    """Rationales that are given decide the students as the data do: a run after a change would be another."""
    rows = [{"q": f"{n} + {n}?", "a": str(2 * n), "why": f"It is {2 * n}."} for n in range(1, 13)]
    for name, some in (("train", rows[:8]), ("test", rows[8:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
    given = [{"question": one["q"], "rationale": one["why"]} for one in rows[:8]]
    file = tmp_path / "given.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in given))
    recipe, out = tmp_path / "files.yaml", tmp_path / "out"
    recipe.write_text(f"""
name: files
task: {{name: sums, kind: number, train: {tmp_path}/train.jsonl, test: {tmp_path}/test.jsonl, dev: 0,
  columns: {{question: q, answer: a}}}}
teacher: {{kind: given, file: {file}}}
student: {{model: tiny-causal-xs, train: {{epochs: 1}}}}
students: {{one: {{method: finetune-cot}}, two: {{method: answers-only}}}}
exam: {{max_tokens: 4}}
claims: {{students: 3, compare: [[one, two]]}}
""")
    process = begin(recipe, out)
    wait_for(out / "protocol.json")
    process.kill()
    process.communicate()
    assert "teacher.file" in json.loads((out / "protocol.json").read_text())["data"]
    file.write_text("".join(json.dumps(one) + "\n" for one in given[:4]))
    answer = limbeck("claims", recipe, "--out", out)
    assert answer.status == 2
    assert "protocol.json" in answer.err and "teacher.file changed since" in answer.err


def test_nobody_looks_before_all_runs_are_done(recipe: Path, tmp_path: Path, limbeck: Limbeck) -> None:
    out = tmp_path / "out"
    answer = limbeck(
        "claims", recipe, "--out", out, "--set", "claims.problem_draws=1", "--set", "claims.students=3"
    )
    assert answer.status == 0, answer.err
    said = (out / "logs" / "draw1-mentor1.txt").read_text()
    assert "B − A" not in said and "between seeds" not in said
    assert not (out / "runs" / "draw1-mentor1" / "report.html").exists()


def test_a_number_of_processes_below_one_is_refused(recipe: Path, tmp_path: Path) -> None:
    import limbeck as package

    with pytest.raises(InputError, match="--processes -1"):
        package.claims(recipe, out=tmp_path / "out", processes=-1)


def test_a_run_that_fails_is_named_with_its_reason(recipe: Path, tmp_path: Path, limbeck: Limbeck) -> None:
    answer = limbeck("claims", recipe, "--out", tmp_path / "out", "--set", "student.train.max_length=2")
    assert answer.status == 1
    assert "draw1-mentor1: ended with status 2" in answer.err and "max_length" in answer.err
    assert not (tmp_path / "out" / "claims.json").exists()


def test_files_of_a_methods_settings_are_part_of_the_protocol(tmp_path: Path) -> None:
    """Mistakes and feedback from files: what they hold decides the students, so it is written down."""
    from limbeck.errors import DataError
    from limbeck.methods import resolve_methods
    from limbeck.protocol.written import open_protocol

    names = ["mistakes", "said-0", "said-1"]
    for name in names:
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    exam, said = (
        f"{{file: '{tmp_path}/mistakes.jsonl'}}",
        f"{{kind: given, file: '{tmp_path}/said-{{round}}.jsonl'}}",
    )
    own = f"{{rounds: 2, begin: rationales, train_exam: {exam}, feedback: {said}}}"
    path = tmp_path / "r.yaml"
    path.write_text(SMALL.replace("{method: finetune-cot}", f"{{method: tailored, settings: {own}}}"))
    recipe, chosen = resolve_methods(load_recipe(path), str(path), path.parent)
    open_protocol(tmp_path / "p", recipe, str(path), chosen)
    open_protocol(tmp_path / "p", recipe, str(path), chosen)
    for name in names:
        (tmp_path / f"{name}.jsonl").write_text("{} \n")
        with pytest.raises(DataError):
            open_protocol(tmp_path / "p", recipe, str(path), chosen)
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
