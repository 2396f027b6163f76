"""The stages in which a learner, student or mentor, is trained and examined."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import ModelError, RecipeError
from limbeck.evaluate import examine, student_prompt, write_exam
from limbeck.lm import Sampling
from limbeck.lm.chunks import Chunks
from limbeck.recipe import LearnerSettings, StudentSettings
from limbeck.records import Example, write_jsonl
from limbeck.run import Stage
from limbeck.stages import rationales as stages
from limbeck.stages.rationales import Context, problems
from limbeck.stages.teacher import LOG, model_inputs
from limbeck.tasks.prompts import render

if TYPE_CHECKING:
    from limbeck.lm.load import Loaded
    from limbeck.training.parts import Objective


@dataclass(frozen=True, slots=True)
class Learner:
    """Who is trained: `stage` is its folder in the run, `name` what tables call it.

    `own` are the settings beyond those of every learner that decide what training makes of it.
    """

    stage: str
    name: str
    settings: LearnerSettings
    seed: int
    own: Mapping[str, Any]

    @property
    def plan(self) -> dict[str, Any]:
        """All settings that decide what training makes of it."""
        shared = set(LearnerSettings.model_fields) - {"device"}
        return self.settings.model_dump(mode="json", include=shared) | {"seed": self.seed} | dict(self.own)


def student_learner(name: str, student: StudentSettings, seed: int, settings: Mapping[str, Any]) -> Learner:
    """A student of the recipe with one of its seeds and its method's settings, defaults filled in."""
    shown = name if len(student.seeds) == 1 else f"{name} (seed {seed})"
    own = {"method": student.method, "settings": dict(settings)}
    return Learner(f"students/{name}/seed{seed}", shown, student, seed, own)


@dataclass(frozen=True, slots=True)
class Distillation:
    """What a student learns beyond the cross-entropy of its examples.

    Attributes:
        tokenizer: model folder whose tokenizer a student from scratch takes, so that it reads as its mentor.
        objective: makes the loss for the loaded student and its rendered examples; None: cross-entropy.
    """

    tokenizer: Path
    objective: Callable[[Loaded, Sequence[Example]], Objective] | None = None


def check_learners(context: Context) -> None:
    """Refuse, before a teacher is paid, what would fail when a student's or mentor's turn comes.

    Raises:
        RecipeError, ModelError: naming the learner and the setting.
    """
    recipe = context.recipe
    learners: dict[str, LearnerSettings] = {f"mentors.{name}": one for name, one in recipe.mentors.items()}
    learners |= {f"students.{name}": one for name, one in recipe.students.items()}
    for place, learner in learners.items():
        if learner.train.choose != "last" and not problems(context).dev:
            raise RecipeError(
                f"{place}.train.choose: {learner.train.choose} needs dev problems; raise task.dev"
            )
        if learner.device == "cuda":
            check_cuda(place)
        if learner.dtype == "bfloat16" and learner.lora is None:
            raise RecipeError(
                f"{place}.dtype: updates of all weights get lost in bfloat16; "
                "set dtype float32 with train.precision bf16, or use lora"
            )
        check_model(place, learner.model)
    files = [one.file for one in recipe.mentors.values()]
    files += [recipe.teacher.file] if recipe.teacher.kind == "given" else []
    for file in files:
        stages.check_file(context, file)


def check_model(place: str, name: str) -> None:
    """Refuse a model that cannot be there: no such tiny size, no such folder, a folder without a model."""
    model = Path(name).expanduser()
    if name.startswith("tiny-") and not model.exists():
        if not re.fullmatch(r"tiny-(causal|seq2seq)(-(xs|s|m|l))?", name):
            raise ModelError(f"{place}.model: no tiny model {name!r}; add -xs, -s, -m or -l, or nothing")
        return
    looks_local = model.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not model.is_dir():
        raise ModelError(f"{place}.model: {name}: no such folder; check the path")
    files = ("config.json", "adapter_config.json")
    if model.is_dir() and not any((model / file).is_file() for file in files):
        raise ModelError(f"{place}.model: {name or '(empty)'} is a folder without config.json; name a model")


def check_cuda(place: str) -> None:
    """Refuse a GPU that this machine does not have."""
    import torch

    if not torch.cuda.is_available():
        raise RecipeError(f"{place}.device: cuda is not there; write auto or cpu")


def fine_tune(
    context: Context,
    learner: Learner,
    inputs: Mapping[str, str],
    examples: Sequence[Example],
    dev_examples: Sequence[Example],
    distillation: Distillation | None = None,
) -> Stage:
    """Train one learner on examples; its folder gets `model/` and `history.jsonl`.

    Args:
        inputs: fingerprints of the stages that the examples come from.
        distillation: None: cross-entropy alone, and a model from scratch makes its own tokenizer.
    """
    settings = learner.plan
    if learner.settings.train.choose == "dev-accuracy":
        settings["exam"] = {"max_tokens": context.recipe.exam.max_tokens}
    known = {**inputs, **model_inputs(learner.settings.model)}

    def work(folder: Path) -> None:
        write_jsonl(folder / "examples.jsonl", examples)
        if not (folder / "model").is_dir():  # else: killed after the model was whole
            _train(context, learner, examples, dev_examples, folder, distillation)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    return context.run.stage(learner.stage, settings, known, work)


