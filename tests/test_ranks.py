"""Several ranks: they meet, share stages and chunks, and end together when one fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from limbeck import ranks
from limbeck.run_folder import open_run

from . import ranks_worker
from .commands import Started, finish, ranks_of

WORKER = Path(__file__).with_name("ranks_worker.py")


def environment(**more: str) -> dict[str, str]:
    source = str(Path(__file__).parents[1] / "src")
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **more}


def launch(what: str, folder: Path, *more: str, world: int = 2) -> list[tuple[int, str, str]]:
    """Start the ranks without a launcher; each one's exit status, and what it wrote on both streams."""
    words = [what, str(folder), *more]
    return finish([Started(words, about, ranks_worker.main) for about in ranks_of(world)])


def test_one_process_is_rank_0_and_loads_no_torch() -> None:
    assert (ranks.rank(), ranks.world(), ranks.local(), ranks.main()) == (0, 1, 0, True)
    assert ranks.share("x") == "x" and ranks.gather("x") == ["x"]
    code = (
        "import sys; from limbeck import ranks\n"
        "with ranks.together(): ranks.barrier(); ranks.group(); ranks.share(1); ranks.pause()\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), check=False)
    assert done.returncode == 0


def test_two_ranks_under_torchrun_do_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, WORKER, "all-well", tmp_path],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert made == ["all-0", "all-1", "alone-0"], "the first stage is work of rank 0, the second of all"
    lines = [line for line in done.stderr.splitlines() if line.startswith(("first:", "second:"))]
    assert [line.split(" in ")[0] for line in lines] == [
        "first: started",
        "first: done",
        "second: started",
        "second: done",
        "first: done before, kept",
        "second: done before, kept",
    ], "each line once"
    (ends,) = set(done.stdout.split()) - {"ends"}
    state = json.loads((tmp_path / "run" / "second" / "stage.json").read_text())
    assert state["fingerprint"].startswith(ends), "every rank knows the stage by the same fingerprint"
    assert "world" not in json.dumps(state)


def test_all_ranks_end_well_where_they_were_asked_to(tmp_path: Path) -> None:
    found = launch("ends-early", tmp_path)
    assert [status for status, _, _ in found] == [0, 0], found
    errors = "".join(error for _, _, error in found)
    assert errors.count("first is done: the run ends here") == 1
    assert not (tmp_path / "run" / "second").exists() and "ends" not in found[0][1] + found[1][1]


@pytest.mark.parametrize(
    ("what", "status", "says"),
    [
        ("both-wrong", 2, "limbeck: the recipe is wrong"),
        ("first-wrong", 2, "limbeck: rank 0 is wrong"),
        ("second-wrong", 1, "limbeck: rank 1 is wrong"),
        ("first-interrupted", 130, "limbeck: interrupted"),
        ("second-fails-in-training", 1, "limbeck: the loss is not finite"),
    ],
)
def test_when_one_fails_all_end_and_one_says_why(tmp_path: Path, what: str, status: int, says: str) -> None:
    began = time.monotonic()
    found = launch(what, tmp_path)
    assert [one for one, _, _ in found] == [status, status], found
    errors = "".join(error for _, _, error in found)
    assert errors.count("limbeck: ") == errors.count(says) == 1, errors
    assert "Traceback" not in errors
    assert time.monotonic() - began < 60


def test_a_rank_that_is_killed_leaves_nobody_waiting_for_its_gradient(tmp_path: Path) -> None:
    (first, _, errors), (second, _, _) = launch("second-is-killed-in-training", tmp_path)
    assert (first, second) == (1, -signal.SIGKILL)
    assert errors.count("limbeck: another process of this run was killed; the same command goes on") == 1


def test_a_folder_in_use_is_told_once(tmp_path: Path) -> None:
    with open_run(tmp_path, "x", print):
        found = launch("folder-in-use", tmp_path)
    assert [status for status, _, _ in found] == [2, 2]
    errors = "".join(error for _, _, error in found)
    assert errors.count(f"process {os.getpid()} is running in this folder") == 1 and "Traceback" not in errors


# --- chunks


def said(folder: Path, rank: int = 0) -> Any:
    return json.loads((folder / f"said-{rank}.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process says."""
    folder = tmp_path_factory.mktemp("alone")
    assert launch("chunks", folder, world=1)[0][0] == 0
    return said(folder)["said"]


def numbers(log: Path) -> list[int]:
    return [json.loads(line)["chunk"] for line in log.read_text().splitlines()]


def test_chunks_are_shared_out_and_say_what_one_process_says(tmp_path: Path, alone: Any) -> None:
    found = launch("chunks", tmp_path, "keep")
    assert [status for status, _, _ in found] == [0, 0], found
    assert said(tmp_path, 0)["said"] == said(tmp_path, 1)["said"] == alone
    log = tmp_path / "completions.log"
    assert numbers(log) == list(range(0, 13, 2))
    assert numbers(log.with_name("completions.log.1")) == list(range(1, 13, 2))
    sums = [
        sum(json.loads(line)["seconds"] for line in path.read_text().splitlines())
        for path in (log, log.with_name("completions.log.1"))
    ]
    assert said(tmp_path, 0)["seconds"] == said(tmp_path, 1)["seconds"] == pytest.approx(max(sums))


@pytest.mark.parametrize(("before", "after"), [(("stumbles", 2), 1), (("dies", 1), 2)], ids=str)
def test_chunks_go_on_with_another_number_of_ranks(
    tmp_path: Path, alone: Any, before: tuple[str, int], after: int
) -> None:
    how, world = before
    more = ["p7", ""] if how == "stumbles" else ["", "p7"]
    found = launch("chunks", tmp_path, "keep", *more, world=world)
    assert all(status != 0 for status, _, _ in found)
    logs = sorted(tmp_path.glob("completions.log*"))
    whole = sorted(number for log in logs for number in numbers(log))
    assert 0 < len(whole) < 13
    with logs[-1].open("a") as log:
        log.write('{"chunk": 12, "secon')  # torn by the kill
    found = launch("chunks", tmp_path, "forget", world=after)
    assert [status for status, _, _ in found] == [0] * after, found
    for rank in range(after):
        assert said(tmp_path, rank)["said"] == alone
        assert said(tmp_path, rank)["from_memory"] == 4 * len(whole)
    assert not list(tmp_path.glob("completions.log*")), "all logs are forgotten, of ranks that are gone too"
