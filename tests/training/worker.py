"""Another process: does the trainings that a JSON file lists, and kills itself where it says so."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from limbeck import ranks
from limbeck.records import Example
from limbeck.training import trainer
from limbeck.training.groups import singles
from limbeck.training.parts import CrossEntropy
from limbeck.training.settings import TrainSettings


def kill_at_write(number):
    """Kill this process at the n-th file that torch writes: half a checkpoint then stands there."""
    write, written = torch.save, []

    def killing(*args, **kwargs):
        written.append(1)
        if len(written) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        write(*args, **kwargs)

    torch.save = killing


def kill_at_step(number):
    """Kill this process, with its rank, in the middle of the n-th step: before it reads the losses."""
    read = trainer.PartsTrainer.read_step

    def killing(self):
        if self.state.global_step + 1 == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self)

    trainer.PartsTrainer.read_step = killing


def do(job):
    folder = Path(job["folder"])
    load = AutoModelForSeq2SeqLM if job["encoder_decoder"] else AutoModelForCausalLM
    model = load.from_pretrained(job["model"])
    if job.get("kill_at_write"):
        kill_at_write(job["kill_at_write"])
    kill_at_step(job.get("kill", {}).get(str(ranks.rank())))
    trained = trainer.train(
        model,
        AutoTokenizer.from_pretrained(job["tokenizer"]),
        singles(Example(**example) for example in job["examples"]),
        singles(Example(**example) for example in job["dev"]),
        (CrossEntropy(),),
        TrainSettings(**job["settings"]),
        folder,
        seed=job["seed"],
    )
    if ranks.main():
        model.save_pretrained(folder / "model")
        (folder / "resumed_from").write_text(str(trained.resumed_from))


def main():
    for one in json.loads(Path(sys.argv[1]).read_text()):
        do(one)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
