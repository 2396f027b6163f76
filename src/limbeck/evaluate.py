"""The exam: a model answers every problem of a split, once; nothing leaves the denominator."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import InputError, ModelError
from limbeck.lm import Complete, Completion, Prompt, Sampling, finishing
from limbeck.lm.chunks import Chunks
from limbeck.lm.remember import Remembered
from limbeck.progress import SILENT, Track
from limbeck.records import Prediction, Problem, write_json, write_jsonl
from limbeck.statistics import wilson
from limbeck.tasks.answers import AnswerKind, grade, same
from limbeck.tasks.prompts import FORMATS, render

if TYPE_CHECKING:
    from limbeck.lm.load import Loaded

ABOUT = "limbeck.json"
"""File in a student's model folder: {"task", "kind", "format", "max_tokens"}."""


def examine(
    complete: Complete,
    problems: Sequence[Problem],
    kind: AnswerKind,
    ask: Callable[[Problem], str],
    sampling: Sampling,
    *,
    track: Track = SILENT,
    timed: bool = True,
) -> tuple[list[Prediction], dict[str, Any]]:
    """Let `complete` answer every problem, greedily or by majority of `sampling.n` votes.

    Args:
        complete: who is examined.
        problems: of one split.
        kind: the answer kind that extracts and compares.
        ask: problem -> the prompt's text.
        sampling: `n` > 1 votes (self-consistency) and needs a temperature above 0.
        track: shows the progress.
        timed: False where tokens per second mean nothing (the offline teacher counts words).

    Returns:
        Predictions in the order of the problems, and metrics: accuracy with a
        Wilson 95% interval over all problems (a failed extraction counts as
        wrong), failures, cut-off completions, mean new tokens, tokens per second.

    Raises:
        InputError: no problems.
    """
    if not problems:
        raise InputError("no problems to examine on; choose a split that has some")
    prompts = [Prompt(problem.id, ask(problem)) for problem in problems]
    answers: dict[str, list[Completion]] = defaultdict(list)
    clock = time.monotonic()
    arrived, before = 0, _recalled(complete)
    stream = complete(prompts, sampling)
    with track(f"exam of {complete.name}", len(prompts) * sampling.n) as advance, finishing(stream):
        for completion in stream:
            answers[completion.prompt_id].append(completion)
            arrived += 1
            recalled = _recalled(complete) - before
            if arrived == recalled + 1:
                advance(recalled)  # the rate starts behind what was only read back
            if arrived > recalled:
                advance(arrived)
    seconds = complete.seconds if isinstance(complete, Chunks) else time.monotonic() - clock
    if isinstance(complete, Remembered) and _recalled(complete) > before:
        timed = False  # it would be the speed of reading a file
    predictions = [predict(problem, kind, answers[problem.id]) for problem in problems]
    completions = [completion for group in answers.values() for completion in group]
    summary = metrics(complete.name, predictions, completions, seconds, sampling.n, timed=timed)
    return predictions, summary


def _recalled(complete: Complete) -> int:
    """How many completions a model has read back from its log so far."""
    return complete.from_memory if isinstance(complete, Chunks | Remembered) else 0


def predict(problem: Problem, kind: AnswerKind, completions: Sequence[Completion]) -> Prediction:
    """The majority's answer; ties go to the answer given first, failures do not vote."""
    ordered = sorted(completions, key=lambda completion: completion.index)
    if not ordered:  # the endpoint gave nothing: a failure, not a smaller exam
        ordered = [Completion(problem.id, 0, "")]
    grades = [grade(problem, kind, completion.text) for completion in ordered]
    votes = [graded.answer for graded in grades]
    winner = majority(kind, votes)
    place = votes.index(winner)
    model = ordered[place]
    return Prediction(
        problem_id=problem.id,
        question=problem.question,
        gold=problem.answer,
        completion=model.text,
        answer=winner,
        correct=grades[place].correct,
        tokens=model.tokens,
        truncated=model.truncated,
        votes=tuple(votes) if len(votes) > 1 else (),
    )


