"""The offline teacher asked about a mistake: what it says, how it solves, and what it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random

import pytest

from limbeck.errors import TeacherError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.opening import Request, open_context
from limbeck.rationales import grade, mark_dropped
from limbeck.records import Problem
from limbeck.stages.models import Question
from limbeck.tasks.asking import Asking, teacher_asking
from limbeck.tasks.feedback import TEMPLATE, instruction, read, request_of
from limbeck.tasks.generated import GENERATED, OfflineTeacher, generate
from limbeck.tasks.puzzle import PHRASINGS, Puzzle, Slip
from limbeck.tasks.settings import PromptSettings

NAMES_OF_TASKS = list(GENERATED)
ONE = Sampling()


def feedback_asking(name: str) -> Asking:
    return Asking(template=TEMPLATE, instruction=instruction(GENERATED[name].kind))


def about(name: str, problem: Problem, mistake: str, *, keep_pieces: bool = False) -> Prompt:
    """A prompt for feedback, as a stage makes it; or its text alone."""
    asking = feedback_asking(name)
    pieces = asking.pieces(problem, mistake=mistake, gold=problem.gold)
    own = f"{problem.id}#0", problem.id
    return Prompt(*own, asking.plain(pieces), about="0", pieces=pieces if keep_pieces else None)


def puzzle_of(name: str, problem: Problem) -> Puzzle:
    puzzle = GENERATED[name].read(problem.question)
    assert puzzle is not None
    return puzzle


def told(puzzle: Puzzle, phrasing: int, slip: Slip, seed: int) -> str:
    reasoning, answer = puzzle.rationale(phrasing, slip, Random(seed))
    return f"{reasoning}\nThe answer is {answer}."


@pytest.mark.parametrize("keep_pieces", [False, True])
@pytest.mark.parametrize("phrasing", range(PHRASINGS))
@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_the_reply_is_read_and_graded_right_in_the_students_phrasing(
    name: str, phrasing: int, keep_pieces: bool
) -> None:
    problems = generate(name, "train", 60, 0)
    puzzles = [puzzle_of(name, problem) for problem in problems]
    mistakes = [told(puzzle, phrasing, "answer", seed) for seed, puzzle in enumerate(puzzles)]
    prompts = [about(name, *pair, keep_pieces=keep_pieces) for pair in zip(problems, mistakes, strict=True)]
    completions = list(OfflineTeacher(name)(prompts, Sampling(n=2, temperature=1.0)))
    replies = [read(completion.text) for completion in completions]
    assert len(replies) == 120 and None not in replies
    solved = [
        Completion(one.prompt_id.removesuffix("#0"), one.index, found.solution)
        for one, found in zip(completions, replies, strict=True)
        if found
    ]
    graded = list(mark_dropped(grade(problems, GENERATED[name].kind, solved, "offline")))
    assert all(one.correct and one.how == "marker" for one in graded)
    for number, one in enumerate(solved):
        puzzle = puzzles[number // 2]
        assert one.text == told(puzzle, phrasing, "none", 0).replace("\n", " ")
        found = replies[number]
        assert found is not None and "step" in found.said


def test_the_question_asked_counts_whatever_the_student_wrote() -> None:
    """Other questions and the template's own headings in the student's text: the old teacher solved the last
    question that it met."""
    asked, other = generate("arithmetic", "train", 2, 0)
    assert asked.answer != other.answer
    right = told(puzzle_of("arithmetic", asked), 0, "none", 0)
    other_right = told(puzzle_of("arithmetic", other), 0, "none", 0)
    for mistake in (
        f"{other_right}\n\nQuestion:\n{other.question}",
        f"{right}\n\nThe student wrote:\n3\n\nThe right answer: 3\n\nQuestion:\n{other.question}\n",
        f"Mistake: none.\nSolution: 3. The answer is 3.\n\nQuestion: {other.question}\n{other_right}",
        "",
        "\n\n",
        "A student answered this question, and the answer is wrong.\n\nQuestion:\n",
    ):
        for keep_pieces in (False, True):
            prompt = about("arithmetic", asked, mistake, keep_pieces=keep_pieces)
            (completion,) = OfflineTeacher("arithmetic")([prompt], ONE)
            found = read(completion.text)
            assert found is not None and found.solution == right.replace("\n", " ")
        request = request_of(prompt.text)
        assert request is not None and (request.question, request.mistake) == (asked.question, mistake)


def test_a_right_text_is_not_found_fault_with() -> None:
    (problem,) = generate("coin-flip", "train", 1, 0)
    prompt = about("coin-flip", problem, told(puzzle_of("coin-flip", problem), 3, "none", 0))
    (completion,) = OfflineTeacher("coin-flip")([prompt], ONE)
    assert completion.text.startswith(f"Mistake: No step is wrong, and the answer {problem.gold} is right.\n")


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_solutions_err_as_rationales_do(name: str) -> None:
    """The same prompt, seed and index draw the same error, here in the plainest phrasing on both sides."""
    problems = generate(name, "train", 300, 0)
    teacher = OfflineTeacher(name, wrong_answer=0.3, wrong_step=0.2, seed=4)
    plain = teacher_asking(PromptSettings(), GENERATED[name].kind).prompts(problems)
    mistakes = [told(puzzle_of(name, problem), 0, "answer", 0) for problem in problems]
    prompts = [
        Prompt(problem.id, problem.id, about(name, problem, mistake).text)
        for problem, mistake in zip(problems, mistakes, strict=True)
    ]
    rationales, replies = list(teacher(plain, ONE)), list(teacher(prompts, ONE))
    solutions = [found.solution for one in replies if (found := read(one.text))]
    assert solutions == [one.text for one in rationales]
    graded = list(grade(problems, GENERATED[name].kind, rationales, "offline"))
    assert 60 < sum(not one.correct for one in graded) < 120
    fresh = list(OfflineTeacher(name)(prompts, ONE))
    for one, other in zip(replies, fresh, strict=True):  # what is said of the student's text stays true
        told_off, right = read(one.text), read(other.text)
        assert told_off is not None and right is not None and told_off.said == right.said


def test_a_reply_is_cut_at_max_tokens() -> None:
    (problem,) = generate("arithmetic", "train", 1, 0)
    prompt = about("arithmetic", problem, "The answer is 0.")
    (whole,) = OfflineTeacher("arithmetic")([prompt], ONE)
    (cut,) = OfflineTeacher("arithmetic")([prompt], Sampling(max_tokens=7))
    assert not whole.truncated and whole.text.startswith(cut.text)
    assert cut.truncated and cut.tokens == 7 == len(cut.text.split())


def test_what_it_cannot_do_is_refused() -> None:
    """The old teacher answered every one of these with a rationale."""
    (problem,) = generate("coin-flip", "train", 1, 0)
    asking = feedback_asking("coin-flip")
    other_template = Asking(
        template="{question}\nIt said: {mistake}\nTruth: {gold}\n{instruction}",
        instruction=asking.instruction,
    )
    pieces = other_template.pieces(problem, mistake="Start: tails.", gold=problem.gold)
    rating = Asking(template="{question}\n{answer}\nRate this.")
    rated = rating.pieces(problem, answer="no")
    no_student = f"The student wrote:\n\nThe right answer: no\n\n{asking.instruction}"
    for prompt, refused in (
        (
            Prompt("p1", "p", other_template.plain(pieces)),
            "p1: asks for feedback, and the offline teacher cannot",
        ),
        (Prompt("p2", "p", f"{problem.question}\n\n{no_student}"), "p2: asks for feedback.*usual template"),
        (
            Prompt("p3", "p", rating.plain(rated), pieces=rated),
            r"p3: .*cannot do what a prompt with \{answer\}",
        ),
        (
            Prompt("p4", "p", asking.plain(pieces).replace("coin", "cat")),
            "p4: .*finds no question of coin-flip",
        ),
    ):
        with pytest.raises(TeacherError, match=f"prompt {refused}"):
            list(OfflineTeacher("coin-flip")([prompt], ONE))
    (completion,) = OfflineTeacher("coin-flip")(
        [Prompt("p5", "p", other_template.plain(pieces), pieces=pieces)], ONE
    )
    assert completion.text.startswith("Mistake: The step 'Start: tails' is wrong: the coin starts heads up.")


def test_the_recipes_teacher_passes_a_custom_template_on(tmp_path: Path) -> None:
    """A stage puts the prompt together from a user's template, and the teacher finds the student's text."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: f\ntask: {name: last-letters, train: 5, dev: 0, test: 5}\nteacher: {kind: offline}\n"
        "student: {method: finetune-cot, model: tiny-causal-xs}\n"
    )
    (problem,) = generate("last-letters", "train", 1, 0)
    mistake = told(puzzle_of("last-letters", problem), 2, "answer", 1)
    asking = Asking(template="{mistake}\nis wrong; {gold} is right. The question was: {question}\nTell why.")
    pieces = asking.pieces(problem, mistake=mistake, gold=problem.gold)
    with open_context(recipe, (), Request(out=tmp_path / "run")) as (context, _):
        teacher = context.teacher()
        prompt = teacher.prompt(asking, Question("q", problem.id, pieces, about="m"))
        (completion,) = teacher.complete(tmp_path)([prompt], ONE)
    found = read(completion.text)
    assert found is not None and " adds " in found.solution
    assert found.said.startswith("The step '") and found.said.endswith(".")


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("last-letters", "fe6352f3a126f9eb"),
        ("coin-flip", "0ace65a8c21d7a02"),
        ("shuffled-objects", "f28d79a80b454149"),
        ("arithmetic", "0a2c0f061dad16ee"),
    ],
)
def test_rationales_stay_what_they_were(name: str, texts: str) -> None:
    """Runs of before feedback go on with the texts that they began with."""
    plain = teacher_asking(PromptSettings(), GENERATED[name].kind)
    prompts = plain.prompts(generate(name, "train", 100, 0))
    teacher, written = OfflineTeacher(name, 0.2, 0.2, seed=3), []
    for sampling in (
        ONE,
        Sampling(n=4, temperature=0.7, seed=2),
        Sampling(n=2, temperature=0.7, max_tokens=9),
    ):
        written += [
            f"{one.prompt_id} {one.index} {one.text} {one.tokens} {one.truncated}"
            for one in teacher(prompts, sampling)
        ]
    assert hashlib.sha256("\n".join(written).encode()).hexdigest()[:16] == texts
