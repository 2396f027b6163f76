"""What a finished stage wrote is known bit for bit: damage is noticed where a file is read, and made good."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from limbeck import sealed
from limbeck.errors import DamagedError
from limbeck.files import with_sum, without_sum
from limbeck.lm.load import load
from limbeck.opening import tell
from limbeck.progress import SILENT
from limbeck.run_folder import Run, Stage, plan
from limbeck.stages.context import Context

Limbeck = Callable[..., Any]

SMALL = """
name: small
task: {name: coin-flip, train: 16, dev: 4, test: 6, parameters: {people: 2}}
teacher: {kind: offline, wrong_answer: 0.3, exam: false}
rationales: {per_problem: 2}
student: {model: tiny-causal-xs, method: finetune-cot, train: {batch_size: 8, epochs: 1}}
exam: {max_tokens: 8}
"""


def flip(path: Path, at: float = 0.5) -> None:
    """One bit, the size stays."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 4
    path.write_bytes(data)


def test_every_bit_of_a_line_with_its_sum_counts() -> None:
    line = json.dumps({"text": "é 🙂", "n": 1}).encode()
    kept = with_sum(line)
    assert json.loads(kept)["text"] == "é 🙂" and without_sum(kept + b"\n") == line == without_sum(line)
    for place in range(len(kept) * 8):
        torn = bytearray(kept)
        torn[place // 8] ^= 1 << place % 8
        with suppress(ValueError):
            assert json.loads(without_sum(bytes(torn))).keys() != {"text", "n"}, "so the record refuses it"


def test_every_bit_of_a_state_counts(tmp_path: Path) -> None:
    path = tmp_path / "stage.json"
    state = {"state": "done", "fingerprint": "f", "sha256": {"a": "b"}}
    sealed.write(path, state)
    whole = path.read_bytes()
    assert (sealed.read(path) or {}).items() >= state.items()
    for place in range(len(whole) * 8):
        torn = bytearray(whole)
        torn[place // 8] ^= 1 << place % 8
        path.write_bytes(torn)
        found = sealed.read(path)
        assert found is None or json.loads(torn) == json.loads(whole), torn
    path.write_text(json.dumps({"state": "done", "fingerprint": "f"}))
    assert sealed.read(path), "what earlier versions wrote has no seal"


# --- stages


Told = tuple[list[str], list[str]]


def story(run: Run, log: list[str], texts: dict[str, str]) -> tuple[Stage, Stage]:
    """A model, and an exam inside its folder that reads its weights."""

    def train(folder: Path) -> None:
        log.append("train")
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "w.safetensors").write_text(texts["weights"])
        (folder / "history.jsonl").write_text("rows")

    model = run.stage("m", plan({}), {}, train)
    path = model.folder / "model"

    def examine(folder: Path) -> None:
        log.append("exam")
        (folder / "out.txt").write_text((path / "w.safetensors").read_text())

    return model, run.stage("m/exam", plan({}), {"m": model.fingerprint}, examine, reads=[path])


def telling(folder: Path, texts: dict[str, str], again: tuple[str, ...] = ()) -> Told:
    log: list[str] = []
    said: list[str] = []
    run = Run(folder, said.append, again=again)
    (folder / "run.lock").touch()
    context = Context(run, None, None, SILENT)  # type: ignore[arg-type]
    tell(context, lambda: story(run, log, texts))
    return log, said


def test_damage_of_the_same_size_is_noticed_where_a_stage_comes_up(tmp_path: Path) -> None:
    texts = {"weights": "0.1 0.2"}
    telling(tmp_path, texts)
    flip(tmp_path / "m" / "history.jsonl")
    log, said = telling(tmp_path, texts)
    assert log == ["train"], "it is made again, and what was built on it is what it was"
    assert "m: runs again, because history.jsonl is damaged: it changed since it was written" in said[0]
    assert (tmp_path / "old/m/damaged/model/w.safetensors").exists()


def test_weights_are_looked_at_when_somebody_reads_them(tmp_path: Path) -> None:
    texts = {"weights": "0.1 0.2"}
    telling(tmp_path, texts)
    flip(tmp_path / "m/model/w.safetensors")
    assert telling(tmp_path, texts)[0] == [], "nobody read them"
    log, said = telling(tmp_path, texts, again=("m/exam",))
    assert log == ["train", "exam"]
    assert [line for line in said if "w.safetensors is damaged" in line] == [
        "m: model/w.safetensors is damaged: it changed since it was written; it runs again, "
        "the damaged files are in old/"
    ]
    assert (tmp_path / "m/exam/out.txt").read_text() == "0.1 0.2"


def test_what_was_built_on_another_result_is_built_again(tmp_path: Path) -> None:
    """A GPU may give other bits the second time: the exam of the lost weights is not that of the new ones."""
    telling(tmp_path, {"weights": "0.1 0.2"})
    (tmp_path / "m/history.jsonl").unlink()
    log, said = telling(tmp_path, {"weights": "0.1 0.3"})
    assert log == ["train", "exam"]
    assert any(
        "m/exam: runs again, because its input m was made again and is not what" in one for one in said
    )
    assert telling(tmp_path, {"weights": "0.1 0.3"})[0] == []


def test_a_disk_that_damages_again_is_not_fought_for_ever(tmp_path: Path) -> None:
    texts = {"weights": "0.1 0.2"}
    telling(tmp_path, texts)

    class Faulty(Run):
        def verify(self, paths: Any) -> None:
            for path in paths:
                flip(path / "w.safetensors")
            super().verify(paths)

    run = Faulty(tmp_path, print, again=("m/exam",))
    context = Context(run, None, None, SILENT)  # type: ignore[arg-type]
    with pytest.raises(DamagedError, match=r"w\.safetensors is damaged"):
        tell(context, lambda: story(run, [], texts))


@pytest.mark.parametrize("at", [0.1, 0.3, 0.5, 0.7, 0.9, None])
def test_a_damaged_stage_file_leaves_inner_stages_in_place(tmp_path: Path, at: float | None) -> None:
    texts = {"weights": "0.1 0.2"}
    telling(tmp_path, texts)
    path = tmp_path / "m/stage.json"
    flip(path, at) if at is not None else path.write_bytes(path.read_bytes()[:50])
    log, said = telling(tmp_path, texts)
    assert log == ["train"]
    assert said[0] == "m: runs again, because its stage.json is damaged; what was there is in old/"


def test_a_file_is_hashed_once_per_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from limbeck import files

    path = tmp_path / "big"
    path.write_text("x")
    os.utime(path, ns=(1, 1))
    monkeypatch.setattr(files, "TICK_NS", 0)
    read: list[Path] = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (read.append(self), real(self, *a, **k))[1])
    first = files.digest(path)
    assert files.digest(path) == first and len(read) == 1
    path.write_text("y")
    assert files.digest(path) != first and len(read) == 3, "written, and read again"


