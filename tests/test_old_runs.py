"""Run folders of version 0.1.0: finished stages are used unless something that both know changed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from limbeck.run_folder import Stage, open_run, plan


class Train(BaseModel):
    learning_rate: float = 3e-4
    epochs: int = 20
    batches: str = "random"  # 0.1.0 did not know it


class Lora(BaseModel):
    r: int = 64


class Student(BaseModel):
    model: str = "tiny"
    lora: Lora | None = None
    train: Train = Train()


PROBLEMS, STUDENT = "p" * 64, "s" * 64


def old_stage(folder: Path, name: str, state: str, own: dict[str, Any], **more: Any) -> None:
    """A stage as 0.1.0 left it."""
    (folder / name).mkdir(parents=True)
    (folder / name / "out.txt").write_text("old")
    known = {"name": name, "settings": own, "inputs": {}, "fingerprint": PROBLEMS, "state": state}
    if state == "done":
        known |= {"seconds": 1.5, "files": {"out.txt": 3}}
    (folder / name / "stage.json").write_text(json.dumps(known | more))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run of 0.1.0 with a trained student; `learning_rate` and `epochs` were given, the rest is default."""
    versions = {"python": "3.11.7", "limbeck": "0.1.0"}
    about = {"recipe": "x", "versions": versions, "git": "6" * 40, "created": "2026-01-01T00:00:00+00:00"}
    (tmp_path / "run.json").write_text(json.dumps(about))
    (tmp_path / "run.lock").write_text("17")
    old_stage(tmp_path, "problems", "done", {"task": {"name": "x", "knobs": {"digits": 2}}, "seed": 0})
    train = {"learning_rate": 0.002, "epochs": 10, "precision": "fp32"}
    own = {"model": "tiny", "lora": None, "train": train, "seed": 0}
    inputs = {"inputs": {"problems": PROBLEMS}, "fingerprint": STUDENT}
    old_stage(tmp_path, "students/a/seed0", "done", own, **inputs)
    return tmp_path


Story = Callable[..., tuple[list[str], list[str], Stage]]


@pytest.fixture
def story(old: Path) -> Story:
    """Run the two stages with today's code: what ran, what was said, and the student's stage."""

    def run_it(student: Student | None = None, digits: int = 2, more: str = "") -> Any:
        ran: list[str] = []
        said: list[str] = []

        def write(folder: Path) -> None:
            ran.append(folder.name)
            (folder / "out.txt").write_text("new")

        task = {"name": "x", "parameters": {"digits": digits}}
        with open_run(old, "x", said.append) as run:
            first = run.stage("problems", plan({"task": task}, seed=0), {}, write)
            inputs = {"train problems": first.fingerprint} | ({"file": more} if more else {})
            chosen = student or Student(train=Train(learning_rate=0.002, epochs=10))
            trained = run.stage("students/a/seed0", plan(chosen, seed=0, method="cot"), inputs, write)
            run.describe("", {"recipe": "x"})
        return ran, said, trained

    return run_it


def test_what_is_finished_is_used(old: Path, story: Story) -> None:
    ran, said, trained = story()
    assert ran == [] and trained.fingerprint == STUDENT
    assert said[0].startswith("this run was begun by limbeck 0.1.0 (6666666666), this is limbeck")
    about = json.loads((old / "run.json").read_text())
    assert about["begun_by"] == {"limbeck": "0.1.0", "git": "6" * 40}
    assert about["created"].startswith("2026-01-01")
    state = json.loads((trained.folder / "stage.json").read_text())
    assert (state["limbeck"], state["seconds"], state["state"]) == ("0.1.0", 1.5, "done")
    ran, said, _ = story(more="f")
    assert ran == ["seed0"], "from now on it is one of ours: a new input counts"
    ran, _, back = story()
    assert ran == [] and back.fingerprint == STUDENT, "and it comes back"


@pytest.mark.parametrize(
    ("student", "why"),
    [
        (
            Student(train=Train(learning_rate=0.001, epochs=10)),
            "train.learning_rate changed from 0.002 to 0.001",
        ),
        (Student(train=Train(learning_rate=0.002)), "train.epochs changed from 10 to 20"),
        (Student(lora=Lora(), train=Train(learning_rate=0.002, epochs=10)), "lora was not set before"),
        (Student(model="big"), "model changed from 'tiny' to 'big'"),
    ],
)
def test_a_setting_that_both_know_is_noticed(old: Path, story: Story, student: Student, why: str) -> None:
    ran, said, trained = story(student)
    assert ran == ["seed0"] and (trained.folder / "out.txt").read_text() == "new"
    assert any(f"students/a/seed0: runs again, because {why}" in line for line in said)
    ran, _, back = story()
    assert ran == [] and (back.folder / "out.txt").read_text() == "old", "it comes back from old/"


def test_a_setting_that_is_new_is_not(story: Story) -> None:
    ran, _, _ = story(Student(train=Train(learning_rate=0.002, epochs=10, batches="by-length")))
    assert ran == []
    ran, said, _ = story()
    assert ran == ["seed0"] and "train.batches changed from 'by-length' to its default" in "\n".join(said)


def test_a_setting_with_another_name_and_a_changed_input(story: Story) -> None:
    ran, said, _ = story(digits=3)
    assert ran == ["problems", "seed0"]
    assert "problems: runs again, because task.parameters.digits changed from 2 to 3" in "\n".join(said)
    assert "seed0: runs again, because its input problems changed" in "\n".join(said)


def test_a_group_of_settings_that_is_gone(old: Path, story: Story) -> None:
    path = old / "students/a/seed0/stage.json"
    state = json.loads(path.read_text())
    state["settings"]["lora"] = {"r": 64}
    path.write_text(json.dumps(state))
    ran, said, _ = story()
    assert ran == ["seed0"] and "lora is no longer set" in "\n".join(said)


def test_what_was_half_done_or_damaged_begins_again(old: Path, story: Story) -> None:
    (old / "problems" / "out.txt").write_text("damaged")
    path = old / "students/a/seed0/stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "started"}))
    ran, said, _ = story()
    assert ran == ["problems", "seed0"]
    lost = "problems: runs again, because out.txt is missing or has another size; what was there is in old/"
    assert lost in said
    assert "because another version of Limbeck had not finished it" in "\n".join(said)


def test_prompts_of_its_own_are_noticed(old: Path) -> None:
    said: list[str] = []
    with open_run(old, "x", said.append) as run:
        problems = run.stage("problems", plan({"seed": 0}), {}, lambda folder: None)
        student = plan(
            Student(train=Train(learning_rate=0.002, epochs=10)), seed=0, asking={"prompt": {"system": "S"}}
        )
        run.stage("students/a/seed0", student, {"problems": problems.fingerprint}, lambda folder: None)
    assert "seed0: runs again, because its prompts are no longer the usual ones" in "\n".join(said)
