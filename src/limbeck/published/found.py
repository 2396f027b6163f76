"""What was found in published data: graded again, audited against its authors' verdicts, and written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from limbeck.audit import audit
from limbeck.errors import DiskError, InputError
from limbeck.files import whole_file
from limbeck.lm import Completion
from limbeck.published.mistakes import GivenMistake, Judged, judge
from limbeck.rationales import grade, mark_dropped
from limbeck.records import LeftOut, Problem, Rationale, write_json, write_jsonl
from limbeck.tasks.answers import AnswerKind, same
from limbeck.tasks.answers import grade as grade_answer
from limbeck.tasks.forms import form
from limbeck.tasks.leaks import find_leaks
from limbeck.tasks.numbers import numbers_in, write_number

TEACHER, TEACHER_DEV, TEACHER_TEST = "teacher.jsonl", "teacher-dev.jsonl", "teacher-test.jsonl"
MISTAKES, FEEDBACK, LEFT_OUT = "mistakes.jsonl", "feedback.jsonl", "left-out.jsonl"
_SENTENCE_ENDS = (".", "!", "?", '"', "'", ")")


@dataclass(frozen=True, slots=True)
class Request:
    """What the user says next to the paths.

    `task`: which published set, or what to call single files. `kind`: its answers',
    where the set is none of the published ones. `teacher`: what its teacher is called
    in the records, or which one of several is taken. `gold`: what to do with a question
    that has two golds. Of files of mistakes also: `student`, who made them, `leaks` and
    `unknown`, what to do with questions of the exam and with those of no training problem.
    """

    task: str | None = None
    kind: AnswerKind | None = None
    teacher: str | None = None
    gold: Literal["refuse", "first"] = "refuse"
    student: str | None = None
    leaks: Literal["refuse", "drop"] = "refuse"
    unknown: Literal["refuse", "drop"] = "refuse"

    @property
    def teachers_name(self) -> str:
        """What the one teacher of published rationales is called."""
        return self.teacher or "gpt-3.5-turbo"


@dataclass(frozen=True, slots=True)
class SetAside:
    """A gold answer that was not taken, because another was at `kept_from` before it."""

    origin: str
    gold: str
    kept: str
    kept_from: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read: its name within what was given, its content's hash, and what it held."""

    file: str
    sha256: str
    records: int
    holds: str


@dataclass(frozen=True, slots=True)
class Given:
    """A published text and what its authors say of it.

    `chain` None: it is null in the data. `stated` is the answer next to it ("": none),
    `whole` the text as it was written, with that answer, which is what gets graded. `truncated`: it was
    cut off at a limit of tokens.
    """

    problem: Problem
    source: str
    chain: str | None
    stated: str
    whole: str
    flagged: bool | None
    origin: str
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that was read; `given` by the name of the file it shall be written to.

    `left_out` was refused by what it asks; what our own reading refuses comes to it.
    """

    task: str
    kind: AnswerKind
    read: Sequence[Source]
    missing: Sequence[str]
    train: Sequence[Problem]
    test: Sequence[Problem]
    given: dict[str, list[Given]]
    set_aside: Sequence[SetAside] = ()
    dev: Sequence[Problem] = ()
    mistakes: Sequence[GivenMistake] = ()
    left_out: Sequence[LeftOut] = ()

    def with_mistakes(self, mistakes: Sequence[GivenMistake], left_out: Sequence[LeftOut]) -> Found:
        """The same with mistakes, and with what is left out."""
        return replace(self, mistakes=mistakes, left_out=left_out)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """A published text with our grading of it; None where there is nothing to grade."""

    given: Given
    ours: Rationale | None


def write_import(found: Found, format_name: str, out: Path) -> dict[str, Any]:
    """Grade what was found and write problems, rationales, mistakes, disagreements and `import.json`.

    Args:
        found: what a format's `read` returned.
        format_name: for `import.json`.
        out: the folder; new or empty. It appears whole or not at all.

    Returns:
        What is in `import.json`: the provenance and the audit of every file.

    Raises:
        InputError: the folder holds files; DiskError: it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is a file or holds files; name a new folder with --out")
    verdicts = {name: _graded(found, given) for name, given in found.given.items()}
    judged = judge(found.kind, found.mistakes)
    left_out = [*found.left_out, *judged.left_out]
    summary = _summary(found, verdicts, format_name) | _of_mistakes(judged, left_out)
    partial: Path | None = None
    try:
        out.resolve().parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=out.resolve().parent, prefix=f".{out.name}."))
        partial.chmod(0o755)
        for split, problems in (("train", found.train), ("dev", found.dev), ("test", found.test)):
            if problems:
                write_jsonl(partial / f"{split}.jsonl", problems)
        for name, graded in verdicts.items():
            write_jsonl(partial / name, [one.ours for one in graded if one.ours])
        if found.mistakes:
            write_jsonl(partial / MISTAKES, judged.mistakes)
        if judged.feedback:
            write_jsonl(partial / FEEDBACK, judged.feedback)
        if left_out:
            write_jsonl(partial / LEFT_OUT, left_out)
        with whole_file(partial / "disagreements.jsonl") as stream:
            for name, graded in verdicts.items():
                for row in _disagreements(name, found.kind, graded):
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        write_json(partial / "import.json", summary)
        os.replace(partial, out.resolve())
    except OSError as error:
        raise DiskError(out, error) from error
    finally:
        if partial is not None:
            with suppress(OSError):
                shutil.rmtree(partial)
    return summary