# --- the command


@pytest.fixture
def run(limbeck: Limbeck, tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SMALL)
    out = tmp_path / "run"
    assert limbeck("run", tmp_path / "small.yaml", "--out", out).status == 0
    return out


STUDENT = "students/finetune-cot/seed0"


def test_damaged_weights_are_trained_again_and_examined(limbeck: Limbeck, run: Path) -> None:
    """The student's weights are overwritten in place: no size changes."""
    weights, exam = run / STUDENT / "model/model.safetensors", run / STUDENT / "exam/predictions.jsonl"
    before = weights.read_bytes(), exam.read_bytes()
    flip(weights)
    for command in (("ask", run / STUDENT, "Why?"), ("export", run / STUDENT, "--out", run.parent / "x")):
        answer = limbeck(*command)
        assert answer.status == 2 and "model/model.safetensors is damaged" in answer.err, answer.err
    other = limbeck("evaluate", run / STUDENT, "--task", run.parent / "small.yaml", "--out", run.parent / "e")
    assert other.status == 2 and "model/model.safetensors is damaged" in other.err
    answer = limbeck("run", run.parent / "small.yaml", "--out", run, "--again", f"{STUDENT}/exam")
    assert answer.status == 0, answer.err
    assert answer.err.count("damaged: it changed since it was written") == 1
    assert (weights.read_bytes(), exam.read_bytes()) == before


def test_a_damaged_student_is_no_base_of_another_run(limbeck: Limbeck, run: Path) -> None:
    base, recipe = run / STUDENT / "model", run.parent / "small.yaml"
    flip(base / "model.safetensors")
    answer = limbeck("run", recipe, "--out", run.parent / "other", "--set", f"student.model={base}")
    assert answer.status == 2 and "model/model.safetensors is damaged" in answer.err, answer.err
    assert ": started" not in answer.err
    with pytest.raises(DamagedError):
        load(base)


def test_a_student_whose_prompts_are_damaged_is_not_asked(limbeck: Limbeck, run: Path) -> None:
    path = run / STUDENT / "model/limbeck.json"
    path.write_bytes(path.read_bytes()[:40])
    answer = limbeck("ask", run / STUDENT, "Why?")
    assert (
        answer.status == 2
        and "model/limbeck.json is missing or has another size; `limbeck run`" in answer.err
    )
    (run / STUDENT / "stage.json").unlink()
    for command in (("ask", run / STUDENT, "Why?"), ("export", run / STUDENT, "--out", run.parent / "x")):
        answer = limbeck(*command)
        assert answer.status == 2 and "seed0: stage.json is missing" in answer.err, answer.err


