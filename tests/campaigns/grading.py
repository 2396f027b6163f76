"""How far our grading agrees with the verdicts that come with published texts, and with other graders.

    LIMBECK_DATA=FOLDER python -m tests.campaigns.grading dump after.jsonl     every text with our verdict
    python -m tests.campaigns.grading compare before.jsonl after.jsonl         what changed, by set and class
    python -m tests.campaigns.grading filters after.jsonl                      who differs from us, per kind
    LIMBECK_DATA=FOLDER python -m tests.campaigns.grading speed                texts graded per second

`dump` under the code of another checkout (PYTHONPATH) gives the other side of `compare`. Nothing of the
texts is part of the project: the dumps stay on your disk.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limbeck.lm import Completion
from limbeck.published.found import Request
from limbeck.published.mentor_kd import TASKS, read
from limbeck.rationales import graded
from limbeck.records import Problem
from limbeck.tasks.answers import AnswerKind, canonical, same
from limbeck.tasks.options import options_in, without_label
from limbeck.tasks.readers import read_rows


@dataclass(frozen=True)
class Text:
    """A published text: its problem, and what its authors say; `verdict` None: they say nothing.

    `stated`: the answer that they read in it ("": they do not say).
    """

    set: str
    kind: AnswerKind
    question: str
    options: tuple[str, ...]
    gold: str
    text: str
    verdict: bool | None
    stated: str = ""


def texts(data: Path) -> Iterator[Text]:
    """Every published text with a gold answer, set by set."""
    yield from _mentor_kd(data / "published/2hojae+mentor-kd/data")
    yield from _mcc_kd(data)
    yield from _committee(data / "mistakes/learn-from-committee")
    yield from _medqa(data)
    yield from _solutions(data / "datasets")


def _mentor_kd(folder: Path) -> Iterator[Text]:
    for task, kind in TASKS.items():
        if not list(folder.glob(f"*/{task}_*")) and not list(folder.glob(f"*/*/{task}_*")):
            continue
        for name, given in read([str(folder)], Request(task=task, gold="first")).given.items():
            for one in given:
                options = one.problem.options
                yield Text(
                    f"mentor-kd/{task}/{name.removesuffix('.jsonl')}",
                    kind,
                    one.problem.question,
                    options,
                    one.problem.answer,
                    one.whole,
                    one.flagged,
                    one.stated,
                )


def _mcc_kd(data: Path) -> Iterator[Text]:
    for row in _rows(data / "published/homzer+MCC-KD/data/SVAMP/train.json"):
        for text in row["output"]:
            yield _text("mcc-kd/svamp", "number", row["instruction"], row["label"], text, None)
    for split in ("dev", "test"):
        for row in _rows(data / f"published/homzer+MCC-KD/data/GSM8K/{split}.json"):
            right = row["predict"] == row["label"]
            yield _text(
                f"mcc-kd/gsm8k-{split}", "number", row["instruction"], row["label"], row["output"], right
            )
    own = "published/2hojae+mentor-kd/mcckd/data/tracking_shuffled_objects/"
    for row in _rows(data / f"{own}train_with_indices_flan-t5_jaccard3.json"):
        for text in row["output"]:
            yield _text("mcc-kd/tracking", "choice", row["instruction"], row["label"], text, True)


def _committee(folder: Path) -> Iterator[Text]:
    for row in _rows(folder / "Llama-2-7b-chat-hf_svamp_rationale_round0.json"):
        yield _text(
            "committee/svamp-mistakes",
            "number",
            row["question"],
            row["gold_answer"],
            row["student_wrong_pred"],
            False,
            row["student_wrong_final_answer"],
        )
        for text in row["correct_rationale"]:
            if isinstance(text, str):
                yield _text(
                    "committee/svamp-accepted", "number", row["question"], row["gold_answer"], text, True
                )
        for teacher in ("gpt", "gemini", "mistral"):
            yield _text(
                f"committee/svamp-{teacher}",
                "number",
                row["question"],
                row["gold_answer"],
                row[f"{teacher}_rationale"][0],
                None,
            )
    for row in _rows(folder / "Llama-2-7b-chat-hf_strategyQA_false_round0.json"):
        gold = row["gold_answer"].split(".")[0].split("\t")[0]
        yield _text(
            "committee/strategyqa-mistakes",
            "yes-no",
            row["question"],
            gold,
            row["student_wrong_pred"],
            False,
            row["student_wrong_final_answer"],
        )


def _medqa(data: Path) -> Iterator[Text]:
    rows = {row["id"]: row for row in _rows(data / "rationales/medqa_test_gpt-35-turbo-16k.jsonl")}
    questions = list(_rows(data / "datasets/medqa/us_4opt_test.jsonl"))
    for number, row in enumerate(questions):
        given = rows.get(f"medqa-us-test-{number}")
        if given and given["rationale"]:
            options = tuple(row["options"][letter] for letter in sorted(row["options"]))
            yield Text(
                "medqa/gpt-3.5",
                "choice",
                row["question"],
                options,
                row["answer_idx"],
                given["rationale"],
                given["initial_correct"],
                given["prediction"] or "",
            )


def _solutions(folder: Path) -> Iterator[Text]:
    """Solutions that people wrote: not a model's, but whatever is read in them should be the gold answer."""
    for split in ("train", "test"):
        for row in _rows(folder / f"gsm8k/{split}.jsonl"):
            gold = row["answer"].rpartition("####")[2].strip()
            yield _text(f"people/gsm8k-{split}", "number", row["question"], gold, row["answer"], True, gold)
    for split in ("dev", "test"):
        for row in _rows(folder / f"aqua/{split}.json"):
            options = without_label(row["options"])
            yield Text(
                f"people/aqua-{split}",
                "choice",
                row["question"],
                options,
                row["correct"],
                row["rationale"],
                True,
                row["correct"],
            )


