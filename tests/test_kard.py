"""KARD from a recipe: passages by rationale for training, by question for the exam, and who reads what."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import LimbeckError
from limbeck.exam import asking_of, student_prompts
from limbeck.knowledge.bm25 import Index
from limbeck.knowledge.encoders import load_encoder
from limbeck.knowledge.reading import passages_of, read_for, shown
from limbeck.knowledge.rerank import Reranked
from limbeck.knowledge.silver import with_answer
from limbeck.knowledge.states import Fresh
from limbeck.lm import Prompt
from limbeck.lm.load import unloaded
from limbeck.lm.local import LocalModel
from limbeck.records import Passage, Problem, read_jsonl

Limbeck = Callable[..., Any]
Rows = list[dict[str, Any]]

RECIPE = """
name: reads
task: {name: animals, train: 30, dev: 4, test: 8, parameters: {animals: 40}}
knowledge:
  corpus: built-in
  reranker: {model: tiny-encoder, candidates: 20, encoder: {dimensions: 16}, train: {epochs: 1}}
teacher: {kind: offline, exam: false, wrong_answer: 0.2}
rationales: {per_problem: 2}
student:
  method: kard
  model: tiny-causal-xs
  settings: {passages: 2, rationales: 2}
  train: {epochs: 1, choose: dev-accuracy}
students:
  kard: {}
  ranked: {settings: {find: reranker}, train: {choose: last}}
