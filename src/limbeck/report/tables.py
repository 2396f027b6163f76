"""Results and comparisons as rows of plain values, and as tables for the terminal.

Rows hold fractions and are ready for JSON; people read per cent with one decimal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from limbeck.exam_facts import DIRECT, of_exam
from limbeck.lm.cost import dollars
from limbeck.report.compare import Comparison, common_problems, right_rows
from limbeck.report.contestants import Contestant, by_group
from limbeck.statistics import ENOUGH, accuracy_interval, mean_and_std, wilson

Row = dict[str, Any]

MAKING = (
    "parameters",
    "trained_parameters",
    "training_examples",
    "steps",
    "tokens",
    "train_seconds",
    "cost_usd",
)
"""The facts that are numbers: what it took to make who was examined."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """Prints as the wide table where there is room for all of it, else as the narrow one."""

    wide: Table
    narrow: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = Measurement.get(console, options.update_width(10_000), self.wide).maximum
        yield self.wide if needed <= options.max_width else self.narrow


def results_rows(exams: Sequence[Contestant]) -> list[Row]:
    """One row per exam; a student with several seeds gets a row of means before its seeds.

    `low` and `high` are 95% limits: of one exam for new problems (Wilson), of a row of means see
    `statistics.accuracy_interval`. `seed_std` is the standard deviation between seeds. The facts
    of `ExamFacts` are under their own names; in a row of means None where a seed's is not known.
    """
    rows: list[Row] = []
    for group, members in by_group(exams).items():
        if len(members) > 1:
            rows.append(_mean_row(group, members))
        rows += [_exam_row(contestant) for contestant in members]
    return rows


def comparison_rows(comparisons: Sequence[Comparison]) -> list[Row]:
    """The comparisons as plain dicts, with the per-seed ones under `by_seed`."""
    return [asdict(comparison) for comparison in comparisons]


def results_table(exams: Sequence[Contestant]) -> Fitting:
    """Name, accuracy with 95% interval, failures, length, speed; fits 80 columns.

    Where the terminal is wide enough also what it took to make them, as far as it is known.
    """
    rows = results_rows(exams)
    return Fitting(
        _results(rows, [*result_headings(rows), *making_headings(rows)]),
        _results(rows, result_headings(rows)),
    )


def _results(rows: Sequence[Row], headings: Sequence[str]) -> Table:
    table = titled(exam_title(rows), results_notes(rows))
    add_columns(table, ["name"], headings)
    for row in rows:
        style = "bold" if row["seeds"] > 1 else ""
        table.add_row(*map(Text, [row_label(row), *result_cells(row, headings)]), style=style)
    return table


def exam_title(rows: Sequence[Row]) -> str:
    """What a table of results is headed by; of another exam than the task's own with its name."""
    equal = len({row["problems"] for row in rows}) == 1
    title = f"Exam of {rows[0]['problems']:,} problems" if equal else "Exams"
    others = {DIRECT if row["direct"] else row["task"] if row["also"] else "" for row in rows}
    return title if len(others) > 1 or others == {""} else f"{title} {of_exam(others.pop())}"


def comparison_table(comparisons: Sequence[Comparison], task: str = "") -> Fitting:
    """Paired differences with intervals, tests, verdicts and counts; fits 80 columns, there without counts.

    p is Holm's where several comparisons were made (single seeds: plain).

    Args:
        task: the other task whose exam it is of, or `DIRECT`; "": the runs' own.
    """
    counted = any(one.verdicts for each in comparisons for one in (each, *each.by_seed))
    narrow = _comparisons(comparisons, task, counts=False)
    return Fitting(_comparisons(comparisons, task, counts=True) if counted else narrow, narrow)


def _comparisons(comparisons: Sequence[Comparison], task: str, *, counts: bool) -> Table:
    title = f"Paired comparison on {task}" if task else "Paired comparison"
    title = "What reasoning adds" if task == DIRECT else title
    table = titled(title, comparison_notes(comparisons))
    p_heading = "p (Holm)" if len(comparisons) > 1 else "p"
    headings = ["B − A [95%]", p_heading, "B better?", *(["both/A/B/none"] if counts else [])]
    add_columns(table, ["A", "B"], headings)
    for comparison in comparisons:
        for one in (comparison, *comparison.by_seed):
            p = p_value(one.p if one.p_holm is None else one.p_holm)
            solved = "/".join(map(str, asdict(one.verdicts).values())) if one.verdicts else ""
            cells = [
                *comparison_labels(one),
                _difference(one),
                p,
                _verdict(one),
                *([solved] if counts else []),
            ]
            table.add_row(*map(Text, cells), style="bold" if one.by_seed else "")
    return table


