"""The pieces of the report's page: runs, curves, audits and problems as plain values.

Nothing here is marked safe: the template escapes every text. What the browser's
script reads is in one JSON block (see `embedded`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from limbeck import sealed
from limbeck.errors import DiskError
from limbeck.lm.written import whole
from limbeck.records import LeftOut, Prediction, read_jsonl
from limbeck.report.contestants import Contestant
from limbeck.report.contestants import shown as shown_name
from limbeck.report.places import Place, find_places, other_tasks
from limbeck.report.plots import COLOURS, Line, line_svg, series_of, thinned
from limbeck.report.run_files import RunFacts, history, read_json, read_recipe, recipe_part, run_facts

OF_SOFT_LABELS = ("k", "rows", "tokens", "bytes", "bytes_per_token")
OF_DIVERGENCE = (
    "A divergence from soft labels of codec top-k is a lower bound of the full one: compare it at the same "
    "k only. Stored in half precision it is up to about 0.002 nats too high where the mentor leaves next to "
    "nothing to the tokens that are not kept (+21 % was seen, and more where both nearly agree); its "
    "gradient is hardly moved."
)
WIDE = 4
"""Columns that fit into a card."""

NOT_LOSSES = {"step", "epoch", "learning_rate", "grad_norm", "seconds", "tokens_per_s"}


@dataclass(frozen=True, slots=True)
class RunView:
    """One run for the page's head and foot, and where its graded rationales are (see `dropped_data`)."""

    facts: RunFacts
    folder: str
    recipe_yaml: str
    audit: list[Block]
    graded: dict[str, tuple[Path, Path]]


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of an audit: a titled table of names and values, or a grid with headings.

    `shares` are bar lengths next to the rows (fractions of the longest), or empty.
    """

    title: str
    headings: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    @property
    def wide(self) -> bool:
        """Whether it needs the page's whole width."""
        return len(self.headings) > WIDE


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot of learning curves."""

    title: str
    svg: str


@dataclass(frozen=True, slots=True)
class Curves:
    """All panels with the legend they share: (name, series, variant), and notes on their numbers."""

    panels: list[Panel]
    legend: list[tuple[str, int, int]]
    notes: list[str]


def run_views(paths: Sequence[Path]) -> list[RunView]:
    """The runs that the given folders are, or lie in, each once."""
    runs = {place.run.resolve(): place.run for path in paths for place in find_places(path) if place.run}
    return [
        RunView(
            facts=run_facts(run),
            folder=real.name,
            recipe_yaml=_text(run / "recipe.yaml"),
            audit=_audits(run),
            graded=_graded(run),
        )
        for real, run in runs.items()
    ]


def _audits(run: Path) -> list[Block]:
    """What became of the data, the teacher's rationales and every mentor's, and what its soft labels take."""
    blocks = audit_blocks(_teachers(run) / "audit.json") + _left_out(run, "problems")
    for task in other_tasks(read_recipe(run)):
        blocks += _left_out(run, f"also/{task}", f" of {task}")
    for name in _mentors(run):
        mentor = run / "mentors" / name
        blocks += audit_blocks(mentor / "rationales" / "audit.json", f"mentor {name}")
        for cache in sorted(mentor.glob("soft-labels/*/*/manifest.json")):
            said = read_json(cache)
            rows = [(key.replace("_", " "), shown(said[key])) for key in OF_SOFT_LABELS if key in said]
            title = f"soft labels of mentor {name}: {said['codec']}, temperature {said['temperature']:g}"
            blocks.append(Block(title, (), list(rows)))
    return blocks


def _left_out(run: Path, stage: str, whose: str = "") -> list[Block]:
    """How many rows of a task's files are not used, split by split; none where every row is."""
    path = run / stage / "left-out.jsonl"
    if not path.is_file():
        return []
    sealed.check(path)
    splits = Counter(one.split for one in read_jsonl(path, LeftOut))
    rows: list[tuple[str, ...]] = [(split, shown(count)) for split, count in splits.items()]
    listed = ("listed in", f"{stage}/left-out.jsonl")
    return [Block(f"rows of the data{whose} left out", (), [*rows, listed])]


