"""Demonstrations: reading published few-shot files, and choosing which ones are shown.

Files read, as they are published:

    JSON, JSONL, CSV, YAML   rows with a question (or input, instruction, q), a rationale (or chain,
                             explanation, reasoning, output, completion, text) and, where the
                             rationale does not state it, an answer (or label, target)
    JSON: {"q": ["text"]}    questions with their rationales (tailored learning)
    JSON: {"prompt": "…"}    a text of blocks under a key (Fine-tune-CoT): FILE.json#KEY
    text of blocks           "Q: … A: …" or "Question: … Reasoning: … Answer: …"; what comes before
                             the first question is left out
    text of lines            one demonstration a line, line breaks as "\\n", "Answer:" last (KARD)

A completion that already states its answer stays word for word. It may think inside `<think>` tags.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from limbeck.errors import DataError, DiskError, LeakError
from limbeck.lm.written import apart
from limbeck.records import Demonstration, Problem, Rationale, first_problem
from limbeck.safe_yaml import parse
from limbeck.tasks.answers import AnswerKind, extract, split_answer
from limbeck.tasks.forms import form, question_form
from limbeck.tasks.leaks import find_leaks
from limbeck.tasks.options import list_options, lists_letters, options_in
from limbeck.tasks.prompts import FORMATS, completion_of, question_with_options
from limbeck.tasks.readers import locate, read_rows
from limbeck.tasks.settings import ExamplesSettings
from limbeck.tasks.templates import bare_text

QUESTIONS = ("question", "input", "instruction", "q")
RATIONALES = ("rationale", "chain", "explanation", "reasoning", "output", "completion", "text")
ANSWERS = ("answer", "label", "target")

_QUESTION = re.compile(r"^(?:Q|Question):[ \t]*", re.MULTILINE)
_ANSWERED = re.compile(r"^(?:A|Answer|Reasoning|Rationale|Explanation):[ \t]*", re.MULTILINE)
_VERDICT = re.compile(r"^(?:A|Answer):[ \t]*", re.MULTILINE)
_ON_ONE_LINE = re.compile(r"^(?P<question>.+?)\\nAnswer:\s*(?P<text>\S.*)$")


def read_demonstrations(path: str | Path, kind: AnswerKind) -> list[Demonstration]:
    """The demonstrations of a file, in its order.

    Args:
        path: see the module's text for what may be in it; FILE.json#KEY is what is under a key.
        kind: of the answers, to see whether a rationale states its own.

    Raises:
        DataError: the file cannot be read as any of these forms, or holds nothing.
        DiskError: it cannot be read at all.
    """
    file, key = locate(str(path))
    if not file.is_file():
        raise DataError(path, "no such file of demonstrations; check the path")
    if file.suffix in (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"):
        found = [_of_row(place, row, kind) for place, row in read_rows(path)]
    elif file.suffix in (".json", ".yaml", ".yml"):
        value = _value(file)
        if key:
            value = value.get(key) if isinstance(value, dict) else None
        found = _of_value(str(path), value, kind)
    else:
        found = _of_text(str(path), _text(file), kind)
    if not found:
        raise DataError(path, 'holds no demonstrations; write blocks such as "Q: …" and "A: …"')
    return found


def chosen(
    examples: ExamplesSettings | None,
    kind: AnswerKind,
    *,
    form: str = "",
    thinks: bool = False,
    pool: Callable[[], Sequence[Demonstration]] = list,
    test: Iterable[Problem] = (),
    seed: int = 0,
    place: str = "prompt",
) -> tuple[Demonstration, ...]:
    """The demonstrations that a recipe asks for, and one to spare where there is one: a problem is
    not shown its own, and then the spare one is.

    Args:
        examples: the recipe's; None: none.
        kind: of the answers.
        form: the format in which a student writes; "": word for word, as a teacher is shown them.
        thinks: the student reasons inside `<think>` tags.
        pool: makes those of the training split, in the order of its problems (`of_rationales`).
        test: the problems of the exam; none of them may be shown.
        seed: of the choice from the training split; more of them only adds to fewer.
        place: opens error texts, such as "students.small.prompt".

    Raises:
        DataError: the file cannot be read, an answer cannot be found, or there are too few.
        LeakError: a demonstration is a problem of the exam.
    """
    if examples is None:
        return ()
    if examples.file is not None:
        where = str(examples.file)
        found = read_demonstrations(Path(where).expanduser(), kind)
        found = [in_format(where, one, kind, form, thinks=thinks) for one in found] if form else found
    else:
        where, found = f"{place}.examples", _drawn(pool(), seed)
    wanted = examples.k or len(found)
    if len(found) < wanted:
        raise DataError(where, f"{wanted} demonstrations are wanted and {len(found)} are there; lower k")
    shown = tuple(found[: wanted + 1])
    _refuse_leaks(where, shown, test)
    return shown


def of_rationales(
    problems: Iterable[Problem], rationales: Iterable[Rationale], form: str, *, thinks: bool = False
) -> list[Demonstration]:
    """The first kept rationale of every problem that has one, in their order, as it is trained on."""
    first: dict[str, Rationale] = {}
    for rationale in rationales:
        if rationale.dropped is None:
            first.setdefault(rationale.problem_id, rationale)
    return [
        Demonstration(
            question=question_with_options(problem),
            completion=completion_of(
                FORMATS[form],
                first[problem.id].reasoning,
                problem.answered(first[problem.id].answer).gold,
                thinks=thinks,
                thinking=first[problem.id].thinking,
            ),
            problem_id=problem.id,
        )
        for problem in problems
        if problem.id in first
    ]


def of_answers(problems: Iterable[Problem], form: str) -> list[Demonstration]:
    """Every problem that has a gold answer, with that alone."""
    return [
        Demonstration(
            question=question_with_options(problem),
            completion=FORMATS[form].answer_only(problem.answer),
            problem_id=problem.id,
        )
        for problem in problems
        if problem.answer is not None
    ]


def in_format(
    place: str, one: Demonstration, kind: AnswerKind, form: str, *, thinks: bool = False
) -> Demonstration:
    """A demonstration as a student of this format writes it.

    Raises:
        DataError: its completion states no answer; or the student thinks, and it holds no reasoning.
    """
    thinking, text = apart(one.completion)
    reasoning, answer = split_answer(kind, text, options_in(one.question))
    if answer is None:
        raise DataError(place, f"a demonstration states no answer ({_short(one.question)}); add it")
    if bare_text(reasoning) == bare_text(answer):  # the answer alone, without a statement
        reasoning = ""
    if thinks and not (thinking or reasoning.strip()):
        raise DataError(
            place, f"a demonstration holds no reasoning for the <think> tags ({_short(one.question)}); add it"
        )
    reasoning = "\n\n".join(part for part in (thinking, reasoning) if part)
    completion = completion_of(FORMATS[form], reasoning, answer, thinks=thinks, thinking=thinking)
    return one.model_copy(update={"completion": completion})


def _drawn(pool: Sequence[Demonstration], seed: int) -> list[Demonstration]:
    """The pool in an order that the seed and the problems decide, one by one."""

    def rank(one: Demonstration) -> bytes:
        return hashlib.sha256(f"{seed}\0{one.problem_id}".encode()).digest()

    return sorted(pool, key=rank)


def _refuse_leaks(place: str, shown: Iterable[Demonstration], test: Iterable[Problem]) -> None:
    demonstrations = list(shown)
    leaks = find_leaks([question_form(one.question) for one in demonstrations], [form(one) for one in test])
    if leaks:
        question = demonstrations[leaks[0].learned].question
        raise LeakError(place, f"a demonstration is a problem of the exam ({_short(question)}); remove it")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(file, f"not valid UTF-8 ({error.reason}); convert the file to UTF-8") from None
    except OSError as error:
        raise DiskError(file, error) from error


def _value(file: Path) -> Any:
    text = _text(file)
    try:
        return json.loads(text) if file.suffix == ".json" else parse(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(file, f"cannot be read as {file.suffix[1:]} ({reason}); fix it") from None


def _of_value(place: str, value: Any, kind: AnswerKind) -> list[Demonstration]:
    """What a JSON or YAML document holds: rows, a text of blocks, or questions with rationales."""
    if isinstance(value, dict) and isinstance(value.get("prompt"), str):
        value = value["prompt"]
    if isinstance(value, str):
        return _of_text(place, value, kind)
    if isinstance(value, dict) and value and all(isinstance(one, list) for one in value.values()):
        value = [{"question": question, "rationale": texts} for question, texts in value.items()]
    if not isinstance(value, list):
        keys = ", ".join(map(str, value)) if isinstance(value, dict) else ""
        fix = f"name one of its keys as FILE#KEY: {keys}" if keys else "write a list of objects"
        raise DataError(place, f"holds no list of demonstrations; {fix}")
    return [_of_row(f"{place} record {number}", row, kind) for number, row in enumerate(value, start=1)]


def _of_row(place: str, row: Any, kind: AnswerKind) -> Demonstration:
    if not isinstance(row, Mapping):
        raise DataError(place, 'not an object; write {"question": …, "rationale": …, "answer": …}')
    question, options = _first(row, QUESTIONS), row.get("options")
    text, answer = _first(row, RATIONALES), _first(row, ANSWERS)
    if not question or not (text or answer):
        raise DataError(place, "has no question, or neither rationale nor answer; add the column")
    if isinstance(options, list | tuple) and options and not lists_letters(question):
        question = f"{question}\n{list_options([str(option) for option in options])}"
    return _demonstration(place, question, text, answer, kind)


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of these columns that holds a text or a number; of a list, its first one."""
    for name in names:
        cell = row.get(name)
        cell = next(iter(cell), None) if isinstance(cell, list) else cell
        if isinstance(cell, str | int | float) and str(cell).strip():
            return str(cell).strip()
    return ""


