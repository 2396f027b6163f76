"""What a contestant cost to make, in floating-point operations: its own training and all it stands on.

A training costs 4 operations per weight and token (forward, and back to the activations) and 2 more per
trained weight; an answer written or a soft label 2 per weight and token (Kaplan et al., arXiv 2001.08361:
without the products inside attention). Tokens are those read in training, prompts too; of an answer those
written. The teacher costs nothing here, because nobody knows what an endpoint does. Exams do not count.

What it stands on is read from the run's stages: each names the stages that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.records import read_jsonl
from limbeck.run_folder import read_json
from limbeck.stages.writing import RawCompletion
from limbeck.training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Made:
    """A finished stage of a run."""

    folder: Path
    inputs: tuple[str, ...]


def stages_of(run: Path) -> dict[str, Made]:
    """The finished stages of a run by fingerprint."""
    found = {}
    for path in sorted(run.rglob("stage.json")):
        about = read_json(path) or {}
        if path.relative_to(run).parts[0] != "old" and "fingerprint" in about:
            found[about["fingerprint"]] = Made(path.parent, tuple(about.get("inputs", {}).values()))
    return found


def operations(trained: Path, stages: Mapping[str, Made], mentor: Path | None) -> float | None:
    """Floating-point operations behind a trained model.

    Args:
        trained: its stage.
        stages: of its run.
        mentor: the stage of the mentor that gave it soft labels; None: it had none.

    Returns:
        None where a training did not write down what it read.
    """
    own = _facts(trained)
    if own is None:
        return None
    costs = [_training(own), *(_cost(one, stages) for one in _behind(trained, stages))]
    if mentor:  # one pass over its examples, or one in every epoch; they are no input of a student's stage
        repeated = 1.0 if _live(trained) else max(_epochs(trained), 1.0)
        costs.append(_labels(_facts(mentor), own["tokens"] / repeated))
    known: list[float] = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _labels(mentor: Mapping[str, Any] | None, tokens: float) -> float | None:
    return None if mentor is None else 2.0 * float(mentor["parameters"]) * tokens


def _behind(trained: Path, stages: Mapping[str, Made]) -> Iterable[Made]:
    """Every stage that a model stands on, once."""
    first = next((one for one in stages.values() if one.folder == trained), None)
    waiting, seen = list(first.inputs) if first else [], set[str]()
    while waiting:
        key = waiting.pop()
        if key in stages and key not in seen:
            seen.add(key)
            waiting += stages[key].inputs
            yield stages[key]


def _cost(stage: Made, stages: Mapping[str, Made]) -> float | None:
    """Of one stage; 0 for problems, grading and a teacher's answers."""
    if (stage.folder / "training.json").is_file():
        facts = _facts(stage.folder)
        return None if facts is None else _training(facts)
    if not (stage.folder / "completions.jsonl").is_file():
        return 0.0
    writers = [_facts(stages[key].folder) for key in stage.inputs if key in stages]
    sizes: list[int] = [facts["parameters"] for facts in writers if facts is not None]
    if not sizes:
        return 0.0
    written = sum(one.tokens or 0 for one in read_jsonl(stage.folder / "completions.jsonl", RawCompletion))
    return 2.0 * max(sizes) * written


def _training(facts: Mapping[str, Any]) -> float:
    weights: int = 4 * facts["parameters"] + 2 * facts["trained_parameters"]
    tokens: int = facts["tokens"]
    return float(weights * tokens)


def _facts(folder: Path) -> dict[str, Any] | None:
    """What a training wrote down, if it wrote all of it."""
    facts = read_json(folder / "training.json") or {}
    return facts if facts.keys() >= {"tokens", "parameters", "trained_parameters"} else None


def _settings(trained: Path) -> dict[str, Any]:
    """A learner's settings, as its plan has them: without those at their default."""
    plan = (read_json(trained / "stage.json") or {}).get("plan", {})
    found: dict[str, Any] = plan.get("settings", {})
    return found


def _epochs(trained: Path) -> float:
    """How often a training saw its examples."""
    if "epochs" in (facts := read_json(trained / "training.json") or {}):
        return float(facts["epochs"])
    default = TrainSettings.model_fields["epochs"].default
    return float(_settings(trained).get("train", {}).get("epochs", default))


def _live(trained: Path) -> bool:
    """Whether the mentor was asked at every step."""
    return bool(_settings(trained).get("settings", {}).get("soft_labels") == "live")
