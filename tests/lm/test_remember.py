"""What was completed once is never asked again, whatever happens to the process or the disk."""

import json
import pickle
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from limbeck.errors import DiskError, RunInUseError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm.cost import Receipt, Request
from limbeck.lm.remember import Entry, Remembered, ledger_of

from ..disk import disk_of

PROMPTS = [Prompt(f"p{i}", f"p{i}", f"What is {i} + {i}?") for i in range(5)]
FOUR = Sampling(n=4, temperature=0.7)


def said(request: Request, sampling: Sampling) -> str:
    """What the models of these tests say: it depends on everything that a draw depends on."""
    return f"{request.prompt.text} {sampling.seed} {request.prompt.id} {request.index} “é”\u2028\n🙂"


class Whole:
    """Completes whole prompts, as a local model does; counts what it was asked."""

    name = "whole"

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, int]] = Counter()

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        for prompt in prompts:
            for index in range(sampling.n):
                self.asked[prompt.id, index] += 1
                yield Completion(prompt.id, index, said(Request(prompt, index), sampling), 7, index == 1)


class Single(Whole):
    """Can be asked for single completions, as an API; dies after `lives` of them."""

    def __init__(self, lives: int = 10**6) -> None:
        super().__init__()
        self.lives = lives

    def ask(
        self, requests: Sequence[Request], sampling: Sampling, keep: Callable[[Receipt], None]
    ) -> Generator[Receipt, None, None]:
        for request in requests:
            if len(self.asked) == self.lives:
                raise KeyboardInterrupt
            self.asked[request.prompt.id, request.index] += 1
            text = said(request, sampling)
            receipt = Receipt(Completion(request.prompt.id, request.index, text, 3, cost_usd=0.5), 10, 4)
            keep(receipt)
            yield receipt


def remembered(asked: Whole, path: Path, **key: str) -> Remembered:
    ask = asked.ask if isinstance(asked, Single) else None
    return Remembered(asked, path, key=key or {"model": "m"}, ask=ask)


@pytest.mark.parametrize("kind", [Whole, Single])
def test_a_second_pass_asks_nothing_and_says_the_same(tmp_path: Path, kind: type[Whole]) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    first = list(remembered(kind(), path)(PROMPTS, FOUR))
    silent = kind()
    memory = remembered(silent, path)
    assert not memory.missing(PROMPTS, FOUR)
    assert list(memory(PROMPTS, FOUR)) == first
    assert not silent.asked
    assert memory.from_memory == 20
    assert memory.name == "whole"


def test_completions_are_yielded_as_they_come(tmp_path: Path) -> None:
    model = Single()
    stream = remembered(model, tmp_path / "log.jsonl")(PROMPTS, FOUR)
    for count in range(1, 4):
        next(stream)
        assert sum(model.asked.values()) == count
        assert len((tmp_path / "log.jsonl").read_bytes().splitlines()) == count


def test_six_after_four_pays_two(tmp_path: Path) -> None:
    remembered_four = remembered(Single(), tmp_path / "log.jsonl")
    assert len(list(remembered_four(PROMPTS, FOUR))) == 20
    model = Single()
    got = list(remembered(model, tmp_path / "log.jsonl")(PROMPTS, replace(FOUR, n=6)))
    assert {(c.prompt_id, c.index) for c in got} == {(p.id, i) for p in PROMPTS for i in range(6)}
    assert set(model.asked) == {(p.id, i) for p in PROMPTS for i in (4, 5)}


