"""The exam: a model answers every problem of a split, once; nothing leaves the denominator."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from limbeck.errors import InputError
from limbeck.exam_facts import ExamFacts
from limbeck.lm import Complete, Completion, Prompt, Sampling, by_id, finishing
from limbeck.lm.chunks import Chunks
from limbeck.lm.remember import Remembered
from limbeck.lm.written import is_unfinished, separated, whole
from limbeck.progress import SILENT, Track, notice
from limbeck.records import Prediction, Problem, write_json, write_jsonl
from limbeck.run_folder import fingerprint
from limbeck.sealed import check
from limbeck.statistics import wilson
from limbeck.tasks.answers import AnswerKind, grade, same
from limbeck.tasks.asking import ABOUT, Asking, about_model
from limbeck.tasks.prompts import known_format

if TYPE_CHECKING:
    from limbeck.lm.endpoints import EndpointSettings
    from limbeck.lm.load import Dtype, Loaded, Unloaded


@dataclass(frozen=True, slots=True)
class Examined:
    """A model that was examined: its parameters, and the type of its weights; None: a server knows it."""

    parameters: int
    dtype: Dtype | None


LOG = "completions.log"
"""In an exam's or a writing stage's folder: whole chunks of a local model's completions, until it is done.
That of `examine_model`, which is not a stage, has a hash of what was asked behind it."""

SERVED_LOG = f"{LOG}-served"
"""The same of a server's completions, one by one."""


def examine(
    complete: Complete,
    problems: Sequence[Problem],
    kind: AnswerKind,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    track: Track = SILENT,
    timed: bool = True,
) -> tuple[list[Prediction], dict[str, Any]]:
    """Let `complete` answer every problem, greedily or by majority of `sampling.n` votes.

    A problem may have several prompts, one per passage say: all their completions
    vote together, in the order of their indices, then of the prompts.

    Args:
        complete: who is examined.
        problems: of one split.
        kind: the answer kind that extracts and compares.
        prompts: at least one of every problem.
        sampling: `n` > 1 votes (self-consistency) and needs a temperature above 0.
        track: shows the progress.
        timed: False where tokens per second have no meaning (the offline teacher counts words).

    Returns:
        Predictions in the order of the problems, and metrics: accuracy with a
        Wilson 95% interval over all problems (a failed extraction counts as
        wrong), failures, cut-off completions, mean new tokens, tokens per second.

    Raises:
        InputError: no problems.
        ValueError: a problem without a prompt, a prompt without its problem, or two of one id.
    """
    if not problems:
        raise InputError("no problems to examine on; choose a split that has some")
    asked = _prompts_of(problems, prompts)
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
    said = {own: [one for prompt in asked[own] for one in answers[prompt.id]] for own in asked}
    predictions = [predict(problem, kind, said[problem.id]) for problem in problems]
    completions = [completion for group in said.values() for completion in group]
    votes = sampling.n * max(map(len, asked.values()))
    summary = metrics(complete.name, predictions, completions, seconds, votes, timed=timed)
    return predictions, summary


def _prompts_of(problems: Sequence[Problem], prompts: Sequence[Prompt]) -> dict[str, list[Prompt]]:
    """Prompts by the problem's id.

    Raises:
        ValueError: a problem without a prompt, a prompt without its problem, or two of one id.
    """
    asked: dict[str, list[Prompt]] = {problem.id: [] for problem in problems}
    for prompt in by_id(prompts).values():
        asked.setdefault(prompt.problem_id, []).append(prompt)
    if len(asked) != len({problem.id for problem in problems}) or not all(asked.values()):
        raise ValueError("prompts and problems do not match: every problem needs a prompt, and no other")
    return asked


def _recalled(complete: Complete) -> int:
    """How many completions a model has read back from its log so far."""
    return complete.from_memory if isinstance(complete, Chunks | Remembered) else 0


def predict(problem: Problem, kind: AnswerKind, completions: Sequence[Completion]) -> Prediction:
    """The majority's answer, failures do not vote. Of ties: see `majority`."""
    ordered = sorted(map(separated, completions), key=lambda completion: completion.index)
    if not ordered:  # the endpoint gave nothing: a failure, not a smaller exam
        ordered = [Completion(problem.id, 0, "")]
    grades = [grade(problem, kind, completion.text) for completion in ordered]
    votes = [graded.answer for graded in grades]
    winner = majority(kind, votes, [completion.probability for completion in ordered])
    place = votes.index(winner)
    model = ordered[place]
    return Prediction(
        problem_id=problem.id,
        question=problem.question,
        gold=problem.gold,
        completion=model.text,
        answer=winner,
        correct=grades[place].correct,
        tokens=model.tokens,
        truncated=model.truncated,
        votes=tuple(votes) if len(votes) > 1 else (),
        cut=grades[place].cut,
        thinking=model.thinking,
        stopped=model.stopped,
    )


