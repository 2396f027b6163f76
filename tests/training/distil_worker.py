"""Another process: trains students on a mentor's soft labels, as a JSON file lists."""

import json
import os
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from limbeck.records import Example
from limbeck.soft_labels.cache import Cached
from limbeck.soft_labels.live import Live
from limbeck.soft_labels.settings import CodecSettings
from limbeck.training.groups import singles
from limbeck.training.parts import CrossEntropy, SoftLabelKL
from limbeck.training.settings import TrainSettings
from limbeck.training.trainer import train


def do(job):
    folder = Path(job["folder"])
    load = AutoModelForSeq2SeqLM if job["both"] else AutoModelForCausalLM
    model = load.from_pretrained(folder / "student")
    if job["cached"]:
        soft = Cached.open([folder / "soft"], {})
    else:
        soft = Live(load.from_pretrained(folder / "mentor"), CodecSettings(k=6), 2.0, 43)
    train(
        model,
        AutoTokenizer.from_pretrained(folder / "student"),
        singles(Example(**example) for example in job["examples"]),
        [],
        (CrossEntropy(0.5), SoftLabelKL(soft, 0.5)),
        TrainSettings(**job["settings"]),
        folder / "two",
        seed=3,
    )
    if os.environ["RANK"] == "0":
        model.save_pretrained(folder / "trained")


def main():
    for job in json.loads(Path(sys.argv[1]).read_text()):
        do(job)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
