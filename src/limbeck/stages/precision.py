"""`train.precision: auto`, settled once for each model: bfloat16 where it learns the same in less time.

The finding is a stage of its own: what it says is part of every training's plan, and a run that goes on
elsewhere keeps it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck import ranks
from limbeck.recipe import LearnerSettings
from limbeck.records import Problem, write_json
from limbeck.run_folder import Plan, fingerprint, plan, read_json
from limbeck.stages.context import Context, changed
from limbeck.stages.model_inputs import model_inputs
from limbeck.stages.problems import problems

if TYPE_CHECKING:
    import torch

VERSION = 4
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
    if "seconds" not in found:
        why = "does not compute in bfloat16" if _abilities() else "may not; this torch is too old to tell"
        return f"{found['machine']} {why}{elsewhere}"
    share = found["seconds"]["bf16"] / found["seconds"]["fp32"]
    said = f"in bfloat16 a step takes {share:.2f} of the time of float32"
    if "difference" in found:
        said += f", and the loss of a short training differs by {found['difference']:.1e}"
    if "disturbed" in found:
        said += f" (in float32 from slightly other weights, by {max(found['disturbed']):.1e})"
    return said + elsewhere


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
    context.run.say(f"{place}.train.precision: auto; short trainings in fp32 and in bf16 decide")
    write_json(folder / FILE, _tried(context.recipe.learners[place], problems(context).train))


def _tried(learner: LearnerSettings, asked: Sequence[Problem]) -> dict[str, Any]:
    from limbeck.lm.load import device_of
    from limbeck.stages.precision_trial import tried

    machine = {"machine": _machine(learner)}
    if not _computes_bf16(device_of(learner.device)):
        return machine | {"precision": "fp32"}
    return machine | tried(learner, asked)