def majority(kind: AnswerKind, votes: Sequence[str | None]) -> str | None:
    """The most frequent answer (25.0 and 25 are one where the kind is number); None when nobody answered."""
    counts: Counter[str] = Counter()
    for vote in votes:
        if vote is None:
            continue
        known = next((answer for answer in counts if same(kind, answer, vote)), vote)
        counts[known] += 1
    return max(counts, key=lambda answer: counts[answer]) if counts else None


def metrics(
    name: str,
    predictions: Sequence[Prediction],
    completions: Sequence[Completion],
    seconds: float,
    votes: int = 1,
    *,
    timed: bool = True,
) -> dict[str, Any]:
    """Summary of one exam.

    Args:
        name: who was examined.
        predictions: one per problem, at least one.
        completions: all that arrived, of all votes.
        seconds: what they took.
        votes: asked for per problem.
        timed: False: the speed was not measured, `tokens_per_s` is 0.
    """
    tokens = sum(completion.tokens for completion in completions)
    right = sum(prediction.correct for prediction in predictions)
    low, high = wilson(right, len(predictions))
    return {
        "name": name,
        "problems": len(predictions),
        "correct": right,
        "accuracy": right / len(predictions),
        "low": low,
        "high": high,
        "extraction_failed": sum(prediction.answer is None for prediction in predictions),
        "truncated": sum(prediction.truncated for prediction in predictions),
        "mean_tokens": tokens / max(len(completions), 1),
        "tokens_per_s": tokens / seconds if timed and seconds > 0 else 0.0,
        "seconds": seconds,
        "votes": votes,
    }


def examine_model(
    model: str,
    problems: Sequence[Problem],
    kind: AnswerKind,
    sampling: Sampling,
    *,
    form: str | None = None,
    device: str = "auto",
    max_rows: int = 64,
    track: Track = SILENT,
) -> tuple[list[Prediction], dict[str, Any]]:
    """Load a model by name or folder and examine it; the prompt format is the one it was trained with."""
    from limbeck.lm.load import load
    from limbeck.lm.local import LocalModel

    loaded = load(model, device=device)
    asked = partial(student_prompt, loaded, form or about_student(model).get("format", "plain"))
    return examine(LocalModel(loaded, max_rows=max_rows), problems, kind, asked, sampling, track=track)


def answer_one(
    model: str, question: str, max_tokens: int, *, form: str | None = None, device: str = "auto"
) -> str:
    """What a model says, greedily, to one question."""
    from limbeck.lm.load import load
    from limbeck.lm.local import LocalModel

    loaded = load(model, device=device)
    asked = Problem(id="question", question=question, answer="?")
    prompt = student_prompt(loaded, form or about_student(model).get("format", "plain"), asked)
    sampling = Sampling(max_tokens=max_tokens)
    return next(iter(LocalModel(loaded)([Prompt("question", prompt)], sampling))).text


def student_prompt(loaded: Loaded, form: str, problem: Problem) -> str:
    """The rendered prompt a student of this format is trained and examined with."""
    return render(loaded.tokenizer, form, FORMATS[form].prompt(problem))


def about_student(model: str) -> dict[str, Any]:
    """What `limbeck.json` in a model folder says: format, kind, max_tokens, task; {} when it has none.

    Raises:
        ModelError: it is damaged, or names a format or a max_tokens that cannot be.
    """
    path = Path(model) / ABOUT
    if not path.is_file():
        return {}
    fix = "fix it, or delete the file and name the prompt format with --format"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ModelError(f"{path}: not JSON; {fix}") from None
    if not isinstance(about, dict):
        raise ModelError(f"{path}: not a JSON object; {fix}")
    form, room = about.get("format", "plain"), about.get("max_tokens", 1)
    if not isinstance(form, str) or form not in FORMATS:
        raise ModelError(f"{path}: format {form!r} is none of {', '.join(FORMATS)}; {fix}")
    if isinstance(room, bool) or not isinstance(room, int) or room < 1:
        raise ModelError(f"{path}: max_tokens {room!r} is no whole number above 0; {fix}")
    return about


def write_exam(folder: Path, predictions: Sequence[Prediction], summary: dict[str, Any]) -> None:
    """Write predictions.jsonl, then metrics.json (whose presence says that the exam is over)."""
    write_jsonl(folder / "predictions.jsonl", predictions)
    write_json(folder / "metrics.json", summary)
