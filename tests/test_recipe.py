"""Recipes: merging, overriding, and one sentence for everything that is wrong with them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import RecipeError
from limbeck.lm import Sampling
from limbeck.methods import resolve_methods
from limbeck.methods.mcc_kd import MccKdSettings
from limbeck.methods.tailored import TailoredSettings
from limbeck.protocol.written import open_protocol
from limbeck.recipe import ExamSettings, check_recipe, load_recipe, read_yaml
from limbeck.tasks.settings import FilesTask

RECIPES = sorted((Path(__file__).parent.parent / "recipes").rglob("*.yaml"))
MINIMAL = "name: x\ntask: {name: arithmetic}\nstudent: {method: answers-only}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_survives_its_own_yaml(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for student in load_recipe(path).students.values():
        own: Any = student.settings.get("train_exam")
        if own and own.get("file"):  # its being there is part of the check
            (tmp_path / own["file"]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / own["file"]).touch()
    found, _ = resolve_methods(load_recipe(path), str(path))
    (tmp_path / "resolved.yaml").write_text(found.to_yaml())
    assert load_recipe(tmp_path / "resolved.yaml") == found
    assert resolve_methods(found, str(path))[0] == found


def test_a_student_alone_is_named_after_its_method(recipe: Path) -> None:
    found = load_recipe(recipe)
    assert list(found.students) == ["answers-only"]
    assert found.teacher.kind == "offline" and found.students["answers-only"].seeds == (0,)


def test_students_share_and_differ(recipe: Path) -> None:
    recipe.write_text(
        MINIMAL.replace(
            "student: {method: answers-only}", "student: {model: m, train: {epochs: 3, clip: 0.5}}"
        )
        + "students:\n  a: {method: answers-only}\n  b: {method: finetune-cot, train: {epochs: 7}}\n"
    )
    students = load_recipe(recipe, ["student.train.learning_rate=1e-4"]).students
    assert [s.train.epochs for s in students.values()] == [3, 7]
    assert all(s.model == "m" and s.train.clip == 0.5 for s in students.values())
    assert all(s.train.learning_rate == 1e-4 for s in students.values())


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("student.train.lerning_rate=1", "lerning_rate: unknown setting; did you mean learning_rate?"),
        ("student.zzqqx=1", "zzqqx: unknown setting; remove it"),
        ("student.train.epochs=many", "train.epochs: Input should be a valid integer"),
        ("student.train.epochs=0", "train.epochs: Input should be greater than or equal to 1 .*given: 0"),
        ("task.name=algebra", "there is no such task; choose one of last-letters"),
        ("task.parameters.steps=99", "steps"),
        ("student.method=mentor", "no method 'mentor'; choose one of answers-only, finetune-cot"),
        ("student.settings.rationales=2", "students.answers-only.settings.rationales: unknown setting"),
        ("student.seeds=[1,1]", "seeds must differ"),
        ("rationales={per_problem: 2, temperature: 0}", "per_problem above 1 needs a temperature above 0"),
        ("teacher.kind=oracle", "teacher"),
        ("name=a/b", "name: String should match pattern"),
        ("name.deep=1", "name is a value, not a group"),
        ("seed", "write it as --set part.setting=value"),
        ("students=[1]", "students: must map"),
        ("student=1", "student: must be a group"),
        ("seed=-1", "seed: Input should be greater than or equal to 0"),
        ("task.trian=5", "trian: unknown setting; did you mean train?"),
    ],
)
def test_a_wrong_setting_is_named(recipe: Path, override: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint) as caught:
        found = load_recipe(recipe, [override])
        resolve_methods(found, str(recipe))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: [x\n", r"r\.yaml:2: "),
        ("name: x\nname: y\n", r"r\.yaml:2: the key 'name' is here twice"),
        ("- a list\n", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
        ("name: x\n", "task: this setting is needed"),
        ("? [a]\n: 1\n", "a key must be a plain word"),
        ("name: !!python/object:os.system x\n", r"r\.yaml:1: could not determine a constructor"),
    ],
)
def test_a_broken_file_is_named(recipe: Path, text: str, complaint: str) -> None:
    recipe.write_text(text)
    with pytest.raises(RecipeError, match=complaint):
        load_recipe(recipe)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: no such recipe file"):
        load_recipe(tmp_path / "none.yaml")


def test_yaml_anchors_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_yaml(tmp_path / "a.yaml")["b"] == {"x": 1, "y": 3}


def test_a_resolved_recipe_names_every_setting() -> None:
    found = check_recipe(
        {"name": "x", "task": {"name": "coin-flip"}, "student": {"method": "answers-only"}}, "r"
    )
    for key in (
        "learning_rate",
        "batch_tokens",
        "wrong_answer",
        "per_problem",
        "parameters",
        "votes",
        "seed",
    ):
        assert key in found.to_yaml()


def test_mentors_share_and_differ_like_students(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "mentor: {model: m, writes: {per_problem: 6, top_k: 5}}\n")
    assert list(load_recipe(recipe).mentors) == ["mentor"], "one mentor alone needs no name"
    recipe.write_text(recipe.read_text() + "mentors: {small: {model: s, writes: {top_k: 9}}, large: {}}\n")
    found = load_recipe(recipe).mentors
    assert [one.model for one in found.values()] == ["s", "m"]
    assert [(one.writes.per_problem, one.writes.top_k) for one in found.values()] == [(6, 9), (6, 5)]
    assert load_recipe(recipe, ["mentors.small.writes.top_k=1"]).mentors["small"].writes.top_k == 1
    with pytest.raises(RecipeError, match=r"mentors.small.teacher_share"):
        load_recipe(recipe, ["mentors.small.teacher_share=0"])


def test_a_recipe_may_stand_on_another(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    above = tmp_path / "sub" / "above.yaml"
    above.write_text("base: ../r.yaml\nname: y\nstudent: {model: other, train: {epochs: 2}}\n")
    found = load_recipe(above, ["student.train.clip=0.5"])
    student = found.students["answers-only"]
    assert (found.name, found.task.name) == ("y", "arithmetic")
    assert (student.model, student.train.epochs, student.train.clip) == ("other", 2, 0.5)
    top = tmp_path / "top.yaml"
    top.write_text("base: sub/above.yaml\nname: z\n")
    assert load_recipe(top).students["answers-only"].model == "other"
    recipe.write_text(MINIMAL + "base: top.yaml\n")
    with pytest.raises(RecipeError, match=r"base: .* builds on this recipe itself; break the circle"):
        load_recipe(top)
    top.write_text("base: none.yaml\n")
    with pytest.raises(RecipeError, match=r"top.yaml: base: none.yaml: no such recipe file"):
        load_recipe(top)
    top.write_text("base: [a, b]\n")
    with pytest.raises(RecipeError, match="base: must be the path of a recipe"):
        load_recipe(top)


@pytest.mark.parametrize("name", ["students", "mentors"])
def test_a_recipe_may_leave_out_what_the_other_one_has(recipe: Path, tmp_path: Path, name: str) -> None:
    recipe.write_text(
        MINIMAL + f"mentor: {{model: m}}\n{name}: {{a: {{model: x}}, b: , c-0.5: {{model: z}}}}\n"
    )
    above = tmp_path / "above.yaml"
    above.write_text(f"base: {recipe.name}\n{name}: {{a: null, c-0.5: {{device: cpu}}, d: {{}}}}\n")
    found = {key: one.model for key, one in getattr(load_recipe(above), name).items()}
    assert found == {"b": found["d"], "c-0.5": "z", "d": found["d"]}
    assert list(getattr(load_recipe(above, [f"{name}.c-0.5=null"]), name)) == ["b", "d"]
    assert getattr(load_recipe(above, [f"{name}.c-0.5.model=y"]), name)["c-0.5"].model == "y"
    refused = (
        rf"{name}.e: null leaves one out, and of that name there is none; there are b, c-0.5, d; write {{}}"
    )
    with pytest.raises(RecipeError, match=refused):
        load_recipe(above, [f"{name}.e=null"])
    above.write_text(f"base: {recipe.name}\n{name}: {{e: null}}\n")
    with pytest.raises(RecipeError, match=r"there are a, b, c-0\.5"):
        load_recipe(above)


def test_nobody_comes_in_place_of_all_who_are_left_out(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(MINIMAL + "mentor: {model: m}\nmentors: {a: {}}\nstudents: {a: {}}\n")
    above = tmp_path / "above.yaml"
    above.write_text(f"base: {recipe.name}\nmentors: {{a: null}}\n")
    assert load_recipe(above).mentors == {}
    assert list(load_recipe(above, ["students.a=null", "students.b={}"]).students) == ["b"]
    for overrides in (["students.a=null"], ["students={}"]):
        with pytest.raises(RecipeError, match=r"above\.yaml: students: nobody is left; keep one"):
            load_recipe(above, overrides)
    above.write_text(f"base: {recipe.name}\nstudents: {{a: null}}\n")
    with pytest.raises(RecipeError, match=r"above\.yaml: students: nobody is left; keep one"):
        load_recipe(above)


def test_what_recipes_say_to_set_can_be_set() -> None:
    medqa = Path(__file__).parent.parent / "recipes/kard/medqa.yaml"
    given = [
        "teacher={kind: given, file: t.jsonl}",
        "rationales={keep: unless-wrong}",
        "students.oracle=null",
    ]
    found = load_recipe(medqa, given).students
    assert list(found) == ["fine-tuning", "distillation", "kard", "reranker", "knowledge"]


def test_the_published_settings_of_mentor_kd() -> None:
    """Learning rates of FLAN-T5-large and the loss as published, per data set."""
    folder = Path(__file__).parent.parent / "recipes"
    rates = {
        "svamp": 1e-4,
        "last-letters": 2e-4,
        "date": 1e-4,
        "strategyqa": 1e-4,
        "asdiv": 1e-4,
        "csqa": 1e-4,
        "gsm8k": 1e-4,
        "t5": 2e-4,
        "xl": 1e-4,
    }
    found = {name: load_recipe(folder / "mentor-kd" / f"{name}.yaml") for name in rates}
    found["tracking"] = load_recipe(folder / "mentor-kd.yaml")
    for name, one in found.items():
        mentor, student = one.mentors["large"], one.students["mentor-kd"]
        assert (mentor.train.learning_rate, student.train.learning_rate) == (rates.get(name, 1e-4), 2e-4)
        everybody = [mentor.train, *(student.train for student in one.students.values())]
        assert {(t.epochs, t.batch_size, t.max_length, t.clip, t.schedule) for t in everybody} == {
            (20, 8, 512, 0, "constant")
        }
        assert one.students["finetune-cot"].train.learning_rate == 3e-4
        assert {(m.format, m.prompt.template) for m in (mentor, *one.students.values())} == {
            ("arrow", "{question}\n")
        }
        assert (student.settings["kl_weight"], student.settings["temperature"]) == (0.3, 2.0)
        assert (mentor.writes.per_problem, mentor.writes.temperature, mentor.writes.top_k) == (3, 0.7, 50)


def test_the_published_models_of_mentor_kd() -> None:
    folder = Path(__file__).parent.parent / "recipes" / "mentor-kd"
    t5 = load_recipe(folder / "t5.yaml")
    models = [t5.mentors["large"], t5.students["mentor-kd"], t5.students["larger"]]
    assert [one.model for one in models] == [f"google-t5/t5-{size}" for size in ("large", "small", "base")]
    xl = load_recipe(folder / "xl.yaml")
    models = [xl.mentors["large"], xl.students["mentor-kd"], xl.students["larger"]]
    assert [(one.model, one.dtype, one.lora and one.lora.r) for one in models] == [
        ("google/flan-t5-xxl", "bfloat16", 128),
        ("google/flan-t5-xl", "bfloat16", 64),
        ("google/flan-t5-xxl", "bfloat16", 128),
    ]
    for one in models:
        assert one.lora is not None
        assert (one.lora.alpha, one.lora.dropout, one.lora.target_modules) == (32, 0.05, ("q", "v"))


def test_the_published_settings_of_kard() -> None:
    """Of every set, with FLAN-T5 in three sizes; a decoder-only model has a rate and adapters of its own."""
    folder = Path(__file__).parent.parent / "recipes"
    found = {name: load_recipe(folder / "kard" / f"{name}.yaml") for name in ("medqa", "openbookqa", "large")}
    found |= {"base": load_recipe(folder / "kard.yaml"), "xl": load_recipe(folder / "kard/xl.yaml")}
    models = {name: {one.model for one in recipe.students.values()} for name, recipe in found.items()}
    sizes = {"medqa": "base", "openbookqa": "base", "large": "large", "base": "base", "xl": "xl"}
    assert models == {name: {f"google/flan-t5-{size}"} for name, size in sizes.items()}
    for recipe in found.values():
        assert recipe.knowledge and recipe.verifier and recipe.verifier.model == "google/flan-t5-large"
        reranker, rule, exam = recipe.knowledge.reranker, recipe.rationales, recipe.exam
        assert reranker.lora and (reranker.lora.r, reranker.lora.alpha, reranker.lora.dropout) == (
            16,
            32,
            0.1,
        )
        assert reranker.encoder.dimensions == 768
        ranked = reranker.train
        assert (ranked.learning_rate, ranked.epochs, ranked.batch_size) == (1e-4, 3, 16)
        assert (ranked.schedule, ranked.warmup) == ("linear", 0.05)
        assert (rule.per_problem, rule.temperature, bool(rule.explain_gold)) == (10, 1.0, True)
        assert (exam.votes, exam.top_k, exam.top_p, exam.max_tokens) == (5, 50, 0.95, 1024)
        trained = {one.train.model_copy(update={"sharding": "none"}) for one in recipe.students.values()}
        assert {(t.epochs, t.learning_rate, t.batch_size, t.max_length) for t in trained} == {
            (3, 1e-4, 32, 512)
        }
    causal = load_recipe(folder / "kard/qwen.yaml")
    assert {(one.format, one.dtype, one.lora and one.lora.r) for one in causal.students.values()} == {
        ("chat", "bfloat16", 64)
    }


def test_one_setting_of_a_rerankers_training_leaves_the_others_as_published(recipe: Path) -> None:
    more = ["knowledge.corpus=c.jsonl", "knowledge.reranker.train.epochs=1"]
    knowledge = load_recipe(recipe, more).knowledge
    assert knowledge is not None
    train = knowledge.reranker.train
    assert (train.epochs, train.learning_rate, train.batch_size, train.warmup) == (1, 1e-4, 16, 0.05)


def test_the_claims_of_kard_are_about_equal_steps(tmp_path: Path) -> None:
    path = Path(__file__).parent.parent / "recipes/claims/kard.yaml"
    recipe = load_recipe(path)
    assert recipe.claims and (recipe.claims.problem_draws, recipe.claims.students) == (2, 5)
    compared = {name for claim in recipe.claims.compare for name in (claim.a, claim.b)}
    assert {
        (recipe.students[name].train.steps, recipe.students[name].train.batch_size) for name in compared
    } == {(1200, 16)}
    resolved, chosen = resolve_methods(recipe, "r.yaml")
    protocol = open_protocol(tmp_path / "claims", resolved, str(path), chosen)
    assert len(protocol.runs) == 2 and protocol.ranked == {"ranked", "told", "asked"}
    assert {one.settings.passages for one in chosen.values() if one.uses.reads} == {1}


def test_the_passages_of_kard_are_those_of_exams_alone() -> None:
    recipe = load_recipe(Path(__file__).parent.parent / "recipes/claims/kard-passages.yaml")
    assert recipe.claims and not recipe.claims.exploratory
    assert (recipe.claims.problem_draws, recipe.claims.students) == (2, 5)
    _, chosen = resolve_methods(recipe, "r.yaml")
    counts = {name: one.settings.passages for name, one in chosen.items()}
    assert {one.settings.inside for one in chosen.values()} == {1}
    for family in ("kard", "ranked"):
        assert [counts.pop(f"{family}{end}") for end in ("", "-2", "-3", "-5")] == [1, 2, 3, 5]
    assert not counts


def test_the_sweeps_of_tailored_learning_change_one_value_at_a_time() -> None:
    recipe = load_recipe(Path(__file__).parent.parent / "recipes/claims/tailored-sweeps.yaml")
    _, chosen = resolve_methods(recipe, "r.yaml")
    assert recipe.claims and recipe.claims.exploratory and recipe.claims.problem_draws == 3
    swept = {name: (s.settings.reflection.weight, s.settings.reflection.margin) for name, s in chosen.items()}
    assert swept.pop("tailored") == (0.5, 1.0)
    assert sorted(swept.values()) == [(0, 1), (0.25, 1), (0.5, 0.5), (0.5, 2), (1, 1)]
    assert {(claim.a, claim.b) for claim in recipe.claims.compare} == {(name, "tailored") for name in swept}


def test_the_sweeps_of_mcc_kd_change_one_value_at_a_time() -> None:
    recipe = load_recipe(Path(__file__).parent.parent / "recipes/claims/mcc-kd-sweeps.yaml")
    assert recipe.claims and recipe.claims.exploratory and recipe.claims.problem_draws == 3
    _, chosen = resolve_methods(recipe, "r.yaml")
    swept = {
        name: (s.settings.span_weight, s.settings.rationales, s.settings.temperature)
        for name, s in chosen.items()
    }
    assert swept.pop("mcc-kd") == (0.1, 4, 1)
    assert sorted(swept.values()) == [
        (0, 4, 1),
        (0.01, 4, 1),
        (0.1, 2, 1),
        (0.1, 4, 2),
        (0.1, 8, 1),
        (1, 4, 1),
    ]
    assert {(claim.a, claim.b) for claim in recipe.claims.compare} == {(name, "mcc-kd") for name in swept}


def test_the_published_settings_of_mcc_kd() -> None:
    """The newer script's, and those of Mentor-KD's authors for FLAN-T5; the control differs in α alone."""
    folder = Path(__file__).parent.parent / "recipes"
    llama = load_recipe(folder / "mcc-kd.yaml")
    for name, alpha in (("mcc-kd", 0.1), ("control", 0)):
        student = llama.students[name]
        train, own = student.train, MccKdSettings.model_validate(student.settings)
        assert (train.learning_rate, train.weight_decay, train.clip) == (1e-5, 0, 0)
        assert (train.batch_size * train.accumulate, train.epochs, train.max_length) == (6, 24, 512)
        assert student.lora and (student.lora.r, student.lora.alpha, student.lora.dropout) == (128, 128, 0)
        assert (own.rationales, own.span_weight, own.temperature, own.choose) == (5, alpha, 1, "diverse")
    t5 = load_recipe(folder / "mcc-kd-flan-t5.yaml").students["mcc-kd"]
    own = MccKdSettings.model_validate(t5.settings)
    assert (own.rationales, own.span_weight, own.temperature) == (3, 0.1, 1.3)
    assert (t5.train.learning_rate, t5.train.weight_decay, t5.train.clip) == (3e-4, 0, 0)


def test_the_published_settings_of_finetune_cot() -> None:
    """And no problem is held out for a choice that nobody makes."""
    found = load_recipe(Path(__file__).parent.parent / "recipes" / "flan-t5.yaml")
    assert isinstance(found.task, FilesTask) and found.task.dev == 0
    for one in found.students.values():
        assert (one.train.learning_rate, one.train.batch_size, one.train.epochs) == (3e-4, 8, 20)
        assert (one.train.clip, one.train.choose, one.train.warmup) == (0, "last", 0)


def test_the_published_settings_of_tailored_learning() -> None:
    """GPT-J-6B as in the authors' README; what differs between their data sets is the room of the exam."""
    folder = Path(__file__).parent.parent / "recipes"
    room = {"svamp": 192, "multiarith": 192, "strategyqa": 128, "csqa": 96}
    found = {name: load_recipe(folder / "tailored" / f"{name}.yaml") for name in room}
    found["gsm8k"] = load_recipe(folder / "tailored.yaml")
    for name, recipe in found.items():
        assert recipe.exam.max_tokens == room.get(name, 256)
        assert {student.train.max_completion for student in recipe.students.values()} == {192}
        for student in recipe.students.values():
            train, own = student.train, TailoredSettings.model_validate(student.settings)
            assert student.model == "EleutherAI/gpt-j-6B" and student.prompt.examples is not None
            assert (train.learning_rate, train.weight_decay, train.warmup, train.epochs) == (
                7e-6,
                0.01,
                100,
                10,
            )
            assert (train.batch_size * train.accumulate, train.prompt_weight, train.clip) == (16, 0.1, 0)
            exam = own.train_exam
            assert (own.rounds, own.begin) == (3, "base")
            assert (exam.samples, exam.temperature, exam.top_k, exam.max_tokens) == (4, 1, 50, 128)
            assert (own.reflection.margin, own.reflection.positives, own.reflection.negatives) == (1, 10, 4)
        weights = [one.settings["reflection"]["weight"] for one in recipe.students.values()]  # type: ignore
        assert weights == [0.5, 0, 0.5]


