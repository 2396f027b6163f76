"""Rationales: collect them, keep the correct ones, keep diverse ones, audit the rest.

Grading by the final answer lets a rationale pass that is wrong in a step and
right at the end (137 of 768 published date chains of Mentor-KD), so the audit
also checks every equation in the text, and the date it computes.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from limbeck.lm import Complete, Completion, Prompt, Sampling, by_id, finishing
from limbeck.lm.settings import Reasoning
from limbeck.lm.written import is_unfinished, separated
from limbeck.progress import SILENT, Track
from limbeck.rationale_files import read_rationales
from limbeck.records import Problem, Rationale
from limbeck.tasks.answers import AnswerKind, split_answer
from limbeck.tasks.answers import grade as grade_answer
from limbeck.tasks.dates import contradicts_choice, options_are_dates
from limbeck.tasks.options import options_of
from limbeck.tasks.settings import TaskSettings, task_kind
from limbeck.tasks.sources import load_splits

Keep = Literal["correct", "unless-wrong", "all"]
Choose = Literal["first", "random", "diverse"]

WRONG = "wrong answer"
NO_ANSWER = "no answer found"
TRUNCATED = "cut off at max_tokens"
UNFINISHED = "no answer behind the thinking"
EMPTY = "no reasoning before the answer"
DUPLICATE = "duplicate"
DUPLICATE_OF_TEACHER = "duplicate of the teacher's"
FALSE_EQUATION = "false equation"

MOST_COMBINATIONS = 20_000
"""Above this many subsets `diverse` refuses to enumerate (C(16, 8) = 12,870 is below)."""


def collect(
    prompts: Sequence[Prompt], complete: Complete, sampling: Sampling, *, track: Track = SILENT
) -> list[Completion]:
    """Ask `complete` for `sampling.n` completions of every prompt.

    Returns them in the order of the prompts, then by index, whatever order they
    arrived in.

    Raises:
        ValueError: two prompts have the same id.
    """
    order = {own: place for place, own in enumerate(by_id(prompts))}
    arrived: list[Completion] = []
    stream = complete(prompts, sampling)
    with track(f"{complete.name} writes", len(prompts) * sampling.n) as advance, finishing(stream):
        for completion in stream:
            arrived.append(completion)
            advance(len(arrived), "")
    return sorted(arrived, key=lambda completion: (order[completion.prompt_id], completion.index))


def grade(
    problems: Sequence[Problem],
    kind: AnswerKind,
    completions: Sequence[Completion],
    source: str,
    *,
    owners: Mapping[str, tuple[str, str]] | None = None,
    reasoning: Reasoning = "both",
) -> list[Rationale]:
    """Extract the answer of each completion and compare it with gold; nothing is dropped yet.

    Args:
        problems: those that the completions are of.
        kind: of their answers.
        completions: in any order; so are the rationales.
        source: who wrote them.
        owners: of each prompt's id the problem's and what the prompt is about, in the order of
            the prompts (see `owners_of`). None: every prompt is its problem's only one.
        reasoning: see `reasoning_of`.

    The rationales of a problem's second prompt are numbered after those of its first:
    an index belongs to one rationale of a source and problem.
    """
    known = {problem.id: problem for problem in problems}
    if owners is None:
        return [graded(known[one.prompt_id], kind, one, source, reasoning=reasoning) for one in completions]
    first, marked = _first_indices(owners, completions), []
    for one in completions:
        problem_id, about = owners[one.prompt_id]
        numbered = replace(one, index=first[one.prompt_id] + one.index)
        marked.append(graded(known[problem_id], kind, numbered, source, about=about, reasoning=reasoning))
    return marked


def owners_of(prompts: Sequence[Prompt]) -> dict[str, tuple[str, str]]:
    """Of each prompt's id the problem's, and what the prompt is about.

    Raises:
        ValueError: two prompts have the same id.
    """
    return {own: (prompt.problem_id, prompt.about) for own, prompt in by_id(prompts).items()}


def _first_indices(
    owners: Mapping[str, tuple[str, str]], completions: Iterable[Completion]
) -> dict[str, int]:
    """Where each prompt's indices begin among those of its problem."""
    sizes: dict[str, int] = defaultdict(int)
    for one in completions:
        sizes[one.prompt_id] = max(sizes[one.prompt_id], one.index + 1)
    ends: dict[str, int] = defaultdict(int)
    first = {}
    for prompt_id, (problem_id, _) in owners.items():
        first[prompt_id] = ends[problem_id]
        ends[problem_id] += sizes[prompt_id]
    return first


