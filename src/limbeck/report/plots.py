"""Plots: SVG drawn by hand, inline for the report, or as a file of its own for a README.

The inline drawings take their colours from the page's style sheet (classes and
`s0`, `s1`, ... for the series), so that they follow light, dark and print. A file
brings the light ones along.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean

from limbeck.errors import InputError
from limbeck.files import whole_file
from limbeck.report.contestants import Contestant, by_group
from limbeck.report.tables import interval, percent, results_rows

COLOURS = ("#3465a4", "#c4661f", "#3b8a4c", "#8a5aa8", "#b08a00", "#b2436b", "#2a8f9e", "#7a6a58")
"""Of the series, on a light ground; the teacher is grey."""
TEACHER = -1
SHORT = 34
"""Letters of a name that fit next to a bar."""
APART = 4.0
"""Units of the drawing between the intervals of two curves at one place."""
LETTER = 6.8
"""Width of a tick's digit in units of the drawing, from above: the page's font is the reader's own."""
ALONE = (
    "text{font:13px system-ui,'Segoe UI','Helvetica Neue',Arial,sans-serif;fill:#1c2330}"
    "text.tick{font-size:12px;fill:#5b6575}.value{font-weight:650}.grid{stroke:#e8ebf0}.axis{stroke:#5b6575}"
    ".whisker{stroke:#1c2330;stroke-width:1.4}.bar{opacity:.88}.dot{fill:#1c2330}.teacher{fill:#9aa3b0}"
)
"""What style.html says of bars, in its light colours."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: fractions; `dots` are the accuracies of single seeds."""

    label: str
    value: float
    low: float
    high: float
    series: int
    dots: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of (step, value); `variant` is the kind of dashes, for lines of one colour (seeds).

    `spans` are the (low, high) of an interval at each point, `seeds` single values (step, value) next to it.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    series: int
    variant: int = 0
    spans: tuple[tuple[float, float], ...] = ()
    seeds: tuple[tuple[float, float], ...] = ()


def series_of(exams: Sequence[Contestant]) -> dict[str, int]:
    """Student -> its colour's number, in order of appearance; teachers share the grey."""
    numbers: dict[str, int] = {}
    for group, members in by_group(exams).items():
        taken = sum(number != TEACHER for number in numbers.values())
        numbers[group] = TEACHER if members[0].role == "teacher" else taken % len(COLOURS)
    return numbers


def bars(exams: Sequence[Contestant]) -> list[Bar]:
    """One bar per student (mean over its seeds) and per teacher."""
    rows = {row["group"]: row for row in results_rows(exams) if not row["under_mean"]}
    numbers = series_of(exams)
    return [
        Bar(
            label=group,
            value=rows[group]["accuracy"],
            low=rows[group]["low"],
            high=rows[group]["high"],
            series=numbers[group],
            dots=tuple(member.accuracy for member in members) if len(members) > 1 else (),
        )
        for group, members in by_group(exams).items()
    ]


def bar_svg(drawn: Sequence[Bar]) -> str:
    """Horizontal bars from 0 to 100% with interval whiskers, as one inline SVG."""
    left = 22 + 7.4 * min(SHORT, max(len(bar.label) for bar in drawn))
    right, row, top, width = 150, 32, 6, 780
    bottom = top + row * len(drawn)
    scale = (width - left - right) / 100
    parts = []
    for tick in range(0, 101, 20):
        x = left + tick * scale
        parts.append(_rule(x, top, x, bottom, "grid"))
        parts.append(_text(x, bottom + 18, f"{tick}%", "tick", "middle"))
    for place, bar in enumerate(drawn):
        parts.append(_bar(bar, left, top + row * (place + 0.5), scale, width))
    parts.append(_rule(left, top, left, bottom, "axis"))
    words = "; ".join(f"{bar.label} {percent(bar.value)} {interval(bar.low, bar.high)}" for bar in drawn)
    return _svg(width, bottom + 28, f"Accuracy in % with 95% intervals: {words}", parts)


