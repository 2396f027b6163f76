"""MCC-KD from recipe to exam: pairs of rationales, drawn anew every epoch, whose answers agree."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import transformers

from limbeck.records import Rationale, read_jsonl
from limbeck.selection import mean_similarity, select, together

from .given_rationales import given_recipe

Limbeck = Callable[..., Any]

RECIPE = """
name: pairs
task: {name: coin-flip, train: 40, test: 6, dev: 10, parameters: {people: 3}}
teacher: {kind: offline, wrong_answer: 0.5, wrong_step: 0.0, exam: false}
rationales: {per_problem: 4}
student: {model: tiny-causal-xs, train: {epochs: 2, batch_size: 4, learning_rate: 2.0e-3}}
students:
  pulled:  {method: mcc-kd, settings: {rationales: 3, span_weight: 1}}
  control: {method: mcc-kd, settings: {rationales: 3, span_weight: 0}}
  shared:  {method: mcc-kd, settings: {rationales: 3, span_weight: 1}, train: {share_prompts: true}}
exam: {max_tokens: 12}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_control_sees_the_same_pairs_and_only_alpha_differs(
    recipe: Path, tmp_path: Path, limbeck: Limbeck
) -> None:
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 0, answer.err
    pulled, control = (out / "students" / name / "seed0" for name in ("pulled", "control"))
    examples = lines(pulled / "examples.jsonl")
    assert examples == lines(control / "examples.jsonl")
    assert all(one["completion"][slice(*one["answer_span"])] in ("yes", "no") for one in examples)
    counts = [
        sum(one["problem_id"] == each for one in examples) for each in {e["problem_id"] for e in examples}
    ]
    assert max(counts) == 3 and min(counts) == 1
    alone, whole = counts.count(1), len(counts)
    said = f"{alone} of {whole} questions have fewer than two rationales whose answer was found"
    assert f"pulled (seed 0): {said}" in answer.err and "\ncontrol (seed 0): " not in answer.err

    ours, theirs = lines(pulled / "history.jsonl"), lines(control / "history.jsonl")
    assert len(ours) == len(theirs) == 2 * -(-whole // 4), "an epoch is each question once"
    first, same = ours[0], theirs[0]
    assert first["cross_entropy"] == pytest.approx(same["cross_entropy"], abs=1e-6)
    assert first["loss"] == pytest.approx(first["cross_entropy"] + first["span_divergence"], abs=1e-6)
    assert first["span_divergence"] > 0 and "span_divergence" not in same
    steps = [json.loads((one / "training.json").read_text()) for one in (pulled, control)]
    least, most, everything = tokens_read(pulled / "model", examples)
    assert 2 * least <= steps[0]["tokens"] == steps[1]["tokens"] <= 2 * most, "two of three, in two epochs"
    assert most < everything
    facts = {
        "pairs": sum(count * (count - 1) // 2 for count in counts),
        "pairs_unlike": 0,
        "questions_without_pair": alone,
        "without_span": 0,
    }
    exam = json.loads((pulled / "exam" / "metrics.json").read_text())
    assert {name: steps[0][name] for name in facts} == {name: exam[name] for name in facts} == facts
    assert not facts.keys() & steps[1].keys(), "the control compares nothing"

    once = out / "students" / "shared" / "seed0"
    for line, separate in zip(lines(once / "history.jsonl"), ours, strict=True):
        assert line["loss"] == pytest.approx(separate["loss"], rel=1e-3), "prompts computed once: the same"
    said = json.loads((once / "training.json").read_text())["share_prompts"]
    assert said["shared"] and said["apart"] < 1e-5
    assert f"shared (seed 0): train.share_prompts: {said['because']}" in answer.err
    assert not any("share_prompts" in step for step in steps), "there is not enough to gain for auto"


def naive_similarity(rationales: list[dict[str, Any]], texts: set[str]) -> float:
    """Mean over questions of the mean trigram similarity of all pairs of their rationales."""
    own: dict[str, list[set[tuple[str, ...]]]] = {}
    for one in rationales:
        if one["dropped"] is None and one["reasoning"] in texts:
            words = re.findall(r"\w+", one["reasoning"].lower())
            own.setdefault(one["problem_id"], []).append(set(zip(words, words[1:], words[2:], strict=False)))
    pairs = [list(combinations(grams, 2)) for grams in own.values() if len(grams) > 1]
    means = [sum(len(a & b) / len(a | b) for a, b in some) / len(some) for some in pairs]
    return sum(means) / len(means)


def test_a_run_says_how_different_the_chosen_rationales_are(tmp_path: Path, limbeck: Limbeck) -> None:
    rows = []
    for number in range(2, 12):
        why = [
            f"Ann has {number} pens and gets 3 more, so she has {number + 3}.",
            f"Ann has {number} pens and finds 3 more, so that makes {number + 3}.",
            f"We add {number} and 3, which gives {number + 3}.",
            f"We add {number} and 3 to get {number + 3}." if number % 2 else "It is 99.",
        ]
        rows.append(
            {"question": f"Ann has {number} pens and gets 3. How many?", "answer": number + 3, "why": why}
        )
    learners = """
student: {model: tiny-causal-xs, train: {steps: 1}}
students:
  diverse: {method: mcc-kd, settings: {rationales: 2}}
  similar: {method: mcc-kd, settings: {rationales: 2, choose: similar}}
  all: {method: finetune-cot, settings: {rationales: 4}}
  single: {method: finetune-cot}
exam: {max_tokens: 4}
"""
    recipe = given_recipe(tmp_path, rows[1:], rows[:1], learners)
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 0, answer.err
    graded = lines(out / "rationales" / "graded.jsonl")
    everything = {one["reasoning"] for one in graded}
    audit = json.loads((out / "rationales" / "audit.json").read_text())
    found = {}
    for name in ("diverse", "similar", "all", "single"):
        folder = out / "students" / name / "seed0"
        facts = json.loads((folder / "training.json").read_text())
        exam = json.loads((folder / "exam" / "metrics.json").read_text())
        found[name] = chosen, kept = [facts.get(f"{which}_similarity") for which in ("chosen", "kept")]
        assert [exam["chosen_similarity"], exam["kept_similarity"]] == [chosen, kept]
        said = f"{name} (seed 0): mean similarity of a question's rationales (word trigrams in common): "
        assert (f"{said}{chosen} of those chosen, {kept} of all kept" in answer.err) == (chosen != kept)
        if name == "single":
            continue
        examples = {one["completion"].split("\nThe answer is")[0] for one in lines(folder / "examples.jsonl")}
        assert chosen == pytest.approx(naive_similarity(graded, examples), abs=1e-4)
        assert kept == pytest.approx(naive_similarity(graded, everything), abs=1e-4)
    assert found["diverse"][0] < found["all"][0] == found["all"][1] < found["similar"][0]
    assert found["single"] == [None, None]
    assert audit["similarity of kept rationales of a problem"] == found["all"][1]


def test_the_claims_choose_among_rationales_that_differ(tmp_path: Path, limbeck: Limbeck) -> None:
    """Else diverse, random and similar ones would be the same ones, as with four phrasings alone."""
    claims = Path(__file__).parent.parent / "recipes" / "claims" / "mcc-kd.yaml"
    answer = limbeck(
        "collect", claims, "--out", tmp_path / "run", "--set", "task.train=60", "--set", "task.dev=1"
    )
    assert answer.status == 0, answer.err
    graded = list(read_jsonl(tmp_path / "run" / "rationales" / "graded.jsonl", Rationale))
    diverse, random, similar = (
        list(together(select(graded, 4, choose=choose))) for choose in ("diverse", "random", "similar")
    )
    near = [mean_similarity([one.rationales for one in way]) or 0 for way in (diverse, random, similar)]
    assert near[0] < 0.02 and near[0] + 0.08 < near[1] < near[2] - 0.2
    for other in (random, similar):
        same = sum(one.rationales == each.rationales for one, each in zip(diverse, other, strict=True))
        assert same < 60 / 5


def tokens_read(model: Path, examples: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Tokens of an epoch that reads the shortest two of each question, the longest two, or all."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    own: dict[str, list[int]] = {}
    for one in examples:
        prompt = tokenizer(one["prompt"])["input_ids"]
        prompt = prompt[: len(prompt) - (prompt[-1] == tokenizer.eos_token_id)]
        completion = tokenizer(one["completion"], add_special_tokens=False)["input_ids"]
        own.setdefault(one["problem_id"], []).append(len(prompt) + len(completion) + 1)
    lengths = [sorted(each) for each in own.values()]
    return (
        sum(sum(each[:2]) for each in lengths),
        sum(sum(each[-2:]) for each in lengths),
        sum(map(sum, lengths)),
    )


def test_pulling_makes_the_answers_agree(recipe: Path, tmp_path: Path, limbeck: Limbeck) -> None:
    """The divergence on dev, measured on the same pairs at the end of both trainings, is smaller."""
    settings = [
        "students.pulled.settings.span_weight=30",
        "students.control.settings.span_weight=0.000001",
        "student.train.choose=dev-loss",
        "student.train.epochs=8",
    ]
    changes = [part for one in settings for part in ("--set", one)]
    answer = limbeck("run", recipe, "--out", tmp_path / "run", *changes)
    assert answer.status == 0, answer.err
    last = {
        name: [
            one["dev_span_divergence"]
            for one in lines(tmp_path / "run" / "students" / name / "seed0" / "history.jsonl")
            if "dev_span_divergence" in one
        ][-1]
        for name in ("pulled", "control")
    }
    assert last["pulled"] < 0.5 * last["control"]


def slow_model(folder: Path) -> Path:
    """A random model with the tokenizer of ByT5, which is written in Python and knows no places."""
    tokenizer = transformers.ByT5Tokenizer()
    sizes: dict[str, Any] = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_tokenizer_that_shows_no_places_is_refused_before_any_stage(
    recipe: Path, tmp_path: Path, limbeck: Limbeck
) -> None:
    model = slow_model(tmp_path / "slow")
    says = f"students.pulled.model: {model}: its tokenizer (ByT5Tokenizer) does not say which characters"
    settings = ("--set", f"student.model={model}", "--set", "student.train={steps: 1, max_length: 2000}")
    answer = limbeck("run", recipe, "--out", tmp_path / "run", *settings)
    assert answer.status == 2 and says in answer.err and "to 0 (mcc-kd: settings.span_weight)" in answer.err
    assert not any(path.is_dir() for path in (tmp_path / "run").iterdir()), "no stage was begun"
    claimed = ("--set", "claims={compare: [[pulled, control]]}")
    answer = limbeck("claims", recipe, "--out", tmp_path / "claims", *settings, *claimed)
    assert answer.status == 2 and says in answer.err and not (tmp_path / "claims" / "protocol.json").exists()

    pulled = ("pulled", "shared")
    without = [part for name in pulled for part in ("--set", f"students.{name}.settings.span_weight=0")]
    without += ["--set", "students.shared.train.share_prompts=auto"]
    answer = limbeck("run", recipe, "--out", tmp_path / "run", *settings, *without)
    assert answer.status == 0, answer.err


def test_a_method_that_does_not_say_what_it_uses_is_refused_before_its_training(
    recipe: Path, tmp_path: Path, limbeck: Limbeck
) -> None:
    """A file of one's own that compares answers: its student's tokenizer is seen when it is loaded."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom limbeck.methods import Uses\n"
        "from limbeck.methods.mcc_kd import METHOD\n"
        "METHOD = replace(METHOD, uses=lambda settings: Uses())\n"
    )
    model = slow_model(tmp_path / "slow")
    student = f"{{method: ./mine.py, model: {model}, train: {{steps: 1, max_length: 2000}}}}"
    answer = limbeck("run", recipe, "--out", tmp_path / "run", "--set", f"students={{mine: {student}}}")
    assert answer.status == 2 and f"mine (seed 0): {model}: its tokenizer (ByT5Tokenizer)" in answer.err
    assert not (tmp_path / "run" / "students" / "mine" / "seed0" / "history.jsonl").exists()


def test_one_rationale_is_cross_entropy_alone(recipe: Path, tmp_path: Path, limbeck: Limbeck) -> None:
    out = tmp_path / "run"
    one = ("--set", "students.pulled.settings.rationales=1")
    answer = limbeck("run", recipe, "--out", out, *one)
    assert answer.status == 2 and not out.exists()
    assert "compared, and settings.rationales is 1; raise it, or set settings.span_weight to 0" in answer.err
    answer = limbeck("run", recipe, "--out", out, *one, "--set", "students.pulled.settings.span_weight=0")
    assert answer.status == 0, answer.err
    history = lines(out / "students" / "pulled" / "seed0" / "history.jsonl")
    assert all("span_divergence" not in one for one in history)


@pytest.mark.parametrize("train", ["{steps: 1}", "{epochs: 1}"])
def test_one_rationale_asked_for_is_refused_before_any_stage(
    recipe: Path, tmp_path: Path, limbeck: Limbeck, train: str
) -> None:
    """Nothing could be compared: better a sentence than a student of cross-entropy alone."""
    settings = ("--set", "rationales.per_problem=1", "--set", f"student.train={train}")
    answer = limbeck("run", recipe, "--out", tmp_path / "run", *settings)
    assert answer.status == 2 and not (tmp_path / "run").exists()
    assert "students.pulled.settings: the answers of two rationales are compared, and " in answer.err
    assert "rationales.per_problem is 1; raise it, or set settings.span_weight to 0" in answer.err
    changes = [f"students.{name}.settings.span_weight=0" for name in ("pulled", "shared")]
    changes.append("students.shared.train.share_prompts=auto")
    changed = [part for change in changes for part in ("--set", change)]
    answer = limbeck("run", recipe, "--out", tmp_path / "changed", *settings, *changed)
    assert answer.status == 0, answer.err


def pens(problems: int, why: Callable[[int], list[str]]) -> list[dict[str, Any]]:
    """Problems with the rationales that `why` gives for each."""
    question = "Ann has {} pens and gets 3. How many?"
    return [{"question": question.format(n), "answer": n + 3, "why": why(n)} for n in range(2, 2 + problems)]


def test_given_rationales_without_a_pair_are_refused_before_the_first_step(
    tmp_path: Path, limbeck: Limbeck
) -> None:
    rows = pens(6, lambda n: [f"{n} + 3 = {n + 3}."])
    learners = "student: {method: mcc-kd, model: tiny-causal-xs, train: {steps: 1}}\nexam: {max_tokens: 4}"
    out = tmp_path / "run"
    answer = limbeck("run", given_recipe(tmp_path, rows[1:], rows[:1], learners), "--out", out)
    assert answer.status == 1 and "5 of 5 questions have fewer than two rationales" in answer.err
    said = answer.err.splitlines()[-1]
    assert "span_divergence: this part of the loss counts nothing" in said
    assert "rationales.per_problem" in said and "set settings.span_weight to 0" in said
    assert not (out / "students" / "student" / "seed0" / "history.jsonl").exists()
