"""`limbeck run --dry-run`: says what a run will do and take, and does nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.dry_run import probe
from limbeck.files import digest
from limbeck.lm.cost import TEMPLATE_TOKENS
from limbeck.training import shared_prompts

from .lm.families import tiny_model

Limbeck = Callable[..., Any]

RECIPE = """
name: x
task: {name: coin-flip, train: 12, dev: 0, test: 4, parameters: {people: 2}}
rationales: {per_problem: 2, max_tokens: 40}
students:
  plain: {method: answers-only, model: tiny-causal-xs, train: {epochs: 2}}
  cot: {method: finetune-cot, model: tiny-causal-xs, settings: {rationales: 2}, train: {epochs: 2}}
exam: {max_tokens: 24}
"""
MENTOR = (
    RECIPE
    + """
mentor: {model: tiny-causal-xs, train: {epochs: 1}, writes: {per_problem: 1, max_tokens: 24}}
"""
)
API = "{kind: api, base_url: 'http://127.0.0.1:9', model: m, exam: false,"
API += " prices: {usd_per_million_input: 2, usd_per_million_output: 10}}"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path


def looked(limbeck: Limbeck, recipe: Path, *more: object) -> dict[str, Any]:
    """What a dry run prints as JSON, after which the run folder is as it was."""
    out = recipe.parent / "run"
    before = files(out)
    answer = limbeck("run", recipe, "--dry-run", "--json", "--out", out, *more)
    assert answer.status == 0, answer.err
    assert files(out) == before, "a dry run wrote into the run folder"
    found: dict[str, Any] = json.loads(answer.out)
    return found


def files(folder: Path) -> dict[str, tuple[str, int]] | None:
    """Every file with its content and its time; None: there is no such folder."""
    if not folder.exists():
        return None
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (digest(path), path.stat().st_mtime_ns) for path in found}


def states(found: dict[str, Any]) -> dict[str, str]:
    return {one["stage"]: one["state"] for one in found["stages"]}


def learner(found: dict[str, Any], place: str) -> dict[str, Any]:
    one: dict[str, Any] = next(one for one in found["learners"] if one["place"] == place)
    return one


def test_before_and_after_a_run(limbeck: Limbeck, recipe: Path) -> None:
    """Nothing is there: what needs no teacher is exact, the rest says that it is an estimate. All is there:
    everything is done, and the counts are those of the training."""
    out = recipe.parent / "run"
    before = looked(limbeck, recipe)
    assert set(states(before).values()) == {"to do"} and not out.exists()
    expected = {"problems", "collected", "rationales", "teacher/exam"}
    expected |= {f"students/{name}/seed0{end}" for name in ("plain", "cot") for end in ("", "/exam")}
    assert states(before).keys() == expected
    plain, cot = (learner(before, f"students.{name}") for name in ("plain", "cot"))
    assert plain["estimates"] == [] and "rationales are not there yet" in cot["estimates"][0]
    assert plain["seconds"] == pytest.approx(plain["seconds_per_step"] * plain["steps"]) and plain["fits"]
    assert cot["examples"] == 24 and cot["batch"]["lengths"][0] <= 512

    assert limbeck("run", recipe, "--out", out).status == 0
    after = looked(limbeck, recipe)
    assert states(after).keys() == expected and set(states(after).values()) == {"done"}
    for name, early in (("plain", plain), ("cot", cot)):
        told = json.loads((out / "students" / name / "seed0" / "training.json").read_text())
        one = learner(after, f"students.{name}")
        assert one["estimates"] == [] and one["left"] == 0 and "seconds" not in one
        assert one["parameters"] == told["parameters"] and one["trained"] == told["trained_parameters"]
        assert (one["examples"], one["steps"], one["tokens"]) == (
            told["training_examples"],
            told["steps"],
            told["tokens"],
        )
        assert one["saved"] == 4 * told["parameters"]
        assert early["steps"] >= one["steps"] and early["tokens"] >= one["tokens"]
    assert (plain["steps"], plain["tokens"]) == tuple(
        learner(after, "students.plain")[key] for key in ("steps", "tokens")
    )
    assert after["disk"]["needed"] == 0 < before["disk"]["needed"]

    changed = looked(limbeck, recipe, "--no-probe", "--set", "students.cot.train.epochs=3")
    assert states(changed)["students/cot/seed0"] == "to do" and states(changed)["rationales"] == "done"
    why = {one["stage"]: one["why"] for one in changed["stages"]}
    assert why["students/cot/seed0"] == "train.epochs changed from 2 to 3"
    assert states(changed)["students/cot/seed0/exam"] == "to do"
    assert learner(changed, "students.cot")["estimates"] == []  # the rationales are there
    assert learner(changed, "students.cot")["steps"] == 3 * learner(after, "students.cot")["steps"] // 2

    again = looked(limbeck, recipe, "--no-probe", "--again", "students/plain/seed0")
    assert states(again)["students/plain/seed0"] == states(again)["students/plain/seed0/exam"] == "to do"

    graded = out / "rationales" / "graded.jsonl"
    graded.write_bytes(graded.read_bytes() + b"\n")
    damaged = looked(limbeck, recipe, "--no-probe")
    assert states(damaged)["rationales"] == "to do" and states(damaged)["collected"] == "done"
    assert learner(damaged, "students.cot")["estimates"] == []  # graded again, elsewhere


def test_a_round_holds_what_its_rationales_are_compared_with(limbeck: Limbeck, recipe: Path) -> None:
    """A rationale, another one and a mistake: whether that fits is what a user wants to know."""
    own = "{rounds: 1, begin: rationales, reflection: {weight: WEIGHT}}"
    student = "{cot: {method: tailored, settings: SETTINGS}}".replace("SETTINGS", own)
    found = []
    for weight in ("0.5", "0"):
        change = ("--set", "students=null", "--set", f"students={student.replace('WEIGHT', weight)}")
        found.append(learner(looked(limbeck, recipe, "--no-probe", *change), "students.cot"))
    triplets, plain = found
    assert triplets["batch"]["rows"] == 3 * plain["batch"]["rows"]
    assert triplets["batch"]["scored"] == plain["batch"]["scored"]
    assert triplets["examples"] == plain["examples"] and triplets["peak"] > plain["peak"]
    assert "one of 2 trainings, with the rows that it is compared with" in triplets["estimates"]


def test_a_mentor_and_its_soft_labels(limbeck: Limbeck, recipe: Path) -> None:
    """Soft labels are counted to the byte once the mentor has written; before, none is forgotten."""
    own = "{mentor_rationales: 1, teacher_rationales: 2}"
    recipe.write_text(MENTOR.replace("finetune-cot", "mentor-kd").replace("{rationales: 2}", own))
    out = recipe.parent / "run"
    found = looked(limbeck, recipe, "--no-probe")
    assert {"mentors/mentor", "mentors/mentor/exam", "mentors/mentor/rationales"} <= states(found).keys()
    student, mentor = learner(found, "students.cot"), learner(found, "mentors.mentor")
    assert "seconds" not in mentor and mentor["writing"]["rows"] == 64
    early = student["soft_labels"]
    assert student["examples"] == 36 and early["tokens"] == 36 * 40
    assert found["disk"]["soft_labels"] == early["bytes"] > 36 * 40 * 64 * 4

    assert limbeck("run", recipe, "--out", out, "--until", "mentors/mentor/rationales").status == 0
    later = looked(limbeck, recipe, "--no-probe")
    done = states(later)
    assert done["mentors/mentor/rationales"] == "done" and done["students/cot/seed0"] == "to do"
    assert any(name.startswith("mentors/mentor/soft-labels/top-k-") for name in done)
    exact = learner(later, "students.cot")
    assert exact["estimates"] == [] and exact["soft_labels"]["tokens"] < early["tokens"]
    assert limbeck("run", recipe, "--out", out).status == 0
    (manifest,) = (
        json.loads(path.read_text()) for path in out.glob("mentors/*/soft-labels/*/*/manifest.json")
    )
    assert exact["soft_labels"] == {"tokens": manifest["tokens"], "bytes": manifest["bytes"]}
    assert set(states(looked(limbeck, recipe, "--no-probe")).values()) == {"done"}


def test_students_share_soft_labels_that_are_not_there_yet(limbeck: Limbeck, recipe: Path) -> None:
    """One takes two of the teacher's rationales, one takes one: of a mentor that is trained, and before."""
    text = MENTOR.replace("finetune-cot", "mentor-kd").replace(
        "{rationales: 2}", "{mentor_rationales: 0, teacher_rationales: 2}"
    )
    less = (
        "{method: mentor-kd, model: tiny-causal-xs, settings: {mentor_rationales: 0, teacher_rationales: 1}}"
    )
    text = text.replace("students:\n", f"students:\n  less: {less}\n")
    recipe.write_text(text)
    out = recipe.parent / "run"
    for until in (None, "mentors/mentor/exam"):
        if until:
            assert limbeck("run", recipe, "--out", out, "--until", until).status == 0
        found = looked(limbeck, recipe, "--no-probe")
        both, fewer = (learner(found, f"students.{name}")["soft_labels"] for name in ("cot", "less"))
        assert found["disk"]["soft_labels"] == both["bytes"] > fewer["bytes"] > 0
    assert learner(found, "students.cot")["estimates"] == []
    assert limbeck("run", recipe, "--out", out, "--until", "students/less").status == 0
    (written,) = out.glob("mentors/*/soft-labels/*/*/manifest.json")
    left = looked(limbeck, recipe, "--no-probe")["disk"]["soft_labels"]
    there = json.loads(written.read_text())["bytes"]
    assert there == fewer["bytes"] and left == pytest.approx(both["bytes"] - there, abs=300)  # headers
    assert limbeck("run", recipe, "--out", out, "--until", "students/cot").status == 0
    assert looked(limbeck, recipe, "--no-probe")["disk"]["soft_labels"] == 0


