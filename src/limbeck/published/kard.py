"""The files of KARD (arXiv 2305.18395; repository Nardien/KARD), which its scripts read and make.

    data/SET/{train,dev,test}.json            {sent1, ending0, ending1, …, label}, one in a line   questions
    chatgpt_output/SET/train/NNNNN.json       a response of the API about row NNNNN of train       ten texts
    preprocessed_data/SET-cot/{train,test}.json   {question, reasoning, answer, knowledge}         one text

`label` and `answer` are the place of the right option, from 0. A response file has no question: it is about
the row of data/SET/train.json with its number, from 00000 on. A record of preprocessed_data lists its options
in the question ("… A. this B. that"); `answer` may be called `label` there, and `knowledge` may be missing.
Both its files are of the training questions: `test.json` holds the last twentieth of the rationales.

The texts explain an answer that the teacher was shown. Those of preprocessed_data are the ones that the
authors' verifier let pass, and they wrote "Answer: C" behind each: that is not evidence, and is taken off.
Where responses are there too, all of their texts are taken, with the verifier's verdict. Passages
(`knowledge`) are not taken: Limbeck finds them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from limbeck.errors import DataError, LeakError, RecipeError
from limbeck.published.asked import EXAMINED
from limbeck.published.found import TEACHER, Found, Given, Request, Source
from limbeck.published.reading import File, Reading, checksum_of, files_of, kind_of, records_of
from limbeck.records import LeftOut, Problem
from limbeck.tasks.answers import AnswerKind
from limbeck.tasks.forms import form
from limbeck.tasks.leaks import find_leaks
from limbeck.tasks.options import LETTERS
from limbeck.tasks.readers import Row, read_object
from limbeck.tasks.rows import shortened
from limbeck.tasks.settings import Columns

TASKS: dict[str, AnswerKind] = {"medqa_usmle_hf": "choice", "strategyqa": "choice", "obqa": "choice"}

RESPONSES, PREPROCESSED = "responses", "preprocessed"
SPLITS = ("train", "dev", "test")
_NAMES = {"medqa_usmle_hf": ("medqa", "usmle"), "strategyqa": ("strategyqa", "strategy"), "obqa": ("obqa",)}
"""What folders of preprocessed_data begin with."""

_COLUMNS = Columns(question="question", answer="answer", options="options")
_NEEDED, _KNOWN = {"question", "reasoning"}, {"question", "reasoning", "answer", "label", "knowledge"}
_LABEL = re.compile(r"(?<!\S)([A-Z])\.(?=\s)")
_CLOSING = re.compile(r"\s*\bAnswer: ([A-Z])\s*\Z")
_RESPONSE = re.compile(r"[0-9]{5}\.json")


@dataclass
class _Texts:
    """The rationales as they were found, with what verifies and joins them."""

    reading: Reading
    rows: list[Problem] = field(default_factory=list)
    """Of train, in the order of its file."""
    said: list[Given] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    """Where each problem's first rationale is."""
    passed: set[tuple[str, str]] = field(default_factory=set)
    """By the authors' verifier: problem and text."""

    def add(self, given: Given, place: str) -> None:
        self.said.append(given)
        self.places.setdefault(given.problem.id, place)


def read(paths: Sequence[str], request: Request) -> Found:
    """Read a set of the repository's folders, or single files.

    Args:
        paths: the repository's folder; or files: questions as train=FILE, dev=FILE, test=FILE, and
            preprocessed=FILE; or a folder of responses, next to train=FILE.
        request: which set, the teacher's name, two golds, what to do with questions of the exam.

    Raises:
        DataError: a file or record has another shape, or a response is about no row.
        LeakError: a rationale is about a question of test, and these are not to be left out.
        RecipeError: the set is missing or unknown; DiskError: a file cannot be read.
    """
    files, missing = files_of(
        paths, "train|dev|test|preprocessed", lambda folder: _in_folder(folder, request.task)
    )
    if (kind := kind_of(request, TASKS)) != "choice":
        raise RecipeError(f"--kind {kind}: questions of these files have options; leave it out")
    texts = _Texts(Reading(kind, request))
    read_: list[Source] = []
    for file in sorted((one for one in files if one.role in SPLITS), key=lambda one: SPLITS.index(one.role)):
        read_.append(_questions(file, texts))
    for file in (one for one in files if one.role not in (*SPLITS, RESPONSES)):
        read_.append(_preprocessed(file, texts))
    responses = [file for file in files if file.role == RESPONSES]
    if responses:
        read_.append(_responses(responses, texts))
    if not texts.said:
        raise RecipeError(
            "PATH: there are only questions; name preprocessed=FILE or a folder of responses too"
        )
    left_out = _without_leaks(texts, request)
    texts.reading.given[TEACHER] = texts.said
    found = texts.reading.found(read_, missing)
    return replace(found, left_out=left_out)