exam: {max_tokens: 24, direct: true}
"""


def rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def asked_with(limbeck: Limbeck, *arguments: object) -> tuple[list[str], Any]:
    """The prompts that `limbeck ask` gives the model, and its answer."""
    read, plain = list[str](), LocalModel.__call__

    def noted(self: LocalModel, prompts: Sequence[Prompt], *more: Any, **named: Any) -> Any:
        read.extend(prompt.text for prompt in prompts)
        return plain(self, prompts, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalModel, "__call__", noted)
        return read, limbeck("ask", *arguments, "--max-tokens", 24)


def prompt_of(run: Path, problem: Problem, found: str) -> str:
    """The question with the first two passages of a stage, as a student of this recipe reads them."""
    own = {one["problem_id"]: one["passages"] for one in rows(run / "passages" / found / "found.jsonl")}
    corpus = {one.id: one for one in read_jsonl(run / "knowledge/corpus.jsonl", Passage)}
    texts = "\n".join(shown(corpus[name]) for name in own[problem.id][:2])
    return f"{problem.question}\n\n{texts}\n"


def without_numbers(text: str) -> str:
    return re.sub("[0-9]+", "N", text).lower()


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return Path("r.yaml")


def test_a_student_reads_what_its_rationale_found_and_then_what_its_question_finds(
    limbeck: Limbeck, recipe: Path
) -> None:
    ran = limbeck("run", recipe)
    assert ran.status == 0, ran.err
    run = Path("runs/reads")
    index = Index(run / "knowledge/index")
    corpus = {passage["id"]: passage for passage in rows(run / "knowledge/corpus.jsonl")}
    assert len(index) == len(corpus) == 240

    rationales = {
        (one["problem_id"], one["source"], one["index"]): one for one in rows(run / "rationales/graded.jsonl")
    }
    silver = {
        (one["problem_id"], one["source"], one["index"]): one["passages"]
        for one in rows(run / "silver/rationale/silver.jsonl")
    }
    assert silver.keys() == {key for key, one in rationales.items() if one["dropped"] is None}
    for key, found in silver.items():
        fact = without_numbers(corpus[found[0]]["text"].split(". ")[0])
        assert fact in without_numbers(rationales[key]["reasoning"]), "its own fact, right or wrong"

    examples = rows(run / "students/kard/seed0/examples.jsonl")
    assert len(examples) == len(silver)
    questions = {one["id"]: one["question"] for one in rows(run / "problems/train.jsonl")}
    texts = {name: shown(index.passages([name])[0]) for found in silver.values() for name in found[:2]}
    prompts = {
        f"{questions[key[0]]}\n\n{texts[found[0]]}\n{texts[found[1]]}\n" for key, found in silver.items()
    }
    assert {one["prompt"] for one in examples} == prompts, "the question, then its passages in their order"

    test = list(read_jsonl(run / "problems/test.jsonl", Problem))
    found = {one["problem_id"]: one["passages"] for one in rows(run / "passages/test/found.jsonl")}
    read = passages_of(index, test, 2)
    assert {key: tuple(shown(one) for one in index.passages(own[:2])) for key, own in found.items()} == read
    check_report(limbeck, run)
    check_outside(limbeck, recipe, run, test)


def check_report(limbeck: Limbeck, run: Path) -> None:
    """How well passages were found is reported next to who read them, with the passages themselves."""
    said = json.loads(limbeck("compare", run, "--json").out)["retrieval"]
    who = {(row["found_by"], row["split"]): [one["name"] for one in row["read_by"]] for row in said}
    assert who == {
        ("question", "test"): ["kard"],
        ("reranker", "test"): ["ranked"],
        ("question", "train"): [],
    }
    (train,) = (row for row in said if row["split"] == "train")
    silver = rows(run / "silver/rationale/silver.jsonl")
    assert train["judged"] == train["questions"] == len({one["problem_id"] for one in silver})
    assert 0 < train["hit@1"][0] <= train["hit@5"][0] <= 1
    page = (run / "report.html").read_text(encoding="utf-8")
    found = json.loads(page.split('id="data">')[1].split("</script>")[0])["found"]
    assert [one["name"] for one in found] == ["test questions", "training rationales"]
    for _, _, _, _, ways, rationale, _ in found[1]["rows"]:
        assert rationale and all(text for _, passages in ways for _, _, text, _ in passages)


def check_outside(limbeck: Limbeck, recipe: Path, run: Path, test: list[Problem]) -> None:
    """The saved student is asked with the passages of its index, or not at all."""
    student = run / "students/kard/seed0"
    of_run = rows(student / "exam/predictions.jsonl")
    ran = limbeck("evaluate", student / "model", "--task", recipe, "--out", "again")
    assert ran.status == 0 and rows(Path("again/predictions.jsonl")) == of_run
    ran = limbeck("evaluate", student / "model", "--task", recipe, "--out", "at-once", "--direct")
    assert rows(Path("at-once/predictions.jsonl")) == rows(student / "exam-direct/predictions.jsonl")
    check_ranked(limbeck, recipe, run, test)
    prompts, asked = asked_with(limbeck, student, test[0].question)
    assert prompts == [prompt_of(run, test[0], "test")]
    assert asked.out.rstrip("\n") == of_run[0]["completion"].rstrip("\n")

    shutil.move(str(run / "knowledge/index"), "elsewhere")
    refused = limbeck("ask", student, test[0].question)
    assert refused.status == 2 and "--knowledge" in refused.err and not refused.out
    again, asked = asked_with(limbeck, student, test[0].question, "--knowledge", "elsewhere")
    assert again == prompts
    assert asked.out.rstrip("\n") == of_run[0]["completion"].rstrip("\n")


def check_ranked(limbeck: Limbeck, recipe: Path, run: Path, test: list[Problem]) -> None:
    """Passages that a reranker put in order are read in that order, and by `evaluate` too."""
    student, index = run / "students/ranked/seed0", Index(run / "knowledge/index")
    ranker = Reranked(index, Fresh(load_encoder(run / "reranker/model"), index), 20)
    hits = ranker.search([problem.question for problem in test], 20)
    ranked = {one["problem_id"]: one["passages"] for one in rows(run / "passages/test-reranker/found.jsonl")}
    assert ranked == {
        problem.id: [hit.passage for hit in own] for problem, own in zip(test, hits, strict=True)
    }
    assert ranked != {one["problem_id"]: one["passages"] for one in rows(run / "passages/test/found.jsonl")}
    ran = limbeck("evaluate", student / "model", "--task", recipe, "--out", "ranked")
    assert ran.status == 0 and rows(Path("ranked/predictions.jsonl")) == rows(
        student / "exam/predictions.jsonl"
    )
    check_states(limbeck, student, test)
    assert not (run / "passages/test-reranker/states").exists(), "nobody reads them again"
    with pytest.raises(LimbeckError, match="tpu"):
        read_for(student / "model", test, device="tpu")
    facts = [
        json.loads((run / f"students/{name}/seed0/exam/metrics.json").read_text())
        for name in ("kard", "ranked")
    ]
    assert [(one["passages"], one["found_by"]) for one in facts] == [(2, "question"), (2, "reranker")]
    assert limbeck("export", student, "--out", "copy").status == 0
    there, copied = (asked_with(limbeck, one, test[0].question) for one in (student, "copy"))
    assert copied[1].status == 0 and copied[1].out == there[1].out, copied[1].err
    by_question, reranked = (prompt_of(run, test[0], found) for found in ("test", "test-reranker"))
    assert there[0] == copied[0] == [reranked] != [by_question]
    shutil.move(str(run / "reranker/model"), "ranker")
    refused = limbeck("ask", student, test[0].question)
    assert refused.status == 2 and "--reranker FOLDER, or none" in refused.err
    for ranker, prompt in (("ranker", reranked), ("none", by_question)):
        prompts, asked = asked_with(limbeck, student, test[0].question, "--reranker", ranker)
        assert asked.status == 0 and prompts == [prompt], asked.err


def check_states(limbeck: Limbeck, student: Path, test: list[Problem]) -> None:
    """A folder keeps the states of passages from one command to the next; another student's are refused."""
    asks = [
        limbeck("ask", student, test[0].question, "--max-tokens", 24, *more)
        for more in ((), ("--states", "states"), ("--states", "states"))
    ]
    assert len({one.out for one in asks}) == 1 and asks[2].status == 0, asks[2].err
    parts = sorted(Path("states/parts").iterdir())
    assert len(parts) == 1, "the second time nothing was encoded"
    before = parts[0].stat().st_mtime_ns
    read = read_for(student / "model", test, states="states")
    assert read == read_for(student / "model", test) and parts[0].stat().st_mtime_ns == before
    unranked = limbeck("ask", student, test[0].question, "--states", "states", "--reranker", "none")
    assert unranked.status == 2 and "no reranker is used here; leave out --states" in unranked.err