@pytest.mark.parametrize(
    "name", [f"{STUDENT}/exam/predictions.jsonl", f"{STUDENT}/exam/metrics.json", f"{STUDENT}/history.jsonl"]
)
def test_a_report_shows_no_damaged_exam(limbeck: Limbeck, run: Path, name: str) -> None:
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole.replace(b"1", b"2", 1))
    answer = limbeck("report", run, "--out", run.parent / "page.html")
    assert answer.status == 2 and f"{Path(name).name} is damaged" in answer.err, answer.err
    answer = limbeck("run", run.parent / "small.yaml", "--out", run)
    assert answer.status == 0 and f"{Path(name).name} is damaged" in answer.err


@pytest.mark.parametrize("harm", ["cut before the students", "another seed", "gone"])
def test_a_damaged_recipe_makes_no_stale_student_current(limbeck: Limbeck, run: Path, harm: str) -> None:
    """One student is left out of the recipe; only recipe.yaml says that its exam is stale."""
    recipe = run.parent / "small.yaml"
    recipe.write_text(SMALL + "students: {other: {train: {epochs: 2}}}\n")
    assert limbeck("run", recipe, "--out", run).status == 0
    assert "finetune-cot" not in limbeck("compare", run, "--json").out.replace('"finetune-cot"', "", 99)
    path = run / "recipe.yaml"
    text = path.read_text()
    if harm == "gone":
        path.unlink()
    else:
        path.write_text(
            text[: text.index("students:")] if harm.startswith("cut") else text.replace("- 0", "- 3")
        )
    for command in (("compare", run), ("report", run, "--out", run.parent / "page.html")):
        answer = limbeck(*command)
        assert answer.status == 2 and "recipe.yaml: " in answer.err and "writes it again" in answer.err
    assert limbeck("run", recipe, "--out", run).status == 0
    assert path.read_text() == text and limbeck("compare", run).status == 0


def test_a_damaged_run_file_is_written_again(limbeck: Limbeck, run: Path) -> None:
    path = run / "run.json"
    path.write_text(path.read_text().replace('"small"', '"smell"'))
    answer = limbeck("compare", run)
    assert answer.status == 2 and "run.json: damaged" in answer.err
    answer = limbeck("run", run.parent / "small.yaml", "--out", run)
    assert answer.status == 0 and answer.err.count("run.json is damaged; it is written again") == 1
    assert json.loads(path.read_text())["recipe"] == "small"


def test_a_finished_exam_is_not_replaced_without_a_word(limbeck: Limbeck, run: Path) -> None:
    out = run.parent / "exam"
    command = ("evaluate", run / STUDENT, "--task", run.parent / "small.yaml", "--out", out)
    assert limbeck(*command).status == 0
    first = (out / "metrics.json").read_bytes()
    answer = limbeck(*command, "--limit", "2")
    assert (
        answer.status == 2
        and "holds a finished exam; name a new folder with --out, or add --replace" in answer.err
    )
    assert (out / "metrics.json").read_bytes() == first
    assert limbeck(*command, "--limit", "2", "--replace").status == 0
    assert json.loads((out / "metrics.json").read_text())["problems"] == 2


def test_an_exam_in_another_dtype(limbeck: Limbeck, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --dtype it is the one that the model's folder names: that of the exam of its run."""
    from limbeck.lm import load as module

    seen: list[str] = []
    real = module.load
    monkeypatch.setattr(
        module, "load", lambda *a, **k: (seen.append(k.get("dtype", "float32")), real(*a, **k))[1]
    )
    about = run.parent / "model"
    about.mkdir()
    for path in (run / STUDENT / "model").iterdir():
        (about / path.name).write_bytes(path.read_bytes())
    told = json.loads((about / "limbeck.json").read_text())
    (about / "limbeck.json").write_text(json.dumps({**told, "dtype": "bfloat16"}))
    for number, more in enumerate(((), ("--dtype", "float32"))):
        out = run.parent / f"e{number}"
        task = ("--task", run.parent / "small.yaml", "--out", out)
        assert limbeck("evaluate", about, *task, *more).status == 0
        assert json.loads((out / "metrics.json").read_text())["dtype"] == ("bfloat16", "float32")[number]
    assert seen == ["bfloat16", "float32"]
