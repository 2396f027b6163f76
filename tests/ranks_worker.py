"""One rank of a command: does what its first argument says, in the folder of its second."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from limbeck import ranks
from limbeck.errors import InputError, LimbeckError
from limbeck.lm import Completion, Prompt, Sampling
from limbeck.lm.chunks import Chunks
from limbeck.run_folder import Run, open_run, plan

PROMPTS = [Prompt(f"p{n}", f"p{n}", "x" * (30 - n)) for n in range(25)]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def note(folder: Path, name: str) -> None:
    (folder / f"{name}-{os.environ.get('RANK', '0')}").touch()


def meet(folder: Path) -> None:
    """Values reach everybody, large ones too; inside `alone` a rank is the only one."""
    mine = ranks.rank()
    assert ranks.world() == 2 and ranks.main() == (mine == 0) and ranks.local() == mine
    assert ranks.share({"from": mine}) == {"from": 0}
    assert ranks.gather(mine) == [0, 1]
    assert len(ranks.share("x" * (9 << 20))) == 9 << 20
    for number in range(50):
        assert ranks.gather((mine, number)) == [(0, number), (1, number)]
    with ranks.alone():
        assert ranks.main() and ranks.world() == 1 and ranks.gather(mine) == [mine]
    ranks.barrier()


def stages(run: Run, folder: Path) -> None:
    """One stage for the first rank, one for all, and one that is asked for only."""

    def alone(place: Path) -> None:
        assert ranks.world() == 1
        note(folder, "alone")
        (place / "out.txt").write_text("first")

    def all_of_us(place: Path) -> None:
        import torch
        from torch import distributed

        note(folder, "all")
        total = torch.tensor([float(ranks.rank() + 1)])
        distributed.all_reduce(total)
        assert total.item() == 3
        if ranks.main():
            (place / "out.txt").write_text("all")

    first = run.stage("first", plan({"x": 1}), {}, alone)
    assert (first.folder / "out.txt").read_text() == "first"
    second = run.stage("second", plan({}), {"first": first.fingerprint}, all_of_us, everyone=True)
    assert run.is_done("second", plan({}), {"first": first.fingerprint})
    assert not run.is_done("second", plan({}), {})
    run.describe("name: x\n", {"recipe": "x"})
    print("ends", second.fingerprint[:8], flush=True)


def trainer(folder: Path) -> None:
    """The library takes the process group that it finds, and its patience with it."""
    ranks.group()
    from torch.distributed import distributed_c10d as c10d
    from transformers import TrainingArguments

    arguments = TrainingArguments(str(folder), use_cpu=True, report_to=[])
    assert arguments.world_size == 2 and arguments.process_index == ranks.rank()
    assert arguments.device.type == "cpu"
    assert c10d._get_default_group().name() == "gloo"


def in_a_stage(who: int, everyone: bool, error: BaseException) -> None:
    """One rank fails in the work of a stage while the other waits or works."""

    def work(place: Path) -> None:
        if int(os.environ["RANK"]) == who:
            time.sleep(0.3)
            raise error

    with open_run(Path(sys.argv[2]) / "run", "x", say) as run:
        run.stage("a", plan({}), {}, work, everyone=everyone)
        ranks.barrier()


def in_a_collective(who: int, how: str) -> None:
    """One rank fails while the other waits for its gradient."""
    ranks.group()
    import torch
    from torch import distributed

    ranks.barrier()
    if ranks.rank() == who:
        time.sleep(0.3)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise LimbeckError("the loss is not finite")
    distributed.all_reduce(torch.ones(3))


class Talker:
    """What it says depends on who is in the batch; falls over, or dies, at one prompt."""

    name = "model"
    max_rows = 2

    def __init__(self, stumbles: str, dies: str) -> None:
        self.stumbles, self.dies = stumbles, dies

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completion]:
        for place, prompt in enumerate(prompts):
            if prompt.id == self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            if prompt.id == self.stumbles:
                raise InputError(f"stumbled at {prompt.id}")
            time.sleep(0.01)
            for index in range(sampling.n):
                yield Completion(prompt.id, index, f"é {prompt.id} {len(prompts)}:{place}", 3)


def chunks(folder: Path, stumbles: str = "", dies: str = "") -> None:
    made = Chunks(Talker(stumbles, dies), folder / "completions.log")
    said = [(one.prompt_id, one.index, one.text) for one in made(PROMPTS, Sampling(n=2, temperature=1.0))]
    note = {"said": said, "from_memory": made.from_memory, "seconds": made.seconds}
    (folder / f"said-{ranks.rank()}.json").write_text(json.dumps(note))
    if len(sys.argv) > 3 and sys.argv[3] == "forget":
        made.forget()


def do(what: str, folder: Path) -> None:
    if what == "all-well":
        meet(folder)
        trainer(folder)
        for _ in range(2):
            with open_run(folder / "run", "x", say) as run:
                stages(run, folder)
    elif what == "ends-early":
        with open_run(folder / "run", "x", say, until="first") as run:
            stages(run, folder)
    elif what == "both-wrong":
        raise InputError("the recipe is wrong")
    elif what == "first-wrong":
        in_a_stage(0, False, InputError("rank 0 is wrong"))
    elif what == "second-wrong":
        in_a_stage(1, True, LimbeckError("rank 1 is wrong"))
    elif what == "first-interrupted":
        in_a_stage(0, False, KeyboardInterrupt())
    elif what == "second-fails-in-training":
        in_a_collective(1, "raise")
    elif what == "second-is-killed-in-training":
        in_a_collective(1, "kill")
    elif what == "folder-in-use":
        with open_run(folder, "x", say):
            raise AssertionError
    elif what == "chunks":
        chunks(folder, *sys.argv[4:])
    else:
        raise AssertionError(what)


def main() -> None:
    try:
        with ranks.together():
            do(sys.argv[1], Path(sys.argv[2]))
    except LimbeckError as wrong:
        say(f"limbeck: {wrong}")
        sys.exit(wrong.exit_status)
    except KeyboardInterrupt:
        say("limbeck: interrupted")
        sys.exit(ranks.INTERRUPTED)


if __name__ == "__main__":
    main()