def test_tailored_learning_of_flan_t5_takes_over_what_is_said_of_gpt_j() -> None:
    """But for learning rate and batch, which are of Fine-tune-CoT; and its decoder sees no prompt."""
    folder = Path(__file__).parent.parent / "recipes" / "tailored"
    t5, gptj = (load_recipe(folder / name) for name in ("flan-t5.yaml", "svamp.yaml"))
    ours, theirs = (one.students["tailored"] for one in (t5, gptj))
    for name in ("epochs", "weight_decay", "clip", "max_completion"):
        assert getattr(ours.train, name) == getattr(theirs.train, name)
    assert t5.exam.max_tokens == gptj.exam.max_tokens
    assert ours.settings == {**theirs.settings, "begin": "rationales"}
    assert (ours.train.learning_rate, ours.train.batch_size, ours.train.accumulate) == (3e-4, 8, 1)
    assert ours.train.prompt_weight == 0


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("tailored", "GSM8K"),
        ("tailored/csqa", "CQA"),
        ("tailored/svamp", "SVAMP"),
        ("tailored/multiarith", "MultiArith"),
        ("tailored/strategyqa", "SQA"),
    ],
)
def test_the_head_of_a_published_recipe_makes_the_demonstrations_that_it_reads(
    name: str, texts: str, tmp_path: Path
) -> None:
    """By its own command, in a folder that holds the clone alone."""
    path = Path(__file__).parent.parent / "recipes" / f"{name}.yaml"
    (command,) = (line[1:] for line in path.read_text().splitlines() if "fewshot_demos" in line)
    (tmp_path / "Learn-to-Reason").mkdir()
    (tmp_path / "Learn-to-Reason" / "fewshot_demos.py").write_text(f"PROMPTS_{texts} = 'shown first'\n")
    (tmp_path / "python").symlink_to(sys.executable)
    subprocess.run(["sh", "-c", f"PATH=$PWD:$PATH; {command}"], cwd=tmp_path, check=True)
    read = {student.prompt.examples.file for student in load_recipe(path).students.values()}  # type: ignore[union-attr]
    assert [(tmp_path / str(one)).read_text() for one in read] == ["shown first\n"]


