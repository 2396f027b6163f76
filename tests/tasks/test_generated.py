"""The built-in tasks: exact gold, disjoint splits, and puzzles that read back what they ask."""

from __future__ import annotations

import re
from random import Random

import pytest
import Stemmer

from limbeck.errors import RecipeError
from limbeck.records import Problem
from limbeck.tasks import TASKS, animals
from limbeck.tasks.answers import canonical
from limbeck.tasks.generated import GENERATED, generate
from limbeck.tasks.words import COLOURS, NAMES, OBJECTS, SHORT_NAMES, THINGS

NAMES_OF_TASKS = list(GENERATED)

ASKED = {
    "eggs": "nests hold",
    "speed": "from noon",
    "weight": "How heavy",
    "food": "herrings",
    "price": "How much money",
    "sleep": "at rest",
}
"""Which fact of the corpus a question about animals is after."""

NUMBERS: dict[str, dict[str, int]] = {}
for passage in GENERATED["animals"].corpus({"animals": 1000}):  # type: ignore[misc]
    name, topic = passage.id.split("-")
    (number,) = re.findall(r"[0-9]+", passage.text)
    NUMBERS.setdefault(name, {})[topic] = int(number)


def simulate(question: str) -> str:
    """Solve a question from its text alone, independently of the code that wrote it."""
    if "last letters" in question:
        return "".join(word[-1] for word in question.split('"')[1].split())
    if "coin is heads up" in question:
        return "no" if question.count("flips it") % 2 else "yes"
    if "swap" in question:
        holds = {
            name: f"{colour} {thing}"
            for name, colour, thing in re.findall(r"(\w+) has the (\w+) (\w+)", question)
        }
        for one, other in re.findall(r"(\w+) and (\w+) swap", question):
            holds[one], holds[other] = holds[other], holds[one]
        asked = re.search(r"does (\w+) have now", question)
        assert asked is not None
        letters = {text: letter for letter, text in re.findall(r"\((\w)\) (\w+ \w+)", question)}
        return letters[holds[asked[1]]]
    for topic in [topic for topic, words in ASKED.items() if words in question]:
        (name,) = [word for word in re.findall("[a-z]+", question) if word in NUMBERS]
        (count,) = re.findall("[0-9]+", question)
        return str(int(count) * NUMBERS[name][topic])
    value = 0
    for verb, amount in re.findall(
        r"(has|finds|buys|gets|loses|sells|gives away|doubles|triples) (\w+)", question
    ):
        if amount == "half":
            assert value % 2 == 0
            value //= 2
        elif verb in ("doubles", "triples"):
            value *= 2 if verb == "doubles" else 3
        else:
            value += int(amount) * (-1 if verb in ("loses", "sells", "gives away") else 1)
        assert 1 <= value <= 99
    return str(value)


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_gold_is_exact_and_canonical(name: str) -> None:
    for problem in generate(name, "train", 300, seed=3):
        assert problem.answer == simulate(problem.question)
        assert canonical(GENERATED[name].kind, problem.answer, problem.options) == problem.answer


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_problems_are_distinct_and_ids_belong_to_questions(name: str) -> None:
    problems = generate(name, "train", 1000, seed=0)
    assert (
        len({problem.question for problem in problems}) == len({problem.id for problem in problems}) == 1000
    )
    again = {problem.question: problem.id for problem in generate(name, "train", 3000, seed=1)}
    shared = [problem for problem in problems if problem.question in again]
    assert all(again[problem.question] == problem.id for problem in shared)


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_splits_are_disjoint_for_all_seeds(name: str) -> None:
    parameters = {"people": 2} if name in ("coin-flip", "shuffled-objects") else {}
    splits = {
        split: {
            problem.question
            for seed in range(3)
            for problem in generate(name, split, 300, seed, **parameters)
        }
        for split in ("train", "dev", "test")
    }
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["dev"]
    assert not splits["dev"] & splits["test"]


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_seeds_decide_and_more_problems_only_add(name: str) -> None:
    few, many = (generate(name, "test", count, seed=5) for count in (20, 50))
    assert many[:20] == few
    assert generate(name, "test", 20, seed=6) != few


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_a_puzzle_reads_back_what_it_asks(name: str) -> None:
    task, rng = GENERATED[name], Random(1)
    for parameter, (low, high) in task.ranges.items():
        for value in (low, high):
            for _ in range(20):
                puzzle = task.draw(rng, {**task.parameters, parameter: value})
                noise = task.draw(rng, task.parameters).question
                assert (
                    task.read(f"Question: {noise}\nAnswer: no\n\nQuestion: {puzzle.question}\nThink.")
                    == puzzle
                )


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_default_texts_are_short_enough_for_small_models(name: str) -> None:
    questions = [problem.question.split() for problem in generate(name, "train", 500, seed=0)]
    assert max(map(len, questions)) <= 45


