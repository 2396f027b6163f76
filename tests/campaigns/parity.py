"""Today's code against 0.1.0: the same losses on every token, and in the end the same accuracy?

    python -m tests.campaigns.parity /tmp/parity --whole

0.1.0 comes from the history of this repository. It runs both recipes of its demo and writes down the
first 50 steps of each of its six trainings: weights, batch, loss, gradient, and its own loss of every
token. Today's code, with the batches of 0.1.0, then does the same twice: at the weights of each of those
steps, and on a training of its own. `--whole` trains to the end and compares the exams. What 0.1.0 did stays
in the folder, so a second call is shorter.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tests.campaigns.parity_before import KL_WEIGHT, RECIPES, STEPS, TEMPERATURE, Enough, Job, jobs, scored

RELEASED = "67ac280"
"""The commit of 0.1.0."""
ROOT = Path(__file__).parents[2]
SAME_PROBLEMS = {"demo": ("task.train=4000", "task.parameters.largest=99"), "mentor-kd-tiny": ()}
"""What gives today's recipes the test problems of 0.1.0's."""


def prepare(out: Path) -> None:
    """0.1.0's source, its two runs, and the first steps of its trainings, all made by 0.1.0."""
    source = out / "released"
    if not source.exists():
        packed = subprocess.run(
            ["git", "archive", RELEASED, "src", "recipes"], cwd=ROOT, capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
            files.extractall(source, filter="data")
    about: dict[str, Any] = {
        "env": {**os.environ, "PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"},
        "check": True,
    }
    for recipe in RECIPES:
        run = ["run", source / "recipes" / f"{recipe}.yaml", "--out", out / "runs" / recipe]
        subprocess.run([sys.executable, "-m", "limbeck", *run], **about)
    subprocess.run([sys.executable, "-m", "tests.campaigns.parity_before", out], cwd=ROOT, **about)


def objective(job: Job, store: Path | None = None) -> Any:
    """The loss of a job, in today's parts; soft labels come from the mentor itself, or from `store`."""
    from limbeck.lm.load import load
    from limbeck.soft_labels.live import Live
    from limbeck.soft_labels.settings import CodecSettings
    from limbeck.soft_labels.tokenizers import vocabulary_of
    from limbeck.training.parts import CrossEntropy, SoftLabelKL

    if job.mentor is None:
        return (CrossEntropy(),)
    mentor = load(job.mentor, device="cpu")
    soft: Any = Live(mentor.model, CodecSettings(), TEMPERATURE, vocabulary_of(mentor.tokenizer))
    if store is not None:
        soft = _stored(job, mentor, store)
    return (CrossEntropy(1 - KL_WEIGHT), SoftLabelKL(soft, KL_WEIGHT))


def _stored(job: Job, mentor: Any, store: Path) -> Any:
    """Soft labels as 0.1.0's run had them: written once, in few bits."""
    from limbeck.soft_labels.cache import Cached
    from limbeck.soft_labels.settings import CodecSettings
    from limbeck.soft_labels.tokenizers import vocabulary_of
    from limbeck.soft_labels.writing import write_cache
    from limbeck.training.collate import padding, tokenise

    given: Any = {"encoder_decoder": False, "max_length": job.settings["train"]["max_length"]}
    found = tokenise(mentor.tokenizer, _groups(job), prompt_weight=0.0, **given)
    about: dict[str, Any] = {
        "identity": {"mentor": str(job.mentor)},
        "codec": CodecSettings(),
        "temperature": TEMPERATURE,
        "vocabulary": vocabulary_of(mentor.tokenizer),
    }
    rows = [row for group in found.groups for row in group.rows]
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir(parents=True)
    write_cache(store, mentor.model, rows, pad=padding(mentor.tokenizer), batch_tokens=8192, **about)
    return Cached.open([store], about)


def _groups(job: Job) -> Any:
    from limbeck.records import Example
    from limbeck.training.groups import singles

    return singles([Example(**row) for row in job.examples()])


def token_losses(model: torch.nn.Module, inputs: Any, parts: Any) -> torch.Tensor:
    """Today's losses of every scored token (N, P)."""
    from limbeck.objectives.align import Scored, align_batch

    with torch.no_grad():
        logits, targets = scored(model, inputs)
        found: Scored = align_batch(inputs, encoder_decoder=False)
        assert torch.equal(found.targets_N, targets)
        every, ones = slice(0, len(targets)), torch.ones(len(targets), 1)
        values = [
            part.of_tokens(inputs, found)(logits.clone(), every, ones, gradient=False) for part in parts
        ]
    return torch.cat(values, 1)


def at_equal_weights(job: Job, before: list[dict[str, Any]]) -> str:
    """Both codes at the weights and batches of 0.1.0's first steps."""
    from limbeck.training.parts import loss

    model, parts = job.load().model, objective(job)
    apart = {"token": 0.0, "step": 0.0, "gradient": 0.0}
    tokens = 0
    for step in before:
        model.load_state_dict(step["state"])
        model.train()
        model.zero_grad()
        losses = token_losses(model, step["inputs"], parts)
        tokens += len(losses)
        total, _ = loss(parts, model, step["inputs"], step["counts"])
        total.backward()
        mine = torch.cat([one.grad.flatten() for one in model.parameters()])
        theirs = torch.cat([step["gradient"][name].flatten() for name, _ in model.named_parameters()])
        _widen(apart, "token", losses - step["tokens"])
        _widen(apart, "step", total.detach() - step["loss"])
        _widen(apart, "gradient", (mine - theirs).norm() / theirs.norm())
    return f"{tokens} tokens, " + ", ".join(f"{name} {value:.2g}" for name, value in apart.items())


def own_training(
    job: Job, until: int | None, store: Path | None = None
) -> tuple[list[torch.Tensor], torch.nn.Module]:
    """The losses of every token in the first steps of today's training, and the model where it ended."""
    from limbeck.training import trainer as today
    from limbeck.training.settings import TrainSettings

    loaded, parts, found = job.load(), objective(job, store), []
    plain = today.PartsTrainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        if len(found) < STEPS:
            found.append(token_losses(model, inputs, parts))
        return plain(self, model, inputs, num_items_in_batch)

    def progress(step: int, steps: int, loss: float) -> None:
        if step == until:
            raise Enough

    settings = TrainSettings(**{"batches": "by-length", **job.settings["train"]})
    today.PartsTrainer.training_step = training_step
    try:
        with suppress(Enough), tempfile.TemporaryDirectory() as folder:
            today.train(
                loaded.model,
                loaded.tokenizer,
                _groups(job),
                [],
                parts,
                settings,
                Path(folder),
                seed=0,
                progress=progress,
                corrected=False,
            )
    finally:
        today.PartsTrainer.training_step = plain
    return found, loaded.model


def exams(job: Job, model: torch.nn.Module, out: Path) -> str:
    """Whether today's exam of today's weights marks the problems as 0.1.0 did its own."""
    import limbeck
    from limbeck.records import Prediction, read_jsonl
    from limbeck.statistics import mcnemar_p

    folder = out / "after" / f"{job.run.name}-{job.name}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(job.folder / "model", folder / "model")
    model.save_pretrained(folder / "model")
    recipe, same = ROOT / "recipes" / f"{job.run.name}.yaml", SAME_PROBLEMS[job.run.name]
    after = limbeck.evaluate(folder / "model", recipe, same, out=folder / "exam").predictions
    before = list(read_jsonl(job.folder / "exam/predictions.jsonl", Prediction))
    assert [one.question for one in before] == [one.question for one in after]
    pairs = [(a.correct, b.correct) for a, b in zip(before, after, strict=True)]
    lost, won = pairs.count((True, False)), pairs.count((False, True))
    changed = sum(a.completion != b.completion for a, b in zip(before, after, strict=True))
    accuracies = " to ".join(f"{100 * sum(side) / len(pairs):.1f} %" for side in zip(*pairs, strict=True))
    weights = "equal" if _equal_weights(job, model) else "not equal"
    return (
        f"weights {weights}, {accuracies}, right only before {lost}, only now {won}, "
        f"p {mcnemar_p(lost, won):.2g}, {changed} texts differ"
    )


def _equal_weights(job: Job, model: torch.nn.Module) -> bool:
    from limbeck.lm.load import load

    released = load(job.folder / "model", device="cpu").model.state_dict()
    return all(torch.equal(released[name], one) for name, one in model.state_dict().items())


def _widen(apart: dict[str, float], name: str, difference: torch.Tensor) -> None:
    apart[name] = max(apart[name], difference.abs().max().item())


def drift(before: list[dict[str, Any]], after: list[torch.Tensor]) -> str:
    """How far the tokens of two trainings are apart at most."""
    pairs = [(one["tokens"], other) for one, other in zip(before, after, strict=True)]
    if all(torch.equal(one, other) for one, other in pairs):
        return "bit-equal"
    return f"{max((one - other).abs().max().item() for one, other in pairs):.2g}"


def main(out: Path, *, whole: bool, say: Callable[[str], None] = print) -> None:
    """Print a table, one model after the other."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    prepare(out)
    for job in jobs(out):
        stem = f"{job.run.name}-{job.name}"
        before = torch.load(out / "before" / f"{stem}.pt")
        say(f"{stem}: {len(before)} steps")
        say(f"  at equal weights, at most apart: {at_equal_weights(job, before)}")
        after, _ = own_training(job, STEPS)
        say(f"  on its own training, a token at most apart: {drift(before, after)}")
        if job.mentor:
            nudged = torch.load(out / "before" / f"{stem}-nudged.pt")
            floor = drift(before, [step["tokens"] for step in nudged])
            say(f"  0.1.0 from itself, one matrix changed in the last bit: {floor}")
        if whole:
            _, model = own_training(job, None, out / "after" / f"{stem}-soft-labels")
            say(f"  exam: {exams(job, model, out)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="a folder; what is done in it stays done")
    parser.add_argument("--whole", action="store_true", help="train to the end and compare the exams")
    given = parser.parse_args()
    main(given.out.resolve(), whole=given.whole)
