"""The built-in tasks: endless problems with exact gold answers, and a teacher for them.

Which split a problem belongs to is decided by a hash of its question, so train, dev
and test are disjoint whatever the seeds and sizes. The offline teacher reads the
question out of the prompt like any other teacher and is wrong at a set rate, so
that grading has something to find. Asked about a mistake, it says which step is wrong
first (`checking.py`) and tells the solution as the student told it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from limbeck.errors import RecipeError, TeacherError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.places import KEY, Places
from limbeck.records import Passage, Problem
from limbeck.tasks import animals, arithmetic, coin_flip, last_letters, shuffled_objects
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.checking import Checked, check
from limbeck.tasks.feedback import Request, asks_for_feedback, reply, request_of
from limbeck.tasks.puzzle import PHRASINGS, Puzzle, Slip

Split = Literal["train", "dev", "test"]
_OF_TEN: dict[str, range] = {"train": range(0, 8), "dev": range(8, 9), "test": range(9, 10)}
"""Which tenths of all questions make up each split."""


@dataclass(frozen=True)
class Generated:
    """A built-in task: what it asks, its parameters with their defaults, and the range of each.

    Attributes:
        added: parameters that came after the task's first release. At their default they take no part
            in the seed, so that its problems stay what they were.
        corpus: the passages that its answers are in, where they are not in its questions.
    """

    name: str
    kind: AnswerKind
    summary: str
    parameters: Mapping[str, int]
    ranges: Mapping[str, tuple[int, int]]
    draw: Callable[[Random, Mapping[str, int]], Puzzle]
    read: Callable[[str], Puzzle | None]
    added: frozenset[str] = frozenset()
    corpus: Callable[[Mapping[str, int]], Iterator[Passage]] | None = None


GENERATED: dict[str, Generated] = {
    task.name: task
    for task in (
        Generated(
            "last-letters",
            "text",
            "put the last letters of several names together",
            {"words": 4},
            {"words": (1, 8)},
            last_letters.draw,
            last_letters.read,
        ),
        Generated(
            "coin-flip",
            "yes-no",
            "is a coin still heads up after some people flipped it?",
            {"people": 7},
            {"people": (1, 12)},
            coin_flip.draw,
            coin_flip.read,
        ),
        Generated(
            "shuffled-objects",
            "choice",
            "who holds what after several swaps?",
            {"people": 3, "swaps": 2},
            {"people": (2, 6), "swaps": (1, 8)},
            shuffled_objects.draw,
            shuffled_objects.read,
        ),
        Generated(
            "arithmetic",
            "number",
            "a short story that adds, subtracts, multiplies and halves",
            {"steps": 3, "largest": arithmetic.LARGEST},
            {"steps": (1, 8), "largest": (12, arithmetic.LARGEST)},
            arithmetic.draw,
            arithmetic.read,
            frozenset({"largest"}),
        ),
        Generated(
            "animals",
            "number",
            "how much of something have several made-up animals? a corpus says how much one has",
            {"animals": 1000},
            {"animals": (10, animals.MOST)},
            animals.draw,
            animals.read,
            corpus=animals.corpus,
        ),
    )
}


def built_in_task(name: str) -> Generated:
    """The built-in task of that name.

    Raises:
        RecipeError: there is none; the text lists them.
    """
    if name not in GENERATED:
        raise RecipeError(
            f"task.name: there is no built-in task {name!r}; choose one of {', '.join(GENERATED)}"
        )
    return GENERATED[name]


def settle_parameters(task: Generated, parameters: Mapping[str, int]) -> dict[str, int]:
    """All parameters of a task, the given ones in place of the defaults.

    Raises:
        ValueError: an unknown parameter, or a value outside its range.
    """
    for name, value in parameters.items():
        if name not in task.ranges:
            raise ValueError(
                f"parameters.{name}: {task.name} has no such parameter; it has {', '.join(task.ranges)}"
            )
        low, high = task.ranges[name]
        if not low <= value <= high:
            raise ValueError(f"parameters.{name}: {value} is out of range; choose from {low} to {high}")
    return {**task.parameters, **parameters}


def generate(name: str, split: Split, count: int, seed: int, **parameters: int) -> list[Problem]:
    """Distinct problems of one split of a built-in task.

    The same seed gives the same problems; a larger `count` only adds to them.

    Args:
        name: a key of `GENERATED`.
        split: problems of different splits never coincide, whatever the seeds.
        count: how many.
        seed: of the generator.
        parameters: the task's own, such as `steps=3`.

    Raises:
        RecipeError: an unknown task or parameter, or fewer than `count` problems exist.
    """
    return list(generated(name, split, count, seed, **parameters))


def generated(name: str, split: Split, count: int, seed: int, **parameters: int) -> Iterator[Problem]:
    """As `generate`, one after another; what is held of those before is a hash."""
    task = built_in_task(name)
    try:
        settings = settle_parameters(task, parameters)
    except ValueError as error:
        raise RecipeError(f"task.{error}") from None
    in_seed = {
        parameter: value
        for parameter, value in settings.items()
        if parameter not in task.added or value != task.parameters[parameter]
    }
    rng = Random(f"{name} {split} {seed} {sorted(in_seed.items())}")
    seen = Places()
    idle = 0
    while len(seen) < count:
        puzzle = task.draw(rng, settings)
        question = puzzle.question
        digest = hashlib.sha256(question.encode()).digest()
        number = int.from_bytes(digest, "big")
        if number % 10 in _OF_TEN[split] and digest[:KEY] not in seen:
            seen.put(digest[:KEY], 0)
            yield Problem(
                id=f"{name}-{number:064x}"[: len(name) + 17],
                question=question,
                answer=puzzle.answer,
                options=puzzle.options,
            )
            idle = 0
        idle += 1
        if idle > min(2000 + 60 * len(seen), 300_000):
            raise RecipeError(
                f"task.{split}: only about {len(seen)} different problems of {name} exist there with "
                f"{_shown(settings)}, {count} are wanted; lower the number or raise a parameter"
            )


def _shown(parameters: Mapping[str, int]) -> str:
    return ", ".join(f"{parameter}={value}" for parameter, value in parameters.items())


OPENINGS = (
    "",
    "Let us go through it step by step. ",
    "We take one thing after the other. ",
    "This is how it goes. ",
    "What is given decides it. ",
)
"""What a rationale may begin with; none says anything about the puzzle."""


class OfflineTeacher:
    """A teacher that needs no network: it solves the puzzle and writes a rationale, or feedback on a mistake.

    Shown the gold answer (a prompt whose pieces hold `gold`), it always ends in it: what would spoil the
    answer is then a wrong step like the others.

    Feedback is asked for by a prompt whose pieces hold a mistake (`Prompt.pieces`), or that was made with
    `feedback.TEMPLATE`. It names the first wrong step; the solution is in the student's phrasing, and errs
    at the same rates as a rationale. What else a prompt asks is refused.

    Args:
        task_name: a key of `GENERATED`; other questions it cannot read.
        wrong_answer: share of rationales with a wrong step that spoils the answer.
        wrong_step: share with a wrong step and yet the right answer.
        seed: decides, with `Sampling.seed`, the prompt's id and the completion's
            index, phrasing and errors. Greedily the phrasing is always the first
            one, and `Sampling.seed` plays no part.
        openings: begin each rationale with one of the `OPENINGS`, so that those of one phrasing differ too;
            never greedily, nor the solution in feedback.

    Raises:
        RecipeError: an unknown task, or shares that are negative or exceed 1 together.
    """

    def __init__(
        self,
        task_name: str,
        wrong_answer: float = 0.0,
        wrong_step: float = 0.0,
        seed: int = 0,
        *,
        openings: bool = False,
    ) -> None:
        self.task = built_in_task(task_name)
        if min(wrong_answer, wrong_step) < 0 or wrong_answer + wrong_step > 1:
            raise RecipeError(
                f"teacher.wrong_answer, teacher.wrong_step: {wrong_answer} and {wrong_step} must be shares "
                "that add up to 1 at most; lower one"
            )
        self.wrong_answer = wrong_answer
        self.wrong_step = wrong_step
        self.seed = seed
        self.openings = openings

    @property
    def name(self) -> str:
        return "offline"

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Complete every prompt; `Sampling.max_tokens` and `Completion.tokens` count words.

        Raises:
            TeacherError: a prompt holds no question of the task, or asks for something else than a
                rationale or feedback, or for feedback on a text that cannot be found in it.
        """
        for prompt in prompts:
            request = _requested(prompt)
            explains = prompt.pieces is not None and prompt.pieces.more.keys() == {"gold"}
            puzzle = self.task.read(request.question if request else prompt.text)
            if puzzle is None:
                raise TeacherError(
                    f"prompt {prompt.id}: the offline teacher finds no question of {self.task.name} in it; "
                    "ask a question as this task writes them, or choose another teacher"
                )
            checked = check(puzzle, self.task.kind, request.mistake) if request else None
            for index in range(sampling.n):
                yield self._complete(prompt.id, puzzle, checked, index, sampling, explains=explains)

    def _complete(
        self,
        prompt_id: str,
        puzzle: Puzzle,
        checked: Checked | None,
        index: int,
        sampling: Sampling,
        *,
        explains: bool,
    ) -> Completion:
        """A rationale; where a student's text was checked, feedback on it."""
        greedy = sampling.temperature == 0
        drawn = f"{self.seed} {prompt_id}" + ("" if greedy else f" {sampling.seed}")
        phrasing = 0 if greedy else (Random(drawn).randrange(PHRASINGS) + index) % PHRASINGS
        rng = Random(f"{drawn} {index}")
        chance = rng.random()
        slip: Slip = "none"
        if chance < self.wrong_answer:
            slip = "step" if explains else "answer"
        elif chance < self.wrong_answer + self.wrong_step:
            slip = "step"
        reasoning, answer = puzzle.rationale(checked.phrasing if checked else phrasing, slip, rng)
        plain = greedy or checked or not self.openings
        opening = "" if plain else Random(f"{drawn} {index} opening").choice(OPENINGS)
        rationale = f"{opening}{reasoning} The answer is {answer}."
        words = (reply(checked.said, rationale) if checked else rationale).split(" ")
        kept = words[: sampling.max_tokens]
        return Completion(prompt_id, index, " ".join(kept), len(kept), truncated=len(kept) < len(words))


def _requested(prompt: Prompt) -> Request | None:
    """The feedback that a prompt asks for; None: it asks for a rationale.

    Raises:
        TeacherError: it asks for something else, or the student's text cannot be found.
    """
    pieces, more = prompt.pieces, prompt.pieces.more if prompt.pieces else {}
    if pieces and "mistake" in more and more.keys() <= {"mistake", "gold"}:
        return Request(pieces.question, more["mistake"])
    if more and more.keys() != {"gold"}:
        places = ", ".join(f"{{{name}}}" for name in sorted(more))
        raise TeacherError(
            f"prompt {prompt.id}: the offline teacher writes rationales and feedback on mistakes, and cannot "
            f"do what a prompt with {places} asks; choose another teacher"
        )
    request = request_of(prompt.text) if asks_for_feedback(prompt.text) else None
    if request is None and asks_for_feedback(prompt.text):
        raise TeacherError(
            f"prompt {prompt.id}: asks for feedback, and the offline teacher cannot find the student's text "
            "in it; use the usual template for feedback, or choose another teacher"
        )
    return request