def majority(
    kind: AnswerKind, votes: Sequence[str | None], probabilities: Sequence[float] = ()
) -> str | None:
    """The most frequent answer (25.0 and 25 are one where the kind is number); None when nobody answered.

    Of answers with equally many votes that one is taken whose completions have the largest sum of
    probabilities, each brought to one token (the normalised sum of self-consistency, arXiv 2203.11171); where
    that is equal, or not known, the answer that was given first.

    Args:
        probabilities: of the completions, see `lm.Completion`; (): not known.
    """
    counts: Counter[str] = Counter()
    likely: defaultdict[str, float] = defaultdict(float)
    for vote, probability in zip(votes, probabilities or [0.0] * len(votes), strict=True):
        if vote is None:
            continue
        known = next((answer for answer in counts if same(kind, answer, vote)), vote)
        counts[known] += 1
        likely[known] += probability
    return max(counts, key=lambda answer: (counts[answer], likely[answer])) if counts else None


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
        **_endings(predictions),
        "mean_tokens": tokens / max(len(completions), 1),
        "tokens_per_s": tokens / seconds if timed and seconds > 0 else 0.0,
        "seconds": seconds,
        "votes": votes,
        "cost_usd": sum(completion.cost_usd for completion in completions),
    }


def _endings(predictions: Sequence[Prediction]) -> dict[str, int]:
    """How many answers ended at a stop string, or never began; nothing of what never happens."""
    counts = {
        "stopped": sum(bool(one.stopped) for one in predictions),
        "unfinished_thinking": sum(is_unfinished(one.thinking, one.completion) for one in predictions),
    }
    return {what: count for what, count in counts.items() if count}


class AskedAs(TypedDict, total=False):
    """How a model is asked that was loaded or is served; see `examine_model`."""

    form: str | None
    direct: bool
    passages: Mapping[str, Sequence[str]] | None


def examine_model(
    model: str,
    problems: Sequence[Problem],
    kind: AnswerKind,
    sampling: Sampling,
    folder: Path,
    *,
    form: str | None = None,
    direct: bool = False,
    passages: Mapping[str, Sequence[str]] | None = None,
    device: str = "auto",
    dtype: Dtype | None = None,
    max_rows: int = 64,
    track: Track = SILENT,
) -> tuple[list[Prediction], dict[str, Any], Examined]:
    """Load a model by name or folder and examine it; its prompts are those it was trained with.

    Args:
        dtype: of the weights; None: what its folder names, or float32.
        folder: keeps whole chunks of completions until the exam is over, so that a killed one goes on;
            they are used for the same model, problems and settings alone.
        direct: without reasoning; answers begin with the answer statement.
        passages: see `student_prompts`.

    Returns:
        Predictions, metrics, and what was examined.

    Raises:
        DamagedError: the model's folder belongs to a run and changed since it was written.
        ModelError: its folder does not say what its prompts need, or it cannot be loaded.
        InputError: its prompts need what is not here, such as knowledge.
        RecipeError: `form` does not go with its prompts.
    """
    from limbeck.lm.four_bits import numel
    from limbeck.lm.local import LocalModel

    asking = asking_of(model, form)
    loaded, used = _loaded(model, dtype, device)
    room = sampling.max_tokens
    prompts = student_prompts(loaded, asking, problems, room, passages=passages, direct=direct)
    texts = [asdict(replace(one, pieces=None)) for one in prompts]
    what = [_files_of(model), used, texts, asdict(sampling), max_rows]
    asked = fingerprint(what)
    complete = Chunks(LocalModel(loaded, max_rows=max_rows), folder / f"{LOG}-{asked[:16]}")
    predictions, summary = examine(complete, problems, kind, prompts, sampling, track=track)
    parameters = sum(map(numel, loaded.model.parameters()))
    return predictions, summary, Examined(parameters, used)


def examine_served(
    model: str,
    endpoint: EndpointSettings,
    served_as: str,
    problems: Sequence[Problem],
    kind: AnswerKind,
    sampling: Sampling,
    folder: Path,
    *,
    place: str = "exam.endpoint",
    form: str | None = None,
    direct: bool = False,
    passages: Mapping[str, Sequence[str]] | None = None,
    track: Track = SILENT,
) -> tuple[list[Prediction], dict[str, Any], Examined]:
    """Examine a model that a server has; its folder here gives tokenizer and prompts.

    Args:
        model: its name or folder.
        served_as: the name under which the server has it.
        folder: keeps the answers until the exam is over.
        place: of the server's settings in the recipe, for errors.
        direct, form, passages: as of `examine_model`.

    Raises:
        As `examine_model`, and `ServedModel.ask`.
    """
    from limbeck.lm.load import parameters_of, unloaded
    from limbeck.lm.served import ServedModel, remembered

    asking = asking_of(model, form)
    known = unloaded(model)
    served = ServedModel(endpoint, served_as, known, thinks=asking.thinks, place=place, say=notice)
    prompts = student_prompts(known, asking, problems, sampling.max_tokens, passages=passages, direct=direct)
    key = {"model": _files_of(model), "as": served_as, "body": endpoint.extra_body, "to": endpoint.endpoint}
    complete = remembered(served, folder / SERVED_LOG, key)
    predictions, summary = examine(complete, problems, kind, prompts, sampling, track=track)
    return predictions, summary, Examined(parameters_of(model, weights=False), None)