def test_a_run_cannot_end_at_passages_that_nobody_reads(limbeck: Limbeck, recipe: Path) -> None:
    nobody = "student={model: tiny-causal-xs, train: {epochs: 1}}", "students={cot: {method: finetune-cot}}"
    unranked = "student.settings.find=question", "students={a: {}}"
    answers = "students={a: {settings: {learns: answers, query: question+answer, find: question}}}"
    for until, changes in (
        ("silver", nobody),
        ("reranker", unranked),
        ("silver", (answers,)),
        ("collected", ("teacher={kind: given, file: t.jsonl}", answers)),
        ("also", ()),
        ("rationales-dev", (*unranked, "student.train.choose=last")),
    ):
        more = [part for change in changes for part in ("--set", change)]
        refused = limbeck("run", recipe, "--until", until, *more)
        assert refused.status == 2 and f"--until {until}: there is no such stage; choose" in refused.err
    assert not Path("runs").exists()


def test_other_searches_other_passages_and_other_students(limbeck: Limbeck, recipe: Path) -> None:
    assert limbeck("run", recipe, "--until", "knowledge").status == 0
    shutil.move("runs/reads/knowledge/index", "facts")
    students = (
        "{silver: {settings: {find: silver}}, "
        "answers: {settings: {learns: answers, query: question, passages: 1}, train: {choose: dev-loss}}, "
        "told: {settings: {learns: answers, query: question+answer, passages: 1}}, "
        "supported: {settings: {learns: answers}}}"
    )
    more = (
        "--set",
        f"students={students}",
        "--set",
        "exam.direct=false",
        "--set",
        "knowledge={index: facts}",
    )
    ran = limbeck("run", recipe, "--out", "other", *more, "--set", "student.train.choose=last")
    assert ran.status == 0, ran.err
    run, index = Path("other"), Index("facts")
    by_question = {one["problem_id"]: one["passages"] for one in rows(run / "passages/train/found.jsonl")}
    problems = list(read_jsonl(run / "problems/train.jsonl", Problem))
    read = passages_of(index, problems, 1)
    assert all(shown(index.passages(own[:1])[0]) == read[key][0] for key, own in by_question.items())
    answers = rows(run / "students/answers/seed0/examples.jsonl")
    expected = [
        (f"{one.question}\n\n{read[one.id][0]}\n", f"The answer is {one.answer}.") for one in problems
    ]
    learned = [(one["prompt"], one["completion"]) for one in answers]
    assert learned == expected, "every problem once, whatever its rationales"
    assert not (run / "silver/question").exists()
    told_by = "passages/train-question+answer"
    told = rows(run / told_by / "found.jsonl")
    assert [one["passages"][0] for one in told] == [
        hits[0].passage for hits in index.search([with_answer(one) for one in problems], 1)
    ]
    by_answer = [shown(index.passages(one["passages"][:1])[0]) for one in told]
    learned = [one["prompt"] for one in rows(run / "students/told/seed0/examples.jsonl")]
    assert learned == [f"{one.question}\n\n{text}\n" for one, text in zip(problems, by_answer, strict=True)]
    stage = {
        part: json.loads((run / part / "stage.json").read_text()) for part in (told_by, "students/told/seed0")
    }
    assert stage["students/told/seed0"]["inputs"]["passages of train"] == stage[told_by]["fingerprint"]
    supported = [
        (one["prompt"], one["completion"]) for one in rows(run / "students/supported/seed0/examples.jsonl")
    ]
    kept = {one["problem_id"] for one in rows(run / "silver/rationale/silver.jsonl")}
    assert len(kept) <= len(supported) == len(set(supported)), "rationales with the same passages are one row"
    assert len(supported) < len(rows(run / "silver/rationale/silver.jsonl"))
    best = {one["problem_id"]: one["passages"][0] for one in rows(run / "passages/test-silver/found.jsonl")}
    teacher = {one["problem_id"]: one["text"] for one in rows(run / "passages/asked-test/completions.jsonl")}
    for key, name in best.items():
        fact = without_numbers(index.passages([name])[0].text.split(". ")[0])
        assert fact in without_numbers(teacher[key]), "an upper bound finds the fact itself"
    plain = limbeck("ask", run / "students/answers/seed0", "How?", "--knowledge", "nowhere")
    assert plain.status == 2 and "nowhere" in plain.err