def _bar(bar: Bar, left: float, middle: float, scale: float, width: float) -> str:
    """Name, bar, whiskers, dots of seeds and figures of one row, with a tooltip."""
    low, value, high = (left + 100 * share * scale for share in (bar.low, bar.value, bar.high))
    short = bar.label if len(bar.label) <= SHORT else bar.label[: SHORT - 1] + "…"
    parts = [
        _text(left - 10, middle + 4, short, "name", "end"),
        f'<rect class="bar {_series(bar.series)}" x="{left:.1f}" y="{middle - 9:.1f}" '
        f'width="{value - left:.1f}" height="18"/>',
        _rule(low, middle, high, middle, "whisker"),
        _rule(low, middle - 5, low, middle + 5, "whisker"),
        _rule(high, middle - 5, high, middle + 5, "whisker"),
        *[_dot(left + 100 * dot * scale, middle, 3) for dot in bar.dots],
        _text(width - 104, middle + 4, percent(bar.value), "value", "end"),
        _text(width - 96, middle + 4, interval(bar.low, bar.high), "tick", "start"),
    ]
    title = f"{bar.label}: {percent(bar.value)} {interval(bar.low, bar.high)}"
    return f"<g><title>{escape(title)}</title>{''.join(parts)}</g>"


def line_svg(lines: Sequence[Line], *, share: bool = False, over: str = "step") -> str:
    """Curves over training steps or rounds, as one inline SVG.

    Args:
        lines: at least one point each; a value that is not finite breaks the curve. Where they have
            intervals, they are drawn a little apart, so that none hides another.
        share: values are fractions, shown in per cent from 0 to 100. Otherwise the
            vertical axis starts at 0, or is logarithmic when the values span more
            than a factor of 30.
        over: what the horizontal axis counts.
    """
    width, height, top, bottom = 380, 220, 8, 30
    ys = [y for line in lines for _, y in line.points if math.isfinite(y)] or [0.0, 1.0]
    log = not share and min(ys) > 0 and max(ys) > 30 * min(ys)
    y_ticks = _decades(min(ys), max(ys)) if log else _ticks(min(0.0, *ys), 1.0 if share else max(ys))
    x_ticks = _ticks(0.0, max(x for line in lines for x, _ in line.points), least=1.0)
    y_words = [f"{100 * tick:g}%" if share else f"{tick:g}" for tick in y_ticks]
    x_words = [f"{tick:,.0f}" for tick in x_ticks]
    left = max(46, 8 + LETTER * max(map(len, y_words)))
    right = max(12, LETTER * len(x_words[-1]) / 2)  # half of the last label is beyond its tick
    down = math.log if log else float
    low, high = down(y_ticks[0]), down(y_ticks[-1])

    def across(step: float) -> float:
        return left + step / x_ticks[-1] * (width - left - right)

    def up(value: float) -> float:
        return height - bottom - (down(value) - low) / (high - low) * (height - top - bottom)

    parts = []
    for tick, words in zip(y_ticks, y_words, strict=True):
        parts.append(_rule(left, up(tick), width - right, up(tick), "grid"))
        parts.append(_text(left - 6, up(tick) + 4, words, "tick", "end"))
    for tick, words in zip(x_ticks, x_words, strict=True):
        parts.append(_text(across(tick), height - bottom + 17, words, "tick", "middle"))
    parts.append(_rule(left, height - bottom, width - right, height - bottom, "axis"))
    if log:
        parts.append(_text(width - right, top + 10, "log scale", "tick", "end"))
    for place, line in enumerate(lines):
        aside = APART * (place - (len(lines) - 1) / 2) if line.spans else 0.0
        spots = [(across(x) + aside, up(y)) if math.isfinite(y) else None for x, y in line.points]
        spans = [
            (across(x) + aside, up(low), up(high))
            for (x, _), (low, high) in zip(line.points, line.spans, strict=bool(line.spans))
        ]
        seeds = [(across(x) + aside, up(y)) for x, y in line.seeds]
        parts.append(_curve(line, _ends(line, over), spots, spans, seeds))
    return _svg(width, height, "; ".join(_ends(line, over) for line in lines), parts)


