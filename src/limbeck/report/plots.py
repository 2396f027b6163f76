"""Plots: inline SVG drawn by hand for the report, and a bar plot file for a README.

The inline drawings take their colours from the page's style sheet (classes and
`s0`, `s1`, ... for the series), so that they follow light, dark and print.
`bar_plot` alone needs matplotlib, which is imported when it is called.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Any

from limbeck.errors import DiskError, InputError
from limbeck.report.contestants import Contestant, by_group
from limbeck.report.tables import interval, percent, results_rows

COLOURS = ("#3465a4", "#c4661f", "#3b8a4c", "#8a5aa8", "#b08a00", "#b2436b", "#2a8f9e", "#7a6a58")
"""Of the series, on a light ground; the teacher is grey."""
TEACHER = -1
SHORT = 34
"""Letters of a name that fit beside a bar."""


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
    """One curve of (step, value); `variant` tells lines of one colour apart (seeds) by dashes."""

    label: str
    points: tuple[tuple[float, float], ...]
    series: int
    variant: int = 0


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


def line_svg(lines: Sequence[Line], *, share: bool = False) -> str:
    """Curves over training steps, as one inline SVG.

    Args:
        lines: at least one point each; a value that is not finite breaks the curve.
        share: values are fractions, shown in per cent from 0 to 100. Otherwise the
            vertical axis starts at 0, or is logarithmic when the values span more
            than a factor of 30.
    """
    width, height, left, right, top, bottom = 380, 220, 46, 12, 8, 30
    ys = [y for line in lines for _, y in line.points if math.isfinite(y)] or [0.0, 1.0]
    log = not share and min(ys) > 0 and max(ys) > 30 * min(ys)
    y_ticks = _decades(min(ys), max(ys)) if log else _ticks(min(0.0, *ys), 1.0 if share else max(ys))
    x_ticks = _ticks(0.0, max(x for line in lines for x, _ in line.points))
    down = math.log if log else float
    low, high = down(y_ticks[0]), down(y_ticks[-1])

    def across(step: float) -> float:
        return left + step / x_ticks[-1] * (width - left - right)

    def up(value: float) -> float:
        return height - bottom - (down(value) - low) / (high - low) * (height - top - bottom)

    parts = []
    for tick in y_ticks:
        parts.append(_rule(left, up(tick), width - right, up(tick), "grid"))
        words = f"{100 * tick:g}%" if share else f"{tick:g}"
        parts.append(_text(left - 6, up(tick) + 4, words, "tick", "end"))
    for tick in x_ticks:
        parts.append(_text(across(tick), height - bottom + 17, f"{tick:,.0f}", "tick", "middle"))
    parts.append(_rule(left, height - bottom, width - right, height - bottom, "axis"))
    if log:
        parts.append(_text(width - right, top + 10, "log scale", "tick", "end"))
    for line in lines:
        spots = [(across(x), up(y)) if math.isfinite(y) else None for x, y in line.points]
        parts.append(_curve(line, spots))
    return _svg(width, height, "; ".join(_ends(line) for line in lines), parts)


def thinned(points: Sequence[tuple[float, float]], most: int = 240) -> tuple[tuple[float, float], ...]:
    """At most `most` points, each the mean of equally many neighbours."""
    every = max(1, math.ceil(len(points) / most))
    chunks = [points[start : start + every] for start in range(0, len(points), every)]
    return tuple((fmean(x for x, _ in chunk), fmean(y for _, y in chunk)) for chunk in chunks)


def _curve(line: Line, spots: Sequence[tuple[float, float] | None]) -> str:
    """A path that lifts the pen where a value is not finite, and a dot where it is alone."""
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
    drawn = f'<path d="{"".join(path)}"/>{"".join(dots)}'
    return f'<g class="curve {style}"><title>{escape(_ends(line))}</title>{drawn}</g>'


def _ends(line: Line) -> str:
    (first_x, first), (last_x, last) = line.points[0], line.points[-1]
    return f"{line.label}: {first:.3g} at step {first_x:,.0f}, {last:.3g} at step {last_x:,.0f}"


def _ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers from at or below `low` to at or above `high`."""
    span = high - low if high > low else 1.0
    rough = 10.0 ** math.floor(math.log10(span / 4))
    step = next(rough * factor for factor in (1, 2, 2.5, 5, 10) if span / (rough * factor) <= 5)
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


def _dot(x: float, y: float, radius: float) -> str:
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _series(number: int) -> str:
    return "teacher" if number == TEACHER else f"s{number}"


def bar_plot(exams: Sequence[Contestant], out: Path) -> None:
    """Write accuracies with 95% intervals as a PNG or SVG file, the same bytes every time.

    Raises:
        InputError: `out` ends in neither .png nor .svg.
        DiskError: it cannot be written.
    """
    kind = out.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise InputError(f"{out}: a plot is written as .png or .svg; name the file so")
    import matplotlib
    from matplotlib.figure import Figure

    drawn = bars(exams)
    picture = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "limbeck", "font.size": 10}):
        figure = Figure(figsize=(7.2, 0.8 + 0.42 * len(drawn)), layout="constrained")
        _draw_bars(figure.add_subplot(), drawn)
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(picture, format=kind, dpi=160, metadata=metadata, facecolor="white")
    _write_bytes(out, picture.getvalue())


def _draw_bars(axes: Any, drawn: Sequence[Bar]) -> None:
    """The bars on matplotlib axes, first one on top."""
    for place, bar in enumerate(drawn):
        colour = "0.6" if bar.series == TEACHER else COLOURS[bar.series]
        axes.barh(place, 100 * bar.value, height=0.6, color=colour)
        reach = [[100 * (bar.value - bar.low)], [100 * (bar.high - bar.value)]]
        axes.errorbar(100 * bar.value, place, xerr=reach, color="0.15", capsize=3, linewidth=1.2)
        axes.plot([100 * dot for dot in bar.dots], [place] * len(bar.dots), "o", color="0.15", markersize=3)
        words = f"{percent(bar.value)} {interval(bar.low, bar.high)}"
        axes.annotate(words, (1.02, place), xycoords=("axes fraction", "data"), va="center")
    axes.set(xlim=(0, 100), xticks=range(0, 101, 20), ylim=(len(drawn) - 0.5, -0.5))
    axes.set_yticks(range(len(drawn)), [bar.label for bar in drawn], parse_math=False)
    axes.set_xlabel("accuracy in % with 95% interval")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)


def _write_bytes(out: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, out)
    except OSError as error:
        raise DiskError(out, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()
