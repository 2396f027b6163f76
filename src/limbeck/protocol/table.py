"""A protocol's end as people read it: who reached what, and which claims hold."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from limbeck.protocol.judging import Judged, Standing
from limbeck.protocol.settings import ClaimsSettings
from limbeck.report.tables import add_columns, p_value, percent, short, signed_percent, titled
from limbeck.statistics import ALPHA


def text(claims: ClaimsSettings, standings: Sequence[Standing], found: Sequence[Judged]) -> str:
    """Both tables as plain text of at most 110 columns."""
    console = Console(file=io.StringIO(), width=110, markup=False, emoji=False, highlight=False)
    console.print(tables(claims, standings, found))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def tables(claims: ClaimsSettings, standings: Sequence[Standing], found: Sequence[Judged]) -> Group:
    """Both tables, with what their figures count."""
    return Group(_standings(claims, standings), (_explored if claims.exploratory else _verdicts)(found))


def _standings(claims: ClaimsSettings, standings: Sequence[Standing]) -> Table:
    levels = f"{claims.problem_draws} problem draws × {claims.mentors} mentors × {claims.students} students"
    notes = [
        f"{levels}. ±: standard deviation between draws, a draw's mentors, a mentor's students.",
        "tokens: read in its own training, prompts too.",
        "TFLOP: 10¹² operations of that, of its mentor's training, and of what it wrote and labelled.",
        *(note for one in standings for note in one.notes),
    ]
    table = titled("Contestants", notes)
    add_columns(
        table, ["name"], ["mean %", "draws ±", "mentors ±", "students ±", "exams", "steps", "tokens", "TFLOP"]
    )
    for one in standings:
        spreads = (one.between_draws, one.between_mentors, one.between_students)
        cells = [one.name, percent(one.accuracy), *("–" if s is None else percent(s) for s in spreads)]
        cells += [str(one.exams), *("–" if n is None else short(n) for n in (one.steps, one.tokens))]
        cells.append("–" if one.operations is None else _three_digits(one.operations / 1e12))
        table.add_row(*map(Text, cells))
    return table


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _verdicts(found: Sequence[Judged]) -> Table:
    several = len(found) > 1
    p_name = "p (Holm)" if several else "p"
    notes = [
        "B − A in points; interval and p by t over the level that the claim speaks of. "
        f"{p_name} below {ALPHA:g}: holds, or does not hold; else undecided.",
        *(f"{words} speak{'s' * (not several)} of {scope}." for words, scope in _scopes(found)),
    ]
    table = titled("Claims", notes)
    add_columns(table, ["claim"], ["B − A [95%]", "df", p_name, "verdict"])
    for one in found:
        p = one.p if one.p_holm is None else one.p_holm
        table.add_row(*map(Text, [*_measured(one), p_value(p), one.verdict]))
    return table


def _explored(found: Sequence[Judged]) -> Table:
    notes = [
        "Exploratory: nothing is claimed and no p is corrected, so of 20 differences by chance alone one has "
        "a p below 0.05. B − A in points; interval and p by t over the problem draws, mentors or students.",
        *(
            f"{one.claim}: p asks whether B − A differs from {signed_percent(one.margin)} points."
            for one in found
            if one.margin
        ),
    ]
    table = titled("Comparisons", notes)
    add_columns(table, ["compared"], ["B − A [95%]", "df", "p"])
    for one in found:
        table.add_row(*map(Text, [*_measured(one), p_value(one.p)]))
    return table


def _measured(one: Judged) -> list[str]:
    """What is compared, the difference with its interval, and the degrees of freedom."""
    ends = f"[{signed_percent(one.low)}, {signed_percent(one.high)}]"
    return [one.claim, f"{signed_percent(one.difference)} {ends}", f"{one.df:.1f}"]


def _scopes(found: Sequence[Judged]) -> list[tuple[str, str]]:
    """Which verdicts speak of what; "the verdicts" when all speak of the same."""
    scopes = dict.fromkeys(one.speaks_of for one in found)
    if len(scopes) == 1:
        return [("The verdicts" if len(found) > 1 else "The verdict", found[0].speaks_of)]
    return [(", ".join(one.claim for one in found if one.speaks_of == scope), scope) for scope in scopes]