def graded(
    problem: Problem,
    kind: AnswerKind,
    completion: Completion,
    source: str,
    *,
    about: str = "",
    reasoning: Reasoning = "both",
) -> Rationale:
    """One completion about a problem as a graded rationale of that index; its thinking is not graded."""
    completion = separated(completion)
    found = grade_answer(problem, kind, completion.text)
    argued, _ = split_answer(kind, completion.text, options_of(problem))
    return Rationale(
        problem_id=problem.id,
        source=source,
        index=completion.index,
        completion=completion.text,
        reasoning=reasoning_of(completion.thinking, argued, reasoning),
        answer=found.answer,
        how=found.how,
        correct=found.correct,
        truncated=completion.truncated,
        tokens=completion.tokens,
        about=about,
        thinking=completion.thinking,
        stopped=completion.stopped,
    )


def reasoning_of(thinking: str, argued: str, which: Reasoning) -> str:
    """What is trained on of a completion that thinks: its thinking, its answer's text, or both in order.

    A completion without thinking is taken as it is.

    Args:
        argued: the answer's text without its closing statement.
    """
    thinking = thinking.strip()
    if not thinking or which == "answer":
        return argued
    return f"{thinking}\n\n{argued}" if argued and which == "both" else thinking


def mark_dropped(
    rationales: Iterable[Rationale],
    *,
    keep: Keep = "correct",
    drop_false_equations: bool = False,
    known: Iterable[Rationale] = (),
) -> list[Rationale]:
    """Mark in `dropped` what shall not be trained on, and why; the order stays.

    Args:
        rationales: graded ones.
        keep: "correct" drops what does not end in the gold answer; "unless-wrong"
            drops only what names another answer after an explicit marker (for
            published chains without a closing statement, where the fallback is a
            guess); "all" drops no wrong ones.
        drop_false_equations: also drop a rationale with an equation that does not hold.
        known: rationales of others (a mentor's teacher); those they kept count as seen.

    Cut-off, empty and duplicate rationales are always dropped: the first of
    equal texts of a problem stays, of those about the same thing.
    """
    theirs = {_same_text(one) for one in known if one.dropped is None}
    seen: set[tuple[str, str, str]] = set()
    filtered = []
    for rationale in rationales:
        reason = _reason(rationale, keep, drop_false_equations)
        text = _same_text(rationale)
        if reason is None and text in theirs:
            reason = DUPLICATE_OF_TEACHER
        elif reason is None and text in seen:
            reason = DUPLICATE
        if reason is None:
            seen.add(text)
        filtered.append(rationale.model_copy(update={"dropped": reason}))
    return filtered


def _same_text(rationale: Rationale) -> tuple[str, str, str]:
    """What duplicates share: two mistakes may well get the same feedback, and each is an example."""
    return rationale.problem_id, rationale.about, " ".join(rationale.reasoning.split())


def _reason(rationale: Rationale, keep: Keep, drop_false_equations: bool) -> str | None:
    if is_unfinished(rationale.thinking, rationale.completion):
        return UNFINISHED
    if rationale.truncated:
        return TRUNCATED
    if not rationale.reasoning.strip():
        return EMPTY
    if keep == "correct" and rationale.answer is None:
        return NO_ANSWER
    wrong = rationale.answer is not None and not rationale.correct
    if wrong and (keep == "correct" or (keep == "unless-wrong" and rationale.how == "marker")):
        return WRONG
    if drop_false_equations and false_equations(rationale.reasoning):
        return FALSE_EQUATION
    return None


