"""Data records and recipes changed at random: each is read, or refused in one sentence, within five seconds.

    python -m tests.campaigns.mutations --records 100000 --recipes 5000

Every trial follows from the seed and its number alone: `--only records:1234` runs one of them again.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from limbeck.audit import audit, grade_file
from limbeck.errors import BadRowsError, DiskError, InputError, LimbeckError
from limbeck.lm import Completion
from limbeck.methods import resolve_methods
from limbeck.opening import Request, open_context, prepare
from limbeck.rationales import grade, mark_dropped
from limbeck.recipe import load_recipe
from limbeck.stages.preflight import preflight
from limbeck.tasks.demonstrations import read_demonstrations
from limbeck.tasks.settings import Columns, FilesTask
from limbeck.tasks.sources import load_splits

SECONDS = 5.0
"""Of processor time, for one trial."""

HANGS = 120.0
"""Seconds after which a trial is ended; a busy machine may stand still for some."""

LONGEST_SENTENCE = 1_000

Trial = Callable[[random.Random, Path], None]


# Values


TEXTS = [
    "", " ", "\n", "\0", "\ufeff", "\u2028", "\x85", "\u202e", "\ud800", "é", "😀" * 20, "[/b]", "[red]x",
    "{question}", "nan", "inf", "-0", "1e400", "007", "1/0", "½", "٣", "1,2,3", "$", "%", "(A)", "(A) (B)",
    "A or B", "not not no", "####", "-->", "\\boxed{", "\\frac{1}{0}", "The answer is",
    "The answer is 1e99.", "answer: answer: 7", "2^-99", "04/21/2021", "10 million billion trillion",
    "'" * 9, '"', "#KEY", "../../x", "/dev/zero", "x" * 300, "_", ".", "..",
]  # fmt: skip

REPEATED = [
    "therefore, ", "\n", " ", "1 ", "1 + 2 = 3. ", "(", ")", "(A) ", "A. x\n", "not ", "and so, ",
    "\\boxed{", "####", "-", "1,", "123,", "1/", "1.", "the answer is ", "[", "{", '"', "\\", "é", "\u2028",
    "yes, no, ", "= ", "is ", "I hope ", "A or ",
]  # fmt: skip

NUMBERS: list[Any] = [
    0, -1, 1, 2, 3, 10**6, 10**12, 10**30, 2**63, -(2**63), 0.0, -0.0, 0.1, 1e-300, 1e300,
    float("inf"), float("-inf"), float("nan"),
]  # fmt: skip


def text(draw: random.Random) -> str:
    if draw.random() < 0.3:
        return draw.choice(REPEATED) * draw.choice([3, 40, 2_000])
    return "".join(draw.choice(TEXTS) for _ in range(draw.randint(1, 3)))


def value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(10)
    if kind < 4:
        return text(draw)
    if kind < 6:
        return draw.choice(NUMBERS)
    if kind < 8:
        return draw.choice([None, True, False])
    if depth > 2:
        return []
    inner = [value(draw, depth + 1) for _ in range(draw.randint(0, 4))]
    return inner if kind == 8 else {text(draw)[:20]: one for one in inner}


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a tree of lists and objects."""
    if path:
        yield path
    for key, inner in (
        tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    ):
        yield from places(inner, (*path, key))


