"""Rationales: collect them, grade them, keep the correct ones.

`selection.py` chooses among those that are kept, `audit.py` counts what became of them, `agreement.py`
what the samples of a problem say together.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from limbeck.agreement import Agreement, Vote, vote
from limbeck.lm import Complete, Completion, Prompt, Sampling, finishing, places_by_id
from limbeck.lm.settings import Reasoning
from limbeck.lm.written import is_unfinished, separated
from limbeck.places import Places, key_of
from limbeck.progress import SILENT, Track
from limbeck.recipe import GoldRule
from limbeck.records import Problem, Rationale
from limbeck.selection import together
from limbeck.sequences import ById, Part, Spool
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
REFUSED = (NOT_REACHED, NOT_READ)


def collect(
    prompts: Sequence[Prompt],
    complete: Complete,
    sampling: Sampling,
    *,
    track: Track = SILENT,
    folder: Path | None = None,
) -> Sequence[Completion]:
    """Ask `complete` for `sampling.n` completions of every prompt.

    Returns them in the order of the prompts, then by index, whatever order they
    arrived in. They are read from a file without a name when they are looked at.

    Args:
        folder: on the disk that takes this file; None: the system's for such files.

    Raises:
        ValueError: two prompts have the same id, or a completion is none of those that were asked for.
        DiskError: the file cannot be written.
    """
    n = sampling.n
    numbers = array("Q", bytes(8 * n * len(prompts)))  # of each completion: which it was to arrive; 0: none
    stream = complete(prompts, sampling)
    places = places_by_id(prompts)
    with track(f"{complete.name} writes", len(numbers)) as advance, finishing(stream):

        def arriving() -> Iterator[Completion]:
            for count, completion in enumerate(stream, start=1):
                place = places.get(key_of(completion.prompt_id))
                if place is None or not 0 <= completion.index < n:
                    asked = f"completion {completion.index} of prompt {completion.prompt_id}"
                    raise ValueError(f"{complete.name} wrote {asked}, which it was not asked for")
                numbers[place * n + completion.index] = count
                yield completion
                advance(count, "")

        arrived = Spool(arriving(), folder=folder)
    return Part(arrived, array("Q", (number - 1 for number in numbers if number)))


class Owner(NamedTuple):
    """Whose a prompt is: the problem's, and what else it is about."""

    prompt_id: str
    problem_id: str
    about: str


def grade(
    problems: Sequence[Problem],
    kind: AnswerKind,
    completions: Iterable[Completion],
    source: str,
    *,
    owners: Sequence[Owner] | None = None,
    reasoning: Reasoning = "both",
) -> Iterator[Rationale]:
    """Extract the answer of each completion and compare it with gold; nothing is dropped yet.

    Args:
        problems: those that the completions are of.
        kind: of their answers.
        completions: in any order; so are the rationales. Where `owners` are given they are looked at twice.
        source: who wrote them.
        owners: of each prompt, in the order of the prompts; one may be there several times.
            None: every prompt is its problem's only one.
        reasoning: see `reasoning_of`.

    The rationales of a problem's second prompt are numbered after those of its first:
    an index belongs to one rationale of a source and problem.
    """
    known = ById(problems)
    if owners is None:
        for one in completions:
            yield graded(known[one.prompt_id], kind, one, source, reasoning=reasoning)
        return
    completions = completions if isinstance(completions, Sequence) else list(completions)
    numbering = _Numbering(owners, completions)
    for one in completions:
        owner, first = numbering.of(one.prompt_id)
        numbered = replace(one, index=first + one.index)
        problem = known[owner.problem_id]
        yield graded(problem, kind, numbered, source, about=owner.about, reasoning=reasoning)


