"""Agreement among samples: votes, ties, abstentions, what it keeps, and how well it predicts gold."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.agreement import OTHER_ANSWER, TIE, TOO_FEW, Agreement, against_gold, votes
from limbeck.lm import Completion
from limbeck.rationales import (
    FALSE_EQUATION,
    NO_ANSWER,
    NO_GOLD,
    OTHER_THAN_TEACHER,
    TRUNCATED,
    WRONG,
    graded,
    mark_dropped,
)
from limbeck.records import Problem, Rationale
from limbeck.tasks.answers import AnswerKind

NUMBERS = Agreement("number")


def samples(
    *answers: str | None, problem: str = "p", gold: str | None = None, **more: Any
) -> list[Rationale]:
    """One rationale per answer, each with a text of its own."""
    return [
        Rationale(
            problem_id=problem,
            source="t",
            index=index,
            completion=f"text {index}",
            reasoning=f"text {index} of {problem}",
            answer=answer,
            how=None if answer is None else "marker",
            correct=None if gold is None else answer == gold,
            **more,
        )
        for index, answer in enumerate(answers)
    ]


def reasons(some: list[Rationale], rule: Agreement = NUMBERS, **more: Any) -> list[str | None]:
    return [one.dropped for one in mark_dropped(some, keep="all", agreement=rule, **more)]


def test_the_answer_of_most_samples_is_kept_without_any_gold() -> None:
    assert reasons(samples("7", "8", "7")) == [None, OTHER_ANSWER, None]
    assert reasons(samples("7")) == [TOO_FEW], "one sample agrees with nobody"
    assert reasons([]) == []


def test_as_many_for_one_answer_as_for_another_is_no_agreement() -> None:
    assert reasons(samples("7", "8", "8", "7")) == [TIE] * 4
    assert reasons(samples("7", "8", "8", "7", "8")) == [OTHER_ANSWER, None, None, OTHER_ANSWER, None]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (Agreement("number"), True),  # 3 of 6
        (Agreement("number", share=0.6), False),
        (Agreement("number", share=0.6, abstentions="leave-out"), True),  # 3 of 4
        (Agreement("number", least=4), False),
    ],
)
def test_samples_without_an_answer_count_or_are_left_out(rule: Agreement, kept: bool) -> None:
    found = reasons(samples("7", "7", "7", "8", None, None), rule)
    assert found[3:] == [OTHER_ANSWER if kept else TOO_FEW, NO_ANSWER, NO_ANSWER]
    assert found[:3] == [None if kept else TOO_FEW] * 3


def test_a_share_is_met_exactly() -> None:
    for samples_in_all in range(2, 30):
        for agreeing in range(2, samples_in_all + 1):
            others = [str(100 + n) for n in range(samples_in_all - agreeing)]
            found = reasons(
                samples(*["7"] * agreeing, *others), Agreement("number", share=agreeing / samples_in_all)
            )
            assert found[0] is None, (agreeing, samples_in_all)


def test_a_cut_off_guess_has_no_vote() -> None:
    guess = {"truncated": True}
    cut = [one.model_copy(update={**guess, "how": "fallback"}) for one in samples("8", "8", "8", problem="p")]
    assert reasons([*samples("7", "7"), *cut], Agreement("number", abstentions="leave-out")) == [
        *[None, None],
        *[TRUNCATED] * 3,
    ]
    stated = samples("8", "8", "8", **guess)  # the statement came before the cut
    assert reasons([*samples("7", "7"), *stated])[:2] == [OTHER_ANSWER] * 2


@pytest.mark.parametrize(
    ("kind", "spellings"),
    [("text", ("Red Fox", "red fox")), ("number", ("0.3333333", "0.33333331")), ("yes-no", ("yes", "yes"))],
)
def test_answers_agree_as_they_are_compared_with_gold(kind: AnswerKind, spellings: tuple[str, ...]) -> None:
    vote = votes(samples(*spellings, "no"), kind)["p"]
    assert vote.counts == (2, 1) and vote.answers[0] == spellings[0]
    assert reasons(samples(*spellings, "no"), Agreement(kind)) == [None, None, OTHER_ANSWER]


def test_next_to_gold_both_must_hold() -> None:
    some = [
        *samples("7", "7", "8", problem="right", gold="7"),
        *samples("7", "7", "8", problem="outvoted", gold="8"),
        *samples("7", problem="lonely", gold="7"),
        *samples("7", "7", "8", problem="unknown"),
    ]
    found = [one.dropped for one in mark_dropped(some, agreement=NUMBERS)]
    assert found == [
        *[None, None, WRONG],
        *[WRONG, WRONG, OTHER_ANSWER],
        TOO_FEW,
        *[None, None, OTHER_ANSWER],
    ]
    alone = [one.dropped for one in mark_dropped(some)]
    assert alone[6:] == [None, NO_GOLD, NO_GOLD, NO_GOLD], "nothing says that these are correct"


def test_without_gold_and_agreement_only_all_keeps_what_states_an_answer() -> None:
    some = samples("7", None)
    assert [one.dropped for one in mark_dropped(some, keep="all")] == [None, NO_ANSWER]
    assert [one.dropped for one in mark_dropped(some, keep="unless-wrong")] == [NO_GOLD, NO_ANSWER]


def test_other_conditions_hold_too() -> None:
    some = samples("7", "7", "7")
    some[1] = some[1].model_copy(update={"reasoning": "2 + 2 = 5, so 7"})
    assert reasons(some, drop_false_equations=True) == [None, FALSE_EQUATION, None]


def test_a_mentor_that_agrees_on_something_else_than_its_teacher_teaches_nothing() -> None:
    some = [*samples("7", "7"), *samples("7", "7", problem="known", gold="7")]
    settled = {"p": "8", "known": "8"}
    assert reasons(some, settled=settled) == [OTHER_THAN_TEACHER] * 2 + [None, None]
    assert reasons(some, settled={"p": "7.0"}) == [None] * 4


def test_grading_without_gold_knows_no_verdict() -> None:
    problem = Problem(id="p", question="How many?", answer=None)
    found = graded(problem, "number", Completion("p", 0, "2 + 5 = 7. The answer is 7."), "t")
    assert (found.answer, found.correct, found.reasoning) == ("7", None, "2 + 5 = 7.")


def test_how_well_agreement_predicts_gold_level_by_level() -> None:
    some = [
        *samples("1", "1", "1", "1", problem="a", gold="1"),
        *samples("1", "1", "1", "1", problem="b", gold="2"),
        *samples("1", "1", "1", "2", problem="c", gold="1"),
        *samples("1", "1", "2", "2", problem="d", gold="1"),
        *samples(None, None, problem="e", gold="1"),
        *samples("1", problem="f", gold="1"),
        *samples("1", "1", problem="g"),
    ]
    golds = {"a": "1", "b": "2", "c": "1", "d": "1", "e": "1", "f": "1", "g": None}
    problems = [Problem(id=name, question="?", answer=gold) for name, gold in golds.items()]
    found = against_gold(votes(some, "number"), problems, "number")
    assert found == {
        "100 %": {"problems": 2, "gold": 1, "share": 0.5, "from here up": 2, "share from here up": 0.5},
        "70 to 79 %": {
            "problems": 1,
            "gold": 1,
            "share": 1.0,
            "from here up": 3,
            "share from here up": 0.6667,
        },
        "tie": {"problems": 1},
        "no answer": {"problems": 1},
    }


def test_votes_of_many_samples_are_counted_in_linear_time() -> None:
    import time

    some = [one for n in range(2_000) for one in samples(*(str(k % 3) for k in range(20)), problem=str(n))]
    clock = time.process_time()
    votes(some, "number")
    assert time.process_time() - clock < 3  # about 0.1 s