def titled(title: str, notes: Sequence[str]) -> Table:
    """An empty table with its title above and notes below."""
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        caption=Text("\n".join(notes)),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def add_columns(table: Table, names: Sequence[str], figures: Sequence[str]) -> None:
    """On a narrow terminal long names fold first, then figures; nothing is cut."""
    for heading in names:
        table.add_column(heading, overflow="fold", min_width=8)
    for heading in figures:
        table.add_column(Text(heading), justify="right", overflow="fold")


def result_headings(rows: Sequence[Row]) -> list[str]:
    """Column headings after the name; problems and votes only where they are needed."""
    headings = ["accuracy % [95%]", "no answer", "cut off", "tokens", "tokens/s"]
    if any(row["votes"] > 1 for row in rows):
        headings.insert(0, "votes")
    if len({row["problems"] for row in rows}) > 1:
        headings.insert(0, "problems")
    return headings


def making_headings(rows: Sequence[Row]) -> list[str]:
    """Further headings, each only where it says something about at least one exam."""
    known = {key: any(row[key] is not None for row in rows) for key in MAKING}
    pairs = [(row["trained_parameters"], row["parameters"]) for row in rows]
    wanted = {
        "parameters": known["parameters"],
        "trained": any(None not in pair and pair[0] != pair[1] for pair in pairs),
        "examples": known["training_examples"],
        "steps": known["steps"],
        "train time": known["train_seconds"],
        "cost": any(row["cost_usd"] for row in rows),
    }
    return [heading for heading, here in wanted.items() if here]


def result_cells(row: Row, headings: Sequence[str]) -> list[str]:
    """The cells under headings of `result_headings` and `making_headings`."""
    spread = f" ± {percent(row['seed_std'])}" if row["seed_std"] is not None else ""
    cells = {
        "problems": f"{row['problems']:,}",
        "votes": str(row["votes"]),
        "accuracy % [95%]": f"{percent(row['accuracy'])}{spread} {interval(row['low'], row['high'])}",
        "no answer": f"{percent(row['extraction_failed'] / row['problems'])}%",
        "cut off": f"{percent(row['truncated'] / row['problems'])}%",
        "tokens": f"{row['mean_tokens']:.1f}",
        "tokens/s": f"{row['tokens_per_s']:,.0f}" if row["tokens_per_s"] else "–",
        "parameters": _known(row["parameters"], short),
        "trained": _known(row["trained_parameters"], short),
        "examples": _known(row["training_examples"], lambda count: f"{count:,.0f}"),
        "steps": _known(row["steps"], lambda count: f"{count:,.0f}"),
        "train time": _known(row["train_seconds"], duration),
        "cost": _known(row["cost_usd"], dollars),
    }
    return [cells[heading] for heading in headings]


def _known(value: float | None, text: Callable[[float], str]) -> str:
    return "–" if value is None else text(value)


def comparison_headings(comparisons: Sequence[Comparison]) -> list[str]:
    """Column headings after A and B; problems only where the comparisons differ in them."""
    problems = ["problems"] if len({one.problems for one in comparisons}) > 1 else []
    corrected = ["p (Holm)"] if len(comparisons) > 1 else []
    freedom = ["df"] if any(one.df is not None for one in comparisons) else []
    figures = ["A %", "B %", "B − A [95%]", *freedom, "p", *corrected, "B better?"]
    return [*problems, *figures, "both", "only A", "only B", "none"]


def comparison_labels(one: Comparison) -> tuple[str, str]:
    """The names under A and B; a single seed's line is indented under its means."""
    return (one.a, one.b) if one.seed is None else ("", f"  seed {one.seed}")