def test_parameters_make_problems_harder() -> None:
    assert len(generate("last-letters", "test", 1, 0, words=6)[0].answer) == 6
    assert generate("coin-flip", "test", 1, 0, people=10)[0].question.count(".") == 11
    hard = generate("shuffled-objects", "test", 1, 0, people=5, swaps=4)[0]
    assert len(hard.options) == 5 and hard.question.count(" swap.") == 4
    assert "Finally" in hard.question
    assert (
        len(
            re.findall(r"\d+|half|doubles|triples", generate("arithmetic", "test", 1, 0, steps=6)[0].question)
        )
        == 7
    )


def test_the_largest_number_bounds_a_story() -> None:
    def numbers(problems: list[Problem]) -> list[int]:
        return [int(n) for one in problems for n in [*re.findall(r"\d+", one.question), one.answer]]

    small = generate("arithmetic", "train", 300, 0, largest=30)
    assert 25 < max(numbers(small)) <= 30 < max(numbers(generate("arithmetic", "train", 300, 0)))
    assert {GENERATED["arithmetic"].read(one.question) is None for one in small} == {False}


def test_problems_of_the_first_release_stay() -> None:
    """A parameter that came later changes none of them, also where it is written out."""
    assert [one.id for one in generate("arithmetic", "train", 2, 0, largest=99)] == [
        "arithmetic-0fa8b5e0e3302122",
        "arithmetic-f9823d358a9aeeb6",
    ]


def test_a_space_too_small_says_how_many_exist() -> None:
    with pytest.raises(
        RecipeError, match=r"task\.train: only about (\d+) different problems .*words=1, 4000"
    ) as error:
        generate("last-letters", "train", 4000, 0, words=1)
    found = int(re.findall(r"about (\d+)", str(error.value))[0])
    assert 0.7 * len(NAMES) < found < 0.9 * len(NAMES), "about eight tenths of all names train"


def test_unknown_names_and_parameters_are_refused_with_the_fix() -> None:
    with pytest.raises(
        RecipeError, match="no built-in task 'arithmetik'; choose one of last-letters, coin-flip"
    ):
        generate("arithmetik", "train", 1, 0)
    with pytest.raises(
        RecipeError, match=r"task\.parameters\.step: arithmetic has no such parameter; it has steps, largest"
    ):
        generate("arithmetic", "train", 1, 0, step=3)
    with pytest.raises(RecipeError, match=r"task\.parameters\.steps: 0 is out of range; choose from 1 to 8"):
        generate("arithmetic", "train", 1, 0, steps=0)


def test_foreign_questions_are_not_read() -> None:
    strange = {
        "last-letters": 'Take the last letters of the words in " " and concatenate them.',
        "coin-flip": "A coin is heads up. Is the coin still heads up?",
        "shuffled-objects": "Ann has the red ball and Ann has the blue ball. First Ann and Ben swap. "
        "Which ball does Ann have now?",
        "arithmetic": "Ann has 5 balls and eats 3. How many balls are there now?",
    }
    for name, question in strange.items():
        assert GENERATED[name].read(question) is None
        assert GENERATED[name].read("What is the capital of France?") is None
    impossible = "Ann has 5 balls and gives away half. How many balls are there now?"
    assert GENERATED["arithmetic"].read(impossible) is None


def test_the_listing_shows_kind_summary_and_knobs() -> None:
    assert list(TASKS) == ["last-letters", "coin-flip", "shuffled-objects", "arithmetic", "animals"]
    for name, task in TASKS.items():
        assert task.name == name and task.summary and task.parameters.keys() == task.ranges.keys()
        assert all(
            task.ranges[parameter][0] <= value <= task.ranges[parameter][1]
            for parameter, value in task.parameters.items()
        )


def test_words_are_single_plain_and_distinct() -> None:
    for words in (NAMES, THINGS, COLOURS, OBJECTS):
        assert len(set(words)) == len(words)
        assert all(word.isascii() and word.isalpha() for word in words)
    assert len(NAMES) > 500 and all(name.istitle() and len(name) > 1 for name in NAMES)
    assert set(SHORT_NAMES) < set(NAMES)


def test_no_two_animals_are_one_word_for_a_search() -> None:
    """Found by their stems: all passages that a name finds are about that animal."""
    stem = Stemmer.Stemmer("english").stemWord
    stems = [stem(name) for name in animals._names()]
    assert len(set(stems)) == len(stems) == animals.MOST
