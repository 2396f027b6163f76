"""The stages in which a student is trained and examined."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import ModelError, RecipeError
from limbeck.evaluate import examine, student_prompt, write_exam
from limbeck.lm import Sampling
from limbeck.lm.chunks import Chunks
from limbeck.methods.stages import Way, problems
from limbeck.methods.teachers import LOG, model_inputs
from limbeck.recipe import StudentSettings
from limbeck.records import Example, write_jsonl
from limbeck.run import Stage
from limbeck.tasks.prompts import render

if TYPE_CHECKING:
    from limbeck.lm.load import Loaded


def check_students(way: Way) -> None:
    """Refuse, before a teacher is paid, what would fail when a student's turn comes.

    Raises:
        RecipeError, ModelError: naming the student and the setting.
    """
    for name, student in way.recipe.students.items():
        place, model = f"students.{name}", Path(student.model).expanduser()
        if student.train.choose != "last" and not problems(way).dev:
            raise RecipeError(
                f"{place}.train.choose: {student.train.choose} needs dev problems; raise task.dev"
            )
        if student.device == "cuda":
            check_cuda(place)
        if student.dtype == "bfloat16" and student.lora is None:
            raise RecipeError(
                f"{place}.dtype: updates of all weights get lost in bfloat16; "
                "set dtype float32 with train.precision bf16, or use lora"
            )
        if student.model.startswith("tiny-") and not model.exists():
            if not re.fullmatch(r"tiny-(causal|seq2seq)(-(xs|s|m|l))?", student.model):
                raise ModelError(
                    f"{place}.model: no tiny model {student.model!r}; add -xs, -s, -m or -l, or nothing"
                )
            continue
        looks_local = (
            model.is_absolute() or student.model.startswith((".", "~")) or student.model.count("/") > 1
        )
        if looks_local and not model.is_dir():
            raise ModelError(f"{place}.model: {student.model}: no such folder; check the path")
        files = ("config.json", "adapter_config.json")
        if model.is_dir() and not any((model / file).is_file() for file in files):
            raise ModelError(
                f"{place}.model: {student.model or '(empty)'} is a folder without config.json; name a model"
            )


def check_cuda(place: str) -> None:
    """Refuse a GPU that this machine does not have."""
    import torch

    if not torch.cuda.is_available():
        raise RecipeError(f"{place}.device: cuda is not there; write auto or cpu")


def fine_tune(
    way: Way,
    name: str,
    student: StudentSettings,
    seed: int,
    inputs: Mapping[str, str],
    examples: Sequence[Example],
    dev_examples: Sequence[Example],
) -> Stage:
    """Train one student on examples by cross-entropy; its folder gets `model/` and `history.jsonl`."""
    settings = student.model_dump(mode="json", exclude={"seeds", "device"}) | {"seed": seed}
    if student.train.choose == "dev-accuracy":
        settings["exam"] = {"max_tokens": way.recipe.exam.max_tokens}
    known = {**inputs, **model_inputs(student.model)}

    def work(folder: Path) -> None:
        write_jsonl(folder / "examples.jsonl", examples)
        if not (folder / "model").is_dir():  # else: killed after the model was whole
            _train(way, student, seed, examples, dev_examples, folder, label=f"{name} (seed {seed})")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    return way.run.stage(f"students/{name}/seed{seed}", settings, known, work)


def _train(
    way: Way,
    student: StudentSettings,
    seed: int,
    examples: Sequence[Example],
    dev_examples: Sequence[Example],
    folder: Path,
    *,
    label: str,
) -> None:
    """Load the student, train it on rendered examples, save it as an ordinary model folder."""
    from limbeck.lm.load import load, save
    from limbeck.training.parts import FineTune
    from limbeck.training.trainer import train

    texts = [text for example in examples for text in (example.prompt, example.completion)]
    loaded = load(
        student.model,
        seed=seed,
        tokenizer_texts=texts,
        lora=student.lora,
        dtype=student.dtype,
        device=student.device,
    )

    def rendered(some: Sequence[Example]) -> list[Example]:
        prompts = [render(loaded.tokenizer, student.format, example.prompt) for example in some]
        return [e.model_copy(update={"prompt": prompt}) for e, prompt in zip(some, prompts, strict=True)]

    by_accuracy = student.train.choose == "dev-accuracy"
    with way.track(f"training {label}", 0) as advance:
        trained = train(
            loaded.model,
            loaded.tokenizer,
            rendered(examples),
            rendered(dev_examples) if student.train.choose == "dev-loss" else [],
            FineTune(loaded.encoder_decoder),
            student.train,
            folder,
            seed=seed,
            dev_exam=partial(_dev_exam, way, loaded, student.format) if by_accuracy else None,
            progress=lambda step, steps, loss: advance(step, f"loss {loss:.3f}", steps),
        )
    for what, left, whole in (("", trained.too_long, examples), ("dev ", trained.dev_too_long, dev_examples)):
        if left:
            way.run.say(
                f"{label}: {len(left)} of {len(whole)} {what}examples are longer than "
                f"train.max_length = {student.train.max_length} tokens and were left out"
            )
    about = {
        "task": way.recipe.task.name,
        "kind": way.kind,
        "format": student.format,
        "dtype": student.dtype,
    }
    save(loaded, folder / "model", about=about)


def _dev_exam(way: Way, loaded: Loaded, form: str, model: object) -> dict[str, float]:
    """Greedy accuracy on the dev split of the model as it is now."""
    from limbeck.lm.local import LocalModel

    speaker = LocalModel(loaded, max_rows=way.recipe.exam.batch_size)
    sampling = Sampling(max_tokens=way.recipe.exam.max_tokens)
    _, summary = examine(
        speaker, problems(way).dev, way.kind, partial(student_prompt, loaded, form), sampling
    )
    return {"accuracy": summary["accuracy"]}


def examine_student(way: Way, name: str, student: StudentSettings, trained: Stage) -> None:
    """Examine a trained student on the test split, loaded from its saved folder as a user would load it."""
    exam, parts = way.recipe.exam, problems(way)
    voting = exam.votes > 1
    sampling = Sampling(
        exam.votes, exam.temperature if voting else 0.0, max_tokens=exam.max_tokens, seed=way.recipe.seed
    )

    def work(folder: Path) -> None:
        from limbeck.lm.load import load
        from limbeck.lm.local import LocalModel

        loaded = load(str(trained.folder / "model"), dtype=student.dtype, device=student.device)
        speaker = Chunks(LocalModel(loaded, max_rows=exam.batch_size), folder / LOG)
        ask = partial(student_prompt, loaded, student.format)
        predictions, summary = examine(speaker, parts.test, way.kind, ask, sampling, track=way.track)
        shown = (
            name if len(student.seeds) == 1 else f"{name} (seed {trained.folder.name.removeprefix('seed')})"
        )
        write_exam(folder, predictions, {**summary, "name": shown, "split": "test"})
        speaker.log.unlink(missing_ok=True)

    settings = {"exam": exam.model_dump(mode="json"), "seed": way.recipe.seed, "kind": way.kind}
    inputs = {"student": trained.fingerprint, "problems": parts.stage.fingerprint}
    way.run.stage(f"{trained.name}/exam", settings, inputs, work)