_NUMBER = r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?"
_GROUP = r"(?!(?<=\d,)\d{3}(?!\d))"  # not the middle of 1,234,567: each group would be tried to the end
_ALONE = rf"(?<![\w.+*/×÷−-])(?<![+*/×÷=−-] ){_GROUP}"  # no sign before: the first term of its equation
_EQUATION = re.compile(rf"{_ALONE}({_NUMBER}) ?([-+*/×x÷−]) ?({_NUMBER}) ?= ?\$?({_NUMBER})(?![\d.]*[\d%])")


def false_equations(text: str) -> list[str]:
    """Equations "a op b = c" of the text that do not hold.

    Only whole two-term equations are looked at; a quotient may be rounded to the
    digits that c shows.
    """
    return [found[0] for found in _EQUATION.finditer(text) if not _holds(*found.groups())]


def _holds(left: str, sign: str, right: str, result: str) -> bool:
    a, b, c = (float(number.replace(",", "").replace("−", "-")) for number in (left, right, result))
    decimals = len(result.partition(".")[2])
    if sign in "/÷":
        return b != 0 and abs(a / b - c) <= 0.5 * 10**-decimals + 1e-9
    value = {"+": a + b, "-": a - b, "−": a - b}.get(sign, a * b)
    return abs(value - c) <= 1e-6 * max(1.0, abs(value))


def grade_file(
    file: Path,
    task: TaskSettings,
    seed: int,
    *,
    keep: Keep = "correct",
    drop_false_equations: bool = False,
    reasoning: Reasoning = "both",
) -> tuple[list[Rationale], dict[str, Any]]:
    """Grade a file again against a task's gold answers, whatever verdicts are in it.

    Args:
        file: as `read_rationales` takes it.
        task: whose problems are meant.
        seed: of the problems of a built-in task.
        reasoning: see `reasoning_of`.

    Raises:
        DataError: a line lacks its columns or names a problem that the task has not.
    """
    splits = load_splits(task, seed)
    problems = {problem.id: problem for problem in (*splits.train, *splits.dev, *splits.test)}
    found: dict[str, list[Rationale]] = defaultdict(list)
    for one in read_rationales(file, task, problems.values()):
        problem = problems[one.completion.prompt_id]
        found[problem.id].append(
            graded(problem, task_kind(task), one.completion, one.source, about=one.about, reasoning=reasoning)
        )
    everything = [rationale for group in found.values() for rationale in group]
    filtered = mark_dropped(everything, keep=keep, drop_false_equations=drop_false_equations)
    return filtered, audit(filtered, [problems[problem_id] for problem_id in found])


def select(
    rationales: Iterable[Rationale], per_problem: int, *, choose: Choose = "first", seed: int = 0
) -> list[Rationale]:
    """Choose at most `per_problem` kept rationales of each problem.

    "first" takes them by source order and index; "random" draws with a generator
    of (seed, problem); "diverse" takes the subset with the smallest summed
    pairwise trigram Jaccard similarity (MCC-KD §2e), the earliest one on ties.
    """
    groups: dict[str, list[Rationale]] = defaultdict(list)
    for rationale in rationales:
        if rationale.dropped is None:
            groups[rationale.problem_id].append(rationale)
    chosen: list[Rationale] = []
    for problem_id, group in groups.items():
        if len(group) <= per_problem or choose == "first":
            chosen.extend(group[:per_problem])
        elif choose == "random":
            places = random.Random(f"{seed}:{problem_id}").sample(range(len(group)), per_problem)
            chosen.extend(group[place] for place in sorted(places))
        else:
            chosen.extend(most_diverse(group, per_problem))
    return chosen


def most_diverse(group: Sequence[Rationale], count: int) -> list[Rationale]:
    """The `count` rationales with the smallest sum of pairwise similarities: exact, by enumeration.

    A group with too many subsets to enumerate is first thinned, in order, to the
    largest head that has at most `MOST_COMBINATIONS` of them.
    """
    from math import comb

    size = len(group)
    while comb(size, count) > MOST_COMBINATIONS:
        size -= 1
    grams = [trigrams(rationale.reasoning) for rationale in group[:size]]
    near = {pair: jaccard(grams[pair[0]], grams[pair[1]]) for pair in itertools.combinations(range(size), 2)}
    best = min(
        itertools.combinations(range(size), count),
        key=lambda places: (sum(near[pair] for pair in itertools.combinations(places, 2)), places),
    )
    return [group[place] for place in best]


