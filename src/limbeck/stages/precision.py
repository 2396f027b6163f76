"""`train.precision: auto`, settled once for each model: bfloat16 where it learns the same in less time.

A model takes `STEPS` small steps twice from the same weights, in float32 and under bfloat16 autocast, on
questions of the task; then some of full size are timed, on texts as long as rationales are. The finding is a
stage of its own: what it says is part of every training's plan, and a run that goes on elsewhere keeps it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck import ranks
from limbeck.recipe import LearnerSettings
from limbeck.records import Example, Problem, write_json
from limbeck.run_folder import Plan, fingerprint, plan, read_json
from limbeck.stages.context import Context, changed
from limbeck.stages.model_inputs import model_inputs
from limbeck.stages.problems import problems
from limbeck.training.groups import Group

if TYPE_CHECKING:
    import torch

    from limbeck.training.collate import Batch, Row

VERSION = 3
STEPS = 50
"""Steps whose losses are compared."""
WARMUP = 25
"""The first of them, in which the learning rate rises. Without that, Adam's first steps turn a rounding into
a step of the full learning rate, and a cut model in float32 differs from itself by more than `CLOSE`."""
ROWS = 2
"""Questions in one of them."""
TIMED = 4
"""Steps of the training's own size that are timed in each precision, in turns, after one that is not."""
FASTER = 0.9
"""Largest share of float32's time at which bfloat16 is worth it; the fastest step counts, which other work
on the machine disturbs least."""
CLOSE = 1e-2
"""Largest relative difference of the mean losses at which both learn the same. Single steps differ more."""
LONGEST = 600
"""Characters of a question that are used."""
AS_RATIONALES = 500
"""Characters of the texts that are timed, about those of a question with a rationale: in float32 and in
bfloat16 the work that each text adds differs most, and a question alone is too short to show it."""
PRECISIONS = ("fp32", "bf16")
DECIDES = ("learning_rate", "optimizer", "batch_size", "batch_tokens", "max_length", "gradient_checkpointing")
"""Settings of a training that its trial follows."""
FILE = "precision.json"


def settled(context: Context, untrained: Collection[str] = (), *, known: bool = False) -> Context:
    """The run with fp32 or bf16 in place of every `precision: auto`.

    Args:
        untrained: places in the recipe of learners that are not trained.
        known: only where that was found before; nothing is loaded.
    """
    undecided = {p: one for p, one in context.recipe.learners.items() if one.train.precision == "auto"}
    for place, learner in sorted(undecided.items()):
        if place in untrained:
            continue
        name, how, inputs = _stage_of(learner)
        if known and not context.run.is_done(name, how, inputs):
            continue
        stage = context.run.stage(name, how, inputs, partial(_try, context, place))
        found = ranks.share(read_json(stage.folder / FILE) if ranks.main() else None) or {}
        context.run.say(f"{place}.train.precision: {found['precision']}; {_why(found, learner)}")
        context = changed(context, place, _with(learner, found["precision"]))
    return context


def _with(learner: LearnerSettings, precision: str) -> LearnerSettings:
    return learner.model_copy(update={"train": learner.train.model_copy(update={"precision": precision})})


def _stage_of(learner: LearnerSettings) -> tuple[str, Plan, dict[str, str]]:
    """Name, plan and inputs: one stage for all that train the same weights in steps of the same size."""
    about = {name: getattr(learner, name) for name in ("model", "layers", "lora", "dtype")}
    how = plan(about, version=VERSION, **{name: getattr(learner.train, name) for name in DECIDES})
    return f"precision/{fingerprint(how.json())[:8]}", how, model_inputs(learner.model)


def _why(found: Mapping[str, Any], learner: LearnerSettings) -> str:
    """What was measured, and on which other machine."""
    here = _machine(learner)
    elsewhere = (
        ""
        if here == found["machine"]
        else (f" (found on {found['machine']}, kept on {here}; --again precision finds it again)")
    )
    if "difference" not in found:
        return f"{found['machine']} does not compute in bfloat16{elsewhere}"
    share = found["seconds"]["bf16"] / found["seconds"]["fp32"]
    return (
        f"in bfloat16 the loss of {STEPS} steps differs by {found['difference']:.1e}, and a step takes "
        f"{share:.2f} of the time of float32{elsewhere}"
    )


