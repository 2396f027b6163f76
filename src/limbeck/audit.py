"""The audit: what became of rationales, and what in them or in the gold answers looks wrong.

Grading by the final answer lets a rationale pass that is wrong in a step and
right at the end (137 of 768 published date chains of Mentor-KD), so the audit
also checks every equation in the text, and the date it computes. A problem of
which no rationale is right, or whose samples all agree against its gold answer,
is named: the gold answer may be wrong.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.agreement import Agreement, Levels, Vote, vote, votes
from limbeck.errors import DataError
from limbeck.lm.settings import Reasoning
from limbeck.lm.written import is_unfinished
from limbeck.rationale_files import read_rationales
from limbeck.rationales import false_equations, graded, mark_dropped
from limbeck.recipe import GoldRule
from limbeck.records import LeftOut, Problem, Rationale
from limbeck.selection import Together, mean_similarity, together
from limbeck.sequences import ById, Part
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.dates import contradicts_choice, options_are_dates
from limbeck.tasks.options import options_of
from limbeck.tasks.settings import TaskSettings, task_kind
from limbeck.tasks.sources import load_splits

NAMED = 20
"""Problems that an audit names; the others are counted."""

SUSPICIOUS = 3
"""Samples that must agree against gold before the gold answer is suspected."""

UNFINISHED = "end inside their thinking"

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
    marked = list(
        mark_dropped(
            [rationale for group in found.values() for rationale in group],
            keep=keep,
            agreement=agreement,
            drop_false_equations=drop_false_equations,
        )
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
    rationales: Iterable[Rationale],
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
    rationales = rationales if isinstance(rationales, Sequence) else list(rationales)
    asked = ById(problems)
    with_gold, dates = array("Q"), False
    for place, problem in enumerate(problems):
        if problem.answer is not None:
            with_gold.append(place)
        dates = dates or options_are_dates(options_of(problem))
    without_gold = len(problems) - len(with_gold)
    texts = _Texts(asked, dates)
    of = _OfProblems(asked, len(problems), kind, agreement or Agreement(kind))
    alike = mean_similarity(map(of.add, together(rationales, each=texts.add)))
    failed = Part(problems, array("Q", (place for place in with_gold if not of.right[place])))
    suspected = Part(problems, of.suspected)
    named = _named(failed, suspected, rationales=rationales, kind=kind)
    return {
        "problems": len(problems),
        **({"problems without a gold answer": without_gold} if without_gold else {}),
        "problems with a kept rationale": of.covered,
        **texts.counted(),
        "rationales per problem": _histogram(of.written),
        **({"correct per problem": _histogram(of.right[place] for place in with_gold)} if with_gold else {}),
        "kept per problem": _histogram(of.kept),
        "similarity of kept rationales of a problem": alike,
        "different answers per problem": round(of.answers / of.answered if of.answered else 0.0, 2),
        **of.agreement(),
        **_listed("problems without a correct rationale", failed, named),
        **_listed("suspected wrong gold answers", suspected, named),
    }


class _Texts:
    """Counts over rationales, whatever problem they are about."""

    def __init__(self, asked: ById[Problem], dates: bool) -> None:
        self._asked = asked
        self._dates = dates  # some problem has dates to choose
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._words: Counter[int] = Counter()  # of kept ones: how many have so many
        self._tokens: Counter[int] = Counter()

    def add(self, one: Rationale) -> None:
        """Count a rationale."""
        kept, right = one.dropped is None, one.correct is True
        false = bool(false_equations(one.reasoning))
        other = self._dates and contradicts_choice(one.reasoning, one.answer, self._options(one))
        holds = {
            "rationales": True,
            "correct": right,
            "no answer found": one.answer is None,
            "answer found by fallback": one.how == "fallback",
            "state an answer that is none of its kind": one.answer is None and one.how == "marker",
            "cut off at max_tokens": one.truncated,
            "cut where a new question began": one.cut > 0,
            "with thinking": bool(one.thinking.strip()),
            UNFINISHED: is_unfinished(one.thinking, one.completion),
            "ended by a stop string": bool(one.stopped),
            "kept": kept,
            "with a false equation": false,
            "right answer but a false equation": false and right,
            "kept with a false equation": false and kept,
            "states a date other than the chosen option": other,
            "kept with another date than the chosen option": other and kept,
        }
        self._counts.update(what for what, does in holds.items() if does)
        self._sources[one.source] += 1
        if one.dropped is None:
            self._words[len(one.reasoning.split())] += 1
            self._tokens[one.tokens] += 1
        else:
            self._dropped[one.dropped] += 1

    def _options(self, one: Rationale) -> tuple[str, ...]:
        problem = self._asked.get(one.problem_id)
        return () if problem is None else tuple(options_of(problem))

    def counted(self) -> dict[str, Any]:
        """For an audit."""
        counts = self._counts
        words = sum(size * count for size, count in self._words.items())
        return {
            "rationales": counts["rationales"],
            "correct": counts["correct"],
            "no answer found": counts["no answer found"],
            "answer found by fallback": counts["answer found by fallback"],
            **{what: counts[what] for what in ENDINGS if counts[what]},
            "kept": counts["kept"],
            "dropped": dict(self._dropped.most_common()),
            "with a false equation": counts["with a false equation"],
            "right answer but a false equation": counts["right answer but a false equation"],
            "kept with a false equation": counts["kept with a false equation"],
            **({what: counts[what] for what in DATES} if self._dates else {}),
            "sources": dict(self._sources),
            "words per kept rationale": round(words / counts["kept"] if counts["kept"] else 0.0, 1),
            "length of kept rationales": _lengths(self._words, self._tokens),
        }


ENDINGS = (
    "state an answer that is none of its kind",
    "cut off at max_tokens",
    "cut where a new question began",
    "with thinking",
    UNFINISHED,
    "ended by a stop string",
)
"""How texts end that are not simply an answer; what never happens is not mentioned."""

DATES = ("states a date other than the chosen option", "kept with another date than the chosen option")
"""How many rationales contradict the date they choose; mentioned where a problem has dates to choose."""


class _OfProblems:
    """Counts by problem: 12 bytes each.

    Attributes:
        written, kept, right: how many rationales of each problem, in the order of the problems.
        covered: problems with a kept rationale.
        answers: different ones, over all problems that have rationales; `answered` are these problems.
        suspected: places of problems whose samples all state one answer, and not gold: every one that states
            any, three or more.
    """

    def __init__(self, asked: ById[Problem], count: int, kind: AnswerKind, rule: Agreement) -> None:
        self._asked = asked
        self._kind = kind
        self._rule = rule
        self._levels = Levels(kind)
        self._several = self._agreed = self._tied = self._compared = self._gold = 0
        self.written, self.kept, self.right = (array("I", bytes(4 * count)) for _ in range(3))
        self.covered = self.answers = self.answered = 0
        self._suspicious = bytearray(count)

    def add(self, group: Together) -> list[Rationale]:
        """Count the rationales of a problem, and give those of them that were kept."""
        found = vote(group.rationales, self._kind)
        kept = [one for one in group.rationales if one.dropped is None]
        self.covered += bool(kept)
        self.answers += len(found.answers)
        self.answered += 1
        place, problem = self._asked.place(group.problem_id), self._asked.get(group.problem_id)
        if place is not None and problem is not None:
            right = sum(one.correct is True for one in group.rationales)
            self.written[place], self.kept[place], self.right[place] = len(group.rationales), len(kept), right
            one_answer = len(found.answers) == 1 and found.stated >= SUSPICIOUS
            self._suspicious[place] = problem.answer is not None and not right and one_answer
            self._compare(found, problem)
        return kept

    def _compare(self, found: Vote, problem: Problem) -> None:
        """Count what the samples of a problem say together."""
        if found.samples < 2:
            return
        self._several += 1
        self._tied += found.tied
        self._levels.add(found, problem)
        if self._rule.agreed(found) is not None:
            self._agreed += 1
            self._compared += problem.answer is not None
            self._gold += self._rule.is_gold(found, problem)

    def agreement(self) -> dict[str, Any]:
        """What the samples say together, and how often that is gold; nothing where no problem has two."""
        if not self._several:
            return {}
        summary = {
            "share of samples needed": self._rule.share,
            "samples needed": self._rule.least,
            "problems with two samples or more": self._several,
            "samples agree": self._agreed,
            "samples tie": self._tied,
            "agreed answers that can be compared with gold": self._compared,
            "agreed answer is gold": self._gold,
            "share of these": round(self._gold / self._compared, 4) if self._compared else None,
        }
        table = self._levels.table()
        return {"agreement": summary, **({"agreement and gold": table} if table else {})}

    @property
    def suspected(self) -> Sequence[int]:
        return array("Q", (place for place, is_so in enumerate(self._suspicious) if is_so))


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


def _lengths(words: Counter[int], tokens: Counter[int]) -> dict[str, dict[str, int]]:
    """Words, and tokens where a model counted them: the median, the 90th percentile, the longest.

    Args:
        words, tokens: how many texts are so long.
    """
    counts = {"words": words, **({"tokens": tokens} if any(tokens) else {})}
    return {
        unit: {
            "median": _at(sizes, sizes.total() // 2),
            "90 %": _at(sizes, (9 * sizes.total() - 1) // 10),
            "longest": max(sizes),
        }
        for unit, sizes in counts.items()
        if sizes
    }


def _at(sizes: Counter[int], place: int) -> int:
    """What would be at a place if all sizes were sorted."""
    for size in sorted(sizes):
        if place < sizes[size]:
            return size
        place -= sizes[size]
    raise IndexError(place)


def _named(
    *lists: Sequence[Problem], rationales: Sequence[Rationale], kind: AnswerKind
) -> dict[str, dict[str, Any]]:
    """The first problems of each list by id, with what their samples answer, and how many guess."""
    problems = {problem.id: problem for some in lists for problem in some[:NAMED]}
    samples = [one for one in rationales if one.problem_id in problems] if problems else []
    found, guesses = votes(samples, kind), Counter(one.problem_id for one in samples if one.how == "fallback")
    return {
        problem.id: {
            "problem": problem.id,
            "question": _shortened(problem.question),
            "gold": problem.answer,
            "answers": found[problem.id].shown() if problem.id in found else "not answered",
            "guessed": guesses[problem.id],
        }
        for problem in problems.values()
    }


def _listed(what: str, some: Sequence[Problem], named: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """How many problems, and the first of them."""
    first = {f"{what}, named": [named[problem.id] for problem in some[:NAMED]]} if some else {}
    return {what: len(some), **first}


def _shortened(question: str) -> str:
    """One line; of a long question its beginning and end, since what is asked often comes last."""
    line = " ".join(question.split())
    half = LONGEST_QUESTION // 2
    return line if len(line) <= LONGEST_QUESTION else f"{line[:half].rstrip()} … {line[-half:].lstrip()}"


def _histogram(numbers: Iterable[int]) -> dict[str, int]:
    """How many problems have 0, 1, 2 … of something, given how many each has."""
    table = Counter(numbers)
    return {str(number): table[number] for number in sorted(table)}