def trigrams(text: str) -> frozenset[tuple[str, ...]]:
    """Word trigrams, lower case; a shorter text is one gram of all its words."""
    words = re.findall(r"\w+", text.lower())
    if len(words) < 3:
        return frozenset([tuple(words)]) if words else frozenset()
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def jaccard(a: frozenset[Any], b: frozenset[Any]) -> float:
    """Size of the intersection over size of the union; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


def audit(rationales: Sequence[Rationale], problems: Sequence[Problem]) -> dict[str, Any]:
    """What was collected, kept and dropped, and why; correctness, coverage, diversity.

    `similarity` is the mean pairwise trigram Jaccard between kept rationales of
    one problem, averaged over problems with at least two (None without any).
    """
    kept = [rationale for rationale in rationales if rationale.dropped is None]
    covered = {rationale.problem_id for rationale in kept}
    texts = [rationale.reasoning for rationale in rationales]
    false = [bool(false_equations(text)) for text in texts]
    right = [rationale.correct for rationale in rationales]
    return {
        "problems": len(problems),
        "problems with a kept rationale": len(covered),
        "rationales": len(rationales),
        "correct": sum(right),
        "no answer found": sum(rationale.answer is None for rationale in rationales),
        "answer found by fallback": sum(rationale.how == "fallback" for rationale in rationales),
        **_endings(rationales),
        "kept": len(kept),
        "dropped": dict(Counter(r.dropped for r in rationales if r.dropped is not None).most_common()),
        "with a false equation": sum(false),
        "right answer but a false equation": sum(f and r for f, r in zip(false, right, strict=True)),
        "kept with a false equation": sum(bool(false_equations(rationale.reasoning)) for rationale in kept),
        **_dates(rationales, problems),
        "sources": dict(Counter(rationale.source for rationale in rationales)),
        "words per kept rationale": round(_mean([len(r.reasoning.split()) for r in kept]), 1),
        "kept per problem": _histogram(kept, problems),
        "similarity of kept rationales of a problem": similarity(kept),
    }


def _endings(rationales: Sequence[Rationale]) -> dict[str, int]:
    """How many think, end inside their thinking, or at a stop string; nothing of what never happens."""
    counts = {
        "with thinking": sum(bool(one.thinking.strip()) for one in rationales),
        "end inside their thinking": sum(is_unfinished(one.thinking, one.completion) for one in rationales),
        "ended by a stop string": sum(bool(one.stopped) for one in rationales),
    }
    return {what: count for what, count in counts.items() if count}


def _dates(rationales: Sequence[Rationale], problems: Sequence[Problem]) -> dict[str, int]:
    """How many rationales contradict the date they choose; nothing where no problem has dates to choose."""
    options = {problem.id: options_of(problem) for problem in problems}
    if not any(options_are_dates(texts) for texts in options.values()):
        return {}
    other = [
        rationale
        for rationale in rationales
        if contradicts_choice(rationale.reasoning, rationale.answer, options.get(rationale.problem_id, ()))
    ]
    return {
        "states a date other than the chosen option": len(other),
        "kept with another date than the chosen option": sum(one.dropped is None for one in other),
    }


def similarity(kept: Iterable[Rationale]) -> float | None:
    """Mean over problems of the mean pairwise trigram Jaccard of their rationales."""
    groups: dict[str, list[frozenset[tuple[str, ...]]]] = defaultdict(list)
    for rationale in kept:
        groups[rationale.problem_id].append(trigrams(rationale.reasoning))
    means = [
        _mean([jaccard(a, b) for a, b in itertools.combinations(grams, 2)])
        for grams in groups.values()
        if len(grams) > 1
    ]
    return round(_mean(means), 4) if means else None


def _histogram(kept: Sequence[Rationale], problems: Sequence[Problem]) -> Mapping[str, int]:
    """How many problems have 0, 1, 2 … kept rationales."""
    counts = Counter(rationale.problem_id for rationale in kept)
    table = Counter(counts.get(problem.id, 0) for problem in problems)
    return {str(number): table[number] for number in sorted(table)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
