"""The exam: who votes, what counts as wrong, and what the figures are divided by."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from limbeck import exam
from limbeck.errors import InputError, ModelError
from limbeck.exam import examine, majority, predict
from limbeck.exam_facts import ExamFacts
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm.chunks import Chunks
from limbeck.lm.remember import Remembered
from limbeck.records import Problem
from limbeck.tasks.asking import about_model

GREEDY = Sampling()
SUM = Problem(id="sum", question="What is 20 + 5?", answer="25")


def said(*texts: str, problem: str = "sum") -> list[Completion]:
    return [Completion(problem, index, text, tokens=4) for index, text in enumerate(texts)]


def ask(problems: Sequence[Problem]) -> list[Prompt]:
    """The only prompt of each."""
    return [Prompt(problem.id, problem.id, problem.question) for problem in problems]


class Speaker:
    """Says what it was told to, for the prompts it was told about; notes when it is closed."""

    name = "model"

    def __init__(self, texts: dict[str, list[str]]) -> None:
        self.texts = texts
        self.closed = False

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        self.stream = self._say(prompts, sampling)  # held on to, so that nothing but a close ends it
        return self.stream

    def _say(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        try:
            for prompt in reversed(prompts):
                for index, text in enumerate(self.texts.get(prompt.id, [])[: sampling.n]):
                    yield Completion(prompt.id, index, text, tokens=10, truncated=text == "")
        finally:
            self.closed = True


def test_a_majority_is_by_value_and_ties_go_to_the_answer_given_first() -> None:
    assert majority("number", ["7", "25", "25.0"]) == "25"
    assert majority("number", ["7", "25", "25", "7"]) == "7"
    assert majority("number", ["25", "7"]) == "25"
    assert majority("text", ["Nt", "no", "nt"]) == "Nt"


def test_failures_do_not_vote() -> None:
    assert majority("number", [None, None, None, "25"]) == "25"
    assert majority("number", [None, None]) is None
    assert majority("number", []) is None


def test_of_equal_votes_the_likelier_answer_wins() -> None:
    votes = ["7", "25", "25.0", "7", "3"]
    assert majority("number", votes, [0.5, 0.3, 0.6, 0.3, 0.99]) == "25"
    assert majority("number", votes, [0.5, 0.3, 0.3, 0.3, 0.99]) == "7"
    assert majority("number", votes, [0.0] * 5) == "7", "where nothing is known, the first one"
    assert majority("number", [None, *votes], [0.9, 0.1, 0.3, 0.6, 0.1, 0.99]) == "25"


def test_the_first_speaker_of_the_majority_is_kept() -> None:
    late_first = said("The answer is 7.", "hm", "So 25. The answer is 25.0.", "The answer is 25.")[::-1]
    prediction = predict(SUM, "number", late_first)
    assert (prediction.answer, prediction.correct) == ("25", True)
    assert prediction.votes == ("7", None, "25", "25")
    assert prediction.completion == "So 25. The answer is 25.0."
    tied = predict(SUM, "number", said("The answer is 7.", "The answer is 25."))
    assert (tied.answer, tied.correct) == ("7", False)
    seven, gold = said("The answer is 7.", "The answer is 25.")
    likelier = predict(SUM, "number", [replace(seven, probability=0.2), replace(gold, probability=0.3)])
    assert (likelier.answer, likelier.correct) == ("25", True)


def test_nobody_answered() -> None:
    prediction = predict(SUM, "number", said("hm", "well"))
    assert (prediction.answer, prediction.correct, prediction.votes) == (None, False, (None, None))
    assert prediction.completion == "hm"
    silent = predict(SUM, "number", [])
    assert (silent.answer, silent.correct, silent.completion, silent.votes) == (None, False, "", ())


def test_options_written_in_the_question_are_read_as_grading_reads_them() -> None:
    problem = Problem(id="sum", question="Who? Answer choices: (A) red ball, (B) blue ball.", answer="B")
    prediction = predict(problem, "choice", said("The answer is the blue ball.", "The answer is (B)."))
    assert prediction.votes == ("B", "B") and prediction.correct


def test_nothing_leaves_the_denominator() -> None:
    """Of four problems one is right, one wrong, one unreadable, and to one nothing came."""
    problems = [SUM.model_copy(update={"id": name}) for name in ("right", "wrong", "unread", "missing")]
    model = Speaker({"right": ["The answer is 25."], "wrong": ["The answer is 7."], "unread": [""]})
    predictions, summary = examine(model, problems, "number", ask(problems), GREEDY)
    assert [prediction.problem_id for prediction in predictions] == ["right", "wrong", "unread", "missing"]
    assert {key: summary[key] for key in ("problems", "correct", "accuracy", "votes")} == {
        "problems": 4,
        "correct": 1,
        "accuracy": 0.25,
        "votes": 1,
    }
    # Wilson's interval for 1 of 4 at z = 1.96: centre 0.3725, half width 0.3269
    assert (summary["low"], summary["high"]) == pytest.approx((0.0456, 0.6994), abs=1e-4)
    assert (summary["extraction_failed"], summary["truncated"]) == (2, 1)
    assert summary["mean_tokens"] == 10, "of the three completions that came"
    assert summary["tokens_per_s"] > 0


def test_tokens_are_per_completion_and_not_per_vote_asked_for() -> None:
    model = Speaker({"sum": ["The answer is 25.", "The answer is 7."]})
    _, summary = examine(model, [SUM], "number", ask([SUM]), Sampling(n=5, temperature=1.0))
    assert (summary["mean_tokens"], summary["votes"]) == (10, 5)
    _, nothing = examine(Speaker({}), [SUM], "number", ask([SUM]), GREEDY)
    assert (nothing["mean_tokens"], nothing["accuracy"]) == (0, 0)


def test_all_prompts_of_a_problem_vote_together() -> None:
    """Three passages, two votes each: one majority, in the order of index and prompt."""
    other = SUM.model_copy(update={"id": "other"})
    prompts = [Prompt(f"sum#{n}", "sum", f"Passage {n}. What is 20 + 5?", about=f"p{n}") for n in range(3)]
    prompts += ask([other])
    model = Speaker(
        {
            "sum#0": ["The answer is 7.", "The answer is 25."],
            "sum#1": ["hm", "The answer is 7."],
            "sum#2": ["The answer is 25.", "The answer is 25.0."],
            "other": ["The answer is 25.", "The answer is 1."],
        }
    )
    some = Sampling(n=2, temperature=1.0)
    predictions, summary = examine(model, [SUM, other], "number", prompts, some)
    assert [one.problem_id for one in predictions] == ["sum", "other"]
    assert predictions[0].votes == ("7", None, "25", "25", "7", "25")
    assert predictions[0].correct and predictions[1].votes == ("25", "1")
    assert (summary["problems"], summary["votes"]) == (2, 6)


def test_every_problem_needs_a_prompt_and_every_prompt_its_problem() -> None:
    for problems, prompts in (([SUM], []), ([SUM], [Prompt("a", "a", "?"), *ask([SUM])])):
        with pytest.raises(ValueError, match="do not match"):
            examine(Speaker({}), problems, "number", prompts, GREEDY)
    with pytest.raises(ValueError, match="same id"):
        examine(Speaker({}), [SUM], "number", ask([SUM]) * 2, GREEDY)


def test_no_problems_is_a_sentence() -> None:
    with pytest.raises(InputError, match="no problems to examine"):
        examine(Speaker({}), [], "number", ask([]), GREEDY)


def test_an_exam_left_early_closes_the_speaker() -> None:
    class Broken:
        def __enter__(self) -> "Broken":
            return self

        def __exit__(self, *_: object) -> None: ...

        def __call__(self, done: int, note: str = "", total: int | None = None) -> None:
            raise KeyboardInterrupt

    model = Speaker({"sum": ["25"]})
    with pytest.raises(KeyboardInterrupt):
        examine(model, [SUM], "number", ask([SUM]), GREEDY, track=lambda what, total: Broken())
    assert model.closed


def test_a_speed_is_told_only_where_it_was_measured(tmp_path: Path) -> None:
    log = tmp_path / "memory.jsonl"
    problems = [SUM, SUM.model_copy(update={"id": "other"})]
    model = Speaker({"sum": ["The answer is 25."], "other": ["The answer is 7."]})

    def exam(some: Sequence[Problem], *, timed: bool = True) -> float:
        remembered = Remembered(model, log, key={"name": "model"})
        _, summary = examine(remembered, some, "number", ask(some), GREEDY, timed=timed)
        return float(summary["tokens_per_s"])

    assert exam(problems[:1], timed=False) == 0, "words are no tokens"
    log.unlink()
    assert exam(problems[:1]) > 0
    assert exam(problems) == 0, "one of the two came from memory"


def test_progress_begins_behind_what_was_read_back(tmp_path: Path) -> None:
    problems = [SUM.model_copy(update={"id": f"p{n}"}) for n in range(5)]
    texts = {problem.id: ["The answer is 25."] for problem in problems}
    log = tmp_path / "completions.log"

    class Seen(list[int]):
        def __enter__(self) -> "Seen":
            return self

        def __exit__(self, *_: object) -> None: ...

        def __call__(self, done: int, note: str = "", total: int | None = None) -> None:
            self.append(done)

    for expected in ([0, 1, 2, 3, 4, 5], [3, 4, 5]):
        seen = Seen()
        model = Chunks(Speaker(texts), log, size=3)
        examine(model, problems, "number", ask(problems), GREEDY, track=lambda *_, seen=seen: seen)
        assert seen == expected
        log.write_text(log.read_text().split("\n")[0] + "\n")


def test_what_a_student_folder_says(tmp_path: Path) -> None:
    assert about_model(str(tmp_path)) == {}
    (tmp_path / "limbeck.json").write_text(json.dumps({"format": "arrow", "max_tokens": 7, "task": "own"}))
    assert about_model(str(tmp_path)) == {"format": "arrow", "max_tokens": 7, "task": "own"}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "null",
        "[]",
        '{"format": null}',
        '{"format": "prose"}',
        '{"format": ["plain"]}',
        '{"max_tokens": 0}',
        '{"max_tokens": "9"}',
        '{"max_tokens": 2.5}',
        '{"max_tokens": true}',
        '{"max_tokens": null}',
    ],
)
def test_a_damaged_student_folder_is_named_with_the_fix(tmp_path: Path, text: str) -> None:
    (tmp_path / "limbeck.json").write_text(text)
    with pytest.raises(ModelError, match=r"limbeck\.json: .*delete the file"):
        about_model(str(tmp_path))


def test_old_numbers_do_not_stay_next_to_new_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill while a finished exam is replaced leaves none, not a mixture."""
    (tmp_path / "metrics.json").write_text("{}")

    def killed(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exam, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        exam.write_exam(
            tmp_path, [], {}, ExamFacts(role="exam", name="e", model="m", split="test", task="t", kind="text")
        )
    assert not (tmp_path / "metrics.json").exists()
