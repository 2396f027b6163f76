"""Plots: what is drawn stands where the figures say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from limbeck.errors import DiskError, InputError
from limbeck.records import Prediction
from limbeck.report.contestants import contestants
from limbeck.report.plots import (
    TEACHER,
    Bar,
    Line,
    _decades,
    _ticks,
    bar_plot,
    bar_svg,
    bars,
    line_svg,
    thinned,
)

Make = Callable[..., Path]


def elements(svg: str, tag: str, style: str = "") -> list[dict[str, str]]:
    found = ElementTree.fromstring(svg).iter(tag)
    return [one.attrib for one in found if style in one.attrib.get("class", "")]


def test_bars_of_a_run(demo: Path) -> None:
    exams = contestants([demo])
    drawn = bars(exams)
    assert [(bar.label, bar.series, len(bar.dots)) for bar in drawn] == [
        ("teacher", TEACHER, 0),
        ("answers-only", 0, 0),
        ("cot-3", 1, 3),
    ]
    assert drawn[2].value == pytest.approx(sum(drawn[2].dots) / 3)
    assert all(bar.low < bar.value < bar.high for bar in drawn)


def test_lengths_are_proportional() -> None:
    svg = bar_svg([Bar("x", 0.25, 0.2, 0.3, 0), Bar("y", 0.5, 0.4, 0.6, 1, (0.45, 0.55))])
    quarter, half = (float(one["width"]) for one in elements(svg, "rect"))
    assert half == pytest.approx(2 * quarter, abs=0.2)
    whisker = elements(svg, "line", "whisker")[3]
    assert float(whisker["x2"]) - float(whisker["x1"]) == pytest.approx(0.2 * 4 * quarter, abs=0.2)
    assert len(elements(svg, "circle")) == 2


def test_labels_are_escaped_and_long_ones_shortened() -> None:
    svg = bar_svg([Bar('<script>alert(1)</script>&"', 0.5, 0.4, 0.6, 0), Bar("y" * 80, 0.5, 0.4, 0.6, 1)])
    texts = [one.text for one in ElementTree.fromstring(svg).iter("text")]
    assert '<script>alert(1)</script>&"' in texts
    assert "y" * 33 + "…" in texts
    assert "<script" not in svg


def test_a_curve_falls_when_the_loss_falls_and_breaks_at_nan() -> None:
    svg = line_svg([Line("s", ((0, 4.0), (10, 3.0), (20, math.nan), (30, 1.0), (40, 0.5)), 0)])
    path = elements(svg, "path")[0]["d"]
    assert path.count("M") == 2
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path)]
    assert len(heights) == 4
    assert heights == sorted(heights)  # down the page
    assert "log scale" not in svg


def test_losses_over_decades_are_drawn_on_a_log_scale() -> None:
    svg = line_svg([Line("s", ((0, 10.0), (10, 1.0), (20, 0.1)), 0)])
    path = elements(svg, "path")[0]["d"]
    first, second, third = (float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path))
    assert second - first == pytest.approx(third - second, abs=0.2)
    assert "log scale" in svg


def test_shares_are_drawn_from_0_to_100_per_cent() -> None:
    svg = line_svg([Line("s", ((0, 0.5), (10, 0.5)), 0)], share=True)
    texts = [one.text for one in ElementTree.fromstring(svg).iter("text")]
    assert {"0%", "100%"} <= set(texts)


@pytest.mark.parametrize(
    "points",
    [((0, 0.0),), ((5, math.nan),), ((0, 2.0), (0, 2.0)), ((3, -1.0), (4, 1e9)), ((1, 1e-300), (2, 2e-300))],
)
def test_odd_curves_can_be_drawn(points: tuple[tuple[float, float], ...]) -> None:
    ElementTree.fromstring(line_svg([Line("s", points, 0)]))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0.003), (0, 7), (-2, 2.5), (0, 123456), (0, 0), (0, 1e-14)]
)
def test_ticks_are_few_round_and_cover(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high * (1 - 1e-9)
    assert 3 <= len(ticks) <= 8
    steps = [second - first for first, second in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))


@pytest.mark.parametrize(("low", "high"), [(0.05, 3), (1e-6, 12), (0.1, 10), (0.9, 31), (2e-12, 7e12)])
def test_log_ticks_cover_and_rise(low: float, high: float) -> None:
    ticks = _decades(low, high)
    assert ticks[0] <= low * (1 + 1e-9)
    assert ticks[-1] >= high * (1 - 1e-9)
    assert ticks == sorted(set(ticks))
    assert len(ticks) >= 3


def test_thinning_keeps_means_and_short_histories() -> None:
    points = [(float(step), 2.0 * step) for step in range(1000)]
    thin = thinned(points, 100)
    assert len(thin) == 100
    assert thin[0] == (4.5, 9.0)
    assert thinned(points[:50], 100) == tuple(points[:50])
    assert thinned([]) == ()


def test_a_plot_is_a_file_of_its_own_and_the_same_bytes_every_time(demo: Path, tmp_path: Path) -> None:
    exams = contestants([demo])
    for name in ("one", "two"):
        bar_plot(exams, tmp_path / "plots" / f"{name}.svg")
    first, second = ((tmp_path / "plots" / f"{name}.svg").read_text() for name in ("one", "two"))
    assert first == second
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["one.svg", "two.svg"]
    root = ElementTree.fromstring(first)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg", "a browser shows no SVG file without its name space"
    assert (root.attrib["width"], root.attrib["height"]) == ("780", "130")
    style = "".join(root.find(f"{space}style").itertext())  # type: ignore[union-attr]
    used = {word for one in root.iter() for word in one.attrib.get("class", "").split()} - {"name"}
    assert used >= {"s0", "s1", "teacher", "whisker", "tick"}
    assert {word for word in used if f".{word}{{" not in style} == set(), "a class without a style is black"


def test_every_label_of_a_curve_lies_inside_the_drawing() -> None:
    for steps, values in ((4000, (0.5, 2.0)), (2_500_000, (1e-7, 2e-7)), (7, (-12345.0, 3.0))):
        svg = line_svg([Line("s", ((0, values[0]), (steps, values[1])), 0)])
        width = float(ElementTree.fromstring(svg).attrib["viewBox"].split()[2])
        for one in ElementTree.fromstring(svg).iter("text"):
            x, long = float(one.attrib["x"]), 6.5 * len(one.text or "")  # 12 px digits are 6.5 px wide
            start = {"middle": x - long / 2, "end": x - long}[one.attrib["text-anchor"]]
            assert start >= 0 and start + long <= width + 0.5, one.text


def test_a_bar_plot_takes_any_name_and_refuses_other_formats(
    tmp_path: Path, exam_folder: Make, predict: Callable[..., Prediction]
) -> None:
    exams = contestants([exam_folder(tmp_path / r"$x_1\frac$", [predict(0, True)])])
    bar_plot(exams, tmp_path / "plot.svg")
    assert r"$x_1\frac$" in (tmp_path / "plot.svg").read_text()
    with pytest.raises(InputError, match=r"written as \.svg"):
        bar_plot(exams, tmp_path / "plot.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        bar_plot(exams, tmp_path / "file" / "plot.svg")