def changed(tree: Any, draw: random.Random) -> Any:
    """The tree with one value replaced, removed, renamed, wrapped or copied to another place."""
    tree = json.loads(json.dumps(tree))
    path = draw.choice(list(places(tree)))
    owner = tree
    for key in path[:-1]:
        owner = owner[key]
    key, old = path[-1], owner[path[-1]]
    how = draw.randrange(7)
    if how == 0:
        del owner[key]
    elif how == 1 and isinstance(owner, dict):
        owner[text(draw)[:40]] = owner.pop(key)
    elif how == 2:
        owner[key] = draw.choice([[old], {"x": old}, [old, old], str(old), {str(key): old}])
    elif how == 3 and isinstance(owner, dict):
        owner[draw.choice(list(owner))] = old
    elif how == 4:
        for _ in range(draw.choice([5, 60, 200])):
            old = [old]
        owner[key] = old
    else:
        owner[key] = value(draw)
    return tree


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The file with a few bytes changed, cut, doubled or put in."""
    for _ in range(draw.randint(1, 3)):
        place, end = sorted((draw.randint(0, len(content)), draw.randint(0, len(content))))
        piece = draw.choice(
            [b"\xff", b"\0", b"\n", b'"', b",", b"{", b"[", b"\\ud800", b"9" * 5_000, b"[" * 3_000, b""]
        )
        how = draw.randrange(4)
        if how == 0:
            content = content[:place] + piece + content[place + 1 :]
        elif how == 1:
            content = content[:place]
        elif how == 2:
            content = content[:end] + content[place:end] + content[end:]
        else:
            content = content[:place] + piece + content[place:]
    return content


# Data


ROWS: dict[str, list[dict[str, Any]]] = {
    "number": [
        {"id": 1, "question": "What is 3 + 4?", "answer": "7", "rationale": "3 + 4 = 7. The answer is 7."},
        {"id": 2, "question": "What is 9 - 2?", "answer": 7, "rationale": ["9 - 2 = 7", None]},
    ],
    "choice": [
        {"id": 1, "question": "Which?", "answer": "A", "options": ["red", "blue"], "rationale": "So (A)."},
        {
            "id": 2,
            "question": "Who?",
            "answer": 1,
            "options": {"text": ["x", "y"], "label": ["A", "B"]},
            "rationale": "B.",
        },
    ],
    "yes-no": [
        {"id": 1, "question": "Is it?", "answer": "yes", "rationale": "It is. So the answer is yes."},
        {"id": 2, "question": "Was it?", "answer": False, "rationale": "No."},
    ],
    "text": [
        {"id": 1, "question": "Spell it.", "answer": "nk", "rationale": 'It is "nk".'},
        {"id": 2, "question": "And now?", "answer": "Ann", "rationale": "The answer is Ann."},
    ],
}

ENDINGS = ["jsonl", "jsonl", "json", "json", "csv", "tsv", "parquet"]


def written(rows: list[Any], ending: str) -> bytes:
    """Rows as a file; those that the format cannot hold are written as text."""
    if ending == "json":
        return json.dumps(rows, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if ending == "jsonl":
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
    flat = [row if isinstance(row, dict) else {"question": str(row)} for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    if ending == "parquet":
        return _parquet(flat, names)
    stream = io.StringIO()
    cells = csv.writer(stream, delimiter="\t" if ending == "tsv" else ",", escapechar="\\")
    cells.writerow(names)
    cells.writerows([row.get(name, "") for name in names] for row in flat)
    return stream.getvalue().encode("utf-8", "surrogatepass")


def _parquet(rows: list[dict[str, Any]], names: list[str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    columns = []
    for name in names:
        cells = [row.get(name) for row in rows]
        try:
            columns.append(pyarrow.array(cells))
        except (pyarrow.ArrowException, ValueError, OverflowError, TypeError):
            texts = [str(cell).encode("utf-8", "replace").decode() for cell in cells]
            columns.append(pyarrow.array(texts))
    clean = [name.encode("utf-8", "replace").decode() for name in names]
    stream = io.BytesIO()
    table = pyarrow.Table.from_arrays(columns, names=clean)
    try:
        pyarrow.parquet.write_table(table, stream)
    except pyarrow.ArrowException:  # such as an object without entries
        pyarrow.parquet.write_table(pyarrow.table({"question": ["q?"]}), stream)
    return stream.getvalue()


def record(draw: random.Random, folder: Path) -> None:
    """One changed record in a file: as data, graded; as rationales; or as demonstrations."""
    kind: Any = draw.choice(list(ROWS))
    rows: Any = ROWS[kind]
    for _ in range(draw.randint(0, 3)):
        with suppress(IndexError):  # nothing is left to change
            rows = changed(rows, draw)
    ending = draw.choice(ENDINGS)
    content = written(rows if isinstance(rows, list) else [rows], ending)
    if draw.random() < 0.35:
        content = damaged(content, draw)
    path, exam = folder / f"data.{ending}", folder / "exam.jsonl"
    path.write_bytes(content)
    columns = Columns(
        options="options" if kind == "choice" else None,
        rationale=draw.choice(["rationale", None]),
        id=draw.choice(["id", None]),
    )
    task = FilesTask(kind=kind, train=str(path), test=str(exam), dev=0, columns=columns)
    exam.write_bytes(written([{**ROWS[kind][0], "question": "Another one?", "id": 9}], "jsonl"))
    use = draw.randrange(4)
    if use == 0:
        shots = path if draw.random() < 0.7 else path.rename(folder / f"shots.{draw.choice(['txt', 'yaml'])}")
        read_demonstrations(shots, kind)
    elif use == 1:
        good = folder / "good.jsonl"
        good.write_bytes(written(ROWS[kind], "jsonl"))
        grade_file(
            path, task.model_copy(update={"train": str(good)}), 0, keep="correct", drop_false_equations=True
        )
    else:
        splits = load_splits(task, 0)
        given = [Completion(one.problem_id, one.number, one.text) for one in splits.given]
        graded = mark_dropped(grade(splits.train, kind, given, "given"), drop_false_equations=True)
        audit(graded, splits.train, kind)


# Recipes


TASK: dict[str, Any] = {"name": "coin-flip", "train": 5, "dev": 1, "test": 2, "parameters": {"people": 2}}
PRICES = {"usd_per_million_input": 1, "usd_per_million_output": 2}
TRAIN = {
    "epochs": 1,
    "learning_rate": 3e-4,
    "clip": 1.0,
    "warmup": 0.1,
    "choose": "last",
    "checkpoints": "epoch",
}
RECIPES: list[dict[str, Any]] = [
    {"name": "x", "task": TASK, "student": {"method": "answers-only", "train": TRAIN}},
    {
        "name": "x",
        "task": TASK,
        "teacher": {"kind": "offline", "wrong_answer": 0.1, "prompt": {"system": "s", "instruction": "i"}},
        "rationales": {"per_problem": 2, "temperature": 0.7, "keep": "correct"},
        "mentors": {
            "large": {"model": "tiny-causal-s", "rationales": 2, "writes": {"per_problem": 3, "top_k": 5}}
        },
        "student": {"model": "tiny-causal-xs", "seeds": [0, 1], "train": TRAIN},
        "students": {
            "a": {"method": "finetune-cot", "settings": {"rationales": 1}},
            "b": {
                "method": "mentor-kd",
                "settings": {"mentor": "large", "kl_weight": 0.3, "temperature": 2.0},
            },
        },
        "exam": {"max_tokens": 32, "votes": 3, "temperature": 0.7, "batch_size": 8},
    },
    {
        "name": "x",
        "seed": 3,
        "task": {
            "kind": "number",
            "train": "data.jsonl",
            "test": "exam.jsonl",
            "dev": 0,
            "columns": {"id": "id"},
        },
        "teacher": {
            "kind": "api",
            "base_url": "http://127.0.0.1:9",
            "model": "m",
            "prices": PRICES,
            "max_cost_usd": 1,
        },
        "student": {
            "method": "finetune-cot",
            "model": "tiny-seq2seq",
            "lora": {"r": 2, "alpha": 4},
            "format": "arrow",
        },
    },
    {
        "name": "x",
        "task": TASK,
        "teacher": {"kind": "offline", "exam": False},
        "student": {
            "method": "finetune-cot",
            "prompt": {"template": "{examples}\n\nQ: {question}\nA:\n", "examples": {"k": 2}},
        },
    },
]

LINES = [
    "? [a]\n: 1", "a: &a [*a]", "b: *nowhere", "no: 1", "010: 1", "x: !!bool x", "x: !!int ''",
    "x: !!python/name:os.system", "<<: 3", "<<: [1]", "x: 2024-13-45", "x: 1:1:1", "x: 0x" + "f" * 90,
    "x: " + "[" * 2_000, "--- \n", "...", "%YAML 9.9", "x: !!binary é", "\tx: 1", "x: |\n", "'", "- x",
    "x: {", "base: r.yaml", "base: nowhere.yaml", "base: /dev/zero",
    "a0: &a0 [1, 1]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)),
]  # fmt: skip

SETTINGS = [
    "name", "seed", "task.train", "task.dev", "task.parameters.people", "teacher", "teacher.kind",
    "rationales.per_problem", "student.train.epochs", "student.train.learning_rate", "student.seeds",
    "student.model", "student.method", "students", "student.settings", "mentors", "mentor.model",
    "exam.votes", "exam.temperature", "student.lora", "student.prompt.template",
]  # fmt: skip


def in_folder(content: bytes, folder: Path) -> Path:
    """The recipe as a file, with the data that it names next to it."""
    for number, name in enumerate(("data", "exam")):
        row = {**ROWS["number"][0], "question": f"{name}?", "id": number}
        (folder / f"{name}.jsonl").write_bytes(written([row], "jsonl"))
        content = content.replace(f"{name}.jsonl".encode(), str(folder / f"{name}.jsonl").encode())
    (folder / "r.yaml").write_bytes(content)
    return folder / "r.yaml"


def recipe(draw: random.Random, folder: Path) -> None:
    """One changed recipe: in its settings, text, bytes or on the command line; up to the preflight."""
    tree: Any = draw.choice(RECIPES)
    for _ in range(draw.randint(0, 2)):
        with suppress(IndexError):
            tree = changed(tree, draw)
    try:
        content = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, RecursionError):
        content = json.dumps(tree).encode()
    if draw.random() < 0.3:
        lines = content.decode("utf-8", "replace").split("\n")
        lines.insert(draw.randint(0, len(lines)), draw.choice(LINES))
        content = "\n".join(lines).encode("utf-8", "replace")
    if draw.random() < 0.2:
        content = damaged(content, draw)
    path = in_folder(content, folder)
    overrides = []
    if draw.random() < 0.3:
        shown = draw.choice([json.dumps(value(draw)), draw.choice(LINES).partition(": ")[2], text(draw)])
        overrides = [f"{draw.choice(SETTINGS)}={shown}"]
    found, _ = resolve_methods(load_recipe(path, overrides), str(path), folder)
    sizes = [getattr(found.task, split, 0) for split in ("train", "dev", "test")]
    small = all(isinstance(size, str) or size <= 1_000 for size in sizes)
    with open_context(path, overrides, Request(out=folder / "run")) as (context, chosen):
        if small:  # a recipe may ask for a billion problems, and then it takes its time
            prepare(context, chosen, trains=False)
        else:
            preflight(context, {}, trains=False)


# Trials


@dataclass
class Found:
    """What came of the trials."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {what}" for what, count in self.outcomes.most_common())
        return f"{counts}; the slowest took {self.slowest:.1f} s; {len(self.failures)} failures"