def _graded(run: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of graded rationales by who wrote them, each with the folder of the problems."""
    places = {"teacher": _teachers(run)}
    places |= {f"mentor {name}": run / "mentors" / name / "rationales" for name in _mentors(run)}
    return {name: (folder, run / "problems") for name, folder in places.items()}


def _teachers(run: Path) -> Path:
    """The folder of the teacher's rationales, after the verifier judged them where the recipe has one."""
    judged = run / "verified"
    there = read_recipe(run).get("verifier") and (judged / "graded.jsonl").is_file()
    return judged if there else run / "rationales"


def _mentors(run: Path) -> list[str]:
    """The mentors of the run's recipe; without a recipe, all there are."""
    recipe = read_recipe(run)
    return list(recipe_part(recipe, "mentors")) if recipe else sorted(p.name for p in run.glob("mentors/*"))


def learning_curves(paths: Sequence[Path], exams: Sequence[Contestant]) -> Curves:
    """A panel per loss part and dev figure, a line per student and seed that has a history."""
    logs = _logs(paths, exams)
    keys: list[str] = []
    for _, rows in logs:
        keys += [key for row in rows for key in row if key not in NOT_LOSSES and _is_number(row[key])]
    names = sorted(dict.fromkeys(keys), key=lambda key: (key.startswith("dev_"), key != "loss"))
    panels: list[Panel] = []
    alone = [key for key in names if key != "loss" and _equals_loss(key, logs)]
    for key in names:
        if key in alone:
            continue
        curves = [replace(line, points=_points(rows, key)) for line, rows in logs]
        lines = [line for line in curves if line.points]
        title = f"loss ({alone[0]})" if key == "loss" and alone else key
        title = title.replace("_", " ")
        panels.append(Panel(title, line_svg(lines, share=key.endswith("accuracy"))))
    notes = ["Over training steps. Long histories are averaged over neighbouring steps."]
    notes += [OF_DIVERGENCE] if "divergence" in keys else []
    return Curves(panels, [(line.label, line.series, line.variant) for line, _ in logs], notes)


def _logs(paths: Sequence[Path], exams: Sequence[Contestant]) -> list[tuple[Line, list[dict[str, Any]]]]:
    """Every student's name, colour and dashes with its history; students without one are left out."""
    numbers = series_of(exams)
    places = [place for path in paths for place in find_places(path) if not (place.stale or place.other)]
    examined = {contestant.exam: contestant for contestant in exams}
    groups = {place.side: examined[place.exam].group for place in places if place.exam in examined}
    variants: dict[str, int] = {}
    logs: list[tuple[Line, list[dict[str, Any]]]] = []
    learners: dict[Path, Place] = {}
    for place in places:
        learners.setdefault(place.exam.resolve().parent, place)
    for learner, place in learners.items():
        rows = history(learner)
        if not rows:
            continue
        known = examined.get(place.exam)
        group = known.group if known else groups.get(place.side, shown_name(place.facts))
        number = numbers.setdefault(group, len(numbers) % len(COLOURS))
        variant = variants[group] = variants.get(group, -1) + 1
        seed = "" if place.facts.seed is None else f" seed {place.facts.seed}"
        label = known.name if known else f"{group}{seed} (not examined)"
        logs.append((Line(label, (), number, variant), rows))
    return logs


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    return thinned([(float(row["step"]), float(row[key])) for row in rows if _is_number(row.get(key))])


def _equals_loss(key: str, logs: Sequence[tuple[Line, list[dict[str, Any]]]]) -> bool:
    """A single part with weight 1 is the loss; it needs no panel of its own."""
    both = [(row["loss"], row[key]) for _, rows in logs for row in rows if key in row and "loss" in row]
    return bool(both) and all(math.isclose(loss, part, rel_tol=1e-6) for loss, part in both)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def audit_blocks(path: Path, title: str = "") -> list[Block]:
    """An audit.json as blocks; none when there is no such file (no rationales were asked for)."""
    if not path.is_file():
        return []
    audit = read_json(path)
    return _blocks(title, audit) if isinstance(audit, dict) else [Block(title, (), [("audit", shown(audit))])]


def _blocks(title: str, value: Mapping[str, Any]) -> list[Block]:
    """Plain values first, as one table; then what is nested, titled by its path."""
    nested = {key: inner for key, inner in value.items() if _is_nested(inner)}
    plain = {key: inner for key, inner in value.items() if key not in nested}
    blocks = []
    if plain:
        rows: list[tuple[str, ...]] = [(str(key), shown(inner)) for key, inner in plain.items()]
        blocks.append(Block(title, (), rows, _shares(plain.values()) if title else []))
    for key, inner in nested.items():
        blocks += _nested_blocks(f"{title}: {key}" if title else str(key), inner)
    return blocks


def _nested_blocks(title: str, value: Any) -> list[Block]:
    lines = value if isinstance(value, dict) else {str(number): row for number, row in enumerate(value, 1)}
    if not all(_is_flat(line) for line in lines.values()):
        return _blocks(title, lines)
    headings = tuple(dict.fromkeys(str(key) for line in lines.values() for key in line))
    rows: list[tuple[str, ...]] = [
        (str(name), *[shown(line[key]) if key in line else "" for key in headings])
        for name, line in lines.items()
    ]
    return [Block(title, ("", *headings), rows)]


def _is_flat(value: object) -> bool:
    """A mapping that can be one line of a grid."""
    return isinstance(value, dict) and bool(value) and not any(map(_is_nested, value.values()))


def _is_nested(value: object) -> bool:
    return (isinstance(value, dict) and bool(value)) or (
        isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
    )


def _shares(values: Iterable[Any]) -> list[float]:
    """Bar lengths (fractions of the longest) when all values are counts; else none."""
    counts = list(values)
    if len(counts) < 2 or not any(counts) or not all(type(count) is int and count >= 0 for count in counts):
        return []
    return [count / max(counts) for count in counts]


def shown(value: Any) -> str:
    """A value of an audit as people read it."""
    if value is None or value == {} or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return ", ".join(shown(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def problem_data(exams: Sequence[Contestant]) -> dict[str, Any]:
    """What the browsable table reads: names, and per problem what each contestant answered.

    A problem is [id, question, gold, answers]; an answer is 0 where the problem was
    not examined, else [completion, answer or null, right, tokens, cut off, votes].
    """
    answered = [{prediction.problem_id: prediction for prediction in exam.predictions} for exam in exams]
    first: dict[str, Prediction] = {}
    for predictions in answered:
        first = {**predictions, **first}
    order = dict.fromkeys(prediction.problem_id for exam in exams for prediction in exam.predictions)
    return {
        "names": [exam.name for exam in exams],
        "problems": [
            [key, first[key].question, first[key].gold, [_answer(found.get(key)) for found in answered]]
            for key in order
        ],
    }


def _answer(prediction: Prediction | None) -> list[Any] | int:
    if prediction is None:
        return 0
    return [
        whole(prediction.thinking, prediction.completion),
        prediction.answer,
        int(prediction.correct),
        prediction.tokens,
        int(prediction.truncated),
        list(prediction.votes),
    ]


def embedded(value: object) -> str:
    """JSON that can be put inside a <script> element whatever texts it holds.

    Inside <script> a parser looks for `</script` and `<!--` only; without any
    `<`, `>` or `&` there is none. U+2028 and U+2029 end lines in older scripts.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise DiskError(path, error) from error
