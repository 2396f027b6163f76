"""The audit: what it counts, which problems it names."""

from __future__ import annotations

import json
from typing import Any

from limbeck.agreement import Agreement
from limbeck.audit import NAMED, audit, nothing_kept
from limbeck.rationales import mark_dropped
from limbeck.records import Problem, Rationale


def problem(name: str, gold: str | None = "7", question: str = "How many?") -> Problem:
    return Problem(id=name, question=question, answer=gold)


def said(name: str, *answers: str | None, gold: str | None = "7", **more: Any) -> list[Rationale]:
    return [
        Rationale(
            **{
                "problem_id": name,
                "source": "t",
                "index": index,
                "completion": f"{name} {index}",
                "reasoning": f"{name} {index}",
                "answer": answer,
                "how": "marker",
                "correct": None if gold is None else answer == gold,
                **more,
            }
        )
        for index, answer in enumerate(answers)
    ]


def test_gold_answers_that_all_samples_contradict_are_suspected() -> None:
    some = [
        *said("wrong", "8", "8", None, "8"),
        *said("few", "8", "8"),
        *said("split", "8", "8", "9"),
        *said("right", "7", "8", "8", "8"),
        *said("unknown", "8", "8", "8", gold=None),
    ]
    problems = [problem(n) for n in ("wrong", "few", "split", "right", "never asked")] + [
        problem("unknown", None)
    ]
    found = audit(mark_dropped(some), problems, "number")
    assert found["suspected wrong gold answers"] == 1
    (named,) = found["suspected wrong gold answers, named"]
    assert named == {
        "problem": "wrong",
        "question": "How many?",
        "gold": "7",
        "answers": "8 (3), none (1)",
        "guessed": 0,
    }
    assert found["problems without a correct rationale"] == 4
    names = [one["problem"] for one in found["problems without a correct rationale, named"]]
    assert names == ["wrong", "few", "split", "never asked"]
    assert found["problems without a gold answer"] == 1
    assert found["correct per problem"] == {"0": 4, "1": 1}, "what has no gold answer is not unsolved"
    assert json.loads(json.dumps(found)) == found


def test_the_first_problems_are_named_and_all_are_counted() -> None:
    problems = [problem(str(n), question="word " * 100 + "How many?") for n in range(NAMED + 5)]
    some = [one for each in problems for one in said(each.id, "8", "9")]
    found = audit(mark_dropped(some), problems, "number")
    assert found["problems without a correct rationale"] == NAMED + 5
    named = found["problems without a correct rationale, named"]
    assert len(named) == NAMED
    assert named[0]["question"].endswith("How many?") and len(named[0]["question"]) < 130


def test_yield_length_and_diversity() -> None:
    some = [
        *said("a", "7", "7", "8", reasoning="one two three"),
        *said("b", "8", reasoning="one"),
        *said("c", "7", reasoning="w " * 40, tokens=50),
    ]
    some[1] = some[1].model_copy(update={"reasoning": "four five six seven"})
    found = audit(mark_dropped(some), [problem(n) for n in "abcd"], "number")
    assert found["rationales per problem"] == {"0": 1, "1": 2, "3": 1}
    assert found["correct per problem"] == {"0": 2, "1": 1, "2": 1}
    assert found["kept per problem"] == {"0": 2, "1": 1, "2": 1}
    assert found["length of kept rationales"]["words"] == {"median": 4, "90 %": 40, "longest": 40}
    assert found["length of kept rationales"]["tokens"]["longest"] == 50
    assert found["different answers per problem"] == round(4 / 3, 2)
    assert found["similarity of kept rationales of a problem"] == 0.0


def test_agreement_is_tried_out_where_gold_decides() -> None:
    some = [*said("a", "7", "7", "8"), *said("b", "8", "8", "7"), *said("c", "7", "8", "9")]
    problems = [problem(n) for n in "abc"]
    found = audit(mark_dropped(some), problems, "number")
    assert found["agreement"] == {
        "share of samples needed": 0.5,
        "samples needed": 2,
        "problems with two samples or more": 3,
        "samples agree": 2,
        "samples tie": 1,
        "agreed answers that can be compared with gold": 2,
        "agreed answer is gold": 1,
        "share of these": 0.5,
    }
    strict = audit(mark_dropped(some), problems, "number", Agreement("number", share=0.9))
    assert strict["agreement"]["samples agree"] == 0 and strict["agreement"]["share of these"] is None
    assert "agreement" not in audit(mark_dropped(said("a", "7")), problems[:1], "number")


def test_an_audit_of_nothing() -> None:
    found = audit([], [problem("a")], "number")
    assert found["kept"] == 0 and found["length of kept rationales"] == {}
    assert "no rationales at all" in nothing_kept([])
    assert "(wrong answer: 2)" in nothing_kept(list(mark_dropped(said("a", "8", "9"))))


def test_how_texts_end_is_counted_where_it_happens() -> None:
    some = [
        *said("a", None, thinking="2 + 2", completion="", how=None),
        *said("a", "7", thinking="5 + 2", stopped="\nQ:"),
        *said("a", None, how="marker"),
        *said("a", "8", how="fallback", truncated=True),
    ]
    found = audit(mark_dropped(some), [problem("a")], "number")
    assert found["with thinking"] == 2 and found["end inside their thinking"] == 1
    assert found["ended by a stop string"] == 1 and found["cut off at max_tokens"] == 1
    assert found["state an answer that is none of its kind"] == 1 and found["no answer found"] == 2
    assert found["answer found by fallback"] == 1
    assert "with thinking" not in audit(mark_dropped(said("a", "7")), [problem("a")], "number")
