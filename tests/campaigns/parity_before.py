"""The first steps of 0.1.0's trainings, written down by 0.1.0's own code: one half of `parity`.

    PYTHONPATH=RELEASED/src python -m tests.campaigns.parity_before OUT

`limbeck` is 0.1.0 here, so this file uses names that are gone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

STEPS = 50
RECIPES = ("demo", "mentor-kd-tiny")
KL_WEIGHT, TEMPERATURE = 0.3, 2.0
"""Mentor-KD's, in the recipe and as published."""


@dataclass(frozen=True)
class Job:
    """A model that 0.1.0 trained; its run's folder and settings say how."""

    run: Path
    role: str
    name: str
    settings: dict[str, Any]

    @property
    def folder(self) -> Path:
        """What its training wrote."""
        return self.run / self.role / self.name / ("seed0" if self.role == "students" else "")

    @property
    def mentor(self) -> Path | None:
        """The model whose soft labels it learns from."""
        return self.run / "mentors/mentor/model" if self.settings.get("method") == "mentor-kd" else None

    def examples(self) -> list[dict[str, str]]:
        """What it was trained on: problem_id, prompt and completion of each."""
        lines = (self.folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()
        names = ("problem_id", "prompt", "completion")
        return [{name: row[name] for name in names} for row in map(json.loads, filter(None, lines))]

    def load(self) -> Any:
        """The model as it was before its first step, made by the `limbeck` of this process."""
        from limbeck.lm.load import load

        texts = [row[name] for row in self.examples() for name in ("prompt", "completion")]
        model = self.settings["model"]
        return load(model, seed=0, tokenizer_texts=texts, tokenizer_of=self.mentor, device="cpu")


class Enough(Exception):
    """The steps that are compared are done."""


def jobs(out: Path) -> Iterator[Job]:
    """The models of both recipes, in the order in which they were trained."""
    for recipe in RECIPES:
        run = out / "runs" / recipe
        settings = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        for role in ("mentors", "students"):
            for name, one in (settings.get(role) or {}).items():
                yield Job(run, role, name, one)


def scored(model: torch.nn.Module, inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, V) in float32 and targets (N,) of the scored tokens."""
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
    targets = inputs["labels"][:, 1:]
    return logits[targets != -100].float(), targets[targets != -100]


def record(job: Job, *, nudged: bool = False) -> list[dict[str, Any]]:
    """Train; of every step its weights, batch, loss, gradient, and the losses of each token (N, 1 or 2).

    Args:
        nudged: one matrix begins with its last bit changed: how far rounding alone carries.
    """
    from limbeck.records import Example
    from limbeck.training import trainer as old
    from limbeck.training.parts import Distil, FineTune
    from limbeck.training.settings import TrainSettings

    loaded = job.load()
    if nudged:
        matrix = next(one for one in loaded.model.parameters() if one.ndim > 1)
        matrix.data = torch.nextafter(matrix.data, torch.tensor(torch.inf))
    live = _live(job)
    objective = Distil(False, live, KL_WEIGHT) if live else FineTune(False)
    steps: list[dict[str, Any]] = []

    class Recording(old.DistilTrainer):  # type: ignore[misc, name-defined]
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            state = {name: one.detach().clone() for name, one in model.state_dict().items()}
            steps.append({"state": state, "inputs": dict(inputs), "counts": num_items_in_batch})
            with torch.no_grad():
                steps[-1]["tokens"] = _tokens(model, inputs, live)
            loss = super().training_step(model, inputs, num_items_in_batch)
            steps[-1]["loss"] = loss.item()
            steps[-1]["gradient"] = {n: p.grad.clone() for n, p in model.named_parameters()}
            return loss

    def progress(step: int, steps: int, loss: float) -> None:
        if step >= STEPS:
            raise Enough

    old.DistilTrainer = Recording
    examples = [Example(**row) for row in job.examples()]
    folder = Path(tempfile.mkdtemp())
    train = TrainSettings(**job.settings["train"])
    try:
        old.train(
            loaded.model, loaded.tokenizer, examples, [], objective, train, folder, seed=0, progress=progress
        )
    except Enough:
        pass
    finally:
        old.DistilTrainer = Recording.__mro__[1]
    return steps


def _live(job: Job) -> Any:
    """The mentor's soft labels, or None for a model that learns without."""
    from limbeck.training.soft_labels import Live, vocabulary_of

    from limbeck.lm.load import load
    from limbeck.training.settings import CodecSettings

    if job.mentor is None:
        return None
    mentor = load(job.mentor, device="cpu")
    return Live(mentor.model, CodecSettings(), TEMPERATURE, vocabulary_of(mentor.tokenizer), 0)


def _tokens(model: torch.nn.Module, inputs: Any, live: Any) -> torch.Tensor:
    """0.1.0's own losses, called with one token at a time because they return sums."""
    from limbeck.objectives.distillation import distillation

    from limbeck.objectives.cross_entropy import cross_entropy

    logits, targets = scored(model, inputs)
    rows = [slice(n, n + 1) for n in range(len(targets))]
    if live is None:
        return torch.stack([cross_entropy(logits[row], targets[row]) for row in rows])[:, None]
    soft, how = live.of(inputs), {"temperature": TEMPERATURE, "kl_weight": KL_WEIGHT}
    pairs: Sequence[Any] = [
        distillation(logits[row], targets[row], soft.rows(row.start, row.stop), **how) for row in rows
    ]
    return torch.stack([torch.stack(pair) for pair in pairs])


def main(out: Path) -> None:
    """Write OUT/before/*.pt, whole or not at all; what is there stays."""
    torch.set_num_threads(1)
    (out / "before").mkdir(exist_ok=True)
    for job in jobs(out):
        for nudged in (False, True) if job.mentor else (False,):
            target = out / "before" / f"{job.run.name}-{job.name}{'-nudged' * nudged}.pt"
            if not target.exists():
                torch.save(record(job, nudged=nudged), target.with_suffix(".part"))
                target.with_suffix(".part").rename(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
