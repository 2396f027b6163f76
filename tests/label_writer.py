"""One rank that writes soft labels: `label_writer.write`, run by `commands.Started`."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from limbeck import ranks
from limbeck.files import AppendLog
from limbeck.soft_labels import writing
from limbeck.soft_labels.settings import CodecSettings
from limbeck.training.rows import Row


def write() -> None:
    """Into a folder, with a mentor, for the rows in a file; killed in the line of the shard named last."""
    folder, mentor, rows, last = sys.argv[1:]
    torch.set_num_threads(1)  # sums are rounded the same in every process
    writing.SHARD_BATCHES = 2
    append = AppendLog.append

    def killing(log: AppendLog, line: bytes) -> int:
        if f'"shard":{last},'.encode() in line:  # its data is on the disk, its line is not
            with log.path.open("ab") as stream:
                stream.write(line[:20])
            os.kill(os.getpid(), signal.SIGKILL)
        return append(log, line)

    AppendLog.append = killing  # type: ignore[method-assign]
    with ranks.together():
        writing.write_cache(
            Path(folder),
            AutoModelForCausalLM.from_pretrained(mentor),
            [Row(*row) for row in json.loads(Path(rows).read_text())],
            0,
            CodecSettings(k=6),
            2.0,
            43,
            {"mentor": "a" * 64, "tokenizer": "b" * 64},
            batch_tokens=40,
        )
