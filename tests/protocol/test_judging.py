"""Verdicts over problem draws, mentors and students, against figures made by hand."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from limbeck.protocol.judging import Side, Standing, difference, judged, plain
from limbeck.protocol.settings import Claim, ClaimsSettings
from limbeck.protocol.table import tables, text
from limbeck.protocol.written import Protocol
from limbeck.recipe import check_recipe
from limbeck.statistics import from_units, t_p
from tests.campaigns import statistics as campaign

PROBLEMS = 20_000


def side(name: str, mentor: str | None, shares: Sequence[Sequence[Sequence[float]]]) -> Side:
    """[draw][mentor][student] accuracies; every student solves the first problems, so nothing else varies."""
    rows = [
        [np.array([[float(i < s * PROBLEMS) for i in range(PROBLEMS)] for s in run]) for run in draw]
        for draw in shares
    ]
    return Side(name, mentor, rows)


def test_three_draws_are_three_observations() -> None:
    a = side("a", None, [[[0.5, 0.6]], [[0.4, 0.5]], [[0.6, 0.7]]])
    b = side("b", "m", [[[0.6, 0.8]], [[0.6, 0.6]], [[0.7, 0.7]]])  # gains .15, .15, .05
    found, level = difference(a, b)
    assert level == "problem draws"
    assert found.value == pytest.approx(0.35 / 3)
    assert found.error == pytest.approx(math.sqrt((2 * (0.1 / 3) ** 2 + (0.2 / 3) ** 2) / 2 / 3))
    assert found.freedom == 2


def test_two_draws_of_two_mentors_are_two_strata_of_runs() -> None:
    a = side("a", "m", [[[0.5, 0.5], [0.6, 0.6]], [[0.2, 0.2], [0.3, 0.3]]])
    b = side("b", "m", [[[0.6, 0.8], [0.6, 0.8]], [[0.4, 0.4], [0.9, 0.9]]])  # gains .2 .1, .2 .6
    found, level = difference(a, b)
    assert level == "mentors"
    assert found.value == pytest.approx((0.15 + 0.4) / 2)
    pooled = (0.1**2 / 2 + 0.4**2 / 2) / 2  # over two degrees of freedom
    assert found.error == pytest.approx(math.sqrt(pooled / 4), rel=1e-3)
    assert found.freedom == 2
    same = difference(side("a", None, [[[0.5], [0.6]], [[0.2], [0.3]]]), b)[1]
    assert same == "mentors", "one side with a mentor is enough"


def test_students_are_the_units_where_nobody_learns_from_a_mentor() -> None:
    a = side("a", None, [[[0.5, 0.6], [0.55, 0.4]], [[0.5, 0.5], [0.6, 0.7]]])
    b = side("b", None, [[[0.7, 0.6], [0.65, 0.8]], [[0.5, 0.9], [0.6, 0.7]]])
    found, level = difference(a, b)
    assert level == "students"
    strata = [[-np.vstack(a.rows[p]), np.vstack(b.rows[p])] for p in range(2)]
    assert found == from_units(strata)
    assert 3 < found.freedom <= 13


def test_one_student_with_two_exams_is_one_unit() -> None:
    """Students that share their trainings: what one of them gains by the other exam is one observation."""
    a = side("a", None, [[[0.5, 0.6, 0.4]], [[0.5, 0.5, 0.9]]])
    b = side("b", None, [[[0.7, 0.8, 0.6]], [[0.6, 0.6, 1.0]]])
    shared = [replace(one, weights=list("abcdef")) for one in (a, b)]
    found, level = difference(*shared)
    assert (found.value, level) == (pytest.approx(0.15), "students")
    assert found == from_units([[np.vstack(b.rows[p]) - np.vstack(a.rows[p])] for p in range(2)])
    apart, _ = difference(shared[0], replace(b, weights=list("ghijkl")))
    assert apart == difference(a, b)[0] and apart.error > 3 * found.error


def test_a_reranker_that_all_students_of_a_run_share_is_one_draw_of_it() -> None:
    """As a mentor: five students that read what one reranker found say nothing of another one."""
    a = side("a", None, [[[0.5, 0.5], [0.6, 0.6]], [[0.2, 0.2], [0.3, 0.3]]])
    plain = side("b", None, [[[0.6, 0.8], [0.6, 0.8]], [[0.4, 0.4], [0.9, 0.9]]])
    ranked = replace(plain, ranked=True)
    assert difference(a, plain)[1] == "students"
    assert difference(a, ranked) == difference(a, replace(plain, mentor="m"))
    alone = [replace(one, rows=[draw[:1] for draw in one.rows]) for one in (a, ranked)]
    (said,) = judged([Claim(a="a", b="b")], dict(zip("ab", alone, strict=True)))
    assert said.speaks_of == "new students and test problems; these 2 problem draws, each with its reranker"


def test_margins_and_holm_decide() -> None:
    a = side("a", None, [[[0.50, 0.51, 0.52]]])
    b = side("b", None, [[[0.60, 0.61, 0.62]]])
    claims = [
        Claim(a="a", b="b"),
        Claim(a="b", b="a", claim="the other one"),
        Claim(a="a", b="b", margin=20),
        Claim(a="a", b="b", margin=10),
        Claim(a="b", b="a", margin=-20),
    ]
    found = judged(claims, {"a": a, "b": b})
    words = ["holds", "does not hold", "does not hold", "undecided", "holds"]
    assert [one.verdict for one in found] == words
    assert found[0].claim == "b is better than a"
    assert found[2].claim == "b is better than a by more than 20 points"
    assert found[2].p == pytest.approx(t_p((0.10 - 0.20) / found[2].error, found[2].df))
    assert all((one.p_holm or 0) >= one.p for one in found)
    assert found[0].speaks_of == "new students and test problems; this problem draw"
    (alone,) = judged(claims[:1], {"a": a, "b": b})
    assert alone.p_holm is None


def test_a_sweep_has_no_verdicts(tmp_path: Path) -> None:
    """However small its p is; and p is not corrected. What it compares is not put as a claim."""
    sides = {"a": side("a", None, [[[0.1, 0.11, 0.12]]]), "b": side("b", None, [[[0.9, 0.91, 0.92]]])}
    compare = (Claim(a="a", b="b"), Claim(a="b", b="a", margin=-2))
    claims = ClaimsSettings(exploratory=True, compare=compare)
    found = judged(claims.compare, sides, decides=not claims.exploratory)
    assert max(one.p for one in found) < 0.001
    assert [(one.verdict, one.p_holm) for one in found] == [("undecided", None)] * 2
    shown = text(claims, [], found)
    assert "Exploratory: nothing is claimed" in shown and "Comparisons" in shown
    assert "a against b: p asks whether B − A differs from −2.0 points" in " ".join(shown.split())
    assert not any(word in shown for word in ("verdict", "undecided", "Holm", "is better"))
    raw = {"name": "x", "task": {"name": "coin-flip"}}
    recipe = check_recipe(raw, "r.yaml", trains=False)
    protocol = Protocol(tmp_path, recipe, claims, [], "digest", {}, frozenset())
    written = plain(protocol, [], found)
    assert written["exploratory"] is True and [one["claim"] for one in written["claims"]] == [
        "b against a",
        "a against b",
    ]
    assert not {"verdict", "p_holm"} & set().union(*written["claims"])
    told = plain(replace(protocol, claims=ClaimsSettings(compare=compare)), [], found)
    assert told["exploratory"] is False and {"verdict", "p_holm"} <= told["claims"][0].keys()


def test_what_can_decide_nothing_is_refused() -> None:
    pair = (Claim(a="a", b="b"),)
    for counts in ((1, 1, 2), (2, 1, 1), (1, 2, 9)):
        with pytest.raises(ValidationError, match="decide nothing"):
            ClaimsSettings(problem_draws=counts[0], mentors=counts[1], students=counts[2], compare=pair)
    for counts in ((1, 1, 3), (2, 1, 2), (2, 2, 1), (1, 3, 1), (3, 1, 1)):
        ClaimsSettings(problem_draws=counts[0], mentors=counts[1], students=counts[2], compare=pair)
    for wrong in ([], [["a", "a"]], [["a"]], [["a", "b", "c"]], ["a"]):
        with pytest.raises(ValidationError):
            ClaimsSettings.model_validate({"compare": wrong})


@pytest.mark.parametrize("counts", [(2, 2, 5), (1, 3, 3), (3, 1, 1)])
@pytest.mark.parametrize("mentors", campaign.MENTORS)
def test_false_alarms_are_rare_at_every_level(counts: tuple[int, int, int], mentors: str) -> None:
    for spreads in (campaign.SPREADS[0], campaign.SPREADS[-1]):
        assert campaign.found_by_protocols(400, counts, spreads, campaign.MENTORS[mentors]) <= 0.065


def test_the_tables_say_what_the_verdicts_speak_of() -> None:
    a = side("a", None, [[[0.5, 0.52], [0.51, 0.53]], [[0.5, 0.5], [0.5, 0.5]]])
    b = side("b", "m", [[[0.7, 0.72], [0.71, 0.73]], [[0.7, 0.7], [0.7, 0.7]]])
    claims = ClaimsSettings(problem_draws=2, mentors=2, students=2, compare=(Claim(a="a", b="b"),))
    standings = [Standing("a", 0.51, 0.01, 0.007, None, 8, 40_000, 120.0, None, 2.5e12)]
    console = Console(file=io.StringIO(), width=110)
    console.print(tables(claims, standings, judged(claims.compare, {"a": a, "b": b})))
    assert isinstance(console.file, io.StringIO)
    text = " ".join(console.file.getvalue().split())
    assert "2 problem draws × 2 mentors × 2 students" in text
    assert "a 51.0 1.0 0.7 – 8 120 –" in text
    assert "b is better than a +20.0" in text
    assert "The verdict speaks of new mentors, students and test problems; these 2 problem draws." in text