def test_a_speaker_of_whole_prompts_repeats_but_is_never_heard_twice(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert len(list(remembered(Whole(), path)(PROMPTS, FOUR))) == 20
    got = list(remembered(Whole(), path)(PROMPTS, replace(FOUR, n=6)))
    assert len({(c.prompt_id, c.index) for c in got}) == len(got) == 30
    assert len(path.read_bytes().splitlines()) == 30


def test_an_interrupted_collection_pays_only_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with pytest.raises(KeyboardInterrupt):
        list(remembered(Single(lives=7), path)(PROMPTS, FOUR))
    model = Single()
    assert len(list(remembered(model, path)(PROMPTS, FOUR))) == 20
    assert sum(model.asked.values()) == 13
    assert ledger_of(path).usd == 10.0


def test_a_reader_that_stops_early_loses_nothing(tmp_path: Path) -> None:
    stream = remembered(Single(), tmp_path / "log.jsonl")(PROMPTS, FOUR)
    got = [next(stream) for _ in range(3)]
    del stream
    memory = remembered(Single(lives=0), tmp_path / "log.jsonl")
    assert list(memory(PROMPTS[:1], replace(FOUR, n=3))) == got


@pytest.mark.parametrize(
    "sampling",
    [
        replace(FOUR, temperature=0.8),
        replace(FOUR, top_p=0.9),
        replace(FOUR, top_k=5),
        replace(FOUR, max_tokens=9),
        replace(FOUR, seed=1),
    ],
)
def test_other_sampling_is_asked_anew(tmp_path: Path, sampling: Sampling) -> None:
    memory = remembered(Single(), tmp_path / "log.jsonl")
    assert len(list(memory(PROMPTS, FOUR))) == 20
    assert len(memory.missing(PROMPTS, sampling)) == 20


def test_one_degree_is_one_degree(tmp_path: Path) -> None:
    """A recipe may say `temperature: 1` today and `1.0` tomorrow."""
    memory = remembered(Single(), tmp_path / "log.jsonl")
    assert len(list(memory(PROMPTS, Sampling(temperature=1)))) == 5
    assert not memory.missing(PROMPTS, Sampling(temperature=1.0))


def test_other_speakers_texts_and_ids_are_asked_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert len(list(remembered(Single(), path, model="a")(PROMPTS, FOUR))) == 20
    assert len(remembered(Single(), path, model="b").missing(PROMPTS, FOUR)) == 20
    memory = remembered(Single(), path, model="a")
    assert len(memory.missing([Prompt("p0", "p0", "What is 1 + 2?")], FOUR)) == 4
    assert len(memory.missing([Prompt("new", "new", PROMPTS[0].text)], FOUR)) == 4


def test_two_problems_with_one_text_get_completions_of_their_own(tmp_path: Path) -> None:
    twins = [Prompt("a", "a", "Same?"), Prompt("b", "b", "Same?")]
    first = list(remembered(Single(), tmp_path / "log.jsonl")(twins, FOUR))
    assert len({c.text for c in first}) == 8
    assert list(remembered(Single(lives=0), tmp_path / "log.jsonl")(twins, FOUR)) == first


def test_answers_paid_for_by_earlier_versions_are_found_again(tmp_path: Path) -> None:
    """The keys that 0.1.0 wrote; a system prompt of the prompt's own makes another one."""
    log = tmp_path / "log.jsonl"
    sampling = Sampling(n=2, temperature=0.7, max_tokens=50)
    keys = ["6be0246f11361207b265efdd1cf05f72", "2e4577591655a706511d59fd0096b534"]
    for index, key in enumerate(keys):
        entry = Entry(
            key=key, prompt_id="p0", index=index, text="old", tokens=1, truncated=False, cost_usd=0.0
        )
        with log.open("a") as stream:
            stream.write(entry.model_dump_json() + "\n")
    identity = {"where": "http://teacher.test/v1", "model": "big", "system": None}
    memory = Remembered(Whole(), log, key=identity)
    prompt = Prompt("p0", "p0", "What is 0 + 0?")
    assert [one.text for one in memory([prompt], sampling)] == ["old", "old"]
    assert len(memory.missing([replace(prompt, system="Be brief.")], sampling)) == 2
    assert not memory.missing([replace(prompt, problem_id="p", about="m")], sampling)


def test_two_prompts_with_one_id_are_refused(tmp_path: Path) -> None:
    memory = remembered(Single(), tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="same id"):
        memory([Prompt("a", "a", "One?"), Prompt("a", "a", "Two?")], FOUR)


@pytest.mark.parametrize("cut", [1, 2, 40, -1])
def test_a_torn_last_line_is_cut_off_and_asked_again(tmp_path: Path, cut: int) -> None:
    """SIGKILL in the middle of an append leaves the beginning of a line."""
    path = tmp_path / "log.jsonl"
    first = list(remembered(Single(), path)(PROMPTS, FOUR))
    lines = path.read_bytes().splitlines(keepends=True)
    torn = b"".join(lines[:-1]) + lines[-1][:cut]
    path.write_bytes(torn)
    model = Single()
    memory = remembered(model, path)
    assert path.read_bytes() == torn, "reading leaves the file alone"
    assert list(memory(PROMPTS, FOUR)) == first
    assert sum(model.asked.values()) == 1
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("line", ["{}", "no json", '{"key": "zz"', "[1]", "a letter", "a key"])
def test_what_is_whole_is_used_and_the_rest_asked_again(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    first = list(remembered(Single(), path)(PROMPTS, FOUR))
    lines = path.read_text().split("\n")
    third = lines[2]
    at = third.index('"text": "') + 10
    changed = {
        "a letter": third[:at] + chr(ord(third[at]) ^ 1) + third[at + 1 :],
        "a key": third.replace('"key": "', '"key": "x', 1),
    }
    lines[2] = changed.get(line, line)
    path.write_text("\n".join(lines))
    model, said = Single(), []
    memory = Remembered(model, path, key={"model": "m"}, ask=model.ask, say=said.append)
    assert len(said) == 1 and "log.jsonl:3: damaged, 1 lines in all" in said[0]
    assert memory.ledger.usd == 10.0, "what the damaged line had cost is not forgotten"
    assert sorted(memory(PROMPTS, FOUR), key=str) == sorted(first, key=str)
    assert sum(model.asked.values()) == 1
    assert list(remembered(Single(), path)(PROMPTS, FOUR)) == first


def test_a_full_disk_is_an_error_and_what_arrived_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    memory = remembered(Single(), path)
    got = []
    with disk_of(2_000), pytest.raises(DiskError, match=r"log\.jsonl: .*free the space"):
        got.extend(memory(PROMPTS, FOUR))
    log = path.read_bytes()
    assert log.endswith(b"\n"), "the half-written line is taken back"
    assert 3 < len(log.splitlines()) < 20
    model = Single()
    rest = list(remembered(model, path)(PROMPTS, FOUR))
    assert len(rest) == 20
    assert sum(model.asked.values()) == 20 - len(log.splitlines())


def test_the_same_memory_goes_on_after_space_was_freed(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    memory = remembered(Single(), path)
    with disk_of(2_000), pytest.raises(DiskError):
        list(memory(PROMPTS, FOUR))
    assert len(list(memory(PROMPTS, FOUR))) == 20
    assert len(path.read_bytes().splitlines()) == 20


def test_a_place_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        list(remembered(Single(), tmp_path / "file" / "log.jsonl")(PROMPTS, FOUR))
    with pytest.raises(DiskError):
        remembered(Single(), tmp_path)


def test_a_second_writer_is_noticed_before_anything_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    one, two = remembered(Single(), path), remembered(Single(), path)
    assert len(list(one(PROMPTS[:2], FOUR))) == 8
    with pytest.raises(RunInUseError, match="another process"):
        list(two(PROMPTS, FOUR))
    assert len(remembered(Single(), path).missing(PROMPTS, FOUR)) == 12


def test_the_log_holds_neither_prompt_nor_identity(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    memory = Remembered(Single(), path, key={"model": "m", "where": "secret.example"}, ask=Single().ask)
    list(memory([Prompt("p", "p", "x")], FOUR))
    assert b"secret.example" not in path.read_bytes()
    fields = set(json.loads(path.read_text().split("\n")[0]))
    assert {"prompt_id", "index", "text", "tokens", "truncated", "cost_usd"} < fields


def test_texts_stay_on_disk(tmp_path: Path) -> None:
    """A log of long texts costs memory for its keys only."""
    path = tmp_path / "log.jsonl"
    memory = remembered(Single(), path)
    long = [Prompt(f"p{i}", f"p{i}", "x" * 100_000) for i in range(20)]
    list(memory(long, Sampling()))
    assert path.stat().st_size > 2_000_000
    held = pickle.dumps((memory._offsets, memory.ledger))
    assert len(held) < 2_000


def test_the_ledger_totals_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert ledger_of(path).requests == 0
    memory = remembered(Single(), path)
    list(memory(PROMPTS, FOUR))
    for ledger in (memory.ledger, ledger_of(path)):
        assert (ledger.requests, ledger.input_tokens, ledger.output_tokens, ledger.usd) == (20, 200, 80, 10.0)


def test_half_an_emoji_is_kept(tmp_path: Path) -> None:
    class Broken(Whole):
        def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
            yield Completion(prompts[0].id, 0, "\ud83d")

    for _ in range(2):
        memory = remembered(Broken(), tmp_path / "log.jsonl")
        assert [c.text for c in memory(PROMPTS[:1], Sampling())] == ["\ud83d"]
    assert memory.from_memory == 1
