"""Mentor-KD from a recipe to examined students, for real and in small."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck import sealed

Limbeck = Callable[..., Any]

SMALL = """
name: small
task: {name: coin-flip, train: 40, dev: 8, test: 16, parameters: {people: 2}}
teacher: {kind: offline, wrong_answer: 0.3, exam: false}
rationales: {per_problem: 2, keep: all}
mentor:
  model: tiny-causal-s
  rationales: 2
  train: {learning_rate: 2.0e-3, batch_size: 16, epochs: 4}
  writes: {per_problem: 2, max_tokens: 40}
  keep: all
student:
  model: tiny-causal-xs
  method: mentor-kd
  train: {learning_rate: 1.0e-3, batch_size: 16, epochs: 1}
students:
  both: {}
  without-rd: {settings: {mentor_rationales: 0}}
  without-sld: {settings: {kl_weight: 0}}
  live: {settings: {soft_labels: live}}
exam: {max_tokens: 40}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def settings(*overrides: str) -> list[str]:
    """What every student of these tests shares, as --set arguments; the mentor wrote two each."""
    shared = ("student.settings.mentor_rationales=2", "student.settings.teacher_rationales=2")
    return [part for one in (*shared, *overrides) for part in ("--set", one)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def weights(student: Path) -> str:
    return hashlib.sha256((student / "model" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["tiny-causal", "tiny-seq2seq"])
def test_from_a_recipe_to_examined_students(
    limbeck: Limbeck, recipe: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "run"
    command = ("run", recipe, "--out", out, *settings(f"student.model={kind}-xs", f"mentor.model={kind}-s"))
    answer = limbeck(*command)
    assert answer.status == 0, answer.err
    assert answer.err.count("mentors/mentor: started") == 1, "one mentor for all its students"
    assert len(list((out / "mentors/mentor/soft-labels").glob("*/*/manifest.json"))) == 1
    assert "holds all 80 rows that without-rd" in answer.err, "one pass for all its students"

    mentor = out / "mentors" / "mentor"
    graded = lines(mentor / "rationales" / "graded.jsonl")
    assert len(graded) == 80 and {one["source"] for one in graded} == {"mentor"}
    kept = [one for one in graded if one["dropped"] is None]
    taught = [one for one in lines(out / "rationales" / "graded.jsonl") if one["dropped"] is None]
    counts = {
        name: len(lines(out / "students" / name / "seed0" / "examples.jsonl"))
        for name in ("both", "without-rd", "without-sld", "live")
    }
    assert counts["both"] == counts["live"] == counts["without-sld"] == len(taught) + len(kept)
    assert counts["without-rd"] == len(taught)
    history = lines(out / "students" / "both" / "seed0" / "history.jsonl")[-1]
    assert history["loss"] == pytest.approx(
        0.7 * history["cross_entropy"] + 0.3 * history["divergence"], 1e-5
    )
    assert "divergence" not in lines(out / "students" / "without-sld" / "seed0" / "history.jsonl")[-1]
    exam = json.loads((mentor / "exam" / "metrics.json").read_text())
    assert exam["problems"] == 16
    assert "\n mentor " in answer.out, "the mentor's exam stands among the results"
    assert "mentor: accuracy on training problems " in answer.err
    page = (out / "report.html").read_text()
    assert "newly covered problems" in page and "bytes per token" in page

    again = limbeck(*command)
    assert again.status == 0 and "started" not in again.err, "a finished run has nothing to do"


def test_cached_soft_labels_teach_what_live_ones_teach(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    """Up to what is not stored: the two students end close together, not far apart."""
    from safetensors.torch import load_file

    out = tmp_path / "run"
    assert limbeck("run", recipe, "--out", out, *settings()).status == 0
    manifest = json.loads(next((out / "mentors/mentor/soft-labels").glob("*/*/manifest.json")).read_text())
    assert (manifest["codec"], manifest["k"]) == ("top-k", 64)
    found = {
        name: load_file(out / "students" / name / "seed0" / "model" / "model.safetensors")
        for name in ("both", "live", "without-sld")
    }
    assert found["both"].keys() == found["live"].keys()

    def apart(a: str, b: str) -> float:
        return max(float((found[a][name] - found[b][name]).abs().max()) for name in found[a])

    assert apart("both", "live") < 0.1 * apart("both", "without-sld")


def test_the_mentor_is_trained_once_whatever_its_students_ask(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert limbeck("run", recipe, "--out", out, *settings()).status == 0
    other = limbeck("run", recipe, "--out", out, *settings("students.both.settings.kl_weight=0.5"))
    assert other.status == 0, other.err
    assert "mentors/mentor: done before, kept" in other.err
    assert "mentors/mentor/collected: done before, kept" in other.err
    assert (
        "students/both/seed0: runs again, because settings.kl_weight changed from its default to 0.5"
        in other.err
    )
    assert other.err.count("soft-labels") == other.err.count("rows that both") == 1, "no pass of the mentor"
    assert "students/live/seed0: done before, kept" in other.err
    warmer = limbeck("run", recipe, "--out", out, *settings("students.both.settings.temperature=1.0"))
    assert warmer.err.count("soft-labels") == 2, "others at this temperature (started, done)"
    more = limbeck("run", recipe, "--out", out, *settings("mentor.writes.temperature=1.0"))
    assert "mentors/mentor: done before, kept" in more.err
    assert "mentors/mentor/collected: runs again, because temperature changed" in more.err
    assert "students/without-rd/seed0: done before, kept" in more.err, "it never saw what the mentor wrote"
    same = (
        "students.without-rd.settings.temperature=2.0",
        "students.without-sld.settings.codec.k=9",
        "students.without-sld.settings.temperature=3.0",
        "mentor.writes.temperature=1.0",
    )
    idle = limbeck("run", recipe, "--out", out, *settings(*same))
    assert idle.status == 0 and "started" not in idle.err, "defaults written out, and what has no effect"


def test_students_share_soft_labels_as_far_as_they_are_the_same(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    """Another length limit, choice of checkpoint or number of rationales: one store; another codec: two."""
    students = (
        "{a: {train: {max_length: 400}}, b: {settings: {teacher_rationales: 1, mentor_rationales: 1}},"
        " c: {train: {choose: dev-loss}}, d: {settings: {codec: {k: 8}, teacher_rationales: 0}}}"
    )
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out, "--set", f"students={students}", *settings_but_counts())
    assert answer.status == 0, answer.err
    assert len(list((out / "mentors/mentor/soft-labels").iterdir())) == 2
    manifests = (out / "mentors/mentor/soft-labels").glob("*/*/manifest.json")
    rows = sorted(json.loads(path.read_text())["rows"] for path in manifests)
    assert rows[0] > 0 and "holds all" in answer.err, "b's rows are among a's; only dev's are added for c"
    dev = lines(out / "students/c/seed0/history.jsonl")[-1]
    assert dev["dev_divergence"] > 0


def test_what_equals_the_teachers_is_new_to_a_student_without_the_teacher(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    """A mentor that repeats its teacher word by word adds nothing next to it, and everything without it."""
    out = tmp_path / "run"
    assert limbeck("collect", recipe, "--out", out, *settings()).status == 0
    echo = tmp_path / "echo.jsonl"
    echo.write_bytes((out / "rationales" / "graded.jsonl").read_bytes())
    students = (
        "{alone: {settings: {teacher_rationales: 0}}, one: {settings: {teacher_rationales: 1}}, both: null}"
    )
    answer = limbeck("run", recipe, "--out", out, *settings(f"students={students}", f"mentor.file={echo}"))
    assert answer.status == 0 and "both: mentor mentor wrote nothing new" in answer.err
    found = [
        sorted(line["completion"] for line in lines(out / place / "examples.jsonl"))
        for place in ("mentors/mentor", *(f"students/{name}/seed0" for name in ("alone", "one", "both")))
    ]
    assert found[0] == found[1] == found[2] == found[3]
    audit = json.loads((out / "mentors/mentor/rationales/audit.json").read_text())
    assert audit["kept"] == 0 and audit["dropped"]["duplicate of the teacher's"] > 0


def settings_but_counts() -> list[str]:
    return ["--set", "mentor.writes.temperature=0.5", "--set", "mentor.writes.per_problem=3"]


def test_a_share_of_the_teachers_data(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """Smaller shares are parts of larger ones; the mentor still writes about every problem, if it may."""
    out = tmp_path / "run"
    students = (
        "students={half: {}, whole: {settings: {mentor: whole}}, cot: {method: finetune-cot, settings: null}}"
    )
    mentors = "mentors={mentor: {teacher_share: 0.5}, whole: {exam: false}}"
    taught = "mentors={mentor: {teacher_share: 0.5, writes: {problems: taught}}, whole: {exam: false}}"
    for setting, asked in ((mentors, 40), (taught, 20)):
        answer = limbeck(
            "run",
            recipe,
            "--out",
            out,
            *settings(
                students,
                setting,
                "students.cot.settings={rationales: 2, teacher_share: 0.5}",
                "student.settings=null",
                "students.half.settings={mentor_rationales: 2, teacher_rationales: 2}",
                "students.whole.settings={mentor: whole, mentor_rationales: 2}",
            ),
        )
        assert answer.status == 0, answer.err
        seen = {one["problem_id"] for one in lines(out / "mentors/mentor/examples.jsonl")}
        assert len(seen) == 20
        assert seen < {one["problem_id"] for one in lines(out / "mentors/whole/examples.jsonl")}
        assert seen == {one["problem_id"] for one in lines(out / "students/cot/seed0/examples.jsonl")}
        written = {one["problem_id"] for one in lines(out / "mentors/mentor/rationales/graded.jsonl")}
        assert len(written) == asked
        audit = json.loads((out / "mentors/mentor/rationales/audit.json").read_text())
        assert audit["problems the teacher covers"] == 20
        assert audit["newly covered problems"] == len(
            {
                one["problem_id"]
                for one in lines(out / "mentors/mentor/rationales/graded.jsonl")
                if not one["dropped"]
            }
            - seen
        )


def test_a_mentors_texts_are_kept_by_its_own_rule(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """`unless-wrong` is for a teacher's unfinished texts; what a mentor leaves unfinished is not gold."""
    recipe.write_text(SMALL.replace("keep: all", "keep: unless-wrong", 1).replace("  keep: all\n", ""))
    out, file = tmp_path / "run", tmp_path / "written.jsonl"
    assert limbeck("collect", recipe, "--out", out, *settings()).status == 0
    first = lines(out / "rationales" / "graded.jsonl")[0]
    texts = ["I shall not say.", "The coin turns. The answer is yes.", "The coin turns. The answer is no."]
    rows = [{"problem_id": first["problem_id"], "completion": text} for text in texts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = limbeck("run", recipe, "--out", out, *settings(f"mentor.file={file}", "students={both: {}}"))
    assert answer.status == 0, answer.err
    graded = lines(out / "mentors/mentor/rationales/graded.jsonl")
    assert sorted(str(one["dropped"]) for one in graded) == ["None", "no answer found", "wrong answer"]
    assert all(one["correct"] for one in graded if one["dropped"] is None)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("student.settings.mentor=large", "students.both.settings.mentor: the recipe has no mentor 'large'"),
        ("student.format=arrow", "students.both.format: arrow, but its mentor reads plain"),
        ("student.settings.mentor_rationales=3", "raise mentors.mentor.writes.per_problem"),
        ("student.settings.kl_weight=1.5", "students.both.settings.kl_weight"),
        ("student.settings.temperature=0", "students.both.settings.temperature"),
        ("student.settings.codec.kind=top", "students.both.settings.codec.kind"),
        ("mentor.model=tiny-causal-huge", "mentors.mentor.model: no tiny model"),
        ("mentor.writes.temperature=0", "mentors.mentor.writes.temperature"),
        ("mentor.file=none.jsonl", "none.jsonl: no such file; check the path"),
    ],
)
def test_what_cannot_go_together_is_refused_before_any_work(
    limbeck: Limbeck, recipe: Path, tmp_path: Path, override: str, words: str
) -> None:
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out, *settings(override))
    assert answer.status == 2 and words in answer.err
    assert not (out / "mentors").exists() and not (out / "rationales").exists()


def test_a_mentor_of_another_kind_or_tokenizer_is_refused(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    answer = limbeck("run", recipe, "--out", tmp_path / "a", *settings("mentor.model=tiny-seq2seq-xs"))
    assert answer.status == 2 and "mentor" in answer.err and answer.err.count("\n") < 40
    from limbeck.lm.load import load
    from limbeck.lm.saving import save

    for name, text in (("one", "Is the coin heads up?"), ("other", "Another set of frequent words")):
        save(load("tiny-causal-xs", tokenizer_texts=[text] * 9, device="cpu"), tmp_path / name)
    student = f"student.model={tmp_path / 'one'}"
    answer = limbeck("run", recipe, "--out", tmp_path / "b", *settings(student))
    assert answer.status == 2 and "soft labels need one tokenizer" in answer.err
    answer = limbeck(
        "run", recipe, "--out", tmp_path / "c", *settings(student, f"mentor.model={tmp_path / 'other'}")
    )
    assert answer.status == 2 and "the student's tokenizer" in answer.err
    assert not (tmp_path / "c" / "mentors").exists(), "told before the mentor is trained"


def test_the_mentors_rationales_may_be_given(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """Teacher's and mentor's rationales from files, graded anew: what `limbeck import` is for."""
    out = tmp_path / "run"
    assert limbeck("run", recipe, "--out", out, *settings()).status == 0
    teacher, mentor = tmp_path / "teacher.jsonl", tmp_path / "mentor.jsonl"
    teacher.write_bytes((out / "rationales" / "graded.jsonl").read_bytes())
    mentor.write_bytes((out / "mentors" / "mentor" / "rationales" / "graded.jsonl").read_bytes())
    given = (f"teacher={{kind: given, file: {teacher}}}", f"mentor.file={mentor}")
    answer = limbeck("run", recipe, "--out", tmp_path / "given", *settings(*given))
    assert answer.status == 0, answer.err
    assert "mentors/mentor/collected" not in answer.err, "who wrote already is not asked to write"
    for name in ("students/both/seed0/examples.jsonl", "mentors/mentor/examples.jsonl"):
        assert (tmp_path / "given" / name).read_bytes() == (out / name).read_bytes()


def test_what_another_mentor_left_is_made_again(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """A mentor that was damaged and came out different from its second training, as it may on a GPU."""
    out = tmp_path / "run"
    command = ("run", recipe, "--out", out, *settings("students={both: {}}"))
    assert limbeck(*command).status == 0
    mentor = out / "mentors" / "mentor"
    weights_file = mentor / "model" / "model.safetensors"
    data = bytearray(weights_file.read_bytes())
    data[-1] ^= 1
    weights_file.write_bytes(data)
    state = json.loads((mentor / "stage.json").read_text())
    other = hashlib.sha256(data).hexdigest()
    sealed.write(
        mentor / "stage.json", state | {"sha256": state["sha256"] | {"model/model.safetensors": other}}
    )
    answer = limbeck(*command)
    assert answer.status == 0, answer.err
    for stage in ("mentors/mentor/exam", "mentors/mentor/collected", "students/both/seed0"):
        assert f"{stage}: runs again, because its input mentor was made again and is not" in answer.err
    assert answer.err.count("was written by a mentor of other weights; it runs again") == 1
    assert len(list((mentor / "soft-labels").glob("*/*/manifest.json"))) == 1
    again = limbeck(*command)
    assert again.status == 0 and "started" not in again.err


def _run(recipe: Path, out: Path, arguments: Sequence[str]) -> None:
    """In a forked child: the whole run, its text to nowhere."""
    from limbeck.cli import main

    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    sys.argv = ["limbeck", "run", str(recipe), "--out", str(out), *arguments]
    main()


def test_kills_change_nothing(recipe: Path, tmp_path: Path) -> None:
    """SIGKILL again and again, then to the end: the same weights, soft labels and predictions."""
    import limbeck.lm.local
    import limbeck.training.trainer  # noqa: F401

    fork = multiprocessing.get_context("fork")
    some = settings("students={both: {}}")

    def go(out: Path, seconds: float | None) -> int | None:
        child = fork.Process(target=_run, args=(recipe, out, some))
        child.start()
        child.join(timeout=seconds)
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        return child.exitcode

    assert go(tmp_path / "calm", None) == 0
    moments = random.Random(3)
    for _ in range(8):
        go(tmp_path / "killed", moments.uniform(0.3, 1.5))
    assert go(tmp_path / "killed", None) == 0

    def files(run: Path) -> dict[str, str]:
        return {
            path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for part in ("mentors", "students")
            for path in sorted((run / part).rglob("*"))
            if path.is_file() and path.name not in ("stage.json", "metrics.json", "training.json")
        }

    calm = files(tmp_path / "calm")
    assert any("soft-labels" in name for name in calm)
    assert files(tmp_path / "killed") == calm
