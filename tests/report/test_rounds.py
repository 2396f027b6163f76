"""Rounds in the report: accuracy after each, what became of mistakes, what feedback costs, the browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import DataError
from limbeck.records import Feedback, Mistake, Prediction, Problem, Rationale, write_jsonl
from limbeck.report import compare, contestants, left_out, write_report
from limbeck.report.contestants import in_rounds
from limbeck.report.mistakes import FEWEST, MOST, mistakes_data
from limbeck.report.rounds import mistake_cells, mistake_headings, mistake_notes, mistake_rows, sittings
from limbeck.report.samples import LONGEST
from limbeck.statistics import holm

Make = Callable[..., Path]
Predict = Callable[..., Prediction]
Rounds = Callable[..., Path]

NASTY = "</script><img src=x onerror=alert(1)> <!-- \u2028 \" ' {{ 7*7 }}"


@pytest.fixture
def rounds(tmp_path: Path, run_folder: Make, exam_folder: Make, predict: Predict) -> Rounds:
    """A run with students in rounds; per student and seed the right answers of 20 after each round.

    The last of them is the student's own exam.
    """

    def make(
        students: Mapping[str, Mapping[int, Sequence[int]]], others: Mapping[str, Any] | None = None
    ) -> Path:
        run = run_folder(tmp_path / "run", others or {})
        names = [*(others or {}), *students]
        (run / "recipe.yaml").write_text("name: run\nstudents:\n" + "".join(f"  {n}: {{}}\n" for n in names))
        questions = [Problem(id=f"q{n}", question=f"What is {n} + 1?", answer=str(n + 1)) for n in range(6)]
        write_jsonl(run / "problems" / "train.jsonl", questions)
        for name, seeds in students.items():
            for seed, right in seeds.items():
                home = run / "students" / name / f"seed{seed}"
                for number, count in enumerate(right):
                    last = number == len(right) - 1
                    folder = home / "exam" if last else home / f"round{number}" / "exam"
                    about = {"seed": seed, "round": None if last else number, "after_round": number}
                    answers = [predict(n, n < count) for n in range(20)]
                    exam_folder(folder, answers, name, "student", **about)
        return run

    return make


def test_rounds_that_a_longer_run_left_are_no_part_of_a_shorter_one(
    rounds: Rounds, exam_folder: Make, predict: Predict
) -> None:
    run = rounds({"tailored": {0: [5, 9, 12]}})
    home = run / "students" / "tailored" / "seed0"
    about: dict[str, Any] = {"seed": 0, "round": 3, "after_round": 3}
    exam_folder(
        home / "round3" / "exam", [predict(n, True) for n in range(20)], "tailored", "student", **about
    )
    (shown,) = in_rounds(contestants([run])).values()
    assert {number: one[0].correct for number, one in shown.items()} == {0: 5, 1: 9, 2: 12}
    assert len(contestants([run])) == 3 and left_out([run]) == []


def sit(folder: Path, number: int, right: Mapping[str, Sequence[bool]]) -> list[Mistake]:
    """An exam on training questions: question -> which of its answers are right."""
    lines, wrong = [], []
    for question, answers in right.items():
        for index, is_right in enumerate(answers):
            text = f"round {number}, answer {index}"
            line = {"prompt_id": question, "problem_id": question, "index": index, "text": text}
            lines.append({**line, "tokens": 5, "thinking": ""})
            if not is_right:
                own = {"id": Mistake.id_of(question, number, index, text), "problem_id": question}
                wrong.append(Mistake(**own, completion=text, answer="99", source="s"))
    path = folder / "answers" / "completions.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_jsonl(folder / "mistakes" / "mistakes.jsonl", wrong)
    return wrong


def say(folder: Path, said: Sequence[tuple[Mistake, str | None]], cost: float = 0.0, words: str = "") -> None:
    """Feedback on some mistakes, each with why its solution was dropped."""
    replies = [
        Feedback(
            mistake_id=one.id, problem_id=one.problem_id, source="gpt", said=words or "No.", solution="S"
        )
        for one, _ in said
    ]
    graded = [
        Rationale(
            problem_id=one.problem_id,
            source="gpt",
            index=number,
            completion="S",
            reasoning="S",
            answer=None,
            correct=why is None,
            dropped=why,
            about=one.id,
        )
        for number, (one, why) in enumerate(said)
    ]
    write_jsonl(folder / "feedback" / "feedback.jsonl", replies)
    write_jsonl(folder / "feedback" / "graded.jsonl", graded)
    path = folder / "asked" / "completions.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {"prompt_id": "m", "problem_id": "q", "index": 0, "text": "…", "cost_usd": cost}
    path.write_text((json.dumps(line) + "\n") * len(said))


FIRST = {
    "q0": (False, False, True, True),
    "q1": (False, False, False, False),
    "q2": (False, True, True, True),
    "q3": (True, True, True, True),
    "q4": (True, True, True, True),
}
SECOND = {
    "q0": (True, True, True, True),
    "q1": (True, True, True, False),
    "q2": (False, False, True, True),
    "q3": (True, False, True, True),
    "q4": (True, True, True, True),
}


def two_rounds(run: Path, cost: float = 0.0, words: str = "", name: str = "loop") -> None:
    home = run / "students" / name / "seed0"
    wrong = sit(home / "round0", 0, FIRST)
    by_question = {one.problem_id: one for one in wrong}
    say(home / "round0", [(by_question["q0"], None), (by_question["q1"], "wrong answer")], cost, words)
    say(home / "round1", [(one, None) for one in sit(home / "round1", 1, SECOND)], cost)


def embedded(page: str) -> Any:
    return json.loads(page.split('id="data">')[1].split("</script>")[0])["mistakes"]


def test_what_became_of_each_missed_question(rounds: Rounds) -> None:
    run = rounds({"loop": {0: (5, 8, 12)}})
    two_rounds(run, cost=0.25)
    first, second = mistake_rows(sittings(contestants([run])))
    assert (first["round"], first["answers"], first["wrong"], first["questions"]) == (0, 20, 7, 5)
    assert first["missed"] == 3
    assert (first["fixed"], first["mostly"], first["kept"]) == (1, 1, 1), "q0; q1; q2 with half of them right"
    assert first["new"] == 1
    assert first["missed"] - first["fixed"] + first["new"] == second["missed"]
    assert (first["said"], first["usable"], first["shown"], first["fixed_shown"]) == (2, 1, 2, 1)
    assert [second[key] for key in ("fixed", "mostly", "kept", "new", "shown")] == [None] * 5
    assert "After the last round nobody sits the exam" in mistake_notes([first, second])[0]
    paid = [{**first, "cost_usd": 1.0}, {**second, "cost_usd": 1.0, "student": "other"}]
    assert "was paid for once" in mistake_notes(paid)[0] and mistake_notes(paid[:1]) == []


def test_what_feedback_costs_and_per_fixed_question(rounds: Rounds) -> None:
    run = rounds({"loop": {0: (5, 8, 12)}})
    two_rounds(run, cost=0.25)
    rows = mistake_rows(sittings(contestants([run])))
    headings = mistake_headings(rows)
    assert headings[-2:] == ["cost", "per fixed"]
    assert [mistake_cells(row, headings)[-2:] for row in rows] == [["$0.5000", "$0.5000"], ["$1.00", "–"]]


def test_a_teacher_without_prices_has_no_cost(rounds: Rounds, tmp_path: Path) -> None:
    run = rounds({"loop": {0: (5, 8, 12)}})
    two_rounds(run)
    assert "cost" not in mistake_headings(mistake_rows(sittings(contestants([run]))))
    write_report([run], tmp_path / "page.html")
    assert "per fixed" not in (tmp_path / "page.html").read_text()


def test_seeds_have_a_row_of_means(rounds: Rounds) -> None:
    run = rounds({"loop": {0: (5, 8, 12), 1: (5, 8, 12)}})
    two_rounds(run)
    home = run / "students" / "loop" / "seed1"
    sit(home / "round0", 0, FIRST)
    sit(home / "round1", 1, dict.fromkeys(FIRST, (True,) * 4))
    rows = mistake_rows(sittings(contestants([run])))
    assert [(row["round"], row["seed"], row["seeds"]) for row in rows] == [
        *((0, None, 2), (0, 0, 1), (0, 1, 1)),
        *((1, None, 2), (1, 0, 1), (1, 1, 1)),
    ]
    assert (rows[0]["fixed"], rows[0]["new"], rows[3]["missed"]) == (2.0, 0.5, 1.5)
    assert rows[3]["fixed"] is None


def test_mistakes_from_a_file_say_nothing_about_other_questions(rounds: Rounds) -> None:
    run = rounds({"loop": {0: (5, 8, 12)}})
    home = run / "students" / "loop" / "seed0"
    given = [Mistake(id=f"m{n}", problem_id=f"q{n}", completion="Hm.", kind="no-answer") for n in (0, 1, 5)]
    write_jsonl(home / "round0" / "mistakes" / "mistakes.jsonl", given)
    sit(home / "round1", 1, SECOND)
    row = mistake_rows(sittings(contestants([run])))[0]
    assert (row["answers"], row["missed"], row["fixed"], row["mostly"], row["new"]) == (None, 3, 1, 1, None)
    assert any(
        "Mistakes of round 0 without a number of answers are from a file" in n for n in mistake_notes([row])
    )
    (student,) = mistakes_data(sittings(contestants([run])))
    became = {line[4]: line[2] for line in student["rows"] if line[1] == 0}
    assert became == {"q0": "fixed", "q1": "mostly right", "q5": "not asked again"}


def test_a_mistake_is_shown_with_feedback_and_what_the_student_writes_now(
    rounds: Rounds, tmp_path: Path
) -> None:
    run = rounds({"loop": {0: (5, 8, 12)}})
    two_rounds(run, words="You divide where you should add.")
    write_report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    (student,) = embedded(page)
    assert student["name"] == "loop" and sum(row[3] for row in student["counts"]) == 7 + 4
    found = {(row[1], row[4], row[7]): row for row in student["rows"]}
    row = found[0, "q1", "round 0, answer 3"]
    assert row == [
        *(0, 0, "mostly right", "dropped", "q1", "What is 1 + 1?", "2"),
        *("round 0, answer 3", "99", "wrong"),
        [["gpt", "You divide where you should add.", "S", "wrong answer"]],
        ["round 1, answer 0", 1, 3, 4],
    ]
    assert found[0, "q2", "round 0, answer 0"][10:] == [[], ["round 1, answer 0", 0, 2, 4]]
    assert found[1, "q2", "round 1, answer 1"][11] is None, "nobody was asked after the last round"
    wanted = re.findall(r'byId\("(mistakes[\w-]*)"\)', page)
    wanted += [f"mistakes-{name}" for name in ("list", "search", "page", "round", "became", "feedback")]
    assert wanted and all(f'id="{element}"' in page for element in wanted if not element.endswith("-"))


def test_texts_of_models_stay_text(rounds: Rounds, tmp_path: Path) -> None:
    run = rounds({"loop": {0: (5, 8, 12)}})
    two_rounds(run, words=NASTY)
    write_report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<img" not in page
    assert NASTY in {said[1] for row in embedded(page)[0]["rows"] for said in row[10]}


def test_a_page_of_40_000_mistakes_stays_small(rounds: Rounds, tmp_path: Path) -> None:
    run = rounds({"loop": {0: (5, 8, 12)}})
    write_report([run], tmp_path / "clean.html")
    home = run / "students" / "loop" / "seed0"
    right = {f"q{n}": (False, False, False, False) for n in range(10_000)}
    wrong = sit(home / "round0", 0, right)
    long = wrong[-1].model_copy(update={"completion": "x" * 200_000 + "the end"})
    write_jsonl(home / "round0" / "mistakes" / "mistakes.jsonl", [*wrong[:-1], long])
    say(home / "round0", [(long, None)])
    write_report([run], tmp_path / "page.html")
    (student,) = embedded((tmp_path / "page.html").read_text())
    assert student["counts"] == [
        [0, "not asked again", "none", 39_999],
        [0, "not asked again", "usable", 1],
    ]
    assert len(student["rows"]) == MOST
    (shown,) = (row for row in student["rows"] if row[3] == "usable")
    assert shown[7].endswith("the end") and len(shown[7]) < LONGEST + 50, "a rare outcome is not lost"
    added = (tmp_path / "page.html").stat().st_size - (tmp_path / "clean.html").stat().st_size
    assert added < MOST * 400


def test_students_share_the_room(rounds: Rounds) -> None:
    run = rounds({name: {0: (5, 8)} for name in ("a", "b", "c")})
    for name in ("a", "b", "c"):
        right = {f"q{n}": (False, False) for n in range(100)}
        sit(run / "students" / name / "seed0" / "round0", 0, right)
    found = mistakes_data(sittings(contestants([run])))
    assert [(one["name"], len(one["rows"])) for one in found] == [(name, MOST // 3) for name in "abc"]
    assert MOST // 3 > FEWEST


def test_files_that_do_not_fit_are_named(rounds: Rounds, tmp_path: Path) -> None:
    run = rounds({"loop": {0: (5, 8, 12)}})
    two_rounds(run)
    stage = run / "students" / "loop" / "seed0" / "round0" / "feedback"
    (stage / "graded.jsonl").write_text((stage / "graded.jsonl").read_text().split("\n")[0] + "\n")
    with pytest.raises(DataError, match=r"graded\.jsonl: its lines are not about those of feedback\.jsonl"):
        write_report([run], tmp_path / "page.html")
    two_rounds(run := rounds({"other": {0: (5, 8, 12)}}), name="other")
    (run / "students/other/seed0/round0/answers/completions.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"completions\.jsonl:1: not a completion"):
        sittings(contestants([run]))


def test_accuracy_after_each_round(rounds: Rounds, tmp_path: Path) -> None:
    students = {"loop": {0: (2, 8, 12), 1: (4, 10, 16)}, "once": {0: (6, 9)}}
    run = rounds(students, {"plain": {0: [True] * 20}})
    write_report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    section = page.split('<section id="rounds">')[1].split("</section>")[0]
    cells = [
        re.findall(r"<t[hd].*?>(?:<span.*?</span>)?(?:<bdi>)?(.*?)<", line) for line in section.split("<tr")
    ]
    lines = {line[0]: line[1:] for line in cells[2:]}
    assert list(lines) == ["loop, mean", "seed 0", "seed 1", "once"], "plain has no rounds"
    assert [cell.split(" [")[0] for cell in lines["loop, mean"]] == [
        "15.0 ± 7.1",
        "45.0 ± 7.1",
        "70.0 ± 14.1",
    ]
    assert lines["once"][0] == "30.0 [14.5, 51.9]", "one seed: Wilson"
    assert lines["once"][2] == "–"
    assert "loop: 0.15 at round 0, 0.7 at round 2" in section
    curves = section.split('class="curve ')[1:]
    assert [curve.count('class="seed"') for curve in curves] == [6, 0]
    ticks = re.findall(r'text-anchor="middle">([^<]*)<', section)
    assert ticks == ["0", "1", "2"], "whole rounds only"
    assert 'href="#rounds"' in page


def test_without_rounds_there_is_no_such_part(demo: Path, tmp_path: Path) -> None:
    write_report([demo], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert 'id="rounds"' not in page and 'href="#rounds"' not in page and embedded(page) == []


def test_seeds_that_ended_earlier_are_counted(rounds: Rounds, tmp_path: Path) -> None:
    run = rounds({"loop": {0: (2, 8), 1: (4, 10, 16)}})
    write_report([run], tmp_path / "page.html")
    assert "80.0 [58.4, 91.9] (1 of 2 seeds)" in (tmp_path / "page.html").read_text()


def test_an_exam_that_does_not_say_its_round_is_left_out_and_named(
    rounds: Rounds, exam_folder: Make, predict: Predict, tmp_path: Path
) -> None:
    run = rounds({"loop": {0: (5, 8, 12)}})
    exam_folder(run / "students/loop/seed0/exam", [predict(0, True)], "loop", "student", seed=0)
    assert list(in_rounds(contestants([run]))["loop"]) == [0, 1]
    write_report([run], tmp_path / "page.html")
    assert "loop: its own exam, in the results above, does not say" in (tmp_path / "page.html").read_text()


def test_rounds_are_compared_with_the_one_before_and_the_last_with_the_first(rounds: Rounds) -> None:
    run = rounds({"loop": {0: (2, 6, 9, 14)}, "other": {0: (2, 5, 8)}}, {"plain": {0: [True] * 20}})
    found = compare(contestants([run]))
    names = [f"loop · round {number}" for number in range(3)] + ["loop"]
    assert {(one.a, one.b) for one in found} == {
        *pairwise(names),
        (names[0], "loop"),
        ("other · round 0", "other · round 1"),
        ("other · round 1", "other"),
        ("other · round 0", "other"),
        ("plain", "loop"),
        ("plain", "other"),
        ("loop", "other"),
    }
    assert [one.p_holm for one in found] == holm([one.p for one in found]), "for what is shown, and no more"
    every = compare(contestants([run]), baseline="plain")
    assert len(every) == 7, "a baseline is compared with everybody, each round too"


def test_a_round_that_is_the_student_itself_is_not_compared(
    rounds: Rounds, exam_folder: Make, predict: Predict
) -> None:
    """Where a round did not help on dev, the student is the model of the round before."""
    run = rounds({"loop": {0: (2, 6, 9)}})
    own = [predict(n, n < 6) for n in range(20)]
    exam_folder(run / "students/loop/seed0/exam", own, "loop", "student", seed=0, after_round=1)
    for number in (0, 1):
        folder = run / f"students/loop/seed0/round{number}/exam-on-dev"
        about = {"seed": 0, "round": number, "after_round": number, "split": "dev"}
        exam_folder(folder, [predict(n, n < 3) for n in range(100, 106)], "loop", "student", **about)
    assert [(one.a, one.b) for one in compare(contestants([run]))] == [("loop · round 0", "loop")]