def _graded(found: Found, given: Sequence[Given]) -> list[_Verdict]:
    """Our verdict on every text, in order; a null chain without an answer next to it has none."""
    counts: Counter[tuple[str, str]] = Counter()
    verdicts = []
    for one in given:
        if not one.whole.strip():
            verdicts.append(_Verdict(one, None))
            continue
        index = counts[one.problem.id, one.source]
        counts[one.problem.id, one.source] += 1
        completion = Completion(one.problem.id, index, one.whole, truncated=one.truncated)
        (rationale,) = grade([one.problem], found.kind, [completion], one.source)
        verdicts.append(_Verdict(one, rationale.model_copy(update={"origin": one.origin})))
    return verdicts


def _summary(found: Found, verdicts: dict[str, list[_Verdict]], format_name: str) -> dict[str, Any]:
    """What `import.json` holds."""
    teachers = verdicts.get(TEACHER, [])
    taught = {one.given.problem.id for one in teachers}
    kept = list(mark_dropped(one.ours for one in teachers if one.ours))
    files: dict[str, Any] = {}
    for name, graded in verdicts.items():
        rationales = [one.ours for one in graded if one.ours]
        files[name] = _published(found.kind, graded)
        mentor = name.startswith("mentor-")
        if mentor and teachers:
            new = {one.problem_id for one in rationales if one.correct} - taught
            files[name]["questions with a correct one, and none of the teacher's"] = len(new)
        examined = {TEACHER_DEV: found.dev, TEACHER_TEST: found.test}.get(name, found.train)
        marked = mark_dropped(rationales, known=kept if mentor else ())
        files[name]["audit"] = audit(marked, examined, found.kind)
    return {
        "format": format_name,
        "task": found.task,
        "kind": found.kind,
        "read": [asdict(source) for source in found.read],
        "missing": list(found.missing),
        "golds set aside": [asdict(one) for one in found.set_aside],
        "questions": _questions(found),
        "files": files,
        **({"options": "options"} if any(one.options for one in (*found.train, *found.test)) else {}),
    }


def _of_mistakes(judged: Judged, left_out: Sequence[LeftOut]) -> dict[str, Any]:
    """What `import.json` says of mistakes, what is said to them, and what is left out."""
    counts: dict[str, Any] = {}
    if judged.counts["texts"]:
        counts["mistakes"] = judged.counts
    if judged.said:
        counts["feedback"] = judged.said
    if left_out:
        reasons = Counter(f"{one.split}: {one.why}" for one in left_out)
        counts["left out"] = dict(reasons.most_common())
    return counts


def _questions(found: Found) -> dict[str, int]:
    """How many there are of each split, and how many of train are in another one too."""
    asked = [form(problem) for problem in found.train]
    counts = {"train": len(found.train)}
    splits = {**({"dev": found.dev} if found.dev else {}), "test": found.test}
    for split, problems in splits.items():
        counts[split] = len(problems)
    for split, problems in splits.items():
        counts[f"of train that are in {split}"] = len(find_leaks(asked, [form(one) for one in problems]))
    return counts