def _train(
    context: Context,
    learner: Learner,
    examples: Sequence[Example],
    dev_examples: Sequence[Example],
    folder: Path,
    distillation: Distillation | None,
) -> None:
    """Load the learner, train it on rendered examples, save it as an ordinary model folder."""
    from limbeck.lm.saving import save
    from limbeck.training.parts import FineTune
    from limbeck.training.trainer import train

    settings, label = learner.settings, f"{learner.stage.split('/')[1]} (seed {learner.seed})"
    loaded = _load(learner, examples, distillation)
    train_rows = rendered(loaded.tokenizer, settings.format, examples)
    dev_loss = settings.train.choose == "dev-loss"
    dev_rows = rendered(loaded.tokenizer, settings.format, dev_examples) if dev_loss else []
    make = distillation.objective if distillation else None
    objective = make(loaded, [*train_rows, *dev_rows]) if make else FineTune(loaded.encoder_decoder)
    by_accuracy = settings.train.choose == "dev-accuracy"
    with context.track(f"training {label}", 0) as advance:
        trained = train(
            loaded.model,
            loaded.tokenizer,
            train_rows,
            dev_rows,
            objective,
            settings.train,
            folder,
            seed=learner.seed,
            dev_exam=partial(_dev_exam, context, loaded, settings.format) if by_accuracy else None,
            progress=lambda step, steps, loss: advance(step, f"loss {loss:.3f}", steps),
        )
    for what, left, whole in (("", trained.too_long, examples), ("dev ", trained.dev_too_long, dev_examples)):
        if left:
            context.run.say(
                f"{label}: {len(left)} of {len(whole)} {what}examples are longer than "
                f"train.max_length = {settings.train.max_length} tokens and were left out"
            )
    about = {
        "task": context.recipe.task.name,
        "kind": context.kind,
        "format": settings.format,
        "dtype": settings.dtype,
    }
    save(loaded, folder / "model", about=about)


def _load(learner: Learner, examples: Sequence[Example], distillation: Distillation | None) -> Loaded:
    """The learner's model; from scratch, its tokenizer is made from the examples or is the mentor's."""
    from limbeck.lm.load import load

    settings = learner.settings
    return load(
        settings.model,
        seed=learner.seed,
        tokenizer_texts=[text for example in examples for text in (example.prompt, example.completion)],
        tokenizer_of=distillation.tokenizer if distillation else None,
        lora=settings.lora,
        dtype=settings.dtype,
        device=settings.device,
    )


def rendered(tokenizer: Any, form: str, examples: Sequence[Example]) -> list[Example]:
    """Examples with their prompts as the tokenizer's model reads them (a chat template applied)."""
    prompts = [render(tokenizer, form, example.prompt) for example in examples]
    return [e.model_copy(update={"prompt": prompt}) for e, prompt in zip(examples, prompts, strict=True)]


def _dev_exam(context: Context, loaded: Loaded, form: str, model: object) -> dict[str, float]:
    """Greedy accuracy on the dev split of the model as it is now."""
    from limbeck.lm.local import LocalModel

    model = LocalModel(loaded, max_rows=context.recipe.exam.batch_size)
    sampling = Sampling(max_tokens=context.recipe.exam.max_tokens)
    _, summary = examine(
        model, problems(context).dev, context.kind, partial(student_prompt, loaded, form), sampling
    )
    return {"accuracy": summary["accuracy"]}


def sit_exam(context: Context, learner: Learner, trained: Stage) -> None:
    """Examine a trained learner on the test split, loaded from its saved folder as a user would load it."""
    exam, parts, settings = context.recipe.exam, problems(context), learner.settings
    voting = exam.votes > 1
    sampling = Sampling(
        exam.votes, exam.temperature if voting else 0.0, max_tokens=exam.max_tokens, seed=context.recipe.seed
    )

    def work(folder: Path) -> None:
        from limbeck.lm.load import load
        from limbeck.lm.local import LocalModel

        loaded = load(str(trained.folder / "model"), dtype=settings.dtype, device=settings.device)
        model = Chunks(LocalModel(loaded, max_rows=exam.batch_size), folder / LOG)
        ask = partial(student_prompt, loaded, settings.format)
        predictions, summary = examine(model, parts.test, context.kind, ask, sampling, track=context.track)
        write_exam(folder, predictions, {**summary, "name": learner.name, "split": "test"})
        model.log.unlink(missing_ok=True)

    plan = {"exam": exam.model_dump(mode="json"), "seed": context.recipe.seed, "kind": context.kind}
    inputs = {"student": trained.fingerprint, "problems": parts.stage.fingerprint}
    context.run.stage(f"{trained.name}/exam", plan, inputs, work)
