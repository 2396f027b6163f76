"""The verbs between a method and its stages: several prompts per problem, groups, going on from a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Limbeck = Callable[..., Any]

RECIPE = """
name: verbs
task: {name: coin-flip, train: 24, dev: 0, test: 6, parameters: {people: 2}}
teacher: {kind: offline, wrong_answer: 0.3, exam: false}
rationales: {per_problem: 3}
student:
  method: ./mine.py
  model: tiny-causal-xs
  train: {learning_rate: 1.0e-3, batch_size: 4, epochs: 2}
exam: {max_tokens: 40}
"""

TWO_QUESTIONS = '''
"""Every training problem is asked twice: plainly, and about a mistake."""

from limbeck.lm import Sampling
from limbeck.methods import Method
from limbeck.recipe import Settings
from limbeck.records import write_jsonl
from limbeck.stages import (
    Question, completions_of, examine, grade_completions, problems, rationale_data, rationales, train, write
)


def story(context, student, settings):
    def pick(split):
        return rationales(context, split).chosen(1)

    first = train(context, student, rationale_data(context, student, pick))
    questions = []
    for problem in problems(context).train[:5]:
        plain = first.question(problem)
        questions += [plain, Question(problem.id + "#0", problem.id, plain.pieces, about="mistake 0")]
    written = write(
        context,
        "students/mine/twice",
        first,
        questions,
        Sampling(n=2, temperature=1.0, max_tokens=30),
        settings={"n": 2},
        inputs=problems(context).inputs,
        batch_size=3,
    )
    graded = grade_completions(context, problems(context).train, completions_of(written), "mine")
    write_jsonl(written.folder.parent / "graded.jsonl", graded)
    examine(context, first)
    examine(context, first, place=f"{first.stage.name}/on-train", split="train")


METHOD = Method("asks twice", "none", Settings, story)
'''

PAIRS = '''
"""Two of the rationales of a question each epoch, pulled together on their answer; then a second round."""

from dataclasses import replace

from limbeck.methods import Method
from limbeck.recipe import Settings
from limbeck.stages import Draw, examine, rationale_data, rationales, train


def story(context, student, settings):
    def pick(split):
        found = rationales(context, split)
        return found.picked([one for one in found.all if one.dropped is None])

    def parts():
        from limbeck.training.parts import CrossEntropy, SpanKL

        return CrossEntropy(), SpanKL(0.5)

    data = rationale_data(context, student, pick, grouped=True, draw=Draw({"": 2}))
    first = train(context, replace(student, round=0), data, parts)
    second = train(context, replace(student, round=1), data, parts, start=first)
    examine(context, first)
    examine(context, second)


METHOD = Method("pairs", "none", Settings, story)
'''


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "verbs.yaml"
    path.write_text(RECIPE)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_several_prompts_per_problem(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TWO_QUESTIONS)
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 0, answer.err
    raw = lines(out / "students/mine/twice/completions.jsonl")
    assert len(raw) == 5 * 2 * 2 and len({one["problem_id"] for one in raw}) == 5
    assert {one["about"] for one in raw} == {"", "mistake 0"}
    graded = lines(out / "students/mine/graded.jsonl")
    places = {(one["problem_id"], one["index"]) for one in graded}
    assert len(places) == 20, "an index is one rationale's of its problem"
    texts = {}
    for one in raw:
        texts.setdefault((one["problem_id"], one["index"]), set()).add(one["text"])
    assert any(len(found) > 1 for found in texts.values()), "another prompt id draws other completions"
    exam = json.loads((out / "students/mine/seed0/on-train/metrics.json").read_text())
    assert (exam["split"], exam["problems"], exam["role"], exam["name"]) == ("train", 24, "student", "mine")


def test_groups_parts_and_rounds(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PAIRS)
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 0, answer.err
    student = out / "students/mine/seed0"
    history = lines(student / "round0/history.jsonl")[-1]
    assert history["span_divergence"] > 0
    parts = history["cross_entropy"] + 0.5 * history["span_divergence"]
    assert history["loss"] == pytest.approx(parts, rel=1e-5)
    assert json.loads((student / "round1/exam/metrics.json").read_text())["round"] == 1
    first, second = (lines(student / f"round{n}/history.jsonl")[0]["loss"] for n in (0, 1))
    assert second < first, "the second round goes on from the first"
    assert "round 1" in answer.out, "rounds are rows of the results"


def test_answers_that_are_not_found_are_told(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    lost = """
    first = data.train[0].examples[0].model_copy(update={"answer_span": (0, 0)})
    group = replace(data.train[0], examples=(first, *data.train[0].examples[1:]))
    data = replace(data, train=[group, *data.train[1:]])
    first ="""
    (tmp_path / "mine.py").write_text(PAIRS.replace("\n    first =", lost, 1))
    answer = limbeck("run", recipe, "--out", tmp_path / "run", "--until", "students/mine/seed0/round0")
    assert answer.status == 0, answer.err
    assert "the answer of 1 examples was not found among their tokens" in answer.err


def test_a_changed_method_file_trains_again(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PAIRS)
    out = tmp_path / "run"
    assert limbeck("run", recipe, "--out", out).status == 0
    (tmp_path / "mine.py").write_text(PAIRS.replace("SpanKL(0.5)", "SpanKL(0.25)"))
    answer = limbeck("run", recipe, "--out", out)
    assert "round0: runs again, because the file of its method changed" in answer.err


def test_until_and_again(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(
        RECIPE.replace("method: ./mine.py", "method: finetune-cot")
        + "mentor: {model: tiny-causal-xs, train: {epochs: 1}, exam: false}\n"
    )
    out = tmp_path / "run"
    until = limbeck("run", recipe, "--out", out, "--until", "rationales")
    assert until.status == 0 and (out / "rationales/graded.jsonl").exists()
    assert not (out / "students").exists() and "report" not in until.out
    assert limbeck("run", recipe, "--out", out).status == 0
    again = limbeck("run", recipe, "--out", out, "--again", "rationales")
    assert again.status == 0, again.err
    assert "rationales: runs again, as asked" in again.err
    assert "students/finetune-cot/seed0: runs again, because its input rationales of train" in again.err
    wrong = limbeck("run", recipe, "--out", out, "--again", "students/cto")
    assert wrong.status == 2 and "no such stage was done here" in wrong.err


def test_a_recipe_may_train_only_a_mentor(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    text = RECIPE[: RECIPE.index("student:")]
    one = "{model: tiny-causal-xs, train: {epochs: 1}"
    recipe.write_text(
        text + f"mentors: {{seen: {one}}}, unseen: {one}, exam: false}}}}\nexam: {{max_tokens: 9}}\n"
    )
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 0, answer.err
    assert (out / "mentors/seen/exam/metrics.json").exists() and not (out / "students").exists()
    assert (out / "mentors/unseen/model").is_dir() and not (out / "mentors/unseen/exam").exists()


ROUND_THEN_LAST = PAIRS.replace(
    "second = train(context, replace(student, round=1), data, parts, start=first)",
    "second = train(context, student, data, parts, start=first)",
)


def test_a_last_training_after_rounds(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ROUND_THEN_LAST)
    out = tmp_path / "run"
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 0, answer.err
    assert (out / "students/mine/seed0/round0/model").is_dir()
    assert (out / "students/mine/seed0/exam/metrics.json").exists()


LABELS = """
from limbeck.methods import Method, Uses
from limbeck.stages import SoftLabelSettings, mentor, rationale_data, soft_labels, taught, train


