"""Rationales: collect them, grade them, keep the correct ones.

`selection.py` chooses among those that are kept, `audit.py` counts what became of them, `agreement.py`
what the samples of a problem say together.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from limbeck.agreement import Agreement, Vote, votes
from limbeck.lm import Complete, Completion, Prompt, Sampling, by_id, finishing
from limbeck.lm.settings import Reasoning
from limbeck.lm.written import is_unfinished, separated
from limbeck.progress import SILENT, Track
from limbeck.recipe import GoldRule
from limbeck.records import Problem, Rationale
from limbeck.tasks.answers import AnswerKind, same
from limbeck.tasks.answers import grade as grade_answer

WRONG = "wrong answer"
NO_ANSWER = "no answer found"
UNREADABLE = "states no answer that can be read"
NO_GOLD = "no gold answer to compare with"
OTHER_THAN_TEACHER = "another answer than the teacher's"
TRUNCATED = "cut off at max_tokens"
UNFINISHED = "no answer behind the thinking"
EMPTY = "no reasoning before the answer"
DUPLICATE = "duplicate"
DUPLICATE_OF_TEACHER = "duplicate of the teacher's"
FALSE_EQUATION = "false equation"
NOT_REACHED = "the verifier comes to another answer"
NOT_READ = "the verifier comes to no answer"


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
    return Rationale(
        problem_id=problem.id,
        source=source,
        index=completion.index,
        completion=completion.text,
        reasoning=reasoning_of(completion.thinking, found.reasoning, reasoning),
        answer=found.answer,
        how=found.how,
        correct=None if problem.answer is None else found.correct,
        truncated=completion.truncated,
        tokens=completion.tokens,
        about=about,
        cut=found.cut,
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


def without_closing(problem: Problem, kind: AnswerKind, rationale: Rationale) -> str:
    """The reasoning without any statement that closes it, that of its thinking too."""
    thinking, whole = rationale.thinking.strip(), rationale.reasoning
    begun = thinking if whole.startswith(thinking) else ""
    pieces = [begun, whole.removeprefix(begun).strip()]
    alone = [grade_answer(problem, kind, piece).reasoning for piece in pieces if piece]
    return "\n\n".join(filter(None, alone))


def mark_dropped(
    rationales: Iterable[Rationale],
    *,
    keep: GoldRule = "correct",
    agreement: Agreement | None = None,
    drop_false_equations: bool = False,
    known: Iterable[Rationale] = (),
    judged: Iterable[Rationale] = (),
    settled: Mapping[str, str] | None = None,
) -> list[Rationale]:
    """Mark in `dropped` what shall not be trained on, and why; the order stays.

    Args:
        rationales: graded ones.
        keep: "correct" drops what does not end in the gold answer; "unless-wrong"
            drops only what names another answer after an explicit marker (for
            published chains without a closing statement, where the fallback is a
            guess); "all" drops no wrong ones.
        agreement: what the samples of a problem must agree on besides, all of them
            given here; where no gold answer is known it decides alone. Without it,
            only "all" keeps a rationale of such a problem, with the answer it states.
        drop_false_equations: also drop a rationale with an equation that does not hold.
        known: rationales of others (a mentor's teacher); those they kept count as seen.
        judged: rationales that a verifier saw; the texts that it let nobody keep are dropped here too.
        settled: by problem, what the teacher's samples agreed on. Where no gold answer is
            known, agreement on another one is no reason to keep a rationale: a student
            would learn two answers to one question.

    Cut-off, empty and duplicate rationales are always dropped: the first of
    equal texts of a problem stays, of those about the same thing.
    """
    rationales = list(rationales)
    found = votes(rationales, agreement.kind) if agreement else {}
    theirs = {_same_text(one) for one in known if one.dropped is None}
    refused = {_same_text(one): one.dropped for one in judged if one.dropped in (NOT_REACHED, NOT_READ)}
    seen: set[tuple[str, str, str]] = set()
    filtered = []
    for rationale in rationales:
        reason = _reason(rationale, keep)
        if reason is None and agreement:
            settled_answer = (settled or {}).get(rationale.problem_id)
            reason = _by_samples(rationale, agreement, found[rationale.problem_id], settled_answer)
        elif reason is None and rationale.correct is None and keep != "all":
            reason = NO_GOLD
        if reason is None and drop_false_equations and false_equations(rationale.reasoning):
            reason = FALSE_EQUATION
        text = _same_text(rationale)
        if reason is None and text in theirs:
            reason = DUPLICATE_OF_TEACHER
        elif reason is None and text in refused:
            reason = refused[text]
        elif reason is None and text in seen:
            reason = DUPLICATE
        if reason is None:
            seen.add(text)
        same_mark = rationale.dropped == reason  # a copy would take as much again
        filtered.append(rationale if same_mark else rationale.model_copy(update={"dropped": reason}))
    return filtered


def _same_text(rationale: Rationale) -> tuple[str, str, str]:
    """What duplicates share: two mistakes may well get the same feedback, and each is an example."""
    return rationale.problem_id, rationale.about, " ".join(rationale.reasoning.split())


def _reason(rationale: Rationale, keep: GoldRule) -> str | None:
    """Why its own text and the gold answer drop it."""
    if is_unfinished(rationale.thinking, rationale.completion):
        return UNFINISHED
    if rationale.truncated:
        return TRUNCATED
    if not rationale.reasoning.strip():
        return EMPTY
    if rationale.answer is None and rationale.how == "marker" and keep != "all":
        return UNREADABLE
    if rationale.answer is None and (keep == "correct" or rationale.correct is None):
        return NO_ANSWER
    wrong = rationale.answer is not None and rationale.correct is False
    if wrong and (keep == "correct" or (keep == "unless-wrong" and rationale.how == "marker")):
        return WRONG
    return None


def _by_samples(rationale: Rationale, agreement: Agreement, vote: Vote, settled: str | None) -> str | None:
    """Why the samples of its problem drop it."""
    if rationale.answer is None:
        return NO_ANSWER
    if objection := agreement.objection(vote, rationale):
        return objection
    other = settled is not None and not same(agreement.kind, rationale.answer, settled)
    return OTHER_THAN_TEACHER if other and rationale.correct is None else None


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