def comparison_cells(one: Comparison, comparisons: Sequence[Comparison]) -> list[str]:
    """The cells under `comparison_headings(comparisons)`."""
    counts = ("", "", "", "")
    if one.verdicts is not None:
        both, only_a, only_b, neither = (f"{count:,}" for count in asdict(one.verdicts).values())
        counts = (both, only_a, only_b, neither)
    cells = {
        "problems": f"{one.problems:,}",
        "A %": percent(one.accuracy_a),
        "B %": percent(one.accuracy_b),
        "B − A [95%]": _difference(one),
        "p": p_value(one.p),
        "df": "" if one.df is None else f"{one.df:.1f}",
        "p (Holm)": "" if one.p_holm is None else p_value(one.p_holm),
        "B better?": _verdict(one),
        **dict(zip(("both", "only A", "only B", "none"), counts, strict=True)),
    }
    return [cells[heading] for heading in comparison_headings(comparisons)]


def _difference(one: Comparison) -> str:
    return f"{signed_percent(one.difference)} [{signed_percent(one.low)}, {signed_percent(one.high)}]"


def _verdict(one: Comparison) -> str:
    """The verdict's words; none for a single seed's line, which is a part of the one above it."""
    return "" if one.seed is not None else one.verdict


def comparison_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """How the figures were made, on how many problems, and the spread between seeds."""
    notes = ["B − A above 0: B is better. Counts: problems solved by both, only A, only B, none."]
    if len({one.problems for one in comparisons}) == 1:
        notes[0] = f"On {comparisons[0].problems:,} problems. {notes[0]}"
    tests = {one.test for one in comparisons}
    if "t" in tests:
        notes.append(
            "Three seeds or more on both sides: interval and p count seeds and problems, "
            "t with Satterthwaite's degrees of freedom. Mentor and training problems are taken as they are."
        )
    if tests != {"t"}:
        notes.append(
            f"Fewer than three seeds on a side: interval (Bonett-Price) and p (exact, {_exact(tests)}) "
            "speak of these seeds only, so the verdict is undecided."
        )
    p = "p (Holm)" if len(comparisons) > 1 else "p"
    notes.append(
        f"Verdict: holds or does not hold where seeds are counted and {p} is below 0.05, else undecided."
    )
    if len(comparisons) > 1:
        notes.append(f"p (Holm): corrected for {len(comparisons)} comparisons; p of single seeds is not.")
    sides = [
        side
        for one in comparisons
        for side in ((one.a, one.seeds_a, one.std_a), (one.b, one.seeds_b, one.std_b))
    ]
    notes.append(between_seeds(sides))
    notes += [
        f"{one.a} and {one.b}: compared on the {one.problems:,} problems they have in common "
        f"(of {one.problems_a:,} and {one.problems_b:,})."
        for one in comparisons
        if (one.problems, one.problems) != (one.problems_a, one.problems_b)
    ]
    return notes


def _exact(tests: Collection[str]) -> str:
    return " or ".join(test for test in ("McNemar", "sign flips") if test in tests)


def between_seeds(sides: Iterable[tuple[str, int, float | None]]) -> str:
    """The note of (name, seeds, standard deviation between them); a name may come again."""
    spread = {name: (seeds, std) for name, seeds, std in sides if std is not None}
    if not spread:
        return "between seeds: ± not known, nobody has several seeds."
    each = [f"{name} ± {percent(std)} ({seeds} seeds)" for name, (seeds, std) in spread.items()]
    return f"between seeds, in points: {', '.join(each)}."


def row_label(row: Row) -> str:
    """The name, with what a row of means is a mean of; seeds are indented under it."""
    if row["seeds"] > 1:
        return f"{row['name']}, mean"
    return f"  seed {row['seed']}" if row["under_mean"] else str(row["name"])


def percent(fraction: float) -> str:
    """0.7812 -> "78.1"."""
    return f"{100 * fraction:.1f}"


def short(count: float) -> str:
    """A number of parameters: 9,640; 0.6M; 124M; 7.6B."""
    if count < 100_000:
        return f"{count:,.0f}"
    unit, letter = (1e6, "M") if count < 999.5e6 else (1e9, "B")
    scaled = count / unit
    return f"{scaled:,.0f}{letter}" if scaled >= 99.95 else f"{scaled:.1f}{letter}"