def story(context, student, settings):
    teaching = mentor(context, settings.mentor)
    pick = lambda split: taught(context, settings.mentor, split).chosen(1)
    data = rationale_data(context, student, pick, INPUTS)

    def parts():
        from limbeck.training.parts import CrossEntropy, SoftLabelKL

        return CrossEntropy(0.5), SoftLabelKL(labels.open(), 0.5)

    labels = soft_labels(context, teaching, student, data, settings)
    train(context, student, data, parts, tokenizer=teaching.path)


METHOD = Method(
    "labels", "none", SoftLabelSettings, story, uses=lambda s: Uses(mentor=s.mentor, soft_labels=True)
)
"""


def test_another_mentor_trains_its_students_again(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(
        RECIPE + "mentor: {model: tiny-causal-xs, rationales: 1, train: {epochs: 1}, exam: false}\n"
    )
    out = tmp_path / "run"
    (tmp_path / "mine.py").write_text(LABELS.replace(", INPUTS", ""))
    answer = limbeck("run", recipe, "--out", out)
    assert answer.status == 2 and "mentor is not an input of the examples" in answer.err
    (tmp_path / "mine.py").write_text(LABELS.replace("INPUTS", "inputs=teaching.inputs"))
    assert limbeck("run", recipe, "--out", out).status == 0
    answer = limbeck("run", recipe, "--out", out, "--set", "mentor.train.epochs=2")
    assert "students/mine/seed0: runs again, because its input mentor changed" in answer.err


def test_prompts_are_refused_before_anything_is_trained(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    one = "{method: finetune-cot, prompt: {examples: none.jsonl}}"
    answer = limbeck(
        "run",
        recipe,
        "--out",
        tmp_path / "run",
        "--set",
        f"students={{a: {{}}, b: {one}}}",
        "--set",
        "student.method=finetune-cot",
    )
    assert answer.status == 2 and "none.jsonl: no such file of demonstrations" in answer.err
    assert not (tmp_path / "run/students").exists() and not (tmp_path / "run/collected").exists()


def test_a_teachers_template_without_an_instruction(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    template = "teacher.prompt.template='Q: {question}\\nA:'"
    method = "student.method=answers-only"
    answer = limbeck("collect", recipe, "--out", tmp_path / "run", "--set", template, "--set", method)
    assert answer.status == 0, answer.err


def test_a_killed_evaluation_goes_on_and_lends_nothing_to_another(
    limbeck: Limbeck, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write_text(RECIPE.replace("./mine.py", "answers-only"))
    assert limbeck("run", recipe, "--out", tmp_path / "run").status == 0
    student, out = tmp_path / "run/students/answers-only/seed0", tmp_path / "exam"
    common = ("evaluate", student, "--task", recipe, "--out", out)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("limbeck.exam.write_exam", killed)
        with pytest.raises(KeyboardInterrupt):
            import limbeck as package

            package.evaluate(student, recipe, out=out)
    assert limbeck(*common, "--set", "exam.max_tokens=2").status == 0
    assert {len(one["completion"].split()) <= 2 for one in lines(out / "predictions.jsonl")} == {True}
    assert max(one["tokens"] for one in lines(out / "predictions.jsonl")) <= 2
    assert {one.name for one in out.iterdir()} == {"metrics.json", "predictions.jsonl"}


@pytest.mark.parametrize(
    ("until", "said"),
    [
        ("mentor/mentor", "there is no such stage; choose one of"),
        ("mentors/large", "there are mentors/mentor"),
        ("students", "means several; name one of students/a, students/b"),
    ],
)
def test_until_is_checked_before_anything_runs(
    limbeck: Limbeck, recipe: Path, tmp_path: Path, until: str, said: str
) -> None:
    students = (
        "students: {a: {method: finetune-cot}, b: {method: finetune-cot}}\nmentor: {model: tiny-causal-xs}\n"
    )
    recipe.write_text(RECIPE.replace("  method: ./mine.py\n", "") + students)
    answer = limbeck("run", recipe, "--out", tmp_path / "run", "--until", until)
    assert answer.status == 2 and said in answer.err and not (tmp_path / "run").exists()


def test_demonstrations_that_are_cut_are_told_of(limbeck: Limbeck, recipe: Path, tmp_path: Path) -> None:
    shots = [{"question": f"{n} " + "word " * 60, "rationale": "So. The answer is yes."} for n in range(3)]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, shots)))
    prompt = f"{{examples: {tmp_path / 'long.jsonl'}}}"
    student = f"student={{method: answers-only, model: tiny-causal-xs, prompt: {prompt}"
    for length, said in ((150, True), (2000, False)):
        more = f"{student}, train: {{epochs: 1, max_length: {length}}}}}"
        answer = limbeck("run", recipe, "--out", tmp_path / "run", "--set", more, "--set", "task.train=4")
        assert answer.status == 0, answer.err
        assert ("4 of 4 prompts were cut to train.max_length = 150" in answer.err) is said


def test_the_temperature_of_a_greedy_exam_changes_nothing(
    limbeck: Limbeck, recipe: Path, tmp_path: Path
) -> None:
    method = ("--out", tmp_path / "run", "--set", "student.method=answers-only")
    assert limbeck("run", recipe, *method).status == 0
    answer = limbeck("run", recipe, *method, "--set", "exam.temperature=0.2")
    assert "answers-only/seed0/exam: done before, kept" in answer.err


def broken(limbeck: Limbeck, recipe: Path, tmp_path: Path, old: str, new: str) -> Any:
    """What the command says of the second method with one change."""
    assert old in PAIRS
    (tmp_path / "mine.py").write_text(PAIRS.replace(old, new))
    return limbeck("run", recipe, "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("one for one in found.all if one.dropped is None", "one for one in found.all", "was dropped (wrong"),
        ("replace(student, round=1)", "replace(student, round=0)", "trains it twice"),
        ("SpanKL(0.5)", "SpanKL(-0.5)", "its weight is -0.5; give a number from 0 up"),
        ("SpanKL(0.5)", "SpanKL(0.5, name='loss')", "a column of the history already"),
        ("SpanKL(0.5)", "SpanKL(0.5, name='cross_entropy')", "their names must differ"),
        ("return CrossEntropy(), SpanKL(0.5)", "return CrossEntropy()", "cannot be used (TypeError"),
        ("SpanKL(0.5)", "SpanKl(0.5)", "cannot be used (NameError"),
    ],
)
def test_mistakes_in_a_method_are_one_sentence(
    limbeck: Limbeck, recipe: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    answer = broken(limbeck, recipe, tmp_path, old, new)
    last = answer.err.strip().splitlines()[-1]
    assert answer.status == 2 and last.startswith("limbeck: ") and words in last, answer.err