def _published(kind: AnswerKind, graded: Sequence[_Verdict]) -> dict[str, Any]:
    """Counts of one file: our verdicts, the authors' ones, and what is known to be wrong with such data.

    Shares are of all published texts: what cannot be graded is not correct.
    """
    ours = [one.ours for one in graded if one.ours]
    flags = [one.given.flagged for one in graded if one.given.flagged is not None]
    texts = {(one.given.problem.id, _words(one.given.chain)) for one in graded if one.ours}
    right = {
        (one.given.problem.id, _words(one.given.chain)) for one in graded if one.ours and one.ours.correct
    }
    correct = [one for one in ours if one.correct]
    counts: dict[str, Any] = {
        "texts": len(graded),
        "null chains": sum(one.given.chain is None for one in graded),
        "correct": len(correct),
        "share correct": _share(len(correct), len(graded)),
        "wrong": sum(one.answer is not None and not one.correct for one in ours),
        "no answer found": sum(one.answer is None for one in ours),
        "without an explicit answer": sum(one.how != "marker" for one in ours),
        "duplicates": len(ours) - len(texts),
        "correct ones that differ": len(right),
        "end without a mark of punctuation": sum(
            not _ends(one.given.chain) for one in graded if one.given.chain
        ),
        "questions": len({one.given.problem.id for one in graded}),
        "questions with a correct one": len({one.problem_id for one in correct}),
        "questions by number of texts": _histogram(graded),
    }
    if flags:
        counts["flagged correct"] = sum(flags)
        counts["share flagged correct"] = _share(sum(flags), len(flags))
        counts["disagree with the flag"] = dict(Counter(map(_against_flag, graded)).most_common())
        counts["disagree with the flag"].pop("", None)
    if any(one.given.stated for one in graded):
        against = Counter(_against_stated(kind, one) for one in graded if one.given.stated)
        counts["the chain alone against the answer next to it"] = dict(against.most_common())
    if kind == "number" and flags:
        never = sum(bool(one.given.flagged) and not _holds_gold(one.given) for one in graded)
        counts["flagged correct, but the gold number is nowhere"] = never
    return counts


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _words(chain: str | None) -> str:
    return " ".join((chain or "").split())


def _ends(chain: str) -> bool:
    return chain.rstrip().endswith(_SENTENCE_ENDS)


def _histogram(graded: Sequence[_Verdict]) -> dict[str, int]:
    """How many questions have 1, 2, 3 … texts."""
    counts = Counter(Counter(one.given.problem.id for one in graded).values())
    return {str(number): counts[number] for number in sorted(counts)}


def _holds_gold(given: Given) -> bool:
    numbers = numbers_in(given.chain or "")
    return given.problem.answer in {write_number(value) for _, _, value in numbers}


def _against_flag(one: _Verdict) -> str:
    """Why our verdict is not the authors' one; "" where it is, or they give none."""
    ours, flagged = one.ours, one.given.flagged
    if flagged is None or (ours is not None and ours.correct) == flagged:
        return ""
    if ours is None or ours.answer is None:
        return "flagged correct, no answer found"
    how = "stated" if ours.how == "marker" else "guessed"
    return (
        f"flagged wrong, the gold answer {how}" if ours.correct else f"flagged correct, another answer {how}"
    )


def _against_stated(kind: AnswerKind, one: _Verdict) -> str:
    """What the chain alone answers, compared with the answer next to it."""
    ours, given = one.ours, one.given
    if ours is None or ours.how != "marker" or ours.answer is None:
        return "no answer next to it that its kind can parse"
    alone = grade_answer(given.problem, kind, given.chain or "")
    if alone.answer is None:
        return "no answer in the chain"
    if same(kind, alone.answer, ours.answer):
        return "same"
    return "another answer stated" if alone.how == "marker" else "another answer guessed"


def _disagreements(name: str, kind: AnswerKind, graded: Iterable[_Verdict]) -> list[dict[str, Any]]:
    """A row for each verdict that is not the authors', and each chain that states another answer."""
    rows = []
    for one in graded:
        reasons = [_against_flag(one)]
        if one.given.stated and (why := _against_stated(kind, one)) == "another answer stated":
            reasons.append(f"next to the chain: {why}")
        for reason in filter(None, reasons):
            rows.append(
                {
                    "file": name,
                    "origin": one.given.origin,
                    "problem_id": one.given.problem.id,
                    "why": reason,
                    "gold": one.given.problem.answer,
                    "answer": one.ours and one.ours.answer,
                    "next to the chain": one.given.stated or None,
                    "flagged correct": one.given.flagged,
                }
            )
    return rows