def _in_folder(folder: Path, task: str | None) -> tuple[list[File], list[str]]:
    """The files of a set in the repository's folder, or those of a folder of responses."""
    own = _response_files(folder)
    if own:
        return own, []
    if not any((folder / name).is_dir() for name in ("data", "chatgpt_output", "preprocessed_data")):
        raise DataError(
            folder,
            "holds none of the folders data, chatgpt_output and preprocessed_data, and no responses such as "
            "00000.json; give KARD's own folder, with the data that its README links",
        )
    if task is None:
        raise RecipeError(f"--task: {folder} holds several sets; name one of {', '.join(TASKS)}")
    files, missing = [], []
    for split in SPLITS:
        path = folder / "data" / task / f"{split}.json"
        files += [File(path, f"data/{task}/{split}.json", split)] if path.is_file() else []
        missing += [] if path.is_file() else [f"data/{task}/{split}.json"]
    own = _response_files(folder / "chatgpt_output" / task / "train", f"chatgpt_output/{task}/train/")
    begins = tuple(f"{one}-cot" for one in _NAMES.get(task, (task,)))
    made = [
        File(path, path.relative_to(folder).as_posix(), PREPROCESSED)
        for part in sorted((folder / "preprocessed_data").glob("*"))
        if part.name.startswith(begins)
        for path in (part / "train.json", part / "test.json")
        if path.is_file()
    ]
    missing += [] if own else [f"chatgpt_output/{task}/train/*.json"]
    missing += [] if made else [f"preprocessed_data/{begins[0]}*/*.json"]
    if not own and not made:
        raise RecipeError(
            f"--task {task}: {folder} holds no rationales of it; name one of {', '.join(TASKS)}"
        )
    return [*files, *made, *own], missing


def _response_files(folder: Path, name: str = "") -> list[File]:
    found = sorted(path for path in folder.glob("*.json") if _RESPONSE.fullmatch(path.name))
    return [File(path, f"{name}{path.name}", RESPONSES) for path in found]


def _questions(file: File, texts: _Texts) -> Source:
    """Read the questions of a split."""
    rows, checksum = records_of(file)
    for number, (place, row) in enumerate(rows, start=1):
        endings = [row.get(f"ending{option}") for option in range(sum("ending" in name for name in row))]
        if not isinstance(row.get("sent1"), str) or not {"ending0", "ending1", "label"} <= row.keys():
            raise DataError(
                place,
                "is not of the shape sent1, ending0, ending1, …, label, but has "
                f"{', '.join(row) or 'no column'}; give such files",
            )
        origin = f"{file.name}#{number}"
        problem = _problem(place, row["sent1"], endings, row["label"], texts.reading, file.role, origin)
        if file.role == "train":
            texts.rows.append(problem)
    return Source(file.name, checksum, len(rows), f"questions of {file.role}")


def _problem(
    place: str,
    question: str,
    endings: Sequence[object],
    label: object,
    reading: Reading,
    split: str,
    origin: str,
) -> Problem:
    """The problem of a record, now one of the split.

    Raises:
        DataError: an option is not text, or the label not the place of one.
    """
    if not all(isinstance(one, str) for one in endings):
        raise DataError(place, f"an option is not text but {shortened(str(list(endings)))}; write texts")
    number = re.fullmatch("[0-9]{1,2}", str(label))
    if isinstance(label, bool) or number is None or int(number[0]) >= len(endings):
        raise DataError(
            place,
            f"the label {shortened(str(label))} is not a place of {len(endings)} options, from 0 on; fix it",
        )
    row: Row = {"question": question, "options": list(endings), "answer": LETTERS[int(number[0])]}
    return reading.problem(place, row, _COLUMNS, split, origin)


def _preprocessed(file: File, texts: _Texts) -> Source:
    """Read rationales that the authors' verifier let pass, each with its question."""
    rows, checksum = records_of(file)
    known = {_listed(one): one for one in texts.rows}
    passages = 0
    for number, (place, row) in enumerate(rows, start=1):
        label = row.get("answer", row.get("label"))
        if not _NEEDED <= row.keys() <= _KNOWN:
            raise DataError(
                place,
                "is not of the shape question, reasoning, answer, with or without knowledge, but has "
                f"{', '.join(row) or 'no column'}; give such files",
            )
        for column in ("question", "reasoning"):
            if not isinstance(row[column], str):
                raise DataError(place, f"{column} is not text but {shortened(str(row[column]))}; write text")
        passages += "knowledge" in row
        origin = f"{file.name}#{number}"
        problem = known.get(row["question"])
        if problem is None or label is not None:  # one that is known must have the same answer here
            question, options = (
                _apart(place, row["question"]) if problem is None else (problem.question, problem.options)
            )
            problem = _problem(place, question, options, label, texts.reading, "train", origin)
        closing = _CLOSING.search(row["reasoning"])
        stated = closing is not None and closing[1] == problem.gold
        text = row["reasoning"][: closing.start()] if closing and stated else row["reasoning"]
        texts.passed.add((problem.id, text.strip()))
        texts.add(Given(problem, texts.reading.request.teachers_name, text, "", text, True, origin), place)
    more = "; their passages are not taken" if passages else ""
    return Source(file.name, checksum, len(rows), f"rationales of train that their verifier let pass{more}")