def test_a_share_of_each_device(limbeck: Limbeck, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight hold an eighth each of what stays; what one process has no room for may fit on each of eight."""
    from limbeck.scale.devices import Memory

    sharded = ("--no-probe", "--set", "students.plain.train.sharding=fsdp")
    sharded += ("--set", "students.plain.model=tiny-causal-m")
    monkeypatch.setattr("limbeck.scale.devices.torch.cuda.device_count", lambda: 0)
    one, eight = (looked(limbeck, recipe, *sharded, *more) for more in ((), ("--devices", 8)))
    alone, each = (learner(found, "students.plain") for found in (one, eight))
    assert (alone["devices"], each["devices"]) == (1, 8)
    assert alone["peak"] == each["peak_alone"] > each["peak"]
    stays = alone["weights"] + alone["gradients"] + alone["optimiser"]
    assert alone["peak"] - each["peak"] < 7 * stays / 8  # embeddings, head and two layers are whole
    assert learner(one, "students.cot")["peak"] == learner(eight, "students.cot")["peak"]
    assert eight["disk"]["rows"] == 8 * one["disk"]["rows"] > 0

    between = (alone["peak"] + each["peak"]) // 2
    monkeypatch.setattr(
        "limbeck.dry_run.models.memory_of", lambda name: Memory("a GPU", "cuda", between, between)
    )
    tables = limbeck("run", recipe, "--dry-run", *sharded, "--out", recipe.parent / "o", "--devices", 8)
    said = " ".join(tables.out.split())
    assert tables.status == 0 and "on each of 8 devices" in said, tables.err
    monkeypatch.setattr("limbeck.scale.devices.torch.cuda.device_count", lambda: 8)
    found = looked(limbeck, recipe, "--set", "students.plain.train.sharding=fsdp", *sharded[1:])
    plain = learner(found, "students.plain")
    assert plain["fits"] and plain["devices"] == 8 and "one device" in plain["not_timed"]


@pytest.mark.parametrize(("folds", "trained"), [(2, True), (0, False)])
def test_a_verifier_is_a_model_too(limbeck: Limbeck, recipe: Path, folds: int, trained: bool) -> None:
    model, tokenizer = tiny_model("llama-2")
    own = recipe.parent / "own"
    model.save_pretrained(own)
    tokenizer.save_pretrained(own)
    found = looked(limbeck, recipe, "--set", f"verifier={{model: {own}, folds: {folds}}}", "--no-probe")
    verifier = learner(found, "verifier")
    assert (verifier["trained"] > 0, verifier["seeds"]) == (trained, max(folds, 1))
    assert verifier["parameters"] == sum(one.numel() for one in model.parameters())
    assert "rationales in its prompts are not counted" in verifier["estimates"]


def test_the_price_is_the_one_that_a_run_tells(limbeck: Limbeck, recipe: Path) -> None:
    found = looked(limbeck, recipe, "--no-probe", "--set", f"teacher={API}")
    (one,) = found["teacher"]
    assert one["stage"] == "collected" and one["requests"] == 24 and one["usd_expected"] is None
    assert one["max_output_tokens"] == 24 * 40
    least = (24 * TEMPLATE_TOKENS * 2 + 24 * 40 * 10) / 1e6
    assert least < one["usd_at_most"] < 4 * least
    run = limbeck("run", recipe, "--out", recipe.parent / "real", "--set", f"teacher={API}")
    assert run.status == 2 and one["says"] in run.err  # nobody agreed to it


@pytest.mark.parametrize(
    "override",
    [
        "students.cot.model=gogle/flan-t5",
        "students.cot.settings.rationals=1",
        "students.cot.device=mps",
        "task.train=no-such-file.json",
        "students.cot.train.choose=dev-loss",
        "teacher={kind: api, base_url: 'http://127.0.0.1:9', model: m, key_env: NO_SUCH_KEY_HERE}",
    ],
)
def test_what_a_run_refuses_is_refused_in_the_same_words(
    limbeck: Limbeck, recipe: Path, override: str
) -> None:
    out = recipe.parent / "run"
    dry = limbeck("run", recipe, "--dry-run", "--out", out, "--set", override)
    assert not out.exists()
    real = limbeck("run", recipe, "--out", out, "--set", override)
    assert dry.status == real.status == 2
    assert dry.err.splitlines()[-1] == real.err.splitlines()[-1]


def test_a_model_without_weights_at_hand(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    """Its config is enough, unless three steps are to be taken."""
    model, _ = tiny_model("llama-2")
    model.config.save_pretrained(tmp_path / "model")
    override = ("--set", f"students.plain.model={tmp_path / 'model'}")
    answer = limbeck("run", recipe, "--dry-run", "--out", tmp_path / "run", *override)
    assert answer.status == 2 and "there are no weights" in answer.err
    found = learner(looked(limbeck, recipe, "--no-probe", *override), "students.plain")
    assert found["parameters"] == sum(one.numel() for one in model.parameters())
    assert any("four characters count as a token" in why for why in found["estimates"])


def test_a_step_is_timed_as_it_is_trained(
    limbeck: Limbeck, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter as a base is folded in; on a CPU bf16 computes with weights that are converted once."""
    from limbeck.lm.load import load
    from limbeck.lm.saving import save
    from limbeck.lm.settings import LoraSettings

    folder, seen = tmp_path / "adapter", set[torch.dtype]()
    texts = [one * 3 for one in "abc"]
    save(load("tiny-causal-xs", tokenizer_texts=texts, lora=LoraSettings(r=2), device="cpu"), folder)
    plain = torch.nn.functional.linear

    def looked_at(
        given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        seen.add(weight.dtype)
        return plain(given, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", looked_at)
    override = [f"students.plain.{one}" for one in (f"model={folder}", "lora={r: 4}", "device=cpu")]
    override += ["students.plain.train.precision=bf16"]
    changes = [part for one in override for part in ("--set", one)]
    found = learner(looked(limbeck, recipe, *changes), "students.plain")
    assert found["seconds_per_step"] > 0 and torch.bfloat16 in seen


COLLATE = probe.collate


@pytest.mark.parametrize("share", [True, False])
def test_a_step_shares_prompts_as_its_training_does(
    limbeck: Limbeck, recipe: Path, monkeypatch: pytest.MonkeyPatch, share: bool
) -> None:
    """First guessed, where all prompts have the same tokens, then known; it is asked as a training asks."""
    recipe.write_text(RECIPE.replace("finetune-cot", "mcc-kd"))
    change = ["--set", "students.plain=null", "--set", f"students.cot.train.share_prompts={share}".lower()]
    out, batches = recipe.parent / "run", list[Any]()

    def seen(*given: Any, **more: Any) -> Any:
        batches.append(COLLATE(*given, **more))
        return batches[-1]

    monkeypatch.setattr(probe, "collate", seen)
    assert looked(limbeck, recipe, *change)["learners"]
    assert limbeck("collect", recipe, "--out", out).status == 0
    guessed = len(batches)
    assert looked(limbeck, recipe, *change)["learners"]
    assert 0 < guessed < len(batches)
    for batch in batches:
        assert ("owners" in batch) is share
        assert not share or 1 < len(batch["prompts"]) < len(batch["groups"])
    assert not share or all(2 * len(one["prompts"]) == len(one["groups"]) for one in batches[:guessed])


def test_rows_too_long_to_share_prompts_are_refused_once_they_are_known(
    limbeck: Limbeck, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guessed rows are as long as they may be: the real ones may fit."""
    change = ["--set", "students.cot.train.share_prompts=true"]
    monkeypatch.setattr(shared_prompts, "position_limit", lambda config: 8)
    guessed = looked(limbeck, recipe, *change)
    assert learner(guessed, "students.cot")["seconds"] > 0
    assert limbeck("collect", recipe, "--out", recipe.parent / "run").status == 0
    answer = limbeck("run", recipe, "--dry-run", "--out", recipe.parent / "run", *change)
    assert answer.status == 2 and "share_prompts: true cannot be, because the longest prompt" in answer.err


def test_any_other_reason_not_to_share_prompts_is_refused_at_once(limbeck: Limbeck, recipe: Path) -> None:
    """Whatever the rationales will be: no length of a row changes it."""
    change = ["--set", "students.cot.train.share_prompts=true"]
    change += ["--set", "students.cot.lora={r: 4, dropout: 0.1}"]
    answer = limbeck("run", recipe, "--dry-run", *change)
    assert answer.status == 2 and "true cannot be, because the model uses dropout" in answer.err


def test_tables_and_where_a_run_ends(limbeck: Limbeck, recipe: Path) -> None:
    answer = limbeck(
        "run", recipe, "--dry-run", "--no-probe", "--until", "rationales", "--out", recipe.parent / "o"
    )
    assert answer.status == 0
    assert "rationales" in answer.out and "students/cot/seed0" not in answer.out
    assert (
        "students.cot: tiny-causal-xs" in answer.out and "not timed" in answer.out and "disk: " in answer.out
    )


def test_nobody_is_trained_for_the_teachers_rationales(limbeck: Limbeck, recipe: Path) -> None:
    """Not even who needs none of them, or to settle a precision."""
    changes = ("--set", "students.plain.train.precision=auto", "--out", recipe.parent / "o")
    for until in ("collected", "rationales"):
        done = limbeck("run", recipe, "--until", until, *changes)
        assert done.status == 0 and (recipe.parent / "o" / until / "stage.json").is_file()
        assert not (recipe.parent / "o" / "students").exists() and "precision" not in done.err, done.err


@pytest.mark.parametrize("option", [["--json"], ["--no-probe"], ["--devices", "2"]])
def test_options_of_a_dry_run_alone(limbeck: Limbeck, recipe: Path, option: list[str]) -> None:
    answer = limbeck("run", recipe, *option, "--out", recipe.parent / "run")
    assert answer.status == 2 and f"{option[0]}: is of --dry-run" in answer.err


CURIOUS = """
from limbeck.methods import Method
from limbeck.recipe import Settings


def story(context, student, settings):
    there = [one.name for one in context.run.folder.glob("students/cot/seed0/history.jsonl")]
    there[0]


METHOD = Method("reads another student's history", "none", Settings, story)
"""


def test_a_method_from_outside_that_cannot_be_followed_is_named_with_its_reason(
    limbeck: Limbeck, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything may happen in it where nobody made a stage yet. A mistake of ours ends a dry run too."""
    (recipe.parent / "mine.py").write_text(CURIOUS)
    own = ("--no-probe", "--set", "students.mine={method: ./mine.py, model: tiny-causal-xs}")
    found = looked(limbeck, recipe, *own)
    whys = {one["stage"]: one["why"] for one in found["stages"] if "its method stopped" in one["why"]}
    reason = "what is not there yet, so what comes behind is not known (IndexError: list index out of range, "
    assert whys.keys() == {"students/mine/seed0"} and f"{reason}mine.py:8)" in whys["students/mine/seed0"]
    assert states(found)["students/mine/seed0"] == "to do" and "students/cot/seed0/exam" in states(found)

    def stumbles(*arguments: object) -> None:
        raise IndexError("ours")

    monkeypatch.setattr("limbeck.stages.teacher.examine_teacher", stumbles)
    answer = limbeck("run", recipe, "--dry-run", "--no-probe", "--out", recipe.parent / "run")
    assert answer.status == 1 and "unexpected IndexError: ours" in answer.err