def _text(
    name: str,
    kind: AnswerKind,
    question: str,
    gold: object,
    text: str | None,
    verdict: bool | None,
    stated: str = "",
) -> Text:
    options = options_in(question) if kind == "choice" else ()
    return Text(name, kind, question, options, str(gold), text or "", verdict, stated)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(str(path))]


def judged(one: Text) -> dict[str, Any]:
    """The text with our verdict."""
    gold = canonical(one.kind, one.gold, one.options)
    problem = Problem(id="p", question=one.question, answer=gold, options=one.options)
    ours = graded(problem, one.kind, Completion("p", 0, one.text), "s")
    return asdict(one) | {
        "gold": gold,
        "answer": ours.answer,
        "how": ours.how,
        "correct": ours.correct,
        "reasoning": ours.reasoning,
        "cut": getattr(ours, "cut", 0),
    }


def dump(data: Path, out: Path) -> None:
    """Write every text with our verdict."""
    with out.open("w", encoding="utf-8", newline="\n") as stream:
        for one in texts(data):
            if one.text.strip():
                stream.write(json.dumps(judged(one), ensure_ascii=False) + "\n")


def read_dump(path: Path) -> list[dict[str, Any]]:
    return _rows(path)


# --- what changed ------------------------------------------------------------------------------------


def against(row: dict[str, Any]) -> str:
    """The class of a disagreement with the authors; "" where there is none."""
    if row["verdict"] is None or row["correct"] == row["verdict"]:
        return ""
    if row["answer"] is None:
        found = "a statement that cannot be read" if row["how"] else "no answer found"
        return f"flagged right, {found}"
    how = {"marker": "stated", "fallback": "guessed"}[row["how"]]
    return f"flagged wrong, the gold answer {how}" if row["correct"] else f"flagged right, another {how}"


def compare(before: Path, after: Path) -> None:
    """Print agreement with the authors before and after, by set, and the classes of disagreement."""
    sides = read_dump(before), read_dump(after)
    names = list(dict.fromkeys(row["set"] for row in sides[1]))
    print(f"{'set':<46}{'texts':>7}{'flagged':>9}{'agree before':>14}{'after':>8}{'changed':>9}")
    totals: Counter[str] = Counter()
    for name in names:
        old, new = ([row for row in side if row["set"] == name] for side in sides)
        flagged = [n for n, row in enumerate(new) if row["verdict"] is not None]
        agree = [sum(not against(side[n]) for n in flagged) for side in (old, new)]
        changed = sum(
            (a["answer"], a["how"]) != (b["answer"], b["how"]) for a, b in zip(old, new, strict=True)
        )
        print(f"{name:<46}{len(new):>7}{len(flagged):>9}{agree[0]:>14}{agree[1]:>8}{changed:>9}")
        totals.update(texts=len(new), flagged=len(flagged), before=agree[0], after=agree[1], changed=changed)
    print(
        f"{'all':<46}{totals['texts']:>7}{totals['flagged']:>9}{totals['before']:>14}"
        f"{totals['after']:>8}{totals['changed']:>9}"
    )
    for name in names:
        old, new = (Counter(against(row) for row in side if row["set"] == name) for side in sides)
        for why in sorted({*old, *new} - {""}):
            print(f"  {name}: {why}: {old[why]} before, {new[why]} after")


# --- other graders -----------------------------------------------------------------------------------


def gsm8k_strict(row: dict[str, Any]) -> str | None:
    """lm-eval's `strict-match` of GSM8K: what follows "#### "."""
    found = re.findall(r"#### (\-?[0-9\.\,]+)", row["text"])
    return _plain_number(found[0]) if found else None


def gsm8k_flexible(row: dict[str, Any]) -> str | None:
    """lm-eval's `flexible-extract` of GSM8K: the last number."""
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", row["text"])
    return _plain_number(next(filter(None, found[-1]))) if found else None