@pytest.mark.parametrize(("model", "room"), [("tiny-seq2seq-xs", 40), ("tiny-causal-xs", None)])
def test_an_exam_cuts_passages_as_the_training_did(
    limbeck: Limbeck, recipe: Path, model: str, room: int | None
) -> None:
    """T5 has no positions that would end its prompts: what it was trained with says how long they are."""
    more = ("task.train=6", "task.dev=2", "task.test=2", f"student.model={model}", "students={kard: {}}")
    length = f"student.train.max_length={room or 80}"
    sets = [part for one in (*more, length) for part in ("--set", one)]
    ran = limbeck("run", recipe, *sets, "--set", "student.settings.passages=5")
    assert ran.status == 0 and "prompts were cut" in ran.err, ran.err
    run = Path("runs/reads")
    student, index = run / "students/kard/seed0", Index(run / "knowledge/index")
    by_id = {one.id: one for one in read_jsonl(run / "problems/train.jsonl", Problem)}
    asking, loaded = asking_of(str(student / "model")), unloaded(str(student / "model"))
    assert asking.room == room, "a decoder-only model's depends on each completion"
    asked = []
    for one in rows(run / "silver/rationale/silver.jsonl"):
        problem = by_id[one["problem_id"]]
        held = {problem.id: [shown(passage) for passage in index.passages(one["passages"][:5])]}
        asked += [prompt.text for prompt in student_prompts(loaded, asking, [problem], 24, passages=held)]
    trained = [one["prompt"] for one in rows(student / "examples.jsonl")]
    assert (asked == trained) == (room is not None), "what a decoder-only model is asked may be longer"


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("knowledge=null", "the recipe names none; add `knowledge: {corpus: FILE}`"),
        ("task={name: coin-flip}", "knowledge.corpus: built-in is that of task animals"),
        ("knowledge={corpus: built-in, index: x}", "names both corpus and index"),
        ("knowledge={index: nowhere}", "nowhere: is not an index"),
        ('knowledge={corpus: ""}', "knowledge.corpus"),
        ("knowledge={corpus: nowhere.jsonl}", "nowhere.jsonl"),
        ('student.prompt={template: "{question}\\n"}', "has no place {passages}"),
    ],
)
def test_what_cannot_be_read_is_refused(limbeck: Limbeck, recipe: Path, setting: str, text: str) -> None:
    ran = limbeck("run", recipe, "--set", setting)
    assert ran.status == 2 and text in ran.err, ran.err
    assert "students/" not in ran.err, "before anybody is trained"
    assert "{" in text or "rationales: started" not in ran.err


