"""Chunks: what a kill costs, and that what follows it is what would have come anyway."""

import json
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from limbeck.errors import DataError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm.chunks import Chunks
from limbeck.sequences import Made

GREEDY = Sampling()
PROMPTS = [Prompt(f"p{n}", f"p{n}", "x" * (20 - n)) for n in range(10)]  # shorter and shorter
CHUNKS = [("p9", "p8", "p7"), ("p6", "p5", "p4"), ("p3", "p2", "p1"), ("p0",)]


class Speaker:
    """Notes the batches it is given; falls over at the prompts `stumbles`."""

    name = "model"

    def __init__(self, stumbles: Sequence[str] = ()) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.stumbles = stumbles
        self.written: list[str] = []
        self.closed = 0

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        self.calls.append(tuple(prompt.id for prompt in prompts))
        self.stream = self._say(prompts, sampling)  # held on to, so that nothing but a close ends it
        return self.stream

    def _say(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        try:
            for prompt in prompts:
                if prompt.id in self.stumbles:
                    raise RuntimeError("power cut")
                self.written.append(prompt.id)
                for index in range(sampling.n):
                    place = f"{len(prompts)}:{prompts.index(prompt)}"  # what is said depends on the batch
                    yield Completion(
                        prompt.id, index, f"é {prompt.id} {place}", tokens=3, truncated=index > 0
                    )
        finally:
            self.closed += 1


class Rows(Speaker):
    """One that says how many completions it makes side by side."""

    max_rows = 2


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "completions.log"


def test_prompts_are_cut_by_length_and_then_by_id(log: Path) -> None:
    model = Speaker()
    alike = [Prompt("b", "b", "same"), Prompt("a", "a", "same"), Prompt("c", "c", "s")]
    said = list(Chunks(model, log, size=2)(alike, GREEDY))
    assert model.calls == [("c", "a"), ("b",)]
    assert [completion.prompt_id for completion in said] == ["c", "a", "b"]


def test_one_chunks_prompts_and_completions_are_held_at_a_time(log: Path) -> None:
    """Each prompt has 2,000 characters, and so has each completion; also where all are read back."""

    class Wordy(Speaker):
        def _say(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
            for prompt in prompts:
                yield Completion(prompt.id, 0, prompt.text)

    prompts = Made(range(400), lambda number: Prompt(f"p{number}", f"p{number}", f"{number:04}" * 500))
    for remembered in (0, 400):
        chunks = Chunks(Wordy(), log, size=4)
        tracemalloc.start()
        try:
            assert sum(len(one.text) for one in chunks(prompts, GREEDY)) == 400 * 2000
            assert tracemalloc.get_traced_memory()[1] < 400 * 1000
        finally:
            tracemalloc.stop()
        assert chunks.from_memory == remembered


def test_an_exception_in_the_third_chunk_costs_that_chunk_only(log: Path) -> None:
    calm = list(Chunks(Speaker(), log.with_name("calm.log"), size=3)(PROMPTS, GREEDY))
    struck = Speaker(stumbles=["p2"])
    seen = []
    with pytest.raises(RuntimeError):
        for completion in Chunks(struck, log, size=3)(PROMPTS, GREEDY):
            seen.append(completion)
    assert struck.calls == CHUNKS[:3]
    assert seen == calm[:7], "the third chunk's first completion came before the chunk was whole"

    again = Speaker()
    resumed = Chunks(again, log, size=3)
    assert list(resumed(PROMPTS, GREEDY)) == calm
    assert again.calls == CHUNKS[2:], "whole chunks are not run again, the others in the same batches"
    assert resumed.from_memory == 6

    nothing = Speaker()
    assert list(Chunks(nothing, log, size=3)(PROMPTS, GREEDY)) == calm
    assert nothing.calls == []


def texts(log: Path) -> list[object]:
    return [json.loads(line)["completions"] for line in log.read_text().splitlines()]


def test_a_torn_last_line_is_cut_off_and_its_chunk_runs_again(log: Path) -> None:
    calm = list(Chunks(Speaker(), log, size=3)(PROMPTS, GREEDY))
    whole = texts(log)
    log.write_bytes(log.read_bytes()[:-10])
    model = Speaker()
    assert list(Chunks(model, log, size=3)(PROMPTS, GREEDY)) == calm
    assert model.calls == CHUNKS[3:]
    assert texts(log) == whole


@pytest.mark.parametrize(
    "damage",
    [b'{"chunk": 1, "secon', b"\xff\xfe", b'{"chunk": 1}', b"[]", b'{"chunk": "one"}', None],
)
def test_a_damaged_line_is_told_and_completed_again(log: Path, damage: bytes | None) -> None:
    """None: one letter of a text is another one, and the line is as good a chunk as before."""
    calm = list(Chunks(Speaker(), log, size=3)(PROMPTS, GREEDY))
    lines = log.read_bytes().split(b"\n")
    at = lines[1].index(b'"text"') + 10
    other = lines[1][:at] + bytes([lines[1][at] ^ 1]) + lines[1][at + 1 :]
    log.write_bytes(b"\n".join([lines[0], other if damage is None else damage, *lines[2:]]))
    model, said = Speaker(), []
    assert list(Chunks(model, log, size=3, say=said.append)(PROMPTS, GREEDY)) == calm
    assert model.calls == CHUNKS[1:2]
    assert len(said) == 1 and "completions.log:2: damaged (" in said[0]


def test_a_log_of_other_chunks_is_refused(log: Path) -> None:
    list(Chunks(Speaker(), log, size=3)(PROMPTS, GREEDY))
    with pytest.raises(DataError, match=r"completions\.log:1: completions of other prompts"):
        list(Chunks(Speaker(), log, size=5)(PROMPTS, GREEDY))


def test_a_chunk_is_a_few_batches(log: Path) -> None:
    assert Chunks(Speaker(), log).size == 128
    model = Rows()
    list(Chunks(model, log)(PROMPTS[:6], GREEDY))
    assert [len(call) for call in model.calls] == [4, 2]
    votes = Rows()
    list(Chunks(votes, log.with_name("votes"))(PROMPTS[:5], Sampling(n=2, temperature=1.0)))
    assert [len(call) for call in votes.calls] == [2, 2, 1], "four completions each"
    many = Rows()
    list(Chunks(many, log.with_name("many"))(PROMPTS[:2], Sampling(n=9, temperature=1.0)))
    assert [len(call) for call in many.calls] == [1, 1], "a prompt is never cut"


def test_leaving_early_stops_the_speaker_and_keeps_whole_chunks(log: Path) -> None:
    model = Speaker()
    stream = Chunks(model, log, size=3)(PROMPTS, GREEDY)
    for _ in range(4):
        next(stream)
    assert model.written == ["p9", "p8", "p7", "p6"], "nothing is made ahead of the reader"
    stream.close()  # type: ignore[attr-defined]
    assert model.closed == 2
    assert len(log.read_text().splitlines()) == 1


def test_seconds_are_the_speakers_alone_and_survive(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Slow(Speaker):
        def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
            nonlocal now
            for completion in super().__call__(prompts, sampling):
                now += 2
                yield completion

    monkeypatch.setattr("limbeck.lm.chunks.time.monotonic", lambda: now)
    first = Chunks(Slow(["p2"]), log, size=3)
    with pytest.raises(RuntimeError):
        for _ in first(PROMPTS, GREEDY):
            now += 100
    assert first.seconds == 12
    second = Chunks(Slow(), log, size=3)
    for _ in second(PROMPTS, GREEDY):
        now += 100
    assert second.seconds == 20