def _listed(problem: Problem) -> str:
    """A question as preprocessed_data has it."""
    options = " ".join(f"{letter}. {one}" for letter, one in zip(LETTERS, problem.options, strict=False))
    return f"{problem.question} {options}"


def _apart(place: str, text: str) -> tuple[str, list[str]]:
    """A question and its options, which stand behind it in one line: the last run from "A." on.

    Raises:
        DataError: it lists none.
    """
    labels = list(_LABEL.finditer(text))
    for first in reversed([n for n, one in enumerate(labels) if one[1] == "A"]):
        run = [labels[first]]
        for one in labels[first + 1 :]:
            run += [one] if one[1] == LETTERS[len(run)] else []
        if len(run) > 1:
            ends = [one.start() for one in run[1:]] + [len(text)]
            options = [text[one.end() : end].strip() for one, end in zip(run, ends, strict=True)]
            return text[: run[0].start()].strip(), options
    raise DataError(place, 'the question lists no options, such as "A. this B. that"; write them there')


def _responses(files: Sequence[File], texts: _Texts) -> Source:
    """Read the API's responses; each is about the row of train with its number."""
    if not texts.rows:
        raise RecipeError("PATH: responses hold no questions; name those of train with train=FILE")
    verdicts = bool(texts.passed)
    texts.said.clear()
    texts.places.clear()
    count = 0
    for file in files:
        number = int(file.path.stem)
        if number >= len(texts.rows):
            raise DataError(
                file.path,
                f"is about row {number} of train, from 0, which has {len(texts.rows)}; give the train.json "
                "that was asked",
            )
        problem = texts.rows[number]
        for text, cut in _contents(str(file.path), read_object(file.path)):
            count += 1
            passed = (problem.id, (text or "").strip()) in texts.passed if verdicts else None
            name = texts.reading.request.teachers_name
            given = Given(problem, name, text, "", text or "", passed, file.name, truncated=cut)
            texts.add(given, str(file.path))
    folder = files[0].name.rpartition("/")[0] or files[0].path.parent.name
    holds = f"responses of the API about train, with {count} rationales"
    return Source(f"{folder}/*.json", _checksum(files), len(files), holds)


def _checksum(files: Iterable[File]) -> str:
    """One for all of them: of their names and their own checksums."""
    lines = "".join(f"{checksum_of(file)}  {file.path.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _contents(place: str, response: Row) -> list[tuple[str | None, bool]]:
    """The texts of a response, and whether each was cut off at its length."""
    choices: Any = response.get("choices")
    if not isinstance(choices, list) or not choices:
        raise DataError(place, "is not a response of the API: it has no list of choices; give such files")
    found = []
    for number, choice in enumerate(choices, start=1):
        message = choice.get("message") if isinstance(choice, dict) else None
        text = message.get("content", 0) if isinstance(message, dict) else 0
        if not isinstance(text, str | None):
            raise DataError(place, f"choice {number} has no text under message.content; give whole responses")
        found.append((text, choice.get("finish_reason") == "length"))
    return found


def _without_leaks(texts: _Texts, request: Request) -> list[LeftOut]:
    """Leave the rationales out that are about a question of the exam, if the user says so.

    Raises:
        LeakError: there are such, and nobody says so. DataError: there are no others.
    """
    splits = texts.reading.splits
    learned = list({given.problem.id: given.problem for given in texts.said}.values())
    leaks = find_leaks([form(one) for one in learned], [form(one) for one in splits["test"].values()])
    leaking = {learned[leak.learned].id for leak in leaks}
    if not leaking:
        return []
    first = next(given.problem for given in texts.said if given.problem.id in leaking)
    if request.leaks == "refuse":
        raise LeakError(
            texts.places[first.id],
            f"{EXAMINED}, {shortened(first.question)} (such questions: {len(leaking)}); leave them out with "
            "--leaks drop",
        )
    if len(leaking) == len(learned):
        raise DataError(texts.places[first.id], "no question is left to learn from; give other files")
    left = [given for given in texts.said if given.problem.id in leaking]
    texts.said[:] = [given for given in texts.said if given.problem.id not in leaking]
    for name in leaking:
        splits["train"].pop(name, None)
    return [LeftOut(split="rationales", place=given.origin, why=EXAMINED) for given in left]