def thinned(points: Sequence[tuple[float, float]], most: int = 240) -> tuple[tuple[float, float], ...]:
    """At most `most` points, each the mean of equally many neighbours."""
    every = max(1, math.ceil(len(points) / most))
    chunks = [points[start : start + every] for start in range(0, len(points), every)]
    return tuple((fmean(x for x, _ in chunk), fmean(y for _, y in chunk)) for chunk in chunks)


def _curve(
    line: Line,
    title: str,
    spots: Sequence[tuple[float, float] | None],
    spans: Sequence[tuple[float, float, float]],
    seeds: Sequence[tuple[float, float]],
) -> str:
    """A path that lifts the pen where a value is not finite, and a dot where it is alone.

    Intervals (x, low, high) are upright lines, single seeds circles.
    """
    path, dots, pen_down = [], [], False
    for place, spot in enumerate(spots):
        if spot is None:
            pen_down = False
            continue
        path.append(f"{'L' if pen_down else 'M'}{spot[0]:.1f} {spot[1]:.1f}")
        alone = not pen_down and (place + 1 == len(spots) or spots[place + 1] is None)
        if alone or len(spots) <= 12:
            dots.append(_dot(*spot, 2.2))
        pen_down = True
    style = f"{_series(line.series)} v{line.variant % 4}"
    upright = "".join(f"M{x:.1f} {low:.1f}L{x:.1f} {high:.1f}" for x, low, high in spans)
    around = f'<path class="span" d="{upright}"/>' if upright else ""
    around += "".join(_dot(*seed, 2.6, "seed") for seed in seeds)
    drawn = f'{around}<path d="{"".join(path)}"/>{"".join(dots)}'
    return f'<g class="curve {style}"><title>{escape(title)}</title>{drawn}</g>'


def _ends(line: Line, over: str) -> str:
    (first_x, first), (last_x, last) = line.points[0], line.points[-1]
    return f"{line.label}: {first:.3g} at {over} {first_x:,.0f}, {last:.3g} at {over} {last_x:,.0f}"


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """Four to seven round numbers from at or below `low` to at or above `high`, `least` apart or more."""
    span = high - low if high > low else 1.0
    rough = 10.0 ** math.floor(math.log10(span / 4))
    step = next(rough * factor for factor in (1, 2, 2.5, 5, 10) if span / (rough * factor) <= 5)
    step = max(step, least)
    first, last = math.floor(low / step), math.ceil((low + span) / step - 1e-9)
    return [float(f"{count * step:.10g}") for count in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1-2-5 ticks from at or below `low` to at or above `high`; powers of ten when they are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max(place for place, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
    last = min(place for place, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
    chosen = ticks[first : last + 1]
    if len(chosen) <= 8:
        return chosen
    return [chosen[0], *[tick for tick in chosen[1:-1] if math.log10(tick) % 1 in (0.0, 1.0)], chosen[-1]]


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _dot(x: float, y: float, radius: float, style: str = "dot") -> str:
    return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _series(number: int) -> str:
    return "teacher" if number == TEACHER else f"s{number}"


def bar_plot(exams: Sequence[Contestant], out: Path) -> None:
    """Write accuracies with 95% intervals as an SVG file that stands alone, such as for a README.

    The same bytes every time.

    Raises:
        InputError: `out` does not end in .svg.
        DiskError: it cannot be written.
    """
    if out.suffix.lower() != ".svg":
        raise InputError(f"{out}: a plot is written as .svg; name the file so")
    with whole_file(out) as stream:
        stream.write(standalone(bar_svg(bars(exams))))


def standalone(svg: str) -> str:
    """An inline drawing as a file: with its name space, the page's light colours and a white ground."""
    series = "".join(f".s{number}{{fill:{colour}}}" for number, colour in enumerate(COLOURS))
    opening, rest = svg.split(">", 1)
    width, height = opening.split('"')[1].split()[2:]
    space = f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    opening = opening.replace("<svg ", f"<svg {space} ", 1)
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    return f"{opening}><style>{ALONE}{series}</style>{ground}{rest}\n"
