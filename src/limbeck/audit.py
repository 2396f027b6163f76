"""The audit: what became of rationales, and what in them or in the gold answers looks wrong.

Grading by the final answer lets a rationale pass that is wrong in a step and
right at the end (137 of 768 published date chains of Mentor-KD), so the audit
also checks every equation in the text, and the date it computes. A problem of
which no rationale is right, or whose samples all agree against its gold answer,
is named: the gold answer may be wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.agreement import Agreement, Vote, against_gold, votes
from limbeck.errors import DataError
from limbeck.lm.settings import Reasoning
from limbeck.lm.written import is_unfinished
from limbeck.rationale_files import read_rationales
from limbeck.rationales import false_equations, graded, mark_dropped
from limbeck.recipe import GoldRule
from limbeck.records import LeftOut, Problem, Rationale
from limbeck.selection import similarity
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.dates import contradicts_choice, options_are_dates
from limbeck.tasks.options import options_of
from limbeck.tasks.settings import TaskSettings, task_kind
from limbeck.tasks.sources import load_splits

NAMED = 20
"""Problems that an audit names; the others are counted."""

SUSPICIOUS = 3
"""Samples that must agree against gold before the gold answer is suspected."""

LONGEST_QUESTION = 120
"""Characters of a question in an audit."""


def grade_file(
    file: Path,
    task: TaskSettings,
    seed: int,
    *,
    keep: GoldRule = "correct",
    agreement: Agreement | None = None,
    drop_false_equations: bool = False,
    reasoning: Reasoning = "both",
    left_out: list[LeftOut] | None = None,
) -> tuple[list[Rationale], dict[str, Any]]:
    """Grade a file again against a task's gold answers, whatever verdicts are in it, and audit it.

    Args:
        file: as `read_rationales` takes it.
        task: whose problems are meant.
        seed: of the problems of a built-in task.
        keep, agreement, drop_false_equations: see `mark_dropped`.
        reasoning: see `reasoning_of`.
        left_out: gets the rows of the task's files and of this one that are not used.

    Raises:
        DataError: a line lacks its columns or names a problem that the task has not.
    """
    splits = load_splits(task, seed)
    problems = {problem.id: problem for problem in (*splits.train, *splits.dev, *splits.test)}
    kind = task_kind(task)
    found: dict[str, list[Rationale]] = defaultdict(list)
    bad: list[DataError] = []
    for one in read_rationales(file, task, problems.values(), bad, splits.also):
        problem = problems[one.completion.prompt_id]
        found[problem.id].append(
            graded(problem, kind, one.completion, one.source, about=one.about, reasoning=reasoning)
        )
    marked = mark_dropped(
        [rationale for group in found.values() for rationale in group],
        keep=keep,
        agreement=agreement,
        drop_false_equations=drop_false_equations,
    )
    rows = [*splits.left_out, *rows_left_out(bad)]
    if left_out is not None:
        left_out += rows
    summary = audit(marked, [problems[problem_id] for problem_id in found], kind, agreement)
    return marked, summary | left_out_facts(rows)


def rows_left_out(bad: Iterable[DataError]) -> list[LeftOut]:
    """Rows of a file of rationales that cannot be used and that `task.bad_rows` lets skip."""
    return [LeftOut(split="rationales", place=one.place, why=one.message) for one in bad]


def left_out_facts(rows: Sequence[LeftOut], listed: str = "") -> dict[str, Any]:
    """For an audit: how many rows are not used, the file that lists them all, and the first ones.

    Nothing where every row is used.
    """
    if not rows:
        return {}
    return {
        "rows left out": len(rows),
        "rows left out, listed in": listed or "no file; --out FILE writes one next to it",
        "rows left out, named": [{"place": one.place, "why": one.why} for one in rows[:NAMED]],
    }


def audit(
    rationales: Sequence[Rationale],
    problems: Sequence[Problem],
    kind: AnswerKind,
    agreement: Agreement | None = None,
) -> dict[str, Any]:
    """What was collected, kept and dropped, and why; correctness, yield, length, diversity, agreement.

    `similarity` is the mean pairwise trigram Jaccard between kept rationales of
    one problem, averaged over problems with at least two (None without any).

    Args:
        rationales: graded and marked ones.
        problems: all that were asked.
        kind: of their answers.
        agreement: the rule they were marked by; None: the usual one is tried out, where
            problems have several samples.
    """
    kept = [one for one in rationales if one.dropped is None]
    false = {id(one) for one in rationales if false_equations(one.reasoning)}
    without_gold = sum(problem.answer is None for problem in problems)
    found = votes(rationales, kind)
    return {
        "problems": len(problems),
        **({"problems without a gold answer": without_gold} if without_gold else {}),
        "problems with a kept rationale": len({one.problem_id for one in kept}),
        "rationales": len(rationales),
        "correct": sum(one.correct is True for one in rationales),
        "no answer found": sum(one.answer is None for one in rationales),
        "answer found by fallback": sum(one.how == "fallback" for one in rationales),
        **_endings(rationales),
        "kept": len(kept),
        "dropped": dropped_for(rationales),
        "with a false equation": len(false),
        "right answer but a false equation": sum(
            id(one) in false and one.correct is True for one in rationales
        ),
        "kept with a false equation": sum(id(one) in false for one in kept),
        **_dates(rationales, problems),
        "sources": dict(Counter(one.source for one in rationales)),
        "words per kept rationale": round(_mean([len(one.reasoning.split()) for one in kept]), 1),
        "length of kept rationales": _lengths(kept),
        "rationales per problem": _histogram(rationales, problems),
        **_correct(rationales, [problem for problem in problems if problem.answer is not None]),
        "kept per problem": _histogram(kept, problems),
        "similarity of kept rationales of a problem": similarity(kept),
        "different answers per problem": round(_mean([len(vote.answers) for vote in found.values()]), 2),
        **_agreement(found, problems, kind, agreement or Agreement(kind)),
        **_never_right(rationales, problems, found),
        **_suspected(problems, found, rationales),
    }


def _correct(rationales: Sequence[Rationale], with_gold: Sequence[Problem]) -> dict[str, Any]:
    """How many problems with a gold answer have 0, 1, 2 … correct rationales; nothing where none has one."""
    right = [one for one in rationales if one.correct]
    return {"correct per problem": _histogram(right, with_gold)} if with_gold else {}


def _endings(rationales: Sequence[Rationale]) -> dict[str, int]:
    """How texts end that are not simply an answer; nothing of what never happens."""
    counts = {
        "state an answer that is none of its kind": sum(
            one.answer is None and one.how == "marker" for one in rationales
        ),
        "cut off at max_tokens": sum(one.truncated for one in rationales),
        "cut where a new question began": sum(one.cut > 0 for one in rationales),
        "with thinking": sum(bool(one.thinking.strip()) for one in rationales),
        "end inside their thinking": sum(is_unfinished(one.thinking, one.completion) for one in rationales),
        "ended by a stop string": sum(bool(one.stopped) for one in rationales),
    }
    return {what: count for what, count in counts.items() if count}


def dropped_for(rationales: Iterable[Rationale]) -> dict[str, int]:
    """How many were dropped for which reason, the most frequent first."""
    return dict(Counter(one.dropped for one in rationales if one.dropped is not None).most_common())


def nothing_kept(rationales: Sequence[Rationale]) -> str:
    """What to say aloud where every rationale was dropped, or there is none."""
    if not rationales:
        return "NOTHING WAS KEPT: there are no rationales at all"
    reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped_for(rationales).items())
    return (
        f"NOTHING WAS KEPT: all {len(rationales):,} rationales were dropped ({reasons}); "
        "the prompt, the answer kind, the gold answers or rationales.keep may be wrong"
    )


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


def _lengths(kept: Sequence[Rationale]) -> dict[str, dict[str, int]]:
    """Words, and tokens where a model counted them: the median, the 90th percentile, the longest."""
    counts = {"words": sorted(len(one.reasoning.split()) for one in kept)}
    if any(one.tokens for one in kept):
        counts["tokens"] = sorted(one.tokens for one in kept)
    return {
        unit: {
            "median": sizes[len(sizes) // 2],
            "90 %": sizes[(9 * len(sizes) - 1) // 10],
            "longest": sizes[-1],
        }
        for unit, sizes in counts.items()
        if sizes
    }


def _agreement(
    found: Mapping[str, Vote], problems: Sequence[Problem], kind: AnswerKind, rule: Agreement
) -> dict[str, Any]:
    """What the samples say together, and how often that is gold; nothing where no problem has two samples."""
    several = [problem for problem in problems if problem.id in found and found[problem.id].samples > 1]
    if not several:
        return {}
    table = against_gold(found, several, kind)
    agreed = [problem for problem in several if rule.agreed(found[problem.id]) is not None]
    known = [problem for problem in agreed if problem.answer is not None]
    gold = sum(rule.is_gold(found[problem.id], problem) for problem in known)
    summary = {
        "share of samples needed": rule.share,
        "samples needed": rule.least,
        "problems with two samples or more": len(several),
        "samples agree": len(agreed),
        "samples tie": sum(found[problem.id].tied for problem in several),
        "agreed answers that can be compared with gold": len(known),
        "agreed answer is gold": gold,
        "share of these": round(gold / len(known), 4) if known else None,
    }
    return {"agreement": summary, **({"agreement and gold": table} if table else {})}


def _never_right(
    rationales: Sequence[Rationale], problems: Sequence[Problem], found: Mapping[str, Vote]
) -> dict[str, Any]:
    """Problems with a gold answer of which no rationale ends in it, those without any rationale too."""
    solved = {one.problem_id for one in rationales if one.correct}
    failed = [problem for problem in problems if problem.answer is not None and problem.id not in solved]
    return _named("problems without a correct rationale", failed, found, rationales)


def _suspected(
    problems: Sequence[Problem], found: Mapping[str, Vote], rationales: Sequence[Rationale]
) -> dict[str, Any]:
    """Problems whose samples all state one answer, and not gold: every one that states any, three or more."""
    right = {one.problem_id for one in rationales if one.correct}
    suspected = [
        problem
        for problem in problems
        if problem.answer is not None
        and problem.id not in right
        and (vote := found.get(problem.id)) is not None
        and len(vote.answers) == 1
        and vote.stated >= SUSPICIOUS
    ]
    return _named("suspected wrong gold answers", suspected, found, rationales)


def _named(
    what: str, some: Sequence[Problem], found: Mapping[str, Vote], rationales: Sequence[Rationale]
) -> dict[str, Any]:
    """How many problems, and the first of them with what their samples answer, and how many guess."""
    guesses = Counter(one.problem_id for one in rationales if one.how == "fallback")
    count: dict[str, Any] = {what: len(some)}
    if some:
        count[f"{what}, named"] = [
            {
                "problem": problem.id,
                "question": _shortened(problem.question),
                "gold": problem.answer,
                "answers": found[problem.id].shown() if problem.id in found else "not answered",
                "guessed": guesses[problem.id],
            }
            for problem in some[:NAMED]
        ]
    return count


def _shortened(question: str) -> str:
    """One line; of a long question its beginning and end, since what is asked often comes last."""
    line = " ".join(question.split())
    half = LONGEST_QUESTION // 2
    return line if len(line) <= LONGEST_QUESTION else f"{line[:half].rstrip()} … {line[-half:].lstrip()}"


def _histogram(some: Sequence[Rationale], problems: Sequence[Problem]) -> dict[str, int]:
    """How many problems have 0, 1, 2 … of these rationales."""
    counts = Counter(one.problem_id for one in some)
    table = Counter(counts.get(problem.id, 0) for problem in problems)
    return {str(number): table[number] for number in sorted(table)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
