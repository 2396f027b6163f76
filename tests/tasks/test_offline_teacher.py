"""The offline teacher: right by default, wrong at its rates, four ways of telling."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random

import pytest

from limbeck.errors import RecipeError, TeacherError
from limbeck.lm import Complete, Completion, Prompt, Sampling
from limbeck.lm.remember import Remembered
from limbeck.recipe import check_recipe
from limbeck.records import Problem
from limbeck.run_folder import Run
from limbeck.stages.teacher import make_teacher
from limbeck.tasks.answers import grade, split_answer
from limbeck.tasks.asking import teacher_asking
from limbeck.tasks.checking import check
from limbeck.tasks.generated import GENERATED, OPENINGS, OfflineTeacher, generate
from limbeck.tasks.settings import PromptSettings

NAMES_OF_TASKS = list(GENERATED)
FOUR = Sampling(n=4, temperature=0.7)


def ask(
    name: str, problems: list[Problem], sampling: Sampling, **teacher: float
) -> list[tuple[Problem, Completion]]:
    prompts = teacher_asking(PromptSettings(), GENERATED[name].kind).prompts(problems)
    by_id = {problem.id: problem for problem in problems}
    model: Complete = OfflineTeacher(name, **teacher)  # type: ignore[arg-type]
    return [(by_id[completion.prompt_id], completion) for completion in model(prompts, sampling)]


def has_wrong_step(name: str, problem: Problem, text: str) -> bool:
    """A step-checker per task: does a line of reasoning contradict the question?"""
    question = problem.question
    if name == "arithmetic":
        sums = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text)
        known = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
        return any(known[sign](int(a), int(b)) != int(c) for a, sign, b, c in sums)
    if name == "animals":
        (fact, each), (product,) = (
            known_fact(question),
            re.findall(r"(\d+) (?:x|\*|times) (\d+)\D*(\d+)", text),
        )
        a, b, c = map(int, product)
        return f"{fact} {each}" not in text.lower() or b != each or a * b != c
    if name == "last-letters":
        words = question.split('"')[1].split()
        told = re.findall(r"letter of (\w+) is (\w)", text) or re.findall(
            r"(\w+) (?:ends in|in|adds) (\w)\b", text
        )
        told = told or [(word, letter) for letter, word in re.findall(r"(\w) from (\w+)", text)]
        assert [word for word, _ in told] == words
        return any(word[-1] != letter for word, letter in told)
    if name == "coin-flip":
        deeds = re.findall(r"(\w+) (flips it|does not)\.", question)
        flips = [deed == "flips it" for _, deed in deeds]
        if "flipped by" in text or "Nobody" in text:
            told = text.split(".")[0]
            return [bool(re.search(rf"\b{name}\b", told)) for name, _ in deeds] != flips
        counts = [sum(flips[: n + 1]) for n in range(len(flips))]
        if "Count" in text:
            return [int(count) for count in re.findall(r"(\d+) after", text)] != counts
        sides = re.findall(r"(?::|to|at) (heads|tails)", text.removeprefix("Start: heads."))
        return sides != ["tails" if count % 2 else "heads" for count in counts]
    return told_wrongly(question, text)


def known_fact(question: str) -> tuple[str, int]:
    """The words of a fact up to its number, and the number, from the corpus: the passage that the teacher's
    own rationale finds."""
    puzzle = GENERATED["animals"].read(question)
    assert puzzle is not None
    parts = re.split(r"(\d+)", puzzle.rationale(1, "none", Random(0))[0])
    said = parts[0].removeprefix("We know that ").strip()
    (number,) = [re.findall(r"\d+", text)[0] for text in corpus_texts() if text.startswith(said)]
    return said, int(number)


@cache
def corpus_texts() -> list[str]:
    corpus = GENERATED["animals"].corpus
    assert corpus is not None
    return [passage.text.lower() for passage in corpus({"animals": 1000})]


def told_wrongly(question: str, text: str) -> bool:
    """Shuffled objects: does what is told after each swap differ from the truth?"""
    holds = dict(re.findall(r"(\w+) has the (\w+)", question))
    people, asked = list(holds), re.findall(r"does (\w+) have", question)[0]
    states = [dict(holds)]
    for one, other in re.findall(r"(\w+) and (\w+) swap", question):
        holds[one], holds[other] = holds[other], holds[one]
        states.append(dict(holds))
    if text.startswith("Start"):
        told = [dict(re.findall(r"(\w+) (\w+)(?:, |$)", part)) for part in re.findall(r": ([^.]*)\.", text)]
        return told != states
    if text.startswith("When"):
        gets = [dict(re.findall(r"(\w+) gets (\w+)", part)) for part in text.split("When")[1:]]
        return any(got.items() - state.items() for got, state in zip(gets, states[1:], strict=True))
    if "is held by" in text:
        paths = re.findall(r"(\w+) one is held by ([^.]*)\.", text)
        return any(
            path.split(", then ") != [next(p for p in people if state[p] == colour) for state in states]
            for colour, path in paths
        )
    held = re.findall(r"(?:swapped|first),? (\w+) had it", text)[::-1]  # from the start on
    follows = [
        {one: other, other: one}.get(before, before) == after
        for (one, other), before, after in zip(
            re.findall(r"(\w+) and (\w+) swap", question), held[:-1], held[1:], strict=True
        )
    ]
    start = states[0][held[0]] == re.findall(r"that was (\w+)", text)[0]
    return not (start and all(follows) and held[-1] == asked)


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_without_errors_all_phrasings_are_right_in_every_step(name: str) -> None:
    problems = generate(name, "train", 60, 0)
    for problem, completion in ask(name, problems, FOUR):
        verdict = grade(problem, GENERATED[name].kind, completion.text)
        assert verdict.correct and verdict.how == "marker", completion.text
        assert completion.text.endswith(f" The answer is {problem.answer}.")
        reasoning, _ = split_answer(GENERATED[name].kind, completion.text, problem.options)
        assert not has_wrong_step(name, problem, reasoning), completion.text
        assert len(completion.text.split()) == completion.tokens <= 60
        assert not re.search(r"  |\.\.|,,| [.,]|\{", completion.text), "sloppy English"


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_rationales_of_a_problem_differ(name: str) -> None:
    for problem in generate(name, "train", 20, 0):
        texts = [completion.text for _, completion in ask(name, [problem], FOUR)]
        assert len(set(texts)) == 4
    openings = Counter(
        re.sub(r"[A-Z]\w+ ?|\d+", "_", completion.text)[:12]
        for _, completion in ask(name, generate(name, "train", 200, 0), Sampling(temperature=0.7))
    )
    assert len(openings) >= 4, "one sampled rationale per problem meets every phrasing"


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_a_wrong_answer_is_really_wrong_and_comes_from_a_wrong_step(name: str) -> None:
    for problem, completion in ask(name, generate(name, "train", 150, 0), FOUR, wrong_answer=1.0):
        verdict = grade(problem, GENERATED[name].kind, completion.text)
        assert verdict.answer is not None and not verdict.correct, completion.text
        reasoning, _ = split_answer(GENERATED[name].kind, completion.text, problem.options)
        assert has_wrong_step(name, problem, reasoning), completion.text


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_a_wrong_step_can_be_found_though_the_answer_is_right(name: str) -> None:
    for problem, completion in ask(name, generate(name, "train", 150, 0), FOUR, wrong_step=1.0):
        assert grade(problem, GENERATED[name].kind, completion.text).correct, completion.text
        reasoning, _ = split_answer(GENERATED[name].kind, completion.text, problem.options)
        assert has_wrong_step(name, problem, reasoning), completion.text


@pytest.mark.parametrize("parameters", [{"people": 2, "swaps": 1}, {"people": 5, "swaps": 5}])
def test_slips_work_for_few_and_many_people(parameters: dict[str, int]) -> None:
    problems = generate("shuffled-objects", "train", 40, 0, **parameters)
    for problem, completion in ask("shuffled-objects", problems, FOUR, wrong_answer=0.5, wrong_step=0.5):
        reasoning, _ = split_answer("choice", completion.text, problem.options)
        assert has_wrong_step("shuffled-objects", problem, reasoning), completion.text


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7)])
def test_it_errs_at_its_rates(sampling: Sampling) -> None:
    problems = generate("arithmetic", "train", 2000, 0)
    told = ask("arithmetic", problems, sampling, wrong_answer=0.2, wrong_step=0.1, seed=1)
    wrong = sum(not grade(problem, "number", completion.text).correct for problem, completion in told)
    odd = sum(
        grade(problem, "number", completion.text).correct
        and has_wrong_step("arithmetic", problem, completion.text)
        for problem, completion in told
    )
    assert abs(wrong - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5
    assert abs(odd - 200) < 4 * (2000 * 0.1 * 0.9) ** 0.5


def test_greedy_is_the_plainest_phrasing_and_always_the_same() -> None:
    problems = generate("arithmetic", "train", 50, 0)
    first = ask("arithmetic", problems, Sampling(seed=0), wrong_answer=0.3)
    assert all(completion.text.startswith("First ") for _, completion in first)
    assert ask("arithmetic", problems, Sampling(seed=9), wrong_answer=0.3) == first
    assert ask("arithmetic", problems, Sampling(seed=0), wrong_answer=0.3, seed=1) != first


def test_sampled_completions_depend_on_seed_id_and_index_alone() -> None:
    problems = generate("coin-flip", "train", 20, 0)
    texts = {(c.prompt_id, c.index): c.text for _, c in ask("coin-flip", problems, FOUR, wrong_answer=0.3)}
    alone = {
        (c.prompt_id, c.index): c.text for _, c in ask("coin-flip", problems[7:8], FOUR, wrong_answer=0.3)
    }
    assert alone.items() <= texts.items()
    other = Sampling(n=4, temperature=0.7, seed=1)
    assert {
        (c.prompt_id, c.index): c.text for _, c in ask("coin-flip", problems, other, wrong_answer=0.3)
    } != texts


def test_it_reads_the_last_question_of_any_prompt() -> None:
    shown, asked = generate("last-letters", "train", 2, 0)
    teacher = OfflineTeacher("last-letters")
    for text in (asked.question, f"Q: {shown.question}\nA: The answer is x.\n\nQ: {asked.question}\nA:"):
        (completion,) = teacher([Prompt("p", "p", text)], Sampling())
        assert grade(asked, "text", completion.text).correct
    with pytest.raises(
        TeacherError, match="prompt p7: the offline teacher finds no question of last-letters"
    ):
        list(teacher([Prompt("p7", "p7", "What is the capital of France?")], Sampling()))


def test_it_stops_at_max_tokens() -> None:
    (problem,) = generate("arithmetic", "train", 1, 0)
    ((_, completion),) = ask("arithmetic", [problem], Sampling(max_tokens=5))
    assert completion.truncated and completion.tokens == 5 == len(completion.text.split())
    ((_, whole),) = ask("arithmetic", [problem], Sampling())
    assert not whole.truncated and whole.text.startswith(completion.text)


@pytest.mark.parametrize("shares", [(-0.1, 0.0), (0.7, 0.4), (0.0, -0.5)])
def test_shares_that_make_no_sense_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(RecipeError, match=r"teacher\.wrong_answer, teacher\.wrong_step.*lower one"):
        OfflineTeacher("arithmetic", *shares)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(RecipeError, match="no built-in task 'sums'"):
        OfflineTeacher("sums")
    assert OfflineTeacher("arithmetic").name == "offline"


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_openings_add_texts_and_change_neither_steps_nor_answers(name: str) -> None:
    sampling = Sampling(n=12, temperature=0.7)
    problems = generate(name, "train", 20, 0)
    plain = ask(name, problems, sampling, wrong_answer=0.3)
    opened = ask(name, problems, sampling, wrong_answer=0.3, openings=True)
    for (_, without), (_, begun) in zip(plain, opened, strict=True):
        assert begun.text.removesuffix(without.text) in OPENINGS
    right = ask(name, problems, sampling, openings=True)
    for problem, completion in right:
        puzzle = GENERATED[name].read(problem.question)
        assert puzzle is not None and check(puzzle, GENERATED[name].kind, completion.text).sound
    texts = {problem.id: set[str]() for problem in problems}
    for problem, completion in right:
        texts[problem.id].add(completion.text)
    assert min(map(len, texts.values())) > 4
    greedy = Sampling(temperature=0.0)
    assert ask(name, problems, greedy, openings=True) == ask(name, problems, greedy)


def test_what_it_said_before_there_were_openings_is_remembered(tmp_path: Path) -> None:
    settings = {"kind": "offline", "wrong_answer": 0.1, "wrong_step": 0.05}
    key = {**settings, "task": "coin-flip", "seed": 0}  # as it was then
    problems = generate("coin-flip", "train", 5, 0)
    prompts = teacher_asking(PromptSettings(), GENERATED["coin-flip"].kind).prompts(problems)
    memory = tmp_path / "memory" / "teacher.jsonl"
    list(Remembered(OfflineTeacher("coin-flip", 0.1, 0.05, 0), memory, key=key)(prompts, FOUR))
    for openings, missing in ((False, 0), (True, 20)):
        raw = {"name": "x", "task": {"name": "coin-flip"}}
        said = {"kind": "offline", "openings": openings}
        recipe = check_recipe({**raw, "teacher": said}, "r.yaml", trains=False)
        teacher = make_teacher(recipe, Run(tmp_path, print), agreed=True, max_cost=None)()
        found = teacher.complete(tmp_path)
        assert isinstance(found, Remembered) and len(found.missing(prompts, FOUR)) == missing
