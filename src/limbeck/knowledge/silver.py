"""The passages that support a rationale: those that it finds itself (KARD's silver passages).

Each rationale has its own, because rationales of one question reason from different facts. With
`query: question` all rationales of a question have the same ones: the baseline, and what a student can
search with in an exam.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from limbeck.errors import DataError
from limbeck.knowledge.quality import overlap
from limbeck.knowledge.search import Hit, Search
from limbeck.records import Problem, Rationale, Silver, SilverQuery
from limbeck.tasks.options import LEAD, LETTERS, listing


def asked(problem: Problem) -> str:
    """What is searched with where there is no rationale: the question and its options, each once.

    Options that the question lists itself are those; so `ask`, which is given one text, searches as the exam.
    """
    question, options = _apart(problem)
    return " ".join([question, *options])


def with_answer(problem: Problem) -> str:
    """The training query where there are no rationales: the question and its gold answer.

    Raises:
        DataError: there is none.
    """
    question, options = _apart(problem, dashed=True)
    known = dict(zip(LETTERS, options, strict=False))
    return f"{question} {known.get(problem.gold, problem.gold)}"


def _apart(problem: Problem, *, dashed: bool = False) -> tuple[str, list[str]]:
    """The question without the options that it lists, by letters or `dashed` too, and all options."""
    question, options, listed = problem.question, problem.options, listing(problem.question)
    if listed is not None and (listed.lettered or dashed) and len(options) in (0, len(listed.texts)):
        stem = question[: listed.start].rstrip().removesuffix(LEAD)
        question, options = f"{stem.rstrip()} {question[listed.end :].strip()}".strip(), listed.texts
    return question, [one.strip().rstrip(",;.").rstrip() for one in options]


def query_of(problem: Problem, rationale: Rationale, query: SilverQuery) -> str:
    """What silver passages are searched with; of a rationale without its closing answer."""
    if query == "question+answer":
        return with_answer(problem)
    parts = {"question": [asked(problem)], "rationale": [rationale.reasoning]}
    return " ".join(parts.get(query) or [asked(problem), rationale.reasoning])


def problems_of(rationales: Iterable[Rationale], problems: Iterable[Problem]) -> list[Problem]:
    """The problem that each rationale is about.

    Raises:
        DataError: it is not among `problems`.
    """
    known, found = {problem.id: problem for problem in problems}, []
    for one in rationales:
        if one.problem_id not in known:
            raise DataError(
                f"problem {one.problem_id}", f"is not there, but {one.source} has a rationale of it"
            )
        found.append(known[one.problem_id])
    return found


def found_by(search: Search, queries: Sequence[str], k: int) -> list[list[Hit]]:
    """The k best passages for each query; the same query is asked once."""
    different = list(dict.fromkeys(queries))
    found = dict(zip(different, search.search(different, k), strict=True))
    return [found[query] for query in queries]


def silver(
    search: Search,
    problems: Iterable[Problem],
    rationales: Sequence[Rationale],
    *,
    k: int = 1,
    query: SilverQuery = "rationale",
) -> list[Silver]:
    """The k best passages for each rationale, in the order of the rationales.

    Raises:
        DataError: a rationale is about a problem that is not among `problems`.
    """
    abouts = problems_of(rationales, problems)
    queries = [query_of(problem, one, query) for problem, one in zip(abouts, rationales, strict=True)]
    return [
        Silver(
            problem_id=one.problem_id,
            source=one.source,
            index=one.index,
            query=query,
            passages=tuple(hit.passage for hit in hits),
            scores=tuple(hit.score for hit in hits),
        )
        for one, hits in zip(rationales, found_by(search, queries, k), strict=True)
    ]


def about_silver(
    found: Sequence[Silver],
    others: Sequence[Silver] = (),
) -> dict[str, Any]:
    """What a report says of silver passages.

    Args:
        others: of the same rationales in the same order, by another query.

    Returns:
        `rationales`, and `without` any passage; `passages`: different ones in all; `per_question`: different
        ones of a question, a mean; `between_rationales`: the share of one rationale's passages that another
        one of the same question has too; `with_others`: the same with `others`, rationale by rationale.
    """
    by_question: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
    for one in found:
        by_question[one.problem_id].append(one.passages)
    different = [len({name for row in rows for name in row}) for rows in by_question.values()]
    pairs = [pair for rows in by_question.values() for pair in combinations(rows, 2)]
    said: dict[str, Any] = {
        "rationales": len(found),
        "without": sum(not one.passages for one in found),
        "questions": len(by_question),
        "passages": len({name for one in found for name in one.passages}),
        "per_question": sum(different) / len(different) if different else 0.0,
        "between_rationales": overlap([first for first, _ in pairs], [second for _, second in pairs]),
    }
    if others:
        said["with_others"] = overlap([one.passages for one in found], [one.passages for one in others])
    return said