class _Hangs(BaseException):
    """A trial that goes on after its time; no `except Exception` holds it."""


@contextmanager
def _limited() -> Iterator[None]:
    if not hasattr(signal, "setitimer"):  # Windows: a hang is seen, and not ended
        yield
        return

    def stop(*_: object) -> None:
        raise _Hangs

    former = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def _sentences(error: LimbeckError) -> list[str]:
    """What is said, a sentence each: several rows of a file have one each."""
    rows = error.rows if isinstance(error, BadRowsError) else ()
    return [str(error).removesuffix("\n".join(("", *rows))), *rows]


def run(trial: Trial, name: str, seed: int, numbers: range, found: Found) -> Found:
    """Run trials and count what came of them: read, refused in one sentence, or a failure."""
    for number in numbers:
        draw, wrong = random.Random(f"{seed}-{name}-{number}"), ""
        with TemporaryDirectory() as folder:
            clock = time.process_time()
            try:
                with _limited():
                    trial(draw, Path(folder))
                found.outcomes["read"] += 1
            except LimbeckError as error:
                found.outcomes[f"refused ({type(error).__name__})"] += 1
                sentence = " ".join(str(error).split())
                if not isinstance(error, InputError):
                    wrong = f"exit status {error.exit_status}: {sentence[:200]}"
                elif isinstance(error, DiskError) and "Error;" in sentence:
                    wrong = f"the disk is blamed: {sentence[:200]}"
                elif (longest := max(map(len, _sentences(error)))) > LONGEST_SENTENCE:
                    wrong = f"a sentence of {longest} characters: {sentence[:200]}"
            except OSError as error:
                found.outcomes["refused by the system"] += 1
                wrong = "" if error.strerror else f"{type(error).__name__}: {error}"
            except _Hangs:
                wrong = "hangs"
            except Exception as error:
                wrong = f"unexpected {type(error).__name__}: {str(error)[:200]}"
            seconds = time.process_time() - clock
        found.slowest = max(found.slowest, seconds)
        if seconds > SECONDS and not wrong:
            wrong = f"took {seconds:.1f} s"
        if wrong:
            found.failures.append(f"{name}:{number}: {wrong}")
    return found


TRIALS: dict[str, Trial] = {"records": record, "recipes": recipe}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--recipes", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one trial again, such as records:1234, with its traceback")
    chosen = parser.parse_args()
    if chosen.only:
        name, _, number = chosen.only.partition(":")
        with TemporaryDirectory() as folder:
            TRIALS[name](random.Random(f"{chosen.seed}-{name}-{number}"), Path(folder))
        return 0
    failures = 0
    for name, size in (("records", chosen.records), ("recipes", chosen.recipes)):
        found = Found()
        for start in range(0, size, 1_000):
            run(TRIALS[name], name, chosen.seed, range(start, min(start + 1_000, size)), found)
            print(f"{name} {min(start + 1_000, size):,}: {found}", file=sys.stderr, flush=True)
        print(f"{size:,} {name}: {found}")
        for failure in found.failures[:50]:
            print(f"  {failure}")
        failures += len(found.failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