RANKED = ("--set", "students={ranked: {settings: {find: reranker}, train: {choose: last}}}")


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("knowledge.search.stemmer=klingon", "knowledge.search.stemmer: there is no 'klingon'"),
        ("knowledge.reranker.model=no/where/here", "knowledge.reranker.model: no/where/here: no such folder"),
        (
            "knowledge.reranker.model=tiny-encoder-xxl",
            "reranker.model: tiny-encoder-xxl: no such size",
        ),
        ("knowledge.reranker.device=mps", "knowledge.reranker.device: mps is not there"),
        ("knowledge.reranker.candidates=1", "settings.passages: 2, and knowledge.reranker.candidates: 1"),
        ("knowledge.reranker.train.sharding=fsdp", "train.sharding: has no effect on a reranker"),
        ("knowledge.reranker.train.precision=auto", "train.precision: auto is not available for a reranker"),
        ("knowledge.reranker.train.max_length=256", "train.max_length: has no effect on a reranker"),
    ],
)
def test_what_can_search_or_rank_nothing_is_refused_before_the_first_stage(
    limbeck: Limbeck, recipe: Path, setting: str, text: str
) -> None:
    ran = limbeck("run", recipe, *RANKED, "--set", setting)
    assert ran.status == 2 and text in ran.err, ran.err
    assert ": started" not in ran.err
    claims = (
        "--set",
        "students={a: {settings: {find: reranker}}, b: {}}",
        "--set",
        "claims={compare: [[a, b]]}",
    )
    protocol = limbeck("claims", recipe, *claims, "--set", setting, "--out", "claims")
    assert protocol.status == 2 and text in protocol.err and not Path("claims/protocol.json").exists()


SEARCHED = ("--set", "students={kard: {train: {choose: last}}}")


@pytest.mark.parametrize("package", ["bm25s", "Stemmer", "sentence_transformers"])
def test_packages_are_looked_for_before_the_first_stage(
    limbeck: Limbeck, recipe: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    ran = limbeck("run", recipe, *RANKED)
    assert ran.status == 2 and "run pip install 'limbeck[knowledge]'" in ran.err, ran.err
    assert ": started" not in ran.err
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    moved = limbeck("run", recipe, "--set", "knowledge.engine.milvus=x.db", *SEARCHED)
    assert moved.status == 2 and "limbeck[milvus]" in moved.err and ": started" not in moved.err, moved.err
    other = ("student.method=answers-only", "student.settings={}", "students={a: {}}")
    options = [part for one in other for part in ("--set", one)]
    plain = limbeck("run", recipe, *options, "--until", "problems")
    assert plain.status == 0, "who reads nothing needs nothing"