def _demonstration(place: str, question: str, text: str, answer: str, kind: AnswerKind) -> Demonstration:
    """A text that states its answer, as it is; else with the statement "The answer is X." after it."""
    if not text and "####" in answer:  # GSM8K's answers are worked solutions
        text, answer = answer, ""
    found = extract(kind, apart(text)[1], options_in(question))
    stated = found.how == "marker" and found.answer is not None
    completion = text if stated or not answer else FORMATS["plain"].completion(text, answer)
    try:
        return Demonstration(question=question, completion=completion)
    except ValidationError as error:
        raise DataError(place, f"no demonstration ({first_problem(error)}); fix it") from None


def _of_text(place: str, text: str, kind: AnswerKind) -> list[Demonstration]:
    starts = list(_QUESTION.finditer(text))
    if not starts:
        return _of_lines(place, text)
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return [
        _of_block(f"{place}:{text.count(chr(10), 0, start.start()) + 1}", text[start.end() : end], kind)
        for start, end in zip(starts, ends, strict=True)
    ]


def _of_block(place: str, block: str, kind: AnswerKind) -> Demonstration:
    """One "question, A: text", or "question, Reasoning: text, Answer: text"."""
    found = _ANSWERED.search(block)
    if found is None:
        raise DataError(place, 'a question without an answer; write it on a line that begins with "A:"')
    question, text, answer = block[: found.start()].strip(), block[found.end() :].strip(), ""
    verdict = None if _VERDICT.match(found[0]) else _VERDICT.search(text)
    if verdict is not None:
        text, answer = text[: verdict.start()].strip(), text[verdict.end() :].strip()
    if not question or not (text or answer):
        raise DataError(place, "a question or its answer is empty; write it")
    return _demonstration(place, question, text, answer, kind)


def _of_lines(place: str, text: str) -> list[Demonstration]:
    """One demonstration a line, its line breaks written as backslash and n."""
    shown = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        found = _ON_ONE_LINE.match(line)
        if found is None:
            raise DataError(f"{place}:{number}", 'no demonstration; write blocks such as "Q: …" and "A: …"')
        question, completion = (
            found[part].replace("\\n", "\n").replace('\\"', '"').strip() for part in ("question", "text")
        )
        shown.append(Demonstration(question=question, completion=completion))
    return shown


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