def test_set_changes_one_of_several_aliases(tmp_path: Path) -> None:
    """YAML gives an anchor and its aliases as one object; a changed ablation must not change the others."""
    folder = Path(__file__).parent.parent / "recipes"
    for path in (folder / "mentor-kd.yaml", folder / "mentor-kd" / "svamp.yaml"):
        found = load_recipe(path, ["students.mentor-kd.settings.kl_weight=0.9"]).students
        assert {name: one.settings.get("kl_weight") for name, one in found.items()} == {
            "finetune-cot": None,
            "mentor-kd": 0.9,
            "without-rd": 0.3,
            "without-sld": 0,
            "larger": 0.3,
        }
    changed = ["mentors.large.train.epochs=1", "mentors.large.lora.r=8"]
    found = load_recipe(folder / "mentor-kd-qwen.yaml", changed)
    assert {(one.train.epochs, one.lora and one.lora.r) for one in found.students.values()} == {(5, 64)}


def test_null_means_absent(recipe: Path) -> None:
    for absent in ("mentor: null\n", "mentors: null\n", "mentor: null\nmentors: null\n"):
        recipe.write_text(MINIMAL + absent)
        assert load_recipe(recipe).mentors == {}


def test_votes_are_drawn_as_the_exam_says_and_greedy_answers_are_not_drawn() -> None:
    """KARD's exam: five samples of the 50 likeliest tokens, and of those with 95 % of the probability."""
    published = ExamSettings(votes=5, temperature=1.0, top_k=50, top_p=0.95, max_tokens=1024)
    assert published.sampling(3) == Sampling(5, 1.0, 0.95, 50, 1024, 3)
    assert published.model_copy(update={"votes": 1}).sampling(3) == Sampling(max_tokens=1024, seed=3)