class _Numbering:
    """Where each prompt's indices begin among those of its problem."""

    def __init__(self, owners: Sequence[Owner], completions: Iterable[Completion]) -> None:
        self._owners = owners
        self._prompts, problems = Places(), Places()
        self._places = array("Q")  # of each prompt, where its owner stands
        of = array("Q")  # of each prompt, the number of its problem
        for place, owner in enumerate(owners):
            if self._prompts.add(key_of(owner.prompt_id)):
                self._places.append(place)
                of.append(problems.number(key_of(owner.problem_id)))
        sizes = array("Q", bytes(8 * len(of)))
        for one in completions:
            prompt = self._prompt(one.prompt_id)
            sizes[prompt] = max(sizes[prompt], one.index + 1)
        ends = array("Q", bytes(8 * len(problems)))
        self._first = array("Q")
        for problem, size in zip(of, sizes, strict=True):
            self._first.append(ends[problem])
            ends[problem] += size
        self._last: tuple[str, Owner, int] | None = None  # completions of a prompt come one after another

    def of(self, prompt_id: str) -> tuple[Owner, int]:
        """A prompt's owner, and where its indices begin."""
        if self._last is None or self._last[0] != prompt_id:
            prompt = self._prompt(prompt_id)
            self._last = prompt_id, self._owners[self._places[prompt]], self._first[prompt]
        return self._last[1:]

    def _prompt(self, prompt_id: str) -> int:
        found = self._prompts.get(key_of(prompt_id))
        if found is None:
            raise KeyError(prompt_id)
        return found


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
) -> Iterator[Rationale]:
    """Mark in `dropped` what shall not be trained on, and why; the order stays.

    Args:
        rationales: graded ones; with `agreement` they are looked at three times.
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

    Yields one after another and holds a hash of each text that stays.
    """
    objections = None
    if agreement:
        rationales = rationales if isinstance(rationales, Sequence) else list(rationales)
        objections = _Objections(rationales, agreement, settled or {})
    theirs, refused = Places(), Places()
    for one in known:
        if one.dropped is None:
            theirs.put(_same_text(one), 0)
    for one in judged:
        if one.dropped in REFUSED:
            refused.put(_same_text(one), REFUSED.index(one.dropped))
    seen = Places()
    for place, rationale in enumerate(rationales):
        reason = _reason(rationale, keep)
        if reason is None and objections:
            reason = objections[place]
        elif reason is None and rationale.correct is None and keep != "all":
            reason = NO_GOLD
        if reason is None and drop_false_equations and false_equations(rationale.reasoning):
            reason = FALSE_EQUATION
        if reason is None:
            text = _same_text(rationale)
            if text in theirs:
                reason = DUPLICATE_OF_TEACHER
            elif (why := refused.get(text)) is not None:
                reason = REFUSED[why]
            elif not seen.add(text):
                reason = DUPLICATE
        same_mark = rationale.dropped == reason
        yield rationale if same_mark else rationale.model_copy(update={"dropped": reason})


def _same_text(rationale: Rationale) -> bytes:
    """What duplicates share: two mistakes may well get the same feedback, and each is an example."""
    return key_of(rationale.problem_id, rationale.about, " ".join(rationale.reasoning.split()))


class _Objections:
    """Why the samples of its problem drop each rationale, by its place; None: they do not."""

    def __init__(
        self, rationales: Sequence[Rationale], agreement: Agreement, settled: Mapping[str, str]
    ) -> None:
        self._reasons: list[str | None] = [None]  # a handful
        self._of = bytearray(len(rationales))
        for group in together(rationales):
            found = vote(group.rationales, agreement.kind)
            for place, one in zip(group.places, group.rationales, strict=True):
                reason = _by_samples(one, agreement, found, settled.get(group.problem_id))
                if reason not in self._reasons:
                    self._reasons.append(reason)
                self._of[place] = self._reasons.index(reason)

    def __getitem__(self, place: int) -> str | None:
        return self._reasons[self._of[place]]


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


def _by_samples(rationale: Rationale, agreement: Agreement, found: Vote, settled: str | None) -> str | None:
    """Why the samples of its problem drop it."""
    if rationale.answer is None:
        return NO_ANSWER
    if objection := agreement.objection(found, rationale):
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