def _machine(learner: LearnerSettings) -> str:
    """The processor or GPU that trains."""
    import torch

    from limbeck.lm.load import device_of

    device = device_of(learner.device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(_abilities().get("cpu_name") or "this CPU") if device.type == "cpu" else "mps"


def _abilities() -> dict[str, Any]:
    """What torch says of the processor; nothing where it is too old to know."""
    import torch

    asked = getattr(torch.cpu, "get_capabilities", dict)
    return dict(asked())


def _computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and any(there and "bf16" in name for name, there in _abilities().items())


def _try(context: Context, place: str, folder: Path) -> None:
    """Write the finding: `precision`, `machine`; where both were tried, `difference`, `seconds` a step."""
    context.run.say(f"{place}.train.precision: auto; a short training in fp32 and one in bf16 decide")
    write_json(folder / FILE, _tried(context.recipe.learners[place], problems(context).train))


def _tried(learner: LearnerSettings, asked: list[Problem]) -> dict[str, Any]:
    from limbeck.lm.load import device_of

    found: dict[str, Any] = {"precision": "fp32", "machine": _machine(learner)}
    if not _computes_bf16(device_of(learner.device)):
        return found
    losses, seconds = _both(learner, asked)
    difference = abs(losses["bf16"] / losses["fp32"] - 1)
    if difference <= CLOSE and seconds["bf16"] <= FASTER * seconds["fp32"]:  # false for a loss of nan
        found["precision"] = "bf16"
    return found | {"difference": difference, "seconds": seconds}


def _both(learner: LearnerSettings, asked: list[Problem]) -> tuple[dict[str, float], dict[str, float]]:
    """Per precision the mean loss of the small steps, and the seconds of the fastest full one.

    It needs no more memory than the training: a full step keeps to its `batch_tokens`, and is one row where
    the training recomputes activations, which this does not.
    """
    import torch
    from accelerate.utils import send_to_device

    from limbeck.lm.load import load
    from limbeck.training.collate import collate, tokenise

    groups = [_group(problem) for problem in asked[: STEPS * ROWS]]
    loaded = load(
        learner.model,
        tokenizer_texts=["Question:", *(problem.question for problem in asked[: STEPS * ROWS])],
        lora=learner.lora,
        layers=learner.layers,
        dtype=learner.dtype,
        device=learner.device,
    )
    model, both = loaded.model.eval(), loaded.encoder_decoder  # dropout would not be the same in both
    form: Any = {"encoder_decoder": both, "max_length": learner.train.max_length}
    short = tokenise(loaded.tokenizer, groups, **form).rows
    full = tokenise(loaded.tokenizer, _long(asked[: STEPS * ROWS]), **form).rows or short
    longest = max(len(row.input_ids) + both * len(row.labels) for row in [*short, *full])
    size = min(learner.train.batch_size, max(1, learner.train.batch_tokens // longest))
    size = 1 if learner.train.gradient_checkpointing else size

    def batches(rows: Sequence[Row], count: int, size: int) -> list[Batch]:
        taken = [[rows[(step * size + n) % len(rows)] for n in range(size)] for step in range(count)]
        return [send_to_device(collate(one, loaded.tokenizer.pad_token_id), model.device) for one in taken]

    trained = [one for one in model.parameters() if one.requires_grad]
    begin = [one.detach().cpu().clone() for one in trained]
    kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[learner.train.optimizer]
    optimizer = kind(trained, lr=learner.train.learning_rate)  # one for all: it may be as large as the model
    steps = {
        precision: _step_of(model, optimizer, precision, encoder_decoder=both) for precision in PRECISIONS
    }
    losses: dict[str, float] = {}
    for precision, step in steps.items():
        with torch.no_grad():
            for one, value in zip(trained, begin, strict=True):
                one.copy_(value)
        optimizer.state.clear()
        some = batches(short, STEPS, min(ROWS, size))
        losses[precision] = statistics.mean(_losses(step, optimizer, some, learner.train.learning_rate))
    times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for batch in batches(full, 1 + TIMED, size):
        for precision, step in steps.items():
            times[precision].append(step(batch)[1])
    return losses, {precision: min(some[1:]) for precision, some in times.items()}


def _losses(
    step: Callable[[Batch], tuple[float, float]],
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    rate: float,
) -> list[float]:
    """The loss of a step on each batch; over the first `WARMUP` of them the learning rate rises to `rate`."""
    found = []
    for number, batch in enumerate(batches, start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, number / WARMUP)
        found.append(step(batch)[0])
    return found


def _group(problem: Problem) -> Group:
    """A question's last three quarters as something to write: every task has questions."""
    text = f"Question: {problem.question[:LONGEST]}"  # so that the shortest one has a beginning
    begun = max(len("Question:"), len(text) // 4)
    return Group(problem.id, (Example(problem_id=problem.id, prompt=text[:begun], completion=text[begun:]),))


def _long(asked: Sequence[Problem]) -> list[Group]:
    """Texts of `AS_RATIONALES` characters: each question with those after it."""
    found = []
    for number, problem in enumerate(asked):
        text = "Question:"
        for other in range(len(asked)):
            text += f" {asked[(number + other) % len(asked)].question}"
            if len(text) >= AS_RATIONALES:
                break
        example = Example(problem_id=problem.id, prompt="Question:", completion=text[9:AS_RATIONALES])
        found.append(Group(problem.id, (example,)))
    return found


def _step_of(
    model: Any, optimizer: torch.optim.Optimizer, precision: str, *, encoder_decoder: bool
) -> Callable[[Batch], tuple[float, float]]:
    """An optimiser step in this precision; it gives its loss and its seconds."""
    import torch

    from limbeck.training.lowered import Lowered, width_of
    from limbeck.training.parts import CrossEntropy, loss

    lowered = Lowered(model) if precision == "bf16" and model.device.type == "cpu" else None
    part = CrossEntropy()
    trained = [one for group in optimizer.param_groups for one in group["params"]]

    def step(batch: Batch) -> tuple[float, float]:
        start = time.perf_counter()
        counts = {part.name: part.count(batch, encoder_decoder=encoder_decoder)}
        with ExitStack() as stack:
            if lowered:
                stack.enter_context(lowered.step(width_of(batch)))
            with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16"):
                total, _ = loss((part,), model, batch, counts)
            total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total.item(), time.perf_counter() - start

    return step