def duration(seconds: float) -> str:
    """43 s, 12 min 05 s, 3 h 20 min: two units at most."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02} min"


def signed_percent(fraction: float) -> str:
    """0.125 -> "+12.5", with a true minus sign; "0.0" has none."""
    text = f"{100 * fraction:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def interval(low: float, high: float) -> str:
    """(0.743, 0.815) -> "[74.3, 81.5]"."""
    return f"[{percent(low)}, {percent(high)}]"


def p_value(p: float) -> str:
    """Three decimals; "<0.001" below that."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _exam_row(contestant: Contestant) -> Row:
    metrics, facts = contestant.metrics, contestant.facts
    low, high = wilson(contestant.correct, contestant.problems)
    return {
        "name": contestant.name,
        "group": contestant.group,
        **facts.model_dump(mode="json", exclude={"name"}),
        "seeds": 1,
        "under_mean": contestant.name != contestant.group,
        "problems": contestant.problems,
        "correct": contestant.correct,
        "accuracy": contestant.accuracy,
        "seed_std": None,
        "low": low,
        "high": high,
        "extraction_failed": metrics.extraction_failed,
        "truncated": metrics.truncated,
        "mean_tokens": metrics.mean_tokens,
        "tokens_per_s": metrics.tokens_per_s,
        "votes": metrics.votes,
    }


def _mean_row(group: str, members: Sequence[Contestant]) -> Row:
    problems = common_problems(members)
    right = right_rows(members, problems)
    low, high = accuracy_interval(right)
    rows = [_exam_row(contestant) for contestant in members]
    means = ("extraction_failed", "truncated", "mean_tokens", "tokens_per_s", "correct")
    return {
        **rows[0],
        **{key: _mean(row[key] for row in rows) for key in means},
        **{key: _mean_of_known([row[key] for row in rows]) for key in MAKING},
        "name": group,
        "by_round": None,
        "new_rationales": None,
        "seed": None,
        "seeds": len(members),
        "under_mean": False,
        "problems": len(problems),
        "accuracy": float(right.mean()),
        "seed_std": mean_and_std(right.mean(axis=1).tolist())[1],
        "low": low,
        "high": high,
    }


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean, an equal value as it is; None where one is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return known[0] if len(set(known)) == 1 else _mean(known)


def _mean(values: Iterable[float]) -> float:
    return mean_and_std(list(values))[0]


def results_notes(rows: Sequence[Row]) -> list[str]:
    """What the intervals of the rows count, and the spread between seeds."""
    notes = []
    sizes = {row["seeds"] for row in rows if row["seeds"] > 1}
    if any(size > ENOUGH for size in sizes):
        notes.append("mean: over seeds; its interval counts seeds and problems.")
    if any(size <= ENOUGH for size in sizes):
        notes.append("mean of two seeds: its interval counts problems and speaks of these seeds only.")
    if any(row["by_round"] for row in rows):
        notes.append(
            "steps and train time of a student that was taught in rounds: of all its rounds; those of one "
            "round are its own."
        )
    shared = {row["group"]: row["copied_from"].split("/")[1] for row in rows if row["copied_from"]}
    for name, other in shared.items():
        notes.append(f"{name}: was trained once with {other}; its steps and train time are of that training.")
    learned: dict[str, list[tuple[Sequence[int] | None, int | None]]] = {}
    for row in rows:
        if row["round"] is None:  # it knows those of all its rounds
            learned.setdefault(row["group"], []).append((row["new_rationales"], row["wanted_rationales"]))
    notes += [note for name, known in learned.items() for note in fewer_rationales(name, known)]
    means = [(row["name"], row["seeds"], row["seed_std"]) for row in rows]
    return [*notes, between_seeds(means)]


def fewer_rationales(name: str, known: Iterable[tuple[Sequence[int] | None, int | None]]) -> list[str]:
    """The note that feedback gave a student fewer new rationales than `adds` wanted; none where it did not.

    Args:
        known: of each of its exams, the new ones of each round, and how many were wanted.
    """
    rounds = [(count, wanted or 0) for new, wanted in known for count in new or ()]
    got, wanted = (sum(each[side] for each in rounds) for side in (0, 1))
    if got >= wanted:
        return []
    return [f"{name}: its rounds had {got:,} of {wanted:,} new rationales (adds), so it learned from fewer."]
