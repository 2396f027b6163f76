"""The published files of MCC-KD: counts of an import, their answers' places, and those of our completions.

Needs the folder that LIMBECK_DATA names.
"""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from limbeck.published.found import Request, write_import
from limbeck.published.mcc_kd import read
from limbeck.rationales import mark_dropped
from limbeck.records import Problem, Rationale, read_jsonl
from limbeck.selection import select, similarity
from limbeck.tasks.asking import Asking
from limbeck.training.collate import overlapping, tokenise
from limbeck.training.groups import Group

pytestmark = pytest.mark.skipif(
    "LIMBECK_DATA" not in os.environ, reason="LIMBECK_DATA names no folder of real data"
)
DATA = Path(os.environ.get("LIMBECK_DATA", "")) / "published"
MCC_KD = DATA / "homzer+MCC-KD"
TRACKING = "tracking_shuffled_objects"
INDEXED = DATA / f"2hojae+mentor-kd/mcckd/data/{TRACKING}/train_with_indices_flan-t5_jaccard3.json"
CLOSING = "Therefore, the answer is "


Imported = tuple[dict[str, Any], Path]


def imported(out: Path, folder: Path, task: str) -> Imported:
    return write_import(read([str(folder)], Request(task=task)), "mcc-kd", out), out


@pytest.fixture(scope="module")
def svamp(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    return imported(tmp_path_factory.mktemp("svamp") / "out", MCC_KD / "data", "SVAMP")


@pytest.fixture(scope="module")
def flan_t5() -> Any:
    """The published tokenizer. Reading its file needs no sentencepiece: it is a list of pieces and scores."""
    from transformers import T5Tokenizer

    pieces: list[tuple[str, float]] = []
    characters = b""
    for field, value in _fields((MCC_KD / "config/flan-t5/tokenizer.model").read_bytes()):
        inner = dict(_fields(value)) if field in (1, 3) else {}
        if field == 1:
            pieces.append((inner[1].decode(), struct.unpack("<f", inner[2])[0] if 2 in inner else 0.0))
        elif field == 3:
            characters = inner[2]
    pieces += [(f"<extra_id_{n}>", 0.0) for n in reversed(range(100))]
    return T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=characters)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message in the wire format of Protocol Buffers: number and value."""
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or number()
            yield key >> 3, message[place : place + size]
            place += size


def test_ten_raw_rationales_of_each_question(svamp: Imported) -> None:
    summary, out = svamp
    assert summary["questions"] == {
        "train": 700,
        "dev": 150,
        "test": 150,
        "of train that are in dev": 0,
        "of train that are in test": 0,
    }
    counts = summary["files"]["teacher.jsonl"]
    assert counts["questions by number of texts"] == {"10": 700}
    assert (counts["texts"], counts["correct"], counts["duplicates"]) == (7000, 5116, 141)
    assert counts["without an explicit answer"] == 6850
    kept = list(mark_dropped(read_jsonl(out / "teacher.jsonl", Rationale)))
    near = {choose: similarity(select(kept, 3, choose=choose)) for choose in ("diverse", "random", "similar")}
    assert near["diverse"] < near["random"] < near["similar"]


def test_solutions_and_questions_alone(tmp_path: Path) -> None:
    gsm8k, _ = imported(tmp_path / "gsm8k", MCC_KD / "data", "GSM8K")
    assert [(one["texts"], one["correct"]) for one in gsm8k["files"].values()] == [(660, 660), (659, 659)]
    csqa, _ = imported(tmp_path / "csqa", MCC_KD / "data", "csqa")
    assert csqa["questions"] == {
        "train": 0,
        "dev": 1221,
        "test": 1221,
        "of train that are in dev": 0,
        "of train that are in test": 0,
    }


def test_a_sentence_behind_every_rationale_contradicts_some(tmp_path: Path) -> None:
    summary, _ = imported(tmp_path / "out", INDEXED.parent.parent, TRACKING)
    counts = summary["files"]["teacher.jsonl"]
    assert (counts["texts"], counts["flagged correct"], counts["correct"]) == (1536, 1536, 1521)
    assert counts["disagree with the flag"] == {"flagged correct, another answer stated": 15}


def test_published_places_of_answers_begin_right_and_end_a_full_stop_too_late(flan_t5: Any) -> None:
    """Those of an encoder-decoder's labels, end exclusive: of "C." in "… the answer is C..", all 1,536."""
    begins: Counter[int] = Counter()
    ends: Counter[int] = Counter()
    with_stop = 0
    for record in json.loads(INDEXED.read_text(encoding="utf-8")):
        for text, (first, end) in zip(record["output"], record["indices"], strict=True):
            start = text.rindex(CLOSING) + len(CLOSING)
            offsets = flan_t5(text, return_offsets_mapping=True)["offset_mapping"]
            found = overlapping(offsets, start, start + len(record["label"]))
            begins[first - found[0]] += 1
            ends[end - found[1]] += 1
            with_stop += (first, end) == overlapping(offsets, start, start + len(record["label"]) + 1)
    assert begins == {0: 1536} and ends == {1: 1536} and with_stop == 1536


Asked = list[tuple[Problem, list[str]]]
"""Questions, each with the reasoning of several rationales."""


def pairs_that_differ(tokenizer: Any, asked: Asked) -> tuple[int, int, int]:
    """Pairs of rationales of a question, those whose answers' tokens differ, and texts without a place."""
    asking = Asking()
    groups = []
    for problem, texts in asked:
        examples = [asking.example(problem, text) for text in texts]
        rendered = [one.model_copy(update={"prompt": problem.question}) for one in examples]
        groups.append(Group(problem.id, tuple(rendered)))
    made = tokenise(tokenizer, groups, encoder_decoder=True, max_length=100_000)
    answers = [[row.labels[slice(*row.span)] for row in group.rows] for group in made.groups]
    pairs = [pair for group in answers for pair in combinations(group, 2)]
    return len(pairs), sum(a != b for a, b in pairs), made.without_span


def with_another(rows: list[dict[str, str]], kind: str, text: str) -> Asked:
    """One text is all that is published: with it go texts of two other questions, closed with its answer."""
    texts = [row[text].rpartition(CLOSING)[0] or row[text] for row in rows]
    return [
        (
            Problem(id=f"{kind}{n}", question=row["instruction"], answer=row["label"]),
            [texts[n], texts[n - 1], texts[n - 7]],
        )
        for n, row in enumerate(rows)
    ]


def test_our_answers_have_the_same_tokens_in_both_rationales_of_a_pair(flan_t5: Any, svamp: Imported) -> None:
    _, out = svamp
    problems = {problem.id: problem for problem in read_jsonl(out / "train.jsonl", Problem)}
    texts: dict[str, list[str]] = {}
    for one in select(mark_dropped(read_jsonl(out / "teacher.jsonl", Rationale)), 5, choose="diverse"):
        texts.setdefault(one.problem_id, []).append(one.reasoning)
    real = [(problems[name], group) for name, group in texts.items()]
    pairs, differ, lost = pairs_that_differ(flan_t5, real)
    assert pairs > 5000 and (differ, lost) == (0, 0)
    for task, text in (("GSM8K", "output"), ("CSQA", "instruction")):
        rows = json.loads((MCC_KD / f"data/{task}/test.json").read_text(encoding="utf-8"))
        pairs, differ, lost = pairs_that_differ(flan_t5, with_another(rows, task, text))
        assert pairs == 3 * len(rows) and (differ, lost) == (0, 0)
