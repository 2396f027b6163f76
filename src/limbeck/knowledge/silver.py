"""The passages that support a rationale: those that it finds itself (KARD's silver passages).

Each rationale has its own, because rationales of one question reason from different facts. With
`query: question` all rationales of a question have the same ones: the baseline, and what a student can
search with in an exam.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, groupby, islice
from typing import Any

from limbeck.errors import DataError
from limbeck.knowledge.quality import overlap
from limbeck.knowledge.search import Hit, Search
from limbeck.places import Places, key_of, places_of
from limbeck.records import Found, Problem, Rationale, Silver, SilverQuery
from limbeck.sequences import ById
from limbeck.tasks.options import LEAD, LETTERS, listing

QUERIES = 256
"""Queries that are asked at once, so that what all of them find may be larger than memory."""


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


def problems_of(rationales: Iterable[Rationale], problems: Sequence[Problem]) -> Iterator[Problem]:
    """The problem that each rationale is about.

    Raises:
        DataError: it is not among `problems`.
    """
    known = ById(problems)
    for one in rationales:
        problem = known.get(one.problem_id)
        if problem is None:
            raise DataError(
                f"problem {one.problem_id}", f"is not there, but {one.source} has a rationale of it"
            )
        yield problem


def found_by(search: Search, queries: Iterable[str], k: int) -> Iterator[list[Hit]]:
    """The k best passages for each query; so many queries are asked at once, each of these once."""
    queries = iter(queries)
    while some := list(islice(queries, QUERIES)):
        different = list(dict.fromkeys(some))
        found = dict(zip(different, search.search(different, k), strict=True))
        yield from (found[query] for query in some)


def silver(
    search: Search,
    problems: Sequence[Problem],
    rationales: Sequence[Rationale],
    *,
    k: int = 1,
    query: SilverQuery = "rationale",
) -> Iterator[Silver]:
    """The k best passages for each rationale, in the order of the rationales, which are looked at thrice.

    Raises:
        DataError: a rationale is about a problem that is not among `problems`.
    """
    abouts = zip(problems_of(rationales, problems), rationales, strict=True)
    queries = (query_of(problem, one, query) for problem, one in abouts)
    for one, hits in zip(rationales, found_by(search, queries, k), strict=True):
        yield Silver(
            problem_id=one.problem_id,
            source=one.source,
            index=one.index,
            query=query,
            passages=tuple(hit.passage for hit in hits),
            scores=tuple(hit.score for hit in hits),
        )


def about_silver(
    found: Sequence[Silver],
    others: Sequence[Silver | Found] = (),
) -> dict[str, Any]:
    """What a report says of silver passages.

    Args:
        found: looked at several times; some bytes of each are held.
        others: of the same rationales in the same order, by another query.

    Returns:
        `rationales`, and `without` any passage; `passages`: different ones in all; `per_question`: different
        ones of a question, a mean; `between_rationales`: the share of one rationale's passages that another
        one of the same question has too; `with_others`: the same with `others`, rationale by rationale.
    """
    different = array("Q", (len({name for row in rows for name in row}) for rows in _by_question(found)))
    said: dict[str, Any] = {
        "rationales": len(found),
        "without": sum(not one.passages for one in found),
        "questions": len(different),
        "passages": len(places_of(name for one in found for name in one.passages)),
        "per_question": sum(different) / len(different) if different else 0.0,
        "between_rationales": overlap(pair for rows in _by_question(found) for pair in combinations(rows, 2)),
    }
    if others:
        both = zip(found, others, strict=True)
        said["with_others"] = overlap((one.passages, other.passages) for one, other in both)
    return said


def _by_question(found: Sequence[Silver]) -> Iterator[list[tuple[str, ...]]]:
    """The passages of the rationales of each question, in the order of the questions' first ones."""
    questions = Places()
    of = array("Q", (questions.number(key_of(one.problem_id)) for one in found))
    order = array("Q", sorted(range(len(of)), key=of.__getitem__))
    for _, places in groupby(order, key=of.__getitem__):
        yield [found[place].passages for place in places]
