"""The command: exit status and one sentence for what is wrong, and nothing touched."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Limbeck = Callable[..., object]
RECIPE = "name: x\ntask: {name: arithmetic, train: 5, dev: 1, test: 2}\nstudent: {method: answers-only}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path


def test_help_is_quick_because_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['limbeck', '--help']\n"
        "from limbeck.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'pydantic', 'yaml', 'numpy') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip().endswith("[]")
    commands = "run collect grade import evaluate compare claims report ask tasks methods"
    for command in commands.split():
        assert re.search(rf"^  {command} ", answer.stdout, re.M)


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "limbeck", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("limbeck ")


def test_lists(limbeck: Limbeck) -> None:
    tasks, methods = limbeck("tasks"), limbeck("methods")
    assert tasks.status == methods.status == 0
    assert all(name in tasks.out for name in ("last-letters", "coin-flip", "shuffled-objects", "arithmetic"))
    assert all(name in methods.out for name in ("answers-only", "finetune-cot", "2212.10071"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["taks.name=x"], "taks: unknown setting; did you mean task?"),
        (["task.name=algebra"], "no such task"),
        (["student.method=magic"], "no method 'magic'"),
        (["student.train.epochs=x"], "train.epochs"),
        (["task={name: d, kind: number, train: none.jsonl, test: none.jsonl}"], "none.jsonl"),
        (["task={name: d, kind: riddle, train: a, test: b}"], "kind"),
        (["student.model=/no/such/model"], "no such folder"),
        (["teacher={kind: given}", "student.method=finetune-cot"], "rationale"),
        (["student.model=tiny-causal-huge"], "students.answers-only.model: no tiny model"),
        (["student.model=."], "folder without config.json"),
        (["student.device=abacus"], "device"),
        (["student.train.deepspeed=ds.json"], "train.deepspeed: ds.json: cannot be read"),
        (["student.train.precision=fp16", "student.device=cpu"], "precision: fp16 needs a CUDA GPU"),
        (["student.dtype=bfloat16"], "updates of all weights get lost in bfloat16"),
        (["student.seeds=[-1]"], "seeds"),
        (["student.train.choose=dev-accuracy", "task.dev=0"], "needs dev problems"),
        (["name=.."], "name"),
        (["students={..: {}}"], "students"),
        (["name=2024-13-45"], "quote it"),
        (["task={kind: number, kind: text}"], "is here twice"),
    ],
)
def test_a_wrong_recipe_is_one_sentence_and_status_2(
    limbeck: Limbeck, recipe: Path, tmp_path: Path, settings: list[str], complaint: str
) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    answer = limbeck("run", recipe, *options, "--out", tmp_path / "run")
    assert answer.status == 2, answer.err
    last = answer.err.strip().splitlines()[-1]
    assert last.startswith("limbeck: ") and complaint in last
    assert "Traceback" not in answer.err


DATA = [
    ('{"question": "q", "answer": "1"\n', ":1: "),
    ('{"question": "q"}\n', "answer"),
    ('{"question": " ", "answer": "1"}\n', "empty"),
    ('{"question": "q", "answer": "one thing"}\n', "number"),
    ('{"id": "1", "question": "q", "answer": "1"}\n{"id": "1", "question": "r", "answer": "2"}\n', ":2: "),
    ("", "data.jsonl"),
]


@pytest.mark.parametrize(("text", "complaint"), DATA)
def test_bad_data_name_file_and_line(
    limbeck: Limbeck, recipe: Path, tmp_path: Path, text: str, complaint: str
) -> None:
    data, test = tmp_path / "data.jsonl", tmp_path / "test.jsonl"
    data.write_text(text)
    test.write_text('{"id": "t", "question": "other", "answer": "3"}\n')
    columns = "{id: id}" if '"id"' in text else "{}"
    task = f"task={{name: d, kind: number, train: {data}, test: {test}, dev: 0, columns: {columns}}}"
    answer = limbeck("run", recipe, "--set", task, "--out", tmp_path / "run")
    assert answer.status == 2
    last = answer.err.strip().splitlines()[-1]
    assert "data.jsonl" in last and complaint in last


def test_a_refused_recipe_changes_nothing_of_a_finished_run(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert limbeck("collect", recipe, "--out", out).status == 0
    names = (
        "run.json",
        "recipe.yaml",
        "problems/train.jsonl",
        "problems/stage.json",
        "rationales/audit.json",
    )
    before = {name: (out / name).read_bytes() for name in names}
    for setting in ("task={kind: text, train: none.jsonl, test: none.jsonl}", "student.model=/none"):
        assert limbeck("run", recipe, "--out", out, "--set", setting).status == 2
    assert limbeck("run", recipe, "--out", out, "--set", "name=other").status == 2
    assert {name: (out / name).read_bytes() for name in names} == before
    assert not (out / "old").exists()
    inside = limbeck("evaluate", "m", "--task", "coin-flip", "--out", out / "students" / "x" / "exam")
    assert inside.status == 2 and "is part of a run" in inside.err


def test_ctrl_c_says_how_to_go_on(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "limbeck", "run", str(recipe), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "problems" / "stage.json").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on where it stopped" in err and "Traceback" not in err


def test_a_leak_is_refused_unless_allowed_by_name(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "q", "answer": "1"}\n{"question": "r", "answer": "2"}\n')
    task = f"task={{name: d, kind: number, train: {data}, test: {data}, dev: 0}}"
    answer = limbeck("run", recipe, "--set", task, "--out", tmp_path / "run")
    assert answer.status == 2 and "task.leaks" in answer.err


def test_a_second_run_in_the_folder_is_refused(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    from limbeck.run_folder import open_run

    with open_run(tmp_path / "run", "x", print):
        answer = limbeck("run", recipe, "--out", tmp_path / "run")
    assert answer.status == 2 and f"process {os.getpid()}" in answer.err


def test_a_read_only_place_is_one_sentence(limbeck: Limbeck, recipe: Path) -> None:
    answer = limbeck("run", recipe, "--out", "/proc/none/run")
    assert answer.status == 2 and "/proc/none" in answer.err


def test_wrong_arguments_have_status_2(limbeck: Limbeck, tmp_path: Path) -> None:
    assert limbeck("run").status == 2
    assert limbeck("fly").status == 2
    assert limbeck("run", tmp_path / "none.yaml").status == 2
    assert limbeck("compare", tmp_path).status == 2
    assert limbeck("evaluate", tmp_path, "--task", "coin-flip", "--out", tmp_path / "e").status == 2
    assert limbeck("evaluate", "m", "--task", "no-task", "--out", tmp_path / "e").status == 2
    assert limbeck("ask", tmp_path, " ").status == 2
    assert limbeck("ask", tmp_path, "why?").status == 2
    assert limbeck("grade", tmp_path / "none.jsonl", "--task", "coin-flip").status == 2


def test_settings_are_of_a_recipe_not_of_a_built_in_task(limbeck: Limbeck, tmp_path: Path) -> None:
    answer = limbeck("grade", tmp_path / "f.jsonl", "--task", "coin-flip", "--set", "seed=1")
    assert answer.status == 2 and "name a recipe file with --task" in answer.err


def test_a_cap_needs_a_teacher_that_is_paid(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    answer = limbeck("collect", recipe, "--max-cost", "1", "--out", tmp_path / "run")
    assert answer.status == 2 and "costs nothing" in answer.err


def test_debug_shows_the_traceback(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "limbeck", "run", str(tmp_path / "none.yaml"), "--debug"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1 and "Traceback" in answer.stderr


def test_grade_audits_our_files_and_given_data(limbeck: Limbeck, tmp_path: Path) -> None:
    rows = [
        {"question": "1 + 1?", "answer": "2", "why": "1 + 1 = 2. The answer is 2."},
        {"question": "1 + 1?", "answer": "2", "why": "1 + 1 = 3. The answer is 3."},
    ]
    data, test = tmp_path / "d.json", tmp_path / "t.json"
    data.write_text(json.dumps(rows))
    test.write_text(json.dumps([{"question": "2 + 2?", "answer": "4"}]))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: x\ntask: {{kind: number, train: {data}, test: {test}, dev: 0, columns: {{rationale: why}}}}\n"
        "teacher: {kind: given}\nstudent: {method: finetune-cot}\n"
    )
    answer = limbeck("grade", data, "--task", recipe, "--out", tmp_path / "graded.jsonl")
    assert answer.status == 0 and "wrong answer: 1" in answer.out
    again = limbeck("grade", tmp_path / "graded.jsonl", "--task", recipe)
    assert again.status == 0 and again.out.splitlines()[:5] == answer.out.splitlines()[:5]
    alien = tmp_path / "alien.jsonl"
    alien.write_text('{"problem_id": "nobody", "completion": "The answer is 1."}\n')
    refused = limbeck("grade", alien, "--task", recipe)
    assert refused.status == 2 and "alien.jsonl:1" in refused.err


def test_methods_with_wrong_contents_are_one_sentence(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    head = "from limbeck.methods import Method\nfrom limbeck.recipe import Settings\n"
    wrong = {
        "METHOD = 3": "holds no METHOD",
        "raise SystemExit(0)": "SystemExit",
        head + "METHOD = Method('a', 'b', dict, print)": "METHOD.settings is not a class of settings",
        head + "METHOD = Method('a', 'b', Settings, None)": "METHOD.story is not a function",
        head + "METHOD = Method('a', 'b', Settings, print, uses=lambda settings: None)": "return Uses",
    }
    for text, said in wrong.items():
        (tmp_path / "mine.py").write_text(text)
        answer = limbeck("run", recipe, "--out", tmp_path / "run", "--set", "student={method: ./mine.py}")
        assert answer.status == 2 and said in answer.err and answer.err.count("\n") == 1, answer.err
    assert not (tmp_path / "run").exists()


def test_an_export_replaces_nothing(limbeck: Limbeck, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    answer = limbeck("export", "some/model", "--out", tmp_path / "mine")
    assert answer.status == 2 and "is there already" in answer.err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_paths_may_be_text_in_python(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    import limbeck as package

    assert package.load_recipe(str(recipe)).name == package.load_recipe(recipe).name
    folder = package.run(str(recipe), out=str(tmp_path / "run"), until="problems")
    assert (folder / "problems" / "test.jsonl").exists()
