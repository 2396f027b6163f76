"""Another process: does the trainings that a JSON file lists, and kills itself where it says so."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from limbeck.records import Example
from limbeck.training.parts import FineTune
from limbeck.training.settings import TrainSettings
from limbeck.training.trainer import train


def kill_at_write(number):
    """Kill this process at the n-th file that torch writes: half a checkpoint then stands there."""
    write, written = torch.save, []

    def killing(*args, **kwargs):
        written.append(1)
        if len(written) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        write(*args, **kwargs)

    torch.save = killing


class Stop(Exception):
    """Stands for a kill of all processes between two steps."""


class Stopping(FineTune):
    """Stops every process in the step after `steps` (of one micro-batch each)."""

    def __init__(self, encoder_decoder, steps):
        super().__init__(encoder_decoder)
        object.__setattr__(self, "left", [None] * steps)

    def count(self, batch):
        if torch.is_grad_enabled():  # not in an evaluation
            if not self.left:
                raise Stop
            self.left.pop()
        return super().count(batch)


def do(job, objective):
    folder = Path(job["folder"])
    load = AutoModelForSeq2SeqLM if job["encoder_decoder"] else AutoModelForCausalLM
    model = load.from_pretrained(job["model"])
    if job.get("kill_at_write"):
        kill_at_write(job["kill_at_write"])
    trained = train(
        model,
        AutoTokenizer.from_pretrained(job["tokenizer"]),
        [Example(**example) for example in job["examples"]],
        [Example(**example) for example in job["dev"]],
        objective,
        TrainSettings(**job["settings"]),
        folder,
        seed=job["seed"],
    )
    if int(os.environ.get("RANK", "0")) == 0:
        model.save_pretrained(folder / "model")
        (folder / "resumed_from").write_text(str(trained.resumed_from))


if __name__ == "__main__":
    for one in json.loads(Path(sys.argv[1]).read_text()):
        if one.get("stop_after"):
            with suppress(Stop):
                do(one, Stopping(one["encoder_decoder"], one["stop_after"]))
        do(one, FineTune(one["encoder_decoder"]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