def _loaded(model: str, dtype: Dtype | None, device: str) -> tuple[Loaded, Dtype]:
    """A model to ask, in the precision in which its own run examines it unless another one is named."""
    from limbeck.lm.load import load

    used: Dtype = dtype or about_model(model).get("dtype", "float32")
    return load(model, dtype=used, device=device), used


def _files_of(model: str) -> list[Any]:
    """A model's name, and the size and time of its files, which another training changes."""
    found = [(one, one.stat()) for one in sorted(Path(model).glob("*")) if one.is_file()]
    return [
        str(Path(model).resolve()) if found else model,
        *([one.name, at.st_size, at.st_mtime_ns] for one, at in found),
    ]


def answer_one(
    model: str,
    question: str,
    max_tokens: int,
    *,
    form: str | None = None,
    device: str = "auto",
    dtype: Dtype | None = None,
    stop: Sequence[str] = (),
    passages: Sequence[str] | None = None,
) -> str:
    """A model's greedy answer to one question, with its thinking inside `<think>` tags in front of it; of a
    student that reads each passage apart the first of those that the majority gives.

    Raises:
        As `examine_model`.
    """
    from limbeck.lm.local import LocalModel

    asking = asking_of(model, form)
    loaded, _ = _loaded(model, dtype, device)
    asked = Problem(id="question", question=question, answer="?")
    known = None if passages is None else {asked.id: passages}
    prompts = student_prompts(loaded, asking, [asked], max_tokens, passages=known)
    sampling = Sampling(max_tokens=max_tokens, stop=tuple(stop))
    by_prompt = {one.prompt_id: one for one in LocalModel(loaded)(prompts, sampling)}
    said = [by_prompt[prompt.id] for prompt in prompts]
    if len(said) == 1:
        return whole(said[0].thinking, said[0].text)
    voted = predict(asked, about_model(model).get("kind", "text"), said)
    return whole(voted.thinking, voted.completion)


def asking_of(model: str, form: str | None = None) -> Asking:
    """How a model is asked: as its folder says, or in the format named.

    Raises:
        DamagedError, ModelError, RecipeError: as `examine_model`.
    """
    check(Path(model))
    about = about_model(model)
    if form is not None and not about:
        return Asking(known_format(form).name, thinks=True)  # if its chat template opens the tag
    asking = Asking.of_about(about, Path(model) / ABOUT)
    return asking if form is None else asking.with_format(form)


def student_prompts(
    loaded: Loaded | Unloaded,
    asking: Asking,
    problems: Sequence[Problem],
    max_tokens: int,
    *,
    passages: Mapping[str, Sequence[str]] | None = None,
    direct: bool = False,
) -> list[Prompt]:
    """One rendered prompt per problem for a loaded model, cut where its positions would not suffice.

    Args:
        max_tokens: new tokens, for which a decoder-only model needs positions too.
        passages: by the problem's id; None: not looked for.
        direct: answers begin with the answer statement.

    Raises:
        InputError: the prompts need knowledge and a problem has no entry in `passages`.
        ModelError: format `chat` and the tokenizer has no chat template.
    """
    from limbeck.lm.local import prompt_room

    room = prompt_room(loaded, max_tokens)
    return asking.prompts(problems, loaded.tokenizer, room=room, passages=passages, direct=direct)


def write_exam(
    folder: Path, predictions: Sequence[Prediction], summary: dict[str, Any], facts: ExamFacts
) -> None:
    """Write predictions.jsonl, then metrics.json (whose presence says that the exam is over).

    metrics.json also says whose exam it was. Logs of chunks are removed.
    """
    (folder / "metrics.json").unlink(missing_ok=True)  # old numbers must not stay next to new predictions
    write_jsonl(folder / "predictions.jsonl", predictions)
    write_json(folder / "metrics.json", {**summary, **facts.model_dump(mode="json")})
    remove_logs(folder)


def remove_logs(folder: Path) -> None:
    """Remove the logs of a local model's chunks, of every rank."""
    for log in folder.glob(f"{LOG}*"):
        log.unlink(missing_ok=True)