def _plain_number(text: str) -> str:
    return re.sub(r"[,$]|\.$", "", text)


def letter_stated(row: dict[str, Any]) -> str | None:
    """The usual regular expression of BIG-Bench Hard and its kin: "the answer is" and a letter."""
    found = re.search(r"(?:[Tt]he )?(?:correct |best )?answer(?: choice)? is:? \(?([A-Z])\)?", row["text"])
    return found[1] if found else None


def letter_last(row: dict[str, Any]) -> str | None:
    """lm-eval's `multi_choice_regex` in short: the last "(X)", else the first letter alone."""
    found = re.findall(r"\(([A-Z])\)", row["text"])
    if found:
        return str(found[-1])
    alone = re.findall(r"\b([A-Z])\b", row["text"])
    return str(alone[-1]) if alone else None


def yes_no_stated(row: dict[str, Any]) -> str | None:
    """The usual regular expression: "the answer is", and the first yes or no behind it."""
    found = re.search(r"answer is.*?\b(yes|no|true|false)\b", row["text"], re.IGNORECASE | re.DOTALL)
    return {"true": "yes", "false": "no"}.get(found[1].lower(), found[1].lower()) if found else None


def text_stated(row: dict[str, Any]) -> str | None:
    """lm-eval's `get-answer` of BIG-Bench Hard: what follows "the answer is " up to the full stop."""
    found = re.search(r"(?<=the answer is )(.*)(?=.)", row["text"])
    return found[1].strip(' "') if found else None


def math_verified(row: dict[str, Any]) -> str | None:
    """math-verify's own extraction; the gold answer where it verifies."""
    from math_verify import parse, verify

    found = parse(row["text"])
    if not found:
        return None
    return str(row["gold"]) if verify(parse(row["gold"]), found) else str(found[-1])


FILTERS: dict[str, dict[str, Callable[[dict[str, Any]], str | None]]] = {
    "number": {
        "GSM8K strict": gsm8k_strict,
        "GSM8K flexible": gsm8k_flexible,
        "math-verify": math_verified,
    },
    "choice": {"the answer is (X)": letter_stated, "last letter": letter_last},
    "yes-no": {"the answer is yes": yes_no_stated},
    "text": {"the answer is …": text_stated},
}


def filters(path: Path, out: Path | None) -> None:
    """Per kind and filter: how often its verdict is the authors' where ours is not, and the reverse."""
    rows = [row for row in read_dump(path) if row["verdict"] is not None]
    differing = []
    for kind, graders in FILTERS.items():
        some = [row for row in rows if row["kind"] == kind]
        for name, grader in graders.items():
            counts: Counter[str] = Counter()
            by_set: dict[str, Counter[str]] = defaultdict(Counter)
            for row in some:
                theirs = grader(row)
                right = theirs is not None and same(row["kind"], theirs, row["gold"])
                if right == row["correct"]:
                    counts["same verdict"] += 1
                    continue
                who = "ours is the authors'" if row["correct"] == row["verdict"] else "theirs is the authors'"
                counts[who] += 1
                by_set[row["set"]][who] += 1
                differing.append({"filter": name, "who": who, "theirs": theirs, **row})
            print(
                f"{kind:<8}{name:<20}{len(some):>7} texts, "
                + ", ".join(f"{k} {v}" for k, v in counts.items())
            )
            for one, found in by_set.items():
                print(f"    {one}: {dict(found)}")
    if out is not None:
        out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in differing), "utf-8")


def speed(data: Path, count: int = 100_000) -> None:
    """Grade published texts over and over until `count` are done; seconds of one core."""
    some = [one for one in texts(data) if one.text.strip()]
    asked = [
        Problem(
            id="p",
            question=one.question,
            answer=canonical(one.kind, one.gold, one.options),
            options=one.options,
        )
        for one in some
    ]
    clock = time.process_time()
    for n in range(count):
        place = n % len(some)
        graded(asked[place], some[place].kind, Completion("p", 0, some[place].text), "s")
    seconds = time.process_time() - clock
    print(f"{count} texts of {len(some)} graded in {seconds:.1f} s of processor time")


def main(arguments: list[str]) -> None:
    verb, *rest = arguments or ["help"]
    if verb in ("dump", "speed") and "LIMBECK_DATA" not in os.environ:
        raise SystemExit("LIMBECK_DATA names no folder of real data")
    data = Path(os.environ.get("LIMBECK_DATA", ""))
    if verb == "dump":
        dump(data, Path(rest[0]))
    elif verb == "compare":
        compare(Path(rest[0]), Path(rest[1]))
    elif verb == "filters":
        filters(Path(rest[0]), Path(rest[1]) if rest[1:] else None)
    elif verb == "speed":
        speed(data)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
